//! A warpgroup: every tile of the block, from its stages to its outputs.

use cuda_std::convergence::opaque_u32;
use cuda_std::mbarrier;
use cuda_std::prelude::*;

use super::layout::{Broad, Form, Narrow, Position, UNIT, Wide};
use super::notes::Notes;
use super::output::{Lane, Output};
use super::tiles::Tile;
use super::{Operands, single, stepped};
use crate::expand::{self, UNSCALE};
use crate::fragment::CODE_BYTES;

/// A lane's weights of one k unit of one row tile.
#[derive(Clone, Copy)]
pub struct Unit {
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

    /// The A fragment of a k16 step.
    #[inline(always)]
    pub fn fragment(&self, step: usize) -> [u32; 4] {
        expand::fragment(self.words[step], self.scales[step])
    }
}

/// What a warp knows of itself.
#[derive(Clone, Copy)]
pub struct Warp {
    /// Dynamic shared memory of the block.
    pub shared: u32,
    /// Number among the warps.
    pub index: u32,
    /// Number in the warp.
    pub lane: u32,
    /// The warp's notes.
    pub notes: Notes,
}

impl Warp {
    /// This warp, in a block whose dynamic shared memory is at `shared`. What follows from it is worked out again where it
    /// is asked for again: nothing of it is kept in registers from tile to tile.
    ///
    /// # Safety
    /// The whole warp.
    #[inline(always)]
    pub unsafe fn new<F: Form>(shared: u32) -> Self {
        let lane = warp::lane_id();
        // SAFETY: the caller's duty.
        let index = unsafe { warp::uniform(thread::thread_idx_x() / 32) };
        let notes = Notes { address: shared + F::NOTES_OFFSET + index * F::NOTES_BYTES };
        Self { shared, index, lane, notes }
    }

    /// Waits for the stage at `at`.
    ///
    /// # Safety
    /// The whole warp; the barriers are live.
    #[inline(always)]
    pub unsafe fn wait_full<F: Form>(&self, at: Position) {
        // SAFETY: the caller's duty.
        unsafe {
            mbarrier::wait_parity(self.shared + at.full::<F>(), at.parity);
            warp::sync_warp(warp::FULL);
        }
    }

    /// Gives the slot of the stage at `at` back: every lane for what it has read.
    ///
    /// # Safety
    /// The whole warp, which has read all it wants of the slot, by wgmma too.
    #[inline(always)]
    pub unsafe fn release<F: Form>(&self, at: Position) {
        // SAFETY: the caller's duty.
        unsafe {
            mbarrier::arrive(self.shared + at.empty::<F>());
        }
    }

    /// The warp's unit `half` of the stage at `at`, of its row tile `tile`.
    ///
    /// # Safety
    /// The stage is full.
    #[inline(always)]
    pub unsafe fn load<F: Form>(&self, at: Position, half: u32, tile: u32) -> Unit {
        let own = (self.index * F::TILES + tile) * F::STAGE_UNITS + half;
        let unit = self.shared + F::A_OFFSET + at.slot * F::A_BYTES + own * UNIT;
        // SAFETY: the caller's duty.
        unsafe { Unit::load(unit, self.lane) }
    }
}

/// Computes every tile of this block.
///
/// # Safety
/// A whole warpgroup of the block, each once; operands and `output` as the kernel demands; barriers are initialised;
/// sm_90a.
#[inline(always)]
pub unsafe fn warpgroup<F: Widths, O: Output>(shared: u32, operands: &Operands, blocks: u32, output: &O) {
    // SAFETY: the warp is here.
    let me = unsafe { Warp::new::<F>(shared) };
    let notes = me.notes;
    let mut at = Position::START;
    // SAFETY: the warpgroup is here, and all of it takes the same arm; the caller's duties.
    unsafe {
        notes.start();
        loop {
            let tile = notes.next::<F>(operands, blocks);
            if tile.rows == 0 {
                break;
            }
            notes.set_tile(tile);
            F::one_tile(F::width(tile.rows), shared, operands, output, &mut at);
        }
    }
}

/// A form with its loop over K for each of its widths.
pub trait Widths: Form {
    /// Computes the noted tile, of width `width`.
    ///
    /// # Safety
    /// As [`warpgroup`]; the form has the width.
    unsafe fn one_tile<O: Output>(
        width: u32,
        shared: u32,
        operands: &Operands,
        output: &O,
        at: &mut Position,
    );
}

macro_rules! widths {
    ($form:ident, $multiply:path: $($width:pat => $acc:literal),*) => {
        impl Widths for $form {
            #[inline(always)]
            unsafe fn one_tile<O: Output>(
                width: u32,
                shared: u32,
                operands: &Operands,
                output: &O,
                at: &mut Position,
            ) {
                // SAFETY: the caller's duties.
                unsafe {
                    match width {
                        $($width => {
                            let me = Warp::new::<$form>(shared);
                            start::<$form, $acc>(me, operands);
                            let acc = $multiply(me, operands.k_units, at);
                            end::<$form, O, $acc>(me, operands, output, &acc);
                        })*
                        #[allow(unreachable_patterns)]
                        _ => core::hint::unreachable_unchecked(),
                    }
                }
            }
        }
    };
}

// A width, and the accumulators of a thread.
widths!(Broad, single::multiply::<Broad, _>: 64 => 32, 128 => 64, 192 => 96, 208 => 104, 224 => 112);
widths!(Wide, stepped::multiply::<Wide, _>: 32 => 32, 64 => 64, 96 => 96, 128 => 128);
widths!(Narrow, stepped::multiply::<Narrow, _>: 16 => 16, 32 => 32);

/// Before the loop over K.
///
/// # Safety
/// As [`warpgroup`]; the tile is noted.
#[inline(always)]
unsafe fn start<F: Form, const ACC: usize>(me: Warp, operands: &Operands) {
    // SAFETY: the caller's duties.
    unsafe {
        let tile = me.notes.tile();
        let first = *operands.offsets.add(tile.expert as usize) + tile.first;
        note_scales::<F, ACC>(me, operands, first, tile.rows);
    }
}

/// After the loop over K.
///
/// # Safety
/// As [`start`].
#[inline(always)]
unsafe fn end<F: Form, O: Output, const ACC: usize>(
    me: Warp,
    operands: &Operands,
    output: &O,
    acc: &[u32; ACC],
) {
    // SAFETY: the caller's duties.
    unsafe {
        let tile = me.notes.tile();
        let first = *operands.offsets.add(tile.expert as usize) + tile.first;
        finish::<F, O, ACC>(me, operands, output, tile, first, acc);
    }
}

/// Notes the scales of the tile's tokens.
///
/// # Safety
/// The whole warp; the rows are rows of the problem.
#[inline(always)]
unsafe fn note_scales<F: Form, const ACC: usize>(me: Warp, operands: &Operands, first: u32, rows: u32) {
    let mut j = 0;
    while j < (2 * ACC / F::TILES as usize).div_ceil(32) {
        let token = 32 * j as u32 + me.lane;
        if token < rows {
            // SAFETY: the caller's duty; the warp reads them after a barrier, and has read the ones before.
            unsafe {
                let scale = *operands.b_scale.add(operands.token(first + token) as usize) * UNSCALE;
                shared::store_u32(me.notes.scale(token), scale.to_bits());
            }
        }
        j += 1;
    }
}

/// Scales, activates and stores: [`Form::CHUNK`] tokens at a time through the warp's own staging area, from which a lane
/// takes the results of one row tile of one token.
///
/// # Safety
/// As [`warpgroup`].
#[inline(always)]
unsafe fn finish<F: Form, O: Output, const ACC: usize>(
    me: Warp,
    operands: &Operands,
    output: &O,
    tile: Tile,
    first: u32,
    acc: &[u32; ACC],
) {
    let staging = me.shared + F::CHUNK_OFFSET + me.index * F::CHUNK_BYTES;
    let (g, t) = (me.lane / 4, me.lane % 4);
    let stored = staging + 4 * (2 * t * F::CHUNK_PITCH + g);
    // The lane's token of a chunk, and which of the warp's row tiles.
    let (token, half) = (me.lane / F::TILES, me.lane % F::TILES);
    let loaded = staging + 4 * (token * F::CHUNK_PITCH + 16 * half);
    let row_tile = tile.block * F::ROW_TILES + me.index * F::TILES + half;
    // SAFETY: the expert exists.
    let alphas = unsafe { output.alphas(tile.expert) };
    let chunks = opaque_u32(tile.rows.div_ceil(F::CHUNK));
    // One number, not the rows too, in the loop.
    let last = opaque_u32(tile.rows - 1);
    // Registers of an m64 tile, and those of a chunk.
    let (of_tile, of_chunk) = (ACC / F::TILES as usize, F::CHUNK as usize / 2);
    let mut chunk = 0;
    while chunk < chunks {
        // SAFETY: the warp is here; the area is its own; the lane's row and row tile exist where it stores.
        unsafe {
            // Which registers is known per arm only; loading and what follows is there once.
            let mut c = 0;
            while c < of_tile.div_ceil(of_chunk) {
                if chunk == c as u32 {
                    let mut i = 0;
                    while i < of_chunk && of_chunk * c + i < of_tile {
                        // Register i of a tile: token 8 * (i / 4) + 2t + (i & 1), row g + 8 * (i >> 1 & 1).
                        let place = stored
                            + 4 * ((8 * (i as u32 / 4) + (i as u32 & 1)) * F::CHUNK_PITCH
                                + 8 * (i as u32 >> 1 & 1));
                        shared::store_u32(place, acc[of_chunk * c + i]);
                        if F::TILES == 2 {
                            shared::store_u32(place + 4 * 16, acc[of_tile + of_chunk * c + i]);
                        }
                        i += 1;
                    }
                }
                c += 1;
            }
            warp::sync_warp(warp::FULL);
            let row = chunk * F::CHUNK + token;
            let scale = f32::from_bits(shared::load_u32(me.notes.scale(row.min(last))));
            let lane = Lane {
                // Past the end: something that is staged.
                staged: if row <= last { loaded } else { staging },
                scale,
                alphas,
                row: first + row,
                row_tile,
                first_tile: operands.first_tile,
                wanted: row <= last && row_tile < operands.tile_count,
            };
            output.store(lane);
            // The area is written again.
            warp::sync_warp(warp::FULL);
        }
        chunk += 1;
    }
}
