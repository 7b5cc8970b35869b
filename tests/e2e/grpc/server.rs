//! A gRPC server of a release.
//!
//! `/chat` answers each message; `/held/watch` sends a message before it waits and one after;
//! everything else is a unary call, whose answer is the release's name.

use std::net::TcpStream;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use shunt_tests::backend::Backend;

use super::message::{Messages, frame};

/// Serves a connection.
pub fn serve(backend: &Backend, stream: TcpStream) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        stream.set_nonblocking(true).unwrap();
        let stream = tokio::net::TcpStream::from_std(stream).unwrap();
        let Ok(mut connection) = h2::server::handshake(stream).await else { return };
        while let Some(Ok((request, respond))) = connection.accept().await {
            tokio::spawn(call(backend.clone(), request, respond));
        }
    });
}

/// Answers one call; `None` when whoever called has left.
async fn call(
    backend: Backend,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> Option<()> {
    let path = request.uri().path().to_owned();
    let mut messages = Messages::new(request.into_body());
    let head = Response::builder().header("content-type", "application/grpc").body(()).ok()?;
    let begin = |respond: &mut SendResponse<Bytes>| respond.send_response(head, false).ok();
    if path == "/chat" {
        let mut stream = begin(&mut respond)?;
        while let Some(text) = messages.next().await {
            send(&mut stream, &format!("{}: {text}", backend.release()))?;
        }
        return end(stream);
    }
    messages.next().await?;
    if path == "/held/watch" {
        let mut stream = begin(&mut respond)?;
        send(&mut stream, backend.release())?;
        wait(&backend, path).await;
        send(&mut stream, backend.release())?;
        return end(stream);
    }
    wait(&backend, path).await;
    let mut stream = begin(&mut respond)?;
    send(&mut stream, backend.release())?;
    end(stream)
}

/// Waits without keeping other streams of the connection from going on.
async fn wait(backend: &Backend, path: String) {
    let backend = backend.clone();
    tokio::task::spawn_blocking(move || backend.wait(&path)).await.unwrap();
}

fn send(stream: &mut SendStream<Bytes>, text: &str) -> Option<()> {
    stream.send_data(frame(text), false).ok()
}

fn end(mut stream: SendStream<Bytes>) -> Option<()> {
    let status = HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        HeaderValue::from_static("0"),
    )]);
    stream.send_trailers(status).ok()
}
