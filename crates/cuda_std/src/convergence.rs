//! Keeping `.aligned` operations where they were written.
//!
//! A barrier, or any `.aligned` instruction, must be executed by all lanes of a warp from one and the same
//! program counter. LLVM moves and copies code across branches unless a call is marked `convergent`, and rustc
//! does not mark `asm!`. In `if c { load } ; barrier ; if c { a } else { b }` LLVM threads the jump and emits
//! *two* barriers, one per arm. The rules that keep this from happening:
//!
//! 1. Pointer-free collectives are LLVM intrinsics (all of [`crate::thread`], [`crate::warp`],
//!    [`crate::cluster`], [`crate::wgmma`], [`crate::tcgen05`]); they are convergent.
//! 2. The device build passes `-Zmir-enable-passes=-JumpThreading`: rustc's own pass knows no convergence.
//! 3. A collective that needs an address-space pointer stays in `asm!`, in warp-uniform control flow; and a lane
//!    predicate that is tested on both sides of it goes through [`opaque`], so that no pass can see that the two
//!    tests are the same.
//! 4. `cuda_builder` counts every `.aligned` operation of every entry against a checked-in table.

/// `value`, in a form that no compiler pass can relate to its origin (`mov.b32`, PTX ISA, Data Movement).
#[inline(always)]
pub fn opaque(value: bool) -> bool {
    opaque_u32(u32::from(value)) != 0
}

/// `value`, in a form that no compiler pass can relate to its origin: a constant becomes an unknown number.
#[cfg_attr(not(target_arch = "nvptx64"), allow(unused_mut))]
#[inline(always)]
pub fn opaque_u32(value: u32) -> u32 {
    let mut value = value;
    #[cfg(target_arch = "nvptx64")]
    // SAFETY: an empty move of a register onto itself.
    unsafe {
        core::arch::asm!("mov.b32 {0}, {0};", inout(reg32) value, options(nomem, nostack, preserves_flags));
    }
    value
}

#[cfg(test)]
mod tests {
    #[test]
    fn opaque_is_the_identity() {
        assert!(super::opaque(true));
        assert!(!super::opaque(false));
    }
}
