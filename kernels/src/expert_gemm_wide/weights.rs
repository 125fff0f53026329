//! A producer's packed weights: its own ring of bulk copies, some units ahead of their use.

use cuda_std::prelude::*;
use cuda_std::{bulk, mbarrier};

use super::Operands;
use super::layout::{Form, Position, ROW_TILES, UNIT};
use super::tiles::Walk;
use crate::expert_gemm_mma::PackedUnit;
use crate::fragment::CODE_BYTES;

/// The ring: what is still to fetch, and where the next stage to read lies.
pub struct Weights {
    walk: Walk,
    /// The next stage's first unit.
    from: *const u8,
    /// Bytes from there to the second row tile's.
    second: u32,
    /// Units of the current tile to fetch; 0: nothing is left.
    left: u32,
    /// Number of the producer.
    index: u32,
    /// First stage, and its barrier.
    stages: u32,
    barriers: u32,
    /// The stage that is read next.
    at: Position,
}

impl Weights {
    /// Fetches what the ring holds.
    ///
    /// # Safety
    /// The whole warp, producer `index`; the barriers are initialised; `counts` is settled.
    #[inline(always)]
    pub unsafe fn new<F: Form>(shared: u32, operands: &Operands, blocks: u32, index: u32) -> Self {
        let ring = index * F::RAW_STAGES;
        let mut new = Self {
            walk: Walk::new(thread::block_idx_x(), thread::grid_dim_x()),
            from: operands.weights,
            second: 0,
            left: 0,
            index,
            stages: shared + F::RAW_OFFSET + ring * F::RAW_BYTES,
            barriers: shared + F::RAW_FULL_OFFSET + ring * mbarrier::BYTES,
            at: Position::START,
        };
        // SAFETY: the caller's duties; nobody reads the stages.
        unsafe {
            new.next_tile::<F>(operands, blocks);
            let mut slot = 0;
            while slot < F::RAW_STAGES {
                new.issue::<F>(slot, operands, blocks);
                slot += 1;
            }
        }
        new
    }

    /// # Safety
    /// As [`Weights::new`].
    #[inline(always)]
    unsafe fn next_tile<F: Form>(&mut self, operands: &Operands, blocks: u32) {
        // SAFETY: `counts` has an element per expert.
        let tile = self
            .walk
            .next(operands.experts, blocks, F::WIDTH, |e| unsafe { *operands.counts.add(e as usize) });
        if tile.rows == 0 {
            return;
        }
        // Row tiles past the end are copies of the last one; their results are not stored.
        let first_tile = tile.block * ROW_TILES;
        let last = operands.tile_count - 1 - first_tile;
        let own = self.index * F::TILES;
        let matrix = tile.expert as usize * operands.row_tiles as usize;
        let row_tile = matrix + (operands.first_tile + first_tile + own.min(last)) as usize;
        let row_tile_bytes = operands.k_units * UNIT;
        self.from = operands.weights.wrapping_add(row_tile * row_tile_bytes as usize);
        self.second = if own < last { row_tile_bytes } else { 0 };
        self.left = operands.k_units;
    }

    /// Fetches the next stage into slot `slot`, if there is one.
    ///
    /// # Safety
    /// The whole warp; nobody reads the slot any more.
    #[inline(always)]
    unsafe fn issue<F: Form>(&mut self, slot: u32, operands: &Operands, blocks: u32) {
        if self.left == 0 {
            return;
        }
        let units = self.left.min(F::RAW_UNITS);
        // SAFETY: the units are inside the row tile; the stage holds them.
        unsafe {
            if warp::elect(warp::FULL) {
                let (to, barrier) = (self.stages + slot * F::RAW_BYTES, self.barriers + slot * mbarrier::BYTES);
                mbarrier::arrive_expect_tx(barrier, F::TILES * units * UNIT);
                bulk::load(to, self.from, units * UNIT, barrier);
                if F::TILES == 2 {
                    let second = self.from.wrapping_add(self.second as usize);
                    bulk::load(to + F::RAW_UNITS * UNIT, second, units * UNIT, barrier);
                }
            }
            self.from = self.from.wrapping_add((units * UNIT) as usize);
            self.left -= units;
            if self.left == 0 {
                self.next_tile::<F>(operands, blocks);
            }
        }
    }

    /// Waits for the stage that is read next.
    ///
    /// # Safety
    /// The whole warp; there is one.
    #[inline(always)]
    pub unsafe fn wait(&self) {
        // SAFETY: the caller's duty.
        unsafe {
            mbarrier::wait_parity(self.barriers + self.at.slot * mbarrier::BYTES, self.at.parity);
            warp::sync_warp(warp::FULL);
        }
    }

    /// The lane's part of unit `unit` of the stage, of the producer's row tile `tile`.
    ///
    /// # Safety
    /// The stage is there and has the unit.
    #[inline(always)]
    pub unsafe fn load<F: Form>(&self, unit: u32, tile: u32) -> PackedUnit {
        let lane = warp::lane_id();
        let at = self.stages + self.at.slot * F::RAW_BYTES + (tile * F::RAW_UNITS + unit) * UNIT;
        // SAFETY: the caller's duty.
        unsafe { PackedUnit::load(at + 16 * lane, at + CODE_BYTES as u32 + lane / 4 * 8) }
    }

    /// Refills the stage that was read, and goes on to the next one.
    ///
    /// # Safety
    /// The whole warp, which has read all it wants of it.
    #[inline(always)]
    pub unsafe fn refill<F: Form>(&mut self, operands: &Operands, blocks: u32) {
        // SAFETY: every lane has read the stage when the barrier is passed.
        unsafe {
            warp::sync_warp(warp::FULL);
            self.issue::<F>(self.at.slot, operands, blocks);
        }
        self.at.advance(F::RAW_STAGES);
    }
}
