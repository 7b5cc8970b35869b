//! What an earlier daemon has left: it is taken over, or ended.

use shunt_api::{Address, ReleaseName};

use crate::config::Runner;
use crate::deploy::app::App;
use crate::deploy::journal;
use crate::log;
use crate::runner::docker::{self, Container};
use crate::runner::external::External;
use crate::runner::leftover::Identity;
use crate::runner::process::Process;
use crate::runner::running::{Running, Spec};
use crate::runner::state::State;
use crate::runner::systemd::Service;

/// A release in a slot, as it is remembered.
#[derive(Debug, Clone)]
pub struct Occupant {
    /// The slot.
    pub slot: Address,
    /// Its process, when the daemon last knew.
    pub process: Option<Identity>,
}

impl App {
    /// Looks for containers of the application: they serve also when a daemon has forgotten them.
    pub async fn find_containers(&self) {
        let Runner::Docker(docker) = &self.config.run.runner else { return };
        match docker::find(&docker.socket, &self.config.name, &self.config.root).await {
            Ok(found) => {
                let mut inner = self.inner.lock().await;
                for (slot, release) in found {
                    let slot = journal::Slot::new(slot, release);
                    let is_it =
                        |s: &journal::Slot| s.slot == slot.slot && s.release == slot.release;
                    if !inner.remembered.slots.iter().any(is_it) {
                        inner.remembered.slots.push(slot);
                    }
                }
            }
            Err(error) => log::warning(format_args!("{}: {error}", self.config.name)),
        }
    }

    /// Takes over what an earlier daemon left running when it was killed. What cannot be taken over
    /// stays as it is, see [`App::end_leftovers`].
    pub async fn adopt(&self) {
        let mut remembered = self.inner.lock().await.remembered.slots.clone();
        if let Runner::Process { .. } = self.config.run.runner {
            for occupant in &mut remembered {
                if !occupant.process.is_some_and(Identity::is_alive) {
                    // It was started, or started again, and not written down any more.
                    let env = self.names(&occupant.slot, &occupant.release);
                    let env = env.each_ref().map(|(name, value)| (*name, value.as_str()));
                    occupant.process = Identity::find(&env);
                }
            }
        }
        self.inner.lock().await.remembered.slots = remembered.clone();
        self.resolve_all().await;
        for journal::Slot { slot, release, process, listens } in remembered {
            let name = &self.config.name;
            if !self.addresses().await.contains(&slot) {
                log::warning(format_args!("{name}: {slot} of \"{release}\" is no slot any more"));
                continue;
            }
            let found = match (self.spec(&slot, &release).await, process) {
                (Spec::Process(spec), None) if listens && spec.folder.exists() => {
                    let rests = Process::rest(spec).await;
                    rests.map(|rests| Some(Running::Process(rests))).map_err(|e| e.to_string())
                }
                (Spec::Process(_), None) => Ok(None),
                (Spec::Process(spec), Some(process)) => Process::adopt(spec, process)
                    .map(|process| Some(Running::Process(process)))
                    .map_err(|error| error.to_string()),
                (Spec::Systemd(spec), _) => Service::adopt(spec, listens)
                    .await
                    .map(|service| service.map(Running::Systemd))
                    .map_err(|error| error.to_string()),
                (Spec::Docker(spec), _) => Container::adopt(*spec)
                    .await
                    .map(|container| container.map(|c| Running::Docker(Box::new(c))))
                    .map_err(|error| error.to_string()),
                (Spec::External(slot), _) => Ok(Some(Running::External(External::new(slot)))),
            };
            match found {
                Ok(Some(running)) => {
                    let what = match running.state() {
                        State::Listens => "does not run, but its socket listens",
                        _ => "runs",
                    };
                    log::notice(format_args!(
                        "{name}: \"{release}\" in {slot} {what} and is taken over"
                    ));
                    self.add(&slot, &release, running).await;
                }
                Ok(None) => {}
                Err(error) => {
                    log::warning(format_args!(
                        "{name}: \"{release}\" in {slot} is not taken over: {error}"
                    ));
                }
            }
        }
    }

    /// Where a release ran when the daemon ended.
    pub async fn remembered(&self, release: &ReleaseName) -> Option<Occupant> {
        let inner = self.inner.lock().await;
        let slot = inner.remembered.slots.iter().find(|s| s.release == *release)?;
        Some(Occupant { slot: slot.slot.clone(), process: slot.process })
    }

    /// A release that an earlier daemon had something to do with; `None` when there is none.
    pub async fn last_remembered(&self) -> Option<ReleaseName> {
        let inner = self.inner.lock().await;
        let slot = inner.remembered.slots.last().map(|s| s.release.clone());
        slot.or_else(|| inner.remembered.underway.as_ref().map(|job| job.release.clone()))
    }

    /// Ends what an earlier daemon left running and could not be taken over, except for one
    /// release: that one serves until another process does.
    pub async fn end_leftovers(&self, except: Option<&ReleaseName>) {
        let inner = self.inner.lock().await;
        for slot in &inner.remembered.slots {
            let ours = inner.running.iter().any(|(s, _, _)| *s == slot.slot);
            if let Some(process) = slot.process.filter(|_| !ours && Some(&slot.release) != except) {
                process.terminate();
            }
        }
    }

    /// Forgets what is remembered but does not run.
    pub async fn forget_stopped(&self) {
        let mut inner = self.inner.lock().await;
        let running: Vec<Address> = inner.running.iter().map(|(s, _, _)| s.clone()).collect();
        inner.remembered.slots.retain(|s| running.contains(&s.slot));
        inner.save().await;
    }
}
