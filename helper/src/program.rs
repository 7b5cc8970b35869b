//! A program that is run to its end: a hook, git.
//!
//! It runs as the application's user, in a session of its own: it has no terminal that it could ask
//! something on, and its process group ends as one. What it says is passed on line by line. When its
//! time is over, the group gets `SIGTERM`, and `SIGKILL` a moment later; when whoever waits for it does
//! so no more, `SIGKILL` at once.
//!
//! Its end is the end of its group: what it has left running there is killed. What it has started in a
//! group of its own stays, and is not waited for, even if it holds the pipe open.

mod lines;

pub use lines::Lines;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use command_fds::CommandFdExt;
use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid,
};
use shunt_api::ReleaseName;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::Child;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::clock::Span;
use crate::user::{self, User};
use lines::Splitter;

/// How long a program may take to end after `SIGTERM`.
const GRACE: Duration = Duration::from_secs(5);

/// How long is waited for the last words of what a program has left running with its output.
const LAST_WORDS: Duration = Duration::from_millis(250);

/// How many of the last lines explain a failure.
const LAST: usize = 30;

/// The most that is read from a pipe after the program has ended, in bytes: all that it can hold
/// (`pipe(7)`), unless somebody else still writes to it.
const PIPE: usize = 1 << 20;

/// What the daemon knows from systemd about itself, which is not true of the program.
const NOT_PASSED_ON: [&str; 7] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "JOURNAL_STREAM",
];

/// A program to run.
#[derive(Debug)]
pub struct Program<'a> {
    /// For which application.
    pub app: &'a ReleaseName,
    /// The application's folder, `SHUNT_ROOT`.
    pub root: &'a Path,
    /// For which release.
    pub release: &'a ReleaseName,
    /// As part of what: `SHUNT_STEP`, by which a daemon finds what an earlier one left running
    /// ([`crate::leftover::end_steps`]).
    pub step: &'a str,
    /// Program and arguments.
    pub command: Vec<OsString>,
    /// Where.
    pub folder: &'a Path,
    /// The user to run as, if it is not the daemon's.
    pub user: Option<&'a User>,
    /// Its environment beyond the daemon's own.
    pub env: Vec<(OsString, OsString)>,
    /// How long it may take.
    pub limit: Duration,
    /// Where its output goes; if left out, both output and errors are lines.
    pub stdout: Option<OwnedFd>,
    /// What it and its children keep open, beyond that.
    pub held: Vec<OwnedFd>,
}

/// How a program has failed, and the last that it said.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct ProgramError {
    /// How.
    pub why: Why,
    /// Its last lines.
    pub lines: Vec<String>,
}

/// How a program has failed.
#[derive(Debug, thiserror::Error)]
pub enum Why {
    /// It cannot be started.
    #[error("cannot start {command:?} in {folder:?}: {error}")]
    Start {
        /// The program.
        command: OsString,
        /// Where.
        folder: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// It took too long, and was ended.
    #[error("it was ended as it took longer than {}", Span(*.0))]
    Limit(Duration),
    /// It has ended by itself, but not well.
    #[error("it ended with {0}")]
    Ended(Ended),
}

/// An end that is no good one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended(ExitStatus);

impl Ended {
    /// Whether that is what says that the program was not found (`env(1)`).
    #[must_use]
    pub fn is_not_found(self) -> bool {
        self.0.code() == Some(127)
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.0.code(), self.0.signal()) {
            // The lines say what was not found.
            _ if self.is_not_found() => {
                f.write_str("exit status 127, which mostly means \"not found\"")
            }
            (Some(code), _) => write!(f, "exit status {code}"),
            (None, Some(signal)) => write!(f, "signal {signal}"),
            (None, None) => f.write_str("an unknown end"),
        }
    }
}

impl Program<'_> {
    /// Runs it to its end, and passes on each line as it comes.
    ///
    /// # Errors
    ///
    /// [`ProgramError`], also when it ends with another exit status than 0.
    pub async fn run(mut self, lines: &mut Lines<'_>) -> Result<(), ProgramError> {
        let mut last = VecDeque::new();
        let mut keep = |line: &str| {
            if last.len() == LAST {
                last.pop_front();
            }
            last.push_back(line.to_owned());
            lines(line);
        };
        let ended = match self.start() {
            Ok(running) => running.wait(self.limit, &mut keep).await,
            Err(error) => Err(error),
        };
        let why = match ended {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => Why::Ended(Ended(status)),
            Ok(None) => Why::Limit(self.limit),
            Err(error) => {
                let command = self.command.first().cloned().unwrap_or_default();
                Why::Start { command, folder: self.folder.to_owned(), error }
            }
        };
        Err(ProgramError { why, lines: last.into() })
    }

    fn start(&mut self) -> io::Result<Running> {
        let program = self.command.first().ok_or(io::ErrorKind::InvalidInput)?;
        // What cannot be found is otherwise said in the lines only.
        if program.as_encoded_bytes().contains(&b'/') && !self.folder.join(program).exists() {
            let why = if Path::new(program).is_absolute() {
                "there is no such file"
            } else {
                "there is no such file; a program with a \"/\" in its name is looked for in that folder"
            };
            return Err(io::Error::new(io::ErrorKind::NotFound, why));
        }
        let (sender, pipe) = pipe::pipe()?;
        let sender = sender.into_blocking_fd()?;
        let stdout = match self.stdout.take() {
            Some(stdout) => stdout,
            None => sender.try_clone()?,
        };
        // As it does not lead a group yet, it becomes the program, and so the pid is the program's.
        let mut command = user::command(self.user, "setsid");
        command.arg("--").args(&self.command).current_dir(self.folder);
        for name in NOT_PASSED_ON {
            command.env_remove(name);
        }
        // What git knows of another repository, as when the daemon was started by one of its hooks.
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"GIT_") {
                command.env_remove(name);
            }
        }
        command
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .env("SHUNT_APP", self.app.as_str())
            .env("SHUNT_ROOT", self.root)
            .env("RELEASE", self.release.as_str())
            .env("SHUNT_STEP", self.step)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(sender)
            .preserved_fds(std::mem::take(&mut self.held));
        let child = command.spawn()?;
        let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let group = Group { pid: pid.ok_or(io::ErrorKind::NotFound)?, child, ended: false };
        let pid = group.pid;
        let ended = tokio::task::spawn_blocking(move || {
            let look = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            while waitid(WaitId::Pid(pid), look).is_err_and(|e| e == Errno::INTR) {}
        });
        Ok(Running { group, ended, pipe })
    }
}

/// A program with whatever it has started in its group.
struct Group {
    pid: Pid,
    child: Child,
    /// Whether its exit status was fetched, after which the pid may be another's.
    ended: bool,
}

impl Group {
    /// Between its start and its own session the process has no group yet.
    fn signal(&self, signal: Signal) {
        // Whoever has ended already needs no signal.
        let _ = kill_process(self.pid, signal);
        let _ = kill_process_group(self.pid, signal);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.ended {
            self.signal(Signal::KILL);
        }
    }
}

/// A program that runs.
struct Running {
    group: Group,
    /// Ends with the program, without fetching its exit status: until then its pid, which is its
    /// group's, cannot become another's.
    ended: JoinHandle<()>,
    pipe: pipe::Receiver,
}

impl Running {
    /// Waits for its end; `None` when it was ended at the limit.
    async fn wait(
        mut self,
        limit: Duration,
        lines: &mut Lines<'_>,
    ) -> io::Result<Option<ExitStatus>> {
        let mut splitter = Splitter::default();
        let mut buffer = vec![0; 16 << 10];
        let (mut end, mut open) = (after(limit), true);
        let mut orders = [Signal::TERM, Signal::KILL].into_iter();
        let mut in_time = true;
        loop {
            tokio::select! {
                read = self.pipe.read(&mut buffer), if open => match read {
                    Ok(n) if n > 0 => splitter.feed(&buffer[..n], lines),
                    _ => open = false,
                },
                _ = &mut self.ended => break,
                () = sleep_until(end) => {
                    in_time = false;
                    // What was killed is gone in a moment.
                    orders.next().into_iter().for_each(|signal| self.group.signal(signal));
                    end = after(GRACE);
                }
            }
        }
        let rest = async {
            while let Ok(n) = self.pipe.read(&mut buffer).await
                && n > 0
            {
                splitter.feed(&buffer[..n], lines);
            }
        };
        if open && in_time {
            // What writes for it, as `tee` does, may still have something to say.
            let _ = tokio::time::timeout(LAST_WORDS, rest).await;
        }
        self.group.signal(Signal::KILL);
        let mut read = 0;
        while read < PIPE
            && let Ok(n) = rustix::io::read(&self.pipe, &mut *buffer)
            && n > 0
        {
            splitter.feed(&buffer[..n], lines);
            read += n;
        }
        splitter.finish(lines);
        let status = self.group.child.wait().await?;
        self.group.ended = true;
        Ok(in_time.then_some(status))
    }
}

fn after(time: Duration) -> Instant {
    let now = Instant::now();
    // Whoever asks for longer waits for ever.
    now.checked_add(time).unwrap_or(now + Duration::from_secs(86400 * 365))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn program<'a>(
        folder: &'a Path,
        names: &'a (ReleaseName, ReleaseName),
        sh: &str,
    ) -> Program<'a> {
        Program {
            app: &names.0,
            root: folder,
            release: &names.1,
            step: "build",
            command: ["/bin/sh", "-c", sh].map(OsString::from).into(),
            folder,
            user: None,
            env: Vec::new(),
            limit: Duration::from_secs(60),
            stdout: None,
            held: Vec::new(),
        }
    }

    /// Names of an application and a release that no other test has.
    fn names(test: &str) -> (ReleaseName, ReleaseName) {
        let app = format!("{test}-{}", std::process::id());
        (ReleaseName::new(&app).unwrap(), ReleaseName::new("v1").unwrap())
    }

    async fn run(program: Program<'_>) -> (Result<(), ProgramError>, Vec<String>) {
        let mut said = Vec::new();
        let result = program.run(&mut |line: &str| said.push(line.to_owned())).await;
        (result, said)
    }

    /// Runs a program whose time is over once it has made the file `said`.
    async fn run_too_long(program: Program<'_>) -> (Result<(), ProgramError>, Vec<String>) {
        let (said, limit) = (program.folder.join("said"), program.limit);
        let time_passes = async {
            until("it has said something", || said.exists()).await;
            tokio::time::pause();
            tokio::time::advance(limit).await;
            tokio::time::resume();
        };
        tokio::join!(run(program), time_passes).0
    }

    fn is_there(pid: &str) -> bool {
        Path::new("/proc").join(pid.trim()).exists()
            && !std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()))
                .is_ok_and(|stat| stat.contains(") Z "))
    }

    async fn until(what: &str, mut is: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !is() {
            assert!(Instant::now() < end, "{what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn what_a_program_says_comes_in_lines_and_in_order() {
        let (tmp, names) = (tempfile::tempdir().unwrap(), names("lines"));
        let sh = "echo out; echo err >&2; pwd; echo $SHUNT_STEP $SHUNT_APP $RELEASE; printf end";
        let (result, said) = run(program(tmp.path(), &names, sh)).await;
        result.unwrap();
        assert_eq!(said[..2], ["out", "err"]);
        assert_eq!(said[2], tmp.path().canonicalize().unwrap().to_str().unwrap());
        assert_eq!(said[3..], [format!("build {} v1", names.0), "end".to_owned()]);
    }

    #[tokio::test]
    async fn a_bad_end_is_told_with_the_last_lines() {
        let (tmp, names) = (tempfile::tempdir().unwrap(), names("bad"));
        let sh = "for i in $(seq 40); do echo $i; done; exit 3";
        let (result, said) = run(program(tmp.path(), &names, sh)).await;
        let error = result.unwrap_err();
        assert_eq!(error.to_string(), "it ended with exit status 3");
        assert_eq!((said.len(), error.lines.len()), (40, LAST));
        assert_eq!((error.lines[0].as_str(), error.lines[29].as_str()), ("11", "40"));
        let (result, _) = run(program(tmp.path(), &names, "kill -9 $$")).await;
        assert_eq!(result.unwrap_err().to_string(), "it ended with signal 9");
    }

    #[tokio::test]
    async fn what_cannot_be_started_says_why() {
        let (tmp, names) = (tempfile::tempdir().unwrap(), names("start"));
        let missing = Program { command: vec!["./no".into()], ..program(tmp.path(), &names, "") };
        let error = run(missing).await.0.unwrap_err();
        assert!(matches!(error.why, Why::Start { .. }), "{error}");
        assert!(error.to_string().contains("is looked for in that folder"), "{error}");
        let missing =
            Program { command: vec!["no-such".into()], ..program(tmp.path(), &names, "") };
        let error = run(missing).await.0.unwrap_err();
        assert!(error.to_string().contains("not found"), "{error}");
        assert!(error.lines.concat().contains("no-such"), "{:?}", error.lines);
    }

    #[tokio::test]
    async fn a_program_that_takes_too_long_is_asked_to_end_and_then_killed_with_its_group() {
        let (tmp, names) = (tempfile::tempdir().unwrap(), names("limit"));
        let sh = "trap 'echo asked; exit 0' TERM; sleep 600 & echo $!; touch said; wait";
        let (result, said) = run_too_long(program(tmp.path(), &names, sh)).await;
        let error = result.unwrap_err();
        assert!(matches!(error.why, Why::Limit(_)), "{error}");
        assert_eq!(said[1], "asked");
        until("it is gone", || !is_there(&said[0])).await;
    }

    #[tokio::test]
    async fn a_program_that_ignores_sigterm_is_killed() {
        let (tmp, names) = (tempfile::tempdir().unwrap(), names("ignore"));
        let sh = "trap '' TERM; sleep 600 & echo $!; touch said; while :; do wait; done";
        let began = std::time::Instant::now();
        let (result, said) = run_too_long(program(tmp.path(), &names, sh)).await;
        assert!(matches!(result.unwrap_err().why, Why::Limit(_)));
        assert!(began.elapsed() >= GRACE, "it has had its grace time");
        until("it is gone", || !is_there(&said[0])).await;
    }

    #[tokio::test]
    async fn what_a_program_leaves_in_its_group_ends_and_what_it_holds_open_is_not_waited_for() {
        let (tmp, names) = (tempfile::tempdir().unwrap(), names("left"));
        let sh = "sleep 600 & echo $!; setsid sleep 600 & echo $!; exit 0";
        let began = Instant::now();
        let (result, said) = run(program(tmp.path(), &names, sh)).await;
        result.unwrap();
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
        until("it is gone", || !is_there(&said[0])).await;
        assert!(is_there(&said[1]), "what has a group of its own stays");
        let pid = Pid::from_raw(said[1].parse().unwrap()).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
    }

    #[tokio::test]
    async fn who_writes_for_a_program_that_has_ended_is_heard() {
        let (tmp, names) = (tempfile::tempdir().unwrap(), names("tee"));
        let sh = "(read _; echo last words) < gate & : > gate";
        let gate = tmp.path().join("gate");
        assert!(std::process::Command::new("mkfifo").arg(&gate).status().unwrap().success());
        let (result, said) = run(program(tmp.path(), &names, sh)).await;
        result.unwrap();
        assert_eq!(said, ["last words"]);
    }

    #[tokio::test]
    async fn a_program_that_nobody_waits_for_any_more_is_killed_with_its_group() {
        let (tmp, names) = (tempfile::tempdir().unwrap(), names("drop"));
        let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let mut tell = move |line: &str| drop(told.send(line.to_owned()));
        let sh = "sleep 600 & echo $!; wait";
        let program = program(tmp.path(), &names, sh);
        let pid = tokio::select! {
            result = program.run(&mut tell) => panic!("{result:?}"),
            line = heard.recv() => line.unwrap(),
        };
        until("it is gone", || !is_there(&pid)).await;
    }

    #[tokio::test]
    async fn there_is_no_terminal_and_nothing_to_read() {
        let (tmp, names) = (tempfile::tempdir().unwrap(), names("terminal"));
        let sh = "cat; (exec < /dev/tty) 2>/dev/null || echo none; echo $$; cut -d' ' -f5,6 /proc/$$/stat";
        let (result, said) = run(program(tmp.path(), &names, sh)).await;
        result.unwrap();
        assert_eq!(said[0], "none");
        // Group and session are its own.
        assert_eq!(said[2], format!("{0} {0}", said[1]));
    }

    #[tokio::test]
    async fn output_can_go_elsewhere_and_something_can_be_held() {
        let (tmp, names) = (tempfile::tempdir().unwrap(), names("out"));
        let out = std::fs::File::create(tmp.path().join("out")).unwrap();
        let held: OwnedFd = std::fs::File::create(tmp.path().join("held")).unwrap().into();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&held);
        let sh = format!("echo data; echo error >&2; readlink /proc/$$/fd/{fd} >&2");
        let mut program = program(tmp.path(), &names, &sh);
        (program.stdout, program.held) = (Some(out.into()), vec![held]);
        let (result, said) = run(program).await;
        result.unwrap();
        assert_eq!(said[0], "error");
        assert!(said[1].ends_with("/held"), "{said:?}");
        assert_eq!(std::fs::read_to_string(tmp.path().join("out")).unwrap(), "data\n");
    }

    #[tokio::test]
    async fn it_runs_as_the_user() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can become somebody else");
            return;
        }
        let (tmp, names) = (tempfile::tempdir().unwrap(), names("user"));
        std::fs::set_permissions(tmp.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let user = User::find("nobody").unwrap();
        let sh = "id -un; echo $HOME; kill -0 $PPID 2>/dev/null || echo may not";
        let program = Program { user: Some(&user), ..program(tmp.path(), &names, sh) };
        let (result, said) = run(program).await;
        result.unwrap();
        assert_eq!(said, ["nobody", user.home.to_str().unwrap(), "may not"]);
    }

    #[tokio::test]
    async fn p9_what_an_earlier_daemon_left_running_is_found_and_killed() {
        let (tmp, names) = (tempfile::tempdir().unwrap(), names("leftover"));
        let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let mut tell = move |line: &str| drop(told.send(line.to_owned()));
        let running = program(tmp.path(), &names, "sleep 600 & echo $!; wait").run(&mut tell);
        tokio::pin!(running);
        let pid = tokio::select! {
            result = &mut running => panic!("{result:?}"),
            line = heard.recv() => line.unwrap(),
        };
        let env = [("SHUNT_APP", names.0.as_str()), ("RELEASE", "v1")];
        let taken = crate::leftover::Identity::find(&env);
        assert_eq!(taken, None, "a step is not taken for what runs in a slot");
        let end = |release: &str, root: &Path| {
            let release = ReleaseName::new(release).unwrap();
            crate::leftover::end_steps(&names.0, root, &release);
        };
        end("v2", tmp.path());
        assert!(is_there(&pid), "another release is left alone");
        end("v1", Path::new("/nowhere"));
        assert!(is_there(&pid), "another daemon's application is left alone");
        end("v1", tmp.path());
        let error = running.await.unwrap_err();
        assert_eq!(error.to_string(), "it ended with signal 9");
        until("it is gone", || !is_there(&pid)).await;
    }
}
