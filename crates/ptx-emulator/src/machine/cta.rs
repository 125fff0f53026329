//! A CTA.

use super::local::LocalMemory;
use super::shared::SharedMemory;
use super::warp::Warp;

/// A named barrier (`bar.sync`, PTX ISA 9.7.13.1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedBarrier {
    /// Threads that have arrived in this generation, in whole warps.
    pub arrived: u32,
    /// Threads expected, fixed by the first arrival of a generation; 0 = none yet.
    pub expected: u32,
    /// Whether the generation is for all threads of the CTA (no count given): exited warps count as arrived.
    pub whole_cta: bool,
    /// Completed generations.
    pub generation: u32,
    /// Warps that have arrived in this generation, a bit each.
    pub warps: u32,
    /// Lanes that have arrived of warps that have not done so completely: (warp, lanes).
    pub partial: Vec<(usize, u32)>,
    /// Whether this generation reduces (`bar.red`); fixed by the first arrival.
    pub reduces: bool,
    /// Threads that gave a predicate to `bar.red`, and how many of the predicates were true.
    pub predicates: (u32, u32),
    /// Poison of the predicates.
    pub origin: crate::check::Origin,
    /// Results of completed reductions that threads have still to fetch: (generation, given, true, poison,
    /// threads).
    pub results: Vec<(u32, u32, u32, crate::check::Origin, u32)>,
    /// The first arrival of this generation.
    pub first: Option<crate::check::Place>,
}

/// A CTA: warps and what they share.
pub struct Cta {
    /// Rank in the cluster.
    pub rank: u32,
    /// Index in the grid.
    pub index: [u32; 3],
    /// Linear index in the grid.
    pub linear: u32,
    /// Multiprocessor.
    pub sm: u32,
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
