//! Where tables are stored: runs of blocks.
//!
//! Nothing records which blocks are free. A writer looks which runs the upstreams' current sides
//! name; all others are free. So there is no book-keeping that a killed writer could leave wrong.

use std::ops::Range;

use crate::layout::BLOCK;
use crate::sync::Ordering;
use crate::zone::{Zone, ZoneError};

/// Where a table lies: its first block and its length in bytes, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(u64);

impl Place {
    pub(crate) fn from_word(word: u64) -> Self {
        Self(word)
    }

    pub(crate) fn word(self) -> u64 {
        self.0
    }

    fn bytes(self) -> usize {
        (self.0 & 0xffff_ffff) as usize
    }

    fn blocks(self) -> Range<usize> {
        let first = (self.0 >> 32) as usize;
        first..first + blocks(self.bytes())
    }
}

/// How many blocks so many bytes take.
pub(crate) fn blocks(bytes: usize) -> usize {
    bytes.div_ceil(BLOCK * 8)
}

/// The runs of free blocks between those that are taken.
fn gaps(zone: &Zone<'_>, mut taken: Vec<Range<usize>>) -> Vec<Range<usize>> {
    taken.sort_by_key(|run| run.start);
    let mut gaps = Vec::new();
    let (mut first, end) = (0, zone.layout().blocks);
    for run in taken {
        // A place in damaged memory may lie anywhere.
        if run.start.min(end) > first {
            gaps.push(first..run.start.min(end));
        }
        first = first.max(run.end);
    }
    if first < end {
        gaps.push(first..end);
    }
    gaps
}

/// Stores a text in free blocks, in place of `old` when it is published. Under the lock.
///
/// A text that is longer than the old one must leave room for the longest of all: otherwise the zone
/// could become so full that nothing can be deleted.
///
/// # Errors
///
/// [`ZoneError::NoBlocks`].
pub(crate) fn store(zone: &Zone<'_>, text: &[u8], old: Option<Place>) -> Result<Place, ZoneError> {
    let full = || ZoneError::NoBlocks { bytes: text.len() };
    let length = u32::try_from(text.len()).map_err(|_| full())?;
    let needed = blocks(text.len());
    let mut taken: Vec<Range<usize>> = zone.places().map(Place::blocks).collect();
    let mut room = gaps(zone, taken.clone());
    room.retain(|gap| gap.len() >= needed);
    let (Some(lowest), Some(highest)) = (room.first(), room.last()) else { return Err(full()) };
    if let Some(old) = old.map(Place::blocks) {
        taken.retain(|run| *run != old);
    }
    let longest = taken.iter().map(Range::len).chain([needed]).max().unwrap_or(0);
    // Where it leaves the longest run, once the old one is free.
    let left = |first: usize| {
        let taken = taken.iter().cloned().chain(std::iter::once(first..first + needed)).collect();
        gaps(zone, taken).iter().map(Range::len).max().unwrap_or(0)
    };
    let (low, high) = (lowest.start, highest.end - needed);
    let (first, left) = if left(high) > left(low) { (high, left(high)) } else { (low, left(low)) };
    if old.is_none_or(|old| old.bytes() < text.len()) && left < longest {
        return Err(full());
    }
    let at = zone.layout().arena(first..first + needed);
    for (word, bytes) in zone.words()[at].iter().zip(text.chunks(8)) {
        let mut eight = [0; 8];
        eight[..bytes.len()].copy_from_slice(bytes);
        word.store(u64::from_le_bytes(eight), Ordering::Relaxed);
    }
    Ok(Place((first as u64) << 32 | u64::from(length)))
}

/// Reads a text; `None` when the place lies outside of the arena. What is read is only worth
/// something if the upstream's route has not changed meanwhile.
pub(crate) fn load(zone: &Zone<'_>, place: Place) -> Option<Vec<u8>> {
    let blocks = place.blocks();
    if blocks.end > zone.layout().blocks {
        return None;
    }
    let mut text = Vec::with_capacity(blocks.len() * BLOCK * 8);
    for word in &zone.words()[zone.layout().arena(blocks)] {
        text.extend_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
    }
    text.truncate(place.bytes());
    Some(text)
}

/// The bytes of all blocks that a place takes.
pub(crate) fn size(place: Place) -> u64 {
    (place.blocks().len() * BLOCK * 8) as u64
}
