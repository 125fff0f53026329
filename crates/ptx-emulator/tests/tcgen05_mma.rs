//! `tcgen05.mma`: every kind, operand place, layout and shape against plain sums.
#![allow(clippy::unwrap_used)]

mod common;

use common::tcgen05::{COMMIT, WAIT, clean, descriptor, dump, list, program};
use common::{pattern, schedules};
use ptx_emulator::machine::Schedule;

/// An operand type: code in the instruction descriptor, exponent bits, fraction bits, bias; integers have none.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Type {
    code: u32,
    exponent: u32,
    fraction: u32,
    bias: i32,
    /// Bits in shared memory.
    bits: usize,
}

const fn float(code: u32, exponent: u32, fraction: u32, bias: i32, bits: usize) -> Type {
    Type { code, exponent, fraction, bias, bits }
}

const F16: Type = float(0, 5, 10, 15, 16);
const BF16: Type = float(1, 8, 7, 127, 16);
const TF32: Type = float(2, 8, 23, 127, 32);
const E4M3: Type = float(0, 4, 3, 7, 8);
const E5M2: Type = float(1, 5, 2, 15, 8);
const E2M3: Type = float(3, 2, 3, 1, 6);
const E3M2: Type = float(4, 3, 2, 3, 6);
const E2M1: Type = float(5, 2, 1, 1, 4);
const U8: Type = float(0, 0, 0, 0, 8);
const S8: Type = float(1, 0, 0, 0, 8);

impl Type {
    fn value(self, code: u32) -> f64 {
        if self.exponent == 0 {
            return if self == S8 { f64::from(code as i8) } else { f64::from(code) };
        }
        let fraction = f64::from(code & ((1 << self.fraction) - 1)) / f64::from(1 << self.fraction);
        let exponent = (code >> self.fraction & ((1 << self.exponent) - 1)) as i32;
        let magnitude = match exponent {
            0 => fraction * 2f64.powi(1 - self.bias),
            e => (1.0 + fraction) * 2f64.powi(e - self.bias),
        };
        if code >> (self.fraction + self.exponent) & 1 == 1 { -magnitude } else { magnitude }
    }

    /// A code from a random byte: multiples of 1/4 up to 4, so that every sum is exact, also in binary16.
    fn code(self, random: u8) -> u32 {
        if self.exponent == 0 {
            return u32::from(random);
        }
        let (mantissa, shift) = (u32::from(random >> 2 & 3), u32::from(random >> 4 & 1));
        // 1 to 1.75 times 1 or 2; types with one bit of fraction have 1 and 1.5 only.
        let fraction = if self.fraction == 1 { mantissa >> 1 } else { mantissa << (self.fraction - 2) };
        let sign = u32::from(random & 1) << (self.fraction + self.exponent);
        if random >> 5 == 0 {
            return sign;
        }
        sign | (self.bias as u32 + shift) << self.fraction | fraction
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    /// Shared memory, K-major, 128-byte swizzle.
    KMajor,
    /// Shared memory, MN-major, in swizzle atoms of that many bytes (16: none).
    MnMajor(usize),
    /// Tensor memory (A only).
    Tensor,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    kind: &'static str,
    a: (Type, Place),
    b: (Type, Place),
    m: usize,
    n: usize,
    group: usize,
    ws: bool,
    /// Type of D in the instruction descriptor: f16, f32, s32.
    d: u32,
    /// Further bits of the instruction descriptor.
    bits: u32,
    /// Lanes not written.
    mask: Option<[u32; 8]>,
    scale_d: Option<u32>,
}

const F16_CASE: Case = Case {
    kind: "f16",
    a: (BF16, Place::KMajor),
    b: (BF16, Place::KMajor),
    m: 128,
    n: 32,
    group: 1,
    ws: false,
    d: 1,
    bits: 0,
    mask: None,
    scale_d: None,
};

/// Bytes of an operand in shared memory at most.
const OPERAND: usize = 32_768;
/// Words per lane that are stored to tensor memory: A, scales of A, scales of B.
const TABLE: usize = 8 + 4 + 8;
const IMAGE: usize = 2 * OPERAND + 128 * TABLE * 4 + 2048 - 128 * TABLE * 4 % 2048;
/// What D's columns hold before.
const BEFORE: u32 = 0x3f80_0000;

/// Byte of element (row, k) of an operand in shared memory, and the bit in it; `rows` by `k` elements.
fn at(ty: Type, place: Place, row: usize, k: usize) -> (usize, usize) {
    match place {
        Place::KMajor => {
            // 16 elements of 4 or 6 bits lie packed in 16 bytes, padding behind.
            let bit = if ty.bits < 8 { k / 16 * 128 + k % 16 * ty.bits } else { k * ty.bits };
            let byte = bit / 8;
            (row * 128 + ((byte / 16) ^ (row % 8)) * 16 + byte % 16, bit % 8)
        }
        Place::MnMajor(16) => {
            let byte = row * ty.bits / 8;
            // 16 bytes along MN, eight of them along K; then MN, then K.
            (byte / 16 * 128 + k / 8 * 8192 + k % 8 * 16 + byte % 16, 0)
        }
        Place::MnMajor(width) => {
            let byte = row * ty.bits / 8;
            let (atom, inside) = (byte / width, byte % width);
            if ty == TF32 {
                // 32-byte pieces change places, four rows to a pattern.
                return (
                    atom * 1024 + k / 4 * 512 + k % 4 * 128 + ((inside / 32) ^ (k % 4)) * 32 + inside % 32,
                    0,
                );
            }
            let line = atom * 8 * width * 4 + k / 8 * 8 * width + k % 8 * width;
            // The pattern repeats every 8 lines of 128 bytes; 16-byte pieces change places.
            let address = line + inside;
            (address ^ (address >> 7 & (width / 16 - 1)) << 4, 0)
        }
        Place::Tensor => unreachable!("not in shared memory"),
    }
}

/// Descriptor of an operand, without its address.
fn describe(ty: Type, place: Place) -> u64 {
    match place {
        Place::KMajor => descriptor(16, 1024, 2),
        Place::MnMajor(16) => descriptor(8192, 128, 0),
        Place::MnMajor(_) if ty == TF32 => descriptor(1024, 512, 1),
        Place::MnMajor(width) => {
            let swizzle = if width == 128 { 2 } else { 8 - width as u64 / 16 };
            descriptor(32 * width as u64, 8 * width as u64, if width == 32 { 6 } else { swizzle })
        }
        Place::Tensor => 0,
    }
}

/// CTA, lane and column of `D[m][n]`: the layouts of the ISA's table, one after the other.
fn position(c: &Case, m: usize, n: usize) -> (usize, usize, usize) {
    if c.group == 2 && c.m == 256 {
        (m / 128, m % 128, n)
    } else if c.group == 2 {
        if n < c.n / 2 { (m / 64, m % 64, n) } else { (m / 64, m % 64 + 64, n - c.n / 2) }
    } else if c.ws && c.m == 64 {
        if n < c.n / 2 { (0, m, n) } else { (0, m + 64, n - c.n / 2) }
    } else if c.m == 32 {
        (0, m + n / (c.n / 4) * 32, n % (c.n / 4))
    } else if c.m == 64 {
        (0, m / 16 * 32 + m % 16, n)
    } else {
        (0, m, n)
    }
}

/// Runs `A * B`, then `A * B + D`, and compares all of D's columns on all lanes.
fn check(c: Case, schedule: Schedule) {
    let scaled = c.kind.starts_with("mx");
    let k = if c.a.0.bits < 8 { 32 } else { 256 / c.a.0.bits };
    let (random_a, random_b) = (pattern(c.m * k), pattern(c.n * k + 7));
    let code_a = |m: usize, k0: usize| c.a.0.code(random_a[m * k + k0]);
    let code_b = |n: usize, k0: usize| c.b.0.code(random_b[n * k + k0 + 7]);
    // Scales 1, 2, 4 at byte 1 of A's cells and byte 2 of B's.
    let scale_a = |m: usize| if scaled { (m % 3) as u32 } else { 0 };
    let scale_b = |n: usize| if scaled { (n * 7 % 3) as u32 } else { 0 };
    let rows = c.m / c.group;
    let mut image = vec![0; IMAGE * c.group];
    for (cta, image) in image.chunks_exact_mut(IMAGE).enumerate() {
        let mut put = |base: usize, ty: Type, place: Place, row: usize, k0: usize, code: u32| {
            let (byte, bit) = at(ty, place, row, k0);
            let bytes = ((bit + ty.bits).div_ceil(8)).max(1);
            assert!(byte + bytes <= OPERAND);
            for (i, b) in (code << bit).to_le_bytes()[..bytes].iter().enumerate() {
                image[base + byte + i] |= b;
            }
        };
        for k0 in 0..k {
            for m in 0..rows {
                if c.a.1 != Place::Tensor {
                    put(0, c.a.0, c.a.1, m, k0, code_a(cta * rows + m, k0));
                }
            }
            for n in 0..c.n / c.group {
                put(OPERAND, c.b.0, c.b.1, n, k0, code_b(cta * c.n / c.group + n, k0));
            }
        }
        let mut cell = |lane: usize, byte: usize, value: u32, bytes: usize| {
            let to = 2 * OPERAND + lane * TABLE * 4 + byte;
            image[to..to + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
        };
        for m in 0..rows {
            let bytes = c.a.0.bits.div_ceil(8);
            for k0 in 0..k {
                let code = code_a(cta * rows + m, k0);
                if c.group == 1 && c.m == 64 {
                    cell(m / 16 * 32 + m % 16, k0 * bytes, code, bytes);
                } else {
                    cell(m, k0 * bytes, code, bytes);
                    if rows == 64 {
                        cell(m + 64, k0 * bytes, code, bytes);
                    }
                }
            }
            for p in 0..4 {
                cell(m % 32 + 32 * p, 32 + m / 32 * 4 + 1, 127 + scale_a(cta * rows + m), 1);
            }
        }
        for n in 0..c.n {
            for p in 0..4 {
                if c.group == 2 && c.m == 128 {
                    let half = n / (c.n / 2);
                    if p / 2 == half {
                        cell(n % 32 + 32 * p, 48 + n % (c.n / 2) / 32 * 4 + 2, 127 + scale_b(n), 1);
                    }
                } else {
                    cell(n % 32 + 32 * p, 48 + n / 32 * 4 + 2, 127 + scale_b(n), 1);
                }
            }
        }
    }
    let major = |p: Place| u32::from(matches!(p, Place::MnMajor(_)));
    let mut idesc = c.a.0.code << 7 | c.b.0.code << 10 | major(c.a.1) << 15 | major(c.b.1) << 16 | c.bits;
    idesc |= (c.n as u32 / 8) << 17;
    idesc |= if scaled {
        2 << 4 | 1 << 23 | (c.m as u32 / 128) << 27 | 1 << 29
    } else {
        c.d << 4 | (c.m as u32 / 16) << 24
    };
    let columns = (0..c.n).map(|n| position(&c, 0, n).2).max().unwrap() + 1;
    let group = c.group;
    let mut body = format!(
        "ld.param.u64 %rd20, [image]; mul.lo.u32 %r42, %r40, {IMAGE}; cvt.u64.u32 %rd21, %r42;\n\
         add.s64 %rd20, %rd20, %rd21; mul.wide.u32 %rd21, %r1, {}; add.s64 %rd20, %rd20, %rd21;\n",
        TABLE * 4
    );
    for i in 0..TABLE {
        body += &format!("ld.global.b32 %x{i}, [%rd20+{}];\n", 2 * OPERAND + 4 * i);
    }
    let registers = |from: usize, n: usize| {
        let names: Vec<String> = (from..from + n).map(|i| format!("%x{i}")).collect();
        format!("{{{}}}", names.join(","))
    };
    for (from, n, column) in [(0, 8, 256), (8, 4, 272), (12, 8, 288)] {
        body += &format!(
            "add.u32 %r13, %r11, {column};\ntcgen05.st.sync.aligned.32x32b.x{n}.b32 [%r13], {};\n",
            registers(from, n)
        );
    }
    for i in 0..columns.min(32) {
        body += &format!("mov.b32 %x{i}, {BEFORE};\n");
    }
    for column in (0..columns).step_by(32) {
        let n = 32.min(columns - column);
        body += &format!("add.u32 %r13, %r11, {column};\n");
        for (i, bit) in (0..6).map(|b| (b, 1usize << b)).filter(|(_, bit)| n & bit != 0) {
            let before = n & (bit - 1);
            body += &format!(
                "add.u32 %r14, %r13, {before}; tcgen05.st.sync.aligned.32x32b.x{}.b32 [%r14], {};\n",
                1 << i,
                list(bit)
            );
        }
    }
    let cluster =
        if group == 2 { "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;\n" } else { "" };
    body += &format!(
        "tcgen05.wait::st.sync.aligned; tcgen05.fence::before_thread_sync;\nbar.sync 0;\n{cluster}\
         tcgen05.fence::after_thread_sync;\nor.b64 %rd6, %rd5, {};\nor.b64 %rd7, %rd5, {};\n\
         add.u64 %rd7, %rd7, {};\nmov.u32 %r20, {idesc};\nadd.u32 %r24, %r10, 256; add.u32 %r21, %r10, 272;\n\
         add.u32 %r22, %r10, 288;\nsetp.ne.u32 %p4, %r1, %r1;\nsetp.ne.u32 %p6, %r40, 0;\n",
        describe(c.a.0, c.a.1),
        describe(c.b.0, c.b.1),
        OPERAND / 16,
    );
    let mut operands =
        format!("[%r10], {}, %rd7, %r20, ", if c.a.1 == Place::Tensor { "[%r24]" } else { "%rd6" });
    if scaled {
        operands += "[%r21], [%r22], ";
    }
    if let Some(mask) = c.mask {
        let n = 4 * group;
        for (i, word) in mask[..n].iter().enumerate() {
            body += &format!("mov.b32 %r{}, {word};\n", 50 + i);
        }
        let names: Vec<String> = (0..n).map(|i| format!("%r{}", 50 + i)).collect();
        operands += &format!("{{{}}}, ", names.join(","));
    }
    operands += "%p4";
    if let Some(by) = c.scale_d {
        operands += &format!(", {by}");
    }
    let (ws, scale) = (if c.ws { ".ws" } else { "" }, if scaled { ".block_scale.scale_vec::1X" } else { "" });
    let mma = format!("tcgen05.mma{ws}.cta_group::{group}.kind::{}{scale} {operands};\n", c.kind);
    let commit = if group == 2 {
        "mov.b16 %h1, 3;\ntcgen05.commit.cta_group::2.mbarrier::arrive::one.shared::cluster.multicast::cluster.b64 [%r2], %h1;\n"
    } else {
        COMMIT
    };
    body += &format!("@!%p2 bra W;\n@%p6 bra W;\n{mma}setp.eq.u32 %p4, %r1, %r1;\n{mma}{commit}{WAIT}");
    for column in (0..columns).step_by(8) {
        body += &dump(column, 8);
        body += "add.s64 %rd2, %rd2, 32;\n";
    }
    let ctas = group as u32;
    let got = clean(&program(ctas, IMAGE, columns, &body), ctas, &image, columns, schedule);
    let mut expected = vec![BEFORE; 128 * group * columns];
    for m in 0..c.m {
        for n in 0..c.n {
            let (cta, lane, column) = position(&c, m, n);
            if c.mask.is_some_and(|mask| mask[cta * 4 + lane / 32] >> (lane % 32) & 1 == 1) {
                continue;
            }
            let sum: f64 = (0..k).map(|k0| c.a.0.value(code_a(m, k0)) * c.b.0.value(code_b(n, k0))).sum();
            let sum = sum * f64::from(1 << (scale_a(m) + scale_b(n)));
            let sum = if (c.bits >> 13 ^ c.bits >> 14) & 1 == 1 { -sum } else { sum };
            // A sum of zero is +0.
            let total = sum + sum / f64::from(1 << c.scale_d.unwrap_or(0)) + 0.0;
            expected[(cta * 128 + lane) * columns + column] = match (scaled, c.d) {
                (false, 0) => half(total),
                (false, 2) => total as i32 as u32,
                _ => (total as f32).to_bits(),
            };
        }
    }
    for (i, (got, want)) in got.iter().zip(&expected).enumerate() {
        let (lane, column) = (i / columns, i % columns);
        assert_eq!(got, want, "{c:?} {schedule:?}: lane {lane}, column {column}: {got:#x}, {want:#x}");
    }
}

/// The nearest binary16 value of an f32 value in the normal range, or zero.
fn half(x: f64) -> u32 {
    let bits = (x as f32).to_bits();
    if x == 0.0 {
        return 0;
    }
    let magnitude = (bits & 0x7fff_ffff) + 0xfff + (bits >> 13 & 1);
    bits >> 16 & 0x8000 | ((magnitude >> 13) - (112 << 10))
}

fn checks(cases: impl IntoIterator<Item = Case>) {
    cases.into_iter().for_each(|c| check(c, Schedule::AsyncLate));
}

#[test]
fn kinds() {
    let narrow = [E4M3, E5M2, E2M3, E3M2, E2M1];
    let place = Place::KMajor;
    checks([F16, BF16].map(|t| Case { a: (t, place), b: (t, place), ..F16_CASE }));
    checks([Case { kind: "tf32", a: (TF32, place), b: (TF32, place), ..F16_CASE }]);
    for kind in ["f8f6f4", "mxf8f6f4"] {
        for (i, &a) in narrow.iter().enumerate() {
            let b = narrow[(i + 2) % 5];
            checks([Case { kind, a: (a, place), b: (b, place), ..F16_CASE }]);
        }
    }
    for (a, b) in [(U8, U8), (S8, S8), (U8, S8), (S8, U8)] {
        checks([Case { kind: "i8", a: (a, place), b: (b, place), d: 2, ..F16_CASE }]);
    }
}

#[test]
fn shapes() {
    for (m, n) in [(64, 8), (64, 72), (128, 8), (128, 24), (128, 56), (128, 256)] {
        checks([Case { m, n, ..F16_CASE }]);
    }
    let e4m3 = (E4M3, Place::KMajor);
    for (m, n) in [(128, 8), (128, 40)] {
        checks([Case { kind: "mxf8f6f4", a: e4m3, b: e4m3, m, n, ..F16_CASE }]);
    }
    for (m, n) in [(128, 32), (128, 96), (256, 48)] {
        let case = Case { m, n, group: 2, ..F16_CASE };
        checks([case, Case { kind: "f8f6f4", a: e4m3, b: e4m3, ..case }]);
    }
    for (m, n) in [(128, 64), (256, 64)] {
        checks([Case { kind: "mxf8f6f4", a: e4m3, b: e4m3, m, n, group: 2, ..F16_CASE }]);
    }
    let s8 = (S8, Place::KMajor);
    checks([Case { kind: "i8", a: s8, b: s8, d: 2, m: 128, n: 64, group: 2, ..F16_CASE }]);
}

#[test]
fn weight_stationary() {
    let place = Place::KMajor;
    for m in [32, 64, 128] {
        for n in [64, 128] {
            let case = Case { m, n, ws: true, ..F16_CASE };
            let s8 = (S8, place);
            checks([case, Case { kind: "i8", a: s8, b: s8, d: 2, ..case }]);
            checks([Case { kind: "f8f6f4", a: (E2M1, place), b: (E3M2, place), d: 0, ..case }]);
        }
    }
    checks([Case { a: (BF16, Place::Tensor), n: 64, ws: true, bits: 2 << 30, ..F16_CASE }]);
}

#[test]
fn transposed() {
    for width in [16, 32, 64, 128] {
        let t = Place::MnMajor(width);
        for (ta, tb) in [(t, Place::KMajor), (Place::KMajor, t), (t, t)] {
            checks([Case { a: (BF16, ta), b: (BF16, tb), n: 64, ..F16_CASE }]);
            checks([Case { kind: "f8f6f4", a: (E4M3, ta), b: (E5M2, tb), n: 64, ..F16_CASE }]);
            checks([Case { kind: "i8", a: (U8, ta), b: (S8, tb), n: 64, d: 2, ..F16_CASE }]);
        }
    }
    let t = Place::MnMajor(128);
    checks([Case { kind: "tf32", a: (TF32, t), b: (TF32, t), n: 64, ..F16_CASE }]);
    checks([Case { a: (F16, t), b: (F16, t), n: 128, m: 256, group: 2, ..F16_CASE }]);
}

#[test]
fn tensor_operand() {
    for (m, group) in [(64, 1), (128, 1), (128, 2), (256, 2)] {
        let case = Case { m, group, a: (BF16, Place::Tensor), ..F16_CASE };
        let (tf32, e2m1) = ((TF32, Place::Tensor), (E2M1, Place::Tensor));
        checks([case, Case { kind: "tf32", a: tf32, b: (TF32, Place::KMajor), ..case }]);
        checks([Case { kind: "f8f6f4", a: e2m1, b: (E4M3, Place::KMajor), ..case }]);
        checks([Case { kind: "i8", a: (S8, Place::Tensor), b: (U8, Place::KMajor), d: 2, ..case }]);
    }
    checks([Case { kind: "mxf8f6f4", a: (E3M2, Place::Tensor), b: (E5M2, Place::KMajor), ..F16_CASE }]);
}

#[test]
fn half_accumulators() {
    let f16 = (F16, Place::KMajor);
    for (m, group) in [(64, 1), (128, 1), (128, 2)] {
        let case = Case { a: f16, b: f16, d: 0, m, group, ..F16_CASE };
        let e5m2 = (E5M2, Place::KMajor);
        checks([case, Case { kind: "f8f6f4", a: e5m2, b: e5m2, ..case }]);
    }
}

#[test]
fn negated() {
    for bits in [1 << 13, 1 << 14, 3 << 13] {
        let e2m3 = (E2M3, Place::KMajor);
        checks([Case { bits, ..F16_CASE }, Case { kind: "mxf8f6f4", a: e2m3, b: e2m3, bits, ..F16_CASE }]);
    }
}

#[test]
fn lanes_and_scaled_addend() {
    let mask = Some([0x8000_0001, 0, 0xffff_ffff, 0x00ff_00ff, 1, 2, 4, 8]);
    for (m, group) in [(64, 1), (128, 1), (128, 2), (256, 2)] {
        let case = Case { mask, m, group, ..F16_CASE };
        let s8 = (S8, Place::KMajor);
        checks([case, Case { kind: "i8", a: s8, b: s8, d: 2, ..case }]);
        checks([Case { scale_d: Some(3), ..case }]);
    }
    let f16 = (F16, Place::KMajor);
    checks([Case { a: f16, b: f16, d: 0, scale_d: Some(1), ..F16_CASE }]);
    checks([Case { kind: "tf32", a: (TF32, f16.1), b: (TF32, f16.1), scale_d: Some(4), ..F16_CASE }]);
}

#[test]
fn every_schedule() {
    for schedule in schedules() {
        check(Case { m: 128, n: 64, group: 2, a: (BF16, Place::Tensor), ..F16_CASE }, schedule);
    }
}
