//! The check by a program of the release: it runs in the release's folder, as the application's user,
//! and is good when it ends with exit status 0.
//!
//! Its environment is the application's: `[run] env`, `RELEASE`, `SHUNT_APP`, `SHUNT_SLOT`, and `PORT`
//! unless the slot is a unix socket. It gets no socket of its own.

use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use shunt_api::Address;
use tokio::net::unix::pipe;
use tokio::process::Child;

use super::Target;
use crate::runner::leader::describe;
use crate::runner::user;

/// How much of the end of the output is kept, in bytes.
const TAIL: usize = 4096;

/// How much a pipe holds, in bytes (`pipe(7)`).
const PIPE: usize = 64 << 10;

/// How many of its last lines are shown.
const LINES: usize = 10;

/// Runs it once; the error is what was wrong.
pub(super) async fn check(
    command: &[String],
    target: Target<'_>,
    limit: Duration,
) -> Result<(), String> {
    let name = command.first().map_or("", String::as_str);
    let failed = |error: io::Error| format!("cannot run {name:?}: {error}");
    let (mut group, mut output) = start(command, target).map_err(failed)?;
    let ended = tokio::time::timeout(limit, async {
        tokio::select! {
            status = group.leader.wait() => status,
            never = output.follow() => match never {},
        }
    });
    let why = match ended.await {
        Ok(Ok(status)) if status.success() => return Ok(()),
        Ok(Ok(status)) => format!("{name:?} ended with {}", describe(status)),
        Ok(Err(error)) => return Err(failed(error)),
        Err(_) => format!("{name:?} did not end within {limit:?}"),
    };
    // What it has left behind must not write on.
    drop(group);
    let lines = output.last_lines();
    let sep = if lines.is_empty() { "" } else { "\n" };
    Err(format!("{why}{sep}{}", lines.join("\n")))
}

fn start(command: &[String], target: Target<'_>) -> io::Result<(Group, Output)> {
    let (reader, writer) = io::pipe()?;
    let [program, args @ ..] = command else { return Err(io::ErrorKind::NotFound.into()) };
    let mut command = user::command(target.user, program);
    command
        .args(args)
        .current_dir(target.folder)
        .envs(target.env)
        // What systemd tells the daemon is for nobody else.
        .env_remove("LISTEN_FDS")
        .env_remove("LISTEN_FDNAMES")
        .env_remove("LISTEN_PID")
        .env_remove("NOTIFY_SOCKET")
        .env_remove("WATCHDOG_PID")
        .env_remove("WATCHDOG_USEC")
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0);
    if let Address::Ip(address) = target.slot {
        command.env("PORT", address.port().to_string());
    }
    let leader = command.spawn()?;
    let pid = leader.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    let group = Group { leader, pid };
    let pipe = pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?;
    Ok((group, Output { pipe, tail: Vec::new() }))
}

/// A process and all that it has started; they end with this.
struct Group {
    leader: Child,
    pid: Option<Pid>,
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.pid {
            // An empty group is what this is for.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

/// What a process says, on either stream.
struct Output {
    pipe: pipe::Receiver,
    tail: Vec<u8>,
}

impl Output {
    /// Reads on for ever, so that the process never waits for a reader.
    async fn follow(&mut self) -> Infallible {
        let mut buffer = [0; TAIL];
        while self.pipe.readable().await.is_ok() {
            match self.pipe.try_read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => self.keep(&buffer[..n]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
        std::future::pending().await
    }

    fn keep(&mut self, more: &[u8]) {
        self.tail.extend_from_slice(more);
        let surplus = self.tail.len().saturating_sub(TAIL);
        self.tail.drain(..surplus);
    }

    /// The last lines of what was said until now.
    fn last_lines(mut self) -> Vec<String> {
        let mut buffer = [0; TAIL];
        // As much as a pipe holds: whoever still writes is not waited for. The pipe itself is asked, as
        // the runtime may not have heard yet of what was said last.
        for _ in 0..PIPE / TAIL {
            match rustix::io::read(&self.pipe, &mut buffer) {
                Ok(n) if n > 0 => self.keep(&buffer[..n]),
                Ok(_) | Err(_) => break,
            }
        }
        let text = String::from_utf8_lossy(&self.tail);
        let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(LINES)..].iter().map(|line| (*line).to_owned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::tests::v1;
    use crate::runner::leftover::Identity;
    use crate::runner::user::User;
    use std::collections::BTreeMap;
    use std::path::Path;

    async fn run_as(
        user: Option<&User>,
        folder: &Path,
        command: &[&str],
        limit: Duration,
    ) -> Result<(), String> {
        let command: Vec<_> = command.iter().map(|part| (*part).to_owned()).collect();
        let env = BTreeMap::from([("RELEASE".to_owned(), "v1".to_owned())]);
        let (slot, release) = ("127.0.0.1:3001".parse().unwrap(), v1());
        let target = Target { slot: &slot, release: &release, folder, user, env: &env };
        check(&command, target, limit).await
    }

    async fn run(folder: &Path, script: &str) -> Result<(), String> {
        run_as(None, folder, &["/bin/sh", "-c", script], Duration::from_secs(20)).await
    }

    #[tokio::test]
    async fn it_runs_in_the_folder_with_the_environment_of_the_release() {
        let tmp = tempfile::tempdir().unwrap();
        run(tmp.path(), "test -z \"$LISTEN_FDS\" && echo $RELEASE $PORT > said").await.unwrap();
        assert_eq!(std::fs::read_to_string(tmp.path().join("said")).unwrap(), "v1 3001\n");
        // A program of the release itself.
        std::fs::write(tmp.path().join("check"), "#!/bin/sh\ntest -e said\n").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(tmp.path().join("check"), mode).unwrap();
        run_as(None, tmp.path(), &["./check"], Duration::from_secs(20)).await.unwrap();
    }

    #[tokio::test]
    async fn what_fails_is_shown_with_the_end_of_its_output() {
        let tmp = tempfile::tempdir().unwrap();
        let script = "seq 100000; echo; echo no database >&2; exit 3";
        let error = run(tmp.path(), script).await.unwrap_err();
        let lines: Vec<_> = error.lines().collect();
        assert_eq!(lines[0], "\"/bin/sh\" ended with exit status 3");
        assert_eq!(lines.len(), 1 + LINES, "{error}");
        assert_eq!(lines[LINES - 1..], ["100000", "no database"]);
        let error = run_as(None, tmp.path(), &["./none"], Duration::from_secs(20)).await;
        assert!(error.unwrap_err().starts_with("cannot run \"./none\": "));
    }

    #[tokio::test]
    async fn what_does_not_end_is_killed_with_all_that_it_has_started() {
        let tmp = tempfile::tempdir().unwrap();
        let script = "sleep 600 & echo $!; trap '' TERM; while :; do sleep 600; done";
        let command = ["/bin/sh", "-c", script];
        let limit = Duration::from_millis(300);
        let error = run_as(None, tmp.path(), &command, limit).await.unwrap_err();
        assert!(error.starts_with("\"/bin/sh\" did not end within 300ms\n"), "{error}");
        until_gone(error.lines().last().unwrap().parse().unwrap()).await;
    }

    #[tokio::test]
    async fn what_it_leaves_behind_ends_with_it_and_is_not_waited_for() {
        let tmp = tempfile::tempdir().unwrap();
        run(tmp.path(), "sleep 600 & echo $! > pid").await.unwrap();
        let pid = std::fs::read_to_string(tmp.path().join("pid")).unwrap();
        until_gone(pid.trim().parse().unwrap()).await;
    }

    #[tokio::test]
    async fn a_check_that_is_given_up_ends() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("pid");
        let script = "echo $$ > pid.new; mv pid.new pid; exec sleep 600";
        let pid = tokio::select! {
            ended = run(tmp.path(), script) => panic!("{ended:?}"),
            pid = async {
                while !path.exists() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                std::fs::read_to_string(&path).unwrap()
            } => pid,
        };
        until_gone(pid.trim().parse().unwrap()).await;
    }

    #[tokio::test]
    async fn it_runs_as_the_applications_user() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can become somebody else");
            return;
        }
        let user = User::find("nobody").unwrap();
        let command = ["/bin/sh", "-c", "echo \"$(id -u) $USER\"; exit 1"];
        let limit = Duration::from_secs(20);
        let error = run_as(Some(&user), Path::new("/"), &command, limit).await.unwrap_err();
        assert_eq!(error.lines().last(), Some(format!("{} nobody", user.uid).as_str()));
    }

    async fn until_gone(pid: u32) {
        let end = std::time::Instant::now() + Duration::from_secs(20);
        while Identity::of(pid).is_some() {
            assert!(std::time::Instant::now() < end, "{pid} still runs");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
