//! Router logits: `logits[t][e] = sum_k x[t][k] * weight[e][k]`, bf16 rows times f32 weights.
//!
//! # Order of the sum
//! One order for every token count, grid and form of the loop, so a token alone has the bits that it has in a batch.
//! K is cut into 8 contiguous ranges of whole 128-column steps. Inside a range, lane `l` of 32 adds columns `4l..4l+4`
//! of each step to its partial sum, in ascending order, by fused multiply-adds from 0 (columns past K count as zeros);
//! the 32 lanes are added pairwise at distances 16, 8, 4, 2, 1; the ranges are added in ascending order.
//!
//! # Forms
//! The lanes of a warp lie along K in all of them; a warp holds a tile of experts x tokens in registers.
//! * fewer than 8 tokens: a block per expert, a range per warp: the whole device streams the weights;
//! * medium: a block per 8 experts x 8 tokens, a range per warp;
//! * many: a block per 16 experts x 32 tokens; a warp does all ranges of its 8 x 8 tile, one after the other.
//!
//! # Floors
//! 384 experts, K = 7168: 11 MB of weights, 2.4 us at 4.5 TB/s, for few tokens; 22.5 G fused multiply-adds for 8192
//! tokens, 0.76 ms at 29.6 T/s. A step of the 8 x 8 tile is 256 of them beside 8 + 8 loads and 32 conversions per lane.

use crate::launch::{Arch, Arg, Geometry, Launch, LaunchBounds};
use cuda_std::convergence::opaque_u32;
use cuda_std::math::fma;
use cuda_std::prelude::*;
use cuda_std::{global, grid};

/// Threads of a block.
pub const THREADS: u32 = 256;
/// Ranges of K, and warps of a block.
pub const RANGES: u32 = 8;
/// Columns that a warp takes at a time.
pub const STEP: u32 = 128;
/// Tokens that a block of the form for few takes at a time.
pub const FEW: usize = 4;
/// Experts, and tokens, of a warp's tile.
const TILE: usize = 8;
/// Experts of a block of the form for many tokens.
const MANY_EXPERTS: u32 = 16;
/// Tokens of such a block.
const MANY_TOKENS: u32 = 32;

/// Shared memory: the tile's sums of every range, in two buffers.
const SHARED_BYTES: u32 = 2 * RANGES * (TILE * TILE) as u32 * 4;
const BUFFER: u32 = SHARED_BYTES / 2;

const _: () = {
    assert!(THREADS == 32 * RANGES);
    assert!((MANY_EXPERTS / TILE as u32) * (MANY_TOKENS / TILE as u32) == RANGES);
    // `transpose_sum` leaves two sums in each lane.
    assert!(TILE * TILE == 64);
};

/// Bounds of the kernel.
pub const BOUNDS: LaunchBounds = LaunchBounds::block(THREADS).min_ctas(2);

/// Its row of the launch table. Any grid; the fast one is two blocks per multiprocessor.
pub const LAUNCH: Launch = Launch {
    name: "router_logits",
    bounds: BOUNDS,
    shared_bytes: SHARED_BYTES,
    archs: &Arch::ALL,
    geometry: Geometry::Fixed,
    args: &[
        Arg::input("x", "bf16 [max_tokens, x_stride], 8-byte aligned"),
        Arg::input("weight", "f32 [experts, hidden], 16-byte aligned"),
        Arg::output("logits", "f32 [max_tokens, experts]"),
        Arg::input("tokens", "u32 [1] on the device: tokens, capped at max_tokens"),
        Arg::u32("max_tokens", "tokens that the buffers hold"),
        Arg::u32("experts", "rows of weight"),
        Arg::u32("hidden", "columns: a multiple of 4"),
        Arg::u32("x_stride", "elements from one row of x to the next: a multiple of 4"),
    ],
};

/// The operands.
#[derive(Clone, Copy)]
struct Operands {
    x: *const u16,
    weight: *const f32,
    tokens: u32,
    experts: u32,
    hidden: u32,
    x_stride: u32,
}

/// Four bf16 as f32.
#[inline(always)]
fn widen(w: [u32; 2]) -> [f32; 4] {
    [w[0] << 16, w[0] & 0xffff_0000, w[1] << 16, w[1] & 0xffff_0000].map(f32::from_bits)
}

/// A lane's partial sums of a range of K for `E` experts from `expert` and `T` tokens from `token`: sum `e * T + t`.
///
/// # Safety
/// The operands have the shapes of [`LAUNCH`]; the experts exist, and so do the first `tokens` of the tokens, at least
/// one; the sums of the others are arbitrary.
#[inline(always)]
unsafe fn range_partials<const E: usize, const T: usize, const N: usize>(
    o: Operands,
    expert: u32,
    token: u32,
    tokens: u32,
    range: u32,
) -> [f32; N] {
    const { assert!(N == E * T) };
    let mut sums = [0.0; N];
    let per_range = o.hidden.div_ceil(STEP).div_ceil(RANGES);
    let mut column = range * per_range * STEP + 4 * warp::lane_id();
    let end = ((range + 1) * per_range * STEP).min(o.hidden);
    // SAFETY: the first rows exist.
    let (x, weight) = unsafe {
        (o.x.add(token as usize * o.x_stride as usize), o.weight.add(expert as usize * o.hidden as usize))
    };
    while column < end {
        // Opaque, or the addresses of all rows would stay in registers over the loop, and there are none left.
        let (x_stride, w_stride) = (opaque_u32(o.x_stride) as usize, opaque_u32(o.hidden) as usize);
        let mut xs = [[0.0; 4]; T];
        let mut row = x.wrapping_add(column as usize);
        let mut t = 0;
        while t < T {
            // SAFETY: columns below `hidden` of a row that exists.
            xs[t] = widen(unsafe { global::load_v2(row) });
            if T < TILE {
                // Repeats the last row there is.
                row = if t as u32 + 1 < tokens { row.wrapping_add(x_stride) } else { row };
            } else {
                row = row.wrapping_add(x_stride);
            }
            t += 1;
        }
        let mut row = weight.wrapping_add(column as usize);
        let mut e = 0;
        while e < E {
            // SAFETY: as above.
            let w = unsafe { global::load_nc_v4(row) };
            row = row.wrapping_add(w_stride);
            t = 0;
            while t < T {
                let mut s = sums[e * T + t];
                let mut i = 0;
                while i < 4 {
                    s = fma(xs[t][i], f32::from_bits(w[i]), s);
                    i += 1;
                }
                sums[e * T + t] = s;
                t += 1;
            }
            e += 1;
        }
        column += STEP;
    }
    sums
}

/// The lanes' sum of one value, the same bits in every lane.
///
/// # Safety
/// All lanes call it together.
#[inline(always)]
unsafe fn sum_warp(value: f32) -> f32 {
    let mut v = value;
    let mut d = 16;
    while d > 0 {
        // SAFETY: all lanes are here.
        v += f32::from_bits(unsafe { warp::shuffle_xor(warp::FULL, v.to_bits(), d) });
        d /= 2;
    }
    v
}

/// [`sum_warp`] of 64 values: lane `l` gets the sums of values `2l` and `2l + 1`.
///
/// # Safety
/// All lanes call it together.
#[inline(always)]
unsafe fn transpose_sum_warp(mut v: [f32; TILE * TILE]) -> [f32; 2] {
    let lane = warp::lane_id();
    let (mut d, mut n) = (16, TILE * TILE);
    while d > 0 {
        n /= 2;
        let is_upper = lane & d != 0;
        let mut i = 0;
        while i < n {
            let (keep, send) = if is_upper { (v[i + n], v[i]) } else { (v[i], v[i + n]) };
            // SAFETY: all lanes are here.
            v[i] = keep + f32::from_bits(unsafe { warp::shuffle_xor(warp::FULL, send.to_bits(), d) });
            i += 1;
        }
        d /= 2;
    }
    [v[0], v[1]]
}

/// The form for few tokens, or few experts: `T` tokens at a time.
///
/// # Safety
/// All threads of the block call it together; as the kernel.
#[inline(always)]
unsafe fn few<const T: usize>(o: Operands, logits: *mut f32) {
    let (lane, range) = (warp::lane_id(), thread::thread_idx_x() / 32);
    let items = o.experts * o.tokens.div_ceil(T as u32);
    let mut item = thread::block_idx_x();
    let mut buffer = 0;
    while item < items {
        let (expert, token) = (item % o.experts, item / o.experts * T as u32);
        // SAFETY: the expert and the token exist; whole warps are here; two buffers, so that one barrier per item keeps
        // a write from the reads before it.
        unsafe {
            let base = shared::dynamic() + buffer * BUFFER;
            let partials = range_partials::<1, T, T>(o, expert, token, o.tokens - token, range);
            let mut t = 0;
            while t < T {
                let sum = sum_warp(partials[t]);
                if lane == 0 {
                    shared::store_u32(base + (t as u32 * RANGES + range) * 4, sum.to_bits());
                }
                t += 1;
            }
            thread::sync_threads();
            let t = thread::thread_idx_x();
            if t < T as u32 && token + t < o.tokens {
                let mut sum = f32::from_bits(shared::load_u32(base + t * RANGES * 4));
                let mut r = 1;
                while r < RANGES {
                    sum += f32::from_bits(shared::load_u32(base + (t * RANGES + r) * 4));
                    r += 1;
                }
                logits.add((token + t) as usize * o.experts as usize + expert as usize).write(sum);
            }
        }
        buffer ^= 1;
        item += thread::grid_dim_x();
    }
}

/// A warp's tile: the last ones start earlier, to be whole, and leave out what others store.
#[derive(Clone, Copy)]
struct Tile {
    /// Where its expert and token would start.
    expert: u32,
    token: u32,
    /// Where they do.
    from_expert: u32,
    from_token: u32,
}

impl Tile {
    /// At `expert`, `token`, which exist; there are at least [`TILE`] of both.
    #[inline(always)]
    fn at(o: Operands, expert: u32, token: u32) -> Self {
        const N: u32 = TILE as u32;
        Self { expert, token, from_expert: expert.min(o.experts - N), from_token: token.min(o.tokens - N) }
    }

    /// The sums of a range: lane `l` gets those of elements `2l` and `2l + 1`.
    ///
    /// # Safety
    /// Whole warps call it together; as [`range_partials`].
    #[inline(always)]
    unsafe fn range_sums_warp(self, o: Operands, range: u32) -> [f32; 2] {
        const N: u32 = TILE as u32;
        // SAFETY: the rows of the tile exist.
        unsafe {
            transpose_sum_warp(range_partials::<TILE, TILE, { TILE * TILE }>(
                o,
                self.from_expert,
                self.from_token,
                N,
                range,
            ))
        }
    }

    /// Stores element `at` of the tile, if it is this tile's to store.
    ///
    /// # Safety
    /// `logits` has the shape of [`LAUNCH`].
    #[inline(always)]
    unsafe fn store(self, o: Operands, logits: *mut f32, at: u32, value: f32) {
        let (expert, token) = (self.from_expert + at / TILE as u32, self.from_token + at % TILE as u32);
        if expert >= self.expert && token >= self.token {
            // SAFETY: the element exists.
            unsafe { logits.add(token as usize * o.experts as usize + expert as usize).write(value) };
        }
    }
}

/// The form for a medium number of tokens.
///
/// # Safety
/// As [`few`]; at least [`TILE`] experts and tokens.
#[inline(always)]
unsafe fn medium(o: Operands, logits: *mut f32) {
    const N: u32 = TILE as u32;
    // Computed anew wherever needed: the loop over K leaves no registers.
    let place = |item: u32| {
        let groups = o.experts.div_ceil(N);
        Tile::at(o, item % groups * N, item / groups * N)
    };
    let mut item = thread::block_idx_x();
    let mut buffer = 0;
    while item < o.experts.div_ceil(N) * o.tokens.div_ceil(N) {
        // SAFETY: there are enough experts and tokens; whole warps are here; two buffers, as in `few`.
        unsafe {
            let sums = place(item).range_sums_warp(o, thread::thread_idx_x() / 32);
            let base = shared::dynamic() + buffer * BUFFER;
            let (lane, range) = (warp::lane_id(), thread::thread_idx_x() / 32);
            shared::store_v2(base + (range * N * N + 2 * lane) * 4, sums.map(f32::to_bits));
            thread::sync_threads();
            let at = thread::thread_idx_x();
            if at < N * N {
                let mut sum = f32::from_bits(shared::load_u32(base + at * 4));
                let mut r = 1;
                while r < RANGES {
                    sum += f32::from_bits(shared::load_u32(base + (r * N * N + at) * 4));
                    r += 1;
                }
                place(opaque_u32(item)).store(o, logits, at, sum);
            }
        }
        buffer ^= 1;
        item += thread::grid_dim_x();
    }
}

/// The form for many tokens: no shared memory, no barrier.
///
/// # Safety
/// As [`medium`].
#[inline(always)]
unsafe fn many(o: Operands, logits: *mut f32) {
    const N: u32 = TILE as u32;
    let (lane, warp_id) = (warp::lane_id(), thread::thread_idx_x() / 32);
    // The warp's expert and token.
    let place = |item: u32| {
        let groups = o.experts.div_ceil(MANY_EXPERTS);
        let expert = item % groups * MANY_EXPERTS + warp_id % (MANY_EXPERTS / N) * N;
        let token = item / groups * MANY_TOKENS + warp_id / (MANY_EXPERTS / N) * N;
        (expert, token)
    };
    let mut item = thread::block_idx_x();
    while item < o.experts.div_ceil(MANY_EXPERTS) * o.tokens.div_ceil(MANY_TOKENS) {
        let (expert, token) = place(item);
        if expert < o.experts && token < o.tokens {
            let tile = Tile::at(o, expert, token);
            let mut sums = [0.0; 2];
            let mut range = 0;
            while range < RANGES {
                // SAFETY: there are enough experts and tokens; the conditions are the warp's.
                let more = unsafe { tile.range_sums_warp(o, range) };
                sums = if range == 0 { more } else { [sums[0] + more[0], sums[1] + more[1]] };
                range += 1;
            }
            // Computed again, so that it needs no registers in the loop.
            let (expert, token) = place(opaque_u32(item));
            let tile = Tile::at(o, expert, token);
            // SAFETY: as above.
            unsafe {
                tile.store(o, logits, 2 * lane, sums[0]);
                tile.store(o, logits, 2 * lane + 1, sums[1]);
            }
        }
        item += thread::grid_dim_x();
    }
}

/// Logits of `min(*tokens, max_tokens)` tokens; see [`LAUNCH`] for shapes and types.
///
/// # Safety
/// The buffers have the shapes and alignments of [`LAUNCH`] and are not written by others while the kernel runs;
/// x and weight have less than 2^32 elements.
#[kernel(bounds = BOUNDS)]
#[allow(clippy::too_many_arguments)]
pub unsafe fn router_logits(
    x: *const u16,
    weight: *const f32,
    logits: *mut f32,
    tokens: *const u32,
    max_tokens: u32,
    experts: u32,
    hidden: u32,
    x_stride: u32,
) {
    // The block's first expert of the form for few tokens: weights depend on no other kernel.
    if thread::block_idx_x() < experts {
        let mut k = thread::thread_idx_x() * 32;
        while k < hidden {
            // SAFETY: inside the expert's row.
            unsafe {
                global::prefetch_l2(
                    weight.add(thread::block_idx_x() as usize * hidden as usize + k as usize),
                );
            }
            k += THREADS * 32;
        }
    }
    grid::wait_for_dependencies();
    grid::launch_dependents();
    // SAFETY: one u32.
    let tokens = unsafe { *tokens }.min(max_tokens);
    if tokens == 0 || experts == 0 {
        return;
    }
    let o = Operands { x, weight, tokens, experts, hidden, x_stride };
    let blocks_of_many = experts.div_ceil(MANY_EXPERTS) * tokens.div_ceil(MANY_TOKENS);
    // SAFETY: the caller's buffers; the conditions are the same for all threads.
    unsafe {
        if tokens == 1 {
            few::<1>(o, logits);
        } else if tokens < TILE as u32 || experts < TILE as u32 {
            few::<FEW>(o, logits);
        } else if 2 * blocks_of_many < thread::grid_dim_x() {
            medium(o, logits);
        } else {
            many(o, logits);
        }
    }
}
