//! Tensors that are missing, contradictory, of the wrong form, or hold impossible values are refused when their
//! layer is loaded, each with its own error that names file and tensor.

use half::bf16;
use megamoe::checkpoint::{Checkpoint, CheckpointError as E, LoadOptions};
use megamoe_tests::checkpoint_writer::{
    Bias, CheckpointSpec, Fusion, Names, Quant, RawCheckpoint, RawTensor, SharedFormat,
};
use nvfp4::mxfp4::CastError;
use serde_json::json;

fn small() -> CheckpointSpec {
    CheckpointSpec { hidden: 64, intermediate: 32, experts: 3, top_k: 2, vocab_size: 8, ..Default::default() }
}

/// Loads layer 0 (a hash layer) and layer 1 of a checkpoint; one of them must fail, after opening succeeded.
fn load(raw: &RawCheckpoint) -> E {
    let dir = tempfile::tempdir().unwrap();
    raw.write(dir.path()).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let both = [0, 1].map(|layer| checkpoint.load_layer(layer, &LoadOptions::default()));
    // What is wrong with names, dtypes and shapes shows without reading data.
    let error = both.into_iter().find_map(Result::err).expect("must be refused");
    let value = matches!(
        error,
        E::NanScale { .. }
            | E::NegativeScale { .. }
            | E::BlockScale { .. }
            | E::GlobalScale { .. }
            | E::InputScale { .. }
            | E::NonFinite { .. }
            | E::TableEntry { .. }
            | E::Mxfp4 { .. }
    );
    let planned = [0, 1].map(|layer| checkpoint.layer_info(layer)).iter().all(Result::is_ok);
    assert_eq!(planned, value, "{error}");
    error
}

/// The same for a changed [`small`] model.
fn changed(change: impl FnOnce(&mut RawCheckpoint)) -> E {
    of(small(), change)
}

fn of(spec: CheckpointSpec, change: impl FnOnce(&mut RawCheckpoint)) -> E {
    let mut raw = spec.build();
    change(&mut raw);
    load(&raw)
}

/// Opening fails already.
fn not_opened(change: impl FnOnce(&mut RawCheckpoint)) -> E {
    let mut raw = small().build();
    change(&mut raw);
    let dir = tempfile::tempdir().unwrap();
    raw.write(dir.path()).unwrap();
    Checkpoint::open(dir.path()).map(|_| ()).expect_err("must be refused")
}

/// A tensor's dtype and shape replaced, data to fit.
fn form(raw: &mut RawCheckpoint, name: &str, dtype: &str, shape: &[u64], size: usize) {
    let tensor = raw.tensor_mut(name);
    tensor.dtype = dtype.to_owned();
    tensor.shape = shape.to_vec();
    tensor.data.resize(shape.iter().product::<u64>() as usize * size, 0x38);
}

/// One f32 of a tensor replaced.
fn put_f32(raw: &mut RawCheckpoint, name: &str, element: usize, value: f32) {
    raw.tensor_mut(name).data[element * 4..][..4].copy_from_slice(&value.to_le_bytes());
}

fn put(raw: &mut RawCheckpoint, name: &str, at: usize, value: u8) {
    raw.tensor_mut(name).data[at] = value;
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

const ONE: &str = "model-00001-of-00002.safetensors";
const TWO: &str = "model-00002-of-00002.safetensors";
/// A gate of layer 0, in the first file.
const W: &str = "layers.0.ffn.experts.1.w1.weight";
const WS: &str = "layers.0.ffn.experts.1.w1.weight_scale";
const WS2: &str = "layers.0.ffn.experts.1.w1.weight_scale_2";
const INPUT: &str = "layers.0.ffn.experts.1.w1.input_scale";
const ROUTER: &str = "layers.1.ffn.gate.weight";
const BIAS: &str = "layers.1.ffn.gate.bias";
const TABLE: &str = "layers.0.ffn.gate.tid2eid";
const SHARED: &str = "layers.1.ffn.shared_experts.w2.weight";

// ---- presence -----------------------------------------------------------------------------------------------

refuses! {
    a_missing_weight: changed(|raw| { raw.remove(W); }), E::TensorMissing { .. }, [W];
    a_missing_expert: of(CheckpointSpec { names: Names::HuggingFace, ..small() }, |raw| {
        for suffix in ["weight", "weight_scale", "weight_scale_2", "input_scale"] {
            raw.remove(&format!("model.layers.1.mlp.experts.2.up_proj.{suffix}"));
        }
    }), E::TensorMissing { .. }, ["model.layers.1.mlp.experts.2.up_proj.weight"];
    missing_block_scales: changed(|raw| { raw.remove(WS); }), E::TensorMissing { .. }, [WS, W];
    a_missing_global_scale: changed(|raw| { raw.remove(WS2); }), E::TensorMissing { .. }, [WS2, W];
    a_missing_divisor: of(CheckpointSpec { quant: Quant::CompressedTensors, ..small() }, |raw| {
        raw.remove("layers.0.ffn.experts.1.w1.weight_global_scale");
    }), E::TensorMissing { .. }, ["layers.0.ffn.experts.1.w1.weight_global_scale"];
    a_missing_router: changed(|raw| { raw.remove(ROUTER); }), E::TensorMissing { .. }, [ROUTER];
    a_missing_table: changed(|raw| { raw.remove(TABLE); }), E::TensorMissing { .. }, [TABLE, "num_hash_layers"];
    a_missing_shared_projection: changed(|raw| { raw.remove(SHARED); }), E::TensorMissing { .. }, [SHARED];
    missing_shared_experts: of(CheckpointSpec { shared: SharedFormat::None, ..small() }, |raw| {
        raw.config["n_shared_experts"] = json!(1);
    }), E::TensorMissing { .. }, ["shared_experts.w1.weight"];
    missing_fp8_scales: of(CheckpointSpec { shared: SharedFormat::Fp8F32, ..small() }, |raw| {
        raw.remove("layers.1.ffn.shared_experts.w2.weight_scale_inv");
    }), E::TensorMissing { .. }, ["layers.1.ffn.shared_experts.w2.weight_scale_inv", SHARED];
    shared_experts_that_the_model_has_not: changed(|raw| raw.config["n_shared_experts"] = json!(0)),
        E::Unexpected { .. }, [ONE, "shared_experts"];
    a_table_beyond_the_hash_layers: changed(|raw| raw.config["num_hash_layers"] = json!(0)),
        E::Unexpected { .. }, [ONE, TABLE];
    an_expert_too_many: changed(|raw| {
        raw.push(RawTensor::f32("layers.1.ffn.experts.3.w1.weight_scale_2", &[], &[1.0]));
    }), E::ExpertOutOfRange { expert: 3, experts: 3, .. }, [TWO, "layers.1.ffn.experts.3.w1.weight_scale_2"];
    a_weight_in_two_spellings: not_opened(|raw| {
        raw.push(RawTensor::new("model.layers.0.mlp.experts.1.gate_proj.weight", "U8", &[1], vec![0]));
    }), E::Ambiguous { .. }, [W, "model.layers.0.mlp.experts.1.gate_proj.weight"];
    a_weight_fused_and_not: changed(|raw| {
        raw.push(RawTensor::new("layers.0.ffn.experts.1.w13.weight", "U8", &[1], vec![0]));
    }), E::Ambiguous { .. }, [W, "layers.0.ffn.experts.1.w13.weight"];
    a_weight_packed_and_not: changed(|raw| {
        raw.push(RawTensor::new("layers.0.ffn.experts.1.w1.weight_packed", "U8", &[1], vec![0]));
    }), E::Ambiguous { .. }, [W, "layers.0.ffn.experts.1.w1.weight_packed"];
    a_global_scale_in_both_conventions: changed(|raw| {
        raw.push(RawTensor::f32("layers.0.ffn.experts.1.w1.weight_global_scale", &[], &[1.0]));
    }), E::Ambiguous { .. }, [WS2, "layers.0.ffn.experts.1.w1.weight_global_scale"];
    an_input_scale_in_both_conventions: changed(|raw| {
        raw.push(RawTensor::f32("layers.0.ffn.experts.1.w1.input_global_scale", &[], &[1.0]));
    }), E::Ambiguous { .. }, [INPUT, "layers.0.ffn.experts.1.w1.input_global_scale"];
    block_scales_twice: changed(|raw| {
        raw.push(RawTensor::new("layers.0.ffn.experts.1.w1.scale", "U8", &[1], vec![0]));
    }), E::Ambiguous { .. }, [WS, "layers.0.ffn.experts.1.w1.scale"];
    a_bias_of_an_expert: changed(|raw| {
        raw.push(RawTensor::f32("layers.0.ffn.experts.1.w1.bias", &[32], &[0.0; 32]));
    }), E::Unsupported { .. }, [TWO, "layers.0.ffn.experts.1.w1.bias"];
    a_scale_in_front_of_an_expert: changed(|raw| {
        raw.push(RawTensor::f32("layers.0.ffn.experts.1.w1.pre_quant_scale", &[64], &[1.0; 64]));
    }), E::Unsupported { .. }, ["layers.0.ffn.experts.1.w1.pre_quant_scale"];
    a_gate_on_the_shared_expert: changed(|raw| {
        raw.push(RawTensor::f32("layers.1.ffn.shared_expert_gate.weight", &[1, 64], &[0.0; 64]));
    }), E::Unsupported { .. }, ["layers.1.ffn.shared_expert_gate.weight"];
    a_quantised_router: changed(|raw| {
        raw.push(RawTensor::f32("layers.1.ffn.gate.weight_scale", &[], &[1.0]));
    }), E::Unsupported { .. }, ["layers.1.ffn.gate.weight_scale"];
    a_global_scale_beside_mxfp4: of(small().into_mxfp4(), |raw| {
        raw.push(RawTensor::f32(WS2, &[], &[1.0]));
    }), E::Unexpected { .. }, [WS2, "MXFP4"];
    a_global_scale_beside_bf16: of(CheckpointSpec { shared: SharedFormat::Bf16, ..small() }, |raw| {
        raw.push(RawTensor::f32("layers.1.ffn.shared_experts.w2.weight_scale_2", &[], &[1.0]));
    }), E::Unexpected { .. }, ["layers.1.ffn.shared_experts.w2.weight_scale_2", "BF16"];
    a_scale_beside_bf16: of(CheckpointSpec { shared: SharedFormat::Bf16, ..small() }, |raw| {
        raw.push(RawTensor::f32("layers.1.ffn.shared_experts.w2.weight_scale", &[], &[1.0]));
    }), E::Unexpected { .. }, ["layers.1.ffn.shared_experts.w2.weight_scale", "BF16"];
}

// ---- exclude lists ------------------------------------------------------------------------------------------

fn exclude(pattern: &str) -> E {
    changed(|raw| raw.quant_config.as_mut().unwrap()["quantization"]["exclude_modules"] = json!([pattern]))
}

refuses! {
    an_excluded_expert_by_name: exclude("layers.0.ffn.experts.1.w1"), E::ExcludedExpert { .. }, [ONE, W, "\"layers.0.ffn.experts.1.w1\""];
    an_excluded_expert_by_prefix: exclude("layers.1.ffn.experts"), E::ExcludedExpert { .. }, ["layers.1.ffn.experts.0.w1.weight", "layers.1.ffn.experts"];
    an_excluded_expert_by_wildcard: exclude("*.ffn.experts.*"), E::ExcludedExpert { .. }, ["layers.0.ffn.experts.0.w1.weight", "*.ffn.experts.*"];
    a_bf16_expert: changed(|raw| form(raw, W, "BF16", &[32, 64], 2)), E::NotQuantized { pattern: None, .. }, [ONE, W, "BF16"];
    an_fp8_expert: changed(|raw| form(raw, W, "F8_E4M3", &[32, 64], 1)), E::NotQuantized { .. }, [ONE, W, "F8_E4M3"];
    an_excluded_bf16_expert: changed(|raw| {
        form(raw, W, "BF16", &[32, 64], 2);
        raw.config["quantization_config"]["ignore"] = json!(["*.experts.1.*"]);
    }), E::NotQuantized { pattern: Some(_), .. }, [ONE, W, "BF16", "*.experts.1.*"];
}

// ---- dtypes -------------------------------------------------------------------------------------------------

refuses! {
    scales_of_e4m3_as_u8: changed(|raw| form(raw, WS, "U8", &[32, 4], 1)), E::WrongDtype { .. }, [ONE, WS, "U8"];
    scales_of_e5m2: changed(|raw| form(raw, WS, "F8_E5M2", &[32, 4], 1)), E::WrongDtype { .. }, [ONE, WS, "F8_E5M2"];
    scales_of_f32: changed(|raw| form(raw, WS, "F32", &[32, 4], 4)), E::WrongDtype { .. }, [ONE, WS, "F32"];
    a_global_scale_of_bf16: changed(|raw| form(raw, WS2, "BF16", &[], 2)), E::WrongDtype { .. }, [ONE, WS2, "BF16"];
    an_input_scale_of_f64: changed(|raw| form(raw, INPUT, "F64", &[], 8)), E::WrongDtype { .. }, [ONE, INPUT, "F64"];
    a_router_of_f16: changed(|raw| form(raw, ROUTER, "F16", &[3, 64], 2)), E::WrongDtype { .. }, [ROUTER, "BF16 or F32", "F16"];
    a_bias_of_i32: changed(|raw| form(raw, BIAS, "I32", &[3], 4)), E::WrongDtype { .. }, [BIAS, "I32"];
    a_table_of_f32: changed(|raw| form(raw, TABLE, "F32", &[8, 2], 4)), E::WrongDtype { .. }, [ONE, TABLE, "I64 or I32", "F32"];
    a_shared_expert_of_f16: of(CheckpointSpec { shared: SharedFormat::Bf16, ..small() }, |raw| {
        raw.tensor_mut(SHARED).dtype = "F16".to_owned();
    }), E::WrongDtype { .. }, [TWO, SHARED, "F16"];
    fp8_scales_of_bf16: of(CheckpointSpec { shared: SharedFormat::Fp8F32, ..small() }, |raw| {
        form(raw, "layers.1.ffn.shared_experts.w2.weight_scale_inv", "BF16", &[1, 1], 2);
    }), E::WrongDtype { .. }, ["layers.1.ffn.shared_experts.w2.weight_scale_inv", "BF16"];
}

// ---- shapes -------------------------------------------------------------------------------------------------

refuses! {
    a_weight_of_fewer_rows: changed(|raw| form(raw, W, "U8", &[31, 32], 1)), E::WrongShape { .. }, [ONE, W, "[32, 32]", "[31, 32]"];
    a_weight_that_is_not_packed: changed(|raw| form(raw, W, "U8", &[32, 64], 1)), E::WrongShape { .. }, [ONE, W, "[32, 32]"];
    a_weight_transposed: changed(|raw| form(raw, "layers.0.ffn.experts.1.w2.weight", "U8", &[16, 64], 1)), E::WrongShape { .. }, ["w2.weight", "[64, 16]", "[16, 64]"];
    a_weight_of_rank_one: changed(|raw| form(raw, W, "U8", &[1024], 1)), E::WrongShape { .. }, [ONE, W];
    f4_counted_in_bytes: changed(|raw| { form(raw, W, "F4", &[32, 32], 1); raw.tensor_mut(W).data.truncate(512); }), E::WrongShape { .. }, [ONE, W, "[32, 64]"];
    half_of_the_scales: changed(|raw| { form(raw, WS, "F8_E4M3", &[32, 2], 1); raw.tensor_mut(WS).data.truncate(64); }), E::WrongShape { .. }, [ONE, WS, "[32, 4]", "[32, 2]"];
    e8m0_scales_per_sixteen: changed(|raw| form(raw, WS, "F8_E8M0", &[32, 4], 1)), E::WrongShape { .. }, [ONE, WS, "[32, 2]", "[32, 4]"];
    mxfp4_of_a_width_not_in_blocks: of(CheckpointSpec { hidden: 48, ..small() }, |raw| form(raw, WS, "F8_E8M0", &[32, 1], 1)), E::WrongShape { .. }, [WS, "blocks of 32"];
    two_global_scales_of_one_matrix: changed(|raw| form(raw, WS2, "F32", &[2], 4)), E::WrongShape { .. }, [ONE, WS2, "[] or [1]"];
    three_global_scales_of_a_fused_pair: of(CheckpointSpec { fusion: Fusion::GateUpTwoScales, ..small() }, |raw| {
        form(raw, "layers.0.ffn.experts.1.w13.weight_scale_2", "F32", &[3], 4);
    }), E::WrongShape { .. }, ["w13.weight_scale_2", "[2]"];
    global_scales_of_fewer_experts: of(CheckpointSpec { fusion: Fusion::StackedTwoScales, ..small() }, |raw| {
        form(raw, "layers.0.ffn.experts.w13_weight_scale_2", "F32", &[2, 2], 4);
    }), E::WrongShape { .. }, ["w13_weight_scale_2", "[3, 2]", "[2, 2]"];
    stacked_experts_transposed: of(CheckpointSpec { fusion: Fusion::StackedOneScale, ..small() }, |raw| {
        form(raw, "layers.0.ffn.experts.w13_weight", "U8", &[3, 32, 64], 1);
    }), E::WrongShape { .. }, ["w13_weight", "[3, 64, 32]", "[3, 32, 64]"];
    a_fused_weight_of_one_half: of(CheckpointSpec { fusion: Fusion::GateUpTwoScales, ..small() }, |raw| {
        raw.tensor_mut("layers.0.ffn.experts.1.w13.weight").data.truncate(32 * 32);
        form(raw, "layers.0.ffn.experts.1.w13.weight", "U8", &[32, 32], 1);
    }), E::WrongShape { .. }, ["w13.weight", "[64, 32]"];
    a_router_of_fewer_experts: changed(|raw| { form(raw, ROUTER, "BF16", &[2, 64], 2); raw.tensor_mut(ROUTER).data.truncate(256); }), E::WrongShape { .. }, [ROUTER, "[3, 64]"];
    a_bias_per_channel: changed(|raw| form(raw, BIAS, "F32", &[64], 4)), E::WrongShape { .. }, [BIAS, "[3]"];
    a_table_of_another_vocabulary: changed(|raw| raw.config["vocab_size"] = json!(9)), E::WrongShape { .. }, [ONE, TABLE, "[9, 2]", "[8, 2]"];
    a_table_of_another_k: changed(|raw| raw.config["num_experts_per_tok"] = json!(3)), E::WrongShape { .. }, [ONE, TABLE, "[8, 3]"];
    a_shared_expert_of_another_width: changed(|raw| raw.config["n_shared_experts"] = json!(2)), E::WrongShape { .. }, ["shared_experts.w1.weight", "[64, 32]"];
    fp8_scales_of_another_grid: of(CheckpointSpec { shared: SharedFormat::Fp8F32, ..small() }, |raw| {
        form(raw, "layers.1.ffn.shared_experts.w2.weight_scale_inv", "F32", &[1, 2], 4);
    }), E::WrongShape { .. }, ["w2.weight_scale_inv", "[1, 1]", "[1, 2]"];
}

// ---- values -------------------------------------------------------------------------------------------------

fn global_scale(value: f32) -> E {
    changed(|raw| put_f32(raw, WS2, 0, value))
}

fn divisor(value: f32) -> E {
    of(CheckpointSpec { quant: Quant::CompressedTensors, ..small() }, |raw| {
        put_f32(raw, "layers.0.ffn.experts.1.w1.weight_global_scale", 0, value);
    })
}

fn input_scale(value: f32) -> E {
    changed(|raw| put_f32(raw, INPUT, 0, value))
}

fn table(value: i64) -> E {
    changed(|raw| raw.tensor_mut(TABLE).data[40..48].copy_from_slice(&value.to_le_bytes()))
}

refuses! {
    a_nan_scale: changed(|raw| put(raw, WS, 100, 0x7f)), E::NanScale { index: 100, found: 0x7f, .. }, [ONE, WS, "100", "0x7F"];
    a_negative_nan_scale: changed(|raw| put(raw, WS, 127, 0xff)), E::NanScale { index: 127, found: 0xff, .. }, [ONE, WS, "0xFF"];
    a_negative_scale: changed(|raw| put(raw, WS, 0, 0xb8)), E::NegativeScale { index: 0, found: 0xb8, .. }, [ONE, WS, "0xB8"];
    a_negative_zero_scale: changed(|raw| put(raw, WS, 3, 0x80)), E::NegativeScale { found: 0x80, .. }, [ONE, WS];
    a_nan_scale_of_the_shared_expert: changed(|raw| put(raw, "layers.1.ffn.shared_experts.w2.weight_scale", 9, 0x7f)), E::NanScale { index: 9, .. }, [TWO, "shared_experts.w2.weight_scale"];
    a_nan_scale_in_the_second_half: of(CheckpointSpec { fusion: Fusion::GateUpTwoScales, ..small() }, |raw| {
        put(raw, "layers.0.ffn.experts.1.w13.weight_scale", 200, 0x7f);
    }), E::NanScale { index: 200, .. }, ["w13.weight_scale", "200"];
    a_nan_scale_in_a_stack: of(CheckpointSpec { fusion: Fusion::StackedTwoScales, ..small() }, |raw| {
        put(raw, "layers.0.ffn.experts.w13_weight_scale", 700, 0x7f);
    }), E::NanScale { index: 700, .. }, ["w13_weight_scale", "700"];

    a_global_scale_of_zero: global_scale(0.0), E::GlobalScale { divisor: false, .. }, [ONE, WS2];
    a_global_scale_of_minus_zero: global_scale(-0.0), E::GlobalScale { .. }, [ONE, WS2];
    a_negative_global_scale: global_scale(-1e-3), E::GlobalScale { .. }, [ONE, WS2, "-1e-3"];
    an_infinite_global_scale: global_scale(f32::INFINITY), E::GlobalScale { .. }, [ONE, WS2, "inf"];
    a_nan_global_scale: global_scale(f32::NAN), E::GlobalScale { .. }, [ONE, WS2, "NaN"];
    a_denormal_global_scale: global_scale(1e-39), E::GlobalScale { .. }, [ONE, WS2];
    a_divisor_of_zero: divisor(0.0), E::GlobalScale { divisor: true, .. }, ["weight_global_scale"];
    an_infinite_divisor: divisor(f32::INFINITY), E::GlobalScale { .. }, ["weight_global_scale", "inf"];
    a_nan_divisor: divisor(f32::NAN), E::GlobalScale { .. }, ["weight_global_scale"];
    a_negative_divisor: divisor(-100.0), E::GlobalScale { .. }, ["weight_global_scale"];
    a_denormal_divisor: divisor(1e-39), E::GlobalScale { .. }, ["weight_global_scale"];
    a_divisor_of_denormal_reciprocal: divisor(3e38), E::GlobalScale { .. }, ["weight_global_scale", "reciprocal"];

    a_nan_input_scale: input_scale(f32::NAN), E::InputScale { .. }, [ONE, INPUT, "NaN"];
    an_infinite_input_scale: input_scale(f32::INFINITY), E::InputScale { .. }, [ONE, INPUT];
    a_negative_input_scale: input_scale(-1.0), E::InputScale { .. }, [ONE, INPUT];
    an_input_scale_of_zero: input_scale(0.0), E::InputScale { .. }, [ONE, INPUT];
    an_input_divisor_of_zero: of(CheckpointSpec { quant: Quant::CompressedTensors, ..small() }, |raw| {
        put_f32(raw, "layers.0.ffn.experts.1.w1.input_global_scale", 0, 0.0);
    }), E::InputScale { divisor: true, .. }, ["input_global_scale"];

    a_nan_router_weight: changed(|raw| raw.tensor_mut(ROUTER).data[20..22].copy_from_slice(&bf16::NAN.to_le_bytes())), E::NonFinite { index: 10, .. }, [TWO, ROUTER, "NaN"];
    an_infinite_router_weight: of(CheckpointSpec { router_f32: true, ..small() }, |raw| put_f32(raw, ROUTER, 7, f32::NEG_INFINITY)), E::NonFinite { index: 7, .. }, [ROUTER, "-inf"];
    a_nan_bias: changed(|raw| put_f32(raw, BIAS, 2, f32::NAN)), E::NonFinite { index: 2, .. }, [BIAS];
    an_infinite_bf16_bias: of(CheckpointSpec { bias: Bias::Bf16, ..small() }, |raw| {
        raw.tensor_mut(BIAS).data[2..4].copy_from_slice(&bf16::INFINITY.to_le_bytes());
    }), E::NonFinite { index: 1, .. }, [BIAS, "inf"];
    an_infinite_bf16_weight: of(CheckpointSpec { shared: SharedFormat::Bf16, ..small() }, |raw| {
        raw.tensor_mut(SHARED).data[64..66].copy_from_slice(&bf16::NEG_INFINITY.to_le_bytes());
    }), E::NonFinite { index: 32, .. }, [TWO, SHARED, "-inf"];
    a_nan_fp8_weight: of(CheckpointSpec { shared: SharedFormat::Fp8F32, ..small() }, |raw| put(raw, SHARED, 5, 0xff)), E::NonFinite { index: 5, .. }, [TWO, SHARED, "NaN"];
    a_nan_e8m0_scale: of(CheckpointSpec { shared: SharedFormat::Fp8E8m0, ..small() }, |raw| {
        put(raw, "layers.1.ffn.shared_experts.w2.scale", 0, 0xff);
    }), E::BlockScale { index: 0, .. }, ["shared_experts.w2.scale", "NaN"];
    a_negative_fp8_scale: of(CheckpointSpec { shared: SharedFormat::Fp8F32, ..small() }, |raw| {
        put_f32(raw, "layers.1.ffn.shared_experts.w2.weight_scale_inv", 0, -1.0);
    }), E::BlockScale { index: 0, .. }, ["shared_experts.w2.weight_scale_inv", "-1"];

    a_table_entry_beyond_the_experts: table(3), E::TableEntry { index: 5, found: 3, experts: 3, .. }, [ONE, TABLE, "0..3"];
    a_negative_table_entry: table(-1), E::TableEntry { index: 5, found: -1, .. }, [ONE, TABLE];
    a_table_entry_that_wraps_in_32_bits: table(1 << 32), E::TableEntry { found: 4_294_967_296, .. }, [ONE, TABLE];
    a_bad_entry_of_an_i32_table: of(CheckpointSpec { table_i32: true, ..small() }, |raw| {
        raw.tensor_mut(TABLE).data[60..64].copy_from_slice(&7i32.to_le_bytes());
    }), E::TableEntry { index: 15, found: 7, .. }, [TABLE];

    an_mxfp4_scale_of_nan: of(small().into_mxfp4(), |raw| {
        put(raw, "layers.0.ffn.experts.1.w1.scale", 6, 0xff);
    }), E::Mxfp4 { source: CastError::NanScale { block: 6 }, .. }, ["layers.0.ffn.experts.1.w1.scale", "block 6"];
    an_mxfp4_tensor_of_too_wide_a_range: of(small().into_mxfp4(), |raw| {
        put(raw, "layers.0.ffn.experts.1.w1.scale", 0, 10);
    }), E::Mxfp4 { source: CastError::Spread { block: 0, .. }, .. }, ["layers.0.ffn.experts.1.w1.scale", "not representable"];
    an_mxfp4_tensor_of_too_small_values: of(small().into_mxfp4(), |raw| {
        raw.tensor_mut("layers.0.ffn.experts.1.w1.scale").data.fill(3);
    }), E::Mxfp4 { source: CastError::GlobalScale { max: 3 }, .. }, ["layers.0.ffn.experts.1.w1.scale"];
}
