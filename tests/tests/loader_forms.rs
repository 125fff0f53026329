//! Every stored form of a model loads to the same weights, and what a form means is what the loader reports.

use megamoe::checkpoint::{Checkpoint, Format, LoadOptions, NameFamily, ScaleConvention};
use megamoe::weights::{LayerWeights, Nvfp4Matrix, Selection};
use megamoe_tests::checkpoint_writer::{
    Bias, CheckpointSpec, Fusion, Names, Quant, RawCheckpoint, RawTensor, SharedFormat,
};
use nvfp4::routing::Scoring;
use serde_json::json;

const NAMES: [Names; 3] = [Names::DeepSeek, Names::DeepSeekModelPrefix, Names::HuggingFace];
const FUSIONS: [Fusion; 5] = [
    Fusion::Separate,
    Fusion::GateUpOneScale,
    Fusion::GateUpTwoScales,
    Fusion::StackedOneScale,
    Fusion::StackedTwoScales,
];
const SHARED: [SharedFormat; 5] = [
    SharedFormat::None,
    SharedFormat::Nvfp4,
    SharedFormat::Bf16,
    SharedFormat::Fp8E8m0,
    SharedFormat::Fp8F32,
];

fn small() -> CheckpointSpec {
    CheckpointSpec {
        hidden: 96,
        intermediate: 64,
        experts: 3,
        top_k: 2,
        vocab_size: 16,
        ..Default::default()
    }
}

fn load(raw: &RawCheckpoint, layer: usize) -> LayerWeights {
    let dir = tempfile::tempdir().unwrap();
    raw.write(dir.path()).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    checkpoint.load_layer(layer, &LoadOptions::default()).unwrap()
}

/// Equality with a short message: a whole layer printed is of no use.
fn assert_same(got: &LayerWeights, want: &LayerWeights, what: &str) {
    assert_eq!(got.layer, want.layer, "{what}");
    assert_eq!(got.config, want.config, "{what}");
    assert!(got.experts == want.experts, "{what}: experts differ");
    assert!(got.shared == want.shared, "{what}: shared experts differ");
    assert!(got.router == want.router, "{what}: routers differ");
}

#[test]
fn all_forms_load_to_the_same_weights() {
    for names in NAMES {
        for fusion in FUSIONS {
            for shared in SHARED {
                for quant in [Quant::ModelOpt, Quant::CompressedTensors, Quant::Mxfp4] {
                    let mut spec = CheckpointSpec { names, fusion, shared, quant, ..small() };
                    if quant == Quant::Mxfp4 {
                        if fusion.one_scale() {
                            continue; // MXFP4 has no global scales to share.
                        }
                        spec = spec.into_mxfp4();
                    }
                    let dir = tempfile::tempdir().unwrap();
                    spec.write(dir.path()).unwrap();
                    let checkpoint = Checkpoint::open(dir.path()).unwrap();
                    let what = format!("{names:?} {fusion:?} {shared:?} {quant:?}");
                    assert_eq!(checkpoint.moe_layers(), [0, 1], "{what}");
                    assert_eq!(checkpoint.warnings(), [""; 0], "{what}");
                    for layer in 0..2 {
                        let info = checkpoint.layer_info(layer).unwrap();
                        let family = match names {
                            Names::HuggingFace => NameFamily::HuggingFace,
                            _ => NameFamily::DeepSeek,
                        };
                        assert_eq!(info.family, Some(family), "{what}");
                        let (format, convention) = match quant {
                            Quant::ModelOpt => (Format::Nvfp4, ScaleConvention::Multiplier),
                            Quant::CompressedTensors => (Format::Nvfp4, ScaleConvention::Divisor),
                            Quant::Mxfp4 => (Format::Mxfp4, ScaleConvention::None),
                        };
                        assert_eq!((info.experts, info.convention), (format, convention), "{what}");
                        assert_eq!(info.input_scales, quant != Quant::Mxfp4, "{what}");
                        assert_eq!(info.warnings, [""; 0], "{what}");
                        let got = checkpoint.load_layer(layer, &LoadOptions::default()).unwrap();
                        assert_same(&got, &spec.layer(layer), &what);
                    }
                }
            }
        }
    }
}

#[test]
fn an_mxfp4_checkpoint_equals_its_lossless_cast() {
    let cast = CheckpointSpec { power_of_two_scales: true, input_scales: false, ..small() };
    let source = small().into_mxfp4();
    assert_same(&load(&source.build(), 1), &load(&cast.build(), 1), "MXFP4 and its cast");
}

#[test]
fn variants_of_router_scalars_shards_and_constants() {
    let base = small();
    for spec in [
        CheckpointSpec { bias: Bias::None, ..base.clone() },
        CheckpointSpec { bias: Bias::Bf16, ..base.clone() },
        CheckpointSpec { router_f32: true, table_i32: true, ..base.clone() },
        CheckpointSpec { scalars_rank_1: true, ..base.clone() },
        CheckpointSpec { shards: 1, ..base.clone() },
        CheckpointSpec { shards: 5, ..base.clone() },
        CheckpointSpec { input_scales: false, ..base.clone() },
        CheckpointSpec { input_scales: false, quant: Quant::CompressedTensors, ..base.clone() },
        CheckpointSpec { swiglu_limit: None, ..base.clone() },
        CheckpointSpec { scoring: Scoring::Softmax, norm_topk_prob: false, ..base.clone() },
        CheckpointSpec { shared_experts: 2, shared: SharedFormat::Fp8F32, ..base.clone() },
        CheckpointSpec { experts: 1, top_k: 1, fusion: Fusion::StackedTwoScales, ..base.clone() },
        CheckpointSpec { experts: 2, fusion: Fusion::StackedTwoScales, ..base.clone() },
        CheckpointSpec { experts: 2, fusion: Fusion::StackedOneScale, ..base.clone() },
        CheckpointSpec { hidden: 272, intermediate: 144, shared: SharedFormat::Fp8E8m0, ..base.clone() },
        CheckpointSpec { hash_layers: 0, ..base.clone() },
        CheckpointSpec { hash_layers: 2, ..base },
    ] {
        let raw = spec.build();
        for layer in 0..2 {
            assert_same(&load(&raw, layer), &spec.layer(layer), &format!("{spec:?}"));
        }
    }
}

#[test]
fn a_single_file_of_any_name_is_a_checkpoint() {
    let spec = CheckpointSpec { shards: 1, ..small() };
    let mut raw = spec.build();
    raw.shards[0].file = "weights.safetensors".to_owned();
    assert_same(&load(&raw, 0), &spec.layer(0), "one file");
}

/// `weight` as F4 (shape in elements), I8; MXFP4 scales as U8 and behind `weight_packed`.
#[test]
fn other_dtypes_of_the_same_bytes() {
    let spec = small();
    let name = "layers.1.ffn.experts.0.w1.weight";
    for (dtype, cols) in [("F4", 96), ("I8", 48)] {
        let mut raw = spec.build();
        let tensor = raw.tensor_mut(name);
        tensor.dtype = dtype.to_owned();
        tensor.shape = vec![64, cols];
        assert_same(&load(&raw, 1), &spec.layer(1), dtype);
    }
    let spec = small().into_mxfp4();
    let mut raw = spec.build();
    raw.tensor_mut("layers.1.ffn.experts.0.w1.scale").dtype = "U8".to_owned();
    let mut weight = raw.remove("layers.1.ffn.experts.0.w2.weight");
    weight.name = "layers.1.ffn.experts.0.w2.weight_packed".to_owned();
    weight.dtype = "U8".to_owned();
    raw.push(weight);
    let mut scale = raw.remove("layers.1.ffn.experts.0.w2.scale");
    scale.name = "layers.1.ffn.experts.0.w2.weight_scale".to_owned();
    raw.push(scale);
    assert_same(&load(&raw, 1), &spec.layer(1), "MXFP4 spellings");
}

/// ModelOpt's unpacked fused experts: `experts.gate_proj.0.weight`.
#[test]
fn projection_before_expert() {
    let spec = CheckpointSpec { names: Names::HuggingFace, ..small() };
    let mut raw = spec.build();
    for tensor in raw.shards.iter_mut().flat_map(|s| &mut s.tensors) {
        for expert in 0..3 {
            for proj in ["gate_proj", "up_proj", "down_proj"] {
                let from = format!(".experts.{expert}.{proj}.");
                tensor.name = tensor.name.replace(&from, &format!(".experts.{proj}.{expert}."));
            }
        }
    }
    raw.reindex();
    assert_same(&load(&raw, 1), &spec.layer(1), "experts.PROJ.E");
}

/// Stacked experts whose gate and up are apart.
#[test]
fn stacked_without_fusion() {
    let spec = CheckpointSpec { names: Names::HuggingFace, ..small() };
    let want = spec.layer(1);
    let mut raw = spec.build();
    let block = "model.layers.1.mlp.experts";
    for (proj, pick) in [
        ("gate_proj", (|e| &e.gate) as fn(&megamoe::weights::ExpertWeights) -> &Nvfp4Matrix),
        ("up_proj", |e| &e.up),
        ("down_proj", |e| &e.down),
    ] {
        let all: Vec<&Nvfp4Matrix> = want.experts.iter().map(pick).collect();
        for (expert, _) in all.iter().enumerate() {
            for suffix in ["weight", "weight_scale", "weight_scale_2", "input_scale"] {
                raw.remove(&format!("{block}.{expert}.{proj}.{suffix}"));
            }
        }
        let (rows, cols) = (all[0].rows, all[0].cols);
        let bytes = |part: fn(&Nvfp4Matrix) -> &[u8]| all.iter().flat_map(|m| part(m)).copied().collect();
        let scalars = |value: fn(&Nvfp4Matrix) -> f32| all.iter().map(|m| value(m)).collect::<Vec<_>>();
        let name = |suffix: &str| format!("{block}.{proj}{suffix}");
        raw.push(RawTensor::new(&name(""), "U8", &[3, rows, cols / 2], bytes(|m| &m.packed)));
        raw.push(RawTensor::new(
            &name("_weight_scale"),
            "F8_E4M3",
            &[3, rows, cols / 16],
            bytes(|m| &m.scales),
        ));
        raw.push(RawTensor::f32(&name("_weight_scale_2"), &[3, 1, 1], &scalars(|m| m.global_scale)));
        raw.push(RawTensor::f32(&name("_input_scale"), &[3], &scalars(|m| m.input_scale.unwrap())));
    }
    assert_same(&load(&raw, 1), &want, "stacked");
}

/// FP8 with one scale for the whole tensor: the same scale for every block.
#[test]
fn per_tensor_fp8() {
    let spec = CheckpointSpec { shared: SharedFormat::Fp8F32, hidden: 272, ..small() };
    let mut raw = spec.build();
    for proj in ["w1", "w2", "w3"] {
        let tensor = raw.tensor_mut(&format!("layers.1.ffn.shared_experts.{proj}.weight_scale_inv"));
        tensor.shape = vec![];
        tensor.data = 0.25f32.to_le_bytes().to_vec();
    }
    raw.reindex();
    let got = load(&raw, 1).shared.unwrap();
    let megamoe::weights::Linear::Fp8(gate) = got.gate else { panic!("{}", got.gate.format()) };
    assert_eq!(*gate.scales, [0.25; 3]);
}

#[test]
fn field_names_of_other_models() {
    let spec = small();
    for (from, to) in [
        ("n_routed_experts", "num_experts"),
        ("n_routed_experts", "num_local_experts"),
        ("moe_intermediate_size", "intermediate_size"),
        ("num_experts_per_tok", "num_experts_per_token"),
        ("n_shared_experts", "num_shared_experts"),
    ] {
        let mut raw = spec.build();
        let config = raw.config.as_object_mut().unwrap();
        let value = config.remove(from).unwrap();
        config.insert(to.to_owned(), value);
        assert_same(&load(&raw, 1), &spec.layer(1), to);
    }
    // A dense width beside the experts' own; the shared width in words; silent defaults of a model type.
    let mut raw = spec.build();
    raw.config["intermediate_size"] = json!(4096);
    raw.config["n_shared_experts"] = json!(null);
    raw.config["shared_expert_intermediate_size"] = json!(64);
    raw.config.as_object_mut().unwrap().retain(|k, _| k != "scoring_func" && k != "norm_topk_prob");
    raw.config["n_group"] = json!(1);
    raw.config["topk_group"] = json!(null);
    assert_same(&load(&raw, 1), &spec.layer(1), "spelled out");
    // One level down, in multimodal models.
    let mut raw = spec.build();
    raw.config = json!({ "model_type": "kimi_vl", "text_config": raw.config });
    assert_same(&load(&raw, 1), &spec.layer(1), "text_config");
}

/// Prediction layers behind the last layer count as layers where the model has them.
#[test]
fn layers_beyond_the_model() {
    let spec = small();
    let mut raw = spec.build();
    raw.config["num_hidden_layers"] = json!(1);
    let dir = tempfile::tempdir().unwrap();
    raw.write(dir.path()).unwrap();
    assert_eq!(Checkpoint::open(dir.path()).unwrap().moe_layers(), [0]);
    raw.config["num_nextn_predict_layers"] = json!(1);
    raw.write(dir.path()).unwrap();
    assert_eq!(Checkpoint::open(dir.path()).unwrap().moe_layers(), [0, 1]);
    assert_same(&load(&raw, 1), &spec.layer(1), "prediction layer");
    assert!(matches!(spec.layer(1).router.unwrap().selection, Selection::TopK { .. }));
}

/// The tensors decide: an exclude list that is wrong about the shared expert is a warning.
#[test]
fn a_shared_expert_excluded_but_stored_in_fp4() {
    let spec = small();
    let mut raw = spec.build();
    raw.config["quantization_config"]["ignore"] = json!(["*.shared_experts.*"]);
    let dir = tempfile::tempdir().unwrap();
    raw.write(dir.path()).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let info = checkpoint.layer_info(1).unwrap();
    assert_eq!(info.shared, Some(Format::Nvfp4));
    assert_eq!(info.warnings.len(), 3);
    assert!(info.warnings[0].contains("layers.1.ffn.shared_experts.w1.weight"), "{:?}", info.warnings);
    assert!(info.warnings[0].contains("*.shared_experts.*"), "{:?}", info.warnings);
    assert_same(&checkpoint.load_layer(1, &LoadOptions::default()).unwrap(), &spec.layer(1), "as stored");
    // The other way round is no contradiction: nothing promises that what is not excluded is quantised.
    let spec = CheckpointSpec { shared: SharedFormat::Bf16, ..small() };
    let mut raw = spec.build();
    raw.config["quantization_config"]["ignore"] = json!([]);
    raw.quant_config = None;
    assert_same(&load(&raw, 1), &spec.layer(1), "not excluded, BF16");
}

#[test]
fn odd_but_harmless() {
    let spec = small();
    // A bias on a hash layer is ignored; the loader says so.
    let mut raw = spec.build();
    raw.push(RawTensor::f32("layers.0.ffn.gate.bias", &[3], &[f32::NAN; 3]));
    let dir = tempfile::tempdir().unwrap();
    raw.write(dir.path()).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    assert!(checkpoint.layer_info(0).unwrap().warnings[0].contains("layers.0.ffn.gate.bias"));
    assert_same(&load(&raw, 0), &spec.layer(0), "bias on a hash layer");
    // Leftovers of another form are named.
    let mut raw = spec.build();
    raw.push(RawTensor::f32("layers.1.ffn.experts.0.w13.weight_scale_2", &[], &[1.0]));
    let dir = tempfile::tempdir().unwrap();
    raw.write(dir.path()).unwrap();
    let warnings = Checkpoint::open(dir.path()).unwrap().layer_info(1).unwrap().warnings;
    assert!(warnings[0].contains("layers.1.ffn.experts.0.w13.weight_scale_2"), "{warnings:?}");
    assert_same(&load(&raw, 1), &spec.layer(1), "leftovers");
    // total_size is a hint.
    let mut raw = spec.build();
    raw.index.as_mut().unwrap()["metadata"]["total_size"] = json!(1);
    let dir = tempfile::tempdir().unwrap();
    raw.write(dir.path()).unwrap();
    let warnings = Checkpoint::open(dir.path()).unwrap().warnings().to_vec();
    assert!(warnings[0].contains("total_size = 1"), "{warnings:?}");
    // Files that the index does not name are none of ours, whatever they are.
    std::fs::write(dir.path().join("reference.safetensors"), b"not a safetensors file").unwrap();
    Checkpoint::open(dir.path()).unwrap();
    // Regular expressions beyond the subset are named.
    let mut raw = spec.build();
    raw.config["quantization_config"]["ignore"] = json!(["re:.*(q|k|v)_proj"]);
    raw.write(dir.path()).unwrap();
    let warnings = Checkpoint::open(dir.path()).unwrap().warnings().to_vec();
    assert!(warnings[0].contains("re:.*(q|k|v)_proj"), "{warnings:?}");
}
