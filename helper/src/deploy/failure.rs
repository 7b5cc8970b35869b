//! Why a step of a job has failed.

use shunt_api::ReleaseName;

use crate::deploy::plan::Event;
use crate::health::HealthError;
use crate::hook::HookError;
use crate::nginx::NginxError;
use crate::runner::start::StartError;
use crate::wire::Outcome;

/// Why a step has failed, and what that means for the job.
#[derive(Debug)]
pub(super) struct Failure {
    /// What the plan is told.
    pub(super) event: Event,
    /// Why, in our own words.
    pub(super) why: String,
    /// Lines that explain it, in the application's own words.
    pub(super) lines: Vec<String>,
}

impl Failure {
    pub(super) fn new(outcome: Outcome, why: impl std::fmt::Display) -> Self {
        Self { event: Event::Failed(outcome), why: why.to_string(), lines: Vec::new() }
    }

    /// Somebody else has switched to this release.
    pub(super) fn overruled(active: Option<&ReleaseName>) -> Self {
        let now = active.map_or("none", ReleaseName::as_str);
        let why = format!("somebody else has switched to \"{now}\" meanwhile");
        Self { event: Event::Overruled, why, lines: Vec::new() }
    }

    /// Somebody has ended the job by hand.
    pub(super) fn aborted() -> Self {
        let why = "it was aborted by hand".to_owned();
        Self { event: Event::Aborted, why, lines: Vec::new() }
    }

    /// NGINX got the order to switch, and it is not known whether it has done so, or still will.
    pub(super) fn uncertain(release: &ReleaseName, error: &NginxError) -> Self {
        let why = format!("it is not known whether NGINX has switched to \"{release}\": {error}");
        Self { event: Event::Uncertain, why, lines: Vec::new() }
    }

    /// A release could not be started, and what it has said itself; or nobody has tried to.
    pub(super) fn not_started(error: StartError) -> Self {
        let lines = error.lines().to_vec();
        let outcome = match error {
            StartError::Unwritten(_) => Outcome::Failed,
            _ => Outcome::Unhealthy,
        };
        Self { lines, ..Self::new(outcome, error) }
    }

    /// A check has failed; the end of the application's log explains it.
    pub(super) fn unhealthy(error: &HealthError, log: Vec<String>) -> Self {
        let event = Event::Failed(Outcome::Unhealthy);
        Self { event, why: error.brief(), lines: [error.lines(), log].concat() }
    }

    /// The same, and what it means.
    pub(super) fn about(self, what: &str) -> Self {
        Self { why: format!("{what}: {}", self.why), ..self }
    }
}

impl From<NginxError> for Failure {
    fn from(error: NginxError) -> Self {
        let outcome = if error.is_unreachable() { Outcome::Unreachable } else { Outcome::Failed };
        Self::new(outcome, error)
    }
}

impl From<HookError> for Failure {
    fn from(error: HookError) -> Self {
        let lines = error.lines().to_vec();
        Self { lines, ..Self::new(Outcome::Hook, error) }
    }
}

/// What a step says when it is done, or why it has failed.
pub(super) type Done = Result<String, Failure>;
