//! A warp's own ring of weights in shared memory, and the chain of MMAs that empties it.
//!
//! Stages of [`STAGE_UNITS`] units of [`crate::fragment`], an mbarrier each. One lane fills a stage by a 1D bulk copy, the
//! warp waits for it, multiplies it with eight tokens, and has it filled again: nobody else takes part.
//!
//! Two stages are too few (84 % of the read bandwidth where three stand, 71 to 75 % with two), and a few large ones are no
//! better than as many small ones.

use crate::expert_gemm_mma::{UNIT_TOKEN_BYTES, UnitWeights, unit_warp};
use crate::fragment::{CODE_BYTES, UNIT_BYTES};
use cuda_std::prelude::*;
use cuda_std::{bulk, mbarrier};

/// Units of 64 columns of a stage.
pub const STAGE_UNITS: u32 = 4;
/// Bytes of a stage.
pub const STAGE_BYTES: u32 = STAGE_UNITS * UNIT_BYTES as u32;
/// Alignment of rings: a line of 128 bytes is written at a time, and one that straddles two in shared memory takes twice as long.
pub const RING_ALIGN: u32 = 128;

const _: () = assert!(STAGE_BYTES.is_multiple_of(RING_ALIGN));

/// A ring, and where its warp is in it.
pub struct Ring {
    /// Shared address of the stages.
    pub at: u32,
    /// Shared address of their mbarriers.
    pub barriers: u32,
    /// Stages.
    pub stages: u32,
    /// The stage that is next.
    slot: u32,
    /// The parity of its phase.
    parity: u32,
}

impl Ring {
    /// At the first stage.
    #[inline(always)]
    pub const fn new(at: u32, barriers: u32, stages: u32) -> Self {
        Self { at, barriers, stages, slot: 0, parity: 0 }
    }

    /// Calls `fill` with some of the stages and their mbarriers.
    #[inline(always)]
    pub fn fill(&self, stages: core::ops::Range<u32>, mut fill: impl FnMut(u32, u32)) {
        let mut slot = stages.start;
        while slot < stages.end {
            fill(self.at + slot * STAGE_BYTES, self.barriers + slot * mbarrier::BYTES);
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
                let stage = self.at + self.slot * STAGE_BYTES;
                mbarrier::wait_parity(barrier, self.parity);
                warp::sync_warp(warp::FULL);
                let mut codes = stage + 16 * lane;
                let mut pairs = stage + CODE_BYTES as u32 + lane / 4 * 8;
                if units >= STAGE_UNITS {
                    let mut n = 0;
                    while n < STAGE_UNITS {
                        let unit = n * UNIT_BYTES as u32;
                        let weights = UnitWeights::load(codes + unit, pairs + unit);
                        unit_warp(&mut acc, weights, [b + n * UNIT_TOKEN_BYTES]);
                        n += 1;
                    }
                    b += STAGE_UNITS * UNIT_TOKEN_BYTES;
                    units -= STAGE_UNITS;
                } else {
                    // The last stage of a K that is no multiple of a stage's.
                    while units != 0 {
                        unit_warp(&mut acc, UnitWeights::load(codes, pairs), [b]);
                        codes += UNIT_BYTES as u32;
                        pairs += UNIT_BYTES as u32;
                        b += UNIT_TOKEN_BYTES;
                        units -= 1;
                    }
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

    /// Copies the next stage's weights, to `to`, counted on `barrier`; some are left. Returns whether these
    /// were the last.
    ///
    /// # Safety
    /// The whole warp calls it; the weights are there; nobody reads the stage any more.
    #[inline(always)]
    pub unsafe fn copy_warp(&mut self, to: u32, barrier: u32) -> bool {
        // In units and bytes, back and forth: ptxas computes products in uniform registers, a minimum alone it does not, and then
        // loops over lanes to copy.
        let bytes = (self.units * UNIT_BYTES as u32).min(STAGE_BYTES);
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
