//! One row of NVFP4 by one block of threads: a thread holds its groups of 16 in registers between the row's
//! maximum and the quantisation, so the input is read once.
//!
//! Group `g` of the row belongs to thread `g % block`, slot `g / block`. Neighbouring threads hold neighbouring
//! groups: their 8-byte stores of codes coalesce, and four neighbours share one 4-byte word of the 32_4_4 scale
//! layout, which one of them stores. The launch chooses the block size from the row's length ([`block_threads`]),
//! so that a short row wastes no threads and a long one fills two slots.

use cuda_std::prelude::*;
use nvfp4::quantize::{Block, row_scale, tensor_scale_from_amax_bits};
use nvfp4::{BLOCK, layout};

use crate::group::{Group, RowScale, quantize_group};

/// Most threads of a block.
pub const MAX_THREADS: u32 = 512;
/// Groups of 16 that a thread can hold.
pub const SLOTS: u32 = 2;
/// Longest row in elements.
pub const MAX_K: u32 = MAX_THREADS * SLOTS * BLOCK as u32;
/// Most warps of a block.
const MAX_WARPS: u32 = MAX_THREADS / 32;
/// Dynamic shared memory in bytes: two buffers of one word per warp (see [`block_max`]).
pub const SHARED_BYTES: u32 = 2 * MAX_WARPS * 4;

const _: () = {
    assert!(BLOCK == 16);
    assert!(MAX_K == 16384);
    // block_max reads the words of all warps by the lanes of one.
    assert!(MAX_WARPS <= 32);
    // Four neighbouring threads must hold one word of scales.
    assert!(layout::TILE_GROUPS == 4);
};

/// Threads of a block for rows of `k` elements whose groups are spread over `slots` (1 or 2) slots of a thread, in
/// whole warps, at most [`MAX_THREADS`]. One slot is quicker for few rows, two for many.
pub const fn block_threads(k: u32, slots: u32) -> u32 {
    let groups = k.div_ceil(BLOCK as u32);
    let warps = groups.div_ceil(32 * slots);
    let warps = if warps == 0 { 1 } else { warps };
    32 * if warps < MAX_WARPS { warps } else { MAX_WARPS }
}

/// Where a kernel writes its rows. Pointers to global memory.
#[derive(Clone, Copy)]
pub struct Output {
    /// E2M1 codes, `[rows, k/2]` bytes, low nibble = even k; 8-byte aligned.
    pub packed: *mut u8,
    /// E4M3 scales in the 32_4_4 layout of `[rows, k/16]`; 4-byte aligned.
    pub scales: *mut u8,
    /// Global scale per row, `[rows]`.
    pub row_scale: *mut f32,
}

/// The global scale of a row: the constant if there is one, else from the row's own maximum; NaN for a row with
/// NaN or infinity.
#[inline(always)]
pub fn global_scale(constant: Option<f32>, row_amax_bits: u32) -> f32 {
    match constant {
        Some(s2) => row_scale(s2, row_amax_bits),
        None => tensor_scale_from_amax_bits(row_amax_bits),
    }
}

/// Maximum of `value` over the block, in every thread. `buffer` alternates between 0 and 1 from call to call:
/// a thread can only write buffer `b` again after the barrier of the call in between, which every thread reaches
/// after its reads of `b`. So one barrier per call is enough.
///
/// # Safety
/// All threads of the block, in whole warps, call it together; the launch has [`SHARED_BYTES`] of dynamic shared
/// memory and at most [`MAX_THREADS`] threads.
#[inline(always)]
pub unsafe fn block_max(value: u32, buffer: u32) -> u32 {
    // SAFETY: the caller brings all threads; the addresses lie in the bytes that the launch gives.
    unsafe {
        let base = shared::dynamic() + buffer * (MAX_WARPS * 4);
        let lane = warp::lane_id();
        let in_warp = warp::reduce_max_u32(warp::FULL, value);
        if lane == 0 {
            shared::store_u32(base + thread::thread_idx_x() / 32 * 4, in_warp);
        }
        thread::sync_threads();
        let warps = thread::block_dim_x() / 32;
        let word = if lane < warps { shared::load_u32(base + lane * 4) } else { 0 };
        warp::reduce_max_u32(warp::FULL, word)
    }
}

/// What a kernel quantises.
pub trait Source {
    /// How a thread holds sixteen elements.
    type Group: Group;

    /// Group `g` of the row.
    ///
    /// # Safety
    /// The row has a group `g`.
    unsafe fn load(&self, g: u32) -> Self::Group;
}

/// Quantises one row of `groups` groups, at most [`SLOTS`] per thread.
///
/// # Safety
/// All threads of the block call it together, with the same arguments; as [`block_max`]; `out` holds the row.
#[inline(always)]
pub unsafe fn quantize_row<S: Source>(
    source: &S,
    out: Output,
    row: u32,
    groups: u32,
    constant: Option<f32>,
    buffer: u32,
) {
    let first = thread::thread_idx_x();
    let second = first + thread::block_dim_x();
    // SAFETY: the row has the groups.
    let (a, b) = unsafe {
        (
            if first < groups { source.load(first) } else { S::Group::ZERO },
            if second < groups { source.load(second) } else { S::Group::ZERO },
        )
    };
    let (amax_a, amax_b) = (a.amax_bits(), b.amax_bits());
    // SAFETY: all threads are here.
    let s2 = global_scale(constant, unsafe { block_max(amax_a.max(amax_b), buffer) });
    if first == 0 {
        // SAFETY: the caller vouches for the row.
        unsafe { out.row_scale.add(row as usize).write(s2) };
    }
    let scale = RowScale::of(s2);
    // SAFETY: the caller vouches for the row; whole warps are here, and the second condition is the block's.
    unsafe {
        store_group(out, row, first, groups, quantize_group(&a, amax_a, scale));
        if groups > thread::block_dim_x() {
            store_group(out, row, second, groups, quantize_group(&b, amax_b, scale));
        }
    }
}

/// Writes zero scales for a padding row (`row` between the row count and its multiple of 128).
///
/// # Safety
/// `out` holds the padded scales; all threads of the block call it together.
#[inline(always)]
pub unsafe fn zero_padding_row(out: Output, row: u32, groups: u32) {
    let words = groups.div_ceil(4);
    let mut w = thread::thread_idx_x();
    while w < words {
        let at = layout::sf_offset(row as usize, w as usize * 4, groups as usize);
        // SAFETY: inside the padded scales.
        unsafe { out.scales.add(at).cast::<u32>().write(0) };
        w += thread::block_dim_x();
    }
}

/// The scales of the groups of four neighbouring lanes, the first in the low byte, in each of the four.
///
/// # Safety
/// All threads of the warp call it together.
#[inline(always)]
pub unsafe fn scale_word(scale: u8) -> u32 {
    let mut word = u32::from(scale) << (8 * (warp::lane_id() & 3));
    // SAFETY: all lanes are here.
    unsafe {
        word |= warp::shuffle_xor(warp::FULL, word, 1);
        word |= warp::shuffle_xor(warp::FULL, word, 2);
    }
    word
}

/// Stores the codes of group `g` and, from every fourth thread, a word of four scales.
///
/// # Safety
/// All threads of the warp call it together, with consecutive `g`; `out` holds the row.
#[inline(always)]
unsafe fn store_group(out: Output, row: u32, g: u32, groups: u32, block: Block) {
    let lane = warp::lane_id();
    // SAFETY: all lanes are here. Groups past the end come with scale 0: the padding of the last word.
    let word = unsafe { scale_word(block.scale) };
    // SAFETY: the caller vouches for the row; `g` is bounded.
    unsafe {
        if g < groups {
            let at = row as usize * groups as usize + g as usize;
            out.packed.cast::<u64>().add(at).write(block.codes);
            if lane & 3 == 0 {
                let at = layout::sf_offset(row as usize, g as usize, groups as usize);
                out.scales.add(at).cast::<u32>().write(word);
            }
        }
    }
}
