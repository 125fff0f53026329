//! What the synchronisation families keep per cluster, and what happens when threads exit.

use super::groups::Groups;
use super::mbarrier_state::Mbarriers;
use super::registers::RegisterPools;
use super::{barrier, cluster_barrier};
use crate::check::{Class, Finding, Place};
use crate::counters::Counter;
use crate::machine::{Cluster, Cta, Ctx, Flow, LANES, Wait, Warp};

/// State of barriers, mbarriers, asynchronous groups and register pools.
#[derive(Default)]
pub struct SyncState {
    /// Counts everything that can end a wait: arrivals, completions, exits.
    pub events: u64,
    /// Which CTAs have no thread left.
    pub exited: Vec<bool>,
    /// Named barriers: arrivals that threads have still to return from.
    pub(super) barrier: barrier::Returns,
    /// The cluster barrier.
    pub(super) cluster: cluster_barrier::ClusterBarrier,
    /// mbarriers.
    pub(super) mbarriers: Mbarriers,
    /// Asynchronous groups of threads.
    pub(super) groups: Groups,
    /// `setmaxnreg`.
    pub(super) registers: RegisterPools,
    /// CTAs that have seen a `clusterlaunchcontrol.try_cancel` fail.
    pub(super) cancel_failed: Vec<bool>,
}

impl SyncState {
    /// For a cluster of `ctas` CTAs of `warps` warps.
    pub fn new(ctas: usize, warps: usize) -> Self {
        Self {
            events: 0,
            exited: vec![false; ctas],
            barrier: barrier::Returns::new(ctas, warps),
            cluster: cluster_barrier::ClusterBarrier::new(ctas, warps),
            mbarriers: Mbarriers::new(ctas),
            groups: Groups::default(),
            registers: RegisterPools::new(ctas, warps),
            cancel_failed: vec![false; ctas],
        }
    }

    /// What a wait waits for; `None` if it is not one of these families' waits.
    pub fn describe_wait(&self, ctas: &[Cta], cta: usize, wait: Wait) -> Option<String> {
        match wait {
            Wait::Barrier { id } => Some(barrier::describe(ctas, cta, id)),
            Wait::Cluster => Some(self.cluster.describe(ctas)),
            Wait::Mbarrier { cta, offset, parity } => {
                Some(self.mbarriers.describe(ctas, cta, offset, parity))
            }
            Wait::Registers => Some(self.registers.describe(cta)),
            Wait::Async { what, pending } => Some(format!("at most {pending} pending {what}")),
            _ => None,
        }
    }
}

/// Lanes of a warp (taken out of its CTA) have exited.
pub(super) fn on_exit(cluster: &mut Cluster, cta: usize, warp: &mut Warp) {
    cluster.state.sync.events += 1;
    barrier::on_exit(cluster, cta, warp);
    cluster_barrier::on_exit(cluster, cta, warp);
    // The warp itself has been taken out: an empty one stands in its place.
    let all = warp.alive() == 0 && cluster.ctas[cta].warps.iter().all(|w| w.alive() == 0);
    if all && !cluster.state.sync.exited[cta] {
        cluster.state.sync.exited[cta] = true;
        for (place, reads) in cluster.state.sync.groups.not_waited_for(cta as u32) {
            let message = format!(
                "the CTA has exited without waiting for {reads} bulk operation(s) that read its shared memory \
                 (cp.async.bulk.wait_group.read)"
            );
            add(cluster, Class::UseAfterFree, place, message);
        }
    }
}

/// Adds a finding.
pub(super) fn add(cluster: &mut Cluster, class: Class, place: Place, message: String) {
    cluster.report.add(Finding { class, place, message, earlier: None, count: 1 });
}

/// Whether a CTA rank exists and has threads left; if not, why an access to its shared memory is wrong.
pub(super) fn check_alive(cluster: &Cluster, owner: u32) -> Result<(), (Class, String)> {
    match cluster.state.sync.exited.get(owner as usize) {
        None => Err((
            Class::OutOfBounds,
            format!("CTA rank {owner} is not in the cluster of {}", cluster.ctas.len()),
        )),
        Some(true) => Err((
            Class::UseAfterFree,
            format!("shared memory of CTA rank {owner}, all of whose threads have exited"),
        )),
        Some(false) => Ok(()),
    }
}

/// Counts that the executing lanes come to a wait, unless they have been waiting in it; those of `waiting` block.
pub(super) fn count_wait(ctx: &mut Ctx<'_>, waiting: u32, wait: Wait) {
    let counters = match wait {
        Wait::Barrier { .. } => (Counter::BarrierWaits, Counter::BarrierBlocked),
        Wait::Cluster => (Counter::ClusterBarrierWaits, Counter::ClusterBarrierBlocked),
        Wait::Async { .. } => (Counter::GroupWaits, Counter::GroupBlocked),
        // `mbarrier` counts by itself, from the first try on, which does not block; others are no waits of programs.
        _ => return,
    };
    let new = ctx.mask & !ctx.warp.waiting;
    ctx.warp.waiting = ctx.warp.waiting & !ctx.mask | waiting;
    if new != 0 {
        add_wait(ctx, counters, waiting & new != 0);
    }
}

/// Counts a wait of a warp.
pub(super) fn add_wait(ctx: &mut Ctx<'_>, (waits, blocked): (Counter, Counter), blocks: bool) {
    let counters = &mut ctx.cluster.counters;
    counters.add(waits, 1);
    if blocks {
        counters.add(blocked, 1);
        counters.site(ctx.pc).blocked += 1;
    }
}

/// The lanes of `waiting` execute the instruction again when `wait` is over; the other executing lanes go on.
pub(super) fn retry(ctx: &mut Ctx<'_>, waiting: u32, wait: Wait) -> Flow {
    count_wait(ctx, waiting, wait);
    if waiting == 0 {
        return Flow::Next;
    }
    for lane in 0..LANES {
        if (ctx.mask & !waiting) >> lane & 1 == 1 {
            ctx.warp.pc[lane] = ctx.pc + 1;
        }
    }
    ctx.mask &= waiting;
    Flow::Retry(wait)
}

/// Wakes the lanes whose wait satisfies `f`, of all CTAs and of the executing warp.
pub(super) fn wake_all(ctx: &mut Ctx<'_>, f: impl Fn(Wait) -> bool) {
    ctx.cluster.wake_all(&f);
    ctx.warp.wake(&f);
}
