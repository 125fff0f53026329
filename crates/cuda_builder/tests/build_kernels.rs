//! Real builds. Each test that needs a kernel compiler or ptxas says so on stderr and passes when there is none.

use cuda_builder::module::{self, Freshness};
use cuda_builder::toolchain::{Search, Toolchain};
use cuda_builder::tools::Tool;
use cuda_builder::{Arch, CudaBuilder, CudaBuilderError, ptxas};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn toolchain() -> Option<Toolchain> {
    match Search::from_env(&root()).find() {
        Ok(t) => Some(t),
        Err(e) => {
            eprintln!("SKIPPED: {e}");
            None
        }
    }
}

fn have_ptxas() -> bool {
    let found = Tool::Ptxas.find(&root());
    if let Err(e) = &found {
        eprintln!("SKIPPED: {e}");
    }
    found.is_ok()
}

#[test]
fn committed_ptx_belongs_to_the_sources() {
    for (arch, header) in module::check_all(&root()).unwrap() {
        assert_eq!(header.arch, arch.name());
    }
}

#[test]
fn committed_ptx_is_what_a_fresh_build_gives() {
    let Some(toolchain) = toolchain() else { return };
    for arch in Arch::ALL {
        match module::freshness(&root(), arch, &toolchain).unwrap() {
            Freshness::Same => {}
            Freshness::OtherCompiler { committed, found } => {
                eprintln!("SKIPPED: {arch} was built with {committed}, here is {found}; texts not compared");
            }
            Freshness::Differs { first: (line, committed, fresh) } => {
                panic!(
                    "{arch}: line {line} is\n  {committed}\nin the committed file, a build gives\n  {fresh}"
                );
            }
        }
    }
}

#[test]
fn committed_ptx_assembles_without_spills_or_stack() {
    if !have_ptxas() {
        return;
    }
    for report in module::report(&root()).unwrap() {
        assert!(report.warnings.is_empty(), "{report}");
        assert!(!report.entries.is_empty());
        for entry in &report.entries {
            assert!(entry.is_clean(), "{report}");
        }
    }
}

#[test]
fn committed_ptx_has_no_machine_paths() {
    for arch in Arch::ALL {
        let text = std::fs::read_to_string(module::ptx_path(&root(), arch)).unwrap();
        for needle in
            [".rs", "/usr/", "/home/", concat!("/ro", "ot/"), "/tmp/", "/rustc/", root().to_str().unwrap()]
        {
            assert!(!text.contains(needle), "{arch}: `{needle}`");
        }
    }
}

/// The smoke crate, copied to a folder of its own with the path of cuda_std filled in.
fn smoke(edit: impl Fn(String) -> String) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/smoke");
    let manifest = std::fs::read_to_string(from.join("Cargo.toml")).unwrap();
    let cuda_std = root().join("crates/cuda_std");
    std::fs::write(dir.path().join("Cargo.toml"), manifest.replace("CUDA_STD", cuda_std.to_str().unwrap()))
        .unwrap();
    std::fs::create_dir(dir.path().join("src")).unwrap();
    let source = std::fs::read_to_string(from.join("src/lib.rs")).unwrap();
    std::fs::write(dir.path().join("src/lib.rs"), edit(source)).unwrap();
    dir
}

fn smoke_build(
    toolchain: &Toolchain,
    arch: Arch,
    edit: impl Fn(String) -> String,
) -> Result<PathBuf, CudaBuilderError> {
    let dir = smoke(edit);
    let out = root().join("target").join(format!("smoke-{arch}.ptx"));
    CudaBuilder::new(dir.path())
        .arch(arch)
        .toolchain(toolchain.clone())
        .target_dir(root().join("target").join(format!("smoke-{arch}")))
        .copy_to(&out)
        .build()
}

#[test]
fn every_device_function_compiles_and_assembles() {
    let Some(toolchain) = toolchain() else { return };
    for arch in Arch::ALL {
        let ptx = smoke_build(&toolchain, arch, |s| s).unwrap();
        let text = std::fs::read_to_string(&ptx).unwrap();
        assert!(text.contains(".maxntid 128, 1, 1\n.minnctapersm 1\n.reqnctapercluster 2, 1, 1\n{"));
        let one = &text[text.find(".entry one_barrier").unwrap()..];
        let one = &one[..one.find("\n}").unwrap()];
        assert_eq!(one.matches("bar.sync").count(), 1, "the barrier was copied:\n{one}");
        if have_ptxas() {
            let report = ptxas::assemble(&root(), &ptx, arch, None).unwrap();
            assert_eq!(report.entries.len(), 3, "{report}");
        }
    }

    // Faults in a real build, on one architecture: a kernel without bounds, an error of the compiler.
    let no_bounds = |s: String| s.replace("#[kernel(bounds = LaunchBounds::block(128))]", "#[kernel]");
    let err = smoke_build(&toolchain, Arch::Sm90a, no_bounds).unwrap_err();
    assert!(matches!(&err, CudaBuilderError::NoLaunchRow(_)), "{err}");

    let over_aligned = |s: String| {
        s.replace("pub unsafe fn tensor_core_order()", "pub unsafe fn tensor_core_order(_: Map)")
            + "\n#[repr(align(64))]\n#[derive(Clone, Copy)]\npub struct Map([u64; 16]);\n"
    };
    let fixed = |s: String| over_aligned(s).replace("(_: Map)", "(_m: Map)");
    let err = smoke_build(&toolchain, Arch::Sm90a, fixed).unwrap_err();
    assert!(err.to_string().contains("must not be aligned to more than 16 bytes"), "{err}");

    for (from, to, message) in [
        ("pub unsafe fn one_barrier", "pub fn one_barrier", "must be an `unsafe fn`"),
        (
            "fn one_barrier(x: *const u32, out: *mut u32) {",
            "fn one_barrier(x: *const u32, out: *mut u32) -> u32 {",
            "cannot return a value",
        ),
        ("pub unsafe fn one_barrier(", "pub unsafe fn one_barrier<T>(", "cannot be generic"),
    ] {
        let err = smoke_build(&toolchain, Arch::Sm90a, |s| s.replace(from, to)).unwrap_err();
        assert!(err.to_string().contains(message), "{message} is not in: {err}");
    }
}
