//! What becomes of accumulators in the mega kernel: the two outputs of the split form, and what hands them on.
//!
//! Between the products stands a counter for each range of tokens ([`Ranges`]): every warp of the epilogue of a tile of the
//! first product adds one when its part of the operand is written, and a tile of the second may read the operand when all
//! have. Behind the second product stands a counter for each token and 32 columns ([`Tokens`]): whoever finishes the
//! token's last slot there combines all of them, in slot order. Whoever is last to use a counter sets it to zero.

use cuda_std::convergence::opaque;
use cuda_std::half::bf16x2_from_f32;
use cuda_std::prelude::*;
use cuda_std::{atomic, fence};

use crate::operand::BLOCK_ROWS;
use crate::slots::NONE;
use crate::tcgen05_gemm::layout::{EPILOGUE_WARPS, START_ALIGN};
use crate::tcgen05_gemm::output::{Chunk, Output, PlainF32, SwigluNvfp4};
use crate::tcgen05_gemm::tiles::Tile;

/// Columns that a warp has of a row block: those of one counter.
pub const GROUP_COLUMNS: u32 = BLOCK_ROWS as u32 / EPILOGUE_WARPS;
/// Nanoseconds between looks at a counter.
const POLL_NS: u32 = 40;
/// Slots whose rows are read at a time.
const BATCH: u32 = 8;

/// The counters between the products.
#[derive(Clone, Copy)]
pub struct Ranges {
    /// u32 `[rows / 64]`: of the range that starts there.
    pub counters: *mut u32,
    /// Additions of the first product's tiles of a range.
    pub written: u32,
    /// Additions of the second one's.
    pub read: u32,
}

impl Ranges {
    /// Of `blocks` tiles of a range in the first and the second product, each done by `blocks_of_tile` blocks of threads.
    #[inline(always)]
    pub const fn new(counters: *mut u32, blocks: [u32; 2], blocks_of_tile: u32) -> Self {
        let warps = EPILOGUE_WARPS * blocks_of_tile;
        Self { counters, written: warps * blocks[0], read: warps * blocks[1] }
    }

    #[inline(always)]
    fn of(&self, tile: Tile) -> *mut u32 {
        self.counters.wrapping_add((tile.first / START_ALIGN) as usize)
    }

    /// Waits until `written` additions have been made and acquires what they publish.
    ///
    /// # Safety
    /// The range has a counter.
    #[inline(always)]
    pub unsafe fn wait(&self, tile: Tile, written: u32) {
        // SAFETY: the caller's duty.
        while unsafe { atomic::load_acquire_u32(self.of(tile)) } < written {
            thread::nanosleep(POLL_NS);
        }
    }
}

/// The first product's output: as in the split form; tells the range's counter.
pub struct First {
    /// What is written.
    pub output: SwigluNvfp4,
    /// The counters.
    pub ranges: Ranges,
}

impl Output for First {
    #[inline(always)]
    unsafe fn alphas(&self, expert: u32) -> [f32; 2] {
        // SAFETY: the caller's duty.
        unsafe { self.output.alphas(expert) }
    }

    #[inline(always)]
    unsafe fn store(&self, chunk: Chunk) {
        // SAFETY: the caller's duty.
        unsafe { self.output.store(chunk) }
    }

    #[inline(always)]
    unsafe fn end(&self, tile: Tile) {
        // The operand is read by bulk copies.
        fence::proxy_async_global();
        // SAFETY: the whole warp is here; the lane that adds publishes what the barrier has shown it.
        unsafe {
            warp::sync_warp(warp::FULL);
            if opaque(warp::lane_id() == 0) {
                atomic::add_release_u32(self.ranges.of(tile), 1);
            }
        }
    }
}

/// Tokens, their slots and where their sums go.
#[derive(Clone, Copy)]
pub struct Tokens {
    /// Token of each row.
    pub row_token: *const u32,
    /// Row of each slot, [`NONE`] for none: `[tokens][top_k]`.
    pub slot_row: *const u32,
    /// Weight of each slot.
    pub weights: *const f32,
    /// Row of token 0 in the shared expert, or [`NONE`].
    pub shared_row: u32,
    /// Scale of each token, whose NaN makes the sum NaN; or null.
    pub scale: *const f32,
    /// Tokens.
    pub tokens: u32,
    /// Slots of a token.
    pub top_k: u32,
    /// u32 `[tokens][groups]`: finished slots of a token and [`GROUP_COLUMNS`] columns.
    pub counters: *mut u32,
    /// Groups of columns.
    pub groups: u32,
    /// bf16 `[tokens][stride]`.
    pub out: *mut u16,
    /// f32 `[tokens][stride]`, or null.
    pub out_f32: *mut f32,
    /// Elements from token to token of both.
    pub stride: u32,
}

impl Tokens {
    /// Slots of a token that have a row, the shared expert's included.
    ///
    /// # Safety
    /// The token exists.
    #[inline(always)]
    unsafe fn rows_of(&self, token: u32) -> u32 {
        let mut rows = u32::from(self.shared_row != NONE);
        let mut slot = 0;
        while slot < self.top_k {
            // SAFETY: the slot exists.
            let row = unsafe { *self.slot_row.add((token * self.top_k + slot) as usize) };
            rows += u32::from(row != NONE);
            slot += 1;
        }
        rows
    }

    /// Stores the sum of a token's column.
    ///
    /// # Safety
    /// The outputs hold it, and nobody else stores it.
    #[inline(always)]
    unsafe fn store(&self, token: u32, column: u32, sum: f32) {
        let at = token as usize * self.stride as usize + column as usize;
        // SAFETY: the caller's duty.
        unsafe {
            let is_nan = !self.scale.is_null() && (*self.scale.add(token as usize)).is_nan();
            let sum = if is_nan || sum.is_nan() { f32::NAN } else { sum };
            self.out.add(at).write(bf16x2_from_f32(sum, 0.0) as u16);
            if !self.out_f32.is_null() {
                self.out_f32.add(at).write(sum);
            }
        }
    }

    /// Combines a token's slots for column `column` of each lane, as [`crate::combine`] does, to the bit:
    /// `((0 + w_0 * y_0) + w_1 * y_1) + ..`, the shared expert's row on top.
    ///
    /// # Safety
    /// The whole warp, with the same token, whose rows of `y` are finished in these columns; lanes with `wanted` have a
    /// column of their own.
    #[inline(always)]
    unsafe fn combine(&self, y: *const f32, y_stride: u32, token: u32, column: u32, wanted: bool) {
        let lane = warp::lane_id();
        // SAFETY: the caller's duty.
        let at = |row: u32| unsafe {
            if wanted { *y.add(row as usize * y_stride as usize + column as usize) } else { 0.0 }
        };
        let mut sum = 0.0;
        let mut slot = 0;
        while slot < self.top_k {
            let (mut row, mut weight) = (NONE, 0.0);
            if lane < BATCH && slot + lane < self.top_k {
                let of = (token * self.top_k + slot + lane) as usize;
                // SAFETY: the slot exists.
                (row, weight) = unsafe { (*self.slot_row.add(of), *self.weights.add(of)) };
            }
            let (mut rows, mut weights, mut values) =
                ([NONE; BATCH as usize], [0.0; BATCH as usize], [0.0; BATCH as usize]);
            let mut j = 0;
            while j < BATCH as usize {
                // SAFETY: the whole warp is here.
                unsafe {
                    rows[j] = warp::shuffle_idx(warp::FULL, row, j as u32);
                    weights[j] = f32::from_bits(warp::shuffle_idx(warp::FULL, weight.to_bits(), j as u32));
                }
                j += 1;
            }
            j = 0;
            while j < BATCH as usize {
                if rows[j] != NONE {
                    values[j] = at(rows[j]);
                }
                j += 1;
            }
            j = 0;
            while j < BATCH as usize {
                if rows[j] != NONE {
                    sum += weights[j] * values[j];
                }
                j += 1;
            }
            slot += BATCH;
        }
        if self.shared_row != NONE {
            let more = at(self.shared_row + token);
            sum = if self.top_k == 0 { more } else { sum + more };
        }
        if wanted {
            // SAFETY: the caller's duty.
            unsafe { self.store(token, column, sum) };
        }
    }

    /// Stores zeros for tokens without any row, which no tile finishes: warp `first` of `stride` takes every `stride`-th 32.
    ///
    /// # Safety
    /// The whole warp; the outputs hold `columns` columns.
    #[inline(always)]
    pub unsafe fn store_rowless(&self, first: u32, stride: u32, columns: u32) {
        let lane = warp::lane_id();
        let mut base = first * 32;
        while base < self.tokens {
            let token = base + lane;
            // SAFETY: the tokens exist; the whole warp is here.
            unsafe {
                let is_rowless = token < self.tokens && self.rows_of(token) == 0;
                let mut left = warp::vote_ballot(warp::FULL, is_rowless);
                while left != 0 {
                    let token = base + left.trailing_zeros();
                    let mut column = lane;
                    while column < columns {
                        self.store(token, column, 0.0);
                        column += 32;
                    }
                    left &= left - 1;
                }
            }
            base += stride * 32;
        }
    }
}

/// The second product's output: as in the split form, and the combination of what is finished.
pub struct Second {
    /// What is written.
    pub output: PlainF32,
    /// The counters between the products.
    pub ranges: Ranges,
    /// What is combined.
    pub tokens: Tokens,
}

impl Output for Second {
    #[inline(always)]
    unsafe fn alphas(&self, expert: u32) -> [f32; 2] {
        // SAFETY: the caller's duty.
        unsafe { self.output.alphas(expert) }
    }

    #[inline(always)]
    unsafe fn begin(&self, tile: Tile) {
        // The producer has waited; this thread reads scales of rows.
        // SAFETY: the caller's duty.
        unsafe { self.ranges.wait(tile, self.ranges.written) }
    }

    #[inline(always)]
    unsafe fn store(&self, chunk: Chunk) {
        // SAFETY: the caller's duty.
        unsafe { self.output.store(chunk) };
        let tokens = &self.tokens;
        let (lane, target) = (warp::lane_id(), &self.output.target);
        let group = chunk.block * EPILOGUE_WARPS + chunk.warp;
        let column = group * GROUP_COLUMNS + lane;
        if group * GROUP_COLUMNS >= target.features {
            return;
        }
        // SAFETY: rows have tokens, and those counters; the whole warp is here.
        unsafe {
            // The lanes' stores of the chunk, before the additions that publish them.
            warp::sync_warp(warp::FULL);
            let (mut token, mut is_last) = (0, false);
            if lane < chunk.rows {
                token = *tokens.row_token.add((chunk.first_row + lane) as usize);
                let counter = tokens.counters.add(token as usize * tokens.groups as usize + group as usize);
                let others = tokens.rows_of(token) - 1;
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
                tokens.combine(target.out, target.stride, token, column, column < target.features);
                left &= left - 1;
            }
        }
    }

    #[inline(always)]
    unsafe fn end(&self, tile: Tile) {
        // SAFETY: the counter is the range's.
        unsafe {
            if opaque(warp::lane_id() == 0) {
                let counter = self.ranges.of(tile);
                if atomic::fetch_add_u32(counter, 1) + 1 == self.ranges.written + self.ranges.read {
                    atomic::store_u32(counter, 0);
                }
            }
        }
    }
}
