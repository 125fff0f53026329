//! bf16 rows to the GEMMs' B operand: f16 under a power of two per row.
//!
//! One block of threads per row, as in [`crate::row`]: the row is in registers between its maximum and its conversion,
//! so it may also be converted in place. Memory-bound: 4 bytes per element over 4.3 TB/s, 6.8 us per 1024 rows of 7168.

use crate::group::{Bf16Group, Group};
use crate::launch::{Arch, Arg, Geometry, Launch, LaunchBounds};
use crate::row::{self, block_max};
use crate::slots::NONE;
use crate::to_f16::{F16Group, RowPower, UNIT};
use cuda_std::prelude::*;
use cuda_std::{global, grid};
use nvfp4::BLOCK;

/// Bounds of the kernel.
pub const BOUNDS: LaunchBounds = LaunchBounds::block(row::MAX_THREADS).min_ctas(2);

/// Its row of the launch table. [`Launch::rows`] with `64 * k_units` columns.
pub const LAUNCH: Launch = Launch {
    name: "prepare_rows_bf16",
    bounds: BOUNDS,
    shared_bytes: row::SHARED_BYTES,
    archs: &Arch::ALL,
    geometry: Geometry::Rows,
    args: &[
        Arg::input("x", "bf16 [max_rows, x_stride], 16-byte aligned; null: b's own rows, in place"),
        Arg::output("b", "f16 [max_rows, 64 * k_units], 16-byte aligned; zeros from column k on"),
        Arg::output(
            "b_scale",
            "f32 [max_rows]: what a row must be multiplied by; NaN for a row with NaN or infinity",
        ),
        Arg::input("row_token", "u32 [max_rows]: rows with 0xffffffff are left alone; or null"),
        Arg::input("rows", "u32 [1] on the device: rows, capped at max_rows"),
        Arg::u32("max_rows", "rows that the buffers hold"),
        Arg::u32("k", "elements of a row: a multiple of 16"),
        Arg::u32("k_units", "units of 64 columns of b, at least k / 64 and at most 256"),
        Arg::u32(
            "x_stride",
            "elements from one row of x to the next: a multiple of 8; in place 64 * k_units",
        ),
    ],
};

/// Sixteen bf16 from `p`.
///
/// # Safety
/// `p` is 16-byte aligned and 32 bytes there are readable.
#[inline(always)]
pub unsafe fn load_bf16_group(p: *const u16) -> Bf16Group {
    // SAFETY: the caller's duty.
    let (a, b) = unsafe { (global::load_v4(p), global::load_v4(p.add(8))) };
    Bf16Group([a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]])
}

/// Stores sixteen f16 at `p`.
///
/// # Safety
/// `p` is 16-byte aligned and 32 bytes there are writable.
#[inline(always)]
pub unsafe fn store_f16_group(p: *mut u16, v: F16Group) {
    // SAFETY: the caller's duty.
    unsafe {
        global::store_v4(p, [v[0], v[1], v[2], v[3]]);
        global::store_v4(p.add(8), [v[4], v[5], v[6], v[7]]);
    }
}

/// Converts `min(*rows, max_rows)` rows; see [`LAUNCH`] for shapes and types.
///
/// # Safety
/// The buffers have the shapes and alignments of [`LAUNCH`] and are not used by others while the kernel runs; the launch
/// has [`row::block_threads`] threads for `64 * k_units` columns and its shared memory.
#[kernel(bounds = BOUNDS)]
#[allow(clippy::too_many_arguments)]
pub unsafe fn prepare_rows_bf16(
    x: *const u16,
    b: *mut u16,
    b_scale: *mut f32,
    row_token: *const u32,
    rows: *const u32,
    max_rows: u32,
    k: u32,
    k_units: u32,
    x_stride: u32,
) {
    grid::wait_for_dependencies();
    grid::launch_dependents();
    // SAFETY: one u32.
    let rows = unsafe { *rows }.min(max_rows);
    let x = if x.is_null() { b.cast_const() } else { x };
    let (first, second) = (thread::thread_idx_x(), thread::thread_idx_x() + thread::block_dim_x());
    let (groups, all) = (k / BLOCK as u32, k_units * (UNIT / BLOCK as u32));
    let mut row = thread::block_idx_x();
    let mut buffer = 0;
    while row < rows {
        // SAFETY: a word per row.
        if row_token.is_null() || unsafe { *row_token.add(row as usize) } != NONE {
            // SAFETY: the row exists; all threads of the block are here, and each reads its groups before the barrier
            // of the maximum, before any is overwritten in place.
            unsafe {
                let from = x.add(row as usize * x_stride as usize);
                let load = |g: u32| {
                    if g < groups { load_bf16_group(from.add(g as usize * BLOCK)) } else { Bf16Group::ZERO }
                };
                let (p, q) = (load(first), load(second));
                let amax = block_max(p.amax_bits().max(q.amax_bits()), buffer);
                buffer ^= 1;
                let power = RowPower::of(amax);
                if first == 0 {
                    b_scale.add(row as usize).write(power.scale);
                }
                let to = b.add(row as usize * (k_units * UNIT) as usize);
                if first < all {
                    store_f16_group(to.add(first as usize * BLOCK), power.group(&p));
                }
                if second < all {
                    store_f16_group(to.add(second as usize * BLOCK), power.group(&q));
                }
            }
        }
        row += thread::grid_dim_x();
    }
}
