//! The checkpoint in `tests/data/checkpoint-small`, against the reference safetensors reader.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use half::bf16;
use megamoe::checkpoint::{
    Checkpoint, CheckpointError, Dtype, Format, Fusion, LoadOptions, NameFamily, ScaleConvention,
};
use megamoe::weights::{Linear, Nvfp4Matrix, Selection};
use nvfp4::routing::Scoring;
use safetensors::SafeTensors;

fn dir() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/data/checkpoint-small"))
}

/// Every tensor's bytes, read by the reference implementation.
fn reference() -> BTreeMap<String, Vec<u8>> {
    let mut out = BTreeMap::new();
    for shard in 1..=2 {
        let bytes = std::fs::read(dir().join(format!("model-0000{shard}-of-00002.safetensors"))).unwrap();
        for (name, view) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
            out.insert(name, view.data().to_vec());
        }
    }
    out
}

fn f32_of(bytes: &[u8]) -> f32 {
    f32::from_le_bytes(bytes.try_into().unwrap())
}

fn check(matrix: &Nvfp4Matrix, base: &str, reference: &BTreeMap<String, Vec<u8>>) {
    assert_eq!(*matrix.packed, reference[&format!("{base}.weight")][..], "{base}");
    assert_eq!(*matrix.scales, reference[&format!("{base}.weight_scale")][..], "{base}");
    assert_eq!(matrix.global_scale, f32_of(&reference[&format!("{base}.weight_scale_2")]), "{base}");
    assert_eq!(matrix.input_scale, Some(f32_of(&reference[&format!("{base}.input_scale")])), "{base}");
}

#[test]
fn inventory() {
    let checkpoint = Checkpoint::open(&dir()).unwrap();
    assert_eq!(checkpoint.moe_layers(), [0, 3]);
    assert_eq!(checkpoint.tensors().len(), reference().len());
    assert_eq!(checkpoint.total_bytes(), 8_143_704);
    assert_eq!(checkpoint.name_family(), Some(NameFamily::DeepSeek));
    assert_eq!(checkpoint.warnings(), [""; 0]);
    assert_eq!(checkpoint.files().count(), 2);
    let config = checkpoint.config();
    assert_eq!((config.model_type.as_str(), config.layers, config.hash_layers), ("deepseek_v4", 4, 3));
    assert_eq!(config.quant.producer.as_deref(), Some("modelopt dsv4-nvfp4-experts"));
    assert_eq!(config.quant.algo.as_deref(), Some("NVFP4"));
    assert_eq!(config.quant.group_size, Some(16));
    let excludes: Vec<&str> = config.quant.excludes.iter().map(|p| p.as_str()).collect();
    assert_eq!(excludes, ["*.attn.*", "head", "mtp.*"]);

    let layer = checkpoint.layer_config(3).unwrap();
    assert_eq!((layer.hidden, layer.intermediate, layer.experts, layer.top_k), (512, 256, 16, 6));
    assert_eq!((layer.shared_intermediate, layer.vocab_size), (256, 512));
    assert_eq!((layer.scoring, layer.norm_topk_prob), (Scoring::SqrtSoftplus, true));
    assert_eq!((layer.routed_scaling_factor, layer.swiglu_limit), (1.5, Some(10.0)));

    for (number, shared, hash) in [(0, Format::Nvfp4, true), (3, Format::Bf16, false)] {
        let info = checkpoint.layer_info(number).unwrap();
        assert_eq!(info.block, format!("layers.{number}.ffn"));
        assert_eq!((info.experts, info.convention), (Format::Nvfp4, ScaleConvention::Multiplier));
        assert_eq!((info.fusion, info.input_scales), (Fusion::Separate, true));
        assert_eq!((info.shared, info.hash, info.bias), (Some(shared), hash, !hash));
        assert_eq!(info.warnings, [""; 0]);
    }

    let tensor = checkpoint.tensor("layers.3.ffn.experts.5.w2.weight_scale").unwrap();
    assert_eq!((tensor.dtype(), tensor.shape(), tensor.bytes()), (Dtype::F8_E4M3, &[512, 16][..], 8192));
    assert!(checkpoint.file_of(tensor).ends_with("model-00002-of-00002.safetensors"));
    assert_eq!(checkpoint.read_tensor(tensor.name()).unwrap(), reference()[tensor.name()]);
    assert!(checkpoint.tensor("layers.3.ffn.experts.5.w2").is_none());
    let error = checkpoint.read_tensor("nothing").unwrap_err();
    assert!(matches!(error, CheckpointError::TensorMissing { .. }), "{error}");
    let error = checkpoint.load_layer(1, &LoadOptions::default()).map(drop).unwrap_err();
    assert!(matches!(error, CheckpointError::NoSuchLayer { layer: 1, .. }), "{error}");
    assert!(error.to_string().contains("0, 3"), "{error}");
}

#[test]
fn every_byte_of_both_layers() {
    let checkpoint = Checkpoint::open(&dir()).unwrap();
    let reference = reference();
    for number in [0, 3] {
        let read = AtomicU64::new(0);
        let progress = |bytes| {
            read.fetch_add(bytes, Ordering::Relaxed);
        };
        let layer = checkpoint.load_layer(number, &LoadOptions { progress: Some(&progress) }).unwrap();
        let prefix = format!("layers.{number}.");
        let stored: usize =
            reference.iter().filter(|(name, _)| name.starts_with(&prefix)).map(|(_, b)| b.len()).sum();
        assert_eq!(checkpoint.layer_bytes(number), stored as u64);
        assert_eq!(read.into_inner(), stored as u64);

        assert_eq!(layer.config, checkpoint.layer_config(number).unwrap());
        assert_eq!(layer.experts.len(), 16);
        for (i, expert) in layer.experts.iter().enumerate() {
            for (matrix, proj) in [(&expert.gate, "w1"), (&expert.up, "w3"), (&expert.down, "w2")] {
                check(matrix, &format!("{prefix}ffn.experts.{i}.{proj}"), &reference);
            }
            assert_eq!((expert.gate.rows, expert.gate.cols), (256, 512));
            assert_eq!((expert.down.rows, expert.down.cols), (512, 256));
        }
        let shared = layer.shared.unwrap();
        for (matrix, proj) in [(&shared.gate, "w1"), (&shared.up, "w3"), (&shared.down, "w2")] {
            let base = format!("{prefix}ffn.shared_experts.{proj}");
            match (number, matrix) {
                (0, Linear::Nvfp4(m)) => check(m, &base, &reference),
                (3, Linear::Bf16(m)) => {
                    let bytes: Vec<u8> = m.data.iter().flat_map(|v| v.to_le_bytes()).collect();
                    assert_eq!(bytes, reference[&format!("{base}.weight")]);
                }
                (_, other) => panic!("{base}: {}", other.format()),
            }
        }
        let router = layer.router.unwrap();
        let weight = &reference[&format!("{prefix}ffn.gate.weight")];
        for (value, bytes) in router.weight.iter().zip(weight.as_chunks::<2>().0) {
            assert_eq!(*value, bf16::from_le_bytes(*bytes).to_f32());
        }
        match router.selection {
            Selection::Hash { tid2eid } => {
                let bytes: Vec<u8> = tid2eid.iter().flat_map(|&id| i64::from(id).to_le_bytes()).collect();
                assert_eq!(bytes, reference["layers.0.ffn.gate.tid2eid"]);
            }
            Selection::TopK { bias } => {
                let bytes: Vec<u8> = bias.unwrap().iter().flat_map(|v| v.to_le_bytes()).collect();
                assert_eq!(bytes, reference["layers.3.ffn.gate.bias"]);
            }
        }
    }
}
