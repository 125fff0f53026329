//! The workspace's kernel modules: `cargo xtask build-ptx` and its `--check`, as functions of the workspace root.
//!
//! | file | what |
//! |---|---|
//! | `kernels/ptx/<arch>.ptx` | the module, generated, committed |
//! | `kernels/ptx/aligned.<arch>.txt` | collectives of each entry, checked |
//! | `kernels/ptx/allow.txt` | exceptions from the lint, optional |

use crate::aligned::AlignedTable;
use crate::digest::{self, Header};
use crate::lint::AllowList;
use crate::ptxas::{self, Report};
use crate::toolchain::{CompilerVersion, Search, Toolchain};
use crate::tools::Tool;
use crate::{Arch, BuiltModule, CudaBuilder, CudaBuilderError};
use std::path::{Path, PathBuf};

/// The committed PTX of `arch`.
pub fn ptx_path(root: &Path, arch: Arch) -> PathBuf {
    root.join("kernels/ptx").join(format!("{arch}.ptx"))
}

/// The checked-in table of collectives of `arch`.
pub fn aligned_path(root: &Path, arch: Arch) -> PathBuf {
    root.join("kernels/ptx").join(format!("aligned.{arch}.txt"))
}

/// What a build wrote.
#[derive(Clone, Debug)]
pub struct Built {
    /// The PTX file.
    pub path: PathBuf,
    /// What it is for.
    pub arch: Arch,
    /// What it was compiled with.
    pub compiler: CompilerVersion,
    /// Whether the file's text is another than before.
    pub changed: bool,
}

/// Compiles, checks and writes the PTX of every architecture. With `bless` the tables of collectives are written
/// too, instead of being compared. Nothing is written unless everything succeeds.
pub fn build_all(root: &Path, bless: bool) -> Result<Vec<Built>, CudaBuilderError> {
    let toolchain = Search::from_env(root).find()?;
    let mut files = Vec::new();
    let mut built = Vec::new();
    for arch in Arch::ALL {
        let module = fresh_module(root, arch, &toolchain, bless)?;
        let path = ptx_path(root, arch);
        let text =
            Header::file(arch, &module.compiler.to_string(), &digest::sources(root, arch)?, &module.ptx);
        let changed = std::fs::read_to_string(&path).ok().as_deref() != Some(&text);
        files.push((path.clone(), text));
        if bless {
            files.push((aligned_path(root, arch), module.aligned.render(arch)));
        }
        built.push(Built { path, arch, compiler: module.compiler, changed });
    }
    for (path, text) in files {
        std::fs::write(&path, text).map_err(CudaBuilderError::io("writing", &path))?;
    }
    Ok(built)
}

/// Checks every committed PTX file against its header and the sources; needs no compiler.
pub fn check_all(root: &Path) -> Result<Vec<(Arch, Header)>, CudaBuilderError> {
    Arch::ALL.into_iter().map(|arch| Ok((arch, digest::check(root, arch, &ptx_path(root, arch))?))).collect()
}

/// How a committed file compares with a build made now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// The same bytes.
    Same,
    /// Not compared: the compilers differ, and so may the text.
    OtherCompiler {
        /// The compiler of the committed file.
        committed: String,
        /// The compiler found here.
        found: String,
    },
    /// The same compiler gives another text.
    Differs {
        /// The first line that differs, counted in the body from 1, with both texts.
        first: (usize, String, String),
    },
}

/// Builds the module of `arch` now and compares it with the committed one.
pub fn freshness(root: &Path, arch: Arch, toolchain: &Toolchain) -> Result<Freshness, CudaBuilderError> {
    let path = ptx_path(root, arch);
    let file = std::fs::read_to_string(&path).map_err(CudaBuilderError::io("reading", &path))?;
    let (header, committed) = Header::split(&file).ok_or_else(|| CudaBuilderError::Stale {
        path: path.clone(),
        problem: "it has no header of a generated file".into(),
    })?;
    let found = toolchain.version.to_string();
    if header.compiler != found {
        return Ok(Freshness::OtherCompiler { committed: header.compiler, found });
    }
    let module = fresh_module(root, arch, toolchain, false)?;
    if module.ptx == committed {
        return Ok(Freshness::Same);
    }
    let (mut a, mut b) = (committed.lines(), module.ptx.lines());
    let mut line = 1;
    loop {
        match (a.next(), b.next()) {
            (Some(x), Some(y)) if x == y => line += 1,
            (x, y) => {
                let text = |t: Option<&str>| t.unwrap_or("(end)").to_string();
                return Ok(Freshness::Differs { first: (line, text(x), text(y)) });
            }
        }
    }
}

/// Builds the module of `arch` without touching the committed file. With `bless` the table of collectives is not
/// compared.
pub fn fresh_module(
    root: &Path,
    arch: Arch,
    toolchain: &Toolchain,
    bless: bool,
) -> Result<BuiltModule, CudaBuilderError> {
    let allow_path = root.join("kernels/ptx/allow.txt");
    let allow = AllowList::parse(&std::fs::read_to_string(&allow_path).unwrap_or_default())?;
    let builder = CudaBuilder::new(root.join("kernels"))
        .arch(arch)
        .target_dir(root.join("target").join(format!("kernels-{arch}")))
        .toolchain(toolchain.clone());
    let builder = if bless {
        builder.allow(allow)
    } else {
        let path = aligned_path(root, arch);
        // No table yet is an empty one: every collective is then a difference.
        builder.lint(AlignedTable::parse(&std::fs::read_to_string(&path).unwrap_or_default())?, allow)
    };
    builder.build_module()
}

/// Assembles the committed PTX of every architecture and reports registers, memory, spills and, where there is a
/// `cuobjdump`, the instructions of the tensor cores. The cubins stay in `target/cubin`.
pub fn report(root: &Path) -> Result<Vec<Report>, CudaBuilderError> {
    let folder = root.join("target/cubin");
    std::fs::create_dir_all(&folder).map_err(CudaBuilderError::io("creating", &folder))?;
    let of = |arch: Arch| {
        let cubin = folder.join(format!("{arch}.cubin"));
        let report = ptxas::assemble(root, &ptx_path(root, arch), arch, Some(&cubin))?;
        if Tool::Cuobjdump.find(root).is_ok() { report.with_mma(root, &cubin) } else { Ok(report) }
    };
    Arch::ALL.into_iter().map(of).collect()
}
