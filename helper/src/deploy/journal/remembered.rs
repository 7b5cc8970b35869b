//! What is remembered of an application, from one start of the daemon to the next.

use serde::{Deserialize, Serialize};
use shunt_api::{Address, ReleaseName};

use crate::config::Strategy;
use crate::runner::leftover::Identity;
use crate::wire::{JobKind, Step};

/// What is remembered of an application.
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

/// A switch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Switch {
    /// The release that was active before.
    pub from: ReleaseName,
    /// The release that it made active.
    pub to: ReleaseName,
}

/// What a job is about to do, written down before it does it.
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
    /// The job's number.
    pub job: u64,
    /// How it takes the old release's place.
    pub strategy: Strategy,
    /// The step that it is about to make.
    pub step: Step,
    /// Whether NGINX was told to hold requests.
    pub held: bool,
    /// The last switch before it.
    pub before: Option<Switch>,
}

/// A slot, and what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slot {
    /// The slot.
    pub slot: Address,
    /// The slot as it is configured, if that has the name of a host: it may be another machine by the
    /// next start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The release in it.
    pub release: ReleaseName,
    /// Its process.
    pub process: Option<Identity>,
    /// Whether it was stopped, or is about to be, while its socket stays.
    #[serde(default)]
    pub listens: bool,
}

impl Slot {
    /// A release that is about to be in a slot.
    #[must_use]
    pub fn new(slot: Address, release: ReleaseName) -> Self {
        Self { slot, host: None, release, process: None, listens: false }
    }
}
