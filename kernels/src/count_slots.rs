//! First of the two kernels that sort many slots by expert: each block counts a chunk of slots.
//!
//! See [`crate::slots`]; [`crate::place_slots`] is the second.

use crate::launch::{Arch, Arg, Geometry, Launch, LaunchBounds};
use crate::slots::{self, Chunk, LocalExperts, Slots};
use cuda_std::grid;
use cuda_std::prelude::*;

/// Bounds of the kernel.
pub const BOUNDS: LaunchBounds = LaunchBounds::block(slots::THREADS).min_ctas(1);

/// Its row of the launch table. At most [`slots::CHUNKS`] blocks; the same grid as [`crate::place_slots`].
pub const LAUNCH: Launch = Launch {
    name: "count_slots",
    bounds: BOUNDS,
    shared_bytes: slots::SHARED_BYTES,
    archs: &Arch::ALL,
    geometry: Geometry::Fixed,
    args: &[
        Arg::input("topk_ids", "i32 [max_tokens * top_k]: expert of each slot; any value"),
        Arg::input("b_scale", "f32 [max_tokens]: NaN for tokens to leave out; or null"),
        Arg::input("tokens", "u32 [1] on the device: tokens, capped at max_tokens"),
        Arg::output("chunk_counts", "u32 [grid, local]: rows of each expert in each chunk"),
        Arg::output(
            "stats",
            "u32 [8]: adds invalid slots, foreign slots and non-finite tokens to words 0, 1, 2",
        ),
        Arg::u32("max_tokens", "tokens that the buffers hold; times top_k below 2^31"),
        Arg::u32("top_k", "slots of a token, at least 1"),
        Arg::u32("experts", "of the model, below 2^31"),
        Arg::u32("first_local", "first expert of this rank"),
        Arg::u32("local", "experts of this rank, at most 1024"),
    ],
};

/// Counts the slots of `min(*tokens, max_tokens)` tokens; see [`LAUNCH`] for shapes and types.
///
/// # Safety
/// The buffers have the shapes of [`LAUNCH`] and are not written by others while the kernel runs.
#[kernel(bounds = BOUNDS)]
#[allow(clippy::too_many_arguments)]
pub unsafe fn count_slots(
    topk_ids: *const i32,
    b_scale: *const f32,
    tokens: *const u32,
    chunk_counts: *mut u32,
    stats: *mut u32,
    max_tokens: u32,
    top_k: u32,
    experts: u32,
    first_local: u32,
    local: u32,
) {
    grid::wait_for_dependencies();
    grid::launch_dependents();
    // SAFETY: one u32.
    let tokens = unsafe { *tokens }.min(max_tokens);
    let of_rank = LocalExperts { experts, first: first_local, count: local };
    let slots = Slots { topk_ids, b_scale, tokens, top_k, local: of_rank };
    let chunk = Chunk::part(slots.len(), thread::block_idx_x(), thread::grid_dim_x());
    // SAFETY: all threads are here; the caller's buffers.
    unsafe {
        let total = slots::count_block(&slots, chunk, stats);
        let expert = thread::thread_idx_x();
        if expert < local {
            chunk_counts.add((thread::block_idx_x() * local + expert) as usize).write(total);
        }
    }
}
