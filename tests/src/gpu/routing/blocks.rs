//! Cases of the kernels that make operands of the block-scaled MMA from rows: `quantise_blocks_*`.

use kernels::launch::Launch;
use kernels::{quantise_blocks_bf16, quantise_blocks_f32};
use nvfp4::BLOCK;
use nvfp4::quantize::{amax_bits_of, quantize_block, row_scale, tensor_scale_from_amax_bits};

use super::super::data::Data;
use super::super::outputs::POISON;
use super::super::{Case, Check, Device, Value};
use super::prepare::{MODES, Mode, NONE, to_bf16};
use super::{Scale, bytes, expect_f32, expect_u8, expect_u32, optional, poison_u32, poisoned, run};

/// bf16 rows.
pub static BF16: &Launch = &quantise_blocks_bf16::LAUNCH;
/// f32 rows.
pub static F32: &Launch = &quantise_blocks_f32::LAUNCH;

/// Rows of a block; bytes of its codes and of its scales in a step of 64 columns.
const BLOCK_ROWS: usize = 128;
const CODES: usize = 4096;
const SCALES: usize = 512;
/// Rows that a segment is padded to.
const GROUP: usize = 16;

/// Where rows come from.
#[derive(Clone, Copy, Debug)]
enum Segments {
    /// One segment, rows as they are.
    One {
        /// Rows that the buffers hold: a multiple of 128.
        max_rows: usize,
        /// Row count on the device.
        rows: usize,
    },
    /// Rows of experts, from rows of x in some order.
    Experts(&'static [usize]),
}

/// What is quantised.
#[derive(Clone, Copy, Debug)]
struct Problem {
    segments: Segments,
    /// Elements of a row.
    k: usize,
    /// Steps of 64 columns more than needed.
    more_steps: usize,
    /// Elements from row to row beyond `k`; NaN.
    gap: usize,
    data: Data,
    mode: Mode,
    /// Whether the constants of the next product are asked for (bf16 only).
    next: bool,
}

impl Problem {
    fn steps(&self) -> usize {
        self.k.div_ceil(64) + self.more_steps
    }

    /// Rows that the buffers hold.
    fn max_rows(&self) -> usize {
        match self.segments {
            Segments::One { max_rows, .. } => max_rows,
            // And a block that nothing touches.
            Segments::Experts(counts) => self.offsets()[counts.len()] + BLOCK_ROWS,
        }
    }

    /// Rows of x.
    fn tokens(&self) -> usize {
        match self.segments {
            Segments::One { max_rows, rows } => rows.min(max_rows),
            Segments::Experts(counts) => counts.iter().copied().max().unwrap_or(0) + 1,
        }
    }

    /// First row of each expert, and the end.
    fn offsets(&self) -> Vec<usize> {
        let counts = match self.segments {
            Segments::One { rows, .. } => &[rows][..],
            Segments::Experts(counts) => counts,
        };
        let mut sum = 0;
        let mut offsets = vec![0];
        for count in counts {
            sum += count.next_multiple_of(BLOCK_ROWS);
            offsets.push(sum);
        }
        offsets
    }

    /// Row, expert and row of x of each row; no row of x for padding up to a multiple of [`GROUP`].
    fn rows(&self, is_f32: bool) -> Vec<(usize, usize, Option<usize>)> {
        match self.segments {
            Segments::One { max_rows, rows } => {
                let rows = rows.min(max_rows);
                (0..rows.next_multiple_of(GROUP)).map(|row| (row, 0, (row < rows).then_some(row))).collect()
            }
            Segments::Experts(counts) => {
                let (offsets, tokens) = (self.offsets(), self.tokens());
                let of = |(e, &count): (usize, &usize)| {
                    let first = offsets[e];
                    (0..count.next_multiple_of(GROUP)).map(move |i| {
                        // f32 rows are where the rows are.
                        let token = if is_f32 { first + i } else { (7 * i + e) % tokens };
                        (first + i, e, (i < count).then_some(token))
                    })
                };
                counts.iter().enumerate().flat_map(of).collect()
            }
        }
    }
}

/// What must be there.
struct Want {
    steps: usize,
    codes: Vec<u8>,
    scales: Vec<u8>,
    scale: Vec<f32>,
    next: Vec<f32>,
}

impl Want {
    fn poisoned(max_rows: usize, steps: usize) -> Self {
        let units = max_rows / BLOCK_ROWS * steps;
        let f32s = vec![f32::from_bits(poison_u32()); max_rows];
        Self {
            steps,
            codes: vec![POISON; units * CODES],
            scales: vec![POISON; units * SCALES],
            scale: f32s.clone(),
            next: f32s,
        }
    }

    /// Group `g` of a row, by the formulas of the layout: 8 rows x 16 bytes, then the other 16 bytes of these rows; scales
    /// in the 32_4_4 layout.
    fn group(&mut self, row: usize, g: usize, codes: u64, scale: u8) {
        let (unit, r) = (row / BLOCK_ROWS * self.steps + g / 4, row % BLOCK_ROWS);
        for (i, byte) in codes.to_le_bytes().into_iter().enumerate() {
            let at = g % 4 * 8 + i;
            self.codes[unit * CODES + r / 8 * 256 + at / 16 * 128 + r % 8 * 16 + at % 16] = byte;
        }
        self.scales[unit * SCALES + r % 32 * 16 + r / 32 * 4 + g % 4] = scale;
    }
}

fn check(p: Problem, is_f32: bool, device: &dyn Device, grid: u32) -> Check {
    let (max_rows, steps, stride) = (p.max_rows(), p.steps(), p.k + p.gap);
    let rows = p.rows(is_f32);
    let offsets = p.offsets();
    let experts = offsets.len() - 1;
    let x_rows = if is_f32 { max_rows } else { p.tokens().max(1) };
    let values = |row: usize| {
        let mut values = vec![0.0; p.k];
        p.data.fill(row, 5, &mut values);
        values
    };
    // Small enough for some blocks to saturate; those of experts differ.
    let scales: Vec<f32> = match p.mode {
        Mode::Row => Vec::new(),
        Mode::Constant => vec![0.0003],
        Mode::PerExpert => (0..experts).map(|e| 0.001 / (1 + e) as f32).collect(),
        Mode::Tensor => vec![3.7],
        Mode::TensorShared => vec![3.7, 0.9],
    };
    let next: Vec<f32> = (0..experts).map(|e| 0.5 + e as f32).collect();
    let mut x = vec![f32::NAN; x_rows * stride];
    let mut want = Want::poisoned(max_rows, steps);
    let mut saturated = 100u32;
    for &(row, expert, from) in &rows {
        want.next[row] = next[expert];
        let Some(from) = from else {
            (0..4 * steps).for_each(|g| want.group(row, g, 0, 0));
            want.scale[row] = 0.0;
            continue;
        };
        let values = values(from);
        x[from * stride..][..p.k].copy_from_slice(&values);
        let amax = amax_bits_of(&values);
        let s2 = match p.mode {
            Mode::Row => tensor_scale_from_amax_bits(amax),
            Mode::Constant => row_scale(scales[0], amax),
            Mode::PerExpert => row_scale(scales[expert], amax),
            Mode::Tensor => row_scale(scales[0] / 2688.0, amax),
            Mode::TensorShared => row_scale(scales[usize::from(expert == experts - 1)] / 2688.0, amax),
        };
        want.scale[row] = s2;
        (0..4 * steps).for_each(|g| want.group(row, g, 0, 0));
        for (g, block) in values.chunks_exact(BLOCK).enumerate() {
            let block: [f32; BLOCK] = std::array::from_fn(|i| block[i]);
            let amax = amax_bits_of(&block);
            let counts = matches!(p.mode, Mode::Constant | Mode::PerExpert) && amax != 0;
            saturated += u32::from(counts && f32::from_bits(amax) / (6.0 * s2) > 448.0);
            let q = quantize_block(&block, s2);
            want.group(row, g, q.codes, q.scale);
        }
    }
    let x = if is_f32 { bytes(&x) } else { bytes(&to_bf16(&x)) };
    let (tokens, count) = match p.segments {
        Segments::One { rows, .. } => (None, rows),
        Segments::Experts(_) => {
            let mut tokens = vec![NONE; max_rows];
            rows.iter().for_each(|&(row, _, from)| tokens[row] = from.map_or(NONE, |t| t as u32));
            (Some(bytes(&tokens)), offsets[experts])
        }
    };
    let has_next = p.next && !is_f32;
    let offsets = bytes(&offsets.iter().map(|&o| o as u32).collect::<Vec<_>>());
    let needs_offsets = has_next || matches!(p.mode, Mode::PerExpert | Mode::TensorShared);
    let scales = (p.mode != Mode::Row).then(|| bytes(&scales));
    let next = bytes(&next);
    let (mut codes, mut block_scales) = (poisoned::<u8>(want.codes.len()), poisoned::<u8>(want.scales.len()));
    let (mut scale, mut next_scale) = (poisoned::<f32>(max_rows), poisoned::<f32>(max_rows));
    let mut counter = bytes(&[100u32]);
    let count = (count as u32).to_le_bytes();
    let mut values = vec![
        Value::In(&x),
        Value::Out(&mut codes),
        Value::Out(&mut block_scales),
        Value::Out(&mut scale),
        optional(tokens.as_ref()),
        Value::In(&count),
        if needs_offsets { Value::In(&offsets) } else { Value::Null },
        optional(scales.as_ref()),
        Value::Out(&mut counter),
    ];
    if !is_f32 {
        values.push(if has_next { Value::Out(&mut next_scale) } else { Value::Null });
        values.push(if has_next { Value::In(&next) } else { Value::Null });
    }
    values.extend(
        [max_rows, p.k, steps, stride, experts, p.mode as usize].map(|value| Value::U32(value as u32)),
    );
    run(device, if is_f32 { F32 } else { BF16 }, grid, 64 * steps, &mut values)?;
    expect_f32("b_scale", &scale, &want.scale)?;
    expect_u8("b_codes", &codes, &want.codes)?;
    expect_u8("b_scales", &block_scales, &want.scales)?;
    if has_next {
        expect_f32("next_scale", &next_scale, &want.next)?;
    }
    expect_u32("saturated", &counter, &[saturated])
}

/// Rows, widths and gaps.
fn problems(scale: Scale) -> Vec<Problem> {
    let of = |segments, k| Problem {
        segments,
        k,
        more_steps: 0,
        gap: 0,
        data: Data::Mixed,
        mode: Mode::Row,
        next: false,
    };
    let experts: &[&[usize]] = scale.pick(
        &[&[3, 0, 17]],
        &[&[3, 0, 16, 1], &[0, 0], &[129, 17]],
        &[&[3, 0, 16, 1], &[0, 0], &[129, 300, 0, 64], &[1, 1, 1, 1, 1, 1, 0, 6], &[4000, 0, 9]],
    );
    // More than one warp.
    let ks: &[usize] = scale.pick(&[1040], &[16, 336, 1040], &[16, 512, 2304, 2880, 3072, 4096, 7168, 16384]);
    let mut all = Vec::new();
    for (i, &counts) in experts.iter().enumerate() {
        for (j, &k) in ks.iter().enumerate() {
            let (more_steps, gap) = if (i + j) % 2 == 0 { (1, 8) } else { (0, 0) };
            all.push(Problem { more_steps, gap, next: j % 2 == 0, ..of(Segments::Experts(counts), k) });
        }
    }
    // Both slots of a thread.
    let long: &[usize] = scale.pick(&[], &[16384], &[]);
    all.extend(long.iter().map(|&k| of(Segments::Experts(&[2]), k)));
    let counts: &[(usize, usize)] = scale.pick(
        &[(128, 2)],
        &[(128, 0), (128, 1), (256, 130), (128, 5000)],
        &[(128, 0), (128, 1), (128, 16), (256, 130), (128, 128), (128, 5000)],
    );
    all.extend(counts.iter().map(|&(max_rows, rows)| of(Segments::One { max_rows, rows }, 80)));
    if scale != Scale::Few {
        let rows: usize = scale.pick(9, 40, 260);
        let pure = Data::PURE.iter().map(|&data| {
            let segments = Segments::One { max_rows: rows.next_multiple_of(BLOCK_ROWS), rows };
            Problem { data, ..of(segments, scale.pick(80, 256, 1024)) }
        });
        all.extend(pure);
    }
    all
}

/// Every case.
pub fn cases(scale: Scale) -> Vec<Case> {
    let grids: &[u32] = scale.pick(&[3], &[1, 2, 7, 33], &[1, 2, 7, 264, 1001, 5000]);
    let all = problems(scale);
    let mut cases = Vec::new();
    for mode in MODES {
        for is_f32 in [false, true] {
            let mut case = Case::new(if is_f32 { F32 } else { BF16 }, format!("{mode:?}").to_lowercase());
            for (i, &p) in all.iter().enumerate() {
                // All shapes for one mode, every other one for the others.
                if mode == Mode::Row || i % 2 == mode as usize % 2 || all.len() < 4 {
                    let grid = grids[i % grids.len()];
                    let grid = if p.max_rows() > 2000 { grid.max(132) } else { grid };
                    let p = Problem { mode, ..p };
                    case.part(p, p.max_rows() * p.k / 4, move |device| check(p, is_f32, device, grid));
                }
            }
            cases.push(case);
        }
    }
    cases
}
