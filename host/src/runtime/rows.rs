//! Launches of the kernels that turn rows into operands.

use kernels::launch::Launch;
use kernels::{
    prepare_rows_bf16, prepare_rows_nvfp4_bf16, prepare_rows_nvfp4_f32, quantise_blocks_bf16,
    quantise_blocks_f32, rows_amax_bf16, rows_amax_f32,
};

use super::shape::Packed;
use super::{Args, DevicePtr, Queue};
use crate::Result;

/// Rows to convert.
#[derive(Clone, Copy)]
pub(super) struct Source {
    /// The rows; null for the target's own, in place.
    pub x: DevicePtr,
    /// u32 `[1]`: rows there are.
    pub rows: DevicePtr,
    /// Rows that the buffers hold.
    pub max_rows: usize,
    /// Elements of a row.
    pub k: usize,
    /// Shape of the weights that the rows meet: their padded length.
    pub packed: Packed,
    /// Elements from row to row.
    pub stride: usize,
}

/// Where the operand goes.
#[derive(Clone, Copy)]
pub(super) struct Target {
    /// f16 `[max_rows, packed.k()]`, or codes.
    pub b: DevicePtr,
    /// E4M3 scales of the codes; unused beside f16.
    pub block_scales: DevicePtr,
    /// f32 `[max_rows]`.
    pub scale: DevicePtr,
}

/// Where the rows of tokens go in an operand of codes.
#[derive(Clone, Copy)]
pub(super) struct Placement {
    /// u32 `[tokens, top_k]`: row of each slot; null: a row per token.
    pub slot_row: DevicePtr,
    pub top_k: usize,
    /// Whether the last expert takes every token.
    pub shared: bool,
    /// u32 `[experts]`: rows of each expert.
    pub counts: DevicePtr,
    /// u32 `[experts]`: first row of each; null: 0, one expert.
    pub offsets: DevicePtr,
    pub experts: usize,
    /// Where the constant scale of the rows of the next product goes, f32 `[rows]`, and where it comes from, f32
    /// `[experts]`; null for none.
    pub next: [DevicePtr; 2],
}

/// Global scales of quantised rows.
#[derive(Clone, Copy)]
pub(super) enum Scales {
    /// Each row's own.
    Row,
    /// f32 `[1]`.
    Constant(DevicePtr),
    /// f32 `[experts]`, rows by offsets.
    PerExpert { scale: DevicePtr, offsets: DevicePtr, experts: usize },
    /// From a maximum as bits, u32 `[1]`.
    Tensor(DevicePtr),
    /// From two maxima as bits: the last expert is the shared one and takes the second.
    TensorApart { maxima: DevicePtr, offsets: DevicePtr, experts: usize },
}

impl Scales {
    /// `(mode, scale, offsets, experts)` of the kernels.
    fn arguments(self) -> (u32, DevicePtr, DevicePtr, u32) {
        match self {
            Scales::Row => (0, DevicePtr::NULL, DevicePtr::NULL, 0),
            Scales::Constant(scale) => (1, scale, DevicePtr::NULL, 0),
            Scales::PerExpert { scale, offsets, experts } => (2, scale, offsets, experts as u32),
            Scales::Tensor(maxima) => (3, maxima, DevicePtr::NULL, 0),
            Scales::TensorApart { maxima, offsets, experts } => (4, maxima, offsets, experts as u32),
        }
    }
}

/// # Safety
/// The addresses are memory of the shapes that the kernel's table names; so for all functions here.
pub(super) unsafe fn bf16(queue: &dyn Queue, from: Source, to: Target, index: DevicePtr) -> Result<()> {
    let launch = &prepare_rows_bf16::LAUNCH;
    let args = Args::new(launch)
        .input("x", from.x)
        .output("b", to.b)
        .output("b_scale", to.scale)
        .input("row_token", index)
        .input("rows", from.rows)
        .u32("max_rows", from.max_rows as u32)
        .u32("k", from.k as u32)
        .u32("k_units", from.packed.k_units as u32)
        .u32("x_stride", from.stride as u32);
    // SAFETY: the caller's.
    unsafe { enqueue(queue, launch, from, from.packed.k(), args) }
}

/// # Safety
/// As [`bf16`].
pub(super) unsafe fn nvfp4_bf16(
    queue: &dyn Queue,
    from: Source,
    to: Target,
    index: DevicePtr,
    scales: Scales,
    saturated: DevicePtr,
) -> Result<()> {
    // SAFETY: the caller's.
    unsafe { nvfp4(queue, &prepare_rows_nvfp4_bf16::LAUNCH, from, to, index, scales, saturated) }
}

/// # Safety
/// As [`bf16`].
pub(super) unsafe fn nvfp4_f32(
    queue: &dyn Queue,
    from: Source,
    to: Target,
    index: DevicePtr,
    scales: Scales,
    saturated: DevicePtr,
) -> Result<()> {
    // SAFETY: the caller's.
    unsafe { nvfp4(queue, &prepare_rows_nvfp4_f32::LAUNCH, from, to, index, scales, saturated) }
}

unsafe fn nvfp4(
    queue: &dyn Queue,
    launch: &'static Launch,
    from: Source,
    to: Target,
    index: DevicePtr,
    scales: Scales,
    saturated: DevicePtr,
) -> Result<()> {
    let (mode, scale, offsets, experts) = scales.arguments();
    let args = Args::new(launch)
        .input("x", from.x)
        .output("b", to.b)
        .output("b_scale", to.scale)
        .input("row_token", index)
        .input("rows", from.rows)
        .input("offsets", offsets)
        .input("scale", scale)
        .output("saturated", saturated)
        .u32("max_rows", from.max_rows as u32)
        .u32("k", from.k as u32)
        .u32("k_units", from.packed.k_units as u32)
        .u32("x_stride", from.stride as u32)
        .u32("experts", experts)
        .u32("mode", mode);
    // SAFETY: the caller's.
    unsafe { enqueue(queue, launch, from, from.packed.k(), args) }
}

/// Rows of tokens to an operand of codes, at the rows of their slots: `from.rows` counts tokens.
///
/// # Safety
/// As [`bf16`].
pub(super) unsafe fn blocks_bf16(
    queue: &dyn Queue,
    from: Source,
    to: Target,
    place: Placement,
    scales: Scales,
    saturated: DevicePtr,
) -> Result<()> {
    let launch = &quantise_blocks_bf16::LAUNCH;
    let (mode, scale, _, _) = scales.arguments();
    let args = Args::new(launch)
        .input("x", from.x)
        .output("b_codes", to.b)
        .output("b_scales", to.block_scales)
        .output("b_scale", to.scale)
        .input("slot_row", place.slot_row)
        .input("tokens", from.rows)
        .input("counts", place.counts)
        .input("offsets", place.offsets)
        .input("scale", scale)
        .output("saturated", saturated)
        .output("next_scale", place.next[0])
        .input("next_constant", place.next[1])
        .u32("max_tokens", from.max_rows as u32)
        .u32("k", from.k as u32)
        .u32("steps", from.packed.k_units as u32)
        .u32("x_stride", from.stride as u32)
        .u32("top_k", place.top_k as u32)
        .u32("shared", u32::from(place.shared))
        .u32("experts", place.experts as u32)
        .u32("mode", mode);
    // SAFETY: the caller's.
    unsafe { enqueue(queue, launch, from, from.packed.k(), args) }
}

/// f32 rows to an operand of codes, where they are; `index` has a word per row, none where there is no row.
///
/// # Safety
/// As [`bf16`].
pub(super) unsafe fn blocks_f32(
    queue: &dyn Queue,
    from: Source,
    to: Target,
    index: DevicePtr,
    scales: Scales,
    saturated: DevicePtr,
) -> Result<()> {
    let launch = &quantise_blocks_f32::LAUNCH;
    let (mode, scale, offsets, experts) = scales.arguments();
    let args = Args::new(launch)
        .input("x", from.x)
        .output("b_codes", to.b)
        .output("b_scales", to.block_scales)
        .output("b_scale", to.scale)
        .input("row_token", index)
        .input("rows", from.rows)
        .input("offsets", offsets)
        .input("scale", scale)
        .output("saturated", saturated)
        .u32("max_rows", from.max_rows as u32)
        .u32("k", from.k as u32)
        .u32("steps", from.packed.k_units as u32)
        .u32("x_stride", from.stride as u32)
        .u32("experts", experts)
        .u32("mode", mode);
    // SAFETY: the caller's.
    unsafe { enqueue(queue, launch, from, from.packed.k(), args) }
}

/// Maxima of bf16 rows: of each, of all; either may be null.
///
/// # Safety
/// As [`bf16`].
pub(super) unsafe fn amax_bf16(
    queue: &dyn Queue,
    from: Source,
    each: DevicePtr,
    all: DevicePtr,
) -> Result<()> {
    let null = DevicePtr::NULL;
    // SAFETY: the caller's.
    unsafe { amax(queue, &rows_amax_bf16::LAUNCH, from, each, all, null, null) }
}

/// Maxima of f32 rows: of those before `*split`, and of the others.
///
/// # Safety
/// As [`bf16`].
pub(super) unsafe fn amax_f32(
    queue: &dyn Queue,
    from: Source,
    index: DevicePtr,
    split: DevicePtr,
    all: DevicePtr,
) -> Result<()> {
    // SAFETY: the caller's.
    unsafe { amax(queue, &rows_amax_f32::LAUNCH, from, DevicePtr::NULL, all, index, split) }
}

unsafe fn amax(
    queue: &dyn Queue,
    launch: &'static Launch,
    from: Source,
    each: DevicePtr,
    all: DevicePtr,
    index: DevicePtr,
    split: DevicePtr,
) -> Result<()> {
    let args = Args::new(launch)
        .input("x", from.x)
        .output("row_amax", each)
        .output("amax", all)
        .input("row_token", index)
        .input("rows", from.rows)
        .input("split", split)
        .u32("max_rows", from.max_rows as u32)
        .u32("k", from.k as u32)
        .u32("x_stride", from.stride as u32);
    // SAFETY: the caller's.
    unsafe { enqueue(queue, launch, from, from.k, args) }
}

unsafe fn enqueue(
    queue: &dyn Queue,
    launch: &'static Launch,
    from: Source,
    k: usize,
    args: Args,
) -> Result<()> {
    let dims = launch.rows(from.max_rows as u32, k as u32, queue.multiprocessors());
    // SAFETY: the caller's.
    unsafe { queue.launch(dims, args, true) }
}
