//! Rows of bf16 in global memory to the MMA's B operand in shared memory, as [`crate::prepare_rows_bf16`] makes it: f16 under
//! a power of two per row.
//!
//! Twice over the same bytes: a warp brings a chunk of 256 columns and notes its largest magnitude, and when all have, it
//! converts its own chunks in place. Four chunks are under way at a time.

use crate::to_f16::{RowPower, UNIT};
use cuda_std::convergence::opaque;
use cuda_std::global;
use cuda_std::math::max_u16x2;
use cuda_std::prelude::*;

use super::layout::{CHUNK_COLUMNS, MAX_COLUMNS, at, row_stride};

/// Chunks that a warp loads before it stores the first.
pub const BATCH: usize = 4;
/// Columns of a lane in a chunk.
const LANE_COLUMNS: u32 = CHUNK_COLUMNS / 32;
/// Most chunks of a row.
const MAX_CHUNKS: u32 = MAX_COLUMNS / CHUNK_COLUMNS;

/// Rows to be staged.
#[derive(Clone, Copy)]
pub struct Rows {
    /// bf16 `[rows][stride]`, 16-byte aligned.
    pub from: *const u16,
    /// Elements from row to row: a multiple of 8.
    pub stride: u32,
    /// Rows, at most sixteen.
    pub rows: u32,
    /// Columns that there are: a multiple of 8.
    pub k: u32,
    /// Units of 64 columns that are staged; zeros from column `k` on.
    pub k_units: u32,
}

/// The largest magnitude of eight bf16, as f32 bits.
#[inline(always)]
fn amax_bits(v: [u32; 4]) -> u32 {
    const ABS: u32 = 0x7fff_7fff;
    let low = max_u16x2(v[0] & ABS, v[1] & ABS);
    let high = max_u16x2(v[2] & ABS, v[3] & ABS);
    let max = max_u16x2(low, high);
    let (even, odd) = (max << 16, max & 0xffff_0000);
    if even > odd { even } else { odd }
}

/// Loads eight bf16 at each of the addresses that are not null; zeros for the others.
///
/// # Safety
/// They are readable and 16-byte aligned.
#[inline(always)]
pub unsafe fn load_thread(from: [*const u16; BATCH]) -> [[u32; 4]; BATCH] {
    // SAFETY: the caller's duty.
    from.map(|from| if from.is_null() { [0; 4] } else { unsafe { global::load_v4(from) } })
}

impl Rows {
    #[inline(always)]
    fn chunks(&self) -> u32 {
        (self.k_units * UNIT).div_ceil(CHUNK_COLUMNS)
    }

    /// Row, chunk and the lane's first column of item `item`.
    #[inline(always)]
    fn place(&self, item: u32) -> (u32, u32, u32) {
        let (row, chunk) = (item / self.chunks(), item % self.chunks());
        (row, chunk, chunk * CHUNK_COLUMNS + warp::lane_id() * LANE_COLUMNS)
    }

    /// Shared address of a lane's columns.
    #[inline(always)]
    fn at(&self, base: u32, row: u32, column: u32) -> u32 {
        base + at::ROWS + row * row_stride(self.k_units) + 2 * column
    }

    /// Brings the rows as they are, and their maxima: warp `warp` of `warps`. `load` gives the eight columns at each address that
    /// is not null, and zeros for the others.
    ///
    /// # Safety
    /// All of these warps call it, whole, and nobody reads staged rows any more; `load` may load the rows; `base` is the
    /// block's shared memory of [`super::layout`].
    #[inline(always)]
    pub unsafe fn load_warp(
        &self,
        base: u32,
        warp: u32,
        warps: u32,
        load: impl Fn([*const u16; BATCH]) -> [[u32; 4]; BATCH],
    ) {
        let items = self.rows * self.chunks();
        let mut item = warp;
        while item < items {
            // SAFETY: columns below `k` of rows that there are; places of the staged rows.
            unsafe {
                let mut from = [core::ptr::null(); BATCH];
                let mut n = 0;
                while n < BATCH {
                    let (row, _, column) = self.place(item + n as u32 * warps);
                    if row < self.rows && column < self.k {
                        let at = row as usize * self.stride as usize + column as usize;
                        from[n] = self.from.add(at);
                    }
                    n += 1;
                }
                let values = load(from);
                n = 0;
                while n < BATCH {
                    let (row, chunk, column) = self.place(item + n as u32 * warps);
                    let max = warp::reduce_max_u32(warp::FULL, amax_bits(values[n]));
                    if row < self.rows && column < self.k_units * UNIT {
                        shared::store_v4(self.at(base, row, column), values[n]);
                        // Its first columns are always there.
                        if opaque(warp::lane_id() == 0) {
                            shared::store_u32(base + at::MAXIMA + 4 * (row * MAX_CHUNKS + chunk), max);
                        }
                    }
                    n += 1;
                }
            }
            item += BATCH as u32 * warps;
        }
        // SAFETY: the whole warp is here.
        unsafe { warp::sync_warp(warp::FULL) };
    }

    /// Converts what this warp has brought; the rows' scales go to `scales`.
    ///
    /// # Safety
    /// As [`Self::load_warp`], with a block barrier after it; another must follow before the rows are read.
    #[inline(always)]
    pub unsafe fn convert_warp(&self, base: u32, warp: u32, warps: u32, scales: u32) {
        let (items, chunks) = (self.rows * self.chunks(), self.chunks());
        let lane = warp::lane_id();
        let mut item = warp;
        while item < items {
            let (row, chunk, column) = self.place(item);
            // SAFETY: as in `load_warp`; the whole warp is here.
            unsafe {
                let mut max = 0;
                if lane < chunks {
                    max = shared::load_u32(base + at::MAXIMA + 4 * (row * MAX_CHUNKS + lane));
                }
                let power = RowPower::of(warp::reduce_max_u32(warp::FULL, max));
                if column < self.k_units * UNIT {
                    let at = self.at(base, row, column);
                    shared::store_v4(at, power.words(shared::load_v4(at)));
                }
                if opaque(chunk == 0 && lane == 0) {
                    shared::store_u32(scales + 4 * row, power.scale.to_bits());
                }
            }
            item += warps;
        }
        // SAFETY: the whole warp is here.
        unsafe { warp::sync_warp(warp::FULL) };
    }
}
