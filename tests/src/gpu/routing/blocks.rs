//! Cases of the kernels that make operands of the block-scaled MMA from rows: `quantise_blocks_*`.

use kernels::launch::Launch;
use kernels::{quantise_blocks_bf16, quantise_blocks_f32};
use nvfp4::BLOCK;
use nvfp4::quantize::{amax_bits_of, quantize_block, row_scale, tensor_scale_from_amax_bits};

use super::super::data::{Data, hash};
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

/// Where rows are.
#[derive(Clone, Copy, Debug)]
enum Segments {
    /// One segment: a row per token.
    One {
        /// Tokens, and rows that the buffers hold: a multiple of 128.
        max_rows: usize,
        /// Count on the device.
        rows: usize,
    },
    /// Segments of experts.
    Experts {
        /// Tokens.
        tokens: usize,
        /// Slots of a token, some of them without a row.
        top_k: usize,
        /// Experts; those with odd numbers above 1 get nothing but the tail.
        experts: usize,
        /// Whether one more takes every token.
        shared: bool,
    },
}

/// A row that is there.
#[derive(Clone, Copy)]
struct Row {
    row: usize,
    expert: usize,
    /// None for padding.
    token: Option<usize>,
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

/// Where everything is, computed from [`Segments`].
struct Plan {
    /// Rows that the buffers hold.
    max_rows: usize,
    /// Tokens that there are.
    tokens: usize,
    /// Rows of each expert, and their first.
    counts: Vec<u32>,
    offsets: Vec<u32>,
    /// Row of each slot; empty for one segment.
    slot_row: Vec<u32>,
    rows: Vec<Row>,
}

impl Segments {
    fn plan(self) -> Plan {
        let (max_rows, ids, tokens, top_k, experts, shared) = match self {
            Segments::One { max_rows, rows } => (Some(max_rows), Vec::new(), rows.min(max_rows), 0, 0, true),
            Segments::Experts { tokens, top_k, experts, shared } => {
                // Skewed, and every fifth slot has no row.
                let id = |slot: usize| {
                    (slot % 5 != 3).then(|| hash(slot as u64) as usize % experts / 2 * 2 % experts)
                };
                (None, (0..tokens * top_k).map(id).collect(), tokens, top_k, experts, shared)
            }
        };
        let all = experts + usize::from(shared);
        let mut counts = vec![0; all];
        let mut members = vec![Vec::new(); all];
        for (slot, id) in ids.iter().enumerate() {
            let Some(e) = *id else { continue };
            members[e].push((slot, slot / top_k));
        }
        if shared {
            members[experts] = (0..tokens).map(|token| (usize::MAX, token)).collect();
        }
        let (mut offsets, mut rows, mut slot_row) = (vec![0u32], Vec::new(), vec![NONE; ids.len()]);
        for (expert, list) in members.iter().enumerate() {
            let first = offsets[expert] as usize;
            counts[expert] = list.len() as u32;
            for (i, &(slot, token)) in list.iter().enumerate() {
                if slot != usize::MAX {
                    slot_row[slot] = (first + i) as u32;
                }
                rows.push(Row { row: first + i, expert, token: Some(token) });
            }
            let padding = list.len()..list.len().next_multiple_of(GROUP);
            rows.extend(padding.map(|i| Row { row: first + i, expert, token: None }));
            offsets.push((first + list.len().next_multiple_of(BLOCK_ROWS)) as u32);
        }
        // And a block that nothing touches.
        let max_rows = max_rows.unwrap_or(offsets[all] as usize + BLOCK_ROWS);
        Plan { max_rows, tokens, counts, offsets, slot_row, rows }
    }
}

impl Problem {
    fn steps(&self) -> usize {
        self.k.div_ceil(64) + self.more_steps
    }

    fn values(&self, row: usize) -> Vec<f32> {
        let mut values = vec![0.0; self.k];
        self.data.fill(row, 5, &mut values);
        values
    }

    /// Scales of the mode: small enough for some blocks to saturate, those of experts different.
    fn scales(&self, experts: usize) -> Vec<f32> {
        match self.mode {
            Mode::Row => Vec::new(),
            Mode::Constant => vec![0.0003],
            // Neighbours that agree, too.
            Mode::PerExpert => (0..experts).map(|e| 0.001 / (1 + e / 2) as f32).collect(),
            Mode::Tensor => vec![3.7],
            Mode::TensorShared => vec![3.7, 0.9],
        }
    }

    /// The scale of a row with a maximum.
    fn scale(&self, scales: &[f32], row: Row, experts: usize, amax: u32) -> f32 {
        match self.mode {
            Mode::Row => tensor_scale_from_amax_bits(amax),
            Mode::Constant => row_scale(scales[0], amax),
            Mode::PerExpert => row_scale(scales[row.expert], amax),
            Mode::Tensor => row_scale(scales[0] / 2688.0, amax),
            Mode::TensorShared => row_scale(scales[usize::from(row.expert == experts - 1)] / 2688.0, amax),
        }
    }

    /// Blocks of a row that a constant scale saturates.
    fn saturated(&self, values: &[f32], s2: f32) -> u32 {
        let over = |block: &[f32]| {
            let amax = amax_bits_of(block);
            u32::from(amax != 0 && f32::from_bits(amax) / (6.0 * s2) > 448.0)
        };
        values.chunks_exact(BLOCK).map(over).sum()
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

/// `quantise_blocks_f32` (rows where they are) or `quantise_blocks_bf16` (rows of tokens).
fn check(p: Problem, is_f32: bool, device: &dyn Device, grid: u32) -> Check {
    let plan = p.segments.plan();
    let (max_rows, steps, stride, experts) = (plan.max_rows, p.steps(), p.k + p.gap, plan.counts.len());
    let scales = p.scales(experts);
    let next: Vec<f32> = (0..experts).map(|e| 0.5 + e as f32).collect();
    let x_rows = if is_f32 { max_rows } else { plan.tokens.max(1) };
    let mut x = vec![f32::NAN; x_rows * stride];
    let mut want = Want::poisoned(max_rows, steps);
    let mut saturated = 100u32;
    if !is_f32 {
        for token in 0..plan.tokens {
            let values = p.values(token);
            x[token * stride..][..p.k].copy_from_slice(&values);
            if p.mode == Mode::Constant {
                // Of each token once.
                saturated += p.saturated(&values, row_scale(scales[0], amax_bits_of(&values)));
            }
        }
    }
    for &row in &plan.rows {
        want.next[row.row] = next[row.expert];
        (0..4 * steps).for_each(|g| want.group(row.row, g, 0, 0));
        want.scale[row.row] = 0.0;
        let Some(token) = row.token else { continue };
        // f32 rows have data of their own.
        let values = p.values(if is_f32 { row.row } else { token });
        if is_f32 {
            x[row.row * stride..][..p.k].copy_from_slice(&values);
        }
        let s2 = p.scale(&scales, row, experts, amax_bits_of(&values));
        want.scale[row.row] = s2;
        if p.mode == Mode::PerExpert || (is_f32 && p.mode == Mode::Constant) {
            saturated += p.saturated(&values, s2);
        }
        for (g, block) in values.chunks_exact(BLOCK).enumerate() {
            let q = quantize_block(&std::array::from_fn(|i| block[i]), s2);
            want.group(row.row, g, q.codes, q.scale);
        }
    }
    let x = if is_f32 { bytes(&x) } else { bytes(&to_bf16(&x)) };
    let is_one = plan.slot_row.is_empty() && matches!(p.segments, Segments::One { .. });
    let mut row_token = vec![NONE; max_rows];
    plan.rows.iter().for_each(|row| row_token[row.row] = row.token.map_or(NONE, |t| t as u32));
    let index = bytes(if is_f32 { &row_token } else { &plan.slot_row });
    let index = if is_one { Value::Null } else { Value::In(&index) };
    let count = match p.segments {
        Segments::One { rows, .. } => rows as u32,
        Segments::Experts { .. } if is_f32 => plan.offsets[experts],
        Segments::Experts { tokens, .. } => tokens as u32,
    };
    let (count, counts, offsets) = (bytes(&[count]), bytes(&plan.counts), bytes(&plan.offsets));
    let has_next = p.next && !is_f32;
    let scales = (p.mode != Mode::Row).then(|| bytes(&scales));
    let next = bytes(&next);
    let (mut codes, mut block_scales) = (poisoned::<u8>(want.codes.len()), poisoned::<u8>(want.scales.len()));
    let (mut scale, mut next_scale) = (poisoned::<f32>(max_rows), poisoned::<f32>(max_rows));
    let mut counter = bytes(&[100u32]);
    let mut values = vec![
        Value::In(&x),
        Value::Out(&mut codes),
        Value::Out(&mut block_scales),
        Value::Out(&mut scale),
        index,
        Value::In(&count),
    ];
    if is_f32 {
        let needs = matches!(p.mode, Mode::PerExpert | Mode::TensorShared);
        values.push(if needs { Value::In(&offsets) } else { Value::Null });
    } else {
        // One segment without offsets only where no scale goes by them.
        let needs = !is_one || has_next || matches!(p.mode, Mode::PerExpert | Mode::TensorShared);
        values.extend([Value::In(&counts), if needs { Value::In(&offsets) } else { Value::Null }]);
    }
    values.extend([optional(scales.as_ref()), Value::Out(&mut counter)]);
    let (mut top_k, mut shared) = (1, false);
    if !is_f32 {
        values.push(if has_next { Value::Out(&mut next_scale) } else { Value::Null });
        values.push(if has_next { Value::In(&next) } else { Value::Null });
        if let Segments::Experts { top_k: k, shared: s, .. } = p.segments {
            (top_k, shared) = (k, s);
        }
    }
    let rows = if is_f32 || is_one { max_rows } else { plan.tokens };
    values.extend([rows, p.k, steps, stride].map(|value| Value::U32(value as u32)));
    if !is_f32 {
        values.extend([Value::U32(top_k as u32), Value::U32(u32::from(shared))]);
    }
    values.extend([experts, p.mode as usize].map(|value| Value::U32(value as u32)));
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
    let experts = |tokens, top_k, experts, shared| Segments::Experts { tokens, top_k, experts, shared };
    let experts: Vec<Segments> = scale.pick(
        vec![experts(17, 2, 3, true)],
        vec![
            experts(20, 3, 4, true),
            experts(16, 1, 2, false),
            experts(0, 2, 2, true),
            experts(140, 1, 1, false),
        ],
        vec![
            experts(20, 3, 4, true),
            experts(1, 6, 9, false),
            experts(0, 2, 2, true),
            experts(300, 2, 2, true),
            experts(1000, 6, 48, true),
        ],
    );
    // More than one warp.
    let ks: &[usize] = scale.pick(&[1040], &[16, 336, 1040], &[16, 512, 2304, 2880, 3072, 4096, 7168, 16384]);
    let mut all = Vec::new();
    for (i, &segments) in experts.iter().enumerate() {
        for (j, &k) in ks.iter().enumerate() {
            let (more_steps, gap) = if (i + j) % 2 == 0 { (1, 8) } else { (0, 0) };
            all.push(Problem { more_steps, gap, next: j % 2 == 0, ..of(segments, k) });
        }
    }
    // Both slots of a thread.
    let long: &[usize] = scale.pick(&[], &[16384], &[]);
    all.extend(long.iter().map(|&k| of(Segments::One { max_rows: 128, rows: 2 }, k)));
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
                    let max_rows = p.segments.plan().max_rows;
                    let grid = if max_rows > 2000 { grid.max(132) } else { grid };
                    let p = Problem { mode, ..p };
                    case.part(p, max_rows * p.k / 4, move |device| check(p, is_f32, device, grid));
                }
            }
            cases.push(case);
        }
    }
    cases
}
