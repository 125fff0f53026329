//! What a kernel did, for engineers: bytes by path, sectors, bank conflicts, MMA, waits, instruction mix; in total and
//! for each line.
//!
//! Bytes are those that instructions name, whatever caches do. Numbers are exact for a schedule; only waits depend on
//! it. (The mix is that of PTX, not of what ptxas makes of it.)

pub mod banks;
mod class;
mod json;
mod names;
mod table;

pub use class::{Class, class};
pub use names::{Counter, Unit};

use std::collections::BTreeMap;

use crate::program::Program;

/// Kind and shape (m, n, k) of an MMA.
pub type MmaKey = (String, [u32; 3]);

/// What one instruction of the program did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Site {
    /// Warps that executed it, with a false guard too; a wait once, however often it was tried.
    pub executed: u64,
    /// Lanes that executed it.
    pub lanes: u64,
    /// Executions while other lanes of the warp were elsewhere.
    pub diverged: u64,
    /// Bytes of loads, stores and atomics.
    pub bytes: u64,
    /// 32-byte sectors of global memory.
    pub sectors: u64,
    /// Wavefronts of shared memory.
    pub wavefronts: u64,
    /// The least for as many lanes.
    pub wavefronts_minimum: u64,
    /// Waits that had to block.
    pub blocked: u64,
}

impl Site {
    fn merge(&mut self, other: &Site) {
        self.executed += other.executed;
        self.lanes += other.lanes;
        self.diverged += other.diverged;
        self.bytes += other.bytes;
        self.sectors += other.sectors;
        self.wavefronts += other.wavefronts;
        self.wavefronts_minimum += other.wavefronts_minimum;
        self.blocked += other.blocked;
    }
}

/// A source line of the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its number.
    pub line: u32,
    /// Its text.
    pub text: String,
    /// Its pipe.
    pub class: Class,
    /// What it did.
    pub site: Site,
}

/// Counters of a launch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Warp instructions executed, waits each time that they were tried.
    pub warp_instructions: u64,
    /// Lane instructions executed.
    pub lane_instructions: u64,
    values: Values,
    /// MMA issued.
    pub mma: BTreeMap<MmaKey, u64>,
    /// What instructions did, by code index.
    sites: Vec<Site>,
    /// The same with what they are, in order of the program; after the launch.
    pub lines: Vec<Line>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Values([u64; Counter::ALL.len()]);

impl Default for Values {
    fn default() -> Self {
        Self([0; Counter::ALL.len()])
    }
}

impl Counters {
    /// For a program of `instructions`.
    pub fn new(instructions: usize) -> Self {
        Self { sites: vec![Site::default(); instructions], ..Self::default() }
    }

    /// Adds to a counter.
    #[inline]
    pub fn add(&mut self, counter: Counter, n: u64) {
        self.values.0[counter as usize] += n;
    }

    /// The value of a counter.
    pub fn get(&self, counter: Counter) -> u64 {
        self.values.0[counter as usize]
    }

    /// An MMA has been issued.
    pub fn add_mma(&mut self, kind: String, shape: [u32; 3]) {
        *self.mma.entry((kind, shape)).or_default() += 1;
    }

    /// Multiply-adds of all MMA.
    pub fn multiply_adds(&self) -> u64 {
        let one = |s: &[u32; 3]| s.iter().map(|&x| u64::from(x)).product::<u64>();
        self.mma.iter().map(|((_, shape), n)| one(shape) * n).sum()
    }

    /// What the instruction at a code index did.
    #[inline]
    pub fn site(&mut self, pc: u32) -> &mut Site {
        let at = pc as usize;
        if at >= self.sites.len() {
            self.sites.resize(at + 1, Site::default());
        }
        &mut self.sites[at]
    }

    /// Adds another launch's or cluster's counters.
    pub fn merge(&mut self, other: &Counters) {
        self.warp_instructions += other.warp_instructions;
        self.lane_instructions += other.lane_instructions;
        self.values.0.iter_mut().zip(other.values.0).for_each(|(a, b)| *a += b);
        for (key, n) in &other.mma {
            *self.mma.entry(key.clone()).or_default() += n;
        }
        if other.sites.len() > self.sites.len() {
            self.sites.resize(other.sites.len(), Site::default());
        }
        self.sites.iter_mut().zip(&other.sites).for_each(|(a, b)| a.merge(b));
    }

    /// Fills in [`Self::lines`].
    pub fn describe(&mut self, program: &Program) {
        let line = |(inst, site): (&crate::program::Inst, &Site)| Line {
            line: inst.line,
            text: inst.text.clone(),
            class: class(&inst.text),
            site: *site,
        };
        self.lines = program.code.iter().zip(&self.sites).map(line).collect();
    }

    /// Warp and lane instructions of a pipe class.
    pub fn of_class(&self, class: Class) -> (u64, u64) {
        let of = self.lines.iter().filter(|l| l.class == class);
        of.fold((0, 0), |(w, l), line| (w + line.site.executed, l + line.site.lanes))
    }

    /// The lines with the largest `key` that is not 0.
    pub fn top(&self, n: usize, key: impl Fn(&Site) -> u64) -> Vec<&Line> {
        let mut all: Vec<&Line> = self.lines.iter().filter(|l| key(&l.site) > 0).collect();
        all.sort_by_key(|l| std::cmp::Reverse(key(&l.site)));
        all.truncate(n);
        all
    }
}
