//! Everything that can go wrong, typed.

use crate::lint::Finding;
use crate::toolchain::Rejected;
use std::path::{Path, PathBuf};

/// Why a build or a check failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CudaBuilderError {
    /// No compiler on this machine can build kernels.
    #[error(
        "no kernel compiler found: a rustc with rust-src and the nvptx64 backend is needed.\n{}\
         Remedies, either one:\n  rustup component add rust-src\n  \
         apt-get install rustc-web cargo-web rust-web-src\n\
         or name a rustc (or its bin folder) in {}.",
        list(.tried), crate::toolchain::OVERRIDE_ENV
    )]
    NoKernelCompiler {
        /// What was looked at, in order, and why it does not do.
        tried: Vec<Rejected>,
    },

    /// The compiler ran and failed.
    #[error("compiling {krate} for {arch} with {compiler} failed:\n{stderr}")]
    Compile {
        /// The crate's folder.
        krate: PathBuf,
        /// Name of the architecture.
        arch: &'static str,
        /// Version of the compiler.
        compiler: String,
        /// What it wrote, warnings included.
        stderr: String,
    },

    /// The compiler succeeded but left no PTX, or more than one.
    #[error("expected one PTX file in {dir}, found {found}")]
    NoPtx {
        /// Where it should be.
        dir: PathBuf,
        /// How many there are.
        found: usize,
    },

    /// The folder is no cargo package, or its manifest names none.
    #[error("{0} is not a cargo package: no package name in its Cargo.toml")]
    NotAPackage(PathBuf),

    /// The PTX does not have the form that rustc writes.
    #[error("cannot read the PTX: {0}")]
    MalformedPtx(String),

    /// An entry without launch bounds.
    #[error("entry `{0}` has no row in the launch table: give its #[kernel] attribute `bounds = ..`")]
    NoLaunchRow(String),

    /// Launch bounds without an entry.
    #[error("the launch table has a row for `{0}`, but the PTX has no such entry")]
    NoSuchEntry(String),

    /// A malformed or repeated row.
    #[error("bad launch row `{row}`: {problem}")]
    BadLaunchRow {
        /// The row as written.
        row: String,
        /// What is wrong with it.
        problem: String,
    },

    /// The lint found something.
    #[error("the PTX lint refuses {arch}:\n{}", list(.findings))]
    Lint {
        /// Name of the architecture.
        arch: &'static str,
        /// Every finding.
        findings: Vec<Finding>,
    },

    /// A committed PTX file is not what its header says.
    #[error("{path}: {problem}; run `cargo xtask build-ptx`")]
    Stale {
        /// The file.
        path: PathBuf,
        /// What differs, with both values.
        problem: String,
    },

    /// A CUDA tool is not installed.
    #[error("{tool} not found: run `cargo xtask setup`, or name it in {env}")]
    NoTool {
        /// Its name.
        tool: &'static str,
        /// The environment variable that names it.
        env: &'static str,
    },

    /// A CUDA tool ran and failed.
    #[error("{tool} failed on {arch}:\n{stderr}")]
    Tool {
        /// Its name.
        tool: &'static str,
        /// Name of the architecture.
        arch: &'static str,
        /// What it wrote.
        stderr: String,
    },

    /// A file or process could not be used.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the path.
        what: String,
        /// The system's reason.
        source: std::io::Error,
    },
}

impl CudaBuilderError {
    /// An I/O error on `path`.
    pub(crate) fn io(doing: &str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let what = format!("{doing} {}", path.display());
        move |source| Self::Io { what, source }
    }
}

/// One item per line, indented.
fn list<T: std::fmt::Display>(items: &[T]) -> String {
    items.iter().map(|i| format!("  {i}\n")).collect()
}
