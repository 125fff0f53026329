//! `build-ptx`: the kernels to PTX; a thin face of `cuda_builder`.

use anyhow::Result;
use cuda_builder::module;

use crate::workspace::Workspace;
use crate::{ptx, setup};

/// Options of `build-ptx`.
#[derive(clap::Args)]
pub struct Options {
    /// Change nothing; fail unless the committed PTX is what the sources give. Compares text where the compiler is
    /// the one that it was built with, digests otherwise.
    #[arg(long)]
    check: bool,
    /// Also assemble with ptxas: registers, shared memory, spills.
    #[arg(long)]
    report: bool,
    /// Accept the new counts of collective operations into kernels/ptx/aligned.*.txt.
    #[arg(long, conflicts_with = "check")]
    bless: bool,
}

/// Builds or checks.
pub fn run(ws: &Workspace, options: &Options) -> Result<()> {
    if options.check {
        ptx::check(ws)?;
    } else {
        setup::kernel_compiler(ws)?;
        for built in module::build_all(&ws.root, options.bless)? {
            let state = if built.changed { "written" } else { "unchanged" };
            println!("{}: {state} ({})", ws.show(&built.path), built.compiler);
        }
    }
    if options.report {
        setup::cuda_tools(ws)?;
        ptx::report(ws)?;
    }
    Ok(())
}
