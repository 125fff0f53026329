//! The memory of a forward call: one allocation per device, shared by all layers, its size known beforehand.

use kernels::{expert_decode, slots};

use super::mega::MegaWorkspace;
use super::regions::ALIGN;
use super::shape::{LayerOptions, LayerShape, Operands};
use super::shared::SharedWorkspace;
use super::{Region, Regions};
use crate::Result;
use crate::io::Stats;
use crate::options::{ActScale, ActScaleL2, Activations};

/// Most bytes of the slot results that are alive at a time: above this, L2 and the combination go through H in
/// column chunks.
pub const SLOT_RESULT_BYTES: usize = 320 << 20;
/// Columns of a chunk are a multiple of this: the rows of the widest CTA tile.
pub const CHUNK_COLUMNS: usize = 256;
/// Words of counters at the start of a workspace: those of [`Stats`] in its order but for the third
/// and fourth (invalid slots, foreign slots, non-finite rows, invalid tokens, saturated blocks of L1, of L2), and as many
/// again for slots that are not asked for (a call for the shared expert alone), of which only the non-finite rows are
/// reported. Zeroed when the workspace is made; calls only add.
pub const STATS: usize = 16;

/// Words at the start of a workspace that keep their contents from call to call: [`STATS`], then those through which blocks of
/// the decode form hand on results. Zeroed when the workspace is made. 4.2 MB.
pub const STATE: usize = STATS + expert_decode::exchange::WORDS as usize;

/// The counters in a workspace's first [`STATS`] words.
pub fn stats(words: &[u32; STATS]) -> Stats {
    let word = |n: usize| u64::from(words[n]);
    Stats {
        invalid_slots: word(0),
        foreign_slots: word(1),
        non_finite_rows: word(2) + word(STATS / 2 + 2),
        invalid_tokens: word(3),
        saturated_blocks_l1: word(4),
        saturated_blocks_l2: word(5),
    }
}

/// Where everything of a call lies in the workspace.
#[derive(Clone, Debug)]
pub struct WorkspaceLayout {
    regions: Regions,
    /// Most tokens of a call.
    pub max_tokens: usize,
    /// Columns of H that L2 computes at a time; a multiple of [`CHUNK_COLUMNS`] unless it is all of them.
    pub chunk_columns: usize,
    /// u32 `[1]`: tokens of this call, where the host gives the number.
    pub tokens: Region,
    /// u32 `[STATS]`: counters, which every call adds to; at the start of the workspace.
    pub stats: Region,
    /// u32 [`expert_decode::exchange::WORDS`], behind `stats`: what decode calls leave for each other.
    pub decode_exchange: Region,
    /// u32 `[chunks, experts]`: counts of the sort of many slots.
    pub chunk_counts: Region,
    /// u32 `[groups]`.
    pub counts: Region,
    /// u32 `[groups + 1]`.
    pub offsets: Region,
    /// u32 `[rows]`.
    pub row_token: Region,
    /// u32 `[slots]`.
    pub slot_row: Region,
    /// f32 `[tokens, experts]`; empty without a router.
    pub logits: Region,
    /// i32 `[slots]`: the model's routing.
    pub topk_ids: Region,
    /// f32 `[slots]`.
    pub topk_weights: Region,
    /// The L1 operand. f16 `[tokens or rows, k]`: one row per token, or per expert row where the scale is the expert's; or
    /// codes of the expert rows, `[rows / 128][steps][4096]` ([`Operands::Blocks`]).
    pub x: Region,
    /// E4M3 scales of the codes, `[rows / 128][steps][512]`; empty beside f16.
    pub x_block_scales: Region,
    /// f32 `[tokens or rows]`.
    pub x_scale: Region,
    /// f32 `[tokens]`: NaN where the token's row is not finite (equal to `x_scale` where that is per token).
    pub token_scale: Region,
    /// bf16 or f16 `[rows, k]`: SwiGLU's result, then the L2 operand; or the operand's codes, as `x`.
    pub h: Region,
    /// As `x_block_scales`.
    pub h_block_scales: Region,
    /// f32 `[rows, I]`: SwiGLU's result before it is quantised; empty where L1 quantises it itself ([`quantises_h`]).
    pub h_f32: Region,
    /// f32 `[rows]`.
    pub h_scale: Region,
    /// f16 `[rows, k]`: rows of L1, then of L2, as the forms by wgmma take them ([`kernels::lines`]); empty where there are none.
    /// Shares its memory with the logits before, and with the slot results behind the lines of L2.
    pub lines: Region,
    /// f32 `[rows, chunk_columns]`: slot results. They share their memory with the lines of L1.
    pub y: Region,
    /// f32 `[4]`: maxima and scales of a whole call.
    pub tensor_scales: Region,
    /// A shared expert that is apart.
    pub shared: SharedWorkspace,
    /// Counters of the mega form.
    pub mega: MegaWorkspace,
}

impl WorkspaceLayout {
    /// The layout for up to `max_tokens` tokens of a layer. A workspace serves every layer whose layout is not larger.
    pub fn new(shape: &LayerShape, options: &LayerOptions, max_tokens: usize) -> Result<Self> {
        let mut regions = Regions::new();
        let (slots, rows, groups) = (shape.slots(max_tokens), shape.rows(max_tokens), shape.groups());
        let quantised = options.activations == Activations::Nvfp4;
        let blocks = shape.operands == Operands::Blocks;
        let per_row = blocks || (quantised && options.act_scale == ActScale::Static);
        let x_rows = if per_row { rows } else { max_tokens };
        let when = |condition: bool, count: usize| if condition { count } else { 0 };
        let l1_measures = matches!(options.act_scale, ActScale::TensorDynamic | ActScale::Warmup);
        let l2_measures = matches!(options.act_scale_l2, ActScaleL2::TensorDynamic | ActScaleL2::Warmup);
        let tensor = quantised && (l1_measures || l2_measures);
        let (l1, l2) = (shape.l1(), shape.l2());
        let h_f32 = quantised && needs_h_f32(shape.operands, options, shape.limit);
        let chunk_columns = chunk_columns(shape.hidden, rows);
        // First, so that every layer finds them in the same place.
        let state = regions.add("counters", STATE, 4)?;
        let stats = Region { bytes: 4 * STATS, ..state };
        let decode_exchange = Region { offset: state.offset + stats.bytes, bytes: state.bytes - stats.bytes };
        let (by_turns, [logits, lines, y]) = ByTurns {
            logits: when(shape.router, max_tokens * shape.experts).saturating_mul(4),
            l1_lines: when(shape.wgmma, rows).saturating_mul(l1.row_bytes()),
            l2_lines: when(shape.wgmma, rows).saturating_mul(l2.row_bytes()),
            y: rows.saturating_mul(4 * chunk_columns),
        }
        .layout();
        let by_turns = regions.add("logits, token lines, slot results", by_turns, 1)?;
        let inside = |part: Region| Region { offset: by_turns.offset + part.offset, ..part };
        Ok(Self {
            max_tokens,
            chunk_columns,
            stats,
            decode_exchange,
            tokens: regions.add("token count", 1, 4)?,
            chunk_counts: regions.add("counts per chunk", slots::CHUNKS as usize * groups, 4)?,
            counts: regions.add("rows per expert", groups, 4)?,
            offsets: regions.add("expert offsets", groups + 1, 4)?,
            row_token: regions.add("token of row", rows, 4)?,
            slot_row: regions.add("row of slot", slots, 4)?,
            logits: inside(logits),
            topk_ids: regions.add("expert ids", slots, 4)?,
            topk_weights: regions.add("routing weights", when(shape.router, slots), 4)?,
            x: regions.add("L1 operand", x_rows, l1.row_bytes())?,
            x_block_scales: regions.add("L1 block scales", x_rows, l1.row_scale_bytes())?,
            x_scale: regions.add("L1 row scales", x_rows, 4)?,
            token_scale: regions.add("token scales", when(per_row, max_tokens), 4)?,
            h: regions.add("L2 operand", rows, l2.row_bytes())?,
            h_block_scales: regions.add("L2 block scales", rows, l2.row_scale_bytes())?,
            h_f32: regions.add("SwiGLU results", when(h_f32, rows * shape.intermediate), 4)?,
            h_scale: regions.add("L2 row scales", rows, 4)?,
            lines: inside(lines),
            y: inside(y),
            tensor_scales: regions.add("tensor scales", when(tensor, 4), 4)?,
            shared: SharedWorkspace::new(shape, options, max_tokens, &mut regions)?,
            mega: MegaWorkspace::new(shape, options, max_tokens, chunk_columns, &mut regions)?,
            regions,
        })
    }

    /// Size of the allocation.
    pub fn bytes(&self) -> usize {
        self.regions.bytes()
    }

    /// Every part with its name.
    pub fn regions(&self) -> &Regions {
        &self.regions
    }
}

/// Bytes of what is alive one after the other: logits until the routing is made, lines of L1 until L1 is done, then lines of
/// L2 beside slot results.
struct ByTurns {
    logits: usize,
    l1_lines: usize,
    l2_lines: usize,
    y: usize,
}

impl ByTurns {
    /// All of it, and where logits, lines and slot results lie.
    fn layout(&self) -> (usize, [Region; 3]) {
        let behind = self.l2_lines.saturating_add(ALIGN - 1) / ALIGN * ALIGN;
        let bytes = self.logits.max(self.l1_lines).max(behind.saturating_add(self.y));
        let lines = Region { offset: 0, bytes: self.l1_lines.max(self.l2_lines) };
        (bytes, [Region { offset: 0, bytes: self.logits }, lines, Region { offset: behind, bytes: self.y }])
    }
}

/// Whether L1 quantises SwiGLU's results itself, in one pass: their global scale is known beforehand, and the kernels
/// write operands of codes.
pub fn quantises_h(operands: Operands, options: &LayerOptions, limit: f32) -> bool {
    operands == Operands::Blocks
        && match options.act_scale_l2 {
            ActScaleL2::Static | ActScaleL2::Warmup => true,
            ActScaleL2::Bound => limit.is_finite(),
            ActScaleL2::RowDynamic | ActScaleL2::TensorDynamic => false,
        }
}

/// Whether SwiGLU's results are needed in f32: to be quantised by another kernel, or to be measured.
pub(super) fn needs_h_f32(operands: Operands, options: &LayerOptions, limit: f32) -> bool {
    let measures = options.act_scale == ActScale::Warmup || options.act_scale_l2 == ActScaleL2::Warmup;
    measures || !quantises_h(operands, options, limit)
}

/// As many columns as [`SLOT_RESULT_BYTES`] hold, in equal chunks.
pub(super) fn chunk_columns(hidden: usize, rows: usize) -> usize {
    let most = SLOT_RESULT_BYTES / (rows.max(1) * 4);
    if most >= hidden {
        return hidden;
    }
    let blocks = hidden.div_ceil(CHUNK_COLUMNS);
    let chunks = blocks.div_ceil((most / CHUNK_COLUMNS).max(1));
    blocks.div_ceil(chunks) * CHUNK_COLUMNS
}

#[cfg(test)]
mod tests {
    use super::super::shape::SharedKind;
    use super::*;

    fn pro() -> LayerShape {
        LayerShape {
            hidden: 7168,
            intermediate: 3072,
            experts: 384,
            local: 0..48,
            top_k: 6,
            shared: SharedKind::None,
            operands: Operands::Fragments,
            wgmma: true,
            router: true,
            limit: 10.0,
        }
    }

    #[test]
    fn pro_at_8192_tokens_fits_in_its_budget() {
        let layout = WorkspaceLayout::new(&pro(), &LayerOptions::default(), 8192).unwrap();
        assert_eq!(pro().rows(8192), 49_152);
        assert!(layout.bytes() < 1_300_000_000, "{}", layout.bytes());
        let shared = LayerShape { shared: SharedKind::Folded, ..pro() };
        let layout = WorkspaceLayout::new(&shared, &LayerOptions::default(), 8192).unwrap();
        assert!(layout.bytes() < 1_300_000_000, "{}", layout.bytes());
    }

    #[test]
    fn chunks_cover_all_columns_evenly() {
        assert_eq!(chunk_columns(7168, 6), 7168);
        for rows in [10_000, 49_152, 1 << 20] {
            let columns = chunk_columns(7168, rows);
            assert!(columns.is_multiple_of(CHUNK_COLUMNS) && columns <= 7168);
            assert!(columns == CHUNK_COLUMNS || columns * rows * 4 <= SLOT_RESULT_BYTES);
        }
        assert_eq!(chunk_columns(2880, usize::MAX / 8), 256);
    }

    #[test]
    fn size_grows_with_tokens_only() {
        let size = |tokens| WorkspaceLayout::new(&pro(), &LayerOptions::default(), tokens).unwrap().bytes();
        assert!(size(1) < size(64) && size(64) < size(8192));
        // Beside what every workspace begins with.
        assert!(size(1) - 4 * STATE < 1 << 20, "{}", size(1));
    }
}
