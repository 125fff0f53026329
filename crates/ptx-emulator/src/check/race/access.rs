//! Accesses: what they touch, the common cases at once, the others by [`Check`].

use super::clock::{Knowledge, Space};
use super::conflict::{Check, Conflict};
use super::detector::{Detector, Thread};
use super::footprint::Toucher;
use super::operations::Operations;
use super::readers::Readers;
use super::release::Topology;
use super::shadow::{Cell, Granules, Record};
use crate::ops::hooks::{Kind, Range, Strong};

/// The same access by lanes of a warp, each at its own aligned address in one memory.
pub struct WarpAccess<'a> {
    /// Owner of the shared memory, by its number in the detector; `None` = global memory.
    pub shared: Option<u32>,
    /// CTA, by its number, and thread in lane 0.
    pub first: (u32, u32),
    /// Lanes.
    pub mask: u32,
    /// Addresses, or offsets in shared memory.
    pub addresses: &'a [u64; 32],
    /// Bytes of each lane: 1, 2, 4, 8, 16 or 32.
    pub bytes: u32,
    /// Code index.
    pub pc: u32,
}

impl WarpAccess<'_> {
    pub(super) fn lanes(&self) -> impl Iterator<Item = usize> + use<> {
        let mask = self.mask;
        (0..32).filter(move |l| mask >> l & 1 == 1)
    }
}

fn writes(kind: Kind) -> bool {
    matches!(kind, Kind::Write | Kind::StrongWrite(_) | Kind::Atomic(_) | Kind::MbarrierInit)
}

fn strong(kind: Kind) -> Option<Strong> {
    match kind {
        Kind::StrongRead(s) | Kind::StrongWrite(s) | Kind::Atomic(s) => Some(s),
        _ => None,
    }
}

/// What the common cases ask for.
#[derive(Clone, Copy)]
struct Quick<'a> {
    known: &'a Knowledge,
    topology: Topology,
    operations: &'a Operations,
}

impl Quick<'_> {
    /// Whether a thread's access is ordered behind an earlier one, which `wrote` or read, as far as that can be seen
    /// at once.
    #[inline(always)]
    fn ordered(self, earlier: Record, wrote: bool, record: Record) -> bool {
        // Most often, the same thread has made the access before.
        if earlier.same_thread(record) {
            true
        } else if earlier.is_thread() {
            self.known.knows(self.topology.thread(earlier.who), earlier.epoch)
                || (earlier.who / 32 == record.who / 32 && earlier.pc == record.pc)
        } else {
            // A set of readers has to be looked at; an operation must be known to be complete.
            earlier.is_none() || (earlier.as_set().is_none() && self.done(earlier, wrote))
        }
    }

    fn done(self, earlier: Record, wrote: bool) -> bool {
        let seen = &self.known.clock.seen.operations;
        let operation = self.operations.get(u64::from(earlier.who));
        operation.is_some_and(|o| Operations::is_done(o, wrote, seen.get(o.cta)))
    }
}

/// Notes a thread's access to a granule. `false` if nothing is noted, because it has to be looked at closely.
#[inline(always)]
fn touch<const WRITE: bool>(cell: &mut Cell, record: Record, quick: Quick<'_>) -> bool {
    if !quick.ordered(cell.write, true, record) {
        return false;
    }
    if WRITE {
        if !quick.ordered(cell.read, false, record) {
            return false;
        }
        *cell = Cell { write: record, read: Record::NONE };
        true
    } else if cell.read.is_none() || cell.read.same_actor(record) {
        cell.read = record.joined(cell.read);
        true
    } else {
        false
    }
}

/// Checks an access to a granule, if `wanted`, and notes it.
fn look(
    cell: &mut Cell,
    readers: &mut Readers,
    record: Record,
    check: &Check<'_>,
    wanted: bool,
) -> Option<Conflict> {
    let found = if wanted { check.conflict(cell, readers, record) } else { None };
    if check.write {
        readers.drop(cell.read);
        *cell = Cell { write: record, read: Record::NONE };
    } else {
        cell.read = readers.add(cell.read, record, |r| check.knows(r, false));
    }
    found
}

/// The lanes of a warp that make an access, and what they know.
struct Lanes<'a> {
    access: &'a WarpAccess<'a>,
    threads: &'a [Thread],
    topology: Topology,
    operations: &'a Operations,
    space: Space,
}

impl Lanes<'_> {
    /// Each lane touches its `N` granules.
    #[inline(always)]
    fn touch<const WRITE: bool, const N: usize>(
        &self,
        kind: Kind,
        readers: &mut Readers,
        memory: &mut (impl Granules + ?Sized),
    ) -> Vec<(usize, Conflict)> {
        let (a, strong) = (self.access, strong(kind));
        let first = self.topology.number(a.first);
        let mut found = Vec::new();
        for lane in a.lanes() {
            let (known, at) = (&self.threads[lane].known, a.addresses[lane]);
            let mut record = Record::thread(first + lane as u32, known.epoch, a.pc, strong);
            if N == 1 && a.bytes < 4 {
                record = record.with_mask((((1u32 << a.bytes) - 1) << (at % 4)) as u8);
            }
            let Ok(cells) = <&mut [Cell; N]>::try_from(memory.granules(at / 4, N)) else { continue };
            let quick = Quick { known, topology: self.topology, operations: self.operations };
            let mut closely = 0u32;
            for (i, cell) in cells.iter_mut().enumerate() {
                closely |= u32::from(!touch::<WRITE>(cell, record, quick)) << i;
            }
            if closely != 0 {
                self.look::<WRITE>(lane, record, readers, cells, closely, &mut found);
            }
        }
        found
    }

    /// The granules of a lane that have to be looked at closely.
    #[cold]
    #[inline(never)]
    fn look<const WRITE: bool>(
        &self,
        lane: usize,
        record: Record,
        readers: &mut Readers,
        cells: &mut [Cell],
        which: u32,
        found: &mut Vec<(usize, Conflict)>,
    ) {
        let check = Check {
            topology: self.topology,
            operations: self.operations,
            known: &self.threads[lane].known,
            space: self.space,
            tensor_fences: false,
            write: WRITE,
        };
        let mut wanted = true;
        for (_, cell) in cells.iter_mut().enumerate().filter(|(i, _)| which >> i & 1 == 1) {
            if let Some(conflict) = look(cell, readers, record, &check, wanted) {
                found.push((lane, conflict));
                wanted = false;
            }
        }
    }
}

impl Detector {
    /// A thread touches memory through the generic proxy. `range` is global or shared.
    pub fn thread_access(&mut self, at: (u32, u32), pc: u32, range: Range, kind: Kind) -> Option<Conflict> {
        let known = &self.ctas.get(at.0 as usize)?.threads.get(at.1 as usize)?.known;
        let record = Record::thread(self.topology.number(at), known.epoch, pc, strong(kind));
        let write = writes(kind);
        // What a thread releases by a strong access is told by `strong`.
        if write && !record.is_strong() {
            self.overwritten(range);
        }
        if let Range::Global { address, bytes } = range {
            let by = Toucher { pc, write, cta: self.linear(at.0), thread: at.1 };
            self.footprint.touch(address, bytes, by);
            let early = self.early(at, address, bytes, write);
            if early.is_some() {
                return early;
            }
        }
        if self.touch_word(range, at, kind, record) {
            return None;
        }
        self.access(range, kind, record, None)
    }

    /// Notes a thread's access to one whole granule; `false` if it is not one, or has to be looked at closely.
    #[inline]
    fn touch_word(&mut self, range: Range, at: (u32, u32), kind: Kind, record: Record) -> bool {
        let write = writes(kind);
        let cells = match range {
            Range::Shared { cta, offset, bytes: 4 } if offset % 4 == 0 => {
                self.shadow.shared(cta, u64::from(offset / 4), 1).0
            }
            Range::Global { address, bytes: 4 } if address % 4 == 0 => {
                let Some((pages, _)) = self.shadow.global(address, write) else { return true };
                pages.granules(address / 4, 1)
            }
            _ => return false,
        };
        let thread = self.ctas.get(at.0 as usize).and_then(|c| c.threads.get(at.1 as usize));
        let (Some(cell), Some(Thread { known, .. })) = (cells.first_mut(), thread) else { return false };
        let quick = Quick { known, topology: self.topology, operations: &self.operations };
        if write { touch::<true>(cell, record, quick) } else { touch::<false>(cell, record, quick) }
    }

    /// An operation touches memory.
    pub fn operation_access(&mut self, id: u64, range: Range, kind: Kind) -> Option<Conflict> {
        let o = self.operations.get(id)?;
        let record = Record::operation(id, o.pc, o.is_async, strong(kind));
        let write = writes(kind);
        if let Range::Global { address, bytes } = range {
            let by = Toucher { pc: o.pc, write, cta: o.place.cta, thread: o.place.thread };
            self.footprint.touch(address, bytes, by);
            if !self.in_flight.is_empty()
                && let Some(early) = self.in_flight(&o.known, address, bytes, write)
            {
                return Some(early);
            }
        }
        if write {
            self.overwritten(range);
        }
        self.access(range, kind, record, Some(id))
    }

    /// Lanes of a warp touch memory through the generic proxy: the same as [`Self::thread_access`] lane by lane.
    /// Conflicts come with their lanes.
    pub fn warp_access(&mut self, access: &WarpAccess<'_>, kind: Kind) -> Vec<(usize, Conflict)> {
        let write = writes(kind);
        let mut early = self.touched(access, write);
        let found =
            if write { self.by_lane::<true>(access, kind) } else { self.by_lane::<false>(access, kind) };
        if early.is_empty() {
            return found;
        }
        early.extend(found);
        early
    }

    #[inline(always)]
    fn by_lane<const WRITE: bool>(&mut self, a: &WarpAccess<'_>, kind: Kind) -> Vec<(usize, Conflict)> {
        match a.bytes {
            8 => self.granules_by_lane::<WRITE, 2>(a, kind),
            16 => self.granules_by_lane::<WRITE, 4>(a, kind),
            32 => self.granules_by_lane::<WRITE, 8>(a, kind),
            _ => self.granules_by_lane::<WRITE, 1>(a, kind),
        }
    }

    fn granules_by_lane<const WRITE: bool, const N: usize>(
        &mut self,
        a: &WarpAccess<'_>,
        kind: Kind,
    ) -> Vec<(usize, Conflict)> {
        let first = a.first.1 as usize;
        let cta = self.ctas.get(a.first.0 as usize);
        let Some(threads) = cta.and_then(|c| c.threads.get(first..first + 32)) else { return Vec::new() };
        let space = if a.shared.is_some() { Space::Shared } else { Space::Global };
        let topology = self.topology;
        let lanes = Lanes { access: a, threads, topology, operations: &self.operations, space };
        match a.shared {
            Some(cta) => {
                // (Addresses are in bounds, so that the last one tells how much there is.)
                let end = a.lanes().map(|l| a.addresses[l] / 4).max().unwrap_or(0) as usize + N;
                let (cells, readers) = self.shadow.shared(cta, 0, end);
                lanes.touch::<WRITE, N>(kind, readers, cells)
            }
            None => {
                let address = a.addresses[a.mask.trailing_zeros() as usize % 32];
                let Some((pages, readers)) = self.shadow.global(address, WRITE) else { return Vec::new() };
                lanes.touch::<WRITE, N>(kind, readers, pages)
            }
        }
    }

    /// Checks and notes an access to a range, which may be long.
    fn access(&mut self, range: Range, kind: Kind, record: Record, id: Option<u64>) -> Option<Conflict> {
        let write = writes(kind);
        let space = match range {
            Range::Global { .. } => Space::Global,
            Range::Shared { .. } => Space::Shared,
            Range::Tensor { .. } => Space::Tensor,
        };
        let empty = Knowledge::default();
        let known = match id {
            Some(id) => self.operations.get(id).map_or(&empty, |o| &o.known),
            None => {
                let at = self.topology.thread(record.who);
                let thread = self.ctas.get(at.0 as usize).and_then(|c| c.threads.get(at.1 as usize));
                thread.map_or(&empty, |t| &t.known)
            }
        };
        let (topology, operations) = (self.topology, &self.operations);
        let tensor_fences = !self.ignore_tensor_fences;
        let mut walk = Walk {
            check: Check { topology, operations, known, space, tensor_fences, write },
            record,
            found: None,
            last: None,
        };
        match range {
            Range::Global { address, bytes } => {
                let (pages, readers) = self.shadow.global(address, write)?;
                let end = address + u64::from(bytes);
                let (mut g, last) = (address / 4, end.div_ceil(4));
                while g < last {
                    let cells = pages.granules(g, (last - g) as usize);
                    walk.bytes(cells, readers, g, address, end);
                    g += cells.len().max(1) as u64;
                }
            }
            Range::Shared { cta, offset, bytes } => {
                let (first, end) = (u64::from(offset), u64::from(offset) + u64::from(bytes));
                let g = first / 4;
                let (cells, readers) = self.shadow.shared(cta, g, (end.div_ceil(4) - g) as usize);
                walk.bytes(cells, readers, g, first, end);
            }
            Range::Tensor { cta, lane, lanes, column, columns } => {
                for p in lane / 32..(lane + lanes).div_ceil(32).min(4) {
                    // Halves of a partition (16 lanes) are told apart by the mask.
                    let half = |h: u32| {
                        let (first, end) = (p * 32 + h * 16, p * 32 + h * 16 + 16);
                        u8::from(lane < end && first < lane + lanes) << h
                    };
                    let record = record.with_mask(half(0) | half(1));
                    let n = (column + columns).min(512).saturating_sub(column) as usize;
                    let (cells, readers) = self.shadow.tensor(cta, p, column, n);
                    walk.last = None;
                    cells.iter_mut().for_each(|cell| walk.cell(cell, readers, record));
                }
            }
        }
        walk.found
    }
}

/// An access on its way over a range: neighbours usually were touched by the same actors, and become the same.
struct Walk<'a> {
    check: Check<'a>,
    record: Record,
    found: Option<Conflict>,
    /// The last cell before and after the access.
    last: Option<(Cell, Cell)>,
}

impl Walk<'_> {
    /// Bytes `first .. end`, of which `cells` are the granules from `granule` on.
    fn bytes(&mut self, cells: &mut [Cell], readers: &mut Readers, granule: u64, first: u64, end: u64) {
        self.last = None;
        for (g, cell) in (granule..).zip(cells) {
            if g * 4 >= first && g * 4 + 4 <= end {
                self.cell(cell, readers, self.record);
            } else {
                let mask =
                    (0..4).filter(|b| (first..end).contains(&(g * 4 + b))).fold(0u8, |m, b| m | 1 << b);
                self.last = None;
                self.cell(cell, readers, self.record.with_mask(mask));
                self.last = None;
            }
        }
    }

    #[inline(always)]
    fn cell(&mut self, cell: &mut Cell, readers: &mut Readers, record: Record) {
        if let Some((before, after)) = self.last
            && *cell == before
        {
            readers.share(after.read);
            readers.drop(before.read);
            *cell = after;
            return;
        }
        let before = *cell;
        // A set that changes in place is another set afterwards.
        readers.share(before.read);
        let found = look(cell, readers, record, &self.check, self.found.is_none());
        if self.found.is_none() {
            self.found = found;
        }
        readers.drop(before.read);
        self.last = Some((before, *cell));
    }
}
