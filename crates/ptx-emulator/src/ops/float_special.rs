//! Division, roots and transcendental functions in f32 and f64 (PTX ISA 9.7.3): div, rcp, sqrt, rsqrt, ex2, lg2,
//! sin, cos, tanh.
//!
//! IEEE forms are correctly rounded. The approximate forms, which the ISA leaves open within an error bound,
//! give the f64 result rounded to nearest; `.approx.ftz.f64` keeps the upper 32 bits of it.

use super::float::{Flags, ROUNDINGS, bits_of, f32_of, f64_of};
use super::lanewise::{lanewise, slow_lanewise};
use super::{Entry, root};
use crate::decode::{Decoder, Op, Result};
use crate::softfloat::{F32, F64, Rounding, exact};
use crate::types::Ty;

pub(super) const TABLE: &[Entry] = &[
    root("rcp", decode_rcp),
    root("sqrt", decode_sqrt),
    root("rsqrt", decode_rsqrt),
    root("lg2", decode_function),
    root("sin", decode_function),
    root("cos", decode_function),
];

/// `div.approx{.ftz}.f32`, `div.full{.ftz}.f32`, `div.rnd{.ftz}.f32`, `div.rnd.f64`.
pub(super) fn decode_div(d: &mut Decoder<'_>) -> Result<Op> {
    let approx = d.take("approx");
    let full = d.take("full");
    let (flags, has_mode) = Flags::take(d);
    let ty = d.ty()?;
    let (dst, s) = (d.dst(0, ty)?, [d.value(1, ty)?, d.value(2, ty)?]);
    d.finish(3)?;
    if flags.sat || [approx, full, has_mode].iter().filter(|&&x| x).count() != 1 {
        return d.error("needs one of `.approx`, `.full` and a rounding mode, and no `.sat`");
    }
    match ty {
        Ty::F32 if approx => lanewise(dst, s, move |[a, b]| {
            let (a, b) = (flags.input(a), flags.input(b));
            // Beyond 2^126 the reciprocal of the divisor is flushed (PTX ISA 9.7.3.8).
            let huge = b.abs() > 2f32.powi(126) && b.is_finite();
            flags.output(if huge { a * 0f32.copysign(b) } else { a / b })
        }),
        Ty::F32 if flags.mode == Rounding::Nearest && !flags.ftz => {
            lanewise(dst, s, |[a, b]| bits_of(f32_of(a) / f32_of(b)))
        }
        Ty::F32 => lanewise(dst, s, move |[a, b]| {
            let (a, b) = (flags.input(a), flags.input(b));
            flags.output(match flags.mode {
                Rounding::Nearest => a / b,
                mode => f32_of(exact::div(F32, mode, [a, b].map(|x| u64::from(x.to_bits())))),
            })
        }),
        Ty::F64 if has_mode && !flags.ftz => match flags.mode {
            Rounding::Nearest => {
                lanewise(dst, s, |[a, b]| f64_of(f64::from_bits(a) / f64::from_bits(b), [a, b]))
            }
            mode => slow_lanewise(dst, s, move |v| f64_of(f64::from_bits(exact::div(F64, mode, v)), v)),
        },
        _ => d.error(format!("has no such form for {ty:?}")),
    }
}

/// The upper 32 bits of an f64, the rest zero.
fn upper(x: f64) -> u64 {
    x.to_bits() & 0xffff_ffff_0000_0000
}

/// Flushes subnormal f64.
fn flush64(x: f64) -> f64 {
    if x.is_subnormal() { 0f64.copysign(x) } else { x }
}

/// `.approx`, or a rounding mode.
fn approx_or_rounding(d: &mut Decoder<'_>) -> Result<Option<Rounding>> {
    if d.take("approx") {
        return Ok(None);
    }
    d.need_one("`.approx` or a rounding mode", ROUNDINGS).map(Some)
}

/// `rcp.approx{.ftz}.f32`, `rcp.rnd{.ftz}.f32`, `rcp.rnd.f64`, `rcp.approx.ftz.f64`.
fn decode_rcp(d: &mut Decoder<'_>) -> Result<Op> {
    let mode = approx_or_rounding(d)?;
    let flags = Flags { ftz: d.take("ftz"), ..Flags::default() };
    let ty = d.ty()?;
    let (dst, a) = (d.dst(0, ty)?, [d.value(1, ty)?]);
    d.finish(2)?;
    match (ty, mode) {
        (Ty::F32, None | Some(Rounding::Nearest)) => {
            lanewise(dst, a, move |[a]| flags.output(1.0 / flags.input(a)))
        }
        (Ty::F32, Some(mode)) => slow_lanewise(dst, a, move |[a]| {
            let a = u64::from(flags.input(a).to_bits());
            flags.output(f32_of(exact::div(F32, mode, [0x3f80_0000, a])))
        }),
        (Ty::F64, None) if flags.ftz => {
            lanewise(dst, a, |[a]| upper(flush64(1.0 / flush64(f64::from_bits(a)))))
        }
        (Ty::F64, Some(Rounding::Nearest)) if !flags.ftz => {
            lanewise(dst, a, |[a]| f64_of(1.0 / f64::from_bits(a), [a]))
        }
        (Ty::F64, Some(mode)) if !flags.ftz => slow_lanewise(dst, a, move |[a]| {
            f64_of(f64::from_bits(exact::div(F64, mode, [1f64.to_bits(), a])), [a])
        }),
        _ => d.error(format!("has no such form for {ty:?}")),
    }
}

/// `sqrt.approx{.ftz}.f32`, `sqrt.rnd{.ftz}.f32`, `sqrt.rnd.f64`.
fn decode_sqrt(d: &mut Decoder<'_>) -> Result<Op> {
    let mode = approx_or_rounding(d)?;
    let flags = Flags { ftz: d.take("ftz"), ..Flags::default() };
    let ty = d.ty()?;
    let (dst, a) = (d.dst(0, ty)?, [d.value(1, ty)?]);
    d.finish(2)?;
    match (ty, mode) {
        (Ty::F32, None | Some(Rounding::Nearest)) => {
            lanewise(dst, a, move |[a]| flags.output(flags.input(a).sqrt()))
        }
        (Ty::F32, Some(mode)) => slow_lanewise(dst, a, move |[a]| {
            let a = u64::from(flags.input(a).to_bits());
            flags.output(f32_of(exact::sqrt(F32, mode, a)))
        }),
        (Ty::F64, Some(Rounding::Nearest)) if !flags.ftz => {
            lanewise(dst, a, |[a]| f64_of(f64::from_bits(a).sqrt(), [a]))
        }
        (Ty::F64, Some(mode)) if !flags.ftz => {
            slow_lanewise(dst, a, move |[a]| f64_of(f64::from_bits(exact::sqrt(F64, mode, a)), [a]))
        }
        _ => d.error(format!("has no such form for {ty:?}")),
    }
}

/// `rsqrt.approx{.ftz}.f32`, `rsqrt.approx{.ftz}.f64`.
fn decode_rsqrt(d: &mut Decoder<'_>) -> Result<Op> {
    if !d.take("approx") {
        return d.error("needs `.approx`");
    }
    let flags = Flags { ftz: d.take("ftz"), ..Flags::default() };
    let ty = d.ty()?;
    let (dst, a) = (d.dst(0, ty)?, [d.value(1, ty)?]);
    d.finish(2)?;
    match ty {
        Ty::F32 => {
            slow_lanewise(dst, a, move |[a]| flags.output((1.0 / f64::from(flags.input(a)).sqrt()) as f32))
        }
        Ty::F64 if flags.ftz => {
            slow_lanewise(dst, a, |[a]| upper(flush64(1.0 / flush64(f64::from_bits(a)).sqrt())))
        }
        Ty::F64 => slow_lanewise(dst, a, |[a]| (1.0 / f64::from_bits(a).sqrt()).to_bits()),
        _ => d.error(format!("has no such form for {ty:?}")),
    }
}

/// `lg2.approx{.ftz}.f32`, `sin.approx{.ftz}.f32`, `cos.approx{.ftz}.f32`; ex2 and tanh in f32.
pub(super) fn decode_function(d: &mut Decoder<'_>) -> Result<Op> {
    let f: fn(f64) -> f64 = match d.mnemonic() {
        "ex2" => f64::exp2,
        "tanh" => f64::tanh,
        "lg2" => f64::log2,
        "sin" => f64::sin,
        _ => f64::cos,
    };
    if !d.take("approx") {
        return d.error("needs `.approx`");
    }
    // tanh has no .ftz and keeps subnormals.
    let ftz = d.mnemonic() != "tanh" && d.take("ftz");
    let flags = Flags { ftz, ..Flags::default() };
    if d.ty()? != Ty::F32 {
        return d.error("needs f32");
    }
    let (dst, a) = (d.dst(0, Ty::F32)?, [d.value(1, Ty::F32)?]);
    d.finish(2)?;
    slow_lanewise(dst, a, move |[a]| flags.output(f(f64::from(flags.input(a))) as f32))
}
