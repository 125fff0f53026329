//! Where everything of a block lies in dynamic shared memory, and which sizes fit.

use crate::expert_gemm_mma::{TOKEN_GAP, UNIT_TOKEN_BYTES};
use crate::weight_ring::{RING_ALIGN, STAGE_BYTES};
use cuda_std::mbarrier;

/// Warps that multiply. A share of the tiles that comes out even over fewer leaves the others out.
pub const WARPS: u32 = 24;
/// Warps that fetch weights, behind those: each for every fourth ring.
pub const FETCH_WARPS: u32 = 4;
/// Most tokens of a call: columns of the MMA.
pub const MAX_TOKENS: u32 = 8;
/// Most rows of a call: slots of all tokens and, with a shared expert, the tokens once more.
pub const MAX_ROWS: u32 = 64;
/// Most rows of SwiGLU's results that are staged at a time.
pub const MAX_STAGED: u32 = 16;
/// Columns of a row that a warp stages at a time.
pub const CHUNK_COLUMNS: u32 = 256;
/// Most row tiles of the second product.
pub const MAX_ROW_TILES: u32 = MAX_COLUMNS / 16;
/// Most columns of a row of either product: a chunk per lane.
pub const MAX_COLUMNS: u32 = 32 * CHUNK_COLUMNS;
/// Stages of a ring, if there is room.
const STAGES: u32 = 3;
/// Fewest stages of a ring.
const MIN_STAGES: u32 = 2;
/// Stages of all rings from which on more are of no use, see [`stages`].
const ENOUGH_STAGES: u32 = 36;
/// Stages of all rings, each with an mbarrier for "full" and one for "empty".
pub const BARRIERS: u32 = WARPS * STAGES;
/// Warps from which on longer rings are better than more warps.
const ENOUGH_WARPS: u32 = 20;
/// Fewest warps that are worth a launch.
const MIN_WARPS: u32 = 16;

/// Byte offsets in dynamic shared memory.
pub mod at {
    use super::*;
    /// u32 `[64]`: expert and number of each slot, see [`super::super::routing`].
    pub const KEYS: u32 = 0;
    /// u32 `[64]`: expert of each row.
    pub const SORTED: u32 = KEYS + 4 * MAX_ROWS;
    /// u32 `[64]`: token of each row.
    pub const ROW_TOKEN: u32 = SORTED + 4 * MAX_ROWS;
    /// u32 `[64]`: row of each slot, then of each token in the shared expert.
    pub const SLOT_ROW: u32 = ROW_TOKEN + 4 * MAX_ROWS;
    /// f32 `[64]`: weight of each slot.
    pub const SLOT_WEIGHT: u32 = SLOT_ROW + 4 * MAX_ROWS;
    /// u32 `[64][4]`: token tiles: expert, first row, rows.
    pub const TILES: u32 = SLOT_WEIGHT + 4 * MAX_ROWS;
    /// u16 `[65][2][4]`: the block's share of each product, for every number of token tiles that there can be: first tile,
    /// tiles, warps, stages of a ring.
    pub const SHARES: u32 = TILES + 16 * MAX_ROWS;
    /// u32 `[2][4]`: each product: address of its weights, row tiles, units.
    pub const PRODUCTS: u32 = SHARES + 16 * (MAX_ROWS + 1);
    /// u32: the number of token tiles.
    pub const TOKEN_TILES: u32 = PRODUCTS + 32;
    /// u32 `[2]`: the half of [`super::super::exchange`] in turn, and how much of the other is to be zeroed.
    pub const HALF: u32 = TOKEN_TILES + 8;
    /// f32 `[8]`: scales of the tokens.
    pub const X_SCALES: u32 = HALF + 8;
    /// f32 `[16]`: scales of the staged rows of the second product.
    pub const H_SCALES: u32 = X_SCALES + 4 * MAX_TOKENS;
    /// u32 `[16][32]`: largest magnitude of each chunk of each staged row.
    pub const MAXIMA: u32 = H_SCALES + 4 * MAX_STAGED;
    /// Mbarriers of the rings: a stage is full; then as many: it is empty.
    pub const BARRIERS: u32 = MAXIMA + 4 * MAX_STAGED * (MAX_COLUMNS / CHUNK_COLUMNS);
    /// From a stage's first mbarrier to its second.
    pub const TO_EMPTY: u32 = super::BARRIERS * mbarrier::BYTES;
    /// The staged rows; the rings follow.
    pub const ROWS: u32 = (BARRIERS + 2 * TO_EMPTY).next_multiple_of(RING_ALIGN);
}

/// Dynamic shared memory: all that a block can have.
pub const SHARED_BYTES: u32 = 232_448;

const _: () = {
    assert!(at::TILES.is_multiple_of(16) && at::SHARES.is_multiple_of(16) && at::BARRIERS.is_multiple_of(8));
    assert!(2 * MAX_TOKENS <= MAX_STAGED);
    assert!(
        BARRIERS >= ENOUGH_STAGES
            && MAX_ROWS * MAX_ROW_TILES <= u16::MAX as u32
            && MAX_TOKENS == crate::expert_gemm_mma::GROUP_TOKENS
    );
    // A slot's number and its expert share a word.
    assert!(MAX_ROWS == 64);
};

/// Bytes from one staged row of `k_units` units to the next.
#[inline(always)]
pub const fn row_stride(k_units: u32) -> u32 {
    k_units * UNIT_TOKEN_BYTES + TOKEN_GAP
}

/// Bytes of the staged rows of a call of up to `max_tokens` tokens: all tokens, then SwiGLU's results of two token tiles at
/// least, so that a block whose share of the second product begins in one and ends in the next does both at a time.
#[inline(always)]
pub const fn rows_bytes(max_tokens: u32, k_units: [u32; 2]) -> u32 {
    let tokens = max_tokens * row_stride(k_units[0]);
    let results = 2 * tile_tokens(max_tokens) * row_stride(k_units[1]);
    let bytes = if tokens > results { tokens } else { results };
    bytes.next_multiple_of(RING_ALIGN)
}

/// Rows of SwiGLU's results that can be staged at a time.
#[inline(always)]
pub const fn staged_rows(rows_bytes: u32, k_units: u32) -> u32 {
    let fit = rows_bytes / row_stride(k_units);
    if fit < MAX_STAGED { fit } else { MAX_STAGED }
}

/// Rows of a token tile. A tile of an expert has no more than the call has tokens, unless a token names it twice.
#[inline(always)]
pub const fn tile_tokens(max_tokens: u32) -> u32 {
    if max_tokens < MAX_TOKENS { max_tokens } else { MAX_TOKENS }
}

/// Shared memory of all rings.
#[inline(always)]
const fn ring_bytes(rows_bytes: u32) -> u32 {
    SHARED_BYTES.saturating_sub(at::ROWS + rows_bytes)
}

/// Stages of each of `warps` rings beside the staged rows; 0 = does not fit.
///
/// More than the memory needs to be busy do harm: the requests queue up somewhere, multiprocessors get unequal shares of the
/// bandwidth, and the second product's weights come between the first one's. (A token of DeepSeek-V4-Flash on an H200, 12
/// rings of seven stages or of four: the first product ends between 18.8 and 22.6 us, or between 17.8 and 18.7.)
#[inline(always)]
pub const fn stages(warps: u32, rows_bytes: u32) -> u32 {
    let fit = ring_bytes(rows_bytes) / STAGE_BYTES / warps;
    let enough = ENOUGH_STAGES / warps;
    let enough = if enough > STAGES { enough } else { STAGES };
    if fit < enough { fit } else { enough }
}

/// Warps that multiply: as many as can have three stages each beside the staged rows; if those are few,
/// as many as can have two. (Eight tokens of DeepSeek-V4-Pro on an H200: 24 warps with two stages take 314 us, 16
/// with three 321.)
#[inline(always)]
pub const fn most_warps(rows_bytes: u32) -> u32 {
    let mut fit = ring_bytes(rows_bytes) / (STAGES * STAGE_BYTES);
    if fit < ENOUGH_WARPS {
        fit = ring_bytes(rows_bytes) / (MIN_STAGES * STAGE_BYTES);
    }
    if fit < WARPS { fit } else { WARPS }
}

/// Whether calls of up to `max_tokens` tokens with `slots` slots each (the shared expert's included) fit.
pub const fn fits(max_tokens: u32, slots: u32, k_units: [u32; 2]) -> bool {
    let units = if k_units[0] > k_units[1] { k_units[0] } else { k_units[1] };
    max_tokens <= MAX_TOKENS
        && max_tokens.saturating_mul(slots) <= MAX_ROWS
        && units <= MAX_COLUMNS / 64
        && most_warps(rows_bytes(max_tokens, k_units)) >= MIN_WARPS
}

// DeepSeek-V4-Pro with eight tokens, and with one.
const _: () = assert!(fits(8, 7, [112, 48]) && most_warps(rows_bytes(8, [112, 48])) == 24);
const _: () =
    assert!(stages(21, rows_bytes(1, [112, 48])) == 3 && fits(8, 6, [128, 48]) && !fits(8, 6, [112, 128]));

/// The warps of a share of `tiles` tiles: as few as do it in as many rounds as `most` would.
#[inline(always)]
pub const fn warps_for(tiles: u32, most: u32) -> u32 {
    if tiles == 0 { 0 } else { tiles.div_ceil(tiles.div_ceil(most)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_fits_stays_inside() {
        for max_tokens in 1..=MAX_TOKENS {
            for units in 1..=128 {
                let rows = rows_bytes(max_tokens, [units, 7]);
                for warps in 1..=WARPS {
                    let stages = stages(warps, rows);
                    assert!(stages * warps <= BARRIERS);
                    assert!(stages == 0 || at::ROWS + rows + warps * stages * STAGE_BYTES <= SHARED_BYTES);
                    assert!(stages >= MIN_STAGES || warps > most_warps(rows));
                    assert!(staged_rows(rows, 7) >= 2 * tile_tokens(max_tokens));
                }
            }
        }
        assert!(!fits(9, 1, [1, 1]) && !fits(8, 9, [1, 1]) && !fits(1, 1, [129, 1]));
    }

    #[test]
    fn shares_come_out_even() {
        let warps: Vec<_> =
            [0, 1, 18, 24, 25, 35, 48, 49, 77].into_iter().map(|tiles| warps_for(tiles, WARPS)).collect();
        assert_eq!(warps, [0, 1, 18, 24, 13, 18, 24, 17, 20]);
    }
}
