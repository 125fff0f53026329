//! Arithmetic in binary64 with rounding to odd, rounded once more to the target format.

use super::{Format, Rounding};

/// `a + b` rounded to odd: exact if representable, else the neighbour with the odd last bit. Rounding that to
/// a format of at most 51 bits gives the correctly rounded sum.
#[inline(always)]
pub fn sum_odd(a: f64, b: f64) -> f64 {
    let s = a + b;
    let t = s - a;
    let error = (a - (s - t)) + (b - t);
    let bits = s.to_bits();
    // A NaN error (infinite sum) compares false both ways.
    let inexact = (error > 0.0) | (error < 0.0);
    let step = u64::from(inexact & (bits & 1 == 0));
    let up = (error > 0.0) == (s > 0.0);
    f64::from_bits(if up { bits.wrapping_add(step) } else { bits.wrapping_sub(step) })
}

/// The sign of an exactly zero sum: negative when rounding down, unless both terms are +0.
#[inline(always)]
pub fn fix_zero(sum: f64, a: f64, b: f64, mode: Rounding) -> f64 {
    let both_positive = a.is_sign_positive() && b.is_sign_positive();
    if mode == Rounding::Down && sum == 0.0 && !both_positive { -0.0 } else { sum }
}

/// Rounds an exact or odd-rounded value to binary32.
#[inline(always)]
pub fn to_f32(x: f64, mode: Rounding) -> f32 {
    let r = x as f32;
    let wide = f64::from(r);
    match mode {
        Rounding::Nearest => r,
        Rounding::Zero if wide.abs() > x.abs() => f32::from_bits(r.to_bits() - 1),
        Rounding::Down if wide > x => r.next_down(),
        Rounding::Up if wide < x => r.next_up(),
        Rounding::NearestAway => f32::from_bits(narrow(super::F32, x, mode) as u32),
        _ => r,
    }
}

/// The magnitude of an exact or odd-rounded finite value as exponent and fraction fields of a format of at most
/// 32 bits with unlimited exponent range above: overflow is the caller's to see.
#[inline(always)]
pub fn magnitude_code(bias: i32, fraction: u32, x: f64, mode: Rounding) -> u64 {
    let bits = x.to_bits();
    let biased = (bits >> 52 & 0x7ff) as i32;
    // Subnormals of binary64 are far below every target: any nonzero bit is sticky.
    let mantissa = bits & ((1 << 52) - 1) | u64::from(biased != 0) << 52;
    let (e, e_min) = (biased - 1023, 1 - bias);
    let shift = (52 - fraction as i32 + (e_min - e).max(0)).min(62) as u32;
    let kept = mantissa >> shift;
    let half = mantissa >> (shift - 1) & 1 == 1;
    let sticky = mantissa & ((1 << (shift - 1)) - 1) != 0;
    let up = mode.rounds_up(bits >> 63 == 1, kept & 1 == 1, half, sticky);
    // A carry into the next binade falls out of the addition.
    (((e.max(e_min) + bias - 1) as u64) << fraction) + kept + u64::from(up)
}

/// Rounds an exact or odd-rounded value to a format of at most 32 bits; NaN gives the format's NaN.
#[inline(always)]
pub fn narrow(f: Format, x: f64, mode: Rounding) -> u64 {
    if x.is_nan() {
        return f.nan;
    }
    let negative = x.is_sign_negative();
    let infinity = f.infinity(false);
    let rounded = magnitude_code(f.bias(), f.fraction, x, mode);
    let magnitude = if x.is_infinite() {
        infinity
    } else if rounded >= infinity {
        if mode.overflows_to_infinity(negative) { infinity } else { infinity - 1 }
    } else {
        rounded
    };
    magnitude | f.zero(negative)
}

/// Exact value of binary16 bits.
#[inline(always)]
pub fn from_f16(bits: u64) -> f64 {
    // The fraction and exponent moved to binary32 places are the value * 2^-112.
    let magnitude = ((bits & 0x7fff) as u32) << 13;
    let scaled = f32::from_bits(magnitude) * f32::from_bits(0x7780_0000);
    let special = if bits & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
    let sign = ((bits & 0x8000) as u32) << 16;
    f64::from(f32::from_bits(scaled.to_bits() | special | sign))
}

/// Exact value of bfloat16 bits.
#[inline(always)]
pub fn from_bf16(bits: u64) -> f64 {
    f64::from(f32::from_bits((bits as u32) << 16))
}

/// Exact value of binary32 bits.
#[inline(always)]
pub fn from_f32(bits: u64) -> f64 {
    f64::from(f32::from_bits(bits as u32))
}
