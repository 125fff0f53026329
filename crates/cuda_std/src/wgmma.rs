//! Ordering of Hopper's asynchronous warpgroup MMA (sm_90a only, PTX ISA, Asynchronous Warpgroup MMA): the pointer-free part.
//!
//! `wgmma.mma_async` itself takes shared-memory descriptors and many registers and stays with its kernel, in
//! `asm!` and in warp-uniform control flow.

use crate::gpu_only;
#[cfg(target_arch = "nvptx64")]
use crate::nvvm;

/// Orders register and shared accesses before the next `wgmma.mma_async` (`wgmma.fence.sync.aligned`).
///
/// # Safety
/// All warps of the warpgroup execute this call; sm_90a.
#[gpu_only]
#[inline(always)]
pub unsafe fn fence() {
    // SAFETY: the caller's duty is the instruction's.
    unsafe { nvvm::wgmma_fence() }
}

/// Closes the group of `wgmma.mma_async` issued so far (`wgmma.commit_group.sync.aligned`).
///
/// # Safety
/// As [`fence`].
#[gpu_only]
#[inline(always)]
pub unsafe fn commit_group() {
    // SAFETY: the caller's duty is the instruction's.
    unsafe { nvvm::wgmma_commit_group() }
}

/// Waits until at most `PENDING` groups (0..=7) are in flight (`wgmma.wait_group.sync.aligned`).
///
/// # Safety
/// As [`fence`]. Accumulators of a pending group are not touched.
#[gpu_only]
#[inline(always)]
pub unsafe fn wait_group<const PENDING: u64>() {
    const { assert!(PENDING <= 7) };
    // SAFETY: the caller's duty is the instruction's.
    unsafe { nvvm::wgmma_wait_group(PENDING) }
}
