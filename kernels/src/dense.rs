//! Linear maps with bf16 or FP8 weights, for shared experts: what the entries `dense_*` share.
//!
//! A block computes 64 features x 64 tokens: weights are the M side of `mma.sync.m16n8k16`, tokens the N side; a warp has
//! 16 features and all 64 tokens. Tiles of 64 columns of K come by `cp.async` into a ring of [`STAGES`]. Inside a k16
//! step lane `t` of four takes columns `4t..4t+4` of both operands, which is a permutation of K that the sum of a step
//! does not see, and makes a fragment one 8-byte load (4-byte for FP8).
//!
//! # Order of the sums
//! bf16: one chain over the k16 steps of K in ascending order. FP8: one such chain from 0 for each 128 columns, then
//! `total + chain * scale` in f32, blocks in ascending order; the operands are exact in f16 (`e4m3` as it is, the row
//! under its power of two, see [`crate::to_f16`]), and the row's scale multiplies the total. Nothing else decides, so a
//! token alone has the bits that it has in a batch.
//!
//! # Budget
//! Per k16 step a warp loads 2 + 8 fragments for 8 (SwiGLU: 3 + 8 for 16) MMAs. DeepSeek-V4-Pro's shared expert, 3072 x
//! 7168 twice and once the other way, is 132 MB in bf16: 29 us at 4.5 TB/s; 8192 tokens are 1.08 PFLOP, 1.5 ms at 700
//! TFLOP/s.

use crate::silu::swiglu_array;
use cuda_std::half::{bf16x2_from_f32, f16x2_from_e4m3x2_high, f16x2_from_e4m3x2_low};
use cuda_std::prelude::*;
use cuda_std::{cp_async, mma};

/// Threads of a block.
pub const THREADS: u32 = 128;
/// Features of a block.
pub const FEATURES: u32 = 64;
/// Tokens of a block.
pub const TOKENS: u32 = 64;
/// Columns of K of a tile.
pub const TILE_K: u32 = 64;
/// Tiles in the ring.
pub const STAGES: u32 = 3;
/// Rows and columns of an FP8 weight that share a scale.
pub const FP8_BLOCK: u32 = 128;
/// Groups of 8 tokens.
const GROUPS: usize = (TOKENS / 8) as usize;
/// k16 steps of a tile.
const STEPS: u32 = TILE_K / 16;
/// Bytes from row to row of a 16-bit tile: 8-byte loads of 16 lanes touch every bank once.
const STRIDE_16: u32 = 160;
/// The same of an 8-bit tile, 4-byte loads of 32 lanes.
const STRIDE_8: u32 = 80;

const _: () = {
    assert!(FEATURES == 16 * THREADS / 32);
    assert!(STRIDE_16 >= 2 * TILE_K && STRIDE_8 >= TILE_K);
    assert!(STRIDE_16.is_multiple_of(16) && STRIDE_8.is_multiple_of(16));
    // A block of features has one row of scales, and a scale covers whole tiles.
    assert!(FP8_BLOCK.is_multiple_of(FEATURES) && FP8_BLOCK == 2 * TILE_K);
};

/// Dynamic shared memory for `matrices` (1, or 2 for SwiGLU) weights of format `F`.
pub const fn shared_bytes<F: Format>(matrices: u32) -> u32 {
    STAGES * stage_bytes::<F>(matrices)
}

const fn stage_bytes<F: Format>(matrices: u32) -> u32 {
    TOKENS * STRIDE_16 + matrices * FEATURES * F::STRIDE
}

/// A format of weights.
pub trait Format {
    /// Bytes of an element.
    const BYTES: u32;
    /// Bytes from row to row of a tile.
    const STRIDE: u32;
    /// Whether each 128 columns have a scale.
    const IS_SCALED: bool;

    /// The lane's A fragment of step `s`: `row` is the shared address of row `g` of the warp's 16.
    ///
    /// # Safety
    /// The tile is there.
    unsafe fn fragment(row: u32, s: u32) -> [u32; 4];

    /// `d += a * b`.
    ///
    /// # Safety
    /// All lanes call it together.
    unsafe fn multiply_warp(d: &mut [f32; 4], a: [u32; 4], b: [u32; 2]);
}

/// bf16 weights and tokens.
pub struct Bf16;

impl Format for Bf16 {
    const BYTES: u32 = 2;
    const STRIDE: u32 = STRIDE_16;
    const IS_SCALED: bool = false;

    #[inline(always)]
    unsafe fn fragment(row: u32, s: u32) -> [u32; 4] {
        let at = row + s * 32 + warp::lane_id() % 4 * 8;
        // SAFETY: inside the tile.
        let (low, high) = unsafe { (shared::load_v2(at), shared::load_v2(at + 8 * Self::STRIDE)) };
        [low[0], high[0], low[1], high[1]]
    }

    #[inline(always)]
    unsafe fn multiply_warp(d: &mut [f32; 4], a: [u32; 4], b: [u32; 2]) {
        // SAFETY: the caller brings the warp.
        unsafe { mma::m16n8k16_bf16(d, a, b) }
    }
}

/// E4M3 weights with a scale per 128 x 128, f16 tokens.
pub struct Fp8;

impl Format for Fp8 {
    const BYTES: u32 = 1;
    const STRIDE: u32 = STRIDE_8;
    const IS_SCALED: bool = true;

    #[inline(always)]
    unsafe fn fragment(row: u32, s: u32) -> [u32; 4] {
        let at = row + s * 16 + warp::lane_id() % 4 * 4;
        // SAFETY: inside the tile.
        let (low, high) = unsafe { (shared::load_u32(at), shared::load_u32(at + 8 * Self::STRIDE)) };
        [
            f16x2_from_e4m3x2_low(low),
            f16x2_from_e4m3x2_low(high),
            f16x2_from_e4m3x2_high(low),
            f16x2_from_e4m3x2_high(high),
        ]
    }

    #[inline(always)]
    unsafe fn multiply_warp(d: &mut [f32; 4], a: [u32; 4], b: [u32; 2]) {
        // SAFETY: the caller brings the warp.
        unsafe { mma::m16n8k16_f16(d, a, b) }
    }
}

/// The operands of `M` weights.
#[derive(Clone, Copy)]
pub struct Operands<const M: usize> {
    /// `[features, k]`, row-major.
    pub weights: [*const u8; M],
    /// f32 `[ceil(features / 128), ceil(k / 128)]`, for FP8.
    pub scales: [*const f32; M],
    /// bf16, or f16 for FP8, `[tokens, x_stride]`.
    pub x: *const u16,
    /// f32 per token, for FP8.
    pub b_scale: *const f32,
    /// Tokens, at least 1.
    pub tokens: u32,
    /// Rows of a weight.
    pub features: u32,
    /// Columns, a multiple of 16.
    pub k: u32,
    /// Elements from row to row of x.
    pub x_stride: u32,
}

/// Accumulators of a warp: per weight and group of 8 tokens, as the MMA has them.
type Sums<const M: usize> = [[[f32; 4]; GROUPS]; M];

/// Starts the copy of 64 rows x `BYTES` bytes from byte `from_byte` of rows from `first` on; zeros past `row_bytes`;
/// rows past `rows` repeat the last one.
///
/// # Safety
/// All threads of the block call it together; the matrix and the tile are there; nobody uses the tile.
#[inline(always)]
unsafe fn copy_tile_block<const BYTES: u32>(
    to: u32,
    stride: u32,
    matrix: *const u8,
    pitch: usize,
    (first, rows): (u32, u32),
    (from_byte, row_bytes): (u32, u32),
) {
    let chunks = BYTES / 16;
    let mut i = 0;
    while i < 64 * chunks / THREADS {
        let chunk = thread::thread_idx_x() + i * THREADS;
        let (row, column) = (chunk / chunks, chunk % chunks * 16);
        let at = to + row * stride + column;
        let byte = from_byte + column;
        // SAFETY: inside the row, or zeros; 16-byte chunks of an aligned row.
        unsafe {
            if byte < row_bytes {
                let row = (first + row).min(rows - 1);
                cp_async::copy_16(at, matrix.add(row as usize * pitch + byte as usize));
            } else {
                shared::store_v4(at, [0; 4]);
            }
        }
        i += 1;
    }
}

/// Starts the copy of tile `tile` of K into its stage, and closes the group.
///
/// # Safety
/// As [`copy_tile_block`].
#[inline(always)]
unsafe fn copy_stage_block<F: Format, const M: usize>(
    o: &Operands<M>,
    first_feature: u32,
    first_token: u32,
    tile: u32,
) {
    let k_bytes = o.k * F::BYTES;
    // SAFETY: the stages lie in the launch's shared memory.
    unsafe {
        if tile * TILE_K < o.k {
            let base = shared::dynamic() + tile % STAGES * stage_bytes::<F>(M as u32);
            let pitch = o.x_stride as usize * 2;
            copy_tile_block::<{ 2 * TILE_K }>(
                base,
                STRIDE_16,
                o.x.cast(),
                pitch,
                (first_token, o.tokens),
                (tile * TILE_K * 2, o.k * 2),
            );
            let mut m = 0;
            while m < M {
                let to = base + TOKENS * STRIDE_16 + m as u32 * FEATURES * F::STRIDE;
                let rows = (first_feature, o.features);
                let bytes = (tile * TILE_K * F::BYTES, k_bytes);
                if F::BYTES == 2 {
                    copy_tile_block::<{ 2 * TILE_K }>(
                        to,
                        F::STRIDE,
                        o.weights[m],
                        k_bytes as usize,
                        rows,
                        bytes,
                    );
                } else {
                    copy_tile_block::<TILE_K>(to, F::STRIDE, o.weights[m], k_bytes as usize, rows, bytes);
                }
                m += 1;
            }
        }
        cp_async::commit_group();
    }
}

/// The sums of a block's tile, in the lanes of its warps.
///
/// # Safety
/// All threads of the block call it together; the operands have the shapes that they say; the shared memory is the
/// launch's and not in use.
#[inline(always)]
pub unsafe fn sums_block<F: Format, const M: usize>(
    o: &Operands<M>,
    first_feature: u32,
    first_token: u32,
) -> Sums<M> {
    let mut total = [[[0.0; 4]; GROUPS]; M];
    let mut chain = [[[0.0; 4]; GROUPS]; M];
    let (lane, warp_id) = (warp::lane_id(), thread::thread_idx_x() / 32);
    let tiles = o.k.div_ceil(TILE_K);
    // Groups of tokens that exist; the others' sums stay 0.
    let groups = (o.tokens - first_token).div_ceil(8);
    let scale_stride = o.k.div_ceil(FP8_BLOCK);
    // SAFETY: a stage is computed on after its copies are waited for by all threads, and copied into after a barrier
    // behind the last computation on it.
    unsafe {
        let mut tile = 0;
        while tile < STAGES - 1 {
            copy_stage_block::<F, M>(o, first_feature, first_token, tile);
            tile += 1;
        }
        tile = 0;
        while tile < tiles {
            cp_async::wait_group::<{ STAGES - 2 }>();
            thread::sync_threads();
            copy_stage_block::<F, M>(o, first_feature, first_token, tile + STAGES - 1);
            let base = shared::dynamic() + tile % STAGES * stage_bytes::<F>(M as u32);
            let weights = base + TOKENS * STRIDE_16 + (warp_id * 16 + lane / 4) * F::STRIDE;
            let mut s = 0;
            while s < STEPS {
                let mut a = [[0; 4]; M];
                let mut m = 0;
                while m < M {
                    a[m] = F::fragment(weights + m as u32 * FEATURES * F::STRIDE, s);
                    m += 1;
                }
                let mut n = 0;
                while n < GROUPS {
                    if (n as u32) < groups {
                        let at = base + (n as u32 * 8 + lane / 4) * STRIDE_16 + s * 32 + lane % 4 * 8;
                        let b = shared::load_v2(at);
                        m = 0;
                        while m < M {
                            F::multiply_warp(&mut chain[m][n], a[m], b);
                            m += 1;
                        }
                    }
                    n += 1;
                }
                s += 1;
            }
            if F::IS_SCALED && (tile % 2 == 1 || tile + 1 == tiles) {
                let at = (first_feature / FP8_BLOCK * scale_stride + tile / 2) as usize;
                let mut m = 0;
                while m < M {
                    let scale = *o.scales[m].add(at);
                    let mut n = 0;
                    while n < GROUPS {
                        let mut i = 0;
                        while i < 4 {
                            total[m][n][i] += chain[m][n][i] * scale;
                            chain[m][n][i] = 0.0;
                            i += 1;
                        }
                        n += 1;
                    }
                    m += 1;
                }
            }
            tile += 1;
        }
        // The ring may be filled again.
        thread::sync_threads();
    }
    if F::IS_SCALED { total } else { chain }
}

/// Calls `store(element, feature, token)` for the lane's elements `0..4` of group `n` that exist.
#[inline(always)]
fn elements<const M: usize>(
    o: &Operands<M>,
    first_feature: u32,
    first_token: u32,
    n: usize,
    mut store: impl FnMut(usize, u32, u32),
) {
    let (lane, warp_id) = (warp::lane_id(), thread::thread_idx_x() / 32);
    let mut i = 0;
    while i < 4 {
        let feature = first_feature + warp_id * 16 + lane / 4 + (i as u32 / 2) * 8;
        let token = first_token + n as u32 * 8 + lane % 4 * 2 + i as u32 % 2;
        if feature < o.features && token < o.tokens {
            store(i, feature, token);
        }
        i += 1;
    }
}

/// The scales of the tokens of the lane's elements of group `n`: 1 without.
///
/// # Safety
/// As [`sums_block`].
#[inline(always)]
unsafe fn token_scales<F: Format, const M: usize>(o: &Operands<M>, first_token: u32, n: usize) -> [f32; 2] {
    let mut scales = [1.0; 2];
    let mut i = 0;
    while F::IS_SCALED && i < 2 {
        let token = first_token + n as u32 * 8 + warp::lane_id() % 4 * 2 + i as u32;
        if token < o.tokens {
            // SAFETY: the token exists.
            scales[i] = unsafe { *o.b_scale.add(token as usize) };
        }
        i += 1;
    }
    scales
}

/// Tiles of all blocks.
#[inline(always)]
fn tiles<const M: usize>(o: &Operands<M>) -> u32 {
    o.features.div_ceil(FEATURES) * o.tokens.div_ceil(TOKENS)
}

/// First feature and first token of a tile.
#[inline(always)]
fn tile_at<const M: usize>(o: &Operands<M>, item: u32) -> (u32, u32) {
    let rows = o.features.div_ceil(FEATURES);
    (item % rows * FEATURES, item / rows * TOKENS)
}

/// `y[token][feature] = sum * scale of the token`, f32.
///
/// # Safety
/// As [`sums_block`]; `y` has a row of `out_stride` elements per token.
#[inline(always)]
pub unsafe fn linear_grid<F: Format>(o: &Operands<1>, y: *mut f32, out_stride: u32) {
    let mut item = thread::block_idx_x();
    while item < tiles(o) {
        let (feature, token) = tile_at(o, item);
        // SAFETY: all threads are here: the tiles are the block's.
        let [sums] = unsafe { sums_block::<F, 1>(o, feature, token) };
        let mut n = 0;
        while n < GROUPS {
            // SAFETY: the elements exist.
            unsafe {
                let scales = token_scales::<F, 1>(o, token, n);
                elements(o, feature, token, n, |i, feature, token| {
                    let at = token as usize * out_stride as usize + feature as usize;
                    y.add(at).write(if F::IS_SCALED { sums[n][i] * scales[i % 2] } else { sums[n][i] });
                });
            }
            n += 1;
        }
        item += thread::grid_dim_x();
    }
}

/// `h[token][feature] = swiglu(gate sum * scale, up sum * scale)`, rounded to bf16.
///
/// # Safety
/// As [`sums_block`]; `h` has a row of `out_stride` elements per token.
#[inline(always)]
pub unsafe fn swiglu_grid<F: Format>(o: &Operands<2>, h: *mut u16, out_stride: u32, limit: f32) {
    let mut item = thread::block_idx_x();
    while item < tiles(o) {
        let (feature, token) = tile_at(o, item);
        // SAFETY: all threads are here: the tiles are the block's.
        let [gate, up] = unsafe { sums_block::<F, 2>(o, feature, token) };
        let mut n = 0;
        while n < GROUPS {
            // SAFETY: the elements exist.
            unsafe {
                let scales = token_scales::<F, 2>(o, token, n);
                let scaled = |v: [f32; 4]| {
                    if !F::IS_SCALED {
                        return v;
                    }
                    [v[0] * scales[0], v[1] * scales[1], v[2] * scales[0], v[3] * scales[1]]
                };
                let result = swiglu_array(scaled(gate[n]), scaled(up[n]), limit);
                elements(o, feature, token, n, |i, feature, token| {
                    let at = token as usize * out_stride as usize + feature as usize;
                    h.add(at).write(bf16x2_from_f32(result[i], 0.0) as u16);
                });
            }
            n += 1;
        }
        item += thread::grid_dim_x();
    }
}
