//! Cases of `combine`.

use kernels::combine::LAUNCH;
use kernels::launch::Launch;
use nvfp4::bf16;

use super::super::data::{hash, uniform};
use super::super::outputs::POISON;
use super::super::{Case, Check, Device, Value};
use super::{Scale, bytes, expect_f32, expect_u16, optional, poison_u32, poisoned, run};

/// The kernel's row of the launch table.
pub static KERNEL: &Launch = &LAUNCH;

const NONE: u32 = u32::MAX;

/// Where the shared expert's output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shared {
    /// There is none.
    None,
    /// In y, behind the others' rows.
    Rows,
    /// In a buffer of its own.
    Apart,
}

/// One set of inputs.
#[derive(Clone, Copy, Debug)]
pub struct Problem {
    /// Tokens that the buffers hold.
    pub max_tokens: usize,
    /// Token count on the device.
    pub tokens: usize,
    /// Slots of a token.
    pub top_k: usize,
    /// Columns to do.
    pub columns: usize,
    /// Elements from row to row of y, and of the output.
    pub strides: (usize, usize),
    /// The shared expert.
    pub shared: Shared,
    /// Every fifth token is not finite; a f32 output too.
    pub extras: bool,
}

impl Problem {
    /// One launch, every byte compared.
    pub fn check(&self, device: &dyn Device, grid: u32) -> Check {
        let (y_stride, out_stride) = self.strides;
        let tokens = self.tokens.min(self.max_tokens);
        let slots = self.max_tokens * self.top_k;
        // Routed rows in another order than slots; a fifth of the slots has none.
        let slot_row: Vec<u32> = (0..slots)
            .map(|s| if hash(s as u64).is_multiple_of(5) { NONE } else { (slots - 1 - s) as u32 })
            .collect();
        let weights: Vec<f32> = (0..slots).map(|s| uniform(s as u64 + 7) * 2.5).collect();
        let rows = slots + self.max_tokens;
        let value = |i: usize, salt: u64| match hash(i as u64 ^ salt) % 4001 {
            0 => f32::NAN,
            1 => f32::INFINITY,
            2 => -0.0,
            _ => (uniform(i as u64 ^ salt << 32) - 0.5) * 3.0,
        };
        let y: Vec<f32> = (0..rows * y_stride).map(|i| value(i, 1)).collect();
        let shared: Vec<f32> = (0..self.max_tokens * (y_stride + 4)).map(|i| value(i, 2)).collect();
        let b_scale: Vec<f32> =
            (0..self.max_tokens).map(|t| if t % 5 == 3 { f32::NAN } else { 1.0 }).collect();
        let mut out = vec![u16::from_le_bytes([POISON; 2]); self.max_tokens * out_stride];
        let mut out_f32 = vec![f32::from_bits(poison_u32()); self.max_tokens * out_stride];
        for token in 0..tokens {
            for column in 0..self.columns {
                let mut sum = 0.0f32;
                for slot in token * self.top_k..(token + 1) * self.top_k {
                    if slot_row[slot] != NONE {
                        sum += weights[slot] * y[slot_row[slot] as usize * y_stride + column];
                    }
                }
                let more = match self.shared {
                    Shared::None => None,
                    Shared::Rows => Some(y[(slots + token) * y_stride + column]),
                    Shared::Apart => Some(shared[token * (y_stride + 4) + column]),
                };
                if let Some(more) = more {
                    sum = if self.top_k == 0 { more } else { sum + more };
                }
                if self.extras && b_scale[token].is_nan() {
                    sum = f32::NAN;
                }
                out[token * out_stride + column] = bf16::from_f32(sum);
                out_f32[token * out_stride + column] = sum;
            }
        }
        let [y, slot_row, weights, shared, b_scale] =
            [bytes(&y), bytes(&slot_row), bytes(&weights), bytes(&shared), bytes(&b_scale)];
        let first = bytes(&[slots as u32]);
        let (mut got, mut got_f32) = (poisoned::<u16>(out.len()), poisoned::<f32>(out.len()));
        let values = &mut [
            Value::In(&y),
            Value::In(&slot_row),
            Value::In(&weights),
            optional((self.shared == Shared::Rows).then_some(&first)),
            optional((self.shared == Shared::Apart).then_some(&shared)),
            optional(self.extras.then_some(&b_scale)),
            Value::Out(&mut got),
            if self.extras { Value::Out(&mut got_f32) } else { Value::Null },
            Value::In(&(self.tokens as u32).to_le_bytes()),
            Value::U32(self.max_tokens as u32),
            Value::U32(self.top_k as u32),
            Value::U32(self.columns as u32),
            Value::U32(y_stride as u32),
            Value::U32(y_stride as u32 + 4),
            Value::U32(out_stride as u32),
        ];
        run(device, KERNEL, grid, 0, values)?;
        expect_u16("out", &got, &out)?;
        if self.extras { expect_f32("out_f32", &got_f32, &out_f32) } else { Ok(()) }
    }
}

/// Every case.
pub fn cases(scale: Scale) -> Vec<Case> {
    let tokens: &[usize] = scale.pick(&[3], &[0, 1, 2, 7], &[0, 1, 2, 7, 127, 128, 129, 1000]);
    let columns: &[(usize, usize, usize)] = scale.pick(
        &[(64, 64, 64)],
        &[(4, 4, 4), (80, 96, 512), (1040, 1040, 1040)],
        &[(4, 4, 4), (512, 512, 7168), (4096, 4096, 4096), (7168, 7168, 7168)],
    );
    let grids: &[u32] = scale.pick(&[2], &[1, 3, 20], &[1, 132, 1056, 5000]);
    let mut cases = Vec::new();
    for shared in [Shared::None, Shared::Rows, Shared::Apart] {
        for extras in [false, true] {
            let name = format!("shared={shared:?}{}", if extras { "/f32" } else { "" });
            let mut case = Case::new(KERNEL, name.to_lowercase());
            for (i, &n) in tokens.iter().enumerate() {
                for &(columns, y_stride, out_stride) in columns {
                    let top_k = [6, 8, 1, 16, 0, 9][i % 6];
                    let p = Problem {
                        max_tokens: n,
                        tokens: n,
                        top_k,
                        columns,
                        strides: (y_stride, out_stride),
                        shared,
                        extras,
                    };
                    let grid = if n > 500 { 1056 } else { grids[(i + columns) % grids.len()] };
                    case.part(p, n * columns * (top_k + 1), move |device| p.check(device, grid));
                }
            }
            for (max_tokens, tokens) in [(9, 0), (9, 4), (9, 900)] {
                let strides = (64, 64);
                let p = Problem { max_tokens, tokens, top_k: 6, columns: 48, strides, shared, extras };
                case.part(p, 9, move |device| p.check(device, 2));
            }
            cases.push(case);
        }
    }
    cases
}
