//! Mutants of another compiler's kernels (`tests/data/ptx-conformance`): killed, or listed in `equivalents.txt` there
//! with the reason why nothing can notice.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use ptx_emulator::check::Mode;
use ptx_emulator::device::LaunchConfig;
use ptx_emulator::launch_file::LaunchFile;
use ptx_emulator::machine::Schedule;
use ptx_emulator::mutate::{Equivalents, Plan, Report, kinds, run};

const ONE: [Schedule; 1] = [Schedule::RoundRobin];

fn mutate(case: &str, mode: Mode, names: &[&str], schedules: &[Schedule]) -> Report {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/ptx-conformance").join(case);
    let file = LaunchFile::read(&dir.join("launch.json")).unwrap();
    let list = std::fs::read_to_string(dir.join("equivalents.txt")).unwrap_or_default();
    let equivalents = Equivalents::parse(&list).unwrap();
    let source = file.source().unwrap();
    let mut options = LaunchConfig::new([1; 3], [1; 3]);
    options.checks.mode = mode;
    let plan = Plan { kinds: kinds(names).unwrap(), ..Plan::new(&source, file.entry(), &equivalents) }
        .schedules(schedules.iter().map(|s| (format!("{s:?}"), *s)));
    run(&plan, |trial| file.observe(trial, &options), |_, _| ()).unwrap()
}

#[track_caller]
fn good(report: &Report, killed: usize, equivalent: usize) {
    println!("{report}");
    assert!(report.good(), "{report}");
    assert!(report.baseline.compares_outputs);
    assert_eq!((report.count("killed"), report.count("equivalent")), (killed, equivalent), "{report}");
}

#[test]
fn softmax() {
    good(&mutate("softmax_sm90", Mode::StrictPtx, &[], &ONE), 4, 0);
}

#[test]
fn gemm_bf16() {
    let names = ["delete-fence", "delete-wait", "shorten-wait", "delete-commit", "delete-barrier"];
    good(&mutate("gemm_bf16_sm90", Mode::StrictPtx, &names, &ONE), 25, 2);
}

#[test]
fn gemm_nvfp4() {
    let names = [
        "delete-fence",
        "relax",
        "flip-parity",
        "delete-init",
        "init-count-more",
        "swap-scales",
        "delete-dealloc",
    ];
    good(&mutate("gemm_nvfp4_sm100", Mode::CutlassCompatible, &names, &ONE), 10, 0);
}

/// Every kind, under every named schedule and four seeds; the result is in `docs/emulator.md`.
#[test]
#[ignore = "minutes: every mutant that survives runs under ten schedules"]
fn exhaustive() {
    let schedules: Vec<Schedule> =
        Schedule::NAMED.iter().map(|s| s.1).chain((1..=4).map(Schedule::Seeded)).collect();
    good(&mutate("softmax_sm90", Mode::StrictPtx, &[], &schedules), 4, 0);
    good(&mutate("gemm_bf16_sm90", Mode::StrictPtx, &[], &schedules), 43, 2);
    good(&mutate("gemm_nvfp4_sm100", Mode::CutlassCompatible, &[], &schedules), 53, 8);
}
