//! Every activation mode, format, clamp and shape against the f64 loops.

use megamoe::cpu;
use megamoe::metrics::{BAR, Metrics};
use megamoe::options::*;
use megamoe::weights::*;

use crate::reference;
use crate::support::*;

/// Runs all three parts under the options and compares each with the reference.
#[track_caller]
fn check(layer: &LayerWeights, tokens: usize, seed: u64, opts: &ForwardOptions, what: &str) {
    let x = rows(seed, tokens, layer.config.hidden);
    let input = routed(&x, tokens);
    let warmup = cpu::measure_warmup(layer, &input, opts).unwrap();
    let opts = ForwardOptions { warmup: Some(warmup), ..opts.clone() };
    let out = cpu::forward(layer, &input, &opts).unwrap();
    let (ids, weights) = (&out.routing.topk_ids, &out.routing.topk_weights);
    let (want_routed, want_shared) = reference::forward(layer, &x, ids, weights, &opts, warmup);
    let want: Vec<f32> = want_routed.iter().zip(&want_shared).map(|(r, s)| r + s).collect();
    let mut parts = vec![(Part::All, want), (Part::Routed, want_routed)];
    if layer.shared.is_some() {
        parts.push((Part::Shared, want_shared));
    }
    for (part, want) in parts {
        let out = cpu::forward(layer, &input, &ForwardOptions { part, ..opts.clone() }).unwrap();
        let m = Metrics::of(&out.output_f32, &want);
        assert!(m.passes(&BAR), "{what}, {part:?}: {m:?}");
        assert_eq!(out.stats.non_finite_rows, 0);
        let rounded: Vec<u16> = out.output_f32.iter().map(|&v| nvfp4::bf16::from_f32(v)).collect();
        assert_eq!(out.output.iter().map(|v| v.to_bits()).collect::<Vec<_>>(), rounded, "{what}, {part:?}");
    }
}

#[test]
fn every_pair_of_scale_policies() {
    let layer = layer(1, Shape::default());
    for opts in every_mode() {
        check(&layer, 7, 2, &opts, &format!("{opts:?}"));
    }
}

#[test]
fn every_clamp() {
    for limit in [Some(0.1), Some(1.0), Some(10.0), None] {
        let layer = layer(3, Shape { limit, ..Shape::default() });
        for opts in [
            ForwardOptions::default(),
            nvfp4(ActScale::RowDynamic, ActScaleL2::Bound),
            nvfp4(ActScale::RowDynamic, ActScaleL2::RowDynamic),
        ] {
            check(&layer, 5, 4, &opts, &format!("limit {limit:?}, {:?}", opts.activations));
        }
    }
}

#[test]
fn every_shared_format() {
    for shared in [Shared::No, Shared::Nvfp4, Shared::Bf16, Shared::Fp8] {
        let layer = layer(5, Shape { shared, hidden: 272, intermediate: 144, ..Shape::default() });
        for opts in [ForwardOptions::default(), nvfp4(ActScale::Static, ActScaleL2::TensorDynamic)] {
            check(&layer, 5, 6, &opts, &format!("shared {shared:?}, {:?}", opts.activations));
        }
    }
}

#[test]
fn sizes_that_are_not_multiples_of_a_tile() {
    for (hidden, intermediate) in [(16, 16), (80, 48), (48, 80), (2880, 176), (528, 2880)] {
        let shape = Shape { hidden, intermediate, experts: 4, top_k: 2, ..Shape::default() };
        let layer = layer(7, shape);
        for opts in [ForwardOptions::default(), nvfp4(ActScale::RowDynamic, ActScaleL2::RowDynamic)] {
            check(&layer, 3, 8, &opts, &format!("{hidden}x{intermediate}"));
        }
    }
}

#[test]
fn more_rows_than_a_chunk_of_the_gemm() {
    let layer = layer(9, Shape { hidden: 32, intermediate: 32, experts: 2, top_k: 2, ..Shape::default() });
    check(&layer, 150, 10, &ForwardOptions::default(), "150 tokens");
}

#[test]
fn gate_and_up_keep_their_own_alphas() {
    let mut layer = layer(11, Shape::default());
    for (e, expert) in layer.experts.iter_mut().enumerate() {
        let (gate, up) = if e % 2 == 0 { (10.0, 0.5) } else { (0.5, 10.0) };
        expert.gate.global_scale *= gate;
        expert.up.global_scale *= up;
    }
    for opts in [ForwardOptions::default(), nvfp4(ActScale::RowDynamic, ActScaleL2::Bound)] {
        check(&layer, 6, 12, &opts, "scales 20x apart");
    }
}

#[test]
fn warmup_on_the_same_batch_is_tensor_dynamic() {
    let layer = layer(13, Shape::default());
    let x = rows(14, 9, layer.config.hidden);
    let input = routed(&x, 9);
    for l1 in [ActScale::RowDynamic, ActScale::Warmup, ActScale::Static] {
        let opts = nvfp4(l1, ActScaleL2::Warmup);
        let warmup = cpu::measure_warmup(&layer, &input, &opts).unwrap();
        let warm = ForwardOptions { warmup: Some(warmup), ..opts };
        let tensor_l1 = if l1 == ActScale::Warmup { ActScale::TensorDynamic } else { l1 };
        let tensor = nvfp4(tensor_l1, ActScaleL2::TensorDynamic);
        for part in [Part::All, Part::Routed, Part::Shared] {
            let run = |opts: &ForwardOptions| {
                cpu::forward(&layer, &input, &ForwardOptions { part, ..opts.clone() }).unwrap()
            };
            assert_same_output(&run(&warm), &run(&tensor), &format!("{l1:?}, {part:?}"));
        }
    }
}

#[test]
fn routed_and_shared_have_their_own_tensor_scale() {
    let mut layer = layer(15, Shape { limit: None, ..Shape::default() });
    let x = rows(16, 4, layer.config.hidden);
    let opts = nvfp4(ActScale::RowDynamic, ActScaleL2::TensorDynamic);
    let run = |layer: &LayerWeights, part| {
        let opts = ForwardOptions { part, ..opts.clone() };
        cpu::forward(layer, &routed(&x, 4), &opts).unwrap().output_f32
    };
    let before = run(&layer, Part::Routed);
    let Some(SharedExpertWeights { up: Linear::Nvfp4(up), .. }) = &mut layer.shared else { unreachable!() };
    up.global_scale *= 50.0;
    assert_same(&run(&layer, Part::Routed), &before, "routed part");
}

#[test]
fn saturated_blocks_are_counted_under_constant_scales_only() {
    let mut layer = layer(17, Shape::default());
    let x = rows(18, 6, layer.config.hidden);
    let input = routed(&x, 6);
    let stats =
        |layer: &LayerWeights, opts: &ForwardOptions| cpu::forward(layer, &input, opts).unwrap().stats;
    for opts in every_mode() {
        let opts =
            ForwardOptions { warmup: Some(WarmupScales { l1: 1.0, l2_routed: 1.0, l2_shared: 1.0 }), ..opts };
        let s = stats(&layer, &opts);
        assert_eq!((s.saturated_blocks_l1, s.saturated_blocks_l2), (0, 0), "{opts:?}");
    }
    // The rows of size 0.1 stay below, the others saturate every block: (4 tokens) x (3 slots + shared) x 8 blocks.
    for e in &mut layer.experts {
        e.gate.input_scale = Some(1e-4);
        e.up.input_scale = Some(5e-5);
    }
    let s =
        stats(&layer, &ForwardOptions { part: Part::Routed, ..nvfp4(ActScale::Static, ActScaleL2::Bound) });
    assert_eq!((s.saturated_blocks_l1, s.saturated_blocks_l2), (4 * 3 * 8, 0));
    // Under one constant a token's row is quantised once for all of its experts.
    let warm = ForwardOptions {
        warmup: Some(WarmupScales { l1: 1e-4, l2_routed: 1e-9, l2_shared: 1e-9 }),
        ..nvfp4(ActScale::Warmup, ActScaleL2::Warmup)
    };
    let s = stats(&layer, &warm);
    assert_eq!((s.saturated_blocks_l1, s.saturated_blocks_l2), (4 * 8, 6 * 4 * 6));
    // Wide of the mark, but not lost: the dynamic scale of the same rows saturates nothing.
    let s = stats(&layer, &nvfp4(ActScale::RowDynamic, ActScaleL2::RowDynamic));
    assert_eq!((s.saturated_blocks_l1, s.saturated_blocks_l2), (0, 0));
}
