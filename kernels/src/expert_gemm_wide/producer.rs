//! The producer warp: brings weights by bulk copies and gathers token rows.

use cuda_std::convergence::opaque;
use cuda_std::prelude::*;
use cuda_std::wgmma_rs::{B_ROW_BYTES, swizzled_chunk};
use cuda_std::{bulk, cp_async, fence, mbarrier};

use super::Operands;
use super::layout::{Form, Position, UNIT};
use super::tiles::Walk;

/// 16-byte chunks of a token row in one k unit.
const UNIT_CHUNKS: u32 = B_ROW_BYTES / 16;
/// Rows of B that the warp copies at a time: eight lanes bring 128 bytes of one row.
const GROUP_ROWS: u32 = 32 / UNIT_CHUNKS;
/// Groups that are copied or not copied together: 32 rows.
const BATCH: usize = 8;
/// Most groups: of tiles of 128.
const GROUPS: usize = 32;
/// What the swizzle adds to the place from one group to the next: four rows more flip one bit of the chunk.
const FLIP: u32 = 16 * GROUP_ROWS;

const _: () = assert!(GROUP_ROWS == 4 && FLIP == 64);

/// Arrivals that fill a stage: the weights' expectation and the token rows.
pub const FULL_ARRIVALS: u32 = 2;

/// Brings the weights and the tokens of every tile of this block.
///
/// # Safety
/// One whole warp of the block; the operands are as the kernel demands; barriers are initialised.
#[inline(always)]
pub unsafe fn warp<F: Form>(shared: u32, operands: &Operands, blocks: u32) {
    const { assert!(F::WIDTH <= GROUP_ROWS * GROUPS as u32) };
    let mut walk = Walk::new(thread::block_idx_x(), thread::grid_dim_x());
    let (mut at, mut done) = (Position::START, Position::START);
    let mut issued = 0;
    let lane = warp::lane_id();
    let announcer = lane == 0;
    // The lane's row of a group, its chunk, and their place in the first group.
    let (row_in_group, chunk) = (lane / UNIT_CHUNKS, lane % UNIT_CHUNKS);
    let place = row_in_group * B_ROW_BYTES + 16 * swizzled_chunk(row_in_group, chunk);
    let row_tile_bytes = operands.k_units as usize * UNIT as usize;
    let count = |e: u32| {
        // SAFETY: `counts` has an element per expert.
        unsafe { *operands.counts.add(e as usize) }
    };
    while let Some(tile) = walk.next(operands.experts, blocks, F::WIDTH, count) {
        // SAFETY: `offsets` has an element per expert.
        let first = unsafe { *operands.offsets.add(tile.expert as usize) } + tile.first;
        // The lane's chunk of each of its rows, in 16-byte units from the start of B. Rows past the end are copies
        // of the last one; their results are not stored.
        let mut rows = [0u32; GROUPS];
        let mut j = 0;
        while j < F::WIDTH as usize / GROUP_ROWS as usize {
            let row = first + (GROUP_ROWS * j as u32 + row_in_group).min(tile.rows - 1);
            // SAFETY: `row_token` is null or holds the expert's rows.
            let token = unsafe { operands.token(row) };
            rows[j] = token * (UNIT_CHUNKS * operands.k_units) + chunk;
            j += 1;
        }
        let first_tile = tile.block * F::ROW_TILES;
        // Row tiles past the end are copies of the last one; their results are not stored.
        let last = operands.tile_count - 1 - first_tile;
        let matrix = tile.expert as usize * operands.row_tiles as usize;
        let row_tile = matrix + (operands.first_tile + first_tile) as usize;
        let weights = operands.weights.wrapping_add(row_tile * row_tile_bytes);
        let mut unit = 0;
        while unit < operands.k_units {
            // SAFETY: the warp is here; the barriers are live; the slot is free when its "empty" phase has completed;
            // the row tiles lie in the matrix, and tokens are rows of B.
            unsafe {
                mbarrier::wait_parity(shared + at.empty::<F>(), at.parity ^ 1);
                warp::sync_warp(warp::FULL);
                if warp::elect(warp::FULL) {
                    let full = shared + at.full::<F>();
                    mbarrier::arrive_expect_tx(full, F::A_BYTES);
                    let from = weights.wrapping_add(unit as usize * UNIT as usize);
                    copy_weights::<F>(
                        shared + F::A_OFFSET + at.slot * F::A_BYTES,
                        from,
                        row_tile_bytes,
                        last,
                        full,
                    );
                }
                let to = shared + at.slot * F::B_BYTES + place;
                let from = operands.b.cast::<u8>().wrapping_add((unit * B_ROW_BYTES) as usize);
                copy_tokens::<F>(to, from, &rows, tile.rows);
                cp_async::commit_group();
                at.advance::<F>();
                issued += 1;
                if issued > F::LAG {
                    cp_async::wait_group::<LAG>();
                    announce::<F>(shared, &mut done, announcer);
                }
            }
            unit += 1;
        }
    }
    cp_async::wait_group::<0>();
    let mut left = if issued < F::LAG { issued } else { F::LAG };
    while left != 0 {
        // SAFETY: the copies of all stages are done.
        unsafe { announce::<F>(shared, &mut done, announcer) };
        left -= 1;
    }
}

/// [`Form::LAG`] of every form, as a literal.
const LAG: u32 = 5;
const _: () = assert!(super::Wide::LAG == LAG && super::Narrow::LAG == LAG);

/// One unit of each row tile of the block.
///
/// # Safety
/// One lane; as [`warp`].
#[inline(always)]
unsafe fn copy_weights<F: Form>(to: u32, from: *const u8, row_tile_bytes: usize, last: u32, full: u32) {
    let mut from = from;
    let mut i = 0;
    while i < F::ROW_TILES {
        // SAFETY: the caller's duty.
        unsafe { bulk::load(to + i * UNIT, from, UNIT, full) };
        if i < last {
            from = from.wrapping_add(row_tile_bytes);
        }
        i += 1;
    }
}

/// One unit of `count` rows, at least; whole batches.
///
/// # Safety
/// As [`warp`].
#[inline(always)]
unsafe fn copy_tokens<F: Form>(to: u32, from: *const u8, rows: &[u32; GROUPS], count: u32) {
    let mut batch = 0;
    while batch < F::WIDTH as usize / GROUP_ROWS as usize / BATCH {
        if batch == 0 || count > GROUP_ROWS * (BATCH * batch) as u32 {
            let mut i = 0;
            while i < BATCH {
                let j = BATCH * batch + i;
                let place = (to ^ (FLIP * (j as u32 & 1))) + j as u32 * (GROUP_ROWS * B_ROW_BYTES);
                // SAFETY: the caller's duty.
                unsafe { cp_async::copy_16(place, from.wrapping_add(rows[j] as usize * 16)) };
                i += 1;
            }
        }
        batch += 1;
    }
}

/// Tells the consumers that the token rows of the stage `done` are there.
///
/// # Safety
/// The whole warp, whose copies of that stage are done.
#[inline(always)]
unsafe fn announce<F: Form>(shared: u32, done: &mut Position, announcer: bool) {
    // Every lane for its own copies; then one arrival for the warp.
    fence::proxy_async_shared();
    // SAFETY: the warp is here, and the barrier is live.
    unsafe {
        warp::sync_warp(warp::FULL);
        if opaque(announcer) {
            mbarrier::arrive(shared + done.full::<F>());
        }
    }
    done.advance::<F>();
}
