//! `wgmma`: operands and layouts against plain loops, and the hazards of its registers and groups.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Kernel, only, pattern, schedules, text};
use ptx_emulator::check::{Class, Finding, Mode};
use ptx_emulator::machine::{Argument, Schedule};

/// Offset of B in the image of shared memory.
const B_AT: usize = 16_384;
const IMAGE: usize = 49_152;

/// How an operand lies in shared memory.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Layout {
    /// Bytes of a row of the swizzle atom: 16 (none), 32, 64, 128.
    width: usize,
    mn_major: bool,
}

const fn k_major(width: usize) -> Layout {
    Layout { width, mn_major: false }
}

const fn mn_major(width: usize) -> Layout {
    Layout { width, mn_major: true }
}

impl Layout {
    /// Address of byte `b` along K of row `mn`, in an operand of `rows` rows, elements of `size` bytes.
    fn place(self, mn: usize, b: usize, rows: usize, size: usize) -> usize {
        let at = if self.mn_major {
            let (t, k) = (16 / size, b / size);
            let in_chunk = mn % t * size + b % size;
            if self.width == 16 {
                // Chunks of eight k: 128 bytes each, next to each other along MN.
                in_chunk + mn / t * 128 + k % 8 * 16 + k / 8 * (rows / t * 128)
            } else {
                let (w, atom) = (self.width / 16, self.width * 8);
                in_chunk + mn / t % w * 16 + k % 8 * self.width + k / 8 * atom + mn / (t * w) * 4 * atom
            }
        } else if self.width == 16 {
            mn / 8 * 256 + b / 16 * 128 + mn % 8 * 16 + b % 16
        } else {
            mn / 8 * 8 * self.width + mn % 8 * self.width + b
        };
        let mask = match self.width {
            32 => 0x10,
            64 => 0x30,
            128 => 0x70,
            _ => 0,
        };
        at ^ (at >> 3 & mask)
    }

    /// The descriptor without its address.
    fn descriptor(self, rows: usize, size: usize) -> u64 {
        let (lbo, sbo) = match (self.mn_major, self.width) {
            (false, 16) => (128, 256),
            (false, w) => (16, 8 * w),
            (true, 16) => (rows / (16 / size) * 128, 128),
            (true, w) => (4 * 8 * w, 8 * w),
        };
        let swizzle = match self.width {
            128 => 1u64,
            64 => 2,
            32 => 3,
            _ => 0,
        };
        swizzle << 62 | (sbo as u64 >> 4) << 32 | (lbo as u64 >> 4) << 16
    }
}

struct Case {
    ty: &'static str,
    size: usize,
    n: usize,
    a: Option<Layout>,
    b: Layout,
    negate: (i32, i32),
    /// Adds to 0.5 instead of starting at zero.
    accumulate: bool,
}

/// A small integer in the element type.
fn encode(ty: &str, v: i32) -> u32 {
    let f = v as f32;
    match ty {
        "bf16" => f.to_bits() >> 16,
        "f16" => {
            let bits = f.to_bits();
            if v == 0 {
                0
            } else {
                bits >> 16 & 0x8000 | ((bits >> 23 & 0xff) + 15 - 127) << 10 | bits >> 13 & 0x3ff
            }
        }
        _ => {
            let bits = f.to_bits();
            if v == 0 { 0 } else { bits >> 24 & 0x80 | ((bits >> 23 & 0xff) + 7 - 127) << 3 | bits >> 20 & 7 }
        }
    }
}

fn kernel_text(case: &Case) -> String {
    let k = 32 / case.size;
    let d: Vec<String> = (0..case.n / 2).map(|i| format!("%f{i}")).collect();
    let mut body = String::new();
    for f in &d {
        body += &format!("mov.f32 {f}, 0f3F000000;\n");
    }
    let a = match case.a {
        Some(_) => "%rd3".to_owned(),
        None => "{%r20,%r21,%r22,%r23}".to_owned(),
    };
    let transposes = match (case.size, case.a) {
        (1, _) => String::new(),
        (_, None) => format!(", {}", u8::from(case.b.mn_major)),
        (_, Some(a)) => format!(", {}, {}", u8::from(a.mn_major), u8::from(case.b.mn_major)),
    };
    body += &format!(
        "wgmma.fence.sync.aligned;\nsetp.ne.u32 %p1, {}, 0;\n\
         wgmma.mma_async.sync.aligned.m64n{}k{k}.f32.{ty}.{ty} {{{}}}, {a}, %rd4, %p1, {}, {}{transposes};\n\
         wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n",
        u8::from(case.accumulate),
        case.n,
        d.join(","),
        case.negate.0,
        case.negate.1,
        ty = case.ty,
    );
    for (i, f) in d.iter().enumerate() {
        body += &format!("st.global.f32 [%rd2+{}], {f};\n", 4 * i);
    }
    let desc_a = case.a.map_or(0, |a| a.descriptor(64, case.size));
    text_of(&body, desc_a, case.b.descriptor(case.n, case.size), case.n / 2)
}

/// Copies the image to shared memory, loads A fragments, makes the descriptors %rd3 (A), %rd4 (B); %rd2 is where the
/// thread stores its `words` results.
fn text_of(body: &str, desc_a: u64, desc_b: u64, words: usize) -> String {
    format!(
        ".version 8.0\n.target sm_90a\n.address_size 64\n.extern .shared .align 1024 .b8 smem[];\n\
         .visible .entry k(.param .u64 image, .param .u64 fragments, .param .u64 out)\n.reqntid 128\n{{\n\
         .reg .b32 %r<64>; .reg .b64 %rd<20>; .reg .pred %p<4>; .reg .f32 %f<256>;\n\
         mov.u32 %r1, %tid.x; mov.u32 %r2, smem; ld.param.u64 %rd1, [image]; ld.param.u64 %rd2, [out];\n\
         ld.param.u64 %rd9, [fragments]; mul.wide.u32 %rd10, %r1, 16; add.s64 %rd9, %rd9, %rd10;\n\
         ld.global.v4.b32 {{%r20,%r21,%r22,%r23}}, [%rd9];\n\
         add.s64 %rd1, %rd1, %rd10; cvt.u32.u64 %r3, %rd10; add.u32 %r3, %r3, %r2; mov.u32 %r4, 0;\n\
         fill: ld.global.v4.b32 {{%r5,%r6,%r7,%r8}}, [%rd1]; st.shared.v4.b32 [%r3], {{%r5,%r6,%r7,%r8}};\n\
         add.s64 %rd1, %rd1, 2048; add.u32 %r3, %r3, 2048; add.u32 %r4, %r4, 1;\n\
         setp.lt.u32 %p0, %r4, {}; @%p0 bra fill;\n\
         fence.proxy.async.shared::cta;\nbar.sync 0;\n\
         mul.wide.u32 %rd10, %r1, {}; add.s64 %rd2, %rd2, %rd10;\n\
         shr.u32 %r9, %r2, 4; cvt.u64.u32 %rd3, %r9; add.u64 %rd4, %rd3, {};\n\
         or.b64 %rd3, %rd3, {desc_a}; or.b64 %rd4, %rd4, {desc_b};\n{body}\nret;\n}}\n",
        IMAGE / 2048,
        4 * words,
        B_AT >> 4,
    )
}

fn start(
    source: &str,
    image: &[u8],
    fragments: &[u32],
    words: usize,
    schedule: Schedule,
    mode: Mode,
) -> (Kernel, u64, Vec<Finding>) {
    let mut k = Kernel::new(source, 128).schedule(schedule);
    k.checks.mode = mode;
    let arguments = [k.upload(image), k.upload_u32(fragments), k.allocate(128 * 4 * words)];
    let findings = k.run(&arguments.map(Argument::B64));
    (k, arguments[2], findings)
}

fn run(case: &Case, schedules: &[Schedule]) {
    let (k, size) = (32 / case.size, case.size);
    let random = pattern((64 + case.n) * k);
    let value = |i: usize| i32::from(random[i] % 9) - 4;
    let a = |row: usize, at: usize| value(row * k + at);
    let b = |column: usize, at: usize| value((64 + column) * k + at);
    let mut image = vec![0; IMAGE];
    let mut put = |base: usize, layout: Layout, rows: usize, f: &dyn Fn(usize, usize) -> i32| {
        for row in 0..rows {
            for at in 0..k {
                let bytes = encode(case.ty, f(row, at)).to_le_bytes();
                for (i, &byte) in bytes[..size].iter().enumerate() {
                    image[base + layout.place(row, at * size + i, rows, size)] = byte;
                }
            }
        }
    };
    if let Some(layout) = case.a {
        put(0, layout, 64, &a);
    }
    put(B_AT, case.b, case.n, &b);
    let mut fragments = vec![0u32; 512];
    let per = 4 / size;
    for (i, word) in fragments.iter_mut().enumerate() {
        let (thread, reg) = (i / 4, i % 4);
        let (warp, lane) = (thread / 32, thread % 32);
        for e in 0..per {
            let row = 16 * warp + lane / 4 + 8 * (reg % 2);
            let bits = encode(case.ty, a(row, per * (lane % 4) + e + 4 * per * (reg / 2)));
            *word |= bits << (8 * size * e);
        }
    }
    let source = kernel_text(case);
    for &schedule in schedules {
        let words = case.n / 2;
        let (kernel, out, found) = start(&source, &image, &fragments, words, schedule, Mode::StrictPtx);
        let name = format!("{} n{} a {:?} b {:?} {schedule:?}", case.ty, case.n, case.a, case.b);
        assert!(found.is_empty(), "{name}\n{}", text(&found));
        let got = kernel.u32s(out, 128 * words);
        for (at, &bits) in got.iter().enumerate() {
            let (thread, i) = (at / words, at % words);
            let (warp, lane) = (thread / 32, thread % 32);
            let (row, column) =
                (16 * warp + lane / 4 + 8 * (i / 2 % 2), 8 * (i / 4) + 2 * (lane % 4) + i % 2);
            let sum: i32 = (0..k).map(|x| a(row, x) * b(column, x)).sum();
            let want = (sum * case.negate.0 * case.negate.1) as f32 + if case.accumulate { 0.5 } else { 0.0 };
            assert_eq!(f32::from_bits(bits), want, "{name}: row {row}, column {column}");
        }
    }
}

const ONE: [Schedule; 1] = [Schedule::RoundRobin];

fn case(ty: &'static str, n: usize, a: Option<Layout>, b: Layout) -> Case {
    let size = if ty == "e4m3" { 1 } else { 2 };
    Case { ty, size, n, a, b, negate: (1, 1), accumulate: false }
}

#[test]
fn every_swizzle() {
    for ty in ["bf16", "f16", "e4m3"] {
        for width in [16, 32, 64, 128] {
            run(&case(ty, 64, Some(k_major(width)), k_major(width)), &ONE);
        }
        run(&case(ty, 256, Some(k_major(128)), k_major(128)), &ONE);
        run(&case(ty, 8, Some(k_major(128)), k_major(32)), &ONE);
    }
}

#[test]
fn register_operand() {
    for ty in ["bf16", "f16", "e4m3"] {
        run(&case(ty, 24, None, k_major(128)), &schedules());
    }
}

#[test]
fn transposed_operands() {
    for ty in ["bf16", "f16"] {
        for width in [16, 32, 64, 128] {
            run(&case(ty, 128, Some(k_major(128)), mn_major(width)), &ONE);
            run(&case(ty, 128, Some(mn_major(width)), k_major(64)), &ONE);
            run(&case(ty, 128, None, mn_major(width)), &ONE);
        }
    }
}

#[test]
fn negation_and_accumulation() {
    for negate in [(-1, 1), (1, -1), (-1, -1)] {
        let base = case("bf16", 32, Some(k_major(128)), k_major(128));
        run(&Case { negate, accumulate: true, ..base }, &schedules());
    }
}

const D: [&str; 2] = ["{%f0,%f1,%f2,%f3}", "{%f4,%f5,%f6,%f7}"];

/// An m64n8k16 wgmma into accumulator `d`, A from registers if `rs`.
fn mma(d: usize, rs: bool) -> String {
    let (a, trans) = if rs { ("{%r20,%r21,%r22,%r23}", "0") } else { ("%rd3", "0, 0") };
    format!("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {}, {a}, %rd4, 0, 1, 1, {trans};\n", D[d])
}

const FENCE: &str = "wgmma.fence.sync.aligned;\n";
const COMMIT: &str = "wgmma.commit_group.sync.aligned;\n";
const STORE: &str = "st.global.v4.f32 [%rd2], {%f0,%f1,%f2,%f3};\n";
const STORE_1: &str = "st.global.v4.f32 [%rd2], {%f4,%f5,%f6,%f7};\n";

fn wait(n: u32) -> String {
    format!("wgmma.wait_group.sync.aligned {n};\n")
}

fn hazards(body: &str, schedule: Schedule) -> Vec<Finding> {
    let layout = k_major(128);
    let source = text_of(body, layout.descriptor(64, 2), layout.descriptor(8, 2), 4);
    start(&source, &[0; IMAGE], &[0x3f80_3f80; 512], 4, schedule, Mode::StrictPtx).2
}

#[track_caller]
fn clean(body: &str) {
    for schedule in schedules() {
        let found = hazards(body, schedule);
        assert!(found.is_empty(), "{schedule:?}\n{}", text(&found));
    }
}

#[track_caller]
fn hazard(body: &str, class: Class, words: &str) {
    for schedule in schedules() {
        let found = hazards(body, schedule);
        assert!(only(&found, class).message.contains(words), "{schedule:?}\n{}", text(&found));
    }
}

#[test]
fn groups() {
    let two = format!("{FENCE}{}{COMMIT}{}{COMMIT}", mma(0, false), mma(1, false));
    clean(&format!("{two}{}{STORE}{}{STORE_1}", wait(1), wait(0)));
    hazard(&format!("{two}{}{STORE_1}{}", wait(1), wait(0)), Class::Wgmma, "before a wgmma.wait_group");
    hazard(&format!("{two}{STORE}{}", wait(0)), Class::Wgmma, "before a wgmma.wait_group");
    // Never committed: no wait covers it.
    hazard(&format!("{FENCE}{}{}{STORE}", mma(0, false), wait(0)), Class::Wgmma, "before a wgmma.wait_group");
}

/// Compilers use accumulators without a wait, and ptxas inserts one: clean, with the right words, in the second mode.
#[test]
fn waits_that_are_not_written() {
    let layout = k_major(128);
    let image = [0x80, 0x3f].repeat(IMAGE / 2);
    let words = |body: &str, schedule: Schedule, mode: Mode| {
        let source = text_of(body, layout.descriptor(64, 2), layout.descriptor(8, 2), 4);
        let (k, out, found) = start(&source, &image, &[0x3f80_3f80; 512], 4, schedule, mode);
        (k.u32s(out, 512), found)
    };
    let (one, two) = (mma(0, true), mma(1, true));
    let add =
        "add.f32 %f4, %f0, %f0;\nadd.f32 %f5, %f1, %f1;\nadd.f32 %f6, %f2, %f2;\nadd.f32 %f7, %f3, %f3;\n";
    let set = "mov.f32 %f2, 0f42800000;\n";
    for (body, expected) in [
        // Read after the commit, before it, and by arithmetic.
        (format!("{FENCE}{one}{COMMIT}{STORE}{}", wait(0)), [16.0f32; 4]),
        (format!("{FENCE}{one}{STORE}{COMMIT}{}", wait(0)), [16.0; 4]),
        (format!("{FENCE}{one}{add}{COMMIT}{}{STORE_1}", wait(0)), [32.0; 4]),
        // The second of two groups; the first of two in one group.
        (format!("{FENCE}{one}{COMMIT}{two}{COMMIT}{STORE_1}{}", wait(0)), [16.0; 4]),
        (format!("{FENCE}{one}{two}{STORE}{COMMIT}{}", wait(0)), [16.0; 4]),
        // Written: the wgmma has written before.
        (format!("{FENCE}{one}{COMMIT}{set}{STORE}{}", wait(0)), [16.0, 16.0, 64.0, 16.0]),
    ] {
        for schedule in schedules() {
            let (got, found) = words(&body, schedule, Mode::CutlassCompatible);
            assert!(found.is_empty(), "{schedule:?}\n{body}{}", text(&found));
            assert!(
                got.chunks_exact(4).all(|w| w == expected.map(f32::to_bits)),
                "{schedule:?}\n{body}{:?}",
                &got[..4]
            );
            let (_, found) = words(&body, schedule, Mode::StrictPtx);
            only(&found, Class::Wgmma);
        }
    }
    // What no instruction uses is not waited for: an operand overwritten in flight stays a race.
    let overwrite = "st.shared.b32 [%r2+16384], %r1;\n";
    let body = format!("{FENCE}{}{COMMIT}{overwrite}{}{STORE}", mma(0, false), wait(0));
    for schedule in schedules() {
        let (_, found) = words(&body, schedule, Mode::CutlassCompatible);
        assert!(found.iter().any(|f| f.class == Class::Race), "{schedule:?}\n{}", text(&found));
    }
}

#[test]
fn registers() {
    hazard(&format!("{}{COMMIT}{}{STORE}", mma(0, false), wait(0)), Class::Wgmma, "no wgmma.fence");
    let late = "mov.b32 %r20, 1073758208;\n";
    hazard(
        &format!("{FENCE}{late}{}{COMMIT}{}{STORE}", mma(0, true), wait(0)),
        Class::Wgmma,
        "since the last",
    );
    clean(&format!("{late}{FENCE}{}{COMMIT}{}{STORE}", mma(0, true), wait(0)));
    hazard(&format!("{FENCE}{}{COMMIT}{late}{}{STORE}", mma(0, true), wait(0)), Class::Wgmma, "operand A");
    // A write counts whatever it writes, here the value that is there already.
    let same = "mov.b32 %r20, %r20;\n";
    hazard(
        &format!("{late}{FENCE}{same}{}{COMMIT}{}{STORE}", mma(0, true), wait(0)),
        Class::Wgmma,
        "since the last",
    );
    let issued = format!("{late}{FENCE}{}{COMMIT}", mma(0, true));
    hazard(&format!("{issued}{same}{}{STORE}", wait(0)), Class::Wgmma, "operand A");
    hazard(&format!("{issued}{same}{FENCE}{}{STORE}", wait(0)), Class::Wgmma, "operand A");
    clean(&format!("{issued}{}{same}{STORE}", wait(0)));
    hazard(
        &format!("{issued}{}mov.f32 %f2, %f2;\n{}{COMMIT}{}{STORE}", wait(0), mma(0, true), wait(0)),
        Class::Wgmma,
        "since the last",
    );
    let write = "mov.f32 %f2, 0f3F800000;\n";
    hazard(
        &format!("{FENCE}{}{COMMIT}{write}{}{STORE}", mma(0, true), wait(0)),
        Class::Wgmma,
        "accumulator was",
    );
    hazard(
        &format!("{FENCE}{}{write}{}{COMMIT}{}{STORE}", mma(0, true), mma(0, true), wait(0)),
        Class::Wgmma,
        "accum",
    );
    // Back to back, and again after a wait, without another fence: wgmma itself wrote the accumulators.
    let twice = format!("{}{}{COMMIT}{}{}", mma(0, true), mma(0, true), wait(0), mma(0, true));
    clean(&format!("{FENCE}{twice}{COMMIT}{}{STORE}", wait(0)));
}

#[test]
fn shared_operands() {
    let overwrite = "st.shared.b32 [%r2+16384], %r1;\n";
    for schedule in schedules() {
        let body = format!("{FENCE}{}{COMMIT}{overwrite}{}{STORE}", mma(0, false), wait(0));
        let found = hazards(&body, schedule);
        assert!(found.iter().any(|f| f.class == Class::Race), "{schedule:?}\n{}", text(&found));
        // Written again behind the fence of the preamble.
        let body = format!(
            "st.shared.b32 [%r3+-2048], %r5;\nbar.sync 0;\n{FENCE}{}{COMMIT}{}{STORE}",
            mma(0, false),
            wait(0)
        );
        let body = body.replace("[%r3+-2048]", "[%r50]");
        let body = format!("shl.b32 %r50, %r1, 2; add.u32 %r50, %r50, %r2;\n{body}");
        let found = hazards(&body, schedule);
        only(&found, Class::ProxyRace);
    }
}
