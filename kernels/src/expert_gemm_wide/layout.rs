//! Shared memory of a block: the ring of stages, its barriers, the staging area of the epilogue.

use cuda_std::wgmma_rs::B_ROW_BYTES;

use crate::fragment::UNIT_BYTES;

/// Adjacent row tiles of one consumer warp: one of each of its warpgroup's two m64 tiles.
pub const WARP_ROW_TILES: u32 = 2;
/// Bytes of the k unit of one row tile.
pub const UNIT: u32 = UNIT_BYTES as u32;
/// Tokens that a warp stages at a time in the epilogue.
pub const CHUNK: u32 = 16;
/// Words from one token to the next in the staging area: 32 rows and a gap with which neither the scalar stores by
/// fragment nor the 16-byte loads by token meet in a bank.
pub const CHUNK_PITCH: u32 = 36;
/// Bytes of a warp's staging area.
pub const CHUNK_BYTES: u32 = CHUNK * CHUNK_PITCH * 4;
/// Bytes of a barrier.
const BARRIER: u32 = cuda_std::mbarrier::BYTES;

/// A form of the kernel: how many warps, and how the shared memory is divided.
pub trait Form {
    /// Warpgroups that compute, 128 weight rows each.
    const CONSUMERS: u32;
    /// Widest tile in tokens.
    const WIDTH: u32;
    /// Stages of the ring, one k unit each.
    const STAGES: u32;
    /// Stages by which the announcement of gathered tokens lags behind their copies.
    const LAG: u32;
    /// Most registers of a thread. All threads have the same: with an exchange between warpgroups ptxas still
    /// serialises wgmma whose registers exceed what a thread starts with (C7512).
    const REGISTERS: u32;
    /// Blocks on one multiprocessor.
    const BLOCKS_PER_SM: u32;

    /// Warps that compute; they come first, in whole warpgroups.
    const CONSUMER_WARPS: u32 = Self::CONSUMERS * 4;
    /// Threads of a block: the consumers and one warp that brings everything.
    const THREADS: u32 = 32 * (Self::CONSUMER_WARPS + 1);
    /// Row tiles of a block's tile.
    const ROW_TILES: u32 = Self::CONSUMER_WARPS * WARP_ROW_TILES;
    /// Bytes of a stage's tokens.
    const B_BYTES: u32 = Self::WIDTH * B_ROW_BYTES;
    /// Bytes of a stage's weights.
    const A_BYTES: u32 = Self::ROW_TILES * UNIT;
    /// Offset of the first stage's weights; the tokens start at 0, aligned for the swizzle.
    const A_OFFSET: u32 = Self::STAGES * Self::B_BYTES;
    /// Offset of the staging areas, one per consumer warp.
    const CHUNK_OFFSET: u32 = Self::A_OFFSET + Self::STAGES * Self::A_BYTES;
    /// Offset of the barriers "stage is full".
    const FULL_OFFSET: u32 = Self::CHUNK_OFFSET + Self::CONSUMER_WARPS * CHUNK_BYTES;
    /// Offset of the barriers "stage is empty".
    const EMPTY_OFFSET: u32 = Self::FULL_OFFSET + Self::STAGES * BARRIER;
    /// Offset of a word of zeros, see [`crate::expand::Table::hidden`].
    const ZERO_OFFSET: u32 = Self::EMPTY_OFFSET + Self::STAGES * BARRIER;
    /// Dynamic shared memory of a block.
    const SHARED_BYTES: u32 = Self::ZERO_OFFSET + 16;

    /// Fails compilation if the numbers do not fit together.
    const FITS: () = {
        assert!(Self::B_BYTES.is_multiple_of(1024), "the swizzle's pattern starts at multiples of 1024");
        assert!(Self::A_BYTES.is_multiple_of(16) && CHUNK_BYTES.is_multiple_of(16));
        assert!(Self::LAG < Self::STAGES);
        // 227 KiB for one block of an SM; all blocks share 228, each with 1 KiB of its own.
        assert!(Self::SHARED_BYTES <= 232_448);
        assert!(Self::BLOCKS_PER_SM * (Self::SHARED_BYTES + 1024) <= 228 * 1024);
        assert!(Self::BLOCKS_PER_SM * Self::THREADS * Self::REGISTERS <= 65536);
    };
}

/// For many tokens: one block per SM, up to 128 tokens by 256 weight rows.
pub struct Wide;

impl Form for Wide {
    const CONSUMERS: u32 = 2;
    const WIDTH: u32 = 128;
    const STAGES: u32 = 8;
    const LAG: u32 = 5;
    const REGISTERS: u32 = 224;
    const BLOCKS_PER_SM: u32 = 1;
}

/// For few tokens: two blocks per SM, up to 32 tokens by 256 weight rows.
pub struct Narrow;

impl Form for Narrow {
    const CONSUMERS: u32 = 2;
    const WIDTH: u32 = 32;
    const STAGES: u32 = 7;
    const LAG: u32 = 5;
    const REGISTERS: u32 = 112;
    const BLOCKS_PER_SM: u32 = 2;
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

    /// To the next stage.
    #[inline(always)]
    pub fn advance<F: Form>(&mut self) {
        self.slot += 1;
        if self.slot == F::STAGES {
            self.slot = 0;
            self.parity ^= 1;
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_wrap() {
        let mut at = Position::START;
        for n in 0..3 * Wide::STAGES {
            assert_eq!(at, Position { slot: n % Wide::STAGES, parity: n / Wide::STAGES % 2 });
            at.advance::<Wide>();
        }
        assert_eq!(Position::START.empty::<Wide>() - Position::START.full::<Wide>(), 8 * Wide::STAGES);
        assert_eq!((Wide::SHARED_BYTES, Narrow::SHARED_BYTES), (223_376, 111_744));
    }

    #[test]
    fn staging_does_not_conflict() {
        // Stores: lane (g, t) at token 2t, row g. Loads: eight lanes of a phase, token l / 2, 16 bytes of half l % 2.
        let banks = |address: &dyn Fn(u32) -> u32, lanes: u32, words: u32| {
            let mut seen = 0u64;
            for lane in 0..lanes {
                for word in 0..words {
                    seen |= 1 << ((address(lane) + word) % 32);
                }
            }
            seen.count_ones()
        };
        assert_eq!(banks(&|l| 2 * (l % 4) * CHUNK_PITCH + l / 4, 32, 1), 32);
        assert_eq!(banks(&|l| l / 2 * CHUNK_PITCH + l % 2 * 16, 8, 4), 32);
    }
}
