//! The compact shadow against a plain one: all readers of every granule in a list, vector clocks by the book.

use std::collections::{BTreeSet, HashMap};

use super::access::WarpAccess;
use super::conflict::{Conflict, Who};
use super::detector::Detector;
use crate::check::Place;
use crate::machine::Random;
use crate::ops::hooks::{Kind, Object, Proxy, Range, Scope, Strong};

const THREADS: usize = 96;
/// Global accesses go to one allocation.
const BASE: u64 = 3 << 36;

const ATOMIC: Kind = Kind::Atomic(Strong { scope: Scope::Gpu, bytes: 0 });

fn detector() -> Detector {
    let mut detector = Detector::new(1, THREADS as u32);
    detector.admit(0, 0);
    detector
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Access {
    /// Thread and epoch, or operation.
    thread: Option<(usize, u32)>,
    operation: u64,
    pc: u32,
    mask: u8,
    strong: bool,
}

#[derive(Clone, Default)]
struct Knowledge {
    epochs: Vec<u32>,
    operations: BTreeSet<u64>,
}

impl Knowledge {
    fn join(&mut self, other: &Knowledge) {
        self.epochs.resize(THREADS, 0);
        for (a, b) in self.epochs.iter_mut().zip(&other.epochs) {
            *a = (*a).max(*b);
        }
        self.operations.extend(&other.operations);
    }
}

#[derive(Default)]
struct Plain {
    threads: Vec<Knowledge>,
    objects: HashMap<Object, Knowledge>,
    /// Knowledge of operations' issuers, from number 1 on.
    operations: Vec<Knowledge>,
    /// (is global, granule) -> last write, reads since.
    cells: HashMap<(bool, u64), (Option<Access>, Vec<Access>)>,
    /// Global memory is followed from the first write on.
    global_written: bool,
}

impl Plain {
    fn new() -> Self {
        let knowledge = |t| {
            let mut epochs = vec![0; THREADS];
            epochs[t] = 1;
            Knowledge { epochs, operations: BTreeSet::new() }
        };
        Self { threads: (0..THREADS).map(knowledge).collect(), ..Self::default() }
    }

    /// The earlier accesses that are not ordered, as (is a write, access): those of the first granule with any.
    fn access(&mut self, global: bool, at: u64, bytes: u64, write: bool, new: Access) -> Vec<(bool, Access)> {
        self.global_written |= global && write;
        if global && !self.global_written {
            return Vec::new();
        }
        let known = match new.thread {
            Some((t, _)) => self.threads[t].clone(),
            None => self.operations[new.operation as usize - 1].clone(),
        };
        let mut found = Vec::new();
        for g in at / 4..(at + bytes).div_ceil(4) {
            let mask =
                (0..4).filter(|b| (at..at + bytes).contains(&(g * 4 + b))).fold(0u8, |m, b| m | 1 << b);
            let new = Access { mask, ..new };
            let cell = self.cells.entry((global, g)).or_default();
            let open = |e: &Access| {
                let same = match (e.thread, new.thread) {
                    (Some((a, _)), Some((b, _))) => a == b || a / 32 == b / 32 && e.pc == new.pc,
                    (None, None) => e.operation == new.operation,
                    _ => false,
                };
                let seen = match e.thread {
                    Some((t, epoch)) => known.epochs[t] >= epoch,
                    None => known.operations.contains(&e.operation),
                };
                !(e.mask & mask == 0 || e.strong && new.strong || same || seen)
            };
            let mut here: Vec<_> = cell.0.iter().filter(|e| open(e)).map(|e| (true, *e)).collect();
            if write {
                here.extend(cell.1.iter().filter(|e| open(e)).map(|e| (false, *e)));
                *cell = (Some(new), Vec::new());
            } else {
                let actor = |e: &Access| (e.thread.map(|t| t.0), e.operation);
                match cell.1.iter_mut().find(|e| actor(e) == actor(&new)) {
                    Some(e) => *e = Access { mask: e.mask | mask, ..new },
                    None => cell.1.push(new),
                }
            }
            if found.is_empty() {
                found = here;
            }
        }
        found
    }

    fn next_epoch(&mut self, t: usize) {
        self.threads[t].epochs[t] += 1;
    }
}

/// The detector's answer must be one of the plain one's.
fn same(found: Option<&Conflict>, expected: &[(bool, Access)], what: &str) {
    let Some(found) = found else {
        return assert!(expected.is_empty(), "{what}: not found: {expected:?}");
    };
    let fits = |&(write, e): &(bool, Access)| {
        let who = match (&found.earlier, e.thread) {
            (&Who::Thread((0, t), pc), Some((thread, _))) => (t as usize, pc) == (thread, e.pc),
            (Who::Operation(_, place), None) => u64::from(place.line) == e.operation,
            _ => false,
        };
        who && (found.earlier_kind == "write") == write
    };
    assert!(expected.iter().any(fits), "{what}: {found:?} is not one of {expected:?}");
}

fn one(
    random: &mut Random,
    kind: Kind,
    detector: &mut Detector,
    slow: &mut Detector,
    plain: &mut Plain,
) -> usize {
    let (write, strong) = (kind != Kind::Read, matches!(kind, Kind::Atomic(_)));
    let global = random.below(2) == 0;
    let bytes = 1u32 << random.below(6);
    let pc = random.below(6) as u32;
    let (step, start) = (random.below(3) as u64, random.below(24) as u64 * 4);
    let warp = random.below(THREADS / 32) * 32;
    let mask = if random.below(2) == 0 { u32::MAX } else { random.next_u64() as u32 };
    let base = if global { BASE } else { 0 };
    let addresses: [u64; 32] = std::array::from_fn(|l| {
        (base + start + l as u64 * step * u64::from(bytes)) & !(u64::from(bytes) - 1)
    });
    let shared = (!global).then_some(0);
    let access = WarpAccess { shared, first: (0, warp as u32), mask, addresses: &addresses, bytes, pc };
    let found = detector.warp_access(&access, kind);
    let mut conflicts = 0;
    for lane in (0..32).filter(|l| mask >> l & 1 == 1) {
        let (thread, at) = (warp + lane, addresses[lane]);
        let range = match global {
            true => Range::Global { address: at, bytes },
            false => Range::Shared { cta: 0, offset: at as u32, bytes },
        };
        let epoch = plain.threads[thread].epochs[thread];
        let new = Access { thread: Some((thread, epoch)), operation: 0, pc, mask: 0, strong };
        let expected = plain.access(global, at, u64::from(bytes), write, new);
        let what = format!("lane {lane} of {warp}, {kind:?} of {bytes} at {at:#x}");
        same(found.iter().find(|(l, _)| *l == lane).map(|(_, c)| c), &expected, &what);
        same(slow.thread_access((0, thread as u32), pc, range, kind).as_ref(), &expected, &what);
        conflicts += usize::from(!expected.is_empty());
    }
    conflicts
}

#[test]
fn shadow_is_as_the_plain_one() {
    let (mut conflicts, mut clean) = (0, 0);
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let (mut detector, mut slow) = (detector(), detector());
        let mut plain = Plain::new();
        for _ in 0..150 {
            let thread = random.below(THREADS);
            let object = Object::NamedBarrier(0, random.below(2) as u32, 0);
            match random.below(12) {
                0 => {
                    // All threads release, then all acquire: a barrier.
                    for t in 0..THREADS {
                        [&mut detector, &mut slow]
                            .into_iter()
                            .for_each(|d| d.release((0, t as u32), object, None));
                        let known = plain.threads[t].clone();
                        plain.objects.entry(object).or_default().join(&known);
                        plain.next_epoch(t);
                    }
                    for t in 0..THREADS {
                        [&mut detector, &mut slow]
                            .into_iter()
                            .for_each(|d| d.acquire((0, t as u32), object, Scope::Cta));
                        plain.threads[t].join(&plain.objects[&object]);
                    }
                }
                1 => {
                    [&mut detector, &mut slow]
                        .into_iter()
                        .for_each(|d| d.release((0, thread as u32), object, None));
                    let known = plain.threads[thread].clone();
                    plain.objects.entry(object).or_default().join(&known);
                    plain.next_epoch(thread);
                }
                2 => {
                    [&mut detector, &mut slow]
                        .into_iter()
                        .for_each(|d| d.acquire((0, thread as u32), object, Scope::Cta));
                    if let Some(known) = plain.objects.get(&object) {
                        plain.threads[thread].join(known);
                    }
                }
                3 | 4 => {
                    plain.operations.push(plain.threads[thread].clone());
                    let id = plain.operations.len() as u64;
                    let place = Place { line: id as u32, ..Place::default() };
                    let issue = |d: &mut Detector| {
                        d.issue((0, thread as u32), Proxy::Generic, "copy", place.clone(), 77)
                    };
                    assert_eq!((issue(&mut detector), issue(&mut slow)), (id, id));
                    plain.next_epoch(thread);
                    let (offset, bytes) = (random.below(80) as u32, 1 + random.below(200) as u32);
                    for kind in [Kind::Read, Kind::Write] {
                        if kind == Kind::Write && random.below(2) == 0 {
                            continue;
                        }
                        let range = Range::Shared { cta: 0, offset, bytes };
                        let write = kind == Kind::Write;
                        let new = Access { thread: None, operation: id, pc: 77, mask: 0, strong: false };
                        let expected = plain.access(false, u64::from(offset), u64::from(bytes), write, new);
                        let what = format!("operation {id} {kind:?}");
                        same(detector.operation_access(id, range, kind).as_ref(), &expected, &what);
                        same(slow.operation_access(id, range, kind).as_ref(), &expected, &what);
                    }
                    if random.below(3) > 0 {
                        [&mut detector, &mut slow].into_iter().for_each(|d| d.complete(id, object));
                        plain.objects.entry(object).or_default().operations.insert(id);
                    }
                }
                n => {
                    let kind = [Kind::Read, Kind::Read, Kind::Write, ATOMIC][n % 4];
                    let found = one(&mut random, kind, &mut detector, &mut slow, &mut plain);
                    conflicts += found;
                    clean += usize::from(found == 0);
                }
            }
        }
    }
    // Both are there, so that the comparison says something.
    assert!(conflicts > 1000 && clean > 500, "{conflicts} conflicts, {clean} clean accesses");
}
