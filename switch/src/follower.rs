//! A worker's side of an upstream: which release does a new request go to?

use std::rc::Rc;

use shunt_api::{Portion, ReleaseName};

use crate::canary::Point;
use crate::cells::{Cell, Kind};
use crate::clock;
use crate::counters::{Counters, Ending};
use crate::record::State;
use crate::route::Route;
use crate::sync::AtomicU64;
use crate::table::{Entry, Table};
use crate::zone::{Row, Zone, ZoneError};

/// Follows one upstream; one in each worker.
///
/// `V` is what the worker makes for each release that it meets, for as long as requests go there.
pub struct Follower<'z, V> {
    zone: Zone<'z>,
    row: Row,
    upstream: usize,
    route: &'z AtomicU64,
    name: String,
    known: Option<Known<'z, V>>,
}

/// What a worker knows of an upstream.
struct Known<'z, V> {
    state: State,
    /// The place of the active release in the table.
    active: Option<usize>,
    /// The releases that requests went to, at their places in the table.
    destinations: Vec<Option<Rc<Destination<'z, V>>>>,
    /// Where every request goes as long as there is nothing to choose: neither preview nor canary.
    only: Option<Rc<Destination<'z, V>>>,
}

/// A release that requests go to: where this worker counts them, and what it has made for it.
#[derive(Debug)]
pub struct Destination<'z, V> {
    /// The release.
    pub release: Entry,
    /// What was made for it.
    pub view: V,
    cell: Cell<'z>,
    counters: Counters<'z>,
}

impl<'z, V> Known<'z, V> {
    /// Takes over what is still good of what was known before: a serial stands for the same servers
    /// and the same counts.
    fn new(state: State, active: Option<usize>, before: Option<Self>) -> Self {
        let destinations = match before {
            Some(before) if Rc::ptr_eq(&before.state.table, &state.table) => before.destinations,
            before => {
                let mut known = before.map(|known| known.destinations).unwrap_or_default();
                let mut find = |entry: &Entry| {
                    let is = |d: &Option<Rc<Destination<'z, V>>>| {
                        d.as_ref().is_some_and(|d| d.release.serial == entry.serial)
                    };
                    known.iter().position(is).and_then(|at| known.swap_remove(at))
                };
                state.table.releases.iter().map(&mut find).collect()
            }
        };
        Self { state, active, destinations, only: None }
    }
}

/// What a request says about the release that it should go to; asked only when it matters.
pub trait Wishes {
    /// The release that it names (`shunt_preview`).
    fn preview(&mut self) -> Option<ReleaseName>;

    /// Its place among those that a canary may get (`shunt_canary_key`).
    fn point(&mut self, canary: &ReleaseName) -> Point;
}

/// Why a request goes to its release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It is the active one.
    Active,
    /// The request names it.
    Preview,
    /// It is the canary, and the request is of its share.
    Canary,
    /// Another one could not be connected to.
    Fallback,
}

impl Reason {
    /// As `$shunt_reason` has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Preview => "preview",
            Self::Canary => "canary",
            Self::Fallback => "fallback",
        }
    }
}

/// A request on its way to a release.
#[derive(Debug)]
pub struct Admitted<'z, V> {
    /// The release.
    pub to: Rc<Destination<'z, V>>,
    /// The generation by which it was chosen.
    pub generation: u32,
    /// Why it was chosen.
    pub reason: Reason,
    /// Whether the request may go on to another release (`shunt_fallback`). One that names its
    /// release shall see how that is.
    pub may_fall_back: bool,
    /// As what it is counted in flight, until it has ended.
    counted: Option<Kind>,
}

impl<V> Admitted<'_, V> {
    /// Whether it counts in flight.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.counted.is_some()
    }

    /// Whether it is an upgraded connection.
    #[must_use]
    pub fn is_upgraded(&self) -> bool {
        self.counted == Some(Kind::Upgraded)
    }

    /// The request has become an upgraded connection.
    pub fn upgrade(&mut self) {
        if self.counted == Some(Kind::Request) {
            self.to.cell.upgrade();
            self.counted = Some(Kind::Upgraded);
        }
    }

    /// Counts what became of the request, and then that it is in flight no more; once.
    #[inline]
    pub fn end(&mut self, ending: Ending) {
        // What is not in flight is counted nowhere.
        if self.is_open() {
            self.to.counters.end(ending);
            self.leave();
        }
    }

    /// The request goes on to another release, after so many failures to connect.
    pub fn fall_back(&mut self, connect_failures: u64) {
        self.to.counters.fall_back(connect_failures);
        self.leave();
    }

    #[inline]
    fn leave(&mut self) {
        if let Some(kind) = self.counted.take() {
            self.to.cell.leave(kind);
        }
    }
}

impl<V> Drop for Admitted<'_, V> {
    #[inline]
    fn drop(&mut self) {
        self.leave();
    }
}

/// A request that is parked, and counted until this is dropped.
#[derive(Debug)]
#[must_use = "what is dropped at once counts nothing"]
pub struct Ticket<'z> {
    cell: Cell<'z>,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.cell.leave(Kind::Request);
    }
}

/// What becomes of a request that may have to wait.
#[derive(Debug)]
pub enum Parking<'z> {
    /// Nothing is held: it goes on.
    Free,
    /// It waits until this hold has ended, and is counted.
    Parked(Ticket<'z>, u32),
    /// As many as may wait do so already.
    Full,
}

impl<'z, V> Follower<'z, V> {
    /// Follows the upstream in this record, which must have this name, and counts in this row.
    #[must_use]
    pub fn new(zone: Zone<'z>, row: Row, upstream: usize, name: &str) -> Self {
        let route = zone.route_word(upstream);
        Self { zone, row, upstream, route, name: name.to_owned(), known: None }
    }

    /// Brings what is known up to date, and tells whether it is still the upstream's.
    ///
    /// A later configuration without this upstream may have given its record away. The workers that
    /// still have it go on with what they knew.
    fn follow(&mut self) -> Result<(&mut Known<'z, V>, bool), ZoneError> {
        let route = Route::load(self.route);
        let mut ours = true;
        if self.known.as_ref().is_none_or(|known| known.state.route != route) {
            ours = self.read()?;
        }
        let known = self.known.as_mut().ok_or(ZoneError::Damaged(self.upstream))?;
        Ok((known, ours))
    }

    /// Reads the upstream, and tells whether it is still there.
    #[cold]
    fn read(&mut self) -> Result<bool, ZoneError> {
        let known = self.known.as_ref().map(|known| &known.state);
        let state = self.zone.state(self.upstream, known)?;
        let ours = state.table.upstream == self.name;
        if ours {
            let place = |index: u8| {
                let place = state.table.releases.iter().position(|e| e.index == index);
                place.ok_or(ZoneError::Damaged(self.upstream))
            };
            let active = state.route.active().map(place).transpose()?;
            self.known = Some(Known::new(state, active, self.known.take()));
        }
        Ok(ours)
    }

    /// The releases as they are now.
    ///
    /// # Errors
    ///
    /// [`ZoneError::Damaged`].
    pub fn table(&mut self) -> Result<Rc<Table>, ZoneError> {
        Ok(self.follow()?.0.state.table.clone())
    }

    /// Chooses the release of a new request and counts it in flight there. `None` when no release
    /// is active. `make` makes what the worker needs for a release that it meets.
    ///
    /// For whom [`Follower::admit_at_once`] has nothing.
    ///
    /// # Errors
    ///
    /// [`ZoneError::Damaged`], and what `make` says.
    pub fn admit<E: From<ZoneError>>(
        &mut self,
        wishes: &mut impl Wishes,
        make: impl FnMut(&Entry) -> Result<V, E>,
    ) -> Result<Option<Admitted<'z, V>>, E> {
        self.enter(|known| choose(known, wishes), make)
    }

    /// The same where there is nothing to choose and nothing to make, as for nearly every request;
    /// `None` says nothing: ask [`Follower::admit`]. Nothing is looked up here that is the same for all
    /// requests.
    #[inline]
    pub fn admit_at_once(&self) -> Option<Admitted<'z, V>> {
        let route = Route::load(self.route);
        let known = self.known.as_ref().filter(|known| known.state.route == route)?;
        let to = known.only.as_ref().filter(|to| to.cell.enter(self.route, route))?;
        Some(known.admitted(to, Reason::Active, true))
    }

    /// Chooses where a request goes on whose release could not be connected to, and counts it there:
    /// the active release, or else the previous one. `tried` are the serials of those that it was
    /// sent to. `None` when there is none, or `shunt_fallback` is off.
    ///
    /// # Errors
    ///
    /// As [`Follower::admit`].
    pub fn fall_back<E: From<ZoneError>>(
        &mut self,
        tried: &[u64],
        make: impl FnMut(&Entry) -> Result<V, E>,
    ) -> Result<Option<Admitted<'z, V>>, E> {
        self.enter(|known| Some((next(&known.state, tried)?, Reason::Fallback)), make)
    }

    /// Whether [`Follower::fall_back`] would find one.
    ///
    /// # Errors
    ///
    /// [`ZoneError::Damaged`].
    pub fn has_fallback(&mut self, tried: &[u64]) -> Result<bool, ZoneError> {
        Ok(next(&self.follow()?.0.state, tried).is_some())
    }

    #[cold]
    fn enter<E: From<ZoneError>>(
        &mut self,
        mut choose: impl FnMut(&Known<'z, V>) -> Option<(usize, Reason)>,
        mut make: impl FnMut(&Entry) -> Result<V, E>,
    ) -> Result<Option<Admitted<'z, V>>, E> {
        let (zone, row, route) = (self.zone, self.row, self.route);
        let damaged = ZoneError::Damaged(self.upstream);
        loop {
            let (known, ours) = self.follow()?;
            let Some((at, reason)) = choose(known) else { return Ok(None) };
            let to = match known.destinations.get(at) {
                Some(Some(to)) => to.clone(),
                _ => known.meet(at, &zone, row, &mut make)?.ok_or_else(|| damaged.clone())?,
            };
            // In a record that is another upstream's now there is nothing to count.
            if ours && !to.cell.enter(route, known.state.route) {
                continue;
            }
            if ours && reason == Reason::Active && known.has_no_choice() {
                known.only = Some(to.clone());
            }
            return Ok(Some(known.admitted(&to, reason, ours)));
        }
    }

    /// The hold that parks new requests now, if there is one. One load when there is none.
    ///
    /// # Errors
    ///
    /// [`ZoneError::Damaged`].
    pub fn hold(&mut self) -> Result<Option<u32>, ZoneError> {
        if !Route::load(self.route).is_held() {
            return Ok(None);
        }
        // Nobody would ever end the hold of a zone that was given up.
        if self.zone.is_retired() {
            return Ok(None);
        }
        let (known, ours) = self.follow()?;
        Ok(known.state.hold(clock::since_boot()).filter(|_| ours))
    }

    /// Parks a request if new requests are held, unless `max` are parked already, in all workers.
    ///
    /// # Errors
    ///
    /// [`ZoneError::Damaged`].
    pub fn park(&mut self, max: u64) -> Result<Parking<'z>, ZoneError> {
        let Some(hold) = self.hold()? else { return Ok(Parking::Free) };
        let column = self.follow()?.0.state.table.parked;
        let cell = self.zone.cell(self.row, column).ok_or(ZoneError::Damaged(self.upstream))?;
        cell.park();
        let ticket = Ticket { cell };
        // Counted first and looked at then: two workers may both refuse, but never both let in.
        if self.zone.in_flight(column).requests > max {
            return Ok(Parking::Full);
        }
        cell.count();
        Ok(Parking::Parked(ticket, hold))
    }

    /// How long the hold lasts, in milliseconds, if nobody ends it.
    ///
    /// # Errors
    ///
    /// [`ZoneError::Damaged`].
    pub fn hold_ends_in(&mut self) -> Result<u64, ZoneError> {
        Ok(self.follow()?.0.state.held_until.saturating_sub(clock::since_boot()))
    }
}

impl<'z, V> Known<'z, V> {
    /// Whether all new requests go to the same release.
    fn has_no_choice(&self) -> bool {
        !self.state.table.preview && self.state.route.canary().is_none()
    }

    /// A request that goes to this release, counted there or not.
    fn admitted(
        &self,
        to: &Rc<Destination<'z, V>>,
        reason: Reason,
        counted: bool,
    ) -> Admitted<'z, V> {
        Admitted {
            to: to.clone(),
            generation: self.state.route.generation(),
            reason,
            may_fall_back: self.state.table.fallback && reason != Reason::Preview,
            counted: counted.then_some(Kind::Request),
        }
    }

    /// Meets a release for the first time. `None` when there is no such place to count in.
    #[cold]
    fn meet<E>(
        &mut self,
        at: usize,
        zone: &Zone<'z>,
        row: Row,
        make: &mut impl FnMut(&Entry) -> Result<V, E>,
    ) -> Result<Option<Rc<Destination<'z, V>>>, E> {
        let Some(release) = self.state.table.releases.get(at) else { return Ok(None) };
        let (cell, counters) = (zone.cell(row, release.column), zone.counters(release.column));
        let (Some(cell), Some(counters), Some(place)) =
            (cell, counters, self.destinations.get_mut(at))
        else {
            return Ok(None);
        };
        let view = make(release)?;
        let to = Rc::new(Destination { release: release.clone(), view, cell, counters });
        Ok(Some(place.insert(to).clone()))
    }
}

/// The place of the release that a request falls back to.
fn next(state: &State, tried: &[u64]) -> Option<usize> {
    if !state.table.fallback {
        return None;
    }
    [state.route.active(), state.previous].into_iter().flatten().find_map(|index| {
        let fresh = |e: &Entry| e.index == index && !tried.contains(&e.serial);
        state.table.releases.iter().position(fresh)
    })
}

/// The place of a new request's release, and why it is that one.
fn choose<V>(known: &Known<'_, V>, wishes: &mut impl Wishes) -> Option<(usize, Reason)> {
    let state = &known.state;
    let canary = state.route.canary();
    let place = |wanted: &dyn Fn(&Entry) -> bool| {
        let at = state.table.releases.iter().position(wanted)?;
        Some((at, &state.table.releases[at]))
    };
    if state.table.preview
        && let Some(name) = wishes.preview()
        && let Some((at, entry)) = place(&|e| e.name == name)
        && (!state.is_exposed(entry.index)
            || state.route.active() == Some(entry.index)
            || canary.is_some_and(|(index, _)| index == entry.index))
    {
        return Some((at, Reason::Preview));
    }
    if let Some((index, share)) = canary
        && share > Portion::of_parts(0)
        && let Some((at, entry)) = place(&|e| e.index == index)
        && (share.parts() == Portion::WHOLE || wishes.point(&entry.name).is_within(share))
    {
        return Some((at, Reason::Canary));
    }
    known.active.map(|at| (at, Reason::Active))
}

#[cfg(all(test, not(loom)))]
pub(crate) mod testing {
    use super::*;

    /// What a worker makes that needs nothing.
    pub fn nothing(_: &Entry) -> Result<(), ZoneError> {
        Ok(())
    }

    /// A request without any wish.
    pub struct Plain;

    impl Wishes for Plain {
        fn preview(&mut self) -> Option<ReleaseName> {
            None
        }

        fn point(&mut self, _canary: &ReleaseName) -> Point {
            Point::random()
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::testing::{Plain, nothing};
    use super::*;
    use crate::change;
    use crate::reconcile::{Configured, reconcile};
    use crate::table::Member;
    use crate::worker::Identity;
    use crate::zone::testing::words;
    use shunt_api::ServerSpec;

    struct Names(&'static str);

    impl Wishes for Names {
        fn preview(&mut self) -> Option<ReleaseName> {
            ReleaseName::new(self.0).ok()
        }

        fn point(&mut self, canary: &ReleaseName) -> Point {
            Point::of(b"key", canary.as_str())
        }
    }

    fn name(text: &str) -> ReleaseName {
        ReleaseName::new(text).unwrap()
    }

    struct World<'z> {
        zone: Zone<'z>,
        record: usize,
        follower: Follower<'z, ()>,
    }

    impl<'z> World<'z> {
        fn new(words: &'z [crate::AtomicU64]) -> Self {
            Self::with_preview(words, true)
        }

        fn with_preview(words: &'z [crate::AtomicU64], preview: bool) -> Self {
            let zone = Zone::create(words, 4).unwrap();
            let member = |port: u16| {
                Member::from(&ServerSpec::new(format!("127.0.0.1:{port}").parse().unwrap()))
            };
            let releases =
                [("a", 1), ("b", 2), ("c", 3)].map(|(n, port)| (name(n), vec![member(port)]));
            let (web, releases) = ("web".to_owned(), releases.to_vec());
            let configured = [Configured { name: web, fallback: true, preview, releases }];
            let record = reconcile(&zone, &configured, None).unwrap().records[0];
            let row = zone.claim_row(Identity::me()).unwrap();
            Self { zone, record, follower: Follower::new(zone, row, record, "web") }
        }

        fn change(&self, f: impl FnOnce(&State) -> Option<State>) {
            let state = self.zone.state(self.record, None).unwrap();
            self.zone.prepare(self.record, &f(&state).unwrap()).unwrap().publish();
        }

        fn switch(&self, to: &str) {
            self.change(|state| change::switch(state, &name(to)).unwrap());
        }

        /// Where a request goes, and why; it ends at once.
        fn goes(&mut self, wishes: &mut impl Wishes) -> (String, Reason) {
            let admitted = self.follower.admit(wishes, nothing).unwrap().unwrap();
            (admitted.to.release.name.to_string(), admitted.reason)
        }

        /// Where a request goes that nothing has to be chosen or made for.
        fn goes_at_once(&self) -> Option<String> {
            Some(self.follower.admit_at_once()?.to.release.name.to_string())
        }

        fn falls_back(&mut self, tried: &[&str]) -> Option<String> {
            let state = self.zone.state(self.record, None).unwrap();
            let serials: Vec<u64> =
                tried.iter().map(|n| state.table.by_name(n).unwrap().serial).collect();
            let admitted = self.follower.fall_back(&serials, nothing).unwrap()?;
            let column = admitted.to.release.column;
            assert_eq!(self.zone.in_flight(column).requests, 1, "it is counted where it goes");
            Some(admitted.to.release.name.to_string())
        }
    }

    #[test]
    fn a_request_that_names_a_release_goes_there_unless_users_have_left_it() {
        let words = words(1 << 14);
        let mut w = World::new(&words);
        assert_eq!(w.goes(&mut Plain), ("a".into(), Reason::Active));
        assert_eq!(w.goes(&mut Names("c")), ("c".into(), Reason::Preview));
        assert_eq!(w.goes(&mut Names("nothing")), ("a".into(), Reason::Active));
        w.switch("b");
        assert_eq!(w.goes(&mut Names("b")), ("b".into(), Reason::Preview));
        assert_eq!(w.goes(&mut Names("a")), ("b".into(), Reason::Active), "it drains");
    }

    #[test]
    fn p1_a_request_goes_at_once_only_to_where_all_go_now() {
        let words = words(1 << 14);
        let mut w = World::with_preview(&words, false);
        assert_eq!(w.goes_at_once(), None, "the release was not met yet");
        assert_eq!(w.goes(&mut Plain).0, "a");
        assert_eq!(w.goes_at_once().as_deref(), Some("a"));
        w.switch("b");
        assert_eq!(w.goes_at_once(), None, "it would be the old release");
        assert_eq!(w.goes(&mut Plain).0, "b");
        assert_eq!(w.goes_at_once().as_deref(), Some("b"));
        w.change(|state| change::set_canary(state, &name("c"), Portion::of_parts(1)).unwrap());
        w.goes(&mut Plain);
        assert_eq!(w.goes_at_once(), None, "there is a canary to choose");
        w.change(change::end_canary);
        w.goes(&mut Plain);
        assert_eq!(w.goes_at_once().as_deref(), Some("b"));
        for column in w.follower.table().unwrap().columns() {
            assert_eq!(w.zone.in_flight(column).total(), 0, "each was counted, and has ended");
        }

        let words = self::words(1 << 14);
        let mut w = World::new(&words);
        w.goes(&mut Plain);
        assert_eq!(w.goes_at_once(), None, "a request may name its release");
    }

    #[test]
    fn a_canary_gets_its_share_and_whoever_names_another_release_is_spared() {
        let words = words(1 << 14);
        let mut w = World::new(&words);
        let canary = |share: u16| {
            move |state: &State| {
                change::set_canary(state, &name("b"), Portion::of_parts(share)).unwrap()
            }
        };
        // Miri is slow, and is not asked how good the chances are.
        let (many, expected, some) =
            if cfg!(miri) { (30, 1..30, 3) } else { (1000, 350..650, 100) };
        w.change(canary(5000));
        let went: Vec<_> = (0..many).map(|_| w.goes(&mut Plain)).collect();
        let canaries = went.iter().filter(|w| **w == ("b".into(), Reason::Canary)).count();
        assert!(expected.contains(&canaries), "{canaries}");
        assert_eq!(w.goes(&mut Names("a")), ("a".into(), Reason::Preview));
        w.change(canary(10_000));
        assert!((0..some).all(|_| w.goes(&mut Plain).0 == "b"));
        w.change(canary(0));
        assert!((0..some).all(|_| w.goes(&mut Plain).0 == "a"));
        w.change(change::end_canary);
        assert_eq!(w.goes(&mut Names("b")), ("a".into(), Reason::Active), "it drains");
    }

    #[test]
    fn a_request_falls_back_to_the_active_release_and_then_to_the_previous_one() {
        let words = words(1 << 14);
        let mut w = World::new(&words);
        assert_eq!(w.falls_back(&["a"]), None, "there is no previous one");
        w.switch("b");
        assert_eq!(w.falls_back(&["b"]).as_deref(), Some("a"));
        // A canary's request, or one that was admitted before the switch.
        assert_eq!(w.falls_back(&["c"]).as_deref(), Some("b"));
        assert_eq!(w.falls_back(&["c", "b"]).as_deref(), Some("a"));
        assert_eq!(w.falls_back(&["b", "a"]), None);
        w.change(change::forget_previous);
        assert_eq!(w.falls_back(&["b"]), None);
    }

    #[test]
    fn requests_are_parked_while_there_is_room_and_the_hold_ends_by_itself() {
        let words = words(1 << 14);
        let mut w = World::new(&words);
        assert!(matches!(w.follower.park(9).unwrap(), Parking::Free));
        let hold =
            |until| move |state: &State| Some(change::hold(state, clock::since_boot(), until));
        w.change(hold(clock::since_boot() + 3_600_000));
        let first = w.follower.hold().unwrap();
        let mut tickets = Vec::new();
        for _ in 0..2 {
            match w.follower.park(2).unwrap() {
                Parking::Parked(ticket, hold) => {
                    assert_eq!(Some(hold), first);
                    tickets.push(ticket);
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(matches!(w.follower.park(2).unwrap(), Parking::Full));
        let parked = w.follower.table().unwrap().parked;
        assert_eq!((w.zone.in_flight(parked).requests, w.zone.requests(parked)), (2, 2));
        drop(tickets);
        w.change(hold(u64::MAX));
        assert_eq!(w.follower.hold().unwrap(), first, "it goes on");
        w.change(change::resume);
        w.change(hold(u64::MAX));
        let second = w.follower.hold().unwrap();
        assert!(second.is_some() && second != first, "who waited for the first goes on");
        w.change(hold(clock::since_boot()));
        assert_eq!(w.follower.hold().unwrap(), None, "its time is over");
        w.change(hold(u64::MAX));
        w.zone.retire();
        assert_eq!(w.follower.hold().unwrap(), None, "nobody would ever end it");
    }
}
