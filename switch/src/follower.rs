//! A worker's side of an upstream: which release does a new request go to?

use std::rc::Rc;

use shunt_api::{Portion, ReleaseName};

use crate::canary::Point;
use crate::cells::Kind;
use crate::clock;
use crate::record::State;
use crate::route::Route;
use crate::table::{Entry, Table};
use crate::zone::{Row, Zone, ZoneError};

/// Follows one upstream; one in each worker.
#[derive(Debug)]
pub struct Follower {
    upstream: usize,
    name: String,
    known: Option<State>,
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

/// A request that was counted in flight.
#[derive(Debug)]
pub struct Admitted {
    /// The generation by which its release was chosen.
    pub generation: u32,
    /// Why it was chosen.
    pub reason: Reason,
    /// The table that it was chosen from.
    pub table: Rc<Table>,
    /// Its place in that table.
    at: usize,
    /// What has to be given back when it ends.
    pub ticket: Option<Ticket>,
}

impl Admitted {
    /// The release that it goes to.
    #[must_use]
    pub fn release(&self) -> &Entry {
        &self.table.releases[self.at]
    }
}

/// One count in flight. It is given back by [`Ticket::give_back`], which takes it: exactly once.
#[derive(Debug)]
#[must_use = "a ticket that is dropped leaves a request in flight for ever"]
pub struct Ticket {
    row: Row,
    column: u32,
    kind: Kind,
}

impl Ticket {
    /// Where the request is counted.
    #[must_use]
    pub fn column(&self) -> u32 {
        self.column
    }

    /// Whether it is an upgraded connection by now.
    #[must_use]
    pub fn is_upgraded(&self) -> bool {
        self.kind == Kind::Upgraded
    }

    /// The request has become an upgraded connection.
    pub fn upgrade(&mut self, zone: &Zone<'_>) {
        if self.kind == Kind::Request
            && let Some(cell) = zone.cell(self.row, self.column)
        {
            cell.upgrade();
            self.kind = Kind::Upgraded;
        }
    }

    /// The request, or the connection, has ended.
    pub fn give_back(self, zone: &Zone<'_>) {
        if let Some(cell) = zone.cell(self.row, self.column) {
            cell.leave(self.kind);
        }
    }
}

/// What becomes of a request that may have to wait.
#[derive(Debug)]
pub enum Parking {
    /// Nothing is held: it goes on.
    Free,
    /// It waits until this hold has ended, and is counted.
    Parked(Ticket, u32),
    /// As many as may wait do so already.
    Full,
}

impl Follower {
    /// Follows the upstream in this record, which must have this name.
    #[must_use]
    pub fn new(upstream: usize, name: &str) -> Self {
        Self { upstream, name: name.to_owned(), known: None }
    }

    /// Brings what is known up to date, and tells whether it is still the upstream's.
    ///
    /// A later configuration without this upstream may have given its record away. The workers that
    /// still have it go on with what they knew.
    fn follow(&mut self, zone: &Zone<'_>) -> Result<(&State, bool), ZoneError> {
        let route = Route::load(zone.route_word(self.upstream));
        let mut ours = true;
        if self.known.as_ref().is_none_or(|known| known.route != route) {
            let state = zone.state(self.upstream, self.known.as_ref())?;
            ours = state.table.upstream == self.name;
            if ours {
                self.known = Some(state);
            }
        }
        let known = self.known.as_ref().ok_or(ZoneError::Damaged(self.upstream))?;
        Ok((known, ours))
    }

    /// The releases as they are now, to tell which of a worker's views are still of use.
    ///
    /// # Errors
    ///
    /// [`ZoneError::Damaged`].
    pub fn table(&mut self, zone: &Zone<'_>) -> Result<Rc<Table>, ZoneError> {
        Ok(self.follow(zone)?.0.table.clone())
    }

    /// Chooses the release of a new request and counts it in flight there. `None` when no release
    /// is active.
    ///
    /// # Errors
    ///
    /// [`ZoneError::Damaged`].
    pub fn admit(
        &mut self,
        zone: &Zone<'_>,
        row: Row,
        wishes: &mut impl Wishes,
    ) -> Result<Option<Admitted>, ZoneError> {
        self.enter(zone, row, |state| choose(state, wishes))
    }

    /// Chooses where a request goes on whose release could not be connected to, and counts it there:
    /// the active release, or else the previous one. `tried` are the serials of those that it was
    /// sent to. `None` when there is none, or `shunt_fallback` is off.
    ///
    /// # Errors
    ///
    /// [`ZoneError::Damaged`].
    pub fn fall_back(
        &mut self,
        zone: &Zone<'_>,
        row: Row,
        tried: &[u64],
    ) -> Result<Option<Admitted>, ZoneError> {
        self.enter(zone, row, |state| Some((next(state, tried)?, Reason::Fallback)))
    }

    /// Whether [`Follower::fall_back`] would find one.
    ///
    /// # Errors
    ///
    /// [`ZoneError::Damaged`].
    pub fn has_fallback(&mut self, zone: &Zone<'_>, tried: &[u64]) -> Result<bool, ZoneError> {
        Ok(next(self.follow(zone)?.0, tried).is_some())
    }

    fn enter(
        &mut self,
        zone: &Zone<'_>,
        row: Row,
        mut choose: impl FnMut(&State) -> Option<(u8, Reason)>,
    ) -> Result<Option<Admitted>, ZoneError> {
        let upstream = self.upstream;
        let damaged = || ZoneError::Damaged(upstream);
        loop {
            let (state, ours) = self.follow(zone)?;
            let Some((index, reason)) = choose(state) else { return Ok(None) };
            let at = state.table.releases.iter().position(|e| e.index == index);
            let at = at.ok_or_else(damaged)?;
            let column = state.table.releases[at].column;
            let cell = zone.cell(row, column).ok_or_else(damaged)?;
            // In a record that is another upstream's now there is nothing to count.
            let ticket = if !ours {
                None
            } else if cell.enter(zone.route_word(upstream), state.route) {
                Some(Ticket { row, column, kind: Kind::Request })
            } else {
                continue;
            };
            let generation = state.route.generation();
            return Ok(Some(Admitted {
                generation,
                reason,
                table: state.table.clone(),
                at,
                ticket,
            }));
        }
    }

    /// The hold that parks new requests now, if there is one. One load when there is none.
    ///
    /// # Errors
    ///
    /// [`ZoneError::Damaged`].
    pub fn hold(&mut self, zone: &Zone<'_>) -> Result<Option<u32>, ZoneError> {
        if !Route::load(zone.route_word(self.upstream)).is_held() {
            return Ok(None);
        }
        // Nobody would ever end the hold of a zone that was given up.
        if zone.is_retired() {
            return Ok(None);
        }
        let (state, ours) = self.follow(zone)?;
        Ok(state.hold(clock::since_boot()).filter(|_| ours))
    }

    /// Parks a request if new requests are held, unless `max` are parked already, in all workers.
    ///
    /// # Errors
    ///
    /// [`ZoneError::Damaged`].
    pub fn park(&mut self, zone: &Zone<'_>, row: Row, max: u64) -> Result<Parking, ZoneError> {
        let Some(hold) = self.hold(zone)? else { return Ok(Parking::Free) };
        let column = self.follow(zone)?.0.table.parked;
        let cell = zone.cell(row, column).ok_or(ZoneError::Damaged(self.upstream))?;
        cell.park();
        let ticket = Ticket { row, column, kind: Kind::Request };
        // Counted first and looked at then: two workers may both refuse, but never both let in.
        if zone.in_flight(column).requests > max {
            ticket.give_back(zone);
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
    pub fn hold_ends_in(&mut self, zone: &Zone<'_>) -> Result<u64, ZoneError> {
        Ok(self.follow(zone)?.0.held_until.saturating_sub(clock::since_boot()))
    }
}

/// The index of the release that a request falls back to.
fn next(state: &State, tried: &[u64]) -> Option<u8> {
    if !state.table.fallback {
        return None;
    }
    [state.route.active(), state.previous].into_iter().flatten().find(|index| {
        state.table.by_index(*index).is_some_and(|entry| !tried.contains(&entry.serial))
    })
}

/// The release of a new request, and why.
fn choose(state: &State, wishes: &mut impl Wishes) -> Option<(u8, Reason)> {
    let canary = state.route.canary();
    if state.table.preview
        && let Some(name) = wishes.preview()
        && let Some(entry) = state.table.by_name(name.as_str())
        && (!state.is_exposed(entry.index)
            || state.route.active() == Some(entry.index)
            || canary.is_some_and(|(index, _)| index == entry.index))
    {
        return Some((entry.index, Reason::Preview));
    }
    if let Some((index, share)) = canary
        && share > Portion::of_parts(0)
        && let Some(entry) = state.table.by_index(index)
        && (share.parts() == Portion::WHOLE || wishes.point(&entry.name).is_within(share))
    {
        return Some((index, Reason::Canary));
    }
    state.route.active().map(|index| (index, Reason::Active))
}

#[cfg(all(test, not(loom)))]
pub(crate) mod testing {
    use super::*;

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
    use super::testing::Plain;
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
        row: Row,
        record: usize,
        follower: Follower,
    }

    impl<'z> World<'z> {
        fn new(words: &'z [crate::AtomicU64]) -> Self {
            let zone = Zone::create(words, 4).unwrap();
            let member = |port: u16| {
                Member::from(&ServerSpec::new(format!("127.0.0.1:{port}").parse().unwrap()))
            };
            let releases =
                [("a", 1), ("b", 2), ("c", 3)].map(|(n, port)| (name(n), vec![member(port)]));
            let (fallback, preview) = (true, true);
            let (web, releases) = ("web".to_owned(), releases.to_vec());
            let configured = [Configured { name: web, fallback, preview, releases }];
            let record = reconcile(&zone, &configured, None).unwrap().records[0];
            let row = zone.claim_row(Identity::me());
            Self { zone, row, record, follower: Follower::new(record, "web") }
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
            let admitted = self.follower.admit(&self.zone, self.row, wishes).unwrap().unwrap();
            let went = (admitted.release().name.to_string(), admitted.reason);
            admitted.ticket.unwrap().give_back(&self.zone);
            went
        }

        fn falls_back(&mut self, tried: &[&str]) -> Option<String> {
            let state = self.zone.state(self.record, None).unwrap();
            let serials: Vec<u64> =
                tried.iter().map(|n| state.table.by_name(n).unwrap().serial).collect();
            let admitted = self.follower.fall_back(&self.zone, self.row, &serials).unwrap()?;
            let column = admitted.release().column;
            assert_eq!(self.zone.in_flight(column).requests, 1, "it is counted where it goes");
            let went = admitted.release().name.to_string();
            admitted.ticket.unwrap().give_back(&self.zone);
            Some(went)
        }
    }

    #[test]
    fn a_request_that_names_a_release_goes_there_unless_users_have_left_it() {
        let words = words(1 << 18);
        let mut w = World::new(&words);
        assert_eq!(w.goes(&mut Plain), ("a".into(), Reason::Active));
        assert_eq!(w.goes(&mut Names("c")), ("c".into(), Reason::Preview));
        assert_eq!(w.goes(&mut Names("nothing")), ("a".into(), Reason::Active));
        w.switch("b");
        assert_eq!(w.goes(&mut Names("b")), ("b".into(), Reason::Preview));
        assert_eq!(w.goes(&mut Names("a")), ("b".into(), Reason::Active), "it drains");
    }

    #[test]
    fn a_canary_gets_its_share_and_whoever_names_another_release_is_spared() {
        let words = words(1 << 18);
        let mut w = World::new(&words);
        let canary = |share: u16| {
            move |state: &State| {
                change::set_canary(state, &name("b"), Portion::of_parts(share)).unwrap()
            }
        };
        w.change(canary(5000));
        let went: Vec<_> = (0..1000).map(|_| w.goes(&mut Plain)).collect();
        let canaries = went.iter().filter(|w| **w == ("b".into(), Reason::Canary)).count();
        assert!((350..650).contains(&canaries), "{canaries}");
        assert_eq!(w.goes(&mut Names("a")), ("a".into(), Reason::Preview));
        w.change(canary(10_000));
        assert!((0..100).all(|_| w.goes(&mut Plain).0 == "b"));
        w.change(canary(0));
        assert!((0..100).all(|_| w.goes(&mut Plain).0 == "a"));
        w.change(change::end_canary);
        assert_eq!(w.goes(&mut Names("b")), ("a".into(), Reason::Active), "it drains");
    }

    #[test]
    fn a_request_falls_back_to_the_active_release_and_then_to_the_previous_one() {
        let words = words(1 << 18);
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
        let words = words(1 << 18);
        let mut w = World::new(&words);
        assert!(matches!(w.follower.park(&w.zone, w.row, 9).unwrap(), Parking::Free));
        let hold =
            |until| move |state: &State| Some(change::hold(state, clock::since_boot(), until));
        w.change(hold(clock::since_boot() + 3_600_000));
        let first = w.follower.hold(&w.zone).unwrap();
        let mut tickets = Vec::new();
        for _ in 0..2 {
            match w.follower.park(&w.zone, w.row, 2).unwrap() {
                Parking::Parked(ticket, hold) => {
                    assert_eq!(Some(hold), first);
                    tickets.push(ticket);
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(matches!(w.follower.park(&w.zone, w.row, 2).unwrap(), Parking::Full));
        let parked = w.follower.table(&w.zone).unwrap().parked;
        assert_eq!((w.zone.in_flight(parked).requests, w.zone.requests(parked)), (2, 2));
        tickets.into_iter().for_each(|ticket| ticket.give_back(&w.zone));
        w.change(hold(u64::MAX));
        assert_eq!(w.follower.hold(&w.zone).unwrap(), first, "it goes on");
        w.change(change::resume);
        w.change(hold(u64::MAX));
        let second = w.follower.hold(&w.zone).unwrap();
        assert!(second.is_some() && second != first, "who waited for the first goes on");
        w.change(hold(clock::since_boot()));
        assert_eq!(w.follower.hold(&w.zone).unwrap(), None, "its time is over");
        w.change(hold(u64::MAX));
        w.zone.retire();
        assert_eq!(w.follower.hold(&w.zone).unwrap(), None, "nobody would ever end it");
    }
}
