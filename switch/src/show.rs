//! The state as the API shows it.

use shunt_api::{Canary, Hold, NginxTime, Release, ReleaseState, Server, Upstream, ZoneUse};
use std::time::Duration;

use crate::clock;
use crate::record::State;
use crate::service::ServedZone;
use crate::table::Entry;
use crate::zone::Zone;

/// How full a zone is.
#[must_use]
pub fn zone_use(served: &ServedZone<'_>) -> ZoneUse {
    ZoneUse {
        name: served.name.to_owned(),
        size: served.size,
        upstreams: served.zone.upstreams_use(),
        releases: served.zone.releases_use(),
        tables: served.zone.tables_use(),
    }
}

/// An upstream, which has this record in the zone, and is named by a `shunt_hold` or not.
#[must_use]
pub fn upstream(zone: Zone<'_>, record: usize, state: &State, holdable: bool) -> Upstream {
    let name = |index: Option<u8>| {
        index.and_then(|i| state.table.by_index(i)).map(|entry| entry.name.clone())
    };
    let canary = state
        .route
        .canary()
        .and_then(|(index, share)| Some(Canary { release: name(Some(index))?, share }));
    let now = clock::since_boot();
    let hold = state.hold(now).map(|_| Hold {
        ends_in: NginxTime::from(Duration::from_millis(state.held_until.saturating_sub(now))),
    });
    Upstream {
        name: state.table.upstream.clone(),
        generation: state.route.generation(),
        active: name(state.route.active()),
        previous: name(state.previous),
        canary,
        hold,
        holdable,
        parked: zone.in_flight(state.table.parked).requests,
        parked_total: zone.requests(state.table.parked),
        fallback: state.table.fallback,
        switches: zone.switches(record),
        releases: state.table.releases.iter().map(|entry| release(zone, state, entry)).collect(),
    }
}

fn release(zone: Zone<'_>, state: &State, entry: &Entry) -> Release {
    // In this order: a request is counted before it is no longer in flight, so what nothing is in
    // flight of is counted whole.
    let in_flight = zone.in_flight(entry.column);
    let figures = zone.counters(entry.column).map(|c| c.figures()).unwrap_or_default();
    let is = |index: Option<u8>| index == Some(entry.index);
    Release {
        name: entry.name.clone(),
        source: entry.origin.source(),
        state: if is(state.route.active()) {
            ReleaseState::Active
        } else if is(state.route.canary().map(|(index, _)| index)) {
            ReleaseState::Canary
        } else if state.table.fallback && is(state.previous) {
            ReleaseState::Previous
        } else if in_flight.total() > 0 {
            ReleaseState::Draining
        } else {
            ReleaseState::Idle
        },
        servers: entry.servers.iter().map(Server::from).collect(),
        in_flight,
        requests: zone.requests(entry.column),
        responses: figures.responses,
        connect_failures: figures.connect_failures,
        fallbacks: figures.fallbacks,
        response_time: figures.response_time,
    }
}
