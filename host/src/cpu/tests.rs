//! The whole layer on every instruction set of this machine: the same bits.

use half::bf16;
use nvfp4::routing::Scoring;

use super::layer;
use super::simd::Isa;
use crate::io::{LayerInput, RoutingSource};
use crate::options::{ActScale, ActScaleL2, Activations, ForwardOptions};
use crate::weights::*;

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn matrix(&mut self, rows: usize, cols: usize) -> Nvfp4Matrix {
        let blocks = rows * cols / 16;
        let packed = (0..blocks).flat_map(|_| self.next().to_le_bytes()).collect();
        let scales = (0..blocks).map(|_| (self.next() % 0x7f) as u8).collect();
        Nvfp4Matrix { rows, cols, packed, scales, global_scale: 1e-3, input_scale: Some(4e-3) }
    }
}

fn layer(rng: &mut Rng) -> LayerWeights {
    let (hidden, intermediate, experts, top_k) = (592, 80, 6, 3);
    let gate = Linear::Nvfp4(rng.matrix(intermediate, hidden));
    let up = Linear::Bf16(Bf16Matrix {
        rows: intermediate,
        cols: hidden,
        data: (0..intermediate * hidden).map(|_| bf16::from_f32(rng.unit())).collect(),
    });
    let down = Linear::Fp8(Fp8Matrix {
        rows: hidden,
        cols: intermediate,
        data: (0..intermediate * hidden).map(|_| rng.next() as u8 & 0x77).collect(),
        scales: vec![0.01; hidden.div_ceil(128)].into(),
    });
    LayerWeights {
        layer: 0,
        config: LayerConfig {
            hidden,
            intermediate,
            experts,
            top_k,
            shared_intermediate: intermediate,
            scoring: Scoring::Softmax,
            norm_topk_prob: true,
            routed_scaling_factor: 1.5,
            swiglu_limit: Some(10.0),
            vocab_size: 0,
        },
        experts: (0..experts)
            .map(|_| ExpertWeights {
                gate: rng.matrix(intermediate, hidden),
                up: rng.matrix(intermediate, hidden),
                down: rng.matrix(hidden, intermediate),
            })
            .collect(),
        shared: Some(SharedExpertWeights { gate, up, down }),
        router: Some(RouterWeights {
            weight: (0..experts * hidden).map(|_| rng.unit()).collect(),
            selection: Selection::TopK { bias: None },
        }),
    }
}

#[test]
fn every_instruction_set_gives_the_same_layer() {
    let mut rng = Rng(1);
    let layer = layer(&mut rng);
    let tokens = 13;
    let x: Vec<bf16> = (0..tokens * layer.config.hidden).map(|_| bf16::from_f32(rng.unit())).collect();
    let routing = RoutingSource::Model { input_ids: None };
    let input = LayerInput { hidden_states: &x, tokens, routing };
    let modes = [
        ForwardOptions::default(),
        ForwardOptions { activations: Activations::Nvfp4, ..ForwardOptions::default() },
        ForwardOptions {
            activations: Activations::Nvfp4,
            act_scale: ActScale::Static,
            act_scale_l2: ActScaleL2::TensorDynamic,
            ..ForwardOptions::default()
        },
    ];
    for opts in modes {
        let bits = |isa| {
            let out = layer::forward(isa, &layer, &input, &opts).unwrap();
            assert!(out.output_f32.iter().all(|y| y.is_finite()));
            let warmup = layer::measure_warmup(isa, &layer, &input, &opts).unwrap();
            let all = out.output_f32.iter().chain(&out.routing.topk_weights);
            (all.map(|v| v.to_bits()).collect::<Vec<_>>(), out.routing.topk_ids, out.stats, warmup)
        };
        let portable = bits(Isa::Portable);
        for &isa in Isa::available() {
            assert!(bits(isa) == portable, "{isa:?}, {opts:?}");
        }
    }
}
