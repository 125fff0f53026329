//! Logic and shift instructions (PTX ISA 9.7.8): and, or, xor, not, cnot, lop3, shl, shr, shf, and prmt
//! (PTX ISA 9.7.9.7).

use super::lanewise::lanewise;
use super::{Entry, partial, root};
use crate::decode::{Decoder, Execute, Op, Result, Src};
use crate::machine::{Ctx, Flow};
use crate::program::Reg;
use crate::syntax::ast::Operand;
use crate::types::Ty;

pub(super) const TABLE: &[Entry] = &[
    root("and", decode_binary),
    root("or", decode_binary),
    root("xor", decode_binary),
    root("not", decode_not),
    root("cnot", decode_cnot),
    root("lop3", decode_lop3),
    root("shl", decode_shl),
    root("shr", decode_shr),
    root("shf", decode_shf),
    root("prmt", decode_prmt),
];

/// Takes the type, which must be a bit type, or a predicate if `pred`.
fn bit_type(d: &mut Decoder<'_>, pred: bool) -> Result<Ty> {
    let ty = d.ty()?;
    match ty {
        Ty::B16 | Ty::B32 | Ty::B64 => Ok(ty),
        Ty::Pred if pred => Ok(ty),
        _ => d.error(format!("has no type {ty:?}")),
    }
}

/// `and.type d, a, b`, `or`, `xor`.
fn decode_binary(d: &mut Decoder<'_>) -> Result<Op> {
    let name = d.mnemonic();
    let ty = bit_type(d, true)?;
    let (dst, s) = (d.dst(0, ty)?, [d.value(1, ty)?, d.value(2, ty)?]);
    d.finish(3)?;
    let narrow = matches!(ty, Ty::B16 | Ty::B32);
    match name {
        "and" if narrow => partial::and(lanewise(dst, s, |[a, b]| a & b), dst, s),
        "or" if narrow => partial::bitwise(lanewise(dst, s, |[a, b]| a | b), dst, s),
        "xor" if narrow => partial::bitwise(lanewise(dst, s, |[a, b]| a ^ b), dst, s),
        "and" => lanewise(dst, s, |[a, b]| a & b),
        "or" => lanewise(dst, s, |[a, b]| a | b),
        _ => lanewise(dst, s, |[a, b]| a ^ b),
    }
}

/// `not.type d, a`.
fn decode_not(d: &mut Decoder<'_>) -> Result<Op> {
    let ty = bit_type(d, true)?;
    let (dst, a) = (d.dst(0, ty)?, d.value(1, ty)?);
    d.finish(2)?;
    let ones = ty.truncate(u64::MAX);
    lanewise(dst, [a], move |[a]| a ^ ones)
}

/// `cnot.type d, a`: 1 if a is 0, else 0.
fn decode_cnot(d: &mut Decoder<'_>) -> Result<Op> {
    let ty = bit_type(d, false)?;
    let (dst, a) = (d.dst(0, ty)?, d.value(1, ty)?);
    d.finish(2)?;
    lanewise(dst, [a], |[a]| u64::from(a == 0))
}

/// The value of a look-up table over three operands, bit by bit.
#[inline(always)]
fn lookup(masks: &[u64; 8], a: u64, b: u64, c: u64) -> u64 {
    let pick = |bit: bool, x: u64| if bit { x } else { !x };
    let term = |i: usize| masks[i] & pick(i & 4 != 0, a) & pick(i & 2 != 0, b) & pick(i & 1 != 0, c);
    (term(0) | term(1) | term(2) | term(3)) | (term(4) | term(5) | term(6) | term(7))
}

struct Lop3Pred {
    dst: Option<Reg>,
    pred: Reg,
    sources: [Src; 3],
    q: (Src, bool),
    masks: [u64; 8],
    or: bool,
}

impl Execute for Lop3Pred {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let (masks, (q, negated), or) = (self.masks, self.q, self.or);
        let [a, b, c] = self.sources;
        // The predicate first: the value may overwrite a source.
        let value = self.dst.map(|dst| {
            let rows = [a, b, c].map(|s| ctx.row(s));
            let origins = std::array::from_fn(|lane| ctx.origin_of(&self.sources, lane));
            (dst, std::array::from_fn(|l| lookup(&masks, rows[0][l], rows[1][l], rows[2][l])), origins)
        });
        ctx.map(self.pred, [a, b, c, q], |[a, b, c, q]| {
            let nonzero = lookup(&masks, a, b, c) != 0;
            let q = (q & 1 == 1) != negated;
            u64::from(if or { nonzero | q } else { nonzero & q })
        });
        if let Some((dst, values, origins)) = value {
            ctx.write_origins(dst, &values, &origins);
        }
        Flow::Next
    }
}

/// `lop3.b32 d, a, b, c, lut`, `lop3.BoolOp.b32 d|p, a, b, c, lut, q`.
fn decode_lop3(d: &mut Decoder<'_>) -> Result<Op> {
    let combine = d.take_one(&[("or", true), ("and", false)]);
    if d.ty()? != Ty::B32 {
        return d.error("needs b32");
    }
    let sources = [d.value(1, Ty::B32)?, d.value(2, Ty::B32)?, d.value(3, Ty::B32)?];
    let lut = d.imm(4)?;
    if !(0..256).contains(&lut) {
        return d.error("the look-up table must be 0..255");
    }
    let masks: [u64; 8] = std::array::from_fn(|i| if lut >> i & 1 == 1 { 0xffff_ffff } else { 0 });
    let Some(or) = combine else {
        let dst = d.dst(0, Ty::B32)?;
        d.finish(5)?;
        let op = lanewise(dst, sources, move |[a, b, c]| lookup(&masks, a, b, c));
        return partial::bitwise(op, dst, sources);
    };
    let Operand::Pair(value, pred) = d.operand(0)? else {
        return d.error("needs the destinations `d|p`");
    };
    let dst = match **value {
        Operand::Sink => None,
        ref other => Some(d.dst_of(other, Ty::B32)?),
    };
    let pred = d.dst_of(pred, Ty::Pred)?;
    let q = d.pred(5)?;
    d.finish(6)?;
    Ok(Box::new(Lop3Pred { dst, pred, sources, q, masks, or }))
}

/// `shl.type d, a, b`: amounts of the width or more give 0.
fn decode_shl(d: &mut Decoder<'_>) -> Result<Op> {
    let ty = bit_type(d, false)?;
    let (dst, s) = (d.dst(0, ty)?, [d.value(1, ty)?, d.value(2, Ty::U32)?]);
    d.finish(3)?;
    match ty {
        Ty::B32 => {
            let f = |a: u64, b: u64| if b > 31 { 0 } else { a << (b & 31) & 0xffff_ffff };
            partial::shift(lanewise(dst, s, move |[a, b]| f(a, b)), dst, s, f)
        }
        Ty::B64 => lanewise(dst, s, |[a, b]| if b > 63 { 0 } else { a << (b & 63) }),
        _ => lanewise(dst, s, |[a, b]| if b > 15 { 0 } else { a << (b & 15) & 0xffff }),
    }
}

/// `shr.type d, a, b`: amounts of the width or more give 0, or the sign.
fn decode_shr(d: &mut Decoder<'_>) -> Result<Op> {
    let ty = d.ty()?;
    let (dst, s) = (d.dst(0, ty)?, [d.value(1, ty)?, d.value(2, Ty::U32)?]);
    d.finish(3)?;
    match ty {
        Ty::U16 | Ty::B16 | Ty::U32 | Ty::B32 => {
            partial::shift(lanewise(dst, s, |[a, b]| a >> b.min(63)), dst, s, |a, b| a >> b.min(63))
        }
        Ty::U64 | Ty::B64 => lanewise(dst, s, |[a, b]| if b > 63 { 0 } else { a >> (b & 63) }),
        Ty::S16 => lanewise(dst, s, |[a, b]| u64::from((a as i16 >> b.min(15)) as u16)),
        Ty::S32 => lanewise(dst, s, |[a, b]| u64::from((a as i32 >> b.min(31)) as u32)),
        Ty::S64 => lanewise(dst, s, |[a, b]| (a as i64 >> b.min(63)) as u64),
        _ => d.error(format!("has no type {ty:?}")),
    }
}

/// `shf.l.mode.b32 d, a, b, c`, `shf.r.mode.b32 d, a, b, c`: funnel shift of [b, a].
fn decode_shf(d: &mut Decoder<'_>) -> Result<Op> {
    let left = d.need_one("`.l` or `.r`", &[("l", true), ("r", false)])?;
    let clamp = d.need_one("`.clamp` or `.wrap`", &[("clamp", true), ("wrap", false)])?;
    if d.ty()? != Ty::B32 {
        return d.error("needs b32");
    }
    let s = [d.value(1, Ty::B32)?, d.value(2, Ty::B32)?, d.value(3, Ty::U32)?];
    let dst = d.dst(0, Ty::B32)?;
    d.finish(4)?;
    let amount = move |c: u64| if clamp { c.min(32) } else { c & 31 };
    if left {
        lanewise(dst, s, move |[a, b, c]| (b << 32 | a) << amount(c) >> 32)
    } else {
        lanewise(dst, s, move |[a, b, c]| (b << 32 | a) >> amount(c) & 0xffff_ffff)
    }
}

/// Byte permutation with the generic selector: nibble i picks byte i, its bit 3 replicates the sign.
#[inline(always)]
fn permute(a: u64, b: u64, selector: u64) -> u64 {
    let pair = b << 32 | a & 0xffff_ffff;
    (0..4).fold(0, |out, i| {
        let nibble = selector >> (4 * i) & 0xf;
        let byte = pair >> (8 * (nibble & 7)) & 0xff;
        let byte = if nibble & 8 != 0 { if byte & 0x80 != 0 { 0xff } else { 0 } } else { byte };
        out | byte << (8 * i)
    })
}

/// Selectors of the named modes, by the two low bits of c (PTX ISA table of `prmt`).
const MODES: &[(&str, [u64; 4])] = &[
    ("f4e", [0x3210, 0x4321, 0x5432, 0x6543]),
    ("b4e", [0x5670, 0x6701, 0x7012, 0x0123]),
    ("rc8", [0x0000, 0x1111, 0x2222, 0x3333]),
    ("ecl", [0x3210, 0x3211, 0x3222, 0x3333]),
    ("ecr", [0x0000, 0x1110, 0x2210, 0x3210]),
    ("rc16", [0x1010, 0x3232, 0x1010, 0x3232]),
];

/// `prmt.b32{.mode} d, a, b, c`.
fn decode_prmt(d: &mut Decoder<'_>) -> Result<Op> {
    let mode = d.take_one(MODES);
    if d.ty()? != Ty::B32 {
        return d.error("needs b32");
    }
    let [a, b, c] = [d.value(1, Ty::B32)?, d.value(2, Ty::B32)?, d.value(3, Ty::B32)?];
    let dst = d.dst(0, Ty::B32)?;
    d.finish(4)?;
    let sources = [a, b, c];
    if let Src::Imm(control) = c {
        let selector = mode.map_or(control, |table| table[(control & 3) as usize]);
        let op = lanewise(dst, [a, b], move |[a, b]| permute(a, b, selector));
        return partial::permute(op, dst, sources, move |_| selector);
    }
    match mode {
        Some(table) => {
            let op = lanewise(dst, sources, move |[a, b, c]| permute(a, b, table[(c & 3) as usize]));
            partial::permute(op, dst, sources, move |c| table[(c & 3) as usize])
        }
        None => {
            let op = lanewise(dst, sources, |[a, b, c]| permute(a, b, c));
            partial::permute(op, dst, sources, |c| c)
        }
    }
}
