//! The application that the demo deploys: small, but a real one.
//!
//! It takes its socket from whoever started it (`LISTEN_FDS`), names its release in every answer, and
//! ends in order: on `SIGTERM` it finishes what it has begun.

use std::io;
use std::sync::{Arc, Once};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{Query, Request, State};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use serde::Deserialize;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// How long open requests and WebSockets may take after `SIGTERM`.
const GRACE: Duration = Duration::from_secs(5);

/// What every handler knows.
#[derive(Clone)]
struct App {
    release: String,
    /// Tells when to end; main waits until every WebSocket has dropped its own.
    ending: watch::Receiver<bool>,
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let release = release()?;
    println!("release {release} starts");
    let (end, ending) = watch::channel(false);
    let end = Arc::new(end);
    let app = App { release, ending };
    let router = Router::new()
        .route("/", get(home))
        .route("/echo", post(|body: Bytes| async { body }))
        .route("/slow", get(slow))
        .route("/health", get(health))
        .route("/ws", get(websocket))
        // Whatever else is asked for: what was sent, or who is there.
        .fallback(anything)
        .layer(middleware::from_fn_with_state(app.clone(), name_release))
        .with_state(app);

    let mut terminate = signal(SignalKind::terminate())?;
    let order = end.clone();
    let stop = async move {
        terminate.recv().await;
        println!("ending");
        order.send_replace(true);
    };
    let mut fds = listenfd::ListenFd::from_env();
    let unix = std::env::var("SHUNT_SLOT").is_ok_and(|slot| slot.starts_with("unix:"));
    let (tcp, unix) =
        if unix { (None, fds.take_unix_listener(0)?) } else { (fds.take_tcp_listener(0)?, None) };
    let serve = if let Some(listener) = tcp {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        tokio::spawn(axum::serve(listener, router).with_graceful_shutdown(stop).into_future())
    } else if let Some(listener) = unix {
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        tokio::spawn(axum::serve(listener, router).with_graceful_shutdown(stop).into_future())
    } else {
        let port = std::env::var("PORT").unwrap_or_else(|_| "3000".to_owned());
        let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
        tokio::spawn(axum::serve(listener, router).with_graceful_shutdown(stop).into_future())
    };
    let late = async {
        told(&mut end.subscribe()).await;
        tokio::time::sleep(GRACE).await;
    };
    let done = async {
        serve.await.map_err(io::Error::other)??;
        end.closed().await;
        Ok(())
    };
    tokio::select! {
        done = done => done,
        () = late => Ok(()),
    }
}

/// Waits for the order to end.
async fn told(ending: &mut watch::Receiver<bool>) {
    // A sender that is gone says the same.
    let _ = ending.wait_for(|ending| *ending).await;
}

/// The release's name: from the file that came with it, or from whoever started it.
fn release() -> io::Result<String> {
    match std::fs::read_to_string("REVISION") {
        Ok(name) => Ok(name.trim().to_owned()),
        Err(error) => std::env::var("RELEASE").map_err(|_| error),
    }
}

async fn name_release(State(app): State<App>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if let Ok(value) = HeaderValue::from_str(&app.release) {
        response.headers_mut().insert("x-release", value);
    }
    response
}

async fn home(State(app): State<App>) -> String {
    format!("hello from {}\n", app.release)
}

async fn anything(State(app): State<App>, body: Bytes) -> Bytes {
    if body.is_empty() { app.release.into() } else { body }
}

#[derive(Deserialize)]
struct Slow {
    #[serde(default)]
    ms: u64,
}

async fn slow(State(app): State<App>, Query(slow): Query<Slow>) -> String {
    tokio::time::sleep(Duration::from_millis(slow.ms.min(60_000))).await;
    format!("{} took {} ms\n", app.release, slow.ms)
}

/// Healthy, unless the release has a file `sick`, whose text is the reason.
async fn health() -> (StatusCode, String) {
    match std::fs::read_to_string("sick") {
        Ok(why) => {
            static SAID: Once = Once::new();
            SAID.call_once(|| println!("not healthy: {}", why.trim()));
            (StatusCode::SERVICE_UNAVAILABLE, why)
        }
        Err(_) => (StatusCode::OK, "ok\n".to_owned()),
    }
}

async fn websocket(State(app): State<App>, upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(|socket| async move {
        // A client that has gone needs no more.
        let _ = talk(app, socket).await;
    })
}

/// Says its release first, then sends back what it gets, until the client closes it
/// or the release ends.
async fn talk(mut app: App, mut socket: WebSocket) -> Result<(), axum::Error> {
    socket.send(Message::text(app.release.clone())).await?;
    loop {
        tokio::select! {
            () = told(&mut app.ending) => break,
            message = socket.recv() => match message.transpose()? {
                Some(message @ (Message::Text(_) | Message::Binary(_))) => socket.send(message).await?,
                Some(Message::Ping(_) | Message::Pong(_)) => {}
                Some(Message::Close(_)) | None => return Ok(()),
            }
        }
    }
    let frame = CloseFrame { code: close_code::AWAY, reason: "the release ends".into() };
    socket.send(Message::Close(Some(frame))).await
}
