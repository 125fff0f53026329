//! Correctly rounded arithmetic in every rounding mode, for the scalar floating-point instructions.
//!
//! Two ways. [`exact`] works on integers: any format, any mode, slow. [`fast`] computes in binary64 with
//! rounding to odd and rounds once to the target: exact for sums, products and fused multiply-adds of all
//! formats up to binary32, because 53 >= 2 * 24 + 2 bits survive the intermediate step.

pub mod exact;
pub mod fast;
mod format;
pub mod small;

pub use format::{BF16, F16, F32, F64, Format, TF32};

/// Rounding modes (PTX ISA 9.7.3: `.rn`, `.rz`, `.rm`, `.rp`; `.rna` of conversions).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rounding {
    /// To nearest, ties to even.
    #[default]
    Nearest,
    /// To nearest, ties away from zero.
    NearestAway,
    /// Towards zero.
    Zero,
    /// Towards negative infinity.
    Down,
    /// Towards positive infinity.
    Up,
}

impl Rounding {
    /// Whether a magnitude is rounded up, given the sign, the last kept bit, the first dropped bit and whether
    /// anything below that is set.
    #[inline(always)]
    pub fn rounds_up(self, negative: bool, odd: bool, half: bool, sticky: bool) -> bool {
        match self {
            Rounding::Nearest => half && (sticky || odd),
            Rounding::NearestAway => half,
            Rounding::Zero => false,
            Rounding::Down => negative && (half || sticky),
            Rounding::Up => !negative && (half || sticky),
        }
    }

    /// Whether an overflow of that sign gives infinity; else it gives the largest finite value.
    #[inline(always)]
    pub fn overflows_to_infinity(self, negative: bool) -> bool {
        match self {
            Rounding::Nearest | Rounding::NearestAway => true,
            Rounding::Zero => false,
            Rounding::Down => negative,
            Rounding::Up => !negative,
        }
    }
}
