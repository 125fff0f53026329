//! Cases whose results an H200 has given: what the ISA leaves open (NaN, division by zero) and what other tests
//! have no independent reference for. `recorded` compares with them.

mod common;

use common::eval::{Out, Random, float_rows, recorded, rows};

/// f64 values: every kind of NaN, infinities, ordinary ones.
const DOUBLES: [u64; 13] = [
    0x7ff0_0000_0000_0001,
    0xfff0_0000_0000_0001,
    0x7ff8_0000_0000_0000,
    0xfff8_0000_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0xfff1_2345_6789_abcd,
    0x7ff7_ffff_ffff_ffff,
    0x3ff0_0000_0000_0000,
    0x7ff0_0000_0000_0000,
    0xfff0_0000_0000_0000,
    0,
    0x7ff0_0000_2000_0000,
    0x7ff0_0000_1000_0000,
];

/// f32 rows with NaNs of every kind among them.
fn floats() -> Vec<[u64; 3]> {
    let mut out = float_rows(200);
    for nan in [0x7f80_0001, 0xff80_0001, 0x7fff_ffff, 0xffff_ffff, 0xffc0_0000, 0x7fa0_0000, 0xff81_2345] {
        out.extend([[nan, 0x3f80_0000, 0], [0x3f80_0000, nan, 0], [nan; 3]]);
    }
    out
}

/// Random words, and pairs of 16-bit values of every kind.
fn halves() -> Vec<[u64; 3]> {
    let mut rng = Random(77);
    let special =
        [0, 0x8000_0000, 0x7fff_7c00, 0x3c00_fc00, 0x3f80_7f80, 0x0001_8001, 0x7e00_fe00, 0xff80_7bff];
    let random = (0..20_000).map(|_| [0, 1, 2].map(|_| rng.next()));
    random.collect::<Vec<_>>().into_iter().chain(rows(&special, 0)).collect()
}

/// Every 16-bit value.
fn shorts() -> Vec<[u64; 3]> {
    (0..0x1_0000).map(|h| [h; 3]).collect()
}

fn all(bodies: &[&str], out: Out, cases: &[[u64; 3]]) {
    for body in bodies {
        recorded(body, out, cases);
    }
}

#[test]
fn doubles() {
    let cases = rows(&DOUBLES, 0);
    let bodies = [
        "add.f64 %d, %a, %b;",
        "sub.f64 %d, %a, %b;",
        "mul.f64 %d, %a, %b;",
        "div.rn.f64 %d, %a, %b;",
        "fma.rn.f64 %d, %a, %b, %c;",
        "min.f64 %d, %a, %b;",
        "max.f64 %d, %a, %b;",
        "abs.f64 %d, %a;",
        "neg.f64 %d, %a;",
        "sqrt.rn.f64 %d, %a;",
        "rcp.rn.f64 %d, %a;",
        "copysign.f64 %d, %a, %b;",
        "add.rz.f64 %d, %a, %b;",
        "fma.rm.f64 %d, %a, %b, %c;",
        "cvt.rni.f64.f64 %d, %a;",
        "cvt.sat.f64.f64 %d, %a;",
    ];
    all(&bodies, Out::B64, &cases);
    let narrowing = [
        "cvt.rn.f32.f64 %d32, %a;",
        "cvt.rz.f32.f64 %d32, %a;",
        "cvt.rzi.s32.f64 %d32, %a;",
        "cvt.rzi.u32.f64 %d32, %a;",
    ];
    all(&narrowing, Out::B32, &cases);
    let narrowing = [
        "cvt.rn.f16.f64 %d16, %a;",
        "cvt.rn.bf16.f64 %d16, %a;",
        "cvt.rzi.u16.f64 %d16, %a;",
        "cvt.rzi.s8.f64 %d16, %a;",
    ];
    all(&narrowing, Out::B16, &cases);
}

#[test]
fn conversions_of_halves() {
    let cases = shorts();
    let bodies = [
        "cvt.f64.f16 %d, %a16;",
        "cvt.f64.bf16 %d, %a16;",
        "cvt.rzi.u64.f16 %d, %a16;",
        "cvt.rni.s64.bf16 %d, %a16;",
        "cvt.rpi.u32.bf16 %d32, %a16; cvt.u64.u32 %d, %d32;",
        "cvt.rni.f16.f16 %d16, %a16; cvt.u64.u16 %d, %d16;",
        "cvt.rmi.bf16.bf16 %d16, %a16; cvt.u64.u16 %d, %d16;",
        "cvt.sat.f16.f16 %d16, %a16; cvt.u64.u16 %d, %d16;",
        "cvt.rmi.s8.f16 %d16, %a16; cvt.u64.u16 %d, %d16;",
    ];
    all(&bodies, Out::B64, &cases);
}

#[test]
fn floats_with_nan() {
    let cases = floats();
    let bodies = [
        "neg.f32 %d32, %a32;",
        "abs.ftz.f32 %d32, %a32;",
        "neg.ftz.f32 %d32, %a32;",
        "cvt.f32.f32 %d32, %a32;",
        "cvt.ftz.f32.f32 %d32, %a32;",
        "cvt.sat.f32.f32 %d32, %a32;",
        "cvt.rn.tf32.f32 %d32, %a32;",
        "cvt.rz.tf32.f32 %d32, %a32;",
        "cvt.rna.tf32.f32 %d32, %a32;",
        "cvt.rna.satfinite.tf32.f32 %d32, %a32;",
        "cvt.rn.relu.tf32.f32 %d32, %a32;",
        "min.NaN.ftz.xorsign.abs.f32 %d32, %a32, %b32;",
        "set.lt.f32.f32 %d32, %a32, %b32;",
        "set.geu.ftz.s32.f32 %d32, %a32, %b32;",
        "cvt.rz.relu.satfinite.f16x2.f32 %d32, %a32, %b32;",
        "cvt.rn.relu.satfinite.bf16x2.f32 %d32, %a32, %b32;",
    ];
    all(&bodies, Out::B32, &cases);
    let narrowing = [
        "cvt.rn.ftz.f16.f32 %d16, %a32;",
        "cvt.rn.sat.f16.f32 %d16, %a32;",
        "cvt.rn.relu.bf16.f32 %d16, %a32;",
    ];
    all(&narrowing, Out::B16, &cases);
    recorded("cvt.f64.f32 %d, %a32;", Out::B64, &cases);
}

#[test]
fn packed_halves() {
    let cases = halves();
    for ty in ["f16x2", "bf16x2"] {
        for op in
            ["add.rn", "sub.rn", "mul.rn", "min", "max", "min.NaN", "max.xorsign.abs", "min.NaN.xorsign.abs"]
        {
            recorded(&format!("{op}.{ty} %d32, %a32, %b32;"), Out::B32, &cases);
        }
        for op in ["fma.rn", "fma.rn.relu"] {
            recorded(&format!("{op}.{ty} %d32, %a32, %b32, %c32;"), Out::B32, &cases);
        }
        for op in ["neg", "abs"] {
            recorded(&format!("{op}.{ty} %d32, %a32;"), Out::B32, &cases);
        }
        for op in ["lt", "geu", "nan", "ne"] {
            recorded(&format!("setp.{op}.{ty} %dp|%ep, %a32, %b32;"), Out::Pred, &cases);
            recorded(&format!("set.{op}.{ty}.{ty} %d32, %a32, %b32;"), Out::B32, &cases);
            recorded(&format!("set.{op}.u32.{ty} %d32, %a32, %b32;"), Out::B32, &cases);
        }
    }
    let bodies = [
        "add.sat.f16x2 %d32, %a32, %b32;",
        "mul.ftz.sat.f16x2 %d32, %a32, %b32;",
        "add.ftz.f16x2 %d32, %a32, %b32;",
        "min.ftz.f16x2 %d32, %a32, %b32;",
        "fma.rn.ftz.sat.f16x2 %d32, %a32, %b32, %c32;",
        "neg.ftz.f16x2 %d32, %a32;",
        "cvt.rn.relu.f16x2.e4m3x2 %d32, %a16;",
        "cvt.rn.f16x2.e5m2x2 %d32, %a16;",
    ];
    all(&bodies, Out::B32, &cases);
    let narrowing =
        ["cvt.rn.satfinite.e4m3x2.f16x2 %d16, %a32;", "cvt.rn.satfinite.relu.e5m2x2.f16x2 %d16, %a32;"];
    all(&narrowing, Out::B16, &cases);
}

#[test]
fn division_by_zero_and_overflow() {
    let values = [0, 1, 7, 0x8000, 0xffff, 0x8000_0000, 0xffff_ffff, 1 << 63, u64::MAX];
    let mut cases: Vec<_> = values.into_iter().map(|a| [a, 0, 0]).collect();
    cases.extend([[0x8000, 0xffff, 0], [0x8000_0000, 0xffff_ffff, 0], [1 << 63, u64::MAX, 0]]);
    for (bits, suffix, out) in [(16, "16", Out::B16), (32, "32", Out::B32), (64, "", Out::B64)] {
        for sign in ["u", "s"] {
            for op in ["div", "rem"] {
                recorded(&format!("{op}.{sign}{bits} %d{suffix}, %a{suffix}, %b{suffix};"), out, &cases);
            }
        }
    }
}

#[test]
fn atomics_on_global_memory() {
    // The cell is the thread's output.
    let cell = "mul.wide.u32 %t, %i, 8; add.u64 %g, %out, %t; st.global.u64 [%g], %a;";
    let load = "ld.global.u64 %d, [%g];";
    let one = |op: &str, suffix: &str, cases: &[[u64; 3]]| {
        let body = format!("{cell} atom.global.{op} %e{suffix}, [%g], %b{suffix}; {load}");
        recorded(&body, Out::B64, cases);
    };
    let integers = rows(&[0, 1, 7, 0x8000_0000, 0xffff_ffff, 1 << 63, u64::MAX], 100);
    for op in ["add.u32", "min.s32", "max.u32", "inc.u32", "dec.u32", "and.b32", "exch.b32"] {
        one(op, "32", &integers);
    }
    for op in ["add.u64", "min.s64", "max.u64", "xor.b64"] {
        one(op, "", &integers);
    }
    one("add.f32", "32", &floats());
    one("add.f64", "", &rows(&DOUBLES, 0));
    let cases = halves();
    one("add.noftz.f16x2", "32", &cases);
    one("add.noftz.bf16x2", "32", &cases);
    one("add.noftz.f16", "16", &cases);
    one("add.noftz.bf16", "16", &cases);
    let pair = "mov.b64 {%x32, %e32}, %b;";
    for op in ["add.noftz.v2.f16x2", "min.noftz.v2.bf16x2", "max.noftz.v2.f16x2", "add.v2.f32"] {
        recorded(&format!("{cell} {pair} red.global.{op} [%g], {{%x32, %e32}}; {load}"), Out::B64, &cases);
    }
}

#[test]
fn atomics_on_shared_memory() {
    // (ptxas 13.0 takes the upper half of a packed operand from the wrong register if it is the low word of a
    // 64-bit one: hence the repacking.)
    let cell = ".shared .align 8 .b32 cells[128]; mov.u32 %e32, cells; mad.lo.u32 %e32, %x32, 4, %e32;\n\
                st.shared.u32 [%e32], %a32; mov.b32 {%b16, %c16}, %b32; add.u16 %c16, %c16, 1;\n\
                mov.b32 %b32, {%b16, %c16};";
    let cases = halves();
    for op in ["add.noftz.f16x2", "add.noftz.bf16x2", "max.s32", "add.f32"] {
        let body = format!("{cell} atom.shared.{op} %d32, [%e32], %b32; ld.shared.u32 %d32, [%e32];");
        recorded(&body, Out::B32, &cases);
    }
}

#[test]
fn warp_operations() {
    let mut rng = Random(41);
    let cases: Vec<_> = (0..128 * 20).map(|_| [0, 1, 2].map(|_| rng.next())).collect();
    for mode in ["up", "down", "bfly", "idx"] {
        let body = format!(
            "and.b32 %c32, %c32, 0x1f1f; shfl.sync.{mode}.b32 %d32|%dp, %a32, %b32, %c32, -1;\n\
             selp.u32 %e32, 1, 0, %dp; mov.b64 %d, {{%d32, %e32}};"
        );
        recorded(&body, Out::B64, &cases);
    }
    let bodies = [
        "redux.sync.add.u32 %d32, %a32, -1;",
        "redux.sync.min.s32 %d32, %a32, -1;",
        "redux.sync.max.u32 %d32, %a32, -1;",
        "redux.sync.xor.b32 %d32, %a32, -1;",
        "and.b32 %a32, %a32, 3; match.any.sync.b32 %d32, %a32, -1;",
        "and.b32 %a32, %a32, 1; setp.eq.u32 %dp, %a32, 0; vote.sync.ballot.b32 %d32, %dp, -1;",
        "elect.sync %d32|%dp, -1; selp.u32 %e32, 100, 0, %dp; add.u32 %d32, %d32, %e32;",
    ];
    all(&bodies, Out::B32, &cases);
}
