//! `setup`: the kernel compiler, NVIDIA's assembler and disassembler, and the stub of libcuda. Idempotent; what
//! cannot be had is said, with the remedy, and stops nothing else.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use cuda_builder::CudaBuilderError;
use cuda_builder::toolchain::{Search, Toolchain};
use cuda_builder::tools::Tool;
use xshell::cmd;

use crate::stub;
use crate::workspace::Workspace;

/// NVIDIA's tools as Python packages. ptxas 13.0 makes cubins that every driver of CUDA 13 loads; of the other two
/// there is no 13.0.
const CUDA_PACKAGES: [&str; 3] =
    ["nvidia-cuda-nvcc==13.0.*", "nvidia-cuda-nvdisasm==13.2.*", "nvidia-cuda-cuobjdump==13.2.*"];

/// Debian's packages of a compiler with the library's sources.
const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// Does everything, and says what is there.
pub fn run(ws: &Workspace) -> Result<()> {
    match kernel_compiler(ws) {
        Ok(toolchain) => println!("kernel compiler: {} ({})", toolchain.version, toolchain.rustc.display()),
        Err(error) => println!("kernel compiler: missing; only building kernels needs it\n{error}"),
    }
    match cuda_tools(ws) {
        Ok(tools) => tools.iter().for_each(|tool| println!("CUDA tool: {}", ws.show(tool))),
        Err(error) => println!("CUDA tools: missing; only checking machine code needs them\n{error:#}"),
    }
    println!("libcuda stub: {}", ws.show(&stub::ensure(ws)?));
    Ok(())
}

/// The kernel compiler, installed if possible.
pub fn kernel_compiler(ws: &Workspace) -> Result<Toolchain, CudaBuilderError> {
    let search = Search::from_env(&ws.root);
    let missing = match search.find() {
        Ok(toolchain) => return Ok(toolchain),
        Err(error) => error,
    };
    // A compiler that was named and does not do is for the user to correct.
    if search.named.is_some() {
        return Err(missing);
    }
    let sh = &ws.sh;
    println!("no kernel compiler yet; trying rustup, then the system's packages");
    if cmd!(sh, "rustup component add rust-src").run().is_ok()
        && let Ok(toolchain) = search.find()
    {
        return Ok(toolchain);
    }
    if is_root(ws) && has("apt-get") {
        let install = || -> xshell::Result<()> {
            cmd!(sh, "apt-get -q update").quiet().ignore_stdout().run()?;
            cmd!(sh, "apt-get -qq install -y --no-install-recommends {DEBIAN_PACKAGES...}")
                .env("DEBIAN_FRONTEND", "noninteractive")
                .ignore_stdout()
                .run()
        };
        if let Err(error) = install() {
            println!("{error}");
        }
    }
    search.find()
}

/// ptxas, nvdisasm and cuobjdump, fetched if they are not found.
pub fn cuda_tools(ws: &Workspace) -> Result<Vec<PathBuf>> {
    let all = [Tool::Ptxas, Tool::Nvdisasm, Tool::Cuobjdump];
    let find = || all.iter().map(|tool| tool.find(&ws.root)).collect::<Result<Vec<_>, _>>();
    if let Ok(found) = find() {
        return Ok(found);
    }
    ensure!(
        cfg!(all(target_os = "linux", target_arch = "x86_64")),
        "NVIDIA's tools are fetched on x86-64 Linux only; elsewhere install the CUDA toolkit"
    );
    let target = ws.tools().join("cuda");
    println!("fetching {} into {}", CUDA_PACKAGES.join(", "), ws.show(&target));
    let python = python_with_pip(ws)?;
    let sh = &ws.sh;
    cmd!(sh, "{python} -m pip install --quiet --disable-pip-version-check --no-deps --upgrade")
        .args(["--target".as_ref(), target.as_os_str()])
        .args(CUDA_PACKAGES)
        .env("PIP_ROOT_USER_ACTION", "ignore")
        .run()?;
    executable(&target)?;
    Ok(find()?)
}

/// A Python that has pip: the system's, or a virtual environment of ours.
fn python_with_pip(ws: &Workspace) -> Result<PathBuf> {
    let sh = &ws.sh;
    let works = |python: &Path| {
        cmd!(sh, "{python} -m pip --version").quiet().ignore_stdout().ignore_stderr().run().is_ok()
    };
    let system = PathBuf::from("python3");
    if works(&system) {
        return Ok(system);
    }
    let venv = ws.tools().join("venv");
    let python = venv.join("bin/python");
    if works(&python) {
        return Ok(python);
    }
    println!("python3 has no pip; making a virtual environment in {}", ws.show(&venv));
    if cmd!(sh, "python3 -m venv --clear {venv}").run().is_ok() && works(&python) {
        return Ok(python);
    }
    if is_root(ws) && has("apt-get") {
        println!("python3 can make none either; installing the system's pip");
        cmd!(sh, "apt-get -q update").quiet().ignore_stdout().run()?;
        cmd!(sh, "apt-get -qq install -y --no-install-recommends python3-pip")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .ignore_stdout()
            .run()?;
        if works(&system) {
            return Ok(system);
        }
    }
    bail!("python3 with pip is needed to fetch NVIDIA's tools (Debian: apt-get install python3-pip)")
}

/// Wheels do not always keep the executable bit.
fn executable(target: &Path) -> Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        for bin in std::fs::read_dir(target.join("nvidia"))?.flatten().map(|e| e.path().join("bin")) {
            for file in std::fs::read_dir(bin).into_iter().flatten().flatten() {
                if file.metadata()?.is_file() {
                    std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o755))?;
                }
            }
        }
    }
    Ok(())
}

fn is_root(ws: &Workspace) -> bool {
    let sh = &ws.sh;
    cmd!(sh, "id -u").quiet().ignore_stderr().read().is_ok_and(|id| id == "0")
}

fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}
