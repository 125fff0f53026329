//! Groups of four wgmma with A in registers, as wide as is said at run time: four k16 steps of a tile for one
//! `commit_group`.
//!
//! A group costs a fence, a commit and a wait, and the fragments of the next one are made while it runs: with four
//! instructions in it the tensor cores have something to do for as long as it takes to expand a unit of weights. Operands
//! and layouts are those of [`crate::wgmma_rs`].
//!
//! All widths are in one statement with a jump in it, and not one in each arm of a `match`: `ptxas` gives the fragments of
//! every loop of its own registers of their own, and serialises all of them when those are used up (C7512). Each arm has its
//! own fence, because `ptxas` would put one there and serialise again (C7520).

use crate::gpu_only;
#[cfg(target_arch = "nvptx64")]
use crate::wgmma_rs::DESCRIPTOR_K16;

/// A fragments of a group: four registers for each instruction, in their order.
pub type Fragments = [[u32; 4]; 4];

/// An instruction: N, the accumulators, the fragment's name, the descriptor's.
#[cfg(target_arch = "nvptx64")]
macro_rules! mma {
    ($n:literal, [$first:literal $($i:literal)*], $a:literal, $d:literal) => {
        concat!("wgmma.mma_async.sync.aligned.m64n", $n, "k16.f32.f16.f16 {{{", $first, "}", $(", {", $i, "}",)* "}}, {{{",
            $a, "0}, {", $a, "1}, {", $a, "2}, {", $a, "3}}}, {", $d, "}, 1, 1, 1, 0;\n")
    };
}

/// A group of four steps of one tile.
#[cfg(target_arch = "nvptx64")]
macro_rules! chain {
    ($n:literal $acc:tt) => {
        concat!(
            "N",
            $n,
            ": wgmma.fence.sync.aligned;\n",
            mma!($n, $acc, "p", "d0"),
            mma!($n, $acc, "q", "d1"),
            mma!($n, $acc, "r", "d2"),
            mma!($n, $acc, "s", "d3"),
            "wgmma.commit_group.sync.aligned; bra.uni DONE;"
        )
    };
}

/// The statement: the widths, the numbers of all accumulators, an arm for each width.
#[cfg(target_arch = "nvptx64")]
macro_rules! group {
    ($acc:ident, $a:ident, $descriptor:ident, $index:ident, [$($name:ident $step:literal)*],
        [$first:literal $($n:literal)*], [$($i:literal)*], $($arm:expr),*) => {
        core::arch::asm!(
            concat!("{{ widths: .branchtargets N", $first, $(", N", $n,)* ";"),
            "brx.idx.uni {index}, widths;",
            $($arm,)*
            "DONE: }}",
            $(inout(reg32) $acc[$i],)*
            p0 = in(reg32) $a[0][0], p1 = in(reg32) $a[0][1], p2 = in(reg32) $a[0][2], p3 = in(reg32) $a[0][3],
            q0 = in(reg32) $a[1][0], q1 = in(reg32) $a[1][1], q2 = in(reg32) $a[1][2], q3 = in(reg32) $a[1][3],
            r0 = in(reg32) $a[2][0], r1 = in(reg32) $a[2][1], r2 = in(reg32) $a[2][2], r3 = in(reg32) $a[2][3],
            s0 = in(reg32) $a[3][0], s1 = in(reg32) $a[3][1], s2 = in(reg32) $a[3][2], s3 = in(reg32) $a[3][3],
            $($name = in(reg64) $descriptor + $step * DESCRIPTOR_K16,)*
            index = in(reg32) $index,
            options(nostack))
    };
}

/// Most accumulators of a thread: of 128 columns.
pub const ACC: usize = 64;
/// What widths are multiples of.
pub const STEP: u32 = 16;

/// Four k16 steps, one after the other, of an m64nNk16 tile as one group: `fence`, four `mma_async`, `commit_group`.
///
/// `acc` is as for N = 128, of which the first N / 2 are used; N is `index + 1` times [`STEP`]. `a[s]` is the A fragment of
/// step `s`, whose B starts `s` times [`crate::wgmma_rs::DESCRIPTOR_K16`] after `descriptor`.
///
/// # Safety
/// All warps of an aligned warpgroup execute this call with the same `index`, which stays the same as long as groups of
/// the same accumulators run; sm_90a; the tile that `descriptor` names is complete and visible to the async proxy. Until a
/// `wgmma::wait_group` covers the group nobody touches `acc` but further groups, nobody writes the registers of `a`, and
/// nobody overwrites the tile.
#[gpu_only]
#[inline(always)]
#[allow(named_asm_labels)]
pub unsafe fn rs_chain_4(acc: &mut [u32; ACC], a: &Fragments, descriptor: u64, index: u32) {
    // SAFETY: the caller's duty is the instructions'. The labels are in a scope of their own.
    unsafe {
        group!(acc, a, descriptor, index, [d0 0 d1 1 d2 2 d3 3],
            [16 32 48 64 80 96 112 128],
            [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63],
            chain!(16 [0 1 2 3 4 5 6 7]),
            chain!(32 [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15]),
            chain!(48 [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23]),
            chain!(64 [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31]),
            chain!(80 [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39]),
            chain!(96 [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47]),
            chain!(112 [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55]),
            chain!(128 [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63]));
    }
}
