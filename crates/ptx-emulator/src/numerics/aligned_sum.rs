//! The tensor-core step of Hopper (and of Blackwell's 16-bit kinds): products and addend aligned to the largest
//! exponent, truncated, added exactly, truncated.
//!
//! One step covers K = 16 products of 16-bit operands, 8 of TF32, 32 of 8-bit ones, plus the f32 addend:
//! 1. products are `significand * 2^(ea + eb)`, not normalised; E is the largest exponent among the non-zero
//!    products and the addend;
//! 2. every magnitude is truncated to `window` fraction bits below 2^E (25; 13 for Hopper FP8);
//! 3. the exact sum is truncated to 24 significant bits (14 for Hopper FP8).

use super::element::{Class, Element, decode_f32};
use super::round::{CANONICAL_NAN, toward_zero};

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

/// `c + sum a[i] * b[i]` as one step. `fraction` is the sum of the operands' fraction bits. Returns f32 bits.
///
/// # Panics
/// If the operands differ in length.
pub fn step(a: &[Element], b: &[Element], c: u32, fraction: u32, unit: Unit) -> u32 {
    assert_eq!(a.len(), b.len(), "operands of one step have the same K");
    let addend = decode_f32(c);
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
        return 0;
    }
    let mut sum = aligned(i64::from(addend.sig), 23, top - addend.exp, unit.window);
    for (x, y) in a.iter().zip(b) {
        sum += aligned(i64::from(x.sig) * i64::from(y.sig), fraction, top - x.exp - y.exp, unit.window);
    }
    toward_zero(i128::from(sum), top - unit.window as i32, unit.result)
}

/// `c + 2^scale * sum a[i] * b[i]`, computed exactly and rounded once to nearest even: what B200's FP8 kinds were
/// seen to do (with c = 0). Returns f32 bits.
///
/// # Panics
/// If the operands differ in length.
pub fn nearest(a: &[Element], b: &[Element], c: u32, fraction: u32, scale: i32) -> u32 {
    assert_eq!(a.len(), b.len(), "operands of one step have the same K");
    let addend = decode_f32(c);
    if let Some(special) = specials(a, b, addend) {
        return special;
    }
    // Products of narrow formats lie within 2^-40 .. 2^40.
    const UNIT: i32 = -44;
    let sum: i128 = a
        .iter()
        .zip(b)
        .map(|(x, y)| i128::from(x.sig * y.sig) << (x.exp + y.exp - fraction as i32 - UNIT).clamp(0, 90))
        .sum();
    let exp = UNIT + scale;
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

fn specials(a: &[Element], b: &[Element], c: Element) -> Option<u32> {
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
        return Some(CANONICAL_NAN);
    }
    if c.class == Class::Infinite {
        infinity(c.sig < 0);
    }
    for (x, y) in a.iter().zip(b) {
        match (x.class, y.class) {
            (Class::Nan, _) | (_, Class::Nan) => return Some(CANONICAL_NAN),
            (Class::Finite, Class::Finite) => {}
            // Infinity times zero.
            _ if (finite(x) && x.sig == 0) || (finite(y) && y.sig == 0) => return Some(CANONICAL_NAN),
            _ => infinity((x.sig < 0) != (y.sig < 0)),
        }
    }
    Some(match (positive, negative) {
        (true, true) => CANONICAL_NAN,
        (true, false) => 0x7f80_0000,
        (false, true) => 0xff80_0000,
        (false, false) => return None,
    })
}
