//! How large a zone has to be.

use crate::arena;
use crate::layout::Layout;
use crate::table::Table;

/// No configuration needs a larger zone, in bytes.
pub const MAX: usize = 256 << 20;

/// The size in bytes of a zone that would do for these tables, with so many rows: `size`
/// doubled as often as it takes. `None` when not even [`MAX`] would do.
#[must_use]
pub fn that_would_do(size: usize, rows: usize, tables: &[Table]) -> Option<usize> {
    let blocks = |table: &Table| arena::blocks(table.to_bytes().len());
    let columns: usize = tables.iter().map(|table| table.columns().count()).sum();
    // One table more: a change is written beside what is there.
    let largest = tables.iter().map(blocks).max().unwrap_or(0);
    let blocks = tables.iter().map(blocks).sum::<usize>() + largest;
    let does = |layout: Layout| {
        layout.upstreams >= tables.len() && layout.columns >= columns && layout.blocks >= blocks
    };
    let sizes = std::iter::successors(Some(size.max(1)), |size| size.checked_mul(2));
    let mut sizes = sizes.skip(1).take_while(|size| *size <= MAX);
    sizes.find(|size| Layout::divide(size / 8, rows).is_some_and(does))
}

/// The directive for a zone with so many bytes for us: the slab pool's own book-keeping is under 2 %
/// of it.
#[must_use]
pub fn directive(zone: &str, size: usize) -> String {
    format!("\"shunt_zone {zone}:{}k\"", (size + size / 50).div_ceil(32 << 10) * 32)
}
