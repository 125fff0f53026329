//! The architectures that PTX is built for.

use std::fmt;

/// A target of the kernel compiler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arch {
    /// Hopper with its architecture-specific features (wgmma, setmaxnreg).
    Sm90a,
    /// Blackwell with its architecture-specific features (tcgen05).
    Sm100a,
}

impl Arch {
    /// Every architecture.
    pub const ALL: [Arch; 2] = [Arch::Sm90a, Arch::Sm100a];

    /// The name that rustc (`-Ctarget-cpu`), PTX (`.target`) and ptxas (`-arch`) know.
    pub const fn name(self) -> &'static str {
        match self {
            Arch::Sm90a => "sm_90a",
            Arch::Sm100a => "sm_100a",
        }
    }

    /// The PTX ISA version asked for, as rustc's target feature: block-scaled `mxf4nvf4` with `scale_vec::4X`
    /// needs 8.7.
    pub const fn ptx_feature(self) -> &'static str {
        "ptx87"
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
