//! Linear maps with NVFP4 weights on a device, against f64 arithmetic written apart and against each other.

use half::bf16;
use megamoe::cpu::{self, LinearMode, RowScale};
use megamoe::metrics::{BAR, Metrics};
use megamoe::runtime::linear::{LinearIo, LinearPlan};
use megamoe::runtime::plan::{Form, Tokens};
use megamoe::runtime::{Device, DevicePtr, Memory};
use megamoe::weights::Nvfp4Matrix;

use super::cases::Body;
use super::{Case, Check, Random, forms};

/// What every byte of outputs and of the workspace holds before a call.
const POISON: u8 = 0xff;
/// Words of counters at the start of a workspace.
const COUNTERS: usize = 16;

/// A map to test.
#[derive(Clone, Copy, Debug)]
pub struct Map {
    /// Weights.
    pub groups: usize,
    /// In features.
    pub cols: usize,
    /// Out features.
    pub rows: usize,
}

/// Sizes of the cases.
#[derive(Clone, Copy, Debug)]
pub struct LinearSizes {
    /// One weight, and several.
    pub maps: &'static [Map],
    /// Token counts.
    pub tokens: &'static [usize],
}

impl LinearSizes {
    /// For the emulator.
    pub const EMULATOR: LinearSizes = LinearSizes {
        maps: &[Map { groups: 1, cols: 80, rows: 48 }, Map { groups: 3, cols: 64, rows: 144 }],
        tokens: &[1, 9],
    };
    /// For a card: DeepSeek-V4's projections, and the grouped output projection.
    pub const CARD: LinearSizes = LinearSizes {
        maps: &[
            Map { groups: 1, cols: 7168, rows: 1536 },
            Map { groups: 1, cols: 1536, rows: 16384 },
            Map { groups: 8, cols: 4096, rows: 1024 },
            Map { groups: 3, cols: 2880, rows: 2896 },
        ],
        tokens: &[1, 33, 300],
    };
}

/// Every mode; the constant is about what rows of variance 1 need.
const MODES: [(&str, LinearMode); 5] = [
    ("w4a16", LinearMode::W4A16),
    ("row", LinearMode::W4A4(RowScale::RowDynamic)),
    ("tensor", LinearMode::W4A4(RowScale::TensorDynamic)),
    ("static", LinearMode::W4A4(RowScale::Static)),
    ("constant", LinearMode::W4A4(RowScale::Constant(0.0017))),
];

/// Weights made by the quantiser, with static scales that differ by group.
fn weights(map: Map) -> Result<Vec<Nvfp4Matrix>, String> {
    let one = |g: usize| {
        let mut random = Random(0x11ea ^ g as u64);
        let data: Vec<_> = (0..map.rows * map.cols).map(|_| bf16::from_f32(random.normal() * 0.05)).collect();
        let matrix = Nvfp4Matrix::from_bf16(map.rows, map.cols, &data).map_err(|e| e.to_string())?;
        Ok(Nvfp4Matrix { input_scale: Some(0.0015 + 0.0003 * g as f32), ..matrix })
    };
    (0..map.groups).map(one).collect()
}

/// Rows of one token and group: of zeros, with a NaN, with an infinity, loud, quiet, and ordinary ones.
fn rows(map: Map, tokens: usize) -> Vec<bf16> {
    let mut random = Random(0x0b5e ^ tokens as u64);
    let mut x = Vec::with_capacity(tokens * map.groups * map.cols);
    for row in 0..tokens * map.groups {
        let start = x.len();
        let loudness = [1.0, 1.0, 0.0, 1.0, 3.0, 1.0, 0.01][row % 7];
        x.extend((0..map.cols).map(|_| bf16::from_f32(random.normal() * loudness)));
        match row % 11 {
            3 => x[start + map.cols / 2] = bf16::NAN,
            8 => x[start + 1] = bf16::NEG_INFINITY,
            _ => {}
        }
    }
    x
}

/// One call's outputs.
#[derive(Clone, Debug)]
pub struct Outputs {
    output: Vec<bf16>,
    output_f32: Vec<f32>,
}

/// Which outputs are asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wanted {
    Both,
    Bf16,
    F32,
}

struct Loaded<'d> {
    device: &'d dyn Device,
    plan: LinearPlan,
    _weights: Memory<'d>,
}

impl<'d> Loaded<'d> {
    fn new(device: &'d dyn Device, groups: &[Nvfp4Matrix], mode: LinearMode) -> Result<Self, String> {
        let make = || -> megamoe::Result<Self> {
            let mut plan = LinearPlan::new(groups, mode, device.arch())?;
            let weights = Memory::new(device, plan.bytes())?;
            // SAFETY: memory of that size.
            unsafe { plan.load(groups, device, weights.ptr())? };
            Ok(Self { device, plan, _weights: weights })
        };
        make().map_err(|e| e.to_string())
    }

    /// One call in buffers for `max_tokens` tokens; `count` is what the device's token count says.
    fn run(
        &self,
        x: &[bf16],
        (count, max_tokens): (u32, usize),
        on_host: bool,
        form: Form,
        wanted: Wanted,
    ) -> megamoe::Result<Outputs> {
        let (device, shape) = (self.device, self.plan.shape());
        let poisoned = |bytes: usize| Memory::of(device, &vec![POISON; bytes]);
        let mut all = vec![POISON; max_tokens * shape.groups * shape.cols * 2];
        all[..2 * x.len()].copy_from_slice(bytemuck::cast_slice(x));
        let rows = Memory::of(device, &all)?;
        let tokens = Memory::of(device, &count.to_le_bytes())?;
        let elements = max_tokens * shape.groups * shape.rows;
        let (output, output_f32) = (poisoned(2 * elements)?, poisoned(4 * elements)?);
        let bytes = self.plan.workspace(max_tokens)?.bytes();
        let workspace = Memory::new(device, bytes)?;
        let pick = |memory: &Memory<'_>, not: Wanted| match wanted == not {
            true => DevicePtr::NULL,
            false => memory.ptr(),
        };
        let io = LinearIo {
            rows: rows.ptr(),
            tokens: if on_host { Tokens::Host(count) } else { Tokens::Device(tokens.ptr()) },
            max_tokens,
            output: pick(&output, Wanted::F32),
            output_f32: pick(&output_f32, Wanted::Bf16),
            form: Some(form),
        };
        // SAFETY: everything was just made, of the sizes that the plan asks for, and outlives the downloads.
        unsafe {
            if !device.tracks_writes() {
                device.fill_u8(workspace.ptr(), POISON, bytes)?;
            }
            device.fill_u32(workspace.ptr(), 0, COUNTERS)?;
            self.plan.enqueue(device, &io, workspace.ptr(), bytes)?;
        }
        Ok(Outputs {
            output: output.to_vec()?.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]])).collect(),
            output_f32: output_f32
                .to_vec()?
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect(),
        })
    }
}

/// The result in f64 from the formulas, with quantised rows where the mode has them.
fn reference(groups: &[Nvfp4Matrix], x: &[bf16], mode: LinearMode) -> Vec<f32> {
    use nvfp4::quantize::{NON_FINITE_BITS, amax_bits_of, quantize_row, tensor_scale_from_amax_bits};
    let (n, cols, out) = (groups.len(), groups[0].cols, groups[0].rows);
    let values: Vec<Vec<f32>> =
        x.chunks_exact(cols).map(|row| row.iter().map(|v| v.to_f32()).collect()).collect();
    let finite = |row: &[f32]| amax_bits_of(row) < NON_FINITE_BITS;
    let all = values.iter().filter(|row| finite(row)).map(|row| amax_bits_of(row)).max().unwrap_or(0);
    let dequantised = |packed: &[u8], scales: &[u8], s2: f32| -> Vec<f64> {
        let mut row = vec![0.0; 2 * packed.len()];
        nvfp4::quantize::dequantize_row_unscaled(packed, scales, &mut row);
        row.iter().map(|&v| f64::from(v) * f64::from(s2)).collect()
    };
    let weights: Vec<Vec<f64>> = groups
        .iter()
        .flat_map(|m| {
            m.packed
                .chunks_exact(cols / 2)
                .zip(m.scales.chunks_exact(cols / 16))
                .map(|(packed, scales)| dequantised(packed, scales, m.global_scale))
        })
        .collect();
    let mut y = Vec::with_capacity(values.len() * out);
    for (r, row) in values.iter().enumerate() {
        let g = r % n;
        if !finite(row) {
            y.extend(std::iter::repeat_n(f32::NAN, out));
            continue;
        }
        let s2 = match mode {
            LinearMode::W4A16 => None,
            LinearMode::W4A4(RowScale::RowDynamic) => Some(tensor_scale_from_amax_bits(amax_bits_of(row))),
            LinearMode::W4A4(RowScale::TensorDynamic) => Some(tensor_scale_from_amax_bits(all)),
            LinearMode::W4A4(RowScale::Static) => groups[g].input_scale,
            LinearMode::W4A4(RowScale::Constant(s)) => Some(s),
        };
        let row: Vec<f64> = match s2 {
            None => row.iter().map(|&v| f64::from(v)).collect(),
            Some(s2) => {
                let (mut packed, mut scales) = (vec![0; cols / 2], vec![0; cols / 16]);
                quantize_row(row, s2, &mut packed, &mut scales);
                dequantised(&packed, &scales, s2)
            }
        };
        let dot = |w: &Vec<f64>| row.iter().zip(w).map(|(a, b)| a * b).sum::<f64>() as f32;
        y.extend(weights[g * out..][..out].iter().map(dot));
    }
    y
}

fn under_the_bar(what: &str, got: &[f32], want: &[f32]) -> Check {
    let metrics = Metrics::of(got, want);
    if metrics.passes(&BAR) { Ok(()) } else { Err(format!("{what}: {metrics:?}")) }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn check(device: &dyn Device, map: Map, mode: LinearMode, tokens: usize) -> Check {
    let (weights, x) = (weights(map)?, rows(map, tokens));
    let text = |e: megamoe::Error| e.to_string();
    let loaded = Loaded::new(device, &weights, mode)?;
    // The f64 arithmetic is slow: at a card's sizes the CPU's map, which is tested against the oracle, stands in.
    let cpu = cpu::Nvfp4GroupedLinear::new(&weights).map_err(text)?;
    let mut want = cpu.forward(&x, tokens, mode).map_err(text)?;
    if map.rows * map.cols * tokens < 1 << 22 {
        want = reference(&weights, &x, mode);
    }
    let (elements, capacity) = (want.len(), tokens + 5);
    let exact = |count: usize| (count as u32, capacity);
    let mut first: Option<Outputs> = None;
    for &form in forms(device, mode.activations()) {
        let got = loaded.run(&x, exact(tokens), false, form, Wanted::Both).map_err(text)?;
        under_the_bar(&format!("{form:?} f32"), &got.output_f32[..elements], &want)?;
        for (i, (v, b)) in got.output_f32[..elements].iter().zip(&got.output).enumerate() {
            if bf16::from_f32(*v).to_bits() != b.to_bits() && !(v.is_nan() && b.to_bits() == 0x7fff) {
                return Err(format!("{form:?}: element {i} is {v} in f32 and {b} in bf16"));
            }
        }
        let untouched = got.output_f32[elements..].iter().all(|v| v.to_bits() == u32::MAX)
            && got.output[elements..].iter().all(|v| v.to_bits() == u16::MAX);
        if !untouched {
            return Err(format!("{form:?}: a row past the tokens of the call was written"));
        }
        let first = first.get_or_insert_with(|| got.clone());
        if bits(&first.output_f32) != bits(&got.output_f32) {
            return Err(format!("{form:?}: other bits than the first form"));
        }
    }
    let (form, Some(first)) = (forms(device, mode.activations())[0], first) else { return Ok(()) };
    // A count that the host gives, one output at a time.
    let host = loaded.run(&x, exact(tokens), true, form, Wanted::Bf16).map_err(text)?;
    if host.output.iter().zip(&first.output).any(|(a, b)| a.to_bits() != b.to_bits()) {
        return Err("bf16 alone, count from the host: other bits".to_owned());
    }
    let alone = loaded.run(&x, exact(tokens), false, form, Wanted::F32).map_err(text)?;
    let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
    if !alone.output_f32.iter().zip(&first.output_f32).all(same) {
        return Err("f32 alone: other bits".to_owned());
    }
    Ok(())
}

/// Counts at the edges: none, more than the buffers hold.
fn counts(device: &dyn Device, map: Map, mode: LinearMode) -> Check {
    let (weights, x) = (weights(map)?, rows(map, 7));
    let text = |e: megamoe::Error| e.to_string();
    let loaded = Loaded::new(device, &weights, mode)?;
    let forms = forms(device, mode.activations());
    for &form in forms {
        let none = loaded.run(&x, (0, 7), false, form, Wanted::Both).map_err(text)?;
        if none.output_f32.iter().any(|v| v.to_bits() != u32::MAX) {
            return Err(format!("{form:?}: no tokens, and something was written"));
        }
        let all = loaded.run(&x, (7, 7), false, form, Wanted::Both).map_err(text)?;
        let more = loaded.run(&x, (1000, 7), false, form, Wanted::Both).map_err(text)?;
        if bits(&more.output_f32) != bits(&all.output_f32) {
            return Err(format!("{form:?}: a count above the capacity is not capped"));
        }
    }
    match loaded.run(&x, (8, 7), true, forms[0], Wanted::Both) {
        Err(megamoe::Error::Mismatch { .. }) => Ok(()),
        other => Err(format!("8 of 7 tokens: {:?}", other.map(|_| ()))),
    }
}

/// Every case.
pub fn linear_cases(sizes: &LinearSizes) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name: String, body: Body| {
        cases.push(Case { name: format!("linear/{name}"), emulated_on: None, body });
    };
    for &map in sizes.maps {
        let shape = format!("{}x{}x{}", map.groups, map.cols, map.rows);
        for (mode_name, mode) in MODES {
            for &tokens in sizes.tokens {
                let name = format!("{shape}/{mode_name}/{tokens}");
                add(name, Box::new(move |device| check(device, map, mode, tokens)));
            }
        }
        for (mode_name, mode) in &MODES[..2] {
            add(format!("{shape}/{mode_name}/counts"), Box::new(move |device| counts(device, map, *mode)));
        }
    }
    cases
}
