//! The daemon as a service: from its start to its end.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use listenfd::ListenFd;
use sd_notify::NotifyState;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{self, ConfigError};
use crate::daemon::ending;
use crate::daemon::lock::{LockError, StateLock};
use crate::daemon::peer::{GroupError, Peer, Rights};
use crate::daemon::reload::{self, ReloadError};
use crate::daemon::routes::router;
use crate::daemon::seats::Seats;
use crate::daemon::shared::Shared;
use crate::daemon::terminal::Terminal;
use crate::deploy::jobs::Jobs;
use crate::deploy::journal::{Journal, JournalError, Observer};
use crate::endpoint::{self, ListenError};
use crate::log;
use crate::wire::exit;

/// Where a daemon finds what it needs.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder with one TOML file for each application.
    pub config: PathBuf,
    /// The folder where it remembers what runs.
    pub state: PathBuf,
    /// The unix socket to listen on, unless systemd passes one.
    pub socket: PathBuf,
    /// The group whose members may change something, too.
    pub group: Option<String>,
}

/// Why a daemon does not start, or ends.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The group cannot be given rights.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// The state folder cannot be had.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The configuration does not take effect.
    #[error(transparent)]
    Reload(#[from] ReloadError),
    /// Another daemon is there.
    #[error("another shuntd listens on {}", .0.display())]
    Taken(PathBuf),
    /// The socket cannot be opened.
    #[error("cannot listen on {}: {error}", path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// Why.
        error: ListenError,
    },
    /// The system refuses something else.
    #[error(transparent)]
    System(#[from] io::Error),
}

impl ServiceError {
    /// The exit code that goes with it.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Group(_) => exit::USAGE,
            _ => exit::FAILED,
        }
    }
}

/// How long answers may take at the end that are under way: NGINX may be asked for them.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// How long is waited at the end for what cannot be cancelled: reading and writing files.
const LAST_WORK: Duration = Duration::from_secs(5);

/// How long webhooks may take at the end to be told of the last jobs.
const LAST_TOLD: Duration = Duration::from_secs(3);

/// Runs the daemon until it is told to end. The observer is told of each intent in the journal.
///
/// # Errors
///
/// [`ServiceError`].
pub fn run(options: &Options, observer: Observer) -> Result<(), ServiceError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(serve(options, observer));
    // A thread may wait for a disk or a mount for ever. Its job is cut off, as by a kill.
    runtime.shutdown_timeout(LAST_WORK);
    ended
}

async fn serve(options: &Options, observer: Observer) -> Result<(), ServiceError> {
    let terminal = Terminal::at_start();
    // From here on no signal is lost.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let configs = config::load(&options.config)?;
    let rights = Rights::new(options.group.as_deref())?;
    // Before anything is read that another daemon may be writing.
    let _lock = StateLock::take(&options.state)?;
    let given = ListenFd::from_env().take_unix_listener(0)?;
    let (listener, file) = match given {
        Some(listener) => (adopt(listener)?, None),
        None => {
            let listener = listen(&options.socket).await?;
            (listener, Some(SocketFile(&options.socket)))
        }
    };
    let journal = Journal::observed(&options.state, observer)?;
    let shared = Arc::new(Shared::new(Jobs::new(Arc::new(journal)).await?, rights));
    reload::apply(&shared, configs).await?;
    let service = router(shared.clone()).into_make_service_with_connect_info::<Peer>();
    let ends = {
        let shared = shared.clone();
        async move { shared.ends().await }
    };
    let server = axum::serve(Seats::new(listener), service).with_graceful_shutdown(ends);
    let mut server = tokio::spawn(server.into_future());
    let place =
        file.as_ref().map_or_else(|| "systemd's socket".to_owned(), |f| f.0.display().to_string());
    let status = reload::status(shared.all().await.len());
    log::info(format_args!("{status} in {}, listening on {place}", options.config.display()));
    // Tells systemd, when it asked to be told.
    let _ = sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
    tokio::spawn(feed_watchdog());
    loop {
        tokio::select! {
            // It serves until it is told to end.
            result = &mut server => {
                result.map_err(io::Error::other)??;
                return Ok(());
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => {
                if terminal.is_gone() {
                    break;
                }
                reload::on_hangup(&shared, &options.config).await;
            }
        }
    }
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    // What was asked is answered, and who follows is let go. Nobody else is let in: with systemd's socket
    // he waits for the next daemon.
    shared.end();
    let _ = tokio::time::timeout(LAST_ANSWERS, &mut server).await;
    let apps = shared.all().await;
    let told =
        || futures_util::future::join_all(apps.iter().map(|app| app.notifier.finish(LAST_TOLD)));
    if ending::is_restart().await {
        log::info(format_args!("systemd restarts shuntd: what runs is left to the next one"));
        let flush = tokio::time::timeout(LAST_WORK, shared.jobs.journal().flush());
        match tokio::join!(flush, told()).0 {
            Ok(Ok(())) => {}
            Ok(Err(error)) => log::error(error),
            Err(_) => log::error(format_args!(
                "the last events of jobs are not in the journal: it took longer than {LAST_WORK:?}"
            )),
        }
        // As if it were killed: nothing is stopped, closed or removed, and all that the next one needs is
        // in the journal.
        std::process::exit(0);
    }
    shared.cut_off().await;
    // With the runner `process` applications are the daemon's children: they end with it, in order.
    let ended = futures_util::future::join_all(apps.iter().map(|app| app.shut_down()));
    tokio::join!(ended, told());
    Ok(())
}

/// The file of a socket that is the daemon's own: it goes with it.
struct SocketFile<'a>(&'a Path);

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
fn adopt(listener: std::os::unix::net::UnixListener) -> io::Result<UnixListener> {
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Opens the socket; one that a killed daemon left is replaced, one that a living one has is not.
async fn listen(path: &Path) -> Result<UnixListener, ServiceError> {
    let wrong = |error: ListenError| match error {
        ListenError::Taken => ServiceError::Taken(path.to_owned()),
        error => ServiceError::Listen { path: path.to_owned(), error },
    };
    let failed = |error: io::Error| wrong(error.into());
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    endpoint::make_room(path).await.map_err(wrong)?;
    let listener = UnixListener::bind(path).map_err(failed)?;
    // Everybody may look; who may change something, the kernel tells.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(path, mode).map_err(failed)?;
    Ok(listener)
}
