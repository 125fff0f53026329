//! A third implementation of the layer, as short as possible, with a place for every bug.

use half::bf16;
use megamoe::io::{LayerInput, RoutingSource};
use megamoe::options::{ActScale, ActScaleL2, Activations, ForwardOptions, Part};
use megamoe::weights::{LayerWeights, Linear, Nvfp4Matrix, Selection};
use nvfp4::{BLOCK, e2m1, e4m3, quantize, routing, swiglu};

/// One bug. The names are what `REGRESSIONS.md` calls them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    None,
    // Weights.
    NibblesSwapped,
    ScaleOfNextBlock,
    ScaleCoordinatesSwapped,
    ScaleColumnsSwizzled,
    ScalesIgnored,
    SignsIgnored,
    ProductsClampedAt448,
    ProductsAbove448AreNan,
    RowsInterleaved,
    KTailSkipped,
    // Global scales.
    FoldedGlobalScale,
    GlobalScaleNotLoaded,
    GlobalScaleForgotten,
    GlobalScaleReciprocal,
    GateAlphaForBoth,
    MaxAlphaForBoth,
    AlphaAfterSwiglu,
    AlphaTwice,
    ActivationScaleTwice,
    // SwiGLU.
    ClampForgotten,
    ClampAfterSilu,
    ClampBeforeAlpha,
    GateClampedBelow,
    UpClampedAboveOnly,
    GateUpSwapped,
    // Activations.
    L1ScaleForL2,
    StaticScaleForDynamic,
    StaticScaleReciprocal,
    GateInputScaleOnly,
    InputScaleByLocalIndex,
    HiddenRoundedToE4m3,
    WeightBeforeRequantisation,
    // Routing and combine.
    BiasInWeights,
    WeightsForgotten,
    WeightsNotNormalised,
    ScalingForgotten,
    ScalingTwice,
    CapacityDropsSlots,
    SearchsortedLeft,
    GlobalIdsAsLocal,
    LocalIdsFromZero,
    MinusOneIsTheLastExpert,
    DuplicatesOnce,
    ForeignSlotsComputed,
    SharedExpertForgotten,
    PaddingPoisonsRows,
}

pub struct Mini<'a> {
    pub layer: &'a LayerWeights,
    pub opts: &'a ForwardOptions,
    pub bug: Bug,
}

impl Mini<'_> {
    fn is(&self, bug: Bug) -> bool {
        self.bug == bug
    }

    /// The whole layer: `[tokens, hidden]`.
    pub fn forward(&self, input: &LayerInput<'_>) -> Vec<f32> {
        let config = &self.layer.config;
        let mut out = vec![0.0f32; input.tokens * config.hidden];
        let add = |out: &mut [f32], token: usize, y: &[f32]| {
            out[token * config.hidden..][..config.hidden].iter_mut().zip(y).for_each(|(o, y)| *o += y);
        };
        let rows: Vec<Vec<f32>> = input
            .hidden_states
            .chunks(config.hidden)
            .map(|r| r.iter().map(|v| v.to_f32()).collect())
            .collect();
        if self.opts.part != Part::Shared {
            let (ids, weights) = self.route(input);
            for (slot, expert) in self.experts_of(&ids).into_iter().enumerate() {
                let Some(expert) = expert else { continue };
                let token = slot / config.top_k;
                let e = &self.layer.experts[expert];
                let mut own = [e.gate.clone(), e.up.clone(), e.down.clone()];
                if self.is(Bug::InputScaleByLocalIndex) {
                    // An array over all experts, indexed with the local id.
                    let first = self.opts.local_experts.as_ref().map_or(0, |r| r.start);
                    let other = &self.layer.experts[expert - first];
                    for (m, other) in own.iter_mut().zip([&other.gate, &other.up, &other.down]) {
                        m.input_scale = other.input_scale;
                    }
                }
                let y = self.expert(own.each_ref(), &rows[token], weights[slot]);
                add(&mut out, token, &y);
            }
        }
        if self.opts.part != Part::Routed && !self.is(Bug::SharedExpertForgotten) {
            let shared = self.layer.shared.as_ref().expect("the mini layer has a shared expert");
            let [Linear::Nvfp4(gate), Linear::Nvfp4(up), Linear::Nvfp4(down)] =
                [&shared.gate, &shared.up, &shared.down]
            else {
                panic!("NVFP4 only")
            };
            for (token, row) in rows.iter().enumerate() {
                add(&mut out, token, &self.expert([gate, up, down], row, 1.0));
            }
        }
        if self.is(Bug::PaddingPoisonsRows) {
            // 0 * NaN of an unwritten padding row, added to its neighbour.
            out.chunks_mut(config.hidden).step_by(4).for_each(|row| row[0] = f32::NAN);
        }
        out
    }

    fn route(&self, input: &LayerInput<'_>) -> (Vec<i32>, Vec<f32>) {
        let config = &self.layer.config;
        let input_ids = match input.routing {
            RoutingSource::Given { topk_ids, topk_weights } => return (topk_ids.into(), topk_weights.into()),
            RoutingSource::Model { input_ids } => input_ids,
        };
        let router = self.layer.router.as_ref().expect("a router");
        let (mut ids, mut weights) = (Vec::new(), Vec::new());
        for (token, x) in input.hidden_states.chunks(config.hidden).enumerate() {
            let dot =
                |w: &[f32]| x.iter().zip(w).map(|(x, w)| x.to_f64() * f64::from(*w)).sum::<f64>() as f32;
            let mut scores: Vec<f32> = router.weight.chunks(config.hidden).map(dot).collect();
            routing::scores(&mut scores, config.scoring);
            let mut keys = scores.clone();
            let chosen: Vec<i32> = match &router.selection {
                Selection::Hash { tid2eid } => {
                    let id = input_ids.expect("ids")[token] as usize;
                    tid2eid[id * config.top_k..][..config.top_k].to_vec()
                }
                Selection::TopK { bias } => {
                    if let Some(bias) = bias {
                        keys.iter_mut().zip(bias).for_each(|(k, b)| *k += b);
                    }
                    let mut best = vec![0; config.top_k];
                    routing::top_k(&keys, &mut best);
                    best.into_iter().map(|e| e as i32).collect()
                }
            };
            let from = if self.is(Bug::BiasInWeights) { &keys } else { &scores };
            let mut chosen_weights: Vec<f32> = chosen.iter().map(|&e| from[e as usize]).collect();
            let normalise = config.norm_topk_prob && !self.is(Bug::WeightsNotNormalised);
            let scaling = match self.bug {
                Bug::ScalingForgotten => 1.0,
                Bug::ScalingTwice => config.routed_scaling_factor * config.routed_scaling_factor,
                _ => config.routed_scaling_factor,
            };
            routing::weights(&mut chosen_weights, normalise, scaling);
            ids.extend(chosen);
            weights.extend(chosen_weights);
        }
        (ids, weights)
    }

    /// The expert that computes each slot.
    fn experts_of(&self, ids: &[i32]) -> Vec<Option<usize>> {
        let (experts, top_k) = (self.layer.config.experts, self.layer.config.top_k);
        let local = self.opts.local_experts.clone().unwrap_or(0..experts);
        let mut experts_of: Vec<Option<usize>> = ids
            .iter()
            .enumerate()
            .map(|(slot, &id)| {
                let id = match usize::try_from(id) {
                    Ok(id) if id < experts => id,
                    _ if self.is(Bug::MinusOneIsTheLastExpert) => experts - 1,
                    _ => return None,
                };
                let first = slot / top_k * top_k;
                if self.is(Bug::DuplicatesOnce) && ids[first..slot].contains(&(id as i32)) {
                    return None;
                }
                match self.bug {
                    // The rank's weights indexed with the global id; reading past the end is what the bug does.
                    Bug::GlobalIdsAsLocal => Some(local.start + id % local.len().max(1)),
                    Bug::LocalIdsFromZero => {
                        Some(id).filter(|id| *id < local.len()).map(|id| local.start + id)
                    }
                    Bug::ForeignSlotsComputed => Some(id.min(local.end.saturating_sub(1)).max(local.start)),
                    _ => Some(id).filter(|id| local.contains(id)),
                }
            })
            .collect();
        let mut seen = vec![0; experts];
        let average = ids.len().div_ceil(experts);
        for expert in &mut experts_of {
            let Some(e) = *expert else { continue };
            seen[e] += 1;
            match self.bug {
                Bug::CapacityDropsSlots if seen[e] > average => *expert = None,
                // The first row of a segment belongs to the segment before it.
                Bug::SearchsortedLeft if seen[e] == 1 => *expert = Some(e.saturating_sub(1)),
                _ => {}
            }
        }
        experts_of
    }

    fn expert(&self, [gate_m, up_m, down_m]: [&Nvfp4Matrix; 3], x: &[f32], weight: f32) -> Vec<f32> {
        let limit = self.layer.config.limit();
        let calibrated = match (gate_m.input_scale, up_m.input_scale) {
            (Some(g), Some(_)) if self.is(Bug::GateInputScaleOnly) => g,
            (Some(g), Some(u)) => g.max(u),
            _ => f32::NAN,
        };
        let dynamic = |x: &[f32]| quantize::tensor_scale_from_amax_bits(quantize::amax_bits_of(x));
        let quantised = self.opts.activations == Activations::Nvfp4;
        let s1 = match self.opts.act_scale {
            ActScale::Static if self.is(Bug::StaticScaleReciprocal) => 1.0 / calibrated,
            ActScale::RowDynamic if self.is(Bug::StaticScaleForDynamic) => calibrated,
            ActScale::Static => calibrated,
            _ => dynamic(x),
        };
        let (xq, s1) = self.activate(x, s1, quantised);
        let (mut gate_alpha, mut up_alpha) = (self.alpha(gate_m, s1), self.alpha(up_m, s1));
        match self.bug {
            Bug::GateAlphaForBoth => up_alpha = gate_alpha,
            Bug::MaxAlphaForBoth => {
                (gate_alpha, up_alpha) = (gate_alpha.max(up_alpha), gate_alpha.max(up_alpha))
            }
            _ => {}
        }
        let (mut gate, mut up) = (self.product(gate_m, &xq), self.product(up_m, &xq));
        if self.is(Bug::RowsInterleaved) {
            let stacked: Vec<f32> = gate.iter().chain(&up).copied().collect();
            gate = stacked.iter().step_by(2).copied().collect();
            up = stacked.iter().skip(1).step_by(2).copied().collect();
        }
        if self.is(Bug::GateUpSwapped) {
            (gate, up, gate_alpha, up_alpha) = (up, gate, up_alpha, gate_alpha);
        }
        let h: Vec<f32> =
            gate.iter().zip(&up).map(|(&g, &u)| self.swiglu(g, u, gate_alpha, up_alpha, limit)).collect();
        let s2 = match self.opts.act_scale_l2 {
            _ if self.is(Bug::L1ScaleForL2) => s1,
            ActScaleL2::Bound => swiglu::bound_scale(limit),
            ActScaleL2::Static => down_m.input_scale.unwrap_or(f32::NAN),
            _ => dynamic(&h),
        };
        let before = self.is(Bug::WeightBeforeRequantisation);
        let h: Vec<f32> = h.iter().map(|h| if before { h * weight } else { *h }).collect();
        let h = if self.is(Bug::HiddenRoundedToE4m3) {
            h.iter().map(|&h| e4m3::decode(e4m3::encode(h))).collect()
        } else {
            h
        };
        let (hq, s2) = self.activate(&h, s2, quantised);
        let alpha = self.alpha(down_m, s2);
        let after = if before || self.is(Bug::WeightsForgotten) { 1.0 } else { weight };
        self.product(down_m, &hq).iter().map(|y| y * alpha * after).collect()
    }

    /// Values without their global scale, and the scale.
    fn activate(&self, x: &[f32], scale: f32, quantised: bool) -> (Vec<f32>, f32) {
        if !quantised {
            return (x.iter().map(|&v| bf16::from_f32(v).to_f32()).collect(), 1.0);
        }
        let (mut packed, mut scales) = (vec![0; x.len() / 2], vec![0; x.len() / BLOCK]);
        quantize::quantize_row(x, scale, &mut packed, &mut scales);
        let mut values = vec![0.0; x.len()];
        quantize::dequantize_row_unscaled(&packed, &scales, &mut values);
        (values, scale)
    }

    fn alpha(&self, m: &Nvfp4Matrix, s: f32) -> f32 {
        match self.bug {
            Bug::FoldedGlobalScale | Bug::GlobalScaleForgotten => s,
            Bug::GlobalScaleNotLoaded => 0.0,
            Bug::GlobalScaleReciprocal => s / m.global_scale,
            Bug::AlphaTwice => s * m.global_scale * m.global_scale,
            Bug::ActivationScaleTwice => s * s * m.global_scale,
            _ => s * m.global_scale,
        }
    }

    fn swiglu(&self, gate: f32, up: f32, gate_alpha: f32, up_alpha: f32, limit: f32) -> f32 {
        let (g, u) = (gate * gate_alpha, up * up_alpha);
        let clamp = |u: f32| u.clamp(-limit, limit);
        match self.bug {
            Bug::ClampForgotten => swiglu::silu(g) * u,
            Bug::ClampAfterSilu => swiglu::silu(g).min(limit) * clamp(u),
            Bug::ClampBeforeAlpha => swiglu::silu(gate.min(limit) * gate_alpha) * (clamp(up) * up_alpha),
            Bug::GateClampedBelow => swiglu::silu(clamp(g)) * clamp(u),
            Bug::UpClampedAboveOnly => swiglu::silu(g.min(limit)) * u.min(limit),
            Bug::AlphaAfterSwiglu => swiglu::swiglu(gate, up, limit) * gate_alpha * up_alpha,
            _ => swiglu::swiglu(g, u, limit),
        }
    }

    /// `W x` without alpha.
    fn product(&self, m: &Nvfp4Matrix, x: &[f32]) -> Vec<f32> {
        let groups = m.cols / BLOCK;
        let weight = |row: usize, k: usize| {
            let nibble = if self.is(Bug::NibblesSwapped) { k ^ 1 } else { k };
            let code = m.packed[(row * m.cols + k) / 2] >> (4 * (nibble % 2)) & 15;
            let (g, last) = (k / BLOCK, groups - 1);
            let scale = match self.bug {
                Bug::ScaleOfNextBlock => m.scales[row * groups + (g + 1).min(last)],
                Bug::ScaleCoordinatesSwapped => m.scales[g * m.rows + row],
                Bug::ScaleColumnsSwizzled => m.scales[row * groups + (g ^ 1).min(last)],
                Bug::ScalesIgnored => 0x38,
                Bug::FoldedGlobalScale => {
                    e4m3::encode(e4m3::decode(m.scales[row * groups + g]) * m.global_scale)
                }
                _ => m.scales[row * groups + g],
            };
            let code = if self.is(Bug::SignsIgnored) { code & 7 } else { code };
            let value = e2m1::decode(code) * e4m3::decode(scale);
            match self.bug {
                Bug::ProductsClampedAt448 => value.clamp(-448.0, 448.0),
                Bug::ProductsAbove448AreNan if value.abs() > 448.0 => f32::NAN,
                _ => value,
            }
        };
        let cols = if self.is(Bug::KTailSkipped) { m.cols / 64 * 64 } else { m.cols };
        let dot = |row: usize| (0..cols).map(|k| f64::from(weight(row, k)) * f64::from(x[k])).sum::<f64>();
        (0..m.rows).map(|row| dot(row) as f32).collect()
    }
}
