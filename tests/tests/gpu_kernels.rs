//! Every device kernel on a card, byte for byte against `nvfp4` on the host. Without the feature `cuda`, a driver or
//! a supported card each case is *ignored*, with the reason.

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use libtest_mimic::{Arguments, Completion, Trial};
use megamoe_tests::gpu::{self, Device};

type Opened = Result<Arc<dyn Device>, String>;

#[cfg(feature = "cuda")]
fn open() -> Opened {
    let device: Arc<dyn Device> = Arc::new(gpu::cuda::CudaDevice::open()?);
    eprintln!("on {}", device.describe());
    Ok(device)
}

#[cfg(not(feature = "cuda"))]
fn open() -> Opened {
    Err("built without the feature `cuda`".to_owned())
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // A case uses every core for its reference.
    arguments.test_threads.get_or_insert(1);
    let device: Arc<OnceLock<Opened>> = Arc::default();
    let trial = |case: gpu::Case| {
        let device = Arc::clone(&device);
        Trial::ignorable_test(case.name, move || match device.get_or_init(open) {
            Err(reason) => Ok(Completion::ignored_with(reason)),
            Ok(device) if case.elements > device.max_elements() => {
                Ok(Completion::ignored_with(format!("too large for {}", device.describe())))
            }
            Ok(device) => {
                (case.run)(device.as_ref())?;
                Ok(Completion::Completed)
            }
        })
    };
    libtest_mimic::run(&arguments, gpu::cases().into_iter().map(trial).collect()).exit_code()
}
