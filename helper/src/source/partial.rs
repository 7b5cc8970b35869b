//! A release that is being made: beside its place, and renamed at the end, so that its folder is either
//! whole or not there, also after a loss of power.
//!
//! Until then only the daemon's user can look into it. Everything is made relative to a descriptor of
//! its parent, and no link is followed: nothing in a release, and nothing that the application's user
//! puts in the way, leads out of it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT,
    chownat, flock, fstat, futimens, linkat, mkdirat, openat, readlinkat, renameat, statat,
    symlinkat, syncfs, unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::order::Order;
use super::{REVISION, SourceError, blocking, revision, shared};

/// How deep folders can lie in each other: each is open while what is in it is copied.
pub(super) const DEPTH: usize = 100;

/// How the name of a release ends that is being made. No release's own name can.
const PARTIAL: &str = "+partial";

/// How many attempts at one release can be at their end at once.
const ATTEMPTS: usize = 100;

const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// What the file `REVISION` of a release says.
#[derive(Debug, Clone)]
pub(super) enum Revision {
    /// This.
    Is(String),
    /// What it says already, or else this.
    Else(String),
}

/// A folder that is read, or locked.
const OPEN: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A release that is being made. Whatever becomes of it, nothing is left when it is dropped unfinished.
///
/// An attempt that nobody waits for any more may end after the next one has begun: each has a folder of
/// its own, and holds a lock on it, so that none takes away another's.
#[derive(Debug)]
pub(super) struct Partial {
    order: Order,
    releases: OwnedFd,
    name: OsString,
    /// Its folder, with the lock on it.
    top: OwnedFd,
    /// The mode of the release's own folder.
    pub mode: u32,
    finished: bool,
}

impl Partial {
    /// Begins one. What earlier attempts left, of whatever release, is removed, unless one is still at its
    /// end: an application has one job at a time.
    pub(super) fn begin(order: Order) -> Result<Self, SourceError> {
        let path = order.root.join("releases");
        let failed = |error: io::Error| SourceError::Write { path: path.clone(), error };
        let releases = place(&order.root, "releases").map_err(failed)?;
        let release = order.release.as_str();
        if statat(&releases, release, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            return Err(SourceError::Exists(order.release));
        }
        clear(&releases).map_err(failed)?;
        let name = make(&releases, release).map_err(|e| failed(e.into()))?;
        let top = openat(&releases, &name, OPEN, Mode::empty());
        let top = top.map_err(|e| failed(e.into()))?;
        // Nobody else knows of it yet, and who looks holds it no longer than that.
        flock(&top, FlockOperation::LockExclusive).map_err(|e| failed(e.into()))?;
        Ok(Self { order, releases, name, top, mode: 0o755, finished: false })
    }

    /// Its own folder.
    pub(super) fn top(&self) -> BorrowedFd<'_> {
        self.top.as_fd()
    }

    /// Where all releases lie, without any link.
    pub(super) fn releases(&self) -> io::Result<PathBuf> {
        fs::read_link(path_of(&self.releases))
    }

    /// Makes room for something of this size.
    pub(super) fn take(&mut self, bytes: u64) -> io::Result<()> {
        self.order.stop.check()?;
        let room = &mut self.order.room;
        let full = |what| io::Error::new(io::ErrorKind::FileTooLarge, what);
        room.bytes = room.bytes.checked_sub(bytes).ok_or_else(|| {
            full("the release becomes larger than [source] max_size, raise that if it is right")
        })?;
        room.entries =
            room.entries.checked_sub(1).ok_or_else(|| full("the release has too many files"))?;
        Ok(())
    }

    /// The folder at a path of plain names, which is made if it is missing.
    pub(super) fn folder(&self, path: &[&OsStr]) -> io::Result<OwnedFd> {
        if path.len() > DEPTH {
            return Err(io::Error::other("it lies too deep"));
        }
        let mut at = self.top.try_clone()?;
        for name in path {
            at = match openat(&at, *name, FOLDER | OFlags::NOFOLLOW, Mode::empty()) {
                Ok(folder) => folder,
                Err(Errno::NOENT) => self.make_folder(&at, name, 0o755)?,
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    let why = format!("its way leads through {name:?}, which is no folder");
                    return Err(io::Error::new(io::ErrorKind::NotADirectory, why));
                }
                Err(error) => return Err(error.into()),
            };
        }
        Ok(at)
    }

    /// Makes a folder; one that is there gets the mode.
    pub(super) fn make_folder(
        &self,
        parent: impl AsFd,
        name: &OsStr,
        mode: u32,
    ) -> io::Result<OwnedFd> {
        match mkdirat(&parent, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = openat(&parent, name, flags, Mode::empty())?;
        // Whoever owns it has to be able to remove what is in it.
        self.order.owner.give(&folder, mode | 0o700)?;
        Ok(folder)
    }

    /// Makes a file, to be written and then given to [`Partial::seal`].
    pub(super) fn create(&self, parent: impl AsFd, name: &OsStr) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        Ok(openat(parent, name, flags, Mode::RUSR | Mode::WUSR)?.into())
    }

    /// Gives a file its mode, its owner, and the time at which it was changed, in seconds since 1970.
    pub(super) fn seal(&self, file: &File, mode: u32, changed: i64) -> io::Result<()> {
        let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let changed = Timespec { tv_sec: changed, tv_nsec: 0 };
        futimens(file, &Timestamps { last_access: omit, last_modification: changed })?;
        self.order.owner.give(file, mode)
    }

    /// Makes a link. Where it leads to is its own matter: nobody here follows it.
    pub(super) fn link(&self, parent: impl AsFd, name: &OsStr, target: &OsStr) -> io::Result<()> {
        symlinkat(target, &parent, name)?;
        let (user, group) = self.order.owner.ids();
        Ok(chownat(&parent, name, user, group, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Makes another name for a file of this release.
    pub(super) fn hard_link(
        &self,
        from: (impl AsFd, &OsStr),
        parent: impl AsFd,
        name: &OsStr,
    ) -> io::Result<()> {
        Ok(linkat(from.0, from.1, parent, name, AtFlags::empty())?)
    }

    /// Removes a file or link, if there is one; a folder is left alone.
    pub(super) fn unlink(&self, parent: impl AsFd, name: &OsStr) -> io::Result<()> {
        match unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR) => Err(io::Error::other("there is a folder of that name")),
            Err(error) => Err(error.into()),
        }
    }

    /// Links what is shared, writes the revision, and puts the release in its place. Tells where that
    /// is, and the revision.
    pub(super) fn finish(mut self, revision: Revision) -> Result<(PathBuf, String), SourceError> {
        let path = self.order.root.join("releases").join(self.order.release.as_str());
        let failed = |error: io::Error| SourceError::Write { path: path.clone(), error };
        shared::link(&self, &self.order.shared)?;
        let revision = self.revise(revision).map_err(failed)?;
        self.publish().map_err(failed)?;
        Ok((path, revision))
    }

    fn publish(&mut self) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let top = openat(&self.top, ".", flags, Mode::empty())?;
        // Once, as flushing thousands of files one by one takes minutes.
        syncfs(&top)?;
        // From here on others may look into it.
        self.order.owner.give(&top, self.mode | 0o700)?;
        rustix::fs::fsync(&top)?;
        let release = self.order.release.as_str();
        self.order.stop.publish(|| {
            let releases = self.releases.try_clone()?;
            renameat(&self.releases, &self.name, &self.releases, release)?;
            self.finished = true;
            Ok(Published { releases, release: release.into() })
        })?;
        rustix::fs::fsync(openat(&self.releases, ".", flags, Mode::empty())?)?;
        Ok(())
    }

    fn revise(&self, revision: Revision) -> io::Result<String> {
        let fallback = match revision {
            Revision::Is(revision) => {
                self.unlink(&self.top, REVISION.as_ref())?;
                revision
            }
            Revision::Else(fallback) => match revision::read(&self.top) {
                Ok(Some(there)) => return Ok(there),
                Ok(None) => return Ok(fallback),
                Err(error) if error.kind() == io::ErrorKind::NotFound => fallback,
                Err(error) => return Err(error),
            },
        };
        let mut file = self.create(&self.top, REVISION.as_ref())?;
        io::Write::write_all(&mut file, format!("{fallback}\n").as_bytes())?;
        self.order.owner.give(&file, 0o644)?;
        Ok(fallback)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.finished && is_same(&self.top, &self.releases, &self.name) {
            // What went wrong before tells more than what goes wrong here.
            let _ = remove_at(&self.releases, &self.name);
        }
    }
}

/// Whether a name still means this folder.
fn is_same(folder: &OwnedFd, parent: &OwnedFd, name: &OsStr) -> bool {
    let found = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
    match (fstat(folder), found) {
        (Ok(one), Ok(other)) => (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino),
        _ => false,
    }
}

/// A release that is being made, for those who must not wait while files are removed: that happens
/// elsewhere when this is dropped.
#[derive(Debug)]
pub(super) struct Held(Option<Partial>);

impl Held {
    pub(super) fn new(partial: Partial) -> Self {
        Self(Some(partial))
    }

    /// Does something with it where one may wait.
    pub(super) async fn with<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Partial) -> T + Send + 'static,
    ) -> Result<T, SourceError> {
        let mut partial = self.take()?;
        let (partial, done) = blocking(move || {
            let done = work(&mut partial);
            Ok((partial, done))
        })
        .await?;
        self.0 = Some(partial);
        Ok(done)
    }

    /// Gives it away.
    pub(super) fn take(&mut self) -> Result<Partial, SourceError> {
        let lost = || SourceError::Lost("what was begun is gone".to_owned());
        self.0.take().ok_or_else(lost)
    }

    /// Removes it, and waits for that.
    pub(super) async fn discard(mut self) {
        if let Some(partial) = self.0.take() {
            // What went wrong before tells more.
            let _ = crate::file::blocking(move || {
                drop(partial);
                Ok(())
            })
            .await;
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(partial) = self.0.take() {
            elsewhere(move || drop(partial));
        }
    }
}

/// A release in its place.
#[derive(Debug)]
pub(super) struct Published {
    releases: OwnedFd,
    release: OsString,
}

impl Published {
    /// Takes it away again: at once out of the way of the next attempt, and then its files.
    pub(super) fn withdraw(self) {
        let Self { releases, release } = self;
        let beside = make(&releases, &release.to_string_lossy());
        let moved = beside.and_then(|beside| {
            renameat(&releases, &release, &releases, &beside)?;
            Ok(beside)
        });
        let name = moved.unwrap_or(release);
        // What is left of it, the next attempt removes.
        elsewhere(move || drop(remove_at(&releases, &name)));
    }
}

/// Does something where one may wait.
fn elsewhere(work: impl FnOnce() + Send + 'static) {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(work)),
        Err(_) => work(),
    }
}

/// Makes a folder for a release beside its place.
fn make(releases: &OwnedFd, release: &str) -> rustix::io::Result<OsString> {
    let mut names = (0..ATTEMPTS).map(|n| match n {
        0 => format!(".{release}{PARTIAL}"),
        n => format!(".{release}+{n}{PARTIAL}"),
    });
    let made = names.find_map(|name| match mkdirat(releases, &name, Mode::RWXU) {
        Ok(()) => Some(Ok(name.into())),
        Err(Errno::EXIST) => None,
        Err(error) => Some(Err(error)),
    });
    made.unwrap_or(Err(Errno::EXIST))
}

/// Removes what attempts have left that were cut off.
fn clear(releases: &OwnedFd) -> io::Result<()> {
    let mut left = Vec::new();
    for entry in Dir::read_from(openat(releases, ".", OPEN, Mode::empty())?)? {
        let name = entry?.file_name().to_bytes().to_owned();
        if name.ends_with(PARTIAL.as_bytes()) {
            left.push(OsString::from_vec(name));
        }
    }
    for name in left {
        let lock = |folder: OwnedFd| flock(folder, FlockOperation::NonBlockingLockExclusive);
        match openat(releases, &name, OPEN, Mode::empty()).and_then(lock) {
            // One is still at its end, and removes it itself.
            Err(Errno::WOULDBLOCK | Errno::NOENT) => {}
            _ => remove_at(releases, &name)?,
        }
    }
    Ok(())
}

/// The names of a path that has no others than plain ones.
pub(super) fn names(path: &Path) -> Vec<&OsStr> {
    let plain = |part| match part {
        Component::Normal(name) => Some(name),
        _ => None,
    };
    path.components().filter_map(plain).collect()
}

/// A folder in an application's root, which is made if it is missing. The root may belong to the
/// application's user, who can put a link there: one is followed only if it is the daemon's user's.
pub(crate) fn place(root: &Path, name: &str) -> io::Result<OwnedFd> {
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
pub(crate) fn remove_at(folder: impl AsFd, name: &OsStr) -> io::Result<()> {
    match unlinkat(&folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => {}
        Err(error) => return Err(error.into()),
    }
    fs::remove_dir_all(path_of(&folder).join(name))
}

/// A path that means this very folder, whatever happens to its name, for as long as it is held.
pub(crate) fn path_of(folder: &impl AsFd) -> PathBuf {
    Path::new("/proc/self/fd").join(folder.as_fd().as_raw_fd().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::order::Owner;
    use crate::source::order::testing::order;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn finish(root: &Path, revision: Revision, prepare: impl FnOnce(&Path)) -> String {
        let partial = Partial::begin(order(root)).unwrap();
        prepare(&root.join("releases/.v1+partial"));
        let (path, revision) = partial.finish(revision).unwrap();
        assert_eq!(path, root.join("releases/v1"));
        revision
    }

    #[test]
    fn a_release_is_seen_whole_or_not_at_all() {
        let tmp = tempfile::tempdir().unwrap();
        let releases = tmp.path().join("releases");
        let partial = Partial::begin(order(tmp.path())).unwrap();
        let beside = releases.join(".v1+partial");
        assert_eq!(beside.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        partial.create(partial.top(), "a".as_ref()).unwrap();
        // As a daemon that is killed leaves it, and one before it has.
        flock(partial.top(), FlockOperation::Unlock).unwrap();
        std::mem::forget(partial);
        fs::create_dir(releases.join(".v0+partial")).unwrap();
        assert!(!releases.join("v1").exists());
        finish(tmp.path(), Revision::Is("abc".to_owned()), |_| {});
        assert!(!beside.exists() && !releases.join("v1/a").exists());
        assert_eq!(fs::read_to_string(releases.join("v1/REVISION")).unwrap(), "abc\n");
        assert_eq!(fs::read_dir(&releases).unwrap().count(), 1);
        let again = Partial::begin(order(tmp.path())).unwrap_err();
        assert!(matches!(again, SourceError::Exists(_)), "{again}");
    }

    #[test]
    fn what_is_not_finished_leaves_nothing() {
        let tmp = tempfile::tempdir().unwrap();
        let partial = Partial::begin(order(tmp.path())).unwrap();
        partial.folder(&["a".as_ref(), "b".as_ref()]).unwrap();
        drop(partial);
        assert_eq!(fs::read_dir(tmp.path().join("releases")).unwrap().count(), 0);
        let stopped = order(tmp.path());
        drop(stopped.stop.guard());
        let partial = Partial::begin(stopped).unwrap();
        assert!(partial.finish(Revision::Is(String::new())).is_err());
        assert_eq!(fs::read_dir(tmp.path().join("releases")).unwrap().count(), 0);
    }

    #[test]
    fn an_attempt_at_its_end_does_not_meet_the_next_one() {
        let tmp = tempfile::tempdir().unwrap();
        let first = Partial::begin(order(tmp.path())).unwrap();
        first.create(first.top(), "first".as_ref()).unwrap();
        // Nobody waits for the first one any more, but it is not through yet.
        let second = Partial::begin(order(tmp.path())).unwrap();
        second.create(second.top(), "second".as_ref()).unwrap();
        first.create(first.top(), "more".as_ref()).unwrap();
        drop(first);
        let (path, _) = second.finish(Revision::Is("abc".to_owned())).unwrap();
        let mut found: Vec<_> =
            fs::read_dir(&path).unwrap().map(|e| e.unwrap().file_name()).collect();
        found.sort();
        assert_eq!(found, ["REVISION", "second"]);
        assert_eq!(fs::read_dir(tmp.path().join("releases")).unwrap().count(), 1);
    }

    #[test]
    fn a_release_that_nobody_waits_for_is_withdrawn_when_it_is_there_already() {
        let tmp = tempfile::tempdir().unwrap();
        let releases = tmp.path().join("releases");
        let order = order(tmp.path());
        let (stop, guard) = (order.stop.clone(), order.stop.guard());
        Partial::begin(order.clone()).unwrap().finish(Revision::Is("abc".to_owned())).unwrap();
        assert!(releases.join("v1").exists() && stop.check().is_ok());
        drop(guard);
        assert_eq!(fs::read_dir(&releases).unwrap().count(), 0);
        assert!(stop.check().is_err());
        // One that is waited for stays.
        let order = super::super::order::testing::order(tmp.path());
        let guard = order.stop.guard();
        Partial::begin(order).unwrap().finish(Revision::Is("abc".to_owned())).unwrap();
        guard.keep();
        assert!(releases.join("v1").exists());
    }

    #[tokio::test]
    async fn what_is_given_up_is_removed_elsewhere_and_waited_for_if_that_is_wanted() {
        let tmp = tempfile::tempdir().unwrap();
        let releases = tmp.path().join("releases");
        let mut held = Held::new(Partial::begin(order(tmp.path())).unwrap());
        let made = held.with(|partial| partial.create(partial.top(), "a".as_ref()).is_ok()).await;
        assert!(made.unwrap());
        held.discard().await;
        assert_eq!(fs::read_dir(&releases).unwrap().count(), 0);
        let gone = Held::new(Partial::begin(order(tmp.path())).unwrap());
        let next = Partial::begin(order(tmp.path())).unwrap();
        drop(gone);
        next.finish(Revision::Is("abc".to_owned())).unwrap();
        assert!(releases.join("v1/REVISION").exists());
    }

    #[test]
    fn the_revision_is_the_releases_own_unless_the_source_knows_better() {
        let tmp = tempfile::tempdir().unwrap();
        let write =
            |text: &'static str| move |to: &Path| fs::write(to.join("REVISION"), text).unwrap();
        let mut n = 0;
        let mut check = |revision: Revision, prepare: &dyn Fn(&Path), said: &str, file: &str| {
            n += 1;
            let root = tmp.path().join(n.to_string());
            assert_eq!(finish(&root, revision, prepare), said);
            let there = fs::read_to_string(root.join("releases/v1/REVISION"));
            assert_eq!(there.unwrap_or_default(), file);
        };
        let (is, or) = (Revision::Is("abc".to_owned()), Revision::Else("v1".to_owned()));
        check(is.clone(), &write("old\n"), "abc", "abc\n");
        check(is, &|to| symlink("/etc/hostname", to.join("REVISION")).unwrap(), "abc", "abc\n");
        check(or.clone(), &|_| {}, "v1", "v1\n");
        check(or.clone(), &write(" r7 \nmore\n"), "r7", " r7 \nmore\n");
        check(or.clone(), &write("not one\n"), "v1", "not one\n");
        check(or.clone(), &|to| symlink("nowhere", to.join("REVISION")).unwrap(), "v1", "");
        check(or, &|to| fs::create_dir(to.join("REVISION")).unwrap(), "v1", "");
    }

    #[test]
    fn no_way_leads_through_a_link() {
        let tmp = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let partial = Partial::begin(order(tmp.path())).unwrap();
        partial.link(partial.top(), "out".as_ref(), outside.path().as_os_str()).unwrap();
        let error = partial.folder(&["out".as_ref(), "a".as_ref()]).unwrap_err().to_string();
        assert!(error.contains("leads through \"out\""), "{error}");
        partial.create(partial.top(), "out".as_ref()).unwrap_err();
        partial.make_folder(partial.top(), "out".as_ref(), 0o777).unwrap_err();
        drop(partial);
        assert!(outside.path().exists());
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_link_in_place_of_a_folder_is_followed_only_if_it_is_ours() {
        let tmp = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let link = tmp.path().join("releases");
        symlink(elsewhere.path(), &link).unwrap();
        finish(tmp.path(), Revision::Is("abc".to_owned()), |_| {});
        assert!(elsewhere.path().join("v1/REVISION").exists());
        if !geteuid().is_root() {
            eprintln!("the rest is skipped: only root can give a link away");
            return;
        }
        std::os::unix::fs::lchown(&link, Some(65534), None).unwrap();
        let error = Partial::begin(order(tmp.path())).unwrap_err().to_string();
        assert!(error.contains("somebody else"), "{error}");
    }

    #[test]
    fn a_release_can_be_owned_by_the_applications_user() {
        if !geteuid().is_root() {
            eprintln!("skipped: only root can give a file away");
            return;
        }
        let tmp = tempfile::tempdir().unwrap();
        let owner = Owner::User { user: 65534, group: 65534 };
        let partial = Partial::begin(Order { owner, ..order(tmp.path()) }).unwrap();
        let file = partial.create(partial.folder(&["a".as_ref()]).unwrap(), "f".as_ref()).unwrap();
        partial.seal(&file, 0o755, 1).unwrap();
        partial.link(partial.top(), "l".as_ref(), "a".as_ref()).unwrap();
        let (path, _) = partial.finish(Revision::Is("abc".to_owned())).unwrap();
        for name in ["", "a", "a/f", "l", "REVISION"] {
            let meta = path.join(name).symlink_metadata().unwrap();
            assert_eq!(std::os::unix::fs::MetadataExt::uid(&meta), 65534, "{name:?}");
        }
    }
}
