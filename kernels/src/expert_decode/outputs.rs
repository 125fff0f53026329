//! What hands results on: from the first product to the second, and from the second to the sum of a token.
//!
//! Counters in device memory, zero before a launch and after it: whoever is last to use one sets it to zero, so a graph can
//! replay the launch and nothing needs to be cleared in front of it.

use cuda_std::half::bf16x2_from_f32;
use cuda_std::prelude::*;
use cuda_std::{atomic, convergence::opaque};

use crate::fragment::TILE_ROWS;
use crate::slots::NONE;

use super::layout::{MAX_ROWS, MAX_TOKENS, at};

/// Most row tiles of the second product.
pub const MAX_ROW_TILES: u32 = 512;
/// Words of counters.
pub const COUNTERS: u32 = TOKENS + MAX_TOKENS * MAX_ROW_TILES;
/// Of the blocks that wait for nothing any more.
const PASSED: u32 = MAX_ROWS;
/// Of tokens and row tiles.
const TOKENS: u32 = PASSED + 1;
/// Nanoseconds between looks at a counter.
const POLL_NS: u32 = 20;
/// Slots whose rows are read at a time.
const BATCH: usize = 8;

/// The counters: of each token tile, how many row tiles of the first product are done; of the blocks that have done their
/// waiting; of each token and row tile of the second product, how many of the token's rows are done.
#[derive(Clone, Copy)]
pub struct Counters(pub *mut u32);

impl Counters {
    /// One row tile of the first product is done for token tile `tile`: publishes what the warp has stored.
    ///
    /// # Safety
    /// The whole warp calls it.
    #[inline(always)]
    pub unsafe fn hand_over_warp(self, tile: u32) {
        // SAFETY: the token tile has a counter; the lane that adds publishes what the barrier has shown it.
        unsafe {
            warp::sync_warp(warp::FULL);
            if opaque(warp::lane_id() == 0) {
                atomic::add_release_u32(self.0.add(tile as usize), 1);
            }
        }
    }

    /// Waits until `tiles` row tiles of token tile `tile` are done, and acquires them.
    ///
    /// # Safety
    /// The token tile has a counter.
    #[inline(always)]
    pub unsafe fn wait_thread(self, tile: u32, tiles: u32) {
        loop {
            // SAFETY: the caller's duty.
            let is_done = unsafe { atomic::load_acquire_u32(self.0.add(tile as usize)) } >= tiles;
            // In either case, or the compiler would make two loads of it.
            thread::nanosleep(if is_done { 0 } else { POLL_NS });
            if is_done {
                return;
            }
        }
    }

    /// This block will not wait again. The last of `blocks` to say so clears the counters of `tiles` token tiles.
    ///
    /// # Safety
    /// One thread of each of `blocks` blocks calls it, after all its waits.
    #[inline(always)]
    pub unsafe fn pass_thread(self, blocks: u32, tiles: u32) {
        // SAFETY: the counters are there.
        unsafe {
            let passed = self.0.add(PASSED as usize);
            if atomic::fetch_add_acq_rel_u32(passed, 1) + 1 == blocks {
                atomic::store_u32(passed, 0);
                let mut tile = 0;
                while tile < tiles {
                    atomic::store_u32(self.0.add(tile as usize), 0);
                    tile += 1;
                }
            }
        }
    }

    #[inline(always)]
    fn of_token(self, token: u32, row_tile: u32) -> *mut u32 {
        self.0.wrapping_add((TOKENS + token * MAX_ROW_TILES + row_tile) as usize)
    }
}

/// Tokens and where their sums go.
#[derive(Clone, Copy)]
pub struct Tokens {
    /// f32 `[rows][columns]`: results of the second product.
    pub y: *const f32,
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

    /// Counts row tile `row_tile` of `rows` rows from `first_row` on as done, and combines the tokens of which it was the last.
    ///
    /// # Safety
    /// The whole warp, whose lanes have stored those results; the routing is built.
    #[inline(always)]
    pub unsafe fn finish_warp(&self, counters: Counters, first_row: u32, rows: u32, row_tile: u32) {
        let lane = warp::lane_id();
        // SAFETY: rows have tokens, and those counters; the whole warp is here.
        unsafe {
            // The lanes' stores, before the additions that publish them.
            warp::sync_warp(warp::FULL);
            let (mut token, mut is_last) = (0, false);
            if lane < rows {
                token = shared::load_u32(self.base + at::ROW_TOKEN + 4 * (first_row + lane));
                let others = shared::load_u32(self.base + at::TOKEN_ROWS + 4 * token) - 1;
                let counter = counters.of_token(token, row_tile);
                is_last = atomic::fetch_add_acq_rel_u32(counter, 1) == others;
                if is_last {
                    atomic::store_u32(counter, 0);
                }
            }
            // What the additions acquired, for all lanes.
            warp::sync_warp(warp::FULL);
            let mut left = warp::vote_ballot(warp::FULL, is_last);
            while left != 0 {
                let token = warp::shuffle_idx(warp::FULL, token, left.trailing_zeros());
                self.combine_thread(token, row_tile * TILE_ROWS as u32 + lane);
                left &= left - 1;
            }
        }
    }

    /// Combines a token's slots in the lane's column, if it is one of the tile: as [`crate::combine`] does, to the bit.
    ///
    /// # Safety
    /// The token's rows of `y` are finished in the tile, and nobody else combines it.
    #[inline(always)]
    unsafe fn combine_thread(&self, token: u32, column: u32) {
        if warp::lane_id() >= TILE_ROWS as u32 || column >= self.columns {
            return;
        }
        // SAFETY: slots of the token, rows that are finished.
        unsafe {
            let y = |row: u32| *self.y.add(row as usize * self.columns as usize + column as usize);
            let mut sum = 0.0;
            let mut first = 0;
            while first < self.top_k {
                let (mut rows, mut values) = ([NONE; BATCH], [0.0; BATCH]);
                let slot = |j: usize| 4 * (token * self.top_k + first + j as u32);
                let mut j = 0;
                while j < BATCH {
                    if first + (j as u32) < self.top_k {
                        rows[j] = shared::load_u32(self.base + at::SLOT_ROW + slot(j));
                        if rows[j] != NONE {
                            values[j] = y(rows[j]);
                        }
                    }
                    j += 1;
                }
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
                let more = y(shared::load_u32(self.base + at::SLOT_ROW + 4 * (self.shared_slots + token)));
                sum = if self.top_k == 0 { more } else { sum + more };
            }
            self.store_thread(token, column, sum);
        }
    }

    /// Stores zeros for tokens without any row, which no tile finishes.
    ///
    /// # Safety
    /// All threads of all blocks, `thread` of `threads`; the routing is built.
    #[inline(always)]
    pub unsafe fn store_rowless(&self, thread: u32, threads: u32) {
        let mut token = 0;
        while token < self.tokens {
            // SAFETY: the token exists.
            if unsafe { shared::load_u32(self.base + at::TOKEN_ROWS + 4 * token) } == 0 {
                let mut column = thread;
                while column < self.columns {
                    // SAFETY: the outputs hold it.
                    unsafe { self.store_thread(token, column, 0.0) };
                    column += threads;
                }
            }
            token += 1;
        }
    }
}
