//! A release from a folder: copied beside its place and then renamed, so that a release's folder is
//! either whole or not there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

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

/// Copies a folder to `releases/<release>`.
///
/// # Errors
///
/// [`SourceError`]; nothing is left then.
pub fn fetch(from: &Path, releases: &Path, release: &ReleaseName) -> Result<PathBuf, SourceError> {
    let to = releases.join(release.as_str());
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| SourceError::Copy { path, error }
    };
    if to.symlink_metadata().is_ok() {
        return Err(SourceError::Exists(release.clone()));
    }
    if !from.is_dir() {
        return Err(SourceError::NoFolder(from.to_owned()));
    }
    fs::create_dir_all(releases).map_err(failed(releases))?;
    let (real, target) = (from.canonicalize(), releases.canonicalize());
    if let (Ok(real), Ok(target)) = (real, target)
        && target.starts_with(&real)
    {
        return Err(SourceError::Inside { from: from.to_owned(), to: target });
    }
    let beside = releases.join(format!(".{release}.partial"));
    remove(&beside).map_err(failed(&beside))?;
    let copied = copy(from, &beside).and_then(|()| {
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

/// Copies files with their modes, folders, and links as links.
fn copy(from: &Path, to: &Path) -> Result<(), SourceError> {
    let failed = |error| SourceError::Copy { path: from.to_owned(), error };
    let kind = from.symlink_metadata().map_err(failed)?.file_type();
    if kind.is_symlink() {
        let target = fs::read_link(from).map_err(failed)?;
        std::os::unix::fs::symlink(target, to).map_err(failed)
    } else if kind.is_dir() {
        fs::create_dir(to).map_err(failed)?;
        for entry in fs::read_dir(from).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
        let mode = from.metadata().map_err(failed)?.permissions();
        fs::set_permissions(to, mode).map_err(failed)
    } else if kind.is_file() {
        fs::copy(from, to).map(|_| ()).map_err(failed)
    } else {
        let why = "it is neither a file, a folder nor a link";
        Err(failed(io::Error::new(io::ErrorKind::Unsupported, why)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

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
        let to = fetch(&from, &releases, &name).unwrap();
        assert_eq!(to.join("bin/server").metadata().unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(fs::read_link(to.join("link")).unwrap(), Path::new("bin/server"));
        assert_eq!(fs::read_to_string(to.join("REVISION")).unwrap(), "v1\n");
        assert!(matches!(fetch(&from, &releases, &name), Err(SourceError::Exists(_))));
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
        let error = fetch(&from, &releases, &name).unwrap_err().to_string();
        assert!(error.contains("socket"), "{error}");
        assert_eq!(fs::read_dir(&releases).unwrap().count(), 0);
        let error = fetch(tmp.path(), &releases, &name).unwrap_err();
        assert!(matches!(error, SourceError::Inside { .. }), "{error}");
    }
}
