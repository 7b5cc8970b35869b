//! The check by HTTP. Redirects are not followed: where they lead to is not the release.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::Full;
use shunt_api::{Address, ReleaseName};

use crate::config::{Header, Http};
use crate::request;

/// The largest body that an answer may have, in bytes.
const MAX_BODY: usize = 1 << 20;

/// The most of a bad answer's body that is shown, in bytes.
const EXCERPT: usize = 200;

/// Asks once; the error is what was wrong.
pub(super) async fn check(
    config: &Http,
    address: &Address,
    release: &ReleaseName,
    limit: Duration,
) -> Result<(), String> {
    let request = request(config)?;
    let sent = request::send_for(address, request, limit, MAX_BODY).await;
    judge(config, release, &sent.map_err(|e| e.to_string())?)
}

/// What is sent.
pub(super) fn request(config: &Http) -> Result<Request<Full<Bytes>>, String> {
    let mut request = Request::get(config.path.as_str())
        .header(header::HOST, config.host.value())
        .body(Full::new(Bytes::new()))
        .map_err(|e| e.to_string())?;
    let headers = request.headers_mut();
    headers.insert(header::USER_AGENT, HeaderValue::from_static("shunt-health"));
    for (name, value) in config.headers.map() {
        headers.insert(name, value.clone());
    }
    Ok(request)
}

/// Whether an answer is good.
pub(super) fn judge(
    config: &Http,
    release: &ReleaseName,
    response: &Response<Bytes>,
) -> Result<(), String> {
    let (path, body) = (config.path.as_str(), response.body());
    let said = || match excerpt(body) {
        none if none.is_empty() => "its body is empty".to_owned(),
        some => format!("its body begins with: {some}"),
    };
    let status = response.status();
    if !config.status.contain(status.as_u16()) {
        let sep = if body.is_empty() { "" } else { ": " };
        return Err(format!("GET {path} answered {status}{sep}{}", excerpt(body)));
    }
    if let Some(header) = &config.release_header {
        names(header, release, response.headers())?;
    }
    if let Some(text) = &config.body
        && !contains(body, text.as_bytes())
    {
        return Err(format!("GET {path}: {text:?} is not in the answer; {}", said()));
    }
    if let Some(pattern) = &config.body_regex
        && !pattern.regex().is_match(body)
    {
        let pattern = pattern.regex().as_str();
        return Err(format!("GET {path}: the answer does not match {pattern:?}; {}", said()));
    }
    Ok(())
}

/// Whether a header names the release, and nothing else: NGINX may add one of its own.
fn names(header: &Header, release: &ReleaseName, headers: &HeaderMap) -> Result<(), String> {
    let name = header.name();
    let mut values = headers.get_all(name).iter().peekable();
    if values.peek().is_none() {
        return Err(format!("there is no header {name:?}, which must name the release"));
    }
    match values.find(|value| value.as_bytes() != release.as_str().as_bytes()) {
        Some(other) => {
            let said = String::from_utf8_lossy(other.as_bytes());
            Err(format!("header {name:?} says {said:?}, not \"{release}\""))
        }
        None => Ok(()),
    }
}

fn contains(body: &[u8], text: &[u8]) -> bool {
    text.is_empty() || body.windows(text.len()).any(|part| part == text)
}

fn excerpt(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(EXCERPT)]).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::tests::{serve, v1};
    use axum::Router;
    use axum::http::StatusCode;
    use axum::response::IntoResponse;
    use axum::routing::get;

    fn config(text: &str) -> Http {
        let text = format!("path = \"/health\"\n{text}");
        match toml::from_str::<crate::config::Health>(&text).unwrap().check {
            crate::config::Check::Http(http) => *http,
            other => panic!("{other:?}"),
        }
    }

    async fn ask(text: &str, slot: &Address) -> Result<(), String> {
        check(&config(text), slot, &v1(), Duration::from_secs(20)).await
    }

    /// A server that always answers the same.
    async fn answering(answer: impl IntoResponse + Clone + Send + Sync + 'static) -> Address {
        serve(Router::new().route("/health", get(move || std::future::ready(answer.clone())))).await
    }

    #[tokio::test]
    async fn a_bad_status_is_shown_with_the_beginning_of_the_body() {
        let body = format!("no database\n{}", "x".repeat(1000));
        let slot = answering((StatusCode::INTERNAL_SERVER_ERROR, body)).await;
        let error = ask("", &slot).await.unwrap_err();
        assert!(error.contains("/health answered 500 Internal Server Error: no data"), "{error}");
        assert!(error.len() < 300, "{error}");
        ask("status = \"200,500-502\"", &slot).await.unwrap();
    }

    #[tokio::test]
    async fn a_redirect_is_not_followed_and_not_good() {
        let away = || async { axum::response::Redirect::to("/login") };
        let router = Router::new().route("/health", get(away)).route("/login", get(|| async {}));
        let slot = serve(router).await;
        let error = ask("", &slot).await.unwrap_err();
        assert!(error.contains("303"), "{error}");
        ask("status = 303", &slot).await.unwrap();
    }

    #[tokio::test]
    async fn the_configured_headers_are_sent() {
        async fn seen(headers: HeaderMap) -> String {
            ["host", "user-agent", "x-key"].map(|name| headers[name].to_str().unwrap()).join(" ")
        }
        let slot = serve(Router::new().route("/health", get(seen))).await;
        let headers = "host = \"shop\"\nheaders = { X-Key = \"secret\" }";
        ask(&format!("{headers}\nbody = \"shop shunt-health secret\""), &slot).await.unwrap();
        let agent = "headers = { User-Agent = \"me\", X-Key = \"1\" }\nbody = \"localhost me 1\"";
        ask(agent, &slot).await.unwrap();
    }

    #[tokio::test]
    async fn the_body_must_have_a_text_or_match() {
        let slot = answering(&b"{\"db\": \"up\", \xff\"queue\": 17}"[..]).await;
        ask("body = '\"db\": \"up\"'", &slot).await.unwrap();
        ask("body_regex = '\"queue\": \\d+\\}$'", &slot).await.unwrap();
        let error = ask("body = 'down'", &slot).await.unwrap_err();
        assert!(
            error.contains("\"down\" is not in the answer; its body begins with: {"),
            "{error}"
        );
        let error = ask("body_regex = '^up'", &slot).await.unwrap_err();
        assert!(error.contains("does not match \"^up\""), "{error}");
        let empty = answering("").await;
        let error = ask("body = 'up'", &empty).await.unwrap_err();
        assert!(error.contains("its body is empty"), "{error}");
    }

    #[tokio::test]
    async fn a_release_that_answers_with_another_name_is_not_it() {
        let header = "release_header = \"X-Release\"";
        ask(header, &answering([("X-Release", "v1")]).await).await.unwrap();
        let error = ask(header, &answering([("X-Release", "v0")]).await).await.unwrap_err();
        assert!(error.contains("says \"v0\", not \"v1\""), "{error}");
        let error = ask(header, &answering("").await).await.unwrap_err();
        assert!(error.contains("there is no header \"x-release\""), "{error}");
        // What NGINX adds does not hide it.
        let both = axum::response::AppendHeaders([("X-Release", "v1"), ("X-Release", "v0")]);
        let error = ask(header, &answering(both).await).await.unwrap_err();
        assert!(error.contains("says \"v0\""), "{error}");
    }

    #[tokio::test]
    async fn a_body_has_its_limit() {
        ask("", &answering("x".repeat(MAX_BODY)).await).await.unwrap();
        let error = ask("", &answering("x".repeat(MAX_BODY + 1)).await).await.unwrap_err();
        assert!(error.contains("more than 1048576 bytes"), "{error}");
    }

    #[tokio::test]
    async fn an_answer_that_does_not_come_is_waited_for_as_long_as_a_check_may_take() {
        let never = serve(Router::new().route("/health", get(std::future::pending::<()>))).await;
        let limit = Duration::from_millis(50);
        let error = check(&config(""), &never, &v1(), limit).await.unwrap_err();
        assert!(error.contains("within 50ms"), "{error}");
    }
}
