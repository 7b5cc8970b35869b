//! What an upstream had in a zone, for the zone that has it from now on: a reload gives it one of
//! another size or name, or moves it.
//!
//! The workers of the old configuration go on counting where nobody here sees it. So that no release
//! is called drained under them, what each has in flight is taken to be in flight until it ends, and
//! one request more wherever it may still send one.

use std::collections::HashMap;

use shunt_api::{InFlight, ReleaseName};

use crate::snapshot::Saved;
use crate::worker::Identity;
use crate::zone::{Zone, ZoneError};

/// An upstream of another zone.
#[derive(Debug)]
pub struct Carried {
    /// Its record there.
    pub record: usize,
    /// Its state.
    pub saved: Saved,
    switches: u64,
    parked: u64,
    releases: HashMap<ReleaseName, CarriedRelease>,
}

#[derive(Debug)]
struct CarriedRelease {
    requests: u64,
    counters: Vec<u64>,
    in_flight: Vec<(Identity, InFlight)>,
}

const ONE: InFlight = InFlight { requests: 1, upgraded: 0 };

impl Carried {
    /// Reads all upstreams of a zone.
    ///
    /// # Errors
    ///
    /// [`ZoneError::Damaged`].
    pub fn all(zone: &Zone<'_>) -> Result<Vec<Self>, ZoneError> {
        let workers = zone.living();
        let mut all = Vec::new();
        for state in zone.states() {
            let (record, state) = state?;
            let releases = state.table.releases.iter().filter_map(|entry| {
                let more = if state.admits(entry) { ONE } else { InFlight::default() };
                let in_flight = workers.iter().map(|(worker, row)| {
                    let own = zone.cell(*row, entry.column).map(|c| c.in_flight());
                    (*worker, own.unwrap_or_default() + more)
                });
                let carried = CarriedRelease {
                    requests: zone.requests(entry.column),
                    counters: zone.counters(entry.column)?.copy(),
                    in_flight: in_flight.filter(|(_, n)| n.total() > 0).collect(),
                };
                Some((entry.name.clone(), carried))
            });
            all.push(Self {
                record,
                switches: zone.switches(record),
                parked: zone.requests(state.table.parked),
                releases: releases.collect(),
                saved: Saved::of(&state),
            });
        }
        Ok(all)
    }

    /// Lets the record of a new zone go on from it. Once, under the lock, and before anybody counts
    /// there; `fresh` when nobody counts in that zone at all yet.
    ///
    /// # Errors
    ///
    /// [`ZoneError::Damaged`], or there is no row for one of the workers.
    pub fn hand_over(&self, zone: &Zone<'_>, record: usize, fresh: bool) -> Result<(), ZoneError> {
        let state = zone.state(record, None)?;
        zone.set_switches(record, self.switches);
        zone.go_on_from(state.table.parked, self.parked, &[]);
        for entry in &state.table.releases {
            let Some(carried) = self.releases.get(&entry.name) else { continue };
            zone.go_on_from(entry.column, carried.requests, &carried.counters);
            for (worker, n) in &carried.in_flight {
                let row =
                    if fresh { zone.row_of_other(*worker) } else { zone.stand_in_row(*worker) };
                let row = row?;
                if let Some(cell) = zone.cell(row, entry.column) {
                    cell.add(*n);
                }
            }
        }
        Ok(())
    }
}

/// Another NGINX master runs with workers of its own, of which nothing is known: each release is
/// taken to have something in flight there until it has ended. Under the lock.
///
/// # Errors
///
/// [`ZoneError::Damaged`], or there is no row for it.
pub fn count_master(zone: &Zone<'_>, master: Identity) -> Result<(), ZoneError> {
    let row = zone.stand_in_row(master)?;
    for state in zone.states() {
        for entry in &state?.1.table.releases {
            if let Some(cell) = zone.cell(row, entry.column) {
                cell.add(ONE);
            }
        }
    }
    Ok(())
}
