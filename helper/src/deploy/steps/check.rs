//! Is the release good? Asked before users meet it.

use shunt_api::{Address, ReleaseName};
use tokio::sync::watch;

use crate::config;
use crate::deploy::engine::{Job, unless_aborted};
use crate::deploy::failure::{Done, Failure};
use crate::health::{self, HealthError};
use crate::runner::state::{self, State};
use crate::runner::tail::Tail;
use crate::wire::Outcome;

/// How many lines of a log explain a failure.
const LOG_LINES: usize = 30;

impl Job<'_> {
    pub(in crate::deploy) async fn health(&self) -> Done {
        let slot = self.slot()?;
        if self.listens {
            self.app.started(slot).await.map_err(Failure::not_started)?;
        }
        // What has proved itself has to show only that it still works, but that in any case.
        let passes = if self.proven { 1 } else { self.app.config.health.pace.passes };
        self.check(slot, &self.release, passes).await?;
        Ok(if passes == 1 { "answers".to_owned() } else { format!("{passes} times in a row") })
    }

    /// Waits until a release in a slot has passed so many checks.
    pub(super) async fn check(
        &self,
        slot: &Address,
        release: &ReleaseName,
        passes: u32,
    ) -> Result<(), Failure> {
        let (watch, tail) = self.process(slot).await?;
        let job_config = self.app.job_config().await.map_err(Failure::not_started)?;
        let config = &job_config.health;
        let restarts = if self.proven { watch.borrow().restarts() } else { 0 };
        let pace = config::Pace { passes, ..config.pace.clone() };
        let config = config::Health { pace, ..config.clone() };
        let target = health::Target {
            app: &self.app.config.name,
            root: &self.app.config.root,
            slot,
            release,
            folder: &self.app.releases.of(release),
            user: job_config.run.user.as_ref(),
            env: &self.app.env(slot, release),
        };
        let waited = health::wait(&config, target, state::ended(watch, restarts)).await;
        unhealthy(waited, &tail).await
    }

    pub(in crate::deploy) async fn warm_up(&self) -> Done {
        let Some(config) = &self.app.config.warm_up else { return Ok(String::new()) };
        let slot = self.slot()?;
        let (watch, tail) = self.process(slot).await?;
        let report = health::warm_up::run(config, slot, from_now_on(watch)).await;
        let report = unhealthy(report, &tail).await?;
        Ok(match report.requests - report.good {
            0 => format!("{} requests", report.requests),
            bad => format!("{} requests, {bad} of them not answered well", report.requests),
        })
    }

    pub(in crate::deploy) async fn preview(&mut self) -> Done {
        let Some(config) = &self.app.config.preview else { return Ok(String::new()) };
        let slot = self.slot()?.clone();
        let state = self.app.nginx.state().await?;
        self.announce(state.generation).await?;
        let (watch, tail) = self.process(&slot).await?;
        let (nginx, ended) = (&self.app.nginx, from_now_on(watch));
        unless_aborted(self.report, async {
            let waited = health::preview::wait(config, &self.release, nginx, ended).await;
            unhealthy(waited, &tail).await?;
            Ok("answers through NGINX".to_owned())
        })
        .await
    }

    /// Whether a release runs in a slot, as far as is known.
    pub(super) async fn runs(&self, slot: &Address, release: &ReleaseName) -> bool {
        if self.app.slot_of(release).await.as_ref() != Some(slot) {
            return false;
        }
        match self.process(slot).await {
            Ok((watch, _)) => matches!(*watch.borrow(), State::Running { .. }),
            Err(_) => false,
        }
    }

    /// Waits for the end of the release's process, or a restart of it, from now on.
    pub(super) async fn ended(&self) -> String {
        let process = async { self.process(self.slot()?).await };
        match process.await {
            Ok((watch, _)) => from_now_on(watch).await,
            Err(failure) => failure.why,
        }
    }

    /// The end of what the release has said.
    pub(super) async fn last_lines(&self) -> Vec<String> {
        let Ok(slot) = self.slot() else { return Vec::new() };
        match self.process(slot).await {
            Ok((_, tail)) => tail.last_lines(LOG_LINES).await,
            Err(_) => Vec::new(),
        }
    }

    pub(super) fn slot(&self) -> Result<&Address, Failure> {
        let failed = || Failure::new(Outcome::Failed, "the release has no slot");
        self.slot.as_ref().ok_or_else(failed)
    }

    async fn process(&self, slot: &Address) -> Result<(watch::Receiver<State>, Tail), Failure> {
        let failed = || Failure::new(Outcome::Failed, "the release has no process");
        self.app.watch(slot).await.ok_or_else(failed)
    }
}

/// Waits for the end of a process, or one more restart of it.
fn from_now_on(watch: watch::Receiver<State>) -> impl Future<Output = String> {
    let restarts = watch.borrow().restarts();
    state::ended(watch, restarts)
}

/// What a check has failed with; the end of the application's log explains it.
async fn unhealthy<T>(checked: Result<T, HealthError>, tail: &Tail) -> Result<T, Failure> {
    match checked {
        Ok(done) => Ok(done),
        Err(error) => Err(Failure::unhealthy(&error, tail.last_lines(LOG_LINES).await)),
    }
}
