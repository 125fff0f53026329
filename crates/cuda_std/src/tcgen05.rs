//! Blackwell's fifth-generation tensor cores (sm_100a, PTX ISA, TensorCore 5th Generation Family Instructions).
//!
//! | module | what |
//! |---|---|
//! | here | ordering and the allocation permit: pointer-free, LLVM intrinsics |
//! | [`descriptor`] | what an instruction and its operands in shared memory look like, bit by bit |
//! | [`memory`] | tensor memory: allocation, loads |
//! | [`mma`] | copies of scales, the NVFP4 MMA, commits |
//!
//! The asynchronous operations of one thread, `cp` then `mma` then `commit`, execute in order. Whatever else hands tensor
//! memory from one thread to another goes: [`fence_before_thread_sync`], a barrier or mbarrier,
//! [`fence_after_thread_sync`].
//!
//! A pair is two blocks of a cluster whose ranks differ in the last bit; its operations (`.cta_group::2`) are issued in
//! one block and work on the shared and tensor memory of both. Functions take a [`CtaGroup`]; a kernel has one.

pub mod descriptor;
pub mod memory;
pub mod mma;

use crate::gpu_only;

/// Who shares tensor memory operations: `.cta_group`.
pub trait CtaGroup {
    /// Whether two blocks do.
    const PAIR: bool;
}

/// `.cta_group::1`: a block by itself.
pub struct OneBlock;

impl CtaGroup for OneBlock {
    const PAIR: bool = false;
}

/// `.cta_group::2`: two blocks of a cluster whose ranks differ in the last bit.
pub struct BlockPair;

impl CtaGroup for BlockPair {
    const PAIR: bool = true;
}
#[cfg(target_arch = "nvptx64")]
use crate::nvvm;

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident = $intrinsic:ident;)*) => {$(
        $(#[$doc])*
        ///
        /// # Safety
        /// sm_100a; whole warps where the instruction is `.aligned`, in warp-uniform control flow.
        #[gpu_only]
        #[inline(always)]
        pub unsafe fn $name() {
            // SAFETY: the caller's duty is the instruction's.
            unsafe { nvvm::$intrinsic() }
        }
    )*};
}

operations! {
    /// Orders earlier tcgen05 operations before a following thread synchronisation
    /// (`tcgen05.fence::before_thread_sync`).
    fence_before_thread_sync = tcgen05_fence_before;
    /// Orders a previous thread synchronisation before following tcgen05 operations
    /// (`tcgen05.fence::after_thread_sync`).
    fence_after_thread_sync = tcgen05_fence_after;
    /// Waits for this thread's `tcgen05.ld` (`tcgen05.wait::ld.sync.aligned`).
    wait_ld = tcgen05_wait_ld;
    /// Waits for this thread's `tcgen05.st` (`tcgen05.wait::st.sync.aligned`).
    wait_st = tcgen05_wait_st;
    /// Gives up the right to allocate tensor memory (`tcgen05.relinquish_alloc_permit.cta_group::1.sync.aligned`).
    relinquish_alloc_permit = tcgen05_relinquish_cg1;
    /// The same for a pair of blocks (`tcgen05.relinquish_alloc_permit.cta_group::2.sync.aligned`).
    relinquish_alloc_permit_pair = tcgen05_relinquish_cg2;
}
