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

use crate::endpoint::{self, ListenError, Listener};
use crate::log;
use crate::runner::docker::DockerError;
use crate::runner::external::ResolveError;
use crate::runner::holders;
use crate::runner::leader::Leader;
use crate::runner::leftover::Identity;
use crate::runner::log::Log;
use crate::runner::state::{End, State};
use crate::runner::systemd::SystemdError;
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

/// Why a release cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The slot's socket cannot be opened.
    #[error("cannot listen on slot {slot}: {error}{}", who(slot, error))]
    Listen {
        /// The slot.
        slot: Address,
        /// Why.
        error: ListenError,
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
    /// systemd does not start it.
    #[error(transparent)]
    Systemd(#[from] SystemdError),
    /// Docker does not start it.
    #[error(transparent)]
    Docker(#[from] Box<DockerError>),
    /// What runs in the slot was started by another runner than the application has now.
    #[error(
        "the slot is held by another runner than the configuration has now: stop its release first"
    )]
    OtherRunner,
    /// Somebody else's slot cannot be found.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
}

/// How to find who listens there.
fn who(slot: &Address, error: &ListenError) -> String {
    match slot {
        _ if !error.is_in_use() => String::new(),
        Address::Ip(address) => {
            format!("; `ss -lntp sport = :{}` tells who does", address.port())
        }
        Address::Unix(path) => format!("; `ss -lxp src {}` tells who does", path.display()),
    }
}

impl From<DockerError> for StartError {
    fn from(error: DockerError) -> Self {
        Self::Docker(Box::new(error))
    }
}

impl StartError {
    /// The last that the release has said.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        match self {
            Self::Systemd(SystemdError::Failed { lines, .. }) => lines,
            _ => &[],
        }
    }

    /// Whether somebody else listens there.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        match self {
            Self::Listen { error, .. } => error.is_in_use(),
            // There is hardly another reason for a socket.
            Self::Systemd(SystemdError::Failed { unit, .. }) => unit.ends_with(".socket"),
            Self::Docker(error) => matches!(**error, DockerError::InUse { .. }),
            _ => false,
        }
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
pub(super) mod tests {
    use super::*;

    pub(super) fn spec(folder: &std::path::Path, script: &str) -> Spec {
        let slot = Address::Unix(folder.join("slot.sock"));
        Spec {
            name: "v1".to_owned(),
            command: vec!["/bin/sh".into(), "-c".into(), script.into()],
            folder: folder.to_owned(),
            slot,
            user: None,
            env: BTreeMap::from([("RELEASE".to_owned(), "v1".to_owned())]),
            log: folder.join("v1.log"),
            stop_timeout: Duration::from_secs(5),
        }
    }

    pub(super) async fn until(process: &Process, wanted: impl FnMut(&State) -> bool) -> State {
        let mut watch = process.watch();
        let found = tokio::time::timeout(Duration::from_secs(20), watch.wait_for(wanted));
        found.await.expect("in time").expect("supervised").clone()
    }

    pub(super) async fn lines(process: &Process, n: usize) -> Vec<String> {
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

    pub(super) async fn until_gone(pid: u32) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while Identity::of(pid).is_some() {
            assert!(Instant::now() < deadline, "process {pid} still runs");
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
        assert_eq!(process.stop().await, End::ByItself, "sleep ends on SIGTERM");
        assert!(!tmp.path().join("slot.sock").exists());
    }

    /// Users of this machine that are in further groups.
    fn names_with_groups() -> Vec<String> {
        let groups = std::fs::read_to_string("/etc/group").unwrap();
        let members = groups.lines().filter_map(|line| line.rsplit(':').next());
        let names = members.flat_map(|m| m.split(',')).filter(|name| !name.is_empty());
        names.filter(|name| User::find(name).is_ok()).map(str::to_owned).collect()
    }

    #[tokio::test]
    async fn a_process_runs_as_its_user_with_the_groups_that_the_user_has() {
        use std::os::unix::fs::PermissionsExt;
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can become somebody else");
            return;
        }
        let tmp = tempfile::tempdir().unwrap();
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(tmp.path(), mode).unwrap();
        // What the system knows of each; none of root's own.
        for name in names_with_groups().iter().map(String::as_str).chain(["nobody"]) {
            let user = User::find(name).unwrap();
            let script = "id -u; id -G; id -G $USER; exec sleep 60";
            let log = tmp.path().join(format!("{name}.log"));
            let spec = Spec { user: Some(user.clone()), log, ..spec(tmp.path(), script) };
            let process = Process::start(spec).await.unwrap();
            let said = lines(&process, 3).await;
            assert_eq!(said[0], user.uid.to_string());
            assert_eq!(said[1], said[2], "{name}");
            process.stop().await;
        }
    }

    #[tokio::test]
    async fn what_has_left_the_group_with_the_socket_ends_with_the_release() {
        let tmp = tempfile::tempdir().unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        // It stays when the group is killed, and whatever has not been told to let go of descriptor 3.
        let away = "setsid sh -c 'setsid sh -c \"echo \\$\\$; touch away; exec sleep 600\" & exec sleep 600' &";
        let stays = format!("{away} exec sleep 600");
        let spec = Spec { slot: Address::Ip(free), ..spec(tmp.path(), &stays) };
        let process = Process::start(spec.clone()).await.unwrap();
        let away_pid = lines(&process, 1).await[0].parse().unwrap();
        process.stop().await;
        until_gone(away_pid).await;
        // The next one can listen there. It ends by itself, and what it left does not wait for long.
        let ends = Spec { command: spec.command[..2].to_vec(), ..spec };
        let script = format!(
            "[ -e ran ] && exec sleep 600; touch ran; rm away; {away} \
             until [ -e away ]; do sleep 0.01; done; exit 1"
        );
        let ends = Spec { command: [ends.command.clone(), vec![script]].concat(), ..ends };
        let process = Process::start(ends).await.unwrap();
        let away_pid = lines(&process, 1).await[0].parse().unwrap();
        until(&process, |s| matches!(s, State::Running { restarts: 1, .. })).await;
        until_gone(away_pid).await;
        process.stop().await;
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
    async fn another_program_takes_the_place_while_the_socket_stays_open() {
        let tmp = tempfile::tempdir().unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let script = |word: &str| format!("echo {word}; exec sleep 600");
        let of = |script: &str, log: &str| Spec {
            slot: Address::Ip(free),
            log: tmp.path().join(log),
            ..spec(tmp.path(), script)
        };
        let first = Process::start(of(&script("old"), "old.log")).await.unwrap();
        lines(&first, 1).await;
        // Before, while and after: whoever has connected is not told to go away.
        let early = tokio::net::TcpStream::connect(free).await.unwrap();
        let bad = Spec { command: vec!["./nothing".to_owned()], ..of("", "bad.log") };
        let (held, error) = first.replace(bad).await.err().unwrap();
        assert!(matches!(error, StartError::Spawn { .. }), "{error}");
        assert_eq!(held.state(), State::Stopped);
        let meanwhile = tokio::net::TcpStream::connect(free).await.unwrap();
        // The old one again.
        let again = held.replace(of(&script("again"), "old.log")).await.unwrap();
        assert_eq!(lines(&again, 1).await, ["again"]);
        let next = again.replace(of(&script("new"), "new.log")).await.unwrap();
        assert_eq!(lines(&next, 1).await, ["new"]);
        assert!(matches!(next.state(), State::Running { restarts: 0, .. }));
        for stream in [early, meanwhile] {
            let read = stream.try_read(&mut [0]);
            assert_eq!(read.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
        next.stop().await;
        assert!(tokio::net::TcpStream::connect(free).await.is_err());
    }

    #[tokio::test]
    async fn a_process_that_ignores_sigterm_is_killed_with_its_whole_group() {
        let tmp = tempfile::tempdir().unwrap();
        let script = "trap '' TERM; sleep 600 & echo $!; while :; do sleep 600; done";
        let mut spec = spec(tmp.path(), script);
        spec.stop_timeout = Duration::from_millis(200);
        let process = Process::start(spec).await.unwrap();
        let pid: u32 = lines(&process, 1).await[0].parse().unwrap();
        assert_eq!(process.stop().await, End::Killed);
        until_gone(pid).await;
    }

    #[tokio::test]
    async fn what_a_process_leaves_behind_ends_before_it_is_started_again() {
        let tmp = tempfile::tempdir().unwrap();
        let script = "[ -e pid ] && exec sleep 600; sleep 600 & echo $! > pid; exit 1";
        let process = Process::start(spec(tmp.path(), script)).await.unwrap();
        until(&process, |s| matches!(s, State::Running { restarts: 1, .. })).await;
        let pid = std::fs::read_to_string(tmp.path().join("pid")).unwrap();
        until_gone(pid.trim().parse().unwrap()).await;
        process.stop().await;
    }

    #[tokio::test]
    async fn p9_a_process_that_outlived_its_daemon_is_taken_over_with_its_socket() {
        let tmp = tempfile::tempdir().unwrap();
        let script = "echo started; trap 'exit 0' TERM; while :; do sleep 0.01; done";
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let spec = Spec { slot: Address::Ip(free), ..spec(tmp.path(), script) };
        let first = Process::start(spec.clone()).await.unwrap();
        lines(&first, 1).await;
        let State::Running { pid: Some(pid), .. } = first.state() else {
            panic!("{:?}", first.state())
        };
        // As a daemon that is killed leaves it: nobody waits, nobody holds the socket.
        first.abandon().await;
        let second = Process::adopt(spec.clone(), Identity::of(pid).unwrap()).unwrap();
        assert_eq!(second.state(), State::Running { pid: Some(pid), restarts: 0 });
        tokio::net::TcpStream::connect(free).await.unwrap();
        // It is supervised from now on: started again when it dies, on the same socket.
        let group = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap();
        until(&second, |s| matches!(s, State::Running { restarts: 1, .. })).await;
        tokio::net::TcpStream::connect(free).await.unwrap();
        assert_eq!(second.stop().await, End::ByItself);
    }

    #[tokio::test]
    async fn a_process_that_is_another_one_now_is_not_taken_over() {
        let tmp = tempfile::tempdir().unwrap();
        let process = Process::start(spec(tmp.path(), "exec sleep 600")).await.unwrap();
        let State::Running { pid: Some(pid), .. } = process.state() else {
            panic!("{:?}", process.state())
        };
        let real = Identity::of(pid).unwrap();
        let reused = Identity { start: real.start - 1, ..real };
        assert!(Process::adopt(spec(tmp.path(), ""), reused).is_err());
        let other = Address::Unix(tmp.path().join("other.sock"));
        let elsewhere = Spec { slot: other, ..spec(tmp.path(), "") };
        let error = Process::adopt(elsewhere, real).unwrap_err().to_string();
        assert!(error.contains("does not listen on"), "{error}");
        process.stop().await;
    }

    #[tokio::test]
    async fn what_cannot_be_started_says_why() {
        let tmp = tempfile::tempdir().unwrap();
        let mut spec = spec(tmp.path(), "");
        spec.command = vec!["./nothing".to_owned()];
        let error = Process::start(spec.clone()).await.unwrap_err();
        assert!(matches!(error, StartError::Spawn { .. }), "{error}");
        let said =
            "the release has no file \"./nothing\": `[run] command` is relative to its folder";
        assert!(error.to_string().ends_with(said), "{error}");
        spec.command = vec!["/no/where".to_owned()];
        let error = Process::start(spec.clone()).await.unwrap_err();
        let said = "there is no file /no/where, which `[run] command` names";
        assert!(error.to_string().ends_with(said), "{error}");
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        spec.slot = Address::Ip(taken.local_addr().unwrap());
        let error = Process::start(spec).await.unwrap_err();
        assert!(error.is_in_use() && error.to_string().contains("ss -lntp"), "{error}");
    }
}
