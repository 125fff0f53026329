//! Scores, selection, weights.

use half::bf16;
use megamoe::cpu::Router;
use megamoe::io::{LayerInput, RoutingSource};
use megamoe::options::ForwardOptions;
use megamoe::oracle;
use megamoe::weights::{LayerConfig, RouterWeights, Selection};
use megamoe_tests::checkpoint_writer::{CheckpointSpec, Rng};
use nvfp4::routing;

use super::harness::{Check, equal, prove, require};

#[test]
fn selection() {
    type TopK = dyn Fn(&[f32], usize) -> Vec<u32>;
    /// Top-k by any order; `start` is what the running maximum starts with.
    fn select(keys: &[f32], k: usize, start: f32, beats: impl Fn(f32, f32) -> bool) -> Vec<u32> {
        let mut taken: Vec<u32> = Vec::new();
        for _ in 0..k {
            let (mut best, mut id) = (start, 0);
            for (e, &key) in keys.iter().enumerate() {
                if !taken.contains(&(e as u32)) && beats(key, best) {
                    (best, id) = (key, e as u32);
                }
            }
            taken.push(id);
        }
        taken
    }
    let real: &TopK = &|keys, k| {
        let mut ids = vec![0; k];
        routing::top_k(keys, &mut ids);
        ids
    };
    let mutants: &[(&str, &TopK)] = &[
        ("the maximum starts at zero", &|keys, k| select(keys, k, 0.0, |a, b| a > b)),
        ("NaN ends the search", &|keys, k| select(keys, k, f32::NEG_INFINITY, |a, b| a > b)),
        ("the higher id wins ties", &|keys, k| select(keys, k, f32::NEG_INFINITY, |a, b| a >= b)),
        ("ascending ids", &|keys, k| {
            let mut ids = real(keys, k);
            ids.sort_unstable();
            ids
        }),
        ("an id twice", &|keys, k| vec![real(keys, 1)[0]; k]),
    ];
    prove("top-k", real, mutants, |top_k| {
        let nan = f32::NAN;
        equal("mixed", &top_k(&[0.5, 2.0, -1.0, 1.0], 3), &[1, 3, 0])?;
        equal("all negative", &top_k(&[-5.0, -1.0, -3.0], 2), &[1, 2])?;
        equal("ties", &top_k(&[1.0, 3.0, 3.0, 1.0], 3), &[1, 2, 0])?;
        equal("NaN", &top_k(&[nan, 1.0, nan, 0.5], 3), &[1, 3, 0])?;
        equal("only NaN", &top_k(&[nan; 4], 3), &[0, 1, 2])?;
        equal("minus infinity", &top_k(&[f32::NEG_INFINITY; 3], 2), &[0, 1])
    });
}

#[test]
fn score_function() {
    type Score = dyn Fn(f32) -> f32;
    let real: &Score = &|x| {
        let mut row = [x];
        routing::scores(&mut row, routing::Scoring::SqrtSoftplus);
        row[0]
    };
    let mutants: &[(&str, &Score)] = &[
        ("naive softplus", &|x| (1.0 + x.exp()).ln().sqrt()),
        ("log1p of an overflow", &|x| x.exp().ln_1p().sqrt()),
        ("no square root", &|x| x.max(0.0) + (-x.abs()).exp().ln_1p()),
        ("flushed below -20", &|x| if x < -20.0 { 0.0 } else { real(x) }),
        ("sigmoid", &|x| 1.0 / (1.0 + (-x).exp())),
    ];
    prove("scores", real, mutants, |score| {
        for i in -160..=240 {
            let x = f64::from(i) * 0.5;
            let want = (x.max(0.0) + (-x.abs()).exp().ln_1p()).sqrt();
            let got = f64::from(score(x as f32));
            require((got - want).abs() <= 1e-6 * want, format!("score of {x} is {got}, not {want}"))?;
        }
        require(score(f32::NAN).is_nan(), "NaN stays")
    });
}

#[test]
fn weights() {
    type Weights = dyn Fn(&mut [f32], bool, f32);
    fn with_eps(s: &mut [f32], normalise: bool, scaling: f32, eps: f32) {
        let sum = if normalise { s.iter().sum::<f32>() + eps } else { 1.0 };
        s.iter_mut().for_each(|s| *s = *s / sum * scaling);
    }
    let mutants: &[(&str, &Weights)] = &[
        ("no epsilon: 0 / 0", &|s, n, k| with_eps(s, n, k, 0.0)),
        ("an epsilon of 1e-6", &|s, n, k| with_eps(s, n, k, 1e-6)),
        ("scaling before the normalisation", &|s, n, k| {
            s.iter_mut().for_each(|s| *s *= k);
            with_eps(s, n, 1.0, 1e-20);
        }),
        ("always normalised", &|s, _, k| with_eps(s, true, k, 1e-20)),
        ("never normalised", &|s, _, k| with_eps(s, false, k, 1e-20)),
        ("softmax of the scores", &|s, _, k| {
            s.iter_mut().for_each(|s| *s = s.exp());
            with_eps(s, true, k, 0.0);
        }),
    ];
    prove::<Weights>("weights", &routing::weights, mutants, |f| {
        // Scores of very negative logits are tiny, and count all the same.
        for (scores, normalise) in [
            ([0.5, 0.25, 1.25], true),
            ([2e-9, 1e-9, 1e-9], true),
            ([0.0; 3], true),
            ([0.5, 0.25, 2.0], false),
        ] {
            let sum: f64 = scores.iter().map(|&s| f64::from(s)).sum();
            let divisor = if normalise { sum + 1e-20 } else { 1.0 };
            let mut got = scores;
            f(&mut got, normalise, 2.5);
            for (got, s) in got.iter().zip(scores) {
                let want = f64::from(s) / divisor * 2.5;
                require(
                    (f64::from(*got) - want).abs() <= 1e-6 * want,
                    format!("{scores:?}: {got}, not {want}"),
                )?;
            }
        }
        Ok(())
    });
}

const TOKENS: usize = 48;

fn router_data() -> (RouterWeights, LayerConfig, Vec<bf16>) {
    let spec = CheckpointSpec { experts: 64, top_k: 6, hidden: 256, ..Default::default() };
    let layer = spec.layer(1);
    let mut rng = Rng::new(21, "router");
    let rows = (0..TOKENS * 256).map(|_| bf16::from_f32(rng.normal())).collect();
    (layer.router.expect("a router"), layer.config, rows)
}

type Route<'a> = dyn Fn(&RouterWeights, &LayerConfig, &[bf16]) -> (Vec<i32>, Vec<f32>) + 'a;

/// Ids and weights of logits that went through `round`, with `weights_from(score, key)`.
fn route(
    router: &RouterWeights,
    config: &LayerConfig,
    rows: &[bf16],
    round: impl Fn(f32) -> f32,
    weights_from: impl Fn(f32, f32) -> f32,
) -> (Vec<i32>, Vec<f32>) {
    let Selection::TopK { bias: Some(bias) } = &router.selection else { panic!("a bias") };
    let (mut all_ids, mut all_weights) = (Vec::new(), Vec::new());
    for x in rows.chunks(config.hidden) {
        let dot = |w: &[f32]| x.iter().zip(w).map(|(x, w)| x.to_f64() * f64::from(*w)).sum::<f64>() as f32;
        let mut scores: Vec<f32> = router.weight.chunks(config.hidden).map(|w| round(dot(w))).collect();
        routing::scores(&mut scores, config.scoring);
        let keys: Vec<f32> = scores.iter().zip(bias).map(|(s, b)| round(s + b)).collect();
        let mut ids = vec![0; config.top_k];
        routing::top_k(&keys, &mut ids);
        let mut weights: Vec<f32> =
            ids.iter().map(|&e| weights_from(scores[e as usize], keys[e as usize])).collect();
        routing::weights(&mut weights, config.norm_topk_prob, config.routed_scaling_factor);
        all_ids.extend(ids.iter().map(|&e| e as i32));
        all_weights.extend(weights);
    }
    (all_ids, all_weights)
}

#[test]
fn router_precision_and_bias() {
    let (router, config, rows) = router_data();
    let layer = {
        let mut layer = CheckpointSpec { experts: 64, top_k: 6, hidden: 256, ..Default::default() }.layer(1);
        layer.router = Some(router.clone());
        layer
    };
    let input = LayerInput {
        hidden_states: &rows,
        tokens: TOKENS,
        routing: RoutingSource::Model { input_ids: None },
    };
    let want = oracle::trace(&layer, &input, &ForwardOptions::default()).expect("valid");
    let check = |f: &Route<'_>| -> Check {
        let (ids, weights) = f(&router, &config, &rows);
        for (token, decision) in want.decisions.iter().enumerate().filter(|(_, d)| d.order_is_certain()) {
            let slots = token * 6..(token + 1) * 6;
            let what = format!("token {token} with a margin of {:.1e}", decision.order_margin);
            equal(&what, &ids[slots.clone()], &want.output.routing.topk_ids[slots.clone()])?;
            for slot in slots {
                let (a, b) = (weights[slot], want.output.routing.topk_weights[slot]);
                require((a - b).abs() <= 1e-6, format!("{what}: weight {a}, not {b}"))?;
            }
        }
        Ok(())
    };
    assert!(want.decisions.iter().filter(|d| d.order_is_certain()).count() > TOKENS / 2);
    let real: &Route<'_> = &|router, config, rows| {
        let (routing, _) =
            Router::new(router, config).expect("fits").route(rows, TOKENS, None).expect("runs");
        (routing.topk_ids, routing.topk_weights)
    };
    let mutants: &[(&str, &Route<'_>)] = &[
        ("bf16 logits", &|r, c, x| route(r, c, x, nvfp4::bf16::round, |s, _| s)),
        ("the bias in the weights", &|r, c, x| route(r, c, x, |v| v, |_, key| key)),
        ("no bias", &|r, c, x| {
            let none = Selection::TopK { bias: Some(vec![0.0; 64].into()) };
            route(&RouterWeights { weight: r.weight.clone(), selection: none }, c, x, |v| v, |s, _| s)
        }),
    ];
    prove("the router", real, mutants, check);
    route(&router, &config, &rows, |v| v, |s, _| s);
    check(&|r, c, x| route(r, c, x, |v| v, |s, _| s)).expect("without a mutation it is right");
}

/// A token id at or past the end of the vocabulary selects nothing, and is counted.
#[test]
fn token_ids_outside_the_vocabulary() {
    let layer = CheckpointSpec::default().layer(0);
    let config = layer.config.clone();
    let router = layer.router.expect("a router");
    let ids = [3i64, 64, -1, i64::MAX, 63];
    let rows = vec![bf16::ONE; ids.len() * config.hidden];
    type Hash<'a> = dyn Fn(&RouterWeights, &[i64]) -> (Vec<i32>, u64) + 'a;
    let table = |r: &RouterWeights, id: usize| match &r.selection {
        Selection::Hash { tid2eid } => tid2eid[id * 3..][..3].to_vec(),
        Selection::TopK { .. } => panic!("a hash layer"),
    };
    let real: &Hash<'_> = &|r, ids| {
        let (routing, invalid) =
            Router::new(r, &config).expect("fits").route(&rows, 5, Some(ids)).expect("runs");
        (routing.topk_ids, invalid)
    };
    let mutants: &[(&str, &Hash<'_>)] = &[
        ("the id is not checked", &|r, ids| (ids.iter().flat_map(|&id| table(r, id as usize)).collect(), 0)),
        ("the id is clamped silently", &|r, ids| {
            (ids.iter().flat_map(|&id| table(r, id.clamp(0, 63) as usize)).collect(), 0)
        }),
        ("the id wraps around", &|r, ids| {
            (ids.iter().flat_map(|&id| table(r, id.rem_euclid(64) as usize)).collect(), 0)
        }),
        ("id == vocab_size passes", &|r, ids| {
            let rows = ids
                .iter()
                .flat_map(|&id| if id == 64 { table(r, 63) } else { real(r, &[id; 5]).0[..3].to_vec() });
            (rows.collect(), 2)
        }),
    ];
    prove("hash routing", real, mutants, |hash| {
        let (got, invalid) = hash(&router, &ids);
        let mut want = table(&router, 3);
        want.extend([-1; 9]);
        want.extend(table(&router, 63));
        equal("experts", &got, &want)?;
        require(invalid == 3, format!("{invalid} invalid tokens, not 3"))
    });
}
