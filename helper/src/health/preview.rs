//! The check through NGINX, before any user sees the release: a header tells NGINX which release is
//! asked for.
//!
//! NGINX must know the release. An upstream that does not look at the header sends such a request to
//! the active release, which answers well. So an answer counts only if it came from the new one: a
//! header of its own says so (`release_header`), or NGINX's count of the release's requests has grown.

use http::HeaderValue;
use shunt_api::{Address, ReleaseName};

use super::{HealthError, http as check, until_good};
use crate::config::Preview;
use crate::nginx::Client;
use crate::request::{self, RequestError};

/// The largest answer, in bytes.
const MAX_BODY: usize = 1 << 20;

/// Asks until enough answers in a row are good. For `ended` see [`super::wait`].
///
/// # Errors
///
/// [`HealthError`]; at once when the process ends.
pub async fn wait(
    config: &Preview,
    release: &ReleaseName,
    nginx: &Client,
    ended: impl Future<Output = String>,
) -> Result<(), HealthError> {
    until_good(&config.pace, || once(config, release, nginx), ended).await
}

/// One check; the error is what was wrong.
async fn once(config: &Preview, release: &ReleaseName, nginx: &Client) -> Result<(), String> {
    let proven = config.http.release_header.is_some();
    let before = if proven { 0 } else { requests(nginx, release).await? };
    let answer = ask(config, release).await?;
    check::judge(&config.http, release, &answer)?;
    if !proven && requests(nginx, release).await? <= before {
        return Err(format!(
            "NGINX did not send the request to \"{release}\": the upstream needs \"shunt_preview\" \
             with the variable of the header {:?}",
            config.header.name()
        ));
    }
    Ok(())
}

/// How many requests NGINX has given to the release.
async fn requests(nginx: &Client, release: &ReleaseName) -> Result<u64, String> {
    let state = nginx.state().await.map_err(|e| e.to_string())?;
    let known = state.release(release.as_str());
    known.map(|r| r.requests).ok_or_else(|| format!("NGINX does not know \"{release}\""))
}

/// Asks at the first address of the URL's host that can be connected to.
async fn ask(
    config: &Preview,
    release: &ReleaseName,
) -> Result<http::Response<bytes::Bytes>, String> {
    let mut failed = format!("{} has no address", config.url.host);
    for address in config.url.resolve().await? {
        let mut request = check::request(&config.http)?;
        let name = HeaderValue::from_str(release.as_str()).map_err(|e| e.to_string())?;
        request.headers_mut().insert(config.header.name(), name);
        let (address, limit) = (Address::Ip(address), config.pace.timeout);
        match request::send_for(&address, request, limit, MAX_BODY).await {
            Ok(answer) => return Ok(answer),
            Err(error @ RequestError::Connect { .. }) => failed = error.to_string(),
            Err(error) => return Err(error.to_string()),
        }
    }
    Err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::App;
    use crate::health::tests::{serve, v1};
    use axum::http::HeaderMap;
    use axum::response::IntoResponse;
    use axum::routing::get;
    use axum::{Json, Router};
    use std::future::pending;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// A module that is none, and before it a server that sends requests with this header to the
    /// release and all others to another one.
    async fn nginx(looks_at: &'static str) -> (Client, String) {
        let count = Arc::new(AtomicU64::new(7));
        let requests = count.clone();
        let state = move || async move {
            let release = serde_json::json!({
                "name": "v1", "source": "api", "state": "idle", "servers": [],
                "in_flight": {"requests": 0, "upgraded": 0},
                "requests": requests.load(Ordering::SeqCst),
                "responses": {"1xx": 0, "2xx": 0, "3xx": 0, "4xx": 0, "5xx": 0},
                "connect_failures": 0, "fallbacks": 0,
                "response_time": {"count": 0, "sum": 0.0, "buckets": []},
            });
            Json(serde_json::json!({
                "name": "web", "generation": 1, "active": "v0", "previous": null, "canary": null,
                "hold": null, "holdable": true, "parked": 0, "parked_total": 0, "fallback": false, "switches": 0,
                "releases": [release],
            }))
        };
        let page = move |headers: HeaderMap| async move {
            let new = headers.get(looks_at).is_some_and(|v| v == "v1");
            count.fetch_add(u64::from(new), Ordering::SeqCst);
            let name = if new { "v1" } else { "v0" };
            ([("X-Release", name)], headers["host"].to_str().unwrap().to_owned()).into_response()
        };
        let router = Router::new().route("/v1/upstreams/web", get(state)).route("/page", get(page));
        let address = serve(router).await;
        let app = format!(
            "name = \"web\"\nroot = \"/srv\"\nnginx = \"{address}\"\n[run]\ncommand = [\"x\"]\n\
             slots = [\"127.0.0.1:1\", \"127.0.0.1:2\"]"
        );
        (Client::new(&App::parse(&app).unwrap()), format!("http://{address}/page"))
    }

    async fn ask(looks_at: &'static str, more: &str) -> Result<(), String> {
        let (client, url) = nginx(looks_at).await;
        let text = format!("url = {url:?}\ninterval = \"1ms\"\ndeadline = \"1s\"\n{more}");
        let config: Preview = toml::from_str(&text).unwrap();
        wait(&config, &v1(), &client, pending()).await.map_err(|e| e.to_string())
    }

    #[tokio::test]
    async fn the_answer_must_come_from_the_release() {
        for more in ["", "release_header = \"X-Release\""] {
            ask("x-shunt-release", more).await.unwrap();
        }
        ask("x-which", "header = \"X-Which\"\npasses = 3").await.unwrap();
        let error = ask("x-other", "release_header = \"X-Release\"").await.unwrap_err();
        assert!(error.contains("says \"v0\", not \"v1\""), "{error}");
        let error = ask("x-other", "").await.unwrap_err();
        assert!(error.contains("did not send the request to \"v1\""), "{error}");
    }

    #[tokio::test]
    async fn it_is_checked_as_the_release_itself() {
        ask("x-shunt-release", "host = \"shop\"\nbody = \"shop\"").await.unwrap();
        let error = ask("x-shunt-release", "status = 204").await.unwrap_err();
        assert!(error.contains("GET /page answered 200"), "{error}");
    }

    #[tokio::test]
    async fn a_process_that_ends_is_not_asked_any_more() {
        let (client, url) = nginx("x-other").await;
        let config: Preview = toml::from_str(&format!("url = {url:?}\ndeadline = \"1h\"")).unwrap();
        let ended = std::future::ready("signal 9".to_owned());
        let error = wait(&config, &v1(), &client, ended).await.unwrap_err();
        assert!(matches!(error, HealthError::Ended { .. }), "{error}");
    }
}
