//! Devices and their primary contexts.

use std::fmt;
use std::sync::Arc;

use kernels::launch::Arch;

use super::driver::{self, ContextHandle, DeviceAttribute, DeviceHandle};
use crate::{Error, Result};

/// A CUDA device.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Device {
    handle: DeviceHandle,
    ordinal: usize,
}

impl Device {
    /// Every device that the driver shows, in its order. An error if the driver does not start.
    pub fn all() -> Result<Vec<Device>> {
        driver::init()?;
        (0..driver::device_count()?).map(Device::at).collect()
    }

    /// The device number `ordinal`.
    pub fn get(ordinal: usize) -> Result<Device> {
        driver::init()?;
        let count = driver::device_count()?;
        match i32::try_from(ordinal) {
            Ok(n) if n < count => Device::at(n),
            _ => Err(Error::invalid(format!("CUDA device {ordinal}"), format!("there are {count}"))),
        }
    }

    fn at(ordinal: i32) -> Result<Device> {
        Ok(Device { handle: driver::device(ordinal)?, ordinal: ordinal as usize })
    }

    /// The highest CUDA version that the driver supports, as (major, minor).
    pub fn driver_version() -> Result<(i32, i32)> {
        let version = driver::version()?;
        Ok((version / 1000, version % 1000 / 10))
    }

    /// The driver's number of the device.
    pub fn ordinal(&self) -> usize {
        self.ordinal
    }

    /// Name, such as `NVIDIA H200`.
    pub fn name(&self) -> Result<String> {
        driver::device_name(self.handle)
    }

    /// Compute capability as (major, minor).
    pub fn compute_capability(&self) -> Result<(i32, i32)> {
        Ok((
            driver::device_attribute(self.handle, DeviceAttribute::ComputeCapabilityMajor)?,
            driver::device_attribute(self.handle, DeviceAttribute::ComputeCapabilityMinor)?,
        ))
    }

    /// The architecture whose kernels run on the device, or [`Error::Unsupported`].
    pub fn arch(&self) -> Result<Arch> {
        let (major, minor) = self.compute_capability()?;
        Arch::for_compute_capability(major, minor).ok_or_else(|| {
            let have = Arch::ALL.map(Arch::name).join(", ");
            Error::unsupported(
                format!("compute capability {major}.{minor}"),
                format!("there are kernels for {have}"),
            )
        })
    }

    /// Device memory in bytes.
    pub fn total_memory(&self) -> Result<usize> {
        driver::device_total_mem(self.handle)
    }

    /// Streaming multiprocessors.
    pub fn multiprocessors(&self) -> Result<u32> {
        Ok(driver::device_attribute(self.handle, DeviceAttribute::Multiprocessors)? as u32)
    }

    /// L2 cache in bytes.
    pub fn l2_bytes(&self) -> Result<usize> {
        Ok(driver::device_attribute(self.handle, DeviceAttribute::L2Bytes)? as usize)
    }

    /// Most shared memory that one block can have, in bytes.
    pub fn max_shared_bytes(&self) -> Result<u32> {
        Ok(driver::device_attribute(self.handle, DeviceAttribute::SharedBytesPerBlockOptin)? as u32)
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({})", self.ordinal)
    }
}

struct Retained {
    handle: ContextHandle,
    device: Device,
}

// SAFETY: the driver allows a context to be current in any number of threads at a time.
unsafe impl Send for Retained {}
// SAFETY: as above.
unsafe impl Sync for Retained {}

impl Drop for Retained {
    fn drop(&mut self) {
        // SAFETY: retained once by `Context::primary`; everything made in it holds the Arc.
        if let Err(error) = unsafe { driver::primary_ctx_release(self.device.handle) } {
            tracing::debug!(%error, "releasing a context");
        }
    }
}

/// A device's primary context, retained; clones share it, and so does every object made in it.
#[derive(Clone)]
pub struct Context(Arc<Retained>);

impl Context {
    /// Retains the primary context of `device`, which the CUDA runtime API and other engines use too.
    pub fn primary(device: Device) -> Result<Context> {
        driver::init()?;
        Ok(Context(Arc::new(Retained { handle: driver::primary_ctx_retain(device.handle)?, device })))
    }

    /// Its device.
    pub fn device(&self) -> Device {
        self.0.device
    }

    /// Whether it is the calling thread's current context.
    pub fn is_current(&self) -> Result<bool> {
        Ok(driver::ctx_get_current()? == self.0.handle)
    }

    /// Free and total bytes of device memory.
    pub fn memory(&self) -> Result<(usize, usize)> {
        let _current = self.enter()?;
        driver::mem_get_info()
    }

    /// Makes it current until the guard is dropped; the thread's own context comes back then.
    pub(super) fn enter(&self) -> Result<Current> {
        if self.is_current()? {
            return Ok(Current { pushed: false });
        }
        // SAFETY: retained, so alive.
        unsafe { driver::ctx_push_current(self.0.handle)? };
        Ok(Current { pushed: true })
    }

    /// Runs the destructor `free` with the context current. Destructors cannot fail: an error, which is most often
    /// an earlier kernel's, is logged.
    pub(super) fn on_drop(&self, what: &'static str, free: impl FnOnce() -> Result<()>) {
        let freed = self.enter().and_then(|_current| free());
        if let Err(error) = freed {
            tracing::debug!(%error, "dropping {what}");
        }
    }

    /// [`Error::Invalid`] if `other` is not the same context.
    pub(super) fn check_same(&self, other: &Context, what: &str) -> Result<()> {
        if self.0.handle == other.0.handle {
            return Ok(());
        }
        let (here, there) = (self.device(), other.device());
        Err(Error::invalid(what, format!("belongs to {there:?}, not to {here:?}")))
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Context({:?})", self.0.device)
    }
}

/// Keeps a context current on this thread.
#[must_use]
pub(super) struct Current {
    pushed: bool,
}

impl Drop for Current {
    fn drop(&mut self) {
        if self.pushed
            && let Err(error) = driver::ctx_pop_current()
        {
            tracing::debug!(%error, "restoring the thread's context");
        }
    }
}
