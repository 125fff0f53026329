//! The list of experts that have rows, built by a block in shared memory from the counts.
//!
//! An entry is four words: the expert, its first row, its rows, and the token tiles (of `ROWS` rows) of this and all
//! earlier entries together. A number `q` below the last such sum is one (expert, token tile); experts without rows
//! cost nothing. The order is that of the experts, so the list is the same in every block.

use cuda_std::prelude::*;

/// Most experts: 384 and a shared one.
pub const MAX_EXPERTS: u32 = 385;
/// Bytes of an entry.
const ENTRY: u32 = 16;
/// Experts that a warp looks at together.
const CHUNK: u32 = 32;
/// Chunks of [`MAX_EXPERTS`].
const CHUNKS: usize = MAX_EXPERTS.div_ceil(CHUNK) as usize;
/// Where the two totals stand: behind the entries.
const TOTALS: u32 = MAX_EXPERTS * ENTRY;
/// Bytes of shared memory of a list, a multiple of 16.
pub const BYTES: u32 = TOTALS + ENTRY;

/// One expert that has rows.
#[derive(Clone, Copy)]
pub struct Entry {
    /// Its number.
    pub expert: u32,
    /// Its first row.
    pub first_row: u32,
    /// Its rows, at least one.
    pub rows: u32,
    /// Token tiles of this and all earlier entries.
    pub end: u32,
}

/// A list at an address of shared memory, in tiles of `ROWS` tokens.
#[derive(Clone, Copy)]
pub struct ExpertList<const ROWS: u32>(pub u32);

impl<const ROWS: u32> ExpertList<ROWS> {
    /// Builds the list: warp `c` does the chunks `c`, `c + warps`, .. of 32 experts, each by itself: it adds up what
    /// comes before its chunk, with all loads in flight at once. A block barrier must follow before the list is read.
    ///
    /// # Safety
    /// All warps of the block call it, whole; [`BYTES`] of shared memory at the list's address, 16-byte aligned;
    /// `counts` and `offsets` hold `experts` words, 1 <= `experts` <= [`MAX_EXPERTS`].
    #[inline(always)]
    pub unsafe fn build_cta(
        self,
        counts: *const u32,
        offsets: *const u32,
        experts: u32,
        warp: u32,
        warps: u32,
    ) {
        let lane = warp::lane_id();
        let chunks = experts.div_ceil(CHUNK);
        let mut chunk = warp;
        while chunk < chunks {
            let expert = chunk * CHUNK + lane;
            let at = expert.min(experts - 1) as usize;
            // SAFETY: `at` is an expert.
            let (count, first_row) = unsafe { (*counts.add(at), *offsets.add(at)) };
            let count = if expert < experts { count } else { 0 };
            // Of the experts before the chunk: lane by lane, then over the lanes.
            let (mut active_before, mut tiles_before) = (0, 0);
            let mut c = 0;
            while c < CHUNKS {
                let other = c as u32 * CHUNK + lane;
                // SAFETY: the index is an expert.
                let n = unsafe { *counts.add(other.min(experts - 1) as usize) };
                let n = if other < chunk * CHUNK { n } else { 0 };
                active_before += u32::from(n != 0);
                tiles_before += n.div_ceil(ROWS);
                c += 1;
            }
            // SAFETY: the whole warp is here: `chunk` is the same in all lanes.
            unsafe {
                let active_before = warp::reduce_add_u32(warp::FULL, active_before);
                let tiles_before = warp::reduce_add_u32(warp::FULL, tiles_before);
                let mut end = count.div_ceil(ROWS);
                let mut delta = 1;
                while delta < CHUNK {
                    let below = warp::shuffle_up(warp::FULL, end, delta);
                    end += if lane >= delta { below } else { 0 };
                    delta *= 2;
                }
                let end = end + tiles_before;
                let active = warp::vote_ballot(warp::FULL, count != 0);
                let place = active_before + (active & ((1 << lane) - 1)).count_ones();
                if count != 0 {
                    shared::store_v4(self.0 + place * ENTRY, [expert, first_row, count, end]);
                }
                if chunk + 1 == chunks && lane == CHUNK - 1 {
                    shared::store_v2(self.0 + TOTALS, [active_before + active.count_ones(), end]);
                }
            }
            chunk += warps;
        }
    }

    /// Entries, and token tiles of all.
    ///
    /// # Safety
    /// The list is built, and a block barrier has passed.
    #[inline(always)]
    pub unsafe fn totals(self) -> [u32; 2] {
        // SAFETY: inside the list.
        unsafe { shared::load_v2(self.0 + TOTALS) }
    }

    /// Entry `index`.
    ///
    /// # Safety
    /// As [`Self::totals`]; there is such an entry.
    #[inline(always)]
    pub unsafe fn entry(self, index: u32) -> Entry {
        // SAFETY: inside the list.
        let [expert, first_row, rows, end] = unsafe { shared::load_v4(self.0 + index * ENTRY) };
        Entry { expert, first_row, rows, end }
    }

    /// The entry that token tile `q` belongs to: how many entries end at or before `q`.
    ///
    /// # Safety
    /// As [`Self::totals`]; the whole warp calls it with the same `q`, below the total; `entries` is the first total.
    #[inline(always)]
    pub unsafe fn find_warp(self, q: u32, entries: u32) -> u32 {
        let mut found = 0;
        let mut base = 0;
        while base < entries {
            let index = base + warp::lane_id();
            // SAFETY: an entry of the list; the whole warp is here.
            unsafe {
                let end = shared::load_u32(self.0 + index.min(entries - 1) * ENTRY + 12);
                found += warp::vote_ballot(warp::FULL, index < entries && end <= q).count_ones();
            }
            base += CHUNK;
        }
        found
    }
}
