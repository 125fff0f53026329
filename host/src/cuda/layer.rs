//! A layer on a card: weights in one allocation, a workspace shared by all layers, forward calls on the caller's stream.

use std::cell::RefCell;

use kernels::launch::{Arch, Dims};

use super::health::Health;
use super::{Context, CudaDevice, CudaQueue, DeviceBuffer, KernelSet, RawStream, Stream};
use crate::Result;
use crate::io::Stats;
use crate::options::WarmupScales;
use crate::runtime::plan::{LayerIo, LayerPlan};
use crate::runtime::shape::LayerOptions;
use crate::runtime::workspace::{STATE, STATS, WorkspaceLayout, stats};
use crate::runtime::{Args, DevicePtr, Queue};
use crate::weights::LayerWeights;

/// Memory for the forward calls of one device, shared by all layers; calls that use it are ordered by one stream.
#[derive(Debug)]
pub struct Workspace {
    buffer: DeviceBuffer<u8>,
    context: Context,
}

impl Workspace {
    /// `bytes` bytes: the largest of [`MoeLayer::workspace_bytes`] over the layers.
    pub fn new(context: &Context, bytes: usize) -> Result<Workspace> {
        let stream = Stream::new(context)?;
        let mut workspace =
            Workspace { buffer: DeviceBuffer::alloc(context, bytes)?, context: context.clone() };
        workspace.clear_state(&stream)?;
        stream.synchronize()?;
        Ok(workspace)
    }

    /// Zeros in the words that calls find in it.
    fn clear_state(&mut self, stream: &Stream) -> Result<()> {
        let bytes = (4 * STATE).min(self.buffer.bytes());
        self.buffer.fill_bytes_of(stream, bytes, 0)
    }

    /// Sets the counters to zero.
    pub fn reset_counters(&mut self, stream: &Stream) -> Result<()> {
        let bytes = (4 * STATS).min(self.buffer.bytes());
        self.buffer.copy_from_host_at(stream, 0, &[0; 4 * STATS][..bytes])
    }

    /// What the calls since the last reset have counted, after waiting for the stream.
    pub fn counters(&self, stream: &Stream) -> Result<Stats> {
        let mut bytes = [0; 4 * STATS];
        let len = bytes.len().min(self.buffer.bytes());
        self.buffer.copy_to_host_at(stream, 0, &mut bytes[..len])?;
        let words = core::array::from_fn(|n| u32::from_le_bytes(core::array::from_fn(|i| bytes[4 * n + i])));
        Ok(stats(&words))
    }

    /// Size.
    pub fn bytes(&self) -> usize {
        self.buffer.bytes()
    }

    /// Its address, for calls in `context`, which must be its own.
    pub(super) fn for_calls_in(&self, context: &Context) -> Result<DevicePtr> {
        context.check_same(&self.context, "workspace")?;
        Ok(self.buffer.ptr())
    }

    /// Sets every byte but the words that calls leave for each other, which it zeroes, counters among them: a test's poison. No call depends on
    /// anything else that an earlier one has left.
    pub fn fill(&mut self, stream: &Stream, byte: u8) -> Result<()> {
        self.buffer.fill_bytes(stream, byte)?;
        self.clear_state(stream)
    }
}

/// One MoE layer, loaded.
#[derive(Debug)]
pub struct MoeLayer {
    set: KernelSet,
    plan: LayerPlan,
    weights: DeviceBuffer<u8>,
    health: Health,
}

impl MoeLayer {
    /// Loads `weights` in the layout of the kernels. One allocation, of [`bytes`](Self::bytes) bytes; if it fails, or
    /// anything after it, nothing is left allocated.
    pub fn load(set: &KernelSet, weights: &LayerWeights, options: &LayerOptions) -> Result<MoeLayer> {
        let mut plan = LayerPlan::new(weights, options, set.arch())?;
        let device = CudaDevice::new(set)?;
        let memory = DeviceBuffer::alloc(set.context(), plan.bytes())?;
        // SAFETY: memory of that size.
        unsafe { plan.load(weights, &device, memory.ptr())? };
        Ok(MoeLayer { set: set.clone(), plan, weights: memory, health: Health::default() })
    }

    /// Bytes that a layer with these weights takes on a device of `arch`, before it is loaded.
    pub fn bytes_of(weights: &LayerWeights, options: &LayerOptions, arch: Arch) -> Result<usize> {
        Ok(LayerPlan::new(weights, options, arch)?.bytes())
    }

    /// Bytes of its weights on the device.
    pub fn bytes(&self) -> usize {
        self.weights.bytes()
    }

    /// The plan: shape, options, regions.
    pub fn plan(&self) -> &LayerPlan {
        &self.plan
    }

    /// The kernels it runs.
    pub fn kernels(&self) -> &KernelSet {
        &self.set
    }

    /// Bytes of a workspace for up to `max_tokens` tokens.
    pub fn workspace_bytes(&self, max_tokens: usize) -> Result<usize> {
        Ok(self.plan.workspace(max_tokens)?.bytes())
    }

    /// Where a call's intermediate results lie in a workspace.
    pub fn workspace_layout(&self, max_tokens: usize) -> Result<WorkspaceLayout> {
        self.plan.workspace(max_tokens)
    }

    /// Enqueues one forward call. Nothing is allocated on the device and nothing waits: the call may be captured into a
    /// graph, which then serves every token count up to `io.max_tokens` and every routing.
    ///
    /// # Safety
    /// `stream` is a live stream of the layer's context. The addresses in `io` are device memory of the sizes that
    /// [`LayerIo`] names, alive until the work is finished, as are the layer and the workspace; no other call uses the
    /// workspace meanwhile.
    pub unsafe fn forward(
        &self,
        stream: impl Into<RawStream>,
        io: &LayerIo,
        workspace: &Workspace,
    ) -> Result<()> {
        self.health.check()?;
        let memory = workspace.for_calls_in(self.set.context())?;
        // SAFETY: the caller's.
        let result = unsafe {
            let queue = self.set.on(stream.into());
            self.plan.enqueue(&queue, io, memory, workspace.bytes())
        };
        self.health.remember(result)
    }

    /// As [`forward`](Self::forward), but only the first `launches` launches are enqueued: for timing them apart.
    /// Returns the names of those that were.
    ///
    /// # Safety
    /// As [`forward`](Self::forward).
    pub unsafe fn forward_prefix(
        &self,
        stream: impl Into<RawStream>,
        io: &LayerIo,
        workspace: &Workspace,
        launches: usize,
    ) -> Result<Vec<&'static str>> {
        self.health.check()?;
        let memory = workspace.for_calls_in(self.set.context())?;
        // SAFETY: the caller's.
        let result = unsafe {
            let queue =
                Prefix { queue: self.set.on(stream.into()), most: launches, names: RefCell::default() };
            let done = self.plan.enqueue(&queue, io, memory, workspace.bytes());
            done.map(|()| queue.names.into_inner())
        };
        self.health.remember(result)
    }

    /// Measures the constants of the `Warmup` policies on a calibration batch, and waits.
    ///
    /// # Safety
    /// As [`forward`](Self::forward).
    pub unsafe fn measure_warmup(&self, io: &LayerIo, workspace: &Workspace) -> Result<WarmupScales> {
        self.health.check()?;
        let memory = workspace.for_calls_in(self.set.context())?;
        let device = CudaDevice::new(&self.set)?;
        // SAFETY: the caller's.
        let result = unsafe { self.plan.measure_warmup(&device, io, memory, workspace.bytes()) };
        self.health.remember(result)
    }

    /// Waits for `stream` and says what went wrong on it; a broken context is remembered.
    ///
    /// # Safety
    /// `stream` is a live stream of the layer's context.
    pub unsafe fn synchronize(&self, stream: RawStream) -> Result<()> {
        self.health.check()?;
        // SAFETY: the caller's.
        let stream = unsafe { Stream::borrow(self.set.context(), stream) };
        self.health.remember(stream.synchronize())
    }
}

/// A queue that lets the first launches through and drops the others.
struct Prefix<'k> {
    queue: CudaQueue<'k>,
    most: usize,
    names: RefCell<Vec<&'static str>>,
}

impl Queue for Prefix<'_> {
    fn arch(&self) -> Arch {
        self.queue.arch()
    }

    fn multiprocessors(&self) -> u32 {
        self.queue.multiprocessors()
    }

    unsafe fn launch(&self, dims: Dims, args: Args, dependent: bool) -> Result<()> {
        let mut names = self.names.borrow_mut();
        if names.len() == self.most {
            return Ok(());
        }
        names.push(args.launch().name);
        // SAFETY: the caller's.
        unsafe { self.queue.launch(dims, args, dependent) }
    }

    unsafe fn fill_u8(&self, to: DevicePtr, value: u8, bytes: usize) -> Result<()> {
        // SAFETY: the caller's.
        unsafe { self.queue.fill_u8(to, value, bytes) }
    }

    unsafe fn fill_u32(&self, to: DevicePtr, value: u32, words: usize) -> Result<()> {
        // SAFETY: the caller's.
        unsafe { self.queue.fill_u32(to, value, words) }
    }
}
