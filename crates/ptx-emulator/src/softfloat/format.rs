//! Binary interchange formats.

/// A format with sign, exponent and fraction, infinities and NaNs (IEEE 754 rules).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Exponent bits.
    pub exponent: u32,
    /// Fraction bits.
    pub fraction: u32,
    /// The NaN that operations return.
    pub nan: u64,
}

/// binary16.
pub const F16: Format = Format { exponent: 5, fraction: 10, nan: 0x7fff };
/// bfloat16.
pub const BF16: Format = Format { exponent: 8, fraction: 7, nan: 0x7fff };
/// binary32.
pub const F32: Format = Format { exponent: 8, fraction: 23, nan: 0x7fff_ffff };
/// binary64.
pub const F64: Format = Format { exponent: 11, fraction: 52, nan: 0xfff8_0000_0000_0000 };
/// TensorFloat-32 without the 13 unused low bits of its register form.
pub const TF32: Format = Format { exponent: 8, fraction: 10, nan: 0x3_ffff };

impl Format {
    /// Exponent bias.
    pub const fn bias(self) -> i32 {
        (1 << (self.exponent - 1)) - 1
    }

    /// All ones in the exponent field.
    pub const fn exponent_mask(self) -> u64 {
        (1 << self.exponent) - 1
    }

    /// The sign bit.
    pub const fn sign_bit(self) -> u64 {
        1 << (self.exponent + self.fraction)
    }

    /// Infinity with a sign.
    pub const fn infinity(self, negative: bool) -> u64 {
        (self.exponent_mask() << self.fraction) | self.zero(negative)
    }

    /// Zero with a sign.
    pub const fn zero(self, negative: bool) -> u64 {
        if negative { self.sign_bit() } else { 0 }
    }

    /// The largest finite value with a sign.
    pub const fn largest(self, negative: bool) -> u64 {
        self.infinity(negative) - 1
    }

    /// Whether the bits are a NaN.
    pub const fn is_nan(self, bits: u64) -> bool {
        bits & !self.sign_bit() > self.infinity(false)
    }
}
