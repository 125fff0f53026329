//! Asynchronous groups of threads: `commit_group` and `wait_group` of `cp.async` and `cp.async.bulk`
//! (PTX ISA 9.7.9.25.3.2, .3.3 and 9.7.9.25.6).

use std::collections::{HashMap, VecDeque};

use super::hooks::{self, AsyncId, GroupKind, Object, Scope};
use super::sync_state::retry;
use crate::check::Place;
use crate::decode::{Execute, Op};
use crate::machine::{Cluster, Ctx, Flow, Wait};

/// Which operations a group holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Which {
    /// `cp.async`.
    CpAsync,
    /// `cp.async.bulk` with `.bulk_group`.
    Bulk,
}

/// Operations of a group that are still to be done.
#[derive(Default)]
struct Group {
    /// That have still to read their sources.
    reads: u32,
    /// That are not complete.
    all: u32,
    /// Whether it has had any.
    used: bool,
    /// The first operation that reads shared memory.
    place: Option<Place>,
}

/// The groups of a thread; the last one is open.
struct Line {
    groups: VecDeque<Group>,
    /// Number of the first of `groups`.
    first: u64,
    /// Groups below have been waited for: completely, and their reads.
    waited: [u64; 2],
    /// `cp.async` of the checkers that have not been waited for, the latest [`COPIES`], with their groups.
    copies: VecDeque<(u64, AsyncId)>,
}

/// Copies that a later `cp.async.mbarrier.arrive` is known to cover.
const COPIES: usize = 256;

impl Default for Line {
    fn default() -> Self {
        Self { groups: VecDeque::from([Group::default()]), first: 0, waited: [0; 2], copies: VecDeque::new() }
    }
}

impl Line {
    fn open(&self) -> u64 {
        self.first + self.groups.len() as u64 - 1
    }

    fn group(&mut self, number: u64) -> Option<&mut Group> {
        number.checked_sub(self.first).and_then(|i| self.groups.get_mut(i as usize))
    }

    /// Drops leading groups that are complete and have been waited for.
    fn trim(&mut self) {
        while self.groups.len() > 1
            && self.first < self.waited[0].max(self.waited[1])
            && self.groups[0].all == 0
        {
            self.groups.pop_front();
            self.first += 1;
        }
    }
}

/// A group of a thread: (cta rank, thread, kind), number.
#[derive(Clone, Copy, Debug)]
pub(super) struct GroupId {
    /// Owning CTA rank.
    pub cta: u32,
    /// Thread.
    pub thread: u32,
    which: Which,
    /// Number of the group among the thread's.
    pub number: u64,
}

/// The groups of all threads.
#[derive(Default)]
pub(super) struct Groups {
    lines: HashMap<(u32, u32, Which), Line>,
}

impl Groups {
    /// Adds an operation to a thread's open group. `reads`: where it was issued, if it reads shared memory.
    pub(super) fn add(&mut self, cta: u32, thread: u32, which: Which, reads: Option<Place>) -> GroupId {
        let line = self.lines.entry((cta, thread, which)).or_default();
        let number = line.open();
        if let Some(group) = line.group(number) {
            group.all += 1;
            group.used = true;
            group.reads += u32::from(reads.is_some());
            group.place = group.place.take().or(reads);
        }
        GroupId { cta, thread, which, number }
    }

    /// Remembers a `cp.async` for the checkers.
    pub(super) fn add_copy(&mut self, group: GroupId, id: AsyncId) {
        if id == AsyncId::NONE {
            return;
        }
        if let Some(line) = self.lines.get_mut(&(group.cta, group.thread, group.which)) {
            if line.copies.len() == COPIES {
                line.copies.pop_front();
            }
            line.copies.push_back((group.number, id));
        }
    }

    /// The `cp.async` of a thread that have not been waited for.
    pub(super) fn copies(&self, cta: u32, thread: u32) -> Vec<AsyncId> {
        let line = self.lines.get(&(cta, thread, Which::CpAsync));
        line.map_or_else(Vec::new, |l| l.copies.iter().map(|c| c.1).collect())
    }

    /// Closes a thread's open group.
    fn commit(&mut self, cta: u32, thread: u32, which: Which) {
        self.lines.entry((cta, thread, which)).or_default().groups.push_back(Group::default());
    }

    fn change(&mut self, id: GroupId, f: impl Fn(&mut Group)) {
        if let Some(line) = self.lines.get_mut(&(id.cta, id.thread, id.which)) {
            if let Some(group) = line.group(id.number) {
                f(group);
            }
            line.trim();
        }
    }

    /// Bulk operations of a CTA whose reads nobody has waited for: where the first of a thread was issued, and
    /// how many groups.
    pub(super) fn not_waited_for(&self, cta: u32) -> Vec<(Place, usize)> {
        let mut all = Vec::new();
        for ((c, _, which), line) in &self.lines {
            if *c != cta || *which != Which::Bulk {
                continue;
            }
            let waited = line.waited[0].max(line.waited[1]);
            let left = line.groups.iter().zip(line.first..).filter(|(_, n)| *n >= waited);
            let mut places = left.filter_map(|(g, _)| g.place.clone());
            if let Some(place) = places.next() {
                all.push((place, 1 + places.count()));
            }
        }
        all.sort_by_key(|(p, _)| (p.line, p.thread));
        all
    }
}

/// An operation has read its source.
pub(super) fn read_done(cluster: &mut Cluster, id: GroupId) {
    cluster.state.sync.groups.change(id, |g| g.reads -= 1);
    wake(cluster, id, true);
}

/// An operation is complete.
pub(super) fn done(cluster: &mut Cluster, id: GroupId) {
    cluster.state.sync.groups.change(id, |g| g.all -= 1);
    wake(cluster, id, false);
}

fn wake(cluster: &mut Cluster, id: GroupId, read: bool) {
    cluster.state.sync.events += 1;
    let name = what(id.which, read);
    cluster.wake(id.cta as usize, |w| matches!(w, Wait::Async { what, .. } if what == name));
}

/// The object through which a group's completion is seen.
pub(super) fn object(id: GroupId, read: bool) -> Object {
    let kind = match (id.which, read) {
        (Which::CpAsync, _) => GroupKind::CpAsync,
        (Which::Bulk, true) => GroupKind::BulkRead,
        (Which::Bulk, false) => GroupKind::Bulk,
    };
    Object::Group(id.cta, id.thread, kind, id.number)
}

fn what(which: Which, read: bool) -> &'static str {
    match (which, read) {
        (Which::CpAsync, _) => "cp.async groups",
        (Which::Bulk, true) => "bulk groups that read their sources",
        (Which::Bulk, false) => "bulk groups",
    }
}

struct Commit(Which);

impl Execute for Commit {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        for lane in ctx.lanes() {
            let thread = ctx.thread(lane);
            ctx.cluster.state.sync.groups.commit(ctx.cta as u32, thread, self.0);
        }
        Flow::Next
    }
}

struct WaitGroup {
    which: Which,
    read: bool,
    pending: u32,
    /// `cp.async.wait_all`: commits first.
    all: bool,
}

impl Execute for WaitGroup {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let mut waiting = 0;
        for lane in ctx.lanes() {
            let (cta, thread) = (ctx.cta as u32, ctx.thread(lane));
            let groups = &mut ctx.cluster.state.sync.groups;
            let line = groups.lines.entry((cta, thread, self.which)).or_default();
            if self.all && line.groups.back().is_some_and(|g| g.used) {
                line.groups.push_back(Group::default());
            }
            // Groups below `end` must be done.
            let end = line.open().saturating_sub(u64::from(self.pending)).max(line.first);
            let ready = (line.first..end)
                .zip(&line.groups)
                .all(|(_, g)| if self.read { g.reads == 0 } else { g.all == 0 });
            if !ready {
                waiting |= 1 << lane;
                continue;
            }
            let side = usize::from(self.read);
            let from = line.waited[side];
            line.waited[side] = from.max(end);
            line.copies.retain(|c| c.0 >= end);
            line.trim();
            for number in from..end {
                let id = GroupId { cta, thread, which: self.which, number };
                hooks::thread_acquire(ctx, lane, object(id, self.read), Scope::Cta);
            }
        }
        // Lanes that came together stay together: there is no branch at which they could part, and `.aligned`
        // instructions may follow.
        let waiting = if waiting == 0 { 0 } else { ctx.mask };
        retry(ctx, waiting, Wait::Async { what: what(self.which, self.read), pending: self.pending })
    }
}

/// `commit_group`.
pub(super) fn commit(which: Which) -> Op {
    Box::new(Commit(which))
}

/// `wait_group{.read} pending`; `all`: `cp.async.wait_all`.
pub(super) fn wait(which: Which, read: bool, pending: u32, all: bool) -> Op {
    Box::new(WaitGroup { which, read, pending, all })
}
