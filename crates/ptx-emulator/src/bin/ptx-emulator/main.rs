//! `ptx-emulator`: runs and checks PTX on the CPU.
//!
//! Exit codes: 0 clean, 1 findings, an output that is not as expected or a mutant that lives, 2 bad or unsupported
//! input.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod check;
mod mutate;
mod progress;
mod run;

/// Runs PTX for sm_90a and sm_100a on the CPU and reports what hardware hides.
#[derive(Parser)]
#[command(name = "ptx-emulator", version, propagate_version = true, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a launch described by a JSON file.
    Run(run::RunArgs),
    /// Parse PTX and list what is not supported.
    Check(check::CheckArgs),
    /// Change one instruction at a time of a launch and see whether anything notices.
    Mutate(mutate::MutateArgs),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Mutate(args) => mutate::run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {}", describe(&error));
        ExitCode::from(2)
    })
}

/// An error with its causes; one that the text names already is not repeated.
fn describe(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}
