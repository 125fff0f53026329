//! Every kind of mutation: what it makes of instructions, and that the result loads.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;

use common::entry;
use ptx_emulator::mutate::{KINDS, kinds, mutants};
use ptx_emulator::program::load;

/// Kind, instruction, what replaces it; no replacement: the kind does not apply. Every one loads.
const EDITS: &[(&str, &str, Option<&str>)] = &[
    ("delete-fence", "fence.acq_rel.gpu;", Some("")),
    ("delete-fence", "fence.proxy.async.shared::cta;", Some("")),
    ("delete-fence", "fence.mbarrier_init.release.cluster;", Some("")),
    ("delete-fence", "membar.gl;", Some("")),
    ("delete-fence", "tcgen05.fence::before_thread_sync;", Some("")),
    ("delete-fence", "tcgen05.fence::after_thread_sync;", Some("")),
    ("delete-fence", "bar.sync 0;", None),
    ("relax", "ld.acquire.gpu.global.b32 %r1, [%rd1];", Some("ld.relaxed.gpu.global.b32 %r1, [%rd1];")),
    ("relax", "@!%p1 st.release.sys.b32 [%rd1], %r1;", Some("@!%p1 st.relaxed.sys.b32 [%rd1], %r1;")),
    (
        "relax",
        "atom.acq_rel.gpu.global.add.u32 %r1, [%rd1], 1;",
        Some("atom.relaxed.gpu.global.add.u32 %r1, [%rd1], 1;"),
    ),
    ("relax", "red.release.gpu.global.add.u32 [%rd1], 1;", Some("red.relaxed.gpu.global.add.u32 [%rd1], 1;")),
    ("relax", "ld.relaxed.gpu.global.b32 %r1, [%rd1];", None),
    ("relax", "ld.global.b32 %r1, [%rd1];", None),
    (
        "relax",
        "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2], 256;",
        Some("mbarrier.arrive.expect_tx.relaxed.cta.shared::cta.b64 _, [%r2], 256;"),
    ),
    (
        "relax",
        "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r2];",
        Some("mbarrier.arrive.relaxed.cluster.shared::cluster.b64 _, [%r2];"),
    ),
    (
        "relax",
        "mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r2], %r3;",
        Some("mbarrier.try_wait.parity.relaxed.cta.shared::cta.b64 %p1, [%r2], %r3;"),
    ),
    (
        "relax",
        "mbarrier.test_wait.shared::cta.b64 %p1, [%r2], %rd3;",
        Some("mbarrier.test_wait.relaxed.cta.shared::cta.b64 %p1, [%r2], %rd3;"),
    ),
    ("relax", "barrier.cluster.arrive.aligned;", Some("barrier.cluster.arrive.relaxed.aligned;")),
    ("relax", "barrier.cluster.arrive.release;", Some("barrier.cluster.arrive.relaxed;")),
    ("narrow-scope", "fence.acq_rel.gpu;", Some("fence.acq_rel.cta;")),
    ("narrow-scope", "membar.sys;", Some("membar.gl;")),
    ("narrow-scope", "membar.gl;", Some("membar.cta;")),
    ("narrow-scope", "fence.sc.cta;", None),
    ("narrow-scope", "fence.mbarrier_init.release.cluster;", None),
    ("narrow-scope", "fence.proxy.async.global;", None),
    (
        "narrow-scope",
        "ld.acquire.sys.global.b32 %r1, [%rd1];",
        Some("ld.acquire.gpu.global.b32 %r1, [%rd1];"),
    ),
    (
        "narrow-scope",
        "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r2];",
        Some("mbarrier.arrive.release.cta.shared::cluster.b64 _, [%r2];"),
    ),
    ("delete-wait", "cp.async.wait_group 2;", Some("")),
    ("delete-wait", "cp.async.wait_all;", Some("")),
    ("delete-wait", "cp.async.bulk.wait_group.read 0;", Some("")),
    ("delete-wait", "tcgen05.wait::ld.sync.aligned;", Some("")),
    ("delete-wait", "tcgen05.wait::st.sync.aligned;", Some("")),
    ("delete-wait", "griddepcontrol.wait;", Some("")),
    ("delete-wait", "barrier.cluster.wait.acquire.aligned;", Some("")),
    (
        "delete-wait",
        "mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r2], 0;",
        Some("setp.eq.u32 %p1, 0, 0;"),
    ),
    (
        "delete-wait",
        "@%p2 mbarrier.test_wait.shared::cta.b64 %p1, [%r2], %rd3;",
        Some("@%p2 setp.eq.u32 %p1, 0, 0;"),
    ),
    ("shorten-wait", "cp.async.wait_group 2;", Some("cp.async.wait_group 3;")),
    ("shorten-wait", "cp.async.bulk.wait_group 0;", Some("cp.async.bulk.wait_group 1;")),
    ("wait-for-reads", "cp.async.bulk.wait_group 0;", Some("cp.async.bulk.wait_group.read 0;")),
    ("wait-for-reads", "cp.async.bulk.wait_group.read 0;", None),
    (
        "flip-parity",
        "mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r2], %r3;",
        Some(
            "{ .reg .b32 %mutated; xor.b32 %mutated, %r3, 1; mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r2], %mutated; }",
        ),
    ),
    ("flip-parity", "mbarrier.test_wait.shared::cta.b64 %p1, [%r2], %rd3;", None),
    ("delete-commit", "cp.async.commit_group;", Some("")),
    ("delete-commit", "cp.async.bulk.commit_group;", Some("")),
    (
        "delete-commit",
        "tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [%r2];",
        Some(""),
    ),
    ("delete-arrive", "mbarrier.arrive.shared::cta.b64 %rd1, [%r2];", Some("")),
    ("delete-arrive", "mbarrier.arrive_drop.shared::cta.b64 _, [%r2];", Some("")),
    ("delete-arrive", "cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%r2];", Some("")),
    ("delete-arrive", "barrier.cluster.arrive.aligned;", Some("")),
    ("delete-expect-tx", "mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%r2], 256;", Some("")),
    (
        "delete-expect-tx",
        "@%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2], %r3;",
        Some("@%p1 mbarrier.arrive.shared::cta.b64 _, [%r2];"),
    ),
    ("delete-expect-tx", "mbarrier.arrive.shared::cta.b64 _, [%r2];", None),
    (
        "expect-tx-more",
        "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2], 256;",
        Some("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2], 272;"),
    ),
    (
        "expect-tx-less",
        "@%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2], %r3;",
        Some(
            "{ .reg .b32 %mutated; add.s32 %mutated, %r3, -16; \
             @%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2], %mutated; }",
        ),
    ),
    (
        "count-noinc",
        "cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%r2];",
        Some("cp.async.mbarrier.arrive.shared::cta.b64 [%r2];"),
    ),
    ("count-noinc", "cp.async.mbarrier.arrive.shared::cta.b64 [%r2];", None),
    (
        "drop-multicast",
        "tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.multicast::cluster.b64 [%r2], %h1;",
        Some("tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [%r2];"),
    ),
    (
        "drop-multicast",
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster.L2::cache_hint \
         [%r2], [%rd1], 256, [%r3], %h1, %rd2;",
        Some(
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint \
             [%r2], [%rd1], 256, [%r3], %rd2;",
        ),
    ),
    (
        "drop-multicast",
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r2], [%rd1], 256, [%r3];",
        None,
    ),
    ("delete-init", "@%p1 mbarrier.init.shared::cta.b64 [%r2], 1;", Some("")),
    (
        "init-count-more",
        "mbarrier.init.shared::cta.b64 [%r2], 1;",
        Some("mbarrier.init.shared::cta.b64 [%r2], 2;"),
    ),
    (
        "init-count-less",
        "mbarrier.init.shared::cta.b64 [%r2], 4;",
        Some("mbarrier.init.shared::cta.b64 [%r2], 3;"),
    ),
    ("delete-inval", "mbarrier.inval.shared::cta.b64 [%r2];", Some("")),
    ("delete-barrier", "bar.sync 1, 64;", Some("")),
    ("delete-barrier", "barrier.cta.arrive 1, 64;", Some("")),
    ("delete-barrier", "bar.warp.sync -1;", None),
    ("delete-barrier", "barrier.cluster.arrive;", None),
    ("delete-warp-sync", "bar.warp.sync -1;", Some("")),
    ("drop-red", "red.global.add.f32 [%rd1], %f1;", Some("")),
    (
        "drop-atom",
        "atom.acquire.gpu.global.cas.b32 %r1, [%rd1+4], 0, 1;",
        Some("ld.global.b32 %r1, [%rd1+4];"),
    ),
    (
        "drop-atom",
        "atom.shared::cta.add.noftz.f16x2 %r1, [%r2], %r3;",
        Some("ld.shared::cta.b32 %r1, [%r2];"),
    ),
    ("drop-atom", "atom.global.add.f32 %f1, [%rd1], %f2;", Some("ld.global.b32 %f1, [%rd1];")),
    ("drop-atom", "atom.global.add.u32 _, [%rd1], 1;", Some("")),
    (
        "toggle-accumulate",
        "tcgen05.mma.cta_group::1.kind::f16 [%r1], %rd1, %rd2, %r2, %p1;",
        Some(
            "{ .reg .pred %mutated; not.pred %mutated, %p1; \
             tcgen05.mma.cta_group::1.kind::f16 [%r1], %rd1, %rd2, %r2, %mutated; }",
        ),
    ),
    (
        "toggle-accumulate",
        "tcgen05.mma.cta_group::1.kind::mxf4nvf4.block_scale.block16 [%r1], %rd1, %rd2, %r2, [%r3], [%r4], !%p1;",
        Some(
            "tcgen05.mma.cta_group::1.kind::mxf4nvf4.block_scale.block16 [%r1], %rd1, %rd2, %r2, [%r3], [%r4], %p1;",
        ),
    ),
    (
        "swap-descriptors",
        "tcgen05.mma.cta_group::1.kind::f16 [%r1], %rd1, %rd2, %r2, %p1;",
        Some("tcgen05.mma.cta_group::1.kind::f16 [%r1], %rd2, %rd1, %r2, %p1;"),
    ),
    ("swap-descriptors", "tcgen05.mma.cta_group::1.kind::f16 [%r1], [%r5], %rd2, %r2, %p1;", None),
    (
        "swap-scales",
        "@%p2 tcgen05.mma.cta_group::1.kind::mxf4nvf4.block_scale.block16 [%r1], %rd1, %rd2, %r2, [%r3], [%r4], %p1;",
        Some(
            "@%p2 tcgen05.mma.cta_group::1.kind::mxf4nvf4.block_scale.block16 \
             [%r1], %rd1, %rd2, %r2, [%r4], [%r3], %p1;",
        ),
    ),
    ("swap-scales", "tcgen05.mma.cta_group::1.kind::f16 [%r1], %rd1, %rd2, %r2, %p1;", None),
    (
        "shift-scale-a",
        "tcgen05.mma.cta_group::1.kind::mxf4nvf4.block_scale.block16 [%r1], %rd1, %rd2, %r2, [%r3], [%r4], %p1;",
        Some(
            "tcgen05.mma.cta_group::1.kind::mxf4nvf4.block_scale.block16 [%r1], %rd1, %rd2, %r2, [%r3+1], [%r4], %p1;",
        ),
    ),
    (
        "shift-scale-b",
        "tcgen05.mma.cta_group::1.kind::mxf4nvf4.block_scale.block16 [%r1], %rd1, %rd2, %r2, [%r3], [%r4+4], %p1;",
        Some(
            "tcgen05.mma.cta_group::1.kind::mxf4nvf4.block_scale.block16 [%r1], %rd1, %rd2, %r2, [%r3], [%r4+5], %p1;",
        ),
    ),
    (
        "shift-copy-column",
        "tcgen05.cp.cta_group::1.32x128b.warpx4 [%r1], %rd5;",
        Some("tcgen05.cp.cta_group::1.32x128b.warpx4 [%r1+1], %rd5;"),
    ),
    (
        "shift-copy-row",
        "tcgen05.cp.cta_group::1.32x128b.warpx4 [%r1], %rd5;",
        Some(
            "{ .reg .b64 %mutated; add.s64 %mutated, %rd5, 1; \
             tcgen05.cp.cta_group::1.32x128b.warpx4 [%r1], %mutated; }",
        ),
    ),
    (
        "swap-pair",
        "cvt.rn.f16x2.e4m3x2 %r1, %h1;",
        Some("cvt.rn.f16x2.e4m3x2 %r1, %h1; shf.l.wrap.b32 %r1, %r1, %r1, 16;"),
    ),
    ("swap-pair", "cvt.rn.f16x2.f32 %r1, %f1, %f2;", None),
    ("swap-pair", "cvt.rn.satfinite.e4m3x2.f32 %h1, %f1, %f2;", None),
    ("parameter-before", "ld.param.b64 %rd1, [k_param_1];", Some("ld.param.b64 %rd1, [k_param_0];")),
    ("parameter-before", "ld.param.u64 %rd1, [k_param_0];", None),
    ("delete-dealloc", "tcgen05.dealloc.cta_group::1.sync.aligned.b32 %r1, 256;", Some("")),
];

const WGMMA: &[(&str, &str, Option<&str>)] = &[
    ("delete-fence", "wgmma.fence.sync.aligned;", Some("")),
    ("delete-wait", "wgmma.wait_group.sync.aligned 0;", Some("")),
    ("shorten-wait", "wgmma.wait_group.sync.aligned 0;", Some("wgmma.wait_group.sync.aligned 1;")),
    ("delete-commit", "wgmma.commit_group.sync.aligned;", Some("")),
    (
        "toggle-accumulate",
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f1,%f2,%f3,%f4}, %rd1, %rd2, 0, 1, 1, 0, 0;",
        Some(
            "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f1, %f2, %f3, %f4}, %rd1, %rd2, 1, 1, 1, 0, 0;",
        ),
    ),
    (
        "swap-descriptors",
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f1,%f2,%f3,%f4}, %rd1, %rd2, %p1, 1, 1, 0, 0;",
        Some(
            "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f1, %f2, %f3, %f4}, %rd2, %rd1, %p1, 1, 1, 0, 0;",
        ),
    ),
    (
        "swap-descriptors",
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f1,%f2,%f3,%f4}, {%r1,%r2,%r3,%r4}, %rd2, %p1, 1, 1, 0;",
        None,
    ),
];

#[test]
fn every_kind() {
    let parameters = ".param .u64 k_param_0, .param .u64 k_param_1";
    let sources = EDITS.iter().map(|e| (e, entry(parameters, e.1)));
    let hopper = WGMMA.iter().map(|e| (e, entry(parameters, e.1).replace("sm_100a", "sm_90a")));
    for ((kind, instruction, expected), source) in sources.chain(hopper) {
        load(&source).unwrap_or_else(|e| panic!("{instruction}: {e}"));
        let found = mutants(&source, "k", &kinds(&[kind]).unwrap()).unwrap();
        let replacements: Vec<&str> = found.iter().map(|m| m.replacement.as_str()).collect();
        assert_eq!(replacements, expected.iter().copied().collect::<Vec<_>>(), "{kind}: {instruction}");
        for mutant in found {
            let mutated = mutant.apply(&source);
            assert_eq!(mutated, source.replace(instruction, expected.unwrap()), "{kind}");
            load(&mutated).unwrap_or_else(|e| panic!("{kind}: {instruction}: {e}"));
        }
    }
    let tested: BTreeSet<&str> =
        EDITS.iter().chain(WGMMA).filter(|(_, _, expected)| expected.is_some()).map(|e| e.0).collect();
    let names: BTreeSet<&str> = KINDS.iter().map(|k| k.name).collect();
    assert_eq!(names.len(), KINDS.len(), "names are unique");
    assert_eq!(tested, names);
    assert!(kinds(&["delete-fences"]).unwrap_err().to_string().contains("delete-fence,"));
}
