//! Shared memory of a CTA, with a shadow bit per byte.

/// Bytes and their initialisation.
pub struct SharedMemory {
    bytes: Vec<u8>,
    /// 1 = written.
    init: Vec<bool>,
}

impl SharedMemory {
    /// `size` bytes, uninitialised (filled with a pattern that is NaN in every format we use).
    pub fn new(size: usize) -> Self {
        Self { bytes: vec![0xff; size], init: vec![false; size] }
    }

    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// `n` bytes at `offset`, `None` if out of range.
    pub fn get(&self, offset: u32, n: usize) -> Option<&[u8]> {
        let at = offset as usize;
        self.bytes.get(at..at.checked_add(n)?)
    }

    /// Reads bytes; whether all of them are initialised, `None` if out of range.
    #[inline(always)]
    pub fn read(&self, offset: u32, out: &mut [u8]) -> Option<bool> {
        let range = offset as usize..offset as usize + out.len();
        out.copy_from_slice(self.bytes.get(range.clone())?);
        Some(self.init.get(range)?.iter().fold(true, |all, &b| all & b))
    }

    /// Whether all of the bytes have been written.
    #[inline]
    pub fn is_init(&self, offset: u32, n: usize) -> bool {
        let at = offset as usize;
        self.init.get(at..at + n).is_some_and(|s| s.iter().all(|&b| b))
    }

    /// Writes bytes and marks them initialised or poisoned. `false` if out of range.
    #[must_use]
    #[inline(always)]
    pub fn set(&mut self, offset: u32, data: &[u8], init: bool) -> bool {
        let at = offset as usize;
        let Some(range) = at.checked_add(data.len()).map(|end| at..end) else { return false };
        let Some(slot) = self.bytes.get_mut(range.clone()) else { return false };
        slot.copy_from_slice(data);
        self.init[range].fill(init);
        true
    }

    /// Marks bytes poisoned without changing them. `false` if out of range.
    #[must_use]
    pub fn poison(&mut self, offset: u32, n: usize) -> bool {
        let at = offset as usize;
        match at.checked_add(n).and_then(|end| self.init.get_mut(at..end)) {
            Some(flags) => flags.fill(false),
            None => return false,
        }
        true
    }

    /// `n` bytes at `offset` with their initialisation; `None` if out of range.
    pub fn range(&self, offset: u32, n: usize) -> Option<(&[u8], &[bool])> {
        let range = offset as usize..(offset as usize).checked_add(n)?;
        Some((self.bytes.get(range.clone())?, self.init.get(range)?))
    }

    /// The same, to be changed.
    pub fn range_mut(&mut self, offset: u32, n: usize) -> Option<(&mut [u8], &mut [bool])> {
        let range = offset as usize..(offset as usize).checked_add(n)?;
        Some((self.bytes.get_mut(range.clone())?, self.init.get_mut(range)?))
    }

    /// Little-endian word of up to 8 bytes.
    pub fn word(&self, offset: u32, n: usize) -> Option<u64> {
        let mut word = [0; 8];
        word[..n].copy_from_slice(self.get(offset, n)?);
        Some(u64::from_le_bytes(word))
    }
}
