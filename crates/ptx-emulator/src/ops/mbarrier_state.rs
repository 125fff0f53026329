//! The mbarrier objects of a cluster: which are alive, their phases, and every operation on them.
//!
//! The counts live in shared memory ([`Mbarrier`]); what is kept here is what the object cannot hold: phases
//! counted from the initialisation, who waits for which, and which bytes belong to live objects.

use std::collections::{BTreeMap, HashMap};

use super::sync_state::check_alive;
use crate::check::{Class, Place};
use crate::machine::{Cluster, Cta, Mbarrier, Misuse};

/// Bytes of an object.
pub(super) const BYTES: u32 = 8;

/// A live object.
struct Live {
    /// Where it was initialised.
    init: Place,
    /// Current phase, from 0.
    phase: u64,
    /// How many phases some thread has seen completed.
    observed: u64,
}

/// All live objects.
#[derive(Default)]
pub(super) struct Mbarriers {
    live: Vec<BTreeMap<u32, Live>>,
    /// Waits that have returned false: (cta, offset, thread) -> the phase that was current then, and what was
    /// waited for.
    waits: HashMap<(u32, u32, u32), (u64, Target)>,
}

/// What an operation does to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// `count` arrivals, after expecting `tx` bytes.
    Arrive {
        /// Arrivals.
        count: u32,
        /// Bytes expected before.
        tx: Option<u32>,
        /// Whether later phases expect that many arrivals less.
        drop: bool,
    },
    /// Expects bytes.
    ExpectTx(u32),
    /// Completes bytes.
    CompleteTx(u32),
    /// One more arrival pending in this phase (`cp.async.mbarrier.arrive`).
    Increment,
}

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Effect {
    /// The phase that was current before.
    pub phase: u64,
    /// Pending arrivals before.
    pub pending: u32,
    /// Whether that phase completed.
    pub completed: bool,
    /// Whether it is an arrival while nobody has seen the phase before completed.
    pub unobserved: bool,
}

/// Why an operation is not possible.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// The CTA is not there.
    #[error("mbarrier in {1}")]
    Owner(Class, String),
    /// Outside shared memory.
    #[error("mbarrier at shared offset {0:#x} is outside shared memory")]
    Bounds(u32),
    /// Not a multiple of 8.
    #[error("mbarrier at shared offset {0:#x} is not 8-byte aligned")]
    Misaligned(u32),
    /// Not there.
    #[error("no mbarrier has been initialised at shared offset {0:#x} (or it has been invalidated)")]
    NotThere(u32),
    /// Its bytes are no mbarrier any more.
    #[error("the mbarrier at shared offset {0:#x} has been overwritten")]
    Overwritten(u32),
    /// There already.
    #[error("the mbarrier at shared offset {0:#x} is initialised again without mbarrier.inval")]
    Again(u32, Box<Place>),
    /// Counts.
    #[error("mbarrier at shared offset {0:#x}: {1}")]
    Misuse(u32, Misuse),
}

impl Fault {
    /// Class of the finding.
    pub(super) fn class(&self) -> Class {
        match self {
            Fault::Owner(class, _) => *class,
            Fault::Bounds(_) => Class::OutOfBounds,
            Fault::Misaligned(_) => Class::Misaligned,
            _ => Class::Mbarrier,
        }
    }
}

/// Answer to a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tested {
    /// Whether the phase has completed.
    pub complete: bool,
    /// Phases completed so far.
    pub phases: u64,
    /// The waiter is more than one phase behind.
    pub lapped: bool,
    /// The thread has not tested for this phase before.
    pub first: bool,
}

impl Mbarriers {
    pub(super) fn new(ctas: usize) -> Self {
        Self { live: (0..ctas).map(|_| BTreeMap::new()).collect(), waits: HashMap::new() }
    }

    /// The current phase of the object at (cta, offset).
    pub(super) fn phase(&self, at: (u32, u32)) -> Option<u64> {
        self.live.get(at.0 as usize)?.get(&at.1).map(|l| l.phase)
    }

    /// The first live object that overlaps a range: offset and where it was initialised.
    pub(super) fn overlap(&self, cta: u32, offset: u32, bytes: u32) -> Option<(u32, &Place)> {
        let live = self.live.get(cta as usize)?;
        if live.is_empty() {
            return None;
        }
        let range = offset.saturating_sub(BYTES - 1)..offset.saturating_add(bytes);
        live.range(range).next().map(|(&at, l)| (at, &l.init))
    }

    /// For deadlock reports.
    pub(super) fn describe(&self, ctas: &[Cta], cta: u32, offset: u32, parity: u32) -> String {
        let mut text =
            format!("parity {parity} of the mbarrier at shared offset {offset:#x} of CTA rank {cta}");
        let object = ctas
            .get(cta as usize)
            .and_then(|c| c.shared.word(offset, BYTES as usize))
            .and_then(Mbarrier::from_bits);
        let live = self.live.get(cta as usize).and_then(|l| l.get(&offset));
        match (object, live) {
            (Some(b), Some(live)) => text.push_str(&format!(
                ": phase {} (parity {}), {} of {} arrivals pending, {} bytes pending",
                live.phase, b.phase, b.pending, b.expected, b.tx
            )),
            _ => text.push_str(": no live object"),
        }
        text
    }
}

/// The object at an address.
fn object(cluster: &Cluster, cta: u32, offset: u32) -> Result<Mbarrier, Fault> {
    place_of(cluster, cta, offset)?;
    if !cluster.state.sync.mbarriers.live[cta as usize].contains_key(&offset) {
        return Err(Fault::NotThere(offset));
    }
    let word = cluster.ctas[cta as usize].shared.word(offset, BYTES as usize);
    word.and_then(Mbarrier::from_bits).ok_or(Fault::Overwritten(offset))
}

/// Whether an object can be at an address.
fn place_of(cluster: &Cluster, cta: u32, offset: u32) -> Result<(), Fault> {
    check_alive(cluster, cta).map_err(|(class, why)| Fault::Owner(class, why))?;
    if !offset.is_multiple_of(BYTES) {
        return Err(Fault::Misaligned(offset));
    }
    match cluster.ctas[cta as usize].shared.get(offset, BYTES as usize) {
        Some(_) => Ok(()),
        None => Err(Fault::Bounds(offset)),
    }
}

fn store(cluster: &mut Cluster, cta: u32, offset: u32, word: u64, init: bool) {
    // The range has been checked by `place_of`.
    let _ = cluster.ctas[cta as usize].shared.set(offset, &word.to_le_bytes(), init);
}

/// `mbarrier.init`. An object that is there already is replaced, and the fault returned.
pub(super) fn init(cluster: &mut Cluster, cta: u32, offset: u32, count: u32, by: Place) -> Result<(), Fault> {
    place_of(cluster, cta, offset)?;
    let object = Mbarrier::new(count).map_err(|m| Fault::Misuse(offset, m))?;
    store(cluster, cta, offset, object.to_bits(), true);
    let live = Live { init: by, phase: 0, observed: 0 };
    match cluster.state.sync.mbarriers.live[cta as usize].insert(offset, live) {
        Some(before) => Err(Fault::Again(offset, Box::new(before.init))),
        None => Ok(()),
    }
}

/// `mbarrier.inval`: the bytes are uninitialised afterwards.
pub(super) fn inval(cluster: &mut Cluster, cta: u32, offset: u32) -> Result<(), Fault> {
    object(cluster, cta, offset)?;
    store(cluster, cta, offset, u64::MAX >> 1, false);
    let all = &mut cluster.state.sync.mbarriers;
    all.live[cta as usize].remove(&offset);
    all.waits.retain(|k, _| (k.0, k.1) != (cta, offset));
    Ok(())
}

/// An operation that changes counts. The caller wakes the waiters of a completed phase.
pub(super) fn apply(cluster: &mut Cluster, cta: u32, offset: u32, event: Event) -> Result<Effect, Fault> {
    let mut object = object(cluster, cta, offset)?;
    let pending = object.pending;
    let misuse = |m| Fault::Misuse(offset, m);
    let completed = match event {
        Event::Arrive { count, tx, drop } => {
            // Bytes that were completed before count: expecting them must not complete the phase by itself.
            if let Some(bytes) = tx {
                object.expect_tx(bytes).map_err(misuse)?;
            }
            if drop { object.arrive_drop(count) } else { object.arrive(count) }.map_err(misuse)?
        }
        Event::ExpectTx(bytes) => {
            object.expect_tx(bytes).map_err(misuse)?;
            object.try_complete()
        }
        Event::CompleteTx(bytes) => object.complete_tx(bytes).map_err(misuse)?,
        Event::Increment => {
            object.increment().map_err(misuse)?;
            false
        }
    };
    store(cluster, cta, offset, object.to_bits(), true);
    cluster.state.sync.events += 1;
    let Some(live) = cluster.state.sync.mbarriers.live[cta as usize].get_mut(&offset) else {
        return Err(Fault::NotThere(offset));
    };
    let phase = live.phase;
    let unobserved = matches!(event, Event::Arrive { .. }) && live.observed < phase;
    live.phase += u64::from(completed);
    Ok(Effect { phase, pending, completed, unobserved })
}

/// What a wait waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A phase by parity.
    Parity(u32),
    /// A phase by its number (from an arrival's state).
    Phase(u64),
}

/// Tests whether a phase has completed, on behalf of a thread of the owning CTA.
pub(super) fn test(
    cluster: &mut Cluster,
    cta: u32,
    offset: u32,
    thread: u32,
    target: Target,
) -> Result<Tested, Fault> {
    let object = object(cluster, cta, offset)?;
    let all = &mut cluster.state.sync.mbarriers;
    let Some(live) = all.live[cta as usize].get_mut(&offset) else { return Err(Fault::NotThere(offset)) };
    let key = (cta, offset, thread);
    let before = all.waits.get(&key).filter(|w| w.1 == target);
    let first = before.is_none();
    let (complete, lapped) = match target {
        Target::Phase(phase) => (live.phase > phase, live.phase > phase + 1),
        // A thread that has been waiting for a phase since it was current.
        Target::Parity(parity) => (object.test_parity(parity), before.is_some_and(|b| live.phase >= b.0 + 2)),
    };
    if complete || lapped || first {
        all.waits.remove(&key);
    }
    if complete {
        live.observed = live.observed.max(live.phase);
    } else {
        all.waits.entry(key).or_insert((live.phase, target));
    }
    Ok(Tested { complete, phases: live.phase, lapped, first })
}
