//! What the tests of the past could not see, and why: the same bugs, on data or with measures that hide them. Each of
//! these mutants is killed in [`super::layer`]; here it survives.

use megamoe::io::{LayerInput, RoutingSource};
use megamoe::metrics::{BAR, Metrics};
use megamoe::options::ForwardOptions;
use megamoe::oracle;
use megamoe::weights::{LayerWeights, Linear, Nvfp4Matrix};
use megamoe_tests::checkpoint_writer::{CheckpointSpec, Fusion};

use super::layer::{TOKENS, rows, spec};
use super::mini::{Bug, Mini};

fn compare(layer: &LayerWeights, bug: Bug) -> (Metrics, f64) {
    let rows = rows(layer.config.hidden);
    let routing = RoutingSource::Model { input_ids: None };
    let input = LayerInput { hidden_states: &rows, tokens: TOKENS, routing };
    let opts = ForwardOptions::default();
    let want = oracle::forward(layer, &input, &opts).expect("valid").output_f32;
    let got = Mini { layer, opts: &opts, bug }.forward(&input);
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let cosine = dot(&got, &want) / (dot(&got, &got) * dot(&want, &want)).sqrt();
    (Metrics::of(&got, &want), cosine)
}

fn matrices(layer: &mut LayerWeights) -> Vec<&mut Nvfp4Matrix> {
    let mut all: Vec<&mut Nvfp4Matrix> =
        layer.experts.iter_mut().flat_map(|e| [&mut e.gate, &mut e.up, &mut e.down]).collect();
    if let Some(s) = &mut layer.shared {
        for m in [&mut s.gate, &mut s.up, &mut s.down] {
            if let Linear::Nvfp4(m) = m {
                all.push(m);
            }
        }
    }
    all
}

/// "All-ones data: cosine 1.0": with one scale everywhere no coordinate can be wrong.
#[test]
fn uniform_scales_hide_layout_bugs() {
    let mut layer = spec().layer(1);
    let bugs = [Bug::ScaleCoordinatesSwapped, Bug::ScaleOfNextBlock, Bug::ScaleColumnsSwizzled];
    for bug in bugs {
        assert!(!compare(&layer, bug).0.passes(&BAR), "{bug:?} on real data");
    }
    matrices(&mut layer).into_iter().for_each(|m| m.scales.fill(0x38));
    for bug in bugs {
        assert!(compare(&layer, bug).0.passes(&BAR), "{bug:?} on uniform scales");
    }
}

/// silu(10) is 9.9995: at L = 10 clamp before and clamp after SiLU are the same to four digits.
#[test]
fn a_limit_of_ten_hides_the_order_of_clamp_and_silu() {
    let spec = CheckpointSpec { gain: 6.0, ..spec() };
    let at = |limit| {
        let layer = CheckpointSpec { swiglu_limit: Some(limit), ..spec.clone() }.layer(1);
        compare(&layer, Bug::ClampAfterSilu).0
    };
    assert!(at(10.0).passes(&BAR), "{:?}", at(10.0));
    assert!(!at(1.0).passes(&BAR) && at(1.0).rel_l2 > 0.01, "{:?}", at(1.0));
}

/// A checkpoint whose gate and up share their global scale cannot tell one alpha from two.
#[test]
fn equal_global_scales_hide_the_single_alpha() {
    let equal = CheckpointSpec { fusion: Fusion::GateUpOneScale, ..spec() }.layer(1);
    for bug in [Bug::GateAlphaForBoth, Bug::MaxAlphaForBoth] {
        assert!(compare(&equal, bug).0.passes(&BAR), "{bug:?} with equal scales");
        assert!(!compare(&spec().layer(1), bug).0.passes(&BAR), "{bug:?} with scales ten times apart");
    }
}

/// Cosine is 1 whatever the amplitude; the acceptance of 0.98 or 0.95 lets more than amplitude pass.
#[test]
fn cosine_hides_amplitude() {
    let layer = spec().layer(1);
    let opts = ForwardOptions { part: megamoe::options::Part::Routed, ..Default::default() };
    let rows = rows(layer.config.hidden);
    let routing = RoutingSource::Model { input_ids: None };
    let input = LayerInput { hidden_states: &rows, tokens: TOKENS, routing };
    let want = oracle::forward(&layer, &input, &opts).expect("valid").output_f32;
    for bug in [Bug::ScalingForgotten, Bug::ScalingTwice] {
        let got = Mini { layer: &layer, opts: &opts, bug }.forward(&input);
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
        let cosine = dot(&got, &want) / (dot(&got, &got) * dot(&want, &want)).sqrt();
        assert!(cosine > 0.999_999, "{bug:?}: {cosine}");
        let m = Metrics::of(&got, &want);
        assert!(!m.passes(&BAR) && (m.norm_ratio - 1.0).abs() > 0.5, "{bug:?}: {m:?}");
    }
    // Folding the global scale: an error of percents with a cosine that used to be accepted.
    let (m, cosine) = compare(&spec().layer(1), Bug::FoldedGlobalScale);
    assert!(cosine > 0.98 && m.rel_l2 > 10.0 * BAR.rel_l2, "{cosine} {m:?}");
}
