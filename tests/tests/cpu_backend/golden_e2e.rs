//! The golden layer: 4 experts, top-2, W4A4 with static scales, every stage stored.

use half::bf16;
use megamoe::cpu::{self, LinearMode, Nvfp4Linear, RowScale};
use megamoe::metrics::Metrics;
use megamoe::options::*;
use megamoe::weights::*;
use megamoe_tests::golden::Golden;
use nvfp4::routing::{self, Scoring};

use crate::support::{given, nvfp4};

const HIDDEN: usize = 64;
const INTER: usize = 32;

fn matrix(
    name: &str,
    scale: &str,
    global: &str,
    rows: std::ops::Range<usize>,
    cols: usize,
    input: f32,
) -> Nvfp4Matrix {
    let g = Golden::load();
    let part = |name: &str, per_row: usize| g.get(name).u8()[rows.start * per_row..rows.end * per_row].into();
    Nvfp4Matrix {
        rows: rows.len(),
        cols,
        packed: part(name, cols / 2),
        scales: part(scale, cols / 16),
        global_scale: g.get(global).scalar_f32(),
        input_scale: Some(input),
    }
}

fn golden_layer(gate_first: bool) -> LayerWeights {
    let g = Golden::load();
    let (s2_x, s2_h) = (g.get("moe/e2e.s2_x").scalar_f32(), g.get("moe/e2e.s2_h").scalar_f32());
    let expert = |e: usize| {
        let n = |part: &str| format!("moe/e2e.expert{e}.{part}");
        let w13 = |half: usize| {
            matrix(
                &n("w13_packed"),
                &n("w13_scale"),
                &n("s2_w13"),
                half * INTER..(half + 1) * INTER,
                HIDDEN,
                s2_x,
            )
        };
        let (gate, up) = if gate_first { (w13(0), w13(1)) } else { (w13(1), w13(0)) };
        let down = matrix(&n("w2_packed"), &n("w2_scale"), &n("s2_w2"), 0..HIDDEN, INTER, s2_h);
        ExpertWeights { gate, up, down }
    };
    LayerWeights {
        layer: 0,
        config: LayerConfig {
            hidden: HIDDEN,
            intermediate: INTER,
            experts: 4,
            top_k: 2,
            shared_intermediate: 0,
            scoring: Scoring::SqrtSoftplus,
            norm_topk_prob: true,
            routed_scaling_factor: g.get("moe/e2e.scaling").scalar_f32(),
            swiglu_limit: Some(g.get("moe/e2e.limit").scalar_f32()),
            vocab_size: 0,
        },
        experts: (0..4).map(expert).collect(),
        shared: None,
        router: None,
    }
}

fn rows() -> Vec<bf16> {
    let x = Golden::load().get("moe/e2e.x").f32();
    x.iter().map(|&v| bf16::from_f32(v)).collect()
}

/// Ids and weights from the stored logits and bias.
fn route() -> (Vec<i32>, Vec<f32>) {
    let g = Golden::load();
    let (logits, bias) = (g.get("moe/e2e.logits").f32(), g.get("moe/e2e.bias").f32());
    let (mut all_ids, mut all_weights) = (Vec::new(), Vec::new());
    for row in logits.chunks(4) {
        let mut scores = row.to_vec();
        routing::scores(&mut scores, Scoring::SqrtSoftplus);
        let keys: Vec<f32> = scores.iter().zip(&bias).map(|(s, b)| s + b).collect();
        let mut ids = [0; 2];
        routing::top_k(&keys, &mut ids);
        let mut weights = ids.map(|id| scores[id as usize]);
        routing::weights(&mut weights, true, g.get("moe/e2e.scaling").scalar_f32());
        all_ids.extend(ids.map(|id| id as i32));
        all_weights.extend(weights);
    }
    (all_ids, all_weights)
}

#[test]
fn the_golden_layer_stage_by_stage() {
    let g = Golden::load();
    let layer = golden_layer(true);
    let x = rows();
    assert!(x.iter().zip(g.get("moe/e2e.x").f32()).all(|(b, f)| b.to_f32() == f), "the rows are bf16");
    let limit = layer.config.limit();
    for (e, expert) in layer.experts.iter().enumerate() {
        let n = |part: &str| format!("moe/e2e.expert{e}.{part}");
        let members = g.get(&n("rows")).i32();
        let picked: Vec<bf16> =
            members.iter().flat_map(|&r| &x[r as usize * HIDDEN..][..HIDDEN]).copied().collect();
        let w4a4 = LinearMode::W4A4(RowScale::Static);
        let l1 =
            |m: &Nvfp4Matrix| Nvfp4Linear::new(m).unwrap().forward(&picked, members.len(), w4a4).unwrap();
        let (gate, up) = (l1(&expert.gate), l1(&expert.up));
        let h: Vec<f32> = gate.iter().zip(&up).map(|(&g, &u)| nvfp4::swiglu::swiglu(g, u, limit)).collect();
        let want: Vec<f32> = g.get(&n("act_f64")).f64().iter().map(|&v| v as f32).collect();
        assert!(Metrics::of(&h, &want).rel_l2 < 1e-6);
        let (mut packed, mut scales) = (vec![0; h.len() / 2], vec![0; h.len() / 16]);
        nvfp4::quantize::quantize_row(&h, expert.down.input_scale.unwrap(), &mut packed, &mut scales);
        assert_eq!(packed, g.get(&n("h_packed")).u8(), "expert {e}: codes of h");
        assert_eq!(scales, g.get(&n("h_scale")).u8(), "expert {e}: scales of h");
    }
}

#[test]
fn the_golden_layer_as_a_whole() {
    let g = Golden::load();
    let (layer, x) = (golden_layer(true), rows());
    let (ids, weights) = route();
    assert_eq!(ids, g.get("moe/e2e.topk_ids").i32());
    for (got, want) in weights.iter().zip(g.get("moe/e2e.topk_w_f64").f64()) {
        assert!((f64::from(*got) - want).abs() <= 1e-6 * want);
    }
    let want: Vec<f32> = g.get("moe/e2e.y_f64").f64().iter().map(|&v| v as f32).collect();
    let run = |layer: &LayerWeights, opts: &ForwardOptions| {
        cpu::forward(layer, &given(&x, 8, &ids, &weights), opts).unwrap()
    };
    let out = run(&layer, &nvfp4(ActScale::Static, ActScaleL2::Static));
    let m = Metrics::of(&out.output_f32, &want);
    assert!(m.rel_l2 < 1e-6, "{m:?}");
    let bits: Vec<u16> = out.output.iter().map(|v| v.to_bits()).collect();
    let different = bits.iter().zip(g.get("moe/e2e.y_bf16_bits").u16()).filter(|(g, w)| **g != *w).count();
    assert!(different <= 2, "{different} of {} bf16 outputs differ", bits.len());
    // The test can see the mistakes it is for.
    let swapped = Metrics::of(
        &run(&golden_layer(false), &nvfp4(ActScale::Static, ActScaleL2::Static)).output_f32,
        &want,
    );
    let bf16_mode = Metrics::of(&run(&layer, &ForwardOptions::default()).output_f32, &want);
    assert!(swapped.rel_l2 > 0.1 && bf16_mode.rel_l2 > 0.01, "{swapped:?} {bf16_mode:?}");
}
