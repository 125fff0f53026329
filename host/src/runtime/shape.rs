//! Sizes of a layer as the kernels see them.

use std::ops::Range;

use kernels::fragment;

use crate::options::{ActScale, ActScaleL2, Activations, ForwardOptions, Part, WarmupScales};
use crate::weights::{LayerWeights, Linear};
use crate::{Error, Result};

/// Choices that are made when a layer is loaded: they decide what is prepared and which kernels run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LayerOptions {
    /// Format of the activations.
    pub activations: Activations,
    /// Global scale of L1 rows (only with [`Activations::Nvfp4`]).
    pub act_scale: ActScale,
    /// Global scale of L2 rows (only with [`Activations::Nvfp4`]).
    pub act_scale_l2: ActScaleL2,
    /// The experts of this rank; `None` for all.
    pub local_experts: Option<Range<usize>>,
    /// Needed by the `Warmup` scales.
    pub warmup: Option<WarmupScales>,
}

impl LayerOptions {
    /// As options of a call of the other backends.
    pub fn forward(&self) -> ForwardOptions {
        ForwardOptions {
            activations: self.activations,
            act_scale: self.act_scale,
            act_scale_l2: self.act_scale_l2,
            part: Part::All,
            local_experts: self.local_experts.clone(),
            warmup: self.warmup,
        }
    }
}

impl From<&ForwardOptions> for LayerOptions {
    fn from(options: &ForwardOptions) -> Self {
        Self {
            activations: options.activations,
            act_scale: options.act_scale,
            act_scale_l2: options.act_scale_l2,
            local_experts: options.local_experts.clone(),
            warmup: options.warmup,
        }
    }
}

/// Where the shared expert is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SharedKind {
    /// There is none.
    None,
    /// NVFP4 and as wide as a routed expert: one more expert of the grouped GEMMs, which takes every token.
    Folded,
    /// bf16 or FP8, or of another width: its own kernels.
    Apart {
        /// Its width.
        intermediate: usize,
    },
}

/// One matrix shape in fragment order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed {
    /// Tiles of 16 rows.
    pub row_tiles: usize,
    /// Units of 64 columns.
    pub k_units: usize,
}

impl Packed {
    /// Bytes of one matrix.
    pub fn bytes(self) -> usize {
        self.row_tiles * self.k_units * fragment::UNIT_BYTES
    }

    /// Elements of a row of activations, padding included.
    pub fn k(self) -> usize {
        self.k_units * fragment::UNIT_K
    }
}

/// Sizes of a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerShape {
    /// Model width H.
    pub hidden: usize,
    /// Width I of a routed expert.
    pub intermediate: usize,
    /// Experts of the model.
    pub experts: usize,
    /// Experts of this rank.
    pub local: Range<usize>,
    /// Experts per token.
    pub top_k: usize,
    /// The shared expert.
    pub shared: SharedKind,
    /// Whether the layer routes by itself.
    pub router: bool,
    /// Clamp of SwiGLU; infinity without one.
    pub limit: f32,
}

impl LayerShape {
    /// The shape of `layer` under `options`.
    pub fn new(layer: &LayerWeights, options: &LayerOptions) -> Result<Self> {
        let config = &layer.config;
        let local = options.local_experts.clone().unwrap_or(0..config.experts);
        if local.start > local.end || local.end > config.experts {
            let why =
                format!("{}..{} is not a range within {} experts", local.start, local.end, config.experts);
            return Err(Error::invalid("local_experts", why));
        }
        let shared = match &layer.shared {
            None => SharedKind::None,
            Some(s) => {
                let all = [&s.gate, &s.up, &s.down].iter().all(|m| matches!(m, Linear::Nvfp4(_)));
                match config.shared_intermediate {
                    width if all && width == config.intermediate => SharedKind::Folded,
                    intermediate => SharedKind::Apart { intermediate },
                }
            }
        };
        let shape = Self {
            hidden: config.hidden,
            intermediate: config.intermediate,
            experts: config.experts,
            local,
            top_k: config.top_k,
            shared,
            router: layer.router.is_some(),
            limit: config.limit(),
        };
        shape.check()?;
        Ok(shape)
    }

    /// Whether the kernels can do it.
    fn check(&self) -> Result<()> {
        for (what, k) in [("hidden size", self.hidden), ("intermediate size", self.intermediate)] {
            if k == 0 || !k.is_multiple_of(16) {
                return Err(Error::invalid(what, format!("{k} is not a positive multiple of 16")));
            }
        }
        let limits = [
            ("experts", self.experts, MAX_EXPERTS),
            ("experts per token", self.top_k, MAX_TOP_K),
            ("hidden size", self.hidden, MAX_WIDTH),
            ("intermediate size", self.intermediate, MAX_WIDTH),
        ];
        for (what, got, most) in limits {
            if got > most {
                return Err(Error::unsupported(
                    format!("{what} of {got}"),
                    format!("the kernels go up to {most}"),
                ));
            }
        }
        Ok(())
    }

    /// Experts of the grouped GEMMs: the local ones, and the shared one if it is folded.
    pub fn groups(&self) -> usize {
        self.local.len() + usize::from(self.shared == SharedKind::Folded)
    }

    /// Gate and up, interleaved by features of 8: `[2I, H]`.
    pub fn l1(&self) -> Packed {
        Packed { row_tiles: self.intermediate.div_ceil(8), k_units: self.hidden.div_ceil(fragment::UNIT_K) }
    }

    /// Down: `[H, I]`.
    pub fn l2(&self) -> Packed {
        Packed { row_tiles: self.hidden.div_ceil(16), k_units: self.intermediate.div_ceil(fragment::UNIT_K) }
    }

    /// Slots of `tokens` tokens.
    pub fn slots(&self, tokens: usize) -> usize {
        tokens * self.top_k
    }

    /// Most expert rows of `tokens` tokens: every slot local, and the shared expert's.
    pub fn rows(&self, tokens: usize) -> usize {
        let shared = if self.shared == SharedKind::Folded { tokens } else { 0 };
        self.slots(tokens) + shared
    }
}

/// Most experts of a model.
pub const MAX_EXPERTS: usize = 1024;
/// Most experts per token.
pub const MAX_TOP_K: usize = 16;
/// Widest row that the quantisation kernels hold.
pub const MAX_WIDTH: usize = 16384;
