//! Sizes of a layer as the kernels see them.

use std::ops::Range;

use kernels::launch::Arch;
use kernels::{expert_list, fragment, operand};

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

/// How NVFP4 weights lie on the device, which decides what multiplies them and how activations reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operands {
    /// Fragment order ([`kernels::fragment`]), against rows of f16: `mma.sync` and `wgmma`.
    Fragments,
    /// Blocks ([`kernels::operand`]), against rows of codes and scales: `tcgen05.mma` of block-scaled NVFP4.
    Blocks,
}

impl Operands {
    /// Those of products with these activations on `arch`.
    pub fn of(arch: Arch, activations: Activations) -> Self {
        match (arch, activations) {
            (Arch::Sm100a, Activations::Nvfp4) => Self::Blocks,
            (Arch::Sm90a, _) | (_, Activations::Bf16) => Self::Fragments,
        }
    }

    /// Rows that a segment of an expert is padded to.
    pub fn row_tile(self) -> usize {
        match self {
            Self::Fragments => 1,
            Self::Blocks => operand::BLOCK_ROWS,
        }
    }

    /// Most experts of a grouped GEMM.
    pub fn most_groups(self) -> usize {
        match self {
            Self::Fragments => expert_list::MAX_EXPERTS as usize,
            Self::Blocks => MAX_EXPERTS + 1,
        }
    }

    /// Rows of weights of a tile.
    pub fn tile_rows(self) -> usize {
        match self {
            Self::Fragments => fragment::TILE_ROWS,
            Self::Blocks => operand::BLOCK_ROWS,
        }
    }

    /// One matrix of `rows` x `cols`.
    pub fn plain(self, rows: usize, cols: usize) -> Packed {
        Packed { operands: self, row_tiles: rows.div_ceil(self.tile_rows()), k_units: cols.div_ceil(UNIT_K) }
    }

    /// Gate and up of `features` x `cols` each, interleaved.
    pub fn gate_up(self, features: usize, cols: usize) -> Packed {
        let row_tiles = features.div_ceil(self.tile_rows() / 2);
        Packed { operands: self, row_tiles, k_units: cols.div_ceil(UNIT_K) }
    }
}

/// Columns of a unit of weights and of activations.
const UNIT_K: usize = fragment::UNIT_K;

const _: () = {
    assert!(fragment::UNIT_K == operand::STEP_K);
    assert!(fragment::GATE_UP_FEATURES == fragment::TILE_ROWS / 2);
    assert!(operand::GATE_UP_FEATURES == operand::BLOCK_ROWS / 2);
};

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
        /// Its own, if it is NVFP4.
        operands: Operands,
    },
}

/// One matrix shape as the kernels have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed {
    /// The order of its elements.
    pub operands: Operands,
    /// Tiles of 16 rows, or blocks of 128.
    pub row_tiles: usize,
    /// Units, or steps, of 64 columns.
    pub k_units: usize,
}

impl Packed {
    /// Bytes of one matrix.
    pub fn bytes(self) -> usize {
        match self.operands {
            Operands::Fragments => fragment::matrix_bytes(self.row_tiles, self.k_units),
            Operands::Blocks => operand::matrix_bytes(self.row_tiles, self.k_units),
        }
    }

    /// Elements of a row of activations, padding included.
    pub fn k(self) -> usize {
        self.k_units * UNIT_K
    }

    /// Bytes of an activation row's elements: f16, or codes.
    pub fn row_bytes(self) -> usize {
        match self.operands {
            Operands::Fragments => 2 * self.k(),
            Operands::Blocks => self.k() / 2,
        }
    }

    /// Bytes of an activation row's block scales: none beside f16.
    pub fn row_scale_bytes(self) -> usize {
        match self.operands {
            Operands::Fragments => 0,
            Operands::Blocks => self.k() / nvfp4::BLOCK,
        }
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
    /// Those of the routed experts, and of a folded shared one.
    pub operands: Operands,
    /// Whether the device has forms of the GEMMs by wgmma.
    pub wgmma: bool,
    /// Whether the layer routes by itself.
    pub router: bool,
    /// Clamp of SwiGLU; infinity without one.
    pub limit: f32,
}

impl LayerShape {
    /// The shape of `layer` under `options` on `arch`.
    pub fn new(layer: &LayerWeights, options: &LayerOptions, arch: Arch) -> Result<Self> {
        let config = &layer.config;
        let local = options.local_experts.clone().unwrap_or(0..config.experts);
        if local.start > local.end || local.end > config.experts {
            let why =
                format!("{}..{} is not a range within {} experts", local.start, local.end, config.experts);
            return Err(Error::invalid("local_experts", why));
        }
        let operands = Operands::of(arch, options.activations);
        let shared = match &layer.shared {
            None => SharedKind::None,
            Some(s) => {
                let all = [&s.gate, &s.up, &s.down].iter().all(|m| matches!(m, Linear::Nvfp4(_)));
                match config.shared_intermediate {
                    width if all && width == config.intermediate => SharedKind::Folded,
                    // Mixed with other formats it takes rows that are not quantised.
                    intermediate => SharedKind::Apart {
                        intermediate,
                        operands: if all { operands } else { Operands::Fragments },
                    },
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
            operands,
            wgmma: arch == Arch::Sm90a,
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
            ("experts of this rank", self.groups(), self.operands.most_groups()),
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

    /// Gate and up, interleaved: `[2I, H]`.
    pub fn l1(&self) -> Packed {
        self.operands.gate_up(self.intermediate, self.hidden)
    }

    /// Down: `[H, I]`.
    pub fn l2(&self) -> Packed {
        self.operands.plain(self.hidden, self.intermediate)
    }

    /// Slots of `tokens` tokens.
    pub fn slots(&self, tokens: usize) -> usize {
        tokens * self.top_k
    }

    /// Most expert rows of `tokens` tokens, without padding: every slot local, and the shared expert's.
    pub fn expert_rows(&self, tokens: usize) -> usize {
        self.slots(tokens) + self.shared_rows(tokens)
    }

    fn shared_rows(&self, tokens: usize) -> usize {
        if self.shared == SharedKind::Folded { tokens } else { 0 }
    }

    /// Most rows that the segments of `tokens` tokens take, each padded to [`Operands::row_tile`].
    ///
    /// With tiles of `t` rows, `s` slots over `m` experts that have some take at most `m + floor((s - m) / t)` tiles: one
    /// slot opens a tile of each expert, and of the others `t` are needed for another. That grows with `m`, which is at
    /// most the smaller of `s` and the local experts.
    pub fn rows(&self, tokens: usize) -> usize {
        let (tile, slots) = (self.operands.row_tile(), self.slots(tokens));
        let experts = self.local.len().min(slots);
        let routed = match self.operands {
            Operands::Fragments => slots,
            Operands::Blocks if experts == 0 => 0,
            Operands::Blocks => (experts + (slots - experts) / tile) * tile,
        };
        routed + self.shared_rows(tokens).next_multiple_of(tile)
    }
}

/// Most experts of a model.
pub const MAX_EXPERTS: usize = 1024;
/// Most experts per token.
pub const MAX_TOP_K: usize = 16;
/// Widest row that the quantisation kernels hold.
pub const MAX_WIDTH: usize = 16384;

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(local: usize, top_k: usize, shared: SharedKind) -> LayerShape {
        LayerShape {
            hidden: 64,
            intermediate: 64,
            experts: 64,
            local: 0..local,
            top_k,
            shared,
            operands: Operands::Blocks,
            wgmma: false,
            router: false,
            limit: 10.0,
        }
    }

    /// Every way to spread a few slots over a few experts, and some of many slots.
    #[test]
    fn rows_are_the_worst_case() {
        fn worst(slots: usize, experts: usize) -> usize {
            match experts {
                0 => 0,
                1 => slots.div_ceil(128),
                _ => {
                    // Counts modulo the tile matter: the most come from ones and fulls.
                    let some = [0, 1, 127, 128, 129, slots].into_iter().filter(|&n| n <= slots);
                    some.map(|n| n.div_ceil(128) + worst(slots - n, experts - 1)).max().unwrap_or(0)
                }
            }
        }
        for experts in 0..4 {
            for slots in [0, 1, 2, 3, 5, 127, 128, 129, 130, 131, 256, 257, 259, 1000] {
                let shape = shape(experts, 1, SharedKind::None);
                assert_eq!(shape.rows(slots), 128 * worst(slots, experts), "{slots} over {experts}");
            }
        }
        assert_eq!(shape(2, 1, SharedKind::Folded).rows(129), 256 + 256);
        assert_eq!(shape(64, 6, SharedKind::None).rows(1), 6 * 128);
        assert_eq!(shape(2, 1, SharedKind::Folded).expert_rows(129), 258);
    }

    #[test]
    fn operands_follow_the_device_and_the_activations() {
        assert_eq!(Operands::of(Arch::Sm100a, Activations::Nvfp4), Operands::Blocks);
        assert_eq!(Operands::of(Arch::Sm100a, Activations::Bf16), Operands::Fragments);
        assert_eq!(Operands::of(Arch::Sm90a, Activations::Nvfp4), Operands::Fragments);
        let (l1, l2) = (Operands::Blocks.gate_up(80, 192), Operands::Blocks.plain(192, 80));
        assert_eq!((l1.row_tiles, l1.k_units, l1.bytes()), (2, 3, 6 * 4608));
        assert_eq!((l2.row_tiles, l2.k_units, l2.row_bytes(), l2.row_scale_bytes()), (2, 2, 64, 8));
    }

    #[test]
    fn more_experts_than_a_list_has_room_for_are_refused() {
        let many = |experts: usize, operands| LayerShape {
            experts,
            local: 0..experts,
            operands,
            ..shape(0, 1, SharedKind::None)
        };
        assert!(many(385, Operands::Fragments).check().is_ok());
        let error = many(386, Operands::Fragments).check().unwrap_err().to_string();
        assert!(error.contains("386") && error.contains("385"), "{error}");
        assert!(many(1024, Operands::Blocks).check().is_ok());
    }
}
