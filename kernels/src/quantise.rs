//! Rows to the GEMMs' B operand by way of NVFP4: what [`crate::prepare_rows_nvfp4_bf16`],
//! [`crate::prepare_rows_nvfp4_f32`], [`crate::quantise_blocks_bf16`] and [`crate::quantise_blocks_f32`] share.
//!
//! A row is quantised as by [`nvfp4::quantize`], bit for bit ([`crate::group`]), and stored with its global scale beside
//! it: where and in what form says a [`Target`]. [`F16Rows`] are products `e2m1 * e4m3`, for tensor cores that know no
//! E2M1; [`BlockRows`](crate::block_rows::BlockRows) are codes and scales, for those that do.

use crate::group::{F32Group, Group, RowScale, quantize_group};
use crate::prepare_rows_bf16::store_f16_group;
use crate::row::block_max;
use crate::slots::NONE;
use crate::to_f16::{UNIT, block_products};
use cuda_std::atomic;
use cuda_std::prelude::*;
use nvfp4::quantize::{Block, row_scale, tensor_scale_from_amax_bits};
use nvfp4::{BLOCK, e4m3};

/// `mode` of a kernel: the row's own maximum / 2688.
pub const ROW: u32 = 0;
/// `mode`: the constant `scale[0]`.
pub const CONSTANT: u32 = 1;
/// `mode`: the constant `scale[e]` of the row's expert.
pub const PER_EXPERT: u32 = 2;
/// `mode`: `scale[0]`, bits of a maximum, / 2688.
pub const TENSOR: u32 = 3;
/// `mode`: the same, and `scale[1]` for the rows of the last expert, the shared one.
pub const TENSOR_SHARED: u32 = 4;

/// Where global scales come from.
#[derive(Clone, Copy)]
pub struct ScaleSource {
    /// One of the modes above.
    pub mode: u32,
    /// f32, or bits of f32 maxima; unused by [`ROW`].
    pub scale: *const f32,
    /// First row of each of `experts` experts, for the modes with experts.
    pub offsets: *const u32,
    /// Experts, the shared one included.
    pub experts: u32,
}

impl ScaleSource {
    /// The constant of a row, or none.
    ///
    /// # Safety
    /// The pointers have what the mode needs.
    #[inline(always)]
    unsafe fn constant(&self, row: u32) -> Option<f32> {
        // SAFETY: the caller's duty.
        unsafe {
            match self.mode {
                CONSTANT => Some(*self.scale),
                PER_EXPERT => {
                    let expert = expert_of(self.offsets, self.experts, row);
                    Some(*self.scale.add(expert as usize))
                }
                TENSOR => Some(tensor_scale_from_amax_bits((*self.scale).to_bits())),
                TENSOR_SHARED => {
                    let is_shared = row >= *self.offsets.add(self.experts as usize - 1);
                    Some(tensor_scale_from_amax_bits((*self.scale.add(usize::from(is_shared))).to_bits()))
                }
                _ => None,
            }
        }
    }

    /// The global scale of a row whose largest magnitude has the bits `amax`; NaN if that is not finite.
    ///
    /// # Safety
    /// The pointers have what the mode needs.
    #[inline(always)]
    pub unsafe fn scale(&self, row: u32, amax: u32) -> f32 {
        // SAFETY: the caller's duty.
        match unsafe { self.constant(row) } {
            Some(given) => row_scale(given, amax),
            None => tensor_scale_from_amax_bits(amax),
        }
    }

    /// Whether saturated blocks are to be counted: under constant scales only.
    #[inline(always)]
    pub fn can_saturate(&self) -> bool {
        self.mode == CONSTANT || self.mode == PER_EXPERT
    }
}

/// The last of `experts` experts whose first row is not behind `row`: experts without rows share the offset.
///
/// # Safety
/// `offsets` has an element per expert.
#[inline(always)]
pub unsafe fn expert_of(offsets: *const u32, experts: u32, row: u32) -> u32 {
    let (mut low, mut high) = (0, experts);
    while low < high {
        let middle = (low + high) / 2;
        // SAFETY: below `experts`.
        if unsafe { *offsets.add(middle as usize) } <= row { low = middle + 1 } else { high = middle }
    }
    low.saturating_sub(1)
}

/// Whether a block of largest magnitude `amax` needs a scale above E4M3's largest under the global scale `s2`.
#[inline(always)]
pub fn saturates(amax: u32, s2: f32) -> bool {
    // False for NaN, the scale of a row that is not finite.
    amax != 0 && f32::from_bits(amax) / (6.0 * s2) > e4m3::MAX
}

/// Sixteen f32 from `p`.
///
/// # Safety
/// `p` is 16-byte aligned and 64 bytes there are readable.
#[inline(always)]
pub unsafe fn load_f32_group(p: *const f32) -> F32Group {
    let mut v = [0.0; BLOCK];
    let mut j = 0;
    while j < BLOCK {
        // SAFETY: inside the caller's 64 bytes. Not through the read-only path: another kernel may be writing the rows
        // when this one starts.
        let w = unsafe { global::load_v4(p.add(j)) };
        v[j] = f32::from_bits(w[0]);
        v[j + 1] = f32::from_bits(w[1]);
        v[j + 2] = f32::from_bits(w[2]);
        v[j + 3] = f32::from_bits(w[3]);
        j += 4;
    }
    F32Group(v)
}

/// Where quantised rows go, and in what form.
pub trait Target {
    /// Rows come in groups of so many: those behind the last row of a group that has rows are padding, which
    /// [`store_zeros`](Self::store_zeros) writes; 1 without padding.
    const GROUP_ROWS: u32;

    /// Groups of 16 of a row, padding included: a multiple of 4.
    fn groups(&self) -> u32;

    /// Stores what belongs to a row once: its global scale. One thread calls it.
    ///
    /// # Safety
    /// The row exists.
    unsafe fn store_scale(&self, row: u32, s2: f32);

    /// Stores group `g` of a row, nothing from [`groups`](Self::groups) on.
    ///
    /// # Safety
    /// All threads of the warp call it together, with consecutive `g`, a multiple of 32 the first; the row exists.
    unsafe fn store(&self, row: u32, g: u32, block: Block);

    /// Stores zeros as group `g` of a padding row, nothing from [`groups`](Self::groups) on; never called without padding.
    ///
    /// # Safety
    /// The row exists.
    unsafe fn store_zeros(&self, row: u32, g: u32);
}

/// Rows of products `e2m1 * e4m3` in f16.
#[derive(Clone, Copy)]
pub struct F16Rows {
    /// f16 `[rows, 64 * k_units]`, 16-byte aligned.
    pub b: *mut u16,
    /// f32 `[rows]`.
    pub b_scale: *mut f32,
    /// Units of 64 columns.
    pub k_units: u32,
}

impl Target for F16Rows {
    const GROUP_ROWS: u32 = 1;

    #[inline(always)]
    fn groups(&self) -> u32 {
        self.k_units * (UNIT / BLOCK as u32)
    }

    #[inline(always)]
    unsafe fn store_scale(&self, row: u32, s2: f32) {
        // SAFETY: the caller's row.
        unsafe { self.b_scale.add(row as usize).write(s2) };
    }

    #[inline(always)]
    unsafe fn store(&self, row: u32, g: u32, block: Block) {
        if g < self.groups() {
            // SAFETY: the caller's row, a group of it.
            unsafe {
                let to = self.b.add(row as usize * (self.k_units * UNIT) as usize);
                store_f16_group(to.add(g as usize * BLOCK), block_products(block));
            }
        }
    }

    #[inline(always)]
    unsafe fn store_zeros(&self, _: u32, _: u32) {}
}

/// The rows that a kernel quantises.
#[derive(Clone, Copy)]
pub struct Rows {
    /// u32 `[rows]`: what each row is made from; [`NONE`] for a row that is none. Null: the row itself.
    pub row_token: *const u32,
    /// Rows.
    pub rows: u32,
    /// Rows that the buffers hold.
    pub max_rows: u32,
    /// Groups of 16 of a row.
    pub groups: u32,
}

impl Rows {
    /// What a row below `max_rows` is made from, or [`NONE`].
    ///
    /// # Safety
    /// `row_token` is null or has a word per row.
    #[inline(always)]
    unsafe fn token(&self, row: u32) -> u32 {
        if !self.row_token.is_null() {
            // SAFETY: the caller's.
            unsafe { *self.row_token.add(row as usize) }
        } else if row < self.rows {
            row
        } else {
            NONE
        }
    }
}

/// Quantises the rows, a block of threads at a time. `load(row, token, g)` gives group `g` of a row. `saturated` counts
/// the blocks that constant scales saturate, unless it is null.
///
/// # Safety
/// All threads of the grid call it, each block in whole warps; as [`block_max`]; the buffers hold `max_rows` rows, a
/// multiple of [`Target::GROUP_ROWS`].
#[inline(always)]
pub unsafe fn quantise_rows<G: Group, T: Target>(
    rows: Rows,
    target: &T,
    source: &ScaleSource,
    saturated: *mut u32,
    load: impl Fn(u32, u32, u32) -> G,
) {
    let end = (rows.rows.next_multiple_of(T::GROUP_ROWS)).min(rows.max_rows);
    let mut row = thread::block_idx_x();
    let (mut buffer, mut count) = (0, 0);
    // SAFETY: the rows exist; conditions are the block's, so all its threads are here.
    unsafe {
        while row < end {
            let token = rows.token(row);
            if token != NONE {
                let of_row = |g| load(row, token, g);
                count += quantise_row(of_row, target, row, rows.groups, source, buffer);
                buffer ^= 1;
            } else if T::GROUP_ROWS != 1 && rows.token(row - row % T::GROUP_ROWS) != NONE {
                pad_row(target, row);
            }
            row += thread::grid_dim_x();
        }
        if source.can_saturate() {
            add_warp(saturated, count);
        }
    }
}

/// Writes a row of zeros, its scales too.
///
/// # Safety
/// All threads of the block call it together; the target holds the row.
#[inline(always)]
pub unsafe fn pad_row<T: Target>(target: &T, row: u32) {
    let first = thread::thread_idx_x();
    // SAFETY: the caller's.
    unsafe {
        if first == 0 {
            target.store_scale(row, 0.0);
        }
        target.store_zeros(row, first);
        target.store_zeros(row, first + thread::block_dim_x());
    }
}

/// Quantises one row and stores it. `load(g)` gives group `g` of `groups`. Returns the thread's saturated blocks.
///
/// # Safety
/// All threads of the block call it together, with the same arguments; as [`block_max`]; the target holds the row.
#[inline(always)]
unsafe fn quantise_row<G: Group, T: Target>(
    load: impl Fn(u32) -> G,
    target: &T,
    row: u32,
    groups: u32,
    source: &ScaleSource,
    buffer: u32,
) -> u32 {
    let (first, second) = (thread::thread_idx_x(), thread::thread_idx_x() + thread::block_dim_x());
    let get = |g: u32| if g < groups { load(g) } else { G::ZERO };
    let (p, q) = (get(first), get(second));
    let (amax_p, amax_q) = (p.amax_bits(), q.amax_bits());
    // SAFETY: all threads are here; the pointers have what the mode needs; the row exists.
    unsafe {
        let amax = block_max(amax_p.max(amax_q), buffer);
        let s2 = source.scale(row, amax);
        // `store` may have a collective, and its lanes ask for their place behind it.
        if opaque(first == 0) {
            target.store_scale(row, s2);
        }
        let scale = RowScale::of(s2);
        target.store(row, first, quantize_group(&p, amax_p, scale));
        target.store(row, second, quantize_group(&q, amax_q, scale));
        let mut saturated = 0;
        if source.can_saturate() {
            saturated = u32::from(saturates(amax_p, s2)) + u32::from(saturates(amax_q, s2));
        }
        saturated
    }
}

/// Adds the warp's sum of `count` to `*counter`, unless that is null.
///
/// # Safety
/// All lanes of the warp call it together; `counter` is null or a u32 that others only use by atomic operations.
#[inline(always)]
pub unsafe fn add_warp(counter: *mut u32, count: u32) {
    // SAFETY: the caller's duty.
    unsafe {
        let sum = warp::reduce_add_u32(warp::FULL, count);
        if sum != 0 && !counter.is_null() && warp::lane_id() == 0 {
            atomic::add_u32(counter, sum);
        }
    }
}
