//! f32 rows, the SwiGLU's results, to the B operand of the block-scaled MMA: codes and scales in the layout of
//! [`crate::operand`].
//!
//! One block of threads per row, one pass over `x` (see [`crate::quantise`], [`crate::block_rows`]). Floor: 4.5625 bytes per element.

use crate::block_rows::{BlockRows, NextScale};
use crate::launch::{Arch, Arg, Geometry, Launch, LaunchBounds};
use crate::quantise::{self, Rows, ScaleSource, load_f32_group};
use crate::row;
use cuda_std::grid;
use cuda_std::prelude::*;
use nvfp4::BLOCK;

/// Bounds of the kernel: the fewest registers that nothing is spilled with.
pub const BOUNDS: LaunchBounds = LaunchBounds::block(row::MAX_THREADS).max_registers(80);

/// Its row of the launch table. [`Launch::rows`] with `64 * steps` columns.
///
/// Rows that are none, up to a multiple of [`GROUP_ROWS`](crate::block_rows::GROUP_ROWS) behind the last row of a segment,
/// are written as zeros; those beyond are left alone. Segments begin at multiples of it.
pub const LAUNCH: Launch = Launch {
    name: "quantise_blocks_f32",
    bounds: BOUNDS,
    shared_bytes: row::SHARED_BYTES,
    archs: &Arch::ALL,
    geometry: Geometry::Rows,
    args: &[
        Arg::input("x", "f32 [max_rows, x_stride], 16-byte aligned"),
        Arg::output("b_codes", "u8 [max_rows / 128][steps][4096]: E2M1 codes, operand.rs; 8-byte aligned"),
        Arg::output("b_scales", "u8 [max_rows / 128][steps][512]: E4M3, 32_4_4 layout; 4-byte aligned"),
        Arg::output(
            "b_scale",
            "f32 [max_rows]: global scale of each row; NaN for a row with NaN or infinity; 0 in the padding",
        ),
        Arg::input("row_token", "u32 [max_rows]: 0xffffffff for rows that are none; or null: one segment"),
        Arg::input("rows", "u32 [1] on the device: rows, capped at max_rows"),
        Arg::input("offsets", "u32 [experts + 1]: first row of each expert, for modes 2 and 4; or null"),
        Arg::input("scale", "f32 [1], f32 [experts], or one or two maxima as bits, by mode; null for mode 0"),
        Arg::output("saturated", "u32 [1]: adds the blocks that modes 1 and 2 saturate; or null"),
        Arg::u32("max_rows", "rows that the buffers hold: a multiple of 128"),
        Arg::u32("k", "elements of a row: a multiple of 16"),
        Arg::u32("steps", "steps of 64 columns of the operand, at least k / 64 and at most 256"),
        Arg::u32("x_stride", "elements from one row of x to the next: a multiple of 4"),
        Arg::u32("experts", "experts, the shared one included"),
        Arg::u32(
            "mode",
            "0 row, 1 constant, 2 constant per expert, 3 tensor, 4 tensor with the shared expert apart",
        ),
    ],
};

/// Quantises `min(*rows, max_rows)` rows; see [`LAUNCH`] for shapes and types.
///
/// # Safety
/// The buffers have the shapes and alignments of [`LAUNCH`] and are not used by others while the kernel runs; the launch
/// has [`row::block_threads`] threads for `64 * steps` columns and its shared memory.
#[kernel(bounds = BOUNDS)]
#[allow(clippy::too_many_arguments)]
pub unsafe fn quantise_blocks_f32(
    x: *const f32,
    b_codes: *mut u8,
    b_scales: *mut u8,
    b_scale: *mut f32,
    row_token: *const u32,
    rows: *const u32,
    offsets: *const u32,
    scale: *const f32,
    saturated: *mut u32,
    max_rows: u32,
    k: u32,
    steps: u32,
    x_stride: u32,
    experts: u32,
    mode: u32,
) {
    grid::wait_for_dependencies();
    grid::launch_dependents();
    // SAFETY: one u32.
    let rows = unsafe { *rows }.min(max_rows);
    let source = ScaleSource { mode, scale, offsets, experts };
    let rows = Rows { row_token, rows, max_rows, groups: k / BLOCK as u32 };
    let next = NextScale::NONE;
    let target = BlockRows { codes: b_codes, scales: b_scales, b_scale, steps, next };
    // SAFETY: a row of x has the group.
    let load =
        |row, _, g| unsafe { load_f32_group(x.add(row as usize * x_stride as usize + g as usize * BLOCK)) };
    // SAFETY: the caller's buffers; all threads are here.
    unsafe { quantise::quantise_rows(rows, &target, &source, saturated, load) };
}
