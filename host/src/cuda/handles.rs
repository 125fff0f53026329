//! Raw handles: the types of public signatures, independent of any binding.

use core::ffi::c_void;

use crate::runtime::DevicePtr;

/// A `CUstream` of any binding. Null is the legacy default stream.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawStream(pub *mut c_void);

// SAFETY: a handle, never dereferenced here; the driver allows its use from every thread.
unsafe impl Send for RawStream {}
// SAFETY: as above.
unsafe impl Sync for RawStream {}

impl From<&cust::stream::Stream> for RawStream {
    fn from(stream: &cust::stream::Stream) -> Self {
        Self(stream.as_inner().cast())
    }
}

impl<T: cust::memory::DeviceCopy> From<cust::memory::DevicePointer<T>> for DevicePtr {
    fn from(pointer: cust::memory::DevicePointer<T>) -> Self {
        Self(pointer.as_raw())
    }
}
