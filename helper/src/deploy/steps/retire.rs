//! The old release ends, and what is not needed any more goes.

use std::time::{Duration, Instant};

use shunt_api::{InFlight, ReleaseName, Upstream};

use crate::clock::Span;
use crate::config::{self, Strategy};
use crate::deploy::engine::Job;
use crate::deploy::failure::{Done, Failure};
use crate::deploy::plan::Event;
use crate::deploy::sentence::count;
use crate::file::blocking;
use crate::nginx::{AGAIN, NginxError};
use crate::wire::Outcome;

/// How often to look for what NGINX cannot be waited for.
const LOOK: Duration = Duration::from_millis(100);

/// Within which time it is noticed that somebody has switched to what drains.
const NOTICE: Duration = Duration::from_secs(1);

/// How long NGINX may take to see that the connections to a stopped process are broken.
const SWEEP: Duration = Duration::from_secs(5);

impl Job<'_> {
    /// Waits until the old release has nothing in flight, each kind up to its own limit. NGINX that
    /// cannot be asked tells nothing: only what is known to have reached its limit is cut.
    pub(in crate::deploy) async fn drain(&self) -> Done {
        let Some(old) = &self.old else { return Ok(String::new()) };
        let nginx = &self.app.nginx;
        let start = Instant::now();
        // Without it something may still fall back to the old release, which is then in flight there
        // and waited for.
        let forgotten = nginx.forget_previous().await;
        let drained = self.drained(old, start).await;
        let drained = drained.map_err(|e| Failure::from(e).about(&still_runs(old)))?;
        let Some((state, left)) = drained else {
            return Ok("not in NGINX any more".to_owned());
        };
        if state.active.as_ref() != Some(&self.release) {
            return Err(Failure::overruled(state.active.as_ref()));
        }
        if left.total() > 0 {
            let why = format!(
                "\"{old}\" still has {} and {} in flight after {}",
                count(left.requests, "request"),
                count(left.upgraded, "upgraded connection"),
                Span(start.elapsed())
            );
            return Err(Failure { event: Event::Limit, ..Failure::new(Outcome::Done, why) });
        }
        Ok(match forgotten {
            Ok(_) => "nothing in flight".to_owned(),
            Err(error) => format!("nothing in flight, but it stays the previous one: {error}"),
        })
    }

    /// Waits until a release has nothing in flight, each kind up to its own limit from `start` on, or
    /// until it is active. Gives NGINX's state, and what the release has in flight then; `None` when
    /// NGINX does not know it.
    pub(super) async fn drained(
        &self,
        release: &ReleaseName,
        start: Instant,
    ) -> Result<Option<(Upstream, InFlight)>, NginxError> {
        let limits = Limits::new(start, &self.app.config.drain);
        let mut wait = Duration::ZERO;
        loop {
            let state = match self.app.nginx.drained(release, wait).await {
                Ok(state) => state,
                Err(error) if error.is_refused_with(404) => return Ok(None),
                Err(error) => return Err(error),
            };
            let left = state.release(release.as_str()).map(|r| r.in_flight).unwrap_or_default();
            match limits.wait(left, Instant::now()) {
                Some(next) if state.active.as_ref() != Some(release) => wait = next,
                _ => return Ok(Some((state, left))),
            }
        }
    }

    /// Stops the old release. It is deleted from NGINX first: that is refused if somebody has
    /// switched back to it, and afterwards nobody can.
    pub(in crate::deploy) async fn stop(&mut self) -> Done {
        let Some(old) = &self.old else { return Ok(String::new()) };
        let about = |e: Failure| e.about(&still_runs(old));
        let mut left = self.forget(old).await.map_err(about)?;
        if left.total() > 0 && !self.limit {
            // It had nothing when it was drained. Either somebody has switched to it and away again, or
            // NGINX is being upgraded: the old one had nothing, and the new one counts a request until
            // that has ended.
            let drained = self.drained(old, Instant::now()).await;
            drained.map_err(|e| about(e.into()))?;
            left = self.forget(old).await.map_err(about)?;
        }
        if left.total() > 0 && !self.limit {
            let why = format!("{}: it has {} in flight again", still_runs(old), left.total());
            return Err(Failure::new(Outcome::Done, why));
        }
        let note = match self.app.slot_of(old).await {
            None if self.strategy() == Strategy::InPlace => {
                "ended before the new one started".to_owned()
            }
            None => "not ours to stop".to_owned(),
            Some(slot) => {
                self.cut = (left.total() > 0).then(|| (old.clone(), left));
                let end = self.app.retire(&slot).await;
                match self.app.is_at_rest(&slot).await {
                    true => format!("{end}; its socket listens"),
                    false => end.to_string(),
                }
            }
        };
        self.sweep().await?;
        Ok(note)
    }

    /// Deletes a release from NGINX, if it is there by the API, and tells what it has in flight: with
    /// something, it stays.
    pub(super) async fn forget(&self, release: &ReleaseName) -> Result<InFlight, Failure> {
        let nginx = &self.app.nginx;
        let end = Instant::now() + nginx.limit();
        loop {
            let state = nginx.state().await?;
            if state.active.as_ref() == Some(release) {
                return Err(Failure::overruled(Some(release)));
            }
            let Some(known) = state.release(release.as_str()) else {
                return Ok(InFlight::default());
            };
            // An order without an answer may have come true by now.
            let is_canary = *release == self.release
                && state.canary.as_ref().is_some_and(|canary| canary.release == *release);
            if !is_canary
                && (known.source == shunt_api::Source::Config || known.in_flight.total() > 0)
            {
                return Ok(known.in_flight);
            }
            let changed = match is_canary {
                true => nginx.end_canary(state.generation).await,
                false => nginx.delete(release, state.generation).await,
            };
            match changed {
                Ok(_) if is_canary => {}
                Ok(_) => return Ok(InFlight::default()),
                // A request, a switch or another change was faster: the next look tells.
                Err(error)
                    if [404, 409, 412].iter().any(|s| error.is_refused_with(*s))
                        && Instant::now() < end =>
                {
                    tokio::time::sleep(AGAIN).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Deletes from NGINX what was in a slot of this application and runs no more: whoever goes
    /// there would meet another release.
    pub(super) async fn sweep(&self) -> Result<(), Failure> {
        let state = self.app.nginx.state().await?;
        let slots: Vec<String> =
            self.app.addresses().await.iter().map(ToString::to_string).collect();
        for known in &state.releases {
            let ours = known.source == shunt_api::Source::Api
                && known.servers.iter().all(|server| slots.contains(&server.address));
            if ours
                && state.active.as_ref() != Some(&known.name)
                && !self.app.runs(&known.name).await
            {
                // Its connections broke with its process, which NGINX sees in a moment.
                self.app.nginx.drained(&known.name, SWEEP).await?;
                // One that still has something in flight stays, for the next sweep.
                self.forget(&known.name).await?;
            }
        }
        Ok(())
    }

    pub(in crate::deploy) async fn publish(&self) -> Done {
        let (releases, release) = (self.app.releases.clone(), self.release.clone());
        blocking(move || releases.publish(&release))
            .await
            .map_err(|e| Failure::new(Outcome::Done, format!("cannot set \"current\": {e}")))?;
        Ok(format!("current -> releases/{}", self.release))
    }

    pub(in crate::deploy) async fn prune(&self) -> Done {
        let in_use = self.app.in_use(Some(&self.release)).await;
        let (releases, keep) = (self.app.releases.clone(), self.app.config.keep.releases);
        let out = blocking(move || releases.prune(keep, &in_use))
            .await
            .map_err(|e| Failure::new(Outcome::Done, format!("cannot remove a release: {e}")))?;
        Ok(match out.as_slice() {
            [] => "nothing to remove".to_owned(),
            some => {
                some.iter().map(ReleaseName::as_str).collect::<Vec<_>>().join(", ") + " removed"
            }
        })
    }
}

/// What is said of a release that should stop and does not.
pub(super) fn still_runs(release: &ReleaseName) -> String {
    format!("\"{release}\" is not stopped")
}

/// Until when the old release may have something in flight.
struct Limits {
    requests: Instant,
    upgraded: Instant,
}

impl Limits {
    fn new(start: Instant, drain: &config::Drain) -> Self {
        Self { requests: start + drain.timeout, upgraded: start + drain.upgraded_timeout }
    }

    /// How long to wait before looking again; `None` when nothing is waited for any more.
    fn wait(&self, left: InFlight, now: Instant) -> Option<Duration> {
        let kinds = [(left.requests, self.requests), (left.upgraded, self.upgraded)];
        let rest = |(n, end): &(u64, Instant)| (*n > 0).then(|| end.saturating_duration_since(now));
        // The first limit that is still to come.
        let next = kinds.iter().filter_map(rest).filter(|rest| !rest.is_zero()).min()?;
        // NGINX tells when both kinds have ended. While one is beyond its limit, only a look tells
        // when the other one has.
        let cut = kinds.iter().filter_map(rest).any(|rest| rest.is_zero());
        Some(next.min(if cut { LOOK } else { NOTICE }))
    }
}
