//! A client whose requests are streams of one connection, over HTTP/2 or HTTP/3, and what holds for
//! both.

use bytes::Bytes;
use h2::SendStream;
use h2::client::ResponseFuture;
use http::{Request, Response};
use shunt_api::InFlight;
use shunt_tests::backend::Backend;
use shunt_tests::build::Build;
use shunt_tests::nginx::{Nginx, Setup};
use shunt_tests::scenario::{nothing_in_flight, requests, switch_under};
use shunt_tests::until;
use tokio::task::JoinHandle;

use crate::h2c::{self, runtime, soon, whole};
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

/// So many streams at the same time.
const STREAMS: usize = 100;

fn start(build: &Build, protocol: Protocol) -> (Server, Backend) {
    let [a, b] = ["a", "b"].map(|release| Backend::start(release, 2));
    let upstream = format!("upstream web {{ shunt;\n{}{} }}", a.lines(), b.lines());
    let server = format!(
        "{} location / {{ proxy_pass http://web; }}",
        match protocol {
            Protocol::Http2 => "http2_max_concurrent_streams 256;",
            Protocol::Http3 => "http3_max_concurrent_streams 256;",
        }
    );
    (Server::start(build, protocol, Setup::standard(&upstream), &server), a)
}

/// Begins so many requests that are held at `a`.
async fn hold(client: &Client, a: &Backend) -> Vec<JoinHandle<(u16, String)>> {
    a.hold();
    let ask = |_| {
        let client = client.clone();
        tokio::spawn(async move { client.get("/held").await })
    };
    let held = (0..STREAMS).map(ask).collect();
    let a = a.clone();
    let all_held = move || until("all are held", || (a.held() == STREAMS).then_some(()));
    tokio::task::spawn_blocking(all_held).await.unwrap();
    held
}

/// A request goes to the release that is active when it begins.
pub fn a_request_is_switched(build: &Build, protocol: Protocol) {
    let (server, a) = start(build, protocol);
    let runtime = runtime();
    switch_under(&server.nginx, &a, |path| {
        runtime.block_on(async {
            let (status, text) = server.connect().await.get(path).await;
            assert_eq!(status, 200);
            text
        })
    });
    assert_eq!(server.nginx.complaints(), [] as [String; 0]);
}

/// Each stream of a connection has a release of its own.
pub fn streams_of_one_connection_go_to_the_release_of_their_time(
    build: &Build,
    protocol: Protocol,
) {
    let (server, a) = start(build, protocol);
    let (nginx, admin) = (&server.nginx, server.nginx.admin());
    runtime().block_on(async {
        let client = server.connect().await;
        let before = hold(&client, &a).await;
        let all = InFlight { requests: STREAMS as u64, upgraded: 0 };
        assert_eq!(admin.in_flight("web", "a"), all);
        admin.switch("web", "b", None).unwrap();
        let after: Vec<_> = (0..STREAMS)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move { client.get("/").await })
            })
            .collect();
        for answer in after {
            assert_eq!(answer.await.unwrap(), (200, "b".to_owned()));
        }
        assert_eq!(admin.in_flight("web", "a"), all);
        a.let_go();
        for answer in before {
            assert_eq!(answer.await.unwrap(), (200, "a".to_owned()));
        }
    });
    nothing_in_flight(nginx, "web");
    let streams = STREAMS as u64;
    assert_eq!(requests(nginx, "web"), [("a".to_owned(), streams), ("b".to_owned(), streams)]);
    assert_eq!(nginx.complaints(), [] as [String; 0]);
}

/// A stream that its client resets has ended.
pub fn streams_that_a_client_resets_are_in_flight_no_more(build: &Build, protocol: Protocol) {
    let (server, a) = start(build, protocol);
    let admin = server.nginx.admin();
    runtime().block_on(async {
        let client = server.connect().await;
        let held = hold(&client, &a).await;
        admin.switch("web", "b", None).unwrap();
        let (left, stay) = held.split_at(STREAMS / 2);
        for stream in left {
            // A stream that nobody has any more is reset.
            stream.abort();
        }
        let half = InFlight { requests: stay.len() as u64, upgraded: 0 };
        until("half of them", || (admin.in_flight("web", "a") == half).then_some(()));
        // The others and the connection itself are as before.
        assert_eq!(client.get("/").await, (200, "b".to_owned()));
        assert_eq!(admin.in_flight("web", "a"), half);
        for stream in stay {
            stream.abort();
        }
        until("none", || (admin.in_flight("web", "a") == InFlight::default()).then_some(()));
    });
    a.let_go();
    let counted = requests(&server.nginx, "web");
    assert_eq!(counted, [("a".to_owned(), STREAMS as u64), ("b".to_owned(), 1)]);
}
