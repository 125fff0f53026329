//! Cases of `dense_*`: linear maps with bf16 and FP8 weights.
//!
//! The reference chains the step of the tensor cores that an H200 confirmed (`ptx_emulator::numerics::aligned_sum`, used
//! here as a function, apart from the emulator's machine) in the order that the kernels document: bits are equal.

use half::f16;
use kernels::launch::Launch;
use kernels::{dense_bf16_linear, dense_bf16_swiglu, dense_fp8_linear, dense_fp8_swiglu};
use nvfp4::{bf16, swiglu};
use ptx_emulator::numerics::aligned_sum::{WIDE, step};
use ptx_emulator::numerics::element::{Element, Format};

use super::super::data::{Data, hash, uniform};
use super::super::outputs::{POISON, parallel};
use super::super::{Case, Check, Device, Value};
use super::{Scale, bytes, expect_f32, expect_u16, poison_u32, poisoned, run};

/// One set of inputs.
#[derive(Clone, Copy, Debug)]
pub struct Problem {
    /// FP8 weights, not bf16.
    pub is_fp8: bool,
    /// Two weights and SwiGLU.
    pub is_swiglu: bool,
    /// Tokens that the buffers hold.
    pub max_tokens: usize,
    /// Token count on the device.
    pub tokens: usize,
    /// Rows of a weight.
    pub features: usize,
    /// Columns.
    pub k: usize,
    /// Elements from row to row of the tokens, and of the output.
    pub strides: (usize, usize),
    /// Outputs compared: all, or about this many.
    pub checked: usize,
}

const LIMIT: f32 = 0.8;

/// The weights of one matrix.
struct Weight {
    bytes: Vec<u8>,
    elements: Vec<Element>,
    scales: Vec<f32>,
}

impl Problem {
    /// Full buffers.
    pub fn new(is_fp8: bool, is_swiglu: bool, tokens: usize, features: usize, k: usize) -> Self {
        let strides = (k, features);
        Self { is_fp8, is_swiglu, max_tokens: tokens, tokens, features, k, strides, checked: usize::MAX }
    }

    /// The kernel's row of the launch table.
    pub fn kernel(&self) -> &'static Launch {
        match (self.is_fp8, self.is_swiglu) {
            (false, false) => &dense_bf16_linear::LAUNCH,
            (false, true) => &dense_bf16_swiglu::LAUNCH,
            (true, false) => &dense_fp8_linear::LAUNCH,
            (true, true) => &dense_fp8_swiglu::LAUNCH,
        }
    }

    fn weight(&self, salt: u64) -> Weight {
        let n = self.features * self.k;
        let random = |i: usize| uniform(hash(i as u64) ^ salt) - 0.5;
        let scale = |i: usize| (uniform(i as u64 ^ salt) + 0.5) * 0.01;
        let scales = (0..self.features.div_ceil(128) * self.k.div_ceil(128)).map(scale).collect();
        if self.is_fp8 {
            // Every code but NaN.
            let code = |i: usize| (hash(i as u64 ^ salt << 8) % 127) as u8 | (u8::from(random(i) < 0.0) << 7);
            let bytes: Vec<u8> = (0..n).map(code).collect();
            let elements = bytes
                .iter()
                .map(|&b| Format::F16.decode(u32::from(f16::from_f32(e4m3(b)).to_bits())))
                .collect();
            return Weight { bytes, elements, scales };
        }
        let bits: Vec<u16> = (0..n).map(|i| bf16::from_f32(random(i) * 0.2)).collect();
        let elements = bits.iter().map(|&b| Format::Bf16.decode(u32::from(b))).collect();
        Weight { bytes: bytes(&bits), elements, scales }
    }

    /// Bits of the tokens' rows, and their scales; a token of four has NaN or infinity.
    fn tokens(&self) -> (Vec<u16>, Vec<f32>) {
        let mut x = vec![0xffffu16; self.max_tokens * self.strides.0];
        let mut scales = vec![f32::NAN; self.max_tokens];
        for token in 0..self.tokens.min(self.max_tokens) {
            let mut values = vec![0.0; self.k];
            let data = if token % 4 == 3 { Data::Contained } else { Data::Normal };
            data.fill(token, 11, &mut values);
            let row = &mut x[token * self.strides.0..][..self.k];
            if self.is_fp8 {
                // As `prepare_rows_bf16` leaves them.
                let is_finite = values.iter().all(|v| v.is_finite());
                scales[token] = if is_finite { 2f32.powi(token as i32 % 5 - 14) } else { f32::NAN };
                row.iter_mut().zip(values).for_each(|(x, v)| {
                    *x = if is_finite { f16::from_f32(v * 4096.0).to_bits() } else { 0 };
                });
            } else {
                row.iter_mut().zip(values).for_each(|(x, v)| *x = bf16::from_f32(v));
            }
        }
        (x, scales)
    }

    fn dot(&self, w: &Weight, feature: usize, x: &[Element]) -> f32 {
        let fraction = if self.is_fp8 { 20 } else { 14 };
        let row = &w.elements[feature * self.k..][..self.k];
        let chain = |w: &[Element], x: &[Element]| {
            let steps = w.chunks(16).zip(x.chunks(16));
            f32::from_bits(steps.fold(0, |acc, (w, x)| step(w, x, acc, fraction, WIDE)))
        };
        if !self.is_fp8 {
            return chain(row, x);
        }
        let blocks = row.chunks(128).zip(x.chunks(128)).enumerate();
        let scales = &w.scales[feature / 128 * self.k.div_ceil(128)..];
        blocks.fold(0.0, |total, (i, (w, x))| total + chain(w, x) * scales[i])
    }

    /// One launch, every byte (or a sample of the results) compared.
    pub fn check(&self, device: &dyn Device, grid: u32) -> Check {
        let weights: Vec<Weight> = (0..1 + u64::from(self.is_swiglu)).map(|m| self.weight(m + 21)).collect();
        let (x, scales) = self.tokens();
        let (x_stride, out_stride) = self.strides;
        let tokens = self.tokens.min(self.max_tokens);
        let n = self.max_tokens * out_stride;
        let mut out = if self.is_swiglu { poisoned::<u16>(n) } else { poisoned::<f32>(n) };
        let (x_bytes, scale_bytes) = (bytes(&x), bytes(&scales));
        let scales_of: Vec<Vec<u8>> = weights.iter().map(|w| bytes(&w.scales)).collect();
        let count = (self.tokens as u32).to_le_bytes();
        let mut values = Vec::new();
        for (w, scales) in weights.iter().zip(&scales_of) {
            values.push(Value::In(&w.bytes));
            if self.is_fp8 {
                values.push(Value::In(scales));
            }
        }
        values.push(Value::In(&x_bytes));
        if self.is_fp8 {
            values.push(Value::In(&scale_bytes));
        }
        values.push(Value::Out(&mut out));
        values.push(Value::In(&count));
        values.extend(
            [self.max_tokens, self.features, self.k, x_stride, out_stride].map(|v| Value::U32(v as u32)),
        );
        if self.is_swiglu {
            values.push(Value::F32(LIMIT));
        }
        run(device, self.kernel(), grid, 0, &mut values)?;

        let format = if self.is_fp8 { Format::F16 } else { Format::Bf16 };
        let every = (tokens * self.features / self.checked.max(1)).max(1);
        let rows = parallel(tokens, |token| {
            let elements: Vec<Element> =
                x[token * x_stride..][..self.k].iter().map(|&b| format.decode(u32::from(b))).collect();
            let result = |feature: usize| {
                if !(token * self.features + feature).is_multiple_of(every) {
                    return None;
                }
                let mut sums = weights.iter().map(|w| self.dot(w, feature, &elements));
                let scale = if self.is_fp8 { scales[token] } else { 1.0 };
                let mut next = || sums.next().unwrap_or(f32::NAN) * scale;
                let first = next();
                Some(if self.is_swiglu { swiglu::swiglu(first, next(), LIMIT) } else { first })
            };
            (0..self.features).map(result).collect::<Vec<_>>()
        });
        if self.is_swiglu {
            let mut want = vec![u16::from_le_bytes([POISON; 2]); n];
            for (token, row) in rows.iter().enumerate() {
                for (feature, value) in row.iter().enumerate() {
                    let at = token * out_stride + feature;
                    want[at] =
                        value.map_or(u16::from_le_bytes([out[2 * at], out[2 * at + 1]]), bf16::from_f32);
                }
            }
            return expect_u16("h", &out, &want);
        }
        let mut want = vec![f32::from_bits(poison_u32()); n];
        for (token, row) in rows.iter().enumerate() {
            for (feature, value) in row.iter().enumerate() {
                let at = token * out_stride + feature;
                let got = std::array::from_fn(|i| out[4 * at + i]);
                want[at] = value.unwrap_or(f32::from_le_bytes(got));
            }
        }
        expect_f32("y", &out, &want)
    }
}

fn e4m3(byte: u8) -> f32 {
    let magnitude = nvfp4::e4m3::decode(byte & 0x7f);
    if byte & 0x80 != 0 { -magnitude } else { magnitude }
}

/// Every case.
pub fn cases(scale: Scale) -> Vec<Case> {
    let tokens: &[usize] = scale.pick(&[3], &[0, 1, 9, 70], &[0, 1, 2, 7, 64, 127, 128, 129, 1000]);
    let shapes: &[(usize, usize)] = scale.pick(
        &[(20, 144)],
        &[(8, 16), (70, 336), (130, 144)],
        &[(8, 16), (2048, 4096), (7168, 3072), (130, 2880)],
    );
    let grids: &[u32] = scale.pick(&[1], &[1, 3, 20], &[132, 264, 7]);
    let mut cases = Vec::new();
    for is_fp8 in [false, true] {
        for is_swiglu in [false, true] {
            let kernel = Problem::new(is_fp8, is_swiglu, 0, 8, 16).kernel();
            let mut case = Case::new(kernel, "shape");
            for (i, &n) in tokens.iter().enumerate() {
                for (j, &(features, k)) in shapes.iter().enumerate() {
                    let checked = if n * features * k > 1 << 24 { 4000 } else { usize::MAX };
                    let p = Problem { checked, ..Problem::new(is_fp8, is_swiglu, n, features, k) };
                    let grid = grids[(i + j) % grids.len()];
                    case.part(p, n * features, move |device| p.check(device, grid));
                }
            }
            cases.push(case);
            let mut case = Case::new(kernel, "device_tokens");
            for (max_tokens, tokens) in [(9, 0), (9, 4), (9, 900)] {
                let (features, k) = (70, 208);
                let strides = (k + 8, features + 2);
                let p =
                    Problem { max_tokens, strides, ..Problem::new(is_fp8, is_swiglu, tokens, features, k) };
                // One block does two tiles in a row, which share the stages.
                case.part(p, 9, move |device| p.check(device, 1));
            }
            cases.push(case);
        }
    }
    cases
}
