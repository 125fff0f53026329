//! Shared memory of a block: the ring of stages, its barriers, the staging areas of the epilogue.

use cuda_std::warp;
use cuda_std::wgmma_rs::B_ROW_BYTES;

use super::notes::Notes;
use crate::fragment::UNIT_BYTES;

/// Bytes of the k unit of one row tile.
pub const UNIT: u32 = UNIT_BYTES as u32;
/// Bytes of a barrier.
const BARRIER: u32 = cuda_std::mbarrier::BYTES;
/// Warps that only bring: a warpgroup, which gives registers to the others.
pub const PRODUCERS: u32 = 4;

/// A form of the kernel: how wide its tiles are, and how the shared memory is divided.
pub trait Form {
    /// Warps that compute, four for each warpgroup; in front of the [`PRODUCERS`].
    const WARPS: u32;
    /// Widest tile in tokens.
    const WIDTH: u32;
    /// m64 tiles of a warpgroup, 1 or 2; a warp has as many adjacent row tiles, one of each.
    const TILES: u32;
    /// k units of a stage, 1 or 2; the last stage of a tile may have fewer.
    const STAGE_UNITS: u32;
    /// Stages of the ring.
    const STAGES: u32;
    /// Registers of a thread that computes.
    const REGISTERS: u32;
    /// Registers of a thread that brings.
    const PRODUCER_REGISTERS: u32;
    /// Blocks on one multiprocessor.
    const BLOCKS_PER_SM: u32;

    /// Takes registers from a warp that `brings`, or gives them to one that computes.
    ///
    /// # Safety
    /// Every warp of the block, once, the same of a whole warpgroup.
    unsafe fn divide_registers(brings: bool);

    /// The narrowest width that the form has for `rows` rows, up to `WIDTH`.
    fn width(rows: u32) -> u32;

    /// Threads of a block.
    const THREADS: u32 = 32 * (Self::WARPS + PRODUCERS);
    /// Tokens that a warp stages at a time in the epilogue: a lane takes the results of one token and row tile.
    const CHUNK: u32 = 32 / Self::TILES;
    /// Words from one token to the next in the staging area: the warp's rows and a gap with which neither the scalar
    /// stores by fragment nor the 16-byte loads by token meet in a bank.
    const CHUNK_PITCH: u32 = 16 * Self::TILES + 4;
    /// Bytes of a warp's staging area.
    const CHUNK_BYTES: u32 = Self::CHUNK * Self::CHUNK_PITCH * 4;

    /// Row tiles of a block's tile.
    const ROW_TILES: u32 = Self::WARPS * Self::TILES;
    /// Bytes of a unit's tokens.
    const UNIT_B_BYTES: u32 = Self::WIDTH * B_ROW_BYTES;
    /// Bytes of a stage's tokens: unit by unit.
    const B_BYTES: u32 = Self::STAGE_UNITS * Self::UNIT_B_BYTES;
    /// Bytes of a stage's weights: row tile by row tile.
    const A_BYTES: u32 = Self::ROW_TILES * Self::STAGE_UNITS * UNIT;
    /// Offset of the first stage's weights; the tokens start at 0, aligned for the swizzle.
    const A_OFFSET: u32 = Self::STAGES * Self::B_BYTES;
    /// Offset of the staging areas, one per warp.
    const CHUNK_OFFSET: u32 = Self::A_OFFSET + Self::STAGES * Self::A_BYTES;
    /// Offset of the notes, one per warp.
    const NOTES_OFFSET: u32 = Self::CHUNK_OFFSET + Self::WARPS * Self::CHUNK_BYTES;
    /// Bytes of a warp's notes.
    const NOTES_BYTES: u32 = Notes::bytes(Self::WIDTH);
    /// Offset of the barriers "stage is full": an arrival of every producer, and the bytes of what they bring.
    const FULL_OFFSET: u32 = Self::NOTES_OFFSET + Self::WARPS * Self::NOTES_BYTES;
    /// Offset of the barriers "stage is empty": an arrival of every thread that computes.
    const EMPTY_OFFSET: u32 = Self::FULL_OFFSET + Self::STAGES * BARRIER;
    /// Dynamic shared memory of a block.
    const SHARED_BYTES: u32 = Self::EMPTY_OFFSET + Self::STAGES * BARRIER;

    /// Fails compilation if the numbers do not fit together.
    const FITS: () = {
        assert!(Self::UNIT_B_BYTES.is_multiple_of(1024), "the swizzle's pattern starts at multiples of 1024");
        assert!(Self::A_BYTES.is_multiple_of(16) && Self::CHUNK_BYTES.is_multiple_of(16));
        assert!(Self::NOTES_BYTES.is_multiple_of(16));
        assert!(Self::WARPS.is_multiple_of(4));
        assert!(matches!((Self::TILES, Self::STAGE_UNITS), (1 | 2, 1 | 2)));
        assert!(Self::ROW_TILES.is_multiple_of(PRODUCERS));
        // 227 KiB for one block of an SM; all blocks share 228, each with 1 KiB of its own.
        assert!(Self::SHARED_BYTES <= 232_448);
        assert!(Self::BLOCKS_PER_SM * (Self::SHARED_BYTES + 1024) <= 228 * 1024);
        // What the threads start with is all that they can divide.
        let at_start = 65_536 / (Self::BLOCKS_PER_SM * Self::THREADS) / 8 * 8;
        let divided = 32 * (Self::WARPS * Self::REGISTERS + PRODUCERS * Self::PRODUCER_REGISTERS);
        assert!(divided <= Self::THREADS * at_start);
        assert!(Self::PRODUCER_REGISTERS <= at_start && at_start <= Self::REGISTERS);
    };
}

/// [`Form::divide_registers`].
///
/// # Safety
/// As there; `COMPUTES` and `BRINGS` are the form's.
#[inline(always)]
unsafe fn divide_registers<const COMPUTES: u32, const BRINGS: u32>(brings: bool) {
    // SAFETY: the caller's duty; the launch bounds fix what the threads start with, and the sum is no more.
    unsafe {
        if brings {
            warp::set_max_registers_dec::<BRINGS>();
        } else {
            warp::set_max_registers_inc::<COMPUTES>();
        }
    }
}

/// One block per SM, up to 224 tokens by 128 weight rows, a pair of steps of a tile at a time.
pub struct Broad;

impl Form for Broad {
    const WARPS: u32 = 8;
    const WIDTH: u32 = 224;
    const TILES: u32 = 1;
    const STAGE_UNITS: u32 = 2;
    const STAGES: u32 = 3;
    const REGISTERS: u32 = 232;
    const PRODUCER_REGISTERS: u32 = 40;
    const BLOCKS_PER_SM: u32 = 1;

    #[inline(always)]
    unsafe fn divide_registers(brings: bool) {
        // SAFETY: the caller's duty.
        unsafe { divide_registers::<{ Broad::REGISTERS }, { Broad::PRODUCER_REGISTERS }>(brings) }
    }

    #[inline(always)]
    fn width(rows: u32) -> u32 {
        if rows <= 192 { rows.next_multiple_of(64) } else { rows.next_multiple_of(16) }
    }
}

/// One block per SM, up to 128 tokens by 256 weight rows, a step of a pair of tiles at a time.
pub struct Wide;

impl Form for Wide {
    const WARPS: u32 = 8;
    const WIDTH: u32 = 128;
    const TILES: u32 = 2;
    const STAGE_UNITS: u32 = 2;
    const STAGES: u32 = 4;
    const REGISTERS: u32 = 232;
    const PRODUCER_REGISTERS: u32 = 40;
    const BLOCKS_PER_SM: u32 = 1;

    #[inline(always)]
    unsafe fn divide_registers(brings: bool) {
        // SAFETY: the caller's duty.
        unsafe { divide_registers::<{ Wide::REGISTERS }, { Wide::PRODUCER_REGISTERS }>(brings) }
    }

    #[inline(always)]
    fn width(rows: u32) -> u32 {
        rows.next_multiple_of(32)
    }
}

/// For few tokens: two blocks per SM, up to 32 tokens by 256 weight rows, a step of a pair of tiles at a time.
pub struct Narrow;

impl Form for Narrow {
    const WARPS: u32 = 8;
    const WIDTH: u32 = 32;
    const TILES: u32 = 2;
    const STAGE_UNITS: u32 = 2;
    const STAGES: u32 = 3;
    const REGISTERS: u32 = 104;
    const PRODUCER_REGISTERS: u32 = 32;
    const BLOCKS_PER_SM: u32 = 2;

    #[inline(always)]
    unsafe fn divide_registers(brings: bool) {
        // SAFETY: the caller's duty.
        unsafe { divide_registers::<{ Narrow::REGISTERS }, { Narrow::PRODUCER_REGISTERS }>(brings) }
    }

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
        let bytes = [Narrow::SHARED_BYTES, Wide::SHARED_BYTES, Broad::SHARED_BYTES];
        assert_eq!(bytes, [99_632, 227_648, 227_632]);
    }

    #[test]
    fn staging_does_not_conflict() {
        fn check<F: Form>() {
            let (tiles, pitch) = (F::TILES, F::CHUNK_PITCH);
            let banks = |address: &dyn Fn(u32) -> u32, lanes: u32, words: u32| {
                let mut seen = 0u64;
                for lane in 0..lanes {
                    for word in 0..words {
                        seen |= 1 << ((address(lane) + word) % 32);
                    }
                }
                seen.count_ones()
            };
            // Stores: lane (g, t) at token 2t, row g. Loads: eight lanes of a phase, 16 bytes of a token's row tile.
            assert_eq!(banks(&|l| 2 * (l % 4) * pitch + l / 4, 32, 1), 32);
            assert_eq!(banks(&|l| l / tiles * pitch + l % tiles * 16, 8, 4), 32);
        }
        check::<Wide>();
        check::<Narrow>();
        check::<Broad>();
    }
}
