//! bf16 rows, or rows of tokens gathered by expert, to the GEMMs' B operand by way of NVFP4.
//!
//! One block of threads per row, one pass over `x` (see [`crate::quantise`]). Floor: 4 bytes per element over 4.3 TB/s,
//! 6.8 us per 1024 rows of 7168.

use crate::launch::{Arch, Arg, Geometry, Launch, LaunchBounds};
use crate::prepare_rows_bf16::load_bf16_group;
use crate::quantise::{self, F16Rows, Rows, ScaleSource};
use crate::row;
use cuda_std::grid;
use cuda_std::prelude::*;
use nvfp4::BLOCK;

/// Bounds of the kernel.
pub const BOUNDS: LaunchBounds = LaunchBounds::block(row::MAX_THREADS).min_ctas(2);

/// Its row of the launch table. [`Launch::rows`] with `64 * k_units` columns.
pub const LAUNCH: Launch = Launch {
    name: "prepare_rows_nvfp4_bf16",
    bounds: BOUNDS,
    shared_bytes: row::SHARED_BYTES,
    archs: &Arch::ALL,
    geometry: Geometry::Rows,
    args: &[
        Arg::input("x", "bf16 [rows or tokens, x_stride], 16-byte aligned"),
        Arg::output(
            "b",
            "f16 [max_rows, 64 * k_units]: e2m1 * e4m3; zeros from column k on; 16-byte aligned",
        ),
        Arg::output(
            "b_scale",
            "f32 [max_rows]: global scale of each row; NaN for a row with NaN or infinity",
        ),
        Arg::input(
            "row_token",
            "u32 [max_rows]: row of x of each row, 0xffffffff leaves it alone; null: the row itself",
        ),
        Arg::input("rows", "u32 [1] on the device: rows, capped at max_rows"),
        Arg::input("offsets", "u32 [experts + 1]: first row of each expert, for modes 2 and 4; or null"),
        Arg::input("scale", "f32 [1], f32 [experts], or one or two maxima as bits, by mode; null for mode 0"),
        Arg::output("saturated", "u32 [1]: adds the blocks that modes 1 and 2 saturate; or null"),
        Arg::u32("max_rows", "rows that the buffers hold"),
        Arg::u32("k", "elements of a row: a multiple of 16"),
        Arg::u32("k_units", "units of 64 columns of b, at least k / 64 and at most 256"),
        Arg::u32("x_stride", "elements from one row of x to the next: a multiple of 8"),
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
/// has [`row::block_threads`] threads for `64 * k_units` columns and its shared memory.
#[kernel(bounds = BOUNDS)]
#[allow(clippy::too_many_arguments)]
pub unsafe fn prepare_rows_nvfp4_bf16(
    x: *const u16,
    b: *mut u16,
    b_scale: *mut f32,
    row_token: *const u32,
    rows: *const u32,
    offsets: *const u32,
    scale: *const f32,
    saturated: *mut u32,
    max_rows: u32,
    k: u32,
    k_units: u32,
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
    let target = F16Rows { b, b_scale, k_units };
    // SAFETY: a row of x has the group.
    let load = |_, token, g| unsafe {
        load_bf16_group(x.add(token as usize * x_stride as usize + g as usize * BLOCK))
    };
    // SAFETY: the caller's buffers; all threads are here.
    unsafe { quantise::quantise_rows(rows, &target, &source, saturated, load) };
}
