//! Operands of the block-scaled MMA of Blackwell (`tcgen05.mma.kind::mxf4nvf4`) in global memory: the very bytes that
//! shared memory must hold, so that a tile is brought by one-dimensional bulk copies and needs no tensor map.
//!
//! K is cut into steps of [`STEP_K`] columns, the K of one instruction; rows into blocks of [`BLOCK_ROWS`].
//!
//! * Codes of a block and a step, [`STEP_CODE_BYTES`]: K-major without swizzle (PTX ISA, tcgen05 matrix descriptor,
//!   canonical layouts): 8 rows x 16 bytes lie together, then the step's second 16 bytes of the same rows, then the
//!   next 8 rows ([`code_offset`]). Leading-dimension offset [`LEADING_BYTES`], stride offset [`STRIDE_BYTES`]. The
//!   first `n` rows of a block, `n` a multiple of 8, are a prefix. Low nibble = even k.
//! * Scales of a block and a step, [`STEP_SCALE_BYTES`]: one tile of the 32_4_4 layout ([`nvfp4::layout`]), the source
//!   of one `tcgen05.cp.32x128b.warpx4`.
//!
//! Weights: `[matrix][row block][step]` units of [`UNIT_BYTES`], codes then scales, so a row block is one stream.
//! Activations: codes `[row block][step]` and scales `[row block][step]` (which is the 32_4_4 layout as it is) apart,
//! so that a tile of few rows copies few bytes; each expert starts on a fresh row block.
//!
//! Gate and up are interleaved so that a thread that reads accumulators in the shape `16x256b` holds gate and up of two
//! neighbouring features, a byte of the next operand, and a warp's 32 lanes hold 16 features, a block of its scales:
//! [`BlockOrder::GateUp`].

/// Columns of a step: K of one instruction.
pub const STEP_K: usize = 64;
/// Rows of a block: lanes of tensor memory, and rows of a tile of scales.
pub const BLOCK_ROWS: usize = nvfp4::layout::TILE_ROWS;
/// Rows that lie together.
pub const CORE_ROWS: usize = 8;
/// Bytes of a row that lie together.
pub const CORE_BYTES: usize = 16;
/// Bytes of a row's codes in a step.
pub const ROW_STEP_BYTES: usize = STEP_K / 2;
/// Bytes of a block's codes in a step.
pub const STEP_CODE_BYTES: usize = BLOCK_ROWS * ROW_STEP_BYTES;
/// Bytes of a block's scales in a step.
pub const STEP_SCALE_BYTES: usize = nvfp4::layout::TILE_BYTES;
/// Bytes of a block of weights in a step: codes, then scales.
pub const UNIT_BYTES: usize = STEP_CODE_BYTES + STEP_SCALE_BYTES;
/// From the first 16 bytes of a row's step to the second (leading-dimension byte offset).
pub const LEADING_BYTES: usize = CORE_ROWS * CORE_BYTES;
/// From 8 rows to the next 8 (stride-dimension byte offset).
pub const STRIDE_BYTES: usize = CORE_ROWS * ROW_STEP_BYTES;
/// Features of a block of gate and up.
pub const GATE_UP_FEATURES: usize = BLOCK_ROWS / 2;

const _: () = {
    assert!(STEP_K == nvfp4::BLOCK * nvfp4::layout::TILE_GROUPS);
    assert!(UNIT_BYTES == 4608 && LEADING_BYTES == 128 && STRIDE_BYTES == 256);
    assert!(ROW_STEP_BYTES == 2 * CORE_BYTES);
    // A block of gate and up makes exactly one step of the next product.
    assert!(GATE_UP_FEATURES == STEP_K);
};

/// Steps of `k` columns.
#[inline(always)]
pub const fn steps(k: usize) -> usize {
    k.div_ceil(STEP_K)
}

/// Byte of column `k` of row `row` in the codes of a block and a step (`row` below 128, `k` below 64); two columns
/// share a byte, the even one has its low nibble.
#[inline(always)]
pub const fn code_offset(row: usize, k: usize) -> usize {
    let byte = k / 2;
    row / CORE_ROWS * STRIDE_BYTES
        + byte / CORE_BYTES * LEADING_BYTES
        + row % CORE_ROWS * CORE_BYTES
        + byte % CORE_BYTES
}

/// Byte of the scale of row `row` and group `group` (16 columns) in a tile of scales (`row` below 128, `group` below 4).
#[inline(always)]
pub const fn scale_offset(row: usize, group: usize) -> usize {
    nvfp4::layout::sf_offset(row, group, nvfp4::layout::TILE_GROUPS)
}

/// How rows of the checkpoint become rows of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockOrder {
    /// One matrix in its own order.
    Plain,
    /// Gate and up: of 32 rows, rows 0..8 are gate of the even ones of 16 features, 8..16 up of the even ones, 16..24
    /// gate and 24..32 up of the odd ones.
    GateUp,
}

impl BlockOrder {
    /// Features (rows of a source matrix) of a block.
    pub const fn block_features(self) -> usize {
        match self {
            BlockOrder::Plain => BLOCK_ROWS,
            BlockOrder::GateUp => GATE_UP_FEATURES,
        }
    }

    /// Row blocks of matrices of `features` rows.
    pub const fn row_blocks(self, features: usize) -> usize {
        features.div_ceil(self.block_features())
    }

    /// Whether row `row` of block `block` is of the up matrix, and its feature.
    #[inline(always)]
    pub const fn source(self, block: usize, row: usize) -> (bool, usize) {
        match self {
            BlockOrder::Plain => (false, block * BLOCK_ROWS + row),
            BlockOrder::GateUp => {
                let lane = row % 32;
                let feature = row / 32 * 16 + 2 * (lane % 8) + lane / 16;
                (lane / 8 % 2 == 1, block * GATE_UP_FEATURES + feature)
            }
        }
    }
}

/// Bytes of one matrix of weights.
pub const fn matrix_bytes(row_blocks: usize, steps: usize) -> usize {
    row_blocks * steps * UNIT_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_nibble_has_one_place() {
        let mut seen = [0u8; STEP_CODE_BYTES];
        for row in 0..BLOCK_ROWS {
            for k in 0..STEP_K {
                seen[code_offset(row, k)] += 1;
                assert!(code_offset(row, k) < row.next_multiple_of(8).max(8) * ROW_STEP_BYTES + STRIDE_BYTES);
            }
        }
        assert!(seen.iter().all(|&n| n == 2));
    }

    #[test]
    fn rows_are_a_prefix() {
        for n in (8..=BLOCK_ROWS).step_by(8) {
            let last = (0..n).flat_map(|r| (0..STEP_K).map(move |k| code_offset(r, k))).max();
            assert_eq!(last, Some(n * ROW_STEP_BYTES - 1));
        }
    }

    #[test]
    fn gate_and_up_each_once() {
        for order in [BlockOrder::Plain, BlockOrder::GateUp] {
            let mut rows: Vec<_> =
                (0..2).flat_map(|b| (0..BLOCK_ROWS).map(move |r| order.source(b, r))).collect();
            rows.sort_unstable();
            rows.dedup();
            assert_eq!(rows.len(), 2 * BLOCK_ROWS);
            assert_eq!(rows.iter().map(|r| r.1).max(), Some(2 * order.block_features() - 1));
        }
        // A thread's four rows: gate and up of two neighbours.
        for g in 0..8 {
            let rows = [g, g + 8, g + 16, g + 24].map(|r| BlockOrder::GateUp.source(0, r));
            assert_eq!(rows, [(false, 2 * g), (true, 2 * g), (false, 2 * g + 1), (true, 2 * g + 1)]);
        }
    }
}
