//! Scales as bytes, whether the layer loads or not.

use rayon::prelude::*;
use safetensors::Dtype;

use super::{Finding, Verdict, plural};
use crate::checkpoint::{Checkpoint, TensorInfo};
use crate::error::Result;

pub(super) const BLOCK_BYTES: &str = "block_scale_bytes";
pub(super) const GLOBALS: &str = "global_scales";

/// What a tensor of an expert is, by the last part of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Weight,
    BlockScale,
    Global { divisor: bool },
    Input { divisor: bool },
}

const SUFFIXES: [(&str, Kind); 9] = [
    ("weight_scale_2", Kind::Global { divisor: false }),
    ("weight_global_scale", Kind::Global { divisor: true }),
    ("input_scale", Kind::Input { divisor: false }),
    ("input_global_scale", Kind::Input { divisor: true }),
    ("weight_scale", Kind::BlockScale),
    ("weight_packed", Kind::Weight),
    ("weight", Kind::Weight),
    ("scale", Kind::BlockScale),
    ("scale_2", Kind::Global { divisor: false }),
];

/// Module name and kind.
pub(super) fn parse(name: &str) -> Option<(&str, Kind)> {
    let hit = |&(suffix, kind): &(&str, Kind)| {
        let module = name.strip_suffix(suffix)?.strip_suffix(['.', '_'])?;
        Some((suffix.len(), module, kind))
    };
    SUFFIXES.iter().filter_map(hit).max_by_key(|(len, ..)| *len).map(|(_, module, kind)| (module, kind))
}

/// Whether a tensor belongs to an expert (shared ones included) of the layer.
pub(super) fn is_of_expert(name: &str, layer: usize) -> bool {
    let layer = layer.to_string();
    let parts: Vec<&str> = name.split('.').collect();
    let at = parts.windows(2).position(|w| w[0] == "layers" && w[1] == layer);
    at.is_some_and(|i| {
        parts[i + 2..].iter().any(|p| p.starts_with("experts") || p.starts_with("shared_expert"))
    })
}

pub(super) fn expert_tensors(checkpoint: &Checkpoint, layer: usize) -> Vec<&TensorInfo> {
    checkpoint.tensors().iter().filter(|t| is_of_expert(t.name(), layer)).collect()
}

#[derive(Default)]
struct Bytes {
    scales: u64,
    nan: u64,
    negative: u64,
    /// The first tensor with a bad byte, and where.
    first: Option<String>,
}

/// NaN (0x7F, 0xFF) and negative codes in E4M3 block scales, NaN (0xFF) in E8M0 ones.
pub(super) fn block_scale_bytes(checkpoint: &Checkpoint, layer: usize) -> Result<Finding> {
    let of_scale = |t: &&&TensorInfo| {
        matches!(t.dtype(), Dtype::F8_E4M3 | Dtype::F8_E8M0)
            && matches!(parse(t.name()), Some((_, Kind::BlockScale)))
    };
    let tensors = expert_tensors(checkpoint, layer);
    let counted: Vec<Bytes> = tensors
        .par_iter()
        .filter(of_scale)
        .map(|t| {
            let data = checkpoint.read_tensor(t.name())?;
            let e4m3 = t.dtype() == Dtype::F8_E4M3;
            let nan = |b: u8| if e4m3 { b & 0x7f == 0x7f } else { b == 0xff };
            let negative = |b: u8| e4m3 && b & 0x80 != 0 && !nan(b);
            let first = data.iter().position(|&b| nan(b) || negative(b));
            let count = |f: &dyn Fn(u8) -> bool| data.iter().filter(|&&b| f(b)).count() as u64;
            Ok(Bytes {
                scales: data.len() as u64,
                nan: count(&nan),
                negative: count(&negative),
                first: first.map(|i| format!("{}[{i}] = {:#04x}", t.name(), data[i])),
            })
        })
        .collect::<Result<_>>()?;
    let sum = |f: fn(&Bytes) -> u64| counted.iter().map(f).sum::<u64>();
    let (scales, nan, negative) = (sum(|b| b.scales), sum(|b| b.nan), sum(|b| b.negative));
    let (verdict, reason) = match counted.iter().find_map(|b| b.first.as_ref()) {
        Some(first) => {
            (Verdict::Fail, format!("{nan} NaN and {negative} negative of {scales}, first: {first}"))
        }
        None if scales == 0 => (Verdict::Warn, "the layer has no FP8 block scales".to_owned()),
        None => (Verdict::Ok, format!("{scales} block scales, none NaN or negative")),
    };
    let finding = Finding::new(BLOCK_BYTES, verdict, reason);
    Ok(finding.count("scales", scales).count("nan", nan).count("negative", negative))
}

/// Global scales and calibrated activation scales must be normal and positive, as multipliers.
pub(super) fn global_scales(checkpoint: &Checkpoint, layer: usize) -> Result<Finding> {
    let (mut values, mut bad) = (0usize, Vec::new());
    let (mut low, mut high) = (f32::INFINITY, 0.0f32);
    for t in expert_tensors(checkpoint, layer) {
        let (divisor, weight) = match parse(t.name()) {
            Some((_, Kind::Global { divisor })) => (divisor, true),
            Some((_, Kind::Input { divisor })) => (divisor, false),
            _ => continue,
        };
        if t.dtype() != Dtype::F32 {
            bad.push(format!("{} is {:?}", t.name(), t.dtype()));
            continue;
        }
        let data = checkpoint.read_tensor(t.name())?;
        for (i, bytes) in data.as_chunks::<4>().0.iter().enumerate() {
            let stored = f32::from_le_bytes(*bytes);
            let value = if divisor { 1.0 / stored } else { stored };
            values += 1;
            if !(stored.is_normal() && value.is_normal() && value > 0.0) {
                bad.push(format!("{}[{i}] = {stored:e}", t.name()));
            } else if weight {
                (low, high) = (low.min(value), high.max(value));
            }
        }
    }
    let (verdict, reason) = match bad.first() {
        Some(first) => (
            Verdict::Fail,
            format!("{} of {values} unusable, first: {first}", plural(bad.len(), "scale", "scales")),
        ),
        None if values == 0 => (Verdict::Ok, "the layer has none (MXFP4)".to_owned()),
        None => (Verdict::Ok, format!("{values} scales; of weights {low:.3e} to {high:.3e}")),
    };
    let finding = Finding::new(GLOBALS, verdict, reason).count("scales", values as u64);
    Ok(finding.count("bad", bad.len() as u64).with("min", low).with("max", high))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (name, module, kind) in [
            ("a.experts.3.w1.weight_scale_2", "a.experts.3.w1", Kind::Global { divisor: false }),
            ("a.experts.3.w1.weight_scale", "a.experts.3.w1", Kind::BlockScale),
            ("a.experts.3.w1.weight", "a.experts.3.w1", Kind::Weight),
            ("a.experts.gate_up_proj_weight_packed", "a.experts.gate_up_proj", Kind::Weight),
            ("a.experts.w2.scale", "a.experts.w2", Kind::BlockScale),
            ("a.w1.input_global_scale", "a.w1", Kind::Input { divisor: true }),
        ] {
            assert_eq!(parse(name), Some((module, kind)), "{name}");
        }
        assert_eq!(parse("a.experts.3.w1.bias"), None);
        assert!(is_of_expert("model.layers.3.mlp.experts.0.gate_proj.weight", 3));
        assert!(is_of_expert("layers.3.ffn.shared_experts.w1.weight", 3));
        assert!(!is_of_expert("layers.30.ffn.experts.0.w1.weight", 3));
        assert!(!is_of_expert("layers.3.ffn.gate.weight", 3));
    }
}
