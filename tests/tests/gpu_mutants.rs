//! Every fence, wait, commit, barrier, parity and so on of the committed kernels is needed: each mutant of their PTX is
//! noticed by the kernel's cases on the emulator, or listed in `tests/data/equivalents` with the reason why it makes no
//! difference. A trial per kernel; `exhaustive/KERNEL`, ignored by default, has every schedule. `clamps/KERNEL` leaves out
//! the clamps of SwiGLU.

use std::path::Path;
use std::process::ExitCode;

use kernels::launch::{Arch, Launch, TABLE};
use libtest_mimic::{Arguments, Failed, Trial};
use megamoe_tests::gpu::Sizes;
use megamoe_tests::gpu::mutation::{
    EXHAUSTIVE, cases_of, failure, mutate, schedules, shared_and_own, without_clamps,
};
use megamoe_tests::gpu::text::same_as;
use ptx_emulator::mutate::{kinds, mutants};

/// Judges a kernel's mutants; fails with the reports of those that are not as they should be.
fn judge(kernel: &'static Launch, schedules: &[&str]) -> Result<(), Failed> {
    if cases_of(kernel, &Sizes::FEW).is_empty() {
        return Err(format!("{} has no cases", kernel.name).into());
    }
    let mut faults = String::new();
    for &arch in kernel.archs {
        if same_as(arch, kernel).is_some() {
            continue;
        }
        let report = mutate(arch, kernel, &Sizes::FEW, schedules)?;
        println!("{}\n{report}", arch.name());
        if !report.good() {
            faults += &format!("{}, {}\n{report}", kernel.name, arch.name());
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(faults.into()) }
}

/// Whether a kernel's cases notice that a clamp is gone.
fn clamps(kernel: &Launch) -> Result<(), Failed> {
    let arch = kernel.archs[0];
    for (what, ptx) in without_clamps(arch, kernel) {
        match failure(arch, kernel, &ptx, &Sizes::FEW)? {
            Some(failure) => println!("without {what}: {}", failure.lines().next().unwrap_or_default()),
            None => return Err(format!("nothing notices that {what} are gone").into()),
        }
    }
    Ok(())
}

/// Kernels whose mutants are judged with a sibling's share most of its code: all but the epilogue. That of SwiGLU in f32 need have
/// none that the one in bf16 has not.
fn siblings_share_their_code() -> Result<(), Failed> {
    for kernel in TABLE {
        let Some([shared, own]) = shared_and_own(kernel.archs[0], kernel)? else { continue };
        if kernel.name.contains("_plain_") {
            if !shared.is_empty() {
                return Err(format!("{} is judged elsewhere", kernel.name).into());
            }
        } else if shared.len() < 2 * own.len() || (own.is_empty() && !kernel.name.ends_with("_f32")) {
            let (shared, own) = (shared.len(), own.len());
            return Err(format!("{}: {shared} mutants are in shared code, {own} are not", kernel.name).into());
        }
    }
    Ok(())
}

/// The quantisers hand partial maxima over through shared memory: a barrier each.
fn barriers_of_the_quantisers() -> Result<(), Failed> {
    let kinds = kinds(&["delete-barrier"])?;
    for arch in Arch::ALL {
        for name in ["quantize_nvfp4_rows", "swiglu_quantize_nvfp4"] {
            let count = mutants(arch.ptx(), name, &kinds)?.len();
            if count != 1 {
                return Err(format!("{name} has {count} barriers").into());
            }
        }
    }
    Ok(())
}

/// A list whose kernel is gone would never be looked at.
fn lists_are_of_kernels() -> Result<(), Failed> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/equivalents");
    for file in folder.read_dir()? {
        let name = file?.file_name();
        if TABLE.iter().all(|k| *name != *format!("{}.txt", k.name)) {
            return Err(format!("{} is not KERNEL.txt", name.display()).into());
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // A kernel's mutants use every core already.
    arguments.test_threads.get_or_insert(1);
    let mut trials = vec![
        Trial::test("siblings_share_their_code", siblings_share_their_code),
        Trial::test("barriers_of_the_quantisers", barriers_of_the_quantisers),
        Trial::test("lists_are_of_kernels", lists_are_of_kernels),
    ];
    for kernel in TABLE {
        trials.push(Trial::test(kernel.name, move || judge(kernel, schedules(kernel))));
        let trial = Trial::test(format!("exhaustive/{}", kernel.name), move || judge(kernel, &EXHAUSTIVE));
        trials.push(trial.with_ignored_flag(true));
        if !without_clamps(kernel.archs[0], kernel).is_empty() {
            trials.push(Trial::test(format!("clamps/{}", kernel.name), move || clamps(kernel)));
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}
