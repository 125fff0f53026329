//! `doctor`: what this machine has and what it lacks, with the remedy.

use anyhow::{Result, bail};
use cuda_builder::toolchain::Search;
use cuda_builder::tools::Tool;
use xshell::cmd;

use crate::driver;
use crate::workspace::Workspace;

/// Prints one line per thing. Fails only if something that everything needs is missing.
pub fn run(ws: &Workspace) -> Result<()> {
    let sh = &ws.sh;
    let mut required_missing = Vec::new();
    let mut version = |what: &str, needed_for: &str, remedy: &str, command: xshell::Cmd<'_>| match command
        .quiet()
        .ignore_stderr()
        .read()
    {
        Ok(text) => line(true, what, text.lines().next().unwrap_or_default()),
        Err(_) => {
            line(false, what, &format!("missing, needed for {needed_for}; {remedy}"));
            if needed_for == "everything" {
                required_missing.push(what.to_owned());
            }
        }
    };
    let update = "rustup toolchain install (rust-toolchain.toml names the version)";
    version("rustc", "everything", update, cmd!(sh, "rustc --version"));
    version("cargo", "everything", update, cmd!(sh, "cargo --version"));
    version("C linker", "everything", "install cc (Debian: build-essential)", cmd!(sh, "cc --version"));
    version("clippy", "`ci`", "rustup component add clippy", cmd!(sh, "cargo clippy --version"));
    version("rustfmt", "`ci`", "rustup component add rustfmt", cmd!(sh, "cargo fmt --version"));
    match Search::from_env(&ws.root).find() {
        Ok(toolchain) => {
            line(true, "kernel compiler", &format!("{} ({})", toolchain.version, toolchain.rustc.display()));
        }
        Err(error) => line(false, "kernel compiler", &format!("missing, needed for `build-ptx`; {error}")),
    }
    for tool in [Tool::Ptxas, Tool::Nvdisasm, Tool::Cuobjdump] {
        match tool.find(&ws.root) {
            Ok(path) => line(true, tool.name(), &ws.show(&path)),
            Err(error) => {
                line(false, tool.name(), &format!("missing, needed for `build-ptx --report`; {error}"))
            }
        }
    }
    match driver::probe() {
        Err(error) => {
            line(false, "CUDA driver", &format!("{error}; needed to run on a GPU: install NVIDIA's driver"))
        }
        Ok(found) => {
            line(true, "CUDA driver", &format!("for CUDA {}.{}", found.cuda.0, found.cuda.1));
            match found.gpus {
                Err(error) => line(false, "GPU", &error),
                Ok(gpus) if gpus.is_empty() => line(false, "GPU", "the driver shows none"),
                Ok(gpus) => {
                    for gpu in gpus {
                        let (major, minor) = gpu.capability;
                        let kernels = match gpu.arch() {
                            Some(arch) => format!("kernels for {arch}"),
                            None => "no kernels for it".to_owned(),
                        };
                        let text = format!(
                            "{}, compute capability {major}.{minor}, {} GiB; {kernels}",
                            gpu.name,
                            gpu.memory >> 30
                        );
                        line(gpu.arch().is_some(), "GPU", &text);
                    }
                }
            }
        }
    }
    if !required_missing.is_empty() {
        bail!("missing: {}", required_missing.join(", "));
    }
    Ok(())
}

fn line(good: bool, what: &str, text: &str) {
    println!(
        "{} {what:<16} {}",
        if good { "ok" } else { "--" },
        text.trim_end().replace('\n', "\n                    ")
    );
}
