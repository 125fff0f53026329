//! The issuer: one thread that copies scales to tensor memory and issues the MMAs, one per step, K ascending.
//!
//! Two stages' scales have columns of their own, so the copies of a stage are issued while the MMAs of the one before run;
//! they wait for the stage before that.

use cuda_std::convergence::{opaque, opaque_u32};
use cuda_std::tcgen05::descriptor::{instruction, matrix};
use cuda_std::tcgen05::{self, mma};
use cuda_std::{cluster, mbarrier};

use super::layout::{
    A_BYTES, B_SCALE_BYTES, Buffer, Form, Position, SCALE_SETS, SCALE_TILE, STAGE_STEPS, START_ALIGN,
    STEP_COLUMNS, UNIT, b_scale_columns, scale_column,
};
use super::tiles::{Tile, pieces};
use super::wait;
use crate::operand::{BLOCK_ROWS, LEADING_BYTES, STEP_CODE_BYTES, STRIDE_BYTES};

/// Columns of scales of the tokens in a row block before a tile that starts at its middle.
const START_COLUMNS: u32 = START_ALIGN / 32;

/// An operand's descriptor.
#[inline(always)]
const fn operand(address: u32) -> u64 {
    matrix::k_major(address, LEADING_BYTES as u64, STRIDE_BYTES as u64)
}

/// The ring and the buffers of accumulators from the issuer's side.
pub struct Issuer {
    shared: u32,
    /// Address of tensor memory.
    tensor: u32,
    at: Position,
    /// The stage that used the next set of scale columns last.
    before: Position,
    /// The next set of scale columns.
    set: u32,
    /// Stages until a set of scale columns is used again.
    fresh: u32,
    buffer: Buffer,
}

impl Issuer {
    /// At the start.
    #[inline(always)]
    pub const fn new(shared: u32, tensor: u32) -> Self {
        let (at, buffer) = (Position::START, Buffer::START);
        Self { shared, tensor, at, before: at, set: 0, fresh: SCALE_SETS, buffer }
    }

    /// Issues a tile of `steps` steps.
    ///
    /// # Safety
    /// One thread, guarded by `elect`, of a pair of the even block; barriers are live, tensor memory is allocated; the
    /// producer brings the same tile.
    #[inline(always)]
    pub unsafe fn tile<F: Form>(&mut self, steps: u32, tile: Tile) {
        let columns = tile.rows.next_multiple_of(F::GRANULE);
        let shape = instruction::nvfp4(BLOCK_ROWS as u32 * F::BLOCKS, columns);
        let has_second = pieces(tile.first, columns)[1].rows != 0;
        let start = tile.first / START_ALIGN % (BLOCK_ROWS as u32 / START_ALIGN) * START_COLUMNS;
        let d = self.tensor + self.buffer.column();
        // SAFETY: the epilogue has read what the buffer held before.
        unsafe { wait::<F>(self.shared + self.buffer.read::<F>(), self.buffer.parity() ^ 1) };
        let mut accumulate = false;
        let mut left = steps;
        while left != 0 {
            let now = left.min(STAGE_STEPS);
            // SAFETY: operands are complete when the "full" phase has completed; scale columns are free when the stage
            // that used them last has.
            unsafe {
                if self.fresh == 0 {
                    // By this thread's own commit.
                    mbarrier::wait_parity(self.shared + self.before.empty::<F>(), self.before.parity);
                    self.before.advance::<F>();
                } else {
                    self.fresh -= 1;
                }
                wait::<F>(self.shared + self.at.full::<F>(), self.at.parity);
                tcgen05::fence_after_thread_sync();
                let unit = self.shared + self.at.slot * A_BYTES;
                let mut a = operand(unit);
                let mut a_tile = matrix::scale_tile(unit + STEP_CODE_BYTES as u32);
                let mut b = operand(self.shared + F::B_OFFSET + self.at.slot * F::B_BYTES);
                let mut b_tile =
                    matrix::scale_tile(self.shared + F::B_SCALE_OFFSET + self.at.slot * B_SCALE_BYTES);
                let mut scale_a = self.tensor + scale_column(self.set, 0);
                // The count and the test are hidden: copies of the loop's body would gain nothing.
                let mut s = now;
                while s != 0 {
                    let scale_b = scale_a + b_scale_columns(0);
                    mma::copy_scales::<F::Group>(scale_a, a_tile);
                    mma::copy_scales::<F::Group>(scale_b, b_tile);
                    if opaque(has_second) {
                        let second = b_tile + matrix::start(STAGE_STEPS * SCALE_TILE);
                        mma::copy_scales::<F::Group>(scale_a + b_scale_columns(1), second);
                    }
                    let operands = mma::Operands { d, a, b, scale_a, scale_b: scale_b + start };
                    mma::nvfp4::<F::Group>(operands, shape, accumulate);
                    accumulate = true;
                    a += matrix::start(UNIT);
                    a_tile += matrix::start(UNIT);
                    b += matrix::start(F::B_STEP);
                    b_tile += matrix::start(SCALE_TILE);
                    scale_a += STEP_COLUMNS;
                    s = opaque_u32(s - 1);
                }
                mma::commit::<F::Group>(self.shared + self.at.empty::<F>());
            }
            self.set = (self.set + 1) % SCALE_SETS;
            left -= now;
            self.at.advance::<F>();
        }
        // SAFETY: behind all MMAs of the tile.
        unsafe { mma::commit::<F::Group>(self.shared + self.buffer.complete::<F>()) };
        self.buffer.advance();
    }
}

/// The odd block of a pair from its issuer warp's side: one thread that tells the even block's issuer which stages are full
/// here, as the barrier that a bulk copy completes on is that of its own block.
pub struct Relay {
    shared: u32,
    at: Position,
}

impl Relay {
    /// At the ring's start.
    #[inline(always)]
    pub const fn new(shared: u32) -> Self {
        Self { shared, at: Position::START }
    }

    /// Relays a tile of `steps` steps.
    ///
    /// # Safety
    /// One thread of the odd block; barriers are live in both blocks; the producer brings the same tile.
    #[inline(always)]
    pub unsafe fn tile<F: Form>(&mut self, steps: u32) {
        let mut stages = steps.div_ceil(STAGE_STEPS);
        while stages != 0 {
            let full = self.shared + self.at.full::<F>();
            // SAFETY: the caller's duty.
            unsafe {
                mbarrier::wait_parity(full, self.at.parity);
                mbarrier::arrive_cluster(cluster::map_shared(full, 0));
            }
            self.at.advance::<F>();
            stages = opaque_u32(stages - 1);
        }
    }
}
