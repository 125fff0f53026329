//! The layer in plain f64 loops, with the contract's roundings of the activations. Slow and obvious.

use half::bf16;
use megamoe::options::{ActScale, ActScaleL2, Activations, ForwardOptions, WarmupScales};
use megamoe::weights::*;
use nvfp4::quantize::{amax_bits_of, dequantize_row_unscaled, quantize_row, tensor_scale_from_amax_bits};

/// `[rows, cols]` complete weights.
pub fn dense(m: &Linear) -> Vec<Vec<f64>> {
    let (rows, cols) = m.shape();
    (0..rows)
        .map(|n| match m {
            Linear::Nvfp4(m) => dense_nvfp4(m, n),
            Linear::Bf16(m) => m.data[n * cols..][..cols].iter().map(|v| v.to_f64()).collect(),
            Linear::Fp8(m) => (0..cols)
                .map(|k| {
                    let scale = m.scales[n / FP8_BLOCK * cols.div_ceil(FP8_BLOCK) + k / FP8_BLOCK];
                    f64::from(nvfp4::e4m3::decode(m.data[n * cols + k]) * scale)
                })
                .collect(),
        })
        .collect()
}

fn dense_nvfp4(m: &Nvfp4Matrix, n: usize) -> Vec<f64> {
    let mut w = vec![0.0; m.cols];
    let (packed, scales) = (&m.packed[n * m.cols / 2..], &m.scales[n * m.cols / 16..]);
    dequantize_row_unscaled(&packed[..m.cols / 2], &scales[..m.cols / 16], &mut w);
    w.iter().map(|&w| f64::from(w) * f64::from(m.global_scale)).collect()
}

/// One scale policy, resolved for one row.
#[derive(Clone, Copy)]
pub enum Scale {
    Bf16,
    Row,
    Constant(f32),
}

/// A row as the GEMM sees it.
pub fn activation(x: &[f32], scale: Scale) -> Vec<f64> {
    let s = match scale {
        Scale::Bf16 => return x.iter().map(|&v| bf16::from_f32(v).to_f64()).collect(),
        Scale::Row => tensor_scale_from_amax_bits(amax_bits_of(x)),
        Scale::Constant(s) => s,
    };
    let (mut packed, mut scales) = (vec![0; x.len() / 2], vec![0; x.len() / 16]);
    quantize_row(x, s, &mut packed, &mut scales);
    let mut out = vec![0.0; x.len()];
    dequantize_row_unscaled(&packed, &scales, &mut out);
    out.iter().map(|&v| f64::from(v) * f64::from(s)).collect()
}

pub fn matvec(w: &[Vec<f64>], x: &[f64]) -> Vec<f64> {
    w.iter().map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
}

struct Mlp {
    gate: Vec<Vec<f64>>,
    up: Vec<Vec<f64>>,
    down: Vec<Vec<f64>>,
}

impl Mlp {
    fn hidden(&self, x: &[f64], limit: f64) -> Vec<f32> {
        let gates = matvec(&self.gate, x);
        gates
            .iter()
            .zip(matvec(&self.up, x))
            .map(|(&g, u)| (g.min(limit), u.clamp(-limit, limit)))
            .map(|(g, u)| (g / (1.0 + (-g).exp()) * u) as f32)
            .collect()
    }
}

/// Routed and shared part, `[tokens, hidden]` each; every id is local and valid.
pub fn forward(
    layer: &LayerWeights,
    x: &[bf16],
    ids: &[i32],
    weights: &[f32],
    opts: &ForwardOptions,
    warmup: WarmupScales,
) -> (Vec<f32>, Vec<f32>) {
    let c = &layer.config;
    let tokens = x.len() / c.hidden;
    let limit = f64::from(c.limit());
    let x: Vec<f32> = x.iter().map(|v| v.to_f32()).collect();
    let row = |t: usize| &x[t * c.hidden..][..c.hidden];
    let mlps: Vec<Mlp> = layer
        .experts
        .iter()
        .map(|e| Mlp {
            gate: dense(&Linear::Nvfp4(e.gate.clone())),
            up: dense(&Linear::Nvfp4(e.up.clone())),
            down: dense(&Linear::Nvfp4(e.down.clone())),
        })
        .collect();
    let is_bf16 = opts.activations == Activations::Bf16;
    let l1 = |input_scale: f32| match opts.act_scale {
        _ if is_bf16 => Scale::Bf16,
        ActScale::RowDynamic => Scale::Row,
        ActScale::TensorDynamic => Scale::Constant(tensor_scale_from_amax_bits(amax_bits_of(&x))),
        ActScale::Static => Scale::Constant(input_scale),
        ActScale::Warmup => Scale::Constant(warmup.l1),
    };
    let l2 = |input_scale: f32, warm: f32, all: &[Vec<f32>]| match opts.act_scale_l2 {
        _ if is_bf16 => Scale::Bf16,
        ActScaleL2::Bound if limit.is_finite() => Scale::Constant(nvfp4::swiglu::bound_scale(limit as f32)),
        ActScaleL2::Bound | ActScaleL2::RowDynamic => Scale::Row,
        ActScaleL2::TensorDynamic => {
            Scale::Constant(tensor_scale_from_amax_bits(amax_bits_of(&all.concat())))
        }
        ActScaleL2::Static => Scale::Constant(input_scale),
        ActScaleL2::Warmup => Scale::Constant(warm),
    };
    let both = |gate: Option<f32>, up: Option<f32>| gate.unwrap_or(0.0).max(up.unwrap_or(0.0));

    let hs: Vec<Vec<f32>> = (0..ids.len())
        .map(|slot| {
            let e = ids[slot] as usize;
            let scale = l1(both(layer.experts[e].gate.input_scale, layer.experts[e].up.input_scale));
            mlps[e].hidden(&activation(row(slot / c.top_k), scale), limit)
        })
        .collect();
    let mut routed = vec![0.0f64; tokens * c.hidden];
    for (slot, h) in hs.iter().enumerate() {
        let e = ids[slot] as usize;
        let scale = l2(layer.experts[e].down.input_scale.unwrap_or(0.0), warmup.l2_routed, &hs);
        let y = matvec(&mlps[e].down, &activation(h, scale));
        let out = &mut routed[slot / c.top_k * c.hidden..][..c.hidden];
        out.iter_mut().zip(y).for_each(|(out, y)| *out += f64::from(weights[slot]) * y);
    }

    let mut shared = vec![0.0f64; tokens * c.hidden];
    if let Some(s) = &layer.shared {
        let mlp = Mlp { gate: dense(&s.gate), up: dense(&s.up), down: dense(&s.down) };
        let input_scale = |m: &Linear| if let Linear::Nvfp4(m) = m { m.input_scale } else { None };
        let plain = !matches!(s.gate, Linear::Nvfp4(_));
        let pick = |scale| if plain { Scale::Bf16 } else { scale };
        let scale = pick(l1(both(input_scale(&s.gate), input_scale(&s.up))));
        let hs: Vec<Vec<f32>> = (0..tokens).map(|t| mlp.hidden(&activation(row(t), scale), limit)).collect();
        let scale = pick(l2(input_scale(&s.down).unwrap_or(0.0), warmup.l2_shared, &hs));
        for (t, h) in hs.iter().enumerate() {
            let y = matvec(&mlp.down, &activation(h, scale));
            shared[t * c.hidden..][..c.hidden].copy_from_slice(&y);
        }
    }
    let narrow = |v: Vec<f64>| v.into_iter().map(|v| v as f32).collect();
    (narrow(routed), narrow(shared))
}
