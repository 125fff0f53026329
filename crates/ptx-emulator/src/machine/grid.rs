//! Clusters that are interleaved on one host thread, because they may wait for each other, or one alone.
//!
//! Every cluster that is resident takes a step in its turn, in an order that the schedule chooses; when one has
//! finished, the next is launched in its place. All of it is deterministic. What they share moves from one to the
//! next: the race detector, and what is taken of the tensor memories.

use std::collections::VecDeque;

use super::ctx::AsyncCtx;
use super::launch::{Dim3, Environment, Runner};
use super::schedule::{Random, Schedule};
use super::spin::Spins;
use super::warp::Wait;
use crate::check::Report;
use crate::check::race::{Detector, Span};
use crate::counters::Counters;
use crate::ops::State;
use crate::trace::Event;

/// How many CTAs a machine holds at one time. The others of a grid wait until one exits, so that a CTA which waits
/// for one of them waits forever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Residency {
    /// Multiprocessors.
    pub sms: u32,
    /// CTAs on each. With more than one they share its tensor memory: `tcgen05.alloc` waits for columns that another
    /// CTA holds (PTX ISA 9.7.16.7.1).
    pub ctas_per_sm: u32,
}

impl Default for Residency {
    /// A B200, and one CTA on each multiprocessor: what kernels with large shared memory get.
    fn default() -> Self {
        Self { sms: 148, ctas_per_sm: 1 }
    }
}

impl Residency {
    /// CTAs at one time.
    pub fn ctas(self) -> u32 {
        self.sms.saturating_mul(self.ctas_per_sm)
    }
}

/// What remains of a cluster: its registers and memory go at once, or a large grid would need all of them.
pub(super) struct Finished {
    pub(super) report: Report,
    pub(super) counters: Counters,
    pub(super) trace: Vec<Event>,
    /// Global memory that it has touched; of clusters run together, the last has that of all.
    pub(super) spans: Vec<Span>,
}

struct Grid<'a, 'e> {
    env: &'a Environment<'e>,
    clusters: &'a [Dim3],
    /// Clusters not yet launched, by number.
    waiting: VecDeque<usize>,
    running: Vec<Runner>,
    free: Vec<usize>,
    detector: Box<Detector>,
    random: Random,
    spins: Spins,
    finished: Vec<Option<Finished>>,
}

/// Runs clusters to their end, at most `capacity` of them at one time; what remains of each, in their order.
pub(super) fn run(env: &Environment<'_>, clusters: &[Dim3], capacity: usize) -> Vec<Finished> {
    let seed = if let Schedule::Seeded(s) = env.schedule { s } else { 0 };
    let mut grid = Grid {
        env,
        clusters,
        waiting: (0..clusters.len()).collect(),
        running: Vec::new(),
        free: (0..capacity.min(clusters.len())).rev().collect(),
        detector: Box::default(),
        random: Random::new(seed),
        spins: Spins::default(),
        finished: clusters.iter().map(|_| None).collect(),
    };
    grid.launch();
    while !grid.running.is_empty() {
        if !grid.round() {
            break;
        }
        grid.retire();
        grid.launch();
    }
    let mut finished: Vec<Finished> = grid.finished.into_iter().flatten().collect();
    if let Some(last) = finished.last_mut() {
        last.spans = grid.detector.spans();
    }
    finished
}

impl Grid<'_, '_> {
    /// Launches clusters where there is room.
    fn launch(&mut self) {
        while let Some(&slot) = self.free.last()
            && let Some(number) = self.waiting.pop_front()
        {
            self.free.pop();
            let slot = (self.clusters.len() > 1).then_some(slot);
            let mut runner = Runner::new(self.env, self.clusters[number], number, slot);
            if number == 0 {
                // The first one brings a detector that fits.
                std::mem::swap(&mut self.detector, &mut runner.cluster.state.races);
                self.detector.depend_on(&self.env.predecessors);
                self.detector.follow_all(self.clusters.len() > 1);
            }
            let first = runner.cluster.state.first_cta;
            if self.env.checks.races {
                runner.cluster.ctas.iter().for_each(|c| self.detector.admit(first + c.rank, c.linear));
            }
            runner.cluster.state.races = Box::default();
            self.running.push(runner);
        }
    }

    /// One step of every cluster. `false` after a deadlock.
    fn round(&mut self) -> bool {
        let mut progress = false;
        for turn in self.order() {
            progress |= self.with_shared(turn, |runner, env| runner.step(env));
            self.share_tensor_memory(turn);
        }
        if self.running.iter().all(Runner::finished) {
            return true;
        }
        let stuck = !progress || self.spins.stuck(&self.running);
        // Waits with a time limit reach it before anything else is given up.
        if stuck && (!progress || !self.time_out()) {
            self.deadlock();
            return false;
        }
        true
    }

    fn time_out(&mut self) -> bool {
        self.spins.forget();
        self.running.iter_mut().filter(|r| !r.finished()).fold(false, |any, r| r.time_out() | any)
    }

    /// In which order the clusters take their steps.
    fn order(&mut self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.running.len()).collect();
        match self.env.schedule {
            Schedule::HighestWarpFirst => order.reverse(),
            Schedule::Seeded(_) if order.len() > 1 => {
                for i in (1..order.len()).rev() {
                    order.swap(i, self.random.below(i + 1));
                }
            }
            _ => {}
        }
        order
    }

    /// Lends a cluster what all of them share.
    fn with_shared<R>(&mut self, at: usize, f: impl FnOnce(&mut Runner, &Environment<'_>) -> R) -> R {
        let runner = &mut self.running[at];
        std::mem::swap(&mut self.detector, &mut runner.cluster.state.races);
        let result = f(runner, self.env);
        std::mem::swap(&mut self.detector, &mut runner.cluster.state.races);
        result
    }

    /// Tells the CTAs on the same multiprocessors which columns the CTAs of a cluster hold now.
    fn share_tensor_memory(&mut self, at: usize) {
        if self.env.residency.ctas_per_sm < 2 || !self.running[at].cluster.state.tcgen05.take_changed() {
            return;
        }
        let held: Vec<(u32, u32, u32, u32)> = self
            .running
            .iter()
            .flat_map(|r| {
                let state = &r.cluster.state;
                r.cluster.ctas.iter().flat_map(move |c| {
                    let all = state.tcgen05.allocations(c.rank);
                    all.map(move |(column, columns)| (c.sm, state.first_cta + c.rank, column, columns))
                })
            })
            .collect();
        for runner in &mut self.running {
            let cluster = &mut runner.cluster;
            for cta in &cluster.ctas {
                let me = cluster.state.first_cta + cta.rank;
                let others = held.iter().filter(|h| h.0 == cta.sm && h.1 != me);
                cluster.state.tcgen05.set_neighbours(cta.rank, others.map(|h| (h.2, h.3)).collect());
            }
            cluster.wake_all(|w| w == Wait::TensorMemory);
        }
    }

    /// Takes clusters out that have finished.
    fn retire(&mut self) {
        for at in (0..self.running.len()).rev() {
            if !self.running[at].finished() {
                continue;
            }
            self.with_shared(at, finish);
            let runner = self.running.remove(at);
            self.spins.forget();
            if self.clusters.len() > 1 {
                self.detector.retire(runner.number as u32);
            }
            self.free.push(runner.slot);
            let cluster = runner.cluster;
            let trace = cluster.trace.unwrap_or_default();
            self.finished[runner.number] = Some(Finished {
                report: cluster.report,
                counters: cluster.counters,
                trace,
                spans: Vec::new(),
            });
        }
    }

    /// Reports that no cluster can go on, and ends all of them.
    fn deadlock(&mut self) {
        let more = match self.waiting.len() {
            0 => String::new(),
            n => format!(
                "; {n} cluster(s) of {} have not been launched, because the {} that the machine holds have not finished",
                self.clusters.len(),
                self.running.len()
            ),
        };
        for at in 0..self.running.len() {
            if !self.running[at].finished() {
                self.with_shared(at, |runner, env| runner.deadlock(env, &more));
            }
        }
        self.retire();
    }
}

/// What is still in flight when the last thread of a cluster exits completes (or is a finding of its family).
fn finish(runner: &mut Runner, env: &Environment<'_>) {
    while let Some(&key) = runner.cluster.engine.heads().first() {
        if let Some(op) = runner.cluster.engine.take(key) {
            op.complete(&mut AsyncCtx { env, cluster: &mut runner.cluster });
        }
    }
    State::on_finish(&mut runner.cluster, env);
    if let Some(progress) = env.progress {
        progress.finished(runner.cluster.ctas.len() as u64);
    }
}
