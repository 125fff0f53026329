//! The oracle: one MoE layer in f64, token by token and slot by slot, with every rounding of the contract written
//! out as a rounding of an f64 to f32 or bf16.
//!
//! It is slow and obvious on purpose, and it shares no arithmetic with the [`cpu`](crate::cpu) backend nor with the
//! `nvfp4` crate (only data types and the names of options), so that one mistake cannot be in both: formats are
//! tables that are written down, encoders search for the nearest candidate, exponentials and logarithms are std's in
//! f64. Rounding in between, in this order:
//!
//! | stage | rounded to |
//! |---|---|
//! | logits, scores, score + bias, weights | f32 |
//! | activation scales, block ratios, steps, elements | f32 each, then the code |
//! | sums over K | f32 |
//! | `s_row * global_scale` (alpha), sum * alpha | f32 |
//! | silu, silu * up | f32; then bf16 or NVFP4 |
//! | weight * y, running sum over slots, + shared | f32 |
//! | the output | bf16 |
//!
//! [`trace`] keeps the stages, so that a backend's quantised bytes can be compared one by one.

mod check;
mod expert;
mod formats;
mod layer;
mod routing;

pub use expert::{ActivationRow, swiglu};
pub use formats::{QuantisedRow, e2m1, e4m3, encode_e2m1, encode_e4m3};
pub use layer::{SlotTrace, Trace, measure_warmup, trace};
pub use routing::Decision;

use crate::error::Result;
use crate::io::{LayerInput, LayerOutput};
use crate::options::ForwardOptions;
use crate::weights::LayerWeights;

/// Runs one layer. A Flash-sized layer takes a few tenths of a second per token.
pub fn forward(layer: &LayerWeights, input: &LayerInput<'_>, opts: &ForwardOptions) -> Result<LayerOutput> {
    Ok(trace(layer, input, opts)?.output)
}
