//! Execution of the wgmma family.

use super::state::{InFlight, Key, Partial, Warpgroup};
use crate::check::{Access, Class, Origin, OriginKind, Place};
use crate::counters::Counter;
use crate::decode::{Execute, Src};
use crate::machine::{AsyncCtx, AsyncOp, Ctx, Flow, LANES, QueueKey, Wait};
use crate::numerics::aligned_sum::Unit;
use crate::numerics::element::{Element, Format};
use crate::ops::descriptor::{Generation, MatrixDescriptor};
use crate::ops::hooks::{self, AsyncId, GroupKind, Kind, Object, Proxy, Range, Scope};
use crate::ops::mma_sync::step;
use crate::ops::sync_state::count_wait;
use crate::program::Reg;

/// Name of the wait in reports.
const GROUP: &str = "wgmma group";

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
    pub unit: Unit,
    pub dst: Vec<Reg>,
    pub a: OperandA,
    pub b: Src,
    pub accumulate: (Src, bool),
    pub negate: (bool, bool),
    pub transpose: (bool, bool),
}

fn key(ctx: &Ctx<'_>) -> (Key, usize) {
    let rank = ctx.cluster.ctas[ctx.cta].rank;
    ((rank, ctx.warp.index as u32 / 4), ctx.warp.index % 4)
}

/// What a `wait_group` that covers a commit group observes.
fn group_object(key: Key, group: u32) -> Object {
    Object::Group(key.0, key.1 * 128, GroupKind::Wgmma, u64::from(group))
}

fn warpgroup<'a>(ctx: &'a mut Ctx<'_>, key: Key) -> &'a mut Warpgroup {
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
            let kind = format!("wgmma.{}.{}", self.a_format.name(), self.b_format.name());
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
            d.fetch(shared, rows, 32, element, &mut bytes, |offset, n| touched.push((offset, n)))
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

impl AsyncOp for Pending {
    fn complete(self: Box<Self>, ctx: &mut AsyncCtx<'_>) {
        let mma = &self.mma;
        let a = match &mma.a {
            OperandA::Registers(_) => Some(self.register_a()),
            OperandA::Descriptor(_) => self.operand(ctx, self.descriptors.0, 64, mma.transpose.0),
        };
        let b = self.operand(ctx, self.descriptors.1, mma.n, mma.transpose.1);
        if let (Some(a), Some(b)) = (a, b) {
            let a = self.elements(&a, mma.a_format, mma.negate.0);
            let b = self.elements(&b, mma.b_format, mma.negate.1);
            let formats = (mma.a_format, mma.b_format);
            let precision = ctx.env.precision;
            for w in 0..4 {
                let warp = &mut ctx.cluster.ctas[self.cta].warps[self.key.1 as usize * 4 + w];
                for (i, &reg) in mma.dst.iter().enumerate() {
                    for lane in 0..LANES {
                        let row = 16 * w + lane / 4 + 8 * (i >> 1 & 1);
                        let column = 8 * (i / 4) + 2 * (lane % 4) + (i & 1);
                        let c = if self.accumulate { warp.get(reg, lane) as u32 } else { 0 };
                        let (x, y) = (&a[row * mma.k..][..mma.k], &b[column * mma.k..][..mma.k]);
                        let value = step(x, y, c, formats, mma.unit, precision);
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

/// `wgmma.wait_group N`.
pub(super) struct WaitGroup {
    pub pending: u32,
}

impl Execute for WaitGroup {
    fn is_aligned(&self) -> bool {
        true
    }

    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let (key, slot) = key(ctx);
        let group = warpgroup(ctx, key);
        // Groups below this one must be complete, also those that other warps have not issued yet.
        let limit = group.warps[slot].commits.saturating_sub(self.pending);
        let unissued = group.partial.iter().any(|p| p.group < limit && p.warps >> slot & 1 == 1);
        if unissued || group.pending.iter().any(|&g| g < limit) {
            let wait = Wait::Async { what: GROUP, pending: self.pending };
            count_wait(ctx, ctx.mask, wait);
            return Flow::Retry(wait);
        }
        count_wait(ctx, 0, Wait::Async { what: GROUP, pending: self.pending });
        let group = warpgroup(ctx, key);
        let warp = &mut group.warps[slot];
        let (done, left): (Vec<_>, Vec<_>) = warp.in_flight.drain(..).partition(|f| f.group < limit);
        warp.in_flight = left;
        let still = warp.in_flight.clone();
        let mut covered: Vec<u32> = done.iter().map(|f| f.group).collect();
        covered.dedup();
        for group in covered {
            for lane in ctx.lanes() {
                hooks::thread_acquire(ctx, lane, group_object(key, group), Scope::Cta);
            }
        }
        let mut regs: Vec<Reg> = done.iter().flat_map(|f| &f.d).copied().collect();
        regs.sort_unstable();
        regs.dedup();
        regs.retain(|reg| !still.iter().any(|f| f.d.contains(reg)));
        let mut overwritten = false;
        for &reg in &regs {
            for lane in 0..LANES {
                if matches!(ctx.warp.origin(reg, lane).parts(), Some((OriginKind::InFlight, _))) {
                    let value = ctx.warp.get(reg, lane);
                    ctx.warp.set_unnoticed(reg, lane, value, Origin::CLEAN);
                } else {
                    overwritten = true;
                }
            }
        }
        if !ctx.checks().wgmma {
            return Flow::Next;
        }
        if overwritten {
            let message = "an accumulator was written by another instruction before this wait".to_owned();
            ctx.finding(Class::Wgmma, 0, message, None);
        }
        for f in &done {
            if f.a_written || f.a.iter().any(|&r| ctx.warp.is_written(r)) {
                let place = ctx.env.place(f.pc, ctx.cluster.ctas[ctx.cta].linear, ctx.thread(0));
                let message = "a register operand A was written before a wait for its wgmma".to_owned();
                let earlier = Access { place, what: "read in flight".to_owned() };
                ctx.finding(Class::Wgmma, 0, message, Some(earlier));
            }
        }
        Flow::Next
    }
}
