//! The record of an upstream: its route word, and two sides that take turns.
//!
//! The side in use is the one that the generation's lowest bit names. A change writes the other one
//! and then raises the generation. A reader copies the side that its route names and looks at the
//! route again: if that has changed, the copy may be torn, and it starts over.

use std::rc::Rc;

use shunt_api::state::Share;

use crate::arena::{self, Place};
use crate::layout::BLOCK;
use crate::route::Route;
use crate::sync::{AtomicU64, Ordering, fence};
use crate::table::{Entry, Table};
use crate::zone::{Zone, ZoneError};

/// The words of a record.
mod field {
    pub const ROUTE: usize = 0;
    pub const TAKEN: usize = 1;
    pub const SWITCHES: usize = 2;
    pub const SIDES: usize = 4;
}

/// The words of a side.
mod side {
    pub const PLACE: usize = 0;
    pub const STAMP: usize = 1;
    pub const PREVIOUS: usize = 2;
    pub const HELD_UNTIL: usize = 3;
    pub const EXPOSED: usize = 4;
    pub const HELD_SINCE: usize = 5;
    pub const WORDS: usize = 6;
}

/// The state of an upstream at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// The route.
    pub route: Route,
    /// The index of the release that was active before the last switch.
    pub previous: Option<u8>,
    /// When a hold ends by itself, in milliseconds of [`crate::clock::since_boot`].
    pub held_until: u64,
    /// The generation that a hold began with: it tells the hold from the one after it.
    pub held_since: u32,
    /// The releases that users' requests went to since they were given their servers, a bit for each
    /// index. Such a release gets no preview once it is neither active nor the canary: it drains.
    pub exposed: u64,
    /// Tells this table from all others that the zone ever had.
    pub stamp: u64,
    /// The releases.
    pub table: Rc<Table>,
}

/// The bit of an index in [`State::exposed`].
pub(crate) fn bit(index: u8) -> u64 {
    1u64.checked_shl(index.into()).unwrap_or(0)
}

impl State {
    /// The hold at this time of [`crate::clock::since_boot`], by the generation that it began with.
    #[must_use]
    pub fn hold(&self, now: u64) -> Option<u32> {
        (self.route.is_held() && now < self.held_until).then_some(self.held_since)
    }

    /// Whether new requests may go to this release that do not name it.
    #[must_use]
    pub fn serves(&self, entry: &Entry) -> bool {
        let is = |index: Option<u8>| index == Some(entry.index);
        is(self.route.active())
            || self.route.canary().is_some_and(|(index, _)| index == entry.index)
            || (self.table.fallback && is(self.previous))
    }

    /// Whether new requests may go to this release, those that name it included.
    #[must_use]
    pub fn admits(&self, entry: &Entry) -> bool {
        self.serves(entry) || (self.table.preview && !self.is_exposed(entry.index))
    }

    /// Whether users' requests went to this release since it was given its servers.
    #[must_use]
    pub fn is_exposed(&self, index: u8) -> bool {
        self.exposed & bit(index) != 0
    }
}

/// A change that stands beside the old data. Dropped, it has changed nothing.
#[must_use = "a change that is not published has not happened"]
pub struct Prepared<'z> {
    zone: Zone<'z>,
    upstream: usize,
    route: Route,
}

impl Prepared<'_> {
    /// Makes the change happen, for everybody, at once.
    pub fn publish(self) -> Route {
        // Whoever has written it to the state file says so afterwards.
        self.zone.forget_mark();
        self.route.publish(self.zone.route_word(self.upstream));
        self.zone.record_word(self.upstream, field::TAKEN).store(1, Ordering::Release);
        self.route
    }
}

const NONE: u64 = u8::MAX as u64;

impl<'z> Zone<'z> {
    fn record_word(&self, upstream: usize, field: usize) -> &'z AtomicU64 {
        self.word(self.layout().record(upstream).start + field)
    }

    fn side_word(&self, upstream: usize, generation: u32, word: usize) -> &'z AtomicU64 {
        let turn = (generation & 1) as usize;
        self.record_word(upstream, field::SIDES + turn * side::WORDS + word)
    }

    /// The route word of an upstream.
    #[must_use]
    pub fn route_word(&self, upstream: usize) -> &'z AtomicU64 {
        self.record_word(upstream, field::ROUTE)
    }

    /// How many times another release was made active since the zone was made.
    #[must_use]
    pub fn switches(&self, upstream: usize) -> u64 {
        self.record_word(upstream, field::SWITCHES).load(Ordering::Relaxed)
    }

    pub(crate) fn set_switches(&self, upstream: usize, switches: u64) {
        self.record_word(upstream, field::SWITCHES).store(switches, Ordering::Relaxed);
    }

    pub(crate) fn is_taken(&self, upstream: usize) -> bool {
        self.record_word(upstream, field::TAKEN).load(Ordering::Acquire) != 0
    }

    /// The table's stamp at this route; only good if the route is still the same afterwards.
    pub(crate) fn stamp(&self, upstream: usize, route: Route) -> u64 {
        self.side_word(upstream, route.generation(), side::STAMP).load(Ordering::Relaxed)
    }

    /// Reads an upstream. With the state that the caller already knows, the table is only read
    /// again if it is another one.
    ///
    /// # Errors
    ///
    /// [`ZoneError::Damaged`] when what is there was not written by this code.
    pub fn state(&self, upstream: usize, known: Option<&State>) -> Result<State, ZoneError> {
        loop {
            let route = Route::load(self.route_word(upstream));
            let read =
                |word| self.side_word(upstream, route.generation(), word).load(Ordering::Relaxed);
            let (stamp, previous) = (read(side::STAMP), read(side::PREVIOUS));
            let (held_until, exposed) = (read(side::HELD_UNTIL), read(side::EXPOSED));
            let held_since = read(side::HELD_SINCE) as u32;
            let table = match known {
                Some(known) if known.stamp == stamp => Some(known.table.clone()),
                _ => arena::load(self, Place::from_word(read(side::PLACE)))
                    .and_then(|bytes| Table::from_bytes(&bytes))
                    .map(Rc::new),
            };
            fence(Ordering::Acquire);
            if Route::load(self.route_word(upstream)) != route {
                continue;
            }
            let table = table.ok_or(ZoneError::Damaged(upstream))?;
            let previous = (previous != NONE).then_some(previous as u8);
            return Ok(State { route, previous, held_until, held_since, exposed, stamp, table });
        }
    }

    /// All upstreams of the zone with their records, those of older configurations included.
    pub fn states(&self) -> impl Iterator<Item = Result<(usize, State), ZoneError>> {
        (0..self.layout().upstreams)
            .filter(|upstream| self.is_taken(*upstream))
            .map(|upstream| Ok((upstream, self.state(upstream, None)?)))
    }

    /// A record that no upstream has.
    ///
    /// # Errors
    ///
    /// [`ZoneError::NoRecord`].
    pub(crate) fn free_record(&self) -> Result<usize, ZoneError> {
        (0..self.layout().upstreams)
            .find(|upstream| !self.is_taken(*upstream))
            .ok_or(ZoneError::NoRecord(self.layout().upstreams))
    }

    /// Gives the record of an upstream back, which another zone has now. Its releases' columns are
    /// free as soon as nothing is in flight there. Under the lock.
    pub fn give_up(&self, upstream: usize) {
        self.forget_mark();
        if let Ok(state) = self.state(upstream, None) {
            state.table.columns().for_each(|column| self.free(column));
        }
        self.record_word(upstream, field::TAKEN).store(0, Ordering::Release);
    }

    /// Writes a state beside the one that is there. Under the lock.
    ///
    /// `next.route` must follow the one that is there. The table is written only if its stamp is
    /// new.
    ///
    /// # Errors
    ///
    /// [`ZoneError::NoBlocks`], and [`ZoneError::Retired`] when a later configuration has another
    /// zone.
    pub fn prepare(&self, upstream: usize, next: &State) -> Result<Prepared<'z>, ZoneError> {
        if self.is_retired() {
            return Err(ZoneError::Retired);
        }
        // What was published last must be there before the side of the one before is overwritten.
        fence(Ordering::SeqCst);
        let current = Route::load(self.route_word(upstream));
        let known = self.is_taken(upstream).then(|| {
            let word = self.side_word(upstream, current.generation(), side::PLACE);
            Place::from_word(word.load(Ordering::Relaxed))
        });
        let place = match known {
            Some(place) if self.stamp(upstream, current) == next.stamp => place,
            _ => arena::store(self, &next.table.to_bytes(), known)?,
        };
        for (word, value) in [
            (side::PLACE, place.word()),
            (side::STAMP, next.stamp),
            (side::PREVIOUS, next.previous.map_or(NONE, u64::from)),
            (side::HELD_UNTIL, next.held_until),
            (side::EXPOSED, next.exposed),
            (side::HELD_SINCE, next.held_since.into()),
        ] {
            let word = self.side_word(upstream, next.route.generation(), word);
            word.store(value, Ordering::Relaxed);
        }
        Ok(Prepared { zone: *self, upstream, route: next.route })
    }

    /// The places of all tables that somebody may be sent to.
    pub(crate) fn places(&self) -> impl Iterator<Item = Place> {
        (0..self.layout().upstreams).filter(|u| self.is_taken(*u)).map(|upstream| {
            let route = Route::load(self.route_word(upstream));
            let word = self.side_word(upstream, route.generation(), side::PLACE);
            Place::from_word(word.load(Ordering::Relaxed))
        })
    }

    /// The bytes that tables take.
    #[must_use]
    pub fn tables_use(&self) -> Share {
        let capacity = (self.layout().blocks * BLOCK * 8) as u64;
        Share { used: self.places().map(arena::size).sum(), capacity }
    }
}

#[cfg(all(test, loom))]
mod models {
    use super::*;
    use crate::table::Table;
    use loom::sync::Arc;
    use loom::thread;

    /// As few as a zone with one upstream can have.
    const WORDS: usize = 292;

    /// The time of the machine's, for which a zone does not care.
    const HOUR: u64 = 3_600_000;

    type Words = Arc<Vec<AtomicU64>>;

    /// Goes through all interleavings in which the threads are interrupted so often; more than that
    /// takes hours.
    fn model(interruptions: usize, f: impl Fn() + Sync + Send + 'static) {
        let mut model = loom::model::Builder::new();
        // All that a zone's words need at first, before there is more than one thread.
        model.max_branches = 50_000;
        model.preemption_bound = Some(interruptions);
        model.check(f);
    }

    fn zone(words: &Words) -> Zone<'_> {
        Zone::attach(words).unwrap()
    }

    /// The state of a generation: everything in it tells which one it is of.
    fn state(generation: u32, stamp: u64) -> State {
        let n = generation as u8;
        State {
            route: Route::new(generation, Some(n)),
            previous: Some(n),
            held_until: HOUR + u64::from(generation),
            held_since: generation,
            exposed: generation.into(),
            stamp,
            table: Rc::new(Table { parked: stamp as u32, ..Table::empty("w", 0) }),
        }
    }

    fn change(words: &Words, generation: u32, stamp: u64) {
        zone(words).prepare(0, &state(generation, stamp)).unwrap().publish();
    }

    /// What a reader finds must be of one generation.
    fn read(words: &Words, known: Option<&State>) -> State {
        let read = zone(words).state(0, known).unwrap();
        assert_eq!(read, state(read.route.generation(), read.stamp), "torn");
        read
    }

    fn words() -> Words {
        let words = Arc::new((0..WORDS).map(|_| AtomicU64::new(0)).collect::<Vec<_>>());
        Zone::create(&words, 1).unwrap();
        change(&words, 1, 1);
        words
    }

    #[test]
    fn p6_a_reader_finds_all_of_a_change_or_nothing() {
        model(2, || {
            let words = words();
            let reader = {
                let words = words.clone();
                thread::spawn(move || {
                    let known = state(1, 1);
                    let first = read(&words, Some(&known));
                    let second = read(&words, Some(&first));
                    assert!(second.route.generation() >= first.route.generation());
                })
            };
            // Two changes: the second one writes where the reader may still read. Another worker
            // makes it, which takes the lock from the first one, as if it had been started by it.
            change(&words, 2, 1);
            let second = {
                let words = words.clone();
                thread::spawn(move || change(&words, 3, 1))
            };
            second.join().unwrap();
            reader.join().unwrap();
            assert_eq!(read(&words, None).route.generation(), 3);
        });
    }

    #[test]
    fn p6_a_reader_finds_the_table_of_its_generation() {
        model(2, || {
            let words = words();
            let reader = {
                let words = words.clone();
                thread::spawn(move || read(&words, None).route.generation())
            };
            // The third table lies where the first one was.
            change(&words, 2, 2);
            let second = {
                let words = words.clone();
                thread::spawn(move || change(&words, 3, 3))
            };
            second.join().unwrap();
            assert!((1..=3).contains(&reader.join().unwrap()));
        });
    }

    #[test]
    fn p4_a_writer_that_dies_before_it_publishes_has_changed_nothing() {
        model(2, || {
            let words = words();
            let reader = {
                let words = words.clone();
                thread::spawn(move || read(&words, None).route.generation())
            };
            // It has written all of it, and is gone.
            drop(zone(&words).prepare(0, &state(2, 2)).unwrap());
            assert_eq!(reader.join().unwrap(), 1);
            // Whoever comes next starts from what was published.
            change(&words, 2, 4);
            assert_eq!(read(&words, None), state(2, 4));
        });
    }
}
