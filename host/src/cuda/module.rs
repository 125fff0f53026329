//! Loaded modules and their functions.

use std::ffi::CString;
use std::sync::Arc;

use super::driver::{self, FunctionAttribute, FunctionHandle, LaunchWith, ModuleHandle};
use super::{Context, RawStream};
use crate::{Error, Result};

/// Dynamic shared memory that a launch gets without asking, in bytes.
const DEFAULT_SHARED_BYTES: u32 = 48 * 1024;

/// Code loaded into a context; unloaded on drop, which its functions put off.
#[derive(Debug)]
pub struct Module {
    handle: ModuleHandle,
    context: Context,
}

// SAFETY: a handle; the driver allows its use from every thread.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

impl Module {
    /// Compiles PTX for the context's device. The driver keeps the result in its own cache on disk. If the driver's
    /// compiler objects, its message is in the error.
    pub fn from_ptx(context: &Context, ptx: &str) -> Result<Arc<Module>> {
        let text = CString::new(ptx)
            .map_err(|e| Error::invalid("PTX", format!("a zero byte at offset {}", e.nul_position())))?;
        let _current = context.enter()?;
        // SAFETY: zero-terminated text.
        let handle = unsafe { driver::module_load(text.as_bytes_with_nul())? };
        Ok(Arc::new(Module { handle, context: context.clone() }))
    }

    /// Loads a cubin, which must be for the context's device.
    ///
    /// # Safety
    /// `cubin` is what ptxas wrote: the driver reads sizes from the image and does not know its length.
    pub unsafe fn from_cubin(context: &Context, cubin: &[u8]) -> Result<Arc<Module>> {
        if !cubin.starts_with(b"\x7fELF") {
            return Err(Error::invalid("cubin", "not an ELF file"));
        }
        let _current = context.enter()?;
        // SAFETY: the caller's.
        let handle = unsafe { driver::module_load(cubin)? };
        Ok(Arc::new(Module { handle, context: context.clone() }))
    }

    /// The context it is loaded in.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The entry `name`.
    pub fn function(self: &Arc<Self>, name: &str) -> Result<Function> {
        let c_name = CString::new(name).map_err(|_| Error::invalid("kernel name", "holds a zero byte"))?;
        let _current = self.context.enter()?;
        // SAFETY: the module is alive.
        let handle =
            unsafe { driver::module_get_function(self.handle, &c_name) }.map_err(|error| match error {
                Error::Driver { call, code, name: reason } => {
                    Error::Driver { call, code, name: format!("{reason} for `{name}`") }
                }
                other => other,
            })?;
        Ok(Function { handle, module: Arc::clone(self) })
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: ours; functions hold the Arc, and whoever launched one vouched that it is finished.
        self.context.on_drop("a module", || unsafe { driver::module_unload(self.handle) });
    }
}

/// An entry of a [`Module`], which it keeps loaded.
#[derive(Clone, Debug)]
pub struct Function {
    handle: FunctionHandle,
    module: Arc<Module>,
}

// SAFETY: a handle; the driver allows its use from every thread.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

impl Function {
    /// The context it is loaded in.
    pub fn context(&self) -> &Context {
        &self.module.context
    }

    /// Allows launches with up to `bytes` of dynamic shared memory; without it 48 KiB are allowed.
    pub fn allow_dynamic_shared(&self, bytes: u32) -> Result<()> {
        if bytes <= DEFAULT_SHARED_BYTES {
            return Ok(());
        }
        let most = self.context().device().max_shared_bytes()?;
        if bytes > most {
            return Err(Error::unsupported(
                format!("{bytes} bytes of shared memory per block"),
                format!("the device has {most}"),
            ));
        }
        let _current = self.context().enter()?;
        // SAFETY: the module is alive.
        unsafe {
            driver::func_set_attribute(self.handle, FunctionAttribute::MaxDynamicSharedBytes, bytes as i32)
        }
    }

    /// Most threads of a block, given the registers.
    pub fn max_threads_per_block(&self) -> Result<u32> {
        self.attribute(FunctionAttribute::MaxThreadsPerBlock)
    }

    /// Registers per thread.
    pub fn registers(&self) -> Result<u32> {
        self.attribute(FunctionAttribute::Registers)
    }

    /// Local memory per thread in bytes: anything above 0 is a stack or spilled registers.
    pub fn local_bytes(&self) -> Result<u32> {
        self.attribute(FunctionAttribute::LocalBytes)
    }

    /// Static shared memory per block in bytes.
    pub fn static_shared_bytes(&self) -> Result<u32> {
        self.attribute(FunctionAttribute::StaticSharedBytes)
    }

    fn attribute(&self, attribute: FunctionAttribute) -> Result<u32> {
        let _current = self.context().enter()?;
        // SAFETY: the module is alive.
        let value = unsafe { driver::func_get_attribute(self.handle, attribute)? };
        Ok(value as u32)
    }

    /// Launches with `parameters`, one pointer per kernel parameter. [`Kernel`](super::Kernel) is the checked way.
    ///
    /// # Safety
    /// `stream` is a live stream of the function's context. Each parameter points at a value of the kernel
    /// parameter's size. Whatever the kernel asks of its arguments holds until it is finished.
    pub unsafe fn launch_raw(
        &self,
        stream: RawStream,
        grid: [u32; 3],
        block: [u32; 3],
        shared_bytes: u32,
        parameters: &mut [*mut core::ffi::c_void],
    ) -> Result<()> {
        let _current = self.context().enter()?;
        // SAFETY: the caller's; the function is of the current context.
        unsafe { driver::launch_kernel(self.handle, grid, block, shared_bytes, stream, parameters) }
    }

    /// As [`launch_raw`](Self::launch_raw), with attributes.
    ///
    /// # Safety
    /// As [`launch_raw`](Self::launch_raw); a dependent kernel waits by itself before it touches what the earlier ones do.
    pub unsafe fn launch_with_raw(
        &self,
        stream: RawStream,
        grid: [u32; 3],
        block: [u32; 3],
        shared_bytes: u32,
        with: LaunchWith,
        parameters: &mut [*mut core::ffi::c_void],
    ) -> Result<()> {
        let _current = self.context().enter()?;
        // SAFETY: the caller's; the function is of the current context.
        unsafe {
            driver::launch_kernel_with(self.handle, grid, block, shared_bytes, with, stream, parameters)
        }
    }
}
