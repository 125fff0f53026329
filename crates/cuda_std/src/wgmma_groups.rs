//! Groups of four wgmma with A in registers: four k16 steps of a tile, or two of a pair of tiles, for one `commit_group`.
//!
//! A group costs a fence, a commit and a wait, and the fragments of the next one are made while it runs: with four
//! instructions in it the tensor cores have something to do for as long as it takes to expand a unit of weights. Operands
//! and layouts are those of [`crate::wgmma_rs`].

use crate::gpu_only;
#[cfg(target_arch = "nvptx64")]
use crate::wgmma_rs::DESCRIPTOR_K16;

/// A fragments of a group: four registers for each instruction, in their order.
pub type Fragments = [[u32; 4]; 4];

#[cfg(target_arch = "nvptx64")]
macro_rules! chain {
    ($n:literal, $acc:ident, $a:ident, $d:ident, [$i0:literal $($i:literal)*]) => {
        core::arch::asm!(
            "wgmma.fence.sync.aligned;",
            concat!("wgmma.mma_async.sync.aligned.m64n", $n, "k16.f32.f16.f16 {{{", $i0, "}",
                $(", {", $i, "}",)* "}}, {{{p0}, {p1}, {p2}, {p3}}}, {d0}, 1, 1, 1, 0;"),
            concat!("wgmma.mma_async.sync.aligned.m64n", $n, "k16.f32.f16.f16 {{{", $i0, "}",
                $(", {", $i, "}",)* "}}, {{{q0}, {q1}, {q2}, {q3}}}, {d1}, 1, 1, 1, 0;"),
            concat!("wgmma.mma_async.sync.aligned.m64n", $n, "k16.f32.f16.f16 {{{", $i0, "}",
                $(", {", $i, "}",)* "}}, {{{r0}, {r1}, {r2}, {r3}}}, {d2}, 1, 1, 1, 0;"),
            concat!("wgmma.mma_async.sync.aligned.m64n", $n, "k16.f32.f16.f16 {{{", $i0, "}",
                $(", {", $i, "}",)* "}}, {{{s0}, {s1}, {s2}, {s3}}}, {d3}, 1, 1, 1, 0;"),
            "wgmma.commit_group.sync.aligned;",
            inout(reg32) $acc[$i0], $(inout(reg32) $acc[$i],)*
            p0 = in(reg32) $a[0][0], p1 = in(reg32) $a[0][1], p2 = in(reg32) $a[0][2], p3 = in(reg32) $a[0][3],
            q0 = in(reg32) $a[1][0], q1 = in(reg32) $a[1][1], q2 = in(reg32) $a[1][2], q3 = in(reg32) $a[1][3],
            r0 = in(reg32) $a[2][0], r1 = in(reg32) $a[2][1], r2 = in(reg32) $a[2][2], r3 = in(reg32) $a[2][3],
            s0 = in(reg32) $a[3][0], s1 = in(reg32) $a[3][1], s2 = in(reg32) $a[3][2], s3 = in(reg32) $a[3][3],
            d0 = in(reg64) $d, d1 = in(reg64) $d + DESCRIPTOR_K16,
            d2 = in(reg64) $d + 2 * DESCRIPTOR_K16, d3 = in(reg64) $d + 3 * DESCRIPTOR_K16,
            options(nostack))
    };
}

#[cfg(target_arch = "nvptx64")]
macro_rules! pairs {
    ($n:literal, $acc:ident, $a:ident, $d:ident,
        [$i0:literal $($i:literal)*] [$j0:literal $($j:literal)*]) => {
        core::arch::asm!(
            "wgmma.fence.sync.aligned;",
            concat!("wgmma.mma_async.sync.aligned.m64n", $n, "k16.f32.f16.f16 {{{", $i0, "}",
                $(", {", $i, "}",)* "}}, {{{p0}, {p1}, {p2}, {p3}}}, {d0}, 1, 1, 1, 0;"),
            concat!("wgmma.mma_async.sync.aligned.m64n", $n, "k16.f32.f16.f16 {{{", $j0, "}",
                $(", {", $j, "}",)* "}}, {{{q0}, {q1}, {q2}, {q3}}}, {d0}, 1, 1, 1, 0;"),
            concat!("wgmma.mma_async.sync.aligned.m64n", $n, "k16.f32.f16.f16 {{{", $i0, "}",
                $(", {", $i, "}",)* "}}, {{{r0}, {r1}, {r2}, {r3}}}, {d1}, 1, 1, 1, 0;"),
            concat!("wgmma.mma_async.sync.aligned.m64n", $n, "k16.f32.f16.f16 {{{", $j0, "}",
                $(", {", $j, "}",)* "}}, {{{s0}, {s1}, {s2}, {s3}}}, {d1}, 1, 1, 1, 0;"),
            "wgmma.commit_group.sync.aligned;",
            inout(reg32) $acc[$i0], $(inout(reg32) $acc[$i],)*
            inout(reg32) $acc[$j0], $(inout(reg32) $acc[$j],)*
            p0 = in(reg32) $a[0][0], p1 = in(reg32) $a[0][1], p2 = in(reg32) $a[0][2], p3 = in(reg32) $a[0][3],
            q0 = in(reg32) $a[1][0], q1 = in(reg32) $a[1][1], q2 = in(reg32) $a[1][2], q3 = in(reg32) $a[1][3],
            r0 = in(reg32) $a[2][0], r1 = in(reg32) $a[2][1], r2 = in(reg32) $a[2][2], r3 = in(reg32) $a[2][3],
            s0 = in(reg32) $a[3][0], s1 = in(reg32) $a[3][1], s2 = in(reg32) $a[3][2], s3 = in(reg32) $a[3][3],
            d0 = in(reg64) $d, d1 = in(reg64) $d + DESCRIPTOR_K16,
            options(nostack))
    };
}

/// Four k16 steps, one after the other, of an m64nNk16 tile as one group: `fence`, four `mma_async`, `commit_group`.
///
/// `acc` holds the tile's N / 2 registers; `a[s]` is the A fragment of step `s`, whose B starts `s` times
/// [`crate::wgmma_rs::DESCRIPTOR_K16`] after `descriptor`. One statement, so that the writes of the fragments lie before
/// the fence and nothing between the instructions. N, which is twice `ACC`, is 16 or a multiple of 32 up to 256.
///
/// # Safety
/// All warps of an aligned warpgroup execute this call; sm_90a; the tile that `descriptor` names is complete and
/// visible to the async proxy. Until a `wgmma::wait_group` covers the group nobody touches `acc` but further groups,
/// nobody writes the registers of `a`, and nobody overwrites the tile.
#[gpu_only]
#[inline(always)]
pub unsafe fn rs_chain_4<const ACC: usize>(acc: &mut [u32; ACC], a: &Fragments, descriptor: u64) {
    const { assert!(ACC == 8 || (ACC.is_multiple_of(16) && ACC <= 128 && ACC != 0)) };
    // SAFETY: the caller's duty is the instructions'.
    unsafe {
        match 2 * ACC {
            16 => chain!("16", acc, a, descriptor,
            [0 1 2 3 4 5 6 7]),
            32 => chain!("32", acc, a, descriptor,
            [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15]),
            64 => chain!("64", acc, a, descriptor,
            [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31]),
            96 => chain!("96", acc, a, descriptor,
            [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47]),
            128 => chain!("128", acc, a, descriptor,
            [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63]),
            160 => chain!("160", acc, a, descriptor,
            [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64 65 66 67 68 69 70 71 72 73 74 75 76 77 78 79]),
            192 => chain!("192", acc, a, descriptor,
            [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64 65 66 67 68 69 70 71 72 73 74 75 76 77 78 79 80 81 82 83 84 85 86 87 88 89 90 91 92 93 94 95]),
            224 => chain!("224", acc, a, descriptor,
            [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64 65 66 67 68 69 70 71 72 73 74 75 76 77 78 79 80 81 82 83 84 85 86 87 88 89 90 91 92 93 94 95 96 97 98 99 100 101 102 103 104 105 106 107 108 109 110 111]),
            256 => chain!("256", acc, a, descriptor,
            [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64 65 66 67 68 69 70 71 72 73 74 75 76 77 78 79 80 81 82 83 84 85 86 87 88 89 90 91 92 93 94 95 96 97 98 99 100 101 102 103 104 105 106 107 108 109 110 111 112 113 114 115 116 117 118 119 120 121 122 123 124 125 126 127]),
            _ => core::hint::unreachable_unchecked(),
        }
    }
}

/// Two k16 steps of two m64nNk16 tiles with the same B as one group: `fence`, four `mma_async`, `commit_group`.
///
/// `acc` holds the N / 2 registers of the first tile, then those of the second; `a` are the fragments of the first tile and
/// of the second for the first step, then those for the second step. N, which is `ACC`, is 16 or a multiple of 32 up to 128.
///
/// # Safety
/// As [`rs_chain_4`].
#[gpu_only]
#[inline(always)]
pub unsafe fn rs_pairs_2<const ACC: usize>(acc: &mut [u32; ACC], a: &Fragments, descriptor: u64) {
    const { assert!(ACC == 16 || (ACC.is_multiple_of(32) && ACC <= 128 && ACC != 0)) };
    // SAFETY: the caller's duty is the instructions'.
    unsafe {
        match ACC {
            16 => pairs!("16", acc, a, descriptor,
            [0 1 2 3 4 5 6 7]
            [8 9 10 11 12 13 14 15]),
            32 => pairs!("32", acc, a, descriptor,
            [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15]
            [16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31]),
            64 => pairs!("64", acc, a, descriptor,
            [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31]
            [32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63]),
            96 => pairs!("96", acc, a, descriptor,
            [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47]
            [48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64 65 66 67 68 69 70 71 72 73 74 75 76 77 78 79 80 81 82 83 84 85 86 87 88 89 90 91 92 93 94 95]),
            128 => pairs!("128", acc, a, descriptor,
            [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63]
            [64 65 66 67 68 69 70 71 72 73 74 75 76 77 78 79 80 81 82 83 84 85 86 87 88 89 90 91 92 93 94 95 96 97 98 99 100 101 102 103 104 105 106 107 108 109 110 111 112 113 114 115 116 117 118 119 120 121 122 123 124 125 126 127]),
            _ => core::hint::unreachable_unchecked(),
        }
    }
}
