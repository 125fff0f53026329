//! The sums of tokens.

use cuda_std::half::bf16x2_from_f32;
use cuda_std::prelude::*;

use crate::slots::NONE;

use super::exchange::Exchange;
use super::layout::at;

/// Slots whose results are waited for at a time.
const BATCH: usize = 8;

/// Tokens and where their sums go.
#[derive(Clone, Copy)]
pub struct Tokens {
    /// f32 `[tokens][columns]`: a shared expert's results; or null.
    pub shared: *const f32,
    /// bf16 `[tokens][columns]`.
    pub out: *mut u16,
    /// f32 `[tokens][columns]`, or null.
    pub out_f32: *mut f32,
    /// Columns.
    pub columns: u32,
    /// Tokens.
    pub tokens: u32,
    /// Slots of a token.
    pub top_k: u32,
    /// Slots before the rows of a shared expert among the experts; [`NONE`] without one.
    pub shared_slots: u32,
    /// Shared memory of the block.
    pub base: u32,
}

impl Tokens {
    /// Stores the sum of a token's column with the shared expert's on top; NaN for a token that is not finite.
    ///
    /// # Safety
    /// The outputs hold it, and nobody else stores it.
    #[inline(always)]
    unsafe fn store_thread(&self, token: u32, column: u32, sum: f32) {
        let at = token as usize * self.columns as usize + column as usize;
        // SAFETY: the caller's duty.
        unsafe {
            let sum = if self.shared.is_null() { sum } else { sum + *self.shared.add(at) };
            let scale = f32::from_bits(shared::load_u32(self.base + at::X_SCALES + 4 * token));
            let sum = if scale.is_nan() || sum.is_nan() { f32::NAN } else { sum };
            self.out.add(at).write(bf16x2_from_f32(sum, 0.0) as u16);
            if !self.out_f32.is_null() {
                self.out_f32.add(at).write(sum);
            }
        }
    }

    /// Combines the tokens, 32 columns at a time: the part of warp `warp` of `warps` in each block. Zeros for a token without rows.
    ///
    /// # Safety
    /// All of these warps of all blocks; the routing is built; the second product's results will be there.
    #[inline(always)]
    pub unsafe fn combine_warp(&self, exchange: Exchange, warp: u32, warps: u32) {
        let chunks = self.columns.div_ceil(32);
        let (blocks, block) = (thread::grid_dim_x(), thread::block_idx_x());
        // Neighbours to different blocks.
        let mut chunk = block + blocks * warp;
        while chunk < self.tokens * chunks {
            let column = chunk % chunks * 32 + warp::lane_id();
            if column < self.columns {
                // SAFETY: a column of a token, and nobody else's.
                unsafe { self.combine_thread(exchange, chunk / chunks, column) };
            }
            chunk += blocks * warps;
        }
    }

    /// Combines a token's slots in a column: as [`crate::combine`] does, to the bit.
    ///
    /// # Safety
    /// As [`Self::combine_warp`]; nobody else combines it.
    #[inline(always)]
    unsafe fn combine_thread(&self, exchange: Exchange, token: u32, column: u32) {
        // SAFETY: slots of the token, and rows that will be there.
        unsafe {
            let mut sum = 0.0;
            let mut first = 0;
            while first < self.top_k {
                let slot = |j: usize| 4 * (token * self.top_k + first + j as u32);
                let mut rows = [NONE; BATCH];
                let mut j = 0;
                while j < BATCH {
                    if first + (j as u32) < self.top_k {
                        rows[j] = shared::load_u32(self.base + at::SLOT_ROW + slot(j));
                    }
                    j += 1;
                }
                let values = exchange.take_y_thread(rows, column);
                j = 0;
                while j < BATCH {
                    if rows[j] != NONE {
                        let weight = f32::from_bits(shared::load_u32(self.base + at::SLOT_WEIGHT + slot(j)));
                        sum += weight * values[j];
                    }
                    j += 1;
                }
                first += BATCH as u32;
            }
            if self.shared_slots != NONE {
                let row = shared::load_u32(self.base + at::SLOT_ROW + 4 * (self.shared_slots + token));
                let [more] = exchange.take_y_thread([row], column);
                sum += more;
            }
            self.store_thread(token, column, sum);
        }
    }
}
