//! Whole layers against the oracle and against themselves: on the emulator everywhere, at small sizes, and on a card.
//! Without the feature `cuda`, a driver or a supported card each case for the card is *ignored*, with the reason.

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use kernels::launch::Arch;
use libtest_mimic::{Arguments, Completion, Trial};
use megamoe::emulator::EmulatorDevice;
use megamoe::runtime::Device;
use megamoe_tests::gpu::Unavailable;
use megamoe_tests::layer::{LinearSizes, Sizes, cases, linear_cases};
use ptx_emulator::machine::Schedule;

type Shared = Arc<dyn Device + Send + Sync>;
type Opened = Result<Shared, Unavailable>;

#[cfg(feature = "cuda")]
fn open_card() -> Opened {
    use megamoe::cuda::{Context, CudaDevice, Device, KernelSet};
    let devices = Device::all().map_err(|e| Unavailable::Absent(format!("no CUDA driver: {e}")))?;
    let device = devices
        .into_iter()
        .find(|device| device.arch().is_ok())
        .ok_or_else(|| Unavailable::Absent("no CUDA device that there are kernels for".to_owned()))?;
    let open = || CudaDevice::new(&KernelSet::load(&Context::primary(device)?)?);
    Ok(Arc::new(open().map_err(|e| Unavailable::Broken(e.to_string()))?))
}

#[cfg(not(feature = "cuda"))]
fn open_card() -> Opened {
    Err(Unavailable::Absent("built without the feature `cuda`".to_owned()))
}

fn trials(
    prefix: String,
    sizes: (&Sizes, &LinearSizes),
    emulated: Option<Arch>,
    open: impl Fn() -> Opened + Send + Sync + 'static,
) -> impl Iterator<Item = Trial> {
    let device: Arc<(OnceLock<Opened>, _)> = Arc::new((OnceLock::new(), open));
    let mut cases = cases(sizes.0);
    cases.extend(linear_cases(sizes.1));
    cases.retain(|case| emulated.is_none() || case.emulated_on.is_none() || case.emulated_on == emulated);
    cases.into_iter().map(move |case| {
        let device = Arc::clone(&device);
        Trial::ignorable_test(format!("{prefix}{}", case.name), move || {
            match device.0.get_or_init(&device.1) {
                Err(Unavailable::Absent(reason)) => Ok(Completion::ignored_with(reason)),
                Err(Unavailable::Broken(reason)) => Err(reason.into()),
                Ok(device) => {
                    (case.body)(device.as_ref())?;
                    Ok(Completion::Completed)
                }
            }
        })
    })
}

fn emulated(arch: Arch, schedule: Schedule, prefix: &str) -> impl Iterator<Item = Trial> + use<> {
    trials(
        format!("emulator-{}/{prefix}", arch.name()),
        (&Sizes::EMULATOR, &LinearSizes::EMULATOR),
        Some(arch),
        move || {
            let device = EmulatorDevice::with_ptx(arch, arch.ptx(), schedule);
            device.map(|d| Arc::new(d) as Shared).map_err(|e| Unavailable::Broken(e.to_string()))
        },
    )
}

/// A layer on tcgen05, one pass and two, in every other schedule: its kernels have the most to wait for.
fn scheduled() -> impl Iterator<Item = Trial> {
    let schedules = [
        ("lowest-first", Schedule::LowestWarpFirst),
        ("highest-first", Schedule::HighestWarpFirst),
        ("async-at-once", Schedule::AsyncAtOnce),
        ("async-late", Schedule::AsyncLate),
        ("async-reversed", Schedule::AsyncReversed),
        ("seed:1", Schedule::Seeded(1)),
    ];
    schedules.into_iter().flat_map(|(name, schedule)| {
        let names = ["nvfp4-shared/RowDynamic-Bound", "nvfp4-shared/RowDynamic-RowDynamic"];
        emulated(Arch::Sm100a, schedule, &format!("{name}/"))
            .filter(move |trial| names.iter().any(|name| trial.name().ends_with(name)))
    })
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let all = trials("cuda/".to_owned(), (&Sizes::CARD, &LinearSizes::CARD), None, open_card)
        .chain(emulated(Arch::Sm90a, Schedule::RoundRobin, ""))
        .chain(emulated(Arch::Sm100a, Schedule::RoundRobin, ""))
        .chain(scheduled());
    libtest_mimic::run(&arguments, all.collect()).exit_code()
}
