//! The GPU cases themselves, on the host: a right device passes all of them, and each planted fault is caught, be it
//! in the host's mirror of the kernels or in the PTX that the emulator runs.

use std::collections::HashSet;

use kernels::launch::Arch;
use kernels::{quantize_nvfp4_rows, swiglu_quantize_nvfp4};
use megamoe_tests::gpu::emulator::Emulator;
use megamoe_tests::gpu::mirror::{Fault, Mirror};
use megamoe_tests::gpu::text::{only, same_as};
use megamoe_tests::gpu::{Case, Device, Sizes, cases, cases_at, mirrored_cases};
use ptx_emulator::machine::Schedule;

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
fn first_failure(device: &dyn Device, cases: Vec<Case>) -> Result<usize, String> {
    cases.into_iter().try_fold(0, |passed, case| {
        let name = case.name.clone();
        Ok(passed + case.run(device).map_err(|e| format!("{name}: {e}"))?.passed)
    })
}

#[test]
fn a_right_device_passes() {
    let passed = first_failure(&Mirror::default(), mirrored_cases()).unwrap();
    assert!(passed > 200, "only {passed} parts are small enough");
}

#[test]
fn every_fault_is_caught() {
    for fault in FAULTS {
        let failure = first_failure(&Mirror { fault: Some(fault) }, mirrored_cases());
        match failure {
            Err(message) => println!("{fault:?}: {message}"),
            Ok(passed) => panic!("{fault:?} goes unnoticed in {passed} parts"),
        }
    }
}

/// Faults in the kernels' PTX: what stands there, what stands there instead, and what the failure must say.
const PTX_FAULTS: [(&str, &str, &str); 6] = [
    // A warp reads what another has not written yet.
    ("bar.sync \t0;", "", "race: "),
    ("redux.sync.max.u32", "redux.sync.min.u32", "bytes differ"),
    // 2688, the range of the global scale, is one unit in the last place off.
    ("0f45280000", "0f45280001", "bytes differ"),
    // Rows with an infinity are finite.
    ("2139095039", "2139095040", "bytes differ"),
    // Four scales of a word come from other lanes.
    (", 1, 31, -1;", ", 2, 31, -1;", "bytes differ"),
    ("fma.rn.f32", "fma.rz.f32", "bytes differ"),
];

#[test]
fn every_fault_in_the_ptx_is_caught() {
    let quantisers = [&quantize_nvfp4_rows::LAUNCH, &swiglu_quantize_nvfp4::LAUNCH];
    let names = quantisers.map(|kernel| kernel.name);
    for arch in Arch::ALL {
        if quantisers.iter().all(|kernel| same_as(arch, kernel).is_some()) {
            continue;
        }
        let ptx = only(arch, &names);
        for (right, wrong, expected) in PTX_FAULTS {
            assert!(ptx.contains(right), "{right} is not in the PTX");
            let ptx = ptx.replace(right, wrong);
            let emulator = Emulator::with_ptx(arch, Schedule::RoundRobin, &ptx).unwrap();
            let mut cases = cases_at(&Sizes::FEW);
            cases.retain(|case| names.contains(&case.kernel().name));
            match first_failure(&emulator, cases) {
                Err(message) => assert!(message.contains(expected), "`{wrong}` for `{right}`: {message}"),
                Ok(passed) => panic!("`{wrong}` for `{right}` goes unnoticed in {passed} parts"),
            }
        }
    }
}

/// Faults in the PTX of the decode form of the expert GEMMs.
const GEMM_FAULTS: [(&str, &str); 7] = [
    // An exponent's bit of the even values is lost; the mantissa's of value 4.
    ("-1912566272", "-1912567296"),
    ("1077428280", "1077428272"),
    // Values 4 and 5 are moved to a wrong place; signs of values 6 and 7 are not moved.
    (", 66;", ", 34;"),
    (", 516;", ", 512;"),
    // Both rows take the scale of one.
    ("mov.b32 p, {h, h};", "mov.b32 p, {l, l};"),
    // Lanes of the scan add the next one's sum.
    ("shfl.sync.up.b32", "shfl.sync.down.b32"),
    ("mbarrier.try_wait.parity.shared::cta.b64 done", "setp.eq.b32 done, %r1, %r1; //"),
];

#[test]
fn every_fault_in_the_ptx_of_the_expert_gemms_is_caught() {
    let kernel = "expert_gemm_small_plain_f32";
    let ptx = only(Arch::Sm90a, &[kernel]);
    for (right, wrong) in GEMM_FAULTS {
        assert!(ptx.contains(right), "{right} is not in the PTX");
        let ptx = ptx.replace(right, wrong);
        let emulator = Emulator::with_ptx(Arch::Sm90a, Schedule::RoundRobin, &ptx).unwrap();
        let mut cases = cases_at(&Sizes::FEW);
        cases.retain(|case| case.name.starts_with(kernel));
        match first_failure(&emulator, cases) {
            Err(message) => println!("`{wrong}` for `{right}`: {message}"),
            Ok(passed) => panic!("`{wrong}` for `{right}` goes unnoticed in {passed} parts"),
        }
    }
}

#[test]
fn names_are_unique() {
    for cases in [cases(), cases_at(&Sizes::EMULATOR), cases_at(&Sizes::FEW)] {
        let mut seen = HashSet::new();
        for case in cases {
            assert!(seen.insert(case.name.clone()), "{} twice", case.name);
        }
    }
}
