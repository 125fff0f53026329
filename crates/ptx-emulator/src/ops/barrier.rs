//! Named barriers: `bar`, `barrier{.cta}` (PTX ISA 9.7.13.1).
//!
//! Arrivals count in whole warps: a warp has arrived when all its non-exited threads have. Without a count
//! exited warps count as arrived. A thread that waits executes the instruction again when its generation is
//! complete: it then acquires, and fetches the result of a reduction. `arrive` never blocks here, although the
//! ISA lets it wait for the other threads of the warp.

use super::hooks::{self, Object, Scope};
use super::sync_state::retry;
use super::{Entry, form, root};
use crate::check::{Access, Class};
use crate::decode::{Decoder, Execute, Op, Result, Src};
use crate::machine::{Cluster, Cta, Ctx, Flow, LANES, Wait, Warp};
use crate::program::Reg;
use crate::types::Ty;

pub(super) const TABLE: &[Entry] = &[
    form("bar", &["red"], decode_bar),
    form("bar", &["sync"], decode_bar),
    form("bar", &["arrive"], decode_bar),
    form("barrier", &["cluster"], super::cluster_barrier::decode),
    root("barrier", decode_bar),
];

/// Barrier and generation that each thread of a warp has to return from.
type Pending = [Option<(u32, u32)>; LANES];

/// What threads that have arrived return from, by CTA and warp.
#[derive(Default)]
pub(super) struct Returns {
    lanes: Vec<Vec<Pending>>,
}

impl Returns {
    pub(super) fn new(ctas: usize, warps: usize) -> Self {
        Self { lanes: vec![vec![[None; LANES]; warps]; ctas] }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Sync,
    Arrive,
    Popc(Reg),
    And(Reg),
    Or(Reg),
}

struct Bar {
    kind: Kind,
    aligned: bool,
    id: Src,
    count: Option<Src>,
    predicate: Option<(Src, bool)>,
}

impl Execute for Bar {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let Some(id) = self.uniform(ctx, self.id, "barrier number") else { return Flow::Abort };
        if id > 15 {
            let lane = ctx.mask.trailing_zeros() as usize;
            ctx.finding(Class::Barrier, lane, format!("barrier number {id} is above 15"), None);
            return Flow::Abort;
        }
        let (cta, warp) = (ctx.cta, ctx.warp.index);
        let mut arriving = 0;
        for lane in ctx.lanes() {
            let pending = ctx.cluster.state.sync.barrier.lanes[cta][warp][lane];
            arriving |= u32::from(pending.is_none_or(|p| p.0 != id)) << lane;
        }
        if arriving != 0 {
            self.arrive(ctx, id, arriving);
        }
        if self.kind == Kind::Arrive {
            return Flow::Next;
        }
        let mut waiting = 0;
        for lane in ctx.lanes() {
            let Some((_, generation)) = ctx.cluster.state.sync.barrier.lanes[cta][warp][lane] else {
                continue;
            };
            if ctx.cluster.ctas[cta].barriers[id as usize].generation == generation {
                waiting |= 1 << lane;
                continue;
            }
            ctx.cluster.state.sync.barrier.lanes[cta][warp][lane] = None;
            hooks::thread_acquire(ctx, lane, Object::NamedBarrier(cta as u32, id, generation), Scope::Cta);
            self.fetch(ctx, id, generation, lane);
        }
        retry(ctx, waiting, Wait::Barrier { id })
    }

    fn is_aligned(&self) -> bool {
        self.aligned
    }
}

impl Bar {
    /// The value of an operand, which must be the same in all lanes.
    fn uniform(&self, ctx: &mut Ctx<'_>, src: Src, what: &str) -> Option<u32> {
        let first = ctx.mask.trailing_zeros() as usize;
        let value = ctx.get(src, first) as u32;
        for lane in ctx.lanes() {
            let origin = ctx.origin(src, lane);
            if !origin.is_clean() {
                ctx.report_poison(origin, lane, &format!("a {what}"));
            }
            if ctx.get(src, lane) as u32 != value {
                let other = ctx.get(src, lane) as u32;
                let message = format!("{what} {other}, but {value} in lane {first} of the same warp");
                ctx.finding(Class::Barrier, lane, message, None);
                return None;
            }
        }
        Some(value)
    }

    fn arrive(&self, ctx: &mut Ctx<'_>, id: u32, lanes: u32) {
        let (cta, warp) = (ctx.cta, ctx.warp.index);
        let first = lanes.trailing_zeros() as usize;
        let all = ctx.cluster.ctas[cta].warps.len() as u32 * LANES as u32;
        let count = match self.count {
            Some(src) => self.uniform(ctx, src, "thread count").unwrap_or(all),
            None => all,
        };
        let report = |ctx: &mut Ctx<'_>, message: String, earlier: Option<Access>| {
            if ctx.checks().barriers {
                ctx.finding(Class::Barrier, first, message, earlier);
            }
        };
        if count == 0 || !count.is_multiple_of(LANES as u32) || count > all {
            let message = format!(
                "thread count {count} of barrier {id} is not a multiple of 32 in 32..={all} (the CTA's threads)"
            );
            report(ctx, message, None);
        }
        let count = count.clamp(1, 2048).next_multiple_of(LANES as u32);
        let reduces = matches!(self.kind, Kind::Popc(_) | Kind::And(_) | Kind::Or(_));
        let place = ctx.place(first);
        let barrier = &mut ctx.cluster.ctas[cta].barriers[id as usize];
        let generation = barrier.generation;
        if barrier.expected == 0 {
            barrier.expected = count;
            barrier.whole_cta = self.count.is_none();
            barrier.reduces = reduces;
            barrier.first = Some(place);
        } else {
            let earlier =
                barrier.first.clone().map(|place| Access { place, what: "first arrival".to_owned() });
            let (expected, other) = (barrier.expected, barrier.reduces != reduces);
            if expected != count {
                let message =
                    format!("barrier {id}: count {count}, but this generation was begun with {expected}");
                report(ctx, message, earlier.clone());
            }
            if other {
                let message = format!("barrier {id}: `red` mixed with `sync` or `arrive` in one generation");
                report(ctx, message, earlier);
            }
        }
        let alive = ctx.warp.alive();
        for lane in (0..LANES).filter(|l| lanes >> l & 1 == 1) {
            hooks::thread_release(ctx, lane, Object::NamedBarrier(cta as u32, id, generation), Scope::Cta);
            if let Some((src, negated)) = self.predicate {
                let (value, origin) = ((ctx.get(src, lane) & 1 == 1) != negated, ctx.origin(src, lane));
                let barrier = &mut ctx.cluster.ctas[cta].barriers[id as usize];
                barrier.predicates.0 += 1;
                barrier.predicates.1 += u32::from(value);
                barrier.origin = barrier.origin.or(origin);
            }
            if self.kind != Kind::Arrive {
                ctx.cluster.state.sync.barrier.lanes[cta][warp][lane] = Some((id, generation));
            }
        }
        let barrier = &mut ctx.cluster.ctas[cta].barriers[id as usize];
        let before =
            barrier.partial.iter().position(|p| p.0 == warp).map(|i| barrier.partial.swap_remove(i).1);
        let arrived = before.unwrap_or(0) | lanes;
        if arrived & alive == alive {
            barrier.arrived += LANES as u32;
            barrier.warps |= 1 << warp;
            ctx.warp.sync_epoch += 1;
        } else {
            barrier.partial.push((warp, arrived));
        }
        ctx.cluster.state.sync.events += 1;
        if let Some(over) = complete(ctx.cluster, cta, ctx.warp, id) {
            let message = format!("barrier {id}: {over} threads arrived beyond the count of the generation");
            report(ctx, message, None);
        }
    }

    /// The result of a reduction.
    fn fetch(&self, ctx: &mut Ctx<'_>, id: u32, generation: u32, lane: usize) {
        let barrier = &mut ctx.cluster.ctas[ctx.cta].barriers[id as usize];
        let Some(at) = barrier.results.iter().position(|r| r.0 == generation) else { return };
        let (_, given, held, origin, readers) = &mut barrier.results[at];
        let (given, held, origin) = (*given, *held, *origin);
        *readers -= 1;
        if *readers == 0 {
            barrier.results.swap_remove(at);
        }
        match self.kind {
            Kind::Popc(dst) => ctx.set(dst, lane, u64::from(held), origin),
            Kind::And(dst) => ctx.set(dst, lane, u64::from(held == given), origin),
            Kind::Or(dst) => ctx.set(dst, lane, u64::from(held > 0), origin),
            Kind::Sync | Kind::Arrive => {}
        }
    }
}

/// Completes a barrier's generation if everyone has arrived (`own`: the warp taken out of the CTA). Returns the
/// threads that arrived beyond the count.
fn complete(cluster: &mut Cluster, cta: usize, own: &mut Warp, id: u32) -> Option<u32> {
    let Cta { barriers, warps, .. } = &mut cluster.ctas[cta];
    let barrier = &mut barriers[id as usize];
    if barrier.expected == 0 || barrier.arrived == 0 {
        return None;
    }
    let gone = |w: &Warp| w.alive() == 0 && barrier.warps >> w.index & 1 == 0;
    let exited = warps.iter().filter(|w| w.index != own.index && gone(w)).count() + usize::from(gone(own));
    let exited = if barrier.whole_cta { exited as u32 * LANES as u32 } else { 0 };
    if barrier.arrived + exited < barrier.expected {
        return None;
    }
    let over = barrier.arrived.saturating_sub(barrier.expected);
    if barrier.reduces {
        let (given, held) = barrier.predicates;
        barrier.results.push((barrier.generation, given, held, barrier.origin, given));
    }
    *barrier = crate::machine::NamedBarrier {
        generation: barrier.generation.wrapping_add(1),
        results: std::mem::take(&mut barrier.results),
        ..Default::default()
    };
    let this = |w: Wait| w == Wait::Barrier { id };
    cluster.wake(cta, this);
    own.wake(this);
    (over > 0).then_some(over)
}

/// Lanes of a warp have exited: their warp may be complete now, and so may a barrier.
pub(super) fn on_exit(cluster: &mut Cluster, cta: usize, warp: &mut Warp) {
    let alive = warp.alive();
    for id in 0..16 {
        let barrier = &mut cluster.ctas[cta].barriers[id as usize];
        if barrier.expected == 0 {
            continue;
        }
        if let Some(at) = barrier.partial.iter().position(|p| p.0 == warp.index && p.1 & alive == alive) {
            barrier.partial.swap_remove(at);
            barrier.arrived += LANES as u32;
            barrier.warps |= 1 << warp.index;
        }
        complete(cluster, cta, warp, id);
    }
}

/// For deadlock reports.
pub(super) fn describe(ctas: &[Cta], cta: usize, id: u32) -> String {
    let b = &ctas[cta].barriers[id as usize];
    let mut text = format!("barrier {id}: {} of {} threads have arrived", b.arrived, b.expected);
    for (warp, lanes) in &b.partial {
        text.push_str(&format!(", of warp {warp} only lanes {lanes:#010x}"));
    }
    text
}

/// `bar{.cta}.op`, `barrier{.cta}.op{.aligned}`: `sync a{, b}`, `arrive a, b`, `red.popc.u32 d, a{, b}, {!}c`,
/// `red.{and,or}.pred p, a{, b}, {!}c`.
fn decode_bar(d: &mut Decoder<'_>) -> Result<Op> {
    d.take("cta");
    let aligned = d.take("aligned") || d.mnemonic() == "bar";
    let operands = d.operand_count();
    if d.take("red") {
        let popc =
            d.need_one("popc, and or or", &[("popc", Some(false)), ("and", None), ("or", Some(true))])?;
        let dst = d.reg(0)?;
        let kind = match popc {
            Some(false) => {
                d.need_one(".u32", &[("u32", ())])?;
                Kind::Popc(dst)
            }
            other => {
                d.need_one(".pred", &[("pred", ())])?;
                if other.is_some() { Kind::Or(dst) } else { Kind::And(dst) }
            }
        };
        if operands != 3 && operands != 4 {
            return d.error("expected 3 or 4 operands");
        }
        let count = if operands == 4 { Some(d.src(2, Ty::U32)?) } else { None };
        let predicate = Some(d.pred(operands - 1)?);
        let id = d.src(1, Ty::U32)?;
        d.finish(operands)?;
        return Ok(Box::new(Bar { kind, aligned, id, count, predicate }));
    }
    let kind = d.need_one("sync, arrive or red", &[("sync", Kind::Sync), ("arrive", Kind::Arrive)])?;
    let wanted = if kind == Kind::Arrive { 2..=2 } else { 1..=2 };
    if !wanted.contains(&operands) {
        return d.error("wrong number of operands");
    }
    let id = d.src(0, Ty::U32)?;
    let count = if operands == 2 { Some(d.src(1, Ty::U32)?) } else { None };
    d.finish(operands)?;
    Ok(Box::new(Bar { kind, aligned, id, count, predicate: None }))
}
