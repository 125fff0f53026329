//! The oracle against arrays that independent packages produced: it is the yardstick of every backend, so it must
//! itself stand on something else.

use half::bf16;
use megamoe::io::{LayerInput, RoutingSource};
use megamoe::options::{ActScale, ActScaleL2, Activations, ForwardOptions, Part, WarmupScales};
use megamoe::oracle::{self, ActivationRow};
use megamoe::weights::{ExpertWeights, LayerConfig, LayerWeights, Nvfp4Matrix, RouterWeights, Selection};
use megamoe_tests::golden::Golden;
use nvfp4::routing::Scoring;

#[test]
fn codecs_on_every_bf16_and_f16_value() {
    let g = Golden::load();
    for set in ["edge", "bf16_all", "f16_all", "rnd"] {
        let xs = g.get(&format!("codec/x_{set}")).f32();
        let two = g.get(&format!("codec/e2m1.{set}.exact")).u8();
        let four = g.get(&format!("codec/e4m3sat.{set}.exact")).u8();
        for ((&x, &two), &four) in xs.iter().zip(two).zip(four) {
            assert_eq!(oracle::encode_e2m1(x), two, "{x:e}");
            assert_eq!(oracle::encode_e4m3(x), four, "{x:e}");
        }
    }
    for (code, &want) in g.get("codec/decode_e2m1").f32().iter().enumerate() {
        assert_eq!(oracle::e2m1(code as u8), f64::from(want));
    }
    for (code, &want) in g.get("codec/decode_e4m3").f32().iter().enumerate() {
        let got = oracle::e4m3(code as u8);
        assert!(got == f64::from(want) || (got.is_nan() && want.is_nan()), "{code:#x}");
    }
}

/// ModelOpt's own bytes, block by block, where the formula is defined (zero blocks have scale 0 here, 1.0 there).
#[test]
fn quantised_rows_are_modelopts() {
    let g = Golden::load();
    let mut compared = 0;
    for case in g.cases("nvfp4_dynamic/", ".modelopt.packed") {
        if matches!(case, "zeros" | "f32_denormals") {
            // ModelOpt has no useful answer: NaN scales, or a global scale that underflows.
            continue;
        }
        let get = |what: &str| g.get(&format!("nvfp4_dynamic/{case}.{what}"));
        let (x, packed, scales) = (get("x").f32(), get("modelopt.packed").u8(), get("modelopt.scale").u8());
        let row = oracle::QuantisedRow::quantise(&x, get("modelopt.s2").scalar_f32());
        for b in 0..scales.len() {
            if x[b * 16..][..16].iter().all(|&v| v == 0.0) {
                assert_eq!((row.scales[b], scales[b]), (0, 0x38), "{case} block {b}");
                continue;
            }
            assert_eq!(row.scales[b], scales[b], "{case} block {b}");
            for (i, (&ours, &theirs)) in row.packed[b * 8..].iter().zip(&packed[b * 8..][..8]).enumerate() {
                // ModelOpt drops the sign of a code that rounds to zero from -0.
                let sign_of_zero = |byte: u8| {
                    let low = if byte & 0x0f == 8 { byte & 0xf0 } else { byte };
                    if low & 0xf0 == 0x80 { low & 0x0f } else { low }
                };
                assert!(
                    ours == theirs || sign_of_zero(ours) == sign_of_zero(theirs),
                    "{case} block {b} byte {i}: {ours:#04x}, theirs {theirs:#04x}"
                );
            }
            compared += 1;
        }
    }
    assert!(compared > 7000, "{compared}");
}

fn swiglu_case(name: &str, limit: f32) {
    let g = Golden::load();
    let (gate, up) = (g.get("moe/swiglu.gate").f32(), g.get("moe/swiglu.up").f32());
    let want = g.get(&format!("moe/swiglu.{name}.f64")).f64();
    for i in 0..gate.len() {
        let got = f64::from(oracle::swiglu(gate[i], up[i], limit));
        // Two roundings to f32, the second of which may be to a subnormal.
        let bound = want[i].abs() * 2f64.powi(-23) + f64::from(up[i].abs().max(1.0)) * 2f64.powi(-148);
        assert!((got - want[i]).abs() <= bound, "{name}: {} {}: {got:e}, {:e}", gate[i], up[i], want[i]);
    }
}

#[test]
fn swiglu() {
    swiglu_case("plain", f32::INFINITY);
    swiglu_case("limit10", 10.0);
    swiglu_case("limit7", 7.0);
}

fn matrix(rows: usize, cols: usize, packed: &[u8], scales: &[u8], global_scale: f32) -> Nvfp4Matrix {
    assert_eq!((packed.len(), scales.len()), (rows * cols / 2, rows * cols / 16));
    Nvfp4Matrix { rows, cols, packed: packed.into(), scales: scales.into(), global_scale, input_scale: None }
}

fn config(hidden: usize, intermediate: usize, experts: usize, top_k: usize, scaling: f32) -> LayerConfig {
    LayerConfig {
        hidden,
        intermediate,
        experts,
        top_k,
        shared_intermediate: 0,
        scoring: Scoring::SqrtSoftplus,
        norm_topk_prob: true,
        routed_scaling_factor: scaling,
        swiglu_limit: Some(10.0),
        vocab_size: 0,
    }
}

/// Router cases: logits are fed in exactly, as the product of a unit vector per token with the logits as weights.
#[test]
fn routing() {
    let g = Golden::load();
    let mut decided = 0;
    for case in g.cases("moe/route.", ".logits") {
        let get = |what: &str| g.get(&format!("moe/route.{case}.{what}"));
        let [tokens, experts] = get("logits").dims::<2>();
        let (logits, bias) = (get("logits").f32(), get("bias").f32());
        let [k, scaling] = get("k_scale").f64()[..] else { panic!("{case}: k and scale") };
        let k = k as usize;
        let hidden = tokens.next_multiple_of(16);
        let mut weight = vec![0.0f32; experts * hidden];
        let mut x = vec![bf16::ZERO; tokens * hidden];
        for t in 0..tokens {
            x[t * hidden + t] = bf16::ONE;
            for e in 0..experts {
                weight[e * hidden + t] = logits[t * experts + e];
            }
        }
        let tiny =
            |rows, cols| matrix(rows, cols, &vec![0; rows * cols / 2], &vec![0; rows * cols / 16], 1.0);
        let expert = ExpertWeights { gate: tiny(16, hidden), up: tiny(16, hidden), down: tiny(hidden, 16) };
        let layer = LayerWeights {
            layer: 0,
            config: config(hidden, 16, experts, k, scaling as f32),
            experts: vec![expert; experts],
            shared: None,
            router: Some(RouterWeights {
                weight: weight.into(),
                selection: Selection::TopK { bias: Some(bias.into()) },
            }),
        };
        let input =
            LayerInput { hidden_states: &x, tokens, routing: RoutingSource::Model { input_ids: None } };
        let t = oracle::trace(&layer, &input, &ForwardOptions::default()).expect(case);
        let (ids, weights) = (get("topk_ids").i32(), get("weights_f64").f64());
        let gaps = get("gap_to_next").f64();
        for (token, &gap) in gaps.iter().enumerate() {
            // The scores of the golden are f64, ours f32: equal keys may stand in another order.
            let decision = t.decisions[token];
            if gap <= 1e-6 || !decision.order_is_certain() {
                continue;
            }
            decided += 1;
            let slots = token * k..(token + 1) * k;
            assert_eq!(t.output.routing.topk_ids[slots.clone()], ids[slots.clone()], "{case} token {token}");
            for (&got, &want) in t.output.routing.topk_weights[slots.clone()].iter().zip(&weights[slots]) {
                assert!(
                    (f64::from(got) - want).abs() <= 1e-6 * want + 1e-40,
                    "{case} token {token}: {got} {want}"
                );
            }
        }
    }
    assert!(decided > 60, "only {decided} tokens were decided");
}

/// The complete layer of the golden data, stage by stage.
#[test]
fn a_layer() {
    const T: usize = 8;
    const H: usize = 64;
    const I: usize = 32;
    let g = Golden::load();
    let get = |what: &str| g.get(&format!("moe/e2e.{what}"));
    let experts = (0..4)
        .map(|e| {
            let get = |what: &str| g.get(&format!("moe/e2e.expert{e}.{what}"));
            let (w13, s13, g13) = (get("w13_packed").u8(), get("w13_scale").u8(), get("s2_w13").scalar_f32());
            let half = |part: usize| {
                matrix(
                    I,
                    H,
                    &w13[part * I * H / 2..][..I * H / 2],
                    &s13[part * I * H / 16..][..I * H / 16],
                    g13,
                )
            };
            ExpertWeights {
                gate: half(0),
                up: half(1),
                down: matrix(H, I, get("w2_packed").u8(), get("w2_scale").u8(), get("s2_w2").scalar_f32()),
            }
        })
        .collect();
    let layer = LayerWeights {
        layer: 0,
        config: config(H, I, 4, 2, get("scaling").scalar_f32()),
        experts,
        shared: None,
        router: None,
    };
    let x: Vec<bf16> = get("x").f32().iter().map(|&v| bf16::from_f32(v)).collect();
    assert!(x.iter().zip(get("x").f32()).all(|(b, v)| b.to_f32() == v), "the golden rows are bf16");
    let weights: Vec<f32> = get("topk_w_f64").f64().iter().map(|&w| w as f32).collect();
    let ids = get("topk_ids").i32();
    let input = LayerInput {
        hidden_states: &x,
        tokens: T,
        routing: RoutingSource::Given { topk_ids: &ids, topk_weights: &weights },
    };
    let opts = ForwardOptions {
        activations: Activations::Nvfp4,
        act_scale: ActScale::Warmup,
        act_scale_l2: ActScaleL2::Warmup,
        part: Part::All,
        local_experts: None,
        warmup: Some(WarmupScales {
            l1: get("s2_x").scalar_f32(),
            l2_routed: get("s2_h").scalar_f32(),
            l2_shared: 0.0,
        }),
    };
    let t = oracle::trace(&layer, &input, &opts).expect("the layer is valid");
    assert_eq!(t.routed.len(), T * 2);
    for slot in &t.routed {
        let expert = slot.expert.expect("a routed slot");
        let get = |what: &str| g.get(&format!("moe/e2e.expert{expert}.{what}"));
        let row = get("rows").i32().iter().position(|&r| r as usize == slot.token).expect("a row");
        let (ActivationRow::Nvfp4(x), ActivationRow::Nvfp4(h)) = (&slot.x, &slot.h_row) else {
            panic!("quantised rows")
        };
        let at = |name: &str, width: usize, row: usize| g.get(name).u8()[row * width..][..width].to_vec();
        assert_eq!(x.packed, at("moe/e2e.x_packed", H / 2, slot.token));
        assert_eq!(x.scales, at("moe/e2e.x_scale", H / 16, slot.token));
        assert_eq!(h.packed, get("h_packed").u8()[row * I / 2..][..I / 2]);
        assert_eq!(h.scales, get("h_scale").u8()[row * I / 16..][..I / 16]);
        for (got, want) in slot.h.iter().zip(&get("act_f64").f64()[row * I..]) {
            assert!((f64::from(*got) - want).abs() <= 5e-7 * want.abs() + 1e-12, "{got} {want}");
        }
        let weight = f64::from(weights[slot.token * 2 + slot.slot]);
        for (got, want) in slot.y.iter().zip(&get("out_f64").f64()[row * H..]) {
            let want = want * weight;
            assert!((f64::from(*got) - want).abs() <= 3e-7 * want.abs(), "{got} {want}");
        }
    }
    let bits: Vec<u16> = t.output.output.iter().map(|v| v.to_bits()).collect();
    assert_eq!(bits, get("y_bf16_bits").u16());
}
