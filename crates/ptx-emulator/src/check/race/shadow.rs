//! Who touched what last.

use std::collections::{HashMap, HashSet};

/// Who made an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    /// Thread, numbered over the cluster, and its epoch.
    Thread(u32, u32),
    /// Asynchronous operation.
    Operation(u64),
}

/// An access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Who.
    pub actor: Actor,
    /// Code index.
    pub pc: u32,
    /// Bytes of the granule.
    pub mask: u8,
    /// Whether it went through the async proxy.
    pub is_async: bool,
    /// Strong or atomic.
    pub strong: bool,
}

/// Readers kept of one granule.
const READERS: usize = 64;

/// A granule: four bytes of memory, or a column of one 32-lane partition of tensor memory.
#[derive(Clone, Debug, Default)]
pub struct Cell {
    /// The last write.
    pub write: Option<Record>,
    /// Reads since then.
    pub reads: Vec<Record>,
}

impl Cell {
    /// Notes a write: earlier reads are done with.
    pub fn written(&mut self, record: Record) {
        self.reads.clear();
        self.write = Some(record);
    }

    /// Notes a read.
    pub fn read(&mut self, record: Record) {
        let same = |r: &&mut Record| match (r.actor, record.actor) {
            (Actor::Thread(a, _), Actor::Thread(b, _)) => a == b && r.is_async == record.is_async,
            (a, b) => a == b,
        };
        match self.reads.iter_mut().find(same) {
            Some(r) => {
                let mask = r.mask | record.mask;
                *r = Record { mask, ..record };
            }
            None => {
                if self.reads.len() == READERS {
                    self.reads.remove(0);
                }
                self.reads.push(record);
            }
        }
    }
}

/// All granules of a cluster.
#[derive(Default)]
pub struct Shadow {
    /// Shared memory by CTA rank.
    shared: Vec<Vec<Cell>>,
    /// Tensor memory by CTA rank: partition * 512 + column.
    tensor: Vec<Vec<Cell>>,
    /// Global memory by address / 4.
    global: HashMap<u64, Cell>,
    /// Global allocations that the kernel has written.
    written: HashSet<u64>,
}

/// Address bits below the allocation number of the emulator's global memory.
const ALLOCATION_SHIFT: u32 = 36;

impl Shadow {
    /// A granule of shared memory.
    pub fn shared(&mut self, cta: u32, granule: u32) -> &mut Cell {
        cell(&mut self.shared, cta, granule as usize)
    }

    /// A granule of tensor memory.
    pub fn tensor(&mut self, cta: u32, partition: u32, column: u32) -> &mut Cell {
        cell(&mut self.tensor, cta, (partition * 512 + column) as usize)
    }

    /// A granule of global memory, unless its allocation is only read.
    pub fn global(&mut self, granule: u64, write: bool) -> Option<&mut Cell> {
        let allocation = (granule * 4) >> ALLOCATION_SHIFT;
        if write {
            self.written.insert(allocation);
        } else if !self.written.contains(&allocation) {
            return None;
        }
        Some(self.global.entry(granule).or_default())
    }
}

fn cell(all: &mut Vec<Vec<Cell>>, cta: u32, at: usize) -> &mut Cell {
    let cta = cta as usize;
    if cta >= all.len() {
        all.resize_with(cta + 1, Vec::new);
    }
    let cells = &mut all[cta];
    if at >= cells.len() {
        cells.resize_with(at + 1, Cell::default);
    }
    &mut cells[at]
}
