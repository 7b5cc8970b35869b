//! The daemon of Shunt.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use listenfd::ListenFd;
use sd_notify::NotifyState;
use shunt_helper::daemon::lock::StateLock;
use shunt_helper::daemon::reload;
use shunt_helper::daemon::routes::{Peer, router};
use shunt_helper::daemon::shared::Shared;
use shunt_helper::daemon::terminal::Terminal;
use shunt_helper::{config, log, wire};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};

/// Deploys releases: starts them, checks them, lets NGINX switch to them, drains and stops the old.
#[derive(Debug, Parser)]
#[command(version, after_help = SIGNALS)]
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

const SIGNALS: &str = "\
Signals:
  HUP        read the folder of applications again; what runs goes on. When the terminal that
             shuntd was started on is closed, it is the order to end
  TERM, INT  end: jobs are cut off, applications are stopped, and start again with shuntd";

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
            log::error(error);
            ExitCode::from(code)
        }
    }
}

async fn run(args: Args) -> Result<(), (u8, String)> {
    let failed = |e: String| (wire::exit::FAILED, e);
    let terminal = Terminal::at_start();
    // From here on no signal is lost.
    let listen_for = |kind| signal(kind).map_err(|e| failed(e.to_string()));
    let mut terminate = listen_for(SignalKind::terminate())?;
    let mut interrupt = listen_for(SignalKind::interrupt())?;
    let mut hangup = listen_for(SignalKind::hangup())?;
    let configs = config::load(&args.config).map_err(|e| (wire::exit::USAGE, e.to_string()))?;
    // Before anything is read that another daemon may be writing.
    let _lock = StateLock::take(&args.state).map_err(|e| failed(e.to_string()))?;
    let given = ListenFd::from_env().take_unix_listener(0).map_err(|e| failed(e.to_string()))?;
    let (listener, file) = match given {
        Some(listener) => (adopt(listener).map_err(|e| failed(e.to_string()))?, None),
        None => {
            let listener = listen(&args.socket).await.map_err(failed)?;
            (listener, Some(SocketFile(&args.socket)))
        }
    };
    let shared = Arc::new(Shared::default());
    reload::apply(&shared, configs, &args.state).await.map_err(|e| failed(e.to_string()))?;
    let service = router(shared.clone()).into_make_service_with_connect_info::<Peer>();
    let mut server = tokio::spawn(axum::serve(listener, service).into_future());
    let place =
        file.as_ref().map_or_else(|| "systemd's socket".to_owned(), |f| f.0.display().to_string());
    let status = reload::status(shared.all().await.len());
    log::info(format_args!("{status} in {}, listening on {place}", args.config.display()));
    // Tells systemd, when it asked to be told.
    let _ = sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
    tokio::spawn(feed_watchdog());
    loop {
        tokio::select! {
            result = &mut server => match result {
                Ok(result) => {
                    result.map_err(|e| failed(e.to_string()))?;
                    break;
                }
                Err(error) => return Err(failed(error.to_string())),
            },
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => {
                if terminal.is_gone() {
                    break;
                }
                reload::on_hangup(&shared, &args.config, &args.state).await;
            }
        }
    }
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    // With the runner `process` applications are the daemon's children: they end with it, in order.
    let apps = shared.all().await;
    futures_util::future::join_all(apps.iter().map(|app| app.shut_down())).await;
    Ok(())
}

/// The file of a socket that is the daemon's own: it goes with it.
struct SocketFile<'a>(&'a std::path::Path);

impl Drop for SocketFile<'_> {
    fn drop(&mut self) {
        // The next daemon replaces one that stays.
        let _ = std::fs::remove_file(self.0);
    }
}

/// Tells systemd that the daemon does not hang, twice as often as it asks for (`sd_watchdog_enabled(3)`).
async fn feed_watchdog() {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut ticks = tokio::time::interval(limit / 2);
    loop {
        ticks.tick().await;
        // If nobody listens, nobody waits.
        let _ = sd_notify::notify(&[NotifyState::Watchdog]);
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
