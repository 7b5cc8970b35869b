//! Requests to a release that is healthy, before anybody else's: they fill its caches.
//!
//! What becomes of them is told and stops nothing: whether a release is good is the health check's to
//! say. Only the end of its process is one here, too.

use std::collections::BTreeMap;

use shunt_api::Address;

use super::{HealthError, http};
use crate::config::{Http, WarmUp};
use crate::request;

/// What came of the requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// How many were sent.
    pub requests: u64,
    /// How many of them were answered well.
    pub good: u64,
    /// What was wrong, and how often; may hold words of the application.
    pub failures: BTreeMap<String, u64>,
}

/// Sends all requests to a slot, one after the other. For `ended` see [`super::wait`].
///
/// # Errors
///
/// [`HealthError::Ended`] when the process ends.
pub async fn run(
    config: &WarmUp,
    slot: &Address,
    ended: impl Future<Output = String>,
) -> Result<Report, HealthError> {
    let mut report = Report::default();
    let mut last = "none was answered".to_owned();
    tokio::pin!(ended);
    for _ in 0..config.times {
        for request in &config.requests {
            let answered = tokio::select! {
                biased;
                how = &mut ended => return Err(HealthError::Ended { how, last }),
                answered = ask(request, slot, config) => answered,
            };
            report.requests += 1;
            match answered {
                Ok(status) => {
                    report.good += 1;
                    last = status;
                }
                Err(why) => {
                    *report.failures.entry(why.clone()).or_default() += 1;
                    last = why;
                }
            }
        }
    }
    Ok(report)
}

/// Asks once and reads the whole answer.
async fn ask(config: &Http, slot: &Address, warm_up: &WarmUp) -> Result<String, String> {
    let request = http::request(config)?;
    let sent = request::send(slot, request, warm_up.timeout).await;
    let status = sent.map_err(|e| e.to_string())?.status();
    let said = format!("GET {} answered {status}", config.path.as_str());
    if config.status.contain(status.as_u16()) { Ok(said) } else { Err(said) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::tests::serve;
    use axum::Router;
    use axum::http::{StatusCode, Uri};
    use std::future::pending;
    use std::sync::{Arc, Mutex};

    fn config(text: &str) -> WarmUp {
        toml::from_str(text).unwrap()
    }

    #[tokio::test]
    async fn every_request_is_made_in_its_order_whatever_became_of_the_others() {
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let note = asked.clone();
        let answer = move |uri: Uri| async move {
            note.lock().unwrap().push(uri.to_string());
            match uri.path() {
                "/ill" => StatusCode::INTERNAL_SERVER_ERROR,
                "/away" => StatusCode::FOUND,
                _ => StatusCode::OK,
            }
        };
        let slot = serve(Router::new().fallback(answer)).await;
        let config = config("requests = [\"/ill\", \"/away\", \"/a?b=c\"]\ntimes = 2");
        let report = run(&config, &slot, pending()).await.unwrap();
        assert_eq!((report.requests, report.good), (6, 4));
        let wrong = "GET /ill answered 500 Internal Server Error".to_owned();
        assert_eq!(report.failures, BTreeMap::from([(wrong, 2)]));
        let paths = ["/ill", "/away", "/a?b=c"];
        assert_eq!(*asked.lock().unwrap(), [paths, paths].concat());
    }

    #[tokio::test]
    async fn a_release_that_does_not_answer_is_only_told_of() {
        let slot = serve(Router::new().fallback(pending::<()>)).await;
        let report = run(&config("requests = [\"/\"]\ntimeout = \"20ms\""), &slot, pending()).await;
        let failures = report.unwrap().failures;
        assert!(failures.keys().all(|why| why.contains("within 20ms")), "{failures:?}");
        assert_eq!(failures.len(), 1);
    }

    #[tokio::test]
    async fn a_process_that_ends_is_not_warmed_up_any_more() {
        let slot = serve(Router::new().fallback(pending::<()>)).await;
        let ended = std::future::ready("signal 11".to_owned());
        let error = run(&config("requests = [\"/\"]"), &slot, ended).await.unwrap_err();
        assert!(error.to_string().starts_with("its process ended with signal 11"), "{error}");
    }
}
