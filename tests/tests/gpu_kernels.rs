//! Every device kernel on a card, byte for byte against `nvfp4` on the host. Without the feature `cuda`, a driver or
//! a supported card each case is *ignored*, with the reason.

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use libtest_mimic::{Arguments, Completion, Trial};
use megamoe_tests::gpu::{self, Case, Device, Ran, Unavailable};

type Opened = Result<Arc<dyn Device>, Unavailable>;

#[cfg(feature = "cuda")]
fn open() -> Opened {
    let device: Arc<dyn Device> = Arc::new(gpu::cuda::CudaDevice::open()?);
    eprintln!("on {}", device.describe());
    Ok(device)
}

#[cfg(not(feature = "cuda"))]
fn open() -> Opened {
    Err(Unavailable::Absent("built without the feature `cuda`".to_owned()))
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // A case uses every core for its reference.
    arguments.test_threads.get_or_insert(1);
    let device: Arc<OnceLock<Opened>> = Arc::default();
    let trial = |case: Case| {
        let device = Arc::clone(&device);
        Trial::ignorable_test(case.name.clone(), move || match device.get_or_init(open) {
            Err(Unavailable::Absent(reason)) => Ok(Completion::ignored_with(reason)),
            Err(Unavailable::Broken(reason)) => Err(reason.into()),
            Ok(device) => match case.run(device.as_ref())? {
                Ran { passed: 0, .. } => Ok(Completion::ignored_with("too large for the device")),
                _ => Ok(Completion::Completed),
            },
        })
    };
    libtest_mimic::run(&arguments, gpu::cases().into_iter().map(trial).collect()).exit_code()
}
