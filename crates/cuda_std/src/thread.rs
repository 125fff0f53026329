//! Where a thread is, and block-wide barriers. Names after rust-cuda's `cuda_std::thread`.

use crate::gpu_only;
#[cfg(target_arch = "nvptx64")]
use crate::nvvm;

/// Threads of a warp.
pub const WARP_SIZE: u32 = 32;

macro_rules! special_registers {
    ($($(#[$doc:meta])* $name:ident = $intrinsic:ident, $limit:literal;)*) => {$(
        $(#[$doc])*
        #[gpu_only]
        #[inline(always)]
        pub fn $name() -> u32 {
            // SAFETY: reading a special register has no precondition, and its range is fixed by the architecture.
            unsafe {
                let v = nvvm::$intrinsic();
                core::hint::assert_unchecked(v <= $limit);
                v
            }
        }
    )*};
}

special_registers! {
    /// Index of the thread in its block along x (`%tid.x`, PTX ISA, Special Registers), below [`block_dim_x`].
    thread_idx_x = tid_x, 1023;
    /// Index of the thread in its block along y (`%tid.y`, PTX ISA, Special Registers).
    thread_idx_y = tid_y, 1023;
    /// Index of the thread in its block along z (`%tid.z`, PTX ISA, Special Registers).
    thread_idx_z = tid_z, 63;
    /// Threads of a block along x (`%ntid.x`, PTX ISA, Special Registers).
    block_dim_x = ntid_x, 1024;
    /// Threads of a block along y (`%ntid.y`, PTX ISA, Special Registers).
    block_dim_y = ntid_y, 1024;
    /// Threads of a block along z (`%ntid.z`, PTX ISA, Special Registers).
    block_dim_z = ntid_z, 64;
    /// Index of the block in the grid along x (`%ctaid.x`, PTX ISA, Special Registers).
    block_idx_x = ctaid_x, 0x7fff_fffe;
    /// Index of the block in the grid along y (`%ctaid.y`, PTX ISA, Special Registers).
    block_idx_y = ctaid_y, 65534;
    /// Index of the block in the grid along z (`%ctaid.z`, PTX ISA, Special Registers).
    block_idx_z = ctaid_z, 65534;
    /// Blocks of the grid along x (`%nctaid.x`, PTX ISA, Special Registers).
    grid_dim_x = nctaid_x, 0x7fff_ffff;
    /// Blocks of the grid along y (`%nctaid.y`, PTX ISA, Special Registers).
    grid_dim_y = nctaid_y, 65535;
    /// Blocks of the grid along z (`%nctaid.z`, PTX ISA, Special Registers).
    grid_dim_z = nctaid_z, 65535;
}

/// Global index of the thread along x: `block_idx_x * block_dim_x + thread_idx_x`, wrapping at 2^32.
#[gpu_only]
#[inline(always)]
pub fn index_1d() -> u32 {
    block_idx_x().wrapping_mul(block_dim_x()).wrapping_add(thread_idx_x())
}

/// Barrier over all threads of the block, with their shared and global memory ordered across it
/// (`barrier.cta.sync.aligned 0`, PTX ISA, Parallel Synchronization).
///
/// # Safety
/// Every thread of the block must reach the same call: never under a condition that differs inside the block.
#[gpu_only]
#[inline(always)]
pub unsafe fn sync_threads() {
    // SAFETY: the caller's duty is exactly the barrier's.
    unsafe { nvvm::barrier_sync_all(0) }
}

/// Named barrier over `threads` threads of the block (`barrier.cta.sync.aligned a, b`, PTX ISA, Parallel Synchronization).
///
/// # Safety
/// `barrier` is below 16 and used by nobody else at the time; `threads` is a multiple of 32; exactly `threads`
/// threads, in whole warps and warp-uniform control flow, sync or arrive on it.
#[gpu_only]
#[inline(always)]
pub unsafe fn sync_threads_named(barrier: u32, threads: u32) {
    // SAFETY: as above.
    unsafe { nvvm::barrier_sync_count(barrier, threads) }
}

/// Arrives on a named barrier without waiting (`barrier.cta.arrive.aligned a, b`, PTX ISA, Parallel Synchronization).
///
/// # Safety
/// As [`sync_threads_named`].
#[gpu_only]
#[inline(always)]
pub unsafe fn arrive_named(barrier: u32, threads: u32) {
    // SAFETY: as above.
    unsafe { nvvm::barrier_arrive_count(barrier, threads) }
}

/// Suspends the thread for about `ns` nanoseconds, at most 1 ms (`nanosleep.u32`, PTX ISA, Miscellaneous).
#[gpu_only]
#[inline(always)]
pub fn nanosleep(ns: u32) {
    // SAFETY: a hint to the scheduler.
    unsafe { nvvm::nanosleep(ns) }
}
