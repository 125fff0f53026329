//! Linear maps with NVFP4 weights on a card: weights in one allocation, calls on the caller's stream.

use super::health::Health;
use super::{CudaDevice, DeviceBuffer, KernelSet, RawStream, Workspace};
use crate::Result;
use crate::cpu::LinearMode;
use crate::runtime::linear::{LinearIo, LinearPlan};
use crate::weights::Nvfp4Matrix;

/// `y = x W^T` with one NVFP4 weight per group, loaded: `[tokens, groups, in]` to `[tokens, groups, out]`, every token
/// through every group.
#[derive(Debug)]
pub struct Nvfp4GroupedLinear {
    set: KernelSet,
    plan: LinearPlan,
    weights: DeviceBuffer<u8>,
    health: Health,
}

impl Nvfp4GroupedLinear {
    /// Loads the weights, which have one shape. One allocation; if it fails, or anything after it, nothing is left
    /// allocated.
    pub fn load(set: &KernelSet, groups: &[Nvfp4Matrix], mode: LinearMode) -> Result<Self> {
        let mut plan = LinearPlan::new(groups, mode, set.arch())?;
        let device = CudaDevice::new(set)?;
        let memory = DeviceBuffer::alloc(set.context(), plan.bytes())?;
        // SAFETY: memory of that size.
        unsafe { plan.load(groups, &device, memory.ptr())? };
        Ok(Self { set: set.clone(), plan, weights: memory, health: Health::default() })
    }

    /// Bytes of its weights on the device.
    pub fn bytes(&self) -> usize {
        self.weights.bytes()
    }

    /// The plan: shape, mode.
    pub fn plan(&self) -> &LinearPlan {
        &self.plan
    }

    /// Bytes of a [`Workspace`] for up to `max_tokens` tokens; one may be shared with layers.
    pub fn workspace_bytes(&self, max_tokens: usize) -> Result<usize> {
        Ok(self.plan.workspace(max_tokens)?.bytes())
    }

    /// Enqueues one call. Nothing is allocated on the device and nothing waits: the call may be captured into a graph,
    /// which then serves every token count up to `io.max_tokens`.
    ///
    /// # Safety
    /// `stream` is a live stream of the context of the kernels. The addresses in `io` are device memory of the sizes
    /// that [`LinearIo`] names, alive until the work is finished, as are the weights and the workspace; no other call
    /// uses the workspace meanwhile.
    pub unsafe fn forward(
        &self,
        stream: impl Into<RawStream>,
        io: &LinearIo,
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
}

/// `y = x W^T` with an NVFP4 weight, loaded: `[tokens, in]` to `[tokens, out]`.
#[derive(Debug)]
pub struct Nvfp4Linear(Nvfp4GroupedLinear);

impl Nvfp4Linear {
    /// Loads the weight. As [`Nvfp4GroupedLinear::load`].
    pub fn load(set: &KernelSet, weight: &Nvfp4Matrix, mode: LinearMode) -> Result<Self> {
        Nvfp4GroupedLinear::load(set, std::slice::from_ref(weight), mode).map(Self)
    }

    /// Bytes of its weight on the device.
    pub fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// The plan, with one group.
    pub fn plan(&self) -> &LinearPlan {
        self.0.plan()
    }

    /// Bytes of a [`Workspace`] for up to `max_tokens` tokens.
    pub fn workspace_bytes(&self, max_tokens: usize) -> Result<usize> {
        self.0.workspace_bytes(max_tokens)
    }

    /// Enqueues one call. As [`Nvfp4GroupedLinear::forward`].
    ///
    /// # Safety
    /// As [`Nvfp4GroupedLinear::forward`].
    pub unsafe fn forward(
        &self,
        stream: impl Into<RawStream>,
        io: &LinearIo,
        workspace: &Workspace,
    ) -> Result<()> {
        // SAFETY: the caller's.
        unsafe { self.0.forward(stream, io, workspace) }
    }
}
