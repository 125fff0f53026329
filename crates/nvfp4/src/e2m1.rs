//! E2M1 (FP4): sign, two exponent bits (bias 1), one mantissa bit. Magnitudes 0, 0.5, 1, 1.5, 2, 3, 4, 6.
//!
//! Rounding is that of `cvt.rn.satfinite.e2m1x2.f32` (PTX ISA 9.7.9.22): nearest, ties to the even code,
//! saturating, sign kept (so -0 is code 8), NaN -> +6 (code 7).

/// Magnitude of each code `0..8`.
pub const MAGNITUDES: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

/// Largest magnitude.
pub const MAX: f32 = 6.0;

/// f32 to a code in `0..16`.
///
/// The thresholds are the midpoints of neighbouring magnitudes; `>=` where the tie goes up to the even code,
/// `>` where it stays on the even code below.
#[inline(always)]
pub const fn encode(x: f32) -> u8 {
    let bits = x.to_bits();
    let mag = f32::from_bits(bits & 0x7fff_ffff);
    // NaN fails every comparison, so it must be caught before the sum.
    if bits & 0x7fff_ffff > 0x7f80_0000 {
        return 7;
    }
    let code = (mag > 0.25) as u8
        + (mag >= 0.75) as u8
        + (mag > 1.25) as u8
        + (mag >= 1.75) as u8
        + (mag > 2.5) as u8
        + (mag >= 3.5) as u8
        + (mag > 5.0) as u8;
    code | ((bits >> 28) as u8 & 8)
}

/// Value of the low four bits of `code`; code 8 decodes to -0.
#[inline(always)]
pub const fn decode(code: u8) -> f32 {
    // Built from bits rather than looked up: a table would live in memory on the device.
    let exp = (code >> 1) & 3;
    let man = (code & 1) as u32;
    let mag = if exp == 0 {
        if man == 0 { 0 } else { 0x3f00_0000 }
    } else {
        ((exp as u32 + 126) << 23) | (man << 22)
    };
    f32::from_bits(mag | ((code as u32 & 8) << 28))
}

/// Two codes in a byte: `even` (element 2i) in the low nibble, `odd` (2i + 1) in the high one.
#[inline(always)]
pub const fn pack(even: u8, odd: u8) -> u8 {
    (even & 15) | (odd << 4)
}

/// The (even, odd) codes of a packed byte.
#[inline(always)]
pub const fn unpack(byte: u8) -> (u8, u8) {
    (byte & 15, byte >> 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_codes_round_trip() {
        for c in 0..16u8 {
            assert_eq!(encode(decode(c)), c);
            let m = MAGNITUDES[(c & 7) as usize];
            assert_eq!(decode(c).abs(), m);
            assert_eq!(decode(c).is_sign_negative(), c & 8 != 0);
        }
    }

    #[test]
    fn ties_go_to_even_codes() {
        for (x, code) in [(0.25, 0), (0.75, 2), (1.25, 2), (1.75, 4), (2.5, 4), (3.5, 6), (5.0, 6)] {
            assert_eq!(encode(x), code, "{x}");
            assert_eq!(encode(-x), code | 8, "-{x}");
            assert!(encode(f32::from_bits(x.to_bits() + 1)) >= code);
            assert!(encode(f32::from_bits(x.to_bits() - 1)) <= code);
            assert_ne!(
                encode(f32::from_bits(x.to_bits() + 1)),
                encode(f32::from_bits(x.to_bits() - 1)),
                "{x} is a threshold"
            );
        }
    }

    #[test]
    fn saturates_and_keeps_the_sign() {
        assert_eq!(encode(f32::MAX), 7);
        assert_eq!(encode(f32::NEG_INFINITY), 15);
        assert_eq!(encode(-0.0), 8);
        assert_eq!(encode(-1e-30), 8);
        assert_eq!(encode(f32::NAN), 7);
        assert_eq!(encode(-f32::NAN), 7);
    }

    #[test]
    fn nearest_by_search_over_all_bf16() {
        for bits in 0..=u16::MAX {
            let x = crate::bf16::to_f32(bits);
            if x.is_nan() {
                continue;
            }
            let got = decode(encode(x)).abs();
            let best = MAGNITUDES.iter().map(|m| (m - x.abs()).abs()).fold(f32::INFINITY, f32::min);
            if x.abs() <= MAX {
                assert_eq!((got - x.abs()).abs(), best, "{x}");
            } else {
                assert_eq!(got, MAX);
            }
        }
    }

    #[test]
    fn nibble_order() {
        assert_eq!(pack(0x3, 0xa), 0xa3);
        for b in 0..=255u8 {
            let (e, o) = unpack(b);
            assert_eq!(pack(e, o), b);
        }
    }
}
