//! The weights of one MoE layer, on the host, packed as the checkpoint stores them.
//!
//! All matrices are row-major `[rows = out features, cols = in features]`; K is the column axis.

use half::bf16;
use nvfp4::routing::Scoring;

mod quantise;

/// Sizes and constants of a layer, validated by the loader.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerConfig {
    /// Model width H.
    pub hidden: usize,
    /// Width I of a routed expert.
    pub intermediate: usize,
    /// Routed experts E.
    pub experts: usize,
    /// Experts per token K.
    pub top_k: usize,
    /// Width of the shared expert (`n_shared_experts * I`), 0 without one.
    pub shared_intermediate: usize,
    /// Score function of the router.
    pub scoring: Scoring,
    /// Whether weights are divided by their sum.
    pub norm_topk_prob: bool,
    /// Factor on the routing weights.
    pub routed_scaling_factor: f32,
    /// Clamp L of SwiGLU; `None` = no clamp.
    pub swiglu_limit: Option<f32>,
    /// Size of the token-id space (rows of `tid2eid`).
    pub vocab_size: usize,
}

impl LayerConfig {
    /// The clamp as a number: `+inf` without one.
    pub fn limit(&self) -> f32 {
        self.swiglu_limit.unwrap_or(f32::INFINITY)
    }
}

/// An NVFP4 weight: `w[n][k] = e2m1 * e4m3(scales[n][k / 16]) * global_scale`.
#[derive(Clone, Debug, PartialEq)]
pub struct Nvfp4Matrix {
    /// Out features.
    pub rows: usize,
    /// In features (K), a multiple of 16.
    pub cols: usize,
    /// `[rows, cols / 2]`, low nibble = even k.
    pub packed: Box<[u8]>,
    /// `[rows, cols / 16]` E4M3, row-major (not swizzled), each valid (not NaN, not negative).
    pub scales: Box<[u8]>,
    /// The f32 global scale as a multiplier (ModelOpt's `weight_scale_2`; the reciprocal of
    /// compressed-tensors' `weight_global_scale`): finite, normal, positive.
    pub global_scale: f32,
    /// The activation global scale from calibration, as a multiplier, if the checkpoint has one.
    pub input_scale: Option<f32>,
}

/// A bf16 weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Bf16Matrix {
    /// Out features.
    pub rows: usize,
    /// In features.
    pub cols: usize,
    /// `[rows, cols]`.
    pub data: Box<[bf16]>,
}

/// An FP8 weight: `w[n][k] = f32(e4m3(data[n][k]) * scales[n / 128][k / 128])`, rounded once to f32 (exact for
/// E8M0 scales).
#[derive(Clone, Debug, PartialEq)]
pub struct Fp8Matrix {
    /// Out features.
    pub rows: usize,
    /// In features.
    pub cols: usize,
    /// `[rows, cols]` E4M3FN codes.
    pub data: Box<[u8]>,
    /// `[ceil(rows / 128), ceil(cols / 128)]` f32 (E8M0 scales are widened), finite and positive.
    pub scales: Box<[f32]>,
}

/// Rows and columns that share one scale of an [`Fp8Matrix`].
pub const FP8_BLOCK: usize = 128;

/// The weight of a linear map in one of the supported formats.
#[derive(Clone, Debug, PartialEq)]
pub enum Linear {
    /// NVFP4 (also MXFP4, by the lossless cast).
    Nvfp4(Nvfp4Matrix),
    /// bf16.
    Bf16(Bf16Matrix),
    /// FP8 with 128x128 scales.
    Fp8(Fp8Matrix),
}

impl Linear {
    /// `(out features, in features)`.
    pub fn shape(&self) -> (usize, usize) {
        match self {
            Linear::Nvfp4(m) => (m.rows, m.cols),
            Linear::Bf16(m) => (m.rows, m.cols),
            Linear::Fp8(m) => (m.rows, m.cols),
        }
    }

    /// Short name of the format.
    pub fn format(&self) -> &'static str {
        match self {
            Linear::Nvfp4(_) => "NVFP4",
            Linear::Bf16(_) => "BF16",
            Linear::Fp8(_) => "FP8",
        }
    }
}

/// One routed expert. Gate and up keep their own global scales: two alphas, applied before the clamp.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpertWeights {
    /// `w1`, `[I, H]`.
    pub gate: Nvfp4Matrix,
    /// `w3`, `[I, H]`.
    pub up: Nvfp4Matrix,
    /// `w2`, `[H, I]`.
    pub down: Nvfp4Matrix,
}

/// The shared expert; every token passes through it with weight 1.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedExpertWeights {
    /// `[shared_intermediate, H]`.
    pub gate: Linear,
    /// `[shared_intermediate, H]`.
    pub up: Linear,
    /// `[H, shared_intermediate]`.
    pub down: Linear,
}

/// How the router selects experts.
#[derive(Clone, Debug, PartialEq)]
pub enum Selection {
    /// Largest score + bias; weights from the unbiased scores.
    TopK {
        /// `[experts]` f32, if the checkpoint has one.
        bias: Option<Box<[f32]>>,
    },
    /// A table by token id; weights from the scores of the table's experts.
    Hash {
        /// `[vocab_size, top_k]` global expert ids, each in `0..experts`.
        tid2eid: Box<[i32]>,
    },
}

/// Router weights.
#[derive(Clone, Debug, PartialEq)]
pub struct RouterWeights {
    /// `[experts, hidden]`, f32 (bf16 checkpoints are widened, exactly).
    pub weight: Box<[f32]>,
    /// Selection rule.
    pub selection: Selection,
}

/// One MoE layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerWeights {
    /// Layer index in the model.
    pub layer: usize,
    /// Sizes and constants.
    pub config: LayerConfig,
    /// `experts` entries.
    pub experts: Vec<ExpertWeights>,
    /// The shared expert, if the model has one.
    pub shared: Option<SharedExpertWeights>,
    /// The router; `None` where only given routing is used (a test, or an engine with its own router).
    pub router: Option<RouterWeights>,
}
