//! Input distributions. Deterministic: a value depends only on the distribution, its row and its column.

use std::sync::OnceLock;

use nvfp4::{BLOCK, bf16};

/// What the values of a row look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// Standard normal.
    Normal,
    /// Normal, with one value in 64 a thousand times larger.
    Outliers,
    /// Normal times 1e-30.
    Tiny,
    /// Normal times 1e37, near the top of bf16.
    Huge,
    /// Rows of zeros, rows of negative zeros, and rows with blocks of zeros.
    Zeros,
    /// Exact midpoints of E2M1 and of E4M3 under the global scale 1, which is the row's own.
    Ties,
    /// bf16 subnormals, and rows that mix them with small normal values.
    Subnormal,
    /// Every bf16 pattern: each row has the signs and mantissas of four neighbouring exponents.
    Patterns,
    /// Normal, with one NaN or infinity in three rows of four.
    Contained,
    /// The row number chooses among the above.
    Mixed,
}

const PURE: [Data; 9] = [
    Data::Normal,
    Data::Outliers,
    Data::Tiny,
    Data::Huge,
    Data::Zeros,
    Data::Ties,
    Data::Subnormal,
    Data::Patterns,
    Data::Contained,
];

impl Data {
    /// Every distribution but [`Data::Mixed`].
    pub const PURE: [Data; 9] = PURE;

    /// Lower-case name.
    pub fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// Fills row number `row`; `salt` tells operands apart. The values are exact in bf16.
    pub fn fill(self, row: usize, salt: u64, out: &mut [f32]) {
        match self {
            Data::Normal => normal(row, salt, 1.0, out),
            Data::Outliers => {
                normal(row, salt, 1.0, out);
                let first = (hash(row as u64 ^ salt) % 64) as usize;
                out.iter_mut().skip(first).step_by(64).for_each(|v| *v = bf16::round(*v * 1000.0));
            }
            Data::Tiny => normal(row, salt, 1e-30, out),
            Data::Huge => normal(row, salt, 1e37, out),
            Data::Zeros => match row % 4 {
                0 => out.fill(0.0),
                1 => out.fill(-0.0),
                _ => {
                    normal(row, salt, 1.0, out);
                    out.chunks_mut(BLOCK).step_by(3).for_each(|block| block.fill(0.0));
                }
            },
            Data::Ties => ties(row, out),
            Data::Subnormal => {
                for (i, v) in out.iter_mut().enumerate() {
                    let h = hash(((row as u64) << 32) ^ i as u64 ^ salt);
                    // Exponent field 0, or up to 3 in odd rows.
                    let exponent = if row % 2 == 1 { (h >> 40) as u16 % 4 } else { 0 };
                    *v = bf16::to_f32((h as u16 & 0x807f) | (exponent << 7));
                }
            }
            Data::Patterns => {
                let top = (row * 3 + 3) % 256;
                for (i, v) in out.iter_mut().enumerate() {
                    let (sign, mantissa, exponent) = (i & 1, (i >> 1) & 127, top.saturating_sub(i >> 8 & 3));
                    *v = bf16::to_f32((sign << 15 | exponent << 7 | mantissa) as u16);
                }
            }
            Data::Contained => {
                normal(row, salt, 1.0, out);
                let at = (hash(row as u64 ^ salt) % out.len() as u64) as usize;
                match row % 4 {
                    0 => {}
                    1 => out[at] = bf16::to_f32(if row % 8 == 1 { 0x7fc0 } else { 0xff81 }),
                    2 => out[at] = f32::INFINITY,
                    _ => out[out.len() - 1] = f32::NEG_INFINITY,
                }
            }
            Data::Mixed => PURE[row % PURE.len()].fill(row, salt, out),
        }
    }
}

/// A well-mixed function of `x` (the finaliser of SplitMix64).
pub fn hash(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Uniform in 0..1.
pub fn uniform(x: u64) -> f32 {
    (hash(x) >> 40) as f32 / (1u32 << 24) as f32
}

const POOL: usize = 1 << 16;

/// Normal values from a pool, from another place for every row.
fn normal(row: usize, salt: u64, factor: f32, out: &mut [f32]) {
    static NORMALS: OnceLock<Vec<f32>> = OnceLock::new();
    let pool = NORMALS.get_or_init(|| {
        let pair = |i: u64| {
            let radius = (-2.0 * (1.0 - f64::from(uniform(2 * i))).ln()).sqrt();
            (radius * (std::f64::consts::TAU * f64::from(uniform(2 * i + 1))).cos()) as f32
        };
        (0..POOL as u64).map(pair).collect()
    });
    let start = hash(row as u64 ^ (salt << 40)) as usize;
    for (i, v) in out.iter_mut().enumerate() {
        *v = bf16::round(pool[(start.wrapping_add(i * 7)) % POOL] * factor);
    }
}

/// Values that are midpoints of neighbouring E2M1 values, in blocks whose maximum is 6 times an E4M3 value or 6
/// times a midpoint of two, under the global scale 1. The first value, 2688, makes 1 the row's own scale.
fn ties(row: usize, out: &mut [f32]) {
    const MIDPOINTS: [f32; 7] = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0];
    for (b, block) in out.chunks_mut(BLOCK).enumerate() {
        let scale = f32::from_bits((((b + row) % 12 + 121) as u32) << 23);
        for (i, v) in block.iter_mut().enumerate() {
            let sign = if (i + row).is_multiple_of(2) { 1.0 } else { -1.0 };
            *v = sign * scale * MIDPOINTS[(i + b) % MIDPOINTS.len()];
        }
        block[b % BLOCK] = if b % 2 == 1 { 6.375 * scale } else { -6.0 * scale };
    }
    out[0] = nvfp4::GLOBAL_RANGE;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_exact_in_bf16() {
        let mut row = [0.0; 2048];
        for data in PURE {
            for r in 0..260 {
                data.fill(r, 3, &mut row);
                assert!(row.iter().all(|&v| v.is_nan() || bf16::round(v) == v), "{data:?} row {r}");
            }
        }
    }

    #[test]
    fn patterns_has_every_pattern() {
        let mut seen = vec![false; 1 << 16];
        let mut row = [0.0; 1024];
        for r in 0..256 {
            Data::Patterns.fill(r, 0, &mut row);
            row.iter().for_each(|v| seen[(v.to_bits() >> 16) as usize] = true);
        }
        assert_eq!(seen.iter().filter(|&&s| s).count(), 1 << 16);
    }

    #[test]
    fn ties_are_ties() {
        let mut row = [0.0; 512];
        Data::Ties.fill(0, 0, &mut row);
        let s2 = nvfp4::quantize::tensor_scale_from_amax_bits(nvfp4::quantize::amax_bits_of(&row));
        assert_eq!(s2, 1.0);
        let block: [f32; BLOCK] = row[32..48].try_into().unwrap();
        let scale = nvfp4::e4m3::decode(nvfp4::quantize::quantize_block(&block, s2).scale);
        let ties =
            block.iter().filter(|v| [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0].contains(&(v.abs() / scale)));
        assert!(ties.count() >= 14);
    }
}
