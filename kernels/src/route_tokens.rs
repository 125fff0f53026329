//! Logits to routing: scores, top-k (or the table of a hash layer), weights.
//!
//! One block per token: all threads compute scores, the first warp selects. A lane holds the selection keys of every
//! 32nd expert in registers; each of the `top_k` rounds is a maximum over a lane's keys and two warp reductions (the
//! largest key, then the lowest id that has it). Arithmetic is `nvfp4::routing`'s, so ids and weights are the host's for
//! equal logits.
//!
//! Reads `4 * experts` bytes per token and is bound by latency: about 150 instructions per score and 80 per round.

use crate::launch::{Arch, Arg, Geometry, Launch, LaunchBounds};
use crate::score::{SOFTMAX, TAKEN, score, sort_key};
use cuda_std::math::max_nan;
use cuda_std::prelude::*;
use cuda_std::{atomic, grid};
use nvfp4::{math, routing};

/// Threads of a block.
pub const THREADS: u32 = 128;
/// Most experts.
pub const MAX_EXPERTS: u32 = 1024;
/// Most slots of a token.
pub const MAX_TOP_K: u32 = 16;
/// Keys of a lane.
const KEYS: usize = (MAX_EXPERTS / 32) as usize;
/// Word of `stats` that counts token ids outside the vocabulary.
pub const STAT_INVALID_TOKENS: usize = 3;

// Shared memory: scores, then one maximum per warp.
const SCORES: u32 = 0;
const MAXIMA: u32 = SCORES + 4 * MAX_EXPERTS;
const SHARED_BYTES: u32 = MAXIMA + THREADS / 32 * 4;

const _: () = {
    assert!(MAX_EXPERTS.is_multiple_of(32) && MAX_TOP_K <= 32);
    assert!(routing::LANES == 32);
};

/// Bounds of the kernel.
pub const BOUNDS: LaunchBounds = LaunchBounds::block(THREADS);

/// Its row of the launch table. Any grid; the fast one is one block per token, as many as fit.
pub const LAUNCH: Launch = Launch {
    name: "route_tokens",
    bounds: BOUNDS,
    shared_bytes: SHARED_BYTES,
    archs: &Arch::ALL,
    geometry: Geometry::Fixed,
    args: &[
        Arg::input("logits", "f32 [max_tokens, experts]"),
        Arg::input("bias", "f32 [experts], added to the scores for the selection; or null"),
        Arg::input("table", "i32 [vocab, top_k]: experts of each token id (hash layer); or null for top-k"),
        Arg::input("input_ids", "i64 [max_tokens], null without a table"),
        Arg::output("topk_ids", "i32 [max_tokens, top_k]; -1 for a token whose id is outside the vocabulary"),
        Arg::output("topk_weights", "f32 [max_tokens, top_k]; 0 there"),
        Arg::output("stats", "u32 [8]: adds the tokens outside the vocabulary to word 3"),
        Arg::input("tokens", "u32 [1] on the device: tokens, capped at max_tokens"),
        Arg::u32("max_tokens", "tokens that the buffers hold"),
        Arg::u32("experts", "at most 1024"),
        Arg::u32("top_k", "at most 16, and at most experts without a table"),
        Arg::u32("vocab", "rows of the table"),
        Arg::u32("scoring", "0 sqrt(softplus), 1 sigmoid, 2 softmax"),
        Arg::u32("normalise", "1: divide by the sum of the selected scores"),
        Arg::f32("scaling", "multiplies the weights"),
    ],
};

/// Barrier of the block behind code in which lanes part: brings the warps together first, as the barrier demands.
///
/// # Safety
/// All threads of the block call it together.
#[inline(always)]
unsafe fn sync_block() {
    // SAFETY: the caller's duty.
    unsafe {
        warp::sync_warp(warp::FULL);
        thread::sync_threads();
    }
}

/// The largest of the block's values, NaN if there is one, in every thread.
///
/// # Safety
/// All threads of the block call it together; nobody uses the shared words meanwhile.
#[inline(always)]
unsafe fn max_block(value: f32) -> f32 {
    // SAFETY: all threads are here; the words are the block's.
    unsafe {
        let base = shared::dynamic() + MAXIMA;
        let mut m = value;
        let mut d = 16;
        while d > 0 {
            m = max_nan(m, f32::from_bits(warp::shuffle_xor(warp::FULL, m.to_bits(), d)));
            d /= 2;
        }
        if warp::lane_id() == 0 {
            shared::store_u32(base + thread::thread_idx_x() / 32 * 4, m.to_bits());
        }
        sync_block();
        let mut w = 0;
        while w < THREADS / 32 {
            m = max_nan(m, f32::from_bits(shared::load_u32(base + 4 * w)));
            w += 1;
        }
        m
    }
}

/// Sum over the lanes, pairwise at distances 16 to 1, the same bits in every lane.
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

/// The experts with the `top_k` largest keys: lane `s` gets that of slot `s`.
///
/// # Safety
/// All lanes call it together; `key(expert)` is called for experts below `experts`.
#[inline(always)]
unsafe fn top_k_warp(experts: u32, top_k: u32, key: impl Fn(u32) -> f32) -> u32 {
    let lane = warp::lane_id();
    let mut keys = [TAKEN; KEYS];
    let mut j = 0;
    while j < KEYS {
        let expert = 32 * j as u32 + lane;
        if expert < experts {
            keys[j] = sort_key(key(expert));
        }
        j += 1;
    }
    let mut mine = 0;
    let mut slot = 0;
    while slot < top_k {
        let (mut best, mut at) = (TAKEN, 0);
        j = 0;
        while j < KEYS {
            // The first of equals stays: a lane's experts ascend.
            if keys[j] > best {
                best = keys[j];
                at = j as u32;
            }
            j += 1;
        }
        // SAFETY: all lanes are here.
        let expert = unsafe {
            let largest = warp::reduce_max_u32(warp::FULL, best);
            let candidate = if best == largest { 32 * at + lane } else { u32::MAX };
            warp::reduce_min_u32(warp::FULL, candidate)
        };
        j = 0;
        while j < KEYS {
            if 32 * j as u32 + lane == expert {
                keys[j] = TAKEN;
            }
            j += 1;
        }
        if lane == slot {
            mine = expert;
        }
        slot += 1;
    }
    mine
}

/// Routes `min(*tokens, max_tokens)` tokens; see [`LAUNCH`] for shapes and types.
///
/// NaN keys come last, ties go to the lower id. An id of the table outside the experts stays as it is, with weight 0.
///
/// # Safety
/// The buffers have the shapes of [`LAUNCH`] and are not written by others while the kernel runs.
#[kernel(bounds = BOUNDS)]
#[allow(clippy::too_many_arguments)]
pub unsafe fn route_tokens(
    logits: *const f32,
    bias: *const f32,
    table: *const i32,
    input_ids: *const i64,
    topk_ids: *mut i32,
    topk_weights: *mut f32,
    stats: *mut u32,
    tokens: *const u32,
    max_tokens: u32,
    experts: u32,
    top_k: u32,
    vocab: u32,
    scoring: u32,
    normalise: u32,
    scaling: f32,
) {
    grid::wait_for_dependencies();
    grid::launch_dependents();
    let lane = warp::lane_id();
    let is_hash = !table.is_null();
    // SAFETY: one u32; shared memory as the launch gives it.
    let (tokens, base) = unsafe { ((*tokens).min(max_tokens), shared::dynamic()) };
    let mut token = thread::block_idx_x();
    while token < tokens {
        // SAFETY: the row exists.
        let row = unsafe { logits.add(token as usize * experts as usize) };
        let mut max = f32::NEG_INFINITY;
        if scoring == SOFTMAX {
            let mut e = thread::thread_idx_x();
            while e < experts {
                // SAFETY: an element of the row.
                max = max_nan(max, unsafe { *row.add(e as usize) });
                e += THREADS;
            }
            // SAFETY: `scoring` is the same for all threads.
            max = unsafe { max_block(max) };
        }
        let mut e = thread::thread_idx_x();
        while e < experts {
            // SAFETY: an element of the row, and its word of shared memory.
            unsafe {
                let x = *row.add(e as usize);
                let s = if scoring == SOFTMAX { math::exp(x - max) } else { score(x, scoring) };
                shared::store_u32(base + SCORES + 4 * e, s.to_bits());
            }
            e += THREADS;
        }
        // SAFETY: all threads are here.
        unsafe { sync_block() };
        if thread::thread_idx_x() < 32 {
            // SAFETY: an expert below `experts`, whose score was written before the barrier.
            let raw = |e: u32| f32::from_bits(unsafe { shared::load_u32(base + SCORES + 4 * e) });
            let mut total = 0.0;
            if scoring == SOFTMAX {
                let mut e = lane;
                while e < experts {
                    total += raw(e);
                    e += 32;
                }
                // SAFETY: the whole first warp is here.
                total = unsafe { sum_warp(total) };
            }
            let unbiased = |e: u32| if scoring == SOFTMAX { raw(e) / total } else { raw(e) };
            let (mut id, mut is_valid) = (-1, true);
            if is_hash {
                // SAFETY: one i64 per token; `top_k` entries per token id of the vocabulary.
                unsafe {
                    let input = *input_ids.add(token as usize);
                    is_valid = input >= 0 && input < i64::from(vocab);
                    if is_valid && lane < top_k {
                        id = *table.add(input as usize * top_k as usize + lane as usize);
                    }
                    if !is_valid && lane == 0 {
                        atomic::add_u32(stats.add(STAT_INVALID_TOKENS), 1);
                    }
                }
            } else {
                let key = |e: u32| {
                    let s = unbiased(e);
                    // SAFETY: one f32 per expert.
                    if bias.is_null() { s } else { s + unsafe { *bias.add(e as usize) } }
                };
                // SAFETY: the whole first warp is here.
                id = unsafe { top_k_warp(experts, top_k, key) } as i32;
            }
            // A negative id is a large unsigned one.
            let selected = if (id as u32) < experts { unbiased(id as u32) } else { 0.0 };
            let mut weight = selected * scaling;
            if normalise != 0 {
                let mut sum = 0.0;
                let mut slot = 0;
                while slot < top_k {
                    // SAFETY: the whole first warp is here.
                    sum += f32::from_bits(unsafe { warp::shuffle_idx(warp::FULL, selected.to_bits(), slot) });
                    slot += 1;
                }
                weight = selected / (sum + routing::NORM_EPS) * scaling;
            }
            if lane < top_k {
                let at = token as usize * top_k as usize + lane as usize;
                // SAFETY: the slot exists.
                unsafe {
                    topk_ids.add(at).write(id);
                    topk_weights.add(at).write(if is_valid { weight } else { 0.0 });
                }
            }
        }
        // SAFETY: all threads are here. The scores are read: the next token may overwrite them.
        unsafe { sync_block() };
        token += thread::grid_dim_x();
    }
}
