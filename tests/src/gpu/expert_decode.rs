//! Cases of the decode form: every byte that it writes is what the split form writes, that is `prepare_rows_bf16`,
//! `expert_gemm_small_swiglu_bf16`, `prepare_rows_bf16` again, `expert_gemm_small_plain_f32` and `combine` on the same device, behind
//! slots that the host has sorted. Their own cases compare those with the definitions.

use std::sync::Arc;

use kernels::expert_decode::{self as decode, exchange};
use kernels::fragment::{self, RowMajor, RowOrder, k_units, matrix_bytes};
use kernels::launch::{Dims, Launch};
use kernels::slots::NONE;
use kernels::{combine, expert_gemm_small as small, prepare_rows_bf16 as prepare};
use nvfp4::bf16;

use super::data::{hash, uniform};
use super::kept::Kept;
use super::outputs::{POISON, parallel, same_bytes};
use super::repack::bytes;
use super::{Case, Check, Device, Size, Sizes, Value};

/// Experts of the model on other ranks, in front of the local ones and behind them.
const FOREIGN: usize = 2;

/// Who goes where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Routing {
    /// Anywhere, other ranks and invalid ids included.
    Any,
    /// All slots to the last expert: a token names it more than once.
    One,
    /// Every second token has no local expert.
    Sparse,
}

/// A shared expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shared {
    None,
    /// Behind the local ones.
    Folded,
    /// Results of another kernel.
    Apart,
}

/// One set of inputs.
#[derive(Clone, Debug)]
struct Problem {
    tokens: u32,
    /// Tokens that the buffers hold.
    max_tokens: u32,
    top_k: u32,
    /// Local routed experts.
    experts: usize,
    hidden: usize,
    features: usize,
    routing: Routing,
    shared: Shared,
    limit: f32,
    wants_f32: bool,
}

/// Inputs as the kernels want them.
struct Inputs {
    x: Vec<u16>,
    ids: Vec<i32>,
    weights: Vec<f32>,
    packed: [Vec<u8>; 2],
    alphas: [Vec<f32>; 3],
    shared: Vec<f32>,
    /// The sorted slots.
    counts: Vec<u32>,
    offsets: Vec<u32>,
    row_token: Vec<u32>,
    slot_row: Vec<u32>,
    stats: [u32; 8],
}

/// What is written; the second product only by the split form.
#[derive(Clone, Debug, PartialEq)]
struct Outputs {
    h: Vec<u8>,
    y: Vec<u8>,
    out: Vec<u8>,
    out_f32: Vec<u8>,
    stats: Vec<u8>,
}

impl Problem {
    fn new(tokens: u32, top_k: u32, experts: usize, hidden: usize, features: usize) -> Self {
        Self {
            tokens,
            max_tokens: tokens,
            top_k,
            experts,
            hidden,
            features,
            routing: Routing::Any,
            shared: Shared::None,
            limit: 10.0,
            wants_f32: true,
        }
    }

    /// Experts that have weights.
    fn groups(&self) -> usize {
        self.experts + usize::from(self.shared == Shared::Folded)
    }

    /// Row tiles of each product, and units of its columns.
    fn tiles(&self) -> [[u32; 2]; 2] {
        let tiles = |order: RowOrder, features, k| [order.row_tiles(features) as u32, k_units(k) as u32];
        [
            tiles(RowOrder::GateUp, self.features, self.hidden),
            tiles(RowOrder::Plain, self.hidden, self.features),
        ]
    }

    /// Most rows.
    fn rows(&self) -> usize {
        let per_token = self.top_k + u32::from(self.shared == Shared::Folded);
        (self.max_tokens * per_token) as usize
    }

    /// Weights that are multiplied, about: once for each token tile.
    fn elements(&self) -> usize {
        3 * self.rows().min(2 * self.groups()) * self.hidden * self.features
    }

    /// Id of a slot.
    fn id(&self, token: u32, slot: u32) -> i32 {
        let h = hash(u64::from(token * 64 + slot) ^ 5 << 40);
        match self.routing {
            Routing::One => (FOREIGN + self.experts - 1) as i32,
            Routing::Sparse if token.is_multiple_of(2) => [0, -1][h as usize % 2],
            _ if h.is_multiple_of(8) => -1 - (h >> 8) as i32 % 3,
            _ if h % 8 == 1 => (h >> 8) as i32 % FOREIGN as i32,
            _ if h % 8 == 2 => (FOREIGN + self.experts) as i32 + (h >> 8) as i32 % (FOREIGN as i32 + 1),
            _ => (FOREIGN + (h >> 8) as usize % self.experts) as i32,
        }
    }

    /// Whether a token's row has a NaN or an infinity.
    fn is_nan(&self, token: u32) -> bool {
        token % 5 == 3
    }

    fn weights(&self, experts: usize, rows: usize, k: usize, up: bool, salt: u64) -> Vec<u8> {
        let order = if up { RowOrder::GateUp } else { RowOrder::Plain };
        let expert = |e: usize| {
            let codes = |n: u64| bytes(rows * k / 2, salt + 16 * e as u64 + n);
            let scales = |n: u64| -> Vec<u8> {
                let raw = bytes(rows * k / 16, salt + 16 * e as u64 + n);
                raw.into_iter().map(|b| if b < 2 { b } else { 0x28 + b % 24 }).collect()
            };
            let (a, b, sa, sb) = (codes(0), codes(1), scales(2), scales(3));
            let mut out = vec![0; matrix_bytes(order.row_tiles(rows), k_units(k))];
            let matrix = RowMajor { packed: &a, scales: &sa };
            fragment::pack(matrix, up.then_some(RowMajor { packed: &b, scales: &sb }), rows, k, &mut out);
            out
        };
        parallel(experts, expert).concat()
    }

    fn inputs(&self) -> Inputs {
        let (max_tokens, hidden) = (self.max_tokens as usize, self.hidden);
        let mut x = Vec::with_capacity(max_tokens * hidden);
        for token in 0..max_tokens as u64 {
            let size = 0.25 + 4.0 * uniform(token ^ 77);
            x.extend((0..hidden as u64).map(|i| {
                let value = size * (2.0 * uniform(token << 32 | i) - 1.0);
                bf16::from_f32(if i % 97 == 5 { 0.0 } else { value })
            }));
            if self.is_nan(token as u32) {
                x[token as usize * hidden + hidden - 3] = if token % 2 == 0 { 0x7fc1 } else { 0xff80 };
            }
        }
        let slots = || (0..self.max_tokens).flat_map(|t| (0..self.top_k).map(move |s| (t, s)));
        let ids: Vec<i32> = slots().map(|(t, s)| self.id(t, s)).collect();
        let mut stats = [7; 8];
        let mut members = vec![Vec::new(); self.groups()];
        let model = 2 * FOREIGN + self.experts;
        for (slot, &id) in ids.iter().enumerate().take((self.tokens * self.top_k) as usize) {
            match usize::try_from(id) {
                Ok(id) if (FOREIGN..FOREIGN + self.experts).contains(&id) => {
                    members[id - FOREIGN].push((slot as u32 / self.top_k, Some(slot)));
                }
                Ok(id) if id < model => stats[1] += 1,
                _ => stats[0] += 1,
            }
        }
        stats[2] += (0..self.tokens).filter(|&t| self.is_nan(t)).count() as u32;
        if self.shared == Shared::Folded {
            members[self.experts] = (0..self.tokens).map(|t| (t, None)).collect();
        }
        let (mut offsets, mut row_token) = (vec![0], Vec::new());
        let mut slot_row = vec![NONE; ids.len()];
        for rows in &members {
            for &(token, slot) in rows {
                if let Some(slot) = slot {
                    slot_row[slot] = row_token.len() as u32;
                }
                row_token.push(token);
            }
            offsets.push(row_token.len() as u32);
        }
        let groups = self.groups();
        let alpha = |salt: u64, size: f32| -> Vec<f32> {
            (0..groups as u64).map(|e| size * (0.5 + uniform(e ^ salt << 32))).collect()
        };
        let size = 0.5 / (hidden as f32).sqrt();
        Inputs {
            x,
            weights: slots().map(|(t, s)| uniform(u64::from(t * 64 + s) ^ 3 << 40) - 0.2).collect(),
            packed: [
                self.weights(groups, self.features, hidden, true, 1),
                self.weights(groups, hidden, self.features, false, 2),
            ],
            alphas: [alpha(1, size), alpha(2, 10.0 * size), alpha(3, 0.3)],
            shared: (0..max_tokens * hidden).map(|i| uniform(i as u64 ^ 9 << 40) - 0.5).collect(),
            counts: members.iter().map(|m| m.len() as u32).collect(),
            offsets,
            row_token,
            slot_row,
            ids,
            stats,
        }
    }

    fn poisoned(&self) -> Outputs {
        let [_, [_, down_units]] = self.tiles();
        let (rows, out) = (self.rows(), self.max_tokens as usize * self.hidden);
        let poison = |n: usize| vec![POISON; n];
        Outputs {
            h: poison(2 * rows * 64 * down_units as usize),
            y: poison(4 * rows * self.hidden),
            out: poison(2 * out),
            out_f32: poison(4 * out),
            stats: bytemuck::cast_slice(&[7u32; 8]).to_vec(),
        }
    }

    /// f16 rows and their scales of `rows` bf16 rows of `k` columns.
    fn prepare(
        device: &dyn Device,
        x: Option<&[u16]>,
        b: &mut [u8],
        (rows, k): (u32, usize),
    ) -> Result<Vec<u8>, String> {
        let mut scale = vec![POISON; 4 * rows as usize];
        let units = k_units(k) as u32;
        let stride = if x.is_some() { k as u32 } else { 64 * units };
        let count = [rows];
        let mut values = vec![
            x.map_or(Value::Null, |x| Value::In(bytemuck::cast_slice(x))),
            Value::Out(b),
            Value::Out(&mut scale),
            Value::Null,
            u32s(&count),
        ];
        values.extend([rows, k as u32, units, stride].map(Value::U32));
        let dims = prepare::LAUNCH.rows(rows, 64 * units, device.multiprocessors());
        device.launch(&prepare::LAUNCH, dims, &mut values)?;
        Ok(scale)
    }

    /// What the split form makes.
    fn split(&self, device: &dyn Device, inputs: &Inputs) -> Result<Outputs, String> {
        let mut o = self.poisoned();
        bytemuck::cast_slice_mut::<u8, u32>(&mut o.stats).copy_from_slice(&inputs.stats);
        if self.tokens == 0 {
            return Ok(o);
        }
        let [[tiles, units], [down_tiles, down_units]] = self.tiles();
        let (rows, hidden) = (inputs.row_token.len() as u32, self.hidden as u32);
        let mut b = vec![0; (self.tokens * 128 * units) as usize];
        let of = &inputs.x[..(self.tokens * hidden) as usize];
        let b_scale = Self::prepare(device, Some(of), &mut b, (self.tokens, self.hidden))?;
        if rows != 0 {
            let numbers = |tiles: u32, units: u32, features: u32, stride: u32| {
                [self.groups() as u32, tiles, units, 0, tiles, features, stride, 0].map(Value::U32)
            };
            let dims = |units: u32| small::dims(units, device.multiprocessors()).ok_or("too many columns");
            let mut values = vec![
                Value::In(&inputs.packed[0]),
                f32s(&inputs.alphas[0]),
                f32s(&inputs.alphas[1]),
                Value::In(&b),
                Value::In(&b_scale),
                u32s(&inputs.row_token),
                u32s(&inputs.offsets),
                u32s(&inputs.counts),
                Value::Out(&mut o.h),
            ];
            values.extend(numbers(tiles, units, self.features as u32, 64 * down_units));
            values.push(Value::F32(self.limit));
            device.launch(&small::SWIGLU_BF16, dims(units)?, &mut values)?;
            let mut h = o.h[..(rows * 128 * down_units) as usize].to_vec();
            let h_scale = Self::prepare(device, None, &mut h, (rows, self.features))?;
            let mut values = vec![
                Value::In(&inputs.packed[1]),
                f32s(&inputs.alphas[2]),
                Value::In(&h),
                Value::In(&h_scale),
                Value::Null,
                u32s(&inputs.offsets),
                u32s(&inputs.counts),
                Value::Out(&mut o.y),
            ];
            values.extend(numbers(down_tiles, down_units, hidden, hidden));
            device.launch(&small::PLAIN_F32, dims(down_units)?, &mut values)?;
        }
        let (count, shared_row) = ([self.tokens], [inputs.offsets[self.experts]]);
        let mut values = vec![
            Value::In(&o.y),
            u32s(&inputs.slot_row),
            f32s(&inputs.weights),
            if self.shared == Shared::Folded { u32s(&shared_row) } else { Value::Null },
            if self.shared == Shared::Apart { f32s(&inputs.shared) } else { Value::Null },
            Value::In(&b_scale),
            Value::Out(&mut o.out),
            if self.wants_f32 { Value::Out(&mut o.out_f32) } else { Value::Null },
            u32s(&count),
        ];
        values.extend([self.tokens, self.top_k, hidden, hidden, hidden, hidden].map(Value::U32));
        let dims = Dims { grid: [2, 1, 1], block: [combine::THREADS, 1, 1], shared_bytes: 0 };
        device.launch(&combine::LAUNCH, dims, &mut values)?;
        Ok(o)
    }

    /// A launch on the exchange as launches before it have left it.
    fn launch(
        &self,
        device: &dyn Device,
        grid: u32,
        inputs: &Inputs,
        exchange: &mut Exchange,
    ) -> Result<Outputs, String> {
        let mut o = self.poisoned();
        let [[tiles, units], [down_tiles, down_units]] = self.tiles();
        let count = [self.tokens];
        let mut values = vec![
            Value::In(bytemuck::cast_slice(&inputs.x)),
            Value::In(bytemuck::cast_slice(&inputs.ids)),
            f32s(&inputs.weights),
            u32s(&count),
            Value::In(&inputs.packed[0]),
            f32s(&inputs.alphas[0]),
            f32s(&inputs.alphas[1]),
            Value::In(&inputs.packed[1]),
            f32s(&inputs.alphas[2]),
            if self.shared == Shared::Apart { f32s(&inputs.shared) } else { Value::Null },
            Value::Out(&mut o.out),
            if self.wants_f32 { Value::Out(&mut o.out_f32) } else { Value::Null },
            Value::Out(&mut o.stats),
            Value::Out(bytemuck::cast_slice_mut(&mut exchange.words)),
        ];
        let model = 2 * FOREIGN + self.experts;
        let sizes = [self.max_tokens, self.top_k, model as u32, FOREIGN as u32, self.experts as u32];
        values.extend(sizes.map(Value::U32));
        values.push(Value::U32(u32::from(self.shared == Shared::Folded)));
        let shape = [self.hidden as u32, tiles, units, self.features as u32, down_tiles, down_units];
        values.extend(shape.map(Value::U32));
        values.push(Value::F32(self.limit));
        let mut dims = decode::dims(device.multiprocessors());
        dims.grid[0] = if grid == 0 { dims.grid[0] } else { grid };
        device.launch(&KERNEL, dims, &mut values)?;
        if self.tokens != 0 {
            o.h = exchange.left(self.extent())?;
        }
        Ok(o)
    }

    /// Words of SwiGLU's results that a call can write.
    fn extent(&self) -> usize {
        let [_, [_, down_units]] = self.tiles();
        self.rows() * 32 * down_units as usize
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

    /// A launch with each grid (0: the device's own).
    fn check(&self, device: &dyn Device, grids: &[u32]) -> Check {
        let prepared = self.prepared(device)?;
        let (inputs, want) = &*prepared;
        // Each launch finds what the one before it has left.
        let mut exchange = Exchange::new();
        for &grid in grids {
            let got = self.launch(device, grid, inputs, &mut exchange)?;
            self.same(&got, want).map_err(|e| format!("grid {grid}: {e}"))?;
        }
        Ok(())
    }

    fn same(&self, got: &Outputs, want: &Outputs) -> Check {
        same_bytes(&[
            ("h", &got.h, &want.h),
            ("out", &got.out, &want.out),
            ("out_f32", &got.out_f32, &want.out_f32),
            ("the counters of slots", &got.stats, &want.stats),
        ])
    }
}

/// Launches of different layers in turn, on one exchange.
fn in_turn(device: &dyn Device, problems: &[&Problem]) -> Check {
    let mut exchange = Exchange::new();
    for (n, problem) in problems.iter().enumerate() {
        let prepared = problem.prepared(device)?;
        let (inputs, want) = &*prepared;
        let got = problem.launch(device, 0, inputs, &mut exchange)?;
        problem.same(&got, want).map_err(|e| format!("launch {n}: {e}"))?;
    }
    Ok(())
}

/// What launches leave for each other.
struct Exchange {
    words: Vec<u32>,
    /// The half of the next launch.
    half: usize,
    /// Words of each half that the last launch that used it can have written.
    extents: [usize; 2],
}

impl Exchange {
    fn new() -> Self {
        Self { words: vec![0; exchange::WORDS as usize], half: 0, extents: [0; 2] }
    }

    /// SwiGLU's results as a launch that can write `extent` words has left them, poison where there are none. Whatever else is
    /// there must be as the next launch needs it.
    fn left(&mut self, extent: usize) -> Result<Vec<u8>, String> {
        let half = self.half;
        self.half ^= 1;
        self.extents[half] = extent;
        let mut want = vec![0; exchange::H as usize];
        want[exchange::ARRIVALS as usize] = (self.half as u32) << 31;
        for (n, extent) in self.extents.into_iter().enumerate() {
            want[exchange::EXTENTS as usize + n] = extent as u32;
        }
        let (head, rest) = self.words.split_at(exchange::H as usize);
        if head != want {
            return Err(format!("the exchange begins with {head:?}, not with {want:?}"));
        }
        let (halves, y) = rest.split_at(2 * exchange::HALF as usize);
        let (first, second) = halves.split_at(exchange::HALF as usize);
        let (own, other) = if half == 0 { (first, second) } else { (second, first) };
        let (h, beyond) = own.split_at(extent);
        for (what, words) in
            [("the second product", y), ("the other half", other), ("the half beyond its rows", beyond)]
        {
            if let Some(at) = words.iter().position(|&word| word != 0) {
                return Err(format!("{what} has {:#010x} at {at} behind the launch", words[at]));
            }
        }
        let bytes = |&word: &u32| if word == 0 { [POISON; 4] } else { (!word).to_le_bytes() };
        Ok(h.iter().flat_map(bytes).collect())
    }
}

// One address.
static KERNEL: Launch = decode::LAUNCH;

fn f32s(v: &[f32]) -> Value<'_> {
    Value::In(bytemuck::cast_slice(v))
}

fn u32s(v: &[u32]) -> Value<'_> {
    Value::In(bytemuck::cast_slice(v))
}

/// Every case.
pub fn cases(sizes: &Sizes) -> Vec<Case> {
    let add = |cases: &mut Vec<Case>, name: &str, parts: Vec<(Problem, &'static [u32])>| {
        let mut case = Case::new(&KERNEL, name);
        for (problem, grids) in parts {
            case.part(problem.clone(), problem.elements() * grids.len(), move |device| {
                problem.check(device, grids)
            });
        }
        cases.push(case);
    };
    let mut cases = Vec::new();
    let mut case = |name: &str, parts: Vec<(Problem, &'static [u32])>| add(&mut cases, name, parts);
    // Several tiles for a warp, so that the rings go round; last stages that are not whole; two token tiles of an expert.
    let few = Problem { shared: Shared::Folded, limit: 1.0, ..Problem::new(4, 2, 2, 272, 272) };
    let one =
        Problem { routing: Routing::One, wants_f32: false, max_tokens: 3, ..Problem::new(2, 3, 2, 80, 48) };
    let sparse = Problem { routing: Routing::Sparse, shared: Shared::Apart, ..Problem::new(5, 2, 3, 48, 80) };
    // Rows of SwiGLU's results that keep every warp busy four times over; more slots of a token than are waited for at a time.
    let long = Problem { routing: Routing::One, ..Problem::new(8, 2, 1, 48, 1088) };
    let slots = Problem::new(3, 9, 9, 48, 48);
    if sizes.size == Size::Few {
        case("shape", vec![(few, &[2, 1]), (one, &[1]), (sparse, &[3]), (long, &[3]), (slots, &[3])]);
        return cases;
    }
    let none = Problem { max_tokens: 4, ..Problem::new(0, 2, 3, 64, 64) };
    let full = Problem { shared: Shared::Folded, ..Problem::new(8, 7, 5, 144, 208) };
    let alone = Problem::new(1, 6, 9, 320, 96);
    let foreign = Problem { routing: Routing::Sparse, limit: f32::INFINITY, ..Problem::new(1, 4, 3, 96, 64) };
    let turns = [&alone, &few, &foreign, &one].map(Clone::clone);
    case("shape", vec![(few, &[0, 1, 2, 3]), (full, &[0, 1, 3]), (alone, &[0, 1, 2]), (long, &[0, 3])]);
    case(
        "routing",
        vec![(one, &[0, 1, 2]), (sparse, &[0, 1, 3]), (none, &[0, 1]), (foreign, &[0, 2]), (slots, &[0, 2])],
    );
    let elements = turns.iter().map(Problem::elements).sum();
    let mut case = Case::new(&KERNEL, "state");
    case.part(turns.clone(), elements, move |device| {
        let [alone, few, foreign, one] = &turns;
        in_turn(device, &[few, alone, one, few, few, foreign, alone])
    });
    cases.push(case);
    if sizes.size == Size::Card {
        let mut case = |name: &str, parts: Vec<(Problem, &'static [u32])>| add(&mut cases, name, parts);
        let pro = |tokens| Problem { shared: Shared::Folded, ..Problem::new(tokens, 6, 12, 7168, 3072) };
        let flash = |tokens| Problem::new(tokens, 6, 24, 4096, 2048);
        let tails = Problem::new(5, 4, 6, 2880, 2304);
        case("deepseek", vec![(pro(1), &[0]), (pro(8), &[0]), (flash(1), &[0]), (flash(4), &[0, 77])]);
        case("tails", vec![(tails, &[0, 100])]);
    }
    cases
}
