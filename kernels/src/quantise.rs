//! Rows to the GEMMs' B operand by way of NVFP4: what [`crate::prepare_rows_nvfp4_bf16`] and
//! [`crate::prepare_rows_nvfp4_f32`] share.
//!
//! A row is quantised as by [`nvfp4::quantize`], bit for bit ([`crate::group`]), and stored as its products
//! `e2m1 * e4m3` in f16, with its global scale beside it.

use crate::group::{F32Group, Group, RowScale, quantize_group};
use crate::prepare_rows_bf16::store_f16_group;
use crate::row::block_max;
use crate::to_f16::{UNIT, block_products};
use cuda_std::atomic;
use cuda_std::prelude::*;
use nvfp4::quantize::{row_scale, tensor_scale_from_amax_bits};
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
                    // The last expert whose first row is not behind this one: experts without rows share the offset.
                    let (mut low, mut high) = (0, self.experts);
                    while low < high {
                        let middle = (low + high) / 2;
                        if *self.offsets.add(middle as usize) <= row {
                            low = middle + 1
                        } else {
                            high = middle
                        }
                    }
                    Some(*self.scale.add(low.saturating_sub(1) as usize))
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

    /// Whether saturated blocks are to be counted: under constant scales only.
    #[inline(always)]
    pub fn can_saturate(&self) -> bool {
        self.mode == CONSTANT || self.mode == PER_EXPERT
    }
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

/// Quantises one row and stores it. `load(g)` gives group `g` of `groups`. Returns the thread's saturated blocks.
///
/// # Safety
/// All threads of the block call it together, with the same arguments; as [`block_max`]; `b` and `b_scale` hold the row.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub unsafe fn quantise_row_block<G: Group>(
    load: impl Fn(u32) -> G,
    b: *mut u16,
    b_scale: *mut f32,
    row: u32,
    groups: u32,
    k_units: u32,
    source: &ScaleSource,
    buffer: u32,
) -> u32 {
    let (first, second) = (thread::thread_idx_x(), thread::thread_idx_x() + thread::block_dim_x());
    let all = k_units * (UNIT / BLOCK as u32);
    let get = |g: u32| if g < groups { load(g) } else { G::ZERO };
    let (p, q) = (get(first), get(second));
    let (amax_p, amax_q) = (p.amax_bits(), q.amax_bits());
    // SAFETY: all threads are here; the pointers have what the mode needs; the row exists.
    unsafe {
        let amax = block_max(amax_p.max(amax_q), buffer);
        let s2 = match source.constant(row) {
            Some(given) => row_scale(given, amax),
            None => tensor_scale_from_amax_bits(amax),
        };
        if first == 0 {
            b_scale.add(row as usize).write(s2);
        }
        let scale = RowScale::of(s2);
        let to = b.add(row as usize * (k_units * UNIT) as usize);
        let mut saturated = 0;
        if first < all {
            store_f16_group(
                to.add(first as usize * BLOCK),
                block_products(quantize_group(&p, amax_p, scale)),
            );
        }
        if second < all {
            store_f16_group(
                to.add(second as usize * BLOCK),
                block_products(quantize_group(&q, amax_q, scale)),
            );
        }
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
