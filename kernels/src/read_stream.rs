//! Reads memory and does next to nothing with it: the read bandwidth that every other kernel is measured against.
//!
//! A grid of blocks strides over the data with [`UNROLL`] independent 16-byte loads per thread in flight. The words
//! are folded by exclusive or, so that no load can be left out; each block writes its fold.

use crate::launch::{Arch, Arg, Geometry, Launch, LaunchBounds};
use cuda_std::prelude::*;

/// Threads of a block.
pub const THREADS: u32 = 512;
/// Independent loads of a thread.
pub const UNROLL: u32 = 8;
/// Bytes of a load.
pub const LOAD_BYTES: u32 = 16;
/// Bytes that a block reads per step.
pub const STEP_BYTES: u32 = THREADS * UNROLL * LOAD_BYTES;

/// Bounds of the kernel.
pub const BOUNDS: LaunchBounds = LaunchBounds::block(THREADS).min_ctas(3);

/// Its row of the launch table.
pub const LAUNCH: Launch = Launch {
    name: "read_stream",
    bounds: BOUNDS,
    shared_bytes: 0,
    archs: &Arch::ALL,
    geometry: Geometry::Fixed,
    args: &[
        Arg::input("data", "u32 [steps * STEP_BYTES / 4], 16-byte aligned"),
        Arg::output("fold", "u32 [grid, 512]: exclusive or of all words that a thread has read"),
        Arg::u32("steps", "pieces of STEP_BYTES bytes"),
    ],
};

/// Reads `steps * STEP_BYTES` bytes; the exclusive or of all of `fold` is that of all words of `data`.
///
/// # Safety
/// The buffers have the shapes of [`LAUNCH`]; blocks of [`THREADS`] threads.
#[kernel(bounds = BOUNDS)]
pub unsafe fn read_stream(data: *const u32, fold: *mut u32, steps: u32) {
    let thread = thread::thread_idx_x();
    let mut folded = 0;
    let mut step = thread::block_idx_x();
    while step < steps {
        let mut words = [[0u32; 4]; UNROLL as usize];
        let mut j = 0;
        while j < UNROLL {
            let at = step as usize * STEP_BYTES as usize / 4 + ((j * THREADS + thread) * 4) as usize;
            // SAFETY: inside the data.
            words[j as usize] = unsafe { global::load_stream_v4(data.add(at)) };
            j += 1;
        }
        let mut j = 0;
        while j < UNROLL as usize {
            folded ^= words[j][0] ^ words[j][1] ^ words[j][2] ^ words[j][3];
            j += 1;
        }
        step += thread::grid_dim_x();
    }
    // SAFETY: one word per thread of the grid.
    unsafe { fold.add((thread::block_idx_x() * THREADS + thread) as usize).write(folded) };
}
