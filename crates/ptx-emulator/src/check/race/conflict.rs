//! Whether an access is ordered behind an earlier one of its granule.

use super::clock::{Clock, Space};
use super::detector::Operation;
use super::readers::Readers;
use super::shadow::{Actor, Cell, Record};
use crate::check::Place;

/// A conflict between two accesses.
#[derive(Clone, Debug)]
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

/// An access being checked, and what its actor knows.
pub(super) struct Check<'a> {
    /// What the actor knows.
    pub clock: &'a Clock,
    /// All operations.
    pub operations: &'a [Operation],
    /// State space.
    pub space: Space,
    /// Whether `tcgen05.fence` is asked for.
    pub tensor_fences: bool,
    /// Whether it writes.
    pub write: bool,
}

impl Check<'_> {
    fn operation(&self, id: u64) -> Option<&Operation> {
        self.operations.get(id.checked_sub(1)? as usize)
    }

    /// The first earlier access of a granule that `record` conflicts with.
    pub fn conflict(&self, cell: &Cell, readers: &Readers, record: Record) -> Option<Conflict> {
        if let Some(found) = self.against(cell.write, "write", record) {
            return Some(found);
        }
        if !self.write {
            return None;
        }
        readers.records(cell.read).find_map(|r| {
            // Generic reads before an async write need the order only: the ISA asks for no proxy fence there that
            // CUTLASS would not leave out.
            self.against(r, "read", record).filter(|c| !c.proxy)
        })
    }

    fn against(&self, earlier: Record, earlier_kind: &'static str, record: Record) -> Option<Conflict> {
        let actor = earlier.actor()?;
        if earlier.mask() & record.mask() == 0 || (earlier.is_strong() && record.is_strong()) {
            return None;
        }
        let fenced = self.clock.fenced(self.space);
        let (seen, fenced) = match actor {
            Actor::Thread(t, epoch) => {
                // The thread itself, or lanes of its warp in the same instruction.
                let together = matches!(record.actor(), Some(Actor::Thread(me, _)) if me == t
                    || me / 32 == t / 32 && earlier.pc == record.pc);
                (together || self.clock.seen.thread(t) >= epoch, together || fenced.thread(t) >= epoch)
            }
            Actor::Operation(id) => {
                let same = matches!(record.actor(),
                    Some(Actor::Operation(me)) if me == id || self.pipelined(id, me));
                (same || self.clock.seen.operations.contains(id), same || fenced.operations.contains(id))
            }
        };
        // Through different proxies the earlier access must also be fenced; an operation's completion is.
        let crosses = record.is_async() != earlier.is_async() && self.space != Space::Tensor;
        let proxy = seen && crosses && record.is_async() && !fenced;
        let tensor =
            seen && self.tensor_fences && self.space == Space::Tensor && self.unfenced(earlier, record);
        if seen && !proxy && !tensor {
            return None;
        }
        let earlier = match actor {
            Actor::Thread(t, _) => Who::Thread(t, earlier.pc),
            Actor::Operation(id) => {
                self.operation(id).map_or(Who::Operation("operation", Place::default()), |o| {
                    Who::Operation(o.what, o.place.clone())
                })
            }
        };
        let kind = if self.write { "write" } else { "read" };
        Some(Conflict { proxy, tensor, earlier, earlier_kind, kind })
    }

    /// Whether a tensor operation is known to be complete, but no `tcgen05.fence` orders `record` behind it.
    fn unfenced(&self, earlier: Record, record: Record) -> bool {
        let (Some(Actor::Operation(id)), Some(Actor::Operation(me))) = (earlier.actor(), record.actor())
        else {
            return false;
        };
        if id == me || self.pipelined(id, me) || self.clock.tensor.contains(id) {
            return false;
        }
        // A warp's own loads and stores have been waited for.
        let own = |x: &Operation, y: &Operation| x.cta == y.cta && x.place.thread / 32 == y.place.thread / 32;
        !matches!((self.operation(id), self.operation(me)), (Some(x), Some(y)) if !x.is_async && own(x, y))
    }

    /// Whether two operations execute in issue order without a wait: tcgen05 mma and cp of one CTA.
    fn pipelined(&self, a: u64, b: u64) -> bool {
        let kind = |o: &Operation| matches!(o.what, "tcgen05.mma" | "tcgen05.cp" | "tcgen05.shift");
        match (self.operation(a), self.operation(b)) {
            (Some(x), Some(y)) => x.cta == y.cta && kind(x) && kind(y),
            _ => false,
        }
    }
}
