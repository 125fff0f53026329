//! The detector: knowledge of threads, operations and objects. (Checks of accesses: `access`, `conflict`.)

use std::collections::BTreeMap;
use std::sync::Arc;

use super::clock::{Bits, Clock, Knowledge, Memo};
use super::footprint::{Footprint, Span, Touched};
use super::operations::{Operation, Operations};
use super::release::{Locations, Patterns, Released, StrongAccess, Topology};
use super::shadow::{Cell, Shadow};
use crate::check::Place;
use crate::ops::hooks::{GroupKind, Object, Proxy, Range, Scope, Semantics};

/// The number, in place of a CTA's, under which the end of earlier kernels is known.
pub(super) const KERNELS: u32 = u32::MAX;

/// A thread.
#[derive(Clone, Default)]
pub(super) struct Thread {
    pub(super) known: Knowledge,
    patterns: Patterns,
}

/// A CTA that has been launched.
#[derive(Default)]
pub(super) struct Cta {
    /// Linear index in the grid.
    linear: u32,
    pub(super) threads: Vec<Thread>,
}

/// State of the race detector: of the clusters that are interleaved on one host thread.
pub struct Detector {
    pub(super) topology: Topology,
    threads_per_cta: u32,
    pub(super) ctas: Vec<Cta>,
    pub(super) operations: Operations,
    /// By cluster: barriers, mbarriers, groups.
    objects: BTreeMap<(u32, Object), Released>,
    memo: Memo,
    /// Global and shared locations.
    pub(super) locations: Locations,
    pub(super) shadow: Shadow,
    pub(super) footprint: Footprint,
    /// What kernels before this one, which may still run, have touched.
    pub(super) in_flight: Vec<Arc<Touched>>,
    /// `tcgen05.fence` is not asked for.
    pub ignore_tensor_fences: bool,
    /// The scopes of mbarrier operations do not count.
    pub compatible: bool,
}

impl Default for Detector {
    fn default() -> Self {
        Self::new(1, 1)
    }
}

impl Detector {
    /// For clusters of `cluster` CTAs of `threads_per_cta` threads (a whole number of warps).
    pub fn new(cluster: u32, threads_per_cta: u32) -> Self {
        Self {
            topology: Topology {
                cluster: cluster.max(1),
                bits: threads_per_cta.max(32).next_power_of_two().trailing_zeros(),
            },
            threads_per_cta: threads_per_cta.max(1),
            ctas: Vec::new(),
            operations: Operations::default(),
            objects: BTreeMap::new(),
            memo: Memo::default(),
            locations: Locations::default(),
            shadow: Shadow::default(),
            footprint: Footprint::default(),
            in_flight: Vec::new(),
            ignore_tensor_fences: false,
            compatible: false,
        }
    }

    /// A CTA is launched; CTAs are numbered by cluster and rank.
    pub fn admit(&mut self, cta: u32, linear: u32) {
        if self.ctas.len() <= cta as usize {
            self.ctas.resize_with(cta as usize + 1, Cta::default);
        }
        let thread = |i| Thread {
            known: Knowledge { at: (cta, i), epoch: 1, ..Knowledge::default() },
            patterns: Patterns::default(),
        };
        self.ctas[cta as usize] = Cta { linear, threads: (0..self.threads_per_cta).map(thread).collect() };
    }

    /// A cluster has finished. What its threads did stays known, and may still conflict.
    pub fn retire(&mut self, cluster: u32) {
        for cta in cluster * self.topology.cluster..(cluster + 1) * self.topology.cluster {
            if let Some(cta) = self.ctas.get_mut(cta as usize) {
                cta.threads = Vec::new();
            }
            self.operations.retire(cta);
            self.shadow.retire(cta);
        }
        self.objects.retain(|key, _| key.0 != cluster);
    }

    /// Linear index in the grid of a CTA.
    pub fn linear(&self, cta: u32) -> u32 {
        self.ctas.get(cta as usize).map_or(0, |c| c.linear)
    }

    /// Which global memory has been touched.
    pub fn spans(&self) -> Vec<Span> {
        self.footprint.spans()
    }

    /// Keeps accesses to all global memory, not only to allocations that have been written: what one cluster reads
    /// another may write later.
    pub fn follow_all(&mut self, all: bool) {
        self.shadow.follow_all = all;
    }

    /// Kernels that may still run while this one does, until a thread waits for them.
    pub fn depend_on(&mut self, kernels: &[Arc<Touched>]) {
        self.in_flight = kernels.to_vec();
    }

    /// `griddepcontrol.wait`: those kernels have ended, and what they did is visible.
    pub fn wait_for_kernels(&mut self, at: (u32, u32)) {
        let mut ended = Bits::default();
        ended.insert(0);
        if let Some(Thread { known, .. }) = self.thread(at) {
            known.clock.complete(KERNELS, &ended, true);
        }
    }

    fn cluster(&self, at: (u32, u32)) -> u32 {
        at.0 / self.topology.cluster
    }

    fn thread(&mut self, at: (u32, u32)) -> Option<&mut Thread> {
        self.ctas.get_mut(at.0 as usize)?.threads.get_mut(at.1 as usize)
    }

    /// Joins a thread's knowledge into an object and starts its next epoch. A release with a scope reaches acquires
    /// that it includes; without one, everybody.
    pub fn release(&mut self, at: (u32, u32), object: Object, scope: Option<Scope>) {
        let by = scope.filter(|_| !self.compatible).map(|s| (at.0, s));
        let cluster = self.cluster(at);
        let Some(Thread { known, .. }) =
            self.ctas.get_mut(at.0 as usize).and_then(|c| c.threads.get_mut(at.1 as usize))
        else {
            return;
        };
        known.publish(prepare(&mut self.objects, (cluster, object)).part(by));
        known.epoch += 1;
    }

    /// A relaxed operation on an object: it publishes what the thread's release fences cover.
    pub fn publish(&mut self, at: (u32, u32), object: Object) {
        let cluster = self.cluster(at);
        let thread = self.ctas.get(at.0 as usize).and_then(|c| c.threads.get(at.1 as usize));
        if let Some(Thread { patterns, .. }) = thread {
            patterns.publish(at.0, prepare(&mut self.objects, (cluster, object)));
        }
    }

    /// A thread takes over what an object holds.
    pub fn acquire(&mut self, at: (u32, u32), object: Object, scope: Scope) {
        let cluster = self.cluster(at);
        let scope = if self.compatible { Scope::Sys } else { scope.max(Scope::Cta) };
        let thread = self.ctas.get_mut(at.0 as usize).and_then(|c| c.threads.get_mut(at.1 as usize));
        if let (Some(thread), Some(released)) = (thread, self.objects.get(&(cluster, object))) {
            for clock in released.reaching(self.topology, at.0, scope) {
                thread.known.clock.join_by(&mut self.memo, clock);
            }
        }
    }

    /// A thread has observed an object by a relaxed operation: an acquire fence later takes over what it holds.
    pub fn observe(&mut self, at: (u32, u32), object: Object) {
        let cluster = self.cluster(at);
        let thread = self.ctas.get_mut(at.0 as usize).and_then(|c| c.threads.get_mut(at.1 as usize));
        if let (Some(thread), Some(released)) = (thread, self.objects.get(&(cluster, object))) {
            thread.patterns.observe_all(self.topology, at.0, released);
        }
    }

    /// A strong access of a thread to a scalar in global or shared memory: `location` is a [`key`].
    pub fn strong(&mut self, at: (u32, u32), location: (u64, u32), access: StrongAccess) {
        let thread = self.ctas.get_mut(at.0 as usize).and_then(|c| c.threads.get_mut(at.1 as usize));
        let Some(Thread { known, patterns }) = thread else { return };
        self.locations.access(self.topology, known, patterns, location, access);
        if access.releases {
            known.epoch += 1;
        }
    }

    /// A thread fence. The order of two `fence.sc` alone is not taken for synchronisation: it may be the other way
    /// round in the next run.
    pub fn fence(&mut self, at: (u32, u32), semantics: Semantics, scope: Scope) {
        let (acquire, release) = match semantics {
            Semantics::Acquire | Semantics::AcquireRestricted => (true, false),
            Semantics::Release | Semantics::ReleaseRestricted => (false, true),
            Semantics::AcqRel | Semantics::Sc => (true, true),
            // It publishes `mbarrier.init`, which is not an access to be ordered here.
            Semantics::MbarrierInit => (false, false),
        };
        let Some(Thread { known, patterns }) = self.thread(at) else { return };
        if acquire {
            for clock in patterns.acquire(scope) {
                known.clock.join(&clock);
            }
        }
        if release {
            patterns.release(scope, known);
            known.epoch += 1;
        }
    }

    /// `fence.proxy.async`: all that comes before it in causality order is visible to the async proxy, that is the
    /// accesses of the thread, those of threads that it has synchronised with, and operations that it knows to be
    /// complete. (PTX ISA 8.9.5 asks for a proxy fence along the path, not for one of the
    /// writer; it spells that out for aliases.)
    pub fn proxy_fence(&mut self, at: (u32, u32), global: bool, shared: bool) {
        let Some(Thread { known, .. }) = self.thread(at) else { return };
        let Clock { seen, fenced_global, fenced_shared, .. } = &mut known.clock;
        for (i, view) in [(0, global.then_some(fenced_global)), (1, shared.then_some(fenced_shared))] {
            let Some(view) = view else { continue };
            view.join(seen);
            known.fenced[i] = known.epoch;
        }
        // Accesses after the fence are not covered by it.
        known.epoch += 1;
    }

    /// `tcgen05.fence`.
    pub fn tensor_fence(&mut self, at: (u32, u32), after: bool) {
        let Some(Thread { known, .. }) = self.thread(at) else { return };
        if after { known.clock.after_sync() } else { known.clock.before_sync() }
    }

    /// Columns are allocated anew: who used them before has nothing to do with who does now.
    pub fn forget_tensor(&mut self, cta: u32, columns: std::ops::Range<u32>) {
        for partition in 0..4 {
            let (cells, readers) =
                self.shadow.tensor(cta, partition, columns.start, (columns.end - columns.start) as usize);
            for cell in cells {
                readers.drop(cell.read);
                *cell = Cell::default();
            }
        }
    }

    /// A thread issues an operation. Numbers start at 1.
    pub fn issue(&mut self, at: (u32, u32), proxy: Proxy, what: &'static str, place: Place, pc: u32) -> u64 {
        let known = self.thread(at).map(|t| t.known.clone()).unwrap_or_default();
        let is_async = proxy == Proxy::Async;
        let implies = Default::default();
        let id = self.operations.add(Operation {
            known,
            is_async,
            what,
            place,
            pc,
            cta: at.0,
            number: 0,
            implies,
        });
        // What the thread does from now on is not ordered before the operation.
        if let Some(Thread { known, .. }) = self.thread(at) {
            known.epoch += 1;
        }
        id
    }

    /// Completion of an operation becomes observable through an object.
    pub fn complete(&mut self, id: u64, object: Object) {
        let Some(o) = self.operations.get(id) else { return };
        let cluster = o.cta / self.topology.cluster;
        let known = prepare(&mut self.objects, (cluster, object)).part(None);
        // Completion includes the proxy fence for what went through the async proxy.
        if let Object::Group(_, _, GroupKind::BulkRead, _) = object {
            // That the source has been read says nothing of the destination.
            let mut reads = Bits::default();
            reads.insert(2 * o.number);
            return known.complete(o.cta, &reads, o.is_async);
        }
        known.complete(o.cta, &o.implies, o.is_async);
        // It includes fence::before_thread_sync.
        if o.what == "tcgen05.commit" {
            super::clock::Grow::join(known.incoming.edit(o.cta), &o.implies);
            // What the thread knew to be complete came before: whoever sees the commit may rely on it too.
            known.seen.operations.join(&o.known.clock.seen.operations);
        }
    }

    /// Name and place of an operation.
    pub fn operation(&self, id: u64) -> Option<(&'static str, &Place)> {
        self.operations.get(id).map(|o| (o.what, &o.place))
    }
}

/// Where bytes are among the locations through which threads synchronise; `None` for tensor memory.
pub fn key(range: Range) -> Option<(u64, u64)> {
    match range {
        Range::Global { address, bytes } => Some((address, u64::from(bytes))),
        Range::Shared { cta, offset, bytes } => {
            Some((1 << 63 | u64::from(cta) << 24 | u64::from(offset), u64::from(bytes)))
        }
        Range::Tensor { .. } => None,
    }
}

/// What an object holds. A phase follows on the one before; those long past are forgotten.
fn prepare(objects: &mut BTreeMap<(u32, Object), Released>, at: (u32, Object)) -> &mut Released {
    if !objects.contains_key(&at) {
        let (cluster, object) = at;
        let (before, old) = match object {
            Object::Mbarrier { cta, offset, phase } => {
                let at = |n: u64| phase.checked_sub(n).map(|phase| Object::Mbarrier { cta, offset, phase });
                (at(1).and_then(|o| objects.get(&(cluster, o)).cloned()), at(4))
            }
            Object::NamedBarrier(cta, id, generation) => {
                (None, generation.checked_sub(4).map(|g| Object::NamedBarrier(cta, id, g)))
            }
            Object::ClusterBarrier(phase) => (None, phase.checked_sub(4).map(Object::ClusterBarrier)),
            Object::Warp(cta, warp, epoch) => {
                (None, epoch.checked_sub(4).map(|e| Object::Warp(cta, warp, e)))
            }
            Object::Group(..) => (None, None),
        };
        if let Some(old) = old {
            objects.remove(&(cluster, old));
        }
        objects.insert(at, before.unwrap_or_default());
    }
    objects.entry(at).or_default()
}
