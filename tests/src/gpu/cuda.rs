//! A [`Device`](super::Device) on a card.

use std::path::Path;
use std::sync::Mutex;

use kernels::launch::{ArgType, Dims, Launch};
use megamoe::cuda::{Args, Context, Device, DeviceBuffer, DevicePtr, Kernels, Module, Stream};

use super::outputs::POISON;
use super::{Unavailable, Value};

/// Environment variable that names a PTX or cubin file to test in place of the PTX that is built in.
pub const IMAGE_ENV: &str = "MEGAMOE_KERNEL_IMAGE";

/// Bytes of guard zone on each side of a buffer.
const GUARD: usize = 256;
/// What the guards of inputs hold: NaN as f32 and as bf16, so that a stray read shows.
const INPUT_GUARD: u8 = 0xff;

/// A card with the kernels loaded.
pub struct CudaDevice {
    /// The context of the first supported device.
    pub context: Context,
    /// Its kernels.
    pub kernels: Kernels,
    /// The stream that everything runs on.
    pub stream: Stream,
    description: String,
    multiprocessors: u32,
    /// One launch at a time: the harness may use threads.
    busy: Mutex<()>,
}

impl CudaDevice {
    /// The first device that there are kernels for.
    pub fn open() -> Result<CudaDevice, Unavailable> {
        let devices = Device::all().map_err(|e| Unavailable::Absent(format!("no CUDA driver: {e}")))?;
        let mut reason = "no CUDA device".to_owned();
        for device in devices {
            match device.arch() {
                Ok(_) => return Self::on(device).map_err(|e| Unavailable::Broken(e.to_string())),
                Err(e) => reason = e.to_string(),
            }
        }
        Err(Unavailable::Absent(reason))
    }

    fn on(device: Device) -> megamoe::Result<CudaDevice> {
        let context = Context::primary(device)?;
        let (kernels, source) = load(&context, device)?;
        let (major, minor) = Device::driver_version()?;
        let description = format!(
            "{}, compute capability {:?}, {} SMs, {} MiB; driver for CUDA {major}.{minor}; {source}",
            device.name()?,
            device.compute_capability()?,
            device.multiprocessors()?,
            device.total_memory()? >> 20,
        );
        Ok(CudaDevice {
            stream: Stream::new(&context)?,
            multiprocessors: device.multiprocessors()?,
            context,
            kernels,
            description,
            busy: Mutex::new(()),
        })
    }
}

fn load(context: &Context, device: Device) -> megamoe::Result<(Kernels, String)> {
    let arch = device.arch()?;
    let Some(path) = std::env::var_os(IMAGE_ENV).filter(|v| !v.is_empty()) else {
        return Ok((Kernels::load(context)?, format!("built-in PTX for {}", arch.name())));
    };
    let path = Path::new(&path);
    let source = path.display().to_string();
    let image =
        std::fs::read(path).map_err(|source| megamoe::Error::Io { path: path.to_path_buf(), source })?;
    if path.extension().is_some_and(|e| e == "cubin") {
        // SAFETY: a file that `cargo xtask dist` had ptxas write.
        let module = unsafe { Module::from_cubin(context, &image)? };
        return Ok((Kernels::from_module(module, arch), source));
    }
    Ok((Kernels::from_ptx(context, arch, &String::from_utf8_lossy(&image))?, source))
}

impl super::Device for CudaDevice {
    fn describe(&self) -> String {
        self.description.clone()
    }

    fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }

    fn max_elements(&self) -> usize {
        usize::MAX
    }

    fn has(&self, launch: &Launch) -> bool {
        self.context.device().arch().is_ok_and(|arch| launch.archs.contains(&arch))
    }

    fn launch(&self, launch: &'static Launch, dims: Dims, values: &mut [Value<'_>]) -> Result<(), String> {
        let _alone = self.busy.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.launch_checked(launch, dims, values).map_err(|e| e.to_string())?.map_or(Ok(()), Err)
    }
}

/// A buffer between guard zones.
struct Guarded {
    buffer: DeviceBuffer<u8>,
    len: usize,
}

impl Guarded {
    fn new(stream: &Stream, bytes: &[u8], guard: u8) -> megamoe::Result<Guarded> {
        let mut buffer = DeviceBuffer::filled(stream, bytes.len() + 2 * GUARD, guard)?;
        buffer.copy_from_host_at(stream, GUARD, bytes)?;
        Ok(Guarded { buffer, len: bytes.len() })
    }

    fn ptr(&self) -> DevicePtr {
        self.buffer.ptr().byte_add(GUARD as u64)
    }

    /// Copies the contents back; whether the guards are intact.
    fn read(&self, stream: &Stream, bytes: &mut [u8], guard: u8) -> megamoe::Result<bool> {
        self.buffer.copy_to_host_at(stream, GUARD, bytes)?;
        let mut guards = [0; 2 * GUARD];
        self.buffer.copy_to_host_at(stream, 0, &mut guards[..GUARD])?;
        self.buffer.copy_to_host_at(stream, GUARD + self.len, &mut guards[GUARD..])?;
        Ok(guards.iter().all(|&b| b == guard))
    }
}

impl CudaDevice {
    /// The inner error says that the kernel wrote outside an output.
    fn launch_checked(
        &self,
        launch: &'static Launch,
        dims: Dims,
        values: &mut [Value<'_>],
    ) -> megamoe::Result<Option<String>> {
        let stream = &self.stream;
        let kernel = self.kernels.get(launch)?;
        let mut memory = Vec::new();
        let mut args = Args::new(launch);
        for (arg, value) in launch.args.iter().zip(values.iter()) {
            let ptr = match value {
                Value::In(bytes) => {
                    memory.push(Some(Guarded::new(stream, bytes, INPUT_GUARD)?));
                    memory.last().and_then(Option::as_ref).map_or(DevicePtr::NULL, Guarded::ptr)
                }
                Value::Out(bytes) => {
                    memory.push(Some(Guarded::new(stream, bytes, POISON)?));
                    memory.last().and_then(Option::as_ref).map_or(DevicePtr::NULL, Guarded::ptr)
                }
                _ => {
                    memory.push(None);
                    DevicePtr::NULL
                }
            };
            args = match (value, arg.ty) {
                (Value::U32(v), _) => args.u32(arg.name, *v),
                (Value::F32(v), _) => args.f32(arg.name, *v),
                (Value::Null, ArgType::MutPtr) | (Value::Out(_), _) => args.output(arg.name, ptr),
                (Value::Null | Value::In(_), _) => args.input(arg.name, ptr),
            };
        }
        // SAFETY: the stream is of the kernel's context; the cases make buffers of the table's shapes; all of it
        // lives until the synchronisation below.
        unsafe { kernel.launch(stream, dims, args)? };
        stream.synchronize()?;
        let mut stray = None;
        for ((arg, value), guarded) in launch.args.iter().zip(values).zip(&memory) {
            if let (Value::Out(bytes), Some(guarded)) = (value, guarded)
                && !guarded.read(stream, bytes, POISON)?
            {
                stray.get_or_insert(format!("a write outside `{}`", arg.name));
            }
        }
        Ok(stray)
    }
}
