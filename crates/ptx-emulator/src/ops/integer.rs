//! Integer arithmetic (PTX ISA 9.7.1): add, sub, mul, mad, mul24, mad24, sad, div, rem, abs, neg, min, max.
//!
//! Decoders for one type class each; [`super::arithmetic`] has the table.

use super::lanewise::{integer, lanewise};
use crate::decode::{Decoder, Op, Result, Src};
use crate::program::Reg;
use crate::types::Ty;

/// Destination and sources, all of the same type.
fn same<const N: usize>(d: &Decoder<'_>, ty: Ty) -> Result<(Reg, [Src; N])> {
    if !ty.is_integer() {
        return d.error(format!("has no type {ty:?}"));
    }
    let mut sources = [Src::Imm(0); N];
    for (i, source) in sources.iter_mut().enumerate() {
        *source = d.value(i + 1, ty)?;
    }
    let dst = d.dst(0, ty)?;
    d.finish(N + 1)?;
    Ok((dst, sources))
}

/// Applies a function to both 16-bit halves.
#[inline(always)]
pub(super) fn halves<const N: usize>(args: [u64; N], f: impl Fn([u16; N]) -> u16) -> u64 {
    let low = f(args.map(|a| a as u16));
    let high = f(args.map(|a| (a >> 16) as u16));
    u64::from(low) | u64::from(high) << 16
}

/// `add{.sat}.type d, a, b`, `sub{.sat}.type d, a, b`.
pub(super) fn decode_add_sub(d: &mut Decoder<'_>) -> Result<Op> {
    let is_add = d.mnemonic() == "add";
    let saturate = d.take("sat");
    let ty = d.ty()?;
    let (dst, s) = same::<2>(d, ty)?;
    match (ty, saturate, is_add) {
        (Ty::U16x2 | Ty::S16x2, false, true) => lanewise(dst, s, |v| halves(v, |[a, b]| a.wrapping_add(b))),
        (Ty::S32, true, true) => integer!(d, ty, [i32], dst, s, |a, b| a.saturating_add(b)),
        (Ty::S32, true, false) => integer!(d, ty, [i32], dst, s, |a, b| a.saturating_sub(b)),
        (_, true, _) => d.error("`.sat` needs s32"),
        (_, _, true) => {
            integer!(d, ty, [u16, i16, u32, i32, u64, i64], dst, s, |a, b| a.wrapping_add(b))
        }
        (_, _, false) => {
            integer!(d, ty, [u16, i16, u32, i32, u64, i64], dst, s, |a, b| a.wrapping_sub(b))
        }
    }
}

/// Which part of a product is taken.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    Low,
    High,
    Wide,
}

const PARTS: &[(&str, Part)] = &[("lo", Part::Low), ("hi", Part::High), ("wide", Part::Wide)];

/// The type of twice the width.
fn widened(ty: Ty) -> Option<Ty> {
    Some(match ty {
        Ty::U16 => Ty::U32,
        Ty::S16 => Ty::S32,
        Ty::U32 => Ty::U64,
        Ty::S32 => Ty::S64,
        _ => return None,
    })
}

/// `mul{.hi,.lo,.wide}.type d, a, b`.
pub(super) fn decode_mul(d: &mut Decoder<'_>) -> Result<Op> {
    let part = d.need_one("`.lo`, `.hi` or `.wide`", PARTS)?;
    let ty = d.ty()?;
    if part == Part::Wide {
        let Some(wide) = widened(ty) else { return d.error("`.wide` needs a 16- or 32-bit type") };
        let (dst, s) = (d.dst(0, wide)?, [d.value(1, ty)?, d.value(2, ty)?]);
        d.finish(3)?;
        return match ty {
            Ty::U16 => lanewise(dst, s, |[a, b]| u64::from((a as u32).wrapping_mul(b as u32))),
            Ty::S16 => lanewise(dst, s, |[a, b]| {
                u64::from(i32::from(a as i16).wrapping_mul(i32::from(b as i16)) as u32)
            }),
            Ty::U32 => lanewise(dst, s, |[a, b]| a.wrapping_mul(b)),
            _ => lanewise(dst, s, |[a, b]| i64::from(a as i32).wrapping_mul(i64::from(b as i32)) as u64),
        };
    }
    let (dst, s) = same::<2>(d, ty)?;
    match part {
        Part::High => lanewise_high(d, ty, dst, s),
        _ => integer!(d, ty, [u16, i16, u32, i32, u64, i64], dst, s, |a, b| a.wrapping_mul(b)),
    }
}

/// The upper half of a product of two values of `ty`.
#[inline(always)]
pub(super) fn high_product(ty: Ty, a: u64, b: u64) -> u64 {
    if ty.is_signed() {
        let product = i128::from(ty.extend(a) as i64) * i128::from(ty.extend(b) as i64);
        ty.truncate((product >> ty.bits()) as u64)
    } else {
        ((u128::from(a) * u128::from(b)) >> ty.bits()) as u64
    }
}

fn lanewise_high(d: &Decoder<'_>, ty: Ty, dst: Reg, s: [Src; 2]) -> Result<Op> {
    match ty {
        Ty::U16 => lanewise(dst, s, |[a, b]| high_product(Ty::U16, a, b)),
        Ty::S16 => lanewise(dst, s, |[a, b]| high_product(Ty::S16, a, b)),
        Ty::U32 => lanewise(dst, s, |[a, b]| a.wrapping_mul(b) >> 32),
        Ty::S32 => lanewise(dst, s, |[a, b]| {
            (i64::from(a as i32).wrapping_mul(i64::from(b as i32)) >> 32) as u64 & 0xffff_ffff
        }),
        Ty::U64 => lanewise(dst, s, |[a, b]| high_product(Ty::U64, a, b)),
        Ty::S64 => lanewise(dst, s, |[a, b]| high_product(Ty::S64, a, b)),
        _ => d.error(format!("has no type {ty:?}")),
    }
}

/// `mad{.hi,.lo,.wide}{.sat}.type d, a, b, c`.
pub(super) fn decode_mad(d: &mut Decoder<'_>) -> Result<Op> {
    let part = d.need_one("`.lo`, `.hi` or `.wide`", PARTS)?;
    let saturate = d.take("sat");
    let ty = d.ty()?;
    if saturate && !(part == Part::High && ty == Ty::S32) {
        return d.error("`.sat` needs `.hi.s32`");
    }
    if part == Part::Wide {
        let Some(wide) = widened(ty) else { return d.error("`.wide` needs a 16- or 32-bit type") };
        let (dst, s) = (d.dst(0, wide)?, [d.value(1, ty)?, d.value(2, ty)?, d.value(3, wide)?]);
        d.finish(4)?;
        return match ty {
            Ty::U16 => lanewise(dst, s, |[a, b, c]| {
                u64::from((a as u32).wrapping_mul(b as u32).wrapping_add(c as u32))
            }),
            Ty::S16 => lanewise(dst, s, |[a, b, c]| {
                let product = i32::from(a as i16).wrapping_mul(i32::from(b as i16));
                u64::from(product.wrapping_add(c as i32) as u32)
            }),
            Ty::U32 => lanewise(dst, s, |[a, b, c]| a.wrapping_mul(b).wrapping_add(c)),
            _ => lanewise(dst, s, |[a, b, c]| {
                (i64::from(a as i32).wrapping_mul(i64::from(b as i32)) as u64).wrapping_add(c)
            }),
        };
    }
    let (dst, s) = same::<3>(d, ty)?;
    match (part, ty) {
        (Part::Low, _) => {
            let all = [Ty::U16, Ty::S16, Ty::U32, Ty::S32, Ty::U64, Ty::S64];
            if !all.contains(&ty) {
                return d.error(format!("has no type {ty:?}"));
            }
            // The low bits of a product do not depend on the sign.
            match ty.bits() {
                16 => integer!(d, Ty::U16, [u16], dst, s, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
                32 => integer!(d, Ty::U32, [u32], dst, s, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
                _ => integer!(d, Ty::U64, [u64], dst, s, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
            }
        }
        (_, Ty::S32) if saturate => lanewise(dst, s, |[a, b, c]| {
            let high = high_product(Ty::S32, a, b) as i32;
            u64::from(high.saturating_add(c as i32) as u32)
        }),
        (_, Ty::U16 | Ty::S16 | Ty::U32 | Ty::S32 | Ty::U64 | Ty::S64) => {
            lanewise(dst, s, move |[a, b, c]| ty.truncate(high_product(ty, a, b).wrapping_add(c)))
        }
        _ => d.error(format!("has no type {ty:?}")),
    }
}

/// `mul24{.hi,.lo}.type d, a, b`, `mad24{.hi,.lo}{.sat}.type d, a, b, c`: the low 24 bits of a and b.
pub(super) fn decode_24(d: &mut Decoder<'_>) -> Result<Op> {
    let high = d.need_one("`.lo` or `.hi`", &[("lo", false), ("hi", true)])?;
    let saturate = d.take("sat");
    let ty = d.ty()?;
    if ty != Ty::U32 && ty != Ty::S32 {
        return d.error("needs u32 or s32");
    }
    let signed = ty == Ty::S32;
    let product = move |a: u64, b: u64| {
        let cut = |x: u64| {
            let shifted = (x as i64) << 40;
            if signed { shifted >> 40 } else { (shifted as u64 >> 40) as i64 }
        };
        // 48 bits; `.hi` takes bits 47..16.
        (cut(a).wrapping_mul(cut(b)) >> if high { 16 } else { 0 }) as u32
    };
    if d.mnemonic() == "mul24" {
        let (dst, s) = same::<2>(d, ty)?;
        if saturate {
            return d.error("`.sat` is for mad24");
        }
        return lanewise(dst, s, move |[a, b]| u64::from(product(a, b)));
    }
    if saturate && !(high && signed) {
        return d.error("`.sat` needs `.hi.s32`");
    }
    let (dst, s) = same::<3>(d, ty)?;
    lanewise(dst, s, move |[a, b, c]| {
        let p = product(a, b);
        u64::from(if saturate {
            (p as i32).saturating_add(c as i32) as u32
        } else {
            p.wrapping_add(c as u32)
        })
    })
}

/// `sad.type d, a, b, c`: c + |a - b|.
pub(super) fn decode_sad(d: &mut Decoder<'_>) -> Result<Op> {
    let ty = d.ty()?;
    let (dst, s) = same::<3>(d, ty)?;
    integer!(d, ty, [u16, i16, u32, i32, u64, i64], dst, s, |a, b, c| {
        c.wrapping_add(a.max(b).wrapping_sub(a.min(b)))
    })
}

/// `div.type d, a, b`, `rem.type d, a, b`. Division by zero, which the ISA leaves open, gives all ones in both, as
/// an H200 does.
pub(super) fn decode_div_rem(d: &mut Decoder<'_>) -> Result<Op> {
    let is_div = d.mnemonic() == "div";
    let ty = d.ty()?;
    let (dst, s) = same::<2>(d, ty)?;
    if is_div {
        integer!(d, ty, [u16, i16, u32, i32, u64, i64], dst, s, |a, b| {
            if b == 0 { !b } else { a.wrapping_div(b) }
        })
    } else {
        integer!(d, ty, [u16, i16, u32, i32, u64, i64], dst, s, |a, b| {
            if b == 0 { !b } else { a.wrapping_rem(b) }
        })
    }
}

/// `abs.type d, a`, `neg.type d, a` for signed types.
pub(super) fn decode_abs_neg(d: &mut Decoder<'_>) -> Result<Op> {
    let is_abs = d.mnemonic() == "abs";
    let ty = d.ty()?;
    let (dst, s) = same::<1>(d, ty)?;
    if is_abs {
        integer!(d, ty, [i16, i32, i64], dst, s, |a| a.wrapping_abs())
    } else {
        integer!(d, ty, [i16, i32, i64], dst, s, |a| a.wrapping_neg())
    }
}

/// `min{.relu}.type d, a, b`, `max{.relu}.type d, a, b`.
pub(super) fn decode_min_max(d: &mut Decoder<'_>) -> Result<Op> {
    let is_min = d.mnemonic() == "min";
    let relu = d.take("relu");
    let ty = d.ty()?;
    let (dst, s) = same::<2>(d, ty)?;
    match (ty, relu, is_min) {
        (Ty::S32, true, true) => integer!(d, ty, [i32], dst, s, |a, b| a.min(b).max(0)),
        (Ty::S32, true, false) => integer!(d, ty, [i32], dst, s, |a, b| a.max(b).max(0)),
        (Ty::S16x2, _, _) => {
            let floor = if relu { 0 } else { i16::MIN };
            lanewise(dst, s, move |v| {
                halves(v, |[a, b]| {
                    let (a, b) = (a as i16, b as i16);
                    if is_min { a.min(b) } else { a.max(b) }.max(floor) as u16
                })
            })
        }
        (_, true, _) => d.error("`.relu` needs s32 or s16x2"),
        (Ty::U16x2, _, true) => lanewise(dst, s, |v| halves(v, |[a, b]| a.min(b))),
        (Ty::U16x2, _, false) => lanewise(dst, s, |v| halves(v, |[a, b]| a.max(b))),
        (_, _, true) => integer!(d, ty, [u16, i16, u32, i32, u64, i64], dst, s, |a, b| a.min(b)),
        (_, _, false) => integer!(d, ty, [u16, i16, u32, i32, u64, i64], dst, s, |a, b| a.max(b)),
    }
}
