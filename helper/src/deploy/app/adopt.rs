//! What an earlier daemon has left: it is taken over, or ended.

use shunt_api::{Address, ReleaseName};

use crate::config::Runner;
use crate::deploy::app::App;
use crate::deploy::journal;
use crate::file::blocking;
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
                    let found = blocking(move || {
                        let env = env.each_ref().map(|(name, value)| (*name, value.as_str()));
                        Ok(Identity::find(&env))
                    });
                    occupant.process = found.await.ok().flatten();
                }
            }
        }
        self.inner.lock().await.remembered.slots = remembered.clone();
        self.resolve_all().await;
        for journal::Slot { slot, host, release, process, listens } in remembered {
            let name = &self.config.name;
            let slot = match host {
                Some(host) => self.place_of(&host, slot).await,
                None => slot,
            };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::deploy::app::Unwritten;
    use crate::deploy::journal::{Journal, Remembered, Safe};
    use std::path::Path;
    use std::sync::Arc;

    /// The application `web` with this root, in whose slot `v1` was when the daemon was killed, before
    /// its process was written down.
    async fn left(state: &Path, root: &Path, slot: &Address) -> App {
        std::fs::create_dir_all(state).unwrap();
        let text = format!(
            "name = \"web\"\nroot = {root:?}\nnginx = \"unix:/nowhere\"\n[run]\n\
             command = [\"sleep\", \"600\"]\nslots = [\"{slot}\", \"unix:/nowhere\"]"
        );
        let config = config::App::parse(&text).unwrap();
        let journal = Arc::new(Journal::open(state).unwrap());
        let v1 = ReleaseName::new("v1").unwrap();
        let slots = vec![journal::Slot::new(slot.clone(), v1)];
        let remembered = Remembered { slots, ..Remembered::default() };
        journal.remember(&config.name, &remembered, Safe::Kept).await.unwrap();
        App::new(config, &journal).await.unwrap()
    }

    #[tokio::test]
    async fn a_release_is_found_where_the_name_of_its_slot_leads_now() {
        let tmp = tempfile::tempdir().unwrap();
        let text = format!(
            "name = \"web\"\nroot = {:?}\nnginx = \"unix:/nowhere\"\n[run]\nrunner = \"external\"\n\
             slots = [\"localhost:1\", \"no-such-host.invalid:2\", \"127.0.0.1:3\"]",
            tmp.path().join("web")
        );
        let config = config::App::parse(&text).unwrap();
        let journal = Arc::new(Journal::open(tmp.path()).unwrap());
        let name = |text: &str| ReleaseName::new(text).unwrap();
        let slot = |address: &str, host: Option<&str>, release| journal::Slot {
            host: host.map(str::to_owned),
            ..journal::Slot::new(address.parse().unwrap(), name(release))
        };
        let slots = vec![
            // It was another machine.
            slot("127.0.0.9:1", Some("localhost:1"), "v1"),
            // Nobody knows it at the moment.
            slot("127.0.0.9:2", Some("no-such-host.invalid:2"), "v2"),
            // One that has no name, as all of an earlier version's.
            slot("127.0.0.1:3", None, "v3"),
            // It is no slot any more.
            slot("127.0.0.9:4", Some("other.invalid:4"), "v4"),
        ];
        let remembered = Remembered { slots, ..Remembered::default() };
        journal.remember(&config.name, &remembered, Safe::Kept).await.unwrap();
        let app = App::new(config, &journal).await.unwrap();
        app.adopt().await;
        let mut found = app.occupants().await;
        found.sort();
        let there = [("127.0.0.1:1", "v1"), ("127.0.0.1:3", "v3"), ("127.0.0.9:2", "v2")];
        assert_eq!(found, there.map(|(at, release)| (at.parse().unwrap(), name(release))));
        let inner = app.inner.lock().await;
        let first = inner.remembered.slots.iter().find(|slot| slot.release == name("v1")).unwrap();
        assert_eq!(first.slot, "127.0.0.1:1".parse().unwrap());
        assert_eq!(first.host.as_deref(), Some("localhost:1"));
    }

    #[tokio::test]
    async fn p9_what_runs_for_another_root_is_not_ours() {
        let tmp = tempfile::tempdir().unwrap();
        let slot = Address::Unix(tmp.path().join("slot.sock"));
        let (root, other) = (tmp.path().join("web"), tmp.path().join("other"));
        let first = left(&tmp.path().join("first"), &root, &slot).await;
        let v1 = ReleaseName::new("v1").unwrap();
        std::fs::create_dir_all(first.releases.of(&v1)).unwrap();
        first.start(&slot, &v1, Unwritten::Refused).await.unwrap();
        let process = async |app: &App| {
            app.adopt().await;
            app.remembered(&v1).await.unwrap().process
        };
        let stranger = left(&tmp.path().join("stranger"), &other, &slot).await;
        assert_eq!(process(&stranger).await, None);
        let next = left(&tmp.path().join("next"), &root, &slot).await;
        assert!(process(&next).await.is_some_and(Identity::is_alive));
        first.stop(&slot).await;
    }
}
