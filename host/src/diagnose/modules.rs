//! The exclude lists against what is stored.

use std::collections::BTreeSet;

use safetensors::Dtype;

use super::context::Context;
use super::{Finding, Verdict};
use crate::error::Result;

pub(super) const NAME: &str = "modules";

/// Patterns that cover nothing in the checkpoint (fine for parts that were left out, such as `mtp.*`), and modules of
/// the layer that are not FP4 though nothing excludes them.
pub(super) fn modules(context: &Context<'_>) -> Result<Finding> {
    let excludes = &context.checkpoint.config().quant.excludes;
    let mut modules: BTreeSet<&str> = BTreeSet::new();
    let mut plain: BTreeSet<&str> = BTreeSet::new();
    let layer = format!("layers.{}.", context.weights.layer);
    for t in context.checkpoint.tensors() {
        let module = super::raw::parse(t.name()).map_or(t.name(), |(module, _)| module);
        modules.insert(module);
        let of_layer = t.name().starts_with(&layer) || t.name().contains(&format!(".{layer}"));
        let wide = matches!(t.dtype(), Dtype::BF16 | Dtype::F16 | Dtype::F8_E4M3);
        let weight = matches!(super::raw::parse(t.name()), Some((_, super::raw::Kind::Weight)));
        if of_layer && wide && weight && module.contains("shared_expert") {
            plain.insert(module);
        }
    }
    let unused: Vec<&str> = excludes
        .iter()
        .filter(|p| p.is_understood() && !modules.iter().any(|m| p.matches(m)))
        .map(|p| p.as_str())
        .collect();
    let unlisted: Vec<&str> = plain.into_iter().filter(|m| !excludes.iter().any(|p| p.matches(m))).collect();
    let (verdict, reason) = match unlisted.first() {
        Some(first) if !excludes.is_empty() => {
            let n = unlisted.len();
            (Verdict::Warn, format!("{n} modules are not FP4 and in no exclude list (first: {first})"))
        }
        _ if excludes.is_empty() => (Verdict::Ok, "no exclude lists".to_owned()),
        _ if unused.is_empty() => (Verdict::Ok, format!("{} exclude patterns, all in use", excludes.len())),
        _ => {
            let what = format!("{} exclude patterns; nothing here for {}", excludes.len(), unused.join(", "));
            (Verdict::Ok, what)
        }
    };
    let finding = Finding::new(NAME, verdict, reason).count("patterns", excludes.len() as u64);
    Ok(finding.count("unused", unused.len() as u64).count("unlisted", unlisted.len() as u64))
}
