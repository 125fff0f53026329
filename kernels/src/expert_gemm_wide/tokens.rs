//! What a producer does for tokens: rows by 16-byte `cp.async`, and their scales.

use cuda_std::prelude::*;
use cuda_std::wgmma_ss::{ROW_BYTES, swizzled_chunk};
use cuda_std::cp_async;

use super::Operands;
use super::layout::{CONSUMERS, Form, MAX_BATCHES, MAX_SCALES, Position, UNIT_CHUNKS};
use super::tiles::{Tile, Walk};
use crate::expand::UNSCALE;

/// A tile and what a thread has to know of its tokens.
#[derive(Clone, Copy)]
pub struct Tokens {
    /// The tile.
    pub tile: Tile,
    /// First 16-byte chunk of the thread's row of each batch, counted in B.
    rows: [u32; MAX_BATCHES],
    /// Scales of every so many tokens, times [`UNSCALE`].
    scales: [f32; MAX_SCALES],
}

/// A producer's place in all tiles of its block.
pub struct Bringer {
    /// Dynamic shared memory of the block.
    shared: u32,
    /// Number among the producers' threads.
    thread: u32,
    walk: Walk,
    /// Tiles so far, modulo [`Form::SCALE_BUFFERS`].
    buffer: u32,
}

impl Bringer {
    /// Before the first tile.
    #[inline(always)]
    pub fn new(shared: u32) -> Self {
        Self {
            shared,
            thread: thread::thread_idx_x() - 32 * CONSUMERS,
            walk: Walk::new(thread::block_idx_x(), thread::grid_dim_x()),
            buffer: 0,
        }
    }

    /// The next tile. Rows past its end are copies of the last one; their results are not stored.
    ///
    /// # Safety
    /// The whole warp; `counts`, `offsets` and `row_token` name rows that exist.
    #[inline(always)]
    pub unsafe fn next<F: Form>(&mut self, operands: &Operands, blocks: u32) -> Tokens {
        let mut tokens = Tokens { tile: Tile::NONE, rows: [0; MAX_BATCHES], scales: [0.0; MAX_SCALES] };
        // SAFETY: the caller's duty.
        unsafe {
            let tile = self
                .walk
                .next(operands.experts, blocks, F::WIDTH, |e| *operands.counts.add(e as usize));
            if tile.rows == 0 {
                return tokens;
            }
            tokens.tile = tile;
            let first = *operands.offsets.add(tile.expert as usize) + tile.first;
            let last = tile.rows - 1;
            let (own, chunk) = (self.thread / UNIT_CHUNKS, self.thread % UNIT_CHUNKS);
            let mut batch = 0;
            while batch < F::BATCHES {
                let row = operands.token(first + (own + batch * F::BATCH_ROWS).min(last));
                tokens.rows[batch as usize] = row * (UNIT_CHUNKS * operands.k_units) + chunk;
                batch += 1;
            }
            let mut n = 0;
            while n < F::WIDTH.div_ceil(32 * F::PRODUCERS) {
                let row = operands.token(first + (self.thread + n * 32 * F::PRODUCERS).min(last));
                tokens.scales[n as usize] = *operands.b_scale.add(row as usize) * UNSCALE;
                n += 1;
            }
        }
        tokens
    }

    /// Writes the tile's scales to the next buffer.
    ///
    /// # Safety
    /// Consumers have read what it held.
    #[inline(always)]
    pub unsafe fn write_scales<F: Form>(&mut self, tokens: &Tokens) {
        let to = self.shared + F::SCALES_OFFSET + self.buffer * F::WIDTH * 4;
        let mut n = 0;
        while n < F::WIDTH.div_ceil(32 * F::PRODUCERS) {
            let token = self.thread + n * 32 * F::PRODUCERS;
            if token < F::WIDTH {
                // SAFETY: a word of the buffer.
                unsafe { shared::store_u32(to + 4 * token, tokens.scales[n as usize].to_bits()) };
            }
            n += 1;
        }
        self.buffer += 1;
        if self.buffer == F::SCALE_BUFFERS {
            self.buffer = 0;
        }
    }

    /// Copies the tokens of `units` units of a stage, with an arrival when they are there; `chunk` is the first unit's,
    /// counted from the tile's.
    ///
    /// # Safety
    /// The slot is free.
    #[inline(always)]
    pub unsafe fn copy<F: Form>(&self, at: Position, operands: &Operands, tokens: &Tokens, width: u32, chunk: u32, units: u32) {
        let (own, place) = (self.thread / UNIT_CHUNKS, self.thread % UNIT_CHUNKS);
        let to = self.shared + at.slot * F::B_BYTES + own * ROW_BYTES + 16 * swizzled_chunk(own, place);
        let from = operands.b.cast::<u8>().wrapping_add(chunk as usize * 16);
        let mut batch = 0;
        while batch < F::BATCHES {
            let first = batch * F::BATCH_ROWS;
            let from = from.wrapping_add(tokens.rows[batch as usize] as usize * 16);
            let wanted = own + first < width;
            // SAFETY: a chunk of the row; a place of the stage.
            unsafe {
                cp_async::copy_16_if(to + first * ROW_BYTES, from, wanted);
                if F::STAGE_UNITS == 2 {
                    let to = to + F::UNIT_B_BYTES + first * ROW_BYTES;
                    cp_async::copy_16_if(to, from.wrapping_add(ROW_BYTES as usize), wanted & (units == 2));
                }
            }
            batch += 1;
        }
        // SAFETY: one of the arrivals that the barrier counts.
        unsafe { cp_async::arrive(self.shared + at.full::<F>()) };
    }
}
