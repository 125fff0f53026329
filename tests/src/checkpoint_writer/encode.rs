//! The stored forms of one layer.

use megamoe::weights::{Fp8Matrix, LayerWeights, Linear, Nvfp4Matrix, Selection};
use nvfp4::{e4m3, e8m0};

use super::{Bias, CheckpointSpec, Fusion, Names, Quant, RawTensor, SharedFormat};

/// One or several matrices of a column count, stored one after the other in one tensor.
struct Stored<'a> {
    /// Tensor name without suffix, such as `layers.0.ffn.experts.0.w1`.
    base: String,
    matrices: Vec<&'a Nvfp4Matrix>,
    /// Leading dimensions: `[rows]` or `[experts, rows]`.
    shape: Vec<usize>,
    /// Shape of the global scales, and how many matrices share one.
    scalars: Vec<usize>,
    per_scalar: usize,
    /// Whether suffixes follow an underscore and the weight has none (`gate_up_proj_weight_scale`).
    stacked: bool,
}

impl Stored<'_> {
    fn name(&self, spec: &CheckpointSpec, suffix: &str) -> String {
        match (self.stacked && spec.quant == Quant::ModelOpt, spec.names, suffix) {
            (false, ..) => format!("{}.{suffix}", self.base),
            (true, Names::HuggingFace, "weight") => self.base.clone(),
            (true, ..) => format!("{}_{suffix}", self.base),
        }
    }

    fn bytes(&self, part: fn(&Nvfp4Matrix) -> &[u8]) -> Vec<u8> {
        self.matrices.iter().flat_map(|m| part(m)).copied().collect()
    }

    fn tensor(
        &self,
        spec: &CheckpointSpec,
        suffix: &str,
        dtype: &str,
        cols: usize,
        data: Vec<u8>,
    ) -> RawTensor {
        let shape: Vec<usize> = self.shape.iter().copied().chain([cols]).collect();
        RawTensor::new(&self.name(spec, suffix), dtype, &shape, data)
    }

    fn scalar(&self, spec: &CheckpointSpec, suffix: &str, value: impl Fn(&Nvfp4Matrix) -> f32) -> RawTensor {
        let values: Vec<f32> = self.matrices.chunks(self.per_scalar).map(|m| value(m[0])).collect();
        RawTensor::f32(&self.name(spec, suffix), &self.scalars, &values)
    }

    fn write(&self, spec: &CheckpointSpec, out: &mut Vec<RawTensor>) {
        let cols = self.matrices[0].cols;
        let packed = self.bytes(|m| &m.packed);
        let scales = self.bytes(|m| &m.scales);
        match spec.quant {
            Quant::ModelOpt => {
                out.push(self.tensor(spec, "weight", "U8", cols / 2, packed));
                out.push(self.tensor(spec, "weight_scale", "F8_E4M3", cols / 16, scales));
                out.push(self.scalar(spec, "weight_scale_2", |m| m.global_scale));
                if spec.input_scales {
                    out.push(self.scalar(spec, "input_scale", |m| m.input_scale.expect("a scale")));
                }
            }
            Quant::CompressedTensors => {
                out.push(self.tensor(spec, "weight_packed", "U8", cols / 2, packed));
                out.push(self.tensor(spec, "weight_scale", "F8_E4M3", cols / 16, scales));
                out.push(self.scalar(spec, "weight_global_scale", |m| 1.0 / m.global_scale));
                if spec.input_scales {
                    let divisor = |m: &Nvfp4Matrix| 1.0 / m.input_scale.expect("a scale");
                    out.push(self.scalar(spec, "input_global_scale", divisor));
                }
            }
            Quant::Mxfp4 => {
                let codes = self.matrices.iter().flat_map(|m| e8m0_scales(m)).collect();
                out.push(self.tensor(spec, "weight", "I8", cols / 2, packed));
                out.push(self.tensor(spec, "scale", "F8_E8M0", cols / 32, codes));
            }
        }
    }
}

/// The E8M0 scales that the lossless cast came from; blocks of zeros get 2^-40.
fn e8m0_scales(m: &Nvfp4Matrix) -> Vec<u8> {
    let code = |pair: &[u8]| match pair[0] {
        0 => 87,
        scale => e8m0::encode(e4m3::decode(scale) * m.global_scale).expect("a power of two"),
    };
    m.scales.chunks_exact(2).map(code).collect()
}

fn linear(base: &str, m: &Linear, spec: &CheckpointSpec, out: &mut Vec<RawTensor>) {
    let name = format!("{base}.weight");
    match m {
        Linear::Nvfp4(m) => single(base, m, spec).write(spec, out),
        Linear::Bf16(m) => out.push(RawTensor::bf16(&name, &[m.rows, m.cols], &m.data)),
        Linear::Fp8(m) => {
            out.push(RawTensor::new(&name, "F8_E4M3", &[m.rows, m.cols], m.data.to_vec()));
            out.push(fp8_scale(base, m, spec.shared == SharedFormat::Fp8E8m0));
        }
    }
}

fn fp8_scale(base: &str, m: &Fp8Matrix, e8m0: bool) -> RawTensor {
    let shape = [m.rows.div_ceil(128), m.cols.div_ceil(128)];
    if e8m0 {
        let codes = m.scales.iter().map(|&s| e8m0::encode(s).expect("a power of two")).collect();
        RawTensor::new(&format!("{base}.scale"), "F8_E8M0", &shape, codes)
    } else {
        RawTensor::f32(&format!("{base}.weight_scale_inv"), &shape, &m.scales)
    }
}

fn single<'a>(base: &str, m: &'a Nvfp4Matrix, spec: &CheckpointSpec) -> Stored<'a> {
    let rank_1 = spec.scalars_rank_1 || spec.quant == Quant::CompressedTensors;
    Stored {
        base: base.to_owned(),
        matrices: vec![m],
        shape: vec![m.rows],
        scalars: if rank_1 { vec![1] } else { vec![] },
        per_scalar: 1,
        stacked: false,
    }
}

fn fused<'a>(base: &str, gate: &'a Nvfp4Matrix, up: &'a Nvfp4Matrix, spec: &CheckpointSpec) -> Stored<'a> {
    let one = single(base, gate, spec);
    let shape = vec![gate.rows + up.rows];
    let matrices = vec![gate, up];
    if spec.fusion.one_scale() {
        Stored { matrices, shape, per_scalar: 2, ..one }
    } else {
        Stored { matrices, shape, scalars: vec![2], ..one }
    }
}

/// Every tensor of the layer's MoE block.
pub fn layer(spec: &CheckpointSpec, weights: &LayerWeights) -> Vec<RawTensor> {
    let block = spec.block(weights.layer);
    let [gate, up, down, gate_up] = spec.projections();
    let mut out = Vec::new();
    if let Some(router) = &weights.router {
        let shape = [spec.experts, spec.hidden];
        let narrow = |v: &[f32]| v.iter().map(|&v| half::bf16::from_f32(v)).collect::<Vec<_>>();
        let name = format!("{block}.gate.weight");
        out.push(match spec.router_f32 {
            true => RawTensor::f32(&name, &shape, &router.weight),
            false => RawTensor::bf16(&name, &shape, &narrow(&router.weight)),
        });
        match &router.selection {
            Selection::Hash { tid2eid } => {
                let (dtype, data) = match spec.table_i32 {
                    true => ("I32", tid2eid.iter().flat_map(|v| v.to_le_bytes()).collect()),
                    false => ("I64", tid2eid.iter().flat_map(|&v| i64::from(v).to_le_bytes()).collect()),
                };
                let shape = [spec.vocab_size, spec.top_k];
                out.push(RawTensor::new(&format!("{block}.gate.tid2eid"), dtype, &shape, data));
            }
            Selection::TopK { bias: None } => {}
            Selection::TopK { bias: Some(bias) } => {
                let name = match spec.names {
                    Names::HuggingFace => format!("{block}.gate.e_score_correction_bias"),
                    _ => format!("{block}.gate.bias"),
                };
                out.push(match spec.bias {
                    Bias::Bf16 => RawTensor::bf16(&name, &[spec.experts], &narrow(bias)),
                    _ => RawTensor::f32(&name, &[spec.experts], bias),
                });
            }
        }
    }
    if spec.fusion.stacked() {
        let experts = &weights.experts;
        let one_scale = spec.fusion == Fusion::StackedOneScale;
        let stacked = |base: &str, matrices, rows, scalars, per_scalar| Stored {
            base: format!("{block}.experts.{base}"),
            matrices,
            shape: vec![spec.experts, rows],
            scalars,
            per_scalar,
            stacked: true,
        };
        let both = experts.iter().flat_map(|e| [&e.gate, &e.up]).collect();
        let (scalars, shared_by) =
            if one_scale { (vec![spec.experts], 2) } else { (vec![spec.experts, 2], 1) };
        stacked(gate_up, both, 2 * spec.intermediate, scalars, shared_by).write(spec, &mut out);
        // ModelOpt's vLLM-style stacked name of the down projection is the native one.
        let downs = experts.iter().map(|e| &e.down).collect();
        stacked(down, downs, spec.hidden, vec![spec.experts], 1).write(spec, &mut out);
    } else {
        for (i, e) in weights.experts.iter().enumerate() {
            let base = format!("{block}.experts.{i}");
            if spec.fusion == Fusion::Separate {
                single(&format!("{base}.{gate}"), &e.gate, spec).write(spec, &mut out);
                single(&format!("{base}.{up}"), &e.up, spec).write(spec, &mut out);
            } else {
                fused(&format!("{base}.{gate_up}"), &e.gate, &e.up, spec).write(spec, &mut out);
            }
            single(&format!("{base}.{down}"), &e.down, spec).write(spec, &mut out);
        }
    }
    if let Some(shared) = &weights.shared {
        let base = format!("{block}.shared_experts");
        match (&shared.gate, &shared.up, spec.fusion) {
            (Linear::Nvfp4(g), Linear::Nvfp4(u), Fusion::GateUpOneScale | Fusion::GateUpTwoScales) => {
                fused(&format!("{base}.{gate_up}"), g, u, spec).write(spec, &mut out);
            }
            _ => {
                linear(&format!("{base}.{gate}"), &shared.gate, spec, &mut out);
                linear(&format!("{base}.{up}"), &shared.up, spec, &mut out);
            }
        }
        linear(&format!("{base}.{down}"), &shared.down, spec, &mut out);
    }
    out
}
