//! Shared and tensor memory of a block: the ring of stages, the buffers of accumulators, barriers.

use cuda_std::tcgen05::mma::SCALE_COLUMNS;
use cuda_std::tcgen05::{BlockPair, CtaGroup, OneBlock};

use crate::expert_list;
use crate::operand::{ROW_STEP_BYTES, STEP_SCALE_BYTES, UNIT_BYTES};

/// Warps of the epilogue: 0 to 3, an aligned group of four, so that warp `w` reaches lanes `32 w` of tensor memory.
pub const EPILOGUE_WARPS: u32 = 4;
/// The warp that brings operands.
pub const PRODUCER_WARP: u32 = EPILOGUE_WARPS;
/// The warp that allocates tensor memory and issues the MMAs.
pub const ISSUER_WARP: u32 = PRODUCER_WARP + 1;
/// Warps of a block.
pub const WARPS: u32 = ISSUER_WARP + 1;
/// Threads of a block.
pub const THREADS: u32 = 32 * WARPS;

/// Widest tile in tokens.
pub const WIDTH: u32 = 192;
/// Tiles start at multiples of this many tokens of an expert: two columns of scales in tensor memory.
pub const START_ALIGN: u32 = 64;
/// Steps of a stage; the last one of a tile may have fewer.
pub const STAGE_STEPS: u32 = 4;
/// Row blocks of 128 tokens that a tile can touch.
pub const TILE_BLOCKS: u32 = 2;

/// Bytes of weights of a step: codes and scales of a row block.
pub const UNIT: u32 = UNIT_BYTES as u32;
/// Bytes of a tile of scales.
pub const SCALE_TILE: u32 = STEP_SCALE_BYTES as u32;
/// Bytes of a token's codes in a step.
pub const TOKEN_STEP: u32 = ROW_STEP_BYTES as u32;
/// Bytes of a stage's weights.
pub const A_BYTES: u32 = STAGE_STEPS * UNIT;
/// Bytes of a stage's scales of tokens: of each row block, step by step.
pub const B_SCALE_BYTES: u32 = TILE_BLOCKS * STAGE_STEPS * SCALE_TILE;

/// Tokens that a warp stages at a time in the epilogue.
pub const CHUNK: u32 = 32;
/// Bytes from one token to the next in the staging area: 16 features, and a gap with which neither the 8-byte stores by
/// fragment nor the 16-byte loads by token meet in a bank.
pub const CHUNK_PITCH: u32 = 80;
/// Bytes of a warp's staging area.
pub const CHUNK_BYTES: u32 = CHUNK * CHUNK_PITCH;

/// Buffers of accumulators.
pub const BUFFERS: u32 = 2;
/// Sets of scale columns, each of a stage. A set is written again when the stage that used it last is done: the ISA does
/// not say that a copy waits for an MMA that reads what it overwrites.
pub const SCALE_SETS: u32 = 2;
/// Columns of the scales of A of a step.
const A_SCALE_COLUMNS: u32 = SCALE_COLUMNS;
/// Columns of the scales of B of a step.
const B_SCALE_COLUMNS: u32 = TILE_BLOCKS * SCALE_COLUMNS;
/// Columns of the scales of a step: of A, then of B.
pub const STEP_COLUMNS: u32 = A_SCALE_COLUMNS + B_SCALE_COLUMNS;
/// First column of the scales: behind the accumulators.
pub const SCALE_COLUMN: u32 = BUFFERS * WIDTH;
/// Columns that are allocated: all.
pub const COLUMNS: u32 = 512;

/// Column of the scales of A of step `step` of set `set`; those of the B's follow.
#[inline(always)]
pub const fn scale_column(set: u32, step: u32) -> u32 {
    SCALE_COLUMN + (set * STAGE_STEPS + step) * STEP_COLUMNS
}

/// Columns from the scales of A to those of B's row block `block`.
#[inline(always)]
pub const fn b_scale_columns(block: u32) -> u32 {
    A_SCALE_COLUMNS + block * SCALE_COLUMNS
}

/// Bytes of a barrier.
const BARRIER: u32 = cuda_std::mbarrier::BYTES;

/// One block for a tile, or a pair.
pub trait Form {
    /// Whether two blocks of a cluster share the tile: 256 rows of weights, half of the tokens' codes in each.
    const PAIR: bool = <Self::Group as CtaGroup>::PAIR;
    /// The same for instructions.
    type Group: CtaGroup;
    /// Stages of the ring.
    const STAGES: u32;

    /// Blocks that share a tile.
    const BLOCKS: u32 = if Self::PAIR { 2 } else { 1 };
    /// A tile's tokens are rounded up to a multiple of this: the granule of the instruction's N.
    const GRANULE: u32 = 8 * Self::BLOCKS;
    /// Bytes of the codes of a step's tokens, of this block's share.
    const B_STEP: u32 = WIDTH / Self::BLOCKS * TOKEN_STEP;
    /// Bytes of a stage's codes of tokens.
    const B_BYTES: u32 = STAGE_STEPS * Self::B_STEP;

    /// Offset of the first stage's codes of tokens; the weights start at 0.
    const B_OFFSET: u32 = Self::STAGES * A_BYTES;
    /// Offset of the first stage's scales of tokens.
    const B_SCALE_OFFSET: u32 = Self::B_OFFSET + Self::STAGES * Self::B_BYTES;
    /// Offset of the staging areas of the epilogue's warps.
    const CHUNK_OFFSET: u32 = Self::B_SCALE_OFFSET + Self::STAGES * B_SCALE_BYTES;
    /// Offset of the list of experts.
    const LIST_OFFSET: u32 = Self::CHUNK_OFFSET + EPILOGUE_WARPS * CHUNK_BYTES;
    /// Offset of the barriers "stage is full": the producer's arrival (of a pair's even block also that of the odd one's
    /// relay) and the bytes of the copies.
    const FULL_OFFSET: u32 = Self::LIST_OFFSET + expert_list::BYTES;
    /// Offset of the barriers "stage is empty": a commit.
    const EMPTY_OFFSET: u32 = Self::FULL_OFFSET + Self::STAGES * BARRIER;
    /// Offset of the barriers "accumulators are complete": a commit.
    const COMPLETE_OFFSET: u32 = Self::EMPTY_OFFSET + Self::STAGES * BARRIER;
    /// Offset of the barriers "accumulators are read": an arrival of every warp of the epilogue, of a pair all in the even
    /// block.
    const READ_OFFSET: u32 = Self::COMPLETE_OFFSET + BUFFERS * BARRIER;
    /// Offset of the word that gets the address of tensor memory.
    const TENSOR_OFFSET: u32 = Self::READ_OFFSET + BUFFERS * BARRIER;
    /// Dynamic shared memory of a block.
    const SHARED_BYTES: u32 = Self::TENSOR_OFFSET + 16;

    /// Fails compilation if the numbers do not fit together.
    const FITS: () = {
        assert!(A_BYTES.is_multiple_of(16) && Self::B_STEP.is_multiple_of(16));
        assert!(Self::LIST_OFFSET.is_multiple_of(16) && Self::FULL_OFFSET.is_multiple_of(8));
        assert!(Self::TENSOR_OFFSET.is_multiple_of(4));
        // A stage's scale columns are free again before its slot's next use.
        assert!(SCALE_SETS < Self::STAGES);
        // 227 KiB for one block of an SM.
        assert!(Self::SHARED_BYTES <= 232_448);
    };
}

const _: () = {
    assert!(scale_column(SCALE_SETS, 0) <= COLUMNS);
    // Whole chunks of the epilogue, and a start inside the first row block: not past its middle.
    assert!(WIDTH.is_multiple_of(CHUNK) && WIDTH.is_multiple_of(START_ALIGN) && WIDTH <= 256);
    assert!(START_ALIGN + WIDTH <= TILE_BLOCKS * 128);
};

/// One block for a tile: 128 rows of weights.
pub struct Single;

impl Form for Single {
    type Group = OneBlock;
    const STAGES: u32 = 4;
}

/// Two blocks for a tile: 256 rows of weights.
pub struct Pair;

impl Form for Pair {
    type Group = BlockPair;
    const STAGES: u32 = 6;
}

/// Position in the ring: the slot of the next stage and the parity of its use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Slot, below the number of stages.
    pub slot: u32,
    /// How often the ring has wrapped, modulo 2.
    pub parity: u32,
}

impl Position {
    /// The first stage.
    pub const START: Position = Position { slot: 0, parity: 0 };

    /// To the next of `slots`.
    #[inline(always)]
    fn advance_of(&mut self, slots: u32) {
        self.slot += 1;
        if self.slot == slots {
            self.slot = 0;
            self.parity ^= 1;
        }
    }

    /// To the next stage.
    #[inline(always)]
    pub fn advance<F: Form>(&mut self) {
        self.advance_of(F::STAGES);
    }

    /// Offset of the barrier "full" of the slot.
    #[inline(always)]
    pub fn full<F: Form>(&self) -> u32 {
        F::FULL_OFFSET + self.slot * BARRIER
    }

    /// Offset of the barrier "empty" of the slot.
    #[inline(always)]
    pub fn empty<F: Form>(&self) -> u32 {
        F::EMPTY_OFFSET + self.slot * BARRIER
    }
}

/// The buffer of accumulators of a tile and the parity of its use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer(Position);

impl Buffer {
    /// The first tile's.
    pub const START: Buffer = Buffer(Position::START);

    /// To the next tile's.
    #[inline(always)]
    pub fn advance(&mut self) {
        self.0.advance_of(BUFFERS);
    }

    /// Its use's parity.
    #[inline(always)]
    pub fn parity(&self) -> u32 {
        self.0.parity
    }

    /// Its first column.
    #[inline(always)]
    pub fn column(&self) -> u32 {
        self.0.slot * WIDTH
    }

    /// Offset of its barrier "complete".
    #[inline(always)]
    pub fn complete<F: Form>(&self) -> u32 {
        F::COMPLETE_OFFSET + self.0.slot * BARRIER
    }

    /// Offset of its barrier "read".
    #[inline(always)]
    pub fn read<F: Form>(&self) -> u32 {
        F::READ_OFFSET + self.0.slot * BARRIER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_wrap() {
        let (mut at, mut buffer) = (Position::START, Buffer::START);
        for n in 0..30 {
            assert_eq!(at, Position { slot: n % Single::STAGES, parity: n / Single::STAGES % 2 });
            assert_eq!((buffer.column(), buffer.parity()), (n % 2 * WIDTH, n / 2 % 2));
            at.advance::<Single>();
            buffer.advance();
        }
        assert_eq!((Single::SHARED_BYTES, Pair::SHARED_BYTES), (204_944, 225_456));
    }

    #[test]
    fn staging_does_not_conflict() {
        // The banks that some lanes touch, which must be all different.
        let banks = |address: &dyn Fn(u32) -> u32, lanes: std::ops::Range<u32>, words: u32| {
            let mut seen = 0u32;
            for lane in lanes {
                for word in 0..words {
                    seen |= 1 << ((address(lane) / 4 + word) % 32);
                }
            }
            seen.count_ones()
        };
        // Half-warps of 8-byte stores: lane (g, t) at token 2t, features 2g; quarter-warps of 16-byte loads: own token.
        for half in 0..2 {
            let store = |l: u32| 2 * (l % 4) * CHUNK_PITCH + 8 * (l / 4);
            assert_eq!(banks(&store, 16 * half..16 * half + 16, 2), 32);
        }
        assert_eq!(banks(&|l| l * CHUNK_PITCH, 0..8, 4), 32);
    }
}
