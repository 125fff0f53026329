//! Which global memory a cluster, or a whole kernel, has touched.
//!
//! Clusters that cannot synchronise run in parallel, each with a detector of its own. What they share is compared
//! afterwards, byte for byte and in their order, so that a finding does not depend on which ran first. The same record
//! of a kernel says what is in flight while a dependent kernel's prologue runs (`griddepcontrol`, PTX ISA 9.7.13.13).

use std::collections::BTreeMap;

use crate::check::{Access, Class, Finding, Place, Report};

/// Bytes of a page.
const PAGE: u64 = 1024;
/// Address bits below the allocation number of the emulator's global memory.
const ALLOCATION_SHIFT: u32 = 36;
/// Places of a page told apart; further ones count as the last.
const MARKS: usize = 16;

/// Who touched bytes: the first of those at a place in the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Toucher {
    /// Code index.
    pub pc: u32,
    /// Whether it wrote.
    pub write: bool,
    /// Linear index of the CTA in the grid.
    pub cta: u32,
    /// Thread in the CTA.
    pub thread: u32,
}

struct Mark {
    by: Toucher,
    bytes: [u64; (PAGE / 64) as usize],
}

impl Mark {
    fn set(&mut self, first: u32, end: u32) {
        let (mut at, end) = (first, end.min(PAGE as u32));
        while at < end {
            let n = (64 - at % 64).min(end - at);
            let bits = if n == 64 { u64::MAX } else { ((1 << n) - 1) << (at % 64) };
            self.bytes[(at / 64) as usize] |= bits;
            at += n;
        }
    }
}

/// Pages of an allocation by number.
type Pages = Vec<Option<Box<Vec<Mark>>>>;

/// Bytes touched so far.
#[derive(Default)]
pub struct Footprint {
    /// By allocation number.
    allocations: Vec<Pages>,
}

impl Footprint {
    /// Notes an access.
    #[inline]
    pub fn touch(&mut self, address: u64, bytes: u32, by: Toucher) {
        let end = address.saturating_add(u64::from(bytes));
        let mut at = address;
        while at < end {
            let next = ((at / PAGE + 1) * PAGE).min(end);
            let first = (at % PAGE) as u32;
            self.page(at, first, first + (next - at) as u32, by);
            at = next;
        }
    }

    fn page(&mut self, address: u64, first: u32, end: u32, by: Toucher) {
        let allocation = (address >> ALLOCATION_SHIFT) as usize;
        let page = ((address & ((1 << ALLOCATION_SHIFT) - 1)) / PAGE) as usize;
        if self.allocations.get(allocation).is_none_or(|pages| pages.len() <= page) {
            // Outside of all allocations: a finding without us.
            if allocation > 1 << 20 {
                return;
            }
            if self.allocations.len() <= allocation {
                self.allocations.resize_with(allocation + 1, Vec::new);
            }
            // An address far beyond an allocation must not take memory for all that lies between.
            if page > 1 << 24 {
                return;
            }
            self.allocations[allocation].resize_with((page + 1).next_power_of_two(), || None);
        }
        let marks = self.allocations[allocation][page].get_or_insert_default();
        let at = marks.iter().rposition(|m| m.by.pc == by.pc && m.by.write == by.write);
        let at = at.or_else(|| {
            (marks.len() >= MARKS).then(|| marks.iter().rposition(|m| m.by.write == by.write))?
        });
        match at {
            Some(at) => marks[at].set(first, end),
            None => {
                let mut mark = Mark { by, bytes: Default::default() };
                mark.set(first, end);
                marks.push(mark);
            }
        }
    }

    /// Runs of bytes, in ascending order.
    pub fn spans(&self) -> Vec<Span> {
        let mut spans = Vec::new();
        let mut open: BTreeMap<Toucher, (u64, u64)> = BTreeMap::new();
        for (allocation, pages) in self.allocations.iter().enumerate() {
            let base = (allocation as u64) << ALLOCATION_SHIFT;
            for (page, marks) in pages.iter().enumerate() {
                for mark in marks.iter().flat_map(|m| m.iter()) {
                    // Who was first differs from page to page; a run is of one place in the code.
                    let key = open.keys().copied().find(|k| (k.pc, k.write) == (mark.by.pc, mark.by.write));
                    let by = key.unwrap_or(mark.by);
                    for (i, &word) in mark.bytes.iter().enumerate() {
                        let (mut word, start) = (word, base + page as u64 * PAGE + i as u64 * 64);
                        let mut at = 0;
                        while word != 0 {
                            let skip = word.trailing_zeros();
                            at += skip;
                            word >>= skip;
                            let n = word.trailing_ones();
                            word = word.checked_shr(n).unwrap_or(0);
                            let (first, end) = (start + u64::from(at), start + u64::from(at + n));
                            at += n;
                            match open.get_mut(&by) {
                                Some(run) if run.1 == first => run.1 = end,
                                Some(run) => {
                                    spans.push(Span { first: run.0, end: run.1, by });
                                    *run = (first, end);
                                }
                                None => {
                                    open.insert(by, (first, end));
                                }
                            }
                        }
                    }
                }
            }
            for (by, (first, end)) in std::mem::take(&mut open) {
                spans.push(Span { first, end, by });
            }
        }
        spans.sort_unstable_by_key(|s| (s.first, s.end, s.by));
        spans
    }
}

/// A run of bytes that one place in the code touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First address.
    pub first: u64,
    /// Address behind the last.
    pub end: u64,
    /// By whom.
    pub by: Toucher,
}

/// Reports what clusters that nothing orders have both touched, one of them writing. `clusters`: their spans, in their
/// order; `place`: where a code index, a CTA and a thread are.
pub fn compare(clusters: &[Vec<Span>], place: impl Fn(u32, u32, u32) -> Place, report: &mut Report) {
    let written = union(clusters.iter().flatten().filter(|s| s.by.write).map(|s| (s.first, s.end)).collect());
    let mut all: Vec<(usize, Span)> = Vec::new();
    for (cluster, spans) in clusters.iter().enumerate() {
        all.extend(spans.iter().filter(|s| overlaps(&written, s.first, s.end)).map(|s| (cluster, *s)));
    }
    all.sort_by_key(|(cluster, s)| (s.first, *cluster));
    let mut active: Vec<(usize, Span)> = Vec::new();
    for (cluster, span) in all {
        active.retain(|(_, a)| a.end > span.first);
        let conflict = active.iter().find(|(c, a)| *c != cluster && (a.by.write || span.by.write));
        if let Some(&(other, earlier)) = conflict {
            // The later one is that of the later cluster, wherever its span begins.
            let (x, y) = if other < cluster { (earlier.by, span.by) } else { (span.by, earlier.by) };
            let kind = |t: Toucher| if t.write { "write" } else { "read" };
            let earlier = Access { place: place(x.pc, x.cta, x.thread), what: kind(x).to_owned() };
            let message = format!(
                "{} of global address {:#x}: nothing orders it behind the earlier access, of another cluster",
                kind(y),
                span.first
            );
            let place = place(y.pc, y.cta, y.thread);
            report.add(Finding { class: Class::Race, place, message, earlier: Some(earlier), count: 1 });
        }
        active.push((cluster, span));
    }
}

/// Ranges in ascending order, without overlaps.
fn union(mut ranges: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    ranges.sort_unstable();
    let mut out: Vec<(u64, u64)> = Vec::new();
    for (first, end) in ranges {
        match out.last_mut() {
            Some(last) if last.1 >= first => last.1 = last.1.max(end),
            _ => out.push((first, end)),
        }
    }
    out
}

fn overlaps(ranges: &[(u64, u64)], first: u64, end: u64) -> bool {
    let at = ranges.partition_point(|r| r.1 <= first);
    ranges.get(at).is_some_and(|r| r.0 < end)
}

/// What a kernel has touched, for kernels that may start before it has ended.
#[derive(Clone, Debug, Default)]
pub struct Touched {
    /// Name of the kernel.
    kernel: String,
    /// Runs of bytes, without overlaps, in ascending order, with the number of a place: written, and read.
    written: Vec<(u64, u64, u32)>,
    read: Vec<(u64, u64, u32)>,
    places: Vec<Place>,
}

impl Touched {
    /// From the spans of all clusters.
    pub fn new(kernel: &str, clusters: &[Vec<Span>], place: impl Fn(u32, u32, u32) -> Place) -> Self {
        let mut touched = Self { kernel: kernel.to_owned(), ..Self::default() };
        let mut numbers: BTreeMap<(u32, bool), u32> = BTreeMap::new();
        let mut all: Vec<Span> = clusters.iter().flatten().copied().collect();
        all.sort_by_key(|s| (s.first, s.by));
        for span in all {
            let number = *numbers.entry((span.by.pc, span.by.write)).or_insert_with(|| {
                touched.places.push(place(span.by.pc, span.by.cta, span.by.thread));
                touched.places.len() as u32 - 1
            });
            let runs = if span.by.write { &mut touched.written } else { &mut touched.read };
            match runs.last_mut() {
                // What is already there keeps its place.
                Some(last) if last.1 >= span.end => {}
                Some(last) if last.1 >= span.first && last.2 == number => last.1 = span.end,
                Some(last) if last.1 > span.first => {
                    let first = last.1;
                    runs.push((first, span.end, number));
                }
                _ => runs.push((span.first, span.end, number)),
            }
        }
        touched
    }

    /// The access of this kernel that one of a dependent kernel conflicts with.
    pub fn conflict(&self, first: u64, end: u64, write: bool) -> Option<(&'static str, Place)> {
        let find = |runs: &[(u64, u64, u32)]| {
            let run = runs.get(runs.partition_point(|r| r.1 <= first)).filter(|r| r.0 < end)?;
            self.places.get(run.2 as usize).cloned()
        };
        if let Some(place) = find(&self.written) {
            return Some(("write", place));
        }
        Some(("read", find(&self.read).filter(|_| write)?))
    }

    /// Name of the kernel.
    pub fn kernel(&self) -> &str {
        &self.kernel
    }
}
