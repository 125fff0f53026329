//! Shared memory by 32-bit address (`.shared` window, PTX ISA, Shared State Space).
//!
//! A Rust pointer is generic, and LLVM cannot always see that it points into shared memory; these helpers take a
//! `u32` address and are `ld.shared`/`st.shared` by construction. Sizes and offsets are in bytes.

use crate::gpu_only;

/// Alignment of the dynamic shared-memory window in bytes: what TMA's and the tensor cores' widest swizzle needs.
pub const DYNAMIC_ALIGN: u32 = 1024;

/// Declares the dynamic shared-memory window of the module, once per device crate:
/// `cuda_std::dynamic_shared_memory!();`.
///
/// The launch gives its size. [`dynamic`] is its address.
#[macro_export]
macro_rules! dynamic_shared_memory {
    () => {
        #[cfg(target_arch = "nvptx64")]
        ::core::arch::global_asm!(".extern .shared .align 1024 .b8 cuda_std_dynamic_shared[];");
    };
}

/// Address of the dynamic shared-memory window (see [`dynamic_shared_memory`]), aligned to [`DYNAMIC_ALIGN`].
///
/// # Safety
/// The crate declares the window, and the launch asks for as many bytes as are used.
#[gpu_only]
#[inline(always)]
pub unsafe fn dynamic() -> u32 {
    let address: u32;
    // SAFETY: the address of a symbol; the caller has declared it.
    unsafe {
        core::arch::asm!("mov.u32 {}, cuda_std_dynamic_shared;", out(reg32) address, options(pure, nomem, nostack));
        core::hint::assert_unchecked(address.is_multiple_of(DYNAMIC_ALIGN));
    }
    address
}

/// [`dynamic`], worked out where it is asked for: the compiler does not keep it in a register from elsewhere.
///
/// # Safety
/// As [`dynamic`].
#[gpu_only]
#[inline(always)]
pub unsafe fn dynamic_again() -> u32 {
    let address: u32;
    // SAFETY: as in `dynamic`.
    unsafe {
        core::arch::asm!("mov.u32 {}, cuda_std_dynamic_shared;", out(reg32) address, options(nomem, nostack));
        core::hint::assert_unchecked(address.is_multiple_of(DYNAMIC_ALIGN));
    }
    address
}

/// Loads a word (`ld.shared.b32`).
///
/// # Safety
/// `address` is 4-byte aligned, inside the block's shared memory, and written before.
#[gpu_only]
#[inline(always)]
pub unsafe fn load_u32(address: u32) -> u32 {
    let v: u32;
    // SAFETY: the caller vouches for the address.
    unsafe {
        core::arch::asm!("ld.shared.b32 {}, [{}];", lateout(reg32) v, in(reg32) address, options(readonly, nostack))
    }
    v
}

/// Loads two words (`ld.shared.v2.b32`).
///
/// # Safety
/// As [`load_u32`], 8-byte aligned.
#[gpu_only]
#[inline(always)]
pub unsafe fn load_v2(address: u32) -> [u32; 2] {
    let (a, b): (u32, u32);
    // SAFETY: the caller vouches for the address.
    unsafe {
        core::arch::asm!("ld.shared.v2.b32 {{{}, {}}}, [{}];",
            lateout(reg32) a, lateout(reg32) b, in(reg32) address, options(readonly, nostack));
    }
    [a, b]
}

/// Loads four words (`ld.shared.v4.b32`).
///
/// # Safety
/// As [`load_u32`], 16-byte aligned.
#[gpu_only]
#[inline(always)]
pub unsafe fn load_v4(address: u32) -> [u32; 4] {
    let (a, b, c, d): (u32, u32, u32, u32);
    // SAFETY: the caller vouches for the address.
    unsafe {
        core::arch::asm!("ld.shared.v4.b32 {{{}, {}, {}, {}}}, [{}];",
            lateout(reg32) a, lateout(reg32) b, lateout(reg32) c, lateout(reg32) d,
            in(reg32) address, options(readonly, nostack));
    }
    [a, b, c, d]
}

/// Stores a word (`st.shared.b32`).
///
/// # Safety
/// `address` is 4-byte aligned and inside the block's shared memory; no other thread uses the bytes unordered.
#[gpu_only]
#[inline(always)]
pub unsafe fn store_u32(address: u32, value: u32) {
    // SAFETY: the caller vouches for the address.
    unsafe {
        core::arch::asm!("st.shared.b32 [{}], {};", in(reg32) address, in(reg32) value, options(nostack))
    }
}

/// Stores two words (`st.shared.v2.b32`).
///
/// # Safety
/// As [`store_u32`], 8-byte aligned.
#[gpu_only]
#[inline(always)]
pub unsafe fn store_v2(address: u32, value: [u32; 2]) {
    // SAFETY: the caller vouches for the address.
    unsafe {
        core::arch::asm!("st.shared.v2.b32 [{}], {{{}, {}}};",
            in(reg32) address, in(reg32) value[0], in(reg32) value[1], options(nostack));
    }
}

/// Stores four words (`st.shared.v4.b32`).
///
/// # Safety
/// As [`store_u32`], 16-byte aligned.
#[gpu_only]
#[inline(always)]
pub unsafe fn store_v4(address: u32, value: [u32; 4]) {
    // SAFETY: the caller vouches for the address.
    unsafe {
        core::arch::asm!("st.shared.v4.b32 [{}], {{{}, {}, {}, {}}};",
            in(reg32) address, in(reg32) value[0], in(reg32) value[1], in(reg32) value[2], in(reg32) value[3],
            options(nostack));
    }
}
