//! What release is to be made, whose it is, and how much may be written for it.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{Gid, Mode, Uid, fchmod, fchown};
use rustix::process::geteuid;
use shunt_api::ReleaseName;

use super::partial::Published;
use super::reader::{Reader, Readers};
use crate::config;

/// Whose a release is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// The daemon's user's, as the application runs as that.
    Daemon,
    /// Root's; the group of the application's user may read and run what the owner may, and nobody
    /// else may write.
    Root {
        /// The group.
        group: u32,
    },
    /// The application's user's, whose hook is to build it.
    User {
        /// The user.
        user: u32,
        /// Its group.
        group: u32,
    },
}

impl Owner {
    fn of(app: &config::App) -> Self {
        let user = app.run.user.as_ref().filter(|_| geteuid().is_root());
        match (user, &app.hooks.build) {
            (None, _) => Self::Daemon,
            (Some(user), None) => Self::Root { group: user.gid },
            (Some(user), Some(_)) => Self::User { user: user.uid, group: user.gid },
        }
    }

    pub(super) fn ids(self) -> (Option<Uid>, Option<Gid>) {
        match self {
            Self::Daemon => (None, None),
            Self::Root { group } => (None, Some(Gid::from_raw(group))),
            Self::User { user, group } => (Some(Uid::from_raw(user)), Some(Gid::from_raw(group))),
        }
    }

    /// What is left of a mode: nothing runs as somebody else (set-user-ID).
    fn mode(self, mode: u32) -> u32 {
        match self {
            Self::Daemon => mode & 0o777,
            Self::Root { .. } => (mode & 0o755) | ((mode & 0o500) >> 3),
            Self::User { .. } => mode & 0o755,
        }
    }

    pub(super) fn give(self, fd: impl AsFd, mode: u32) -> io::Result<()> {
        let (user, group) = self.ids();
        fchown(&fd, user, group)?;
        Ok(fchmod(&fd, Mode::from_raw_mode(self.mode(mode)))?)
    }
}

/// What may still be written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// In bytes.
    pub bytes: u64,
    /// Files, folders and links.
    pub entries: u64,
}

impl Room {
    /// All of it.
    pub(super) const UNBOUNDED: Self = Self { bytes: u64::MAX, entries: u64::MAX };
}

/// Tells whoever works for a job that nobody waits for it any more.
#[derive(Debug, Clone, Default)]
pub(super) struct Stop(Arc<Mutex<Work>>);

/// How far that is.
#[derive(Debug, Default)]
enum Work {
    /// Somebody waits for it.
    #[default]
    Wanted,
    /// The release is in its place.
    Made(Published),
    /// Nobody waits for it.
    Unwanted,
}

impl Stop {
    /// Says so when it is dropped.
    pub(super) fn guard(&self) -> StopGuard {
        StopGuard(self.clone())
    }

    pub(super) fn check(&self) -> io::Result<()> {
        match *self.lock() {
            Work::Wanted | Work::Made(_) => Ok(()),
            Work::Unwanted => Err(unwanted()),
        }
    }

    /// Puts a release in its place, unless nobody waits for it any more. Whoever stops waiting at this
    /// very moment takes it away again.
    pub(super) fn publish(&self, put: impl FnOnce() -> io::Result<Published>) -> io::Result<()> {
        let mut work = self.lock();
        if matches!(*work, Work::Unwanted) {
            return Err(unwanted());
        }
        *work = Work::Made(put()?);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Work> {
        // Nothing is left half done under this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unwanted() -> io::Error {
    io::Error::other("nobody waits for it any more")
}

/// See [`Stop::guard`].
pub(super) struct StopGuard(Stop);

impl StopGuard {
    /// It was waited for until its end: what is made stays.
    pub(super) fn keep(self) {
        *self.0.lock() = Work::Unwanted;
    }
}

impl Drop for StopGuard {
    fn drop(&mut self) {
        let work = std::mem::replace(&mut *self.0.lock(), Work::Unwanted);
        if let Work::Made(published) = work {
            published.withdraw();
        }
    }
}

/// What release to make, and how.
#[derive(Debug, Clone)]
pub(super) struct Order {
    pub root: PathBuf,
    pub release: ReleaseName,
    pub owner: Owner,
    pub room: Room,
    pub shared: Vec<config::source::Shared>,
    pub stop: Stop,
    /// Who may read what it is made of.
    pub readers: Readers,
}

impl Order {
    pub(super) fn new(
        app: &config::App,
        by: Option<&Reader>,
        release: &ReleaseName,
        room: Room,
    ) -> Self {
        // Without a user of its own the application is whoever the daemon is, and so is who deploys it.
        let user = app.run.user.as_ref().filter(|user| geteuid().is_root() && user.uid != 0);
        let readers = match (by, user) {
            (Some(by), Some(user)) => vec![by.clone(), Reader::new(user.uid, user.gid)],
            _ => Vec::new(),
        };
        Self {
            readers: Readers::new(readers),
            root: app.root.clone(),
            release: release.clone(),
            owner: Owner::of(app),
            room,
            shared: app.source.shared.clone(),
            stop: Stop::default(),
        }
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use std::path::Path;

    /// A release `v1` of the daemon's own user, with room for whatever it is.
    pub(in crate::source) fn order(root: &Path) -> Order {
        Order {
            root: root.to_owned(),
            release: ReleaseName::new("v1").unwrap(),
            owner: Owner::Daemon,
            room: Room::UNBOUNDED,
            shared: Vec::new(),
            stop: Stop::default(),
            readers: Readers::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_runs_as_its_owner_and_only_the_owner_may_write() {
        let owners = [
            (Owner::Daemon, 0o4777, 0o777),
            (Owner::Root { group: 1 }, 0o4764, 0o754),
            (Owner::Root { group: 1 }, 0o600, 0o640),
            (Owner::User { user: 1, group: 1 }, 0o6666, 0o644),
        ];
        for (owner, from, to) in owners {
            assert_eq!(owner.mode(from), to, "{owner:?}");
        }
    }
}
