//! `ci`: everything that must pass before a change goes in, stopping at the first failure. The output ends with
//! cargo test's own. Tidiness is `xtask/tests/tidy.rs`, an ordinary test.

use anyhow::{Context, Result};

use crate::workspace::{CUDA, Workspace};
use crate::{ptx, setup};

/// Runs every step.
pub fn run(ws: &Workspace) -> Result<()> {
    components(ws)?;
    ws.cargo().args(["fmt", "--all", "--check"]).run().context("`cargo fmt` corrects it")?;
    setup::run(ws)?;
    let deny = ["--", "-D", "warnings"];
    ws.cargo().args(["clippy", "--workspace", "--all-targets"]).args(deny).run()?;
    ws.cargo_cuda()?.args(["clippy", "--workspace", "--all-targets", "--features", CUDA]).args(deny).run()?;
    ws.cargo_cuda()?
        .args(["doc", "--workspace", "--no-deps", "--document-private-items", "--features", CUDA])
        .env("RUSTDOCFLAGS", "-D warnings")
        .run()?;
    ptx::check(ws)?;
    ptx::report(ws)?;
    // Without a driver the stub stands in for it, and GPU tests are ignored with that reason.
    ws.cargo_cuda()?.args(["test", "--workspace", "--no-fail-fast", "--features", CUDA]).run()?;
    Ok(())
}

/// rustfmt and clippy, if the toolchain came without.
fn components(ws: &Workspace) -> Result<()> {
    for (command, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        let found =
            ws.cargo().args([command, "--version"]).quiet().ignore_stdout().ignore_stderr().run().is_ok();
        if !found {
            let sh = &ws.sh;
            xshell::cmd!(sh, "rustup component add {component}").run()?;
        }
    }
    Ok(())
}
