//! The zone: words that processes share, and how to find one's way in them.

use shunt_api::state::Share;

use crate::cells::{self, Cell};
use crate::counters::Counters;
use crate::layout::{Layout, rows_for};
use crate::sync::{AtomicU64, Ordering};
use crate::table::MAX_RELEASES;
use crate::worker::Identity;

/// "shunt", and the version of the layout.
const MAGIC: u64 = u64::from_be_bytes(*b"shunt\0\0\x05");

/// The words of the header.
pub(crate) mod header {
    pub const MAGIC: usize = 0;
    pub const WORDS: usize = 1;
    pub const ROWS: usize = 2;
    pub const UPSTREAMS: usize = 3;
    pub const COLUMNS: usize = 4;
    pub const BLOCKS: usize = 5;
    pub const SERIAL: usize = 6;
    pub const RETIRED: usize = 7;
    pub const BANKS: usize = 8;
    pub const PROCESSES: usize = 9;
    /// How the state file was left, see [`crate::mark`].
    pub const FILE_DEVICE: usize = 10;
    pub const FILE_INODE: usize = 11;
    pub const FILE_LENGTH: usize = 12;
    pub const FILE_BASE: usize = 13;
    pub const FILE_MODIFIED: usize = 14;
}

/// Why the zone cannot be used, or cannot take more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ZoneError {
    /// Not even one upstream fits.
    #[error("the zone is too small for a single upstream")]
    TooSmall,
    /// The words are not a zone of this version of the layout.
    #[error("the shared memory is not a zone of this version of shunt")]
    Foreign,
    /// Every record is in use.
    #[error("the zone is full, it has room for {0} upstreams")]
    NoRecord(usize),
    /// Every column is in use.
    #[error("the zone is full, it has room for {0} releases")]
    NoColumn(u64),
    /// All workers that can be counted for live, or there is nothing left to extend columns with.
    #[error(
        "the zone counts for {0} workers at once, those of older configurations that still drain \
         included, and has no room for more"
    )]
    NoWorker(usize),
    /// There is no run of free blocks that is long enough.
    #[error(
        "the zone is full, {bytes} more bytes for a table of releases are not free in one piece"
    )]
    NoBlocks {
        /// How long the table is.
        bytes: usize,
    },
    /// An upstream has no index left for one more release.
    #[error(
        "upstream {0:?} would have more than {MAX_RELEASES} releases, those that the API made \
         included: delete some of these, or declare fewer"
    )]
    NoIndex(String),
    /// A later configuration has another zone in place of this one.
    #[error("NGINX was reloaded with another zone, and this is a worker that ends; connect again")]
    Retired,
    /// Something in shared memory is not what this code writes.
    #[error("the zone is damaged at upstream record {0}")]
    Damaged(usize),
}

/// The zone of a `shunt_zone`. Cheap to copy: it only borrows the words.
#[derive(Clone, Copy)]
pub struct Zone<'z> {
    words: &'z [AtomicU64],
    layout: Layout,
}

/// Where a worker counts: a row of one of the banks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row(usize);

impl<'z> Zone<'z> {
    /// Makes an empty zone of words that nobody uses yet, with so many rows for workers.
    ///
    /// # Errors
    ///
    /// [`ZoneError::TooSmall`].
    pub fn create(words: &'z [AtomicU64], rows: usize) -> Result<Self, ZoneError> {
        let layout = Layout::divide(words.len(), rows).ok_or(ZoneError::TooSmall)?;
        for word in words {
            word.store(0, Ordering::Relaxed);
        }
        let zone = Self { words, layout };
        for (at, value) in [
            (header::WORDS, words.len()),
            (header::ROWS, layout.rows),
            (header::UPSTREAMS, layout.upstreams),
            (header::COLUMNS, layout.columns),
            (header::BLOCKS, layout.blocks),
            (header::BANKS, 1),
        ] {
            zone.word(at).store(value as u64, Ordering::Relaxed);
        }
        zone.word(header::MAGIC).store(MAGIC, Ordering::Release);
        Ok(zone)
    }

    /// Makes it empty again. Under the lock, and before anybody has found it.
    ///
    /// # Errors
    ///
    /// [`ZoneError::TooSmall`].
    pub fn start_over(&self) -> Result<Self, ZoneError> {
        Self::create(self.words, self.layout.rows)
    }

    /// How many words the zone says it has whose first words these are.
    #[must_use]
    pub fn announced_len(start: &[AtomicU64]) -> Option<usize> {
        let magic = start.get(header::MAGIC)?.load(Ordering::Acquire);
        let words = start.get(header::WORDS)?.load(Ordering::Relaxed);
        (magic == MAGIC).then(|| usize::try_from(words).ok()).flatten()
    }

    /// Finds the zone that another process, or an older configuration, made of these words.
    ///
    /// # Errors
    ///
    /// [`ZoneError::Foreign`] when it is not one, or has another size than it says.
    pub fn attach(words: &'z [AtomicU64]) -> Result<Self, ZoneError> {
        let read = |at: usize| {
            let value = words.get(at).map(|w| w.load(Ordering::Acquire));
            value.and_then(|v| usize::try_from(v).ok()).ok_or(ZoneError::Foreign)
        };
        let layout = Layout::divide(words.len(), read(header::ROWS)?).ok_or(ZoneError::Foreign)?;
        let sound = words[header::MAGIC].load(Ordering::Acquire) == MAGIC
            && read(header::WORDS)? == words.len()
            && read(header::UPSTREAMS)? == layout.upstreams
            && read(header::COLUMNS)? == layout.columns
            && read(header::BLOCKS)? == layout.blocks;
        if sound { Ok(Self { words, layout }) } else { Err(ZoneError::Foreign) }
    }

    /// How the words are divided.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layout
    }

    pub(crate) fn word(&self, at: usize) -> &'z AtomicU64 {
        &self.words[at]
    }

    /// Its size in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of_val(self.words)
    }

    pub(crate) fn words(&self) -> &'z [AtomicU64] {
        self.words
    }

    /// A number that was never given before: it tells one release, or one table, from all others
    /// that come to stand in the same place.
    pub(crate) fn serial(&self) -> u64 {
        self.word(header::SERIAL).fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    /// Says that a later configuration has another zone in place of this one: nothing is changed
    /// here any more. Under the lock.
    pub fn retire(&self) {
        self.word(header::RETIRED).store(1, Ordering::Release);
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.word(header::RETIRED).load(Ordering::Acquire) != 0
    }

    /// Takes a row for a worker. Under the lock, because the releases' columns are extended when all
    /// rows there are have a worker that lives.
    ///
    /// # Errors
    ///
    /// [`ZoneError::NoWorker`].
    pub fn claim_row(&self, me: Identity) -> Result<Row, ZoneError> {
        self.claim(me.word())
    }

    /// The same for a worker that could not have the lock: only rows that are always there.
    ///
    /// # Errors
    ///
    /// [`ZoneError::NoWorker`].
    pub fn claim_row_unlocked(&self, me: Identity) -> Result<Row, ZoneError> {
        let rows = self.layout.rows;
        self.claim_one_of(rows, me.word()).ok_or(ZoneError::NoWorker(rows))
    }

    fn claim(&self, word: u64) -> Result<Row, ZoneError> {
        loop {
            let banks = self.banks();
            let rows = (banks * self.layout.rows).min(self.layout.workers);
            if let Some(row) = self.claim_one_of(rows, word) {
                return Ok(row);
            }
            if banks == self.layout.banks() {
                return Err(ZoneError::NoWorker(rows));
            }
            self.set_banks(banks + 1)?;
        }
    }

    fn claim_one_of(&self, rows: usize, word: u64) -> Option<Row> {
        let rows = (0..rows).map(|row| self.worker_word(row));
        let row = Row(cells::claim(rows, word, Identity::is_alive)?);
        // What the dead had in flight ended with them; what they had counted stays counted.
        self.counts_of(row).for_each(|count| count.store(0, Ordering::Release));
        Some(row)
    }

    /// A row for what a process has in flight that does not count here, until it ends. Under the
    /// lock, and only in a zone where nobody counts yet: otherwise it may have one, to which it alone
    /// writes.
    ///
    /// # Errors
    ///
    /// As for [`Self::claim_row`].
    pub(crate) fn row_of_other(&self, who: Identity) -> Result<Row, ZoneError> {
        self.row_of(who.word())
    }

    /// A row for what a process has in flight somewhere else, also if it counts here itself. Under the
    /// lock.
    ///
    /// # Errors
    ///
    /// As for [`Self::claim_row`].
    pub(crate) fn stand_in_row(&self, who: Identity) -> Result<Row, ZoneError> {
        self.row_of(who.stand_in())
    }

    fn row_of(&self, word: u64) -> Result<Row, ZoneError> {
        let known = |row: &usize| self.worker_word(*row).load(Ordering::Acquire) == word;
        (0..self.layout.workers).find(known).map_or_else(|| self.claim(word), |row| Ok(Row(row)))
    }

    /// Makes room for worker processes that are about to start, beside those that live; and no more.
    /// Under the lock, and not while a change has taken columns.
    ///
    /// # Errors
    ///
    /// As for [`Self::claim_row`].
    pub fn make_room(&self, processes: usize) -> Result<(), ZoneError> {
        let (mut left, mut rows) = (processes, 0);
        for row in 0..self.layout.workers {
            let word = self.worker_word(row).load(Ordering::Acquire);
            if Identity::from_word(word).is_some_and(Identity::is_alive) {
                rows = row + 1;
            } else if left > 0 {
                left -= 1;
                rows = row + 1;
            }
        }
        if left > 0 {
            return Err(ZoneError::NoWorker(self.layout.workers));
        }
        self.set_banks(rows.div_ceil(self.layout.rows).max(1))?;
        self.word(header::PROCESSES).store(processes as u64, Ordering::Relaxed);
        Ok(())
    }

    /// How many rows a zone would have that were made for the same workers now.
    pub(crate) fn rows_of_next(&self) -> usize {
        match self.word(header::PROCESSES).load(Ordering::Relaxed) {
            0 => self.layout.rows,
            processes => rows_for(usize::try_from(processes).unwrap_or(usize::MAX)),
        }
    }

    fn worker_word(&self, row: usize) -> &'z AtomicU64 {
        self.word(self.layout.worker(row))
    }

    /// What the worker of a row counts as in flight, in every column of its bank.
    fn counts_of(&self, row: Row) -> impl Iterator<Item = &'z AtomicU64> {
        let zone = *self;
        let (bank, row) = (row.0 / self.layout.rows, row.0 % self.layout.rows);
        let columns = (0..self.layout.columns).filter(move |c| zone.bank_of(*c) == Some(bank));
        columns.map(move |column| zone.word(zone.layout.cell(row, column).start))
    }

    /// Gives a row back when its worker ends in order. With something still in flight it stays the
    /// worker's, whose death then tells that it counts for nothing.
    pub fn leave_row(&self, row: Row) {
        if row.0 < self.layout.workers
            && self.counts_of(row).all(|count| count.load(Ordering::Relaxed) == 0)
        {
            self.worker_word(row.0).store(0, Ordering::Release);
        }
    }

    /// The cell of a row and a release's column; `None` when there is no such column.
    #[must_use]
    pub fn cell(&self, row: Row, column: u32) -> Option<Cell<'z>> {
        let (bank, row) = (row.0 / self.layout.rows, row.0 % self.layout.rows);
        let column = self.chain(column as usize).nth(bank)?;
        self.words[self.layout.cell(row, column)].first_chunk().map(Cell::new)
    }

    /// Goes on from what another zone had counted.
    pub(crate) fn go_on_from(&self, column: u32, requests: u64, counters: &[u64]) {
        let Some(own) = self.counters(column) else { return };
        own.go_on_from(counters);
        // Nobody counts in the column yet, so its cells are nobody's.
        if let Some(column) = self.chain(column as usize).next() {
            let at = self.layout.cell(0, column).start + 1;
            self.word(at).fetch_add(requests, Ordering::Relaxed);
        }
    }

    /// The counters of a column; `None` when there is no such column.
    #[must_use]
    pub fn counters(&self, column: u32) -> Option<Counters<'z>> {
        let column = usize::try_from(column).ok().filter(|c| *c < self.layout.columns)?;
        self.words[self.layout.counters(column)].first_chunk().map(Counters::new)
    }

    /// Workers that live and count here.
    #[must_use]
    pub fn workers(&self) -> usize {
        let own = |(_, row): &(Identity, Row)| {
            !Identity::is_stand_in(self.worker_word(row.0).load(Ordering::Acquire))
        };
        self.living().into_iter().filter(own).count()
    }

    /// Those who live and count here, or for whom others do, and where.
    pub fn living(&self) -> Vec<(Identity, Row)> {
        let who = |row| {
            let who = Identity::from_word(self.worker_word(row).load(Ordering::Acquire))?;
            who.is_alive().then_some((who, Row(row)))
        };
        (0..self.layout.workers).filter_map(who).collect()
    }

    /// Upstreams in the zone.
    #[must_use]
    pub fn upstreams_use(&self) -> Share {
        let used = (0..self.layout.upstreams).filter(|u| self.is_taken(*u)).count();
        Share { used: used as u64, capacity: self.layout.upstreams as u64 }
    }
}

#[cfg(all(test, not(loom)))]
pub(crate) mod testing {
    use super::*;

    /// The words of a zone in private memory.
    pub fn words(bytes: usize) -> Vec<AtomicU64> {
        (0..bytes / 8).map(|_| AtomicU64::new(0)).collect()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::testing::words;
    use super::*;

    #[test]
    fn a_zone_is_found_again_and_a_stranger_is_not() {
        let words = words(1 << 20);
        assert_eq!(Zone::attach(&words).err(), Some(ZoneError::Foreign));
        let layout = Zone::create(&words, 16).unwrap().layout();
        assert_eq!(Zone::attach(&words).unwrap().layout(), layout);
        assert_eq!(Zone::attach(&words[1..]).err(), Some(ZoneError::Foreign));
        assert_eq!(Zone::attach(&[]).err(), Some(ZoneError::Foreign));
        words[header::COLUMNS].store(1 << 40, Ordering::Relaxed);
        assert_eq!(Zone::attach(&words).err(), Some(ZoneError::Foreign));
        words[header::ROWS].store(u64::MAX, Ordering::Relaxed);
        assert_eq!(Zone::attach(&words).err(), Some(ZoneError::Foreign));
    }

    #[test]
    fn a_megabyte_holds_three_hundred_upstreams() {
        let words = words(1 << 20);
        let layout = Zone::create(&words, 16).unwrap().layout();
        assert!(layout.upstreams >= 300, "{layout:?}");
        assert_eq!(Zone::create(&words[..100], 16).err(), Some(ZoneError::TooSmall));
    }

    /// A process that lives until it is killed.
    struct Other(std::process::Child);

    impl Other {
        fn start() -> Self {
            Self(std::process::Command::new("sleep").arg("600").spawn().unwrap())
        }

        fn identity(&self) -> Identity {
            Identity::of(self.0.id())
        }
    }

    impl Drop for Other {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn seen() -> (AtomicU64, crate::route::Route) {
        let route = AtomicU64::new(0);
        let seen = crate::route::Route::load(&route);
        (route, seen)
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri starts no processes")]
    fn p4_a_dead_workers_row_is_taken_over_without_its_in_flight() {
        let words = words(1 << 16);
        let zone = Zone::create(&words, 2).unwrap();
        let column = zone.take_column(0).unwrap();
        let (route, seen) = seen();
        let other = Other::start();
        let row = zone.claim_row(other.identity()).unwrap();
        assert!(zone.cell(row, column).unwrap().enter(&route, seen));
        assert_eq!((zone.in_flight(column).requests, zone.workers()), (1, 1));
        drop(other);
        assert_eq!((zone.in_flight(column).requests, zone.workers()), (0, 0));
        let mine = zone.claim_row(Identity::me()).unwrap();
        assert_eq!(mine, row);
        assert_eq!((zone.in_flight(column).requests, zone.requests(column)), (0, 1));
        zone.leave_row(mine);
        assert_eq!(zone.workers(), 0);
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri starts no processes")]
    fn p4_each_of_more_workers_than_rows_has_counts_of_its_own() {
        let words = words(1 << 16);
        let zone = Zone::create(&words, 2).unwrap();
        let table = crate::table::Table { parked: 0, ..crate::table::Table::empty("w", 0) };
        let column = zone.take_column(0).unwrap();
        assert_eq!(column, table.parked);
        let state = crate::record::State {
            route: crate::route::Route::new(1, None),
            previous: None,
            held_until: 0,
            held_since: 0,
            exposed: 0,
            stamp: 1,
            table: std::rc::Rc::new(table),
        };
        zone.prepare(0, &state).unwrap().publish();
        let (route, seen) = seen();
        let mut others: Vec<_> = (0..9).map(|_| Other::start()).collect();
        let rows: Vec<_> =
            others.iter().map(|other| zone.claim_row(other.identity()).unwrap()).collect();
        assert_eq!((zone.workers(), zone.banks()), (9, 5));
        for (n, row) in rows.iter().enumerate() {
            for _ in 0..=n {
                assert!(zone.cell(*row, column).unwrap().enter(&route, seen));
            }
        }
        assert_eq!((zone.in_flight(column).requests, zone.requests(column)), (45, 45));
        // One after the other dies, and takes with it what it had.
        for left in [36, 28, 21, 15] {
            others.pop();
            assert_eq!(zone.in_flight(column).requests, left);
        }
        assert_eq!((zone.workers(), zone.requests(column)), (5, 45));
        // The place of a dead one is taken again, from nothing.
        let again = zone.claim_row(others[0].identity()).unwrap();
        assert_eq!((again, zone.in_flight(column).requests), (rows[5], 15));
        // A release that comes later has cells for all of them, too.
        let later = zone.take_column(0).unwrap();
        let cell = zone.cell(rows[4], later).unwrap();
        assert!(cell.enter(&route, seen));
        assert_eq!((zone.in_flight(later).requests, zone.in_flight(column).requests), (1, 15));
        cell.leave(cells::Kind::Request);
        // Once they have ended, releases take one column again, and what was counted stays.
        others.truncate(1);
        zone.leave_row(again);
        zone.make_room(1).unwrap();
        assert_eq!((zone.banks(), zone.requests(column)), (1, 45));
        zone.free(later);
        zone.collect_columns();
        let most = zone.releases_use().capacity;
        for _ in 0..most - zone.releases_use().used {
            let free = zone.take_column(0).unwrap();
            assert_eq!(zone.in_flight(free).total(), 0);
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "takes all rows, which takes long, and has nothing for Miri")]
    fn there_is_no_row_for_more_workers_than_the_zone_counts_for() {
        let words = words(1 << 16);
        let zone = Zone::create(&words, 16).unwrap();
        let most = zone.layout().workers;
        for _ in 0..16 {
            zone.claim_row_unlocked(Identity::me()).unwrap();
        }
        let refused = zone.claim_row_unlocked(Identity::me());
        assert_eq!(refused, Err(ZoneError::NoWorker(16)), "without the lock nothing grows");
        for _ in 16..most {
            zone.claim_row(Identity::me()).unwrap();
        }
        assert_eq!(zone.workers(), most);
        assert_eq!(zone.claim_row(Identity::me()), Err(ZoneError::NoWorker(most)));
        assert_eq!(zone.make_room(1), Err(ZoneError::NoWorker(most)));
        zone.make_room(0).unwrap();
    }

    #[test]
    fn whoever_stands_for_another_is_no_worker() {
        let words = words(1 << 16);
        let zone = Zone::create(&words, 2).unwrap();
        let own = zone.claim_row(Identity::me()).unwrap();
        let stand_in = zone.stand_in_row(Identity::me()).unwrap();
        assert_ne!(own, stand_in);
        assert_eq!(zone.stand_in_row(Identity::me()), Ok(stand_in));
        assert_eq!(zone.row_of_other(Identity::me()), Ok(own));
        assert_eq!((zone.workers(), zone.living().len()), (1, 2));
    }
}
