//! The routed experts of up to eight tokens in one launch: from bf16 rows and expert ids to combined rows. The decode form.
//!
//! What the split form does in six launches ([`crate::prepare_rows_bf16`], [`crate::sort_slots`],
//! [`crate::expert_gemm_small`] twice with `prepare_rows_bf16` between, [`crate::combine`]), with the same operations in the
//! same order, so with the same bits. Few tokens leave so little work that launches, and the pipelines that fill and drain with each, are what
//! counts: here the weights of both products are one stream.
//!
//! # Work
//! * A warp of every block sorts the slots ([`routing`]): less than two microseconds in which no weights are read.
//! * The tiles of the first product (16 rows of weights by a token tile) are dealt to the blocks in contiguous shares, equal
//!   to one tile, and so are those of the second. Inside a block they go to as few warps as do them in as many rounds
//!   ([`layout::warps_for`]), each with a ring of its own ([`crate::weight_ring`]) that other warps keep full and that runs on from
//!   the first product to the second ([`stream`]). A warp runs the whole K of its row tile: one chain over ascending k, as in
//!   every form.
//! * During the sort the warps that multiply bring the tokens and make f16 of them ([`rows`]), all of them: no change of tokens
//!   later.
//! * Results of both products go through device memory, each of them its own message ([`exchange`]). A block waits for SwiGLU's
//!   of its share of the second product, stages their rows, and finds its weights in the rings.
//! * Behind the second product every block adds up the slots of some columns ([`outputs`]).
//!
//! Blocks wait for each other, so all of them must be resident at once: [`Geometry::Resident`].
//!
//! # Floors
//! Bytes over 4.65 TB/s (an H200), DeepSeek-V4-Pro's 37.2 MB per expert and Flash's 14.2 MB, all picks of a token different:
//! 48 us for a token of Pro (six experts), 18.3 us for one of Flash. Operations are those of the small form: 18 issue cycles
//! for a warp and k16 step where bandwidth leaves 30.
//! To it comes what no weights overlap: the sort, and behind the weights the second product's last tiles and their
//! combination. Measured: `docs/hopper.md`.

use crate::epilogue::{scaled, swiglu};
use crate::expand::UNSCALE;
use crate::fragment::TILE_ROWS;
use crate::launch::{Arch, Arg, Dims, Geometry, Launch, LaunchBounds};
use crate::slots::{self, LocalExperts, NONE, STAT_NON_FINITE};
use crate::weight_ring::Ring;
use cuda_std::prelude::*;
use cuda_std::{
    convergence::{opaque, opaque_u32},
    grid, mbarrier,
};

pub mod exchange;
pub mod layout;
pub mod outputs;
pub mod routing;
pub mod rows;
pub mod stream;

use exchange::Exchange;
use layout::{
    BARRIERS, FETCH_WARPS, SHARED_BYTES, WARPS, at, row_stride, rows_bytes, staged_rows, tile_tokens,
};
use outputs::Tokens;
use routing::{Routing, TokenTile};
use rows::Rows;
use stream::{Product, Rings, Share};

/// Threads of a block.
pub const THREADS: u32 = 32 * (WARPS + FETCH_WARPS);
/// Of them those that multiply.
const MULTIPLIERS: u32 = 32 * WARPS;

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
        Arg::input("shared", "f32 [max_tokens, columns]: a shared expert's output, added last; or null"),
        Arg::output("out", "bf16 [max_tokens, columns]"),
        Arg::output("out_f32", "f32 [max_tokens, columns]: the sums before rounding; or null"),
        Arg::output(
            "stats",
            "u32 [8]: adds invalid slots, foreign slots and non-finite tokens to words 0, 1, 2",
        ),
        Arg::output(
            "exchange",
            "u32 [exchange::WORDS]: zeros at first, then what the call before has left; 16-byte aligned",
        ),
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

/// Dimensions on a device of `sms` multiprocessors. Any smaller grid gives the same bits; a larger one is refused.
pub const fn dims(sms: u32) -> Dims {
    Dims { grid: [sms, 1, 1], block: BOUNDS.block, shared_bytes: SHARED_BYTES }
}

/// Waits for all threads that multiply.
///
/// # Safety
/// All of them call it.
#[inline(always)]
unsafe fn sync_multipliers() {
    // SAFETY: their number; the barrier is used for nothing else.
    unsafe { thread::sync_threads_named(1, MULTIPLIERS) }
}

/// What lies in front of the products, between and behind them.
struct Layer {
    /// Global scales: of gate, up and down.
    alphas: [*const f32; 3],
    x: Rows,
    h: Rows,
    /// SwiGLU's features and clamp.
    features: u32,
    limit: f32,
    tokens: Tokens,
    exchange: Exchange,
    /// Bytes of the staged rows.
    rows_bytes: u32,
}

impl Layer {
    /// What a warp that multiplies does behind the routing.
    ///
    /// # Safety
    /// All of these warps; routing and shares are made, the tokens are brought, a block barrier has passed.
    #[inline(always)]
    unsafe fn run_cta(&self, base: u32, warp: u32) {
        // SAFETY: the layout's parts; collectives are reached by whole warps, barriers by all that multiply: what decides about
        // them is the same in all of them.
        unsafe {
            let rings = Rings::load_warp(base, self.rows_bytes);
            self.x.convert_warp(base, warp, WARPS, base + at::X_SCALES);
            sync_multipliers();
            let thread = thread::block_idx_x() * MULTIPLIERS + thread::thread_idx_x();
            self.exchange.clear_thread(thread, thread::grid_dim_x() * MULTIPLIERS);

            let (to, full) = rings.of(warp);
            let mut ring = Ring::new(to, full, rings.stages);
            let mut product = opaque_u32(0);
            while product < 2 {
                let share = Share::load_warp(base, product);
                let of = Product::load_warp(base, product);
                let mut own = share.first + share.first_of(product, warp, rings.count);
                let (mut from, end) = (share.first, share.first + share.tiles);
                while from < end {
                    // Tiles of the rows that are staged at a time: in the first product all.
                    let (mut until, mut first_row) = (end, 0);
                    if product != 0 {
                        let batch = self.batch_warp(base, from, end, of);
                        (until, first_row) = (batch.until, batch.first_row);
                        self.stage_cta(base, warp, &batch);
                    }
                    while own < until {
                        self.tile_warp(base, product, of, own, first_row, &mut ring);
                        own += share.warps;
                    }
                    from = until;
                }
                // One copy of the loop.
                product = opaque_u32(product + 1);
            }
            self.tokens.combine_warp(self.exchange, warp, WARPS);
        }
    }

    /// One row tile of a product for one token tile: `tile` counts them over token tiles. The row `first_row` is the first staged
    /// one in the second product.
    ///
    /// # Safety
    /// The whole warp; its rows are staged; the tile's weights are next in the ring.
    #[inline(always)]
    unsafe fn tile_warp(
        &self,
        base: u32,
        product: u32,
        of: Product,
        tile: u32,
        first_row: u32,
        ring: &mut Ring,
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
            let tile = TokenTile::load_warp(base, index);
            let expert = tile.expert as usize;
            let alphas = if product == 0 {
                [*self.alphas[0].add(expert), *self.alphas[1].add(expert)]
            } else {
                [*self.alphas[2].add(expert), 0.0]
            };
            let b = base + at::ROWS + staged(&tile, lane % 8) * row_stride(of.k_units) + lane / 8 * 16;
            let acc = ring.chain_warp(of.k_units, b, at::TO_EMPTY);
            // Again: registers are what the chain needs.
            let tile = TokenTile::load_warp(base, index);
            let scales = base + if product == 0 { at::X_SCALES } else { at::H_SCALES };
            let scale = [0, 1].map(|n| {
                let at = scales + 4 * staged(&tile, lane % 4 * 2 + n);
                f32::from_bits(shared::load_u32(at)) * UNSCALE
            });
            let (row, rows) = (tile.first_row, tile.rows);
            if product == 0 {
                let [g0, g1, u0, u1] = acc;
                let h = swiglu([g0, g1], [u0, u1], scale, alphas[0], alphas[1], false, self.limit);
                self.exchange.put_h_warp(h, row_tile, row, rows, self.features);
            } else {
                let (token, column) = (lane % 4 * 2, row_tile * TILE_ROWS as u32 + lane / 4);
                let mut n = 0;
                while n < 4 {
                    let (token, column) = (token + n as u32 % 2, column + n as u32 / 2 * 8);
                    if token < rows && column < self.tokens.columns {
                        let value = scaled(acc[n], scale[n % 2], alphas[0], false);
                        self.exchange.put_y_thread(value, row + token, column);
                    }
                    n += 1;
                }
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
            let first_row = TokenTile::load_warp(base, first).first_row;
            let (mut next, mut until, mut rows) = (first, from, 0);
            while until < end {
                let tile = TokenTile::load_warp(base, next);
                let with = tile.first_row + tile.rows - first_row;
                if with > fit {
                    break;
                }
                rows = with;
                next += 1;
                until = end.min(next * of.row_tiles);
            }
            Batch { first_row, rows, until }
        }
    }

    /// Waits for SwiGLU's results of a batch and stages them.
    ///
    /// # Safety
    /// As [`Self::run_cta`].
    #[inline(always)]
    unsafe fn stage_cta(&self, base: u32, warp: u32, batch: &Batch) {
        // SAFETY: the caller's duty.
        unsafe {
            // Every warp is done with the staged rows.
            sync_multipliers();
            let from = self.exchange.h_row(batch.first_row).cast_const().cast();
            let rows = Rows { from, rows: batch.rows, ..self.h };
            rows.load_warp(base, warp, WARPS, |from| Exchange::wait_h_warp(from));
            sync_multipliers();
            rows.convert_warp(base, warp, WARPS, base + at::H_SCALES);
            sync_multipliers();
        }
    }
}

/// Token tiles whose rows are staged together.
struct Batch {
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
    shared: *const f32,
    out: *mut u16,
    out_f32: *mut f32,
    stats: *mut u32,
    exchange: *mut u32,
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
    let has_shared = folded != 0;
    // SAFETY: the launch gives SHARED_BYTES, of which all that follows takes parts; every thread of the block is here.
    unsafe {
        let base = cuda_std::shared::dynamic();
        let h_stride = k_units_down * crate::to_f16::UNIT;
        let layer = Layer {
            alphas: [alpha, alpha_up, alpha_down],
            x: Rows { from: x, stride: columns, rows: count, k: columns, k_units },
            h: Rows {
                from: core::ptr::null(),
                stride: h_stride,
                rows: 0,
                k: intermediate,
                k_units: k_units_down,
            },
            features: intermediate,
            limit,
            tokens: Tokens {
                shared,
                out,
                out_f32,
                columns,
                tokens: count,
                top_k,
                shared_slots: if has_shared { count * top_k } else { NONE },
                base,
            },
            exchange: Exchange { words: exchange, h_stride: h_stride / 2, y_stride: columns, base },
            rows_bytes: rows_bytes(max_tokens, [k_units, k_units_down]),
        };
        // The same in all lanes, which the compiler can see.
        let warp = warp::uniform(thread::thread_idx_x() / 32);
        let is_first = thread::block_idx_x() == 0;
        let fetcher = warp.wrapping_sub(WARPS);
        if opaque(warp < WARPS) {
            // Instructions for one lane at a time: spread over the warps.
            let barrier = warp + WARPS * warp::lane_id();
            if barrier < 2 * BARRIERS {
                let arrivals = if barrier < BARRIERS { 1 } else { 32 };
                mbarrier::init(base + at::BARRIERS + barrier * mbarrier::BYTES, arrivals);
            }
            mbarrier::fence_init();
            warp::sync_warp(warp::FULL);
            layer.x.load_warp(base, warp, WARPS, |from| rows::load_thread(from));
        } else if opaque(fetcher == 0) {
            let routing = Routing {
                topk_ids,
                weights: topk_weights,
                tokens,
                max_tokens,
                top_k,
                local: LocalExperts { experts, first: first_local, count: local },
                has_shared,
                tile_tokens: tile_tokens(max_tokens),
            };
            routing.build_warp(base, if is_first { stats } else { core::ptr::null_mut() });
        } else {
            let most = max_tokens * (top_k + folded);
            if opaque(thread::thread_idx_x() == 32 * (WARPS + 1)) {
                layer.exchange.arrive_thread(most);
                Product { weights, row_tiles, k_units }.store(base, 0);
                Product { weights: weights_down, row_tiles: row_tiles_down, k_units: k_units_down }
                    .store(base, 1);
            }
            warp::sync_warp(warp::FULL);
            let row_tiles = [row_tiles, row_tiles_down];
            Share::deal_warp(base, row_tiles, most, layer.rows_bytes, fetcher - 1, FETCH_WARPS - 1);
        }
        warp::sync_warp(warp::FULL);
        thread::sync_threads();
        if opaque(fetcher < FETCH_WARPS) {
            stream::fetch_warp(base, fetcher, Rings::load_warp(base, layer.rows_bytes));
            return;
        }
        layer.run_cta(base, warp);
        if opaque(is_first && warp == 0) {
            let lane = warp::lane_id();
            let at = base + at::X_SCALES + 4 * lane.min(count - 1);
            let is_nan = lane < count && f32::from_bits(cuda_std::shared::load_u32(at)).is_nan();
            slots::report(stats, STAT_NON_FINITE, u32::from(is_nan));
        }
    }
}
