//! Writes synthetic checkpoints for tests.
//!
//! A [`CheckpointSpec`] describes a model and the form in which its checkpoint is stored. The *data* depend on
//! the model's fields only, never on names, quantisation convention or shard count (nor on fusion, but for the
//! common scale of the `OneScale` forms), so that every form of one model must load to the same
//! [`LayerWeights`]; [`CheckpointSpec::layer`] returns those directly.
//!
//! ```
//! use megamoe_tests::checkpoint_writer::{CheckpointSpec, Names, Quant};
//! let spec = CheckpointSpec { names: Names::HuggingFace, quant: Quant::CompressedTensors, ..Default::default() };
//! let dir = tempfile::tempdir()?;
//! spec.write(dir.path())?;
//! let expected = spec.layer(1);
//! assert_eq!(expected.experts.len(), spec.experts);
//! # std::io::Result::Ok(())
//! ```
//!
//! For broken checkpoints, [`CheckpointSpec::build`] gives a [`RawCheckpoint`] whose JSON documents and tensors
//! can be changed before it is written, and [`raw::write_file`] writes any header in front of any data.

mod data;
mod encode;
pub mod raw;

use std::io;
use std::path::Path;

use megamoe::weights::{LayerConfig, LayerWeights};
use nvfp4::routing::Scoring;
use serde_json::{Value, json};

pub use data::Rng;
pub use raw::{RawCheckpoint, RawShard, RawTensor};

/// Tensor names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// `layers.N.ffn.experts.E.w1`, `w3`, `w2`.
    DeepSeek,
    /// The same behind `model.`.
    DeepSeekModelPrefix,
    /// `model.layers.N.mlp.experts.E.gate_proj`, `up_proj`, `down_proj`.
    HuggingFace,
}

/// Storage of FP4 weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quant {
    /// `weight` U8, `weight_scale` F8_E4M3, `weight_scale_2` F32, `input_scale` F32.
    ModelOpt,
    /// `weight_packed`, `weight_scale`, `weight_global_scale` and `input_global_scale` as divisors.
    CompressedTensors,
    /// `weight` I8, `scale` F8_E8M0 per 32. Needs `power_of_two_scales`, no `input_scales`, and sizes that are
    /// multiples of 32.
    Mxfp4,
}

/// Whether gate and up, and experts, are stored together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fusion {
    /// One tensor per expert and projection.
    Separate,
    /// Gate over up in one tensor per expert, one global scale (data are quantised under the larger of both).
    GateUpOneScale,
    /// Gate over up in one tensor per expert, two global scales.
    GateUpTwoScales,
    /// `[E, 2I, H]` and `[E, H, I]`, one global scale per expert.
    StackedOneScale,
    /// `[E, 2I, H]` and `[E, H, I]`, global scales `[E, 2]` for gate and up.
    StackedTwoScales,
}

impl Fusion {
    /// Whether gate and up have one global scale.
    pub fn one_scale(self) -> bool {
        matches!(self, Fusion::GateUpOneScale | Fusion::StackedOneScale)
    }

    /// Whether experts are stacked.
    pub fn stacked(self) -> bool {
        matches!(self, Fusion::StackedOneScale | Fusion::StackedTwoScales)
    }
}

/// Format of the shared expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SharedFormat {
    /// No shared expert.
    None,
    /// As the routed experts.
    Nvfp4,
    /// BF16, in the exclude lists.
    Bf16,
    /// F8_E4M3 with `scale` F8_E8M0 per 128 x 128, in the exclude lists.
    Fp8E8m0,
    /// F8_E4M3 with `weight_scale_inv` F32 per 128 x 128, in the exclude lists.
    Fp8F32,
}

/// The selection bias of top-k layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    /// None.
    None,
    /// F32.
    F32,
    /// BF16.
    Bf16,
}

/// A synthetic checkpoint. The default is a small DeepSeek-V4 model in ModelOpt form: layer 0 is a hash layer,
/// layer 1 a top-k layer; gate and up global scales differ threefold; the clamp bites.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckpointSpec {
    /// Seed of all data.
    pub seed: u64,
    /// Model width H.
    pub hidden: usize,
    /// Expert width I.
    pub intermediate: usize,
    /// Routed experts E.
    pub experts: usize,
    /// Experts per token.
    pub top_k: usize,
    /// Layers; each has experts.
    pub layers: usize,
    /// The first so many layers route by table.
    pub hash_layers: usize,
    /// Size of the vocabulary (rows of `tid2eid`).
    pub vocab_size: usize,
    /// Shared experts; the shared width is this times `intermediate`.
    pub shared_experts: usize,
    /// Format of the shared expert.
    pub shared: SharedFormat,
    /// Score function.
    pub scoring: Scoring,
    /// Whether routing weights are normalised.
    pub norm_topk_prob: bool,
    /// Factor on routing weights.
    pub routed_scaling_factor: f32,
    /// SwiGLU clamp.
    pub swiglu_limit: Option<f32>,
    /// Bias of top-k layers.
    pub bias: Bias,
    /// Whether the router weight is stored as F32 (else BF16; its values are representable in both).
    pub router_f32: bool,
    /// Whether `tid2eid` is stored as I32 (else I64).
    pub table_i32: bool,
    /// Standard deviation of gate and up outputs for inputs of variance 1, and of down outputs likewise.
    pub gain: f32,
    /// Amplitude of up over that of gate: the ratio of their global scales.
    pub gate_up_ratio: f32,
    /// Whether block and global scales are powers of two (an MXFP4 origin).
    pub power_of_two_scales: bool,
    /// Whether the checkpoint has calibrated activation scales.
    pub input_scales: bool,
    /// Tensor names.
    pub names: Names,
    /// Storage of FP4 weights.
    pub quant: Quant,
    /// Fusion.
    pub fusion: Fusion,
    /// Whether scalars have shape `[1]` (else `[]`).
    pub scalars_rank_1: bool,
    /// Shard files; 1 writes `model.safetensors` without an index.
    pub shards: usize,
}

impl Default for CheckpointSpec {
    fn default() -> Self {
        Self {
            seed: 1,
            hidden: 256,
            intermediate: 128,
            experts: 8,
            top_k: 3,
            layers: 2,
            hash_layers: 1,
            vocab_size: 64,
            shared_experts: 1,
            shared: SharedFormat::Nvfp4,
            scoring: Scoring::SqrtSoftplus,
            norm_topk_prob: true,
            routed_scaling_factor: 1.5,
            swiglu_limit: Some(7.0),
            bias: Bias::F32,
            router_f32: false,
            table_i32: false,
            gain: 4.0,
            gate_up_ratio: 3.0,
            power_of_two_scales: false,
            input_scales: true,
            names: Names::DeepSeek,
            quant: Quant::ModelOpt,
            fusion: Fusion::Separate,
            scalars_rank_1: false,
            shards: 2,
        }
    }
}

impl CheckpointSpec {
    /// The same model stored as MXFP4: power-of-two scales, no activation scales.
    pub fn into_mxfp4(self) -> Self {
        Self { quant: Quant::Mxfp4, power_of_two_scales: true, input_scales: false, ..self }
    }

    /// Writes config.json, hf_quant_config.json (ModelOpt only), shards and index into `dir`, which must exist.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        self.build().write(dir)
    }

    /// The checkpoint in memory, to be changed before it is written.
    ///
    /// # Panics
    /// If the fields contradict each other (see [`Quant::Mxfp4`]) or a size is not a multiple of 16.
    pub fn build(&self) -> RawCheckpoint {
        if self.quant == Quant::Mxfp4 {
            assert!(self.power_of_two_scales && !self.input_scales, "see Quant::Mxfp4");
            assert!(
                self.hidden.is_multiple_of(32) && self.intermediate.is_multiple_of(32),
                "MX blocks are 32 wide"
            );
        }
        let mut tensors = vec![RawTensor::bf16("embed.weight", &[4, 8], &[half::bf16::ONE; 32])];
        for layer in 0..self.layers {
            tensors.push(RawTensor::bf16(
                &format!("{}.{layer}.attn.wo.weight", self.layer_prefix()),
                &[2, 2],
                &[half::bf16::ONE; 4],
            ));
            tensors.extend(encode::layer(self, &self.layer(layer)));
        }
        RawCheckpoint::new(self.config(), self.quant_config(), tensors, self.shards)
    }

    /// What a loader must return for `layer`.
    pub fn layer(&self, layer: usize) -> LayerWeights {
        data::layer(self, layer)
    }

    /// The configuration that a loader must return.
    pub fn layer_config(&self) -> LayerConfig {
        LayerConfig {
            hidden: self.hidden,
            intermediate: self.intermediate,
            experts: self.experts,
            top_k: self.top_k,
            shared_intermediate: if self.shared == SharedFormat::None {
                0
            } else {
                self.shared_experts * self.intermediate
            },
            scoring: self.scoring,
            norm_topk_prob: self.norm_topk_prob,
            routed_scaling_factor: self.routed_scaling_factor,
            swiglu_limit: self.swiglu_limit,
            vocab_size: self.vocab_size,
        }
    }

    /// `layers` or `model.layers`.
    pub fn layer_prefix(&self) -> &'static str {
        match self.names {
            Names::DeepSeek => "layers",
            Names::DeepSeekModelPrefix | Names::HuggingFace => "model.layers",
        }
    }

    /// Prefix of a layer's MoE block: `layers.N.ffn` or `model.layers.N.mlp`.
    pub fn block(&self, layer: usize) -> String {
        let block = if self.names == Names::HuggingFace { "mlp" } else { "ffn" };
        format!("{}.{layer}.{block}", self.layer_prefix())
    }

    /// Names of gate, up, down, and gate over up.
    pub fn projections(&self) -> [&'static str; 4] {
        match self.names {
            Names::HuggingFace => ["gate_proj", "up_proj", "down_proj", "gate_up_proj"],
            _ => ["w1", "w3", "w2", "w13"],
        }
    }

    fn excludes(&self) -> Vec<&'static str> {
        let mut list = vec!["*.attn.*", "head", "mtp.*"];
        if !matches!(self.shared, SharedFormat::None | SharedFormat::Nvfp4) {
            list.push("*.shared_experts.*");
        }
        list
    }

    fn config(&self) -> Value {
        let mut config = json!({
            "architectures": ["DeepseekV4ForCausalLM"],
            "model_type": "deepseek_v4",
            "hidden_size": self.hidden,
            "moe_intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "n_routed_experts": self.experts,
            "n_shared_experts": if self.shared == SharedFormat::None { 0 } else { self.shared_experts },
            "num_experts_per_tok": self.top_k,
            "scoring_func": match self.scoring {
                Scoring::SqrtSoftplus => "sqrtsoftplus",
                Scoring::Sigmoid => "sigmoid",
                Scoring::Softmax => "softmax",
            },
            "topk_method": "noaux_tc",
            "norm_topk_prob": self.norm_topk_prob,
            "routed_scaling_factor": self.routed_scaling_factor,
            "swiglu_limit": self.swiglu_limit,
            "num_hash_layers": self.hash_layers,
            "vocab_size": self.vocab_size,
            "hidden_act": "silu",
        });
        let groups = json!({ "group_0": {
            "weights": { "num_bits": 4, "type": "float", "group_size": 16, "dynamic": false },
            "targets": ["Linear"],
        }});
        config["quantization_config"] = match self.quant {
            Quant::ModelOpt => json!({
                "quant_method": "fp8",
                "quant_algo": "MIXED_PRECISION",
                "moe_quant_algo": "NVFP4",
                "group_size": 16,
                "kv_cache_quant_algo": null,
                "config_groups": groups,
                "ignore": self.excludes(),
            }),
            Quant::CompressedTensors => json!({
                "quant_method": "compressed-tensors",
                "format": "nvfp4-pack-quantized",
                "quantization_status": "compressed",
                "config_groups": groups,
                "ignore": self.excludes(),
            }),
            Quant::Mxfp4 => json!({
                "quant_method": "fp8",
                "fmt": "e4m3",
                "scale_fmt": "ue8m0",
                "weight_block_size": [128, 128],
            }),
        };
        config
    }

    fn quant_config(&self) -> Option<Value> {
        (self.quant == Quant::ModelOpt).then(|| {
            json!({
                "producer": { "name": "modelopt", "version": "synthetic" },
                "quantization": {
                    "quant_algo": "NVFP4",
                    "kv_cache_quant_algo": null,
                    "group_size": 16,
                    "exclude_modules": self.excludes(),
                },
            })
        })
    }
}
