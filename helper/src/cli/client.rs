//! The client of the daemon's API.

use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, header};
use http_body_util::{BodyExt, Full};
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

    async fn call<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: Bytes,
    ) -> Result<T, Failure> {
        let request = build(method, path, body)?;
        let response = request::send(&self.socket, request, LIMIT)
            .await
            .map_err(|e| Failure::new(exit::UNREACHABLE, unreachable(&e)))?;
        if response.status().is_success() {
            return serde_json::from_slice(response.body())
                .map_err(|e| Failure::new(exit::FAILED, format!("shuntd's answer: {e}")));
        }
        let code = match response.status().as_u16() {
            423 => exit::LOCKED,
            502 => exit::UNREACHABLE,
            400 | 404 | 409 | 422 => exit::USAGE,
            _ => exit::FAILED,
        };
        let text = match serde_json::from_slice::<Problem>(response.body()) {
            Ok(problem) => problem.detail,
            Err(_) => format!("shuntd answers {}", response.status()),
        };
        Err(Failure::new(code, text))
    }

    /// Follows a job until its end, calling `each` for every event.
    ///
    /// # Errors
    ///
    /// [`Failure`] when the daemon goes away, or that of `each`.
    pub async fn follow(
        &self,
        job: u64,
        mut each: impl FnMut(&Event) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let lost = |e: &dyn std::fmt::Display| {
            Failure::new(exit::UNREACHABLE, format!("shuntd is gone: {e}"))
        };
        let stream = endpoint::connect(&self.socket).await.map_err(|e| lost(&e))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| lost(&e))?;
        let driver = tokio::spawn(connection);
        let request = build("GET", &format!("/v1/jobs/{job}/events"), Bytes::new())?;
        let response = sender.send_request(request).await.map_err(|e| lost(&e))?;
        let mut body = response.into_body();
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

fn unreachable(error: &RequestError) -> String {
    match error {
        RequestError::Connect { .. } => {
            format!(
                "shuntd: {error}; does it run, and listen there? `--socket` names another place"
            )
        }
        _ => format!("shuntd: {error}"),
    }
}

fn build(method: &str, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>, Failure> {
    Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "shuntd")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(|e| Failure::new(exit::USAGE, e))
}
