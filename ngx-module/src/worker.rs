//! What a worker has of its own: a row in each zone, and the views that it has met.

use std::rc::Rc;

use nginx_sys::ngx_log_t;
use shunt_switch::follower::{Admitted, Follower, Parking, Wishes};
use shunt_switch::table::Table;
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
    upstreams: Vec<Option<Following>>,
}

struct Following {
    follower: Follower,
    /// The table that the views below belong to.
    table: Option<Rc<Table>>,
    /// Views by the serial of their release.
    views: Vec<(u64, Rc<View>)>,
}

/// Why a request has no release.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    /// The upstream has no place in the zone; this was logged at start.
    #[error("it has no place in the zone")]
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
            let _lock = Lock::take_patiently(conf.shm_zone);
            let row = zone.claim_row(me);
            if zone.is_shared_row(row) {
                warn!(
                    log,
                    "zone \"{}\" counts for {} workers, and all of them run, those of older \
                     configurations included: this one shares a counter",
                    conf.name,
                    zone.layout().workers
                );
            }
            Some((zone, row))
        });
        let follow = |u: &UpstreamConf| {
            let follower = Follower::new(u.record?, &u.name);
            Some(Following { follower, table: None, views: Vec::new() })
        };
        Self { zones: zones.collect(), upstreams: main.upstreams.iter().map(follow).collect() }
    }

    /// Ends a worker in order.
    pub fn leave(&self) {
        for (zone, row) in self.zones.iter().flatten() {
            zone.leave_row(*row);
        }
    }

    fn following(
        &mut self,
        index: usize,
        zone: usize,
    ) -> Result<(&mut Following, Zone<'static>, Row), AdmitError> {
        let zone = self.zones.get(zone).copied().flatten();
        let following = self.upstreams.get_mut(index).and_then(Option::as_mut);
        match (following, zone) {
            (Some(following), Some((zone, row))) => Ok((following, zone, row)),
            _ => Err(AdmitError::NoRecord),
        }
    }

    /// Chooses the release of a new request, counts it there, and gives its view.
    pub fn admit(
        &mut self,
        index: usize,
        conf: &UpstreamConf,
        wishes: &mut impl Wishes,
        log: *mut ngx_log_t,
    ) -> Result<(Admitted, Rc<View>, Zone<'static>), AdmitError> {
        let (following, zone, row) = self.following(index, conf.zone)?;
        let admitted = following.follower.admit(&zone, row, wishes)?;
        let admitted = admitted.ok_or(AdmitError::NoRelease)?;
        let (admitted, view) = following.with_view(admitted, conf, &zone, log)?;
        Ok((admitted, view, zone))
    }

    /// Chooses where a request goes on that was sent to these releases, counts it there, and gives
    /// its view.
    pub fn fall_back(
        &mut self,
        index: usize,
        conf: &UpstreamConf,
        tried: &[u64],
        log: *mut ngx_log_t,
    ) -> Result<Option<(Admitted, Rc<View>)>, AdmitError> {
        let (following, zone, row) = self.following(index, conf.zone)?;
        match following.follower.fall_back(&zone, row, tried)? {
            Some(admitted) => Ok(Some(following.with_view(admitted, conf, &zone, log)?)),
            None => Ok(None),
        }
    }

    /// Whether there is another release for a request that was sent to these.
    pub fn has_fallback(&mut self, index: usize, conf: &UpstreamConf, tried: &[u64]) -> bool {
        let following = self.following(index, conf.zone);
        following.is_ok_and(|(f, zone, _)| f.follower.has_fallback(&zone, tried).unwrap_or(false))
    }

    /// Parks a request if it has to wait.
    pub fn park(
        &mut self,
        index: usize,
        zone: usize,
        max: u64,
    ) -> Result<(Parking, Zone<'static>), AdmitError> {
        let (following, zone, row) = self.following(index, zone)?;
        Ok((following.follower.park(&zone, row, max)?, zone))
    }

    /// Whether a hold still lasts; `false` when that cannot be told.
    pub fn is_held(&mut self, index: usize, zone: usize, hold: u32) -> bool {
        let following = self.following(index, zone);
        following.is_ok_and(|(f, zone, _)| f.follower.hold(&zone).is_ok_and(|h| h == Some(hold)))
    }

    /// How long the hold lasts, in milliseconds, if nobody ends it.
    pub fn hold_ends_in(&mut self, index: usize, zone: usize) -> u64 {
        let following = self.following(index, zone);
        following.map_or(0, |(f, zone, _)| f.follower.hold_ends_in(&zone).unwrap_or(0))
    }
}

impl Following {
    /// The choice with its view; without one it is given back.
    fn with_view(
        &mut self,
        mut admitted: Admitted,
        conf: &UpstreamConf,
        zone: &Zone<'_>,
        log: *mut ngx_log_t,
    ) -> Result<(Admitted, Rc<View>), AdmitError> {
        match self.view(&admitted, conf, log) {
            Ok(view) => Ok((admitted, view)),
            Err(error) => {
                if let Some(ticket) = admitted.ticket.take() {
                    ticket.give_back(zone);
                }
                Err(AdmitError::View { release: admitted.release().name.to_string(), error })
            }
        }
    }

    fn view(
        &mut self,
        admitted: &Admitted,
        conf: &UpstreamConf,
        log: *mut ngx_log_t,
    ) -> Result<Rc<View>, ViewError> {
        let table = &admitted.table;
        if self.table.as_ref().is_none_or(|known| !Rc::ptr_eq(known, table)) {
            // Views of releases that are gone end with their last request.
            self.views.retain(|(serial, _)| table.releases.iter().any(|e| e.serial == *serial));
            self.table = Some(table.clone());
        }
        let release = admitted.release();
        if let Some((_, view)) = self.views.iter().find(|(serial, _)| *serial == release.serial) {
            return Ok(view.clone());
        }
        let view = Rc::new(View::new(conf, &release.servers, log)?);
        self.views.push((release.serial, view.clone()));
        Ok(view)
    }
}
