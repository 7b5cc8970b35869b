//! The steps of a job: each does what its name says, or tells why not.

use std::time::{Duration, Instant};

use shunt_api::{Address, ReleaseName, Source, Upstream};
use tokio::sync::watch;

use crate::config;
use crate::deploy::engine::{Done, Failure, Job};
use crate::deploy::plan::Event;
use crate::health;
use crate::nginx::NginxError;
use crate::runner::process::State;
use crate::source::folder;
use crate::wire::{JobKind, Outcome};

/// How many lines of a log explain a failure.
const LOG_LINES: usize = 30;

/// How long NGINX may take to see that the connections to a stopped process are broken.
const SWEEP: Duration = Duration::from_secs(5);

impl Job<'_> {
    pub(super) async fn fetch(&self) -> Done {
        let Some(from) = self.from.clone() else { return Ok(String::new()) };
        let (releases, release) = (self.app.releases.folder(), self.release.clone());
        let copy = tokio::task::spawn_blocking(move || folder::fetch(&from, &releases, &release));
        let to = copy
            .await
            .map_err(|e| Failure::new(Outcome::Failed, e))?
            .map_err(|e| Failure::new(Outcome::Failed, e))?;
        Ok(to.display().to_string())
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
        let idle = self.app.occupants().await.into_iter().find(|(_, release)| {
            state.active.as_ref() != Some(release) && *release != self.release
        });
        let Some((slot, release)) = idle else {
            return Err(Failure::new(Outcome::Failed, "no slot is free"));
        };
        if state.release(release.as_str()).is_some() {
            let limit = self.app.config.drain.timeout;
            if state.previous.as_ref() == Some(&release) {
                self.app.nginx.forget_previous().await?;
            }
            let state = self.app.nginx.drained(&release, limit).await?;
            let left = state.release(release.as_str()).map_or(0, |r| r.in_flight.total());
            if left > 0 {
                let why = format!("no slot is free: \"{release}\" has {left} in flight in {slot}");
                return Err(Failure::new(Outcome::Failed, why));
            }
            // Refused if somebody has switched to it meanwhile.
            self.forget(&release).await?;
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
            if self.proven { (1, restarts(&watch)) } else { (config.passes, 0) };
        let config = config::Health { passes, ..config.clone() };
        let waited = health::wait(&config, slot, &self.release, watch, restarts).await;
        waited.map_err(|error| Failure {
            event: Event::Failed(Outcome::Unhealthy),
            why: error.to_string(),
            lines: log.last_lines(LOG_LINES),
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
        if active != self.old.as_ref() {
            return Err(Failure::overruled(state.active.as_ref()));
        }
        // Also when the answer gets lost.
        self.announced = true;
        let state = nginx.put(&self.release, &slot, state.generation).await?;
        match nginx.switch(&self.release, state.generation).await {
            Ok(reply) => {
                self.app.switched(&self.release, self.old.as_ref()).await;
                if let Some(leftover) = self.leftover {
                    leftover.terminate();
                }
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
    pub(super) async fn drain(&self) -> Done {
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
        if state.active.as_ref() != Some(&self.release) {
            return Err(Failure::overruled(state.active.as_ref()));
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

    /// Stops the old release. It is deleted from NGINX first: that is refused if somebody has
    /// switched back to it, and afterwards nobody can.
    pub(super) async fn stop(&self) -> Done {
        let Some(old) = &self.old else { return Ok(String::new()) };
        let still_runs = |error: Failure| Failure {
            why: format!("\"{old}\" is not stopped: {}", error.why),
            ..error
        };
        self.forget(old).await.map_err(still_runs)?;
        let note = match self.app.slot_of(old).await {
            None => "not ours to stop".to_owned(),
            Some(slot) if self.app.stop(&slot).await => "ended by itself".to_owned(),
            Some(_) => "killed after its grace time".to_owned(),
        };
        self.sweep().await?;
        Ok(note)
    }

    /// Deletes a release from NGINX, if it is there by the API. One that still has something in
    /// flight stays, to be swept later.
    async fn forget(&self, release: &ReleaseName) -> Result<(), Failure> {
        let state = self.app.nginx.state().await?;
        if state.active.as_ref() == Some(release) {
            return Err(Failure::overruled(Some(release)));
        }
        let Some(known) = state.release(release.as_str()) else { return Ok(()) };
        if known.source == Source::Config || known.in_flight.total() > 0 {
            return Ok(());
        }
        match self.app.nginx.delete(release).await {
            Ok(_) => Ok(()),
            // A request or a switch was faster.
            Err(NginxError::Refused(problem)) if problem.status == 409 => {
                let state = self.app.nginx.state().await?;
                match state.active.as_ref() == Some(release) {
                    true => Err(Failure::overruled(Some(release))),
                    false => Ok(()),
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes from NGINX what was in a slot of this application and runs no more: whoever goes
    /// there would meet another release.
    async fn sweep(&self) -> Result<(), Failure> {
        let state = self.app.nginx.state().await?;
        let slots: Vec<String> =
            self.app.config.run.slots.iter().map(ToString::to_string).collect();
        for known in &state.releases {
            let ours = known.source == Source::Api
                && known.servers.iter().all(|server| slots.contains(&server.address));
            if ours
                && state.active.as_ref() != Some(&known.name)
                && self.app.slot_of(&known.name).await.is_none()
            {
                // Its connections broke with its process, which NGINX sees in a moment.
                self.app.nginx.drained(&known.name, SWEEP).await?;
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

    /// Takes back what was begun: the release gets no traffic, so it can simply stop.
    pub(super) async fn undo(&self) -> Done {
        let told = if self.announced { self.forget(&self.release).await } else { Ok(()) };
        if let Err(Failure { event: Event::Overruled, .. }) = told {
            return told.map(|()| String::new());
        }
        if let Some(slot) = self.app.slot_of(&self.release).await {
            self.app.stop(&slot).await;
        }
        if self.kind == JobKind::Deploy {
            let folder = self.app.releases.of(&self.release);
            folder::remove(&folder)
                .map_err(|e| Failure::new(Outcome::Failed, format!("{}: {e}", folder.display())))?;
        }
        told.map(|()| "stopped".to_owned())
    }
}

/// How often a process was started again.
fn restarts(process: &watch::Receiver<State>) -> u32 {
    match *process.borrow() {
        State::Running { restarts, .. } | State::Ended { restarts, .. } => restarts,
        State::Stopped => 0,
    }
}
