//! The configuration meets what is there: at start, after a reload, after a restart.
//!
//! What the API made stays. What the configuration declares is as the configuration says, unless
//! the API gave such a release other servers since. Called once the new configuration is in force;
//! before that only on a copy, to see whether there is room ([`fits`]).

use std::collections::BTreeMap;
use std::rc::Rc;

use shunt_api::{Canary, HoldRequest, ReleaseName, Server};

use crate::clock;
use crate::layout::rows_for;
use crate::record::{State, bit};
use crate::route::Route;
use crate::size;
use crate::snapshot::{Saved, Snapshot};
use crate::sync::{AtomicU64, Ordering};
use crate::table::{Entry, MAX_RELEASES, Member, Origin, Table};
use crate::zone::{Zone, ZoneError};

/// An upstream of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configured {
    /// Its name.
    pub name: String,
    /// `shunt_fallback on`
    pub fallback: bool,
    /// Whether it has `shunt_preview`.
    pub preview: bool,
    /// Its releases; the first is active at first.
    pub releases: Vec<(ReleaseName, Vec<Member>)>,
}

/// What has become of the configuration's upstreams.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The record of each, in the configuration's order.
    pub records: Vec<usize>,
    /// What an operator should know.
    pub notices: Vec<String>,
    /// Whether the state file has to be written.
    pub changed: bool,
}

/// A release before it has its place in the zone.
struct Draft {
    name: ReleaseName,
    servers: Vec<Member>,
    exposed: bool,
    origin: Origin,
    /// What it has already: its index, column and serial.
    placed: Option<(u8, u32, u64)>,
}

struct Base {
    route: Option<Route>,
    active: Option<ReleaseName>,
    previous: Option<ReleaseName>,
    canary: Option<Canary>,
    held_until: Option<u64>,
    held_since: u32,
    /// The column of parked requests.
    parked: Option<u32>,
    releases: Vec<Draft>,
}

impl Base {
    fn of_state(state: &State) -> Self {
        let name = |i| state.table.by_index(i).map(|e| e.name.clone());
        let draft = |e: &Entry| Draft {
            name: e.name.clone(),
            servers: e.servers.clone(),
            exposed: state.is_exposed(e.index),
            origin: e.origin.clone(),
            placed: Some((e.index, e.column, e.serial)),
        };
        Self {
            route: Some(state.route),
            active: state.route.active().and_then(name),
            previous: state.previous.and_then(name),
            canary: state
                .route
                .canary()
                .and_then(|(index, share)| Some(Canary { release: name(index)?, share })),
            held_until: state.route.is_held().then_some(state.held_until),
            held_since: state.held_since,
            parked: Some(state.table.parked),
            releases: state.table.releases.iter().map(draft).collect(),
        }
    }

    fn of_saved(saved: &Saved) -> Self {
        let members = |servers: &[Server]| servers.iter().map(Member::from).collect::<Vec<_>>();
        let drafts = saved.releases.iter().map(|release| Draft {
            name: release.name.clone(),
            servers: members(&release.servers),
            exposed: saved.exposed.contains(&release.name),
            origin: match &release.configured {
                Some(servers) => Origin::Override(members(servers)),
                None => Origin::Api,
            },
            placed: None,
        });
        Self {
            route: Some(Route::new(saved.generation, None)),
            active: saved.active.clone(),
            previous: saved.previous.clone(),
            canary: saved.canary.clone(),
            held_until: saved.held_until.map(|until| {
                // Whatever the file says, and whatever the calendar: no longer than is allowed.
                let left = until.saturating_sub(clock::since_1970());
                let most = HoldRequest::MAX.as_secs() * 1000;
                clock::since_boot().saturating_add(left.min(most))
            }),
            held_since: saved.generation,
            parked: None,
            releases: drafts.collect(),
        }
    }

    fn empty() -> Self {
        Self {
            route: None,
            active: None,
            previous: None,
            canary: None,
            held_until: None,
            held_since: 0,
            parked: None,
            releases: Vec::new(),
        }
    }
}

impl From<&Server> for Member {
    fn from(server: &Server) -> Self {
        Self {
            address: server.address.clone(),
            resolved: Vec::new(),
            weight: server.weight,
            max_fails: server.max_fails,
            fail_timeout: u32::try_from(server.fail_timeout.as_secs()).unwrap_or(u32::MAX),
            max_conns: server.max_conns,
            backup: server.backup,
            down: server.down,
        }
    }
}

/// Whether two lists of servers say the same; what names resolved to does not count.
fn same_text(a: &[Member], b: &[Member]) -> bool {
    let text = |m: &Member| Member { resolved: Vec::new(), ..m.clone() };
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| text(a) == text(b))
}

/// Lets the configuration's releases into what is there.
///
/// `exposed` are the configured releases that users' requests went to, by the state file.
fn merge(
    base: &mut Base,
    configured: &Configured,
    exposed: &[ReleaseName],
    notices: &mut Vec<String>,
) {
    let upstream = &configured.name;
    base.releases.retain_mut(|draft| {
        if configured.releases.iter().any(|(name, _)| *name == draft.name) {
            return true;
        }
        match draft.origin {
            Origin::Api => true,
            Origin::Override(_) => {
                draft.origin = Origin::Api;
                true
            }
            Origin::Config => {
                let name = &draft.name;
                notices.push(format!(
                    "release \"{name}\" of upstream \"{upstream}\" is no longer in the \
                     configuration, dropped"
                ));
                false
            }
        }
    });
    // After a restart the configured releases come first again.
    let mut added = Vec::new();
    for (name, servers) in &configured.releases {
        let Some(draft) = base.releases.iter_mut().find(|d| d.name == *name) else {
            added.push(Draft {
                name: name.clone(),
                servers: servers.clone(),
                exposed: exposed.contains(name),
                origin: Origin::Config,
                placed: None,
            });
            continue;
        };
        match &draft.origin {
            Origin::Config => {}
            Origin::Api => {
                draft.origin = Origin::Override(servers.clone());
                continue;
            }
            Origin::Override(known) if same_text(known, servers) => continue,
            Origin::Override(_) => notices.push(format!(
                "release \"{name}\" of upstream \"{upstream}\" has other servers in the \
                 configuration now, which replace those that the API gave it"
            )),
        }
        draft.origin = Origin::Config;
        if draft.servers != *servers {
            draft.servers.clone_from(servers);
            draft.exposed = false;
            if let Some((_, _, serial)) = &mut draft.placed {
                *serial = 0;
            }
        }
    }
    let fresh = base.releases.iter().all(|d| d.placed.is_none());
    let at = if fresh { 0 } else { base.releases.len() };
    base.releases.splice(at..at, added);

    let there = |name: &ReleaseName| base.releases.iter().any(|d| d.name == *name);
    let first = configured.releases.first().map(|(name, _)| name.clone());
    if let Some(gone) = base.active.take_if(|name| !there(name)) {
        let now = first.as_ref().map_or("none".to_owned(), |name| format!("\"{name}\""));
        notices.push(format!(
            "release \"{gone}\" of upstream \"{upstream}\" was active and is gone, active now: {now}"
        ));
    }
    if base.active.is_none() {
        base.active = first;
    }
    base.previous.take_if(|name| !there(name) || base.active.as_ref() == Some(name));
    let gone = |canary: &mut Canary| {
        !there(&canary.release) || base.active.as_ref() == Some(&canary.release)
    };
    if let Some(Canary { release, .. }) = base.canary.take_if(gone) {
        notices.push(format!(
            "release \"{release}\" of upstream \"{upstream}\" was the canary and is none any more"
        ));
    }
    let serving = [base.active.as_ref(), base.canary.as_ref().map(|c| &c.release)];
    for draft in &mut base.releases {
        draft.exposed |= serving.contains(&Some(&draft.name));
    }
}

/// Gives every release its place in the zone.
fn place(
    zone: &Zone<'_>,
    upstream: usize,
    configured: &Configured,
    base: Base,
) -> Result<State, ZoneError> {
    let name = &configured.name;
    let parked = match base.parked {
        Some(column) => column,
        None => zone.take_column(upstream)?,
    };
    let mut table = Table {
        fallback: configured.fallback,
        preview: configured.preview,
        ..Table::empty(name, parked)
    };
    let taken: Vec<u8> = base.releases.iter().filter_map(|d| d.placed.map(|p| p.0)).collect();
    let mut free = (0..MAX_RELEASES as u8).filter(|index| !taken.contains(index));
    let mut exposed = 0;
    for draft in base.releases {
        let (index, column, serial) = match draft.placed {
            Some((index, column, 0)) => (index, column, zone.serial()),
            Some(placed) => placed,
            None => {
                let index = free.next().ok_or_else(|| ZoneError::NoIndex(name.clone()))?;
                (index, zone.take_column(upstream)?, zone.serial())
            }
        };
        exposed |= if draft.exposed { bit(index) } else { 0 };
        table.releases.push(Entry {
            name: draft.name,
            index,
            column,
            serial,
            servers: draft.servers,
            origin: draft.origin,
        });
    }
    let index = |name: &Option<ReleaseName>| {
        name.as_ref().and_then(|n| table.by_name(n.as_str())).map(|e| e.index)
    };
    let (active, previous) = (index(&base.active), index(&base.previous));
    let generation = base.route.map_or(1, Route::generation);
    let canary = base.canary.and_then(|c| Some((index(&Some(c.release))?, c.share)));
    let route =
        Route::new(generation, active).with_canary(canary).with_hold(base.held_until.is_some());
    let held_until = base.held_until.unwrap_or(0);
    let held_since = base.held_since;
    let (stamp, table) = (zone.serial(), Rc::new(table));
    Ok(State { route, previous, held_until, held_since, exposed, stamp, table })
}

/// Brings the zone in line with the configuration. Under the lock.
///
/// `saved` is what the state file says; it counts only for upstreams that the zone does not have.
///
/// # Errors
///
/// [`ZoneError`] when the zone is full or damaged; what was done until then stays.
pub fn reconcile(
    zone: &Zone<'_>,
    configured: &[Configured],
    saved: Option<&Snapshot>,
) -> Result<Outcome, ZoneError> {
    let mut outcome = Outcome::default();
    zone.collect_columns();
    // In order, so that what was tried on a copy goes the same way once more.
    let there: BTreeMap<String, (usize, State)> = zone
        .states()
        .map(|state| state.map(|(at, state)| (state.table.upstream.clone(), (at, state))))
        .collect::<Result<_, _>>()?;
    let mut retired: Vec<&(usize, State)> = there
        .iter()
        .filter(|(name, _)| !configured.iter().any(|c| c.name == **name))
        .map(|(_, found)| found)
        .collect();
    let saved = saved.map_or(&[][..], |saved| &saved.upstreams);
    let mut found_saved = 0;
    for upstream in configured {
        let record = match there.get(&upstream.name) {
            Some((at, state)) => {
                outcome.changed |= go_on(zone, *at, state, upstream, &mut outcome.notices)?;
                *at
            }
            None => {
                let at = match zone.free_record() {
                    Ok(at) => at,
                    Err(full) => take_retired(zone, &mut retired).ok_or(full)?,
                };
                let known = saved.iter().find(|u| u.name == upstream.name);
                found_saved += usize::from(known.is_some());
                begin(zone, at, known, upstream, &mut outcome.notices)?;
                outcome.changed = true;
                at
            }
        };
        outcome.records.push(record);
    }
    // With a zone that was there already the file only repeats what the zone knows.
    if there.is_empty() && found_saved < saved.len() {
        let gone = saved.iter().filter(|u| !configured.iter().any(|c| c.name == u.name));
        outcome.notices.extend(gone.map(|u| {
            format!(
                "upstream \"{}\" of the state file is not in the configuration, dropped",
                u.name
            )
        }));
        outcome.changed = true;
    }
    Ok(outcome)
}

/// Brings an upstream that the zone has in line, and tells whether that changed anything.
fn go_on(
    zone: &Zone<'_>,
    at: usize,
    state: &State,
    upstream: &Configured,
    notices: &mut Vec<String>,
) -> Result<bool, ZoneError> {
    let mut base = Base::of_state(state);
    merge(&mut base, upstream, &[], notices);
    let mut next = place(zone, at, upstream, base)?;
    let same = next.table == state.table
        && next.route == state.route
        && next.previous == state.previous
        && next.exposed == state.exposed;
    if same {
        return Ok(false);
    }
    next.route = next.route.next();
    zone.prepare(at, &next)?.publish();
    // A column with something in flight is collected when a new one is needed.
    let dropped = state.table.columns().filter(|c| !next.table.columns().any(|n| n == *c));
    dropped.filter(|c| zone.in_flight(*c).total() == 0).for_each(|c| zone.free(c));
    Ok(true)
}

/// Gives an upstream that the zone does not have this record: as the state file knows it, or anew.
fn begin(
    zone: &Zone<'_>,
    at: usize,
    known: Option<&Saved>,
    upstream: &Configured,
    notices: &mut Vec<String>,
) -> Result<(), ZoneError> {
    let mut base = known.map_or_else(Base::empty, Base::of_saved);
    let exposed = known.map_or(&[][..], |k| &k.exposed);
    merge(&mut base, upstream, exposed, notices);
    let unchanged = known.is_none_or(|k| {
        k.active == base.active && k.previous == base.previous && k.canary == base.canary
    });
    let mut next = place(zone, at, upstream, base)?;
    // The record may have been another upstream's, whose readers must see a new route.
    let old = Route::load(zone.route_word(at));
    let generation = next.route.generation().wrapping_add(u32::from(!unchanged));
    let generation = generation.max(old.generation().wrapping_add(1)).max(1);
    next.route = next.route.with_generation(generation);
    zone.prepare(at, &next)?.publish();
    zone.set_switches(at, 0);
    Ok(())
}

/// Takes the record of an upstream that the configuration no longer has and that nobody uses.
fn take_retired(zone: &Zone<'_>, retired: &mut Vec<&(usize, State)>) -> Option<usize> {
    let idle = |state: &State| state.table.columns().all(|c| zone.in_flight(c).total() == 0);
    let at = retired.iter().position(|(_, state)| idle(state))?;
    let (record, _) = retired.swap_remove(at);
    zone.give_up(*record);
    Some(*record)
}

/// The worker processes that a zone is to have room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workers {
    /// Those that are about to start.
    pub processes: usize,
    /// Those of the old configuration that have another zone; they are counted for until they end.
    pub others: usize,
}

/// Whether the configuration, and its workers, have room in the zone, tried on a copy of its words.
///
/// # Errors
///
/// The error that [`reconcile`] or [`Zone::make_room`] would meet, and the size in bytes of a zone that would do.
pub fn fits(
    words: &[AtomicU64],
    configured: &[Configured],
    saved: Option<&Snapshot>,
    workers: Workers,
) -> Result<(), (ZoneError, Option<usize>)> {
    let copy: Vec<AtomicU64> =
        words.iter().map(|w| AtomicU64::new(w.load(Ordering::Relaxed))).collect();
    let Workers { processes, others } = workers;
    let trial = |zone: &Zone<'_>, saved: Option<&Snapshot>, others: usize| {
        reconcile(zone, configured, saved)?;
        zone.make_room(processes + others)
    };
    let zone = Zone::attach(&copy).map_err(|e| (e, None))?;
    let living = zone.living().len();
    let Err(error) = trial(&zone, saved, others) else { return Ok(()) };
    if !matches!(
        error,
        ZoneError::NoRecord(_)
            | ZoneError::NoColumn(_)
            | ZoneError::NoWorker(_)
            | ZoneError::NoBlocks { .. }
    ) {
        return Err((error, None));
    }
    let current: Option<Vec<Saved>> = zone
        .states()
        .map(|state| state.map(|(_, state)| Saved::of(&state)))
        .collect::<Result<_, _>>()
        .ok();
    let current = current.filter(|c| !c.is_empty()).map(Snapshot::new);
    let rows = rows_for(processes);
    let mut bytes = copy.len() * 8;
    while bytes < size::MAX {
        bytes *= 2;
        let bigger: Vec<AtomicU64> = (0..bytes / 8).map(|_| AtomicU64::new(0)).collect();
        if let Ok(zone) = Zone::create(&bigger, rows)
            && trial(&zone, current.as_ref().or(saved), others + living).is_ok()
        {
            return Err((error, Some(bytes)));
        }
    }
    Err((error, None))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::change;
    use crate::zone::testing::words;
    use shunt_api::ServerSpec;

    const ONE: Workers = Workers { processes: 1, others: 0 };

    fn name(text: &str) -> ReleaseName {
        ReleaseName::new(text).unwrap()
    }

    fn member(port: u16) -> Member {
        Member::from(&ServerSpec::new(format!("127.0.0.1:{port}").parse().unwrap()))
    }

    fn configured(upstream: &str, releases: &[(&str, u16)]) -> Configured {
        let releases = releases.iter().map(|(n, p)| (name(n), vec![member(*p)])).collect();
        let name = upstream.to_owned();
        Configured { name, fallback: false, preview: false, releases }
    }

    fn active(zone: &Zone<'_>, record: usize) -> Option<String> {
        let state = zone.state(record, None).unwrap();
        state.route.active().map(|i| state.table.by_index(i).unwrap().name.to_string())
    }

    fn switch(zone: &Zone<'_>, record: usize, to: &str) {
        let state = zone.state(record, None).unwrap();
        let next = change::switch(&state, &name(to)).unwrap().unwrap();
        zone.prepare(record, &next).unwrap().publish();
    }

    #[test]
    fn p5_a_reload_keeps_what_was_switched() {
        let words = words(1 << 14);
        let zone = Zone::create(&words, 16).unwrap();
        let web = configured("web", &[("blue", 1), ("green", 2)]);
        let record = reconcile(&zone, std::slice::from_ref(&web), None).unwrap().records[0];
        assert_eq!(active(&zone, record).as_deref(), Some("blue"));
        switch(&zone, record, "green");
        let before = zone.state(record, None).unwrap();
        let shop = configured("shop", &[("default", 3)]);
        let outcome = reconcile(&zone, &[shop, web], None).unwrap();
        assert_eq!(outcome.records[1], record);
        assert!(outcome.notices.is_empty(), "{:?}", outcome.notices);
        assert_eq!(zone.state(record, None).unwrap(), before);
    }

    #[test]
    fn p5_a_restart_takes_everything_from_the_state_file() {
        let (first, second) = (words(1 << 14), words(1 << 15));
        let zone = Zone::create(&first, 16).unwrap();
        let web = configured("web", &[("blue", 1), ("green", 2)]);
        let record = reconcile(&zone, std::slice::from_ref(&web), None).unwrap().records[0];
        switch(&zone, record, "green");
        let saved = Snapshot::new(vec![Saved::of(&zone.state(record, None).unwrap())]);

        let zone = Zone::create(&second, 16).unwrap();
        let outcome = reconcile(&zone, &[web], Some(&saved)).unwrap();
        let state = zone.state(outcome.records[0], None).unwrap();
        assert_eq!(Saved::of(&state), saved.upstreams[0]);
        assert!(outcome.notices.is_empty(), "{:?}", outcome.notices);
    }

    #[test]
    fn an_active_release_that_the_configuration_drops_gives_way_to_the_first() {
        let words = words(1 << 14);
        let zone = Zone::create(&words, 16).unwrap();
        let record =
            reconcile(&zone, &[configured("web", &[("a", 1), ("b", 2)])], None).unwrap().records[0];
        switch(&zone, record, "b");
        let outcome = reconcile(&zone, &[configured("web", &[("a", 1), ("c", 3)])], None).unwrap();
        assert_eq!(active(&zone, record).as_deref(), Some("a"));
        assert_eq!(outcome.notices.len(), 2, "{:?}", outcome.notices);
        let outcome = reconcile(&zone, &[configured("web", &[])], None).unwrap();
        assert_eq!(active(&zone, record), None);
        assert!(outcome.changed);
    }

    #[test]
    fn what_the_api_gave_a_configured_release_counts_until_the_configuration_changes() {
        let words = words(1 << 14);
        let zone = Zone::create(&words, 16).unwrap();
        let record = reconcile(&zone, &[configured("web", &[("a", 1)])], None).unwrap().records[0];
        let mut state = zone.state(record, None).unwrap();
        let mut table = (*state.table).clone();
        table.releases[0].origin = Origin::Override(vec![member(1)]);
        table.releases[0].servers = vec![member(9)];
        state.route = state.route.next();
        state.stamp = zone.serial();
        state.table = Rc::new(table);
        zone.prepare(record, &state).unwrap().publish();
        let servers = || zone.state(record, None).unwrap().table.releases[0].servers.clone();

        reconcile(&zone, &[configured("web", &[("a", 1)])], None).unwrap();
        assert_eq!(servers(), [member(9)]);
        let outcome = reconcile(&zone, &[configured("web", &[("a", 2)])], None).unwrap();
        assert_eq!(servers(), [member(2)]);
        assert_eq!(outcome.notices.len(), 1);
    }

    #[test]
    #[cfg_attr(miri, ignore = "takes an hour, and has nothing for Miri")]
    fn a_zone_that_is_too_small_names_the_size_that_would_do() {
        let small = words(1 << 15);
        let zone = Zone::create(&small, 16).unwrap();
        let many: Vec<_> = (0..100).map(|i| configured(&format!("u{i}"), &[("a", 1)])).collect();
        let (error, size) = fits(&small, &many, None, ONE).unwrap_err();
        assert!(matches!(error, ZoneError::NoRecord(_)), "{error}");
        let bigger = words(size.unwrap());
        let zone_of_that_size = Zone::create(&bigger, 16).unwrap();
        assert_eq!(reconcile(&zone_of_that_size, &many, None).unwrap().records.len(), 100);
        // Trying it changed nothing.
        assert_eq!(zone.upstreams_use().used, 0);
    }

    #[test]
    #[cfg_attr(miri, ignore = "fills a zone, which takes minutes, and has nothing for Miri")]
    fn more_workers_than_there_is_room_for_do_not_fit() {
        let small = words(1 << 16);
        let zone = Zone::create(&small, 16).unwrap();
        let all: Vec<_> = (0..zone.layout().upstreams)
            .map(|n| configured(&format!("u{n}"), &[("a", 1), ("b", 2)]))
            .collect();
        let workers = |processes, others| Workers { processes, others };
        // One bank, of which each upstream takes three of its five columns.
        fits(&small, &all, None, workers(16, 0)).unwrap();
        let (error, size) = fits(&small, &all, None, workers(17, 0)).unwrap_err();
        assert_eq!(error, ZoneError::NoWorker(16));
        let larger = words(size.unwrap());
        Zone::create(&larger, rows_for(17)).unwrap();
        fits(&larger, &all, None, workers(17, 0)).unwrap();
        assert_eq!(fits(&small, &all, None, workers(1, 16)).unwrap_err().0, error);
        // A few upstreams leave room for more; but no zone counts for any number.
        fits(&small, &all[..2], None, workers(100, 0)).unwrap();
        let most = zone.layout().workers;
        let (error, size) = fits(&small, &[], None, workers(most + 1, 0)).unwrap_err();
        assert_eq!((error, size.is_some()), (ZoneError::NoWorker(most), true));
        let (error, size) = fits(&small, &[], None, workers(2000, 0)).unwrap_err();
        assert_eq!((error, size), (ZoneError::NoWorker(most), None));
    }

    #[test]
    #[cfg_attr(miri, ignore = "fills a zone, which takes minutes, and has nothing for Miri")]
    fn the_upstream_that_makes_room_is_the_same_in_a_trial() {
        let outcomes = (0..20).map(|_| {
            let words = words(1 << 15);
            let zone = Zone::create(&words, 16).unwrap();
            let all: Vec<_> = (0..zone.layout().upstreams)
                .map(|i| configured(&format!("u{i}"), &[("a", 1)]))
                .collect();
            reconcile(&zone, &all, None).unwrap();
            reconcile(&zone, &[configured("new", &[("a", 1)])], None).unwrap().records
        });
        let outcomes: std::collections::BTreeSet<_> = outcomes.collect();
        assert_eq!(outcomes.len(), 1, "{outcomes:?}");
    }

    #[test]
    #[cfg_attr(miri, ignore = "fills a zone, which takes minutes, and has nothing for Miri")]
    fn an_upstream_that_is_gone_makes_room_when_there_is_no_other() {
        let words = words(1 << 15);
        let zone = Zone::create(&words, 16).unwrap();
        let room = zone.layout().upstreams;
        let set = |from: usize| -> Vec<_> {
            (from..from + room).map(|i| configured(&format!("u{i}"), &[("a", 1)])).collect()
        };
        reconcile(&zone, &set(0), None).unwrap();
        let generation = zone.state(0, None).unwrap().route.generation();
        reconcile(&zone, &set(1), None).unwrap();
        let state = zone.state(0, None).unwrap();
        assert_eq!(state.table.upstream, format!("u{room}"));
        assert!(state.route.generation() > generation);
        assert_eq!(zone.releases_use().used as usize, room);
    }

    #[test]
    fn state_of_upstreams_that_the_configuration_does_not_have_is_dropped_with_a_notice() {
        let words = words(1 << 14);
        let zone = Zone::create(&words, 16).unwrap();
        let saved = Saved {
            name: "gone".to_owned(),
            generation: 3,
            active: None,
            previous: None,
            canary: None,
            held_until: None,
            exposed: Vec::new(),
            releases: Vec::new(),
        };
        let outcome = reconcile(&zone, &[], Some(&Snapshot::new(vec![saved]))).unwrap();
        assert_eq!(outcome.notices.len(), 1);
        assert!(outcome.changed);
    }
}
