//! Finding NVIDIA's command-line tools: `ptxas`, `nvdisasm`, `cuobjdump`.
//!
//! Looked for in this order: the tool's environment variable, `target/tools/cuda` of the workspace (where
//! `cargo xtask setup` unpacks the PyPI wheels), `PATH`, `/usr/local/cuda/bin`.

use crate::CudaBuilderError;
use std::path::{Path, PathBuf};

/// A command-line tool of the CUDA toolkit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// The assembler: PTX to machine code.
    Ptxas,
    /// The disassembler.
    Nvdisasm,
    /// The object dumper.
    Cuobjdump,
}

impl Tool {
    /// Its file name.
    pub const fn name(self) -> &'static str {
        match self {
            Tool::Ptxas => "ptxas",
            Tool::Nvdisasm => "nvdisasm",
            Tool::Cuobjdump => "cuobjdump",
        }
    }

    /// The environment variable that names it.
    pub const fn env(self) -> &'static str {
        match self {
            Tool::Ptxas => "MEGAMOE_PTXAS",
            Tool::Nvdisasm => "MEGAMOE_NVDISASM",
            Tool::Cuobjdump => "MEGAMOE_CUOBJDUMP",
        }
    }

    /// Its path, for the workspace at `root`.
    pub fn find(self, root: &Path) -> Result<PathBuf, CudaBuilderError> {
        let missing = CudaBuilderError::NoTool { tool: self.name(), env: self.env() };
        if let Some(named) = std::env::var_os(self.env()).filter(|v| !v.is_empty()).map(PathBuf::from) {
            // A wrong name is an error, not a reason to take another.
            return if named.is_file() { Ok(named) } else { Err(missing) };
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        below(&root.join("target/tools/cuda"), self.name(), 6)
            .or_else(|| std::env::split_paths(&path).map(|dir| dir.join(self.name())).find(|p| p.is_file()))
            .or_else(|| Some(Path::new("/usr/local/cuda/bin").join(self.name())).filter(|p| p.is_file()))
            .ok_or(missing)
    }
}

/// `**/bin/NAME` below `dir`, at most `depth` folders down; the first in name order.
fn below(dir: &Path, name: &str, depth: u32) -> Option<PathBuf> {
    let here = dir.join("bin").join(name);
    if here.is_file() {
        return Some(here);
    }
    if depth == 0 {
        return None;
    }
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(dir).ok()?.flatten().map(|e| e.path()).filter(|p| p.is_dir()).collect();
    folders.sort();
    folders.iter().find_map(|f| below(f, name, depth - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wheels_are_searched_by_their_bin_folders() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(below(dir.path(), "ptxas", 6), None);
        let bin = dir.path().join("nvidia/cu13/bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::write(bin.join("ptxas"), "").unwrap();
        assert_eq!(below(dir.path(), "ptxas", 6), Some(bin.join("ptxas")));
        assert_eq!(below(dir.path(), "ptxas", 1), None);
    }

    #[test]
    fn a_missing_tool_says_how_to_get_it() {
        let text = CudaBuilderError::NoTool { tool: "ptxas", env: Tool::Ptxas.env() }.to_string();
        assert!(text.contains("cargo xtask setup") && text.contains("MEGAMOE_PTXAS"), "{text}");
    }
}
