//! What a warp brings: its own weights, and one of them the tokens, by bulk copies some stages ahead of their use.

use cuda_std::prelude::*;
use cuda_std::wgmma_rs::B_ROW_BYTES;
use cuda_std::{bulk, mbarrier};

use super::Operands;
use super::layout::{Form, Position, UNIT};
use super::notes::{Notes, Who};

/// One warp's copies, stage by stage through all tiles of the block. Every warp arrives once on a stage's "full" barrier,
/// which also counts the bytes of all copies.
pub struct Loader {
    /// Units left of the current tile; 0: nothing is left.
    left: u32,
    /// The warp's first unit of the next stage.
    weights: *const u8,
    /// Bytes from there to its second one.
    second: u32,
    /// The tile's rows of the next stage's first unit.
    lines: *const u8,
    /// Bytes from unit to unit of them.
    unit: u32,
    /// Bytes of the tile's rows of a unit.
    bytes: u32,
}

impl Loader {
    /// At the first tile.
    ///
    /// # Safety
    /// The whole warp, with its own `notes`; the operands are as the kernel demands.
    #[inline(always)]
    pub unsafe fn new<F: Form>(notes: Notes, operands: &Operands, blocks: u32) -> Self {
        let lines = operands.b.cast();
        let mut new = Self { left: 0, weights: operands.weights, second: 0, lines, unit: 0, bytes: 0 };
        // SAFETY: the caller's duties.
        unsafe {
            notes.start(Who::Loader);
            new.next_tile::<F>(notes, operands, blocks);
        }
        new
    }

    /// The stage at `at` has its turn: brings it, if there is one, when its slot is free.
    ///
    /// # Safety
    /// The whole warp, stage by stage; the operands are as the kernel demands; barriers are live.
    #[inline(always)]
    pub unsafe fn fetch<F: Form>(
        &mut self,
        at: Position,
        shared: u32,
        notes: Notes,
        operands: &Operands,
        blocks: u32,
    ) {
        if self.left == 0 {
            return;
        }
        // SAFETY: the slot is free when its "empty" phase has completed; row tiles lie in the matrix, and tokens are
        // rows of B.
        unsafe {
            mbarrier::wait_parity(shared + at.empty::<F>(), at.parity ^ 1);
            warp::sync_warp(warp::FULL);
            let units = self.left.min(F::STAGE_UNITS);
            let warp = warp::uniform(thread::thread_idx_x() / 32);
            if warp::elect(warp::FULL) {
                let full = shared + at.full::<F>();
                let tokens = if warp == 0 { units * self.bytes } else { 0 };
                mbarrier::arrive_expect_tx(full, F::TILES * UNIT * units + tokens);
                let to =
                    shared + F::A_OFFSET + warp * (F::TILES * F::STAGE_UNITS * UNIT) + at.slot * F::A_BYTES;
                bulk::load(to, self.weights, UNIT * units, full);
                if F::TILES == 2 {
                    let second = self.weights.wrapping_add(self.second as usize);
                    bulk::load(to + F::STAGE_UNITS * UNIT, second, UNIT * units, full);
                }
                if warp == 0 {
                    let to = shared + at.slot * F::B_BYTES;
                    bulk::load(to, self.lines, self.bytes, full);
                    if F::STAGE_UNITS == 2 && units == 2 {
                        let second = self.lines.wrapping_add(self.unit as usize);
                        bulk::load(to + F::UNIT_B_BYTES, second, self.bytes, full);
                    }
                }
            }
            self.weights = self.weights.wrapping_add((F::STAGE_UNITS * UNIT) as usize);
            self.lines = self.lines.wrapping_add((F::STAGE_UNITS * self.unit) as usize);
            self.left -= units;
            if self.left == 0 {
                self.next_tile::<F>(notes, operands, blocks);
            }
        }
    }

    /// Finds the next tile; leaves `left` at 0 if there is none.
    ///
    /// # Safety
    /// As [`Loader::fetch`].
    #[inline(always)]
    unsafe fn next_tile<F: Form>(&mut self, notes: Notes, operands: &Operands, blocks: u32) {
        // SAFETY: the caller's duties; `offsets` and `counts` have an element per expert.
        unsafe {
            let tile = notes.next::<F>(Who::Loader, operands, blocks);
            if tile.rows == 0 {
                return;
            }
            let of_expert = *operands.offsets.add(tile.expert as usize);
            // What follows from these is worked out here and not kept in registers through the loop.
            let warp = warp::uniform(thread::thread_idx_x() / 32);
            let (k_units, row_tiles) = (operands.k_units, operands.row_tiles);
            self.unit = *operands.counts.add(tile.expert as usize) * B_ROW_BYTES;
            self.bytes = tile.rows * B_ROW_BYTES;
            let line = of_expert as usize * k_units as usize + tile.first as usize;
            self.lines = operands.b.cast::<u8>().wrapping_add(line * B_ROW_BYTES as usize);
            // Row tiles past the end are copies of the last one; their results are not stored.
            let first_tile = tile.block * F::ROW_TILES;
            let last = operands.tile_count - 1 - first_tile;
            let own = warp * F::TILES;
            let row_tile_bytes = k_units * UNIT;
            let matrix = tile.expert as usize * row_tiles as usize;
            let row_tile = matrix + (operands.first_tile + first_tile + own.min(last)) as usize;
            self.weights = operands.weights.wrapping_add(row_tile * row_tile_bytes as usize);
            self.second = if own < last { row_tile_bytes } else { 0 };
            self.left = k_units;
        }
    }
}
