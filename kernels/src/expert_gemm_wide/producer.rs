//! A warp that brings: tokens, and its row tiles' weights expanded to f16, stage by stage through all tiles of the block.

use cuda_std::convergence::opaque;
use cuda_std::prelude::*;
use cuda_std::wgmma_ss::{ROW_BYTES, swizzled_chunk};
use cuda_std::{grid, mbarrier, mma};

use super::Operands;
use super::layout::{Form, Position, TILE_A_BYTES, UNIT_A_BYTES};
use super::tokens::Bringer;
use super::weights::Weights;
use crate::expert_gemm_mma::UnitWeights;
use crate::fragment::UNIT_STEPS;

/// Stores the expanded unit of a row tile at `to`: rows of 128 bytes under the 128-byte swizzle.
///
/// # Safety
/// The whole warp; the place is free.
#[inline(always)]
unsafe fn expand_warp(weights: &UnitWeights, to: u32) {
    let lane = warp::lane_id();
    // Matrix lane / 8 of a step: rows 0..8, then 8..16, of its first eight columns, then of the others.
    let row = lane % 16;
    let first = to + row * ROW_BYTES;
    let mut step = 0;
    while step < UNIT_STEPS {
        let chunk = swizzled_chunk(row, 2 * step as u32 + lane / 16);
        // SAFETY: the caller's duty.
        unsafe { mma::store_matrix_x4(first + 16 * chunk, weights.fragment(step)) };
        step += 1;
    }
}

/// Tells the consumers that this warp's part of the stage at slot `stored` is there.
///
/// # Safety
/// The whole warp has stored it, and passed a barrier since.
#[inline(always)]
unsafe fn announce<F: Form>(shared: u32, stored: &mut Option<u32>) {
    if let Some(slot) = stored.take()
        && opaque(warp::lane_id() == 0)
    {
        // SAFETY: the caller's duty; the barrier is live.
        unsafe { mbarrier::arrive(shared + F::FULL_OFFSET + slot * mbarrier::BYTES) };
    }
}

/// Brings every tile of this block.
///
/// # Safety
/// A whole warp, producer `index`; operands as the kernel demands; barriers are initialised; `counts` is settled.
#[inline(always)]
pub unsafe fn warp<F: Form>(shared: u32, operands: &Operands, blocks: u32, index: u32) {
    let mut at = Position::START;
    // SAFETY: the caller's duties. A stage is written between "empty" and "full".
    unsafe {
        let mut weights = Weights::new::<F>(shared, operands, blocks, index);
        // Rows and scales are others' business until here. A second wait returns at once.
        grid::wait_for_dependencies();
        grid::launch_dependents();
        let mut bringer = Bringer::new(shared);
        let mut tokens = bringer.next::<F>(operands, blocks);
        // The slot that is written and not announced.
        let mut stored = None;
        while tokens.tile.rows != 0 {
            // Looked up while this one is brought.
            let next = bringer.next::<F>(operands, blocks);
            let (mut left, mut raw) = (operands.k_units, 0);
            while left != 0 {
                let units = left.min(F::STAGE_UNITS);
                if raw == 0 {
                    weights.wait();
                }
                // Asked for before the wait, used behind it: a unit of each of two row tiles, or two units of one; the last
                // one again for one that is not there.
                let second = if F::TILES == 2 { (raw, 1) } else { (raw + units - 1, 0) };
                let packed = [weights.load::<F>(raw, 0), weights.load::<F>(second.0, second.1)];
                mbarrier::wait_parity(shared + at.empty::<F>(), at.parity ^ 1);
                warp::sync_warp(warp::FULL);
                // The last stage's stores have had time to land.
                announce::<F>(shared, &mut stored);
                if index == 0 {
                    bringer.copy::<F>(at, &mut tokens, units);
                }
                if left == operands.k_units {
                    bringer.write_scales::<F>(&tokens);
                }
                let to = shared + F::A_OFFSET + at.slot * F::A_BYTES + index * F::TILES * TILE_A_BYTES;
                expand_warp(&packed[0].unpack(), to);
                if F::TILES == 2 {
                    expand_warp(&packed[1].unpack(), to + TILE_A_BYTES);
                } else if units == 2 {
                    expand_warp(&packed[1].unpack(), to + UNIT_A_BYTES);
                }
                stored = Some(at.slot);
                raw += units;
                left -= units;
                if raw == F::RAW_UNITS || left == 0 {
                    weights.refill::<F>(operands, blocks);
                    raw = 0;
                }
                at.advance(F::STAGES);
            }
            tokens = next;
        }
        warp::sync_warp(warp::FULL);
        announce::<F>(shared, &mut stored);
    }
}
