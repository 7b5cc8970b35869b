//! A release in its slot, whatever runs it.

use tokio::sync::watch;

use crate::config::Slot;
use crate::runner::docker::{self, Container};
use crate::runner::external::External;
use crate::runner::leftover::Identity;
use crate::runner::process::{self, Process};
use crate::runner::start::StartError;
use crate::runner::state::{End, State};
use crate::runner::systemd::{self, Service};
use crate::runner::tail::Tail;

/// What to run, and by whom.
#[derive(Debug, Clone)]
pub enum Spec {
    /// The daemon itself.
    Process(process::Spec),
    /// systemd.
    Systemd(systemd::Spec),
    /// Docker's Engine.
    Docker(Box<docker::Spec>),
    /// Somebody else, who does so already.
    External(Slot),
}

/// A release in its slot.
#[derive(Debug)]
pub enum Running {
    /// The daemon's own child, or that of an earlier one.
    Process(Process),
    /// A service of systemd's.
    Systemd(Service),
    /// A container of Docker's.
    Docker(Box<Container>),
    /// Somebody else's.
    External(External),
}

/// What waits until a release has started that was roused.
#[derive(Debug)]
pub enum Starting {
    /// It has.
    Already,
    /// systemd is at it.
    Systemd(systemd::Starting),
}

/// What is known of one that has.
#[derive(Debug)]
pub enum Started {
    /// Nothing more.
    Already,
    /// Its unit.
    Systemd(systemd::unit::Unit),
}

impl Starting {
    /// Waits.
    ///
    /// # Errors
    ///
    /// [`StartError`].
    pub async fn wait(self) -> Result<Started, StartError> {
        Ok(match self {
            Self::Already => Started::Already,
            Self::Systemd(starting) => Started::Systemd(starting.wait().await?),
        })
    }
}

impl Running {
    /// Starts a release in a slot that is free.
    ///
    /// # Errors
    ///
    /// [`StartError`]; then nothing of it runs.
    pub async fn start(spec: Spec) -> Result<Self, StartError> {
        Ok(match spec {
            Spec::Process(spec) => Self::Process(Process::start(spec).await?),
            Spec::Systemd(spec) => Self::Systemd(Service::start(spec).await?),
            Spec::Docker(spec) => Self::Docker(Box::new(Container::start(*spec).await?)),
            Spec::External(slot) => Self::External(External::new(slot)),
        })
    }

    /// Stops a release and starts another one in its place, while the slot's socket stays open, so that
    /// connections wait; a container has none that could.
    ///
    /// # Errors
    ///
    /// [`StartError`], and the slot: nothing should run there, but its socket is still open, and by the
    /// same call the old release can be started again.
    pub async fn replace(self, spec: Spec) -> Result<Self, Box<(Self, StartError)>> {
        match (self, spec) {
            (Self::Process(old), Spec::Process(spec)) => match old.replace(spec).await {
                Ok(new) => Ok(Self::Process(new)),
                Err((held, error)) => Err(Box::new((Self::Process(held), error))),
            },
            (Self::Systemd(old), Spec::Systemd(spec)) => match old.replace(spec).await {
                Ok(new) => Ok(Self::Systemd(new)),
                Err((held, error)) => Err(Box::new((Self::Systemd(held), error.into()))),
            },
            (Self::Docker(old), Spec::Docker(spec)) => match old.replace(*spec).await {
                Ok(new) => Ok(Self::Docker(Box::new(new))),
                Err((held, error)) => Err(Box::new((Self::Docker(Box::new(held)), error.into()))),
            },
            (Self::External(_), Spec::External(slot)) => Ok(Self::External(External::new(slot))),
            (old, _) => Err(Box::new((old, StartError::OtherRunner))),
        }
    }

    /// Stops it, and leaves its socket open: the first connection starts it again. Gives the slot; none
    /// when nothing listens there.
    pub async fn retire(self, spec: Spec) -> (End, Option<Self>) {
        match (self, spec) {
            (Self::Process(process), Spec::Process(spec)) => {
                let (end, rests) = process.retire(spec).await;
                (end, rests.map(Self::Process))
            }
            (Self::Systemd(service), Spec::Systemd(_)) => {
                let (end, rests) = service.retire().await;
                (end, rests.map(Self::Systemd))
            }
            // A container has no socket that could stay; and whatever has started the release, the
            // application may have another runner now.
            (running, _) => (running.stop().await, None),
        }
    }

    /// Lets a release start whose socket listens, and does not wait until it has: [`Running::starting`]
    /// does. Whoever connects waits as long.
    ///
    /// # Errors
    ///
    /// [`StartError`], and the slot.
    pub async fn rouse(self, spec: Spec) -> Result<Self, Box<(Self, StartError)>> {
        match (self, spec) {
            (Self::Systemd(service), Spec::Systemd(_)) => match service.rouse().await {
                Ok(service) => Ok(Self::Systemd(service)),
                Err((service, error)) => Err(Box::new((Self::Systemd(service), error.into()))),
            },
            // A process is started at once.
            (running, spec) => running.replace(spec).await,
        }
    }

    /// What waits until it has started that was roused.
    #[must_use]
    pub fn starting(&self) -> Starting {
        match self {
            Self::Systemd(service) => Starting::Systemd(service.starting()),
            Self::Process(_) | Self::Docker(_) | Self::External(_) => Starting::Already,
        }
    }

    /// From now on it is one that runs.
    pub async fn started(self, how: Started) -> Self {
        match (self, how) {
            (Self::Systemd(service), Started::Systemd(unit)) => {
                Self::Systemd(service.started(&unit).await)
            }
            (running, _) => running,
        }
    }

    /// What it is doing.
    #[must_use]
    pub fn state(&self) -> State {
        self.watch().borrow().clone()
    }

    /// Follows what it is doing.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<State> {
        match self {
            Self::Process(process) => process.watch(),
            Self::Systemd(service) => service.watch(),
            Self::Docker(container) => container.watch(),
            Self::External(external) => external.watch(),
        }
    }

    /// Where the last is that it has said.
    #[must_use]
    pub fn tail(&self) -> Tail {
        match self {
            Self::Process(process) => Tail::Log(process.log().clone()),
            Self::Systemd(service) => Tail::Journal(service.journal().clone()),
            Self::Docker(container) => container.logs().map_or(Tail::Elsewhere, Tail::Container),
            Self::External(_) => Tail::Elsewhere,
        }
    }

    /// Its process, if it is the daemon's own to end.
    #[must_use]
    pub fn identity(&self) -> Option<Identity> {
        match (self, self.state()) {
            (Self::Process(_), State::Running { pid: Some(pid), .. }) => Identity::of(pid),
            _ => None,
        }
    }

    /// Stops it, so that nothing can start in its slot any more; unless somebody else runs it.
    pub async fn stop(self) -> End {
        match self {
            Self::Process(process) => process.stop().await,
            Self::Systemd(service) => service.stop().await,
            Self::Docker(container) => container.stop().await,
            Self::External(_) => End::NotOurs,
        }
    }

    /// The daemon ends: what is its own child ends with it, and everything else serves on.
    pub async fn shut_down(self) {
        if let Self::Process(process) = self {
            process.stop().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_somebody_else_runs_is_neither_started_nor_stopped() {
        let slot: Slot = "127.0.0.1:1".parse().unwrap();
        // Nobody listens there.
        let running = Running::start(Spec::External(slot.clone())).await.unwrap();
        assert_eq!(running.state(), State::Running { pid: None, restarts: 0 });
        assert!(running.identity().is_none());
        assert_eq!(running.tail().last_lines(9).await, Vec::<String>::new());
        let running = running.replace(Spec::External(slot)).await.unwrap();
        assert_eq!(running.stop().await, End::NotOurs);
    }

    #[tokio::test]
    async fn a_slot_that_another_runner_holds_stays_as_it_is() {
        let slot: Slot = "127.0.0.1:1".parse().unwrap();
        let running = Running::start(Spec::External(slot)).await.unwrap();
        let spec = Spec::Systemd(systemd::Spec {
            name: "v1".to_owned(),
            units: crate::config::Units { unit: "web".to_owned(), socket: true },
            slot: "127.0.0.1:1".parse().unwrap(),
            link: "/nowhere".into(),
            folder: "/nowhere".into(),
        });
        let (running, error) = *running.replace(spec).await.unwrap_err();
        assert!(matches!(error, StartError::OtherRunner), "{error}");
        assert_eq!(running.state(), State::Running { pid: None, restarts: 0 });
    }
}
