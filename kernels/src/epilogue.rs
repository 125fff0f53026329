//! What every form of the expert GEMMs does with an accumulator: shared, so that all forms give the same bits.

use crate::silu::swiglu_array;

/// The accumulator with its scales: `fold` multiplies the scales first (NVFP4 activations, where alpha is
/// `fl(s_row * global_scale)`); otherwise the row's power of two comes first (bf16 activations), which is exact as
/// long as nothing leaves the range. f32, one rounding per operation.
#[inline(always)]
pub fn scaled(acc: f32, b_scale: f32, alpha: f32, fold: bool) -> f32 {
    if fold { acc * (b_scale * alpha) } else { (acc * b_scale) * alpha }
}

/// Clamped SwiGLU of `N` accumulators of gate and up; `b_scale[n]` is of the row (token) of element `n`.
#[inline(always)]
pub fn swiglu<const N: usize>(
    gate: [f32; N],
    up: [f32; N],
    b_scale: [f32; N],
    alpha: f32,
    alpha_up: f32,
    fold: bool,
    limit: f32,
) -> [f32; N] {
    let (mut gate, mut up) = (gate, up);
    let mut n = 0;
    while n < N {
        gate[n] = scaled(gate[n], b_scale[n], alpha, fold);
        up[n] = scaled(up[n], b_scale[n], alpha_up, fold);
        n += 1;
    }
    swiglu_array(gate, up, limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_multiplied_in_order() {
        let (s, alpha) = (1.3, 0.77);
        let mut different = 0;
        for n in 0..100u8 {
            let acc = 1.0 + f32::from(n) * 0.01;
            assert_eq!(scaled(acc, s, alpha, true).to_bits(), (acc * (s * alpha)).to_bits());
            assert_eq!(scaled(acc, s, alpha, false).to_bits(), ((acc * s) * alpha).to_bits());
            different += usize::from(scaled(acc, s, alpha, true) != scaled(acc, s, alpha, false));
        }
        assert!(different > 10);
        assert!(scaled(0.0, f32::NAN, alpha, true).is_nan());
    }

    #[test]
    fn swiglu_is_the_definition() {
        let (gate, up, s) = ([3.0, -200.0], [-40.0, 5.0], [0.5, 2.0]);
        for fold in [false, true] {
            let got = swiglu(gate, up, s, 0.3, 0.7, fold, 10.0);
            for n in 0..2 {
                let want = nvfp4::swiglu::swiglu(
                    scaled(gate[n], s[n], 0.3, fold),
                    scaled(up[n], s[n], 0.7, fold),
                    10.0,
                );
                assert_eq!(got[n].to_bits(), want.to_bits());
            }
        }
    }
}
