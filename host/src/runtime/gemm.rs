//! The grouped GEMMs' launches, and which form is taken.

use kernels::expert_gemm_small as small;
use kernels::expert_gemm_wide::{self as wide, layout};
use kernels::launch::{Arch, Dims, Launch};

use super::plan::Form;
use super::shape::Packed;
use super::{Args, DevicePtr, Queue};
use crate::{Error, Result};

/// Mean rows per group up to which the decode form is taken, and the narrow one: measured on an H200 (docs/hopper.md).
const SMALL_ROWS: usize = 8;
/// See [`SMALL_ROWS`].
const NARROW_ROWS: usize = 20;

// One address each.
static SMALL_SWIGLU_BF16: Launch = small::SWIGLU_BF16;
static SMALL_SWIGLU_F32: Launch = small::SWIGLU_F32;
static SMALL_PLAIN_F32: Launch = small::PLAIN_F32;

/// Activations in front of a GEMM.
#[derive(Clone, Copy)]
pub(super) struct Operand {
    /// f16 rows.
    pub rows: DevicePtr,
    /// f32 per row.
    pub scale: DevicePtr,
    /// Row of each expert row; null for the row itself.
    pub index: DevicePtr,
}

/// What the epilogue of a GEMM does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Epilogue {
    /// SwiGLU to bf16.
    SwigluBf16,
    /// SwiGLU to f32.
    SwigluF32,
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
    /// `[groups]` matrices in fragment order.
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
}

impl Gemm {
    /// # Safety
    /// The addresses are memory of the shapes that the kernels' tables name.
    pub(super) unsafe fn enqueue(&self, queue: &dyn Queue, epilogue: Epilogue) -> Result<()> {
        if self.groups == 0 {
            return Ok(());
        }
        let (launch, dims) = self.choose(queue, epilogue)?;
        let mut flags = if self.fold_alpha { small::FOLD_ALPHA } else { 0 };
        // In front of a product without activation runs a kernel that makes its rows and nothing else: counts and offsets
        // are older. With SwiGLU it may be the sort, which writes them.
        if epilogue == Epilogue::Plain && core::ptr::eq(launch, epilogue.small()) {
            flags |= small::ROUTING_SETTLED;
        }
        let mut args = Args::new(launch).input("weights", self.weights).input("alpha", self.alpha);
        if epilogue != Epilogue::Plain {
            args = args.input("alpha_up", self.alpha_up);
        }
        args = args
            .input("b", self.operand.rows)
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

    /// The kernel and its dimensions: the form asked for, or by the rows that a group can be expected to have.
    fn choose(&self, queue: &dyn Queue, epilogue: Epilogue) -> Result<(&'static Launch, Dims)> {
        let sms = queue.multiprocessors();
        let small = small::dims(self.packed.k_units as u32, sms);
        let wgmma = queue.arch() == Arch::Sm90a;
        let form = self.form.unwrap_or(match self.mean_rows {
            _ if !wgmma => Form::Small,
            0..=SMALL_ROWS if small.is_some() => Form::Small,
            0..=NARROW_ROWS => Form::Narrow,
            _ => Form::Wide,
        });
        match (form, small) {
            (Form::Small, Some(dims)) => Ok((epilogue.small(), dims)),
            (form, _) if wgmma && form != Form::Small => Ok((epilogue.wgmma(form), wgmma_dims(form, sms))),
            (form, _) => {
                let what = format!("{form:?} GEMM of {} columns on {}", self.packed.k(), queue.arch().name());
                Err(Error::unsupported(what, "choose the other form"))
            }
        }
    }
}

impl Epilogue {
    fn small(self) -> &'static Launch {
        match self {
            Epilogue::SwigluBf16 => &SMALL_SWIGLU_BF16,
            Epilogue::SwigluF32 => &SMALL_SWIGLU_F32,
            Epilogue::Plain => &SMALL_PLAIN_F32,
        }
    }

    /// The kernel of a form on wgmma.
    fn wgmma(self, form: Form) -> &'static Launch {
        macro_rules! kernels {
            ($($form:ident: $bf16:ident $f32:ident $plain:ident),*) => {
                match (form, self) {
                    (Form::Small, _) => self.small(),
                    $((Form::$form, Epilogue::SwigluBf16) => &wide::$bf16,
                    (Form::$form, Epilogue::SwigluF32) => &wide::$f32,
                    (Form::$form, Epilogue::Plain) => &wide::$plain,)*
                }
            };
        }
        kernels!(
            Narrow: NARROW_SWIGLU_BF16 NARROW_SWIGLU_F32 NARROW_PLAIN_F32,
            Wide: WIDE_SWIGLU_BF16 WIDE_SWIGLU_F32 WIDE_PLAIN_F32,
            Quad: QUAD_SWIGLU_BF16 QUAD_SWIGLU_F32 QUAD_PLAIN_F32
        )
    }
}

/// Dimensions of a form on wgmma on a device of `sms` multiprocessors.
fn wgmma_dims(form: Form, sms: u32) -> Dims {
    match form {
        Form::Narrow => wide::dims::<layout::Narrow>(sms),
        Form::Quad => wide::dims::<layout::Quad>(sms),
        Form::Small | Form::Wide => wide::dims::<layout::Wide>(sms),
    }
}
