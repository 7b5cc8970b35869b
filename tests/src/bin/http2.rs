//! Requests over HTTP/2 without TLS, twenty times a second on one connection, until `SIGINT`. Prints its
//! pid, and for each request the release that has answered, or why none has.

use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

/// How often it asks.
const BEAT: Duration = Duration::from_millis(50);

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> ExitCode {
    let Some(server) = std::env::args().nth(1) else {
        eprintln!("usage: shunt-http2 HOST:PORT");
        return ExitCode::FAILURE;
    };
    let Ok(mut interrupt) = signal(SignalKind::interrupt()) else { return ExitCode::FAILURE };
    println!("{}", std::process::id());
    let (mut beat, mut requests) = (tokio::time::interval(BEAT), JoinSet::new());
    let mut kept = None;
    for n in 0.. {
        tokio::select! {
            _ = beat.tick() => {}
            _ = interrupt.recv() => break,
        }
        let connection = match ready(&server, kept.take()).await {
            Ok(connection) => connection,
            Err(why) => {
                println!("failed connect: {why}");
                continue;
            }
        };
        kept = Some(connection.clone());
        let server = server.clone();
        requests.spawn(async move {
            match tokio::time::timeout(LIMIT, ask(&server, connection, n % 2 == 1)).await {
                Ok(Ok(release)) => println!("{release}"),
                Ok(Err(why)) => println!("failed {why}"),
                Err(_) => println!("failed no answer within {LIMIT:?}"),
            }
        });
    }
    requests.join_all().await;
    ExitCode::SUCCESS
}

/// A connection on which something can be asked: this one, or a new one.
async fn ready(
    server: &str,
    kept: Option<SendRequest<Bytes>>,
) -> Result<SendRequest<Bytes>, String> {
    if let Some(kept) = kept
        && let Ok(kept) = kept.ready().await
    {
        return Ok(kept);
    }
    let connect = async {
        let stream = TcpStream::connect(server).await.map_err(|e| e.to_string())?;
        h2::client::handshake(stream).await.map_err(|e| e.to_string())
    };
    let connected = tokio::time::timeout(LIMIT, connect).await.map_err(|e| e.to_string())?;
    let (sender, connection) = connected?;
    tokio::spawn(connection);
    sender.ready().await.map_err(|e| e.to_string())
}

/// Asks, and again if the server says that it has not looked at it (RFC 9113, section 8.7).
async fn ask(server: &str, connection: SendRequest<Bytes>, post: bool) -> Result<String, String> {
    match once(connection, post).await {
        Err(error) if is_untouched(&error) => {
            let again = ready(server, None).await?;
            once(again, post).await.map_err(|e| e.to_string())
        }
        result => result.map_err(|e| e.to_string()),
    }
    .and_then(|answer| answer)
}

fn is_untouched(error: &h2::Error) -> bool {
    let reason = error.reason();
    (error.is_go_away() && reason == Some(h2::Reason::NO_ERROR))
        || (error.is_reset() && reason == Some(h2::Reason::REFUSED_STREAM))
}

/// One request: which release has answered, or what it has answered instead.
async fn once(
    mut connection: SendRequest<Bytes>,
    post: bool,
) -> Result<Result<String, String>, h2::Error> {
    let builder =
        if post { Request::post("http://server/echo") } else { Request::get("http://server/") };
    let Ok(request) = builder.body(()) else { return Ok(Err("no request".to_owned())) };
    let (response, mut body) = connection.send_request(request, !post)?;
    if post {
        body.send_data(Bytes::from_static(b"shunt"), true)?;
    }
    let response = response.await?;
    let (head, mut body) = response.into_parts();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
    }
    if !head.status.is_success() {
        return Ok(Err(format!("status {}", head.status)));
    }
    let release = head.headers.get("x-release").and_then(|name| name.to_str().ok());
    Ok(Ok(release.unwrap_or("nobody").to_owned()))
}
