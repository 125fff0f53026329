//! The compiler invocation: one crate, one architecture, one PTX text.

use crate::toolchain::{TARGET, Toolchain, inner_env};
use crate::{Arch, CudaBuilderError};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Flags of every crate of the device build, `core` included.
///
/// * `-JumpThreading`: rustc's pass knows no convergence and would copy a barrier into both arms of a branch.
/// * `immediate-abort`: a panic is a trap, with no formatting code, no strings and no calls.
/// * `location-detail=none`: no source paths in the data.
/// * the unroll threshold: arrays that stand for registers must be fully unrolled, or they go to local memory
///   (which the lint refuses).
/// * `cfg(cuda_arch = "..")`: modules for one architecture alone; rustc's own `cfg` does not tell them apart.
pub fn rustflags(arch: Arch) -> Vec<String> {
    vec![
        format!("-Ctarget-cpu={}", arch.name()),
        format!("-Ctarget-feature=+{}", arch.ptx_feature()),
        "-Zmir-enable-passes=-JumpThreading".into(),
        "-Zunstable-options".into(),
        "-Cpanic=immediate-abort".into(),
        "-Zlocation-detail=none".into(),
        "-Cllvm-args=-unroll-threshold=4000".into(),
        format!("--cfg=cuda_arch=\"{}\"", arch.name()),
    ]
}

/// Profile settings of the device build, as environment variables of cargo.
const PROFILE: [(&str, &str); 6] = [
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3"),
    ("CARGO_PROFILE_RELEASE_LTO", "fat"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
    ("CARGO_PROFILE_RELEASE_PANIC", "abort"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "0"),
    ("CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS", "false"),
];

/// The recipe as text, for the digest: other flags mean other PTX.
pub(crate) fn recipe(arch: Arch) -> String {
    let profile: Vec<String> = PROFILE.iter().map(|(k, v)| format!("{k}={v}")).collect();
    format!("{} {}", rustflags(arch).join(" "), profile.join(" "))
}

/// Compiles the library of the package in `krate` and returns the PTX as LLVM wrote it.
///
/// `target_dir` is cargo's; use one per architecture, since a switch of flags rebuilds `core`.
pub fn compile(
    toolchain: &Toolchain,
    krate: &Path,
    arch: Arch,
    target_dir: &Path,
) -> Result<String, CudaBuilderError> {
    let name = package_name(krate)?;
    let release = target_dir.join(TARGET).join("release");
    // The file's name has a hash of everything that cargo deems relevant, and an up-to-date crate is not written
    // again. Forget the crate, so that it is compiled now and leaves exactly one file.
    remove_matching(&release.join("deps"), |f| f.starts_with(&name) && f.ends_with(".s"))?;
    let package = name.replace('_', "-");
    remove_matching(&release.join(".fingerprint"), |f| {
        f.starts_with(&format!("{name}-")) || f.starts_with(&format!("{package}-"))
    })?;

    let out = Command::new(&toolchain.cargo)
        .args(["rustc", "--release", "-Zbuild-std=core", "--lib", "--crate-type", "staticlib"])
        .args(["--target", TARGET, "--", "--emit=asm"])
        .current_dir(krate)
        .env_clear()
        .envs(inner_env(std::env::vars_os()))
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTC", &toolchain.rustc)
        .env("RUSTC_WRAPPER", "")
        .env("RUSTC_WORKSPACE_WRAPPER", "")
        .env("CARGO_TARGET_DIR", target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(arch).join("\x1f"))
        .env("CARGO_INCREMENTAL", "0")
        .env("CARGO_TERM_COLOR", "never")
        .envs(PROFILE)
        .stdin(Stdio::null())
        .output()
        .map_err(CudaBuilderError::io("running", &toolchain.cargo))?;
    if !out.status.success() {
        return Err(CudaBuilderError::Compile {
            krate: krate.to_path_buf(),
            arch: arch.name(),
            compiler: toolchain.version.to_string(),
            stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
        });
    }
    let deps = release.join("deps");
    let files = matching(&deps, |f| f.starts_with(&format!("{name}-")) && f.ends_with(".s"))?;
    match files.as_slice() {
        [one] => std::fs::read_to_string(one).map_err(CudaBuilderError::io("reading", one)),
        other => Err(CudaBuilderError::NoPtx { dir: deps, found: other.len() }),
    }
}

/// The package's name from its manifest, with `_` for `-`, as rustc names files.
fn package_name(krate: &Path) -> Result<String, CudaBuilderError> {
    let manifest = krate.join("Cargo.toml");
    let text = std::fs::read_to_string(&manifest).map_err(CudaBuilderError::io("reading", &manifest))?;
    let mut in_package = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            in_package = line == "[package]";
        } else if in_package
            && let Some((key, value)) = line.split_once('=')
            && key.trim() == "name"
        {
            return Ok(value.trim().trim_matches('"').replace('-', "_"));
        }
    }
    Err(CudaBuilderError::NotAPackage(krate.to_path_buf()))
}

fn matching(dir: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>, CudaBuilderError> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let entries = std::fs::read_dir(dir).map_err(CudaBuilderError::io("reading", dir))?;
    Ok(entries.flatten().filter(|e| wanted(&e.file_name().to_string_lossy())).map(|e| e.path()).collect())
}

fn remove_matching(dir: &Path, wanted: impl Fn(&str) -> bool) -> Result<(), CudaBuilderError> {
    for path in matching(dir, wanted)? {
        let gone = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        gone.map_err(CudaBuilderError::io("removing", &path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_package_name_is_read_from_its_section() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = dir.path().join("Cargo.toml");
        std::fs::write(&manifest, "[lib]\nname = \"other\"\n[package]\nname = \"my-kernels\"\n").unwrap();
        assert_eq!(package_name(dir.path()).unwrap(), "my_kernels");
        std::fs::write(&manifest, "[workspace]\n").unwrap();
        assert!(matches!(package_name(dir.path()), Err(CudaBuilderError::NotAPackage(_))));
    }

    #[test]
    fn a_failing_compiler_is_quoted() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("Cargo.toml"), "[package]\nname = \"k\"\n").unwrap();
        let script = dir.path().join("cargo");
        std::fs::write(&script, "#!/bin/sh\necho 'error: something specific' >&2; exit 101\n").unwrap();
        #[cfg(unix)]
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let toolchain = Toolchain {
            rustc: "/nonexistent".into(),
            cargo: script,
            version: crate::toolchain::CompilerVersion { release: "1.0.0".into(), llvm: "1".into() },
        };
        let err = compile(&toolchain, dir.path(), Arch::Sm90a, &dir.path().join("target")).unwrap_err();
        assert!(err.to_string().contains("something specific"), "{err}");
        assert!(err.to_string().contains("sm_90a"), "{err}");
    }
}
