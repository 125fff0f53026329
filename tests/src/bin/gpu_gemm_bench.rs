//! Speed of the expert GEMMs on a card: one aligned line per shape, form and number of warps, gated on a sample of outputs
//! that must be right to the bit.
//!
//! Method: random weights of all experts in fragment order; the launches of a sample go through several routings with
//! different experts, so that weights come from memory and not from L2 where the layer has more of them than one
//! launch reads. A sample is a batch of launches between two events, divided by their number; the time is the median.
//! GB/s counts the weights and scales of the experts that have tokens, once. Launches are ordinary ones: without
//! programmatic dependence, so every time has a launch gap in it.
//!
//! `gpu_gemm_bench [WORD..]`: a shape, a form, `uniform` or `even` (the routings) is left out if there are words of its
//! kind and its name contains none of them. `xN` picks the even routings with N rows.

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

    use kernels::expand::UNSCALE;
    use kernels::expert_gemm_small::{stages, warps};
    use kernels::fragment::{self, CODE_BYTES, TILE_ROWS, UNIT_BYTES};
    use kernels::gather_lines;
    use kernels::launch::Dims;
    use megamoe::cuda::{Args, DeviceBuffer, Event, Kernel};
    use megamoe_tests::gpu::cuda::CudaDevice;
    use megamoe_tests::gpu::data::{hash, uniform};
    use megamoe_tests::gpu::expert_gemm::{BROAD, Form, Kind, MEDIUM, NARROW, SMALL, WIDE};
    use megamoe_tests::gpu::mma_model::{Half, dot};
    use megamoe_tests::gpu::outputs::parallel;
    use megamoe_tests::gpu::{Device, Unavailable};
    use nvfp4::{bf16, e2m1, e4m3, swiglu::swiglu};

    /// Read bandwidth of an H200 as measured, GB/s.
    const READ_CEILING: f64 = 4557.0;
    /// cuBLAS bf16 on the same card, sustained, TFLOP/s.
    const MATH_CEILING: f64 = 700.0;
    const SAMPLES: usize = 15;
    const WARM_UP: Duration = Duration::from_millis(30);
    const SAMPLE: Duration = Duration::from_millis(2);
    /// Outputs that are checked.
    const CHECKED: usize = 384;
    /// Routings that the launches rotate through.
    const SETS: usize = 8;
    const TOP_K: usize = 6;
    const LIMIT: f32 = 10.0;
    /// Warps that are tried besides the planner's choice.
    const WARPS: [u32; 4] = [24, 20, 16, 12];

    /// A form, and the tokens at which it is of interest.
    struct Variant {
        name: &'static str,
        form: &'static Form,
        tokens: std::ops::RangeInclusive<usize>,
    }

    static VARIANTS: [Variant; 5] = [
        Variant { name: "small", form: &SMALL, tokens: 1..=64 },
        Variant { name: "medium", form: &MEDIUM, tokens: 4..=1024 },
        Variant { name: "narrow", form: &NARROW, tokens: 4..=512 },
        Variant { name: "wide", form: &WIDE, tokens: 16..=8192 },
        Variant { name: "broad", form: &BROAD, tokens: 512..=8192 },
    ];
    const TOKENS: [usize; 12] = [1, 2, 4, 8, 16, 64, 128, 256, 512, 1024, 2048, 8192];
    /// Rows of every expert, in one routing for each.
    const EVEN_ROWS: [usize; 13] = [1, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512, 1024];

    type Result<T> = std::result::Result<T, String>;

    /// A matrix group.
    struct Shape {
        name: &'static str,
        kind: Kind,
        experts: usize,
        /// Rows of each matrix: I for gate and up, M otherwise.
        features: usize,
        k: usize,
    }

    const SHAPES: [Shape; 4] = [
        Shape { name: "pro-L1", kind: Kind::SwigluBf16, experts: 48, features: 3072, k: 7168 },
        Shape { name: "pro-L2", kind: Kind::PlainF32, experts: 48, features: 7168, k: 3072 },
        Shape { name: "flash-L1", kind: Kind::SwigluBf16, experts: 256, features: 2048, k: 4096 },
        Shape { name: "flash-L2", kind: Kind::PlainF32, experts: 256, features: 4096, k: 2048 },
    ];

    impl Shape {
        fn row_tiles(&self) -> usize {
            let per_tile = if self.kind.has_up() { 8 } else { 16 };
            self.features.div_ceil(per_tile)
        }

        fn units(&self) -> usize {
            fragment::k_units(self.k)
        }

        fn expert_bytes(&self) -> usize {
            fragment::matrix_bytes(self.row_tiles(), self.units())
        }

        /// Random weights of one expert: any codes, ordinary scales.
        fn expert(&self, expert: usize) -> Vec<u8> {
            let mut bytes: Vec<u8> = (0..self.expert_bytes() as u64 / 8)
                .flat_map(|i| hash(i ^ (expert as u64) << 40).to_le_bytes())
                .collect();
            for unit in bytes.chunks_exact_mut(UNIT_BYTES) {
                unit[CODE_BYTES..].iter_mut().for_each(|b| *b = 0x28 + *b % 24);
            }
            bytes
        }
    }

    /// Who goes where: rows of each expert, their first rows, and how many there are.
    struct Routing {
        counts: Vec<u32>,
        offsets: Vec<u32>,
    }

    impl Routing {
        fn new(counts: Vec<u32>) -> Self {
            let mut offsets = vec![0];
            counts.iter().for_each(|&c| offsets.push(offsets[offsets.len() - 1] + c.next_multiple_of(8)));
            Self { counts, offsets }
        }

        /// `tokens` tokens with [`TOP_K`] different experts each, the first ones from set to set different.
        fn uniform(tokens: usize, experts: usize, set: usize) -> Self {
            let mut counts = vec![0; experts];
            for token in 0..tokens {
                let start = (set * TOP_K + token * 1009) % experts;
                // Steps that are coprime to the number of experts.
                let step = [1, 5, 7, 11, 13, 17, 19, 23][token % 8];
                (0..TOP_K).for_each(|n| counts[(start + n * step) % experts] += 1);
            }
            Self::new(counts)
        }

        fn active(&self) -> usize {
            self.counts.iter().filter(|&&c| c != 0).count()
        }

        fn rows(&self) -> usize {
            self.offsets[self.offsets.len() - 1] as usize
        }
    }

    /// Everything of a shape on the device.
    struct Loaded<'a> {
        shape: &'a Shape,
        device: &'a CudaDevice,
        kernels: Vec<Kernel>,
        weights: DeviceBuffer<u8>,
        alpha: DeviceBuffer<f32>,
        b: DeviceBuffer<u16>,
        b_scale: DeviceBuffer<f32>,
        out: DeviceBuffer<u8>,
        host_b: Vec<u16>,
        b_rows: usize,
    }

    const MAX_ROWS: usize = 8192 * TOP_K + 8 * 256;
    const ALPHA: f32 = 1e-4;

    impl<'a> Loaded<'a> {
        fn new(device: &'a CudaDevice, shape: &'a Shape) -> Result<Self> {
            let stream = &device.stream;
            let bytes = shape.expert_bytes();
            let mut weights =
                DeviceBuffer::<u8>::alloc(&device.context, bytes * shape.experts).map_err(text)?;
            let threads = std::thread::available_parallelism().map_or(1, usize::from);
            for first in (0..shape.experts).step_by(threads) {
                let some = parallel(16 * threads.min(shape.experts - first), |n| {
                    // `parallel` gives threads sixteen items at least.
                    if n % 16 == 0 { shape.expert(first + n / 16) } else { Vec::new() }
                });
                for (n, expert) in some.into_iter().filter(|e| !e.is_empty()).enumerate() {
                    weights.copy_from_host_at(stream, (first + n) * bytes, &expert).map_err(text)?;
                }
            }
            let columns = 64 * shape.units();
            let b_rows = 8192;
            let host_b: Vec<u16> = (0..b_rows * columns)
                .map(|i| {
                    let h = hash(i as u64 ^ 77 << 40);
                    if i % columns < shape.k {
                        (h & 0x83ff) as u16 | ((10 + (h >> 20) % 6) as u16 * 1024)
                    } else {
                        0
                    }
                })
                .collect();
            let b_scale: Vec<f32> = (0..b_rows as u64).map(|i| 0.5 + uniform(i)).collect();
            let element = shape.kind.bytes();
            Ok(Self {
                shape,
                device,
                kernels: VARIANTS
                    .iter()
                    .map(|v| device.kernels.get((v.form.launch)(shape.kind)))
                    .collect::<megamoe::Result<_>>()
                    .map_err(text)?,
                weights,
                alpha: DeviceBuffer::from_slice(stream, &vec![ALPHA; shape.experts]).map_err(text)?,
                b: DeviceBuffer::from_slice(stream, &host_b).map_err(text)?,
                b_scale: DeviceBuffer::from_slice(stream, &b_scale).map_err(text)?,
                out: DeviceBuffer::alloc(&device.context, MAX_ROWS * shape.features * element)
                    .map_err(text)?,
                host_b,
                b_rows,
            })
        }

        fn launch(&self, variant: usize, set: &OnDevice, dims: Dims) -> megamoe::Result<()> {
            let shape = self.shape;
            let table = (VARIANTS[variant].form.launch)(shape.kind);
            let mut args =
                Args::new(table).input("weights", self.weights.ptr()).input("alpha", self.alpha.ptr());
            if shape.kind.has_up() {
                args = args.input("alpha_up", self.alpha.ptr());
            }
            args = args
                .input("b", if VARIANTS[variant].form.lines { set.lines.ptr() } else { self.b.ptr() })
                .input("b_scale", self.b_scale.ptr())
                .input("row_token", set.row_token.ptr())
                .input("offsets", set.offsets.ptr())
                .input("counts", set.counts.ptr())
                .output("out", self.out.ptr())
                .u32("experts", shape.experts as u32)
                .u32("row_tiles", shape.row_tiles() as u32)
                .u32("k_units", shape.units() as u32)
                .u32("first_tile", 0)
                .u32("tile_count", shape.row_tiles() as u32)
                .u32("features", shape.features as u32)
                .u32("out_stride", shape.features as u32)
                .u32("fold_alpha", 0);
            if shape.kind.has_up() {
                args = args.f32("limit", LIMIT);
            }
            // SAFETY: buffers of the table's shapes, which live until the timing has synchronised.
            unsafe { self.kernels[variant].launch(&self.device.stream, dims, args) }
        }

        /// Launches once and compares outputs here and there with the reference.
        fn check(&mut self, variant: usize, set: &OnDevice, dims: Dims) -> Result<()> {
            let stream = &self.device.stream;
            self.out.fill_bytes(stream, 0xff).map_err(text)?;
            self.launch(variant, set, dims).map_err(text)?;
            let shape = self.shape;
            let element = shape.kind.bytes();
            let mut out = vec![0; set.routing.rows() * shape.features * element];
            self.out.copy_to_host_at(stream, 0, &mut out).map_err(text)?;
            let active: Vec<usize> = (0..shape.experts).filter(|&e| set.routing.counts[e] != 0).collect();
            let wrong = parallel(CHECKED, |n| {
                let h = hash(n as u64);
                let expert = active[n % active.len()];
                let row = (h >> 8) as u32 % set.routing.counts[expert] + set.routing.offsets[expert];
                let feature = (h >> 24) as usize % shape.features;
                let want = self.reference(expert, set.tokens[row as usize] as usize, feature);
                let at = (row as usize * shape.features + feature) * element;
                let got = match out[at..at + element] {
                    [a, b] => bf16::to_f32(u16::from_le_bytes([a, b])),
                    [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
                    _ => f32::NAN,
                };
                (got.to_bits() != want.to_bits()).then(|| {
                    format!("expert {expert}, row {row}, feature {feature}: {got:e}, expected {want:e}")
                })
            });
            wrong.into_iter().flatten().next().map_or(Ok(()), Err)
        }

        fn reference(&self, expert: usize, token: usize, feature: usize) -> f32 {
            let shape = self.shape;
            let per_tile = if shape.kind.has_up() { 8 } else { TILE_ROWS };
            // Only the row tile of the feature is made again.
            let tile_bytes = shape.units() * UNIT_BYTES;
            let tile = feature / per_tile;
            let first = (tile * tile_bytes / 8) as u64;
            let mut bytes: Vec<u8> = (first..first + tile_bytes as u64 / 8)
                .flat_map(|i| hash(i ^ (expert as u64) << 40).to_le_bytes())
                .collect();
            for unit in bytes.chunks_exact_mut(UNIT_BYTES) {
                unit[CODE_BYTES..].iter_mut().for_each(|b| *b = 0x28 + *b % 24);
            }
            let columns = 64 * shape.units();
            let b: Vec<Half> =
                self.host_b[token * columns..][..columns].iter().map(|&h| Half::new(h)).collect();
            let scale = 0.5 + uniform(token as u64);
            let of = |row: usize| {
                let a: Vec<Half> = (0..columns)
                    .map(|k| {
                        let (code, scale) = fragment::element(&bytes, shape.units(), 0, row, k);
                        Half::from_f32(e2m1::decode(code) * e4m3::decode(scale) / UNSCALE)
                    })
                    .collect();
                (dot(&a, &b) * UNSCALE * scale) * ALPHA
            };
            let row = feature % per_tile;
            match shape.kind {
                Kind::PlainF32 => of(row),
                Kind::SwigluF32 => swiglu(of(row), of(row + 8), LIMIT),
                Kind::SwigluBf16 => bf16::round(swiglu(of(row), of(row + 8), LIMIT)),
            }
        }

        fn on_device(&self, routing: Routing) -> Result<OnDevice> {
            let (device, stream) = (self.device, &self.device.stream);
            let tokens: Vec<u32> = (0..routing.rows() as u32).map(|r| r % self.b_rows as u32).collect();
            let buffer = |values: &[u32]| DeviceBuffer::from_slice(stream, values).map_err(text);
            let columns = 64 * self.shape.units();
            let set = OnDevice {
                counts: buffer(&routing.counts)?,
                offsets: buffer(&routing.offsets)?,
                row_token: buffer(&tokens)?,
                lines: DeviceBuffer::alloc(&device.context, tokens.len() * columns).map_err(text)?,
                tokens,
                routing,
            };
            let kernel = device.kernels.get(&gather_lines::LAUNCH).map_err(text)?;
            let args = Args::new(&gather_lines::LAUNCH)
                .input("b", self.b.ptr())
                .input("row_token", set.row_token.ptr())
                .input("offsets", set.offsets.ptr())
                .input("counts", set.counts.ptr())
                .output("out", set.lines.ptr())
                .u32("experts", self.shape.experts as u32)
                .u32("k_units", self.shape.units() as u32);
            let dims = gather_lines::dims(device.multiprocessors());
            // SAFETY: buffers of the table's shapes, which live until the stream has been waited for.
            unsafe { kernel.launch(stream, dims, args).map_err(text)? };
            Ok(set)
        }

        /// Prints the lines of one set of routings.
        fn lines(&mut self, what: &str, tokens: usize, routings: Vec<Routing>) -> Result<bool> {
            let sets = routings.into_iter().map(|r| self.on_device(r)).collect::<Result<Vec<_>>>()?;
            let mut good = true;
            let units = self.shape.units() as u32;
            for (variant, Variant { name, form, .. }) in VARIANTS.iter().enumerate() {
                let wanted = &VARIANTS[variant].tokens;
                if !wanted.contains(&tokens) || !chosen(name, VARIANTS.iter().map(|v| v.name)) {
                    continue;
                }
                let own = (form.dims)(units, self.device.multiprocessors()).ok_or("K is too long")?;
                if form.threads.is_empty() {
                    good &= self.line(
                        variant,
                        &format!("{what:<12} {name:<7} {:>5} {:>6}", "-", "-"),
                        &sets,
                        own,
                    )?;
                    continue;
                }
                for warps in WARPS {
                    let stages = stages(warps, units);
                    if stages != 0 && warps <= kernels::expert_gemm_small::MAX_WARPS {
                        let block = [32 * (warps + kernels::expert_gemm_small::FETCH_WARPS), 1, 1];
                        let dims = Dims { block, ..own };
                        let head = format!("{what:<12} {name:<7} {warps:>5} {stages:>6}");
                        good &= self.line(variant, &head, &sets, dims)?;
                    }
                }
            }
            Ok(good)
        }

        /// Checks and times one variant and prints its line.
        fn line(&mut self, variant: usize, head: &str, sets: &[OnDevice], dims: Dims) -> Result<bool> {
            let head = format!("{:<9} {head}", self.shape.name);
            if let Err(error) = self.check(variant, &sets[0], dims) {
                println!("{head}  WRONG: {error}");
                return Ok(false);
            }
            let mut next = 0;
            let (median, iqr) = sample(self.device, || {
                next = (next + 1) % sets.len();
                self.launch(variant, &sets[next], dims)
            })
            .map_err(text)?;
            let n = sets.len() as f64;
            let active = sets.iter().map(|s| s.routing.active()).sum::<usize>() as f64 / n;
            let slots: u32 = sets.iter().flat_map(|s| &s.routing.counts).sum();
            let slots = f64::from(slots) / n;
            let bytes = active * self.shape.expert_bytes() as f64;
            let rows = self.shape.row_tiles() * TILE_ROWS;
            let flop = 2.0 * slots * rows as f64 * self.shape.k as f64;
            let rate = bytes / median / 1e3;
            let floor = (bytes / READ_CEILING / 1e3).max(flop / MATH_CEILING / 1e6);
            println!(
                "{head} {active:>7.1} {median:>9.2} {iqr:>7.2} {rate:>7.0} {:>6.1}% {:>8.1} {floor:>9.2} {:>6.2}",
                100.0 * rate / READ_CEILING,
                flop / median / 1e6,
                floor / median,
            );
            Ok(true)
        }
    }

    /// A routing and its arrays on the device.
    struct OnDevice {
        routing: Routing,
        tokens: Vec<u32>,
        counts: DeviceBuffer<u32>,
        offsets: DeviceBuffer<u32>,
        row_token: DeviceBuffer<u32>,
        /// The rows as the forms by wgmma take them.
        lines: DeviceBuffer<u16>,
    }

    /// Whether `name` is one of those asked for, among the names of its kind.
    fn chosen(name: &str, kind: impl Iterator<Item = &'static str>) -> bool {
        let words: Vec<String> = std::env::args().skip(1).collect();
        let names: Vec<_> = kind.collect();
        let mut of_kind = words.iter().filter(|w| names.iter().any(|n| n.contains(w.as_str()))).peekable();
        of_kind.peek().is_none() || of_kind.any(|w| name.contains(w.as_str()))
    }

    pub fn run() -> Result<bool> {
        let device = CudaDevice::open().map_err(|unavailable| match unavailable {
            Unavailable::Absent(reason) | Unavailable::Broken(reason) => reason,
        })?;
        println!("{}", device.describe());
        println!(
            "{:<9} {:<12} {:<7} {:>5} {:>6} {:>7} {:>9} {:>7} {:>7} {:>7} {:>8} {:>9} {:>6}",
            "shape",
            "tokens",
            "form",
            "warps",
            "stages",
            "experts",
            "median us",
            "IQR us",
            "GB/s",
            "of read",
            "TFLOP/s",
            "floor us",
            "ratio"
        );
        let mut good = true;
        for shape in &SHAPES {
            if !chosen(shape.name, SHAPES.iter().map(|s| s.name)) {
                continue;
            }
            let planned = warps(shape.units() as u32);
            println!("{}: the planner takes {planned:?} warps", shape.name);
            let mut loaded = Loaded::new(&device, shape)?;
            let routings = ["uniform", "even"].map(|name| chosen(name, ["uniform", "even"].into_iter()));
            for tokens in TOKENS.into_iter().filter(|_| routings[0]) {
                let sets = (0..SETS).map(|set| Routing::uniform(tokens, shape.experts, set)).collect();
                good &= loaded.lines(&format!("T={tokens}"), tokens, sets)?;
            }
            // Every expert, with the same number of rows.
            let some: Vec<usize> =
                std::env::args().filter_map(|w| w.strip_prefix('x').and_then(|n| n.parse().ok())).collect();
            for rows in EVEN_ROWS.into_iter().filter(|_| routings[1]) {
                if !some.is_empty() && !some.contains(&rows) {
                    continue;
                }
                let sets = vec![Routing::new(vec![rows as u32; shape.experts])];
                good &= loaded.lines(&format!("all x {rows}"), rows * shape.experts / TOP_K, sets)?;
            }
        }
        Ok(good)
    }

    fn text(error: megamoe::Error) -> String {
        error.to_string()
    }

    /// Median and quartile distance of the time of one launch in microseconds, by events, in batches.
    fn sample(
        device: &CudaDevice,
        mut launch: impl FnMut() -> megamoe::Result<()>,
    ) -> megamoe::Result<(f64, f64)> {
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
        let n = ((SAMPLE.as_secs_f64() * 1e6 / one) as usize).clamp(SETS, 128);
        let mut times = (0..SAMPLES).map(|_| batch(n)).collect::<megamoe::Result<Vec<f64>>>()?;
        times.sort_by(f64::total_cmp);
        Ok((times[SAMPLES / 2], times[SAMPLES * 3 / 4] - times[SAMPLES / 4]))
    }
}
