//! The 8-, 6- and 4-bit floating-point formats without infinities.

use super::{Rounding, fast};

/// A format whose largest magnitude codes are finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Small {
    /// Exponent bias.
    pub bias: i32,
    /// Fraction bits.
    pub fraction: u32,
    /// Bits without the sign.
    pub bits: u32,
    /// The code of the largest finite magnitude.
    pub largest: u8,
    /// The code written for NaN; the largest positive value where there is no NaN.
    pub nan: u8,
    /// Whether magnitude codes above [`Self::largest`] are infinity (only E5M2's 0x7C) or NaN.
    pub ieee: bool,
}

/// E2M1: +-6.
pub const E2M1: Small = Small { bias: 1, fraction: 1, bits: 3, largest: 7, nan: 7, ieee: false };
/// E2M3: +-7.5.
pub const E2M3: Small = Small { bias: 1, fraction: 3, bits: 5, largest: 0x1f, nan: 0x1f, ieee: false };
/// E3M2: +-28.
pub const E3M2: Small = Small { bias: 3, fraction: 2, bits: 5, largest: 0x1f, nan: 0x1f, ieee: false };
/// E4M3: +-448.
pub const E4M3: Small = Small { bias: 7, fraction: 3, bits: 7, largest: 0x7e, nan: 0x7f, ieee: false };
/// E5M2: +-57344.
pub const E5M2: Small = Small { bias: 15, fraction: 2, bits: 7, largest: 0x7b, nan: 0x7f, ieee: true };

impl Small {
    /// The code of an exact value, saturating (`.satfinite`).
    pub fn encode(self, x: f64, mode: Rounding) -> u8 {
        if x.is_nan() {
            return self.nan;
        }
        let magnitude = if x.is_infinite() {
            self.largest
        } else {
            fast::magnitude_code(self.bias, self.fraction, x, mode).min(u64::from(self.largest)) as u8
        };
        magnitude | u8::from(x.is_sign_negative()) << self.bits
    }

    /// Exact value of a code.
    pub fn decode(self, code: u8) -> f64 {
        let magnitude = code & ((1 << self.bits) - 1);
        let negative = code >> self.bits & 1 == 1;
        let fraction = magnitude & ((1 << self.fraction) - 1);
        let exponent = i32::from(magnitude >> self.fraction);
        let value = if magnitude > self.largest {
            if self.ieee && fraction == 0 { f64::INFINITY } else { f64::NAN }
        } else {
            let hidden = if exponent == 0 { 0 } else { 1 << self.fraction };
            let power = exponent.max(1) - self.bias - self.fraction as i32;
            f64::from(hidden | fraction) * 2f64.powi(power)
        };
        if negative { -value } else { value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every code of the two formats that crate `nvfp4` has, both ways, and the values around every tie.
    #[test]
    fn agrees_with_nvfp4() {
        for code in 0..=255u8 {
            let (ours, theirs) = (E4M3.decode(code), nvfp4::e4m3::decode(code));
            assert!(ours == f64::from(theirs) || ours.is_nan() && theirs.is_nan(), "{code:#x}");
            if code < 16 {
                assert_eq!(E2M1.decode(code), f64::from(nvfp4::e2m1::decode(code)));
            }
        }
        let values = (0..=0xffff_u32).map(|h| f32::from_bits(h << 16)).chain((0..127).flat_map(|c| {
            let (a, b) = (nvfp4::e4m3::decode(c), nvfp4::e4m3::decode(c + 1));
            let tie = (a + b) / 2.0;
            [tie.next_down(), tie, tie.next_up(), -tie]
        }));
        for x in values {
            let wide = f64::from(x);
            assert_eq!(E4M3.encode(wide, Rounding::Nearest), nvfp4::e4m3::encode(x), "{x}");
            assert_eq!(E2M1.encode(wide, Rounding::Nearest), nvfp4::e2m1::encode(x), "{x}");
        }
    }

    #[test]
    fn largest_values() {
        for (format, largest) in [(E2M3, 7.5), (E3M2, 28.0), (E5M2, 57344.0)] {
            assert_eq!(format.decode(format.largest), largest);
            assert_eq!(format.encode(1e9, Rounding::Nearest), format.largest);
            for code in 0..=format.largest {
                assert_eq!(format.encode(format.decode(code), Rounding::Zero), code);
            }
        }
    }
}
