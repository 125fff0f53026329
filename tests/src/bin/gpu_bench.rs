//! Speed of the device kernels on a card: one aligned line per shape, each gated on a bit-exact run of that shape.
//!
//! Method: inputs and outputs rotate through enough copies to exceed L2 twice over, so nothing is read from cache.
//! One sample is a batch of launches between two CUDA events, divided by their number; the time given is the median
//! of the samples, with the quartiles' distance beside it. Bytes are those that the kernel must read and write, once
//! each. The bandwidth to compare with is that of a device-to-device copy in the same run, reads and writes counted.

use std::process::ExitCode;

#[cfg(not(feature = "cuda"))]
fn main() -> ExitCode {
    eprintln!("error: built without the feature `cuda`; see docs/development.md");
    ExitCode::from(2)
}

#[cfg(feature = "cuda")]
fn main() -> ExitCode {
    match bench::run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

#[cfg(feature = "cuda")]
mod bench {
    use std::time::{Duration, Instant};

    use kernels::launch::{ArgType, Dims, Launch};
    use megamoe::cuda::{Args, DeviceBuffer, DevicePtr, Event, Kernel, Stream};
    use megamoe_tests::gpu::cuda::CudaDevice;
    use megamoe_tests::gpu::data::Data;
    use megamoe_tests::gpu::outputs::Scale;
    use megamoe_tests::gpu::{Device, Unavailable};
    use megamoe_tests::gpu::{quantize, swiglu};
    use nvfp4::{BLOCK, layout};

    /// Hidden sizes of DeepSeek-V4-Flash and -Pro.
    const HIDDEN: [usize; 2] = [4096, 7168];
    /// Their experts' intermediate sizes.
    const INTERMEDIATE: [usize; 2] = [2048, 3072];
    /// Tokens (quantize) and slots (SwiGLU).
    const ROWS: [usize; 7] = [1, 16, 128, 1024, 4096, 8192, 32768];

    const SAMPLES: usize = 31;
    const WARM_UP: Duration = Duration::from_millis(50);
    const SAMPLE: Duration = Duration::from_micros(400);
    const MAX_BATCH: usize = 64;
    /// DeepSeek-V4's clamp.
    const LIMIT: f32 = 10.0;

    type Result<T> = std::result::Result<T, String>;

    /// Median and quartile distance of the time of one launch, in microseconds.
    struct Time {
        median: f64,
        iqr: f64,
    }

    /// One argument's memory, as many times as there are sets.
    struct Slab {
        buffer: DeviceBuffer<u8>,
        stride: usize,
    }

    impl Slab {
        fn new(stream: &Stream, one: &[u8], sets: usize) -> megamoe::Result<Slab> {
            let stride = one.len().next_multiple_of(256);
            let mut all = vec![0; stride * sets];
            all.chunks_exact_mut(stride).for_each(|set| set[..one.len()].copy_from_slice(one));
            Ok(Slab { buffer: DeviceBuffer::from_slice(stream, &all)?, stride })
        }

        fn ptr(&self, set: usize) -> DevicePtr {
            self.buffer.ptr().byte_add((set * self.stride) as u64)
        }
    }

    pub fn run() -> Result<bool> {
        let device = CudaDevice::open().map_err(|unavailable| match unavailable {
            Unavailable::Absent(reason) | Unavailable::Broken(reason) => reason,
        })?;
        println!("{}", device.describe());
        let l2 = device.context.device().l2_bytes().map_err(text)?;
        let copy = copy_bandwidth(&device)?;
        println!("L2 {} MiB; device-to-device copy {copy:.0} GB/s (read + written)", l2 >> 20);
        println!(
            "{:<24} {:>6} {:>6} {:>9} {:>10} {:>8} {:>8} {:>7}  exact",
            "kernel", "rows", "k", "scale", "median us", "IQR us", "GB/s", "of copy"
        );
        let mut all_exact = true;
        for k in HIDDEN {
            for rows in ROWS {
                let problem = quantize::Problem::new(rows, k, Data::Normal, Scale::Row);
                let exact = problem.check(&device);
                let x = problem.input();
                let bytes = rows * k * 2 + output_bytes(rows, k);
                let line = Line { launch: quantize::KERNEL, rows, k, scale: "row", bytes, l2 };
                all_exact &=
                    line.measure(&device, copy, &exact, &[bytemuck::cast_slice(&x)], problem.dims(&device))?;
            }
        }
        let bound = nvfp4::swiglu::bound_scale(LIMIT);
        for i in INTERMEDIATE {
            for rows in ROWS {
                let problem = swiglu::Problem::new(rows, i, Data::Normal, Scale::Constant(bound), LIMIT);
                let exact = problem.check(&device);
                let inputs = problem.inputs();
                let bytes = rows * i * 8 + rows * 8 + output_bytes(rows, i);
                let line = Line { launch: swiglu::KERNEL, rows, k: i, scale: "bound", bytes, l2 };
                let inputs = [&inputs.gate, &inputs.up, &inputs.alpha_gate, &inputs.alpha_up]
                    .map(|v| bytemuck::cast_slice(v));
                all_exact &= line.measure(&device, copy, &exact, &inputs, problem.dims(&device))?;
            }
        }
        Ok(all_exact)
    }

    fn text(error: megamoe::Error) -> String {
        error.to_string()
    }

    fn output_bytes(rows: usize, k: usize) -> usize {
        rows * k / 2 + layout::sf_len(rows, k / BLOCK) + rows * 4
    }

    struct Line {
        launch: &'static Launch,
        rows: usize,
        k: usize,
        scale: &'static str,
        bytes: usize,
        l2: usize,
    }

    impl Line {
        /// Times the shape and prints its line; whether the outputs were exact. A wrong kernel is not timed.
        fn measure(
            &self,
            device: &CudaDevice,
            copy: f64,
            exact: &std::result::Result<(), String>,
            inputs: &[&[u8]],
            dims: Dims,
        ) -> Result<bool> {
            let head = format!("{:<24} {:>6} {:>6} {:>9}", self.launch.name, self.rows, self.k, self.scale);
            if let Err(error) = exact {
                println!("{head} {:>10} {:>8} {:>8} {:>7}  NO: {error}", "-", "-", "-", "-");
                return Ok(false);
            }
            let time = self.time(device, inputs, dims).map_err(text)?;
            let rate = self.bytes as f64 / time.median / 1e3;
            println!(
                "{head} {:>10.2} {:>8.2} {rate:>8.0} {:>6.0}%  yes",
                time.median,
                time.iqr,
                100.0 * rate / copy
            );
            Ok(true)
        }

        fn time(&self, device: &CudaDevice, inputs: &[&[u8]], dims: Dims) -> megamoe::Result<Time> {
            let stream = &device.stream;
            let kernel = device.kernels.get(self.launch)?;
            // More than twice L2 between two uses of one set.
            let sets = (2 * self.l2).div_ceil(self.bytes).max(2);
            let slabs = self.slabs(stream, inputs, sets)?;
            let mut next = 0;
            sample(device, || {
                next = (next + 1) % sets;
                self.launch(&kernel, stream, dims, &slabs, next)
            })
        }

        /// One slab per pointer of the table, in its order.
        fn slabs(&self, stream: &Stream, inputs: &[&[u8]], sets: usize) -> megamoe::Result<Vec<Slab>> {
            let (rows, k) = (self.rows, self.k);
            let outputs = [rows * k / 2, layout::sf_len(rows, k / BLOCK), rows * 4].map(|len| vec![0; len]);
            let count = (rows as u32).to_le_bytes();
            let constant = nvfp4::swiglu::bound_scale(LIMIT).to_le_bytes();
            let outputs = outputs.iter().map(Vec::as_slice);
            let all = inputs.iter().copied().chain(outputs).chain([&count[..], &constant[..]]);
            all.map(|one| Slab::new(stream, one, sets)).collect()
        }

        fn launch(
            &self,
            kernel: &Kernel,
            stream: &Stream,
            dims: Dims,
            slabs: &[Slab],
            set: usize,
        ) -> megamoe::Result<()> {
            let mut pointers = slabs.iter().map(|slab| slab.ptr(set));
            let mut pointer = || pointers.next().unwrap_or(DevicePtr::NULL);
            let args = self.launch.args.iter().fold(Args::new(self.launch), |args, arg| {
                match (arg.ty, arg.name) {
                    // Row-dynamic: a null pointer.
                    (ArgType::ConstPtr, "constant_scale") if self.scale == "row" => {
                        args.input(arg.name, DevicePtr::NULL)
                    }
                    (ArgType::ConstPtr, _) => args.input(arg.name, pointer()),
                    (ArgType::MutPtr, _) => args.output(arg.name, pointer()),
                    (ArgType::U32, "max_rows") => args.u32(arg.name, self.rows as u32),
                    (ArgType::U32, _) => args.u32(arg.name, self.k as u32),
                    (ArgType::F32, _) => args.f32(arg.name, LIMIT),
                }
            });
            // SAFETY: buffers of the table's shapes, which live until the timing has synchronised.
            unsafe { kernel.launch(stream, dims, args) }
        }
    }

    /// Bytes per nanosecond that a copy of 1 GiB reads and writes.
    fn copy_bandwidth(device: &CudaDevice) -> Result<f64> {
        const BYTES: usize = 1 << 30;
        let measure = || -> megamoe::Result<f64> {
            let stream = &device.stream;
            let from = DeviceBuffer::<u8>::filled(stream, BYTES, 1)?;
            let mut to = DeviceBuffer::<u8>::filled(stream, BYTES, 0)?;
            let time = sample(device, || to.copy_from_device(stream, &from))?;
            Ok(2.0 * BYTES as f64 / time.median / 1e3)
        };
        measure().map_err(text)
    }

    /// Times `launch` by events, in batches of about [`SAMPLE`].
    fn sample(device: &CudaDevice, mut launch: impl FnMut() -> megamoe::Result<()>) -> megamoe::Result<Time> {
        let stream = &device.stream;
        let (start, end) = (Event::new(&device.context)?, Event::new(&device.context)?);
        let mut batch = |n: usize| -> megamoe::Result<f64> {
            start.record(stream)?;
            for _ in 0..n {
                launch()?;
            }
            end.record(stream)?;
            Ok(f64::from(end.elapsed_ms_since(&start)?) * 1e3 / n as f64)
        };
        let began = Instant::now();
        let mut one = batch(1)?;
        while began.elapsed() < WARM_UP {
            one = batch(8)?;
        }
        let n = ((SAMPLE.as_secs_f64() * 1e6 / one) as usize).clamp(1, MAX_BATCH);
        let mut times = (0..SAMPLES).map(|_| batch(n)).collect::<megamoe::Result<Vec<f64>>>()?;
        times.sort_by(f64::total_cmp);
        Ok(Time { median: times[SAMPLES / 2], iqr: times[SAMPLES * 3 / 4] - times[SAMPLES / 4] })
    }
}
