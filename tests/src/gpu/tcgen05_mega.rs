//! Cases of the mega kernel: every byte that it writes is what the split form writes, that is `tcgen05_gemm_swiglu_nvfp4`,
//! `tcgen05_gemm_plain_f32` and `combine` on the same device, whose own cases compare them with the definitions.

use std::sync::Arc;

use kernels::combine;
use kernels::launch::{Dims, Launch};
use kernels::operand::{BLOCK_ROWS, BlockOrder, STEP_CODE_BYTES, STEP_K, STEP_SCALE_BYTES};
use kernels::slots::NONE;
use kernels::tcgen05_gemm as gemm;
use kernels::tcgen05_gemm::layout::{EPILOGUE_WARPS, Pair, START_ALIGN, Single};
use kernels::tcgen05_mega as mega;

use super::data::{hash, uniform};
use super::kept::Kept;
use super::outputs::{POISON, parallel, same_bytes};
use super::tcgen05_gemm::data::{Matrix, Tokens, Values, pack_weights};
use super::{Case, Check, Device, Size, Sizes, Value};

/// Tokens that the buffers hold beyond those of the call.
const SPARE: u32 = 3;

/// A form of the kernel.
pub struct Form {
    launch: &'static Launch,
    dims: fn(u32) -> Dims,
    /// Blocks that share a tile.
    blocks: u32,
}

/// One block for a tile.
pub static SINGLE: Form = Form { launch: &mega::LAUNCH, dims: mega::dims::<Single>, blocks: 1 };
/// Two blocks for a tile.
pub static PAIR: Form = Form { launch: &mega::LAUNCH_PAIR, dims: mega::dims::<Pair>, blocks: 2 };

/// Who goes where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Routing {
    /// Evenly, with a slot in eight that has no row.
    Even,
    /// All tokens' first slots to the first expert.
    Skewed,
    /// Every slot of every third token without a row.
    Sparse,
}

/// One set of inputs.
#[derive(Clone, Debug)]
struct Problem {
    tokens: u32,
    top_k: u32,
    experts: usize,
    /// Columns of tokens and of the output.
    hidden: usize,
    /// Features between the products.
    features: usize,
    routing: Routing,
    /// Whether the last expert has all tokens.
    shared: bool,
    limit: f32,
    /// Whether blocks saturate, and are counted.
    saturates: bool,
    /// Whether the f32 sums are wanted.
    wants_f32: bool,
}

/// Inputs as the kernels want them.
struct Inputs {
    counts: Vec<u32>,
    offsets: Vec<u32>,
    slot_row: Vec<u32>,
    row_token: Vec<u32>,
    shared_row: u32,
    topk_weights: Vec<f32>,
    token_scale: Vec<f32>,
    packed: [Vec<u8>; 2],
    operand: Tokens,
    b_scale: Vec<f32>,
    alphas: [Vec<f32>; 3],
    constant: Vec<f32>,
}

/// What is written.
#[derive(Clone, Debug, PartialEq)]
struct Outputs {
    h_codes: Vec<u8>,
    h_scales: Vec<u8>,
    h_scale: Vec<u8>,
    saturated: Vec<u8>,
    y: Vec<u8>,
    out: Vec<u8>,
    out_f32: Vec<u8>,
}

impl Problem {
    fn new(tokens: u32, top_k: u32, experts: usize, hidden: usize, features: usize) -> Self {
        Self {
            tokens,
            top_k,
            experts,
            hidden,
            features,
            routing: Routing::Even,
            shared: false,
            limit: 10.0,
            saturates: false,
            wants_f32: true,
        }
    }

    fn row_blocks(&self) -> [usize; 2] {
        [BlockOrder::GateUp.row_blocks(self.features), BlockOrder::Plain.row_blocks(self.hidden)]
    }

    fn elements(&self) -> usize {
        let rows = self.tokens as usize * (self.top_k as usize + usize::from(self.shared));
        let [first, second] = self.row_blocks();
        rows * BLOCK_ROWS * (first * self.hidden.div_ceil(STEP_K) + second * first)
    }

    /// Expert of each slot.
    fn expert(&self, token: u32, slot: u32) -> Option<usize> {
        let h = hash(u64::from(token * 64 + slot) ^ 5 << 40);
        let routed = self.experts - usize::from(self.shared);
        match self.routing {
            Routing::Skewed if slot == 0 => Some(0),
            Routing::Sparse if token.is_multiple_of(3) => None,
            _ if h.is_multiple_of(8) => None,
            _ => Some((h >> 8) as usize % routed),
        }
    }

    fn inputs(&self) -> Inputs {
        let max_tokens = self.tokens + SPARE;
        let slots = || (0..self.tokens).flat_map(|t| (0..self.top_k).map(move |s| (t, s)));
        let mut members = vec![Vec::new(); self.experts];
        for (token, slot) in slots() {
            if let Some(expert) = self.expert(token, slot) {
                members[expert].push((token, Some(slot)));
            }
        }
        if self.shared {
            members[self.experts - 1] = (0..self.tokens).map(|t| (t, None)).collect();
        }
        let mut offsets = vec![0];
        let mut slot_row = vec![NONE; (max_tokens * self.top_k) as usize];
        let mut row_token = Vec::new();
        for rows in &members {
            for &(token, slot) in rows {
                if let Some(slot) = slot {
                    slot_row[(token * self.top_k + slot) as usize] = row_token.len() as u32;
                }
                row_token.push(token);
            }
            row_token.resize(row_token.len().next_multiple_of(BLOCK_ROWS), u32::MAX);
            offsets.push(row_token.len() as u32);
        }
        let counts: Vec<u32> = members.iter().map(|m| m.len() as u32).collect();
        let shared_row = if self.shared { offsets[self.experts - 1] } else { NONE };
        let matrices = |rows: usize, k: usize, salt: u64| -> Vec<Matrix> {
            parallel(self.experts, |e| Matrix::new(rows, k, Values::Grid, salt + 16 * e as u64))
        };
        let (gate, up) = (matrices(self.features, self.hidden, 1), matrices(self.features, self.hidden, 2));
        let down = matrices(self.hidden, self.features, 3);
        let packed = [
            parallel(self.experts, |e| {
                pack_weights(&gate[e], Some(&up[e]), BlockOrder::GateUp, self.features)
            }),
            parallel(self.experts, |e| pack_weights(&down[e], None, BlockOrder::Plain, self.hidden)),
        ];
        let rows = Matrix::new(counts.iter().sum::<u32>() as usize, self.hidden, Values::Grid, 4);
        let mut b_scale = vec![f32::NAN; row_token.len()];
        for (row, &token) in row_token.iter().enumerate() {
            if token != u32::MAX && !is_nan(token) {
                b_scale[row] = 0.5 + uniform(u64::from(token));
            }
        }
        let size = 0.2 / (self.hidden as f32).sqrt();
        let alpha = |factor: f32| (0..self.experts as u64).map(|e| factor * (0.5 + uniform(e))).collect();
        let squeeze = if self.saturates { 0.1 } else { 1.0 };
        Inputs {
            operand: Tokens::new(&rows, &counts, &offsets),
            slot_row,
            row_token,
            shared_row,
            topk_weights: (0..max_tokens * self.top_k)
                .map(|slot| uniform(u64::from(slot) ^ 3 << 40))
                .collect(),
            token_scale: (0..max_tokens).map(|t| if is_nan(t) { f32::NAN } else { 1.0 }).collect(),
            packed: packed.map(|p| p.concat()),
            b_scale,
            alphas: [alpha(size), alpha(10.0 * size), alpha(0.3)],
            constant: (0..self.experts)
                .map(|e| self.limit * self.limit * squeeze * (1.0 + e as f32 / 8.0) / nvfp4::GLOBAL_RANGE)
                .collect(),
            counts,
            offsets,
        }
    }

    fn poisoned(&self, inputs: &Inputs) -> Outputs {
        let rows = inputs.row_token.len();
        let tiles = rows / BLOCK_ROWS * self.row_blocks()[0];
        let poison = |n: usize| vec![POISON; n];
        let mut h_scale = poison(4 * rows);
        for (expert, (&count, &first)) in inputs.counts.iter().zip(&inputs.offsets).enumerate() {
            for row in first as usize..(first + count) as usize {
                h_scale[4 * row..][..4].copy_from_slice(&inputs.constant[expert].to_le_bytes());
            }
        }
        let out = (self.tokens + SPARE) as usize * self.hidden;
        Outputs {
            h_codes: poison(tiles * STEP_CODE_BYTES),
            h_scales: poison(tiles * STEP_SCALE_BYTES),
            h_scale,
            saturated: 7u32.to_le_bytes().to_vec(),
            y: poison(4 * rows * self.hidden),
            out: poison(2 * out),
            out_f32: poison(4 * out),
        }
    }

    /// What the split form makes.
    fn split(&self, device: &dyn Device, inputs: &Inputs) -> Result<Outputs, String> {
        let mut o = self.poisoned(inputs);
        let dims = gemm::dims::<Single>(device.multiprocessors());
        let [first, second] = self.row_blocks().map(|n| n as u32);
        let steps = self.hidden.div_ceil(STEP_K) as u32;
        let experts = self.experts as u32;
        let mut values = vec![
            Value::In(&inputs.packed[0]),
            f32s(&inputs.alphas[0]),
            f32s(&inputs.alphas[1]),
            Value::In(&inputs.operand.codes),
            Value::In(&inputs.operand.scales),
            f32s(&inputs.b_scale),
            u32s(&inputs.offsets),
            u32s(&inputs.counts),
            Value::Out(&mut o.h_codes),
            Value::Out(&mut o.h_scales),
            Value::Out(&mut o.h_scale),
            f32s(&inputs.constant),
            if self.saturates { Value::Out(&mut o.saturated) } else { Value::Null },
        ];
        values.extend([experts, first, steps, 0, first, first].map(Value::U32));
        values.push(Value::F32(self.limit));
        device.launch(&gemm::SWIGLU_NVFP4, dims, &mut values)?;
        let mut values = vec![
            Value::In(&inputs.packed[1]),
            f32s(&inputs.alphas[2]),
            Value::In(&o.h_codes),
            Value::In(&o.h_scales),
            Value::In(&o.h_scale),
            u32s(&inputs.offsets),
            u32s(&inputs.counts),
            Value::Out(&mut o.y),
        ];
        let hidden = self.hidden as u32;
        values.extend([experts, second, first, 0, second, hidden, hidden].map(Value::U32));
        device.launch(&gemm::PLAIN_F32, dims, &mut values)?;
        let (count, shared_row) = ([self.tokens], [inputs.shared_row]);
        let mut values = vec![
            Value::In(&o.y),
            u32s(&inputs.slot_row),
            f32s(&inputs.topk_weights),
            u32s(&shared_row),
            Value::Null,
            f32s(&inputs.token_scale),
            Value::Out(&mut o.out),
            if self.wants_f32 { Value::Out(&mut o.out_f32) } else { Value::Null },
            u32s(&count),
        ];
        values.extend([self.tokens + SPARE, self.top_k, hidden, hidden, hidden, hidden].map(Value::U32));
        let dims = Dims { grid: [2, 1, 1], block: [combine::THREADS, 1, 1], shared_bytes: 0 };
        device.launch(&combine::LAUNCH, dims, &mut values)?;
        Ok(o)
    }

    fn launch(
        &self,
        device: &dyn Device,
        form: &Form,
        (grid, lag): (u32, u32),
        inputs: &Inputs,
    ) -> Result<Outputs, String> {
        let mut o = self.poisoned(inputs);
        let [first, second] = self.row_blocks().map(|n| n as u32);
        let (count, shared_row) = ([self.tokens], [inputs.shared_row]);
        let mut ranges = vec![0; 4 * inputs.row_token.len() / START_ALIGN as usize];
        let mut finished = vec![0; 4 * ((self.tokens + SPARE) * EPILOGUE_WARPS * second) as usize];
        let mut values = vec![
            Value::In(&inputs.packed[0]),
            f32s(&inputs.alphas[0]),
            f32s(&inputs.alphas[1]),
            Value::In(&inputs.packed[1]),
            f32s(&inputs.alphas[2]),
            Value::In(&inputs.operand.codes),
            Value::In(&inputs.operand.scales),
            f32s(&inputs.b_scale),
            u32s(&inputs.offsets),
            u32s(&inputs.counts),
            Value::Out(&mut o.h_codes),
            Value::Out(&mut o.h_scales),
            Value::Out(&mut o.h_scale),
            f32s(&inputs.constant),
            if self.saturates { Value::Out(&mut o.saturated) } else { Value::Null },
            Value::Out(&mut o.y),
            u32s(&inputs.row_token),
            u32s(&inputs.slot_row),
            f32s(&inputs.topk_weights),
            if self.shared { u32s(&shared_row) } else { Value::Null },
            f32s(&inputs.token_scale),
            u32s(&count),
            Value::Out(&mut o.out),
            if self.wants_f32 { Value::Out(&mut o.out_f32) } else { Value::Null },
            Value::Out(&mut ranges),
            Value::Out(&mut finished),
        ];
        let (hidden, steps) = (self.hidden as u32, self.hidden.div_ceil(STEP_K) as u32);
        let max_tokens = self.tokens + SPARE;
        let numbers =
            [self.experts as u32, first, steps, second, hidden, hidden, hidden, max_tokens, self.top_k, lag];
        values.extend(numbers.map(Value::U32));
        values.push(Value::F32(self.limit));
        let mut dims = (form.dims)(device.multiprocessors());
        dims.grid[0] = if grid == 0 { dims.grid[0] } else { grid * form.blocks };
        device.launch(form.launch, dims, &mut values)?;
        if ranges.iter().chain(&finished).any(|&b| b != 0) {
            return Err("a counter is not zero behind the launch".to_owned());
        }
        Ok(o)
    }

    /// Inputs and what the split form makes of them.
    fn prepared(&self, device: &dyn Device) -> Result<Arc<(Inputs, Outputs)>, String> {
        static KEPT: Kept<(Inputs, Outputs)> = Kept::new();
        KEPT.get(self, || {
            let inputs = self.inputs();
            let want = self.split(device, &inputs)?;
            Ok((inputs, want))
        })
    }

    /// A launch with each grid, counted in tiles at a time (0: the device's own), and lag.
    fn check(&self, device: &dyn Device, form: &Form, launches: &[(u32, u32)]) -> Check {
        let prepared = self.prepared(device)?;
        let (inputs, want) = &*prepared;
        for &(grid, lag) in launches {
            let got = self.launch(device, form, (grid, lag), inputs)?;
            same_bytes(&[
                ("h", &got.h_codes, &want.h_codes),
                ("scale of h", &got.h_scales, &want.h_scales),
                ("h's row scales", &got.h_scale, &want.h_scale),
                ("the counter", &got.saturated, &want.saturated),
                ("y", &got.y, &want.y),
                ("out", &got.out, &want.out),
                ("out_f32", &got.out_f32, &want.out_f32),
            ])
            .map_err(|e| format!("grid {grid}, lag {lag}: {e}"))?;
        }
        Ok(())
    }
}

/// Whether a token's row stands for one that is not finite.
fn is_nan(token: u32) -> bool {
    token % 11 == 7
}

fn f32s(v: &[f32]) -> Value<'_> {
    Value::In(bytemuck::cast_slice(v))
}

fn u32s(v: &[u32]) -> Value<'_> {
    Value::In(bytemuck::cast_slice(v))
}

/// Every case of one form.
pub fn cases(form: &'static Form, sizes: &Sizes) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut case = |name: &str, parts: Vec<(Problem, &'static [(u32, u32)])>| {
        let mut case = Case::new(form.launch, name);
        for (problem, launches) in parts {
            case.part(problem.clone(), problem.elements() * launches.len(), move |device| {
                problem.check(device, form, launches)
            });
        }
        cases.push(case);
    };
    // A shared expert with a tile on two row blocks of tokens; more stages than the ring has in each block.
    let few = Problem { limit: 1.0, saturates: true, shared: true, ..Problem::new(129, 1, 3, 272, 40) };
    if sizes.size == Size::Few {
        // Tokens without rows; two blocks that find the same rows not finite.
        let rowless = Problem { routing: Routing::Sparse, ..Problem::new(9, 1, 1, 16, 80) };
        // Of a pair each block has a row block in both products.
        let few = Problem { features: few.features * form.blocks as usize, ..few };
        // Slots of a token in different blocks, and different pairs.
        let apart = Problem::new(9, 2, 2, 16, 16);
        let own: &[(u32, u32)] = if form.blocks == 1 { &[(2, 1)] } else { &[(1, 1)] };
        case("shape", vec![(few, own), (rowless, &[(2, 1)]), (apart, &[(2, 1)])]);
        return cases;
    }
    let even = Problem::new(70, 3, 5, 208, 150);
    let skewed = Problem { routing: Routing::Skewed, ..Problem::new(200, 1, 3, 144, 80) };
    let sparse = Problem { routing: Routing::Sparse, wants_f32: false, ..Problem::new(40, 9, 4, 80, 48) };
    case("shape", vec![(few, &[(0, 1), (2, 2)]), (even, &[(0, 1), (1, 1), (3, 2), (0, 100)])]);
    case("routing", vec![(skewed, &[(0, 1), (5, 3)]), (sparse, &[(0, 1), (1, 4)])]);
    if sizes.size == Size::Card {
        let decode = Problem { shared: true, ..Problem::new(16, 6, 49, 7168, 3072) };
        case("deepseek", vec![(decode, &[(0, 1), (0, 4), (0, 100)])]);
    }
    cases
}
