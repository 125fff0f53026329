//! What runs kernels: a card, or the emulator. The layer's launches are written once, against these traits.

use kernels::launch::{Arch, Dims};

use super::{Args, DevicePtr};
use crate::Result;

/// Work in order: each operation sees what the earlier ones wrote.
///
/// The methods are `unsafe` for one reason: addresses are raw. Whoever calls them vouches that every address is memory
/// of the size and alignment that the operation (for a kernel: its row of the launch table) asks for, alive until
/// the work is finished.
pub trait Queue {
    /// The architecture whose kernels run here.
    fn arch(&self) -> Arch;

    /// Streaming multiprocessors, for grids.
    fn multiprocessors(&self) -> u32;

    /// Launches a kernel; its arguments name it. `dependent`: it may start before the kernel in front of it has
    /// ended, and waits by itself (programmatic dependent launch).
    ///
    /// # Safety
    /// As the trait says.
    unsafe fn launch(&self, dims: Dims, args: Args, dependent: bool) -> Result<()>;

    /// Sets `bytes` bytes to `value`.
    ///
    /// # Safety
    /// As the trait says.
    unsafe fn fill_u8(&self, to: DevicePtr, value: u8, bytes: usize) -> Result<()>;

    /// Sets `words` 4-byte words to `value`.
    ///
    /// # Safety
    /// As the trait says.
    unsafe fn fill_u32(&self, to: DevicePtr, value: u32, words: usize) -> Result<()>;
}

/// A [`Queue`] with memory of its own. Copies wait for the queue.
pub trait Device: Queue {
    /// Memory of unspecified contents, at least 256-byte aligned; `bytes` is not 0.
    fn alloc(&self, bytes: usize) -> Result<DevicePtr>;

    /// Frees what [`alloc`](Self::alloc) gave.
    ///
    /// # Safety
    /// Nothing uses it any more, no kernel either.
    unsafe fn free(&self, memory: DevicePtr);

    /// Copies to the device and waits.
    ///
    /// # Safety
    /// As [`Queue`] says.
    unsafe fn upload(&self, to: DevicePtr, bytes: &[u8]) -> Result<()>;

    /// Copies from the device and waits. Errors of kernels come out here.
    ///
    /// # Safety
    /// As [`Queue`] says.
    unsafe fn download(&self, from: DevicePtr, bytes: &mut [u8]) -> Result<()>;

    /// Waits for all work.
    fn synchronize(&self) -> Result<()>;

    /// Whether a read of memory that nobody wrote is found by the device itself.
    fn tracks_writes(&self) -> bool {
        false
    }
}

/// One allocation of a [`Device`], freed on drop.
pub struct Memory<'d> {
    device: &'d dyn Device,
    ptr: DevicePtr,
    bytes: usize,
}

impl<'d> Memory<'d> {
    /// `bytes` bytes of unspecified contents.
    pub fn new(device: &'d dyn Device, bytes: usize) -> Result<Self> {
        Ok(Self { device, ptr: device.alloc(bytes.max(1))?, bytes })
    }

    /// A copy of `data`.
    pub fn of(device: &'d dyn Device, data: &[u8]) -> Result<Self> {
        let memory = Self::new(device, data.len())?;
        // SAFETY: just allocated, of that size.
        unsafe { device.upload(memory.ptr, data)? };
        Ok(memory)
    }

    /// Address of the first byte; 256-byte aligned.
    pub fn ptr(&self) -> DevicePtr {
        self.ptr
    }

    /// Size.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The contents.
    pub fn to_vec(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.bytes];
        // SAFETY: ours, of that size.
        unsafe { self.device.download(self.ptr, &mut bytes)? };
        Ok(bytes)
    }
}

impl Drop for Memory<'_> {
    fn drop(&mut self) {
        // SAFETY: ours; every read of results waited for the queue.
        unsafe { self.device.free(self.ptr) };
    }
}
