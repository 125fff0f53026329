//! Routings of every kind: skewed, missing, foreign, duplicate, by table.

use half::bf16;
use megamoe::cpu::{self, Router};
use megamoe::io::{LayerInput, RoutingSource};
use megamoe::metrics::{BAR, Metrics};
use megamoe::options::*;
use megamoe::weights::*;
use nvfp4::routing::Scoring;

use crate::reference;
use crate::support::*;

fn opts_routed() -> ForwardOptions {
    ForwardOptions { part: Part::Routed, ..ForwardOptions::default() }
}

#[test]
fn skewed_routings() {
    let layer = layer(31, Shape { hidden: 64, intermediate: 48, ..Shape::default() });
    let (tokens, mut rng) = (90, Rng(32));
    let x = rows(33, tokens, 64);
    let slots = tokens * 3;
    let uniform: Vec<i32> = (0..slots).map(|s| (s % 8) as i32).collect();
    let zipf: Vec<i32> =
        (0..slots).map(|_| (8.0f32.powf(rng.below(1000) as f32 / 1000.0) - 1.0) as i32).collect();
    let all_to_one = vec![5; slots];
    let two_of_eight: Vec<i32> = (0..slots).map(|s| [2, 7][s % 2]).collect();
    let weights: Vec<f32> = (0..slots).map(|_| 0.2 + rng.normal().abs()).collect();
    let routings =
        [("uniform", uniform), ("zipf", zipf), ("all to one", all_to_one), ("two of eight", two_of_eight)];
    for (name, ids) in routings {
        for opts in [
            opts_routed(),
            ForwardOptions { part: Part::Routed, ..nvfp4(ActScale::Static, ActScaleL2::Static) },
        ] {
            let out = cpu::forward(&layer, &given(&x, tokens, &ids, &weights), &opts).unwrap();
            let warmup = WarmupScales { l1: 0.0, l2_routed: 0.0, l2_shared: 0.0 };
            let (want, _) = reference::forward(&layer, &x, &ids, &weights, &opts, warmup);
            let m = Metrics::of(&out.output_f32, &want);
            assert!(m.passes(&BAR), "{name}: {m:?}");
            assert_eq!((out.stats.invalid_slots, out.stats.foreign_slots), (0, 0));
            assert_eq!((out.routing.topk_ids, out.routing.topk_weights), (ids.clone(), weights.clone()));
        }
    }
}

#[test]
fn bad_ids_are_skipped_and_counted() {
    let layer = layer(34, Shape::default());
    let x = rows(35, 4, 128);
    let ids = [-1, 2, -1, i32::MIN, 8, i32::MAX, 3, 3, 3, 0, -7, 7];
    let weights: Vec<f32> = (0..12).map(|i| 0.1 + i as f32 * 0.05).collect();
    let out = cpu::forward(&layer, &given(&x, 4, &ids, &weights), &opts_routed()).unwrap();
    assert_eq!(out.stats.invalid_slots, 6);
    assert!(out.output_f32[128..256].iter().all(|&v| v == 0.0), "a token without experts is 0");
    // The good slots alone, one by one, in slot order.
    let slot = |t: usize, k: usize| {
        let mut only = [-1; 12];
        only[t * 3 + k] = ids[t * 3 + k];
        cpu::forward(&layer, &given(&x, 4, &only, &weights), &opts_routed()).unwrap().output_f32
    };
    for (t, slots) in [(0, vec![1]), (2, vec![0, 1, 2]), (3, vec![0, 2])] {
        let mut want = vec![0.0f32; 128];
        for k in slots {
            want.iter_mut().zip(&slot(t, k)[t * 128..]).for_each(|(w, y)| *w += y);
        }
        assert_same(&out.output_f32[t * 128..][..128], &want, &format!("token {t}"));
    }
    // The shared expert does not care.
    let all = cpu::forward(&layer, &given(&x, 4, &ids, &weights), &ForwardOptions::default()).unwrap();
    let opts = ForwardOptions { part: Part::Shared, ..ForwardOptions::default() };
    let shared = cpu::forward(&layer, &given(&x, 4, &ids, &weights), &opts).unwrap();
    assert!(shared.routing.topk_ids.is_empty() && shared.stats.invalid_slots == 0);
    let sum: Vec<f32> = out.output_f32.iter().zip(&shared.output_f32).map(|(r, s)| r + s).collect();
    assert_same(&all.output_f32, &sum, "routed + shared");
}

#[test]
fn slots_are_weighted_and_added_in_slot_order() {
    // Large opposite slots around a small one: any other order of additions shows.
    let layer = layer(36, Shape { top_k: 3, ..Shape::default() });
    let x = rows(37, 1, 128);
    let ids = [4, 1, 4];
    let weights = [1e6, 1.0, -1e6];
    let out = cpu::forward(&layer, &given(&x, 1, &ids, &weights), &opts_routed()).unwrap();
    let y = |id: i32| {
        let ids = [id, -1, -1];
        let input = given(&x, 1, &ids, &[1.0; 3]);
        cpu::forward(&layer, &input, &opts_routed()).unwrap().output_f32
    };
    let (a, b) = (y(4), y(1));
    let want: Vec<f32> = a.iter().zip(&b).map(|(a, b)| ((0.0 + 1e6 * a) + 1.0 * b) + -1e6 * a).collect();
    assert_same(&out.output_f32, &want, "slot order");
}

#[test]
fn the_router_by_definition() {
    for (scoring, norm) in [
        (Scoring::SqrtSoftplus, true),
        (Scoring::Sigmoid, true),
        (Scoring::Softmax, true),
        (Scoring::Softmax, false),
    ] {
        let mut layer = layer(38, Shape { hidden: 80, experts: 21, top_k: 6, ..Shape::default() });
        layer.config.scoring = scoring;
        layer.config.norm_topk_prob = norm;
        let x = rows(39, 19, 80);
        let router = layer.router.as_ref().unwrap();
        let r = Router::new(router, &layer.config).unwrap();
        let logits = r.logits(&x, 19).unwrap();
        let (routing, invalid) = r.route(&x, 19, None).unwrap();
        assert_eq!(invalid, 0);
        let Selection::TopK { bias: Some(bias) } = &router.selection else { unreachable!() };
        for t in 0..19 {
            let l: Vec<f64> = (0..21)
                .map(|e| {
                    let w = &router.weight[e * 80..][..80];
                    w.iter().zip(&x[t * 80..]).map(|(&w, x)| f64::from(w) * x.to_f64()).sum()
                })
                .collect();
            for (got, want) in logits[t * 21..].iter().zip(&l) {
                assert!((f64::from(*got) - want).abs() <= 1e-5 * (1.0 + want.abs()));
            }
            let total: f64 = l.iter().map(|l| l.exp()).sum();
            let score: Vec<f64> = (l.iter())
                .map(|l| match scoring {
                    Scoring::SqrtSoftplus => l.exp().ln_1p().sqrt(),
                    Scoring::Sigmoid => 1.0 / (1.0 + (-l).exp()),
                    Scoring::Softmax => l.exp() / total,
                })
                .collect();
            let mut order: Vec<usize> = (0..21).collect();
            let key = |e: usize| score[e] + f64::from(bias[e]);
            order.sort_by(|&a, &b| key(b).total_cmp(&key(a)));
            let ids = &routing.topk_ids[t * 6..][..6];
            assert_eq!(
                ids,
                order[..6].iter().map(|&e| e as i32).collect::<Vec<_>>(),
                "{scoring:?} token {t}"
            );
            let sum: f64 = if norm { order[..6].iter().map(|&e| score[e]).sum() } else { 1.0 };
            for (k, &e) in order[..6].iter().enumerate() {
                let want = score[e] / sum * 1.5;
                assert!(
                    (f64::from(routing.topk_weights[t * 6 + k]) - want).abs() <= 1e-5 * want,
                    "{scoring:?}"
                );
            }
        }
    }
}

#[test]
fn hash_layers_take_ids_from_the_table() {
    let mut layer = layer(40, Shape::default());
    let mut rng = Rng(41);
    let table: Vec<i32> = (0..40 * 3).map(|_| rng.below(8) as i32).collect();
    layer.router.as_mut().unwrap().selection = Selection::Hash { tid2eid: table.clone().into() };
    let x = rows(42, 6, 128);
    let ids = [0i64, 39, 17, 40, -1, i64::MAX];
    let model =
        |input_ids| LayerInput { hidden_states: &x, tokens: 6, routing: RoutingSource::Model { input_ids } };
    let out = cpu::forward(&layer, &model(Some(&ids)), &opts_routed()).unwrap();
    assert_eq!((out.stats.invalid_tokens, out.stats.invalid_slots), (3, 9));
    for (t, &id) in ids[..3].iter().enumerate() {
        assert_eq!(out.routing.topk_ids[t * 3..][..3], table[id as usize * 3..][..3]);
        let sum: f32 = out.routing.topk_weights[t * 3..][..3].iter().sum();
        assert!((sum - 1.5).abs() < 1e-5, "weights are normalised and scaled");
    }
    assert_eq!(out.routing.topk_ids[9..], [-1; 9]);
    assert_eq!(out.routing.topk_weights[9..], [0.0; 9]);
    assert!(out.output_f32[3 * 128..].iter().all(|&v| v == 0.0));
    // Weights are those of the scores of the table's experts, whatever the other scores.
    let router = layer.router.clone().unwrap();
    let logits = Router::new(&router, &layer.config).unwrap().logits(&x, 6).unwrap();
    let mut want: Vec<f32> = table[17 * 3..18 * 3].iter().map(|&e| logits[2 * 8 + e as usize]).collect();
    nvfp4::routing::scores(&mut want, Scoring::SqrtSoftplus);
    nvfp4::routing::weights(&mut want, true, 1.5);
    assert_same(&out.routing.topk_weights[6..9], &want, "weights of token 2");
    // Given back as given routing, the same bits.
    let again = given(&x, 6, &out.routing.topk_ids, &out.routing.topk_weights);
    assert_same_output(&cpu::forward(&layer, &again, &opts_routed()).unwrap(), &out, "given routing");
    let missing = cpu::forward(&layer, &model(None), &opts_routed()).unwrap_err();
    assert!(matches!(missing, megamoe::Error::Invalid { ref what, .. } if what == "input_ids"), "{missing}");
}

#[test]
fn a_nan_row_routes_to_the_first_experts_with_nan_weights() {
    let layer = layer(43, Shape::default());
    let mut x = rows(44, 2, 128);
    x[128 + 5] = bf16::NAN;
    let out = cpu::forward(&layer, &routed(&x, 2), &opts_routed()).unwrap();
    assert_eq!(out.routing.topk_ids[3..], [0, 1, 2]);
    assert!(out.routing.topk_weights[3..].iter().all(|w| w.is_nan()));
    assert!(out.routing.topk_weights[..3].iter().all(|w| w.is_finite()));
}
