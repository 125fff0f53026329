//! The decode form: both products of the experts and the combination in one launch (`expert_decode`), the bits of the split form.

use kernels::expert_decode::{self as decode, layout};
use kernels::launch::Launch;

use super::call::Call;
use super::plan::{Form, LayerPlan};
use super::shape::{Operands, SharedKind};
use super::{Args, DevicePtr, Region};
use crate::options::{Activations, Part};
use crate::{Error, Result};

// One address.
static KERNEL: Launch = decode::LAUNCH;

impl LayerPlan {
    /// Why calls of up to `max_tokens` tokens have no decode form, if they have none.
    pub(super) fn no_decode(&self, max_tokens: usize, part: Part) -> Option<&'static str> {
        let shape = self.shape();
        let slots = shape.top_k + usize::from(shape.shared == SharedKind::Folded);
        let (l1, l2) = (shape.l1(), shape.l2());
        let units = [l1.k_units, l2.k_units].map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        let fits = u32::try_from(max_tokens).is_ok_and(|n| layout::fits(n, slots as u32, units));
        if shape.operands != Operands::Fragments || self.options().activations != Activations::Bf16 {
            Some("it needs bf16 activations")
        } else if part == Part::Shared || shape.groups() == 0 {
            Some("it needs routed experts")
        } else if !fits || l2.row_tiles > layout::MAX_ROW_TILES as usize {
            Some("it is for up to eight tokens with 64 slots in all, whose rows fit into shared memory")
        } else {
            None
        }
    }

    /// Whether calls of up to `max_tokens` tokens can take [`Form::Decode`].
    pub fn has_decode(&self, max_tokens: usize, part: Part) -> bool {
        self.no_decode(max_tokens, part).is_none()
    }
}

impl Call<'_> {
    /// Whether the call takes the decode form: asked for, or the planner's choice; an error if it asks for it in vain.
    pub(super) fn takes_decode(&self) -> Result<bool> {
        let missing = self.plan.no_decode(self.io.max_tokens, self.io.part);
        match (self.io.form, missing) {
            (None | Some(Form::Decode), None) => Ok(!self.measuring),
            (Some(Form::Decode), Some(why)) => Err(Error::unsupported(
                format!("{:?} form of {} tokens", Form::Decode, self.io.max_tokens),
                why,
            )),
            _ => Ok(false),
        }
    }

    /// From rows, ids and weights to the output; `shared` are the results of a shared expert that is apart, or null.
    ///
    /// # Safety
    /// As [`Call::enqueue`].
    pub(super) unsafe fn decode(
        &self,
        ids: DevicePtr,
        weights: DevicePtr,
        shared: DevicePtr,
        tokens: DevicePtr,
    ) -> Result<()> {
        let (plan, shape, image, base) = (self.plan, self.plan.shape(), self.plan.image(), self.plan.base());
        let (first, _) = self.groups();
        let (_, folded) = self.parts();
        let of_group = |region: Region, bytes: usize| region.at(base).byte_add((bytes * first) as u64);
        let (l1, l2) = (shape.l1(), shape.l2());
        let args = Args::new(&KERNEL)
            .input("x", self.io.hidden_states)
            .input("topk_ids", ids)
            .input("topk_weights", weights)
            .input("tokens", tokens)
            .input("weights", of_group(image.l1.packed, l1.bytes()))
            .input("alpha", of_group(image.l1.alpha, 4))
            .input("alpha_up", of_group(image.l1.alpha_up, 4))
            .input("weights_down", of_group(image.l2.packed, l2.bytes()))
            .input("alpha_down", of_group(image.l2.alpha, 4))
            .input("shared", shared)
            .output("out", self.io.output)
            .output("out_f32", self.io.output_f32)
            .output("stats", self.region(self.layout.stats))
            .output("exchange", self.region(self.layout.decode_exchange))
            .u32("max_tokens", self.io.max_tokens as u32)
            .u32("top_k", shape.top_k as u32)
            .u32("experts", shape.experts as u32)
            .u32("first_local", shape.local.start as u32)
            .u32("local", shape.local.len() as u32)
            .u32("folded", u32::from(folded))
            .u32("columns", shape.hidden as u32)
            .u32("row_tiles", l1.row_tiles as u32)
            .u32("k_units", l1.k_units as u32)
            .u32("intermediate", shape.intermediate as u32)
            .u32("row_tiles_down", l2.row_tiles as u32)
            .u32("k_units_down", l2.k_units as u32)
            .f32("limit", plan.shape().limit);
        // SAFETY: the caller's.
        unsafe { self.launch(decode::dims(self.queue.multiprocessors()), args) }
    }
}
