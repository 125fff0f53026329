//! Logic, shifts, permutations, comparisons and selections against plain definitions.

mod common;

use common::eval::{FLOATS, INTEGERS, Out, check, eval, float_rows, rows};

#[test]
fn bitwise() {
    let all = rows(INTEGERS, 300);
    for (width, suffix, out) in [(16, "16", Out::B16), (32, "32", Out::B32), (64, "", Out::B64)] {
        let mask = u64::MAX >> (64 - width);
        let two = |op: &str, f: fn(u64, u64) -> u64| {
            check(&format!("{op}.b{width} %d{suffix}, %a{suffix}, %b{suffix};"), out, &all, |[a, b, _]| {
                f(a, b) & mask
            });
        };
        two("and", |a, b| a & b);
        two("or", |a, b| a | b);
        two("xor", |a, b| a ^ b);
        check(&format!("not.b{width} %d{suffix}, %a{suffix};"), out, &all, |[a, ..]| !a & mask);
        check(&format!("cnot.b{width} %d{suffix}, %a{suffix};"), out, &all, |[a, ..]| {
            u64::from(a & mask == 0)
        });
    }
    check("and.pred %dp, %pa, %pb;", Out::Pred, &all, |[a, b, _]| a & b & 1);
    check("or.pred %dp, %pa, %pb;", Out::Pred, &all, |[a, b, _]| (a | b) & 1);
    check("xor.pred %dp, %pa, %pb;", Out::Pred, &all, |[a, b, _]| (a ^ b) & 1);
    check("not.pred %dp, %pa;", Out::Pred, &all, |[a, ..]| !a & 1);
    check("mov.pred %dp, %pa;", Out::Pred, &all, |[a, ..]| a & 1);
}

#[test]
fn lop3() {
    let all = rows(&[0, 0xffff_ffff, 0x1234_5678, 0xf0f0_f0f0], 50);
    for lut in [0x00, 0x01, 0x80, 0xea, 0x96, 0xca, 0xff, 0x3c, 0x6a] {
        let table = |[a, b, c]: [u64; 3]| {
            (0..32).fold(0, |d, i| {
                let index = (a >> i & 1) << 2 | (b >> i & 1) << 1 | c >> i & 1;
                d | (lut >> index & 1) << i
            })
        };
        check(&format!("lop3.b32 %d32, %a32, %b32, %c32, {lut};"), Out::B32, &all, table);
        check(&format!("lop3.or.b32 %e32|%dp, %a32, %b32, %c32, {lut}, %pa;"), Out::Pred, &all, |r| {
            u64::from(table(r) != 0 || r[0] & 1 == 1)
        });
        check(&format!("lop3.and.b32 _|%dp, %a32, %b32, %c32, {lut}, %pc;"), Out::Pred, &all, |r| {
            u64::from(table(r) != 0 && r[2] & 1 == 1)
        });
    }
}

#[test]
fn shifts() {
    let amounts = [0, 1, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 255, 0xffff_ffff];
    let mut all = Vec::new();
    for &n in &amounts {
        for &a in INTEGERS.iter().chain(&[0x1234_5678_9abc_def0]) {
            all.push([a, n, a.rotate_left(13)]);
        }
    }
    for (width, suffix, out) in [(16u32, "16", Out::B16), (32, "32", Out::B32), (64, "", Out::B64)] {
        let mask = u64::MAX >> (64 - width);
        let over = |n: u64| n >= u64::from(width);
        check(&format!("shl.b{width} %d{suffix}, %a{suffix}, %b32;"), out, &all, |[a, n, _]| {
            if over(n) { 0 } else { a << n & mask }
        });
        for ty in ["u", "b"] {
            check(&format!("shr.{ty}{width} %d{suffix}, %a{suffix}, %b32;"), out, &all, |[a, n, _]| {
                if over(n) { 0 } else { (a & mask) >> n }
            });
        }
        check(&format!("shr.s{width} %d{suffix}, %a{suffix}, %b32;"), out, &all, |[a, n, _]| {
            let wide = (a << (64 - width)) as i64 >> (64 - width);
            (wide >> n.min(63)) as u64 & mask
        });
    }
    for (mode, clamp) in [("clamp", true), ("wrap", false)] {
        let pair = |[a, _, c]: [u64; 3]| u128::from(c & 0xffff_ffff) << 32 | u128::from(a & 0xffff_ffff);
        let n = |n: u64| if clamp { n.min(32) } else { n & 31 };
        check(&format!("shf.l.{mode}.b32 %d32, %a32, %c32, %b32;"), Out::B32, &all, |r| {
            (pair(r) << n(r[1]) >> 32) as u64 & 0xffff_ffff
        });
        check(&format!("shf.r.{mode}.b32 %d32, %a32, %c32, %b32;"), Out::B32, &all, |r| {
            (pair(r) >> n(r[1])) as u64 & 0xffff_ffff
        });
    }
}

#[test]
fn permutations() {
    let bytes = |[a, b, _]: [u64; 3]| {
        let (a, b) = ((a as u32).to_le_bytes(), (b as u32).to_le_bytes());
        [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]]
    };
    let mut all = rows(&[0x8081_0203, 0x0405_8687, 0x1234_5678], 200);
    all.extend((0..256).map(|i| [0x8081_0203, 0x0405_8687, i * 0x0101 + i]));
    let select = |row: [u64; 3], selector: u64| {
        (0..4).fold(0u64, |d, i| {
            let nibble = selector >> (4 * i) & 0xf;
            let byte = bytes(row)[(nibble & 7) as usize];
            let byte = if nibble & 8 != 0 { if byte & 0x80 != 0 { 0xff } else { 0 } } else { byte };
            d | u64::from(byte) << (8 * i)
        })
    };
    check("prmt.b32 %d32, %a32, %b32, %c32;", Out::B32, &all, |r| select(r, r[2]));
    for selector in [0x5410, 0x7632, 0x3340, 0x0123, 0xba98, 0x4444] {
        check(&format!("prmt.b32 %d32, %a32, %b32, {selector};"), Out::B32, &all, |r| select(r, selector));
    }
    // The modes, by their tables in the ISA: bytes of d from the highest to the lowest.
    let modes: [(&str, [[usize; 4]; 4]); 6] = [
        ("f4e", [[3, 2, 1, 0], [4, 3, 2, 1], [5, 4, 3, 2], [6, 5, 4, 3]]),
        ("b4e", [[5, 6, 7, 0], [6, 7, 0, 1], [7, 0, 1, 2], [0, 1, 2, 3]]),
        ("rc8", [[0, 0, 0, 0], [1, 1, 1, 1], [2, 2, 2, 2], [3, 3, 3, 3]]),
        ("ecl", [[3, 2, 1, 0], [3, 2, 1, 1], [3, 2, 2, 2], [3, 3, 3, 3]]),
        ("ecr", [[0, 0, 0, 0], [1, 1, 1, 0], [2, 2, 1, 0], [3, 2, 1, 0]]),
        ("rc16", [[1, 0, 1, 0], [3, 2, 3, 2], [1, 0, 1, 0], [3, 2, 3, 2]]),
    ];
    for (mode, table) in modes {
        check(&format!("prmt.b32.{mode} %d32, %a32, %b32, %c32;"), Out::B32, &all, |r| {
            let picked = table[(r[2] & 3) as usize].map(|i| bytes(r)[i]);
            u64::from(u32::from_be_bytes(picked))
        });
    }
}

/// Less, equal, greater, unordered.
fn holds(op: &str, order: Option<std::cmp::Ordering>) -> bool {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let base = match op.strip_suffix('u') {
        Some(base) if order.is_none() => return !base.is_empty(),
        Some(base) => base,
        None => op,
    };
    match base {
        "eq" => order == Some(Equal),
        "ne" => matches!(order, Some(Less | Greater)),
        "lt" | "lo" => order == Some(Less),
        "le" | "ls" => matches!(order, Some(Less | Equal)),
        "gt" | "hi" => order == Some(Greater),
        "ge" | "hs" => matches!(order, Some(Greater | Equal)),
        "num" => order.is_some(),
        "nan" => order.is_none(),
        other => panic!("{other}"),
    }
}

#[test]
fn integer_comparisons() {
    let all = rows(INTEGERS, 200);
    for op in ["eq", "ne", "lt", "le", "gt", "ge"] {
        check(&format!("setp.{op}.u32 %dp, %a32, %b32;"), Out::Pred, &all, |[a, b, _]| {
            u64::from(holds(op, (a as u32).partial_cmp(&(b as u32))))
        });
        check(&format!("setp.{op}.s16 %dp, %a16, %b16;"), Out::Pred, &all, |[a, b, _]| {
            u64::from(holds(op, (a as i16).partial_cmp(&(b as i16))))
        });
        check(&format!("setp.{op}.s64 %dp, %a, %b;"), Out::Pred, &all, |[a, b, _]| {
            u64::from(holds(op, (a as i64).partial_cmp(&(b as i64))))
        });
        check(
            &format!("setp.{op}.and.s32 %dp|%ep, %a32, %b32, %pc; mov.pred %dp, %ep;"),
            Out::Pred,
            &all,
            |[a, b, c]| u64::from(!holds(op, (a as i32).partial_cmp(&(b as i32))) && c & 1 == 1),
        );
        check(&format!("setp.{op}.xor.u64 %dp, %a, %b, !%pc;"), Out::Pred, &all, |[a, b, c]| {
            u64::from(holds(op, a.partial_cmp(&b)) != (c & 1 == 0))
        });
        check(&format!("set.{op}.u32.s32 %d32, %a32, %b32;"), Out::B32, &all, |[a, b, _]| {
            if holds(op, (a as i32).partial_cmp(&(b as i32))) { 0xffff_ffff } else { 0 }
        });
        check(&format!("set.{op}.or.f32.u32 %d32, %a32, %b32, %pa;"), Out::B32, &all, |[a, b, _]| {
            let yes = holds(op, (a as u32).partial_cmp(&(b as u32))) || a & 1 == 1;
            if yes { 0x3f80_0000 } else { 0 }
        });
    }
    for op in ["lo", "ls", "hi", "hs"] {
        check(&format!("setp.{op}.u64 %dp, %a, %b;"), Out::Pred, &all, |[a, b, _]| {
            u64::from(holds(op, a.partial_cmp(&b)))
        });
    }
}

#[test]
fn float_comparisons() {
    let all = float_rows(300);
    let f = |x: u64| f32::from_bits(x as u32);
    let flush = |x: u64| if f(x).is_subnormal() { 0.0 } else { f(x) };
    let d = |x: u64| f64::from_bits(x << 32 | x);
    for op in ["eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"] {
        check(&format!("setp.{op}.f32 %dp, %a32, %b32;"), Out::Pred, &all, |[a, b, _]| {
            u64::from(holds(op, f(a).partial_cmp(&f(b))))
        });
        check(&format!("setp.{op}.or.ftz.f32 %ep|%dp, %a32, %b32, %pc;"), Out::Pred, &all, |[a, b, c]| {
            u64::from(!holds(op, flush(a).partial_cmp(&flush(b))) || c & 1 == 1)
        });
        check(
            &format!("mov.b64 %d, {{%a32, %a32}}; mov.b64 %e, {{%b32, %b32}}; setp.{op}.f64 %dp, %d, %e;"),
            Out::Pred,
            &all,
            |[a, b, _]| u64::from(holds(op, d(a).partial_cmp(&d(b)))),
        );
    }
    // Halves: bf16 is the upper part of an f32.
    check("setp.lt.bf16 %dp, %a16, %b16;", Out::Pred, &all, |[a, b, _]| u64::from(f(a << 16) < f(b << 16)));
    check("setp.geu.bf16x2 %ep|%dp, %a32, %b32;", Out::Pred, &all, |[a, b, _]| {
        let upper = |x: u64| f(x & 0xffff_0000);
        u64::from(holds("geu", upper(a).partial_cmp(&upper(b))))
    });
}

#[test]
fn selections() {
    let all = rows(INTEGERS, 100);
    check("selp.b32 %d32, %a32, %b32, %pc;", Out::B32, &all, |[a, b, c]| {
        (if c & 1 == 1 { a } else { b }) & 0xffff_ffff
    });
    check("selp.u64 %d, %a, %b, !%pc;", Out::B64, &all, |[a, b, c]| if c & 1 == 1 { b } else { a });
    check(
        "selp.s16 %d16, %a16, 5, %pc;",
        Out::B16,
        &all,
        |[a, _, c]| if c & 1 == 1 { a & 0xffff } else { 5 },
    );
    check("slct.u64.s32 %d, %a, %b, %c32;", Out::B64, &all, |[a, b, c]| if c as i32 >= 0 { a } else { b });
    let floats = rows(FLOATS, 0);
    check("slct.b32.f32 %d32, %a32, %b32, %c32;", Out::B32, &floats, |[a, b, c]| {
        if f32::from_bits(c as u32) >= 0.0 { a } else { b }
    });
    check("slct.ftz.b32.f32 %d32, %a32, %b32, %c32;", Out::B32, &floats, |[a, b, c]| {
        let c = f32::from_bits(c as u32);
        if c >= 0.0 || c.is_subnormal() { a } else { b }
    });
}

#[test]
fn moves() {
    let all = rows(INTEGERS, 100);
    check("mov.b64 %d, {%a32, %b32};", Out::B64, &all, |[a, b, _]| a & 0xffff_ffff | b << 32);
    check("mov.b64 %d, {%a16, %b16, %c16, %a16};", Out::B64, &all, |[a, b, c]| {
        [a, b, c, a].iter().rev().fold(0, |d, x| d << 16 | x & 0xffff)
    });
    check("mov.b32 %d32, {%a8, %b8, %c8, %b8};", Out::B32, &all, |[a, b, c]| {
        [a, b, c, b].iter().rev().fold(0, |d, x| d << 8 | x & 0xff)
    });
    check("mov.b32 {%a16, %d16}, %a32;", Out::B16, &all, |[a, ..]| a >> 16 & 0xffff);
    check("mov.b64 {_, %d32}, %b;", Out::B32, &all, |[_, b, _]| b >> 32);
    check("mov.b128 %q, {%a, %b}; mov.b128 %s, %q; mov.b128 {%e, %d}, %s;", Out::B64, &all, |[_, b, _]| b);
    // A swap through one instruction.
    check(
        "mov.b64 %t, {%a32, %b32}; mov.b64 {%b32, %a32}, %t; sub.u32 %d32, %a32, %b32;",
        Out::B32,
        &all,
        |[a, b, _]| b.wrapping_sub(a) & 0xffff_ffff,
    );
    assert_eq!(eval("mov.u32 %d32, %ntid.x;", Out::B32, &[[0; 3]]), [128]);
}
