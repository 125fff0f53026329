//! Floating-point arithmetic in f32, f64 and f32x2 (PTX ISA 9.7.3): add, sub, mul, fma, mad, abs, neg, min,
//! max, copysign, testp. [`super::arithmetic`] has the table.
//!
//! Results are correctly rounded in every mode. `.ftz` flushes subnormal inputs, and results that are
//! subnormal after rounding. f32 NaN results are the canonical 0x7fffffff. f64 NaN results, which the ISA leaves
//! open, are those of an H200: one of the NaN operands made quiet, or 0xfff8000000000000.

use super::lanewise::{lanewise, slow_lanewise};
use crate::decode::{Decoder, Op, Result, Src};
use crate::softfloat::{F64, Rounding, exact, fast};
use crate::types::Ty;

/// The canonical f32 NaN.
pub(super) const NAN32: u64 = 0x7fff_ffff;

/// The rounding modifiers.
pub(super) const ROUNDINGS: &[(&str, Rounding)] =
    &[("rn", Rounding::Nearest), ("rz", Rounding::Zero), ("rm", Rounding::Down), ("rp", Rounding::Up)];

/// Modifiers of an f32 instruction.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flags {
    pub(super) mode: Rounding,
    pub(super) ftz: bool,
    pub(super) sat: bool,
}

impl Flags {
    /// Takes `.rnd`, `.ftz` and `.sat`; the second value says whether `.rnd` was there.
    pub(super) fn take(d: &mut Decoder<'_>) -> (Self, bool) {
        let mode = d.take_one(ROUNDINGS);
        let flags = Self { mode: mode.unwrap_or_default(), ftz: d.take("ftz"), sat: d.take("sat") };
        (flags, mode.is_some())
    }

    fn is_plain(self) -> bool {
        self.mode == Rounding::Nearest && !self.ftz && !self.sat
    }

    /// An input, flushed if `.ftz`.
    #[inline(always)]
    pub(super) fn input(self, bits: u64) -> f32 {
        let bits = bits as u32;
        let flush = self.ftz && bits & 0x7f80_0000 == 0;
        f32::from_bits(if flush { bits & 0x8000_0000 } else { bits })
    }

    /// A result after `.ftz` and `.sat`, canonical if NaN.
    #[inline(always)]
    pub(super) fn output(self, x: f32) -> u64 {
        let bits = x.to_bits();
        let flush = self.ftz && bits & 0x7f80_0000 == 0;
        let bits = if flush { bits & 0x8000_0000 } else { bits };
        let x = f32::from_bits(bits);
        if self.sat {
            // NaN and -0 become +0.
            let clamped = if x > 0.0 { x.min(1.0) } else { 0.0 };
            return u64::from(clamped.to_bits());
        }
        if x.is_nan() { NAN32 } else { u64::from(bits) }
    }
}

/// The f32 in a register.
#[inline(always)]
pub(super) fn f32_of(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

/// An f32 result as register bits, NaN canonical.
#[inline(always)]
pub(super) fn bits_of(x: f32) -> u64 {
    if x.is_nan() { NAN32 } else { u64::from(x.to_bits()) }
}

/// Sum with the flags' rounding.
#[inline(always)]
fn add32(flags: Flags, a: f32, b: f32) -> f32 {
    if flags.mode == Rounding::Nearest {
        return a + b;
    }
    let (a, b) = (f64::from(a), f64::from(b));
    fast::to_f32(fast::fix_zero(fast::sum_odd(a, b), a, b, flags.mode), flags.mode)
}

/// Product with the flags' rounding.
#[inline(always)]
fn mul32(flags: Flags, a: f32, b: f32) -> f32 {
    if flags.mode == Rounding::Nearest {
        a * b
    } else {
        fast::to_f32(f64::from(a) * f64::from(b), flags.mode)
    }
}

/// Fused multiply-add, rounded once.
#[inline(always)]
pub(super) fn fma32(mode: Rounding, a: f32, b: f32, c: f32) -> f32 {
    let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
    fast::to_f32(fast::fix_zero(fast::sum_odd(product, c), product, c, mode), mode)
}

/// A binary operation.
#[derive(Clone, Copy, PartialEq)]
enum Binary {
    Add,
    Sub,
    Mul,
}

fn binary32(op: Binary, flags: Flags, a: u64, b: u64) -> u64 {
    let (a, b) = (flags.input(a), flags.input(b));
    flags.output(match op {
        Binary::Add => add32(flags, a, b),
        Binary::Sub => add32(flags, a, -b),
        Binary::Mul => mul32(flags, a, b),
    })
}

/// `add{.rnd}{.ftz}{.sat}.f32`, `.f64`, `.f32x2`, and the same for sub and mul; `add{.rnd}{.sat}.f32.f16` and
/// `.f32.bf16` (first source narrow).
pub(super) fn decode_binary(d: &mut Decoder<'_>) -> Result<Op> {
    let op = match d.mnemonic() {
        "add" => Binary::Add,
        "sub" => Binary::Sub,
        _ => Binary::Mul,
    };
    let (flags, _) = Flags::take(d);
    let ty = d.ty()?;
    if let Ty::F16 | Ty::BF16 = ty {
        return decode_mixed_binary(d, op, flags, ty);
    }
    let (dst, s) = (d.dst(0, ty)?, [d.value(1, ty)?, d.value(2, ty)?]);
    d.finish(3)?;
    match ty {
        Ty::F32 if flags.is_plain() => match op {
            Binary::Add => lanewise(dst, s, |[a, b]| bits_of(f32_of(a) + f32_of(b))),
            Binary::Sub => lanewise(dst, s, |[a, b]| bits_of(f32_of(a) - f32_of(b))),
            Binary::Mul => lanewise(dst, s, |[a, b]| bits_of(f32_of(a) * f32_of(b))),
        },
        Ty::F32 => lanewise(dst, s, move |[a, b]| binary32(op, flags, a, b)),
        Ty::F32x2 if !flags.sat => lanewise(dst, s, move |v| pair(v, |[a, b]| binary32(op, flags, a, b))),
        Ty::F64 if !flags.ftz && !flags.sat => match (op, flags.mode) {
            (Binary::Add, Rounding::Nearest) => lanewise(dst, s, |[a, b]| f64_of(f64d(a) + f64d(b), [b, a])),
            (Binary::Sub, Rounding::Nearest) => lanewise(dst, s, |[a, b]| f64_of(f64d(a) - f64d(b), [b, a])),
            (Binary::Mul, Rounding::Nearest) => lanewise(dst, s, |[a, b]| f64_of(f64d(a) * f64d(b), [b, a])),
            (Binary::Mul, mode) => {
                slow_lanewise(dst, s, move |[a, b]| f64_of(f64d(exact::mul(F64, mode, [a, b])), [b, a]))
            }
            (Binary::Add, mode) => {
                slow_lanewise(dst, s, move |[a, b]| f64_of(f64d(exact::add(F64, mode, [a, b])), [b, a]))
            }
            (Binary::Sub, mode) => slow_lanewise(dst, s, move |[a, b]| {
                f64_of(f64d(exact::add(F64, mode, [a, b ^ 1 << 63])), [b, a])
            }),
        },
        _ => d.error(format!("a modifier is not allowed with {ty:?}")),
    }
}

/// `add{.rnd}{.sat}.f32.atype d, a, c`, `sub...`: a is f16 or bf16.
fn decode_mixed_binary(d: &mut Decoder<'_>, op: Binary, flags: Flags, narrow: Ty) -> Result<Op> {
    if d.ty()? != Ty::F32 || op == Binary::Mul || flags.ftz {
        return d.error("is not a form of this instruction");
    }
    let (dst, s) = (d.dst(0, Ty::F32)?, [d.value(1, narrow)?, d.value(2, Ty::F32)?]);
    d.finish(3)?;
    lanewise(dst, s, move |[a, b]| {
        let a = u64::from((widen(narrow, a) as f32).to_bits());
        binary32(op, flags, a, b)
    })
}

/// Exact value of an f16 or bf16.
#[inline(always)]
fn widen(ty: Ty, bits: u64) -> f64 {
    if ty == Ty::F16 { fast::from_f16(bits) } else { fast::from_bf16(bits) }
}

/// Applies an f32 function to both halves of f32x2 registers.
#[inline(always)]
fn pair<const N: usize>(v: [u64; N], f: impl Fn([u64; N]) -> u64) -> u64 {
    f(v.map(|x| x & 0xffff_ffff)) | f(v.map(|x| x >> 32)) << 32
}

#[inline(always)]
fn f64d(bits: u64) -> f64 {
    f64::from_bits(bits)
}

/// An f64 result; if it is NaN, the first NaN among the operands, quiet.
#[inline(always)]
pub(super) fn f64_of<const N: usize>(x: f64, operands: [u64; N]) -> u64 {
    if x.is_nan() { nan64(operands) } else { x.to_bits() }
}

#[cold]
fn nan64<const N: usize>(operands: [u64; N]) -> u64 {
    let nan = operands.into_iter().find(|&o| f64d(o).is_nan());
    nan.map_or(F64.nan, |o| o | 1 << 51)
}

/// `fma.rnd{.ftz}{.sat}.f32`, `.f64`, `.f32x2`; `mad` is the same; `fma.rn{.sat}.f32.f16` and `.f32.bf16`.
pub(super) fn decode_fma(d: &mut Decoder<'_>) -> Result<Op> {
    let (flags, has_mode) = Flags::take(d);
    if !has_mode {
        return d.error("needs a rounding mode");
    }
    let ty = d.ty()?;
    let fma = move |[a, b, c]: [u64; 3]| {
        flags.output(fma32(flags.mode, flags.input(a), flags.input(b), flags.input(c)))
    };
    if let Ty::F16 | Ty::BF16 = ty {
        if d.ty()? != Ty::F32 || flags.ftz {
            return d.error("is not a form of this instruction");
        }
        let (dst, s) = (d.dst(0, Ty::F32)?, [d.value(1, ty)?, d.value(2, ty)?, d.value(3, Ty::F32)?]);
        d.finish(4)?;
        return lanewise(dst, s, move |[a, b, c]| {
            let [a, b] = [a, b].map(|x| u64::from((widen(ty, x) as f32).to_bits()));
            fma([a, b, c])
        });
    }
    let (dst, s) = (d.dst(0, ty)?, [d.value(1, ty)?, d.value(2, ty)?, d.value(3, ty)?]);
    d.finish(4)?;
    match ty {
        Ty::F32 if flags.is_plain() => {
            lanewise(dst, s, |[a, b, c]| bits_of(fma32(Rounding::Nearest, f32_of(a), f32_of(b), f32_of(c))))
        }
        Ty::F32 => lanewise(dst, s, fma),
        Ty::F32x2 if !flags.sat && d.mnemonic() == "fma" => lanewise(dst, s, move |v| pair(v, fma)),
        Ty::F64 if !flags.ftz && !flags.sat => match flags.mode {
            Rounding::Nearest => {
                slow_lanewise(dst, s, |[a, b, c]| f64_of(f64d(a).mul_add(f64d(b), f64d(c)), [b, c, a]))
            }
            mode => slow_lanewise(dst, s, move |[a, b, c]| {
                f64_of(f64d(exact::fma(F64, mode, [a, b, c])), [b, c, a])
            }),
        },
        _ => d.error(format!("a modifier is not allowed with {ty:?}")),
    }
}

/// `abs{.ftz}.f32 d, a`, `neg{.ftz}.f32 d, a`, and `.f64`. NaN keeps its sign in f64 and becomes canonical in f32.
pub(super) fn decode_abs_neg(d: &mut Decoder<'_>) -> Result<Op> {
    let is_abs = d.mnemonic() == "abs";
    let ftz = d.take("ftz");
    let ty = d.ty()?;
    let (dst, a) = (d.dst(0, ty)?, d.value(1, ty)?);
    d.finish(2)?;
    let flags = Flags { ftz, ..Flags::default() };
    match (ty, is_abs) {
        (Ty::F32, true) => lanewise(dst, [a], move |[a]| bits_of(flags.input(a).abs())),
        (Ty::F32, false) => lanewise(dst, [a], move |[a]| bits_of(-flags.input(a))),
        (Ty::F64, true) if !ftz => lanewise(dst, [a], |[a]| f64_of(f64d(a).abs(), [a])),
        (Ty::F64, false) if !ftz => lanewise(dst, [a], |[a]| f64_of(-f64d(a), [a])),
        _ => d.error(format!("has no form for {ty:?}")),
    }
}

/// How min and max treat NaN and signs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MinMax {
    pub(super) is_min: bool,
    /// `.NaN`: any NaN input gives NaN.
    pub(super) nan: bool,
    /// `.abs` (three inputs) or `.xorsign.abs` (two): magnitudes are compared.
    pub(super) abs: bool,
    /// `.xorsign`: the sign is the exclusive or of the inputs' signs.
    pub(super) xorsign: bool,
}

impl MinMax {
    /// Takes the modifiers.
    pub(super) fn take(d: &mut Decoder<'_>) -> Self {
        let is_min = d.mnemonic() == "min";
        Self { is_min, nan: d.take("NaN"), xorsign: d.take("xorsign"), abs: d.take("abs") }
    }

    /// Minimum or maximum of the bits of two numbers of a format with `width` bits, given as bits;
    /// `nan` is the format's canonical NaN, `infinity` its positive infinity. -0 is below +0.
    #[inline(always)]
    pub(super) fn pick(self, width: u32, infinity: u64, nan: u64, a: u64, b: u64) -> u64 {
        let sign = 1u64 << (width - 1);
        let (ma, mb) = (a & !sign, b & !sign);
        let (na, nb) = (ma > infinity, mb > infinity);
        let (x, y) = if self.abs { (ma, mb) } else { (a, b) };
        // Order-preserving map of sign and magnitude to integers.
        let key = |v: u64| if v & sign != 0 { -((v & !sign) as i64) - 1 } else { v as i64 };
        let first = (key(x) < key(y)) == self.is_min;
        let picked = if first { x } else { y };
        let picked = if na {
            y
        } else if nb {
            x
        } else {
            picked
        };
        if na && nb || self.nan && (na || nb) {
            nan
        } else if self.xorsign {
            picked & !sign | (a ^ b) & sign
        } else {
            picked
        }
    }
}

/// `min{.ftz}{.NaN}{.xorsign.abs}.f32 d, a, b`, `min{.ftz}{.NaN}{.abs}.f32 d, a, b, c`, `.f64 d, a, b`, and max.
pub(super) fn decode_min_max(d: &mut Decoder<'_>) -> Result<Op> {
    let how = MinMax::take(d);
    let flags = Flags { ftz: d.take("ftz"), ..Flags::default() };
    let ty = d.ty()?;
    let three = d.operand_count() == 4;
    if how.xorsign != (how.abs && !three) {
        return d.error("`.xorsign.abs` is for two inputs, `.abs` for three");
    }
    let dst = d.dst(0, ty)?;
    let (a, b): (Src, Src) = (d.value(1, ty)?, d.value(2, ty)?);
    let one = move |a: u64, b: u64| {
        let flush = |x: u64| u64::from(flags.input(x).to_bits());
        how.pick(32, 0x7f80_0000, NAN32, flush(a), flush(b))
    };
    match ty {
        Ty::F32 if three => {
            let c = d.value(3, ty)?;
            d.finish(4)?;
            lanewise(dst, [a, b, c], move |[a, b, c]| one(one(a, b), c))
        }
        Ty::F32 => {
            d.finish(3)?;
            lanewise(dst, [a, b], move |[a, b]| one(a, b))
        }
        Ty::F64 if !flags.ftz && !how.nan && !how.abs => {
            d.finish(3)?;
            lanewise(dst, [a, b], move |[a, b]| {
                let picked = how.pick(64, 0x7ff << 52, F64.nan, a, b);
                f64_of(f64d(picked), [b, a])
            })
        }
        _ => d.error(format!("has no such form for {ty:?}")),
    }
}

/// `copysign.type d, a, b`: b with the sign of a.
pub(super) fn decode_copysign(d: &mut Decoder<'_>) -> Result<Op> {
    let ty = d.ty()?;
    let sign = match ty {
        Ty::F32 => 1u64 << 31,
        Ty::F64 => 1 << 63,
        _ => return d.error("needs f32 or f64"),
    };
    let (dst, s) = (d.dst(0, ty)?, [d.value(1, ty)?, d.value(2, ty)?]);
    d.finish(3)?;
    lanewise(dst, s, move |[a, b]| b & !sign | a & sign)
}

/// `testp.op.type p, a`.
pub(super) fn decode_testp(d: &mut Decoder<'_>) -> Result<Op> {
    /// Test of (magnitude, infinity, smallest normal).
    type Test = fn(u64, u64, u64) -> bool;
    const TESTS: &[(&str, Test)] = &[
        // Magnitude, infinity, smallest normal.
        ("finite", |m, inf, _| m < inf),
        ("infinite", |m, inf, _| m == inf),
        ("number", |m, inf, _| m <= inf),
        ("notanumber", |m, inf, _| m > inf),
        // Zero counts as normal.
        ("normal", |m, inf, normal| m == 0 || m >= normal && m < inf),
        ("subnormal", |m, _, normal| m > 0 && m < normal),
    ];
    let test = d.need_one("a test", TESTS)?;
    let ty = d.ty()?;
    let (sign, infinity, normal) = match ty {
        Ty::F32 => (1u64 << 31, 0x7f80_0000, 0x0080_0000),
        Ty::F64 => (1 << 63, 0x7ff << 52, 1 << 52),
        _ => return d.error("needs f32 or f64"),
    };
    let (dst, a) = (d.dst(0, Ty::Pred)?, d.value(1, ty)?);
    d.finish(2)?;
    lanewise(dst, [a], move |[a]| u64::from(test(a & !sign, infinity, normal)))
}
