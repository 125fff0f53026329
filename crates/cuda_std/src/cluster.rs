//! Thread block clusters (sm_90+).

use crate::gpu_only;
#[cfg(target_arch = "nvptx64")]
use crate::nvvm;

/// Rank of this block in its cluster (`%cluster_ctarank`, PTX ISA, Special Registers).
#[gpu_only]
#[inline(always)]
pub fn block_rank() -> u32 {
    // SAFETY: reading a special register has no precondition.
    unsafe { nvvm::cluster_ctarank() }
}

/// Blocks of the cluster (`%cluster_nctarank`, PTX ISA, Special Registers).
#[gpu_only]
#[inline(always)]
pub fn num_blocks() -> u32 {
    // SAFETY: reading a special register has no precondition.
    unsafe { nvvm::cluster_nctarank() }
}

/// The address at which block `rank` of the cluster has what this block has at shared address `address`
/// (`mapa.shared::cluster.u32`, PTX ISA, Data Movement).
#[gpu_only]
#[inline(always)]
pub fn map_shared(address: u32, rank: u32) -> u32 {
    let mapped: u32;
    // SAFETY: arithmetic on an address.
    unsafe {
        core::arch::asm!("mapa.shared::cluster.u32 {}, {}, {};",
            lateout(reg32) mapped, in(reg32) address, in(reg32) rank, options(pure, nomem, nostack))
    }
    mapped
}

/// Arrives on the cluster barrier with release semantics (`barrier.cluster.arrive.aligned`, PTX ISA, Parallel Synchronization).
///
/// # Safety
/// Every non-exited thread of the cluster arrives once per phase, in warp-uniform control flow, then waits.
#[gpu_only]
#[inline(always)]
pub unsafe fn arrive() {
    // SAFETY: the caller's duty is the instruction's.
    unsafe { nvvm::cluster_arrive() }
}

/// Arrives without ordering any memory (`barrier.cluster.arrive.relaxed.aligned`, PTX ISA, Parallel Synchronization).
///
/// # Safety
/// As [`arrive`].
#[gpu_only]
#[inline(always)]
pub unsafe fn arrive_relaxed() {
    // SAFETY: the caller's duty is the instruction's.
    unsafe { nvvm::cluster_arrive_relaxed() }
}

/// Waits for the cluster barrier with acquire semantics (`barrier.cluster.wait.aligned`, PTX ISA, Parallel Synchronization).
///
/// # Safety
/// The thread has arrived on this phase; warp-uniform control flow.
#[gpu_only]
#[inline(always)]
pub unsafe fn wait() {
    // SAFETY: the caller's duty is the instruction's.
    unsafe { nvvm::cluster_wait() }
}

/// Barrier over all threads of the cluster.
///
/// # Safety
/// Every non-exited thread of the cluster executes this call.
#[gpu_only]
#[inline(always)]
pub unsafe fn sync() {
    // SAFETY: the caller's duty is the pair's.
    unsafe {
        arrive();
        wait();
    }
}
