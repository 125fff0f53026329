//! Inputs: generated ones that look like activations, edge cases, and rows from a file.

use std::path::Path;

use half::bf16;
use safetensors::{Dtype, SafeTensors};

use crate::error::{Error, Result};
use crate::io::{LayerInput, RoutingSource};
use crate::weights::LayerConfig;

/// Rows for a layer's own router.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Name, for people.
    pub name: String,
    /// `[tokens, hidden]`.
    pub hidden_states: Vec<bf16>,
    /// Rows.
    pub tokens: usize,
    /// `[tokens]`; `None` only if a file has none.
    pub input_ids: Option<Vec<i64>>,
    /// `[tokens, hidden]` of the whole layer with bf16 activations, by other means; from files only.
    pub expected: Option<Vec<f32>>,
}

/// SplitMix64: the same numbers on every machine.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In `[0, 1)`.
    fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Nearly normal, variance 1, within +-6.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

impl Batch {
    /// Rows that look like the input of a MoE layer: near-normal channels of different gains, one channel in a
    /// hundred or so an outlier in every token, single large elements, and tokens between a tenth and ten times the
    /// usual loudness.
    pub fn activations(config: &LayerConfig, tokens: usize, seed: u64) -> Self {
        let mut rng = Rng(seed);
        let channel = |rng: &mut Rng| {
            let gain = (0.4 * rng.normal()).exp();
            if rng.below(97) == 0 { gain * (8.0 + 24.0 * rng.uniform()) } else { gain }
        };
        let gains: Vec<f64> = (0..config.hidden).map(|_| channel(&mut rng)).collect();
        let mut hidden_states = Vec::with_capacity(tokens * config.hidden);
        for _ in 0..tokens {
            let loudness = 10f64.powf(2.0 * rng.uniform() - 1.0);
            for gain in &gains {
                let spike = if rng.below(997) == 0 { 30.0 } else { 1.0 };
                hidden_states.push(bf16::from_f64(rng.normal() * gain * loudness * spike));
            }
        }
        let input_ids = Some((0..tokens).map(|_| rng.below(config.vocab_size) as i64).collect());
        Self { name: "activations".to_owned(), hidden_states, tokens, input_ids, expected: None }
    }

    /// A row of zeros, one with a single element, a constant, alternating signs, one of the smallest numbers, one with
    /// a NaN, one with an infinity; then an ordinary one whose id is outside the vocabulary.
    pub fn edges(config: &LayerConfig) -> Self {
        let ordinary = Self::activations(config, 1, 7).hidden_states;
        let row = |f: &dyn Fn(usize) -> f32| (0..config.hidden).map(|k| bf16::from_f32(f(k))).collect();
        let rows: [Vec<bf16>; 8] = [
            row(&|_| 0.0),
            row(&|k| if k == config.hidden / 2 { -3.0 } else { 0.0 }),
            row(&|_| 0.75),
            row(&|k| if k % 2 == 0 { 1.5 } else { -1.5 }),
            row(&|k| f32::from_bits((k as u32 % 127 + 1) << 16)),
            row(&|k| if k == 1 { f32::NAN } else { 1.0 }),
            row(&|k| if k == 2 { f32::NEG_INFINITY } else { 1.0 }),
            ordinary,
        ];
        let ids = (0..8)
            .map(|t| if t == 7 { config.vocab_size as i64 } else { t % config.vocab_size.max(1) as i64 });
        Self {
            name: "edge cases".to_owned(),
            tokens: rows.len(),
            hidden_states: rows.concat(),
            input_ids: Some(ids.collect()),
            expected: None,
        }
    }

    /// `hidden_states` BF16 `[T, hidden]` and, if present, `input_ids` I64 `[T]` and `output_f32` F32 `[T, hidden]` of
    /// a safetensors file. At most `max_tokens` rows are taken.
    ///
    /// # Errors
    /// If the file cannot be read or holds something else.
    pub fn from_file(path: &Path, config: &LayerConfig, max_tokens: usize) -> Result<Self> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let bytes = std::fs::read(path).map_err(io)?;
        let what = |name: &str| format!("{}: {name}", path.display());
        let tensors =
            SafeTensors::deserialize(&bytes).map_err(|e| Error::invalid(what("header"), e.to_string()))?;
        let view = tensors
            .tensor("hidden_states")
            .map_err(|_| Error::invalid(what("hidden_states"), "no such tensor"))?;
        let &[tokens, hidden] = view.shape() else {
            return Err(Error::mismatch(what("hidden_states"), "[T, H]", format!("{:?}", view.shape())));
        };
        if view.dtype() != Dtype::BF16 || hidden != config.hidden {
            let got = format!("{:?} {:?}", view.dtype(), view.shape());
            return Err(Error::mismatch(what("hidden_states"), format!("BF16 [T, {}]", config.hidden), got));
        }
        let rows = tokens.min(max_tokens);
        let words = view.data().as_chunks::<2>().0.iter().take(rows * hidden);
        let hidden_states = words.map(|&b| bf16::from_bits(u16::from_le_bytes(b))).collect();
        let input_ids = match tensors.tensor("input_ids") {
            Err(_) => None,
            Ok(ids) if ids.dtype() == Dtype::I64 && ids.shape() == [tokens] => {
                let words = ids.data().as_chunks::<8>().0.iter().take(rows);
                Some(words.map(|&b| i64::from_le_bytes(b)).collect())
            }
            Ok(ids) => {
                let got = format!("{:?} {:?}", ids.dtype(), ids.shape());
                return Err(Error::mismatch(what("input_ids"), format!("I64 [{tokens}]"), got));
            }
        };
        let expected = match tensors.tensor("output_f32") {
            Err(_) => None,
            Ok(y) if y.dtype() == Dtype::F32 && y.shape() == [tokens, hidden] => {
                let words = y.data().as_chunks::<4>().0.iter().take(rows * hidden);
                Some(words.map(|&b| f32::from_le_bytes(b)).collect())
            }
            Ok(y) => {
                let got = format!("{:?} {:?}", y.dtype(), y.shape());
                return Err(Error::mismatch(what("output_f32"), format!("F32 [{tokens}, {hidden}]"), got));
            }
        };
        let name = path.file_name().map_or_else(|| "file".to_owned(), |n| n.to_string_lossy().into_owned());
        Ok(Self { name, hidden_states, tokens: rows, input_ids, expected })
    }

    /// As a call's input.
    pub fn input(&self) -> LayerInput<'_> {
        LayerInput {
            hidden_states: &self.hidden_states,
            tokens: self.tokens,
            routing: RoutingSource::Model { input_ids: self.input_ids.as_deref() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nvfp4::routing::Scoring;

    #[test]
    fn batches_are_deterministic_and_uneven() {
        let config = LayerConfig {
            hidden: 1024,
            intermediate: 16,
            experts: 4,
            top_k: 2,
            shared_intermediate: 0,
            scoring: Scoring::SqrtSoftplus,
            norm_topk_prob: true,
            routed_scaling_factor: 1.0,
            swiglu_limit: None,
            vocab_size: 0,
        };
        let a = Batch::activations(&config, 5, 1);
        assert_eq!(a.hidden_states, Batch::activations(&config, 5, 1).hidden_states);
        assert_ne!(a.hidden_states, Batch::activations(&config, 5, 2).hidden_states);
        let amax = |t: usize| {
            a.hidden_states[t * 1024..][..1024].iter().map(|v| v.to_f32().abs()).fold(0.0, f32::max)
        };
        let loudest = (0..5).map(amax).fold(0.0, f32::max);
        assert!(loudest > 3.0 * (0..5).map(amax).fold(f32::INFINITY, f32::min));
        let edges = Batch::edges(&config);
        assert_eq!(edges.hidden_states.len(), edges.tokens * 1024);
        assert_eq!(edges.hidden_states.iter().filter(|v| !v.is_finite()).count(), 2);
    }
}
