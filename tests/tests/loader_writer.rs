//! The synthetic checkpoints are what they claim to be: valid files with checkpoint-shaped data.

use megamoe_tests::checkpoint_writer::{CheckpointSpec, Fusion, Names, Quant, SharedFormat};
use nvfp4::e4m3;
use safetensors::SafeTensors;

#[test]
fn data_look_like_a_checkpoint() {
    let layer = CheckpointSpec::default().layer(0);
    for expert in &layer.experts {
        for m in [&expert.gate, &expert.up, &expert.down] {
            assert_eq!(m.scales.iter().max(), Some(&e4m3::MAX_CODE), "the largest block scale is 448");
            assert!(m.scales.contains(&0), "one block is all zeros");
        }
        let ratio = expert.up.global_scale / expert.gate.global_scale;
        assert!((2.0..4.5).contains(&ratio), "gate and up global scales differ: {ratio}");
    }
}

#[test]
fn power_of_two_data_are_powers_of_two() {
    let layer = CheckpointSpec::default().into_mxfp4().layer(1);
    for m in layer.experts.iter().flat_map(|e| [&e.gate, &e.up, &e.down]) {
        assert!(m.scales.iter().all(|&s| e4m3::is_power_of_two_or_zero(s)));
        assert!(m.scales.chunks_exact(2).all(|p| p[0] == p[1]));
        assert_eq!(m.global_scale.to_bits() & 0x007f_ffff, 0);
    }
}

#[test]
fn every_form_is_a_valid_safetensors_file() {
    for names in [Names::DeepSeek, Names::DeepSeekModelPrefix, Names::HuggingFace] {
        for fusion in [Fusion::Separate, Fusion::GateUpTwoScales, Fusion::StackedOneScale] {
            for (quant, shared) in
                [(Quant::ModelOpt, SharedFormat::Bf16), (Quant::CompressedTensors, SharedFormat::Fp8E8m0)]
            {
                let spec = CheckpointSpec { names, fusion, quant, shared, ..CheckpointSpec::default() };
                let dir = tempfile::tempdir().unwrap();
                spec.write(dir.path()).unwrap();
                for shard in spec.build().shards {
                    assert!(!shard.tensors.is_empty());
                    let bytes = std::fs::read(dir.path().join(shard.file)).unwrap();
                    assert_eq!(SafeTensors::deserialize(&bytes).unwrap().len(), shard.tensors.len());
                }
            }
        }
    }
}
