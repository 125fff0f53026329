//! Cases of the grouped GEMMs on tcgen05, one body for every kind of output and both forms.
//!
//! Inputs are such that sums are exact ([`data`]), so every output byte is compared with integer arithmetic, the
//! definitions of [`nvfp4`] behind it, to the bit (any NaN for a NaN); what is no output must stay. A case with scales of
//! every size is within the bar of the layer against f64.

use std::convert::Infallible;
use std::sync::Arc;

use kernels::launch::{Dims, Launch};
use kernels::operand::{
    BLOCK_ROWS, BlockOrder, STEP_CODE_BYTES, STEP_K, STEP_SCALE_BYTES, code_offset, scale_offset,
};
use kernels::tcgen05_gemm as gemm;
use megamoe::metrics::{BAR, Metrics};
use nvfp4::quantize::{NON_FINITE_BITS, amax_bits_of, quantize_block};
use nvfp4::{BLOCK, swiglu::swiglu};

use super::data::{hash, uniform};
use super::kept::Kept;
use super::outputs::{POISON, parallel};
use super::{Case, Check, Device, Size, Sizes, Value};

pub mod data;

use data::{Matrix, Tokens, Values, pack_weights};

/// What is computed from the accumulators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The scaled product.
    PlainF32,
    /// SwiGLU of gate and up.
    SwigluF32,
    /// SwiGLU of gate and up, quantised.
    SwigluNvfp4,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 3] = [Kind::PlainF32, Kind::SwigluF32, Kind::SwigluNvfp4];

    /// Whether there is an up matrix.
    pub fn has_up(self) -> bool {
        self != Kind::PlainF32
    }

    fn order(self) -> BlockOrder {
        if self.has_up() { BlockOrder::GateUp } else { BlockOrder::Plain }
    }
}

/// A form of the kernels.
pub struct Form {
    /// The entry of a kind.
    pub launch: fn(Kind) -> &'static Launch,
    /// Dimensions on a number of multiprocessors.
    pub dims: fn(u32) -> Dims,
    /// Blocks that share a tile.
    pub blocks: u32,
}

/// One block for a tile.
pub static SINGLE: Form = Form {
    launch: |kind| match kind {
        Kind::PlainF32 => &gemm::PLAIN_F32,
        Kind::SwigluF32 => &gemm::SWIGLU_F32,
        Kind::SwigluNvfp4 => &gemm::SWIGLU_NVFP4,
    },
    dims: gemm::dims::<gemm::layout::Single>,
    blocks: 1,
};

/// Two blocks for a tile.
pub static PAIR: Form = Form {
    launch: |kind| match kind {
        Kind::PlainF32 => &gemm::PLAIN_F32_PAIR,
        Kind::SwigluF32 => &gemm::SWIGLU_F32_PAIR,
        Kind::SwigluNvfp4 => &gemm::SWIGLU_NVFP4_PAIR,
    },
    dims: gemm::dims::<gemm::layout::Pair>,
    blocks: 2,
};

/// One set of inputs.
#[derive(Clone, Debug)]
pub struct Problem {
    /// What is computed.
    pub kind: Kind,
    /// Rows of each expert.
    pub counts: Vec<u32>,
    /// Features of each matrix.
    pub features: usize,
    /// Columns: a multiple of 16.
    pub k: usize,
    /// First row block and number of row blocks, of a chunk; none for all.
    pub chunk: Option<(u32, u32)>,
    /// Elements between rows of an f32 output beyond its columns; steps of a quantised one beyond its own.
    pub gap: usize,
    /// Scales of the operands.
    pub values: Values,
    /// SwiGLU clamp.
    pub limit: f32,
    /// Multiplies alpha of gate.
    pub boost: f32,
    /// Multiplies the scale that rows are quantised under; below 1, blocks saturate, and they are counted.
    pub squeeze: f32,
}

/// The inputs of a [`Problem`].
pub struct Inputs {
    /// First row of each expert, and the end.
    pub offsets: Vec<u32>,
    /// Gate (or the only matrix) and up of each expert.
    weights: [Vec<Matrix>; 2],
    /// The experts' weights as the kernels want them.
    pub packed: Vec<u8>,
    /// The tokens, one expert's after the other's.
    rows: Matrix,
    /// The tokens as the kernels want them.
    pub tokens: Tokens,
    /// Scale of each row of the operand; NaN where there is no row, and for every seventh.
    pub b_scale: Vec<f32>,
    /// Global scales.
    pub alpha: Vec<f32>,
    /// Those of up, ten times as large.
    pub alpha_up: Vec<f32>,
    /// Scales to quantise under.
    constant: Vec<f32>,
}

/// What a launch writes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outputs {
    /// f32 results.
    pub out: Vec<u8>,
    /// Codes and scales of the quantised operand, and scales of its rows.
    pub quantised: [Vec<u8>; 3],
    /// Counter of saturated blocks.
    pub saturated: Vec<u8>,
}

/// Largest case that is kept.
const KEPT_ELEMENTS: usize = 1 << 19;

/// What the counter of saturated blocks holds before.
const COUNTED: u32 = 5;

impl Problem {
    /// All row blocks, exact sums.
    pub fn new(kind: Kind, counts: &[u32], features: usize, k: usize) -> Self {
        Self {
            kind,
            counts: counts.to_vec(),
            features,
            k,
            chunk: None,
            gap: 0,
            values: Values::Grid,
            limit: 10.0,
            boost: 1.0,
            squeeze: 1.0,
        }
    }

    fn row_blocks(&self) -> u32 {
        self.kind.order().row_blocks(self.features) as u32
    }

    fn steps(&self) -> usize {
        self.k.div_ceil(STEP_K)
    }

    fn blocks(&self) -> (u32, u32) {
        self.chunk.unwrap_or((0, self.row_blocks()))
    }

    /// Features that are computed.
    fn columns(&self) -> std::ops::Range<usize> {
        let per_block = self.kind.order().block_features();
        let (first, count) = self.blocks();
        let first = first as usize * per_block;
        first..(first + count as usize * per_block).min(self.features)
    }

    fn out_stride(&self) -> usize {
        self.columns().len() + self.gap
    }

    fn out_steps(&self) -> usize {
        self.row_blocks() as usize + self.gap
    }

    fn counts_saturated(&self) -> bool {
        self.squeeze < 1.0
    }

    /// Steps of 64 columns of a product.
    pub fn elements(&self) -> usize {
        let rows: usize = self.counts.iter().map(|&c| c.next_multiple_of(16) as usize).sum();
        rows * self.blocks().1 as usize * BLOCK_ROWS * self.steps()
    }

    /// The inputs.
    pub fn inputs(&self) -> Inputs {
        let experts = self.counts.len();
        let mut offsets = vec![0];
        for &count in &self.counts {
            offsets.push(offsets[offsets.len() - 1] + count.next_multiple_of(BLOCK_ROWS as u32));
        }
        let matrices = |salt: u64| -> Vec<Matrix> {
            parallel(experts, |e| Matrix::new(self.features, self.k, self.values, salt + 16 * e as u64))
        };
        let weights = [matrices(1), if self.kind.has_up() { matrices(2) } else { Vec::new() }];
        let packed = parallel(experts, |e| {
            pack_weights(&weights[0][e], weights[1].get(e), self.kind.order(), self.features)
        });
        let rows = Matrix::new(self.counts.iter().sum::<u32>() as usize, self.k, self.values, 3);
        let tokens = Tokens::new(&rows, &self.counts, &offsets);
        let mut b_scale = vec![f32::NAN; offsets[experts] as usize];
        let mut n = 0u64;
        for (&count, &first) in self.counts.iter().zip(&offsets) {
            for row in first..first + count {
                b_scale[row as usize] = if n % 7 == 6 { f32::NAN } else { 0.5 + uniform(n) };
                n += 1;
            }
        }
        // Sums of grid values are about 11 * sqrt(k), of others 4000 times as large.
        let size = if self.values == Values::Grid { 0.2 } else { 5e-5 } / (self.k as f32).sqrt();
        let alpha: Vec<f32> = (0..experts as u64).map(|e| size * (0.5 + uniform(e ^ 77 << 32))).collect();
        let bound = if self.limit.is_finite() { self.limit * self.limit.max(0.28) } else { 400.0 };
        Inputs {
            offsets,
            packed: packed.concat(),
            weights,
            rows,
            tokens,
            b_scale,
            alpha_up: alpha.iter().map(|a| a * 10.0).collect(),
            alpha: alpha.iter().map(|a| a * self.boost).collect(),
            constant: (0..experts)
                .map(|e| bound * self.squeeze * (1.0 + e as f32 / 8.0) / nvfp4::GLOBAL_RANGE)
                .collect(),
        }
    }

    /// The result of each column of one row.
    fn row(&self, inputs: &Inputs, expert: usize, row: usize, from: usize) -> Vec<f32> {
        let scale = inputs.b_scale[row];
        let of = |matrices: &[Matrix], feature: usize, alpha: f32| {
            let matrix = &matrices[expert];
            let sum = match self.values {
                Values::Grid => matrix.dot_grid(feature, &inputs.rows, from),
                Values::Wide => matrix.dot_f64(feature, &inputs.rows, from) as f32,
            };
            sum * (scale * alpha)
        };
        let columns = self.columns();
        columns
            .map(|feature| {
                let gate = of(&inputs.weights[0], feature, inputs.alpha[expert]);
                if !self.kind.has_up() {
                    return gate;
                }
                let up = of(&inputs.weights[1], feature, inputs.alpha_up[expert]);
                swiglu(gate, up, self.limit)
            })
            .collect()
    }

    /// Outputs before a launch.
    fn poisoned(&self, inputs: &Inputs) -> Outputs {
        let rows = inputs.b_scale.len();
        let poison = |n: usize| vec![POISON; n];
        if self.kind != Kind::SwigluNvfp4 {
            return Outputs { out: poison(4 * rows * self.out_stride()), ..Outputs::default() };
        }
        let mut row_scale = poison(4 * rows);
        for (expert, (&count, &first)) in self.counts.iter().zip(&inputs.offsets).enumerate() {
            for row in first as usize..(first + count) as usize {
                row_scale[4 * row..][..4].copy_from_slice(&inputs.constant[expert].to_le_bytes());
            }
        }
        let tiles = rows / BLOCK_ROWS * self.out_steps();
        let quantised = [poison(tiles * STEP_CODE_BYTES), poison(tiles * STEP_SCALE_BYTES), row_scale];
        Outputs { quantised, saturated: COUNTED.to_le_bytes().to_vec(), ..Outputs::default() }
    }

    /// What every byte must be.
    pub fn reference(&self, inputs: &Inputs) -> Outputs {
        let mut places = Vec::new();
        for (expert, (&count, &first)) in self.counts.iter().zip(&inputs.offsets).enumerate() {
            for i in 0..count {
                places.push((expert, (first + i) as usize, places.len()));
            }
        }
        let results = parallel(places.len(), |n| {
            let (expert, row, from) = places[n];
            self.row(inputs, expert, row, from)
        });
        let mut want = self.poisoned(inputs);
        for (&(expert, row, _), values) in places.iter().zip(&results) {
            if self.kind == Kind::SwigluNvfp4 {
                self.quantise(&mut want, inputs.constant[expert], row, values);
            } else {
                let at = 4 * row * self.out_stride();
                want.out[at..][..4 * values.len()].copy_from_slice(bytemuck::cast_slice(values));
            }
        }
        if self.kind == Kind::SwigluNvfp4 {
            for (&count, &first) in self.counts.iter().zip(&inputs.offsets) {
                for row in first + count..first + count.next_multiple_of(16) {
                    self.quantise(&mut want, 1.0, row as usize, &vec![0.0; self.columns().len()]);
                }
            }
        }
        want
    }

    /// A row of the quantised operand.
    fn quantise(&self, want: &mut Outputs, constant: f32, row: usize, values: &[f32]) {
        let (first, count) = self.blocks();
        for step in 0..count as usize {
            let tile = row / BLOCK_ROWS * self.out_steps() + first as usize + step;
            for group in 0..STEP_K / BLOCK {
                // Features past the end are zeros.
                let block: [f32; BLOCK] = std::array::from_fn(|i| {
                    values.get(step * STEP_K + group * BLOCK + i).copied().unwrap_or_default()
                });
                let quantised = quantize_block(&block, constant);
                let at = tile * STEP_CODE_BYTES + code_offset(row % BLOCK_ROWS, group * BLOCK);
                want.quantised[0][at..][..BLOCK / 2].copy_from_slice(&quantised.codes.to_le_bytes());
                let at = tile * STEP_SCALE_BYTES + scale_offset(row % BLOCK_ROWS, group);
                want.quantised[1][at] = quantised.scale;
                let amax = amax_bits_of(&block);
                if amax >= NON_FINITE_BITS {
                    want.quantised[2][4 * row..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
                } else if self.counts_saturated() && f32::from_bits(amax) / (6.0 * constant) > 448.0 {
                    let counted = u32::from_le_bytes(want.saturated[..4].try_into().expect("a word"));
                    want.saturated = (counted + 1).to_le_bytes().to_vec();
                }
            }
        }
    }

    /// Launches once on poisoned outputs.
    pub fn launch(
        &self,
        device: &dyn Device,
        form: &Form,
        dims: Dims,
        inputs: &Inputs,
    ) -> Result<Outputs, String> {
        let mut got = self.poisoned(inputs);
        let (first_block, block_count) = self.blocks();
        let mut values = vec![Value::In(&inputs.packed), Value::In(bytemuck::cast_slice(&inputs.alpha))];
        if self.kind.has_up() {
            values.push(Value::In(bytemuck::cast_slice(&inputs.alpha_up)));
        }
        values.extend([
            Value::In(&inputs.tokens.codes),
            Value::In(&inputs.tokens.scales),
            Value::In(bytemuck::cast_slice(&inputs.b_scale)),
            Value::In(bytemuck::cast_slice(&inputs.offsets)),
            Value::In(bytemuck::cast_slice(&self.counts)),
        ]);
        if self.kind == Kind::SwigluNvfp4 {
            values.extend(got.quantised.iter_mut().map(|bytes| Value::Out(bytes)));
            values.push(Value::In(bytemuck::cast_slice(&inputs.constant)));
            values.push(if self.counts_saturated() { Value::Out(&mut got.saturated) } else { Value::Null });
        } else {
            values.push(Value::Out(&mut got.out));
        }
        values.extend(
            [self.counts.len() as u32, self.row_blocks(), self.steps() as u32, first_block, block_count]
                .map(Value::U32),
        );
        if self.kind == Kind::SwigluNvfp4 {
            values.push(Value::U32(self.out_steps() as u32));
        } else {
            values.extend([Value::U32(self.features as u32), Value::U32(self.out_stride() as u32)]);
        }
        if self.kind.has_up() {
            values.push(Value::F32(self.limit));
        }
        device.launch((form.launch)(self.kind), dims, &mut values)?;
        Ok(got)
    }

    /// Compares every byte, or f32 results of [`Values::Wide`] by the layer's bar.
    pub fn expect(&self, got: &Outputs, want: &Outputs) -> Check {
        if self.values == Values::Wide {
            let floats = |bytes: &[u8]| -> Vec<f32> {
                bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
            };
            let metrics = Metrics::of(&floats(&got.out), &floats(&want.out));
            return if metrics.passes(&BAR) { Ok(()) } else { Err(format!("{metrics:?}")) };
        }
        let nan = |bytes: &[u8]| bytes.try_into().is_ok_and(|b| f32::from_le_bytes(b).is_nan());
        let parts = [
            ("result", 4, &got.out, &want.out),
            ("byte of codes", 1, &got.quantised[0], &want.quantised[0]),
            ("scale", 1, &got.quantised[1], &want.quantised[1]),
            ("row scale", 4, &got.quantised[2], &want.quantised[2]),
            ("counter", 4, &got.saturated, &want.saturated),
        ];
        for (what, size, got, want) in parts {
            let differ = |(g, w): &(&[u8], &[u8])| g != w && !(nan(g) && nan(w));
            let pairs = || got.chunks_exact(size).zip(want.chunks_exact(size));
            if let Some(at) = pairs().position(|pair| differ(&pair)) {
                let count = pairs().filter(differ).count();
                let element = |from: &[u8]| format!("{:02x?}", &from[at * size..][..size]);
                return Err(format!(
                    "{count} of {} differ, the first is {what} {at} (rows of {}, {}): got {}, expected {}",
                    got.len() / size,
                    self.out_stride(),
                    self.out_steps(),
                    element(got),
                    element(want)
                ));
            }
        }
        Ok(())
    }

    /// Inputs and what must come of them; small ones are kept.
    fn prepared(&self) -> Arc<(Inputs, Outputs)> {
        static KEPT: Kept<(Inputs, Outputs)> = Kept::new();
        let make = || {
            let inputs = self.inputs();
            let want = self.reference(&inputs);
            (inputs, want)
        };
        if self.elements() > KEPT_ELEMENTS {
            return Arc::new(make());
        }
        let Ok(kept) = KEPT.get(self, || Ok::<_, Infallible>(make()));
        kept
    }

    /// A launch with each of the grids, counted in tiles at a time; 0 stands for the form's own.
    pub fn check(&self, device: &dyn Device, form: &Form, grids: &[u32]) -> Check {
        let prepared = self.prepared();
        let (inputs, want) = &*prepared;
        let own = (form.dims)(device.multiprocessors());
        for &grid in grids {
            let mut dims = own;
            dims.grid[0] = if grid == 0 { own.grid[0] } else { grid * form.blocks };
            let got = self.launch(device, form, dims, inputs)?;
            self.expect(&got, want).map_err(|e| format!("grid {grid}: {e}"))?;
        }
        Ok(())
    }
}

/// Rows of experts around every granule: of N, of scales, of the start of a tile, of a row block.
const COUNTS: [u32; 10] = [0, 1, 7, 8, 9, 0, 33, 64, 65, 0];

/// Every case of one form.
pub fn cases(form: &'static Form, sizes: &Sizes) -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in Kind::ALL {
        let launch = (form.launch)(kind);
        let mut case = |name: &str, parts: Vec<(Problem, Vec<u32>)>| {
            let mut case = Case::new(launch, name);
            for (problem, grids) in parts {
                case.part(problem.clone(), problem.elements() * grids.len(), move |device| {
                    problem.check(device, form, &grids)
                });
            }
            cases.push(case);
        };
        // A row block that is not full.
        let (part, block) = if kind.has_up() { (37, 64) } else { (101, 128) };
        let problem = |counts: &[u32], features: usize, k: usize| Problem::new(kind, counts, features, k);

        // Two tiles on two row blocks of tokens each, the second from the middle of one on; buffers and the ring go round.
        let few = Problem { limit: 1.0, gap: 1, squeeze: 0.1, ..problem(&[3, 257, 0, 1], part, 304) };
        if sizes.size == Size::Few {
            // Of a pair each block has a row block. Where tiles start is the same for all kinds.
            let features = (form.blocks as usize - 1) * block + part;
            let counts = if kind.has_up() { vec![3, 129, 0, 1, 1] } else { few.counts.clone() };
            // Two blocks find the same rows not finite, and count.
            let both = Problem { squeeze: 0.1, ..problem(&[9], block + part, 64) };
            case("shape", vec![(Problem { features, counts, ..few }, vec![1]), (both, vec![2])]);
            continue;
        }
        let mut parts = vec![
            (few, vec![0, 1]),
            (problem(&COUNTS, part, 336), vec![0, 1]),
            (problem(&[3, 300, 128], 2 * block + part, 192), vec![0, 1, 5]),
            (Problem { limit: f32::INFINITY, gap: 2, ..problem(&[129, 193], block, 64) }, vec![0, 2]),
            (problem(&[20], part, 1168), vec![0]),
        ];
        if sizes.size == Size::Card {
            let some: Vec<u32> = (0..48).map(|e| (hash(e) % 40) as u32 * (hash(e + 99) % 3) as u32).collect();
            parts.extend([
                (problem(&some, 7168, 3072), vec![0]),
                (problem(&some[..8], 3072, 7168), vec![0]),
                (problem(&[700, 0, 1, 2000], 1000, 2880), vec![0, 7]),
            ]);
        }
        case("shape", parts);
        case(
            "chunk",
            [(0, 1), (1, 1), (1, 2)]
                .map(|c| (Problem { chunk: Some(c), ..problem(&[5, 17], 2 * block + part, 96) }, vec![0]))
                .into(),
        );
        let mut spread = vec![0; 385];
        (0..385).filter(|e| e % 48 == 5 || *e > 382).for_each(|e| spread[e] = 1 + e as u32 % 3);
        case(
            "experts",
            vec![
                (problem(&[0, 0, 0], part, 64), vec![0, 1]),
                (problem(&spread, part, 64), vec![0, 1, 3, 40]),
            ],
        );
        if kind != Kind::SwigluNvfp4 {
            let wide = Problem { values: Values::Wide, ..problem(&[9, 70], part, 1040) };
            case("scales of every size", vec![(wide, vec![0])]);
        }
        if kind.has_up() {
            let limit = |limit: f32| (Problem { limit, boost: 3.0, ..problem(&[40], part, 64) }, vec![0]);
            let huge = Problem { boost: 1e37, limit: f32::INFINITY, ..problem(&[40], part, 64) };
            case("limits", vec![limit(0.1), limit(1.0), limit(7.0), limit(f32::INFINITY), (huge, vec![0])]);
        }
    }
    cases
}
