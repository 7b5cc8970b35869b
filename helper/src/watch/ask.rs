//! One request.

use std::collections::VecDeque;
use std::error::Error;

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use super::Options;
use super::tally::Answer;

/// Connections that are kept open and have nothing to do.
pub(super) type Pool = Mutex<VecDeque<SendRequest<Full<Bytes>>>>;

/// Asks once: over a connection of the pool, or over a new one.
pub(super) async fn ask(
    options: &Options,
    post: Option<&str>,
    pool: Option<&Pool>,
) -> Result<Answer, String> {
    let mut retried = false;
    let request = || {
        let target = &options.target;
        let builder = match post {
            Some(path) => Request::post(path),
            None => Request::get(&target.path),
        };
        let connection = if pool.is_some() { "keep-alive" } else { "close" };
        builder
            .header(header::HOST, &target.host)
            .header(header::USER_AGENT, "shunt-watch")
            .header(header::CONNECTION, connection)
            .body(Full::new(Bytes::from_static(if post.is_some() { b"shunt" } else { b"" })))
            .map_err(|e| e.to_string())
    };
    if let Some(pool) = pool {
        loop {
            let Some(mut kept) = pool.lock().await.pop_front() else { break };
            // One that the server has closed while it was idle is no failure (RFC 9112, section
            // 9.3.1): nothing was asked on it.
            if kept.ready().await.is_err() {
                continue;
            }
            match kept.try_send_request(request()?).await {
                Ok(response) => {
                    let release = read(response, &options.header).await?;
                    pool.lock().await.push_back(kept);
                    return Ok(Answer { release, retried });
                }
                Err(mut error) => {
                    // What is handed back was not sent: closed at this very moment.
                    if error.take_message().is_some() {
                        continue;
                    }
                    let error = error.into_error();
                    if post.is_some() || !is_closed(&error) {
                        return Err(format!("kept-open connection: {error}"));
                    }
                    // A GET may be asked again, but only once.
                    retried = true;
                    break;
                }
            }
        }
    }
    let stream =
        TcpStream::connect(options.target.address).await.map_err(|e| format!("connect: {e}"))?;
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    tokio::spawn(connection);
    let response =
        sender.send_request(request()?).await.map_err(|e| format!("new connection: {e}"))?;
    let release = read(response, &options.header).await?;
    if let Some(pool) = pool {
        pool.lock().await.push_back(sender);
    }
    Ok(Answer { release, retried })
}

/// Whether the connection was closed before any answer.
fn is_closed(error: &hyper::Error) -> bool {
    let reset = |error: &std::io::Error| error.kind() == std::io::ErrorKind::ConnectionReset;
    error.is_incomplete_message()
        || error.source().and_then(|e| e.downcast_ref()).is_some_and(reset)
}

/// Reads a whole answer; an error status is a failure.
async fn read(response: Response<Incoming>, name: &str) -> Result<Option<String>, String> {
    let status = response.status();
    let release = response.headers().get(name);
    let release = release.map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
    response.into_body().collect().await.map_err(|e| format!("body: {e}"))?;
    if status.is_client_error() || status.is_server_error() {
        return Err(format!("status {status}"));
    }
    Ok(release)
}
