//! The weighted sum of each token's expert outputs, in slot order, and the shared expert's on top.
//!
//! A thread has four columns of a token: it reads the rows of up to eight slots, 16 bytes each, before it adds the first.
//! Memory-bound: `4 * (top_k + shared) + 2` bytes per output element; 8192 tokens of 7168 columns, six slots and no
//! shared expert are 1.5 GB, 0.33 ms at 4.5 TB/s.

use crate::launch::{Arch, Arg, Geometry, Launch, LaunchBounds};
use crate::slots::NONE;
use cuda_std::half::bf16x2_from_f32;
use cuda_std::prelude::*;
use cuda_std::{global, grid};

/// Threads of a block.
pub const THREADS: u32 = 256;
/// Slots whose rows are read at a time.
const BATCH: usize = 8;

/// Bounds of the kernel.
pub const BOUNDS: LaunchBounds = LaunchBounds::block(THREADS).min_ctas(3);

/// Its row of the launch table. Any grid; the fast one is a block per 1024 elements of the output, as many as fit.
pub const LAUNCH: Launch = Launch {
    name: "combine",
    bounds: BOUNDS,
    shared_bytes: 0,
    archs: &Arch::ALL,
    geometry: Geometry::Fixed,
    args: &[
        Arg::input("y", "f32 [rows, y_stride]: outputs of the experts, 16-byte aligned"),
        Arg::input("slot_row", "u32 [max_tokens * top_k]: row of each slot, 0xffffffff for none"),
        Arg::input("topk_weights", "f32 [max_tokens * top_k]"),
        Arg::input("shared_row", "u32 [1]: row of y that the shared expert's token 0 has; or null"),
        Arg::input(
            "shared",
            "f32 [max_tokens, shared_stride]: the shared expert's output, 16-byte aligned; or null",
        ),
        Arg::input("b_scale", "f32 [max_tokens]: NaN makes a token's output NaN; or null"),
        Arg::output("out", "bf16 [max_tokens, out_stride], 8-byte aligned"),
        Arg::output(
            "out_f32",
            "f32 [max_tokens, out_stride], 16-byte aligned: the sums before rounding; or null",
        ),
        Arg::input("tokens", "u32 [1] on the device: tokens, capped at max_tokens"),
        Arg::u32("max_tokens", "tokens that the buffers hold"),
        Arg::u32("top_k", "slots of a token"),
        Arg::u32("columns", "columns to do, from the first of each buffer: a multiple of 4"),
        Arg::u32("y_stride", "elements from row to row of y: a multiple of 4"),
        Arg::u32("shared_stride", "elements from row to row of shared: a multiple of 4"),
        Arg::u32("out_stride", "elements from row to row of out and out_f32: a multiple of 4"),
    ],
};

/// Four f32 from `p`.
///
/// # Safety
/// `p` is 16-byte aligned and 16 bytes there are readable.
#[inline(always)]
unsafe fn load(p: *const f32) -> [f32; 4] {
    // SAFETY: the caller's duty.
    unsafe { global::load_v4(p) }.map(f32::from_bits)
}

/// Element by element.
#[inline(always)]
fn add(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
    [a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3]]
}

/// Combines `min(*tokens, max_tokens)` tokens; see [`LAUNCH`] for shapes and types.
///
/// `((0 + w_0 * y_0) + w_1 * y_1) + ...`, every operation rounded, slots without a row left out; then `+ shared`. With
/// `top_k` = 0 the shared expert's output as it is. NaN is stored as `0x7FFF` and, in f32, as `0x7FC00000`.
///
/// # Safety
/// The buffers have the shapes and alignments of [`LAUNCH`] and are not used by others while the kernel runs.
#[kernel(bounds = BOUNDS)]
#[allow(clippy::too_many_arguments)]
pub unsafe fn combine(
    y: *const f32,
    slot_row: *const u32,
    topk_weights: *const f32,
    shared_row: *const u32,
    shared: *const f32,
    b_scale: *const f32,
    out: *mut u16,
    out_f32: *mut f32,
    tokens: *const u32,
    max_tokens: u32,
    top_k: u32,
    columns: u32,
    y_stride: u32,
    shared_stride: u32,
    out_stride: u32,
) {
    grid::wait_for_dependencies();
    grid::launch_dependents();
    // SAFETY: one u32 each.
    let (tokens, shared_row) =
        unsafe { ((*tokens).min(max_tokens), if shared_row.is_null() { NONE } else { *shared_row }) };
    let quads = columns / 4;
    let items = tokens * quads;
    let mut item = thread::index_1d();
    while item < items {
        let token = item / quads;
        let column = (item - token * quads) as usize * 4;
        let mut sum = [0.0; 4];
        let mut slot = 0;
        while slot < top_k {
            let (mut rows, mut weights, mut values) = ([NONE; BATCH], [0.0; BATCH], [[0.0; 4]; BATCH]);
            let mut j = 0;
            while j < BATCH {
                if slot + (j as u32) < top_k {
                    let at = (token * top_k + slot) as usize + j;
                    // SAFETY: the slot exists.
                    unsafe { (rows[j], weights[j]) = (*slot_row.add(at), *topk_weights.add(at)) };
                }
                j += 1;
            }
            j = 0;
            while j < BATCH {
                if rows[j] != NONE {
                    // SAFETY: the row exists.
                    values[j] = unsafe { load(y.add(rows[j] as usize * y_stride as usize + column)) };
                }
                j += 1;
            }
            j = 0;
            while j < BATCH {
                if rows[j] != NONE {
                    sum = add(sum, values[j].map(|v| weights[j] * v));
                }
                j += 1;
            }
            slot += BATCH as u32;
        }
        // SAFETY: the token has a row in each of the buffers that are there.
        unsafe {
            let mut more = None;
            if shared_row != NONE {
                more = Some(load(y.add((shared_row + token) as usize * y_stride as usize + column)));
            } else if !shared.is_null() {
                more = Some(load(shared.add(token as usize * shared_stride as usize + column)));
            }
            if let Some(more) = more {
                sum = if top_k == 0 { more } else { add(sum, more) };
            }
            if !b_scale.is_null() && (*b_scale.add(token as usize)).is_nan() {
                sum = [f32::NAN; 4];
            }
            let at = token as usize * out_stride as usize + column;
            global::store_v2(out.add(at), [bf16x2_from_f32(sum[0], sum[1]), bf16x2_from_f32(sum[2], sum[3])]);
            if !out_f32.is_null() {
                let bits = sum.map(|v| if v.is_nan() { f32::NAN.to_bits() } else { v.to_bits() });
                global::store_v4(out_f32.add(at), bits);
            }
        }
        item += thread::grid_dim_x() * thread::block_dim_x();
    }
}
