//! A module made executable: symbols laid out, registers numbered, labels resolved, instructions decoded.

mod call;
mod layout;
mod link;

pub use layout::{Global, Param};
pub use link::{LoadError, load};

use crate::decode::Execute;

/// Index of a register in a thread's register file. A `.b128` register takes two.
pub type Reg = u32;

/// A loaded module.
pub struct Module {
    /// `.target` names.
    pub target: Vec<String>,
    /// Module-scope `.global` and `.const` variables with their initial bytes.
    pub globals: Vec<Global>,
    /// Entries by name.
    pub entries: Vec<Program>,
}

impl Module {
    /// The entry of that name.
    pub fn entry(&self, name: &str) -> Option<&Program> {
        self.entries.iter().find(|e| e.name == name)
    }
}

/// One entry, ready to run.
pub struct Program {
    /// Entry name.
    pub name: String,
    /// Parameters, in order, with their offsets in parameter space.
    pub params: Vec<Param>,
    /// Bytes of parameter space.
    pub param_bytes: u32,
    /// Bytes of static shared memory, including the reserved first KiB (see [`crate::machine::SHARED_RESERVED`]).
    pub static_shared_end: u32,
    /// Alignment of the dynamic shared array, if the module declares one.
    pub dynamic_shared_align: u32,
    /// Bytes of local memory per thread.
    pub local_bytes: u32,
    /// Registers per thread.
    pub registers: Vec<RegisterInfo>,
    /// Code.
    pub code: Vec<Inst>,
    /// `.maxntid`/`.reqntid`, `.reqnctapercluster`, ... as written.
    pub directives: Vec<(String, Vec<String>)>,
    /// Whether CTAs may wait for each other through global memory (atomics, acquire/release, volatile):
    /// such grids run interleaved on one host thread, all others in parallel.
    pub inter_cta_sync: bool,
    /// Whether there is any `wgmma`.
    pub uses_wgmma: bool,
}

/// A register's declaration.
#[derive(Clone, Debug)]
pub struct RegisterInfo {
    /// Name as in the source.
    pub name: String,
    /// Declared type.
    pub ty: crate::types::Ty,
}

/// A decoded instruction.
pub struct Inst {
    /// Source line.
    pub line: u32,
    /// Guard register and whether it is negated.
    pub guard: Option<(Reg, bool)>,
    /// The text, for findings.
    pub text: String,
    /// Registers that it names, in programs with `wgmma` and by other instructions than those.
    pub registers: Box<[Reg]>,
    /// What it does.
    pub op: Box<dyn Execute>,
}
