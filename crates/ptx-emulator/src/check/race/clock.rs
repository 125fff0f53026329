//! What an actor knows.
//!
//! Knowledge is kept by CTA, only of CTAs that an actor has heard of, and shared: the threads that leave a barrier
//! have one copy, and taking over what covers all that is known costs a pointer.

use std::sync::Arc;

/// Knowledge of one CTA that can only grow.
pub trait Grow: Clone + Default {
    /// Takes over what `other` knows.
    fn join(&mut self, other: &Self);
    /// Whether `other` knows nothing that is not known here.
    fn covers(&self, other: &Self) -> bool;
}

/// Epochs of the threads of a CTA; missing entries are 0.
pub type Epochs = Vec<u32>;

impl Grow for Epochs {
    fn join(&mut self, other: &Self) {
        if other.len() > self.len() {
            self.resize(other.len(), 0);
        }
        for (a, b) in self.iter_mut().zip(other) {
            *a = (*a).max(*b);
        }
    }

    fn covers(&self, other: &Self) -> bool {
        let n = self.len().min(other.len());
        // Without an early exit, so that the loop vectorises.
        let below = self[..n].iter().zip(&other[..n]).fold(false, |any, (a, b)| any | (a < b));
        !below && other[n..].iter().all(|&e| e == 0)
    }
}

/// A growing set of small numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bits(Vec<u64>);

impl Bits {
    /// Adds a number.
    pub fn insert(&mut self, n: u32) {
        let word = (n / 64) as usize;
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (n % 64);
    }

    /// Whether a number is in the set.
    pub fn contains(&self, n: u32) -> bool {
        self.0.get((n / 64) as usize).is_some_and(|w| w >> (n % 64) & 1 == 1)
    }
}

impl Grow for Bits {
    fn join(&mut self, other: &Self) {
        if other.0.len() > self.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (a, b) in self.0.iter_mut().zip(&other.0) {
            *a |= b;
        }
    }

    fn covers(&self, other: &Self) -> bool {
        let n = self.0.len().min(other.0.len());
        let missing = self.0[..n].iter().zip(&other.0[..n]).fold(0, |all, (a, b)| all | (b & !a));
        missing == 0 && other.0[n..].iter().all(|&w| w == 0)
    }
}

/// Knowledge of several CTAs, in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ByCta<T>(Arc<Vec<(u32, Arc<T>)>>);

impl<T: Grow> ByCta<T> {
    /// What is known of a CTA.
    #[inline]
    pub fn get(&self, cta: u32) -> Option<&T> {
        match &self.0[..] {
            [(only, known)] => (*only == cta).then_some(&**known),
            all => all.binary_search_by_key(&cta, |p| p.0).ok().map(|i| &*all[i].1),
        }
    }

    /// What is known of a CTA, to be added to.
    pub fn edit(&mut self, cta: u32) -> &mut T {
        let all = Arc::make_mut(&mut self.0);
        let at = match all.binary_search_by_key(&cta, |p| p.0) {
            Ok(at) => at,
            Err(at) => {
                all.insert(at, (cta, Arc::default()));
                at
            }
        };
        Arc::make_mut(&mut all[at].1)
    }

    /// Whether both are one copy.
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    fn covers(&self, other: &Self) -> bool {
        self.is(other)
            || other.0.iter().all(|(cta, known)| {
                self.0
                    .binary_search_by_key(cta, |p| p.0)
                    .is_ok_and(|i| Arc::ptr_eq(&self.0[i].1, known) || self.0[i].1.covers(known))
            })
    }

    /// Takes over everything that `other` knows.
    pub fn join(&mut self, other: &Self) {
        if self.covers(other) {
            return;
        }
        if other.covers(self) {
            self.0 = Arc::clone(&other.0);
            return;
        }
        let all = Arc::make_mut(&mut self.0);
        for (cta, known) in other.0.iter() {
            match all.binary_search_by_key(cta, |p| p.0) {
                Err(at) => all.insert(at, (*cta, Arc::clone(known))),
                Ok(at) if Arc::ptr_eq(&all[at].1, known) => {}
                Ok(at) => Arc::make_mut(&mut all[at].1).join(known),
            }
        }
    }
}

/// Joins made last, from which the next lane of a warp takes its own: lanes that knew the same and hear the same then
/// share what they know.
#[derive(Debug, Default)]
struct Recent<T> {
    /// What was known, what was heard, and what came of it.
    joins: [Option<[ByCta<T>; 3]>; 12],
    next: usize,
}

impl<T: Grow> Recent<T> {
    fn join(&mut self, known: &mut ByCta<T>, heard: &ByCta<T>) {
        if known.is(heard) || heard.0.is_empty() {
            return;
        }
        // The copies that are kept here keep the addresses from being used again.
        if let Some([.., both]) = self.joins.iter().flatten().find(|[a, b, _]| a.is(known) && b.is(heard)) {
            *known = both.clone();
            return;
        }
        let before = known.clone();
        known.join(heard);
        self.joins[self.next] = Some([before, heard.clone(), known.clone()]);
        self.next = (self.next + 1) % self.joins.len();
    }
}

/// Joins of clocks that were made last.
#[derive(Debug, Default)]
pub struct Memo {
    threads: Recent<Epochs>,
    operations: Recent<Bits>,
}

/// One view of what has happened: accesses of threads up to an epoch, completed operations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Epochs.
    pub threads: ByCta<Epochs>,
    /// Operations.
    pub operations: ByCta<Bits>,
}

impl View {
    /// Takes over everything that `other` knows.
    pub fn join(&mut self, other: &View) {
        self.threads.join(&other.threads);
        self.operations.join(&other.operations);
    }

    /// Epoch up to which a thread's accesses are known.
    #[inline]
    pub fn thread(&self, at: (u32, u32)) -> u32 {
        self.threads.get(at.0).and_then(|t| t.get(at.1 as usize)).copied().unwrap_or(0)
    }

    /// Notes accesses of a thread up to an epoch.
    pub fn set_thread(&mut self, at: (u32, u32), epoch: u32) {
        if epoch == 0 {
            return;
        }
        let threads = self.threads.edit(at.0);
        if threads.len() <= at.1 as usize {
            threads.resize(at.1 as usize + 1, 0);
        }
        let known = &mut threads[at.1 as usize];
        *known = (*known).max(epoch);
    }
}

/// State space of a fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Global memory.
    Global,
    /// Shared memory (of any CTA).
    Shared,
    /// Tensor memory: no proxies.
    Tensor,
}

/// Everything an actor knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// What it has seen.
    pub seen: View,
    /// What of it the async proxy sees in global memory.
    pub fenced_global: View,
    /// The same in shared memory.
    pub fenced_shared: View,
    /// Tensor operations that later ones may rely on: `tcgen05.fence` on both sides.
    pub tensor: ByCta<Bits>,
    /// The same, still without the `fence::after_thread_sync` of this actor.
    pub incoming: ByCta<Bits>,
}

impl Clock {
    /// Takes over everything that `other` knows.
    pub fn join(&mut self, other: &Clock) {
        self.seen.join(&other.seen);
        self.fenced_global.join(&other.fenced_global);
        self.fenced_shared.join(&other.fenced_shared);
        self.incoming.join(&other.tensor);
        self.incoming.join(&other.incoming);
    }

    /// As [`Self::join`].
    pub fn join_by(&mut self, memo: &mut Memo, other: &Clock) {
        let Memo { threads, operations } = memo;
        let views = [
            (&mut self.seen, &other.seen),
            (&mut self.fenced_global, &other.fenced_global),
            (&mut self.fenced_shared, &other.fenced_shared),
        ];
        for (view, other) in views {
            threads.join(&mut view.threads, &other.threads);
            operations.join(&mut view.operations, &other.operations);
        }
        operations.join(&mut self.incoming, &other.tensor);
        operations.join(&mut self.incoming, &other.incoming);
    }

    /// `tcgen05.fence::before_thread_sync`. (Operations of others that the actor has seen count as fenced too.)
    pub fn before_sync(&mut self) {
        self.tensor.join(&self.seen.operations);
    }

    /// `tcgen05.fence::after_thread_sync`.
    pub fn after_sync(&mut self) {
        self.tensor.join(&self.incoming);
    }

    /// Operations of a CTA are known to be complete. `fenced`: completion includes the proxy fence.
    pub fn complete(&mut self, cta: u32, operations: &Bits, fenced: bool) {
        self.seen.operations.edit(cta).join(operations);
        if fenced {
            self.fenced_global.operations.edit(cta).join(operations);
            self.fenced_shared.operations.edit(cta).join(operations);
        }
    }

    /// The fenced view of a space.
    pub fn fenced(&self, space: Space) -> &View {
        match space {
            Space::Global => &self.fenced_global,
            Space::Shared => &self.fenced_shared,
            Space::Tensor => &self.seen,
        }
    }
}

/// What an actor knows, and what is its own: accesses of a thread up to an epoch, and up to which of them a proxy
/// fence of the thread covers them.
#[derive(Clone, Debug, Default)]
pub struct Knowledge {
    /// Of others.
    pub clock: Clock,
    /// CTA and number of the thread.
    pub at: (u32, u32),
    /// Its epoch.
    pub epoch: u32,
    /// The last epoch that a proxy fence covers, in global and in shared memory.
    pub fenced: [u32; 2],
}

impl Knowledge {
    /// Adds all of it to a clock.
    pub fn publish(&self, to: &mut Clock) {
        to.join(&self.clock);
        to.seen.set_thread(self.at, self.epoch);
        to.fenced_global.set_thread(self.at, self.fenced[0]);
        to.fenced_shared.set_thread(self.at, self.fenced[1]);
    }

    /// Whether accesses of a thread in an epoch are known.
    #[inline]
    pub fn knows(&self, at: (u32, u32), epoch: u32) -> bool {
        if at == self.at { self.epoch >= epoch } else { self.clock.seen.thread(at) >= epoch }
    }

    /// Whether the async proxy sees them.
    pub fn fenced(&self, at: (u32, u32), epoch: u32, space: Space) -> bool {
        let own = match space {
            Space::Global => self.fenced[0],
            Space::Shared => self.fenced[1],
            Space::Tensor => self.epoch,
        };
        at == self.at && own >= epoch || self.clock.fenced(space).thread(at) >= epoch
    }
}
