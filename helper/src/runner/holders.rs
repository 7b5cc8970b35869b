//! Who still holds a slot's socket when its release has ended: what has left the release's group, as a
//! program does that makes itself a daemon. It would take connections that are for the next release,
//! and nobody could listen there again.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::fstat;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal};

/// How often it is looked again, as who is killed may just have made another one.
const ROUNDS: usize = 10;

/// How long is waited for the end of what was killed.
const END: Duration = Duration::from_secs(1);

/// Kills all other processes that have this socket open; tells which.
pub async fn end(socket: BorrowedFd<'_>) -> Vec<u32> {
    let Ok(link) = link(socket) else { return Vec::new() };
    tokio::task::spawn_blocking(move || end_all(&link)).await.unwrap_or_default()
}

/// What `/proc/<pid>/fd` says of a socket (`proc(5)`).
fn link(socket: BorrowedFd<'_>) -> io::Result<PathBuf> {
    Ok(format!("socket:[{}]", fstat(socket)?.st_ino).into())
}

fn end_all(link: &Path) -> Vec<u32> {
    let mut ended = Vec::new();
    for _ in 0..ROUNDS {
        let found: Vec<_> = holders(link).collect();
        if found.is_empty() {
            break;
        }
        for (pid, pidfd) in found {
            // Somebody may have been faster.
            let _ = pidfd_send_signal(&pidfd, Signal::KILL);
            await_end(&pidfd);
            ended.push(pid);
        }
    }
    ended.sort_unstable();
    ended.dedup();
    ended
}

fn await_end(pidfd: &OwnedFd) {
    let limit = Timespec::try_from(END).ok();
    while poll(&mut [PollFd::new(pidfd, PollFlags::IN)], limit.as_ref()) == Err(Errno::INTR) {}
}

/// The processes that have it open. Others than root see only their own.
fn holders(link: &Path) -> impl Iterator<Item = (u32, OwnedFd)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten();
    let pids = entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(Pid::from_raw).filter(|pid| *pid != getpid()).filter_map(|pid| {
        if !has_open(pid, link) {
            return None;
        }
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Again, as the descriptor has pinned the pid only now. A child of this daemon that is just being
        // started has everything open that the daemon has, until it becomes its program.
        let is_it = has_open(pid, link) && parent(pid) != Some(getpid());
        is_it.then(|| (pid.as_raw_nonzero().get().unsigned_abs(), pidfd))
    })
}

fn has_open(pid: Pid, link: &Path) -> bool {
    let folder = format!("/proc/{}/fd", pid.as_raw_nonzero());
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| std::fs::read_link(entry.path()).is_ok_and(|to| to == *link))
}

/// Field 4 of `/proc/<pid>/stat`.
fn parent(pid: Pid) -> Option<Pid> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    Pid::from_raw(fields.split(' ').nth(1)?.parse().ok()?)
}
