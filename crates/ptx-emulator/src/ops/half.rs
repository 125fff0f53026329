//! Half-precision arithmetic: f16, f16x2, bf16, bf16x2 (PTX ISA 9.7.4): add, sub, mul, fma, neg, abs, min, max,
//! tanh, ex2. [`super::arithmetic`] has the table.
//!
//! Every result is computed in f64, exactly or rounded to odd, and rounded once. NaN results are 0x7fff.

use super::float::MinMax;
use super::integer::halves;
use super::lanewise::{lanewise, slow_lanewise};
use crate::decode::{Decoder, Op, Result, Src};
use crate::program::Reg;
use crate::softfloat::{BF16, F16, Format, Rounding, fast};
use crate::types::Ty;

/// Modifiers of a half-precision instruction.
#[derive(Clone, Copy, Debug, Default)]
struct Flags {
    ftz: bool,
    sat: bool,
    relu: bool,
}

/// A 16-bit element type with the flags of its instruction.
#[derive(Clone, Copy, Debug)]
struct Half {
    is_bf16: bool,
    flags: Flags,
}

impl Half {
    /// For an operand type; the second value says whether it is packed.
    fn of(ty: Ty, flags: Flags) -> Option<(Self, bool)> {
        let (is_bf16, packed) = match ty {
            Ty::F16 => (false, false),
            Ty::F16x2 => (false, true),
            Ty::BF16 => (true, false),
            Ty::BF16x2 => (true, true),
            _ => return None,
        };
        Some((Self { is_bf16, flags }, packed))
    }

    #[inline(always)]
    fn format(self) -> Format {
        if self.is_bf16 { BF16 } else { F16 }
    }

    /// Flushes a subnormal if `.ftz`.
    #[inline(always)]
    fn flush(self, bits: u16) -> u16 {
        let subnormal = u64::from(bits) & self.format().infinity(false) == 0;
        if self.flags.ftz && subnormal { bits & 0x8000 } else { bits }
    }

    #[inline(always)]
    fn input(self, bits: u16) -> f64 {
        let bits = u64::from(self.flush(bits));
        if self.is_bf16 { fast::from_bf16(bits) } else { fast::from_f16(bits) }
    }

    #[inline(always)]
    fn output(self, x: f64) -> u16 {
        let x = if self.flags.sat {
            if x > 0.0 { x.min(1.0) } else { 0.0 }
        } else if self.flags.relu && x <= 0.0 {
            0.0
        } else {
            x
        };
        self.flush(fast::narrow(self.format(), x, Rounding::Nearest) as u16)
    }

    /// Computes with the element or both halves.
    #[inline(always)]
    fn apply<const N: usize>(self, packed: bool, v: [u64; N], f: impl Fn([f64; N]) -> f64) -> u64 {
        let element = |e: [u16; N]| self.output(f(e.map(|x| self.input(x))));
        if packed { halves(v, element) } else { u64::from(element(v.map(|x| x as u16))) }
    }
}

fn build<const N: usize>(
    d: &Decoder<'_>,
    ty: Ty,
    flags: Flags,
    f: impl Fn([f64; N]) -> f64 + Send + Sync + Copy + 'static,
) -> Result<Op> {
    let Some((half, packed)) = Half::of(ty, flags) else { return d.error(format!("has no type {ty:?}")) };
    if half.is_bf16 && (flags.sat || flags.ftz && d.mnemonic() != "ex2") || flags.relu && flags.sat {
        return d.error("a modifier is not allowed with this type");
    }
    let (dst, s) = operands(d, ty)?;
    slow_lanewise(dst, s, move |v| half.apply(packed, v, f))
}

fn operands<const N: usize>(d: &Decoder<'_>, ty: Ty) -> Result<(Reg, [Src; N])> {
    let mut s = [Src::Imm(0); N];
    for (i, source) in s.iter_mut().enumerate() {
        *source = d.value(i + 1, ty)?;
    }
    d.finish(N + 1)?;
    Ok((d.dst(0, ty)?, s))
}

/// `add{.rn}{.ftz}{.sat}.type d, a, b`, sub, mul.
pub(super) fn decode_binary(d: &mut Decoder<'_>) -> Result<Op> {
    d.take("rn");
    let flags = Flags { ftz: d.take("ftz"), sat: d.take("sat"), relu: false };
    let name = d.mnemonic();
    let ty = d.ty()?;
    match name {
        "add" => build(d, ty, flags, |[a, b]| fast::sum_odd(a, b)),
        "sub" => build(d, ty, flags, |[a, b]| fast::sum_odd(a, -b)),
        _ => build(d, ty, flags, |[a, b]| a * b),
    }
}

/// `fma.rn{.ftz}{.sat|.relu}.type d, a, b, c`.
pub(super) fn decode_fma(d: &mut Decoder<'_>) -> Result<Op> {
    if !d.take("rn") {
        return d.error("needs `.rn`");
    }
    let flags = Flags { ftz: d.take("ftz"), sat: d.take("sat"), relu: d.take("relu") };
    let ty = d.ty()?;
    build(d, ty, flags, |[a, b, c]| fast::sum_odd(a * b, c))
}

/// `neg{.ftz}.type d, a`, `abs{.ftz}.type d, a`.
pub(super) fn decode_abs_neg(d: &mut Decoder<'_>) -> Result<Op> {
    let is_abs = d.mnemonic() == "abs";
    let flags = Flags { ftz: d.take("ftz"), ..Flags::default() };
    let ty = d.ty()?;
    let Some((half, packed)) = Half::of(ty, flags) else { return d.error(format!("has no type {ty:?}")) };
    if half.is_bf16 && flags.ftz {
        return d.error("bf16 has no `.ftz`");
    }
    let (dst, s) = operands::<1>(d, ty)?;
    let element = move |x: u16| {
        if half.format().is_nan(u64::from(x)) {
            0x7fff
        } else if is_abs {
            half.flush(x) & 0x7fff
        } else {
            half.flush(x) ^ 0x8000
        }
    };
    if packed {
        lanewise(dst, s, move |v| halves(v, |[x]| element(x)))
    } else {
        lanewise(dst, s, move |[v]| u64::from(element(v as u16)))
    }
}

/// `min{.ftz}{.NaN}{.xorsign.abs}.type d, a, b`, max.
pub(super) fn decode_min_max(d: &mut Decoder<'_>) -> Result<Op> {
    let how = MinMax::take(d);
    let flags = Flags { ftz: d.take("ftz"), ..Flags::default() };
    let ty = d.ty()?;
    if how.xorsign != how.abs {
        return d.error("`.xorsign.abs` belong together");
    }
    let Some((half, packed)) = Half::of(ty, flags) else { return d.error(format!("has no type {ty:?}")) };
    if half.is_bf16 && flags.ftz {
        return d.error("bf16 has no `.ftz`");
    }
    let infinity = half.format().infinity(false);
    let element = move |[a, b]: [u16; 2]| {
        how.pick(16, infinity, 0x7fff, u64::from(half.flush(a)), u64::from(half.flush(b))) as u16
    };
    let (dst, s) = operands::<2>(d, ty)?;
    lanewise(
        dst,
        s,
        move |v| {
            if packed { halves(v, element) } else { u64::from(element(v.map(|x| x as u16))) }
        },
    )
}

/// `tanh.approx.type d, a`, `ex2.approx{.ftz}.type d, a`: the f64 result, rounded.
pub(super) fn decode_function(d: &mut Decoder<'_>) -> Result<Op> {
    let f: fn(f64) -> f64 = if d.mnemonic() == "ex2" { f64::exp2 } else { f64::tanh };
    if !d.take("approx") {
        return d.error("needs `.approx`");
    }
    let flags = Flags { ftz: d.take("ftz"), ..Flags::default() };
    let ty = d.ty()?;
    let is_bf16 = matches!(ty, Ty::BF16 | Ty::BF16x2);
    // ex2 needs .ftz in bf16 and must not have it in f16; tanh never has it.
    if flags.ftz != (is_bf16 && d.mnemonic() == "ex2") {
        return d.error("`.ftz` belongs to ex2 in bf16");
    }
    build(d, ty, flags, move |[a]| f(a))
}
