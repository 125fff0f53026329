//! `test`: sets up what is missing and runs every test. The output ends with cargo's own.

use anyhow::Result;

use crate::workspace::{CLI, CUDA, Workspace};
use crate::{driver, ptx, setup};

/// Sets up and runs.
pub fn run(ws: &Workspace) -> Result<()> {
    setup::run(ws)?;
    ptx::check(ws)?;
    ptx::report(ws)?;
    let Some(gpu) = driver::usable_gpu() else {
        println!("no usable GPU: GPU tests are reported as ignored");
        ws.cargo().args(["test", "--workspace", "--no-fail-fast", "--features", CLI]).run()?;
        return Ok(());
    };
    println!("GPU tests run on {}", gpu.name);
    let mut cargo = ws.cargo_cuda()?.args(["test", "--workspace", "--no-fail-fast", "--features", CUDA]);
    // Kernels of the compiler at hand, if it is not the one that the committed PTX came from.
    if let Some(fresh) = gpu.arch().map(|arch| ptx::fresh_path(ws, arch)).filter(|path| path.is_file()) {
        cargo = cargo.env("MEGAMOE_KERNEL_IMAGE", fresh);
    }
    cargo.run()?;
    Ok(())
}
