//! Rows under a power of two times an FP8 weight, f32 results. See [`crate::dense`].

use crate::dense::{self, Fp8, Operands};
use crate::launch::{Arch, Arg, Geometry, Launch, LaunchBounds};
use cuda_std::grid;
use cuda_std::prelude::*;

/// Bounds of the kernel.
pub const BOUNDS: LaunchBounds = LaunchBounds::block(dense::THREADS);

/// Its row of the launch table. Any grid; the fast one is a block per 64 x 64 outputs, as many as fit.
pub const LAUNCH: Launch = Launch {
    name: "dense_fp8_linear",
    bounds: BOUNDS,
    shared_bytes: dense::shared_bytes::<Fp8>(1),
    archs: &Arch::ALL,
    geometry: Geometry::Fixed,
    args: &[
        Arg::input("weight", "e4m3 [features, k], row-major, 16-byte aligned"),
        Arg::input("scales", "f32 [ceil(features / 128), ceil(k / 128)]: scales of weight"),
        Arg::input("b", "f16 [max_tokens, x_stride], 16-byte aligned: rows under a power of two"),
        Arg::input("b_scale", "f32 [max_tokens]: what a row must be multiplied by"),
        Arg::output("y", "f32 [max_tokens, out_stride]"),
        Arg::input("tokens", "u32 [1] on the device: tokens, capped at max_tokens"),
        Arg::u32("max_tokens", "tokens that the buffers hold"),
        Arg::u32("features", "rows of a weight, at least 1"),
        Arg::u32("k", "columns: a multiple of 16"),
        Arg::u32("x_stride", "elements from row to row of the tokens: a multiple of 8"),
        Arg::u32("out_stride", "elements from row to row of the output"),
    ],
};

/// Computes `min(*tokens, max_tokens)` tokens; see [`LAUNCH`] for shapes and types.
///
/// # Safety
/// The buffers have the shapes and alignments of [`LAUNCH`] and are not used by others while the kernel runs.
#[kernel(bounds = BOUNDS)]
#[allow(clippy::too_many_arguments)]
pub unsafe fn dense_fp8_linear(
    weight: *const u8,
    scales: *const f32,
    b: *const u16,
    b_scale: *const f32,
    y: *mut f32,
    tokens: *const u32,
    max_tokens: u32,
    features: u32,
    k: u32,
    x_stride: u32,
    out_stride: u32,
) {
    grid::wait_for_dependencies();
    grid::launch_dependents();
    // SAFETY: one u32.
    let tokens = unsafe { *tokens }.min(max_tokens);
    let (weights, scales) = ([weight], [scales]);
    let o = Operands { weights, scales, x: b, b_scale, tokens, features, k, x_stride };
    // SAFETY: the caller's buffers and the launch's shared memory.
    unsafe { dense::linear_grid::<Fp8>(&o, y, out_stride) };
}
