//! `megamoe bench`: a layer's time on a card, against what the card can do, each timing gated on the oracle.
//!
//! A point is a layer of a shape at a number of tokens: route-sorted GEMMs, SwiGLU, combination, everything behind the
//! router. Several calls with different rows and routings are captured into one CUDA graph, whose replays are timed
//! (`timing`); the weights of a layer are larger than the L2 cache. Before it is timed, and again afterwards from the
//! replayed results, a sample of its output rows is compared with the f64 oracle under the bar of the project; NaN
//! poison lies in all outputs and in the workspace before each. A point that misses the bar has no time.
//!
//! The floor of a point is the larger of the weight bytes it must read over the card's read bandwidth and its
//! operations over cuBLAS's dense bf16 rate, both measured in the same run (`ceilings`).

mod ceilings;
mod cublas;
mod report;
mod shape;
mod timing;

use half::bf16;

pub use ceilings::Ceilings;
pub use cublas::LIBRARY_ENV;
pub use report::{json, table};
pub use shape::{BenchShape, Spread};

use crate::cuda::{
    Context, CudaDevice, Device, DeviceBuffer, Graph, KernelSet, MoeLayer, RawStream, Workspace,
};
use crate::io::{LayerInput, RoutingSource};
use crate::metrics::{BAR, Metrics};
use crate::options::{ForwardOptions, Part};
use crate::runtime::plan::{Form, LayerIo, RoutingIo, Tokens};
use crate::runtime::shape::LayerOptions;
use crate::weights::LayerWeights;
use crate::{Error, Result, oracle};

/// What to measure.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// The layer.
    pub shape: BenchShape,
    /// Token counts.
    pub tokens: Vec<usize>,
    /// Routing.
    pub spread: Spread,
    /// The GEMM form; `None` for the planner's choice.
    pub form: Option<Form>,
    /// Activations and their scales.
    pub options: LayerOptions,
    /// Tokens of each call that are compared with the oracle.
    pub sample: usize,
    /// Whether the launches are timed apart.
    pub breakdown: bool,
}

/// One measured point.
#[derive(Clone, Debug)]
pub struct Point {
    /// Tokens.
    pub tokens: usize,
    /// Experts with tokens, mean over the calls.
    pub experts: f64,
    /// Rows of the hottest expert.
    pub max_rows: usize,
    /// Weight bytes that a call must read.
    pub bytes: f64,
    /// Operations of a call.
    pub flop: f64,
    /// Time, of one layer.
    pub timing: timing::Timing,
    /// Deviation of the sample from the oracle, the worst call, eager or replayed.
    pub error: Metrics,
    /// Workspace bytes.
    pub workspace: usize,
    /// Each launch and the time that it adds to those before it, if asked for.
    pub breakdown: Vec<(&'static str, f64)>,
}

/// Calls in a graph: different rows and routings.
fn calls_per_graph(tokens: usize) -> usize {
    match tokens {
        0..=64 => 8,
        65..=512 => 4,
        513..=2048 => 3,
        _ => 2,
    }
}

/// Everything of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// The card.
    pub device: String,
    /// What was measured.
    pub options: BenchOptions,
    /// What the card can do.
    pub ceilings: Ceilings,
    /// The points, or why one has no time.
    pub points: Vec<(usize, std::result::Result<Point, String>)>,
}

/// Runs a bench. `progress` is told what comes next.
pub fn run(options: &BenchOptions, progress: &mut dyn FnMut(&str)) -> Result<Report> {
    let device = Device::all()?
        .into_iter()
        .find(|device| device.arch().is_ok())
        .ok_or_else(|| Error::unsupported("bench", "no CUDA device that there are kernels for"))?;
    let context = Context::primary(device)?;
    let set = KernelSet::load(&context)?;
    let cuda = CudaDevice::new(&set)?;
    progress("measuring the ceilings");
    let ceilings = ceilings::measure(&cuda)?;
    progress("making weights");
    let weights = shape::weights(&options.shape, 1);
    progress("loading weights");
    let layer = MoeLayer::load(&set, &weights, &options.options)?;
    let bench = Bench { options, weights: &weights, layer, cuda };
    let mut points = Vec::new();
    for &tokens in &options.tokens {
        progress(&format!("{} tokens", tokens));
        points.push((tokens, bench.point(tokens).map_err(|e| e.to_string())));
    }
    let (major, minor) = Device::driver_version()?;
    let name = format!("{}, driver for CUDA {major}.{minor}", device.name()?);
    Ok(Report { device: name, options: options.clone(), ceilings, points })
}

struct Bench<'a> {
    options: &'a BenchOptions,
    weights: &'a LayerWeights,
    layer: MoeLayer,
    cuda: CudaDevice,
}

/// Device memory of one call.
struct CallMemory {
    x: DeviceBuffer<u16>,
    ids: DeviceBuffer<i32>,
    weights: DeviceBuffer<f32>,
    out: DeviceBuffer<u16>,
}

impl Bench<'_> {
    fn point(&self, tokens: usize) -> Result<Point> {
        let shape = &self.options.shape;
        let stream = self.cuda.stream();
        let context = self.cuda.kernels().context();
        let calls: Vec<shape::Call> = (0..calls_per_graph(tokens))
            .map(|n| shape::call(shape, tokens, self.options.spread, (n as u64) << 32 ^ tokens as u64))
            .collect();
        let mut memory = Vec::new();
        for call in &calls {
            memory.push(CallMemory {
                x: DeviceBuffer::from_slice(stream, bytemuck::cast_slice(&call.x))?,
                ids: DeviceBuffer::from_slice(stream, &call.ids)?,
                weights: DeviceBuffer::from_slice(stream, &call.weights)?,
                out: DeviceBuffer::filled(stream, tokens * shape.hidden, POISON)?,
            });
        }
        let bytes = self.layer.workspace_bytes(tokens)?;
        let mut workspace = Workspace::new(context, bytes)?;
        workspace.fill(stream, POISON)?;
        let io = |m: &CallMemory| LayerIo {
            hidden_states: m.x.ptr(),
            tokens: Tokens::Host(tokens as u32),
            max_tokens: tokens,
            routing: RoutingIo::Given { topk_ids: m.ids.ptr(), topk_weights: m.weights.ptr() },
            output: m.out.ptr(),
            output_f32: crate::runtime::DevicePtr::NULL,
            part: Part::Routed,
            form: self.options.form,
        };
        let mut worst = None;
        for (call, m) in calls.iter().zip(&memory) {
            // SAFETY: the buffers have the call's shapes and outlive the synchronisation in `check`.
            unsafe { self.layer.forward(stream, &io(m), &workspace)? };
            worst = worse(worst, self.check(call, m, tokens)?);
        }
        for m in &mut memory {
            m.out.fill_bytes(stream, POISON)?;
        }
        workspace.fill(stream, POISON)?;
        let graph = Graph::capture(context, |stream| {
            for m in &memory {
                // SAFETY: as above; all of it outlives the graph.
                unsafe { self.layer.forward(stream, &io(m), &workspace)? };
            }
            Ok(())
        })?;
        let seconds = if tokens < 256 { 0.15 } else { 0.5 };
        let mut timing = timing::time(context, stream, seconds, || {
            // SAFETY: as above; one stream.
            unsafe { graph.replay(stream) }
        })?;
        for (call, m) in calls.iter().zip(&memory) {
            worst = worse(worst, self.check(call, m, tokens)?);
        }
        timing.sustained_us /= calls.len() as f64;
        timing.cool_us /= calls.len() as f64;
        let breakdown = if self.options.breakdown {
            self.breakdown(seconds, |stream, launches| {
                let mut names = Vec::new();
                for m in &memory {
                    // SAFETY: as above.
                    names = unsafe { self.layer.forward_prefix(stream, &io(m), &workspace, launches)? };
                }
                Ok(names)
            })?
        } else {
            Vec::new()
        };
        let breakdown = breakdown.into_iter().map(|(name, us)| (name, us / calls.len() as f64)).collect();
        let counts: Vec<Vec<usize>> = calls
            .iter()
            .map(|call| {
                let mut counts = vec![0; shape.experts];
                call.ids.iter().for_each(|&id| counts[id as usize] += 1);
                counts
            })
            .collect();
        let used: usize = counts.iter().flatten().filter(|&&n| n > 0).count();
        let experts = used as f64 / calls.len() as f64;
        Ok(Point {
            tokens,
            experts,
            max_rows: counts.iter().flatten().copied().max().unwrap_or(0),
            bytes: experts * shape.expert_bytes() as f64,
            flop: (tokens * shape.top_k) as f64 * shape.slot_flop(),
            timing,
            breakdown,
            error: worst.ok_or_else(|| Error::invalid("bench", "no calls"))?,
            workspace: bytes,
        })
    }

    /// Times the first launch, the first two, and so on: the differences.
    fn breakdown(
        &self,
        seconds: f64,
        enqueue: impl Fn(RawStream, usize) -> Result<Vec<&'static str>>,
    ) -> Result<Vec<(&'static str, f64)>> {
        let (context, stream) = (self.cuda.kernels().context(), self.cuda.stream());
        let mut parts = Vec::new();
        let mut before = 0.0;
        loop {
            let mut names = Vec::new();
            let launches = parts.len() + 1;
            let graph = Graph::capture(context, |stream| {
                names = enqueue(stream, launches)?;
                Ok(())
            })?;
            if names.len() < launches {
                return Ok(parts);
            }
            let timing = timing::time(context, stream, seconds / 3.0, || {
                // SAFETY: all that was recorded is alive.
                unsafe { graph.replay(stream) }
            })?;
            parts.push((names[launches - 1], timing.sustained_us - before));
            before = timing.sustained_us;
        }
    }

    /// A sample of rows against the oracle.
    fn check(&self, call: &shape::Call, m: &CallMemory, tokens: usize) -> Result<Metrics> {
        let shape = &self.options.shape;
        let out = m.out.to_vec(self.cuda.stream())?;
        if let Some(at) = out.iter().position(|&bits| bf16::from_bits(bits).is_nan()) {
            return Err(Error::invalid("output", format!("NaN in row {}", at / shape.hidden)));
        }
        let count = self.options.sample.min(tokens);
        // Spread over the batch, the last row included.
        let rows: Vec<usize> =
            (0..count).map(|i| if count == 1 { 0 } else { i * (tokens - 1) / (count - 1) }).collect();
        let pick = |row: usize, width: usize| row * width..(row + 1) * width;
        let x: Vec<bf16> = rows.iter().flat_map(|&r| call.x[pick(r, shape.hidden)].to_vec()).collect();
        let ids: Vec<i32> = rows.iter().flat_map(|&r| call.ids[pick(r, shape.top_k)].to_vec()).collect();
        let weights: Vec<f32> =
            rows.iter().flat_map(|&r| call.weights[pick(r, shape.top_k)].to_vec()).collect();
        let input = LayerInput {
            hidden_states: &x,
            tokens: count,
            routing: RoutingSource::Given { topk_ids: &ids, topk_weights: &weights },
        };
        let options = ForwardOptions { part: Part::Routed, ..self.options.options.forward() };
        let want = oracle::forward(self.weights, &input, &options)?;
        let got: Vec<f32> = rows
            .iter()
            .flat_map(|&r| {
                out[pick(r, shape.hidden)]
                    .iter()
                    .map(|&bits| bf16::from_bits(bits).to_f32())
                    .collect::<Vec<_>>()
            })
            .collect();
        let want: Vec<f32> = want.output.iter().map(|v| v.to_f32()).collect();
        let metrics = Metrics::of(&got, &want);
        if metrics.passes(&BAR) {
            Ok(metrics)
        } else {
            Err(Error::mismatch("output against the oracle", format!("{BAR:?}"), format!("{metrics:?}")))
        }
    }
}

/// A NaN in bf16 and in f32.
const POISON: u8 = 0xff;

fn worse(a: Option<Metrics>, b: Metrics) -> Option<Metrics> {
    a.filter(|a| a.rel_l2 >= b.rel_l2).or(Some(b))
}
