//! Assembling a module with `ptxas` and reading what it says about registers, memory and spills.

use crate::tools::Tool;
use crate::{Arch, CudaBuilderError};
use std::fmt;
use std::path::Path;
use std::process::Command;

/// What ptxas says about one entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EntryReport {
    /// Name of the entry.
    pub name: String,
    /// Registers per thread.
    pub registers: u32,
    /// Named barriers used.
    pub barriers: u32,
    /// Static shared memory in bytes.
    pub shared_bytes: u32,
    /// Stack frame in bytes per thread.
    pub stack_bytes: u32,
    /// Bytes per thread stored by spills.
    pub spill_stores: u32,
    /// Bytes per thread loaded by spills.
    pub spill_loads: u32,
}

impl EntryReport {
    /// Whether everything stays in registers.
    pub fn is_clean(&self) -> bool {
        self.stack_bytes == 0 && self.spill_stores == 0 && self.spill_loads == 0
    }
}

/// What ptxas says about a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The architecture assembled for.
    pub arch: Arch,
    /// ptxas's version, like `V13.0.88`.
    pub ptxas: String,
    /// The entries, by name.
    pub entries: Vec<EntryReport>,
    /// Warnings, as ptxas wrote them.
    pub warnings: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} (ptxas {})", self.arch, self.ptxas)?;
        let width = self.entries.iter().map(|e| e.name.len()).max().unwrap_or(0);
        for e in &self.entries {
            writeln!(
                f,
                "  {:width$}  {:>3} registers  {:>2} barriers  {:>6} B shared  {:>4} B stack  spills {} B / {} B",
                e.name, e.registers, e.barriers, e.shared_bytes, e.stack_bytes, e.spill_stores, e.spill_loads
            )?;
        }
        self.warnings.iter().try_for_each(|w| writeln!(f, "  {w}"))
    }
}

/// Assembles `ptx` for `arch` with the ptxas of the workspace at `root`; `cubin` keeps the machine code.
pub fn assemble(
    root: &Path,
    ptx: &Path,
    arch: Arch,
    cubin: Option<&Path>,
) -> Result<Report, CudaBuilderError> {
    let ptxas = Tool::Ptxas.find(root)?;
    let mut command = Command::new(&ptxas);
    command.arg(format!("-arch={arch}")).args(["-v", "--warn-on-spills"]).arg(ptx);
    match cubin {
        Some(path) => command.arg("-o").arg(path),
        None => command.args(["-o", if cfg!(windows) { "NUL" } else { "/dev/null" }]),
    };
    let out = command.output().map_err(CudaBuilderError::io("running", &ptxas))?;
    let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
    if !out.status.success() {
        let text = format!("{}{stderr}", String::from_utf8_lossy(&out.stdout));
        return Err(CudaBuilderError::Tool { tool: "ptxas", arch: arch.name(), stderr: text });
    }
    let version =
        Command::new(&ptxas).arg("--version").output().map_err(CudaBuilderError::io("running", &ptxas))?;
    let version = String::from_utf8_lossy(&version.stdout)
        .split_whitespace()
        .find(|w| w.starts_with('V') && w[1..].starts_with(|c: char| c.is_ascii_digit()))
        .unwrap_or("of unknown version")
        .to_string();
    let (entries, warnings) = parse(&stderr);
    Ok(Report { arch, ptxas: version, entries, warnings })
}

/// Reads ptxas's `-v` output.
fn parse(text: &str) -> (Vec<EntryReport>, Vec<String>) {
    let mut entries: Vec<EntryReport> = Vec::new();
    let mut warnings = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.split_once("Compiling entry function '").map(|(_, r)| r) {
            let name = rest.split('\'').next().unwrap_or_default().to_string();
            entries.push(EntryReport { name, ..Default::default() });
        } else if line.contains("warning") || line.contains("Potential Performance Loss") {
            // The second kind, an "info", says that wgmma does not run beside anything (C7510 to C7520).
            warnings.push(line.trim().to_string());
        } else if let Some(entry) = entries.last_mut() {
            for part in line.split(',') {
                let words: Vec<&str> = part.split_whitespace().collect();
                let number = |before: &str| {
                    let at = part.find(before)?;
                    part[..at].split_whitespace().last()?.parse::<u32>().ok()
                };
                if let Some(n) = number("bytes stack frame") {
                    entry.stack_bytes = n;
                } else if let Some(n) = number("bytes spill stores") {
                    entry.spill_stores = n;
                } else if let Some(n) = number("bytes spill loads") {
                    entry.spill_loads = n;
                } else if let Some(n) = number("bytes smem") {
                    entry.shared_bytes = n;
                } else if let Some(n) = number("registers") {
                    entry.registers = n;
                } else if let ["used", n, "barriers"] = words.as_slice() {
                    entry.barriers = n.parse().unwrap_or(0);
                }
            }
        }
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    (entries, warnings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbose_output_is_read() {
        let text = "ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'b' for 'sm_90a'
ptxas info    : Function properties for b
    512 bytes stack frame, 8 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 47 registers, used 1 barriers, 512 bytes cumulative stack size, 1024 bytes smem, 400 bytes cmem[0]
ptxas warning : Registers are spilled to local memory in function 'b'
ptxas info    : (C7512) Potential Performance Loss: wgmma.mma_async instructions are serialized in the function 'b'
ptxas info    : Compiling entry function 'a' for 'sm_90a'
ptxas info    : Function properties for a
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 122 registers, used 2 barriers
";
        let (entries, warnings) = parse(text);
        let clean = EntryReport { name: "a".into(), registers: 122, barriers: 2, ..Default::default() };
        let spilled = EntryReport {
            name: "b".into(),
            registers: 47,
            barriers: 1,
            shared_bytes: 1024,
            stack_bytes: 512,
            spill_stores: 8,
            spill_loads: 16,
        };
        assert!(clean.is_clean() && !spilled.is_clean());
        assert_eq!(entries, [clean, spilled]);
        assert_eq!(warnings.len(), 2);
    }
}
