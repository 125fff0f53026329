//! Clamped SwiGLU of two f32 accumulators, quantised to NVFP4 in the same pass.
//!
//! One block of threads per row (see [`crate::row`]): gate and up are read once, the SwiGLU result lives in
//! registers until the row's maximum is known. Memory-bound: a row reads `8i` bytes and writes
//! `i/2 + i/16 + 12`, so the floor is `8.5625 * rows * i` bytes over 4.3 TB/s on an H200:
//! 6.3 us per 1024 rows of i = 3072.

use crate::group::F32Group;
use crate::launch::{Arch, Arg, Geometry, Launch, LaunchBounds};
use crate::row::{self, Output, Source};
use crate::silu::swiglu_group;
use cuda_std::prelude::*;
use nvfp4::{BLOCK, layout};

/// Bounds of the kernel. Left alone, ptxas takes 123 registers, and fewer threads per SM cost 15 %.
pub const BOUNDS: LaunchBounds = LaunchBounds::block(row::MAX_THREADS).max_registers(80);

/// Its row of the launch table.
pub const LAUNCH: Launch = Launch {
    name: "swiglu_quantize_nvfp4",
    bounds: BOUNDS,
    shared_bytes: row::SHARED_BYTES,
    archs: &Arch::ALL,
    geometry: Geometry::Rows,
    args: &[
        Arg::input("gate", "f32 [rows, i]: gate accumulators before alpha; 16-byte aligned"),
        Arg::input("up", "f32 [rows, i]: up accumulators before alpha; 16-byte aligned"),
        Arg::input("alpha_gate", "f32 [rows]: multiplies the gate accumulators before the clamp"),
        Arg::input("alpha_up", "f32 [rows]: multiplies the up accumulators before the clamp"),
        Arg::output("packed", "u8 [rows, i/2]: E2M1 codes, low nibble = even i; 8-byte aligned"),
        Arg::output(
            "scales",
            "u8 [sf_len(rows, i/16)]: E4M3 in the 32_4_4 layout, padding 0; 4-byte aligned",
        ),
        Arg::output("row_scale", "f32 [rows]: global scale of each row; NaN for a row with NaN or infinity"),
        Arg::input("rows", "u32 [1] on the device: rows to do, capped at max_rows"),
        Arg::input("constant_scale", "f32 [1] on the device, or null for the row's own maximum / 2688"),
        Arg::u32("max_rows", "rows that the buffers hold"),
        Arg::u32("i", "elements of a row: a multiple of 16, at most 16384"),
        Arg::u32("acc_stride", "elements from one row of gate (and of up) to the next: a multiple of 4"),
        Arg::f32("limit", "SwiGLU clamp, positive; +infinity for none"),
    ],
};

/// The accumulators times their alpha.
#[inline(always)]
fn scaled(acc: [f32; BLOCK], alpha: f32) -> [f32; BLOCK] {
    let mut v = acc;
    let mut j = 0;
    while j < BLOCK {
        v[j] *= alpha;
        j += 1;
    }
    v
}

/// Sixteen consecutive f32 by four 16-byte loads.
///
/// # Safety
/// `p` is 16-byte aligned and 64 bytes there are readable and not written while the kernel runs.
#[inline(always)]
unsafe fn load_group(p: *const f32) -> [f32; BLOCK] {
    let mut v = [0.0; BLOCK];
    let mut j = 0;
    while j < BLOCK / 4 {
        // SAFETY: inside the caller's 64 bytes.
        let w = unsafe { global::load_nc_v4(p.add(4 * j)) };
        v[4 * j] = f32::from_bits(w[0]);
        v[4 * j + 1] = f32::from_bits(w[1]);
        v[4 * j + 2] = f32::from_bits(w[2]);
        v[4 * j + 3] = f32::from_bits(w[3]);
        j += 1;
    }
    v
}

/// One row of gate and up.
struct Rows {
    gate: *const f32,
    up: *const f32,
    alpha_gate: f32,
    alpha_up: f32,
    limit: f32,
}

impl Source for Rows {
    type Group = F32Group;

    #[inline(always)]
    unsafe fn load(&self, g: u32) -> F32Group {
        let at = g as usize * BLOCK;
        // SAFETY: the row has the group; groups are 64 bytes from a 16-byte aligned start.
        let (gate, up) = unsafe { (load_group(self.gate.add(at)), load_group(self.up.add(at))) };
        F32Group(swiglu_group(scaled(gate, self.alpha_gate), scaled(up, self.alpha_up), self.limit))
    }
}

/// SwiGLU and quantisation of `min(*rows, max_rows)` rows; see [`LAUNCH`] for shapes and types.
///
/// A row whose SwiGLU has NaN or infinity gets codes 0, scales 0 and row scale NaN. Padding as in
/// [`crate::quantize_nvfp4_rows`].
///
/// # Safety
/// The buffers have the shapes and alignments of [`LAUNCH`] (for `max_rows` rows) and are not written by others
/// while the kernel runs; the launch has [`row::block_threads`] threads per block and its shared memory.
#[kernel(bounds = BOUNDS)]
#[allow(clippy::too_many_arguments)]
pub unsafe fn swiglu_quantize_nvfp4(
    gate: *const f32,
    up: *const f32,
    alpha_gate: *const f32,
    alpha_up: *const f32,
    packed: *mut u8,
    scales: *mut u8,
    row_scale: *mut f32,
    rows: *const u32,
    constant_scale: *const f32,
    max_rows: u32,
    i: u32,
    acc_stride: u32,
    limit: f32,
) {
    let out = Output { packed, scales, row_scale };
    let groups = i / BLOCK as u32;
    // SAFETY: `rows` is one u32; `constant_scale` is null or one f32.
    let (rows, constant) = unsafe {
        let rows = (*rows).min(max_rows);
        (rows, if constant_scale.is_null() { None } else { Some(*constant_scale) })
    };
    let padded = layout::padded_rows(rows as usize) as u32;
    let mut row = thread::block_idx_x();
    let mut buffer = 0;
    while row < rows {
        // SAFETY: the alphas have `max_rows` elements.
        let (ag, au) = unsafe { (*alpha_gate.add(row as usize), *alpha_up.add(row as usize)) };
        let at = row as usize * acc_stride as usize;
        // SAFETY: the row lies inside gate and up.
        let source =
            unsafe { Rows { gate: gate.add(at), up: up.add(at), alpha_gate: ag, alpha_up: au, limit } };
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
