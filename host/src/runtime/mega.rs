//! The mega forms: both products of the experts and the combination in one launch (`tcgen05_mega`, `tcgen05_mega_pair`), the
//! bits of the split form.

use kernels::launch::{Dims, Launch};
use kernels::tcgen05_gemm::layout::{Pair, Single};
use kernels::tcgen05_mega as mega;

use super::call::Call;
use super::plan::Form;
use super::shape::{LayerOptions, LayerShape, SharedKind};
use super::workspace::quantises_h;
use super::{Args, DevicePtr, Region, Regions};
use crate::options::Part;
use crate::{Error, Result};

/// Counters of the kernel in the workspace. Zeroed in front of each launch: a call depends on nothing that is left in a
/// workspace.
#[derive(Clone, Copy, Debug, Default)]
pub struct MegaWorkspace {
    /// u32 `[rows / 64]`, then u32 `[tokens][4 * row blocks of L2]`; empty where there is no such form.
    pub counters: Region,
    /// Words of the first part.
    range_words: usize,
}

impl MegaWorkspace {
    pub(super) fn new(
        shape: &LayerShape,
        options: &LayerOptions,
        tokens: usize,
        chunk_columns: usize,
        regions: &mut Regions,
    ) -> Result<Self> {
        if missing(shape, options, chunk_columns).is_some() {
            return Ok(Self::default());
        }
        let range_words = shape.rows(tokens) / 64;
        let words = range_words + tokens * 4 * shape.l2().row_tiles;
        Ok(Self { counters: regions.add("counters of tiles", words, 4)?, range_words })
    }
}

/// Why a layer's calls have no mega form, if they have none.
fn missing(shape: &LayerShape, options: &LayerOptions, chunk_columns: usize) -> Option<&'static str> {
    if !quantises_h(shape.operands, options, shape.limit) {
        return Some("it needs NVFP4 activations on sm_100a and a constant global scale in front of L2");
    }
    (chunk_columns != shape.hidden).then_some("the slot results of so many tokens go through H in chunks")
}

impl Call<'_> {
    /// The kernel and its dimensions if the call is to take a mega form; an error if it asks for one in vain.
    pub(super) fn mega_kernel(&self) -> Result<Option<(&'static Launch, Dims)>> {
        let sms = self.queue.multiprocessors();
        let (form, kernel): (_, (&'static Launch, Dims)) = match self.io.form {
            Some(form @ Form::Mega) => (form, (&mega::LAUNCH, mega::dims::<Single>(sms))),
            Some(form @ Form::MegaPair) => (form, (&mega::LAUNCH_PAIR, mega::dims::<Pair>(sms))),
            _ => return Ok(None),
        };
        let shape = self.plan.shape();
        let apart = matches!(shape.shared, SharedKind::Apart { .. }) && self.io.part != Part::Routed;
        let missing = missing(shape, self.plan.options(), self.layout.chunk_columns)
            .or(apart.then_some("a shared expert that is apart is combined by another kernel"));
        match missing {
            // Without experts there is nothing but the combination.
            None => Ok((self.groups().1 != 0).then_some(kernel)),
            Some(why) => {
                Err(Error::unsupported(format!("{form:?} form of {} tokens", self.io.max_tokens), why))
            }
        }
    }

    /// From the L1 operand to the output, by the kernel of [`Self::mega_kernel`].
    ///
    /// # Safety
    /// As [`Call::enqueue`].
    pub(super) unsafe fn mega(
        &self,
        (kernel, dims): (&'static Launch, Dims),
        weights: DevicePtr,
        tokens: DevicePtr,
    ) -> Result<()> {
        let (plan, shape, image, base) = (self.plan, self.plan.shape(), self.plan.image(), self.plan.base());
        let (first, experts) = self.groups();
        let (routed, folded) = self.parts();
        let of_group = |region: Region, bytes: usize| region.at(base).byte_add((bytes * first) as u64);
        let (l1, l2) = (shape.l1(), shape.l2());
        let (x, h) = (self.x(), self.h());
        let sms = self.queue.multiprocessors();
        let ranges = self.region(self.layout.mega.counters);
        let shared_row = if folded { DevicePtr(self.rows().0 - 4) } else { DevicePtr::NULL };
        // As many tiles of L1 as blocks work at a time lie between an expert's last one and its first of L2.
        let lag = 1 + (sms as usize).div_ceil(l1.row_tiles);
        let args = Args::new(kernel)
            .input("weights", of_group(image.l1.packed, l1.bytes()))
            .input("alpha", of_group(image.l1.alpha, 4))
            .input("alpha_up", of_group(image.l1.alpha_up, 4))
            .input("weights_down", of_group(image.l2.packed, l2.bytes()))
            .input("alpha_down", of_group(image.l2.alpha, 4))
            .input("b_codes", x.b)
            .input("b_scales", x.block_scales)
            .input("b_scale", x.scale)
            .input("offsets", self.region(self.layout.offsets))
            .input("counts", self.region(self.layout.counts))
            .output("h_codes", h.b)
            .output("h_scales", h.block_scales)
            .output("h_scale", h.scale)
            .input("h_constant", of_group(image.l2_scale, 4))
            .output("saturated", self.saturated(1))
            .output("y", self.region(self.layout.y))
            .input("row_token", self.region(self.layout.row_token))
            .input("slot_row", self.region(self.layout.slot_row))
            .input("topk_weights", weights)
            .input("shared_row", shared_row)
            .input("token_scale", self.region(self.layout.token_scale))
            .input("tokens", tokens)
            .output("out", self.io.output)
            .output("out_f32", self.io.output_f32)
            .output("range_counters", ranges)
            .output("token_counters", ranges.byte_add(4 * self.layout.mega.range_words as u64))
            .u32("experts", experts as u32)
            .u32("row_blocks", l1.row_tiles as u32)
            .u32("steps", l1.k_units as u32)
            .u32("row_blocks_down", l2.row_tiles as u32)
            .u32("columns", shape.hidden as u32)
            .u32("y_stride", self.layout.chunk_columns as u32)
            .u32("out_stride", shape.hidden as u32)
            .u32("max_tokens", self.io.max_tokens as u32)
            .u32("top_k", if routed { shape.top_k as u32 } else { 0 })
            .u32("lag", lag as u32)
            .f32("limit", plan.shape().limit);
        // SAFETY: the caller's.
        unsafe { self.launch(dims, args) }
    }

    /// Zeros for the counters, in front of everything else: the kernels behind it follow each other without a gap.
    ///
    /// # Safety
    /// As [`Call::enqueue`].
    pub(super) unsafe fn clear_counters(&self) -> Result<()> {
        let region = self.layout.mega.counters;
        // SAFETY: the region is the caller's.
        unsafe { self.queue.fill_u32(self.region(region), 0, region.bytes / 4) }
    }
}
