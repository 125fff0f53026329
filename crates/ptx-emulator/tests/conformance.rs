//! Kernels of another compiler, with expected outputs (`tests/data/ptx-conformance`): every schedule, both modes.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use ptx_emulator::check::{Class, Finding, Mode};
use ptx_emulator::device::LaunchConfig;
use ptx_emulator::launch_file::LaunchFile;
use ptx_emulator::machine::Schedule;
use ptx_emulator::numerics::Precision;

/// Every named schedule and two seeds.
fn schedules() -> impl Iterator<Item = Schedule> {
    Schedule::NAMED.iter().map(|s| s.1).chain([1, 2].map(Schedule::Seeded))
}

/// Runs a case; its outputs must be as expected. Returns the findings.
fn run(case: &str, schedule: Schedule, mode: Mode, precision: Precision) -> Vec<Finding> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/ptx-conformance").join(case);
    let mut config = LaunchConfig::new([1; 3], [1; 3]);
    (config.schedule, config.checks.mode, config.precision) = (schedule, mode, precision);
    let run = LaunchFile::read(&dir.join("launch.json")).unwrap().run(&config).unwrap();
    assert!(!run.comparisons.is_empty(), "{case} expects something");
    for comparison in &run.comparisons {
        assert!(comparison.passed, "{case}, {schedule:?}, {precision:?}: {comparison:?}");
    }
    run.outcome.findings
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

#[test]
fn softmax() {
    clean("softmax_sm90", Mode::StrictPtx);
}

#[test]
fn gemm_bf16() {
    clean("gemm_bf16_sm90", Mode::StrictPtx);
}

#[test]
fn gemm_nvfp4() {
    clean("gemm_nvfp4_sm100", Mode::CutlassCompatible);
}

/// The compiler leaves out `tcgen05.fence`, which the ISA asks for: that, and nothing else, is reported.
#[test]
fn gemm_nvfp4_strict() {
    let findings = run("gemm_nvfp4_sm100", Schedule::RoundRobin, Mode::StrictPtx, Precision::Hardware);
    assert!(!findings.is_empty());
    assert!(findings.iter().all(|f| f.class == Class::Tcgen05Order), "{}", text(&findings));
}

/// Plain f32 accumulation is as good for these tolerances.
#[test]
fn plain_f32() {
    for case in ["gemm_bf16_sm90", "gemm_nvfp4_sm100"] {
        run(case, Schedule::RoundRobin, Mode::CutlassCompatible, Precision::PlainF32);
    }
}
