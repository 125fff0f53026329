//! The router.

use super::context::Context;
use super::{Finding, Verdict, percent};
use crate::cpu::Router;
use crate::error::Result;
use crate::weights::{RouterWeights, Selection};

pub(super) const BIAS: &str = "router_bias";
pub(super) const BALANCE: &str = "routing_balance";

/// Median over tokens of the largest over the smallest of a token's values.
fn spread(top_k: usize, values: &[f32]) -> f64 {
    let mut ratios: Vec<f64> = values
        .chunks_exact(top_k.max(1))
        .filter_map(|v| {
            let (min, max) = v.iter().fold((f32::INFINITY, 0.0f32), |(a, b), &x| (a.min(x), b.max(x)));
            (min > 0.0 && max.is_finite()).then(|| f64::from(max) / f64::from(min))
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    ratios.get(ratios.len() / 2).copied().unwrap_or(1.0)
}

/// The range of the selection bias (about 8 in DeepSeek-V4), and how flat the weights would be if they included it.
pub(super) fn bias(context: &Context<'_>) -> Result<Finding> {
    let config = &context.weights.config;
    let bias = match context.weights.router.as_ref().map(|r| &r.selection) {
        None | Some(Selection::TopK { bias: None }) => {
            return Ok(Finding::new(BIAS, Verdict::Ok, "none: selection by score alone"));
        }
        Some(Selection::Hash { .. }) => {
            return Ok(Finding::new(BIAS, Verdict::Ok, "none: the layer routes by table"));
        }
        Some(Selection::TopK { bias: Some(bias) }) => bias,
    };
    let (min, max) = bias.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), &x| (a.min(x), b.max(x)));
    let mean = bias.iter().map(|&b| f64::from(b)).sum::<f64>() / bias.len().max(1) as f64;
    let routing = &context.sample()?.routing;
    // Weights are scores up to a factor per token, so the unbiased router tells the scores themselves.
    let unbiased = spread(config.top_k, &routing.topk_weights);
    let biased = biased_spread(context, &routing.topk_ids, bias)?;
    let range = format!("{min:.3} to {max:.3}, mean {mean:.3}");
    let (verdict, reason) = if min == 0.0 && max == 0.0 {
        (Verdict::Warn, "all zero: was it loaded?".to_owned())
    } else if max.abs().max(min.abs()) > 100.0 {
        (Verdict::Warn, format!("{range}: outweighs every score"))
    } else {
        let what = format!(
            "{range}; a token's largest weight is typically {unbiased:.2} times its smallest, {biased:.2} times if the bias were in \
             the weights"
        );
        (Verdict::Ok, what)
    };
    let finding = Finding::new(BIAS, verdict, reason).with("min", min).with("max", max).with("mean", mean);
    Ok(finding.with("weight_spread", unbiased).with("weight_spread_biased", biased))
}

/// [`spread`] of score + bias over the selected experts.
fn biased_spread(context: &Context<'_>, ids: &[i32], bias: &[f32]) -> Result<f64> {
    let Some(router) = &context.weights.router else { return Ok(1.0) };
    let config = &context.weights.config;
    let plain = RouterWeights { weight: router.weight.clone(), selection: Selection::TopK { bias: None } };
    let mut scores =
        Router::new(&plain, config)?.logits(&context.batch.hidden_states, context.batch.tokens)?;
    scores
        .chunks_exact_mut(config.experts.max(1))
        .for_each(|row| nvfp4::routing::scores(row, config.scoring));
    let mut keys = Vec::with_capacity(ids.len());
    for (slot, &id) in ids.iter().enumerate() {
        let (token, e) = (slot / config.top_k.max(1), id.max(0) as usize);
        keys.push(
            scores.get(token * config.experts + e).copied().unwrap_or(0.0)
                + bias.get(e).copied().unwrap_or(0.0),
        );
    }
    Ok(spread(config.top_k, &keys))
}

/// Tokens per expert; on hash layers also the table itself.
pub(super) fn balance(context: &Context<'_>) -> Result<Finding> {
    let config = &context.weights.config;
    let sample = context.sample()?;
    let mut counts = vec![0u64; config.experts];
    for &id in &sample.routing.topk_ids {
        if let Some(n) = usize::try_from(id).ok().and_then(|e| counts.get_mut(e)) {
            *n += 1;
        }
    }
    let slots: u64 = counts.iter().sum();
    let (largest, idle) =
        (counts.iter().max().copied().unwrap_or(0), counts.iter().filter(|&&n| n == 0).count());
    let mean = slots as f64 / config.experts.max(1) as f64;
    let imbalance = if mean > 0.0 { largest as f64 / mean } else { 0.0 };
    let all_to_one =
        context.batch.tokens >= 8 && largest == context.batch.tokens as u64 && config.top_k < config.experts;
    let mut repeated = 0u64;
    if let Some(Selection::Hash { tid2eid }) = context.weights.router.as_ref().map(|r| &r.selection) {
        for row in tid2eid.chunks_exact(config.top_k.max(1)) {
            let mut ids = row.to_vec();
            ids.sort_unstable();
            repeated += u64::from(ids.windows(2).any(|w| w[0] == w[1]));
        }
    }
    let share = largest as f64 / context.batch.tokens.max(1) as f64;
    let what = format!(
        "{slots} slots; the busiest expert takes {} of the tokens, {imbalance:.1} times the mean; {idle} of {} idle",
        percent(share),
        config.experts
    );
    let (verdict, reason) = if repeated > 0 {
        (Verdict::Warn, format!("{what}; {repeated} rows of the table name an expert twice"))
    } else if all_to_one {
        (Verdict::Warn, format!("{what}: every token goes to one expert"))
    } else {
        (Verdict::Ok, what)
    };
    let finding =
        Finding::new(BALANCE, verdict, reason).with("imbalance", imbalance).count("idle", idle as u64);
    Ok(finding.count("largest", largest).count("slots", slots).count("repeated_in_table", repeated))
}
