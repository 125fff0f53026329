//! What a warp needs once in a tile, kept in shared memory: registers are what the loop is short of.

use cuda_std::convergence::opaque_u32;
use cuda_std::prelude::*;

use super::Operands;
use super::layout::Form;
use super::tiles::{Tile, Walk};

/// Bytes of a [`Walk`].
const WALK_BYTES: u32 = 16;
/// Bytes of a [`Tile`].
const TILE_BYTES: u32 = 16;

/// A warp's notes: the walk, the tile that is computed, then the scales of its tokens.
#[derive(Clone, Copy)]
pub struct Notes {
    /// Shared address, 16-byte aligned.
    pub address: u32,
}

impl Notes {
    /// Bytes for tiles of `width` tokens.
    pub const fn bytes(width: u32) -> u32 {
        WALK_BYTES + TILE_BYTES + 4 * width
    }

    /// Address of the scale of token `token` of the tile, f32.
    #[inline(always)]
    pub const fn scale(self, token: u32) -> u32 {
        self.address + WALK_BYTES + TILE_BYTES + 4 * token
    }

    /// All lanes write the same.
    #[inline(always)]
    unsafe fn write(self, walk: Walk) {
        // SAFETY: the warp's own notes; between two barriers nobody reads them.
        unsafe {
            warp::sync_warp(warp::FULL);
            shared::store_v2(self.address, [walk.tile, walk.expert]);
            shared::store_u32(self.address + 8, walk.base);
            warp::sync_warp(warp::FULL);
        }
    }

    /// Starts the walk at the block's first tile.
    ///
    /// # Safety
    /// The whole warp, whose notes these are.
    #[inline(always)]
    pub unsafe fn start(self) {
        // SAFETY: the caller's duty.
        unsafe { self.write(Walk::new(thread::block_idx_x(), thread::grid_dim_x())) }
    }

    /// The next tile, or [`Tile::NONE`]; `blocks` of row tiles in each expert.
    ///
    /// # Safety
    /// The whole warp, whose notes these are; the walk has started; `counts` has an element per expert.
    #[inline(always)]
    pub unsafe fn next<F: Form>(self, operands: &Operands, blocks: u32) -> Tile {
        // SAFETY: the caller's duty.
        unsafe {
            let at = self.address;
            let [tile, expert] = shared::load_v2(at);
            let mut walk =
                Walk { tile, stride: thread::grid_dim_x(), expert, base: shared::load_u32(at + 8) };
            let (experts, blocks) = (opaque_u32(operands.experts), opaque_u32(blocks));
            let next = walk.next(experts, blocks, F::WIDTH, |e| *operands.counts.add(e as usize));
            self.write(walk);
            next.uniform_warp()
        }
    }

    /// Notes the tile that is computed.
    ///
    /// # Safety
    /// The whole warp, whose notes these are; the same tile in all lanes.
    #[inline(always)]
    pub unsafe fn set_tile(self, tile: Tile) {
        // SAFETY: the warp's own notes; between two barriers nobody reads them.
        unsafe {
            warp::sync_warp(warp::FULL);
            // Word by word: ptxas spills what it gathers for a vector here.
            let at = self.address + WALK_BYTES;
            shared::store_u32(at, tile.expert);
            shared::store_u32(at + 4, tile.block);
            shared::store_u32(at + 8, tile.first);
            shared::store_u32(at + 12, tile.rows);
            warp::sync_warp(warp::FULL);
        }
    }

    /// The tile that is computed.
    ///
    /// # Safety
    /// The tile is noted.
    #[inline(always)]
    pub unsafe fn tile(self) -> Tile {
        // SAFETY: the caller's duty.
        let [expert, block, first, rows] = unsafe { shared::load_v4(opaque_u32(self.address) + WALK_BYTES) };
        Tile { expert, block, first, rows }
    }
}
