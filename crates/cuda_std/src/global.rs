//! Wide loads and stores of global memory with cache hints (PTX ISA, Data Movement).
//!
//! The address goes through `cvta.to.global` in the helper, so a generic Rust pointer is enough, wherever it
//! comes from. All are 16 bytes wide and need 16-byte alignment unless their name says otherwise.

use crate::gpu_only;

macro_rules! loads {
    ($($(#[$doc:meta])* $name:ident = $op:literal, $($opt:ident),*;)*) => {$(
        $(#[$doc])*
        ///
        /// # Safety
        /// `p` is 16-byte aligned and 16 bytes there are readable global memory.
        #[gpu_only]
        #[inline(always)]
        pub unsafe fn $name<T>(p: *const T) -> [u32; 4] {
            let (a, b, c, d): (u32, u32, u32, u32);
            // SAFETY: the caller vouches for the address.
            unsafe {
                core::arch::asm!(
                    "{{ .reg .b64 ga; cvta.to.global.u64 ga, {4};",
                    concat!($op, " {{{0}, {1}, {2}, {3}}}, [ga]; }}"),
                    lateout(reg32) a, lateout(reg32) b, lateout(reg32) c, lateout(reg32) d,
                    in(reg64) p, options($($opt),*));
            }
            [a, b, c, d]
        }
    )*};
}

loads! {
    /// Ordinary 16-byte load (`ld.global.v4.b32`).
    load_v4 = "ld.global.v4.b32", readonly, nostack;
    /// 16-byte load through the read-only path (`ld.global.nc.v4.b32`). Nobody may write the bytes while the
    /// kernel runs.
    load_nc_v4 = "ld.global.nc.v4.b32", pure, readonly, nostack;
    /// 16-byte read-only load of data used once: not kept in L1, prefetched to L2 in 128-byte lines
    /// (`ld.global.nc.L1::no_allocate.L2::128B.v4.b32`). Nobody may write the bytes while the kernel runs.
    load_stream_v4 = "ld.global.nc.L1::no_allocate.L2::128B.v4.b32", pure, readonly, nostack;
}

/// Ordinary 8-byte load (`ld.global.v2.b32`).
///
/// # Safety
/// `p` is 8-byte aligned and 8 bytes there are readable global memory.
#[gpu_only]
#[inline(always)]
pub unsafe fn load_v2<T>(p: *const T) -> [u32; 2] {
    let (a, b): (u32, u32);
    // SAFETY: the caller vouches for the address.
    unsafe {
        core::arch::asm!("{{ .reg .b64 ga; cvta.to.global.u64 ga, {2}; ld.global.v2.b32 {{{0}, {1}}}, [ga]; }}",
            lateout(reg32) a, lateout(reg32) b, in(reg64) p, options(readonly, nostack));
    }
    [a, b]
}

/// Ordinary 16-byte store (`st.global.v4.b32`).
///
/// # Safety
/// `p` is 16-byte aligned and 16 bytes there are writable global memory that no other thread uses unordered.
#[gpu_only]
#[inline(always)]
pub unsafe fn store_v4<T>(p: *mut T, v: [u32; 4]) {
    // SAFETY: the caller vouches for the address.
    unsafe {
        core::arch::asm!(
            "{{ .reg .b64 ga; cvta.to.global.u64 ga, {0}; st.global.v4.b32 [ga], {{{1}, {2}, {3}, {4}}}; }}",
            in(reg64) p, in(reg32) v[0], in(reg32) v[1], in(reg32) v[2], in(reg32) v[3], options(nostack));
    }
}

/// 8-byte store (`st.global.v2.b32`).
///
/// # Safety
/// As [`store_v4`], 8 bytes, 8-byte aligned.
#[gpu_only]
#[inline(always)]
pub unsafe fn store_v2<T>(p: *mut T, v: [u32; 2]) {
    // SAFETY: the caller vouches for the address.
    unsafe {
        core::arch::asm!(
            "{{ .reg .b64 ga; cvta.to.global.u64 ga, {0}; st.global.v2.b32 [ga], {{{1}, {2}}}; }}",
            in(reg64) p, in(reg32) v[0], in(reg32) v[1], options(nostack));
    }
}

/// Hints the line at `p` into L2 (`prefetch.global.L2`, PTX ISA, Data Movement).
///
/// # Safety
/// `p` points into global memory.
#[gpu_only]
#[inline(always)]
pub unsafe fn prefetch_l2<T>(p: *const T) {
    // SAFETY: a hint on an address the caller vouches for.
    unsafe {
        core::arch::asm!("{{ .reg .b64 ga; cvta.to.global.u64 ga, {0}; prefetch.global.L2 [ga]; }}",
            in(reg64) p, options(nostack));
    }
}
