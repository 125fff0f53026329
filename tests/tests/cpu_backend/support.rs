//! Seeded layers and rows.

use half::bf16;
use megamoe::io::{LayerInput, LayerOutput, RoutingSource};
use megamoe::options::{ActScale, ActScaleL2, Activations, ForwardOptions};
use megamoe::weights::*;
use nvfp4::routing::Scoring;

/// SplitMix64.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// About normal, variance 1.
    pub fn normal(&mut self) -> f32 {
        (0..12).map(|_| (self.next() >> 40) as f32 / (1 << 24) as f32).sum::<f32>() - 6.0
    }
}

/// What the shared expert is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shared {
    No,
    Nvfp4,
    Bf16,
    Fp8,
}

#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub hidden: usize,
    pub intermediate: usize,
    pub experts: usize,
    pub top_k: usize,
    pub shared: Shared,
    pub limit: Option<f32>,
}

impl Default for Shape {
    fn default() -> Self {
        let shared = Shared::Nvfp4;
        Self { hidden: 128, intermediate: 96, experts: 8, top_k: 3, shared, limit: Some(10.0) }
    }
}

/// Random codes; block scales over the upper half of the range, and somewhere 448 with code 6 next to it. With the
/// global scale the weights have a standard deviation of about `std`.
pub fn matrix(rng: &mut Rng, rows: usize, cols: usize, std: f32) -> Nvfp4Matrix {
    let blocks = rows * cols / 16;
    let mut packed: Vec<u8> = (0..blocks).flat_map(|_| rng.next().to_le_bytes()).collect();
    let mut scales: Vec<u8> = (0..blocks).map(|_| 0x50 + rng.below(0x2f) as u8).collect();
    let at = rng.below(blocks);
    (scales[at], packed[at * 8]) = (nvfp4::e4m3::MAX_CODE, 0x7f);
    scales[rng.below(blocks)] = 0;
    // The root mean square of the codes is 2.9, that of these scales about 90.
    let global_scale = std / 260.0;
    let (packed, scales) = (packed.into(), scales.into());
    Nvfp4Matrix { rows, cols, packed, scales, global_scale, input_scale: Some(0.04) }
}

fn shared_linear(rng: &mut Rng, format: Shared, rows: usize, cols: usize, std: f32) -> Linear {
    match format {
        Shared::No | Shared::Nvfp4 => Linear::Nvfp4(matrix(rng, rows, cols, std)),
        Shared::Bf16 => {
            let data = (0..rows * cols).map(|_| bf16::from_f32(rng.normal() * std)).collect();
            Linear::Bf16(Bf16Matrix { rows, cols, data })
        }
        Shared::Fp8 => {
            let data = (0..rows * cols).map(|_| nvfp4::e4m3::encode(rng.normal() * 60.0)).collect();
            let blocks = rows.div_ceil(FP8_BLOCK) * cols.div_ceil(FP8_BLOCK);
            let scales = (0..blocks).map(|b| std / 60.0 * (1.0 + b as f32 * 0.1)).collect();
            Linear::Fp8(Fp8Matrix { rows, cols, data, scales })
        }
    }
}

/// A layer whose L1 results are large enough for the clamp of 10 to matter now and then. `input_scale` differs
/// between experts and projections.
pub fn layer(seed: u64, s: Shape) -> LayerWeights {
    let mut rng = Rng(seed);
    let (l1, l2) = (3.0 / (s.hidden as f32).sqrt(), 1.0 / (s.intermediate as f32).sqrt());
    let experts = (0..s.experts)
        .map(|e| {
            let mut x = ExpertWeights {
                gate: matrix(&mut rng, s.intermediate, s.hidden, l1),
                up: matrix(&mut rng, s.intermediate, s.hidden, l1),
                down: matrix(&mut rng, s.hidden, s.intermediate, l2),
            };
            let scale = 2e-3 * (1.0 + e as f32 * 0.07);
            x.gate.input_scale = Some(scale);
            x.up.input_scale = Some(scale * if e % 2 == 0 { 1.03 } else { 0.97 });
            x.down.input_scale = Some(0.04 * (1.0 + e as f32 * 0.05));
            x
        })
        .collect();
    let shared_intermediate = if s.shared == Shared::No { 0 } else { s.intermediate };
    let shared = (s.shared != Shared::No).then(|| SharedExpertWeights {
        gate: shared_linear(&mut rng, s.shared, s.intermediate, s.hidden, l1),
        up: shared_linear(&mut rng, s.shared, s.intermediate, s.hidden, l1),
        down: shared_linear(&mut rng, s.shared, s.hidden, s.intermediate, l2),
    });
    let weight = (0..s.experts * s.hidden).map(|_| rng.normal() * 0.1).collect();
    let bias = Some((0..s.experts).map(|_| rng.normal() * 0.1).collect());
    LayerWeights {
        layer: 0,
        config: LayerConfig {
            hidden: s.hidden,
            intermediate: s.intermediate,
            experts: s.experts,
            top_k: s.top_k,
            shared_intermediate,
            scoring: Scoring::SqrtSoftplus,
            norm_topk_prob: true,
            routed_scaling_factor: 1.5,
            swiglu_limit: s.limit,
            vocab_size: 40,
        },
        experts,
        shared,
        router: Some(RouterWeights { weight, selection: Selection::TopK { bias } }),
    }
}

/// Rows of very different size.
pub fn rows(seed: u64, tokens: usize, hidden: usize) -> Vec<bf16> {
    let mut rng = Rng(seed);
    (0..tokens * hidden).map(|i| bf16::from_f32(rng.normal() * [1.0, 0.1, 1.5][i / hidden % 3])).collect()
}

/// Input that the layer's own router routes.
pub fn routed(x: &[bf16], tokens: usize) -> LayerInput<'_> {
    LayerInput { hidden_states: x, tokens, routing: RoutingSource::Model { input_ids: None } }
}

/// Input with the routing given.
pub fn given<'a>(x: &'a [bf16], tokens: usize, ids: &'a [i32], weights: &'a [f32]) -> LayerInput<'a> {
    let routing = RoutingSource::Given { topk_ids: ids, topk_weights: weights };
    LayerInput { hidden_states: x, tokens, routing }
}

pub fn nvfp4(act_scale: ActScale, act_scale_l2: ActScaleL2) -> ForwardOptions {
    ForwardOptions { activations: Activations::Nvfp4, act_scale, act_scale_l2, ..ForwardOptions::default() }
}

pub const L1_MODES: [ActScale; 4] =
    [ActScale::RowDynamic, ActScale::TensorDynamic, ActScale::Static, ActScale::Warmup];
pub const L2_MODES: [ActScaleL2; 5] = [
    ActScaleL2::Bound,
    ActScaleL2::RowDynamic,
    ActScaleL2::TensorDynamic,
    ActScaleL2::Static,
    ActScaleL2::Warmup,
];

/// bf16, and every pair of NVFP4 scale policies.
pub fn every_mode() -> Vec<ForwardOptions> {
    let pairs = L1_MODES.iter().flat_map(|&l1| L2_MODES.map(|l2| nvfp4(l1, l2)));
    std::iter::once(ForwardOptions::default()).chain(pairs).collect()
}

/// Equal to the bit (the one NaN included).
#[track_caller]
pub fn assert_same(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    let bad = got.iter().zip(want).position(|(g, w)| g.to_bits() != w.to_bits());
    if let Some(i) = bad {
        panic!("{what}: element {i}: {:e}, expected {:e}", got[i], want[i]);
    }
}

/// [`assert_same`] of the outputs, the bf16 ones too.
#[track_caller]
pub fn assert_same_output(got: &LayerOutput, want: &LayerOutput, what: &str) {
    assert_same(&got.output_f32, &want.output_f32, what);
    let bits = |o: &LayerOutput| o.output.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(got), bits(want), "{what}: bf16");
}
