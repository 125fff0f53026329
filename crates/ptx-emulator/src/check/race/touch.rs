//! What accesses mean besides their order: the footprint of the kernel, kernels that may still run, and locations that
//! threads synchronise through.

use super::access::WarpAccess;
use super::clock::Knowledge;
use super::conflict::{Conflict, Missing, Who};
use super::detector::{Detector, KERNELS, key};
use super::footprint::Toucher;
use crate::ops::hooks::Range;

impl Detector {
    /// Something else than a strong access of a thread writes.
    pub(super) fn overwritten(&mut self, range: Range) {
        if let Some((first, bytes)) = key(range) {
            self.locations.overwrite(first, bytes);
        }
    }

    /// The access of an earlier kernel that may still run which an access of a thread conflicts with.
    #[inline]
    pub(super) fn early(&self, at: (u32, u32), address: u64, bytes: u32, write: bool) -> Option<Conflict> {
        if self.in_flight.is_empty() {
            return None;
        }
        let known = &self.ctas.get(at.0 as usize)?.threads.get(at.1 as usize)?.known;
        self.in_flight(known, address, bytes, write)
    }

    #[cold]
    pub(super) fn in_flight(
        &self,
        known: &Knowledge,
        address: u64,
        bytes: u32,
        write: bool,
    ) -> Option<Conflict> {
        if known.clock.seen.operations.get(KERNELS).is_some() {
            return None;
        }
        let end = address.saturating_add(u64::from(bytes));
        self.in_flight.iter().rev().find_map(|kernel| {
            let (earlier_kind, place) = kernel.conflict(address, end, write)?;
            Some(Conflict {
                missing: Missing::KernelEnd,
                earlier: Who::Kernel(kernel.kernel().to_owned(), place),
                earlier_kind,
                kind: if write { "write" } else { "read" },
            })
        })
    }

    /// Notes the memory that a warp's access touches; conflicts with kernels that may still run.
    pub(super) fn touched(&mut self, a: &WarpAccess<'_>, write: bool) -> Vec<(usize, Conflict)> {
        let mut found = Vec::new();
        if write && !self.locations.is_empty() {
            for lane in a.lanes() {
                let (at, bytes) = (a.addresses[lane], a.bytes);
                self.overwritten(match a.shared {
                    Some(cta) => Range::Shared { cta, offset: at as u32, bytes },
                    None => Range::Global { address: at, bytes },
                });
            }
        }
        if a.shared.is_some() {
            return found;
        }
        let by = Toucher { pc: a.pc, write, cta: self.linear(a.first.0), thread: a.first.1 };
        let (first, bytes) = (a.addresses[0], u64::from(a.bytes));
        let expected = |lane: usize| first.wrapping_add(lane as u64 * bytes);
        // (Without an early exit, so that the loop vectorises.)
        let apart = a.addresses.iter().enumerate().fold(0, |d, (lane, &at)| d | at ^ expected(lane));
        if apart == 0 && a.mask == u32::MAX {
            self.footprint.touch(first, 32 * a.bytes, by);
        } else {
            self.touched_by_runs(a, by);
        }
        if !self.in_flight.is_empty() {
            for lane in a.lanes() {
                let thread = (a.first.0, a.first.1 + lane as u32);
                let early = self.early(thread, a.addresses[lane], a.bytes, write);
                found.extend(early.map(|c| (lane, c)));
            }
        }
        found
    }

    /// Neighbouring lanes often touch neighbouring bytes, or the same.
    fn touched_by_runs(&mut self, a: &WarpAccess<'_>, by: Toucher) {
        let mut run: Option<(u64, u64, u32)> = None;
        for lane in a.lanes() {
            let (at, end) = (a.addresses[lane], a.addresses[lane] + u64::from(a.bytes));
            match &mut run {
                Some((first, last, _)) if at >= *first && at <= *last => *last = end.max(*last),
                _ => {
                    if let Some((first, end, lane)) = run.replace((at, end, lane as u32)) {
                        let by = Toucher { thread: by.thread + lane, ..by };
                        self.footprint.touch(first, (end - first) as u32, by);
                    }
                }
            }
        }
        if let Some((first, end, lane)) = run {
            let by = Toucher { thread: by.thread + lane, ..by };
            self.footprint.touch(first, (end - first) as u32, by);
        }
    }
}
