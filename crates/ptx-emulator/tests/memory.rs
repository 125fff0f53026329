//! Loads, stores, addresses and poison.

mod common;

use common::{Kernel, entry, only, text};
use ptx_emulator::check::Class;
use ptx_emulator::machine::Argument;

const PARAMS: &str = ".param .u64 in, .param .u64 out";

/// Runs `body` in one warp with %rd0 = input, %rd1 = output (256 words), %r0 = thread; the output.
fn run(body: &str, input: &[u32]) -> Vec<u32> {
    let (kernel, out) = launch(body, input);
    kernel.run_clean(&[out.0, out.1]);
    kernel.u32s(out.1, 256)
}

fn launch(body: &str, input: &[u32]) -> (Kernel, (u64, u64)) {
    let prologue = "ld.param.u64 %rd0, [in]; ld.param.u64 %rd1, [out]; mov.u32 %r0, %tid.x;\n";
    let mut kernel = Kernel::new(&entry(PARAMS, &format!("{prologue}{body}")), 32);
    let (a, b) = (kernel.upload_u32(input), kernel.allocate(1024));
    kernel.memory.upload(b, &[0; 1024]).unwrap();
    (kernel, (a, b))
}

/// The findings of `body`.
fn findings(body: &str, input: &[u32]) -> Vec<ptx_emulator::check::Finding> {
    let (kernel, (a, b)) = launch(body, input);
    kernel.run(&[Argument::B64(a), Argument::B64(b)])
}

fn numbers(n: u32) -> Vec<u32> {
    (0..n).map(|i| i.wrapping_mul(0x9e37_79b9) ^ 0x8081_8283).collect()
}

#[test]
fn extension_to_wider_registers() {
    let input = numbers(64);
    let bytes: Vec<u8> = input.iter().flat_map(|w| w.to_le_bytes()).collect();
    let got = run(
        "cvt.u64.u32 %rd2, %r0; add.u64 %rd2, %rd2, %rd0; mul.wide.u32 %rd3, %r0, 16; add.u64 %rd3, %rd3, %rd1;\n\
         ld.global.s8 %r1, [%rd2]; ld.global.u8 %r2, [%rd2]; ld.global.b8 %h0, [%rd2]; cvt.u32.u16 %r3, %h0;\n\
         ld.global.s8 %rd4, [%rd2]; shr.u64 %rd4, %rd4, 32; cvt.u32.u64 %r4, %rd4;\n\
         st.global.v4.u32 [%rd3], {%r1, %r2, %r3, %r4};",
        &input,
    );
    for lane in 0..32 {
        let b = bytes[lane];
        let sign = i32::from(b as i8);
        assert_eq!(got[4 * lane..4 * lane + 4], [sign as u32, b.into(), b.into(), (sign >> 31) as u32]);
    }
}

#[test]
fn vectors_and_widths() {
    let input = numbers(256);
    let copy = |ld: &str, st: &str, registers: &str| {
        run(
            &format!(
                "mul.wide.u32 %rd2, %r0, 32; add.u64 %rd3, %rd2, %rd0; add.u64 %rd4, %rd2, %rd1;\n\
                 {ld} {{{registers}}}, [%rd3]; {st} [%rd4], {{{registers}}};"
            ),
            &input,
        )
    };
    let eight = "%r1,%r2,%r3,%r4,%r5,%r6,%r7,%r8";
    assert_eq!(copy("ld.global.v8.b32", "st.global.v8.b32", eight), input);
    assert_eq!(copy("ld.global.L2::evict_first.v8.f32", "st.global.L2::evict_first.v8.b32", eight), input);
    assert_eq!(copy("ld.global.nc.L1::no_allocate.v4.b64", "st.v4.b64", "%rd5,%rd6,%rd7,%rd8"), input);
    let half = copy("ld.global.nc.L1::no_allocate.L2::128B.v4.b32", "st.global.cs.v4.b32", "%r1,%r2,%r3,%r4");
    let quads = input.chunks(8).flat_map(|c| [c[0], c[1], c[2], c[3], 0, 0, 0, 0]).collect::<Vec<u32>>();
    assert_eq!(half, quads);
    let shorts = run(
        "mul.wide.u32 %rd2, %r0, 8; add.u64 %rd3, %rd2, %rd0; add.u64 %rd4, %rd2, %rd1;\n\
         ld.v4.u16 {%h0,%h1,%h2,%h3}, [%rd3]; st.v2.u16 [%rd4], {%h3,%h0}; st.u16 [%rd4+6], %h2;",
        &input,
    );
    for (i, pair) in shorts[..64].chunks(2).enumerate() {
        let (low, high) = (input[2 * i], input[2 * i + 1]);
        assert_eq!(pair, [high >> 16 | low << 16, high << 16]);
    }
    let wide = run(
        "mul.wide.u32 %rd2, %r0, 16; add.u64 %rd3, %rd2, %rd0; add.u64 %rd4, %rd2, %rd1; cvt.u32.u64 %r9, %rd2;\n\
         mov.u32 %r10, smem; add.u32 %r9, %r9, %r10;\n\
         ld.global.b128 %q0, [%rd3]; st.shared.b128 [%r9], %q0; ld.shared.b128 %q1, [%r9]; st.global.b128 [%rd4], %q1;",
        &input,
    );
    assert_eq!(wide[..128], input[..128]);
}

#[test]
fn every_space_through_generic_addresses() {
    // A value through local, shared and global memory, each by its own and by a generic address.
    let source = entry(
        PARAMS,
        ".local .align 8 .b8 stack[32]; .shared .align 8 .b8 block[512];\n\
         ld.param.u64 %rd0, [in]; ld.param.u64 %rd1, [out]; mov.u32 %r0, %tid.x; mul.wide.u32 %rd2, %r0, 8;\n\
         add.u64 %rd1, %rd1, %rd2; add.u64 %rd0, %rd0, %rd2; ld.global.u64 %rd3, [%rd0];\n\
         mov.b64 %rd4, stack; st.local.u64 [%rd4+8], %rd3; cvta.local.u64 %rd5, %rd4; ld.u64 %rd6, [%rd5+8];\n\
         add.u64 %rd6, %rd6, 1; st.u64 [%rd5+16], %rd6; ld.local.u64 %rd6, [stack+16];\n\
         isspacep.local %p0, %rd5; isspacep.shared %p1, %rd5; isspacep.global %p2, %rd0;\n\
         mov.u64 %rd7, block; add.u64 %rd7, %rd7, %rd2; cvta.shared.u64 %rd8, %rd7; st.u64 [%rd8], %rd6;\n\
         isspacep.shared %p3, %rd8; cvta.to.shared.u64 %rd9, %rd8; cvt.u32.u64 %r1, %rd9; ld.shared.u64 %rd10, [%r1];\n\
         and.pred %p0, %p0, %p2; and.pred %p0, %p0, %p3; not.pred %p1, %p1; and.pred %p0, %p0, %p1;\n\
         @!%p0 trap; cvta.to.global.u64 %rd1, %rd1; st.global.u64 [%rd1], %rd10;",
    );
    let mut kernel = Kernel::new(&source, 32);
    let data = numbers(64);
    let (a, b) = (kernel.upload_u32(&data), kernel.allocate(256));
    kernel.run_clean(&[a, b]);
    let word = |v: &[u32], i: usize| u64::from(v[2 * i]) | u64::from(v[2 * i + 1]) << 32;
    let got = kernel.u32s(b, 64);
    assert!((0..32).all(|i| word(&got, i) == word(&data, i).wrapping_add(1)));
}

#[test]
fn parameters_and_constants() {
    let source = ".version 8.0\n.target sm_90a\n.address_size 64\n\
         .const .align 4 .b32 table[4] = {10, 20, 30, 40};\n.global .align 4 .b32 scratch[2] = {5, 6};\n\
         .visible .entry k(.param .align 8 .b8 s[24], .param .u64 out, .param .u16 h, .param .f32 f)\n{\n\
         .reg .b64 %rd<8>; .reg .b32 %r<16>; .reg .b16 %h<2>;\n\
         ld.param.u64 %rd0, [out]; ld.param.v2.u32 {%r0, %r1}, [s+8]; ld.param.s8 %r2, [s+23]; ld.param.u16 %h0, [h];\n\
         cvt.u32.u16 %r3, %h0; ld.param.b32 %r4, [f]; mov.b64 %rd1, s; cvta.param.u64 %rd2, %rd1; ld.u32 %r5, [%rd2+4];\n\
         ld.const.u32 %r6, [table+8]; mov.u64 %rd3, table; ld.const.u32 %r7, [%rd3+4];\n\
         st.global.v4.u32 [%rd0], {%r0,%r1,%r2,%r3}; st.global.v4.u32 [%rd0+16], {%r4,%r5,%r6,%r7}; ret;\n}\n";
    let mut device = ptx_emulator::device::Device::new();
    let module = device.load_module(source).unwrap();
    let out = device.allocate(32);
    let mut aggregate: Vec<u8> = (0..24).collect();
    aggregate[23] = 0x80;
    let config = ptx_emulator::device::LaunchConfig::new([1, 1, 1], [1, 1, 1]);
    let arguments =
        [Argument::Bytes(aggregate), Argument::B64(out), Argument::B32(0x1234), Argument::B32(0x3f80_0000)];
    let outcome = device.launch(&module, "k", &config, &arguments).unwrap();
    assert!(outcome.findings.is_empty(), "{}", text(&outcome.findings));
    let got: Vec<u32> = device
        .download(out)
        .unwrap()
        .chunks_exact(4)
        .map(|c| u32::from_le_bytes(c.try_into().unwrap()))
        .collect();
    assert_eq!(got, [0x0b0a_0908, 0x0f0e_0d0c, 0xffff_ff80, 0x1234, 0x3f80_0000, 0x0706_0504, 30, 20]);
}

#[test]
fn cluster_addresses() {
    let source = entry(
        PARAMS,
        "ld.param.u64 %rd1, [out]; mov.u32 %r0, %cluster_ctarank; mov.u32 %r1, smem;\n\
         add.u32 %r2, %r0, 100; st.shared.u32 [%r1], %r2;\n\
         barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;\n\
         xor.b32 %r3, %r0, 1; mapa.shared::cluster.u32 %r4, %r1, %r3; ld.shared::cluster.u32 %r5, [%r4];\n\
         getctarank.shared::cluster.u32 %r6, %r4; cvt.u64.u32 %rd2, %r1; cvta.shared.u64 %rd3, %rd2;\n\
         mapa.u64 %rd4, %rd3, %r3; ld.u32 %r7, [%rd4]; getctarank.u64 %r8, %rd4;\n\
         mul.wide.u32 %rd5, %r0, 16; add.u64 %rd1, %rd1, %rd5; mov.u32 %r9, %tid.x; setp.eq.u32 %p0, %r9, 0;\n\
         @%p0 st.global.v4.u32 [%rd1], {%r5, %r6, %r7, %r8};\n\
         barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;",
    );
    let mut kernel = Kernel::new(&source, 1).cluster(2);
    let out = kernel.allocate(32);
    kernel.run_clean(&[0, out]);
    assert_eq!(kernel.u32s(out, 8), [101, 1, 101, 1, 100, 0, 100, 0]);
}

#[test]
fn misaligned() {
    let f = findings("ld.global.u32 %r1, [%rd0+2];", &[1, 2]);
    assert!(only(&f, Class::Misaligned).message.contains("multiple of 4"));
    only(&findings("ld.global.v4.b32 {%r1,%r2,%r3,%r4}, [%rd0+8];", &[0; 8]), Class::Misaligned);
    only(&findings("mov.u32 %r1, smem; st.shared.u64 [%r1+4], %rd0;", &[0]), Class::Misaligned);
}

#[test]
fn out_of_bounds() {
    for body in [
        "ld.global.u32 %r1, [%rd0+64];",
        "ld.global.u32 %r1, [%rd0-4];",
        "st.global.u32 [%rd1+1024], %r0;",
        "mov.u32 %r1, smem; ld.shared.u32 %r2, [%r1+65536];",
        "mov.b64 %rd2, 0; ld.u32 %r1, [%rd2];",
        "ld.param.u64 %rd2, [in+16];",
        "mov.u32 %r1, 0x5000400; ld.shared.u32 %r2, [%r1];",
        "mov.u32 %r1, 0x5000400; ld.shared::cluster.u32 %r2, [%r1];",
    ] {
        only(&findings(body, &[0; 16]), Class::OutOfBounds);
    }
    let (mut kernel, (a, b)) = launch("ld.global.u32 %r1, [%rd0];", &[0; 16]);
    kernel.memory.free(a);
    only(&kernel.run(&[Argument::B64(a), Argument::B64(b)]), Class::UseAfterFree);
}

#[test]
fn constants_are_read_only() {
    let (mut kernel, (a, b)) = launch("st.global.u32 [%rd0], %r0;", &[0; 16]);
    kernel.memory.protect(a);
    only(&kernel.run(&[Argument::B64(a), Argument::B64(b)]), Class::OutOfBounds);
}

#[test]
fn poison_reaches_outputs_addresses_and_branches_only() {
    // Copies of what was never written are no findings.
    let copies = "mov.u32 %r1, %r2; mov.u32 %r3, smem; ld.shared.u32 %r4, [%r3]; st.shared.u32 [%r3+4], %r4;\n\
                  add.u32 %r5, %r1, %r4; setp.eq.u32 %p0, %r5, 0;";
    assert!(findings(copies, &[0]).is_empty());
    let to_output = format!("{copies} st.global.u32 [%rd1], %r5;");
    assert!(only(&findings(&to_output, &[0]), Class::Uninitialised).message.contains("global memory"));
    let to_guard = format!("{copies} @%p0 add.u32 %r6, %r6, 1;");
    assert!(only(&findings(&to_guard, &[0]), Class::Uninitialised).message.contains("guard"));
    let to_address = format!("{copies} ld.shared.u32 %r6, [%r5];");
    let f = findings(&to_address, &[0]);
    assert!(only(&f, Class::Uninitialised).message.contains("address"));
    // The finding names where the poison was read.
    let shared = "mov.u32 %r3, smem; ld.shared.u32 %r4, [%r3+8]; st.global.u32 [%rd1], %r4;";
    let f = findings(shared, &[0]);
    let earlier = only(&f, Class::Uninitialised).earlier.as_ref().unwrap();
    assert!(earlier.place.text.starts_with("ld.shared.u32"), "{}", text(&f));
}

#[test]
fn poison_is_kept_byte_by_byte_in_memory() {
    // Two of four bytes are written: those two are clean, the word is not.
    let body = "mov.u32 %r3, smem; mul.lo.u32 %r4, %r0, 4; add.u32 %r3, %r3, %r4; mov.u16 %h0, 7;\n\
                st.shared.u16 [%r3+2], %h0; ld.shared.u16 %r5, [%r3+2]; ld.shared.v2.u16 {%h1, %h2}, [%r3];\n\
                mul.wide.u32 %rd2, %r0, 4; add.u64 %rd1, %rd1, %rd2; st.global.u16 [%rd1], %h2;";
    assert!(findings(body, &[0]).is_empty());
    only(
        &findings(&format!("{body} ld.shared.u32 %r6, [%r3]; st.global.u32 [%rd1], %r6;"), &[0]),
        Class::Uninitialised,
    );
    only(&findings(&format!("{body} st.global.u16 [%rd1], %h1;"), &[0]), Class::Uninitialised);
    // What is stored over poison is clean again.
    assert!(
        findings(
            &format!("{body} st.shared.u16 [%r3], %h0; ld.shared.u32 %r6, [%r3]; st.global.u32 [%rd1], %r6;"),
            &[0]
        )
        .is_empty()
    );
}

#[test]
fn selections_take_only_the_selected_poison() {
    let body = "setp.lt.u32 %p0, %r0, 99; selp.b32 %r2, %r0, %r1, %p0;\n\
                prmt.b32 %r3, %r0, %r1, 0x3210; mul.wide.u32 %rd2, %r0, 8; add.u64 %rd1, %rd1, %rd2;\n\
                st.global.v2.u32 [%rd1], {%r2, %r3};";
    assert!(findings(body, &[0]).is_empty());
}

#[test]
fn bulk_zeros_and_discards() {
    let got = run(
        "mov.u32 %r1, smem; st.shared.u32 [%r1+60], %r0; bar.sync 0; setp.eq.u32 %p0, %r0, 0;\n\
         @%p0 st.bulk.weak.shared::cta [%r1], 64, 0; bar.sync 0; ld.shared.u32 %r2, [%r1+60];\n\
         mul.wide.u32 %rd2, %r0, 4; add.u64 %rd1, %rd1, %rd2; st.global.u32 [%rd1], %r2;",
        &[0],
    );
    assert!(got[..32].iter().all(|&w| w == 0));
    let f = findings(
        "discard.global.L2 [%rd0], 128; ld.global.u32 %r1, [%rd0]; st.global.u32 [%rd1], %r1;",
        &[0; 32],
    );
    assert!(f.iter().any(|f| f.class == Class::Uninitialised), "{}", text(&f));
    run(
        "prefetch.global.L2 [%rd0]; prefetch.global.L2::evict_last [%rd0]; prefetchu.L1 [%rd0];\n\
         createpolicy.fractional.L2::evict_first.b64 %rd2, 1.0; ld.global.L2::cache_hint.v4.b32 {%r1,%r2,%r3,%r4}, [%rd0], %rd2;\n\
         createpolicy.range.global.L2::evict_last.L2::evict_first.b64 %rd2, [%rd0], 128, 256;\n\
         applypriority.global.L2::evict_normal [%rd0], 128;",
        &[0; 64],
    );
}

#[test]
fn wrong_forms_are_errors_at_load() {
    for (body, why) in [
        ("ld.global.v3.u32 {%r1,%r2,%r3}, [%rd0];", "expected 1 elements"),
        ("ld.global.v4.b64 {%rd1,%rd2,%rd3}, [%rd0];", "expected 4 elements"),
        ("ld.global.u64 %r1, [%rd0];", "does not hold"),
        ("ld.global.f32 %rd1, [%rd0];", "does not hold"),
        ("ld.release.gpu.global.u32 %r1, [%rd0];", "cannot release"),
        ("st.acquire.gpu.global.u32 [%rd0], %r1;", "cannot acquire"),
        ("ld.acquire.global.u32 %r1, [%rd0];", "scope"),
        ("ld.global.frob.u32 %r1, [%rd0];", "frob"),
        ("add.u32 %r1, %rd1, %r2;", "not as wide"),
        ("add.f32 %f1, %f2, %f3, %f4;", "expected 3 operands"),
        ("mul.u32 %r1, %r2, %r3;", "needs"),
        ("cvt.u32.f32 %r1, %f1;", "rounding"),
        ("atom.global.add.v2.u32 {%r1,%r2}, [%rd0], {%r3,%r4};", "no such form"),
        ("red.global.add.f16x2 [%rd0], %r1;", "noftz"),
        ("frobnicate.b32 %r1, %r2;", "not modelled"),
    ] {
        let error = match ptx_emulator::program::load(&entry(PARAMS, body)) {
            Ok(_) => panic!("{body} was accepted"),
            Err(e) => e.to_string(),
        };
        assert!(error.contains(why) && error.contains("line 9"), "{body}: {error}");
    }
}
