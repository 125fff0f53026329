//! Largest magnitudes of bf16 rows: of each row, and over all finite ones.
//!
//! For the tensor-wide scale and its calibration, and for telling which tokens are finite before their rows are made.
//! One block of threads per row; a block keeps the maximum of its rows and updates the result once.

use crate::group::Group;
use crate::launch::{Arch, Arg, Geometry, Launch, LaunchBounds};
use crate::prepare_rows_bf16::load_bf16_group;
use crate::row::{self, block_max};
use crate::slots::NONE;
use cuda_std::prelude::*;
use cuda_std::{atomic, grid};
use nvfp4::BLOCK;
use nvfp4::quantize::NON_FINITE_BITS;

/// Bounds of the kernel.
pub const BOUNDS: LaunchBounds = LaunchBounds::block(row::MAX_THREADS).min_ctas(2);

/// Its row of the launch table. [`Launch::rows`].
pub const LAUNCH: Launch = Launch {
    name: "rows_amax_bf16",
    bounds: BOUNDS,
    shared_bytes: row::SHARED_BYTES,
    archs: &Arch::ALL,
    geometry: Geometry::Rows,
    args: &[
        Arg::input("x", "bf16 [max_rows, x_stride], 16-byte aligned"),
        Arg::output(
            "row_amax",
            "f32 [max_rows]: largest magnitude, NaN if the row has NaN or infinity; or null",
        ),
        Arg::output(
            "amax",
            "u32 [2]: raised to the bits of the largest finite row's, [1] for rows from *split on; or null",
        ),
        Arg::input("row_token", "u32 [max_rows]: rows with 0xffffffff are left out; or null"),
        Arg::input("rows", "u32 [1] on the device: rows, capped at max_rows"),
        Arg::input("split", "u32 [1]: first row that counts for amax[1]; or null"),
        Arg::u32("max_rows", "rows that the buffers hold"),
        Arg::u32("k", "elements of a row: a multiple of 16, at most 16384"),
        Arg::u32("x_stride", "elements from one row of x to the next: a multiple of 8"),
    ],
};

/// Maxima of `min(*rows, max_rows)` rows; see [`LAUNCH`] for shapes and types.
///
/// # Safety
/// The buffers have the shapes and alignments of [`LAUNCH`] and are not written by others while the kernel runs; the
/// launch has [`row::block_threads`] threads for `k` columns and its shared memory.
#[kernel(bounds = BOUNDS)]
#[allow(clippy::too_many_arguments)]
pub unsafe fn rows_amax_bf16(
    x: *const u16,
    row_amax: *mut f32,
    amax: *mut u32,
    row_token: *const u32,
    rows: *const u32,
    split: *const u32,
    max_rows: u32,
    k: u32,
    x_stride: u32,
) {
    grid::wait_for_dependencies();
    grid::launch_dependents();
    // SAFETY: one u32 each.
    let (rows, split) = unsafe { ((*rows).min(max_rows), if split.is_null() { u32::MAX } else { *split }) };
    let groups = k / BLOCK as u32;
    let (first, second) = (thread::thread_idx_x(), thread::thread_idx_x() + thread::block_dim_x());
    let (mut largest, mut largest_split) = (0, 0);
    let mut row = thread::block_idx_x();
    let mut buffer = 0;
    while row < rows {
        // SAFETY: a word per row.
        if row_token.is_null() || unsafe { *row_token.add(row as usize) } != NONE {
            // SAFETY: the row exists; all threads of the block are here.
            let bits = unsafe {
                let from = x.add(row as usize * x_stride as usize);
                let of = |g: u32| {
                    if g < groups { load_bf16_group(from.add(g as usize * BLOCK)).amax_bits() } else { 0 }
                };
                block_max(of(first).max(of(second)), buffer)
            };
            buffer ^= 1;
            if bits >= NON_FINITE_BITS {
            } else if row < split {
                largest = bits.max(largest);
            } else {
                largest_split = bits.max(largest_split);
            }
            if first == 0 && !row_amax.is_null() {
                let value = if bits >= NON_FINITE_BITS { f32::NAN } else { f32::from_bits(bits) };
                // SAFETY: an element per row.
                unsafe { row_amax.add(row as usize).write(value) };
            }
        }
        row += thread::grid_dim_x();
    }
    if first == 0 && !amax.is_null() {
        // SAFETY: two words that all blocks update atomically.
        unsafe {
            if largest != 0 {
                atomic::max_u32(amax, largest);
            }
            if largest_split != 0 {
                atomic::max_u32(amax.add(1), largest_split);
            }
        }
    }
}
