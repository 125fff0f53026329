//! The router, token by token.

use std::cmp::Ordering;

use half::bf16;
use nvfp4::routing::Scoring;
use rayon::prelude::*;

use super::check;
use super::formats::fl32;
use crate::error::{Error, Result};
use crate::io::{LayerInput, Routing, RoutingSource, Stats};
use crate::weights::{LayerWeights, RouterWeights, Selection};

/// How far a token's selection is from another one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decision {
    /// Key of the last selected expert minus the key of the first one left out: whether the *set* is certain.
    pub set_margin: f64,
    /// Smallest difference of neighbouring keys among the selected and the first one left out: whether the
    /// *order* is certain.
    pub order_margin: f64,
    /// What f32 arithmetic can move a key difference by: a few ulps of the largest `sum |x * w|` and of the keys.
    pub uncertainty: f64,
}

impl Decision {
    /// Nothing was selected by comparison: a table, or given ids.
    pub const CERTAIN: Self =
        Self { set_margin: f64::INFINITY, order_margin: f64::INFINITY, uncertainty: 0.0 };

    /// Whether every correct f32 router selects the same experts.
    pub fn set_is_certain(&self) -> bool {
        self.set_margin > self.uncertainty
    }

    /// Whether it also lists them in the same order.
    pub fn order_is_certain(&self) -> bool {
        self.order_margin > self.uncertainty
    }
}

/// `sqrt(ln(1 + e^x))`, `1 / (1 + e^-x)` or the softmax, of f32 logits, rounded to f32.
fn scores(logits: &[f32], scoring: Scoring) -> Vec<f32> {
    let wide = logits.iter().map(|&x| f64::from(x));
    match scoring {
        Scoring::SqrtSoftplus => wide.map(|x| fl32((x.max(0.0) + (-x.abs()).exp().ln_1p()).sqrt())).collect(),
        Scoring::Sigmoid => wide.map(|x| fl32(1.0 / (1.0 + (-x).exp()))).collect(),
        Scoring::Softmax => {
            let max = wide.clone().fold(f64::NEG_INFINITY, |m, x| if x > m || x.is_nan() { x } else { m });
            let powers: Vec<f64> = wide.map(|x| (x - max).exp()).collect();
            let sum: f64 = powers.iter().sum();
            powers.iter().map(|p| fl32(p / sum)).collect()
        }
    }
}

/// Larger key first, NaN last, then the lower id.
fn by_key(keys: &[f32], a: usize, b: usize) -> Ordering {
    let (x, y) = (keys[a], keys[b]);
    match (x.is_nan(), y.is_nan()) {
        (false, false) => y.partial_cmp(&x).unwrap_or(Ordering::Equal),
        (nan_x, nan_y) => nan_x.cmp(&nan_y),
    }
    .then(a.cmp(&b))
}

struct TokenRouting {
    ids: Vec<i32>,
    weights: Vec<f32>,
    decision: Decision,
    invalid: bool,
}

fn token(layer: &LayerWeights, router: &RouterWeights, x: &[bf16], input_id: Option<i64>) -> TokenRouting {
    let (config, experts, k) = (&layer.config, layer.config.experts, layer.config.top_k);
    let (mut logits, mut mass) = (vec![0.0f32; experts], 0.0f64);
    for (logit, row) in logits.iter_mut().zip(router.weight.chunks_exact(config.hidden)) {
        let products = x.iter().zip(row).map(|(x, &w)| x.to_f64() * f64::from(w));
        *logit = fl32(products.clone().sum());
        mass = mass.max(products.map(f64::abs).sum());
    }
    let scores = scores(&logits, config.scoring);
    let (ids, decision): (Vec<i32>, Decision) = match &router.selection {
        Selection::Hash { tid2eid } => {
            let id = input_id.and_then(|i| usize::try_from(i).ok()).filter(|&i| i < config.vocab_size);
            let Some(id) = id else {
                let (ids, weights) = (vec![-1; k], vec![0.0; k]);
                return TokenRouting { ids, weights, decision: Decision::CERTAIN, invalid: true };
            };
            (tid2eid[id * k..][..k].to_vec(), Decision::CERTAIN)
        }
        Selection::TopK { bias } => {
            let key = |e: usize| match bias {
                Some(bias) => fl32(f64::from(scores[e]) + f64::from(bias[e])),
                None => scores[e],
            };
            let keys: Vec<f32> = (0..experts).map(key).collect();
            let mut order: Vec<usize> = (0..experts).collect();
            order.sort_by(|&a, &b| by_key(&keys, a, b));
            (order[..k].iter().map(|&e| e as i32).collect(), decide(&keys, &order, k, mass))
        }
    };
    // The weights come from the scores, never from the keys.
    let chosen = |&id: &i32| usize::try_from(id).ok().and_then(|e| scores.get(e)).copied().unwrap_or(0.0);
    let chosen: Vec<f64> = ids.iter().map(|id| f64::from(chosen(id))).collect();
    let divisor = if config.norm_topk_prob { chosen.iter().sum::<f64>() + 1e-20 } else { 1.0 };
    let scaling = f64::from(config.routed_scaling_factor);
    let weights = chosen.iter().map(|score| fl32(score / divisor * scaling)).collect();
    TokenRouting { ids, weights, decision, invalid: false }
}

fn decide(keys: &[f32], order: &[usize], k: usize, mass: f64) -> Decision {
    // NaN differences count as no margin at all.
    let gap = |i: usize| match order.get(i + 1) {
        None => f64::INFINITY,
        Some(&next) => (f64::from(keys[order[i]]) - f64::from(keys[next])).max(0.0),
    };
    let set_margin = if k == 0 { f64::INFINITY } else { gap(k - 1) };
    let order_margin = (0..k).map(gap).fold(f64::INFINITY, f64::min);
    let largest = keys.iter().map(|key| f64::from(key.abs())).fold(0.0, f64::max);
    Decision { set_margin, order_margin, uncertainty: (mass + largest) * 2f64.powi(-20) }
}

/// Ids and weights of every token, and how certain they are.
pub(super) fn route(
    layer: &LayerWeights,
    input: &LayerInput<'_>,
    stats: &mut Stats,
) -> Result<(Routing, Vec<Decision>)> {
    let input_ids = match input.routing {
        RoutingSource::Given { topk_ids, topk_weights } => {
            let routing = Routing { topk_ids: topk_ids.to_vec(), topk_weights: topk_weights.to_vec() };
            return Ok((routing, vec![Decision::CERTAIN; input.tokens]));
        }
        RoutingSource::Model { input_ids } => input_ids,
    };
    check::router(layer)?;
    let Some(router) = &layer.router else {
        return Err(Error::invalid("routing", "the layer has no router"));
    };
    if input_ids.is_none() && matches!(router.selection, Selection::Hash { .. }) {
        return Err(Error::invalid("input_ids", "a hash layer routes by token id: pass them"));
    }
    let hidden = layer.config.hidden;
    let tokens: Vec<TokenRouting> = input
        .hidden_states
        .par_chunks(hidden)
        .enumerate()
        .map(|(t, x)| token(layer, router, x, input_ids.map(|ids| ids[t])))
        .collect();
    stats.invalid_tokens = tokens.iter().filter(|t| t.invalid).count() as u64;
    let routing = Routing {
        topk_ids: tokens.iter().flat_map(|t| t.ids.iter().copied()).collect(),
        topk_weights: tokens.iter().flat_map(|t| t.weights.iter().copied()).collect(),
    };
    Ok((routing, tokens.iter().map(|t| t.decision).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_by_hand() {
        let s = scores(&[0.0, 100.0, -200.0, f32::NAN], Scoring::SqrtSoftplus);
        assert_eq!(s[0], 2f64.ln().sqrt() as f32);
        assert_eq!(s[1], 10.0);
        assert_eq!(s[2], (-100f64).exp() as f32);
        assert!(s[3].is_nan());
        assert_eq!(scores(&[0.0], Scoring::Sigmoid), [0.5]);
        assert_eq!(scores(&[3.0, 3.0, 3.0, 3.0], Scoring::Softmax), [0.25; 4]);
        assert!(scores(&[3.0, f32::NAN], Scoring::Softmax).iter().all(|s| s.is_nan()));
    }

    #[test]
    fn order_and_margins() {
        let keys = [-3.0, f32::NAN, -1.0, -1.0, f32::NEG_INFINITY];
        let mut order: Vec<usize> = (0..5).collect();
        order.sort_by(|&a, &b| by_key(&keys, a, b));
        assert_eq!(order, [2, 3, 0, 4, 1]);
        let d = decide(&keys, &order, 2, 0.0);
        assert_eq!((d.set_margin, d.order_margin), (2.0, 0.0));
        assert_eq!(decide(&keys, &order, 4, 0.0).set_margin, 0.0);
        assert_eq!(decide(&keys, &order, 5, 0.0).set_margin, f64::INFINITY);
    }
}
