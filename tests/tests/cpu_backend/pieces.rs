//! The parts that are usable alone.

use half::bf16;
use megamoe::cpu::*;
use megamoe::metrics::{BAR, Metrics};
use megamoe::options::*;
use megamoe::weights::*;

use crate::reference::{self, Scale};
use crate::support::*;

#[test]
fn the_shared_expert_alone_is_the_shared_part() {
    for shared in [Shared::Nvfp4, Shared::Bf16, Shared::Fp8] {
        let layer = layer(61, Shape { shared, ..Shape::default() });
        let x = rows(62, 6, 128);
        let alone = SharedExpert::new(layer.shared.as_ref().unwrap(), layer.config.swiglu_limit).unwrap();
        for opts in every_mode() {
            let warmup = Some(WarmupScales { l1: 2e-3, l2_routed: 0.0, l2_shared: 0.04 });
            let opts = ForwardOptions { warmup, part: Part::Shared, ..opts };
            let part = forward(&layer, &routed(&x, 6), &opts).unwrap();
            assert_same(
                &alone.forward(&x, 6, &opts).unwrap(),
                &part.output_f32,
                &format!("{shared:?} {opts:?}"),
            );
        }
    }
}

#[test]
fn a_mixture_of_formats_runs_on_bf16_rows() {
    let mut rng = Rng(63);
    let mut weights = layer(64, Shape { shared: Shared::Bf16, ..Shape::default() }).shared.unwrap();
    weights.up = Linear::Nvfp4(matrix(&mut rng, 96, 128, 0.2));
    let x = rows(65, 3, 128);
    let shared = SharedExpert::new(&weights, Some(10.0)).unwrap();
    let bf16_mode = shared.forward(&x, 3, &ForwardOptions::default()).unwrap();
    let nvfp4_mode = shared.forward(&x, 3, &nvfp4(ActScale::Static, ActScaleL2::Static)).unwrap();
    assert_same(&nvfp4_mode, &bf16_mode, "modes");
}

#[test]
fn shared_weights_of_odd_sizes() {
    // bf16 weights need no blocks of 16.
    let mut rng = Rng(66);
    let mut m = |rows, cols| {
        let data = (0..rows * cols).map(|_| bf16::from_f32(rng.normal() * 0.3)).collect();
        Linear::Bf16(Bf16Matrix { rows, cols, data })
    };
    let weights = SharedExpertWeights { gate: m(19, 37), up: m(19, 37), down: m(37, 19) };
    let x = rows(67, 5, 37);
    let got = SharedExpert::new(&weights, None).unwrap().forward(&x, 5, &ForwardOptions::default()).unwrap();
    let [gate, up, down] = [&weights.gate, &weights.up, &weights.down].map(reference::dense);
    let mut want = Vec::new();
    for row in x.chunks(37) {
        let row: Vec<f64> = row.iter().map(|v| v.to_f64()).collect();
        let h: Vec<f64> = (reference::matvec(&gate, &row).iter().zip(reference::matvec(&up, &row)))
            .map(|(g, u)| bf16::from_f64(g / (1.0 + (-g).exp()) * u).to_f64())
            .collect();
        want.extend(reference::matvec(&down, &h).iter().map(|&v| v as f32));
    }
    let m = Metrics::of(&got, &want);
    assert!(m.passes(&BAR), "{m:?}");
}

fn linear_modes(weight: &Nvfp4Matrix, x: &[bf16]) -> [(LinearMode, Scale); 5] {
    let amax = x.iter().fold(0.0f32, |m, v| m.max(v.to_f32().abs()));
    [
        (LinearMode::W4A16, Scale::Bf16),
        (LinearMode::W4A4(RowScale::RowDynamic), Scale::Row),
        (LinearMode::W4A4(RowScale::TensorDynamic), Scale::Constant(amax / 2688.0)),
        (LinearMode::W4A4(RowScale::Static), Scale::Constant(weight.input_scale.unwrap())),
        (LinearMode::W4A4(RowScale::Constant(1e-3)), Scale::Constant(1e-3)),
    ]
}

fn linear_reference(weight: &Nvfp4Matrix, x: &[bf16], scale: Scale) -> Vec<f32> {
    let w = reference::dense(&Linear::Nvfp4(weight.clone()));
    let row = |row: &[bf16]| {
        let row: Vec<f32> = row.iter().map(|v| v.to_f32()).collect();
        reference::matvec(&w, &reference::activation(&row, scale))
    };
    x.chunks(weight.cols).flat_map(row).map(|v| v as f32).collect()
}

#[test]
fn linear_maps() {
    let mut rng = Rng(68);
    for (rows_, cols) in [(1, 16), (5, 80), (37, 528), (128, 2880)] {
        let weight = matrix(&mut rng, rows_, cols, 0.1);
        let x = rows(69, 4, cols);
        let linear = Nvfp4Linear::new(&weight).unwrap();
        for (mode, scale) in linear_modes(&weight, &x) {
            let got = linear.forward(&x, 4, mode).unwrap();
            let m = Metrics::of(&got, &linear_reference(&weight, &x, scale));
            assert!(m.passes(&BAR), "{rows_}x{cols} {mode:?}: {m:?}");
        }
        assert!(linear.forward(&[], 0, LinearMode::W4A16).unwrap().is_empty());
        let mut bad = x.clone();
        bad[cols] = bf16::INFINITY;
        for mode in [LinearMode::W4A16, LinearMode::W4A4(RowScale::RowDynamic)] {
            let (clean, got) = (linear.forward(&x, 4, mode).unwrap(), linear.forward(&bad, 4, mode).unwrap());
            assert!(got[rows_..2 * rows_].iter().all(|v| v.is_nan()));
            assert_same(&got[..rows_], &clean[..rows_], "row 0");
            assert_same(&got[2 * rows_..], &clean[2 * rows_..], "rows 2 and 3");
        }
    }
}

#[test]
fn grouped_linear_maps() {
    let mut rng = Rng(70);
    let (groups, out, cols, tokens) = (3, 21, 96, 5);
    let weights: Vec<Nvfp4Matrix> = (0..groups)
        .map(|g| Nvfp4Matrix {
            input_scale: Some(1e-3 + g as f32 * 1e-3),
            ..matrix(&mut rng, out, cols, 0.1)
        })
        .collect();
    let mut x = rows(71, tokens * groups, cols);
    let linear = Nvfp4GroupedLinear::new(&weights).unwrap();
    for mode in linear_modes(&weights[0], &x).map(|(mode, _)| mode) {
        let got = linear.forward(&x, tokens, mode).unwrap();
        for (g, weight) in weights.iter().enumerate() {
            // `TensorDynamic` is over all groups: the whole input decides the constant.
            let scale = linear_modes(weight, &x).into_iter().find(|m| m.0 == mode).unwrap().1;
            let own: Vec<bf16> = x.chunks(cols).skip(g).step_by(groups).flatten().copied().collect();
            let got: Vec<f32> = got.chunks(out).skip(g).step_by(groups).flatten().copied().collect();
            let m = Metrics::of(&got, &linear_reference(weight, &own, scale));
            assert!(m.passes(&BAR), "group {g} {mode:?}: {m:?}");
        }
    }
    // Token 1, group 2.
    x[(groups + 2) * cols] = bf16::NAN;
    let got = linear.forward(&x, tokens, LinearMode::W4A16).unwrap();
    for (row, y) in got.chunks(out).enumerate() {
        assert_eq!(y.iter().all(|v| v.is_nan()), row == groups + 2);
        assert_eq!(y.iter().any(|v| v.is_nan()), row == groups + 2);
    }
    assert!(linear.forward(&[], 0, LinearMode::W4A16).unwrap().is_empty());
    assert!(Nvfp4GroupedLinear::new(&[]).is_err());
}
