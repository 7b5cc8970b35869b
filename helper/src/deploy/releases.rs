//! An application's folder: `releases/<id>`, `current`, `slots/<instance>`, `log/<id>.log`,
//! `log/<id>+hooks.log`.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use shunt_api::ReleaseName;

use crate::hook;
use crate::source::{path_of, place, remove_at, revision};

/// Where releases lie, and their logs, in the folder of an application.
const RELEASES: &str = "releases";
const LOG: &str = "log";

/// The folder of an application.
#[derive(Debug, Clone)]
pub struct Releases {
    root: PathBuf,
}

impl Releases {
    /// That of this root.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Where releases lie.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.root.join(RELEASES)
    }

    /// Where this release lies.
    #[must_use]
    pub fn of(&self, release: &ReleaseName) -> PathBuf {
        self.folder().join(release.as_str())
    }

    /// Where the links of slots lie.
    #[must_use]
    pub fn slots(&self) -> PathBuf {
        self.root.join("slots")
    }

    /// The link of a slot, by the name of its instance.
    #[must_use]
    pub fn slot(&self, instance: &str) -> PathBuf {
        self.slots().join(instance)
    }

    /// Its log.
    #[must_use]
    pub fn log(&self, release: &ReleaseName) -> PathBuf {
        self.root.join(LOG).join(format!("{release}.log"))
    }

    /// What a release was made of, if its folder says so.
    #[must_use]
    pub fn revision(&self, release: &ReleaseName) -> Option<String> {
        revision::of(&self.of(release))
    }

    /// All releases, with the time when each was made, the oldest first.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn all(&self) -> io::Result<Vec<(SystemTime, ReleaseName)>> {
        let mut found = Vec::new();
        let Some(folder) = self.held(RELEASES)? else { return Ok(found) };
        for entry in std::fs::read_dir(path_of(&folder))? {
            let entry = entry?;
            // What has no release's name was not put there by us.
            let name = entry.file_name().to_str().and_then(|n| ReleaseName::new(n).ok());
            if let Some(name) = name.filter(|n| !n.as_str().starts_with('.'))
                && entry.file_type()?.is_dir()
            {
                // The folder itself is as old as the release: it was renamed into place, and the
                // copy has set no time.
                found.push((entry.metadata()?.modified()?, name));
            }
        }
        found.sort();
        Ok(found)
    }

    /// Points `current` to a release: a new link is made beside it and renamed over it, so there is
    /// no moment without one.
    ///
    /// # Errors
    ///
    /// What the system says; a `current` that is a folder is left alone.
    pub fn publish(&self, release: &ReleaseName) -> io::Result<()> {
        let (current, beside) = (self.root.join("current"), self.root.join(".current.new"));
        match current.symlink_metadata() {
            Ok(meta) if !meta.file_type().is_symlink() => {
                let why = format!("{} is not a link, move it away", current.display());
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
            }
            _ => {}
        }
        match std::fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::os::unix::fs::symlink(Path::new("releases").join(release.as_str()), &beside)?;
        std::fs::rename(&beside, &current)?;
        std::fs::File::open(&self.root)?.sync_all()
    }

    /// Removes the oldest releases, so that `keep` are left, but none of those `in_use`; tells which.
    ///
    /// # Errors
    ///
    /// What the system says of the first that cannot be removed.
    pub fn prune(&self, keep: usize, in_use: &[ReleaseName]) -> io::Result<Vec<ReleaseName>> {
        let names: Vec<ReleaseName> = self.all()?.into_iter().map(|(_, name)| name).collect();
        let out = to_remove(&names, keep, in_use);
        let (folder, logs) = (self.held(RELEASES)?, self.held(LOG)?);
        for release in &out {
            if let Some(folder) = &folder {
                remove_at(folder, release.as_str().as_ref())?;
            }
            let Some(logs) = &logs else { continue };
            for log in [self.log(release), hook::log(&self.root, release)] {
                remove_at(logs, log.file_name().unwrap_or_default())?;
            }
        }
        self.prune_logs(keep)?;
        Ok(out)
    }

    /// Removes the folder of a release; it need not be there.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn remove(&self, release: &ReleaseName) -> io::Result<()> {
        match self.held(RELEASES)? {
            Some(folder) => remove_at(&folder, release.as_str().as_ref()),
            None => Ok(()),
        }
    }

    /// A folder in the root, if it is there. The root may belong to the application's user, who could put
    /// a link in its place at any moment, to where root should remove nothing.
    fn held(&self, name: &str) -> io::Result<Option<OwnedFd>> {
        match self.root.join(name).symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            _ => place(&self.root, name).map(Some),
        }
    }

    /// Removes logs of releases that are no more, as of refused ones, but for the latest `keep` of
    /// either kind.
    ///
    /// # Errors
    ///
    /// What the system says of the first that cannot be removed.
    pub fn prune_logs(&self, keep: usize) -> io::Result<()> {
        let Some(folder) = self.held(LOG)? else { return Ok(()) };
        let (mut own, mut of_hooks) = (Vec::new(), Vec::new());
        for entry in std::fs::read_dir(path_of(&folder))? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let (release, found) = match name.strip_suffix(hook::SUFFIX) {
                Some(release) => (Some(release), &mut of_hooks),
                None => (name.strip_suffix(".log"), &mut own),
            };
            let release = release.and_then(|release| ReleaseName::new(release).ok());
            if release.is_some_and(|release| !self.of(&release).exists()) {
                found.push((entry.metadata()?.modified()?, entry.file_name()));
            }
        }
        for found in [&mut own, &mut of_hooks] {
            found.sort();
            let too_many = found.len().saturating_sub(keep);
            found.iter().take(too_many).try_for_each(|(_, log)| remove_at(&folder, log))?;
        }
        Ok(())
    }
}

/// Which of these releases (oldest first) go (P12).
fn to_remove(
    oldest_first: &[ReleaseName],
    keep: usize,
    in_use: &[ReleaseName],
) -> Vec<ReleaseName> {
    let too_many = oldest_first.len().saturating_sub(keep);
    oldest_first.iter().filter(|r| !in_use.contains(r)).take(too_many).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(i: usize) -> ReleaseName {
        ReleaseName::new(&format!("r{i}")).unwrap()
    }

    proptest! {
        #[test]
        fn p12_cleaning_up_never_removes_what_is_in_use(
            n in 0usize..20,
            keep in 0usize..10,
            used in prop::collection::vec(0usize..20, 0..5),
        ) {
            let all: Vec<_> = (0..n).map(name).collect();
            let used: Vec<_> = used.into_iter().map(name).collect();
            let out = to_remove(&all, keep, &used);
            prop_assert!(out.iter().all(|r| !used.contains(r)));
            let left: Vec<_> = all.iter().filter(|r| !out.contains(r)).collect();
            prop_assert!(left.len() >= keep.min(n));
            // What is left beyond `keep` is in use.
            prop_assert!(left.len() <= keep.max(used.len()).max(keep + used.len()));
            // No newer release goes while an older one stays that is not in use.
            let oldest_left = left.iter().position(|r| !used.contains(r));
            if let (Some(at), Some(last)) = (oldest_left, out.last()) {
                let place = |r: &ReleaseName| all.iter().position(|a| a == r);
                prop_assert!(place(left[at]) > place(last));
            }
        }
    }

    #[test]
    fn current_is_replaced_in_one_step_and_a_folder_is_left_alone() {
        let tmp = tempfile::tempdir().unwrap();
        let releases = Releases::new(tmp.path());
        let current = tmp.path().join("current");
        for i in 0..2 {
            releases.publish(&name(i)).unwrap();
            assert_eq!(
                std::fs::read_link(&current).unwrap(),
                Path::new("releases").join(name(i).as_str())
            );
        }
        std::fs::remove_file(&current).unwrap();
        std::fs::create_dir(&current).unwrap();
        assert!(releases.publish(&name(0)).unwrap_err().to_string().contains("not a link"));
    }

    #[test]
    fn logs_of_refused_releases_go_but_for_the_latest() {
        let tmp = tempfile::tempdir().unwrap();
        let releases = Releases::new(tmp.path());
        std::fs::create_dir_all(releases.of(&name(0))).unwrap();
        std::fs::create_dir(tmp.path().join("log")).unwrap();
        let of_hooks = |i| hook::log(tmp.path(), &name(i));
        for i in 0..5 {
            for log in [releases.log(&name(i)), of_hooks(i)] {
                let log = std::fs::File::create(log).unwrap();
                let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1000 + i as u64);
                log.set_modified(time).unwrap();
            }
        }
        releases.prune_logs(2).unwrap();
        let left: Vec<_> = (0..5).filter(|i| releases.log(&name(*i)).exists()).collect();
        assert_eq!(left, [0, 3, 4]);
        let left: Vec<_> = (0..5).filter(|i| of_hooks(*i).exists()).collect();
        assert_eq!(left, [0, 3, 4]);
    }

    #[test]
    fn p12_nothing_is_removed_through_a_link_that_somebody_else_has_made() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can give a link away");
            return;
        }
        let (tmp, victim) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let releases = Releases::new(tmp.path());
        for i in 0..4 {
            std::fs::create_dir(victim.path().join(name(i).as_str())).unwrap();
            std::fs::write(victim.path().join(format!("{}x.log", name(i))), "").unwrap();
        }
        for folder in ["releases", "log"] {
            let link = tmp.path().join(folder);
            std::os::unix::fs::symlink(victim.path(), &link).unwrap();
            std::os::unix::fs::lchown(link, Some(65534), None).unwrap();
        }
        let refused = |result: io::Result<()>| {
            assert!(result.unwrap_err().to_string().contains("somebody else"));
        };
        refused(releases.prune(1, &[]).map(drop));
        refused(releases.prune_logs(1));
        refused(releases.remove(&name(0)));
        refused(releases.all().map(drop));
        assert_eq!(std::fs::read_dir(victim.path()).unwrap().count(), 8);
    }

    #[test]
    fn the_oldest_go_first_and_strangers_stay() {
        let tmp = tempfile::tempdir().unwrap();
        let releases = Releases::new(tmp.path());
        for i in 0..4 {
            let folder = releases.of(&name(i));
            std::fs::create_dir_all(&folder).unwrap();
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1000 + i as u64);
            std::fs::File::open(&folder).unwrap().set_modified(time).unwrap();
        }
        std::fs::create_dir(releases.folder().join("a stranger")).unwrap();
        assert_eq!(releases.prune(2, &[name(0)]).unwrap(), [name(1), name(2)]);
        assert_eq!(std::fs::read_dir(releases.folder()).unwrap().count(), 3);
    }
}
