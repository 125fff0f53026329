//! Both products of the routed experts and the combination in one persistent launch (sm_100a, W4A4): tokens sorted by
//! expert and quantised in, combined tokens out.
//!
//! The parts are those of the split form ([`crate::tcgen05_gemm`]): tiles of gate and up whose epilogue writes the operand
//! of the second product under a constant scale per expert, tiles of the second product, the sum of [`crate::combine`].
//! They are the same code, and a row's accumulators are the same chains, so the results are the split form's, bit for bit,
//! whatever the grid and the order of events.
//!
//! What a launch boundary would order is ordered by counters in device memory, tile by tile, so that tiles of one expert's
//! second product run beside those of another's first one, and no block waits for all others:
//!
//! | counter | adds | waits |
//! |---|---|---|
//! | of a range of tokens | each warp of the epilogue of its tiles of the first product, when its part of the operand is written (release, behind a proxy fence) | the producer of its tiles of the second product, before it copies the operand; their epilogue, for the rows' scales (acquire) |
//! | of a token and 32 columns | whoever has stored a slot's row there (release and acquire) | nobody: the last one combines the token |
//!
//! Counters are zero before a launch and after it: the last one to use a counter sets it to zero, so a graph can replay the
//! launch, and workspaces need no clearing. [`order`] says why nothing waits for ever; it needs all blocks of the grid to
//! be resident at once, so a grid has no more blocks than the device has multiprocessors.
//!
//! `y` holds the second product's rows in full: this form is for calls whose rows fit the workspace, prefill goes through
//! the split form in column chunks.

use cuda_std::prelude::*;

use crate::launch::{Arch, Arg, Dims, Geometry, Launch};
use crate::slots::NONE;
use crate::tcgen05_gemm::epilogue::Epilogue;
use crate::tcgen05_gemm::issuer::{Issuer, Relay};
use crate::tcgen05_gemm::layout::{EPILOGUE_WARPS, Form, ISSUER_WARP, PRODUCER_WARP, Pair, Single};
use crate::tcgen05_gemm::output::{Alphas, PlainF32, SwigluNvfp4, Target};
use crate::tcgen05_gemm::producer::Producer;
use crate::tcgen05_gemm::{self as gemm, Block, Groups, Matrices};

pub mod order;
pub mod outputs;

use order::{Order, Product};
use outputs::{First, GROUP_COLUMNS, Ranges, Second, Tokens};

/// Parameters of the entries.
pub const ARGS: &[Arg] = &[
    Arg::input(
        "weights",
        "u8 [experts][row_blocks][steps] units of kernels::operand: gate and up; 16-byte aligned",
    ),
    Arg::input("alpha", "f32 [experts]: the gate's global scale"),
    Arg::input("alpha_up", "f32 [experts]: the up matrix's global scale"),
    Arg::input(
        "weights_down",
        "u8 [experts][row_blocks_down][row_blocks] units: the second product's; 16-byte aligned",
    ),
    Arg::input("alpha_down", "f32 [experts]: its global scale"),
    Arg::input(
        "b_codes",
        "u8 [row blocks][steps][4096]: codes of tokens in the order of kernels::operand; 16-byte aligned",
    ),
    Arg::input("b_scales", "u8 [row blocks][steps][512]: their E4M3 scales, 32_4_4 layout; 16-byte aligned"),
    Arg::input("b_scale", "f32 [rows]: global scale of each row; NaN makes its results NaN"),
    Arg::input("offsets", "u32 [experts + 1]: first row of each expert, multiples of 128"),
    Arg::input(
        "counts",
        "u32 [experts]: rows of each expert; those up to a multiple of 8 (of a pair: 16) must be readable",
    ),
    Arg::output(
        "h_codes",
        "u8 [row blocks][row_blocks][4096]: the second product's operand, written and read; 16-byte aligned",
    ),
    Arg::output("h_scales", "u8 [row blocks][row_blocks][512]: its scales"),
    Arg::output(
        "h_scale",
        "f32 [rows]: the rows' global scales; NaN is written for a row that is not finite",
    ),
    Arg::input("h_constant", "f32 [experts]: global scale that its rows are quantised under"),
    Arg::output("saturated", "u32 [1], to which blocks with a clamped scale are added; or null"),
    Arg::output("y", "f32 [rows][y_stride]: the second product, written and read"),
    Arg::input("row_token", "u32 [rows]: token of each row"),
    Arg::input("slot_row", "u32 [max_tokens * top_k]: row of each slot, 0xffffffff for none"),
    Arg::input("topk_weights", "f32 [max_tokens * top_k]"),
    Arg::input("shared_row", "u32 [1]: row of token 0 of the shared expert, 0xffffffff for none; or null"),
    Arg::input("token_scale", "f32 [max_tokens]: NaN makes a token's output NaN; or null"),
    Arg::input("tokens", "u32 [1] on the device: tokens, capped at max_tokens"),
    Arg::output("out", "bf16 [max_tokens][out_stride]"),
    Arg::output("out_f32", "f32 [max_tokens][out_stride]: the sums before rounding; or null"),
    Arg::output("range_counters", "u32 [rows / 64]: zeros, and zeros again afterwards"),
    Arg::output("token_counters", "u32 [max_tokens][4 * row_blocks_down]: zeros, and zeros again afterwards"),
    Arg::u32("experts", "experts, at most 385"),
    Arg::u32("row_blocks", "row blocks of one expert's gate and up; steps of the second product"),
    Arg::u32("steps", "steps of 64 columns of the first product, at least 1"),
    Arg::u32("row_blocks_down", "row blocks of one expert in the second product"),
    Arg::u32("columns", "columns of out"),
    Arg::u32("y_stride", "elements from row to row of y"),
    Arg::u32("out_stride", "elements from row to row of out and out_f32"),
    Arg::u32("max_tokens", "tokens that the buffers hold"),
    Arg::u32("top_k", "slots of a token"),
    Arg::u32("lag", "experts by which the first product is ahead of the second, at least 1"),
    Arg::f32("limit", "SwiGLU clamp, positive; +infinity for none"),
];

/// Dimensions on a device of `sms` multiprocessors. Any smaller grid gives the same bits; a larger one may never end.
pub const fn dims<F: Form>(sms: u32) -> Dims {
    gemm::dims::<F>(sms)
}

const fn launch<F: Form>(name: &'static str) -> Launch {
    Launch {
        name,
        bounds: gemm::bounds::<F>(),
        shared_bytes: F::SHARED_BYTES,
        args: ARGS,
        archs: &[Arch::Sm100a],
        geometry: Geometry::Resident,
    }
}

/// The two products and what they hand on.
struct Layer {
    matrices: [Matrices; 2],
    first: First,
    second: Second,
    lag: u32,
}

/// The whole kernel.
///
/// # Safety
/// As [`Block::enter`], which gave `block`; the layer's parts as the entries demand.
#[inline(always)]
unsafe fn run<F: Form>(block: Block, layer: &Layer) {
    // SAFETY: every thread of the block is here; roles are of whole warps.
    unsafe {
        let blocks = layer.matrices.map(|m| m.block_count.div_ceil(F::BLOCKS));
        let (index, grid) = (thread::block_idx_x() / F::BLOCKS, thread::grid_dim_x() / F::BLOCKS);
        let mut order = Order::new(index, grid);
        let mut next = || order.next(block.entries, blocks, layer.lag, |i| block.list.entry(i));
        // One copy of a role's code for both products.
        let of = |product: Product| match product {
            Product::First => (layer.matrices[0], 0),
            Product::Second => (layer.matrices[1], layer.first.ranges.written),
        };
        match block.warp {
            PRODUCER_WARP => {
                if warp::elect(warp::FULL) {
                    let mut producer = Producer::new(block.shared, block.rank);
                    while let Some((product, tile)) = next() {
                        let (matrices, written) = of(product);
                        producer.tile::<F>(&matrices, tile, || layer.first.ranges.wait(tile, written));
                    }
                }
            }
            ISSUER_WARP => {
                if warp::elect(warp::FULL) {
                    if block.rank == 0 {
                        let mut issuer = Issuer::new(block.shared, block.tensor);
                        while let Some((product, tile)) = next() {
                            issuer.tile::<F>(of(product).0.steps, tile);
                        }
                    } else {
                        let mut relay = Relay::new(block.shared);
                        while let Some((product, _)) = next() {
                            relay.tile::<F>(of(product).0.steps);
                        }
                    }
                }
            }
            warp => {
                let mut epilogue = Epilogue::new(block.shared, block.tensor, warp, block.rank);
                while let Some((product, tile)) = next() {
                    match product {
                        Product::First => epilogue.tile::<F, _>(&layer.matrices[0], tile, &layer.first),
                        Product::Second => epilogue.tile::<F, _>(&layer.matrices[1], tile, &layer.second),
                    }
                }
                let (warp, warps) =
                    (thread::block_idx_x() * EPILOGUE_WARPS + warp, thread::grid_dim_x() * EPILOGUE_WARPS);
                layer.second.tokens.store_rowless(warp, warps, layer.second.output.target.features);
            }
        }
        block.leave::<F>();
    }
}

macro_rules! entry {
    ($(#[$doc:meta])* $name:ident, $form:ident, $launch:ident) => {
        #[doc = concat!("Launch table row of [`", stringify!($name), "`]; dimensions: [`dims`].")]
        pub const $launch: Launch = launch::<$form>(stringify!($name));

        $(#[$doc])*
        ///
        /// # Safety
        /// Buffers of the table's shapes, which nobody else uses while the kernel runs; `offsets`, `counts`, `row_token` and
        /// `slot_row` name rows and tokens that exist and belong together; all blocks of the grid resident at once; sm_100a.
        #[kernel(bounds = gemm::bounds::<$form>())]
        #[allow(clippy::too_many_arguments)]
        pub unsafe fn $name(
            weights: *const u8,
            alpha: *const f32,
            alpha_up: *const f32,
            weights_down: *const u8,
            alpha_down: *const f32,
            b_codes: *const u8,
            b_scales: *const u8,
            b_scale: *const f32,
            offsets: *const u32,
            counts: *const u32,
            h_codes: *mut u8,
            h_scales: *mut u8,
            h_scale: *mut f32,
            h_constant: *const f32,
            saturated: *mut u32,
            y: *mut f32,
            row_token: *const u32,
            slot_row: *const u32,
            topk_weights: *const f32,
            shared_row: *const u32,
            token_scale: *const f32,
            tokens: *const u32,
            out: *mut u16,
            out_f32: *mut f32,
            range_counters: *mut u32,
            token_counters: *mut u32,
            experts: u32,
            row_blocks: u32,
            steps: u32,
            row_blocks_down: u32,
            columns: u32,
            y_stride: u32,
            out_stride: u32,
            max_tokens: u32,
            top_k: u32,
            lag: u32,
            limit: f32,
        ) {
            type F = $form;
            // SAFETY: the caller's duties.
            let block = unsafe { Block::enter::<F>(Groups { offsets, counts, experts }) };
            let product =
                |weights, (b_codes, b_scales, b_scale): (*const u8, *const u8, *const f32), rows, steps| Matrices {
                    weights,
                    b_codes,
                    b_scales,
                    b_scale,
                    row_blocks: rows,
                    steps,
                    first_block: 0,
                    block_count: rows,
                };
            let blocks = [row_blocks.div_ceil(F::BLOCKS), row_blocks_down.div_ceil(F::BLOCKS)];
            let ranges = Ranges::new(range_counters, blocks, F::BLOCKS);
            let first = SwigluNvfp4 {
                codes: h_codes,
                scales: h_scales,
                row_scale: h_scale,
                constant: h_constant,
                steps: row_blocks,
                saturated,
                alphas: Alphas { gate: alpha, up: alpha_up },
                limit,
            };
            let second = PlainF32 {
                target: Target { out: y, stride: y_stride, features: columns },
                alphas: Alphas { gate: alpha_down, up: alpha_down },
            };
            // SAFETY: one word.
            let count = unsafe { *tokens }.min(max_tokens);
            let mut shared = NONE;
            if !shared_row.is_null() {
                // SAFETY: one word.
                shared = unsafe { *shared_row };
            }
            let tokens = Tokens {
                row_token,
                slot_row,
                weights: topk_weights,
                shared_row: shared,
                scale: token_scale,
                tokens: count,
                top_k,
                counters: token_counters,
                groups: row_blocks_down * EPILOGUE_WARPS,
                out,
                out_f32,
                stride: out_stride,
            };
            let layer = Layer {
                matrices: [
                    product(weights, (b_codes, b_scales, b_scale), row_blocks, steps),
                    product(weights_down, (h_codes, h_scales, h_scale), row_blocks_down, row_blocks),
                ],
                first: First { output: first, ranges },
                second: Second { output: second, ranges, tokens },
                lag,
            };
            // SAFETY: the caller's duties.
            unsafe { run::<F>(block, &layer) }
        }
    };
}

entry! {
    /// A layer's routed experts in one launch; see [`ARGS`] for shapes.
    tcgen05_mega, Single, LAUNCH
}
entry! {
    /// [`tcgen05_mega`] with two blocks for a tile; rows of tokens up to a multiple of 16 must be readable.
    tcgen05_mega_pair, Pair, LAUNCH_PAIR
}

const _: () = assert!(GROUP_COLUMNS == 32);
