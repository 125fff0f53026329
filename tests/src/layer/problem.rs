//! Layers, rows and routings to test with.

use half::bf16;
use megamoe::io::{LayerInput, RoutingSource};
use megamoe::weights::{
    Bf16Matrix, ExpertWeights, LayerConfig, LayerWeights, Linear, Nvfp4Matrix, RouterWeights, Selection,
    SharedExpertWeights,
};
use nvfp4::routing::Scoring;

/// SplitMix64: the same numbers on every machine.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `0..n`.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.bits()) * n as u128) >> 64) as usize
    }

    /// Uniform in `[0, 1)`.
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u32 << 24) as f32
    }

    /// Nearly normal, variance 1.
    pub fn normal(&mut self) -> f32 {
        ((0..12).map(|_| self.unit()).sum::<f32>()) - 6.0
    }
}

/// The shared expert of a test layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shared {
    /// None.
    None,
    /// NVFP4, as wide as a routed one.
    Nvfp4,
    /// NVFP4, of another width.
    Nvfp4Wide,
    /// bf16.
    Bf16,
}

/// A layer to make.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Model width.
    pub hidden: usize,
    /// Expert width.
    pub intermediate: usize,
    /// Experts.
    pub experts: usize,
    /// Experts per token.
    pub top_k: usize,
    /// Clamp.
    pub limit: Option<f32>,
    /// Shared expert.
    pub shared: Shared,
    /// Global scale of up over gate's.
    pub up_over_gate: f32,
    /// Every code 6 and every block scale 448.
    pub extreme: bool,
    /// Seed.
    pub seed: u64,
}

impl Spec {
    /// A layer with a clamp at 10 and no shared expert.
    pub const fn new(hidden: usize, intermediate: usize, experts: usize, top_k: usize) -> Self {
        Self {
            hidden,
            intermediate,
            experts,
            top_k,
            limit: Some(10.0),
            shared: Shared::None,
            up_over_gate: 1.3,
            extreme: false,
            seed: 1,
        }
    }

    /// The weights. SwiGLU's clamp is reached by some products and not by most.
    pub fn weights(&self) -> LayerWeights {
        let mut random = Random(self.seed);
        let matrix = |rows: usize, cols: usize, deviation: f32, random: &mut Random| {
            let mut bytes =
                |n: usize, f: &dyn Fn(u64) -> u8| (0..n).map(|_| f(random.bits())).collect::<Vec<u8>>();
            let packed = bytes(rows * cols / 2, &|bits| {
                if self.extreme { 0x77 | (bits as u8 & 0x88) } else { bits as u8 }
            });
            // Block scales 2^-3 .. 2^4 or so, or the largest there is.
            let scales =
                bytes(rows * cols / 16, &|bits| if self.extreme { 0x7e } else { 0x24 + (bits % 0x34) as u8 });
            let size = if self.extreme { 6.0 * 448.0 } else { 2.9 * 8.0 };
            Nvfp4Matrix {
                rows,
                cols,
                packed: packed.into(),
                scales: scales.into(),
                global_scale: deviation / (size * (cols as f32).sqrt()),
                input_scale: Some(0.003 + 0.002 * random.unit()),
            }
        };
        let expert = |width: usize, random: &mut Random| ExpertWeights {
            gate: matrix(width, self.hidden, 4.0, random),
            up: matrix(width, self.hidden, 4.0 * self.up_over_gate, random),
            down: matrix(self.hidden, width, 0.5, random),
        };
        let experts = (0..self.experts).map(|_| expert(self.intermediate, &mut random)).collect();
        let width = if self.shared == Shared::Nvfp4Wide { 2 * self.intermediate } else { self.intermediate };
        let shared = match self.shared {
            Shared::None => None,
            Shared::Nvfp4 | Shared::Nvfp4Wide => {
                let e = expert(width, &mut random);
                Some(SharedExpertWeights {
                    gate: Linear::Nvfp4(e.gate),
                    up: Linear::Nvfp4(e.up),
                    down: Linear::Nvfp4(e.down),
                })
            }
            Shared::Bf16 => {
                let mut dense = |rows: usize, cols: usize, deviation: f32| {
                    let scale = deviation / (cols as f32).sqrt();
                    let data = (0..rows * cols).map(|_| bf16::from_f32(random.normal() * scale)).collect();
                    Linear::Bf16(Bf16Matrix { rows, cols, data })
                };
                Some(SharedExpertWeights {
                    gate: dense(width, self.hidden, 4.0),
                    up: dense(width, self.hidden, 4.0),
                    down: dense(self.hidden, width, 0.5),
                })
            }
        };
        let router = RouterWeights {
            weight: (0..self.experts * self.hidden).map(|_| random.normal() * 0.1).collect(),
            selection: Selection::TopK {
                bias: Some((0..self.experts).map(|_| 0.1 * random.unit()).collect()),
            },
        };
        LayerWeights {
            layer: 3,
            config: LayerConfig {
                hidden: self.hidden,
                intermediate: self.intermediate,
                experts: self.experts,
                top_k: self.top_k,
                shared_intermediate: if shared.is_some() { width } else { 0 },
                scoring: Scoring::SqrtSoftplus,
                norm_topk_prob: true,
                routed_scaling_factor: 1.5,
                swiglu_limit: self.limit,
                vocab_size: 64,
            },
            experts,
            shared,
            router: Some(router),
        }
    }
}

/// How slots are given to experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routing {
    /// Every expert as likely as another, without repetition.
    Uniform,
    /// A few experts take most.
    Zipf,
    /// Everything to expert 1, `top_k` times: duplicates.
    One,
    /// Only the last `top_k` experts.
    Last,
    /// Some -1, other negative ones, ids past the end, extreme ones.
    Invalid,
    /// No id that is valid.
    Nothing,
    /// The layer's own router.
    Model,
}

/// What rows hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowKind {
    /// Near-normal, of different loudness.
    Normal,
    /// Among them rows of zeros, of the largest and the smallest numbers, with a NaN, with an infinity.
    Edges,
}

/// Rows and routing of a call.
#[derive(Clone, Debug)]
pub struct Call {
    /// Tokens.
    pub tokens: usize,
    /// bf16 `[tokens, hidden]`.
    pub x: Vec<bf16>,
    /// `[tokens, top_k]`; empty for the model's routing.
    pub ids: Vec<i32>,
    /// `[tokens, top_k]`.
    pub weights: Vec<f32>,
    top_k: usize,
}

impl Call {
    /// A call of `tokens` tokens.
    pub fn new(spec: &Spec, tokens: usize, routing: Routing, rows: RowKind, seed: u64) -> Self {
        let mut random = Random(seed);
        let mut x = Vec::with_capacity(tokens * spec.hidden);
        for token in 0..tokens {
            let loudness = 0.25 + 2.0 * random.unit();
            let start = x.len();
            x.extend((0..spec.hidden).map(|_| bf16::from_f32(random.normal() * loudness)));
            if rows == RowKind::Edges {
                edge(token % 8, &mut x[start..]);
            }
        }
        let mut ids = Vec::new();
        for _ in 0..tokens {
            let start = ids.len();
            while routing != Routing::Model && ids.len() < start + spec.top_k {
                let slot = (ids.len() - start) as i32;
                let id = match routing {
                    Routing::Uniform => random.below(spec.experts) as i32,
                    Routing::Zipf => {
                        let rank = ((spec.experts as f32 + 1.0).ln() * random.unit()).exp() - 1.0;
                        (rank as i32).min(spec.experts as i32 - 1)
                    }
                    Routing::One => 1,
                    Routing::Last => (spec.experts - spec.top_k) as i32 + slot,
                    Routing::Invalid => match random.below(4) {
                        0 => [-1, -7, i32::MIN, i32::MAX, spec.experts as i32][random.below(5)],
                        _ => random.below(spec.experts) as i32,
                    },
                    Routing::Nothing => [-1, spec.experts as i32][random.below(2)],
                    Routing::Model => unreachable!(),
                };
                let distinct = matches!(routing, Routing::Uniform | Routing::Zipf);
                if !(distinct && ids[start..].contains(&id)) {
                    ids.push(id);
                }
            }
        }
        let weights = ids.iter().map(|_| 0.05 + random.unit()).collect();
        Self { tokens, x, ids, weights, top_k: spec.top_k }
    }

    /// As input of a backend.
    pub fn input(&self) -> LayerInput<'_> {
        let routing = if self.ids.is_empty() && self.tokens > 0 {
            RoutingSource::Model { input_ids: None }
        } else {
            RoutingSource::Given { topk_ids: &self.ids, topk_weights: &self.weights }
        };
        LayerInput { hidden_states: &self.x, tokens: self.tokens, routing }
    }

    /// The call with these tokens only.
    pub fn pick(&self, tokens: &[usize]) -> Self {
        let hidden = self.x.len() / self.tokens;
        let take = |width: usize| tokens.iter().flat_map(move |&t| t * width..(t + 1) * width);
        let slots = if self.ids.is_empty() { 0 } else { self.top_k };
        Self {
            tokens: tokens.len(),
            x: take(hidden).map(|i| self.x[i]).collect(),
            ids: take(slots).map(|i| self.ids[i]).collect(),
            weights: take(slots).map(|i| self.weights[i]).collect(),
            top_k: self.top_k,
        }
    }
}

/// Rows that something has gone wrong with before.
fn edge(kind: usize, row: &mut [bf16]) {
    let middle = row.len() / 2;
    match kind {
        0 => row.fill(bf16::ZERO),
        1 => row.iter_mut().for_each(|v| *v = bf16::from_f32(v.to_f32() * 1e30)),
        2 => row.iter_mut().for_each(|v| *v = bf16::from_f32(v.to_f32() * 1e-30)),
        3 => row[middle] = bf16::NAN,
        4 => row[middle + 1] = bf16::INFINITY,
        5 => row.iter_mut().enumerate().for_each(|(i, v)| {
            *v = if i == 3 { bf16::from_f32(1e4) } else { bf16::from_f32(v.to_f32() * 1e-3) };
        }),
        // One element only.
        6 => row.iter_mut().enumerate().for_each(|(i, v)| {
            if i != middle {
                *v = bf16::ZERO;
            }
        }),
        _ => {}
    }
}
