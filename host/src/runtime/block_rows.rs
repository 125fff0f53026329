//! L1 operands of codes ([`Operands::Blocks`](super::shape::Operands::Blocks)): of the experts, and of a shared one apart.

use super::call::Call;
use super::rows::{self, Scales};
use super::shared::SharedCall;
use super::{DevicePtr, Region};
use crate::Result;
use crate::options::{ActScale, Part};

impl Call<'_> {
    /// The L1 operand of codes, and the slots by expert. The rows are read twice: the sort leaves out tokens that are not
    /// finite, and a row's place is known behind it.
    ///
    /// # Safety
    /// As [`Call::enqueue`].
    pub(super) unsafe fn prepare_blocks(&self, tokens: DevicePtr, ids: DevicePtr) -> Result<()> {
        let (plan, source) = (self.plan, self.token_rows(tokens));
        let (first, experts) = self.groups();
        let (routed, shared) = self.parts();
        let constant = |region: Region| region.at(plan.base()).byte_add(4 * first as u64);
        // SAFETY: as `enqueue` says.
        unsafe {
            let mut maxima = DevicePtr::NULL;
            if plan.options().act_scale == ActScale::TensorDynamic {
                maxima = self.region(self.layout.tensor_scales);
                self.queue.fill_u32(maxima, 0, 2)?;
            }
            rows::amax_bf16(self.queue, source, self.region(self.layout.token_scale), maxima)?;
            self.sort(ids, tokens)?;
            if experts == 0 && !routed {
                return Ok(());
            }
            let scales = match plan.options().act_scale {
                ActScale::RowDynamic => Scales::Row,
                ActScale::TensorDynamic => Scales::Tensor(maxima),
                // One for all groups; a token's saturated blocks count once.
                ActScale::Warmup => Scales::Constant(plan.image().l1_scale.at(plan.base())),
                ActScale::Static => Scales::PerExpert {
                    scale: constant(plan.image().l1_scale),
                    offsets: self.region(self.layout.offsets),
                    experts,
                },
            };
            let next = match self.quantises_h(plan.shape().operands) {
                true => [self.region(self.layout.h_scale), constant(plan.image().l2_scale)],
                false => [DevicePtr::NULL; 2],
            };
            let place = rows::Placement {
                slot_row: self.region(self.layout.slot_row),
                top_k: if routed { plan.shape().top_k } else { 0 },
                shared,
                counts: self.region(self.layout.counts),
                offsets: self.region(self.layout.offsets),
                experts,
                next,
            };
            rows::blocks_bf16(self.queue, source, self.x(), place, scales, self.saturated(0))
        }
    }
}

impl SharedCall<'_> {
    /// Its own operand of codes.
    ///
    /// # Safety
    /// As [`Call::enqueue`].
    pub(super) unsafe fn blocks(&self, source: rows::Source, to: rows::Target) -> Result<()> {
        let call = self.call;
        let constant = self.weights(self.at.scales);
        let act_scale = call.plan.options().act_scale;
        let scales = match act_scale {
            ActScale::RowDynamic => Scales::Row,
            ActScale::TensorDynamic => Scales::Tensor(call.region(call.layout.tensor_scales)),
            ActScale::Static | ActScale::Warmup => Scales::Constant(constant),
        };
        // The routed experts' tokens are these, and counted, if the scale is one for both.
        let counted = act_scale == ActScale::Warmup && call.io.part != Part::Shared;
        let saturated = if counted { DevicePtr::NULL } else { call.saturated(0) };
        let next = match call.quantises_h(self.operands) {
            true => [self.region(self.work.h_scale), constant.byte_add(4)],
            false => [DevicePtr::NULL; 2],
        };
        let place = rows::Placement {
            slot_row: DevicePtr::NULL,
            top_k: 1,
            shared: false,
            counts: self.region(self.work.counts),
            offsets: self.region(self.work.offsets),
            experts: 1,
            next,
        };
        // SAFETY: the caller's.
        unsafe { rows::blocks_bf16(call.queue, source, to, place, scales, saturated) }
    }
}
