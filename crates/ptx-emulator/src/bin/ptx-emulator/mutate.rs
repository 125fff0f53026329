//! `ptx-emulator mutate`.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use ptx_emulator::device::LaunchConfig;
use ptx_emulator::launch_file::LaunchFile;
use ptx_emulator::machine::Schedule;
use ptx_emulator::mutate::{Equivalents, KINDS, Mutant, Plan, Report, Verdict, kinds, mutants};
use serde_json::json;

use super::run::{ModeArg, PrecisionArg, checks, schedules};

/// Arguments of `ptx-emulator mutate`.
#[derive(Args)]
pub struct MutateArgs {
    /// The launch: PTX, geometry, buffers, arguments, outputs (JSON).
    launch: PathBuf,
    /// Mutants that make no difference: a line each, identity, colon, reason.
    #[arg(long, value_name = "FILE")]
    equivalents: Option<PathBuf>,
    /// Kinds of mutations, all by default; `--kinds help` lists them.
    #[arg(long, value_delimiter = ',')]
    kinds: Vec<String>,
    /// Schedules, in the order in which they are tried: a list of what `run --schedule` takes.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "round-robin,consumer-first,async-late,async-at-once"
    )]
    schedule: Vec<String>,
    /// Strictness of the ordering rules.
    #[arg(long, value_enum, default_value_t = ModeArg::StrictPtx)]
    mode: ModeArg,
    /// Checkers, as for `run`.
    #[arg(long, value_delimiter = ',', allow_hyphen_values = true, default_value = "all")]
    checks: Vec<String>,
    /// Tensor-core arithmetic.
    #[arg(long, value_enum, default_value_t = PrecisionArg::Hardware)]
    precision: PrecisionArg,
    /// A mutant may take so many times the warp instructions of the unmutated launch.
    #[arg(long, default_value_t = 4)]
    budget_factor: u64,
    /// Mutants at a time (0 = one per core).
    #[arg(long, default_value_t = 0)]
    jobs: usize,
    /// Only list the mutants.
    #[arg(long)]
    list: bool,
    /// Print every mutant's fate, not only those that are not as they should be.
    #[arg(long, short)]
    verbose: bool,
    /// Write the report to a file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs the subcommand: exit 0 if every mutant is killed or listed, else 1.
pub fn run(args: &MutateArgs) -> Result<ExitCode> {
    if args.kinds.iter().any(|k| k == "help") {
        KINDS.iter().for_each(|k| println!("{:<18} {}", k.name, k.fault));
        return Ok(ExitCode::SUCCESS);
    }
    let file = LaunchFile::read(&args.launch)?;
    let source = file.source()?;
    let kinds = kinds(&args.kinds)?;
    if args.list {
        mutants(&source, file.entry(), &kinds)?.iter().for_each(|m| println!("{}", listed(m)));
        return Ok(ExitCode::SUCCESS);
    }
    let equivalents = match &args.equivalents {
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
            Equivalents::parse(&text).with_context(|| format!("{}", path.display()))?
        }
        None => Equivalents::default(),
    };
    let mut order: Vec<(String, Schedule)> = Vec::new();
    for text in &args.schedule {
        order.extend(schedules(text)?);
    }
    if order.is_empty() {
        bail!("at least one schedule is needed");
    }
    let mut options = LaunchConfig::new([1; 3], [1; 3]);
    options.checks = checks(&args.checks)?;
    options.checks.mode = args.mode.into();
    options.precision = args.precision.into();
    let plan = Plan {
        kinds,
        budget_factor: args.budget_factor,
        jobs: args.jobs,
        ..Plan::new(&source, file.entry(), &equivalents).schedules(order)
    };
    let bar = progress_bar();
    let report = ptx_emulator::mutate::run(
        &plan,
        |trial| file.observe(trial, &options),
        |done, all| {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
        },
    )?;
    bar.finish_and_clear();
    if args.verbose {
        report.results.iter().for_each(|r| println!("{r}"));
    }
    print!("{report}");
    if let Some(path) = &args.json {
        std::fs::write(path, to_json(&report)?).with_context(|| format!("{}", path.display()))?;
    }
    Ok(if report.good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn listed(mutant: &Mutant) -> String {
    let instead = if mutant.replacement.is_empty() { "(nothing)" } else { &mutant.replacement };
    format!("{} (line {}): {instead}", mutant.identity, mutant.line)
}

fn progress_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} mutants, {eta} left");
    ProgressBar::no_length().with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn to_json(report: &Report) -> Result<String> {
    let mutants: Vec<_> = report
        .results
        .iter()
        .map(|r| {
            let i = &r.mutant.identity;
            let (by, detail, schedule) = match &r.verdict {
                Verdict::Killed { by, schedule } => (Some(by.to_string()), Some(by.detail()), Some(schedule)),
                Verdict::Crashed { message, schedule } => (None, Some(message.as_str()), Some(schedule)),
                Verdict::Survived => (None, None, None),
            };
            json!({
                "identity": i.to_string(), "kind": i.kind, "function": i.function, "ordinal": i.ordinal,
                "line": r.mutant.line, "replacement": r.mutant.replacement, "status": r.status(),
                "killed_by": by, "detail": detail, "schedule": schedule, "reason": r.reason,
            })
        })
        .collect();
    let report = json!({
        "entry": report.entry,
        "good": report.good(),
        "warp_instructions": report.baseline.longest_cluster,
        "compares_outputs": report.baseline.compares_outputs,
        "mutants": mutants,
        "stale": report.stale.iter().map(ToString::to_string).collect::<Vec<_>>(),
    });
    Ok(format!("{}\n", serde_json::to_string_pretty(&report)?))
}
