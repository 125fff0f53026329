//! `mma.sync` (PTX ISA 9.7.14.5): f16, bf16, tf32 and FP8 operands with f32 accumulators, f16 with f16, integers
//! with s32, f64.
//!
//! One rule places every operand: with `p` elements to a register, register `r` of lane `l` holds row `l / 4` (of B:
//! column), 8 rows further down for odd `r` of a 16-row A, and `p` consecutive k from `p * (l % 4)`, `4 p` further on
//! with every register (of a 16-row A: every second).

use super::{Entry, root};
use crate::decode::{Decoder, Execute, Op, Result, Src};
use crate::machine::{Ctx, Flow, LANES};
use crate::numerics::Precision;
use crate::numerics::aligned_sum::{self, Addend, HOPPER_FP8, Unit, WIDE};
use crate::numerics::element::{Element, Format};
use crate::program::Reg;
use crate::types::Ty;

pub(super) const TABLE: &[Entry] = &[root("mma", decode)];

/// Operand types.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Operands {
    /// Floating point.
    Float(Format, Format),
    /// Integers of that many bits, A and B signed or not.
    Integer(u32, bool, bool),
    /// binary64.
    Double,
}

impl Operands {
    /// Types of A and B, for the counters.
    fn names(self) -> String {
        let integer = |signed| if signed { "s" } else { "u" };
        match self {
            Operands::Float(a, b) => format!("{}.{}", a.name(), b.name()),
            Operands::Integer(bits, a, b) => format!("{}{bits}.{}{bits}", integer(a), integer(b)),
            Operands::Double => "f64.f64".to_owned(),
        }
    }

    /// Bits of an element.
    fn bits(self) -> usize {
        match self {
            Operands::Float(Format::F16 | Format::Bf16, _) => 16,
            Operands::Float(Format::Tf32, _) => 32,
            Operands::Float(..) => 8,
            Operands::Integer(bits, ..) => bits as usize,
            Operands::Double => 64,
        }
    }
}

/// Accumulator types.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Accumulator {
    F32,
    F16,
    /// Saturating or wrapping.
    S32(bool),
    F64,
}

struct MmaSync {
    operands: Operands,
    accumulator: Accumulator,
    /// Rows: 8 or 16.
    m: usize,
    /// Elements along K.
    k: usize,
    d: Vec<Reg>,
    a: Vec<Src>,
    b: Vec<Src>,
    c: Vec<Src>,
}

impl MmaSync {
    /// The bits of an operand's elements, `[rows, k]`.
    fn gather(&self, ctx: &Ctx<'_>, sources: &[Src], rows: usize) -> Vec<u64> {
        let bits = self.operands.bits();
        let (p, blocks) = ((32 / bits).max(1), rows / 8);
        let mask = u64::MAX >> (64 - bits);
        let mut elements = vec![0; rows * self.k];
        for (r, &src) in sources.iter().enumerate() {
            for (lane, &word) in ctx.row(src).iter().enumerate() {
                let (row, k) = (lane / 4 + 8 * (r % blocks), p * (lane % 4) + 4 * p * (r / blocks));
                for i in 0..p {
                    elements[row * self.k + k + i] = word >> (bits * i) & mask;
                }
            }
        }
        elements
    }

    /// `D[row][column]` for every lane and accumulator element: `f(row, column, c)`.
    fn scatter(&self, ctx: &mut Ctx<'_>, mut f: impl FnMut(usize, usize, u64) -> u64) {
        let c: Vec<[u64; LANES]> = self.c.iter().map(|&src| ctx.row(src)).collect();
        let halves = if self.accumulator == Accumulator::F16 { 2 } else { 1 };
        let mask = if halves == 2 { 0xffff } else { u64::MAX };
        for (r, &dst) in self.d.iter().enumerate() {
            let mut out = [0u64; LANES];
            for (lane, value) in out.iter_mut().enumerate() {
                for half in 0..halves {
                    let i = r * halves + half;
                    let (row, column) = (lane / 4 + 8 * (i / 2), 2 * (lane % 4) + i % 2);
                    *value |= f(row, column, c[r][lane] >> (16 * half) & mask) << (16 * half);
                }
            }
            let mask = ctx.mask;
            ctx.warp.set_row(dst, mask, &out);
        }
    }
}

/// The sum of an integer MMA: exact, then wrapped or saturated to 32 bits.
pub(super) fn integer_step(a: &[i32], b: &[i32], c: u32, saturate: bool) -> u32 {
    let sum = a.iter().zip(b).map(|(x, y)| i64::from(x * y)).sum::<i64>() + i64::from(c as i32);
    if saturate { sum.clamp(i32::MIN.into(), i32::MAX.into()) as u32 } else { sum as u32 }
}

/// An element of `bits` bits as an integer.
pub(super) fn integer(word: u64, bits: u32, signed: bool) -> i32 {
    let shift = 32 - bits;
    let top = (word as u32) << shift;
    if signed { top as i32 >> shift } else { (top >> shift) as i32 }
}

/// One step of an MMA: `c + a . b` in the chosen precision.
pub(super) fn step(
    a: &[Element],
    b: &[Element],
    c: u32,
    formats: (Format, Format),
    unit: Unit,
    p: Precision,
) -> u32 {
    match p {
        Precision::Hardware => aligned_sum::step(a, b, c, formats.0.fraction() + formats.1.fraction(), unit),
        Precision::PlainF32 => {
            let value = |e: &Element, f: Format| plain(e, f);
            let sum = a
                .iter()
                .zip(b)
                .fold(f32::from_bits(c), |s, (x, y)| s + value(x, formats.0) * value(y, formats.1));
            sum.to_bits()
        }
    }
}

/// An element as f32.
fn plain(e: &Element, format: Format) -> f32 {
    use crate::numerics::element::Class;
    match e.class {
        Class::Nan => f32::NAN,
        Class::Infinite if e.sig < 0 => f32::NEG_INFINITY,
        Class::Infinite => f32::INFINITY,
        Class::Finite => (f64::from(e.sig) * 2f64.powi(e.exp - format.fraction() as i32)) as f32,
    }
}

impl Execute for MmaSync {
    fn is_aligned(&self) -> bool {
        true
    }

    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let sources: Vec<Src> = self.a.iter().chain(&self.b).chain(&self.c).copied().collect();
        if ctx.any_dirty(&sources) {
            for lane in ctx.lanes() {
                let origin = ctx.origin_of(&sources, lane);
                if !origin.is_clean() {
                    ctx.report_poison(origin, lane, "an MMA operand");
                }
            }
        }
        let (a, b) = (self.gather(ctx, &self.a, self.m), self.gather(ctx, &self.b, 8));
        let k = self.k;
        let precision = ctx.env.precision;
        match self.operands {
            Operands::Integer(bits, signed_a, signed_b) => {
                let a: Vec<i32> = a.iter().map(|&w| integer(w, bits, signed_a)).collect();
                let b: Vec<i32> = b.iter().map(|&w| integer(w, bits, signed_b)).collect();
                let saturate = self.accumulator == Accumulator::S32(true);
                self.scatter(ctx, |row, column, c| {
                    u64::from(integer_step(&a[row * k..][..k], &b[column * k..][..k], c as u32, saturate))
                });
            }
            // A chain of fused multiply-adds in order of k.
            Operands::Double => self.scatter(ctx, |row, column, c| {
                let products = a[row * k..][..k].iter().zip(&b[column * k..][..k]);
                let sum = products
                    .fold(f64::from_bits(c), |s, (&x, &y)| f64::from_bits(x).mul_add(f64::from_bits(y), s));
                sum.to_bits()
            }),
            Operands::Float(fa, fb) => {
                let a: Vec<Element> = a.iter().map(|&w| fa.decode(w as u32)).collect();
                let b: Vec<Element> = b.iter().map(|&w| fb.decode(w as u32)).collect();
                let unit = if self.operands.bits() == 8 { HOPPER_FP8 } else { WIDE };
                self.scatter(ctx, |row, column, c| {
                    let (x, y) = (&a[row * k..][..k], &b[column * k..][..k]);
                    u64::from(match self.accumulator {
                        Accumulator::F16 => aligned_sum::step_f16(
                            x,
                            y,
                            Addend::f16(c as u32),
                            fa.fraction() + fb.fraction(),
                            unit,
                        ),
                        _ => step(x, y, c as u32, (fa, fb), unit, precision),
                    })
                });
            }
        }
        let kind = format!("mma.sync.{}", self.operands.names());
        ctx.cluster.counters.add_mma(kind, [self.m as u32, 8, self.k as u32]);
        Flow::Next
    }
}

/// The shapes of each element size in bits, and whether A may have 8 rows.
const SHAPES: &[(&str, usize, usize, usize)] = &[
    ("m16n8k8", 16, 16, 8),
    ("m16n8k16", 16, 16, 16),
    ("m16n8k4", 32, 16, 4),
    ("m16n8k8", 32, 16, 8),
    ("m8n8k16", 8, 8, 16),
    ("m16n8k16", 8, 16, 16),
    ("m16n8k32", 8, 16, 32),
    ("m8n8k32", 4, 8, 32),
    ("m16n8k32", 4, 16, 32),
    ("m16n8k64", 4, 16, 64),
    ("m8n8k4", 64, 8, 4),
    ("m16n8k4", 64, 16, 4),
    ("m16n8k8", 64, 16, 8),
    ("m16n8k16", 64, 16, 16),
];

/// `mma.sync.aligned.SHAPE.row.col{.satfinite}.dtype.atype.btype.ctype d, a, b, c`.
fn decode(d: &mut Decoder<'_>) -> Result<Op> {
    for needed in ["sync", "aligned", "row", "col"] {
        if !d.take(needed) {
            return d.error(format!("only the form with .{needed} is modelled"));
        }
    }
    let saturate = d.take("satfinite");
    let Some(name) = d.take_map(|m| SHAPES.iter().map(|s| s.0).find(|s| *s == m)) else {
        return d.error("needs a shape that is modelled");
    };
    let &[dt, at, bt, ct] = d.rest() else {
        return d.error("needs four types, and nothing else is modelled");
    };
    let format = |name: &str| match name {
        "f16" => Some(Format::F16),
        "bf16" => Some(Format::Bf16),
        "tf32" => Some(Format::Tf32),
        "e4m3" => Some(Format::E4m3),
        "e5m2" => Some(Format::E5m2),
        _ => None,
    };
    let integer = |name: &str| match name {
        "s8" => Some((8, true)),
        "u8" => Some((8, false)),
        "s4" => Some((4, true)),
        "u4" => Some((4, false)),
        _ => None,
    };
    let operands = match (format(at), format(bt), integer(at), integer(bt)) {
        (Some(a), Some(b), ..) => Some(Operands::Float(a, b)),
        (.., Some((bits, a)), Some((same, b))) if bits == same => Some(Operands::Integer(bits, a, b)),
        _ if (at, bt) == ("f64", "f64") => Some(Operands::Double),
        _ => None,
    };
    let fp8 = |f: Format| matches!(f, Format::E4m3 | Format::E5m2);
    let accumulator = match (dt, operands) {
        _ if dt != ct => None,
        ("f32", Some(Operands::Float(a, b))) if a == b || fp8(a) && fp8(b) => Some(Accumulator::F32),
        ("f16", Some(Operands::Float(Format::F16, Format::F16))) => Some(Accumulator::F16),
        ("s32", Some(Operands::Integer(..))) => Some(Accumulator::S32(saturate)),
        ("f64", Some(Operands::Double)) => Some(Accumulator::F64),
        _ => None,
    };
    let (Some(operands), Some(accumulator)) = (operands, accumulator) else {
        return d.error("these types do not go together, or are not modelled");
    };
    if saturate && accumulator != Accumulator::S32(true) {
        return d.error(".satfinite belongs to integers");
    }
    let bits = operands.bits();
    let shape = SHAPES.iter().find(|s| s.0 == name && s.1 == bits);
    // FP8 has one shape only.
    let Some(&(_, _, m, k)) =
        shape.filter(|s| !matches!(operands, Operands::Float(..)) || bits != 8 || s.3 == 32)
    else {
        return d.error("operand types do not go with this shape");
    };
    for ty in [dt, at, bt, ct] {
        d.take(ty);
    }
    let ty = if operands == Operands::Double { Ty::F64 } else { Ty::B32 };
    let (dst, a, b, c) = (d.regs(0)?, d.srcs(1, ty)?, d.srcs(2, ty)?, d.srcs(3, ty)?);
    let per = (32 / bits).max(1);
    let wanted = (m * k / per / 32, 8 * k / per / 32);
    let accumulators = m * 8 / 32 / if accumulator == Accumulator::F16 { 2 } else { 1 };
    if (a.len(), b.len()) != wanted || (dst.len(), c.len()) != (accumulators, accumulators) {
        return d.error(format!(
            "a, b and the accumulators take {}, {} and {accumulators} registers",
            wanted.0, wanted.1
        ));
    }
    d.finish(4)?;
    Ok(Box::new(MmaSync { operands, accumulator, m, k, d: dst, a, b, c }))
}
