//! Misuse is an error that names what is wrong, never a panic.

use megamoe::Error;
use megamoe::cpu::{self, LinearMode, Nvfp4Linear, Router, RowScale, SharedExpert};
use megamoe::options::*;
use megamoe::weights::*;

use crate::support::*;

/// The error's text.
#[track_caller]
fn fails(layer: &LayerWeights, tokens: usize, opts: &ForwardOptions) -> String {
    let x = rows(81, 2, 128);
    cpu::forward(layer, &routed(&x, tokens), opts).expect_err("must be refused").to_string()
}

#[test]
fn missing_scales_name_the_expert() {
    let good = layer(82, Shape::default());
    let statics = nvfp4(ActScale::Static, ActScaleL2::Static);
    for (pick, name) in [(0, "expert 3 gate"), (1, "expert 3 up"), (2, "expert 3 down")] {
        let mut bad = good.clone();
        let e = &mut bad.experts[3];
        [&mut e.gate, &mut e.up, &mut e.down][pick].input_scale = None;
        let text = fails(&bad, 2, &statics);
        assert!(text.contains(name) && text.contains("input_scale"), "{text}");
        // Only this rank's experts need one.
        let x = rows(81, 2, 128);
        let other = ForwardOptions { local_experts: Some(4..8), ..statics.clone() };
        cpu::forward(&bad, &routed(&x, 2), &other).unwrap();
    }
    let mut bad = good.clone();
    if let Some(SharedExpertWeights { down: Linear::Nvfp4(m), .. }) = &mut bad.shared {
        m.input_scale = Some(f32::NAN);
    }
    assert!(fails(&bad, 2, &statics).contains("shared expert down"));
}

#[test]
fn warm_up_scales_must_be_there_and_numbers() {
    let layer = layer(83, Shape::default());
    for opts in [nvfp4(ActScale::Warmup, ActScaleL2::Bound), nvfp4(ActScale::RowDynamic, ActScaleL2::Warmup)]
    {
        assert!(fails(&layer, 2, &opts).contains("warmup"));
        for bad in [f32::NAN, f32::INFINITY, -1.0] {
            let warmup = Some(WarmupScales { l1: bad, l2_routed: bad, l2_shared: bad });
            assert!(fails(&layer, 2, &ForwardOptions { warmup, ..opts.clone() }).contains("warmup"));
        }
    }
}

#[test]
fn parts_and_ranges() {
    let layer = layer(84, Shape { shared: Shared::No, ..Shape::default() });
    let opts = ForwardOptions { part: Part::Shared, ..ForwardOptions::default() };
    assert!(fails(&layer, 2, &opts).contains("shared expert"));
    for range in [0..9, 9..9, 7..usize::MAX] {
        let opts = ForwardOptions { local_experts: Some(range), ..ForwardOptions::default() };
        assert!(fails(&layer, 2, &opts).contains("local_experts"));
    }
    assert!(fails(&layer, 3, &ForwardOptions::default()).contains("hidden_states"));
    assert!(fails(&layer, usize::MAX, &ForwardOptions::default()).contains("hidden_states"));
}

#[test]
fn broken_layers() {
    type Break = fn(&mut LayerWeights);
    let cases: [(&str, Break); 14] = [
        ("experts", |l| l.config.experts = 9),
        ("experts", |l| drop(l.experts.pop())),
        ("expert 2 up", |l| l.experts[2].up.rows = 80),
        ("expert 2 down", |l| l.experts[2].down.packed = [0; 3].into()),
        ("expert 7 gate", |l| l.experts[7].gate.scales = [].into()),
        ("router", |l| l.router = None),
        ("router weight", |l| l.router.as_mut().unwrap().weight = [0.0; 5].into()),
        ("top_k", |l| l.config.top_k = 9),
        ("swiglu_limit", |l| l.config.swiglu_limit = Some(-1.0)),
        ("swiglu_limit", |l| l.config.swiglu_limit = Some(f32::NAN)),
        ("hidden", |l| (l.config.hidden, l.experts[0].gate.cols) = (0, 0)),
        ("shared expert", |l| l.config.shared_intermediate = 5),
        ("router bias", |l| {
            l.router.as_mut().unwrap().selection = Selection::TopK { bias: Some([0.0; 3].into()) };
        }),
        ("tid2eid", |l| l.router.as_mut().unwrap().selection = Selection::Hash { tid2eid: [0; 7].into() }),
    ];
    let good = layer(85, Shape::default());
    let x = rows(81, 2, 128);
    let ids = [0i64; 2];
    for (i, (what, break_it)) in cases.into_iter().enumerate() {
        let mut bad = good.clone();
        break_it(&mut bad);
        let routing = megamoe::io::RoutingSource::Model { input_ids: Some(&ids) };
        let input = megamoe::io::LayerInput { hidden_states: &x, tokens: 2, routing };
        let error = cpu::forward(&bad, &input, &ForwardOptions::default()).expect_err(what).to_string();
        assert!(error.contains(what), "case {i}: {error}");
        assert!(cpu::measure_warmup(&bad, &input, &ForwardOptions::default()).is_err(), "case {i}");
    }
}

#[test]
fn pieces_check_their_input() {
    let layer = layer(86, Shape::default());
    let x = rows(87, 2, 128);
    let router = Router::new(layer.router.as_ref().unwrap(), &layer.config).unwrap();
    assert!(matches!(router.logits(&x, 3), Err(Error::Mismatch { .. })));
    let shared = SharedExpert::new(layer.shared.as_ref().unwrap(), None).unwrap();
    assert!(matches!(shared.forward(&x, 1, &ForwardOptions::default()), Err(Error::Mismatch { .. })));
    let mut m = layer.experts[0].gate.clone();
    m.input_scale = None;
    let linear = Nvfp4Linear::new(&m).unwrap();
    assert!(linear.forward(&x, 2, LinearMode::W4A4(RowScale::Static)).is_err());
    assert!(linear.forward(&x, 2, LinearMode::W4A4(RowScale::Constant(f32::NAN))).is_err());
    assert!(linear.forward(&x, 4, LinearMode::W4A16).is_err());
    m.cols = 100;
    assert!(Nvfp4Linear::new(&m).is_err());
    let mut s = layer.shared.clone().unwrap();
    s.down = s.gate.clone();
    assert!(SharedExpert::new(&s, None).is_err());
}
