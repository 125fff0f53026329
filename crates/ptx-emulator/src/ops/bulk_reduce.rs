//! Element-wise reductions of bulk copies (PTX ISA 9.7.9.25.4.2): arrays at once.

use crate::types::Ty;

/// A reduction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RedOp {
    And,
    Or,
    Xor,
    Add,
    Inc,
    Dec,
    Min,
    Max,
}

/// Names of the reductions.
pub(super) const OPS: &[(&str, RedOp)] = &[
    ("and", RedOp::And),
    ("or", RedOp::Or),
    ("xor", RedOp::Xor),
    ("add", RedOp::Add),
    ("inc", RedOp::Inc),
    ("dec", RedOp::Dec),
    ("min", RedOp::Min),
    ("max", RedOp::Max),
];

/// Whether the ISA has the combination, for a destination in shared memory or in global memory.
pub(super) fn exists(op: RedOp, ty: Ty, shared: bool) -> bool {
    let both = match op {
        RedOp::Add => matches!(ty, Ty::U32 | Ty::S32 | Ty::U64),
        RedOp::Min | RedOp::Max => matches!(ty, Ty::U32 | Ty::S32),
        RedOp::Inc | RedOp::Dec => ty == Ty::U32,
        RedOp::And | RedOp::Or | RedOp::Xor => ty == Ty::B32,
    };
    let global = match op {
        RedOp::Add => matches!(ty, Ty::F32 | Ty::F64 | Ty::F16 | Ty::BF16),
        RedOp::Min | RedOp::Max => matches!(ty, Ty::U64 | Ty::S64 | Ty::F16 | Ty::BF16),
        RedOp::Inc | RedOp::Dec => false,
        RedOp::And | RedOp::Or | RedOp::Xor => ty == Ty::B64,
    };
    both || (global && !shared)
}

/// `old = op(old, new)` for arrays of elements of type `ty`; the lengths are equal.
pub(super) fn apply(op: RedOp, ty: Ty, old: &mut [u8], new: &[u8]) {
    use RedOp as R;
    match (op, ty) {
        (R::And, _) => old.iter_mut().zip(new).for_each(|(a, b)| *a &= b),
        (R::Or, _) => old.iter_mut().zip(new).for_each(|(a, b)| *a |= b),
        (R::Xor, _) => old.iter_mut().zip(new).for_each(|(a, b)| *a ^= b),
        (R::Add, Ty::F32) => {
            each(old, new, |a, b| add_f32(u32::from_le_bytes(a), u32::from_le_bytes(b)).to_le_bytes())
        }
        (R::Add, Ty::F64) => {
            each(old, new, |a, b| (f64::from_le_bytes(a) + f64::from_le_bytes(b)).to_le_bytes())
        }
        (_, Ty::F16) => half(op, &F16, old, new),
        (_, Ty::BF16) => half(op, &BF16, old, new),
        (R::Add, Ty::U64) => {
            each(old, new, |a, b| u64::from_le_bytes(a).wrapping_add(u64::from_le_bytes(b)).to_le_bytes())
        }
        (R::Add, _) => {
            each(old, new, |a, b| u32::from_le_bytes(a).wrapping_add(u32::from_le_bytes(b)).to_le_bytes())
        }
        (R::Min, Ty::U64) => {
            each(old, new, |a, b| u64::from_le_bytes(a).min(u64::from_le_bytes(b)).to_le_bytes())
        }
        (R::Max, Ty::U64) => {
            each(old, new, |a, b| u64::from_le_bytes(a).max(u64::from_le_bytes(b)).to_le_bytes())
        }
        (R::Min, Ty::S64) => {
            each(old, new, |a, b| i64::from_le_bytes(a).min(i64::from_le_bytes(b)).to_le_bytes())
        }
        (R::Max, Ty::S64) => {
            each(old, new, |a, b| i64::from_le_bytes(a).max(i64::from_le_bytes(b)).to_le_bytes())
        }
        (R::Min, Ty::S32) => {
            each(old, new, |a, b| i32::from_le_bytes(a).min(i32::from_le_bytes(b)).to_le_bytes())
        }
        (R::Max, Ty::S32) => {
            each(old, new, |a, b| i32::from_le_bytes(a).max(i32::from_le_bytes(b)).to_le_bytes())
        }
        (R::Min, _) => each(old, new, |a, b| u32::from_le_bytes(a).min(u32::from_le_bytes(b)).to_le_bytes()),
        (R::Max, _) => each(old, new, |a, b| u32::from_le_bytes(a).max(u32::from_le_bytes(b)).to_le_bytes()),
        (R::Inc, _) => each(old, new, |a, b| {
            let (a, b) = (u32::from_le_bytes(a), u32::from_le_bytes(b));
            (if a >= b { 0 } else { a + 1 }).to_le_bytes()
        }),
        (R::Dec, _) => each(old, new, |a, b| {
            let (a, b) = (u32::from_le_bytes(a), u32::from_le_bytes(b));
            (if a == 0 || a > b { b } else { a - 1 }).to_le_bytes()
        }),
    }
}

fn each<const N: usize>(old: &mut [u8], new: &[u8], f: impl Fn([u8; N], [u8; N]) -> [u8; N]) {
    for (a, b) in old.chunks_exact_mut(N).zip(new.chunks_exact(N)) {
        let (mut x, mut y) = ([0; N], [0; N]);
        x.copy_from_slice(a);
        y.copy_from_slice(b);
        a.copy_from_slice(&f(x, y));
    }
}

/// f32 addition that flushes subnormal inputs and results to zero of their sign; NaN is canonical.
fn add_f32(a: u32, b: u32) -> u32 {
    let flush = |x: u32| if x & 0x7f80_0000 == 0 { x & 0x8000_0000 } else { x };
    let sum = f32::from_bits(flush(a)) + f32::from_bits(flush(b));
    if sum.is_nan() { 0x7fff_ffff } else { flush(sum.to_bits()) }
}

/// A 16-bit floating-point format: bits of the mantissa, exponent bias.
struct Half {
    mantissa: u32,
    bias: i32,
}

const F16: Half = Half { mantissa: 10, bias: 15 };
const BF16: Half = Half { mantissa: 7, bias: 127 };

impl Half {
    fn infinity(&self) -> u16 {
        (0x7fff >> self.mantissa) << self.mantissa
    }

    fn is_nan(&self, x: u16) -> bool {
        x & 0x7fff > self.infinity()
    }

    /// Exact.
    fn widen(&self, x: u16) -> f64 {
        let (m, e) = (u64::from(x) & ((1 << self.mantissa) - 1), i32::from(x & 0x7fff) >> self.mantissa);
        let magnitude = match e {
            0 => m as f64 * exp2(1 - self.bias - self.mantissa as i32),
            _ if x & 0x7fff == self.infinity() => f64::INFINITY,
            _ if self.is_nan(x) => f64::NAN,
            _ => (m + (1 << self.mantissa)) as f64 * exp2(e - self.bias - self.mantissa as i32),
        };
        if x >> 15 == 1 { -magnitude } else { magnitude }
    }

    /// To nearest even; subnormals are kept.
    fn narrow(&self, x: f64) -> u16 {
        if x.is_nan() {
            return 0x7fff;
        }
        let sign = if x.is_sign_negative() { 0x8000 } else { 0 };
        let magnitude = x.abs();
        let exponent = ((magnitude.to_bits() >> 52) as i32 - 1023).max(1 - self.bias);
        // In units of the last place the value is below 2^(mantissa + 1): adding and subtracting 2^52 rounds.
        let units = magnitude * exp2(self.mantissa as i32 - exponent);
        if units.is_infinite() || exponent > self.bias {
            return sign | self.infinity();
        }
        let rounded = ((units + 4_503_599_627_370_496.0) - 4_503_599_627_370_496.0) as u32;
        let base = ((exponent + self.bias - 1) as u32) << self.mantissa;
        // A normal value carries its leading one into the exponent; a subnormal one has none.
        sign | ((base + rounded) as u16).min(self.infinity())
    }
}

fn exp2(e: i32) -> f64 {
    // In the range of normal numbers for all exponents of 16-bit formats.
    f64::from_bits(((e + 1023) as u64) << 52)
}

fn half(op: RedOp, format: &Half, old: &mut [u8], new: &[u8]) {
    each(old, new, |a, b| {
        let (a, b) = (u16::from_le_bytes(a), u16::from_le_bytes(b));
        let result = match op {
            RedOp::Add => format.narrow(format.widen(a) + format.widen(b)),
            _ if format.is_nan(a) && format.is_nan(b) => 0x7fff,
            _ if format.is_nan(a) => b,
            _ if format.is_nan(b) => a,
            _ => {
                // As integers that order like the values, -0 below +0.
                let key = |x: u16| if x >> 15 == 1 { !x } else { x | 0x8000 };
                let less = key(a) < key(b);
                if less == (op == RedOp::Min) { a } else { b }
            }
        };
        result.to_le_bytes()
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_round_trip_and_round() {
        for format in [&F16, &BF16] {
            for x in 0..=u16::MAX {
                if !format.is_nan(x) {
                    assert_eq!(format.narrow(format.widen(x)), x, "{x:#x}");
                }
            }
        }
        // 1 + half an ulp: to even.
        assert_eq!(F16.narrow(1.0 + 2f64.powi(-11)), 0x3c00);
        assert_eq!(F16.narrow(1.0 + 3.0 * 2f64.powi(-11)), 0x3c02);
        assert_eq!(F16.narrow(65520.0), 0x7c00);
        assert_eq!(F16.narrow(65519.0), 0x7bff);
        assert_eq!(F16.narrow(2f64.powi(-25)), 0);
        assert_eq!(F16.narrow(-1.5 * 2f64.powi(-24)), 0x8002);
    }

    #[test]
    fn reductions() {
        let run = |op, ty, a: u32, b: u32| {
            let mut old = a.to_le_bytes();
            apply(op, ty, &mut old, &b.to_le_bytes());
            u32::from_le_bytes(old)
        };
        assert_eq!(run(RedOp::Add, Ty::U32, u32::MAX, 2), 1);
        assert_eq!(run(RedOp::Min, Ty::S32, 5, -7i32 as u32), -7i32 as u32);
        assert_eq!(run(RedOp::Inc, Ty::U32, 3, 3), 0);
        assert_eq!(run(RedOp::Dec, Ty::U32, 0, 9), 9);
        assert_eq!(run(RedOp::Add, Ty::F32, 1.5f32.to_bits(), 2.25f32.to_bits()), 3.75f32.to_bits());
        assert_eq!(run(RedOp::Add, Ty::F32, 1, 1), 0);
        // Two bf16 halves: 1 + 2 = 3, max(-0, +0) = +0.
        assert_eq!(run(RedOp::Add, Ty::BF16, 0x3f80_3f80, 0x4000_4000), 0x4040_4040);
        assert_eq!(run(RedOp::Max, Ty::F16, 0x8000_0000, 0x0000_8000), 0);
        assert!(exists(RedOp::Add, Ty::BF16, false) && !exists(RedOp::Add, Ty::BF16, true));
    }
}
