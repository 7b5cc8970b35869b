//! A change that the API is asked for, and how it is made: under the zone's lock, and while no other
//! NGINX master runs.
//!
//! In whatever thread: nothing here is NGINX's event loop's.

use shunt_api::{Call, Problem};
use shunt_switch::masters::MastersError;
use shunt_switch::service::Reply;

use crate::conf::{MainConf, ZoneConf};
use crate::lock::Lock;
use crate::zone;

/// What a caller wants.
pub struct Change {
    /// The call.
    pub call: Call,
    /// What it is based on (P7).
    pub if_match: Option<String>,
    /// The request's body.
    pub body: Vec<u8>,
}

impl Change {
    /// Makes it.
    pub fn make(&self, main: &MainConf) -> Result<Reply, Problem> {
        // Without such an upstream nothing is changed, and no lock is needed to say so.
        let lock = self.zone(main).map(|zone| Lock::take(zone.shm_zone)).transpose();
        let _lock = lock.map_err(|e| Problem::new(503, e.to_string()))?;
        let _turn = main.masters.turn().map_err(|e| of_masters(&e))?;
        zone::with_service(main, |service| {
            service.change(&self.call, self.if_match.as_deref(), &self.body)
        })
    }

    /// Whether it has to be written to a disk, which may take its time.
    pub fn needs_disk(&self, main: &MainConf) -> bool {
        self.zone(main).is_some_and(|zone| zone.state.is_some())
    }

    fn zone<'m>(&self, main: &'m MainConf) -> Option<&'m ZoneConf> {
        let served = main.served.find(self.call.upstream()?)?;
        main.zones.get(served.zone)
    }
}

fn of_masters(error: &MastersError) -> Problem {
    let status = match error {
        MastersError::Two { .. } => 409,
        MastersError::Busy => 503,
        MastersError::System(_) => 500,
    };
    Problem::new(status, error.to_string())
}
