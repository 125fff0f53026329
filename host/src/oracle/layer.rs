//! The whole layer.

use half::bf16;
use rayon::prelude::*;

use super::check;
use super::expert::{ActivationRow, Expert, RowScale, activate, dynamic_scale};
use super::formats::{amax, fl32, flbf16};
use super::routing::{self, Decision};
use crate::error::{Error, Result};
use crate::io::{LayerInput, LayerOutput, Stats};
use crate::options::{ActScale, ActScaleL2, Activations, ForwardOptions, Part, WarmupScales};
use crate::weights::LayerWeights;

/// One row of one expert, stage by stage.
#[derive(Clone, Debug)]
pub struct SlotTrace {
    /// The token.
    pub token: usize,
    /// Position among the token's experts; 0 for the shared expert.
    pub slot: usize,
    /// Global expert id; `None` for the shared expert.
    pub expert: Option<usize>,
    /// The row as it enters L1.
    pub x: ActivationRow,
    /// The SwiGLU result, before it is rounded or quantised.
    pub h: Vec<f32>,
    /// The same as it enters L2.
    pub h_row: ActivationRow,
    /// L2's result, times the routing weight if the expert is a routed one.
    pub y: Vec<f32>,
}

/// A forward call with its stages.
#[derive(Clone, Debug)]
pub struct Trace {
    /// The result.
    pub output: LayerOutput,
    /// Per token, how certain the selection is; empty for [`Part::Shared`].
    pub decisions: Vec<Decision>,
    /// Computed slots in token and slot order: skipped ones (invalid, foreign, NaN rows) are not listed.
    pub routed: Vec<SlotTrace>,
    /// The shared expert's rows; NaN rows are not listed.
    pub shared: Vec<SlotTrace>,
}

/// A slot to be computed.
struct Job<'a> {
    token: usize,
    slot: usize,
    expert: Option<usize>,
    weights: Expert<'a>,
    routing_weight: Option<f32>,
    l1: RowScale,
    l2: L2Scale,
}

#[derive(Clone, Copy)]
enum L2Scale {
    Row(RowScale),
    /// One for all jobs, known when all SwiGLU results are.
    Tensor,
}

struct Call<'a> {
    layer: &'a LayerWeights,
    opts: &'a ForwardOptions,
    /// `[tokens, hidden]`, widened.
    rows: Vec<Vec<f32>>,
    /// `amax(finite rows) / 2688`.
    tensor_scale: f32,
}

/// Runs one layer and keeps every stage.
pub fn trace(layer: &LayerWeights, input: &LayerInput<'_>, opts: &ForwardOptions) -> Result<Trace> {
    check::call(layer, input, opts)?;
    let widen = |row: &[bf16]| row.iter().map(|v| v.to_f32()).collect::<Vec<f32>>();
    let rows: Vec<Vec<f32>> = input.hidden_states.chunks(layer.config.hidden).map(widen).collect();
    let tensor_scale = tensor_scale(rows.iter().map(Vec::as_slice));
    let call = Call { layer, opts, rows, tensor_scale };
    let mut stats = Stats::default();
    let mut nan: Vec<bool> = call.rows.iter().map(|row| !amax(row).is_finite()).collect();
    stats.non_finite_rows = nan.iter().filter(|&&bad| bad).count() as u64;

    let mut output = LayerOutput::default();
    let (mut decisions, mut routed, mut shared) = (Vec::new(), Vec::new(), Vec::new());
    if opts.part != Part::Shared {
        (output.routing, decisions) = routing::route(layer, input, &mut stats)?;
        let jobs =
            call.routed_jobs(&output.routing.topk_ids, &output.routing.topk_weights, &nan, &mut stats)?;
        routed = call.run(&jobs);
    }
    match (&layer.shared, opts.part) {
        (Some(_), Part::All | Part::Shared) => shared = call.run(&call.shared_jobs(&nan)?),
        (None, Part::Shared) => return Err(Error::invalid("part", "the layer has no shared expert")),
        _ => {}
    }
    call.count_saturated(&routed, &shared, &mut stats);
    for slot in routed.iter().chain(&shared) {
        nan[slot.token] |= !slot.h_row.is_finite();
    }
    output.output_f32 = call.combine(&routed, &shared, &nan);
    output.output = output.output_f32.iter().map(|&y| flbf16(y)).collect();
    output.stats = stats;
    Ok(Trace { output, decisions, routed, shared })
}

/// As [`crate::cpu::measure_warmup`].
pub fn measure_warmup(
    layer: &LayerWeights,
    input: &LayerInput<'_>,
    opts: &ForwardOptions,
) -> Result<WarmupScales> {
    let l1 = trace_l1_scale(layer, input)?;
    let warmup = Some(WarmupScales { l1, l2_routed: 0.0, l2_shared: 0.0 });
    let opts =
        ForwardOptions { act_scale_l2: ActScaleL2::RowDynamic, part: Part::All, warmup, ..opts.clone() };
    let t = trace(layer, input, &opts)?;
    let scale = |slots: &[SlotTrace]| tensor_scale(slots.iter().map(|s| s.h.as_slice()));
    let nvfp4 = layer.shared.as_ref().is_some_and(|s| Expert::shared(s).is_nvfp4());
    let l2_shared = if nvfp4 { scale(&t.shared) } else { 0.0 };
    Ok(WarmupScales { l1, l2_routed: scale(&t.routed), l2_shared })
}

fn trace_l1_scale(layer: &LayerWeights, input: &LayerInput<'_>) -> Result<f32> {
    check::call(layer, input, &ForwardOptions::default())?;
    let rows: Vec<Vec<f32>> = input
        .hidden_states
        .chunks(layer.config.hidden)
        .map(|row| row.iter().map(|v| v.to_f32()).collect())
        .collect();
    Ok(tensor_scale(rows.iter().map(Vec::as_slice)))
}

/// The scale of the largest finite row maximum; 0 without one.
fn tensor_scale<'a>(rows: impl Iterator<Item = &'a [f32]>) -> f32 {
    dynamic_scale(rows.map(amax).filter(|a| a.is_finite()).fold(0.0, f32::max))
}

impl<'a> Call<'a> {
    fn routed_jobs(
        &self,
        ids: &[i32],
        weights: &[f32],
        nan: &[bool],
        stats: &mut Stats,
    ) -> Result<Vec<Job<'a>>> {
        let (experts, top_k) = (self.layer.config.experts, self.layer.config.top_k);
        let local = self.opts.local_experts.clone().unwrap_or(0..experts);
        let mut scales = Vec::new();
        for e in local.clone() {
            let expert = Expert::routed(&self.layer.experts[e]);
            let l2 = self.opts.warmup.map(|w| w.l2_routed);
            scales.push(self.scales(&format!("expert {e}"), expert, l2)?);
        }
        let mut jobs = Vec::new();
        for (i, (&id, &weight)) in ids.iter().zip(weights).enumerate() {
            if id < 0 || id as usize >= experts {
                stats.invalid_slots += 1;
            } else if !local.contains(&(id as usize)) {
                stats.foreign_slots += 1;
            } else if !nan[i / top_k] {
                let e = id as usize;
                let (l1, l2) = scales[e - local.start];
                jobs.push(Job {
                    token: i / top_k,
                    slot: i % top_k,
                    expert: Some(e),
                    weights: Expert::routed(&self.layer.experts[e]),
                    routing_weight: Some(weight),
                    l1,
                    l2,
                });
            }
        }
        Ok(jobs)
    }

    fn shared_jobs(&self, nan: &[bool]) -> Result<Vec<Job<'a>>> {
        let Some(shared) = &self.layer.shared else { return Ok(Vec::new()) };
        let weights = Expert::shared(shared);
        let (l1, l2) = if weights.is_nvfp4() {
            self.scales("shared expert", weights, self.opts.warmup.map(|w| w.l2_shared))?
        } else {
            (RowScale::Bf16, L2Scale::Row(RowScale::Bf16))
        };
        let job = |token| Job { token, slot: 0, expert: None, weights, routing_weight: None, l1, l2 };
        Ok((0..nan.len()).filter(|&t| !nan[t]).map(job).collect())
    }

    /// Where an expert's rows take their global scales from.
    fn scales(&self, who: &str, expert: Expert<'_>, warmup_l2: Option<f32>) -> Result<(RowScale, L2Scale)> {
        if self.opts.activations == Activations::Bf16 {
            return Ok((RowScale::Bf16, L2Scale::Row(RowScale::Bf16)));
        }
        let calibrated = |what: &str, scale: Option<f32>| match scale {
            Some(s) if s.is_finite() && s > 0.0 => Ok(s),
            _ => Err(Error::invalid(format!("{who} {what}"), "static scales need a positive input_scale")),
        };
        let measured = |scale: Option<f32>| match scale {
            Some(s) if s.is_finite() && s >= 0.0 => Ok(s),
            _ => Err(Error::invalid("warmup", "warm-up scales must be given, finite and not negative")),
        };
        let [gate, up, down] = expert.input_scales();
        let l1 = match self.opts.act_scale {
            ActScale::RowDynamic => RowScale::Own,
            ActScale::TensorDynamic => RowScale::Given(self.tensor_scale),
            ActScale::Static => RowScale::Given(calibrated("gate", gate)?.max(calibrated("up", up)?)),
            ActScale::Warmup => RowScale::Given(measured(self.opts.warmup.map(|w| w.l1))?),
        };
        let limit = self.layer.config.limit();
        let l2 = match self.opts.act_scale_l2 {
            ActScaleL2::Bound if limit.is_finite() => {
                // |silu| is at most `limit` above zero and 0.2784646 below, where the gate is not clamped.
                let square = fl32(f64::from(limit) * f64::from(limit.max(0.2784646)));
                L2Scale::Row(RowScale::Given(fl32(f64::from(square) / 2688.0)))
            }
            ActScaleL2::Bound | ActScaleL2::RowDynamic => L2Scale::Row(RowScale::Own),
            ActScaleL2::TensorDynamic => L2Scale::Tensor,
            ActScaleL2::Static => L2Scale::Row(RowScale::Given(calibrated("down", down)?)),
            ActScaleL2::Warmup => L2Scale::Row(RowScale::Given(measured(warmup_l2)?)),
        };
        Ok((l1, l2))
    }

    fn run(&self, jobs: &[Job<'_>]) -> Vec<SlotTrace> {
        let limit = self.layer.config.limit();
        let first: Vec<(ActivationRow, Vec<f32>)> = jobs
            .par_iter()
            .map(|job| {
                let x = activate(&self.rows[job.token], job.l1);
                let h = job.weights.hidden(&x, limit);
                (x, h)
            })
            .collect();
        let tensor = RowScale::Given(tensor_scale(first.iter().map(|(_, h)| h.as_slice())));
        jobs.par_iter()
            .zip(first)
            .map(|(job, (x, h))| {
                let scale = match job.l2 {
                    L2Scale::Row(scale) => scale,
                    L2Scale::Tensor => tensor,
                };
                let h_row = activate(&h, scale);
                let mut y = job.weights.down.apply(&h_row);
                if let Some(weight) = job.routing_weight {
                    y.iter_mut().for_each(|y| *y = fl32(f64::from(weight) * f64::from(*y)));
                }
                SlotTrace { token: job.token, slot: job.slot, expert: job.expert, x, h, h_row, y }
            })
            .collect()
    }

    /// Saturated blocks under the constant scales, once per quantised row: per token, or per slot where the
    /// scale belongs to the expert.
    fn count_saturated(&self, routed: &[SlotTrace], shared: &[SlotTrace], stats: &mut Stats) {
        let opts = self.opts;
        if opts.activations == Activations::Bf16 {
            return;
        }
        let slots = || routed.iter().chain(shared);
        let shared_nvfp4 = self.layer.shared.as_ref().is_some_and(|s| Expert::shared(s).is_nvfp4());
        stats.saturated_blocks_l1 = match (opts.act_scale, opts.warmup) {
            (ActScale::Static, _) => slots().map(|s| s.x.saturated_blocks()).sum(),
            (ActScale::Warmup, Some(w)) if opts.part != Part::Shared || shared_nvfp4 => {
                self.rows.iter().map(|x| activate(x, RowScale::Given(w.l1)).saturated_blocks()).sum()
            }
            _ => 0,
        };
        let constant = match opts.act_scale_l2 {
            ActScaleL2::Static | ActScaleL2::Warmup => true,
            ActScaleL2::Bound => self.layer.config.limit().is_finite(),
            ActScaleL2::RowDynamic | ActScaleL2::TensorDynamic => false,
        };
        if constant {
            stats.saturated_blocks_l2 = slots().map(|s| s.h_row.saturated_blocks()).sum();
        }
    }

    /// Slots in order, then the shared expert, each addition rounded to f32.
    fn combine(&self, routed: &[SlotTrace], shared: &[SlotTrace], nan: &[bool]) -> Vec<f32> {
        let hidden = self.layer.config.hidden;
        let add = |acc: &mut [f32], y: &[f32]| {
            acc.iter_mut().zip(y).for_each(|(acc, &y)| *acc = fl32(f64::from(*acc) + f64::from(y)));
        };
        let mut out = vec![0.0f32; nan.len() * hidden];
        for slot in routed.iter().chain(shared) {
            add(&mut out[slot.token * hidden..][..hidden], &slot.y);
        }
        for (token, _) in nan.iter().enumerate().filter(|&(_, &bad)| bad) {
            out[token * hidden..][..hidden].fill(f32::NAN);
        }
        out
    }
}
