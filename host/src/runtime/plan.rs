//! The launches of a forward call.
//!
//! ```text
//! x -> prepare -> sort -> L1 + SwiGLU -> prepare -> ( L2 -> combine ) per column chunk -> output
//! x -> both products and the combination -> output
//! x -> maxima -> sort -> quantise -> L1 + SwiGLU (-> quantise) -> ( L2 -> combine ) per column chunk -> output
//! ```
//! The second is that of few tokens ([`Form::Decode`]), the third that of NVFP4 activations on sm_100a ([`Operands::Blocks`](super::shape::Operands::Blocks)).
//!
//! Which kernels run depends on the layer, its options and the largest number of tokens, never on the routing or on the
//! tokens of the call: those stay on the device, so that one captured graph serves them all.

use kernels::launch::Arch;

use super::call::Call;
use super::image::ImageLayout;
use super::shape::{LayerOptions, LayerShape};
use super::workspace::WorkspaceLayout;
use super::{Device, DevicePtr, Queue};
use crate::options::{ActScale, ActScaleL2, Part, WarmupScales};
use crate::weights::{LayerConfig, LayerWeights};
use crate::{Error, Result};

/// A form of the grouped GEMMs. All that a layer has give the same bits; one that it has not is an error.
///
/// Without a wish the planner takes [`Decode`](Self::Decode) where it is possible, and otherwise goes by the mean number of rows per
/// group of a call with its most tokens: on sm_90a [`Small`](Self::Small), [`Medium`](Self::Medium), [`Narrow`](Self::Narrow), [`Wide`](Self::Wide) in that order, and [`Broad`](Self::Broad) where it saves a tile; on sm_100a the
/// first two, but for NVFP4 activations, which have forms of their own: [`Single`](Self::Single) and, above 64 rows, [`Pair`](Self::Pair).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// From rows and ids to the output in one launch: up to eight tokens ([`LayerPlan::has_decode`]). Its blocks wait for each other,
    /// so it is launched cooperatively.
    Decode,
    /// Eight tokens at a time, weights streamed once: decode.
    Small,
    /// Up to 32 tokens at a time, weights streamed: large decode batches.
    Medium,
    /// The same by wgmma (sm_90a).
    Narrow,
    /// Up to 128 tokens at a time: prefill (sm_90a).
    Wide,
    /// Up to 224 tokens at a time, half as many weights (sm_90a).
    Broad,
    /// A block for a tile of up to 192 tokens (NVFP4 activations on sm_100a).
    Single,
    /// A pair of blocks for it (the same).
    Pair,
    /// Both products and the combination in one launch (the same, with a constant global scale in front of L2, no column
    /// chunks and no shared expert apart). Never the planner's choice: it has not been measured. Its blocks wait for each
    /// other, so it is launched cooperatively.
    Mega,
    /// The same with a pair of blocks for a tile.
    MegaPair,
}

/// The number of tokens of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tokens {
    /// Known to the host; becomes part of a captured graph.
    Host(u32),
    /// u32 `[1]` on the device, read when the work runs; capped at `max_tokens`.
    Device(DevicePtr),
}

/// Where routing comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoutingIo {
    /// The layer's router.
    Model {
        /// i64 `[max_tokens]`; null except in a hash layer.
        input_ids: DevicePtr,
    },
    /// The caller's.
    Given {
        /// i32 `[max_tokens, top_k]`: global ids; any value is legal.
        topk_ids: DevicePtr,
        /// f32 `[max_tokens, top_k]`: final weights.
        topk_weights: DevicePtr,
    },
}

/// Addresses of one call. All memory is device memory.
#[derive(Clone, Copy, Debug)]
pub struct LayerIo {
    /// bf16 `[max_tokens, hidden]`, 16-byte aligned.
    pub hidden_states: DevicePtr,
    /// Tokens of this call.
    pub tokens: Tokens,
    /// Tokens that the buffers hold; the workspace must be large enough for them.
    pub max_tokens: usize,
    /// Expert ids and weights.
    pub routing: RoutingIo,
    /// bf16 `[max_tokens, hidden]`, 16-byte aligned; rows past the tokens of the call are not written.
    pub output: DevicePtr,
    /// f32 `[max_tokens, hidden]`, or null.
    pub output_f32: DevicePtr,
    /// What is computed.
    pub part: Part,
    /// The form of the GEMMs; `None` for the planner's choice by `max_tokens`.
    pub form: Option<Form>,
}

/// A layer, ready to be enqueued.
#[derive(Clone, Debug)]
pub struct LayerPlan {
    shape: LayerShape,
    options: LayerOptions,
    config: LayerConfig,
    image: ImageLayout,
    base: DevicePtr,
}

impl LayerPlan {
    /// Checks the layer against the kernels of `arch`; nothing is allocated.
    pub fn new(weights: &LayerWeights, options: &LayerOptions, arch: Arch) -> Result<Self> {
        let shape = LayerShape::new(weights, options, arch)?;
        let image = ImageLayout::new(weights, &shape, options)?;
        let (options, config) = (options.clone(), weights.config.clone());
        Ok(Self { shape, options, config, image, base: DevicePtr::NULL })
    }

    /// Bytes of the weights on the device.
    pub fn bytes(&self) -> usize {
        self.image.bytes()
    }

    /// Sizes.
    pub fn shape(&self) -> &LayerShape {
        &self.shape
    }

    /// Choices.
    pub fn options(&self) -> &LayerOptions {
        &self.options
    }

    /// Where the weights lie.
    pub fn image(&self) -> &ImageLayout {
        &self.image
    }

    /// Constants of the layer.
    pub fn config(&self) -> &LayerConfig {
        &self.config
    }

    /// Address of the weights.
    pub(super) fn base(&self) -> DevicePtr {
        self.base
    }

    /// The workspace of a call of up to `max_tokens` tokens.
    pub fn workspace(&self, max_tokens: usize) -> Result<WorkspaceLayout> {
        WorkspaceLayout::new(&self.shape, &self.options, max_tokens)
    }

    /// Brings the weights to `base` and waits.
    ///
    /// # Safety
    /// `base` is [`bytes`](Self::bytes) bytes of the device's memory, 256-byte aligned, as long as the plan is used.
    pub unsafe fn load(
        &mut self,
        weights: &LayerWeights,
        device: &dyn Device,
        base: DevicePtr,
    ) -> Result<()> {
        // SAFETY: the caller's.
        unsafe { self.image.upload(weights, &self.shape, &self.options, device, base)? };
        self.base = base;
        Ok(())
    }

    /// Enqueues one call with a workspace of `workspace_bytes` bytes at `workspace`.
    ///
    /// # Safety
    /// The plan is loaded on the queue's device. `io` and the workspace are memory of the sizes they claim, the
    /// workspace 256-byte aligned and used by nobody else until the work is finished. Its first
    /// [`STATE`](super::workspace::STATE) words were zero before its first call, and only calls have written there since: a
    /// kernel whose blocks wait for each other may wait for ever otherwise.
    pub unsafe fn enqueue(
        &self,
        queue: &dyn Queue,
        io: &LayerIo,
        workspace: DevicePtr,
        workspace_bytes: usize,
    ) -> Result<()> {
        let layout = self.workspace(io.max_tokens)?;
        if layout.bytes() > workspace_bytes {
            let what = format!("bytes of the workspace for {} tokens", io.max_tokens);
            return Err(Error::mismatch(what, layout.bytes(), workspace_bytes));
        }
        if io.max_tokens == 0 {
            return Ok(());
        }
        let call = Call { plan: self, queue, io, layout: &layout, at: workspace, measuring: false };
        // SAFETY: the caller's.
        unsafe { call.enqueue() }
    }

    /// Measures the constants of the `Warmup` policies on a calibration call, brings those that the options ask for to
    /// the device, and waits. The layer was loaded with [`Activations::Nvfp4`](crate::options::Activations::Nvfp4).
    ///
    /// # Safety
    /// As [`enqueue`](Self::enqueue); no other call of the layer is running.
    pub unsafe fn measure_warmup(
        &self,
        device: &dyn Device,
        io: &LayerIo,
        workspace: DevicePtr,
        workspace_bytes: usize,
    ) -> Result<WarmupScales> {
        let layout = self.workspace(io.max_tokens)?;
        if layout.bytes() > workspace_bytes {
            let what = format!("bytes of the workspace for {} tokens", io.max_tokens);
            return Err(Error::mismatch(what, layout.bytes(), workspace_bytes));
        }
        if layout.tensor_scales.bytes == 0 || io.max_tokens == 0 {
            let why = "needs NVFP4 activations, a warm-up policy and at least one token";
            return Err(Error::invalid("warm-up", why));
        }
        // What is measured lies between the products: no form is both.
        let form = io.form.filter(|&form| !matches!(form, Form::Decode | Form::Mega | Form::MegaPair));
        let io = LayerIo { part: Part::All, form, ..*io };
        let call =
            Call { plan: self, queue: device, io: &io, layout: &layout, at: workspace, measuring: true };
        let maxima = layout.tensor_scales.at(workspace);
        let scale_at = |word: DevicePtr| -> Result<f32> {
            let mut bytes = [0; 4];
            // SAFETY: a word of the workspace.
            unsafe { device.download(word, &mut bytes)? };
            Ok(nvfp4::quantize::tensor_scale_from_amax_bits(u32::from_le_bytes(bytes)))
        };
        let scale = |word: u64| scale_at(maxima.byte_add(4 * word));
        // SAFETY: the caller's.
        unsafe {
            let tokens = call.tokens()?;
            call.measure_x(tokens)?;
            let l1 = scale(0)?;
            if self.options.act_scale == ActScale::Warmup {
                let values = vec![l1; self.shape.groups()];
                device.upload(self.image.l1_scale.at(self.base), bytemuck::cast_slice(&values))?;
                self.set_shared(device, 0, l1)?;
            }
            let (ids, _) = call.swiglu(tokens)?;
            call.measure_h(ids, tokens)?;
            let l2_routed = scale(2)?;
            let l2_shared = match &self.image.shared {
                None => scale(3)?,
                Some(apart) if apart.quantises() => scale_at(layout.shared.maxima.at(workspace))?,
                // Not quantised: no scale.
                Some(_) => 0.0,
            };
            if self.options.act_scale_l2 == ActScaleL2::Warmup {
                let mut values = vec![l2_routed; self.shape.local.len()];
                values.resize(self.shape.groups(), l2_shared);
                device.upload(self.image.l2_scale.at(self.base), bytemuck::cast_slice(&values))?;
                self.set_shared(device, 1, l2_shared)?;
            }
            device.synchronize()?;
            Ok(WarmupScales { l1, l2_routed, l2_shared })
        }
    }

    /// Sets the constant scale of L1 (0) or L2 (1) rows of a shared expert that is apart.
    ///
    /// # Safety
    /// The plan is loaded on the device.
    unsafe fn set_shared(&self, device: &dyn Device, which: u64, scale: f32) -> Result<()> {
        match &self.image.shared {
            // SAFETY: a word of the region.
            Some(at) => unsafe {
                device.upload(at.scales.at(self.base).byte_add(4 * which), &scale.to_le_bytes())
            },
            None => Ok(()),
        }
    }
}
