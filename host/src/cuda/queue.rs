//! The runtime's [`Queue`](runtime::Queue) and [`Device`](runtime::Device) on a card.

use std::collections::HashMap;
use std::sync::Arc;

use kernels::launch::{Arch, Dims, TABLE};

use super::{Context, Kernel, Kernels, RawStream, Stream, driver};
use crate::runtime::{self, Args, DevicePtr};
use crate::{Error, Result};

/// Every kernel of the launch table for one context, resolved: nothing is looked up by the driver in a launch.
#[derive(Clone, Debug)]
pub struct KernelSet {
    context: Context,
    arch: Arch,
    multiprocessors: u32,
    /// A kernel that the driver refuses is an error when it is wanted: the others still run.
    kernels: Arc<HashMap<&'static str, std::result::Result<Kernel, String>>>,
}

impl KernelSet {
    /// All kernels that the table has for the architecture.
    pub fn new(context: &Context, kernels: &Kernels) -> Result<KernelSet> {
        let arch = kernels.arch();
        let mut found = HashMap::new();
        for launch in TABLE.iter().filter(|launch| launch.archs.contains(&arch)) {
            let kernel = kernels.get(launch).map_err(|error| {
                tracing::warn!("{}: {error}", launch.name);
                error.to_string()
            });
            found.insert(launch.name, kernel);
        }
        let multiprocessors = context.device().multiprocessors()?;
        Ok(KernelSet { context: context.clone(), arch, multiprocessors, kernels: Arc::new(found) })
    }

    /// Loads the shipped PTX and resolves all of it.
    pub fn load(context: &Context) -> Result<KernelSet> {
        KernelSet::new(context, &Kernels::load(context)?)
    }

    /// The context.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The architecture.
    pub fn arch(&self) -> Arch {
        self.arch
    }

    /// A queue on `stream`.
    ///
    /// # Safety
    /// `stream` is a live stream of the context as long as the queue is used.
    pub unsafe fn on(&self, stream: RawStream) -> CudaQueue<'_> {
        CudaQueue { set: self, stream }
    }
}

/// A stream with the kernels.
#[derive(Clone, Copy, Debug)]
pub struct CudaQueue<'k> {
    set: &'k KernelSet,
    stream: RawStream,
}

impl runtime::Queue for CudaQueue<'_> {
    fn arch(&self) -> Arch {
        self.set.arch
    }

    fn multiprocessors(&self) -> u32 {
        self.set.multiprocessors
    }

    unsafe fn launch(&self, dims: Dims, args: Args, dependent: bool) -> Result<()> {
        let name = args.launch().name;
        let kernel = match self.set.kernels.get(name) {
            Some(Ok(kernel)) => kernel,
            Some(Err(why)) => return Err(Error::unsupported(name, why)),
            None => {
                return Err(Error::unsupported(name, format!("no such kernel for {}", self.set.arch.name())));
            }
        };
        // SAFETY: the caller's; the stream is alive.
        unsafe { kernel.launch_as(self.stream, dims, args, dependent) }
    }

    unsafe fn fill_u8(&self, to: DevicePtr, value: u8, bytes: usize) -> Result<()> {
        let _current = self.set.context.enter()?;
        // SAFETY: the caller's.
        unsafe { driver::memset_d8(to, value, bytes, self.stream) }
    }

    unsafe fn fill_u32(&self, to: DevicePtr, value: u32, words: usize) -> Result<()> {
        let _current = self.set.context.enter()?;
        // SAFETY: the caller's.
        unsafe { driver::memset_d32(to, value, words, self.stream) }
    }
}

/// A stream of its own with the kernels and the context's memory.
#[derive(Debug)]
pub struct CudaDevice {
    set: KernelSet,
    stream: Stream,
}

impl CudaDevice {
    /// On a new stream.
    pub fn new(set: &KernelSet) -> Result<CudaDevice> {
        Ok(CudaDevice { stream: Stream::new(set.context())?, set: set.clone() })
    }

    /// The stream.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// The kernels.
    pub fn kernels(&self) -> &KernelSet {
        &self.set
    }

    fn queue(&self) -> CudaQueue<'_> {
        CudaQueue { set: &self.set, stream: self.stream.raw() }
    }
}

impl runtime::Queue for CudaDevice {
    fn arch(&self) -> Arch {
        self.set.arch
    }

    fn multiprocessors(&self) -> u32 {
        self.set.multiprocessors
    }

    unsafe fn launch(&self, dims: Dims, args: Args, dependent: bool) -> Result<()> {
        // SAFETY: the caller's.
        unsafe { self.queue().launch(dims, args, dependent) }
    }

    unsafe fn fill_u8(&self, to: DevicePtr, value: u8, bytes: usize) -> Result<()> {
        // SAFETY: the caller's.
        unsafe { self.queue().fill_u8(to, value, bytes) }
    }

    unsafe fn fill_u32(&self, to: DevicePtr, value: u32, words: usize) -> Result<()> {
        // SAFETY: the caller's.
        unsafe { self.queue().fill_u32(to, value, words) }
    }
}

impl runtime::Device for CudaDevice {
    fn alloc(&self, bytes: usize) -> Result<DevicePtr> {
        let _current = self.set.context.enter()?;
        driver::mem_alloc(bytes)
    }

    unsafe fn free(&self, memory: DevicePtr) {
        // SAFETY: the caller's.
        self.set.context.on_drop("memory", || unsafe { driver::mem_free(memory) });
    }

    unsafe fn upload(&self, to: DevicePtr, bytes: &[u8]) -> Result<()> {
        let _current = self.set.context.enter()?;
        // SAFETY: the caller's; we wait before `bytes` goes.
        unsafe {
            driver::memcpy_htod(to, bytes, self.stream.raw())?;
            driver::stream_synchronize(self.stream.raw())
        }
    }

    unsafe fn download(&self, from: DevicePtr, bytes: &mut [u8]) -> Result<()> {
        let _current = self.set.context.enter()?;
        // SAFETY: as in upload.
        unsafe {
            driver::memcpy_dtoh(bytes, from, self.stream.raw())?;
            driver::stream_synchronize(self.stream.raw())
        }
    }

    fn synchronize(&self) -> Result<()> {
        self.stream.synchronize()
    }
}
