//! One warp: which lanes execute next, and what becomes of them.

use super::LANES;
use super::ctx::Ctx;
use super::launch::{Environment, Runner};
use super::schedule::Schedule;
use super::warp::{Flow, LaneState, Warp};
use crate::check::{Class, Finding};
use crate::counters::Counter;
use crate::ops::{State, implicit_wait, repeated};
use crate::program::Reg;
use crate::trace::Event;

/// Where a warp goes on, if all its lanes that have not exited are ready and at one place.
#[derive(Clone, Copy)]
struct Together {
    pc: u32,
    lanes: u32,
}

/// The lanes of a set.
fn lanes(set: u32) -> impl Iterator<Item = usize> {
    (0..LANES).filter(move |l| set >> l & 1 == 1)
}

/// Executing lanes whose guard holds.
fn guarded(ctx: &mut Ctx<'_>, reg: Reg, negated: bool) -> u32 {
    for lane in lanes(ctx.warp.dirty_lanes(reg) & ctx.converged) {
        let origin = ctx.warp.origin(reg, lane);
        ctx.report_poison(origin, lane, "a guard predicate");
    }
    let row = ctx.warp.row(reg);
    let holds = row.iter().enumerate().fold(0u32, |m, (l, v)| m | ((v & 1) as u32) << l);
    ctx.converged & if negated { !holds } else { holds }
}

impl Runner {
    /// Runs a warp for at most `quantum` instructions; whether it gave up its turn before.
    pub(super) fn run_warp(&mut self, env: &Environment<'_>, cta: usize, index: usize, quantum: u32) -> bool {
        let placeholder = Warp::new(index, 0, 0);
        let mut warp = std::mem::replace(&mut self.cluster.ctas[cta].warps[index], placeholder);
        warp.yielded = 0;
        let mut together = None;
        let start = self.now();
        let mut gave_up = false;
        for _ in 0..quantum {
            if !self.step_warp(env, cta, &mut warp, &mut together) || self.cluster.aborted {
                gave_up = true;
                break;
            }
            self.since_async = self.since_async.saturating_add(1);
            if env.schedule == Schedule::AsyncAtOnce && !self.cluster.engine.is_empty() {
                break;
            }
        }
        if self.cluster.trace.is_some() {
            // Named by where it stopped: that is what it waits for.
            let at = warp.pc[warp.alive().trailing_zeros() as usize % LANES];
            let place = env.place(at, self.cluster.ctas[cta].linear, 0);
            let (name, duration) = (format!("line {}: {}", place.line, place.text), self.now() - start);
            self.record(Event { name, cta: place.cta, warp: Some(index as u32), start, duration });
        }
        if let Some(progress) = env.progress {
            progress.executed(self.now() - start);
        }
        self.cluster.ctas[cta].warps[index] = warp;
        gave_up
    }

    /// One instruction of a warp: of its ready lanes, those with the lowest pc. `false` = let others run.
    fn step_warp(
        &mut self,
        env: &Environment<'_>,
        cta: usize,
        warp: &mut Warp,
        together: &mut Option<Together>,
    ) -> bool {
        let (pc, converged, whole) = match together.take() {
            Some(t) => (t.pc, t.lanes, true),
            None => {
                let ready = warp.lanes(|s| matches!(s, LaneState::Ready));
                // Lanes that spun already in this round stand back for diverged ones.
                let candidates = ready & !warp.yielded;
                let Some(pc) = lanes(candidates).map(|l| warp.pc[l]).min() else { return false };
                let converged = lanes(ready).filter(|&l| warp.pc[l] == pc).fold(0u32, |m, l| m | 1 << l);
                (pc, converged, converged == warp.alive())
            }
        };
        let Some(inst) = env.program.code.get(pc as usize) else {
            // Falling off the end is `ret`.
            for l in lanes(converged) {
                warp.state[l] = LaneState::Exited;
            }
            State::on_exit(&mut self.cluster, cta, warp, converged);
            return true;
        };
        if env.budget != 0 && self.cluster.counters.warp_instructions >= env.budget {
            self.out_of_budget(env, cta, warp, pc);
            return false;
        }
        // Lanes that stand back because they spin belong to it too: a warp comes together before a barrier.
        if !whole && inst.op.is_aligned() {
            let spinning = warp.lanes(|s| matches!(s, LaneState::Ready)) & warp.yielded & !converged;
            if spinning != 0 {
                return false;
            }
        }
        let mut ctx = Ctx { env, cluster: &mut self.cluster, cta, warp, mask: converged, converged, pc };
        let mut wait = None;
        if env.program.uses_wgmma {
            wait = implicit_wait(&mut ctx, &inst.registers);
        }
        if let Some((reg, negated)) = inst.guard
            && wait.is_none()
        {
            ctx.mask = guarded(&mut ctx, reg, negated);
        }
        if inst.op.is_aligned() && env.checks.aligned && ctx.mask != 0 && ctx.mask != ctx.warp.alive() {
            let (mask, alive) = (ctx.mask, ctx.warp.alive());
            let message = format!(
                "executed by lanes {mask:#010x} of {alive:#010x}, but `.aligned` needs the whole warp"
            );
            ctx.finding(Class::Divergent, mask.trailing_zeros() as usize, message, None);
        }
        // Lanes whose guard is false go on; the instruction may change the mask of those that execute.
        let skipped = converged & !ctx.mask;
        let flow = match wait {
            Some(wait) => Flow::Retry(wait),
            None if ctx.mask != 0 || inst.op.runs_without_lanes() => inst.op.execute(&mut ctx),
            None => Flow::Next,
        };
        if !ctx.cluster.state.repeated.is_empty() {
            repeated::settle(&mut ctx);
        }
        let mask = ctx.mask;
        self.cluster.counters.warp_instructions += 1;
        self.cluster.counters.lane_instructions += u64::from(mask.count_ones());
        let parts = skipped != 0 && mask != 0 && matches!(flow, Flow::Jump(_));
        if parts || !whole {
            self.cluster.counters.add(Counter::DivergentBranches, u64::from(parts));
            self.cluster.counters.add(Counter::DivergedInstructions, u64::from(!whole));
        }
        // An instruction that waits is executed again: it counts when it goes on.
        let again = matches!(flow, Flow::Retry(_));
        let through = if again { converged & !skipped & !mask } else { mask };
        if again {
            self.cluster.counters.add(Counter::Retries, 1);
        }
        let site = self.cluster.counters.site(pc);
        site.executed += u64::from(!again);
        site.lanes += u64::from(through.count_ones());
        site.diverged += u64::from(!whole && !again);
        warp.issued += 1;
        // The usual case: the whole warp stays together. (A warp that is together has no lane that waits, so
        // an instruction cannot have woken any; one that makes lanes wait takes them out of the mask.)
        if whole && mask | skipped == converged {
            let next = match flow {
                Flow::Next => Some(pc + 1),
                Flow::Jump(target) if skipped == 0 => {
                    // A backward branch may be a spin: let others run now and then.
                    warp.yielded = if target <= pc { 0 } else { warp.yielded };
                    Some(target)
                }
                _ => None,
            };
            if let Some(pc) = next {
                warp.pc = [pc; LANES];
                *together = Some(Together { pc, lanes: converged });
                return true;
            }
        }
        for l in lanes(skipped) {
            warp.pc[l] = pc + 1;
        }
        for l in lanes(mask) {
            match flow {
                Flow::Next | Flow::Yield => warp.pc[l] = pc + 1,
                Flow::Jump(target) => warp.pc[l] = target,
                Flow::Exit => warp.state[l] = LaneState::Exited,
                Flow::Retry(wait) => warp.state[l] = LaneState::Retry(wait),
                Flow::Block(wait) => warp.state[l] = LaneState::Blocked(wait),
                Flow::Abort => {}
            }
        }
        match flow {
            Flow::Yield => {
                warp.yielded |= mask;
                return warp.lanes(|s| matches!(s, LaneState::Ready)) & !warp.yielded != 0;
            }
            Flow::Jump(target) if target <= pc => warp.yielded = 0,
            Flow::Abort => self.cluster.aborted = true,
            Flow::Exit => State::on_exit(&mut self.cluster, cta, warp, mask),
            _ => {}
        }
        true
    }

    #[cold]
    fn out_of_budget(&mut self, env: &Environment<'_>, cta: usize, warp: &Warp, pc: u32) {
        let place = env.place(pc, self.cluster.ctas[cta].linear, (warp.index * LANES) as u32);
        let message = format!("stopped after {} warp instructions", env.budget);
        self.cluster.report.add(Finding { class: Class::Budget, place, message, earlier: None, count: 1 });
        self.cluster.aborted = true;
    }
}
