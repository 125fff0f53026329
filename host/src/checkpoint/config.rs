//! `config.json`, validated: it is as untrusted as the weights.

use std::path::Path;

use nvfp4::routing::Scoring;

use super::error::Result;
use super::fields::Fields;
use super::json::{self, Json};
use super::quant::QuantConfig;
use crate::weights::LayerConfig;

/// Largest model or expert width.
const MAX_WIDTH: u64 = 1 << 20;
/// Largest number of routed experts.
const MAX_EXPERTS: u64 = 65_536;
/// Largest number of experts per token.
const MAX_TOP_K: u64 = 64;

/// A model, as far as its MoE layers go.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ModelConfig {
    /// `model_type`, empty if absent.
    pub model_type: String,
    /// Number of decoder layers.
    pub layers: usize,
    /// Multi-token-prediction layers, numbered behind the decoder's where they are stored as layers.
    pub nextn_layers: usize,
    /// The first so many layers route by the table `tid2eid`.
    pub hash_layers: usize,
    /// Sizes and constants of every MoE layer.
    pub layer: LayerConfig,
    /// How the checkpoint was quantised, by its own account.
    pub quant: QuantConfig,
}

/// What a model type means where its configuration is silent.
struct Defaults {
    scoring: Option<Scoring>,
    norm_topk_prob: Option<bool>,
    routed_scaling_factor: Option<f32>,
}

/// The defaults of the models' own reference code. An unknown model must say it all.
fn defaults(model_type: &str) -> Defaults {
    let (scoring, norm, factor) = match model_type {
        "deepseek_v4" => (Some(Scoring::SqrtSoftplus), Some(true), None),
        "deepseek_v3" | "deepseek_v32" | "kimi_k2" => (Some(Scoring::Sigmoid), Some(true), None),
        "deepseek_v2" => (Some(Scoring::Softmax), Some(false), Some(1.0)),
        "glm4_moe" => (Some(Scoring::Sigmoid), Some(true), Some(1.0)),
        "mixtral" => (Some(Scoring::Softmax), Some(true), Some(1.0)),
        "qwen2_moe" | "qwen3_moe" => (Some(Scoring::Softmax), Some(false), Some(1.0)),
        "qwen3_next" | "qwen3_vl_moe" | "qwen3_vl_moe_text" => {
            (Some(Scoring::Softmax), Some(true), Some(1.0))
        }
        _ => (None, None, Some(1.0)),
    };
    Defaults { scoring, norm_topk_prob: norm, routed_scaling_factor: factor }
}

/// Reads `config.json` and, if there is one, `hf_quant_config.json`.
pub fn read(dir: &Path) -> Result<ModelConfig> {
    let file = dir.join("config.json");
    let document = json::read(&file)?;
    let quant_file = dir.join("hf_quant_config.json");
    let quant_document = if quant_file.exists() { Some(json::read(&quant_file)?) } else { None };
    build((&file, &document), quant_document.as_ref().map(|d| (&*quant_file, d)))
}

/// Parses a `config.json`; `file` is for messages.
///
/// # Errors
/// `ConfigMissing`, `ConfigType`, `ConfigRange` and `Unsupported` of [`super::CheckpointError`] name the field.
pub fn parse(file: &Path, text: &[u8]) -> Result<ModelConfig> {
    build((file, &json::parse(file, text)?), None)
}

fn build(config: (&Path, &Json), quant: Option<(&Path, &Json)>) -> Result<ModelConfig> {
    let top = Fields::new(config.0, config.1, "")?;
    // Multimodal models keep the language model's fields one level down.
    let nested =
        if top.get(&["hidden_size"])?.is_none() { top.object("text_config", "text_config.")? } else { None };
    let fields = nested.unwrap_or(top);
    let model_type = fields.string(&["model_type"])?.unwrap_or_default();
    if matches!(model_type, "gpt_oss" | "llama4" | "llama4_text") {
        return Err(fields.unsupported("model_type", model_type, "its experts compute another function"));
    }
    let layers = fields.integer(&["num_hidden_layers", "n_layers"], 1..=65_536, None)?;
    let layer = layer(&fields, model_type)?;
    Ok(ModelConfig {
        model_type: model_type.to_owned(),
        layers,
        nextn_layers: fields.integer(&["num_nextn_predict_layers"], 0..=64, Some(0))?,
        hash_layers: fields.integer(&["num_hash_layers"], 0..=layers as u64, Some(0))?,
        layer,
        quant: QuantConfig::build(&top, quant)?,
    })
}

fn layer(fields: &Fields, model_type: &str) -> Result<LayerConfig> {
    let defaults = defaults(model_type);
    let hidden = width(fields, "hidden_size")?;
    // `intermediate_size` is the dense width where both are given.
    const EXPERT_WIDTH: [&str; 2] = ["moe_intermediate_size", "intermediate_size"];
    let mut given = EXPERT_WIDTH.into_iter().filter(|name| matches!(fields.get(&[name]), Ok(Some(_))));
    let intermediate = width(fields, given.next().ok_or_else(|| fields.missing(&EXPERT_WIDTH))?)?;
    let experts =
        fields.integer(&["n_routed_experts", "num_experts", "num_local_experts"], 1..=MAX_EXPERTS, None)?;
    let top_k = fields.integer(
        &["num_experts_per_tok", "num_experts_per_token", "moe_topk"],
        1..=MAX_TOP_K.min(experts as u64),
        None,
    )?;
    for name in ["n_group", "num_expert_group", "topk_group"] {
        let groups = fields.integer(&[name], 0..=MAX_EXPERTS, Some(1))?;
        if groups > 1 {
            return Err(fields.unsupported(name, groups, "group-limited routing"));
        }
    }
    if let Some(act) = fields.string(&["hidden_act", "hidden_activation"])?
        && !matches!(act, "silu" | "swish")
    {
        return Err(fields.unsupported("hidden_act", act, "experts are SwiGLU with SiLU"));
    }
    let scoring = match fields.string(&["scoring_func", "moe_router_activation_func"])? {
        Some("sqrtsoftplus") => Scoring::SqrtSoftplus,
        Some("sigmoid") => Scoring::Sigmoid,
        Some("softmax") => Scoring::Softmax,
        Some(other) => {
            return Err(fields.unsupported("scoring_func", other, "known: sqrtsoftplus, sigmoid, softmax"));
        }
        None => defaults.scoring.ok_or_else(|| fields.missing(&["scoring_func"]))?,
    };
    Ok(LayerConfig {
        hidden,
        intermediate,
        experts,
        top_k,
        shared_intermediate: shared_intermediate(fields, intermediate)?,
        scoring,
        norm_topk_prob: match fields.boolean(&["norm_topk_prob"])? {
            Some(norm) => norm,
            None => defaults.norm_topk_prob.ok_or_else(|| fields.missing(&["norm_topk_prob"]))?,
        },
        routed_scaling_factor: match fields.positive(&["routed_scaling_factor"])? {
            Some(factor) => factor,
            None => {
                defaults.routed_scaling_factor.ok_or_else(|| fields.missing(&["routed_scaling_factor"]))?
            }
        },
        swiglu_limit: fields.positive(&["swiglu_limit"])?,
        vocab_size: fields.integer(&["vocab_size"], 1..=1 << 31, None)?,
    })
}

fn width(fields: &Fields, name: &str) -> Result<usize> {
    let width = fields.integer(&[name], 1..=MAX_WIDTH, None)?;
    if width % nvfp4::BLOCK != 0 {
        return Err(fields.range(name, "a positive multiple of 16", &Json::Unsigned(width as u64)));
    }
    Ok(width)
}

fn shared_intermediate(fields: &Fields, intermediate: usize) -> Result<usize> {
    const COUNT: [&str; 2] = ["n_shared_experts", "num_shared_experts"];
    const WIDTH: &str = "shared_expert_intermediate_size";
    let count = fields.get(&COUNT)?.map(|_| fields.integer(&COUNT, 0..=64, None)).transpose()?;
    let own_width = fields.integer(&[WIDTH], 0..=MAX_WIDTH, Some(0))?;
    match (count, own_width) {
        (Some(0), _) | (None, 0) => Ok(0),
        (Some(n), 0) => {
            let width = n * intermediate;
            let found = Json::Unsigned(width as u64);
            if width as u64 <= MAX_WIDTH {
                Ok(width)
            } else {
                Err(fields.range(COUNT[0], format!("a shared width of at most {MAX_WIDTH}"), &found))
            }
        }
        _ => width(fields, WIDTH),
    }
}
