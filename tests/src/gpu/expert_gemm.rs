//! Cases of the grouped expert GEMMs, one body for every form. The reference is the chain of MMA steps in plain
//! integers ([`super::mma_model`]) on the row-major weights: every output is compared to the bit (any NaN for a NaN),
//! and every byte that is no output must stay.

use kernels::expand::UNSCALE;
use kernels::expert_gemm_mma::ROUTING_SETTLED;
use kernels::fragment::{self, RowMajor, RowOrder, k_units, matrix_bytes};
use kernels::launch::{Dims, Launch};
use kernels::{expert_gemm_medium as medium, expert_gemm_small as small, expert_gemm_wide as wide};
use nvfp4::{bf16, e2m1, e4m3, swiglu::swiglu};

use super::data::{hash, uniform};
use super::mma_model::{Half, dot};
use super::outputs::{POISON, parallel};
use super::repack::bytes;
use super::{Case, Check, Device, Size, Sizes, Value};

/// What is computed from the accumulators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SwiGLU of gate and up, bf16.
    SwigluBf16,
    /// SwiGLU of gate and up, f32.
    SwigluF32,
    /// The scaled product.
    PlainF32,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 3] = [Kind::SwigluBf16, Kind::SwigluF32, Kind::PlainF32];

    /// Whether there is an up matrix.
    pub fn has_up(self) -> bool {
        self != Kind::PlainF32
    }

    /// Bytes of an output element.
    pub fn bytes(self) -> usize {
        if self == Kind::SwigluBf16 { 2 } else { 4 }
    }

    fn order(self) -> RowOrder {
        if self.has_up() { RowOrder::GateUp } else { RowOrder::Plain }
    }
}

/// A form of the kernels: three entries with one list of arguments, and their dimensions.
#[derive(Clone, Copy)]
pub struct Form {
    /// The entry of a kind.
    pub launch: fn(Kind) -> &'static Launch,
    /// Dimensions for `k_units` on a number of multiprocessors.
    pub dims: fn(u32, u32) -> Option<Dims>,
    /// Other numbers of threads that must give the same bytes.
    pub threads: &'static [u32],
    /// Bits of `fold_alpha` that change no result.
    pub flags: u32,
    /// Whether it takes tokens as [`kernels::lines`].
    pub lines: bool,
}

/// The decode form.
pub static SMALL: Form = Form {
    launch: |kind| match kind {
        Kind::SwigluBf16 => &small::SWIGLU_BF16,
        Kind::SwigluF32 => &small::SWIGLU_F32,
        Kind::PlainF32 => &small::PLAIN_F32,
    },
    dims: small::dims,
    threads: &[160, 224, 640, 896],
    flags: ROUTING_SETTLED,
    lines: false,
};

/// The form between decode and prefill.
pub static MEDIUM: Form = Form {
    launch: |kind| match kind {
        Kind::SwigluBf16 => &medium::SWIGLU_BF16,
        Kind::SwigluF32 => &medium::SWIGLU_F32,
        Kind::PlainF32 => &medium::PLAIN_F32,
    },
    dims: |_, sms| Some(medium::dims(sms)),
    threads: &[],
    flags: ROUTING_SETTLED,
    lines: false,
};

macro_rules! wgmma_form {
    ($(#[$doc:meta])* $name:ident, $form:ident, $bf16:ident $f32:ident $plain:ident) => {
        $(#[$doc])*
        pub static $name: Form = Form {
            launch: |kind| match kind {
                Kind::SwigluBf16 => &wide::$bf16,
                Kind::SwigluF32 => &wide::$f32,
                Kind::PlainF32 => &wide::$plain,
            },
            dims: |_, sms| Some(wide::dims::<wide::layout::$form>(sms)),
            threads: &[],
            flags: 0,
            lines: true,
        };
    };
}

wgmma_form! {
    /// Up to 224 tokens by 128 weight rows.
    BROAD, Broad, BROAD_SWIGLU_BF16 BROAD_SWIGLU_F32 BROAD_PLAIN_F32
}
wgmma_form! {
    /// Up to 128 tokens by 256 weight rows. As with all these forms the dimensions are fixed but for the grid.
    WIDE, Wide, WIDE_SWIGLU_BF16 WIDE_SWIGLU_F32 WIDE_PLAIN_F32
}
wgmma_form! {
    /// Up to 32 tokens by 256 weight rows.
    NARROW, Narrow, NARROW_SWIGLU_BF16 NARROW_SWIGLU_F32 NARROW_PLAIN_F32
}

/// Every form.
pub static FORMS: [&Form; 5] = [&SMALL, &MEDIUM, &NARROW, &WIDE, &BROAD];

/// One set of inputs.
#[derive(Clone, Debug)]
pub struct Problem {
    /// What is computed.
    pub kind: Kind,
    /// Rows of each expert.
    pub counts: Vec<u32>,
    /// Rows to which each expert's segment is padded.
    pub segment: u32,
    /// Features of each matrix.
    pub features: usize,
    /// Columns.
    pub k: usize,
    /// First row tile and number of row tiles, of a chunk; none for all.
    pub chunk: Option<(u32, u32)>,
    /// Through `row_token`, to fewer rows of b.
    pub gather: bool,
    /// Multiplies the scales first.
    pub fold: bool,
    /// Other bits of the argument that says so.
    pub flags: u32,
    /// SwiGLU clamp.
    pub limit: f32,
    /// Elements between rows of the output beyond its columns.
    pub gap: usize,
}

/// The weights of a [`Problem`].
pub struct Weights {
    packed: [Vec<Vec<u8>>; 2],
    scales: [Vec<Vec<u8>>; 2],
    /// Fragment order.
    pub fragments: Vec<u8>,
    /// Global scales of each expert.
    pub alpha: Vec<f32>,
    /// Those of up.
    pub alpha_up: Vec<f32>,
}

/// The other inputs.
pub struct Inputs {
    /// First row of each expert, and the end.
    pub offsets: Vec<u32>,
    /// Row of b of each row.
    pub row_token: Vec<u32>,
    /// f16 bits, `[b_rows, 64 * k_units]`.
    pub b: Vec<u16>,
    /// Scale of each row of b.
    pub b_scale: Vec<f32>,
}

impl Problem {
    /// All row tiles, segments padded to 8, row by row.
    pub fn new(kind: Kind, counts: &[u32], features: usize, k: usize) -> Self {
        Self {
            kind,
            counts: counts.to_vec(),
            segment: 8,
            features,
            k,
            chunk: None,
            gather: true,
            fold: false,
            flags: 0,
            limit: 10.0,
            gap: 0,
        }
    }

    fn tiles(&self) -> (u32, u32) {
        self.chunk.unwrap_or((0, self.row_tiles()))
    }

    fn row_tiles(&self) -> u32 {
        self.kind.order().row_tiles(self.features) as u32
    }

    /// Features that are computed.
    fn columns(&self) -> std::ops::Range<usize> {
        let per_tile = self.kind.order().tile_features();
        let (first, count) = self.tiles();
        let first = first as usize * per_tile;
        first..(first + count as usize * per_tile).min(self.features)
    }

    fn out_stride(&self) -> usize {
        self.columns().len() + self.gap
    }

    /// Weights to be multiplied.
    pub fn elements(&self) -> usize {
        let matrices = 1 + usize::from(self.kind.has_up());
        let active: usize = self.counts.iter().map(|&c| c.div_ceil(8) as usize).sum();
        active * matrices * self.columns().len() * self.k
    }

    /// The weights: random codes; scales of every size, mostly ordinary.
    pub fn weights(&self) -> Weights {
        let (features, k) = (self.features, self.k);
        let experts = self.counts.len();
        let matrices = |salt: u64| parallel(experts, |e| bytes(features * k / 2, salt + 16 * e as u64));
        let scales = |salt: u64| {
            parallel(experts, |e| {
                let mut scales = bytes(features * k / 16, salt + 16 * e as u64);
                for byte in &mut scales {
                    *byte = match *byte {
                        0 => 0,
                        1 => 1,
                        2 => 0x7e,
                        b => 0x28 + b % 24,
                    };
                }
                scales
            })
        };
        let packed = [matrices(1), if self.kind.has_up() { matrices(2) } else { Vec::new() }];
        let scales = [scales(3), if self.kind.has_up() { scales(4) } else { Vec::new() }];
        let bytes = matrix_bytes(self.row_tiles() as usize, k_units(k));
        let fragments = parallel(experts, |e| {
            let of = |m: usize| RowMajor { packed: &packed[m][e], scales: &scales[m][e] };
            let mut out = vec![0; bytes];
            fragment::pack(of(0), self.kind.has_up().then(|| of(1)), features, k, &mut out);
            out
        });
        let alpha =
            |salt: u64| (0..experts as u64).map(|e| 0.0005 + 0.001 * uniform(e | salt << 32)).collect();
        Weights { packed, scales, fragments: fragments.concat(), alpha: alpha(1), alpha_up: alpha(2) }
    }

    /// Routing and rows of b. Every seventh row of b stands for one with a NaN.
    pub fn inputs(&self) -> Inputs {
        let mut offsets = vec![0];
        for &count in &self.counts {
            offsets.push(offsets[offsets.len() - 1] + count.next_multiple_of(self.segment));
        }
        let rows = offsets[offsets.len() - 1] as usize;
        let b_rows = if self.gather { (rows / 3).clamp(1, 5000) } else { rows };
        let mut row_token = vec![u32::MAX; rows];
        for (&count, &first) in self.counts.iter().zip(&offsets) {
            for row in first..first + count {
                row_token[row as usize] =
                    if self.gather { (hash(u64::from(row)) % b_rows as u64) as u32 } else { row };
            }
        }
        let columns = 64 * k_units(self.k);
        let mut b = vec![0; b_rows * columns];
        let mut b_scale = Vec::new();
        for (row, values) in b.chunks_mut(columns).enumerate() {
            if row % 7 == 6 {
                b_scale.push(f32::NAN);
                continue;
            }
            b_scale.push((0.5 + uniform(row as u64)) * if row % 3 == 0 { 0.25 } else { 1.0 });
            for (i, value) in values[..self.k].iter_mut().enumerate() {
                let h = hash((row as u64) << 32 | i as u64);
                // Within eight binades of one; every fourth row has all finite values.
                let exponent = if row % 4 == 3 { h % 25 } else { 10 + h % 8 };
                *value = (h >> 40 & 0x83ff) as u16 | (exponent as u16) << 10;
            }
        }
        Inputs { offsets, row_token, b, b_scale }
    }

    /// Weights of one row of a matrix as the MMA takes them: over [`UNSCALE`].
    fn weight_row(&self, weights: &Weights, matrix: usize, expert: usize, feature: usize) -> Vec<Half> {
        let (packed, scales) = (&weights.packed[matrix][expert], &weights.scales[matrix][expert]);
        (0..self.k)
            .map(|k| {
                let code = packed[(feature * self.k + k) / 2] >> (k % 2 * 4) & 15;
                let scale = scales[(feature * self.k + k) / 16];
                Half::from_f32(e2m1::decode(code) * e4m3::decode(scale) / UNSCALE)
            })
            .collect()
    }

    /// The outputs of one feature of one expert, row by row.
    fn feature(
        &self,
        weights: &Weights,
        inputs: &Inputs,
        b: &[Half],
        expert: usize,
        feature: usize,
    ) -> Vec<f32> {
        let matrices = 1 + usize::from(self.kind.has_up());
        let a: Vec<_> = (0..matrices).map(|m| self.weight_row(weights, m, expert, feature)).collect();
        let columns = 64 * k_units(self.k);
        let (alpha, alpha_up) = (weights.alpha[expert], weights.alpha_up[expert]);
        (0..self.counts[expert])
            .map(|n| {
                let from = inputs.row_token[(inputs.offsets[expert] + n) as usize] as usize;
                let (b, scale) = (&b[from * columns..][..self.k], inputs.b_scale[from]);
                let scaled = |acc: f32, alpha: f32| {
                    let acc = acc * UNSCALE;
                    if self.fold { acc * (scale * alpha) } else { (acc * scale) * alpha }
                };
                let acc = scaled(dot(&a[0], b), alpha);
                if self.kind.has_up() {
                    swiglu(acc, scaled(dot(&a[1], b), alpha_up), self.limit)
                } else {
                    acc
                }
            })
            .collect()
    }

    /// What every byte must be.
    pub fn reference(&self, weights: &Weights, inputs: &Inputs) -> Vec<u8> {
        let b: Vec<Half> = inputs.b.iter().map(|&h| Half::new(h)).collect();
        let mut out = self.poisoned(inputs);
        let columns = self.columns();
        let active: Vec<usize> = (0..self.counts.len()).filter(|&e| self.counts[e] != 0).collect();
        let done = parallel(active.len() * columns.len(), |n| {
            let (expert, feature) = (active[n / columns.len()], columns.start + n % columns.len());
            self.feature(weights, inputs, &b, expert, feature)
        });
        for (n, values) in done.into_iter().enumerate() {
            let (expert, column) = (active[n / columns.len()], n % columns.len());
            for (row, value) in values.into_iter().enumerate() {
                let at = (inputs.offsets[expert] as usize + row) * self.out_stride() + column;
                match self.kind {
                    Kind::SwigluBf16 => {
                        out[2 * at..][..2].copy_from_slice(&bf16::from_f32(value).to_le_bytes())
                    }
                    _ => out[4 * at..][..4].copy_from_slice(&value.to_le_bytes()),
                }
            }
        }
        out
    }

    fn poisoned(&self, inputs: &Inputs) -> Vec<u8> {
        vec![POISON; inputs.row_token.len() * self.out_stride() * self.kind.bytes()]
    }

    /// Launches once on a poisoned output.
    pub fn launch(
        &self,
        device: &dyn Device,
        form: &Form,
        dims: Dims,
        weights: &Weights,
        inputs: &Inputs,
    ) -> Result<Vec<u8>, String> {
        let mut out = self.poisoned(inputs);
        let (first_tile, tile_count) = self.tiles();
        let mut values = vec![Value::In(&weights.fragments), Value::In(bytemuck::cast_slice(&weights.alpha))];
        if self.kind.has_up() {
            values.push(Value::In(bytemuck::cast_slice(&weights.alpha_up)));
        }
        let lines = form.lines.then(|| {
            let Inputs { b, row_token, offsets, .. } = inputs;
            super::lines::arrange(b, row_token, offsets, &self.counts, k_units(self.k), 0)
        });
        values.extend([
            Value::In(bytemuck::cast_slice(lines.as_ref().unwrap_or(&inputs.b))),
            Value::In(bytemuck::cast_slice(&inputs.b_scale)),
            if self.gather { Value::In(bytemuck::cast_slice(&inputs.row_token)) } else { Value::Null },
            Value::In(bytemuck::cast_slice(&inputs.offsets)),
            Value::In(bytemuck::cast_slice(&self.counts)),
            Value::Out(&mut out),
            Value::U32(self.counts.len() as u32),
            Value::U32(self.row_tiles()),
            Value::U32(k_units(self.k) as u32),
            Value::U32(first_tile),
            Value::U32(tile_count),
            Value::U32(self.features as u32),
            Value::U32(self.out_stride() as u32),
            Value::U32(u32::from(self.fold) | self.flags),
        ]);
        if self.kind.has_up() {
            values.push(Value::F32(self.limit));
        }
        device.launch((form.launch)(self.kind), dims, &mut values)?;
        Ok(out)
    }

    /// Compares every byte; a NaN may be any.
    pub fn expect(&self, got: &[u8], want: &[u8]) -> Check {
        let bytes = self.kind.bytes();
        let nan = |element: &[u8]| match *element {
            [a, b] => bf16::to_f32(u16::from_le_bytes([a, b])).is_nan(),
            [a, b, c, d] => f32::from_le_bytes([a, b, c, d]).is_nan(),
            _ => false,
        };
        let differ = |(g, w): (&[u8], &[u8])| g != w && !(nan(g) && nan(w));
        let pairs = || got.chunks_exact(bytes).zip(want.chunks_exact(bytes));
        let Some(at) = pairs().position(differ) else { return Ok(()) };
        let count = pairs().filter(|&pair| differ(pair)).count();
        let (row, column) = (at / self.out_stride(), at % self.out_stride());
        let element = |from: &[u8]| format!("{:02x?}", &from[at * bytes..][..bytes]);
        Err(format!(
            "{count} of {} elements differ (bytes differ), the first at row {row}, column {column}: got {}, expected {}{}",
            got.len() / bytes,
            element(got),
            element(want),
            if want[at * bytes..][..bytes].iter().all(|&b| b == POISON) {
                " (must stay untouched)"
            } else {
                ""
            },
        ))
    }

    /// The form's dimensions.
    pub fn dims(&self, device: &dyn Device, form: &Form) -> Result<Dims, String> {
        (form.dims)(k_units(self.k) as u32, device.multiprocessors())
            .ok_or_else(|| "K is too long".to_owned())
    }

    /// One launch with the form's own dimensions, then one per entry of `others` (grid, threads; 0 = the form's own).
    pub fn check(&self, device: &dyn Device, form: &Form, others: &[(u32, u32)]) -> Check {
        let (weights, inputs) = (self.weights(), self.inputs());
        let want = self.reference(&weights, &inputs);
        let own = self.dims(device, form)?;
        for &(grid, threads) in [(0, 0)].iter().chain(others) {
            let mut dims = own;
            dims.grid[0] = if grid == 0 { own.grid[0] } else { grid };
            dims.block[0] = if threads == 0 { own.block[0] } else { threads };
            let got = self.launch(device, form, dims, &weights, &inputs)?;
            self.expect(&got, &want).map_err(|e| format!("grid {grid}, threads {threads}: {e}"))?;
        }
        Ok(())
    }
}

/// Rows of experts: none, one, a full tile, one more, several.
const COUNTS: [u32; 9] = [0, 1, 0, 8, 3, 9, 0, 17, 2];

/// Rows of experts for tiles of every width, in one and in several ranges.
const WIDE_COUNTS: [u32; 11] = [33, 0, 64, 97, 16, 129, 250, 1, 300, 192, 80];

/// Every case of one form.
pub fn cases(form: &'static Form, sizes: &Sizes) -> Vec<Case> {
    let mut cases = Vec::new();
    let shapes: &[(usize, usize)] = match sizes.size {
        // K of V4-Pro, V4-Flash and V4.1-Flash, and tails; whole matrices are the layer's cases.
        Size::Card => {
            &[(5, 16), (40, 320), (136, 2880), (520, 7168), (264, 3072), (264, 4096), (136, 5120), (64, 9216)]
        }
        Size::Emulator => &[(5, 16), (40, 320), (21, 592)],
        Size::Few => &[(21, 336)],
    };
    for kind in Kind::ALL {
        let launch = (form.launch)(kind);
        let mut case = |name: &str, parts: Vec<(Problem, Vec<(u32, u32)>)>| {
            let mut case = Case::new(launch, name);
            for (problem, mut others) in parts {
                others.retain(|&(_, threads)| threads == 0 || !form.threads.is_empty());
                case.part(problem.clone(), problem.elements() * (1 + others.len()), move |device| {
                    problem.check(device, form, &others)
                });
            }
            cases.push(case);
        };
        let mut parts = Vec::new();
        for &(features, k) in shapes {
            let problem = Problem::new(kind, &COUNTS, features, k);
            // Few warps, so that rings go round.
            let others: Vec<_> = if sizes.size == Size::Few {
                form.threads.first().map(|&threads| (1, threads)).into_iter().collect()
            } else {
                vec![]
            };
            parts.push((problem.clone(), others));
            let limit = f32::INFINITY;
            let flags = form.flags;
            let other = Problem { fold: true, gather: false, segment: 16, gap: 3, limit, flags, ..problem };
            parts.push((other, vec![]));
        }
        if form.threads.is_empty() {
            // More than one block of row tiles, the last one short; more units than the ring has stages.
            let some = if kind.has_up() { 150 } else { 270 };
            let (counts, features, k): (&[u32], _, _) = match sizes.size {
                Size::Card => (&WIDE_COUNTS, 300, 720),
                Size::Emulator => (&WIDE_COUNTS[..7], some, 80),
                Size::Few => (&[40, 129], some, 80),
            };
            let problem = Problem::new(kind, counts, features, k);
            parts.push((Problem { gap: 5, ..problem.clone() }, vec![(1, 0), (5, 0)]));
            parts.push((Problem::new(kind, &[7, 100], 20, 1296), vec![(1, 0)]));
            if core::ptr::eq(form, &MEDIUM) {
                // In one block more row tiles than a group has, of one and of two for a warp, and more columns than a chunk.
                let tile = if kind.has_up() { 8 } else { 16 };
                parts.push((Problem::new(kind, &[9], 31 * tile, 1104), vec![(1, 0)]));
                parts.push((Problem::new(kind, &[17, 3], 17 * tile, 1104), vec![(1, 0)]));
                // Token tiles of a single chunk after each other: their scales take turns in two places.
                parts.push((Problem::new(kind, &[3, 9, 2, 8, 5], 20, 80), vec![(1, 0)]));
            }
            parts.push((Problem { gather: false, ..Problem::new(kind, &[300], 20, 144) }, vec![(1, 0)]));
            // A tile of every width that some form has, a few tokens narrower.
            parts.push((Problem::new(kind, &[13, 29, 61, 93, 125, 189, 205, 220], 9, 80), vec![]));
        }
        case("shape", parts);

        let problem = Problem::new(kind, &COUNTS, 72, 208);
        case(
            "chunk",
            [(0, 1), (1, 2), (3, 2)].map(|c| (Problem { chunk: Some(c), ..problem.clone() }, vec![])).into(),
        );
        if sizes.size == Size::Few {
            continue;
        }
        let grids = [1, 2, 3, 7, 50, 300].map(|grid| (grid, 0));
        let threads = form.threads.iter().map(|&threads| (0, threads));
        case("grid", vec![(problem, grids.into_iter().chain(threads).collect())]);

        let one = |at: usize, experts: usize| {
            let mut counts = vec![0; experts];
            counts[at] = 3;
            (Problem::new(kind, &counts, 9, 64), vec![(1, 0)])
        };
        let mut many = vec![0; 385];
        (0..385).filter(|e| e % 5 == 2 || *e > 370).for_each(|e| many[e] = 1 + e as u32 % 3);
        let many = Problem { segment: 1, ..Problem::new(kind, &many, 9, 64) };
        case(
            "experts",
            vec![
                one(0, 1),
                one(31, 48),
                one(32, 33),
                one(384, 385),
                (Problem::new(kind, &[0, 0, 0], 9, 64), vec![(1, 0)]),
                (many, vec![(1, 0), (0, 160)]),
            ],
        );
    }
    cases
}
