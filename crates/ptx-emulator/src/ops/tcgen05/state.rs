//! What a cluster remembers of tensor memory.

use std::collections::HashMap;

use super::memory::TensorMemory;
use crate::check::{Access, Class, Finding, Place};
use crate::machine::{Cluster, Ctx, Environment};

/// An operation on tensor memory that is in flight.
#[derive(Clone, Debug)]
pub struct InFlight {
    /// Number.
    pub id: u64,
    /// Rank of the CTA that issued it.
    pub issuer: u32,
    /// CTA ranks concerned.
    pub ctas: Vec<u32>,
    /// Columns written: first, number.
    pub writes: (u32, u32),
    /// Columns read.
    pub reads: Vec<(u32, u32)>,
    /// Where it was issued.
    pub place: Place,
    /// `mma`, `cp`.
    pub what: &'static str,
}

/// State of the family.
#[derive(Default)]
pub struct State {
    /// Tensor memory by CTA rank.
    memory: HashMap<u32, TensorMemory>,
    /// Operations in flight.
    pub in_flight: Vec<InFlight>,
    /// Number of the next operation.
    pub next: u64,
    /// Whether allocations have changed since others were told.
    changed: bool,
    /// The `.cta_group` seen first, and where: a kernel uses one value.
    pub cta_group: Option<(u32, u32)>,
}

impl State {
    /// Tensor memory of a CTA.
    pub fn memory(&mut self, cta: u32) -> &mut TensorMemory {
        self.memory.entry(cta).or_default()
    }

    /// Notes that allocations have changed.
    pub fn set_changed(&mut self) {
        self.changed = true;
    }

    /// Whether allocations have changed since the last call.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Columns that a CTA holds: first, number.
    pub fn allocations(&self, cta: u32) -> impl Iterator<Item = (u32, u32)> {
        self.memory.get(&cta).into_iter().flat_map(|m| m.allocations()).map(|a| (a.column, a.columns))
    }

    /// Columns that other CTAs on the same multiprocessor hold.
    pub fn set_neighbours(&mut self, cta: u32, columns: Vec<(u32, u32)>) {
        self.memory(cta).neighbours = columns;
    }

    /// Who holds the columns that a CTA waits for.
    pub fn describe_wait(&self, cta: u32) -> String {
        let Some(memory) = self.memory.get(&cta) else { return "columns of tensor memory".to_owned() };
        let sum = |all: &mut dyn Iterator<Item = u32>| all.sum::<u32>();
        format!(
            "columns of tensor memory: of 512 it holds {} itself, and other CTAs on its multiprocessor hold {}",
            sum(&mut memory.allocations().iter().map(|a| a.columns)),
            sum(&mut memory.neighbours.iter().map(|n| n.1))
        )
    }

    /// All threads have exited: every column must have been freed.
    pub fn on_finish(cluster: &mut Cluster, env: &Environment<'_>) {
        if !env.checks.tcgen05 || cluster.aborted {
            return;
        }
        let mut left = Vec::new();
        for (&rank, memory) in &cluster.state.tcgen05.memory {
            for a in memory.allocations() {
                left.push((rank, *a));
            }
        }
        left.sort_by_key(|(rank, a)| (*rank, a.column));
        for (rank, a) in left {
            let cta = cluster.ctas.get(rank as usize).map_or(0, |c| c.linear);
            let text = env.program.code.iter().find(|i| i.line == a.line).map(|i| i.text.clone());
            let place = Place { line: a.line, text: text.unwrap_or_default(), cta, thread: 0 };
            let message = format!("{} columns at column {} are never deallocated", a.columns, a.column);
            cluster.report.add(Finding {
                class: Class::TensorAlloc,
                place,
                message,
                earlier: None,
                count: 1,
            });
        }
    }
}

/// The operation in flight that writes any of the columns of a CTA, if any.
fn conflict(ctx: &Ctx<'_>, cta: u32, column: u32, columns: u32) -> Option<InFlight> {
    let hits = |f: &&InFlight| {
        f.ctas.contains(&cta) && f.writes.0 < column + columns && column < f.writes.0 + f.writes.1
    };
    ctx.cluster.state.tcgen05.in_flight.iter().find(hits).cloned()
}

/// Reports an access that overlaps an operation in flight.
pub(super) fn check_in_flight(
    ctx: &mut Ctx<'_>,
    lane: usize,
    cta: u32,
    column: u32,
    columns: u32,
    what: &str,
) {
    if !ctx.checks().tcgen05 {
        return;
    }
    if let Some(f) = conflict(ctx, cta, column, columns) {
        let message = format!(
            "{what} of columns {column}..{} while a tcgen05.{} that writes them has not been waited for (commit and \
             mbarrier)",
            column + columns,
            f.what
        );
        let earlier = Access { place: f.place, what: format!("tcgen05.{}", f.what) };
        ctx.finding(Class::Tcgen05Order, lane, message, Some(earlier));
    }
}

/// Reports an access to columns that are not allocated. `false` if it cannot go on.
pub(super) fn check_allocated(ctx: &mut Ctx<'_>, lane: usize, cta: u32, column: u32, columns: u32) -> bool {
    if column + columns > super::COLUMNS as u32 {
        let message = format!("columns {column}..{} are beyond 512", column + columns);
        ctx.finding(Class::OutOfBounds, lane, message, None);
        return false;
    }
    if !ctx.cluster.state.tcgen05.memory(cta).is_allocated(column, columns) {
        let message = format!("columns {column}..{} are not allocated", column + columns);
        ctx.finding(Class::UseAfterFree, lane, message, None);
    }
    true
}
