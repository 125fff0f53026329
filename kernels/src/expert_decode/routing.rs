//! The slots of a call sorted by expert, by one warp in shared memory.
//!
//! Every block does it for itself, with the same result: no launch in front. The order is that of [`crate::slots`]: rows of an expert in slot order, experts ascending, the shared one last.
//! Tokens that are not finite keep their rows here (nobody knows yet); the combination does not use them.
//!
//! A slot's key is its expert and its number, so the rank of a key is its row, and no two are equal. Rows are bits of a
//! 64-bit word from there on: where an expert begins, where a token tile begins.

use crate::slots::{self, LocalExperts, NONE};
use cuda_std::prelude::*;

use super::layout::{MAX_ROWS, at};

/// Bits of a slot's number in its key.
const SLOT_BITS: u32 = MAX_ROWS.trailing_zeros();

/// What a call's rows are made from.
pub struct Routing {
    /// Expert of each slot.
    pub topk_ids: *const i32,
    /// Weight of each slot.
    pub weights: *const f32,
    /// The number of tokens.
    pub tokens: *const u32,
    /// Most that it can be.
    pub max_tokens: u32,
    /// Slots of a token.
    pub top_k: u32,
    /// The experts of this rank.
    pub local: LocalExperts,
    /// Whether a shared expert takes every token, behind the local ones.
    pub has_shared: bool,
    /// Rows of a token tile.
    pub tile_tokens: u32,
}

/// Both halves of a 64-bit ballot: rows `lane` and `lane + 32`.
///
/// # Safety
/// The whole warp calls it.
#[inline(always)]
unsafe fn ballot(bits: [bool; 2]) -> u64 {
    // SAFETY: the caller's duty.
    unsafe {
        let (low, high) = (warp::vote_ballot(warp::FULL, bits[0]), warp::vote_ballot(warp::FULL, bits[1]));
        u64::from(high) << 32 | u64::from(low)
    }
}

/// The bits below `n`.
#[inline(always)]
const fn below(n: u32) -> u64 {
    if n < u64::BITS { (1 << n) - 1 } else { u64::MAX }
}

impl Routing {
    /// Builds rows, tiles and what belongs to slots and tokens in the shared memory at `base`, and the number of token tiles;
    /// adds to `stats` unless it is null.
    ///
    /// # Safety
    /// One whole warp calls it; a block barrier must follow before others read. The slots of all tokens that there can be
    /// exist, at most [`MAX_ROWS`] with the shared expert's.
    #[inline(always)]
    pub unsafe fn build_warp(&self, base: u32, stats: *mut u32) {
        let lane = warp::lane_id();
        let own = [lane, lane + 32];
        let most = self.max_tokens * self.top_k;
        // SAFETY: the whole warp is here; a word of each array for each of the lane's two slots, rows and tokens.
        unsafe {
            // All slots that there can be, while the number of tokens is on its way too.
            let (mut ids, mut token) = ([0; 2], [0; 2]);
            let mut weights = [0; 2];
            let mut j = 0;
            while j < 2 {
                if own[j] < most {
                    ids[j] = *self.topk_ids.add(own[j] as usize) as u32;
                    weights[j] = *self.weights.cast::<u32>().add(own[j] as usize);
                }
                token[j] = own[j] / self.top_k;
                j += 1;
            }
            let tokens = (*self.tokens).min(self.max_tokens);
            let slots = tokens * self.top_k;
            let candidates = slots + if self.has_shared { tokens } else { 0 };
            let mut keys = [NONE; 2];
            let mut tally = slots::Tally::default();
            j = 0;
            while j < 2 {
                let mut expert = NONE;
                if own[j] < slots {
                    expert = self.local.of(ids[j], &mut tally);
                    shared::store_u32(base + at::SLOT_WEIGHT + 4 * own[j], weights[j]);
                } else if own[j] < candidates {
                    expert = self.local.count;
                    token[j] = own[j] - slots;
                }
                if expert != NONE {
                    keys[j] = expert << SLOT_BITS | own[j];
                }
                shared::store_u32(base + at::KEYS + 4 * own[j], keys[j]);
                j += 1;
            }
            let valid = ballot([keys[0] != NONE, keys[1] != NONE]);
            let rows = valid.count_ones();
            warp::sync_warp(warp::FULL);
            let mut rank = [0; 2];
            let mut other = 0;
            while other < candidates {
                let others = shared::load_v4(base + at::KEYS + 4 * other);
                j = 0;
                while j < 4 {
                    rank[0] += u32::from(others[j] < keys[0]);
                    rank[1] += u32::from(others[j] < keys[1]);
                    j += 1;
                }
                other += 4;
            }
            j = 0;
            while j < 2 {
                let is_row = keys[j] != NONE;
                shared::store_u32(base + at::SLOT_ROW + 4 * own[j], if is_row { rank[j] } else { NONE });
                if is_row {
                    shared::store_u32(base + at::SORTED + 4 * rank[j], keys[j] >> SLOT_BITS);
                    shared::store_u32(base + at::ROW_TOKEN + 4 * rank[j], token[j]);
                }
                j += 1;
            }
            warp::sync_warp(warp::FULL);
            // Rows from here on.
            let mut experts = [NONE; 2];
            let mut begins = [false; 2];
            j = 0;
            while j < 2 {
                if own[j] < rows {
                    experts[j] = shared::load_u32(base + at::SORTED + 4 * own[j]);
                    let before = shared::load_u32(base + at::SORTED + 4 * own[j].saturating_sub(1));
                    begins[j] = own[j] == 0 || before != experts[j];
                }
                j += 1;
            }
            let firsts = ballot(begins);
            j = 0;
            while j < 2 {
                // The row's place in its expert: from the last beginning up to it.
                let upto = firsts & below(own[j] + 1);
                let place = own[j] + upto.leading_zeros() - 63;
                begins[j] = own[j] < rows && place.is_multiple_of(self.tile_tokens);
                j += 1;
            }
            let tiles = ballot(begins);
            j = 0;
            while j < 2 {
                let row = own[j];
                if begins[j] {
                    let next = tiles & !below(row + 1);
                    let end = if next == 0 { rows } else { next.trailing_zeros() };
                    let index = (tiles & below(row)).count_ones();
                    shared::store_v4(base + at::TILES + 16 * index, [experts[j], row, end - row, 0]);
                }
                j += 1;
            }
            if lane == 0 {
                shared::store_u32(base + at::TOKEN_TILES, tiles.count_ones());
            }
            if !stats.is_null() {
                tally.report_slots(stats);
            }
        }
    }
}

/// Some rows of one expert that are multiplied together.
#[derive(Clone, Copy)]
pub struct TokenTile {
    /// The expert.
    pub expert: u32,
    /// First row.
    pub first_row: u32,
    /// Rows, at least one.
    pub rows: u32,
}

impl TokenTile {
    /// Number `index`.
    ///
    /// # Safety
    /// [`Routing::build_warp`] has made it, and a block barrier has passed; the whole warp calls it.
    #[inline(always)]
    pub unsafe fn load_warp(base: u32, index: u32) -> Self {
        // SAFETY: the caller's duty.
        let [expert, first_row, rows, _] =
            unsafe { shared::load_v4(base + at::TILES + 16 * index).map(|word| warp::uniform(word)) };
        Self { expert, first_row, rows }
    }

    /// [`Self::load_warp`] by one thread.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    pub unsafe fn load_thread(base: u32, index: u32) -> Self {
        // SAFETY: the caller's duty.
        let [expert, first_row, rows, _] = unsafe { shared::load_v4(base + at::TILES + 16 * index) };
        Self { expert, first_row, rows }
    }
}
