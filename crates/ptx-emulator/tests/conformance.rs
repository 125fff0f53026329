//! Kernels of another compiler, with expected outputs (`tests/data/ptx-conformance`): every schedule, both modes.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use ptx_emulator::check::{Class, Finding, Mode};
use ptx_emulator::device::LaunchConfig;
use ptx_emulator::launch_file::{Comparison, LaunchFile};
use ptx_emulator::machine::Schedule;
use ptx_emulator::numerics::Precision;

/// Every named schedule and two seeds.
fn schedules() -> impl Iterator<Item = Schedule> {
    Schedule::NAMED.iter().map(|s| s.1).chain([1, 2].map(Schedule::Seeded))
}

/// Runs a case: the findings, and how its outputs compare.
fn launch(
    case: &str,
    schedule: Schedule,
    mode: Mode,
    precision: Precision,
) -> (Vec<Finding>, Vec<Comparison>) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/ptx-conformance").join(case);
    let mut config = LaunchConfig::new([1; 3], [1; 3]);
    (config.schedule, config.checks.mode, config.precision) = (schedule, mode, precision);
    let run = LaunchFile::read(&dir.join("launch.json")).unwrap().run(&config).unwrap();
    assert!(!run.comparisons.is_empty(), "{case} expects something");
    (run.outcome.findings, run.comparisons)
}

/// Runs a case; its outputs must be as expected. Returns the findings.
fn run(case: &str, schedule: Schedule, mode: Mode, precision: Precision) -> Vec<Finding> {
    let (findings, comparisons) = launch(case, schedule, mode, precision);
    for comparison in &comparisons {
        assert!(comparison.passed, "{case}, {schedule:?}, {precision:?}: {comparison:?}");
    }
    findings
}

fn text(findings: &[Finding]) -> String {
    findings.iter().map(|f| format!("{f}\n")).collect()
}

fn clean(case: &str, mode: Mode) {
    for schedule in schedules() {
        let findings = run(case, schedule, mode, Precision::Hardware);
        assert!(findings.is_empty(), "{case}, {schedule:?}:\n{}", text(&findings));
    }
}

/// Kernels that use accumulators of wgmma without a wait, which ptxas inserts: clean in the second mode only.
const WITHOUT_WAITS: [&str; 1] = ["gemm_f16_accumulators_sm90"];

/// Every folder, and whether its kernel uses tensor memory: the compiler leaves out `tcgen05.fence`, and such kernels are
/// clean in the second mode only.
fn cases() -> Vec<(String, bool)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/ptx-conformance");
    let mut cases: Vec<(String, bool)> = std::fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().join("launch.json").exists())
        .map(|entry| {
            let ptx = std::fs::read_to_string(entry.path().join("kernel.ptx")).unwrap();
            (entry.file_name().into_string().unwrap(), ptx.contains("tcgen05.mma"))
        })
        .collect();
    cases.sort();
    assert!(cases.len() >= 24, "{cases:?}");
    cases
}

#[test]
fn without_tensor_memory() {
    for (case, _) in cases().iter().filter(|c| !c.1 && !WITHOUT_WAITS.contains(&c.0.as_str())) {
        clean(case, Mode::StrictPtx);
    }
}

#[test]
fn without_waits() {
    for case in WITHOUT_WAITS {
        clean(case, Mode::CutlassCompatible);
        // In the other mode accumulators are what they are: outputs may be wrong, and what was stored is poison.
        let (findings, _) = launch(case, Schedule::AsyncLate, Mode::StrictPtx, Precision::Hardware);
        assert!(findings.iter().any(|f| f.class == Class::Wgmma), "{}", text(&findings));
        let known = [Class::Wgmma, Class::Uninitialised];
        assert!(findings.iter().all(|f| known.contains(&f.class)), "{}", text(&findings));
    }
}

#[test]
fn with_tensor_memory() {
    for (case, _) in cases().iter().filter(|c| c.1) {
        clean(case, Mode::CutlassCompatible);
    }
}

/// What the compiler leaves out, and nothing else, is reported: `tcgen05.fence`; a `fence.proxy.async` between the word
/// that `tcgen05.alloc` writes and a copy over it; one `setmaxnreg` for all of a warpgroup; a wait between an MMA and a
/// `tcgen05.cp` over the scales that it reads.
#[test]
fn with_tensor_memory_strict() {
    for (case, _) in cases().iter().filter(|c| c.1) {
        let findings = run(case, Schedule::RoundRobin, Mode::StrictPtx, Precision::Hardware);
        assert!(findings.iter().any(|f| f.class == Class::Tcgen05Order), "{case}");
        for f in &findings {
            let known = match f.class {
                Class::Tcgen05Order => {
                    f.message.contains("but without tcgen05.fence") || f.message.contains("mma -> cp is not")
                }
                Class::ProxyRace => {
                    f.earlier.as_ref().is_some_and(|e| e.place.text.contains("tcgen05.alloc"))
                }
                Class::Undefined => f.message.contains("execute different setmaxnreg"),
                _ => false,
            };
            assert!(known, "{case}: {f}");
        }
    }
}

/// Plain f32 accumulation is as good for these tolerances.
#[test]
fn plain_f32() {
    for case in ["gemm_bf16_sm90", "gemm_nvfp4_sm100"] {
        run(case, Schedule::RoundRobin, Mode::CutlassCompatible, Precision::PlainF32);
    }
}
