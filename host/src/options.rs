//! Per-layer choices: activation format, activation scales, which part runs, which experts are local.

use std::ops::Range;

/// Format of the activations that enter the two GEMMs of an NVFP4 expert.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Activations {
    /// W4A16: bf16 rows as they come; the SwiGLU result is rounded to bf16.
    #[default]
    Bf16,
    /// W4A4: rows quantised to NVFP4 in front of each GEMM.
    Nvfp4,
}

/// Where the global scale of an L1 activation row comes from (only with [`Activations::Nvfp4`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ActScale {
    /// `amax(row) / 2688`, per row: batch-invariant.
    #[default]
    RowDynamic,
    /// `amax(all rows of the call) / 2688`; rows with NaN or Inf are left out of the maximum.
    TensorDynamic,
    /// The checkpoint's `input_scale` of the expert that the row goes to (the larger one of gate's and up's).
    Static,
    /// A constant measured once, before: [`WarmupScales`].
    Warmup,
}

/// Where the global scale of an L2 activation row (the SwiGLU result) comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ActScaleL2 {
    /// The constant [`nvfp4::swiglu::bound_scale`] of the clamp; without a clamp, as `RowDynamic`.
    #[default]
    Bound,
    /// `amax(row) / 2688`, per slot row.
    RowDynamic,
    /// `amax(all slot rows of the call) / 2688` (routed and shared experts apart); rows with NaN or Inf are
    /// left out.
    TensorDynamic,
    /// The checkpoint's `input_scale` of the expert's down projection.
    Static,
    /// A constant measured once, before.
    Warmup,
}

/// Constant global scales measured over a calibration batch, for [`ActScale::Warmup`] and
/// [`ActScaleL2::Warmup`]: each is the `TensorDynamic` scale of that batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WarmupScales {
    /// L1, routed and shared experts alike (both see the same rows).
    pub l1: f32,
    /// L2 of the routed experts.
    pub l2_routed: f32,
    /// L2 of the shared expert.
    pub l2_shared: f32,
}

/// Which part of the layer is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Part {
    /// Routed experts plus the shared expert, if the layer has one.
    #[default]
    All,
    /// Routed experts only.
    Routed,
    /// The shared expert only.
    Shared,
}

/// Options of one forward call.
#[derive(Clone, Debug, Default)]
pub struct ForwardOptions {
    /// Activation format.
    pub activations: Activations,
    /// Global scale of L1 activations.
    pub act_scale: ActScale,
    /// Global scale of L2 activations.
    pub act_scale_l2: ActScaleL2,
    /// Part to compute.
    pub part: Part,
    /// The experts of this rank; `None` for all. Slots routed elsewhere are skipped and counted.
    pub local_experts: Option<Range<usize>>,
    /// Needed by the `Warmup` scales.
    pub warmup: Option<WarmupScales>,
}
