//! A [`Device`] on the host: block by block, straight into the output buffers, and with [`Fault`]s to plant.
//!
//! It proves that the cases work and, by its faults, that they can fail. It shares the scalar functions of `nvfp4`
//! with the reference, so it says nothing about those; golden vectors do.

use kernels::launch::{Dims, Launch};
use nvfp4::quantize::{NON_FINITE_BITS, amax_bits, quantize_block, row_scale, tensor_scale_from_amax_bits};
use nvfp4::swiglu::{silu, swiglu};
use nvfp4::{BLOCK, bf16, layout};

use super::{Device, Value, quantize, swiglu as swiglu_cases};

/// A mistake that a kernel could make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Does `max_rows` rows, whatever the count on the device says.
    IgnoresDeviceRows,
    /// Takes rows for `k` apart.
    IgnoresStride,
    /// Leaves the scales of padding rows and groups as they are.
    LeavesPadding,
    /// Zeroes one row of scales too many.
    ClearsTooMuch,
    /// Stores the even element in the high nibble.
    SwapsNibbles,
    /// Stores the scales row by row.
    LinearScales,
    /// Takes the maximum of a row with a NaN as the maximum of the others.
    LosesNan,
    /// Lets a row with NaN or infinity keep a finite constant scale.
    KeepsConstantOnNan,
    /// Uses the row's own scale even if a constant is given.
    IgnoresConstant,
    /// Multiplies by the reciprocal of the step.
    MultipliesByReciprocal,
    /// Clamps after SiLU.
    ClampsAfterSilu,
    /// Clamps the gate from below, too.
    ClampsGateBelow,
    /// Uses the gate's alpha for both.
    OneAlpha,
    /// Multiplies by the alphas after the clamp.
    AlphaAfterClamp,
    /// Writes one byte past the codes of the last row, if the buffer ends there.
    WritesPastTheEnd,
    /// Skips every row past the first of a block.
    DoesNotStride,
}

/// The host as a device.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mirror {
    /// The mistake that it makes.
    pub fault: Option<Fault>,
}

struct Job<'a> {
    max_rows: usize,
    rows: usize,
    k: usize,
    constant: Option<f32>,
    packed: &'a mut [u8],
    scales: &'a mut [u8],
    row_scale: &'a mut [u8],
}

impl Device for Mirror {
    fn describe(&self) -> String {
        "the host, mirroring the kernels".to_owned()
    }

    fn multiprocessors(&self) -> u32 {
        4
    }

    fn max_elements(&self) -> usize {
        1 << 20
    }

    fn has(&self, _: &Launch) -> bool {
        true
    }

    fn launch(&self, launch: &'static Launch, dims: Dims, values: &mut [Value<'_>]) -> Result<(), String> {
        if launch.name == quantize::KERNEL.name {
            let [
                Value::In(x),
                Value::Out(packed),
                Value::Out(scales),
                Value::Out(row_scale),
                Value::In(rows),
                constant,
                Value::U32(max_rows),
                Value::U32(k),
                Value::U32(stride),
            ] = values
            else {
                return Err("arguments".to_owned());
            };
            let (max_rows, k) = (*max_rows as usize, *k as usize);
            let stride = if self.has(Fault::IgnoresStride) { k } else { *stride as usize };
            let job = Job {
                max_rows,
                rows: word(rows) as usize,
                k,
                constant: scale(constant),
                packed,
                scales,
                row_scale,
            };
            let value = |row: usize, i: usize| {
                let at = 2 * (row * stride + i);
                bf16::to_f32(u16::from_le_bytes([x[at], x[at + 1]]))
            };
            return self.quantize(job, dims.grid[0], value);
        }
        if launch.name == swiglu_cases::KERNEL.name {
            let [
                Value::In(gate),
                Value::In(up),
                Value::In(alpha_gate),
                Value::In(alpha_up),
                Value::Out(packed),
                Value::Out(scales),
                Value::Out(row_scale),
                Value::In(rows),
                constant,
                Value::U32(max_rows),
                Value::U32(k),
                Value::U32(stride),
                Value::F32(limit),
            ] = values
            else {
                return Err("arguments".to_owned());
            };
            let (max_rows, k) = (*max_rows as usize, *k as usize);
            let stride = if self.has(Fault::IgnoresStride) { k } else { *stride as usize };
            let job = Job {
                max_rows,
                rows: word(rows) as usize,
                k,
                constant: scale(constant),
                packed,
                scales,
                row_scale,
            };
            let f32_at = |bytes: &[u8], i: usize| f32::from_bits(word(&bytes[4 * i..]));
            let value = |row: usize, i: usize| {
                let at = row * stride + i;
                let ag = f32_at(alpha_gate, row);
                let au = if self.has(Fault::OneAlpha) { ag } else { f32_at(alpha_up, row) };
                self.swiglu(f32_at(gate, at), f32_at(up, at), ag, au, *limit)
            };
            return self.quantize(job, dims.grid[0], value);
        }
        Err(format!("no kernel {}", launch.name))
    }
}

impl Mirror {
    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    fn swiglu(&self, gate: f32, up: f32, ag: f32, au: f32, limit: f32) -> f32 {
        match self.fault {
            Some(Fault::ClampsAfterSilu) => {
                let s = silu(gate * ag);
                (if s > limit { limit } else { s }) * (up * au).clamp(-limit, limit)
            }
            Some(Fault::ClampsGateBelow) => {
                let g = gate * ag;
                swiglu(if g < -limit { -limit } else { g }, up * au, limit)
            }
            Some(Fault::AlphaAfterClamp) => {
                let clamp = |v: f32| if v > limit { limit } else { v };
                swiglu(clamp(gate) * ag, clamp(up) * au, f32::INFINITY)
            }
            _ => swiglu(gate * ag, up * au, limit),
        }
    }

    fn quantize(&self, job: Job<'_>, grid_x: u32, value: impl Fn(usize, usize) -> f32) -> Result<(), String> {
        let Job { max_rows, rows, k, constant, packed, scales, row_scale: row_scales } = job;
        let groups = k / BLOCK;
        let rows = if self.has(Fault::IgnoresDeviceRows) { max_rows } else { rows.min(max_rows) };
        if !self.has(Fault::LeavesPadding) {
            let more = usize::from(self.has(Fault::ClearsTooMuch));
            let clear = layout::sf_len(rows + more, groups).min(scales.len());
            scales[..clear].fill(0);
        }
        for row in 0..rows {
            if self.has(Fault::DoesNotStride) && row >= grid_x as usize {
                continue;
            }
            let mut amax = 0;
            for i in 0..k {
                let bits = amax_bits(value(row, i));
                if !(self.has(Fault::LosesNan) && bits > NON_FINITE_BITS) {
                    amax = amax.max(bits);
                }
            }
            let s2 = match constant {
                Some(given) if self.has(Fault::KeepsConstantOnNan) => given,
                Some(given) if !self.has(Fault::IgnoresConstant) => row_scale(given, amax),
                _ => tensor_scale_from_amax_bits(amax),
            };
            row_scales[4 * row..][..4].copy_from_slice(&s2.to_le_bytes());
            for group in 0..groups {
                let x: [f32; BLOCK] = std::array::from_fn(|i| value(row, group * BLOCK + i));
                let mut block = quantize_block(&x, s2);
                if self.has(Fault::MultipliesByReciprocal) && block.codes != 0 {
                    let reciprocal = 1.0 / (nvfp4::e4m3::decode(block.scale) * s2);
                    block.codes = (0..BLOCK)
                        .map(|i| u64::from(nvfp4::e2m1::encode(x[i] * reciprocal)) << (4 * i))
                        .fold(0, |a, b| a | b);
                }
                for (b, byte) in block.codes.to_le_bytes().into_iter().enumerate() {
                    let byte = if self.has(Fault::SwapsNibbles) { byte.rotate_left(4) } else { byte };
                    packed[(row * k + group * BLOCK) / 2 + b] = byte;
                }
                let linear = self.has(Fault::LinearScales);
                let at = if linear { row * groups + group } else { layout::sf_offset(row, group, groups) };
                scales[at] = block.scale;
            }
        }
        if self.has(Fault::WritesPastTheEnd) && rows == max_rows {
            return Err("a write outside `packed`".to_owned());
        }
        Ok(())
    }
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn scale(value: &Value<'_>) -> Option<f32> {
    match value {
        Value::In(bytes) => Some(f32::from_bits(word(bytes))),
        _ => None,
    }
}
