//! f32, f64 and half-precision arithmetic: correctly rounded in every mode, special cases, `.ftz`, `.sat`.
//!
//! References: the host's own operations where rounding is to nearest, [`exact`] (integers) for the other modes.

mod common;

use common::eval::{FLOATS, Out, Random, check, check_for, eval, float_rows, rows};
use ptx_emulator::softfloat::{BF16, F16, F32, F64, Format, Rounding, exact};

const MODES: [(&str, Rounding); 4] =
    [("rn", Rounding::Nearest), ("rz", Rounding::Zero), ("rm", Rounding::Down), ("rp", Rounding::Up)];

fn f(x: u64) -> f32 {
    f32::from_bits(x as u32)
}

/// Canonical NaN.
fn bits(x: f32) -> u64 {
    if x.is_nan() { 0x7fff_ffff } else { u64::from(x.to_bits()) }
}

fn flush(x: u64) -> u64 {
    if f(x).is_subnormal() { x & 0x8000_0000 } else { x }
}

fn saturate(x: u64) -> u64 {
    let x = f(x);
    if x > 0.0 { u64::from(x.min(1.0).to_bits()) } else { 0 }
}

#[test]
fn nearest_is_the_hosts() {
    let all = float_rows(2000);
    check("add.f32 %d32, %a32, %b32;", Out::B32, &all, |[a, b, _]| bits(f(a) + f(b)));
    check("sub.rn.f32 %d32, %a32, %b32;", Out::B32, &all, |[a, b, _]| bits(f(a) - f(b)));
    check("mul.rn.f32 %d32, %a32, %b32;", Out::B32, &all, |[a, b, _]| bits(f(a) * f(b)));
    check("div.rn.f32 %d32, %a32, %b32;", Out::B32, &all, |[a, b, _]| bits(f(a) / f(b)));
    check("rcp.rn.f32 %d32, %a32;", Out::B32, &all, |[a, ..]| bits(1.0 / f(a)));
    check("sqrt.rn.f32 %d32, %a32;", Out::B32, &all, |[a, ..]| bits(f(a).sqrt()));
    check("fma.rn.f32 %d32, %a32, %b32, %c32;", Out::B32, &all, |[a, b, c]| bits(f(a).mul_add(f(b), f(c))));
}

#[test]
fn every_rounding_mode() {
    let all = float_rows(2000);
    for (name, mode) in MODES {
        let two = |op: &str, g: fn(Format, Rounding, [u64; 2]) -> u64, negate: bool| {
            check(&format!("{op}.{name}.f32 %d32, %a32, %b32;"), Out::B32, &all, |[a, b, _]| {
                let b = if negate { b ^ 0x8000_0000 } else { b };
                g(F32, mode, [a & 0xffff_ffff, b & 0xffff_ffff])
            });
        };
        two("add", exact::add, false);
        two("sub", exact::add, true);
        two("mul", exact::mul, false);
        two("div", exact::div, false);
        check(&format!("fma.{name}.f32 %d32, %a32, %b32, %c32;"), Out::B32, &all, |r| {
            exact::fma(F32, mode, r.map(|x| x & 0xffff_ffff))
        });
        check(&format!("sqrt.{name}.f32 %d32, %a32;"), Out::B32, &all, |[a, ..]| exact::sqrt(F32, mode, a));
        check(&format!("rcp.{name}.f32 %d32, %a32;"), Out::B32, &all, |[a, ..]| {
            exact::div(F32, mode, [0x3f80_0000, a])
        });
    }
}

#[test]
fn flushing_and_saturation() {
    let all = float_rows(1000);
    let flushed =
        |g: fn(f32, f32) -> f32| move |[a, b, _]: [u64; 3]| flush(bits(g(f(flush(a)), f(flush(b)))));
    check("add.ftz.f32 %d32, %a32, %b32;", Out::B32, &all, flushed(|a, b| a + b));
    check("mul.rn.ftz.f32 %d32, %a32, %b32;", Out::B32, &all, flushed(|a, b| a * b));
    check("div.rn.ftz.f32 %d32, %a32, %b32;", Out::B32, &all, flushed(|a, b| a / b));
    check("sub.ftz.sat.f32 %d32, %a32, %b32;", Out::B32, &all, move |r| saturate(flushed(|a, b| a - b)(r)));
    check("fma.rn.sat.f32 %d32, %a32, %b32, %c32;", Out::B32, &all, |[a, b, c]| {
        saturate(bits(f(a).mul_add(f(b), f(c))))
    });
    check("abs.f32 %d32, %a32;", Out::B32, &rows(FLOATS, 0), |[a, ..]| bits(f(a).abs()));
    check("neg.ftz.f32 %d32, %a32;", Out::B32, &rows(FLOATS, 0), |[a, ..]| bits(-f(flush(a))));
}

/// Values of f64 of every kind.
fn doubles() -> Vec<[u64; 3]> {
    let special = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        1.0 + f64::EPSILON,
        5e-324,
        -5e-324,
        f64::MIN_POSITIVE,
        f64::MAX,
        -f64::MAX,
        f64::INFINITY,
        1e-160,
        3.0e160,
    ]
    .map(f64::to_bits);
    let mut out = rows(&special, 1500);
    let mut rng = Random(5);
    out.extend(
        (0..1500).map(|_| [0, 1, 2].map(|_| rng.next() & 0x807f_ffff_ffff_ffff | 0x3fc0_0000_0000_0000)),
    );
    // What becomes of NaN payloads is tested below.
    out.retain(|r| r.iter().all(|&x| !f64::from_bits(x).is_nan()));
    out
}

#[test]
fn doubles_in_every_mode() {
    let all = doubles();
    let d = f64::from_bits;
    // Invalid operations give some NaN.
    let same = |body: &str, g: &dyn Fn([u64; 3]) -> u64| {
        for (row, got) in all.iter().zip(eval(body, Out::B64, &all)) {
            let want = g(*row);
            assert!(
                got == want || d(got).is_nan() && d(want).is_nan(),
                "{body} {row:#x?}: {got:#x}, expected {want:#x}"
            );
        }
    };
    same("add.f64 %d, %a, %b;", &|[a, b, _]| (d(a) + d(b)).to_bits());
    same("mul.rn.f64 %d, %a, %b;", &|[a, b, _]| (d(a) * d(b)).to_bits());
    same("div.rn.f64 %d, %a, %b;", &|[a, b, _]| (d(a) / d(b)).to_bits());
    same("fma.rn.f64 %d, %a, %b, %c;", &|[a, b, c]| d(a).mul_add(d(b), d(c)).to_bits());
    same("sqrt.rn.f64 %d, %a;", &|[a, ..]| d(a).sqrt().to_bits());
    for (name, mode) in MODES {
        same(&format!("add.{name}.f64 %d, %a, %b;"), &|[a, b, _]| exact::add(F64, mode, [a, b]));
        same(&format!("mul.{name}.f64 %d, %a, %b;"), &|[a, b, _]| exact::mul(F64, mode, [a, b]));
        same(&format!("div.{name}.f64 %d, %a, %b;"), &|[a, b, _]| exact::div(F64, mode, [a, b]));
        same(&format!("fma.{name}.f64 %d, %a, %b, %c;"), &|r| exact::fma(F64, mode, r));
        same(&format!("sqrt.{name}.f64 %d, %a;"), &|[a, ..]| exact::sqrt(F64, mode, a));
        same(&format!("rcp.{name}.f64 %d, %a;"), &|[a, ..]| exact::div(F64, mode, [1f64.to_bits(), a]));
    }
    same("abs.f64 %d, %a;", &|[a, ..]| d(a).abs().to_bits());
    same("min.f64 %d, %a, %b;", &|[a, b, _]| {
        let (x, y) = (d(a), d(b));
        if x < y || x == y && x.is_sign_negative() { a } else { b }
    });
}

/// The NaN results of f64, as an H200 gives them: which operand's, made quiet.
#[test]
fn nans_of_doubles() {
    let nans = [
        0x7ff0_0000_0000_0001,
        0xfff0_0000_0000_0001,
        0x7ff8_0000_0000_0000,
        0xfff8_0000_0000_0000,
        0x7fff_ffff_ffff_ffff,
        0xfff1_2345_6789_abcd,
        0x3ff0_0000_0000_0000,
        0x7ff0_0000_0000_0000,
        0,
    ];
    let all = rows(&nans, 0);
    let d = f64::from_bits;
    let first = |result: f64, operands: &[u64]| match operands.iter().find(|&&o| d(o).is_nan()) {
        Some(nan) => nan | 1 << 51,
        None if result.is_nan() => 0xfff8_0000_0000_0000,
        None => result.to_bits(),
    };
    check("add.f64 %d, %a, %b;", Out::B64, &all, |[a, b, _]| first(d(a) + d(b), &[b, a]));
    check("sub.rz.f64 %d, %a, %b;", Out::B64, &all, |[a, b, _]| first(d(a) - d(b), &[b, a]));
    check("mul.f64 %d, %a, %b;", Out::B64, &all, |[a, b, _]| first(d(a) * d(b), &[b, a]));
    check("div.rn.f64 %d, %a, %b;", Out::B64, &all, |[a, b, _]| first(d(a) / d(b), &[a, b]));
    check("fma.rn.f64 %d, %a, %b, %c;", Out::B64, &all, |[a, b, c]| {
        first(d(a).mul_add(d(b), d(c)), &[b, c, a])
    });
    check("abs.f64 %d, %a;", Out::B64, &all, |[a, ..]| first(d(a).abs(), &[a]));
    check("neg.f64 %d, %a;", Out::B64, &all, |[a, ..]| first(-d(a), &[a]));
    check("max.f64 %d, %a, %b;", Out::B64, &all, |[a, b, _]| match (d(a).is_nan(), d(b).is_nan()) {
        (true, true) => b | 1 << 51,
        (true, false) => b,
        (false, true) => a,
        _ => d(a).max(d(b)).to_bits(),
    });
}

/// The definition of minimum and maximum: -0 below +0, one NaN loses unless `.NaN`.
fn min_max(is_min: bool, nan: bool, a: u64, b: u64) -> u64 {
    match (f(a).is_nan(), f(b).is_nan()) {
        (true, true) => 0x7fff_ffff,
        (true, false) | (false, true) if nan => 0x7fff_ffff,
        (true, false) => b,
        (false, true) => a,
        _ => {
            let less = f(a).total_cmp(&f(b)).is_lt();
            if less == is_min { a } else { b }
        }
    }
}

#[test]
fn minimum_and_maximum() {
    let all: Vec<_> = float_rows(500);
    for (op, is_min) in [("min", true), ("max", false)] {
        check(&format!("{op}.f32 %d32, %a32, %b32;"), Out::B32, &all, |[a, b, _]| {
            min_max(is_min, false, a, b)
        });
        check(&format!("{op}.NaN.f32 %d32, %a32, %b32;"), Out::B32, &all, |[a, b, _]| {
            min_max(is_min, true, a, b)
        });
        check(&format!("{op}.ftz.f32 %d32, %a32, %b32;"), Out::B32, &all, |[a, b, _]| {
            min_max(is_min, false, flush(a), flush(b))
        });
        check(&format!("{op}.xorsign.abs.f32 %d32, %a32, %b32;"), Out::B32, &all, |[a, b, _]| {
            let picked = min_max(is_min, false, a & 0x7fff_ffff, b & 0x7fff_ffff);
            if f(picked).is_nan() { picked } else { picked | (a ^ b) & 0x8000_0000 }
        });
        check_for("sm_100a", &format!("{op}.f32 %d32, %a32, %b32, %c32;"), Out::B32, &all, |[a, b, c]| {
            min_max(is_min, false, min_max(is_min, false, a, b), c)
        });
        check_for("sm_100a", &format!("{op}.NaN.abs.f32 %d32, %a32, %b32, %c32;"), Out::B32, &all, |r| {
            let [a, b, c] = r.map(|x| x & 0x7fff_ffff);
            min_max(is_min, true, min_max(is_min, true, a, b), c)
        });
    }
}

#[test]
fn signs_and_classes() {
    let all = rows(FLOATS, 200);
    check("copysign.f32 %d32, %a32, %b32;", Out::B32, &all, |[a, b, _]| b & 0x7fff_ffff | a & 0x8000_0000);
    type Test = fn(f32) -> bool;
    let tests: [(&str, Test); 6] = [
        ("finite", f32::is_finite),
        ("infinite", f32::is_infinite),
        ("number", |x| !x.is_nan()),
        ("notanumber", f32::is_nan),
        ("normal", |x| x.is_normal() || x == 0.0),
        ("subnormal", f32::is_subnormal),
    ];
    for (name, test) in tests {
        check(&format!("testp.{name}.f32 %dp, %a32;"), Out::Pred, &all, |[a, ..]| u64::from(test(f(a))));
    }
}

#[test]
fn pairs() {
    let all = float_rows(1000);
    let pair = |x: u64, y: u64| x & 0xffff_ffff | y << 32;
    let load = "mov.b64 %t, {%a32, %b32}; mov.b64 %e, {%b32, %c32}; mov.b64 %g, {%c32, %a32};";
    check_for("sm_100a", &format!("{load} add.rn.f32x2 %d, %t, %e;"), Out::B64, &all, |[a, b, c]| {
        pair(bits(f(a) + f(b)), bits(f(b) + f(c)))
    });
    check_for("sm_100a", &format!("{load} mul.rn.ftz.f32x2 %d, %t, %e;"), Out::B64, &all, |[a, b, c]| {
        let mul = |x: u64, y: u64| flush(bits(f(flush(x)) * f(flush(y))));
        pair(mul(a, b), mul(b, c))
    });
    check_for("sm_100a", &format!("{load} fma.rz.f32x2 %d, %t, %e, %g;"), Out::B64, &all, |[a, b, c]| {
        let fma = |v: [u64; 3]| exact::fma(F32, Rounding::Zero, v.map(|x| x & 0xffff_ffff));
        pair(fma([a, b, c]), fma([b, c, a]))
    });
}

/// Pairs of 16-bit values: every one with itself and with random ones.
fn half_rows() -> Vec<[u64; 3]> {
    let mut rng = Random(9);
    let mut out: Vec<_> = (0..0x1_0000u64)
        .map(|h| {
            let [x, y] = [rng.next(), rng.next()].map(|r| r & 0xffff);
            [h | x << 16, x | y << 16, y | h << 16]
        })
        .collect();
    let special =
        [0, 0x8000, 1, 0x3c00, 0x3f80, 0x7c00, 0x7f80, 0xff80, 0x7e00, 0x7fc0, 0x0400, 0x7bff, 0x7f7f];
    out.extend(rows(&special.map(|h| h | h << 16), 0));
    out
}

#[test]
fn halves_round_once() {
    let all = half_rows();
    for (ty, format) in [("f16", F16), ("bf16", BF16)] {
        let two = |op: &str, g: &dyn Fn([u64; 2]) -> u64| {
            check(&format!("{op}.{ty} %d16, %a16, %b16;"), Out::B16, &all, |[a, b, _]| {
                g([a & 0xffff, b & 0xffff])
            });
            check(&format!("{op}.rn.{ty}x2 %d32, %a32, %b32;"), Out::B32, &all, |[a, b, _]| {
                g([a & 0xffff, b & 0xffff]) | g([a >> 16 & 0xffff, b >> 16 & 0xffff]) << 16
            });
        };
        two("add", &|v| exact::add(format, Rounding::Nearest, v));
        two("sub", &|[a, b]| exact::add(format, Rounding::Nearest, [a, b ^ 0x8000]));
        two("mul", &|v| exact::mul(format, Rounding::Nearest, v));
        let fma = |r: [u64; 3]| exact::fma(format, Rounding::Nearest, r.map(|x| x & 0xffff));
        check(&format!("fma.rn.{ty} %d16, %a16, %b16, %c16;"), Out::B16, &all, fma);
        check(&format!("fma.rn.relu.{ty}x2 %d32, %a32, %b32, %c32;"), Out::B32, &all, |r| {
            let relu = |x: u64| if x & 0x8000 != 0 && !format.is_nan(x) { 0 } else { x };
            relu(fma(r)) | relu(fma(r.map(|x| x >> 16))) << 16
        });
        let number = |h: u64, x: u64| if format.is_nan(h & 0xffff) { 0x7fff } else { x & 0xffff };
        check(&format!("neg.{ty}x2 %d32, %a32;"), Out::B32, &all, |[a, ..]| {
            number(a, a ^ 0x8000) | number(a >> 16, a >> 16 ^ 0x8000) << 16
        });
        check(&format!("abs.{ty} %d16, %a16;"), Out::B16, &all, |[a, ..]| number(a, a & 0x7fff));
        // Minimum and maximum through f32: the order is the same.
        let wide = |h: u64| match exact::decode(format, h & 0xffff) {
            exact::Number::Nan => 0x7fff_ffff,
            exact::Number::Infinity(n) => F32.infinity(n),
            exact::Number::Finite(x) => exact::round(F32, Rounding::Nearest, x),
        };
        for (op, is_min) in [("min", true), ("max", false)] {
            for (modifier, nan) in [("", false), (".NaN", true)] {
                check(&format!("{op}{modifier}.{ty} %d16, %a16, %b16;"), Out::B16, &all, |[a, b, _]| {
                    let picked = min_max(is_min, nan, wide(a), wide(b));
                    if f(picked).is_nan() {
                        0x7fff
                    } else if picked == wide(a) {
                        a & 0xffff
                    } else {
                        b & 0xffff
                    }
                });
            }
        }
    }
    // Saturation and flushing exist in f16.
    check("add.sat.f16 %d16, %a16, %b16;", Out::B16, &all, |[a, b, _]| {
        let sum = exact::add(F16, Rounding::Nearest, [a & 0xffff, b & 0xffff]);
        if sum & 0x8000 != 0 || F16.is_nan(sum) { 0 } else { sum.min(0x3c00) }
    });
    check("mul.ftz.f16 %d16, %a16, %b16;", Out::B16, &all, |[a, b, _]| {
        let flush = |x: u64| if x & 0x7c00 == 0 { x & 0x8000 } else { x };
        flush(exact::mul(F16, Rounding::Nearest, [flush(a & 0xffff), flush(b & 0xffff)]))
    });
}

#[test]
fn approximations() {
    // Rounded from f64: within half a unit of the true value.
    let all = float_rows(500);
    let close = |body: &str, g: fn(f64) -> f64| {
        for (row, got) in all.iter().zip(eval(body, Out::B32, &all)) {
            let (got, want) = (f(got), g(f64::from(f(row[0]))) as f32);
            assert!(
                got == want || got.is_nan() && want.is_nan(),
                "{body} of {:e}: {got:e}, {want:e}",
                f(row[0])
            );
        }
    };
    close("ex2.approx.f32 %d32, %a32;", f64::exp2);
    close("lg2.approx.f32 %d32, %a32;", f64::log2);
    close("sin.approx.f32 %d32, %a32;", f64::sin);
    close("cos.approx.f32 %d32, %a32;", f64::cos);
    close("tanh.approx.f32 %d32, %a32;", f64::tanh);
    close("rcp.approx.f32 %d32, %a32;", |x| 1.0 / x);
    close("sqrt.approx.f32 %d32, %a32;", f64::sqrt);
    close("rsqrt.approx.f32 %d32, %a32;", |x| 1.0 / x.sqrt());
    check("div.full.f32 %d32, %a32, %b32;", Out::B32, &all, |[a, b, _]| bits(f(a) / f(b)));
    // The quotient by a huge divisor is flushed.
    assert_eq!(eval("div.approx.f32 %d32, %a32, %b32;", Out::B32, &[[0x7e80_0000, 0x7f00_0000, 0]]), [0]);
    assert_eq!(eval("ex2.approx.f16x2 %d32, %a32;", Out::B32, &[[0x3c00_c000, 0, 0]]), [0x4000_3400]);
    assert_eq!(eval("ex2.approx.ftz.bf16x2 %d32, %a32;", Out::B32, &[[0x4000_bf80, 0, 0]]), [0x4080_3f00]);
    assert_eq!(eval("tanh.approx.bf16x2 %d32, %a32;", Out::B32, &[[0x7f80_0000, 0, 0]]), [0x3f80_0000]);
    let rcp = eval("rcp.approx.ftz.f64 %d, %a;", Out::B64, &[[3f64.to_bits(), 0, 0]]);
    assert_eq!(rcp, [(1.0 / 3.0f64).to_bits() >> 32 << 32]);
}

#[test]
fn mixed_precision() {
    let all = half_rows();
    check_for("sm_100a", "add.rz.f32.bf16 %d32, %a16, %b32;", Out::B32, &all, |[a, b, _]| {
        exact::add(F32, Rounding::Zero, [a << 16 & 0xffff_ffff, b & 0xffff_ffff])
    });
    check_for("sm_100a", "fma.rn.f32.bf16 %d32, %a16, %b16, %c32;", Out::B32, &all, |[a, b, c]| {
        exact::fma(F32, Rounding::Nearest, [a << 16 & 0xffff_ffff, b << 16 & 0xffff_ffff, c & 0xffff_ffff])
    });
}
