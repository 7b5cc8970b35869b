//! Old releases that have stopped and whose sockets listen: the first connection starts them, and so does
//! a rollback, which can switch to them before.

use shunt_api::{Address, ReleaseName};

use crate::deploy::app::{App, Unwritten};
use crate::runner::start::StartError;
use crate::runner::state::{End, State};

impl App {
    /// What runs where.
    pub async fn running(&self) -> Vec<(Address, ReleaseName)> {
        let inner = self.inner.lock().await;
        let running = inner.running.iter().filter(|(_, _, running)| !running.state().is_at_rest());
        running.map(|(slot, release, _)| (slot.clone(), release.clone())).collect()
    }

    /// What is in a slot.
    pub async fn occupant(&self, slot: &Address) -> Option<(ReleaseName, State)> {
        let inner = self.inner.lock().await;
        let found = inner.running.iter().find(|(s, _, _)| s == slot);
        found.map(|(_, release, running)| (release.clone(), running.state()))
    }

    /// Whether a release is in a slot and does not run there.
    pub async fn is_at_rest(&self, slot: &Address) -> bool {
        self.occupant(slot).await.is_some_and(|(_, state)| state.is_at_rest())
    }

    /// Whether a release runs.
    pub async fn runs(&self, release: &ReleaseName) -> bool {
        self.running().await.iter().any(|(_, running)| running == release)
    }

    /// Stops an old release. If that is wanted, its socket listens on in its slot, until that is needed.
    pub async fn retire(&self, slot: &Address) -> End {
        if !self.config.keep.socket {
            return self.stop(slot).await;
        }
        let (release, running) = {
            let mut inner = self.inner.lock().await;
            let Some((release, running)) = inner.take(slot) else { return End::ByItself };
            if running.state() == State::Listens {
                inner.running.push((slot.clone(), release, running));
                return End::ByItself;
            }
            // Written down before: what a daemon that is killed meanwhile has stopped, listens again
            // with the next one.
            let remembered = inner.remembered.slots.iter_mut().find(|s| s.slot == *slot);
            if let Some(remembered) = remembered {
                remembered.listens = true;
            }
            inner.save().await;
            (release, running)
        };
        let (end, rests) = running.retire(self.spec(slot, &release).await).await;
        match rests {
            Some(rests) => self.add(slot, &release, rests).await,
            None => self.forget_slot(slot).await,
        }
        end
    }

    /// Lets a release start whose socket listens, and does not wait until it has.
    ///
    /// # Errors
    ///
    /// [`StartError`]; then it does not run.
    pub async fn rouse(
        &self,
        slot: &Address,
        release: &ReleaseName,
        unwritten: Unwritten,
    ) -> Result<(), StartError> {
        let taken = self.inner.lock().await.take(slot);
        let Some((_, rests)) = taken else { return self.start(slot, release, unwritten).await };
        match rests.rouse(self.spec(slot, release).await).await {
            Ok(roused) => {
                self.add(slot, release, roused).await;
                Ok(())
            }
            Err(failed) => {
                let (rests, error) = *failed;
                self.add(slot, release, rests).await;
                Err(error)
            }
        }
    }

    /// Waits until a release has started that was roused.
    ///
    /// # Errors
    ///
    /// [`StartError`].
    pub async fn started(&self, slot: &Address) -> Result<(), StartError> {
        let starting = {
            let inner = self.inner.lock().await;
            let found = inner.running.iter().find(|(s, _, _)| s == slot);
            found.map(|(_, _, running)| running.starting())
        };
        let Some(starting) = starting else { return Ok(()) };
        let started = starting.wait().await?;
        let taken = self.inner.lock().await.take(slot);
        if let Some((release, running)) = taken {
            self.add(slot, &release, running.started(started).await).await;
        }
        Ok(())
    }

    /// Closes what only listens, of all slots or of those that are none any more.
    pub async fn close(&self, all: bool) {
        let slots = self.addresses().await;
        for (slot, _) in self.occupants().await {
            if (all || !slots.contains(&slot)) && self.is_at_rest(&slot).await {
                self.stop(&slot).await;
            }
        }
    }
}
