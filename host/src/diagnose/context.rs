//! What the checks of one layer share: histograms of block scales, and rows that ran through the layer.

use std::sync::OnceLock;

use half::bf16;
use rayon::prelude::*;

use crate::checkpoint::Checkpoint;
use crate::cpu::{LinearMode, Nvfp4Linear, Router};
use crate::error::{Error, Result};
use crate::io::Routing;
use crate::verify::Batch;
use crate::weights::{LayerWeights, Linear, Nvfp4Matrix};

/// Block scales of one matrix, counted.
pub(super) struct ScaleCount {
    pub name: String,
    pub global: f32,
    /// By E4M3 code.
    pub counts: [u64; 256],
}

impl ScaleCount {
    fn of(name: String, m: &Nvfp4Matrix) -> Self {
        let mut counts = [0; 256];
        m.scales.iter().for_each(|&code| counts[usize::from(code)] += 1);
        Self { name, global: m.global_scale, counts }
    }

    pub(super) fn blocks(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Largest code that occurs.
    pub(super) fn max_code(&self) -> u8 {
        self.counts.iter().rposition(|&n| n > 0).unwrap_or(0) as u8
    }
}

/// The rows of one expert, after L1.
pub(super) struct ExpertSample {
    pub expert: usize,
    /// Their tokens.
    pub tokens: Vec<usize>,
    /// `[tokens, I]` gate and up, before the clamp.
    pub gate: Vec<f32>,
    pub up: Vec<f32>,
}

/// Rows that ran through router and L1.
pub(super) struct Sample {
    pub routing: Routing,
    /// Tokens whose id is outside the vocabulary.
    pub invalid_tokens: u64,
    pub non_finite_rows: usize,
    pub experts: Vec<ExpertSample>,
}

pub(super) struct Context<'a> {
    pub checkpoint: &'a Checkpoint,
    pub weights: &'a LayerWeights,
    pub batch: Batch,
    /// Whether the rows are somebody's, not generated.
    pub given: bool,
    scales: OnceLock<Vec<ScaleCount>>,
    sample: OnceLock<std::result::Result<Sample, String>>,
}

impl<'a> Context<'a> {
    pub(super) fn new(
        checkpoint: &'a Checkpoint,
        weights: &'a LayerWeights,
        batch: Batch,
        given: bool,
    ) -> Self {
        Self { checkpoint, weights, batch, given, scales: OnceLock::new(), sample: OnceLock::new() }
    }

    /// Every NVFP4 matrix of the layer, by name.
    pub(super) fn matrices(&self) -> Vec<(String, &'a Nvfp4Matrix)> {
        let mut all = Vec::new();
        for (e, expert) in self.weights.experts.iter().enumerate() {
            for (name, m) in [("gate", &expert.gate), ("up", &expert.up), ("down", &expert.down)] {
                all.push((format!("expert {e} {name}"), m));
            }
        }
        if let Some(shared) = &self.weights.shared {
            for (name, m) in [("gate", &shared.gate), ("up", &shared.up), ("down", &shared.down)] {
                if let Linear::Nvfp4(m) = m {
                    all.push((format!("shared expert {name}"), m));
                }
            }
        }
        all
    }

    pub(super) fn scales(&self) -> &[ScaleCount] {
        self.scales.get_or_init(|| {
            self.matrices().into_par_iter().map(|(name, m)| ScaleCount::of(name, m)).collect()
        })
    }

    /// The sample; an error is the same one every time.
    pub(super) fn sample(&self) -> Result<&Sample> {
        let sample = self.sample.get_or_init(|| self.run().map_err(|e| e.to_string()));
        sample.as_ref().map_err(|e| Error::invalid("sample", e.clone()))
    }

    pub(super) fn row(&self, token: usize) -> &[bf16] {
        let hidden = self.weights.config.hidden;
        &self.batch.hidden_states[token * hidden..][..hidden]
    }

    fn run(&self) -> Result<Sample> {
        let config = &self.weights.config;
        let router = self.weights.router.as_ref().ok_or_else(|| Error::invalid("router", "there is none"))?;
        let (routing, invalid_tokens) = Router::new(router, config)?.route(
            &self.batch.hidden_states,
            self.batch.tokens,
            self.batch.input_ids.as_deref(),
        )?;
        let finite: Vec<bool> =
            (0..self.batch.tokens).map(|t| self.row(t).iter().all(|v| v.is_finite())).collect();
        let mut tokens = vec![Vec::new(); config.experts];
        for (slot, &id) in routing.topk_ids.iter().enumerate() {
            let token = slot / config.top_k.max(1);
            if let Some(list) = usize::try_from(id).ok().and_then(|e| tokens.get_mut(e))
                && finite[token]
            {
                list.push(token);
            }
        }
        let mut experts = Vec::new();
        for (expert, tokens) in tokens.into_iter().enumerate().filter(|(_, list)| !list.is_empty()) {
            let rows: Vec<bf16> = tokens.iter().flat_map(|&t| self.row(t).iter().copied()).collect();
            let weights = &self.weights.experts[expert];
            let run = |m| Nvfp4Linear::new(m)?.forward(&rows, tokens.len(), LinearMode::W4A16);
            let (gate, up) = (run(&weights.gate)?, run(&weights.up)?);
            experts.push(ExpertSample { expert, tokens, gate, up });
        }
        let non_finite_rows = finite.iter().filter(|&&ok| !ok).count();
        Ok(Sample { routing, invalid_tokens, non_finite_rows, experts })
    }
}
