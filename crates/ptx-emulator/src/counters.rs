//! What a kernel did, for engineers.

use std::collections::BTreeMap;

/// Counters of a launch; names are stable keys of the JSON form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Warp instructions executed.
    pub warp_instructions: u64,
    /// Lane instructions executed.
    pub lane_instructions: u64,
    /// Everything else by name: `bytes.global.load`, `mma.tcgen05`, `bank_conflicts.load`, ...
    pub named: BTreeMap<&'static str, u64>,
}

impl Counters {
    /// Adds to a named counter.
    pub fn add(&mut self, name: &'static str, n: u64) {
        *self.named.entry(name).or_default() += n;
    }

    /// Adds another launch's or cluster's counters.
    pub fn merge(&mut self, other: &Counters) {
        self.warp_instructions += other.warp_instructions;
        self.lane_instructions += other.lane_instructions;
        for (name, n) in &other.named {
            self.add(name, *n);
        }
    }
}
