//! Asynchronous operations: queues whose heads may complete at any time the schedule chooses.

use std::collections::{BTreeMap, VecDeque};

use super::ctx::AsyncCtx;

/// Operations with the same key complete in issue order; different keys are unordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum QueueKey {
    /// A bulk or tensor copy: each is a queue of its own, numbered.
    Copy(u64),
    /// Non-bulk `cp.async` of a thread: (cta, thread).
    CpAsync(u32, u32),
    /// wgmma of a warpgroup: (cta, warpgroup).
    Wgmma(u32, u32),
    /// tcgen05 operations of a CTA (pair), all kinds: (issuing cta).
    Tcgen05(u32),
}

/// An operation in flight.
pub trait AsyncOp: Send {
    /// Performs the effects and the completion (arrivals, byte counts).
    fn complete(self: Box<Self>, ctx: &mut AsyncCtx<'_>);
    /// Short description for deadlock reports.
    fn describe(&self) -> String;
}

/// Operations in issue order, with their issue numbers.
type Queue = VecDeque<(u64, Box<dyn AsyncOp>)>;

/// All operations in flight in a cluster.
#[derive(Default)]
pub struct Engine {
    queues: BTreeMap<QueueKey, Queue>,
    issued: u64,
}

impl Engine {
    /// A fresh number for [`QueueKey::Copy`].
    pub fn next_id(&self) -> u64 {
        self.issued
    }

    /// Adds an operation at the end of its queue.
    pub fn issue(&mut self, key: QueueKey, op: Box<dyn AsyncOp>) {
        self.queues.entry(key).or_default().push_back((self.issued, op));
        self.issued += 1;
    }

    /// Whether nothing is in flight.
    pub fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    /// Operations in flight in one queue.
    pub fn pending(&self, key: QueueKey) -> usize {
        self.queues.get(&key).map_or(0, VecDeque::len)
    }

    /// The queue keys in order of the issue number of their heads.
    pub fn heads(&self) -> Vec<QueueKey> {
        let mut heads: Vec<_> =
            self.queues.iter().filter_map(|(k, q)| q.front().map(|f| (f.0, *k))).collect();
        heads.sort_unstable();
        heads.into_iter().map(|(_, k)| k).collect()
    }

    /// Takes the head of a queue.
    pub fn take(&mut self, key: QueueKey) -> Option<Box<dyn AsyncOp>> {
        let queue = self.queues.get_mut(&key)?;
        let op = queue.pop_front();
        if queue.is_empty() {
            self.queues.remove(&key);
        }
        op.map(|(_, op)| op)
    }

    /// Descriptions of what is in flight.
    pub fn describe(&self) -> Vec<String> {
        self.queues.values().flatten().map(|(_, op)| op.describe()).collect()
    }
}
