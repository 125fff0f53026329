//! The weights of synthetic models.

use half::bf16;
use megamoe::weights::{
    Bf16Matrix, ExpertWeights, FP8_BLOCK, Fp8Matrix, LayerWeights, Linear, Nvfp4Matrix, RouterWeights,
    Selection, SharedExpertWeights,
};
use nvfp4::{GLOBAL_RANGE, e2m1, e4m3, mxfp4, quantize};

use super::{Bias, CheckpointSpec, SharedFormat};

/// SplitMix64: small, seedable, the same everywhere.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator for one purpose of one seed.
    pub fn new(seed: u64, purpose: &str) -> Self {
        let hash = purpose.bytes().fold(0xcbf2_9ce4_8422_2325 ^ seed, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Self(hash)
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `0..n`, `n > 0`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next_u64() % n as u64) as usize
    }

    /// Uniform in `[0, 1)`.
    pub fn uniform(&mut self) -> f32 {
        (self.next_u64() >> 40) as f32 / (1u64 << 24) as f32
    }

    /// About normal, variance 1, within +-6 (a sum of twelve uniforms).
    pub fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.uniform()).sum::<f32>() - 6.0
    }
}

/// `[rows, cols]` with standard deviation `std`, some quiet blocks and one block of zeros.
fn matrix(rng: &mut Rng, rows: usize, cols: usize, std: f32) -> Vec<f32> {
    let mut out = Vec::with_capacity(rows * cols);
    for block in 0..rows * cols / 16 {
        let loudness = match block % 37 {
            5 => 0.01,
            11 if block == 11 => 0.0,
            _ => 0.5 + rng.uniform(),
        };
        out.extend((0..16).map(|_| rng.normal() * std * loudness));
    }
    out
}

fn amax(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |m, v| m.max(v.abs()))
}

/// A global scale that survives the way over its reciprocal, so that ModelOpt and compressed-tensors forms of
/// one model are equal to the bit.
pub fn stable_scale(scale: f32) -> f32 {
    let stable = 1.0 / (1.0 / scale);
    assert_eq!(1.0 / (1.0 / stable), stable, "reciprocal of {scale}");
    stable
}

fn quantise(x: &[f32], cols: usize, global_scale: f32, input_scale: Option<f32>) -> Nvfp4Matrix {
    let rows = x.len() / cols;
    let mut packed = vec![0; x.len() / 2];
    let mut scales = vec![0; x.len() / 16];
    for (row, values) in x.chunks_exact(cols).enumerate() {
        let packed = &mut packed[row * cols / 2..][..cols / 2];
        quantize::quantize_row(values, global_scale, packed, &mut scales[row * cols / 16..][..cols / 16]);
    }
    Nvfp4Matrix { rows, cols, packed: packed.into(), scales: scales.into(), global_scale, input_scale }
}

/// Quantises as MXFP4 and casts, as ModelOpt does with native FP4 models.
fn quantise_mx(x: &[f32], cols: usize) -> Nvfp4Matrix {
    let rows = x.len() / cols;
    let exponent = |v: f32| (v / 6.0).log2().ceil().max(-100.0) as i32;
    let top = exponent(amax(x));
    let mut packed = Vec::with_capacity(x.len() / 2);
    let mut codes = Vec::with_capacity(x.len() / 32);
    for block in x.chunks_exact(mxfp4::MX_BLOCK) {
        let e = exponent(amax(block)).max(top - 14);
        codes.push((e + 127) as u8);
        let step = 2f32.powi(e);
        packed.extend(
            block.chunks_exact(2).map(|p| e2m1::encode(p[0] / step) | e2m1::encode(p[1] / step) << 4),
        );
    }
    let mut scales = vec![0; codes.len() * 2];
    let global_scale = mxfp4::cast_scales(&packed, &codes, &mut scales).expect("a small spread");
    Nvfp4Matrix { rows, cols, packed: packed.into(), scales: scales.into(), global_scale, input_scale: None }
}

/// Gate, up and down in NVFP4.
fn nvfp4_triple(spec: &CheckpointSpec, rng: &mut Rng, width: usize) -> [Nvfp4Matrix; 3] {
    let hidden = spec.hidden;
    let amplitude = 0.5 + rng.uniform();
    let up_std = |std: f32| std * spec.gate_up_ratio;
    let std = amplitude * spec.gain / (hidden as f32).sqrt();
    let gate = matrix(rng, width, hidden, std);
    let up = matrix(rng, width, hidden, up_std(std));
    let down = matrix(rng, hidden, width, amplitude * spec.gain / (width as f32).sqrt());
    if spec.power_of_two_scales {
        return [quantise_mx(&gate, hidden), quantise_mx(&up, hidden), quantise_mx(&down, width)];
    }
    let scale = |x: &[f32]| stable_scale(amax(x) / GLOBAL_RANGE);
    let (mut gate_scale, mut up_scale) = (scale(&gate), scale(&up));
    let input = |rng: &mut Rng| {
        let value = stable_scale((4.0 + rng.uniform()) / GLOBAL_RANGE);
        spec.input_scales.then_some(value)
    };
    let (gate_input, mut up_input, down_input) = (input(rng), input(rng), input(rng));
    if spec.fusion.one_scale() {
        gate_scale = gate_scale.max(up_scale);
        up_scale = gate_scale;
        up_input = gate_input;
    }
    [
        quantise(&gate, hidden, gate_scale, gate_input),
        quantise(&up, hidden, up_scale, up_input),
        quantise(&down, width, scale(&down), down_input),
    ]
}

fn fp8(x: &[f32], cols: usize, e8m0: bool) -> Fp8Matrix {
    let rows = x.len() / cols;
    let (block_rows, block_cols) = (rows.div_ceil(FP8_BLOCK), cols.div_ceil(FP8_BLOCK));
    let mut scales = vec![0f32; block_rows * block_cols];
    for (i, v) in x.iter().enumerate() {
        let scale = &mut scales[i / cols / FP8_BLOCK * block_cols + i % cols / FP8_BLOCK];
        *scale = scale.max(v.abs() / e4m3::MAX);
    }
    if e8m0 {
        scales.iter_mut().for_each(|s| *s = 2f32.powi(s.log2().ceil() as i32));
    }
    let encode = |(i, v): (usize, &f32)| {
        e4m3::encode(v / scales[i / cols / FP8_BLOCK * block_cols + i % cols / FP8_BLOCK])
    };
    let data = x.iter().enumerate().map(encode).collect();
    Fp8Matrix { rows, cols, data, scales: scales.into() }
}

fn shared(spec: &CheckpointSpec, layer: usize) -> Option<SharedExpertWeights> {
    let mut rng = Rng::new(spec.seed, &format!("{layer} shared"));
    let width = spec.layer_config().shared_intermediate;
    let encode: &dyn Fn(&[f32], usize) -> Linear = match spec.shared {
        SharedFormat::None => return None,
        SharedFormat::Nvfp4 => {
            let [gate, up, down] = nvfp4_triple(spec, &mut rng, width).map(Linear::Nvfp4);
            return Some(SharedExpertWeights { gate, up, down });
        }
        SharedFormat::Bf16 => &|x, cols| {
            let data = x.iter().map(|&v| bf16::from_f32(v)).collect();
            Linear::Bf16(Bf16Matrix { rows: x.len() / cols, cols, data })
        },
        SharedFormat::Fp8E8m0 => &|x, cols| Linear::Fp8(fp8(x, cols, true)),
        SharedFormat::Fp8F32 => &|x, cols| Linear::Fp8(fp8(x, cols, false)),
    };
    let std = spec.gain / (spec.hidden as f32).sqrt();
    Some(SharedExpertWeights {
        gate: encode(&matrix(&mut rng, width, spec.hidden, std), spec.hidden),
        up: encode(&matrix(&mut rng, width, spec.hidden, std * spec.gate_up_ratio), spec.hidden),
        down: encode(&matrix(&mut rng, spec.hidden, width, spec.gain / (width as f32).sqrt()), width),
    })
}

fn router(spec: &CheckpointSpec, layer: usize) -> RouterWeights {
    let mut rng = Rng::new(spec.seed, &format!("{layer} router"));
    let bf16_value = |v: f32| bf16::from_f32(v).to_f32();
    let std = 2.0 / (spec.hidden as f32).sqrt();
    let weight = (0..spec.experts * spec.hidden).map(|_| bf16_value(rng.normal() * std)).collect();
    let selection = if layer < spec.hash_layers {
        let mut tid2eid = Vec::with_capacity(spec.vocab_size * spec.top_k);
        for _ in 0..spec.vocab_size {
            let mut ids: Vec<i32> = (0..spec.experts as i32).collect();
            for slot in 0..spec.top_k {
                let other = slot + rng.below(spec.experts - slot);
                ids.swap(slot, other);
            }
            tid2eid.extend_from_slice(&ids[..spec.top_k]);
        }
        Selection::Hash { tid2eid: tid2eid.into() }
    } else {
        let bias = (spec.bias != Bias::None)
            .then(|| (0..spec.experts).map(|_| bf16_value(8.0 + rng.normal() * 0.3)).collect());
        Selection::TopK { bias }
    };
    RouterWeights { weight, selection }
}

/// The weights of one layer.
pub fn layer(spec: &CheckpointSpec, layer: usize) -> LayerWeights {
    let experts = (0..spec.experts)
        .map(|expert| {
            let mut rng = Rng::new(spec.seed, &format!("{layer} {expert}"));
            let [gate, up, down] = nvfp4_triple(spec, &mut rng, spec.intermediate);
            ExpertWeights { gate, up, down }
        })
        .collect();
    LayerWeights {
        layer,
        config: spec.layer_config(),
        experts,
        shared: shared(spec, layer),
        router: Some(router(spec, layer)),
    }
}
