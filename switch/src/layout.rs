//! Where things lie in the zone's words.
//!
//! | part | words | holds |
//! | --- | --- | --- |
//! | header | 16 | what follows, so that any process can find its way |
//! | workers | one per worker | who counts there |
//! | records | 16 per upstream | route word, where its table is |
//! | owners | one per column | which upstream counts in this column |
//! | links | one per column | the column's bank, and the column that extends it |
//! | cells | rows × columns × 2 | in flight, requests |
//! | counters | 24 per column | what a release has answered |
//! | arena | 16 per block | tables of releases |
//!
//! A *row* belongs to a worker and a *column* to a release, or to the parked requests of an upstream.
//! When more workers live than there are rows, a release takes one column more for each further
//! *bank* of workers: worker `n` counts in row `n % rows` of the column of bank `n / rows`.

use std::ops::{Range, RangeInclusive};

use crate::counters::COUNTERS;

/// Words of the header.
pub const HEADER: usize = 16;
/// No zone counts for more workers at once.
pub const MAX_WORKERS: usize = 1024;
/// Words of an upstream's record.
pub const RECORD: usize = 16;
/// Words of a cell.
pub const CELL: usize = 2;
/// Words that each column has besides its cells and counters.
const OWNER_AND_LINK: usize = 2;
/// Words of a block of the arena: 128 bytes.
pub const BLOCK: usize = 16;

/// Columns and blocks that the layout has for each upstream.
const COLUMNS_PER_UPSTREAM: usize = 5;
const BLOCKS_PER_UPSTREAM: usize = 4;

/// A small zone has a place for a worker in each so many words.
const WORDS_PER_WORKER: usize = 32;

/// Rows for each worker process: one, and three more for the old ones that still drain after as many
/// reloads.
const ROWS_PER_WORKER: usize = 4;
const ROWS: RangeInclusive<usize> = 16..=256;

/// Words of a cache line; rows start on one, so that workers do not share them.
pub const LINE: usize = 8;

/// How many rows a zone is made with when NGINX has so many worker processes.
#[must_use]
pub fn rows_for(worker_processes: usize) -> usize {
    worker_processes.saturating_mul(ROWS_PER_WORKER).clamp(*ROWS.start(), *ROWS.end())
}

/// How many of each there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Rows, each with a cell in every column.
    pub rows: usize,
    /// Workers that are counted for at once, in all banks.
    pub workers: usize,
    /// Upstreams that fit.
    pub upstreams: usize,
    /// Releases that fit, and one more for each upstream.
    pub columns: usize,
    /// Blocks of the arena.
    pub blocks: usize,
}

impl Layout {
    /// Divides `words` with so many rows; `None` when not even one upstream fits.
    #[must_use]
    pub fn divide(words: usize, rows: usize) -> Option<Self> {
        // A number that stands in damaged memory can be any.
        if rows == 0 || rows > words {
            return None;
        }
        let workers = (words / WORDS_PER_WORKER).min(MAX_WORKERS).max(rows);
        let column = CELL * rows + OWNER_AND_LINK + COUNTERS;
        let each = RECORD + COLUMNS_PER_UPSTREAM * column + BLOCKS_PER_UPSTREAM * BLOCK;
        // Every part may lose up to a line to its alignment, and so may each row.
        let fixed = HEADER + round(workers) + LINE * (rows + 4);
        let upstreams = words.checked_sub(fixed)? / each;
        let layout = Self {
            rows,
            workers,
            upstreams,
            columns: upstreams * COLUMNS_PER_UPSTREAM,
            blocks: upstreams * BLOCKS_PER_UPSTREAM,
        };
        (upstreams > 0 && layout.words() <= words).then_some(layout)
    }

    /// The most banks that workers can be in.
    #[must_use]
    pub fn banks(&self) -> usize {
        self.workers.div_ceil(self.rows)
    }

    /// The word that tells which worker this is.
    #[must_use]
    pub fn worker(&self, worker: usize) -> usize {
        HEADER + worker
    }

    /// The words of an upstream's record.
    #[must_use]
    pub fn record(&self, upstream: usize) -> Range<usize> {
        let at = HEADER + round(self.workers) + upstream * RECORD;
        at..at + RECORD
    }

    /// The word that tells whose this column is.
    #[must_use]
    pub fn owner(&self, column: usize) -> usize {
        self.record(self.upstreams).start + column
    }

    /// The word that tells a column's bank, and which column extends it.
    #[must_use]
    pub fn link(&self, column: usize) -> usize {
        self.owner(self.columns) + column
    }

    /// The words of a cell.
    #[must_use]
    pub fn cell(&self, row: usize, column: usize) -> Range<usize> {
        let at = self.cells() + row * self.row() + column * CELL;
        at..at + CELL
    }

    /// The words of a column's counters.
    #[must_use]
    pub fn counters(&self, column: usize) -> Range<usize> {
        let at = self.cells() + self.rows * self.row() + column * COUNTERS;
        at..at + COUNTERS
    }

    /// The words of a run of blocks.
    #[must_use]
    pub fn arena(&self, blocks: Range<usize>) -> Range<usize> {
        let at = self.counters(self.columns).start;
        at + blocks.start * BLOCK..at + blocks.end * BLOCK
    }

    /// All words.
    #[must_use]
    pub fn words(&self) -> usize {
        self.arena(0..self.blocks).end
    }

    fn cells(&self) -> usize {
        round(self.link(self.columns))
    }

    fn row(&self) -> usize {
        round(self.columns * CELL)
    }
}

fn round(words: usize) -> usize {
    words.next_multiple_of(LINE)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_do_not_overlap_and_fit(words in 0usize..1_000_000, rows in 1usize..257) {
            let Some(layout) = Layout::divide(words, rows) else {
                prop_assert!(words < 20_000 + rows * 64, "{} words are enough", words);
                return Ok(());
            };
            prop_assert!(layout.words() <= words);
            prop_assert!(layout.workers >= rows && layout.banks() * rows >= layout.workers);
            prop_assert!(layout.worker(layout.workers - 1) < layout.record(0).start);
            prop_assert!(layout.record(layout.upstreams - 1).end <= layout.owner(0));
            prop_assert!(layout.owner(layout.columns - 1) < layout.link(0));
            prop_assert!(layout.link(layout.columns - 1) < layout.cell(0, 0).start);
            for row in 0..rows {
                let next = if row + 1 < rows { layout.cell(row + 1, 0) } else { layout.counters(0) };
                prop_assert!(layout.cell(row, layout.columns - 1).end <= next.start);
                prop_assert_eq!(layout.cell(row, 0).start % LINE, 0);
            }
            prop_assert_eq!(layout.counters(0).start % LINE, 0);
            prop_assert!(layout.counters(layout.columns - 1).end <= layout.arena(0..1).start);
            // Little is wasted: one more upstream would not fit by much.
            let column = CELL * rows + OWNER_AND_LINK + COUNTERS;
            let each = RECORD + COLUMNS_PER_UPSTREAM * column + BLOCKS_PER_UPSTREAM * BLOCK;
            prop_assert!(words - layout.words() < each + LINE * (2 * rows + 12));
        }
    }

    #[test]
    fn a_zone_of_some_size_counts_for_a_thousand_workers() {
        let workers = |bytes: usize, rows| Layout::divide(bytes / 8, rows).unwrap().workers;
        assert_eq!((workers(1 << 20, 16), workers(1 << 18, 16)), (MAX_WORKERS, MAX_WORKERS));
        // The slab pool takes a page of the smallest one.
        assert_eq!((workers(28 << 10, 16), rows_for(0)), (112, 16));
    }
}
