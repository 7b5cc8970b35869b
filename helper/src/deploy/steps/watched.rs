//! The release has requests of users, and NGINX's figures of it are watched.

use std::time::Duration;

use crate::clock::Span;
use crate::config::canary;
use crate::deploy::engine::{Job, unless_aborted};
use crate::deploy::failure::{Done, Failure};
use crate::deploy::guard::{self, Overruled, Verdict, Window};
use crate::wire::{Order, Outcome};

impl Job<'_> {
    /// The canary step that is next, or under way.
    pub(in crate::deploy) fn canary_step(&self) -> Option<canary::Step> {
        self.app.config.canary.as_ref()?.steps.get(self.canaries).copied()
    }

    /// NGINX sends a share of the requests to the release.
    pub(in crate::deploy) async fn canary(&mut self) -> Done {
        let (Some(step), Some(old)) = (self.canary_step(), self.old.clone()) else {
            return Ok(String::new());
        };
        let state = self.app.nginx.state().await?;
        if state.active.as_ref() != Some(&old) {
            return Err(Failure::overruled(state.active.as_ref()));
        }
        // It may be known already, from the step before or from the preview.
        let state = match state.release(self.release.as_str()) {
            Some(_) if self.announced => state,
            _ => self.announce(state.generation).await?,
        };
        let nginx = &self.app.nginx;
        nginx.canary(&self.release, step.share, state.generation).await?;
        let window = Window::canary(&self.release, &old, &state, step.time);
        let done = self.watch(window, step.time).await?;
        self.canaries += 1;
        Ok(done)
    }

    /// The release has all requests.
    pub(in crate::deploy) async fn guard(&mut self) -> Done {
        let limits = &self.app.config.guard;
        let Some((began, before)) = &self.figures else { return Ok(String::new()) };
        let old = self.old.as_ref();
        let window = Window::after_switch(&self.release, old, began, before, limits);
        self.watch(window, limits.time).await
    }

    /// Watches until the time is over, somebody has seen enough, or the release is certainly bad.
    async fn watch(&self, window: Window, time: Duration) -> Done {
        unless_aborted(self.report, self.see(window, time)).await
    }

    async fn see(&self, window: Window, time: Duration) -> Done {
        let limits = &self.app.config.guard;
        let verdict = tokio::select! {
            verdict = guard::watch(&self.app.nginx, limits, window) => verdict,
            () = self.report.ordered(Order::Promote) => return Ok("promoted by hand".to_owned()),
            how = self.ended() => Ok(Verdict::Failed(format!("its process ended with {how}"))),
        };
        match verdict {
            Ok(verdict) if verdict.switches_back(limits) => {
                let why = match &verdict {
                    Verdict::Failed(why) => why.clone(),
                    verdict => verdict.to_string(),
                };
                let lines = self.last_lines().await;
                Err(Failure { lines, ..Failure::new(Outcome::SwitchedBack, why) })
            }
            Ok(verdict) => Ok(format!("{verdict} ({})", Span(time))),
            Err(Overruled { active }) => Err(Failure::overruled(active.as_ref())),
        }
    }
}
