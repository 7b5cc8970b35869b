//! Requests that are streams of one connection, over HTTP/2 or HTTP/3: each has a release of its own.

pub mod client;

use shunt_api::InFlight;
use shunt_tests::backend::Backend;
use shunt_tests::build::Build;
use shunt_tests::nginx::Setup;
use shunt_tests::scenario::{nothing_in_flight, requests, switch_under};
use shunt_tests::until;
use tokio::task::JoinHandle;

use crate::h2c::runtime;
use client::{Client, Protocol, Server};

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

fn a_request_is_switched(build: &Build, protocol: Protocol) {
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

fn streams_of_one_connection_go_to_the_release_of_their_time(build: &Build, protocol: Protocol) {
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

fn streams_that_a_client_resets_are_in_flight_no_more(build: &Build, protocol: Protocol) {
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

each_protocol!(
    a_request_is_switched,
    streams_of_one_connection_go_to_the_release_of_their_time,
    streams_that_a_client_resets_are_in_flight_no_more,
);
