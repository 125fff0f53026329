//! The detector: knowledge of threads, operations and objects; checks of accesses.

use std::collections::{BTreeMap, HashMap};

use super::clock::{Bits, Clock, Space};
use super::shadow::{Actor, Cell, Record, Shadow};
use crate::check::Place;
use crate::ops::hooks::{Kind, Object, Proxy, Range};

/// An operation.
struct Operation {
    /// What its issuer knew.
    clock: Clock,
    /// Its own proxy is the async one.
    is_async: bool,
    /// Name in findings.
    what: &'static str,
    /// Where it was issued.
    place: Place,
    pc: u32,
    /// CTA rank of the issuer.
    cta: u32,
    /// This operation and those whose completion its own implies.
    implies: Bits,
}

/// A conflict between two accesses.
pub struct Conflict {
    /// Only a proxy fence is missing.
    pub proxy: bool,
    /// Only a `tcgen05.fence` is missing.
    pub tensor: bool,
    /// The earlier access: who, and what it did.
    pub earlier: Who,
    /// `read`, `write`.
    pub earlier_kind: &'static str,
    /// `read`, `write`.
    pub kind: &'static str,
}

/// An actor of a conflict.
#[derive(Clone, Debug)]
pub enum Who {
    /// Thread number in the cluster, code index.
    Thread(u32, u32),
    /// An operation: its name and place.
    Operation(&'static str, Place),
}

/// State of the race detector of a cluster.
#[derive(Default)]
pub struct Detector {
    threads: Vec<Clock>,
    /// Current epoch of each thread.
    epochs: Vec<u32>,
    operations: Vec<Operation>,
    objects: BTreeMap<Object, Clock>,
    /// Strong locations and tensor operations of a thread since its last fence: what a fence pairs with.
    observed: HashMap<u32, Clock>,
    /// Threads that have executed a release fence, and what they knew then.
    fenced: HashMap<u32, Clock>,
    shadow: Shadow,
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
        for (partition, column) in (0..4).flat_map(|p| columns.clone().map(move |c| (p, c))) {
            *self.shadow.tensor(cta, partition, column) = Cell::default();
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
        let (implies, commit) = (operation.implies.clone(), operation.what == "tcgen05.commit");
        let known = self.objects.entry(object).or_default();
        known.complete(&implies);
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

    /// A thread touches memory through the generic proxy. `at` is global or shared.
    pub fn thread_access(&mut self, thread: u32, pc: u32, range: Range, kind: Kind) -> Option<Conflict> {
        let t = thread as usize;
        let epoch = *self.epochs.get(t)?;
        let record = Record {
            actor: Actor::Thread(thread, epoch),
            pc,
            mask: 0,
            is_async: false,
            strong: is_strong(kind),
        };
        self.access(range, kind, record)
    }

    /// An operation touches memory.
    pub fn operation_access(&mut self, id: u64, range: Range, kind: Kind) -> Option<Conflict> {
        let o = self.operations.get(id.checked_sub(1)? as usize)?;
        let record = Record {
            actor: Actor::Operation(id),
            pc: o.pc,
            mask: 0,
            is_async: o.is_async,
            strong: is_strong(kind),
        };
        self.access(range, kind, record)
    }

    fn access(&mut self, range: Range, kind: Kind, record: Record) -> Option<Conflict> {
        let write = matches!(kind, Kind::Write | Kind::StrongWrite | Kind::Atomic | Kind::MbarrierInit);
        let space = match range {
            Range::Global { .. } => Space::Global,
            Range::Shared { .. } => Space::Shared,
            Range::Tensor { .. } => Space::Tensor,
        };
        let mut found = None;
        for granule in granules(range) {
            let record = Record { mask: granule.mask, ..record };
            let cell = match granule.at {
                At::Global(g) => match self.shadow.global(g, write) {
                    Some(cell) => cell,
                    None => continue,
                },
                At::Shared(cta, g) => self.shadow.shared(cta, g),
                At::Tensor(cta, partition, column) => self.shadow.tensor(cta, partition, column),
            };
            if found.is_none() {
                let fences = !self.ignore_tensor_fences;
                found = conflict(&self.threads, &self.operations, cell, &record, write, space, fences);
            }
            if write { cell.written(record) } else { cell.read(record) }
        }
        found
    }
}

fn is_strong(kind: Kind) -> bool {
    matches!(kind, Kind::StrongRead | Kind::StrongWrite | Kind::Atomic)
}

/// Whether a tensor operation is known to be complete, but no `tcgen05.fence` orders `record` behind it.
fn unfenced(operations: &[Operation], clock: &Clock, earlier: &Record, record: &Record) -> bool {
    let (Actor::Operation(id), Actor::Operation(me)) = (earlier.actor, record.actor) else { return false };
    if id == me || pipelined(operations, id, me) || clock.tensor.contains(id) {
        return false;
    }
    let get = |id: u64| operations.get(id as usize - 1);
    // A warp's own loads and stores have been waited for.
    let own = |x: &Operation, y: &Operation| x.cta == y.cta && x.place.thread / 32 == y.place.thread / 32;
    !matches!((get(id), get(me)), (Some(x), Some(y)) if !x.is_async && own(x, y))
}

/// The first earlier access of a granule that `record` conflicts with.
fn conflict(
    threads: &[Clock],
    operations: &[Operation],
    cell: &Cell,
    record: &Record,
    write: bool,
    space: Space,
    tensor_fences: bool,
) -> Option<Conflict> {
    let empty = Clock::default();
    let operation = |id: u64| operations.get(id as usize - 1);
    let clock = match record.actor {
        Actor::Thread(t, _) => threads.get(t as usize).unwrap_or(&empty),
        Actor::Operation(id) => operation(id).map_or(&empty, |o| &o.clock),
    };
    let check = |earlier: &Record, earlier_kind: &'static str| -> Option<Conflict> {
        if earlier.mask & record.mask == 0 || (earlier.strong && record.strong) {
            return None;
        }
        let (seen, fenced) = match earlier.actor {
            Actor::Thread(t, epoch) => {
                let same = matches!(record.actor, Actor::Thread(me, _) if me == t);
                // Lanes of a warp in the same instruction.
                let together = matches!(record.actor, Actor::Thread(me, _) if me / 32 == t / 32)
                    && earlier.pc == record.pc;
                let seen = same || together || clock.seen.thread(t) >= epoch;
                (seen, same || together || clock.fenced(space).thread(t) >= epoch)
            }
            Actor::Operation(id) => {
                let same =
                    matches!(record.actor, Actor::Operation(me) if me == id || pipelined(operations, id, me));
                (
                    same || clock.seen.operations.contains(id),
                    same || clock.fenced(space).operations.contains(id),
                )
            }
        };
        // Through different proxies the earlier access must also be fenced; an operation's completion is.
        let crosses = record.is_async != earlier.is_async && space != Space::Tensor;
        let proxy = seen && crosses && record.is_async && !fenced;
        let tensor =
            seen && tensor_fences && space == Space::Tensor && unfenced(operations, clock, earlier, record);
        if seen && !proxy && !tensor {
            return None;
        }
        let earlier_who = match earlier.actor {
            Actor::Thread(t, _) => Who::Thread(t, earlier.pc),
            Actor::Operation(id) => operation(id)
                .map_or(Who::Operation("operation", Place::default()), |o| {
                    Who::Operation(o.what, o.place.clone())
                }),
        };
        Some(Conflict {
            proxy,
            tensor,
            earlier: earlier_who,
            earlier_kind,
            kind: if write { "write" } else { "read" },
        })
    };
    if let Some(found) = cell.write.as_ref().and_then(|w| check(w, "write")) {
        return Some(found);
    }
    if !write {
        return None;
    }
    cell.reads.iter().find_map(|r| {
        // Generic reads before an async write need the order only: the ISA asks for no proxy fence there that
        // CUTLASS would not leave out.
        check(r, "read").filter(|c| !c.proxy)
    })
}

/// Whether two operations execute in issue order without a wait: tcgen05 mma and cp of one CTA.
fn pipelined(operations: &[Operation], a: u64, b: u64) -> bool {
    let get = |id: u64| operations.get(id as usize - 1);
    match (get(a), get(b)) {
        (Some(x), Some(y)) => {
            let kind = |o: &Operation| matches!(o.what, "tcgen05.mma" | "tcgen05.cp" | "tcgen05.shift");
            x.cta == y.cta && kind(x) && kind(y)
        }
        _ => false,
    }
}

enum At {
    Global(u64),
    Shared(u32, u32),
    Tensor(u32, u32, u32),
}

struct Granule {
    at: At,
    mask: u8,
}

fn granules(range: Range) -> Vec<Granule> {
    // Byte mask of the granule `g` (four bytes) for bytes `first..end`.
    let mask = |g: u64, first: u64, end: u64| {
        (0..4).filter(|b| (first..end).contains(&(g * 4 + b))).fold(0u8, |m, b| m | 1 << b)
    };
    match range {
        Range::Global { address, bytes } => {
            let end = address.saturating_add(u64::from(bytes));
            (address / 4..end.div_ceil(4))
                .map(|g| Granule { at: At::Global(g), mask: mask(g, address, end) })
                .collect()
        }
        Range::Shared { cta, offset, bytes } => {
            let (first, end) = (u64::from(offset), u64::from(offset) + u64::from(bytes));
            (first / 4..end.div_ceil(4))
                .map(|g| Granule { at: At::Shared(cta, g as u32), mask: mask(g, first, end) })
                .collect()
        }
        Range::Tensor { cta, lane, lanes, column, columns } => (lane / 32
            ..(lane + lanes).div_ceil(32).min(4))
            .flat_map(|p| {
                // Halves of a partition (16 lanes) are told apart by the mask.
                let half = |h: u32| {
                    let (first, end) = (p * 32 + h * 16, p * 32 + h * 16 + 16);
                    u8::from(lane < end && first < lane + lanes) << h
                };
                let mask = half(0) | half(1);
                (column..(column + columns).min(512))
                    .map(move |c| Granule { at: At::Tensor(cta, p, c), mask })
            })
            .collect(),
    }
}
