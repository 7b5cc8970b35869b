//! The application that the demo deploys: small, but a real one.
//!
//! It takes its socket from whoever started it (`LISTEN_FDS`), names its release in every answer, tells
//! systemd when it is ready if that wants to know, and ends in order: on `SIGTERM` it finishes what it
//! has begun.
//!
//! Files in its folder make it worse: `sick` (never healthy, for this reason), `bad` (healthy, but
//! answers every request with an error), `slow-start` (so many milliseconds), `alone` (it does not start
//! while another one of its kind runs), `endless` (a download ends when the file is gone).

use std::io;
use std::sync::{Arc, Once};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
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
    let _only = alone()?;
    if let Ok(ms) = std::fs::read_to_string("slow-start") {
        tokio::time::sleep(Duration::from_millis(ms.trim().parse().map_err(io::Error::other)?))
            .await;
    }
    let (end, ending) = watch::channel(false);
    let end = Arc::new(end);
    let app = App { release, ending };
    let router = Router::new()
        .route("/", get(home))
        .route("/echo", post(|body: Bytes| async { body }))
        .route("/slow", get(slow))
        .route("/download", get(download))
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
        // In a container: 0.0.0.0.
        let host = std::env::var("HOST").unwrap_or_else(|_| "127.0.0.1".to_owned());
        let listener = TcpListener::bind(format!("{host}:{port}")).await?;
        tokio::spawn(axum::serve(listener, router).with_graceful_shutdown(stop).into_future())
    };
    // With `Type=notify`. If nobody listens, nobody waits.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
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

/// Makes sure that no other one runs, if that matters: it has what it gives until it ends.
fn alone() -> io::Result<Option<std::fs::File>> {
    if !std::path::Path::new("alone").exists() {
        return Ok(None);
    }
    // Beside `releases`.
    let file = std::fs::File::create("../../only-one")?;
    let order = rustix::fs::FlockOperation::NonBlockingLockExclusive;
    rustix::fs::flock(&file, order).map_err(|_| io::Error::other("another one runs"))?;
    Ok(Some(file))
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
    let bad = request.uri().path() != "/health" && std::path::Path::new("bad").exists();
    let mut response = next.run(request).await;
    if bad {
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    }
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

/// How often a download sends a line.
const LINE: Duration = Duration::from_millis(20);

/// Lines that come slowly, for as long as there is the file `endless`; the last one says that it is all.
/// Each is long enough that NGINX does not wait for more (`postpone_output`).
async fn download(State(app): State<App>) -> Body {
    let lines = futures_util::stream::unfold(Some(app.release), |release| async move {
        let release = release?;
        tokio::time::sleep(LINE).await;
        let (line, next) = match std::path::Path::new("endless").exists() {
            true => (format!("more of {release:.<2000}\n"), Some(release)),
            false => (format!("all of {release}\n"), None),
        };
        Some((Ok::<_, std::convert::Infallible>(line), next))
    });
    Body::from_stream(lines)
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
