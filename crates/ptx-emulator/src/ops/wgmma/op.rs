//! Execution of the wgmma family.

use super::state::{InFlight, Key, Partial, Warpgroup};
use super::wait::GROUP;
use crate::check::{Class, Origin, OriginKind, Place};
use crate::counters::Counter;
use crate::decode::{Execute, Src};
use crate::machine::{AsyncCtx, AsyncOp, Ctx, Flow, LANES, QueueKey, Wait};
use crate::numerics::Precision;
use crate::numerics::aligned_sum::{self, Addend, Unit};
use crate::numerics::element::{self, Element, Format};
use crate::ops::descriptor::{Extent, Generation, MatrixDescriptor};
use crate::ops::hooks::{self, AsyncId, GroupKind, Kind, Object, Proxy, Range};
use crate::ops::mma_sync::{integer, integer_step, step};
use crate::program::Reg;

/// Operand A.
#[derive(Clone)]
pub(super) enum OperandA {
    /// Four registers per thread.
    Registers(Vec<Src>),
    /// A shared-memory descriptor.
    Descriptor(Src),
}

/// `wgmma.mma_async`.
#[derive(Clone)]
pub(super) struct MmaAsync {
    pub n: usize,
    pub k: usize,
    pub element_bytes: u32,
    pub a_format: Format,
    pub b_format: Format,
    /// Integers: A and B signed; the formats are only widths.
    pub integers: Option<(bool, bool)>,
    /// Integer sums saturate.
    pub saturate: bool,
    /// f16 accumulators, two to a register.
    pub half: bool,
    pub unit: Unit,
    pub dst: Vec<Reg>,
    pub a: OperandA,
    pub b: Src,
    pub accumulate: (Src, bool),
    pub negate: (bool, bool),
    pub transpose: (bool, bool),
}

pub(super) fn key(ctx: &Ctx<'_>) -> (Key, usize) {
    let rank = ctx.cluster.ctas[ctx.cta].rank;
    ((rank, ctx.warp.index as u32 / 4), ctx.warp.index % 4)
}

/// What a `wait_group` that covers a commit group observes.
pub(super) fn group_object(key: Key, group: u32) -> Object {
    Object::Group(key.0, key.1 * 128, GroupKind::Wgmma, u64::from(group))
}

pub(super) fn warpgroup<'a>(ctx: &'a mut Ctx<'_>, key: Key) -> &'a mut Warpgroup {
    ctx.cluster.state.wgmma.groups.entry(key).or_default()
}

impl Execute for MmaAsync {
    fn is_aligned(&self) -> bool {
        true
    }

    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let (key, slot) = key(ctx);
        let pc = ctx.pc;
        let accumulate = (ctx.get(self.accumulate.0, 0) & 1 == 1) != self.accumulate.1;
        let descriptors = (
            match &self.a {
                OperandA::Descriptor(src) => ctx.get(*src, 0),
                OperandA::Registers(_) => 0,
            },
            ctx.get(self.b, 0),
        );
        self.check_operands(ctx, accumulate);
        self.check_registers(ctx, key, slot);
        let a = match &self.a {
            OperandA::Registers(regs) => regs.iter().map(|&r| ctx.row(r).map(|v| v as u32)).collect(),
            OperandA::Descriptor(_) => Vec::new(),
        };
        // Own the accumulators until a wait covers the group.
        for &reg in &self.dst {
            for lane in 0..LANES {
                let value = ctx.warp.get(reg, lane);
                ctx.warp.set_unnoticed(reg, lane, value, Origin::new(OriginKind::InFlight, pc));
            }
        }
        let a_regs = match &self.a {
            OperandA::Registers(regs) => registers(regs).collect(),
            OperandA::Descriptor(_) => Vec::new(),
        };
        let group = warpgroup(ctx, key);
        let commit = group.warps[slot].commits;
        group.warps[slot].in_flight.push(InFlight {
            group: commit,
            d: self.dst.clone(),
            a: a_regs,
            a_written: false,
            pc,
        });
        // A warp may run ahead of the others by several instructions.
        let at = (group.warps[slot].issued - group.gathered) as usize;
        group.warps[slot].issued += 1;
        if at == group.partial.len() {
            let a = Default::default();
            group.partial.push_back(Partial { pc, warps: 0, group: commit, a, descriptors, accumulate });
        }
        let partial = &mut group.partial[at];
        if partial.pc != pc || partial.group != commit {
            let message = "the four warps of the warpgroup issue different wgmma instructions".to_owned();
            ctx.finding(Class::Wgmma, 0, message, None);
            return Flow::Abort;
        }
        let uniform = partial.descriptors == descriptors && partial.accumulate == accumulate;
        partial.a[slot] = a;
        partial.warps |= 1 << slot;
        // Only the oldest can be complete: every warp issues in order.
        if group.partial.front().is_some_and(|p| p.warps == 0b1111) {
            let Some(partial) = group.partial.pop_front() else { return Flow::Abort };
            group.gathered += 1;
            group.pending.push(commit);
            let id = hooks::async_issue(ctx, 0, Proxy::Async, "wgmma");
            let op = Pending {
                id,
                mma: self.clone(),
                key,
                cta: ctx.cta,
                group: commit,
                place: ctx.place(0),
                a: partial.a,
                descriptors: partial.descriptors,
                accumulate: partial.accumulate,
            };
            ctx.cluster.engine.issue(QueueKey::Wgmma(key.0, key.1), Box::new(op));
            let integer = |signed| if signed { "s8" } else { "u8" };
            let kind = match self.integers {
                Some((a, b)) => format!("wgmma.{}.{}", integer(a), integer(b)),
                None => format!("wgmma.{}.{}", self.a_format.name(), self.b_format.name()),
            };
            ctx.cluster.counters.add_mma(kind, [64, self.n as u32, self.k as u32]);
        }
        if !uniform {
            let message = "descriptors or scale-d differ between the warps of the warpgroup".to_owned();
            ctx.finding(Class::Wgmma, 0, message, None);
        }
        Flow::Next
    }
}

impl MmaAsync {
    fn check_operands(&self, ctx: &mut Ctx<'_>, accumulate: bool) {
        let mut sources: Vec<Src> = vec![self.b];
        match &self.a {
            OperandA::Registers(regs) => sources.extend(regs),
            OperandA::Descriptor(src) => sources.push(*src),
        }
        if accumulate {
            sources.extend(self.dst.iter().map(|&r| Src::Reg(r)));
        }
        if !ctx.any_dirty(&sources) {
            return;
        }
        for lane in 0..LANES {
            for &src in &sources {
                let origin = ctx.origin(src, lane);
                let own_accumulator = matches!(origin.parts(), Some((OriginKind::InFlight, _)))
                    && matches!(src, Src::Reg(r) if self.dst.contains(&r));
                if !origin.is_clean() && !own_accumulator {
                    ctx.report_poison(origin, lane, "a wgmma operand");
                }
            }
        }
    }
}

/// The registers among sources.
fn registers(sources: &[Src]) -> impl Iterator<Item = Reg> {
    sources.iter().filter_map(|s| if let Src::Reg(r) = s { Some(*r) } else { None })
}

impl MmaAsync {
    /// Register operands must not have been written since the last `wgmma.fence`, except by wgmma itself.
    fn check_registers(&self, ctx: &mut Ctx<'_>, key: Key, slot: usize) {
        if !ctx.checks().wgmma {
            return;
        }
        let state = std::mem::take(&mut warpgroup(ctx, key).warps[slot]);
        let a: Vec<Reg> = match &self.a {
            OperandA::Registers(regs) => registers(regs).collect(),
            OperandA::Descriptor(_) => Vec::new(),
        };
        let in_flight = |r, l| matches!(ctx.warp.origin(r, l).parts(), Some((OriginKind::InFlight, _)));
        let overwritten =
            self.dst.iter().any(|&r| state.owns(r) && (0..LANES).any(|lane| !in_flight(r, lane)));
        let free = self.dst.iter().copied().filter(|&r| !state.owns(r));
        let unfenced = free.chain(a).any(|r| ctx.warp.is_written(r));
        let fenced = state.fenced;
        warpgroup(ctx, key).warps[slot] = state;
        if overwritten {
            let message = "an accumulator in flight was written by another instruction".to_owned();
            ctx.finding(Class::Wgmma, 0, message, None);
        }
        if !fenced {
            ctx.finding(Class::Wgmma, 0, "no wgmma.fence before the first wgmma".to_owned(), None);
        } else if unfenced {
            let message = "a register operand was written since the last wgmma.fence".to_owned();
            ctx.finding(Class::Wgmma, 0, message, None);
        }
    }
}

/// An issued wgmma.
struct Pending {
    id: AsyncId,
    mma: MmaAsync,
    key: Key,
    cta: usize,
    group: u32,
    place: Place,
    a: [Vec<[u32; LANES]>; 4],
    descriptors: (u64, u64),
    accumulate: bool,
}

impl Pending {
    fn operand(&self, ctx: &mut AsyncCtx<'_>, bits: u64, rows: usize, mn_major: bool) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let element = mn_major.then_some(self.mma.element_bytes);
        let mut touched = Vec::new();
        let fetched = MatrixDescriptor::decode(bits, Generation::Sm90).and_then(|d| {
            let shared = &ctx.cluster.ctas[self.cta].shared;
            let extent = Extent { rows, k_bytes: 32, mn_major: element, data: 16 };
            d.fetch(shared, extent, &mut bytes, |offset, n| touched.push((offset, n)))
        });
        let total = touched.iter().map(|t| u64::from(t.1)).sum();
        ctx.cluster.counters.add(Counter::MmaSharedBytes, total);
        for (offset, bytes) in touched {
            let range = Range::Shared { cta: self.key.0, offset, bytes };
            hooks::async_access(ctx.env, ctx.cluster, self.id, range, Kind::Read);
        }
        match fetched {
            Ok(init) => {
                if !init && ctx.env.checks.uninitialised {
                    let message = "wgmma read uninitialised shared memory".to_owned();
                    ctx.finding(Class::Uninitialised, self.place.clone(), message);
                }
                Some(bytes)
            }
            Err(why) => {
                ctx.finding(Class::Descriptor, self.place.clone(), why);
                None
            }
        }
    }

    fn elements(&self, bytes: &[u8], format: Format, negate: bool) -> Vec<Element> {
        let n = self.mma.element_bytes as usize;
        bytes
            .chunks_exact(n)
            .map(|chunk| {
                let mut word = [0; 4];
                word[..n].copy_from_slice(chunk);
                let mut e = format.decode(u32::from_le_bytes(word));
                if negate {
                    e.sig = -e.sig;
                }
                e
            })
            .collect()
    }

    /// `D[row][column]` for an addend, from operands `[rows, 32]` in bytes.
    fn products(&self, a: &[u8], b: &[u8], precision: Precision) -> Box<dyn Fn(usize, usize, u32) -> u32> {
        let (k, unit, saturate, half) = (self.mma.k, self.mma.unit, self.mma.saturate, self.mma.half);
        if let Some((signed_a, signed_b)) = self.mma.integers {
            let integers = |bytes: &[u8], signed: bool| -> Vec<i32> {
                bytes.iter().map(|&b| integer(u64::from(b), 8, signed)).collect()
            };
            let (a, b) = (integers(a, signed_a), integers(b, signed_b));
            return Box::new(move |row, column, c| {
                integer_step(&a[row * k..][..k], &b[column * k..][..k], c, saturate)
            });
        }
        let formats = (self.mma.a_format, self.mma.b_format);
        let a = self.elements(a, formats.0, self.mma.negate.0);
        let b = self.elements(b, formats.1, self.mma.negate.1);
        let (in_a, in_b) = (Contents::of(&a, k), Contents::of(&b, k));
        Box::new(move |row, column, c| {
            let (mut x, mut y) = (&a[row * k..][..k], &b[column * k..][..k]);
            // Products that are all zero take no part in an aligned sum: tiles are padded with such rows.
            if precision == Precision::Hardware && in_a[row].vanishes_with(in_b[column]) {
                (x, y) = (&[], &[]);
            }
            if half {
                aligned_sum::step_f16(x, y, Addend::f16(c), formats.0.fraction() + formats.1.fraction(), unit)
            } else {
                step(x, y, c, formats, unit, precision)
            }
        })
    }

    /// Register operand A as row-major bytes `[64, 32]`.
    fn register_a(&self) -> Vec<u8> {
        let mut bytes = vec![0; 64 * 32];
        for (w, regs) in self.a.iter().enumerate() {
            for (r, lanes) in regs.iter().enumerate() {
                for (lane, word) in lanes.iter().enumerate() {
                    // Registers 0, 1: the first 16 bytes along K; 2, 3: the second.
                    let row = 16 * w + lane / 4 + 8 * (r % 2);
                    let at = row * 32 + 16 * (r / 2) + 4 * (lane % 4);
                    bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
                }
            }
        }
        bytes
    }
}

/// What a row of an operand holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Contents {
    Zeros,
    Finite,
    Specials,
}

impl Contents {
    /// Of each row of `k` elements.
    fn of(elements: &[Element], k: usize) -> Vec<Self> {
        let row = |row: &[Element]| {
            if row.iter().any(|e| e.class != element::Class::Finite) {
                Self::Specials
            } else if row.iter().any(|e| e.sig != 0) {
                Self::Finite
            } else {
                Self::Zeros
            }
        };
        elements.chunks_exact(k).map(row).collect()
    }

    /// Whether all products of the two rows are zero.
    fn vanishes_with(self, other: Self) -> bool {
        (self == Self::Zeros && other != Self::Specials) || (other == Self::Zeros && self != Self::Specials)
    }
}

impl AsyncOp for Pending {
    fn complete(self: Box<Self>, ctx: &mut AsyncCtx<'_>) {
        let mma = &self.mma;
        let a = match &mma.a {
            OperandA::Registers(_) => Some(self.register_a()),
            OperandA::Descriptor(_) => self.operand(ctx, self.descriptors.0, 64, mma.transpose.0),
        };
        let b = self.operand(ctx, self.descriptors.1, mma.n, mma.transpose.1);
        if let (Some(a), Some(b)) = (a, b) {
            let products = self.products(&a, &b, ctx.env.precision);
            let halves = if mma.half { 2 } else { 1 };
            let mask = if mma.half { 0xffff } else { u32::MAX };
            for w in 0..4 {
                let warp = &mut ctx.cluster.ctas[self.cta].warps[self.key.1 as usize * 4 + w];
                for (r, &reg) in mma.dst.iter().enumerate() {
                    for lane in 0..LANES {
                        let before = warp.get(reg, lane) as u32;
                        let mut value = 0;
                        for half in 0..halves {
                            let i = r * halves + half;
                            let row = 16 * w + lane / 4 + 8 * (i >> 1 & 1);
                            let column = 8 * (i / 4) + 2 * (lane % 4) + (i & 1);
                            let c = if self.accumulate { before >> (16 * half) & mask } else { 0 };
                            value |= products(row, column, c) << (16 * half);
                        }
                        let origin = warp.origin(reg, lane);
                        warp.set_unnoticed(reg, lane, u64::from(value), origin);
                    }
                }
            }
        }
        hooks::async_complete(ctx.cluster, self.id, group_object(self.key, self.group));
        if let Some(group) = ctx.cluster.state.wgmma.groups.get_mut(&self.key)
            && let Some(at) = group.pending.iter().position(|&g| g == self.group)
        {
            group.pending.remove(at);
        }
        ctx.wake(self.cta, |w| matches!(w, Wait::Async { what: GROUP, .. }));
    }

    fn describe(&self) -> String {
        format!("wgmma of line {}", self.place.line)
    }
}

/// `wgmma.fence`: orders register accesses. Values move in program order here; which registers are written from now
/// on is noted, so that a later wgmma can tell.
pub(super) struct Fence;

impl Execute for Fence {
    fn is_aligned(&self) -> bool {
        true
    }

    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        if ctx.checks().wgmma {
            let (key, slot) = key(ctx);
            let mut state = std::mem::take(&mut warpgroup(ctx, key).warps[slot]);
            for f in &mut state.in_flight {
                f.a_written |= f.a.iter().any(|&r| ctx.warp.is_written(r));
            }
            state.fenced = true;
            ctx.warp.forget_writes();
            warpgroup(ctx, key).warps[slot] = state;
        }
        Flow::Next
    }
}

/// `wgmma.commit_group`.
pub(super) struct CommitGroup;

impl Execute for CommitGroup {
    fn is_aligned(&self) -> bool {
        true
    }

    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let (key, slot) = key(ctx);
        warpgroup(ctx, key).warps[slot].commits += 1;
        Flow::Next
    }
}
