//! The producer: one thread that brings operands, stage by stage, by bulk copies.
//!
//! A stage of `c` steps takes one copy for the weights, which lie as they are wanted, one copy per step and row block of
//! tokens for the codes, and one per row block for the scales; where a tile has fewer than 32 tokens of a row block, only
//! the 16-byte rows of its scale tiles that hold scales of them are brought, step by step; the others hold anything, and so
//! do lanes of tensor memory that no MMA reads. No byte is brought that the
//! tile does not need but the padding of its tokens to the MMA's granule.

use cuda_std::{bulk, mbarrier};

use super::layout::{
    A_BYTES, B_SCALE_BYTES, Form, Position, SCALE_TILE, STAGE_STEPS, TILE_BLOCKS, TOKEN_STEP, UNIT,
};
use super::tiles::{Piece, Tile, pieces};
use super::{Matrices, wait};
use crate::operand::STEP_CODE_BYTES;

/// Bytes of a block's codes in a step.
const CODE_TILE: u32 = STEP_CODE_BYTES as u32;
/// Rows of a tile of scales, of 16 bytes each.
const SCALE_ROWS: u32 = 32;
/// Bytes of such a row.
const SCALE_ROW: u32 = SCALE_TILE / SCALE_ROWS;

/// Bytes of a piece's scales in a step: the rows of the tile that hold some. Pieces start at row 0 or 64 of a block, both
/// of which the tile has in its first row.
#[inline(always)]
const fn scale_bytes(piece: Piece) -> u32 {
    SCALE_ROW * if piece.rows < SCALE_ROWS { piece.rows } else { SCALE_ROWS }
}

/// The ring from the producer's side.
pub struct Producer {
    shared: u32,
    /// The block's rank in its pair.
    rank: u32,
    at: Position,
}

impl Producer {
    /// At the ring's start.
    #[inline(always)]
    pub const fn new(shared: u32, rank: u32) -> Self {
        Self { shared, rank, at: Position::START }
    }

    /// Brings a tile's operands, waiting for slots. `tokens_ready` is called when the first weights are under way: it waits
    /// until the tokens' operand may be read.
    ///
    /// # Safety
    /// One thread, guarded by `elect`; barriers are live; the tile is one of `matrices`, which hold what the kernels'
    /// arguments say.
    #[inline(always)]
    pub unsafe fn tile<F: Form>(&mut self, matrices: &Matrices, tile: Tile, tokens_ready: impl Fn()) {
        let columns = tile.rows.next_multiple_of(F::GRANULE);
        // Of a pair each block has half of the tokens' codes, and all of their scales.
        let share = columns / F::BLOCKS;
        let codes = pieces(tile.first + self.rank * share, share);
        let scales = pieces(tile.first, columns);
        let step_bytes = UNIT + share * TOKEN_STEP + scale_bytes(scales[0]) + scale_bytes(scales[1]);
        // Weights that no other tile reads need not stay in L2.
        let policy = if tile.ranges == 1 { bulk::EVICT_FIRST } else { bulk::EVICT_NORMAL };
        let mut weights = matrices.weights_of::<F>(tile, self.rank);
        let mut step = 0;
        while step < matrices.steps {
            let steps = (matrices.steps - step).min(STAGE_STEPS);
            let (full, slot) = (self.shared + self.at.full::<F>(), self.at.slot);
            // SAFETY: the slot is free when its "empty" phase has completed; sources are inside the operands, and
            // destinations inside the slot.
            unsafe {
                wait::<F>(self.shared + self.at.empty::<F>(), self.at.parity ^ 1);
                mbarrier::arrive_expect_tx(full, steps * step_bytes);
                bulk::load_hint(self.shared + slot * A_BYTES, weights, steps * UNIT, full, policy);
                if step == 0 {
                    tokens_ready();
                }
                let to = self.shared + F::B_OFFSET + slot * F::B_BYTES;
                let mut s = 0;
                while s < steps {
                    let mut to = to + s * F::B_STEP;
                    let mut p = 0;
                    while p < codes.len() {
                        let piece = codes[p];
                        if piece.rows != 0 {
                            let from = matrices.b_codes_of(piece, step + s);
                            bulk::load(to, from, piece.rows * TOKEN_STEP, full);
                        }
                        to += piece.rows * TOKEN_STEP;
                        p += 1;
                    }
                    s += 1;
                }
                let to = self.shared + F::B_SCALE_OFFSET + slot * B_SCALE_BYTES;
                let mut p = 0;
                while p < TILE_BLOCKS as usize {
                    let piece = scales[p];
                    let to = to + p as u32 * (STAGE_STEPS * SCALE_TILE);
                    let from = matrices.b_scales_of(piece, step);
                    // Whole tiles lie one after the other.
                    let (copies, bytes) = match scale_bytes(piece) {
                        SCALE_TILE => (1, steps * SCALE_TILE),
                        0 => (0, 0),
                        part => (steps, part),
                    };
                    let mut copy = 0;
                    while copy < copies {
                        let offset = copy * SCALE_TILE;
                        bulk::load(to + offset, from.wrapping_add(offset as usize), bytes, full);
                        copy += 1;
                    }
                    p += 1;
                }
            }
            weights = weights.wrapping_add((STAGE_STEPS * UNIT) as usize);
            step += STAGE_STEPS;
            self.at.advance::<F>();
        }
    }
}

impl Matrices {
    /// The weights of a tile: of a pair, those of the block of rank `rank`. A pair's row block past the end is the last one
    /// again; its results are not stored.
    #[inline(always)]
    fn weights_of<F: Form>(&self, tile: Tile, rank: u32) -> *const u8 {
        let block = (tile.block * F::BLOCKS + rank).min(self.block_count - 1);
        let row_block = tile.expert as usize * self.row_blocks as usize + (self.first_block + block) as usize;
        self.weights.wrapping_add(row_block * self.steps as usize * UNIT as usize)
    }

    /// The codes of a piece in a step.
    #[inline(always)]
    fn b_codes_of(&self, piece: Piece, step: u32) -> *const u8 {
        let tile = piece.block as usize * self.steps as usize + step as usize;
        self.b_codes.wrapping_add(tile * CODE_TILE as usize + (piece.row * TOKEN_STEP) as usize)
    }

    /// The scales of a piece's row block from a step on.
    #[inline(always)]
    fn b_scales_of(&self, piece: Piece, step: u32) -> *const u8 {
        let tile = piece.block as usize * self.steps as usize + step as usize;
        self.b_scales.wrapping_add(tile * SCALE_TILE as usize)
    }
}
