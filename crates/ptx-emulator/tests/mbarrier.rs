//! mbarriers: counts, phases, waits, misuse, deadlock reports.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Kernel, entry, only, schedules, text};
use ptx_emulator::check::{Class, Finding};
use ptx_emulator::machine::Argument;

/// %r1 = thread, %r2 = smem (the mbarrier), %rd1 = output; %r9 is stored to out[thread].
fn kernel(body: &str) -> String {
    entry(
        ".param .u64 out",
        &format!(
            "ld.param.u64 %rd1, [out]; mov.u32 %r1, %tid.x; mov.u32 %r2, smem; mov.u32 %r9, 0;\n\
             setp.eq.u32 %p1, %r1, 0;\n{body}\n\
             mul.wide.u32 %rd2, %r1, 4; add.u64 %rd1, %rd1, %rd2; st.global.u32 [%rd1], %r9;"
        ),
    )
}

const INIT: &str = "fence.mbarrier_init.release.cluster; bar.sync 0;";

fn run(body: &str, threads: u32) -> (Vec<Finding>, Vec<u32>) {
    let mut k = Kernel::new(&kernel(body), threads);
    let out = k.allocate(4 * threads as usize);
    let found = k.run(&[Argument::B64(out)]);
    let words = k.u32s(out, threads as usize);
    (found, words)
}

#[test]
fn all_threads_arrive_and_wait() {
    // Three phases; every thread adds what its neighbour has written.
    let source = kernel(&format!(
        "@%p1 mbarrier.init.shared::cta.b64 [%r2], 64; {INIT}\n\
         shl.b32 %r3, %r1, 2; add.u32 %r3, %r3, %r2; xor.b32 %r4, %r3, 128; mov.u32 %r10, 0;\n\
         L: add.u32 %r11, %r1, %r10; st.shared.u32 [%r3+64], %r11; and.b32 %r12, %r10, 1;\n\
         mbarrier.arrive.shared::cta.b64 _, [%r2];\n\
         W: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r2], %r12, 0x989680; @!%p2 bra W;\n\
         ld.shared.u32 %r13, [%r4+64]; add.u32 %r9, %r9, %r13;\n\
         mbarrier.arrive.shared::cta.b64 %rd5, [%r2];\n\
         V: mbarrier.test_wait.shared::cta.b64 %p2, [%r2], %rd5; @!%p2 bra V;\n\
         add.u32 %r10, %r10, 2; setp.lt.u32 %p3, %r10, 6; @%p3 bra L;"
    ))
    .replace("and.b32 %r12, %r10, 1;", "mov.u32 %r12, 0;");
    for schedule in schedules() {
        let mut k = Kernel::new(&source, 64).schedule(schedule);
        let out = k.allocate(256);
        k.run_clean(&[out]);
        assert_eq!(k.u32s(out, 64), (0..64).map(|t| 3 * (t ^ 32) + 6).collect::<Vec<u32>>(), "{schedule:?}");
    }
}

#[test]
fn parities_of_a_fresh_barrier_and_pending_count() {
    let (found, words) = run(
        &format!(
            "mbarrier.init.shared::cta.b64 [%r2], 4; {INIT}\n\
             mbarrier.test_wait.parity.shared::cta.b64 %p2, [%r2], 1; @%p2 add.u32 %r9, %r9, 1;\n\
             mbarrier.test_wait.parity.shared::cta.b64 %p2, [%r2], 0; @%p2 add.u32 %r9, %r9, 2;\n\
             mbarrier.arrive.noComplete.shared::cta.b64 %rd3, [%r2], 2; mbarrier.pending_count.b64 %r10, %rd3;\n\
             mad.lo.u32 %r9, %r10, 100, %r9;\n\
             mbarrier.arrive.release.cta.shared::cta.b64 %rd4, [%r2], 2;\n\
             mbarrier.test_wait.shared::cta.b64 %p2, [%r2], %rd4; @%p2 add.u32 %r9, %r9, 4;\n\
             mbarrier.test_wait.parity.shared::cta.b64 %p2, [%r2], 0; @%p2 add.u32 %r9, %r9, 8;\n\
             mbarrier.test_wait.parity.shared::cta.b64 %p2, [%r2], 1; @%p2 add.u32 %r9, %r9, 16;"
        ),
        1,
    );
    assert!(found.is_empty(), "{}", text(&found));
    assert_eq!(words, [413]);
}

#[test]
fn bytes_hold_a_phase_open() {
    let (found, words) = run(
        &format!(
            "mbarrier.init.shared::cta.b64 [%r2], 1; {INIT}\n\
             mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%r2], 100;\n\
             mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2], 28;\n\
             mbarrier.test_wait.parity.shared::cta.b64 %p2, [%r2], 0; @%p2 add.u32 %r9, %r9, 1;\n\
             mbarrier.complete_tx.shared::cta.b64 [%r2], 127;\n\
             mbarrier.test_wait.parity.shared::cta.b64 %p2, [%r2], 0; @%p2 add.u32 %r9, %r9, 2;\n\
             mbarrier.complete_tx.relaxed.cluster.shared::cluster.b64 [%r2], 1;\n\
             mbarrier.test_wait.parity.shared::cta.b64 %p2, [%r2], 0; @%p2 add.u32 %r9, %r9, 4;\n\
             mbarrier.inval.shared::cta.b64 [%r2]; mbarrier.init.shared::cta.b64 [%r2], 3;\n\
             mbarrier.arrive_drop.shared::cta.b64 _, [%r2]; mbarrier.arrive.shared::cta.b64 _, [%r2], 2;\n\
             mbarrier.test_wait.parity.shared::cta.b64 %p2, [%r2], 0; @%p2 add.u32 %r9, %r9, 8;\n\
             mbarrier.arrive.shared::cta.b64 _, [%r2], 2;\n\
             mbarrier.test_wait.parity.shared::cta.b64 %p2, [%r2], 1; @%p2 add.u32 %r9, %r9, 16;"
        ),
        1,
    );
    assert!(found.is_empty(), "{}", text(&found));
    assert_eq!(words, [28]);
}

#[test]
fn generic_and_remote_addresses() {
    // All threads of a cluster of 4 arrive on rank 0's barrier by generic address; rank 0 waits.
    let source = kernel(&format!(
        "mov.u32 %r5, %cluster_ctarank; setp.eq.u32 %p4, %r5, 0; cvt.u64.u32 %rd3, %r2; cvta.shared.u64 %rd4, %rd3;\n\
         @%p1 mbarrier.init.b64 [%rd4], 256; {INIT}\n\
         barrier.cluster.arrive; barrier.cluster.wait;\n\
         mov.u32 %r6, 0; mapa.u64 %rd5, %rd4, %r6; mapa.shared::cluster.u32 %r7, %r2, 0;\n\
         setp.lt.u32 %p5, %r1, 32; @%p5 mbarrier.arrive.release.cluster.b64 _, [%rd5];\n\
         @!%p5 mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r7];\n\
         @!%p4 bra E;\n\
         W: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p2, [%r2], 0; @!%p2 bra W; mov.u32 %r9, 1;\n\
         E: barrier.cluster.arrive; barrier.cluster.wait; @!%p4 exit;"
    ));
    for schedule in schedules() {
        let mut k = Kernel::new(&source, 64).cluster(4).schedule(schedule);
        let out = k.allocate(256);
        k.run_clean(&[out]);
    }
}

#[test]
fn misuse_is_found() {
    let class = |body: &str, words: &str| {
        let (found, _) = run(body, 1);
        assert!(
            found.iter().any(|f| f.class == Class::Mbarrier && f.message.contains(words)),
            "{words}:\n{}",
            text(&found)
        );
    };
    let init = format!("mbarrier.init.shared::cta.b64 [%r2], 2; {INIT}");
    class("mbarrier.init.shared::cta.b64 [%r2], 0;", "count 0");
    class("mov.u32 %r5, 0x100000; mbarrier.init.shared::cta.b64 [%r2], %r5;", "1048576");
    class(&format!("{init} mbarrier.init.shared::cta.b64 [%r2], 2;"), "again");
    class("mbarrier.arrive.shared::cta.b64 _, [%r2];", "no mbarrier");
    class(
        &format!("{init} mbarrier.inval.shared::cta.b64 [%r2]; mbarrier.arrive.shared::cta.b64 _, [%r2];"),
        "no mbarrier",
    );
    class(&format!("{init} mbarrier.arrive.shared::cta.b64 _, [%r2], 3;"), "3 arrivals");
    class(
        &format!("{init} mov.u32 %r5, 0x100000; mbarrier.expect_tx.shared::cta.b64 [%r2], %r5;"),
        "transaction",
    );
    class(
        &format!("{init} mov.u32 %r5, 0x100000; mbarrier.complete_tx.shared::cta.b64 [%r2], %r5;"),
        "transaction",
    );
    class(&format!("{init} ld.shared.u32 %r9, [%r2+4];"), "ordinary access");
    class(&format!("{init} st.shared.u32 [%r2], %r1;"), "ordinary access");
    class(&format!("{init} mbarrier.test_wait.parity.shared::cta.b64 %p2, [%r2], 2;"), "parity");
    class(&format!("{init} mbarrier.arrive.noComplete.shared::cta.b64 _, [%r2], 2;"), "noComplete");
    // Phase 1 begins before anyone has seen phase 0 completed.
    class(
        &format!(
            "{init} mbarrier.arrive.shared::cta.b64 _, [%r2], 2; mbarrier.arrive.shared::cta.b64 _, [%r2];"
        ),
        "before any thread",
    );
    let (found, _) = run("mbarrier.init.shared::cta.b64 [%r2+4], 1;", 1);
    only(&found, Class::Misaligned);
}

#[test]
fn a_wait_that_is_lapped() {
    // Thread 0 (warp 0) sees phase 0 open, then both phases complete before it looks again.
    let (found, _) = run(
        &format!(
            "@%p1 mbarrier.init.shared::cta.b64 [%r2], 1; {INIT}\n\
             setp.ge.u32 %p3, %r1, 32; @%p3 bra OTHER;\n\
             mbarrier.test_wait.parity.shared::cta.b64 %p2, [%r2], 0; bar.sync 1; bar.sync 2;\n\
             mbarrier.test_wait.parity.shared::cta.b64 %p2, [%r2], 0; bra E;\n\
             OTHER: bar.sync 1; setp.ne.u32 %p4, %r1, 32; @%p4 bra O2; mbarrier.arrive.shared::cta.b64 _, [%r2];\n\
             mbarrier.test_wait.parity.shared::cta.b64 %p2, [%r2], 0; mbarrier.arrive.shared::cta.b64 _, [%r2];\n\
             O2: bar.sync 2; E:"
        ),
        64,
    );
    assert!(only(&found, Class::Mbarrier).message.contains("more than one phase behind"), "{}", text(&found));
}

#[test]
fn waiting_in_another_cta() {
    let source = entry(
        "",
        "mov.u32 %r2, smem; cvt.u64.u32 %rd1, %r2; cvta.shared.u64 %rd1, %rd1; mbarrier.init.b64 [%rd1], 1;\n\
         fence.mbarrier_init.release.cluster; barrier.cluster.arrive; barrier.cluster.wait;\n\
         mov.u32 %r3, %cluster_ctarank; xor.b32 %r3, %r3, 1; mapa.u64 %rd2, %rd1, %r3;\n\
         mbarrier.test_wait.parity.b64 %p1, [%rd2], 1;\n\
         barrier.cluster.arrive; barrier.cluster.wait;",
    );
    let found = Kernel::new(&source, 1).cluster(2).run(&[]);
    assert!(only(&found, Class::Mbarrier).message.contains("owning CTA"));
}

#[test]
fn missing_arrival_is_a_deadlock_report() {
    let source = kernel(&format!(
        "@%p1 mbarrier.init.shared::cta.b64 [%r2], 2; {INIT}\n\
         @%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r2], 64;\n\
         W: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r2], 0; @!%p2 bra W;"
    ));
    for schedule in schedules() {
        let mut k = Kernel::new(&source, 64).schedule(schedule);
        let out = k.allocate(256);
        let found = k.run(&[Argument::B64(out)]);
        let finding = only(&found, Class::Deadlock);
        let wanted = "phase 0 (parity 0), 1 of 2 arrivals pending, 64 bytes pending";
        assert!(finding.message.contains(wanted), "{}", finding.message);
    }
}

#[test]
fn a_try_wait_that_only_peeks_does_not_deadlock() {
    // The thread peeks at a phase that it completes itself afterwards.
    let source = kernel(&format!(
        "@%p1 mbarrier.init.shared::cta.b64 [%r2], 32; {INIT}\n\
         mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r2], 0; @%p2 add.u32 %r9, %r9, 1;\n\
         mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r2], 0; @%p2 add.u32 %r9, %r9, 1;\n\
         mbarrier.arrive.shared::cta.b64 _, [%r2];\n\
         W: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r2], 0; @!%p2 bra W; add.u32 %r9, %r9, 2;"
    ));
    for schedule in schedules() {
        let mut k = Kernel::new(&source, 32).schedule(schedule);
        let out = k.allocate(128);
        k.run_clean(&[out]);
        assert_eq!(k.u32s(out, 32), [2; 32]);
    }
}

#[test]
fn forms_that_do_not_exist_are_refused() {
    for line in [
        "mbarrier.arrive.shared::cluster.b64 %rd1, [%r1];",
        "mbarrier.try_wait.parity.shared::cluster.b64 %p1, [%r1], 0;",
        "mbarrier.arrive.release.shared::cta.b64 _, [%r1];",
        "mbarrier.init.shared::cta.b32 [%r1], 1;",
        "bar.arrive 1;",
        "fence.proxy.async.local;",
        "barrier.cluster.arrive.acquire;",
        "setmaxnreg.inc.sync.aligned.u32 12;",
    ] {
        assert!(ptx_emulator::program::load(&entry("", line)).is_err(), "{line}");
    }
}
