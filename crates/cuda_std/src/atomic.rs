//! Atomic operations on words of global memory, device scope (`red`, `atom`, strong `ld` and `st`; PTX ISA, Parallel
//! Synchronization and Data Movement, and Memory Consistency Model). Relaxed ones order nothing else; a release makes what
//! the thread has done and seen before visible to whoever acquires what it wrote.

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
    /// Adds `value`, wrapping, as a release (`red.release.gpu.global.add.u32`).
    add_release_u32 = "red.release.gpu.global.add.u32";
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

macro_rules! updates {
    ($($(#[$doc:meta])* $name:ident = $op:literal;)*) => {$(
        $(#[$doc])*
        ///
        /// # Safety
        /// `p` is 4-byte aligned writable global memory, which others use by atomic operations only.
        #[gpu_only]
        #[inline(always)]
        pub unsafe fn $name(p: *mut u32, value: u32) -> u32 {
            let old: u32;
            // SAFETY: the caller vouches for the address.
            unsafe {
                core::arch::asm!(
                    concat!("{{ .reg .b64 ga; cvta.to.global.u64 ga, {1}; ", $op, " {0}, [ga], {2}; }}"),
                    lateout(reg32) old, in(reg64) p, in(reg32) value, options(nostack));
            }
            old
        }
    )*};
}

updates! {
    /// Adds `value`, wrapping, and gives what was there (`atom.relaxed.gpu.global.add.u32`).
    fetch_add_u32 = "atom.relaxed.gpu.global.add.u32";
    /// The same as a release and an acquire (`atom.acq_rel.gpu.global.add.u32`).
    fetch_add_acq_rel_u32 = "atom.acq_rel.gpu.global.add.u32";
}

/// Loads a word as an acquire (`ld.acquire.gpu.global.u32`).
///
/// # Safety
/// `p` is 4-byte aligned global memory, which others write by atomic operations only.
#[gpu_only]
#[inline(always)]
pub unsafe fn load_acquire_u32(p: *const u32) -> u32 {
    let value: u32;
    // SAFETY: the caller vouches for the address.
    unsafe {
        core::arch::asm!("{{ .reg .b64 ga; cvta.to.global.u64 ga, {1}; ld.acquire.gpu.global.u32 {0}, [ga]; }}",
            lateout(reg32) value, in(reg64) p, options(nostack));
    }
    value
}

/// Loads a word (`ld.relaxed.gpu.global.u32`).
///
/// # Safety
/// As [`load_acquire_u32`].
#[gpu_only]
#[inline(always)]
pub unsafe fn load_u32(p: *const u32) -> u32 {
    let value: u32;
    // SAFETY: the caller vouches for the address.
    unsafe {
        core::arch::asm!("{{ .reg .b64 ga; cvta.to.global.u64 ga, {1}; ld.relaxed.gpu.global.u32 {0}, [ga]; }}",
            lateout(reg32) value, in(reg64) p, options(nostack));
    }
    value
}

/// Loads four words, each for itself (`ld.relaxed.gpu.global.v4.u32`).
///
/// # Safety
/// As [`load_acquire_u32`]; 16-byte aligned, 16 bytes.
#[gpu_only]
#[inline(always)]
pub unsafe fn load_v4_u32(p: *const u32) -> [u32; 4] {
    let (a, b, c, d): (u32, u32, u32, u32);
    // SAFETY: the caller vouches for the address.
    unsafe {
        core::arch::asm!(
            "{{ .reg .b64 ga; cvta.to.global.u64 ga, {4}; ld.relaxed.gpu.global.v4.u32 {{{0}, {1}, {2}, {3}}}, [ga]; }}",
            lateout(reg32) a, lateout(reg32) b, lateout(reg32) c, lateout(reg32) d, in(reg64) p, options(nostack));
    }
    [a, b, c, d]
}
