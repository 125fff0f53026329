//! Per-thread asynchronous copies, global to shared memory (PTX ISA, Data Movement: cp.async).
//!
//! A copy is done when a [`wait_group`] of the issuing thread covers it. Its bytes arrive through the generic proxy:
//! before wgmma or a bulk store reads them the thread needs [`crate::fence::proxy_async_shared`], then a barrier.

use crate::gpu_only;

/// Copies 16 bytes, through L2 only (`cp.async.cg.shared.global`).
///
/// # Safety
/// Both are 16-byte aligned and inside their memories; nobody writes the source, and the destination is in no other
/// use until the copy is done.
#[gpu_only]
#[inline(always)]
pub unsafe fn copy_16<T>(to: u32, from: *const T) {
    // SAFETY: the caller vouches for the memory.
    unsafe {
        core::arch::asm!(
            "{{ .reg .b64 ga; cvta.to.global.u64 ga, {1}; cp.async.cg.shared.global.L2::128B [{0}], [ga], 16; }}",
            in(reg32) to, in(reg64) from, options(nostack));
    }
}

/// Closes the group of this thread's copies issued so far (`cp.async.commit_group`). A group may be empty.
#[gpu_only]
#[inline(always)]
pub fn commit_group() {
    // SAFETY: no precondition, and a duplicate would only close an empty group; never duplicated, having effects.
    unsafe { core::arch::asm!("cp.async.commit_group;", options(nostack)) }
}

/// Waits until at most `PENDING` of this thread's newest groups are in flight (`cp.async.wait_group`).
#[gpu_only]
#[inline(always)]
pub fn wait_group<const PENDING: u32>() {
    // SAFETY: no precondition.
    unsafe { core::arch::asm!("cp.async.wait_group {};", const PENDING, options(nostack)) }
}
