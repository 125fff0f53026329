//! Kernels around tcgen05: an image in shared memory, all of tensor memory allocated, an mbarrier.

use ptx_emulator::check::{Finding, Mode};
use ptx_emulator::machine::{Argument, Schedule};

use super::{Kernel, entry, text};

/// Waits for phase 0 of the mbarrier at `smem`.
pub const WAIT: &str = "W: mbarrier.try_wait.parity.shared::cta.b64 %p5, [%r2], 0; @!%p5 bra W;\n\
                    tcgen05.fence::after_thread_sync;\n";

/// Allocates 512 columns (address in %r10, of this warp's lanes in %r11), copies the `image` (a multiple of 2 KiB) to
/// shared memory behind the first KiB, runs `body`, frees. %p2 is the first thread, %p1 the first warp, %rd2 the
/// output, at `words` words per thread and CTA rank.
pub fn program(group: u32, image: usize, words: usize, body: &str) -> String {
    let cluster =
        if group == 2 { "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;\n" } else { "" };
    let text = format!(
        "mov.u32 %r1, %tid.x; mov.u32 %r2, smem; shr.u32 %r3, %r1, 5; mov.u32 %r40, %cluster_ctarank;\n\
         setp.eq.u32 %p1, %r3, 0; setp.eq.u32 %p2, %r1, 0; ld.param.u64 %rd1, [image]; ld.param.u64 %rd2, [out];\n\
         mad.lo.u32 %r41, %r40, 128, %r1; mul.wide.u32 %rd3, %r41, {}; add.s64 %rd2, %rd2, %rd3;\n\
         @%p2 mbarrier.init.shared::cta.b64 [%r2], 1;\n\
         @%p1 tcgen05.alloc.cta_group::{group}.sync.aligned.shared::cta.b32 [%r2+16], 512;\n\
         @%p1 tcgen05.relinquish_alloc_permit.cta_group::{group}.sync.aligned;\n\
         mul.lo.u32 %r42, %r40, {image}; cvt.u64.u32 %rd4, %r42; add.s64 %rd1, %rd1, %rd4;\n\
         mul.wide.u32 %rd4, %r1, 16; add.s64 %rd1, %rd1, %rd4; cvt.u32.u64 %r4, %rd4; add.u32 %r4, %r4, %r2;\n\
         mov.u32 %r5, 0; setp.ge.u32 %p3, %r5, {chunks}; @%p3 bra filled;\n\
         fill: ld.global.v4.b32 {{%r20,%r21,%r22,%r23}}, [%rd1]; st.shared.v4.b32 [%r4+1024], {{%r20,%r21,%r22,%r23}};\n\
         add.s64 %rd1, %rd1, 2048; add.u32 %r4, %r4, 2048; add.u32 %r5, %r5, 1; setp.lt.u32 %p3, %r5, {chunks};\n\
         @%p3 bra fill;\nfilled: fence.proxy.async.shared::cta; fence.mbarrier_init.release.cluster;\n\
         tcgen05.fence::before_thread_sync;\nbar.sync 0;\n{cluster}tcgen05.fence::after_thread_sync;\n\
         ld.shared.b32 %r10, [%r2+16]; shl.b32 %r11, %r3, 21; add.u32 %r11, %r11, %r10;\n\
         add.u32 %r12, %r2, 1024; and.b32 %r12, %r12, 0x3ffff; shr.u32 %r12, %r12, 4; cvt.u64.u32 %rd5, %r12;\n\
         {body}\n\
         tcgen05.fence::before_thread_sync;\nbar.sync 0;\n{cluster}tcgen05.fence::after_thread_sync;\n\
         @%p1 tcgen05.dealloc.cta_group::{group}.sync.aligned.b32 %r10, 512;\n",
        4 * words,
        chunks = image / 2048,
    );
    entry(".param .u64 image, .param .u64 out", &text)
        .replace(".reg .b32 %r<64>", ".reg .b32 %r<64>, %x<300>")
}

pub struct Ran {
    pub findings: Vec<Finding>,
    pub words: Vec<u32>,
}

pub fn run(source: &str, ctas: u32, image: &[u8], words: usize, schedule: Schedule, mode: Mode) -> Ran {
    let mut k = Kernel::new(source, 128).cluster(ctas).schedule(schedule);
    (k.checks.mode, k.shared) = (mode, 131_072);
    let image = k.upload(if image.is_empty() { &[0; 16] } else { image });
    let n = 128 * ctas as usize * words;
    let out = k.allocate(n * 4);
    let findings = k.run(&[image, out].map(Argument::B64));
    Ran { findings, words: k.u32s(out, n) }
}

#[track_caller]
pub fn clean(source: &str, ctas: u32, image: &[u8], words: usize, schedule: Schedule) -> Vec<u32> {
    let ran = run(source, ctas, image, words, schedule, Mode::StrictPtx);
    assert!(ran.findings.is_empty(), "{schedule:?}\n{}", text(&ran.findings));
    ran.words
}

pub fn list(n: usize) -> String {
    let names: Vec<String> = (0..n).map(|i| format!("%x{i}")).collect();
    format!("{{{}}}", names.join(","))
}

/// Loads `n` columns at `column` of this warp's lanes and stores them.
pub fn dump(column: usize, n: usize) -> String {
    let mut s = format!("add.u32 %r13, %r11, {column};\n");
    s += &format!(
        "tcgen05.ld.sync.aligned.32x32b.x{n}.b32 {}, [%r13];\ntcgen05.wait::ld.sync.aligned;\n",
        list(n)
    );
    for i in 0..n {
        s += &format!("st.global.b32 [%rd2+{}], %x{i};\n", 4 * i);
    }
    s
}

pub const COMMIT: &str = "tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [%r2];\n";

/// A descriptor of the image, without its address: version 1, no swizzle.
pub fn descriptor(lbo: u64, sbo: u64, swizzle: u64) -> u64 {
    1 << 46 | (lbo >> 4) << 16 | (sbo >> 4) << 32 | swizzle << 61
}
