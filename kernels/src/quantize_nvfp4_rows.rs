//! bf16 rows to NVFP4: packed E2M1, 32_4_4 scales, one global scale per row.
//!
//! One block of threads per row, one pass over `x` (see [`crate::row`]). Memory-bound: a row reads `2k` bytes and
//! writes `k/2 + k/16 + 4`, so the floor is `2.5625 * rows * k` bytes over 4.3 TB/s on an H200:
//! 4.4 us per 1024 rows of k = 7168.

use crate::group::Bf16Group;
use crate::launch::{Arch, Arg, Geometry, Launch, LaunchBounds};
use crate::row::{self, Output, Source};
use cuda_std::prelude::*;
use nvfp4::{BLOCK, layout};

/// Bounds of the kernel.
pub const BOUNDS: LaunchBounds = LaunchBounds::block(row::MAX_THREADS).min_ctas(2);

/// Its row of the launch table.
pub const LAUNCH: Launch = Launch {
    name: "quantize_nvfp4_rows",
    bounds: BOUNDS,
    shared_bytes: row::SHARED_BYTES,
    archs: &Arch::ALL,
    geometry: Geometry::Rows,
    args: &[
        Arg::input("x", "bf16 [rows, k], 16-byte aligned"),
        Arg::output("packed", "u8 [rows, k/2]: E2M1 codes, low nibble = even k; 8-byte aligned"),
        Arg::output(
            "scales",
            "u8 [sf_len(rows, k/16)]: E4M3 in the 32_4_4 layout, padding 0; 4-byte aligned",
        ),
        Arg::output("row_scale", "f32 [rows]: global scale of each row; NaN for a row with NaN or infinity"),
        Arg::input("rows", "u32 [1] on the device: rows to quantise, capped at max_rows"),
        Arg::input("constant_scale", "f32 [1] on the device, or null for the row's own maximum / 2688"),
        Arg::u32("max_rows", "rows that the buffers hold"),
        Arg::u32("k", "elements of a row: a multiple of 16, at most 16384"),
        Arg::u32("x_stride", "elements from one row of x to the next: a multiple of 8"),
    ],
};

/// One row of x.
struct Rows {
    row: *const u16,
}

impl Source for Rows {
    type Group = Bf16Group;

    #[inline(always)]
    unsafe fn load(&self, g: u32) -> Bf16Group {
        // SAFETY: the row has the group; groups are 32 bytes from a 16-byte aligned start.
        unsafe {
            let p = self.row.add(g as usize * BLOCK);
            let (a, b) = (global::load_nc_v4(p), global::load_nc_v4(p.add(8)));
            Bf16Group([a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]])
        }
    }
}

/// Quantises `min(*rows, max_rows)` rows; see [`LAUNCH`] for shapes and types.
///
/// A row with NaN or infinity gets codes 0, scales 0 and row scale NaN. Padding rows up to the next multiple of
/// 128 and padding groups up to the next multiple of 4 get scale 0; their codes and row scales are not written.
///
/// # Safety
/// The buffers have the shapes and alignments of [`LAUNCH`] (for `max_rows` rows) and are not written by others
/// while the kernel runs; the launch has [`row::block_threads`] threads per block and its shared memory.
#[kernel(bounds = BOUNDS)]
#[allow(clippy::too_many_arguments)]
pub unsafe fn quantize_nvfp4_rows(
    x: *const u16,
    packed: *mut u8,
    scales: *mut u8,
    row_scale: *mut f32,
    rows: *const u32,
    constant_scale: *const f32,
    max_rows: u32,
    k: u32,
    x_stride: u32,
) {
    let out = Output { packed, scales, row_scale };
    let groups = k / BLOCK as u32;
    // SAFETY: `rows` is one u32; `constant_scale` is null or one f32.
    let (rows, constant) = unsafe {
        let rows = (*rows).min(max_rows);
        (rows, if constant_scale.is_null() { None } else { Some(*constant_scale) })
    };
    let padded = layout::padded_rows(rows as usize) as u32;
    let mut row = thread::block_idx_x();
    let mut buffer = 0;
    while row < rows {
        // SAFETY: the row lies inside x.
        let source = Rows { row: unsafe { x.add(row as usize * x_stride as usize) } };
        // SAFETY: every thread of the block is here; the buffers hold the row.
        unsafe { row::quantize_row(&source, out, row, groups, constant, buffer) };
        row += thread::grid_dim_x();
        buffer ^= 1;
    }
    while row < padded {
        // SAFETY: the scales hold the padded rows.
        unsafe { row::zero_padding_row(out, row, groups) };
        row += thread::grid_dim_x();
    }
}
