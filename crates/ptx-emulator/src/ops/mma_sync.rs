//! `mma.sync` for f16 and bf16 (m16n8k16, m16n8k8) and FP8 (m16n8k32) with f32 accumulators (PTX ISA 9.7.14.5).

use super::{Entry, root};
use crate::decode::{Decoder, Execute, Op, Result, Src};
use crate::machine::{Ctx, Flow, LANES};
use crate::numerics::Precision;
use crate::numerics::aligned_sum::{self, HOPPER_FP8, Unit, WIDE};
use crate::numerics::element::{Element, Format};
use crate::program::Reg;
use crate::types::Ty;

pub(super) const TABLE: &[Entry] = &[root("mma", decode)];

struct MmaSync {
    a_format: Format,
    b_format: Format,
    /// Elements along K.
    k: usize,
    d: [Reg; 4],
    a: Vec<Src>,
    b: Vec<Src>,
    c: [Src; 4],
    unit: Unit,
}

impl MmaSync {
    /// Elements per 32-bit register.
    fn per_register(&self) -> usize {
        if self.unit == WIDE { 2 } else { 4 }
    }
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
        let n = self.per_register();
        let bits = 32 / n as u32;
        let element = |word: u64, i: usize, f: Format| {
            f.decode((word as u32 >> (bits * i as u32)) & (u32::MAX >> (32 - bits)))
        };
        let zero = Format::Bf16.decode(0);
        // A[16][k]: register r of lane l holds row l/4 (+8 for odd r), k = n*(l%4) + i (+ 4n for r >= 2).
        let mut a = vec![vec![zero; self.k]; 16];
        for (r, &src) in self.a.iter().enumerate() {
            let row = ctx.row(src);
            for (lane, &word) in row.iter().enumerate() {
                for i in 0..n {
                    a[lane / 4 + 8 * (r % 2)][n * (lane % 4) + i + 4 * n * (r / 2)] =
                        element(word, i, self.a_format);
                }
            }
        }
        let mut b = vec![vec![zero; self.k]; 8];
        for (r, &src) in self.b.iter().enumerate() {
            let row = ctx.row(src);
            for (lane, &word) in row.iter().enumerate() {
                for i in 0..n {
                    b[lane / 4][n * (lane % 4) + i + 4 * n * r] = element(word, i, self.b_format);
                }
            }
        }
        let c = self.c.map(|src| ctx.row(src));
        let precision = ctx.env.precision;
        for (i, &dst) in self.d.iter().enumerate() {
            let mut out = [0u64; LANES];
            for (lane, value) in out.iter_mut().enumerate() {
                let (row, column) = (lane / 4 + 8 * (i / 2), 2 * (lane % 4) + i % 2);
                let formats = (self.a_format, self.b_format);
                *value =
                    u64::from(step(&a[row], &b[column], c[i][lane] as u32, formats, self.unit, precision));
            }
            let mask = ctx.mask;
            ctx.warp.set_row(dst, mask, &out);
        }
        let kind = format!("mma.sync.{}.{}", self.a_format.name(), self.b_format.name());
        ctx.cluster.counters.add_mma(kind, [16, 8, self.k as u32]);
        Flow::Next
    }
}

/// `mma.sync.aligned.m16n8kK.row.col.f32.T.T.f32 d, a, b, c`.
fn decode(d: &mut Decoder<'_>) -> Result<Op> {
    for needed in ["sync", "aligned", "row", "col", "f32", "f32"] {
        if !d.take(needed) {
            return d.error(format!("only the form with .{needed} is modelled"));
        }
    }
    let k = d.need_one("a shape", &[("m16n8k8", 8), ("m16n8k16", 16), ("m16n8k32", 32)])?;
    let format = |name: &str| match name {
        "f16" => Some(Format::F16),
        "bf16" => Some(Format::Bf16),
        "e4m3" => Some(Format::E4m3),
        "e5m2" => Some(Format::E5m2),
        _ => None,
    };
    let (Some(a_format), Some(b_format)) = (d.take_map(format), d.take_map(format)) else {
        return d.error("operand types are not modelled");
    };
    let narrow = matches!(a_format, Format::E4m3 | Format::E5m2);
    let narrow_b = matches!(b_format, Format::E4m3 | Format::E5m2);
    if narrow != narrow_b || narrow != (k == 32) || (!narrow && a_format != b_format) {
        return d.error("operand types do not go with this shape");
    }
    let (dst, a, b, c) = (d.regs(0)?, d.srcs(1, Ty::B32)?, d.srcs(2, Ty::B32)?, d.srcs(3, Ty::F32)?);
    let words = if k == 8 { (2, 1) } else { (4, 2) };
    let (Ok(dst), Ok(c)) = (<[Reg; 4]>::try_from(dst), <[Src; 4]>::try_from(c)) else {
        return d.error("d and c take four registers");
    };
    if (a.len(), b.len()) != words {
        return d.error(format!("a and b take {} and {} registers", words.0, words.1));
    }
    d.finish(4)?;
    let unit = if narrow { HOPPER_FP8 } else { WIDE };
    Ok(Box::new(MmaSync { a_format, b_format, k, d: dst, a, b, c, unit }))
}
