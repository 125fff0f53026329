//! How much of a grid runs at one time: CTAs that wait for others, tensor memory that several share, and kernels that
//! start before the one before them has ended.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Kernel, entry, only, schedules, text};
use ptx_emulator::check::{Class, Finding};
use ptx_emulator::device::{Device, LaunchConfig};
use ptx_emulator::machine::{Argument, Residency, Schedule};

/// CTA 0 waits for a flag that the last CTA sets.
const WAITS_FOR_THE_LAST: &str = "ld.param.u64 %rd1, [flag]; mov.u32 %r1, %ctaid.x; mov.u32 %r2, %nctaid.x; sub.u32 %r2, %r2, 1;\n\
    setp.ne.u32 %p1, %r1, %r2; @%p1 bra A; st.release.gpu.global.u32 [%rd1], 1; A:\n\
    setp.ne.u32 %p1, %r1, 0; @%p1 bra E;\n\
    W: ld.acquire.gpu.global.u32 %r3, [%rd1]; setp.eq.u32 %p2, %r3, 0; @%p2 bra W; E:";

fn run(body: &str, ctas: u32, residency: Residency, schedule: Schedule) -> Vec<Finding> {
    let mut k = Kernel::new(&entry(".param .u64 flag", body), 32).schedule(schedule);
    k.grid = [ctas, 1, 1];
    k.residency = residency;
    let flag = k.upload(&[0; 64]);
    k.run(&[Argument::B64(flag)])
}

#[test]
fn a_cta_waits_for_one_that_is_not_resident() {
    for schedule in schedules() {
        for (sms, ctas_per_sm) in [(4, 1), (2, 2), (148, 1)] {
            let found = run(WAITS_FOR_THE_LAST, 4, Residency { sms, ctas_per_sm }, schedule);
            assert!(found.is_empty(), "{schedule:?} {sms}\n{}", text(&found));
        }
        // With places for two, the second one is used by CTA after CTA while the first waits for the last of them.
        let found = run(WAITS_FOR_THE_LAST, 4, Residency { sms: 2, ctas_per_sm: 1 }, schedule);
        assert!(found.is_empty(), "{schedule:?}\n{}", text(&found));
        // With one place it waits forever.
        let found = run(WAITS_FOR_THE_LAST, 4, Residency { sms: 1, ctas_per_sm: 1 }, schedule);
        let found = only(&found, Class::Deadlock);
        assert!(found.message.contains("3 cluster(s) of 4 have not been launched"), "{found}");
        assert!(found.place.text.starts_with("ld.acquire"), "{found}");
    }
}

#[test]
fn a_flag_that_nobody_sets() {
    // Of two CTAs, or by one alone; with atomics; with a sleep.
    let spins = [
        "W: ld.acquire.gpu.global.u32 %r3, [%rd1]; setp.eq.u32 %p2, %r3, 0; @%p2 bra W;",
        "W: ld.acquire.gpu.global.u32 %r3, [%rd1]; nanosleep.u32 20; setp.eq.u32 %p2, %r3, 0; @%p2 bra W;",
        "W: atom.global.cas.b32 %r3, [%rd1], 1, 2; setp.eq.u32 %p2, %r3, 0; @%p2 bra W;",
        "W: atom.global.exch.b32 %r3, [%rd1], 0; setp.eq.u32 %p2, %r3, 0; @%p2 bra W;",
        "W: ld.volatile.global.u32 %r3, [%rd1]; setp.eq.u32 %p2, %r3, 0; @%p2 bra W; bar.sync 0;",
    ];
    for schedule in schedules() {
        for spin in spins {
            for ctas in [1, 2] {
                let body = format!("ld.param.u64 %rd1, [flag]; {spin}");
                let found = run(&body, ctas, Residency::default(), schedule);
                let found = only(&found, Class::Deadlock);
                assert!(found.message.contains("spin"), "{found}");
            }
        }
        // A spin with an end is none.
        let body = "ld.param.u64 %rd1, [flag]; mov.u32 %r4, 0;\n\
            W: ld.acquire.gpu.global.u32 %r3, [%rd1]; add.u32 %r4, %r4, 1; setp.lt.u32 %p2, %r4, 3000; @%p2 bra W;";
        let found = run(body, 2, Residency::default(), schedule);
        assert!(found.is_empty(), "{}", text(&found));
    }
}

/// Every CTA allocates `columns`, writes and reads them, and frees them.
fn tensor(columns: u32, end: &str) -> String {
    format!(
        "mov.u32 %r1, smem; tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r1], {columns};\n\
         bar.sync 0; ld.shared.u32 %r2, [%r1]; mov.u32 %r3, %ctaid.x;\n\
         tcgen05.st.sync.aligned.32x32b.x1.b32 [%r2], {{%r3}}; tcgen05.wait::st.sync.aligned;\n\
         tcgen05.ld.sync.aligned.32x32b.x1.b32 {{%r4}}, [%r2]; tcgen05.wait::ld.sync.aligned;\n\
         setp.ne.u32 %p1, %r3, %r4; @%p1 trap;\n{}",
        end.replace("COLUMNS", &columns.to_string())
    )
}

#[test]
fn ctas_share_a_tensor_memory() {
    let free = "tcgen05.dealloc.cta_group::1.sync.aligned.b32 %r2, COLUMNS;";
    let kept = "bar.sync 0; ld.param.u64 %rd1, [flag]; setp.eq.u32 %p2, %r3, 9; @%p2 tcgen05.dealloc.cta_group::1.sync.aligned.b32 %r2, COLUMNS;\n\
        atom.global.add.u32 %r5, [%rd1], 1; W: ld.acquire.gpu.global.u32 %r6, [%rd1]; setp.lt.u32 %p3, %r6, 64; @%p3 bra W;\n\
        tcgen05.dealloc.cta_group::1.sync.aligned.b32 %r2, COLUMNS;";
    for schedule in schedules() {
        // There is room for both, or one waits until the other has freed its columns.
        for columns in [256, 512] {
            for ctas_per_sm in [1, 2, 3] {
                let found = run(&tensor(columns, free), 6, Residency { sms: 2, ctas_per_sm }, schedule);
                assert!(found.is_empty(), "{schedule:?} {columns}\n{}", text(&found));
            }
        }
        // Both want all of it, and the one that has it waits for the other.
        let found = run(&tensor(256, kept), 2, Residency { sms: 1, ctas_per_sm: 2 }, schedule);
        assert!(found.is_empty(), "{schedule:?}\n{}", text(&found));
        let found = run(&tensor(512, kept), 2, Residency { sms: 2, ctas_per_sm: 1 }, schedule);
        assert!(found.is_empty(), "{schedule:?}\n{}", text(&found));
        let found = run(&tensor(512, kept), 2, Residency { sms: 1, ctas_per_sm: 2 }, schedule);
        assert!(
            found.iter().any(|f| f.class == Class::Deadlock && f.message.contains("hold 512")),
            "{}",
            text(&found)
        );
    }
}

/// Two kernels on one stream; `primary` and `dependent` are bodies with %rd1 = a buffer.
fn two(primary: &str, dependent: &str, programmatic: bool, schedule: Schedule) -> Vec<Finding> {
    let mut device = Device::new();
    let load = |device: &mut Device, body: &str| {
        let start = "ld.param.u64 %rd1, [buffer]; mov.u32 %r0, %tid.x; mul.wide.u32 %rd2, %r0, 4; add.u64 %rd2, %rd2, %rd1;\n";
        device.load_module(&entry(".param .u64 buffer", &format!("{start}{body}"))).unwrap()
    };
    let (first, second) = (load(&mut device, primary), load(&mut device, dependent));
    let buffer = device.upload_new(&[0; 1024]);
    let mut config = LaunchConfig::new([2, 1, 1], [64, 1, 1]);
    config.dynamic_shared = 1024;
    config.schedule = schedule;
    let outcome = device.launch(&first, "k", &config, &[Argument::B64(buffer)]).unwrap();
    assert!(outcome.findings.is_empty(), "{}", text(&outcome.findings));
    config.programmatic_dependent = programmatic;
    let outcome = device.launch(&second, "k", &config, &[Argument::B64(buffer)]).unwrap();
    outcome.findings
}

#[test]
fn programmatic_dependent_launches() {
    let write = "mov.u32 %r1, %ctaid.x; mul.wide.u32 %rd3, %r1, 256; add.u64 %rd3, %rd3, %rd2; st.global.u32 [%rd3], %r0; griddepcontrol.launch_dependents;";
    let read = "ld.global.u32 %r5, [%rd1+512]; ld.global.u32 %r3, [%rd2+768];";
    let cases = [
        // What the kernel before has written is read, and what it has written or read is written.
        (write, "griddepcontrol.wait; ld.global.u32 %r3, [%rd2];".to_owned()),
        (write, "griddepcontrol.wait; mov.u32 %r1, %ctaid.x; setp.ne.u32 %p1, %r1, 0; @%p1 bra E; st.global.u32 [%rd2], %r0; E:".to_owned()),
        (read, "griddepcontrol.wait; mov.u32 %r1, %ctaid.x; setp.ne.u32 %p1, %r1, 0; @%p1 bra E; st.global.u32 [%rd2+512], %r0; E:".to_owned()),
        // A barrier hands on that one thread has waited.
        (write, "setp.ne.u32 %p1, %r0, 0; @%p1 bra B; griddepcontrol.wait; B: bar.sync 0; ld.global.u32 %r3, [%rd2];".to_owned()),
        // By a bulk copy.
        (
            write,
            "mov.u32 %r4, smem; setp.ne.u32 %p1, %r0, 0; @%p1 bra E; mbarrier.init.shared::cta.b64 [%r4+64], 1; griddepcontrol.wait;\n\
             mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r4+64], 16;\n\
             cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [%r4], [%rd1], 16, [%r4+64];\n\
             W: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r4+64], 0; @!%p2 bra W; E:"
                .to_owned(),
        ),
    ];
    for schedule in schedules() {
        for (primary, dependent) in &cases {
            let found = two(primary, dependent, true, schedule);
            assert!(found.is_empty(), "{schedule:?} {dependent}\n{}", text(&found));
            let early = dependent.replace("griddepcontrol.wait;", "");
            let found = two(primary, &early, true, schedule);
            let found = only(&found, Class::Race);
            assert!(found.message.contains("griddepcontrol.wait"), "{found}");
            assert!(found.earlier.as_ref().is_some_and(|e| e.what.contains("in kernel k")), "{found}");
            // An ordinary launch waits by itself.
            let found = two(primary, &early, false, schedule);
            assert!(found.is_empty(), "{schedule:?}\n{}", text(&found));
        }
        // What the kernel before has not touched is free, and what it has read may be read.
        let found = two(write, "ld.global.u32 %r3, [%rd2+512];", true, schedule);
        assert!(found.is_empty(), "{}", text(&found));
        let found = two(read, "ld.global.u32 %r3, [%rd1+512];", true, schedule);
        assert!(found.is_empty(), "{}", text(&found));
    }
}

#[test]
fn a_chain_of_dependent_launches() {
    // The second kernel touches nothing of the first one's; the third may overlap both.
    let mut device = Device::new();
    let module = |device: &mut Device, body: &str| {
        device
            .load_module(&entry(".param .u64 buffer", &format!("ld.param.u64 %rd1, [buffer]; {body}")))
            .unwrap()
    };
    let write = module(&mut device, "st.global.u32 [%rd1], 1;");
    let other = module(&mut device, "griddepcontrol.launch_dependents; st.global.u32 [%rd1+64], 1;");
    let read = module(&mut device, "ld.global.u32 %r1, [%rd1];");
    let buffer = device.upload_new(&[0; 128]);
    let plain = LaunchConfig::new([1, 1, 1], [1, 1, 1]);
    let programmatic = LaunchConfig { programmatic_dependent: true, ..plain.clone() };
    let findings =
        |m, config: &LaunchConfig| device.launch(m, "k", config, &[Argument::B64(buffer)]).unwrap().findings;
    assert!(findings(&write, &plain).is_empty());
    assert!(findings(&other, &programmatic).is_empty());
    only(&findings(&read, &programmatic), Class::Race);
    assert!(findings(&write, &plain).is_empty());
    assert!(findings(&other, &plain).is_empty());
    assert!(findings(&read, &programmatic).is_empty());
}
