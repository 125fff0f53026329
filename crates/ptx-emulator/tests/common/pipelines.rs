//! Pipelines of copies and mbarriers.

use super::entry;

/// A producer thread in warp 0 and a consumer warp 1, 3 stages of 512 bytes, 10 rounds. `expect`: bytes.
pub fn ring(expect: u32) -> String {
    entry(
        ".param .u64 src, .param .u64 out",
        &format!(
            "ld.param.u64 %rd1, [src]; ld.param.u64 %rd2, [out]; mov.u32 %r1, %tid.x; mov.u32 %r2, smem;\n\
             add.u32 %r3, %r2, 4096; add.u32 %r4, %r2, 4128; setp.ne.u32 %p1, %r1, 0; @%p1 bra INITED;\n\
             mbarrier.init.shared::cta.b64 [%r3], 1; mbarrier.init.shared::cta.b64 [%r3+8], 1; mbarrier.init.shared::cta.b64 [%r3+16], 1;\n\
             mbarrier.init.shared::cta.b64 [%r4], 32; mbarrier.init.shared::cta.b64 [%r4+8], 32; mbarrier.init.shared::cta.b64 [%r4+16], 32;\n\
             fence.mbarrier_init.release.cluster;\n\
             INITED: bar.sync 0; mov.u32 %r5, 0; mov.u32 %r6, 0; mov.u32 %r7, 0; mov.u32 %r20, 0;\n\
             setp.ge.u32 %p2, %r1, 32; @%p2 bra CONSUMER; @%p1 bra DONE;\n\
             PRODUCER: shl.b32 %r8, %r6, 3; add.u32 %r9, %r3, %r8; add.u32 %r10, %r4, %r8; xor.b32 %r11, %r7, 1;\n\
             PW: mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r10], %r11; @!%p3 bra PW;\n\
             mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r9], {expect};\n\
             shl.b32 %r12, %r6, 9; add.u32 %r12, %r12, %r2; mul.wide.u32 %rd3, %r5, 512; add.u64 %rd4, %rd1, %rd3;\n\
             cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r12], [%rd4], 512, [%r9];\n\
             add.u32 %r5, %r5, 1; add.u32 %r6, %r6, 1; setp.eq.u32 %p4, %r6, 3; @%p4 xor.b32 %r7, %r7, 1; @%p4 mov.u32 %r6, 0;\n\
             setp.lt.u32 %p5, %r5, 10; @%p5 bra PRODUCER; bra DONE;\n\
             CONSUMER: shl.b32 %r8, %r6, 3; add.u32 %r9, %r3, %r8; add.u32 %r10, %r4, %r8;\n\
             CW: mbarrier.try_wait.parity.shared::cta.b64 %p3, [%r9], %r7; @!%p3 bra CW;\n\
             shl.b32 %r12, %r6, 9; add.u32 %r12, %r12, %r2; and.b32 %r13, %r1, 31; shl.b32 %r13, %r13, 4; add.u32 %r12, %r12, %r13;\n\
             ld.shared.v4.u32 {{%r14,%r15,%r16,%r17}}, [%r12];\n\
             mad.lo.u32 %r20, %r20, 31, %r14; mad.lo.u32 %r20, %r20, 31, %r15; mad.lo.u32 %r20, %r20, 31, %r16; mad.lo.u32 %r20, %r20, 31, %r17;\n\
             mbarrier.arrive.shared::cta.b64 _, [%r10];\n\
             add.u32 %r5, %r5, 1; add.u32 %r6, %r6, 1; setp.eq.u32 %p4, %r6, 3; @%p4 xor.b32 %r7, %r7, 1; @%p4 mov.u32 %r6, 0;\n\
             setp.lt.u32 %p5, %r5, 10; @%p5 bra CONSUMER;\n\
             and.b32 %r13, %r1, 31; mul.wide.u32 %rd3, %r13, 4; add.u64 %rd4, %rd2, %rd3; st.global.u32 [%rd4], %r20;\n\
             DONE:"
        ),
    )
}

/// Rank 1 of a cluster loads 256 bytes for the CTAs of a mask, which check in.
pub fn multicast(mask: u32) -> String {
    entry(
        ".param .u64 src, .param .u64 out",
        &format!(
            "ld.param.u64 %rd1, [src]; ld.param.u64 %rd2, [out]; mov.u32 %r1, %tid.x; mov.u32 %r2, smem;\n\
                 mov.u32 %r3, %cluster_ctarank; setp.eq.u32 %p1, %r1, 0; mov.u32 %r4, {mask}; shr.u32 %r5, %r4, %r3; and.b32 %r5, %r5, 1;\n\
                 setp.eq.u32 %p2, %r5, 1; setp.eq.and.u32 %p3, %r3, 1, %p1; cvt.u16.u32 %h1, %r4;\n\
                 @%p1 mbarrier.init.shared::cta.b64 [%r2+1024], 1; @%p1 fence.mbarrier_init.release.cluster;\n\
                 @%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2+1024], 256;\n\
                 barrier.cluster.arrive; barrier.cluster.wait;\n\
                 @%p3 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%r2], [%rd1], 256, [%r2+1024], %h1;\n\
                 @!%p2 bra E;\n\
                 W: mbarrier.try_wait.parity.shared::cta.b64 %p4, [%r2+1024], 0; @!%p4 bra W;\n\
                 shl.b32 %r6, %r1, 2; add.u32 %r7, %r2, %r6; ld.shared.u32 %r8, [%r7];\n\
                 mad.lo.u32 %r9, %r3, 64, %r1; mul.wide.u32 %rd3, %r9, 4; add.u64 %rd4, %rd2, %rd3; st.global.u32 [%rd4], %r8;\n\
                 E: barrier.cluster.arrive; barrier.cluster.wait;"
        ),
    )
}

/// K steps of [`gemm`].
pub const GEMM_STEPS: usize = 6;

/// Bytes of A (64 x 16) and B (8 x 16) of a step of [`gemm`], in bf16.
pub const GEMM_STEP: usize = 2048 + 256;

/// A warp-specialised matrix product: a producer thread in warp 4, a consumer warpgroup, two stages of bulk copies, one
/// wgmma m64n8k16 a step. Core matrices of 128 bytes are 128 bytes apart along K, 256 along M; A and B of a step lie
/// behind each other.
pub fn gemm() -> String {
    let advance = format!(
        "add.u32 %r5, %r5, 1; add.u32 %r6, %r6, 1; setp.eq.u32 %p5, %r6, 2; @%p5 xor.b32 %r7, %r7, 1;\n\
         @%p5 mov.u32 %r6, 0; setp.lt.u32 %p6, %r5, {GEMM_STEPS};"
    );
    let stage = format!(
        "shl.b32 %r8, %r6, 3; add.u32 %r9, %r3, %r8; add.u32 %r10, %r4, %r8; mad.lo.u32 %r12, %r6, {GEMM_STEP}, %r2;"
    );
    entry(
        ".param .u64 src, .param .u64 out",
        &format!(
            "ld.param.u64 %rd1, [src]; ld.param.u64 %rd2, [out]; mov.u32 %r1, %tid.x; mov.u32 %r2, smem;\n\
             add.u32 %r3, %r2, 8192; add.u32 %r4, %r2, 8208; setp.ne.u32 %p1, %r1, 0; @%p1 bra INITED;\n\
             mbarrier.init.shared::cta.b64 [%r3], 1; mbarrier.init.shared::cta.b64 [%r3+8], 1;\n\
             mbarrier.init.shared::cta.b64 [%r4], 1; mbarrier.init.shared::cta.b64 [%r4+8], 1;\n\
             fence.mbarrier_init.release.cluster;\n\
             INITED: bar.sync 0; mov.u32 %r5, 0; mov.u32 %r6, 0; mov.u32 %r7, 0;\n\
             setp.lt.u32 %p2, %r1, 128; @%p2 bra CONSUMER; setp.ne.u32 %p3, %r1, 128; @%p3 bra DONE;\n\
             PRODUCER: {stage} xor.b32 %r11, %r7, 1;\n\
             PW: mbarrier.try_wait.parity.shared::cta.b64 %p4, [%r10], %r11; @!%p4 bra PW;\n\
             mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r9], {GEMM_STEP};\n\
             mul.wide.u32 %rd3, %r5, {GEMM_STEP}; add.u64 %rd4, %rd1, %rd3; add.u32 %r13, %r12, 2048; add.u64 %rd5, %rd4, 2048;\n\
             cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r12], [%rd4], 2048, [%r9];\n\
             cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r13], [%rd5], 256, [%r9];\n\
             {advance} @%p6 bra PRODUCER; bra DONE;\n\
             CONSUMER: mov.f32 %f1, 0f00000000; mov.f32 %f2, %f1; mov.f32 %f3, %f1; mov.f32 %f4, %f1;\n\
             STEP: {stage} shr.u32 %r13, %r12, 4; cvt.u64.u32 %rd3, %r13; or.b64 %rd4, %rd3, {}; add.u64 %rd5, %rd4, 128;\n\
             CW: mbarrier.try_wait.parity.shared::cta.b64 %p4, [%r9], %r7; @!%p4 bra CW;\n\
             wgmma.fence.sync.aligned;\n\
             wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {{%f1,%f2,%f3,%f4}}, %rd4, %rd5, 1, 1, 1, 0, 0;\n\
             wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;\n\
             @!%p1 mbarrier.arrive.shared::cta.b64 _, [%r10];\n\
             {advance} @%p6 bra STEP;\n\
             mul.wide.u32 %rd7, %r1, 16; add.s64 %rd8, %rd2, %rd7; st.global.v4.f32 [%rd8], {{%f1,%f2,%f3,%f4}};\n\
             DONE:",
            (256u64 >> 4) << 32 | (128 >> 4) << 16,
        ),
    )
    .replace("sm_100a", "sm_90a")
}
