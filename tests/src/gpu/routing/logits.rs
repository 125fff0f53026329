//! Cases of `router_logits`.

use kernels::launch::Launch;
use kernels::router_logits::LAUNCH;
use nvfp4::bf16;

use super::super::data::{Data, hash, uniform};
use super::super::outputs::{parallel, parallel_rows};
use super::super::{Case, Check, Device, Value};
use super::{Scale, expect_f32, poison_u32, poisoned, run};

/// The kernel's row of the launch table.
pub static KERNEL: &Launch = &LAUNCH;

/// One set of inputs.
#[derive(Clone, Copy, Debug)]
pub struct Problem {
    /// Tokens that the buffers hold.
    pub max_tokens: usize,
    /// Token count on the device.
    pub tokens: usize,
    /// Experts.
    pub experts: usize,
    /// Columns.
    pub hidden: usize,
    /// Elements from row to row of x.
    pub stride: usize,
    /// Tokens whose logits are compared: all, or this many spread over all.
    pub checked: usize,
    /// Distribution of x.
    pub data: Data,
}

/// `sum x * w` in the order that the kernel's documentation defines.
pub fn reference_dot(x: &[u16], w: &[f32]) -> f32 {
    let steps = x.len().div_ceil(128);
    let per_range = steps.div_ceil(8);
    let range_sum = |range: usize| {
        let mut lanes = [0.0f32; 32];
        for (lane, sum) in lanes.iter_mut().enumerate() {
            for step in range * per_range..(range + 1) * per_range {
                for k in step * 128 + 4 * lane..step * 128 + 4 * lane + 4 {
                    if k < x.len() {
                        *sum = bf16::to_f32(x[k]).mul_add(w[k], *sum);
                    }
                }
            }
        }
        for distance in [16, 8, 4, 2, 1] {
            for lane in 0..distance {
                lanes[lane] += lanes[lane + distance];
            }
        }
        lanes[0]
    };
    (1..8).fold(range_sum(0), |sum, range| sum + range_sum(range))
}

impl Problem {
    /// Full buffers.
    pub fn new(tokens: usize, experts: usize, hidden: usize, data: Data) -> Self {
        Self { max_tokens: tokens, tokens, experts, hidden, stride: hidden, checked: usize::MAX, data }
    }

    /// bf16 `[max_tokens, stride]`; what is not there is NaN.
    pub fn x(&self) -> Vec<u16> {
        parallel_rows(0xffffu16, self.max_tokens, self.stride, |row, out| {
            if row < self.tokens {
                let mut values = vec![0.0; self.hidden];
                self.data.fill(row, 3, &mut values);
                out.iter_mut().zip(values).for_each(|(o, v)| *o = bf16::from_f32(v));
            }
        })
    }

    /// f32 `[experts, hidden]`.
    pub fn weight(&self) -> Vec<f32> {
        parallel_rows(0.0f32, self.experts, self.hidden, |row, out| {
            for (k, w) in out.iter_mut().enumerate() {
                *w = (uniform(hash(row as u64) ^ k as u64) - 0.5) * 0.1;
            }
        })
    }

    /// One launch.
    pub fn launch(&self, device: &dyn Device, grid: u32, x: &[u16], w: &[f32]) -> Result<Vec<u8>, String> {
        let mut logits = poisoned::<f32>(self.max_tokens * self.experts);
        let values = &mut [
            Value::In(bytemuck::cast_slice(x)),
            Value::In(bytemuck::cast_slice(w)),
            Value::Out(&mut logits),
            Value::In(&(self.tokens as u32).to_le_bytes()),
            Value::U32(self.max_tokens as u32),
            Value::U32(self.experts as u32),
            Value::U32(self.hidden as u32),
            Value::U32(self.stride as u32),
        ];
        run(device, KERNEL, grid, 0, values)?;
        Ok(logits)
    }

    /// Launches with each of the grids.
    pub fn check(&self, device: &dyn Device, grids: &[u32]) -> Check {
        let (x, w) = (self.x(), self.weight());
        let tokens = self.tokens.min(self.max_tokens);
        let row = |t: usize| &x[t * self.stride..][..self.hidden];
        let step = (tokens / self.checked.max(1)).max(1);
        let checked: Vec<usize> = (0..tokens).filter(|t| t.is_multiple_of(step) || t + 1 == tokens).collect();
        let rows: Vec<Vec<f32>> = parallel(checked.len(), |i| {
            let dots = w.chunks_exact(self.hidden).map(|w| reference_dot(row(checked[i]), w));
            dots.collect()
        });
        let mut first: Option<Vec<u8>> = None;
        for &grid in grids {
            let got = self.launch(device, grid, &x, &w)?;
            for (&t, want) in checked.iter().zip(&rows) {
                let got = &got[t * self.experts * 4..][..self.experts * 4];
                expect_f32(&format!("grid {grid}: logits of token {t}"), got, want)?;
            }
            let rest = &got[tokens * self.experts * 4..];
            expect_f32("untouched", rest, &vec![f32::from_bits(poison_u32()); rest.len() / 4])?;
            // Tokens that are not checked against the reference are against the other grids.
            if first.as_ref().is_some_and(|first| *first != got) {
                return Err(format!("grid {grid} gives other bits"));
            }
            first.get_or_insert(got);
        }
        Ok(())
    }
}

/// A token alone has the bits that it has in a batch.
fn alone(p: Problem, device: &dyn Device, grid: u32) -> Check {
    let (x, w) = (p.x(), p.weight());
    let all = p.launch(device, grid, &x, &w)?;
    let one = Problem { max_tokens: 1, tokens: 1, ..p };
    for t in (0..p.tokens).step_by((p.tokens / 5).max(1)) {
        let got = one.launch(device, grid, &x[t * p.stride..][..p.stride], &w)?;
        if got != all[t * p.experts * 4..][..p.experts * 4] {
            return Err(format!("token {t} alone has other bits than in a batch of {}", p.tokens));
        }
    }
    Ok(())
}

/// Every case.
pub fn cases(scale: Scale) -> Vec<Case> {
    let shapes: &[(usize, usize)] = scale.pick(
        &[(9, 144)],
        &[(1, 4), (9, 256), (33, 1100)],
        &[(1, 4), (33, 1100), (256, 4096), (384, 5120), (384, 7168)],
    );
    let tokens: &[usize] = scale.pick(
        &[1, 5, 9],
        &[0, 1, 2, 4, 5, 7, 33],
        &[0, 1, 2, 3, 4, 5, 7, 64, 127, 128, 129, 1000, 8192],
    );
    let grids: &[u32] = scale.pick(&[2, 50], &[1, 3, 50], &[1, 132, 264, 5000]);
    let mut cases = Vec::new();
    for &t in tokens {
        let mut case = Case::new(KERNEL, format!("tokens={t}"));
        for &(experts, hidden) in shapes {
            let checked = if t * experts * hidden > 1 << 28 { 40 } else { usize::MAX };
            let p = Problem { checked, ..Problem::new(t, experts, hidden, Data::Normal) };
            // One slow grid is enough where there is much to do.
            let grids = if t > 1000 { &grids[1..3] } else { grids };
            case.part(p, t * experts, move |device| p.check(device, grids));
        }
        cases.push(case);
    }
    let (experts, hidden) = shapes[shapes.len() - 1];
    let n = scale.pick(9, 20, 300);
    let mut case = Case::new(KERNEL, "contained");
    let p = Problem::new(n, experts, hidden, Data::Contained);
    case.part(p, n, move |device| p.check(device, &grids[..2]));
    cases.push(case);
    let mut case = Case::new(KERNEL, "device_tokens");
    for (max_tokens, tokens) in [(9, 0), (9, 1), (9, 8), (9, 9), (9, 500)] {
        let p =
            Problem { max_tokens, stride: hidden + 12, ..Problem::new(tokens, experts, hidden, Data::Mixed) };
        case.part(p, 9, move |device| p.check(device, &grids[1..2]));
    }
    cases.push(case);
    let mut case = Case::new(KERNEL, "alone");
    let p = Problem::new(n, experts, hidden, Data::Mixed);
    case.part(p, n, move |device| grids.iter().try_for_each(|&grid| alone(p, device, grid)));
    cases.push(case);
    cases
}
