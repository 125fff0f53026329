//! Backends against the [`oracle`], mode by mode: routing, quantised bytes, outputs.
//!
//! [`candidates`] lists the backends (also those that cannot run here, with the reason), [`modes`] the activation
//! modes that a layer allows, [`Batch`] the inputs (a file's may bring expected outputs, which then measure the oracle
//! itself). [`verify`] runs one batch through every mode on every backend and
//! gives one [`Outcome`] each, [`verify_layer`] does it for the generated batches.

mod backend;
mod batch;
mod mode;

pub use backend::{Backend, Candidate, candidates};
pub use batch::Batch;
pub use mode::{Mode, modes};

use serde::Serialize;

use crate::error::Result;
use crate::io::{LayerInput, LayerOutput, Routing, RoutingSource, Stats};
use crate::metrics::{BAR, Bar, Metrics};
use crate::options::{ActScale, ActScaleL2, Activations, ForwardOptions};
use crate::oracle::{self, ActivationRow, Trace};
use crate::weights::LayerWeights;

/// Bound of the relative error of a routing weight (absolute, for weights below 1).
pub const WEIGHT_BAR: f64 = 1e-6;
/// Bound of the relative L2 error of a single token. A coarse net for tokens that are wholly wrong: one E2M1 step of a
/// SwiGLU result, which the last bit of f32 may decide, is several percent of a short row.
pub const TOKEN_BAR: f64 = 0.05;

/// One backend in one mode on one batch.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Outcome {
    /// Layer index.
    pub layer: usize,
    /// Name of the batch.
    pub input: String,
    /// Tokens of the batch.
    pub tokens: usize,
    /// Name of the mode.
    pub mode: &'static str,
    /// Name of the backend.
    pub backend: &'static str,
    /// Relative L2 error of the output.
    pub rel_l2: f64,
    /// `1 - 2<x, y> / (|x|^2 + |y|^2)`.
    pub calc_diff: f64,
    /// `|got| / |want|`.
    pub norm_ratio: f64,
    /// Relative L2 error of the worst token.
    pub worst_token: f64,
    /// Tokens whose experts agree, in order.
    pub ids_equal: usize,
    /// Tokens whose experts differ because f32 cannot decide between them.
    pub ids_undecided: usize,
    /// Tokens whose experts are wrong.
    pub ids_wrong: usize,
    /// Largest error of a routing weight.
    pub weight_error: f64,
    /// Quantised L1 rows that were compared; 0 where the backend does not show them.
    pub l1_rows: usize,
    /// Those that differ in any byte.
    pub l1_rows_wrong: usize,
    /// What is wrong; empty if nothing is.
    pub failures: Vec<String>,
}

impl Outcome {
    /// Whether everything is within its bar.
    pub fn passed(&self) -> bool {
        self.failures.is_empty()
    }

    fn require(&mut self, holds: bool, failure: impl FnOnce() -> String) {
        if !holds {
            self.failures.push(failure());
        }
    }
}

/// Everything that was run, and what was not.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// What was run.
    pub outcomes: Vec<Outcome>,
    /// What was not, and why.
    pub skipped: Vec<Skipped>,
}

/// A backend or mode that was not run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// Name of the backend or mode, with the layer if it depends on it.
    pub what: String,
    /// Why.
    pub why: String,
}

impl Report {
    /// Whether anything ran, and all of it passed.
    pub fn passed(&self) -> bool {
        !self.outcomes.is_empty() && self.outcomes.iter().all(Outcome::passed)
    }

    /// Notes something that is not run, once.
    pub fn skip(&mut self, what: impl Into<String>, why: impl Into<String>) {
        let skipped = Skipped { what: what.into(), why: why.into() };
        if !self.skipped.contains(&skipped) {
            self.skipped.push(skipped);
        }
    }
}

/// Runs `batches` through every mode of `layer` on every candidate, adding to `report`. `each` is called after every
/// outcome.
///
/// # Errors
/// If the oracle refuses the layer or an input. A backend's error is a failed outcome.
pub fn verify(
    layer: &LayerWeights,
    batches: &[Batch],
    candidates: &[Candidate],
    report: &mut Report,
    each: &mut dyn FnMut(&Outcome),
) -> Result<()> {
    for candidate in candidates {
        if let Err(why) = &candidate.backend {
            report.skip(format!("backend {}", candidate.name), why.clone());
        }
    }
    let (modes, impossible) = modes(layer);
    for (name, why) in impossible {
        report.skip(format!("layer {} mode {name}", layer.layer), why);
    }
    for batch in batches {
        let input = batch.input();
        for mode in &modes {
            let mut opts = mode.options.clone();
            if opts.act_scale == ActScale::Warmup || opts.act_scale_l2 == ActScaleL2::Warmup {
                opts.warmup = Some(oracle::measure_warmup(layer, &input, &opts)?);
            }
            let want = oracle::trace(layer, &input, &opts)?;
            let outcome = |backend| Outcome {
                layer: layer.layer,
                input: batch.name.clone(),
                tokens: batch.tokens,
                mode: mode.name,
                backend,
                ..Outcome::default()
            };
            if let Some(expected) = batch.expected.as_ref().filter(|_| opts.activations == Activations::Bf16)
            {
                // Somebody else's numbers: the yardstick itself is measured.
                let mut outcome = Outcome { ids_equal: batch.tokens, ..outcome("oracle") };
                compare_output(layer.config.hidden, &want.output, expected, &mut outcome);
                each(&outcome);
                report.outcomes.push(outcome);
            }
            for candidate in candidates {
                let Ok(backend) = &candidate.backend else { continue };
                let mut outcome = outcome(candidate.name);
                compare(layer, &input, &opts, &want, backend.as_ref(), &mut outcome)?;
                each(&outcome);
                report.outcomes.push(outcome);
            }
        }
    }
    Ok(())
}

/// [`verify`] with the generated batches of `tokens` rows and of edge cases.
///
/// # Errors
/// As [`verify`].
pub fn verify_layer(layer: &LayerWeights, tokens: usize, report: &mut Report) -> Result<()> {
    let batches = [Batch::activations(&layer.config, tokens, 1), Batch::edges(&layer.config)];
    verify(layer, &batches, &candidates(), report, &mut |_| {})
}

fn compare(
    layer: &LayerWeights,
    input: &LayerInput<'_>,
    opts: &ForwardOptions,
    want: &Trace,
    backend: &dyn Backend,
    out: &mut Outcome,
) -> Result<()> {
    if let Some(want) = opts.warmup {
        match backend.measure_warmup(layer, input, opts) {
            Err(e) => out.failures.push(format!("warm-up: {e}")),
            Ok(got) => {
                out.require(got.l1 == want.l1, || format!("warm-up L1 scale {} is not {}", got.l1, want.l1));
                let pairs = [(got.l2_routed, want.l2_routed), (got.l2_shared, want.l2_shared)];
                for (got, want) in pairs {
                    out.require((got - want).abs() <= 1e-5 * want, || {
                        format!("warm-up L2 scale {got} is not {want}")
                    });
                }
            }
        }
    }
    let got = match backend.forward(layer, input, opts) {
        Ok(got) => got,
        Err(e) => {
            out.failures.push(e.to_string());
            return Ok(());
        }
    };
    let size = want.output.output_f32.len();
    if got.output_f32.len() != size
        || got.output.len() != size
        || got.routing.topk_ids.len() != want.output.routing.topk_ids.len()
        || got.routing.topk_weights.len() != want.output.routing.topk_weights.len()
    {
        out.failures.push("the result has another size".to_owned());
        return Ok(());
    }
    compare_routing(layer.config.top_k, want, &got.routing, out);
    compare_stats(&got.stats, &want.output.stats, out);
    compare_l1(input, opts, want, backend, out);
    if out.ids_undecided > 0 {
        // The same question to both: the backend's experts.
        let routing =
            RoutingSource::Given { topk_ids: &got.routing.topk_ids, topk_weights: &got.routing.topk_weights };
        let same = oracle::forward(layer, &LayerInput { routing, ..*input }, opts)?;
        compare_output(layer.config.hidden, &got, &same.output_f32, out);
    } else {
        compare_output(layer.config.hidden, &got, &want.output.output_f32, out);
    }
    Ok(())
}

fn compare_routing(top_k: usize, want: &Trace, got: &Routing, out: &mut Outcome) {
    for (token, decision) in want.decisions.iter().enumerate() {
        let slots = token * top_k..(token + 1) * top_k;
        let (ours, theirs) = (&got.topk_ids[slots.clone()], &want.output.routing.topk_ids[slots.clone()]);
        let sorted = |ids: &[i32]| {
            let mut ids = ids.to_vec();
            ids.sort_unstable();
            ids
        };
        if ours == theirs {
            out.ids_equal += 1;
            for slot in slots {
                let (a, b) = (got.topk_weights[slot], want.output.routing.topk_weights[slot]);
                if a.is_nan() != b.is_nan() {
                    out.weight_error = f64::INFINITY;
                } else if !a.is_nan() {
                    let (a, b) = (f64::from(a), f64::from(b));
                    out.weight_error = out.weight_error.max((a - b).abs() / b.abs().max(1.0));
                }
            }
        } else if !decision.set_is_certain()
            || (!decision.order_is_certain() && sorted(ours) == sorted(theirs))
        {
            out.ids_undecided += 1;
        } else {
            out.ids_wrong += 1;
        }
    }
    let (wrong, error) = (out.ids_wrong, out.weight_error);
    out.require(wrong == 0, || format!("{wrong} tokens go to wrong experts"));
    out.require(error <= WEIGHT_BAR, || format!("a routing weight is off by {error:.2e}"));
}

fn compare_stats(got: &Stats, want: &Stats, out: &mut Outcome) {
    let exact = |s: &Stats| (s.invalid_slots, s.foreign_slots, s.invalid_tokens, s.non_finite_rows);
    out.require(exact(got) == exact(want), || format!("counters {got:?} are not {want:?}"));
    out.require(got.saturated_blocks_l1 == want.saturated_blocks_l1, || {
        format!("{} saturated L1 blocks, not {}", got.saturated_blocks_l1, want.saturated_blocks_l1)
    });
    // L2 rows differ in the last bits, so a block at the very edge may fall on either side.
    let (a, b) = (got.saturated_blocks_l2, want.saturated_blocks_l2);
    out.require(a.abs_diff(b) <= 1 + b / 100, || format!("{a} saturated L2 blocks, not {b}"));
}

/// Every row of L1, byte by byte, where the backend shows how it quantises.
fn compare_l1(
    input: &LayerInput<'_>,
    opts: &ForwardOptions,
    want: &Trace,
    backend: &dyn Backend,
    out: &mut Outcome,
) {
    let hidden = input.hidden_states.len().checked_div(input.tokens).unwrap_or(0);
    for slot in want.routed.iter().chain(&want.shared) {
        let ActivationRow::Nvfp4(want) = &slot.x else { continue };
        let x: Vec<f32> =
            input.hidden_states[slot.token * hidden..][..hidden].iter().map(|v| v.to_f32()).collect();
        let scale = (opts.act_scale != ActScale::RowDynamic).then_some(want.scale);
        let Some(got) = backend.quantise_row(&x, scale) else { return };
        out.l1_rows += 1;
        let same = (&got.packed, &got.scales, got.scale.to_bits())
            == (&want.packed, &want.scales, want.scale.to_bits());
        out.l1_rows_wrong += usize::from(!same);
    }
    let (wrong, all) = (out.l1_rows_wrong, out.l1_rows);
    out.require(wrong == 0, || format!("{wrong} of {all} quantised L1 rows differ"));
}

fn compare_output(hidden: usize, got: &LayerOutput, want: &[f32], out: &mut Outcome) {
    let Bar { rel_l2, calc_diff, norm_ratio } = BAR;
    let m = Metrics::of(&got.output_f32, want);
    (out.rel_l2, out.calc_diff, out.norm_ratio) = (m.rel_l2, m.calc_diff, m.norm_ratio);
    let rows = got.output_f32.chunks(hidden).zip(want.chunks(hidden));
    out.worst_token = rows.map(|(a, b)| Metrics::of(a, b).rel_l2).fold(0.0, f64::max);
    out.require(m.non_finite_mismatches == 0, || {
        format!("{} elements are NaN or infinite on one side only", m.non_finite_mismatches)
    });
    out.require(m.rel_l2 <= rel_l2, || format!("rel-L2 {:.2e} is above {rel_l2:.0e}", m.rel_l2));
    out.require(m.calc_diff <= calc_diff, || {
        format!("calc_diff {:.2e} is above {calc_diff:.0e}", m.calc_diff)
    });
    out.require((m.norm_ratio - 1.0).abs() <= norm_ratio, || {
        format!("norm ratio {:.5} is not within {norm_ratio:.0e} of 1", m.norm_ratio)
    });
    let worst = out.worst_token;
    out.require(worst <= TOKEN_BAR, || format!("rel-L2 of a token is {worst:.2e}"));
    // The rounding at the end, by itself.
    let rounded = |(y, b): (&f32, &half::bf16)| {
        half::bf16::from_f32(*y) == *b || y.is_nan() == b.is_nan() && y.is_nan()
    };
    let consistent = got.output_f32.iter().zip(&got.output).all(rounded);
    out.require(consistent, || "the bf16 output is not the f32 output rounded".to_owned());
}
