//! The issuer: one thread that copies scales to tensor memory and issues the MMAs, one per step, K ascending.
//!
//! Two stages' scales have columns of their own, so the copies of a stage are issued while the MMAs of the one before run;
//! they wait for the stage before that.

use cuda_std::tcgen05::descriptor::{instruction, matrix};
use cuda_std::tcgen05::{self, mma};

use super::layout::{
    A_BYTES, B_SCALE_BYTES, Buffer, Form, Position, SCALE_SETS, SCALE_TILE, STAGE_STEPS, START_ALIGN, UNIT,
    b_scale_columns, scale_column,
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
        let blocks = if pieces(tile.first, columns)[1].rows == 0 { 1 } else { 2 };
        let start = tile.first / START_ALIGN % (BLOCK_ROWS as u32 / START_ALIGN) * START_COLUMNS;
        let d = self.tensor + self.buffer.column();
        // SAFETY: the epilogue has read what the buffer held before.
        unsafe { wait::<F>(self.shared + self.buffer.read::<F>(), self.buffer.parity() ^ 1) };
        let mut step = 0;
        while step < steps {
            // SAFETY: operands are complete when the "full" phase has completed; scale columns are free when the stage
            // that used them last has.
            unsafe {
                if self.fresh == 0 {
                    wait::<F>(self.shared + self.before.empty::<F>(), self.before.parity);
                    self.before.advance::<F>();
                } else {
                    self.fresh -= 1;
                }
                wait::<F>(self.shared + self.at.full::<F>(), self.at.parity);
                tcgen05::fence_after_thread_sync();
                let a = self.shared + self.at.slot * A_BYTES;
                let b = self.shared + F::B_OFFSET + self.at.slot * F::B_BYTES;
                let b_scales = self.shared + F::B_SCALE_OFFSET + self.at.slot * B_SCALE_BYTES;
                let mut s = 0;
                while s < STAGE_STEPS && step + s < steps {
                    let scale_a = self.tensor + scale_column(self.set, s);
                    let scale_b = scale_a + b_scale_columns(0);
                    let unit = a + s * UNIT;
                    let tile_b = b_scales + s * SCALE_TILE;
                    mma::copy_scales::<F::Group>(scale_a, matrix::scale_tile(unit + STEP_CODE_BYTES as u32));
                    mma::copy_scales::<F::Group>(scale_b, matrix::scale_tile(tile_b));
                    if blocks == 2 {
                        let second = matrix::scale_tile(tile_b + STAGE_STEPS * SCALE_TILE);
                        mma::copy_scales::<F::Group>(scale_a + b_scale_columns(1), second);
                    }
                    let operands = mma::Operands {
                        d,
                        a: operand(unit),
                        b: operand(b + s * F::B_STEP),
                        scale_a,
                        scale_b: scale_b + start,
                    };
                    mma::nvfp4::<F::Group>(operands, shape, step + s != 0);
                    s += 1;
                }
                mma::commit::<F::Group>(self.shared + self.at.empty::<F>());
            }
            self.set = (self.set + 1) % SCALE_SETS;
            step += STAGE_STEPS;
            self.at.advance::<F>();
        }
        // SAFETY: behind all MMAs of the tile.
        unsafe { mma::commit::<F::Group>(self.shared + self.buffer.complete::<F>()) };
        self.buffer.advance();
    }
}
