//! Expert parallelism: each rank adds up its own experts, and the sum over ranks is the layer.

use super::context::Context;
use super::{Finding, Verdict};
use crate::cpu;
use crate::error::Result;
use crate::io::{LayerInput, LayerOutput, RoutingSource};
use crate::metrics::Metrics;
use crate::options::{ForwardOptions, Part};

pub(super) const NAME: &str = "expert_parallel";

/// Rows that are run; the contract does not depend on how many.
const TOKENS: usize = 16;

/// The experts in equal and in uneven ranges, on the routing of the sample: outputs add up to the whole, every slot is
/// computed by one rank and foreign to all others, and a token without local experts gets zeros.
pub(super) fn expert_parallel(context: &Context<'_>) -> Result<Finding> {
    let config = &context.weights.config;
    let tokens = context.batch.tokens.min(TOKENS);
    let routing = &context.sample()?.routing;
    let slots = tokens * config.top_k;
    let input = LayerInput {
        hidden_states: &context.batch.hidden_states[..tokens * config.hidden],
        tokens,
        routing: RoutingSource::Given {
            topk_ids: &routing.topk_ids[..slots],
            topk_weights: &routing.topk_weights[..slots],
        },
    };
    let run = |local| -> Result<LayerOutput> {
        let opts = ForwardOptions { part: Part::Routed, local_experts: local, ..Default::default() };
        cpu::forward(context.weights, &input, &opts)
    };
    let whole = run(None)?;
    let valid = slots as u64 - whole.stats.invalid_slots;
    let (mut worst, mut problems, mut splits) = (0.0f64, Vec::new(), 0);
    for cuts in cuts(config.experts) {
        splits += 1;
        let mut sum = vec![0.0f32; whole.output_f32.len()];
        let mut computed = 0;
        for range in cuts.windows(2) {
            let part = run(Some(range[0]..range[1]))?;
            computed += valid - part.stats.foreign_slots;
            sum.iter_mut().zip(&part.output_f32).for_each(|(sum, y)| *sum += y);
            let local = |id: &i32| usize::try_from(*id).is_ok_and(|e| (range[0]..range[1]).contains(&e));
            for token in 0..tokens {
                let idle = !routing.topk_ids[token * config.top_k..][..config.top_k].iter().any(local);
                let y = &part.output_f32[token * config.hidden..][..config.hidden];
                if idle && y.iter().any(|&y| y != 0.0 && !y.is_nan()) {
                    problems.push(format!("token {token} has no expert on {range:?} but a result"));
                }
            }
        }
        if computed != valid {
            problems.push(format!("{computed} slots computed over {} ranks, not {valid}", cuts.len() - 1));
        }
        let m = Metrics::of(&sum, &whole.output_f32);
        worst = worst.max(m.rel_l2);
        if m.non_finite_mismatches > 0 || m.rel_l2.is_nan() || m.rel_l2 > 1e-5 {
            problems.push(format!("the sum over {} ranks is off by {:.1e}", cuts.len() - 1, m.rel_l2));
        }
    }
    let finding = match problems.first() {
        Some(first) => Finding::new(NAME, Verdict::Fail, first.clone()),
        None => {
            let what = format!(
                "{valid} slots, {splits} ways to split: the sum over ranks is the whole within {worst:.1e}"
            );
            Finding::new(NAME, Verdict::Ok, what)
        }
    };
    Ok(finding.count("slots", valid).with("worst_rel_l2", worst).count("problems", problems.len() as u64))
}

/// Boundaries of ranks: two halves, up to eight equal ranks, and three of which one is small and one empty.
fn cuts(experts: usize) -> Vec<Vec<usize>> {
    let equal = |ranks: usize| (0..=ranks).map(|r| r * experts / ranks).collect::<Vec<_>>();
    let mut all = vec![equal(2)];
    if experts >= 8 {
        all.push(equal(8));
    }
    all.push(vec![0, 1.min(experts), 1.min(experts), experts]);
    all
}
