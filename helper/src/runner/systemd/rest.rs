//! An old release whose service has stopped and whose socket stays, and how it starts again.

use super::bus::{Bus, Order};
use super::follow::Tracker;
use super::journal::Journal;
use super::unit::Unit;
use super::{Service, Spec, SystemdError, check, halt, launch, link, not_stopped};
use crate::runner::state::End;

/// A service that has been told to start behind its socket.
#[derive(Debug, Clone)]
pub struct Starting {
    spec: Spec,
    journal: Journal,
}

impl Starting {
    /// Waits until it has started.
    ///
    /// # Errors
    ///
    /// [`SystemdError`]; systemd may go on to start it.
    pub async fn wait(self) -> Result<Unit, SystemdError> {
        let mut bus = Bus::connect().await?;
        let objects = check(&mut bus, &self.spec).await?;
        // Nothing happens when it has started.
        launch(&mut bus, &self.spec, &objects, Order::Start, &self.journal).await
    }
}

impl Service {
    /// Stops it, and leaves its socket as it is: a connection starts the same release again. Gives the
    /// slot; none when nothing listens there.
    pub async fn retire(self) -> (End, Option<Self>) {
        let (spec, state) = (self.spec.clone(), self.state());
        if spec.socket().is_none() {
            return (self.stop().await, None);
        }
        self.unfollow().await;
        let service = spec.service();
        let (halted, journal) = tokio::join!(halt(&spec, false), Journal::from_now_on(&service));
        match halted {
            Ok((end, unit)) => (end, Some(Self::resting(spec, &unit, journal))),
            // Whatever it does, it is followed.
            Err(error) => {
                let (end, tracker) =
                    (not_stopped(&spec, &error), Tracker::resting(&Unit::default()));
                (end, Some(Self::follow(spec, tracker, state, journal)))
            }
        }
    }

    /// One that rests, or that a connection has started meanwhile. Whether its socket listens, the first
    /// look tells.
    pub(super) fn resting(spec: Spec, unit: &Unit, journal: Journal) -> Self {
        let mut tracker = Tracker::resting(unit);
        let state = tracker.look(unit, true, None);
        Self::follow(spec, tracker, state, journal)
    }

    /// Tells it to start behind its socket, which has to listen, and does not wait until it has:
    /// [`Service::starting`] does.
    ///
    /// # Errors
    ///
    /// [`SystemdError`], and the slot as it was.
    pub async fn rouse(self) -> Result<Self, (Self, SystemdError)> {
        match begin(&self.spec).await {
            Ok(()) => Ok(self),
            Err(error) => Err((self, error)),
        }
    }

    /// What waits until it has started.
    #[must_use]
    pub fn starting(&self) -> Starting {
        Starting { spec: self.spec.clone(), journal: self.journal.clone() }
    }

    /// From now on it is one that runs.
    pub async fn started(self, unit: &Unit) -> Self {
        let (spec, journal) = (self.spec.clone(), self.journal.clone());
        self.unfollow().await;
        Self::followed(spec, unit, journal)
    }
}

async fn begin(spec: &Spec) -> Result<(), SystemdError> {
    let mut bus = Bus::connect().await?;
    let objects = check(&mut bus, spec).await?;
    let listens = objects.listens && link::leads_to(&spec.link, &spec.folder);
    if let Some(unit) = spec.socket().filter(|_| !listens) {
        return Err(SystemdError::NotListening { unit, link: spec.link.clone() });
    }
    let name = spec.service();
    if objects.has_failed {
        // Of an earlier crash nothing is remembered.
        bus.reset_failed(&name).await?;
    }
    Ok(bus.begin(Order::Start, &name).await?)
}
