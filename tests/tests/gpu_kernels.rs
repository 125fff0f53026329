//! Every device kernel byte for byte against `nvfp4` on the host: everywhere on the PTX emulator, at small sizes, and
//! on a card. Without the feature `cuda`, a driver or a supported card each case for the card is *ignored*, with the
//! reason.

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use kernels::launch::Arch;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use megamoe_tests::gpu::emulator::Emulator;
use megamoe_tests::gpu::text::same_as;
use megamoe_tests::gpu::{self, Case, Device, Ran, Sizes, Unavailable};
use ptx_emulator::machine::Schedule;

type Opened = Result<Arc<dyn Device>, Unavailable>;

#[cfg(feature = "cuda")]
fn open_card() -> Opened {
    let device: Arc<dyn Device> = Arc::new(gpu::cuda::CudaDevice::open()?);
    eprintln!("on {}", device.describe());
    Ok(device)
}

#[cfg(not(feature = "cuda"))]
fn open_card() -> Opened {
    Err(Unavailable::Absent("built without the feature `cuda`".to_owned()))
}

/// The trials of `cases` on a device that the first of them opens; their names start with `prefix`.
fn trials(
    prefix: String,
    cases: Vec<Case>,
    open: impl Fn() -> Opened + Send + Sync + 'static,
) -> impl Iterator<Item = Trial> {
    let device: Arc<(OnceLock<Opened>, _)> = Arc::new((OnceLock::new(), open));
    cases.into_iter().map(move |case| {
        let device = Arc::clone(&device);
        Trial::ignorable_test(format!("{prefix}{}", case.name), move || {
            run(case, device.0.get_or_init(&device.1))
        })
    })
}

fn run(case: Case, device: &Opened) -> Result<Completion, Failed> {
    match device {
        Err(Unavailable::Absent(reason)) => Ok(Completion::ignored_with(reason)),
        Err(Unavailable::Broken(reason)) => Err(reason.into()),
        Ok(device) => match case.run(device.as_ref())? {
            Ran { passed: 0, .. } => Ok(Completion::ignored_with("not for the device, or too large for it")),
            _ => Ok(Completion::Completed),
        },
    }
}

/// What runs on the emulator: everything in the default schedule, and a little in others. Kernels that are the same code
/// as on another architecture run there.
fn emulated(arch: Arch) -> impl Iterator<Item = Trial> {
    [
        ("", Schedule::RoundRobin, Sizes::EMULATOR),
        ("highest-first/", Schedule::HighestWarpFirst, Sizes::FEW),
        ("seed:1/", Schedule::Seeded(1), Sizes::FEW),
    ]
    .into_iter()
    .flat_map(move |(name, schedule, sizes)| {
        let open = move || match Emulator::new(arch, schedule) {
            Ok(device) => Ok(Arc::new(device) as Arc<dyn Device>),
            Err(e) => Err(Unavailable::Broken(e)),
        };
        let mut cases = gpu::cases_at(&sizes);
        cases.retain(|case| same_as(arch, case.kernel()).is_none());
        trials(format!("emulator-{}/{name}", arch.name()), cases, open)
    })
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // A case uses every core for its reference, and the emulator for its blocks.
    arguments.test_threads.get_or_insert(1);
    let all = Arch::ALL.into_iter().flat_map(emulated).chain(trials(String::new(), gpu::cases(), open_card));
    libtest_mimic::run(&arguments, all.collect()).exit_code()
}
