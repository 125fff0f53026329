//! The kernels of the launch table, and launches checked against it.

use std::sync::Arc;

use kernels::launch::{Arch, Dims, Geometry, Launch};

use super::{Context, Function, LaunchWith, Module, RawStream};
use crate::runtime::{Args, check_dims};
use crate::{Error, Result};

/// The kernels, loaded for one device.
#[derive(Clone, Debug)]
pub struct Kernels {
    module: Arc<Module>,
    arch: Arch,
}

impl Kernels {
    /// Loads the shipped PTX of the device's architecture. Once per context: the driver compiles it.
    pub fn load(context: &Context) -> Result<Kernels> {
        let arch = context.device().arch()?;
        Kernels::from_ptx(context, arch, arch.ptx())
    }

    /// Loads other PTX for `arch`, such as freshly built one.
    pub fn from_ptx(context: &Context, arch: Arch, ptx: &str) -> Result<Kernels> {
        if ptx.trim().is_empty() {
            return Err(Error::unsupported(
                format!("the kernels for {}", arch.name()),
                "this build has no PTX for it; `cargo xtask build-ptx` makes it",
            ));
        }
        let module = Module::from_ptx(context, ptx)?;
        tracing::debug!(arch = arch.name(), "loaded kernels");
        Ok(Kernels { module, arch })
    }

    /// Kernels from a module that is loaded already.
    pub fn from_module(module: Arc<Module>, arch: Arch) -> Kernels {
        Kernels { module, arch }
    }

    /// The architecture they are for.
    pub fn arch(&self) -> Arch {
        self.arch
    }

    /// The kernel of a row of the launch table, ready to launch.
    pub fn get(&self, launch: &'static Launch) -> Result<Kernel> {
        if !launch.archs.contains(&self.arch) {
            return Err(Error::unsupported(launch.name, format!("no such kernel for {}", self.arch.name())));
        }
        let function = self.module.function(launch.name)?;
        function.allow_dynamic_shared(launch.shared_bytes)?;
        let (threads, most) = (launch.bounds.threads(), function.max_threads_per_block()?);
        if threads > most {
            return Err(Error::mismatch(
                format!("threads of a block of `{}`", launch.name),
                format!("{threads} or more"),
                most,
            ));
        }
        Ok(Kernel { function, launch })
    }
}

/// A kernel of the launch table.
#[derive(Clone, Debug)]
pub struct Kernel {
    function: Function,
    launch: &'static Launch,
}

impl Kernel {
    /// Its row of the launch table.
    pub fn table(&self) -> &'static Launch {
        self.launch
    }

    /// The loaded entry.
    pub fn function(&self) -> &Function {
        &self.function
    }

    /// Launches with the dimensions that the table gives, such as [`Launch::rows`].
    ///
    /// Checked here: every argument is there, in order and of its type; block, shared memory and grid are ones that
    /// the table allows. No allocation, no synchronisation: may be captured into a graph.
    ///
    /// # Safety
    /// `stream` is a live stream of the kernel's context. The pointers have the shapes, alignments and lifetimes
    /// that the table and the kernel's documentation ask for, until the kernel is finished; so have the dimensions.
    pub unsafe fn launch(&self, stream: impl Into<RawStream>, dims: Dims, args: Args) -> Result<()> {
        // SAFETY: the caller's.
        unsafe { self.launch_as(stream.into(), dims, args, false) }
    }

    /// As [`launch`](Self::launch). `dependent`: it may start before the kernel in front of it in the stream has
    /// ended (programmatic dependent launch); every kernel of the table that is launched so waits by itself.
    ///
    /// # Safety
    /// As [`launch`](Self::launch).
    pub unsafe fn launch_as(&self, stream: RawStream, dims: Dims, args: Args, dependent: bool) -> Result<()> {
        if !core::ptr::eq(args.launch(), self.launch) && args.launch() != self.launch {
            return Err(Error::mismatch("arguments", self.launch.name, args.launch().name));
        }
        let mut values = args.finish()?;
        check_dims(self.launch, &dims)?;
        let mut parameters = values.each_mut().map(|value| core::ptr::from_mut(value).cast());
        let parameters = &mut parameters[..self.launch.args.len()];
        let Dims { grid, block, shared_bytes } = dims;
        let cooperative = self.launch.geometry == Geometry::Resident;
        let with = LaunchWith { cluster: self.launch.bounds.cluster, dependent, cooperative };
        // SAFETY: as many parameters as the table has, each in a word at least as large; the rest is the caller's.
        unsafe { self.function.launch_with_raw(stream, grid, block, shared_bytes, with, parameters) }
    }
}
