//! The daemon of Shunt.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use listenfd::ListenFd;
use shunt_helper::daemon::app::App;
use shunt_helper::daemon::jobs::Jobs;
use shunt_helper::daemon::recover::Recovery;
use shunt_helper::daemon::routes::{Peer, Shared, router};
use shunt_helper::{config, wire};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};

/// Deploys releases: starts them, checks them, lets NGINX switch to them, drains and stops the old.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Args {
    /// The folder with one TOML file for each application.
    #[arg(long, default_value = config::DEFAULT_FOLDER)]
    config: PathBuf,
    /// The folder where the daemon remembers what runs.
    #[arg(long, default_value = "/var/lib/shunt")]
    state: PathBuf,
    /// The unix socket to listen on, unless systemd passes one.
    #[arg(long, default_value = wire::DEFAULT_SOCKET)]
    socket: PathBuf,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let result = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| (wire::exit::FAILED, e.to_string()))
        .and_then(|runtime| runtime.block_on(run(args)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, error)) => {
            eprintln!("shuntd: {error}");
            ExitCode::from(code)
        }
    }
}

async fn run(args: Args) -> Result<(), (u8, String)> {
    let failed = |e: String| (wire::exit::FAILED, e);
    let configs = config::load(&args.config).map_err(|e| (wire::exit::USAGE, e.to_string()))?;
    let mut apps = BTreeMap::new();
    for config in configs {
        let name = config.name.clone();
        let app = App::new(config, &args.state)
            .map_err(|e| failed(format!("what is remembered of {name}: {e}")))?;
        apps.insert(name, Arc::new(app));
    }
    let given = ListenFd::from_env().take_unix_listener(0).map_err(|e| failed(e.to_string()))?;
    let (listener, ours) = match given {
        Some(listener) => (adopt(listener).map_err(|e| failed(e.to_string()))?, None),
        None => (listen(&args.socket).await.map_err(failed)?, Some(&args.socket)),
    };
    let shared = Arc::new(Shared { apps, jobs: Jobs::default() });
    for app in shared.apps.values() {
        if let Some(recovery) = Recovery::begin(app, &shared.jobs).await {
            let shared = shared.clone();
            tokio::spawn(async move { recovery.run(&shared).await });
        }
    }
    let signals = SignalKind::terminate();
    let mut terminate = signal(signals).map_err(|e| failed(e.to_string()))?;
    let mut hangup = signal(SignalKind::hangup()).map_err(|e| failed(e.to_string()))?;
    let service = router(shared.clone()).into_make_service_with_connect_info::<Peer>();
    let server = axum::serve(listener, service);
    let place = ours.map_or_else(|| "systemd's socket".to_owned(), |s| s.display().to_string());
    eprintln!("shuntd: {} applications, listening on {place}", shared.apps.len());
    // Tells systemd, when it asked to be told.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    tokio::spawn(feed_watchdog());
    tokio::select! {
        result = server => result.map_err(|e| failed(e.to_string()))?,
        _ = terminate.recv() => {}
        // A terminal that is closed.
        _ = hangup.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    // With the runner `process` applications are the daemon's children: they end with it, in order.
    futures_util::future::join_all(shared.apps.values().map(|app| app.shut_down())).await;
    if let Some(socket) = ours {
        let _ = std::fs::remove_file(socket);
    }
    Ok(())
}

/// Tells systemd that the daemon does not hang, twice as often as it asks for (`sd_watchdog_enabled(3)`).
async fn feed_watchdog() {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut ticks = tokio::time::interval(limit / 2);
    loop {
        ticks.tick().await;
        // If nobody listens, nobody waits.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
    }
}

/// Takes the socket that systemd has opened (`sd_listen_fds(3)`); it stays systemd's.
fn adopt(listener: std::os::unix::net::UnixListener) -> std::io::Result<UnixListener> {
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Opens the socket; one that a killed daemon left is replaced, one that a living one has is not.
async fn listen(path: &std::path::Path) -> Result<UnixListener, String> {
    let failed = |e: std::io::Error| format!("cannot listen on {}: {e}", path.display());
    if tokio::net::UnixStream::connect(path).await.is_ok() {
        return Err(format!("another shuntd listens on {}", path.display()));
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    // Everybody may look; who may change something, the kernel tells.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(path, mode).map_err(failed)?;
    Ok(listener)
}
