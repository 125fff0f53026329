//! Granules that several actors have read since the last write.
//!
//! Sets are shared by granules (a tile read by two tensor operations has one set for all of its words) and copied
//! when one of their granules goes another way. Lanes of a warp that read in one instruction are one member.

use super::shadow::Record;

/// Members of a set from which on those are dropped that a new reader knows: whoever is ordered behind it is ordered
/// behind them.
const MANY: usize = 64;

/// Accesses that differ in the lane only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    record: Record,
    /// Lanes of the warp; 0 for an operation.
    lanes: u32,
}

impl Member {
    fn new(record: Record) -> Self {
        Self { record, lanes: if record.is_thread() { 1 << (record.who % 32) } else { 0 } }
    }

    /// The accesses.
    pub fn records(self) -> impl Iterator<Item = Record> {
        let thread = self.lanes != 0;
        let lanes = (0..32).filter(move |l| self.lanes >> l & 1 == 1).map(move |l| self.record.by_lane(l));
        lanes.chain((!thread).then_some(self.record))
    }
}

#[derive(Debug, Default)]
struct Set {
    /// Granules that have it.
    granules: u32,
    members: Vec<Member>,
    /// Members at which to look again for some to drop.
    limit: usize,
}

impl Set {
    /// Drops members that a new reader makes superfluous, if there are many.
    fn thin(&mut self, new: Record, known: impl Fn(Record) -> bool) {
        if self.members.len() < self.limit.max(MANY) {
            return;
        }
        let covered =
            |r: Record| r.mask() & !new.mask() == 0 && (r.is_strong() || !new.is_strong()) && known(r);
        self.members.retain(|m| !m.records().all(covered));
        self.limit = 2 * self.members.len();
    }
}

/// All sets of a cluster.
#[derive(Debug, Default)]
pub struct Readers {
    sets: Vec<Set>,
    free: Vec<u32>,
}

impl Readers {
    /// What a cell holds after `new`, if it held `old`. `known`: whether the new reader knows a read.
    pub fn add(&mut self, old: Record, new: Record, known: impl Fn(Record) -> bool) -> Record {
        if old.is_none() || old.same_actor(new) {
            return new.joined(old);
        }
        let Some(number) = old.as_set() else {
            let number = self.fresh();
            let members = &mut self.sets[number as usize].members;
            members.push(Member::new(old));
            insert(members, new);
            return Record::set(number);
        };
        if self.sets[number as usize].granules == 1 {
            self.sets[number as usize].thin(new, known);
            insert(&mut self.sets[number as usize].members, new);
            return old;
        }
        let copy = self.fresh();
        let mut members = std::mem::take(&mut self.sets[copy as usize].members);
        members.extend_from_slice(&self.sets[number as usize].members);
        self.sets[copy as usize].members = members;
        self.sets[copy as usize].limit = self.sets[number as usize].limit;
        self.sets[copy as usize].thin(new, known);
        insert(&mut self.sets[copy as usize].members, new);
        self.drop(old);
        Record::set(copy)
    }

    /// Another granule holds `record`.
    #[inline]
    pub fn share(&mut self, record: Record) {
        if let Some(number) = record.as_set() {
            self.sets[number as usize].granules += 1;
        }
    }

    /// A granule no longer holds `record`.
    #[inline]
    pub fn drop(&mut self, record: Record) {
        let Some(number) = record.as_set() else { return };
        let set = &mut self.sets[number as usize];
        set.granules -= 1;
        if set.granules == 0 {
            set.members.clear();
            self.free.push(number);
        }
    }

    /// The accesses that a cell's record stands for, the longest known first.
    pub fn records(&self, record: Record) -> impl Iterator<Item = Record> {
        let members = record.as_set().map_or(&[][..], |n| &self.sets[n as usize].members);
        let single = (record.as_set().is_none() && !record.is_none()).then_some(record);
        members.iter().flat_map(|m| m.records()).chain(single)
    }

    /// An empty set of one granule.
    fn fresh(&mut self) -> u32 {
        let number = self.free.pop().unwrap_or_else(|| {
            self.sets.push(Set::default());
            self.sets.len() as u32 - 1
        });
        self.sets[number as usize].granules = 1;
        self.sets[number as usize].limit = 0;
        number
    }
}

/// Adds an access: in place of an earlier one of the same actor.
fn insert(members: &mut Vec<Member>, new: Record) {
    let mut new = Member::new(new);
    let fits = |m: &Member, new: &Member| {
        if new.lanes == 0 { m.record.same_actor(new.record) } else { m.record.same_but_lane(new.record) }
    };
    if members.iter().any(|m| m.lanes & new.lanes == new.lanes && m.lanes != 0 && fits(m, &new)) {
        return;
    }
    for i in 0..members.len() {
        let m = &mut members[i];
        if new.lanes == 0 {
            if fits(m, &new) {
                m.record = new.record.joined(m.record);
                return;
            }
        } else if m.lanes & new.lanes != 0 && m.record.by_lane(0).same_actor(new.record.by_lane(0)) {
            new.record = new.record.joined(m.record);
            m.lanes &= !new.lanes;
            if m.lanes == 0 {
                members.remove(i);
            }
            break;
        }
    }
    if new.lanes != 0
        && let Some(m) = members.iter_mut().find(|m| m.lanes != 0 && fits(m, &new))
    {
        m.lanes |= new.lanes;
        return;
    }
    members.push(new);
}
