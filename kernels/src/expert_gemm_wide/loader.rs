//! What a warp brings: its own weights by bulk copies, and its share of the token rows, some stages ahead of their use.

use cuda_std::convergence::{opaque, opaque_u32};
use cuda_std::prelude::*;
use cuda_std::wgmma_rs::{B_ROW_BYTES, swizzled_chunk};
use cuda_std::{bulk, cp_async, fence, mbarrier};

use super::layout::{Form, Position, UNIT, UNIT_CHUNKS};
use super::notes::{Notes, Who};
use super::{Operands, width_of};

/// One warp's copies, stage by stage through all tiles of the block.
///
/// A stage is brought by [`Loader::fetch`], and once the warp's copies of token rows have landed `Loader::announce`
/// says so; [`Form::LAG`] stages later, so that nobody waits for memory. Every warp arrives once on a stage's "full"
/// barrier, which also counts the bytes of all warps' weights. The stages past the last tile's are empty, but have
/// their turn as all others.
pub struct Loader {
    /// Units left of the current tile; 0 at a stage's turn: nothing is left.
    left: u32,
    /// The warp's first unit of the next stage.
    weights: *const u8,
    /// Bytes from there to its second one.
    second: u32,
    /// The lane's 16-byte chunk of the next stage's first unit, counted in a row of B.
    b: u32,
    /// How many rows of B follow the thread's first one in the tile's width, it included; maybe none.
    wanted: i32,
    /// The thread's place in B.
    place: u32,
}

impl Loader {
    /// At the first tile.
    ///
    /// # Safety
    /// The whole warp, with its own `notes`; the operands are as the kernel demands.
    #[inline(always)]
    pub unsafe fn new<F: Form>(shared: u32, notes: Notes, operands: &Operands, blocks: u32) -> Self {
        let thread = thread::thread_idx_x();
        let (row, chunk) = (thread / UNIT_CHUNKS, thread % UNIT_CHUNKS);
        let mut new = Self {
            left: 0,
            weights: operands.weights,
            second: 0,
            b: 0,
            wanted: 0,
            place: shared + row * B_ROW_BYTES + 16 * swizzled_chunk(row, chunk),
        };
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
        // SAFETY: the slot is free when its "empty" phase has completed; row tiles lie in the matrix, and tokens are
        // rows of B.
        unsafe {
            mbarrier::wait_parity(shared + at.empty::<F>(), at.parity ^ 1);
            warp::sync_warp(warp::FULL);
            if self.left != 0 {
                let units = self.left.min(F::STAGE_UNITS);
                if warp::elect(warp::FULL) {
                    let full = shared + at.full::<F>();
                    // This warp's arrival is still to come, so the phase stays.
                    mbarrier::expect_tx(full, F::TILES * UNIT * units);
                    let own = thread::thread_idx_x() / 32 * (F::TILES * F::STAGE_UNITS * UNIT);
                    let to = shared + F::A_OFFSET + own + at.slot * F::A_BYTES;
                    bulk::load(to, self.weights, UNIT * units, full);
                    if F::TILES == 2 {
                        let second = self.weights.wrapping_add(self.second as usize);
                        bulk::load(to + F::STAGE_UNITS * UNIT, second, UNIT * units, full);
                    }
                }
                let to = self.place + at.slot * F::B_BYTES;
                // From the thread and hidden: not kept in registers.
                let own = opaque_u32(thread::thread_idx_x()) % 32 / UNIT_CHUNKS;
                let rows = notes.rows(own);
                let mut batch = 0;
                while batch < F::WIDTH.div_ceil(F::BATCH_ROWS) as usize {
                    let first = F::BATCH_ROWS * batch as u32;
                    let chunk = rows[batch].wrapping_add(self.b);
                    let from = operands.b.cast::<u8>().wrapping_add(chunk as usize * 16);
                    let wanted = self.wanted > first as i32;
                    cp_async::copy_16_if(to + first * B_ROW_BYTES, from, wanted);
                    if F::STAGE_UNITS == 2 {
                        let second = to + F::UNIT_B_BYTES + first * B_ROW_BYTES;
                        let wanted = wanted & (units == 2);
                        cp_async::copy_16_if(second, from.wrapping_add(B_ROW_BYTES as usize), wanted);
                    }
                    batch += 1;
                }
                self.weights = self.weights.wrapping_add((F::STAGE_UNITS * UNIT) as usize);
                self.b += F::STAGE_UNITS * UNIT_CHUNKS;
                self.left -= units;
                if self.left == 0 {
                    self.next_tile::<F>(notes, operands, blocks);
                }
            }
        }
        // Maybe empty: waiting for all groups but some keeps its meaning.
        cp_async::commit_group();
    }

    /// Finds the next tile; leaves `left` at 0 if there is none.
    ///
    /// # Safety
    /// As [`Loader::fetch`].
    #[inline(always)]
    unsafe fn next_tile<F: Form>(&mut self, notes: Notes, operands: &Operands, blocks: u32) {
        // SAFETY: the caller's duties.
        let tile = unsafe { notes.next::<F>(Who::Loader, operands, blocks) };
        if tile.rows == 0 {
            return;
        }
        // SAFETY: `offsets` has an element per expert.
        let first = unsafe { *operands.offsets.add(tile.expert as usize) } + tile.first;
        // What follows from these is worked out here and not kept in registers through the loop.
        let thread = opaque_u32(thread::thread_idx_x());
        let (k_units, row_tiles) = (opaque_u32(operands.k_units), opaque_u32(operands.row_tiles));
        let (own, chunk) = (thread / UNIT_CHUNKS, thread % UNIT_CHUNKS);
        self.wanted = width_of::<F>(tile.rows) as i32 - own as i32;
        // A lane for each of the warp's rows: the fourth part of a batch, of every batch that the tile may have and some more. Rows past the end are copies of
        // the last one; their results are not stored.
        let row = own + F::BATCH_ROWS * chunk;
        // SAFETY: `row_token` is null or holds the expert's rows; the warp is here.
        unsafe {
            let token = operands.token(first + row.min(tile.rows - 1));
            notes.set_row(thread % 32, token * (UNIT_CHUNKS * k_units));
        }
        // Row tiles past the end are copies of the last one; their results are not stored.
        let first_tile = tile.block * F::ROW_TILES;
        let last = operands.tile_count - 1 - first_tile;
        let own = thread / 32 * F::TILES;
        let row_tile_bytes = k_units * UNIT;
        let matrix = tile.expert as usize * row_tiles as usize;
        let row_tile = matrix + (operands.first_tile + first_tile + own.min(last)) as usize;
        self.weights = operands.weights.wrapping_add(row_tile * row_tile_bytes as usize);
        self.second = if own < last { row_tile_bytes } else { 0 };
        self.b = chunk;
        self.left = k_units;
    }

    /// Tells all warps that this one's token rows of the stage at slot `slot` are there.
    ///
    /// # Safety
    /// The whole warp; since the stage's turn at most `PENDING` others had theirs.
    #[inline(always)]
    unsafe fn announce<F: Form, const PENDING: u32>(&self, slot: u32, shared: u32) {
        cp_async::wait_group::<PENDING>();
        // Every lane for its own copies; then one arrival for the warp.
        fence::proxy_async_shared();
        // SAFETY: the warp is here, and the barrier is live.
        unsafe {
            warp::sync_warp(warp::FULL);
            if opaque(warp::lane_id() == 0) {
                mbarrier::arrive(shared + F::FULL_OFFSET + slot * mbarrier::BYTES);
            }
        }
    }

    /// `Loader::announce` for the stage whose turn was [`Form::LAG`] turns before the one that comes.
    ///
    /// # Safety
    /// The whole warp.
    #[inline(always)]
    pub unsafe fn announce_lagging<F: Form>(&self, slot: u32, shared: u32) {
        const { assert!(matches!(F::LAG, 1 | 2)) };
        // SAFETY: the caller's duty.
        unsafe {
            if F::LAG == 1 {
                self.announce::<F, 0>(slot, shared)
            } else {
                self.announce::<F, 1>(slot, shared)
            }
        }
    }

    /// A turn at the stage at `at`: announces the stage `AHEAD - LAG` stages on, then brings the one `AHEAD` on. In this
    /// order nothing waits for what has just been asked for.
    ///
    /// # Safety
    /// As [`Loader::fetch`].
    #[inline(always)]
    pub unsafe fn turn<F: Form>(
        &mut self,
        at: Position,
        shared: u32,
        notes: Notes,
        operands: &Operands,
        blocks: u32,
    ) {
        // SAFETY: the caller's duties.
        unsafe {
            self.announce_lagging::<F>(at.ahead::<F>(F::AHEAD - F::LAG).slot, shared);
            self.fetch::<F>(at.ahead::<F>(F::AHEAD), shared, notes, operands, blocks);
        }
    }
}
