//! The detector: knowledge of threads, operations and objects. (Checks of accesses: `access`, `conflict`.)

use std::collections::{BTreeMap, HashMap};

use super::clock::{Bits, Clock};
use super::shadow::{Cell, Shadow};
use crate::check::Place;
use crate::ops::hooks::{Object, Proxy};

/// An operation.
pub(super) struct Operation {
    /// What its issuer knew.
    pub(super) clock: Clock,
    /// Its own proxy is the async one.
    pub(super) is_async: bool,
    /// Name in findings.
    pub(super) what: &'static str,
    /// Where it was issued.
    pub(super) place: Place,
    pub(super) pc: u32,
    /// CTA rank of the issuer.
    pub(super) cta: u32,
    /// This operation and those whose completion its own implies.
    implies: Bits,
}

/// State of the race detector of a cluster.
#[derive(Default)]
pub struct Detector {
    pub(super) threads: Vec<Clock>,
    /// Current epoch of each thread.
    pub(super) epochs: Vec<u32>,
    pub(super) operations: Vec<Operation>,
    objects: BTreeMap<Object, Clock>,
    /// Strong locations and tensor operations of a thread since its last fence: what a fence pairs with.
    observed: HashMap<u32, Clock>,
    /// Threads that have executed a release fence, and what they knew then.
    fenced: HashMap<u32, Clock>,
    pub(super) shadow: Shadow,
    /// `tcgen05.fence` is not asked for.
    pub ignore_tensor_fences: bool,
}

impl Detector {
    /// For `threads` threads in the cluster.
    pub fn new(threads: usize) -> Self {
        let clock = |t: usize| {
            let mut c = Clock::default();
            c.seen.threads = vec![0; threads];
            c.seen.threads[t] = 1;
            c
        };
        Self { threads: (0..threads).map(clock).collect(), epochs: vec![1; threads], ..Self::default() }
    }

    /// Joins a thread's knowledge into an object and starts its next epoch.
    pub fn release(&mut self, thread: u32, object: Object) {
        let t = thread as usize;
        self.prepare(object);
        let Some(clock) = self.threads.get(t) else { return };
        self.objects.entry(object).or_default().join(clock);
        self.next_epoch(t);
    }

    fn next_epoch(&mut self, t: usize) {
        self.epochs[t] += 1;
        self.threads[t].seen.threads[t] = self.epochs[t];
    }

    /// A phase follows on the one before; those long past are forgotten.
    fn prepare(&mut self, object: Object) {
        if self.objects.contains_key(&object) {
            return;
        }
        let (before, old) = match object {
            Object::Mbarrier { cta, offset, phase } => {
                let at = |n: u64| phase.checked_sub(n).map(|phase| Object::Mbarrier { cta, offset, phase });
                (at(1).and_then(|o| self.objects.get(&o).cloned()), at(4))
            }
            Object::NamedBarrier(cta, id, generation) => {
                (None, generation.checked_sub(4).map(|g| Object::NamedBarrier(cta, id, g)))
            }
            Object::ClusterBarrier(phase) => (None, phase.checked_sub(4).map(Object::ClusterBarrier)),
            Object::Warp(cta, warp, epoch) => {
                (None, epoch.checked_sub(4).map(|e| Object::Warp(cta, warp, e)))
            }
            _ => (None, None),
        };
        if let Some(old) = old {
            self.objects.remove(&old);
        }
        self.objects.insert(object, before.unwrap_or_default());
    }

    /// A thread takes over what an object holds.
    pub fn acquire(&mut self, thread: u32, object: Object) {
        if let (Some(clock), Some(known)) = (self.threads.get_mut(thread as usize), self.objects.get(&object))
        {
            clock.join(known);
        }
    }

    /// A thread has read a strong location: an acquire fence later takes over what it holds.
    pub fn observe(&mut self, thread: u32, object: Object) {
        if let Some(known) = self.objects.get(&object) {
            self.observed.entry(thread).or_default().join(known);
        }
    }

    /// A thread writes a strong location: it publishes what the thread's last release fence covered.
    pub fn publish(&mut self, thread: u32, object: Object) {
        if let Some(known) = self.fenced.get(&thread) {
            self.objects.entry(object).or_default().join(known);
        }
    }

    /// A thread fence.
    pub fn fence(&mut self, thread: u32, acquire: bool, release: bool) {
        let t = thread as usize;
        if acquire
            && let Some(known) = self.observed.remove(&thread)
            && let Some(clock) = self.threads.get_mut(t)
        {
            clock.join(&known);
        }
        if release && t < self.threads.len() {
            self.fenced.insert(thread, self.threads[t].clone());
            self.next_epoch(t);
        }
    }

    /// `fence.proxy.async`: what the thread has seen is visible to the async proxy.
    pub fn proxy_fence(&mut self, thread: u32, global: bool, shared: bool) {
        let Some(clock) = self.threads.get_mut(thread as usize) else { return };
        if global {
            clock.fenced_global.join(&clock.seen);
        }
        if shared {
            clock.fenced_shared.join(&clock.seen);
        }
        // Accesses after the fence are not covered by it.
        self.next_epoch(thread as usize);
    }

    /// `tcgen05.fence`.
    pub fn tensor_fence(&mut self, thread: u32, after: bool) {
        let Some(clock) = self.threads.get_mut(thread as usize) else { return };
        if after { clock.after_sync() } else { clock.before_sync() }
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
    pub fn issue(
        &mut self,
        thread: u32,
        cta: u32,
        proxy: Proxy,
        what: &'static str,
        place: Place,
        pc: u32,
    ) -> u64 {
        let clock = self.threads.get(thread as usize).cloned().unwrap_or_default();
        let id = self.operations.len() as u64 + 1;
        let mut implies = Bits::default();
        implies.insert(id);
        // A commit stands for all earlier operations of its thread.
        if what == "tcgen05.commit" {
            for (i, o) in self.operations.iter().enumerate() {
                if o.cta == cta
                    && o.place.thread == place.thread
                    && matches!(o.what, "tcgen05.mma" | "tcgen05.cp")
                {
                    implies.insert(i as u64 + 1);
                }
            }
        }
        let is_async = proxy == Proxy::Async;
        self.operations.push(Operation { clock, is_async, what, place, pc, cta, implies });
        // What the thread does from now on is not ordered before the operation.
        if (thread as usize) < self.epochs.len() {
            self.next_epoch(thread as usize);
        }
        id
    }

    /// Completion of an operation becomes observable through an object.
    pub fn complete(&mut self, id: u64, object: Object) {
        self.prepare(object);
        let Some(operation) = id.checked_sub(1).and_then(|i| self.operations.get(i as usize)) else { return };
        let (implies, fenced) = (operation.implies.clone(), operation.is_async);
        let commit = operation.what == "tcgen05.commit";
        let known = self.objects.entry(object).or_default();
        known.complete(&implies, fenced);
        // It includes fence::before_thread_sync.
        if commit {
            known.incoming.join(&implies);
        }
    }

    /// Name and place of an operation.
    pub fn operation(&self, id: u64) -> Option<(&'static str, &Place)> {
        let o = self.operations.get(id.checked_sub(1)? as usize)?;
        Some((o.what, &o.place))
    }
}
