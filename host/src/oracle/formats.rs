//! Number formats from tables that are written down, encoders by search, and the roundings of the contract.
//!
//! Nothing here calls the `nvfp4` crate: a mistake there must not be repeated here.

use half::bf16;

/// Values that share one block scale.
pub(super) const GROUP: usize = 16;

/// E2M1 values, by code (OCP MX v1.0, section 5.3.3); the second half is negative.
const E2M1: [f64; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// E4M3FN magnitudes, by code (OCP FP8 v1.0, section 3.1); code 127 is NaN.
#[rustfmt::skip]
const E4M3: [f64; 127] = [
    0.0, 0.001953125, 0.00390625, 0.005859375, 0.0078125, 0.009765625, 0.01171875, 0.013671875,
    0.015625, 0.017578125, 0.01953125, 0.021484375, 0.0234375, 0.025390625, 0.02734375, 0.029296875,
    0.03125, 0.03515625, 0.0390625, 0.04296875, 0.046875, 0.05078125, 0.0546875, 0.05859375,
    0.0625, 0.0703125, 0.078125, 0.0859375, 0.09375, 0.1015625, 0.109375, 0.1171875,
    0.125, 0.140625, 0.15625, 0.171875, 0.1875, 0.203125, 0.21875, 0.234375,
    0.25, 0.28125, 0.3125, 0.34375, 0.375, 0.40625, 0.4375, 0.46875,
    0.5, 0.5625, 0.625, 0.6875, 0.75, 0.8125, 0.875, 0.9375,
    1.0, 1.125, 1.25, 1.375, 1.5, 1.625, 1.75, 1.875,
    2.0, 2.25, 2.5, 2.75, 3.0, 3.25, 3.5, 3.75,
    4.0, 4.5, 5.0, 5.5, 6.0, 6.5, 7.0, 7.5,
    8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0,
    16.0, 18.0, 20.0, 22.0, 24.0, 26.0, 28.0, 30.0,
    32.0, 36.0, 40.0, 44.0, 48.0, 52.0, 56.0, 60.0,
    64.0, 72.0, 80.0, 88.0, 96.0, 104.0, 112.0, 120.0,
    128.0, 144.0, 160.0, 176.0, 192.0, 208.0, 224.0, 240.0,
    256.0, 288.0, 320.0, 352.0, 384.0, 416.0, 448.0,
];

/// Value of the low four bits of an E2M1 code.
pub fn e2m1(code: u8) -> f64 {
    E2M1[usize::from(code & 15)]
}

/// Value of an E4M3FN code; NaN for 0x7F and 0xFF.
pub fn e4m3(code: u8) -> f64 {
    let magnitude = E4M3.get(usize::from(code & 0x7f)).copied().unwrap_or(f64::NAN);
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

/// The index of the candidate nearest to `x >= 0`; of two equally near ones, the even index. Beyond the last
/// candidate, the last.
fn nearest(candidates: &[f64], x: f64) -> u8 {
    let last = candidates.len() - 1;
    if x >= candidates[last] {
        return last as u8;
    }
    let mut best = 0;
    for (code, candidate) in candidates.iter().enumerate() {
        let (distance, shortest) = ((x - candidate).abs(), (x - candidates[best]).abs());
        if distance < shortest || (distance == shortest && code % 2 == 0) {
            best = code;
        }
    }
    best as u8
}

/// The E2M1 code of `x`: nearest, ties to even, saturating, sign kept, NaN gives +6.
pub fn encode_e2m1(x: f32) -> u8 {
    if x.is_nan() {
        return 7;
    }
    nearest(&E2M1[..8], f64::from(x).abs()) | if x.is_sign_negative() { 8 } else { 0 }
}

/// The E4M3FN code of `x`: nearest, ties to even, saturating at 448, sign kept, NaN gives 0x7F.
pub fn encode_e4m3(x: f32) -> u8 {
    if x.is_nan() {
        return 0x7f;
    }
    nearest(&E4M3, f64::from(x).abs()) | if x.is_sign_negative() { 0x80 } else { 0 }
}

/// Rounds to f32, nearest even. The only place where precision is dropped.
pub fn fl32(x: f64) -> f32 {
    x as f32
}

/// Rounds to bf16, nearest even.
pub fn flbf16(x: f32) -> bf16 {
    bf16::from_f32(x)
}

/// A row quantised to NVFP4.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantisedRow {
    /// Two E2M1 codes per byte, the even element in the low nibble.
    pub packed: Vec<u8>,
    /// One E4M3 code per 16 elements.
    pub scales: Vec<u8>,
    /// Global scale of the row; NaN if the row held NaN or infinity.
    pub scale: f32,
    /// Blocks whose maximum is above `6 * 448 * scale`.
    pub saturated_blocks: u64,
}

impl QuantisedRow {
    /// Quantises `x` under `global`: per block of 16, each operation rounded to f32,
    /// `s = e4m3(max(amax / (6 * global), 2^-9))`, `code = e2m1(x / (s * global))`.
    ///
    /// A block of zeros has scale byte 0, and so has one that cannot be scaled: NaN or infinity in it, a global
    /// scale that is not positive, or a product `s * global` that underflows.
    pub fn quantise(x: &[f32], global: f32) -> Self {
        let mut row = Self {
            packed: vec![0; x.len() / 2],
            scales: vec![0; x.len() / GROUP],
            scale: if x.iter().all(|v| v.is_finite()) { global } else { f32::NAN },
            saturated_blocks: 0,
        };
        for (b, block) in x.chunks_exact(GROUP).enumerate() {
            let amax = amax(block);
            // NaN fails the comparison as well.
            if amax == 0.0 || !amax.is_finite() || row.scale.is_nan() {
                continue;
            }
            let six = fl32(6.0 * f64::from(row.scale));
            let ratio = fl32(f64::from(amax) / f64::from(six));
            row.saturated_blocks += u64::from(ratio > 448.0);
            let code = encode_e4m3(ratio.max(0.001953125));
            let step = fl32(e4m3(code) * f64::from(row.scale));
            if step.is_nan() || step <= 0.0 {
                continue;
            }
            row.scales[b] = code;
            for (i, &v) in block.iter().enumerate() {
                let nibble = encode_e2m1(fl32(f64::from(v) / f64::from(step)));
                row.packed[(b * GROUP + i) / 2] |= if i % 2 == 0 { nibble } else { nibble << 4 };
            }
        }
        row
    }

    /// The elements without the global scale: `e2m1 * e4m3`, exact.
    pub fn values(&self) -> Vec<f64> {
        unpack(&self.packed, &self.scales)
    }
}

/// The products `e2m1 * e4m3` of packed codes and their scales.
pub(super) fn unpack(packed: &[u8], scales: &[u8]) -> Vec<f64> {
    let mut values = Vec::with_capacity(packed.len() * 2);
    for (bytes, &scale) in packed.chunks_exact(GROUP / 2).zip(scales) {
        let scale = e4m3(scale);
        for byte in bytes {
            values.push(e2m1(byte & 0xf) * scale);
            values.push(e2m1(byte >> 4) * scale);
        }
    }
    values
}

/// Largest magnitude; NaN or infinity if the slice holds one.
pub(super) fn amax(x: &[f32]) -> f32 {
    let mut largest = 0.0f32;
    for v in x {
        if v.is_nan() {
            return f32::NAN;
        }
        largest = largest.max(v.abs());
    }
    largest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tables against the bit layouts of the format definitions.
    #[test]
    fn tables_follow_the_definitions() {
        for code in 0..8u8 {
            let (e, m) = (i32::from(code >> 1), f64::from(code & 1));
            let want = if e == 0 { m / 2.0 } else { (1.0 + m / 2.0) * 2f64.powi(e - 1) };
            assert_eq!(e2m1(code), want);
            assert_eq!(e2m1(code | 8), -want);
        }
        for code in 0..127u8 {
            let (e, m) = (i32::from(code >> 3), f64::from(code & 7));
            let want = if e == 0 { m * 2f64.powi(-9) } else { (1.0 + m / 8.0) * 2f64.powi(e - 7) };
            assert_eq!(e4m3(code), want);
            assert_eq!(e4m3(code | 0x80), -want);
        }
        assert!(e4m3(0x7f).is_nan() && e4m3(0xff).is_nan());
        // Values that the definitions name.
        assert_eq!(
            (e4m3(0x7e), e4m3(0x08), e4m3(0x07), e4m3(0x01)),
            (448.0, 0.015625, 0.013671875, 0.001953125)
        );
        assert!(e2m1(8).is_sign_negative());
    }

    #[test]
    fn encoders_find_the_nearest_and_ties_go_to_even() {
        for (x, code) in [
            (0.25, 0),
            (0.75, 2),
            (1.25, 2),
            (1.75, 4),
            (2.5, 4),
            (3.5, 6),
            (5.0, 6),
            (5.1, 7),
            (6.0, 7),
            (1e38, 7),
            (f32::INFINITY, 7),
            (1e-40, 0),
        ] {
            assert_eq!(encode_e2m1(x), code, "{x}");
            assert_eq!(encode_e2m1(-x), code | 8, "-{x}");
        }
        assert_eq!(encode_e2m1(f32::NAN), 7);
        assert_eq!(encode_e2m1(-0.0), 8);
        for code in 0..127u8 {
            assert_eq!(encode_e4m3(e4m3(code) as f32), code);
            if code < 126 {
                let middle = ((e4m3(code) + e4m3(code + 1)) / 2.0) as f32;
                assert_eq!(encode_e4m3(middle), code + code % 2, "{middle}");
            }
        }
        assert_eq!((encode_e4m3(1e9), encode_e4m3(f32::NAN), encode_e4m3(464.0)), (0x7e, 0x7f, 0x7e));
    }

    #[test]
    fn a_row_by_hand() {
        let mut x = [0.0f32; 48];
        x[0] = 12.0;
        x[1] = -1.0;
        x[16] = 6.0;
        x[17] = 0.3;
        // 12 / (6 * 2) = 1 and 6 / 12 = 0.5: steps 2 and 1.
        let q = QuantisedRow::quantise(&x, 2.0);
        assert_eq!(q.scales, [0x38, 0x30, 0]);
        assert_eq!((q.packed[0], q.packed[8], q.packed[9]), (0x97, 0x17, 0));
        assert_eq!(q.values()[..2], [6.0, -0.5]);
        assert_eq!((q.scale, q.saturated_blocks), (2.0, 0));
        // A scale that is far too small: 448 and +-6.
        let q = QuantisedRow::quantise(&x, 1e-4);
        assert_eq!((q.scales[0], q.packed[0], q.saturated_blocks), (0x7e, 0xf7, 2));
        // Quiet blocks keep the smallest scale.
        x[16] = 1e-3;
        x[17] = 0.0;
        let q = QuantisedRow::quantise(&x, 1.0);
        assert_eq!((q.scales[1], q.packed[8]), (1, 1));
        x[40] = f32::NAN;
        let q = QuantisedRow::quantise(&x, 1.0);
        assert!(q.scale.is_nan() && q.packed.iter().chain(&q.scales).all(|&b| b == 0));
    }
}
