//! `dist`: GPU tests and bench as programs that need nothing but a driver, with a script that runs them all.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use cuda_builder::tools::Tool;
use cuda_builder::{Arch, module, ptxas};

use crate::setup;
use crate::workspace::Workspace;

const RUN_SH: &str = include_str!("dist_run.sh");

/// Builds into dist/.
pub fn run(ws: &Workspace) -> Result<()> {
    let dist = ws.root.join("dist");
    ws.sh.remove_path(&dist)?;
    ws.sh.create_dir(dist.join("kernels"))?;
    for (name, program) in programs(ws)? {
        ws.sh.copy_file(&program, dist.join(name))?;
    }
    module::check_all(&ws.root)?;
    if let Err(error) = setup::cuda_tools(ws) {
        println!("no cubins: {error:#}");
    }
    for arch in Arch::ALL {
        let ptx = module::ptx_path(&ws.root, arch);
        ws.sh.copy_file(&ptx, dist.join(format!("kernels/{arch}.ptx")))?;
        if Tool::Ptxas.find(&ws.root).is_ok() {
            let cubin = dist.join(format!("kernels/{arch}.cubin"));
            print!("{}", ptxas::assemble(&ws.root, &ptx, arch, Some(&cubin))?);
        }
    }
    let script = dist.join("run.sh");
    std::fs::write(&script, RUN_SH)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
    }
    println!("\ndist/ is ready; on a machine with a GPU and NVIDIA's driver: sh run.sh");
    for entry in std::fs::read_dir(&dist)?.flatten() {
        println!("  {:<24} {:>8} KiB", entry.file_name().to_string_lossy(), entry.metadata()?.len() >> 10);
    }
    Ok(())
}

/// The test of whole layers, which has cases for a card beside those for the emulator.
const LAYER_TEST: &str = "layer";
/// The command line.
const PROGRAM: &str = "megamoe";

/// The GPU tests (every `tests/tests/gpu_*.rs`, and that of whole layers), the benches (`tests/src/bin/gpu_*.rs`) and the
/// command line, built with the feature `cuda`: name and file.
fn programs(ws: &Workspace) -> Result<Vec<(String, PathBuf)>> {
    let mut tests = gpu_files(ws, "tests/tests")?;
    tests.push(LAYER_TEST.to_owned());
    let common = ["--release", "--package", "megamoe-tests", "--features", "cuda"];
    let mut build = ws.cargo_cuda()?.args(["test", "--no-run"]).args(common);
    for test in &tests {
        build = build.args(["--test", test]);
    }
    let mut programs = executables(&build.args(["--message-format", "json-render-diagnostics"]).read()?)?;
    let benches = gpu_files(ws, "tests/src/bin")?;
    let mut build = ws.cargo_cuda()?.arg("build").args(common);
    for bench in &benches {
        build = build.args(["--bin", bench]);
    }
    programs.extend(executables(&build.args(["--message-format", "json-render-diagnostics"]).read()?)?);
    let build = ws.cargo_cuda()?.args(["build", "--release", "--package", PROGRAM, "--features", "cuda,cli"]);
    let build = build.args(["--bin", PROGRAM, "--message-format", "json-render-diagnostics"]);
    let wanted = |name: &str| name.starts_with("gpu_") || name == LAYER_TEST;
    programs.retain(|(name, _)| wanted(name));
    programs.extend(executables(&build.read()?)?.into_iter().filter(|(name, _)| name == PROGRAM));
    programs.sort();
    programs.dedup_by(|a, b| a.0 == b.0);
    ensure!(programs.len() == tests.len() + benches.len() + 1, "cargo built {programs:?}");
    Ok(programs)
}

/// Names of the Rust files in `folder` that start with `gpu_`, in order.
fn gpu_files(ws: &Workspace, folder: &str) -> Result<Vec<String>> {
    let mut names: Vec<String> = std::fs::read_dir(ws.root.join(folder))?
        .flatten()
        .filter_map(|entry| Some(entry.path().file_stem()?.to_str()?.to_owned()))
        .filter(|name| name.starts_with("gpu_"))
        .collect();
    names.sort();
    Ok(names)
}

/// Targets and files that cargo's messages name.
fn executables(messages: &str) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for line in messages.lines().filter(|line| line.starts_with('{')) {
        let message: serde_json::Value = serde_json::from_str(line).context("a message of cargo")?;
        if let (Some(file), Some(name)) = (message["executable"].as_str(), message["target"]["name"].as_str())
        {
            found.push((name.to_owned(), Path::new(file).to_path_buf()));
        }
    }
    Ok(found)
}
