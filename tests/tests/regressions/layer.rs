//! The whole layer: CPU backend, oracle and the bug-free mini layer agree; every bug in the mini layer is rejected by
//! the very comparison that backends have to pass.
//!
//! The data are made so that bugs show: a clamp of 1, up ten times as loud as gate, block scales up to 448, quiet
//! blocks and tokens, K of 13 blocks (not a multiple of 4), skewed routing.

use half::bf16;
use megamoe::io::{LayerInput, RoutingSource};
use megamoe::metrics::{BAR, Metrics};
use megamoe::options::{ActScale, ActScaleL2, Activations, ForwardOptions, Part};
use megamoe::weights::LayerWeights;
use megamoe::{cpu, oracle};
use megamoe_tests::checkpoint_writer::{CheckpointSpec, Rng};
use nvfp4::e4m3;

use super::harness::{Check, prove, require};
use super::mini::{Bug, Mini};

pub const TOKENS: usize = 11;

pub fn spec() -> CheckpointSpec {
    CheckpointSpec {
        hidden: 208,
        intermediate: 112,
        gate_up_ratio: 10.0,
        swiglu_limit: Some(1.0),
        gain: 2.0,
        routed_scaling_factor: 2.5,
        ..Default::default()
    }
}

/// Rows whose tokens differ in loudness and whose elements are not symmetric.
pub fn rows(hidden: usize) -> Vec<bf16> {
    let mut rng = Rng::new(5, "rows");
    (0..TOKENS * hidden)
        .map(|i| {
            let loudness = [1.0, 0.02, 8.0, 0.4][i / hidden % 4];
            bf16::from_f32((rng.normal() + 0.3) * loudness)
        })
        .collect()
}

/// A call, and the answer of the oracle.
pub struct Scenario {
    pub name: &'static str,
    layer: LayerWeights,
    rows: Vec<bf16>,
    routing: Option<(Vec<i32>, Vec<f32>)>,
    opts: ForwardOptions,
    want: Vec<f32>,
}

impl Scenario {
    fn new(
        name: &'static str,
        layer: LayerWeights,
        routing: Option<(Vec<i32>, Vec<f32>)>,
        opts: ForwardOptions,
    ) -> Self {
        let rows = rows(layer.config.hidden);
        let mut scenario = Self { name, layer, rows, routing, opts, want: Vec::new() };
        scenario.want = scenario.run(|l, i, o| oracle::forward(l, i, o).expect("valid").output_f32);
        scenario
    }

    fn run<R>(&self, f: impl FnOnce(&LayerWeights, &LayerInput<'_>, &ForwardOptions) -> R) -> R {
        let ids: Vec<i64> = (0..TOKENS as i64).collect();
        let routing = match &self.routing {
            Some((ids, weights)) => RoutingSource::Given { topk_ids: ids, topk_weights: weights },
            None => RoutingSource::Model { input_ids: Some(&ids) },
        };
        f(&self.layer, &LayerInput { hidden_states: &self.rows, tokens: TOKENS, routing }, &self.opts)
    }

    fn mini(&self, bug: Bug) -> Vec<f32> {
        self.run(|layer, input, opts| Mini { layer, opts, bug }.forward(input))
    }

    fn cpu(&self) -> Vec<f32> {
        self.run(|l, i, o| cpu::forward(l, i, o).expect("valid").output_f32)
    }

    /// The comparison of `verify` and of every backend test.
    fn accepts(&self, got: &[f32]) -> Check {
        let m = Metrics::of(got, &self.want);
        require(m.passes(&BAR), format!("{}: {m:?}", self.name))
    }
}

/// Everything that the bugs need to show themselves.
pub fn scenarios() -> Vec<Scenario> {
    let spec = spec();
    let nvfp4 = |act_scale, act_scale_l2| ForwardOptions {
        activations: Activations::Nvfp4,
        act_scale,
        act_scale_l2,
        ..Default::default()
    };
    // Skewed: expert 5 takes half of the slots; twice in one token; ids of no expert.
    let mut rng = Rng::new(9, "routing");
    let mut ids: Vec<i32> =
        (0..TOKENS * 3).map(|i| if i % 2 == 0 { 5 } else { rng.below(8) as i32 }).collect();
    (ids[0], ids[7], ids[9], ids[10]) = (-1, 8, 4, 4);
    let weights = (0..ids.len()).map(|_| 0.2 + rng.uniform()).collect();
    let given = Some((ids, weights));
    let rank =
        |local| ForwardOptions { local_experts: Some(local), part: Part::Routed, ..Default::default() };
    vec![
        Scenario::new("bf16", spec.layer(1), None, ForwardOptions::default()),
        Scenario::new("hash", spec.layer(0), None, ForwardOptions::default()),
        Scenario::new("nvfp4", spec.layer(1), None, nvfp4(ActScale::RowDynamic, ActScaleL2::Bound)),
        Scenario::new("nvfp4 static", spec.layer(1), None, nvfp4(ActScale::Static, ActScaleL2::Static)),
        Scenario::new(
            "rank static",
            spec.layer(1),
            given.clone(),
            ForwardOptions {
                act_scale: ActScale::Static,
                act_scale_l2: ActScaleL2::Static,
                activations: Activations::Nvfp4,
                ..rank(2..7)
            },
        ),
        Scenario::new("given", spec.layer(1), given.clone(), ForwardOptions::default()),
        Scenario::new("rank", spec.layer(1), given.clone(), rank(3..8)),
        Scenario::new("rank with nothing", spec.layer(1), given, rank(7..7)),
    ]
}

#[test]
fn the_data_can_show_the_bugs() {
    for e in spec().layer(1).experts {
        for m in [&e.gate, &e.up, &e.down] {
            assert_eq!(m.scales.iter().max(), Some(&e4m3::MAX_CODE));
            // The largest product is 6 * 448: beyond any FP8 table.
            let full = |(b, &s): (usize, &u8)| {
                s == e4m3::MAX_CODE && m.packed[b * 8..][..8].iter().any(|p| p & 7 == 7 || p >> 4 & 7 == 7)
            };
            assert!(m.scales.iter().enumerate().any(full));
        }
        assert!(e.up.global_scale / e.gate.global_scale > 5.0);
    }
}

fn bugs(list: &[Bug]) {
    let scenarios = scenarios();
    type Layer<'a> = dyn Fn(&Scenario) -> Vec<f32> + 'a;
    let check = |layer: &Layer<'_>| scenarios.iter().try_for_each(|s| s.accepts(&layer(s)));
    let cpu: &Layer<'_> = &|s| s.cpu();
    check(&|s| s.mini(Bug::None)).expect("the mini layer without a bug is right");
    let mutants: Vec<(String, Box<Layer<'_>>)> = list
        .iter()
        .map(|&bug| {
            let layer: Box<Layer<'_>> = Box::new(move |s: &Scenario| s.mini(bug));
            (format!("{bug:?}"), layer)
        })
        .collect();
    let mutants: Vec<(&str, &Layer<'_>)> = mutants.iter().map(|(n, f)| (n.as_str(), f.as_ref())).collect();
    prove("the layer", cpu, &mutants, check);
}

#[test]
fn packed_weights_and_block_scales() {
    bugs(&[
        Bug::NibblesSwapped,
        Bug::ScaleOfNextBlock,
        Bug::ScaleCoordinatesSwapped,
        Bug::ScaleColumnsSwizzled,
        Bug::ScalesIgnored,
        Bug::SignsIgnored,
        Bug::ProductsClampedAt448,
        Bug::ProductsAbove448AreNan,
        Bug::RowsInterleaved,
        Bug::KTailSkipped,
    ]);
}

#[test]
fn global_scales() {
    bugs(&[
        Bug::FoldedGlobalScale,
        Bug::GlobalScaleNotLoaded,
        Bug::GlobalScaleForgotten,
        Bug::GlobalScaleReciprocal,
        Bug::GateAlphaForBoth,
        Bug::MaxAlphaForBoth,
        Bug::AlphaAfterSwiglu,
        Bug::AlphaTwice,
        Bug::ActivationScaleTwice,
    ]);
}

#[test]
fn clamped_swiglu() {
    bugs(&[
        Bug::ClampForgotten,
        Bug::ClampAfterSilu,
        Bug::ClampBeforeAlpha,
        Bug::GateClampedBelow,
        Bug::UpClampedAboveOnly,
        Bug::GateUpSwapped,
    ]);
}

#[test]
fn activation_scales() {
    bugs(&[
        Bug::L1ScaleForL2,
        Bug::StaticScaleForDynamic,
        Bug::StaticScaleReciprocal,
        Bug::GateInputScaleOnly,
        Bug::InputScaleByLocalIndex,
        Bug::HiddenRoundedToE4m3,
        Bug::WeightBeforeRequantisation,
    ]);
}

#[test]
fn routing_weights() {
    bugs(&[
        Bug::BiasInWeights,
        Bug::WeightsForgotten,
        Bug::WeightsNotNormalised,
        Bug::ScalingForgotten,
        Bug::ScalingTwice,
        Bug::SharedExpertForgotten,
    ]);
}

#[test]
fn slots_and_ranks() {
    bugs(&[
        Bug::CapacityDropsSlots,
        Bug::SearchsortedLeft,
        Bug::GlobalIdsAsLocal,
        Bug::LocalIdsFromZero,
        Bug::MinusOneIsTheLastExpert,
        Bug::DuplicatesOnce,
        Bug::ForeignSlotsComputed,
        Bug::PaddingPoisonsRows,
    ]);
}

/// The ranks' outputs add up to the whole; the ways to get that wrong do not.
#[test]
fn sum_over_ranks() {
    let layer = spec().layer(1);
    let rows = rows(layer.config.hidden);
    let routing = RoutingSource::Model { input_ids: None };
    let input = LayerInput { hidden_states: &rows, tokens: TOKENS, routing };
    let run = |part, local| {
        let opts = ForwardOptions { part, local_experts: Some(local), ..Default::default() };
        cpu::forward(&layer, &input, &opts).expect("valid").output_f32
    };
    let want = oracle::forward(&layer, &input, &ForwardOptions::default()).expect("valid").output_f32;
    let ranks = [0..3, 3..3, 3..4, 4..8];
    let add = |mut a: Vec<f32>, b: Vec<f32>| {
        a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
        a
    };
    let routed = || ranks.iter().map(|r| run(Part::Routed, r.clone())).reduce(add).expect("ranks");
    type Sum<'a> = dyn Fn() -> Vec<f32> + 'a;
    let real: &Sum<'_> = &|| add(routed(), run(Part::Shared, 0..8));
    prove(
        "expert parallelism",
        real,
        &[
            ("the mean of the ranks", &|| {
                add(routed().iter().map(|y| y / ranks.len() as f32).collect(), run(Part::Shared, 0..8))
            }),
            ("the shared expert on every rank", &|| {
                ranks.iter().map(|r| run(Part::All, r.clone())).reduce(add).expect("ranks")
            }),
            ("one rank's result as the whole", &|| add(run(Part::Routed, 4..8), run(Part::Shared, 0..8))),
            ("a second all-reduce", &|| {
                add(routed().iter().map(|y| y * ranks.len() as f32).collect(), run(Part::Shared, 0..8))
            }),
        ],
        |sum| {
            let m = Metrics::of(&sum(), &want);
            require(m.passes(&BAR), format!("{m:?}"))
        },
    );
}

/// Neither a token's neighbours nor the number of them change its result.
#[test]
fn batch_invariance() {
    let layer = spec().layer(1);
    let (h, rows) = (layer.config.hidden, rows(layer.config.hidden));
    let run = |rows: &[bf16]| {
        let routing = RoutingSource::Model { input_ids: None };
        let input = LayerInput { hidden_states: rows, tokens: rows.len() / h, routing };
        let row_scales = ForwardOptions { activations: Activations::Nvfp4, ..Default::default() };
        cpu::forward(&layer, &input, &row_scales).expect("valid").output_f32
    };
    let tensor = |rows: &[bf16]| {
        let routing = RoutingSource::Model { input_ids: None };
        let input = LayerInput { hidden_states: rows, tokens: rows.len() / h, routing };
        let opts = ForwardOptions {
            activations: Activations::Nvfp4,
            act_scale: ActScale::TensorDynamic,
            ..Default::default()
        };
        cpu::forward(&layer, &input, &opts).expect("valid").output_f32
    };
    type Forward<'a> = dyn Fn(&[bf16]) -> Vec<f32> + 'a;
    let mutants: [(&str, &Forward<'_>); 1] = [("one scale for the whole call", &tensor)];
    prove::<Forward<'_>>("a token alone and in a batch", &run, &mutants, |forward| {
        let whole = forward(&rows);
        (0..TOKENS).try_for_each(|t| {
            let alone = forward(&rows[t * h..][..h]);
            let same = alone.iter().zip(&whole[t * h..]).all(|(a, b)| a.to_bits() == b.to_bits());
            require(same, format!("token {t}"))
        })
    });
}
