//! An HTTP/2 client without TLS, which knows beforehand that the server speaks it.

use std::future::Future;
use std::path::Path;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use shunt_tests::PATIENCE;
use shunt_tests::build::Build;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};

/// A server's `listen` line for HTTP/2 on `h2.sock`, as each version of NGINX wants it.
pub fn listen(build: &Build) -> &'static str {
    let version: Vec<u32> = build.version.split('.').map(|n| n.parse().unwrap()).collect();
    if version < vec![1, 25, 1] {
        "listen unix:%FOLDER%/h2.sock http2;"
    } else {
        "listen unix:%FOLDER%/h2.sock; http2 on;"
    }
}

/// What runs the clients of a test.
pub fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Waits for something of the other side, but not for ever.
pub async fn soon<T>(what: &str, f: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, f).await {
        Ok(result) => result,
        Err(_) => panic!("not within {PATIENCE:?}: {what}"),
    }
}

/// A connection; its clones share it.
#[derive(Clone)]
pub struct Client(SendRequest<Bytes>);

impl Client {
    /// Connects.
    pub async fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).await.unwrap();
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        // It ends when the last clone is gone.
        tokio::spawn(connection);
        Self(client)
    }

    /// Begins a request whose body is still to come: the response that will be, and the body.
    pub async fn begin(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> (ResponseFuture, SendStream<Bytes>) {
        self.send(method, path, headers, false).await
    }

    /// Sends a request without a body.
    pub async fn bodiless(&self, method: &str, path: &str) -> (ResponseFuture, SendStream<Bytes>) {
        self.send(method, path, &[], true).await
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        last: bool,
    ) -> (ResponseFuture, SendStream<Bytes>) {
        let uri = format!("http://test{path}");
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut client = soon("room for a stream", self.0.clone().ready()).await.unwrap();
        client.send_request(request.body(()).unwrap(), last).unwrap()
    }
}

/// The whole body and what follows it.
pub async fn whole(mut body: RecvStream) -> (Vec<u8>, Option<HeaderMap>) {
    let mut bytes = Vec::new();
    while let Some(data) = soon("a body", body.data()).await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        bytes.extend_from_slice(&data);
    }
    (bytes, body.trailers().await.unwrap())
}
