//! [`CudaBuilder`]: one crate to one PTX module.

use crate::aligned::AlignedTable;
use crate::lint::{self, AllowList};
use crate::ptx_edit::{self, LaunchRow};
use crate::toolchain::{CompilerVersion, Search, Toolchain};
use crate::{Arch, CudaBuilderError, compile};
use std::path::{Path, PathBuf};

/// Builds the PTX of a kernel crate; the shape is that of rust-cuda's.
#[derive(Clone, Debug)]
pub struct CudaBuilder {
    krate: PathBuf,
    arch: Arch,
    copy_to: Option<PathBuf>,
    target_dir: Option<PathBuf>,
    toolchain: Option<Toolchain>,
    aligned: Option<AlignedTable>,
    allow: AllowList,
}

/// A finished module.
#[derive(Clone, Debug)]
pub struct BuiltModule {
    /// The PTX with launch bounds, without a header.
    pub ptx: String,
    /// What it is for.
    pub arch: Arch,
    /// What it was compiled with.
    pub compiler: CompilerVersion,
    /// Launch bounds of its entries, by name.
    pub launch: Vec<LaunchRow>,
    /// Collectives of its entries.
    pub aligned: AlignedTable,
}

impl CudaBuilder {
    /// Builds the package in the folder `krate`, for [`Arch::Sm90a`] unless told otherwise.
    pub fn new(krate: impl AsRef<Path>) -> Self {
        Self {
            krate: krate.as_ref().to_path_buf(),
            arch: Arch::Sm90a,
            copy_to: None,
            target_dir: None,
            toolchain: None,
            aligned: None,
            allow: AllowList::default(),
        }
    }

    /// The architecture.
    pub fn arch(mut self, arch: Arch) -> Self {
        self.arch = arch;
        self
    }

    /// Also writes the PTX there.
    pub fn copy_to(mut self, path: impl AsRef<Path>) -> Self {
        self.copy_to = Some(path.as_ref().to_path_buf());
        self
    }

    /// Folder of intermediate files; by default `target/kernels-<arch>` in the crate's folder.
    pub fn target_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.target_dir = Some(dir.as_ref().to_path_buf());
        self
    }

    /// The compiler; by default the first that [`Search::from_env`] finds.
    pub fn toolchain(mut self, toolchain: Toolchain) -> Self {
        self.toolchain = Some(toolchain);
        self
    }

    /// The checked-in table of collectives. Without one, collectives are counted but not compared.
    pub fn lint(mut self, aligned: AlignedTable, allow: AllowList) -> Self {
        self.aligned = Some(aligned);
        self.allow = allow;
        self
    }

    /// Exceptions from the lint alone, without a table of collectives.
    pub fn allow(mut self, allow: AllowList) -> Self {
        self.allow = allow;
        self
    }

    /// Compiles, inserts the launch bounds, lints, writes. Returns the path of the PTX: the one of
    /// [`CudaBuilder::copy_to`], else one in the target folder.
    pub fn build(&self) -> Result<PathBuf, CudaBuilderError> {
        let module = self.build_module()?;
        let path = self.copy_to.clone().unwrap_or_else(|| self.target_folder().join("module.ptx"));
        std::fs::write(&path, &module.ptx).map_err(CudaBuilderError::io("writing", &path))?;
        Ok(path)
    }

    /// As [`CudaBuilder::build`], in memory.
    pub fn build_module(&self) -> Result<BuiltModule, CudaBuilderError> {
        let toolchain = match &self.toolchain {
            Some(t) => t.clone(),
            None => Search::from_env(&self.krate).find()?,
        };
        let raw = compile::compile(&toolchain, &self.krate, self.arch, &self.target_folder())?;
        let (rest, launch) = ptx_edit::take_launch_table(&raw)?;
        let ptx = ptx_edit::insert_launch_bounds(&rest, &launch)?;
        let aligned = AlignedTable::count(&ptx)?;
        lint::check(&ptx, self.arch, self.aligned.as_ref().unwrap_or(&aligned), &self.allow)?;
        Ok(BuiltModule { ptx, arch: self.arch, compiler: toolchain.version, launch, aligned })
    }

    fn target_folder(&self) -> PathBuf {
        let default = || self.krate.join("target").join(format!("kernels-{}", self.arch));
        let dir = self.target_dir.clone().unwrap_or_else(default);
        // cargo runs in the crate's folder, so a relative path would mean another place.
        std::path::absolute(&dir).unwrap_or(dir)
    }
}
