//! In-flight counts: one cell for each worker and release.
//!
//! Why a request cannot slip by a drain. A request stores its count (`C`), passes a fence (`F1`) and
//! loads the route word (`L`). Whoever asks whether a release is drained loads the route word (`R`),
//! passes a fence (`F2`) and loads the counts (`D`). Both fences are sequentially consistent, so one
//! of them comes first:
//!
//! - `F1` first: `D` sees `C`. The release is not called drained.
//! - `F2` first: what `R` saw, `L` sees too. If `R` saw another release active, so does `L`; the
//!   request takes its count back and chooses again.
//!
//! The tests below let `loom` try all interleavings of exactly these functions.

use shunt_api::InFlight;

use crate::layout::CELL;
use crate::route::Route;
use crate::sync::{AtomicU64, Ordering, fence};
use crate::worker::Identity;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// A request.
    Request,
    /// An upgraded connection.
    Upgraded,
}

impl Kind {
    /// One of this kind, as it stands in a cell: requests in the lower half, upgraded above.
    const fn one(self) -> u64 {
        match self {
            Self::Request => 1,
            Self::Upgraded => 1 << 32,
        }
    }
}

/// The words of a cell.
const IN_FLIGHT: usize = 0;
const REQUESTS: usize = 1;

/// A cell of a worker, who alone writes to it.
#[derive(Debug, Clone, Copy)]
pub struct Cell<'z> {
    /// What is in flight, and the requests that ever were here.
    words: &'z [AtomicU64; CELL],
}

impl<'z> Cell<'z> {
    /// The cell in these two words.
    pub(crate) fn new(words: &'z [AtomicU64; CELL]) -> Self {
        Self { words }
    }

    /// Counts a request and tells whether `seen` is still the upstream's route. If it is not, the
    /// count is taken back: choose again.
    #[must_use]
    #[inline]
    pub fn enter(self, word: &AtomicU64, seen: Route) -> bool {
        self.change(IN_FLIGHT, |n| n.wrapping_add(Kind::Request.one()));
        fence(Ordering::SeqCst);
        if Route::load(word) == seen {
            self.count();
            true
        } else {
            self.leave(Kind::Request);
            false
        }
    }

    /// Counts a request that is parked.
    pub fn park(&self) {
        self.change(IN_FLIGHT, |n| n.wrapping_add(Kind::Request.one()));
    }

    /// Counts one more request that was ever here.
    pub fn count(&self) {
        self.change(REQUESTS, |n| n.wrapping_add(1));
    }

    /// The request has become an upgraded connection.
    pub fn upgrade(&self) {
        let change = Kind::Upgraded.one().wrapping_sub(Kind::Request.one());
        self.change(IN_FLIGHT, |n| n.wrapping_add(change));
    }

    /// Counts what was in flight before.
    pub(crate) fn add(&self, n: InFlight) {
        let requests = n.requests.wrapping_mul(Kind::Request.one());
        let change = requests.wrapping_add(n.upgraded.wrapping_mul(Kind::Upgraded.one()));
        self.change(IN_FLIGHT, |n| n.wrapping_add(change));
    }

    /// What stands in it.
    pub(crate) fn in_flight(&self) -> InFlight {
        in_flight_of(self.words[IN_FLIGHT].load(Ordering::Acquire))
    }

    /// What was counted has ended.
    #[inline]
    pub fn leave(&self, kind: Kind) {
        self.change(IN_FLIGHT, |n| n.wrapping_sub(kind.one()));
    }

    /// A cell with one writer needs no locked instruction.
    #[inline]
    fn change(&self, word: usize, f: impl Fn(u64) -> u64) {
        let word = &self.words[word];
        word.store(f(word.load(Ordering::Relaxed)), Ordering::Release);
    }
}

/// Reads what is in flight, for all workers, as of a moment after the route word was loaded.
///
/// `cells` gives for each cell who counts there and the count; it is only asked after the fence. A
/// worker that is dead counts for nothing, which is only looked at where there is a count.
pub fn in_flight<'z>(
    cells: impl Iterator<Item = (&'z AtomicU64, &'z AtomicU64)>,
    alive: impl Fn(Identity) -> bool,
) -> InFlight {
    fence(Ordering::SeqCst);
    let mut sum = InFlight::default();
    for (worker, count) in cells {
        let count = count.load(Ordering::Acquire);
        if count != 0 && Identity::from_word(worker.load(Ordering::Acquire)).is_some_and(&alive) {
            sum = sum + in_flight_of(count);
        }
    }
    sum
}

/// Reads the word of a cell.
fn in_flight_of(count: u64) -> InFlight {
    InFlight { requests: count & 0xffff_ffff, upgraded: count >> 32 }
}

/// Takes one of these rows by writing `mine` there: a free one, or that of a dead worker. `None` when
/// all are taken.
///
/// Not by the worker's number: after a reload, old and new workers overlap.
pub fn claim<'z>(
    rows: impl Iterator<Item = &'z AtomicU64>,
    mine: u64,
    alive: impl Fn(Identity) -> bool,
) -> Option<usize> {
    for (row, worker) in rows.enumerate() {
        let seen = worker.load(Ordering::Acquire);
        if Identity::from_word(seen).is_some_and(&alive) {
            continue;
        }
        if worker.compare_exchange(seen, mine, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            return Some(row);
        }
    }
    None
}

#[cfg(all(test, loom))]
mod models {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    struct Shared {
        route: AtomicU64,
        worker: AtomicU64,
        old: [AtomicU64; 2],
        new: [AtomicU64; 2],
        replied: AtomicU64,
    }

    fn shared() -> Arc<Shared> {
        let shared = Shared {
            route: AtomicU64::new(0),
            worker: AtomicU64::new(Identity::new(1, 1).word()),
            old: [AtomicU64::new(0), AtomicU64::new(0)],
            new: [AtomicU64::new(0), AtomicU64::new(0)],
            replied: AtomicU64::new(0),
        };
        Route::new(1, Some(0)).publish(&shared.route);
        Arc::new(shared)
    }

    /// A request: chooses, counts, looks again; returns the release that it went to.
    fn admit(s: &Shared) -> u8 {
        admit_by(s, Route::load(&s.route))
    }

    /// A request in a worker that knows this route.
    fn admit_by(s: &Shared, mut seen: Route) -> u8 {
        loop {
            let index = seen.active().unwrap();
            let words = if index == 0 { &s.old } else { &s.new };
            if Cell::new(words).enter(&s.route, seen) {
                return index;
            }
            seen = Route::load(&s.route);
        }
    }

    fn old_in_flight(s: &Shared) -> u64 {
        in_flight(std::iter::once((&s.worker, &s.old[0])), |_| true).total()
    }

    #[test]
    fn p1_a_request_after_the_reply_never_goes_to_the_old_release() {
        loom::model(|| {
            let s = shared();
            let worker = {
                let s = s.clone();
                thread::spawn(move || {
                    // The reply reaches the client, and the client's next request a worker, over
                    // sockets: an acquire and a release in terms of memory.
                    let after = s.replied.load(Ordering::Acquire) == 1;
                    let went_to = admit(&s);
                    assert!(!(after && went_to == 0), "an old release served a new request");
                })
            };
            Route::new(2, Some(1)).publish(&s.route);
            s.replied.store(1, Ordering::Release);
            worker.join().unwrap();
        });
    }

    #[test]
    fn p1_also_in_a_worker_that_still_knows_the_old_route() {
        loom::model(|| {
            let s = shared();
            let worker = {
                let s = s.clone();
                thread::spawn(move || {
                    let known = Route::load(&s.route);
                    let after = s.replied.load(Ordering::Acquire) == 1;
                    let went_to = admit_by(&s, known);
                    assert!(!(after && went_to == 0), "an old release served a new request");
                })
            };
            Route::new(2, Some(1)).publish(&s.route);
            s.replied.store(1, Ordering::Release);
            worker.join().unwrap();
        });
    }

    #[test]
    fn p2_a_drained_release_has_no_request_and_gets_none() {
        loom::model(|| {
            let s = shared();
            let worker = {
                let s = s.clone();
                thread::spawn(move || (admit(&s), s))
            };
            Route::new(2, Some(1)).publish(&s.route);
            let drained = old_in_flight(&s) == 0;
            let (went_to, s) = worker.join().unwrap();
            if went_to == 0 {
                assert!(!drained, "called drained with a request in flight");
                Cell::new(&s.old).leave(Kind::Request);
            }
            assert_eq!(old_in_flight(&s), 0);
        });
    }

    #[test]
    fn p2_also_for_whoever_did_not_make_the_switch() {
        loom::model(|| {
            let s = shared();
            let worker = {
                let s = s.clone();
                thread::spawn(move || admit(&s))
            };
            let asker = {
                let s = s.clone();
                thread::spawn(move || {
                    let moved = Route::load(&s.route).active() == Some(1);
                    moved && old_in_flight(&s) == 0
                })
            };
            Route::new(2, Some(1)).publish(&s.route);
            let (went_to, drained) = (worker.join().unwrap(), asker.join().unwrap());
            assert!(!(went_to == 0 && drained), "called drained with a request in flight");
        });
    }

    #[test]
    fn p2_also_in_a_row_that_a_dead_worker_had() {
        loom::model(|| {
            let s = shared();
            let dead = Identity::new(1, 1);
            let alive = move |i: Identity| i != dead;
            // It died with a request in flight.
            s.old[0].store(Kind::Request.one(), Ordering::Release);
            let worker = {
                let s = s.clone();
                thread::spawn(move || {
                    let row = claim(std::iter::once(&s.worker), Identity::new(2, 2).word(), alive);
                    assert_eq!(row, Some(0));
                    // As `Zone::claim_row` does.
                    s.old[0].store(0, Ordering::Release);
                    admit(&s)
                })
            };
            Route::new(2, Some(1)).publish(&s.route);
            let cells = || std::iter::once((&s.worker, &s.old[0]));
            let drained = in_flight(cells(), alive).total() == 0;
            let went_to = worker.join().unwrap();
            assert!(!(went_to == 0 && drained), "called drained with a request in flight");
            let left = in_flight(cells(), alive);
            assert_eq!(left.total(), u64::from(went_to == 0), "the dead worker's count is gone");
        });
    }

    #[test]
    fn p4_two_workers_never_take_the_same_row() {
        loom::model(|| {
            // One free row, and one of a dead worker.
            let rows = Arc::new([AtomicU64::new(Identity::new(9, 9).word()), AtomicU64::new(0)]);
            let alive = |i: Identity| i != Identity::new(9, 9);
            let other = {
                let rows = rows.clone();
                thread::spawn(move || claim(rows.iter(), Identity::new(1, 1).word(), alive))
            };
            let mine = claim(rows.iter(), Identity::new(2, 2).word(), alive);
            let other = other.join().unwrap();
            assert_ne!(mine, other);
            assert!(mine.is_some() && other.is_some(), "a row stayed free: {mine:?} {other:?}");
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn dead_workers_count_for_nothing_and_living_ones_add_up() {
        let (dead, living) = (Identity::new(1, 1), Identity::new(2, 2));
        let workers = [dead, living, living].map(|i| AtomicU64::new(i.word()));
        let counts = [5, 7 | 3 << 32, 1].map(AtomicU64::new);
        let sum = in_flight(workers.iter().zip(&counts), |i| i == living);
        assert_eq!(sum, InFlight { requests: 8, upgraded: 3 });
    }

    #[test]
    fn an_upgrade_moves_the_count() {
        let words = [AtomicU64::new(0), AtomicU64::new(0)];
        let worker = AtomicU64::new(Identity::new(1, 1).word());
        let route = AtomicU64::new(0);
        Route::new(1, Some(0)).publish(&route);
        let cell = Cell::new(&words);
        let read = || in_flight(std::iter::once((&worker, &words[0])), |_| true);
        assert!(cell.enter(&route, Route::new(1, Some(0))));
        assert_eq!(read(), InFlight { requests: 1, upgraded: 0 });
        cell.upgrade();
        assert_eq!(read(), InFlight { requests: 0, upgraded: 1 });
        cell.leave(Kind::Upgraded);
        assert_eq!(read(), InFlight::default());
        assert!(!cell.enter(&route, Route::new(2, Some(0))));
        assert_eq!(read(), InFlight::default());
        assert_eq!(words[1].load(Ordering::Relaxed), 1);
    }
}
