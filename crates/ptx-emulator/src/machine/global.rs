//! Device global memory: allocations with guard gaps, shared by all clusters of a launch.
//!
//! Words are atomics with relaxed ordering, so that clusters on different host threads may access them
//! without undefined behaviour here, whatever the kernel does.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::Relaxed};

/// Address bits below the allocation number. Allocations lie 2^36 bytes apart: an overrun never reaches the
/// next one.
const SHIFT: u32 = 36;

struct Allocation {
    bytes: usize,
    words: Box<[AtomicU32]>,
    /// One flag per byte: 1 = written.
    init: Box<[AtomicU8]>,
    freed: bool,
    read_only: bool,
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
            init: (0..bytes).map(|_| AtomicU8::new(0)).collect(),
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

    /// Reads bytes; returns whether all of them were initialised.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn read(&self, address: u64, out: &mut [u8]) -> Result<bool, MemoryError> {
        let (a, at) = self.find(address, out.len())?;
        if at % 4 == 0 && out.len().is_multiple_of(4) {
            for (chunk, word) in out.chunks_exact_mut(4).zip(&a.words[at / 4..]) {
                chunk.copy_from_slice(&word.load(Relaxed).to_le_bytes());
            }
        } else {
            for (i, byte) in out.iter_mut().enumerate() {
                *byte = a.words[(at + i) / 4].load(Relaxed).to_le_bytes()[(at + i) % 4];
            }
        }
        Ok(a.init[at..at + out.len()].iter().all(|b| b.load(Relaxed) != 0))
    }

    /// Reads bytes with their initialisation, one flag per byte.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn read_flags(&self, address: u64, out: &mut [u8], flags: &mut [bool]) -> Result<(), MemoryError> {
        self.read(address, out)?;
        let (a, at) = self.find(address, out.len())?;
        for (flag, init) in flags.iter_mut().zip(&a.init[at..]) {
            *flag = init.load(Relaxed) != 0;
        }
        Ok(())
    }

    /// Writes bytes, and marks each of them initialised or poisoned.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn write_flags(&self, address: u64, data: &[u8], flags: &[bool]) -> Result<(), MemoryError> {
        self.write(address, data, true)?;
        let (a, at) = self.find(address, data.len())?;
        for (flag, init) in flags.iter().zip(&a.init[at..]) {
            init.store(u8::from(*flag), Relaxed);
        }
        Ok(())
    }

    /// Writes bytes and marks them initialised, or poisoned.
    ///
    /// # Errors
    /// [`MemoryError`].
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

    fn store(a: &Allocation, at: usize, data: &[u8], init: bool) {
        if at.is_multiple_of(4) && data.len().is_multiple_of(4) {
            for (chunk, word) in data.chunks_exact(4).zip(&a.words[at / 4..]) {
                let mut bytes = [0; 4];
                bytes.copy_from_slice(chunk);
                word.store(u32::from_le_bytes(bytes), Relaxed);
            }
        } else {
            for (i, &byte) in data.iter().enumerate() {
                let (word, shift) = (&a.words[(at + i) / 4], (at + i) % 4 * 8);
                let update = |w: u32| Some(w & !(0xff << shift) | u32::from(byte) << shift);
                // The closure always returns a value, so this cannot fail.
                let _ = word.fetch_update(Relaxed, Relaxed, update);
            }
        }
        a.init[at..at + data.len()].iter().for_each(|b| b.store(u8::from(init), Relaxed));
    }

    /// Size and offset of the allocation that holds `address`.
    pub fn allocation(&self, address: u64) -> Option<(u64, usize)> {
        let (a, _) = self.find(address, 0).ok()?;
        Some((address >> SHIFT << SHIFT, a.bytes))
    }

    /// Per-byte initialisation of an allocation: for outputs.
    pub fn init_map(&self, address: u64) -> Option<Vec<bool>> {
        let (a, _) = self.find(address, 0).ok()?;
        Some(a.init.iter().map(|b| b.load(Relaxed) != 0).collect())
    }
}
