//! Activation rows as f16: what the GEMMs' B operand holds.
//!
//! A bf16 row enters under a power of two that brings its largest magnitude to 2^15..2^16, exactly unless a value is
//! below 2^-32 of that maximum; a quantised block as its products `e2m1 * e4m3`, which are exact in f16.

use cuda_std::half::{f16x2_from_e4m3x2_low, f16x2_from_f32, mul_f16x2};
use cuda_std::math::prmt;
use nvfp4::quantize::{Block, NON_FINITE_BITS};

use crate::group::Bf16Group;

/// Columns of a unit of the B operand: rows are padded with zeros to a multiple of it.
pub const UNIT: u32 = 64;
/// Exponent that the largest magnitude of a row gets: 2^15 <= |x| < 2^16, and a bf16 there is below f16's maximum.
const TOP: i32 = 15;

/// Sixteen f16, element `2i` in the low half of word `i`.
pub type F16Group = [u32; 8];

/// The power of two of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowPower {
    /// Two factors whose product is `2^s`: `2^s` itself may be too large for an f32.
    factors: [f32; 2],
    /// `2^-s`, exact; NaN for a row with NaN or infinity.
    pub scale: f32,
}

/// 2^n for -149 <= n <= 127.
#[inline(always)]
fn exp2(n: i32) -> f32 {
    f32::from_bits(if n >= -126 { ((n + 127) as u32) << 23 } else { 1 << (149 + n) })
}

impl RowPower {
    /// Of a row whose largest magnitude has these bits. A row of zeros has the scale 1, and so has none that is not.
    #[inline(always)]
    pub fn of(amax_bits: u32) -> Self {
        if amax_bits == 0 {
            return Self { factors: [1.0; 2], scale: 1.0 };
        }
        if amax_bits >= NON_FINITE_BITS {
            return Self { factors: [0.0; 2], scale: f32::NAN };
        }
        // floor(log2(amax)): from the exponent, or the leading bit of a subnormal.
        let exponent = (amax_bits >> 23) as i32;
        let log2 = if exponent != 0 { exponent - 127 } else { -118 - amax_bits.leading_zeros() as i32 };
        let s = TOP - log2;
        // Halves of -112 ..= 164: each a normal number. A product that underflows on the way ends as zero anyway.
        let half = s / 2;
        Self { factors: [exp2(half), exp2(s - half)], scale: exp2(-s) }
    }

    /// Sixteen bf16 as f16 times the power; zeros for a row that is not finite.
    #[inline(always)]
    pub fn group(self, x: &Bf16Group) -> F16Group {
        self.words(x.0)
    }

    /// As [`Self::group`], of words of two.
    #[inline(always)]
    pub fn words<const N: usize>(self, x: [u32; N]) -> [u32; N] {
        let mut out = [0; N];
        if self.scale.is_nan() {
            return out;
        }
        let mut i = 0;
        while i < N {
            let scaled = |bits: u32| f32::from_bits(bits) * self.factors[0] * self.factors[1];
            out[i] = f16x2_from_f32(scaled(x[i] << 16), scaled(x[i] & 0xffff_0000));
            i += 1;
        }
        out
    }
}

/// The products `e2m1 * e4m3` of a block.
#[inline(always)]
pub fn block_products(block: Block) -> F16Group {
    // High bytes of the f16 of 0, 0.5, 1, 1.5 and of 2, 3, 4, 6; the low bytes are 0.
    const SMALL: u32 = 0x3e3c_3800;
    const LARGE: u32 = 0x4644_4240;
    let scale = u32::from(block.scale);
    let scale = f16x2_from_e4m3x2_low(scale | scale << 8);
    let mut out = [0; 8];
    let mut half = 0;
    while half < 2 {
        let w = (block.codes >> (32 * half)) as u32;
        let m = w & 0x7777_7777;
        let (p, q) = (prmt(SMALL, LARGE, m & 0xffff), prmt(SMALL, LARGE, m >> 16));
        let signs = |low: u32, high: u32| (low & 0x8000) | (high & 0x8000_0000);
        let words = [
            prmt(p, 0, 0x1404) | signs(w << 12, w << 24),
            prmt(p, 0, 0x3424) | signs(w << 4, w << 16),
            prmt(q, 0, 0x1404) | signs(w >> 4, w << 8),
            prmt(q, 0, 0x3424) | signs(w >> 12, w),
        ];
        let mut i = 0;
        while i < 4 {
            out[4 * half + i] = mul_f16x2(words[i], scale);
            i += 1;
        }
        half += 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::Group;
    use cuda_std::half::f32_from_f16;
    use nvfp4::bf16;

    fn values(group: F16Group) -> [f32; 16] {
        core::array::from_fn(|i| f32_from_f16((group[i / 2] >> (16 * (i % 2))) as u16))
    }

    #[test]
    fn products_are_exact() {
        for scale in 0..nvfp4::e4m3::NAN {
            for shift in 0..16u64 {
                let codes = (0..16).fold(0, |c, i| c | ((i + shift) % 16) << (4 * i));
                let got = values(block_products(Block { codes, scale }));
                for (i, got) in got.into_iter().enumerate() {
                    let want = nvfp4::quantize::dequantize_unscaled((codes >> (4 * i) & 15) as u8, scale);
                    assert_eq!(got.to_bits(), want.to_bits(), "scale {scale:#x}, code {i}");
                }
            }
        }
    }

    #[test]
    fn every_bf16_maximum() {
        for bits in 0..0x7f80u32 {
            let power = RowPower::of(bits << 16);
            let words = core::array::from_fn(|i| (bits >> i) | (bits >> (i + 3) | 0x8000) << 16);
            let x = Bf16Group(words);
            let got = values(power.group(&x));
            if bits != 0 {
                assert!((32768.0..65536.0).contains(&got[0]), "{bits:#x}: {}", got[0]);
            }
            for (got, x) in got.into_iter().zip(x.values()) {
                // All of the elements are bf16 patterns at most 2^11 binades of subnormal or mantissa bits lower; f64
                // holds any product.
                let want = f64::from(x) / f64::from(power.scale);
                let rounded = if want.abs() < 2f64.powi(-17) { f64::from(got) } else { want };
                assert_eq!(f64::from(got), rounded, "{bits:#x} {x:e}");
                assert!((f64::from(got) - want).abs() <= 2f64.powi(-25), "{bits:#x} {x:e}");
                assert_eq!(got.is_sign_negative(), x.is_sign_negative());
            }
        }
        assert_eq!(bf16::to_f32(0x7f7f) * RowPower::of(0x7f7f << 16).factors[0].powi(2), 65280.0);
    }

    #[test]
    fn special_rows() {
        assert_eq!(RowPower::of(0).scale, 1.0);
        for bits in [0x7f80_0000, 0x7fc0_0000] {
            let power = RowPower::of(bits);
            assert!(power.scale.is_nan());
            assert_eq!(power.group(&Bf16Group([0x7f80_3f80; 8])), [0; 8]);
        }
    }
}
