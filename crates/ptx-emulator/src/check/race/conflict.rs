//! Whether an access conflicts with an earlier one of the same bytes.

use super::clock::{Knowledge, Space, View};
use super::operations::Operations;
use super::readers::Readers;
use super::release::Topology;
use super::shadow::{Actor, Cell, Record};
use crate::check::Place;

/// What is missing between two conflicting accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Order.
    Order,
    /// Order; both are strong, but their scopes do not include each other, or they overlap partially.
    MoralStrength,
    /// A proxy fence only.
    ProxyFence,
    /// `griddepcontrol.wait` for an earlier kernel.
    KernelEnd,
    /// A `tcgen05.fence` only.
    TensorFence,
}

/// A conflict between two accesses.
#[derive(Clone, Debug)]
pub struct Conflict {
    /// What is missing.
    pub missing: Missing,
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
    /// Thread: its CTA and its number there, code index.
    Thread((u32, u32), u32),
    /// An operation: its name and place.
    Operation(&'static str, Place),
    /// An earlier kernel: its name, and the place there.
    Kernel(String, Place),
}

/// What a check needs to know besides the two accesses.
pub struct Check<'a> {
    pub topology: Topology,
    pub operations: &'a Operations,
    /// What the actor of the access knows.
    pub known: &'a Knowledge,
    pub space: Space,
    /// `tcgen05.fence` is asked for.
    pub tensor_fences: bool,
    /// Whether the access writes.
    pub write: bool,
}

impl Check<'_> {
    /// CTA of an actor.
    fn cta(&self, actor: Actor) -> u32 {
        match actor {
            Actor::Thread(t, _) => self.topology.thread(t).0,
            Actor::Operation(id) => self.operations.get(id).map_or(0, |o| o.cta),
        }
    }

    /// Whether two strong accesses are morally strong.
    fn morally_strong(&self, a: Record, b: Record) -> bool {
        let (Some(x), Some(y)) = (a.strong(), b.strong()) else { return false };
        let (Some(from), Some(to)) = (a.actor(), b.actor()) else { return false };
        let complete = x.bytes == y.bytes || x.bytes == 0 || y.bytes == 0;
        let between = self.topology.between(self.cta(from), self.cta(to));
        complete && a.is_async() == b.is_async() && between <= x.scope.min(y.scope)
    }

    /// Whether a tensor operation is known to be complete, but no `tcgen05.fence` orders `record` behind it.
    fn unfenced(&self, earlier: Record, record: Record) -> bool {
        let (Some(Actor::Operation(id)), Some(Actor::Operation(me))) = (earlier.actor(), record.actor())
        else {
            return false;
        };
        let (Some(x), Some(y)) = (self.operations.get(id), self.operations.get(me)) else { return true };
        if id == me || Operations::pipelined(x, y) {
            return false;
        }
        if Operations::is_done(x, true, self.known.clock.tensor.get(x.cta)) {
            return false;
        }
        // A warp's own loads and stores have been waited for.
        x.is_async || x.cta != y.cta || x.place.thread / 32 != y.place.thread / 32
    }

    /// Whether an actor knows that an operation's writes, or reads, are done.
    fn done(&self, id: u64, wrote: bool, by: &View) -> bool {
        self.operations.get(id).is_some_and(|o| Operations::is_done(o, wrote, by.operations.get(o.cta)))
    }

    /// Whether an earlier access, which `wrote` or read, is known.
    #[inline]
    pub fn knows(&self, earlier: Record, wrote: bool) -> bool {
        match earlier.actor() {
            Some(Actor::Thread(t, epoch)) => self.known.knows(self.topology.thread(t), epoch),
            Some(Actor::Operation(id)) => self.done(id, wrote, &self.known.clock.seen),
            None => true,
        }
    }

    /// What is missing between an earlier access, which `wrote` or read, and this one.
    fn missing(&self, earlier: Record, wrote: bool, record: Record) -> Option<Missing> {
        let actor = earlier.actor()?;
        if earlier.mask() & record.mask() == 0 || self.morally_strong(earlier, record) {
            return None;
        }
        // An actor's own accesses, lanes of a warp in the same instruction, and what executes in issue order.
        let own = match (actor, record.actor()) {
            (Actor::Thread(t, _), Some(Actor::Thread(me, _))) => {
                me == t || me / 32 == t / 32 && earlier.pc == record.pc
            }
            (Actor::Operation(id), Some(Actor::Operation(me))) => {
                let both = self.operations.get(id).zip(self.operations.get(me));
                me == id || both.is_some_and(|(x, y)| Operations::pipelined(x, y))
            }
            _ => false,
        };
        if !own && !self.knows(earlier, wrote) {
            let strong = earlier.is_strong() && record.is_strong();
            return Some(if strong { Missing::MoralStrength } else { Missing::Order });
        }
        // Through different proxies the earlier access must also be fenced; an operation's completion is.
        let crosses = record.is_async() && !earlier.is_async() && self.space != Space::Tensor;
        let fenced = || match actor {
            Actor::Thread(t, epoch) => self.known.fenced(self.topology.thread(t), epoch, self.space),
            Actor::Operation(id) => self.done(id, wrote, self.known.clock.fenced(self.space)),
        };
        if crosses && !own && !fenced() {
            return Some(Missing::ProxyFence);
        }
        let tensor = self.tensor_fences && self.space == Space::Tensor && self.unfenced(earlier, record);
        tensor.then_some(Missing::TensorFence)
    }

    /// The first earlier access of a granule that `record` conflicts with.
    pub fn conflict(&self, cell: &Cell, readers: &Readers, record: Record) -> Option<Conflict> {
        let found = |missing: Missing, earlier: Record, earlier_kind: &'static str| Conflict {
            missing,
            earlier: self.who(earlier),
            earlier_kind,
            kind: if self.write { "write" } else { "read" },
        };
        if let Some(missing) = self.missing(cell.write, true, record) {
            return Some(found(missing, cell.write, "write"));
        }
        if !self.write {
            return None;
        }
        readers.records(cell.read).find_map(|r| {
            // Generic reads before an async write need the order only: the ISA asks for no proxy fence there that
            // CUTLASS would not leave out.
            let missing = self.missing(r, false, record).filter(|&m| m != Missing::ProxyFence)?;
            Some(found(missing, r, "read"))
        })
    }

    fn who(&self, record: Record) -> Who {
        match record.actor() {
            Some(Actor::Thread(t, _)) => Who::Thread(self.topology.thread(t), record.pc),
            Some(Actor::Operation(id)) => match self.operations.get(id) {
                Some(o) => Who::Operation(o.what, o.place.clone()),
                None => Who::Operation("operation", Place::default()),
            },
            None => Who::Operation("nobody", Place::default()),
        }
    }
}
