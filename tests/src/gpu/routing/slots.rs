//! Cases of `sort_slots`, and of `count_slots` with `place_slots`, whose results are the same.

use kernels::launch::Launch;
use kernels::{count_slots, place_slots, sort_slots};
use nvfp4::offsets::max_padded_rows;

use super::super::data::{hash, uniform};
use super::super::{Case, Check, Device, Value};
use super::{Scale, bytes, expect_u32, optional, poison_u32, poisoned, run};

/// The form of one launch.
pub static SORT: &Launch = &sort_slots::LAUNCH;
/// The first of the form of two.
pub static COUNT: &Launch = &count_slots::LAUNCH;
/// The second.
pub static PLACE: &Launch = &place_slots::LAUNCH;

const NONE: u32 = u32::MAX;

/// Which experts the slots name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ids {
    /// Any of them.
    Uniform,
    /// Half of the slots to the first local expert, a quarter to the second, ...
    Skewed,
    /// All to the last local expert.
    One,
    /// Every third expert gets none.
    Gaps,
    /// A fifth below 0, above all experts, or extreme.
    Invalid,
    /// All of them invalid or foreign.
    Nobody,
    /// All slots of a token to one expert.
    Duplicates,
}

const KINDS: [Ids; 7] =
    [Ids::Uniform, Ids::Skewed, Ids::One, Ids::Gaps, Ids::Invalid, Ids::Nobody, Ids::Duplicates];

/// One set of inputs.
#[derive(Clone, Copy, Debug)]
pub struct Problem {
    /// Tokens that the buffers hold.
    pub max_tokens: usize,
    /// Token count on the device.
    pub tokens: usize,
    /// Slots of a token.
    pub top_k: usize,
    /// Experts of the model.
    pub experts: usize,
    /// First local one.
    pub first: usize,
    /// Local ones.
    pub local: usize,
    /// A shared expert behind them.
    pub shared: bool,
    /// Rows of a tile.
    pub tile: usize,
    /// Which experts.
    pub ids: Ids,
    /// Every fifth token is not finite.
    pub non_finite: bool,
}

/// The results.
#[derive(Default)]
struct Plan {
    counts: Vec<u32>,
    offsets: Vec<u32>,
    row_token: Vec<u32>,
    slot_row: Vec<u32>,
    stats: Vec<u32>,
}

impl Problem {
    /// Ids of all slots that the buffer holds.
    pub fn topk_ids(&self) -> Vec<i32> {
        let id = |slot: usize| {
            let h = hash(slot as u64);
            let any = (h % self.experts as u64) as i32;
            let local = |i: usize| (self.first + i.min(self.local.saturating_sub(1))) as i32;
            match self.ids {
                Ids::Uniform => any,
                Ids::Skewed => local((h | 1 << 40).trailing_zeros() as usize),
                Ids::One => local(self.local),
                Ids::Gaps => {
                    if any % 3 == 0 {
                        any
                    } else {
                        (any + 1) % self.experts as i32
                    }
                }
                Ids::Invalid => match h % 25 {
                    0 => -1,
                    1 => self.experts as i32,
                    2 => i32::MIN,
                    3 => i32::MAX,
                    4 => -(any + 1),
                    _ => any,
                },
                Ids::Nobody => {
                    if self.first > 0 && h.is_multiple_of(2) {
                        any % self.first as i32
                    } else {
                        -7
                    }
                }
                Ids::Duplicates => (hash((slot / self.top_k) as u64) % self.experts as u64) as i32,
            }
        };
        (0..self.max_tokens * self.top_k).map(id).collect()
    }

    /// A scale per token, NaN for one that is not finite.
    fn b_scale(&self) -> Option<Vec<f32>> {
        let of = |t: usize| if t % 5 == 3 { f32::NAN } else { uniform(t as u64) };
        self.non_finite.then(|| (0..self.max_tokens).map(of).collect())
    }

    /// Rows that any routing can need.
    pub fn max_rows(&self) -> usize {
        let shared = if self.shared { self.max_tokens.next_multiple_of(self.tile) } else { 0 };
        max_padded_rows(self.max_tokens * self.top_k, self.local, self.tile) + shared
    }

    fn reference(&self) -> Plan {
        let tokens = self.tokens.min(self.max_tokens);
        let (ids, b_scale) = (self.topk_ids(), self.b_scale());
        let is_finite = |t: usize| b_scale.as_ref().is_none_or(|s| !s[t].is_nan());
        let mut of_expert = vec![Vec::new(); self.local];
        let mut stats = [10u32, 20, 30, 40, 50, 60, 70, 80];
        for (slot, &id) in ids.iter().enumerate().take(tokens * self.top_k) {
            let id = i64::from(id);
            if id < 0 || id >= self.experts as i64 {
                stats[0] += 1;
            } else if !(self.first..self.first + self.local).contains(&(id as usize)) {
                stats[1] += 1;
            } else if is_finite(slot / self.top_k) {
                of_expert[id as usize - self.first].push(slot);
            }
        }
        stats[2] += (0..tokens).filter(|&t| !is_finite(t)).count() as u32;
        let mut plan = Plan {
            row_token: vec![poison_u32(); self.max_rows()],
            slot_row: vec![poison_u32(); self.max_tokens * self.top_k],
            stats: stats.to_vec(),
            ..Plan::default()
        };
        plan.slot_row[..tokens * self.top_k].fill(NONE);
        let mut row = 0;
        for slots in &of_expert {
            plan.counts.push(slots.len() as u32);
            plan.offsets.push(row as u32);
            let end = row + slots.len().next_multiple_of(self.tile);
            plan.row_token[row..end].fill(NONE);
            for (i, &slot) in slots.iter().enumerate() {
                plan.row_token[row + i] = (slot / self.top_k) as u32;
                plan.slot_row[slot] = (row + i) as u32;
            }
            row = end;
        }
        plan.offsets.push(row as u32);
        if self.shared {
            plan.counts.push(tokens as u32);
            let end = row + tokens.next_multiple_of(self.tile);
            plan.row_token[row..end].fill(NONE);
            (0..tokens).for_each(|t| plan.row_token[row + t] = t as u32);
            plan.offsets.push(end as u32);
        }
        plan
    }

    /// One launch of `sort_slots`, or with `chunks` two launches; every byte compared.
    pub fn check(&self, device: &dyn Device, chunks: Option<u32>) -> Check {
        let want = self.reference();
        let (ids, tokens) = (bytes(&self.topk_ids()), (self.tokens as u32).to_le_bytes());
        let b_scale = self.b_scale().map(|s| bytes(&s));
        let mut counts = poisoned::<u32>(want.counts.len());
        let mut offsets = poisoned::<u32>(want.offsets.len());
        let mut row_token = poisoned::<u32>(want.row_token.len());
        let mut slot_row = poisoned::<u32>(want.slot_row.len());
        let mut stats = bytes(&[10u32, 20, 30, 40, 50, 60, 70, 80]);
        let numbers = || {
            [self.max_tokens, self.top_k, self.experts, self.first, self.local].map(|n| Value::U32(n as u32))
        };
        let more = || [Value::U32(u32::from(self.shared)), Value::U32(self.tile as u32)];
        match chunks {
            None => {
                let mut values = vec![
                    Value::In(&ids),
                    optional(b_scale.as_ref()),
                    Value::In(&tokens),
                    Value::Out(&mut counts),
                    Value::Out(&mut offsets),
                    Value::Out(&mut row_token),
                    Value::Out(&mut slot_row),
                    Value::Out(&mut stats),
                ];
                values.extend(numbers().into_iter().chain(more()));
                run(device, SORT, 1, 0, &mut values)?;
            }
            Some(chunks) => {
                let mut chunk_counts = poisoned::<u32>(chunks as usize * self.local);
                let mut values = vec![
                    Value::In(&ids),
                    optional(b_scale.as_ref()),
                    Value::In(&tokens),
                    Value::Out(&mut chunk_counts),
                    Value::Out(&mut stats),
                ];
                values.extend(numbers());
                run(device, COUNT, chunks, 0, &mut values)?;
                let mut values = vec![
                    Value::In(&ids),
                    optional(b_scale.as_ref()),
                    Value::In(&tokens),
                    Value::In(&chunk_counts),
                    Value::Out(&mut counts),
                    Value::Out(&mut offsets),
                    Value::Out(&mut row_token),
                    Value::Out(&mut slot_row),
                ];
                values.extend(numbers().into_iter().chain(more()));
                run(device, PLACE, chunks, 0, &mut values)?;
            }
        }
        expect_u32("counts", &counts, &want.counts)?;
        expect_u32("offsets", &offsets, &want.offsets)?;
        expect_u32("row_token", &row_token, &want.row_token)?;
        expect_u32("slot_row", &slot_row, &want.slot_row)?;
        expect_u32("stats", &stats, &want.stats)
    }
}

/// `count_slots` alone: the rows of each expert in each chunk of slots.
fn check_counts(p: Problem, device: &dyn Device, chunks: u32) -> Check {
    let (ids, b_scale) = (p.topk_ids(), p.b_scale());
    let slots = p.tokens.min(p.max_tokens) * p.top_k;
    let share = slots.div_ceil(chunks as usize).next_multiple_of(32);
    let mut want = vec![0u32; chunks as usize * p.local];
    let mut stats = [0u32; 8];
    for (slot, &id) in ids.iter().enumerate().take(slots) {
        let is_finite = b_scale.as_ref().is_none_or(|s| !s[slot / p.top_k].is_nan());
        stats[2] += u32::from(!is_finite && slot.is_multiple_of(p.top_k));
        match usize::try_from(id).ok().filter(|&id| id < p.experts) {
            None => stats[0] += 1,
            Some(id) if !(p.first..p.first + p.local).contains(&id) => stats[1] += 1,
            Some(id) if is_finite => want[slot / share * p.local + id - p.first] += 1,
            Some(_) => {}
        }
    }
    let (ids, tokens) = (bytes(&ids), (p.tokens as u32).to_le_bytes());
    let b_scale = b_scale.map(|s| bytes(&s));
    let (mut counts, mut got_stats) = (poisoned::<u32>(want.len()), bytes(&[0u32; 8]));
    let mut values = vec![
        Value::In(&ids),
        optional(b_scale.as_ref()),
        Value::In(&tokens),
        Value::Out(&mut counts),
        Value::Out(&mut got_stats),
    ];
    values.extend([p.max_tokens, p.top_k, p.experts, p.first, p.local].map(|n| Value::U32(n as u32)));
    run(device, COUNT, chunks, 0, &mut values)?;
    expect_u32("chunk_counts", &counts, &want)?;
    expect_u32("stats", &got_stats, &stats)
}

/// Every case.
pub fn cases(scale: Scale) -> Vec<Case> {
    let tokens: &[usize] =
        scale.pick(&[1, 40], &[0, 1, 2, 7, 127, 129], &[0, 1, 2, 7, 64, 127, 128, 129, 682, 1000, 8192]);
    // Experts, first local, local, top-k, tile.
    let shapes: &[(usize, usize, usize, usize, usize)] = scale.pick(
        &[(20, 3, 9, 6, 8)],
        &[(20, 3, 9, 6, 8), (256, 0, 256, 6, 16), (1024, 0, 1024, 16, 1), (5, 0, 5, 1, 128)],
        &[
            (20, 3, 9, 6, 8),
            (256, 0, 256, 6, 8),
            (384, 96, 48, 6, 64),
            (384, 0, 384, 6, 128),
            (1024, 0, 1024, 16, 1),
            (5, 0, 5, 1, 128),
            (8, 8, 0, 2, 4),
        ],
    );
    // As many as some warps of a block walk twice for.
    let twice = Problem {
        max_tokens: 100,
        tokens: 100,
        top_k: 6,
        experts: 20,
        first: 3,
        local: 9,
        shared: false,
        tile: 8,
        ids: Ids::Skewed,
        non_finite: true,
    };
    let forms: &[Option<u32>] =
        scale.pick(&[None, Some(3)], &[None, Some(1), Some(5)], &[None, Some(1), Some(7), Some(64)]);
    let mut cases = Vec::new();
    for ids in KINDS {
        let mut case = Case::new(COUNT, format!("{ids:?}").to_lowercase());
        for (i, &n) in tokens.iter().enumerate() {
            let (experts, first, local, top_k, tile) = shapes[i % shapes.len()];
            let p = Problem {
                max_tokens: n,
                tokens: n,
                top_k,
                experts,
                first,
                local,
                shared: false,
                tile,
                ids,
                // The first of the few has no token that could be.
                non_finite: i % 2 == 1,
            };
            case.part(p, n * top_k, move |device| check_counts(p, device, 1 + i as u32 * 3));
        }
        cases.push(case);
    }
    let mut case = Case::new(COUNT, "twice");
    case.part(twice, 600, move |device| check_counts(twice, device, 1));
    cases.push(case);
    for (kernel, form) in [(SORT, None), (PLACE, Some(1))] {
        let mut case = Case::new(kernel, "twice");
        case.part(twice, 600, move |device| twice.check(device, form));
        cases.push(case);
    }
    for &form in forms {
        let (kernel, name) = form.map_or((SORT, String::new()), |n| (PLACE, format!("chunks={n}/")));
        for ids in KINDS {
            let mut case = Case::new(kernel, format!("{name}{ids:?}").to_lowercase());
            for (i, &(experts, first, local, top_k, tile)) in shapes.iter().enumerate() {
                for (j, &n) in tokens.iter().enumerate() {
                    let (shared, non_finite) = ((i + j) % 2 == 0, (i + j) % 3 == 1);
                    let p = Problem {
                        max_tokens: n,
                        tokens: n,
                        top_k,
                        experts,
                        first,
                        local,
                        shared,
                        tile,
                        ids,
                        non_finite,
                    };
                    case.part(p, n * top_k, move |device| p.check(device, form));
                }
            }
            for (max_tokens, tokens) in [(50, 0), (50, 3), (50, 5000)] {
                let p = Problem {
                    max_tokens,
                    tokens,
                    top_k: 6,
                    experts: 20,
                    first: 3,
                    local: 9,
                    shared: true,
                    tile: 8,
                    ids,
                    non_finite: true,
                };
                case.part(p, 300, move |device| p.check(device, form));
            }
            cases.push(case);
        }
    }
    cases
}
