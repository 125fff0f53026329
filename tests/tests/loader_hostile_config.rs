//! Broken configurations are refused at opening, each with its own error that names document and field.

use std::fs;

use megamoe::checkpoint::{Checkpoint, CheckpointError as E};
use megamoe_tests::checkpoint_writer::{CheckpointSpec, RawCheckpoint};
use serde_json::{Value, json};

fn small() -> RawCheckpoint {
    CheckpointSpec { hidden: 32, intermediate: 32, experts: 4, top_k: 2, vocab_size: 4, ..Default::default() }
        .build()
}

fn open(raw: &RawCheckpoint) -> Result<Checkpoint, E> {
    let dir = tempfile::tempdir().unwrap();
    raw.write(dir.path()).unwrap();
    Checkpoint::open(dir.path())
}

/// Opens a checkpoint after a change of its documents, which must fail.
fn refused(change: impl FnOnce(&mut RawCheckpoint)) -> E {
    let mut raw = small();
    change(&mut raw);
    open(&raw).map(|_| ()).expect_err("must be refused")
}

/// With one field of config.json set; `null` removes it.
fn set(field: &str, value: Value) -> E {
    refused(|raw| raw.config[field] = value)
}

/// With config.json of this text.
fn text(text: &str) -> E {
    let dir = tempfile::tempdir().unwrap();
    small().write(dir.path()).unwrap();
    fs::write(dir.path().join("config.json"), text).unwrap();
    Checkpoint::open(dir.path()).map(|_| ()).expect_err("must be refused")
}

macro_rules! refuses {
    ($($name:ident: $error:expr, $pattern:pat, [$($needle:expr),*];)*) => {$(
        #[test]
        fn $name() {
            let error = $error;
            assert!(matches!(error, $pattern), "{error:?}");
            let text = error.to_string();
            $(assert!(text.contains($needle), "{:?} not in {text:?}", $needle);)*
        }
    )*};
}

const C: &str = "config.json";
const Q: &str = "hf_quant_config.json";

// ---- the document -------------------------------------------------------------------------------------------

refuses! {
    an_empty_document: text(""), E::Json { .. }, [C];
    not_json: text("{hidden_size: 1}"), E::Json { .. }, [C, "line 1"];
    an_array: text("[]"), E::ConfigType { .. }, [C, "an object"];
    a_number: text("7"), E::ConfigType { .. }, [C];
    two_documents: text("{}{}"), E::Json { .. }, [C];
    deep_nesting: text(&"[".repeat(100_000)), E::Json { .. }, [C, "recursion"];
    a_field_twice: text("{\"hidden_size\":16,\"hidden_size\":32}"), E::DuplicateKey { .. }, [C, "hidden_size"];
    a_nested_field_twice: text("{\"quantization_config\":{\"ignore\":[],\"ignore\":[]}}"), E::DuplicateKey { .. }, [C, "ignore"];
    not_a_number: text("{\"swiglu_limit\":NaN}"), E::Json { .. }, [C];
    an_infinite_number: text("{\"swiglu_limit\":1e999}"), E::Json { .. }, [C];
    too_many_values: text(&format!("[{}0]", "0,".repeat(1 << 20))), E::Json { .. }, [C, "values"];
}

// ---- sizes --------------------------------------------------------------------------------------------------

refuses! {
    hidden_missing: set("hidden_size", json!(null)), E::ConfigMissing { .. }, [C, "hidden_size"];
    hidden_as_text: set("hidden_size", json!("32")), E::ConfigType { .. }, [C, "hidden_size", "an integer"];
    hidden_fractional: set("hidden_size", json!(32.5)), E::ConfigType { .. }, [C, "hidden_size"];
    hidden_as_list: set("hidden_size", json!([32])), E::ConfigType { .. }, [C, "hidden_size", "an array"];
    hidden_zero: set("hidden_size", json!(0)), E::ConfigRange { .. }, [C, "hidden_size", "found 0"];
    hidden_negative: set("hidden_size", json!(-32)), E::ConfigRange { .. }, [C, "hidden_size", "-32"];
    hidden_odd: set("hidden_size", json!(40)), E::ConfigRange { .. }, [C, "hidden_size", "multiple of 16"];
    hidden_huge: set("hidden_size", json!((1 << 20) + 16)), E::ConfigRange { .. }, [C, "hidden_size"];
    hidden_beyond_64_bits: set("hidden_size", json!(1e30)), E::ConfigType { .. }, [C, "hidden_size"];
    intermediate_missing: set("moe_intermediate_size", json!(null)), E::ConfigMissing { .. }, [C, "moe_intermediate_size"];
    intermediate_zero: set("moe_intermediate_size", json!(0)), E::ConfigRange { .. }, [C, "moe_intermediate_size"];
    intermediate_odd: set("moe_intermediate_size", json!(24)), E::ConfigRange { .. }, [C, "moe_intermediate_size"];
    intermediate_huge: set("moe_intermediate_size", json!(u64::MAX)), E::ConfigRange { .. }, [C, "moe_intermediate_size"];
    experts_missing: set("n_routed_experts", json!(null)), E::ConfigMissing { .. }, [C, "n_routed_experts"];
    experts_zero: set("n_routed_experts", json!(0)), E::ConfigRange { .. }, [C, "n_routed_experts"];
    experts_huge: set("n_routed_experts", json!(65_537)), E::ConfigRange { .. }, [C, "n_routed_experts", "65536"];
    experts_in_two_ways: set("num_experts", json!(5)), E::ConfigRange { .. }, [C, "num_experts", "n_routed_experts"];
    top_k_missing: set("num_experts_per_tok", json!(null)), E::ConfigMissing { .. }, [C, "num_experts_per_tok"];
    top_k_zero: set("num_experts_per_tok", json!(0)), E::ConfigRange { .. }, [C, "num_experts_per_tok"];
    top_k_above_experts: set("num_experts_per_tok", json!(5)), E::ConfigRange { .. }, [C, "num_experts_per_tok", "1 to 4"];
    top_k_above_64: refused(|raw| {
        raw.config["n_routed_experts"] = json!(256);
        raw.config["num_experts_per_tok"] = json!(65);
    }), E::ConfigRange { .. }, [C, "num_experts_per_tok", "1 to 64"];
    layers_missing: set("num_hidden_layers", json!(null)), E::ConfigMissing { .. }, [C, "num_hidden_layers"];
    layers_zero: set("num_hidden_layers", json!(0)), E::ConfigRange { .. }, [C, "num_hidden_layers"];
    layers_huge: set("num_hidden_layers", json!(1u64 << 40)), E::ConfigRange { .. }, [C, "num_hidden_layers"];
    hash_layers_beyond_the_model: set("num_hash_layers", json!(3)), E::ConfigRange { .. }, [C, "num_hash_layers"];
    prediction_layers_huge: set("num_nextn_predict_layers", json!(1000)), E::ConfigRange { .. }, [C, "num_nextn_predict_layers"];
    vocabulary_missing: set("vocab_size", json!(null)), E::ConfigMissing { .. }, [C, "vocab_size"];
    vocabulary_zero: set("vocab_size", json!(0)), E::ConfigRange { .. }, [C, "vocab_size"];
    vocabulary_huge: set("vocab_size", json!((1u64 << 31) + 1)), E::ConfigRange { .. }, [C, "vocab_size"];
    shared_experts_huge: set("n_shared_experts", json!(65)), E::ConfigRange { .. }, [C, "n_shared_experts"];
    shared_width_huge: refused(|raw| {
        raw.config["moe_intermediate_size"] = json!(1 << 20);
        raw.config["n_shared_experts"] = json!(2);
    }), E::ConfigRange { .. }, [C, "n_shared_experts"];
    shared_width_odd: set("shared_expert_intermediate_size", json!(40)), E::ConfigRange { .. }, [C, "shared_expert_intermediate_size"];
}

// ---- constants ----------------------------------------------------------------------------------------------

refuses! {
    limit_zero: set("swiglu_limit", json!(0)), E::ConfigRange { .. }, [C, "swiglu_limit"];
    limit_negative: set("swiglu_limit", json!(-10.0)), E::ConfigRange { .. }, [C, "swiglu_limit", "-10"];
    limit_infinite_in_f32: set("swiglu_limit", json!(1e39)), E::ConfigRange { .. }, [C, "swiglu_limit"];
    limit_denormal: set("swiglu_limit", json!(1e-40)), E::ConfigRange { .. }, [C, "swiglu_limit"];
    limit_as_text: set("swiglu_limit", json!("10")), E::ConfigType { .. }, [C, "swiglu_limit"];
    factor_zero: set("routed_scaling_factor", json!(0.0)), E::ConfigRange { .. }, [C, "routed_scaling_factor"];
    factor_negative: set("routed_scaling_factor", json!(-1)), E::ConfigRange { .. }, [C, "routed_scaling_factor"];
    factor_as_list: set("routed_scaling_factor", json!([1.5])), E::ConfigType { .. }, [C, "routed_scaling_factor"];
    factor_missing_where_it_has_no_default: set("routed_scaling_factor", json!(null)), E::ConfigMissing { .. }, [C, "routed_scaling_factor"];
    norm_as_number: set("norm_topk_prob", json!(1)), E::ConfigType { .. }, [C, "norm_topk_prob", "true or false"];
    scoring_unknown: set("scoring_func", json!("tanh")), E::Unsupported { .. }, [C, "scoring_func", "tanh"];
    scoring_as_number: set("scoring_func", json!(1)), E::ConfigType { .. }, [C, "scoring_func"];
    scoring_missing_in_an_unknown_model: refused(|raw| {
        raw.config["model_type"] = json!("somebodys_own");
        raw.config["scoring_func"] = json!(null);
    }), E::ConfigMissing { .. }, [C, "scoring_func"];
    norm_missing_in_an_unknown_model: refused(|raw| {
        raw.config["model_type"] = json!(null);
        raw.config["norm_topk_prob"] = json!(null);
    }), E::ConfigMissing { .. }, [C, "norm_topk_prob"];
    groups: set("n_group", json!(8)), E::Unsupported { .. }, [C, "n_group", "8"];
    groups_per_token: set("topk_group", json!(4)), E::Unsupported { .. }, [C, "topk_group"];
    activation: set("hidden_act", json!("gelu")), E::Unsupported { .. }, [C, "hidden_act", "gelu"];
    another_swiglu: set("model_type", json!("gpt_oss")), E::Unsupported { .. }, [C, "model_type", "gpt_oss"];
    model_type_as_number: set("model_type", json!(4)), E::ConfigType { .. }, [C, "model_type"];
}

// ---- quantisation -------------------------------------------------------------------------------------------

/// With one field of the quantisation section set.
fn quant(field: &str, value: Value) -> E {
    refused(|raw| raw.config["quantization_config"][field] = value)
}

refuses! {
    quantisation_as_text: set("quantization_config", json!("nvfp4")), E::ConfigType { .. }, [C, "quantization_config"];
    group_size_of_another_format: quant("group_size", json!(64)), E::Unsupported { .. }, [C, "quantization_config.group_size", "64"];
    group_size_as_text: quant("group_size", json!("16")), E::ConfigType { .. }, [C, "group_size"];
    group_size_of_a_layer: quant("quantized_layers", json!({ "layers.0.ffn.experts": { "quant_algo": "NVFP4", "group_size": 8 } })), E::Unsupported { .. }, [C, "quantized_layers.*.group_size", "8"];
    group_size_of_a_group: quant("config_groups", json!({ "g": { "weights": { "num_bits": 4, "type": "float", "group_size": 128 } } })), E::Unsupported { .. }, [C, "config_groups.*.weights.group_size", "128"];
    integers_of_four_bits: quant("config_groups", json!({ "g": { "weights": { "num_bits": 4, "type": "int", "group_size": 16 } } })), E::Unsupported { .. }, [C, "weights.type", "int"];
    a_transform_in_front: quant("quant_algo", json!("NVFP4_AWQ")), E::Unsupported { .. }, [C, "quant_algo", "NVFP4_AWQ"];
    excludes_as_text: quant("ignore", json!("head")), E::ConfigType { .. }, [C, "ignore"];
    excludes_of_numbers: quant("exclude_modules", json!([1])), E::ConfigType { .. }, [C, "exclude_modules"];
    the_other_document_is_checked_too: refused(|raw| {
        raw.quant_config.as_mut().unwrap()["quantization"]["group_size"] = json!(7);
    }), E::Unsupported { .. }, [Q, "quantization.group_size", "7"];
    the_other_document_as_an_array: refused(|raw| raw.quant_config = Some(json!([]))), E::ConfigType { .. }, [Q];
    a_producer_as_text: refused(|raw| raw.quant_config.as_mut().unwrap()["producer"] = json!("me")), E::ConfigType { .. }, [Q, "producer"];
}

#[test]
fn group_sizes_of_other_modules_do_not_matter() {
    let mut raw = small();
    raw.config["quantization_config"]["quantized_layers"] =
        json!({ "layers.0.attn": { "quant_algo": "FP8", "group_size": 128 } });
    raw.config["quantization_config"]["config_groups"]["attention"] =
        json!({ "weights": { "num_bits": 8, "type": "float", "group_size": 128 }, "targets": ["attn"] });
    assert_eq!(open(&raw).unwrap().config().quant.group_size, Some(16));
}

#[test]
fn an_absent_limit_of_a_model_that_has_one_is_noted() {
    let mut raw = small();
    raw.config["swiglu_limit"] = json!(null);
    let checkpoint = open(&raw).unwrap();
    assert_eq!(checkpoint.config().layer.swiglu_limit, None);
    assert!(checkpoint.warnings()[0].contains("swiglu_limit"), "{:?}", checkpoint.warnings());
}
