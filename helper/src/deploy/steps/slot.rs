//! The release gets a slot and starts there.

use shunt_api::{Address, ReleaseName, Upstream};

use crate::config::{Runner, Strategy};
use crate::deploy::app::Unwritten;
use crate::deploy::engine::Job;
use crate::deploy::failure::{Done, Failure};
use crate::wire::{JobKind, Outcome, Step};

impl Job<'_> {
    pub(in crate::deploy) async fn start(&mut self) -> Done {
        let slot = match (self.kind, &self.slot, &self.wanted) {
            (JobKind::Recover, ..) => self.start_again().await?,
            (_, Some(slot), _) if self.listens => {
                let roused = self.app.rouse(slot, &self.release, self.unwritten()).await;
                roused.map_err(Failure::not_started)?;
                slot.clone()
            }
            (_, own, wanted) => {
                let slot = match (own, wanted) {
                    (Some(slot), _) => slot.clone(),
                    (None, Some(wanted)) => self.named_slot(wanted).await?,
                    (None, None) => self.free_slot().await?,
                };
                self.start_in(&slot).await?;
                slot
            }
        };
        self.slot = Some(slot.clone());
        // Whoever runs releases may have put this one in the place of another.
        if let Runner::External { .. } = self.app.config.run.runner {
            self.sweep().await?;
        }
        Ok(slot.to_string())
    }

    /// Starts the release on the old one's socket, once that has ended.
    pub(in crate::deploy) async fn restart(&mut self) -> Done {
        let slot = match &self.old {
            Some(old) => self.app.slot_of(old).await,
            None => None,
        };
        let slot = match slot {
            Some(slot) => {
                self.replace(&slot, &self.release).await?;
                slot
            }
            // The old release is not ours: of a slot, ours is the first one to run there.
            None => {
                let slot = self.free_slot().await?;
                self.start_in(&slot).await?;
                slot
            }
        };
        self.slot = Some(slot.clone());
        Ok(slot.to_string())
    }

    /// What becomes of an order to start a release that cannot be written down: users are sent already to
    /// what has to run again, and what is gone back to served them.
    pub(super) fn unwritten(&self) -> Unwritten {
        match (self.kind, self.step) {
            (JobKind::Recover, _) | (_, Some(Step::SwitchBack | Step::Undo)) => Unwritten::Obeyed,
            _ => Unwritten::Refused,
        }
    }

    /// The slot in which releases follow each other in place.
    pub(super) fn only_slot(&self) -> Result<Address, Failure> {
        let slot = self.app.config.run.slots.first().cloned();
        slot.ok_or_else(|| Failure::new(Outcome::Failed, "no slot is configured"))
    }

    /// Starts a release in a slot on the socket of what runs there, once that has ended.
    pub(super) async fn replace(
        &self,
        slot: &Address,
        release: &ReleaseName,
    ) -> Result<(), Failure> {
        self.app.replace(slot, release, self.unwritten()).await.map_err(Failure::not_started)
    }

    async fn start_in(&self, slot: &Address) -> Result<(), Failure> {
        self.app.start(slot, &self.release, self.unwritten()).await.map_err(Failure::not_started)
    }

    /// Starts the active release where it was, where NGINX looks for it; if that is taken, in
    /// another slot, of which NGINX is told then.
    async fn start_again(&mut self) -> Result<Address, Failure> {
        if let Some(slot) = self.app.slot_of(&self.release).await {
            let rests = self.app.is_at_rest(&slot).await;
            // Connections may be waiting there.
            if !rests || self.app.rouse(&slot, &self.release, self.unwritten()).await.is_ok() {
                self.app.started(&slot).await.map_err(Failure::not_started)?;
                return Ok(slot);
            }
        }
        let occupant = self.app.remembered(&self.release).await;
        self.leftover = occupant.as_ref().and_then(|occupant| occupant.process);
        let slots = &self.app.config.run.slots;
        let home = occupant.map(|occupant| occupant.slot).filter(|slot| slots.contains(slot));
        let others = slots.iter().filter(|slot| Some(*slot) != home.as_ref());
        let mut taken = Failure::new(Outcome::Failed, "no slot is free");
        for slot in home.iter().chain(others) {
            if !self.app.is_free(slot).await && !self.app.is_at_rest(slot).await {
                if self.strategy() == Strategy::InPlace {
                    // What was cut off has left another one in the only slot.
                    self.replace(slot, &self.release).await?;
                    return Ok(slot.clone());
                }
                continue;
            }
            match self.app.start(slot, &self.release, self.unwritten()).await {
                Ok(()) => return Ok(slot.clone()),
                Err(error) if error.is_in_use() => taken = Failure::new(Outcome::Failed, error),
                Err(error) => return Err(Failure::not_started(error)),
            }
        }
        Err(taken)
    }

    /// The slot that somebody has named, without a release.
    async fn named_slot(&self, name: &str) -> Result<Address, Failure> {
        let state = self.app.nginx.state().await?;
        let named = self.app.named_slot(name, &state).await;
        let slot = named.map_err(|e| Failure::new(Outcome::Failed, e))?;
        match self.app.occupant(&slot).await {
            Some((release, rests)) if rests.is_at_rest() => {
                self.vacate(slot, &release, &state).await
            }
            _ => Ok(slot),
        }
    }

    /// A slot without a release; if there is none, that of a release that gets no traffic, once it
    /// has nothing in flight.
    pub(super) async fn free_slot(&self) -> Result<Address, Failure> {
        let state = self.app.nginx.state().await?;
        let free = self.app.free_slot(&state).await;
        if let Some(slot) = free.map_err(|e| Failure::new(Outcome::Failed, e))? {
            return Ok(slot);
        }
        let previous = self.app.previous(&state).await;
        let in_flight =
            |release: &ReleaseName| state.release(release.as_str()).map(|r| r.in_flight.total());
        let running = self.app.running().await;
        let mut idle = self.app.occupants().await;
        idle.retain(|(_, r)| state.active.as_ref() != Some(r) && *r != self.release);
        // What does not even run first, then what is idle, and what a rollback goes to last.
        idle.sort_by_key(|occupant| {
            let (_, r) = occupant;
            (running.contains(occupant), in_flight(r), previous.as_ref() == Some(r))
        });
        let Some((slot, release)) = idle.into_iter().next() else {
            return Err(Failure::new(Outcome::Failed, "no slot is free"));
        };
        self.vacate(slot, &release, &state).await
    }

    /// Makes a slot free whose release gets no traffic, once it has nothing in flight.
    async fn vacate(
        &self,
        slot: Address,
        release: &ReleaseName,
        state: &Upstream,
    ) -> Result<Address, Failure> {
        if state.release(release.as_str()).is_some() {
            let limit = self.app.config.drain.timeout;
            if state.previous.as_ref() == Some(release) {
                self.app.nginx.forget_previous().await?;
            }
            self.app.nginx.drained(release, limit).await?;
            // Refused if somebody has switched to it meanwhile.
            let left = self.forget(release).await?.total();
            if left > 0 {
                let why = format!("no slot is free: \"{release}\" has {left} in flight in {slot}");
                return Err(Failure::new(Outcome::Failed, why));
            }
        }
        self.app.stop(&slot).await;
        Ok(slot)
    }
}
