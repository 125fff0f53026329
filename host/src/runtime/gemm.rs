//! The grouped GEMMs' launches, and which form is taken.

use std::ops::RangeInclusive;

use kernels::expert_gemm_medium as medium;
use kernels::expert_gemm_mma::{FOLD_ALPHA, ROUTING_SETTLED};
use kernels::expert_gemm_small as small;
use kernels::expert_gemm_wide::{self as wide, layout};
use kernels::gather_lines;
use kernels::launch::{Arch, Dims, Launch};

use super::plan::Form;
use super::shape::{Operands, Packed};
use super::{Args, DevicePtr, Queue, block_gemm};
use crate::{Error, Result};

/// Mean rows per group up to which a form is taken: measured on an H200 (docs/hopper.md).
const SMALL_ROWS: usize = 6;
/// See [`SMALL_ROWS`].
const MEDIUM_ROWS: usize = 10;
/// See [`SMALL_ROWS`].
const NARROW_ROWS: usize = 26;
/// See [`SMALL_ROWS`]: with SwiGLU, where one tile takes the rows for which [`Form::Wide`] needs two; random routing spreads the
/// rows, so from a little below 128. Without SwiGLU a tile has as many results as a wide one for half the products.
const BROAD_ROWS: RangeInclusive<usize> = 124..=224;

// One address each.
static MEDIUM_SWIGLU_BF16: Launch = medium::SWIGLU_BF16;
static MEDIUM_SWIGLU_F32: Launch = medium::SWIGLU_F32;
static MEDIUM_PLAIN_F32: Launch = medium::PLAIN_F32;
static SMALL_SWIGLU_BF16: Launch = small::SWIGLU_BF16;
static SMALL_SWIGLU_F32: Launch = small::SWIGLU_F32;
static SMALL_PLAIN_F32: Launch = small::PLAIN_F32;
static GATHER: Launch = gather_lines::LAUNCH;

/// Activations in front of a GEMM.
#[derive(Clone, Copy)]
pub(super) struct Operand {
    /// f16 rows, or codes.
    pub rows: DevicePtr,
    /// E4M3 scales of the codes; null beside f16.
    pub block_scales: DevicePtr,
    /// f32 per row.
    pub scale: DevicePtr,
    /// Row of each expert row; null for the row itself. Of f16 only.
    pub index: DevicePtr,
    /// Memory for the expert rows as the forms by wgmma take them ([`kernels::lines`]); null where there are none.
    pub lines: DevicePtr,
}

/// What a GEMM that quantises its results needs beside the place of their codes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Quantised {
    /// E4M3 scales of the codes.
    pub block_scales: DevicePtr,
    /// f32 per row: the constant already; NaN is written for rows that are not finite.
    pub scale: DevicePtr,
    /// f32 per group: constant global scales.
    pub constant: DevicePtr,
    /// Counter of saturated blocks.
    pub saturated: DevicePtr,
    /// Steps of 64 columns of the operand.
    pub steps: usize,
}

/// What the epilogue of a GEMM does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Epilogue {
    /// SwiGLU to bf16.
    SwigluBf16,
    /// SwiGLU to f32.
    SwigluF32,
    /// SwiGLU to codes, the operand of the next product.
    SwigluNvfp4(Quantised),
    /// The scaled sum, f32.
    Plain,
}

/// Which part of the output features a GEMM computes, and where they go.
#[derive(Clone, Copy)]
pub(super) struct Output {
    pub to: DevicePtr,
    /// Elements from row to row.
    pub stride: usize,
    /// Features of the whole matrix.
    pub features: usize,
    pub first_tile: usize,
    pub tiles: usize,
}

/// One launch.
#[derive(Clone, Copy)]
pub(super) struct Gemm {
    /// `[groups]` matrices.
    pub weights: DevicePtr,
    /// f32 `[groups]`: gate's, or the only one.
    pub alpha: DevicePtr,
    /// f32 `[groups]`: up's.
    pub alpha_up: DevicePtr,
    pub packed: Packed,
    pub operand: Operand,
    /// u32 `[groups]`: first row of each.
    pub offsets: DevicePtr,
    /// u32 `[groups]`: rows of each.
    pub counts: DevicePtr,
    pub groups: usize,
    pub output: Output,
    /// Whether alpha and the row's scale are multiplied first.
    pub fold_alpha: bool,
    /// SwiGLU's clamp.
    pub limit: f32,
    /// The form asked for.
    pub form: Option<Form>,
    /// Rows of a group if the call has its most tokens and all groups have as many: what the form is chosen by.
    pub mean_rows: usize,
    /// Rows of all groups if the call has its most tokens.
    pub rows: usize,
}

impl Gemm {
    /// # Safety
    /// The addresses are memory of the shapes that the kernels' tables name.
    pub(super) unsafe fn enqueue(&self, queue: &dyn Queue, epilogue: Epilogue) -> Result<()> {
        if self.groups == 0 {
            return Ok(());
        }
        if self.packed.operands == Operands::Blocks {
            // SAFETY: the caller's.
            return unsafe { block_gemm::enqueue(self, queue, epilogue) };
        }
        let (launch, dims) = self.choose(queue, epilogue)?;
        let mut flags = if self.fold_alpha { FOLD_ALPHA } else { 0 };
        // In front of a product without activation runs a kernel that makes its rows and nothing else: counts and offsets
        // are older. With SwiGLU it may be the sort, which writes them.
        if epilogue == Epilogue::Plain && [&SMALL_PLAIN_F32, &MEDIUM_PLAIN_F32].contains(&launch) {
            flags |= ROUTING_SETTLED;
        }
        let rows = if wide::LAUNCHES.contains(launch) {
            // Later chunks of features find the lines that the first one's have left.
            if self.output.first_tile == 0 {
                // SAFETY: the caller's.
                unsafe { self.gather(queue)? };
            }
            self.operand.lines
        } else {
            self.operand.rows
        };
        let mut args = Args::new(launch).input("weights", self.weights).input("alpha", self.alpha);
        if epilogue != Epilogue::Plain {
            args = args.input("alpha_up", self.alpha_up);
        }
        args = args
            .input("b", rows)
            .input("b_scale", self.operand.scale)
            .input("row_token", self.operand.index)
            .input("offsets", self.offsets)
            .input("counts", self.counts)
            .output("out", self.output.to)
            .u32("experts", self.groups as u32)
            .u32("row_tiles", self.packed.row_tiles as u32)
            .u32("k_units", self.packed.k_units as u32)
            .u32("first_tile", self.output.first_tile as u32)
            .u32("tile_count", self.output.tiles as u32)
            .u32("features", self.output.features as u32)
            .u32("out_stride", self.output.stride as u32)
            .u32("fold_alpha", flags);
        if epilogue != Epilogue::Plain {
            args = args.f32("limit", self.limit);
        }
        // SAFETY: the caller's. The kernel waits for the one in front of it by itself.
        unsafe { queue.launch(dims, args, true) }
    }

    /// The expert rows as the forms by wgmma take them.
    ///
    /// # Safety
    /// As [`Gemm::enqueue`].
    unsafe fn gather(&self, queue: &dyn Queue) -> Result<()> {
        let args = Args::new(&GATHER)
            .input("b", self.operand.rows)
            .input("row_token", self.operand.index)
            .input("offsets", self.offsets)
            .input("counts", self.counts)
            .output("out", self.operand.lines)
            .u32("experts", self.groups as u32)
            .u32("k_units", self.packed.k_units as u32);
        // SAFETY: the caller's. The kernel waits for the one in front of it by itself.
        unsafe { queue.launch(gather_lines::dims(queue.multiprocessors()), args, true) }
    }

    /// The kernel and its dimensions: the form asked for, or by the rows that a group can be expected to have.
    fn choose(&self, queue: &dyn Queue, epilogue: Epilogue) -> Result<(&'static Launch, Dims)> {
        let sms = queue.multiprocessors();
        // With so few rows each has an expert of its own.
        let tiles = (self.rows * self.output.tiles).div_ceil(sms as usize);
        let small = small::dims_for(self.packed.k_units as u32, sms, tiles.try_into().unwrap_or(u32::MAX));
        let wgmma = queue.arch() == Arch::Sm90a;
        let form = self.form.unwrap_or(match self.mean_rows {
            rows if rows <= SMALL_ROWS && small.is_some() => Form::Small,
            rows if rows <= MEDIUM_ROWS || !wgmma => Form::Medium,
            rows if rows <= NARROW_ROWS => Form::Narrow,
            rows if BROAD_ROWS.contains(&rows) && epilogue != Epilogue::Plain => Form::Broad,
            _ => Form::Wide,
        });
        let launch = match (form, small) {
            (Form::Small, Some(dims)) => epilogue.small().map(|launch| (launch, dims)),
            (Form::Medium, _) => epilogue.medium().map(|launch| (launch, medium::dims(sms))),
            (Form::Narrow, _) if wgmma => {
                epilogue.narrow().map(|launch| (launch, wide::dims::<layout::Narrow>(sms)))
            }
            (Form::Wide, _) if wgmma => {
                epilogue.wide().map(|launch| (launch, wide::dims::<layout::Wide>(sms)))
            }
            (Form::Broad, _) if wgmma => {
                epilogue.broad().map(|launch| (launch, wide::dims::<layout::Broad>(sms)))
            }
            _ => None,
        };
        launch.ok_or_else(|| {
            let what = format!("{form:?} GEMM of {} columns on {}", self.packed.k(), queue.arch().name());
            Error::unsupported(what, "choose the other form")
        })
    }
}

/// The kernels by form; none quantises.
impl Epilogue {
    fn small(self) -> Option<&'static Launch> {
        match self {
            Epilogue::SwigluBf16 => Some(&SMALL_SWIGLU_BF16),
            Epilogue::SwigluF32 => Some(&SMALL_SWIGLU_F32),
            Epilogue::Plain => Some(&SMALL_PLAIN_F32),
            Epilogue::SwigluNvfp4(_) => None,
        }
    }

    fn medium(self) -> Option<&'static Launch> {
        match self {
            Epilogue::SwigluBf16 => Some(&MEDIUM_SWIGLU_BF16),
            Epilogue::SwigluF32 => Some(&MEDIUM_SWIGLU_F32),
            Epilogue::Plain => Some(&MEDIUM_PLAIN_F32),
            Epilogue::SwigluNvfp4(_) => None,
        }
    }

    fn narrow(self) -> Option<&'static Launch> {
        match self {
            Epilogue::SwigluBf16 => Some(&wide::NARROW_SWIGLU_BF16),
            Epilogue::SwigluF32 => Some(&wide::NARROW_SWIGLU_F32),
            Epilogue::Plain => Some(&wide::NARROW_PLAIN_F32),
            Epilogue::SwigluNvfp4(_) => None,
        }
    }

    fn broad(self) -> Option<&'static Launch> {
        match self {
            Epilogue::SwigluBf16 => Some(&wide::BROAD_SWIGLU_BF16),
            Epilogue::SwigluF32 => Some(&wide::BROAD_SWIGLU_F32),
            Epilogue::Plain => Some(&wide::BROAD_PLAIN_F32),
            Epilogue::SwigluNvfp4(_) => None,
        }
    }

    fn wide(self) -> Option<&'static Launch> {
        match self {
            Epilogue::SwigluBf16 => Some(&wide::WIDE_SWIGLU_BF16),
            Epilogue::SwigluF32 => Some(&wide::WIDE_SWIGLU_F32),
            Epilogue::Plain => Some(&wide::WIDE_PLAIN_F32),
            Epilogue::SwigluNvfp4(_) => None,
        }
    }
}
