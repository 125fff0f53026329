//! Finding a compiler that can build kernels.
//!
//! It needs the library sources (`rust-src`), because `core` is compiled for the GPU, and an LLVM with the NVPTX
//! backend. Candidates, in order: the one named in `MEGAMOE_KERNEL_TOOLCHAIN` (and then no other), the active
//! toolchain, the distribution's `/usr/bin/rustc`.

use crate::{Arch, CudaBuilderError};
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Environment variable that names a rustc, or the folder it is in.
pub const OVERRIDE_ENV: &str = "MEGAMOE_KERNEL_TOOLCHAIN";

/// The triple that kernels are compiled for.
pub const TARGET: &str = "nvptx64-nvidia-cuda";

/// Version of a compiler: what decides the text of the PTX besides the sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompilerVersion {
    /// rustc's release, like `1.96.0`.
    pub release: String,
    /// LLVM's version, like `22.1.8`.
    pub llvm: String,
}

impl fmt::Display for CompilerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rustc {}, LLVM {}", self.release, self.llvm)
    }
}

/// A compiler that can build kernels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toolchain {
    /// The compiler itself, not a rustup proxy.
    pub rustc: PathBuf,
    /// The cargo beside it.
    pub cargo: PathBuf,
    /// Its version.
    pub version: CompilerVersion,
}

/// A compiler that was looked at and does not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Where it came from: the override, the active toolchain or the system.
    pub origin: &'static str,
    /// Its path.
    pub rustc: PathBuf,
    /// What it lacks.
    pub reason: String,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.origin, self.rustc.display(), self.reason)
    }
}

/// Where to look.
#[derive(Clone, Debug)]
pub struct Search {
    /// A rustc or its folder; if set, nothing else is tried.
    pub named: Option<PathBuf>,
    /// The active rustc, possibly a rustup proxy.
    pub active: PathBuf,
    /// The distribution's rustc.
    pub system: PathBuf,
    /// Folder in which the active rustc is asked: a `rust-toolchain.toml` there counts.
    pub workspace: PathBuf,
}

impl Search {
    /// What this process's environment says, for a crate in `workspace`.
    pub fn from_env(workspace: &Path) -> Self {
        Self {
            named: std::env::var_os(OVERRIDE_ENV).filter(|v| !v.is_empty()).map(PathBuf::from),
            active: PathBuf::from("rustc"),
            system: PathBuf::from("/usr/bin/rustc"),
            workspace: workspace.to_path_buf(),
        }
    }

    /// The first compiler that does, or an error that lists all and says what to install.
    pub fn find(&self) -> Result<Toolchain, CudaBuilderError> {
        let candidates: Vec<(&'static str, PathBuf)> = match &self.named {
            Some(path) if path.is_dir() => vec![(OVERRIDE_ENV, path.join("rustc"))],
            Some(path) => vec![(OVERRIDE_ENV, path.clone())],
            None => vec![("active toolchain", self.active.clone()), ("distribution", self.system.clone())],
        };
        let mut tried = Vec::new();
        for (origin, rustc) in candidates {
            match self.examine(&rustc) {
                Ok(toolchain) => return Ok(toolchain),
                Err(reason) => tried.push(Rejected { origin, rustc, reason }),
            }
        }
        Err(CudaBuilderError::NoKernelCompiler { tried })
    }

    /// Whether `rustc` can build kernels; the error says what it lacks.
    fn examine(&self, rustc: &Path) -> Result<Toolchain, String> {
        let ask = |program: &Path, args: &[&str]| -> Result<String, String> {
            let out = Command::new(program)
                .args(args)
                .current_dir(&self.workspace)
                .output()
                .map_err(|e| format!("cannot be run: {e}"))?;
            if out.status.success() {
                Ok(String::from_utf8_lossy(&out.stdout).into_owned())
            } else {
                Err(String::from_utf8_lossy(&out.stderr).trim().to_string())
            }
        };
        let sysroot = PathBuf::from(ask(rustc, &["--print", "sysroot"])?.trim());
        // The real binaries: a proxy would choose by the folder and the environment again.
        let (real, cargo) = (sysroot.join("bin/rustc"), sysroot.join("bin/cargo"));
        for binary in [&real, &cargo] {
            if !binary.is_file() {
                return Err(format!("has no {}", binary.display()));
            }
        }
        let core = sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs");
        if !core.is_file() {
            return Err(format!("has no rust-src (looked for {})", core.display()));
        }
        let cpus = ask(&real, &["--print", "target-cpus", "--target", TARGET])
            .map_err(|e| format!("has no {TARGET} backend: {e}"))?;
        for arch in Arch::ALL {
            if !cpus.split_whitespace().any(|word| word == arch.name()) {
                return Err(format!("its LLVM does not know {arch}"));
            }
        }
        let verbose = ask(&real, &["-vV"])?;
        let field = |name: &str| {
            verbose
                .lines()
                .find_map(|l| l.strip_prefix(name))
                .map(|v| v.trim().to_string())
                .ok_or_else(|| format!("`rustc -vV` has no {name}"))
        };
        let version = CompilerVersion { release: field("release:")?, llvm: field("LLVM version:")? };
        Ok(Toolchain { rustc: real, cargo, version })
    }
}

/// The environment of the inner cargo: what an outer cargo or rustup has set must not choose the inner toolchain,
/// its flags, its target folder or its wrapper.
pub(crate) fn inner_env(outer: impl Iterator<Item = (OsString, OsString)>) -> Vec<(OsString, OsString)> {
    // Where packages come from is the user's business and stays.
    const KEEP: [&str; 6] =
        ["CARGO_HOME", "CARGO_NET_", "CARGO_HTTP_", "CARGO_REGISTR", "CARGO_SOURCE_", "RUSTUP_HOME"];
    const DROP: [&str; 7] = ["CARGO", "__CARGO", "RUSTC", "RUSTDOC", "RUSTFLAGS", "RUSTUP_", "RUST_"];
    outer
        .filter_map(|(key, value)| {
            let name = key.to_string_lossy().into_owned();
            let keep = KEEP.iter().any(|p| name.starts_with(p)) || !DROP.iter().any(|p| name.starts_with(p));
            if !keep {
                return None;
            }
            if name == "LD_LIBRARY_PATH" {
                // cargo puts the outer compiler's libraries there.
                let ours = std::env::split_paths(&value).filter(|dir| !has_rust_libraries(dir));
                return Some((key, std::env::join_paths(ours).ok()?));
            }
            Some((key, value))
        })
        .collect()
}

fn has_rust_libraries(dir: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(dir) else { return false };
    entries.flatten().any(|e| {
        let name = e.file_name();
        let name = name.to_string_lossy();
        name.starts_with("librustc_driver") || name.starts_with("libstd-")
    })
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A folder that looks like a toolchain: `bin/rustc` answers the questions that [`Search`] asks.
    struct Fake {
        dir: tempfile::TempDir,
    }

    impl Fake {
        fn new(release: &str, rust_src: bool, cpus: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let bin = dir.path().join("bin");
            std::fs::create_dir(&bin).unwrap();
            let script = format!(
                "#!/bin/sh\ncase \"$*\" in\n*sysroot*) echo '{}';;\n*target-cpus*) [ -n '{cpus}' ] || \
                 {{ echo 'no such target' >&2; exit 1; }}; printf '%s\\n' {cpus};;\n\
                 *) echo 'release: {release}'; echo 'LLVM version: 22.1.8';;\nesac\n",
                dir.path().display()
            );
            for name in ["rustc", "cargo"] {
                let path = bin.join(name);
                std::fs::write(&path, &script).unwrap();
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            }
            if rust_src {
                let src = dir.path().join("lib/rustlib/src/rust/library/core/src");
                std::fs::create_dir_all(&src).unwrap();
                std::fs::write(src.join("lib.rs"), "").unwrap();
            }
            Self { dir }
        }

        fn rustc(&self) -> PathBuf {
            self.dir.path().join("bin/rustc")
        }
    }

    const CPUS: &str = "sm_90a sm_100a";

    fn search(named: Option<PathBuf>, active: &Fake, system: &Fake) -> Search {
        Search { named, active: active.rustc(), system: system.rustc(), workspace: std::env::temp_dir() }
    }

    #[test]
    fn the_order_is_named_active_system() {
        let (a, b, c) =
            (Fake::new("1.1.0", true, CPUS), Fake::new("1.2.0", true, CPUS), Fake::new("1.3.0", true, CPUS));
        let release = |s: Search| s.find().unwrap().version.release;
        assert_eq!(release(search(Some(c.rustc()), &a, &b)), "1.3.0");
        assert_eq!(
            release(search(Some(c.dir.path().join("bin")), &a, &b)),
            "1.3.0",
            "a bin folder names its rustc"
        );
        assert_eq!(release(search(None, &a, &b)), "1.1.0");
        let no_src = Fake::new("1.4.0", false, CPUS);
        assert_eq!(release(search(None, &no_src, &b)), "1.2.0");
    }

    #[test]
    fn a_named_compiler_that_does_not_do_is_an_error_not_a_fallback() {
        let (good, bad) = (Fake::new("1.1.0", true, CPUS), Fake::new("1.2.0", false, CPUS));
        let err = search(Some(bad.rustc()), &good, &good).find().unwrap_err();
        assert!(matches!(&err, CudaBuilderError::NoKernelCompiler { tried } if tried.len() == 1));
    }

    #[test]
    fn the_error_names_every_candidate_and_both_remedies() {
        let (no_src, no_target) = (Fake::new("1.1.0", false, CPUS), Fake::new("1.2.0", true, ""));
        let text = search(None, &no_src, &no_target).find().unwrap_err().to_string();
        for needle in [
            "has no rust-src",
            "has no nvptx64-nvidia-cuda backend",
            "rustup component add rust-src",
            "apt-get install rustc-web cargo-web rust-web-src",
            OVERRIDE_ENV,
        ] {
            assert!(text.contains(needle), "{needle} is not in:\n{text}");
        }
        let old = Fake::new("1.0.0", true, "sm_90a");
        let text = search(None, &old, &old).find().unwrap_err().to_string();
        assert!(text.contains("does not know sm_100a"), "{text}");
    }

    #[test]
    fn a_missing_compiler_is_reported() {
        let none = Search {
            named: Some("/nonexistent/rustc".into()),
            active: "rustc".into(),
            system: "rustc".into(),
            workspace: std::env::temp_dir(),
        };
        assert!(none.find().unwrap_err().to_string().contains("cannot be run"));
    }

    #[test]
    fn an_outer_cargo_does_not_leak() {
        let outer = [
            "PATH",
            "HOME",
            "CARGO_HOME",
            "CARGO_NET_OFFLINE",
            "https_proxy",
            "CARGO",
            "CARGO_TARGET_DIR",
            "RUSTC",
            "RUSTC_WRAPPER",
            "RUSTFLAGS",
            "CARGO_ENCODED_RUSTFLAGS",
            "RUSTUP_TOOLCHAIN",
            "RUST_RECURSION_COUNT",
            "CARGO_PROFILE_RELEASE_LTO",
            "CARGO_PKG_NAME",
            "CARGO_BUILD_TARGET",
        ];
        let env = inner_env(outer.iter().map(|k| (OsString::from(k), OsString::from("x"))));
        let kept: Vec<_> = env.iter().map(|(k, _)| k.to_str().unwrap()).collect();
        assert_eq!(kept, ["PATH", "HOME", "CARGO_HOME", "CARGO_NET_OFFLINE", "https_proxy"]);
    }
}
