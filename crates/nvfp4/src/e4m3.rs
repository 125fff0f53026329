//! E4M3FN (FP8): sign, four exponent bits (bias 7), three mantissa bits, no infinities; largest value 448.
//!
//! Rounding is that of `cvt.rn.satfinite.e4m3x2.f32` (PTX ISA 9.7.9.22): nearest, ties to even, overflow and
//! infinities saturate to 448, sign kept, NaN -> 0x7F.

/// Largest finite value.
pub const MAX: f32 = 448.0;
/// Smallest positive (subnormal) value, 2^-9, code 1.
pub const MIN_POSITIVE: f32 = 0.001953125;
/// The code written for NaN.
pub const NAN: u8 = 0x7f;
/// The code of [`MAX`].
pub const MAX_CODE: u8 = 0x7e;

/// f32 to an E4M3FN code.
#[inline(always)]
pub const fn encode(x: f32) -> u8 {
    let bits = x.to_bits();
    let mag = bits & 0x7fff_ffff;
    if mag > 0x7f80_0000 {
        return NAN;
    }
    let sign = ((bits >> 24) & 0x80) as u8;
    let code = if mag >= 0x43e0_0000 {
        // >= 448 saturates.
        MAX_CODE
    } else if mag >= 0x3c80_0000 {
        // Normal, >= 2^-6: RNE on the 20 dropped bits, then rebias the exponent from 127 to 7. The carry may
        // move into the exponent; it cannot pass 448 because values up to 464 round to it, and those below
        // 448 round to at most 448.
        let rounded = mag + 0x0007_ffff + ((mag >> 20) & 1);
        ((rounded >> 20) - (120 << 3)) as u8
    } else {
        // Subnormal: multiples of 2^-9. Adding 2^14 puts the unit in the last place at 2^-9, so the f32
        // addition itself rounds to nearest even.
        let magic = 16384.0f32;
        ((f32::from_bits(mag) + magic).to_bits() - magic.to_bits()) as u8
    };
    code | sign
}

/// Exact value of an E4M3FN code; 0x7F and 0xFF are NaN.
#[inline(always)]
pub const fn decode(code: u8) -> f32 {
    let sign = (code as u32 & 0x80) << 24;
    let mag = code as u32 & 0x7f;
    if mag == 0x7f {
        return f32::from_bits(0x7fc0_0000 | sign);
    }
    // Normal codes: shift into place and rebias by 120. Subnormals: an exact integer times 2^-9.
    let value = if mag >= 8 { f32::from_bits((mag << 20) + (120 << 23)) } else { mag as f32 * MIN_POSITIVE };
    f32::from_bits(value.to_bits() | sign)
}

/// Whether a *scale* byte is usable as a block scale: not NaN and not negative (the MMA unit ignores the sign
/// bit, so a negative scale would silently change meaning).
#[inline(always)]
pub const fn is_valid_scale(code: u8) -> bool {
    code < NAN
}

/// Whether a scale byte is zero or a power of two (mantissa bits clear, or a subnormal with one bit set):
/// the mark of a lossless MXFP4 origin.
#[inline(always)]
pub const fn is_power_of_two_or_zero(code: u8) -> bool {
    let code = code & 0x7f;
    if code >= 8 { code & 7 == 0 } else { code == 0 || code == 1 || code == 2 || code == 4 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_codes_round_trip() {
        for c in 0..=255u8 {
            let v = decode(c);
            if c & 0x7f == 0x7f {
                assert!(v.is_nan());
                assert_eq!(encode(v), NAN);
            } else {
                assert_eq!(encode(v), c, "{v}");
            }
        }
        assert_eq!(decode(MAX_CODE), MAX);
        assert_eq!(decode(1), MIN_POSITIVE);
    }

    #[test]
    fn decode_by_definition() {
        for c in 0..0x7fu8 {
            let (e, m) = (i32::from(c >> 3), f64::from(c & 7));
            let v = if e == 0 { m / 8.0 * 2f64.powi(-6) } else { (1.0 + m / 8.0) * 2f64.powi(e - 7) };
            assert_eq!(f64::from(decode(c)), v);
            assert_eq!(f64::from(decode(c | 0x80)), -v);
        }
    }

    #[test]
    fn midpoints_tie_to_even() {
        for c in 0..MAX_CODE {
            let mid = ((f64::from(decode(c)) + f64::from(decode(c + 1))) / 2.0) as f32;
            let even = if c & 1 == 0 { c } else { c + 1 };
            assert_eq!(encode(mid), even, "midpoint above code {c}");
            assert_eq!(encode(f32::from_bits(mid.to_bits() + 1)), c + 1);
            assert_eq!(encode(f32::from_bits(mid.to_bits() - 1)), c);
        }
    }

    #[test]
    fn saturation_and_specials() {
        assert_eq!(encode(1e30), MAX_CODE);
        assert_eq!(encode(f32::INFINITY), MAX_CODE);
        assert_eq!(encode(f32::NEG_INFINITY), MAX_CODE | 0x80);
        assert_eq!(encode(463.9), MAX_CODE);
        assert_eq!(encode(465.0), MAX_CODE);
        assert_eq!(encode(-0.0), 0x80);
        assert_eq!(encode(f32::NAN), NAN);
        assert_eq!(encode(f32::from_bits(1)), 0);
    }

    #[test]
    fn power_of_two_codes() {
        for c in 0..0x7fu8 {
            let v = decode(c);
            let pow2 = v == 0.0 || v.log2().fract() == 0.0;
            assert_eq!(is_power_of_two_or_zero(c), pow2, "{v}");
        }
    }
}
