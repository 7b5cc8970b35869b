//! Clients that speak HTTP/2: many requests of one connection, each with a release of its own.

use shunt_api::InFlight;
use shunt_tests::backend::Backend;
use shunt_tests::build::Build;
use shunt_tests::nginx::{Nginx, Setup};
use shunt_tests::scenario::{nothing_in_flight, requests, switch_under};
use shunt_tests::until;

use crate::h2c::{Client, listen, runtime};

/// So many streams at the same time.
const STREAMS: usize = 100;

fn start(build: &Build) -> (Nginx, Backend) {
    let [a, b] = ["a", "b"].map(|release| Backend::start(release, 2));
    let more = format!(
        "upstream web {{ shunt;\n{}{} }}
         server {{ {} http2_max_concurrent_streams 256;
             location / {{ proxy_pass http://web; }} }}",
        a.lines(),
        b.lines(),
        listen(build)
    );
    (Nginx::start(build, Setup::standard(&more)), a)
}

/// Begins so many requests that are held at `a`.
async fn hold(client: &Client, a: &Backend) -> Vec<tokio::task::JoinHandle<(u16, String)>> {
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

fn a_request_over_http2_is_switched(build: &Build) {
    let (nginx, a) = start(build);
    let runtime = runtime();
    switch_under(&nginx, &a, |path| {
        runtime.block_on(async {
            let client = Client::connect(&nginx.path("h2.sock")).await;
            let (status, text) = client.get(path).await;
            assert_eq!(status, 200);
            text
        })
    });
    assert_eq!(nginx.complaints(), [] as [String; 0]);
}

fn streams_of_one_connection_go_to_the_release_of_their_time(build: &Build) {
    let (nginx, a) = start(build);
    let admin = nginx.admin();
    runtime().block_on(async {
        let client = Client::connect(&nginx.path("h2.sock")).await;
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
    nothing_in_flight(&nginx, "web");
    let streams = STREAMS as u64;
    assert_eq!(requests(&nginx, "web"), [("a".to_owned(), streams), ("b".to_owned(), streams)]);
    assert_eq!(nginx.complaints(), [] as [String; 0]);
}

fn streams_that_a_client_resets_are_in_flight_no_more(build: &Build) {
    let (nginx, a) = start(build);
    let admin = nginx.admin();
    runtime().block_on(async {
        let client = Client::connect(&nginx.path("h2.sock")).await;
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
    assert_eq!(requests(&nginx, "web"), [("a".to_owned(), STREAMS as u64), ("b".to_owned(), 1)]);
}

each_nginx!(
    a_request_over_http2_is_switched,
    streams_of_one_connection_go_to_the_release_of_their_time,
    streams_that_a_client_resets_are_in_flight_no_more,
);
