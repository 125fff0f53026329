//! Integer arithmetic against 128-bit references, every type.

mod common;

use common::eval::{INTEGERS, Out, check, rows};

/// A scalar integer type: width, signedness, suffix of the operand registers, where the result is.
#[derive(Clone, Copy)]
struct Int {
    name: &'static str,
    bits: u32,
    signed: bool,
}

const INTS: [Int; 6] = [
    Int { name: "u16", bits: 16, signed: false },
    Int { name: "s16", bits: 16, signed: true },
    Int { name: "u32", bits: 32, signed: false },
    Int { name: "s32", bits: 32, signed: true },
    Int { name: "u64", bits: 64, signed: false },
    Int { name: "s64", bits: 64, signed: true },
];

impl Int {
    fn out(self) -> Out {
        match self.bits {
            16 => Out::B16,
            32 => Out::B32,
            _ => Out::B64,
        }
    }

    /// `%a32` for `a`.
    fn reg(self, name: &str) -> String {
        if self.bits == 64 { format!("%{name}") } else { format!("%{name}{}", self.bits) }
    }

    /// The value of register bits.
    fn value(self, bits: u64) -> i128 {
        let shift = 64 - self.bits;
        if self.signed {
            i128::from((bits << shift) as i64 >> shift)
        } else {
            i128::from(bits << shift >> shift)
        }
    }

    fn cut(self, value: i128) -> u64 {
        (value as u64) << (64 - self.bits) >> (64 - self.bits)
    }

    fn limits(self) -> (i128, i128) {
        if self.signed {
            (-(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1)
        } else {
            (0, (1 << self.bits) - 1)
        }
    }

    /// Checks `op d, a, b, c` with as many operands as `operands`.
    #[track_caller]
    fn check(self, op: &str, operands: usize, f: impl Fn([i128; 3]) -> i128) {
        let sources: Vec<String> = ["a", "b", "c"][..operands].iter().map(|x| self.reg(x)).collect();
        let body = format!("{op}.{} {}, {};", self.name, self.reg("d"), sources.join(", "));
        check(&body, self.out(), &rows(INTEGERS, 500), |r| self.cut(f(r.map(|x| self.value(x)))));
    }
}

#[test]
fn add_sub_min_max() {
    for t in INTS {
        t.check("add", 2, |[a, b, _]| a + b);
        t.check("sub", 2, |[a, b, _]| a - b);
        t.check("min", 2, |[a, b, _]| a.min(b));
        t.check("max", 2, |[a, b, _]| a.max(b));
    }
}

#[test]
fn saturating() {
    let s32 = INTS[3];
    let (low, high) = s32.limits();
    s32.check("add.sat", 2, |[a, b, _]| (a + b).clamp(low, high));
    s32.check("sub.sat", 2, |[a, b, _]| (a - b).clamp(low, high));
    s32.check("mad.hi.sat", 3, |[a, b, c]| (((a * b) >> 32) + c).clamp(low, high));
}

#[test]
fn products() {
    for t in INTS {
        t.check("mul.lo", 2, |[a, b, _]| a.wrapping_mul(b));
        t.check("mad.lo", 3, |[a, b, c]| a.wrapping_mul(b).wrapping_add(c));
        // A product of two u64 does not fit i128.
        let high = |a: i128, b: i128| {
            if t.signed { (a * b) >> t.bits } else { ((a as u128 * b as u128) >> t.bits) as i128 }
        };
        t.check("mul.hi", 2, |[a, b, _]| high(a, b));
        t.check("mad.hi", 3, |[a, b, c]| high(a, b) + c);
    }
}

#[test]
fn wide_products() {
    for (narrow, wide) in [(0, 2), (1, 3), (2, 4), (3, 5)].map(|(n, w)| (INTS[n], INTS[w])) {
        let (a, b, c, d) = (narrow.reg("a"), narrow.reg("b"), wide.reg("c"), wide.reg("d"));
        let all = rows(INTEGERS, 500);
        check(&format!("mul.wide.{} {d}, {a}, {b};", narrow.name), wide.out(), &all, |[a, b, _]| {
            wide.cut(narrow.value(a) * narrow.value(b))
        });
        check(&format!("mad.wide.{} {d}, {a}, {b}, {c};", narrow.name), wide.out(), &all, |[a, b, c]| {
            wide.cut(narrow.value(a) * narrow.value(b) + wide.value(c))
        });
    }
}

#[test]
fn twenty_four_bits() {
    for t in [INTS[2], INTS[3]] {
        let low = |x: i128| {
            let cut = x & 0xff_ffff;
            if t.signed && cut & 0x80_0000 != 0 { cut - (1 << 24) } else { cut }
        };
        t.check("mul24.lo", 2, |[a, b, _]| low(a) * low(b));
        t.check("mul24.hi", 2, |[a, b, _]| (low(a) * low(b)) >> 16);
        t.check("mad24.lo", 3, |[a, b, c]| low(a) * low(b) + c);
        t.check("mad24.hi", 3, |[a, b, c]| ((low(a) * low(b)) >> 16) + c);
    }
    let (min, max) = INTS[3].limits();
    INTS[3].check("mad24.hi.sat", 3, |[a, b, c]| {
        let low = |x: i128| (x << 104) >> 104;
        (((low(a) * low(b)) << 80 >> 96) + c).clamp(min, max)
    });
}

#[test]
fn division() {
    for t in INTS {
        // The most negative value by -1 wraps.
        let sources = (t.reg("d"), t.reg("a"), t.reg("b"));
        let all: Vec<_> = rows(INTEGERS, 500).into_iter().filter(|r| t.value(r[1]) != 0).collect();
        for (op, is_div) in [("div", true), ("rem", false)] {
            let body = format!("{op}.{} {}, {}, {};", t.name, sources.0, sources.1, sources.2);
            check(&body, t.out(), &all, |[a, b, _]| {
                let (a, b) = (t.value(a), t.value(b));
                t.cut(if is_div { a / b } else { a % b })
            });
        }
    }
    check("div.u32 %d32, %a32, 0;", Out::B32, &[[7; 3]], |_| 0xffff_ffff);
    check("rem.u32 %d32, %a32, 0;", Out::B32, &[[7; 3]], |_| 0xffff_ffff);
}

#[test]
fn one_operand() {
    for t in INTS.into_iter().filter(|t| t.signed) {
        t.check("abs", 1, |[a, ..]| a.abs());
        t.check("neg", 1, |[a, ..]| -a);
    }
}

#[test]
fn sum_of_differences() {
    for t in INTS {
        t.check("sad", 3, |[a, b, c]| c + (a - b).abs());
    }
}

#[test]
fn carries() {
    let all = rows(INTEGERS, 500);
    // 128-bit sums and differences of (c:a) and (b:a) by halves, with the carry out of the top.
    let wide = |low: u64, high: u64| u128::from(high) << 64 | u128::from(low);
    for (op, subtract) in [("add", false), ("sub", true)] {
        let total = |[a, b, c]: [u64; 3]| {
            let (x, y) = (wide(a, b), wide(c, a));
            if subtract { x.overflowing_sub(y) } else { x.overflowing_add(y) }
        };
        let start = format!("{op}.cc.u64 %d, %a, %c;");
        check(&start, Out::B64, &all, |r| total(r).0 as u64);
        let next = format!("{start} {op}c.u64 %d, %b, %a;");
        check(&next, Out::B64, &all, |r| (total(r).0 >> 64) as u64);
        let last = format!("{start} {op}c.cc.u64 %d, %b, %a; mov.u64 %e, 0; addc.u64 %d, %e, %e;");
        if !subtract {
            check(&last, Out::B64, &all, |r| u64::from(total(r).1));
        }
        // The borrow of a subtraction: 0 - 0 - borrow is all ones.
        let last = format!("{start} {op}c.cc.u64 %d, %b, %a; mov.u64 %e, 0; subc.u64 %d, %e, %e;");
        if subtract {
            check(&last, Out::B64, &all, |r| if total(r).1 { u64::MAX } else { 0 });
        }
    }
    // 32 x 32 + 64 bits by mad.
    let product = "mov.b64 {%e32, %x32}, %c; mad.lo.cc.u32 %d32, %a32, %b32, %e32; \
                   madc.hi.u32 %x32, %a32, %b32, %x32; mov.b64 %d, {%d32, %x32};";
    check(product, Out::B64, &all, |[a, b, c]| {
        (a & 0xffff_ffff).wrapping_mul(b & 0xffff_ffff).wrapping_add(c)
    });
}

#[test]
fn packed() {
    let halves = |[a, b, _]: [u64; 3], f: fn(u16, u16) -> u16| {
        u64::from(f(a as u16, b as u16)) | u64::from(f((a >> 16) as u16, (b >> 16) as u16)) << 16
    };
    let all = rows(INTEGERS, 500);
    check("add.u16x2 %d32, %a32, %b32;", Out::B32, &all, |r| halves(r, u16::wrapping_add));
    check("min.u16x2 %d32, %a32, %b32;", Out::B32, &all, |r| halves(r, u16::min));
    check("max.u16x2 %d32, %a32, %b32;", Out::B32, &all, |r| halves(r, u16::max));
    check("min.s16x2 %d32, %a32, %b32;", Out::B32, &all, |r| {
        halves(r, |a, b| (a as i16).min(b as i16) as u16)
    });
    check("max.relu.s16x2 %d32, %a32, %b32;", Out::B32, &all, |r| {
        halves(r, |a, b| (a as i16).max(b as i16).max(0) as u16)
    });
    check("min.relu.s32 %d32, %a32, %b32;", Out::B32, &all, |[a, b, _]| {
        u64::from((a as i32).min(b as i32).max(0) as u32)
    });
}

#[test]
fn bit_counts() {
    let all = rows(INTEGERS, 500);
    check("popc.b32 %d32, %a32;", Out::B32, &all, |[a, ..]| u64::from((a as u32).count_ones()));
    check("popc.b64 %d32, %a;", Out::B32, &all, |[a, ..]| u64::from(a.count_ones()));
    check("clz.b32 %d32, %a32;", Out::B32, &all, |[a, ..]| u64::from((a as u32).leading_zeros()));
    check("clz.b64 %d32, %a;", Out::B32, &all, |[a, ..]| u64::from(a.leading_zeros()));
    check("brev.b32 %d32, %a32;", Out::B32, &all, |[a, ..]| u64::from((a as u32).reverse_bits()));
    check("brev.b64 %d, %a;", Out::B64, &all, |[a, ..]| a.reverse_bits());
    for t in &INTS[2..] {
        let top = |a: u64| {
            let v = t.value(a);
            let v = if v < 0 { !v } else { v };
            v.checked_ilog2()
        };
        check(&format!("bfind.{} %d32, {};", t.name, t.reg("a")), Out::B32, &all, |[a, ..]| {
            top(a).map_or(0xffff_ffff, u64::from)
        });
        check(&format!("bfind.shiftamt.{} %d32, {};", t.name, t.reg("a")), Out::B32, &all, |[a, ..]| {
            top(a).map_or(0xffff_ffff, |b| u64::from(t.bits - 1 - b))
        });
    }
}

#[test]
fn bit_fields() {
    let amounts = [0, 1, 2, 7, 8, 15, 16, 31, 32, 33, 48, 63, 64, 65, 200, 255, 256, 300];
    let mut all = Vec::new();
    for &pos in &amounts {
        for &len in &amounts {
            for a in [0x1234_5678_9abc_def0, u64::MAX, 0x8000_0000_8000_0001, 0x7fff_ffff_7fff_ffff] {
                all.push([a, pos, len]);
            }
        }
    }
    // Position and length above 255 are outside the definition; the 32-bit forms take their low byte.
    let in_range: Vec<_> = all.iter().copied().filter(|r| r[1] < 256 && r[2] < 256).collect();
    // The definition of the ISA, bit by bit.
    let extract = |bits: u32, signed: bool, [a, pos, len]: [u64; 3]| {
        let (msb, pos, len) = (u64::from(bits) - 1, pos & 0xff, len & 0xff);
        let sign = if !signed || len == 0 { 0 } else { a >> (pos + len - 1).min(msb) & 1 };
        (0..=msb).fold(0, |d, i| {
            let bit = if i < len && pos + i <= msb { a >> (pos + i) & 1 } else { sign };
            d | bit << i
        })
    };
    for t in &INTS[2..] {
        let body = format!("bfe.{} {}, {}, %b32, %c32;", t.name, t.reg("d"), t.reg("a"));
        let cases = if t.bits == 64 { &in_range } else { &all };
        check(&body, t.out(), cases, |r| extract(t.bits, t.signed, r));
    }
    let insert = |bits: u32, [a, pos, len]: [u64; 3]| {
        let (msb, pos, len) = (u64::from(bits) - 1, pos & 0xff, len & 0xff);
        let background = 0x0f1e_2d3c_4b5a_6978 & (u64::MAX >> (64 - bits));
        (0..len)
            .take_while(|i| pos + i <= msb)
            .fold(background, |d, i| d & !(1 << (pos + i)) | (a >> i & 1) << (pos + i))
    };
    check("bfi.b32 %d32, %a32, 0x4b5a6978, %b32, %c32;", Out::B32, &all, |r| insert(32, r));
    check("mov.b64 %e, 0x0f1e2d3c4b5a6978; bfi.b64 %d, %a, %e, %b32, %c32;", Out::B64, &in_range, |r| {
        insert(64, r)
    });
    check("szext.clamp.s32 %d32, %a32, %c32;", Out::B32, &all, |[a, _, n]| {
        extract(32, true, [a, 0, n.min(32)])
    });
    check("szext.wrap.u32 %d32, %a32, %c32;", Out::B32, &all, |[a, _, n]| extract(32, false, [a, 0, n & 31]));
    let ones = |a: u64, b: u64| (0..32).filter(|&i| i >= a && i < a + b).fold(0, |m, i| m | 1 << i);
    check("bmsk.clamp.b32 %d32, %b32, %c32;", Out::B32, &all, |[_, a, b]| ones(a.min(32), b.min(32)));
    check("bmsk.wrap.b32 %d32, %b32, %c32;", Out::B32, &all, |[_, a, b]| ones(a & 31, b & 31));
}

#[test]
fn nth_set_bit() {
    let all: Vec<_> = (0..200u64)
        .map(|i| [0x9e37_79b9u64.rotate_left(i as u32) & 0xffff_ffff, i % 33, (i % 21).wrapping_sub(10)])
        .collect();
    check("fns.b32 %d32, %a32, %b32, %c32;", Out::B32, &all, |[mask, base, offset]| {
        let offset = offset as i64;
        let set: Vec<u64> = match offset.signum() {
            0 => (base..base + 1).collect(),
            1 => (base..32).collect(),
            _ => (0..=base).rev().collect(),
        };
        let n = offset.unsigned_abs().max(1) as usize - 1;
        if base > 31 {
            return 0xffff_ffff;
        }
        set.into_iter().filter(|&i| mask >> i & 1 == 1).nth(n).unwrap_or(0xffff_ffff)
    });
}

#[test]
fn dot_products() {
    let all = rows(INTEGERS, 500);
    let byte = |signed: bool, w: u64, i: usize| {
        let b = (w >> (8 * i)) as u8;
        if signed { i64::from(b as i8) } else { i64::from(b) }
    };
    let name = |s: bool| if s { "s32" } else { "u32" };
    for (sa, sb) in [(false, false), (false, true), (true, false), (true, true)] {
        check(
            &format!("dp4a.{}.{} %d32, %a32, %b32, %c32;", name(sa), name(sb)),
            Out::B32,
            &all,
            |[a, b, c]| {
                let dot = (0..4).map(|i| byte(sa, a, i) * byte(sb, b, i)).sum::<i64>();
                (dot as u64).wrapping_add(c) & 0xffff_ffff
            },
        );
        for (mode, first) in [("lo", 0), ("hi", 2)] {
            let body = format!("dp2a.{mode}.{}.{} %d32, %a32, %b32, %c32;", name(sa), name(sb));
            check(&body, Out::B32, &all, |[a, b, c]| {
                let half = |i: usize| {
                    let h = (a >> (16 * i)) as u16;
                    if sa { i64::from(h as i16) } else { i64::from(h) }
                };
                let dot = (0..2).map(|i| half(i) * byte(sb, b, first + i)).sum::<i64>();
                (dot as u64).wrapping_add(c) & 0xffff_ffff
            });
        }
    }
}
