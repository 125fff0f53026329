//! Token rows into the order of [`crate::lines`], once in front of a GEMM by wgmma.
//!
//! A warp takes eight rows of an expert and some units: it reads 128 bytes of each of four rows at a time and writes whole
//! kilobytes. Memory-bound: reads and writes two bytes per element; rows of `b` that several experts take come from L2.

use crate::expert_list::{self, ExpertList};
use crate::fragment::UNIT_K;
use crate::launch::{Arch, Arg, Dims, Geometry, Launch, LaunchBounds};
use crate::lines::{self, UNIT_CHUNKS};
use cuda_std::grid;
use cuda_std::prelude::*;

/// Threads of a block.
const THREADS: u32 = 256;
/// Blocks of a multiprocessor.
const BLOCKS_PER_SM: u32 = 4;
/// Rows that a warp takes.
const ROWS: u32 = 8;
/// Rows that it reads at a time.
const AT_ONCE: u32 = 32 / UNIT_CHUNKS;
/// Units of a piece of work.
const UNITS: u32 = 16;
/// Units whose loads are in flight together.
const FLIGHT: usize = 4;
/// Shared memory: the list of experts.
pub const SHARED_BYTES: u32 = expert_list::BYTES;

const _: () = assert!(ROWS == 2 * AT_ONCE && UNITS.is_multiple_of(FLIGHT as u32));

/// Bounds of the kernel.
pub const BOUNDS: LaunchBounds = LaunchBounds::block(THREADS).min_ctas(BLOCKS_PER_SM);

/// Its row of the launch table.
pub const LAUNCH: Launch = Launch {
    name: "gather_lines",
    bounds: BOUNDS,
    shared_bytes: SHARED_BYTES,
    archs: &[Arch::Sm90a],
    geometry: Geometry::Fixed,
    args: &[
        Arg::input("b", "f16 [b_rows, 64 * k_units]; 16-byte aligned"),
        Arg::input("row_token", "u32 [rows]: row of b of each expert row; or null for the row itself"),
        Arg::input("offsets", "u32 [experts]: first row of each expert"),
        Arg::input("counts", "u32 [experts]: rows of each expert"),
        Arg::output("out", "f16 [rows, 64 * k_units]: lines::place; rows of no expert stay; 16-byte aligned"),
        Arg::u32("experts", "1 to 385"),
        Arg::u32("k_units", "units of 64 columns"),
    ],
};

/// Dimensions on a device of `sms` multiprocessors. Any grid from one block on is right.
pub const fn dims(sms: u32) -> Dims {
    Dims { grid: [sms * BLOCKS_PER_SM, 1, 1], block: BOUNDS.block, shared_bytes: SHARED_BYTES }
}

/// Gathers the rows of all experts; see [`LAUNCH`] for shapes and types.
///
/// # Safety
/// The buffers have the shapes and alignments of [`LAUNCH`] and are not written by others while the kernel runs.
#[kernel(bounds = BOUNDS)]
pub unsafe fn gather_lines(
    b: *const u16,
    row_token: *const u32,
    offsets: *const u32,
    counts: *const u32,
    out: *mut u16,
    experts: u32,
    k_units: u32,
) {
    let (warps, lane) = (THREADS / 32, warp::lane_id());
    // SAFETY: the whole block is here; the launch gives the shared memory; what is read and written lies in the buffers.
    unsafe {
        grid::wait_for_dependencies();
        grid::launch_dependents();
        // The same in all lanes, which the compiler can see.
        let warp = warp::uniform(thread::thread_idx_x() / 32);
        let list = ExpertList::<ROWS>(shared::dynamic());
        list.build_cta(counts, offsets, experts, warp, warps);
        thread::sync_threads();
        let [entries, groups] = list.totals();
        let pieces = k_units.div_ceil(UNITS);
        let mut piece = thread::block_idx_x() * warps + warp;
        while piece < groups * pieces {
            let (group, first_unit) = (piece / pieces, piece % pieces * UNITS);
            let entry = list.entry(list.find_warp(group, entries));
            let first = (entry.rows.div_ceil(ROWS) - (entry.end - group)) * ROWS;
            let chunk = lane % UNIT_CHUNKS;
            let rows = [first + lane / UNIT_CHUNKS, first + lane / UNIT_CHUNKS + AT_ONCE];
            let mut from = [b.cast::<u8>(); 2];
            let mut n = 0;
            while n < 2 {
                // Rows past the end are copies of the last one, and are not stored.
                let row = entry.first_row + rows[n].min(entry.rows - 1);
                let token = if row_token.is_null() { row } else { *row_token.add(row as usize) };
                let at = (token as usize * k_units as usize * UNIT_CHUNKS as usize + chunk as usize) * 16;
                from[n] = from[n].add(at);
                n += 1;
            }
            let end = (first_unit + UNITS).min(k_units);
            let mut unit = first_unit;
            while unit < end {
                let mut values = [[[0u32; 4]; 2]; FLIGHT];
                let mut u = 0;
                while u < FLIGHT {
                    let mut n = 0;
                    while n < 2 {
                        if unit + (u as u32) < end {
                            let at = (unit + u as u32) as usize * (2 * UNIT_K);
                            values[u][n] = global::load_v4(from[n].add(at));
                        }
                        n += 1;
                    }
                    u += 1;
                }
                u = 0;
                while u < FLIGHT {
                    let mut n = 0;
                    while n < 2 {
                        if unit + (u as u32) < end && rows[n] < entry.rows {
                            let place = lines::place(
                                entry.first_row,
                                entry.rows,
                                k_units,
                                rows[n],
                                unit + u as u32,
                                chunk,
                            );
                            global::store_v4(out.cast::<u8>().add(16 * place), values[u][n]);
                        }
                        n += 1;
                    }
                    u += 1;
                }
                unit += FLIGHT as u32;
            }
            piece += thread::grid_dim_x() * warps;
        }
    }
}
