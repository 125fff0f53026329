//! Device addresses: the type of public signatures, independent of any binding.

/// A `CUdeviceptr`: an address in device memory.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DevicePtr(pub u64);

impl DevicePtr {
    /// The null pointer.
    pub const NULL: Self = Self(0);

    /// The address `bytes` further on.
    #[must_use]
    pub const fn byte_add(self, bytes: u64) -> Self {
        Self(self.0 + bytes)
    }
}
