//! `ptx-emulator check`: what of a PTX file is not supported.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use ptx_emulator::program::{LoadError, load};

/// Arguments of `ptx-emulator check`.
#[derive(Args)]
pub struct CheckArgs {
    /// PTX files.
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

/// Runs the subcommand: exit 0 if everything is supported, else 2.
pub fn run(args: &CheckArgs) -> Result<ExitCode> {
    let mut supported = true;
    for file in &args.files {
        let text = std::fs::read_to_string(file).with_context(|| format!("{}", file.display()))?;
        match load(&text) {
            Ok(module) => {
                for entry in &module.entries {
                    println!(
                        "{}: {}: {} instructions, all supported",
                        file.display(),
                        entry.name,
                        entry.code.len()
                    );
                }
            }
            Err(LoadError::Decode(errors)) => {
                supported = false;
                println!("{}: {} instruction(s) not supported", file.display(), errors.len());
                for error in errors {
                    println!("  {error}");
                }
            }
            Err(error) => {
                supported = false;
                println!("{}: {error}", file.display());
            }
        }
    }
    Ok(ExitCode::from(if supported { 0 } else { 2 }))
}
