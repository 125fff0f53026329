//! Ordering of Blackwell's fifth-generation tensor core operations (sm_100a, PTX ISA, TensorCore 5th Generation): the pointer-free
//! part. Allocation, copies, loads and the MMA itself take addresses and stay with their kernel, in `asm!`.

use crate::gpu_only;
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
