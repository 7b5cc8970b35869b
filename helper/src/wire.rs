//! What the daemon and its clients say to each other: JSON over HTTP on a unix socket.

use serde::{Deserialize, Serialize};
use shunt_api::{Address, InFlight, ReleaseName};

/// Where the daemon listens.
pub const DEFAULT_SOCKET: &str = "/run/shunt/shuntd.sock";

/// The body of `POST /v1/apps/{app}/deploys`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeployRequest {
    /// The folder that holds the release, on the daemon's machine.
    pub from: std::path::PathBuf,
    /// The release's name; made of the time if left out.
    pub release: Option<ReleaseName>,
}

/// The body of `POST /v1/apps/{app}/switch`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwitchRequest {
    /// The release to switch to; it must be running.
    pub release: ReleaseName,
}

/// The answer to whatever starts a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// By which `GET /v1/jobs/{job}/events` follows it.
    pub job: u64,
    /// The release that it is about.
    pub release: ReleaseName,
}

/// What a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobKind {
    /// A new release.
    Deploy,
    /// Back to the previous release.
    Rollback,
    /// To a running release, by hand.
    Switch,
    /// The daemon starts what ran when it ended.
    Recover,
}

impl std::fmt::Display for JobKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Deploy => "deploy",
            Self::Rollback => "rollback",
            Self::Switch => "switch",
            Self::Recover => "recover",
        })
    }
}

/// The steps of a job, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// The release's files come into `releases/`.
    Fetch,
    /// Its process starts in the free slot.
    Start,
    /// It is asked until it is healthy.
    Health,
    /// NGINX sends new requests to it.
    Switch,
    /// The old release ends what it has in flight.
    Drain,
    /// The old release's process stops.
    Stop,
    /// `current` points to the new release.
    Publish,
    /// Old releases are removed.
    Prune,
    /// What was begun is taken back.
    Undo,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Fetch => "fetch",
            Self::Start => "start",
            Self::Health => "health",
            Self::Switch => "switch",
            Self::Drain => "drain",
            Self::Stop => "stop",
            Self::Publish => "publish",
            Self::Prune => "prune",
            Self::Undo => "undo",
        })
    }
}

/// Something that happened in a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Counts from 1 in each job; the id of the event in the stream.
    pub id: u64,
    /// Milliseconds since the job began.
    pub at: u64,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum What {
    /// The job began.
    Began {
        /// The application.
        app: ReleaseName,
        /// What the job is.
        job: JobKind,
        /// The release that it is about.
        release: ReleaseName,
    },
    /// A step began.
    Step {
        /// The step.
        step: Step,
        /// What it is about: a slot, a folder.
        note: String,
    },
    /// A step is done.
    Done {
        /// The step.
        step: Step,
        /// How long it took, in milliseconds.
        took: f64,
        /// What came of it.
        note: String,
    },
    /// A step has failed.
    Failed {
        /// The step.
        step: Step,
        /// Why.
        why: String,
        /// Lines that explain it, in the application's own words: the last answer, the end of its
        /// log. Only for those who may change something.
        lines: Vec<String>,
    },
    /// A step has waited up to its limit, and the job goes on.
    Limit {
        /// The step.
        step: Step,
        /// What it has waited for.
        why: String,
    },
    /// The job ended.
    Ended {
        /// How.
        outcome: Outcome,
        /// In one sentence.
        text: String,
        /// What the old release had in flight when it was stopped at the limit of its drain, and was
        /// cut off unless the release has answered it while it ended; none if it had nothing.
        cut: Option<InFlight>,
    },
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Everything was done.
    Done,
    /// Nothing has changed for users: it failed before the switch.
    Failed,
    /// The release did not become healthy; nothing has changed for users.
    Unhealthy,
    /// NGINX could not be reached.
    Unreachable,
    /// NGINX got the order to switch, and whether it has done so is not known; nothing was stopped.
    Uncertain,
    /// Somebody else has switched to another release while the job went on after its own switch.
    Overruled,
}

/// The exit codes of the command line.
pub mod exit {
    /// Done.
    pub const DONE: u8 = 0;
    /// Something failed that has no code of its own.
    pub const FAILED: u8 = 1;
    /// Usage or configuration.
    pub const USAGE: u8 = 2;
    /// Unhealthy, not switched.
    pub const UNHEALTHY: u8 = 4;
    /// The release was switched away from again.
    pub const SWITCHED_BACK: u8 = 5;
    /// Which release serves is not known.
    pub const UNCERTAIN: u8 = 6;
    /// Another job runs.
    pub const LOCKED: u8 = 7;
    /// The daemon or NGINX cannot be reached.
    pub const UNREACHABLE: u8 = 8;
    /// Ctrl-C, as shells have it (128 and the signal's number).
    pub const INTERRUPTED: u8 = 130;
    /// Nobody reads the output any more (`SIGPIPE`).
    pub const UNREAD: u8 = 141;
}

impl Outcome {
    /// The exit code that goes with it.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Done => exit::DONE,
            Self::Failed => exit::FAILED,
            Self::Unhealthy => exit::UNHEALTHY,
            Self::Unreachable => exit::UNREACHABLE,
            Self::Uncertain => exit::UNCERTAIN,
            Self::Overruled => exit::SWITCHED_BACK,
        }
    }
}

/// The answer to `GET /v1/apps`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Apps {
    /// Every application of the configuration.
    pub apps: Vec<AppStatus>,
}

/// An application.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AppStatus {
    /// Its name.
    pub name: ReleaseName,
    /// Its upstream.
    pub upstream: String,
    /// The active release, as NGINX has it.
    pub active: Option<ReleaseName>,
    /// The release that was active before it: a rollback goes there.
    pub previous: Option<ReleaseName>,
    /// The upstream's generation.
    pub generation: Option<u32>,
    /// The releases that NGINX knows, with what they have in flight.
    pub releases: Vec<ReleaseStatus>,
    /// Why NGINX could not be asked.
    pub nginx_error: Option<String>,
    /// The slots.
    pub slots: Vec<SlotStatus>,
    /// The job that runs.
    pub job: Option<JobStatus>,
}

/// A release that NGINX knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseStatus {
    /// Its name.
    pub name: ReleaseName,
    /// The slot that it runs in, if it does.
    pub slot: Option<Address>,
    /// What it has in flight.
    pub in_flight: InFlight,
}

/// A slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotStatus {
    /// Where it listens.
    pub address: Address,
    /// The release in it; none when it is free.
    pub release: Option<ReleaseName>,
    /// Its process.
    pub pid: Option<u32>,
    /// How often it had to be started again.
    pub restarts: u32,
}

/// A job that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStatus {
    /// Its number.
    pub job: u64,
    /// What it is.
    pub kind: JobKind,
    /// The release that it is about.
    pub release: ReleaseName,
    /// When it began, in RFC 3339.
    pub since: String,
}
