//! What the forms of the expert GEMM by `mma.sync` share ([`crate::expert_gemm_small`], [`crate::expert_gemm_medium`]): their
//! arguments, the product of a unit, and what becomes of the accumulators.
//!
//! A warp computes a row tile (16 rows of weights) for groups of eight tokens: one chain of `m16n8k16` over ascending k for
//! each element, whatever the form.

use crate::epilogue;
use crate::expand;
use crate::fragment::{GATE_UP_FEATURES, TILE_ROWS};
use cuda_std::half::bf16x2_from_f32;
use cuda_std::mma;
use cuda_std::prelude::*;

/// Bit of the argument `fold_alpha`: the scales are multiplied with each other first.
pub const FOLD_ALPHA: u32 = 1;
/// Bit of the argument `fold_alpha`: `counts` and `offsets` are complete when the kernel starts, whatever the kernel
/// that it depends on still writes.
pub const ROUTING_SETTLED: u32 = 2;
/// Tokens of a group: columns of the MMA.
pub const GROUP_TOKENS: u32 = 8;
/// Bytes of a unit's columns of one token.
pub const UNIT_TOKEN_BYTES: u32 = 128;
/// Bytes between two token rows: a 16-byte bank group further in each, for `ldmatrix`.
pub const TOKEN_GAP: u32 = 16;

/// What a block computes and from what; the arguments of the entries but `out`.
pub struct Gemm {
    /// Packed weights.
    pub weights: *const u8,
    /// Global scale of each expert (of gate).
    pub alpha: *const f32,
    /// The same of up; null for a plain product.
    pub alpha_up: *const f32,
    /// f16 rows.
    pub b: *const u16,
    /// Scale of each row of `b`.
    pub b_scale: *const f32,
    /// Row of `b` of each row, or null.
    pub row_token: *const u32,
    /// First row of each expert.
    pub offsets: *const u32,
    /// Rows of each expert.
    pub counts: *const u32,
    /// Experts.
    pub experts: u32,
    /// Row tiles of a matrix.
    pub row_tiles: u32,
    /// Units of 64 columns.
    pub k_units: u32,
    /// First row tile to compute.
    pub first_tile: u32,
    /// Row tiles to compute.
    pub tile_count: u32,
    /// See [`ROUTING_SETTLED`].
    pub routing_settled: bool,
}

/// Takes the accumulators of a tile.
pub trait Epilogue {
    /// `acc` of one thread for row tile `tile` (0 = the first computed) of `tokens` (1..=8) rows from `row` on.
    ///
    /// # Safety
    /// The thread's part of the output is writable; `scales` are those of the token group.
    #[inline(always)]
    unsafe fn store_thread(&self, acc: [f32; 4], tile: u32, row: u32, tokens: u32, scales: Scales) {
        // SAFETY: the caller's scales and output.
        unsafe {
            let (b_scale, alphas) = scales.load_thread();
            self.store_scaled_thread(acc, tile, row, tokens, b_scale, alphas);
        }
    }

    /// The same with the scales of the thread's two tokens, and alpha and alpha of up.
    ///
    /// # Safety
    /// The thread's part of the output is writable.
    unsafe fn store_scaled_thread(
        &self,
        acc: [f32; 4],
        tile: u32,
        row: u32,
        tokens: u32,
        b_scale: [f32; 2],
        alphas: [f32; 2],
    );
}

/// Shared addresses of the scales that results are multiplied with.
#[derive(Clone, Copy)]
pub struct Scales {
    /// f32 `[8]`: of the group's tokens; 8-byte aligned.
    pub tokens: u32,
    /// f32 `[2]`: alpha and alpha of up; 8-byte aligned.
    pub alphas: u32,
}

impl Scales {
    /// The two token scales of a thread, and both alphas.
    ///
    /// # Safety
    /// They are written, and the thread has synchronised with the writer.
    #[inline(always)]
    unsafe fn load_thread(self) -> ([f32; 2], [f32; 2]) {
        // SAFETY: inside the block's shared memory.
        unsafe {
            let tokens = shared::load_v2(self.tokens + warp::lane_id() % 4 * 8);
            (tokens.map(f32::from_bits), shared::load_v2(self.alphas).map(f32::from_bits))
        }
    }
}

/// SwiGLU of gate (rows 0..8 of the tile) and up (rows 8..16), to bf16 or f32.
pub struct Swiglu<T> {
    /// `[rows][out_stride]`.
    pub out: *mut T,
    /// Features of a matrix: what is past them is not stored.
    pub features: u32,
    /// First row tile that is computed.
    pub first_tile: u32,
    /// Elements from row to row.
    pub out_stride: u32,
    /// See [`FOLD_ALPHA`].
    pub fold: bool,
    /// Clamp.
    pub limit: f32,
}

/// An element of the output of [`Swiglu`].
pub trait Element: Copy {
    /// The element of an f32.
    fn of(value: f32) -> Self;
}

impl Element for f32 {
    #[inline(always)]
    fn of(value: f32) -> Self {
        value
    }
}

/// bf16 bits.
impl Element for u16 {
    #[inline(always)]
    fn of(value: f32) -> Self {
        bf16x2_from_f32(value, 0.0) as u16
    }
}

impl<T: Element> Epilogue for Swiglu<T> {
    #[inline(always)]
    unsafe fn store_scaled_thread(
        &self,
        acc: [f32; 4],
        tile: u32,
        row: u32,
        tokens: u32,
        b_scale: [f32; 2],
        [alpha, alpha_up]: [f32; 2],
    ) {
        let lane = warp::lane_id();
        let [g0, g1, u0, u1] = acc;
        let h = epilogue::swiglu([g0, g1], [u0, u1], b_scale, alpha, alpha_up, self.fold, self.limit);
        let column = tile * GATE_UP_FEATURES as u32 + lane / 4;
        if column + self.first_tile * GATE_UP_FEATURES as u32 >= self.features {
            return;
        }
        let token = lane % 4 * 2;
        // SAFETY: rows and columns of the output.
        unsafe {
            let to = self.out.add((row + token) as usize * self.out_stride as usize + column as usize);
            if token < tokens {
                *to = T::of(h[0]);
            }
            if token + 1 < tokens {
                *to.add(self.out_stride as usize) = T::of(h[1]);
            }
        }
    }
}

/// The scaled accumulators as they are.
pub struct Plain {
    /// `[rows][out_stride]`.
    pub out: *mut f32,
    /// Features of a matrix: what is past them is not stored.
    pub features: u32,
    /// First row tile that is computed.
    pub first_tile: u32,
    /// Elements from row to row.
    pub out_stride: u32,
    /// See [`FOLD_ALPHA`].
    pub fold: bool,
}

impl Epilogue for Plain {
    #[inline(always)]
    unsafe fn store_scaled_thread(
        &self,
        acc: [f32; 4],
        tile: u32,
        row: u32,
        tokens: u32,
        b_scale: [f32; 2],
        [alpha, _]: [f32; 2],
    ) {
        let lane = warp::lane_id();
        let column = tile * TILE_ROWS as u32 + lane / 4;
        let feature = column + self.first_tile * TILE_ROWS as u32;
        let token = lane % 4 * 2;
        // SAFETY: rows and columns of the output.
        unsafe {
            let to = self.out.add((row + token) as usize * self.out_stride as usize + column as usize);
            let mut n = 0;
            while n < 2 {
                let to = to.add(n * self.out_stride as usize);
                if token + (n as u32) < tokens {
                    if feature < self.features {
                        *to = epilogue::scaled(acc[n], b_scale[n], alpha, self.fold);
                    }
                    if feature + 8 < self.features {
                        *to.add(8) = epilogue::scaled(acc[n + 2], b_scale[n], alpha, self.fold);
                    }
                }
                n += 1;
            }
        }
    }
}

/// A lane's weights of a unit: codes of its four k16 steps, and their scales as f16 pairs of rows g and g + 8.
#[derive(Clone, Copy)]
pub struct UnitWeights {
    words: [u32; 4],
    scales: [u32; 4],
}

impl UnitWeights {
    /// # Safety
    /// `codes` and `scales` are this lane's addresses in a unit in shared memory.
    #[inline(always)]
    pub unsafe fn load(codes: u32, scales: u32) -> Self {
        // SAFETY: the caller's addresses.
        unsafe { Self { words: shared::load_v4(codes), scales: expand::scales(shared::load_v2(scales)) } }
    }

    /// The A fragment of k16 step `step`, see [`expand::fragment`].
    #[inline(always)]
    pub fn fragment(&self, step: usize) -> [u32; 4] {
        expand::fragment(self.words[step], self.scales[step])
    }
}

/// `acc` plus the product of one unit with `G` groups of tokens: four k16 steps in ascending k.
///
/// # Safety
/// The whole warp calls it; `b` are this lane's `ldmatrix` addresses of the unit's columns of each group.
#[inline(always)]
pub unsafe fn unit_warp<const G: usize>(acc: &mut [[f32; 4]; G], unit: UnitWeights, b: [u32; G]) {
    // SAFETY: the caller's addresses; the whole warp is here.
    unsafe {
        let mut pair = 0;
        while pair < 2 {
            let first = unit.fragment(2 * pair);
            let second = unit.fragment(2 * pair + 1);
            let mut g = 0;
            while g < G {
                let [b0, b1, b2, b3] = mma::load_matrix_x4(b[g] + pair as u32 * (UNIT_TOKEN_BYTES / 2));
                mma::m16n8k16_f16(&mut acc[g], first, [b0, b1]);
                mma::m16n8k16_f16(&mut acc[g], second, [b2, b3]);
                g += 1;
            }
            pair += 1;
        }
    }
}

/// The three rows of the launch table of a form.
macro_rules! launches {
    ($bounds:expr, $shared:expr, $geometry:expr; $bf16:literal, $f32:literal, $plain:literal) => {
        /// SwiGLU of gate and up, bf16.
        pub const SWIGLU_BF16: Launch = launches!(@row $bounds, $shared, $geometry, $bf16,
            "bf16 [rows, out_stride]: column = feature - 8 * first_tile",
            [Arg::input("alpha_up", "f32 [experts]: global scale of up")],
            [Arg::f32("limit", "SwiGLU clamp, positive; +infinity for none")]);
        /// SwiGLU of gate and up, f32.
        pub const SWIGLU_F32: Launch = launches!(@row $bounds, $shared, $geometry, $f32,
            "f32 [rows, out_stride]: column = feature - 8 * first_tile",
            [Arg::input("alpha_up", "f32 [experts]: global scale of up")],
            [Arg::f32("limit", "SwiGLU clamp, positive; +infinity for none")]);
        /// The scaled products, f32.
        pub const PLAIN_F32: Launch = launches!(@row $bounds, $shared, $geometry, $plain,
            "f32 [rows, out_stride]: column = feature - 16 * first_tile", [], []);
    };
    (@row $bounds:expr, $shared:expr, $geometry:expr, $name:literal, $out:literal, [$($up:expr)?], [$($limit:expr)?]) => {
        Launch {
            name: $name,
            bounds: $bounds,
            shared_bytes: $shared,
            archs: &Arch::ALL,
            geometry: $geometry,
            args: &[
                Arg::input("weights", "u8, fragment order: [experts][row_tiles][k_units] units; 16-byte aligned"),
                Arg::input("alpha", "f32 [experts]: global scale of the weights (of gate)"),
                $($up,)?
                Arg::input("b", "f16 [b_rows, 64 * k_units], padding zero; 16-byte aligned"),
                Arg::input("b_scale", "f32 [b_rows]: scale of each row; NaN for a row of zeros in place of NaN"),
                Arg::input("row_token", "u32 [rows]: row of b of each expert row; or null for the row itself"),
                Arg::input("offsets", "u32 [experts]: first row of each expert"),
                Arg::input("counts", "u32 [experts]: rows of each expert"),
                Arg::output("out", $out),
                Arg::u32("experts", "1 to 385"),
                Arg::u32("row_tiles", "row tiles of each expert's matrix"),
                Arg::u32("k_units", "units of 64 columns"),
                Arg::u32("first_tile", "first row tile to compute"),
                Arg::u32("tile_count", "row tiles to compute, at least 1"),
                Arg::u32("features", "features of a matrix; what is past them is not stored"),
                Arg::u32("out_stride", "elements from one row of out to the next"),
                Arg::u32("fold_alpha", "bit 0: acc * (b_scale * alpha), else (acc * b_scale) * alpha; bit 1: ROUTING_SETTLED"),
                $($limit,)?
            ],
        }
    };
}

/// The three entries of a form: `$run(&Gemm, &impl Epilogue)` with the arguments of its launch table rows.
macro_rules! entries {
    ($bounds:expr, $run:path; $bf16:ident, $f32:ident, $plain:ident) => {
        entries! { @one $bounds, $run, $bf16, SWIGLU_BF16, u16, [alpha_up], [limit],
            "SwiGLU of gate and up to bf16" }
        entries! { @one $bounds, $run, $f32, SWIGLU_F32, f32, [alpha_up], [limit], "SwiGLU of gate and up in f32" }
        entries! { @one $bounds, $run, $plain, PLAIN_F32, f32, [], [], "The scaled products in f32" }
    };
    (@one $bounds:expr, $run:path, $name:ident, $launch:ident, $element:ty, [$($alpha_up:ident)?], [$($limit:ident)?],
        $what:literal) => {
        #[doc = concat!($what, "; see [`", stringify!($launch), "`] for shapes and types.")]
        ///
        /// # Safety
        /// The buffers have the shapes and alignments of the launch table, `row_token` and `b` all rows that the
        /// routing names; the dimensions are those that the form allows, with its shared memory.
        #[kernel(bounds = $bounds)]
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
            let mut up = core::ptr::null();
            $(up = $alpha_up;)?
            let gemm = Gemm {
                weights,
                alpha,
                alpha_up: up,
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
                routing_settled: fold_alpha & ROUTING_SETTLED != 0,
            };
            let fold = fold_alpha & FOLD_ALPHA != 0;
            let epilogue = entries!(@epilogue out, features, first_tile, out_stride, fold, $($limit)?);
            // SAFETY: the caller's duty.
            unsafe { $run(&gemm, &epilogue) }
        }
    };
    (@epilogue $out:ident, $features:ident, $first_tile:ident, $out_stride:ident, $fold:ident, $limit:ident) => {
        Swiglu {
            out: $out,
            features: $features,
            first_tile: $first_tile,
            out_stride: $out_stride,
            fold: $fold,
            limit: $limit,
        }
    };
    (@epilogue $out:ident, $features:ident, $first_tile:ident, $out_stride:ident, $fold:ident,) => {
        Plain { out: $out, features: $features, first_tile: $first_tile, out_stride: $out_stride, fold: $fold }
    };
}

pub(crate) use {entries, launches};
