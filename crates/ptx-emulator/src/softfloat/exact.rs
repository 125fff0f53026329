//! Arithmetic on integers: exact results, rounded once.

use super::{Format, Rounding};

/// A finite number: `magnitude * 2^exponent`. A set lowest bit may stand for anything nonzero at or below its
/// place ("sticky"), as long as that place is below the rounding position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exact {
    /// Sign, of zero too.
    pub negative: bool,
    /// Weight of the lowest bit of the magnitude.
    pub exponent: i32,
    /// Magnitude.
    pub magnitude: u128,
}

/// A number of any kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    /// Not a number.
    Nan,
    /// Infinity; negative if set.
    Infinity(bool),
    /// Finite, zero included.
    Finite(Exact),
}

impl Exact {
    /// An integer.
    pub fn integer(negative: bool, magnitude: u128) -> Self {
        Self { negative, exponent: 0, magnitude }
    }

    /// With the highest set bit at bit `top`; bits that fall out at the bottom are jammed into the lowest.
    fn normalised(self, top: u32) -> Self {
        if self.magnitude == 0 {
            return self;
        }
        let msb = self.magnitude.ilog2();
        if msb <= top {
            let up = top - msb;
            Self { magnitude: self.magnitude << up, exponent: self.exponent - up as i32, ..self }
        } else {
            let down = msb - top;
            Self { magnitude: jam(self.magnitude, down), exponent: self.exponent + down as i32, ..self }
        }
    }
}

/// Shifts right; what falls out is jammed into the lowest bit.
fn jam(magnitude: u128, by: u32) -> u128 {
    match by {
        0 => magnitude,
        1..128 => magnitude >> by | u128::from(magnitude & ((1 << by) - 1) != 0),
        _ => u128::from(magnitude != 0),
    }
}

/// What the bits mean.
pub fn decode(f: Format, bits: u64) -> Number {
    let negative = bits & f.sign_bit() != 0;
    let biased = bits >> f.fraction & f.exponent_mask();
    let fraction = bits & ((1 << f.fraction) - 1);
    if biased == f.exponent_mask() {
        return if fraction == 0 { Number::Infinity(negative) } else { Number::Nan };
    }
    let hidden = u64::from(biased != 0) << f.fraction;
    let exponent = biased.max(1) as i32 - f.bias() - f.fraction as i32;
    Number::Finite(Exact { negative, exponent, magnitude: u128::from(hidden | fraction) })
}

/// Rounds to a format; infinite exponent range above is cut as the mode says.
pub fn round(f: Format, mode: Rounding, x: Exact) -> u64 {
    if x.magnitude == 0 {
        return f.zero(x.negative);
    }
    let msb = x.magnitude.ilog2() as i32;
    let e = (x.exponent + msb).max(1 - f.bias());
    let lsb = e - f.fraction as i32;
    let shift = lsb - x.exponent;
    let (mut kept, half, sticky) = match shift {
        i32::MIN..=0 => ((x.magnitude << -shift) as u64, false, false),
        1..=128 => {
            let half = x.magnitude >> (shift - 1) & 1 == 1;
            let sticky = x.magnitude & ((1 << (shift - 1)) - 1) != 0;
            (x.magnitude.checked_shr(shift as u32).unwrap_or(0) as u64, half, sticky)
        }
        _ => (0, false, true),
    };
    kept += u64::from(mode.rounds_up(x.negative, kept & 1 == 1, half, sticky));
    // A carry into the next binade, and one from the subnormals, falls out of the addition.
    let biased = (e + f.bias() - 1) as u64;
    let magnitude = if kept == 0 { 0 } else { (biased << f.fraction) + kept };
    if magnitude >= f.infinity(false) {
        return if mode.overflows_to_infinity(x.negative) {
            f.infinity(x.negative)
        } else {
            f.largest(x.negative)
        };
    }
    magnitude | f.zero(x.negative)
}

/// Exact or sticky sum of two finite numbers.
pub fn sum(a: Exact, b: Exact, mode: Rounding) -> Exact {
    if a.magnitude == 0 && b.magnitude == 0 {
        let negative = if a.negative == b.negative { a.negative } else { mode == Rounding::Down };
        return Exact { negative, exponent: 0, magnitude: 0 };
    }
    if a.magnitude == 0 {
        return b;
    }
    if b.magnitude == 0 {
        return a;
    }
    // The one with the larger leading bit at bit 125: at least 19 zero bits below a 106-bit product.
    let (a, b) = (a.normalised(125), b.normalised(125));
    let (high, low) = if a.exponent >= b.exponent { (a, b) } else { (b, a) };
    let low_magnitude = jam(low.magnitude, (high.exponent - low.exponent).unsigned_abs());
    if high.negative == low.negative {
        return Exact { magnitude: high.magnitude + low_magnitude, ..high };
    }
    let (negative, magnitude) = if high.magnitude >= low_magnitude {
        (high.negative, high.magnitude - low_magnitude)
    } else {
        (low.negative, low_magnitude - high.magnitude)
    };
    let negative = if magnitude == 0 { mode == Rounding::Down } else { negative };
    Exact { negative, exponent: high.exponent, magnitude }
}

/// Exact product of two finite numbers of at most 64 bits each.
pub fn product(a: Exact, b: Exact) -> Exact {
    Exact {
        negative: a.negative != b.negative,
        exponent: a.exponent + b.exponent,
        magnitude: a.magnitude * b.magnitude,
    }
}

/// `a * b + c`.
pub fn fma(f: Format, mode: Rounding, [a, b, c]: [u64; 3]) -> u64 {
    use Number::{Finite, Infinity, Nan};
    let product = match (decode(f, a), decode(f, b)) {
        (Nan, _) | (_, Nan) => Nan,
        (Infinity(x), Infinity(y)) => Infinity(x != y),
        (Infinity(_), Finite(y)) | (Finite(y), Infinity(_)) if y.magnitude == 0 => Nan,
        (Infinity(x), Finite(y)) | (Finite(y), Infinity(x)) => Infinity(x != y.negative),
        (Finite(x), Finite(y)) => Finite(product(x, y)),
    };
    add_numbers(f, mode, product, decode(f, c))
}

/// `a + b`.
pub fn add(f: Format, mode: Rounding, [a, b]: [u64; 2]) -> u64 {
    add_numbers(f, mode, decode(f, a), decode(f, b))
}

fn add_numbers(f: Format, mode: Rounding, a: Number, b: Number) -> u64 {
    use Number::{Finite, Infinity, Nan};
    match (a, b) {
        (Nan, _) | (_, Nan) => f.nan,
        (Infinity(x), Infinity(y)) if x != y => f.nan,
        (Infinity(x), _) | (_, Infinity(x)) => f.infinity(x),
        (Finite(x), Finite(y)) => round(f, mode, sum(x, y, mode)),
    }
}

/// `a * b`.
pub fn mul(f: Format, mode: Rounding, [a, b]: [u64; 2]) -> u64 {
    use Number::{Finite, Infinity, Nan};
    match (decode(f, a), decode(f, b)) {
        (Nan, _) | (_, Nan) => f.nan,
        (Infinity(x), Infinity(y)) => f.infinity(x != y),
        (Infinity(_), Finite(y)) | (Finite(y), Infinity(_)) if y.magnitude == 0 => f.nan,
        (Infinity(x), Finite(y)) | (Finite(y), Infinity(x)) => f.infinity(x != y.negative),
        (Finite(x), Finite(y)) => round(f, mode, product(x, y)),
    }
}

/// `a / b`.
pub fn div(f: Format, mode: Rounding, [a, b]: [u64; 2]) -> u64 {
    use Number::{Finite, Infinity, Nan};
    match (decode(f, a), decode(f, b)) {
        (Nan, _) | (_, Nan) | (Infinity(_), Infinity(_)) => f.nan,
        (Infinity(x), Finite(y)) => f.infinity(x != y.negative),
        (Finite(x), Infinity(y)) => f.zero(x.negative != y),
        (Finite(x), Finite(y)) => {
            let negative = x.negative != y.negative;
            match (x.magnitude, y.magnitude) {
                (0, 0) => f.nan,
                (0, _) => f.zero(negative),
                (_, 0) => f.infinity(negative),
                _ => {
                    // 126 bits over 53 leave at least 73 quotient bits.
                    let (x, y) = (x.normalised(125), y.normalised(52));
                    let magnitude = (x.magnitude / y.magnitude) | u128::from(x.magnitude % y.magnitude != 0);
                    round(f, mode, Exact { negative, exponent: x.exponent - y.exponent, magnitude })
                }
            }
        }
    }
}

/// Square root.
pub fn sqrt(f: Format, mode: Rounding, a: u64) -> u64 {
    match decode(f, a) {
        Number::Nan | Number::Infinity(true) => f.nan,
        Number::Infinity(false) => f.infinity(false),
        Number::Finite(x) if x.magnitude == 0 => a,
        Number::Finite(x) if x.negative => f.nan,
        Number::Finite(x) => {
            let x = x.normalised(124);
            // An even exponent, so that it halves exactly.
            let x = if x.exponent % 2 == 0 {
                x
            } else {
                Exact { exponent: x.exponent - 1, magnitude: x.magnitude << 1, ..x }
            };
            let root = x.magnitude.isqrt();
            let magnitude = root << 1 | u128::from(root * root != x.magnitude);
            round(f, mode, Exact { negative: false, exponent: x.exponent / 2 - 1, magnitude })
        }
    }
}
