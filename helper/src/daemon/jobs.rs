//! Jobs: one at a time for each application, each with events that can be followed from any point.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use shunt_api::ReleaseName;
use tokio::sync::watch;

use crate::log;
use crate::wire::{Event, JobKind, JobStatus, Outcome, What};

/// How many jobs are remembered.
const REMEMBERED: usize = 100;

/// All jobs of a daemon.
#[derive(Default)]
pub struct Jobs {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    last: u64,
    jobs: VecDeque<Arc<Job>>,
}

/// A job that runs, or ran.
pub struct Job {
    /// Its number.
    pub id: u64,
    app: ReleaseName,
    kind: JobKind,
    release: ReleaseName,
    since: String,
    events: watch::Sender<Events>,
}

/// What has happened in a job until now.
#[derive(Debug, Clone, Default)]
pub struct Events {
    /// In their order; the ids count from 1.
    pub list: Vec<Event>,
    /// Whether more will come.
    pub ended: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half done under this lock.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Jobs {
    /// Begins a job, unless one runs for this application, which is given then.
    ///
    /// # Errors
    ///
    /// The job that runs.
    pub fn begin(
        &self,
        app: &ReleaseName,
        kind: JobKind,
        release: &ReleaseName,
    ) -> Result<Reporter, JobStatus> {
        let mut inner = lock(&self.inner);
        if let Some(running) = inner.running(app) {
            return Err(running.status());
        }
        inner.last += 1;
        let job = Arc::new(Job {
            id: inner.last,
            app: app.clone(),
            kind,
            release: release.clone(),
            since: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            events: watch::Sender::new(Events::default()),
        });
        inner.jobs.push_back(job.clone());
        while inner.jobs.len() > REMEMBERED {
            let ended = inner.jobs.iter().position(|job| job.events.borrow().ended);
            match ended {
                Some(at) => inner.jobs.remove(at),
                None => break,
            };
        }
        Ok(Reporter { job, start: Instant::now() })
    }

    /// The job that runs for an application.
    pub fn running(&self, app: &ReleaseName) -> Option<JobStatus> {
        lock(&self.inner).running(app).map(|job| job.status())
    }

    /// Follows a job.
    pub fn follow(&self, id: u64) -> Option<watch::Receiver<Events>> {
        let inner = lock(&self.inner);
        inner.jobs.iter().find(|job| job.id == id).map(|job| job.events.subscribe())
    }
}

impl Inner {
    fn running(&self, app: &ReleaseName) -> Option<&Arc<Job>> {
        self.jobs.iter().find(|job| job.app == *app && !job.events.borrow().ended)
    }
}

impl Job {
    fn status(&self) -> JobStatus {
        JobStatus {
            job: self.id,
            kind: self.kind,
            release: self.release.clone(),
            since: self.since.clone(),
        }
    }
}

/// Reports what happens in a job. When it is dropped, the job has ended, however that came.
pub struct Reporter {
    job: Arc<Job>,
    start: Instant,
}

impl Reporter {
    /// The job's number.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.job.id
    }

    /// Adds an event.
    pub fn say(&self, what: What) {
        let at = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.log(&what);
        let ended = matches!(what, What::Ended { .. });
        self.job.events.send_modify(|events| {
            let id = events.list.len() as u64 + 1;
            events.list.push(Event { id, at, what });
            events.ended |= ended;
        });
    }

    /// What the daemon's log has of a job: that it began, and how it ended.
    fn log(&self, what: &What) {
        match what {
            What::Began { app, job, release } => {
                log::info(format_args!(
                    "{app}: {job} of \"{release}\" begins, job {}",
                    self.job.id
                ));
            }
            What::Ended { outcome: Outcome::Done, text, cut: None } => log::notice(text),
            What::Ended { outcome: Outcome::Done, text, cut: Some(_) } => log::warning(text),
            What::Ended { text, .. } => log::error(text),
            What::Step { .. } | What::Done { .. } | What::Failed { .. } | What::Limit { .. } => {}
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.job.events.send_modify(|events| events.ended = true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ReleaseName {
        ReleaseName::new(text).unwrap()
    }

    #[test]
    fn p7_a_second_job_is_told_of_the_first() {
        let jobs = Jobs::default();
        let first = jobs.begin(&name("web"), JobKind::Deploy, &name("v1")).ok().unwrap();
        let locked = jobs.begin(&name("web"), JobKind::Rollback, &name("v0")).err().unwrap();
        assert_eq!((locked.job, locked.kind), (first.id(), JobKind::Deploy));
        assert!(jobs.begin(&name("shop"), JobKind::Deploy, &name("v1")).is_ok());
        drop(first);
        assert!(jobs.begin(&name("web"), JobKind::Rollback, &name("v0")).is_ok());
    }

    #[test]
    fn events_can_be_followed_from_the_start_after_the_end() {
        let jobs = Jobs::default();
        let reporter = jobs.begin(&name("web"), JobKind::Deploy, &name("v1")).ok().unwrap();
        let id = reporter.id();
        reporter.say(What::Ended { outcome: Outcome::Done, text: String::new(), cut: None });
        drop(reporter);
        let events = jobs.follow(id).unwrap().borrow().clone();
        assert!(events.ended);
        assert_eq!(events.list.iter().map(|e| e.id).collect::<Vec<_>>(), [1]);
        assert!(jobs.follow(id + 1).is_none());
    }
}
