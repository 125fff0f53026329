//! Developer tasks. One subcommand, one file; `cargo xtask help` lists them, `docs/development.md` explains them.

use anyhow::Result;
use clap::{Parser, Subcommand};

mod build_ptx;
mod ci;
mod demo;
mod dist;
mod doctor;
mod driver;
mod model;
mod ptx;
mod setup;
mod stub;
mod test;
mod workspace;

use workspace::Workspace;

/// Developer tasks of this workspace.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Set up what is missing and run a real MoE layer on the best backend found.
    Demo,
    /// Set up what is missing and run every test.
    Test,
    /// Say what this machine has and what it lacks, with the remedy.
    Doctor,
    /// Get the kernel compiler and NVIDIA's assembler; does nothing twice.
    Setup,
    /// Compile the kernels to kernels/ptx.
    BuildPtx(build_ptx::Options),
    /// Everything that must pass before a change goes in: format, lints, docs, PTX, tests.
    Ci,
    /// Build what is carried to a machine with a GPU into dist/.
    Dist,
    /// Print the model of a layer's time on Blackwell that docs/blackwell.md holds.
    Model,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let workspace = Workspace::open()?;
    match cli.task {
        Task::Demo => demo::run(&workspace),
        Task::Test => test::run(&workspace),
        Task::Doctor => doctor::run(&workspace),
        Task::Setup => setup::run(&workspace),
        Task::BuildPtx(options) => build_ptx::run(&workspace, &options),
        Task::Ci => ci::run(&workspace),
        Task::Dist => dist::run(&workspace),
        Task::Model => {
            model::run();
            Ok(())
        }
    }
}
