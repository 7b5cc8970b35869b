//! What a worker has of its own: a row in each zone, and the views of the releases that it has met.

use nginx_sys::ngx_log_t;
use shunt_switch::follower::{Admitted, Follower, Parking, Wishes};
use shunt_switch::table::Entry;
use shunt_switch::worker::Identity;
use shunt_switch::zone::Row;
use shunt_switch::{Zone, ZoneError};

use crate::conf::{MainConf, UpstreamConf};
use crate::lock::Lock;
use crate::view::{View, ViewError};
use crate::zone;

/// A worker's part of a configuration.
pub struct Worker {
    zones: Vec<Option<(Zone<'static>, Row)>>,
    upstreams: Vec<Option<Follower<'static, View>>>,
}

/// Why a request has no release.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    /// The upstream, or this worker, has no place in the zone; this was logged at start.
    #[error("it, or this worker, has no place in the zone, see what was logged at start")]
    NoRecord,
    /// No release is active.
    #[error("no release is active, switch to one")]
    NoRelease,
    /// The shared memory is damaged.
    #[error(transparent)]
    Zone(#[from] ZoneError),
    /// The release has no view.
    #[error("release \"{release}\": {error}")]
    View {
        /// The release.
        release: String,
        /// What is wrong with it.
        error: ViewError,
    },
}

impl Worker {
    /// Starts a worker.
    pub fn new(main: &MainConf, log: *mut ngx_log_t) -> Self {
        let me = Identity::me();
        let zones = main.zones.iter().map(|conf| {
            let zone = zone::attach(conf.shm_zone).ok()?;
            // A worker that cannot have the lock starts all the same.
            let lock = Lock::take_patiently(conf.shm_zone);
            let row = match lock {
                Ok(_) => zone.claim_row(me),
                Err(_) => zone.claim_row_unlocked(me),
            };
            // Whoever is not counted must send nobody anywhere.
            let row = row.inspect_err(|error| {
                alert!(
                    log,
                    "zone \"{}\": {error}: this worker refuses every request for its upstreams; \
                     reload when old workers have ended (see worker_shutdown_timeout), or give it \
                     more memory",
                    conf.name
                );
            });
            Some((zone, row.ok()?))
        });
        let zones: Vec<_> = zones.collect();
        let follow = |u: &UpstreamConf| {
            let (zone, row) = (*zones.get(u.zone)?)?;
            Some(Follower::new(zone, row, u.record?, &u.name))
        };
        let upstreams = main.upstreams.iter().map(follow).collect();
        Self { zones, upstreams }
    }

    /// Ends a worker in order.
    pub fn leave(&self) {
        for (zone, row) in self.zones.iter().flatten() {
            zone.leave_row(*row);
        }
    }

    fn follower(&mut self, index: usize) -> Result<&mut Follower<'static, View>, AdmitError> {
        self.upstreams.get_mut(index).and_then(Option::as_mut).ok_or(AdmitError::NoRecord)
    }

    /// Chooses the release of a new request, and counts it there, when there is nothing to think
    /// about, as for nearly every one; `None` says nothing: ask [`Worker::admit`].
    #[inline]
    pub fn admit_at_once(&self, index: usize) -> Option<Admitted<'static, View>> {
        self.upstreams.get(index)?.as_ref()?.admit_at_once()
    }

    /// Chooses the release of a new request, and counts it there.
    pub fn admit(
        &mut self,
        index: usize,
        conf: &UpstreamConf,
        wishes: &mut impl Wishes,
    ) -> Result<Admitted<'static, View>, AdmitError> {
        let chosen = self.follower(index)?.admit(wishes, |release| view(conf, release))?;
        chosen.ok_or(AdmitError::NoRelease)
    }

    /// Chooses where a request goes on that was sent to these releases, and counts it there.
    pub fn fall_back(
        &mut self,
        index: usize,
        conf: &UpstreamConf,
        tried: &[u64],
    ) -> Result<Option<Admitted<'static, View>>, AdmitError> {
        self.follower(index)?.fall_back(tried, |release| view(conf, release))
    }

    /// Whether there is another release for a request that was sent to these.
    pub fn has_fallback(&mut self, index: usize, tried: &[u64]) -> bool {
        self.follower(index).is_ok_and(|f| f.has_fallback(tried).unwrap_or(false))
    }

    /// Parks a request if it has to wait.
    pub fn park(&mut self, index: usize, max: u64) -> Result<Parking<'static>, AdmitError> {
        Ok(self.follower(index)?.park(max)?)
    }

    /// Whether a hold still lasts; `false` when that cannot be told.
    pub fn is_held(&mut self, index: usize, hold: u32) -> bool {
        self.follower(index).is_ok_and(|f| f.hold().is_ok_and(|h| h == Some(hold)))
    }

    /// How long the hold lasts, in milliseconds, if nobody ends it.
    pub fn hold_ends_in(&mut self, index: usize) -> u64 {
        self.follower(index).map_or(0, |f| f.hold_ends_in().unwrap_or(0))
    }
}

/// Makes the view of a release.
fn view(conf: &UpstreamConf, release: &Entry) -> Result<View, AdmitError> {
    // A view outlives the request that makes it, and its pool keeps this log.
    let log = ngx::log::ngx_cycle_log().as_ptr();
    View::new(conf, &release.servers, log)
        .map_err(|error| AdmitError::View { release: release.name.to_string(), error })
}
