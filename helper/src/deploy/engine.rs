//! Runs a job: asks the plan for the next step, does it, and reports what happens.

use std::time::Instant;

use shunt_api::{Address, ReleaseName, Source, Upstream};

use crate::daemon::app::{App, Occupant};
use crate::daemon::jobs::Reporter;
use crate::deploy::plan::{Event, Phase, Plan};
use crate::health;
use crate::nginx::NginxError;
use crate::source::folder;
use crate::wire::{JobKind, Outcome, Step, What};

/// How many lines of a log explain a failure.
const LOG_LINES: usize = 30;

/// Why a step has failed.
#[derive(Debug)]
struct Failure {
    event: Event,
    why: String,
    lines: Vec<String>,
}

impl Failure {
    fn new(outcome: Outcome, why: impl std::fmt::Display) -> Self {
        Self { event: Event::Failed(outcome), why: why.to_string(), lines: Vec::new() }
    }
}

impl From<NginxError> for Failure {
    fn from(error: NginxError) -> Self {
        let outcome = if error.is_unreachable() { Outcome::Unreachable } else { Outcome::Failed };
        Self::new(outcome, error)
    }
}

type Done = Result<String, Failure>;

/// A job on an application.
pub struct Job<'a> {
    app: &'a App,
    kind: JobKind,
    release: ReleaseName,
    /// Where a new release comes from.
    from: Option<std::path::PathBuf>,
    /// The active release when the job began.
    old: Option<ReleaseName>,
    /// The slot of the release.
    slot: Option<Address>,
    /// Whether NGINX has been told of the release by this job.
    announced: bool,
}

impl<'a> Job<'a> {
    /// A deploy from a folder.
    #[must_use]
    pub fn deploy(app: &'a App, release: ReleaseName, from: std::path::PathBuf) -> Self {
        Self::new(app, JobKind::Deploy, release, Some(from))
    }

    /// A rollback, or a switch by hand.
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
        Self { app, kind, release, from, old: None, slot: None, announced: false }
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
            Ok(state) => self.old = state.active.filter(|active| *active != self.release),
            Err(error) => return self.end(report, Failure::from(error), None),
        }
        self.slot = self.app.slot_of(&self.release).await;
        let runs = self.kind != JobKind::Deploy && self.slot.is_some();
        let plan = Plan { kind: self.kind, runs, has_old: self.old.is_some() };
        let mut phase = plan.begin();
        let mut failure = None;
        loop {
            let step = match phase {
                Phase::Ended(outcome) => return self.conclude(report, outcome, failure),
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
                Err(Failure { event, why, lines }) => {
                    failure.get_or_insert_with(|| why.clone());
                    report.say(What::Failed { step, why, lines });
                    event
                }
            };
            phase = plan.step(phase, event);
        }
    }

    fn end(self, report: &Reporter, failure: Failure, step: Option<Step>) -> Outcome {
        let outcome = match failure.event {
            Event::Failed(outcome) => outcome,
            Event::Done | Event::Uncertain => Outcome::Unreachable,
        };
        if let Some(step) = step {
            report.say(What::Failed { step, why: failure.why.clone(), lines: failure.lines });
        }
        self.conclude(report, outcome, Some(failure.why))
    }

    fn conclude(self, report: &Reporter, outcome: Outcome, why: Option<String>) -> Outcome {
        let (app, release) = (&self.app.config.name, &self.release);
        let still = self.old.as_ref().map_or_else(
            || "nothing has changed".to_owned(),
            |old| format!("\"{old}\" still serves"),
        );
        let text = match (outcome, why) {
            (Outcome::Done, None) => format!("{app} is on \"{release}\""),
            (Outcome::Done, Some(why)) => {
                format!("{app} is on \"{release}\", but not everything went well: {why}")
            }
            (Outcome::Unreachable, why) => {
                let why = why.unwrap_or_default();
                format!("{app}: {why}; `shunt status {app}` shows which release serves")
            }
            (Outcome::Failed | Outcome::Unhealthy, why) => {
                format!("{app}: \"{release}\" is refused, {still}: {}", why.unwrap_or_default())
            }
        };
        report.say(What::Ended { outcome, text });
        outcome
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

    async fn fetch(&self) -> Done {
        let Some(from) = self.from.clone() else { return Ok(String::new()) };
        let (releases, release) = (self.app.releases.folder(), self.release.clone());
        let copy = tokio::task::spawn_blocking(move || folder::fetch(&from, &releases, &release));
        let to = copy
            .await
            .map_err(|e| Failure::new(Outcome::Failed, e))?
            .map_err(|e| Failure::new(Outcome::Failed, e))?;
        Ok(to.display().to_string())
    }

    async fn start(&mut self) -> Done {
        let slot = self.free_slot().await?;
        self.app
            .start(&slot, &self.release)
            .await
            .map_err(|e| Failure::new(Outcome::Unhealthy, e))?;
        self.slot = Some(slot.clone());
        Ok(slot.to_string())
    }

    /// A slot without a release; if there is none, that of a release that gets no traffic, once it
    /// has nothing in flight.
    async fn free_slot(&self) -> Result<Address, Failure> {
        if let Some(slot) = self.app.free_slot().await {
            return Ok(slot);
        }
        let state = self.app.nginx.state().await?;
        let idle = self.app.occupants().await.into_iter().find(|(_, release)| {
            state.active.as_ref() != Some(release) && *release != self.release
        });
        let Some((slot, release)) = idle else {
            return Err(Failure::new(Outcome::Failed, "no slot is free"));
        };
        if state.release(release.as_str()).is_some() {
            let limit = self.app.config.drain.timeout;
            let state = self.app.nginx.drained(&release, limit).await?;
            let left = state.release(release.as_str()).map_or(0, |r| r.in_flight.total());
            if left > 0 {
                let why = format!("no slot is free: \"{release}\" has {left} in flight in {slot}");
                return Err(Failure::new(Outcome::Failed, why));
            }
        }
        self.app.stop(&slot).await;
        Ok(slot)
    }

    async fn health(&self) -> Done {
        let Some(slot) = self.slot.clone() else {
            return Err(Failure::new(Outcome::Failed, "the release has no slot"));
        };
        let Some((watch, log)) = self.app.watch(&slot).await else {
            return Err(Failure::new(Outcome::Failed, "the release has no process"));
        };
        let config = &self.app.config.health;
        health::wait(config, &slot, &self.release, watch).await.map_err(|error| Failure {
            event: Event::Failed(Outcome::Unhealthy),
            why: error.to_string(),
            lines: log.last_lines(LOG_LINES),
        })?;
        Ok(format!("{} times in a row", config.passes))
    }

    /// Tells NGINX of the release and switches to it, unless somebody else changed something since.
    async fn switch(&mut self) -> Done {
        let Some(slot) = self.slot.clone() else {
            let why = format!("\"{}\" is not running, deploy it", self.release);
            return Err(Failure::new(Outcome::Failed, why));
        };
        let nginx = &self.app.nginx;
        let state = nginx.state().await?;
        let active = state.active.as_ref().filter(|active| **active != self.release);
        if active != self.old.as_ref() {
            let now = active.map_or("none", ReleaseName::as_str);
            let why = format!("somebody else has switched to \"{now}\" meanwhile");
            return Err(Failure::new(Outcome::Failed, why));
        }
        let state = nginx.put(&self.release, &slot).await?;
        self.announced = true;
        match nginx.switch(&self.release, state.generation).await {
            Ok(reply) => {
                self.app.switched(&self.release, self.old.as_ref()).await;
                Ok(format!("generation {}", reply.generation))
            }
            Err(error) if error.is_uncertain() => match nginx.state().await {
                // The answer was lost, the switch was not.
                Ok(Upstream { active: Some(active), generation, .. }) if active == self.release => {
                    self.app.switched(&self.release, self.old.as_ref()).await;
                    Ok(format!("generation {generation}"))
                }
                Ok(_) => Err(error.into()),
                Err(_) => Err(Failure { event: Event::Uncertain, ..error.into() }),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until the old release has nothing in flight: requests for so long, upgraded connections
    /// for so long.
    async fn drain(&self) -> Done {
        let Some(old) = &self.old else { return Ok(String::new()) };
        let (nginx, drain) = (&self.app.nginx, &self.app.config.drain);
        let start = Instant::now();
        nginx.forget_previous().await?;
        let mut state = nginx.drained(old, drain.timeout.min(drain.upgraded_timeout)).await?;
        let left =
            |state: &Upstream| state.release(old.as_str()).map(|r| r.in_flight).unwrap_or_default();
        // One kind has a longer limit: it is waited for as long as it has some.
        let rest = drain.timeout.max(drain.upgraded_timeout).saturating_sub(start.elapsed());
        let longer = if drain.timeout > drain.upgraded_timeout {
            left(&state).requests
        } else {
            left(&state).upgraded
        };
        if longer > 0 && !rest.is_zero() {
            state = nginx.drained(old, rest).await?;
        }
        let left = left(&state);
        if left.total() > 0 {
            let why = format!(
                "\"{old}\" still has {} requests and {} upgraded connections in flight after {:?}",
                left.requests,
                left.upgraded,
                start.elapsed()
            );
            return Err(Failure::new(Outcome::Done, why));
        }
        Ok("nothing in flight".to_owned())
    }

    async fn stop(&self) -> Done {
        let Some(old) = &self.old else { return Ok(String::new()) };
        let note = match self.app.slot_of(old).await {
            None => "not ours to stop".to_owned(),
            Some(slot) => {
                if self.app.stop(&slot).await {
                    "ended by itself".to_owned()
                } else {
                    "killed after its grace time".to_owned()
                }
            }
        };
        self.forget(old).await?;
        Ok(note)
    }

    /// Deletes a release from NGINX, if it is there by the API.
    async fn forget(&self, release: &ReleaseName) -> Result<(), Failure> {
        let state = self.app.nginx.state().await?;
        let ours = state.release(release.as_str()).is_some_and(|r| r.source == Source::Api);
        if ours && state.active.as_ref() != Some(release) {
            self.app.nginx.delete(release).await?;
        }
        Ok(())
    }

    async fn publish(&self) -> Done {
        self.app
            .releases
            .publish(&self.release)
            .map_err(|e| Failure::new(Outcome::Done, format!("cannot set \"current\": {e}")))?;
        Ok(format!("current -> releases/{}", self.release))
    }

    async fn prune(&self) -> Done {
        let in_use = self.app.in_use(&self.release).await;
        let (releases, keep) = (self.app.releases.clone(), self.app.config.keep.releases);
        let out = tokio::task::spawn_blocking(move || releases.prune(keep, &in_use))
            .await
            .map_err(|e| Failure::new(Outcome::Done, e))?
            .map_err(|e| Failure::new(Outcome::Done, format!("cannot remove a release: {e}")))?;
        Ok(match out.as_slice() {
            [] => "nothing to remove".to_owned(),
            some => {
                some.iter().map(ReleaseName::as_str).collect::<Vec<_>>().join(", ") + " removed"
            }
        })
    }

    /// Takes back what was begun: the release gets no traffic, so it can simply stop.
    async fn undo(&self) -> Done {
        if self.announced {
            self.forget(&self.release).await?;
        }
        if let Some(slot) = self.app.slot_of(&self.release).await {
            self.app.stop(&slot).await;
        }
        if self.kind == JobKind::Deploy {
            let folder = self.app.releases.of(&self.release);
            folder::remove(&folder)
                .map_err(|e| Failure::new(Outcome::Failed, format!("{}: {e}", folder.display())))?;
        }
        Ok("stopped".to_owned())
    }
}

/// Starts what ran when the daemon ended, so that NGINX's active release has a process again.
///
/// If an earlier daemon was killed, its processes still run and hold their sockets. Then the release
/// starts in another slot, NGINX is told of the new place, and the old process is asked to end.
///
/// # Errors
///
/// Says why the release does not serve.
pub async fn recover(app: &App, active: &ReleaseName) -> Result<(), String> {
    let Some(Occupant { slot, process }) = app.remembered(active).await else { return Ok(()) };
    let mut place = slot.clone();
    if let Err(error) = app.start(&slot, active).await {
        let other = app.config.run.slots.iter().find(|s| **s != slot).cloned();
        let (true, Some(other)) = (error.is_in_use(), other) else { return Err(error.to_string()) };
        app.start(&other, active).await.map_err(|e| e.to_string())?;
        place = other;
    }
    let Some((watch, _)) = app.watch(&place).await else { return Ok(()) };
    health::wait(&app.config.health, &place, active, watch).await.map_err(|e| e.to_string())?;
    if place != slot {
        app.nginx.put(active, &place).await.map_err(|e| e.to_string())?;
        if let Some(process) = process {
            process.terminate();
        }
    }
    Ok(())
}
