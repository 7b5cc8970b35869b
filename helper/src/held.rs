//! Folders that are held open, so that nobody can put another one in their place.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, fstat, mkdirat, openat, readlinkat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

/// How a folder is held.
pub const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A folder in an application's root, which is made if it is missing. The root may belong to the
/// application's user, who can put a link there: one is followed only if it is the daemon's user's.
pub fn place(root: &Path, name: &str) -> io::Result<OwnedFd> {
    fs::create_dir_all(root)?;
    let root = openat(CWD, root, FOLDER, Mode::empty())?;
    match mkdirat(&root, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = openat(&root, name, flags, Mode::empty())?;
    let stat = fstat(&found)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Ok(found),
        FileType::Symlink if stat.st_uid == geteuid().as_raw() => {
            let target = OsString::from_vec(readlinkat(&found, "", Vec::new())?.into_bytes());
            Ok(openat(&root, target, FOLDER, Mode::empty())?)
        }
        FileType::Symlink => {
            let why = format!("{name:?} is a link that somebody else than shuntd's user has made");
            Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
        }
        _ => Err(io::Error::from(io::ErrorKind::NotADirectory)),
    }
}

/// Removes whatever has a name in a folder; nothing may. No link is followed.
pub fn remove_at(folder: impl AsFd, name: &OsStr) -> io::Result<()> {
    match unlinkat(&folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => {}
        Err(error) => return Err(error.into()),
    }
    fs::remove_dir_all(path_of(&folder).join(name))
}

/// A path that means this very folder, whatever happens to its name, for as long as it is held.
pub fn path_of(folder: &impl AsFd) -> PathBuf {
    Path::new("/proc/self/fd").join(folder.as_fd().as_raw_fd().to_string())
}
