//! `ptx-emulator run`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use ptx_emulator::check::{Checks, Mode};
use ptx_emulator::device::LaunchConfig;
use ptx_emulator::launch_file::{LaunchFile, Run};
use ptx_emulator::machine::{Progress, Schedule};
use ptx_emulator::numerics::Precision;

use crate::progress::Display;

/// Arguments of `ptx-emulator run`.
#[derive(Args)]
pub struct RunArgs {
    /// The launch: PTX, geometry, buffers, arguments, outputs (JSON).
    launch: PathBuf,
    /// `all`, a name (round-robin, producer-first, consumer-first, async-at-once, async-late, async-reversed) or
    /// `seed:N`.
    #[arg(long, default_value = "round-robin")]
    schedule: String,
    /// Strictness of the ordering rules.
    #[arg(long, value_enum, default_value_t = ModeArg::StrictPtx)]
    mode: ModeArg,
    /// Checkers: `all`, `none`, or a list of uninitialised, races, barriers, tcgen05, wgmma, aligned, descriptors;
    /// with `-` in front of a name, all but those.
    #[arg(long, value_delimiter = ',', allow_hyphen_values = true, default_value = "all")]
    checks: Vec<String>,
    /// Tensor-core arithmetic.
    #[arg(long, value_enum, default_value_t = PrecisionArg::Hardware)]
    precision: PrecisionArg,
    /// Stop a cluster after so many warp instructions (0 = never).
    #[arg(long, default_value_t = 2_000_000_000)]
    budget: u64,
    /// Write counters to a file, as JSON (with several schedules, those of the last), or print them as a table: `-`.
    #[arg(long)]
    counters: Option<PathBuf>,
    /// Write a timeline to a file, in Chrome's trace format (with several schedules, that of the last).
    #[arg(long)]
    trace: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum ModeArg {
    /// The ISA to the letter.
    StrictPtx,
    /// Also what shipping compilers rely on.
    CutlassCompatible,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum PrecisionArg {
    /// To the bit, where a model exists.
    Hardware,
    /// Plain f32.
    F32,
}

impl From<ModeArg> for Mode {
    fn from(mode: ModeArg) -> Self {
        match mode {
            ModeArg::StrictPtx => Mode::StrictPtx,
            ModeArg::CutlassCompatible => Mode::CutlassCompatible,
        }
    }
}

impl From<PrecisionArg> for Precision {
    fn from(precision: PrecisionArg) -> Self {
        match precision {
            PrecisionArg::Hardware => Precision::Hardware,
            PrecisionArg::F32 => Precision::PlainF32,
        }
    }
}

/// Runs the subcommand.
pub fn run(args: &RunArgs) -> Result<ExitCode> {
    let file = LaunchFile::read(&args.launch)?;
    let mut clean = true;
    let schedules = schedules(&args.schedule)?;
    let display = Display::new(schedules.len());
    for (index, (name, schedule)) in schedules.into_iter().enumerate() {
        let mut config = LaunchConfig::new([1; 3], [1; 3]);
        config.schedule = schedule;
        config.checks = checks(&args.checks)?;
        config.checks.mode = args.mode.into();
        config.precision = args.precision.into();
        config.budget = args.budget;
        config.trace = args.trace.is_some();
        let start = Instant::now();
        let progress = Arc::new(Progress::default());
        config.progress = Some(Arc::clone(&progress));
        let bar = display.bar(index, &name, &progress);
        let run = file.run(&config)?;
        bar.finish_and_clear();
        clean &= report(&name, &run, start.elapsed());
        file.write_outputs(&run)?;
        if let Some(path) = &args.trace {
            let timeline = ptx_emulator::trace::chrome(&run.outcome.trace);
            std::fs::write(path, timeline).with_context(|| format!("{}", path.display()))?;
        }
        if let Some(path) = &args.counters {
            let counters = &run.outcome.counters;
            if path.as_os_str() == "-" {
                print!("{}", counters.to_table());
            } else {
                std::fs::write(path, counters.to_json()).with_context(|| format!("{}", path.display()))?;
            }
        }
    }
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The schedules of a `--schedule`.
pub fn schedules(text: &str) -> Result<Vec<(String, Schedule)>> {
    if text == "all" {
        let mut all: Vec<_> = Schedule::NAMED.iter().map(|&(n, s)| (n.to_owned(), s)).collect();
        all.extend((1..=4).map(|n| (format!("seed:{n}"), Schedule::Seeded(n))));
        return Ok(all);
    }
    match Schedule::parse(text) {
        Some(schedule) => Ok(vec![(text.to_owned(), schedule)]),
        None => bail!("schedule {text} is not known; see --help"),
    }
}

/// The checkers of a `--checks`.
pub fn checks(names: &[String]) -> Result<Checks> {
    let all = |on: bool| Checks {
        uninitialised: on,
        races: on,
        barriers: on,
        tcgen05: on,
        wgmma: on,
        aligned: on,
        descriptors: on,
        mode: Mode::default(),
    };
    let negative = names.iter().any(|n| n.starts_with('-'));
    let mut checks = all(negative || names.iter().any(|n| n == "all"));
    for name in names {
        let (name, on) = name.strip_prefix('-').map_or((name.as_str(), true), |n| (n, false));
        match name {
            "all" | "none" => {}
            "uninitialised" => checks.uninitialised = on,
            "races" => checks.races = on,
            "barriers" => checks.barriers = on,
            "tcgen05" => checks.tcgen05 = on,
            "wgmma" => checks.wgmma = on,
            "aligned" => checks.aligned = on,
            "descriptors" => checks.descriptors = on,
            other => bail!("checker {other} is not known; see --help"),
        }
    }
    Ok(checks)
}

/// Prints findings and a summary; returns whether all is well.
fn report(name: &str, run: &Run, time: Duration) -> bool {
    for finding in &run.outcome.findings {
        println!("{finding}");
    }
    let c = &run.outcome.counters;
    let rate = c.lane_instructions as f64 / time.as_secs_f64().max(1e-9) / 1e6;
    println!(
        "{name:<16} {:>3} finding(s)  {:>12} warp instructions  {:>8.1} ms  {rate:>7.1} M lane instructions/s",
        run.outcome.findings.len(),
        c.warp_instructions,
        time.as_secs_f64() * 1e3
    );
    let mut good = run.outcome.findings.is_empty();
    for c in &run.comparisons {
        println!(
            "{name:<16} {}: max_abs {:.3e}, rel_l2 {:.3e}, {} non-finite mismatches: {}",
            c.buffer,
            c.max_abs,
            c.rel_l2,
            c.non_finite,
            if c.passed { "ok" } else { "NOT AS EXPECTED" }
        );
        good &= c.passed;
    }
    good
}
