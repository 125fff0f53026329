//! The tensor-core step of Hopper (and of Blackwell's 16-bit kinds): products and addend aligned to the largest
//! exponent, truncated, added exactly, truncated.
//!
//! One step covers K = 16 products of 16-bit operands, 8 of TF32, 32 of 8-bit ones, plus the f32 addend:
//! 1. products are `significand * 2^(ea + eb)`, not normalised; E is the largest exponent among the non-zero
//!    products and the addend;
//! 2. every magnitude is truncated to `window` fraction bits below 2^E (25; 13 for Hopper FP8);
//! 3. the exact sum is truncated to 24 significant bits (14 for Hopper FP8).

use super::element::{Class, Element, Format, decode_f32};
use super::round::{CANONICAL_NAN, toward_zero};
use crate::softfloat::exact::{self, Exact};
use crate::softfloat::{F16, Rounding};

/// Widths of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Fraction bits kept below the largest exponent.
    pub window: u32,
    /// Significant bits of the result.
    pub result: u32,
}

/// 16-bit and TF32 operands, Hopper and Blackwell.
pub const WIDE: Unit = Unit { window: 25, result: 24 };
/// FP8 operands on Hopper.
pub const HOPPER_FP8: Unit = Unit { window: 13, result: 14 };

/// The addend of a step: an element with its fraction bits.
#[derive(Clone, Copy, Debug)]
pub struct Addend {
    element: Element,
    fraction: u32,
}

impl Addend {
    /// f32 bits.
    pub const fn f32(bits: u32) -> Self {
        Self { element: decode_f32(bits), fraction: 23 }
    }

    /// binary16 bits.
    pub const fn f16(bits: u32) -> Self {
        Self { element: Format::F16.decode(bits & 0xffff), fraction: 10 }
    }

    /// Times `2^-by`.
    #[must_use]
    pub const fn scaled_down(mut self, by: u32) -> Self {
        self.element.exp -= by as i32;
        self
    }
}

/// A sum before it is rounded to the accumulator's format.
#[derive(Debug, PartialEq)]
enum Sum {
    Nan,
    Infinity(bool),
    /// An integer times a power of two.
    Finite(i128, i32),
}

/// The type of the accumulator, with the width of the unit's results in f32.
fn finish(sum: &Sum, unit: Unit) -> u32 {
    match *sum {
        Sum::Nan => CANONICAL_NAN,
        Sum::Infinity(negative) => 0x7f80_0000 | u32::from(negative) << 31,
        Sum::Finite(value, exp) => toward_zero(value, exp, unit.result),
    }
}

/// A sum rounded to nearest binary16; zero is +0.
fn finish_f16(sum: &Sum) -> u32 {
    match *sum {
        Sum::Nan => F16.nan as u32,
        Sum::Infinity(negative) => F16.infinity(negative) as u32,
        Sum::Finite(0, _) => 0,
        Sum::Finite(value, exponent) => {
            let x = Exact { negative: value < 0, exponent, magnitude: value.unsigned_abs() };
            exact::round(F16, Rounding::Nearest, x) as u32
        }
    }
}

/// `c + sum a[i] * b[i]` as one step. `fraction` is the sum of the operands' fraction bits. Returns f32 bits.
///
/// # Panics
/// If the operands differ in length.
pub fn step(a: &[Element], b: &[Element], c: u32, fraction: u32, unit: Unit) -> u32 {
    step_onto(a, b, Addend::f32(c), fraction, unit)
}

/// As [`step`], with any addend.
///
/// # Panics
/// If the operands differ in length.
pub fn step_onto(a: &[Element], b: &[Element], c: Addend, fraction: u32, unit: Unit) -> u32 {
    finish(&aligned_sum(a, b, c, fraction, unit), unit)
}

/// As [`step_onto`], with a binary16 accumulator: the aligned sum is rounded once, to nearest.
///
/// # Panics
/// If the operands differ in length.
pub fn step_f16(a: &[Element], b: &[Element], c: Addend, fraction: u32, unit: Unit) -> u32 {
    finish_f16(&aligned_sum(a, b, c, fraction, unit))
}

fn aligned_sum(a: &[Element], b: &[Element], c: Addend, fraction: u32, unit: Unit) -> Sum {
    assert_eq!(a.len(), b.len(), "operands of one step have the same K");
    short_sum(a, b, c, fraction, unit).unwrap_or_else(|| long_sum(a, b, c, fraction, unit))
}

fn long_sum(a: &[Element], b: &[Element], c: Addend, fraction: u32, unit: Unit) -> Sum {
    let addend = c.element;
    if let Some(special) = specials(a, b, addend) {
        return special;
    }
    // Zero terms do not take part in the alignment.
    let mut top = if addend.sig == 0 { i32::MIN } else { addend.exp };
    for (x, y) in a.iter().zip(b) {
        if x.sig != 0 && y.sig != 0 {
            top = top.max(x.exp + y.exp);
        }
    }
    if top == i32::MIN {
        return Sum::Finite(0, 0);
    }
    let mut sum = aligned(i64::from(addend.sig), c.fraction, top - addend.exp, unit.window);
    for (x, y) in a.iter().zip(b) {
        sum += aligned(i64::from(x.sig) * i64::from(y.sig), fraction, top - x.exp - y.exp, unit.window);
    }
    Sum::Finite(i128::from(sum), top - unit.window as i32)
}

/// Most products of a step.
const MOST: usize = 32;

/// [`aligned_sum`] of finite operands in 32-bit integers, where they are wide enough: the formats that occur.
fn short_sum(a: &[Element], b: &[Element], c: Addend, fraction: u32, unit: Unit) -> Option<Sum> {
    let n = a.len();
    // A product has two bits above its fraction; so shifted, n of them stay below 2^31.
    let bits = unit.window + 2 + n.next_power_of_two().trailing_zeros();
    if n > MOST || fraction > unit.window || bits > 31 || c.element.class != Class::Finite {
        return None;
    }
    /// Below every exponent of a product.
    const ZERO: i32 = -(1 << 20);
    let (mut products, mut exponents) = ([0i32; MOST], [ZERO; MOST]);
    let mut is_finite = true;
    let mut top = if c.element.sig == 0 { ZERO } else { c.element.exp };
    for (i, (x, y)) in a.iter().zip(b).enumerate() {
        is_finite &= x.class == Class::Finite && y.class == Class::Finite;
        products[i] = x.sig * y.sig;
        // A zero takes no part in the alignment.
        exponents[i] = if products[i] == 0 { ZERO } else { x.exp + y.exp };
        top = top.max(exponents[i]);
    }
    if !is_finite {
        return None;
    }
    if top == ZERO {
        return Some(Sum::Finite(0, 0));
    }
    let mut sum = 0i32;
    for (product, exponent) in products[..n].iter().zip(&exponents[..n]) {
        let magnitude = (product.unsigned_abs() << (unit.window - fraction)) >> (top - exponent).min(31);
        let sign = product >> 31;
        sum += (magnitude as i32 ^ sign) - sign;
    }
    let sum =
        i64::from(sum) + aligned(i64::from(c.element.sig), c.fraction, top - c.element.exp, unit.window);
    Some(Sum::Finite(i128::from(sum), top - unit.window as i32))
}

/// The unit of exact sums of narrow formats, whose products lie within 2^-40 .. 2^40.
const NARROW_UNIT: i32 = -44;

fn narrow_sum(a: &[Element], b: &[Element], fraction: u32) -> i128 {
    assert_eq!(a.len(), b.len(), "operands of one step have the same K");
    a.iter()
        .zip(b)
        .map(|(x, y)| {
            i128::from(x.sig * y.sig) << (x.exp + y.exp - fraction as i32 - NARROW_UNIT).clamp(0, 90)
        })
        .sum()
}

/// `c + sum a[i] * b[i]` of narrow formats, exact, rounded once to nearest binary16.
///
/// # Panics
/// If the operands differ in length.
pub fn nearest_f16(a: &[Element], b: &[Element], c: u32, fraction: u32) -> u32 {
    let addend = Addend::f16(c).element;
    let sum = specials(a, b, addend).unwrap_or_else(|| {
        let c = i128::from(addend.sig) << (addend.exp - 10 - NARROW_UNIT);
        Sum::Finite(narrow_sum(a, b, fraction) + c, NARROW_UNIT)
    });
    finish_f16(&sum)
}

/// `c + 2^scale * sum a[i] * b[i]`, computed exactly and rounded once to nearest even: what B200's FP8 kinds were
/// seen to do (with c = 0). Returns f32 bits.
///
/// # Panics
/// If the operands differ in length.
pub fn nearest(a: &[Element], b: &[Element], c: u32, fraction: u32, scale: i32) -> u32 {
    let addend = decode_f32(c);
    if let Some(special) = specials(a, b, addend) {
        return finish(&special, WIDE);
    }
    let sum = narrow_sum(a, b, fraction);
    let exp = NARROW_UNIT + scale;
    if addend.sig == 0 {
        return super::round::to_nearest(sum, exp);
    }
    if sum == 0 {
        return c;
    }
    // Bring both to the finer unit. The sum has at most 82 bits; where the shift would not fit, the smaller term
    // is far below half a unit in the last place of the larger.
    let addend_exp = addend.exp - 23;
    let above = addend_exp - exp;
    if above > 100 {
        return c;
    }
    if above < -40 {
        // Far below the sum's unit: it only decides ties.
        let sticky = i128::from(addend.sig.signum());
        return super::round::to_nearest((sum << 2) + sticky, exp - 2);
    }
    let sig = i128::from(addend.sig);
    let total = if above >= 0 { sum + (sig << above) } else { (sum << -above) + sig };
    super::round::to_nearest(total, exp.min(addend_exp))
}

/// `value * 2^-fraction`, `below` binades under the top, in units of 2^-window of the top, truncated.
#[inline(always)]
fn aligned(value: i64, fraction: u32, below: i32, window: u32) -> i64 {
    let shift = window as i32 - fraction as i32 - below;
    if value == 0 {
        // A zero takes no part in the alignment: its exponent may be far above the top.
        0
    } else if shift >= 0 {
        value << shift
    } else {
        let s = (-shift).min(63);
        if value < 0 { -(-value >> s) } else { value >> s }
    }
}

fn specials(a: &[Element], b: &[Element], c: Element) -> Option<Sum> {
    let finite = |e: &Element| e.class == Class::Finite;
    if finite(&c) && a.iter().all(finite) && b.iter().all(finite) {
        return None;
    }
    let (mut positive, mut negative) = (false, false);
    let mut infinity = |is_negative: bool| {
        positive |= !is_negative;
        negative |= is_negative;
    };
    if c.class == Class::Nan {
        return Some(Sum::Nan);
    }
    if c.class == Class::Infinite {
        infinity(c.sig < 0);
    }
    for (x, y) in a.iter().zip(b) {
        match (x.class, y.class) {
            (Class::Nan, _) | (_, Class::Nan) => return Some(Sum::Nan),
            (Class::Finite, Class::Finite) => {}
            // Infinity times zero.
            _ if (finite(x) && x.sig == 0) || (finite(y) && y.sig == 0) => return Some(Sum::Nan),
            _ => infinity((x.sig < 0) != (y.sig < 0)),
        }
    }
    Some(match (positive, negative) {
        (true, true) => Sum::Nan,
        (true, false) => Sum::Infinity(false),
        (false, true) => Sum::Infinity(true),
        (false, false) => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_sums_are_the_long_ones() {
        let mut state = 1u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u32
        };
        for (format, bits, k, unit) in [
            (Format::F16, 16, 16, WIDE),
            (Format::Bf16, 16, 16, WIDE),
            (Format::Tf32, 32, 8, WIDE),
            (Format::E4m3, 8, 32, HOPPER_FP8),
            (Format::E5m2, 8, 32, HOPPER_FP8),
        ] {
            let (mut short, mut long) = (0, 0);
            for round in 0..2000 {
                // The largest significands in some rounds, zeros in others, any bits (specials too) in the rest.
                let mut element =
                    || match (round % 4, random() >> (31 - bits.min(31)) & u32::MAX >> (32 - bits)) {
                        (0, r) => Element {
                            sig: format.decode(r).sig.signum() * ((2 << format.fraction()) - 1),
                            ..format.decode(0)
                        },
                        (1, r) if r % 3 == 0 => format.decode(0),
                        (_, r) => format.decode(r),
                    };
                let (a, b): (Vec<_>, Vec<_>) = (0..k).map(|_| (element(), element())).unzip();
                let c =
                    if round % 8 < 4 { Addend::f32(random() << 1 ^ random()) } else { Addend::f16(random()) };
                let want = long_sum(&a, &b, c, 2 * format.fraction(), unit);
                match short_sum(&a, &b, c, 2 * format.fraction(), unit) {
                    Some(got) => {
                        assert_eq!(got, want, "{format:?} {a:?} {b:?} {c:?}");
                        short += 1;
                    }
                    None => long += 1,
                }
            }
            assert!(short > 500 && long > 0, "{format:?}: {short} short, {long} long");
        }
    }
}
