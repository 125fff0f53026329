//! What the CUDA driver says about this machine, through `dlopen`, so that xtask builds and runs without CUDA.

use std::ffi::{CStr, c_char, c_int};

use libloading::{Library, Symbol};

/// The driver's file.
const LIBRARY: &str = "libcuda.so.1";

/// The driver.
pub struct Driver {
    /// Highest CUDA version that it supports, as (major, minor).
    pub cuda: (c_int, c_int),
    /// Its GPUs; or why it shows none.
    pub gpus: Result<Vec<Gpu>, String>,
}

/// A GPU.
pub struct Gpu {
    /// Name.
    pub name: String,
    /// Compute capability as (major, minor).
    pub capability: (c_int, c_int),
    /// Memory in bytes.
    pub memory: usize,
}

impl Gpu {
    /// The architecture whose kernels run on it, as in kernels/ptx.
    pub fn arch(&self) -> Option<cuda_builder::Arch> {
        match self.capability {
            (9, 0) => Some(cuda_builder::Arch::Sm90a),
            (10, 0) => Some(cuda_builder::Arch::Sm100a),
            _ => None,
        }
    }
}

/// Whether programs built with the feature `cuda` can start here.
pub fn is_installed() -> bool {
    open().is_ok()
}

/// The first GPU that there are kernels for.
pub fn usable_gpu() -> Option<Gpu> {
    probe().ok()?.gpus.ok()?.into_iter().find(|gpu| gpu.arch().is_some())
}

fn open() -> Result<Library, String> {
    // SAFETY: the driver's initialisers have no requirements.
    unsafe { Library::new(LIBRARY) }.map_err(|error| {
        let reason = std::error::Error::source(&error).map(ToString::to_string);
        format!("cannot be loaded: {}", reason.unwrap_or_else(|| error.to_string()))
    })
}

/// Asks the driver; the error says why there is none.
pub fn probe() -> Result<Driver, String> {
    let library = open()?;
    let mut version = 0;
    // SAFETY: the signature of cuDriverGetVersion; it writes one int and needs no initialisation.
    let code = unsafe {
        symbol::<unsafe extern "C" fn(*mut c_int) -> c_int>(&library, b"cuDriverGetVersion\0")?(&mut version)
    };
    check("cuDriverGetVersion", code)?;
    Ok(Driver { cuda: (version / 1000, version % 1000 / 10), gpus: gpus(&library) })
}

fn gpus(library: &Library) -> Result<Vec<Gpu>, String> {
    // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR.
    const MAJOR: c_int = 75;
    const MINOR: c_int = 76;
    // SAFETY: the signatures are the driver API's; each call writes what its pointer points at, the name at most
    // 256 bytes with a zero at the end.
    unsafe {
        let init: Symbol<'_, unsafe extern "C" fn(u32) -> c_int> = symbol(library, b"cuInit\0")?;
        let count: Symbol<'_, unsafe extern "C" fn(*mut c_int) -> c_int> =
            symbol(library, b"cuDeviceGetCount\0")?;
        let get: Symbol<'_, unsafe extern "C" fn(*mut c_int, c_int) -> c_int> =
            symbol(library, b"cuDeviceGet\0")?;
        let name: Symbol<'_, unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int> =
            symbol(library, b"cuDeviceGetName\0")?;
        let attribute: Symbol<'_, unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int> =
            symbol(library, b"cuDeviceGetAttribute\0")?;
        let memory: Symbol<'_, unsafe extern "C" fn(*mut usize, c_int) -> c_int> =
            symbol(library, b"cuDeviceTotalMem_v2\0")?;
        check("cuInit", init(0))?;
        let mut n = 0;
        check("cuDeviceGetCount", count(&mut n))?;
        (0..n)
            .map(|ordinal| {
                let (mut device, mut major, mut minor, mut bytes) = (0, 0, 0, 0);
                let mut text = [0 as c_char; 256];
                check("cuDeviceGet", get(&mut device, ordinal))?;
                check("cuDeviceGetName", name(text.as_mut_ptr(), 256, device))?;
                check("cuDeviceGetAttribute", attribute(&mut major, MAJOR, device))?;
                check("cuDeviceGetAttribute", attribute(&mut minor, MINOR, device))?;
                check("cuDeviceTotalMem_v2", memory(&mut bytes, device))?;
                let name = CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned();
                Ok(Gpu { name, capability: (major, minor), memory: bytes })
            })
            .collect()
    }
}

/// # Safety
/// `T` is the function's type.
unsafe fn symbol<'a, T>(library: &'a Library, name: &[u8]) -> Result<Symbol<'a, T>, String> {
    // SAFETY: the caller's.
    unsafe { library.get(name) }.map_err(|e| e.to_string())
}

fn check(call: &str, code: c_int) -> Result<(), String> {
    if code == 0 { Ok(()) } else { Err(format!("{call} failed with CUDA error {code}")) }
}
