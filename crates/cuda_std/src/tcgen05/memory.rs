//! Tensor memory: 128 lanes x 512 columns of 32-bit cells for a block. An address has the lane in bits 16-31, the column in
//! bits 0-15 (PTX ISA, Tensor Memory Addressing). A warp reaches the 32 lanes of its place in its aligned group of four.

use super::CtaGroup;
use crate::gpu_only;

/// Lanes that one warp reaches.
pub const WARP_LANES: u32 = 32;
/// Columns that a load takes at a time.
pub const GROUP_COLUMNS: u32 = 8;
/// Most columns of one call of [`load_rows`] and [`load_fragments`].
pub const LOAD_COLUMNS: u32 = 4 * GROUP_COLUMNS;

/// Address `lanes` further.
#[inline(always)]
pub const fn lane_offset(lanes: u32) -> u32 {
    lanes << 16
}

/// Whether columns can be allocated in this number.
#[cfg(target_arch = "nvptx64")]
const fn allocatable(columns: u32) -> bool {
    columns.is_power_of_two() && columns >= 32 && columns <= 512
}

/// Allocates `COLUMNS` columns, waiting until they are free, and writes their address to shared memory at `to`
/// (`tcgen05.alloc.cta_group.sync.aligned.shared::cta.b32`).
///
/// # Safety
/// The whole warp, in uniform control flow; of a pair, the same warp of both blocks; `to` is 4 bytes of shared memory,
/// the same in both; sm_100a. The columns are freed by [`deallocate`] before the block ends.
#[gpu_only]
#[inline(always)]
pub unsafe fn allocate<G: CtaGroup, const COLUMNS: u32>(to: u32) {
    const { assert!(allocatable(COLUMNS)) };
    // SAFETY: the caller's duty is the instruction's.
    unsafe {
        if G::PAIR {
            core::arch::asm!("tcgen05.alloc.cta_group::2.sync.aligned.shared::cta.b32 [{}], {};",
                in(reg32) to, const COLUMNS, options(nostack));
        } else {
            core::arch::asm!("tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [{}], {};",
                in(reg32) to, const COLUMNS, options(nostack));
        }
    }
}

/// Frees what [`allocate`] gave (`tcgen05.dealloc.cta_group.sync.aligned.b32`).
///
/// # Safety
/// As [`allocate`]; nobody uses the columns any more, in neither block of a pair.
#[gpu_only]
#[inline(always)]
pub unsafe fn deallocate<G: CtaGroup, const COLUMNS: u32>(address: u32) {
    const { assert!(allocatable(COLUMNS)) };
    // SAFETY: the caller's duty is the instruction's.
    unsafe {
        if G::PAIR {
            core::arch::asm!("tcgen05.dealloc.cta_group::2.sync.aligned.b32 {}, {};",
                in(reg32) address, const COLUMNS, options(nostack));
        } else {
            core::arch::asm!("tcgen05.dealloc.cta_group::1.sync.aligned.b32 {}, {};",
                in(reg32) address, const COLUMNS, options(nostack));
        }
    }
}

/// Loads of up to four groups of eight columns and the wait for them, as one statement: a register that a load fills must
/// not be read, so not be copied either, before the wait. `$load`: the loads of a group as `[predicate, registers..]`.
#[cfg(target_arch = "nvptx64")]
macro_rules! load_groups {
    ($address:ident, $columns:ident, $v:ident, $addresses:literal, [$($load:expr),*]) => {
        core::arch::asm!(
            "{{ .reg .pred p0, p1, p2, p3; .reg .b32 a<8>;",
            "setp.gt.u32 p0, {columns}, 0; setp.gt.u32 p1, {columns}, 8;",
            "setp.gt.u32 p2, {columns}, 16; setp.gt.u32 p3, {columns}, 24;",
            $addresses,
            $($load,)*
            "tcgen05.wait::ld.sync.aligned; }}",
            inout(reg32) $v[0], inout(reg32) $v[1], inout(reg32) $v[2], inout(reg32) $v[3],
            inout(reg32) $v[4], inout(reg32) $v[5], inout(reg32) $v[6], inout(reg32) $v[7],
            inout(reg32) $v[8], inout(reg32) $v[9], inout(reg32) $v[10], inout(reg32) $v[11],
            inout(reg32) $v[12], inout(reg32) $v[13], inout(reg32) $v[14], inout(reg32) $v[15],
            inout(reg32) $v[16], inout(reg32) $v[17], inout(reg32) $v[18], inout(reg32) $v[19],
            inout(reg32) $v[20], inout(reg32) $v[21], inout(reg32) $v[22], inout(reg32) $v[23],
            inout(reg32) $v[24], inout(reg32) $v[25], inout(reg32) $v[26], inout(reg32) $v[27],
            inout(reg32) $v[28], inout(reg32) $v[29], inout(reg32) $v[30], inout(reg32) $v[31],
            address = in(reg32) $address, columns = in(reg32) $columns, options(nostack))
    };
}

/// The lane's own row: columns 0..`columns` from `address` on in element `0..columns`, zeros behind; and waits
/// (`tcgen05.ld.sync.aligned.32x32b.x8.b32`, `tcgen05.wait::ld.sync.aligned`).
///
/// # Safety
/// The whole warp in uniform control flow, with the same arguments; `address` has the warp's first lane; `columns` is
/// below or at [`LOAD_COLUMNS`], a multiple of 8, and so many cells are complete, behind a
/// [`super::fence_after_thread_sync`]; sm_100a.
#[gpu_only]
#[inline(always)]
pub unsafe fn load_rows(address: u32, columns: u32) -> [u32; LOAD_COLUMNS as usize] {
    let mut v = [0u32; LOAD_COLUMNS as usize];
    // SAFETY: the caller's duty is the instructions'.
    unsafe {
        load_groups!(
            address,
            columns,
            v,
            "",
            [
                "@p0 tcgen05.ld.sync.aligned.32x32b.x8.b32 {{{0}, {1}, {2}, {3}, {4}, {5}, {6}, {7}}}, [{address}];",
                "@p1 tcgen05.ld.sync.aligned.32x32b.x8.b32 {{{8}, {9}, {10}, {11}, {12}, {13}, {14}, {15}}}, [{address} + 8];",
                "@p2 tcgen05.ld.sync.aligned.32x32b.x8.b32 {{{16}, {17}, {18}, {19}, {20}, {21}, {22}, {23}}}, [{address} + 16];",
                "@p3 tcgen05.ld.sync.aligned.32x32b.x8.b32 {{{24}, {25}, {26}, {27}, {28}, {29}, {30}, {31}}}, [{address} + 24];"
            ]
        );
    }
    v
}

/// 32 lanes as MMA fragments: with `g = lane / 4` and `t = lane % 4`, element `8 j + 2 r + c` is lane `g + 8 r`, column
/// `8 j + 2 t + c` (`j`, `r` below 4, `c` below 2). Columns from `columns` on are zeros; and waits
/// (`tcgen05.ld.sync.aligned.16x256b.x1.b32` twice for eight columns, `tcgen05.wait::ld.sync.aligned`).
///
/// # Safety
/// As [`load_rows`].
#[gpu_only]
#[inline(always)]
pub unsafe fn load_fragments(address: u32, columns: u32) -> [u32; LOAD_COLUMNS as usize] {
    let mut v = [0u32; LOAD_COLUMNS as usize];
    // SAFETY: the caller's duty is the instructions'.
    unsafe {
        load_groups!(
            address,
            columns,
            v,
            // The second 16 lanes.
            "add.u32 a0, {address}, 0x100000;",
            [
                "@p0 tcgen05.ld.sync.aligned.16x256b.x1.b32 {{{0}, {1}, {2}, {3}}}, [{address}];",
                "@p0 tcgen05.ld.sync.aligned.16x256b.x1.b32 {{{4}, {5}, {6}, {7}}}, [a0];",
                "@p1 tcgen05.ld.sync.aligned.16x256b.x1.b32 {{{8}, {9}, {10}, {11}}}, [{address} + 8];",
                "@p1 tcgen05.ld.sync.aligned.16x256b.x1.b32 {{{12}, {13}, {14}, {15}}}, [a0 + 8];",
                "@p2 tcgen05.ld.sync.aligned.16x256b.x1.b32 {{{16}, {17}, {18}, {19}}}, [{address} + 16];",
                "@p2 tcgen05.ld.sync.aligned.16x256b.x1.b32 {{{20}, {21}, {22}, {23}}}, [a0 + 16];",
                "@p3 tcgen05.ld.sync.aligned.16x256b.x1.b32 {{{24}, {25}, {26}, {27}}}, [{address} + 24];",
                "@p3 tcgen05.ld.sync.aligned.16x256b.x1.b32 {{{28}, {29}, {30}, {31}}}, [a0 + 24];"
            ]
        );
    }
    v
}

const _: () = assert!(lane_offset(16) == 0x10_0000);
