//! Comparison and selection (PTX ISA 9.7.5 - 9.7.7): setp, set, selp, slct.

use super::lanewise::lanewise;
use super::{Entry, root};
use crate::decode::{Decoder, Execute, Op, Result, Src};
use crate::machine::{Ctx, Flow, LANES};
use crate::program::Reg;
use crate::softfloat::fast;
use crate::syntax::ast::Operand;
use crate::types::Ty;

pub(super) const TABLE: &[Entry] = &[
    root("setp", decode_setp),
    root("set", decode_set),
    root("selp", decode_selp),
    root("slct", decode_slct),
];

/// A comparison: which of less, equal, greater, unordered make it true.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Comparison {
    less: bool,
    equal: bool,
    greater: bool,
    unordered: bool,
}

const fn cmp(less: bool, equal: bool, greater: bool, unordered: bool) -> Comparison {
    Comparison { less, equal, greater, unordered }
}

const COMPARISONS: &[(&str, Comparison)] = &[
    ("eq", cmp(false, true, false, false)),
    ("ne", cmp(true, false, true, false)),
    ("lt", cmp(true, false, false, false)),
    ("le", cmp(true, true, false, false)),
    ("gt", cmp(false, false, true, false)),
    ("ge", cmp(false, true, true, false)),
    ("lo", cmp(true, false, false, false)),
    ("ls", cmp(true, true, false, false)),
    ("hi", cmp(false, false, true, false)),
    ("hs", cmp(false, true, true, false)),
    ("equ", cmp(false, true, false, true)),
    ("neu", cmp(true, false, true, true)),
    ("ltu", cmp(true, false, false, true)),
    ("leu", cmp(true, true, false, true)),
    ("gtu", cmp(false, false, true, true)),
    ("geu", cmp(false, true, true, true)),
    ("num", cmp(true, true, true, false)),
    ("nan", cmp(false, false, false, true)),
];

/// How a predicate is combined with the result.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Combine {
    And,
    Or,
    Xor,
}

const COMBINES: &[(&str, Combine)] = &[("and", Combine::And), ("or", Combine::Or), ("xor", Combine::Xor)];

impl Combine {
    #[inline(always)]
    fn apply(self, a: bool, b: bool) -> bool {
        match self {
            Combine::And => a & b,
            Combine::Or => a | b,
            Combine::Xor => a ^ b,
        }
    }
}

/// The value kind compared.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Unsigned,
    Signed(Ty),
    F32 { ftz: bool },
    F64,
    Half { is_bf16: bool, ftz: bool },
}

impl Comparison {
    #[inline(always)]
    fn test<T: PartialOrd>(self, a: T, b: T) -> bool {
        (self.less & (a < b))
            | (self.equal & (a == b))
            | (self.greater & (a > b))
            | (self.unordered & !(a <= b || a > b))
    }

    /// Compares register values.
    #[inline(always)]
    fn holds(self, kind: Kind, a: u64, b: u64) -> bool {
        match kind {
            Kind::Unsigned => self.test(a, b),
            Kind::Signed(ty) => self.test(ty.extend(a) as i64, ty.extend(b) as i64),
            Kind::F32 { ftz } => {
                let flush = |x: u64| {
                    let x = x as u32;
                    f32::from_bits(if ftz && x & 0x7f80_0000 == 0 { x & 0x8000_0000 } else { x })
                };
                self.test(flush(a), flush(b))
            }
            Kind::F64 => self.test(f64::from_bits(a), f64::from_bits(b)),
            Kind::Half { is_bf16, ftz } => {
                let exponent = if is_bf16 { 0x7f80 } else { 0x7c00 };
                let value = |x: u64| {
                    let x = if ftz && x & exponent == 0 { x & 0x8000 } else { x };
                    if is_bf16 { fast::from_bf16(x & 0xffff) } else { fast::from_f16(x & 0xffff) }
                };
                self.test(value(a), value(b))
            }
        }
    }
}

/// The kind of a type, after checking that the comparison fits it; the second value says whether packed.
fn kind_of(d: &Decoder<'_>, name: &str, ty: Ty, ftz: bool) -> Result<(Kind, bool)> {
    let wrong = |why: &str| d.error(format!("comparison `.{name}` {why}"));
    let unordered = matches!(name, "equ" | "neu" | "ltu" | "leu" | "gtu" | "geu" | "num" | "nan");
    let unsigned_only = matches!(name, "lo" | "ls" | "hi" | "hs");
    if ty.is_float() && unsigned_only {
        return wrong("is for unsigned integers");
    }
    if !ty.is_float() && (unordered || ftz) {
        return wrong("or `.ftz` is for floating point");
    }
    Ok(match ty {
        Ty::B16 | Ty::B32 | Ty::B64 if !matches!(name, "eq" | "ne") => {
            return wrong("is not defined on bit types");
        }
        Ty::B16 | Ty::B32 | Ty::B64 | Ty::U16 | Ty::U32 | Ty::U64 => (Kind::Unsigned, false),
        Ty::S16 | Ty::S32 | Ty::S64 if unsigned_only => return wrong("is for unsigned integers"),
        Ty::S16 | Ty::S32 | Ty::S64 => (Kind::Signed(ty), false),
        Ty::F32 => (Kind::F32 { ftz }, false),
        Ty::F64 if !ftz => (Kind::F64, false),
        Ty::F16 => (Kind::Half { is_bf16: false, ftz }, false),
        Ty::F16x2 => (Kind::Half { is_bf16: false, ftz }, true),
        Ty::BF16 if !ftz => (Kind::Half { is_bf16: true, ftz }, false),
        Ty::BF16x2 if !ftz => (Kind::Half { is_bf16: true, ftz }, true),
        _ => return d.error(format!("has no type {ty:?}")),
    })
}

/// Integer and bit types of 16 to 64 bits.
pub(super) fn is_plain(ty: Ty) -> bool {
    let bits = matches!(ty, Ty::B16 | Ty::B32 | Ty::B64);
    bits || ty.is_integer() && !matches!(ty, Ty::U8 | Ty::S8 | Ty::U16x2 | Ty::S16x2)
}

/// Takes the comparison with its name.
fn take_comparison(d: &mut Decoder<'_>) -> Result<(&'static str, Comparison)> {
    let named: Vec<(&str, (&'static str, Comparison))> =
        COMPARISONS.iter().map(|&(n, c)| (n, (n, c))).collect();
    d.need_one("a comparison", &named)
}

struct Setp {
    kind: Kind,
    comparison: Comparison,
    combine: Option<(Combine, Src, bool)>,
    sources: [Src; 2],
    /// For packed types: the halves. Otherwise: the result and its complement (`p|q`).
    dst: [Option<Reg>; 2],
    packed: bool,
}

impl Execute for Setp {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let [a, b] = self.sources.map(|s| ctx.row(s));
        let (c, negated) = self.combine.map_or((Src::Imm(0), false), |(_, c, n)| (c, n));
        let c_row = ctx.row(c);
        let combine = |result: bool, c: u64| match self.combine {
            Some((how, ..)) => how.apply(result, (c & 1 == 1) != negated),
            None => result,
        };
        let (mut p, mut q) = ([0; LANES], [0; LANES]);
        for lane in 0..LANES {
            let first = self.comparison.holds(self.kind, a[lane], b[lane]);
            let second = if self.packed {
                self.comparison.holds(self.kind, a[lane] >> 16, b[lane] >> 16)
            } else {
                !first
            };
            p[lane] = u64::from(combine(first, c_row[lane]));
            q[lane] = u64::from(combine(second, c_row[lane]));
        }
        let sources = [self.sources[0], self.sources[1], c];
        // c may be one of the destinations: its poison is read before either is written.
        let origins = std::array::from_fn(|lane| {
            if ctx.any_dirty(&sources) { ctx.origin_of(&sources, lane) } else { Default::default() }
        });
        for (dst, values) in self.dst.iter().zip([p, q]) {
            if let Some(dst) = *dst {
                ctx.write_origins(dst, &values, &origins);
            }
        }
        Flow::Next
    }
}

/// `setp.CmpOp{.ftz}.type p{|q}, a, b`, `setp.CmpOp.BoolOp{.ftz}.type p{|q}, a, b, {!}c`.
fn decode_setp(d: &mut Decoder<'_>) -> Result<Op> {
    let (name, comparison) = take_comparison(d)?;
    let combine = d.take_one(COMBINES);
    let ftz = d.take("ftz");
    let ty = d.ty()?;
    let (kind, packed) = kind_of(d, name, ty, ftz)?;
    let sources = [d.value(1, ty)?, d.value(2, ty)?];
    let target = |o: &Operand| match o {
        Operand::Sink => Ok(None),
        other => d.dst_of(other, Ty::Pred).map(Some),
    };
    let dst = match d.operand(0)? {
        Operand::Pair(..) if matches!(ty, Ty::F16 | Ty::BF16) => {
            return d.error("scalar half-precision comparisons have one destination");
        }
        Operand::Pair(p, q) => [target(p)?, target(q)?],
        other => [target(other)?, None],
    };
    let combine = match combine {
        Some(how) => {
            let (c, negated) = d.pred(3)?;
            d.finish(4)?;
            Some((how, c, negated))
        }
        None => {
            d.finish(3)?;
            None
        }
    };
    let (None, [Some(p), None], false) = (combine, dst, packed) else {
        return Ok(Box::new(Setp { kind, comparison, combine, sources, dst, packed }));
    };
    // The common case, with a loop for each kind.
    let c = comparison;
    match kind {
        Kind::Unsigned => lanewise(p, sources, move |[a, b]| u64::from(c.test(a, b))),
        Kind::Signed(Ty::S32) => lanewise(p, sources, move |[a, b]| u64::from(c.test(a as i32, b as i32))),
        Kind::F32 { ftz: false } => lanewise(p, sources, move |[a, b]| {
            u64::from(c.test(f32::from_bits(a as u32), f32::from_bits(b as u32)))
        }),
        kind => lanewise(p, sources, move |[a, b]| u64::from(c.holds(kind, a, b))),
    }
}

/// `set.CmpOp{.ftz}.dtype.stype d, a, b`, `set.CmpOp.BoolOp{.ftz}.dtype.stype d, a, b, {!}c`: all ones or 1.0.
fn decode_set(d: &mut Decoder<'_>) -> Result<Op> {
    let (name, comparison) = take_comparison(d)?;
    let combine = d.take_one(COMBINES);
    let ftz = d.take("ftz");
    let source_ty = d.ty()?;
    let dst_ty = d.ty()?;
    let (kind, packed) = kind_of(d, name, source_ty, ftz)?;
    let fits = match (source_ty, dst_ty) {
        (_, Ty::U32 | Ty::S32) => true,
        (s, t) if packed => s == t,
        (Ty::F16 | Ty::BF16, Ty::U16 | Ty::S16) => true,
        (Ty::F16 | Ty::BF16, Ty::F32) | (Ty::BF16, Ty::F16) => false,
        (_, Ty::F16 | Ty::F32) => true,
        (_, Ty::BF16) => !ftz,
        _ => false,
    };
    if !fits {
        return d.error(format!("has no destination type {dst_ty:?} for {source_ty:?}"));
    }
    let yes = match dst_ty {
        Ty::F32 => 0x3f80_0000,
        Ty::F16 | Ty::F16x2 => 0x3c00,
        Ty::BF16 | Ty::BF16x2 => 0x3f80,
        Ty::U32 | Ty::S32 if !packed => 0xffff_ffff,
        _ => 0xffff,
    };
    let dst = d.dst(0, dst_ty)?;
    let (a, b) = (d.value(1, source_ty)?, d.value(2, source_ty)?);
    let (c, negated) = if combine.is_some() { d.pred(3)? } else { (Src::Imm(0), false) };
    d.finish(if combine.is_some() { 4 } else { 3 })?;
    lanewise(dst, [a, b, c], move |[a, b, c]| {
        let result = |shift: u32| {
            let first = comparison.holds(kind, a >> shift, b >> shift);
            let c = (c & 1 == 1) != negated;
            let set = combine.map_or(first, |how| how.apply(first, c));
            if set { yes } else { 0 }
        };
        if packed { result(0) | result(16) << 16 } else { result(0) }
    })
}

struct Selp {
    dst: Reg,
    sources: [Src; 2],
    pred: (Src, bool),
}

impl Execute for Selp {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let (p, negated) = self.pred;
        let [a, b, c] = [self.sources[0], self.sources[1], p];
        let pick = |c: u64| (c & 1 == 1) != negated;
        if !ctx.any_dirty(&[a, b, c]) {
            ctx.map(self.dst, [a, b, c], |[a, b, c]| if pick(c) { a } else { b });
            return Flow::Next;
        }
        // Only the selected source's poison counts.
        let rows = [a, b, c].map(|s| ctx.row(s));
        for lane in ctx.lanes() {
            let (src, row) = if pick(rows[2][lane]) { (a, &rows[0]) } else { (b, &rows[1]) };
            let origin = ctx.origin(c, lane).or(ctx.origin(src, lane));
            ctx.set(self.dst, lane, row[lane], origin);
        }
        Flow::Next
    }
}

/// `selp.type d, a, b, c`.
fn decode_selp(d: &mut Decoder<'_>) -> Result<Op> {
    let ty = d.ty()?;
    if !is_plain(ty) && !matches!(ty, Ty::F32 | Ty::F64) {
        return d.error(format!("has no type {ty:?}"));
    }
    let (dst, sources, pred) = (d.dst(0, ty)?, [d.value(1, ty)?, d.value(2, ty)?], d.pred(3)?);
    d.finish(4)?;
    Ok(Box::new(Selp { dst, sources, pred }))
}

/// `slct.dtype.s32 d, a, b, c`, `slct{.ftz}.dtype.f32 d, a, b, c`: a if c >= 0, else b (also for NaN).
fn decode_slct(d: &mut Decoder<'_>) -> Result<Op> {
    let ftz = d.take("ftz");
    let selector = d.ty()?;
    let ty = d.ty()?;
    if !is_plain(ty) && !matches!(ty, Ty::F32 | Ty::F64) {
        return d.error(format!("has no type {ty:?}"));
    }
    let (dst, s) = (d.dst(0, ty)?, [d.value(1, ty)?, d.value(2, ty)?, d.value(3, selector)?]);
    d.finish(4)?;
    match selector {
        Ty::S32 if !ftz => lanewise(dst, s, |[a, b, c]| if c as i32 >= 0 { a } else { b }),
        // -0 >= 0 holds, and a flushed subnormal is 0.
        Ty::F32 => lanewise(dst, s, move |[a, b, c]| {
            let c = c as u32;
            let c = if ftz && c & 0x7f80_0000 == 0 { 0 } else { c };
            if f32::from_bits(c) >= 0.0 { a } else { b }
        }),
        _ => d.error(format!("has no selector type {selector:?}")),
    }
}
