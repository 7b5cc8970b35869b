//! What the daemon and its clients say to each other: JSON over HTTP on a unix socket.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shunt_api::{Address, Canary, Hold, InFlight, NginxTime, Portion, ReleaseName};

/// Where the daemon listens.
pub const DEFAULT_SOCKET: &str = "/run/shunt/shuntd.sock";

/// The body of `POST /v1/apps/{app}/deploys`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    deny_unknown_fields,
    expecting = "an object, as in {\"from\":\"/srv/dist\",\"release\":\"v2\"}"
)]
pub struct DeployRequest {
    /// The folder or archive that holds the release, on the daemon's machine; what `[source]` names if
    /// left out.
    pub from: Option<std::path::PathBuf>,
    /// The branch, tag or commit of `[source] git`; with the runner `docker` the tag or digest of the
    /// image, which is the release's name if left out.
    #[serde(rename = "ref")]
    pub reference: Option<String>,
    /// The slot that the release goes to, or that somebody else has put it into; one that is free if
    /// left out.
    pub slot: Option<String>,
    /// The release's name; if left out, the time, and what was asked for in a repository.
    pub release: Option<ReleaseName>,
}

/// The body of `POST /v1/apps/{app}/switch`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "an object, as in {\"release\":\"v2\"}")]
pub struct SwitchRequest {
    /// The release to switch to; it must be running.
    pub release: ReleaseName,
}

/// The answer to whatever starts a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Started {
    /// By which `GET /v1/jobs/{job}/events` follows it.
    pub job: u64,
    /// The release that it is about.
    pub release: ReleaseName,
}

/// What a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
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

impl JobKind {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Deploy, Self::Rollback, Self::Switch, Self::Recover];
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// The release's files come into `releases/`.
    Fetch,
    /// The hook `build` runs.
    Build,
    /// The hook `migrate` runs.
    Migrate,
    /// Its process starts in the free slot.
    Start,
    /// NGINX parks new requests; those that are under way end (strategy in-place).
    Hold,
    /// The old release stops and the new one starts on the same socket (strategy in-place).
    Restart,
    /// It is asked until it is healthy.
    Health,
    /// Requests fill its caches.
    WarmUp,
    /// It is asked through NGINX, before any user meets it.
    Preview,
    /// The hook `before_switch` runs.
    BeforeSwitch,
    /// NGINX sends a share of the requests to it, and it is watched.
    Canary,
    /// NGINX sends new requests to it.
    Switch,
    /// NGINX lets the parked requests go (strategy in-place).
    Resume,
    /// The hook `after_switch` runs.
    AfterSwitch,
    /// It is watched while it has all requests.
    Guard,
    /// The old release ends what it has in flight.
    Drain,
    /// The old release's process stops.
    Stop,
    /// `current` points to the new release.
    Publish,
    /// The hook `after_deploy` runs.
    AfterDeploy,
    /// Old releases are removed.
    Prune,
    /// NGINX sends new requests to the old release again.
    SwitchBack,
    /// What was begun is taken back.
    Undo,
    /// The hook `on_failure` runs.
    OnFailure,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Fetch => "fetch",
            Self::Build => "build",
            Self::Migrate => "migrate",
            Self::Start => "start",
            Self::Hold => "hold",
            Self::Restart => "restart",
            Self::Health => "health",
            Self::WarmUp => "warm-up",
            Self::Preview => "preview",
            Self::BeforeSwitch => "before-switch",
            Self::Canary => "canary",
            Self::Switch => "switch",
            Self::Resume => "resume",
            Self::AfterSwitch => "after-switch",
            Self::Guard => "guard",
            Self::Drain => "drain",
            Self::Stop => "stop",
            Self::Publish => "publish",
            Self::AfterDeploy => "after-deploy",
            Self::Prune => "prune",
            Self::SwitchBack => "switch-back",
            Self::Undo => "undo",
            Self::OnFailure => "on-failure",
        })
    }
}

/// Something that happened in a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    /// A program of a step said something. Only for those who may change something, and not kept:
    /// the logs are.
    Line {
        /// The step.
        step: Step,
        /// The line.
        text: String,
    },
    /// A step has waited up to its limit, and the job goes on.
    Limit {
        /// The step.
        step: Step,
        /// What it has waited for.
        why: String,
    },
    /// A step does not find what it needs to be of use, and the job goes on.
    Warning {
        /// The step.
        step: Step,
        /// What is missing, and what to do.
        why: String,
    },
    /// The job ended.
    Ended {
        /// How.
        outcome: Outcome,
        /// In one sentence.
        text: String,
        /// What a release had in flight when it was stopped at the limit of its drain, and was cut off
        /// unless the release has answered it while it ended; none if it had nothing. It is the old
        /// release, or the new one when that was taken back: the text names it.
        cut: Option<InFlight>,
    },
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Everything was done.
    Done,
    /// Nothing has changed for users: it failed before the switch.
    Failed,
    /// A hook has failed. Before the switch nothing has changed for users; one after it takes nothing
    /// back.
    Hook,
    /// The release did not become healthy; nothing has changed for users.
    Unhealthy,
    /// Somebody has ended it before the switch; nothing has changed for users.
    Aborted,
    /// NGINX could not be reached.
    Unreachable,
    /// NGINX got the order to switch, and whether it has done so is not known; nothing was stopped.
    Uncertain,
    /// Users had met the release, and were taken back to the old one.
    SwitchedBack,
    /// Users should have been taken back to the old release, and could not be.
    NotSwitchedBack,
    /// Somebody else has switched to another release while the job went on after its own switch.
    Overruled,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Hook => "hook failed",
            Self::Unhealthy => "unhealthy",
            Self::Aborted => "aborted",
            Self::Unreachable => "unreachable",
            Self::Uncertain => "uncertain",
            Self::SwitchedBack => "switched back",
            Self::NotSwitchedBack => "not switched back",
            Self::Overruled => "overruled",
        })
    }
}

/// The exit codes of the command line.
pub mod exit {
    /// Done.
    pub const DONE: u8 = 0;
    /// Something failed that has no code of its own.
    pub const FAILED: u8 = 1;
    /// Usage or configuration.
    pub const USAGE: u8 = 2;
    /// A hook failed.
    pub const HOOK: u8 = 3;
    /// Unhealthy, not switched.
    pub const UNHEALTHY: u8 = 4;
    /// The release was switched away from again.
    pub const SWITCHED_BACK: u8 = 5;
    /// Could not switch back, or which release serves is not known.
    pub const UNCERTAIN: u8 = 6;
    /// Another job runs, or somebody does something by hand.
    pub const LOCKED: u8 = 7;
    /// The daemon or NGINX cannot be reached.
    pub const UNREACHABLE: u8 = 8;
    /// Ctrl-C, as shells have it (128 and the signal's number).
    pub const INTERRUPTED: u8 = 130;
    /// Nobody reads the output any more (`SIGPIPE`).
    pub const UNREAD: u8 = 141;
}

impl Outcome {
    /// Every one.
    pub const ALL: [Self; 10] = [
        Self::Done,
        Self::Failed,
        Self::Hook,
        Self::Unhealthy,
        Self::Aborted,
        Self::Unreachable,
        Self::Uncertain,
        Self::SwitchedBack,
        Self::NotSwitchedBack,
        Self::Overruled,
    ];

    /// As the API has it.
    #[must_use]
    pub fn name(self) -> String {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::String(name)) => name,
            _ => String::new(),
        }
    }

    /// The exit code that goes with it.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Done => exit::DONE,
            Self::Failed | Self::Aborted => exit::FAILED,
            Self::Hook => exit::HOOK,
            Self::Unhealthy => exit::UNHEALTHY,
            Self::Unreachable => exit::UNREACHABLE,
            Self::Uncertain | Self::NotSwitchedBack => exit::UNCERTAIN,
            Self::SwitchedBack | Self::Overruled => exit::SWITCHED_BACK,
        }
    }
}

/// The answer to `GET /v1/apps`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Apps {
    /// Every application of the configuration.
    pub apps: Vec<AppStatus>,
}

/// An application.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    /// The release that gets a share of the requests.
    pub canary: Option<Canary>,
    /// Whether NGINX holds new requests, and for how long still.
    pub hold: Option<Hold>,
    /// Whether a `shunt_hold` of NGINX's configuration names the upstream: without one a hold parks
    /// nothing.
    pub holdable: Option<bool>,
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReleaseStatus {
    /// Its name.
    pub name: ReleaseName,
    /// The slot that it is in, if it is in one.
    pub slot: Option<Address>,
    /// What it has in flight.
    pub in_flight: InFlight,
}

/// A slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SlotStatus {
    /// Where it listens.
    pub address: Address,
    /// The release in it; none when it is free.
    pub release: Option<ReleaseName>,
    /// Whether that runs, as far as is known of somebody else's.
    pub runs: bool,
    /// Whether that was stopped, but its socket listens: the first connection, or a rollback, starts it.
    pub listens: bool,
    /// Its process; none of a container, and of what is somebody else's.
    pub pid: Option<u32>,
    /// How often it had to be started again.
    pub restarts: u32,
}

/// A job that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobStatus {
    /// Its number.
    pub job: u64,
    /// What it is.
    pub kind: JobKind,
    /// The release that it is about.
    pub release: ReleaseName,
    /// When it began, in RFC 3339.
    pub since: String,
    /// The step that it is at.
    pub step: Option<Step>,
}

/// A job, as the journal has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobRecord {
    /// Its number.
    pub job: u64,
    /// The application.
    pub app: ReleaseName,
    /// What it is.
    pub kind: JobKind,
    /// The release that it is about.
    pub release: ReleaseName,
    /// When it began, in RFC 3339.
    pub since: String,
    /// How long it took, in milliseconds; none while it runs, and of one that was cut off with the
    /// daemon.
    pub took: Option<u64>,
    /// How it ended; none while it runs, and of one that was cut off with the daemon.
    pub outcome: Option<Outcome>,
    /// The same in one sentence.
    pub text: Option<String>,
}

/// The answer to `GET /v1/apps/{app}/jobs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct History {
    /// The latest first.
    pub jobs: Vec<JobRecord>,
}

/// The answer to `GET /v1/jobs/{job}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobDetails {
    /// The job.
    #[serde(flatten)]
    pub record: JobRecord,
    /// What has happened in it until now.
    pub events: Vec<Event>,
}

/// What somebody may want of a job that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Enough was seen: go on with the next step.
    Promote,
    /// Take it back.
    Abort,
}

/// The body of `POST /v1/apps/{app}/rollback`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "an object, as in {\"to\":\"v1\"}")]
pub struct RollbackRequest {
    /// The release to go back to, of those that are kept; the one that was active before if left out.
    pub to: Option<ReleaseName>,
}

/// The body of `PUT /v1/apps/{app}/canary`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "an object, as in {\"release\":\"v2\",\"share\":0.05}")]
pub struct CanaryRequest {
    /// The release that gets the share; it must be running.
    pub release: ReleaseName,
    /// Its share.
    pub share: Portion,
}

/// The body of `PUT /v1/apps/{app}/hold`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "an object, as in {\"timeout\":\"30s\"}")]
pub struct HoldRequest {
    /// For how long at most; what `[hold]` says if left out.
    pub timeout: Option<NginxTime>,
}

/// The answer to `GET /v1/apps/{app}/releases`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeptReleases {
    /// The oldest first.
    pub releases: Vec<KeptRelease>,
}

/// A release on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeptRelease {
    /// Its name.
    pub name: ReleaseName,
    /// When it was made, in RFC 3339.
    pub made: String,
    /// What it was made of: a commit, as a rule.
    pub revision: Option<String>,
    /// Whether NGINX sends new requests to it.
    pub active: bool,
    /// Whether a rollback goes to it.
    pub previous: bool,
    /// The slot that it runs in, if it does.
    pub slot: Option<Address>,
}

/// The answer to `POST /v1/apps/{app}/prune`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pruned {
    /// The releases that were removed.
    pub removed: Vec<ReleaseName>,
}

/// The answer to `GET /v1/apps/{app}/logs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Logs {
    /// The release.
    pub release: ReleaseName,
    /// The last lines, the latest last.
    pub lines: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_of_another_shape_is_not_refused_in_rusts_words() {
        fn said<T: serde::de::DeserializeOwned>(json: &str) -> String {
            serde_json::from_str::<T>(json).err().map(|e| e.to_string()).unwrap_or_default()
        }
        for json in ["5", "\"x\"", "null"] {
            for said in [
                said::<DeployRequest>(json),
                said::<SwitchRequest>(json),
                said::<RollbackRequest>(json),
                said::<CanaryRequest>(json),
                said::<HoldRequest>(json),
            ] {
                assert!(said.contains("an object, as in {\""), "{json}: {said}");
                assert!(!said.contains("struct"), "{json}: {said}");
            }
        }
    }
}
