//! Device global memory: allocations with guard gaps, shared by all clusters of a launch.
//!
//! Words are atomics with relaxed ordering, so that clusters on different host threads may access them
//! without undefined behaviour here, whatever the kernel does.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::Relaxed};

/// Address bits below the allocation number. Allocations lie 2^36 bytes apart: an overrun never reaches the
/// next one.
const SHIFT: u32 = 36;

/// All bytes of a word.
const ALL: u8 = 0xf;

/// The part of an access that lies in one word.
struct Piece {
    word: usize,
    /// First byte in the word.
    first: usize,
    bytes: usize,
    /// Where it is in the access.
    position: usize,
}

impl Piece {
    fn mask(&self) -> u8 {
        ((1 << self.bytes) - 1) << self.first
    }
}

/// The words that bytes `at .. at + n` touch.
fn pieces(at: usize, n: usize) -> impl Iterator<Item = Piece> {
    let mut position = 0;
    std::iter::from_fn(move || {
        let first = (at + position) % 4;
        let bytes = (4 - first).min(n - position);
        let piece = Piece { word: (at + position) / 4, first, bytes, position };
        position += bytes;
        (bytes > 0).then_some(piece)
    })
}

struct Allocation {
    bytes: usize,
    words: Box<[AtomicU32]>,
    /// One mask per word: bit b = byte b is written.
    init: Box<[AtomicU8]>,
    freed: bool,
    read_only: bool,
}

/// An allocation that has been found: for several accesses to it, each of which is known to be in bounds.
#[derive(Clone, Copy)]
pub struct GlobalView<'a> {
    allocation: &'a Allocation,
}

impl GlobalView<'_> {
    /// As [`GlobalMemory::read`].
    ///
    /// # Panics
    /// Out of bounds.
    #[inline(always)]
    pub fn read(&self, address: u64, out: &mut [u8]) -> bool {
        GlobalMemory::load(self.allocation, (address & ((1 << SHIFT) - 1)) as usize, out)
    }

    /// As [`GlobalMemory::write`] of initialised bytes.
    ///
    /// # Panics
    /// Out of bounds.
    #[inline(always)]
    pub fn write(&self, address: u64, data: &[u8]) {
        GlobalMemory::store(self.allocation, (address & ((1 << SHIFT) - 1)) as usize, data, true);
    }
}

/// Why an access is not possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// No allocation there.
    #[error("address {0:#x} is in no allocation")]
    Unmapped(u64),
    /// Beyond the end.
    #[error("{bytes} bytes at offset {offset} of an allocation of {size} bytes")]
    Bounds {
        /// Offset of the access.
        offset: u64,
        /// Length of the access.
        bytes: usize,
        /// Size of the allocation.
        size: usize,
    },
    /// Freed.
    #[error("address {0:#x} is in a freed allocation")]
    Freed(u64),
    /// A write to constant memory.
    #[error("address {0:#x} is read-only")]
    ReadOnly(u64),
}

/// Global memory of a device.
#[derive(Default)]
pub struct GlobalMemory {
    allocations: Vec<Allocation>,
    /// Serialises read-modify-write and "strong" accesses, so that they never tear.
    pub(crate) strong: Mutex<()>,
}

impl GlobalMemory {
    /// Allocates `bytes` bytes, uninitialised (0xFF). The address is 256-byte aligned.
    pub fn allocate(&mut self, bytes: usize) -> u64 {
        let words = bytes.div_ceil(4);
        self.allocations.push(Allocation {
            bytes,
            words: (0..words).map(|_| AtomicU32::new(u32::MAX)).collect(),
            init: (0..words).map(|_| AtomicU8::new(0)).collect(),
            freed: false,
            read_only: false,
        });
        (self.allocations.len() as u64) << SHIFT
    }

    /// Keeps other host threads' read-modify-write accesses away while the guard lives.
    pub fn lock(&self) -> std::sync::MutexGuard<'_, ()> {
        self.strong.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Frees the allocation at `address`. The address is never used again.
    pub fn free(&mut self, address: u64) {
        let index = (address >> SHIFT) as usize;
        if let Some(a) = index.checked_sub(1).and_then(|i| self.allocations.get_mut(i)) {
            a.freed = true;
            a.words = Box::default();
            a.init = Box::default();
        }
    }

    /// Makes the allocation at `address` read-only (constant memory).
    pub fn protect(&mut self, address: u64) {
        let index = (address >> SHIFT) as usize;
        if let Some(a) = index.checked_sub(1).and_then(|i| self.allocations.get_mut(i)) {
            a.read_only = true;
        }
    }

    #[inline(always)]
    fn find(&self, address: u64, bytes: usize) -> Result<(&Allocation, usize), MemoryError> {
        let index = (address >> SHIFT) as usize;
        let allocation = index
            .checked_sub(1)
            .and_then(|i| self.allocations.get(i))
            .ok_or(MemoryError::Unmapped(address))?;
        if allocation.freed {
            return Err(MemoryError::Freed(address));
        }
        let offset = address & ((1 << SHIFT) - 1);
        if offset + bytes as u64 > allocation.bytes as u64 {
            return Err(MemoryError::Bounds { offset, bytes, size: allocation.bytes });
        }
        Ok((allocation, offset as usize))
    }

    /// Whether bytes exist.
    #[inline(always)]
    pub fn contains(&self, address: u64, bytes: usize) -> bool {
        self.find(address, bytes).is_ok()
    }

    /// The allocation of bytes that exist, and that may be written if `write`.
    #[inline(always)]
    pub fn view(&self, address: u64, bytes: usize, write: bool) -> Option<GlobalView<'_>> {
        let (allocation, _) = self.find(address, bytes).ok()?;
        (!write || !allocation.read_only).then_some(GlobalView { allocation })
    }

    /// Reads bytes; returns whether all of them were initialised.
    ///
    /// # Errors
    /// [`MemoryError`].
    #[inline(always)]
    pub fn read(&self, address: u64, out: &mut [u8]) -> Result<bool, MemoryError> {
        let (a, at) = self.find(address, out.len())?;
        Ok(Self::load(a, at, out))
    }

    #[inline(always)]
    fn load(a: &Allocation, at: usize, out: &mut [u8]) -> bool {
        let mut init = ALL;
        if at.is_multiple_of(4) && out.len().is_multiple_of(4) {
            let from = at / 4..(at + out.len()) / 4;
            let (words, masks) = (&a.words[from.clone()], &a.init[from]);
            for (i, chunk) in out.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&words[i].load(Relaxed).to_le_bytes());
                init &= masks[i].load(Relaxed);
            }
            return init == ALL;
        }
        for p in pieces(at, out.len()) {
            let bytes = a.words[p.word].load(Relaxed).to_le_bytes();
            out[p.position..p.position + p.bytes].copy_from_slice(&bytes[p.first..p.first + p.bytes]);
            init &= a.init[p.word].load(Relaxed) | !p.mask();
        }
        init & ALL == ALL
    }

    /// Reads bytes with their initialisation, one flag per byte.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn read_flags(&self, address: u64, out: &mut [u8], flags: &mut [bool]) -> Result<(), MemoryError> {
        if self.read(address, out)? {
            flags.fill(true);
            return Ok(());
        }
        let (a, at) = self.find(address, out.len())?;
        for p in pieces(at, out.len()) {
            let mask = a.init[p.word].load(Relaxed) >> p.first;
            for (i, flag) in flags[p.position..].iter_mut().take(p.bytes).enumerate() {
                *flag = mask >> i & 1 == 1;
            }
        }
        Ok(())
    }

    /// Writes bytes, and marks each of them initialised or poisoned.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn write_flags(&self, address: u64, data: &[u8], flags: &[bool]) -> Result<(), MemoryError> {
        self.write(address, data, true)?;
        if flags.iter().all(|&f| f) {
            return Ok(());
        }
        let (a, at) = self.find(address, data.len())?;
        for p in pieces(at, data.len()) {
            let poisoned = (0..p.bytes)
                .filter(|&i| flags.get(p.position + i) == Some(&false))
                .fold(0, |m, i| m | 1 << (p.first + i));
            a.init[p.word].fetch_and(!poisoned, Relaxed);
        }
        Ok(())
    }

    /// Writes bytes and marks them initialised, or poisoned.
    ///
    /// # Errors
    /// [`MemoryError`].
    #[inline(always)]
    pub fn write(&self, address: u64, data: &[u8], init: bool) -> Result<(), MemoryError> {
        let (a, at) = self.find(address, data.len())?;
        if a.read_only {
            return Err(MemoryError::ReadOnly(address));
        }
        Self::store(a, at, data, init);
        Ok(())
    }

    /// Writes bytes from the host: read-only memory too.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn upload(&self, address: u64, data: &[u8]) -> Result<(), MemoryError> {
        let (a, at) = self.find(address, data.len())?;
        Self::store(a, at, data, true);
        Ok(())
    }

    #[inline(always)]
    fn store(a: &Allocation, at: usize, data: &[u8], init: bool) {
        if at.is_multiple_of(4) && data.len().is_multiple_of(4) {
            let to = at / 4..(at + data.len()) / 4;
            let (words, masks) = (&a.words[to.clone()], &a.init[to]);
            for (i, c) in data.chunks_exact(4).enumerate() {
                words[i].store(u32::from_le_bytes([c[0], c[1], c[2], c[3]]), Relaxed);
                masks[i].store(if init { ALL } else { 0 }, Relaxed);
            }
            return;
        }
        for p in pieces(at, data.len()) {
            let (mut new, mut cleared) = ([0; 4], [0xff; 4]);
            new[p.first..p.first + p.bytes].copy_from_slice(&data[p.position..p.position + p.bytes]);
            cleared[p.first..p.first + p.bytes].fill(0);
            let (new, cleared) = (u32::from_le_bytes(new), u32::from_le_bytes(cleared));
            // Other threads may write the other bytes of the word. The closure always returns a value.
            let _ = a.words[p.word].fetch_update(Relaxed, Relaxed, |w| Some(w & cleared | new));
            if init {
                a.init[p.word].fetch_or(p.mask(), Relaxed);
            } else {
                a.init[p.word].fetch_and(!p.mask(), Relaxed);
            }
        }
    }

    /// Size and offset of the allocation that holds `address`.
    pub fn allocation(&self, address: u64) -> Option<(u64, usize)> {
        let (a, _) = self.find(address, 0).ok()?;
        Some((address >> SHIFT << SHIFT, a.bytes))
    }

    /// Per-byte initialisation of an allocation: for outputs.
    pub fn init_map(&self, address: u64) -> Option<Vec<bool>> {
        let (a, _) = self.find(address, 0).ok()?;
        Some((0..a.bytes).map(|i| a.init[i / 4].load(Relaxed) >> (i % 4) & 1 == 1).collect())
    }
}
