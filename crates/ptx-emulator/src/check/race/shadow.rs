//! Who touched what last: compact records, one cell per granule, pages of cells.

use super::readers::Readers;
use crate::ops::hooks::{Scope, Strong};

/// Who made an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    /// Thread, numbered over the cluster, and its epoch.
    Thread(u32, u32),
    /// Asynchronous operation.
    Operation(u64),
}

/// An access, in 16 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(16))]
pub struct Record {
    /// Thread, operation, or number of a set of readers.
    pub(super) who: u32,
    /// Epoch of a thread.
    pub(super) epoch: u32,
    /// Code index.
    pub pc: u32,
    /// Bytes of the granule (bits 0 - 3), and the constants below. The upper half is free.
    flags: u32,
}

/// Where scope and size of a strong access are: the scope's number, and the power of two plus 1 (0 = not known).
const SCOPE: u32 = 8;
const SIZE: u32 = 11;

fn encode(strong: Option<Strong>) -> u32 {
    strong.map_or(0, |s| {
        let size = if s.bytes == 0 { 0 } else { s.bytes.trailing_zeros() + 1 };
        STRONG | (s.scope as u32) << SCOPE | size << SIZE
    })
}

const MASK: u32 = 0xf;
const ASYNC: u32 = 1 << 4;
const STRONG: u32 = 1 << 5;
const THREAD: u32 = 1 << 6;
const OPERATION: u32 = 2 << 6;
const SET: u32 = 3 << 6;
const KIND: u32 = 3 << 6;

impl Record {
    /// No access.
    pub const NONE: Record = Record { who: 0, epoch: 0, pc: 0, flags: 0 };

    /// An access of a thread, through the generic proxy, to all bytes of the granule.
    #[inline(always)]
    pub fn thread(thread: u32, epoch: u32, pc: u32, strong: Option<Strong>) -> Self {
        Self { who: thread, epoch, pc, flags: MASK | THREAD | encode(strong) }
    }

    /// An access of an operation. (Operations are far fewer than 2^32: each keeps its issuer's knowledge.)
    pub fn operation(id: u64, pc: u32, is_async: bool, strong: Option<Strong>) -> Self {
        let flags = if is_async { ASYNC } else { 0 } | encode(strong);
        Self { who: id as u32, epoch: 0, pc, flags: flags | MASK | OPERATION }
    }

    /// Stands for a set of readers.
    pub(super) fn set(number: u32) -> Self {
        Self { who: number, epoch: 0, pc: 0, flags: SET }
    }

    /// The same access to some bytes only.
    #[inline(always)]
    pub fn with_mask(self, mask: u8) -> Self {
        Self { flags: self.flags & !MASK | u32::from(mask), ..self }
    }

    /// The same access by another lane of the warp.
    pub(super) fn by_lane(self, lane: u32) -> Self {
        Self { who: self.who & !31 | lane, ..self }
    }

    /// Who made it; `None` for no access and for a set.
    pub fn actor(self) -> Option<Actor> {
        match self.flags & KIND {
            THREAD => Some(Actor::Thread(self.who, self.epoch)),
            OPERATION => Some(Actor::Operation(u64::from(self.who))),
            _ => None,
        }
    }

    /// Bytes of the granule.
    pub fn mask(self) -> u8 {
        (self.flags & MASK) as u8
    }

    /// Whether it went through the async proxy.
    pub fn is_async(self) -> bool {
        self.flags & ASYNC != 0
    }

    /// Strong or atomic.
    pub fn is_strong(self) -> bool {
        self.flags & STRONG != 0
    }

    /// Scope and size, if strong.
    pub fn strong(self) -> Option<Strong> {
        let scope = [Scope::Warp, Scope::Cta, Scope::Cluster, Scope::Gpu, Scope::Sys];
        self.is_strong().then(|| Strong {
            scope: scope[(self.flags >> SCOPE & 7) as usize % scope.len()],
            bytes: match self.flags >> SIZE & 7 {
                0 => 0,
                n => 1 << (n - 1),
            },
        })
    }

    /// Whether there was none.
    #[inline(always)]
    pub fn is_none(self) -> bool {
        self.flags & KIND == 0
    }

    /// Whether it is a thread's.
    #[inline(always)]
    pub fn is_thread(self) -> bool {
        self.flags & KIND == THREAD
    }

    /// The set of readers that it stands for.
    #[inline(always)]
    pub(super) fn as_set(self) -> Option<u32> {
        (self.flags & KIND == SET).then_some(self.who)
    }

    /// Whether it is of the thread that made `other`.
    #[inline(always)]
    pub(super) fn same_thread(self, other: Record) -> bool {
        self.is_thread() && self.who == other.who
    }

    /// Whether both are of one actor, through one proxy.
    #[inline(always)]
    pub(super) fn same_actor(self, other: Record) -> bool {
        self.who == other.who && (self.flags ^ other.flags) & (KIND | ASYNC) == 0
    }

    /// Whether both differ in nothing but the lane.
    pub(super) fn same_but_lane(self, other: Record) -> bool {
        self.who / 32 == other.who / 32
            && (self.epoch, self.pc, self.flags) == (other.epoch, other.pc, other.flags)
    }

    /// This access, which also stands for the bytes of an earlier one.
    #[inline(always)]
    pub(super) fn joined(self, earlier: Record) -> Self {
        Self { flags: self.flags | earlier.flags & MASK, ..self }
    }
}

/// A granule: four bytes of memory, or a column of one 32-lane partition of tensor memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Cell {
    /// The last write.
    pub write: Record,
    /// The reader since then, or the set of them.
    pub read: Record,
}

/// Granules of a page of global memory.
const PAGE: u64 = 256;
/// Granules of a CTA's shared memory: what lies beyond is out of bounds, and a finding without us.
const SHARED: usize = 1 << 16;
/// Address bits below the allocation number of the emulator's global memory.
const ALLOCATION_SHIFT: u32 = 36;

/// Pages of an allocation, by number; those never touched take no memory.
#[derive(Default)]
pub struct Pages(Vec<Option<Box<[Cell; PAGE as usize]>>>);

impl Granules for Pages {
    /// Those in the page of the first one.
    #[inline(always)]
    fn granules(&mut self, first: u64, n: usize) -> &mut [Cell] {
        let within = first & ((1 << (ALLOCATION_SHIFT - 2)) - 1);
        let (page, at) = ((within / PAGE) as usize, (within % PAGE) as usize);
        if self.0.get(page).is_none_or(Option::is_none) {
            self.add(page);
        }
        match self.0.get_mut(page) {
            Some(Some(cells)) => &mut cells[at..(at + n).min(PAGE as usize)],
            _ => &mut [],
        }
    }
}

impl Pages {
    #[cold]
    #[inline(never)]
    fn add(&mut self, page: usize) {
        if page >= self.0.len() {
            self.0.resize_with(page + 1, || None);
        }
        self.0[page] = Some(Box::new([Cell::default(); PAGE as usize]));
    }
}

/// Granules by number.
pub trait Granules {
    /// Up to `n` granules from `first` on, as many as lie together.
    fn granules(&mut self, first: u64, n: usize) -> &mut [Cell];
}

impl Granules for [Cell] {
    #[inline(always)]
    fn granules(&mut self, first: u64, n: usize) -> &mut [Cell] {
        self.get_mut(first as usize..first as usize + n).unwrap_or_default()
    }
}

/// All granules of a cluster.
#[derive(Default)]
pub struct Shadow {
    /// Shared memory by CTA rank.
    shared: Vec<Vec<Cell>>,
    /// Tensor memory by CTA rank: partition * 512 + column.
    tensor: Vec<Vec<Cell>>,
    /// Global memory by allocation number: those that the kernel writes, or all.
    global: Vec<Option<Pages>>,
    /// Cells with several readers.
    pub(super) readers: Readers,
    /// Whether all of global memory is followed, not only what has been written.
    pub follow_all: bool,
}

impl Shadow {
    /// `n` granules of shared memory; fewer, or none, where there is no memory.
    #[inline(always)]
    pub fn shared(&mut self, cta: u32, granule: u64, n: usize) -> (&mut [Cell], &mut Readers) {
        let (first, end) = (granule as usize, (granule as usize).saturating_add(n).min(SHARED));
        (grown(&mut self.shared, cta, first, end), &mut self.readers)
    }

    /// Columns of a partition of tensor memory.
    pub fn tensor(&mut self, cta: u32, partition: u32, column: u32, n: usize) -> (&mut [Cell], &mut Readers) {
        let first = (partition * 512 + column) as usize;
        (grown(&mut self.tensor, cta, first, first + n), &mut self.readers)
    }

    /// A CTA has finished.
    pub fn retire(&mut self, cta: u32) {
        for all in [&mut self.shared, &mut self.tensor] {
            for cell in all.get_mut(cta as usize).map(std::mem::take).unwrap_or_default() {
                self.readers.drop(cell.read);
            }
        }
    }

    /// The pages of the allocation of an address, which exists. `None` if the kernel has only read it up to now.
    #[inline]
    pub fn global(&mut self, address: u64, write: bool) -> Option<(&mut Pages, &mut Readers)> {
        let allocation = (address >> ALLOCATION_SHIFT) as usize;
        if (write || self.follow_all) && self.global.get(allocation).is_none_or(Option::is_none) {
            if allocation >= self.global.len() {
                self.global.resize_with(allocation + 1, || None);
            }
            self.global[allocation] = Some(Pages::default());
        }
        Some((self.global.get_mut(allocation)?.as_mut()?, &mut self.readers))
    }
}

/// Cells `first .. end` of a CTA's memory.
#[inline(always)]
fn grown(all: &mut Vec<Vec<Cell>>, cta: u32, first: usize, end: usize) -> &mut [Cell] {
    let cta = cta as usize;
    if all.get(cta).is_none_or(|cells| cells.len() < end) {
        grow(all, cta, end);
    }
    &mut all[cta][first.min(end)..end]
}

#[cold]
#[inline(never)]
fn grow(all: &mut Vec<Vec<Cell>>, cta: usize, end: usize) {
    if cta >= all.len() {
        all.resize_with(cta + 1, Vec::new);
    }
    if all[cta].len() < end {
        all[cta].resize(end.next_power_of_two(), Cell::default());
    }
}
