//! `megamoe verify`: every available backend against the oracle.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Args;
use megamoe::checkpoint::{Checkpoint, LoadOptions};
use megamoe::verify::{Batch, Outcome, Report, candidates, modes, verify};

use crate::progress;

/// Arguments of `megamoe verify`.
#[derive(Args)]
pub struct VerifyArgs {
    /// Checkpoint directory: config.json and safetensors shards.
    dir: PathBuf,
    /// One layer; all MoE layers without it.
    #[arg(long)]
    layer: Option<usize>,
    /// Generated rows per layer.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=4096))]
    tokens: u32,
    /// Seed of the generated rows.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Also write the results to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

const HEADER: [&str; 11] = [
    "layer",
    "input",
    "mode",
    "backend",
    "rel-L2",
    "calc_diff",
    "norm",
    "worst row",
    "experts",
    "weights",
    "L1 rows",
];
const WIDTHS: [usize; 11] = [5, 28, 15, 8, 8, 9, 8, 9, 7, 8, 8];

/// Runs the subcommand: exit code 1 if any comparison missed its bar.
pub fn run(args: &VerifyArgs) -> Result<ExitCode> {
    let checkpoint = Checkpoint::open(&args.dir)?;
    let layers = match args.layer {
        Some(layer) => vec![layer],
        None => checkpoint.moe_layers(),
    };
    ensure!(!layers.is_empty(), "{}: no layer has experts", args.dir.display());
    let mut report = Report::default();
    for layer in layers {
        let bar = progress::bytes(&format!("layer {layer}"), checkpoint.layer_bytes(layer));
        let options = LoadOptions { progress: Some(&|bytes| bar.inc(bytes)) };
        let weights = checkpoint.load_layer(layer, &options)?;
        bar.finish_and_clear();
        if report.outcomes.is_empty() {
            print_row(HEADER.map(str::to_owned), "");
        }
        let config = &weights.config;
        let tokens = args.tokens as usize;
        let mut batches = vec![Batch::activations(config, tokens, args.seed), Batch::edges(config)];
        let reference = args.dir.join(format!("reference.layer{layer}.safetensors"));
        if reference.is_file() {
            batches.push(Batch::from_file(&reference, config, tokens)?);
        }
        let steps = batches.len()
            * modes(&weights).0.len()
            * candidates().iter().filter(|c| c.backend.is_ok()).count();
        let bar = progress::steps(&format!("layer {layer}"), steps as u64);
        verify(&weights, &batches, &candidates(), &mut report, &mut |outcome| {
            bar.suspend(|| print_outcome(outcome));
            bar.inc(1);
        })?;
        bar.finish_and_clear();
    }
    println!();
    for skipped in &report.skipped {
        println!("not run: {}: {}", skipped.what, skipped.why);
    }
    let failed = report.outcomes.iter().filter(|o| !o.passed()).count();
    println!("{} comparisons, {failed} failed", report.outcomes.len());
    if let Some(path) = &args.json {
        let mut text = serde_json::to_string_pretty(&report)?;
        text.push('\n');
        std::fs::write(path, text).with_context(|| format!("{}", path.display()))?;
    }
    Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print_row(cells: [String; 11], verdict: &str) {
    let mut line = String::new();
    for (i, (cell, width)) in cells.iter().zip(WIDTHS).enumerate() {
        let text_column = (1..=3).contains(&i);
        let cell = if text_column { format!("{cell:<width$}") } else { format!("{cell:>width$}") };
        line.push_str(&cell);
        line.push_str("  ");
    }
    println!("{}", format!("{line}{verdict}").trim_end());
}

fn print_outcome(o: &Outcome) {
    let experts = match o.ids_undecided {
        0 => format!("{}/{}", o.ids_equal, o.tokens),
        n => format!("{}+{n}/{}", o.ids_equal, o.tokens),
    };
    let rows = match o.l1_rows {
        0 => "-".to_owned(),
        n => format!("{}/{n}", n - o.l1_rows_wrong),
    };
    print_row(
        [
            o.layer.to_string(),
            o.input.clone(),
            o.mode.to_owned(),
            o.backend.to_owned(),
            format!("{:.1e}", o.rel_l2),
            format!("{:.1e}", o.calc_diff),
            format!("{:.6}", o.norm_ratio),
            format!("{:.1e}", o.worst_token),
            experts,
            format!("{:.1e}", o.weight_error),
            rows,
        ],
        if o.passed() { "ok" } else { "FAIL" },
    );
    for failure in &o.failures {
        println!("{:7}{failure}", "");
    }
}
