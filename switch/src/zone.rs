//! The zone: words that processes share, and how to find one's way in them.

use shunt_api::InFlight;
use shunt_api::state::Share;

use crate::cells::{self, Cell};
use crate::counters::Counters;
use crate::layout::{Layout, SHARERS};
use crate::sync::{AtomicU64, Ordering};
use crate::table::MAX_RELEASES;
use crate::worker::Identity;

/// "shunt", and the version of the layout.
const MAGIC: u64 = u64::from_be_bytes(*b"shunt\0\0\x03");

/// The words of the header.
mod header {
    pub const MAGIC: usize = 0;
    pub const WORDS: usize = 1;
    pub const WORKERS: usize = 2;
    pub const UPSTREAMS: usize = 3;
    pub const COLUMNS: usize = 4;
    pub const BLOCKS: usize = 5;
    pub const SERIAL: usize = 6;
    pub const RETIRED: usize = 7;
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

/// A row of counters: a worker's own, or the shared one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row(usize);

impl<'z> Zone<'z> {
    /// Makes an empty zone of words that nobody uses yet, with rows for so many workers.
    ///
    /// # Errors
    ///
    /// [`ZoneError::TooSmall`].
    pub fn create(words: &'z [AtomicU64], workers: usize) -> Result<Self, ZoneError> {
        let layout = Layout::divide(words.len(), workers).ok_or(ZoneError::TooSmall)?;
        for word in words {
            word.store(0, Ordering::Relaxed);
        }
        let zone = Self { words, layout };
        for (at, value) in [
            (header::WORDS, words.len()),
            (header::WORKERS, layout.workers),
            (header::UPSTREAMS, layout.upstreams),
            (header::COLUMNS, layout.columns),
            (header::BLOCKS, layout.blocks),
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
        Self::create(self.words, self.layout.workers)
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
        let layout = Layout {
            workers: read(header::WORKERS)?,
            upstreams: read(header::UPSTREAMS)?,
            columns: read(header::COLUMNS)?,
            blocks: read(header::BLOCKS)?,
        };
        let sound = words[header::MAGIC].load(Ordering::Acquire) == MAGIC
            && read(header::WORDS)? == words.len()
            && Layout::divide(words.len(), layout.workers) == Some(layout);
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

    /// Takes a row for a worker; the shared one when no other is free. Under the lock, because the
    /// shared row is emptied once nobody who counted in it lives.
    pub fn claim_row(&self, me: Identity) -> Row {
        let rows = (0..self.layout.workers).map(|row| self.word(self.layout.worker(row)));
        if let Some(row) = cells::claim(rows, me, Identity::is_alive) {
            self.empty_row(row);
            return Row(row);
        }
        self.share_row(me)
    }

    /// Takes the shared row. Under the lock.
    pub(crate) fn share_row(&self, me: Identity) -> Row {
        let shared = self.layout.workers;
        if !self.is_shared() {
            self.empty_row(shared);
        }
        let sharers = || (0..SHARERS).map(|n| self.word(self.layout.sharer(n)));
        if !sharers().any(|word| word.load(Ordering::Acquire) == me.word()) {
            // With more sharers than there are places, the row is emptied a little early or late:
            // the counts of those without a place go with the last of the others.
            let _ = cells::claim(sharers(), me, Identity::is_alive);
        }
        Row(shared)
    }

    /// A row for what a process has in flight that does not count here, until it ends. Under the
    /// lock, and only in a zone where nobody counts yet: otherwise it may have one, to which it alone
    /// writes.
    pub(crate) fn row_of_other(&self, who: Identity) -> Row {
        let known =
            |row: &usize| self.word(self.layout.worker(*row)).load(Ordering::Acquire) == who.word();
        (0..self.layout.workers).find(known).map_or_else(|| self.claim_row(who), Row)
    }

    /// What the dead had in flight ended with them; what they had counted stays counted.
    fn empty_row(&self, row: usize) {
        for column in 0..self.layout.columns {
            self.word(self.layout.cell(row, column).start).store(0, Ordering::Release);
        }
    }

    /// Whether anybody who counts in the shared row lives.
    fn is_shared(&self) -> bool {
        (0..SHARERS).any(|n| {
            let word = self.word(self.layout.sharer(n)).load(Ordering::Acquire);
            Identity::from_word(word).is_some_and(Identity::is_alive)
        })
    }

    /// Whether this is the row for those who found no other.
    #[must_use]
    pub fn is_shared_row(&self, row: Row) -> bool {
        row.0 == self.layout.workers
    }

    /// Gives a row back when its worker ends in order. With something still in flight it stays the
    /// worker's, whose death then tells that it counts for nothing.
    pub fn leave_row(&self, row: Row) {
        if row.0 >= self.layout.workers {
            return;
        }
        let busy = (0..self.layout.columns)
            .any(|c| self.word(self.layout.cell(row.0, c).start).load(Ordering::Relaxed) != 0);
        if !busy {
            self.word(self.layout.worker(row.0)).store(0, Ordering::Release);
        }
    }

    /// The cell of a row and a column; `None` when there is no such column.
    #[must_use]
    pub fn cell(&self, row: Row, column: u32) -> Option<Cell<'z>> {
        let column = usize::try_from(column).ok().filter(|c| *c < self.layout.columns)?;
        let words = self.words[self.layout.cell(row.0, column)].first_chunk()?;
        Some(Cell::new(words, row.0 == self.layout.workers))
    }

    /// What is in flight in a column, as of a moment after the caller last loaded a route.
    #[must_use]
    pub fn in_flight(&self, column: u32) -> InFlight {
        let Some(column) = usize::try_from(column).ok().filter(|c| *c < self.layout.columns) else {
            return InFlight::default();
        };
        let rows = (0..=self.layout.workers).map(|row| {
            let worker = (row < self.layout.workers).then(|| self.word(self.layout.worker(row)));
            (worker, self.word(self.layout.cell(row, column).start))
        });
        cells::in_flight(rows, Identity::is_alive, || self.is_shared())
    }

    /// The requests that were ever given to a column's release.
    #[must_use]
    pub fn requests(&self, column: u32) -> u64 {
        let Some(column) = usize::try_from(column).ok().filter(|c| *c < self.layout.columns) else {
            return 0;
        };
        (0..=self.layout.workers)
            .map(|row| self.word(self.layout.cell(row, column).start + 1).load(Ordering::Relaxed))
            .fold(0, u64::wrapping_add)
    }

    /// Goes on from what another zone had counted.
    pub(crate) fn go_on_from(&self, column: u32, requests: u64, counters: &[u64]) {
        let Some(own) = self.counters(column) else { return };
        own.go_on_from(counters);
        // The shared row's cell takes additions of anybody.
        let at = self.layout.cell(self.layout.workers, column as usize).start + 1;
        self.word(at).fetch_add(requests, Ordering::Relaxed);
    }

    /// The counters of a column; `None` when there is no such column.
    #[must_use]
    pub fn counters(&self, column: u32) -> Option<Counters<'z>> {
        let column = usize::try_from(column).ok().filter(|c| *c < self.layout.columns)?;
        self.words[self.layout.counters(column)].first_chunk().map(Counters::new)
    }

    /// Workers that live and have a row here.
    #[must_use]
    pub fn workers(&self) -> usize {
        let own = |(_, row): &(Identity, Row)| !self.is_shared_row(*row);
        self.living().into_iter().filter(own).count()
    }

    /// Those who count here and live, and where.
    pub(crate) fn living(&self) -> Vec<(Identity, Row)> {
        let rows = (0..self.layout.workers).map(|row| (self.layout.worker(row), Row(row)));
        let shared = (0..SHARERS).map(|n| (self.layout.sharer(n), Row(self.layout.workers)));
        rows.chain(shared)
            .filter_map(|(at, row)| {
                let who = Identity::from_word(self.word(at).load(Ordering::Acquire))?;
                who.is_alive().then_some((who, row))
            })
            .collect()
    }

    /// Takes a column for this upstream: for a release, or for its parked requests. Under the lock.
    ///
    /// # Errors
    ///
    /// [`ZoneError::NoColumn`].
    pub(crate) fn take_column(&self, upstream: usize) -> Result<u32, ZoneError> {
        let full = || ZoneError::NoColumn(self.releases_use().capacity);
        let column = self.free_column().ok_or_else(full)?;
        for row in 0..=self.layout.workers {
            let at = self.layout.cell(row, column).start + 1;
            self.word(at).store(0, Ordering::Relaxed);
        }
        if let Some(counters) = self.counters(column as u32) {
            counters.clear();
        }
        self.word(self.layout.owner(column)).store(upstream as u64 + 1, Ordering::Release);
        Ok(column as u32)
    }

    /// Gives a column back. Under the lock.
    pub(crate) fn free(&self, column: u32) {
        let column = column as usize;
        if column < self.layout.columns {
            self.word(self.layout.owner(column)).store(0, Ordering::Release);
        }
    }

    fn free_column(&self) -> Option<usize> {
        (0..self.layout.columns).find(|column| {
            self.word(self.layout.owner(*column)).load(Ordering::Relaxed) == 0
                && self.in_flight(*column as u32).total() == 0
        })
    }

    /// Frees the columns that no table names: those of releases that were dropped while something
    /// was in flight, and those that a writer took just before it died. Under the lock, and before a
    /// change takes the first one: what it has taken, no table names yet.
    pub(crate) fn collect_columns(&self) {
        let mut used = vec![false; self.layout.columns];
        for (_, state) in self.states().flatten() {
            for column in state.table.columns() {
                if let Some(used) = used.get_mut(column as usize) {
                    *used = true;
                }
            }
        }
        for (column, used) in used.into_iter().enumerate() {
            if !used {
                self.free(column as u32);
            }
        }
    }

    /// Upstreams in the zone.
    #[must_use]
    pub fn upstreams_use(&self) -> Share {
        let used = (0..self.layout.upstreams).filter(|u| self.is_taken(*u)).count();
        Share { used: used as u64, capacity: self.layout.upstreams as u64 }
    }

    /// Releases in the zone.
    #[must_use]
    pub fn releases_use(&self) -> Share {
        let owned = |c: &usize| self.word(self.layout.owner(*c)).load(Ordering::Relaxed) != 0;
        let used = (0..self.layout.columns).filter(owned).count() as u64;
        // One column of each upstream counts its parked requests.
        Share {
            used: used.saturating_sub(self.upstreams_use().used),
            capacity: (self.layout.columns - self.layout.upstreams) as u64,
        }
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
        words[header::WORKERS].store(u64::MAX, Ordering::Relaxed);
        assert_eq!(Zone::attach(&words).err(), Some(ZoneError::Foreign));
    }

    #[test]
    fn a_megabyte_holds_three_hundred_upstreams() {
        let words = words(1 << 20);
        let layout = Zone::create(&words, 16).unwrap().layout();
        assert!(layout.upstreams >= 300, "{layout:?}");
        assert_eq!(Zone::create(&words[..100], 16).err(), Some(ZoneError::TooSmall));
    }

    #[test]
    fn p4_a_dead_workers_row_is_taken_over_without_its_in_flight() {
        let words = words(1 << 16);
        let zone = Zone::create(&words, 2).unwrap();
        let route = AtomicU64::new(0);
        let seen = crate::route::Route::load(&route);
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let start = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        let start = start.rsplit_once(") ").unwrap().1.split(' ').nth(19).unwrap().parse::<u64>();
        let row = zone.claim_row(Identity::new(child.id(), start.unwrap() as u32));
        assert!(zone.cell(row, 0).unwrap().enter(&route, seen));
        assert_eq!((zone.in_flight(0).requests, zone.workers()), (1, 1));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!((zone.in_flight(0).requests, zone.workers()), (0, 0));
        let mine = zone.claim_row(Identity::me());
        assert_eq!(mine, row);
        assert_eq!((zone.in_flight(0).requests, zone.requests(0)), (0, 1));
        // A second and a third claim: the other row, then the shared one.
        assert_ne!(zone.claim_row(Identity::me()), mine);
        let shared = zone.claim_row(Identity::me());
        assert!(zone.cell(shared, 0).unwrap().enter(&route, seen));
        assert_eq!(zone.in_flight(0).requests, 1);
        assert!(zone.is_shared_row(shared));
        // Of those who shared it nobody lives: what they counted is nobody's.
        words[zone.layout().sharer(0)].store(Identity::new(1 << 22, 1).word(), Ordering::Relaxed);
        assert_eq!(zone.in_flight(0).requests, 0);
        zone.claim_row(Identity::me());
        assert_eq!(zone.in_flight(0).requests, 0, "the next one starts from nothing");
        zone.leave_row(mine);
        assert_eq!(zone.workers(), 1);
    }
}
