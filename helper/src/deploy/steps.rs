//! The steps of a job: each does what its name says, or tells why not.

use std::time::{Duration, Instant};

use shunt_api::{Address, InFlight, ReleaseName};
use tokio::sync::watch;

use crate::config;
use crate::deploy::engine::{Done, Failure, Job, count};
use crate::deploy::plan::Event;
use crate::health;
use crate::nginx::AGAIN;
use crate::runner::process::{self, State};
use crate::source::{self, Source, folder};
use crate::wire::{JobKind, Outcome};

/// How many lines of a log explain a failure.
const LOG_LINES: usize = 30;

/// For how many times the limit of a call an order is given that NGINX does not answer.
const PATIENCE: u32 = 3;

/// How often to look for what NGINX cannot be waited for.
const LOOK: Duration = Duration::from_millis(100);

/// How long NGINX may take to see that the connections to a stopped process are broken.
const SWEEP: Duration = Duration::from_secs(5);

impl Job<'_> {
    pub(super) async fn fetch(&self) -> Done {
        let Some(from) = self.from.clone() else { return Ok(String::new()) };
        let (config, source) = (&self.app.config, Source::at(from));
        let fetched = source::fetch(config, &source, &self.release, &mut |_| {}).await;
        match fetched {
            Ok(fetched) => Ok(fetched.folder.display().to_string()),
            Err(error) => Err(Failure::new(Outcome::Failed, error)),
        }
    }

    pub(super) async fn start(&mut self) -> Done {
        let slot = match self.kind {
            JobKind::Recover => self.start_again().await?,
            JobKind::Deploy | JobKind::Rollback | JobKind::Switch => {
                let slot = self.free_slot().await?;
                self.start_in(&slot).await?;
                slot
            }
        };
        self.slot = Some(slot.clone());
        Ok(slot.to_string())
    }

    async fn start_in(&self, slot: &Address) -> Result<(), Failure> {
        let started = self.app.start(slot, &self.release).await;
        started.map_err(|e| Failure::new(Outcome::Unhealthy, e))
    }

    /// Starts the active release where it was, where NGINX looks for it; if that is taken, in
    /// another slot, of which NGINX is told then.
    async fn start_again(&mut self) -> Result<Address, Failure> {
        if let Some(slot) = self.app.slot_of(&self.release).await {
            return Ok(slot);
        }
        let occupant = self.app.remembered(&self.release).await;
        self.leftover = occupant.as_ref().and_then(|occupant| occupant.process);
        let slots = &self.app.config.run.slots;
        let home = occupant.map(|occupant| occupant.slot).filter(|slot| slots.contains(slot));
        let others = slots.iter().filter(|slot| Some(*slot) != home.as_ref());
        let mut taken = Failure::new(Outcome::Failed, "no slot is free");
        for slot in home.iter().chain(others) {
            if !self.app.is_free(slot).await {
                continue;
            }
            match self.app.start(slot, &self.release).await {
                Ok(()) => return Ok(slot.clone()),
                Err(error) if error.is_in_use() => taken = Failure::new(Outcome::Failed, error),
                Err(error) => return Err(Failure::new(Outcome::Unhealthy, error)),
            }
        }
        Err(taken)
    }

    /// A slot without a release; if there is none, that of a release that gets no traffic, once it
    /// has nothing in flight.
    async fn free_slot(&self) -> Result<Address, Failure> {
        if let Some(slot) = self.app.free_slot().await {
            return Ok(slot);
        }
        let state = self.app.nginx.state().await?;
        let previous = self.app.previous(&state).await;
        let in_flight =
            |release: &ReleaseName| state.release(release.as_str()).map(|r| r.in_flight.total());
        let mut idle = self.app.occupants().await;
        idle.retain(|(_, r)| state.active.as_ref() != Some(r) && *r != self.release);
        // What is idle first, and what a rollback goes to last.
        idle.sort_by_key(|(_, r)| (in_flight(r), previous.as_ref() == Some(r)));
        let Some((slot, release)) = idle.into_iter().next() else {
            return Err(Failure::new(Outcome::Failed, "no slot is free"));
        };
        if state.release(release.as_str()).is_some() {
            let limit = self.app.config.drain.timeout;
            if state.previous.as_ref() == Some(&release) {
                self.app.nginx.forget_previous().await?;
            }
            self.app.nginx.drained(&release, limit).await?;
            // Refused if somebody has switched to it meanwhile.
            let left = self.forget(&release).await?.total();
            if left > 0 {
                let why = format!("no slot is free: \"{release}\" has {left} in flight in {slot}");
                return Err(Failure::new(Outcome::Failed, why));
            }
        }
        self.app.stop(&slot).await;
        Ok(slot)
    }

    pub(super) async fn health(&self) -> Done {
        let failed = |why: &str| Failure::new(Outcome::Failed, why);
        let slot = self.slot.as_ref().ok_or_else(|| failed("the release has no slot"))?;
        let watch = self.app.watch(slot).await;
        let (watch, log) = watch.ok_or_else(|| failed("the release has no process"))?;
        let config = &self.app.config.health;
        // What has proved itself has to show only that it still works, but that in any case.
        let (passes, restarts) =
            if self.proven { (1, restarts(&watch)) } else { (config.pace.passes, 0) };
        let pace = config::Pace { passes, ..config.pace.clone() };
        let config = config::Health { pace, ..config.clone() };
        let target = health::Target {
            app: &self.app.config.name,
            slot,
            release: &self.release,
            folder: &self.app.releases.of(&self.release),
            user: self.app.config.run.user.as_ref(),
            env: &self.app.env(slot, &self.release),
        };
        let waited = health::wait(&config, target, process::ended(watch, restarts)).await;
        waited.map_err(|error| Failure {
            event: Event::Failed(Outcome::Unhealthy),
            why: error.brief(),
            lines: [error.lines(), log.last_lines(LOG_LINES)].concat(),
        })?;
        Ok(if passes == 1 { "answers".to_owned() } else { format!("{passes} times in a row") })
    }

    /// Tells NGINX of the release and switches to it, unless somebody else changed something since.
    pub(super) async fn switch(&mut self) -> Done {
        let Some(slot) = self.slot.clone() else {
            let why = format!("\"{}\" is not running, deploy it", self.release);
            return Err(Failure::new(Outcome::Failed, why));
        };
        let nginx = &self.app.nginx;
        let state = nginx.state().await?;
        let active = state.active.as_ref().filter(|active| **active != self.release);
        // What has to run again is active already.
        let expected = self.old.as_ref().filter(|_| self.kind != JobKind::Recover);
        if active != expected {
            return Err(Failure::overruled(state.active.as_ref()));
        }
        // Also when the answer gets lost.
        self.announced = true;
        let state = nginx.put(&self.release, &slot, state.generation).await?;
        let generation = self.order(state.generation).await?;
        self.app.settle(Some(&self.release)).await;
        if let Some(leftover) = self.leftover {
            leftover.terminate();
        }
        Ok(format!("generation {generation}"))
    }

    /// Orders the switch until it is known what has come of it, and gives the generation.
    ///
    /// An order without an answer may take effect at any later time, but only as long as the upstream
    /// is at the generation that it names. So the same order is given again: one that is accepted, or
    /// another generation, settles all that were lost. What NGINX shows meanwhile proves nothing.
    async fn order(&self, generation: u32) -> Result<u32, Failure> {
        let nginx = &self.app.nginx;
        let end = Instant::now() + nginx.limit() * PATIENCE;
        let mut lost = None;
        loop {
            let error = match nginx.switch(&self.release, generation).await {
                Ok(reply) => return Ok(reply.generation),
                Err(error) => error,
            };
            if lost.is_none() && !error.is_uncertain() {
                return Err(error.into());
            }
            if error.is_refused_with(412)
                && let Ok(state) = nginx.state().await
                && state.generation != generation
            {
                return match state.active.as_ref() == Some(&self.release) {
                    true => Ok(state.generation),
                    false => Err(error.into()),
                };
            }
            let lost = lost.get_or_insert(error);
            if Instant::now() >= end {
                return Err(Failure::uncertain(&self.release, lost));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Waits until the old release has nothing in flight, each kind up to its own limit. NGINX that
    /// cannot be asked tells nothing: only what is known to have reached its limit is cut.
    pub(super) async fn drain(&self) -> Done {
        let Some(old) = &self.old else { return Ok(String::new()) };
        let nginx = &self.app.nginx;
        let start = Instant::now();
        // Without it something may still fall back to the old release, which is then in flight there
        // and waited for.
        let forgotten = nginx.forget_previous().await;
        let limits = Limits::new(start, &self.app.config.drain);
        let mut wait = Duration::ZERO;
        let (state, left) = loop {
            let state = match nginx.drained(old, wait).await {
                Ok(state) => state,
                Err(error) if error.is_refused_with(404) => {
                    return Ok("not in NGINX any more".to_owned());
                }
                Err(error) => return Err(Failure::from(error).about(&still_runs(old))),
            };
            let left = state.release(old.as_str()).map(|r| r.in_flight).unwrap_or_default();
            match limits.wait(left, Instant::now()) {
                Some(next) if state.active.as_ref() != Some(old) => wait = next,
                _ => break (state, left),
            }
        };
        if state.active.as_ref() != Some(&self.release) {
            return Err(Failure::overruled(state.active.as_ref()));
        }
        if left.total() > 0 {
            let why = format!(
                "\"{old}\" still has {} and {} in flight after {:.1} s",
                count(left.requests, "request"),
                count(left.upgraded, "upgraded connection"),
                start.elapsed().as_secs_f64()
            );
            return Err(Failure { event: Event::Limit, ..Failure::new(Outcome::Done, why) });
        }
        Ok(match forgotten {
            Ok(_) => "nothing in flight".to_owned(),
            Err(error) => format!("nothing in flight, but it stays the previous one: {error}"),
        })
    }

    /// Stops the old release. It is deleted from NGINX first: that is refused if somebody has
    /// switched back to it, and afterwards nobody can.
    pub(super) async fn stop(&mut self) -> Done {
        let Some(old) = &self.old else { return Ok(String::new()) };
        let left = self.forget(old).await.map_err(|e| e.about(&still_runs(old)))?;
        if left.total() > 0 && !self.limit {
            // It had nothing when it was drained: somebody has switched to it and away again.
            let why = format!("{}: it has {} in flight again", still_runs(old), left.total());
            return Err(Failure::new(Outcome::Done, why));
        }
        let note = match self.app.slot_of(old).await {
            None => "not ours to stop".to_owned(),
            Some(slot) => {
                self.cut = Some(left).filter(|left| left.total() > 0);
                match self.app.stop(&slot).await {
                    true => "ended by itself".to_owned(),
                    false => "killed after its grace time".to_owned(),
                }
            }
        };
        self.sweep().await?;
        Ok(note)
    }

    /// Deletes a release from NGINX, if it is there by the API, and tells what it has in flight: with
    /// something, it stays.
    async fn forget(&self, release: &ReleaseName) -> Result<InFlight, Failure> {
        let nginx = &self.app.nginx;
        let end = Instant::now() + nginx.limit();
        loop {
            let state = nginx.state().await?;
            if state.active.as_ref() == Some(release) {
                return Err(Failure::overruled(Some(release)));
            }
            let Some(known) = state.release(release.as_str()) else {
                return Ok(InFlight::default());
            };
            if known.source == shunt_api::Source::Config || known.in_flight.total() > 0 {
                return Ok(known.in_flight);
            }
            match nginx.delete(release, state.generation).await {
                Ok(_) => return Ok(InFlight::default()),
                // A request, a switch or another change was faster: the next look tells.
                Err(error)
                    if [404, 409, 412].iter().any(|s| error.is_refused_with(*s))
                        && Instant::now() < end =>
                {
                    tokio::time::sleep(AGAIN).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Deletes from NGINX what was in a slot of this application and runs no more: whoever goes
    /// there would meet another release.
    async fn sweep(&self) -> Result<(), Failure> {
        let state = self.app.nginx.state().await?;
        let slots: Vec<String> =
            self.app.config.run.slots.iter().map(ToString::to_string).collect();
        for known in &state.releases {
            let ours = known.source == shunt_api::Source::Api
                && known.servers.iter().all(|server| slots.contains(&server.address));
            if ours
                && state.active.as_ref() != Some(&known.name)
                && self.app.slot_of(&known.name).await.is_none()
            {
                // Its connections broke with its process, which NGINX sees in a moment.
                self.app.nginx.drained(&known.name, SWEEP).await?;
                // One that still has something in flight stays, for the next sweep.
                self.forget(&known.name).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn publish(&self) -> Done {
        self.app
            .releases
            .publish(&self.release)
            .map_err(|e| Failure::new(Outcome::Done, format!("cannot set \"current\": {e}")))?;
        Ok(format!("current -> releases/{}", self.release))
    }

    pub(super) async fn prune(&self) -> Done {
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

    /// Takes back what was begun: once NGINX has forgotten the release, nobody can switch to it and it
    /// can simply stop. As long as NGINX has not, it stays as it is.
    pub(super) async fn undo(&self) -> Done {
        let release = &self.release;
        if self.announced {
            let left = self.forget(release).await.map_err(|e| e.about(&still_runs(release)))?;
            let left = left.total();
            if left > 0 {
                let why = format!("{}: it has {left} in flight", still_runs(release));
                return Err(Failure::new(Outcome::Failed, why));
            }
        }
        if let Some(slot) = self.app.slot_of(&self.release).await {
            self.app.stop(&slot).await;
        }
        if self.kind == JobKind::Deploy {
            let folder = self.app.releases.of(&self.release);
            folder::remove(&folder)
                .map_err(|e| Failure::new(Outcome::Failed, format!("{}: {e}", folder.display())))?;
            // Its own log stays for whoever looks for the reason.
            let pruned = self.app.releases.prune_logs(self.app.config.keep.releases);
            pruned
                .map_err(|e| Failure::new(Outcome::Failed, format!("cannot remove a log: {e}")))?;
        }
        Ok("stopped".to_owned())
    }
}

/// What is said of a release that should stop and does not.
fn still_runs(release: &ReleaseName) -> String {
    format!("\"{release}\" is not stopped")
}

/// Until when the old release may have something in flight.
struct Limits {
    requests: Instant,
    upgraded: Instant,
}

impl Limits {
    fn new(start: Instant, drain: &config::Drain) -> Self {
        Self { requests: start + drain.timeout, upgraded: start + drain.upgraded_timeout }
    }

    /// How long to wait before looking again; `None` when nothing is waited for any more.
    fn wait(&self, left: InFlight, now: Instant) -> Option<Duration> {
        let kinds = [(left.requests, self.requests), (left.upgraded, self.upgraded)];
        let rest = |(n, end): &(u64, Instant)| (*n > 0).then(|| end.saturating_duration_since(now));
        // The first limit that is still to come.
        let next = kinds.iter().filter_map(rest).filter(|rest| !rest.is_zero()).min()?;
        // NGINX tells when both kinds have ended. While one is beyond its limit, only a look tells
        // when the other one has.
        let cut = kinds.iter().filter_map(rest).any(|rest| rest.is_zero());
        Some(if cut { next.min(LOOK) } else { next })
    }
}

/// How often a process was started again.
fn restarts(process: &watch::Receiver<State>) -> u32 {
    match *process.borrow() {
        State::Running { restarts, .. } | State::Ended { restarts, .. } => restarts,
        State::Stopped => 0,
    }
}
