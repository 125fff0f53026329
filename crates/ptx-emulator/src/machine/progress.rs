//! How far a launch is, for those who wait for it on another thread.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts that a launch keeps up to date while it runs.
#[derive(Debug, Default)]
pub struct Progress {
    ctas: AtomicU64,
    done: AtomicU64,
    instructions: AtomicU64,
}

impl Progress {
    /// A launch of so many CTAs begins: counts start at 0.
    pub(super) fn begin(&self, ctas: u64) {
        self.ctas.store(ctas, Relaxed);
        self.done.store(0, Relaxed);
        self.instructions.store(0, Relaxed);
    }

    pub(super) fn executed(&self, warp_instructions: u64) {
        self.instructions.fetch_add(warp_instructions, Relaxed);
    }

    pub(super) fn finished(&self, ctas: u64) {
        self.done.fetch_add(ctas, Relaxed);
    }

    /// CTAs of the launch.
    pub fn ctas(&self) -> u64 {
        self.ctas.load(Relaxed)
    }

    /// CTAs that have come to their end. (Where CTAs may wait for each other, all do so at once.)
    pub fn done(&self) -> u64 {
        self.done.load(Relaxed)
    }

    /// Warp instructions executed so far.
    pub fn warp_instructions(&self) -> u64 {
        self.instructions.load(Relaxed)
    }
}
