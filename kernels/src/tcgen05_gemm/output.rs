//! What becomes of accumulators: the scaled sums or SwiGLU in f32, or SwiGLU quantised to the operand of the next product.

use cuda_std::prelude::*;
use cuda_std::tcgen05::memory::{LOAD_COLUMNS, load_fragments, load_rows};
use cuda_std::{atomic, global};
use nvfp4::BLOCK;
use nvfp4::quantize::NON_FINITE_BITS;

use super::layout::{CHUNK, CHUNK_PITCH};
use super::tiles::Tile;
use crate::epilogue;
use crate::group::{F32Group, Group, RowScale, quantize_group};
use crate::operand::{
    BLOCK_ROWS, GATE_UP_FEATURES, ROW_STEP_BYTES, STEP_CODE_BYTES, STEP_SCALE_BYTES, code_offset,
    scale_offset,
};
use crate::quantise::saturates;

/// A chunk of accumulators as one lane of a warp sees it: the warp's 32 rows of weights by up to 32 tokens.
#[derive(Clone, Copy)]
pub struct Chunk {
    /// Address of the warp's lanes and the first token's column in tensor memory.
    pub tensor: u32,
    /// Columns of the tile from there on, a multiple of 8: maybe more than the chunk's.
    pub columns: u32,
    /// Shared address of the warp's staging area.
    pub staging: u32,
    /// Row of the first token in the operands.
    pub first_row: u32,
    /// Tokens of the tile from there on.
    pub rows: u32,
    /// Scale of the row of the chunk's token `lane`, 0 if there is none.
    pub scale: f32,
    /// The expert's alphas.
    pub alphas: [f32; 2],
    /// The expert.
    pub expert: u32,
    /// Row block of the weights.
    pub block: u32,
    /// First row block that is computed.
    pub first_block: u32,
    /// Number of the warp.
    pub warp: u32,
}

impl Chunk {
    /// Columns to load.
    #[inline(always)]
    fn load_columns(&self) -> u32 {
        self.columns.min(LOAD_COLUMNS)
    }

    /// The scale of token `token` of the chunk.
    ///
    /// # Safety
    /// The whole warp.
    #[inline(always)]
    unsafe fn scale_of(&self, token: u32) -> f32 {
        // SAFETY: the caller's duty.
        f32::from_bits(unsafe { warp::shuffle_idx(warp::FULL, self.scale.to_bits(), token) })
    }
}

/// A kind of output.
pub trait Output {
    /// Alpha and alpha_up of an expert; equal where there is one.
    ///
    /// # Safety
    /// The expert exists.
    unsafe fn alphas(&self, expert: u32) -> [f32; 2];

    /// Before the first chunk of a tile.
    ///
    /// # Safety
    /// The whole warp; accumulators are complete.
    #[inline(always)]
    unsafe fn begin(&self, tile: Tile) {
        let _ = tile;
    }

    /// Behind the last chunk of a tile.
    ///
    /// # Safety
    /// The whole warp, with a warp barrier since the last chunk.
    #[inline(always)]
    unsafe fn end(&self, tile: Tile) {
        let _ = tile;
    }

    /// Computes the chunk's results and stores those of tokens that exist.
    ///
    /// # Safety
    /// The whole warp, with a warp barrier since the chunk before; accumulators are complete; the output holds the rows.
    unsafe fn store(&self, chunk: Chunk);
}

/// An f32 matrix of results.
#[derive(Clone, Copy)]
pub struct Target {
    /// `[rows][stride]`; column 0 is the first feature of the first row block.
    pub out: *mut f32,
    /// Elements from row to row.
    pub stride: u32,
    /// Features at or past this one are not stored.
    pub features: u32,
}

impl Target {
    /// Where the chunk's first token has the feature that is `feature` behind the first of row blocks of `each`.
    #[inline(always)]
    fn at(&self, chunk: &Chunk, each: u32, feature: u32) -> *mut f32 {
        let column = (chunk.block - chunk.first_block) * each + feature;
        self.out.wrapping_add(chunk.first_row as usize * self.stride as usize + column as usize)
    }
}

/// Global scales of gate and up.
#[derive(Clone, Copy)]
pub struct Alphas {
    /// f32 `[experts]`.
    pub gate: *const f32,
    /// f32 `[experts]`; equal to `gate` where there is one.
    pub up: *const f32,
}

impl Alphas {
    /// # Safety
    /// As [`Output::alphas`].
    #[inline(always)]
    unsafe fn of(&self, expert: u32) -> [f32; 2] {
        // SAFETY: the caller's duty.
        unsafe { [*self.gate.add(expert as usize), *self.up.add(expert as usize)] }
    }
}

/// The scaled sums in f32: a lane has one feature, so that a store is 128 bytes of one row.
pub struct PlainF32 {
    /// Where to.
    pub target: Target,
    /// Global scales.
    pub alphas: Alphas,
}

impl Output for PlainF32 {
    #[inline(always)]
    unsafe fn alphas(&self, expert: u32) -> [f32; 2] {
        // SAFETY: the caller's duty.
        unsafe { self.alphas.of(expert) }
    }

    #[inline(always)]
    unsafe fn store(&self, chunk: Chunk) {
        // SAFETY: the caller's duty.
        let sums = unsafe { load_rows(chunk.tensor, chunk.load_columns()) };
        let row = 32 * chunk.warp + warp::lane_id();
        let wanted = chunk.block * (BLOCK_ROWS as u32) + row < self.target.features;
        let mut to = self.target.at(&chunk, BLOCK_ROWS as u32, row);
        let mut token = 0;
        while token < CHUNK {
            // SAFETY: the whole warp is here; the output holds the token and the feature.
            unsafe {
                let scale = chunk.scale_of(token);
                let sum = f32::from_bits(sums[token as usize]);
                if wanted && token < chunk.rows {
                    to.write(epilogue::scaled(sum, scale, chunk.alphas[0], true));
                }
            }
            to = to.wrapping_add(self.target.stride as usize);
            token += 1;
        }
    }
}

/// Results of SwiGLU that a lane has of a chunk.
const LANE_RESULTS: usize = 16;

/// SwiGLU of a chunk: with `g = lane / 4` and `t = lane % 4`, element `4 j + 2 c + f` is token `8 j + 2 t + c`, feature
/// `2 g + f` of the warp's 16 ([`crate::operand::BlockOrder::GateUp`]).
///
/// # Safety
/// As [`Output::store`].
#[inline(always)]
unsafe fn swiglu(chunk: &Chunk, limit: f32) -> [f32; LANE_RESULTS] {
    // SAFETY: the caller's duty.
    let sums = unsafe { load_fragments(chunk.tensor, chunk.load_columns()) };
    let t = warp::lane_id() % 4;
    let (mut gate, mut up, mut scale) = ([0.0; LANE_RESULTS], [0.0; LANE_RESULTS], [0.0; LANE_RESULTS]);
    let mut j = 0;
    while j < 4 {
        let mut c = 0;
        while c < 2 {
            // SAFETY: the whole warp is here.
            let of_token = unsafe { chunk.scale_of(8 * j as u32 + 2 * t + c as u32) };
            let mut f = 0;
            while f < 2 {
                let element = 4 * j + 2 * c + f;
                gate[element] = f32::from_bits(sums[8 * j + 4 * f + c]);
                up[element] = f32::from_bits(sums[8 * j + 4 * f + 2 + c]);
                scale[element] = of_token;
                f += 1;
            }
            c += 1;
        }
        j += 1;
    }
    epilogue::swiglu(gate, up, scale, chunk.alphas[0], chunk.alphas[1], true, limit)
}

/// `swiglu(gate, up)` in f32: the lanes of a store have 16 features of four rows.
pub struct SwigluF32 {
    /// Where to.
    pub target: Target,
    /// Global scales.
    pub alphas: Alphas,
    /// Clamp.
    pub limit: f32,
}

impl Output for SwigluF32 {
    #[inline(always)]
    unsafe fn alphas(&self, expert: u32) -> [f32; 2] {
        // SAFETY: the caller's duty.
        unsafe { self.alphas.of(expert) }
    }

    #[inline(always)]
    unsafe fn store(&self, chunk: Chunk) {
        // SAFETY: the caller's duty.
        let h = unsafe { swiglu(&chunk, self.limit) };
        let (g, t) = (warp::lane_id() / 4, warp::lane_id() % 4);
        let feature = 16 * chunk.warp + 2 * g;
        let all = chunk.block * (GATE_UP_FEATURES as u32) + feature;
        let left = self.target.features.saturating_sub(all);
        let from = self.target.at(&chunk, GATE_UP_FEATURES as u32, feature);
        let mut i = 0;
        while i < LANE_RESULTS / 2 {
            let token = 8 * (i as u32 / 2) + 2 * t + i as u32 % 2;
            let to = from.wrapping_add(token as usize * self.target.stride as usize);
            let pair = [h[2 * i], h[2 * i + 1]];
            if token < chunk.rows {
                // SAFETY: the output holds the token and as many features.
                unsafe {
                    if left >= 2 && (to as usize).is_multiple_of(8) {
                        global::store_v2(to, pair.map(f32::to_bits));
                    } else {
                        if left >= 1 {
                            to.write(pair[0]);
                        }
                        if left >= 2 {
                            to.add(1).write(pair[1]);
                        }
                    }
                }
            }
            i += 1;
        }
    }
}

/// Rows that the quantised operand has behind an expert's last one: up to a multiple of this they are zeros, whatever the
/// form, so that every form can multiply them.
pub const PADDED_ROWS: u32 = 16;

/// `swiglu(gate, up)` quantised under a constant scale per expert, as the next product's operand of tokens: a block of
/// weights is a step of it, and a warp's 16 features are a block of NVFP4. A lane quantises one token's.
pub struct SwigluNvfp4 {
    /// Codes `[row blocks][steps][4096]`.
    pub codes: *mut u8,
    /// Scales `[row blocks][steps][512]`.
    pub scales: *mut u8,
    /// f32 `[rows]`: a row that is not finite gets NaN, others stay.
    pub row_scale: *mut f32,
    /// f32 `[experts]`.
    pub constant: *const f32,
    /// Steps of the operand.
    pub steps: u32,
    /// Counter of blocks whose scale is clamped, or null.
    pub saturated: *mut u32,
    /// Global scales.
    pub alphas: Alphas,
    /// Clamp.
    pub limit: f32,
}

impl Output for SwigluNvfp4 {
    #[inline(always)]
    unsafe fn alphas(&self, expert: u32) -> [f32; 2] {
        // SAFETY: the caller's duty.
        unsafe { self.alphas.of(expert) }
    }

    #[inline(always)]
    unsafe fn store(&self, chunk: Chunk) {
        // SAFETY: the caller's duty; the expert has a constant.
        let (h, constant) =
            unsafe { (swiglu(&chunk, self.limit), *self.constant.add(chunk.expert as usize)) };
        let token = warp::lane_id();
        // SAFETY: the warp's own staging area; what a lane reads others have written before the barrier.
        let group = unsafe { transposed(chunk.staging, h) };
        let amax = group.amax_bits();
        let block = quantize_group(&group, amax, RowScale::of(constant));
        let (is_row, is_stored) = (token < chunk.rows, token < chunk.rows.next_multiple_of(PADDED_ROWS));
        let row = (chunk.first_row + token) as usize;
        let at = row / BLOCK_ROWS * self.steps as usize + chunk.block as usize;
        let (row_in_block, group_in_step) = (row % BLOCK_ROWS, chunk.warp as usize);
        if is_stored {
            let codes = self
                .codes
                .wrapping_add(at * STEP_CODE_BYTES + code_offset(row_in_block, BLOCK * group_in_step));
            let scale =
                self.scales.wrapping_add(at * STEP_SCALE_BYTES + scale_offset(row_in_block, group_in_step));
            // SAFETY: the operand holds the row and the step.
            unsafe {
                global::store_v2(codes, [block.codes as u32, (block.codes >> 32) as u32]);
                scale.write(block.scale);
            }
        }
        if is_row && amax >= NON_FINITE_BITS {
            // SAFETY: an element per row; whoever finds the row not finite stores the same.
            unsafe { atomic::store_u32(self.row_scale.add(row).cast(), f32::NAN.to_bits()) };
        }
        if !self.saturated.is_null() {
            let count = u32::from(is_row && amax < NON_FINITE_BITS && saturates(amax, constant));
            // SAFETY: the whole warp is here.
            let sum = unsafe { warp::reduce_add_u32(warp::FULL, count) };
            if sum != 0 && token == 0 {
                // SAFETY: a counter, by the caller's duty.
                unsafe { atomic::add_u32(self.saturated, sum) };
            }
        }
    }
}

/// From a lane's results by fragment to all 16 features of the token that has the lane's number, through shared memory.
///
/// # Safety
/// The whole warp, with a warp barrier since the chunk before; its own staging area.
#[inline(always)]
unsafe fn transposed(staging: u32, h: [f32; LANE_RESULTS]) -> F32Group {
    let (g, t) = (warp::lane_id() / 4, warp::lane_id() % 4);
    let to = staging + 2 * t * CHUNK_PITCH + 8 * g;
    let mut values = [0.0; BLOCK];
    // SAFETY: inside the staging area; barriers between other lanes' accesses.
    unsafe {
        let mut i = 0;
        while i < LANE_RESULTS / 2 {
            let token = 8 * (i as u32 / 2) + i as u32 % 2;
            shared::store_v2(to + token * CHUNK_PITCH, [h[2 * i].to_bits(), h[2 * i + 1].to_bits()]);
            i += 1;
        }
        warp::sync_warp(warp::FULL);
        let mut i = 0;
        while i < BLOCK / 4 {
            let words = shared::load_v4(staging + warp::lane_id() * CHUNK_PITCH + 16 * i as u32);
            let mut j = 0;
            while j < 4 {
                values[4 * i + j] = f32::from_bits(words[j]);
                j += 1;
            }
            i += 1;
        }
    }
    F32Group(values)
}

const _: () = {
    assert!(LANE_RESULTS * 32 == CHUNK as usize * BLOCK && CHUNK == LOAD_COLUMNS);
    assert!(BLOCK * 4 == GATE_UP_FEATURES && ROW_STEP_BYTES == 2 * BLOCK);
    assert!(CHUNK.is_multiple_of(PADDED_ROWS));
};
