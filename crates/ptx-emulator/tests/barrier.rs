//! Named barriers and the cluster barrier.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Kernel, entry, only, schedules, text};
use ptx_emulator::check::Class;
use ptx_emulator::machine::{Argument, Schedule};

/// out[tid] = f(tid) after `body` has left it in %r9.
fn with_output(body: &str) -> String {
    entry(
        ".param .u64 out",
        &format!(
            "ld.param.u64 %rd1, [out]; cvta.to.global.u64 %rd1, %rd1; mov.u32 %r1, %tid.x; mov.u32 %r2, smem;\n\
             shl.b32 %r3, %r1, 2; add.u32 %r4, %r2, %r3; cvt.u64.u32 %rd2, %r3;\n{body}\n\
             add.u64 %rd3, %rd1, %rd2; st.global.u32 [%rd3], %r9;"
        ),
    )
}

#[test]
fn sync_makes_writes_visible() {
    // Each thread reads what the thread 33 further on has written.
    let source = with_output(
        "st.shared.u32 [%r4], %r1; bar.sync 0;\n\
         add.u32 %r5, %r1, 33; and.b32 %r5, %r5, 127; shl.b32 %r5, %r5, 2; add.u32 %r5, %r5, %r2;\n\
         ld.shared.u32 %r9, [%r5];",
    );
    for schedule in schedules() {
        let mut k = Kernel::new(&source, 128).schedule(schedule);
        let out = k.allocate(512);
        k.run_clean(&[out]);
        assert_eq!(k.u32s(out, 128), (0..128).map(|t| (t + 33) % 128).collect::<Vec<u32>>());
    }
}

#[test]
fn arrive_and_sync_of_two_warps() {
    // Warp 0 produces three times; warp 1 consumes. Barriers 1 (full) and 2 (empty), numbers in registers.
    let source = with_output(
        "mov.u32 %r10, 0; mov.u32 %r9, 0; mov.u32 %r20, 1; mov.u32 %r21, 2; mov.u32 %r22, 64;\n\
         and.b32 %r23, %r3, 127; add.u32 %r4, %r2, %r23;\n\
         setp.ge.u32 %p1, %r1, 32; @%p1 bra CONSUME;\n\
         PRODUCE: setp.eq.u32 %p2, %r10, 0; @%p2 bra FIRST; bar.sync %r21, %r22;\n\
         FIRST: add.u32 %r11, %r10, %r1; st.shared.u32 [%r4], %r11; bar.arrive %r20, %r22;\n\
         add.u32 %r10, %r10, 1; setp.lt.u32 %p3, %r10, 3; @%p3 bra PRODUCE; bra DONE;\n\
         CONSUME: bar.sync 1, 64; ld.shared.u32 %r12, [%r4]; add.u32 %r9, %r9, %r12;\n\
         add.u32 %r10, %r10, 1; setp.lt.u32 %p3, %r10, 3; @!%p3 bra DONE; bar.arrive 2, 64; bra CONSUME;\n\
         DONE: ",
    );
    for schedule in schedules() {
        let mut k = Kernel::new(&source, 64).schedule(schedule);
        let out = k.allocate(256);
        k.run_clean(&[out]);
        assert_eq!(k.u32s(out, 64)[32..], (0..32).map(|l| 3 * l + 3).collect::<Vec<u32>>());
    }
}

#[test]
fn reductions() {
    let source = with_output(
        "setp.lt.u32 %p1, %r1, 70; bar.red.popc.u32 %r9, 0, %p1;\n\
         bar.red.and.pred %p2, 0, %p1; bar.red.or.pred %p3, 3, 128, !%p1; barrier.cta.red.and.aligned.pred %p4, 1, %p3;\n\
         @%p2 add.u32 %r9, %r9, 1000; @%p3 add.u32 %r9, %r9, 10000; @%p4 add.u32 %r9, %r9, 100000;",
    );
    for schedule in schedules() {
        let mut k = Kernel::new(&source, 128).schedule(schedule);
        let out = k.allocate(512);
        k.run_clean(&[out]);
        assert_eq!(k.u32s(out, 128), [110_070; 128]);
    }
}

#[test]
fn exited_warps_count_as_arrived() {
    let source = with_output("mov.u32 %r9, 7; setp.lt.u32 %p1, %r1, 40; @%p1 exit; barrier.sync 0;");
    for schedule in schedules() {
        let mut k = Kernel::new(&source, 128).schedule(schedule);
        let out = k.upload(&[0; 512]);
        k.run_clean(&[out]);
        let words = k.u32s(out, 128);
        assert!(words[..40].iter().all(|&w| w == 0) && words[40..].iter().all(|&w| w == 7));
    }
}

#[test]
fn misuse_is_found() {
    let find = |body: &str, threads: u32| {
        let mut k = Kernel::new(&with_output(&format!("mov.u32 %r9, 1;\n{body}")), threads);
        let out = k.allocate(4 * threads as usize);
        k.run(&[Argument::B64(out)])
    };
    assert!(only(&find("bar.sync 1, 40;", 64), Class::Barrier).message.contains("40"));
    assert!(only(&find("mov.u32 %r10, 16; bar.sync %r10;", 64), Class::Barrier).message.contains("16"));
    // Two counts in one generation.
    let two = "setp.lt.u32 %p1, %r1, 32; @%p1 bra A; bar.sync 1, 64; bra B; A: bar.sync 1, 96; B:";
    let found = find(two, 96);
    let finding = found.iter().find(|f| f.class == Class::Barrier).unwrap();
    assert!(finding.earlier.is_some(), "{}", text(&found));
    // Part of a warp at an aligned barrier.
    let part = "setp.lt.u32 %p1, %r1, 3; @%p1 bar.sync 1, 64; bar.sync 2;";
    assert!(find(part, 64).iter().any(|f| f.class == Class::Divergent));
}

#[test]
fn missing_arrival_is_a_deadlock_report() {
    let source = with_output("mov.u32 %r9, 1; setp.lt.u32 %p1, %r1, 32; @%p1 bar.sync 3, 64;");
    for schedule in schedules() {
        let mut k = Kernel::new(&source, 64).schedule(schedule);
        let out = k.allocate(256);
        let found = k.run(&[Argument::B64(out)]);
        let finding = only(&found, Class::Deadlock);
        assert!(finding.message.contains("32 thread(s) wait for barrier 3: 32 of 64"), "{}", finding.message);
    }
}

#[test]
fn cluster_barrier_orders_ctas() {
    // Each CTA writes its rank into the next one's shared memory, which reads it.
    let source = entry(
        ".param .u64 out",
        "ld.param.u64 %rd1, [out]; mov.u32 %r1, %tid.x; mov.u32 %r2, smem; shl.b32 %r3, %r1, 2;\n\
         add.u32 %r4, %r2, %r3; mov.u32 %r5, %cluster_ctarank; mov.u32 %r6, %cluster_nctarank;\n\
         add.u32 %r7, %r5, 1; rem.u32 %r7, %r7, %r6; mapa.shared::cluster.u32 %r8, %r4, %r7;\n\
         barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;\n\
         st.shared::cluster.u32 [%r8], %r5;\n\
         barrier.cluster.arrive.release; barrier.cluster.wait.acquire;\n\
         ld.shared.u32 %r9, [%r4]; mov.u32 %r10, %ctaid.x; mad.lo.u32 %r10, %r10, 64, %r1;\n\
         mul.wide.u32 %rd2, %r10, 4; add.u64 %rd1, %rd1, %rd2; st.global.u32 [%rd1], %r9;",
    );
    for schedule in schedules() {
        let mut k = Kernel::new(&source, 64).cluster(4).schedule(schedule);
        let out = k.allocate(1024);
        k.run_clean(&[out]);
        let words = k.u32s(out, 256);
        assert!(words.iter().enumerate().all(|(i, &w)| w == (i as u32 / 64 + 3) % 4), "{words:?}");
    }
}

#[test]
fn cluster_barrier_misuse_and_exits() {
    let run = |body: &str| Kernel::new(&entry("", body), 64).cluster(2).run(&[]);
    assert!(only(&run("barrier.cluster.wait;"), Class::Barrier).message.contains("without"));
    let twice = "barrier.cluster.arrive; barrier.cluster.arrive; barrier.cluster.wait;";
    assert!(only(&run(twice), Class::Barrier).message.contains("again"));
    // A CTA that exits does not hold up the other one.
    let exits = "mov.u32 %r1, %cluster_ctarank; setp.eq.u32 %p1, %r1, 1; @%p1 exit;\n\
                 barrier.cluster.arrive; barrier.cluster.wait;";
    assert!(run(exits).is_empty());
    let missing = "mov.u32 %r1, %cluster_ctarank; setp.eq.u32 %p1, %r1, 1; @%p1 bra E;\n\
                   barrier.cluster.arrive; E: barrier.cluster.wait;";
    assert!(run(missing).iter().any(|f| f.class == Class::Barrier));
}

#[test]
fn shared_memory_of_an_exited_cta() {
    // Rank 0 waits for a flag in global memory that rank 1 sets last of all: no cluster barrier at the end.
    let source = entry(
        ".param .u64 flag",
        "ld.param.u64 %rd1, [flag]; mov.u32 %r2, smem; mov.u32 %r1, %cluster_ctarank; mov.u32 %r3, 1;\n\
         mapa.shared::cluster.u32 %r4, %r2, %r3; st.shared.u32 [%r2], 5;\n\
         barrier.cluster.arrive; barrier.cluster.wait; setp.eq.u32 %p1, %r1, 1; @%p1 exit;\n\
         mov.u32 %r6, 0; L: add.u32 %r6, %r6, 1; nanosleep.u32 20; setp.lt.u32 %p2, %r6, 40; @%p2 bra L;\n\
         ld.shared::cluster.u32 %r5, [%r4]; st.global.u32 [%rd1], %r5;",
    );
    let mut k = Kernel::new(&source, 32).cluster(2).schedule(Schedule::RoundRobin);
    let out = k.upload(&[0; 4]);
    let found = k.run(&[Argument::B64(out)]);
    assert!(only(&found, Class::UseAfterFree).message.contains("rank 1"));
}
