//! Router scores and the order of selection, as one thread computes them.
//!
//! [`score`] is [`nvfp4::math`]'s, bit for bit; its square root, an integer recurrence there, is one instruction here
//! (both are correctly rounded). [`sort_key`] turns the order of [`nvfp4::routing::beats`] into that of integers.

use cuda_std::math::sqrt;
use nvfp4::math;

/// `scoring` of a kernel: `sqrt(ln(1 + e^x))`.
pub const SQRT_SOFTPLUS: u32 = 0;
/// `scoring` of a kernel: `1 / (1 + e^-x)`.
pub const SIGMOID: u32 = 1;
/// `scoring` of a kernel: softmax over all experts.
pub const SOFTMAX: u32 = 2;

/// [`nvfp4::math::sqrt_softplus`].
#[inline(always)]
pub fn sqrt_softplus(x: f32) -> f32 {
    if x < -18.0 { math::exp(0.5 * x) } else { sqrt(math::softplus(x)) }
}

/// The score of a logit, for [`SQRT_SOFTPLUS`] and [`SIGMOID`].
#[inline(always)]
pub fn score(x: f32, scoring: u32) -> f32 {
    if scoring == SIGMOID { math::sigmoid(x) } else { sqrt_softplus(x) }
}

/// The key of a candidate that is taken, or not there: below every [`sort_key`].
pub const TAKEN: u32 = 0;

/// An integer that orders like [`nvfp4::routing::beats`]: equal for -0 and +0, 1 for every NaN, larger for all numbers.
#[inline(always)]
pub fn sort_key(key: f32) -> u32 {
    if key.is_nan() {
        return 1;
    }
    // Turns -0 into +0.
    let bits = (key + 0.0).to_bits();
    if bits & 0x8000_0000 != 0 { !bits } else { bits | 0x8000_0000 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nvfp4::routing::beats;

    #[test]
    fn scores_equal_the_definition() {
        let step = if std::env::var_os("MEGAMOE_EXHAUSTIVE").is_some() { 1 } else { 1009 };
        for bits in (0..=u32::MAX).step_by(step) {
            let x = f32::from_bits(bits);
            let (got, want) = (sqrt_softplus(x), math::sqrt_softplus(x));
            assert!(
                got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(),
                "{x:e}: {got:e} {want:e}"
            );
        }
    }

    #[test]
    fn keys_order_like_beats() {
        let values = [
            0.0,
            -0.0,
            1.0,
            -1.0,
            1e-45,
            -1e-45,
            f32::MAX,
            f32::MIN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
            -f32::NAN,
        ];
        for (i, &a) in values.iter().enumerate() {
            assert!(sort_key(a) > TAKEN);
            for (j, &b) in values.iter().enumerate() {
                let (x, y) = ((sort_key(a), !i), (sort_key(b), !j));
                assert_eq!(x > y, beats(a, i as u32, b, j as u32), "{a} {b}");
            }
        }
    }
}
