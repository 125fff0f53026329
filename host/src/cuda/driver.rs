//! Every call of the CUDA driver, each with Rust types and a [`Result`]. No other file names [`cust::sys`].
//!
//! Names follow the driver's (`cuMemAlloc_v2` is [`mem_alloc`]). Functions that take a handle are `unsafe`: the
//! handle must be alive and of the current context, which the types built on top take care of.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::mem::transmute;
use core::ptr::null_mut;
use std::sync::OnceLock;

use cust::sys;
use sys::{CUdevice_attribute, CUfunction_attribute};

use super::RawStream;
use crate::runtime::DevicePtr;
use crate::{Error, Result};

pub(super) use sys::{
    CUcontext as ContextHandle, CUdevice as DeviceHandle, CUevent as EventHandle,
    CUfunction as FunctionHandle, CUgraph as GraphHandle, CUgraphExec as GraphExecHandle,
    CUmodule as ModuleHandle,
};

/// Bytes kept of the JIT compiler's messages.
const LOG_BYTES: usize = 8192;

/// A driver function whose result is read as an integer, not as the binding's `CUresult`: that is a Rust enum of
/// the codes known in 2022, and materialising one that a later driver added would be undefined behaviour.
trait ReadAsInt {
    type Raw;
    fn read_as_int(self) -> Self::Raw;
}

macro_rules! read_as_int {
    ($($argument:ident)*) => {
        impl<$($argument),*> ReadAsInt for unsafe extern "C" fn($($argument),*) -> sys::CUresult {
            type Raw = unsafe extern "C" fn($($argument),*) -> u32;
            fn read_as_int(self) -> Self::Raw {
                // SAFETY: the same parameters; the result is an `int` in C, and every one is a u32.
                unsafe { transmute(self) }
            }
        }
    };
}
read_as_int!(A);
read_as_int!(A B);
read_as_int!(A B C);
read_as_int!(A B C D);
read_as_int!(A B C D E);
read_as_int!(A B C D E F G H I J K);

macro_rules! hole {
    ($argument:expr) => {
        _
    };
}

/// Calls `cust::sys::$function` and checks its result under its own name.
macro_rules! call {
    ($function:ident($($argument:expr),* $(,)?)) => {{
        let function: unsafe extern "C" fn($(hole!($argument)),*) -> sys::CUresult = sys::$function;
        check(stringify!($function), function.read_as_int()($($argument),*))
    }};
}

/// What of a device is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum DeviceAttribute {
    ComputeCapabilityMajor,
    ComputeCapabilityMinor,
    Multiprocessors,
    L2Bytes,
    SharedBytesPerBlockOptin,
}

impl From<DeviceAttribute> for CUdevice_attribute {
    fn from(attribute: DeviceAttribute) -> Self {
        match attribute {
            DeviceAttribute::ComputeCapabilityMajor => Self::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
            DeviceAttribute::ComputeCapabilityMinor => Self::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            DeviceAttribute::Multiprocessors => Self::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
            DeviceAttribute::L2Bytes => Self::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE,
            DeviceAttribute::SharedBytesPerBlockOptin => {
                Self::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
            }
        }
    }
}

/// What of a loaded kernel is asked for or set.
#[derive(Clone, Copy, Debug)]
pub(super) enum FunctionAttribute {
    MaxThreadsPerBlock,
    Registers,
    LocalBytes,
    StaticSharedBytes,
    MaxDynamicSharedBytes,
}

impl From<FunctionAttribute> for CUfunction_attribute {
    fn from(attribute: FunctionAttribute) -> Self {
        match attribute {
            FunctionAttribute::MaxThreadsPerBlock => Self::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK,
            FunctionAttribute::Registers => Self::CU_FUNC_ATTRIBUTE_NUM_REGS,
            FunctionAttribute::LocalBytes => Self::CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES,
            FunctionAttribute::StaticSharedBytes => Self::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES,
            FunctionAttribute::MaxDynamicSharedBytes => Self::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
        }
    }
}

fn check(call: &'static str, code: u32) -> Result<()> {
    if code == 0 { Ok(()) } else { Err(Error::Driver { call, code, name: error_name(code) }) }
}

/// The driver's name of a result code.
fn error_name(code: u32) -> String {
    let mut name: *const c_char = core::ptr::null();
    // SAFETY: the parameter is an `int` in C, and codes that the binding's enum lacks must reach it too; `name`
    // becomes a static string or stays null.
    let found = unsafe {
        let function = transmute::<
            unsafe extern "C" fn(sys::CUresult, *mut *const c_char) -> sys::CUresult,
            unsafe extern "C" fn(u32, *mut *const c_char) -> u32,
        >(sys::cuGetErrorName);
        function(code, &mut name)
    };
    match (found, name.is_null(), code) {
        // SAFETY: not null, so a static string of the driver.
        (0, false, _) => unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned(),
        (_, _, 34) => "CUDA_ERROR_STUB_LIBRARY: this is the link-time stub, not a driver".to_owned(),
        _ => "a code without a name".to_owned(),
    }
}

fn stream(raw: RawStream) -> sys::CUstream {
    raw.0.cast()
}

/// Initialises the driver; any number of times.
pub(super) fn init() -> Result<()> {
    // SAFETY: no pointers.
    unsafe { call!(cuInit(0)) }
}

/// Driver version as `1000 * major + 10 * minor`.
pub(super) fn version() -> Result<i32> {
    let mut version: c_int = 0;
    // SAFETY: writes one int.
    unsafe { call!(cuDriverGetVersion(&mut version))? };
    Ok(version)
}

pub(super) fn device_count() -> Result<i32> {
    let mut count: c_int = 0;
    // SAFETY: writes one int.
    unsafe { call!(cuDeviceGetCount(&mut count))? };
    Ok(count)
}

pub(super) fn device(ordinal: i32) -> Result<DeviceHandle> {
    let mut device = 0;
    // SAFETY: writes one int.
    unsafe { call!(cuDeviceGet(&mut device, ordinal))? };
    Ok(device)
}

pub(super) fn device_name(device: DeviceHandle) -> Result<String> {
    let mut name = [0 as c_char; 256];
    // SAFETY: writes at most the 256 bytes, the last of them 0.
    unsafe {
        call!(cuDeviceGetName(name.as_mut_ptr(), 256, device))?;
        Ok(CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned())
    }
}

pub(super) fn device_total_mem(device: DeviceHandle) -> Result<usize> {
    let mut bytes = 0;
    // SAFETY: writes one size_t.
    unsafe { call!(cuDeviceTotalMem_v2(&mut bytes, device))? };
    Ok(bytes)
}

pub(super) fn device_attribute(device: DeviceHandle, attribute: DeviceAttribute) -> Result<i32> {
    let mut value: c_int = 0;
    // SAFETY: writes one int.
    unsafe { call!(cuDeviceGetAttribute(&mut value, attribute.into(), device))? };
    Ok(value)
}

pub(super) fn primary_ctx_retain(device: DeviceHandle) -> Result<ContextHandle> {
    let mut context = null_mut();
    // SAFETY: writes one handle.
    unsafe { call!(cuDevicePrimaryCtxRetain(&mut context, device))? };
    Ok(context)
}

/// # Safety
/// Gives back one `primary_ctx_retain` of `device`; nothing of the context is used on its account afterwards.
pub(super) unsafe fn primary_ctx_release(device: DeviceHandle) -> Result<()> {
    // SAFETY: the caller's.
    unsafe { call!(cuDevicePrimaryCtxRelease_v2(device)) }
}

/// The calling thread's context, or null.
pub(super) fn ctx_get_current() -> Result<ContextHandle> {
    let mut context = null_mut();
    // SAFETY: writes one handle.
    unsafe { call!(cuCtxGetCurrent(&mut context))? };
    Ok(context)
}

/// # Safety
/// `context` is alive.
pub(super) unsafe fn ctx_push_current(context: ContextHandle) -> Result<()> {
    // SAFETY: the caller's.
    unsafe { call!(cuCtxPushCurrent_v2(context)) }
}

/// Undoes [`ctx_push_current`] on this thread.
pub(super) fn ctx_pop_current() -> Result<()> {
    let mut context = null_mut();
    // SAFETY: writes one handle.
    unsafe { call!(cuCtxPopCurrent_v2(&mut context)) }
}

/// Free and total bytes of the current context's device.
pub(super) fn mem_get_info() -> Result<(usize, usize)> {
    let (mut free, mut total) = (0, 0);
    // SAFETY: writes two size_t.
    unsafe { call!(cuMemGetInfo_v2(&mut free, &mut total))? };
    Ok((free, total))
}

/// Loads PTX (zero-terminated) or a cubin into the current context. The JIT compiler's message, if there is one,
/// joins the error's name.
///
/// # Safety
/// `image` is PTX text with a zero byte at its end, or a whole cubin.
pub(super) unsafe fn module_load(image: &[u8]) -> Result<ModuleHandle> {
    use sys::CUjit_option::{CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
    let mut log = vec![0u8; LOG_BYTES];
    let mut options = [CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    // The size travels in the pointer itself.
    let mut values = [log.as_mut_ptr().cast::<c_void>(), LOG_BYTES as *mut c_void];
    let mut module = null_mut();
    // SAFETY: the options are a buffer and its size; the image is the caller's.
    let loaded = unsafe {
        call!(cuModuleLoadDataEx(
            &mut module,
            image.as_ptr().cast(),
            2,
            options.as_mut_ptr(),
            values.as_mut_ptr(),
        ))
    };
    loaded.map(|()| module).map_err(|error| match error {
        Error::Driver { call, code, name } => {
            let end = log.iter().position(|&b| b == 0).unwrap_or(log.len());
            let message = String::from_utf8_lossy(&log[..end]);
            match message.trim() {
                "" => Error::Driver { call, code, name },
                message => Error::Driver { call, code, name: format!("{name}: {message}") },
            }
        }
        other => other,
    })
}

/// # Safety
/// `module` is alive and of the current context; no kernel of it runs or is launched again.
pub(super) unsafe fn module_unload(module: ModuleHandle) -> Result<()> {
    // SAFETY: the caller's.
    unsafe { call!(cuModuleUnload(module)) }
}

/// # Safety
/// `module` is alive.
pub(super) unsafe fn module_get_function(module: ModuleHandle, name: &CStr) -> Result<FunctionHandle> {
    let mut function = null_mut();
    // SAFETY: the module is the caller's; the name is zero-terminated.
    unsafe { call!(cuModuleGetFunction(&mut function, module, name.as_ptr()))? };
    Ok(function)
}

/// # Safety
/// The function's module is alive.
pub(super) unsafe fn func_get_attribute(
    function: FunctionHandle,
    attribute: FunctionAttribute,
) -> Result<i32> {
    let mut value: c_int = 0;
    // SAFETY: the caller's; writes one int.
    unsafe { call!(cuFuncGetAttribute(&mut value, attribute.into(), function))? };
    Ok(value)
}

/// # Safety
/// The function's module is alive.
pub(super) unsafe fn func_set_attribute(
    function: FunctionHandle,
    attribute: FunctionAttribute,
    value: i32,
) -> Result<()> {
    // SAFETY: the caller's.
    unsafe { call!(cuFuncSetAttribute(function, attribute.into(), value)) }
}

/// # Safety
/// Function and stream are alive and of the current context; `parameters` point at one value per kernel
/// parameter, of its size; the kernel's own requirements on them hold.
pub(super) unsafe fn launch_kernel(
    function: FunctionHandle,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    on: RawStream,
    parameters: &mut [*mut c_void],
) -> Result<()> {
    // SAFETY: the caller's.
    unsafe {
        call!(cuLaunchKernel(
            function,
            grid[0],
            grid[1],
            grid[2],
            block[0],
            block[1],
            block[2],
            shared_bytes,
            stream(on),
            parameters.as_mut_ptr(),
            null_mut(),
        ))
    }
}

/// `CUlaunchConfig` of CUDA 11.8 and later, which the binding does not have.
#[repr(C)]
struct LaunchConfig {
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    stream: sys::CUstream,
    attributes: *const LaunchAttribute,
    attribute_count: u32,
}

/// `CUlaunchAttribute`: an id and a union of 64 bytes.
#[derive(Clone, Copy)]
#[repr(C)]
struct LaunchAttribute {
    id: u32,
    pad: u32,
    value: [u32; 16],
}

impl LaunchAttribute {
    /// `CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION`: blocks of a cluster along x, y, z. A kernel that names its cluster
    /// (`.reqnctapercluster`) takes no other.
    fn cluster(blocks: [u32; 3]) -> Self {
        let mut value = [0; 16];
        value[..3].copy_from_slice(&blocks.map(|n| n.max(1)));
        Self { id: 4, pad: 0, value }
    }

    /// `CU_LAUNCH_ATTRIBUTE_COOPERATIVE`: all blocks are resident at once, or the launch fails.
    fn cooperative() -> Self {
        let mut value = [0; 16];
        value[0] = 1;
        Self { id: 2, pad: 0, value }
    }

    /// `CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION`: the kernel may start before the one in front of it has
    /// ended.
    fn dependent() -> Self {
        let mut value = [0; 16];
        value[0] = 1;
        Self { id: 6, pad: 0, value }
    }
}

const _: () = assert!(size_of::<LaunchAttribute>() == 72 && size_of::<LaunchConfig>() == 56);

type LaunchKernelEx =
    unsafe extern "C" fn(*const LaunchConfig, FunctionHandle, *mut *mut c_void, *mut *mut c_void) -> u32;

/// `cuLaunchKernelEx`, if the driver has it (11.8 and later).
fn launch_kernel_ex_function() -> Option<LaunchKernelEx> {
    static FUNCTION: OnceLock<Option<LaunchKernelEx>> = OnceLock::new();
    *FUNCTION.get_or_init(|| {
        let mut function = null_mut();
        // SAFETY: a zero-terminated name; writes one pointer.
        let found = unsafe { call!(cuGetProcAddress(c"cuLaunchKernelEx".as_ptr(), &mut function, 11080, 0)) };
        if found.is_err() || function.is_null() {
            return None;
        }
        // SAFETY: the driver's function of that name has this signature.
        Some(unsafe { transmute::<*mut c_void, LaunchKernelEx>(function) })
    })
}

/// What a launch asks for beyond its dimensions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaunchWith {
    /// Blocks of a cluster along x, y, z; zeros for none.
    pub cluster: [u32; 3],
    /// Whether the kernel may start before the one in front of it in the stream has ended.
    pub dependent: bool,
    /// Whether the blocks wait for each other.
    pub cooperative: bool,
}

/// As [`launch_kernel`], with attributes. A driver without `cuLaunchKernelEx` launches in the ordinary way, which is
/// right but for a cooperative launch, an error then: a kernel that needs a cluster names it itself.
///
/// # Safety
/// As [`launch_kernel`]; a dependent kernel waits (`griddepcontrol.wait`) before it touches what the earlier one does.
pub(super) unsafe fn launch_kernel_with(
    function: FunctionHandle,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    with: LaunchWith,
    on: RawStream,
    parameters: &mut [*mut c_void],
) -> Result<()> {
    let has_cluster = with.cluster != [0; 3];
    let launch = match launch_kernel_ex_function() {
        Some(launch) if has_cluster || with.dependent || with.cooperative => launch,
        None if with.cooperative => {
            return Err(Error::unsupported("a cooperative launch", "the driver has no cuLaunchKernelEx"));
        }
        // SAFETY: the caller's.
        _ => return unsafe { launch_kernel(function, grid, block, shared_bytes, on, parameters) },
    };
    let mut attributes = [LaunchAttribute::dependent(); 3];
    let mut count = 0;
    for (wanted, attribute) in [
        (with.dependent, LaunchAttribute::dependent()),
        (has_cluster, LaunchAttribute::cluster(with.cluster)),
        (with.cooperative, LaunchAttribute::cooperative()),
    ] {
        if wanted {
            attributes[count] = attribute;
            count += 1;
        }
    }
    let config = LaunchConfig {
        grid,
        block,
        shared_bytes,
        stream: stream(on),
        attributes: attributes.as_ptr(),
        attribute_count: count as u32,
    };
    // SAFETY: the caller's; the configuration lives until the call returns.
    check("cuLaunchKernelEx", unsafe { launch(&config, function, parameters.as_mut_ptr(), null_mut()) })
}

/// Starts to record the stream's work, of this thread only, into a graph.
///
/// # Safety
/// The stream is alive, is not the legacy default stream and is not being captured.
pub(super) unsafe fn stream_begin_capture(on: RawStream) -> Result<()> {
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    // SAFETY: the caller's.
    unsafe { call!(cuStreamBeginCapture_v2(stream(on), mode)) }
}

/// Ends a capture. The graph is ours.
///
/// # Safety
/// The stream is being captured.
pub(super) unsafe fn stream_end_capture(on: RawStream) -> Result<GraphHandle> {
    let mut graph = null_mut();
    // SAFETY: the caller's; writes one handle.
    unsafe { call!(cuStreamEndCapture(stream(on), &mut graph))? };
    Ok(graph)
}

/// # Safety
/// The graph is alive.
pub(super) unsafe fn graph_instantiate(graph: GraphHandle) -> Result<GraphExecHandle> {
    let mut exec = null_mut();
    // SAFETY: the caller's; writes one handle.
    unsafe { call!(cuGraphInstantiateWithFlags(&mut exec, graph, 0))? };
    Ok(exec)
}

/// Nodes of a graph.
///
/// # Safety
/// The graph is alive.
pub(super) unsafe fn graph_node_count(graph: GraphHandle) -> Result<usize> {
    let mut count = 0;
    // SAFETY: the caller's; a null list asks for the number only.
    unsafe { call!(cuGraphGetNodes(graph, null_mut(), &mut count))? };
    Ok(count)
}

/// # Safety
/// Graph and stream are alive and of the current context; what the graph's kernels use is alive.
pub(super) unsafe fn graph_launch(exec: GraphExecHandle, on: RawStream) -> Result<()> {
    // SAFETY: the caller's.
    unsafe { call!(cuGraphLaunch(exec, stream(on))) }
}

/// # Safety
/// Alive and not used again.
pub(super) unsafe fn graph_exec_destroy(exec: GraphExecHandle) -> Result<()> {
    // SAFETY: the caller's.
    unsafe { call!(cuGraphExecDestroy(exec)) }
}

/// # Safety
/// Alive and not used again.
pub(super) unsafe fn graph_destroy(graph: GraphHandle) -> Result<()> {
    // SAFETY: the caller's.
    unsafe { call!(cuGraphDestroy(graph)) }
}

/// A stream that does not wait for the legacy default stream.
pub(super) fn stream_create() -> Result<RawStream> {
    let mut handle: sys::CUstream = null_mut();
    let flags = sys::CUstream_flags_enum::CU_STREAM_NON_BLOCKING as u32;
    // SAFETY: writes one handle.
    unsafe { call!(cuStreamCreate(&mut handle, flags))? };
    Ok(RawStream(handle.cast()))
}

/// # Safety
/// The stream is alive and ours, and not used again.
pub(super) unsafe fn stream_destroy(on: RawStream) -> Result<()> {
    // SAFETY: the caller's.
    unsafe { call!(cuStreamDestroy_v2(stream(on))) }
}

/// # Safety
/// The stream is alive.
pub(super) unsafe fn stream_synchronize(on: RawStream) -> Result<()> {
    // SAFETY: the caller's.
    unsafe { call!(cuStreamSynchronize(stream(on))) }
}

pub(super) fn event_create() -> Result<EventHandle> {
    let mut event = null_mut();
    // SAFETY: writes one handle.
    unsafe { call!(cuEventCreate(&mut event, 0))? };
    Ok(event)
}

/// # Safety
/// The event is alive and not used again.
pub(super) unsafe fn event_destroy(event: EventHandle) -> Result<()> {
    // SAFETY: the caller's.
    unsafe { call!(cuEventDestroy_v2(event)) }
}

/// # Safety
/// Event and stream are alive and of one context.
pub(super) unsafe fn event_record(event: EventHandle, on: RawStream) -> Result<()> {
    // SAFETY: the caller's.
    unsafe { call!(cuEventRecord(event, stream(on))) }
}

/// # Safety
/// The event is alive.
pub(super) unsafe fn event_synchronize(event: EventHandle) -> Result<()> {
    // SAFETY: the caller's.
    unsafe { call!(cuEventSynchronize(event)) }
}

/// # Safety
/// The events are alive.
pub(super) unsafe fn event_elapsed_ms(start: EventHandle, end: EventHandle) -> Result<f32> {
    let mut ms = 0.0;
    // SAFETY: the caller's; writes one float.
    unsafe { call!(cuEventElapsedTime(&mut ms, start, end))? };
    Ok(ms)
}

/// Device memory of the current context; `bytes` is not 0.
pub(super) fn mem_alloc(bytes: usize) -> Result<DevicePtr> {
    let mut pointer = 0;
    // SAFETY: writes one address.
    unsafe { call!(cuMemAlloc_v2(&mut pointer, bytes))? };
    Ok(DevicePtr(pointer))
}

/// # Safety
/// From [`mem_alloc`] of the current context, and not used again, by no kernel either.
pub(super) unsafe fn mem_free(pointer: DevicePtr) -> Result<()> {
    // SAFETY: the caller's.
    unsafe { call!(cuMemFree_v2(pointer.0)) }
}

/// # Safety
/// `bytes` at `to` are device memory; the stream is alive.
pub(super) unsafe fn memset_d8(to: DevicePtr, value: u8, bytes: usize, on: RawStream) -> Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    // SAFETY: the caller's.
    unsafe { call!(cuMemsetD8Async(to.0, value, bytes, stream(on))) }
}

/// # Safety
/// `words` 4-byte words at `to` are device memory, aligned; the stream is alive.
pub(super) unsafe fn memset_d32(to: DevicePtr, value: u32, words: usize, on: RawStream) -> Result<()> {
    if words == 0 {
        return Ok(());
    }
    // SAFETY: the caller's.
    unsafe { call!(cuMemsetD32Async(to.0, value, words, stream(on))) }
}

/// # Safety
/// `from.len()` bytes at `to` are device memory; `from` lives until the stream has got there.
pub(super) unsafe fn memcpy_htod(to: DevicePtr, from: &[u8], on: RawStream) -> Result<()> {
    if from.is_empty() {
        return Ok(());
    }
    // SAFETY: the caller's.
    unsafe { call!(cuMemcpyHtoDAsync_v2(to.0, from.as_ptr().cast(), from.len(), stream(on))) }
}

/// # Safety
/// `to.len()` bytes at `from` are device memory; `to` lives, untouched, until the stream has got there.
pub(super) unsafe fn memcpy_dtoh(to: &mut [u8], from: DevicePtr, on: RawStream) -> Result<()> {
    if to.is_empty() {
        return Ok(());
    }
    // SAFETY: the caller's.
    unsafe { call!(cuMemcpyDtoHAsync_v2(to.as_mut_ptr().cast(), from.0, to.len(), stream(on))) }
}

/// # Safety
/// `bytes` at both are device memory and do not overlap.
pub(super) unsafe fn memcpy_dtod(to: DevicePtr, from: DevicePtr, bytes: usize, on: RawStream) -> Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    // SAFETY: the caller's.
    unsafe { call!(cuMemcpyDtoDAsync_v2(to.0, from.0, bytes, stream(on))) }
}
