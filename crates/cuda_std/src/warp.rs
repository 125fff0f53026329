//! Warp-wide communication: shuffles, votes, reductions, election. Names after rust-cuda's `cuda_std::warp`.
//!
//! Every function here is a collective: all lanes named in `mask` must execute the same call. They are LLVM
//! intrinsics and therefore convergent; see [`crate::convergence`] for what still must not be written.

use crate::gpu_only;
#[cfg(target_arch = "nvptx64")]
use crate::nvvm;

/// All 32 lanes.
pub const FULL: u32 = 0xffff_ffff;

/// Lane of the thread in its warp, 0..32 (`%laneid`, PTX ISA, Special Registers).
#[gpu_only]
#[inline(always)]
pub fn lane_id() -> u32 {
    // SAFETY: reading a special register has no precondition, and a lane is below 32.
    unsafe {
        let v = nvvm::laneid();
        core::hint::assert_unchecked(v < 32);
        v
    }
}

/// Waits for the lanes of `mask` and orders their memory (`bar.warp.sync`, PTX ISA, Parallel Synchronization).
///
/// # Safety
/// All lanes of `mask` execute this call.
#[gpu_only]
#[inline(always)]
pub unsafe fn sync_warp(mask: u32) {
    // SAFETY: the caller's duty is the instruction's.
    unsafe { nvvm::bar_warp_sync(mask) }
}

macro_rules! shuffles {
    ($($(#[$doc:meta])* $name:ident = $intrinsic:ident($arg:ident), clamp $clamp:literal;)*) => {$(
        $(#[$doc])*
        ///
        /// # Safety
        /// All lanes of `mask` execute this call, and the lane read from is one of them.
        #[gpu_only]
        #[inline(always)]
        pub unsafe fn $name(mask: u32, value: u32, $arg: u32) -> u32 {
            // SAFETY: the caller's duty is the instruction's.
            unsafe { nvvm::$intrinsic(mask, value, $arg, $clamp) }
        }
    )*};
}

shuffles! {
    /// The value of lane `lane` (`shfl.sync.idx.b32`, PTX ISA, Data Movement).
    shuffle_idx = shfl_idx(lane), clamp 0x1f;
    /// The value of the lane whose number is this lane's XOR `bits` (`shfl.sync.bfly.b32`, PTX ISA, Data Movement).
    shuffle_xor = shfl_bfly(bits), clamp 0x1f;
    /// The value of the lane `delta` above; the top `delta` lanes keep their own (`shfl.sync.down.b32`, PTX ISA, Data Movement).
    shuffle_down = shfl_down(delta), clamp 0x1f;
    /// The value of the lane `delta` below; the bottom `delta` lanes keep their own (`shfl.sync.up.b32`, PTX ISA, Data Movement).
    shuffle_up = shfl_up(delta), clamp 0;
}

/// `value`, which is the same in all lanes, so that the compiler can see it: what follows from it takes uniform registers
/// (`shfl.sync.idx.b32` from lane 0).
///
/// # Safety
/// The whole warp calls it.
#[inline(always)]
pub unsafe fn uniform(value: u32) -> u32 {
    // SAFETY: the caller's duty.
    unsafe { shuffle_idx(FULL, value, 0) }
}

/// Whether `predicate` holds in every lane of `mask` (`vote.sync.all.pred`, PTX ISA, Parallel Synchronization).
///
/// # Safety
/// All lanes of `mask` execute this call.
#[gpu_only]
#[inline(always)]
pub unsafe fn vote_all(mask: u32, predicate: bool) -> bool {
    // SAFETY: the caller's duty is the instruction's.
    unsafe { nvvm::vote_all(mask, predicate) }
}

/// Whether `predicate` holds in some lane of `mask` (`vote.sync.any.pred`, PTX ISA, Parallel Synchronization).
///
/// # Safety
/// All lanes of `mask` execute this call.
#[gpu_only]
#[inline(always)]
pub unsafe fn vote_any(mask: u32, predicate: bool) -> bool {
    // SAFETY: the caller's duty is the instruction's.
    unsafe { nvvm::vote_any(mask, predicate) }
}

/// Bit `i` is the predicate of lane `i` (`vote.sync.ballot.b32`, PTX ISA, Parallel Synchronization).
///
/// # Safety
/// All lanes of `mask` execute this call.
#[gpu_only]
#[inline(always)]
pub unsafe fn vote_ballot(mask: u32, predicate: bool) -> u32 {
    // SAFETY: the caller's duty is the instruction's.
    unsafe { nvvm::vote_ballot(mask, predicate) }
}

macro_rules! reductions {
    ($($(#[$doc:meta])* $name:ident = $intrinsic:ident;)*) => {$(
        $(#[$doc])*
        ///
        /// # Safety
        /// All lanes of `mask` execute this call.
        #[gpu_only]
        #[inline(always)]
        pub unsafe fn $name(mask: u32, value: u32) -> u32 {
            // SAFETY: the caller's duty is the instruction's.
            unsafe { nvvm::$intrinsic(value, mask) }
        }
    )*};
}

reductions! {
    /// Wrapping sum over the lanes of `mask`, in every lane (`redux.sync.add.u32`, PTX ISA, Parallel Synchronization).
    reduce_add_u32 = redux_add;
    /// Minimum over the lanes of `mask`, in every lane (`redux.sync.min.u32`, PTX ISA, Parallel Synchronization).
    reduce_min_u32 = redux_umin;
    /// Maximum over the lanes of `mask`, in every lane (`redux.sync.max.u32`, PTX ISA, Parallel Synchronization).
    ///
    /// On the bit patterns of non-negative floats this is the float maximum, and NaN and infinity win.
    reduce_max_u32 = redux_umax;
    /// Bitwise AND over the lanes of `mask`, in every lane (`redux.sync.and.b32`, PTX ISA, Parallel Synchronization).
    reduce_and_u32 = redux_and;
    /// Bitwise OR over the lanes of `mask`, in every lane (`redux.sync.or.b32`, PTX ISA, Parallel Synchronization).
    reduce_or_u32 = redux_or;
    /// Bitwise XOR over the lanes of `mask`, in every lane (`redux.sync.xor.b32`, PTX ISA, Parallel Synchronization).
    reduce_xor_u32 = redux_xor;
}

/// The lanes of `mask` whose value is this lane's, as bits (`match.any.sync.b32`, PTX ISA, Parallel Synchronization).
///
/// # Safety
/// All lanes of `mask` execute this call.
#[gpu_only]
#[inline(always)]
pub unsafe fn match_any(mask: u32, value: u32) -> u32 {
    // SAFETY: the caller's duty is the instruction's.
    unsafe { nvvm::match_any(mask, value) }
}

/// True in exactly one lane of `mask`, the same one for the same mask (`elect.sync`, PTX ISA, Parallel Synchronization; sm_90+).
///
/// Never test the result again across a barrier: launder it with [`crate::convergence::opaque`] first.
///
/// # Safety
/// All lanes of `mask` execute this call.
#[gpu_only]
#[inline(always)]
pub unsafe fn elect(mask: u32) -> bool {
    // SAFETY: the caller's duty is the instruction's.
    unsafe { nvvm::elect(mask).1 }
}

/// Raises the register limit of the warpgroup's warps to `N` (`setmaxnreg.inc.sync.aligned.u32`,
/// PTX ISA, Miscellaneous; sm_90a, sm_100a). `N` is a multiple of 8 in 24..=256.
///
/// # Safety
/// Every warp of the warpgroup executes this call; the kernel has `.maxntid` and `.minnctapersm`; enough
/// registers have been given up by others.
#[gpu_only]
#[inline(always)]
pub unsafe fn set_max_registers_inc<const N: u32>() {
    const { assert!(N.is_multiple_of(8) && N >= 24 && N <= 256) };
    // SAFETY: the caller's duty is the instruction's.
    unsafe { nvvm::setmaxnreg_inc(N) }
}

/// Lowers the register limit of the warpgroup's warps to `N` (`setmaxnreg.dec.sync.aligned.u32`,
/// PTX ISA, Miscellaneous; sm_90a, sm_100a). `N` is a multiple of 8 in 24..=256.
///
/// # Safety
/// Every warp of the warpgroup executes this call; the kernel has `.maxntid` and `.minnctapersm`.
#[gpu_only]
#[inline(always)]
pub unsafe fn set_max_registers_dec<const N: u32>() {
    const { assert!(N.is_multiple_of(8) && N >= 24 && N <= 256) };
    // SAFETY: the caller's duty is the instruction's.
    unsafe { nvvm::setmaxnreg_dec(N) }
}
