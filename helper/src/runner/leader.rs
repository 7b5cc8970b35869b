//! The process that leads a group: a child of this daemon, or one that an earlier daemon left.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, PidfdGetfdFlags, Signal, kill_process_group, pidfd_getfd, pidfd_open,
};
use tokio::process::Child;
use tokio::sync::watch;

use crate::leftover::Identity;
use crate::runner::process::LISTEN_FD;

/// The process that leads a group; its pid is the group's.
pub struct Leader {
    group: Pid,
    kind: Kind,
}

enum Kind {
    /// Its exit status is ours to fetch.
    Child(Child),
    /// Only that it has ended can be seen (`pidfd_open(2)`).
    Adopted(watch::Receiver<()>),
}

impl Leader {
    /// A child, started with a group of its own.
    ///
    /// # Errors
    ///
    /// When it has been waited for already.
    pub fn own(child: Child) -> io::Result<Self> {
        let pid = child.id().ok_or(io::ErrorKind::NotFound)?;
        Ok(Self { group: pid_of(pid)?, kind: Kind::Child(child) })
    }

    /// A process that still runs, with a copy of the socket that it was given.
    ///
    /// # Errors
    ///
    /// What the system says: it has ended, or the daemon may not look into it (`pidfd_getfd(2)`).
    pub fn adopt(process: Identity) -> io::Result<(Self, OwnedFd)> {
        let group = pid_of(process.pid)?;
        let pidfd = pidfd_open(group, PidfdFlags::empty())?;
        // Asked after the descriptor has pinned the pid: from now on it is this process.
        if !process.is_alive() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let socket = pidfd_getfd(&pidfd, LISTEN_FD, PidfdGetfdFlags::empty())?;
        let (running, ended) = watch::channel(());
        // The descriptor becomes readable at the end; a thread can wait for that without `unsafe`.
        std::thread::Builder::new().name(format!("wait-{}", process.pid)).spawn(move || {
            while poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None) == Err(Errno::INTR) {}
            drop(running);
        })?;
        Ok((Self { group, kind: Kind::Adopted(ended) }, socket))
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.group.as_raw_nonzero().get().unsigned_abs()
    }

    /// Waits for its end and tells how that came. Can be given up and called again.
    pub async fn ended(&mut self) -> String {
        match &mut self.kind {
            Kind::Child(child) => child.wait().await.map_or_else(|e| e.to_string(), describe),
            Kind::Adopted(ended) => {
                // Nothing is ever sent: the channel closes at the end.
                let _ = ended.changed().await;
                "a status that only the daemon that started it could know".to_owned()
            }
        }
    }

    /// Ends it and its group: `SIGTERM`, the grace time, `SIGKILL`. Tells whether it did so itself
    /// in time.
    pub async fn end(&mut self, grace: Duration) -> bool {
        self.signal(Signal::TERM);
        let graceful = tokio::time::timeout(grace, self.ended()).await.is_ok();
        // Also whatever the leader has left behind.
        self.kill_group();
        if !graceful {
            // What was killed is gone in a moment.
            self.ended().await;
        }
        graceful
    }

    /// Kills what is left of the group.
    pub fn kill_group(&self) {
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        // An empty group is what this is for.
        let _ = kill_process_group(self.group, signal);
    }
}

fn pid_of(pid: u32) -> io::Result<Pid> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    raw.ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown end".to_owned(),
    }
}
