//! The state file: what outlives a restart and a power loss (P5).
//!
//! Written whole beside the old one, flushed, renamed over it, and the folder flushed: after a crash
//! at any instant there is the old file or the new one. It names releases, not indexes, columns or
//! counts, and has the servers only of what the API made: for the rest the configuration is right.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::Uid;
use serde::{Deserialize, Serialize};
use shunt_api::{AddressError, Canary, ReleaseName, ReleaseSpec, Server, ServerSpec};

use crate::clock;
use crate::record::State;
use crate::table::{MAX_RELEASES, Member, Origin};

/// The version of the format.
const VERSION: u32 = 1;

/// A state file is never longer; a longer file is not one.
const MAX_BYTES: u64 = 64 << 20;

/// The content of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    version: u32,
    /// One for each upstream.
    pub upstreams: Vec<Saved>,
}

/// An upstream in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Saved {
    /// Its name.
    pub name: String,
    /// Its generation.
    pub generation: u32,
    /// The active release.
    pub active: Option<ReleaseName>,
    /// The previous release.
    pub previous: Option<ReleaseName>,
    /// The canary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
    /// When a hold ends, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_until: Option<u64>,
    /// The releases that users' requests went to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exposed: Vec<ReleaseName>,
    /// The releases that the API made.
    pub releases: Vec<SavedRelease>,
}

/// A release that the API made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedRelease {
    /// Its name.
    pub name: ReleaseName,
    /// Its servers.
    pub servers: Vec<Server>,
    /// When the configuration has a release of this name: the servers that it had there. As long as
    /// it still has these, the API's word counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configured: Option<Vec<Server>>,
}

/// Why there is nothing to take over from the file.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It cannot be read.
    #[error("cannot read state file {path:?}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// It cannot be written.
    #[error("cannot write state file {path:?}: {error}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Its content is not a state file's.
    #[error("state file {path:?} is damaged: {why}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl Snapshot {
    /// The content for these upstreams.
    #[must_use]
    pub fn new(upstreams: Vec<Saved>) -> Self {
        Self { version: VERSION, upstreams }
    }

    /// Reads the file; `None` when there is none.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Read`] and [`SnapshotError::Damaged`].
    pub fn read(path: &Path) -> Result<Option<Self>, SnapshotError> {
        let failed = |error| SnapshotError::Read { path: path.to_owned(), error };
        // A file that is none (a pipe, a device) must not hold NGINX up.
        let nonblock = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
        // Miri does not know it.
        let nonblock = if cfg!(miri) { 0 } else { nonblock };
        let file = match fs::OpenOptions::new().read(true).custom_flags(nonblock).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            let what = if metadata.is_dir() { "it is a folder" } else { "it is not a file" };
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, what)));
        }
        let mut text = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut text).map_err(failed)?;
        match Self::parse(&text) {
            Ok(snapshot) => Ok(Some(snapshot)),
            Err(why) => Err(SnapshotError::Damaged { path: path.to_owned(), why }),
        }
    }

    /// Reads the content of a file.
    ///
    /// # Errors
    ///
    /// Says what is wrong with it.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let snapshot: Self = serde_json::from_slice(text).map_err(|e| e.to_string())?;
        if snapshot.version != VERSION {
            return Err(format!("it has version {}, this is version {VERSION}", snapshot.version));
        }
        let mut names = HashSet::new();
        for upstream in &snapshot.upstreams {
            let name = &upstream.name;
            if !names.insert(name.as_str()) {
                return Err(format!("upstream {name:?} is there twice"));
            }
            upstream.check().map_err(|why| format!("upstream {name:?}: {why}"))?;
        }
        Ok(snapshot)
    }

    /// Writes the file, so that it is there after a power loss, and gives it to this user, who can then
    /// replace it in whatever folder. `Some` when it is there, but the system cannot say that it will
    /// be after a power loss.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::Write`]; the old file is then still there.
    pub fn write(
        &self,
        path: &Path,
        owner: Option<Uid>,
    ) -> Result<Option<SnapshotError>, SnapshotError> {
        let beside = sibling(path, "tmp");
        let failed = |error| SnapshotError::Write { path: path.to_owned(), error };
        let write = || {
            if is_device(path) {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a device"));
            }
            // Before the file is replaced, so that it need not be undone.
            let folder = File::open(folder(path))?;
            // One that a killed writer, or another user, left behind.
            match fs::remove_file(&beside) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file =
                fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
            if owner.is_some() {
                rustix::fs::fchown(&file, owner, None)?;
            }
            file.write_all(&serde_json::to_vec(self).map_err(io::Error::other)?)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&beside, path)?;
            Ok(folder)
        };
        let folder = write().map_err(|error| {
            // On a disk that is full, half of it would be in the way.
            let _ = fs::remove_file(&beside);
            failed(error)
        })?;
        // Miri syncs files only.
        let synced = if cfg!(miri) { Ok(()) } else { folder.sync_all() };
        Ok(synced.err().map(failed))
    }
}

/// Puts a damaged file aside under another name and tells which.
///
/// # Errors
///
/// What the system says.
pub fn keep_aside(path: &Path) -> io::Result<PathBuf> {
    for n in 0..1000 {
        let aside = sibling(path, &format!("damaged.{n}"));
        if !aside.exists() {
            fs::rename(path, &aside)?;
            return Ok(aside);
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, "there are 1000 damaged ones already"))
}

/// Whether the path leads to a device (`/dev/null`). The whole system has that: it must be neither
/// put aside nor replaced.
#[must_use]
pub fn is_device(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| {
        metadata.file_type().is_char_device() || metadata.file_type().is_block_device()
    })
}

/// The folder of a file.
#[must_use]
pub fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

impl Saved {
    /// A file may hold only what the API would have let in.
    fn check(&self) -> Result<(), String> {
        if self.releases.len() > MAX_RELEASES {
            return Err(format!("more than {MAX_RELEASES} releases"));
        }
        let mut names = HashSet::new();
        for SavedRelease { name, servers, configured } in &self.releases {
            if !names.insert(name) {
                return Err(format!("release \"{name}\" is there twice"));
            }
            let spec = |server: &Server| {
                let address = server.address.parse().map_err(|e: AddressError| e.to_string())?;
                Ok::<_, String>(ServerSpec {
                    weight: server.weight,
                    backup: server.backup,
                    ..ServerSpec::new(address)
                })
            };
            let servers = servers.iter().map(spec).collect::<Result<_, _>>()?;
            ReleaseSpec { servers }.check().map_err(|e| format!("release \"{name}\": {e}"))?;
            if configured.iter().flatten().any(|server| server.weight == 0) {
                return Err(format!("release \"{name}\" has a weight of 0"));
            }
        }
        Ok(())
    }

    /// What to save of an upstream.
    #[must_use]
    pub fn of(state: &State) -> Self {
        let name = |index: Option<u8>| {
            index.and_then(|i| state.table.by_index(i)).map(|entry| entry.name.clone())
        };
        let servers = |members: &[Member]| members.iter().map(Server::from).collect();
        let releases = state.table.releases.iter().filter_map(|entry| {
            let configured = match &entry.origin {
                Origin::Config => return None,
                Origin::Api => None,
                Origin::Override(members) => Some(servers(members)),
            };
            let (name, servers) = (entry.name.clone(), servers(&entry.servers));
            Some(SavedRelease { name, servers, configured })
        });
        Self {
            name: state.table.upstream.clone(),
            generation: state.route.generation(),
            active: name(state.route.active()),
            previous: name(state.previous),
            canary: state
                .route
                .canary()
                .and_then(|(index, share)| Some(Canary { release: name(Some(index))?, share })),
            held_until: state.route.is_held().then(|| {
                let left = state.held_until.saturating_sub(clock::since_boot());
                clock::since_1970().saturating_add(left)
            }),
            exposed: state
                .table
                .releases
                .iter()
                .filter(|e| state.is_exposed(e.index) && state.route.active() != Some(e.index))
                .map(|e| e.name.clone())
                .collect(),
            releases: releases.collect(),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Snapshot {
        let text = br#"{"version":1,"upstreams":[{"name":"web","generation":7,"active":"v2",
            "previous":"default","releases":[{"name":"v2","servers":[{"address":"127.0.0.1:3002",
            "weight":1,"max_fails":1,"fail_timeout":"10s","max_conns":0,"backup":false,
            "down":false}]}]}]}"#;
        Snapshot::parse(text).unwrap()
    }

    #[test]
    fn p5_what_was_written_is_read_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        assert!(Snapshot::read(&path).unwrap().is_none());
        fs::write(folder.path().join("state.json.tmp"), "left by a killed writer").unwrap();
        for _ in 0..2 {
            sample().write(&path, None).unwrap();
            assert_eq!(Snapshot::read(&path).unwrap(), Some(sample()));
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn p5_every_cut_of_the_file_is_seen_as_damage() {
        let whole = serde_json::to_vec(&sample()).unwrap();
        for end in 0..whole.len() {
            assert!(Snapshot::parse(&whole[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn a_damaged_file_is_kept_under_another_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        for n in 0..2 {
            fs::write(&path, format!("{{ damage {n}")).unwrap();
            assert!(matches!(Snapshot::read(&path), Err(SnapshotError::Damaged { .. })));
            let aside = keep_aside(&path).unwrap();
            assert_eq!(fs::read_to_string(aside).unwrap(), format!("{{ damage {n}"));
            assert!(!path.exists());
        }
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said() {
        let text = String::from_utf8(serde_json::to_vec(&sample()).unwrap()).unwrap();
        for (from, to, said) in [
            ("\"version\":1", "\"version\":2", "version 2"),
            ("\"weight\":1", "\"weight\":0", "weight is 0"),
            ("\"backup\":false", "\"backup\":true", "not a backup"),
            ("127.0.0.1:3002", "app:3002", "resolve it first"),
            ("\"active\"", "\"acctive\"", "acctive"),
        ] {
            let error = Snapshot::parse(text.replace(from, to).as_bytes()).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error_that_names_the_file() {
        let error = sample().write(Path::new("/nonexistent/state.json"), None).unwrap_err();
        assert!(
            error.to_string().starts_with("cannot write state file \"/nonexistent/state.json\"")
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_snapshot_or_damage(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Snapshot::parse(&bytes);
        }
    }
}
