//! The client of the daemon's API.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use shunt_api::{Address, Problem};

use super::Failure;
use crate::endpoint;
use crate::request::{self, RequestError};
use crate::wire::{Event, exit};

/// How long a call may take.
const LIMIT: Duration = Duration::from_secs(30);

/// The most that is read of a refusal, in bytes.
const MAX_REFUSAL: usize = 1 << 20;

/// Why a job is not followed to its end.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The daemon is gone, or the connection to it.
    #[error("{0}")]
    Lost(String),
    /// The daemon refuses, or the events cannot be shown.
    #[error(transparent)]
    Failed(#[from] Failure),
}

/// The daemon.
pub struct Client {
    socket: Address,
}

impl Client {
    /// The daemon on this socket.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: Address::Unix(socket.to_owned()) }
    }

    /// Asks for something.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.call("GET", path, Bytes::new()).await
    }

    /// Orders something.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        let body = serde_json::to_vec(body).map_err(|e| Failure::new(exit::FAILED, e))?;
        self.call("POST", path, body.into()).await
    }

    /// As [`Client::post`], for what takes as long as it takes.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub async fn post_patiently<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let request = build("POST", path, Bytes::new())?;
        read(request::send_patiently(&self.socket, request).await)
    }

    /// Sets something.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        let body = serde_json::to_vec(body).map_err(|e| Failure::new(exit::FAILED, e))?;
        self.call("PUT", path, body.into()).await
    }

    /// Ends something.
    ///
    /// # Errors
    ///
    /// [`Failure`].
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.call("DELETE", path, Bytes::new()).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: Bytes,
    ) -> Result<T, Failure> {
        let send = || async {
            let request = build(method, path, body.clone())?;
            Ok::<_, Failure>(request::send(&self.socket, request, LIMIT).await)
        };
        let response = match send().await? {
            // It has ended just now; systemd's socket lets the next one answer. What only looks can be
            // asked again.
            Err(RequestError::Broken { .. }) if method == "GET" => send().await?,
            response => response,
        };
        read(response)
    }

    /// Follows a job until the daemon ends the stream, calling `each` for every event.
    ///
    /// # Errors
    ///
    /// [`FollowError`]: when the daemon goes away or refuses, or what `each` says.
    pub async fn follow(
        &self,
        job: u64,
        mut each: impl FnMut(&Event) -> Result<(), Failure>,
    ) -> Result<(), FollowError> {
        let lost = |e: &dyn std::fmt::Display| FollowError::Lost(e.to_string());
        let stream = endpoint::connect(&self.socket).await.map_err(|error| {
            let address = self.socket.clone();
            Failure::new(exit::UNREACHABLE, unreachable(&RequestError::Connect { address, error }))
        })?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| lost(&e))?;
        let driver = tokio::spawn(connection);
        let request = build("GET", &format!("/v1/jobs/{job}/events"), Bytes::new())?;
        let response = sender.send_request(request).await.map_err(|e| lost(&e))?;
        let (status, mut body) = (response.status(), response.into_body());
        if !status.is_success() {
            let body = Limited::new(body, MAX_REFUSAL).collect().await.map_err(|e| lost(&e))?;
            return Err(refused(status, &body.to_bytes()).into());
        }
        let mut text = BytesMut::new();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame.map_err(|e| lost(&e))?.into_data() {
                text.extend_from_slice(&data);
            }
            while let Some(end) = text.iter().position(|b| *b == b'\n') {
                let line = text.split_to(end + 1);
                if let Some(data) = line.strip_prefix(b"data: ") {
                    let event = serde_json::from_slice(data).map_err(|e| lost(&e))?;
                    each(&event)?;
                }
            }
        }
        driver.abort();
        Ok(())
    }
}

/// What has come back.
fn read<T: DeserializeOwned>(
    response: Result<Response<Bytes>, RequestError>,
) -> Result<T, Failure> {
    let response = response.map_err(|e| Failure::new(exit::UNREACHABLE, unreachable(&e)))?;
    if response.status().is_success() {
        return serde_json::from_slice(response.body())
            .map_err(|e| Failure::new(exit::FAILED, format!("shuntd's answer: {e}")));
    }
    Err(refused(response.status(), response.body()))
}

/// What an answer that is no success says.
fn refused(status: StatusCode, body: &[u8]) -> Failure {
    let code = match status.as_u16() {
        423 => exit::LOCKED,
        502 | 503 => exit::UNREACHABLE,
        400 | 404 | 409 | 422 => exit::USAGE,
        _ => exit::FAILED,
    };
    let text = match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => problem.detail,
        Err(_) => format!("shuntd answers {status}"),
    };
    Failure::new(code, text)
}

fn unreachable(error: &RequestError) -> String {
    let RequestError::Connect { address, error } = error else { return format!("shuntd: {error}") };
    let (why, cure) = match error.kind() {
        ErrorKind::NotFound => ("there is no such socket".to_owned(), START),
        ErrorKind::ConnectionRefused => ("nobody listens there any more".to_owned(), START),
        ErrorKind::PermissionDenied => ("this user may not connect".to_owned(), "look at its mode"),
        _ => (error.to_string(), START),
    };
    format!(
        "shuntd cannot be reached at {address}: {why}; {cure}, or name another socket (--socket)"
    )
}

/// What to do where there is no daemon.
const START: &str =
    "start shuntd (with systemd: systemctl enable --now shuntd.socket shuntd.service)";

fn build(method: &str, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>, Failure> {
    Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "shuntd")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(|e| Failure::new(exit::USAGE, e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;

    #[tokio::test(start_paused = true)]
    async fn what_takes_long_is_waited_for_only_if_it_may() {
        let tmp = tempfile::tempdir().unwrap();
        let socket = tmp.path().join("shuntd.sock");
        let slow = || async {
            tokio::time::sleep(LIMIT * 100).await;
            "[]"
        };
        let router = Router::new().route("/slow", axum::routing::post(slow).get(slow));
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        let client = Client::new(&socket);
        let removed: Vec<u8> = client.post_patiently("/slow").await.unwrap();
        assert!(removed.is_empty());
        let failure = client.get::<Vec<u8>>("/slow").await.unwrap_err();
        assert_eq!(failure.code, exit::UNREACHABLE, "{}", failure.text);
        assert!(failure.text.contains("within 30s"), "{}", failure.text);
    }

    #[tokio::test]
    async fn a_follower_that_is_refused_is_told_why() {
        let tmp = tempfile::tempdir().unwrap();
        let socket = tmp.path().join("shuntd.sock");
        let busy = || async {
            let problem = Problem::new(503, "too many connections to shuntd");
            (StatusCode::SERVICE_UNAVAILABLE, serde_json::to_string(&problem).unwrap())
        };
        let router = Router::new()
            .route("/v1/jobs/1/events", axum::routing::get(busy))
            .fallback(|| async { (StatusCode::NOT_FOUND, "gone") });
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        let client = Client::new(&socket);
        for (job, code, text) in [
            (1, exit::UNREACHABLE, "too many connections to shuntd"),
            (2, exit::USAGE, "shuntd answers 404 Not Found"),
        ] {
            let error = client.follow(job, |_| Ok(())).await.unwrap_err();
            let FollowError::Failed(failure) = error else { panic!("{error}") };
            assert_eq!((failure.code, failure.text.as_str()), (code, text));
        }
    }
}
