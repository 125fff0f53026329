//! Expert GEMMs for few tokens per expert: weights are read once and streamed through shared memory, tokens come in
//! tiles of eight. For decode batches beyond [`crate::expert_decode`]'s eight tokens; right for any number.
//!
//! # Work
//! The list of (expert, token tile, row tile), expert by expert, is dealt to the blocks in contiguous shares, equal to
//! one tile. Inside a block the tiles of the share go to the warps in turn. A warp runs the whole K of a row tile (16
//! rows) by itself: one chain of `mma.sync.m16n8k16` over ascending k, no split, so a token has the same bits in every
//! form and batch.
//!
//! # Data
//! * Weights: every warp has its own [`Ring`], which warps that do nothing else fill again as soon as a stage has been read; the
//!   ring runs on across tiles and experts, so the next tile's weights are under way during an epilogue, and while the block
//!   changes its tokens.
//! * Tokens: up to eight rows of f16, one bulk copy each, row-major with 16 bytes between rows, so that `ldmatrix` is
//!   free of bank conflicts and gives the B fragments of two steps. Columns of the MMA without a token read a row that
//!   is there: the columns of a product do not mix, and what they hold is not stored. So nothing is zeroed.
//!
//! # Budget
//! Counted in ptxas 13.0's code for sm_90a, per warp and k16 step (a word of eight weights per lane): 6 `LOP3` and 1 `F2FP`
//! (the logic pipe, two cycles each: 14 cycles), 3 `IMAD`, 4 `HMUL2`, 1 `HMMA`, 1 `LDS` or `LDSM`: 16.3 instructions, and
//! about 25 more per stage of 16 steps to wait for it and to give it back: 18 issue cycles. At 4.5 TB/s a quarter of a
//! multiprocessor (1755 MHz, 132 of them) has 30 cycles per step. 66 registers, no spills.
//!
//! Floors at DeepSeek-V4-Pro's shapes, bytes over 4.5 TB/s and f16 operations over 700 TFLOP/s; flash in brackets:
//!
//! | product | experts | MB | us by bytes | us by operations, 8 tokens each |
//! |---|---|---|---|---|
//! | L1, 6144 x 7168 (4096 x 4096) | 48 (256) | 1189 (2416) | 264 (537) | 48 (98) |
//! | L2, 7168 x 3072 (4096 x 2048) | 48 (256) | 595 (1208) | 132 (268) | 24 (49) |
//! | L1, one token | 6 | 149 (57) | 33 (13) | |
//! | L2, one token | 6 | 74 (28) | 17 (6.3) | |
//!
//! # Before the dependency
//! With [`ROUTING_SETTLED`] the list is built and the first weights are under way before the kernel waits for the one
//! before it. The launch may say so if that one writes neither `counts` nor `offsets`, and every kernel of the chain
//! waits before it lets its dependents start: then all but the direct predecessor have ended.
//!
//! Columns of K and shared memory: see [`stages`] and [`warps`]. Whatever is loop-invariant in shared memory takes
//! [`FIXED_BYTES`]; tokens take `8 * (128 * k_units + 16)`, the rings the rest.

use crate::expand::UNSCALE;
use crate::expert_gemm_mma::{
    Epilogue, FOLD_ALPHA, GROUP_TOKENS, Gemm, Plain, ROUTING_SETTLED, Scales, Swiglu, TOKEN_GAP,
    UNIT_TOKEN_BYTES, entries, launches,
};
use crate::expert_list::{self, ExpertList};
use crate::fragment::UNIT_BYTES;
use crate::launch::{Arch, Arg, Dims, Geometry, Launch, LaunchBounds};
use crate::weight_ring::{self, RING_ALIGN, Ring, STAGE_BYTES, Source, Weights};
use cuda_std::prelude::*;
use cuda_std::{bulk, grid, mbarrier};

/// Most warps of a block that multiply.
pub const MAX_WARPS: u32 = 24;
/// Warps that fetch weights, behind those: each for every fourth ring.
pub const FETCH_WARPS: u32 = 4;
/// Tokens of a tile.
pub const TOKENS: u32 = GROUP_TOKENS;
/// Stages of all rings, each with an mbarrier for "full" and one for "empty".
const RING_BARRIERS: u32 = 48;
/// Most stages of a ring; two lanes initialise the barriers of each.
const MAX_STAGES: u32 = 16;

/// Byte offsets in dynamic shared memory.
mod at {
    use super::*;
    /// The list of experts.
    pub const LIST: u32 = 0;
    /// Scales of the tokens, f32 x 8, then alpha and alpha of up.
    pub const SCALES: u32 = LIST + expert_list::BYTES;
    /// The alphas.
    pub const ALPHAS: u32 = SCALES + 4 * TOKENS;
    /// The mbarrier of the tokens.
    pub const TOKEN_BARRIER: u32 = ALPHAS + 8;
    /// Those of the rings: a stage is full; then as many: it is empty.
    pub const RING_BARRIERS: u32 = TOKEN_BARRIER + mbarrier::BYTES;
    /// From a stage's first mbarrier to its second.
    pub const TO_EMPTY: u32 = super::RING_BARRIERS * mbarrier::BYTES;
    /// The token rows; the rings follow.
    pub const TOKENS_DATA: u32 = (RING_BARRIERS + 2 * TO_EMPTY).next_multiple_of(RING_ALIGN);
}

/// Shared memory besides tokens and rings.
pub const FIXED_BYTES: u32 = at::TOKENS_DATA;
/// Dynamic shared memory: all that a block can have.
pub const SHARED_BYTES: u32 = 232_448;

const _: () = {
    assert!(at::RING_BARRIERS.is_multiple_of(8) && at::SCALES.is_multiple_of(16));
    // Rings behind eight rows of any length.
    assert!(at::TOKENS_DATA.is_multiple_of(RING_ALIGN) && (TOKENS * TOKEN_GAP).is_multiple_of(RING_ALIGN));
    // DeepSeek's 7168 columns leave two stages to each of 24 warps.
    assert!(stages(24, 112) == 2);
    assert!(2 * MAX_STAGES <= 32);
};

/// Bytes from one token row to the next.
const fn token_stride(k_units: u32) -> u32 {
    k_units * UNIT_TOKEN_BYTES + TOKEN_GAP
}

/// Stages of each of `warps` rings beside tokens of `k_units` units; 0 = does not fit.
pub const fn stages(warps: u32, k_units: u32) -> u32 {
    let used = FIXED_BYTES + TOKENS * token_stride(k_units);
    let fit = SHARED_BYTES.saturating_sub(used) / (warps * STAGE_BYTES);
    let fit = if fit < RING_BARRIERS / warps { fit } else { RING_BARRIERS / warps };
    if fit < MAX_STAGES { fit } else { MAX_STAGES }
}

/// The number of warps that multiply for `k_units` units: the most, in steps of four, that have two stages each. None from
/// [`MAX_K_UNITS`] on: the wide form takes such layers.
pub const fn warps(k_units: u32) -> Option<u32> {
    let mut warps = MAX_WARPS;
    while warps != 0 {
        if stages(warps, k_units) >= 2 {
            return Some(warps);
        }
        warps -= 4;
    }
    None
}

/// Most units of 64 columns of K: 12,800 columns.
pub const MAX_K_UNITS: u32 = 200;

const _: () = assert!(warps(MAX_K_UNITS).is_some() && warps(112).unwrap() == 24 && warps(144).unwrap() == 16);

/// Dimensions for `k_units` units on a device of `sms` multiprocessors: one block each. Any grid from one block on and
/// any number of warps that has a stage is right, with the same bits.
pub const fn dims(k_units: u32, sms: u32) -> Option<Dims> {
    match warps(k_units) {
        Some(warps) => {
            let block = [32 * (warps + FETCH_WARPS), 1, 1];
            Some(Dims { grid: [sms, 1, 1], block, shared_bytes: SHARED_BYTES })
        }
        None => None,
    }
}

/// Row tiles of a multiprocessor up to which [`FEW_WARPS`] are faster: one tile or two for a warp, longer rings (measured on
/// an H200: 58 for 63 us where 17 or 18 tiles come to each, DeepSeek-V4-Pro's gate and up of one token).
const FEW_TILES: u32 = 18;
/// See [`FEW_TILES`].
const FEW_WARPS: u32 = 16;

/// [`dims`] where `tiles` row tiles come to a multiprocessor.
pub const fn dims_for(k_units: u32, sms: u32, tiles: u32) -> Option<Dims> {
    match dims(k_units, sms) {
        Some(mut dims) => {
            let few = 32 * (FEW_WARPS + FETCH_WARPS);
            if tiles <= FEW_TILES && dims.block[0] > few {
                dims.block[0] = few;
            }
            Some(dims)
        }
        None => None,
    }
}

/// Bounds of the kernels.
pub const BOUNDS: LaunchBounds = LaunchBounds::block(32 * (MAX_WARPS + FETCH_WARPS)).min_ctas(1);

launches! { BOUNDS, SHARED_BYTES, Geometry::Warps(FETCH_WARPS + 1);
"expert_gemm_small_swiglu_bf16", "expert_gemm_small_swiglu_f32", "expert_gemm_small_plain_f32" }

/// The weights that a ring still needs, in order: its warp's tiles of the block's share.
struct Fetch<'a> {
    gemm: &'a Gemm,
    list: ExpertList<TOKENS>,
    /// The tile's weights that are next.
    source: Source,
    /// The tile: its number in the block's share, its row tile, its token tile and that one's entry.
    tile: u32,
    row_tile: u32,
    token_tile: u32,
    entry: u32,
    entry_end: u32,
    /// Tiles of the share.
    tiles: u32,
    /// Warps that multiply.
    warps: u32,
}

impl Fetch<'_> {
    /// Starts the current tile, if it is one of the share.
    ///
    /// # Safety
    /// The list is built.
    #[inline(always)]
    unsafe fn start_tile(&mut self) {
        if self.tile >= self.tiles {
            return;
        }
        while self.row_tile >= self.gemm.tile_count {
            self.row_tile -= self.gemm.tile_count;
            self.token_tile += 1;
            if self.token_tile == self.entry_end {
                self.entry += 1;
                // SAFETY: the tile is one of the share, so its entry is there.
                self.entry_end = unsafe { self.list.entry(self.entry).end };
            }
        }
        // SAFETY: as above.
        let expert = unsafe { self.list.entry(self.entry).expert };
        let tile = expert * self.gemm.row_tiles + self.gemm.first_tile + self.row_tile;
        // SAFETY: a row tile of the weights.
        let from = unsafe {
            let at = u64::from(tile) * u64::from(self.gemm.k_units * UNIT_BYTES as u32);
            self.gemm.weights.add(at as usize)
        };
        self.source = Source::of(from, self.gemm.k_units);
    }
}

impl Weights for Fetch<'_> {
    #[inline(always)]
    fn source(&mut self) -> &mut Source {
        &mut self.source
    }

    #[inline(always)]
    unsafe fn next_tile(&mut self) {
        self.tile += self.warps;
        self.row_tile += self.warps;
        // SAFETY: the list is built.
        unsafe { self.start_tile() };
    }
}

/// The whole kernel.
///
/// # Safety
/// As the entries.
#[inline(always)]
unsafe fn run<E: Epilogue>(gemm: &Gemm, epilogue: &E) {
    let lane = warp::lane_id();
    let all_warps = thread::block_dim_x() / 32;
    let warps = all_warps - FETCH_WARPS;
    let stages = stages(warps, gemm.k_units);
    // SAFETY: the launch gives SHARED_BYTES, of which all that follows takes parts; every collective is reached by the
    // whole warp (or block), as nothing before it depends on the lane.
    unsafe {
        // The same in all lanes, which the compiler can see.
        let warp = warp::uniform(thread::thread_idx_x() / 32);
        let base = shared::dynamic();
        let stride = token_stride(gemm.k_units);
        let rings = base + at::TOKENS_DATA + TOKENS * stride;
        let ring_of = |warp: u32| {
            let stage = warp * stages;
            (rings + stage * STAGE_BYTES, base + at::RING_BARRIERS + stage * mbarrier::BYTES)
        };
        let (ring, full) = ring_of(warp);
        if warp < warps && lane < 2 * stages {
            let arrivals = if lane < stages { 1 } else { 32 };
            mbarrier::init(full + lane % stages * mbarrier::BYTES + lane / stages * at::TO_EMPTY, arrivals);
        }
        if thread::thread_idx_x() == 0 {
            mbarrier::init(base + at::TOKEN_BARRIER, 32);
        }
        mbarrier::fence_init();

        if !gemm.routing_settled {
            grid::wait_for_dependencies();
        }
        let list = ExpertList::<TOKENS>(base + at::LIST);
        list.build_cta(gemm.counts, gemm.offsets, gemm.experts, warp, all_warps);
        thread::sync_threads();

        // The block's share of the list.
        let [entries, token_tiles] = list.totals().map(|word| warp::uniform(word));
        let all = token_tiles * gemm.tile_count;
        let (blocks, block) = (thread::grid_dim_x(), thread::block_idx_x());
        let (each, more) = (all / blocks, all % blocks);
        let first = block * each + block.min(more);
        let tiles = each + u32::from(block < more);
        if tiles == 0 {
            grid::wait_for_dependencies();
            return;
        }
        let (mut token_tile, first_row_tile) = (first / gemm.tile_count, first % gemm.tile_count);
        let mut entry_at = warp::uniform(list.find_warp(token_tile, entries));
        let mut entry = list.entry(entry_at);

        if opaque(warp >= warps) {
            let ring = warp - warps + FETCH_WARPS * lane;
            let mut fetch = Fetch {
                gemm,
                list,
                source: Source::none(),
                tile: if ring < warps { ring } else { tiles },
                row_tile: first_row_tile + ring,
                token_tile,
                entry: entry_at,
                entry_end: entry.end,
                tiles,
                warps,
            };
            fetch.start_tile();
            let (to, full) = ring_of(ring);
            weight_ring::fetch_warp(fetch, to, full, at::TO_EMPTY, stages);
            return;
        }
        let mut ring = Ring::new(ring, full, stages);
        // Rows, scales and outputs are others' business until here. A second wait returns at once.
        grid::wait_for_dependencies();
        grid::launch_dependents();

        let scales = Scales { tokens: base + at::SCALES, alphas: base + at::ALPHAS };
        let mut token_parity = 0;
        // The warp's next tile as a row tile of the current token tile, and the end of the share as one.
        let mut tile = first_row_tile + warp;
        let mut end = first_row_tile + tiles;
        loop {
            // The tokens: warp 0 looks them up while others may still work on the last ones.
            let first_token = (entry.rows.div_ceil(TOKENS) - (entry.end - token_tile)) * TOKENS;
            let row = entry.first_row + first_token;
            let tokens = (entry.rows - first_token).min(TOKENS);
            let (mut from, mut scale, mut alphas) = (0, 0.0, [0.0; 2]);
            if warp == 0 {
                let own = row + lane.min(tokens - 1);
                from =
                    if gemm.row_token.is_null() { own } else { *gemm.row_token.add(own as usize) } as usize;
                scale = *gemm.b_scale.add(from) * UNSCALE;
                let expert = entry.expert as usize;
                let up = if gemm.alpha_up.is_null() { gemm.alpha } else { gemm.alpha_up };
                alphas = [*gemm.alpha.add(expert), *up.add(expert)];
            }
            // Every warp is done with the last token tile and with its scales.
            thread::sync_threads_named(1, 32 * warps);
            if opaque(warp == 0) {
                let bytes = gemm.k_units * UNIT_TOKEN_BYTES;
                let barrier = base + at::TOKEN_BARRIER;
                // A copy may end before this arrival: the phase can not.
                if lane < tokens {
                    let from = gemm.b.cast::<u8>().add(from * bytes as usize);
                    bulk::load(base + at::TOKENS_DATA + lane * stride, from, bytes, barrier);
                }
                // The scales come from memory while the rows do.
                if lane < TOKENS {
                    shared::store_u32(base + at::SCALES + 4 * lane, scale.to_bits());
                }
                if lane == 0 {
                    shared::store_v2(base + at::ALPHAS, alphas.map(f32::to_bits));
                }
                // Every lane for what it has written.
                if opaque(lane == 0) {
                    mbarrier::arrive_expect_tx(barrier, tokens * bytes);
                } else {
                    mbarrier::arrive(barrier);
                }
                warp::sync_warp(warp::FULL);
            }
            mbarrier::wait_parity(base + at::TOKEN_BARRIER, token_parity);
            token_parity ^= 1;
            let b_rows = base + at::TOKENS_DATA + (lane % 8).min(tokens - 1) * stride + lane / 8 * 16;

            while tile < end.min(gemm.tile_count) {
                let acc = ring.chain_warp(gemm.k_units, b_rows, at::TO_EMPTY);
                epilogue.store_thread(acc, tile, row, tokens, scales);
                tile += warps;
            }

            if end <= gemm.tile_count {
                return;
            }
            end -= gemm.tile_count;
            tile -= gemm.tile_count;
            token_tile += 1;
            if token_tile == entry.end {
                entry_at += 1;
                entry = list.entry(entry_at);
            }
        }
    }
}

entries! { BOUNDS, run; expert_gemm_small_swiglu_bf16, expert_gemm_small_swiglu_f32, expert_gemm_small_plain_f32 }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_memory_holds_what_the_planner_gives() {
        for k_units in 1..=MAX_K_UNITS {
            let warps = warps(k_units).unwrap();
            let stages = stages(warps, k_units);
            let bytes = FIXED_BYTES + TOKENS * token_stride(k_units) + warps * stages * STAGE_BYTES;
            assert!(bytes <= SHARED_BYTES && stages >= 2 && warps * stages <= RING_BARRIERS);
        }
        assert_eq!(warps(220), None);
    }
}
