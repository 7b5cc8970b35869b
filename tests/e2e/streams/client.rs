//! A client whose requests are streams of one connection, over HTTP/2 or HTTP/3.

use bytes::Bytes;
use h2::SendStream;
use h2::client::ResponseFuture;
use http::{Request, Response};
use shunt_tests::build::Build;
use shunt_tests::nginx::{Nginx, Setup};

use crate::h2c::{self, soon, whole};
use crate::quic;

/// What is spoken.
#[derive(Debug, Clone, Copy)]
pub enum Protocol {
    Http2,
    Http3,
}

/// NGINX with a server that speaks it, beside the standard one.
pub struct Server {
    pub nginx: Nginx,
    quic: Option<quic::Listener>,
}

impl Server {
    /// Starts it with this beside the standard configuration, and this in its server.
    pub fn start(build: &Build, protocol: Protocol, setup: Setup, server: &str) -> Self {
        let quic = match protocol {
            Protocol::Http2 => None,
            Protocol::Http3 => Some(quic::Listener::new()),
        };
        let listen = quic.as_ref().map_or(h2c::listen(build).to_owned(), quic::Listener::lines);
        let http = format!("{}\nserver {{ {listen}\n{server} }}", setup.http);
        let mut nginx = Nginx::prepare(build, Setup { http, ..setup });
        if let Some(quic) = &quic {
            quic.write(&nginx);
        }
        nginx.run();
        Self { nginx, quic }
    }

    /// Connects.
    pub async fn connect(&self) -> Client {
        match &self.quic {
            None => Client::Http2(h2c::Client::connect(&self.nginx.path("h2.sock")).await),
            Some(quic) => Client::Http3(quic::Client::connect(quic).await),
        }
    }
}

/// A connection; its clones share it.
#[derive(Clone)]
pub enum Client {
    Http2(h2c::Client),
    Http3(quic::Client),
}

/// A request that was begun. Dropped, its stream is reset, as a client does that wants no answer.
pub enum Exchange {
    Http2(ResponseFuture, SendStream<Bytes>),
    Http3(Box<quic::Stream>),
}

impl Client {
    /// Begins a request whose body is still to come.
    pub async fn begin(&self, method: &str, path: &str) -> Exchange {
        match self {
            Self::Http2(client) => {
                let (response, body) = client.begin(method, path, &[]).await;
                Exchange::Http2(response, body)
            }
            Self::Http3(client) => {
                let request = Request::builder().method(method).uri(format!("https://test{path}"));
                Exchange::Http3(Box::new(client.begin(request.body(()).unwrap()).await))
            }
        }
    }

    /// Sends a request with its whole body.
    pub async fn send(&self, method: &str, path: &str, body: &[u8]) -> Exchange {
        // An answer can come before the end of a body, but not before the end of a request without.
        if let (Self::Http2(client), true) = (self, body.is_empty()) {
            let (response, body) = client.bodiless(method, path).await;
            return Exchange::Http2(response, body);
        }
        let mut exchange = self.begin(method, path).await;
        exchange.send(body, true).await;
        exchange
    }

    /// Gets a page: its status and its text.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let response = self.send("GET", path, b"").await.answer().await;
        (response.status().as_u16(), String::from_utf8(response.into_body()).unwrap())
    }
}

impl Exchange {
    /// Sends a part of the body, the last one or not.
    pub async fn send(&mut self, bytes: &[u8], last: bool) {
        let bytes = Bytes::copy_from_slice(bytes);
        match self {
            Self::Http2(_, body) => body.send_data(bytes, last).unwrap(),
            Self::Http3(stream) => {
                if !bytes.is_empty() {
                    soon("room for a body", stream.send_data(bytes)).await.unwrap();
                }
                if last {
                    soon("an end", stream.finish()).await.unwrap();
                }
            }
        }
    }

    /// Waits for the answer.
    pub async fn answer(self) -> Response<Vec<u8>> {
        match self {
            Self::Http2(response, _body) => {
                let (head, body) = soon("an answer", response).await.unwrap().into_parts();
                let (bytes, _) = whole(body).await;
                Response::from_parts(head, bytes)
            }
            Self::Http3(mut stream) => quic::answer(&mut stream).await,
        }
    }
}
