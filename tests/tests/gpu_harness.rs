//! The GPU cases themselves, on the host: a right device passes all of them, and each planted fault is caught.

use std::collections::HashSet;

use megamoe_tests::gpu::cases;
use megamoe_tests::gpu::mirror::{Fault, Mirror};

const FAULTS: [Fault; 16] = [
    Fault::IgnoresDeviceRows,
    Fault::IgnoresStride,
    Fault::LeavesPadding,
    Fault::ClearsTooMuch,
    Fault::SwapsNibbles,
    Fault::LinearScales,
    Fault::LosesNan,
    Fault::KeepsConstantOnNan,
    Fault::IgnoresConstant,
    Fault::MultipliesByReciprocal,
    Fault::ClampsAfterSilu,
    Fault::ClampsGateBelow,
    Fault::OneAlpha,
    Fault::AlphaAfterClamp,
    Fault::WritesPastTheEnd,
    Fault::DoesNotStride,
];

/// Runs the parts that are small enough until one fails, and gives its name and message; or how many passed.
fn first_failure(device: &Mirror) -> Result<usize, String> {
    cases().into_iter().try_fold(0, |passed, case| {
        let name = case.name.clone();
        Ok(passed + case.run(device).map_err(|e| format!("{name}: {e}"))?.passed)
    })
}

#[test]
fn a_right_device_passes() {
    let passed = first_failure(&Mirror::default()).unwrap();
    assert!(passed > 200, "only {passed} parts are small enough");
}

#[test]
fn every_fault_is_caught() {
    for fault in FAULTS {
        let failure = first_failure(&Mirror { fault: Some(fault) });
        match failure {
            Err(message) => println!("{fault:?}: {message}"),
            Ok(passed) => panic!("{fault:?} goes unnoticed in {passed} parts"),
        }
    }
}

#[test]
fn names_are_unique() {
    let mut seen = HashSet::new();
    for case in cases() {
        assert!(seen.insert(case.name.clone()), "{} twice", case.name);
    }
}
