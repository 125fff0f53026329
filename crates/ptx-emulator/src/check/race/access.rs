//! Accesses: what they touch, the common cases at once, the others by [`Check`].

use super::clock::{Clock, Space};
use super::conflict::{Check, Conflict};
use super::detector::{Detector, Operation};
use super::readers::Readers;
use super::shadow::{Cell, Granules, Record};
use crate::ops::hooks::{Kind, Range};

/// The same access by lanes of a warp, each at its own aligned address in one memory.
pub struct WarpAccess<'a> {
    /// Owner of the shared memory; `None` = global memory.
    pub shared: Option<u32>,
    /// Number in the cluster of the thread in lane 0.
    pub first: u32,
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
    fn lanes(&self) -> impl Iterator<Item = usize> + use<> {
        let mask = self.mask;
        (0..32).filter(move |l| mask >> l & 1 == 1)
    }
}

fn writes(kind: Kind) -> bool {
    matches!(kind, Kind::Write | Kind::StrongWrite | Kind::Atomic | Kind::MbarrierInit)
}

fn is_strong(kind: Kind) -> bool {
    matches!(kind, Kind::StrongRead | Kind::StrongWrite | Kind::Atomic)
}

/// Whether a thread's access is ordered behind an earlier one, as far as that can be seen at once.
#[inline(always)]
fn ordered(clock: &Clock, earlier: Record, record: Record) -> bool {
    // Most often, the same thread has made the access before.
    if earlier.same_thread(record) {
        true
    } else if earlier.is_thread() {
        clock.seen.thread(earlier.who) >= earlier.epoch
            || (earlier.who / 32 == record.who / 32 && earlier.pc == record.pc)
    } else {
        // A set of readers has to be looked at; an operation must be known to be complete.
        earlier.is_none()
            || (earlier.as_set().is_none() && clock.seen.operations.contains(u64::from(earlier.who)))
    }
}

/// Notes a thread's access to a granule. `false` if nothing is noted, because it has to be looked at closely.
#[inline(always)]
fn touch<const WRITE: bool>(cell: &mut Cell, record: Record, clock: &Clock) -> bool {
    if !ordered(clock, cell.write, record) {
        return false;
    }
    if WRITE {
        if !ordered(clock, cell.read, record) {
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
        cell.read = readers.add(cell.read, record);
    }
    found
}

/// The lanes of a warp that make an access, and what they know.
struct Lanes<'a> {
    access: &'a WarpAccess<'a>,
    clocks: &'a [Clock],
    epochs: &'a [u32],
    operations: &'a [Operation],
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
        let (a, strong) = (self.access, is_strong(kind));
        let mut found = Vec::new();
        for lane in a.lanes() {
            let (clock, at) = (&self.clocks[lane], a.addresses[lane]);
            let mut record = Record::thread(a.first + lane as u32, self.epochs[lane], a.pc, strong);
            if N == 1 && a.bytes < 4 {
                record = record.with_mask((((1u32 << a.bytes) - 1) << (at % 4)) as u8);
            }
            let Ok(cells) = <&mut [Cell; N]>::try_from(memory.granules(at / 4, N)) else { continue };
            let mut closely = 0u32;
            for (i, cell) in cells.iter_mut().enumerate() {
                closely |= u32::from(!touch::<WRITE>(cell, record, clock)) << i;
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
        let (operations, space) = (self.operations, self.space);
        let clock = &self.clocks[lane];
        let check = Check { clock, operations, space, tensor_fences: false, write: WRITE };
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
    /// A thread touches memory through the generic proxy. `at` is global or shared.
    pub fn thread_access(&mut self, thread: u32, pc: u32, range: Range, kind: Kind) -> Option<Conflict> {
        let epoch = *self.epochs.get(thread as usize)?;
        let record = Record::thread(thread, epoch, pc, is_strong(kind));
        if self.touch_word(range, kind, record) {
            return None;
        }
        self.access(range, kind, record, None)
    }

    /// Notes a thread's access to one whole granule; `false` if it is not one, or has to be looked at closely.
    #[inline]
    fn touch_word(&mut self, range: Range, kind: Kind, record: Record) -> bool {
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
        let (Some(cell), Some(clock)) = (cells.first_mut(), self.threads.get(record.who as usize)) else {
            return false;
        };
        if write { touch::<true>(cell, record, clock) } else { touch::<false>(cell, record, clock) }
    }

    /// An operation touches memory.
    pub fn operation_access(&mut self, id: u64, range: Range, kind: Kind) -> Option<Conflict> {
        let o = self.operations.get(id.checked_sub(1)? as usize)?;
        let record = Record::operation(id, o.pc, o.is_async, is_strong(kind));
        self.access(range, kind, record, Some(id))
    }

    /// Lanes of a warp touch memory through the generic proxy: the same as [`Self::thread_access`] lane by lane.
    /// Conflicts come with their lanes.
    pub fn warp_access(&mut self, access: &WarpAccess<'_>, kind: Kind) -> Vec<(usize, Conflict)> {
        if writes(kind) { self.by_lane::<true>(access, kind) } else { self.by_lane::<false>(access, kind) }
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
        let first = a.first as usize;
        let (Some(clocks), Some(epochs)) =
            (self.threads.get(first..first + 32), self.epochs.get(first..first + 32))
        else {
            return Vec::new();
        };
        let space = if a.shared.is_some() { Space::Shared } else { Space::Global };
        let lanes = Lanes { access: a, clocks, epochs, operations: &self.operations, space };
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
        let clock = match id {
            Some(id) => &self.operations[id as usize - 1].clock,
            None => &self.threads[record.who as usize],
        };
        let operations: &[Operation] = &self.operations;
        let tensor_fences = !self.ignore_tensor_fences;
        let mut walk = Walk {
            check: Check { clock, operations, space, tensor_fences, write },
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
