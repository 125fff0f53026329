//! A warp's own ring of weights in shared memory, and the chain of MMAs that empties it.
//!
//! Stages of some units of [`crate::fragment`], an mbarrier each. One lane fills a stage by a 1D bulk copy, the warp waits for it,
//! multiplies it with eight tokens, and has it filled again: nobody else takes part. To wait for a stage and to fill it costs about
//! 45 instructions, a unit 75: stages of eight units where the ring has two of them, otherwise of four.

use crate::expert_gemm_mma::{UNIT_TOKEN_BYTES, UnitWeights, unit_warp};
use crate::fragment::{CODE_BYTES, UNIT_BYTES};
use cuda_std::prelude::*;
use cuda_std::{bulk, mbarrier};

/// Units of 64 columns that a chain takes at a time; stages hold a multiple of them.
pub const STEP_UNITS: u32 = 4;
/// Bytes of them.
pub const STEP_BYTES: u32 = STEP_UNITS * UNIT_BYTES as u32;

/// A ring, and where its warp is in it.
pub struct Ring {
    /// Shared address of the stages.
    pub at: u32,
    /// Shared address of their mbarriers.
    pub barriers: u32,
    /// Stages.
    pub stages: u32,
    /// Bytes of a stage: a multiple of [`STEP_BYTES`].
    pub stage_bytes: u32,
    /// The stage that is next.
    slot: u32,
    /// The parity of its phase.
    parity: u32,
}

impl Ring {
    /// At the first stage.
    #[inline(always)]
    pub const fn new(at: u32, barriers: u32, stages: u32, stage_bytes: u32) -> Self {
        Self { at, barriers, stages, stage_bytes, slot: 0, parity: 0 }
    }

    /// Calls `fill` with some of the stages and their mbarriers.
    #[inline(always)]
    pub fn fill(&self, stages: core::ops::Range<u32>, mut fill: impl FnMut(u32, u32)) {
        let mut slot = stages.start;
        while slot < stages.end {
            fill(self.at + slot * self.stage_bytes, self.barriers + slot * mbarrier::BYTES);
            slot += 1;
        }
    }

    /// The products of a row tile of `units` units, in ascending k, with eight tokens; `fill` gets each stage and its mbarrier
    /// when the warp has read it.
    ///
    /// # Safety
    /// The whole warp calls it; the next stages hold the tile's units or are being filled; `b` is this lane's `ldmatrix`
    /// address of the first unit's columns.
    #[inline(always)]
    pub unsafe fn chain_warp(
        &mut self,
        mut units: u32,
        mut b: u32,
        mut fill: impl FnMut(u32, u32),
    ) -> [f32; 4] {
        let lane = warp::lane_id();
        let mut acc = [[0.0; 4]];
        // SAFETY: the caller's ring and rows.
        unsafe {
            while units != 0 {
                let barrier = self.barriers + self.slot * mbarrier::BYTES;
                let stage = self.at + self.slot * self.stage_bytes;
                mbarrier::wait_parity(barrier, self.parity);
                warp::sync_warp(warp::FULL);
                let mut codes = stage + 16 * lane;
                let mut pairs = stage + CODE_BYTES as u32 + lane / 4 * 8;
                let mut left = units.min(self.stage_bytes / UNIT_BYTES as u32);
                units -= left;
                while left >= STEP_UNITS {
                    let mut n = 0;
                    while n < STEP_UNITS {
                        let unit = n * UNIT_BYTES as u32;
                        let weights = UnitWeights::load(codes + unit, pairs + unit);
                        unit_warp(&mut acc, weights, [b + n * UNIT_TOKEN_BYTES]);
                        n += 1;
                    }
                    codes += STEP_BYTES;
                    pairs += STEP_BYTES;
                    b += STEP_UNITS * UNIT_TOKEN_BYTES;
                    left -= STEP_UNITS;
                }
                // The end of a K that is no multiple of a step's.
                while left != 0 {
                    unit_warp(&mut acc, UnitWeights::load(codes, pairs), [b]);
                    codes += UNIT_BYTES as u32;
                    pairs += UNIT_BYTES as u32;
                    b += UNIT_TOKEN_BYTES;
                    left -= 1;
                }
                // Every lane has read the stage.
                warp::sync_warp(warp::FULL);
                fill(stage, barrier);
                self.slot += 1;
                if self.slot == self.stages {
                    self.slot = 0;
                    self.parity ^= 1;
                }
            }
        }
        acc[0]
    }
}

/// The weights that are next in a tile.
#[derive(Clone, Copy)]
pub struct Source {
    /// Their address.
    from: *const u8,
    /// Units left of the tile.
    units: u32,
}

impl Source {
    /// Nothing.
    #[inline(always)]
    pub const fn none() -> Self {
        Self { from: core::ptr::null(), units: 0 }
    }

    /// The `units` units of a tile.
    #[inline(always)]
    pub const fn of(tile: *const u8, units: u32) -> Self {
        Self { from: tile, units }
    }

    /// Whether nothing is left.
    #[inline(always)]
    pub const fn is_empty(&self) -> bool {
        self.units == 0
    }

    /// Copies the next stage's weights, up to `stage_bytes`, to `to`, counted on `barrier`; some are left. Returns whether these
    /// were the last.
    ///
    /// # Safety
    /// The whole warp calls it; the weights are there; nobody reads the stage any more.
    #[inline(always)]
    pub unsafe fn copy_warp(&mut self, to: u32, barrier: u32, stage_bytes: u32) -> bool {
        // In units and bytes, back and forth: ptxas computes products in uniform registers, a minimum alone it does not, and then
        // loops over lanes to copy.
        let bytes = (self.units * UNIT_BYTES as u32).min(stage_bytes);
        // SAFETY: the whole warp is here; the weights are inside the tile, the stage holds them.
        unsafe {
            if warp::elect(warp::FULL) {
                mbarrier::arrive_expect_tx(barrier, bytes);
                bulk::load_hint(to, self.from, bytes, barrier, bulk::EVICT_FIRST);
            }
            self.from = self.from.add(bytes as usize);
        }
        self.units -= bytes / UNIT_BYTES as u32;
        self.units == 0
    }
}
