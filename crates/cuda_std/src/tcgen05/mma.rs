//! The operations that one thread issues and that execute by themselves, in order: copies of scales to tensor memory, the
//! NVFP4 MMA, and commits, which tell an mbarrier when all before are done (PTX ISA, tcgen05.cp, tcgen05.mma,
//! tcgen05.commit).
//!
//! Guard the calls with [`crate::warp::elect`], not with a lane number: `ptxas` loops over the active lanes otherwise. Of a
//! pair the even block issues.

use super::CtaGroup;
use crate::gpu_only;

/// Columns of tensor memory that the scales of 128 rows and one MMA take.
pub const SCALE_COLUMNS: u32 = 4;

/// Copies a tile of scales (128 rows x 4, the 32_4_4 layout, `matrix::scale_tile`) to four columns of tensor memory, a copy
/// in each 32 lanes: row `m` to lane `m % 32`, column `m / 32`; of a pair, in both blocks, each from its own shared
/// memory (`tcgen05.cp.cta_group.32x128b.warpx4`).
///
/// # Safety
/// One thread; the tile is complete and visible to the async proxy, behind a [`super::fence_after_thread_sync`]; the
/// columns are allocated and no MMA in flight reads them; sm_100a.
#[gpu_only]
#[inline(always)]
pub unsafe fn copy_scales<G: CtaGroup>(to: u32, tile: u64) {
    // SAFETY: the caller's duty is the instruction's.
    unsafe {
        if G::PAIR {
            core::arch::asm!("tcgen05.cp.cta_group::2.32x128b.warpx4 [{}], {};",
                in(reg32) to, in(reg64) tile, options(nostack));
        } else {
            core::arch::asm!("tcgen05.cp.cta_group::1.32x128b.warpx4 [{}], {};",
                in(reg32) to, in(reg64) tile, options(nostack));
        }
    }
}

/// Operands of one MMA.
#[derive(Clone, Copy)]
pub struct Operands {
    /// Tensor-memory address of D.
    pub d: u32,
    /// Matrix descriptor of A.
    pub a: u64,
    /// That of B.
    pub b: u64,
    /// Tensor-memory address of the scales of A: four columns.
    pub scale_a: u32,
    /// That of the scales of B: a column for 32 rows.
    pub scale_b: u32,
}

#[cfg(target_arch = "nvptx64")]
macro_rules! mma {
    ($group:literal, $o:ident, $instruction:ident, $accumulate:ident) => {
        core::arch::asm!("{{ .reg .pred accumulate; setp.ne.b32 accumulate, {p}, 0;",
            concat!("tcgen05.mma.cta_group::", $group, ".kind::mxf4nvf4.block_scale.scale_vec::4X ",
                "[{d}], {a}, {b}, {i}, [{sa}], [{sb}], accumulate; }}"),
            d = in(reg32) $o.d, a = in(reg64) $o.a, b = in(reg64) $o.b, i = in(reg32) $instruction,
            sa = in(reg32) $o.scale_a, sb = in(reg32) $o.scale_b, p = in(reg32) u32::from($accumulate),
            options(nostack))
    };
}

/// `D = A * B + D`, or `A * B` without `accumulate`, over K = 64: E2M1 with one E4M3 scale per 16, f32 sums
/// (`tcgen05.mma.cta_group.kind::mxf4nvf4.block_scale.scale_vec::4X`). Of a pair M is 256, 128 rows of A and half of the
/// rows of B in each block, the scales of all of B in both.
///
/// # Safety
/// One thread; operands are complete and visible to the async proxy, behind a [`super::fence_after_thread_sync`], scales
/// also by earlier [`copy_scales`] of the thread; D is allocated and nobody reads it; sm_100a.
#[gpu_only]
#[inline(always)]
pub unsafe fn nvfp4<G: CtaGroup>(operands: Operands, instruction: u32, accumulate: bool) {
    // SAFETY: the caller's duty is the instruction's.
    unsafe {
        if G::PAIR {
            mma!("2", operands, instruction, accumulate)
        } else {
            mma!("1", operands, instruction, accumulate)
        }
    }
}

/// One arrival on `barrier` when all copies and MMAs that this thread has issued are done; of a pair, on the barriers at that
/// offset in both blocks (`tcgen05.commit.cta_group.mbarrier::arrive::one.shared::cluster.b64`, with
/// `.multicast::cluster` of a pair). Implies [`super::fence_before_thread_sync`].
///
/// # Safety
/// The thread that issued them; the barriers are live and expect the arrival; of a pair, the cluster has two blocks;
/// sm_100a.
#[gpu_only]
#[inline(always)]
pub unsafe fn commit<G: CtaGroup>(barrier: u32) {
    /// Both ranks of a cluster of two.
    const BOTH: u32 = 0b11;
    // SAFETY: the caller's duty is the instruction's.
    unsafe {
        if G::PAIR {
            core::arch::asm!("{{ .reg .b16 blocks; cvt.u16.u32 blocks, {1};",
                "tcgen05.commit.cta_group::2.mbarrier::arrive::one.shared::cluster.multicast::cluster.b64 [{0}], blocks; }}",
                in(reg32) barrier, in(reg32) BOTH, options(nostack));
        } else {
            core::arch::asm!("tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [{}];",
                in(reg32) barrier, options(nostack));
        }
    }
}
