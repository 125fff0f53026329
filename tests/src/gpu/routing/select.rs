//! Cases of `route_tokens`: ids and weights equal `nvfp4::routing`'s, bit for bit.

use kernels::launch::Launch;
use kernels::route_tokens::LAUNCH;
use nvfp4::routing::{self, Scoring};

use super::super::data::{hash, uniform};
use super::super::{Case, Check, Device, Value};
use super::{GRIDS, Scale, bytes, expect_f32, expect_u32, optional, poison_u32, poisoned, run};

/// The kernel's row of the launch table.
pub static KERNEL: &Launch = &LAUNCH;

/// Token ids of the hash table.
const VOCAB: usize = 97;

/// One set of inputs.
#[derive(Clone, Copy, Debug)]
pub struct Problem {
    /// Tokens that the buffers hold.
    pub max_tokens: usize,
    /// Token count on the device.
    pub tokens: usize,
    /// Experts.
    pub experts: usize,
    /// Slots of a token.
    pub top_k: usize,
    /// Score function.
    pub scoring: Scoring,
    /// A bias for the selection.
    pub bias: bool,
    /// A table in place of the selection.
    pub hash: bool,
    /// Divide by the sum.
    pub normalise: bool,
}

/// Logits of a token; its number chooses the kind.
fn logits(token: usize, experts: usize) -> Vec<f32> {
    let value = |e: usize| {
        let u = uniform(hash((token * 4096 + e) as u64));
        match token % 11 {
            0 | 1 => (u - 0.5) * 8.0,
            // Many ties, both zeros among them.
            2 => [0.0, -0.0, 1.0][(u * 3.0) as usize % 3],
            3 => -200.0 * u,
            4 => -30.0 - u,
            5 => 200.0 * (u - 0.5),
            6 => f32::NAN,
            7 => {
                if u < 0.2 {
                    f32::NAN
                } else {
                    u
                }
            }
            8 => {
                if u < 0.1 {
                    f32::INFINITY
                } else {
                    -u
                }
            }
            9 => {
                if u < 0.5 {
                    f32::NEG_INFINITY
                } else {
                    u
                }
            }
            _ => 1.5,
        }
    };
    (0..experts).map(value).collect()
}

impl Problem {
    fn bias(&self) -> Option<Vec<f32>> {
        let of = |e: usize| match e % 7 {
            3 => f32::NAN,
            5 => -1.0,
            _ => (uniform(e as u64 + 9) - 0.5) * 0.2,
        };
        self.bias.then(|| (0..self.experts).map(of).collect())
    }

    /// Some ids of the table are outside of the experts.
    fn table(&self) -> Option<Vec<i32>> {
        let of = |i: usize| (hash(i as u64) % (self.experts as u64 + 2)) as i32 - 1;
        self.hash.then(|| (0..VOCAB * self.top_k).map(of).collect())
    }

    fn input_ids(&self) -> Option<Vec<i64>> {
        let of = |t: usize| match t % 9 {
            4 => -1,
            5 => VOCAB as i64,
            6 => i64::MIN,
            7 => (1 << 32) + 1,
            _ => (hash(t as u64) % VOCAB as u64) as i64,
        };
        self.hash.then(|| (0..self.max_tokens).map(of).collect())
    }

    /// One launch, every byte compared.
    pub fn check(&self, device: &dyn Device, grid: u32) -> Check {
        let n = self.max_tokens * self.top_k;
        let (mut ids, mut weights) = (vec![poison_u32(); n], vec![f32::from_bits(poison_u32()); n]);
        let (bias, table, input_ids) = (self.bias(), self.table(), self.input_ids());
        let mut all = Vec::new();
        let mut invalid = 0;
        for token in 0..self.max_tokens {
            let row = logits(token, self.experts);
            all.extend_from_slice(&row);
            if token >= self.tokens {
                continue;
            }
            let mut scores = row;
            routing::scores(&mut scores, self.scoring);
            let mut chosen = vec![0u32; self.top_k];
            let mut is_valid = true;
            match (&table, &input_ids) {
                (Some(table), Some(input)) => {
                    is_valid = (0..VOCAB as i64).contains(&input[token]);
                    for (s, id) in chosen.iter_mut().enumerate() {
                        *id = if is_valid {
                            table[input[token] as usize * self.top_k + s] as u32
                        } else {
                            u32::MAX
                        };
                    }
                }
                _ => {
                    let keys: Vec<f32> = match &bias {
                        Some(bias) => scores.iter().zip(bias).map(|(s, b)| s + b).collect(),
                        None => scores.clone(),
                    };
                    routing::top_k(&keys, &mut chosen);
                }
            }
            let mut w: Vec<f32> =
                chosen.iter().map(|&id| scores.get(id as usize).copied().unwrap_or(0.0)).collect();
            if is_valid {
                routing::weights(&mut w, self.normalise, 2.5);
            }
            invalid += u32::from(!is_valid);
            ids[token * self.top_k..][..self.top_k].copy_from_slice(&chosen);
            weights[token * self.top_k..][..self.top_k].copy_from_slice(&w);
        }
        let (mut got_ids, mut got_weights) = (poisoned::<i32>(n), poisoned::<f32>(n));
        let mut stats = bytes(&[1u32, 2, 3, 4, 5, 6, 7, 8]);
        let [bias, table, input_ids] =
            [bias.map(|b| bytes(&b)), table.map(|t| bytes(&t)), input_ids.map(|i| bytes(&i))];
        let scoring = match self.scoring {
            Scoring::SqrtSoftplus => 0,
            Scoring::Sigmoid => 1,
            Scoring::Softmax => 2,
        };
        let values = &mut [
            Value::In(bytemuck::cast_slice(&all)),
            optional(bias.as_ref()),
            optional(table.as_ref()),
            optional(input_ids.as_ref()),
            Value::Out(&mut got_ids),
            Value::Out(&mut got_weights),
            Value::Out(&mut stats),
            Value::In(&(self.tokens as u32).to_le_bytes()),
            Value::U32(self.max_tokens as u32),
            Value::U32(self.experts as u32),
            Value::U32(self.top_k as u32),
            Value::U32(VOCAB as u32),
            Value::U32(scoring),
            Value::U32(u32::from(self.normalise)),
            Value::F32(2.5),
        ];
        run(device, KERNEL, grid, 0, values)?;
        expect_u32("topk_ids", &got_ids, &ids)?;
        expect_f32("topk_weights", &got_weights, &weights)?;
        expect_u32("stats", &stats, &[1, 2, 3, 4 + invalid, 5, 6, 7, 8])
    }
}

/// Every case.
pub fn cases(scale: Scale) -> Vec<Case> {
    let shapes: &[(usize, usize)] = scale.pick(
        &[(40, 6)],
        &[(1, 1), (6, 6), (33, 8), (256, 6), (1024, 16)],
        &[(1, 1), (6, 6), (33, 8), (256, 6), (384, 6), (384, 8), (1000, 16), (1024, 16)],
    );
    let tokens: &[usize] = scale.pick(&[12], &[0, 1, 13], &[0, 1, 2, 7, 127, 128, 129, 1000, 8192]);
    let grids: &[u32] = scale.pick(&GRIDS[2..3], &GRIDS[1..3], &GRIDS);
    let mut cases = Vec::new();
    for scoring in [Scoring::SqrtSoftplus, Scoring::Sigmoid, Scoring::Softmax] {
        for (bias, hash) in [(false, false), (true, false), (false, true)] {
            let what = if hash {
                "hash"
            } else if bias {
                "bias"
            } else {
                "plain"
            };
            let mut case = Case::new(KERNEL, format!("{scoring:?}/{what}").to_lowercase());
            for &(experts, top_k) in shapes {
                for &n in tokens {
                    let normalise = (n + experts) % 2 == 0 || n == 13;
                    let p =
                        Problem { max_tokens: n, tokens: n, experts, top_k, scoring, bias, hash, normalise };
                    let grid = grids[(n + experts) % grids.len()];
                    case.part(p, n * experts, move |device| p.check(device, grid));
                }
            }
            let (experts, top_k) = shapes[0];
            for (max_tokens, tokens) in [(13, 0), (13, 5), (13, 500)] {
                let p = Problem { max_tokens, tokens, experts, top_k, scoring, bias, hash, normalise: true };
                case.part(p, 13, move |device| p.check(device, 3));
            }
            cases.push(case);
        }
    }
    cases
}
