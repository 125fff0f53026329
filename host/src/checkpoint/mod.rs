//! Checkpoints: safetensors files that are treated as hostile input.
//!
//! [`Checkpoint::open`] reads and checks the documents and headers, [`Checkpoint::load_layer`] the tensors of one
//! layer. The files are read by position, never mapped, and straight into the memory of the result.
//!
//! ```no_run
//! use megamoe::checkpoint::{Checkpoint, LoadOptions};
//! let checkpoint = Checkpoint::open("DeepSeek-V4-Flash-NVFP4".as_ref())?;
//! let layer = checkpoint.load_layer(3, &LoadOptions::default())?;
//! println!("{} experts of {:?}", layer.experts.len(), layer.experts[0].gate.global_scale);
//! # Ok::<(), megamoe::Error>(())
//! ```
//!
//! # What is accepted
//! **Names** (a prefix `model.`, `language_model.model.` or `model.language_model.` may come first; blocks are
//! `ffn`, `mlp` or `block_sparse_moe`; shared experts `shared_experts` or `shared_expert`):
//!
//! | form | tensors |
//! |---|---|
//! | one expert | `layers.N.BLOCK.experts.E.PROJ.SUFFIX`, or `experts.PROJ.E.SUFFIX` |
//! | gate over up | the same with `w13` or `gate_up_proj`, `[2I, H]`, one global scale or two |
//! | stacked experts | `experts.PROJ`, `experts.PROJ_SUFFIX` or `experts.PROJ.SUFFIX`, `[E, ..]`, with one global scale, `[E]` or `[E, 2]` |
//! | router | `gate.weight`, `gate.bias` or `gate.e_score_correction_bias`, `gate.tid2eid` |
//!
//! `PROJ` is `w1`, `w3`, `w2` or `gate_proj`, `up_proj`, `down_proj` for gate, up, down. Which form a matrix has
//! is decided for each by what is there; two forms of one matrix are an error.
//!
//! **Formats**, decided by dtypes and shapes:
//!
//! | format | weight | scales |
//! |---|---|---|
//! | NVFP4, ModelOpt | `weight` U8, I8 or F4 `[rows, K/2]` | `weight_scale` F8_E4M3 `[rows, K/16]`, `weight_scale_2` and optional `input_scale` F32 |
//! | NVFP4, compressed-tensors | `weight_packed`, the same | `weight_scale`, the same; `weight_global_scale` and optional `input_global_scale` F32, divisors |
//! | MXFP4 | `weight` or `weight_packed`, the same | `scale` or `weight_scale` F8_E8M0 or U8 `[rows, K/32]`, none other; cast without loss or refused |
//! | BF16 (shared expert) | `weight` BF16 | none |
//! | FP8 (shared expert) | `weight` F8_E4M3 | `scale`, `weight_scale_inv` or `weight_scale`, F8_E8M0 or F32, one per 128 x 128 or one for all |
//!
//! A multiplier is taken as stored; a divisor `d` becomes `1 / d` in f32. Both must be normal and positive.
//! Gate and up always keep their own global scales.
//!
//! **Exclude lists** (`ignore`, `exclude_modules`, ...) do not decide how a tensor is read. A routed expert that
//! is not FP4 ([`CheckpointError::NotQuantized`]) or that a list excludes although it is
//! ([`CheckpointError::ExcludedExpert`]) is an error. A shared expert is loaded as it is stored; if a list says
//! otherwise that is a warning, in [`LayerInfo::warnings`] and in the log.
//!
//! Tensors outside MoE blocks are ignored. Tensors inside that would change the result (biases of experts, zero
//! points, pre-scales, gates on shared experts) are errors.

mod config;
mod error;
mod exclude;
mod fields;
mod find;
mod header;
mod index;
mod json;
mod load;
mod names;
mod open;
mod plan;
mod quant;
mod resolve;
mod shard;
mod source;

pub use config::ModelConfig;
pub use error::{CheckpointError, Result};
pub use exclude::Pattern;
pub use load::LoadOptions;
pub use names::NameFamily;
pub use open::{Checkpoint, TensorInfo};
pub use plan::{Format, Fusion, LayerInfo, ScaleConvention};
pub use quant::QuantConfig;
pub use safetensors::Dtype;

/// The parsers of untrusted text, on bytes: for fuzzing, and for callers that have the documents elsewhere.
pub mod parse {
    pub use super::config::parse as config;
    pub use super::header::{HeaderEntry, parse as header};
    pub use super::index::{Index, parse as index};
}
