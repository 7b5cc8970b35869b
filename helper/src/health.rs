//! Is a release healthy? Asked before it gets any traffic (P8).

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::Full;
use shunt_api::{Address, ReleaseName};
use tokio::sync::watch;

use crate::config::Health;
use crate::request;
use crate::runner::process::State;

/// The most of a bad answer's body that is shown, in bytes.
const EXCERPT: usize = 200;

/// Why a release is not healthy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HealthError {
    /// It was not in time.
    #[error("not healthy within {deadline:?}; last check: {last}")]
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
            Self::Deadline { deadline, .. } => format!("not healthy within {deadline:?}"),
            Self::Ended { how, .. } => format!("its process ended with {how}"),
        }
    }

    /// What the last check said, which may hold words of the application.
    #[must_use]
    pub fn last(&self) -> String {
        match self {
            Self::Deadline { last, .. } | Self::Ended { last, .. } => format!("last check: {last}"),
        }
    }
}

/// Asks until enough answers in a row are good, of a process that was started again `restarts` times
/// and not once more. Redirects are not followed: where they lead to is not the release.
///
/// # Errors
///
/// [`HealthError`]; at once when the process ends.
pub async fn wait(
    config: &Health,
    slot: &Address,
    release: &ReleaseName,
    mut process: watch::Receiver<State>,
    restarts: u32,
) -> Result<(), HealthError> {
    let end = Instant::now() + config.deadline;
    let mut passes = 0;
    let mut last = "none was answered".to_owned();
    loop {
        let checked = tokio::select! {
            how = ended(&mut process, restarts) => return Err(HealthError::Ended { how, last }),
            checked = tokio::time::timeout_at(end.into(), check(config, slot, release)) => checked,
        };
        match checked {
            Ok(Ok(())) => {
                passes += 1;
                if passes >= config.passes {
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
            return Err(HealthError::Deadline { deadline: config.deadline, last });
        }
        tokio::time::sleep(config.interval.min(left)).await;
    }
}

/// Waits for the end of the process, which may be over already, and tells how it came.
async fn ended(process: &mut watch::Receiver<State>, restarts: u32) -> String {
    let as_it_was =
        |s: &State| matches!(s, State::Running { restarts: now, .. } if *now == restarts);
    match process.wait_for(|s| !as_it_was(s)).await.as_deref() {
        Ok(State::Ended { how, .. }) => how.clone(),
        Ok(State::Running { .. }) => "a restart".to_owned(),
        Ok(State::Stopped) | Err(_) => "an order to stop".to_owned(),
    }
}

/// One check; the error is what was wrong.
async fn check(config: &Health, slot: &Address, release: &ReleaseName) -> Result<(), String> {
    let request = Request::get(&config.path)
        .header(header::HOST, &config.host)
        .header(header::USER_AGENT, "shunt-health")
        .body(Full::new(Bytes::new()))
        .map_err(|e| e.to_string())?;
    let response = request::send(slot, request, config.timeout).await.map_err(|e| e.to_string())?;
    let status = response.status();
    let (low, high) = config.status;
    if !(low..=high).contains(&status.as_u16()) {
        let body = response.body();
        let excerpt = String::from_utf8_lossy(&body[..body.len().min(EXCERPT)]);
        let excerpt = excerpt.trim();
        let sep = if excerpt.is_empty() { "" } else { ": " };
        return Err(format!("GET {} answered {status}{sep}{excerpt}", config.path));
    }
    if let Some(name) = &config.release_header {
        let said = response.headers().get(name).map(|v| String::from_utf8_lossy(v.as_bytes()));
        match said {
            Some(said) if said == release.as_str() => {}
            Some(said) => {
                return Err(format!("header {name:?} says \"{said}\", not \"{release}\""));
            }
            None => {
                return Err(format!("there is no header {name:?}, which must name the release"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::http::StatusCode;
    use axum::routing::get;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    async fn serve(router: Router) -> Address {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Address::Ip(address)
    }

    fn config() -> Health {
        Health {
            path: "/health".to_owned(),
            interval: Duration::from_millis(1),
            deadline: Duration::from_millis(200),
            ..Health::default()
        }
    }

    fn running() -> (watch::Sender<State>, watch::Receiver<State>) {
        watch::channel(State::Running { pid: 1, restarts: 0 })
    }

    async fn ask(config: &Health, slot: &Address) -> Result<(), HealthError> {
        let (_process, state) = running();
        wait(config, slot, &ReleaseName::new("v1").unwrap(), state, 0).await
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
        let patient = Health { deadline: Duration::from_secs(20), ..config() };
        ask(&patient, &slot).await.unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), 4);
    }

    #[tokio::test]
    async fn p8_what_never_becomes_healthy_is_refused_with_its_last_answer() {
        let bad = || async { (StatusCode::INTERNAL_SERVER_ERROR, "no database\n") };
        let slot = serve(Router::new().route("/health", get(bad))).await;
        let error = ask(&config(), &slot).await.unwrap_err().to_string();
        assert!(error.contains("500 Internal Server Error: no database"), "{error}");
    }

    #[tokio::test]
    async fn a_redirect_is_not_followed_and_not_good() {
        let away = || async { axum::response::Redirect::to("/login") };
        let router = Router::new().route("/health", get(away)).route("/login", get(|| async {}));
        let error = ask(&config(), &serve(router).await).await.unwrap_err().to_string();
        assert!(error.contains("303"), "{error}");
    }

    #[tokio::test]
    async fn a_release_that_answers_with_another_name_is_not_it() {
        let other = || async { [("X-Release", "v0")] };
        let slot = serve(Router::new().route("/health", get(other))).await;
        let config = Health { release_header: Some("X-Release".to_owned()), ..config() };
        let error = ask(&config, &slot).await.unwrap_err().to_string();
        assert!(error.contains("says \"v0\", not \"v1\""), "{error}");
    }

    #[tokio::test]
    async fn a_process_that_ends_is_not_waited_for() {
        let (process, state) = running();
        process.send_replace(State::Ended { how: "exit status 1".to_owned(), restarts: 0 });
        let slot = Address::Unix("/nonexistent".into());
        let patient = Health { deadline: Duration::from_secs(60), ..config() };
        let error =
            wait(&patient, &slot, &ReleaseName::new("v1").unwrap(), state, 0).await.unwrap_err();
        assert!(matches!(error, HealthError::Ended { .. }), "{error}");
    }
}
