//! Where things are, and how cargo is called.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use xshell::{Cmd, Shell, cmd};

use crate::{driver, stub};

/// Features of a build with the command-line programs.
pub const CLI: &str = "megamoe/cli,ptx-emulator/cli";
/// Features of a build that can use a card.
pub const CUDA: &str = "megamoe/cli,ptx-emulator/cli,megamoe-tests/cuda";

/// The workspace and a shell in its root.
pub struct Workspace {
    /// Its root.
    pub root: PathBuf,
    /// A shell there.
    pub sh: Shell,
}

impl Workspace {
    /// The workspace that this program belongs to.
    pub fn open() -> Result<Self> {
        // Set by `cargo run`, and true even if the workspace has moved since the build.
        let here = std::env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = here.parent().context("xtask is not inside a workspace")?.to_path_buf();
        let sh = Shell::new()?;
        sh.change_dir(&root);
        Ok(Self { root, sh })
    }

    /// `cargo`, in the root.
    pub fn cargo(&self) -> Cmd<'_> {
        let sh = &self.sh;
        cmd!(sh, "cargo")
    }

    /// `cargo` for a build with the feature `cuda`: links against the stub of libcuda. What it runs gets the stub
    /// at run time too if there is no driver, and then finds no device.
    pub fn cargo_cuda(&self) -> Result<Cmd<'_>> {
        let stub = stub::ensure(self)?;
        let cargo = self.cargo().env("CUDA_LIBRARY_PATH", path_list("CUDA_LIBRARY_PATH", &stub)?);
        if driver::is_installed() {
            return Ok(cargo);
        }
        Ok(cargo.env("LD_LIBRARY_PATH", path_list("LD_LIBRARY_PATH", &stub.join("lib64"))?))
    }

    /// A folder for what tasks fetch or make, git-ignored.
    pub fn tools(&self) -> PathBuf {
        self.root.join("target/tools")
    }

    /// `path` as seen from the root, for messages.
    pub fn show(&self, path: &Path) -> String {
        path.strip_prefix(&self.root).unwrap_or(path).display().to_string()
    }
}

/// The path list in the environment variable `name`, with `first` in front.
fn path_list(name: &str, first: &Path) -> Result<std::ffi::OsString> {
    let rest = std::env::var_os(name).unwrap_or_default();
    let paths = std::iter::once(first.to_path_buf()).chain(std::env::split_paths(&rest));
    Ok(std::env::join_paths(paths.filter(|p| !p.as_os_str().is_empty()))?)
}
