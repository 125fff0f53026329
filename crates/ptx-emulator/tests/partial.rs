//! Poison of a part of a register: what is taken out of it decides, not that some of it was never written.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Kernel, entry};
use ptx_emulator::check::Class;
use ptx_emulator::machine::Argument;

/// Runs a body that stores through `%rd1`; the first words, and whether poison was reported.
fn run(body: &str) -> (Vec<u32>, bool) {
    let body = format!(
        "ld.param.u64 %rd0, [out]; mov.u32 %r0, %tid.x; mul.wide.u32 %rd1, %r0, 4; add.u64 %rd1, %rd1, %rd0;\n\
         mov.u32 %r1, 0x12345678;\n{body}"
    );
    let mut kernel = Kernel::new(&entry(".param .u64 out", &body), 32);
    let out = kernel.upload(&[0; 128]);
    let findings = kernel.run(&[Argument::B64(out)]);
    assert!(findings.iter().all(|f| f.class == Class::Uninitialised), "{findings:?}");
    (kernel.u32s(out, 32), !findings.is_empty())
}

/// `%r40` and `%h10` are never written.
#[test]
fn parts_that_were_written_are_clean() {
    for (body, want) in [
        // Two bytes beside two that are poison.
        ("prmt.b32 %r2, %r1, %r40, 0x5410; cvt.u16.u32 %h1, %r2; st.global.b16 [%rd1], %h1;", 0x5678),
        ("prmt.b32 %r2, %r1, %r40, 0x4140; prmt.b32 %r3, %r2, 0, 0x4442; st.global.b32 [%rd1], %r3;", 0x56),
        ("prmt.b32 %r2, %r40, %r1, 0x7610; shr.u32 %r3, %r2, 16; st.global.b32 [%rd1], %r3;", 0x1234),
        ("prmt.b32 %r2, %r1, %r40, 0x5410; and.b32 %r3, %r2, 0xff; st.global.b32 [%rd1], %r3;", 0x78),
        (
            "prmt.b32 %r2, %r1, %r40, 0x5410; shl.b32 %r3, %r2, 16; mov.b32 %r4, %r3; st.global.b32 [%rd1], %r4;",
            0x5678_0000,
        ),
        ("prmt.b32 %r2, %r1, %r40, 0x5410; st.global.b8 [%rd1], %r2;", 0x78),
        // Nibbles, as in unpacking of four-bit integers.
        (
            "prmt.b32 %r2, %r1, %r40, 0x5410; shr.u32 %r3, %r2, 4; and.b32 %r3, %r3, 0x0f0f; st.global.b32 [%rd1], %r3;",
            0x0507,
        ),
        (
            "prmt.b32 %r2, %r1, %r40, 0x5410; lop3.b32 %r3, %r2, %r1, %r1, 0xc0; and.b32 %r3, 0xffff, %r3;\
          st.global.b32 [%rd1], %r3;",
            0x5678,
        ),
        // Through memory, byte by byte.
        (
            "prmt.b32 %r2, %r1, %r40, 0x5410; mul.lo.u32 %r5, %r0, 4; mov.u32 %r6, smem; add.u32 %r5, %r5, %r6;\
          st.shared.b32 [%r5], %r2; ld.shared.u16 %r3, [%r5]; st.global.b32 [%rd1], %r3;",
            0x5678,
        ),
    ] {
        let (words, poisoned) = run(body);
        assert!(!poisoned, "{body}");
        assert_eq!(words[31], want, "{body}");
    }
}

#[test]
fn parts_that_were_not_written_are_reported() {
    for body in [
        "prmt.b32 %r2, %r1, %r40, 0x5410; st.global.b32 [%rd1], %r2;",
        "prmt.b32 %r2, %r1, %r40, 0x5410; shr.u32 %r3, %r2, 12; st.global.b8 [%rd1], %r3;",
        "prmt.b32 %r2, %r1, %r40, 0x5410; and.b32 %r3, %r2, 0x10000; st.global.b32 [%rd1], %r3;",
        "prmt.b32 %r2, %r1, %r40, 0x5410; or.b32 %r3, %r2, 0xff0000; st.global.b32 [%rd1], %r3;",
        "prmt.b32 %r2, %r1, %r40, 0xc210; st.global.b32 [%rd1], %r2;",
        "prmt.b32 %r2, %r1, %r1, %r40; and.b32 %r3, %r2, 0xff; st.global.b32 [%rd1], %r3;",
        "shl.b32 %r2, %r1, %r40; and.b32 %r3, %r2, 1; st.global.b32 [%rd1], %r3;",
        // Sums carry.
        "prmt.b32 %r2, %r1, %r40, 0x5410; add.u32 %r3, %r2, 1; and.b32 %r3, %r3, 0xff; st.global.b32 [%rd1], %r3;",
        "prmt.b32 %r2, %r1, %r40, 0x5410; cvt.s32.s16 %r3, %r2; shr.u32 %r3, %r2, 8; st.global.b32 [%rd1], %r3;",
        "prmt.b32 %r2, %r1, %r40, 0x5410; mov.b32 {%h1, %h2}, %r2; st.global.b16 [%rd1], %h2;",
        "cvt.u32.u16 %r2, %h10; st.global.b8 [%rd1], %r2;",
        "prmt.b32 %r2, %r1, %r40, 0x5410; mul.lo.u32 %r5, %r0, 4; mov.u32 %r6, smem; add.u32 %r5, %r5, %r6;\
         st.shared.b32 [%r5], %r2; ld.shared.u16 %r3, [%r5+2]; st.global.b32 [%rd1], %r3;",
    ] {
        assert!(run(body).1, "{body}");
    }
}
