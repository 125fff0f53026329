//! A warpgroup: expands weights to A fragments in registers while wgmma runs on the previous ones.

use cuda_std::convergence::{opaque, opaque_u32};
use cuda_std::prelude::*;
use cuda_std::wgmma_rs::{self, DESCRIPTOR_K16};
use cuda_std::{mbarrier, wgmma};

use super::Operands;
use super::layout::{CHUNK, CHUNK_BYTES, CHUNK_PITCH, Form, Position, STAGE_UNITS, UNIT, WARP_ROW_TILES};
use super::loader::Loader;
use super::notes::{Notes, Who};
use super::output::{Lane, Output};
use super::tiles::Tile;
use crate::expand::{self, Table};
use crate::fragment::CODE_BYTES;

/// A lane's weights of one k unit of one row tile.
#[derive(Clone, Copy)]
struct Unit {
    /// Codes of the four k16 steps.
    words: [u32; 4],
    /// Scales of rows g and g + 8, as f16 pairs.
    scales: [u32; 4],
}

impl Unit {
    /// # Safety
    /// The unit at shared address `unit` is complete.
    #[inline(always)]
    unsafe fn load(unit: u32, lane: u32) -> Self {
        // SAFETY: 16-byte and 8-byte pieces of the unit.
        unsafe {
            let words = shared::load_v4(unit + 16 * lane);
            let scales = shared::load_v2(unit + CODE_BYTES as u32 + 8 * (lane / 4));
            Self { words, scales: expand::scales(scales) }
        }
    }

    #[inline(always)]
    fn fragment(&self, table: Table, step: usize) -> [u32; 4] {
        table.fragment(self.words[step], self.scales[step])
    }
}

/// What a warp knows of itself.
#[derive(Clone, Copy)]
struct Warp {
    /// Dynamic shared memory of the block.
    shared: u32,
    /// Number among the warps.
    index: u32,
    lane: u32,
    notes: Notes,
    /// For the expansion.
    table: Table,
}

impl Warp {
    /// # Safety
    /// The whole warp; the barriers are live.
    #[inline(always)]
    unsafe fn wait_full<F: Form>(&self, at: Position) {
        // SAFETY: the caller's duty.
        unsafe {
            mbarrier::wait_parity(self.shared + at.full::<F>(), at.parity);
            warp::sync_warp(warp::FULL);
        }
    }

    /// # Safety
    /// The whole warp, which has read all it wants of the slot, by wgmma too.
    #[inline(always)]
    unsafe fn release<F: Form>(&self, at: Position) {
        // SAFETY: the caller's duty.
        unsafe {
            warp::sync_warp(warp::FULL);
            if opaque(self.lane == 0) {
                mbarrier::arrive(self.shared + at.empty::<F>());
            }
        }
    }

    /// The warp's units of unit `half` of the stage at `at`.
    ///
    /// # Safety
    /// The stage is full.
    #[inline(always)]
    unsafe fn load<F: Form>(&self, at: Position, half: u32) -> [Unit; 2] {
        let own = self.index * (WARP_ROW_TILES * STAGE_UNITS * UNIT) + half * UNIT;
        let first = self.shared + F::A_OFFSET + at.slot * F::A_BYTES + own;
        // SAFETY: the caller's duty.
        unsafe { [Unit::load(first, self.lane), Unit::load(first + STAGE_UNITS * UNIT, self.lane)] }
    }
}

/// Brings and computes every tile of this block.
///
/// # Safety
/// A whole warpgroup of the block, each once; operands and `output` as the kernel demands; barriers are initialised;
/// sm_90a.
#[inline(always)]
pub unsafe fn warpgroup<F: Form, O: Output>(shared: u32, operands: &Operands, blocks: u32, output: &O) {
    let lane = warp::lane_id();
    let index = thread::thread_idx_x() / 32;
    // SAFETY: the word is there.
    let table = Table::hidden(unsafe { shared::load_u32(shared + F::ZERO_OFFSET) });
    let notes = Notes { address: shared + F::NOTES_OFFSET + index * F::NOTES_BYTES };
    let me = Warp { shared, index, lane, notes, table };
    let mut at = Position::START;
    // SAFETY: the warpgroup is here, and all of it takes the same arm; the caller's duties.
    unsafe {
        notes.start(Who::Consumer);
        let mut loader = Loader::new::<F>(shared, notes, operands, blocks);
        // The bound is a number, so that the loop stays one.
        let mut turn = Position::START;
        while turn.slot < opaque_u32(F::AHEAD) {
            loader.fetch::<F>(turn, shared, notes, operands, blocks);
            if turn.slot >= F::LAG {
                loader.announce::<F>(turn.slot - F::LAG, shared);
            }
            turn.slot += 1;
        }
        while let Some(tile) = notes.next::<F>(Who::Consumer, operands, blocks) {
            notes.set_tile(tile);
            macro_rules! width {
                ($n:literal) => {
                    one_tile::<F, O, $n>(me, operands, blocks, output, &mut loader, &mut at)
                };
            }
            match super::width_of::<F>(tile.rows) {
                16 if F::WIDTH == 32 => width!(16),
                32 => width!(32),
                64 if F::WIDTH == 128 => width!(64),
                96 if F::WIDTH == 128 => width!(96),
                128 if F::WIDTH == 128 => width!(128),
                _ => core::hint::unreachable_unchecked(),
            }
        }
    }
}

/// # Safety
/// As [`warpgroup`].
#[inline(always)]
unsafe fn one_tile<F: Form, O: Output, const N: usize>(
    me: Warp,
    operands: &Operands,
    blocks: u32,
    output: &O,
    loader: &mut Loader,
    at: &mut Position,
) {
    // SAFETY: the caller's duties.
    unsafe {
        let tile = me.notes.tile();
        let first = *operands.offsets.add(tile.expert as usize) + tile.first;
        note_scales::<N>(me, operands, first, tile.rows);
        let acc = multiply::<F, N>(me, operands, blocks, loader, at);
        let tile = me.notes.tile();
        let first = *operands.offsets.add(tile.expert as usize) + tile.first;
        finish::<F, O, N>(me, operands, output, tile, first, &acc);
    }
}

/// Notes the scales of the tile's tokens.
///
/// # Safety
/// The whole warp; the rows are rows of the problem.
#[inline(always)]
unsafe fn note_scales<const N: usize>(me: Warp, operands: &Operands, first: u32, rows: u32) {
    let mut j = 0;
    while j < N.div_ceil(32) {
        let token = 32 * j as u32 + me.lane;
        if token < rows {
            // SAFETY: the caller's duty; the warp reads them after a barrier, and has read the ones before.
            unsafe {
                let scale = *operands.b_scale.add(operands.token(first + token) as usize);
                shared::store_u32(me.notes.scale(token), scale.to_bits());
            }
        }
        j += 1;
    }
}

/// The accumulators of the warpgroup's two m64 tiles: one chain over all k16 steps in order.
///
/// # Safety
/// As [`warpgroup`]; `k_units` is at least 1.
#[inline(always)]
unsafe fn multiply<F: Form, const N: usize>(
    me: Warp,
    operands: &Operands,
    blocks: u32,
    loader: &mut Loader,
    at: &mut Position,
) -> [u32; N] {
    let mut acc = [0u32; N];
    let k_units = operands.k_units;
    let mut left = k_units;
    // SAFETY: the warpgroup is here; a stage is used between "full" and "empty"; fragments are only overwritten
    // when the group that reads them is done.
    unsafe {
        me.wait_full::<F>(*at);
        let mut half = 0;
        let mut units = me.load::<F>(*at, half);
        let mut even = [units[0].fragment(me.table, 0), units[1].fragment(me.table, 0)];
        let mut previous = *at;
        loop {
            let b = wgmma_rs::descriptor(me.shared + at.slot * F::B_BYTES + half * F::UNIT_B_BYTES);
            wgmma_rs::rs_pair_step(&mut acc, even[0], even[1], b);
            wgmma::wait_group::<1>();
            if half == 0 && left != k_units {
                me.release::<F>(previous);
            }
            let odd = [units[0].fragment(me.table, 1), units[1].fragment(me.table, 1)];
            wgmma_rs::rs_pair_step(&mut acc, odd[0], odd[1], b + DESCRIPTOR_K16);
            left -= 1;
            // Once in a stage, when the others have had time to give the slot back.
            if half == STAGE_UNITS - 1 || left == 0 {
                loader.fetch::<F>(at.ahead::<F>(F::AHEAD), me.shared, me.notes, operands, blocks);
                loader.announce::<F>(at.ahead::<F>(F::AHEAD - F::LAG).slot, me.shared);
            }
            wgmma::wait_group::<1>();
            even = [units[0].fragment(me.table, 2), units[1].fragment(me.table, 2)];
            wgmma_rs::rs_pair_step(&mut acc, even[0], even[1], b + 2 * DESCRIPTOR_K16);
            wgmma::wait_group::<1>();
            let odd = [units[0].fragment(me.table, 3), units[1].fragment(me.table, 3)];
            wgmma_rs::rs_pair_step(&mut acc, odd[0], odd[1], b + 3 * DESCRIPTOR_K16);
            wgmma::wait_group::<1>();
            half ^= 1;
            if half == 0 || left == 0 {
                previous = *at;
                at.advance::<F>();
            }
            if left == 0 {
                break;
            }
            if half == 0 {
                me.wait_full::<F>(*at);
            }
            units = me.load::<F>(*at, half);
            even = [units[0].fragment(me.table, 0), units[1].fragment(me.table, 0)];
        }
        wgmma::wait_group::<0>();
        me.release::<F>(previous);
    }
    acc
}

/// Scales, activates and stores: sixteen tokens at a time through the warp's own staging area, from which a lane
/// takes the results of one row tile of one token.
///
/// # Safety
/// As [`warpgroup`].
#[inline(always)]
unsafe fn finish<F: Form, O: Output, const N: usize>(
    me: Warp,
    operands: &Operands,
    output: &O,
    tile: Tile,
    first: u32,
    acc: &[u32; N],
) {
    let staging = me.shared + F::CHUNK_OFFSET + me.index * CHUNK_BYTES;
    let (g, t) = (me.lane / 4, me.lane % 4);
    let stored = staging + 4 * (2 * t * CHUNK_PITCH + g);
    // The lane's token of a chunk, and which of the warp's row tiles.
    let (token, half) = (me.lane / 2, me.lane % 2);
    // A tile of eight tokens has half a chunk; lanes without a token take another's and store nothing.
    let loaded = staging + 4 * (token % N.min(16) as u32 * CHUNK_PITCH + 16 * half);
    let row_tile = tile.block * F::ROW_TILES + me.index * WARP_ROW_TILES + half;
    // SAFETY: the expert exists.
    let alphas = unsafe { output.alphas(tile.expert) };
    let chunks = opaque_u32(tile.rows.div_ceil(CHUNK));
    let mut chunk = 0;
    while chunk < chunks {
        // SAFETY: the warp is here; the area is its own; the lane's row and row tile exist where it stores.
        unsafe {
            // Which registers is known per arm only; loading and what follows is there once.
            let mut c = 0;
            while c < N.div_ceil(16) {
                if chunk == c as u32 {
                    let mut i = 0;
                    while i < 8 && 8 * c + i < N / 2 {
                        // Register i of a tile: token 8 * (i / 4) + 2t + (i & 1), row g + 8 * (i >> 1 & 1).
                        let place = stored
                            + 4 * ((8 * (i as u32 / 4) + (i as u32 & 1)) * CHUNK_PITCH
                                + 8 * (i as u32 >> 1 & 1));
                        shared::store_u32(place, acc[8 * c + i]);
                        shared::store_u32(place + 4 * 16, acc[N / 2 + 8 * c + i]);
                        i += 1;
                    }
                }
                c += 1;
            }
            warp::sync_warp(warp::FULL);
            let row = chunk * CHUNK + token;
            let scale = f32::from_bits(shared::load_u32(me.notes.scale(row.min(tile.rows - 1))));
            let lane = Lane {
                staged: loaded,
                scale,
                alphas,
                row: first + row,
                row_tile,
                first_tile: operands.first_tile,
                wanted: row < tile.rows && row_tile < operands.tile_count,
            };
            output.store(lane);
            // The area is written again.
            warp::sync_warp(warp::FULL);
        }
        chunk += 1;
    }
}
