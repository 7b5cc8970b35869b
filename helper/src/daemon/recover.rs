//! The daemon's start: what NGINX sends requests to has to run, and a job that was cut off is finished
//! or taken back.
//!
//! A daemon that ended in order has stopped its releases, and one that was killed has left them
//! running. The latter are taken over where they are; of the former, the active one starts again.

use std::sync::Arc;
use std::time::Duration;

use shunt_api::ReleaseName;

use crate::daemon::shared::Shared;
use crate::deploy::app::{App, Unfinished};
use crate::deploy::engine::Job;
use crate::deploy::jobs::{Jobs, Reporter};
use crate::deploy::journal::Underway;
use crate::wire::{JobKind, Outcome, What};

/// How often to ask again for NGINX when it is not there yet.
const RETRY: Duration = Duration::from_secs(1);

/// A recovery that holds the application's lock, so that no other job meets it in the slots.
pub struct Recovery {
    app: Arc<App>,
    lock: Option<Reporter>,
    /// What other jobs have to wait for, also while there is no lock.
    _unfinished: Option<Unfinished>,
}

impl Recovery {
    /// Takes the lock; `None` when nothing ran. To be called before anybody can start a job. Nothing is
    /// asked of a runner yet: one that does not answer is its own application's matter.
    pub async fn begin(app: &Arc<App>, jobs: &Jobs) -> Option<Self> {
        let last = app.last_remembered().await?;
        let _unfinished = app.left_before().await;
        let lock = jobs.begin(&app.config.name, JobKind::Recover, &last).ok();
        Some(Self { app: app.clone(), lock, _unfinished })
    }

    /// Takes back what a job has left that has ended, as NGINX could not be asked.
    pub async fn of_left(app: &Arc<App>, job: u64, unfinished: Unfinished, shared: &Shared) {
        let mut recovery = Self { app: app.clone(), lock: None, _unfinished: Some(unfinished) };
        loop {
            let left = app.underway().await.filter(|left| left.job == job);
            let Some(left) = left else { return };
            if let Ok(state) = app.nginx.state().await {
                if state.active.as_ref() == Some(&left.release) {
                    // Somebody has switched to it, and wants it.
                    return;
                }
                let ended = recovery.recover(shared, left.release.clone(), Some(left)).await;
                if ended.is_some_and(|outcome| outcome != Outcome::Unreachable) {
                    return;
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Takes over what still runs, and goes on as soon as NGINX tells which release is active. While that
    /// is waited for there is no lock: jobs fail by themselves, with a better reason.
    pub async fn run(mut self, shared: &Shared) {
        self.app.adopt().await;
        loop {
            // NGINX may not be where the configuration said, and that may be mended by now.
            match shared.app(self.app.config.name.as_str()).await {
                Some(app) if app.is_same(&self.app) => self.app = app,
                _ => return,
            }
            match self.app.nginx.state().await {
                Ok(state) => {
                    let active = state.active;
                    self.app.settle(active.as_ref()).await;
                    self.app.end_leftovers(active.as_ref()).await;
                    if self.finish(shared, active.as_ref()).await {
                        return;
                    }
                }
                Err(error) => {
                    if let Some(lock) = self.lock.take() {
                        let text = format!("{}: {error}; asking again", self.app.config.name);
                        lock.say(What::Ended { outcome: Outcome::Unreachable, text, cut: None });
                    }
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Takes back what was begun and is not active, and lets the active release run. Tells whether
    /// that is all; else another job runs, and it is tried again after that.
    async fn finish(&mut self, shared: &Shared, active: Option<&ReleaseName>) -> bool {
        let mut cut_off = self.app.underway().await;
        if let Some(job) = cut_off.take_if(|job| active != Some(&job.release)) {
            // The next job decides about what cannot be taken back.
            let is_begun = !job.ran && job.kind != JobKind::Switch;
            if is_begun && self.recover(shared, job.release.clone(), Some(job)).await.is_none() {
                return false;
            }
        }
        let Some(active) = active else { return true };
        if cut_off.is_none() && self.app.remembered(active).await.is_none() {
            return true;
        }
        match self.recover(shared, active.clone(), cut_off).await {
            Some(outcome) => {
                // What could not be started is tried again at the next start.
                if outcome == Outcome::Done {
                    self.app.forget_stopped().await;
                }
                true
            }
            None => false,
        }
    }

    /// Runs a job, unless another one does.
    async fn recover(
        &mut self,
        shared: &Shared,
        release: ReleaseName,
        cut_off: Option<Underway>,
    ) -> Option<Outcome> {
        let name = &self.app.config.name;
        let lock = match self.lock.take() {
            Some(lock) => lock,
            None => shared.jobs.begin(name, JobKind::Recover, &release).ok()?,
        };
        Some(Job::recover(&self.app, &lock, release, cut_off).run().await)
    }
}
