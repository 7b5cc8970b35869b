//! What all releases share: files and folders of `<root>/shared` that each has as links.
//!
//! As with Capistrano, what the release itself has there gives way to the link. A link is relative, so
//! the application's folder can be moved.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Mode, OFlags, Uid, fchown, mkdirat, openat};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::SourceError;
use super::partial::{Partial, names};
use crate::config::source::Shared;
use crate::held::{place, remove_at};
use crate::user::User;

/// The folder in an application's root.
const FOLDER: &str = "shared";

/// Sees that everything is there that releases share. Folders are made, for the application's user;
/// files are somebody's to put there.
pub(super) fn prepare(
    root: &Path,
    shared: &[Shared],
    user: Option<&User>,
) -> Result<(), SourceError> {
    for shared in shared {
        let path = root.join(FOLDER).join(&shared.path);
        match (fs::metadata(&path), shared.folder) {
            (Ok(meta), folder) if meta.is_dir() == folder => {}
            (Ok(_), folder) => return Err(SourceError::SharedKind { path, folder }),
            (Err(error), folder) if error.kind() == io::ErrorKind::NotFound => match folder {
                true => make(root, &shared.path, user)
                    .map_err(|error| SourceError::Write { path, error })?,
                false => return Err(SourceError::SharedMissing { path }),
            },
            (Err(error), _) => return Err(SourceError::Read { path, error }),
        }
    }
    Ok(())
}

/// Makes a folder. It belongs to the application's user, but what it lies in does not.
fn make(root: &Path, path: &Path, user: Option<&User>) -> io::Result<()> {
    let mut at = place(root, FOLDER)?;
    let names = names(path);
    for (i, name) in names.iter().enumerate() {
        let made = match mkdirat(&at, *name, Mode::from_raw_mode(0o755)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(error.into()),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        at = openat(&at, *name, flags, Mode::empty())?;
        let user = user.filter(|_| made && i + 1 == names.len() && geteuid().is_root());
        if let Some(user) = user {
            fchown(&at, Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid)))?;
        }
    }
    Ok(())
}

/// Links everything into a release.
pub(super) fn link(partial: &Partial, shared: &[Shared]) -> Result<(), SourceError> {
    for shared in shared {
        let failed = |error| SourceError::Link { path: shared.path.clone(), error };
        let names = names(&shared.path);
        let Some((name, parents)) = names.split_last() else { continue };
        let parent = partial.folder(parents).map_err(failed)?;
        remove_at(&parent, name).map_err(failed)?;
        // Out of the folders in the release, of the release, and of `releases`.
        let mut target: PathBuf = std::iter::repeat_n("..", parents.len() + 2).collect();
        target.push(FOLDER);
        target.push(&shared.path);
        partial.link(&parent, name, target.as_os_str()).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::order::{Order, Owner, Room, Stop};
    use shunt_api::ReleaseName;
    use std::os::unix::fs::{MetadataExt, symlink};

    fn all(texts: &[&str]) -> Vec<Shared> {
        texts.iter().map(|text| Shared::new(text).unwrap()).collect()
    }

    fn release(root: &Path, name: &str, shared: &[Shared]) -> Result<PathBuf, SourceError> {
        let order = Order {
            root: root.to_owned(),
            release: ReleaseName::new(name).unwrap(),
            owner: Owner::Daemon,
            room: Room::UNBOUNDED,
            shared: shared.to_owned(),
            stop: Stop::default(),
            readers: Default::default(),
        };
        let from = root.join("from");
        super::super::folder::fetch(&from, order).map(|fetched| fetched.folder)
    }

    #[test]
    fn every_release_has_the_same_files_and_folders_and_its_own_give_way() {
        let tmp = tempfile::tempdir().unwrap();
        let root = tmp.path();
        fs::create_dir_all(root.join("from/storage/logs")).unwrap();
        fs::create_dir_all(root.join("shared/config")).unwrap();
        fs::write(root.join("from/storage/logs/old"), "").unwrap();
        fs::write(root.join("from/.env"), "the release's own").unwrap();
        fs::write(root.join("shared/.env"), "shared").unwrap();
        fs::write(root.join("shared/config/key"), "key").unwrap();
        let shared = all(&["storage/", ".env", "config/key"]);
        prepare(root, &shared, None).unwrap();
        let one = release(root, "v1", &shared).unwrap();
        let two = release(root, "v2", &shared).unwrap();
        for to in [&one, &two] {
            assert_eq!(fs::read_to_string(to.join(".env")).unwrap(), "shared");
            assert_eq!(fs::read_to_string(to.join("config/key")).unwrap(), "key");
        }
        assert_eq!(
            fs::read_link(one.join("config/key")).unwrap(),
            Path::new("../../../shared/config/key")
        );
        fs::write(one.join("storage/new"), "new").unwrap();
        assert_eq!(fs::read_to_string(two.join("storage/new")).unwrap(), "new");
        // What gave way was the release's, not the source's.
        assert!(root.join("from/storage/logs/old").exists());
        folder_is_left(root);
    }

    /// Removing a release leaves what is shared.
    fn folder_is_left(root: &Path) {
        fs::remove_dir_all(root.join("releases/v1")).unwrap();
        assert!(root.join("shared/storage/new").exists() && root.join("shared/.env").exists());
    }

    #[test]
    fn a_missing_folder_is_made_and_a_missing_file_is_asked_for() {
        let tmp = tempfile::tempdir().unwrap();
        let error = prepare(tmp.path(), &all(&["a/", ".env"]), None).unwrap_err().to_string();
        assert!(
            error.contains("shared/.env\" is missing") && error.contains("put it there"),
            "{error}"
        );
        assert!(tmp.path().join("shared/a").is_dir());
        fs::create_dir(tmp.path().join("shared/.env")).unwrap();
        let error = prepare(tmp.path(), &all(&[".env"]), None).unwrap_err().to_string();
        assert!(error.contains("slash at its end"), "{error}");
        fs::write(tmp.path().join("shared/b"), "").unwrap();
        let error = prepare(tmp.path(), &all(&["b/"]), None).unwrap_err().to_string();
        assert!(error.contains("without the slash"), "{error}");
    }

    #[test]
    fn only_the_shared_folder_itself_is_the_applications_users() {
        if !geteuid().is_root() {
            eprintln!("skipped: only root can give a folder away");
            return;
        }
        let tmp = tempfile::tempdir().unwrap();
        let user = User::find("nobody").unwrap();
        prepare(tmp.path(), &all(&["storage/app/"]), Some(&user)).unwrap();
        let owner = |path: &str| tmp.path().join(path).metadata().unwrap().uid();
        assert_eq!(["shared", "shared/storage", "shared/storage/app"].map(owner), [0, 0, user.uid]);
        // What is there already is left as it is.
        prepare(tmp.path(), &all(&["storage/"]), Some(&user)).unwrap();
        assert_eq!(owner("shared/storage"), 0);
    }

    #[test]
    fn a_link_in_the_release_is_not_followed_to_make_room() {
        let tmp = tempfile::tempdir().unwrap();
        let (root, outside) = (tmp.path().join("web"), tmp.path().join("outside"));
        fs::create_dir_all(root.join("from")).unwrap();
        fs::create_dir_all(outside.join("b")).unwrap();
        symlink(&outside, root.join("from/a")).unwrap();
        let error = release(&root, "v1", &all(&["a/b/"])).unwrap_err().to_string();
        assert!(error.contains("leads through \"a\""), "{error}");
        assert!(outside.join("b").is_dir());
        // A link itself gives way.
        let to = release(&root, "v1", &all(&["a/"])).unwrap();
        assert_eq!(fs::read_link(to.join("a")).unwrap(), Path::new("../../shared/a"));
        assert!(outside.join("b").is_dir());
    }
}
