//! Checks of the committed PTX that several tasks share.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use cuda_builder::module::{self, Freshness};
use cuda_builder::tools::Tool;
use cuda_builder::{Arch, toolchain};

use crate::workspace::Workspace;

/// Where freshly built PTX of `arch` is put when it may differ from the committed.
pub fn fresh_path(ws: &Workspace, arch: Arch) -> PathBuf {
    ws.root.join(format!("target/fresh-ptx/{arch}.ptx"))
}

/// Digests; and where a kernel compiler is found, a fresh build: the same compiler must give the same text, another
/// one must give PTX that passes the lint, which is left at [`fresh_path`].
pub fn check(ws: &Workspace) -> Result<()> {
    for (arch, header) in module::check_all(&ws.root)? {
        println!("kernels/ptx/{arch}.ptx: digests agree ({})", header.compiler);
    }
    let toolchain = match toolchain::Search::from_env(&ws.root).find() {
        Ok(toolchain) => toolchain,
        Err(error) => {
            println!("not compared with a fresh build: {error}");
            return Ok(());
        }
    };
    for arch in Arch::ALL {
        match module::freshness(&ws.root, arch, &toolchain)? {
            Freshness::Same => println!("kernels/ptx/{arch}.ptx: a fresh build gives the same text"),
            Freshness::OtherCompiler { committed, found } => {
                let fresh = fresh_path(ws, arch);
                ws.sh.write_file(&fresh, module::fresh_module(&ws.root, arch, &toolchain, false)?.ptx)?;
                println!(
                    "kernels/ptx/{arch}.ptx: built with {committed}, here is {found}; a fresh build passes the \
                     lint ({})",
                    ws.show(&fresh)
                );
            }
            Freshness::Differs { first: (line, committed, fresh) } => bail!(
                "kernels/ptx/{arch}.ptx is not what the sources give; first difference in line {line} of the body:\n  \
                 committed: {committed}\n  fresh:     {fresh}\nrun `cargo xtask build-ptx`"
            ),
        }
    }
    Ok(())
}

/// Assembles the committed PTX if there is a ptxas; fails on spills, stacks and warnings.
pub fn report(ws: &Workspace) -> Result<()> {
    if let Err(error) = Tool::Ptxas.find(&ws.root) {
        println!("not assembled: {error}");
        return Ok(());
    }
    for report in module::report(&ws.root)? {
        print!("{report}");
        let clean = report.entries.iter().all(|entry| entry.is_clean()) && report.warnings.is_empty();
        ensure!(clean, "{}: ptxas reports a stack, spills or a warning", report.arch);
    }
    Ok(())
}
