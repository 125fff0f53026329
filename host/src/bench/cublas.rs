//! cuBLAS, loaded at run time: the dense bf16 rate that grouped GEMMs are measured against. Nothing else uses it, and
//! nothing links it.

use core::ffi::{c_int, c_void};

use libloading::{Library, Symbol};

use crate::cuda::{DevicePtr, RawStream};
use crate::{Error, Result};

/// Names tried, in this order, after `MEGAMOE_CUBLAS`.
const NAMES: [&str; 4] = ["libcublas.so.13", "libcublas.so.12", "libcublas.so", "libcublas.so.11"];
/// Environment variable with the path of the library.
pub const LIBRARY_ENV: &str = "MEGAMOE_CUBLAS";

// Values of the enums in `cublas_api.h` and `library_types.h`.
const OP_N: c_int = 0;
const OP_T: c_int = 1;
const CUDA_R_16BF: c_int = 14;
const COMPUTE_32F: c_int = 68;
const GEMM_DEFAULT: c_int = -1;

type Create = unsafe extern "C" fn(*mut *mut c_void) -> c_int;
type Destroy = unsafe extern "C" fn(*mut c_void) -> c_int;
type SetStream = unsafe extern "C" fn(*mut c_void, *mut c_void) -> c_int;
type GemmEx = unsafe extern "C" fn(
    *mut c_void,
    c_int,
    c_int,
    c_int,
    c_int,
    c_int,
    *const c_void,
    *const c_void,
    c_int,
    c_int,
    *const c_void,
    c_int,
    c_int,
    *const c_void,
    *mut c_void,
    c_int,
    c_int,
    c_int,
    c_int,
) -> c_int;

/// A cuBLAS handle.
pub struct Cublas {
    handle: *mut c_void,
    library: Library,
}

impl Cublas {
    /// Loads the library and makes a handle in the current context.
    pub fn load() -> Result<Cublas> {
        let named = std::env::var(LIBRARY_ENV).ok();
        let mut reason = String::new();
        for name in named.iter().map(String::as_str).chain(NAMES) {
            // SAFETY: cuBLAS has no load-time code that asks anything of us.
            match unsafe { Library::new(name) } {
                Ok(library) => return Cublas::of(library),
                Err(error) => reason = error.to_string(),
            }
        }
        Err(Error::unsupported("cuBLAS", format!("{reason}; {LIBRARY_ENV} may name the file")))
    }

    fn of(library: Library) -> Result<Cublas> {
        let mut handle = core::ptr::null_mut();
        // SAFETY: the function of that name has this signature; writes one handle.
        unsafe { check("cublasCreate_v2", symbol::<Create>(&library, b"cublasCreate_v2\0")?(&mut handle))? };
        Ok(Cublas { handle, library })
    }

    /// `c[tokens][rows] = x[tokens][k] . w[rows][k]`, all bf16, f32 accumulation.
    ///
    /// # Safety
    /// The pointers are device memory of these shapes; the stream is alive and of the context that was current when
    /// the handle was made.
    #[allow(clippy::too_many_arguments)]
    pub unsafe fn gemm_bf16(
        &self,
        stream: RawStream,
        rows: usize,
        tokens: usize,
        k: usize,
        w: DevicePtr,
        x: DevicePtr,
        c: DevicePtr,
    ) -> Result<()> {
        let (alpha, beta) = (1.0f32, 0.0f32);
        let (rows, tokens, k) = (rows as c_int, tokens as c_int, k as c_int);
        // SAFETY: signatures as in cublas_api.h; the rest is the caller's. Column-major: w is k x rows, transposed.
        unsafe {
            let set_stream = symbol::<SetStream>(&self.library, b"cublasSetStream_v2\0")?;
            check("cublasSetStream_v2", set_stream(self.handle, stream.0))?;
            let gemm = symbol::<GemmEx>(&self.library, b"cublasGemmEx\0")?;
            check(
                "cublasGemmEx",
                gemm(
                    self.handle,
                    OP_T,
                    OP_N,
                    rows,
                    tokens,
                    k,
                    (&raw const alpha).cast(),
                    w.0 as *const c_void,
                    CUDA_R_16BF,
                    k,
                    x.0 as *const c_void,
                    CUDA_R_16BF,
                    k,
                    (&raw const beta).cast(),
                    c.0 as *mut c_void,
                    CUDA_R_16BF,
                    rows,
                    COMPUTE_32F,
                    GEMM_DEFAULT,
                ),
            )
        }
    }
}

impl Drop for Cublas {
    fn drop(&mut self) {
        if let Ok(destroy) = symbol::<Destroy>(&self.library, b"cublasDestroy_v2\0") {
            // SAFETY: ours, not used again.
            unsafe { destroy(self.handle) };
        }
    }
}

fn symbol<'l, F>(library: &'l Library, name: &[u8]) -> Result<Symbol<'l, F>> {
    // SAFETY: the caller names the function's own type.
    unsafe { library.get(name) }.map_err(|e| Error::unsupported("cuBLAS", e.to_string()))
}

fn check(call: &'static str, code: c_int) -> Result<()> {
    match code {
        0 => Ok(()),
        code => Err(Error::Driver { call, code: code as u32, name: "a cublasStatus_t".to_owned() }),
    }
}
