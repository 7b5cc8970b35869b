//! Whose rights count when root copies files for somebody else.
//!
//! Whoever may deploy without being root names a folder or an archive, and the daemon would read it as
//! root. It takes only what he could have read himself, or the application's user, as it is then that
//! one's to read. Each file and folder is looked at once it is open, so that nothing can be put in its
//! place; access control lists are not, beyond what the mode says of them.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};

use nix::unistd::{Gid, Uid, User, getgrouplist};
use rustix::fs::{CWD, Mode, OFlags, fstat, openat};

/// May be read, and gone through (`inode(7)`).
pub(super) const READ: u32 = 0o4;
pub(super) const PASS: u32 = 0o1;

/// Somebody who is not root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reader {
    uid: u32,
    groups: Vec<u32>,
}

impl Reader {
    /// A user with this group, and with those that the system's tables give to him.
    #[must_use]
    pub fn new(uid: u32, gid: u32) -> Self {
        let known = || {
            let user = User::from_uid(Uid::from_raw(uid)).ok()??;
            getgrouplist(&CString::new(user.name).ok()?, Gid::from_raw(gid)).ok()
        };
        let mut groups: Vec<_> = known().into_iter().flatten().map(Gid::as_raw).collect();
        groups.push(gid);
        Self { uid, groups }
    }

    /// What a file's mode allows him.
    fn may(&self, uid: u32, gid: u32, mode: u32) -> u32 {
        let shift = match () {
            () if uid == self.uid => 6,
            () if self.groups.contains(&gid) => 3,
            () => 0,
        };
        (mode >> shift) & 0o7
    }
}

/// All who may have what is copied; when there are none, it is whoever the daemon is.
#[derive(Debug, Clone, Default)]
pub(super) struct Readers(Vec<Reader>);

/// Which of the readers have come to a place.
#[derive(Debug, Clone)]
pub(super) struct There(Vec<bool>);

impl Readers {
    pub(super) fn new(readers: Vec<Reader>) -> Self {
        Self(readers)
    }

    /// Whether nobody's rights but the daemon's own count.
    fn is_own(&self) -> bool {
        self.0.is_empty()
    }

    /// Those who may do this with what is open, out of those who have come to where it lies.
    ///
    /// # Errors
    ///
    /// When none of them may.
    pub(super) fn may(&self, there: &There, fd: impl AsFd, what: u32) -> io::Result<There> {
        if self.is_own() {
            return Ok(there.clone());
        }
        let stat = fstat(fd)?;
        let may = |(reader, there): (&Reader, &bool)| {
            *there && reader.may(stat.st_uid, stat.st_gid, stat.st_mode) & what == what
        };
        let left: Vec<_> = self.0.iter().zip(&there.0).map(may).collect();
        match left.contains(&true) {
            true => Ok(There(left)),
            false => Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "neither who deploys may read it nor the application's user",
            )),
        }
    }

    /// Opens what is at a path without links, and looks whether it may be read.
    ///
    /// # Errors
    ///
    /// What the system says, and as [`Readers::may`].
    pub(super) fn open(
        &self,
        path: &Path,
        flags: OFlags,
        what: u32,
    ) -> io::Result<(OwnedFd, There)> {
        let there = There(vec![true; self.0.len()]);
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if self.is_own() {
            return Ok((openat(CWD, path, flags, Mode::empty())?, there));
        }
        let place = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut at = openat(CWD, "/", place, Mode::empty())?;
        let mut there = self.may(&there, &at, PASS)?;
        let name = |part| match part {
            Component::Normal(name) => Some(name),
            _ => None,
        };
        let names: Vec<&OsStr> = path.components().filter_map(name).collect();
        let (last, parents) = names.split_last().ok_or(io::ErrorKind::PermissionDenied)?;
        for name in parents {
            at = openat(&at, *name, place, Mode::empty())?;
            there = self.may(&there, &at, PASS)?;
        }
        let found = openat(&at, *last, flags, Mode::empty())?;
        let there = self.may(&there, &found, what)?;
        Ok((found, there))
    }

    /// As [`crate::file::open`].
    ///
    /// # Errors
    ///
    /// As [`Readers::open`].
    pub(super) fn file(&self, path: &Path) -> io::Result<File> {
        if self.is_own() {
            return crate::file::open(path);
        }
        let real = path.canonicalize()?;
        let file = File::from(self.open(&real, OFlags::RDONLY | OFlags::NONBLOCK, READ)?.0);
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(io::Error::other("it is no file")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_of_the_owner_goes_before_that_of_the_group_and_of_all() {
        let reader = Reader { uid: 7, groups: vec![8, 9] };
        assert_eq!(reader.may(7, 8, 0o077), 0);
        assert_eq!(reader.may(1, 9, 0o707), 0);
        assert_eq!(reader.may(1, 1, 0o750), 0);
        assert_eq!(
            [reader.may(7, 1, 0o700), reader.may(1, 8, 0o070), reader.may(1, 1, 0o004)],
            [7, 7, 4]
        );
    }

    #[test]
    fn one_who_cannot_come_to_a_place_cannot_read_there() {
        use std::os::unix::fs::{PermissionsExt, chown};
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can give a file away");
            return;
        }
        let tmp = tempfile::tempdir().unwrap();
        let top = tmp.path().canonicalize().unwrap();
        let mode = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let (inner, file) = (top.join("inner"), top.join("inner/file"));
        std::fs::create_dir(&inner).unwrap();
        std::fs::write(&file, "x").unwrap();
        mode(&top, 0o755);
        let open = |readers: &[u32]| {
            let readers = readers.iter().map(|uid| Reader { uid: *uid, groups: vec![*uid] });
            Readers::new(readers.collect()).file(&file).is_ok()
        };
        mode(&inner, 0o700);
        chown(&inner, Some(7), Some(7)).unwrap();
        mode(&file, 0o640);
        chown(&file, Some(0), Some(8)).unwrap();
        // One comes there and may not read it, the other may and does not come there.
        assert!(!open(&[7, 8]));
        assert!(open(&[]));
        mode(&inner, 0o711);
        assert!(open(&[7, 8]) && open(&[8]) && !open(&[7]));
    }
}
