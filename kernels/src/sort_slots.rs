//! Slots to rows sorted by expert, in one launch of one block: for up to about 4096 slots (right for any number).
//!
//! See [`crate::slots`] for the method. Latency only: five barriers, two walks of one round per 512 slots.

use crate::launch::{Arch, Arg, Geometry, Launch, LaunchBounds};
use crate::slots::{self, Chunk, LocalExperts, Plan, Slots};
use cuda_std::grid;
use cuda_std::prelude::*;

/// Bounds of the kernel.
pub const BOUNDS: LaunchBounds = LaunchBounds::block(slots::THREADS).min_ctas(1);

/// Its row of the launch table. One block.
pub const LAUNCH: Launch = Launch {
    name: "sort_slots",
    bounds: BOUNDS,
    shared_bytes: slots::SHARED_BYTES,
    archs: &Arch::ALL,
    geometry: Geometry::Fixed,
    args: &[
        Arg::input("topk_ids", "i32 [max_tokens * top_k]: expert of each slot; any value"),
        Arg::input("b_scale", "f32 [max_tokens]: NaN for tokens to leave out; or null"),
        Arg::input("tokens", "u32 [1] on the device: tokens, capped at max_tokens"),
        Arg::output("counts", "u32 [local + shared]: rows of each expert"),
        Arg::output("offsets", "u32 [local + shared + 1]: first row of each, and the total"),
        Arg::output("row_token", "u32 [rows]: token of each row; 0xffffffff in the padding of a segment"),
        Arg::output(
            "slot_row",
            "u32 [max_tokens * top_k]: row of each slot of a token that is there; 0xffffffff if skipped",
        ),
        Arg::output(
            "stats",
            "u32 [8]: adds invalid slots, foreign slots and non-finite tokens to words 0, 1, 2",
        ),
        Arg::u32("max_tokens", "tokens that the buffers hold; times top_k below 2^31"),
        Arg::u32("top_k", "slots of a token, at least 1"),
        Arg::u32("experts", "of the model, below 2^31"),
        Arg::u32("first_local", "first expert of this rank"),
        Arg::u32("local", "experts of this rank, at most 1024"),
        Arg::u32("shared", "1: a shared expert that takes every token comes behind the local ones"),
        Arg::u32("tile", "rows that a segment is padded to a multiple of, at least 1"),
    ],
};

/// Sorts the slots of `min(*tokens, max_tokens)` tokens; see [`LAUNCH`] for shapes and types.
///
/// # Safety
/// The buffers have the shapes of [`LAUNCH`] and are not written by others while the kernel runs.
#[kernel(bounds = BOUNDS)]
#[allow(clippy::too_many_arguments)]
pub unsafe fn sort_slots(
    topk_ids: *const i32,
    b_scale: *const f32,
    tokens: *const u32,
    counts: *mut u32,
    offsets: *mut u32,
    row_token: *mut u32,
    slot_row: *mut u32,
    stats: *mut u32,
    max_tokens: u32,
    top_k: u32,
    experts: u32,
    first_local: u32,
    local: u32,
    shared: u32,
    tile: u32,
) {
    grid::wait_for_dependencies();
    grid::launch_dependents();
    // SAFETY: one u32.
    let tokens = unsafe { *tokens }.min(max_tokens);
    let of_rank = LocalExperts { experts, first: first_local, count: local };
    let slots = Slots { topk_ids, b_scale, tokens, top_k, local: of_rank };
    let plan = Plan { counts, offsets, row_token, slot_row, has_shared: shared != 0, tile };
    let chunk = Chunk::new(0, slots.len());
    // SAFETY: all threads are here; the caller's buffers.
    unsafe {
        let total = slots::count_block(&slots, chunk, stats);
        slots::place_block(&slots, chunk, plan, total, 0);
    }
}
