//! wgmma with A in registers: m64nNk16, f16 operands, f32 accumulators (sm_90a only, PTX ISA, Asynchronous Warpgroup
//! MMA: wgmma.mma_async; Register Fragments and Shared Memory Matrix Layout).

use crate::gpu_only;

/// Bytes of a row of B in shared memory: 64 f16, one 128-byte swizzle line. Row `n` of a tile is at `128 * n`, and its
/// 16-byte chunk `c` at place [`swizzled_chunk`]. Tiles start at multiples of 1024.
pub const B_ROW_BYTES: u32 = 128;
/// Step of the start-address field from one k16 step to the next: 32 bytes in units of 16.
pub const DESCRIPTOR_K16: u64 = 2;

/// Bits 16..30: leading-dimension offset, not used by swizzled K-major layouts (1 as CUTLASS writes it).
const LEADING: u64 = 1 << 16;
/// Bits 32..46: bytes from one group of 8 rows to the next, over 16.
const STRIDE: u64 = (8 * B_ROW_BYTES as u64 / 16) << 32;
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
macro_rules! rs_pair {
    ($n:literal, $acc:ident, $a:ident, $b:ident, $descriptor:ident,
        [$i0:literal $($i:literal)*] [$j0:literal $($j:literal)*]) => {
        core::arch::asm!(
            "wgmma.fence.sync.aligned;",
            concat!("wgmma.mma_async.sync.aligned.m64n", $n, "k16.f32.f16.f16 {{{", $i0, "}",
                $(", {", $i, "}",)* "}}, {{{a0}, {a1}, {a2}, {a3}}}, {d}, 1, 1, 1, 0;"),
            concat!("wgmma.mma_async.sync.aligned.m64n", $n, "k16.f32.f16.f16 {{{", $j0, "}",
                $(", {", $j, "}",)* "}}, {{{b0}, {b1}, {b2}, {b3}}}, {d}, 1, 1, 1, 0;"),
            "wgmma.commit_group.sync.aligned;",
            inout(reg32) $acc[$i0], $(inout(reg32) $acc[$i],)*
            inout(reg32) $acc[$j0], $(inout(reg32) $acc[$j],)*
            a0 = in(reg32) $a[0], a1 = in(reg32) $a[1], a2 = in(reg32) $a[2], a3 = in(reg32) $a[3],
            b0 = in(reg32) $b[0], b1 = in(reg32) $b[1], b2 = in(reg32) $b[2], b3 = in(reg32) $b[3],
            d = in(reg64) $descriptor,
            options(nostack))
    };
}

/// One k16 step of two m64nNk16 tiles with the same B, as one group: `fence`, two `mma_async`, `commit_group`.
///
/// `acc` holds `N / 2` registers of the first tile, then those of the second. Register `i` of a tile is row
/// `16 * warp + lane / 4 + 8 * (i >> 1 & 1)`, column `8 * (i / 4) + 2 * (lane % 4) + (i & 1)`. `a` and `b` are the A
/// fragments of the tiles. One statement, so that the writes of the fragments lie before the fence and nothing
/// between the instructions. N is 8, or a multiple of 16 up to 128.
///
/// # Safety
/// All warps of an aligned warpgroup execute this call; sm_90a; the tile that `descriptor` names is complete and
/// visible to the async proxy. Until a `wgmma::wait_group` covers the group nobody touches `acc` but further steps,
/// and nobody overwrites the tile.
#[gpu_only]
#[inline(always)]
pub unsafe fn rs_pair_step<const N: usize>(acc: &mut [u32; N], a: [u32; 4], b: [u32; 4], descriptor: u64) {
    const { assert!(matches!(N, 8 | 16 | 32 | 48 | 64 | 80 | 96 | 112 | 128)) };
    // SAFETY: the caller's duty is the instructions'.
    unsafe {
        match N {
            8 => rs_pair!("8", acc, a, b, descriptor,
            [0 1 2 3]
            [4 5 6 7]),
            16 => rs_pair!("16", acc, a, b, descriptor,
            [0 1 2 3 4 5 6 7]
            [8 9 10 11 12 13 14 15]),
            32 => rs_pair!("32", acc, a, b, descriptor,
            [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15]
            [16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31]),
            48 => rs_pair!("48", acc, a, b, descriptor,
            [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23]
            [24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47]),
            64 => rs_pair!("64", acc, a, b, descriptor,
            [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31]
            [32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63]),
            80 => rs_pair!("80", acc, a, b, descriptor,
            [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39]
            [40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64 65 66 67 68 69 70 71 72 73 74 75 76 77 78 79]),
            96 => rs_pair!("96", acc, a, b, descriptor,
            [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47]
            [48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64 65 66 67 68 69 70 71 72 73 74 75 76 77 78 79 80 81 82 83 84 85 86 87 88 89 90 91 92 93 94 95]),
            112 => rs_pair!("112", acc, a, b, descriptor,
            [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55]
            [56 57 58 59 60 61 62 63 64 65 66 67 68 69 70 71 72 73 74 75 76 77 78 79 80 81 82 83 84 85 86 87 88 89 90 91 92 93 94 95 96 97 98 99 100 101 102 103 104 105 106 107 108 109 110 111]),
            128 => rs_pair!("128", acc, a, b, descriptor,
            [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63]
            [64 65 66 67 68 69 70 71 72 73 74 75 76 77 78 79 80 81 82 83 84 85 86 87 88 89 90 91 92 93 94 95 96 97 98 99 100 101 102 103 104 105 106 107 108 109 110 111 112 113 114 115 116 117 118 119 120 121 122 123 124 125 126 127]),
            _ => core::hint::unreachable_unchecked(),
        }
    }
}

#[cfg(target_arch = "nvptx64")]
macro_rules! rs_two {
    ($n:literal, $acc:ident, $a:ident, $descriptor:ident, [$i0:literal $($i:literal)*]) => {
        core::arch::asm!(
            "wgmma.fence.sync.aligned;",
            rs_two!(@step $n, "p", "d0", $i0 $($i)*),
            rs_two!(@step $n, "q", "d1", $i0 $($i)*),
            "wgmma.commit_group.sync.aligned;",
            inout(reg32) $acc[$i0], $(inout(reg32) $acc[$i],)*
            p0 = in(reg32) $a[0][0], p1 = in(reg32) $a[0][1], p2 = in(reg32) $a[0][2], p3 = in(reg32) $a[0][3],
            q0 = in(reg32) $a[1][0], q1 = in(reg32) $a[1][1], q2 = in(reg32) $a[1][2], q3 = in(reg32) $a[1][3],
            d0 = in(reg64) $descriptor, d1 = in(reg64) $descriptor + DESCRIPTOR_K16,
            options(nostack))
    };
    (@step $n:literal, $a:literal, $d:literal, $i0:literal $($i:literal)*) => {
        concat!("wgmma.mma_async.sync.aligned.m64n", $n, "k16.f32.f16.f16 {{{", $i0, "}", $(", {", $i, "}",)* "}}, {{{",
            $a, "0}, {", $a, "1}, {", $a, "2}, {", $a, "3}}}, {", $d, "}, 1, 1, 1, 0;")
    };
}

/// Two k16 steps of an m64nNk16 tile in ascending order as one group, as [`rs_pair_step`] of one tile: N is twice `ACC`, `a` are
/// the A fragments of the steps, `descriptor` is the first one's.
///
/// # Safety
/// As [`rs_pair_step`].
#[gpu_only]
#[inline(always)]
pub unsafe fn rs_two_steps<const ACC: usize>(acc: &mut [u32; ACC], a: [[u32; 4]; 2], descriptor: u64) {
    const { assert!(matches!(2 * ACC, 64 | 128 | 192 | 208 | 224)) };
    // SAFETY: the caller's duty is the instructions'.
    unsafe {
        match 2 * ACC {
            64 => rs_two!("64", acc, a, descriptor,
            [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31]),
            128 => rs_two!("128", acc, a, descriptor,
            [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63]),
            192 => rs_two!("192", acc, a, descriptor,
            [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64 65 66 67 68 69 70 71 72 73 74 75 76 77 78 79 80 81 82 83 84 85 86 87 88 89 90 91 92 93 94 95]),
            208 => rs_two!("208", acc, a, descriptor,
            [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64 65 66 67 68 69 70 71 72 73 74 75 76 77 78 79 80 81 82 83 84 85 86 87 88 89 90 91 92 93 94 95 96 97 98 99 100 101 102 103]),
            224 => rs_two!("224", acc, a, descriptor,
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
