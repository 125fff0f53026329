//! `megamoe`: inspect, run, verify and diagnose NVFP4 Mixture-of-Experts checkpoints.
//!
//! Exit codes: 0 done, 1 a check failed, 2 bad input or usage.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[cfg(feature = "cuda")]
mod bench;
mod diagnose;
mod inspect;
mod progress;
mod run;
mod verify;

/// Run, check and inspect the MoE layers of NVFP4 checkpoints.
#[derive(Parser)]
#[command(name = "megamoe", version, propagate_version = true, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    /// Log more: -v information, -vv debugging.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,

    /// No progress bars, warnings or notes; errors only.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Show what a checkpoint holds: sizes, formats, scale conventions, per layer.
    Inspect(inspect::InspectArgs),
    /// Run one layer on rows from a file.
    Run(run::RunArgs),
    /// Compare every available backend with the f64 oracle.
    Verify(verify::VerifyArgs),
    /// Look for the known ways in which NVFP4 checkpoints go wrong, on the real tensors.
    Diagnose(diagnose::DiagnoseArgs),
    /// Time a layer on a card against what the card can do, each time gated on the oracle.
    #[cfg(feature = "cuda")]
    Bench(bench::BenchArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let level = match (cli.quiet, cli.verbose) {
        (true, _) => tracing_subscriber::filter::LevelFilter::ERROR,
        (_, 0) => tracing_subscriber::filter::LevelFilter::WARN,
        (_, 1) => tracing_subscriber::filter::LevelFilter::INFO,
        _ => tracing_subscriber::filter::LevelFilter::DEBUG,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .without_time()
        .init();
    progress::set_enabled(!cli.quiet);
    let result = match &cli.command {
        Command::Inspect(args) => inspect::run(args),
        Command::Run(args) => run::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Diagnose(args) => diagnose::run(args),
        #[cfg(feature = "cuda")]
        Command::Bench(args) => bench::run(args),
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
