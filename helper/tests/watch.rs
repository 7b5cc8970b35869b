//! `shunt watch` against servers that do well, and against servers that do not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::{Method, StatusCode};
use axum::response::IntoResponse;
use futures_util::{SinkExt, StreamExt};
use shunt_helper::watch::{self, Noticed, Options, Target, Verdict, Way};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn serve(router: Router) -> SocketAddr {
    let (listener, address) = listener().await;
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

async fn options(address: SocketAddr, count: u64) -> Options {
    Options {
        target: Target::parse(&format!("http://{address}/")).await.unwrap(),
        post: None,
        websocket: None,
        websocket_time: Duration::from_secs(60),
        rate: 1000,
        count: Some(count),
        timeout: Duration::from_secs(10),
        header: "X-Release".to_owned(),
    }
}

/// Watches until enough was asked.
async fn run(options: Options) -> (Verdict, Vec<Noticed>) {
    let mut noticed = Vec::new();
    let verdict = watch::run(options, std::future::pending(), |n| noticed.push(n.clone())).await;
    (verdict, noticed)
}

#[tokio::test]
async fn every_request_is_counted_and_a_new_release_is_noticed() {
    let asked = Arc::new(AtomicU64::new(0));
    let (count, posts) = (asked.clone(), Arc::new(AtomicU64::new(0)));
    let posted = posts.clone();
    let router = Router::new().fallback(move |method: Method| async move {
        posted.fetch_add(u64::from(method == Method::POST), Ordering::SeqCst);
        let release = if count.fetch_add(1, Ordering::SeqCst) < 50 { "v1" } else { "v2" };
        [("X-Release", release)]
    });
    let options =
        Options { post: Some("/echo".to_owned()), ..options(serve(router).await, 100).await };
    let (verdict, noticed) = run(options).await;
    assert!(verdict.is_good(), "{verdict:?}");
    assert_eq!((verdict.requests, asked.load(Ordering::SeqCst)), (100, 100));
    assert_eq!((verdict.releases["v1"], verdict.releases["v2"]), (50, 50));
    assert_eq!(posts.load(Ordering::SeqCst), 50);
    let releases: Vec<_> = noticed
        .iter()
        .filter_map(|n| match n {
            Noticed::Release { release, .. } => Some(release.as_str()),
            Noticed::Failure(_) => None,
        })
        .collect();
    // Answers overtake each other at the moment of the change.
    assert_eq!((releases.first(), releases.last()), (Some(&"v1"), Some(&"v2")));
}

#[tokio::test]
async fn one_bad_answer_is_a_failure_with_its_cause() {
    let asked = Arc::new(AtomicU64::new(0));
    let router = Router::new().fallback(move || {
        let nth = asked.fetch_add(1, Ordering::SeqCst);
        async move {
            match nth {
                7 => StatusCode::BAD_GATEWAY.into_response(),
                _ => "well".into_response(),
            }
        }
    });
    let (verdict, noticed) = run(options(serve(router).await, 30).await).await;
    assert!(!verdict.is_good());
    assert_eq!((verdict.requests, verdict.failures), (30, 1));
    assert_eq!(verdict.first_failures[0].why, "status 502 Bad Gateway");
    assert!(noticed.iter().any(|n| n.to_string().contains("FAILED GET: status 502")));
}

#[tokio::test]
async fn nobody_there_is_a_failure_and_one_long_gap() {
    let (listener, address) = listener().await;
    drop(listener);
    let (verdict, _) = run(Options { rate: 100, ..options(address, 10).await }).await;
    assert_eq!((verdict.requests, verdict.failures), (10, 10));
    assert!(verdict.first_failures[0].why.starts_with("connect:"), "{verdict:?}");
    assert!(verdict.longest_gap >= 90.0, "{verdict:?}");
}

/// A server that answers one request on each connection, and closes it when the second one comes.
async fn closes_at_the_second() -> SocketAddr {
    let (listener, address) = listener().await;
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut request = [0; 4096];
                if stream.read(&mut request).await.is_ok_and(|n| n > 0) {
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                    stream.write_all(answer).await.unwrap();
                    let _ = stream.read(&mut request).await;
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_get_is_asked_again_when_the_server_closes_an_idle_connection_and_that_is_told() {
    let address = closes_at_the_second().await;
    // One at a time, so that connections are used again.
    let (verdict, _) = run(Options { rate: 100, ..options(address, 40).await }).await;
    assert!(verdict.is_good(), "{verdict:?}");
    assert!(verdict.retried > 0, "{verdict:?}");
    assert!(verdict.to_string().contains("retried"), "{verdict}");
}

#[tokio::test]
async fn a_post_is_never_asked_again() {
    let address = closes_at_the_second().await;
    let posts = Options { rate: 100, post: Some("/".to_owned()), ..options(address, 40).await };
    let (verdict, _) = run(posts).await;
    assert!(verdict.failures > 0, "{verdict:?}");
    assert!(verdict.first_failures.iter().all(|f| f.why.starts_with("kept-open connection")));
}

/// A server whose WebSockets echo so many messages; tells when it has broken one, or has echoed
/// five on one.
async fn echoes(messages: usize) -> (SocketAddr, Arc<Notify>) {
    let (listener, address) = listener().await;
    let enough = Arc::new(Notify::new());
    let told = enough.clone();
    tokio::spawn(async move {
        let mut sockets = 0;
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // What is no WebSocket is turned away, which the tests do not look at.
            let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { continue };
            sockets += 1;
            if sockets == 2 {
                // The client has seen that the first one broke.
                told.notify_one();
            }
            let told = told.clone();
            tokio::spawn(async move {
                for n in 0..messages {
                    let Some(Ok(message)) = socket.next().await else { return };
                    if socket.send(message).await.is_err() {
                        return;
                    }
                    if n == 5 {
                        told.notify_one();
                    }
                }
            });
        }
    });
    (address, enough)
}

/// Watches a WebSocket and tells what has become of it.
async fn watch_websocket(messages: usize) -> (u64, Vec<String>) {
    let (address, enough) = echoes(messages).await;
    let options = Options {
        websocket: Some("/ws".to_owned()),
        count: None,
        rate: 1,
        ..options(address, 0).await
    };
    let verdict = watch::run(options, enough.notified(), |_| {}).await;
    let broken = verdict.first_failures.iter().filter(|f| matches!(f.way, Way::Websocket));
    (verdict.messages, broken.map(|f| f.why.clone()).collect())
}

#[tokio::test]
async fn a_websocket_that_echoes_is_good() {
    let (messages, failures) = watch_websocket(usize::MAX).await;
    assert!(messages >= 5, "{messages}");
    assert!(failures.is_empty(), "{failures:?}");
}

#[tokio::test]
async fn a_websocket_that_breaks_is_a_failure_and_the_next_one_is_opened() {
    let (_, failures) = watch_websocket(3).await;
    assert!(!failures.is_empty());
}
