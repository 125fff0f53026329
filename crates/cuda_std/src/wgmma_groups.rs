//! Groups of two wgmma with A in registers, as wide as is said at run time: two k16 steps of a tile for one
//! `commit_group`. Operands and layouts are those of [`crate::wgmma_rs`].
//!
//! All widths are in one statement with jumps in it, and not one in each arm of a `match`: `ptxas` gives the fragments of
//! every loop of its own registers of their own, and serialises all of them when those are used up (C7512). Each arm has its
//! own fence, because `ptxas` would put one there and serialise again (C7520). The jumps are a tree of uniform branches:
//! `brx.idx` costs some hundred cycles each time.

use crate::gpu_only;
#[cfg(target_arch = "nvptx64")]
use crate::wgmma_rs::DESCRIPTOR_K16;

/// A fragments of a group: four registers for each instruction, in their order.
pub type Fragments = [[u32; 4]; 2];
/// The widths, by index.
pub const WIDTHS: [u32; 8] = [32, 64, 96, 128, 160, 192, 208, 224];
/// Accumulators of a thread: those of the widest tile.
pub const ACC: usize = WIDTHS[7] as usize / 2;

/// Index of the narrowest width that holds `rows` rows, 1 to 224.
#[inline(always)]
pub const fn index_of(rows: u32) -> u32 {
    if rows <= 192 { (rows - 1) / 32 } else { 6 + (rows - 193) / 16 }
}

/// An instruction: N, the accumulators, the fragment's name, the descriptor's.
#[cfg(target_arch = "nvptx64")]
macro_rules! mma {
    ($n:literal, [$first:literal $($i:literal)*], $a:literal, $d:literal) => {
        concat!("wgmma.mma_async.sync.aligned.m64n", $n, "k16.f32.f16.f16 {{{", $first, "}", $(", {", $i, "}",)* "}}, {{{",
            $a, "0}, {", $a, "1}, {", $a, "2}, {", $a, "3}}}, {", $d, "}, 1, 1, 1, 0;\n")
    };
}

/// A group of two steps of one tile.
#[cfg(target_arch = "nvptx64")]
macro_rules! chain {
    ($index:literal $n:literal $acc:tt) => {
        concat!(
            "W",
            $index,
            ": wgmma.fence.sync.aligned;\n",
            mma!($n, $acc, "p", "d0"),
            mma!($n, $acc, "q", "d1"),
            "wgmma.commit_group.sync.aligned; bra.uni DONE;"
        )
    };
}

/// The statement: the numbers of all accumulators, an arm for each width, reached through a tree of three comparisons.
#[cfg(target_arch = "nvptx64")]
macro_rules! group {
    ($acc:ident, $a:ident, $descriptor:ident, $index:ident, [$($i:literal)*], $($arm:expr),*) => {
        core::arch::asm!(
            "{{ .reg .pred high, even, odd; .reg .b32 low;",
            "and.b32 low, {index}, 1; setp.ne.u32 odd, low, 0;",
            "and.b32 low, {index}, 2; setp.ne.u32 even, low, 0;",
            "setp.ge.u32 high, {index}, 4; @high bra.uni UPPER;",
            "@even bra.uni W23; @odd bra.uni W1; bra.uni W0; W23: @odd bra.uni W3; bra.uni W2;",
            "UPPER: @even bra.uni W67; @odd bra.uni W5; bra.uni W4; W67: @odd bra.uni W7; bra.uni W6;",
            $($arm,)*
            "DONE: }}",
            $(inout(reg32) $acc[$i],)*
            p0 = in(reg32) $a[0][0], p1 = in(reg32) $a[0][1], p2 = in(reg32) $a[0][2], p3 = in(reg32) $a[0][3],
            q0 = in(reg32) $a[1][0], q1 = in(reg32) $a[1][1], q2 = in(reg32) $a[1][2], q3 = in(reg32) $a[1][3],
            d0 = in(reg64) $descriptor, d1 = in(reg64) $descriptor + DESCRIPTOR_K16,
            index = in(reg32) $index,
            options(nostack))
    };
}

/// Two k16 steps of an m64nNk16 tile in ascending order as one group, N = `WIDTHS[index]`: `fence`, two `mma_async`,
/// `commit_group`. `b` is the descriptor of the first step's columns. Accumulators past `N / 2` are not touched.
///
/// # Safety
/// As [`crate::wgmma_rs::rs_pair_step`]; `index` is below 8 and the same in the whole warpgroup.
#[gpu_only]
#[inline(always)]
#[allow(named_asm_labels)]
pub unsafe fn rs_chain_2(acc: &mut [u32; ACC], a: &Fragments, b: u64, index: u32) {
    // SAFETY: the caller's duty is the instructions'. The labels are in a scope of their own.
    unsafe {
        group!(acc, a, b, index,
            [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64 65 66 67 68 69 70 71 72 73 74 75 76 77 78 79 80 81 82 83 84 85 86 87 88 89 90 91 92 93 94 95 96 97 98 99 100 101 102 103 104 105 106 107 108 109 110 111],
            chain!(0 32 [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15]),
            chain!(1 64 [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31]),
            chain!(2 96 [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47]),
            chain!(3 128 [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63]),
            chain!(4 160 [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64 65 66 67 68 69 70 71 72 73 74 75 76 77 78 79]),
            chain!(5 192 [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64 65 66 67 68 69 70 71 72 73 74 75 76 77 78 79 80 81 82 83 84 85 86 87 88 89 90 91 92 93 94 95]),
            chain!(6 208 [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64 65 66 67 68 69 70 71 72 73 74 75 76 77 78 79 80 81 82 83 84 85 86 87 88 89 90 91 92 93 94 95 96 97 98 99 100 101 102 103]),
            chain!(7 224 [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63 64 65 66 67 68 69 70 71 72 73 74 75 76 77 78 79 80 81 82 83 84 85 86 87 88 89 90 91 92 93 94 95 96 97 98 99 100 101 102 103 104 105 106 107 108 109 110 111])
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_width_is_the_narrowest() {
        for rows in 1..=WIDTHS[7] {
            let index = index_of(rows) as usize;
            assert!(rows <= WIDTHS[index] && (index == 0 || rows > WIDTHS[index - 1]));
        }
    }
}
