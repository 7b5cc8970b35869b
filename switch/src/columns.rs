//! Columns: who has them, and how they are extended when more workers live than a column has cells.
//!
//! A release's own column is of bank 0. Its link names the column of bank 1, whose link names that of
//! bank 2, and so on: as many as the zone has banks in use, and nobody counts in a bank before every
//! column is as long. Nothing of this is on a request's way: a worker looks for its cell once, when it
//! meets a release.
//!
//! A cell has one writer that lives, and no more. It could have a second one, a worker that was just
//! about to count there, if a column went over to another bank; so one only does that when it is of a
//! bank in which nobody is, and a release's own column never does.

use shunt_api::InFlight;
use shunt_api::state::Share;

use crate::cells;
use crate::layout::{CELL, LINE};
use crate::sync::{AtomicU64, Ordering};
use crate::worker::Identity;
use crate::zone::{Zone, ZoneError, header};

/// What a column's link says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Link {
    /// `None` as long as nobody ever had the column.
    bank: Option<usize>,
    next: Option<usize>,
}

impl Link {
    fn from_word(word: u64) -> Self {
        let less_one = |half: u64| (half as usize).checked_sub(1);
        Self { bank: less_one(word >> 32), next: less_one(word & 0xffff_ffff) }
    }

    fn word(self) -> u64 {
        let and_one = |n: Option<usize>| n.map_or(0, |n| n as u64 + 1);
        and_one(self.bank) << 32 | and_one(self.next)
    }

    /// Whether it is, or can become, a release's own.
    fn is_first(self) -> bool {
        self.bank.unwrap_or(0) == 0
    }
}

impl<'z> Zone<'z> {
    /// Banks in use: every column of a release is extended for so many.
    pub(crate) fn banks(&self) -> usize {
        let banks = self.word(header::BANKS).load(Ordering::Acquire);
        usize::try_from(banks).unwrap_or(usize::MAX).clamp(1, self.layout().banks())
    }

    fn link(&self, column: usize) -> Link {
        Link::from_word(self.word(self.layout().link(column)).load(Ordering::Acquire))
    }

    fn set_link(&self, column: usize, link: Link) {
        self.word(self.layout().link(column)).store(link.word(), Ordering::Release);
    }

    fn is_owned(&self, column: usize) -> bool {
        self.word(self.layout().owner(column)).load(Ordering::Acquire) != 0
    }

    fn disown(&self, column: usize) {
        self.word(self.layout().owner(column)).store(0, Ordering::Release);
    }

    /// The bank whose workers may have counted in this column; `None` when nobody ever did.
    pub(crate) fn bank_of(&self, column: usize) -> Option<usize> {
        self.link(column).bank
    }

    /// A release's column and those that extend it, in the order of their banks.
    pub(crate) fn chain(self, column: usize) -> impl Iterator<Item = usize> {
        let columns = self.layout().columns;
        let first = Some(column).filter(|c| *c < columns && self.link(*c).is_first());
        let next = move |column: &usize| self.link(*column).next.filter(|c| *c < columns);
        std::iter::successors(first, next).take(self.layout().banks())
    }

    /// What is in flight in a column, as of a moment after the caller last loaded a route.
    #[must_use]
    pub fn in_flight(&self, column: u32) -> InFlight {
        let zone = *self;
        let cells = zone.chain(column as usize).enumerate();
        let cells = cells.flat_map(move |(bank, column)| zone.counts(bank, column));
        cells::in_flight(cells, Identity::is_alive)
    }

    /// Who counts in a column, and the counts.
    fn counts(
        self,
        bank: usize,
        column: usize,
    ) -> impl Iterator<Item = (&'z AtomicU64, &'z AtomicU64)> {
        let layout = self.layout();
        let rows = (0..layout.rows).map(move |row| (bank * layout.rows + row, row));
        let rows = rows.take_while(move |(worker, _)| *worker < layout.workers);
        rows.map(move |(worker, row)| {
            (self.word(layout.worker(worker)), self.word(layout.cell(row, column).start))
        })
    }

    /// The requests that were ever given to a column's release.
    #[must_use]
    pub fn requests(&self, column: u32) -> u64 {
        let layout = self.layout();
        self.chain(column as usize)
            .flat_map(|column| (0..layout.rows).map(move |row| layout.cell(row, column).start + 1))
            .map(|at| self.word(at).load(Ordering::Relaxed))
            .fold(0, u64::wrapping_add)
    }

    /// Takes a column for this upstream: for a release, or for its parked requests. Under the lock.
    ///
    /// # Errors
    ///
    /// [`ZoneError::NoColumn`].
    pub(crate) fn take_column(&self, upstream: usize) -> Result<u32, ZoneError> {
        self.try_take(upstream)
            .or_else(|| {
                self.detach_free();
                self.try_take(upstream)
            })
            .ok_or_else(|| ZoneError::NoColumn(self.releases_use().capacity))
    }

    fn try_take(&self, upstream: usize) -> Option<u32> {
        let free = |column: &usize| {
            let link = self.link(*column);
            !self.is_owned(*column)
                && (link.is_first() || link.bank >= Some(self.banks()))
                && self.in_flight(*column as u32).total() == 0
        };
        let column = (0..self.layout().columns).find(free)?;
        // One that was a release's keeps what extends it.
        if self.bank_of(column) != Some(0) {
            self.put_in_bank(column, 0);
        }
        self.chain(column).for_each(|column| self.forget_requests(column));
        if let Some(counters) = self.counters(column as u32) {
            counters.clear();
        }
        self.own(column, upstream);
        if self.extend(column, upstream, self.banks()) {
            return Some(column as u32);
        }
        self.disown(column);
        None
    }

    fn own(&self, column: usize, upstream: usize) {
        self.word(self.layout().owner(column)).store(upstream as u64 + 1, Ordering::Release);
    }

    fn forget_requests(&self, column: usize) {
        for row in 0..self.layout().rows {
            let at = self.layout().cell(row, column).start + 1;
            self.word(at).store(0, Ordering::Relaxed);
        }
    }

    /// What the dead of the bank before had in flight must not become the living's.
    fn put_in_bank(&self, column: usize, bank: usize) {
        if self.bank_of(column) != Some(bank) {
            for row in 0..self.layout().rows {
                self.word(self.layout().cell(row, column).start).store(0, Ordering::Release);
            }
        }
        self.set_link(column, Link { bank: Some(bank), next: None });
    }

    /// Extends a column for so many banks; `false` when there are no columns left for it.
    fn extend(&self, column: usize, upstream: usize, banks: usize) -> bool {
        let chain: Vec<usize> = self.chain(column).collect();
        let Some(mut last) = chain.last().copied() else { return false };
        for bank in chain.len()..banks {
            let Some(next) = self.free_for_bank(bank) else { return false };
            self.put_in_bank(next, bank);
            self.forget_requests(next);
            self.own(next, upstream);
            self.set_link(last, Link { bank: Some(bank - 1), next: Some(next) });
            last = next;
        }
        true
    }

    /// A free column for a bank: from the end, as the releases' own are taken from the start, and, if
    /// possible, not between columns of other banks, whose workers would write to the same line.
    fn free_for_bank(&self, bank: usize) -> Option<usize> {
        let columns = self.layout().columns;
        let free = |column: &usize| {
            let of = self.bank_of(*column);
            !self.is_owned(*column)
                && of != Some(0)
                && of.is_none_or(|of| of == bank || of >= self.banks())
                && !self.is_counted_in(*column)
        };
        let is_apart = |column: &usize| {
            let line = column / (LINE / CELL) * (LINE / CELL);
            (line..(line + LINE / CELL).min(columns))
                .all(|other| self.bank_of(other).is_none_or(|of| of == bank))
        };
        let apart = (0..columns).rev().find(|column| free(column) && is_apart(column));
        apart.or_else(|| (0..columns).rev().find(free))
    }

    /// Whether anybody who lives has something in flight in exactly this column.
    fn is_counted_in(&self, column: usize) -> bool {
        self.bank_of(column).is_some_and(|bank| {
            cells::in_flight(self.counts(bank, column), Identity::is_alive).total() > 0
        })
    }

    /// Gives a column back, with what extends it. Under the lock.
    pub(crate) fn free(&self, column: u32) {
        let column = column as usize;
        if column < self.layout().columns {
            self.disown(column);
        }
    }

    /// Frees the columns that no table names: those of releases that were dropped while something
    /// was in flight, and those that a writer took just before it died. Under the lock, and before a
    /// change takes the first one: what it has taken, no table names yet.
    pub(crate) fn collect_columns(&self) {
        let mut used = vec![false; self.layout().columns];
        for (_, state) in self.states().flatten() {
            for column in state.table.columns() {
                if let Some(used) = used.get_mut(column as usize) {
                    *used = true;
                }
            }
        }
        for (column, used) in used.into_iter().enumerate() {
            if !used && self.link(column).is_first() {
                self.disown(column);
            }
        }
        self.detach_free();
    }

    /// Frees what extends columns that are free and have nothing in flight, or extends none. Under the
    /// lock.
    fn detach_free(&self) {
        let mut extends = vec![false; self.layout().columns];
        for column in (0..self.layout().columns).filter(|c| self.link(*c).is_first()) {
            if !self.is_owned(column) && self.in_flight(column as u32).total() == 0 {
                let bank = self.bank_of(column);
                self.set_link(column, Link { bank, next: None });
            }
            self.chain(column).skip(1).for_each(|column| extends[column] = true);
        }
        for (column, extends) in extends.into_iter().enumerate() {
            if !extends && !self.link(column).is_first() {
                self.disown(column);
            }
        }
    }

    /// Extends the releases' columns until there are so many banks. Under the lock, and not while a
    /// change has taken columns.
    ///
    /// # Errors
    ///
    /// [`ZoneError::NoWorker`] when there is nothing left to extend them with.
    pub(crate) fn set_banks(&self, banks: usize) -> Result<(), ZoneError> {
        if banks > self.banks() {
            self.collect_columns();
            for column in 0..self.layout().columns {
                let owner = self.word(self.layout().owner(column)).load(Ordering::Acquire);
                if let Some(upstream) = (owner as usize).checked_sub(1)
                    && self.link(column).is_first()
                    && !self.extend(column, upstream, banks)
                {
                    return Err(ZoneError::NoWorker(self.banks() * self.layout().rows));
                }
            }
        }
        self.word(header::BANKS).store(banks as u64, Ordering::Release);
        Ok(())
    }

    /// Releases in the zone.
    #[must_use]
    pub fn releases_use(&self) -> Share {
        let is_used = |column: &usize| self.link(*column).is_first() && self.is_owned(*column);
        let (mut used, mut taken) = (0, 0);
        for column in (0..self.layout().columns).filter(is_used) {
            used += 1;
            taken += self.chain(column).count();
        }
        let free = self.layout().columns.saturating_sub(taken) / self.banks();
        let upstreams = self.upstreams_use();
        // One column of each upstream counts its parked requests.
        Share {
            used: (used as u64).saturating_sub(upstreams.used),
            capacity: (used as u64 + free as u64).saturating_sub(upstreams.capacity),
        }
    }
}

#[cfg(all(test, loom))]
mod models {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;
    use crate::cells::Kind;
    use crate::record::State;
    use crate::route::Route;
    use crate::table::Table;

    /// As few as a zone with one upstream can have.
    const WORDS: usize = 292;

    #[test]
    fn p2_also_in_a_bank_that_a_worker_has_just_opened() {
        let mut model = loom::model::Builder::new();
        model.max_branches = 50_000;
        model.preemption_bound = Some(2);
        model.check(|| {
            let words: Arc<Vec<AtomicU64>> =
                Arc::new((0..WORDS).map(|_| AtomicU64::new(0)).collect());
            let zone = Zone::create(&words, 1).unwrap();
            // The only row has a worker.
            zone.claim_row(Identity::me()).unwrap();
            let column = zone.take_column(0).unwrap();
            let state = |generation, active| State {
                route: Route::new(generation, Some(active)),
                previous: None,
                held_until: 0,
                held_since: 0,
                exposed: 0,
                stamp: 1,
                table: std::rc::Rc::new(Table { parked: column, ..Table::empty("w", 0) }),
            };
            zone.prepare(0, &state(1, 0)).unwrap().publish();
            let switch = zone.prepare(0, &state(2, 1)).unwrap();
            let worker = {
                let words = words.clone();
                thread::spawn(move || {
                    let zone = Zone::attach(&words).unwrap();
                    let row = zone.claim_row(Identity::me()).unwrap();
                    let cell = zone.cell(row, column).unwrap();
                    let went = cell.enter(zone.route_word(0), Route::new(1, Some(0)));
                    (row, went)
                })
            };
            switch.publish();
            let drained = zone.in_flight(column).total() == 0;
            let (row, went) = worker.join().unwrap();
            assert!(!(went && drained), "called drained with a request in flight");
            assert_eq!(zone.in_flight(column).total(), u64::from(went));
            if went {
                zone.cell(row, column).unwrap().leave(Kind::Request);
            }
            assert_eq!(zone.in_flight(column).total(), 0);
        });
    }
}
