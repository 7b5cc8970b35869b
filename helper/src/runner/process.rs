//! The runner `process`: needs no systemd, and speaks its protocol.
//!
//! The slot's listening socket is opened here and handed over as descriptor 3 (`sd_listen_fds(3)`:
//! `LISTEN_FDS`, `LISTEN_PID`, `LISTEN_FDNAMES`). It stays open while a process that died is started
//! again, so connections wait instead of failing; and after one that was stopped, if that is wanted: the
//! first connection starts it again. Processes run in a group of their own.

mod rest;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use shunt_api::Address;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::endpoint::{self, Listener};
use crate::log;
use crate::runner::holders;
use crate::runner::leader::Leader;
use crate::runner::leftover::Identity;
use crate::runner::log::Log;
use crate::runner::start::StartError;
use crate::runner::state::{End, State};
use crate::runner::user::{self, User};

/// The first descriptor that is handed over (`SD_LISTEN_FDS_START`).
pub(crate) const LISTEN_FD: i32 = 3;

/// `LISTEN_PID` is only known once the process exists. The shell sets it and becomes the program.
const EXEC: &str = "export LISTEN_PID=$$; exec \"$@\"";

/// The pause before the first restart; it doubles with each that follows.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// A process that has run for so long starts again after the first pause.
const STABLE: Duration = Duration::from_secs(10);

/// What to run.
#[derive(Debug, Clone)]
pub struct Spec {
    /// What it is called in the daemon's log.
    pub name: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// The release's folder.
    pub folder: PathBuf,
    /// Where it listens.
    pub slot: Address,
    /// The user to run as, if it is not the daemon's.
    pub user: Option<User>,
    /// Its environment beyond the daemon's own.
    pub env: BTreeMap<String, String>,
    /// Where its output goes.
    pub log: PathBuf,
    /// How long it may take to end after `SIGTERM`.
    pub stop_timeout: Duration,
}

impl Spec {
    fn group(&self) -> Option<u32> {
        self.user.as_ref().map(|user| user.gid)
    }
}

/// A supervised process in a slot.
#[derive(Debug)]
pub struct Process {
    state: watch::Receiver<State>,
    stop: watch::Sender<bool>,
    log: Log,
    /// Gives the socket back, which is lost only with the task itself.
    task: JoinHandle<(End, Option<Listener>)>,
}

impl Process {
    /// Opens the slot's socket and starts the program.
    ///
    /// # Errors
    ///
    /// [`StartError`].
    pub async fn start(spec: Spec) -> Result<Self, StartError> {
        let listener = listen(&spec).await?;
        let (log, leader) = launch(&spec, &listener)?;
        Ok(Self::supervised(spec, listener, log, leader))
    }

    /// Stops what runs and starts another program on the same socket, which stays open, so that
    /// connections wait.
    ///
    /// # Errors
    ///
    /// [`StartError`], and the slot in which nothing runs but whose socket is still open: another
    /// program can be started there by the same call.
    pub async fn replace(self, spec: Spec) -> Result<Self, (Self, StartError)> {
        let log = self.log.clone();
        let listener = match self.end().await {
            (_, Some(listener)) => Ok(listener),
            (_, None) => listen(&spec).await,
        };
        match listener {
            Ok(listener) => match launch(&spec, &listener) {
                Ok((log, leader)) => Ok(Self::supervised(spec, listener, log, leader)),
                Err(error) => Err((Self::held(Some(listener), log), error)),
            },
            Err(error) => Err((Self::held(None, log), error)),
        }
    }

    /// Takes over a process that an earlier daemon started in this slot, and its socket, so that
    /// nobody notices that the daemon was gone.
    ///
    /// # Errors
    ///
    /// What the system says; a process whose descriptor 3 is no longer the slot's socket cannot be
    /// taken over, as it could not be started again without connections being refused.
    pub fn adopt(spec: Spec, process: Identity) -> io::Result<Self> {
        let (leader, socket) = Leader::adopt(process)?;
        let listener = Listener::adopt(socket, &spec.slot)?;
        let log = Log::open(&spec.log, spec.group())?;
        Ok(Self::supervised(spec, listener, log, leader))
    }

    fn supervised(spec: Spec, listener: Listener, log: Log, leader: Leader) -> Self {
        let running = State::Running { pid: Some(leader.pid()), restarts: 0 };
        let ((publish, state), (stop, stopped)) = (watch::channel(running), watch::channel(false));
        let supervisor = supervise(spec, listener, log.clone(), leader, publish, stopped);
        let task = tokio::spawn(async {
            let (end, listener) = supervisor.await;
            (end, Some(listener))
        });
        Self { state, stop, log, task }
    }

    /// A socket behind which nothing runs.
    fn held(listener: Option<Listener>, log: Log) -> Self {
        let ((_, state), (stop, mut stopped)) =
            (watch::channel(State::Stopped), watch::channel(false));
        let task = tokio::spawn(async move {
            ordered(&mut stopped).await;
            (End::ByItself, listener)
        });
        Self { state, stop, log, task }
    }

    /// What it is doing.
    #[must_use]
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Follows what it is doing.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Its log.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Leaves it alone, as a daemon does that is killed.
    #[cfg(test)]
    async fn abandon(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    /// Stops it: `SIGTERM`, the grace time, then `SIGKILL` to the whole group.
    pub async fn stop(self) -> End {
        self.end().await.0
    }

    async fn end(self) -> (End, Option<Listener>) {
        self.stop.send_replace(true);
        self.task.await.unwrap_or_else(|error| (End::Unknown(error.to_string()), None))
    }
}

async fn listen(spec: &Spec) -> Result<Listener, StartError> {
    let listener = endpoint::listen(&spec.slot).await;
    listener.map_err(|error| StartError::Listen { slot: spec.slot.clone(), error })
}

fn open_log(spec: &Spec) -> Result<Log, StartError> {
    let log = Log::open(&spec.log, spec.group());
    log.map_err(|error| StartError::Log { path: spec.log.clone(), error })
}

/// Opens the log and starts the program.
fn launch(spec: &Spec, listener: &Listener) -> Result<(Log, Leader), StartError> {
    let log = open_log(spec)?;
    let leader = spawn(spec, listener, &log).map_err(|error| StartError::Spawn {
        command: spec.command.clone(),
        folder: spec.folder.clone(),
        error,
    })?;
    Ok((log, leader))
}

fn spawn(spec: &Spec, listener: &Listener, log: &Log) -> io::Result<Leader> {
    // A shell that cannot find a program says so in the log only.
    if let Some(program) = spec.command.first().filter(|p| p.contains('/'))
        && !spec.folder.join(program).exists()
    {
        let why = if program.starts_with('/') {
            format!("there is no file {program}, which `[run] command` names")
        } else {
            format!(
                "the release has no file {program:?}: `[run] command` is relative to its folder"
            )
        };
        return Err(io::Error::new(io::ErrorKind::NotFound, why));
    }
    let mut command = user::command(spec.user.as_ref(), "/bin/sh");
    command.args(["-c", EXEC, "sh"]).args(&spec.command).current_dir(&spec.folder);
    command
        .envs(&spec.env)
        .env("LISTEN_FDS", "1")
        .env("LISTEN_FDNAMES", "http")
        .env_remove("NOTIFY_SOCKET")
        .env_remove("WATCHDOG_PID")
        .env_remove("WATCHDOG_USEC")
        .env_remove("JOURNAL_STREAM")
        .stdin(Stdio::null())
        .stdout(log.writer()?)
        .stderr(log.writer()?)
        .process_group(0);
    if let Address::Ip(address) = &spec.slot {
        command.env("PORT", address.port().to_string());
    }
    let socket = listener.fd.try_clone()?;
    command
        .fd_mappings(vec![FdMapping { parent_fd: socket, child_fd: LISTEN_FD }])
        .map_err(io::Error::other)?;
    Leader::own(command.spawn()?)
}

/// Waits for the end of the process, or for the order to stop it; starts it again after the former.
/// Tells how the last one ended after `SIGTERM`, and gives the socket back.
async fn supervise(
    spec: Spec,
    listener: Listener,
    log: Log,
    mut leader: Leader,
    publish: watch::Sender<State>,
    mut stop: watch::Receiver<bool>,
) -> (End, Listener) {
    let (mut restarts, mut pause) = (0, FIRST_PAUSE);
    loop {
        let began = Instant::now();
        let how = tokio::select! {
            () = ordered(&mut stop) => {
                let (pid, limit) = (leader.pid(), spec.stop_timeout);
                let graceful = leader.end(limit).await;
                if !graceful {
                    log::warning(format_args!(
                        "{}, pid {pid}, did not end within {limit:?} and was killed", spec.name
                    ));
                }
                free(&spec, &listener).await;
                publish.send_replace(State::Stopped);
                return (if graceful { End::ByItself } else { End::Killed }, listener);
            }
            how = leader.ended() => how,
        };
        // What it has left behind would share the socket with the next one.
        leader.kill_group();
        free(&spec, &listener).await;
        let lived = began.elapsed();
        if lived >= STABLE {
            pause = FIRST_PAUSE;
        }
        log::error(format_args!(
            "{}, pid {}, ended after {:.1} s with {how}; restart {} is in {pause:?}",
            spec.name,
            leader.pid(),
            lived.as_secs_f64(),
            restarts + 1,
        ));
        publish.send_replace(State::Ended { how, restarts });
        loop {
            tokio::select! {
                () = ordered(&mut stop) => {
                    publish.send_replace(State::Stopped);
                    return (End::ByItself, listener);
                }
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
            restarts += 1;
            match spawn(&spec, &listener, &log) {
                Ok(next) => {
                    leader = next;
                    break;
                }
                Err(error) => {
                    log::error(format_args!(
                        "{} cannot be started again: {error}; the next attempt is in {pause:?}",
                        spec.name
                    ));
                    publish.send_replace(State::Ended { how: error.to_string(), restarts });
                }
            }
        }
        log::notice(format_args!("{} runs again, pid {}", spec.name, leader.pid()));
        publish.send_replace(State::Running { pid: Some(leader.pid()), restarts });
    }
}

/// Ends what has left the release's group and has its socket still.
async fn free(spec: &Spec, listener: &Listener) {
    let ended = holders::end(listener.fd.as_fd()).await;
    if !ended.is_empty() {
        let pids = ended.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        log::warning(format_args!(
            "{}, pid {pids}, had left its process group and was killed, as it held the slot's socket; it \
             should run in the foreground",
            spec.name
        ));
    }
}

/// Waits for the order to stop. A daemon that forgets a process wants it to end, too.
async fn ordered(stop: &mut watch::Receiver<bool>) {
    // Without its sender the channel is closed, which is the same order.
    let _ = stop.wait_for(|stop| *stop).await;
}

#[cfg(test)]
pub(super) mod tests;
