//! The daemon's start: what NGINX sends requests to has to run.
//!
//! A daemon that ended in order has stopped its releases, and one that was killed has left them
//! running. The latter are taken over where they are; of the former, the active one starts again.

use std::sync::Arc;
use std::time::Duration;

use shunt_api::ReleaseName;

use crate::daemon::app::App;
use crate::daemon::jobs::{Jobs, Reporter};
use crate::daemon::shared::Shared;
use crate::deploy::engine::Job;
use crate::log;
use crate::wire::{JobKind, Outcome, What};

/// How often to ask again for NGINX when it is not there yet.
const RETRY: Duration = Duration::from_secs(1);

/// A recovery that holds the application's lock, so that no other job meets it in the slots.
pub struct Recovery {
    app: Arc<App>,
    lock: Option<Reporter>,
}

impl Recovery {
    /// Takes over what still runs, and the lock; `None` when nothing ran. To be called before
    /// anybody can start a job.
    pub async fn begin(app: &Arc<App>, jobs: &Jobs) -> Option<Self> {
        let last = app.last_remembered().await?;
        app.adopt().await;
        let lock = jobs.begin(&app.config.name, JobKind::Recover, &last).ok();
        Some(Self { app: app.clone(), lock })
    }

    /// Runs as soon as NGINX tells which release is active. Until then there is no lock: jobs fail
    /// by themselves, with a better reason.
    pub async fn run(mut self, shared: &Shared) {
        loop {
            // NGINX may not be where the configuration said, and that may be mended by now.
            match shared.app(self.app.config.name.as_str()).await {
                Some(app) if app.is_same(&self.app) => self.app = app,
                _ => return,
            }
            let app = &self.app;
            match app.nginx.state().await {
                Ok(state) => {
                    let active = state.active;
                    app.settle(active.as_ref()).await;
                    app.end_leftovers(active.as_ref()).await;
                    self.take_back(active.as_ref()).await;
                    let remembered = match &active {
                        Some(active) => app.remembered(active).await.is_some(),
                        None => false,
                    };
                    let Some(active) = active.filter(|_| remembered) else { return };
                    let name = &app.config.name;
                    let lock = match self.lock.take() {
                        Some(lock) => Some(lock),
                        None => shared.jobs.begin(name, JobKind::Recover, &active).ok(),
                    };
                    if let Some(lock) = lock {
                        let job = Job::back_to(app, JobKind::Recover, active);
                        // What could not be started is tried again at the next start.
                        if job.run(&lock).await == Outcome::Done {
                            app.forget_stopped().await;
                        }
                        return;
                    }
                }
                Err(error) => {
                    if let Some(lock) = self.lock.take() {
                        let text = format!("{}: {error}; asking again", app.config.name);
                        lock.say(What::Ended { outcome: Outcome::Unreachable, text, cut: None });
                    }
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Takes back what was begun when the daemon ended and is not active. The next job decides about
    /// what cannot be taken back.
    async fn take_back(&self, active: Option<&ReleaseName>) {
        let app = &self.app;
        let Some(job) = app.underway().await else { return };
        if active == Some(&job.release) || job.ran || job.kind == JobKind::Switch {
            return;
        }
        let (name, release) = (&app.config.name, &job.release);
        match Job::take_back(app, &job).await {
            Ok(()) => {
                log::notice(format_args!(
                    "{name}: the {} of \"{release}\" is taken back",
                    job.kind
                ));
                app.end().await;
            }
            Err(why) => log::error(format_args!("{name}: {why}")),
        }
    }
}
