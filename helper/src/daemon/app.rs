//! An application in the daemon: its slots, what runs in them, and what is remembered of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use shunt_api::{Address, ReleaseName, Upstream};
use tokio::sync::{Mutex, watch};

use crate::config;
use crate::daemon::state::{self, Remembered, Underway};
use crate::deploy::releases::Releases;
use crate::log;
use crate::nginx::Client;
use crate::runner::leftover::Identity;
use crate::runner::log::Log;
use crate::runner::process::{Process, Spec, StartError, State};
use crate::wire::{AppStatus, JobStatus, ReleaseStatus, SlotStatus};

/// An application.
pub struct App {
    /// Its configuration.
    pub config: config::App,
    /// Its upstream in NGINX.
    pub nginx: Client,
    /// Its folder.
    pub releases: Releases,
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    remembered: Remembered,
    running: Vec<(Address, ReleaseName, Process)>,
    /// Set when the daemon ends: from then on nothing starts.
    closed: bool,
    file: PathBuf,
}

impl Inner {
    /// Writes what is remembered, with the processes as they are now.
    fn save(&mut self) {
        for (slot, _, process) in &self.running {
            let remembered = self.remembered.slots.iter_mut().find(|s| s.slot == *slot);
            if let (Some(remembered), State::Running { pid, .. }) = (remembered, process.state()) {
                remembered.process = Identity::of(pid);
            }
        }
        // Without the file the daemon goes on; it only remembers less after its next start.
        if let Err(error) = self.remembered.write(&self.file) {
            log::error(format_args!("cannot write {}: {error}", self.file.display()));
        }
    }
}

/// Why a part of the configuration cannot change now.
#[derive(Debug)]
pub struct InUse {
    /// The part.
    pub what: String,
    /// Who uses it.
    pub why: String,
    /// What to do.
    pub cure: &'static str,
}

/// A release in a slot, as it is remembered.
#[derive(Debug, Clone)]
pub struct Occupant {
    /// The slot.
    pub slot: Address,
    /// Its process, when the daemon last knew.
    pub process: Option<Identity>,
}

impl App {
    /// An application, with what is remembered of it in the state folder.
    ///
    /// # Errors
    ///
    /// What is wrong with the file.
    pub fn new(config: config::App, state: &Path) -> std::io::Result<Self> {
        let file = state.join(format!("{}.json", config.name));
        let remembered = Remembered::read(&file)?;
        let inner = Inner { remembered, running: Vec::new(), closed: false, file };
        let (nginx, releases) = (Client::new(&config), Releases::new(&config.root));
        Ok(Self { config, nginx, releases, inner: Arc::new(Mutex::new(inner)) })
    }

    /// The same application with another configuration. What runs is the same, and goes on as it was
    /// started.
    #[must_use]
    pub fn with(&self, config: config::App) -> Self {
        let (nginx, releases) = (Client::new(&config), Releases::new(&config.root));
        Self { config, nginx, releases, inner: self.inner.clone() }
    }

    /// Whether this is the same application, be it with another configuration.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Why the application is needed as it is: a job or a release runs.
    pub async fn is_needed(&self, job: Option<&JobStatus>) -> Option<String> {
        if let Some(JobStatus { job, kind, release, .. }) = job {
            return Some(format!("job {job} ({kind} \"{release}\") runs"));
        }
        let occupants = self.occupants().await;
        let (slot, release) = occupants.first()?;
        Some(format!("release \"{release}\" runs in {slot}"))
    }

    /// Whether another configuration leaves what is in use where it is.
    ///
    /// # Errors
    ///
    /// [`InUse`].
    pub async fn may_become(
        &self,
        config: &config::App,
        job: Option<&JobStatus>,
    ) -> Result<(), InUse> {
        let Some(why) = self.is_needed(job).await else { return Ok(()) };
        let in_use = |what: String, cure| Err(InUse { what, why: why.clone(), cure });
        if config.root != self.config.root {
            let cure = "stop shuntd, move the folder, and start it again";
            return in_use("\"root\"".to_owned(), cure);
        }
        if config.upstream() != self.config.upstream() {
            return in_use("\"upstream\"".to_owned(), "restart shuntd");
        }
        for slot in self.config.run.slots.iter().filter(|s| !config.run.slots.contains(s)) {
            // A job may be about to use any of them.
            if job.is_some() {
                return in_use(format!("slot {slot}"), "wait for its end");
            }
            let occupants = self.occupants().await;
            if let Some((slot, release)) = occupants.into_iter().find(|(s, _)| s == slot) {
                let why = format!("release \"{release}\" runs in it");
                let cure = "it is free after the next deploy";
                return Err(InUse { what: format!("slot {slot}"), why, cure });
            }
        }
        Ok(())
    }

    /// Takes over what an earlier daemon left running when it was killed. What cannot be taken over
    /// stays as it is, see [`App::end_leftovers`].
    pub async fn adopt(&self) {
        let mut remembered = self.inner.lock().await.remembered.slots.clone();
        for occupant in &mut remembered {
            if !occupant.process.is_some_and(Identity::is_alive) {
                // It was started, or started again, and not written down any more.
                let env = self.names(&occupant.slot, &occupant.release);
                let env = env.each_ref().map(|(name, value)| (*name, value.as_str()));
                occupant.process = Identity::find(&env);
            }
        }
        self.inner.lock().await.remembered.slots = remembered.clone();
        for state::Slot { slot, release, process } in remembered {
            let Some(process) = process else { continue };
            let name = &self.config.name;
            if !self.config.run.slots.contains(&slot) {
                log::warning(format_args!("{name}: {slot} of \"{release}\" is no slot any more"));
                continue;
            }
            match Process::adopt(self.spec(&slot, &release), process) {
                Ok(process) => {
                    log::notice(format_args!(
                        "{name}: \"{release}\" runs in {slot} and is taken over"
                    ));
                    self.add(&slot, &release, process).await;
                }
                Err(error) => {
                    log::warning(format_args!(
                        "{name}: \"{release}\" in {slot} is not taken over: {error}"
                    ));
                }
            }
        }
    }

    /// The slot that a release runs in.
    pub async fn slot_of(&self, release: &ReleaseName) -> Option<Address> {
        let inner = self.inner.lock().await;
        inner.running.iter().find(|(_, r, _)| r == release).map(|(slot, _, _)| slot.clone())
    }

    /// A slot that nothing runs in.
    pub async fn free_slot(&self) -> Option<Address> {
        let inner = self.inner.lock().await;
        let taken = |slot: &Address| inner.running.iter().any(|(s, _, _)| s == slot);
        self.config.run.slots.iter().find(|slot| !taken(slot)).cloned()
    }

    /// Whether nothing runs in a slot.
    pub async fn is_free(&self, slot: &Address) -> bool {
        !self.inner.lock().await.running.iter().any(|(s, _, _)| s == slot)
    }

    /// What runs where.
    pub async fn occupants(&self) -> Vec<(Address, ReleaseName)> {
        let inner = self.inner.lock().await;
        inner.running.iter().map(|(slot, release, _)| (slot.clone(), release.clone())).collect()
    }

    /// Starts a release in a slot.
    ///
    /// # Errors
    ///
    /// [`StartError`].
    pub async fn start(&self, slot: &Address, release: &ReleaseName) -> Result<(), StartError> {
        // Written down before, for the case that the daemon is killed before it knows the process.
        let planned = state::Slot { slot: slot.clone(), release: release.clone(), process: None };
        {
            let mut inner = self.inner.lock().await;
            inner.remembered.slots.push(planned.clone());
            inner.save();
        }
        match Process::start(self.spec(slot, release)).await {
            Ok(process) => {
                self.add(slot, release, process).await;
                Ok(())
            }
            Err(error) => {
                let mut inner = self.inner.lock().await;
                inner.remembered.slots.retain(|slot| *slot != planned);
                inner.save();
                Err(error)
            }
        }
    }

    /// What tells a process, and whoever looks for it, what it is.
    fn names(&self, slot: &Address, release: &ReleaseName) -> [(&'static str, String); 3] {
        [
            ("RELEASE", release.to_string()),
            ("SHUNT_APP", self.config.name.to_string()),
            ("SHUNT_SLOT", slot.to_string()),
        ]
    }

    /// The environment of a release, beyond the daemon's own and what the runner adds.
    pub fn env(&self, slot: &Address, release: &ReleaseName) -> BTreeMap<String, String> {
        let mut env = self.config.run.env.clone();
        env.extend(self.names(slot, release).map(|(name, value)| (name.to_owned(), value)));
        env
    }

    fn spec(&self, slot: &Address, release: &ReleaseName) -> Spec {
        Spec {
            name: format!("{}: \"{release}\" in {slot}", self.config.name),
            command: self.config.run.command.clone(),
            folder: self.releases.of(release),
            slot: slot.clone(),
            user: self.config.run.user.clone(),
            env: self.env(slot, release),
            log: self.releases.log(release),
            stop_timeout: self.config.run.stop_timeout,
        }
    }

    async fn add(&self, slot: &Address, release: &ReleaseName, process: Process) {
        let mut watch = process.watch();
        let mut inner = self.inner.lock().await;
        if inner.closed {
            drop(inner);
            process.stop().await;
            return;
        }
        inner.running.push((slot.clone(), release.clone(), process));
        inner.remembered.slots.retain(|s| s.slot != *slot && s.release != *release);
        let (slot, release) = (slot.clone(), release.clone());
        inner.remembered.slots.push(state::Slot { slot, release, process: None });
        inner.save();
        // Whenever it was started again, it is another process that the next daemon has to find.
        let inner = Arc::downgrade(&self.inner);
        tokio::spawn(async move {
            while watch.changed().await.is_ok() {
                let Some(inner) = inner.upgrade() else { return };
                inner.lock().await.save();
            }
        });
    }

    /// Stops what runs in a slot. Tells whether it ended by itself.
    pub async fn stop(&self, slot: &Address) -> bool {
        let process = {
            let mut inner = self.inner.lock().await;
            let Some(at) = inner.running.iter().position(|(s, _, _)| s == slot) else {
                return true;
            };
            let (_, _, process) = inner.running.remove(at);
            inner.remembered.slots.retain(|s| s.slot != *slot);
            inner.save();
            process
        };
        process.stop().await
    }

    /// Stops everything, and remembers what ran for the next start.
    pub async fn shut_down(&self) {
        let running = {
            let mut inner = self.inner.lock().await;
            inner.closed = true;
            std::mem::take(&mut inner.running)
        };
        let stops = running.into_iter().map(|(_, _, process)| process.stop());
        futures_util::future::join_all(stops).await;
    }

    /// Follows what runs in a slot.
    pub async fn watch(&self, slot: &Address) -> Option<(watch::Receiver<State>, Log)> {
        let inner = self.inner.lock().await;
        let found = inner.running.iter().find(|(s, _, _)| s == slot);
        found.map(|(_, _, process)| (process.watch(), process.log().clone()))
    }

    /// A job begins: written down before it does anything.
    pub async fn begin(&self, job: Underway) {
        let mut inner = self.inner.lock().await;
        inner.remembered.underway = Some(job);
        inner.save();
    }

    /// The job that is under way has ended.
    pub async fn end(&self) {
        let mut inner = self.inner.lock().await;
        inner.remembered.underway = None;
        inner.save();
    }

    /// The job that is written down: when none runs, it was cut off.
    pub async fn underway(&self) -> Option<Underway> {
        self.inner.lock().await.remembered.underway.clone()
    }

    /// Draws the conclusion from which release NGINX has active: if the job that is under way has
    /// switched to it, a rollback goes to where it came from.
    pub async fn settle(&self, active: Option<&ReleaseName>) {
        let mut inner = self.inner.lock().await;
        let Some(job) = &inner.remembered.underway else { return };
        let Some(from) = job.old.clone().filter(|_| active == Some(&job.release)) else { return };
        let last = Some(state::Switch { from, to: job.release.clone() });
        if inner.remembered.last_switch != last {
            inner.remembered.last_switch = last;
            inner.save();
        }
    }

    /// The release that was active before the one that NGINX has active now: a rollback goes there.
    pub async fn previous(&self, state: &Upstream) -> Option<ReleaseName> {
        // Whoever switched, NGINX knows, until it is told to forget it, which a drain begins with. Then
        // it is known here, unless somebody has switched since.
        if state.previous.is_some() {
            return state.previous.clone();
        }
        let inner = self.inner.lock().await;
        let last = inner.remembered.last_switch.as_ref()?;
        (state.active.as_ref() == Some(&last.to)).then(|| last.from.clone())
    }

    /// As [`App::previous`], when NGINX cannot be asked: if nobody else has switched.
    pub async fn last_previous(&self) -> Option<ReleaseName> {
        let inner = self.inner.lock().await;
        inner.remembered.last_switch.as_ref().map(|last| last.from.clone())
    }

    /// Releases that must not be removed: the active one, the previous one, what runs.
    pub async fn in_use(&self, active: &ReleaseName) -> Vec<ReleaseName> {
        let inner = self.inner.lock().await;
        let mut used = vec![active.clone()];
        used.extend(inner.remembered.last_switch.as_ref().map(|last| last.from.clone()));
        used.extend(inner.running.iter().map(|(_, release, _)| release.clone()));
        used
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
        inner.save();
    }

    /// As the API shows it; the job is the caller's to add.
    pub async fn status(&self) -> AppStatus {
        let (state, nginx_error) = match self.nginx.state().await {
            Ok(state) => (Some(state), None),
            Err(error) => (None, Some(error.to_string())),
        };
        let previous = match &state {
            Some(state) => self.previous(state).await,
            None => self.last_previous().await,
        };
        let inner = self.inner.lock().await;
        let slots = self.config.run.slots.iter().map(|slot| {
            let found = inner.running.iter().find(|(s, _, _)| s == slot);
            let (pid, restarts) = match found.map(|(_, _, process)| process.state()) {
                Some(State::Running { pid, restarts }) => (Some(pid), restarts),
                Some(State::Ended { restarts, .. }) => (None, restarts),
                Some(State::Stopped) | None => (None, 0),
            };
            let release = found.map(|(_, release, _)| release.clone());
            SlotStatus { address: slot.clone(), release, pid, restarts }
        });
        let slots: Vec<_> = slots.collect();
        let releases = state.iter().flat_map(|state| &state.releases).map(|known| {
            let slot = inner.running.iter().find(|(_, release, _)| *release == known.name);
            let slot = slot.map(|(slot, _, _)| slot.clone());
            ReleaseStatus { name: known.name.clone(), slot, in_flight: known.in_flight }
        });
        AppStatus {
            name: self.config.name.clone(),
            upstream: self.config.upstream().to_owned(),
            active: state.as_ref().and_then(|s| s.active.clone()),
            previous,
            generation: state.as_ref().map(|s| s.generation),
            releases: releases.collect(),
            nginx_error,
            slots,
            job: None,
        }
    }
}
