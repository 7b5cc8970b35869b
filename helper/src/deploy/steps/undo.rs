//! What was begun is taken back.

use std::time::Instant;

use shunt_api::{Address, InFlight, ReleaseName};

use super::retire::still_runs;
use crate::config::Strategy;
use crate::deploy::engine::Job;
use crate::deploy::failure::{Done, Failure};
use crate::file::blocking;
use crate::nginx::AGAIN;
use crate::runner::leftover;
use crate::runner::state::State;
use crate::wire::{JobKind, Outcome};

impl Job<'_> {
    /// Takes back what was begun: once NGINX has forgotten the release, nobody can switch to it and it
    /// can simply stop. As long as NGINX has not, it stays as it is.
    pub(in crate::deploy) async fn undo(&mut self) -> Done {
        let release = self.release.clone();
        if self.resumes.is_some() {
            // What a killed daemon has left of the steps.
            let (app, root) = (self.app.config.name.clone(), self.app.config.root.clone());
            let steps_of = release.clone();
            let ended = blocking(move || {
                leftover::end_steps(&app, &root, &steps_of);
                Ok(())
            });
            ended.await.map_err(|e| Failure::new(Outcome::Failed, e))?;
        }
        if self.resumes.as_ref().is_some_and(|job| job.ran || job.kind == JobKind::Switch) {
            return Ok("it had begun nothing".to_owned());
        }
        let mut done = Vec::new();
        // What NGINX still has in flight there, and whether that has been waited for.
        let (mut known, mut waited) = (InFlight::default(), false);
        if self.announced {
            self.end_canary().await?;
            let left = self.quieten().await?;
            known = self.forget(&release).await.map_err(|e| e.about(&still_runs(&release)))?;
            waited = left.is_some();
            if known.total() > 0 && left == Some(0) {
                let left = known.total();
                let why = format!("{}: it has {left} in flight", still_runs(&release));
                return Err(Failure::new(Outcome::Failed, why));
            }
        }
        let mut stopped = false;
        if self.strategy() == Strategy::InPlace
            && let Some(old) = self.old.clone()
        {
            if self.back_in_place(&old).await? {
                done.push(format!("\"{old}\" runs again"));
                stopped = true;
            }
        } else if let Some(slot) = self.app.slot_of(&release).await {
            self.app.stop(&slot).await;
            done.push("stopped".to_owned());
            stopped = true;
        }
        let is_left = known.total() > 0;
        if stopped && waited && is_left {
            self.cut = Some((release.clone(), known));
        }
        // What has waited in vain ends now, and what was cut off: NGINX forgets the release only then.
        let swept = match stopped && (self.listens || is_left) {
            true => self.sweep().await.map_err(|e| e.about(&still_known(&release))),
            false => Ok(()),
        };
        if self.origin() == JobKind::Deploy {
            // What runs no more needs no folder, whatever NGINX says.
            if self.remove_folder(&release).await? {
                done.push("its folder is removed".to_owned());
            }
        }
        swept?;
        Ok(match done.is_empty() {
            true => "there was nothing to take back".to_owned(),
            false => done.join(", "),
        })
    }

    /// Removes the release's folder, which may be a large one, and logs that nobody needs any more. Tells
    /// whether it was there.
    async fn remove_folder(&self, release: &ReleaseName) -> Result<bool, Failure> {
        let (releases, keep) = (self.app.releases.clone(), self.app.config.keep.releases);
        let (folder, release) = (releases.of(release), release.clone());
        let removed = blocking(move || {
            let was_there = folder.symlink_metadata().is_ok();
            let named = |e: std::io::Error| {
                std::io::Error::new(e.kind(), format!("{}: {e}", folder.display()))
            };
            releases.remove(&release).map_err(named)?;
            // Its own log stays for whoever looks for the reason.
            let named = |e: std::io::Error| {
                std::io::Error::new(e.kind(), format!("cannot remove a log: {e}"))
            };
            releases.prune_logs(keep).map_err(named)?;
            Ok(was_there)
        });
        removed.await.map_err(|e| Failure::new(Outcome::Failed, e))
    }

    /// No requests of users go to the release any more.
    async fn end_canary(&self) -> Result<(), Failure> {
        let nginx = &self.app.nginx;
        let end = Instant::now() + nginx.limit();
        loop {
            let state = nginx.state().await?;
            if state.canary.is_none_or(|canary| canary.release != self.release) {
                return Ok(());
            }
            match nginx.end_canary(state.generation).await {
                // Another change was faster: the next look tells.
                Err(error) if error.is_refused_with(412) && Instant::now() < end => {
                    tokio::time::sleep(AGAIN).await;
                }
                result => return Ok(result.map(|_| ())?),
            }
        }
    }

    /// Waits until the release has nothing in flight, up to the limits of a drain, and gives what it
    /// still has then; none if nobody would ever answer that. A daemon that is killed early has not told
    /// NGINX of it.
    async fn quieten(&self) -> Result<Option<u64>, Failure> {
        let nginx = &self.app.nginx;
        if nginx.state().await?.previous.as_ref() == Some(&self.release) {
            nginx.forget_previous().await?;
        }
        if self.listens && self.crashes().await {
            return Ok(None);
        }
        let drained = self.drained(&self.release, Instant::now()).await?;
        Ok(Some(drained.map_or(0, |(_, left)| left.total())))
    }

    /// Whether the release has ended by itself since it was started.
    async fn crashes(&self) -> bool {
        let state = self.in_slot().await;
        state.is_some_and(|state| !matches!(state, State::Running { restarts: 0, .. }))
    }

    /// The old release is in its slot again, and requests are let go, whatever comes of it. Tells whether
    /// it was started again.
    async fn back_in_place(&mut self, old: &ReleaseName) -> Result<bool, Failure> {
        let slot = match self.app.slot_of(old).await {
            Some(slot) => Some(slot),
            None => self.only_slot().ok(),
        };
        let restored = match slot {
            Some(slot) if self.app.releases.of(old).exists() => self.restore(&slot, old).await,
            // It is not ours to start.
            _ => Ok(false),
        };
        let resumed = if self.held { self.resume().await.map(|_| ()) } else { Ok(()) };
        let not_back = |failure: Failure| Failure::new(Outcome::NotSwitchedBack, failure.why);
        let restored = restored.map_err(not_back)?;
        resumed.map(|()| restored)
    }

    /// Lets a release run in a slot, in whose place another one may run there, and waits until it
    /// answers. Tells whether it had to be started.
    pub(super) async fn restore(
        &self,
        slot: &Address,
        release: &ReleaseName,
    ) -> Result<bool, Failure> {
        let ran = self.runs(slot, release).await;
        if !ran {
            if self.app.is_free(slot).await {
                let started = self.app.start(slot, release, self.unwritten()).await;
                started.map_err(Failure::not_started)?;
            } else {
                self.replace(slot, release).await?;
            }
        }
        self.check(slot, release, 1).await?;
        Ok(!ran)
    }
}

/// What is said of a release that has stopped and that NGINX could not be told of.
fn still_known(release: &ReleaseName) -> String {
    format!("\"{release}\" is stopped, but NGINX still has it")
}
