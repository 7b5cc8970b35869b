//! Runs a job: asks the plan for the next step, does it, and reports what happens.

use std::time::Instant;

use shunt_api::{Address, InFlight, ReleaseName, Source, Upstream};

use crate::daemon::app::App;
use crate::daemon::jobs::Reporter;
use crate::daemon::state::Underway;
use crate::deploy::plan::{Event, Phase, Plan};
use crate::nginx::NginxError;
use crate::runner::leftover::Identity;
use crate::wire::{JobKind, Outcome, Step, What};

/// Why a step has failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) event: Event,
    pub(super) why: String,
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

    /// NGINX got the order to switch, and it is not known whether it has done so, or still will.
    pub(super) fn uncertain(release: &ReleaseName, error: &NginxError) -> Self {
        let why = format!("it is not known whether NGINX has switched to \"{release}\": {error}");
        Self { event: Event::Uncertain, why, lines: Vec::new() }
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

/// What a step says when it is done, or why it has failed.
pub(super) type Done = Result<String, Failure>;

/// A job on an application.
pub struct Job<'a> {
    pub(super) app: &'a App,
    pub(super) kind: JobKind,
    pub(super) release: ReleaseName,
    /// Where a new release comes from.
    pub(super) from: Option<std::path::PathBuf>,
    /// The active release when the job began.
    pub(super) old: Option<ReleaseName>,
    /// The slot of the release.
    pub(super) slot: Option<Address>,
    /// Whether NGINX has been told of the release by this job.
    pub(super) announced: bool,
    /// Whether it ran when the job began.
    pub(super) proven: bool,
    /// Whether the old release had something in flight at the limit of its drain.
    pub(super) limit: bool,
    /// What it still had when it was stopped.
    pub(super) cut: Option<InFlight>,
    /// A process of the release that an earlier daemon left and that could not be taken over.
    pub(super) leftover: Option<Identity>,
}

impl<'a> Job<'a> {
    /// A deploy from a folder.
    #[must_use]
    pub fn deploy(app: &'a App, release: ReleaseName, from: std::path::PathBuf) -> Self {
        Self::new(app, JobKind::Deploy, release, Some(from))
    }

    /// A rollback, a switch by hand, or a recovery: to a release that is there.
    #[must_use]
    pub fn back_to(app: &'a App, kind: JobKind, release: ReleaseName) -> Self {
        Self::new(app, kind, release, None)
    }

    fn new(
        app: &'a App,
        kind: JobKind,
        release: ReleaseName,
        from: Option<std::path::PathBuf>,
    ) -> Self {
        Self {
            app,
            kind,
            release,
            from,
            old: None,
            slot: None,
            announced: false,
            proven: false,
            limit: false,
            cut: None,
            leftover: None,
        }
    }

    /// Runs to the end.
    pub async fn run(mut self, report: &Reporter) -> Outcome {
        let began = What::Began {
            app: self.app.config.name.clone(),
            job: self.kind,
            release: self.release.clone(),
        };
        report.say(began);
        // What is active decides what is old; without NGINX there is nothing to switch.
        match self.app.nginx.state().await {
            Ok(state) => {
                if let Err(failure) = self.may_be_made(&state) {
                    return self.end(report, failure);
                }
                self.app.settle(state.active.as_ref()).await;
                self.old = match self.kind {
                    // What the job that was cut off has left to be drained and stopped.
                    JobKind::Recover => self.left_behind().await,
                    _ => state.active.filter(|active| *active != self.release),
                };
            }
            Err(error) => return self.end(report, Failure::from(error)),
        }
        self.slot = self.app.slot_of(&self.release).await;
        self.proven = self.slot.is_some();
        let plan = Plan { kind: self.kind, runs: self.proven, has_old: self.old.is_some() };
        if self.kind != JobKind::Recover {
            let (kind, release, old) = (self.kind, self.release.clone(), self.old.clone());
            self.app.begin(Underway { kind, release, old, ran: self.proven }).await;
        }
        let mut phase = plan.begin();
        let mut failure = None;
        loop {
            let step = match phase {
                Phase::Ended(outcome) => {
                    // One without a known end is settled by the next look at NGINX, and what cannot
                    // be finished now is tried again at the next start.
                    if match self.kind {
                        JobKind::Recover => outcome == Outcome::Done,
                        _ => outcome != Outcome::Uncertain,
                    } {
                        self.app.end().await;
                    }
                    return self.conclude(report, outcome, failure);
                }
                Phase::At(step, _) => step,
            };
            let start = Instant::now();
            report.say(What::Step { step, note: self.about(step) });
            let event = match self.work(step).await {
                Ok(note) => {
                    let took = start.elapsed().as_secs_f64() * 1000.0;
                    report.say(What::Done { step, took, note });
                    Event::Done
                }
                Err(Failure { event: Event::Limit, why, .. }) => {
                    self.limit = true;
                    report.say(What::Limit { step, why });
                    Event::Limit
                }
                Err(Failure { event, why, lines }) => {
                    failure.get_or_insert_with(|| why.clone());
                    report.say(What::Failed { step, why, lines });
                    event
                }
            };
            phase = plan.step(phase, event);
        }
    }

    /// The release that a job was to drain and stop when it was cut off after its switch.
    async fn left_behind(&self) -> Option<ReleaseName> {
        let job = self.app.underway().await?;
        let stops = job.kind != JobKind::Switch && job.release == self.release;
        job.old.filter(|_| stops)
    }

    /// Takes back a job that was cut off before its switch, as far as that is still possible.
    pub async fn take_back(app: &'a App, job: &Underway) -> Result<(), String> {
        let new = Self::new(app, job.kind, job.release.clone(), None);
        match (Self { announced: true, ..new }).undo().await {
            Ok(_) => Ok(()),
            Err(failure) => Err(failure.why),
        }
    }

    /// A new release must not take the name of one that NGINX has for somebody else.
    fn may_be_made(&self, state: &Upstream) -> Result<(), Failure> {
        let release = &self.release;
        let known = state.release(release.as_str()).filter(|_| self.kind == JobKind::Deploy);
        match known {
            Some(known) if known.source == Source::Config => {
                let why = format!(
                    "\"{release}\" is a release of NGINX's configuration, choose another name"
                );
                Err(Failure::new(Outcome::Failed, why))
            }
            Some(_) if state.active.as_ref() == Some(release) => {
                let why = format!("NGINX has an active release \"{release}\", choose another name");
                Err(Failure::new(Outcome::Failed, why))
            }
            _ => Ok(()),
        }
    }

    fn end(self, report: &Reporter, failure: Failure) -> Outcome {
        let outcome = match failure.event {
            Event::Failed(outcome) => outcome,
            Event::Uncertain => Outcome::Uncertain,
            Event::Done | Event::Limit | Event::Overruled => Outcome::Unreachable,
        };
        self.conclude(report, outcome, Some(failure.why))
    }

    fn conclude(self, report: &Reporter, outcome: Outcome, why: Option<String>) -> Outcome {
        let (app, release) = (&self.app.config.name, &self.release);
        let still = self.old.as_ref().map_or_else(
            || "nothing has changed".to_owned(),
            |old| format!("\"{old}\" still serves"),
        );
        let mut text = match (outcome, why) {
            (Outcome::Done, None) if self.kind == JobKind::Recover => {
                format!("{app}: \"{release}\" runs again")
            }
            (Outcome::Done, None) => format!("{app} is on \"{release}\""),
            (Outcome::Done, Some(why)) => {
                format!("{app} is on \"{release}\", but not everything went well: {why}")
            }
            (Outcome::Unreachable, why) => {
                let why = why.unwrap_or_default();
                format!("{app}: {why}; `shunt status {app}` shows which release serves")
            }
            (Outcome::Uncertain, why) => {
                let why = why.unwrap_or_default();
                format!(
                    "{app}: {why}; nothing was stopped, so either release can serve; `shunt status \
                     {app}` shows which one does, `shunt switch {app} {release}` or the next deploy \
                     settles it"
                )
            }
            (Outcome::Overruled, why) => {
                let why = why.unwrap_or_default();
                format!("{app} was on \"{release}\", but {why}; nothing was stopped")
            }
            (Outcome::Failed | Outcome::Unhealthy, why) if self.kind == JobKind::Recover => {
                let why = why.unwrap_or_default();
                format!("{app}: \"{release}\" is active but does not run as it should: {why}")
            }
            (Outcome::Failed | Outcome::Unhealthy, why) => {
                format!("{app}: \"{release}\" is refused, {still}: {}", why.unwrap_or_default())
            }
        };
        if let Some(cut) = &self.cut {
            text.push_str(&self.warning(*cut));
        }
        report.say(What::Ended { outcome, text, cut: self.cut });
        outcome
    }

    /// What is said of requests that a release was stopped with.
    fn warning(&self, cut: InFlight) -> String {
        let drain = &self.app.config.drain;
        let old = self.old.as_ref().map_or("", ReleaseName::as_str);
        let kinds = [
            (cut.requests, "request", "timeout", drain.timeout),
            (cut.upgraded, "upgraded connection", "upgraded_timeout", drain.upgraded_timeout),
        ];
        let kinds = kinds
            .iter()
            .filter(|(n, ..)| *n > 0)
            .map(|(n, what, name, limit)| format!("{} (drain {name} {limit:?})", count(*n, what)));
        let kinds: Vec<_> = kinds.collect();
        format!("; warning: \"{old}\" was stopped with {} in flight", kinds.join(" and "))
    }

    fn about(&self, step: Step) -> String {
        let slot = self.slot.as_ref().map(ToString::to_string).unwrap_or_default();
        let old = self.old.as_ref().map(ToString::to_string).unwrap_or_default();
        match step {
            Step::Fetch => {
                self.from.as_ref().map(|from| from.display().to_string()).unwrap_or_default()
            }
            Step::Start => self.release.to_string(),
            Step::Health | Step::Undo => slot,
            Step::Switch if old.is_empty() => self.release.to_string(),
            Step::Switch => format!("{old} -> {}", self.release),
            Step::Drain | Step::Stop => old,
            Step::Publish => "current".to_owned(),
            Step::Prune => String::new(),
        }
    }

    async fn work(&mut self, step: Step) -> Done {
        match step {
            Step::Fetch => self.fetch().await,
            Step::Start => self.start().await,
            Step::Health => self.health().await,
            Step::Switch => self.switch().await,
            Step::Drain => self.drain().await,
            Step::Stop => self.stop().await,
            Step::Publish => self.publish().await,
            Step::Prune => self.prune().await,
            Step::Undo => self.undo().await,
        }
    }
}

/// So many of something, as one reads it.
pub(super) fn count(n: u64, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}
