//! `mov`: scalars, packing and unpacking of vectors (PTX ISA 9.7.9.1 - 9.7.9.2).

use super::lanewise::lanewise;
use super::{Entry, partial, root};
use crate::decode::{Decoder, Execute, Op, Result, Src};
use crate::machine::{Ctx, Flow, LANES};
use crate::program::Reg;
use crate::syntax::ast::Operand;
use crate::types::Ty;

pub(super) const TABLE: &[Entry] = &[root("mov", decode_mov)];

/// The upper half of a `.b128` source register.
pub(super) fn upper_half(src: Src) -> Src {
    match src {
        Src::Reg(reg) => Src::Reg(reg + 1),
        _ => Src::Imm(0),
    }
}

/// A `.b128` move is two moves.
struct Mov128 {
    dst: Reg,
    src: Src,
}

impl Execute for Mov128 {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        ctx.map(self.dst, [self.src], |[a]| a);
        ctx.map(self.dst + 1, [upper_half(self.src)], |[a]| a);
        Flow::Next
    }
}

/// Packs elements, lowest first, into one register (two for `.b128`).
struct Pack {
    dst: Reg,
    words: usize,
    element_bits: u32,
    sources: Vec<Src>,
}

impl Execute for Pack {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let per_word = self.sources.len() / self.words;
        let mut rows = [[0u64; LANES]; 2];
        for (i, &source) in self.sources.iter().enumerate() {
            let shift = self.element_bits * (i % per_word) as u32;
            let row = ctx.row(source);
            for (out, value) in rows[i / per_word].iter_mut().zip(row) {
                *out |= value << shift;
            }
        }
        for (word, row) in rows[..self.words].iter().enumerate() {
            ctx.write_row(self.dst + word as Reg, &self.sources, row);
        }
        Flow::Next
    }
}

/// Unpacks one register (two for `.b128`) into elements, lowest first.
struct Unpack {
    dst: Vec<Option<Reg>>,
    words: usize,
    element_bits: u32,
    source: Src,
}

impl Execute for Unpack {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let per_word = self.dst.len() / self.words;
        // The second word is a register only of a `.b128`.
        let upper = if self.words == 2 { upper_half(self.source) } else { Src::Imm(0) };
        let sources = [self.source, upper];
        // A destination may be the source: all is read before anything is written.
        let rows = sources.map(|s| ctx.row(s));
        let dirty = ctx.any_dirty(&sources[..self.words]);
        let origins = sources.map(|s| std::array::from_fn(|l| ctx.origin(s, l)));
        let mask = if self.element_bits == 64 { u64::MAX } else { (1 << self.element_bits) - 1 };
        for (i, dst) in self.dst.iter().enumerate() {
            let Some(dst) = *dst else { continue };
            let shift = self.element_bits * (i % per_word) as u32;
            let values = rows[i / per_word].map(|v| v >> shift & mask);
            if dirty {
                ctx.write_origins(dst, &values, &origins[i / per_word]);
            } else {
                ctx.warp.set_row(dst, ctx.mask, &values);
            }
        }
        Flow::Next
    }
}

/// The type of one of `n` elements of a value of `bits` bits.
fn element_type(bits: u32, n: usize) -> Option<Ty> {
    Some(match (bits, n) {
        (16, 2) | (32, 4) => Ty::B8,
        (32, 2) | (64, 4) => Ty::B16,
        (64, 2) | (128, 4) => Ty::B32,
        (128, 2) => Ty::B64,
        _ => return None,
    })
}

/// `mov.type d, a`, `mov.btype d, {a, ...}`, `mov.btype {d, ...}, a`.
fn decode_mov(d: &mut Decoder<'_>) -> Result<Op> {
    let ty = d.ty()?;
    let plain = matches!(ty, Ty::Pred | Ty::B128 | Ty::F32 | Ty::F64) || super::compare::is_plain(ty);
    if !plain {
        return d.error(format!("has no type {ty:?}"));
    }
    let words = if ty == Ty::B128 { 2 } else { 1 };
    let check = |n: usize| match element_type(ty.bits(), n) {
        Some(element) => Ok(element),
        None => d.error(format!("{n} elements do not make a {ty:?}")),
    };
    match (d.operand(0)?, d.operand(1)?) {
        (_, Operand::Vector(items)) => {
            let element = check(items.len())?;
            let sources = items.iter().map(|o| d.value_of(o, element)).collect::<Result<Vec<_>>>()?;
            let dst = d.dst(0, ty)?;
            d.finish(2)?;
            Ok(Box::new(Pack { dst, words, element_bits: element.bits(), sources }))
        }
        (Operand::Vector(items), _) => {
            let element = check(items.len())?;
            let dst = items
                .iter()
                .map(|o| match o {
                    Operand::Sink => Ok(None),
                    other => d.dst_of(other, element).map(Some),
                })
                .collect::<Result<Vec<_>>>()?;
            let source = d.value(1, ty)?;
            d.finish(2)?;
            Ok(Box::new(Unpack { dst, words, element_bits: element.bits(), source }))
        }
        _ => {
            let (dst, src) = (d.dst(0, ty)?, d.value(1, ty)?);
            d.finish(2)?;
            if ty == Ty::B128 {
                return Ok(Box::new(Mov128 { dst, src }));
            }
            // Special registers may be wider than the destination.
            partial::bitwise(lanewise(dst, [src], move |[a]| ty.truncate(a)), dst, [src])
        }
    }
}
