//! The machine: memories, warps, CTAs, clusters, the scheduler.

mod access;
mod asynchronous;
mod cluster;
mod cta;
mod ctx;
mod deadlock;
mod global;
mod grid;
mod launch;
mod local;
mod mbarrier;
mod progress;
mod schedule;
mod shared;
mod spin;
mod step;
mod warp;

pub use asynchronous::{AsyncOp, Engine, QueueKey};
pub use cluster::Cluster;
pub use cta::{Cta, NamedBarrier};
pub use ctx::{AddressSpace, AsyncCtx, Ctx, Location};
pub use global::{GlobalMemory, GlobalView, MemoryError};
pub use grid::Residency;
pub use launch::{Argument, Dim3, Environment, Launch, LaunchError, Outcome, launch};
pub use local::LocalMemory;
pub use mbarrier::{Mbarrier, Misuse};
pub use progress::Progress;
pub use schedule::{Random, Schedule};
pub use shared::SharedMemory;
pub use warp::{Flow, LaneState, Wait, Warp};

/// The first KiB of a CTA's shared memory is reserved by the system (sm_90 and later): variables start here.
pub const SHARED_RESERVED: u32 = 0x400;

/// Lanes of a warp.
pub const LANES: usize = 32;

/// Where the windows of the generic address space start. Global allocations lie below all of them.
pub mod window {
    /// Shared memory: `SHARED | (cta rank << 24) | offset`.
    pub const SHARED: u64 = 0x7000_0000_0000_0000;
    /// Local memory of the accessing thread.
    pub const LOCAL: u64 = 0x7100_0000_0000_0000;
    /// Kernel parameters.
    pub const PARAM: u64 = 0x7200_0000_0000_0000;
    /// Mask of the window bits.
    pub const MASK: u64 = 0xff00_0000_0000_0000;
}
