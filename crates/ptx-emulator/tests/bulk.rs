//! `cp.async`, and one-dimensional bulk copies and reductions.
#![allow(clippy::unwrap_used)]

mod common;

use common::pipelines::{multicast, ring};
use common::{Kernel, entry, only, pattern, schedules, text};
use ptx_emulator::check::Class;
use ptx_emulator::machine::{Argument, Schedule};

/// %rd1 = src + 16 * thread, %rd2 = out + 16 * thread, %r2 = smem, %r4 = smem + 16 * thread.
fn copy_kernel(body: &str) -> String {
    entry(
        ".param .u64 src, .param .u64 out",
        &format!(
            "ld.param.u64 %rd10, [src]; ld.param.u64 %rd11, [out]; mov.u32 %r1, %tid.x; mov.u32 %r2, smem;\n\
             setp.eq.u32 %p1, %r1, 0; shl.b32 %r3, %r1, 4; add.u32 %r4, %r2, %r3; cvt.u64.u32 %rd3, %r3;\n\
             add.u64 %rd1, %rd10, %rd3; add.u64 %rd2, %rd11, %rd3;\n{body}"
        ),
    )
}

const OUT: &str =
    "ld.shared.v4.u32 {%r10,%r11,%r12,%r13}, [%r4]; st.global.v4.u32 [%rd2], {%r10,%r11,%r12,%r13};";

fn run_copy(body: &str, threads: u32, expected: impl Fn(&[u8]) -> Vec<u8>) {
    let source = copy_kernel(body);
    let data = pattern(16 * threads as usize);
    for schedule in schedules() {
        let mut k = Kernel::new(&source, threads).schedule(schedule);
        let (src, out) = (k.upload(&data), k.allocate(data.len()));
        k.run_clean(&[src, out]);
        assert_eq!(k.bytes(out, data.len()), expected(&data), "{schedule:?}");
    }
}

#[test]
fn cp_async_sizes_and_fills() {
    run_copy(
        &format!("cp.async.cg.shared.global [%r4], [%rd1], 16; cp.async.wait_all; {OUT}"),
        64,
        <[u8]>::to_vec,
    );
    let parts = "cp.async.ca.shared.global [%r4], [%rd1], 8; mov.u32 %r5, 1;\n\
                 cp.async.ca.shared::cta.global.L2::128B [%r4+8], [%rd1+8], 4, %r5;\n\
                 setp.ge.u32 %p2, %r1, 8; cp.async.ca.shared.global [%r4+12], [%rd1+12], 4, %p2;\n\
                 cp.async.commit_group; cp.async.wait_group 0;";
    run_copy(&format!("{parts} {OUT}"), 32, |data| {
        let mut data = data.to_vec();
        for (i, part) in data.chunks_exact_mut(16).enumerate() {
            part[9..12].fill(0);
            if i >= 8 {
                part[12..].fill(0);
            }
        }
        data
    });
}

#[test]
fn cp_async_groups_and_mbarriers() {
    let groups = "mov.u32 %r20, 0; cp.async.cg.shared.global [%r4], [%rd1], 16; cp.async.commit_group;\n\
                  cp.async.cg.shared.global [%r4+1024], [%rd1], 16; cp.async.commit_group;\n\
                  cp.async.wait_group 1;";
    run_copy(&format!("{groups} {OUT} cp.async.wait_all;"), 64, <[u8]>::to_vec);
    for (form, count) in [("noinc.", 128), ("", 64)] {
        let body = format!(
            "@%p1 mbarrier.init.shared::cta.b64 [%r2+2048], {count}; bar.sync 0;\n\
             cp.async.cg.shared.global [%r4], [%rd1], 16; cp.async.mbarrier.arrive.{form}shared::cta.b64 [%r2+2048];\n\
             mbarrier.arrive.shared::cta.b64 _, [%r2+2048];\n\
             W: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r2+2048], 0; @!%p2 bra W;\n\
             xor.b32 %r4, %r4, 512; xor.b32 %r3, %r3, 512; cvt.u64.u32 %rd3, %r3; add.u64 %rd2, %rd11, %rd3; {OUT}"
        );
        run_copy(&body, 64, <[u8]>::to_vec);
    }
}

#[test]
fn cp_async_without_wait_reads_poison() {
    let source = copy_kernel(&format!("cp.async.cg.shared.global [%r4], [%rd1], 16; {OUT}"));
    let mut k = Kernel::new(&source, 32).schedule(Schedule::AsyncLate);
    let (src, out) = (k.upload(&pattern(512)), k.allocate(512));
    let found = k.run(&[Argument::B64(src), Argument::B64(out)]);
    assert!(found.iter().any(|f| f.class == Class::Uninitialised), "{}", text(&found));
}

/// A warp that polls does not keep late copies from completing.
#[test]
fn polling_beside_a_copy() {
    let body = format!(
        "@%p1 mbarrier.init.shared::cta.b64 [%r2+2048], 1; @%p1 st.shared.u32 [%r2+2056], 0; bar.sync 0;\n\
         setp.ge.u32 %p3, %r1, 32; @%p3 bra POLL;\n\
         @%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2+2048], 1024;\n\
         @%p1 cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [%r2], [%rd10], 1024, [%r2+2048];\n\
         W: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r2+2048], 0; @!%p2 bra W;\n\
         @%p1 st.release.cta.shared.u32 [%r2+2056], 1; bra.uni COPY;\n\
         POLL: ld.acquire.cta.shared.u32 %r20, [%r2+2056]; nanosleep.u32 20;\n\
         setp.eq.u32 %p4, %r20, 0; @%p4 bra POLL;\nCOPY: {OUT}"
    );
    run_copy(&body, 64, <[u8]>::to_vec);
}

#[test]
fn producer_consumer_ring() {
    let data = pattern(5120);
    let word = |at: usize| u32::from_le_bytes(data[at..at + 4].try_into().unwrap());
    let expected: Vec<u32> = (0..32)
        .map(|lane| {
            let words = (0..10).flat_map(|i| (0..4).map(move |w| i * 512 + lane * 16 + w * 4));
            words.fold(0u32, |sum, at| sum.wrapping_mul(31).wrapping_add(word(at)))
        })
        .collect();
    for schedule in schedules() {
        let mut k = Kernel::new(&ring(512), 64).schedule(schedule);
        let (src, out) = (k.upload(&data), k.allocate(128));
        k.run_clean(&[src, out]);
        assert_eq!(k.u32s(out, 32), expected, "{schedule:?}");
        // More bytes expected than come: both sides wait, and the report says for what.
        let mut k = Kernel::new(&ring(528), 64).schedule(schedule);
        let (src, out) = (k.upload(&data), k.allocate(128));
        let found = k.run(&[Argument::B64(src), Argument::B64(out)]);
        assert!(found.iter().all(|f| f.class == Class::Deadlock));
        assert!(found.iter().any(|f| f.message.contains("16 bytes pending")), "{}", text(&found));
    }
}

#[test]
fn multicast_in_clusters() {
    for (n, mask) in [(2u32, 0b11u32), (4, 0b1111), (4, 0b1011)] {
        let source = multicast(mask);
        let data: Vec<u32> = (0..64).map(|i| i * 7 + 3).collect();
        for schedule in schedules() {
            let mut k = Kernel::new(&source, 64).cluster(n).schedule(schedule);
            let (src, out) = (k.upload_u32(&data), k.upload(&[0; 1024]));
            k.run_clean(&[src, out]);
            for (cta, words) in k.u32s(out, 256).chunks_exact(64).enumerate() {
                let expected = if mask >> cta & 1 == 1 { data.clone() } else { vec![0; 64] };
                assert_eq!(words, expected, "{schedule:?} cta {cta}");
            }
        }
    }
}

#[test]
fn to_a_peer_and_reductions() {
    // Every CTA fills 256 bytes, sends them to the next one, and adds them to the one after.
    let source = entry(
        ".param .u64 out",
        "ld.param.u64 %rd2, [out]; mov.u32 %r1, %tid.x; mov.u32 %r2, smem; mov.u32 %r3, %cluster_ctarank;\n\
         setp.eq.u32 %p1, %r1, 0; @%p1 mbarrier.init.shared::cta.b64 [%r2+4096], 2; @%p1 fence.mbarrier_init.release.cluster;\n\
         shl.b32 %r4, %r1, 2; add.u32 %r5, %r2, %r4; mad.lo.u32 %r6, %r3, 1000, %r1; st.shared.u32 [%r5], %r6;\n\
         st.shared.u32 [%r5+512], 5; fence.proxy.async; barrier.cluster.arrive; barrier.cluster.wait;\n\
         @!%p1 bra WAIT;\n\
         add.u32 %r7, %r3, 1; and.b32 %r7, %r7, 3; mapa.shared::cluster.u32 %r8, %r2, %r7; add.u32 %r9, %r8, 4096;\n\
         add.u32 %r10, %r3, 2; and.b32 %r10, %r10, 3; mapa.shared::cluster.u32 %r11, %r2, %r10; add.u32 %r12, %r11, 4096;\n\
         mbarrier.arrive.expect_tx.release.cluster.shared::cluster.b64 _, [%r9], 256;\n\
         mbarrier.arrive.expect_tx.release.cluster.shared::cluster.b64 _, [%r12], 256;\n\
         add.u32 %r8, %r8, 256; add.u32 %r11, %r11, 512;\n\
         cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%r8], [%r2], 256, [%r9];\n\
         cp.reduce.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes.add.u32 [%r11], [%r2], 256, [%r12];\n\
         WAIT: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p4, [%r2+4096], 0; @!%p4 bra WAIT;\n\
         ld.shared.u32 %r13, [%r5+256]; ld.shared.u32 %r14, [%r5+512]; mad.lo.u32 %r13, %r13, 10000, %r14;\n\
         mad.lo.u32 %r15, %r3, 64, %r1; mul.wide.u32 %rd3, %r15, 4; add.u64 %rd4, %rd2, %rd3; st.global.u32 [%rd4], %r13;\n\
         barrier.cluster.arrive; barrier.cluster.wait;",
    );
    for schedule in schedules() {
        let mut k = Kernel::new(&source, 64).cluster(4).schedule(schedule);
        let out = k.allocate(1024);
        k.run_clean(&[out]);
        for (i, word) in k.u32s(out, 256).into_iter().enumerate() {
            let (cta, t) = (i as u32 / 64, i as u32 % 64);
            let (from, added) = ((cta + 3) % 4 * 1000 + t, (cta + 2) % 4 * 1000 + t + 5);
            assert_eq!(word, from.wrapping_mul(10_000).wrapping_add(added), "{schedule:?} {i}");
        }
    }
}

#[test]
fn asynchronous_stores_of_registers() {
    // Every thread of rank 0 sends its number and adds 3 in rank 1, which waits for the bytes.
    let source = entry(
        ".param .u64 out",
        "ld.param.u64 %rd2, [out]; mov.u32 %r1, %tid.x; mov.u32 %r2, smem; mov.u32 %r3, %cluster_ctarank; setp.eq.u32 %p1, %r1, 0;\n\
         setp.eq.u32 %p2, %r3, 0; mov.u32 %r10, 3; shl.b32 %r4, %r1, 3; add.u32 %r5, %r2, %r4; st.shared.v2.u32 [%r5+1024], {%r10,%r10};\n\
         @%p1 mbarrier.init.shared::cta.b64 [%r2+4096], 1; @%p1 fence.mbarrier_init.release.cluster;\n\
         @%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2+4096], 384;\n\
         barrier.cluster.arrive; barrier.cluster.wait; @!%p2 bra WAIT;\n\
         mapa.shared::cluster.u32 %r6, %r5, 1; mapa.shared::cluster.u32 %r7, %r2, 1; add.u32 %r7, %r7, 4096; add.u32 %r8, %r6, 1024;\n\
         st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%r6], {%r1, %r10}, [%r7];\n\
         red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.add.u32 [%r8], %r1, [%r7]; bra E;\n\
         WAIT: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p4, [%r2+4096], 0; @!%p4 bra WAIT;\n\
         ld.shared.v2.u32 {%r11,%r12}, [%r5]; ld.shared.u32 %r13, [%r5+1024]; mad.lo.u32 %r11, %r11, 100, %r12; mad.lo.u32 %r11, %r13, 10000, %r11;\n\
         mul.wide.u32 %rd3, %r1, 4; add.u64 %rd4, %rd2, %rd3; st.global.u32 [%rd4], %r11;\n\
         E: barrier.cluster.arrive; barrier.cluster.wait;",
    );
    for schedule in schedules() {
        let mut k = Kernel::new(&source, 32).cluster(2).schedule(schedule);
        let out = k.allocate(128);
        k.run_clean(&[out]);
        assert_eq!(k.u32s(out, 32), (0..32).map(|t| (t + 3) * 10_000 + t * 100 + 3).collect::<Vec<u32>>());
    }
}

const FILL: &str = "mov.u32 %r10, %r1; add.u32 %r11, %r1, 100; mov.u32 %r12, 7; mov.u32 %r13, 9;\n\
                    st.shared.v4.u32 [%r4], {%r10,%r11,%r12,%r13}; fence.proxy.async.shared::cta; bar.sync 0;";

#[test]
fn stores_and_reductions_to_global() {
    let run = |line: &str, before: u32| {
        let source = copy_kernel(&format!(
            "{FILL} @!%p1 bra E; {line} cp.async.bulk.commit_group; cp.async.bulk.wait_group 0; E:"
        ));
        let mut last = Vec::new();
        for schedule in schedules() {
            let mut k = Kernel::new(&source, 32).schedule(schedule);
            let out = k.upload_u32(&[before; 128]);
            k.run_clean(&[0, out]);
            last = k.u32s(out, 128);
        }
        last
    };
    let filled = |i: usize| [i as u32 / 4, i as u32 / 4 + 100, 7, 9][i % 4];
    let all = |f: &dyn Fn(usize) -> u32| (0..128).map(f).collect::<Vec<u32>>();
    let store = "cp.async.bulk.global.shared::cta.bulk_group [%rd11], [%r2], 512;";
    assert_eq!(run(store, 1), all(&filled));
    let masked =
        "mov.u16 %h1, 0xf00f; cp.async.bulk.global.shared::cta.bulk_group.cp_mask [%rd11], [%r2], 512, %h1;";
    assert_eq!(run(masked, 1), all(&|i| if i % 4 == 0 || i % 4 == 3 { filled(i) } else { 1 }));
    let reduce =
        |op: &str| format!("cp.reduce.async.bulk.global.shared::cta.bulk_group.{op} [%rd11], [%r2], 512;");
    assert_eq!(run(&reduce("add.u32"), 5), all(&|i| filled(i) + 5));
    assert_eq!(run(&reduce("max.s32"), u32::MAX), all(&filled));
    assert_eq!(run(&reduce("xor.b32"), 3), all(&|i| filled(i) ^ 3));
    // Small integers are subnormal floats: flushed, as the instruction is documented.
    assert_eq!(run(&reduce("add.f32"), 2.5f32.to_bits()), [2.5f32.to_bits(); 128]);
}

/// Two warps store one tile to one place: no race, whichever is last. Two different tiles are one.
#[test]
fn stores_of_one_tile() {
    let source = |second: &str| {
        copy_kernel(&format!(
            "shr.u32 %r5, %r1, 5; and.b32 %r6, %r1, 31; setp.eq.u32 %p2, %r6, 0; mov.u32 %r10, %r6; mov.u32 %r11, {second};\n\
             st.shared.v2.u32 [%r4], {{%r10, %r11}}; st.shared.v2.u32 [%r4+8], {{%r10, %r11}};\n\
             fence.proxy.async.shared::cta; bar.sync 0; mad.lo.u32 %r7, %r5, 512, %r2;\n\
             @!%p2 bra E; cp.async.bulk.global.shared::cta.bulk_group [%rd11], [%r7], 512;\n\
             cp.async.bulk.commit_group; cp.async.bulk.wait_group 0; E:"
        ))
    };
    for schedule in schedules() {
        let run = |second: &str| {
            let mut k = Kernel::new(&source(second), 64).schedule(schedule);
            let out = k.allocate(512);
            (k.run(&[Argument::B64(0), Argument::B64(out)]), k.u32s(out, 128))
        };
        let (findings, words) = run("7");
        assert!(findings.is_empty(), "{schedule:?} {findings:?}");
        assert!((0..32).all(|i| words[4 * i..][..4] == [i as u32, 7, i as u32, 7]), "{words:?}");
        only(&run("%r5").0, Class::Race);
    }
    // Of two CTAs it is one.
    let mut k = Kernel::new(&source("7"), 32);
    k.grid = [2, 1, 1];
    let out = k.allocate(512);
    only(&k.run(&[Argument::B64(0), Argument::B64(out)]), Class::Race);
}

#[test]
fn stores_that_nobody_waits_for() {
    let find = |tail: &str| {
        let source = copy_kernel(&format!(
            "{FILL} @%p1 cp.async.bulk.global.shared::cta.bulk_group [%rd11], [%r2], 512; {tail}"
        ));
        let mut k = Kernel::new(&source, 32);
        let out = k.allocate(512);
        k.run(&[Argument::B64(0), Argument::B64(out)])
    };
    only(&find(""), Class::UseAfterFree);
    only(&find("@%p1 cp.async.bulk.commit_group;"), Class::UseAfterFree);
    assert!(find("@%p1 cp.async.bulk.commit_group; @%p1 cp.async.bulk.wait_group.read 0;").is_empty());
}

#[test]
fn misuse_is_found() {
    let find = |body: &str| {
        let source = copy_kernel(&format!(
            "@%p1 mbarrier.init.shared::cta.b64 [%r2+4096], 1; bar.sync 0; @!%p1 bra E; {body}\n\
             W: mbarrier.try_wait.parity.shared::cta.b64 %p4, [%r2+4096], 0; @!%p4 bra W; E:"
        ));
        let mut k = Kernel::new(&source, 32);
        let src = k.upload(&[1; 256]);
        k.run(&[Argument::B64(src), Argument::B64(0)])
    };
    let load = |dst: &str, src: &str, n: u32| {
        format!(
            "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2+4096], {n};\n\
             cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [{dst}], [{src}], {n}, [%r2+4096];"
        )
    };
    assert!(find(&load("%r2", "%rd10", 256)).is_empty());
    only(&find(&load("%r2+8", "%rd10", 256)), Class::Misaligned);
    only(&find(&load("%r2", "%rd10+4", 128)), Class::Misaligned);
    only(&find(&load("%r2", "%rd10+16", 256)), Class::OutOfBounds);
    let covers = find(&load("%r2+4000", "%rd10", 112));
    assert!(covers.iter().any(|f| f.class == Class::Mbarrier && f.message.contains("covers")));
    // A copy that completes bytes nobody expects: the phase ends too early or not at all.
    let over = "cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [%r2], [%rd10], 64, [%r2+4096];\n\
                mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2+4096], 32;";
    only(&find(over), Class::Deadlock);
}

/// `cp.async` writes through the generic proxy: to have waited for it is not enough for a bulk copy of the data.
#[test]
fn cp_async_needs_a_proxy_fence() {
    for fence in ["", "fence.proxy.async.shared::cta;"] {
        for (wait, before) in [
            ("cp.async.wait_all;", ""),
            ("cp.async.commit_group; cp.async.wait_group 0;", ""),
            (
                "cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%r2+2048];\n\
                 W: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r2+2048], 0; @!%p2 bra W;",
                "mbarrier.init.shared::cta.b64 [%r2+2048], 1;",
            ),
        ] {
            let body = format!(
                "mov.u32 %r2, smem; ld.param.u64 %rd1, [a]; ld.param.u64 %rd2, [b]; {before}\n\
                 cp.async.cg.shared.global [%r2], [%rd1], 16; {wait} {fence}\n\
                 cp.async.bulk.global.shared::cta.bulk_group [%rd2], [%r2], 16;\n\
                 cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;"
            );
            for schedule in schedules() {
                let mut k = Kernel::new(&entry(".param .u64 a, .param .u64 b", &body), 1).schedule(schedule);
                let (a, b) = (k.upload(&pattern(16)), k.allocate(16));
                let found = k.run(&[Argument::B64(a), Argument::B64(b)]);
                if fence.is_empty() {
                    only(&found, Class::ProxyRace);
                } else {
                    assert!(found.is_empty(), "{wait}: {}", text(&found));
                }
                assert_eq!(k.bytes(b, 16), pattern(16));
            }
        }
    }
}
