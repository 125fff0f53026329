//! From configuration and headers to a plan for one layer.

use std::collections::HashSet;

use super::error::{CheckpointError, Result};
use super::find::{Finder, Place};
use super::names::{Module, Proj, Role};
use super::open::Checkpoint;
use super::plan::{Fusion, LayerInfo, LayerPlan, MatrixPlan, RouterPlan, ScaleConvention, Source, Triple};
use crate::weights::LayerConfig;

/// Finds everything that `layer` needs; shapes and dtypes are checked.
pub fn plan(checkpoint: &Checkpoint, layer: usize) -> Result<LayerPlan> {
    let tensors = checkpoint.layer_tensors(layer)?;
    let config = checkpoint.layer_config(layer)?;
    let mut finder = Finder { checkpoint, tensors, warnings: Vec::new() };
    check_expert_range(&finder, &config)?;
    let mut experts = Vec::new();
    for expert in 0..config.experts {
        experts.push(routed(&mut finder, &config, expert)?);
    }
    let shared = shared(&mut finder, &config)?;
    let hash = layer < checkpoint.config().hash_layers;
    let router = router(&mut finder, &config, hash)?;
    let first = experts[0][0];
    let info = LayerInfo {
        block: tensors.block.clone(),
        family: tensors.family,
        experts: first.format(),
        convention: match first {
            MatrixPlan::Nvfp4 { global, .. } if global.divisor => ScaleConvention::Divisor,
            MatrixPlan::Nvfp4 { .. } => ScaleConvention::Multiplier,
            _ => ScaleConvention::None,
        },
        fusion: match expert_place(&finder, &config, 0, Proj::Gate)?.module {
            Module::Stacked(Proj::GateUp) => Fusion::StackedGateUp,
            Module::Stacked(_) => Fusion::Stacked,
            Module::Expert(_, Proj::GateUp) => Fusion::GateUp,
            _ => Fusion::Separate,
        },
        input_scales: experts.iter().flatten().all(|m| m.input().is_some()),
        shared: shared.map(|t| t[0].format()),
        hash,
        bias: router.bias.is_some(),
        bytes: 0,
        warnings: std::mem::take(&mut finder.warnings),
    };
    let mut plan = LayerPlan { layer, config, experts, shared, router, info };
    plan.info.bytes = plan.bytes();
    let unused = unused(&finder, &plan);
    plan.info.warnings.extend(unused);
    Ok(plan)
}

/// A warning about tensors that mean something by their names and were not needed.
fn unused(finder: &Finder, plan: &LayerPlan) -> Option<String> {
    let used: HashSet<usize> = plan.tensors().collect();
    let tensors = finder.tensors.by_meaning.iter().map(|&(_, tensor)| tensor);
    let unused: Vec<usize> = tensors.filter(|t| !used.contains(t)).collect();
    let first = unused.first()?;
    Some(format!("{} tensors of the layer are not used, such as {}", unused.len(), finder.name(*first)))
}

/// No tensor belongs to an expert that config.json does not have.
fn check_expert_range(finder: &Finder, config: &LayerConfig) -> Result<()> {
    for &((module, _), tensor) in &finder.tensors.by_meaning {
        if let Module::Expert(expert, _) = module
            && expert as usize >= config.experts
        {
            return Err(CheckpointError::ExpertOutOfRange {
                file: finder.file(tensor),
                tensor: finder.name(tensor),
                expert: expert as usize,
                experts: config.experts,
            });
        }
    }
    Ok(())
}

/// Gate, up, down: their sizes.
fn sizes(width: usize, hidden: usize) -> [(Proj, usize, usize); 3] {
    [(Proj::Gate, width, hidden), (Proj::Up, width, hidden), (Proj::Down, hidden, width)]
}

/// Part of gate and up in a fused tensor.
fn part(proj: Proj) -> usize {
    usize::from(proj == Proj::Up)
}

fn expert_place(finder: &Finder, config: &LayerConfig, expert: usize, proj: Proj) -> Result<Place> {
    let own = Module::Expert(expert as u32, proj);
    let place = |module, experts, parts| Place { module, experts, expert, parts, part: part(proj) };
    let single = |module| Place { module, experts: 0, expert: 0, parts: 1, part: 0 };
    let mut places = vec![single(own), Place { part: 0, ..place(Module::Stacked(proj), config.experts, 1) }];
    if proj != Proj::Down {
        places.push(Place { expert: 0, ..place(Module::Expert(expert as u32, Proj::GateUp), 0, 2) });
        places.push(place(Module::Stacked(Proj::GateUp), config.experts, 2));
    }
    finder.choose(&places, own)
}

fn routed(finder: &mut Finder, config: &LayerConfig, expert: usize) -> Result<Triple> {
    let [gate, up, down] = sizes(config.intermediate, config.hidden);
    let mut one = |(proj, rows, cols): (Proj, usize, usize)| {
        let place = expert_place(finder, config, expert, proj)?;
        finder.matrix(place, rows, cols, true)
    };
    Ok([one(gate)?, one(up)?, one(down)?])
}

fn shared(finder: &mut Finder, config: &LayerConfig) -> Result<Option<Triple>> {
    let of_shared = |m: Module| matches!(m, Module::Shared(_) | Module::SharedGate);
    let first = finder.tensors.by_meaning.iter().find(|((m, _), _)| of_shared(*m)).map(|&(_, t)| t);
    if let Some(tensor) = finder.tensors.find(Module::SharedGate, Role::Foreign) {
        return Err(finder.unsupported(tensor, "a gate on the shared expert"));
    }
    if config.shared_intermediate == 0 {
        return match first {
            None => Ok(None),
            Some(tensor) => Err(finder.unexpected(tensor, "config.json has no shared experts")),
        };
    }
    let [gate, up, down] = sizes(config.shared_intermediate, config.hidden);
    let mut one = |(proj, rows, cols): (Proj, usize, usize)| {
        let single = Place { module: Module::Shared(proj), experts: 0, expert: 0, parts: 1, part: 0 };
        let fused = Place { module: Module::Shared(Proj::GateUp), parts: 2, part: part(proj), ..single };
        let places = [single, fused];
        let places = if proj == Proj::Down { &places[..1] } else { &places[..] };
        let place = finder.choose(places, Module::Shared(proj))?;
        finder.matrix(place, rows, cols, false)
    };
    Ok(Some([one(gate)?, one(up)?, one(down)?]))
}

fn router(finder: &mut Finder, config: &LayerConfig, hash: bool) -> Result<RouterPlan> {
    use safetensors::Dtype::{BF16, F32, I32, I64};
    if let Some(tensor) = finder.tensors.find(Module::Router, Role::Foreign) {
        return Err(finder.unsupported(tensor, "a quantised router"));
    }
    let whole = |finder: &Finder, tensor: usize, dtypes: &[_], shape: &[usize]| -> Result<Source> {
        finder.check_dtype(tensor, dtypes)?;
        finder.check_shape(tensor, &[shape])?;
        Ok(Source { tensor, offset: 0, bytes: finder.info(tensor).bytes() })
    };
    let weight = finder.need(Module::Router, Role::Weight, "gate.weight", "every layer has a router")?;
    let weight = whole(finder, weight, &[BF16, F32], &[config.experts, config.hidden])?;
    let bias = finder.tensors.find(Module::Router, Role::Bias);
    let table = finder.tensors.find(Module::Router, Role::Table);
    if hash {
        let table = finder.need(
            Module::Router,
            Role::Table,
            "gate.tid2eid",
            "the layer routes by table (num_hash_layers)",
        )?;
        let table = whole(finder, table, &[I64, I32], &[config.vocab_size, config.top_k])?;
        if let Some(bias) = bias {
            finder.warn(format!("{}: ignored, the layer routes by table", finder.name(bias)));
        }
        return Ok(RouterPlan { weight, bias: None, table: Some(table) });
    }
    if let Some(table) = table {
        return Err(finder.unexpected(table, "the layer is beyond num_hash_layers and routes by score"));
    }
    let bias = bias.map(|bias| whole(finder, bias, &[F32, BF16], &[config.experts])).transpose()?;
    Ok(RouterPlan { weight, bias, table: None })
}
