//! Sizes, before anything is indexed.

use super::formats::GROUP;
use crate::error::{Error, Result};
use crate::io::{LayerInput, RoutingSource};
use crate::options::ForwardOptions;
use crate::weights::{FP8_BLOCK, LayerConfig, LayerWeights, Linear, Nvfp4Matrix, Selection};

fn length(what: &str, want: Option<usize>, got: usize) -> Result<()> {
    match want {
        Some(want) if want == got => Ok(()),
        Some(want) => Err(Error::mismatch(what, format!("{want} elements"), got)),
        None => Err(Error::invalid(what, "its size overflows")),
    }
}

fn shape(what: &str, want: (usize, usize), got: (usize, usize)) -> Result<()> {
    if want == got { Ok(()) } else { Err(Error::mismatch(what, format!("{want:?}"), format!("{got:?}"))) }
}

fn nvfp4(what: &str, m: &Nvfp4Matrix, want: (usize, usize)) -> Result<()> {
    shape(what, want, (m.rows, m.cols))?;
    if m.cols == 0 || !m.cols.is_multiple_of(GROUP) {
        return Err(Error::mismatch(what, "a positive multiple of 16 columns", m.cols));
    }
    length(what, m.rows.checked_mul(m.cols / 2), m.packed.len())?;
    length(&format!("{what} scales"), m.rows.checked_mul(m.cols / GROUP), m.scales.len())
}

fn linear(what: &str, m: &Linear, want: (usize, usize)) -> Result<()> {
    match m {
        Linear::Nvfp4(m) => nvfp4(what, m, want),
        Linear::Bf16(m) => {
            shape(what, want, (m.rows, m.cols))?;
            length(what, m.rows.checked_mul(m.cols), m.data.len())
        }
        Linear::Fp8(m) => {
            shape(what, want, (m.rows, m.cols))?;
            length(what, m.rows.checked_mul(m.cols), m.data.len())?;
            let blocks = m.rows.div_ceil(FP8_BLOCK).checked_mul(m.cols.div_ceil(FP8_BLOCK));
            length(&format!("{what} scales"), blocks, m.scales.len())
        }
    }
}

pub(super) fn router(layer: &LayerWeights) -> Result<()> {
    let (Some(router), LayerConfig { hidden, experts, top_k, vocab_size, .. }) =
        (&layer.router, layer.config.clone())
    else {
        return Err(Error::invalid("routing", "the layer has no router: give topk_ids and topk_weights"));
    };
    length("router weight", experts.checked_mul(hidden), router.weight.len())?;
    match &router.selection {
        Selection::TopK { .. } if top_k > experts => {
            Err(Error::invalid("top_k", format!("{top_k} of {experts} experts")))
        }
        Selection::TopK { bias } => {
            bias.as_ref().map_or(Ok(()), |b| length("router bias", Some(experts), b.len()))
        }
        Selection::Hash { tid2eid } => length("tid2eid", vocab_size.checked_mul(top_k), tid2eid.len()),
    }
}

pub(super) fn call(layer: &LayerWeights, input: &LayerInput<'_>, opts: &ForwardOptions) -> Result<()> {
    let c = &layer.config;
    if c.hidden == 0 || c.intermediate == 0 {
        return Err(Error::invalid("config", "hidden and intermediate must be positive"));
    }
    if c.swiglu_limit.is_some_and(|l| l.is_nan() || l <= 0.0) {
        return Err(Error::invalid("swiglu_limit", "must be positive"));
    }
    length("experts", Some(c.experts), layer.experts.len())?;
    for (e, expert) in layer.experts.iter().enumerate() {
        nvfp4(&format!("expert {e} gate"), &expert.gate, (c.intermediate, c.hidden))?;
        nvfp4(&format!("expert {e} up"), &expert.up, (c.intermediate, c.hidden))?;
        nvfp4(&format!("expert {e} down"), &expert.down, (c.hidden, c.intermediate))?;
    }
    if let Some(shared) = &layer.shared {
        linear("shared gate", &shared.gate, (c.shared_intermediate, c.hidden))?;
        linear("shared up", &shared.up, (c.shared_intermediate, c.hidden))?;
        linear("shared down", &shared.down, (c.hidden, c.shared_intermediate))?;
    }
    length("hidden_states", input.tokens.checked_mul(c.hidden), input.hidden_states.len())?;
    match input.routing {
        RoutingSource::Model { input_ids: None } => {}
        RoutingSource::Model { input_ids: Some(ids) } => length("input_ids", Some(input.tokens), ids.len())?,
        RoutingSource::Given { topk_ids, topk_weights } => {
            let slots = input.tokens.checked_mul(c.top_k);
            length("topk_ids", slots, topk_ids.len())?;
            length("topk_weights", slots, topk_weights.len())?;
        }
    }
    match &opts.local_experts {
        Some(r) if r.start > r.end || r.end > c.experts => {
            Err(Error::invalid("local_experts", format!("{r:?} is not a range within {} experts", c.experts)))
        }
        _ => Ok(()),
    }
}
