//! What an actor knows.

/// A growing set of small numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bits(Vec<u64>);

impl Bits {
    /// Adds a number.
    pub fn insert(&mut self, n: u64) {
        let word = (n / 64) as usize;
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (n % 64);
    }

    /// Whether a number is in the set.
    pub fn contains(&self, n: u64) -> bool {
        self.0.get((n / 64) as usize).is_some_and(|w| w >> (n % 64) & 1 == 1)
    }

    /// Adds all numbers of another set.
    pub fn join(&mut self, other: &Bits) {
        if other.0.len() > self.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (a, b) in self.0.iter_mut().zip(&other.0) {
            *a |= b;
        }
    }
}

/// One view of what has happened: accesses of threads up to an epoch, completed operations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Epoch per thread; missing entries are 0.
    pub threads: Vec<u32>,
    /// Operations.
    pub operations: Bits,
}

impl View {
    /// Takes over everything that `other` knows.
    pub fn join(&mut self, other: &View) {
        if other.threads.len() > self.threads.len() {
            self.threads.resize(other.threads.len(), 0);
        }
        for (a, b) in self.threads.iter_mut().zip(&other.threads) {
            *a = (*a).max(*b);
        }
        self.operations.join(&other.operations);
    }

    /// Epoch up to which a thread's accesses are known.
    pub fn thread(&self, thread: u32) -> u32 {
        self.threads.get(thread as usize).copied().unwrap_or(0)
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
    pub tensor: Bits,
    /// The same, still without the `fence::after_thread_sync` of this actor.
    pub incoming: Bits,
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

    /// `tcgen05.fence::before_thread_sync`. (Operations of others that the actor has seen count as fenced too.)
    pub fn before_sync(&mut self) {
        self.tensor.join(&self.seen.operations);
    }

    /// `tcgen05.fence::after_thread_sync`.
    pub fn after_sync(&mut self) {
        self.tensor.join(&self.incoming);
    }

    /// Operations are known to be complete; for those of the async proxy (`fenced`) that includes the proxy fence.
    pub fn complete(&mut self, operations: &Bits, fenced: bool) {
        self.seen.operations.join(operations);
        if fenced {
            self.fenced_global.operations.join(operations);
            self.fenced_shared.operations.join(operations);
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
