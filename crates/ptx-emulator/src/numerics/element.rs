//! MMA operands as integers: `value = sig * 2^(exp - FRACTION)`.

/// Class of an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A number.
    Finite,
    /// Infinite, by the sign of `sig`.
    Infinite,
    /// Not a number.
    Nan,
}

/// One operand. `exp` is the *encoded* exponent: that of the smallest normal for subnormals, so that `sig` is
/// not normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Element {
    /// Signed significand, an integer.
    pub sig: i32,
    /// Exponent of the significand's leading position.
    pub exp: i32,
    /// Class.
    pub class: Class,
}

/// An operand format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// IEEE half.
    F16,
    /// bfloat16.
    Bf16,
    /// TF32 in the upper 19 bits of a 32-bit word.
    Tf32,
    /// E4M3FN.
    E4m3,
    /// E5M2.
    E5m2,
    /// E3M2 (FP6) in the low six bits.
    E3m2,
    /// E2M3 (FP6) in the low six bits.
    E2m3,
    /// E2M1 in the low four bits.
    E2m1,
}

impl Format {
    /// Name in PTX.
    pub const fn name(self) -> &'static str {
        match self {
            Format::F16 => "f16",
            Format::Bf16 => "bf16",
            Format::Tf32 => "tf32",
            Format::E4m3 => "e4m3",
            Format::E5m2 => "e5m2",
            Format::E3m2 => "e3m2",
            Format::E2m3 => "e2m3",
            Format::E2m1 => "e2m1",
        }
    }

    /// Bits after the leading one.
    pub const fn fraction(self) -> u32 {
        match self {
            Format::F16 | Format::Tf32 => 10,
            Format::Bf16 => 7,
            Format::E4m3 | Format::E2m3 => 3,
            Format::E5m2 | Format::E3m2 => 2,
            Format::E2m1 => 1,
        }
    }

    /// Exponent bits and bias.
    const fn exponent(self) -> (u32, i32) {
        match self {
            Format::F16 | Format::E5m2 => (5, 15),
            Format::Bf16 | Format::Tf32 => (8, 127),
            Format::E4m3 => (4, 7),
            Format::E3m2 => (3, 3),
            Format::E2m3 | Format::E2m1 => (2, 1),
        }
    }

    /// Decodes bits.
    pub const fn decode(self, bits: u32) -> Element {
        let bits = if matches!(self, Format::Tf32) { bits >> 13 } else { bits };
        let (exp_bits, bias) = self.exponent();
        let fraction = self.fraction();
        let man = (bits & ((1 << fraction) - 1)) as i32;
        let exp = ((bits >> fraction) & ((1 << exp_bits) - 1)) as i32;
        let negative = (bits >> (fraction + exp_bits)) & 1 == 1;
        let top = exp == (1 << exp_bits) - 1;
        let class = match self {
            Format::E4m3 if top && man == 7 => Class::Nan,
            Format::F16 | Format::Bf16 | Format::Tf32 | Format::E5m2 if top => {
                if man == 0 {
                    Class::Infinite
                } else {
                    Class::Nan
                }
            }
            _ => Class::Finite,
        };
        let (sig, exp) = if exp == 0 { (man, 1 - bias) } else { (man | 1 << fraction, exp - bias) };
        Element { sig: if negative { -sig } else { sig }, exp, class }
    }
}

/// An f32 accumulator: 23 fraction bits.
pub const fn decode_f32(bits: u32) -> Element {
    let exp = ((bits >> 23) & 0xff) as i32;
    let man = (bits & 0x007f_ffff) as i32;
    let class = match (exp, man) {
        (255, 0) => Class::Infinite,
        (255, _) => Class::Nan,
        _ => Class::Finite,
    };
    let (sig, exp) = if exp == 0 { (man, -126) } else { (man | 1 << 23, exp - 127) };
    Element { sig: if bits >> 31 == 1 { -sig } else { sig }, exp, class }
}
