//! One HTTP request over a connection of its own.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use shunt_api::Address;

use crate::clock::Span;
use crate::endpoint;

/// The most that is read of an answer, in bytes.
const MAX_ANSWER: usize = 16 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Nobody listens there, or not for us.
    #[error("cannot connect to {address}: {error}")]
    Connect {
        /// Where to.
        address: Address,
        /// What the system said.
        error: std::io::Error,
    },
    /// The answer did not come in time.
    #[error("no answer from {address} within {}", Span(*limit))]
    Timeout {
        /// From where.
        address: Address,
        /// How long was waited.
        limit: Duration,
    },
    /// The connection broke, or what came is not HTTP.
    #[error("no answer from {address}: {why}")]
    Broken {
        /// From where.
        address: Address,
        /// What went wrong.
        why: String,
    },
}

impl RequestError {
    /// Whether the request was certainly not seen by the other side.
    #[must_use]
    pub fn is_unsent(&self) -> bool {
        matches!(self, Self::Connect { .. })
    }
}

/// Sends a request and reads the whole answer, within a time limit.
///
/// # Errors
///
/// [`RequestError`].
pub async fn send(
    address: &Address,
    request: Request<Full<Bytes>>,
    limit: Duration,
) -> Result<Response<Bytes>, RequestError> {
    send_for(address, request, limit, MAX_ANSWER).await
}

/// As [`send`], for an answer whose body has at most so many bytes.
///
/// # Errors
///
/// [`RequestError`]; also for a body with more.
pub async fn send_for(
    address: &Address,
    request: Request<Full<Bytes>>,
    limit: Duration,
    max: usize,
) -> Result<Response<Bytes>, RequestError> {
    match tokio::time::timeout(limit, whole(address, request, max)).await {
        Ok(result) => result,
        Err(_) => Err(RequestError::Timeout { address: address.clone(), limit }),
    }
}

/// As [`send`], for what takes as long as it takes.
///
/// # Errors
///
/// [`RequestError`].
pub async fn send_patiently(
    address: &Address,
    request: Request<Full<Bytes>>,
) -> Result<Response<Bytes>, RequestError> {
    whole(address, request, MAX_ANSWER).await
}

async fn whole(
    address: &Address,
    request: Request<Full<Bytes>>,
    max: usize,
) -> Result<Response<Bytes>, RequestError> {
    let stream = endpoint::connect(address)
        .await
        .map_err(|error| RequestError::Connect { address: address.clone(), error })?;
    exchange(stream, request, max)
        .await
        .map_err(|why| RequestError::Broken { address: address.clone(), why })
}

async fn exchange(
    stream: Box<dyn endpoint::Stream>,
    request: Request<Full<Bytes>>,
    max: usize,
) -> Result<Response<Bytes>, String> {
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    // Ends with the answer, or with the connection.
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(|e| {
        // hyper's own words for it are no help.
        match e.is_canceled() || e.is_incomplete_message() {
            true => "the connection was closed without one".to_owned(),
            false => e.to_string(),
        }
    })?;
    let (parts, body) = response.into_parts();
    let body =
        Limited::new(body, max).collect().await.map_err(|e| match e.is::<LengthLimitError>() {
            true => format!("its body has more than {max} bytes"),
            false => e.to_string(),
        })?;
    driver.abort();
    Ok(Response::from_parts(parts, body.to_bytes()))
}
