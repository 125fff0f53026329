//! A warp's own ring of weights in shared memory: what fills it, and the chain of MMAs that empties it.
//!
//! Stages of [`STAGE_UNITS`] units of [`crate::fragment`], with an mbarrier for "full" and one for "empty". A lane of another warp
//! fills a stage by a 1D bulk copy; the warp waits for it, multiplies it with eight tokens, and gives it back.

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

/// Nanoseconds between looks for an empty stage.
const POLL_NS: u32 = 40;

const _: () = assert!(STAGE_BYTES.is_multiple_of(RING_ALIGN));

/// A ring, and where its warp is in it.
pub struct Ring {
    /// Shared address of the stages.
    at: u32,
    /// Shared address of their mbarriers.
    barriers: u32,
    /// Stages.
    stages: u32,
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

    /// The products of a row tile of `units` units, in ascending k, with eight tokens. Gives each stage back: every lane arrives at
    /// the mbarrier `to_empty` bytes behind its own.
    ///
    /// # Safety
    /// The whole warp calls it; the next stages hold the tile's units or are being filled; `b` is this lane's `ldmatrix`
    /// address of the first unit's columns.
    #[inline(always)]
    pub unsafe fn chain_warp(&mut self, mut units: u32, mut b: u32, to_empty: u32) -> [f32; 4] {
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
                // Every lane for what it has read.
                mbarrier::arrive(barrier + to_empty);
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

/// The weights that a ring still needs, in order of their use.
pub trait Weights {
    /// Those of the present tile; nothing if there are no more at all.
    fn source(&mut self) -> &mut Source;

    /// To the next tile, if there is one.
    ///
    /// # Safety
    /// The present one's source is empty.
    unsafe fn next_tile(&mut self);
}

/// Keeps rings full, a lane for each: of `stages` stages at `to`, with mbarriers for "full" at `full` and for "empty" `to_empty` bytes
/// further. For a warp of its own: a copy keeps whoever issues it until it has read its operands, when its turn comes, some 190
/// cycles later.
///
/// Lanes copy one at a time, in turns of their own: of a copy that several issue together, compute-sanitizer's racecheck asks only
/// one whether the stage was empty.
///
/// # Safety
/// The whole warp calls it; the mbarriers are initialised, and every lane of the warp that multiplies arrives at "empty".
#[inline(always)]
pub unsafe fn fetch_warp(mut weights: impl Weights, to: u32, full: u32, to_empty: u32, stages: u32) {
    let lane = warp::lane_id();
    let (mut slot, mut parity) = (0, 1);
    loop {
        let source = weights.source();
        let is_left = !source.is_empty();
        // SAFETY: the caller's duty; the whole warp is here.
        unsafe {
            if !warp::vote_any(warp::FULL, is_left) {
                return;
            }
            let barrier = full + slot * mbarrier::BYTES;
            let is_free = is_left && mbarrier::test_wait_parity(barrier + to_empty, parity);
            let mut turns = warp::vote_ballot(warp::FULL, is_free);
            if turns == 0 {
                thread::nanosleep(POLL_NS);
                continue;
            }
            while turns != 0 {
                if turns.trailing_zeros() == lane {
                    source.copy_thread(to + slot * STAGE_BYTES, barrier);
                }
                turns &= turns - 1;
            }
            if is_free {
                if source.is_empty() {
                    weights.next_tile();
                }
                slot += 1;
                if slot == stages {
                    slot = 0;
                    parity ^= 1;
                }
            }
        }
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

    /// Copies the next stage's weights, to `to`, counted on `barrier`; some are left.
    ///
    /// # Safety
    /// The weights are there; nobody reads the stage any more.
    #[inline(always)]
    pub unsafe fn copy_thread(&mut self, to: u32, barrier: u32) {
        let units = self.units.min(STAGE_UNITS);
        let bytes = units * UNIT_BYTES as u32;
        // SAFETY: the weights are inside the tile, the stage holds them.
        unsafe {
            mbarrier::arrive_expect_tx(barrier, bytes);
            bulk::load_hint(to, self.from, bytes, barrier, bulk::EVICT_FIRST);
            self.from = self.from.add(bytes as usize);
        }
        self.units -= units;
    }
}
