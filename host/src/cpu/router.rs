//! The router alone: logits, scores, selection, weights.

use half::bf16;
use nvfp4::routing;
use rayon::prelude::*;

use super::check;
use super::dequant::F32Rows;
use super::gemm;
use super::rows::Rows;
use super::simd::Isa;
use crate::error::{Error, Result};
use crate::io::Routing;
use crate::weights::{LayerConfig, RouterWeights, Selection};

/// A layer's router: f32 logits, scores, and top-k or a table by token id.
#[derive(Clone, Copy, Debug)]
pub struct Router<'a> {
    weights: &'a RouterWeights,
    config: &'a LayerConfig,
}

impl<'a> Router<'a> {
    /// Checks the sizes.
    pub fn new(weights: &'a RouterWeights, config: &'a LayerConfig) -> Result<Self> {
        let expect = |what: &str, a: usize, b: usize, got: usize| {
            if a.checked_mul(b) == Some(got) {
                Ok(())
            } else {
                Err(Error::mismatch(what, format!("[{a}, {b}]"), format!("{got} elements")))
            }
        };
        if config.hidden == 0 || config.experts > i32::MAX as usize {
            return Err(Error::invalid("config", "hidden must be positive and experts fit into i32"));
        }
        expect("router weight", config.experts, config.hidden, weights.weight.len())?;
        match &weights.selection {
            Selection::TopK { bias } => {
                if config.top_k > config.experts {
                    return Err(Error::invalid(
                        "config: top_k",
                        format!("{} of {} experts", config.top_k, config.experts),
                    ));
                }
                bias.as_ref().map_or(Ok(()), |b| expect("router bias", config.experts, 1, b.len()))?;
            }
            Selection::Hash { tid2eid } => {
                expect("tid2eid", config.vocab_size, config.top_k, tid2eid.len())?;
            }
        }
        Ok(Self { weights, config })
    }

    /// `[tokens, experts]` f32 logits of `[tokens, hidden]` rows.
    pub fn logits(&self, rows: &[bf16], tokens: usize) -> Result<Vec<f32>> {
        self.logits_on(Isa::detect(), rows, tokens)
    }

    fn logits_on(&self, isa: Isa, rows: &[bf16], tokens: usize) -> Result<Vec<f32>> {
        let (experts, hidden) = (self.config.experts, self.config.hidden);
        check::rows("hidden_states", tokens, hidden, rows.len())?;
        let weight = F32Rows { data: &self.weights.weight, rows: experts, cols: hidden };
        Ok(gemm::linear(isa, &Rows::bf16(rows, hidden), &weight).into_rows())
    }

    /// Experts and weights of `[tokens, hidden]` rows; the number of tokens whose id is outside the vocabulary (hash
    /// layers: their slots get the id -1 and the weight 0).
    pub fn route(&self, rows: &[bf16], tokens: usize, input_ids: Option<&[i64]>) -> Result<(Routing, u64)> {
        self.route_on(Isa::detect(), rows, tokens, input_ids)
    }

    pub(super) fn route_on(
        &self,
        isa: Isa,
        rows: &[bf16],
        tokens: usize,
        input_ids: Option<&[i64]>,
    ) -> Result<(Routing, u64)> {
        let (experts, top_k) = (self.config.experts, self.config.top_k);
        let hash = match (&self.weights.selection, input_ids) {
            (Selection::TopK { .. }, _) => None,
            (Selection::Hash { tid2eid }, Some(ids)) if ids.len() == tokens => Some((tid2eid, ids)),
            (Selection::Hash { .. }, Some(ids)) => {
                return Err(Error::mismatch("input_ids", format!("{tokens} elements"), ids.len()));
            }
            (Selection::Hash { .. }, None) => {
                return Err(Error::invalid("input_ids", "a hash layer routes by token id: pass them"));
            }
        };
        let mut scores = self.logits_on(isa, rows, tokens)?;
        let mut routing =
            Routing { topk_ids: vec![-1; tokens * top_k], topk_weights: vec![0.0; tokens * top_k] };
        if experts == 0 || top_k == 0 {
            return Ok((routing, 0));
        }
        let ids = routing.topk_ids.par_chunks_exact_mut(top_k);
        let weights = routing.topk_weights.par_chunks_exact_mut(top_k);
        let invalid = scores
            .par_chunks_exact_mut(experts)
            .zip(ids.zip(weights))
            .enumerate()
            .map(|(token, (scores, (ids, weights)))| {
                routing::scores(scores, self.config.scoring);
                match hash {
                    None => self.select(scores, ids),
                    Some((table, input_ids)) => {
                        let id =
                            usize::try_from(input_ids[token]).ok().filter(|&i| i < self.config.vocab_size);
                        let Some(id) = id else { return 1 };
                        ids.copy_from_slice(&table[id * top_k..][..top_k]);
                    }
                }
                for (weight, &id) in weights.iter_mut().zip(ids.iter()) {
                    // An id outside the experts (a broken table) is skipped and counted later.
                    *weight = usize::try_from(id).ok().and_then(|id| scores.get(id)).copied().unwrap_or(0.0);
                }
                routing::weights(weights, self.config.norm_topk_prob, self.config.routed_scaling_factor);
                0
            })
            .sum();
        Ok((routing, invalid))
    }

    /// The ids of the largest score + bias.
    fn select(&self, scores: &[f32], ids: &mut [i32]) {
        let mut best = vec![0; ids.len()];
        match &self.weights.selection {
            Selection::TopK { bias: Some(bias) } => {
                let keys: Vec<f32> = scores.iter().zip(bias).map(|(s, b)| s + b).collect();
                routing::top_k(&keys, &mut best);
            }
            _ => routing::top_k(scores, &mut best),
        }
        for (id, best) in ids.iter_mut().zip(best) {
            *id = best as i32;
        }
    }
}
