//! Cases of the kernels that make B operands: `prepare_rows_*` and `rows_amax_*`.

use half::f16;
use kernels::launch::Launch;
use kernels::{
    prepare_rows_bf16, prepare_rows_nvfp4_bf16, prepare_rows_nvfp4_f32, rows_amax_bf16, rows_amax_f32,
};
use nvfp4::BLOCK;
use nvfp4::quantize::{
    NON_FINITE_BITS, amax_bits_of, dequantize_unscaled, quantize_block, row_scale,
    tensor_scale_from_amax_bits,
};

use super::super::data::Data;
use super::super::outputs::POISON;
use super::super::{Case, Check, Device, Value};
use super::{Scale, bytes, expect_f32, expect_u16, expect_u32, optional, poison_u32, poisoned, run};

/// bf16 rows to f16 under a power of two.
pub static BF16: &Launch = &prepare_rows_bf16::LAUNCH;
/// bf16 rows by way of NVFP4.
pub static NVFP4_BF16: &Launch = &prepare_rows_nvfp4_bf16::LAUNCH;
/// f32 rows by way of NVFP4.
pub static NVFP4_F32: &Launch = &prepare_rows_nvfp4_f32::LAUNCH;
/// Maxima of bf16 rows.
pub static AMAX_BF16: &Launch = &rows_amax_bf16::LAUNCH;
/// Maxima of f32 rows.
pub static AMAX_F32: &Launch = &rows_amax_f32::LAUNCH;

/// No row.
pub const NONE: u32 = u32::MAX;

/// Rows and where they are.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    /// Rows that the buffers hold.
    pub max_rows: usize,
    /// Row count on the device.
    pub rows: usize,
    /// Elements of a row.
    pub k: usize,
    /// Columns of B beyond `k`, in units more than needed.
    pub more_units: usize,
    /// Elements from row to row; the gap is NaN.
    pub stride: usize,
    /// Values.
    pub data: Data,
    /// Every third row is left alone.
    pub mask: bool,
}

impl Rows {
    /// Full buffers.
    pub fn new(rows: usize, k: usize, data: Data) -> Self {
        Self { max_rows: rows, rows, k, more_units: 0, stride: k, data, mask: false }
    }

    /// Units of 64 columns of B.
    pub fn k_units(&self) -> usize {
        self.k.div_ceil(64) + self.more_units
    }

    /// Values of a row, exact in bf16.
    fn values(&self, row: usize) -> Vec<f32> {
        let mut values = vec![0.0; self.k];
        self.data.fill(row, 5, &mut values);
        values
    }

    /// The rows with their gaps; what is not there is NaN.
    fn x(&self) -> Vec<f32> {
        let mut x = vec![f32::NAN; self.max_rows * self.stride];
        for row in 0..self.rows.min(self.max_rows) {
            x[row * self.stride..][..self.k].copy_from_slice(&self.values(row));
        }
        x
    }

    fn tokens(&self) -> Option<Vec<u32>> {
        let of = |row: usize| if row % 3 == 1 { NONE } else { row as u32 };
        self.mask.then(|| (0..self.max_rows).map(of).collect())
    }

    fn done(&self) -> impl Iterator<Item = usize> + use<> {
        let mask = self.mask;
        (0..self.rows.min(self.max_rows)).filter(move |row| !mask || row % 3 != 1)
    }
}

/// The upper halves: values that are exact in bf16.
pub fn to_bf16(x: &[f32]) -> Vec<u16> {
    // NaN keeps being NaN, and so does the gap.
    x.iter().map(|v| (v.to_bits() >> 16) as u16).collect()
}

/// B and its scales, poisoned.
struct B {
    b: Vec<u16>,
    scale: Vec<f32>,
}

impl B {
    fn poisoned(rows: usize, columns: usize) -> Self {
        let scale = f32::from_bits(poison_u32());
        Self { b: vec![u16::from_le_bytes([POISON; 2]); rows * columns], scale: vec![scale; rows] }
    }

    fn row(&mut self, row: usize, values: &[f32], scale: f32) {
        let columns = self.b.len() / self.scale.len();
        let to = &mut self.b[row * columns..][..columns];
        to.fill(0);
        // `half` rounds to nearest even, as the card does.
        to.iter_mut().zip(values).for_each(|(to, &v)| *to = f16::from_f32(v).to_bits());
        self.scale[row] = scale;
    }

    fn expect(&self, b: &[u8], scale: &[u8]) -> Check {
        expect_f32("b_scale", scale, &self.scale)?;
        expect_u16("b", b, &self.b)
    }
}

/// `prepare_rows_bf16`, from x or in place.
pub fn check_bf16(p: Rows, in_place: bool, device: &dyn Device, grid: u32) -> Check {
    let columns = 64 * p.k_units();
    let mut want = B::poisoned(p.max_rows, columns);
    let p = Rows { stride: if in_place { columns } else { p.stride }, ..p };
    let x = to_bf16(&p.x());
    let mut b = poisoned::<u16>(p.max_rows * columns);
    if in_place {
        b = bytes(&x);
        want.b = x.clone();
    }
    for row in p.done() {
        let values = p.values(row);
        let amax = f64::from(f32::from_bits(amax_bits_of(&values)));
        if !amax.is_finite() {
            want.row(row, &[], f32::NAN);
            continue;
        }
        // floor(log2(amax)), exact for an f64.
        let log2 = if amax == 0.0 { 15 } else { (amax.to_bits() >> 52) as i32 - 1023 };
        let power = 2f64.powi(15 - log2);
        // Exact in f64; what an f32 loses of it is far below f16's range, but for its sign.
        let scaled: Vec<f32> = values.iter().map(|&v| (f64::from(v) * power) as f32).collect();
        want.row(row, &scaled, (1.0 / power) as f32);
    }
    let mut scale = poisoned::<f32>(p.max_rows);
    let (x, tokens) = (bytes(&x), p.tokens().map(|t| bytes(&t)));
    let values = &mut [
        if in_place { Value::Null } else { Value::In(&x) },
        Value::Out(&mut b),
        Value::Out(&mut scale),
        optional(tokens.as_ref()),
        Value::In(&(p.rows as u32).to_le_bytes()),
        Value::U32(p.max_rows as u32),
        Value::U32(p.k as u32),
        Value::U32(p.k_units() as u32),
        Value::U32(p.stride as u32),
    ];
    run(device, BF16, grid, columns, values)?;
    want.expect(&b, &scale)
}

/// Where global scales come from; the numbers are the kernels' `mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The row's own.
    Row = 0,
    /// One constant.
    Constant = 1,
    /// One constant per expert.
    PerExpert = 2,
    /// Bits of a maximum.
    Tensor = 3,
    /// The same, the last expert apart.
    TensorShared = 4,
}

/// Every one.
pub const MODES: [Mode; 5] = [Mode::Row, Mode::Constant, Mode::PerExpert, Mode::Tensor, Mode::TensorShared];

/// First rows of five experts, the second and the fourth without rows.
fn offsets(max_rows: usize) -> [usize; 6] {
    [0, max_rows / 4, max_rows / 4, max_rows / 2, max_rows / 2, max_rows]
}

/// One of the two `prepare_rows_nvfp4`; `gather` reads rows of x in another order (bf16 only).
pub fn check_nvfp4(p: Rows, is_f32: bool, gather: bool, mode: Mode, device: &dyn Device, grid: u32) -> Check {
    const EXPERTS: usize = 5;
    let columns = 64 * p.k_units();
    let offsets = offsets(p.max_rows);
    // Small enough for some blocks to saturate.
    let scales: Vec<f32> = match mode {
        Mode::Row => Vec::new(),
        Mode::Constant => vec![0.0003],
        Mode::PerExpert => vec![0.001, 1e9, 0.0003, 1e9, 0.0001],
        Mode::Tensor => vec![3.7],
        Mode::TensorShared => vec![3.7, 0.9],
    };
    let from_row = |row: usize| if gather { (row * 7 + 3) % p.max_rows } else { row };
    let mut want = B::poisoned(p.max_rows, columns);
    let mut saturated = 100u32;
    for row in p.done() {
        // Rows past the count are NaN in x.
        let from = from_row(row);
        let values = if from < p.rows { p.values(from) } else { vec![f32::NAN; p.k] };
        let amax = amax_bits_of(&values);
        let expert = (0..EXPERTS).rfind(|&e| offsets[e] <= row && offsets[e] < offsets[e + 1]).unwrap_or(0);
        let s2 = match mode {
            Mode::Row => tensor_scale_from_amax_bits(amax),
            Mode::Constant => row_scale(scales[0], amax),
            Mode::PerExpert => row_scale(scales[expert], amax),
            Mode::Tensor => row_scale(scales[0] / 2688.0, amax),
            Mode::TensorShared => row_scale(scales[usize::from(expert == EXPERTS - 1)] / 2688.0, amax),
        };
        let mut out = Vec::new();
        for block in values.chunks_exact(BLOCK) {
            let block: [f32; BLOCK] = std::array::from_fn(|i| block[i]);
            let amax = amax_bits_of(&block);
            let counts = matches!(mode, Mode::Constant | Mode::PerExpert) && amax != 0;
            saturated += u32::from(counts && f32::from_bits(amax) / (6.0 * s2) > 448.0);
            let q = quantize_block(&block, s2);
            out.extend((0..BLOCK).map(|i| dequantize_unscaled((q.codes >> (4 * i)) as u8 & 15, q.scale)));
        }
        want.row(row, &out, s2);
    }
    let x = p.x();
    let x = if is_f32 { bytes(&x) } else { bytes(&to_bf16(&x)) };
    let tokens = if gather {
        let of = |row: usize| if p.mask && row % 3 == 1 { NONE } else { from_row(row) as u32 };
        Some(bytes(&(0..p.max_rows).map(of).collect::<Vec<_>>()))
    } else {
        p.tokens().map(|t| bytes(&t))
    };
    let offsets = bytes(&offsets.map(|o| o as u32));
    let scales = (mode != Mode::Row).then(|| bytes(&scales));
    let (mut b, mut scale) = (poisoned::<u16>(p.max_rows * columns), poisoned::<f32>(p.max_rows));
    let mut count = bytes(&[100u32]);
    let values = &mut [
        Value::In(&x),
        Value::Out(&mut b),
        Value::Out(&mut scale),
        optional(tokens.as_ref()),
        Value::In(&(p.rows as u32).to_le_bytes()),
        if matches!(mode, Mode::PerExpert | Mode::TensorShared) { Value::In(&offsets) } else { Value::Null },
        optional(scales.as_ref()),
        Value::Out(&mut count),
        Value::U32(p.max_rows as u32),
        Value::U32(p.k as u32),
        Value::U32(p.k_units() as u32),
        Value::U32(p.stride as u32),
        Value::U32(EXPERTS as u32),
        Value::U32(mode as u32),
    ];
    run(device, if is_f32 { NVFP4_F32 } else { NVFP4_BF16 }, grid, columns, values)?;
    want.expect(&b, &scale)?;
    expect_u32("saturated", &count, &[saturated])
}

/// One of the two `rows_amax`.
pub fn check_amax(p: Rows, is_f32: bool, split: Option<usize>, device: &dyn Device, grid: u32) -> Check {
    let mut row_amax = vec![f32::from_bits(poison_u32()); p.max_rows];
    // One that nothing reaches, one that something may.
    let start = if p.rows.is_multiple_of(2) { 0 } else { 1f32.to_bits() };
    let mut amax = [start; 2];
    for row in p.done() {
        let bits = amax_bits_of(&p.values(row));
        row_amax[row] = if bits >= NON_FINITE_BITS { f32::NAN } else { f32::from_bits(bits) };
        if bits < NON_FINITE_BITS {
            let part = usize::from(split.is_some_and(|split| row >= split));
            amax[part] = amax[part].max(bits);
        }
    }
    let x = p.x();
    let x = if is_f32 { bytes(&x) } else { bytes(&to_bf16(&x)) };
    let tokens = p.tokens().map(|t| bytes(&t));
    let split = split.map(|s| bytes(&[s as u32]));
    let (mut got_rows, mut got) = (poisoned::<f32>(p.max_rows), bytes(&[start; 2]));
    let has_rows = grid != 2;
    let values = &mut [
        Value::In(&x),
        if has_rows { Value::Out(&mut got_rows) } else { Value::Null },
        Value::Out(&mut got),
        optional(tokens.as_ref()),
        Value::In(&(p.rows as u32).to_le_bytes()),
        optional(split.as_ref()),
        Value::U32(p.max_rows as u32),
        Value::U32(p.k as u32),
        Value::U32(p.stride as u32),
    ];
    run(device, if is_f32 { AMAX_F32 } else { AMAX_BF16 }, grid, p.k, values)?;
    expect_u32("amax", &got, &amax)?;
    if has_rows { expect_f32("row_amax", &got_rows, &row_amax) } else { Ok(()) }
}

/// Sets of rows: shapes, then gaps and masks, then counts.
fn problems(scale: Scale) -> Vec<Rows> {
    let rows: &[usize] = scale.pick(&[7], &[0, 1, 11], &[0, 1, 2, 7, 127, 128, 129, 1000, 8192]);
    let ks: &[usize] = scale.pick(
        &[336, 1040],
        &[16, 336, 2880],
        &[16, 512, 2048, 2304, 2880, 3072, 4096, 5120, 7168, 16384],
    );
    let mut all = Vec::new();
    for (i, &n) in rows.iter().enumerate() {
        for (j, &k) in ks.iter().enumerate() {
            // The largest are long on the host.
            if n * k <= 1 << 24 || k == 7168 {
                all.push(Rows { mask: (i + j) % 3 == 2, ..Rows::new(n, k, Data::Mixed) });
            }
        }
    }
    for data in Data::PURE {
        all.push(Rows::new(scale.pick(9, 40, 260), scale.pick(80, 256, 1024), data));
    }
    for (max_rows, rows) in [(20, 0), (20, 1), (20, 19), (20, 20), (20, 300)] {
        all.push(Rows {
            max_rows,
            mask: true,
            more_units: 1,
            stride: 344,
            ..Rows::new(rows, 336, Data::Mixed)
        });
    }
    all
}

/// Every case.
pub fn cases(scale: Scale) -> Vec<Case> {
    let grids: &[u32] = scale.pick(&[2, 3], &[1, 2, 7, 33], &[1, 2, 7, 264, 1001, 5000]);
    let all = problems(scale);
    let grid = |i: usize, p: &Rows| {
        let grid = grids[i % grids.len()];
        if p.rows > 500 { grid.max(132) } else { grid }
    };
    let mut cases = Vec::new();
    for in_place in [false, true] {
        let mut case = Case::new(BF16, if in_place { "in_place" } else { "copy" });
        for (i, &p) in all.iter().enumerate() {
            let grid = grid(i, &p);
            case.part(p, p.max_rows * p.k, move |device| check_bf16(p, in_place, device, grid));
        }
        cases.push(case);
    }
    for mode in MODES {
        for (is_f32, gather) in [(false, false), (false, true), (true, false)] {
            let kernel = if is_f32 { NVFP4_F32 } else { NVFP4_BF16 };
            let gathered = if gather { "/gather" } else { "" };
            let mut case = Case::new(kernel, format!("{mode:?}{gathered}").to_lowercase());
            for (i, &p) in all.iter().enumerate() {
                // All shapes for one mode, every other one for the others.
                let most = matches!(mode, Mode::Row) || i % 2 == mode as usize % 2;
                if !most || (gather && p.max_rows == 0) {
                    continue;
                }
                let grid = grid(i, &p);
                let body = move |device: &dyn Device| check_nvfp4(p, is_f32, gather, mode, device, grid);
                case.part(p, p.max_rows * p.k, body);
            }
            cases.push(case);
        }
    }
    for is_f32 in [false, true] {
        for has_split in [false, true] {
            let kernel = if is_f32 { AMAX_F32 } else { AMAX_BF16 };
            let mut case = Case::new(kernel, if has_split { "split" } else { "all" });
            for (i, &p) in all.iter().enumerate() {
                let grid = grid(i, &p);
                let split = has_split.then_some(p.rows / 3);
                case.part(p, p.max_rows * p.k, move |device| check_amax(p, is_f32, split, device, grid));
            }
            cases.push(case);
        }
    }
    cases
}
