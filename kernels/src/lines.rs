//! Token rows as the GEMMs by wgmma take them: gathered, and in the order that shared memory must have.
//!
//! Of an expert with `n` rows, whose first row is `offset`, each k unit (64 columns, 128 bytes) of all rows lies together:
//! row `i`'s columns of unit `u` are 128 bytes at `128 * (offset * k_units + u * n + i)`, their 16-byte chunk `c` at place
//! `c ^ (i & 7)`, the 128-byte swizzle of a tile that starts at a multiple of eight rows. So one bulk copy brings a unit of
//! a tile's rows.

use cuda_std::wgmma_rs::{B_ROW_BYTES, swizzled_chunk};

/// Chunks of 16 bytes of a row's unit.
pub const UNIT_CHUNKS: u32 = B_ROW_BYTES / 16;

/// Place of 16-byte chunk `chunk` of unit `unit` of row `row` of an expert with `rows` rows from `offset` on, in chunks.
#[inline(always)]
pub const fn place(offset: u32, rows: u32, k_units: u32, row: u32, unit: u32, chunk: u32) -> usize {
    let line = offset as usize * k_units as usize + (unit * rows + row) as usize;
    line * UNIT_CHUNKS as usize + swizzled_chunk(row, chunk) as usize
}
