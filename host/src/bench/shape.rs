//! Layers to measure: DeepSeek shapes with random weights, rows and routings. Never zeros.

use std::str::FromStr;

use half::bf16;
use nvfp4::routing::Scoring;
use rayon::prelude::*;

use crate::weights::{ExpertWeights, LayerConfig, LayerWeights, Nvfp4Matrix};

/// Sizes of a layer without router and shared expert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BenchShape {
    /// Name for people.
    pub name: String,
    /// Model width H.
    pub hidden: usize,
    /// Expert width I.
    pub intermediate: usize,
    /// Experts of this rank; all picks are local.
    pub experts: usize,
    /// Experts per token.
    pub top_k: usize,
}

impl BenchShape {
    fn new(name: &str, hidden: usize, intermediate: usize, experts: usize) -> Self {
        Self { name: name.to_owned(), hidden, intermediate, experts, top_k: 6 }
    }

    /// Bytes of one expert's weights: codes and block scales.
    pub fn expert_bytes(&self) -> usize {
        3 * self.hidden * self.intermediate / 16 * 9
    }

    /// Floating-point operations of one slot.
    pub fn slot_flop(&self) -> f64 {
        6.0 * self.hidden as f64 * self.intermediate as f64
    }
}

impl FromStr for BenchShape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "v4-flash" => return Ok(Self::new(text, 4096, 2048, 256)),
            "v4-pro" => return Ok(Self::new(text, 7168, 3072, 48)),
            "v4.1-flash" => return Ok(Self::new(text, 5120, 2304, 384)),
            _ => {}
        }
        let sizes: Option<Vec<usize>> = text.split('x').map(|n| n.parse().ok()).collect();
        match sizes.as_deref() {
            Some(&[hidden, intermediate, experts, top_k])
                if [hidden, intermediate, experts, top_k].iter().all(|&n| n > 0)
                    && hidden % 16 == 0
                    && intermediate % 16 == 0
                    && top_k <= experts =>
            {
                Ok(Self { name: text.to_owned(), hidden, intermediate, experts, top_k })
            }
            _ => Err(format!(
                "`{text}` is not v4-pro, v4-flash, v4.1-flash or HxIxExK with H and I multiples of 16"
            )),
        }
    }
}

/// A small random number generator (SplitMix64): the same numbers on every machine.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A stream of numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

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

    /// Nearly normal: the sum of four uniform numbers, variance 1.
    pub fn normal(&mut self) -> f32 {
        ((0..4).map(|_| self.unit()).sum::<f32>() - 2.0) * 3f32.sqrt()
    }
}

/// A matrix with codes of every value and block scales over four binades; its products with unit rows have a standard
/// deviation of about `deviation`.
fn matrix(rows: usize, cols: usize, deviation: f32, seed: u64) -> Nvfp4Matrix {
    let mut packed = vec![0u8; rows * cols / 2];
    packed.par_chunks_mut(1 << 16).enumerate().for_each(|(i, chunk)| {
        let mut random = Random::new(seed ^ (i as u64) << 20);
        chunk
            .chunks_mut(8)
            .for_each(|bytes| bytes.copy_from_slice(&random.bits().to_le_bytes()[..bytes.len()]));
    });
    let mut scales = vec![0u8; rows * cols / 16];
    scales.par_chunks_mut(1 << 16).enumerate().for_each(|(i, chunk)| {
        let mut random = Random::new(seed ^ (i as u64) << 20 ^ 0xabcd);
        // E4M3 codes 0x48 .. 0x67: 4 to 60.
        chunk.iter_mut().for_each(|byte| *byte = 0x48 + (random.bits() & 0x1f) as u8);
    });
    // Root mean square of the codes 2.9, of the scales 27: measured on these distributions, and uncritical.
    let global_scale = deviation / (2.9 * 27.0 * (cols as f32).sqrt());
    Nvfp4Matrix { rows, cols, packed: packed.into(), scales: scales.into(), global_scale, input_scale: None }
}

/// The layer's weights: gate and up products of standard deviation 5, so that the clamp at 10 is exercised.
pub fn weights(shape: &BenchShape, seed: u64) -> LayerWeights {
    let (h, i) = (shape.hidden, shape.intermediate);
    let expert = |e: usize| {
        let seed = seed ^ (e as u64) << 40;
        ExpertWeights {
            gate: matrix(i, h, 5.0, seed ^ 1),
            up: matrix(i, h, 4.0, seed ^ 2),
            down: matrix(h, i, 0.3, seed ^ 3),
        }
    };
    LayerWeights {
        layer: 0,
        config: LayerConfig {
            hidden: h,
            intermediate: i,
            experts: shape.experts,
            top_k: shape.top_k,
            shared_intermediate: 0,
            scoring: Scoring::SqrtSoftplus,
            norm_topk_prob: true,
            routed_scaling_factor: 2.5,
            swiglu_limit: Some(10.0),
            vocab_size: 0,
        },
        experts: (0..shape.experts).map(expert).collect(),
        shared: None,
        router: None,
    }
}

/// How tokens choose experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// Every expert as likely as another.
    Uniform,
    /// Popularity 1/rank, without replacement within a token.
    Zipf,
}

/// Rows and routing of one call.
#[derive(Clone, Debug)]
pub struct Call {
    /// bf16 `[tokens, hidden]`.
    pub x: Vec<bf16>,
    /// i32 `[tokens, top_k]`.
    pub ids: Vec<i32>,
    /// f32 `[tokens, top_k]`.
    pub weights: Vec<f32>,
}

/// A call of `tokens` tokens.
pub fn call(shape: &BenchShape, tokens: usize, spread: Spread, seed: u64) -> Call {
    let mut x = vec![bf16::ZERO; tokens * shape.hidden];
    x.par_chunks_mut(shape.hidden).enumerate().for_each(|(t, row)| {
        let mut random = Random::new(seed ^ (t as u64) << 24);
        row.iter_mut().for_each(|v| *v = bf16::from_f32(random.normal()));
    });
    let mut random = Random::new(!seed);
    let mut ids = Vec::with_capacity(tokens * shape.top_k);
    for _ in 0..tokens {
        let start = ids.len();
        while ids.len() < start + shape.top_k {
            let id = match spread {
                Spread::Uniform => random.below(shape.experts),
                // The inverse of 1/rank's distribution, near enough: exp of a uniform number.
                Spread::Zipf => {
                    let rank = ((shape.experts as f32 + 1.0).ln() * random.unit()).exp() - 1.0;
                    (rank as usize).min(shape.experts - 1)
                }
            } as i32;
            if !ids[start..].contains(&id) {
                ids.push(id);
            }
        }
    }
    let mut weights: Vec<f32> = ids.iter().map(|_| 0.1 + random.unit()).collect();
    weights.chunks_mut(shape.top_k).for_each(|w| {
        let sum: f32 = w.iter().sum();
        w.iter_mut().for_each(|w| *w *= 2.5 / sum);
    });
    Call { x, ids, weights }
}
