//! `megamoe`: a Mixture-of-Experts layer engine for NVFP4 checkpoints (E2M1 values, one E4M3 scale per 16
//! along K, an f32 global scale), for DeepSeek-V4-style models.
//!
//! ```text
//! checkpoint -> weights::LayerWeights -> backend (cpu | oracle | ...) -> io::LayerOutput
//! ```
//!
//! * [`checkpoint`] loads one layer from safetensors files, treating them as hostile input;
//! * [`weights`] holds it, packed as stored;
//! * [`cpu`] runs it, on every core;
//! * [`oracle`] runs it again, slowly and obviously, in f64, mirroring every rounding that the contract
//!   (`docs/numerics.md`) names; it shares no arithmetic with [`cpu`];
//! * [`verify`] compares backends with the oracle; [`diagnose`] inspects real tensors for the known ways in
//!   which NVFP4 checkpoints and kernels go wrong.

#[cfg(feature = "cuda")]
pub mod bench;
pub mod checkpoint;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod diagnose;
#[cfg(feature = "emulator")]
pub mod emulator;
mod error;
pub mod io;
pub mod metrics;
pub mod options;
pub mod oracle;
pub mod runtime;
pub mod verify;
pub mod weights;

pub use error::{Error, Result};
