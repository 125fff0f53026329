//! Grids of kernels that are right for any grid: the fast ones.

use kernels::launch::{Dims, Launch};

/// `count` blocks of the table's size, at least one.
pub fn blocks(launch: &Launch, count: u32) -> Dims {
    Dims { grid: [count.max(1), 1, 1], block: launch.bounds.block, shared_bytes: launch.shared_bytes }
}

/// One block.
pub fn one(launch: &Launch) -> Dims {
    blocks(launch, 1)
}

/// As many blocks as the table promises to fit on `multiprocessors`.
pub fn resident(launch: &Launch, multiprocessors: u32) -> Dims {
    blocks(launch, multiprocessors * launch.bounds.min_ctas_per_sm.max(1))
}
