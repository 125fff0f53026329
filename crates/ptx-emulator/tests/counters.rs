//! Counters against numbers worked out by hand: bytes, sectors, bank conflicts, MMA, waits, the instruction mix.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::{Kernel, entry, schedules, text};
use ptx_emulator::check::Mode;
use ptx_emulator::counters::{Class, Counter, Counters};
use ptx_emulator::device::LaunchConfig;
use ptx_emulator::launch_file::LaunchFile;
use ptx_emulator::machine::{Argument, Schedule};
use ptx_emulator::ops::tensor_map::{Element, TensorMap};

/// Runs a kernel that must be clean.
fn counters(k: &Kernel, arguments: &[Argument]) -> Counters {
    let outcome = k.outcome(arguments);
    assert!(outcome.findings.is_empty(), "{}", text(&outcome.findings));
    outcome.counters
}

/// One warp; %rd1 = a buffer of 16 KiB, %r1 = lane, %r2 = shared memory.
fn warp(body: &str) -> Counters {
    let start = "ld.param.u64 %rd1, [p]; mov.u32 %r1, %tid.x; mov.u32 %r2, smem; mov.u32 %r3, 7; mov.u32 %r4, 7; \
                 mov.u32 %r5, 7; mov.u32 %r6, 7; mov.u64 %rd5, 7; mov.u64 %rd6, 7; mov.u16 %h1, 7; mov.f32 %f1, 0f3f800000;";
    let mut k = Kernel::new(&entry(".param .u64 p", &format!("{start}\n{body}")), 32);
    let buffer = k.upload(&[1; 16384]);
    counters(&k, &[Argument::B64(buffer)])
}

#[test]
fn bank_conflicts() {
    // (stride in bytes, type, operands, bytes of a lane, wavefronts, least)
    for (stride, ty, operands, bytes, needed, minimum) in [
        (4, "u32", "%r3", 4, 1, 1),
        (8, "u32", "%r3", 4, 2, 1),
        (128, "u32", "%r3", 4, 32, 1),
        (132, "u32", "%r3", 4, 1, 1),
        (0, "u32", "%r3", 4, 1, 1),
        (2, "u16", "%h1", 2, 1, 1),
        (8, "v2.u32", "{%r3,%r4}", 8, 2, 2),
        (8, "u64", "%rd5", 8, 2, 2),
        (256, "v2.u32", "{%r3,%r4}", 8, 32, 2),
        (16, "v4.u32", "{%r3,%r4,%r5,%r6}", 16, 4, 4),
        (32, "v4.u32", "{%r3,%r4,%r5,%r6}", 16, 8, 4),
        (144, "v4.u32", "{%r3,%r4,%r5,%r6}", 16, 4, 4),
        (128, "v2.u64", "{%rd5,%rd6}", 16, 32, 4),
    ] {
        let c = warp(&format!(
            "mad.lo.u32 %r7, %r1, {stride}, %r2; st.shared.{ty} [%r7], {operands}; bar.warp.sync -1; ld.shared.{ty} {operands}, [%r7];"
        ));
        let got = [
            Counter::SharedStoreBytes,
            Counter::SharedStoreWavefronts,
            Counter::SharedStoreMinimum,
            Counter::SharedLoadBytes,
            Counter::SharedLoadWavefronts,
            Counter::SharedLoadMinimum,
        ]
        .map(|counter| c.get(counter));
        assert_eq!(got, [32 * bytes, needed, minimum, 32 * bytes, needed, minimum], "{ty}, {stride}");
        // The line has it too.
        let line = c.lines.iter().find(|l| l.text.starts_with("ld.shared")).unwrap();
        assert_eq!((line.site.wavefronts, line.site.wavefronts_minimum), (needed, minimum));
        assert_eq!((line.site.executed, line.site.lanes, line.site.bytes), (1, 32, 32 * bytes));
    }
}

#[test]
fn generic_addresses_and_atomics_in_shared_memory() {
    let c = warp(
        "cvt.u64.u32 %rd2, %r2; cvta.shared.u64 %rd2, %rd2; st.u32 [%rd2], %r3; bar.warp.sync -1;\n\
         red.shared.add.u32 [%r2], 1; atom.add.u32 %r8, [%rd2], 1;",
    );
    assert_eq!((c.get(Counter::SharedStoreBytes), c.get(Counter::SharedStoreWavefronts)), (128, 1));
    // Lanes on one word follow each other.
    assert_eq!((c.get(Counter::SharedAtomicBytes), c.get(Counter::SharedAtomicWavefronts)), (256, 64));
    assert_eq!(c.get(Counter::SharedAtomicMinimum), 2);
    assert_eq!(c.get(Counter::GlobalAtomicBytes), 0);
}

#[test]
fn matrices() {
    // Rows of 16 bytes, one after the other; then 128 bytes apart.
    for (pitch, wavefronts) in [(16, 4), (128, 32)] {
        let c = warp(&format!(
            "mad.lo.u32 %r7, %r1, {pitch}, %r2; stmatrix.sync.aligned.m8n8.x4.shared.b16 [%r7], {{%r3,%r4,%r5,%r6}};\n\
             bar.warp.sync -1; ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r8,%r9,%r10,%r11}}, [%r7];"
        ));
        assert_eq!((c.get(Counter::LdMatrixBytes), c.get(Counter::StMatrixBytes)), (512, 512));
        let needed = [Counter::LdMatrixWavefronts, Counter::StMatrixWavefronts].map(|n| c.get(n));
        assert_eq!(needed, [wavefronts; 2]);
        assert_eq!((c.get(Counter::LdMatrixMinimum), c.get(Counter::StMatrixMinimum)), (4, 4));
    }
}

#[test]
fn sectors() {
    for (stride, ty, to, bytes, sectors) in [
        (4, "u32", "%r3", 128, 4),
        (8, "u32", "%r3", 128, 8),
        (32, "u32", "%r3", 128, 32),
        (256, "u32", "%r3", 128, 32),
        (0, "u32", "%r3", 128, 1),
        (16, "v4.u32", "{%r3,%r4,%r5,%r6}", 512, 16),
    ] {
        let c = warp(&format!(
            "mul.wide.u32 %rd2, %r1, {stride}; add.u64 %rd2, %rd1, %rd2; ld.global.{ty} {to}, [%rd2]; st.global.{ty} [%rd2], {to};"
        ));
        let got = [
            Counter::GlobalLoadBytes,
            Counter::GlobalLoadSectors,
            Counter::GlobalStoreBytes,
            Counter::GlobalStoreSectors,
        ]
        .map(|n| c.get(n));
        assert_eq!(got, [bytes, sectors, bytes, sectors], "{ty}, {stride}");
    }
    // Half of the lanes, a misplaced start: 16 words from byte 16 on.
    let c = warp(
        "setp.lt.u32 %p1, %r1, 16; mul.wide.u32 %rd2, %r1, 4; add.u64 %rd2, %rd1, %rd2;\n\
         @%p1 ld.global.u32 %r3, [%rd2+16]; red.global.add.u32 [%rd2], 1;",
    );
    assert_eq!((c.get(Counter::GlobalLoadBytes), c.get(Counter::GlobalLoadSectors)), (64, 3));
    assert_eq!((c.get(Counter::GlobalAtomicBytes), c.get(Counter::GlobalAtomicSectors)), (128, 4));
}

#[test]
fn local_memory_and_non_bulk_copies() {
    let c = warp(
        ".local .align 4 .b8 stack[16]; st.local.u32 [stack], %r3; ld.local.u32 %r4, [stack];\n\
         mad.lo.u32 %r7, %r1, 16, %r2; mul.wide.u32 %rd2, %r1, 16; add.u64 %rd2, %rd1, %rd2;\n\
         cp.async.cg.shared.global [%r7], [%rd2], 16; cp.async.ca.shared.global [%r7+512], [%rd2], 4, 0;\n\
         cp.async.wait_all;",
    );
    assert_eq!((c.get(Counter::LocalStoreBytes), c.get(Counter::LocalLoadBytes)), (128, 128));
    // The second copy only fills.
    assert_eq!((c.get(Counter::CpAsyncBytes), c.get(Counter::CpAsyncSectors)), (512, 16));
    assert_eq!((c.get(Counter::GroupWaits), c.get(Counter::GroupBlocked)), (1, 1));
}

#[test]
fn mix_and_divergence() {
    let c = warp(
        "setp.lt.u32 %p1, %r1, 8; @%p1 bra LOW; add.u32 %r3, %r3, 1; add.u32 %r3, %r3, 1; bra END;\n\
         LOW: fma.rn.f32 %f1, %f1, %f1, %f1; ex2.approx.f32 %f2, %f1; cvt.rn.f16.f32 %h1, %f2;\n\
         END: ld.global.u32 %r4, [%rd1];",
    );
    let of = |class| c.of_class(class);
    assert_eq!((of(Class::Fma), of(Class::Special), of(Class::Conversion)), ((1, 8), (1, 8), (1, 8)));
    // Ten moves, setp, two additions by 24 lanes.
    assert_eq!(of(Class::Integer), (13, 11 * 32 + 2 * 24));
    assert_eq!(of(Class::Memory), (2, 64));
    // Two branches, of which 24 lanes make the second, and the end.
    assert_eq!(of(Class::Control), (3, 8 + 24 + 32));
    assert_eq!((c.get(Counter::DivergentBranches), c.get(Counter::DivergedInstructions)), (1, 6));
    let all: u64 = Class::ALL.iter().map(|(_, class)| c.of_class(*class).0).sum();
    assert_eq!(all + c.get(Counter::Retries), c.warp_instructions);
}

#[test]
fn barriers() {
    let source = entry("", "bar.sync 0; bar.sync 0;");
    for schedule in schedules() {
        let c = counters(&Kernel::new(&source, 128).schedule(schedule), &[]);
        // Of four warps all but the last to arrive block.
        assert_eq!((c.get(Counter::BarrierWaits), c.get(Counter::BarrierBlocked)), (8, 6), "{schedule:?}");
    }
}

#[test]
fn multicast_counts_once_from_global_memory() {
    let source = entry(
        ".param .u64 src",
        "ld.param.u64 %rd1, [src]; mov.u32 %r1, %tid.x; mov.u32 %r2, smem; mov.u32 %r3, %cluster_ctarank;\n\
         setp.eq.u32 %p1, %r1, 0; setp.eq.and.u32 %p2, %r3, 0, %p1; mov.u16 %h1, 15;\n\
         @%p1 mbarrier.init.shared::cta.b64 [%r2+1024], 1; @%p1 fence.mbarrier_init.release.cluster;\n\
         @%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2+1024], 768;\n\
         barrier.cluster.arrive; barrier.cluster.wait;\n\
         @%p2 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%r2], [%rd1], 768, [%r2+1024], %h1;\n\
         W: mbarrier.try_wait.parity.shared::cta.b64 %p4, [%r2+1024], 0; @!%p4 bra W;\n\
         xor.b32 %r4, %r3, 1; mapa.shared::cluster.u32 %r5, %r2, %r4; shl.b32 %r6, %r1, 2; add.u32 %r5, %r5, %r6;\n\
         ld.shared::cluster.u32 %r7, [%r5]; st.shared::cluster.v2.u32 [%r5+2048], {%r7,%r7};\n\
         barrier.cluster.arrive; barrier.cluster.wait;",
    );
    // (One lane in two stores: they do not overlap.)
    let source = source.replace("shl.b32 %r6, %r1, 2", "shl.b32 %r6, %r1, 3");
    for schedule in schedules() {
        let mut k = Kernel::new(&source, 32).cluster(4).schedule(schedule);
        let src = k.upload(&[1; 768]);
        let c = counters(&k, &[Argument::B64(src)]);
        assert_eq!((c.get(Counter::BulkLoadBytes), c.get(Counter::BulkLoadDelivered)), (768, 4 * 768));
        assert_eq!((c.get(Counter::ClusterLoadBytes), c.get(Counter::ClusterStoreBytes)), (512, 1024));
        assert_eq!((c.get(Counter::SharedLoadBytes), c.get(Counter::SharedStoreBytes)), (0, 0));
        assert_eq!(c.get(Counter::MbarrierWaits), 4, "{schedule:?}");
        assert!(c.get(Counter::MbarrierBlocked) <= 4);
        assert_eq!(c.get(Counter::ClusterBarrierWaits), 8);
        if schedule == Schedule::AsyncLate {
            assert_eq!(c.get(Counter::MbarrierBlocked), 4);
        }
    }
}

#[test]
fn tensor_copies() {
    // A box of 64 x 8 bytes, of which 4 rows and the first 48 columns are inside: 256 x 12 bytes of data.
    let source = entry(
        ".param .align 64 .b8 map[128]",
        "mov.b64 %rd2, map; cvta.param.u64 %rd2, %rd2; mov.u32 %r1, %tid.x; mov.u32 %r2, smem; setp.eq.u32 %p1, %r1, 0;\n\
         mov.u32 %r3, 208; mov.u32 %r4, 8;\n\
         @%p1 mbarrier.init.shared::cta.b64 [%r2+1024], 1; @%p1 fence.mbarrier_init.release.cluster; bar.sync 0;\n\
         @%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2+1024], 512;\n\
         @%p1 cp.async.bulk.tensor.2d.shared::cta.global.tile.mbarrier::complete_tx::bytes [%r2], [%rd2, {%r3,%r4}], [%r2+1024];\n\
         W: mbarrier.try_wait.parity.shared::cta.b64 %p4, [%r2+1024], 0; @!%p4 bra W;\n\
         @%p1 cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%rd2, {%r3,%r4}], [%r2];\n\
         @%p1 cp.async.bulk.commit_group; @%p1 cp.async.bulk.wait_group 0;",
    );
    let mut k = Kernel::new(&source, 32);
    let src = k.upload(&[1; 256 * 12]);
    let map = TensorMap::new(Element::U8, src, &[256, 12], &[256], &[64, 8]);
    let c = counters(&k, &[Argument::Bytes(map.encode().unwrap().to_vec())]);
    assert_eq!((c.get(Counter::TensorLoadBytes), c.get(Counter::TensorLoadDelivered)), (4 * 48, 512));
    // 48 bytes from byte 208 of a row: two sectors.
    assert_eq!(c.get(Counter::TensorLoadSectors), 8);
    assert_eq!(c.get(Counter::TensorStoreBytes), 4 * 48);
}

fn conformance(case: &str) -> Counters {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/ptx-conformance").join(case);
    let mut config = LaunchConfig::new([1; 3], [1; 3]);
    config.checks.mode = Mode::CutlassCompatible;
    let run = LaunchFile::read(&dir.join("launch.json")).unwrap().run(&config).unwrap();
    assert!(run.outcome.findings.is_empty(), "{}", text(&run.outcome.findings));
    run.outcome.counters
}

/// 256 x 128 x 192: two CTAs of 128 x 128, of two m64 blocks, twelve steps of 16 along K.
#[test]
fn gemm_bf16() {
    let c = conformance("gemm_bf16_sm90");
    let mma: Vec<_> = c.mma.iter().map(|((kind, shape), n)| (kind.as_str(), *shape, *n)).collect();
    assert_eq!(mma, [("wgmma.bf16.bf16", [64, 128, 16], 2 * 2 * 12)]);
    assert_eq!(c.multiply_adds(), 256 * 128 * 192);
    // Each CTA copies its rows of A and all of B.
    assert_eq!(c.get(Counter::CpAsyncBytes), 2 * (128 + 128) * 192 * 2);
    assert_eq!(c.get(Counter::CpAsyncSectors) * 32, c.get(Counter::CpAsyncBytes));
    assert_eq!(c.get(Counter::MmaSharedBytes), 48 * (64 + 128) * 16 * 2);
    assert_eq!(c.get(Counter::GlobalStoreBytes), 256 * 128 * 2);
}

/// 256 x 256 x 512: four CTAs of 128 x 128, eight steps of 64 along K.
#[test]
fn gemm_nvfp4() {
    let c = conformance("gemm_nvfp4_sm100");
    let mma: Vec<_> = c.mma.iter().map(|((kind, shape), n)| (kind.as_str(), *shape, *n)).collect();
    assert_eq!(mma, [("tcgen05.mxf4nvf4.e2m1.e2m1", [128, 128, 64], 4 * 8)]);
    assert_eq!(c.multiply_adds(), 256 * 256 * 512);
    assert_eq!(c.get(Counter::CpAsyncBytes), 4 * (128 + 128) * 512 / 2);
    assert_eq!(c.get(Counter::MmaSharedBytes), 32 * (128 + 128) * 64 / 2);
    // A scale of one byte for 16 elements of A and of B.
    assert_eq!(c.get(Counter::MmaTensorBytes), 32 * (128 + 128) * 64 / 16);
    // f32 accumulators of the four tiles.
    assert_eq!(c.get(Counter::TensorLdBytes), 256 * 256 * 4);
    assert_eq!(c.get(Counter::GlobalStoreBytes), 256 * 256 * 4);
    assert_eq!(c.get(Counter::TensorCommits), 8);
}

#[test]
fn json_and_table() {
    let c = conformance("softmax_sm90");
    let json: serde_json::Value = serde_json::from_str(&c.to_json()).unwrap();
    assert_eq!(json["warp_instructions"], c.warp_instructions);
    assert_eq!(json["counters"].as_object().unwrap().len(), Counter::ALL.len());
    assert_eq!(json["counters"]["global.load.bytes"], 20 * 250 * 4);
    assert_eq!(json["mix"]["special"]["lane"], c.of_class(Class::Special).1);
    let lines = json["lines"].as_array().unwrap();
    let executed: u64 = lines.iter().map(|l| l["executed"].as_u64().unwrap()).sum();
    assert_eq!(executed + c.get(Counter::Retries), c.warp_instructions);
    assert!(json["mma"].as_array().unwrap().is_empty());
    let table = c.to_table();
    for part in ["19.53 KiB", "100 % of the bytes in them asked for", "most bytes", "special"] {
        assert!(table.contains(part), "{part} is missing:\n{table}");
    }
    assert!(!table.contains("wgmma"), "what is 0 is left out:\n{table}");
}
