//! `wgmma.wait_group` (PTX ISA 9.7.15.7.2), and waits that are not written.

use super::op::{group_object, key, warpgroup};
use super::state::Key;
use crate::check::{Access, Class, Mode, Origin, OriginKind};
use crate::decode::Execute;
use crate::machine::{Ctx, Flow, LANES, Wait};
use crate::ops::hooks::{self, Scope};
use crate::ops::sync_state::count_wait;
use crate::program::Reg;

/// Name of the wait in reports.
pub(super) const GROUP: &str = "wgmma group";

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
        // Groups below this one must be complete.
        let limit = warpgroup(ctx, key).warps[slot].commits.saturating_sub(self.pending);
        let wait = Wait::Async { what: GROUP, pending: self.pending };
        if !is_complete(ctx, key, slot, limit) {
            count_wait(ctx, ctx.mask, wait);
            return Flow::Retry(wait);
        }
        count_wait(ctx, 0, wait);
        finish(ctx, key, slot, limit);
        Flow::Next
    }
}

/// An instruction that names an accumulator in flight. ptxas puts a wait in front of it, and compilers rely on that: in
/// `cutlass-compatible` mode so is it here. The wait covers all up to that wgmma, which is committed if it was not.
/// `None` = no wait, or it is over.
#[cold]
fn wait_for(ctx: &mut Ctx<'_>, registers: &[Reg]) -> Option<Wait> {
    let (key, slot) = key(ctx);
    let warp = &mut warpgroup(ctx, key).warps[slot];
    let names = |d: &[Reg]| registers.iter().any(|r| d.contains(r));
    let limit = warp.in_flight.iter().filter(|f| names(&f.d)).map(|f| f.group + 1).max()?;
    warp.commits = warp.commits.max(limit);
    let wait = Wait::Async { what: GROUP, pending: warp.commits - limit };
    if !is_complete(ctx, key, slot, limit) {
        return Some(wait);
    }
    finish(ctx, key, slot, limit);
    None
}

/// The wait in front of an instruction that nobody has written; it names `registers`.
#[inline]
pub(crate) fn implicit_wait(ctx: &mut Ctx<'_>, registers: &[Reg]) -> Option<Wait> {
    if ctx.checks().mode != Mode::CutlassCompatible || !registers.iter().any(|&r| ctx.warp.is_dirty(r)) {
        return None;
    }
    wait_for(ctx, registers)
}

/// Whether the groups below `limit` are complete, also those that other warps have not issued yet.
fn is_complete(ctx: &mut Ctx<'_>, key: Key, slot: usize, limit: u32) -> bool {
    let group = warpgroup(ctx, key);
    let unissued = group.partial.iter().any(|p| p.group < limit && p.warps >> slot & 1 == 1);
    !unissued && group.pending.iter().all(|&g| g >= limit)
}

/// The groups below `limit` have been waited for: their registers are the warp's again.
fn finish(ctx: &mut Ctx<'_>, key: Key, slot: usize, limit: u32) {
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
        return;
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
}
