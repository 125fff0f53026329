//! bf16 rows times two bf16 weights, and the clamped SwiGLU of both in bf16. See [`crate::dense`].

use crate::dense::{self, Bf16, Operands};
use crate::launch::{Arch, Arg, Geometry, Launch, LaunchBounds};
use cuda_std::grid;
use cuda_std::prelude::*;

/// Bounds of the kernel.
pub const BOUNDS: LaunchBounds = LaunchBounds::block(dense::THREADS).max_registers(192);

/// Its row of the launch table. Any grid; the fast one is a block per 64 x 64 outputs, as many as fit.
pub const LAUNCH: Launch = Launch {
    name: "dense_bf16_swiglu",
    bounds: BOUNDS,
    shared_bytes: dense::shared_bytes::<Bf16>(2),
    archs: &Arch::ALL,
    geometry: Geometry::Fixed,
    args: &[
        Arg::input("weight", "bf16 [features, k], row-major, 16-byte aligned: gate"),
        Arg::input("weight_up", "bf16 [features, k], row-major, 16-byte aligned: up"),
        Arg::input("x", "bf16 [max_tokens, x_stride], 16-byte aligned"),
        Arg::output("h", "bf16 [max_tokens, out_stride]"),
        Arg::input("tokens", "u32 [1] on the device: tokens, capped at max_tokens"),
        Arg::u32("max_tokens", "tokens that the buffers hold"),
        Arg::u32("features", "rows of a weight, at least 1"),
        Arg::u32("k", "columns: a multiple of 16"),
        Arg::u32("x_stride", "elements from row to row of the tokens: a multiple of 8"),
        Arg::u32("out_stride", "elements from row to row of the output"),
        Arg::f32("limit", "SwiGLU clamp, positive; +infinity for none"),
    ],
};

/// Computes `min(*tokens, max_tokens)` tokens; see [`LAUNCH`] for shapes and types.
///
/// # Safety
/// The buffers have the shapes and alignments of [`LAUNCH`] and are not used by others while the kernel runs.
#[kernel(bounds = BOUNDS)]
#[allow(clippy::too_many_arguments)]
pub unsafe fn dense_bf16_swiglu(
    weight: *const u16,
    weight_up: *const u16,
    x: *const u16,
    h: *mut u16,
    tokens: *const u32,
    max_tokens: u32,
    features: u32,
    k: u32,
    x_stride: u32,
    out_stride: u32,
    limit: f32,
) {
    grid::wait_for_dependencies();
    grid::launch_dependents();
    // SAFETY: one u32.
    let tokens = unsafe { *tokens }.min(max_tokens);
    let (weights, scales) = ([weight.cast(), weight_up.cast()], [core::ptr::null(); 2]);
    let o = Operands { weights, scales, x, b_scale: core::ptr::null(), tokens, features, k, x_stride };
    // SAFETY: the caller's buffers and the launch's shared memory.
    unsafe { dense::swiglu_grid::<Bf16>(&o, h, out_stride, limit) };
}
