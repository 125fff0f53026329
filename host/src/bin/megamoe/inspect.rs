//! `megamoe inspect`: what a checkpoint holds, from its documents and headers alone.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use megamoe::checkpoint::{Checkpoint, CheckpointError, LayerInfo};
use serde_json::json;

/// Arguments of `megamoe inspect`.
#[derive(Args)]
pub struct InspectArgs {
    /// Checkpoint directory: config.json and safetensors shards.
    dir: PathBuf,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand. A layer that cannot be loaded is part of the picture, and makes the exit code 1.
pub fn run(args: &InspectArgs) -> Result<ExitCode> {
    let checkpoint = Checkpoint::open(&args.dir)?;
    let layers: Vec<_> = checkpoint.moe_layers().into_iter().map(|n| (n, checkpoint.layer_info(n))).collect();
    if args.json {
        println!("{:#}", as_json(&checkpoint, &layers));
    } else {
        print(&checkpoint, &layers);
    }
    let broken = layers.iter().any(|(_, info)| info.is_err());
    Ok(if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

type Layers = [(usize, Result<LayerInfo, CheckpointError>)];

/// `experts` and the rest of a layer in words, for both forms of output.
fn shared(info: &LayerInfo) -> String {
    info.shared.map_or("none".to_owned(), |format| format.to_string())
}

fn router(info: &LayerInfo) -> &'static str {
    match (info.hash, info.bias) {
        (true, _) => "hash table",
        (false, true) => "top-k + bias",
        (false, false) => "top-k",
    }
}

fn print(checkpoint: &Checkpoint, layers: &Layers) {
    let config = checkpoint.config();
    let layer = &config.layer;
    let line = |key: &str, value: String| println!("{key:<18} {value}");
    line("checkpoint", checkpoint.dir().display().to_string());
    line("model type", config.model_type.clone());
    line(
        "layers",
        format!(
            "{} ({} with routed experts, {} hash-routed)",
            config.layers,
            layers.len(),
            config.hash_layers
        ),
    );
    line("hidden", layer.hidden.to_string());
    line("intermediate", format!("{} (shared {})", layer.intermediate, layer.shared_intermediate));
    line("experts", format!("{}, {} per token", layer.experts, layer.top_k));
    line(
        "routing",
        format!(
            "{:?}, {}normalised, scaled by {}",
            layer.scoring,
            if layer.norm_topk_prob { "" } else { "not " },
            layer.routed_scaling_factor
        ),
    );
    line("swiglu limit", layer.swiglu_limit.map_or("none".to_owned(), |l| l.to_string()));
    line("vocabulary", layer.vocab_size.to_string());
    line("names", checkpoint.name_family().map_or("none".to_owned(), |f| f.to_string()));
    let files = checkpoint.files().count();
    line(
        "files",
        format!("{files}, {} tensors, {}", checkpoint.tensors().len(), size(checkpoint.total_bytes())),
    );
    for warning in checkpoint.warnings() {
        line("warning", warning.clone());
    }
    println!();
    println!(
        "{:>5}  {:<8} {:<43} {:<10} {:<12} {:<13} {:<7} {:>10}",
        "layer", "experts", "global scales", "stored", "input_scale", "router", "shared", "bytes"
    );
    for (n, info) in layers {
        match info {
            Ok(info) => {
                println!(
                    "{n:>5}  {:<8} {:<43} {:<10} {:<12} {:<13} {:<7} {:>10}",
                    info.experts.to_string(),
                    info.convention.to_string(),
                    info.fusion.to_string(),
                    if info.input_scales { "all" } else { "no" },
                    router(info),
                    shared(info),
                    size(info.bytes)
                );
                for warning in &info.warnings {
                    println!("{:>5}  warning: {warning}", "");
                }
            }
            Err(error) => println!("{n:>5}  cannot be loaded: {error}"),
        }
    }
}

fn as_json(checkpoint: &Checkpoint, layers: &Layers) -> serde_json::Value {
    let config = checkpoint.config();
    let layer = &config.layer;
    let of_layer = |(n, info): &(usize, Result<LayerInfo, CheckpointError>)| match info {
        Ok(info) => json!({
            "layer": n,
            "block": info.block,
            "experts": info.experts.to_string(),
            "scale_convention": info.convention.to_string(),
            "stored": info.fusion.to_string(),
            "input_scales": info.input_scales,
            "router": router(info),
            "shared": shared(info),
            "bytes": info.bytes,
            "warnings": info.warnings,
        }),
        Err(error) => json!({ "layer": n, "error": error.to_string() }),
    };
    json!({
        "model_type": config.model_type,
        "num_layers": config.layers,
        "hash_layers": config.hash_layers,
        "hidden": layer.hidden,
        "intermediate": layer.intermediate,
        "shared_intermediate": layer.shared_intermediate,
        "experts": layer.experts,
        "top_k": layer.top_k,
        "scoring": format!("{:?}", layer.scoring),
        "norm_topk_prob": layer.norm_topk_prob,
        "routed_scaling_factor": layer.routed_scaling_factor,
        "swiglu_limit": layer.swiglu_limit,
        "vocab_size": layer.vocab_size,
        "names": checkpoint.name_family().map(|f| f.to_string()),
        "files": checkpoint.files().map(|f| f.display().to_string()).collect::<Vec<_>>(),
        "tensors": checkpoint.tensors().len(),
        "bytes": checkpoint.total_bytes(),
        "warnings": checkpoint.warnings(),
        "layers": layers.iter().map(of_layer).collect::<Vec<_>>(),
    })
}

/// Bytes for people.
fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.2} {}", units[unit]) }
}
