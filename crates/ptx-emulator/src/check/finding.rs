//! A finding: what, where, by whom, and the earlier access it conflicts with.

use std::fmt::{Display, Formatter, Result};

/// Class of a finding; the name is stable and used on the command line and in tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Uninitialised data reached an output, an address, a branch or an MMA.
    Uninitialised,
    /// Access outside an allocation.
    OutOfBounds,
    /// Access to freed memory or tensor-memory columns.
    UseAfterFree,
    /// Misaligned access.
    Misaligned,
    /// Unordered conflicting accesses.
    Race,
    /// Conflicting accesses through different proxies without a proxy fence.
    ProxyRace,
    /// mbarrier misuse.
    Mbarrier,
    /// Named or cluster barrier misuse.
    Barrier,
    /// tcgen05 ordering.
    Tcgen05Order,
    /// Tensor-memory allocation.
    TensorAlloc,
    /// Tensor-memory lane access.
    TensorLanes,
    /// wgmma register or operand hazard.
    Wgmma,
    /// `.aligned` instruction executed by part of a warp.
    Divergent,
    /// No thread can run.
    Deadlock,
    /// Invalid matrix or instruction descriptor.
    Descriptor,
    /// Invalid tensor map.
    TensorMap,
    /// Anything else that is undefined behaviour.
    Undefined,
    /// Executed a `trap`.
    Trap,
    /// A limit of the emulator was reached (instruction budget).
    Budget,
}

impl Class {
    /// Stable name.
    pub fn name(self) -> &'static str {
        match self {
            Class::Uninitialised => "uninitialised",
            Class::OutOfBounds => "out-of-bounds",
            Class::UseAfterFree => "use-after-free",
            Class::Misaligned => "misaligned",
            Class::Race => "race",
            Class::ProxyRace => "proxy-race",
            Class::Mbarrier => "mbarrier",
            Class::Barrier => "barrier",
            Class::Tcgen05Order => "tcgen05-order",
            Class::TensorAlloc => "tensor-alloc",
            Class::TensorLanes => "tensor-lanes",
            Class::Wgmma => "wgmma",
            Class::Divergent => "divergent",
            Class::Deadlock => "deadlock",
            Class::Descriptor => "descriptor",
            Class::TensorMap => "tensor-map",
            Class::Undefined => "undefined",
            Class::Trap => "trap",
            Class::Budget => "budget",
        }
    }
}

/// Where something happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// PTX line.
    pub line: u32,
    /// The instruction.
    pub text: String,
    /// CTA index in the grid, linear.
    pub cta: u32,
    /// Thread index in the CTA, linear; the first of those concerned.
    pub thread: u32,
}

/// An access that takes part in a conflict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Where.
    pub place: Place,
    /// `read`, `write`, `async write`, ...
    pub what: String,
}

/// A finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Class.
    pub class: Class,
    /// Where.
    pub place: Place,
    /// What is wrong, in a sentence, with the address.
    pub message: String,
    /// The earlier access of a conflict, or the origin of poison.
    pub earlier: Option<Access>,
    /// How often it happened.
    pub count: u64,
}

impl Display for Place {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "line {} (cta {}, thread {}): `{}`", self.line, self.cta, self.thread, self.text)
    }
}

impl Display for Finding {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{}: {}\n  at {}", self.class.name(), self.message, self.place)?;
        if let Some(earlier) = &self.earlier {
            write!(f, "\n  earlier {} at {}", earlier.what, earlier.place)?;
        }
        if self.count > 1 {
            write!(f, "\n  ({} times)", self.count)?;
        }
        Ok(())
    }
}
