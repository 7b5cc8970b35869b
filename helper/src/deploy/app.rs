//! An application: its slots, what runs in them, and what is remembered of it.

mod adopt;
mod rest;
mod slots;
mod spec;
mod status;
mod unfinished;

use std::sync::Arc;

use shunt_api::{Address, ReleaseName, Upstream};
use tokio::sync::{Mutex, watch};

use crate::config::{self, Runner, Slot};
use crate::deploy::journal::{self, Journal, JournalError, Remembered, Safe, Underway};
use crate::deploy::releases::Releases;
use crate::log;
use crate::nginx::Client;
use crate::notify::Notifier;
use crate::runner::running::Running;
use crate::runner::start::StartError;
use crate::runner::state::{End, State};
use crate::runner::systemd::link;
use crate::runner::tail::Tail;
use crate::wire::JobStatus;

pub use adopt::Occupant;
pub use slots::SlotError;
pub use unfinished::Unfinished;

/// An application.
pub struct App {
    /// Its configuration.
    pub config: config::App,
    /// Its upstream in NGINX.
    pub nginx: Client,
    /// Its folder.
    pub releases: Releases,
    /// Who is told of its jobs.
    pub notifier: Notifier,
    inner: Arc<Mutex<Inner>>,
    unfinished: unfinished::Count,
}

struct Inner {
    name: ReleaseName,
    journal: Arc<Journal>,
    remembered: Remembered,
    running: Vec<(Address, ReleaseName, Running)>,
    /// Where slots were when they were last resolved that somebody else runs releases in.
    resolved: Vec<(Slot, Address)>,
    /// Set when the daemon ends: from then on nothing starts.
    closed: bool,
}

impl Inner {
    /// Writes what is remembered, with the processes as they are now.
    async fn write(&mut self, safe: Safe) -> Result<(), JournalError> {
        for (slot, _, running) in &self.running {
            let remembered = self.remembered.slots.iter_mut().find(|s| s.slot == *slot);
            let Some(remembered) = remembered else { continue };
            remembered.listens = running.state() == State::Listens;
            if let Some(process) = running.identity() {
                remembered.process = Some(process);
            }
        }
        self.journal.remember(&self.name, &self.remembered, safe).await
    }

    /// Writes down what is about to be started, for the case that the daemon is killed before it knows the
    /// process.
    async fn plan(
        &mut self,
        slot: &Address,
        release: &ReleaseName,
        unwritten: Unwritten,
    ) -> Result<journal::Slot, StartError> {
        let host = App::host_at(self, slot).map(|host| host.to_string());
        let planned = journal::Slot { host, ..journal::Slot::new(slot.clone(), release.clone()) };
        self.remembered.slots.push(planned.clone());
        match (self.write(Safe::Kept).await, unwritten) {
            (Ok(()), _) => Ok(planned),
            (Err(error), Unwritten::Obeyed) => {
                log::error(error);
                Ok(planned)
            }
            (Err(error), Unwritten::Refused) => {
                self.remembered.slots.pop();
                Err(StartError::Unwritten(Box::new(error)))
            }
        }
    }

    /// Takes out what is in a slot.
    fn take(&mut self, slot: &Address) -> Option<(ReleaseName, Running)> {
        let at = self.running.iter().position(|(s, _, _)| s == slot)?;
        let (_, release, running) = self.running.remove(at);
        Some((release, running))
    }

    /// As [`Inner::write`], where what is done goes on without it: the daemon then only remembers less
    /// after its next start.
    async fn save(&mut self) {
        if let Err(error) = self.write(Safe::Kept).await {
            log::error(error);
        }
    }
}

/// What becomes of an order to start a release that cannot be written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unwritten {
    /// It is refused.
    Refused,
    /// It is obeyed all the same: users are to be sent there, and a later daemon only knows less.
    Obeyed,
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

impl App {
    /// An application, with what is remembered of it in the journal.
    ///
    /// # Errors
    ///
    /// [`JournalError`].
    pub async fn new(config: config::App, journal: &Arc<Journal>) -> Result<Self, JournalError> {
        let (name, journal) = (config.name.clone(), journal.clone());
        let remembered = journal.remembered(&name).await?;
        let (running, resolved) = (Vec::new(), Vec::new());
        let inner = Inner { name, journal, remembered, running, resolved, closed: false };
        Ok(Self::around(config, Arc::new(Mutex::new(inner)), unfinished::Count::default()))
    }

    fn around(
        config: config::App,
        inner: Arc<Mutex<Inner>>,
        unfinished: unfinished::Count,
    ) -> Self {
        let (nginx, releases) = (Client::new(&config), Releases::new(&config.root));
        let notifier = Notifier::new(&config.notify);
        Self { config, nginx, releases, notifier, inner, unfinished }
    }

    /// The same application with another configuration. What runs is the same, and goes on as it was
    /// started.
    #[must_use]
    pub fn with(&self, config: config::App) -> Self {
        Self::around(config, self.inner.clone(), self.unfinished.clone())
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
        let running = self.running().await;
        let (slot, release) = running.first()?;
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
            let running = self.running().await;
            if let Some((slot, release)) = running.into_iter().find(|(s, _)| s == slot) {
                let why = format!("release \"{release}\" runs in it");
                let cure = "it is free after the next deploy";
                return Err(InUse { what: format!("slot {slot}"), why, cure });
            }
        }
        Ok(())
    }

    /// The slot that a release is in, be it that only its socket listens.
    pub async fn slot_of(&self, release: &ReleaseName) -> Option<Address> {
        let inner = self.inner.lock().await;
        inner.running.iter().find(|(_, r, _)| r == release).map(|(slot, _, _)| slot.clone())
    }

    /// Whether no release is in a slot.
    pub async fn is_free(&self, slot: &Address) -> bool {
        !self.inner.lock().await.running.iter().any(|(s, _, _)| s == slot)
    }

    /// Which release is in which slot.
    pub async fn occupants(&self) -> Vec<(Address, ReleaseName)> {
        let inner = self.inner.lock().await;
        inner.running.iter().map(|(slot, release, _)| (slot.clone(), release.clone())).collect()
    }

    /// Starts a release in a slot, where no other may run.
    ///
    /// # Errors
    ///
    /// [`StartError`].
    pub async fn start(
        &self,
        slot: &Address,
        release: &ReleaseName,
        unwritten: Unwritten,
    ) -> Result<(), StartError> {
        if self.is_at_rest(slot).await {
            // No connection may start it any more.
            self.stop(slot).await;
        }
        let planned = self.inner.lock().await.plan(slot, release, unwritten).await?;
        match Running::start(self.spec(slot, release).await).await {
            Ok(running) => {
                self.add(slot, release, running).await;
                Ok(())
            }
            Err(error) => {
                let mut inner = self.inner.lock().await;
                inner.remembered.slots.retain(|slot| *slot != planned);
                inner.save().await;
                Err(error)
            }
        }
    }

    /// Stops what runs in a slot and starts another release there, while its socket stays open. When
    /// that fails, the slot is still the old release's: nothing runs in it, connections wait, and the
    /// same call starts the old release again.
    ///
    /// # Errors
    ///
    /// [`StartError`].
    pub async fn replace(
        &self,
        slot: &Address,
        release: &ReleaseName,
        unwritten: Unwritten,
    ) -> Result<(), StartError> {
        let (old, running) = {
            let mut inner = self.inner.lock().await;
            let Some((old, running)) = inner.take(slot) else {
                drop(inner);
                return self.start(slot, release, unwritten).await;
            };
            if let Err(error) = inner.plan(slot, release, unwritten).await {
                inner.running.push((slot.clone(), old, running));
                return Err(error);
            }
            (old, running)
        };
        match running.replace(self.spec(slot, release).await).await {
            Ok(new) => {
                self.add(slot, release, new).await;
                Ok(())
            }
            Err(failed) => {
                let (held, error) = *failed;
                self.add(slot, &old, held).await;
                Err(error)
            }
        }
    }

    async fn add(&self, slot: &Address, release: &ReleaseName, running: Running) {
        let mut watch = running.watch();
        let mut inner = self.inner.lock().await;
        if inner.closed {
            drop(inner);
            running.shut_down().await;
            return;
        }
        if let Running::External(new) = &running {
            // Whoever runs releases there has put this one in place of another.
            let is_it =
                |old: &Running| matches!(old, Running::External(old) if old.slot() == new.slot());
            inner.running.retain(|(s, _, old)| s != slot && !is_it(old));
        }
        let host = match &running {
            Running::External(external) => match external.slot() {
                host @ Slot::Host { .. } => Some(host.to_string()),
                Slot::Address(_) => None,
            },
            Running::Process(_) | Running::Systemd(_) | Running::Docker(_) => None,
        };
        inner.running.push((slot.clone(), release.clone(), running));
        inner.remembered.slots.retain(|s| s.slot != *slot && s.release != *release);
        let there = journal::Slot { host, ..journal::Slot::new(slot.clone(), release.clone()) };
        inner.remembered.slots.push(there);
        inner.save().await;
        // Whenever it was started again, it is another process that the next daemon has to find.
        let inner = Arc::downgrade(&self.inner);
        tokio::spawn(async move {
            while watch.changed().await.is_ok() {
                let Some(inner) = inner.upgrade() else { return };
                inner.lock().await.save().await;
            }
        });
    }

    /// Stops what runs in a slot, so that nothing can start there any more. Tells how it ended.
    pub async fn stop(&self, slot: &Address) -> End {
        let taken = self.inner.lock().await.take(slot);
        let Some((_, running)) = taken else { return End::ByItself };
        let end = running.stop().await;
        // Only now: what a daemon that is killed meanwhile has not stopped, the next one finds.
        self.forget_slot(slot).await;
        end
    }

    async fn forget_slot(&self, slot: &Address) {
        let mut inner = self.inner.lock().await;
        inner.remembered.slots.retain(|s| s.slot != *slot);
        inner.save().await;
    }

    /// Stops everything that is the daemon's own, and remembers what ran for the next start. What systemd,
    /// Docker or somebody else runs serves on.
    pub async fn shut_down(&self) {
        let running = {
            let mut inner = self.inner.lock().await;
            inner.closed = true;
            std::mem::take(&mut inner.running)
        };
        let stops = running.into_iter().map(|(_, _, running)| running.shut_down());
        futures_util::future::join_all(stops).await;
    }

    /// Follows what runs in a slot.
    pub async fn watch(&self, slot: &Address) -> Option<(watch::Receiver<State>, Tail)> {
        let inner = self.inner.lock().await;
        let found = inner.running.iter().find(|(s, _, _)| s == slot);
        found.map(|(_, _, running)| (running.watch(), running.tail()))
    }

    /// What a job is about to do: written down before it does it.
    ///
    /// # Errors
    ///
    /// [`JournalError`]; then it must not be done.
    pub async fn intend(&self, intent: &Underway) -> Result<(), JournalError> {
        let mut inner = self.inner.lock().await;
        inner.remembered.underway = Some(intent.clone());
        inner.write(Safe::OnDisk).await
    }

    /// The job that is under way has ended.
    pub async fn end(&self) {
        let mut inner = self.inner.lock().await;
        inner.remembered.underway = None;
        inner.save().await;
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
        let last = Some(journal::Switch { from, to: job.release.clone() });
        if inner.remembered.last_switch != last {
            inner.remembered.last_switch = last;
            inner.save().await;
        }
    }

    /// The last switch that is known.
    pub async fn last_switch(&self) -> Option<journal::Switch> {
        self.inner.lock().await.remembered.last_switch.clone()
    }

    /// A switch was taken back: a rollback goes to where one would have gone before it.
    pub async fn unsettle(&self, before: Option<journal::Switch>) {
        let mut inner = self.inner.lock().await;
        inner.remembered.last_switch = before;
        inner.save().await;
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

    /// Releases that must not be removed: the active one, the previous one, what runs, and what a
    /// connection may start.
    pub async fn in_use(&self, active: Option<&ReleaseName>) -> Vec<ReleaseName> {
        let inner = self.inner.lock().await;
        let mut used: Vec<_> = active.into_iter().cloned().collect();
        used.extend(inner.remembered.last_switch.as_ref().map(|last| last.from.clone()));
        used.extend(inner.running.iter().map(|(_, release, _)| release.clone()));
        if let Runner::Systemd(_) = self.config.run.runner {
            let linked = link::all(&self.releases.slots());
            used.extend(linked.filter_map(|name| ReleaseName::new(&name).ok()));
        }
        used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn another_release_takes_a_slot_over_and_one_that_cannot_leaves_it_to_the_old() {
        let tmp = tempfile::tempdir().unwrap();
        let (root, slot) = (tmp.path().join("web"), tmp.path().join("a.sock"));
        let text = format!(
            "name = \"web\"\nroot = {root:?}\nnginx = \"unix:/nowhere\"\n[run]\n\
             command = [\"./server\"]\nslots = [\"unix:{}\", \"unix:/nowhere\"]",
            slot.display()
        );
        let config = config::App::parse(&text).unwrap();
        let journal = Arc::new(Journal::open(tmp.path()).unwrap());
        let app = App::new(config.clone(), &journal).await.unwrap();
        let [v1, v2, v3] = ["v1", "v2", "v3"].map(|name| ReleaseName::new(name).unwrap());
        for release in [&v1, &v3] {
            let program = app.releases.of(release).join("server");
            std::fs::create_dir_all(app.releases.of(release)).unwrap();
            std::fs::write(&program, "#!/bin/sh\nexec sleep 600\n").unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(&program, mode).unwrap();
        }
        let slot = Address::Unix(slot);
        app.start(&slot, &v1, Unwritten::Refused).await.unwrap();
        // It has no program.
        let error = app.replace(&slot, &v2, Unwritten::Refused).await.unwrap_err();
        assert!(matches!(error, StartError::Spawn { .. }), "{error}");
        assert_eq!(app.occupants().await, [(slot.clone(), v1.clone())]);
        let (watch, _) = app.watch(&slot).await.unwrap();
        assert_eq!(*watch.borrow(), State::Stopped);
        app.replace(&slot, &v1, Unwritten::Refused).await.unwrap();
        app.replace(&slot, &v3, Unwritten::Refused).await.unwrap();
        assert_eq!(app.occupants().await, [(slot.clone(), v3.clone())]);
        // And that is written down.
        let written = App::new(config, &journal).await.unwrap();
        let slots = written.inner.lock().await.remembered.slots.clone();
        let [journal::Slot { release, process: Some(process), .. }] = &slots[..] else {
            panic!("{slots:?}")
        };
        assert!(*release == v3 && process.is_alive());
        // Without a journal nothing is started that is not needed.
        let database = rusqlite::Connection::open(tmp.path().join(journal::FILE)).unwrap();
        database.execute_batch("ALTER TABLE apps RENAME TO gone").unwrap();
        let pid = process.pid;
        for error in [
            app.replace(&slot, &v1, Unwritten::Refused).await.unwrap_err(),
            app.start(&config_slot(), &v1, Unwritten::Refused).await.unwrap_err(),
        ] {
            assert!(matches!(error, StartError::Unwritten(_)), "{error}");
            assert!(error.to_string().contains("cannot be written down: "), "{error}");
        }
        assert_eq!(app.occupants().await, [(slot.clone(), v3.clone())]);
        let (watch, _) = app.watch(&slot).await.unwrap();
        assert!(matches!(*watch.borrow(), State::Running { pid: Some(same), .. } if same == pid));
        app.replace(&slot, &v1, Unwritten::Obeyed).await.unwrap();
        assert_eq!(app.occupants().await, [(slot.clone(), v1)]);
        assert_eq!(app.stop(&slot).await, End::ByItself);
    }

    /// The other slot.
    fn config_slot() -> Address {
        "unix:/nowhere".parse().unwrap()
    }
}
