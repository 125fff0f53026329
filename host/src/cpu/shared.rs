//! The shared expert alone: every token, weight 1.

use half::bf16;

use super::check;
use super::gemm::Panels;
use super::mlp::{Expert, Hidden, Mlp, poison};
use super::rows::{Rows, Scales};
use super::scales::{self, Who};
use super::simd::Isa;
use super::slots::SlotPlan;
use crate::error::Result;
use crate::options::ForwardOptions;
use crate::weights::{Linear, SharedExpertWeights};

/// A shared expert. With NVFP4 weights it takes the layer's activation modes; with bf16 or FP8 weights (or a mixture)
/// its activations are always bf16.
#[derive(Clone, Copy, Debug)]
pub struct SharedExpert<'a> {
    weights: &'a SharedExpertWeights,
    hidden: usize,
    intermediate: usize,
    limit: f32,
}

impl<'a> SharedExpert<'a> {
    /// Checks the sizes. `swiglu_limit` as in [`crate::weights::LayerConfig`].
    pub fn new(weights: &'a SharedExpertWeights, swiglu_limit: Option<f32>) -> Result<Self> {
        let (hidden, intermediate) = check::shared(weights)?;
        let limit = check::limit(swiglu_limit)?;
        Ok(Self { weights, hidden, intermediate, limit })
    }

    /// `[tokens, hidden]` f32 of `[tokens, hidden]` bf16 rows. Of the options, only the activation modes matter. A row
    /// with NaN or infinity gives a row of NaN.
    pub fn forward(&self, rows: &[bf16], tokens: usize, opts: &ForwardOptions) -> Result<Vec<f32>> {
        check::rows("hidden_states", tokens, self.hidden, rows.len())?;
        let (l1, l2) = self.scales(opts)?;
        let mut finite = Rows::bf16(rows, self.hidden).finite();
        let (x, _) = Rows::per_token(rows, self.hidden, &l1);
        let plan = Self::plan(&finite)?;
        let h = self.l1(Isa::detect(), &x, &plan);
        let (y, _) = self.l2(Isa::detect(), &h, &l2, &plan, &mut finite);
        Ok(super::layer::finish(self.hidden, &finite, &[&y]))
    }

    /// Whether all three weights are NVFP4.
    pub(super) fn is_nvfp4(&self) -> bool {
        let s = self.weights;
        [&s.gate, &s.up, &s.down].iter().all(|m| matches!(m, Linear::Nvfp4(_)))
    }

    /// L1's and L2's scales; neither is [`Scales::PerExpert`].
    pub(super) fn scales(&self, opts: &ForwardOptions) -> Result<(Scales, Scales)> {
        if !self.is_nvfp4() {
            return Ok((Scales::Bf16, Scales::Bf16));
        }
        let named = |name: &str, m: &Linear| {
            let scale = if let Linear::Nvfp4(m) = m { m.input_scale } else { None };
            (format!("shared expert {name}"), scale)
        };
        let s = self.weights;
        let l1 = scales::l1(opts, [[named("gate", &s.gate), named("up", &s.up)]].into_iter())?;
        let l2 = scales::l2(opts, Who::Shared, self.limit, [named("down", &s.down)].into_iter())?;
        let only = |scales| match scales {
            Scales::PerExpert(list) => Scales::Constant(list[0]),
            other => other,
        };
        Ok((only(l1), only(l2)))
    }

    /// Every finite token to the one expert.
    pub(super) fn plan(finite: &[bool]) -> Result<SlotPlan> {
        SlotPlan::new(&vec![0; finite.len()], 1, 0..1, 1, |token| !finite[token])
    }

    pub(super) fn l1<'p>(&self, isa: Isa, x: &Rows<'_>, plan: &'p SlotPlan) -> Hidden<'p> {
        self.mlp(isa).l1(x, &plan.slot_of_row, plan)
    }

    /// L2; tokens whose L2 row is not finite are taken out of `finite`. Also the blocks whose scale saturated.
    pub(super) fn l2(
        &self,
        isa: Isa,
        h: &Hidden<'_>,
        scales: &Scales,
        plan: &SlotPlan,
        finite: &mut [bool],
    ) -> (Panels, u64) {
        let (h, saturated) = h.activations(scales);
        poison(&h, plan, 1, finite);
        (self.mlp(isa).l2(&h, plan, finite.len(), 1, None), saturated)
    }

    fn mlp(&self, isa: Isa) -> Mlp<'a> {
        let s = self.weights;
        Mlp {
            isa,
            experts: vec![Expert { gate: &s.gate, up: &s.up, down: &s.down }],
            hidden: self.hidden,
            intermediate: self.intermediate,
            limit: self.limit,
        }
    }
}
