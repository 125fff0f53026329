//! Typed device memory.

use std::fmt;
use std::marker::PhantomData;

use bytemuck::Pod;

use super::{Context, Stream, driver};
use crate::runtime::DevicePtr;
use crate::{Error, Result};

/// `len` elements of device memory, freed on drop.
///
/// Copies and fills are ordered with the work of the stream they name. Copies from and to host memory wait for the
/// stream; fills and copies on the device do not.
pub struct DeviceBuffer<T: Pod> {
    ptr: DevicePtr,
    len: usize,
    context: Context,
    element: PhantomData<T>,
}

// SAFETY: an address of memory that every thread may use through the driver; reads and writes go through `&self`
// and `&mut self` as those of a `Vec`.
unsafe impl<T: Pod + Send> Send for DeviceBuffer<T> {}
// SAFETY: as above.
unsafe impl<T: Pod + Sync> Sync for DeviceBuffer<T> {}

impl<T: Pod> DeviceBuffer<T> {
    /// Memory for `len` elements of unspecified value. Nothing is allocated for 0 bytes.
    pub fn alloc(context: &Context, len: usize) -> Result<Self> {
        let bytes = len.checked_mul(size_of::<T>()).ok_or_else(|| {
            Error::invalid("device buffer", format!("{len} elements overflow the address space"))
        })?;
        let _current = context.enter()?;
        let ptr = if bytes == 0 { DevicePtr::NULL } else { driver::mem_alloc(bytes)? };
        Ok(Self { ptr, len, context: context.clone(), element: PhantomData })
    }

    /// Memory holding `values`.
    pub fn from_slice(stream: &Stream, values: &[T]) -> Result<Self> {
        let mut buffer = Self::alloc(stream.context(), values.len())?;
        buffer.copy_from_host(stream, values)?;
        Ok(buffer)
    }

    /// Memory for `len` elements, every byte `byte`: zeros, or a poison that tests can recognise.
    pub fn filled(stream: &Stream, len: usize, byte: u8) -> Result<Self> {
        let mut buffer = Self::alloc(stream.context(), len)?;
        buffer.fill_bytes(stream, byte)?;
        Ok(buffer)
    }

    /// Address of the first element.
    pub fn ptr(&self) -> DevicePtr {
        self.ptr
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.len * size_of::<T>()
    }

    /// Sets every byte to `byte`; does not wait.
    pub fn fill_bytes(&mut self, stream: &Stream, byte: u8) -> Result<()> {
        self.fill_bytes_of(stream, self.len, byte)
    }

    /// Sets every byte of the first `len` elements to `byte`; does not wait.
    pub fn fill_bytes_of(&mut self, stream: &Stream, len: usize, byte: u8) -> Result<()> {
        let to = self.address(stream, 0, len)?;
        let _current = self.context.enter()?;
        // SAFETY: the buffer's own bytes; `&mut self`.
        unsafe { driver::memset_d8(to, byte, len * size_of::<T>(), stream.raw()) }
    }

    /// Copies `values`, which must be as many as the buffer has, and waits.
    pub fn copy_from_host(&mut self, stream: &Stream, values: &[T]) -> Result<()> {
        self.check_len(values.len())?;
        self.copy_from_host_at(stream, 0, values)
    }

    /// Copies `values` to the elements from `start` on, and waits.
    pub fn copy_from_host_at(&mut self, stream: &Stream, start: usize, values: &[T]) -> Result<()> {
        let to = self.address(stream, start, values.len())?;
        let _current = self.context.enter()?;
        // SAFETY: the range is the buffer's; `values` is borrowed until the stream has got there, because we wait.
        unsafe {
            driver::memcpy_htod(to, bytemuck::cast_slice(values), stream.raw())?;
            driver::stream_synchronize(stream.raw())
        }
    }

    /// Copies everything into `values`, which must be as many, and waits.
    pub fn copy_to_host(&self, stream: &Stream, values: &mut [T]) -> Result<()> {
        self.check_len(values.len())?;
        self.copy_to_host_at(stream, 0, values)
    }

    /// Copies the elements from `start` on into `values`, and waits.
    pub fn copy_to_host_at(&self, stream: &Stream, start: usize, values: &mut [T]) -> Result<()> {
        let from = self.address(stream, start, values.len())?;
        let _current = self.context.enter()?;
        // SAFETY: as in copy_from_host_at.
        unsafe {
            driver::memcpy_dtoh(bytemuck::cast_slice_mut(values), from, stream.raw())?;
            driver::stream_synchronize(stream.raw())
        }
    }

    /// The contents.
    pub fn to_vec(&self, stream: &Stream) -> Result<Vec<T>> {
        let mut values = vec![T::zeroed(); self.len];
        self.copy_to_host(stream, &mut values)?;
        Ok(values)
    }

    /// Copies the contents of `from`, which must be as many; does not wait.
    pub fn copy_from_device(&mut self, stream: &Stream, from: &DeviceBuffer<T>) -> Result<()> {
        self.context.check_same(&from.context, "source buffer")?;
        self.check_len(from.len)?;
        let to = self.address(stream, 0, from.len)?;
        let _current = self.context.enter()?;
        // SAFETY: lengths agree; `&mut` and `&` are different buffers. Should `from` be dropped before the stream
        // gets here, cuMemFree waits for the device.
        unsafe { driver::memcpy_dtod(to, from.ptr, self.bytes(), stream.raw()) }
    }

    fn check_len(&self, len: usize) -> Result<()> {
        if len == self.len { Ok(()) } else { Err(Error::mismatch("device buffer copy", self.len, len)) }
    }

    /// Address of the elements `start..start + len`, if the buffer has them and the stream is of its context.
    fn address(&self, stream: &Stream, start: usize, len: usize) -> Result<DevicePtr> {
        self.context.check_same(stream.context(), "stream")?;
        if start.checked_add(len).is_none_or(|end| end > self.len) {
            let got = format!("{len} from {start} on");
            return Err(Error::mismatch("range of a device buffer", format!("0..{}", self.len), got));
        }
        Ok(self.ptr.byte_add((start * size_of::<T>()) as u64))
    }
}

impl<T: Pod> Drop for DeviceBuffer<T> {
    fn drop(&mut self) {
        if self.ptr != DevicePtr::NULL {
            // SAFETY: ours. Whoever launched a kernel on the address vouched that it is finished; cuMemFree waits
            // for the device besides.
            self.context.on_drop("a buffer", || unsafe { driver::mem_free(self.ptr) });
        }
    }
}

impl<T: Pod> fmt::Debug for DeviceBuffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceBuffer<{}>({} at {:#x})", std::any::type_name::<T>(), self.len, self.ptr.0)
    }
}
