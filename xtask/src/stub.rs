//! A stand-in for libcuda to link against: every driver function that `cust_raw` declares, each returning
//! `CUDA_ERROR_STUB_LIBRARY`. Its soname is the driver's, so a program linked with it loads the real driver.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use xshell::cmd;

use crate::workspace::Workspace;

/// The folder for `CUDA_LIBRARY_PATH`, with `lib64/libcuda.so`; made if missing or out of date.
pub fn ensure(ws: &Workspace) -> Result<PathBuf> {
    let dir = ws.tools().join("libcuda-stub");
    let lib64 = dir.join("lib64");
    let (source, library) = (dir.join("stub.c"), lib64.join("libcuda.so"));
    let declarations = std::fs::read_to_string(binding(ws)?.join("src/cuda.rs"))?;
    let names = symbols(&declarations);
    ensure!(names.contains("cuInit"), "cust_raw declares no driver functions where they are expected");
    let text: String = names.iter().map(|name| format!("int {name}(void) {{ return 34; }}\n")).collect();
    if library.is_file() && std::fs::read_to_string(&source).is_ok_and(|old| old == text) {
        return Ok(dir);
    }
    ws.sh.create_dir(&lib64)?;
    std::fs::write(&source, text)?;
    let cc = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let sh = &ws.sh;
    cmd!(sh, "{cc} -shared -fPIC -Wl,-soname,libcuda.so.1 -o {library} {source}")
        .run()
        .context("a C compiler is needed, as for every Rust program: install cc (Debian: build-essential)")?;
    link(&lib64)?;
    Ok(dir)
}

/// `libcuda.so.1` beside the stub, for running without a driver.
fn link(lib64: &Path) -> Result<()> {
    let link = lib64.join("libcuda.so.1");
    if !link.exists() {
        #[cfg(unix)]
        std::os::unix::fs::symlink("libcuda.so", &link)?;
    }
    Ok(())
}

/// The folder of the `cust_raw` that the workspace uses.
fn binding(ws: &Workspace) -> Result<PathBuf> {
    let json =
        ws.cargo().args(["metadata", "--format-version", "1", "--all-features", "--quiet"]).quiet().read()?;
    let metadata: serde_json::Value = serde_json::from_str(&json)?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let manifest = packages
        .iter()
        .find(|package| package["name"] == "cust_raw")
        .and_then(|package| package["manifest_path"].as_str())
        .context("cust_raw is not among the dependencies")?;
    Ok(Path::new(manifest).parent().context("a manifest has a folder")?.to_path_buf())
}

fn symbols(source: &str) -> BTreeSet<&str> {
    let name = |line: &str| line.strip_prefix("pub fn ")?.find('(').map(|end| end + "pub fn ".len());
    source
        .lines()
        .map(str::trim_start)
        .filter_map(|line| name(line).map(|end| &line["pub fn ".len()..end]))
        .filter(|name| name.starts_with("cu"))
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn symbols_are_the_declared_functions() {
        let source = "extern \"C\" {\n    pub fn cuInit(Flags: u32) -> CUresult;\n    pub fn cuCtxSync();\n}\n\
                      pub type cuFoo = u32;\npub fn other() {}\n";
        assert_eq!(super::symbols(source).into_iter().collect::<Vec<_>>(), ["cuCtxSync", "cuInit"]);
    }
}
