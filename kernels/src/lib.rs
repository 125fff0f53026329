//! The GPU kernels, in Rust.
//!
//! Compiled twice. For `nvptx64` (by `cargo xtask build-ptx`) every `#[kernel]` becomes an entry of one PTX module
//! per architecture, committed under `kernels/ptx/`. On the host it is an ordinary library on stable Rust: the
//! launch table ([`launch`]), the PTX text ([`PTX_SM_90A`], [`PTX_SM_100A`]) and the pure functions that the
//! kernels are made of, with their tests.
//!
//! One kernel, one file. Arithmetic comes from `nvfp4` alone, the very source that the host runs, so device and
//! host agree bit for bit.
#![cfg_attr(not(test), no_std)]
#![cfg_attr(target_arch = "nvptx64", feature(abi_ptx, asm_experimental_arch))]

pub mod block_rows;
pub mod combine;
pub mod count_slots;
pub mod dense;
pub mod dense_bf16_linear;
pub mod dense_bf16_swiglu;
pub mod dense_fp8_linear;
pub mod dense_fp8_swiglu;
pub mod epilogue;
pub mod expand;
pub mod expert_decode;
pub mod expert_gemm_medium;
pub mod expert_gemm_mma;
pub mod expert_gemm_small;
#[cfg(any(not(target_arch = "nvptx64"), cuda_arch = "sm_90a"))]
pub mod expert_gemm_wide;
pub mod expert_list;
pub mod fragment;
#[cfg(any(not(target_arch = "nvptx64"), cuda_arch = "sm_90a"))]
pub mod gather_lines;
pub mod group;
pub mod launch;
pub mod lines;
pub mod operand;
pub mod place_slots;
pub mod prepare_rows_bf16;
pub mod prepare_rows_nvfp4_bf16;
pub mod prepare_rows_nvfp4_f32;
pub mod quantise;
pub mod quantise_blocks_bf16;
pub mod quantise_blocks_f32;
pub mod quantize_nvfp4_rows;
pub mod read_stream;
pub mod repack_nvfp4;
pub mod repack_nvfp4_blocks;
pub mod route_tokens;
pub mod router_logits;
pub mod row;
pub mod rows_amax_bf16;
pub mod rows_amax_f32;
pub mod score;
pub mod silu;
pub mod slots;
pub mod sort_slots;
pub mod swiglu_quantize_nvfp4;
#[cfg(any(not(target_arch = "nvptx64"), cuda_arch = "sm_100a"))]
pub mod tcgen05_gemm;
#[cfg(any(not(target_arch = "nvptx64"), cuda_arch = "sm_100a"))]
pub mod tcgen05_mega;
pub mod to_f16;
pub mod weight_ring;

cuda_std::dynamic_shared_memory!();

/// PTX for Hopper (`sm_90a`), generated; see `docs/kernels.md`.
#[cfg(not(target_arch = "nvptx64"))]
pub const PTX_SM_90A: &str = include_str!("../ptx/sm_90a.ptx");

/// PTX for Blackwell (`sm_100a`), generated; see `docs/kernels.md`.
#[cfg(not(target_arch = "nvptx64"))]
pub const PTX_SM_100A: &str = include_str!("../ptx/sm_100a.ptx");
