//! NVFP4 number formats, quantisation, scale layouts and the scalar maths of a Mixture-of-Experts layer.
//!
//! One `no_std` source, compiled for the host, for the device kernels (`nvptx64`) and used by the emulator's
//! tests. Everything here is *bit-exact by construction*: the functions use only IEEE-754 binary32
//! `+ - * /`, comparisons and integer operations, never a fused multiply-add, never a platform `exp`, so that
//! the same Rust source gives the same bits on every target. `docs/numerics.md` lists every formula.
//!
//! | module | what |
//! |---|---|
//! | [`bf16`], [`e2m1`], [`e4m3`], [`e8m0`] | element codecs |
//! | [`quantize`] | two-level (block + global scale) quantisation and dequantisation |
//! | [`layout`] | the 32_4_4 scale-factor layout of tcgen05, both ways |
//! | [`offsets`] | padded expert offsets |
//! | [`math`] | `exp`, `ln_1p`, `sqrt` in plain f32 |
//! | [`swiglu`] | clamped SwiGLU |
//! | [`routing`] | router scores, top-k, weights |
//! | [`mxfp4`] | the lossless MXFP4 -> NVFP4 cast |
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod bf16;
pub mod e2m1;
pub mod e4m3;
pub mod e8m0;
pub mod layout;
pub mod math;
pub mod mxfp4;
pub mod offsets;
pub mod quantize;
pub mod routing;
pub mod swiglu;

pub use quantize::amax_bits;

/// Elements of K that share one E4M3 scale.
pub const BLOCK: usize = 16;

/// Largest finite magnitude of E2M1 times that of E4M3: `6 * 448`. A tensor whose absolute maximum is
/// `GLOBAL_RANGE * s2` uses the whole range of both levels under the global scale `s2`.
pub const GLOBAL_RANGE: f32 = 2688.0;
