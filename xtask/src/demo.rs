//! `demo`: a real MoE layer on the best backend found, and its check against the oracle.

use anyhow::{Result, ensure};

use crate::driver;
use crate::workspace::Workspace;

/// A small checkpoint with real structure, and rows for its layer 3 with the reference's results.
const CHECKPOINT: &str = "tests/data/checkpoint-small";
const LAYER: &str = "3";

/// Builds the program and shows it.
pub fn run(ws: &Workspace) -> Result<()> {
    let checkpoint = ws.root.join(CHECKPOINT);
    ensure!(checkpoint.join("config.json").is_file(), "{CHECKPOINT} is missing from this checkout");
    // Feature `cuda` needs a driver when the program starts.
    let features = match driver::usable_gpu() {
        Some(gpu) => {
            println!("on {}", gpu.name);
            "cli,cuda"
        }
        None => "cli",
    };
    let cargo = || if features == "cli" { Ok(ws.cargo()) } else { ws.cargo_cuda() };
    println!("building the program (release)");
    cargo()?.args(["build", "--release", "--package", "megamoe", "--features", features]).run()?;
    let out = ws.root.join("target/demo");
    ws.sh.create_dir(&out)?;
    let output = out.join("output.safetensors");
    let input = checkpoint.join(format!("reference.layer{LAYER}.safetensors"));
    let program = ["run", "--quiet", "--release", "--package", "megamoe", "--features", features, "--"];
    println!("\n== what is in {CHECKPOINT} ==");
    cargo()?.args(program).arg("inspect").arg(CHECKPOINT).quiet().run()?;
    println!("\n== layer {LAYER} on the rows of {} ==", ws.show(&input));
    cargo()?
        .args(program)
        .args(["run", CHECKPOINT, "--layer", LAYER, "--backend", "auto", "--input"])
        .arg(&input)
        .arg("--output")
        .arg(&output)
        .quiet()
        .run()?;
    println!("output: {}", ws.show(&output));
    println!("\n== every backend against the f64 oracle ==");
    cargo()?.args(program).args(["verify", CHECKPOINT]).quiet().run()?;
    Ok(())
}
