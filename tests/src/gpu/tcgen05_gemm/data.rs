//! Operands of the cases: what they hold, where its bytes lie, and what their product is, in integers.
//!
//! Scales are small integers times a power of two, so every partial sum is an integer of fewer than 24 bits times a power
//! of two, exact in f32 whatever the hardware's order and width: results are compared to the bit with plain integer
//! arithmetic. [`Values::Wide`] has scales of every size instead, whose products are compared with f64.

use kernels::operand::{
    BLOCK_ROWS, BlockOrder, STEP_CODE_BYTES, STEP_K, STEP_SCALE_BYTES, UNIT_BYTES, code_offset, scale_offset,
};
use nvfp4::{BLOCK, e2m1, e4m3};

use crate::gpu::data::hash;

/// What scales look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// Integers below 16 over 8: sums are exact.
    Grid,
    /// Every finite E4M3.
    Wide,
}

impl Values {
    fn scale(self, h: u64) -> u8 {
        match self {
            // A zero now and then.
            Values::Grid if h.is_multiple_of(29) => 0,
            Values::Grid => e4m3::encode((1 + h % 15) as f32 / 8.0),
            Values::Wide => (h % 0x7f) as u8,
        }
    }
}

/// A row-major matrix `[rows][k]` of E2M1 codes with one E4M3 scale per 16 columns.
#[derive(Clone)]
pub struct Matrix {
    /// Columns: a multiple of 16.
    pub k: usize,
    codes: Vec<u8>,
    scales: Vec<u8>,
    /// Codes as halves.
    halves: Vec<i32>,
    /// Scales as eighths, where they are grid values.
    eighths: Vec<i32>,
}

impl Matrix {
    /// Random; `salt` tells matrices apart.
    pub fn new(rows: usize, k: usize, values: Values, salt: u64) -> Self {
        let random = |i: usize| hash(i as u64 | salt << 40);
        let codes: Vec<u8> = (0..rows * k).map(|i| (random(i) >> 20) as u8 & 15).collect();
        let scales: Vec<u8> = (0..rows * k / BLOCK).map(|i| values.scale(random(i) >> 32)).collect();
        let halves = codes.iter().map(|&code| (e2m1::decode(code) * 2.0) as i32).collect();
        let eighths = scales.iter().map(|&scale| (e4m3::decode(scale) * 8.0) as i32).collect();
        Self { k, codes, scales, halves, eighths }
    }

    /// The code of an element.
    pub fn code(&self, row: usize, k: usize) -> u8 {
        self.codes[row * self.k + k]
    }

    /// The scale of a group of 16.
    pub fn scale(&self, row: usize, group: usize) -> u8 {
        self.scales[row * self.k / BLOCK + group]
    }

    /// Sum over K of the products of two rows, by integers: `16 * 16 * sum` with scales as eighths and codes as halves.
    pub fn dot_grid(&self, row: usize, other: &Matrix, other_row: usize) -> f32 {
        let (a, b) = (&self.halves[row * self.k..][..self.k], &other.halves[other_row * self.k..][..self.k]);
        let groups = self.k / BLOCK;
        let (a_scales, b_scales) =
            (&self.eighths[row * groups..][..groups], &other.eighths[other_row * groups..][..groups]);
        let (mut sum, mut magnitude) = (0i64, 0i64);
        for group in 0..groups {
            let scale = i64::from(a_scales[group] * b_scales[group]);
            let products = a[group * BLOCK..][..BLOCK].iter().zip(&b[group * BLOCK..][..BLOCK]);
            let (part, size) =
                products.fold((0, 0), |(part, size), (a, b)| (part + a * b, size + (a * b).abs()));
            sum += scale * i64::from(part);
            magnitude += scale * i64::from(size);
        }
        // No order of the additions can need more than f32 has.
        assert!(magnitude < 1 << 24, "{magnitude} is not exact");
        sum as f32 / 256.0
    }

    /// The same sum in f64, for scales of every size.
    pub fn dot_f64(&self, row: usize, other: &Matrix, other_row: usize) -> f64 {
        let value = |m: &Matrix, row: usize, k: usize| {
            f64::from(e2m1::decode(m.code(row, k))) * f64::from(e4m3::decode(m.scale(row, k / BLOCK)))
        };
        (0..self.k).map(|k| value(self, row, k) * value(other, other_row, k)).sum()
    }
}

/// Weights of one expert in the order of [`kernels::operand`]; what pads rows and columns is zero.
pub fn pack_weights(gate: &Matrix, up: Option<&Matrix>, order: BlockOrder, features: usize) -> Vec<u8> {
    let steps = gate.k.div_ceil(STEP_K);
    let mut out = vec![0; order.row_blocks(features) * steps * UNIT_BYTES];
    for (unit, bytes) in out.chunks_mut(UNIT_BYTES).enumerate() {
        let (block, step) = (unit / steps, unit % steps);
        for row in 0..BLOCK_ROWS {
            let (is_up, feature) = order.source(block, row);
            let Some(matrix) = (if is_up { up } else { Some(gate) }) else { continue };
            if feature < features {
                write_row(bytes, STEP_CODE_BYTES, matrix, feature, row, step);
            }
        }
    }
    out
}

/// One step of a row of a matrix into a block's codes, and its scales `scales` bytes further on.
fn write_row(bytes: &mut [u8], scales: usize, matrix: &Matrix, from: usize, row: usize, step: usize) {
    for k in 0..STEP_K.min(matrix.k - step * STEP_K) {
        let at = code_offset(row, k);
        let shift = k % 2 * 4;
        bytes[at] = bytes[at] & !(15 << shift) | matrix.code(from, step * STEP_K + k) << shift;
        if k % BLOCK == 0 {
            let group = k / BLOCK;
            bytes[scales + scale_offset(row, group)] = matrix.scale(from, step * (STEP_K / BLOCK) + group);
        }
    }
}

/// Codes and scales of tokens: `rows` rows in all, of which row `offsets[e] + i` is `source(e, i)`.
pub struct Tokens {
    /// `[row blocks][steps][4096]`.
    pub codes: Vec<u8>,
    /// `[row blocks][steps][512]`.
    pub scales: Vec<u8>,
}

impl Tokens {
    /// Experts of `counts` rows from `offsets` on, one row of `matrix` after the other. Rows behind are zeros up to a multiple
    /// of 16, and then what nobody may use: NaN scales.
    pub fn new(matrix: &Matrix, counts: &[u32], offsets: &[u32]) -> Self {
        let steps = matrix.k.div_ceil(STEP_K);
        let blocks = offsets[offsets.len() - 1] as usize / BLOCK_ROWS;
        let (mut codes, mut scales) = (
            vec![0xff; blocks * steps * STEP_CODE_BYTES],
            vec![e4m3::NAN; blocks * steps * STEP_SCALE_BYTES],
        );
        let mut from = 0;
        for (&count, &offset) in counts.iter().zip(offsets) {
            for i in 0..count.next_multiple_of(16) {
                let row = (offset + i) as usize;
                for step in 0..steps {
                    let tile = row / BLOCK_ROWS * steps + step;
                    let mut bytes = vec![0; STEP_CODE_BYTES + STEP_SCALE_BYTES];
                    if i < count {
                        write_row(&mut bytes, STEP_CODE_BYTES, matrix, from, row % BLOCK_ROWS, step);
                    }
                    for k in (0..STEP_K).step_by(2) {
                        let at = code_offset(row % BLOCK_ROWS, k);
                        codes[tile * STEP_CODE_BYTES + at] = bytes[at];
                    }
                    for group in 0..STEP_K / BLOCK {
                        let at = scale_offset(row % BLOCK_ROWS, group);
                        scales[tile * STEP_SCALE_BYTES + at] = bytes[STEP_CODE_BYTES + at];
                    }
                }
                from += usize::from(i < count);
            }
        }
        Self { codes, scales }
    }
}
