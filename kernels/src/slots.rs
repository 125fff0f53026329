//! Slots sorted by expert: what [`crate::sort_slots`], [`crate::count_slots`] and [`crate::place_slots`] share.
//!
//! The contract is the host's `SlotPlan` (`host/src/cpu/slots.rs`): rows of an expert are in slot order, each expert's
//! segment is padded to whole tiles, a slot whose id is invalid, foreign or whose token is not finite gets no row, and
//! nothing is dropped or clamped. The order does not depend on timing: no atomic operation takes part in it.
//!
//! A block takes a contiguous chunk of slots, its walking warps contiguous parts of that, 32 slots at a time.
//! `match.any` gives each slot its rank among the 32; a warp's count per expert in shared memory gives the ranks before.
//! `walk` runs twice: once from 0 to count, and once from where each warp's rows of each expert start, to place.

use cuda_std::atomic;
use cuda_std::prelude::*;

/// Threads of a block: one per expert in the scans.
pub const THREADS: u32 = 1024;
/// Most local routed experts.
pub const MAX_EXPERTS: u32 = THREADS;
/// Warps that walk over slots.
const WALKERS: u32 = 16;
/// Chunks, and blocks, of the form of two kernels.
pub const CHUNKS: u32 = 64;
/// A skipped slot or a padding row.
pub const NONE: u32 = u32::MAX;

/// Words of `stats`.
pub const STAT_INVALID_SLOTS: usize = 0;
/// Slots of other ranks.
pub const STAT_FOREIGN_SLOTS: usize = 1;
/// Tokens with NaN or infinity.
pub const STAT_NON_FINITE: usize = 2;

// Shared memory: a count per walker and expert; a total per warp; the padding rows of each expert and of the shared one.
const COUNTS: u32 = 0;
const TOTALS: u32 = COUNTS + WALKERS * MAX_EXPERTS * 4;
const PADDING: u32 = TOTALS + THREADS / 32 * 4;
/// Dynamic shared memory of a block.
pub const SHARED_BYTES: u32 = PADDING + (MAX_EXPERTS + 1) * 8;

const _: () = {
    assert!(PADDING.is_multiple_of(8) && WALKERS <= THREADS / 32);
    assert!(THREADS == 32 * 32);
    assert!(SHARED_BYTES <= 232_448);
};

/// The experts of this rank.
#[derive(Clone, Copy)]
pub struct LocalExperts {
    /// Experts of the model.
    pub experts: u32,
    /// First local one.
    pub first: u32,
    /// Local ones.
    pub count: u32,
}

impl LocalExperts {
    /// The local number of expert `id`, or [`NONE`].
    #[inline(always)]
    pub fn of(&self, id: u32, tally: &mut Tally) -> u32 {
        // A negative id is a large unsigned one.
        if id >= self.experts {
            tally.invalid += 1;
            return NONE;
        }
        let local = id.wrapping_sub(self.first);
        if local >= self.count {
            tally.foreign += 1;
            return NONE;
        }
        local
    }
}

/// What the slots are.
#[derive(Clone, Copy)]
pub struct Slots {
    /// Expert of each slot, `i32 [max_tokens * top_k]`.
    pub topk_ids: *const i32,
    /// Scale of each token's row, NaN for a row that is not finite; or null.
    pub b_scale: *const f32,
    /// Tokens.
    pub tokens: u32,
    /// Slots of a token.
    pub top_k: u32,
    /// The experts of this rank.
    pub local: LocalExperts,
}

/// A block's part of the slots.
#[derive(Clone, Copy)]
pub struct Chunk {
    /// First slot.
    pub first: u32,
    /// One past the last.
    pub end: u32,
    /// Warps that walk over it.
    walkers: u32,
    /// Slots of each, a multiple of 32.
    share: u32,
}

impl Chunk {
    /// Slots `first..end`.
    #[inline(always)]
    pub fn new(first: u32, end: u32) -> Self {
        let rounds = (end - first).div_ceil(32);
        let walkers = if rounds < WALKERS { rounds } else { WALKERS };
        let share = if walkers == 0 { 0 } else { rounds.div_ceil(walkers) * 32 };
        Self { first, end, walkers, share }
    }

    /// Part `index` of `parts` equal ones of `slots` slots.
    #[inline(always)]
    pub fn part(slots: u32, index: u32, parts: u32) -> Self {
        let share = slots.div_ceil(parts).div_ceil(32) * 32;
        // At most `slots` plus a share per part: far below 2^32.
        let first = (index * share).min(slots);
        Self::new(first, (first + share).min(slots))
    }
}

/// What became of the slots of a thread.
#[derive(Clone, Copy, Default)]
pub struct Tally {
    invalid: u32,
    foreign: u32,
    non_finite: u32,
}

impl Tally {
    /// Adds the warp's sums of slots to `stats`.
    ///
    /// # Safety
    /// The whole warp calls it; `stats` has 8 words.
    #[inline(always)]
    pub unsafe fn report_slots(&self, stats: *mut u32) {
        // SAFETY: the caller's duty.
        unsafe {
            report(stats, STAT_INVALID_SLOTS, self.invalid);
            report(stats, STAT_FOREIGN_SLOTS, self.foreign);
        }
    }
}

impl Slots {
    /// The local expert of `slot`, or [`NONE`].
    ///
    /// # Safety
    /// The slot exists.
    #[inline(always)]
    pub unsafe fn expert(&self, slot: u32, tally: &mut Tally) -> u32 {
        // SAFETY: the slot and its token exist.
        let (id, is_finite) = unsafe {
            let id = *self.topk_ids.add(slot as usize) as u32;
            let token = slot / self.top_k;
            let is_finite = self.b_scale.is_null() || !(*self.b_scale.add(token as usize)).is_nan();
            tally.non_finite += u32::from(!is_finite && token * self.top_k == slot);
            (id, is_finite)
        };
        let local = self.local.of(id, tally);
        if is_finite { local } else { NONE }
    }

    /// Slots in all.
    #[inline(always)]
    pub fn len(&self) -> u32 {
        self.tokens * self.top_k
    }

    /// Whether there are none.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Shared address of a walker's count of an expert.
///
/// # Safety
/// As [`shared::dynamic`].
#[inline(always)]
unsafe fn count_at(walker: u32, expert: u32) -> u32 {
    // SAFETY: the caller's duty.
    unsafe { shared::dynamic() + COUNTS + (walker * MAX_EXPERTS + expert) * 4 }
}

/// Walks over the chunk: `place(slot, expert, position)` for every slot, in the threads of the walking warps, with the
/// value of the warp's count of the expert before it (or [`NONE`] twice), and the count grows.
///
/// # Safety
/// Whole warps call it; the counts are initialised and nobody else uses them; the slots exist.
#[inline(always)]
unsafe fn walk(slots: &Slots, chunk: Chunk, tally: &mut Tally, mut place: impl FnMut(u32, u32, u32)) {
    let (lane, walker) = (warp::lane_id(), thread::thread_idx_x() / 32);
    if walker >= chunk.walkers {
        return;
    }
    let mut at = chunk.first + walker * chunk.share;
    let end = (at + chunk.share).min(chunk.end);
    while at < end {
        let slot = at + lane;
        // SAFETY: the slot exists; the loop is the warp's, so all lanes are at the collectives; a count is read by all
        // lanes before the leader writes it, and written before the next round.
        unsafe {
            let expert = if slot < end { slots.expert(slot, tally) } else { NONE };
            let same = warp::match_any(warp::FULL, expert);
            let before = (same & ((1 << lane) - 1)).count_ones();
            let mut position = NONE;
            if expert != NONE {
                position = shared::load_u32(count_at(walker, expert)) + before;
            }
            warp::sync_warp(warp::FULL);
            if expert != NONE && before == 0 {
                shared::store_u32(count_at(walker, expert), position + same.count_ones());
            }
            warp::sync_warp(warp::FULL);
            if slot < end {
                place(slot, expert, position);
            }
        }
        at += 32;
    }
}

/// Counts the chunk's slots per walker and expert, in shared memory; thread `e` gets expert `e`'s total. Adds to `stats`
/// unless it is null.
///
/// # Safety
/// All threads of the block call it together; the launch has [`SHARED_BYTES`] and [`THREADS`].
#[inline(always)]
pub unsafe fn count_block(slots: &Slots, chunk: Chunk, stats: *mut u32) -> u32 {
    let expert = thread::thread_idx_x();
    // SAFETY: each thread has a column of the counts to itself outside of the barriers.
    unsafe {
        let mut walker = 0;
        while walker < chunk.walkers {
            shared::store_u32(count_at(walker, expert), 0);
            walker += 1;
        }
        thread::sync_threads();
        let mut tally = Tally::default();
        walk(slots, chunk, &mut tally, |_, _, _| {});
        if !stats.is_null() && thread::thread_idx_x() / 32 < chunk.walkers {
            tally.report_slots(stats);
            report(stats, STAT_NON_FINITE, tally.non_finite);
        }
        thread::sync_threads();
        let mut total = 0;
        walker = 0;
        while walker < chunk.walkers {
            total += shared::load_u32(count_at(walker, expert));
            walker += 1;
        }
        total
    }
}

/// Adds the warp's sum of `count` to a word of `stats`.
///
/// # Safety
/// Whole warps call it; `stats` has 8 words.
#[inline(always)]
pub unsafe fn report(stats: *mut u32, word: usize, count: u32) {
    // SAFETY: the caller's duty.
    unsafe {
        let sum = warp::reduce_add_u32(warp::FULL, count);
        if sum != 0 && warp::lane_id() == 0 {
            atomic::add_u32(stats.add(word), sum);
        }
    }
}

/// Where the results go.
#[derive(Clone, Copy)]
pub struct Plan {
    /// Rows of each expert, u32.
    pub counts: *mut u32,
    /// First row of each expert, and their total, u32.
    pub offsets: *mut u32,
    /// Token of each row, u32.
    pub row_token: *mut u32,
    /// Row of each slot, u32.
    pub slot_row: *mut u32,
    /// Whether there is a shared expert behind the local ones.
    pub has_shared: bool,
    /// Rows of a tile.
    pub tile: u32,
}

/// Places the chunk's slots, after [`count_block`]: thread `e` knows that expert `e` has `total` rows in all, `before`
/// of them from earlier chunks. Writes the plan: the block's slots, its share of padding and of the shared expert's rows,
/// and, in block 0, counts and offsets.
///
/// # Safety
/// As [`count_block`], called right after it; `plan` has room for all rows.
#[inline(always)]
pub unsafe fn place_block(slots: &Slots, chunk: Chunk, plan: Plan, total: u32, before: u32) {
    let (expert, lane, warp_id) = (thread::thread_idx_x(), warp::lane_id(), thread::thread_idx_x() / 32);
    let (block, blocks) = (thread::block_idx_x(), thread::grid_dim_x());
    let is_local = expert < slots.local.count;
    let padded = if is_local { total.div_ceil(plan.tile) * plan.tile } else { 0 };
    // Sum of `padded` up to and with this thread's: in the warp, then over the warps.
    let mut sum = padded;
    let mut d = 1;
    while d < 32 {
        // SAFETY: all lanes are here.
        let below = unsafe { warp::shuffle_up(warp::FULL, sum, d) };
        sum += if lane >= d { below } else { 0 };
        d *= 2;
    }
    // SAFETY: a word per warp; all threads are at the barrier.
    let (offset, routed_rows) = unsafe {
        let base = shared::dynamic() + TOTALS;
        if lane == 31 {
            shared::store_u32(base + warp_id * 4, sum);
        }
        thread::sync_threads();
        let of_warp = shared::load_u32(base + lane * 4);
        let earlier = warp::reduce_add_u32(warp::FULL, if lane < warp_id { of_warp } else { 0 });
        (earlier + sum - padded, warp::reduce_add_u32(warp::FULL, of_warp))
    };
    let shared_rows = if plan.has_shared { slots.tokens } else { 0 };
    let all_rows = routed_rows + shared_rows.div_ceil(plan.tile) * plan.tile;
    // SAFETY: a column of counts and a pair of words per thread; the plan's arrays have an element per expert.
    unsafe {
        if is_local {
            let mut row = offset + before;
            let mut walker = 0;
            while walker < chunk.walkers {
                let at = count_at(walker, expert);
                let count = shared::load_u32(at);
                shared::store_u32(at, row);
                row += count;
                walker += 1;
            }
            shared::store_v2(shared::dynamic() + PADDING + expert * 8, [offset + total, offset + padded]);
            if block == 0 {
                plan.counts.add(expert as usize).write(total);
                plan.offsets.add(expert as usize).write(offset);
            }
        }
        if expert == 0 {
            let local = slots.local.count;
            shared::store_v2(shared::dynamic() + PADDING + local * 8, [routed_rows + shared_rows, all_rows]);
            if block == 0 {
                plan.offsets.add(local as usize).write(routed_rows);
                if plan.has_shared {
                    plan.counts.add(local as usize).write(shared_rows);
                    plan.offsets.add(local as usize + 1).write(all_rows);
                }
            }
        }
        thread::sync_threads();
        walk(slots, chunk, &mut Tally::default(), |slot, _, row| {
            plan.slot_row.add(slot as usize).write(row);
            if row != NONE {
                plan.row_token.add(row as usize).write(slot / slots.top_k);
            }
        });
        // Padding: a warp per expert, the last of them the shared one.
        let mut e = warp_id * blocks + block;
        while e <= slots.local.count {
            let [first, end] = shared::load_v2(shared::dynamic() + PADDING + e * 8);
            let mut row = first + lane;
            while row < end {
                plan.row_token.add(row as usize).write(NONE);
                row += 32;
            }
            e += THREADS / 32 * blocks;
        }
        let mut token = block * THREADS + thread::thread_idx_x();
        while token < shared_rows {
            plan.row_token.add((routed_rows + token) as usize).write(token);
            token += THREADS * blocks;
        }
    }
}
