//! Bit-field and dot-product instructions (PTX ISA 9.7.1.14 - 9.7.1.24): popc, clz, bfind, brev, bfe, bfi, fns,
//! szext, bmsk, dp4a, dp2a.

use super::lanewise::{lanewise, slow_lanewise};
use super::{Entry, root};
use crate::decode::{Decoder, Op, Result};
use crate::types::Ty;

pub(super) const TABLE: &[Entry] = &[
    root("popc", decode_popc),
    root("clz", decode_clz),
    root("bfind", decode_bfind),
    root("brev", decode_brev),
    root("bfe", decode_bfe),
    root("bfi", decode_bfi),
    root("fns", decode_fns),
    root("szext", decode_szext),
    root("bmsk", decode_bmsk),
    root("dp4a", decode_dp4a),
    root("dp2a", decode_dp2a),
];

/// Takes the type, which must be one of `allowed`.
fn ty_of(d: &mut Decoder<'_>, allowed: &[Ty]) -> Result<Ty> {
    let ty = d.ty()?;
    if allowed.contains(&ty) { Ok(ty) } else { d.error(format!("has no type {ty:?}")) }
}

/// `popc.type d, a`; d is 32 bits wide.
fn decode_popc(d: &mut Decoder<'_>) -> Result<Op> {
    let ty = ty_of(d, &[Ty::B32, Ty::B64])?;
    let (dst, a) = (d.dst(0, Ty::U32)?, d.value(1, ty)?);
    d.finish(2)?;
    lanewise(dst, [a], |[a]| u64::from(a.count_ones()))
}

/// `clz.type d, a`; d is 32 bits wide.
fn decode_clz(d: &mut Decoder<'_>) -> Result<Op> {
    let ty = ty_of(d, &[Ty::B32, Ty::B64])?;
    let (dst, a) = (d.dst(0, Ty::U32)?, d.value(1, ty)?);
    d.finish(2)?;
    let unused = 64 - ty.bits();
    lanewise(dst, [a], move |[a]| u64::from(a.leading_zeros() - unused))
}

/// `bfind{.shiftamt}.type d, a`: position of the most significant non-sign bit, all ones if there is none.
fn decode_bfind(d: &mut Decoder<'_>) -> Result<Op> {
    let shift_amount = d.take("shiftamt");
    let ty = ty_of(d, &[Ty::U32, Ty::S32, Ty::U64, Ty::S64])?;
    let (dst, a) = (d.dst(0, Ty::U32)?, d.value(1, ty)?);
    d.finish(2)?;
    lanewise(dst, [a], move |[a]| {
        let wide = ty.extend(a);
        let magnitude = if ty.is_signed() && (wide as i64) < 0 { !wide } else { wide };
        match magnitude.checked_ilog2() {
            None => 0xffff_ffff,
            Some(bit) if shift_amount => u64::from(ty.bits() - 1 - bit),
            Some(bit) => u64::from(bit),
        }
    })
}

/// `brev.type d, a`.
fn decode_brev(d: &mut Decoder<'_>) -> Result<Op> {
    let ty = ty_of(d, &[Ty::B32, Ty::B64])?;
    let (dst, a) = (d.dst(0, ty)?, d.value(1, ty)?);
    d.finish(2)?;
    let unused = 64 - ty.bits();
    lanewise(dst, [a], move |[a]| a.reverse_bits() >> unused)
}

/// Bits `len` at `pos` of `a`, sign-extended for signed types (PTX ISA 9.7.1.20).
fn extract(ty: Ty, a: u64, pos: u64, len: u64) -> u64 {
    let (msb, pos, len) = (u64::from(ty.bits()) - 1, pos & 0xff, len & 0xff);
    let sign = if !ty.is_signed() || len == 0 { 0 } else { a >> (pos + len - 1).min(msb) & 1 };
    let field = if pos > msb { 0 } else { a >> pos };
    // Bits of the result that come from `a`: those below `len` and inside the register.
    let taken = len.min(msb + 1 - pos.min(msb + 1));
    let mask = if taken >= 64 { u64::MAX } else { (1 << taken) - 1 };
    ty.truncate(field & mask | if sign == 1 { !mask } else { 0 })
}

/// `bfe.type d, a, b, c`.
fn decode_bfe(d: &mut Decoder<'_>) -> Result<Op> {
    let ty = ty_of(d, &[Ty::U32, Ty::S32, Ty::U64, Ty::S64])?;
    let s = [d.value(1, ty)?, d.value(2, Ty::U32)?, d.value(3, Ty::U32)?];
    let dst = d.dst(0, ty)?;
    d.finish(4)?;
    match ty {
        Ty::U32 => lanewise(dst, s, |[a, pos, len]| extract(Ty::U32, a, pos, len)),
        _ => lanewise(dst, s, move |[a, pos, len]| extract(ty, a, pos, len)),
    }
}

/// `bfi.type f, a, b, c, d`: bits of a inserted into b.
fn decode_bfi(d: &mut Decoder<'_>) -> Result<Op> {
    let ty = ty_of(d, &[Ty::B32, Ty::B64])?;
    let s = [d.value(1, ty)?, d.value(2, ty)?, d.value(3, Ty::U32)?, d.value(4, Ty::U32)?];
    let dst = d.dst(0, ty)?;
    d.finish(5)?;
    lanewise(dst, s, move |[a, b, pos, len]| {
        let (pos, len) = ((pos & 0xff) as u32, (len & 0xff) as u32);
        let field = if len >= 64 { u64::MAX } else { (1 << len) - 1 };
        let mask = ty.truncate(field.checked_shl(pos).unwrap_or(0));
        b & !mask | a.checked_shl(pos).unwrap_or(0) & mask
    })
}

/// `fns.b32 d, mask, base, offset`: the offset-th set bit of mask counted from base.
fn decode_fns(d: &mut Decoder<'_>) -> Result<Op> {
    ty_of(d, &[Ty::B32])?;
    let s = [d.value(1, Ty::B32)?, d.value(2, Ty::U32)?, d.value(3, Ty::S32)?];
    let dst = d.dst(0, Ty::B32)?;
    d.finish(4)?;
    slow_lanewise(dst, s, |[mask, base, offset]| u64::from(nth_set(mask as u32, base as u32, offset as i32)))
}

fn nth_set(mask: u32, base: u32, offset: i32) -> u32 {
    const NONE: u32 = u32::MAX;
    if base > 31 {
        return NONE;
    }
    if offset == 0 {
        return if mask >> base & 1 == 1 { base } else { NONE };
    }
    let mut left = offset.unsigned_abs();
    let mut at = base;
    loop {
        if mask >> at & 1 == 1 {
            left -= 1;
            if left == 0 {
                return at;
            }
        }
        at = match (offset > 0, at) {
            (true, 31) | (false, 0) => return NONE,
            (true, _) => at + 1,
            (false, _) => at - 1,
        };
    }
}

/// `szext.mode.type d, a, b`: a cut to b bits and extended.
fn decode_szext(d: &mut Decoder<'_>) -> Result<Op> {
    let clamp = d.need_one("`.clamp` or `.wrap`", &[("clamp", true), ("wrap", false)])?;
    let ty = ty_of(d, &[Ty::U32, Ty::S32])?;
    let s = [d.value(1, ty)?, d.value(2, Ty::U32)?];
    let dst = d.dst(0, ty)?;
    d.finish(3)?;
    lanewise(dst, s, move |[a, b]| {
        let n = if clamp { b.min(32) } else { b & 31 };
        extract(ty, a, 0, n)
    })
}

/// `bmsk.mode.b32 d, a, b`: b ones from bit a on.
fn decode_bmsk(d: &mut Decoder<'_>) -> Result<Op> {
    let clamp = d.need_one("`.clamp` or `.wrap`", &[("clamp", true), ("wrap", false)])?;
    ty_of(d, &[Ty::B32])?;
    let s = [d.value(1, Ty::B32)?, d.value(2, Ty::U32)?];
    let dst = d.dst(0, Ty::B32)?;
    d.finish(3)?;
    lanewise(dst, s, move |[a, b]| {
        let (a, b) = if clamp { (a.min(32), b.min(32)) } else { (a & 31, b & 31) };
        ((1u64 << b) - 1) << a & 0xffff_ffff
    })
}

/// Byte `i` of a 32-bit operand, extended.
fn byte(signed: bool, word: u64, i: u32) -> i32 {
    let byte = (word >> (8 * i)) as u8;
    if signed { i32::from(byte as i8) } else { i32::from(byte) }
}

/// The two types of a dot product, as written: of a, then of b.
fn dot_types(d: &mut Decoder<'_>) -> Result<(bool, bool)> {
    const TYPES: &[(&str, bool)] = &[("u32", false), ("s32", true)];
    let parse = |m: &str| TYPES.iter().find(|(n, _)| *n == m).map(|&(_, signed)| signed);
    match (d.take_map(parse), d.take_map(parse)) {
        (Some(a), Some(b)) => Ok((a, b)),
        _ => d.error("needs two types, each u32 or s32"),
    }
}

/// `dp4a.atype.btype d, a, b, c`.
fn decode_dp4a(d: &mut Decoder<'_>) -> Result<Op> {
    let (sa, sb) = dot_types(d)?;
    let s = [d.value(1, Ty::B32)?, d.value(2, Ty::B32)?, d.value(3, Ty::B32)?];
    let dst = d.dst(0, Ty::B32)?;
    d.finish(4)?;
    lanewise(dst, s, move |[a, b, c]| {
        let dot = (0..4)
            .fold(c as u32, |sum, i| sum.wrapping_add(byte(sa, a, i).wrapping_mul(byte(sb, b, i)) as u32));
        u64::from(dot)
    })
}

/// `dp2a.mode.atype.btype d, a, b, c`: the 16-bit halves of a with two bytes of b.
fn decode_dp2a(d: &mut Decoder<'_>) -> Result<Op> {
    let first = d.need_one("`.lo` or `.hi`", &[("lo", 0), ("hi", 2)])?;
    let (sa, sb) = dot_types(d)?;
    let s = [d.value(1, Ty::B32)?, d.value(2, Ty::B32)?, d.value(3, Ty::B32)?];
    let dst = d.dst(0, Ty::B32)?;
    d.finish(4)?;
    lanewise(dst, s, move |[a, b, c]| {
        let dot = (0..2).fold(c as u32, |sum, i| {
            let half = (a >> (16 * i)) as u16;
            let half = if sa { i32::from(half as i16) } else { i32::from(half) };
            sum.wrapping_add(half.wrapping_mul(byte(sb, b, first + i)) as u32)
        });
        u64::from(dot)
    })
}
