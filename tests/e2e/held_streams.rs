//! Hold over HTTP/2 and HTTP/3: each stream waits by itself.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;

use http::Response;
use shunt_tests::backend::Backend;
use shunt_tests::build::Build;
use shunt_tests::nginx::{Nginx, Setup};
use shunt_tests::scenario::{hold, nothing_in_flight, parked, requests, resume};
use tokio::task::JoinHandle;

use crate::h2c::runtime;
use crate::streams::client::{Client, Protocol, Server};

fn start(build: &Build, protocol: Protocol, conf: &str) -> (Server, Backend) {
    let a = Backend::start("a", 1);
    let upstream = format!("upstream web {{ shunt;\n{} keepalive 8; }}", a.lines());
    let server = format!(
        "{conf} proxy_http_version 1.1; proxy_set_header Connection \"\";
         location / {{ proxy_pass http://web; }}"
    );
    (Server::start(build, protocol, Setup::standard(&upstream), &server), a)
}

/// Asks in a task of its own, which resets the stream when it is aborted.
fn ask(
    client: &Client,
    method: &'static str,
    path: &str,
    body: &[u8],
) -> JoinHandle<Response<Vec<u8>>> {
    let (client, path, body) = (client.clone(), path.to_owned(), body.to_vec());
    tokio::spawn(async move { client.send(method, &path, &body).await.answer().await })
}

/// Waits until so many requests are parked, while the clients go on.
async fn all_parked(nginx: &Nginx, requests: u64) {
    tokio::task::block_in_place(|| parked(nginx, requests));
}

fn streams_wait_until_the_resume_and_bodies_arrive_whole(build: &Build, protocol: Protocol) {
    let (server, _a) = start(build, protocol, "shunt_hold web;");
    let nginx = &server.nginx;
    hold(nginx, "30s");
    // Far more than NGINX takes before somebody reads it.
    let body: Vec<u8> = (0..400_000u32).map(|n| n.to_le_bytes()[(n % 3) as usize]).collect();
    runtime().block_on(async {
        let client = server.connect().await;
        let mut waiting = Vec::new();
        for n in 0..20 {
            let (method, body) = if n % 2 == 0 { ("GET", &[][..]) } else { ("POST", &body[..]) };
            waiting.push((ask(&client, method, "/", body), body));
        }
        let mut late = client.begin("POST", "/").await;
        late.send(b"half", false).await;
        all_parked(nginx, 21).await;
        assert_eq!(requests(nginx, "web"), [("a".to_owned(), 0)]);
        resume(nginx);
        late.send(b"half", true).await;
        assert_eq!(late.answer().await.into_body(), b"halfhalf");
        for (waiting, body) in waiting {
            let response = waiting.await.unwrap();
            let expected = if body.is_empty() { b"a" } else { body };
            assert_eq!((response.status().as_u16(), &response.body()[..]), (200, expected));
        }
    });
    nothing_in_flight(nginx, "web");
    assert_eq!(requests(nginx, "web"), [("a".to_owned(), 21)]);
    let state = nginx.admin().state("web");
    assert_eq!((state.parked, state.parked_total, state.hold), (0, 21, None));
    assert_eq!(nginx.complaints(), [] as [String; 0]);
}

fn a_stream_that_its_client_resets_leaves_its_place_to_another(build: &Build, protocol: Protocol) {
    const MAX: usize = 5;
    let (server, _a) = start(build, protocol, "shunt_hold web max=5;");
    let nginx = &server.nginx;
    hold(nginx, "30s");
    runtime().block_on(async {
        let client = server.connect().await;
        let full = || async {
            let refused = client.send("GET", "/", b"").await.answer().await;
            assert_eq!(refused.status(), 503);
            let after = refused.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap();
            assert!((1..=30).contains(&after), "{after}");
        };
        let mut waiting: Vec<_> = (0..MAX).map(|_| ask(&client, "GET", "/", b"")).collect();
        all_parked(nginx, 5).await;
        full().await;
        // With its body sent, and with some of it still to come.
        waiting.drain(..2).for_each(|stream| stream.abort());
        all_parked(nginx, 3).await;
        let mut begun = client.begin("POST", "/").await;
        begun.send(b"half", false).await;
        waiting.push(ask(&client, "GET", "/", b""));
        all_parked(nginx, 5).await;
        full().await;
        drop(begun);
        all_parked(nginx, 4).await;
        waiting.push(ask(&client, "GET", "/", b""));
        all_parked(nginx, 5).await;
        full().await;
        resume(nginx);
        for stream in waiting {
            assert_eq!(stream.await.unwrap().status(), 200);
        }
    });
    nothing_in_flight(nginx, "web");
    assert_eq!(requests(nginx, "web"), [("a".to_owned(), MAX as u64)], "nobody else was let go");
}

fn a_client_that_leaves_is_forgotten_with_all_of_its_streams(build: &Build, protocol: Protocol) {
    let (server, _a) = start(build, protocol, "shunt_hold web;");
    let nginx = &server.nginx;
    hold(nginx, "30s");
    runtime().block_on(async {
        let [one, other] = [server.connect().await, server.connect().await];
        let left: Vec<_> = (0..10).map(|_| ask(&one, "POST", "/", b"body")).collect();
        let stays = ask(&other, "GET", "/", b"");
        all_parked(nginx, 11).await;
        left.iter().for_each(JoinHandle::abort);
        drop((left, one));
        all_parked(nginx, 1).await;
        resume(nginx);
        assert_eq!(stays.await.unwrap().status(), 200);
    });
    nothing_in_flight(nginx, "web");
    assert_eq!(requests(nginx, "web"), [("a".to_owned(), 1)]);
}

fn streams_are_let_go_in_the_order_of_their_arrival(build: &Build, protocol: Protocol) {
    const REQUESTS: u64 = 20;
    // It takes connections one after the other, in the order in which they were made.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let setup = Setup {
        workers: 1,
        ..Setup::standard(&format!("upstream web {{ shunt; server {address}; }}"))
    };
    let location = "shunt_hold web; location / { proxy_pass http://web; }";
    let server = Server::start(build, protocol, setup, location);
    let nginx = &server.nginx;
    hold(nginx, "30s");
    runtime().block_on(async {
        // The connections take turns, so that the order is not that of either's streams alone.
        let clients = [server.connect().await, server.connect().await];
        let mut waiting = Vec::new();
        for n in 0..REQUESTS {
            let client = &clients[(n % 2) as usize];
            waiting.push(ask(client, "GET", &format!("/{n}"), b""));
            all_parked(nginx, n + 1).await;
        }
        resume(nginx);
        tokio::task::block_in_place(|| {
            for n in 0..REQUESTS {
                let (stream, _) = listener.accept().unwrap();
                let mut stream = BufReader::new(stream);
                let mut line = String::new();
                stream.read_line(&mut line).unwrap();
                assert!(line.starts_with(&format!("GET /{n} ")), "{line} and not {n}");
                while line != "\r\n" {
                    line.clear();
                    stream.read_line(&mut line).unwrap();
                }
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                stream.get_mut().write_all(answer).unwrap();
            }
        });
        for stream in waiting {
            assert_eq!(stream.await.unwrap().status(), 200);
        }
    });
}

fn parked_streams_survive_a_reload(build: &Build, protocol: Protocol) {
    let (server, _a) = start(build, protocol, "shunt_hold web;");
    let nginx = &server.nginx;
    hold(nginx, "30s");
    runtime().block_on(async {
        let client = server.connect().await;
        let old: Vec<_> = (0..10).map(|_| ask(&client, "POST", "/", b"body")).collect();
        all_parked(nginx, 10).await;
        tokio::task::block_in_place(|| nginx.reload());
        let new = ask(&server.connect().await, "GET", "/", b"");
        all_parked(nginx, 11).await;
        resume(nginx);
        for stream in old {
            assert_eq!(stream.await.unwrap().into_body(), b"body");
        }
        assert_eq!(new.await.unwrap().into_body(), b"a");
    });
    nothing_in_flight(nginx, "web");
    assert_eq!(requests(nginx, "web"), [("a".to_owned(), 11)]);
}

each_protocol!(
    streams_wait_until_the_resume_and_bodies_arrive_whole,
    a_stream_that_its_client_resets_leaves_its_place_to_another,
    a_client_that_leaves_is_forgotten_with_all_of_its_streams,
    streams_are_let_go_in_the_order_of_their_arrival,
    parked_streams_survive_a_reload,
);
