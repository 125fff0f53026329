//! Every fence, wait, commit, barrier, parity and so on of the committed kernels is needed: each mutant of their PTX is
//! noticed by the kernel's cases on the emulator, or listed in `tests/data/equivalents` with the reason why it makes no
//! difference.

use std::collections::HashSet;
use std::path::Path;

use kernels::launch::{Arch, Launch, TABLE};
use megamoe_tests::gpu::Sizes;
use megamoe_tests::gpu::mutation::{cases_of, code, mutate};
use ptx_emulator::mutate::{kinds, mutants};

/// Kernels whose surviving mutants nobody has judged yet: neither listed nor killed by a new case.
const PENDING: &[&str] = &[
    "expert_gemm_wide_swiglu_bf16",
    "expert_gemm_wide_swiglu_f32",
    "expert_gemm_wide_plain_f32",
    "expert_gemm_narrow_swiglu_bf16",
    "expert_gemm_narrow_swiglu_f32",
    "expert_gemm_narrow_plain_f32",
    "combine",
    "count_slots",
    "dense_bf16_linear",
    "dense_bf16_swiglu",
    "dense_fp8_linear",
    "dense_fp8_swiglu",
    "place_slots",
    "prepare_rows_bf16",
    "prepare_rows_nvfp4_bf16",
    "prepare_rows_nvfp4_f32",
    "route_tokens",
    "router_logits",
    "rows_amax_bf16",
    "rows_amax_f32",
    "sort_slots",
];

/// Judges a kernel's mutants; the reports of those that are not as they should be.
fn faults(kernel: &Launch) -> String {
    assert!(!cases_of(kernel, &Sizes::FEW).is_empty(), "{} has no cases", kernel.name);
    let (mut judged, mut faults) = (HashSet::new(), String::new());
    for &arch in kernel.archs {
        // The portable kernels are the same text for both.
        if !judged.insert(code(arch, kernel).unwrap()) {
            continue;
        }
        let report = mutate(arch, kernel, &Sizes::FEW).unwrap();
        println!("{}\n{report}", arch.name());
        if !report.good() {
            faults += &format!("{}, {}\n{report}", kernel.name, arch.name());
        }
    }
    faults
}

#[test]
fn every_mutant_is_noticed() {
    for kernel in TABLE.iter().filter(|k| !PENDING.contains(&k.name)) {
        let faults = faults(kernel);
        assert!(faults.is_empty(), "{faults}");
    }
}

#[test]
#[ignore = "their survivors are not judged yet"]
fn every_mutant_of_the_pending_kernels_is_noticed() {
    let faults: String = TABLE.iter().filter(|k| PENDING.contains(&k.name)).map(faults).collect();
    assert!(faults.is_empty(), "{faults}");
}

#[test]
fn pending_kernels_exist() {
    assert!(PENDING.iter().all(|name| TABLE.iter().any(|k| k.name == *name)));
}

/// The quantisers hand partial maxima over through shared memory: a barrier each.
#[test]
fn barriers_of_the_quantisers() {
    let kinds = kinds(&["delete-barrier"]).unwrap();
    for arch in Arch::ALL {
        for name in ["quantize_nvfp4_rows", "swiglu_quantize_nvfp4"] {
            assert_eq!(mutants(arch.ptx(), name, &kinds).unwrap().len(), 1, "{name}");
        }
    }
}

/// A list whose kernel is gone would never be looked at.
#[test]
fn lists_are_of_kernels() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/equivalents");
    for file in folder.read_dir().into_iter().flatten() {
        let name = file.unwrap().file_name().into_string().unwrap();
        assert!(TABLE.iter().any(|k| name == format!("{}.txt", k.name)), "{name} is not KERNEL.txt");
    }
}
