//! `megamoe diagnose`: the known ways in which checkpoints go wrong, on the real tensors.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Args;
use megamoe::checkpoint::Checkpoint;
use megamoe::diagnose::{LayerReport, Options, Verdict, diagnose_layer};
use serde_json::json;

use crate::progress;

/// Arguments of `megamoe diagnose`.
#[derive(Args)]
pub struct DiagnoseArgs {
    /// Checkpoint directory: config.json and safetensors shards.
    dir: PathBuf,
    /// One layer; all MoE layers without it.
    #[arg(long)]
    layer: Option<usize>,
    /// Real rows: `hidden_states` BF16 [T, H], and `input_ids` I64 [T] for hash layers. Generated ones without it.
    #[arg(long)]
    input: Option<PathBuf>,
    /// Rows to run, at most.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65536))]
    tokens: u32,
    /// Seed of generated rows.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand: exit code 1 if a check fails.
pub fn run(args: &DiagnoseArgs) -> Result<ExitCode> {
    let checkpoint = Checkpoint::open(&args.dir)?;
    let layers = match args.layer {
        Some(layer) => vec![layer],
        None => checkpoint.moe_layers(),
    };
    ensure!(!layers.is_empty(), "{}: no layer has experts", args.dir.display());
    let options = Options { input: args.input.clone(), tokens: args.tokens as usize, seed: args.seed };
    let mut reports = Vec::new();
    for layer in layers {
        let bar = progress::steps(&format!("layer {layer}"), 0);
        let report = diagnose_layer(&checkpoint, layer, &options, &mut |done, all| {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
        })?;
        bar.finish_and_clear();
        if !args.json {
            print(&report);
        }
        reports.push(report);
    }
    let verdict = reports.iter().map(|r| r.verdict).max().unwrap_or(Verdict::Ok);
    if args.json {
        let document = json!({
            "checkpoint": args.dir.display().to_string(),
            "verdict": verdict,
            "layers": reports,
        });
        println!("{document:#}");
    } else {
        let count = |v| reports.iter().flat_map(|r| &r.checks).filter(|f| f.verdict == v).count();
        println!(
            "{} ok, {} warnings, {} failed",
            count(Verdict::Ok),
            count(Verdict::Warn),
            count(Verdict::Fail)
        );
    }
    Ok(if verdict == Verdict::Fail { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn print(report: &LayerReport) {
    println!("layer {}", report.layer);
    for finding in &report.checks {
        println!("  {:<4}  {:<19}  {}", finding.verdict, finding.check, finding.reason);
    }
    if !report.not_run.is_empty() {
        println!("  not run, because the layer does not load: {}", report.not_run.join(", "));
    }
    println!();
}
