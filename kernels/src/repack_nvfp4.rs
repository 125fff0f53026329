//! Weights from the checkpoint's row-major form into [`crate::fragment`] order, on the device, once at load.
//!
//! One warp per unit of 16 rows x 64 columns: a lane reads the 32 bytes of codes of its two rows (the four lanes of a
//! row group read the same sectors) and writes its 16 bytes. Memory-bound: reads and writes 0.5625 bytes per weight.

use crate::fragment::{CODE_BYTES, RowOrder, STEP_K, TILE_ROWS, UNIT_BYTES, UNIT_K, UNIT_STEPS, pack_word};
use crate::launch::{Arch, Arg, Dims, Geometry, Launch, LaunchBounds};
use cuda_std::prelude::*;

/// Threads of a block.
const THREADS: u32 = 256;
/// Blocks of a multiprocessor.
const BLOCKS_PER_SM: u32 = 8;
/// Bounds of the kernel.
pub const BOUNDS: LaunchBounds = LaunchBounds::block(THREADS);

/// Its row of the launch table.
pub const LAUNCH: Launch = Launch {
    name: "repack_nvfp4",
    bounds: BOUNDS,
    shared_bytes: 0,
    archs: &Arch::ALL,
    geometry: Geometry::Fixed,
    args: &[
        Arg::input("packed", "u8 [features, k/2]: E2M1 codes, low nibble = even k; 8-byte aligned"),
        Arg::input("scales", "u8 [features, k/16]: E4M3"),
        Arg::input("up_packed", "the same for up, interleaved with `packed` as gate; or null"),
        Arg::input("up_scales", "the same for up; null with `up_packed`"),
        Arg::output("out", "u8 [fragment::matrix_bytes]: fragment order, padding zero; 16-byte aligned"),
        Arg::u32("features", "rows of each source, at least 1"),
        Arg::u32("k", "columns: a multiple of 16, at least 16"),
    ],
};

/// Dimensions for one matrix of `features` rows and `k` columns on a device of `sms` multiprocessors. Any grid from
/// one block on is right.
pub const fn dims(order: RowOrder, features: u32, k: u32, sms: u32) -> Dims {
    let units = order.row_tiles(features as usize) as u32 * k.div_ceil(UNIT_K as u32);
    let work = units.div_ceil(THREADS / 32);
    let most = sms * BLOCKS_PER_SM;
    Dims { grid: [if work < most { work } else { most }, 1, 1], block: BOUNDS.block, shared_bytes: 0 }
}

/// Repacks one matrix, or gate and up; see [`LAUNCH`] for shapes and types. Every byte of `out` is written.
///
/// # Safety
/// The buffers have the shapes and alignments of [`LAUNCH`] and are not written by others while the kernel runs.
#[kernel(bounds = BOUNDS)]
#[allow(clippy::too_many_arguments)]
pub unsafe fn repack_nvfp4(
    packed: *const u8,
    scales: *const u8,
    up_packed: *const u8,
    up_scales: *const u8,
    out: *mut u8,
    features: u32,
    k: u32,
) {
    let (features, k) = (features as usize, k as usize);
    let order = if up_packed.is_null() { RowOrder::Plain } else { RowOrder::GateUp };
    let k_units = k.div_ceil(UNIT_K);
    let units = (order.row_tiles(features) * k_units) as u32;
    let lane = warp::lane_id() as usize;
    let (row, t) = (lane / 4, lane % 4);
    let mut unit = thread::index_1d() / 32;
    while unit < units {
        let (tile, column) = (unit as usize / k_units, unit as usize % k_units * UNIT_K);
        // The words of the unit's steps, and the scales of step `t`: each of row `row` and of row `row + 8`.
        let mut words = [[0u8; 8]; UNIT_STEPS];
        let mut pair = 0u16;
        let mut half = 0;
        while half < 2 {
            let (is_up, feature) = order.source(tile, row + half * (TILE_ROWS / 2));
            if feature < features {
                let (codes, scale) = if is_up { (up_packed, up_scales) } else { (packed, scales) };
                let mut step = 0;
                while step < UNIT_STEPS {
                    let first = column + step * STEP_K;
                    if first < k {
                        // SAFETY: sixteen codes inside the matrix; k is a multiple of 16, so 8-byte aligned.
                        let group = unsafe { *codes.add((feature * k + first) / 2).cast::<u64>() };
                        // Columns 2t, 2t+1 and 2t+8, 2t+9.
                        let (low, high) = ((group >> (8 * t)) as u8, (group >> (8 * t + 32)) as u8);
                        words[step][2 * half] = low & 15;
                        words[step][2 * half + 1] = low >> 4;
                        words[step][2 * half + 4] = high & 15;
                        words[step][2 * half + 5] = high >> 4;
                    }
                    step += 1;
                }
                if column + t * STEP_K < k {
                    // SAFETY: inside the scales.
                    let byte = unsafe { *scale.add((feature * k + column) / STEP_K + t) };
                    pair |= u16::from(byte) << (8 * half);
                }
            }
            half += 1;
        }
        // SAFETY: the unit is inside `out`; 16 bytes of codes and two of scales per lane.
        unsafe {
            let at = out.add(unit as usize * UNIT_BYTES);
            let words = [pack_word(words[0]), pack_word(words[1]), pack_word(words[2]), pack_word(words[3])];
            global::store_v4(at.add(16 * lane), words);
            *at.add(CODE_BYTES + 2 * lane).cast::<u16>() = pair;
        }
        unit += thread::grid_dim_x() * (THREADS / 32);
    }
}
