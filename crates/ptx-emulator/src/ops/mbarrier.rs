//! `mbarrier.*` (PTX ISA 9.7.13.15).
//!
//! `try_wait` may return false before the phase completes. Here it does so the first time that a thread asks
//! for a phase (which shows code that does not look at the answer); the second time it suspends the thread
//! until the phase completes, or until nothing else in the cluster can run (see `machine::launch`). `test_wait`
//! never suspends, and lets others run when false.

use super::Entry;
use super::hooks::{self, AsyncId, Object, Scope};
use super::mbarrier_state::{self as state, Effect, Event, Fault, Target};
use super::root;
use super::sync_state::{add, add_wait, retry, wake_all};
use crate::check::{Access, Class, Mode, Place};
use crate::counters::Counter;
use crate::decode::{Addr, Decoder, Execute, Op, Result, Src};
use crate::machine::{AddressSpace, AsyncCtx, Ctx, Flow, LANES, LaneState, Location, Wait};
use crate::program::Reg;
use crate::types::Ty;

pub(super) const TABLE: &[Entry] = &[root("mbarrier", decode)];

/// The mbarrier operand of a lane: owning CTA rank and offset. `None` after a finding.
pub(super) fn locate(ctx: &mut Ctx<'_>, space: AddressSpace, addr: Addr, lane: usize) -> Option<(u32, u32)> {
    match ctx.locate(space, addr, lane)? {
        Location::Shared(cta, offset) => Some((cta, offset)),
        other => {
            let message = format!("the address of an mbarrier is not in shared memory: {other:x?}");
            ctx.finding(Class::Mbarrier, lane, message, None);
            None
        }
    }
}

/// Reports a fault of an operation by a lane.
fn report(ctx: &mut Ctx<'_>, lane: usize, fault: &Fault) {
    let class = fault.class();
    if class == Class::Mbarrier && !ctx.checks().barriers {
        return;
    }
    let earlier = match fault {
        Fault::Again(_, place) => Some(Access { place: (**place).clone(), what: "mbarrier.init".to_owned() }),
        _ => None,
    };
    ctx.finding(class, lane, fault.to_string(), earlier);
}

/// Applies an event on behalf of a lane: findings, wake-ups.
fn apply(ctx: &mut Ctx<'_>, lane: usize, at: (u32, u32), event: Event) -> Option<Effect> {
    match state::apply(ctx.cluster, at.0, at.1, event) {
        Ok(effect) => {
            if effect.unobserved && ctx.checks().barriers && ctx.checks().mode == Mode::StrictPtx {
                ctx.finding(Class::Mbarrier, lane, unobserved(at.1, effect.phase), None);
            }
            if effect.completed {
                wake_all(ctx, waits_on(at));
            }
            Some(effect)
        }
        Err(fault) => {
            report(ctx, lane, &fault);
            None
        }
    }
}

fn unobserved(offset: u32, phase: u64) -> String {
    format!(
        "arrival in phase {phase} of the mbarrier at shared offset {offset:#x} before any thread has seen phase \
         {} completed",
        phase.wrapping_sub(1)
    )
}

fn waits_on(at: (u32, u32)) -> impl Fn(Wait) -> bool {
    move |wait| matches!(wait, Wait::Mbarrier { cta, offset, .. } if (cta, offset) == at)
}

/// An asynchronous operation issued at `place` signals an mbarrier.
fn signal(ctx: &mut AsyncCtx<'_>, place: &Place, ids: &[AsyncId], at: (u32, u32), event: Event) {
    match state::apply(ctx.cluster, at.0, at.1, event) {
        Ok(effect) => {
            let object = Object::Mbarrier { cta: at.0, offset: at.1, phase: effect.phase };
            ids.iter().for_each(|&id| hooks::async_complete(ctx.cluster, id, object));
            if effect.unobserved && ctx.env.checks.barriers && ctx.env.checks.mode == Mode::StrictPtx {
                ctx.finding(Class::Mbarrier, place.clone(), unobserved(at.1, effect.phase));
            }
            if effect.completed {
                ctx.cluster.wake_all(waits_on(at));
            }
        }
        Err(fault) if fault.class() == Class::Mbarrier && !ctx.env.checks.barriers => {}
        Err(fault) => add(ctx.cluster, fault.class(), place.clone(), format!("on completion: {fault}")),
    }
}

/// `complete_tx` of `bytes` on the mbarrier at (cta rank, offset) by an asynchronous operation.
pub fn complete_tx(ctx: &mut AsyncCtx<'_>, place: &Place, id: AsyncId, at: (u32, u32), bytes: u32) {
    signal(ctx, place, &[id], at, Event::CompleteTx(bytes));
}

/// One arrival on the mbarrier at (cta rank, offset) by an asynchronous operation (`tcgen05.commit`).
pub fn arrive_async(ctx: &mut AsyncCtx<'_>, place: &Place, id: AsyncId, at: (u32, u32)) {
    arrive_after(ctx, place, &[id], at);
}

/// The same, which shows that several operations are complete (`cp.async.mbarrier.arrive`).
pub(super) fn arrive_after(ctx: &mut AsyncCtx<'_>, place: &Place, ids: &[AsyncId], at: (u32, u32)) {
    signal(ctx, place, ids, at, Event::Arrive { count: 1, tx: None, drop: false });
}

/// Adds a pending arrival for an asynchronous one to come.
pub(super) fn increment(ctx: &mut Ctx<'_>, lane: usize, at: (u32, u32)) {
    apply(ctx, lane, at, Event::Increment);
}

/// An ordinary access of a thread touches a live mbarrier: a finding.
pub(super) fn check_access(ctx: &mut Ctx<'_>, lane: usize, cta: u32, offset: u32, bytes: u32) {
    if !ctx.checks().barriers {
        return;
    }
    let Some((at, init)) = ctx.cluster.state.sync.mbarriers.overlap(cta, offset, bytes) else { return };
    let earlier = Access { place: init.clone(), what: "mbarrier.init".to_owned() };
    let message = format!("ordinary access to the live mbarrier at shared offset {at:#x} of CTA rank {cta}");
    ctx.finding(Class::Mbarrier, lane, message, Some(earlier));
}

/// A state as `mbarrier.arrive` returns it: phase, pending arrivals before, and a mark.
fn token(effect: Effect) -> u64 {
    (effect.phase & 0xffff_ffff) | u64::from(effect.pending) << 32 | 1 << 63
}

struct Init {
    space: AddressSpace,
    addr: Addr,
    count: Src,
}

impl Execute for Init {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        for lane in ctx.lanes() {
            let Some((cta, offset)) = locate(ctx, self.space, self.addr, lane) else { continue };
            let (count, place) = (ctx.get(self.count, lane) as u32, ctx.place(lane));
            own_only(ctx, lane, cta);
            let at = Location::Shared(cta, offset);
            hooks::thread_access(ctx, lane, at, state::BYTES, hooks::Kind::MbarrierInit);
            if let Err(fault) = state::init(ctx.cluster, cta, offset, count, place) {
                report(ctx, lane, &fault);
            }
        }
        Flow::Next
    }
}

/// Operations that only the owning CTA may do.
fn own_only(ctx: &mut Ctx<'_>, lane: usize, cta: u32) {
    let rank = ctx.cluster.ctas[ctx.cta].rank;
    if cta != rank && ctx.checks().barriers {
        let message =
            format!("mbarrier of CTA rank {cta}; this is possible from the owning CTA only (here {rank})");
        ctx.finding(Class::Mbarrier, lane, message, None);
    }
}

struct Inval {
    space: AddressSpace,
    addr: Addr,
}

impl Execute for Inval {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        for lane in ctx.lanes() {
            let Some((cta, offset)) = locate(ctx, self.space, self.addr, lane) else { continue };
            own_only(ctx, lane, cta);
            let at = Location::Shared(cta, offset);
            hooks::thread_access(ctx, lane, at, state::BYTES, hooks::Kind::MbarrierInit);
            if let Err(fault) = state::inval(ctx.cluster, cta, offset) {
                report(ctx, lane, &fault);
            }
        }
        Flow::Next
    }
}

/// What an operation that changes counts does.
#[derive(Clone, Copy)]
enum Change {
    Arrive { count: Src, tx: Option<Src>, drop: bool, no_complete: bool },
    ExpectTx(Src),
    CompleteTx(Src),
}

struct Update {
    space: AddressSpace,
    addr: Addr,
    change: Change,
    /// Where the state goes.
    state: Option<Reg>,
    /// Scope of the release; `None` = relaxed.
    release: Option<Scope>,
}

impl Execute for Update {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let rank = ctx.cluster.ctas[ctx.cta].rank;
        for lane in ctx.lanes() {
            let Some(at) = locate(ctx, self.space, self.addr, lane) else { continue };
            let value = |ctx: &mut Ctx<'_>, src: Src| {
                let origin = ctx.origin(src, lane);
                if !origin.is_clean() {
                    ctx.report_poison(origin, lane, "an mbarrier count");
                }
                ctx.get(src, lane) as u32
            };
            let (event, no_complete) = match self.change {
                Change::Arrive { count, tx, drop, no_complete } => {
                    let count = value(ctx, count);
                    (Event::Arrive { count, tx: tx.map(|t| value(ctx, t)), drop }, no_complete)
                }
                Change::ExpectTx(bytes) => (Event::ExpectTx(value(ctx, bytes)), false),
                Change::CompleteTx(bytes) => (Event::CompleteTx(value(ctx, bytes)), false),
            };
            if self.state.is_some() && at.0 != rank && ctx.checks().barriers {
                let message = "a remote arrival returns no state: the destination must be `_`".to_owned();
                ctx.finding(Class::Mbarrier, lane, message, None);
            }
            // The release goes to the phase that the arrival counts for, so it must precede it.
            if let Some(phase) = ctx.cluster.state.sync.mbarriers.phase(at) {
                let object = Object::Mbarrier { cta: at.0, offset: at.1, phase };
                match self.release {
                    Some(scope) => hooks::thread_release(ctx, lane, object, scope),
                    None => hooks::thread_publish(ctx, lane, object),
                }
            }
            let Some(effect) = apply(ctx, lane, at, event) else { continue };
            if no_complete && effect.completed && ctx.checks().barriers {
                let message = "an arrival with .noComplete completed the phase".to_owned();
                ctx.finding(Class::Mbarrier, lane, message, None);
            }
            if let Some(dst) = self.state {
                ctx.set(dst, lane, token(effect), Default::default());
            }
        }
        Flow::Next
    }
}

struct WaitOp {
    space: AddressSpace,
    addr: Addr,
    /// Parity, or state.
    target: Src,
    by_parity: bool,
    suspends: bool,
    dst: Reg,
    /// Scope of the acquire; `None` = relaxed.
    acquire: Option<Scope>,
}

impl WaitOp {
    fn target(&self, ctx: &mut Ctx<'_>, lane: usize) -> Target {
        let value = ctx.get(self.target, lane);
        let origin = ctx.origin(self.target, lane);
        if !origin.is_clean() {
            ctx.report_poison(origin, lane, "an mbarrier wait");
        }
        let wrong = if self.by_parity { value > 1 } else { value >> 63 == 0 };
        if wrong && ctx.checks().barriers {
            let what = if self.by_parity { "a parity (0 or 1)" } else { "a state of mbarrier.arrive" };
            ctx.finding(Class::Mbarrier, lane, format!("{value:#x} is not {what}"), None);
        }
        if self.by_parity { Target::Parity(value as u32 & 1) } else { Target::Phase(value & 0xffff_ffff) }
    }
}

impl Execute for WaitOp {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let mut waiting: [Option<Wait>; LANES] = [None; LANES];
        let mut any_false = false;
        // Whether a lane begins a wait, and whether the phase is not complete then.
        let (mut begins, mut blocks) = (false, false);
        for lane in ctx.lanes() {
            let expired = ctx.warp.timed_out >> lane & 1 == 1;
            ctx.warp.timed_out &= !(1 << lane);
            let Some((cta, offset)) = locate(ctx, self.space, self.addr, lane) else { continue };
            own_only(ctx, lane, cta);
            let (target, thread) = (self.target(ctx, lane), ctx.thread(lane));
            let tested = match state::test(ctx.cluster, cta, offset, thread, target) {
                Ok(tested) => tested,
                Err(fault) => {
                    report(ctx, lane, &fault);
                    // Going on is the only way on: there is nothing to wait for.
                    ctx.set(self.dst, lane, 1, Default::default());
                    continue;
                }
            };
            begins |= tested.first;
            blocks |= tested.first && !tested.complete;
            if tested.lapped && ctx.checks().barriers {
                let message = format!(
                    "the wait on the mbarrier at shared offset {offset:#x} is more than one phase behind: {} phases \
                     have completed",
                    tested.phases
                );
                ctx.finding(Class::Mbarrier, lane, message, None);
            }
            if tested.complete {
                if let Some(phase) = tested.phases.checked_sub(1) {
                    let object = Object::Mbarrier { cta, offset, phase };
                    match self.acquire {
                        Some(scope) => hooks::thread_acquire(ctx, lane, object, scope),
                        None => hooks::thread_observe(ctx, lane, object),
                    }
                }
            } else if self.suspends && !expired && !tested.first {
                let parity = match target {
                    Target::Parity(p) => p,
                    Target::Phase(p) => (p & 1) as u32,
                };
                waiting[lane] = Some(Wait::Mbarrier { cta, offset, parity });
                continue;
            }
            any_false |= !tested.complete;
            ctx.set(self.dst, lane, u64::from(tested.complete), Default::default());
        }
        if begins {
            add_wait(ctx, (Counter::MbarrierWaits, Counter::MbarrierBlocked), blocks);
        }
        let Some(first) = waiting.iter().flatten().next().copied() else {
            return if any_false { Flow::Yield } else { Flow::Next };
        };
        let mut together = 0;
        for (lane, wait) in waiting.iter().enumerate() {
            match *wait {
                Some(wait) if wait == first => together |= 1 << lane,
                // Lanes that wait for something else than the first one wait by themselves.
                Some(wait) => {
                    ctx.warp.state[lane] = LaneState::Retry(wait);
                    ctx.mask &= !(1 << lane);
                }
                None => {}
            }
        }
        retry(ctx, together, first)
    }
}

struct PendingCount {
    dst: Reg,
    state: Src,
}

impl Execute for PendingCount {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        ctx.map(self.dst, [self.state], |[s]| s >> 32 & 0x000f_ffff);
        Flow::Next
    }
}

/// The state space of an mbarrier operand.
pub(super) fn space(d: &mut Decoder<'_>) -> AddressSpace {
    d.take_one(&[
        ("shared::cta", AddressSpace::SharedCta),
        ("shared::cluster", AddressSpace::SharedCluster),
        ("shared", AddressSpace::SharedCta),
    ])
    .unwrap_or(AddressSpace::Generic)
}

/// `.sem.scope`, which come together: `None` = relaxed.
fn semantics(d: &mut Decoder<'_>, strong: &'static str) -> Result<Option<Scope>> {
    let sem = d.take_one(&[(strong, true), ("relaxed", false)]);
    let scope = d.take_one(&[("cta", Scope::Cta), ("cluster", Scope::Cluster)]);
    match (sem, scope) {
        (None, None) => Ok(Some(Scope::Cta)),
        (Some(sem), Some(scope)) => Ok(sem.then_some(scope)),
        _ => d.error("semantics and scope must be given together"),
    }
}

/// `mbarrier.op...`.
fn decode(d: &mut Decoder<'_>) -> Result<Op> {
    d.need_one(".b64", &[("b64", ())])?;
    if d.take("pending_count") {
        let (dst, state) = (d.reg(0)?, d.src(1, Ty::B64)?);
        d.finish(2)?;
        return Ok(Box::new(PendingCount { dst, state }));
    }
    let one = Src::Imm(1);
    let operands = d.operand_count();
    let op = d.rest().first().copied().unwrap_or_default();
    match op {
        "init" | "inval" => {
            d.take(op);
            let (space, addr) = (space(d), d.addr(0)?);
            if space == AddressSpace::SharedCluster {
                return d.error("the object must be in .shared::cta");
            }
            if op == "inval" {
                d.finish(1)?;
                return Ok(Box::new(Inval { space, addr }));
            }
            let count = d.src(1, Ty::U32)?;
            d.finish(2)?;
            Ok(Box::new(Init { space, addr, count }))
        }
        "expect_tx" | "complete_tx" => {
            d.take(op);
            let relaxed = d.take("relaxed");
            let scope = d.take_one(&[("cta", ()), ("cluster", ())]);
            if relaxed != scope.is_some() {
                return d.error("semantics and scope must be given together");
            }
            let (space, addr, bytes) = (space(d), d.addr(0)?, d.src(1, Ty::U32)?);
            let change = if op == "expect_tx" { Change::ExpectTx(bytes) } else { Change::CompleteTx(bytes) };
            d.finish(2)?;
            Ok(Box::new(Update { space, addr, change, state: None, release: None }))
        }
        "arrive" | "arrive_drop" => {
            d.take(op);
            let (expects, no_complete) = (d.take("expect_tx"), d.take("noComplete"));
            let release = semantics(d, "release")?;
            let (space, state, addr) = (space(d), d.dst_or_sink(0)?, d.addr(1)?);
            let last = if operands == 3 { Some(d.src(2, Ty::U32)?) } else { None };
            if (expects || no_complete) && last.is_none() || expects && no_complete {
                return d.error("needs a count");
            }
            if space == AddressSpace::SharedCluster && state.is_some() {
                return d
                    .error("an arrival in .shared::cluster returns no state: the destination must be `_`");
            }
            let (count, tx) = if expects { (one, last) } else { (last.unwrap_or(one), None) };
            d.finish(if last.is_some() { 3 } else { 2 })?;
            let change = Change::Arrive { count, tx, drop: op == "arrive_drop", no_complete };
            Ok(Box::new(Update { space, addr, change, state, release }))
        }
        "test_wait" | "try_wait" => {
            d.take(op);
            let (by_parity, suspends) = (d.take("parity"), op == "try_wait");
            let acquire = semantics(d, "acquire")?;
            let space = space(d);
            if space == AddressSpace::SharedCluster {
                return d.error("a wait needs .shared::cta");
            }
            let (dst, addr) = (d.reg(0)?, d.addr(1)?);
            let target = d.src(2, if by_parity { Ty::U32 } else { Ty::B64 })?;
            // The suspend-time hint changes nothing: see the head of this file.
            let hint = suspends && operands == 4;
            if hint {
                d.src(3, Ty::U32)?;
            }
            d.finish(if hint { 4 } else { 3 })?;
            Ok(Box::new(WaitOp { space, addr, target, by_parity, suspends, dst, acquire }))
        }
        _ => d.error("operation is not modelled"),
    }
}
