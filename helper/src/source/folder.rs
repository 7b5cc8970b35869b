//! A release from a folder: copied beside its place and then renamed, so that a release's folder is
//! either whole or not there.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Gid, Mode, OFlags, fchmod, fchown, mkdirat, openat, symlinkat};
use rustix::io::Errno;
use shunt_api::ReleaseName;

/// The file that names the release, as Capistrano has it.
const REVISION: &str = "REVISION";

/// Why a folder cannot become a release.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// What was given is not a folder.
    #[error("{0:?} is not a folder")]
    NoFolder(PathBuf),
    /// The release's own folder is inside of what would be copied.
    #[error("{from:?} holds {to:?}, a release cannot be made of what holds it")]
    Inside {
        /// What was to be copied.
        from: PathBuf,
        /// Where to.
        to: PathBuf,
    },
    /// There is a release of this name.
    #[error("release \"{0}\" exists already, choose another name")]
    Exists(ReleaseName),
    /// Something could not be copied.
    #[error("cannot copy {path:?}: {error}")]
    Copy {
        /// What.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// Copies a folder to `releases/<release>`. A group that is given may read and run whatever the owner
/// may, so that the user of an application can use what nobody else may see.
///
/// # Errors
///
/// [`SourceError`]; nothing is left then.
pub fn fetch(
    from: &Path,
    releases: &Path,
    release: &ReleaseName,
    group: Option<u32>,
) -> Result<PathBuf, SourceError> {
    let to = releases.join(release.as_str());
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| SourceError::Copy { path, error }
    };
    if to.symlink_metadata().is_ok() {
        return Err(SourceError::Exists(release.clone()));
    }
    // The folder itself, not a link to it.
    let real = from.canonicalize().ok().filter(|real| real.is_dir());
    let real = real.ok_or_else(|| SourceError::NoFolder(from.to_owned()))?;
    fs::create_dir_all(releases).map_err(failed(releases))?;
    let target = releases.canonicalize().map_err(failed(releases))?;
    if target.starts_with(&real) {
        return Err(SourceError::Inside { from: from.to_owned(), to: target });
    }
    let name = format!(".{release}.partial");
    let beside = releases.join(&name);
    remove(&beside).map_err(failed(&beside))?;
    let place = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = openat(CWD, &target, place, Mode::empty());
    let folder = folder.map_err(|e| failed(releases)(e.into()))?;
    let copied = copy(&real, &folder, name.as_ref(), group).and_then(|()| {
        let revision = beside.join(REVISION);
        if revision.symlink_metadata().is_err() {
            fs::write(&revision, format!("{release}\n")).map_err(failed(&revision))?;
        }
        fs::rename(&beside, &to).map_err(failed(&to))
    });
    if let Err(error) = copied {
        // The first error tells more than one of cleaning up.
        let _ = remove(&beside);
        return Err(error);
    }
    Ok(to)
}

/// Removes a folder and what is in it; it need not be there.
///
/// # Errors
///
/// What the system says.
pub fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Copies files with their modes, folders, and links as links, to a name in a folder. Owner and group
/// are given to what was made here and to nothing that somebody has put in its place.
fn copy(
    from: &Path,
    folder: &OwnedFd,
    name: &OsStr,
    group: Option<u32>,
) -> Result<(), SourceError> {
    let failed = |error| SourceError::Copy { path: from.to_owned(), error };
    let refused = |error: Errno| failed(error.into());
    let meta = from.symlink_metadata().map_err(failed)?;
    let kind = meta.file_type();
    let made = if kind.is_symlink() {
        let target = fs::read_link(from).map_err(failed)?;
        return symlinkat(target, folder, name).map_err(refused);
    } else if kind.is_dir() {
        mkdirat(folder, name, Mode::RWXU).map_err(refused)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = openat(folder, name, flags, Mode::empty()).map_err(refused)?;
        for entry in fs::read_dir(from).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            copy(&entry.path(), &made, &entry.file_name(), group)?;
        }
        made
    } else if kind.is_file() {
        let mut source = fs::File::open(from).map_err(failed)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let made = openat(folder, name, flags, Mode::RUSR | Mode::WUSR).map_err(refused)?;
        let mut made = fs::File::from(made);
        io::copy(&mut source, &mut made).map_err(failed)?;
        made.into()
    } else {
        let why = "it is neither a file, a folder nor a link";
        return Err(failed(io::Error::new(io::ErrorKind::Unsupported, why)));
    };
    // A copy belongs to somebody else than its source: it must not run as its owner.
    let mut mode = meta.permissions().mode() & 0o777;
    if let Some(group) = group {
        mode |= (mode & 0o500) >> 3;
        fchown(&made, None, Some(Gid::from_raw(group))).map_err(refused)?;
    }
    fchmod(&made, Mode::from_raw_mode(mode)).map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_becomes_a_release_with_modes_and_links() {
        let tmp = tempfile::tempdir().unwrap();
        let from = tmp.path().join("from");
        fs::create_dir_all(from.join("bin")).unwrap();
        fs::write(from.join("bin/server"), "x").unwrap();
        fs::set_permissions(from.join("bin/server"), fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink("bin/server", from.join("link")).unwrap();
        let name = ReleaseName::new("v1").unwrap();
        let releases = tmp.path().join("releases");
        let to = fetch(&from, &releases, &name, None).unwrap();
        assert_eq!(to.join("bin/server").metadata().unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(fs::read_link(to.join("link")).unwrap(), Path::new("bin/server"));
        assert_eq!(fs::read_to_string(to.join("REVISION")).unwrap(), "v1\n");
        assert!(matches!(fetch(&from, &releases, &name, None), Err(SourceError::Exists(_))));
        assert_eq!(fs::read_dir(&releases).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_copied_leaves_nothing() {
        let tmp = tempfile::tempdir().unwrap();
        let from = tmp.path().join("from");
        fs::create_dir(&from).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(from.join("socket")).unwrap();
        let releases = tmp.path().join("releases");
        let name = ReleaseName::new("v1").unwrap();
        let error = fetch(&from, &releases, &name, None).unwrap_err().to_string();
        assert!(error.contains("socket"), "{error}");
        assert_eq!(fs::read_dir(&releases).unwrap().count(), 0);
        let error = fetch(tmp.path(), &releases, &name, None).unwrap_err();
        assert!(matches!(error, SourceError::Inside { .. }), "{error}");
    }

    #[test]
    fn a_link_to_a_folder_is_copied_as_the_folder() {
        let tmp = tempfile::tempdir().unwrap();
        let (from, link) = (tmp.path().join("from"), tmp.path().join("link"));
        fs::create_dir(&from).unwrap();
        std::os::unix::fs::symlink(&from, &link).unwrap();
        let releases = tmp.path().join("releases");
        let to = fetch(&link, &releases, &ReleaseName::new("v1").unwrap(), None).unwrap();
        assert!(to.symlink_metadata().unwrap().is_dir());
        assert_eq!(fs::read_dir(&from).unwrap().count(), 0, "nothing is written into the source");
    }

    #[test]
    fn the_group_of_the_applications_user_can_use_a_copy_and_not_change_it() {
        let tmp = tempfile::tempdir().unwrap();
        let from = tempfile::tempdir().unwrap();
        fs::write(from.path().join("server"), "x").unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
        let set = |mode| {
            let mode = fs::Permissions::from_mode(mode);
            fs::set_permissions(from.path().join("server"), mode).unwrap();
        };
        set(0o4700);
        // As `mktemp -d` makes it.
        fs::set_permissions(from.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let releases = tmp.path().join("releases");
        let mine = rustix::process::getegid().as_raw();
        let name = ReleaseName::new("v1").unwrap();
        let to = fetch(from.path(), &releases, &name, Some(mine)).unwrap();
        assert_eq!((mode(&to), mode(&to.join("server"))), (0o750, 0o750));
    }
}
