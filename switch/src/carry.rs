//! What a zone has counted, for the zone that takes its place: a reload with another size.

use std::collections::HashMap;

use shunt_api::ReleaseName;

use crate::zone::{Zone, ZoneError};

/// The counters of a zone's upstreams and releases, by their names.
#[derive(Debug, Default)]
pub struct Carried {
    upstreams: HashMap<String, CarriedUpstream>,
}

#[derive(Debug)]
struct CarriedUpstream {
    switches: u64,
    parked: u64,
    releases: HashMap<ReleaseName, (u64, Vec<u64>)>,
}

impl Carried {
    /// Reads what a zone has counted.
    ///
    /// # Errors
    ///
    /// [`ZoneError::Damaged`].
    pub fn from(zone: &Zone<'_>) -> Result<Self, ZoneError> {
        let mut upstreams = HashMap::new();
        for state in zone.states() {
            let (record, state) = state?;
            let releases = state.table.releases.iter().filter_map(|entry| {
                let counters = zone.counters(entry.column)?.copy();
                Some((entry.name.clone(), (zone.requests(entry.column), counters)))
            });
            let carried = CarriedUpstream {
                switches: zone.switches(record),
                parked: zone.requests(state.table.parked),
                releases: releases.collect(),
            };
            upstreams.insert(state.table.upstream.clone(), carried);
        }
        Ok(Self { upstreams })
    }

    /// Lets a new zone go on from it. Once, and before anybody counts there.
    ///
    /// # Errors
    ///
    /// [`ZoneError::Damaged`].
    pub fn hand_over(&self, zone: &Zone<'_>) -> Result<(), ZoneError> {
        for state in zone.states() {
            let (record, state) = state?;
            let Some(carried) = self.upstreams.get(&state.table.upstream) else { continue };
            zone.set_switches(record, carried.switches);
            zone.go_on_from(state.table.parked, carried.parked, &[]);
            for entry in &state.table.releases {
                if let Some((requests, counters)) = carried.releases.get(&entry.name) {
                    zone.go_on_from(entry.column, *requests, counters);
                }
            }
        }
        Ok(())
    }
}
