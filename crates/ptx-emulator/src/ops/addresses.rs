//! Address conversion and inspection (PTX ISA 9.7.9.20 - 9.7.9.24): cvta, isspacep, mapa, getctarank.

use super::lanewise::lanewise;
use super::{Entry, root};
use crate::check::Class;
use crate::decode::{Decoder, Execute, Op, Result, Src};
use crate::machine::{Ctx, Flow, window};
use crate::program::Reg;
use crate::types::Ty;

pub(super) const TABLE: &[Entry] = &[
    root("cvta", decode_cvta),
    root("isspacep", decode_isspacep),
    root("mapa", decode_mapa),
    root("getctarank", decode_getctarank),
];

/// Windows by the name of the state space; `None` for global and constant memory.
const SPACES: &[(&str, Option<u64>)] = &[
    ("global", None),
    ("const", None),
    ("shared", Some(window::SHARED)),
    ("shared::cta", Some(window::SHARED)),
    ("shared::cluster", Some(window::SHARED)),
    ("local", Some(window::LOCAL)),
    ("param", Some(window::PARAM)),
    ("param::entry", Some(window::PARAM)),
];

/// `cvta.space.size p, a`, `cvta.to.space.size p, a`.
fn decode_cvta(d: &mut Decoder<'_>) -> Result<Op> {
    let to = d.take("to");
    let space = d.need_one("a state space", SPACES)?;
    if d.ty()? != Ty::U64 {
        return d.error("addresses have 64 bits");
    }
    let (dst, a) = (d.dst(0, Ty::U64)?, d.value(1, Ty::U64)?);
    d.finish(2)?;
    match (space, to) {
        (None, _) => lanewise(dst, [a], |[a]| a),
        (Some(_), true) => lanewise(dst, [a], |[a]| a & !window::MASK),
        (Some(window), false) => lanewise(dst, [a], move |[a]| a & !window::MASK | window),
    }
}

struct IsSpace {
    dst: Reg,
    a: Src,
    window: Option<u64>,
    own_cta: bool,
}

impl Execute for IsSpace {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let rank = u64::from(ctx.cluster.ctas[ctx.cta].rank);
        let windows = [window::SHARED, window::LOCAL, window::PARAM];
        let (window, own_cta) = (self.window, self.own_cta);
        ctx.map(self.dst, [self.a], |[a]| {
            u64::from(match window {
                None => !windows.contains(&(a & window::MASK)),
                Some(w) => a & window::MASK == w && (!own_cta || a >> 24 & 0xff == rank),
            })
        });
        Flow::Next
    }
}

/// `isspacep.space p, a`: a is a generic address.
fn decode_isspacep(d: &mut Decoder<'_>) -> Result<Op> {
    if d.take("const") {
        return d.error("constant memory is not distinguished from global memory");
    }
    let own_cta = d.rest().iter().any(|m| *m == "shared" || *m == "shared::cta");
    let window = d.need_one("a state space", SPACES)?;
    let (dst, a) = (d.dst(0, Ty::Pred)?, d.value(1, Ty::U64)?);
    d.finish(2)?;
    Ok(Box::new(IsSpace { dst, a, window, own_cta }))
}

/// Whether the operand is a shared address (32 or 64 bits), else generic.
fn shared_form(d: &mut Decoder<'_>) -> Result<(bool, Ty)> {
    let shared = d.take("shared::cluster");
    let ty = d.ty()?;
    match ty {
        Ty::U64 => Ok((shared, ty)),
        Ty::U32 if shared => Ok((shared, ty)),
        _ => d.error("needs u64, or u32 with `.shared::cluster`"),
    }
}

struct Mapa {
    dst: Reg,
    a: Src,
    rank: Src,
}

impl Execute for Mapa {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let size = ctx.cluster.ctas.len() as u64;
        for lane in ctx.lanes() {
            let rank = ctx.get(self.rank, lane);
            if rank >= size && ctx.origin(self.rank, lane).is_clean() {
                let message = format!("CTA rank {rank} is not in the cluster of {size}");
                ctx.finding(Class::Undefined, lane, message, None);
            }
        }
        ctx.map(self.dst, [self.a, self.rank], |[a, rank]| a & !0xff00_0000 | (rank & 0xff) << 24);
        Flow::Next
    }
}

/// `mapa{.shared::cluster}.type d, a, b`: the address in CTA b that corresponds to a.
fn decode_mapa(d: &mut Decoder<'_>) -> Result<Op> {
    let (_, ty) = shared_form(d)?;
    let (dst, a, rank) = (d.dst(0, ty)?, d.value(1, ty)?, d.value(2, Ty::U32)?);
    d.finish(3)?;
    Ok(Box::new(Mapa { dst, a, rank }))
}

/// `getctarank{.shared::cluster}.type d, a`: the rank of the CTA that owns a.
fn decode_getctarank(d: &mut Decoder<'_>) -> Result<Op> {
    let (_, ty) = shared_form(d)?;
    let (dst, a) = (d.dst(0, Ty::U32)?, d.value(1, ty)?);
    d.finish(2)?;
    lanewise(dst, [a], |[a]| a >> 24 & 0xff)
}
