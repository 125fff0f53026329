//! mbarriers in the block's own shared memory (PTX ISA, Parallel Synchronization: mbarrier; sm_90+).
//!
//! An mbarrier is 8 bytes of shared memory, 8-byte aligned, named by its 32-bit shared address. A phase completes
//! when the arrivals it expects and the bytes it expects (`expect_tx`) have come. Waits are by parity: a fresh
//! barrier is in phase 0, so a consumer starts with parity 0 (waits for the first completion) and a producer that
//! waits for "empty" starts with parity 1 (passes at once); either flips its parity after each wait.
//!
//! The operations are `asm!` because they take a shared address. None is `.aligned`, so a copy of one in each arm
//! of a branch is harmless.

use crate::gpu_only;

/// Bytes and alignment of an mbarrier.
pub const BYTES: u32 = 8;

/// Starts phase 0 of the barrier, `arrivals` (1..=2^20-1) of which complete each phase
/// (`mbarrier.init.shared::cta.b64`). One thread; then [`fence_init`] and a block barrier before others use it.
///
/// # Safety
/// `barrier` is 8 bytes of shared memory, 8-byte aligned, that hold no live barrier.
#[gpu_only]
#[inline(always)]
pub unsafe fn init(barrier: u32, arrivals: u32) {
    // SAFETY: the caller vouches for the address.
    unsafe {
        core::arch::asm!("mbarrier.init.shared::cta.b64 [{}], {};",
            in(reg32) barrier, in(reg32) arrivals, options(nostack))
    }
}

/// Makes this thread's [`init`]s visible to the async proxy and to the cluster
/// (`fence.mbarrier_init.release.cluster`).
#[gpu_only]
#[inline(always)]
pub fn fence_init() {
    // SAFETY: a fence has no precondition.
    unsafe { core::arch::asm!("fence.mbarrier_init.release.cluster;", options(nostack)) }
}

/// One arrival, release semantics for the block (`mbarrier.arrive.shared::cta.b64`).
///
/// # Safety
/// `barrier` is live and the phase still expects an arrival.
#[gpu_only]
#[inline(always)]
pub unsafe fn arrive(barrier: u32) {
    // SAFETY: the caller vouches for the barrier.
    unsafe {
        core::arch::asm!("mbarrier.arrive.shared::cta.b64 _, [{}];", in(reg32) barrier, options(nostack))
    }
}

/// Adds `bytes` to what the current phase expects, and arrives, in one operation (`mbarrier.arrive.expect_tx.shared::cta.b64`). Before the copies
/// that bring the bytes.
///
/// # Safety
/// As [`arrive`]; `bytes` is below 2^20.
#[gpu_only]
#[inline(always)]
pub unsafe fn arrive_expect_tx(barrier: u32, bytes: u32) {
    // SAFETY: the caller vouches for the barrier.
    unsafe {
        core::arch::asm!("mbarrier.arrive.expect_tx.shared::cta.b64 _, [{}], {};",
            in(reg32) barrier, in(reg32) bytes, options(nostack))
    }
}

/// Whether the phase of `parity` (0 or 1) has completed; acquire semantics for the block if so. May suspend the
/// thread for a while first (`mbarrier.try_wait.parity.shared::cta.b64`).
///
/// # Safety
/// `barrier` is live and at most one phase ahead of the caller.
#[gpu_only]
#[inline(always)]
pub unsafe fn try_wait_parity(barrier: u32, parity: u32) -> bool {
    let done: u32;
    // SAFETY: the caller vouches for the barrier.
    unsafe {
        core::arch::asm!("{{ .reg .pred done; mbarrier.try_wait.parity.shared::cta.b64 done, [{1}], {2};",
            "selp.b32 {0}, 1, 0, done; }}",
            lateout(reg32) done, in(reg32) barrier, in(reg32) parity, options(nostack));
    }
    done != 0
}

/// Whether the phase of `parity` (0 or 1) has completed, at once; acquire semantics for the block if so
/// (`mbarrier.test_wait.parity.shared::cta.b64`).
///
/// # Safety
/// As [`try_wait_parity`].
#[gpu_only]
#[inline(always)]
pub unsafe fn test_wait_parity(barrier: u32, parity: u32) -> bool {
    let done: u32;
    // SAFETY: the caller vouches for the barrier.
    unsafe {
        core::arch::asm!("{{ .reg .pred done; mbarrier.test_wait.parity.shared::cta.b64 done, [{1}], {2};",
            "selp.b32 {0}, 1, 0, done; }}",
            lateout(reg32) done, in(reg32) barrier, in(reg32) parity, options(nostack));
    }
    done != 0
}

/// Waits until the phase of `parity` has completed. What follows and is `.aligned` needs a
/// [`crate::warp::sync_warp`] first: lanes may leave the loop at different times.
///
/// # Safety
/// As [`try_wait_parity`].
#[inline(always)]
pub unsafe fn wait_parity(barrier: u32, parity: u32) {
    // SAFETY: the caller vouches for the barrier.
    while !unsafe { try_wait_parity(barrier, parity) } {}
}

/// [`try_wait_parity`] with acquire semantics for the cluster: for a phase that other blocks arrive on
/// (`mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64`).
///
/// # Safety
/// As [`try_wait_parity`].
#[gpu_only]
#[inline(always)]
pub unsafe fn try_wait_parity_cluster(barrier: u32, parity: u32) -> bool {
    let done: u32;
    // SAFETY: the caller vouches for the barrier.
    unsafe {
        core::arch::asm!("{{ .reg .pred done; mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [{1}], {2};",
            "selp.b32 {0}, 1, 0, done; }}",
            lateout(reg32) done, in(reg32) barrier, in(reg32) parity, options(nostack));
    }
    done != 0
}

/// [`wait_parity`] by [`try_wait_parity_cluster`].
///
/// # Safety
/// As [`wait_parity`].
#[inline(always)]
pub unsafe fn wait_parity_cluster(barrier: u32, parity: u32) {
    // SAFETY: the caller vouches for the barrier.
    while !unsafe { try_wait_parity_cluster(barrier, parity) } {}
}

/// One arrival, release semantics for the cluster, on the barrier of any block of it
/// (`mbarrier.arrive.release.cluster.shared::cluster.b64`). `barrier` is an address of [`crate::cluster::map_shared`].
///
/// # Safety
/// As [`arrive`]; the block whose barrier it is has not exited.
#[gpu_only]
#[inline(always)]
pub unsafe fn arrive_cluster(barrier: u32) {
    // SAFETY: the caller vouches for the barrier.
    unsafe {
        core::arch::asm!("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [{}];",
            in(reg32) barrier, options(nostack))
    }
}
