//! What a cluster remembers of its warpgroups.

use std::collections::{HashMap, VecDeque};

use crate::program::Reg;

/// A warpgroup: (CTA rank, warpgroup index).
pub type Key = (u32, u32);

/// An instruction that not all four warps have issued yet.
#[derive(Clone, Debug)]
pub struct Partial {
    /// Code index.
    pub pc: u32,
    /// Warps (bits 0-3) that have issued it.
    pub warps: u32,
    /// Commit group.
    pub group: u32,
    /// Register operand A of each warp, `[register][lane]`.
    pub a: [Vec<[u32; 32]>; 4],
    /// Descriptors of the first warp.
    pub descriptors: (u64, u64),
    /// scale-d of the first warp.
    pub accumulate: bool,
}

/// Registers that a warp must leave alone until a group is waited for.
#[derive(Clone, Debug)]
pub struct InFlight {
    /// Commit group.
    pub group: u32,
    /// Accumulators.
    pub d: Vec<Reg>,
    /// Register operand A.
    pub a: Vec<Reg>,
    /// Whether it was written, before the last `wgmma.fence`.
    pub a_written: bool,
    /// Code index.
    pub pc: u32,
}

/// Per warp of a warpgroup.
#[derive(Clone, Debug, Default)]
pub struct WarpState {
    /// Operations issued so far.
    pub issued: u64,
    /// Commit groups closed so far.
    pub commits: u32,
    /// Operations issued and not waited for.
    pub in_flight: Vec<InFlight>,
    /// Whether there has been a `wgmma.fence`. (The warp knows which registers have been written since.)
    pub fenced: bool,
}

impl WarpState {
    /// Whether a register is an accumulator in flight.
    pub fn owns(&self, reg: Reg) -> bool {
        self.in_flight.iter().any(|f| f.d.contains(&reg))
    }
}

/// Per warpgroup.
#[derive(Clone, Debug, Default)]
pub struct Warpgroup {
    /// Operations that some warps have issued, in order; the first is number [`Self::gathered`].
    pub partial: VecDeque<Partial>,
    /// Operations that all four warps have issued.
    pub gathered: u64,
    /// Warps.
    pub warps: [WarpState; 4],
    /// Commit groups of operations that have not completed, in issue order.
    pub pending: Vec<u32>,
}

/// All warpgroups of a cluster.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// By CTA rank and warpgroup index.
    pub groups: HashMap<Key, Warpgroup>,
}
