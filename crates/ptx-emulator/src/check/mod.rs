//! Checkers: what hardware hides.

mod finding;
mod origin;
pub mod race;

pub use finding::{Access, Class, Finding, Place};
pub use origin::{Origin, OriginKind};

use std::collections::HashMap;

/// Strictness of the ordering rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The PTX ISA to the letter.
    #[default]
    StrictPtx,
    /// Also allows what CUTLASS and shipping compilers rely on: `tcgen05.mma` -> `tcgen05.cp` order on reused scale
    /// columns, no `tcgen05.fence`, `.cta` scope on remote mbarriers, accumulators of `wgmma` used before a wait (ptxas
    /// inserts one).
    CutlassCompatible,
}

/// Which checkers are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checks {
    /// Uninitialised data that reaches an output, an address, a branch or an MMA.
    pub uninitialised: bool,
    /// Data races, with the generic/async proxy distinction.
    pub races: bool,
    /// Misuse of barriers.
    pub barriers: bool,
    /// Ordering, allocation and lane rules of tcgen05.
    pub tcgen05: bool,
    /// Register and operand hazards of wgmma.
    pub wgmma: bool,
    /// `.aligned` instructions executed divergently.
    pub aligned: bool,
    /// Descriptors and tensor maps.
    pub descriptors: bool,
    /// Strictness.
    pub mode: Mode,
}

impl Default for Checks {
    fn default() -> Self {
        Self {
            uninitialised: true,
            races: true,
            barriers: true,
            tcgen05: true,
            wgmma: true,
            aligned: true,
            descriptors: true,
            mode: Mode::StrictPtx,
        }
    }
}

/// Findings of one cluster or launch, one per (class, line, earlier line): a loop reports once, with a count.
#[derive(Debug, Default)]
pub struct Report {
    findings: Vec<Finding>,
    seen: HashMap<(Class, u32, u32), usize>,
}

impl Report {
    /// Adds a finding, or counts it if the same place has reported the class before.
    pub fn add(&mut self, finding: Finding) {
        let earlier = finding.earlier.as_ref().map_or(0, |e| e.place.line);
        let key = (finding.class, finding.place.line, earlier);
        match self.seen.get(&key) {
            Some(&i) => self.findings[i].count += finding.count,
            None => {
                self.seen.insert(key, self.findings.len());
                self.findings.push(finding);
            }
        }
    }

    /// Merges another report into this one.
    pub fn merge(&mut self, other: Report) {
        other.findings.into_iter().for_each(|f| self.add(f));
    }

    /// The findings so far.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// The findings, ordered by line, then class.
    pub fn into_sorted(mut self) -> Vec<Finding> {
        self.findings.sort_by_key(|a| (a.place.line, a.class));
        self.findings
    }
}
