//! The routed experts of up to eight tokens in one launch: from bf16 rows and expert ids to combined rows. The decode form.
//!
//! What the split form does in six launches ([`crate::prepare_rows_bf16`], [`crate::sort_slots`],
//! [`crate::expert_gemm_small`] twice with `prepare_rows_bf16` between, [`crate::combine`]), with the same operations in the
//! same order, so with the same bits. Few tokens leave so little work that launches, and the pipelines that fill and drain with each, are what
//! counts: here the weights of both products are one stream.
//!
//! # Work
//! * Every block sorts the slots ([`routing`]): two microseconds in which no weights are read.
//! * The tiles of the first product (16 rows of weights by a token tile) are dealt to the blocks in contiguous shares, equal
//!   to one tile, and so are those of the second. Inside a block they go to as few warps as do them in as many rounds
//!   ([`layout::warps_for`]), each with a ring of its own ([`crate::weight_ring`]) that runs on from the first product to the second
//!   ([`stream`]). A warp runs the whole K of its row tile: one chain over ascending k, as in every form.
//! * Meanwhile its other warps bring the tokens and make f16 of them ([`rows`]), all of them: no change of tokens later.
//! * SwiGLU's results go to device memory; a counter per token tile says when all of them are there. A block waits
//!   for those of its share of the second product, stages their rows, and finds its weights in the rings.
//! * Whoever finishes a token's last row in a tile of 16 columns adds up its slots there ([`outputs`]).
//!
//! Blocks wait for each other, so all of them must be resident at once: [`Geometry::Resident`].
//!
//! # Floors
//! Bytes over 4.65 TB/s (an H200), DeepSeek-V4-Pro's 37.2 MB per expert and Flash's 14.2 MB, all picks of a token different:
//! 48 us for a token of Pro (six experts), 18.3 us for one of Flash. Operations are those of the small form: 19 issue cycles
//! for a warp and k16 step where bandwidth leaves 30.
//! To it comes what no weights overlap: the sort, and behind the weights the second product's last tiles and their
//! combination. Measured: `docs/hopper.md`.

use crate::expand::UNSCALE;
use crate::expert_gemm_mma::{Epilogue, Plain, Swiglu};
use crate::launch::{Arch, Arg, Dims, Geometry, Launch, LaunchBounds};
use crate::slots::{self, NONE, STAT_NON_FINITE, Slots};
use crate::weight_ring::{Ring, STAGE_BYTES};
use cuda_std::prelude::*;
use cuda_std::{
    convergence::{opaque, opaque_u32},
    grid, mbarrier,
};

pub mod layout;
pub mod outputs;
pub mod routing;
pub mod rows;
pub mod stream;

use layout::{
    SHARED_BYTES, WARPS, at, most_warps, row_stride, rows_bytes, staged_rows, stages, tile_tokens, warps_for,
};
use outputs::{Counters, MAX_ROW_TILES, Tokens};
use routing::{Routing, TokenTile};
use rows::Rows;
use stream::{Product, Share, Stream};

/// Threads of a block.
pub const THREADS: u32 = 32 * WARPS;

/// Bounds of the kernel.
pub const BOUNDS: LaunchBounds = LaunchBounds::block(THREADS).min_ctas(1);

/// Its row of the launch table.
pub const LAUNCH: Launch = Launch {
    name: "expert_decode",
    bounds: BOUNDS,
    shared_bytes: SHARED_BYTES,
    archs: &Arch::ALL,
    geometry: Geometry::Resident,
    args: &[
        Arg::input("x", "bf16 [max_tokens, columns], 16-byte aligned"),
        Arg::input("topk_ids", "i32 [max_tokens * top_k]: expert of each slot; any value"),
        Arg::input("topk_weights", "f32 [max_tokens * top_k]"),
        Arg::input("tokens", "u32 [1] on the device: tokens, capped at max_tokens"),
        Arg::input(
            "weights",
            "u8, fragment order: [experts][row_tiles][k_units] units, gate and up; 16-byte aligned",
        ),
        Arg::input("alpha", "f32 [experts]: global scale of gate"),
        Arg::input("alpha_up", "f32 [experts]: global scale of up"),
        Arg::input(
            "weights_down",
            "u8, fragment order: [experts][row_tiles_down][k_units_down] units; 16-byte aligned",
        ),
        Arg::input("alpha_down", "f32 [experts]: its global scale"),
        Arg::output("h", "bf16 [64, 64 * k_units_down]: SwiGLU's results, written and read; 16-byte aligned"),
        Arg::output("y", "f32 [64, columns]: the second product, written and read"),
        Arg::input("shared", "f32 [max_tokens, columns]: a shared expert's output, added last; or null"),
        Arg::output("out", "bf16 [max_tokens, columns]"),
        Arg::output("out_f32", "f32 [max_tokens, columns]: the sums before rounding; or null"),
        Arg::output(
            "stats",
            "u32 [8]: adds invalid slots, foreign slots and non-finite tokens to words 0, 1, 2",
        ),
        Arg::output("counters", "u32 [outputs::COUNTERS]: zeros, and zeros again afterwards"),
        Arg::u32("max_tokens", "tokens that the buffers hold, 1 to 8; see layout::fits"),
        Arg::u32("top_k", "slots of a token, at least 1"),
        Arg::u32("experts", "of the model, below 2^31"),
        Arg::u32("first_local", "first expert of this rank"),
        Arg::u32("local", "experts of this rank, below 2^25"),
        Arg::u32("folded", "1: a shared expert that takes every token comes behind the local ones"),
        Arg::u32("columns", "of x and out: a multiple of 16"),
        Arg::u32("row_tiles", "row tiles of gate and up"),
        Arg::u32("k_units", "units of 64 columns of the first product"),
        Arg::u32("intermediate", "features of SwiGLU: a multiple of 16"),
        Arg::u32("row_tiles_down", "row tiles of the second product, at most 512"),
        Arg::u32("k_units_down", "units of 64 columns of the second product"),
        Arg::f32("limit", "SwiGLU clamp, positive; +infinity for none"),
    ],
};

const _: () = assert!(MAX_ROW_TILES * 16 == layout::MAX_COLUMNS);

/// Dimensions on a device of `sms` multiprocessors. Any smaller grid gives the same bits; a larger one is refused.
pub const fn dims(sms: u32) -> Dims {
    Dims { grid: [sms, 1, 1], block: BOUNDS.block, shared_bytes: SHARED_BYTES }
}

/// What lies in front of the products, between and behind them.
struct Layer {
    /// Row tiles of the first product: how many of a token tile hand over.
    row_tiles: u32,
    /// Global scales: of gate, up and down.
    alphas: [*const f32; 3],
    x: Rows,
    h: Rows,
    swiglu: Swiglu<u16>,
    plain: Plain,
    tokens: Tokens,
    counters: Counters,
    /// Bytes of the staged rows.
    rows_bytes: u32,
}

impl Layer {
    /// Deals the tiles of `token_tiles` token tiles: writes the products and the block's shares of them.
    ///
    /// # Safety
    /// One whole warp; a block barrier must follow.
    #[inline(always)]
    unsafe fn deal_warp(&self, base: u32, products: [Product; 2], token_tiles: u32) {
        let (blocks, block, lane) = (thread::grid_dim_x(), thread::block_idx_x(), warp::lane_id());
        // A lane for each product: divisions take their time.
        let row_tiles = if lane == 0 { products[0].row_tiles } else { products[1].row_tiles };
        let all = token_tiles * row_tiles;
        let (each, more) = (all / blocks, all % blocks);
        let tiles = each + u32::from(block < more);
        let share = Share {
            first: block * each + block.min(more),
            tiles,
            warps: warps_for(tiles, most_warps(self.rows_bytes)),
        };
        // SAFETY: the whole warp is here.
        unsafe {
            let other = warp::shuffle_xor(warp::FULL, share.warps, 1);
            let stages = stages(share.warps.max(other).max(1), self.rows_bytes);
            if lane == 0 {
                products[0].store(base, 0);
                share.store(base, 0, token_tiles);
            } else if lane == 1 {
                products[1].store(base, 1);
                share.store(base, 1, stages);
            }
        }
    }

    /// What a warp does behind the routing.
    ///
    /// # Safety
    /// All warps of the block; routing and shares are made, the tokens are brought, a block barrier has passed.
    #[inline(always)]
    unsafe fn run_cta(&self, base: u32, warp: u32) {
        // SAFETY: the layout's parts; collectives are reached by whole warps, barriers by the whole block: what decides about
        // them is the same in all of it.
        unsafe {
            let (first, token_tiles) = Share::load(base, 0);
            let (second, stages) = Share::load(base, 1);
            let rings = first.warps.max(second.warps);
            let barriers = base + at::BARRIERS + warp * stages * mbarrier::BYTES;
            let own_ring = base + at::ROWS + self.rows_bytes + warp * stages * STAGE_BYTES;
            let mut ring = Ring::new(own_ring, barriers, stages);
            let lane = warp::lane_id();
            if warp < rings && lane < stages {
                mbarrier::init(barriers + lane * mbarrier::BYTES, 1);
            }
            mbarrier::fence_init();
            warp::sync_warp(warp::FULL);
            let mut stream = Stream::new(base, warp, rings);
            // As much as is on its way at a time: what is beyond would keep the warps from the tokens.
            let ahead = if rings == 0 { 0 } else { WARPS.div_ceil(rings).min(stages) };
            ring.fill(0..ahead, |to, barrier| stream.issue_warp(to, barrier));
            if warp != 0 {
                self.x.convert_warp(base, warp - 1, WARPS - 1, base + at::X_SCALES);
            }
            thread::sync_threads();
            ring.fill(ahead..stages, |to, barrier| stream.issue_warp(to, barrier));
            self.tokens.store_rowless(thread::index_1d(), thread::grid_dim_x() * thread::block_dim_x());

            let waiting_blocks = (token_tiles * Product::load(base, 1).row_tiles).min(thread::grid_dim_x());
            let mut product = opaque_u32(0);
            while product < 2 {
                let (share, _) = Share::load(base, product);
                let of = Product::load(base, product);
                let mut own = share.first + share.first_of(product, warp, rings);
                let (mut from, end) = (share.first, share.first + share.tiles);
                while from < end {
                    // Tiles of the rows that are staged at a time: in the first product all.
                    let (mut until, mut first_row) = (end, 0);
                    if product != 0 {
                        let batch = self.batch_warp(base, from, end, of);
                        (until, first_row) = (batch.until, batch.first_row);
                        self.stage_cta(base, warp, &batch, until == end, [waiting_blocks, token_tiles]);
                    }
                    while own < until {
                        self.tile_warp(base, product, of, own, first_row, &mut ring, &mut stream);
                        own += share.warps;
                    }
                    from = until;
                }
                // One copy of the loop.
                product = opaque_u32(product + 1);
            }
        }
    }

    /// One row tile of a product for one token tile: `tile` counts them over token tiles. The row `first_row` is the first staged
    /// one in the second product.
    ///
    /// # Safety
    /// The whole warp; its rows are staged; the tile's weights are next in the ring.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    unsafe fn tile_warp(
        &self,
        base: u32,
        product: u32,
        of: Product,
        tile: u32,
        first_row: u32,
        ring: &mut Ring,
        stream: &mut Stream,
    ) {
        let lane = warp::lane_id();
        let (index, row_tile) = (tile / of.row_tiles, tile % of.row_tiles);
        // The staged row of column `n` of the MMA. Columns without a row have one that is there.
        let staged = |tile: &TokenTile, n: u32| {
            let row = tile.first_row + n.min(tile.rows - 1);
            // SAFETY: a row of the call.
            let token = unsafe { shared::load_u32(base + at::ROW_TOKEN + 4 * row) };
            if product == 0 { token } else { row - first_row }
        };
        // SAFETY: the caller's duty.
        unsafe {
            let tile = TokenTile::load(base, index);
            let expert = tile.expert as usize;
            let alphas = if product == 0 {
                [*self.alphas[0].add(expert), *self.alphas[1].add(expert)]
            } else {
                [*self.alphas[2].add(expert), 0.0]
            };
            let b = base + at::ROWS + staged(&tile, lane % 8) * row_stride(of.k_units) + lane / 8 * 16;
            let acc = ring.chain_warp(of.k_units, b, |to, barrier| stream.issue_warp(to, barrier));
            // Again: registers are what the chain needs.
            let tile = TokenTile::load(base, index);
            let scales = base + if product == 0 { at::X_SCALES } else { at::H_SCALES };
            let scale = [0, 1].map(|n| {
                let at = scales + 4 * staged(&tile, lane % 4 * 2 + n);
                f32::from_bits(shared::load_u32(at)) * UNSCALE
            });
            let (row, rows) = (tile.first_row, tile.rows);
            if product == 0 {
                self.swiglu.store_scaled_thread(acc, row_tile, row, rows, scale, alphas);
                self.counters.hand_over_warp(index);
            } else {
                self.plain.store_scaled_thread(acc, row_tile, row, rows, scale, alphas);
                self.tokens.finish_warp(self.counters, row, rows, row_tile);
            }
        }
    }

    /// The tiles from `from` on, before `end`, whose rows can be staged together.
    ///
    /// # Safety
    /// The whole warp; `from` is a tile of the second product.
    #[inline(always)]
    unsafe fn batch_warp(&self, base: u32, from: u32, end: u32, of: Product) -> Batch {
        let fit = staged_rows(self.rows_bytes, of.k_units);
        let first = from / of.row_tiles;
        // SAFETY: token tiles of the share.
        unsafe {
            let first_row = TokenTile::load(base, first).first_row;
            let (mut next, mut until, mut rows) = (first, from, 0);
            while until < end {
                let tile = TokenTile::load(base, next);
                let with = tile.first_row + tile.rows - first_row;
                if with > fit {
                    break;
                }
                rows = with;
                next += 1;
                until = end.min(next * of.row_tiles);
            }
            Batch { first, tiles: next - first, first_row, rows, until }
        }
    }

    /// Waits for SwiGLU's results of a batch and stages them.
    ///
    /// # Safety
    /// As [`Self::run_cta`].
    #[inline(always)]
    unsafe fn stage_cta(
        &self,
        base: u32,
        warp: u32,
        batch: &Batch,
        is_last: bool,
        [waiting_blocks, token_tiles]: [u32; 2],
    ) {
        // SAFETY: the caller's duty.
        unsafe {
            if opaque(thread::thread_idx_x() == 0) {
                let mut tile = batch.first;
                while tile < batch.first + batch.tiles {
                    self.counters.wait_thread(tile, self.row_tiles);
                    tile += 1;
                }
                if is_last {
                    self.counters.pass_thread(waiting_blocks, token_tiles);
                }
            }
            warp::sync_warp(warp::FULL);
            // Every warp is done with the staged rows, and the results are there.
            thread::sync_threads();
            let from = self.h.from.add(batch.first_row as usize * self.h.stride as usize);
            let rows = Rows { from, rows: batch.rows, ..self.h };
            rows.load_warp(base, warp, WARPS);
            thread::sync_threads();
            rows.convert_warp(base, warp, WARPS, base + at::H_SCALES);
            thread::sync_threads();
        }
    }
}

/// Token tiles whose rows are staged together.
struct Batch {
    /// The first, and how many.
    first: u32,
    tiles: u32,
    /// Their first row, and how many.
    first_row: u32,
    rows: u32,
    /// One past the last tile of the second product.
    until: u32,
}

/// A layer's routed experts, and a shared one of their kind; see [`LAUNCH`] for shapes and types.
///
/// # Safety
/// Buffers of the table's shapes and alignments, which nobody else uses while the kernel runs; [`layout::fits`] allows the
/// sizes; all blocks of the grid resident at once.
#[kernel(bounds = BOUNDS)]
#[allow(clippy::too_many_arguments)]
pub unsafe fn expert_decode(
    x: *const u16,
    topk_ids: *const i32,
    topk_weights: *const f32,
    tokens: *const u32,
    weights: *const u8,
    alpha: *const f32,
    alpha_up: *const f32,
    weights_down: *const u8,
    alpha_down: *const f32,
    h: *mut u16,
    y: *mut f32,
    shared: *const f32,
    out: *mut u16,
    out_f32: *mut f32,
    stats: *mut u32,
    counters: *mut u32,
    max_tokens: u32,
    top_k: u32,
    experts: u32,
    first_local: u32,
    local: u32,
    folded: u32,
    columns: u32,
    row_tiles: u32,
    k_units: u32,
    intermediate: u32,
    row_tiles_down: u32,
    k_units_down: u32,
    limit: f32,
) {
    grid::wait_for_dependencies();
    grid::launch_dependents();
    // SAFETY: one u32.
    let count = unsafe { *tokens }.min(max_tokens);
    if count == 0 {
        return;
    }
    let slots =
        Slots { topk_ids, b_scale: core::ptr::null(), tokens: count, top_k, experts, first_local, local };
    let has_shared = folded != 0;
    // SAFETY: the launch gives SHARED_BYTES, of which all that follows takes parts; every thread of the block is here.
    unsafe {
        let base = cuda_std::shared::dynamic();
        let h_stride = k_units_down * crate::to_f16::UNIT;
        let layer = Layer {
            row_tiles,
            alphas: [alpha, alpha_up, alpha_down],
            x: Rows { from: x, stride: columns, rows: count, k: columns, k_units },
            h: Rows { from: h, stride: h_stride, rows: 0, k: intermediate, k_units: k_units_down },
            swiglu: Swiglu {
                out: h,
                features: intermediate,
                first_tile: 0,
                out_stride: h_stride,
                fold: false,
                limit,
            },
            plain: Plain { out: y, features: columns, first_tile: 0, out_stride: columns, fold: false },
            tokens: Tokens {
                y,
                shared,
                out,
                out_f32,
                columns,
                tokens: count,
                top_k,
                shared_slots: if has_shared { slots.len() } else { NONE },
                base,
            },
            counters: Counters(counters),
            rows_bytes: rows_bytes(max_tokens, [k_units, k_units_down]),
        };
        // The same in all lanes, which the compiler can see.
        let warp = warp::uniform(thread::thread_idx_x() / 32);
        let is_first = thread::block_idx_x() == 0;
        if opaque(warp == 0) {
            let routing =
                Routing { slots, weights: topk_weights, has_shared, tile_tokens: tile_tokens(max_tokens) };
            let token_tiles = routing.build_warp(base, if is_first { stats } else { core::ptr::null_mut() });
            let first = Product { weights, row_tiles, k_units };
            let second = Product { weights: weights_down, row_tiles: row_tiles_down, k_units: k_units_down };
            layer.deal_warp(base, [first, second], token_tiles);
        } else {
            layer.x.load_warp(base, warp - 1, WARPS - 1);
        }
        warp::sync_warp(warp::FULL);
        thread::sync_threads();
        layer.run_cta(base, warp);
        if opaque(is_first && warp == 0) {
            let lane = warp::lane_id();
            let at = base + at::X_SCALES + 4 * lane.min(count - 1);
            let is_nan = lane < count && f32::from_bits(cuda_std::shared::load_u32(at)).is_nan();
            slots::report(stats, STAT_NON_FINITE, u32::from(is_nan));
        }
    }
}
