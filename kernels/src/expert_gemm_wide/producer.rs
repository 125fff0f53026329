//! Warps that only bring: weights and tokens by bulk copies, as far ahead as the ring allows.

use cuda_std::prelude::*;
use cuda_std::wgmma_rs::B_ROW_BYTES;
use cuda_std::{bulk, mbarrier};

use super::Operands;
use super::layout::{Form, PRODUCERS, Position, UNIT};
use super::tiles::{Tile, Walk};

/// Brings every tile of the block: warp `index` of the producers an equal share of the row tiles, the first one the tokens too.
///
/// # Safety
/// The whole warp; the operands are as the kernel demands; barriers are live.
#[inline(always)]
pub unsafe fn run_warp<F: Form>(shared: u32, operands: &Operands, blocks: u32, index: u32) {
    let mut walk = Walk::new(thread::block_idx_x(), thread::grid_dim_x());
    let mut at = Position::START;
    // SAFETY: a slot is free when its "empty" phase has completed; `counts` has an element per expert.
    unsafe {
        loop {
            let tile = walk.next(operands.experts, blocks, F::WIDTH, |e| *operands.counts.add(e as usize));
            if tile.rows == 0 {
                return;
            }
            let mut source = Source::of_warp::<F>(operands, tile.uniform_warp());
            let mut left = operands.k_units;
            while left != 0 {
                let units = left.min(F::STAGE_UNITS);
                mbarrier::wait_parity(shared + at.empty::<F>(), at.parity ^ 1);
                warp::sync_warp(warp::FULL);
                if warp::elect(warp::FULL) {
                    source.copy_thread::<F>(shared, at, units, index);
                }
                source.advance::<F>();
                left -= units;
                at.advance::<F>();
            }
        }
    }
}

/// The next stage of a tile in memory.
struct Source {
    /// The first row tile's next unit.
    weights: *const u8,
    /// Bytes from there to the next row tile's.
    row_tile_bytes: usize,
    /// The last row tile that there is. Those past it are copies of it; their results are not stored.
    last: u32,
    /// The tile's tokens of the next unit.
    lines: *const u8,
    /// Bytes of them.
    line_bytes: u32,
    /// Bytes from there to the unit after it.
    unit_bytes: u32,
}

impl Source {
    /// The first stage of `tile`.
    ///
    /// # Safety
    /// The whole warp; the tile exists, and the compiler can see that it is the same in all lanes.
    #[inline(always)]
    unsafe fn of_warp<F: Form>(operands: &Operands, tile: Tile) -> Self {
        let Operands { k_units, row_tiles, first_tile, tile_count, .. } = *operands;
        let expert = tile.expert as usize;
        let in_block = tile.block * F::ROW_TILES;
        let row_tile = expert * row_tiles as usize + (first_tile + in_block) as usize;
        let row_tile_bytes = (k_units * UNIT) as usize;
        // SAFETY: the caller's duties; `offsets` and `counts` have an element per expert.
        unsafe {
            let line = *operands.offsets.add(expert) as usize * k_units as usize + tile.first as usize;
            Self {
                weights: operands.weights.wrapping_add(row_tile * row_tile_bytes),
                row_tile_bytes,
                last: tile_count - 1 - in_block,
                lines: operands.b.cast::<u8>().wrapping_add(line * B_ROW_BYTES as usize),
                line_bytes: tile.rows * B_ROW_BYTES,
                unit_bytes: warp::uniform(*operands.counts.add(expert)) * B_ROW_BYTES,
            }
        }
    }

    /// Copies the share of producer `index` of a stage of `units` units to the slot at `at`.
    ///
    /// # Safety
    /// The units are there; the slot is free.
    #[inline(always)]
    unsafe fn copy_thread<F: Form>(&self, shared: u32, at: Position, units: u32, index: u32) {
        let full = shared + at.full::<F>();
        let own = F::ROW_TILES / PRODUCERS;
        let is_first = index == 0;
        // SAFETY: the caller's duty.
        unsafe {
            let line_bytes = if is_first { units * self.line_bytes } else { 0 };
            mbarrier::arrive_expect_tx(full, own * UNIT * units + line_bytes);
            if is_first {
                let to = shared + at.slot * F::B_BYTES;
                bulk::load(to, self.lines, self.line_bytes, full);
                if F::STAGE_UNITS == 2 && units == 2 {
                    let second = self.lines.wrapping_add(self.unit_bytes as usize);
                    bulk::load(to + F::UNIT_B_BYTES, second, self.line_bytes, full);
                }
            }
            let to = shared + F::A_OFFSET + at.slot * F::A_BYTES;
            let mut n = 0;
            while n < own {
                let row_tile = index * own + n;
                let from = self.weights.wrapping_add(row_tile.min(self.last) as usize * self.row_tile_bytes);
                bulk::load(to + row_tile * (F::STAGE_UNITS * UNIT), from, UNIT * units, full);
                n += 1;
            }
        }
    }

    /// To the next stage.
    #[inline(always)]
    fn advance<F: Form>(&mut self) {
        self.weights = self.weights.wrapping_add((F::STAGE_UNITS * UNIT) as usize);
        self.lines = self.lines.wrapping_add((F::STAGE_UNITS * self.unit_bytes) as usize);
    }
}
