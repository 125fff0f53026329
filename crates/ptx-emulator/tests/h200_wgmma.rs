//! The same PTX on an H200 and here: wgmma results equal word for word (`tests/data/h200-wgmma`).
#![allow(clippy::unwrap_used)]

use std::path::Path;

use ptx_emulator::device::LaunchConfig;
use ptx_emulator::launch_file::LaunchFile;
use ptx_emulator::numerics::Precision;

fn cases() -> Vec<String> {
    let kinds = ["bf16", "f16", "e4m3", "tf32"];
    let forms = ["ss_normal", "ss_wide", "rs_normal", "rs_wide"];
    kinds.iter().flat_map(|k| forms.map(|f| format!("{k}_{f}"))).collect()
}

fn words_equal(case: &str, precision: Precision) -> bool {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/h200-wgmma").join(case);
    let mut config = LaunchConfig::new([1; 3], [1; 3]);
    config.precision = precision;
    let run = LaunchFile::read(&dir.join("launch.json")).unwrap().run(&config).unwrap();
    let findings: Vec<String> = run.outcome.findings.iter().map(ToString::to_string).collect();
    assert!(findings.is_empty(), "{case}: {findings:?}");
    assert_eq!(run.comparisons.len(), 1);
    run.comparisons[0].passed
}

#[test]
fn every_word_is_the_hardwares() {
    for case in cases() {
        assert!(words_equal(&case, Precision::Hardware), "{case}");
    }
}

/// The comparison can fail: plain f32 arithmetic does not give the hardware's words.
#[test]
fn plain_f32_differs() {
    for case in cases() {
        assert!(!words_equal(&case, Precision::PlainF32), "{case}");
    }
}
