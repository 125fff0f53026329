//! The operations of `atom` and `red`, and which types they have.

use super::float::{MinMax, NAN32};
use super::integer::halves;
use crate::decode::{Decoder, Result};
use crate::softfloat::{BF16, F16, Rounding, fast};
use crate::types::Ty;

/// An operation on a memory location.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    /// Increment, wrapping to 0 above b.
    Inc,
    /// Decrement, wrapping to b.
    Dec,
    Exchange,
    CompareAndSwap,
}

use Operation::{Add, And, CompareAndSwap, Dec, Exchange, Inc, Max, Min, Or, Xor};

/// Takes the operation.
pub(super) fn take_operation(d: &mut Decoder<'_>) -> Result<Operation> {
    const OPERATIONS: &[(&str, Operation)] = &[
        ("add", Add),
        ("min", Min),
        ("max", Max),
        ("and", And),
        ("or", Or),
        ("xor", Xor),
        ("inc", Inc),
        ("dec", Dec),
        ("exch", Exchange),
        ("cas", CompareAndSwap),
    ];
    d.need_one("an operation", OPERATIONS)
}

impl Operation {
    /// Errors unless the operation has that type, vector and `.noftz`.
    pub(super) fn check(
        self,
        d: &Decoder<'_>,
        ty: Ty,
        count: usize,
        noftz: bool,
        is_red: bool,
    ) -> Result<()> {
        let half = matches!(ty, Ty::F16 | Ty::F16x2 | Ty::BF16 | Ty::BF16x2);
        let integer = matches!(ty, Ty::U32 | Ty::S32 | Ty::U64 | Ty::S64);
        let fits = match self {
            Add => integer && ty != Ty::S64 || half || matches!(ty, Ty::F32 | Ty::F64),
            // f32 vectors have add only; half-precision min and max exist in vectors only.
            Min | Max => integer || half && count > 1,
            And | Or | Xor => matches!(ty, Ty::B32 | Ty::B64),
            Inc | Dec => ty == Ty::U32,
            Exchange => !is_red && matches!(ty, Ty::B32 | Ty::B64 | Ty::B128),
            CompareAndSwap => !is_red && matches!(ty, Ty::B16 | Ty::B32 | Ty::B64 | Ty::B128),
        };
        let vector = match count {
            1 => true,
            2 | 4 => half || ty == Ty::F32,
            _ => matches!(ty, Ty::F16 | Ty::BF16),
        };
        if !fits || !vector {
            return d.error(format!("has no such form for {ty:?}"));
        }
        if noftz != half {
            return d.error("`.noftz` belongs to the half-precision types");
        }
        Ok(())
    }

    /// The new value of one element. Not for [`Exchange`] and [`CompareAndSwap`].
    pub(super) fn apply(self, ty: Ty, is_global: bool, old: u64, b: u64) -> u64 {
        match ty {
            Ty::F32 => add_f32(is_global, old, b),
            Ty::F64 => add_f64(old, b),
            Ty::F16 | Ty::BF16 => u64::from(self.half(ty == Ty::BF16, old as u16, b as u16)),
            Ty::F16x2 | Ty::BF16x2 => halves([old, b], |[old, b]| self.half(ty == Ty::BF16x2, old, b)),
            _ => self.integer(ty, old, b),
        }
    }

    fn integer(self, ty: Ty, old: u64, b: u64) -> u64 {
        let signed = |x: u64| ty.extend(x) as i64;
        match self {
            Add => ty.truncate(old.wrapping_add(b)),
            Min if ty.is_signed() => {
                if signed(old) <= signed(b) {
                    old
                } else {
                    b
                }
            }
            Max if ty.is_signed() => {
                if signed(old) >= signed(b) {
                    old
                } else {
                    b
                }
            }
            Min => old.min(b),
            Max => old.max(b),
            And => old & b,
            Or => old | b,
            Xor => old ^ b,
            Inc => {
                if old >= b {
                    0
                } else {
                    old + 1
                }
            }
            Dec => {
                if old == 0 || old > b {
                    b
                } else {
                    old - 1
                }
            }
            Exchange | CompareAndSwap => b,
        }
    }

    fn half(self, is_bf16: bool, old: u16, b: u16) -> u16 {
        let format = if is_bf16 { BF16 } else { F16 };
        let (x, y) = (u64::from(old), u64::from(b));
        if self == Add {
            let value = |bits: u64| if is_bf16 { fast::from_bf16(bits) } else { fast::from_f16(bits) };
            return fast::narrow(format, fast::sum_odd(value(x), value(y)), Rounding::Nearest) as u16;
        }
        let how = MinMax { is_min: self == Min, ..MinMax::default() };
        how.pick(16, format.infinity(false), format.nan, x, y) as u16
    }
}

/// f64 addition; a NaN operand is passed on as it is.
fn add_f64(a: u64, b: u64) -> u64 {
    match (f64::from_bits(a), f64::from_bits(b)) {
        (_, y) if y.is_nan() => b,
        (x, _) if x.is_nan() => a,
        (x, y) => (x + y).to_bits(),
    }
}

/// f32 addition; on global memory subnormals are flushed.
fn add_f32(flush: bool, a: u64, b: u64) -> u64 {
    let cut = |x: u32| if flush && x & 0x7f80_0000 == 0 { x & 0x8000_0000 } else { x };
    let sum = f32::from_bits(cut(a as u32)) + f32::from_bits(cut(b as u32));
    if sum.is_nan() { NAN32 } else { u64::from(cut(sum.to_bits())) }
}
