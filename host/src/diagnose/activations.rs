//! Rows through L1: calibrated scales, the clamp.

use nvfp4::{GLOBAL_RANGE, swiglu};

use super::context::{Context, ExpertSample};
use super::{Finding, Verdict, percent, plural};
use crate::error::Result;
use crate::weights::ExpertWeights;

pub(super) const SAMPLE: &str = "sample";
pub(super) const INPUT_SCALE: &str = "input_scale";
pub(super) const LIMIT: &str = "swiglu_limit";

/// The rows themselves.
pub(super) fn sample(context: &Context<'_>) -> Result<Finding> {
    let sample = context.sample()?;
    let tokens = context.batch.tokens;
    let what = format!("{} of {}", plural(tokens, "row", "rows"), context.batch.name);
    let (verdict, reason) = if sample.non_finite_rows > 0 || sample.invalid_tokens > 0 {
        let (nan, ids) = (sample.non_finite_rows, sample.invalid_tokens);
        (
            Verdict::Warn,
            format!("{what}; {nan} with NaN or infinity, {ids} with an id outside the vocabulary"),
        )
    } else {
        (
            Verdict::Ok,
            format!("{what} reach {} of {} experts", sample.experts.len(), context.weights.experts.len()),
        )
    };
    let finding = Finding::new(SAMPLE, verdict, reason).count("rows", tokens as u64);
    Ok(finding.count("experts_used", sample.experts.len() as u64))
}

/// Blocks under one constant global scale.
#[derive(Default)]
struct Overflow {
    blocks: u64,
    saturated: u64,
    /// Largest `amax / (2688 * scale)`.
    worst: f64,
}

impl Overflow {
    fn add(&mut self, x: &[f32], scale: f32) {
        for block in x.chunks_exact(nvfp4::BLOCK) {
            let amax = block.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            let ratio = f64::from(amax) / (f64::from(GLOBAL_RANGE) * f64::from(scale));
            self.blocks += 1;
            self.saturated += u64::from(ratio > 1.0);
            self.worst = self.worst.max(ratio);
        }
    }

    fn share(&self) -> f64 {
        self.saturated as f64 / self.blocks.max(1) as f64
    }
}

fn activated(sample: &ExpertSample, limit: f32) -> Vec<f32> {
    sample.gate.iter().zip(&sample.up).map(|(&g, &u)| swiglu::swiglu(g, u, limit)).collect()
}

/// The calibrated activation scales against the sample: blocks above `6 * 448 * input_scale` saturate.
pub(super) fn input_scale(context: &Context<'_>) -> Result<Finding> {
    let sample = context.sample()?;
    let limit = context.weights.config.limit();
    let (mut l1, mut l2, mut without, mut over) = (Overflow::default(), Overflow::default(), 0, 0);
    for e in &sample.experts {
        let ExpertWeights { gate, up, down } = &context.weights.experts[e.expert];
        let (Some(g), Some(u), Some(d)) = (gate.input_scale, up.input_scale, down.input_scale) else {
            without += 1;
            continue;
        };
        let (before, before2) = (l1.saturated, l2.saturated);
        for &token in &e.tokens {
            let row: Vec<f32> = context.row(token).iter().map(|v| v.to_f32()).collect();
            l1.add(&row, g.max(u));
        }
        l2.add(&activated(e, limit), d);
        over += usize::from(l1.saturated > before || l2.saturated > before2);
    }
    let calibrated = sample.experts.len() - without;
    let rows = if context.given { "the given rows" } else { "generated rows" };
    let (verdict, reason) = if calibrated == 0 {
        (Verdict::Ok, "none: static activation scales cannot be used, dynamic ones need none".to_owned())
    } else if over > 0 {
        let what = format!(
            "{rows} exceed it in {over} of {calibrated} experts: {} of L1 and {} of L2 blocks saturate, by up to {:.1} \
             and {:.1} times; use row and bound scales",
            percent(l1.share()),
            percent(l2.share()),
            l1.worst,
            l2.worst
        );
        (Verdict::Warn, what)
    } else {
        let what = format!(
            "holds {rows}: they use {} of L1's range and {} of L2's",
            percent(l1.worst),
            percent(l2.worst)
        );
        (Verdict::Ok, what)
    };
    let finding = Finding::new(INPUT_SCALE, verdict, reason);
    Ok(finding
        .count("experts", calibrated as u64)
        .count("experts_over", over as u64)
        .with("l1_overflow_ratio", l1.worst)
        .with("l2_overflow_ratio", l2.worst)
        .with("l1_saturated_share", l1.share())
        .with("l2_saturated_share", l2.share()))
}

/// Share of gate and up that the clamp cuts, and what its absence would do to the SwiGLU result.
pub(super) fn swiglu_limit(context: &Context<'_>) -> Result<Finding> {
    let limit = context.weights.config.limit();
    let model = &context.checkpoint.config().model_type;
    if limit.is_infinite() {
        return Ok(match model.as_str() {
            "deepseek_v4" => Finding::new(LIMIT, Verdict::Warn, "config.json has none; DeepSeek-V4 has 10"),
            _ => Finding::new(LIMIT, Verdict::Ok, "none"),
        });
    }
    let (mut all, mut gates, mut ups, mut d2, mut n2) = (0u64, 0u64, 0u64, 0.0f64, 0.0f64);
    for e in &context.sample()?.experts {
        for (&g, &u) in e.gate.iter().zip(&e.up) {
            all += 1;
            gates += u64::from(g > limit);
            ups += u64::from(u.abs() > limit);
            let with = f64::from(swiglu::swiglu(g, u, limit));
            let without = f64::from(swiglu::swiglu(g, u, f32::INFINITY));
            d2 += (with - without) * (with - without);
            n2 += with * with;
        }
    }
    let share = |n: u64| n as f64 / all.max(1) as f64;
    let effect = if n2 > 0.0 { (d2 / n2).sqrt() } else { 0.0 };
    let reason = format!(
        "{limit}: cuts {} of gates and {} of ups; without it the SwiGLU result would be off by {}",
        percent(share(gates)),
        percent(share(ups)),
        percent(effect)
    );
    let finding = Finding::new(LIMIT, Verdict::Ok, reason).with("limit", limit);
    Ok(finding.with("gate_share", share(gates)).with("up_share", share(ups)).with("rel_l2_without", effect))
}
