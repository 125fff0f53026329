//! Atomic updates of global memory without a result (`red` and strong `st`, PTX ISA, Parallel Synchronization and Data
//! Movement). Relaxed, device scope: they order nothing else.

use crate::gpu_only;

macro_rules! reductions {
    ($($(#[$doc:meta])* $name:ident = $op:literal;)*) => {$(
        $(#[$doc])*
        ///
        /// # Safety
        /// `p` is 4-byte aligned writable global memory, which others use by atomic operations only.
        #[gpu_only]
        #[inline(always)]
        pub unsafe fn $name(p: *mut u32, value: u32) {
            // SAFETY: the caller vouches for the address.
            unsafe {
                core::arch::asm!(
                    concat!("{{ .reg .b64 ga; cvta.to.global.u64 ga, {0}; ", $op, " [ga], {1}; }}"),
                    in(reg64) p, in(reg32) value, options(nostack));
            }
        }
    )*};
}

reductions! {
    /// Adds `value`, wrapping (`red.relaxed.gpu.global.add.u32`).
    add_u32 = "red.relaxed.gpu.global.add.u32";
    /// Keeps the larger one (`red.relaxed.gpu.global.max.u32`).
    max_u32 = "red.relaxed.gpu.global.max.u32";
}

/// Stores `value` where several threads may store it at a time (`st.relaxed.gpu.global.u32`).
///
/// # Safety
/// `p` is 4-byte aligned writable global memory, which others use by atomic operations only.
#[gpu_only]
#[inline(always)]
pub unsafe fn store_u32(p: *mut u32, value: u32) {
    // SAFETY: the caller vouches for the address.
    unsafe {
        core::arch::asm!("{{ .reg .b64 ga; cvta.to.global.u64 ga, {0}; st.relaxed.gpu.global.u32 [ga], {1}; }}",
            in(reg64) p, in(reg32) value, options(nostack));
    }
}
