//! The CPU backend against the oracle: every activation mode, score function, shared-expert format and routing form,
//! on data that are not uniform.

use std::ops::Range;

use half::bf16;
use megamoe::io::{LayerInput, LayerOutput, RoutingSource};
use megamoe::metrics::{BAR, Metrics};
use megamoe::options::{ActScale, ActScaleL2, Activations, ForwardOptions, Part};
use megamoe::weights::LayerWeights;
use megamoe::{cpu, oracle};
use megamoe_tests::checkpoint_writer::{CheckpointSpec, Rng, SharedFormat};
use nvfp4::routing::Scoring;

const TOKENS: usize = 13;

fn rows(spec: &CheckpointSpec, tokens: usize) -> Vec<bf16> {
    let mut rng = Rng::new(77, "rows");
    let mut x = Vec::with_capacity(tokens * spec.hidden);
    for token in 0..tokens {
        let loudness = [1.0, 0.01, 30.0, 0.3][token % 4];
        for _ in 0..spec.hidden {
            let outlier = if rng.below(97) == 0 { 20.0 } else { 1.0 };
            x.push(bf16::from_f32(rng.normal() * loudness * outlier));
        }
    }
    x
}

fn options() -> Vec<ForwardOptions> {
    let mut all = vec![ForwardOptions::default()];
    for act_scale in [ActScale::RowDynamic, ActScale::TensorDynamic, ActScale::Static, ActScale::Warmup] {
        for act_scale_l2 in [
            ActScaleL2::Bound,
            ActScaleL2::RowDynamic,
            ActScaleL2::TensorDynamic,
            ActScaleL2::Static,
            ActScaleL2::Warmup,
        ] {
            let activations = Activations::Nvfp4;
            all.push(ForwardOptions { activations, act_scale, act_scale_l2, ..Default::default() });
        }
    }
    all
}

/// Runs both on the same routing (ids and weights of the oracle, unless `given`) and compares everything.
fn compare(what: &str, layer: &LayerWeights, input: &LayerInput<'_>, opts: &ForwardOptions) -> LayerOutput {
    let mut opts = opts.clone();
    if opts.act_scale == ActScale::Warmup || opts.act_scale_l2 == ActScaleL2::Warmup {
        let ours = cpu::measure_warmup(layer, input, &opts).expect(what);
        let theirs = oracle::measure_warmup(layer, input, &opts).expect(what);
        assert_eq!(ours.l1, theirs.l1, "{what}: warm-up L1");
        for (a, b) in [(ours.l2_routed, theirs.l2_routed), (ours.l2_shared, theirs.l2_shared)] {
            assert!((a - b).abs() <= 1e-5 * b, "{what}: warm-up L2 {a} {b}");
        }
        opts.warmup = Some(theirs);
    }
    let want = oracle::trace(layer, input, &opts).expect(what);
    let got = cpu::forward(layer, input, &opts).expect(what);
    if opts.part != Part::Shared {
        let k = layer.config.top_k;
        for (token, decision) in want.decisions.iter().enumerate() {
            let slots = token * k..(token + 1) * k;
            assert!(decision.order_is_certain(), "{what}: token {token} is not decidable: choose other data");
            assert_eq!(
                got.routing.topk_ids[slots.clone()],
                want.output.routing.topk_ids[slots.clone()],
                "{what}: token {token}"
            );
            for slot in slots {
                let (a, b) = (got.routing.topk_weights[slot], want.output.routing.topk_weights[slot]);
                assert!(
                    (a - b).abs() <= 1e-6 * b.max(1.0) || (a.is_nan() && b.is_nan()),
                    "{what}: weight {a} {b}"
                );
            }
        }
    }
    let mut stats = got.stats;
    // A ratio at exactly 448 may fall on either side of it in L2, whose rows differ in the last bits.
    if stats.saturated_blocks_l2.abs_diff(want.output.stats.saturated_blocks_l2) <= 1 {
        stats.saturated_blocks_l2 = want.output.stats.saturated_blocks_l2;
    }
    assert_eq!(stats, want.output.stats, "{what}");
    let m = Metrics::of(&got.output_f32, &want.output.output_f32);
    assert!(m.passes(&BAR), "{what}: {m:?}");
    got
}

fn spec() -> CheckpointSpec {
    // A limit that bites, gate and up an order of magnitude apart.
    CheckpointSpec { gate_up_ratio: 10.0, swiglu_limit: Some(1.0), ..Default::default() }
}

fn model(ids: &[i64]) -> RoutingSource<'_> {
    RoutingSource::Model { input_ids: Some(ids) }
}

#[test]
fn every_mode_and_part() {
    let spec = spec();
    let x = rows(&spec, TOKENS);
    let ids: Vec<i64> = (0..TOKENS as i64).map(|t| t * 5 % 64).collect();
    let input = LayerInput { hidden_states: &x, tokens: TOKENS, routing: model(&ids) };
    for layer in [0, 1] {
        let weights = spec.layer(layer);
        for opts in options() {
            for part in [Part::All, Part::Routed, Part::Shared] {
                let opts = ForwardOptions { part, ..opts.clone() };
                compare(&format!("layer {layer} {opts:?}"), &weights, &input, &opts);
            }
        }
    }
}

#[test]
fn score_functions_and_weights() {
    for scoring in [Scoring::SqrtSoftplus, Scoring::Sigmoid, Scoring::Softmax] {
        for (norm_topk_prob, swiglu_limit) in [(true, None), (false, Some(2.0))] {
            let spec = CheckpointSpec {
                scoring,
                norm_topk_prob,
                swiglu_limit,
                hash_layers: 0,
                ..Default::default()
            };
            let x = rows(&spec, TOKENS);
            let routing = RoutingSource::Model { input_ids: None };
            let input = LayerInput { hidden_states: &x, tokens: TOKENS, routing };
            for opts in options().iter().step_by(3) {
                compare(&format!("{scoring:?} {norm_topk_prob} {opts:?}"), &spec.layer(1), &input, opts);
            }
        }
    }
}

#[test]
fn shared_formats() {
    for shared in [
        SharedFormat::None,
        SharedFormat::Nvfp4,
        SharedFormat::Bf16,
        SharedFormat::Fp8E8m0,
        SharedFormat::Fp8F32,
    ] {
        let spec = CheckpointSpec { shared, shared_experts: 2, hidden: 208, intermediate: 48, ..spec() };
        let x = rows(&spec, TOKENS);
        let routing = RoutingSource::Model { input_ids: None };
        let input = LayerInput { hidden_states: &x, tokens: TOKENS, routing };
        for opts in options().iter().step_by(4) {
            compare(&format!("{shared:?} {opts:?}"), &spec.layer(1), &input, opts);
        }
    }
}

fn slices(opts: &ForwardOptions, local: Range<usize>) -> ForwardOptions {
    ForwardOptions { local_experts: Some(local), part: Part::Routed, ..opts.clone() }
}

#[test]
fn given_routing_with_every_kind_of_id_and_ranks() {
    let spec = spec();
    let x = rows(&spec, TOKENS);
    let layer = spec.layer(1);
    // Invalid, duplicate and skewed ids.
    let mut rng = Rng::new(3, "ids");
    let mut ids: Vec<i32> = (0..TOKENS * 3).map(|_| rng.below(8) as i32).collect();
    (ids[0], ids[4], ids[8], ids[9], ids[10]) = (-1, 8, i32::MIN, 5, 5);
    let weights: Vec<f32> = (0..TOKENS * 3).map(|_| rng.uniform() + 0.1).collect();
    let routing = RoutingSource::Given { topk_ids: &ids, topk_weights: &weights };
    let input = LayerInput { hidden_states: &x, tokens: TOKENS, routing };
    for opts in options().iter().step_by(2) {
        compare(&format!("{opts:?}"), &layer, &input, opts);
        for local in [0..3, 3..8, 5..5] {
            compare(&format!("{local:?} {opts:?}"), &layer, &input, &slices(opts, local));
        }
    }
}

#[test]
fn non_finite_rows_and_unknown_tokens() {
    let spec = spec();
    let mut x = rows(&spec, TOKENS);
    x[2 * spec.hidden + 7] = bf16::NAN;
    x[5 * spec.hidden] = bf16::NEG_INFINITY;
    let ids: Vec<i64> = (0..TOKENS as i64)
        .map(|t| {
            if t == 3 {
                64
            } else if t == 4 {
                -1
            } else {
                t
            }
        })
        .collect();
    let input = LayerInput { hidden_states: &x, tokens: TOKENS, routing: model(&ids) };
    for opts in options() {
        let out = compare(&format!("{opts:?}"), &spec.layer(0), &input, &opts);
        let is_nan = |t: usize| out.output_f32[t * spec.hidden..][..spec.hidden].iter().all(|v| v.is_nan());
        let nan: Vec<usize> = (0..TOKENS).filter(|&t| is_nan(t)).collect();
        assert_eq!(nan, [2, 5]);
    }
}

#[test]
fn nothing_and_errors() {
    let spec = spec();
    let layer = spec.layer(0);
    let none = LayerInput { hidden_states: &[], tokens: 0, routing: model(&[]) };
    compare("no tokens", &layer, &none, &ForwardOptions::default());
    let x = rows(&spec, 1);
    let missing =
        LayerInput { hidden_states: &x, tokens: 1, routing: RoutingSource::Model { input_ids: None } };
    let warmup = ForwardOptions {
        activations: Activations::Nvfp4,
        act_scale: ActScale::Warmup,
        ..ForwardOptions::default()
    };
    let given = LayerInput { hidden_states: &x, tokens: 1, routing: model(&[1]) };
    let no_shared = CheckpointSpec { shared: SharedFormat::None, ..spec.clone() }.layer(0);
    let uncalibrated = CheckpointSpec { input_scales: false, ..spec.clone() }.layer(0);
    let fixed = ForwardOptions { act_scale: ActScale::Static, ..warmup.clone() };
    let part = ForwardOptions { part: Part::Shared, ..ForwardOptions::default() };
    for (what, layer, input, opts) in [
        ("input_ids missing", &layer, &missing, &ForwardOptions::default()),
        ("warm-up missing", &layer, &given, &warmup),
        ("no shared expert", &no_shared, &given, &part),
        ("no input_scale", &uncalibrated, &given, &fixed),
        ("short rows", &layer, &LayerInput { hidden_states: &x[1..], ..given }, &ForwardOptions::default()),
        ("ranks", &layer, &given, &slices(&ForwardOptions::default(), 3..9)),
    ] {
        assert!(oracle::forward(layer, input, opts).is_err(), "{what}");
        assert!(cpu::forward(layer, input, opts).is_err(), "{what}");
    }
}
