//! The slots of a call sorted by expert, by one warp in shared memory.
//!
//! Every block does it for itself, with the same result: no launch in front, and a block knows its weights two
//! microseconds after its start. The order is that of [`crate::slots`]: rows of an expert in slot order, experts ascending, the shared one last.
//! Tokens that are not finite keep their rows here (nobody knows yet); the combination does not use them.
//!
//! A slot's key is its expert and its number, so the rank of a key is its row, and no two are equal. Rows are bits of a
//! 64-bit word from there on: where an expert begins, where a token tile begins.

use crate::slots::{self, NONE, Slots};
use cuda_std::prelude::*;

use super::layout::{MAX_ROWS, at};

/// Bits of a slot's number in its key.
const SLOT_BITS: u32 = MAX_ROWS.trailing_zeros();

/// What a call's rows are made from.
pub struct Routing {
    /// The slots; none is left out for its token's sake.
    pub slots: Slots,
    /// Weight of each slot.
    pub weights: *const f32,
    /// Whether a shared expert takes every token, as number `slots.local`.
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

/// The bits below `n` (at most 63).
#[inline(always)]
const fn below(n: u32) -> u64 {
    (1 << n) - 1
}

impl Routing {
    /// Rows in all if every slot has one: slots, then the tokens of the shared expert.
    #[inline(always)]
    fn candidates(&self) -> u32 {
        self.slots.len() + if self.has_shared { self.slots.tokens } else { 0 }
    }

    /// Builds rows, tiles and what belongs to slots and tokens in the shared memory at `base`; adds to `stats` unless it is
    /// null. Returns the number of token tiles.
    ///
    /// # Safety
    /// One whole warp calls it; a block barrier must follow before others read. The slots exist, at most [`MAX_ROWS`] with
    /// the shared expert's.
    #[inline(always)]
    pub unsafe fn build_warp(&self, base: u32, stats: *mut u32) -> u32 {
        let lane = warp::lane_id();
        let (slots, candidates) = (self.slots.len(), self.candidates());
        // SAFETY: the whole warp is here; a word of each array for each of the lane's two slots, rows and tokens.
        unsafe {
            let mut keys = [NONE; 2];
            let mut tally = slots::Tally::default();
            let mut j = 0;
            while j < 2 {
                let slot = lane + 32 * j as u32;
                let mut expert = NONE;
                if slot < slots {
                    expert = self.slots.expert(slot, &mut tally);
                    let weight = *self.weights.add(slot as usize);
                    shared::store_u32(base + at::SLOT_WEIGHT + 4 * slot, weight.to_bits());
                } else if slot < candidates {
                    expert = self.slots.local;
                }
                if expert != NONE {
                    keys[j] = expert << SLOT_BITS | slot;
                }
                shared::store_u32(base + at::KEYS + 4 * slot, keys[j]);
                j += 1;
            }
            if !stats.is_null() {
                tally.report_slots(stats);
            }
            let rows = ballot([keys[0] != NONE, keys[1] != NONE]).count_ones();
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
                let slot = lane + 32 * j as u32;
                let is_row = keys[j] != NONE;
                shared::store_u32(base + at::SLOT_ROW + 4 * slot, if is_row { rank[j] } else { NONE });
                if is_row {
                    shared::store_u32(base + at::SORTED + 4 * rank[j], keys[j]);
                }
                j += 1;
            }
            warp::sync_warp(warp::FULL);
            // Rows from here on.
            let mut experts = [NONE; 2];
            let mut begins = [false; 2];
            j = 0;
            while j < 2 {
                let row = lane + 32 * j as u32;
                if row < rows {
                    let key = shared::load_u32(base + at::SORTED + 4 * row);
                    experts[j] = key >> SLOT_BITS;
                    let before = shared::load_u32(base + at::SORTED + 4 * row.saturating_sub(1));
                    begins[j] = row == 0 || before >> SLOT_BITS != experts[j];
                    let slot = key % MAX_ROWS;
                    let token = if slot < slots { slot / self.slots.top_k } else { slot - slots };
                    shared::store_u32(base + at::ROW_TOKEN + 4 * row, token);
                }
                j += 1;
            }
            let firsts = ballot(begins);
            j = 0;
            while j < 2 {
                let row = lane + 32 * j as u32;
                // The row's place in its expert: from the last beginning up to it.
                let upto = firsts & (below(row) << 1 | 1);
                let place = row + upto.leading_zeros() - 63;
                begins[j] = row < rows && place.is_multiple_of(self.tile_tokens);
                j += 1;
            }
            let tiles = ballot(begins);
            j = 0;
            while j < 2 {
                let row = lane + 32 * j as u32;
                if begins[j] {
                    let next = tiles & !(below(row) << 1 | 1);
                    let end = if next == 0 { rows } else { next.trailing_zeros() };
                    let index = (tiles & below(row)).count_ones();
                    shared::store_v4(base + at::TILES + 16 * index, [experts[j], row, end - row, 0]);
                }
                j += 1;
            }
            if lane < self.slots.tokens {
                let mut count = u32::from(self.has_shared);
                let mut slot = lane * self.slots.top_k;
                let end = slot + self.slots.top_k;
                while slot < end {
                    count += u32::from(shared::load_u32(base + at::KEYS + 4 * slot) != NONE);
                    slot += 1;
                }
                shared::store_u32(base + at::TOKEN_ROWS + 4 * lane, count);
            }
            tiles.count_ones()
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
    pub unsafe fn load(base: u32, index: u32) -> Self {
        // SAFETY: the caller's duty.
        let [expert, first_row, rows, _] =
            unsafe { shared::load_v4(base + at::TILES + 16 * index).map(|word| warp::uniform(word)) };
        Self { expert, first_row, rows }
    }
}
