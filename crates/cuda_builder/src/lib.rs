//! Rust crate in, checked PTX out, through rustc's own `nvptx64-nvidia-cuda` backend.
//!
//! ```no_run
//! use cuda_builder::{Arch, CudaBuilder};
//! let ptx = CudaBuilder::new("kernels").arch(Arch::Sm90a).copy_to("kernels.ptx").build()?;
//! # Ok::<(), cuda_builder::CudaBuilderError>(())
//! ```
//!
//! # For a rust-cuda user
//! The same: the name, `CudaBuilder::new(path).arch(..).copy_to(..).build()`, and that it gives the path of one
//! PTX module for one crate. Different, and why:
//!
//! * No code generator to install. rust-cuda's `cuda_builder` drives `rustc_codegen_nvvm` (a pinned nightly, LLVM
//!   7, an NVVM dialect that does not reach compute_100). This one drives an ordinary rustc that has `rust-src`
//!   ([`toolchain`]), with `-Zbuild-std=core`, fat LTO and `--emit=asm`: the assembly of the crate *is* its PTX.
//! * The PTX is finished and checked before it is handed out: launch bounds are written into it ([`ptx_edit`]),
//!   and a lint ([`lint`]) refuses what rustc or LLVM can silently do to a kernel.
//! * The result can be committed: it has no machine paths, is the same from build to build, and carries the digest
//!   of the sources it came from ([`digest`]), so that users need no kernel compiler at all.
//! * There are no options for ftz, fast division or contraction: bit-exact arithmetic is the point.
//!
//! `cargo xtask build-ptx` is [`module::build_all`]; `--check` is [`module::check_all`].

pub mod aligned;
mod arch;
mod builder;
pub mod compile;
pub mod digest;
mod error;
pub mod lint;
pub mod module;
pub mod ptx;
pub mod ptx_edit;
pub mod ptxas;
pub mod sass;
pub mod toolchain;
pub mod tools;

pub use arch::Arch;
pub use builder::{BuiltModule, CudaBuilder};
pub use error::CudaBuilderError;
