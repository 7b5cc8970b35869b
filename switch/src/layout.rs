//! Where things lie in the zone's words.
//!
//! | part | words | holds |
//! | --- | --- | --- |
//! | header | 16 | what follows, so that any process can find its way |
//! | workers | one per row | who counts in this row |
//! | sharers | 32 | who counts in the shared row |
//! | records | 16 per upstream | route word, where its table is |
//! | owners | one per column | which upstream counts in this column |
//! | cells | rows × columns × 2 | in flight, requests |
//! | counters | 24 per column | what a release has answered |
//! | arena | 16 per block | tables of releases |
//!
//! A *row* belongs to a worker and a *column* to a release, or to the parked requests of an upstream. The last row belongs to nobody and
//! everybody: workers that find no free row share it.

use std::ops::Range;

use crate::counters::COUNTERS;

/// Words of the header.
pub const HEADER: usize = 16;
/// Workers that the shared row knows by name.
pub const SHARERS: usize = 32;
/// Words of an upstream's record.
pub const RECORD: usize = 16;
/// Words of a cell.
pub const CELL: usize = 2;
/// Words of a block of the arena: 128 bytes.
pub const BLOCK: usize = 16;

/// Columns and blocks that the layout has for each upstream.
const COLUMNS_PER_UPSTREAM: usize = 5;
const BLOCKS_PER_UPSTREAM: usize = 4;

/// Words of a cache line; rows start on one, so that workers do not share them.
const LINE: usize = 8;

/// How many of each there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Rows with a worker of their own; one more row is shared.
    pub workers: usize,
    /// Upstreams that fit.
    pub upstreams: usize,
    /// Releases that fit, and one more for each upstream.
    pub columns: usize,
    /// Blocks of the arena.
    pub blocks: usize,
}

impl Layout {
    /// Divides `words` for so many workers; `None` when not even one upstream fits.
    #[must_use]
    pub fn divide(words: usize, workers: usize) -> Option<Self> {
        // A number that stands in damaged memory can be any.
        if workers > words {
            return None;
        }
        let cells = CELL * (workers + 1);
        let each =
            RECORD + COLUMNS_PER_UPSTREAM * (cells + 1 + COUNTERS) + BLOCKS_PER_UPSTREAM * BLOCK;
        // Every part may lose up to a line to its alignment, and so may each row.
        let fixed = HEADER + round(workers + SHARERS) + LINE * (workers + 5);
        let upstreams = words.checked_sub(fixed)? / each;
        let layout = Self {
            workers,
            upstreams,
            columns: upstreams * COLUMNS_PER_UPSTREAM,
            blocks: upstreams * BLOCKS_PER_UPSTREAM,
        };
        (upstreams > 0 && layout.words() <= words).then_some(layout)
    }

    /// The word that tells who counts in this row.
    #[must_use]
    pub fn worker(&self, row: usize) -> usize {
        HEADER + row
    }

    /// A word that tells who counts in the shared row.
    #[must_use]
    pub fn sharer(&self, n: usize) -> usize {
        HEADER + self.workers + n
    }

    /// The words of an upstream's record.
    #[must_use]
    pub fn record(&self, upstream: usize) -> Range<usize> {
        let at = HEADER + round(self.workers + SHARERS) + upstream * RECORD;
        at..at + RECORD
    }

    /// The word that tells whose this column is.
    #[must_use]
    pub fn owner(&self, column: usize) -> usize {
        self.record(self.upstreams).start + column
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
        let at = self.cells() + (self.workers + 1) * self.row() + column * COUNTERS;
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
        round(self.owner(self.columns))
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
        fn parts_do_not_overlap_and_fit(words in 0usize..1_000_000, workers in 1usize..257) {
            let Some(layout) = Layout::divide(words, workers) else {
                prop_assert!(words < 20_000 + workers * 64, "{} words are enough", words);
                return Ok(());
            };
            prop_assert!(layout.words() <= words);
            prop_assert!(layout.worker(workers - 1) < layout.sharer(0));
            prop_assert!(layout.sharer(SHARERS - 1) < layout.record(0).start);
            prop_assert!(layout.record(layout.upstreams - 1).end <= layout.owner(0));
            prop_assert!(layout.owner(layout.columns - 1) < layout.cell(0, 0).start);
            for row in 0..workers {
                prop_assert!(layout.cell(row, layout.columns - 1).end <= layout.cell(row + 1, 0).start);
                prop_assert_eq!(layout.cell(row, 0).start % LINE, 0);
            }
            prop_assert!(layout.cell(workers, layout.columns - 1).end <= layout.counters(0).start);
            prop_assert_eq!(layout.counters(0).start % LINE, 0);
            prop_assert!(layout.counters(layout.columns - 1).end <= layout.arena(0..1).start);
            // Little is wasted: one more upstream would not fit by much.
            let column = CELL * (workers + 1) + 1 + COUNTERS;
            let each = RECORD + COLUMNS_PER_UPSTREAM * column + BLOCKS_PER_UPSTREAM * BLOCK;
            prop_assert!(words - layout.words() < each + LINE * (2 * workers + 12));
        }
    }
}
