//! SwiGLU of sixteen elements without branches and without slow divisions.
//!
//! [`swiglu_group`] is [`nvfp4::swiglu::swiglu`] of each element, bit for bit. The definition's `exp` returns early
//! on overflow and underflow, and a correctly rounded division ends in a rarely taken branch; on a GPU each of
//! them parts a warp and keeps the sixteen elements from overlapping. Where every gate is within +-80, nothing
//! special can happen, and the group takes straight-line code; SiLU is a function of one f32, and the test
//! `silu_equals_the_definition` compares that code with the definition (all 2^31 floats of the range when
//! `MEGAMOE_EXHAUSTIVE=1`, a sample else). Any other group takes the definition itself.

use cuda_std::convergence::opaque_u32;
use cuda_std::math::{fma, max_nan, min_nan};
use nvfp4::{BLOCK, swiglu};

/// Largest |gate| of the straight-line code.
const GATE_MAX: f32 = 80.0;

// The constants of `nvfp4::math::exp`.
const LOG2_E: f32 = core::f32::consts::LOG2_E;
const LN2_HI: f32 = 0.693_145_75;
const LN2_LO: f32 = 1.428_606_8e-6;
const ROUND_MAGIC: f32 = 12_582_912.0;

/// `1 + exp(x)` for |x| <= [`GATE_MAX`], with the roundings of `nvfp4::math::exp`: a fused multiply-add stands
/// only where the product is exact.
#[inline(always)]
fn one_plus_exp(x: f32) -> f32 {
    let shifted = x * LOG2_E + ROUND_MAGIC;
    let n = shifted - ROUND_MAGIC;
    let r = fma(-n, LN2_HI, x) - n * LN2_LO;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_6e-1;
    p = p * r + 0.5;
    let e = p * (r * r) + r + 1.0;
    // `shifted` holds n in its low bits.
    let two_to_n = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    fma(e, two_to_n, 1.0)
}

/// `a / d` for 1 <= d < 2^117, correctly rounded for every pair that [`silu`] can form.
///
/// A reciprocal from a bit trick (within 5 %), one cubic and two quadratic Newton steps, then one step on the
/// quotient (Markstein). The last step on the reciprocal starts one unit too high, which makes it round right for
/// the divisor just below 2, where Newton from below would not.
#[inline(always)]
fn divide(a: f32, d: f32) -> f32 {
    let y = f32::from_bits(0x7ef1_27ea_u32.wrapping_sub(d.to_bits()));
    let e = fma(-d, y, 1.0);
    let y = fma(fma(e, e, e), y, y);
    let y = fma(fma(-d, y, 1.0), y, y);
    let y = f32::from_bits(y.to_bits().wrapping_add(1));
    let y = fma(fma(-d, y, 1.0), y, y);
    let q = a * y;
    let q = fma(fma(-q, d, a), y, q);
    // A zero has lost its sign on the way.
    f32::from_bits((q.to_bits() & 0x7fff_ffff) | (a.to_bits() & 0x8000_0000))
}

/// [`nvfp4::swiglu::silu`] for |gate| <= [`GATE_MAX`]; NaN gives NaN.
#[inline(always)]
fn silu(gate: f32) -> f32 {
    divide(gate, one_plus_exp(-gate))
}

/// [`nvfp4::swiglu::swiglu`] of each pair; `limit` is positive, not NaN. NaN results may differ in their bits.
#[inline(always)]
pub fn swiglu_group(gate: [f32; BLOCK], up: [f32; BLOCK], limit: f32) -> [f32; BLOCK] {
    swiglu_array(gate, up, limit)
}

/// [`swiglu_group`] for any number of pairs, which must be known where it is inlined.
#[inline(always)]
pub fn swiglu_array<const N: usize>(gate: [f32; N], up: [f32; N], limit: f32) -> [f32; N] {
    let (mut gate, mut up) = (gate, up);
    let mut largest = 0.0f32;
    let mut j = 0;
    while j < N {
        gate[j] = min_nan(gate[j], limit);
        up[j] = max_nan(min_nan(up[j], limit), -limit);
        // Drops NaN, which the straight-line code may see.
        largest = largest.max(gate[j].abs());
        j += 1;
    }
    if largest <= GATE_MAX {
        j = 0;
        while j < N {
            gate[j] = silu(gate[j]) * up[j];
            j += 1;
        }
    } else {
        // Rare. A loop over the first element and a rotation: indices stay constants, the arrays stay registers,
        // and the code is there once. The trip count is hidden, or it would be unrolled.
        let mut left = opaque_u32(N as u32);
        while left != 0 {
            let result = swiglu::swiglu(gate[0], up[0], limit);
            gate = rotate(gate, result);
            up = rotate(up, up[0]);
            left -= 1;
        }
    }
    gate
}

/// The array without its first element and with `last` behind.
#[inline(always)]
fn rotate<const N: usize>(v: [f32; N], last: f32) -> [f32; N] {
    let mut rotated = [last; N];
    let mut j = 1;
    while j < N {
        rotated[j - 1] = v[j];
        j += 1;
    }
    rotated
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(a: f32, b: f32) -> bool {
        a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
    }

    #[test]
    fn silu_equals_the_definition() {
        let step = if std::env::var_os("MEGAMOE_EXHAUSTIVE").is_some() { 1 } else { 211 };
        let near = |x: f32| (x.to_bits() - 3000..x.to_bits() + 3000).map(f32::from_bits);
        // 2^-23 and its neighbours divide by the float below 2; 2.975e-6 failed without the unit on top.
        let hard = [1.192_092_9e-7, 2.975_459_4e-6, 17.0, 30.0, 79.9995].into_iter().flat_map(near);
        let all = (0..=GATE_MAX.to_bits()).step_by(step).map(f32::from_bits).chain(hard);
        for gate in all.flat_map(|x| [x, -x]).filter(|x| x.abs() <= GATE_MAX) {
            let (got, want) = (silu(gate), swiglu::silu(gate));
            assert!(same(got, want), "silu({gate:e}): {got:e}, expected {want:e}");
        }
        assert!(silu(f32::NAN).is_nan());
    }

    #[test]
    fn groups_equal_the_definition() {
        let values = [
            0.0,
            -0.0,
            0.5,
            -3.0,
            7.0,
            7.5,
            -7.0,
            -9.0,
            79.0,
            -79.0,
            -81.0,
            88.5,
            -88.5,
            -90.0,
            -200.0,
            1e30,
            -1e30,
            1e-40,
            -1e-40,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
        ];
        for limit in [7.0, 0.1, 100.0, f32::INFINITY] {
            for (n, &first) in values.iter().enumerate() {
                for shift in 0..values.len() {
                    // A group of small gates with one special one, and one of all kinds.
                    let one = core::array::from_fn(|j| if j == n % BLOCK { first } else { j as f32 - 8.0 });
                    let many = core::array::from_fn(|j| values[(n + j) % values.len()]);
                    let up: [f32; BLOCK] = core::array::from_fn(|j| values[(j + shift) % values.len()]);
                    for gate in [one, many] {
                        let got = swiglu_group(gate, up, limit);
                        for j in 0..BLOCK {
                            let want = swiglu::swiglu(gate[j], up[j], limit);
                            assert!(
                                same(got[j], want),
                                "{j}: {:e} {:e} {limit}: {:e} {want:e}",
                                gate[j],
                                up[j],
                                got[j]
                            );
                        }
                    }
                }
            }
        }
    }
}
