//! Atomic operations and reductions: every operation and type, on every memory, from many threads.

mod common;

use common::{Kernel, entry, only, text};
use ptx_emulator::check::Class;
use ptx_emulator::machine::Argument;

const PARAMS: &str = ".param .u64 cell, .param .u64 out";

/// Runs `body` in one thread with %rd0 = cell, %rd1 = out; returns the cell (16 bytes) and the output (16 bytes).
fn one(body: &str, cell: [u64; 2]) -> ([u64; 2], [u64; 2]) {
    let prologue = "ld.param.u64 %rd0, [cell]; ld.param.u64 %rd1, [out];\n";
    let mut kernel = Kernel::new(&entry(PARAMS, &format!("{prologue}{body}")), 1);
    let cell = kernel.upload(&cell.map(u64::to_le_bytes).concat());
    let out = kernel.upload(&[0; 16]);
    kernel.run_clean(&[cell, out]);
    let read = |at: u64| {
        let bytes = kernel.bytes(at, 16);
        [0, 8].map(|i| u64::from_le_bytes(bytes[i..i + 8].try_into().unwrap()))
    };
    (read(cell), read(out))
}

/// Checks a 32-bit operation on global and shared memory: `(cell, b) -> new`.
#[track_caller]
fn check32(op: &str, cell: u32, b: u32, new: u32) {
    let body = format!("mov.b32 %r1, {b:#x}; atom.global.{op} %r2, [%rd0], %r1; st.global.u32 [%rd1], %r2;");
    let (after, out) = one(&body, [cell.into(), 0]);
    assert_eq!((after[0] as u32, out[0] as u32), (new, cell), "{op} {cell:#x} {b:#x}");
    let body = format!(
        "mov.u32 %r3, smem; ld.global.u32 %r4, [%rd0]; st.shared.u32 [%r3], %r4; mov.b32 %r1, {b:#x};\n\
         atom.shared.{op} %r2, [%r3], %r1; ld.shared.u32 %r5, [%r3]; st.global.v2.u32 [%rd1], {{%r2, %r5}};"
    );
    let (_, out) = one(&body, [cell.into(), 0]);
    assert_eq!(out[0], u64::from(cell) | u64::from(new) << 32, "shared {op} {cell:#x} {b:#x}");
}

#[test]
fn integer_operations() {
    check32("add.u32", 0xffff_fff0, 0x20, 0x10);
    check32("add.s32", 5, u32::MAX, 4);
    check32("min.u32", 5, 0xffff_ffff, 5);
    check32("min.s32", 5, 0xffff_ffff, 0xffff_ffff);
    check32("max.u32", 5, 0xffff_ffff, 0xffff_ffff);
    check32("max.s32", 5, 0xffff_ffff, 5);
    check32("and.b32", 0xff0f, 0x0ff0, 0x0f00);
    check32("or.b32", 0xf000, 0x000f, 0xf00f);
    check32("xor.b32", 0xff, 0x0f, 0xf0);
    check32("exch.b32", 1, 2, 2);
    for (cell, b, new) in [(3, 5, 4), (5, 5, 0), (9, 5, 0), (0, 0, 0)] {
        check32("inc.u32", cell, b, new);
    }
    for (cell, b, new) in [(3, 5, 2), (0, 5, 5), (9, 5, 5), (5, 5, 4)] {
        check32("dec.u32", cell, b, new);
    }
    let wide = |op: &str, cell: u64, b: u64| {
        let body = format!("mov.b64 %rd2, {b:#x}; atom.{op} %rd3, [%rd0], %rd2; st.global.u64 [%rd1], %rd3;");
        let (after, out) = one(&body, [cell, 0]);
        assert_eq!(out[0], cell);
        after[0]
    };
    assert_eq!(wide("add.u64", u64::MAX, 3), 2);
    assert_eq!(wide("min.s64", 3, u64::MAX), u64::MAX);
    assert_eq!(wide("max.u64", 3, u64::MAX), u64::MAX);
    assert_eq!(wide("exch.b64", 3, 9), 9);
    assert_eq!(wide("relaxed.sys.global.xor.b64", 3, 1 << 63), 1 << 63 | 3);
    assert_eq!(wide("acq_rel.gpu.global.or.b64", 3, 8), 11);
}

#[test]
fn compare_and_swap() {
    let body = |old: u32| {
        format!(
            "mov.u32 %r1, {old}; mov.u32 %r2, 99; atom.global.cas.b32 %r3, [%rd0], %r1, %r2; st.global.u32 [%rd1], %r3;"
        )
    };
    assert_eq!(one(&body(7), [7, 0]), ([99, 0], [7, 0]));
    assert_eq!(one(&body(8), [7, 0]), ([7, 0], [7, 0]));
    let wide = "mov.b64 %rd2, 1; mov.b64 %rd3, 2; mov.b128 %q0, {%rd2, %rd3}; mov.b128 %q1, {%rd3, %rd2};\n\
                atom.global.cas.b128 %q2, [%rd0], %q0, %q1; st.global.b128 [%rd1], %q2;";
    assert_eq!(one(wide, [1, 2]), ([2, 1], [1, 2]));
    assert_eq!(one(wide, [1, 3]), ([1, 3], [1, 3]));
    let exchange = "mov.b64 %rd2, 5; mov.b128 %q0, {%rd2, %rd2}; atom.global.exch.b128 %q2, [%rd0], %q0; st.global.b128 [%rd1], %q2;";
    assert_eq!(one(exchange, [1, 2]), ([5, 5], [1, 2]));
    let short = "mov.u16 %h0, 7; mov.u16 %h1, 9; atom.global.cas.b16 %h2, [%rd0], %h0, %h1; st.global.u16 [%rd1], %h2;";
    assert_eq!(one(short, [0x5_0007, 0]), ([0x5_0009, 0], [7, 0]));
}

#[test]
fn floating_point() {
    let f = |x: f32| x.to_bits();
    check32("add.f32", f(1.5), f(2.25), f(3.75));
    // Subnormals are flushed on global memory and kept on shared memory.
    let tiny = |space: &str, at: &str| {
        let body = format!(
            "mov.u32 %r3, smem; mov.b32 %r1, 1; st.shared.u32 [%r3], %r1; mov.b32 %f1, %r1;\n\
             red.{space}.add.f32 [{at}], %f1; ld.{space}.u32 %r5, [{at}]; st.global.u32 [%rd1], %r5;"
        );
        one(&body, [1, 0]).1[0]
    };
    assert_eq!((tiny("global", "%rd0"), tiny("shared", "%r3")), (0, 2));
    let double = "mov.b64 %rd2, 0d4000000000000000; red.global.add.f64 [%rd0], %rd2;";
    assert_eq!(one(double, [1f64.to_bits(), 0]).0[0], 3f64.to_bits());
    // 1 + 2 and 2 + 2 in f16x2; subnormals kept.
    let halves = "mov.b32 %r1, 0x40004000; red.global.add.noftz.f16x2 [%rd0], %r1;";
    assert_eq!(one(halves, [0x4000_3c00, 0]).0[0], 0x4400_4200);
    let bf16 = "mov.b32 %r1, 0x00010001; red.global.add.noftz.bf16x2 [%rd0], %r1;";
    assert_eq!(one(bf16, [0x0002_0001, 0]).0[0], 0x0003_0002);
    let one_half =
        "mov.b16 %h0, 0x3f80; atom.global.add.noftz.bf16 %h1, [%rd0], %h0; st.global.u16 [%rd1], %h1;";
    assert_eq!(one(one_half, [0x4000, 0]), ([0x4040, 0], [0x4000, 0]));
}

#[test]
fn vectors() {
    let quad = "mov.f32 %f1, 0f3F800000; mov.f32 %f2, 0f40000000; atom.global.add.v4.f32 {%f3,%f4,%f5,%f6}, [%rd0], {%f1,%f2,%f1,%f2};\n\
                st.global.v4.f32 [%rd1], {%f3,%f4,%f5,%f6};";
    let words = |v: [f32; 4]| {
        [
            u64::from(v[0].to_bits()) | u64::from(v[1].to_bits()) << 32,
            u64::from(v[2].to_bits()) | u64::from(v[3].to_bits()) << 32,
        ]
    };
    let start = words([1.0, 2.0, 3.0, 4.0]);
    assert_eq!(one(quad, start), (words([2.0, 4.0, 4.0, 6.0]), start));
    let pair = "mov.f32 %f1, 0f3F800000; red.relaxed.gpu.global.add.v2.f32 [%rd0], {%f1, %f1};";
    assert_eq!(one(pair, start).0, words([2.0, 3.0, 3.0, 4.0]));
    let max = "mov.b32 %r1, 0xC0004000; red.global.max.noftz.v2.f16x2 [%rd0], {%r1, %r1};";
    assert_eq!(one(max, [0x3c00_3c00_4400_bc00, 0]).0[0], 0x3c00_4000_4400_4000);
    let eight =
        "mov.b16 %h0, 0x3f80; red.global.add.noftz.v8.bf16 [%rd0], {%h0,%h0,%h0,%h0,%h0,%h0,%h0,%h0};";
    assert_eq!(one(eight, [0x3f80_3f80_3f80_3f80; 2]).0, [0x4000_4000_4000_4000; 2]);
    let hint = "mov.f32 %f1, 0f3F800000; mov.b64 %rd2, 0; red.global.add.L2::cache_hint.v4.f32 [%rd0], {%f1,%f1,%f1,%f1}, %rd2;";
    assert_eq!(one(hint, start).0, words([2.0, 3.0, 4.0, 5.0]));
}

#[test]
fn many_threads_and_ctas() {
    // 8 CTAs of 64 threads count, and take unique tickets.
    let body = "ld.param.u64 %rd0, [cell]; ld.param.u64 %rd1, [out]; mov.u32 %r1, 1;\n\
                atom.global.add.u32 %r2, [%rd0], %r1; red.global.max.u32 [%rd0+4], %r2;\n\
                mul.wide.u32 %rd2, %r2, 4; add.u64 %rd1, %rd1, %rd2; st.global.u32 [%rd1], %r2;";
    for schedule in common::schedules() {
        let mut kernel = Kernel::new(&entry(PARAMS, body), 64).schedule(schedule);
        kernel.grid = [8, 1, 1];
        let (cell, out) = (kernel.upload_u32(&[0, 0]), kernel.allocate(2048));
        kernel.run_clean(&[cell, out]);
        assert_eq!(kernel.u32s(cell, 2), [512, 511]);
        assert_eq!(kernel.u32s(out, 512), (0..512).collect::<Vec<u32>>());
    }
}

#[test]
fn spin_locks_between_lanes_and_ctas_end() {
    // Every thread takes a lock, adds to a plain cell, and gives it back.
    let body = "ld.param.u64 %rd0, [cell]; mov.u32 %r1, 0; mov.u32 %r2, 1;\n\
                again: atom.acquire.gpu.global.cas.b32 %r3, [%rd0], %r1, %r2; setp.ne.u32 %p0, %r3, 0; @%p0 bra again;\n\
                ld.relaxed.gpu.global.u32 %r4, [%rd0+4]; add.u32 %r4, %r4, 1; st.relaxed.gpu.global.u32 [%rd0+4], %r4;\n\
                atom.release.gpu.global.exch.b32 %r5, [%rd0], %r1;";
    for schedule in common::schedules() {
        let mut kernel = Kernel::new(&entry(PARAMS, body), 48).schedule(schedule);
        kernel.grid = [3, 1, 1];
        let cell = kernel.upload_u32(&[0, 0]);
        kernel.run_clean(&[cell, 0]);
        assert_eq!(kernel.u32s(cell, 2), [0, 144], "{schedule:?}");
    }
}

#[test]
fn cluster_and_generic() {
    let body = "ld.param.u64 %rd1, [out]; mov.u32 %r1, smem; mov.u32 %r2, 0; st.shared.u32 [%r1], %r2;\n\
                barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;\n\
                mapa.shared::cluster.u32 %r3, %r1, 0; mov.u32 %r4, 1; red.relaxed.cluster.shared::cluster.add.u32 [%r3], %r4;\n\
                cvt.u64.u32 %rd2, %r3; cvta.shared.u64 %rd3, %rd2; atom.relaxed.cluster.add.u32 %r5, [%rd3], %r4;\n\
                barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;\n\
                mov.u32 %r6, %cluster_ctarank; setp.eq.u32 %p0, %r6, 0; ld.shared.u32 %r7, [%r1]; @%p0 st.global.u32 [%rd1], %r7;";
    let mut kernel = Kernel::new(&entry(PARAMS, body), 1).cluster(4);
    let out = kernel.allocate(4);
    kernel.run_clean(&[0, out]);
    assert_eq!(kernel.u32s(out, 1), [8]);
}

#[test]
fn findings() {
    let run = |body: &str, initialised: bool| {
        let text = format!("ld.param.u64 %rd0, [cell]; {body}");
        let mut kernel = Kernel::new(&entry(PARAMS, &text), 1);
        let cell = kernel.allocate(16);
        if initialised {
            kernel.memory.upload(cell, &[0; 16]).unwrap();
        }
        kernel.run(&[Argument::B64(cell), Argument::B64(0)])
    };
    only(&run("mov.u32 %r1, 1; red.global.add.u32 [%rd0+2], %r1;", true), Class::Misaligned);
    only(&run("mov.u32 %r1, 1; red.global.add.u32 [%rd0+16], %r1;", true), Class::OutOfBounds);
    only(&run("red.global.add.u32 [%rd0], %r1;", true), Class::Uninitialised);
    only(&run("mov.u32 %r1, 1; red.global.add.u32 [%rd0], %r1;", false), Class::Uninitialised);
    let exchange = run("mov.u32 %r1, 1; atom.global.exch.b32 %r2, [%rd0], %r1;", false);
    assert!(exchange.is_empty(), "{}", text(&exchange));
}
