//! Local memory: one block per thread.

use super::LANES;
use super::shared::SharedMemory;

/// Local memory of a warp's threads.
pub struct LocalMemory {
    lanes: Vec<SharedMemory>,
}

impl LocalMemory {
    /// `bytes` per thread.
    pub fn new(bytes: usize) -> Self {
        Self { lanes: (0..LANES).map(|_| SharedMemory::new(bytes)).collect() }
    }

    /// A lane's memory.
    pub fn lane(&self, lane: usize) -> &SharedMemory {
        &self.lanes[lane]
    }

    /// A lane's memory.
    pub fn lane_mut(&mut self, lane: usize) -> &mut SharedMemory {
        &mut self.lanes[lane]
    }
}
