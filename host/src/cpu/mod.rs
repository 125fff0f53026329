//! The CPU backend: one MoE layer on every core, bit for bit as the contract in `docs/numerics.md` says.
//!
//! Every dot product adds in one fixed order (sixteen partial sums, then a fixed tree), whatever the batch, the
//! blocking, the number of threads and the instruction set (AVX-512, AVX2 or plain Rust, chosen at run time), so that
//! results are bitwise reproducible and a token gives the same bits alone and in a batch. The exceptions are the
//! `TensorDynamic` scales, which depend on the batch by definition.
//!
//! Weights stay packed. A task decodes four rows at a time into the first-level cache and multiplies them with all
//! rows of its expert; tasks are (expert, 16 columns) for L1 and 32 output columns of all experts for L2, so that one
//! hot expert keeps every core as busy as many cold ones.
//!
//! One layer of DeepSeek-V4-Flash (H 4096, I 2048, E 256, K 6, NVFP4 shared expert), random weights, W4A16 (W4A4 is
//! within 10 %), by `examples/cpu_bench.rs`. CPU time per call, measured on two cores of a busy AMD EPYC (Zen 4); the
//! work splits evenly, so the wall time of two idle cores is about half:
//!
//! | tokens | AVX-512, routed | AVX-512, all to 6 experts | plain x86-64, routed | all to 6 |
//! |---|---|---|---|---|
//! | 1 | 30 ms | 30 ms | 60 ms | 60 ms |
//! | 8 | 170 ms | 62 ms | 385 ms | 130 ms |
//! | 64 | 992 ms | 320 ms | 2280 ms | 820 ms |
//! | 512 | 3305 ms | 2540 ms | | |
//!
//! Besides the packed weights and the output, a call holds 6 bytes per slot and intermediate column, the quantised
//! rows (2 bytes per element), and per thread less than 1 MiB plus 256 bytes per slot.
//!
//! Beyond the contract:
//! * a token with NaN or infinity takes no part in the GEMMs; its output is NaN in every part, also on a rank that
//!   has none of its experts;
//! * the sum over ranks of [`Part::Routed`](crate::options::Part::Routed) is the whole routed part; a rank that runs
//!   [`Part::All`](crate::options::Part::All) adds the shared expert each time;
//! * `saturated_blocks_*` are counted under the constant scales (`Static`, `Warmup`, `Bound`), once per row that is
//!   quantised: per token, or per slot where the scale belongs to the expert.

mod check;
mod dequant;
mod gemm;
mod lanes;
mod layer;
mod linear;
mod mlp;
mod router;
mod rows;
pub(crate) mod scales;
mod shared;
mod simd;
mod slots;
#[cfg(test)]
mod tests;

pub use linear::{LinearMode, Nvfp4GroupedLinear, Nvfp4Linear, RowScale};
pub use router::Router;
pub use shared::SharedExpert;
pub use slots::{NONE, SlotPlan};

use crate::error::Result;
use crate::io::{LayerInput, LayerOutput};
use crate::options::{ForwardOptions, WarmupScales};
use crate::weights::LayerWeights;

/// Runs one layer. Parallel over the current rayon pool; any number of tokens, 0 included.
pub fn forward(layer: &LayerWeights, input: &LayerInput<'_>, opts: &ForwardOptions) -> Result<LayerOutput> {
    layer::forward(simd::Isa::detect(), layer, input, opts)
}

/// The `TensorDynamic` scales of this batch, for [`ForwardOptions::warmup`]: L1 from the rows, L2 from the SwiGLU
/// results that L1 gives as `opts` configures it (where `Warmup` means the L1 scale just measured). `opts.part` is
/// ignored: everything the layer has is measured. The scale of a shared expert that is not NVFP4 is 0 and not used.
pub fn measure_warmup(
    layer: &LayerWeights,
    input: &LayerInput<'_>,
    opts: &ForwardOptions,
) -> Result<WarmupScales> {
    layer::measure_warmup(simd::Isa::detect(), layer, input, opts)
}
