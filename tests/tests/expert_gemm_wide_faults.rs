//! Faults planted in the PTX of wgmma forms of the expert GEMMs: each is caught by its cases on the emulator.

use kernels::launch::Arch;
use megamoe_tests::gpu::emulator::Emulator;
use megamoe_tests::gpu::text::only;
use megamoe_tests::gpu::{Sizes, cases_at};
use ptx_emulator::machine::Schedule;

/// What stands there, and what stands there instead.
const FAULTS: [(&str, &str); 9] = [
    // The zeros of rows that a tile lacks are not shown to wgmma.
    ("fence.proxy.async.shared::cta;", ""),
    // Nobody counts the bytes of a stage.
    ("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r", "mbarrier.arrive.shared::cta.b64 _, [%r"),
    // The second k16 step takes the columns of the first.
    ("4611686293305360386", "4611686293305360384"),
    // Accumulators are read, and stages given back, while wgmma runs.
    ("wgmma.wait_group.sync.aligned \t0;", "wgmma.wait_group.sync.aligned \t1;"),
    ("wgmma.wait_group.sync.aligned \t1;", "wgmma.wait_group.sync.aligned \t7;"),
    // The signs of values 6 and 7 of a word go astray, the magnitudes of values 4 and 5; both rows take the scale of one.
    (", 516;", ", 512;"),
    (", 66;", ", 34;"),
    ("mov.b32 p, {h, h};", "mov.b32 p, {l, l};"),
    // Nobody waits for a stage.
    ("mbarrier.try_wait.parity.shared::cta.b64 done", "setp.eq.b32 done, %r1, %r1; //"),
];

#[test]
fn every_fault_is_caught_in_the_wide_form() {
    every_fault_is_caught("expert_gemm_wide_plain_f32");
}

fn every_fault_is_caught(kernel: &str) {
    let ptx = only(Arch::Sm90a, &[kernel]);
    for (right, wrong) in FAULTS {
        assert!(ptx.contains(right), "{right} is not in the PTX");
        let ptx = ptx.replace(right, wrong);
        let emulator = Emulator::with_ptx(Arch::Sm90a, Schedule::RoundRobin, &ptx).unwrap();
        let mut passed = 0;
        let failure = cases_at(&Sizes::FEW)
            .into_iter()
            .filter(|case| case.name.starts_with(kernel))
            .find_map(|case| match case.run(&emulator) {
                Err(message) => Some(message),
                Ok(ran) => {
                    passed += ran.passed;
                    None
                }
            });
        match failure {
            Some(message) => {
                println!("`{wrong}` for `{right}`: {}", message.lines().next().unwrap_or_default())
            }
            None => panic!("`{wrong}` for `{right}` goes unnoticed in {passed} parts"),
        }
    }
}
