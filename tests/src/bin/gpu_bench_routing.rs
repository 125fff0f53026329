//! Speed of the kernels of routing, preparation and combination on a card: one aligned line per launch, each gated on an
//! exact run of that shape.
//!
//! Method as in `gpu_bench`: buffers rotate through copies that exceed L2 twice over; the time is the median of samples
//! of back-to-back launches between two events. Bytes are those that must move, once each. Every grid of the list is a
//! line, so that the launch can be chosen.

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
    use std::sync::Mutex;
    use std::time::{Duration, Instant};

    use kernels::launch::{Dims, Launch};
    use megamoe::cuda::{Args, DeviceBuffer, DevicePtr, Event, Stream};
    use megamoe_tests::gpu::cuda::CudaDevice;
    use megamoe_tests::gpu::data::Data;
    use megamoe_tests::gpu::routing::{combine, dense, logits, prepare, select, slots};
    use megamoe_tests::gpu::{Check, Device, Unavailable, Value};
    use nvfp4::routing::Scoring;

    const SAMPLES: usize = 21;
    const WARM_UP: Duration = Duration::from_millis(30);
    const SAMPLE: Duration = Duration::from_micros(400);
    const MAX_BATCH: usize = 64;
    /// Memory of all copies of the buffers.
    const MAX_BYTES: usize = 8 << 30;

    type Result<T> = std::result::Result<T, String>;

    /// An argument as it was launched.
    enum Recorded {
        In(Vec<u8>),
        Out(Vec<u8>),
        Null,
        U32(u32),
        F32(f32),
    }

    /// A launch as it was made.
    struct Made {
        launch: &'static Launch,
        dims: Dims,
        values: Vec<Recorded>,
    }

    /// Launches on the card and remembers how.
    struct Recorder<'a> {
        card: &'a CudaDevice,
        made: Mutex<Vec<Made>>,
    }

    impl Device for Recorder<'_> {
        fn describe(&self) -> String {
            self.card.describe()
        }

        fn multiprocessors(&self) -> u32 {
            self.card.multiprocessors()
        }

        fn max_elements(&self) -> usize {
            usize::MAX
        }

        fn has(&self, launch: &Launch) -> bool {
            self.card.has(launch)
        }

        fn launch(&self, launch: &'static Launch, dims: Dims, values: &mut [Value<'_>]) -> Check {
            let recorded = values
                .iter()
                .map(|value| match value {
                    Value::In(bytes) => Recorded::In(bytes.to_vec()),
                    Value::Out(bytes) => Recorded::Out(bytes.to_vec()),
                    Value::Null => Recorded::Null,
                    Value::U32(v) => Recorded::U32(*v),
                    Value::F32(v) => Recorded::F32(*v),
                })
                .collect();
            self.made.lock().map_err(|e| e.to_string())?.push(Made { launch, dims, values: recorded });
            self.card.launch(launch, dims, values)
        }
    }

    /// What a launch has to do.
    #[derive(Clone, Copy, Default)]
    struct Work {
        bytes: usize,
        flops: f64,
    }

    struct Bench {
        card: CudaDevice,
        l2: usize,
        all_exact: bool,
    }

    pub fn run() -> Result<bool> {
        let card = CudaDevice::open().map_err(|unavailable| match unavailable {
            Unavailable::Absent(reason) | Unavailable::Broken(reason) => reason,
        })?;
        println!("{}", card.describe());
        let l2 = card.context.device().l2_bytes().map_err(|e| e.to_string())?;
        let mut bench = Bench { card, l2, all_exact: true };
        println!(
            "{:<24} {:<34} {:>6} {:>10} {:>8} {:>8} {:>8}  exact",
            "kernel", "shape", "grid", "median us", "IQR us", "GB/s", "TFLOP/s"
        );
        bench.logits()?;
        bench.select()?;
        bench.slots()?;
        bench.prepare()?;
        bench.combine()?;
        bench.dense()?;
        Ok(bench.all_exact)
    }

    impl Bench {
        /// Runs and checks, then times every launch that was made.
        fn line(&mut self, shape: &str, work: Work, check: impl FnOnce(&dyn Device) -> Check) -> Result<()> {
            let recorder = Recorder { card: &self.card, made: Mutex::new(Vec::new()) };
            let exact = check(&recorder);
            self.all_exact &= exact.is_ok();
            for made in recorder.made.into_inner().map_err(|e| e.to_string())? {
                let head = format!("{:<24} {shape:<34} {:>6}", made.launch.name, made.dims.grid[0]);
                if let Err(error) = &exact {
                    println!("{head} {:>10} {:>8} {:>8} {:>8}  NO: {error}", "-", "-", "-", "-");
                    continue;
                }
                let [median, iqr] = time(&self.card, &made, self.l2).map_err(|e| e.to_string())?;
                println!(
                    "{head} {median:>10.2} {iqr:>8.2} {:>8.0} {:>8.1}  yes",
                    work.bytes as f64 / median / 1e3,
                    work.flops / median / 1e6
                );
            }
            Ok(())
        }

        fn logits(&mut self) -> Result<()> {
            for (experts, hidden) in [(256, 4096), (384, 7168)] {
                for tokens in [1, 4, 8, 16, 64, 128, 256, 1024, 8192] {
                    for grid in [132, 264, 396] {
                        let p = logits::Problem {
                            checked: 16,
                            ..logits::Problem::new(tokens, experts, hidden, Data::Normal)
                        };
                        let bytes = tokens * hidden * 2 + experts * hidden * 4 + tokens * experts * 4;
                        let flops = 2.0 * (tokens * hidden * experts) as f64;
                        let shape = format!("T={tokens} E={experts} H={hidden}");
                        self.line(&shape, Work { bytes, flops }, |device| p.check(device, &[grid]))?;
                    }
                }
            }
            Ok(())
        }

        fn select(&mut self) -> Result<()> {
            for experts in [256, 384] {
                for tokens in [1, 64, 1024, 8192] {
                    for grid in [tokens.min(1056) as u32, tokens.min(2112) as u32] {
                        let p = select::Problem {
                            max_tokens: tokens,
                            tokens,
                            experts,
                            top_k: 6,
                            scoring: Scoring::SqrtSoftplus,
                            bias: true,
                            hash: false,
                            normalise: true,
                        };
                        let work = Work { bytes: tokens * (experts * 4 + 48), flops: 0.0 };
                        let shape = format!("T={tokens} E={experts} top-6");
                        self.line(&shape, work, |device| p.check(device, grid))?;
                    }
                }
            }
            Ok(())
        }

        fn slots(&mut self) -> Result<()> {
            for (experts, local, tile) in [(256, 256, 8), (384, 48, 64), (384, 384, 128)] {
                for tokens in [1, 8, 64, 256, 682, 1024, 8192] {
                    for chunks in [None, Some(16), Some(32), Some(64)] {
                        if (tokens > 1024 && chunks.is_none()) || (tokens < 256 && chunks.is_some()) {
                            continue;
                        }
                        let p = slots::Problem {
                            max_tokens: tokens,
                            tokens,
                            top_k: 6,
                            experts,
                            first: 0,
                            local,
                            shared: true,
                            tile,
                            ids: slots::Ids::Uniform,
                            non_finite: false,
                        };
                        let work = Work { bytes: tokens * 6 * 12, flops: 0.0 };
                        let shape = format!("T={tokens} E={local}/{experts} top-6 tile={tile}");
                        self.line(&shape, work, |device| p.check(device, chunks))?;
                    }
                }
            }
            Ok(())
        }

        fn prepare(&mut self) -> Result<()> {
            use prepare::{Mode, Rows, check_amax, check_bf16, check_nvfp4};
            for (rows, k) in [(1, 7168), (64, 7168), (1024, 7168), (8192, 7168), (8192, 3072)] {
                let p = Rows::new(rows, k, Data::Normal);
                let shape = format!("rows={rows} k={k}");
                for grid in [rows.min(528) as u32, rows.min(1055) as u32] {
                    let work = |bytes| Work { bytes: rows * k * bytes, flops: 0.0 };
                    self.line(&shape, work(4), |device| check_bf16(p, false, device, grid))?;
                    self.line(&shape, work(4), |d| check_nvfp4(p, false, false, Mode::Row, d, grid))?;
                    self.line(&shape, work(6), |d| check_nvfp4(p, true, false, Mode::Constant, d, grid))?;
                    self.line(&shape, work(2), |device| check_amax(p, false, None, device, grid))?;
                    self.line(&shape, work(4), |device| check_amax(p, true, None, device, grid))?;
                }
            }
            Ok(())
        }

        fn combine(&mut self) -> Result<()> {
            for (tokens, columns) in [(1, 7168), (64, 7168), (512, 4096), (2048, 7168)] {
                for grid in [264, 396, 1056, 4224] {
                    let p = combine::Problem {
                        max_tokens: tokens,
                        tokens,
                        top_k: 6,
                        columns,
                        strides: (columns, columns),
                        shared: combine::Shared::Rows,
                        extras: false,
                    };
                    // A fifth of the slots has no row.
                    let bytes = tokens * columns * (4 * 29 / 5 + 2);
                    let shape = format!("T={tokens} H={columns} top-6");
                    self.line(&shape, Work { bytes, flops: 0.0 }, |device| p.check(device, grid))?;
                }
            }
            Ok(())
        }

        fn dense(&mut self) -> Result<()> {
            for is_fp8 in [false, true] {
                for (is_swiglu, features, k) in
                    [(true, 2048, 4096), (false, 4096, 2048), (true, 3072, 7168), (false, 7168, 3072)]
                {
                    for tokens in [1, 64, 1024] {
                        let p = dense::Problem {
                            checked: 500,
                            ..dense::Problem::new(is_fp8, is_swiglu, tokens, features, k)
                        };
                        let weights = features * k * (1 + usize::from(is_swiglu));
                        let out = tokens * features * if is_swiglu { 2 } else { 4 };
                        let bytes = weights * if is_fp8 { 1 } else { 2 } + tokens * k * 2 + out;
                        let flops = 2.0 * weights as f64 * tokens as f64;
                        let shape = format!("T={tokens} N={features} K={k}");
                        for grid in [132, 264, 528] {
                            self.line(&shape, Work { bytes, flops }, |device| p.check(device, grid))?;
                        }
                    }
                }
            }
            Ok(())
        }
    }

    /// A pointer argument's memory, as many times as there are sets.
    struct Slab {
        buffer: DeviceBuffer<u8>,
        stride: usize,
    }

    impl Slab {
        fn new(stream: &Stream, one: &[u8], sets: usize) -> megamoe::Result<Slab> {
            let stride = one.len().next_multiple_of(256).max(256);
            let mut all = vec![0; stride * sets];
            all.chunks_exact_mut(stride).for_each(|set| set[..one.len()].copy_from_slice(one));
            Ok(Slab { buffer: DeviceBuffer::from_slice(stream, &all)?, stride })
        }

        fn ptr(&self, set: usize) -> DevicePtr {
            self.buffer.ptr().byte_add((set * self.stride) as u64)
        }
    }

    /// Median and quartile distance of the time of one launch, in microseconds.
    fn time(card: &CudaDevice, made: &Made, l2: usize) -> megamoe::Result<[f64; 2]> {
        let stream = &card.stream;
        let kernel = card.kernels.get(made.launch)?;
        let bytes: usize = made
            .values
            .iter()
            .map(|v| match v {
                Recorded::In(b) | Recorded::Out(b) => b.len(),
                _ => 0,
            })
            .sum();
        // More than twice L2 between two uses of one set, but not more copies than a small launch needs.
        let sets = (2 * l2).div_ceil(bytes.max(1)).clamp(2, 256).min((MAX_BYTES / bytes.max(1)).max(1));
        let slabs = made
            .values
            .iter()
            .map(|value| match value {
                Recorded::In(b) | Recorded::Out(b) => Slab::new(stream, b, sets).map(Some),
                _ => Ok(None),
            })
            .collect::<megamoe::Result<Vec<_>>>()?;
        let mut set = 0;
        let mut launch = || {
            set = (set + 1) % sets;
            let all = made.launch.args.iter().zip(&made.values).zip(&slabs);
            let args = all.fold(Args::new(made.launch), |args, ((arg, value), slab)| {
                let ptr = slab.as_ref().map_or(DevicePtr::NULL, |slab| slab.ptr(set));
                match (value, arg.ty) {
                    (Recorded::U32(v), _) => args.u32(arg.name, *v),
                    (Recorded::F32(v), _) => args.f32(arg.name, *v),
                    (_, kernels::launch::ArgType::MutPtr) => args.output(arg.name, ptr),
                    _ => args.input(arg.name, ptr),
                }
            });
            // SAFETY: buffers of the shapes that the checked launch had; they live until the timing has synchronised.
            unsafe { kernel.launch(stream, made.dims, args) }
        };
        let (start, end) = (Event::new(&card.context)?, Event::new(&card.context)?);
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
        Ok([times[SAMPLES / 2], times[SAMPLES * 3 / 4] - times[SAMPLES / 4]])
    }
}
