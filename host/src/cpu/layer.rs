//! The whole layer: routing, routed experts, shared expert, sum.

use std::collections::BTreeSet;
use std::sync::Mutex;

use half::bf16;
use rayon::prelude::*;

use super::check;
use super::dequant::WeightRows;
use super::gemm::Panels;
use super::mlp::{Expert, Hidden, Mlp, poison};
use super::router::Router;
use super::rows::{Rows, Scales, tensor_scale_of};
use super::scales::{self, Who};
use super::shared::SharedExpert;
use super::simd::Isa;
use super::slots::SlotPlan;
use crate::error::{Error, Result};
use crate::io::{LayerInput, LayerOutput, Routing, RoutingSource, Stats};
use crate::options::{ActScale, ActScaleL2, Activations, ForwardOptions, Part, WarmupScales};
use crate::weights::{LayerWeights, Nvfp4Matrix};

/// One call, checked.
struct Call<'a> {
    isa: Isa,
    layer: &'a LayerWeights,
    input: &'a LayerInput<'a>,
    opts: &'a ForwardOptions,
    shared: Option<SharedExpert<'a>>,
    /// Tokens whose output is a number.
    finite: Vec<bool>,
    stats: Stats,
}

/// The routed experts' work list and global scales.
struct Routed<'a> {
    mlp: Mlp<'a>,
    plan: SlotPlan,
    l1: Scales,
    l2: Scales,
}

pub(super) fn forward(
    isa: Isa,
    layer: &LayerWeights,
    input: &LayerInput<'_>,
    opts: &ForwardOptions,
) -> Result<LayerOutput> {
    let mut call = Call::new(isa, layer, input, opts)?;
    let shared = match (opts.part, call.shared) {
        (Part::Routed, _) | (Part::All, None) => None,
        (Part::Shared, None) => {
            return Err(Error::invalid("part", "the layer has no shared expert"));
        }
        (_, Some(shared)) => Some((shared, shared.scales(opts)?)),
    };
    let mut output = LayerOutput::default();
    let routed = if opts.part == Part::Shared {
        None
    } else {
        output.routing = call.route()?;
        Some(call.routed(&output.routing)?)
    };

    // Both sides often see the same quantised rows: quantise (and count) once.
    let mut rows: Option<(Scales, Rows<'_>)> = None;
    let mut panels = Vec::new();
    let top_k = layer.config.top_k;
    let mut poisoned = call.finite.clone();
    if let Some(r) = &routed {
        let h = call.l1(r, &mut rows);
        let (h, saturated) = h.activations(&r.l2);
        call.stats.saturated_blocks_l2 += saturated;
        poison(&h, &r.plan, top_k, &mut poisoned);
        panels.push(r.mlp.l2(&h, &r.plan, input.tokens, top_k, Some(&output.routing.topk_weights)));
    }
    if let Some((shared, (l1, l2))) = shared {
        let plan = SharedExpert::plan(&call.finite)?;
        let h = shared.l1(isa, call.token_rows(&l1, &mut rows), &plan);
        let (y, saturated) = shared.l2(isa, &h, &l2, &plan, &mut poisoned);
        call.stats.saturated_blocks_l2 += saturated;
        panels.push(y);
    }
    output.output_f32 = finish(layer.config.hidden, &poisoned, &panels.iter().collect::<Vec<_>>());
    output.output =
        output.output_f32.par_iter().map(|&y| bf16::from_bits(nvfp4::bf16::from_f32(y))).collect();
    output.stats = call.stats;
    call.warn();
    Ok(output)
}

pub(super) fn measure_warmup(
    isa: Isa,
    layer: &LayerWeights,
    input: &LayerInput<'_>,
    opts: &ForwardOptions,
) -> Result<WarmupScales> {
    let l1 = tensor_scale_of(input.hidden_states, layer.config.hidden);
    let mut measured = WarmupScales { l1, l2_routed: 0.0, l2_shared: 0.0 };
    // L1 as configured, where `Warmup` means what was measured just now. L2's scales are not used.
    let opts =
        ForwardOptions { warmup: Some(measured), act_scale_l2: ActScaleL2::RowDynamic, ..opts.clone() };
    let mut call = Call::new(isa, layer, input, &opts)?;
    let routing = call.route()?;
    let routed = call.routed(&routing)?;
    let mut rows = None;
    measured.l2_routed = call.l1(&routed, &mut rows).tensor_scale();
    if let Some(shared) = call.shared.filter(SharedExpert::is_nvfp4) {
        let (l1, _) = shared.scales(&opts)?;
        let plan = SharedExpert::plan(&call.finite)?;
        measured.l2_shared = shared.l1(isa, call.token_rows(&l1, &mut rows), &plan).tensor_scale();
    }
    Ok(measured)
}

/// The sum of the parts; NaN in the rows that are not finite.
pub(super) fn finish(cols: usize, finite: &[bool], parts: &[&Panels]) -> Vec<f32> {
    let mut out = vec![0.0f32; finite.len() * cols];
    out.par_chunks_mut(cols.max(1)).enumerate().for_each(|(row, out)| {
        for (i, part) in parts.iter().enumerate() {
            let mut rest = &mut *out;
            for piece in part.row(row) {
                let (out, tail) = rest.split_at_mut(piece.len());
                if i == 0 {
                    out.copy_from_slice(piece);
                } else {
                    out.iter_mut().zip(piece).for_each(|(out, y)| *out += y);
                }
                rest = tail;
            }
        }
        // One NaN for all instruction sets, whose own differ in the sign.
        for y in out.iter_mut().filter(|y| !finite[row] || y.is_nan()) {
            *y = f32::NAN;
        }
    });
    out
}

impl<'a> Call<'a> {
    fn new(
        isa: Isa,
        layer: &'a LayerWeights,
        input: &'a LayerInput<'a>,
        opts: &'a ForwardOptions,
    ) -> Result<Self> {
        let config = &layer.config;
        check::layer(layer)?;
        input.check(config.hidden, config.top_k)?;
        check::rows("hidden_states", input.tokens, config.hidden, input.hidden_states.len())?;
        let shared = layer.shared.as_ref().map(|s| SharedExpert::new(s, config.swiglu_limit)).transpose()?;
        let finite = Rows::bf16(input.hidden_states, config.hidden).finite();
        let non_finite_rows = finite.iter().filter(|&&ok| !ok).count() as u64;
        let stats = Stats { non_finite_rows, ..Stats::default() };
        Ok(Self { isa, layer, input, opts, shared, finite, stats })
    }

    fn route(&mut self) -> Result<Routing> {
        match self.input.routing {
            RoutingSource::Given { topk_ids, topk_weights } => {
                Ok(Routing { topk_ids: topk_ids.into(), topk_weights: topk_weights.into() })
            }
            RoutingSource::Model { input_ids } => {
                let weights = self.layer.router.as_ref().ok_or_else(|| {
                    Error::invalid("routing", "the layer has no router: give topk_ids and topk_weights")
                })?;
                let router = Router::new(weights, &self.layer.config)?;
                let (x, tokens) = (self.input.hidden_states, self.input.tokens);
                let (routing, invalid) = router.route_on(self.isa, x, tokens, input_ids)?;
                self.stats.invalid_tokens = invalid;
                Ok(routing)
            }
        }
    }

    fn routed(&mut self, routing: &Routing) -> Result<Routed<'a>> {
        let (config, layer) = (&self.layer.config, self.layer);
        let local = self.opts.local_experts.clone().unwrap_or(0..config.experts);
        let top_k = config.top_k;
        let plan = SlotPlan::new(&routing.topk_ids, config.experts, local.clone(), 1, |slot| {
            !self.finite[slot / top_k]
        })?;
        self.stats.invalid_slots = plan.invalid_slots;
        self.stats.foreign_slots = plan.foreign_slots;
        let scale = |e: usize, name: &str, m: &Nvfp4Matrix| (format!("expert {e} {name}"), m.input_scale);
        let gate_up = local.clone().map(|e| {
            let expert = &layer.experts[e];
            [scale(e, "gate", &expert.gate), scale(e, "up", &expert.up)]
        });
        let down = local.clone().map(|e| scale(e, "down", &layer.experts[e].down));
        let l1 = scales::l1(self.opts, gate_up)?;
        let l2 = scales::l2(self.opts, Who::Routed, config.limit(), down)?;
        let dynamic = |m: &'a Nvfp4Matrix| m as &dyn WeightRows;
        let experts = layer.experts[local]
            .iter()
            .map(|e| Expert { gate: dynamic(&e.gate), up: dynamic(&e.up), down: dynamic(&e.down) })
            .collect();
        let mlp = Mlp {
            isa: self.isa,
            experts,
            hidden: config.hidden,
            intermediate: config.intermediate,
            limit: config.limit(),
        };
        Ok(Routed { mlp, plan, l1, l2 })
    }

    /// The rows of all tokens under `scales`, from `cache` if it holds them.
    fn token_rows<'c>(&mut self, scales: &Scales, cache: &'c mut Option<(Scales, Rows<'a>)>) -> &'c Rows<'a> {
        let fresh = match cache.take() {
            Some(hit) if hit.0 == *scales => hit,
            _ => {
                let x = self.input.hidden_states;
                let (rows, saturated) = Rows::per_token(x, self.layer.config.hidden, scales);
                self.stats.saturated_blocks_l1 += saturated;
                (scales.clone(), rows)
            }
        };
        &cache.insert(fresh).1
    }

    fn l1<'p>(&mut self, r: &'p Routed<'_>, cache: &mut Option<(Scales, Rows<'a>)>) -> Hidden<'p> {
        let top_k = self.layer.config.top_k;
        let (hidden, slots) = (self.layer.config.hidden, r.plan.slot_of_row.len() as u32);
        if let Scales::PerExpert(list) = &r.l1 {
            let (x, saturated) = Rows::per_slot(self.input.hidden_states, hidden, &r.plan, top_k, list);
            self.stats.saturated_blocks_l1 += saturated;
            return r.mlp.l1(&x, &(0..slots).collect::<Vec<_>>(), &r.plan);
        }
        let x_row: Vec<u32> = r.plan.slot_of_row.iter().map(|&slot| slot / top_k as u32).collect();
        r.mlp.l1(self.token_rows(&r.l1, cache), &x_row, &r.plan)
    }

    /// Once per layer: calibrated scales that the data exceed.
    fn warn(&self) {
        static WARNED: Mutex<BTreeSet<usize>> = Mutex::new(BTreeSet::new());
        let (stats, opts) = (&self.stats, self.opts);
        let l1 = opts.act_scale == ActScale::Static && stats.saturated_blocks_l1 > 0;
        let l2 = opts.act_scale_l2 == ActScaleL2::Static && stats.saturated_blocks_l2 > 0;
        if opts.activations == Activations::Nvfp4 && (l1 || l2) {
            // A poisoned lock only means that another thread panicked while warning.
            let mut warned = WARNED.lock().unwrap_or_else(|e| e.into_inner());
            if warned.insert(self.layer.layer) {
                tracing::warn!(
                    layer = self.layer.layer,
                    l1_blocks = stats.saturated_blocks_l1,
                    l2_blocks = stats.saturated_blocks_l2,
                    "activations exceed the checkpoint's calibrated input_scale: block scales saturate at 448; \
                     use dynamic scales (or Bound for L2)"
                );
            }
        }
    }
}
