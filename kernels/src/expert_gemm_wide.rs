//! Grouped GEMM of packed NVFP4 weights with many tokens, by wgmma with the weights in registers (Hopper only).
//!
//! Weights are the M side: a warpgroup owns one or two m64 tiles, whose A fragments each thread expands from packed
//! words; tokens are the N side, in the order of [`crate::lines`]. Every accumulator is one chain over the k16 steps in
//! ascending order, so a token's results do not depend on the form, the tile or its neighbours.
//!
//! | part | who | what |
//! |---|---|---|
//! | [`tiles`] | all | the tiles of a block, dealt round-robin over the grid |
//! | [`producer`] | a warpgroup of its own | weights and tokens, by bulk copies |
//! | [`consumer`] | the others | a tile: loop over K, epilogue by [`output`] |
//! | [`stepped`], [`single`] | | the loop over K: expansion and wgmma, of two m64 tiles or of one |
//!
//! A stage of the ring ([`layout`]) is two k units (64 columns each): the units of the block's row tiles and the
//! same columns of its tokens. Producers give most of their registers to the warps that compute (`setmaxnreg`), which then have
//! as many as they need. A bulk copy keeps the warp that issues it some 190 cycles, and a warp in its epilogue brings nothing, so
//! warps that compute do not bring: where they did, 32 rows took 15 % longer on an H200, 1024 rows 5 %.
//!
//! | form | entries | weight rows x tokens | blocks per SM | MMAs between waits |
//! |---|---|---|---|---|
//! | [`layout::Narrow`] | `expert_gemm_narrow_*` | 256 x 16, 32 | 2 | 2: a step of two tiles |
//! | [`layout::Wide`] | `expert_gemm_wide_*` | 256 x 32, 64, 96, 128 | 1 | 2: a step of two tiles |
//! | [`layout::Broad`] | `expert_gemm_broad_*` | 128 x 64, 128, 192, 208, 224 | 1 | 2: two steps of a tile |
//!
//! # Cycles of a k unit on one SM
//! 256 weight rows by N tokens of 64 columns, or 128 for `Broad`; two warps on a scheduler, four with two blocks.
//!
//! | resource | cycles | N = 128 | N = 32 | `Broad`, 192 |
//! |---|---|---|---|---|
//! | tensor cores | 8 N (4 N) | 1024 | 256 | 768 |
//! | issue of the expansion alone: 120 instructions of a warp (60) | 240 (120) | 240 | 480 | 120 |
//! | shared memory, 128 bytes a cycle: B by each m64 tile's wgmma, the ring's writes, A | 5 N + 144 (3 N + 72) | 784 | 304 | 648 |
//! | L2, about 38 bytes a cycle at most: weights, 128 N of tokens | 3.4 N + 243 (3.4 N + 121) | 674 | 350 | 774 |
//! | memory, 19.5 bytes a cycle (4.5 TB/s): the weights, once | 473 (236) | 473 | 473 | 236 |
//!
//! Measured on an H200, a unit takes about the time of its MMAs and that of its expansion together, in whatever way they
//! are arranged: warpgroups that only expand into shared memory for others, three or four warpgroups of one tile each,
//! more or fewer MMAs to a group. While wgmma runs, other instructions are held back at dispatch. So what counts is how little
//! stands in the loop beside the expansion: uniform registers for all that is the same in a warp ([`warp::uniform`]: no moves
//! between the register files, no branches that might diverge), tokens that need one bulk copy and no fence.
//!
//! Floors for DeepSeek-V4-Pro's 48 experts: reading all weights at 4.5 TB/s takes 264 us for gate and up and 132 us for
//! down; 8192 tokens with six picks take 6.18 ms and 3.09 ms at 700 TFLOP/s.

use cuda_std::convergence::opaque;
use cuda_std::launch::LaunchBounds;
use cuda_std::prelude::*;
use cuda_std::{fence, grid, mbarrier};

use crate::expert_gemm_mma::FOLD_ALPHA;
use crate::launch::{Arch, Arg, Dims, Geometry, Launch};

pub mod consumer;
pub mod layout;
pub mod notes;
pub mod output;
pub mod producer;
pub mod single;
pub mod stepped;
pub mod tiles;

use layout::{Broad, Form, Narrow, PRODUCERS, Wide};
use output::{Output, PlainF32, SwigluBf16, SwigluF32, Target};

/// What is multiplied; see [`ARGS_SWIGLU_BF16`] for shapes.
#[derive(Clone, Copy)]
pub struct Operands {
    /// Packed weights.
    pub weights: *const u8,
    /// f16 rows, as [`crate::lines`].
    pub b: *const u16,
    /// Scale of each row that `b` was gathered from.
    pub b_scale: *const f32,
    /// Where each row of the problem was gathered from, or null.
    pub row_token: *const u32,
    /// First row of each expert.
    pub offsets: *const u32,
    /// Rows of each expert.
    pub counts: *const u32,
    /// Experts.
    pub experts: u32,
    /// Row tiles of one expert.
    pub row_tiles: u32,
    /// k units of a row tile.
    pub k_units: u32,
    /// First row tile to compute.
    pub first_tile: u32,
    /// Row tiles to compute.
    pub tile_count: u32,
}

impl Operands {
    /// Where row `row` was gathered from.
    ///
    /// # Safety
    /// `row_token` is null or holds the row.
    #[inline(always)]
    pub unsafe fn token(&self, row: u32) -> u32 {
        // SAFETY: the caller's duty.
        if self.row_token.is_null() { row } else { unsafe { *self.row_token.add(row as usize) } }
    }
}

macro_rules! args {
    ($($alpha:expr,)* ; $out:expr ; $($limit:expr)?) => {
        &[
            Arg::input("weights", "u8, fragment order: [experts][row_tiles][k_units] units; 16-byte aligned"),
            $($alpha,)*
            Arg::input("b", "f16 [rows][64 * k_units]: the rows of all experts as kernels::lines; 16-byte aligned"),
            Arg::input("b_scale", "f32 [rows of what the lines were gathered from]"),
            Arg::input("row_token", "u32 [rows]: where each row was gathered from, or null: the row itself"),
            Arg::input("offsets", "u32 [experts + 1]: first row of each expert"),
            Arg::input("counts", "u32 [experts]: rows of each expert"),
            $out,
            Arg::u32("experts", "experts"),
            Arg::u32("row_tiles", "row tiles of one expert"),
            Arg::u32("k_units", "k units of a row tile, at least 1"),
            Arg::u32("first_tile", "first row tile that is computed"),
            Arg::u32("tile_count", "row tiles that are computed, at least 1"),
            Arg::u32("features", "features at or past this one are not stored"),
            Arg::u32("out_stride", "elements from one row of out to the next"),
            Arg::u32("fold_alpha", "1: acc * (b_scale * alpha); 0: (acc * b_scale) * alpha"),
            $($limit)?
        ]
    };
}

const ALPHA_GATE: Arg = Arg::input("alpha", "f32 [experts]: the gate's global scale");
const ALPHA_UP: Arg = Arg::input("alpha_up", "f32 [experts]: the up matrix's global scale");
const LIMIT: Arg = Arg::f32("limit", "SwiGLU clamp, positive; +infinity for none");

/// Parameters of the entries with SwiGLU in bf16.
pub const ARGS_SWIGLU_BF16: &[Arg] = args!(ALPHA_GATE, ALPHA_UP,;
    Arg::output("out", "bf16 [rows][out_stride]: column = feature - 8 * first_tile"); LIMIT);
/// Parameters of the entries with SwiGLU in f32.
pub const ARGS_SWIGLU_F32: &[Arg] = args!(ALPHA_GATE, ALPHA_UP,;
    Arg::output("out", "f32 [rows][out_stride]: column = feature - 8 * first_tile"); LIMIT);
/// Parameters of the entries without activation.
pub const ARGS_PLAIN_F32: &[Arg] = args!(Arg::input("alpha", "f32 [experts]: global scale"),;
    Arg::output("out", "f32 [rows][out_stride]: column = feature - 16 * first_tile"););

/// Launch bounds of a form.
const fn bounds<F: Form>() -> LaunchBounds {
    let () = F::FITS;
    LaunchBounds::block(F::THREADS).min_ctas(F::BLOCKS_PER_SM)
}

const fn launch<F: Form>(name: &'static str, args: &'static [Arg]) -> Launch {
    Launch {
        name,
        bounds: bounds::<F>(),
        shared_bytes: F::SHARED_BYTES,
        args,
        archs: &[Arch::Sm90a],
        geometry: Geometry::Fixed,
    }
}

/// Dimensions on a device of `sms` multiprocessors. Any grid from one block on gives the same bits.
pub const fn dims<F: Form>(sms: u32) -> Dims {
    Dims { grid: [F::BLOCKS_PER_SM * sms, 1, 1], block: [F::THREADS, 1, 1], shared_bytes: F::SHARED_BYTES }
}

/// The whole kernel.
///
/// # Safety
/// All threads of a block of `F::THREADS` with `F::SHARED_BYTES` of dynamic shared memory; operands and output as the
/// entries demand.
#[inline(always)]
unsafe fn run<F: consumer::Widths, O: Output>(operands: &Operands, output: &O) {
    // SAFETY: every thread of the block is here.
    unsafe {
        let shared = shared::dynamic();
        let thread = thread::thread_idx_x();
        if thread == 0 {
            let mut at = layout::Position::START;
            let mut slot = 0;
            while slot < F::STAGES {
                mbarrier::init(shared + at.full::<F>(), PRODUCERS);
                mbarrier::init(shared + at.empty::<F>(), 32 * F::WARPS);
                at.advance::<F>();
                slot += 1;
            }
            mbarrier::fence_init();
        }
        // Rows that a tile lacks for its width are multiplied with what lies there, and not stored.
        let mut place = 16 * thread;
        while place < F::A_OFFSET {
            shared::store_v4(shared + place, [0; 4]);
            place += 16 * F::THREADS;
        }
        fence::proxy_async_shared();
        thread::sync_threads();
        grid::wait_for_dependencies();
        grid::launch_dependents();
        let blocks = operands.tile_count.div_ceil(F::ROW_TILES);
        // The same in all lanes, which the compiler can see.
        let warp = warp::uniform(thread / 32);
        if opaque(warp >= F::WARPS) {
            F::divide_registers(true);
            producer::run_warp::<F>(shared, operands, blocks, warp - F::WARPS);
            return;
        }
        F::divide_registers(false);
        consumer::warpgroup::<F, O>(shared, operands, blocks, output);
    }
}

macro_rules! entry {
    ($(#[$doc:meta])* $name:ident, $form:ident, $launch:ident, $args:ident, $element:ty, $output:expr,
        [$($alpha_up:ident)?] [$($limit:ident)?]) => {
        #[doc = concat!("Launch table row of [`", stringify!($name), "`]: one block per resident slot, or any grid.")]
        pub const $launch: Launch = launch::<$form>(stringify!($name), $args);

        $(#[$doc])*
        ///
        /// # Safety
        /// Buffers of the table's shapes; nobody writes the inputs while the kernel runs; `offsets`, `counts` and
        /// `row_token` name rows that exist; sm_90a.
        #[kernel(bounds = bounds::<$form>())]
        #[allow(clippy::too_many_arguments)]
        pub unsafe fn $name(
            weights: *const u8,
            alpha: *const f32,
            $($alpha_up: *const f32,)?
            b: *const u16,
            b_scale: *const f32,
            row_token: *const u32,
            offsets: *const u32,
            counts: *const u32,
            out: *mut $element,
            experts: u32,
            row_tiles: u32,
            k_units: u32,
            first_tile: u32,
            tile_count: u32,
            features: u32,
            out_stride: u32,
            fold_alpha: u32,
            $($limit: f32,)?
        ) {
            #[allow(unused_mut, unused_assignments)]
            let mut alpha_both = alpha;
            $(alpha_both = $alpha_up;)?
            let target = Target {
                out,
                stride: out_stride,
                features,
                fold: fold_alpha & FOLD_ALPHA != 0,
                alpha,
                alpha_up: alpha_both,
            };
            let output = $output(target, $($limit)?);
            let operands = Operands {
                weights,
                b,
                b_scale,
                row_token,
                offsets,
                counts,
                experts,
                row_tiles,
                k_units,
                first_tile,
                tile_count,
            };
            // SAFETY: the caller's duties.
            unsafe { run::<$form, _>(&operands, &output) }
        }
    };
}

fn swiglu_bf16(target: Target<u16>, limit: f32) -> SwigluBf16 {
    SwigluBf16 { target, limit }
}

fn swiglu_f32(target: Target<f32>, limit: f32) -> SwigluF32 {
    SwigluF32 { target, limit }
}

fn plain_f32(target: Target<f32>) -> PlainF32 {
    PlainF32 { target }
}

entry! {
    /// Gate and up with SwiGLU, bf16 out, many tokens.
    expert_gemm_wide_swiglu_bf16, Wide, WIDE_SWIGLU_BF16, ARGS_SWIGLU_BF16, u16, swiglu_bf16, [alpha_up] [limit]
}
entry! {
    /// Gate and up with SwiGLU, f32 out, many tokens.
    expert_gemm_wide_swiglu_f32, Wide, WIDE_SWIGLU_F32, ARGS_SWIGLU_F32, f32, swiglu_f32, [alpha_up] [limit]
}
entry! {
    /// Scaled sums in f32, many tokens.
    expert_gemm_wide_plain_f32, Wide, WIDE_PLAIN_F32, ARGS_PLAIN_F32, f32, plain_f32, [] []
}
entry! {
    /// Gate and up with SwiGLU, bf16 out, most tokens.
    expert_gemm_broad_swiglu_bf16, Broad, BROAD_SWIGLU_BF16, ARGS_SWIGLU_BF16, u16, swiglu_bf16, [alpha_up] [limit]
}
entry! {
    /// Gate and up with SwiGLU, f32 out, most tokens.
    expert_gemm_broad_swiglu_f32, Broad, BROAD_SWIGLU_F32, ARGS_SWIGLU_F32, f32, swiglu_f32, [alpha_up] [limit]
}
entry! {
    /// Scaled sums in f32, most tokens.
    expert_gemm_broad_plain_f32, Broad, BROAD_PLAIN_F32, ARGS_PLAIN_F32, f32, plain_f32, [] []
}
entry! {
    /// Gate and up with SwiGLU, bf16 out, few tokens.
    expert_gemm_narrow_swiglu_bf16, Narrow, NARROW_SWIGLU_BF16, ARGS_SWIGLU_BF16, u16, swiglu_bf16, [alpha_up] [limit]
}
entry! {
    /// Gate and up with SwiGLU, f32 out, few tokens.
    expert_gemm_narrow_swiglu_f32, Narrow, NARROW_SWIGLU_F32, ARGS_SWIGLU_F32, f32, swiglu_f32, [alpha_up] [limit]
}
entry! {
    /// Scaled sums in f32, few tokens.
    expert_gemm_narrow_plain_f32, Narrow, NARROW_PLAIN_F32, ARGS_PLAIN_F32, f32, plain_f32, [] []
}

/// Every entry of this file.
pub const LAUNCHES: [Launch; 9] = [
    BROAD_SWIGLU_BF16,
    BROAD_SWIGLU_F32,
    BROAD_PLAIN_F32,
    WIDE_SWIGLU_BF16,
    WIDE_SWIGLU_F32,
    WIDE_PLAIN_F32,
    NARROW_SWIGLU_BF16,
    NARROW_SWIGLU_F32,
    NARROW_PLAIN_F32,
];
