//! Grouped GEMM of NVFP4 weights with NVFP4 tokens on Blackwell's fifth-generation tensor cores (sm_100a only): W4A4,
//! `tcgen05.mma.kind::mxf4nvf4`, one E4M3 scale per 16 columns on both sides, f32 accumulators in tensor memory.
//!
//! Weights are the M side, 128 rows of a block; tokens are the N side, up to [`layout::WIDTH`] of a tile with N known at
//! run time in steps of 8. Both lie in global memory as shared memory wants them ([`crate::operand`]), so there are no
//! tensor maps. Every accumulator is one chain of MMAs over ascending steps of 64 columns, never split, so a token's
//! results do not depend on the form, the tile or its neighbours.
//!
//! A block is persistent, its warps have roles, and all of them walk the same tiles ([`tiles`]) through a list of experts
//! that the block builds in shared memory from the counts:
//!
//! | warp | role | waits for | signals |
//! |---|---|---|---|
//! | 4 | [`producer`]: bulk copies into a ring of stages of four steps | stage empty | stage full, by bytes |
//! | 5 | [`issuer`]: scales to tensor memory, MMAs | stage full; scale columns free; accumulators read | stage empty, accumulators complete, by commits |
//! | 0 to 3 | [`epilogue`] and [`output`]: 32 rows of weights each | accumulators complete | accumulators read |
//!
//! Of a pair (`.._pair`, a cluster of two) each block brings its own 128 of 256 rows of weights, half of the tokens' codes
//! and all of their scales; the even one issues for both, commits tell both, the odd one's warp 5 relays which stages are
//! full there ([`issuer::Relay`]), and its epilogue's warps arrive in the even block.
//!
//! # Budget of a block, one per SM
//!
//! | | one block | of a pair |
//! |---|---|---|
//! | stage: weights 18,432 B, codes of 192 tokens, their scales 4096 B | 47,104 B | 34,816 B |
//! | stages | 4 | 6 |
//! | staging of the epilogue, list of experts, barriers | 16,528 B | 16,560 B |
//! | shared memory | 204,944 B | 225,456 B |
//! | tensor memory: accumulators, two buffers of 192 columns | 384 | 384 |
//! | scales: two sets of four steps of 4 + 8 columns | 96 | 96 |
//!
//! # Cycles of a step, by the numbers of the specification (9 PFLOP/s at 1.85 GHz on 148 SMs: 16,400 multiply-adds a cycle)
//!
//! A step of 128 rows and N tokens is `N / 2` cycles of the tensor core (not less than about 56 have been measured
//! elsewhere), brings `4608 + 36 N` bytes (a block of a pair `4608 + 20 N`), of which 29 bytes a cycle can come from memory.
//! The epilogue that quantises takes a warp about `37 N` instructions for its 32 rows (counted in the machine code without
//! rare paths), beside the `112 N / 2` cycles of a tile at K = 7168. Nothing of this has been measured: no card was there.

use cuda_std::launch::LaunchBounds;
use cuda_std::prelude::*;
use cuda_std::tcgen05::{self, memory};
use cuda_std::{cluster, grid, mbarrier};

use crate::expert_list::ExpertList;
use crate::launch::{Arch, Arg, Dims, Geometry, Launch};

pub mod epilogue;
pub mod issuer;
pub mod layout;
pub mod output;
pub mod producer;
pub mod tiles;

use layout::{
    BUFFERS, Buffer, COLUMNS, EPILOGUE_WARPS, Form, ISSUER_WARP, PRODUCER_WARP, Pair, Position, Single,
    THREADS, WARPS,
};
use output::{Alphas, Output, PlainF32, SwigluF32, SwigluNvfp4, Target};
use tiles::{Experts, Tile, Walk};

/// What is multiplied; see the entries' arguments for shapes.
#[derive(Clone, Copy)]
pub struct Matrices {
    /// Weights.
    pub weights: *const u8,
    /// Codes of tokens.
    pub b_codes: *const u8,
    /// Scales of tokens.
    pub b_scales: *const u8,
    /// Global scale of each row of tokens.
    pub b_scale: *const f32,
    /// Row blocks of one expert.
    pub row_blocks: u32,
    /// Steps of 64 columns.
    pub steps: u32,
    /// First row block to compute.
    pub first_block: u32,
    /// Row blocks to compute.
    pub block_count: u32,
}

/// Where the rows of experts are.
#[derive(Clone, Copy)]
pub struct Groups {
    /// First row of each expert.
    pub offsets: *const u32,
    /// Rows of each expert.
    pub counts: *const u32,
    /// Experts.
    pub experts: u32,
}

macro_rules! args {
    ($($alpha:expr),* ; $($out:expr),* ; $($number:expr),*) => {
        &[
            Arg::input("weights", "u8 [experts][row_blocks][steps] units of kernels::operand, 4608 bytes each; 16-byte aligned"),
            $($alpha,)*
            Arg::input("b_codes", "u8 [row blocks][steps][4096]: codes of tokens in the order of kernels::operand; 16-byte aligned"),
            Arg::input("b_scales", "u8 [row blocks][steps][512]: their E4M3 scales, 32_4_4 layout; 16-byte aligned"),
            Arg::input("b_scale", "f32 [rows]: global scale of each row; NaN makes its results NaN"),
            Arg::input("offsets", "u32 [experts + 1]: first row of each expert, multiples of 128"),
            Arg::input("counts", "u32 [experts]: rows of each expert; those up to a multiple of 8 (of a pair: 16) must be readable"),
            $($out,)*
            Arg::u32("experts", "experts, at most 385"),
            Arg::u32("row_blocks", "row blocks of one expert's weights"),
            Arg::u32("steps", "steps of 64 columns, at least 1"),
            Arg::u32("first_block", "first row block that is computed"),
            Arg::u32("block_count", "row blocks that are computed, at least 1"),
            $($number,)*
        ]
    };
}

const ALPHA: Arg = Arg::input("alpha", "f32 [experts]: global scale of the weights");
const ALPHA_GATE: Arg = Arg::input("alpha", "f32 [experts]: the gate's global scale");
const ALPHA_UP: Arg = Arg::input("alpha_up", "f32 [experts]: the up matrix's global scale");
const FEATURES: Arg = Arg::u32("features", "features at or past this one are not stored");
const OUT_STRIDE: Arg = Arg::u32("out_stride", "elements from one row of out to the next");
const LIMIT: Arg = Arg::f32("limit", "SwiGLU clamp, positive; +infinity for none");

/// Parameters of the entries without activation: `out = acc * (b_scale * alpha)`.
pub const ARGS_PLAIN_F32: &[Arg] = args!(ALPHA;
    Arg::output("out", "f32 [rows][out_stride]: column = feature - 128 * first_block");
    FEATURES, OUT_STRIDE);
/// Parameters of the entries with SwiGLU in f32.
pub const ARGS_SWIGLU_F32: &[Arg] = args!(ALPHA_GATE, ALPHA_UP;
    Arg::output("out", "f32 [rows][out_stride]: column = feature - 64 * first_block");
    FEATURES, OUT_STRIDE, LIMIT);
/// Parameters of the entries with SwiGLU that make the next product's operand of tokens.
pub const ARGS_SWIGLU_NVFP4: &[Arg] = args!(ALPHA_GATE, ALPHA_UP;
    Arg::output("out_codes", "u8 [row blocks][out_steps][4096]: row block b of weights writes step b, rows up to a multiple of 16; 8-byte aligned"),
    Arg::output("out_scales", "u8 [row blocks][out_steps][512]: likewise"),
    Arg::output("out_row_scale", "f32 [rows]: NaN is written for a row that has NaN or infinity, nothing for others"),
    Arg::input("out_constant", "f32 [experts]: global scale that rows are quantised under"),
    Arg::output("saturated", "u32 [1], to which blocks with a clamped scale are added; or null");
    Arg::u32("out_steps", "steps of the operand that is made"), LIMIT);

/// Launch bounds of a form.
pub(crate) const fn bounds<F: Form>() -> LaunchBounds {
    let () = F::FITS;
    let bounds = LaunchBounds::block(THREADS);
    if F::PAIR { bounds.cluster(F::BLOCKS) } else { bounds }
}

const fn launch<F: Form>(name: &'static str, args: &'static [Arg]) -> Launch {
    Launch {
        name,
        bounds: bounds::<F>(),
        shared_bytes: F::SHARED_BYTES,
        args,
        archs: &[Arch::Sm100a],
        geometry: Geometry::Fixed,
    }
}

/// Dimensions on a device of `sms` multiprocessors: a block on each, of pairs an even number. Any grid from one block, or
/// pair, on gives the same bits.
pub const fn dims<F: Form>(sms: u32) -> Dims {
    let pairs = sms / F::BLOCKS;
    let pairs = if pairs == 0 { 1 } else { pairs };
    Dims { grid: [pairs * F::BLOCKS, 1, 1], block: [THREADS, 1, 1], shared_bytes: F::SHARED_BYTES }
}

/// Waits for a phase that, of a pair, either block may complete.
///
/// # Safety
/// As [`mbarrier::wait_parity`].
#[inline(always)]
unsafe fn wait<F: Form>(barrier: u32, parity: u32) {
    // SAFETY: the caller's duty.
    unsafe {
        if F::PAIR {
            mbarrier::wait_parity_cluster(barrier, parity)
        } else {
            mbarrier::wait_parity(barrier, parity)
        }
    }
}

/// Barrier over all threads of the block, of a pair over those of both.
///
/// # Safety
/// As [`thread::sync_threads`] and [`cluster::sync`].
#[inline(always)]
unsafe fn sync<F: Form>() {
    // SAFETY: the caller's duty.
    unsafe { if F::PAIR { cluster::sync() } else { thread::sync_threads() } }
}

/// Starts the barriers.
///
/// # Safety
/// One thread, before anything else; a block barrier follows.
#[inline(always)]
unsafe fn set_up<F: Form>(shared: u32, rank: u32) {
    // SAFETY: the barriers' places, which nobody uses yet.
    unsafe {
        let (mut at, mut slot) = (Position::START, 0);
        while slot < F::STAGES {
            // Of a pair the even block's also counts the odd block's relay.
            mbarrier::init(shared + at.full::<F>(), if F::PAIR { 2 - rank } else { 1 });
            mbarrier::init(shared + at.empty::<F>(), 1);
            at.advance::<F>();
            slot += 1;
        }
        let (mut buffer, mut slot) = (Buffer::START, 0);
        while slot < BUFFERS {
            mbarrier::init(shared + buffer.complete::<F>(), 1);
            mbarrier::init(shared + buffer.read::<F>(), EPILOGUE_WARPS * F::BLOCKS);
            buffer.advance();
            slot += 1;
        }
        mbarrier::fence_init();
    }
}

/// What a thread knows of its block.
#[derive(Clone, Copy)]
pub struct Block {
    /// Dynamic shared memory.
    pub shared: u32,
    /// Address of tensor memory.
    pub tensor: u32,
    /// Number of the thread's warp.
    pub warp: u32,
    /// The block's rank in its pair.
    pub rank: u32,
    /// The experts with rows.
    pub list: Experts,
    /// How many.
    pub entries: u32,
}

impl Block {
    /// Sets the block up: barriers, tensor memory, the list of experts. Waits for the kernels before.
    ///
    /// # Safety
    /// All threads of a block of [`THREADS`] with `F::SHARED_BYTES` of dynamic shared memory, first of all; groups as the
    /// entries demand.
    #[inline(always)]
    pub unsafe fn enter<F: Form>(groups: Groups) -> Self {
        // SAFETY: every thread of the block is here.
        unsafe {
            let shared = shared::dynamic();
            let warp = thread::thread_idx_x() / thread::WARP_SIZE;
            let rank = if F::PAIR { cluster::block_rank() } else { 0 };
            if opaque(warp == ISSUER_WARP) {
                memory::allocate::<F::Group, COLUMNS>(shared + F::TENSOR_OFFSET);
                if F::PAIR {
                    tcgen05::relinquish_alloc_permit_pair();
                } else {
                    tcgen05::relinquish_alloc_permit();
                }
            }
            if opaque(thread::thread_idx_x() == 0) {
                set_up::<F>(shared, rank);
            }
            grid::wait_for_dependencies();
            grid::launch_dependents();
            let list = ExpertList(shared + F::LIST_OFFSET);
            list.build_cta(groups.counts, groups.offsets, groups.experts, warp, WARPS);
            tcgen05::fence_before_thread_sync();
            sync::<F>();
            tcgen05::fence_after_thread_sync();
            let tensor = shared::load_u32(shared + F::TENSOR_OFFSET);
            let [entries, _] = list.totals();
            Self { shared, tensor, warp, rank, list, entries }
        }
    }

    /// Gives tensor memory back.
    ///
    /// # Safety
    /// All threads of the block, last of all.
    #[inline(always)]
    pub unsafe fn leave<F: Form>(self) {
        // All have a fence behind their last use of tensor memory: the epilogue before its arrivals, the issuer by its
        // commits. Of a pair nobody leaves while the other block may use its memory.
        // SAFETY: every thread of the block is here.
        unsafe {
            warp::sync_warp(warp::FULL);
            sync::<F>();
            tcgen05::fence_after_thread_sync();
            if opaque(self.warp == ISSUER_WARP) {
                memory::deallocate::<F::Group, COLUMNS>(self.tensor);
            }
        }
    }
}

/// The whole kernel.
///
/// # Safety
/// As [`Block::enter`]; matrices and output as the entries demand.
#[inline(always)]
unsafe fn run<F: Form, O: Output>(matrices: &Matrices, groups: Groups, output: &O) {
    // SAFETY: every thread of the block is here; roles are of whole warps.
    unsafe {
        let block = Block::enter::<F>(groups);
        let blocks = matrices.block_count.div_ceil(F::BLOCKS);
        let mut walk = Walk::new(thread::block_idx_x() / F::BLOCKS, thread::grid_dim_x() / F::BLOCKS);
        let mut next = || -> Option<Tile> { walk.next(block.entries, blocks, |i| block.list.entry(i)) };
        match block.warp {
            PRODUCER_WARP => {
                if warp::elect(warp::FULL) {
                    let mut producer = producer::Producer::new(block.shared, block.rank);
                    while let Some(tile) = next() {
                        producer.tile::<F>(matrices, tile, || ());
                    }
                }
            }
            ISSUER_WARP => {
                if warp::elect(warp::FULL) {
                    if block.rank == 0 {
                        let mut issuer = issuer::Issuer::new(block.shared, block.tensor);
                        while let Some(tile) = next() {
                            issuer.tile::<F>(matrices.steps, tile);
                        }
                    } else {
                        let mut relay = issuer::Relay::new(block.shared);
                        while next().is_some() {
                            relay.tile::<F>(matrices.steps);
                        }
                    }
                }
            }
            warp => {
                let mut epilogue = epilogue::Epilogue::new(block.shared, block.tensor, warp, block.rank);
                while let Some(tile) = next() {
                    epilogue.tile::<F, O>(matrices, tile, output);
                }
            }
        }
        block.leave::<F>();
    }
}

macro_rules! entry {
    ($(#[$doc:meta])* $name:ident, $form:ident, $launch:ident, $args:ident,
        [$($pointer:ident: $pointer_type:ty),*] [$($number:ident: $number_type:ty),*]
        [$($up:ident)?] $output:expr) => {
        #[doc = concat!("Launch table row of [`", stringify!($name), "`]; dimensions: [`dims`].")]
        pub const $launch: Launch = launch::<$form>(stringify!($name), $args);

        $(#[$doc])*
        ///
        /// # Safety
        /// Buffers of the table's shapes; nobody writes the inputs while the kernel runs; `offsets` and `counts` name rows
        /// that exist; sm_100a.
        #[kernel(bounds = bounds::<$form>())]
        #[allow(clippy::too_many_arguments)]
        pub unsafe fn $name(
            weights: *const u8,
            alpha: *const f32,
            $($up: *const f32,)?
            b_codes: *const u8,
            b_scales: *const u8,
            b_scale: *const f32,
            offsets: *const u32,
            counts: *const u32,
            $($pointer: $pointer_type,)*
            experts: u32,
            row_blocks: u32,
            steps: u32,
            first_block: u32,
            block_count: u32,
            $($number: $number_type,)*
        ) {
            #[allow(unused_mut)]
            let mut alphas = Alphas { gate: alpha, up: alpha };
            $(alphas.up = $up;)?
            let output = $output(alphas, $($pointer,)* $($number,)*);
            let matrices =
                Matrices { weights, b_codes, b_scales, b_scale, row_blocks, steps, first_block, block_count };
            let groups = Groups { offsets, counts, experts };
            // SAFETY: the caller's duties.
            unsafe { run::<$form, _>(&matrices, groups, &output) }
        }
    };
}

fn plain_f32(alphas: Alphas, out: *mut f32, features: u32, stride: u32) -> PlainF32 {
    PlainF32 { target: Target { out, stride, features }, alphas }
}

fn swiglu_f32(alphas: Alphas, out: *mut f32, features: u32, stride: u32, limit: f32) -> SwigluF32 {
    SwigluF32 { target: Target { out, stride, features }, alphas, limit }
}

#[allow(clippy::too_many_arguments)]
fn swiglu_nvfp4(
    alphas: Alphas,
    codes: *mut u8,
    scales: *mut u8,
    row_scale: *mut f32,
    constant: *const f32,
    saturated: *mut u32,
    steps: u32,
    limit: f32,
) -> SwigluNvfp4 {
    SwigluNvfp4 { codes, scales, row_scale, constant, steps, saturated, alphas, limit }
}

entry! {
    /// Scaled sums in f32.
    tcgen05_gemm_plain_f32, Single, PLAIN_F32, ARGS_PLAIN_F32,
    [out: *mut f32] [features: u32, out_stride: u32] [] plain_f32
}
entry! {
    /// Gate and up with SwiGLU, f32 out.
    tcgen05_gemm_swiglu_f32, Single, SWIGLU_F32, ARGS_SWIGLU_F32,
    [out: *mut f32] [features: u32, out_stride: u32, limit: f32] [alpha_up] swiglu_f32
}
entry! {
    /// Gate and up with SwiGLU, quantised to the operand of the next product in the same pass.
    ///
    /// Each block of 16 is [`nvfp4::quantize::quantize_block`] of the f32 result under the expert's constant, to the bit; one
    /// with NaN or infinity is a block of zeros, and the row's scale becomes NaN.
    tcgen05_gemm_swiglu_nvfp4, Single, SWIGLU_NVFP4, ARGS_SWIGLU_NVFP4,
    [out_codes: *mut u8, out_scales: *mut u8, out_row_scale: *mut f32, out_constant: *const f32, saturated: *mut u32]
    [out_steps: u32, limit: f32] [alpha_up] swiglu_nvfp4
}

entry! {
    /// Scaled sums in f32, two blocks for a tile.
    tcgen05_gemm_plain_f32_pair, Pair, PLAIN_F32_PAIR, ARGS_PLAIN_F32,
    [out: *mut f32] [features: u32, out_stride: u32] [] plain_f32
}
entry! {
    /// Gate and up with SwiGLU, f32 out, two blocks for a tile.
    tcgen05_gemm_swiglu_f32_pair, Pair, SWIGLU_F32_PAIR, ARGS_SWIGLU_F32,
    [out: *mut f32] [features: u32, out_stride: u32, limit: f32] [alpha_up] swiglu_f32
}
entry! {
    /// [`tcgen05_gemm_swiglu_nvfp4`] with two blocks for a tile.
    tcgen05_gemm_swiglu_nvfp4_pair, Pair, SWIGLU_NVFP4_PAIR, ARGS_SWIGLU_NVFP4,
    [out_codes: *mut u8, out_scales: *mut u8, out_row_scale: *mut f32, out_constant: *const f32, saturated: *mut u32]
    [out_steps: u32, limit: f32] [alpha_up] swiglu_nvfp4
}

/// Every entry of this file.
pub const LAUNCHES: [Launch; 6] =
    [PLAIN_F32, SWIGLU_F32, SWIGLU_NVFP4, PLAIN_F32_PAIR, SWIGLU_F32_PAIR, SWIGLU_NVFP4_PAIR];
