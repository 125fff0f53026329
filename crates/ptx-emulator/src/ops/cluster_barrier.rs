//! The cluster barrier: `barrier.cluster.arrive`, `.wait` (PTX ISA 9.7.13.3).
//!
//! A phase completes when all non-exited threads of the cluster have arrived. Arrivals are counted per thread
//! and do not wait for the rest of the warp.

use super::hooks::{self, Object, Scope};
use super::sync_state::{retry, wake_all};
use crate::check::Class;
use crate::decode::{Decoder, Execute, Op, Result};
use crate::machine::{Cluster, Cta, Ctx, Flow, Wait, Warp};

/// Lanes per (cta, warp).
type Masks = Vec<Vec<u32>>;

/// State of the barrier.
#[derive(Default)]
pub(super) struct ClusterBarrier {
    /// Completed phases.
    phase: u64,
    /// Threads that have arrived in the current phase.
    arrived: Masks,
    /// Threads that have arrived, and whose phase has completed, but that have not waited.
    released: Masks,
}

impl ClusterBarrier {
    pub(super) fn new(ctas: usize, warps: usize) -> Self {
        let masks = vec![vec![0; warps]; ctas];
        Self { phase: 0, arrived: masks.clone(), released: masks }
    }

    /// For deadlock reports.
    pub(super) fn describe(&self, ctas: &[Cta]) -> String {
        let count = |m: u32| m.count_ones();
        let mut text = format!("the cluster barrier, phase {}:", self.phase);
        for (cta, arrived) in ctas.iter().zip(&self.arrived) {
            let alive: u32 = cta.warps.iter().map(|w| count(w.alive())).sum();
            let arrived: u32 = cta.warps.iter().zip(arrived).map(|(w, a)| count(a & w.alive())).sum();
            text.push_str(&format!(" {arrived} of {alive} threads of CTA rank {}", cta.rank));
        }
        text
    }

    /// Completes the phase if everyone has arrived; `own` has been taken out of `cta`.
    fn complete(&mut self, ctas: &[Cta], cta: usize, own: &Warp) -> bool {
        if own.alive() & !self.arrived[cta][own.index] != 0 {
            return false;
        }
        let missing = |(c, w): (usize, &Warp)| {
            (c, w.index) != (cta, own.index) && w.alive() & !self.arrived[c][w.index] != 0
        };
        if ctas.iter().enumerate().flat_map(|(c, x)| x.warps.iter().map(move |w| (c, w))).any(missing) {
            return false;
        }
        if self.arrived.iter().flatten().all(|&m| m == 0) {
            return false;
        }
        for (arrived, released) in self.arrived.iter_mut().flatten().zip(self.released.iter_mut().flatten()) {
            *released |= std::mem::take(arrived);
        }
        self.phase += 1;
        true
    }
}

/// Lanes of a warp have exited.
pub(super) fn on_exit(cluster: &mut Cluster, cta: usize, warp: &mut Warp) {
    if cluster.state.sync.cluster.complete(&cluster.ctas, cta, warp) {
        cluster.wake_all(|w| w == Wait::Cluster);
        warp.wake(|w| w == Wait::Cluster);
    }
}

struct Arrive {
    release: bool,
    aligned: bool,
}

impl Execute for Arrive {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let (cta, warp) = (ctx.cta, ctx.warp.index);
        let state = &mut ctx.cluster.state.sync.cluster;
        let phase = state.phase;
        let twice = (state.arrived[cta][warp] | state.released[cta][warp]) & ctx.mask;
        state.arrived[cta][warp] |= ctx.mask;
        if twice != 0 && ctx.checks().barriers {
            let message = "barrier.cluster.arrive again without barrier.cluster.wait in between".to_owned();
            ctx.finding(Class::Barrier, twice.trailing_zeros() as usize, message, None);
        }
        for lane in ctx.lanes() {
            let object = Object::ClusterBarrier(phase);
            if self.release {
                hooks::thread_release(ctx, lane, object, Scope::Cluster);
            } else {
                hooks::thread_publish(ctx, lane, object);
            }
        }
        ctx.cluster.state.sync.events += 1;
        if ctx.cluster.state.sync.cluster.complete(&ctx.cluster.ctas, cta, ctx.warp) {
            wake_all(ctx, |w| w == Wait::Cluster);
        }
        Flow::Next
    }

    fn is_aligned(&self) -> bool {
        self.aligned
    }
}

struct WaitOp {
    aligned: bool,
}

impl Execute for WaitOp {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let (cta, warp) = (ctx.cta, ctx.warp.index);
        let state = &mut ctx.cluster.state.sync.cluster;
        let released = state.released[cta][warp] & ctx.mask;
        let waiting = state.arrived[cta][warp] & ctx.mask & !released;
        state.released[cta][warp] &= !released;
        // A thread that has been released belongs to the phase before the current one.
        let phase = state.phase.wrapping_sub(1);
        let neither = ctx.mask & !released & !waiting;
        if neither != 0 && ctx.checks().barriers {
            let message = "barrier.cluster.wait without an earlier barrier.cluster.arrive".to_owned();
            ctx.finding(Class::Barrier, neither.trailing_zeros() as usize, message, None);
        }
        for lane in ctx.lanes().filter(|l| released >> l & 1 == 1) {
            hooks::thread_acquire(ctx, lane, Object::ClusterBarrier(phase), Scope::Cluster);
        }
        if released != 0 {
            ctx.warp.sync_epoch += 1;
        }
        retry(ctx, waiting, Wait::Cluster)
    }

    fn is_aligned(&self) -> bool {
        self.aligned
    }
}

/// `barrier.cluster.arrive{.release,.relaxed}{.aligned}`, `barrier.cluster.wait{.acquire}{.aligned}`.
pub(super) fn decode(d: &mut Decoder<'_>) -> Result<Op> {
    d.take("cluster");
    let aligned = d.take("aligned");
    if d.take("arrive") {
        let release = d.take_one(&[("release", true), ("relaxed", false)]).unwrap_or(true);
        d.finish(0)?;
        return Ok(Box::new(Arrive { release, aligned }));
    }
    d.need_one("arrive or wait", &[("wait", ())])?;
    d.take("acquire");
    d.finish(0)?;
    Ok(Box::new(WaitOp { aligned }))
}
