//! Gate against up, and experts against each other.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use rayon::prelude::*;

use super::context::Context;
use super::{Finding, Verdict, percent};
use crate::error::Result;
use crate::weights::{Linear, Nvfp4Matrix};

pub(super) const GATE_UP: &str = "gate_up_scales";
pub(super) const DUPLICATES: &str = "duplicate_weights";

/// The global scales of gate and up of each expert: one alpha for both is wrong by their ratio.
pub(super) fn gate_up(context: &Context<'_>) -> Result<Finding> {
    let mut pairs: Vec<(String, f32, f32)> = Vec::new();
    for (e, expert) in context.weights.experts.iter().enumerate() {
        pairs.push((format!("expert {e}"), expert.gate.global_scale, expert.up.global_scale));
    }
    if let Some(s) = &context.weights.shared
        && let (Linear::Nvfp4(gate), Linear::Nvfp4(up)) = (&s.gate, &s.up)
    {
        pairs.push(("the shared expert".to_owned(), gate.global_scale, up.global_scale));
    }
    let ratio = |p: &(String, f32, f32)| {
        let r = f64::from(p.1) / f64::from(p.2);
        r.max(1.0 / r)
    };
    let differ = pairs.iter().filter(|p| p.1 != p.2).count();
    let all = pairs.len();
    let worst = pairs.iter().max_by(|a, b| ratio(a).total_cmp(&ratio(b)));
    let max_ratio = worst.map_or(1.0, ratio);
    let (verdict, reason) = match worst {
        Some((who, gate, up)) if differ > 0 => {
            let what = format!(
                "{differ} of {all} differ, by up to {max_ratio:.3} ({who}: gate {gate:.4e}, up {up:.4e}); both alphas \
                 are kept, gate's for both would be off by {}",
                percent((f64::from(*gate) / f64::from(*up) - 1.0).abs())
            );
            (Verdict::Warn, what)
        }
        _ => (Verdict::Ok, format!("equal in all {all}: one alpha would do")),
    };
    let finding = Finding::new(GATE_UP, verdict, reason);
    Ok(finding.count("differ", differ as u64).count("pairs", all as u64).with("max_ratio", max_ratio))
}

fn digest(m: &Nvfp4Matrix) -> u64 {
    let mut hasher = DefaultHasher::new();
    (m.rows, m.cols, &m.packed, &m.scales, m.global_scale.to_bits()).hash(&mut hasher);
    hasher.finish()
}

/// Experts with the same weights, and experts whose gate is their up.
pub(super) fn duplicates(context: &Context<'_>) -> Result<Finding> {
    let experts = &context.weights.experts;
    let digests: Vec<[u64; 3]> =
        experts.par_iter().map(|e| [digest(&e.gate), digest(&e.up), digest(&e.down)]).collect();
    let mut first: HashMap<[u64; 3], usize> = HashMap::new();
    let mut twins = Vec::new();
    for (e, d) in digests.iter().enumerate() {
        match first.get(d) {
            // Equal digests are not proof; equal weights are.
            Some(&other) if experts[other] == experts[e] => twins.push((other, e)),
            _ => {
                first.insert(*d, e);
            }
        }
    }
    let same: Vec<usize> = (0..experts.len()).filter(|&e| experts[e].gate == experts[e].up).collect();
    let (verdict, reason) = match (same.first(), twins.first()) {
        (Some(e), _) => {
            (Verdict::Fail, format!("gate and up of {} experts are the same (first: expert {e})", same.len()))
        }
        (None, Some((a, b))) => {
            (Verdict::Warn, format!("{} experts repeat another one (first: {b} is {a})", twins.len()))
        }
        (None, None) => (Verdict::Ok, format!("{} experts, all different", experts.len())),
    };
    let finding = Finding::new(DUPLICATES, verdict, reason);
    Ok(finding.count("repeated", twins.len() as u64).count("gate_is_up", same.len() as u64))
}
