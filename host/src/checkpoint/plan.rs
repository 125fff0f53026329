//! What is read for one layer, and from where: found and checked before any byte of data is read.

use super::names::NameFamily;
use crate::weights::LayerConfig;

/// A run of bytes in a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// Position in the checkpoint's tensors.
    pub tensor: usize,
    /// First byte, from the start of the tensor.
    pub offset: u64,
    /// Number of bytes.
    pub bytes: u64,
}

/// One f32 of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scalar {
    /// Position in the checkpoint's tensors.
    pub tensor: usize,
    /// Index of the element.
    pub element: u64,
    /// Whether its reciprocal is meant.
    pub divisor: bool,
}

/// Where a matrix comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatrixPlan {
    /// NVFP4.
    Nvfp4 { rows: usize, cols: usize, packed: Source, scales: Source, global: Scalar, input: Option<Scalar> },
    /// MXFP4, to be cast.
    Mxfp4 { rows: usize, cols: usize, packed: Source, codes: Source, input: Option<Scalar> },
    /// BF16.
    Bf16 { rows: usize, cols: usize, data: Source },
    /// FP8 with 128 x 128 scales, or one scale for all.
    Fp8 { rows: usize, cols: usize, data: Source, scales: Source, e8m0: bool, per_tensor: bool },
}

impl MatrixPlan {
    /// Bytes that are read.
    pub fn bytes(&self) -> u64 {
        let scalars = |input: &Option<Scalar>| 4 * u64::from(input.is_some());
        match self {
            Self::Nvfp4 { packed, scales, input, .. } => packed.bytes + scales.bytes + 4 + scalars(input),
            Self::Mxfp4 { packed, codes, input, .. } => packed.bytes + codes.bytes + scalars(input),
            Self::Bf16 { data, .. } => data.bytes,
            Self::Fp8 { data, scales, .. } => data.bytes + scales.bytes,
        }
    }

    /// Tensors that are read.
    fn tensors(&self) -> impl Iterator<Item = usize> + use<> {
        let scalar = |s: Option<Scalar>| s.map(|s| s.tensor);
        let tensors = match *self {
            Self::Nvfp4 { packed, scales, global, input, .. } => {
                [Some(packed.tensor), Some(scales.tensor), Some(global.tensor), scalar(input)]
            }
            Self::Mxfp4 { packed, codes, input, .. } => {
                [Some(packed.tensor), Some(codes.tensor), scalar(input), None]
            }
            Self::Bf16 { data, .. } => [Some(data.tensor), None, None, None],
            Self::Fp8 { data, scales, .. } => [Some(data.tensor), Some(scales.tensor), None, None],
        };
        tensors.into_iter().flatten()
    }

    /// The calibrated activation scale.
    pub fn input(&self) -> Option<Scalar> {
        match self {
            Self::Nvfp4 { input, .. } | Self::Mxfp4 { input, .. } => *input,
            _ => None,
        }
    }

    /// The stored format.
    pub fn format(&self) -> Format {
        match self {
            Self::Nvfp4 { .. } => Format::Nvfp4,
            Self::Mxfp4 { .. } => Format::Mxfp4,
            Self::Bf16 { .. } => Format::Bf16,
            Self::Fp8 { .. } => Format::Fp8,
        }
    }
}

/// Gate, up and down.
pub type Triple = [MatrixPlan; 3];

/// Where the router comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouterPlan {
    /// BF16 or F32 `[experts, hidden]`.
    pub weight: Source,
    /// BF16 or F32 `[experts]`.
    pub bias: Option<Source>,
    /// I64 or I32 `[vocab, top_k]`, on hash layers.
    pub table: Option<Source>,
}

impl RouterPlan {
    fn sources(&self) -> impl Iterator<Item = Source> + use<> {
        [Some(self.weight), self.bias, self.table].into_iter().flatten()
    }

    /// Bytes that are read.
    pub fn bytes(&self) -> u64 {
        self.sources().map(|s| s.bytes).sum()
    }
}

/// Where a layer comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerPlan {
    /// Layer index.
    pub layer: usize,
    /// Sizes.
    pub config: LayerConfig,
    /// Routed experts.
    pub experts: Vec<Triple>,
    /// Shared expert.
    pub shared: Option<Triple>,
    /// Router.
    pub router: RouterPlan,
    /// For people.
    pub info: LayerInfo,
}

impl LayerPlan {
    fn matrices(&self) -> impl Iterator<Item = &MatrixPlan> {
        self.experts.iter().chain(&self.shared).flatten()
    }

    /// Bytes that are read.
    pub fn bytes(&self) -> u64 {
        self.matrices().map(MatrixPlan::bytes).sum::<u64>() + self.router.bytes()
    }

    /// Tensors that are read.
    pub fn tensors(&self) -> impl Iterator<Item = usize> {
        self.matrices().flat_map(MatrixPlan::tensors).chain(self.router.sources().map(|s| s.tensor))
    }
}

/// A stored format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// E2M1, an E4M3 scale per 16, an f32 global scale.
    Nvfp4,
    /// E2M1, an E8M0 scale per 32.
    Mxfp4,
    /// bf16.
    Bf16,
    /// E4M3, a scale per 128 x 128.
    Fp8,
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(match self {
            Format::Nvfp4 => "NVFP4",
            Format::Mxfp4 => "MXFP4",
            Format::Bf16 => "BF16",
            Format::Fp8 => "FP8",
        })
    }
}

/// How global scales are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScaleConvention {
    /// `weight_scale_2`, a multiplier.
    Multiplier,
    /// `weight_global_scale`, a divisor.
    Divisor,
    /// None (MXFP4).
    None,
}

impl std::fmt::Display for ScaleConvention {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(match self {
            ScaleConvention::Multiplier => "ModelOpt (weight_scale_2, a multiplier)",
            ScaleConvention::Divisor => "compressed-tensors (weight_global_scale, a divisor)",
            ScaleConvention::None => "MXFP4 (no global scale)",
        })
    }
}

/// How gate and up, and experts, are stored together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fusion {
    /// One tensor per expert and projection.
    Separate,
    /// Gate over up, per expert.
    GateUp,
    /// Experts stacked, gate and up apart.
    Stacked,
    /// Experts stacked, gate over up.
    StackedGateUp,
}

impl std::fmt::Display for Fusion {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(match self {
            Fusion::Separate => "separate",
            Fusion::GateUp => "gate and up fused",
            Fusion::Stacked => "experts stacked",
            Fusion::StackedGateUp => "experts stacked, gate and up fused",
        })
    }
}

/// How a layer is stored, for people: what [`super::Checkpoint::layer_info`] found without reading data.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LayerInfo {
    /// Prefix of the block's tensors, such as `model.layers.3.mlp`.
    pub block: String,
    /// Naming of the projections.
    pub family: Option<NameFamily>,
    /// Format of the routed experts (of the first one's gate).
    pub experts: Format,
    /// Global scales of the routed experts.
    pub convention: ScaleConvention,
    /// Fusion of the routed experts.
    pub fusion: Fusion,
    /// Whether every projection of every routed expert has a calibrated activation scale.
    pub input_scales: bool,
    /// Format of the shared expert's gate.
    pub shared: Option<Format>,
    /// Whether the layer routes by table.
    pub hash: bool,
    /// Whether the router has a selection bias.
    pub bias: bool,
    /// Bytes that loading reads.
    pub bytes: u64,
    /// Oddities that do not keep the layer from loading.
    pub warnings: Vec<String>,
}
