//! Shared memory of a block: the ring of stages, the producers' own rings, scales, the staging area of the epilogue.

use cuda_std::wgmma_ss::ROW_BYTES;

use crate::fragment::UNIT_BYTES;
use crate::launch::registers_fit;

/// Bytes of the k unit of one row tile, packed.
pub const UNIT: u32 = UNIT_BYTES as u32;
/// Bytes of a barrier.
const BARRIER: u32 = cuda_std::mbarrier::BYTES;
/// Warps that compute: two warpgroups, a row tile each warp.
pub const CONSUMERS: u32 = 8;
/// Row tiles of a block's tile.
pub const ROW_TILES: u32 = CONSUMERS;
/// Bytes of a row tile's k unit, expanded.
pub const TILE_A_BYTES: u32 = 16 * ROW_BYTES;
/// Bytes of a block's k unit of weights, expanded.
pub const UNIT_A_BYTES: u32 = ROW_TILES * TILE_A_BYTES;
/// Most tokens whose scales a thread brings.
pub const MAX_SCALES: usize = 2;
/// Tokens that a warp stages at a time in the epilogue, one for each lane.
pub const CHUNK: u32 = 32;
/// Words from one token to the next in the staging area: a row tile's and a gap with which neither the scalar stores by
/// fragment nor the 16-byte loads by token meet in a bank.
pub const CHUNK_PITCH: u32 = 16 + 4;
/// Bytes of a warp's staging area.
const CHUNK_BYTES: u32 = CHUNK * CHUNK_PITCH * 4;

/// A form of the kernel: how wide its tiles are, who brings them, and how the shared memory is divided.
pub trait Form {
    /// Warps that bring tokens and expand weights, 4 or 8.
    const PRODUCERS: u32;
    /// Widest tile in tokens.
    const WIDTH: u32;
    /// k units of a stage, 1 or 2; the last stage of a tile may have fewer.
    const STAGE_UNITS: u32;
    /// Stages of the ring.
    const STAGES: u32;
    /// Units in a stage of a producer's own ring of packed weights; a multiple of `STAGE_UNITS`.
    const RAW_UNITS: u32;
    /// Stages of those rings.
    const RAW_STAGES: u32;
    /// Stages whose products may run while the next one is waited for, 0 or 1.
    const PENDING: u32;
    /// Most registers of a thread.
    const REGISTERS: u32;

    /// The narrowest width that the kernel has for `rows` rows, up to `WIDTH`.
    fn width(rows: u32) -> u32;

    /// Threads of a block: the producers are behind the consumers.
    const THREADS: u32 = 32 * (CONSUMERS + Self::PRODUCERS);
    /// Row tiles of a producer.
    const TILES: u32 = ROW_TILES / Self::PRODUCERS;
    /// Bytes of a unit's tokens.
    const UNIT_B_BYTES: u32 = Self::WIDTH * ROW_BYTES;
    /// Bytes of a stage's tokens: unit by unit.
    const B_BYTES: u32 = Self::STAGE_UNITS * Self::UNIT_B_BYTES;
    /// Bytes of a stage's weights: unit by unit.
    const A_BYTES: u32 = Self::STAGE_UNITS * UNIT_A_BYTES;
    /// Bytes of a stage of a producer's ring: row tile by row tile.
    const RAW_BYTES: u32 = Self::TILES * Self::RAW_UNITS * UNIT;
    /// Buffers of scales: the producers are at most the ring's stages ahead, of which each may be a tile's only one,
    /// and have looked one tile further.
    const SCALE_BUFFERS: u32 = Self::STAGES + 2;

    /// Offset of the first stage's weights; the tokens start at 0. Both are aligned for the swizzle.
    const A_OFFSET: u32 = Self::STAGES * Self::B_BYTES;
    /// Offset of the producers' rings.
    const RAW_OFFSET: u32 = Self::A_OFFSET + Self::STAGES * Self::A_BYTES;
    /// Offset of the staging areas, one for each consumer.
    const CHUNK_OFFSET: u32 = Self::RAW_OFFSET + Self::PRODUCERS * Self::RAW_STAGES * Self::RAW_BYTES;
    /// Offset of the buffers of token scales.
    const SCALES_OFFSET: u32 = Self::CHUNK_OFFSET + CONSUMERS * CHUNK_BYTES;
    /// Offset of the barriers "stage is full": an arrival of every producer, and the bytes of the tokens.
    const FULL_OFFSET: u32 = Self::SCALES_OFFSET + Self::SCALE_BUFFERS * Self::WIDTH * 4;
    /// Offset of the barriers "stage is empty": an arrival of every consumer.
    const EMPTY_OFFSET: u32 = Self::FULL_OFFSET + Self::STAGES * BARRIER;
    /// Offset of the barriers of the producers' rings: the bytes of a stage.
    const RAW_FULL_OFFSET: u32 = Self::EMPTY_OFFSET + Self::STAGES * BARRIER;
    /// Dynamic shared memory of a block.
    const SHARED_BYTES: u32 = Self::RAW_FULL_OFFSET + Self::PRODUCERS * Self::RAW_STAGES * BARRIER;

    /// Fails compilation if the numbers do not fit together.
    const FITS: () = {
        assert!(Self::UNIT_B_BYTES.is_multiple_of(1024), "the swizzle's pattern starts at multiples of 1024");
        assert!(Self::RAW_BYTES.is_multiple_of(16) && Self::FULL_OFFSET.is_multiple_of(8));
        assert!(Self::RAW_UNITS.is_multiple_of(Self::STAGE_UNITS) && matches!(Self::STAGE_UNITS, 1 | 2));
        // A stage is announced when the slot of the next one is free, and given back up to a turn after its use.
        assert!(Self::PENDING <= 1 && Self::STAGES >= 3 + Self::PENDING);
        assert!(Self::SHARED_BYTES <= 232_448, "227 KiB");
        assert!(registers_fit(1, CONSUMERS + Self::PRODUCERS, Self::REGISTERS));
    };
}

/// Up to 224 tokens: the products are what takes time.
pub struct Wide;

impl Form for Wide {
    const PRODUCERS: u32 = 4;
    const WIDTH: u32 = 224;
    const STAGE_UNITS: u32 = 1;
    const STAGES: u32 = 4;
    const RAW_UNITS: u32 = 2;
    const RAW_STAGES: u32 = 2;
    const PENDING: u32 = 1;
    const REGISTERS: u32 = 168;

    #[inline(always)]
    fn width(rows: u32) -> u32 {
        if rows <= 128 { rows.next_multiple_of(32) } else { rows.next_multiple_of(16) }
    }
}

/// Up to 64 tokens: the weights are what takes time.
pub struct Narrow;

impl Form for Narrow {
    const PRODUCERS: u32 = 8;
    const WIDTH: u32 = 64;
    const STAGE_UNITS: u32 = 2;
    const STAGES: u32 = 3;
    const RAW_UNITS: u32 = 4;
    const RAW_STAGES: u32 = 3;
    const PENDING: u32 = 0;
    const REGISTERS: u32 = 128;

    #[inline(always)]
    fn width(rows: u32) -> u32 {
        rows.next_multiple_of(16)
    }
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

    /// To the next stage of a ring of `stages`.
    #[inline(always)]
    pub fn advance(&mut self, stages: u32) {
        self.slot += 1;
        if self.slot == stages {
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
            at.advance(Wide::STAGES);
        }
        assert_eq!(Position::START.empty::<Wide>() - Position::START.full::<Wide>(), 8 * Wide::STAGES);
    }

    #[test]
    fn widths_hold_the_rows() {
        fn check<F: Form>(most: u32) {
            for rows in 1..=F::WIDTH {
                let width = F::width(rows);
                assert!(rows <= width && width <= F::WIDTH && width - rows < most);
            }
        }
        check::<Wide>(32);
        check::<Narrow>(16);
    }

    #[test]
    fn staging_does_not_conflict() {
        let banks = |address: &dyn Fn(u32) -> u32, lanes: u32, words: u32| {
            let mut seen = 0u64;
            for lane in 0..lanes {
                for word in 0..words {
                    seen |= 1 << ((address(lane) + word) % 32);
                }
            }
            seen.count_ones()
        };
        // Stores: lane (g, t) at token 2t, row g. Loads: eight lanes of a phase, 16 bytes of a token.
        assert_eq!(banks(&|l| 2 * (l % 4) * CHUNK_PITCH + l / 4, 32, 1), 32);
        assert_eq!(banks(&|l| l * CHUNK_PITCH, 8, 4), 32);
    }
}
