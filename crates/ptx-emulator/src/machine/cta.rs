//! A CTA.

use super::local::LocalMemory;
use super::shared::SharedMemory;
use super::warp::Warp;

/// A named barrier (`bar.sync`, PTX ISA 9.7.13.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NamedBarrier {
    /// Threads that have arrived in this generation.
    pub arrived: u32,
    /// Threads expected, fixed by the first arrival of a generation; 0 = none yet.
    pub expected: u32,
    /// Completed generations.
    pub generation: u32,
    /// Accumulator of `bar.red`.
    pub reduction: u32,
}

/// A CTA: warps and what they share.
pub struct Cta {
    /// Rank in the cluster.
    pub rank: u32,
    /// Index in the grid.
    pub index: [u32; 3],
    /// Linear index in the grid.
    pub linear: u32,
    /// Warps; an element is taken out while it executes.
    pub warps: Vec<Warp>,
    /// Local memory of each warp.
    pub local: Vec<LocalMemory>,
    /// Shared memory, from address 0 (the reserved KiB included).
    pub shared: SharedMemory,
    /// Named barriers.
    pub barriers: [NamedBarrier; 16],
    /// Bytes of dynamic shared memory and where they start.
    pub dynamic_shared: (u32, u32),
}
