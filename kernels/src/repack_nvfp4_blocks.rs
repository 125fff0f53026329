//! Weights from the checkpoint's row-major form into units of the block-scaled MMA's operand ([`crate::operand`]), on the
//! device, once at load.
//!
//! A thread per row of a unit: it reads the row's 32 bytes of codes, one sector, and its four scales. Eight neighbouring
//! threads write 128 bytes that lie together. Memory-bound: reads and writes 0.5625 bytes per weight.

use crate::launch::{Arch, Arg, Dims, Geometry, Launch, LaunchBounds};
use crate::operand::{
    self, BLOCK_ROWS, BlockOrder, CORE_BYTES, LEADING_BYTES, STEP_CODE_BYTES, STEP_K, UNIT_BYTES,
};
use cuda_std::prelude::*;
use nvfp4::BLOCK;

/// Threads of a block.
const THREADS: u32 = 256;
/// Blocks of a multiprocessor.
const BLOCKS_PER_SM: u32 = 8;
/// Groups of 16 of a step.
const STEP_GROUPS: usize = STEP_K / BLOCK;
/// Groups of a row that lie together.
const CORE_GROUPS: usize = 2 * CORE_BYTES / BLOCK;
/// Bounds of the kernel.
pub const BOUNDS: LaunchBounds = LaunchBounds::block(THREADS);

const _: () = {
    assert!(STEP_GROUPS == 2 * CORE_GROUPS);
    assert!(operand::code_offset(0, CORE_GROUPS * BLOCK) == LEADING_BYTES);
    assert!(STEP_CODE_BYTES.is_multiple_of(16) && UNIT_BYTES.is_multiple_of(16));
};

/// Its row of the launch table.
pub const LAUNCH: Launch = Launch {
    name: "repack_nvfp4_blocks",
    bounds: BOUNDS,
    shared_bytes: 0,
    archs: &Arch::ALL,
    geometry: Geometry::Fixed,
    args: &[
        Arg::input("packed", "u8 [features, k/2]: E2M1 codes, low nibble = even k; 8-byte aligned"),
        Arg::input("scales", "u8 [features, k/16]: E4M3"),
        Arg::input("up_packed", "the same for up, interleaved with `packed` as gate; or null"),
        Arg::input("up_scales", "the same for up; null with `up_packed`"),
        Arg::output("out", "u8 [operand::matrix_bytes]: units, padding zero; 16-byte aligned"),
        Arg::u32("features", "rows of each source, at least 1"),
        Arg::u32("k", "columns: a multiple of 16, at least 16"),
    ],
};

/// Dimensions for one matrix of `features` rows and `k` columns on a device of `sms` multiprocessors. Any grid from
/// one block on is right.
pub const fn dims(order: BlockOrder, features: u32, k: u32, sms: u32) -> Dims {
    let units = (order.row_blocks(features as usize) * operand::steps(k as usize)) as u32;
    let work = (units * BLOCK_ROWS as u32).div_ceil(THREADS);
    let most = sms * BLOCKS_PER_SM;
    Dims { grid: [if work < most { work } else { most }, 1, 1], block: BOUNDS.block, shared_bytes: 0 }
}

/// Repacks one matrix, or gate and up; see [`LAUNCH`] for shapes and types. Every byte of `out` is written.
///
/// # Safety
/// The buffers have the shapes and alignments of [`LAUNCH`] and are not written by others while the kernel runs.
#[kernel(bounds = BOUNDS)]
#[allow(clippy::too_many_arguments)]
pub unsafe fn repack_nvfp4_blocks(
    packed: *const u8,
    scales: *const u8,
    up_packed: *const u8,
    up_scales: *const u8,
    out: *mut u8,
    features: u32,
    k: u32,
) {
    let (features, k) = (features as usize, k as usize);
    let order = if up_packed.is_null() { BlockOrder::Plain } else { BlockOrder::GateUp };
    let steps = operand::steps(k);
    let rows = (order.row_blocks(features) * steps * BLOCK_ROWS) as u32;
    let mut index = thread::index_1d();
    while index < rows {
        let (unit, row) = (index as usize / BLOCK_ROWS, index as usize % BLOCK_ROWS);
        let column = unit % steps * STEP_K;
        let (is_up, feature) = order.source(unit / steps, row);
        let (codes, scale) = if is_up { (up_packed, up_scales) } else { (packed, scales) };
        // Two words for each group of 16 columns, and their scales.
        let mut words = [0u32; 2 * STEP_GROUPS];
        let mut four = 0u32;
        let mut g = 0;
        while g < STEP_GROUPS {
            let first = column + g * BLOCK;
            if feature < features && first < k {
                // SAFETY: sixteen codes and a scale inside the matrix; k is a multiple of 16, so 8-byte aligned.
                let (group, byte) = unsafe {
                    let at = feature * k + first;
                    (*codes.add(at / 2).cast::<u64>(), *scale.add(at / BLOCK))
                };
                words[2 * g] = group as u32;
                words[2 * g + 1] = (group >> 32) as u32;
                four |= u32::from(byte) << (8 * g);
            }
            g += 1;
        }
        // SAFETY: the unit is inside `out`; 32 bytes of codes and four of scales per row.
        unsafe {
            let to = out.add(unit * UNIT_BYTES);
            let at = to.add(operand::code_offset(row, 0));
            global::store_v4(at, [words[0], words[1], words[2], words[3]]);
            global::store_v4(at.add(LEADING_BYTES), [words[4], words[5], words[6], words[7]]);
            to.add(STEP_CODE_BYTES + operand::scale_offset(row, 0)).cast::<u32>().write(four);
        }
        index += thread::grid_dim_x() * THREADS;
    }
}
