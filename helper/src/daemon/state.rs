//! What the daemon remembers of an application: one small file, replaced as a whole.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use shunt_api::{Address, ReleaseName};

use crate::runner::leftover::Identity;
use crate::wire::JobKind;

/// The content of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remembered {
    /// The last switch of a job: a rollback goes to where it came from, as long as nobody else has
    /// switched since.
    #[serde(default)]
    pub last_switch: Option<Switch>,
    /// Which release is in which slot.
    pub slots: Vec<Slot>,
    /// The job that runs; one that was cut off, or has ended without knowing how, stays until the
    /// next one.
    #[serde(default)]
    pub underway: Option<Underway>,
}

/// A switch in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Switch {
    /// The release that was active before.
    pub from: ReleaseName,
    /// The release that it made active.
    pub to: ReleaseName,
}

/// A job in the file, written down before it does anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Underway {
    /// What it is.
    pub kind: JobKind,
    /// The release that it switches to.
    pub release: ReleaseName,
    /// The release that it switches from.
    pub old: Option<ReleaseName>,
    /// Whether the release ran before, so that the job has nothing to undo.
    pub ran: bool,
}

/// A slot in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slot {
    /// The slot.
    pub slot: Address,
    /// The release in it.
    pub release: ReleaseName,
    /// Its process.
    pub process: Option<Identity>,
}

impl Remembered {
    /// Reads the file; nothing is remembered when there is none.
    ///
    /// # Errors
    ///
    /// What the system says, or what is wrong with the content.
    pub fn read(path: &Path) -> io::Result<Self> {
        match fs::read(path) {
            Ok(text) => serde_json::from_slice(&text).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// Writes the file, so that it is there after a power loss.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let beside = path.with_extension("tmp");
        let mut file = File::create(&beside)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        File::open(folder)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_remembered() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("state/web.json");
        assert_eq!(Remembered::read(&path).unwrap(), Remembered::default());
        let state = Remembered {
            last_switch: Some(Switch {
                from: ReleaseName::new("v1").unwrap(),
                to: ReleaseName::new("v2").unwrap(),
            }),
            slots: vec![Slot {
                slot: "127.0.0.1:3001".parse().unwrap(),
                release: ReleaseName::new("v2").unwrap(),
                process: Some(Identity { pid: 7, start: 8 }),
            }],
            underway: Some(Underway {
                kind: JobKind::Deploy,
                release: ReleaseName::new("v2").unwrap(),
                old: None,
                ran: false,
            }),
        };
        state.write(&path).unwrap();
        assert_eq!(Remembered::read(&path).unwrap(), state);
        fs::write(&path, "{").unwrap();
        assert!(Remembered::read(&path).is_err());
    }
}
