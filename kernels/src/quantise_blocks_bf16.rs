//! bf16 rows of tokens, once for each of their experts, to the B operand of the block-scaled MMA: codes and scales in the
//! layout of [`crate::operand`].
//!
//! One block of threads per token: the row is read and quantised once and stored where each of its slots has its row, and
//! quantised again only where an expert has another scale. Then the padding of each expert's rows. Floor:
//! `2 + 0.5625 * rows / tokens` bytes per element of `x`.

use crate::block_rows::{BlockRows, GROUP_ROWS, NextScale};
use crate::group::{Bf16Group, Group, RowScale, quantize_group};
use crate::launch::{Arch, Arg, Geometry, Launch, LaunchBounds};
use crate::prepare_rows_bf16::load_bf16_group;
use crate::quantise::{self, CONSTANT, PER_EXPERT, ScaleSource, Target, saturates};
use crate::row::{self, block_max};
use crate::slots::NONE;
use cuda_std::grid;
use cuda_std::prelude::*;
use nvfp4::BLOCK;
use nvfp4::quantize::Block;

/// Bounds of the kernel: the fewest registers that nothing is spilled with.
pub const BOUNDS: LaunchBounds = LaunchBounds::block(row::MAX_THREADS).max_registers(96);

/// Its row of the launch table. [`Launch::rows`] with `64 * steps` columns.
///
/// The rows of an expert are followed by rows of zeros up to a multiple of [`GROUP_ROWS`]; rows beyond are left alone.
pub const LAUNCH: Launch = Launch {
    name: "quantise_blocks_bf16",
    bounds: BOUNDS,
    shared_bytes: row::SHARED_BYTES,
    archs: &Arch::ALL,
    geometry: Geometry::Rows,
    args: &[
        Arg::input("x", "bf16 [max_tokens, x_stride], 16-byte aligned"),
        Arg::output("b_codes", "u8 [rows / 128][steps][4096]: E2M1 codes, operand.rs; 8-byte aligned"),
        Arg::output("b_scales", "u8 [rows / 128][steps][512]: E4M3, 32_4_4 layout; 4-byte aligned"),
        Arg::output(
            "b_scale",
            "f32 [rows]: global scale of each row; NaN for a row with NaN or infinity; 0 in the padding",
        ),
        Arg::input(
            "slot_row",
            "u32 [max_tokens * top_k]: row of each slot, 0xffffffff for none; null: the token's number",
        ),
        Arg::input("tokens", "u32 [1] on the device: tokens, capped at max_tokens"),
        Arg::input("counts", "u32 [experts]: rows of each expert"),
        Arg::input("offsets", "u32 [experts]: first row of each, multiples of 128; null: 0, one expert"),
        Arg::input("scale", "f32 [1], f32 [experts], or one or two maxima as bits, by mode; null for mode 0"),
        Arg::output(
            "saturated",
            "u32 [1]: adds the blocks that are saturated, of tokens (mode 1), of rows (mode 2); or null",
        ),
        Arg::output("next_scale", "f32 [rows]: next_constant of each row's expert; or null"),
        Arg::input("next_constant", "f32 [experts]; null with next_scale"),
        Arg::u32("max_tokens", "tokens that x holds"),
        Arg::u32("k", "elements of a row: a multiple of 16"),
        Arg::u32("steps", "steps of 64 columns of the operand, at least k / 64 and at most 256"),
        Arg::u32("x_stride", "elements from one row of x to the next: a multiple of 8"),
        Arg::u32("top_k", "slots of a token; 1 without slot_row"),
        Arg::u32("shared", "1: every token has a row of its number of the last expert, too"),
        Arg::u32("experts", "experts, the shared one included"),
        Arg::u32(
            "mode",
            "0 row, 1 constant, 2 constant per expert, 3 tensor, 4 tensor with the shared expert apart",
        ),
    ],
};

/// Quantises the rows of `min(*tokens, max_tokens)` tokens; see [`LAUNCH`] for shapes and types.
///
/// # Safety
/// The buffers have the shapes and alignments of [`LAUNCH`] and are not used by others while the kernel runs; the launch
/// has [`row::block_threads`] threads for `64 * steps` columns and its shared memory.
#[kernel(bounds = BOUNDS)]
#[allow(clippy::too_many_arguments)]
pub unsafe fn quantise_blocks_bf16(
    x: *const u16,
    b_codes: *mut u8,
    b_scales: *mut u8,
    b_scale: *mut f32,
    slot_row: *const u32,
    tokens: *const u32,
    counts: *const u32,
    offsets: *const u32,
    scale: *const f32,
    saturated: *mut u32,
    next_scale: *mut f32,
    next_constant: *const f32,
    max_tokens: u32,
    k: u32,
    steps: u32,
    x_stride: u32,
    top_k: u32,
    shared: u32,
    experts: u32,
    mode: u32,
) {
    grid::wait_for_dependencies();
    grid::launch_dependents();
    // SAFETY: one u32.
    let tokens = unsafe { *tokens }.min(max_tokens);
    let source = ScaleSource { mode, scale, offsets, experts };
    let next = NextScale { scale: next_scale, constant: next_constant, offsets, experts };
    let target = BlockRows { codes: b_codes, scales: b_scales, b_scale, steps, next };
    let (first, second) = (thread::thread_idx_x(), thread::thread_idx_x() + thread::block_dim_x());
    let groups = k / BLOCK as u32;
    let first_row = |expert: u32| {
        // SAFETY: a word per expert.
        if offsets.is_null() { 0 } else { unsafe { *offsets.add(expert as usize) } }
    };
    let mut token = thread::block_idx_x();
    let (mut buffer, mut count) = (0, 0);
    // SAFETY: tokens, slots and rows exist; conditions are the block's, so all its threads are here.
    unsafe {
        while token < tokens {
            let from = x.add(token as usize * x_stride as usize);
            let load = |g: u32| {
                if g < groups { load_bf16_group(from.add(g as usize * BLOCK)) } else { Bf16Group::ZERO }
            };
            let (p, q) = (load(first), load(second));
            let (amax_p, amax_q) = (p.amax_bits(), q.amax_bits());
            let amax = block_max(amax_p.max(amax_q), buffer);
            buffer ^= 1;
            let over = |s2: f32| u32::from(saturates(amax_p, s2)) + u32::from(saturates(amax_q, s2));
            if mode == CONSTANT {
                count += over(source.scale(0, amax));
            }
            let mut quantised = (Block::ZERO, Block::ZERO);
            // Bits of the scale that the row is quantised under; at first none.
            let (mut slot, mut last) = (0, u64::MAX);
            while slot < top_k + shared {
                let row = if slot == top_k {
                    first_row(experts - 1) + token
                } else if slot_row.is_null() {
                    token
                } else {
                    *slot_row.add(token as usize * top_k as usize + slot as usize)
                };
                slot += 1;
                if row == NONE {
                    continue;
                }
                let s2 = source.scale(row, amax);
                if last != u64::from(s2.to_bits()) {
                    last = u64::from(s2.to_bits());
                    let scale = RowScale::of(s2);
                    quantised = (quantize_group(&p, amax_p, scale), quantize_group(&q, amax_q, scale));
                }
                if mode == PER_EXPERT {
                    count += over(s2);
                }
                // `store` has a collective, and its lanes ask for their place behind it.
                if opaque(first == 0) {
                    target.store_scale(row, s2);
                }
                target.store(row, first, quantised.0);
                target.store(row, second, quantised.1);
            }
            token += thread::grid_dim_x();
        }
        // Padding: a block per row that may be needed behind an expert's.
        let mut row = thread::block_idx_x();
        while row < experts * GROUP_ROWS {
            let (expert, behind) = (row / GROUP_ROWS, row % GROUP_ROWS);
            let rows = *counts.add(expert as usize);
            if rows + behind < rows.next_multiple_of(GROUP_ROWS) {
                quantise::pad_row(&target, first_row(expert) + rows + behind);
            }
            row += thread::grid_dim_x();
        }
        if source.can_saturate() {
            quantise::add_warp(saturated, count);
        }
    }
}
