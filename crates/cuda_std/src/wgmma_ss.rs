//! wgmma with A and B in shared memory: m64nNk16, f16 operands, f32 accumulators (sm_90a only, PTX ISA, Asynchronous
//! Warpgroup MMA: wgmma.mma_async; Register Fragments and Shared Memory Matrix Layout).

use crate::gpu_only;

/// Bytes of a row of A or B in shared memory: 64 f16, one 128-byte swizzle line. Row `n` of a tile is at `128 * n`, and its
/// 16-byte chunk `c` at place [`swizzled_chunk`]. Tiles start at multiples of 1024.
pub const ROW_BYTES: u32 = 128;
/// Step of the start-address field from one k16 step to the next: 32 bytes in units of 16.
pub const DESCRIPTOR_K16: u64 = 2;

/// Bits 16..30: leading-dimension offset, not used by swizzled K-major layouts (1 as CUTLASS writes it).
const LEADING: u64 = 1 << 16;
/// Bits 32..46: bytes from one group of 8 rows to the next, over 16.
const STRIDE: u64 = (8 * ROW_BYTES as u64 / 16) << 32;
/// Bits 62..64: 128-byte swizzle.
const SWIZZLE_128: u64 = 1 << 62;

/// The matrix descriptor of a K-major f16 tile of 128-byte rows under the 128-byte swizzle at shared address
/// `address`, a multiple of 1024 (PTX ISA, Matrix Descriptor Format). Bits 0..14: the address over 16, without the
/// block's rank in the cluster.
#[inline(always)]
pub const fn descriptor(address: u32) -> u64 {
    SWIZZLE_128 | STRIDE | LEADING | ((address & 0x3_ffff) >> 4) as u64
}

/// Place of 16-byte chunk `chunk` (0..8) of row `row`: the 128-byte swizzle XORs address bits 4..7 with bits 7..10.
#[inline(always)]
pub const fn swizzled_chunk(row: u32, chunk: u32) -> u32 {
    chunk ^ (row & 7)
}

#[cfg(target_arch = "nvptx64")]
macro_rules! unit {
    ($n:literal, $acc:ident, $a:ident, $b:ident, [$i0:literal $($i:literal)*]) => {
        core::arch::asm!(
            "wgmma.fence.sync.aligned;",
            unit!(@step $n, "a0", "b0", $i0 $($i)*),
            unit!(@step $n, "a1", "b1", $i0 $($i)*),
            unit!(@step $n, "a2", "b2", $i0 $($i)*),
            unit!(@step $n, "a3", "b3", $i0 $($i)*),
            inout(reg32) $acc[$i0], $(inout(reg32) $acc[$i],)*
            a0 = in(reg64) $a, b0 = in(reg64) $b,
            a1 = in(reg64) $a + DESCRIPTOR_K16, b1 = in(reg64) $b + DESCRIPTOR_K16,
            a2 = in(reg64) $a + 2 * DESCRIPTOR_K16, b2 = in(reg64) $b + 2 * DESCRIPTOR_K16,
            a3 = in(reg64) $a + 3 * DESCRIPTOR_K16, b3 = in(reg64) $b + 3 * DESCRIPTOR_K16,
            options(nostack))
    };
    (@step $n:literal, $a:literal, $b:literal, $i0:literal $($i:literal)*) => {
        concat!("wgmma.mma_async.sync.aligned.m64n", $n, "k16.f32.f16.f16 {{{", $i0, "}",
            $(", {", $i, "}",)* "}}, {", $a, "}, {", $b, "}, 1, 1, 1, 0, 0;")
    };
}

/// Four k16 steps, 64 columns, of an m64nNk16 tile in ascending order: `fence`, then four `mma_async`. The caller closes the
/// group.
///
/// `acc` holds the `N / 2` registers of the tile: register `i` is row `16 * warp + lane / 4 + 8 * (i >> 1 & 1)`, column
/// `8 * (i / 4) + 2 * (lane % 4) + (i & 1)`. `a` and `b` are [`descriptor`]s of 64 and N rows. N is a multiple of 16 up to 64,
/// 96, or a multiple of 16 from 128 to 224.
///
/// # Safety
/// All warps of an aligned warpgroup execute this call; sm_90a; the tiles that the descriptors name are complete and
/// visible to the async proxy. Until a `wgmma::wait_group` covers the group nobody touches `acc` but further units,
/// and nobody overwrites the tiles.
#[gpu_only]
#[inline(always)]
pub unsafe fn unit<const ACC: usize>(acc: &mut [u32; ACC], a: u64, b: u64) {
    const { assert!(matches!(2 * ACC, 16 | 32 | 48 | 64 | 96 | 128 | 144 | 160 | 176 | 192 | 208 | 224)) };
    // SAFETY: the caller's duty is the instructions'.
    unsafe {
        match 2 * ACC {
            16 => unit!("16", acc, a, b,
                [0 1 2 3 4 5 6 7]),
            32 => unit!("32", acc, a, b,
                [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15]),
            48 => unit!("48", acc, a, b,
                [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23]),
            64 => unit!("64", acc, a, b,
                [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31]),
            96 => unit!("96", acc, a, b,
                [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47]),
            128 => unit!("128", acc, a, b,
                [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63]),
            144 => unit!("144", acc, a, b,
                [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64 65 66 67 68 69 70 71]),
            160 => unit!("160", acc, a, b,
                [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64 65 66 67 68 69 70 71 72 73 74 75 76 77 78 79]),
            176 => unit!("176", acc, a, b,
                [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64 65 66 67 68 69 70 71 72 73 74 75 76 77 78 79 80 81 82 83 84 85 86 87]),
            192 => unit!("192", acc, a, b,
                [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64 65 66 67 68 69 70 71 72 73 74 75 76 77 78 79 80 81 82 83 84 85 86 87 88 89 90 91 92 93 94 95]),
            208 => unit!("208", acc, a, b,
                [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64 65 66 67 68 69 70 71 72 73 74 75 76 77 78 79 80 81 82 83 84 85 86 87 88 89 90 91 92 93 94 95 96 97 98 99 100 101 102 103]),
            224 => unit!("224", acc, a, b,
                [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64 65 66 67 68 69 70 71 72 73 74 75 76 77 78 79 80 81 82 83 84 85 86 87 88 89 90 91 92 93 94 95 96 97 98 99 100 101 102 103 104 105 106 107 108 109 110 111]),
            _ => core::hint::unreachable_unchecked(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_descriptor_is_cutlass_s_constant() {
        assert_eq!(descriptor(0), 0x4000_0040_0001_0000);
        // The rank of the block in its cluster is not part of it.
        assert_eq!(descriptor(0x0100_2400), 0x4000_0040_0001_0240);
        assert_eq!(descriptor(1024) + DESCRIPTOR_K16, descriptor(1024 + 32));
    }

    #[test]
    fn a_swizzled_row_is_a_permutation() {
        for row in 0..16 {
            let mut seen = 0;
            (0..8).for_each(|chunk| seen |= 1 << swizzled_chunk(row, chunk));
            assert_eq!(seen, 0xff);
            assert_eq!(swizzled_chunk(row, 0), row % 8);
        }
    }
}
