//! NGINX is told where requests go.

use std::time::{Duration, Instant};

use shunt_api::{NginxTime, ReleaseName, Upstream};

use crate::config::Strategy;
use crate::deploy::engine::Job;
use crate::deploy::failure::{Done, Failure};
use crate::nginx::{self, AGAIN};
use crate::wire::{JobKind, Outcome, Step, What};

/// For how many times the limit of a call an order is given that NGINX does not answer.
const PATIENCE: u32 = 3;

/// How often to look whether the requests are over that were there when the others were parked: all
/// of these wait as long.
const GLANCE: Duration = Duration::from_millis(10);

impl Job<'_> {
    /// Tells NGINX of the release, if the upstream is still at this generation.
    pub(super) async fn announce(&mut self, generation: u32) -> Result<Upstream, Failure> {
        let Some(slot) = self.slot.clone() else {
            let why = format!("\"{}\" is not running, deploy it", self.release);
            return Err(Failure::new(Outcome::Failed, why));
        };
        // Also when the answer gets lost.
        self.announced = true;
        Ok(self.app.nginx.put(&self.release, &slot, generation).await?)
    }

    /// Tells NGINX of the release and switches to it, unless somebody else changed something since.
    pub(in crate::deploy) async fn switch(&mut self) -> Done {
        let state = self.app.nginx.state().await?;
        let active = state.active.as_ref().filter(|active| **active != self.release);
        // What has to run again is active already.
        let expected = self.old.as_ref().filter(|_| self.kind != JobKind::Recover);
        if active != expected {
            return Err(Failure::overruled(state.active.as_ref()));
        }
        let state = self.announce(state.generation).await?;
        let generation = state.generation;
        if let Some((_, before)) = &mut self.figures {
            *before = state;
        }
        let release = self.release.clone();
        let generation = self.order(&release, generation).await?;
        self.app.settle(Some(&self.release)).await;
        if let Some(leftover) = self.leftover {
            leftover.terminate();
        }
        Ok(format!("generation {generation}"))
    }

    /// NGINX sends new requests to the old release again, which has been running all the time, or is
    /// started again in place.
    pub(in crate::deploy) async fn switch_back(&mut self) -> Done {
        let not_back = |why: String| Failure::new(Outcome::NotSwitchedBack, why);
        let Some(old) = self.old.clone() else {
            return Err(not_back("there is no release to go back to".to_owned()));
        };
        let state = self.app.nginx.state().await?;
        if state.active.as_ref() != Some(&self.release) {
            return Err(Failure::overruled(state.active.as_ref()));
        }
        let state = match self.strategy() {
            Strategy::BlueGreen if self.app.releases.of(&old).exists() => {
                match self.app.runs(&old).await {
                    true => state,
                    // The machine was switched off, or an earlier daemon has ended it.
                    false if self.resumes.is_some() => match self.start_old(&old, &state).await {
                        Ok(state) => state,
                        Err(failure) => {
                            // Better a release that is not good than none.
                            let _ = self.start().await;
                            return Err(not_back(failure.why));
                        }
                    },
                    false => return Err(not_back(format!("\"{old}\" does not run any more"))),
                }
            }
            // Another one than ours, as of NGINX's configuration: whoever runs it knows.
            Strategy::BlueGreen => state,
            Strategy::InPlace => {
                let slot = match &self.slot {
                    Some(slot) => slot.clone(),
                    // It is the old one already that runs there.
                    None => self.only_slot()?,
                };
                self.park(&self.release.clone()).await?;
                let back = self.put_back(&slot, &old).await;
                match back {
                    Ok(state) => state,
                    Err(failure) => {
                        // Better a release that is not good than none.
                        let _ = self.resume().await;
                        return Err(not_back(failure.why));
                    }
                }
            }
        };
        let generation = self.order(&old, state.generation).await?;
        self.app.unsettle(self.before.clone()).await;
        if self.held {
            self.resume().await?;
        }
        Ok(format!("generation {generation}"))
    }

    /// Starts the old release where it was, or where there is room, and tells NGINX.
    async fn start_old(
        &mut self,
        old: &ReleaseName,
        state: &Upstream,
    ) -> Result<Upstream, Failure> {
        let found = match self.app.remembered(old).await {
            Some(was) => self.app.named_slot(&was.slot.to_string(), state).await.ok(),
            None => None,
        };
        let slot = match found {
            Some(slot) => slot,
            None => self.free_slot().await?,
        };
        self.put_back(&slot, old).await
    }

    /// Puts the old release in its slot again, and tells NGINX.
    async fn put_back(
        &mut self,
        slot: &shunt_api::Address,
        old: &ReleaseName,
    ) -> Result<Upstream, Failure> {
        self.restore(slot, old).await?;
        let state = self.app.nginx.state().await?;
        Ok(self.app.nginx.put(old, slot, state.generation).await?)
    }

    /// Orders the switch until it is known what has come of it, and gives the generation.
    ///
    /// An order without an answer may take effect at any later time, but only as long as the upstream
    /// is at the generation that it names. So the same order is given again: one that is accepted, or
    /// another generation, settles all that were lost. What NGINX shows meanwhile proves nothing.
    pub(super) async fn order(
        &self,
        release: &ReleaseName,
        generation: u32,
    ) -> Result<u32, Failure> {
        let nginx = &self.app.nginx;
        let end = Instant::now() + nginx.limit() * PATIENCE;
        let mut lost = None;
        loop {
            let error = match nginx.switch(release, generation).await {
                Ok(reply) => return Ok(reply.generation),
                Err(error) => error,
            };
            if lost.is_none() && !error.is_uncertain() {
                return Err(error.into());
            }
            if error.is_refused_with(412)
                && let Ok(state) = nginx.state().await
                && state.generation != generation
            {
                return match state.active.as_ref() == Some(release) {
                    true => Ok(state.generation),
                    false => Err(error.into()),
                };
            }
            let lost = lost.get_or_insert(error);
            if Instant::now() >= end {
                return Err(Failure::uncertain(release, lost));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// NGINX parks new requests, and those that are under way end, up to the limit of a drain.
    pub(in crate::deploy) async fn hold(&mut self) -> Done {
        let Some(old) = self.old.clone() else { return Ok(String::new()) };
        let left = self.park(&old).await?;
        Ok(match left {
            0 => "nothing in flight".to_owned(),
            left => format!("{left} still in flight"),
        })
    }

    /// Parks new requests, and waits for those that a release has; gives how many are left at the limit
    /// of a drain. Upgraded connections are not waited for: everybody else would have to.
    async fn park(&mut self, release: &ReleaseName) -> Result<u64, Failure> {
        self.held = true;
        // A daemon that is killed now has to know it at its next start.
        self.intend().await?;
        let timeout = NginxTime::from(self.app.config.hold.timeout);
        let mut state = self.app.nginx.hold(timeout).await?;
        if self.step == Some(Step::Hold) && !state.holdable {
            let why = nginx::unheld(self.app.config.upstream());
            self.report.say(What::Warning { step: Step::Hold, why });
        }
        let end = Instant::now() + self.app.config.drain.timeout;
        loop {
            let left = state.release(release.as_str()).map_or(0, |r| r.in_flight.requests);
            if left == 0 || Instant::now() >= end {
                return Ok(left);
            }
            tokio::time::sleep(GLANCE).await;
            state = self.app.nginx.state().await?;
        }
    }

    /// NGINX lets the parked requests go.
    pub(in crate::deploy) async fn resume(&mut self) -> Done {
        let state = self.app.nginx.resume().await?;
        self.held = false;
        Ok(match state.parked {
            0 => String::new(),
            parked => format!("{parked} were waiting"),
        })
    }
}
