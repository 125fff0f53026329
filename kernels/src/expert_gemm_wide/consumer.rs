//! A warpgroup that computes: every tile of the block, from its stages to its outputs.

use cuda_std::convergence::{opaque, opaque_u32};
use cuda_std::prelude::*;
use cuda_std::wgmma_ss::{self, descriptor};
use cuda_std::{fence, grid, mbarrier, wgmma};

use super::Operands;
use super::layout::{
    CHUNK, CHUNK_PITCH, CONSUMERS, Form, Narrow, Position, ROW_TILES, TILE_A_BYTES, UNIT_A_BYTES, Wide,
};
use super::output::{Lane, Output};
use super::tiles::{Tile, Walk};

/// Row tiles of a warpgroup.
const GROUP_TILES: u32 = CONSUMERS / 2;

/// What a warp knows of itself.
#[derive(Clone, Copy)]
pub struct Warp {
    /// Dynamic shared memory of the block.
    shared: u32,
    /// Number among the consumers.
    index: u32,
    /// Number in the warp.
    lane: u32,
    /// Shared address of the tile's scales.
    scales: u32,
}

/// Computes every tile of this block.
///
/// # Safety
/// A whole warpgroup of the block, warp `index` of the consumers; operands and `output` as the kernel demands; barriers are
/// initialised; `counts` is settled; sm_90a.
#[inline(always)]
pub unsafe fn warpgroup<F: Widths, O: Output>(
    shared: u32,
    operands: &Operands,
    blocks: u32,
    output: &O,
    index: u32,
) {
    let mut at = Position::START;
    let mut walk = Walk::new(thread::block_idx_x(), thread::grid_dim_x());
    // SAFETY: the warpgroup is here, and all of it takes the same arm; the caller's duties.
    unsafe {
        let count = |e: u32| *operands.counts.add(e as usize);
        let mut tile = walk.next(operands.experts, blocks, F::WIDTH, count);
        // The output is others' business until here.
        grid::wait_for_dependencies();
        grid::launch_dependents();
        let mut buffer = 0;
        while tile.rows != 0 {
            let next = walk.next(operands.experts, blocks, F::WIDTH, count);
            let scales = shared + F::SCALES_OFFSET + buffer * F::WIDTH * 4;
            let me = Warp { shared, index, lane: warp::lane_id(), scales };
            F::one_tile(F::width(tile.rows), me, operands, tile, output, &mut at);
            tile = next;
            buffer += 1;
            if buffer == F::SCALE_BUFFERS {
                buffer = 0;
            }
        }
    }
}

/// A form with its code for each of its widths.
pub trait Widths: Form {
    /// Computes `tile`, of width `width`.
    ///
    /// # Safety
    /// As [`warpgroup`]; the form has the width.
    unsafe fn one_tile<O: Output>(
        width: u32,
        me: Warp,
        operands: &Operands,
        tile: Tile,
        output: &O,
        at: &mut Position,
    );
}

macro_rules! widths {
    ($form:ident: $($width:literal => $acc:literal),*) => {
        impl Widths for $form {
            #[inline(always)]
            unsafe fn one_tile<O: Output>(
                width: u32,
                me: Warp,
                operands: &Operands,
                tile: Tile,
                output: &O,
                at: &mut Position,
            ) {
                // SAFETY: the caller's duties.
                unsafe {
                    match width {
                        $($width => one_tile::<$form, O, $acc>(me, operands, tile, output, at),)*
                        _ => core::hint::unreachable_unchecked(),
                    }
                }
            }
        }

        #[cfg(test)]
        impl $form {
            /// The widths that have code, and their accumulators.
            const CODED: &[(u32, u32)] = &[$(($width, $acc)),*];
        }
    };
}

// A width, and the accumulators of a thread.
widths!(Wide: 32 => 16, 64 => 32, 96 => 48, 128 => 64, 144 => 72, 160 => 80, 176 => 88, 192 => 96, 208 => 104, 224 => 112);
widths!(Narrow: 16 => 8, 32 => 16, 48 => 24, 64 => 32);

/// One tile from its stages to its outputs.
///
/// # Safety
/// As [`warpgroup`].
#[inline(always)]
unsafe fn one_tile<F: Form, O: Output, const ACC: usize>(
    me: Warp,
    operands: &Operands,
    tile: Tile,
    output: &O,
    at: &mut Position,
) {
    // SAFETY: the expert exists; the caller's duties. Asked for here, used after the loop.
    unsafe {
        let first = *operands.offsets.add(tile.expert as usize) + tile.first;
        let alphas = output.alphas(tile.expert);
        let acc = multiply::<F, ACC>(me, operands.k_units, at);
        finish::<F, O, ACC>(me, operands, output, tile, first, alphas, &acc);
    }
}

/// Gives the slot of the stage at `at` back.
///
/// # Safety
/// The whole warp, whose wgmma on it have completed.
#[inline(always)]
unsafe fn release<F: Form>(me: Warp, at: Position) {
    // SAFETY: the caller's duty.
    unsafe {
        if opaque(me.lane == 0) {
            mbarrier::arrive(me.shared + at.empty::<F>());
        }
    }
}

/// The accumulators of the warpgroup's m64 tile: one chain over all k16 steps in order.
///
/// # Safety
/// As [`warpgroup`]; `k_units` is at least 1.
#[inline(always)]
unsafe fn multiply<F: Form, const ACC: usize>(me: Warp, k_units: u32, at: &mut Position) -> [u32; ACC] {
    let mut acc = [0u32; ACC];
    let mut left = k_units;
    let mut previous = *at;
    let a_base = me.shared + F::A_OFFSET + me.index / GROUP_TILES * (GROUP_TILES * TILE_A_BYTES);
    // SAFETY: the warpgroup is here; a stage is used between "full" and "empty".
    unsafe {
        loop {
            mbarrier::wait_parity(me.shared + at.full::<F>(), at.parity);
            // The weights came through the generic proxy. A fence here is as good as one of each producer.
            fence::proxy_async_shared();
            warp::sync_warp(warp::FULL);
            let a = descriptor(a_base + at.slot * F::A_BYTES);
            let b = descriptor(me.shared + at.slot * F::B_BYTES);
            wgmma_ss::unit(&mut acc, a, b);
            if F::STAGE_UNITS == 2 && left > 1 {
                let (a_unit, b_unit) = (UNIT_A_BYTES as u64 >> 4, F::UNIT_B_BYTES as u64 >> 4);
                wgmma_ss::unit(&mut acc, a + a_unit, b + b_unit);
            }
            wgmma::commit_group();
            if F::PENDING == 0 {
                wgmma::wait_group::<0>();
                release::<F>(me, *at);
            } else if left != k_units {
                wgmma::wait_group::<1>();
                release::<F>(me, previous);
            }
            previous = *at;
            at.advance(F::STAGES);
            if left <= F::STAGE_UNITS {
                break;
            }
            left -= F::STAGE_UNITS;
        }
        if F::PENDING != 0 {
            wgmma::wait_group::<0>();
            release::<F>(me, previous);
        }
    }
    acc
}

/// Scales, activates and stores: [`CHUNK`] tokens at a time through the warp's own staging area, from which a lane takes
/// the results of one token.
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
    alphas: [f32; 2],
    acc: &[u32; ACC],
) {
    let staging = me.shared + F::CHUNK_OFFSET + me.index * (CHUNK * CHUNK_PITCH * 4);
    let (g, t) = (me.lane / 4, me.lane % 4);
    let stored = staging + 4 * (2 * t * CHUNK_PITCH + g);
    let loaded = staging + 4 * me.lane * CHUNK_PITCH;
    let row_tile = tile.block * ROW_TILES + me.index;
    let chunks = opaque_u32(tile.rows.div_ceil(CHUNK));
    let last = opaque_u32(tile.rows - 1);
    // Registers of a chunk.
    const OF_CHUNK: usize = CHUNK as usize / 2;
    let mut chunk = 0;
    while chunk < chunks {
        // SAFETY: the warp is here; the area is its own; the lane's row and row tile exist where it stores.
        unsafe {
            // Which registers is known per arm only; loading and what follows is there once.
            let mut c = 0;
            while c < ACC.div_ceil(OF_CHUNK) {
                if chunk == c as u32 {
                    let mut i = 0;
                    while i < OF_CHUNK && OF_CHUNK * c + i < ACC {
                        // Register i: token 8 * (i / 4) + 2t + (i & 1), row g + 8 * (i >> 1 & 1).
                        let place = stored
                            + 4 * ((8 * (i as u32 / 4) + (i as u32 & 1)) * CHUNK_PITCH + 8 * (i as u32 >> 1 & 1));
                        shared::store_u32(place, acc[OF_CHUNK * c + i]);
                        i += 1;
                    }
                }
                c += 1;
            }
            warp::sync_warp(warp::FULL);
            let row = chunk * CHUNK + me.lane;
            // A token past the end takes the last one's place, which is staged.
            let wanted = row <= last && row_tile < operands.tile_count;
            let lane = Lane {
                staged: if row <= last { loaded } else { staging },
                scale: f32::from_bits(shared::load_u32(me.scales + 4 * row.min(last))),
                alphas,
                row: first + row,
                row_tile,
                first_tile: operands.first_tile,
                wanted,
            };
            output.store(lane);
            // The area is written again.
            warp::sync_warp(warp::FULL);
        }
        chunk += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_has_code() {
        fn check<F: Form>(coded: &[(u32, u32)]) {
            let mut used = vec![];
            for rows in 1..=F::WIDTH {
                let width = F::width(rows);
                assert!(coded.contains(&(width, width / 2)), "{width}");
                used.push(width);
            }
            assert!(coded.iter().all(|(width, _)| used.contains(width)));
        }
        check::<Wide>(Wide::CODED);
        check::<Narrow>(Narrow::CODED);
    }
}
