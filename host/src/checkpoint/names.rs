//! Tensor names: a table of the spellings in use, and what each means.
//!
//! ```text
//! PREFIX layers.N.BLOCK.experts.E.PROJ.SUFFIX          one expert
//! PREFIX layers.N.BLOCK.experts.PROJ.E.SUFFIX          the same, as ModelOpt unpacks fused experts
//! PREFIX layers.N.BLOCK.experts.PROJ[._]SUFFIX         all experts stacked; no suffix is the weight
//! PREFIX layers.N.BLOCK.shared_experts.PROJ.SUFFIX     the shared expert (also shared_expert)
//! PREFIX layers.N.BLOCK.gate.(weight|bias|e_score_correction_bias|tid2eid)
//! ```

/// Prefixes in front of `layers.N`.
const PREFIXES: [&str; 4] = ["", "model.", "language_model.model.", "model.language_model."];
/// Names of the MoE block.
const BLOCKS: [&str; 3] = ["ffn", "mlp", "block_sparse_moe"];
/// Names of the shared expert.
const SHARED: [&str; 2] = ["shared_experts", "shared_expert"];

/// A projection of an expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Proj {
    /// `w1`, `gate_proj`
    Gate,
    /// `w3`, `up_proj`
    Up,
    /// `w2`, `down_proj`
    Down,
    /// `w13`, `gate_up_proj`: gate over up.
    GateUp,
}

/// Spelling, meaning and family; longer names before their prefixes.
const PROJECTIONS: [(&str, Proj, NameFamily); 8] = [
    ("gate_up_proj", Proj::GateUp, NameFamily::HuggingFace),
    ("gate_proj", Proj::Gate, NameFamily::HuggingFace),
    ("up_proj", Proj::Up, NameFamily::HuggingFace),
    ("down_proj", Proj::Down, NameFamily::HuggingFace),
    ("w13", Proj::GateUp, NameFamily::DeepSeek),
    ("w1", Proj::Gate, NameFamily::DeepSeek),
    ("w3", Proj::Up, NameFamily::DeepSeek),
    ("w2", Proj::Down, NameFamily::DeepSeek),
];

/// How the projections of a layer are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NameFamily {
    /// `w1`, `w3`, `w2` (and `w13`): DeepSeek's own names.
    DeepSeek,
    /// `gate_proj`, `up_proj`, `down_proj` (and `gate_up_proj`): Hugging Face names.
    HuggingFace,
}

impl std::fmt::Display for NameFamily {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(match self {
            NameFamily::DeepSeek => "DeepSeek native (w1, w3, w2)",
            NameFamily::HuggingFace => "Hugging Face (gate_proj, up_proj, down_proj)",
        })
    }
}

/// The module that a tensor belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Module {
    /// A projection of one routed expert.
    Expert(u32, Proj),
    /// A projection of all routed experts.
    Stacked(Proj),
    /// A projection of the shared expert.
    Shared(Proj),
    /// The router.
    Router,
    /// A gate on the shared expert (Qwen), which is not supported.
    SharedGate,
}

/// The role of a tensor in its module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// `weight`
    Weight,
    /// `weight_packed`
    WeightPacked,
    /// `weight_scale`
    WeightScale,
    /// `scale`
    Scale,
    /// `weight_scale_inv`
    WeightScaleInv,
    /// `weight_scale_2`
    WeightScale2,
    /// `weight_global_scale`, a divisor
    WeightGlobalScale,
    /// `input_scale`
    InputScale,
    /// `input_global_scale`, a divisor
    InputGlobalScale,
    /// `bias` or `e_score_correction_bias` of the router
    Bias,
    /// `tid2eid`
    Table,
    /// Something that changes the result and is not supported: a bias, a zero point, a pre-scale.
    Foreign,
    /// Anything else, ignored.
    Other,
}

const ROLES: [(&str, Role); 15] = [
    ("weight", Role::Weight),
    ("weight_packed", Role::WeightPacked),
    ("weight_scale", Role::WeightScale),
    ("scale", Role::Scale),
    ("weight_scale_inv", Role::WeightScaleInv),
    ("scale_inv", Role::WeightScaleInv),
    ("weight_scale_2", Role::WeightScale2),
    ("scale_2", Role::WeightScale2),
    ("weight_global_scale", Role::WeightGlobalScale),
    ("input_scale", Role::InputScale),
    ("input_global_scale", Role::InputGlobalScale),
    ("bias", Role::Foreign),
    ("pre_quant_scale", Role::Foreign),
    ("weight_zero_point", Role::Foreign),
    ("weight_g_idx", Role::Foreign),
];

/// A parsed name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed<'a> {
    /// Layer index.
    pub layer: usize,
    /// Module.
    pub module: Module,
    /// Role in the module.
    pub role: Role,
    /// Name up to and including the block: `model.layers.3.mlp`.
    pub block: &'a str,
    /// Naming family, where the name shows it.
    pub family: Option<NameFamily>,
}

/// What a tensor name means; `None` for tensors outside MoE blocks.
pub fn parse(name: &str) -> Option<Parsed<'_>> {
    let rest = PREFIXES.iter().find_map(|p| name.strip_prefix(p)?.strip_prefix("layers."))?;
    let (layer, rest) = rest.split_once('.')?;
    let layer = number(layer)?;
    let (block, rest) = rest.split_once('.')?;
    if !BLOCKS.contains(&block) {
        return None;
    }
    let block = &name[..name.len() - rest.len() - 1];
    let parsed = |module, role, family| Some(Parsed { layer, module, role, block, family });
    let (head, tail) = rest.split_once('.').unwrap_or((rest, ""));
    match head {
        "experts" => {
            let (next, after) = tail.split_once('.').unwrap_or((tail, ""));
            if let Some(expert) = number(next) {
                let (proj, family, suffix) = projection(after)?;
                return parsed(Module::Expert(expert as u32, proj), role(suffix), Some(family));
            }
            let (proj, family, suffix) = projection(tail)?;
            let (next, after) = suffix.split_once('.').unwrap_or((suffix, ""));
            match number(next) {
                Some(expert) => parsed(Module::Expert(expert as u32, proj), role(after), Some(family)),
                None => parsed(Module::Stacked(proj), role(suffix), Some(family)),
            }
        }
        "gate" => parsed(Module::Router, router_role(tail), None),
        "shared_expert_gate" => parsed(Module::SharedGate, Role::Foreign, None),
        _ if SHARED.contains(&head) => {
            let (proj, family, suffix) = projection(tail)?;
            parsed(Module::Shared(proj), role(suffix), Some(family))
        }
        _ => None,
    }
}

/// An index as PyTorch writes it: decimal, no sign, no leading zero, below 2^20.
fn number(text: &str) -> Option<usize> {
    let canonical = !text.is_empty() && (text == "0" || !text.starts_with('0'));
    let digits = canonical && text.len() <= 7 && text.bytes().all(|b| b.is_ascii_digit());
    let value = if digits { text.parse::<usize>().ok() } else { None };
    value.filter(|&n| n < 1 << 20)
}

/// Splits `w1.weight` or `gate_up_proj_weight_scale` into projection and suffix.
fn projection(text: &str) -> Option<(Proj, NameFamily, &str)> {
    PROJECTIONS.iter().find_map(|&(name, proj, family)| {
        let rest = text.strip_prefix(name)?;
        let suffix = match rest.as_bytes().first() {
            None => "",
            Some(b'.' | b'_') => &rest[1..],
            Some(_) => return None,
        };
        Some((proj, family, suffix))
    })
}

fn role(suffix: &str) -> Role {
    if suffix.is_empty() {
        return Role::Weight;
    }
    ROLES.iter().find(|(name, _)| *name == suffix).map_or(Role::Other, |&(_, role)| role)
}

fn router_role(suffix: &str) -> Role {
    match suffix {
        "weight" => Role::Weight,
        "bias" | "e_score_correction_bias" => Role::Bias,
        "tid2eid" => Role::Table,
        "weight_scale" | "weight_packed" | "weight_scale_2" | "scale" | "weight_scale_inv" => Role::Foreign,
        _ => Role::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings() {
        use Module::*;
        for (name, layer, module, role) in [
            ("layers.0.ffn.experts.7.w1.weight", 0, Expert(7, Proj::Gate), Role::Weight),
            ("model.layers.12.ffn.experts.0.w3.weight_scale_2", 12, Expert(0, Proj::Up), Role::WeightScale2),
            (
                "model.layers.3.mlp.experts.383.down_proj.input_scale",
                3,
                Expert(383, Proj::Down),
                Role::InputScale,
            ),
            ("layers.0.ffn.experts.7.w13.weight", 0, Expert(7, Proj::GateUp), Role::Weight),
            ("model.layers.3.mlp.experts.gate_up_proj", 3, Stacked(Proj::GateUp), Role::Weight),
            (
                "model.layers.3.mlp.experts.gate_up_proj_weight_scale",
                3,
                Stacked(Proj::GateUp),
                Role::WeightScale,
            ),
            (
                "model.layers.3.mlp.experts.gate_up_proj.weight_packed",
                3,
                Stacked(Proj::GateUp),
                Role::WeightPacked,
            ),
            ("model.layers.3.mlp.experts.w2_weight", 3, Stacked(Proj::Down), Role::Weight),
            ("model.layers.3.mlp.experts.down_proj.5.weight", 3, Expert(5, Proj::Down), Role::Weight),
            ("layers.1.ffn.shared_experts.w2.scale", 1, Shared(Proj::Down), Role::Scale),
            (
                "model.layers.1.mlp.shared_expert.up_proj.weight_scale_inv",
                1,
                Shared(Proj::Up),
                Role::WeightScaleInv,
            ),
            ("layers.1.ffn.gate.tid2eid", 1, Router, Role::Table),
            ("model.layers.1.mlp.gate.e_score_correction_bias", 1, Router, Role::Bias),
            ("model.layers.1.mlp.shared_expert_gate.weight", 1, SharedGate, Role::Foreign),
            ("layers.0.ffn.experts.7.w1.bias", 0, Expert(7, Proj::Gate), Role::Foreign),
            ("layers.0.ffn.experts.7.w1.weight_shape", 0, Expert(7, Proj::Gate), Role::Other),
        ] {
            let parsed = parse(name).unwrap_or_else(|| panic!("{name}"));
            assert_eq!((parsed.layer, parsed.module, parsed.role), (layer, module, role), "{name}");
            assert!(
                name.starts_with(parsed.block) && !parsed.block.ends_with('.'),
                "{name}: {}",
                parsed.block
            );
        }
    }

    #[test]
    fn other_tensors() {
        for name in [
            "embed.weight",
            "layers.0.attn.wq_a.weight",
            "model.layers.0.mlp.gate_proj.weight",
            "mtp.0.ffn.experts.0.w1.weight",
            "layers.00.ffn.experts.0.w1.weight",
            "layers.x.ffn.experts.0.w1.weight",
            "layers.0.ffn.experts.-1.w1.weight",
            "layers.0.ffn.experts.0.w4.weight",
            "layers.0.ffn.experts.0.w10.weight",
            "layers.99999999999999999999.ffn.gate.weight",
            "layers.0.ffn",
            "layers..ffn.gate.weight",
            "",
        ] {
            assert_eq!(parse(name), None, "{name}");
        }
    }
}
