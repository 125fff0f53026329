//! Device-side standard library for kernels compiled by rustc's own `nvptx64-nvidia-cuda` backend.
//!
//! # For a rust-cuda user
//! The same: the name, `#[kernel]`, `#[gpu_only]`, `thread::*`, `warp::*`, `shared`, and that a kernel is an
//! `unsafe fn` over raw pointers and `Copy` scalars. Different, and why:
//!
//! * The compiler. rust-cuda's `cuda_std` needs its own code generator (a pinned nightly with rustc internals and
//!   LLVM 7, whose NVVM dialect does not reach compute_100). This crate is plain Rust over the in-tree backend.
//! * `#[kernel(bounds = ..)]` carries the launch bounds; rust-cuda has none.
//! * `shared` gives 32-bit shared-window addresses instead of references: a generic Rust pointer into shared
//!   memory would compile to generic `ld`/`st`.
//! * Collectives (barriers, shuffles, votes) are LLVM intrinsics, which LLVM knows to be convergent. `asm!` is
//!   not: LLVM may copy an `asm!` barrier into both arms of a later branch. See [`convergence`].
//! * No allocator, no `print!`, no panics with messages: a panic traps.
//!
//! # On the host
//! The crate builds on stable Rust for any target. Device functions marked [`gpu_only`] keep their signature and
//! panic when called, so kernel crates type-check, lint and document as ordinary libraries.
//!
//! Every item names its instruction and the chapter of the PTX ISA document that defines it.
#![cfg_attr(target_arch = "nvptx64", no_std)]
#![cfg_attr(
    target_arch = "nvptx64",
    feature(asm_experimental_arch, link_llvm_intrinsics, abi_unadjusted, intrinsics),
    allow(internal_features)
)]

pub use cuda_std_macros::{gpu_only, kernel};

pub mod atomic;
pub mod bulk;
pub mod cluster;
pub mod convergence;
pub mod cp_async;
pub mod fence;
pub mod global;
pub mod grid;
pub mod half;
pub mod launch;
pub mod math;
pub mod mbarrier;
pub mod mma;
mod nvvm;
#[cfg(target_arch = "nvptx64")]
mod panic;
pub mod shared;
pub mod tcgen05;
pub mod thread;
pub mod warp;
pub mod wgmma;
pub mod wgmma_rs;

/// What a kernel file imports.
pub mod prelude {
    pub use crate::convergence::opaque;
    pub use crate::launch::LaunchBounds;
    pub use crate::{global, math, shared, thread, warp};
    pub use crate::{gpu_only, kernel};
}
