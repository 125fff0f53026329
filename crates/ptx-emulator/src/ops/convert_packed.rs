//! `cvt` to and from packed and narrow types (PTX ISA 9.7.9.22) and `cvt.pack` (PTX ISA 9.7.9.23).
//!
//! The first source goes to the high half. `.satfinite` turns overflow and infinity into the largest finite
//! value. `ue8m0x2` takes the magnitude of its inputs. Stochastic rounding (`.rs`) is not modelled: the ISA
//! gives the use of the random bits in figures only.

use super::lanewise::{lanewise, slow_lanewise};
use crate::decode::{Decoder, Op, Result, Src};
use crate::softfloat::small::{E2M1, E2M3, E3M2, E4M3, E5M2, Small};
use crate::softfloat::{BF16, F16, Format, Rounding, TF32, fast};
use crate::types::Ty;

/// Modifiers of the packed forms.
#[derive(Clone, Copy, Debug)]
struct Flags {
    mode: Option<Rounding>,
    relu: bool,
    satfinite: bool,
}

impl Flags {
    fn take(d: &mut Decoder<'_>) -> Self {
        const MODES: &[(&str, Rounding)] = &[
            ("rn", Rounding::Nearest),
            ("rz", Rounding::Zero),
            ("rp", Rounding::Up),
            ("rna", Rounding::NearestAway),
        ];
        Self { mode: d.take_one(MODES), relu: d.take("relu"), satfinite: d.take("satfinite") }
    }

    /// `.relu` on an exact value: negative ones and -0 become +0.
    fn input(self, x: f64) -> f64 {
        if self.relu && x <= 0.0 { 0.0 } else { x }
    }

    /// To a format with infinities.
    fn narrow(self, f: Format, x: f64) -> u64 {
        let bits = fast::narrow(f, self.input(x), self.mode.unwrap_or_default());
        let magnitude = bits & !f.sign_bit();
        if self.satfinite && magnitude == f.infinity(false) { bits - 1 } else { bits }
    }
}

/// What a byte or half of a packed narrow type is.
fn small(ty: Ty) -> Option<Small> {
    Some(match ty {
        Ty::E2M1x2 => E2M1,
        Ty::E2M3x2 => E2M3,
        Ty::E3M2x2 => E3M2,
        Ty::E4M3x2 => E4M3,
        Ty::E5M2x2 => E5M2,
        _ => return None,
    })
}

/// The code of an exact value, by crate `nvfp4` for the formats it has.
fn encode(format: Small, x: f64) -> u8 {
    // Every source value is an f32 or an f16, so the cast is exact.
    match format {
        E2M1 => nvfp4::e2m1::encode(x as f32),
        E4M3 => nvfp4::e4m3::encode(x as f32),
        other => other.encode(x, Rounding::Nearest),
    }
}

/// Two codes in a register of the packed type: nibbles for E2M1, else bytes.
fn pack(format: Small, high: u8, low: u8) -> u64 {
    if format == E2M1 {
        u64::from(nvfp4::e2m1::pack(low, high))
    } else {
        u64::from(high) << 8 | u64::from(low)
    }
}

fn unpack(format: Small, bits: u64) -> (u8, u8) {
    if format == E2M1 { (bits as u8 >> 4, bits as u8 & 0xf) } else { ((bits >> 8) as u8, bits as u8) }
}

/// Every form with a packed or narrow type, `.tf32`, `.relu` or `.satfinite`.
pub(super) fn decode(d: &mut Decoder<'_>) -> Result<Op> {
    let flags = Flags::take(d);
    let (from, to) = (d.ty()?, d.ty()?);
    match (from, to) {
        (Ty::F32, Ty::F16x2 | Ty::BF16x2 | Ty::F16 | Ty::BF16) => decode_from_f32(d, flags, to),
        (Ty::F32, Ty::TF32) => decode_tf32(d, flags),
        (Ty::F32, Ty::UE8M0x2) => decode_to_ue8m0(d, flags, from),
        (Ty::BF16x2, Ty::UE8M0x2) => decode_to_ue8m0(d, flags, from),
        (Ty::UE8M0x2, Ty::BF16x2) => {
            let (dst, a) = (d.dst(0, to)?, [d.value(1, from)?]);
            d.finish(2)?;
            if flags.mode != Some(Rounding::Nearest) || flags.relu || flags.satfinite {
                return d.error("needs `.rn`");
            }
            let half = |code: u64| u64::from(nvfp4::bf16::from_f32(nvfp4::e8m0::decode(code as u8)));
            lanewise(dst, a, move |[a]| half(a >> 8 & 0xff) << 16 | half(a & 0xff))
        }
        _ => match (small(from), small(to)) {
            (None, Some(format)) => decode_to_small(d, flags, format, from, to),
            (Some(format), None) => decode_from_small(d, flags, format, from, to),
            _ => d.error(format!("conversion from {from:?} to {to:?} is not modelled")),
        },
    }
}

/// `cvt.rnd{.relu}{.satfinite}.f16x2.f32 d, a, b`, `.bf16x2`, and the scalar forms `d, a`.
fn decode_from_f32(d: &mut Decoder<'_>, flags: Flags, to: Ty) -> Result<Op> {
    if !matches!(flags.mode, Some(Rounding::Nearest | Rounding::Zero)) {
        return d.error("needs `.rn` or `.rz`");
    }
    let f = if matches!(to, Ty::F16 | Ty::F16x2) { F16 } else { BF16 };
    let dst = d.dst(0, to)?;
    let half = move |bits: u64| flags.narrow(f, fast::from_f32(bits));
    if let Ty::F16 | Ty::BF16 = to {
        let a = [d.value(1, Ty::F32)?];
        d.finish(2)?;
        return slow_lanewise(dst, a, move |[a]| half(a));
    }
    let s = [d.value(1, Ty::F32)?, d.value(2, Ty::F32)?];
    d.finish(3)?;
    if to == Ty::BF16x2 && flags.mode == Some(Rounding::Nearest) && !flags.relu && !flags.satfinite {
        let half = |bits: u64| u64::from(nvfp4::bf16::from_f32(f32::from_bits(bits as u32)));
        return lanewise(dst, s, move |[a, b]| half(a) << 16 | half(b));
    }
    slow_lanewise(dst, s, move |[a, b]| half(a) << 16 | half(b))
}

/// `cvt.rna{.satfinite}.tf32.f32 d, a`, `cvt.rn{.relu}{.satfinite}.tf32.f32`, `.rz`: the 13 low bits are 0. NaN is
/// cut by `.rna` and canonical otherwise, as on an H200.
fn decode_tf32(d: &mut Decoder<'_>, flags: Flags) -> Result<Op> {
    let (dst, a) = (d.dst(0, Ty::B32)?, [d.value(1, Ty::F32)?]);
    d.finish(2)?;
    let ok = match flags.mode {
        Some(Rounding::NearestAway) => !flags.relu,
        Some(Rounding::Nearest | Rounding::Zero) => true,
        _ => false,
    };
    if !ok {
        return d.error("needs `.rna`, `.rn` or `.rz`");
    }
    slow_lanewise(dst, a, move |[a]| {
        let x = fast::from_f32(a);
        match flags.mode {
            Some(Rounding::NearestAway) if x.is_nan() => {
                // With `.satfinite` the all-ones exponent counts as overflow, whatever the fraction.
                let cut = a & 0xffff_e000;
                if flags.satfinite { cut - 0x2000 } else { cut }
            }
            _ => flags.narrow(TF32, x) << 13,
        }
    })
}

/// An f32's power of two, rounded down or up (`.rz`, `.rp`), as an E8M0 code; saturating.
fn ue8m0(up: bool, x: f32) -> u64 {
    if x.is_nan() {
        return 0xff;
    }
    let bits = x.abs().to_bits();
    let (exponent, fraction) = (bits >> 23, bits & 0x7f_ffff);
    // Code 0 is 2^-127, a subnormal with only its highest fraction bit set.
    let above = if exponent == 0 { fraction > 0x40_0000 } else { fraction != 0 };
    u64::from((exponent + u32::from(up && above)).min(0xfe))
}

/// `cvt.rz.satfinite.ue8m0x2.f32 d, a, b`, `.rp`, and from bf16x2: `d, a`.
fn decode_to_ue8m0(d: &mut Decoder<'_>, flags: Flags, from: Ty) -> Result<Op> {
    let up = match flags.mode {
        Some(Rounding::Zero) => false,
        Some(Rounding::Up) => true,
        _ => return d.error("needs `.rz` or `.rp`"),
    };
    if !flags.satfinite || flags.relu {
        return d.error("is modelled with `.satfinite` only");
    }
    let dst = d.dst(0, Ty::UE8M0x2)?;
    if from == Ty::BF16x2 {
        let a = [d.value(1, from)?];
        d.finish(2)?;
        let half = move |h: u64| ue8m0(up, f32::from_bits((h as u32) << 16));
        return slow_lanewise(dst, a, move |[a]| half(a >> 16) << 8 | half(a & 0xffff));
    }
    let s = [d.value(1, from)?, d.value(2, from)?];
    d.finish(3)?;
    let half = move |x: u64| ue8m0(up, f32::from_bits(x as u32));
    slow_lanewise(dst, s, move |[a, b]| half(a) << 8 | half(b))
}

/// `cvt.rn.satfinite{.relu}.e4m3x2.f32 d, a, b` and the other narrow types; e4m3x2, e5m2x2 and e2m1x2 from
/// f16x2: `d, a`.
fn decode_to_small(d: &mut Decoder<'_>, flags: Flags, format: Small, from: Ty, to: Ty) -> Result<Op> {
    if flags.mode != Some(Rounding::Nearest) || !flags.satfinite {
        return d.error("needs `.rn.satfinite`");
    }
    let dst = d.dst(0, to)?;
    let code = move |x: f64| encode(format, flags.input(x));
    if from == Ty::F32 {
        let s: [Src; 2] = [d.value(1, from)?, d.value(2, from)?];
        d.finish(3)?;
        return slow_lanewise(dst, s, move |[a, b]| {
            pack(format, code(fast::from_f32(a)), code(fast::from_f32(b)))
        });
    }
    let value: fn(u64) -> f64 = match from {
        Ty::F16x2 if matches!(format, E2M1 | E4M3 | E5M2) => fast::from_f16,
        _ => return d.error(format!("conversion from {from:?} to {to:?} is not modelled")),
    };
    let a = [d.value(1, from)?];
    d.finish(2)?;
    slow_lanewise(dst, a, move |[a]| pack(format, code(value(a >> 16)), code(value(a & 0xffff))))
}

/// `cvt.rn{.relu}.f16x2.e4m3x2 d, a`, `cvt.rn{.satfinite}{.relu}.bf16x2.e4m3x2 d, a`, and from the other narrow types:
/// exact.
fn decode_from_small(d: &mut Decoder<'_>, flags: Flags, format: Small, from: Ty, to: Ty) -> Result<Op> {
    let wide = match to {
        Ty::F16x2 if !flags.satfinite => F16,
        Ty::BF16x2 => BF16,
        _ => return d.error("narrow types convert to f16x2, without `.satfinite`, and bf16x2"),
    };
    if flags.mode != Some(Rounding::Nearest) {
        return d.error("needs `.rn`");
    }
    let (dst, a) = (d.dst(0, to)?, [d.value(1, from)?]);
    d.finish(2)?;
    let half = move |code: u8| flags.narrow(wide, format.decode(code));
    slow_lanewise(dst, a, move |[a]| {
        let (high, low) = unpack(format, a);
        half(high) << 16 | half(low)
    })
}

/// `cvt.pack.sat.dtype.s32 d, a, b` (u16, s16) and `cvt.pack.sat.dtype.s32.b32 d, a, b, c` (u2 .. s8): the
/// values of a and b, clamped, below those shifted out of c.
pub(super) fn decode_pack(d: &mut Decoder<'_>) -> Result<Op> {
    const TYPES: &[(&str, (u32, bool))] = &[
        ("u16", (16, false)),
        ("s16", (16, true)),
        ("u8", (8, false)),
        ("s8", (8, true)),
        ("u4", (4, false)),
        ("s4", (4, true)),
        ("u2", (2, false)),
        ("s2", (2, true)),
    ];
    d.take("pack");
    if !d.take("sat") || !d.take("s32") {
        return d.error("needs `.sat` and `.s32`");
    }
    let (bits, signed) = d.need_one("a destination type", TYPES)?;
    let has_c = d.take("b32");
    if has_c != (bits < 16) {
        return d.error("`.b32` and the fourth operand belong to types below 16 bits");
    }
    let dst = d.dst(0, Ty::B32)?;
    let (a, b) = (d.value(1, Ty::S32)?, d.value(2, Ty::S32)?);
    let c = if has_c { d.value(3, Ty::B32)? } else { Src::Imm(0) };
    d.finish(if has_c { 4 } else { 3 })?;
    let (low, high) =
        if signed { (-(1i64 << (bits - 1)), (1i64 << (bits - 1)) - 1) } else { (0, (1i64 << bits) - 1) };
    let clamp = move |x: u64| i64::from(x as i32).clamp(low, high) as u64 & ((1u64 << bits) - 1);
    lanewise(dst, [a, b, c], move |[a, b, c]| (c << (2 * bits) | clamp(a) << bits | clamp(b)) & 0xffff_ffff)
}
