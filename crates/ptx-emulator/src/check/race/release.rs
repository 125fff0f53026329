//! What threads synchronise through, and what has been released there (PTX ISA 8.5, 8.7, 8.8, 8.9.4).
//!
//! A release reaches an acquire if each names a scope that includes the other's thread. What is released is kept by
//! CTA and scope, therefore.

use std::collections::HashMap;

use super::clock::{Clock, Knowledge};
use crate::ops::hooks::Scope;

/// Which CTAs form a cluster.
#[derive(Clone, Copy, Debug)]
pub struct Topology {
    /// CTAs of a cluster.
    pub cluster: u32,
    /// Threads are numbered by CTA, and this many bits within it.
    pub bits: u32,
}

impl Topology {
    /// The number of a thread of a CTA.
    #[inline]
    pub fn number(self, at: (u32, u32)) -> u32 {
        at.0 << self.bits | at.1
    }

    /// The thread with a number.
    #[inline(always)]
    pub fn thread(self, number: u32) -> (u32, u32) {
        (number >> self.bits, number & ((1 << self.bits) - 1))
    }

    /// The narrowest scope that includes threads of both CTAs.
    #[inline]
    pub fn between(self, a: u32, b: u32) -> Scope {
        if a == b {
            Scope::Cta
        } else if a / self.cluster == b / self.cluster {
            Scope::Cluster
        } else {
            Scope::Gpu
        }
    }
}

/// What was released with one scope by threads of one CTA.
#[derive(Clone, Debug)]
struct Part {
    /// `None`: completions of operations and arrivals at barriers, which reach whoever observes them.
    by: Option<(u32, Scope)>,
    clock: Clock,
}

/// What an object holds.
#[derive(Clone, Debug, Default)]
pub struct Released(Vec<Part>);

impl Released {
    /// Where releases of a CTA with a scope go; `None` = to everybody.
    pub fn part(&mut self, by: Option<(u32, Scope)>) -> &mut Clock {
        let at = self.0.iter().position(|p| p.by == by).unwrap_or_else(|| {
            self.0.push(Part { by, clock: Clock::default() });
            self.0.len() - 1
        });
        &mut self.0[at].clock
    }

    /// What an acquire of a CTA at a scope takes over.
    pub fn reaching(&self, topology: Topology, cta: u32, scope: Scope) -> impl Iterator<Item = &Clock> {
        let reaches =
            move |p: &&Part| p.by.is_none_or(|(by, with)| topology.between(by, cta) <= with.min(scope));
        self.0.iter().filter(reaches).map(|p| &p.clock)
    }

    /// What reaches a CTA if it asks with a scope that is wide enough: the scopes and what they give.
    fn toward(&self, topology: Topology, cta: u32) -> impl Iterator<Item = (Scope, &Clock)> {
        self.0.iter().filter_map(move |p| {
            let (by, with) = p.by?;
            let needed = topology.between(by, cta);
            (needed <= with).then_some((needed, &p.clock))
        })
    }
}

/// What a thread has released by fences and seen by strong reads, waiting for the other half of the pattern.
#[derive(Clone, Debug, Default)]
pub struct Patterns {
    /// What the thread knew at its last release fence of a scope: strong writes publish it.
    fences: Vec<(Scope, Clock)>,
    /// What strong reads have observed, by the scope that an acquire must have at least.
    observed: Vec<(Scope, Clock)>,
}

impl Patterns {
    /// A release fence.
    pub fn release(&mut self, scope: Scope, known: &Knowledge) {
        let mut clock = Clock::default();
        known.publish(&mut clock);
        // What a narrower fence covers is covered by this one too.
        self.fences.retain(|f| f.0 > scope);
        self.fences.push((scope, clock));
    }

    /// An acquire fence: what is to be taken over.
    pub fn acquire(&mut self, scope: Scope) -> Vec<Clock> {
        let (reached, rest) = std::mem::take(&mut self.observed).into_iter().partition(|o| o.0 <= scope);
        self.observed = rest;
        let reached: Vec<(Scope, Clock)> = reached;
        reached.into_iter().map(|o| o.1).collect()
    }

    /// What the fences publish through an object whose own operation is relaxed.
    pub fn publish(&self, cta: u32, to: &mut Released) {
        for (scope, clock) in &self.fences {
            to.part(Some((cta, *scope))).join(clock);
        }
    }

    /// A relaxed operation has observed an object.
    pub fn observe_all(&mut self, topology: Topology, cta: u32, released: &Released) {
        for p in &released.0 {
            let needed = p.by.map_or(Scope::Cta, |(by, _)| topology.between(by, cta));
            if p.by.is_none_or(|(_, with)| needed <= with) {
                self.observe(needed, &p.clock);
            }
        }
    }

    fn observe(&mut self, scope: Scope, clock: &Clock) {
        match self.observed.iter_mut().find(|o| o.0 == scope) {
            Some((_, known)) => known.join(clock),
            None => self.observed.push((scope, clock.clone())),
        }
    }
}

/// A location that strong writes have written.
#[derive(Debug)]
struct Location {
    first: u8,
    bytes: u8,
    /// CTA of the last writer, its number in the CTA, and the scope of its write.
    writer: (u32, u32),
    scope: Scope,
    /// What the last write, and the atomic operations up to it, publish.
    released: Released,
    /// The last release operation: a later strong write of the thread goes on publishing it.
    last: Option<((u32, u32), Scope, Clock)>,
}

/// A strong access to a scalar location.
#[derive(Clone, Copy, Debug)]
pub struct StrongAccess {
    /// Whether its read can be part of an acquire pattern (loads and `atom`, not `red`: 8.8).
    pub reads: bool,
    /// Whether it writes.
    pub writes: bool,
    /// Whether it is an atomic operation or a reduction: it hands on what was released before it.
    pub updates: bool,
    /// `.acquire`.
    pub acquires: bool,
    /// `.release`.
    pub releases: bool,
    /// Scope.
    pub scope: Scope,
}

/// Bytes that are looked up together.
const LINE: u64 = 16;

/// All locations through which threads have released something.
#[derive(Debug, Default)]
pub struct Locations {
    lines: HashMap<u64, Vec<Location>>,
}

impl Locations {
    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Forgets what was published where something else than a strong write writes.
    #[inline]
    pub fn overwrite(&mut self, first: u64, bytes: u64) {
        if !self.lines.is_empty() {
            self.forget(first, bytes, false);
        }
    }

    #[cold]
    fn forget(&mut self, first: u64, bytes: u64, keep_same: bool) {
        let end = first.saturating_add(bytes.max(1));
        for line in first / LINE..=(end - 1) / LINE {
            let Some(all) = self.lines.get_mut(&line) else { continue };
            all.retain(|l| {
                let at = line * LINE + u64::from(l.first);
                let same = at == first && u64::from(l.bytes) == bytes;
                keep_same && same || at >= end || at + u64::from(l.bytes) <= first
            });
            if all.is_empty() {
                self.lines.remove(&line);
            }
        }
    }

    /// A strong access of a thread to `bytes` bytes (8 at most) at a location.
    pub fn access(
        &mut self,
        topology: Topology,
        known: &mut Knowledge,
        patterns: &mut Patterns,
        (first, bytes): (u64, u32),
        access: StrongAccess,
    ) {
        let cta = known.at.0;
        let StrongAccess { scope, .. } = access;
        let (line, offset, bytes) = (first / LINE, (first % LINE) as u8, bytes as u8);
        let same = |l: &Location| l.first == offset && l.bytes == bytes;
        let publishes = access.releases || !patterns.fences.is_empty();
        if self.lines.is_empty() && !(publishes && access.writes) {
            return;
        }
        let found = self.lines.get_mut(&line).and_then(|all| all.iter_mut().find(|l| same(l)));
        // Whether this access and the last write are morally strong.
        let strong =
            |l: &Location| l.writer == known.at || topology.between(l.writer.0, cta) <= l.scope.min(scope);
        let mut chained = false;
        if let Some(location) = &found {
            chained = strong(location);
            if access.reads && chained {
                for (needed, clock) in location.released.toward(topology, cta) {
                    if access.acquires && needed <= scope {
                        known.clock.join(clock);
                    }
                    patterns.observe(needed, clock);
                }
            }
        }
        if !access.writes {
            return;
        }
        match found {
            Some(location) => {
                // An atomic operation hands on what it has found; a store ends it.
                if !(access.updates && chained) {
                    location.released = Released::default();
                }
                if let Some((_, scope, clock)) = location.last.as_ref().filter(|l| l.0 == known.at) {
                    location.released.part(Some((cta, *scope))).join(clock);
                }
                (location.writer, location.scope) = (known.at, scope);
            }
            None if publishes => {
                self.forget(first, u64::from(bytes), true);
                let location = Location {
                    first: offset,
                    bytes,
                    writer: known.at,
                    scope,
                    released: Released::default(),
                    last: None,
                };
                self.lines.entry(line).or_default().push(location);
            }
            // Nothing to publish here; of what overlaps partially, nothing is handed on.
            None => return self.overwrite(first, u64::from(bytes)),
        }
        let location = self.lines.get_mut(&line).and_then(|all| all.iter_mut().find(|l| same(l)));
        let Some(location) = location.filter(|_| publishes) else { return };
        for (scope, clock) in &patterns.fences {
            location.released.part(Some((cta, *scope))).join(clock);
        }
        if access.releases {
            let mut clock = Clock::default();
            known.publish(&mut clock);
            location.released.part(Some((cta, scope))).join(&clock);
            location.last = Some((known.at, scope, clock));
        }
    }
}
