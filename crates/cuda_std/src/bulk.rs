//! One-dimensional bulk copies, global to shared memory (PTX ISA, Data Movement: cp.async.bulk; sm_90+).
//!
//! One thread issues a copy; the async proxy carries it out and counts its bytes on an mbarrier. A thread that has
//! waited for that phase sees the bytes without another fence. Addresses and sizes are multiples of 16. Guard the
//! call with [`crate::warp::elect`], not with a lane number: `ptxas` loops over the active lanes otherwise.

use crate::gpu_only;

/// Cache policy of data about which nothing is known: the ordinary one (the constant that CUTLASS uses).
pub const EVICT_NORMAL: u64 = 0x1000_0000_0000_0000;
/// Cache policy of data that is used once: first to leave L2 (the constant that CUTLASS uses).
pub const EVICT_FIRST: u64 = 0x12f0_0000_0000_0000;
/// Cache policy of data that others will use again: last to leave L2.
pub const EVICT_LAST: u64 = 0x14f0_0000_0000_0000;

/// Copies `bytes` from global memory at `from` to shared memory at `to`, counted on `barrier`
/// (`cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes`).
///
/// # Safety
/// All three are aligned (16, 16, 8 bytes) and the bytes are inside their memories; the barrier expects them; the
/// destination is in no other use until then; nobody writes the source.
#[gpu_only]
#[inline(always)]
pub unsafe fn load<T>(to: u32, from: *const T, bytes: u32, barrier: u32) {
    // SAFETY: the caller vouches for the memory.
    unsafe {
        core::arch::asm!("{{ .reg .b64 ga; cvta.to.global.u64 ga, {1};",
            "cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [{0}], [ga], {2}, [{3}]; }}",
            in(reg32) to, in(reg64) from, in(reg32) bytes, in(reg32) barrier, options(nostack));
    }
}

/// [`load`] under an L2 cache policy, one of the constants above (`.L2::cache_hint`).
///
/// # Safety
/// As [`load`].
#[gpu_only]
#[inline(always)]
pub unsafe fn load_hint<T>(to: u32, from: *const T, bytes: u32, barrier: u32, policy: u64) {
    // SAFETY: the caller vouches for the memory.
    unsafe {
        core::arch::asm!("{{ .reg .b64 ga; cvta.to.global.u64 ga, {1};",
            "cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes.L2::cache_hint [{0}], [ga], {2}, [{3}], {4}; }}",
            in(reg32) to, in(reg64) from, in(reg32) bytes, in(reg32) barrier, in(reg64) policy, options(nostack));
    }
}

/// Hints `bytes` at `from` (both multiples of 16) into L2 (`cp.async.bulk.prefetch.L2.global`).
///
/// # Safety
/// The bytes are inside global memory.
#[gpu_only]
#[inline(always)]
pub unsafe fn prefetch_l2<T>(from: *const T, bytes: u32) {
    // SAFETY: a hint on memory that the caller vouches for.
    unsafe {
        core::arch::asm!("{{ .reg .b64 ga; cvta.to.global.u64 ga, {0}; cp.async.bulk.prefetch.L2.global [ga], {1}; }}",
            in(reg64) from, in(reg32) bytes, options(nostack));
    }
}
