//! Named parts of one allocation: sizes are known, and can be reported, before anything is allocated.

use super::DevicePtr;
use crate::{Error, Result};

/// Alignment of every region in bytes.
pub const ALIGN: usize = 256;

/// A part of an allocation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Region {
    /// Bytes from the start of the allocation.
    pub offset: usize,
    /// Size; 0 for a part that is not needed.
    pub bytes: usize,
}

impl Region {
    /// Its address in the allocation at `base`; null if it is empty.
    pub fn at(self, base: DevicePtr) -> DevicePtr {
        if self.bytes == 0 { DevicePtr::NULL } else { base.byte_add(self.offset as u64) }
    }
}

/// The parts of one allocation, one after another.
#[derive(Clone, Debug, Default)]
pub struct Regions {
    named: Vec<(&'static str, Region)>,
    bytes: usize,
}

impl Regions {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a part of `count` elements of `size` bytes.
    pub fn add(&mut self, name: &'static str, count: usize, size: usize) -> Result<Region> {
        let too_large = || Error::invalid(name, format!("{count} elements of {size} bytes are too many"));
        let bytes = count.checked_mul(size).ok_or_else(too_large)?;
        let region = Region { offset: self.bytes, bytes };
        let end = self.bytes.checked_add(bytes).ok_or_else(too_large)?;
        self.bytes = end.checked_next_multiple_of(ALIGN).ok_or_else(too_large)?;
        self.named.push((name, region));
        Ok(region)
    }

    /// Size of the allocation.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Every part with its name, for reports.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, Region)> + '_ {
        self.named.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_overlap_and_are_aligned() {
        let mut regions = Regions::new();
        let a = regions.add("a", 3, 4).unwrap();
        let none = regions.add("none", 0, 4).unwrap();
        let b = regions.add("b", 257, 1).unwrap();
        assert_eq!((a.offset, b.offset, regions.bytes()), (0, 256, 768));
        assert_eq!(none.at(DevicePtr(4096)), DevicePtr::NULL);
        assert_eq!(b.at(DevicePtr(4096)), DevicePtr(4352));
        assert_eq!(regions.iter().map(|(_, r)| r.bytes).sum::<usize>(), 269);
        assert!(regions.add("huge", usize::MAX, 2).is_err());
    }
}
