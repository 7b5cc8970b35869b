//! The runner `process`: needs no systemd, and speaks its protocol.
//!
//! The slot's listening socket is opened here and handed over as descriptor 3 (`sd_listen_fds(3)`:
//! `LISTEN_FDS`, `LISTEN_PID`, `LISTEN_FDNAMES`). It stays open while a process that died is started
//! again, so connections wait instead of failing. Processes run in a group of their own.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use rustix::process::{Pid, Signal, kill_process_group};
use shunt_api::Address;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::endpoint::{self, Listener};
use crate::runner::log::Log;

/// The first descriptor that is handed over (`SD_LISTEN_FDS_START`).
const LISTEN_FD: i32 = 3;

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
    /// Program and arguments.
    pub command: Vec<String>,
    /// The release's folder.
    pub folder: PathBuf,
    /// Where it listens.
    pub slot: Address,
    /// Its environment beyond the daemon's own.
    pub env: BTreeMap<String, String>,
    /// Where its output goes.
    pub log: PathBuf,
    /// How long it may take to end after `SIGTERM`.
    pub stop_timeout: Duration,
}

/// What a process is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It runs.
    Running {
        /// Its pid.
        pid: u32,
        /// How often it had to be started again.
        restarts: u32,
    },
    /// It ended by itself and will be started again.
    Ended {
        /// How it ended.
        how: String,
        /// How often it had to be started again.
        restarts: u32,
    },
    /// It was stopped.
    Stopped,
}

/// Why a process cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The slot's socket cannot be opened.
    #[error("cannot listen on slot {slot}: {error}")]
    Listen {
        /// The slot.
        slot: Address,
        /// What the system said.
        error: io::Error,
    },
    /// The log cannot be opened.
    #[error("cannot open log {path:?}: {error}")]
    Log {
        /// The log.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The program cannot be started.
    #[error("cannot start {command:?} in {folder:?}: {error}")]
    Spawn {
        /// The program.
        command: Vec<String>,
        /// Where.
        folder: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

impl StartError {
    /// Whether somebody else listens there.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        matches!(self, Self::Listen { error, .. } if error.kind() == io::ErrorKind::AddrInUse)
    }
}

/// A supervised process in a slot.
#[derive(Debug)]
pub struct Process {
    state: watch::Receiver<State>,
    stop: watch::Sender<bool>,
    log: Log,
    task: JoinHandle<bool>,
}

impl Process {
    /// Opens the slot's socket and starts the program.
    ///
    /// # Errors
    ///
    /// [`StartError`].
    pub async fn start(spec: Spec) -> Result<Self, StartError> {
        let listener = endpoint::listen(&spec.slot)
            .await
            .map_err(|error| StartError::Listen { slot: spec.slot.clone(), error })?;
        let log = Log::open(&spec.log)
            .map_err(|error| StartError::Log { path: spec.log.clone(), error })?;
        let child = spawn(&spec, &listener, &log).map_err(|error| StartError::Spawn {
            command: spec.command.clone(),
            folder: spec.folder.clone(),
            error,
        })?;
        let pid = child.id().unwrap_or_default();
        let (publish, state) = watch::channel(State::Running { pid, restarts: 0 });
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(supervise(spec, listener, log.clone(), child, publish, stopped));
        Ok(Self { state, stop, log, task })
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

    /// Stops it: `SIGTERM`, the grace time, then `SIGKILL` to the whole group. Tells whether it ended
    /// by itself.
    pub async fn stop(self) -> bool {
        self.stop.send_replace(true);
        self.task.await.unwrap_or(false)
    }
}

fn spawn(spec: &Spec, listener: &Listener, log: &Log) -> io::Result<Child> {
    // A shell that cannot find a program says so in the log only.
    if let Some(program) = spec.command.first().filter(|p| p.contains('/'))
        && !spec.folder.join(program).exists()
    {
        return Err(io::ErrorKind::NotFound.into());
    }
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", EXEC, "sh"])
        .args(&spec.command)
        .current_dir(&spec.folder)
        .envs(&spec.env)
        .env("LISTEN_FDS", "1")
        .env("LISTEN_FDNAMES", "http")
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .stdout(log.writer()?)
        .stderr(log.writer()?)
        .process_group(0)
        .kill_on_drop(true);
    if let Address::Ip(address) = &spec.slot {
        command.env("PORT", address.port().to_string());
    }
    let socket = listener.fd.try_clone()?;
    command
        .fd_mappings(vec![FdMapping { parent_fd: socket, child_fd: LISTEN_FD }])
        .map_err(io::Error::other)?;
    command.spawn()
}

/// Waits for the end of the process, or for the order to stop it; starts it again after the former.
/// Tells whether the last one ended by itself after `SIGTERM`.
async fn supervise(
    spec: Spec,
    listener: Listener,
    log: Log,
    mut child: Child,
    publish: watch::Sender<State>,
    mut stop: watch::Receiver<bool>,
) -> bool {
    let (mut restarts, mut pause) = (0, FIRST_PAUSE);
    loop {
        let began = Instant::now();
        let how = tokio::select! {
            () = ordered(&mut stop) => {
                let graceful = end(&mut child, spec.stop_timeout).await;
                publish.send_replace(State::Stopped);
                return graceful;
            }
            status = child.wait() => status.map_or_else(|e| e.to_string(), describe),
        };
        if began.elapsed() >= STABLE {
            pause = FIRST_PAUSE;
        }
        publish.send_replace(State::Ended { how, restarts });
        loop {
            tokio::select! {
                () = ordered(&mut stop) => {
                    publish.send_replace(State::Stopped);
                    return true;
                }
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
            restarts += 1;
            match spawn(&spec, &listener, &log) {
                Ok(next) => {
                    child = next;
                    break;
                }
                Err(error) => {
                    publish.send_replace(State::Ended { how: error.to_string(), restarts });
                }
            }
        }
        let pid = child.id().unwrap_or_default();
        publish.send_replace(State::Running { pid, restarts });
    }
}

/// Waits for the order to stop. A daemon that forgets a process wants it to end, too.
async fn ordered(stop: &mut watch::Receiver<bool>) {
    // Without its sender the channel is closed, which is the same order.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Ends a process and its group. Tells whether it did so itself in time.
async fn end(child: &mut Child, grace: Duration) -> bool {
    // The leader's pid is the group's; it is not given away while the leader is not waited for.
    let group = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    let signal = |signal| group.is_some_and(|group| kill_process_group(group, signal).is_ok());
    signal(Signal::TERM);
    let graceful = tokio::time::timeout(grace, child.wait()).await.is_ok();
    // Also whatever the leader has left behind.
    signal(Signal::KILL);
    if !graceful {
        // What was killed is gone in a moment.
        let _ = child.wait().await;
    }
    graceful
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown end".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(folder: &std::path::Path, script: &str) -> Spec {
        let slot = Address::Unix(folder.join("slot.sock"));
        Spec {
            command: vec!["/bin/sh".into(), "-c".into(), script.into()],
            folder: folder.to_owned(),
            slot,
            env: BTreeMap::from([("RELEASE".to_owned(), "v1".to_owned())]),
            log: folder.join("v1.log"),
            stop_timeout: Duration::from_secs(5),
        }
    }

    async fn until(process: &Process, wanted: impl FnMut(&State) -> bool) -> State {
        let mut watch = process.watch();
        let found = tokio::time::timeout(Duration::from_secs(20), watch.wait_for(wanted));
        found.await.expect("in time").expect("supervised").clone()
    }

    async fn lines(process: &Process, n: usize) -> Vec<String> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let lines = process.log().last_lines(100);
            if lines.len() >= n {
                return lines;
            }
            assert!(Instant::now() < deadline, "{lines:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_process_gets_its_socket_as_systemd_would_give_it() {
        let tmp = tempfile::tempdir().unwrap();
        let script = "echo $LISTEN_FDS $LISTEN_FDNAMES $RELEASE $((LISTEN_PID == $$)); \
                      [ -S /proc/$$/fd/3 ] && echo socket; pwd; exec sleep 60";
        let process = Process::start(spec(tmp.path(), script)).await.unwrap();
        let lines = lines(&process, 3).await;
        assert_eq!(lines[..2], ["1 http v1 1", "socket"]);
        assert_eq!(lines[2], tmp.path().canonicalize().unwrap().to_str().unwrap());
        assert!(process.stop().await, "sleep ends on SIGTERM");
        assert!(!tmp.path().join("slot.sock").exists());
    }

    #[tokio::test]
    async fn connections_wait_while_a_process_that_died_starts_again() {
        let tmp = tempfile::tempdir().unwrap();
        let process = Process::start(spec(tmp.path(), "echo once; exit 7")).await.unwrap();
        let state = until(&process, |s| matches!(s, State::Ended { restarts: 1, .. })).await;
        assert_eq!(state, State::Ended { how: "exit status 7".to_owned(), restarts: 1 });
        // Nobody accepts, but the connection is made.
        tokio::net::UnixStream::connect(tmp.path().join("slot.sock")).await.unwrap();
        process.stop().await;
    }

    #[tokio::test]
    async fn a_process_that_ignores_sigterm_is_killed_with_its_whole_group() {
        let tmp = tempfile::tempdir().unwrap();
        let script = "trap '' TERM; sleep 600 & echo $!; while :; do sleep 600; done";
        let mut spec = spec(tmp.path(), script);
        spec.stop_timeout = Duration::from_millis(200);
        let process = Process::start(spec).await.unwrap();
        let pid: u32 = lines(&process, 1).await[0].parse().unwrap();
        assert!(!process.stop().await);
        let deadline = Instant::now() + Duration::from_secs(10);
        let running = || {
            std::fs::read_to_string(format!("/proc/{pid}/stat"))
                .is_ok_and(|stat| !stat.contains(") Z "))
        };
        while running() {
            assert!(Instant::now() < deadline, "the child of the group still runs");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn what_cannot_be_started_says_why() {
        let tmp = tempfile::tempdir().unwrap();
        let mut spec = spec(tmp.path(), "");
        spec.command = vec!["./nothing".to_owned()];
        let error = Process::start(spec.clone()).await.unwrap_err();
        assert!(matches!(error, StartError::Spawn { .. }), "{error}");
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        spec.slot = Address::Ip(taken.local_addr().unwrap());
        let error = Process::start(spec).await.unwrap_err();
        assert!(error.is_in_use(), "{error}");
    }
}
