//! What a warp brings: its own weights by bulk copies, and its share of the token rows, some stages ahead of their use.

use cuda_std::convergence::{opaque, opaque_u32};
use cuda_std::prelude::*;
use cuda_std::wgmma_rs::{B_ROW_BYTES, swizzled_chunk};
use cuda_std::{bulk, cp_async, fence, mbarrier};

use super::layout::{Form, Position, STAGE_UNITS, THREADS, UNIT, WARP_ROW_TILES};
use super::notes::{Notes, Who};
use super::{Operands, width_of};

/// 16-byte chunks of a token row in one k unit.
const UNIT_CHUNKS: u32 = B_ROW_BYTES / 16;
/// Rows of B that the block copies at a time: eight threads bring 128 bytes of one row.
const BATCH_ROWS: u32 = THREADS / UNIT_CHUNKS;
/// Most batches: of tiles of 128.
const BATCHES: usize = 4;

// A batch further the swizzle is the same.
const _: () = assert!(BATCH_ROWS.is_multiple_of(8) && STAGE_UNITS == 2);

/// One warp's copies, stage by stage through all tiles of the block.
///
/// A stage is brought by [`Loader::fetch`], and once the warp's copies of token rows have landed [`Loader::announce`]
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
    /// Columns of B of the next stage.
    b: *const u8,
    /// The thread's chunks of the first unit in its rows of the tile, in 16-byte units from the start of B.
    rows: [u32; BATCHES],
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
            b: operands.b.cast(),
            rows: [0; BATCHES],
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
                let units = self.left.min(STAGE_UNITS);
                if warp::elect(warp::FULL) {
                    let full = shared + at.full::<F>();
                    // This warp's arrival is still to come, so the phase stays.
                    mbarrier::expect_tx(full, WARP_ROW_TILES * UNIT * units);
                    let own = thread::thread_idx_x() / 32 * (WARP_ROW_TILES * STAGE_UNITS * UNIT);
                    let to = shared + F::A_OFFSET + own + at.slot * F::A_BYTES;
                    bulk::load(to, self.weights, UNIT * units, full);
                    let second = self.weights.wrapping_add(self.second as usize);
                    bulk::load(to + STAGE_UNITS * UNIT, second, UNIT * units, full);
                }
                let to = self.place + at.slot * F::B_BYTES;
                let mut batch = 0;
                while batch < F::WIDTH.div_ceil(BATCH_ROWS) as usize {
                    let first = BATCH_ROWS * batch as u32;
                    if self.wanted > first as i32 {
                        let from = self.b.wrapping_add(self.rows[batch] as usize * 16);
                        cp_async::copy_16(to + first * B_ROW_BYTES, from);
                        if units == STAGE_UNITS {
                            let second = to + F::UNIT_B_BYTES + first * B_ROW_BYTES;
                            cp_async::copy_16(second, from.wrapping_add(B_ROW_BYTES as usize));
                        }
                    }
                    batch += 1;
                }
                self.weights = self.weights.wrapping_add((STAGE_UNITS * UNIT) as usize);
                self.b = self.b.wrapping_add((STAGE_UNITS * B_ROW_BYTES) as usize);
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
        let Some(tile) = (unsafe { notes.next::<F>(Who::Loader, operands, blocks) }) else { return };
        // SAFETY: `offsets` has an element per expert.
        let first = unsafe { *operands.offsets.add(tile.expert as usize) } + tile.first;
        // What follows from these is worked out here and not kept in registers through the loop.
        let thread = opaque_u32(thread::thread_idx_x());
        let (k_units, row_tiles) = (opaque_u32(operands.k_units), opaque_u32(operands.row_tiles));
        let (own, chunk) = (thread / UNIT_CHUNKS, thread % UNIT_CHUNKS);
        self.wanted = width_of::<F>(tile.rows) as i32 - own as i32;
        // Rows past the end are copies of the last one; their results are not stored.
        let mut batch = 0;
        while batch < F::WIDTH.div_ceil(BATCH_ROWS) as usize {
            let row = first + (own + BATCH_ROWS * batch as u32).min(tile.rows - 1);
            // SAFETY: `row_token` is null or holds the expert's rows.
            let token = unsafe { operands.token(row) };
            self.rows[batch] = token * (UNIT_CHUNKS * k_units) + chunk;
            batch += 1;
        }
        // Row tiles past the end are copies of the last one; their results are not stored.
        let first_tile = tile.block * F::ROW_TILES;
        let last = operands.tile_count - 1 - first_tile;
        let own = thread / 32 * WARP_ROW_TILES;
        let row_tile_bytes = k_units * UNIT;
        let matrix = tile.expert as usize * row_tiles as usize;
        let row_tile = matrix + (operands.first_tile + first_tile + own.min(last)) as usize;
        self.weights = operands.weights.wrapping_add(row_tile * row_tile_bytes as usize);
        self.second = if own < last { row_tile_bytes } else { 0 };
        self.b = operands.b.cast();
        self.left = k_units;
    }

    /// Tells all warps that this one's token rows of the stage at slot `slot` are there.
    ///
    /// # Safety
    /// The whole warp; the stage had its turn [`Form::LAG`] turns ago.
    #[inline(always)]
    pub unsafe fn announce<F: Form>(&self, slot: u32, shared: u32) {
        const { assert!(F::LAG == LAG) };
        cp_async::wait_group::<LAG>();
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
}

/// [`Form::LAG`] of every form, as a literal.
const LAG: u32 = 1;
