//! Expert GEMMs for 9 to some 64 tokens per expert: weights are read and expanded once for up to 32 tokens. Right for any
//! number of tokens and any K.
//!
//! The small form ([`crate::expert_gemm_small`]) holds all columns of eight tokens; more do not fit beside the rings. Here
//! the columns of up to [`TOKENS`] tokens come in chunks, two buffers in turn, and every warp takes the row tiles of a group,
//! one or two, through a chunk before the next one, with their accumulators in registers (`Share`). So the tokens are read
//! from L2 once for [`CONSUMERS`] or twice as many row tiles: 12 % of the weights' bytes at 16 tokens, 47 % at 32.
//!
//! # Work
//! As in the decode form: the list of (expert, token tile, row tile) in contiguous shares; inside a block groups of
//! row tiles of one token tile. Every element is one chain of `m16n8k16` over ascending k.
//!
//! # Data
//! * Weights: a ring of stages for each warp, refilled by bulk copies in the order of their use: chunk by chunk, and in a
//!   chunk tile by tile. The rings run on across groups, token tiles and experts. Warps of their own issue the copies.
//! * Tokens: `full` and `empty` barriers for each buffer. A warp that does nothing else issues the copies of the next chunk
//!   when every other one has given the buffer back. Scales lie twice, by the parity of the token tile.
//!
//! # Budget
//! Per warp and k16 step, beside the small form's 16: an `HMMA` and half an `LDSM` for each further eight tokens. The
//! expansion's pipes have nothing more to do; so 32 tokens take little longer than eight.

use crate::expand::UNSCALE;
use crate::expert_gemm_mma::{
    Epilogue, FOLD_ALPHA, GROUP_TOKENS, Gemm, Plain, ROUTING_SETTLED, Scales, Swiglu, TOKEN_GAP,
    UNIT_TOKEN_BYTES, UnitWeights, entries, launches, unit_warp,
};
use crate::expert_list::{self, Entry, ExpertList};
use crate::fragment::{CODE_BYTES, UNIT_BYTES};
use crate::launch::{Arch, Arg, Dims, Geometry, Launch, LaunchBounds, registers_fit};
use crate::weight_ring::{self, RING_ALIGN, STAGE_BYTES, STAGE_UNITS, Source, Weights};
use cuda_std::prelude::*;
use cuda_std::{bulk, grid, mbarrier};

/// Most tokens of a tile; an expert's rows are split evenly.
pub const TOKENS: u32 = 32;
/// Warps that compute.
pub const CONSUMERS: u32 = 15;
/// The warp that brings tokens.
const PRODUCER: u32 = CONSUMERS;
/// Warps that fetch weights, behind it: each for every fourth ring.
const FETCH_WARPS: u32 = 4;
/// Warps of a block.
pub const WARPS: u32 = CONSUMERS + 1 + FETCH_WARPS;
/// Threads of a block.
pub const THREADS: u32 = 32 * WARPS;
/// Most row tiles that a warp takes through a chunk.
const MAX_TILES: usize = 2;
/// Buffers of tokens.
const BUFFERS: u32 = 2;
/// Stages of a warp's ring.
const STAGES: u32 = 4;
/// Most registers of a thread.
const REGISTERS: u32 = 96;
/// Bytes of a buffer.
const BUFFER_BYTES: u32 = Share::NARROW.bytes();
/// Bytes of the scales of a token tile: f32 of each token, then alpha and alpha of up.
const SCALE_BYTES: u32 = 4 * TOKENS + 16;

/// Byte offsets in dynamic shared memory.
mod at {
    use super::*;
    /// The list of experts.
    pub const LIST: u32 = 0;
    /// Scales, by parity of the token tile.
    pub const SCALES: u32 = LIST + expert_list::BYTES;
    /// Barriers "buffer is full": an arrival, and the bytes of the rows.
    pub const FULL: u32 = SCALES + 2 * SCALE_BYTES;
    /// Barriers "buffer is empty": an arrival of every warp that computes.
    pub const EMPTY: u32 = FULL + BUFFERS * mbarrier::BYTES;
    /// Barriers of the rings: a stage is full; then as many: it is empty.
    pub const RING_BARRIERS: u32 = EMPTY + BUFFERS * mbarrier::BYTES;
    /// From a stage's first barrier to its second.
    pub const TO_EMPTY: u32 = CONSUMERS * STAGES * mbarrier::BYTES;
    /// The buffers of tokens.
    pub const BUFFERS_DATA: u32 = (RING_BARRIERS + 2 * TO_EMPTY).next_multiple_of(16);
    /// The rings.
    pub const RINGS: u32 = (BUFFERS_DATA + BUFFERS * BUFFER_BYTES).next_multiple_of(RING_ALIGN);
    /// The end.
    pub const END: u32 = RINGS + CONSUMERS * STAGES * STAGE_BYTES;
}

/// Dynamic shared memory of a block.
pub const SHARED_BYTES: u32 = at::END;
/// Bounds of the kernels.
pub const BOUNDS: LaunchBounds = LaunchBounds::block(THREADS).min_ctas(1);

const _: () = {
    assert!(Share::WIDE.tiles() as usize == MAX_TILES && Share::NARROW.tiles() == 1);
    assert!(SHARED_BYTES <= 232_448);
    assert!(at::SCALES.is_multiple_of(16) && SCALE_BYTES.is_multiple_of(16));
    assert!(STAGE_BYTES.is_multiple_of(16) && BUFFER_BYTES.is_multiple_of(16));
    assert!(Share::WIDE.bytes() <= BUFFER_BYTES && TOKENS <= 32 && STAGES <= 32 && BUFFERS == 2);
    // Stages do not straddle chunks.
    assert!(Share::WIDE.chunk_units().is_multiple_of(STAGE_UNITS));
    assert!(Share::NARROW.chunk_units().is_multiple_of(STAGE_UNITS));
    // A 16-byte bank group further in each row: `ldmatrix` is free of conflicts.
    assert!(Share::WIDE.stride() % 128 == TOKEN_GAP && Share::NARROW.stride() % 128 == TOKEN_GAP);
    assert!(registers_fit(1, WARPS, REGISTERS));
};

launches! { BOUNDS, SHARED_BYTES, Geometry::Fixed;
"expert_gemm_medium_swiglu_bf16", "expert_gemm_medium_swiglu_f32", "expert_gemm_medium_plain_f32" }

/// Dimensions on a device of `sms` multiprocessors: one block each. Any grid from one block on gives the same bits.
pub const fn dims(sms: u32) -> Dims {
    Dims { grid: [sms, 1, 1], block: [THREADS, 1, 1], shared_bytes: SHARED_BYTES }
}

/// How a token tile is shared out, by the groups of eight tokens that fit: twice as many groups, half as many row tiles for a
/// warp and half as many columns in a chunk. So accumulators and buffers have one size.
#[derive(Clone, Copy)]
struct Share {
    /// Logarithm of the number of groups: what keeps this small in registers.
    shift: u32,
}

impl Share {
    /// Up to 16 tokens: two row tiles, chunks of 16 units.
    const WIDE: Share = Share { shift: 1 };
    /// Up to 32 tokens: one row tile, chunks of 8 units.
    const NARROW: Share = Share { shift: 2 };

    /// The one for `tokens` tokens.
    #[inline(always)]
    const fn of(tokens: u32) -> Share {
        if tokens <= Self::WIDE.groups() * GROUP_TOKENS { Self::WIDE } else { Self::NARROW }
    }

    /// Groups of eight tokens that fit.
    #[inline(always)]
    const fn groups(self) -> u32 {
        1 << self.shift
    }

    /// Row tiles that a warp takes through a chunk.
    #[inline(always)]
    const fn tiles(self) -> u32 {
        4 >> self.shift
    }

    /// Units of 64 columns of a chunk.
    #[inline(always)]
    const fn chunk_units(self) -> u32 {
        32 >> self.shift
    }

    /// Bytes from one token row of a buffer to the next.
    #[inline(always)]
    const fn stride(self) -> u32 {
        self.chunk_units() * UNIT_TOKEN_BYTES + TOKEN_GAP
    }

    /// Bytes of a buffer.
    const fn bytes(self) -> u32 {
        self.groups() * GROUP_TOKENS * self.stride()
    }
}

/// The groups of a block's share, in order.
#[derive(Clone, Copy)]
struct Walk {
    list: ExpertList<TOKENS>,
    /// Its number among all token tiles, and its entry.
    token_tile: u32,
    entry: u32,
    /// First row tile of the group.
    tile: u32,
    /// Row tiles of the share from there on.
    left: u32,
    tile_count: u32,
}

/// The rows of a token tile.
#[derive(Clone, Copy)]
struct TokenTile {
    expert: u32,
    /// First row.
    row: u32,
    /// Rows, at least 1.
    tokens: u32,
}

impl Walk {
    /// Row tiles of the group's token tile from the group's first one on, in this share.
    #[inline(always)]
    fn tiles(&self) -> u32 {
        self.left.min(self.tile_count - self.tile)
    }

    /// Row tiles of warp `warp` in the group.
    #[inline(always)]
    fn own(&self, warp: u32, share: Share) -> u32 {
        let tiles = self.tiles().min(share.tiles() * CONSUMERS);
        u32::from(tiles > warp) + u32::from(tiles > warp + CONSUMERS)
    }

    /// To the next group; false at the end.
    ///
    /// # Safety
    /// The list is built, and the walk not at its end.
    #[inline(always)]
    unsafe fn next(&mut self, share: Share) -> bool {
        let step = self.tiles().min(share.tiles() * CONSUMERS);
        self.left -= step;
        self.tile += step;
        if self.left == 0 {
            return false;
        }
        if self.tile == self.tile_count {
            self.tile = 0;
            self.token_tile += 1;
            // SAFETY: the entry of the group before is there.
            if self.token_tile == unsafe { self.list.entry(self.entry).end } {
                self.entry += 1;
            }
        }
        true
    }

    /// The token tile: an even part of its expert's rows.
    ///
    /// # Safety
    /// As [`Self::next`].
    #[inline(always)]
    unsafe fn token_tile(&self) -> TokenTile {
        // SAFETY: the caller's duty.
        let Entry { expert, first_row, rows, end } = unsafe { self.list.entry(self.entry) };
        let parts = rows.div_ceil(TOKENS);
        let each = rows.div_ceil(parts);
        let first = (parts - (end - self.token_tile)) * each;
        TokenTile { expert, row: first_row + first, tokens: each.min(rows - first) }
    }
}

/// The weights that a warp still needs, in order of their use.
struct Fetch<'a> {
    gemm: &'a Gemm,
    walk: Walk,
    warp: u32,
    /// That of the group's token tile.
    share: Share,
    /// Row tiles of the warp in the group, and the current one.
    own: u32,
    tile: u32,
    /// First unit of the chunk.
    chunk: u32,
    /// Those of this tile in the chunk; nothing: nothing is left at all.
    source: Source,
}

impl<'a> Fetch<'a> {
    /// At the first group of the walk; nothing for a warp that does not compute.
    ///
    /// # Safety
    /// As [`Walk::next`].
    #[inline(always)]
    unsafe fn new(gemm: &'a Gemm, walk: Walk, warp: u32) -> Self {
        // SAFETY: the caller's duty.
        unsafe {
            let share = Share::of(walk.token_tile().tokens);
            let own = walk.own(warp, share);
            let mut new = Self { gemm, walk, warp, share, own, tile: 0, chunk: 0, source: Source::none() };
            if warp >= CONSUMERS {
                return new;
            }
            if own != 0 {
                new.start();
            } else {
                new.next_group();
            }
            new
        }
    }

    /// # Safety
    /// As [`Walk::next`]; the warp has the tile.
    #[inline(always)]
    unsafe fn start(&mut self) {
        let gemm = self.gemm;
        // SAFETY: the caller's duty; a row tile of the weights.
        unsafe {
            let expert = self.walk.list.entry(self.walk.entry).expert;
            let row_tile = gemm.first_tile + self.walk.tile + self.tile * CONSUMERS + self.warp;
            let tile = u64::from(expert * gemm.row_tiles + row_tile);
            let unit = tile * u64::from(gemm.k_units) + u64::from(self.chunk);
            let from = gemm.weights.add((unit * UNIT_BYTES as u64) as usize);
            self.source = Source::of(from, (gemm.k_units - self.chunk).min(self.share.chunk_units()));
        }
    }

    /// To the warp's first tile of the next group that has one; leaves the source empty if there is none.
    ///
    /// # Safety
    /// As [`Walk::next`].
    #[inline(always)]
    unsafe fn next_group(&mut self) {
        // SAFETY: the caller's duty.
        unsafe {
            while self.walk.next(self.share) {
                self.share = Share::of(self.walk.token_tile().tokens);
                self.own = self.walk.own(self.warp, self.share);
                if self.own != 0 {
                    self.start();
                    return;
                }
            }
        }
    }
}

impl Weights for Fetch<'_> {
    #[inline(always)]
    fn source(&mut self) -> &mut Source {
        &mut self.source
    }

    #[inline(always)]
    unsafe fn next_tile(&mut self) {
        // SAFETY: as when it was made; the units are inside the tile.
        unsafe {
            self.tile += 1;
            if self.tile == self.own {
                self.tile = 0;
                self.chunk += self.share.chunk_units();
                if self.chunk >= self.gemm.k_units {
                    self.chunk = 0;
                    self.next_group();
                    return;
                }
            }
            self.start();
        }
    }
}

/// Brings the tokens of all groups, chunk by chunk, each when its buffer is free.
///
/// # Safety
/// The whole of the producer, and no other warp; `walk` is at the share's first group; rows and scales are complete;
/// barriers are live.
#[inline(always)]
unsafe fn produce_warp(gemm: &Gemm, base: u32, mut walk: Walk) {
    let lane = warp::lane_id();
    let (mut buffer, mut parity) = (0, 1);
    // SAFETY: rows of `b`; a buffer is written when every warp has given it back, and scales when every warp is done with
    // the token tile before the last: its last chunk is given back after its results are stored.
    unsafe {
        loop {
            // A token tile: the lane's row, and the scales.
            let tile = walk.token_tile();
            let share = Share::of(tile.tokens);
            let own = (tile.row + lane.min(tile.tokens - 1)) as usize;
            let row = if gemm.row_token.is_null() { own } else { *gemm.row_token.add(own) as usize };
            let from = gemm.b.cast::<u8>().add(row * (gemm.k_units * UNIT_TOKEN_BYTES) as usize);
            let scale = *gemm.b_scale.add(row) * UNSCALE;
            let up = if gemm.alpha_up.is_null() { gemm.alpha } else { gemm.alpha_up };
            let alphas = [*gemm.alpha.add(tile.expert as usize), *up.add(tile.expert as usize)];
            let token_tile = walk.token_tile;
            let mut fresh = true;
            loop {
                // A group.
                let mut chunk = 0;
                while chunk < gemm.k_units {
                    let full = base + at::FULL + buffer * mbarrier::BYTES;
                    mbarrier::wait_parity(base + at::EMPTY + buffer * mbarrier::BYTES, parity);
                    warp::sync_warp(warp::FULL);
                    let bytes = (gemm.k_units - chunk).min(share.chunk_units()) * UNIT_TOKEN_BYTES;
                    // A copy may end before the arrival: the phase can not.
                    if lane < tile.tokens {
                        let to = base + at::BUFFERS_DATA + buffer * BUFFER_BYTES + lane * share.stride();
                        bulk::load(to, from.add((chunk * UNIT_TOKEN_BYTES) as usize), bytes, full);
                    }
                    if fresh {
                        let to = base + at::SCALES + token_tile % 2 * SCALE_BYTES;
                        shared::store_u32(to + 4 * lane, scale.to_bits());
                        if opaque(lane == 0) {
                            shared::store_v2(to + 4 * TOKENS, alphas.map(f32::to_bits));
                        }
                        fresh = false;
                    }
                    // Every lane for the scale that it has written.
                    if opaque(lane == 0) {
                        mbarrier::arrive_expect_tx(full, tile.tokens * bytes);
                    } else {
                        mbarrier::arrive(full);
                    }
                    parity ^= buffer;
                    buffer ^= 1;
                    chunk += share.chunk_units();
                }
                if !walk.next(share) {
                    return;
                }
                if walk.token_tile != token_tile {
                    break;
                }
            }
        }
    }
}

/// What a warp knows of itself and of its ring.
struct Warp<'a> {
    gemm: &'a Gemm,
    lane: u32,
    index: u32,
    base: u32,
    /// Next stage, counted in the rings of all warps, and the parity of its use.
    slot: u32,
    parity: u32,
    /// Chunks of tokens so far: the buffer is its lowest bit, the parity of its use the next one.
    chunks: u32,
}

impl Warp<'_> {
    /// `acc` plus the products of one row tile with a chunk of `units` units: ascending k.
    ///
    /// # Safety
    /// The whole warp calls it; the chunk is full; `b` are the lane's `ldmatrix` addresses of its first unit.
    #[inline(always)]
    unsafe fn multiply<const G: usize>(&mut self, acc: &mut [[f32; 4]; G], b: [u32; G], units: u32) {
        let mut column = 0;
        let mut left = units;
        // SAFETY: the caller's duty; a stage is read between its "full" phase and its refill.
        unsafe {
            while left != 0 {
                let barrier = self.base + at::RING_BARRIERS + self.slot * mbarrier::BYTES;
                let stage = self.base + at::RINGS + self.slot * STAGE_BYTES;
                mbarrier::wait_parity(barrier, self.parity);
                warp::sync_warp(warp::FULL);
                let mut codes = stage + 16 * self.lane;
                let mut pairs = stage + CODE_BYTES as u32 + self.lane / 4 * 8;
                if left >= STAGE_UNITS {
                    let mut n = 0;
                    while n < STAGE_UNITS {
                        let unit = n * UNIT_BYTES as u32;
                        let weights = UnitWeights::load(codes + unit, pairs + unit);
                        unit_warp(acc, weights, offset(b, column + n * UNIT_TOKEN_BYTES));
                        n += 1;
                    }
                    column += STAGE_UNITS * UNIT_TOKEN_BYTES;
                    left -= STAGE_UNITS;
                } else {
                    // The last stage of a K that is no multiple of a stage's.
                    while left != 0 {
                        unit_warp(acc, UnitWeights::load(codes, pairs), offset(b, column));
                        codes += UNIT_BYTES as u32;
                        pairs += UNIT_BYTES as u32;
                        column += UNIT_TOKEN_BYTES;
                        left -= 1;
                    }
                }
                // Every lane for what it has read.
                mbarrier::arrive(barrier + at::TO_EMPTY);
                self.slot += 1;
                if self.slot == (self.index + 1) * STAGES {
                    self.slot -= STAGES;
                    self.parity ^= 1;
                }
            }
        }
    }

    /// A group with up to `8 * G` tokens: all chunks, then the results.
    ///
    /// # Safety
    /// The whole warp calls it, in order of the groups; `walk` is at the group.
    #[inline(always)]
    unsafe fn group<const G: usize, const R: usize, E: Epilogue>(
        &mut self,
        walk: &Walk,
        tile: TokenTile,
        epilogue: &E,
    ) {
        // `Share::of(tile.tokens)`, as a constant.
        let share = const { Share::of(G as u32 * GROUP_TOKENS) };
        let own = walk.own(self.index, share);
        let mut acc = [[[0.0; 4]; G]; R];
        // A column without a token reads a row that is there: columns do not mix, and what they hold is not stored.
        let row = |g: u32| (GROUP_TOKENS * g + self.lane % 8).min(tile.tokens - 1) * share.stride();
        let mut rows = [0; G];
        let mut g = 0;
        while g < G {
            rows[g] = self.base + at::BUFFERS_DATA + row(g as u32) + self.lane / 8 * 16;
            g += 1;
        }
        let mut chunk = 0;
        // SAFETY: a buffer is read between its "full" phase and this warp's arrival on "empty"; output and scales are
        // the epilogue's.
        unsafe {
            loop {
                let buffer = self.chunks % BUFFERS;
                let barrier = buffer * mbarrier::BYTES;
                mbarrier::wait_parity(self.base + at::FULL + barrier, self.chunks / BUFFERS % 2);
                warp::sync_warp(warp::FULL);
                let units = (self.gemm.k_units - chunk).min(share.chunk_units());
                let b = offset(rows, buffer * BUFFER_BYTES);
                let mut t = 0;
                while t < R {
                    if (t as u32) < own {
                        self.multiply::<G>(&mut acc[t], b, units);
                    }
                    t += 1;
                }
                chunk += share.chunk_units();
                self.chunks += 1;
                if chunk >= self.gemm.k_units {
                    self.store::<G, R, E>(walk, &acc, own, tile, epilogue);
                    self.release(barrier);
                    return;
                }
                self.release(barrier);
            }
        }
    }

    /// Gives a buffer of tokens back: every lane for what it has read.
    ///
    /// # Safety
    /// The whole warp, which has read all it wants of it.
    #[inline(always)]
    unsafe fn release(&self, barrier: u32) {
        // SAFETY: the caller's duty.
        unsafe {
            mbarrier::arrive(self.base + at::EMPTY + barrier);
        }
    }

    /// # Safety
    /// As [`Self::group`]; the scales are written.
    #[inline(always)]
    unsafe fn store<const G: usize, const R: usize, E: Epilogue>(
        &self,
        walk: &Walk,
        acc: &[[[f32; 4]; G]; R],
        own: u32,
        tile: TokenTile,
        epilogue: &E,
    ) {
        let at = self.base + at::SCALES + walk.token_tile % 2 * SCALE_BYTES;
        let mut t = 0;
        while t < R {
            let mut g = 0;
            while g < G {
                let first = GROUP_TOKENS * g as u32;
                if (t as u32) < own && first < tile.tokens {
                    let row_tile = walk.tile + t as u32 * CONSUMERS + self.index;
                    let tokens = (tile.tokens - first).min(GROUP_TOKENS);
                    let scales = Scales { tokens: at + 4 * first, alphas: at + 4 * TOKENS };
                    // SAFETY: rows and columns of the output.
                    unsafe {
                        epilogue.store_thread(acc[t][g], row_tile, tile.row + first, tokens, scales);
                    }
                }
                g += 1;
            }
            t += 1;
        }
    }
}

/// Each plus `by`.
#[inline(always)]
fn offset<const G: usize>(at: [u32; G], by: u32) -> [u32; G] {
    let mut to = at;
    let mut g = 0;
    while g < G {
        to[g] += by;
        g += 1;
    }
    to
}

/// The whole kernel.
///
/// # Safety
/// As the entries.
#[inline(always)]
unsafe fn run<E: Epilogue>(gemm: &Gemm, epilogue: &E) {
    let lane = warp::lane_id();
    // SAFETY: the launch gives SHARED_BYTES, of which all that follows takes parts; every collective is reached by the
    // whole warp (or block), as nothing before it depends on the lane.
    unsafe {
        // The same in all lanes, which the compiler can see.
        let index = warp::uniform(thread::thread_idx_x() / 32);
        let base = shared::dynamic();
        if index < CONSUMERS && lane < 2 * STAGES {
            let barrier = index * STAGES + lane % STAGES + lane / STAGES * (CONSUMERS * STAGES);
            let arrivals = if lane < STAGES { 1 } else { 32 };
            mbarrier::init(base + at::RING_BARRIERS + barrier * mbarrier::BYTES, arrivals);
        }
        if thread::thread_idx_x() < BUFFERS {
            mbarrier::init(base + at::FULL + lane * mbarrier::BYTES, 32);
            mbarrier::init(base + at::EMPTY + lane * mbarrier::BYTES, 32 * CONSUMERS);
        }
        mbarrier::fence_init();

        if !gemm.routing_settled {
            grid::wait_for_dependencies();
        }
        let list = ExpertList::<TOKENS>(base + at::LIST);
        list.build_cta(gemm.counts, gemm.offsets, gemm.experts, index, WARPS);
        thread::sync_threads();

        // The block's share of the list.
        let [entries, token_tiles] = list.totals();
        let all = token_tiles * gemm.tile_count;
        let (blocks, block) = (thread::grid_dim_x(), thread::block_idx_x());
        let (each, more) = (all / blocks, all % blocks);
        let first = block * each + block.min(more);
        let left = each + u32::from(block < more);
        if left == 0 {
            grid::wait_for_dependencies();
            return;
        }
        let token_tile = first / gemm.tile_count;
        let entry = list.find_warp(token_tile, entries);
        let mut walk = Walk {
            list,
            token_tile,
            entry,
            tile: first % gemm.tile_count,
            left,
            tile_count: gemm.tile_count,
        };
        // The same for a whole warp, so each takes one arm.
        if index == PRODUCER {
            grid::wait_for_dependencies();
            grid::launch_dependents();
            produce_warp(gemm, base, walk);
            return;
        }
        if index > PRODUCER {
            let ring = index - PRODUCER - 1 + FETCH_WARPS * lane;
            let (to, full) = (base + at::RINGS, base + at::RING_BARRIERS);
            let (to, full) = (to + ring * STAGES * STAGE_BYTES, full + ring * STAGES * mbarrier::BYTES);
            weight_ring::fetch_warp(Fetch::new(gemm, walk, ring), to, full, at::TO_EMPTY, STAGES);
            return;
        }
        // Rows, scales and outputs are others' business until here. A second wait returns at once.
        grid::wait_for_dependencies();
        grid::launch_dependents();

        let mut me = Warp { gemm, lane, index, base, slot: index * STAGES, parity: 0, chunks: 0 };
        loop {
            let tile = walk.token_tile();
            let share = Share::of(tile.tokens);
            if tile.tokens <= GROUP_TOKENS {
                // One group of columns has tokens: the other's products are left out.
                me.group::<1, MAX_TILES, E>(&walk, tile, epilogue);
            } else if share.shift == Share::WIDE.shift {
                me.group::<{ Share::WIDE.groups() as usize }, MAX_TILES, E>(&walk, tile, epilogue);
            } else {
                me.group::<{ Share::NARROW.groups() as usize }, 1, E>(&walk, tile, epilogue);
            }
            if !walk.next(share) {
                return;
            }
        }
    }
}

entries! { BOUNDS, run; expert_gemm_medium_swiglu_bf16, expert_gemm_medium_swiglu_f32, expert_gemm_medium_plain_f32 }
