//! Conversions: exhaustive over 16-bit inputs, against the host's casts, crate `nvfp4` and integer references.

mod common;

use common::eval::{FLOATS, INTEGERS, Out, Random, check, check_for, eval_for, float_rows, rows};
use ptx_emulator::softfloat::exact::{self, Exact, Number};
use ptx_emulator::softfloat::{BF16, F16, F32, F64, Format, Rounding};

const MODES: [(&str, Rounding); 4] =
    [("n", Rounding::Nearest), ("z", Rounding::Zero), ("m", Rounding::Down), ("p", Rounding::Up)];

fn f(x: u64) -> f32 {
    f32::from_bits(x as u32)
}

fn convert(from: Format, to: Format, mode: Rounding, x: u64) -> u64 {
    match exact::decode(from, x) {
        Number::Nan => to.nan,
        Number::Infinity(negative) => to.infinity(negative),
        Number::Finite(x) => exact::round(to, mode, x),
    }
}

fn all_16() -> Vec<[u64; 3]> {
    (0..0x1_0000u64).map(|h| [h, (h << 16) | (0xffff - h), h.wrapping_mul(0x9e37_79b9)]).collect()
}

/// Register operand of a width.
fn reg(x: &str, bits: u32) -> String {
    match bits {
        64 => format!("%{x}"),
        8 => format!("%{x}16"),
        _ => format!("%{x}{bits}"),
    }
}

fn out(bits: u32) -> Out {
    match bits {
        64 => Out::B64,
        32 => Out::B32,
        _ => Out::B16,
    }
}

#[test]
fn integers_to_integers() {
    let all = rows(INTEGERS, 100);
    for from in ["u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64"] {
        for to in ["u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64"] {
            let parse = |t: &str| (t.starts_with('s'), t[1..].parse::<u32>().unwrap());
            let ((fs, fb), (ts, tb)) = (parse(from), parse(to));
            let value = |x: u64, signed: bool, bits: u32| {
                let up = x << (64 - bits);
                if signed { i128::from(up as i64 >> (64 - bits)) } else { i128::from(up >> (64 - bits)) }
            };
            // An 8-bit result in a 16-bit register is extended.
            let register = tb.max(16);
            let store = |v: i128| value(v as u64, ts, tb) as u64 & (u64::MAX >> (64 - register));
            let body = |sat: &str| format!("cvt{sat}.{to}.{from} {}, {};", reg("d", tb), reg("a", fb));
            check(&body(""), out(tb), &all, |[a, ..]| store(value(a, fs, fb)));
            let (low, high) =
                if ts { (-(1i128 << (tb - 1)), (1 << (tb - 1)) - 1) } else { (0, (1 << tb) - 1) };
            let (from_low, from_high) =
                if fs { (-(1i128 << (fb - 1)), (1 << (fb - 1)) - 1) } else { (0, (1 << fb) - 1) };
            // ptxas accepts `.sat` only where it can change something, and so do we.
            if from_low < low || from_high > high {
                check(&body(".sat"), out(tb), &all, |[a, ..]| store(value(a, fs, fb).clamp(low, high)));
            }
        }
    }
    // Into a wider register.
    check("cvt.s8.s32 %d, %a32;", Out::B64, &all, |[a, ..]| a as i8 as u64);
    check("cvt.u16.u32 %d32, %a32;", Out::B32, &all, |[a, ..]| a & 0xffff);
}

#[test]
fn integers_to_floats() {
    let all = rows(INTEGERS, 300);
    for (from, bits, signed) in [
        ("u8", 8, false),
        ("s16", 16, true),
        ("u32", 32, false),
        ("s32", 32, true),
        ("u64", 64, false),
        ("s64", 64, true),
    ] {
        for (to, format, width) in [("f16", F16, 16), ("bf16", BF16, 16), ("f32", F32, 32), ("f64", F64, 64)]
        {
            if to == "bf16" && bits == 8 {
                continue;
            }
            for (mode, rounding) in MODES {
                let body = format!("cvt.r{mode}.{to}.{from} {}, {};", reg("d", width), reg("a", bits));
                check(&body, out(width), &all, |[a, ..]| {
                    let up = a << (64 - bits);
                    let v = if signed {
                        i128::from(up as i64 >> (64 - bits))
                    } else {
                        i128::from(up >> (64 - bits))
                    };
                    exact::round(format, rounding, Exact::integer(v < 0, v.unsigned_abs()))
                });
            }
        }
    }
}

#[test]
fn floats_to_integers() {
    let mut all = float_rows(500);
    let mut rng = Random(3);
    all.extend((0..2000).map(|_| {
        let x = (rng.next() as i32 as f32 / 65536.0).to_bits();
        [u64::from(x), 0, 0]
    }));
    for h in [0.5f32, 1.5, 2.5, -0.5, -1.5, 254.5, 255.5, 32767.5, 2147483648.0, 4294967296.0, -2147483648.0]
    {
        all.push([u64::from(h.to_bits()), 0, 0]);
    }
    type Round = fn(f64) -> f64;
    let round: [(&str, Round); 4] =
        [("rni", f64::round_ties_even), ("rzi", f64::trunc), ("rmi", f64::floor), ("rpi", f64::ceil)];
    for (mode, r) in round {
        for (to, bits, signed) in [
            ("u8", 8, false),
            ("s8", 8, true),
            ("u16", 16, false),
            ("s16", 16, true),
            ("u32", 32, false),
            ("s32", 32, true),
            ("u64", 64, false),
            ("s64", 64, true),
        ] {
            let (low, high) =
                if signed { (-(1i128 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) };
            let register = if bits == 8 { 16 } else { bits };
            let mask = u64::MAX >> (64 - register);
            check(&format!("cvt.{mode}.{to}.f32 {}, %a32;", reg("d", bits)), out(bits), &all, |[a, ..]| {
                if f(a).is_nan() {
                    return if bits == 64 { 1 << 63 } else { 0 };
                }
                (r(f64::from(f(a))) as i128).clamp(low, high) as u64 & mask
            });
            let body = format!("cvt.f64.f32 %e, %a32; cvt.{mode}.{to}.f64 {}, %e;", reg("d", bits));
            let numbers: Vec<_> = all.iter().copied().filter(|r| !f(r[0]).is_nan()).collect();
            check(&body, out(bits), &numbers, |[a, ..]| {
                (r(f64::from(f(a))) as i128).clamp(low, high) as u64 & mask
            });
        }
        check(&format!("cvt.{mode}.f32.f32 %d32, %a32;"), Out::B32, &all, |[a, ..]| {
            let x = r(f64::from(f(a))) as f32;
            if x.is_nan() { 0x7fff_ffff } else { u64::from(x.copysign(f(a)).to_bits()) }
        });
    }
    check(
        "cvt.rzi.ftz.sat.f32.f32 %d32, %a32;",
        Out::B32,
        &all,
        |[a, ..]| {
            if f(a) >= 1.0 { 0x3f80_0000 } else { 0 }
        },
    );
}

#[test]
fn every_16_bit_float() {
    let all = all_16();
    for (ty, format) in [("f16", F16), ("bf16", BF16)] {
        check(&format!("cvt.f32.{ty} %d32, %a16;"), Out::B32, &all, |[a, ..]| {
            if ty == "bf16" { a << 16 } else { convert(format, F32, Rounding::Nearest, a) }
        });
        check(&format!("cvt.rzi.s16.{ty} %d16, %a16;"), Out::B16, &all, |[a, ..]| {
            let x = f(convert(format, F32, Rounding::Nearest, a));
            u64::from(x as i16 as u16)
        });
    }
    check("cvt.rn.bf16.f16 %d16, %a16;", Out::B16, &all, |[a, ..]| convert(F16, BF16, Rounding::Nearest, a));
    check("cvt.rz.f16.bf16 %d16, %a16;", Out::B16, &all, |[a, ..]| convert(BF16, F16, Rounding::Zero, a));
    check("cvt.f64.f16 %d, %a16;", Out::B64, &all, |[a, ..]| match convert(F16, F64, Rounding::Nearest, a) {
        // An H200 keeps sign and payload, made quiet.
        nan if F64.is_nan(nan) => (a >> 15) << 63 | 0x7ff8 << 48 | (a & 0x3ff) << 42,
        number => number,
    });
}

/// f32 inputs whose rounding to 16 bits and less is delicate: every upper half with lower halves around ties.
fn delicate() -> Vec<[u64; 3]> {
    let mut out = Vec::new();
    for h in 0..0x1_0000u64 {
        for low in [0, 1, 0x7fff, 0x8000, 0x8001, 0x1000, 0x2fff, 0x3000] {
            if (h ^ low) & 3 == 0 || low == 0x8000 {
                out.push([h << 16 | low, (h ^ 0x5555) << 16 | low, low]);
            }
        }
    }
    out.extend(rows(FLOATS, 0));
    out
}

#[test]
fn narrowing_from_f32() {
    let all = delicate();
    for (ty, format) in [("f16", F16), ("bf16", BF16)] {
        for (mode, rounding) in [("rn", Rounding::Nearest), ("rz", Rounding::Zero)] {
            let half = |x: u64| convert(F32, format, rounding, x & 0xffff_ffff);
            check(&format!("cvt.{mode}.{ty}.f32 %d16, %a32;"), Out::B16, &all, |[a, ..]| half(a));
            check(&format!("cvt.{mode}.{ty}x2.f32 %d32, %a32, %b32;"), Out::B32, &all, |[a, b, _]| {
                half(a) << 16 | half(b)
            });
            let relu = |x: u64| if x & 0x8000 != 0 && !format.is_nan(x) { 0 } else { x };
            check(&format!("cvt.{mode}.relu.{ty}x2.f32 %d32, %a32, %b32;"), Out::B32, &all, |[a, b, _]| {
                relu(half(a)) << 16 | relu(half(b))
            });
            let finite = |x: u64| if x & 0x7fff == format.infinity(false) { x - 1 } else { x };
            check(&format!("cvt.{mode}.satfinite.{ty}.f32 %d16, %a32;"), Out::B16, &all, |[a, ..]| {
                finite(half(a))
            });
        }
    }
    check("cvt.rn.bf16x2.f32 %d32, %a32, %b32;", Out::B32, &all, |[a, b, _]| {
        u64::from(nvfp4::bf16::from_f32(f(a))) << 16 | u64::from(nvfp4::bf16::from_f32(f(b)))
    });
    check("cvt.rna.tf32.f32 %d32, %a32;", Out::B32, &all, |[a, ..]| {
        if f(a).is_nan() || f(a).is_infinite() {
            // An H200 cuts NaN.
            a & 0xffff_e000
        } else {
            (a + 0x1000) & 0xffff_e000
        }
    });
    check("cvt.rn.f32.f64 %d32, %e;", Out::B32, &[[0; 3]], |_| 0);
    check(
        "cvt.f64.f32 %e, %a32; add.f64 %e, %e, 0d3690000000000000; cvt.rp.f32.f64 %d32, %e;",
        Out::B32,
        &float_rows(300),
        |[a, ..]| {
            let sum = f64::from(f(a)) + f64::from_bits(0x3690_0000_0000_0000);
            // NaN keeps sign and upper payload through f64.
            if f(a).is_nan() { a | 1 << 22 } else { convert(F64, F32, Rounding::Up, sum.to_bits()) }
        },
    );
}

#[test]
fn narrow_formats_agree_with_nvfp4() {
    let all = delicate();
    let e4m3 = |x: u64| u64::from(nvfp4::e4m3::encode(f(x)));
    check("cvt.rn.satfinite.e4m3x2.f32 %d16, %a32, %b32;", Out::B16, &all, |[a, b, _]| {
        e4m3(a) << 8 | e4m3(b)
    });
    check("cvt.rn.satfinite.relu.e4m3x2.f32 %d16, %a32, %b32;", Out::B16, &all, |[a, b, _]| {
        let relu = |x: u64| if f(x) <= 0.0 { 0 } else { e4m3(x) };
        relu(a) << 8 | relu(b)
    });
    check_for("sm_100a", "cvt.rn.satfinite.e2m1x2.f32 %d8, %a32, %b32;", Out::B8, &all, |[a, b, _]| {
        u64::from(nvfp4::e2m1::pack(nvfp4::e2m1::encode(f(b)), nvfp4::e2m1::encode(f(a))))
    });
    // E5M2 is the upper byte of an f16; its largest value is 0x7b.
    let e5m2 = |x: u64| {
        if f(x).is_nan() {
            return 0x7f;
        }
        let format = Format { exponent: 5, fraction: 2, nan: 0x7f };
        let code = convert(F32, format, Rounding::Nearest, x & 0xffff_ffff);
        if code & 0x7f == 0x7c { code - 1 } else { code }
    };
    check("cvt.rn.satfinite.e5m2x2.f32 %d16, %a32, %b32;", Out::B16, &all, |[a, b, _]| {
        e5m2(a) << 8 | e5m2(b)
    });
    let small = all_16();
    let half = |x: f32| u64::from(half_bits(x));
    check("cvt.rn.f16x2.e4m3x2 %d32, %a16;", Out::B32, &small, |[a, ..]| {
        half(nvfp4::e4m3::decode((a >> 8) as u8)) << 16 | half(nvfp4::e4m3::decode(a as u8))
    });
    check("cvt.rn.f16x2.e5m2x2 %d32, %a16;", Out::B32, &small, |[a, ..]| {
        let wide = |b: u64| if b & 0x7f > 0x7c { 0x7fff } else { b << 8 };
        wide(a >> 8) << 16 | wide(a & 0xff)
    });
    check_for("sm_100a", "cvt.rn.f16x2.e2m1x2 %d32, %a8;", Out::B32, &small, |[a, ..]| {
        let (even, odd) = nvfp4::e2m1::unpack(a as u8);
        half(nvfp4::e2m1::decode(odd)) << 16 | half(nvfp4::e2m1::decode(even))
    });
    // To bf16, whose range they all fit into: the upper half of the f32.
    let wide = |x: f32| if x.is_nan() { 0x7fff } else { u64::from(x.to_bits() >> 16) };
    let e5m2_value = |b: u64| f(convert(F16, F32, Rounding::Nearest, (b & 0xff) << 8));
    for (ty, source) in [("e4m3x2", "%a16"), ("e5m2x2", "%a16"), ("e2m1x2", "%a8")] {
        for flags in ["", ".relu", ".satfinite"] {
            let value = move |b: u64, odd: bool| {
                let x = match ty {
                    "e4m3x2" => nvfp4::e4m3::decode((if odd { b >> 8 } else { b }) as u8),
                    "e5m2x2" => e5m2_value(if odd { b >> 8 } else { b }),
                    _ => nvfp4::e2m1::decode(if odd { (b as u8) >> 4 } else { b as u8 & 0xf }),
                };
                match flags {
                    ".relu" if x <= 0.0 => 0,
                    // The largest of bf16.
                    ".satfinite" if x.is_infinite() => 0x7f7f | wide(x) & 0x8000,
                    _ => wide(x),
                }
            };
            let text = format!("cvt.rn{flags}.bf16x2.{ty} %d32, {source};");
            check_for("sm_100a", &text, Out::B32, &small, move |[a, ..]| {
                value(a, true) << 16 | value(a, false)
            });
        }
    }
    check("cvt.rn.satfinite.e4m3x2.f16x2 %d16, %b32;", Out::B16, &small, |[_, b, _]| {
        let code = |h: u64| e4m3(convert(F16, F32, Rounding::Nearest, h & 0xffff));
        code(b >> 16) << 8 | code(b)
    });
}

/// f16 bits of an exactly representable value or NaN.
fn half_bits(x: f32) -> u16 {
    convert(F32, F16, Rounding::Nearest, u64::from(x.to_bits())) as u16
}

#[test]
fn scales_of_powers_of_two() {
    let all = delicate();
    let code = |up: bool, x: f32| -> u64 {
        if x.is_nan() {
            return 0xff;
        }
        let x = f64::from(x.abs());
        // The codes are 2^(code - 127).
        let power = |c: i32| 2f64.powi(c - 127);
        let below = (0..=254).rev().find(|&c| power(c) <= x);
        let code = match below {
            None => 0,
            Some(c) if up && power(c) < x => (c + 1).min(254),
            Some(c) => c,
        };
        code as u64
    };
    for (mode, up) in [("rz", false), ("rp", true)] {
        let body = format!("cvt.{mode}.satfinite.ue8m0x2.f32 %d16, %a32, %b32;");
        check_for("sm_100a", &body, Out::B16, &all[..60_000], |[a, b, _]| {
            code(up, f(a)) << 8 | code(up, f(b))
        });
    }
    let small: Vec<_> = (0..256u64).map(|c| [(c << 8) | (255 - c), 0, 0]).collect();
    check_for("sm_100a", "cvt.rn.bf16x2.ue8m0x2 %d32, %a16;", Out::B32, &small, |[a, ..]| {
        let wide = |c: u64| match c {
            0 => 0x40,
            255 => 0x7fff,
            c => c << 7,
        };
        wide(a >> 8) << 16 | wide(a & 0xff)
    });
}

#[test]
fn packing() {
    let all = rows(INTEGERS, 200);
    check("cvt.pack.sat.s16.s32 %d32, %a32, %b32;", Out::B32, &all, |[a, b, _]| {
        let cut = |x: u64| (x as i32).clamp(-32768, 32767) as u64 & 0xffff;
        cut(a) << 16 | cut(b)
    });
    check("cvt.pack.sat.u8.s32.b32 %d32, %a32, %b32, %c32;", Out::B32, &all, |[a, b, c]| {
        let cut = |x: u64| (x as i32).clamp(0, 255) as u64;
        c << 16 & 0xffff_0000 | cut(a) << 8 | cut(b)
    });
    assert_eq!(
        eval_for(
            "sm_90a",
            "cvt.pack.sat.s8.s32.b32 %d32, %a32, %b32, %c32;",
            Out::B32,
            &[[300, (-300i64) as u64, 0x1_2345]]
        ),
        [0x2345_7f80]
    );
}
