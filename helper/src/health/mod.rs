//! Is a release healthy? Asked before it gets any traffic (P8).

mod command;
mod grpc;
mod http;
pub mod preview;
mod tcp;
pub mod warm_up;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use shunt_api::{Address, ReleaseName};
use tokio::time::Instant;

use crate::clock::Span;
use crate::config::{self, Check, Health};
use crate::plain::plain;
use crate::user::User;

/// Why a release is not healthy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HealthError {
    /// It was not in time.
    #[error("not healthy within {}; last check: {last}", Span(*deadline))]
    Deadline {
        /// The time that it had.
        deadline: Duration,
        /// What the last check said.
        last: String,
    },
    /// Its process ended.
    #[error("its process ended with {how}; last check: {last}")]
    Ended {
        /// How.
        how: String,
        /// What the last check said.
        last: String,
    },
}

impl HealthError {
    /// What went wrong, without a word of the application's own.
    #[must_use]
    pub fn brief(&self) -> String {
        match self {
            Self::Deadline { deadline, .. } => format!("not healthy within {}", Span(*deadline)),
            Self::Ended { how, .. } => format!("its process ended with {how}"),
        }
    }

    /// What the last check said, which may hold words of the application.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::Deadline { last, .. } | Self::Ended { last, .. } => {
                format!("last check: {last}").lines().map(plain).collect()
            }
        }
    }
}

/// A release that is to be checked.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// Of which application.
    pub app: &'a ReleaseName,
    /// The application's folder.
    pub root: &'a Path,
    /// Where it listens.
    pub slot: &'a Address,
    /// Its name.
    pub release: &'a ReleaseName,
    /// Its folder.
    pub folder: &'a Path,
    /// The user that it runs as, if it is not the daemon's.
    pub user: Option<&'a User>,
    /// The environment that it runs with, beyond the daemon's own.
    pub env: &'a BTreeMap<String, String>,
}

/// Asks until enough answers in a row are good. `ended` tells when, and how, the release's process has
/// ended or was started again; where nobody watches a process it is [`std::future::pending`].
///
/// # Errors
///
/// [`HealthError`]; at once when the process ends.
pub async fn wait(
    config: &Health,
    target: Target<'_>,
    ended: impl Future<Output = String>,
) -> Result<(), HealthError> {
    let limit = config.pace.timeout;
    let check = || async move {
        match &config.check {
            Check::Http(http) => http::check(http, target.slot, target.release, limit).await,
            Check::Tcp => tcp::check(target.slot, limit).await,
            Check::Grpc { service } => grpc::check(target.slot, service, limit).await,
            Check::Command(command) => command::check(command, target, limit).await,
        }
    };
    until_good(&config.pace, check, ended).await
}

/// Checks again and again; the error of a check is what was wrong.
async fn until_good<F: Future<Output = Result<(), String>>>(
    pace: &config::Pace,
    check: impl Fn() -> F,
    ended: impl Future<Output = String>,
) -> Result<(), HealthError> {
    let end = Instant::now() + pace.deadline;
    let mut passes = 0;
    let mut last = "none was answered".to_owned();
    tokio::pin!(ended);
    loop {
        let checked = tokio::select! {
            biased;
            how = &mut ended => return Err(HealthError::Ended { how, last }),
            checked = tokio::time::timeout_at(end, check()) => checked,
        };
        match checked {
            Ok(Ok(())) => {
                passes += 1;
                if passes >= pace.passes {
                    return Ok(());
                }
            }
            Ok(Err(why)) => {
                passes = 0;
                last = why;
            }
            Err(_) => {}
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(HealthError::Deadline { deadline: pace.deadline, last });
        }
        tokio::select! {
            biased;
            how = &mut ended => return Err(HealthError::Ended { how, last }),
            () = tokio::time::sleep(pace.interval.min(left)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::http::StatusCode;
    use axum::routing::get;
    use std::future::{pending, ready};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    pub(super) async fn serve(router: Router) -> Address {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Address::Ip(address)
    }

    pub(super) fn v1() -> ReleaseName {
        ReleaseName::new("v1").unwrap()
    }

    fn config(deadline: &str, more: &str) -> Health {
        let text = format!("interval = \"1ms\"\ndeadline = {deadline:?}\n{more}");
        toml::from_str(&text).unwrap()
    }

    async fn ask(
        config: &Health,
        slot: &Address,
        ended: impl Future<Output = String>,
    ) -> Result<(), HealthError> {
        let (folder, env) = (Path::new("/"), &BTreeMap::new());
        wait(
            config,
            Target { app: &v1(), root: folder, slot, release: &v1(), folder, user: None, env },
            ended,
        )
        .await
    }

    #[tokio::test]
    async fn passes_must_come_in_a_row() {
        let asked = Arc::new(AtomicU32::new(0));
        let count = asked.clone();
        // Good, bad, good, good.
        let answer = move || async move {
            match count.fetch_add(1, Ordering::SeqCst) {
                1 => StatusCode::SERVICE_UNAVAILABLE,
                _ => StatusCode::OK,
            }
        };
        let slot = serve(Router::new().route("/health", get(answer))).await;
        ask(&config("20s", "path = \"/health\""), &slot, pending()).await.unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), 4);
    }

    #[tokio::test]
    async fn p8_what_never_becomes_healthy_is_refused_with_its_last_answer() {
        let bad = || async {
            (StatusCode::INTERNAL_SERVER_ERROR, "no \x1b[31mdatabase\x1b[0m\nat all\n")
        };
        let slot = serve(Router::new().route("/", get(bad))).await;
        let config = config("1h", "");
        let Check::Http(http) = &config.check else { panic!("{config:?}") };
        let asked = AtomicU32::new(0);
        let check = || async {
            if asked.fetch_add(1, Ordering::SeqCst) == 0 {
                return http::check(http, &slot, &v1(), Duration::from_secs(20)).await;
            }
            // The second one is still asking when the time is over.
            tokio::time::pause();
            tokio::time::advance(config.pace.deadline).await;
            pending().await
        };
        let error = until_good(&config.pace, check, pending()).await.unwrap_err();
        assert_eq!(error.brief(), "not healthy within 1h");
        let last = "last check: GET / answered 500 Internal Server Error: no database";
        assert_eq!(error.lines(), [last, "at all"]);
    }

    #[tokio::test]
    async fn every_kind_of_check_is_made() {
        let tmp = tempfile::tempdir().unwrap();
        let nowhere = Address::Unix(tmp.path().join("none.sock"));
        for (check, said) in [
            ("path = \"/\"", "cannot connect to unix:"),
            ("tcp = true", "cannot connect to unix:"),
            ("grpc = \"\"", "cannot connect to unix:"),
            ("command = [\"false\"]", "\"false\": it ended with exit status 1"),
        ] {
            let error = ask(&config("1s", check), &nowhere, pending()).await.unwrap_err();
            assert!(error.lines()[0].contains(said), "{check}: {error}");
        }
        ask(&config("20s", "command = [\"true\"]"), &nowhere, pending()).await.unwrap();
    }

    #[tokio::test]
    async fn a_process_that_has_ended_is_not_asked_any_more() {
        let slot = serve(Router::new()).await;
        let ended = ready("exit status 1".to_owned());
        let error = ask(&config("60s", "tcp = true"), &slot, ended).await.unwrap_err();
        assert!(matches!(error, HealthError::Ended { .. }), "{error}");
        assert_eq!(error.brief(), "its process ended with exit status 1");
    }

    #[tokio::test]
    async fn a_process_that_ends_between_two_checks_ends_the_wait() {
        let checked = tokio::sync::Notify::new();
        let check = || async {
            checked.notify_one();
            Err("GET / answered 503".to_owned())
        };
        // Between two checks is nearly always.
        let pace = toml::from_str::<Health>("interval = \"1h\"\ndeadline = \"2h\"").unwrap().pace;
        let ended = async {
            checked.notified().await;
            "signal 11".to_owned()
        };
        let waited = tokio::time::timeout(Duration::from_secs(20), until_good(&pace, check, ended));
        let error = waited.await.expect("at once").unwrap_err();
        assert_eq!(error.brief(), "its process ended with signal 11");
        assert!(error.lines()[0].contains("503"), "{error}");
    }
}
