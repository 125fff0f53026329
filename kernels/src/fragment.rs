//! The packed form of weights ("fragment order"): what a lane needs for one MMA step lies in one word.
//!
//! A group is `experts` matrices of M rows x K columns of E2M1 codes with one E4M3 scale per 16 columns. Rows are
//! padded to tiles of [`TILE_ROWS`], columns to units of [`UNIT_K`], both with zeros. Stored
//! `[expert][row tile][k unit]`, units of [`UNIT_BYTES`] bytes: 512 bytes of codes, then 64 bytes of scales.
//!
//! * Codes: lane `l` has 16 bytes at `16 * l`: one little-endian word per k16 step. Value `i` (0..8) of a word is
//!   the `i`-th half of the A fragment `a0.lo a0.hi a1.lo .. a3.hi` of an m16n8k16 or m64nNk16 step (PTX ISA, Matrix
//!   Fragments for mma.m16n8k16; [`value_row`], [`value_k`]). The magnitude (low three bits of the code) of values
//!   0, 2, 4, 6 is in bits 9, 6, 3, 0 and the two above each, the sign in bits 15, 12, 14, 13; those of values 1, 3, 5, 7
//!   are 16 bits higher: so a word expands with few logic instructions (`expand`).
//! * Scales, at 512: for row `g` in 0..8, 8 bytes at `8 * g`: for each k16 step the scale of row `g` and that of row
//!   `g + 8`.
//!
//! Gate and up matrices of SwiGLU are interleaved: row tile `j` has gate features `8j..8j+8` as rows 0..8 and up
//! features `8j..8j+8` as rows 8..16, so that a thread holds gate and up of the same feature in its accumulators.

/// Rows of a tile.
pub const TILE_ROWS: usize = 16;
/// Columns of a unit.
pub const UNIT_K: usize = 64;
/// Columns of an MMA step, and of a scale.
pub const STEP_K: usize = 16;
/// MMA steps of a unit.
pub const UNIT_STEPS: usize = UNIT_K / STEP_K;
/// Bytes of a unit's codes.
pub const CODE_BYTES: usize = TILE_ROWS * UNIT_K / 2;
/// Bytes of a unit's scales.
pub const SCALE_BYTES: usize = TILE_ROWS * UNIT_STEPS;
/// Bytes of a unit.
pub const UNIT_BYTES: usize = CODE_BYTES + SCALE_BYTES;
/// Features of a row tile of gate and up.
pub const GATE_UP_FEATURES: usize = TILE_ROWS / 2;

const _: () = assert!(UNIT_BYTES == 576 && STEP_K == nvfp4::BLOCK);

/// How rows of the checkpoint become rows of tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOrder {
    /// One matrix in its own order.
    Plain,
    /// Gate and up interleaved, eight features of each per tile.
    GateUp,
}

impl RowOrder {
    /// Features (rows of a source matrix) of a tile.
    pub const fn tile_features(self) -> usize {
        match self {
            RowOrder::Plain => TILE_ROWS,
            RowOrder::GateUp => GATE_UP_FEATURES,
        }
    }

    /// Row tiles of matrices of `features` rows.
    pub const fn row_tiles(self, features: usize) -> usize {
        features.div_ceil(self.tile_features())
    }

    /// Whether row `row` of tile `tile` is of the up matrix, and its feature.
    #[inline(always)]
    pub const fn source(self, tile: usize, row: usize) -> (bool, usize) {
        match self {
            RowOrder::Plain => (false, tile * TILE_ROWS + row),
            RowOrder::GateUp => (row >= GATE_UP_FEATURES, tile * GATE_UP_FEATURES + row % GATE_UP_FEATURES),
        }
    }
}

/// Units of a row of `k` columns.
pub const fn k_units(k: usize) -> usize {
    k.div_ceil(UNIT_K)
}

/// Bytes of one matrix.
pub const fn matrix_bytes(row_tiles: usize, k_units: usize) -> usize {
    row_tiles * k_units * UNIT_BYTES
}

/// Row in the tile of value `i` of a word of lane `lane`.
#[inline(always)]
pub const fn value_row(lane: usize, i: usize) -> usize {
    lane / 4 + 8 * (i >> 1 & 1)
}

/// Column in the k16 step of value `i` of a word of lane `lane`.
#[inline(always)]
pub const fn value_k(lane: usize, i: usize) -> usize {
    2 * (lane % 4) + (i & 1) + 8 * (i >> 2 & 1)
}

/// Byte in a unit of the word of lane `lane` for step `step`.
#[inline(always)]
pub const fn word_offset(lane: usize, step: usize) -> usize {
    16 * lane + 4 * step
}

/// Byte in a unit of the scale of row `row` of the tile for step `step`.
#[inline(always)]
pub const fn scale_offset(row: usize, step: usize) -> usize {
    CODE_BYTES + 8 * (row % 8) + 2 * step + row / 8
}

/// Lowest bit of the magnitude of value `i` in its word.
const fn magnitude_bit(i: usize) -> usize {
    9 - 3 * (i / 2) + 16 * (i & 1)
}

/// Bit of the sign of value `i` in its word.
const fn sign_bit(i: usize) -> usize {
    [15, 12, 14, 13][i / 2] + 16 * (i & 1)
}

/// The word of eight E2M1 codes.
#[inline(always)]
pub const fn pack_word(codes: [u8; 8]) -> u32 {
    let mut word = 0;
    let mut i = 0;
    while i < 8 {
        let code = codes[i] as u32;
        word |= (code & 7) << magnitude_bit(i) | (code >> 3 & 1) << sign_bit(i);
        i += 1;
    }
    word
}

/// The eight E2M1 codes of a word.
pub const fn unpack_word(word: u32) -> [u8; 8] {
    let mut codes = [0; 8];
    let mut i = 0;
    while i < 8 {
        codes[i] = (word >> magnitude_bit(i) & 7 | (word >> sign_bit(i) & 1) << 3) as u8;
        i += 1;
    }
    codes
}

/// One matrix as checkpoints have it: row-major, two codes per byte with the even column in the low nibble.
#[derive(Clone, Copy, Debug)]
pub struct RowMajor<'a> {
    /// E2M1 codes, `[rows, k/2]`.
    pub packed: &'a [u8],
    /// E4M3 scales, `[rows, k/16]`.
    pub scales: &'a [u8],
}

impl RowMajor<'_> {
    fn code(&self, row: usize, column: usize, k: usize) -> u8 {
        self.packed[(row * k + column) / 2] >> (column % 2 * 4) & 15
    }

    fn scale(&self, row: usize, step: usize, k: usize) -> u8 {
        self.scales[row * (k / STEP_K) + step]
    }
}

/// Packs a matrix of `features` rows and `k` columns (a multiple of 16), or gate and up of one shape if `up` is
/// given, into `out`. The host's form of the kernel `repack_nvfp4`.
///
/// # Panics
/// If a slice has another length than the shape says, or `k` is no multiple of 16.
pub fn pack(
    matrix: RowMajor<'_>,
    up: Option<RowMajor<'_>>,
    features: usize,
    k: usize,
    out: &mut [u8],
) -> RowOrder {
    let order = if up.is_some() { RowOrder::GateUp } else { RowOrder::Plain };
    let units = k_units(k);
    assert!(k.is_multiple_of(STEP_K) && out.len() == matrix_bytes(order.row_tiles(features), units));
    for source in [Some(matrix), up].into_iter().flatten() {
        assert!(source.packed.len() == features * k / 2 && source.scales.len() == features * k / STEP_K);
    }
    for (n, unit) in out.chunks_exact_mut(UNIT_BYTES).enumerate() {
        let (tile, column) = (n / units, n % units * UNIT_K);
        // The source of a row of the tile, if there is one.
        let source = |row: usize| {
            let (is_up, feature) = order.source(tile, row);
            let from = if is_up { up.unwrap_or(matrix) } else { matrix };
            (feature < features).then_some((from, feature))
        };
        for step in 0..UNIT_STEPS {
            let first = column + step * STEP_K;
            for lane in 0..32 {
                let codes = core::array::from_fn(|i| match source(value_row(lane, i)) {
                    Some((from, feature)) if first < k => from.code(feature, first + value_k(lane, i), k),
                    _ => 0,
                });
                unit[word_offset(lane, step)..][..4].copy_from_slice(&pack_word(codes).to_le_bytes());
            }
            for row in 0..TILE_ROWS {
                unit[scale_offset(row, step)] = match source(row) {
                    Some((from, feature)) if first < k => from.scale(feature, first / STEP_K, k),
                    _ => 0,
                };
            }
        }
    }
    order
}

/// The code and the scale of row `row` of tile `tile` at column `column` of a packed matrix of `k_units` units.
pub fn element(packed: &[u8], k_units: usize, tile: usize, row: usize, column: usize) -> (u8, u8) {
    let unit = &packed[(tile * k_units + column / UNIT_K) * UNIT_BYTES..][..UNIT_BYTES];
    let (step, k) = (column % UNIT_K / STEP_K, column % STEP_K);
    // The inverse of value_row and value_k.
    let lane = row % 8 * 4 + k % 8 / 2;
    let i = (k & 1) | (row / 8) << 1 | (k / 8) << 2;
    let at = word_offset(lane, step);
    let word = u32::from_le_bytes([unit[at], unit[at + 1], unit[at + 2], unit[at + 3]]);
    (unpack_word(word)[i], unit[scale_offset(row, step)])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that differ from place to place; `salt` tells matrices apart.
    fn bytes(n: usize, salt: u32) -> Vec<u8> {
        (0..n as u32).map(|i| ((i ^ salt).wrapping_mul(0x9e37_79b1) >> 13) as u8).collect()
    }

    #[test]
    fn words_round_trip() {
        for i in 0..8 {
            for code in 0..16 {
                let mut codes = [0; 8];
                codes[i] = code;
                assert_eq!(unpack_word(pack_word(codes)), codes);
            }
        }
        let mut seen = 0u32;
        (0..8).for_each(|i| seen |= 7 << magnitude_bit(i) | 1 << sign_bit(i));
        assert_eq!(seen, u32::MAX);
    }

    #[test]
    fn the_first_word_is_as_documented() {
        // Rows 0 and 8, columns 0, 1, 8, 9.
        let mut packed = vec![0; 16 * 8];
        packed[0] = 0x21;
        packed[8 * 8] = 0x43;
        packed[4] = 0x65;
        packed[8 * 8 + 4] = 0xf7;
        let scales: Vec<u8> = (1..17).collect();
        let mut out = vec![0xaa; matrix_bytes(1, 1)];
        let order = pack(RowMajor { packed: &packed, scales: &scales }, None, 16, 16, &mut out);
        assert_eq!(order, RowOrder::Plain);
        // Codes 1, 2; 3, 4; 5, 6; 7, 15 in registers 0 to 3.
        let word = 1 << 9 | 2 << 25 | 3 << 6 | 4 << 22 | 5 << 3 | 6 << 19 | 7 | 7 << 16 | 1 << 29;
        assert_eq!(out[..4], u32::to_le_bytes(word));
        assert_eq!(out[4..16], [0; 12]);
        assert_eq!(out[512..522], [1, 9, 0, 0, 0, 0, 0, 0, 2, 10]);
    }

    #[test]
    fn every_element_is_where_it_belongs() {
        for (features, k) in [(1, 16), (16, 64), (23, 80), (40, 208)] {
            let (a, b) = (bytes(features * k / 2, 1), bytes(features * k / 2, 2));
            let (sa, sb) = (bytes(features * k / 16, 3), bytes(features * k / 16, 4));
            let gate = RowMajor { packed: &a, scales: &sa };
            let up = RowMajor { packed: &b, scales: &sb };
            for up in [None, Some(up)] {
                let order = if up.is_some() { RowOrder::GateUp } else { RowOrder::Plain };
                let (tiles, units) = (order.row_tiles(features), k_units(k));
                let mut out = vec![0xaa; matrix_bytes(tiles, units)];
                assert_eq!(pack(gate, up, features, k, &mut out), order);
                for tile in 0..tiles {
                    for row in 0..TILE_ROWS {
                        let (is_up, feature) = order.source(tile, row);
                        let from = if is_up { up.unwrap() } else { gate };
                        for column in 0..units * UNIT_K {
                            let want = if feature < features && column < k {
                                (from.code(feature, column, k), from.scale(feature, column / 16, k))
                            } else {
                                (0, 0)
                            };
                            assert_eq!(element(&out, units, tile, row, column), want);
                        }
                    }
                }
            }
        }
    }
}
