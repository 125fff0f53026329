//! Reading and writing a lane's bytes in any state space.
//!
//! These are the hottest paths of the emulator: inlined into every load and store, so that lengths are constants
//! and locations stay in registers. What goes wrong is worked out once more, outside.

use super::ctx::{Ctx, Location};
use super::shared::SharedMemory;
use crate::check::Class;

impl Ctx<'_> {
    /// Reads up to 64 bytes; `Some(false)` = not all initialised. Out-of-range accesses are findings and `None`.
    #[inline(always)]
    pub fn read(&mut self, location: Location, lane: usize, out: &mut [u8]) -> Option<bool> {
        let found = match location {
            Location::Global(address) => self.env.global.read(address, out).ok(),
            Location::Shared(owner, offset) => {
                self.cluster.ctas.get(owner as usize).and_then(|cta| cta.shared.read(offset, out))
            }
            Location::Local(offset) => {
                self.cluster.ctas[self.cta].local[self.warp.index].lane(lane).read(offset, out)
            }
            Location::Param(offset) => {
                self.env.params.get(offset as usize..offset as usize + out.len()).map(|bytes| {
                    out.copy_from_slice(bytes);
                    true
                })
            }
        };
        if found.is_none() {
            self.access_failed(location, lane, out.len(), false);
        }
        found
    }

    /// Writes bytes, marking them initialised or poisoned. `None` if out of range (a finding).
    #[inline(always)]
    pub fn write(&mut self, location: Location, lane: usize, data: &[u8], init: bool) -> Option<()> {
        self.cluster.changes += 1;
        let done = match location {
            Location::Global(address) => self.env.global.write(address, data, init).is_ok(),
            Location::Shared(owner, offset) => match self.cluster.ctas.get_mut(owner as usize) {
                Some(cta) => cta.shared.set(offset, data, init),
                None => false,
            },
            Location::Local(offset) => {
                let memory = self.cluster.ctas[self.cta].local[self.warp.index].lane_mut(lane);
                memory.set(offset, data, init)
            }
            Location::Param(_) => false,
        };
        if !done {
            self.access_failed(location, lane, data.len(), true);
        }
        done.then_some(())
    }

    /// Reports an access that was not possible.
    #[cold]
    #[inline(never)]
    fn access_failed(&mut self, location: Location, lane: usize, bytes: usize, write: bool) {
        let outside = |space: &str, offset: u32, memory: &SharedMemory| {
            format!("{bytes} bytes at {space} offset {offset:#x} of {:#x} bytes", memory.len())
        };
        let why = match location {
            Location::Global(address) => {
                let mut scratch = vec![0; bytes];
                match self.env.global.read(address, &mut scratch) {
                    Err(e) => e.to_string(),
                    Ok(_) => format!("address {address:#x} is read-only"),
                }
            }
            Location::Shared(owner, offset) => match self.cluster.ctas.get(owner as usize) {
                Some(cta) => outside("shared", offset, &cta.shared),
                None => format!("CTA rank {owner} is not in the cluster of {}", self.cluster.ctas.len()),
            },
            Location::Local(offset) => {
                let memory = &self.cluster.ctas[self.cta].local[self.warp.index];
                outside("local", offset, memory.lane(lane))
            }
            Location::Param(_) if write => "parameter space is read-only".to_owned(),
            Location::Param(offset) => {
                format!("{bytes} bytes at parameter offset {offset} of {} bytes", self.env.params.len())
            }
        };
        let class = if why.contains("freed") { Class::UseAfterFree } else { Class::OutOfBounds };
        self.finding(class, lane, why, None);
    }

    /// Reports a `.shared::cta` access to another CTA.
    #[cold]
    #[inline(never)]
    pub(super) fn foreign_address(&mut self, lane: usize, address: u64, rank: u32) {
        let owner = (address as u32) >> 24;
        let what = format!("shared::cta address {address:#x} belongs to CTA rank {owner}, not {rank}");
        self.finding(Class::OutOfBounds, lane, what, None);
    }
}
