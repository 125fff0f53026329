//! The GPU cases themselves, on the host: a right device passes all of them, and each planted fault is caught.

use std::collections::HashSet;

use megamoe_tests::gpu::mirror::{Fault, Mirror};
use megamoe_tests::gpu::{Device, cases};

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

/// Runs the cases that are small enough until one fails, and gives its name and message.
fn first_failure(device: &Mirror) -> Option<String> {
    cases()
        .into_iter()
        .filter(|case| case.elements <= device.max_elements())
        .find_map(|case| (case.run)(device).err().map(|e| format!("{}: {e}", case.name)))
}

#[test]
fn a_right_device_passes() {
    assert_eq!(first_failure(&Mirror::default()), None);
}

#[test]
fn every_fault_is_caught() {
    for fault in FAULTS {
        let failure = first_failure(&Mirror { fault: Some(fault) });
        println!("{fault:?}: {}", failure.as_deref().unwrap_or("goes unnoticed"));
        assert!(failure.is_some(), "{fault:?} goes unnoticed");
    }
}

#[test]
fn names_are_unique() {
    let mut seen = HashSet::new();
    for case in cases() {
        assert!(seen.insert(case.name.clone()), "{} twice", case.name);
    }
}
