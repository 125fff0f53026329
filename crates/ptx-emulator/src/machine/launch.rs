//! Launching a grid.

use std::sync::Arc;

use rayon::prelude::*;

use super::LANES;
use super::asynchronous::Engine;
use super::cluster::Cluster;
use super::cta::{Cta, NamedBarrier};
use super::ctx::AsyncCtx;
use super::deadlock::Waits;
use super::global::GlobalMemory;
use super::grid::{self, Finished, Residency};
use super::local::LocalMemory;
use super::progress::Progress;
use super::schedule::{Random, Schedule};
use super::shared::SharedMemory;
use super::warp::{LaneState, Warp};
use crate::check::race::{Span, Touched, compare};
use crate::check::{Checks, Finding, Place, Report};
use crate::counters::Counters;
use crate::numerics::Precision;
use crate::ops::State;
use crate::program::Program;
use crate::trace;
use crate::trace::Event;

/// Extents in x, y, z.
pub type Dim3 = [u32; 3];

/// A kernel argument.
#[derive(Clone, Debug, PartialEq)]
pub enum Argument {
    /// A 32-bit value.
    B32(u32),
    /// A 64-bit value: integers and device addresses.
    B64(u64),
    /// A by-value aggregate, such as a tensor map.
    Bytes(Vec<u8>),
}

/// A launch.
pub struct Launch<'a> {
    /// The entry.
    pub program: &'a Program,
    /// Addresses of the module's variables on this device, in module order.
    pub symbols: &'a [u64],
    /// Device memory.
    pub global: &'a GlobalMemory,
    /// CTAs.
    pub grid: Dim3,
    /// Threads per CTA.
    pub block: Dim3,
    /// CTAs per cluster.
    pub cluster: Dim3,
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: u32,
    /// Arguments in parameter order.
    pub arguments: &'a [Argument],
    /// Schedule.
    pub schedule: Schedule,
    /// Checkers.
    pub checks: Checks,
    /// Tensor-core arithmetic.
    pub precision: Precision,
    /// Whether [`Outcome::trace`] is wanted.
    pub trace: bool,
    /// How much of the grid runs at one time.
    pub residency: Residency,
    /// Kernels before it on the stream that may still run when it starts: see [`Outcome::touched`].
    pub predecessors: &'a [Arc<Touched>],
    /// Where the launch tells how far it is.
    pub progress: Option<&'a Progress>,
    /// Warp instructions per cluster after which the run is stopped (a livelock guard); 0 = no limit.
    pub budget: u64,
}

/// Why a launch was refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// Wrong number of arguments.
    #[error("entry {entry} takes {expected} arguments, got {got}")]
    ArgumentCount {
        /// Entry name.
        entry: String,
        /// Parameters.
        expected: usize,
        /// Arguments given.
        got: usize,
    },
    /// An argument of another size than its parameter.
    #[error("parameter {name}: expected {expected} bytes, got {got}")]
    ArgumentSize {
        /// Parameter name.
        name: String,
        /// Its size.
        expected: u32,
        /// Size of the argument.
        got: usize,
    },
    /// Grid, block, cluster or shared memory out of range.
    #[error("{0}")]
    Geometry(String),
}

/// The result of a launch.
#[derive(Debug)]
pub struct Outcome {
    /// Findings, ordered.
    pub findings: Vec<Finding>,
    /// Counters.
    pub counters: Counters,
    /// Warp instructions of the cluster that executed the most: what [`Launch::budget`] limits.
    pub longest_cluster: u64,
    /// Events by cluster, empty unless asked for.
    pub trace: Vec<crate::trace::Event>,
    /// The global memory that it has touched, for kernels that may start before it has ended; empty without the race
    /// detector.
    pub touched: Arc<Touched>,
}

/// What is constant during a launch.
pub struct Environment<'a> {
    /// The entry.
    pub program: &'a Program,
    /// Addresses of module variables.
    pub symbols: &'a [u64],
    /// Device memory.
    pub global: &'a GlobalMemory,
    /// CTAs.
    pub grid: Dim3,
    /// Threads per CTA.
    pub block: Dim3,
    /// CTAs per cluster.
    pub cluster: Dim3,
    /// Parameter space.
    pub params: Vec<u8>,
    /// Checkers.
    pub checks: Checks,
    /// Schedule.
    pub schedule: Schedule,
    /// Tensor-core arithmetic.
    pub precision: Precision,
    /// How much of the grid runs at one time; `%nsmid` tells.
    pub residency: Residency,
    /// Kernels that may still run.
    pub predecessors: Vec<Arc<Touched>>,
    dynamic_shared: u32,
    trace: bool,
    pub(super) progress: Option<&'a Progress>,
    pub(super) budget: u64,
}

impl Environment<'_> {
    /// The place of the instruction at `pc`, executed by a thread of a CTA (both linear).
    pub fn place(&self, pc: u32, cta: u32, thread: u32) -> Place {
        match self.program.code.get(pc as usize) {
            Some(inst) => Place { line: inst.line, text: inst.text.clone(), cta, thread },
            None => Place { cta, thread, ..Place::default() },
        }
    }
}

/// Runs a grid to its end.
///
/// # Errors
/// [`LaunchError`] if the launch itself is not valid; what goes wrong inside is in [`Outcome::findings`].
pub fn launch(l: &Launch<'_>) -> Result<Outcome, LaunchError> {
    let env = Environment {
        program: l.program,
        symbols: l.symbols,
        global: l.global,
        grid: l.grid,
        block: l.block,
        cluster: l.cluster,
        params: parameters(l)?,
        checks: l.checks,
        schedule: l.schedule,
        precision: l.precision,
        residency: l.residency,
        predecessors: l.predecessors.to_vec(),
        dynamic_shared: l.dynamic_shared,
        trace: l.trace,
        progress: l.progress,
        budget: l.budget,
    };
    geometry(l)?;
    let clusters: Vec<Dim3> = positions(std::array::from_fn(|i| l.grid[i] / l.cluster[i]));
    if let Some(progress) = l.progress {
        progress.begin(l.grid.iter().map(|&n| u64::from(n)).product());
    }
    let mut finished: Vec<Finished> = if l.program.inter_cta_sync || l.residency.ctas_per_sm > 1 {
        // CTAs may wait for each other: interleave them, deterministically, on this thread.
        let per_cluster = l.cluster.iter().product::<u32>();
        let capacity = (l.residency.ctas() / per_cluster).max(1);
        grid::run(&env, &clusters, capacity as usize)
    } else {
        clusters.par_iter().flat_map_iter(|c| grid::run(&env, std::slice::from_ref(c), 1)).collect()
    };
    let (mut report, mut counters) = (Report::default(), Counters::default());
    let (mut trace, mut longest_cluster) = (Vec::new(), 0);
    let spans: Vec<Vec<Span>> = finished.iter_mut().map(|f| std::mem::take(&mut f.spans)).collect();
    let place = |pc: u32, cta: u32, thread: u32| env.place(pc, cta, thread);
    compare(&spans, place, &mut report);
    let touched = Arc::new(Touched::new(&l.program.name, &spans, place));
    for cluster in finished {
        report.merge(cluster.report);
        longest_cluster = longest_cluster.max(cluster.counters.warp_instructions);
        counters.merge(&cluster.counters);
        trace.extend(cluster.trace);
    }
    counters.describe(l.program);
    Ok(Outcome { findings: report.into_sorted(), counters, longest_cluster, trace, touched })
}

fn parameters(l: &Launch<'_>) -> Result<Vec<u8>, LaunchError> {
    let params = &l.program.params;
    if params.len() != l.arguments.len() {
        return Err(LaunchError::ArgumentCount {
            entry: l.program.name.clone(),
            expected: params.len(),
            got: l.arguments.len(),
        });
    }
    let mut bytes = vec![0; l.program.param_bytes as usize];
    for (param, argument) in params.iter().zip(l.arguments) {
        let data = match argument {
            Argument::B32(v) => v.to_le_bytes().to_vec(),
            Argument::B64(v) => v.to_le_bytes().to_vec(),
            Argument::Bytes(b) => b.clone(),
        };
        // A narrow parameter takes the low bytes of a 32-bit argument.
        let fits = data.len() == param.bytes as usize || (data.len() == 4 && param.bytes < 4);
        if !fits {
            return Err(LaunchError::ArgumentSize {
                name: param.name.clone(),
                expected: param.bytes,
                got: data.len(),
            });
        }
        let at = param.offset as usize;
        bytes[at..at + param.bytes as usize].copy_from_slice(&data[..param.bytes as usize]);
    }
    Ok(bytes)
}

fn geometry(l: &Launch<'_>) -> Result<(), LaunchError> {
    let product = |d: Dim3| d.iter().map(|&x| u64::from(x)).product::<u64>();
    let refuse = |why: String| Err(LaunchError::Geometry(why));
    if product(l.grid) == 0 || product(l.block) == 0 || product(l.cluster) == 0 {
        return refuse("grid, block and cluster must not be empty".to_owned());
    }
    if product(l.block) > 1024 {
        return refuse(format!("a block of {:?} has more than 1024 threads", l.block));
    }
    if product(l.cluster) > 16 || (0..3).any(|i| !l.grid[i].is_multiple_of(l.cluster[i])) {
        return refuse(format!("clusters of {:?} do not tile a grid of {:?}", l.cluster, l.grid));
    }
    if product(l.grid) > 1 << 24 {
        return refuse(format!("a grid of {:?} is too large to emulate", l.grid));
    }
    if l.dynamic_shared > 232_448 {
        return refuse(format!("{} bytes of dynamic shared memory exceed 232448", l.dynamic_shared));
    }
    for (name, values) in &l.program.directives {
        let numbers: Vec<u64> = values.iter().filter_map(|v| v.parse().ok()).collect();
        let dims = |n: &[u64]| [0, 1, 2].map(|i| n.get(i).copied().unwrap_or(1));
        let (block, cluster) = (l.block.map(u64::from), l.cluster.map(u64::from));
        let wrong = match name.as_str() {
            "maxntid" => product(l.block) > dims(&numbers).iter().product(),
            "reqntid" => block != dims(&numbers),
            "reqnctapercluster" => cluster != dims(&numbers),
            "maxclusterrank" => product(l.cluster) > numbers.first().copied().unwrap_or(u64::MAX),
            _ => false,
        };
        if wrong {
            return refuse(format!(".{name} {} does not allow this launch", values.join(", ")));
        }
    }
    Ok(())
}

fn positions(dims: Dim3) -> Vec<Dim3> {
    let mut all = Vec::new();
    for z in 0..dims[2] {
        for y in 0..dims[1] {
            for x in 0..dims[0] {
                all.push([x, y, z]);
            }
        }
    }
    all
}

/// A cluster being run.
pub(super) struct Runner {
    /// Its number among the clusters that are run together.
    pub(super) number: usize,
    /// Where it runs: CTAs that share a multiprocessor share its tensor memory.
    pub(super) slot: usize,
    pub(super) cluster: Cluster,
    random: Random,
    turn: usize,
    /// The warp that ran in the last step (CTA rank, warp), and whether it gave up its turn.
    pub(super) last: Option<(usize, usize, bool)>,
    /// Instructions since an asynchronous operation completed.
    pub(super) since_async: u32,
    /// Turns in a row that warps which can run gave up: if all do, they poll memory, and wait for something.
    idle_turns: usize,
    /// The waits in which time limits were reached since the last synchronisation event, and its number.
    pub(super) timed_out: (u64, Vec<Waits>),
}

/// Warp instructions in a row before another warp gets its turn.
const QUANTUM: u32 = 64;
/// Under round-robin, instructions between completions of asynchronous operations.
const ASYNC_DELAY: u32 = 97;

impl Runner {
    /// A cluster of the grid, the `number`th of those that are run together, in a slot of the machine; `None` if there
    /// is one slot for each.
    pub(super) fn new(env: &Environment<'_>, index: Dim3, number: usize, slot: Option<usize>) -> Self {
        let threads: u32 = env.block.iter().product();
        let warps = threads.div_ceil(LANES as u32);
        let start = env.program.static_shared_end.next_multiple_of(env.program.dynamic_shared_align);
        let shared = (start + env.dynamic_shared) as usize;
        let per_cluster: u32 = env.cluster.iter().product();
        let ctas = positions(env.cluster)
            .into_iter()
            .enumerate()
            .map(|(rank, within)| {
                let at: Dim3 = std::array::from_fn(|i| index[i] * env.cluster[i] + within[i]);
                let exists = |w: u32| {
                    let left = threads - w * LANES as u32;
                    if left >= LANES as u32 { u32::MAX } else { (1 << left) - 1 }
                };
                let linear = at[0] + env.grid[0] * (at[1] + env.grid[1] * at[2]);
                let place = slot.map_or(linear, |slot| slot as u32 * per_cluster + rank as u32);
                Cta {
                    rank: rank as u32,
                    index: at,
                    linear,
                    sm: place % env.residency.sms.max(1),
                    warps: (0..warps)
                        .map(|w| Warp::new(w as usize, exists(w), env.program.registers.len()))
                        .collect(),
                    local: (0..warps).map(|_| LocalMemory::new(env.program.local_bytes as usize)).collect(),
                    shared: SharedMemory::new(shared),
                    barriers: std::array::from_fn(|_| NamedBarrier::default()),
                    dynamic_shared: (start, env.dynamic_shared),
                }
            })
            .collect::<Vec<_>>();
        let seed = match env.schedule {
            Schedule::Seeded(s) => s,
            _ => 0,
        };
        let mut state = State::new(ctas.len(), warps as usize, &env.checks);
        state.first_cta = number as u32 * per_cluster;
        Self {
            number,
            slot: slot.unwrap_or(0),
            cluster: Cluster {
                index,
                ctas,
                engine: Engine::default(),
                report: Report::default(),
                state,
                counters: Counters::new(env.program.code.len()),
                trace: env.trace.then(Vec::new),
                aborted: false,
                changes: 0,
            },
            random: Random::new(seed ^ u64::from(index[0]) << 32 ^ u64::from(index[1])),
            turn: 0,
            last: None,
            since_async: 0,
            idle_turns: 0,
            timed_out: (0, Vec::new()),
        }
    }

    pub(super) fn finished(&self) -> bool {
        self.cluster.aborted || self.cluster.ctas.iter().flat_map(|c| &c.warps).all(|w| w.alive() == 0)
    }

    /// Warps with a lane that can execute, as (cta, warp).
    fn runnable(&self) -> Vec<(usize, usize)> {
        let mut out = Vec::new();
        for (c, cta) in self.cluster.ctas.iter().enumerate() {
            for (w, warp) in cta.warps.iter().enumerate() {
                if warp.lanes(|s| matches!(s, LaneState::Ready)) != 0 {
                    out.push((c, w));
                }
            }
        }
        out
    }

    /// Runs one warp for a while, or completes an asynchronous operation. `false` if nothing could be done.
    pub(super) fn step(&mut self, env: &Environment<'_>) -> bool {
        self.last = None;
        if self.finished() {
            return false;
        }
        let runnable = self.runnable();
        if self.async_turn(env, self.idle_turns >= 2 * runnable.len()) {
            return true;
        }
        if runnable.is_empty() {
            return self.time_out();
        }
        let pick = match env.schedule {
            Schedule::LowestWarpFirst => self.spread(&runnable, 0),
            Schedule::HighestWarpFirst => self.spread(&runnable, runnable.len() - 1),
            Schedule::Seeded(_) => self.random.below(runnable.len()),
            _ => {
                self.turn = self.turn.wrapping_add(1);
                self.turn % runnable.len()
            }
        };
        let quantum = match env.schedule {
            Schedule::Seeded(_) => 1 + self.random.below(QUANTUM as usize) as u32,
            _ => QUANTUM,
        };
        let (cta, warp) = runnable[pick];
        let spins = self.run_warp(env, cta, warp, quantum);
        // A warp that is blocked now polls nothing.
        let polls = self.cluster.ctas[cta].warps[warp].lanes(|s| matches!(s, LaneState::Ready)) != 0;
        self.idle_turns = if spins { self.idle_turns + usize::from(polls) } else { 0 };
        self.last = Some((cta, warp, spins));
        true
    }

    /// The preferred warp, except every eighth time, when the next in turn runs: a spin on the preferred warp
    /// must not starve the one it waits for.
    fn spread(&mut self, runnable: &[(usize, usize)], preferred: usize) -> usize {
        self.turn = self.turn.wrapping_add(1);
        if self.turn.is_multiple_of(8) { self.turn / 8 % runnable.len() } else { preferred }
    }

    /// The cluster's time: warp instructions so far.
    pub(super) fn now(&self) -> u64 {
        self.cluster.counters.warp_instructions
    }

    /// Keeps an event of a traced launch.
    pub(super) fn record(&mut self, event: Event) {
        if let Some(trace) = self.cluster.trace.as_mut().filter(|t| t.len() < trace::LIMIT) {
            trace.push(event);
        }
    }

    /// Completes an asynchronous operation if the schedule says so.
    fn async_turn(&mut self, env: &Environment<'_>, idle: bool) -> bool {
        if self.cluster.engine.is_empty() {
            return false;
        }
        let due = match env.schedule {
            Schedule::AsyncAtOnce => true,
            Schedule::AsyncLate | Schedule::AsyncReversed => idle,
            Schedule::Seeded(_) => idle || self.random.below(4) == 0,
            _ => idle || self.since_async >= ASYNC_DELAY,
        };
        if !due {
            return false;
        }
        (self.since_async, self.idle_turns) = (0, 0);
        self.cluster.changes += 1;
        let heads = self.cluster.engine.heads();
        let pick = match env.schedule {
            Schedule::AsyncReversed => heads.len() - 1,
            Schedule::Seeded(_) => self.random.below(heads.len()),
            _ => 0,
        };
        if let Some(op) = self.cluster.engine.take(heads[pick]) {
            if self.cluster.trace.is_some() {
                let name = op.describe();
                self.record(Event {
                    name,
                    cta: self.cluster.ctas[0].linear,
                    warp: None,
                    start: self.now(),
                    duration: 1,
                });
            }
            op.complete(&mut AsyncCtx { env, cluster: &mut self.cluster });
        }
        true
    }
}
