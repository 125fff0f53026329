//! What a producer does for tokens: their columns by bulk copies, and their scales.

use cuda_std::prelude::*;
use cuda_std::wgmma_ss::ROW_BYTES;
use cuda_std::{bulk, mbarrier};

use super::Operands;
use super::layout::{CONSUMERS, Form, MAX_SCALES, Position};
use super::tiles::{Tile, Walk};
use crate::expand::UNSCALE;

/// A tile and what a thread has to know of its tokens.
#[derive(Clone, Copy)]
pub struct Tokens {
    /// The tile.
    pub tile: Tile,
    /// The tile's rows of the next unit.
    lines: *const u8,
    /// Bytes from unit to unit.
    unit: u32,
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

    /// The next tile.
    ///
    /// # Safety
    /// The whole warp; `counts`, `offsets` and `row_token` name rows that exist.
    #[inline(always)]
    pub unsafe fn next<F: Form>(&mut self, operands: &Operands, blocks: u32) -> Tokens {
        // SAFETY: the caller's duty.
        unsafe {
            let count = |e: u32| *operands.counts.add(e as usize);
            let tile = self.walk.next(operands.experts, blocks, F::WIDTH, count);
            let mut tokens = Tokens { tile, lines: operands.b.cast(), unit: 0, scales: [0.0; MAX_SCALES] };
            if tile.rows == 0 {
                return tokens;
            }
            let of_expert = *operands.offsets.add(tile.expert as usize);
            tokens.unit = count(tile.expert) * ROW_BYTES;
            let matrix = of_expert as usize * operands.k_units as usize;
            tokens.lines = tokens.lines.wrapping_add((matrix + tile.first as usize) * ROW_BYTES as usize);
            let mut n = 0;
            while n < F::WIDTH.div_ceil(32 * F::PRODUCERS) {
                let token = (self.thread + n * 32 * F::PRODUCERS).min(tile.rows - 1);
                let row = operands.token(of_expert + tile.first + token);
                tokens.scales[n as usize] = *operands.b_scale.add(row as usize) * UNSCALE;
                n += 1;
            }
            tokens
        }
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

    /// Copies the tile's rows of the next `units` units to the stage at `at`.
    ///
    /// # Safety
    /// The slot is free; a whole warp, whose arrival on "full" is still to come; one of the block.
    #[inline(always)]
    pub unsafe fn copy<F: Form>(&self, at: Position, tokens: &mut Tokens, units: u32) {
        let bytes = tokens.tile.rows * ROW_BYTES;
        // SAFETY: rows of the expert; the stage holds them.
        unsafe {
            if warp::elect(warp::FULL) {
                let (to, full) = (self.shared + at.slot * F::B_BYTES, self.shared + at.full::<F>());
                mbarrier::expect_tx(full, units * bytes);
                bulk::load(to, tokens.lines, bytes, full);
                if F::STAGE_UNITS == 2 && units == 2 {
                    bulk::load(to + F::UNIT_B_BYTES, tokens.lines.wrapping_add(tokens.unit as usize), bytes, full);
                }
            }
        }
        tokens.lines = tokens.lines.wrapping_add((units * tokens.unit) as usize);
    }
}
