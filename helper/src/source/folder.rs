//! A release from a folder: a copy of it, with modes and times of its files, and links as links.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, statat};
use rustix::io::Errno;

use super::order::Order;
use super::partial::{DEPTH, Partial, Revision};
use super::reader::{PASS, READ, Readers, There};
use super::{Fetched, SourceError};

/// Copies a folder. What somebody does to it meanwhile can make the copy incomplete, but never lead out
/// of the folder: no link is followed.
pub(super) fn fetch(from: &Path, order: Order) -> Result<Fetched, SourceError> {
    let read = |error: io::Error| SourceError::Read { path: from.to_owned(), error };
    // The folder itself, not a link to it.
    let real = from.canonicalize().ok().filter(|real| real.is_dir());
    let real = real.ok_or_else(|| SourceError::NoFolder(from.to_owned()))?;
    let readers = order.readers.clone();
    let (source, there) = readers.open(&real, FOLDER, READ | PASS).map_err(read)?;
    let name = order.release.to_string();
    let mut partial = Partial::begin(order)?;
    let releases = partial.releases().map_err(read)?;
    if releases.starts_with(&real) {
        return Err(SourceError::Inside { from: from.to_owned(), to: releases });
    }
    partial.mode = fstat(&source).map_err(|e| read(e.into()))?.st_mode;
    let top = partial.top().try_clone_to_owned().map_err(read)?;
    let mut copy =
        Copy { partial: &mut partial, readers: &readers, path: from.to_owned(), depth: 0 };
    copy.content(source, top.as_fd(), &there)?;
    let (folder, revision) = partial.finish(Revision::Else(name))?;
    Ok(Fetched { folder, revision })
}

const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

struct Copy<'a> {
    partial: &'a mut Partial,
    readers: &'a Readers,
    /// Where it is, for messages.
    path: std::path::PathBuf,
    depth: usize,
}

impl Copy<'_> {
    fn content(
        &mut self,
        from: OwnedFd,
        to: BorrowedFd<'_>,
        there: &There,
    ) -> Result<(), SourceError> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&from).map_err(|e| self.failed(e.into()))? {
            let entry = entry.map_err(|e| self.failed(e.into()))?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name.to_owned()));
            }
        }
        for name in names {
            self.path.push(&name);
            self.entry(from.as_fd(), to, &name, there)?;
            self.path.pop();
        }
        Ok(())
    }

    fn entry(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &OsStr,
        there: &There,
    ) -> Result<(), SourceError> {
        self.partial.take(0).map_err(|e| self.failed(e))?;
        let refused = |error: Errno| self.failed(error.into());
        let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW).map_err(refused)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => {
                let target = readlinkat(from, name, Vec::new()).map_err(refused)?;
                let target = OsStr::from_bytes(target.as_bytes());
                self.partial.link(to, name, target).map_err(|e| self.failed(e))
            }
            FileType::Directory if self.depth == DEPTH => {
                Err(self.failed(io::Error::other("it lies too deep")))
            }
            FileType::Directory => {
                let inner = openat(from, name, FOLDER, Mode::empty()).map_err(refused)?;
                let there = self.readers.may(there, &inner, READ | PASS);
                let there = there.map_err(|e| self.failed(e))?;
                let made = self.partial.make_folder(to, name, stat.st_mode);
                let made = made.map_err(|e| self.failed(e))?;
                self.depth += 1;
                self.content(inner, made.as_fd(), &there)?;
                self.depth -= 1;
                Ok(())
            }
            FileType::RegularFile => self.file(from, to, name, there).map_err(|e| self.failed(e)),
            _ => Err(self.strange()),
        }
    }

    fn file(
        &self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &OsStr,
        there: &There,
    ) -> io::Result<()> {
        // Should it be another one by now, a pipe is not waited for.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut source = File::from(openat(from, name, flags, Mode::empty())?);
        self.readers.may(there, &source, READ)?;
        let stat: Stat = fstat(&source)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("it is another one by now"));
        }
        let mut made = self.partial.create(to, name)?;
        io::copy(&mut source, &mut made)?;
        self.partial.seal(&made, stat.st_mode, stat.st_mtime)
    }

    fn failed(&self, error: io::Error) -> SourceError {
        SourceError::Copy { path: self.path.clone(), error }
    }

    fn strange(&self) -> SourceError {
        let why = "it is neither a file, a folder nor a link";
        self.failed(io::Error::new(io::ErrorKind::Unsupported, why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::order::Owner;
    use crate::source::order::testing::order;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    fn made(from: &Path, root: &Path) -> PathBuf {
        fetch(from, order(root)).unwrap().folder
    }

    fn count(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn a_folder_becomes_a_release_with_modes_times_and_links() {
        let tmp = tempfile::tempdir().unwrap();
        let from = tmp.path().join("from");
        fs::create_dir_all(from.join("bin")).unwrap();
        fs::write(from.join("bin/server"), "x").unwrap();
        fs::set_permissions(from.join("bin/server"), fs::Permissions::from_mode(0o755)).unwrap();
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        File::open(from.join("bin/server")).unwrap().set_modified(time).unwrap();
        std::os::unix::fs::symlink("bin/server", from.join("link")).unwrap();
        let fetched = fetch(&from, order(tmp.path())).unwrap();
        let server = fetched.folder.join("bin/server").metadata().unwrap();
        assert_eq!(server.permissions().mode() & 0o777, 0o755);
        assert_eq!(server.modified().unwrap(), time);
        assert_eq!(fs::read_link(fetched.folder.join("link")).unwrap(), Path::new("bin/server"));
        assert_eq!(fs::read_to_string(fetched.folder.join("REVISION")).unwrap(), "v1\n");
        assert_eq!(fetched.revision, "v1");
        assert!(matches!(fetch(&from, order(tmp.path())), Err(SourceError::Exists(_))));
        assert_eq!(count(&tmp.path().join("releases")), 1);
    }

    #[test]
    fn what_cannot_be_copied_leaves_nothing() {
        let tmp = tempfile::tempdir().unwrap();
        let (from, root) = (tmp.path().join("from"), tmp.path().join("web"));
        fs::create_dir(&from).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(from.join("socket")).unwrap();
        let error = fetch(&from, order(&root)).unwrap_err().to_string();
        assert!(error.contains("from/socket\": it is neither"), "{error}");
        let error = fetch(tmp.path(), order(&root)).unwrap_err();
        assert!(matches!(error, SourceError::Inside { .. }), "{error}");
        let error = fetch(&from.join("socket"), order(&root)).unwrap_err();
        assert!(matches!(error, SourceError::NoFolder(_)), "{error}");
        assert_eq!(count(&root.join("releases")), 0);
    }

    #[test]
    fn folders_can_lie_so_deep_and_no_deeper() {
        let tmp = tempfile::tempdir().unwrap();
        let from = tmp.path().join("from");
        let deep: PathBuf = std::iter::repeat_n("a", DEPTH).collect();
        fs::create_dir_all(from.join(&deep)).unwrap();
        let to = made(&from, &tmp.path().join("one"));
        assert!(to.join(&deep).is_dir());
        fs::create_dir(from.join(&deep).join("a")).unwrap();
        let error = fetch(&from, order(&tmp.path().join("two"))).unwrap_err().to_string();
        assert!(error.contains("too deep"), "{error}");
    }

    #[test]
    fn a_link_to_a_folder_is_copied_as_the_folder() {
        let tmp = tempfile::tempdir().unwrap();
        let (from, link) = (tmp.path().join("from"), tmp.path().join("link"));
        fs::create_dir(&from).unwrap();
        std::os::unix::fs::symlink(&from, &link).unwrap();
        let to = made(&link, &tmp.path().join("web"));
        assert!(to.symlink_metadata().unwrap().is_dir());
        assert_eq!(count(&from), 0, "nothing is written into the source");
    }

    #[test]
    fn the_group_of_the_applications_user_can_use_a_copy_and_not_change_it() {
        let tmp = tempfile::tempdir().unwrap();
        let from = tempfile::tempdir().unwrap();
        fs::write(from.path().join("server"), "x").unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
        let mut n = 0;
        let mut copied = |file| {
            let set = fs::Permissions::from_mode(file);
            fs::set_permissions(from.path().join("server"), set).unwrap();
            n += 1;
            let owner = Owner::Root { group: rustix::process::getegid().as_raw() };
            let order = Order { owner, ..order(&tmp.path().join(n.to_string())) };
            let to = fetch(from.path(), order).unwrap().folder;
            (mode(&to), mode(&to.join("server")))
        };
        // As `mktemp -d` makes it.
        fs::set_permissions(from.path(), fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(copied(0o4700), (0o750, 0o750));
        assert_eq!(copied(0o666), (0o750, 0o644));
    }
}
