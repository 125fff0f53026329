//! `cvt` between scalar types (PTX ISA 9.7.9.22); [`super::convert_packed`] has the packed forms.
//!
//! Every conversion rounds once, from the exact value. NaN becomes the canonical NaN of the destination, except
//! that conversions from and to f64 keep sign and upper payload (as an H200 does), and that bf16 to f32 is a
//! shift and f32 to f32 without modifiers a move.

use super::float::NAN32;
use super::lanewise::{lanewise, slow_lanewise};
use super::{Entry, form, partial, root};
use crate::decode::{Decoder, Op, Result};
use crate::softfloat::exact::{self, Exact, Number};
use crate::softfloat::{BF16, F16, F32, F64, Format, Rounding, fast};
use crate::types::Ty;

pub(super) const TABLE: &[Entry] = &[
    form("cvt", &["pack"], super::convert_packed::decode_pack),
    root("cvt", |d| if is_packed(d) { super::convert_packed::decode(d) } else { decode_cvt(d) }),
];

fn is_packed(d: &Decoder<'_>) -> bool {
    d.rest()
        .iter()
        .any(|m| m.ends_with("x2") || m.ends_with("x4") || *m == "tf32" || *m == "satfinite" || *m == "relu")
}

/// Rounding of a conversion.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Round {
    /// None given: exact conversions.
    None,
    /// To the destination's precision.
    Float(Rounding),
    /// To an integral value.
    Integer(Rounding),
}

const ROUNDS: &[(&str, Round)] = &[
    ("rn", Round::Float(Rounding::Nearest)),
    ("rz", Round::Float(Rounding::Zero)),
    ("rm", Round::Float(Rounding::Down)),
    ("rp", Round::Float(Rounding::Up)),
    ("rni", Round::Integer(Rounding::Nearest)),
    ("rzi", Round::Integer(Rounding::Zero)),
    ("rmi", Round::Integer(Rounding::Down)),
    ("rpi", Round::Integer(Rounding::Up)),
];

/// The format of a scalar floating-point type.
fn format(ty: Ty) -> Option<Format> {
    Some(match ty {
        Ty::F16 => F16,
        Ty::BF16 => BF16,
        Ty::F32 => F32,
        Ty::F64 => F64,
        _ => return None,
    })
}

/// Exact value of a floating-point register.
fn value_of(ty: Ty, bits: u64) -> f64 {
    match ty {
        Ty::F16 => fast::from_f16(bits & 0xffff),
        Ty::BF16 => fast::from_bf16(bits & 0xffff),
        Ty::F32 => fast::from_f32(bits),
        _ => f64::from_bits(bits),
    }
}

/// Rounds to an integral value.
fn integral(x: f64, mode: Rounding) -> f64 {
    match mode {
        Rounding::Zero => x.trunc(),
        Rounding::Down => x.floor(),
        Rounding::Up => x.ceil(),
        Rounding::Nearest | Rounding::NearestAway => x.round_ties_even(),
    }
}

/// A scalar conversion.
#[derive(Clone, Copy, Debug)]
struct Conversion {
    from: Ty,
    to: Ty,
    round: Round,
    ftz: bool,
    sat: bool,
}

impl Conversion {
    fn apply(self, bits: u64) -> u64 {
        match (format(self.from), format(self.to)) {
            (None, None) => self.integer_to_integer(bits),
            (None, Some(f)) => self.integer_to_float(bits, f),
            (Some(_), None) => self.float_to_integer(bits),
            (Some(_), Some(f)) => self.float_to_float(bits, f),
        }
    }

    fn integer_to_integer(self, bits: u64) -> u64 {
        let wide = self.from.extend(bits);
        if !self.sat {
            return self.to.truncate(wide);
        }
        let value = if self.from.is_signed() { i128::from(wide as i64) } else { i128::from(wide) };
        let (low, high) = range(self.to);
        self.to.truncate(value.clamp(low, high) as u64)
    }

    fn integer_to_float(self, bits: u64, f: Format) -> u64 {
        let Round::Float(mode) = self.round else { return 0 };
        let wide = self.from.extend(bits);
        let negative = self.from.is_signed() && (wide as i64) < 0;
        let magnitude = if negative { wide.wrapping_neg() } else { wide };
        let x = exact::round(f, mode, Exact::integer(negative, u128::from(magnitude)));
        self.finish(x, f)
    }

    fn float_to_integer(self, bits: u64) -> u64 {
        let Round::Integer(mode) = self.round else { return 0 };
        let x = value_of(self.from, self.flush(bits, self.from));
        if x.is_nan() {
            let wide = self.from == Ty::F64 || self.to.bits() == 64;
            return if wide { 1 << (self.to.bits() - 1) } else { 0 };
        }
        let x = integral(x, mode);
        let (low, high) = range(self.to);
        // i128 holds every f64 in the range that matters; the cast saturates.
        self.to.truncate((x as i128).clamp(low, high) as u64)
    }

    fn float_to_float(self, bits: u64, f: Format) -> u64 {
        let bits = self.flush(bits, self.from);
        let x = value_of(self.from, bits);
        let x = match self.round {
            // The sign of a zero result is that of the input.
            Round::Integer(mode) => integral(x, mode).copysign(x),
            _ => x,
        };
        if self.from == Ty::BF16 && self.to == Ty::F32 && !self.sat {
            return bits << 16 & 0xffff_ffff;
        }
        if self.from == self.to && self.round == Round::None && !self.ftz && !self.sat {
            return bits;
        }
        if x.is_nan() && !self.sat && (self.from == Ty::F64 || self.to == Ty::F64) {
            return keep_nan(format(self.from).unwrap_or(F64), f, bits);
        }
        let mode = if let Round::Float(mode) = self.round { mode } else { Rounding::Nearest };
        let rounded = match exact::decode(F64, x.to_bits()) {
            Number::Nan => f.nan,
            Number::Infinity(negative) => f.infinity(negative),
            Number::Finite(value) => exact::round(f, mode, value),
        };
        self.finish(rounded, f)
    }

    /// `.ftz` on an f32 value.
    fn flush(self, bits: u64, ty: Ty) -> u64 {
        let subnormal = ty == Ty::F32 && bits & 0x7f80_0000 == 0;
        if self.ftz && subnormal { bits & 0x8000_0000 } else { bits }
    }

    /// `.ftz` and `.sat` of a floating-point result.
    fn finish(self, bits: u64, f: Format) -> u64 {
        let bits = self.flush(bits, self.to);
        if !self.sat {
            return bits;
        }
        // NaN, negative values and -0 become +0.
        let one = (f.bias() as u64) << f.fraction;
        if bits & f.sign_bit() != 0 || f.is_nan(bits) { 0 } else { bits.min(one) }
    }
}

/// A NaN of another format: sign and upper payload, quiet.
fn keep_nan(from: Format, to: Format, bits: u64) -> u64 {
    let fraction = bits & ((1 << from.fraction) - 1);
    let fraction = if to.fraction >= from.fraction {
        fraction << (to.fraction - from.fraction)
    } else {
        fraction >> (from.fraction - to.fraction)
    };
    to.infinity(bits & from.sign_bit() != 0) | 1 << (to.fraction - 1) | fraction
}

/// The values of an integer type.
fn range(ty: Ty) -> (i128, i128) {
    let bits = ty.bits();
    if ty.is_signed() { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
}

/// Whether every value of `from` is one of `to`.
fn widens(from: Ty, to: Ty) -> bool {
    from == to || to == Ty::F64 || to == Ty::F32 && from != Ty::F64
}

/// `cvt{.irnd|.frnd}{.ftz}{.sat}.dtype.atype d, a`.
fn decode_cvt(d: &mut Decoder<'_>) -> Result<Op> {
    let round = d.take_one(ROUNDS).unwrap_or(Round::None);
    let (ftz, sat) = (d.take("ftz"), d.take("sat"));
    let (from, to) = (d.ty()?, d.ty()?);
    let c = Conversion { from, to, round, ftz, sat };
    let ok = match (format(from), format(to), round) {
        (None, None, Round::None) => {
            // `.sat` must be able to change something.
            let (f, t) = (range(from), range(to));
            from.is_integer() && to.is_integer() && (!sat || f.0 < t.0 || f.1 > t.1)
        }
        (None, Some(_), Round::Float(_)) => from.is_integer() && !(to == Ty::BF16 && from.bits() == 8),
        (Some(_), None, Round::Integer(_)) => to.is_integer() && !(from == Ty::BF16 && to.bits() == 8),
        // Between f16 and bf16 rounding may be left out: to nearest, as ptxas has it.
        (Some(_), Some(_), Round::None) => {
            widens(from, to) || matches!((from, to), (Ty::F16, Ty::BF16) | (Ty::BF16, Ty::F16))
        }
        (Some(_), Some(_), Round::Float(_)) => !widens(from, to) || from == Ty::BF16 && to != Ty::BF16,
        (Some(_), Some(_), Round::Integer(_)) => from == to,
        _ => false,
    };
    let f32_takes_part = from == Ty::F32 || to == Ty::F32;
    let bf16_takes_part = from == Ty::BF16 || to == Ty::BF16;
    if ftz && !f32_takes_part || sat && bf16_takes_part {
        return d.error("`.ftz` belongs to f32, and bf16 has no `.sat`");
    }
    if !ok || [from, to].iter().any(|t| matches!(t, Ty::U16x2 | Ty::S16x2)) {
        return d.error("the rounding does not fit the types, or the types are not scalar");
    }
    // Registers may be wider than integer types: sources are cut, results extended.
    let (dst, register) = d.typed_reg_of(d.operand(0)?)?;
    let wide_enough = |register: Ty, ty: Ty| {
        register != Ty::Pred
            && (register.bits() == ty.bits() || register.bits() > ty.bits() && ty.is_integer())
    };
    let source_ok = d.typed_reg_of(d.operand(1)?).map_or(true, |(_, declared)| wide_enough(declared, from));
    if !source_ok || !wide_enough(register, to) {
        return d.error("a register is not as wide as its type");
    }
    let a = [d.src(1, from)?];
    d.finish(2)?;
    let mode = if let Round::Float(m) | Round::Integer(m) = round { m } else { Rounding::Nearest };
    let extend = move |bits: u64| register.truncate(to.extend(bits));
    let plain = !ftz && !sat;
    match (from, to) {
        (Ty::S32, Ty::S64) if !sat => lanewise(dst, a, |[a]| i64::from(a as i32) as u64),
        (f, t) if format(f).is_none() && format(t).is_none() && plain && !f.is_signed() && !t.is_signed() => {
            let op = lanewise(dst, a, move |[a]| t.truncate(f.truncate(a)));
            partial::extend(op, dst, a[0], f.bytes().min(t.bytes()))
        }
        (f, t) if format(f).is_none() && format(t).is_none() => {
            lanewise(dst, a, move |[a]| extend(c.integer_to_integer(a)))
        }
        (Ty::U8 | Ty::U16 | Ty::U32, Ty::F32) if plain && mode == Rounding::Nearest => {
            lanewise(dst, a, move |[a]| u64::from((from.truncate(a) as u32 as f32).to_bits()))
        }
        (Ty::S32, Ty::F32) if plain && mode == Rounding::Nearest => {
            lanewise(dst, a, |[a]| u64::from((a as i32 as f32).to_bits()))
        }
        (Ty::F32, Ty::S32) if plain && mode == Rounding::Zero => {
            lanewise(dst, a, |[a]| u64::from(f32::from_bits(a as u32) as i32 as u32))
        }
        (Ty::F32, Ty::U32) if plain && mode == Rounding::Zero => {
            lanewise(dst, a, |[a]| u64::from(f32::from_bits(a as u32) as u32))
        }
        (Ty::BF16, Ty::F32) if plain => lanewise(dst, a, |[a]| a << 16 & 0xffff_ffff),
        (Ty::F16, Ty::F32) if plain => lanewise(dst, a, |[a]| {
            let x = fast::from_f16(a & 0xffff) as f32;
            if x.is_nan() { NAN32 } else { u64::from(x.to_bits()) }
        }),
        (Ty::F32, Ty::F16 | Ty::BF16) if plain => {
            let f = if to == Ty::F16 { F16 } else { BF16 };
            lanewise(dst, a, move |[a]| fast::narrow(f, fast::from_f32(a), mode))
        }
        _ => slow_lanewise(dst, a, move |[a]| extend(c.apply(a))),
    }
}
