//! Memory fences that take no address (PTX ISA, Parallel Synchronization).

use crate::gpu_only;
#[cfg(target_arch = "nvptx64")]
use crate::nvvm;

/// Orders this thread's memory operations for the other threads of the block (`membar.cta`).
#[gpu_only]
#[inline(always)]
pub fn block_fence() {
    // SAFETY: a fence has no precondition.
    unsafe { nvvm::membar_cta() }
}

/// Orders this thread's memory operations for all threads of the GPU (`membar.gl`).
#[gpu_only]
#[inline(always)]
pub fn device_fence() {
    // SAFETY: a fence has no precondition.
    unsafe { nvvm::membar_gl() }
}

/// Orders this thread's memory operations for all GPUs and the host (`membar.sys`).
#[gpu_only]
#[inline(always)]
pub fn system_fence() {
    // SAFETY: a fence has no precondition.
    unsafe { nvvm::membar_sys() }
}

/// Makes generic-proxy writes to shared memory visible to the async proxy: TMA, wgmma and tcgen05 operands
/// (`fence.proxy.async.shared::cta`, sm_90+). Executed by the writing threads, before the barrier.
#[gpu_only]
#[inline(always)]
pub fn proxy_async_shared() {
    // SAFETY: a fence has no precondition; a duplicated one is harmless, so `asm!` is too.
    unsafe { core::arch::asm!("fence.proxy.async.shared::cta;", options(nostack, preserves_flags)) }
}

/// Makes generic-proxy writes to global memory visible to the async proxy: bulk copies that read them
/// (`fence.proxy.async.global`, sm_90+). Executed by the writing threads, before they publish.
#[gpu_only]
#[inline(always)]
pub fn proxy_async_global() {
    // SAFETY: a fence has no precondition; a duplicated one is harmless, so `asm!` is too.
    unsafe { core::arch::asm!("fence.proxy.async.global;", options(nostack, preserves_flags)) }
}
