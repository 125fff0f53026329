//! A whole call from host memory to host memory on any [`Device`]: what `run` and `verify` need. The layer is brought
//! to the device for each call; an engine keeps it there.

use half::bf16;

use super::plan::{Form, LayerIo, LayerPlan, RoutingIo, Tokens};
use super::shape::LayerOptions;
use super::workspace::{STATE, STATS, stats};
use super::{Device, DevicePtr, Memory};
use crate::Error;
use crate::error::Result;
use crate::io::{LayerInput, LayerOutput, Routing, RoutingSource};
use crate::options::{ForwardOptions, Part, WarmupScales};
use crate::weights::LayerWeights;

/// What every byte of workspace and outputs holds before a call: NaN as bf16 and as f32.
const POISON: u8 = 0xff;

/// A layer on a device, with host memory on both sides.
pub struct HostLayer<'d> {
    device: &'d dyn Device,
    plan: LayerPlan,
    /// The GEMM form; `None` for the planner's choice.
    pub form: Option<Form>,
    _weights: Memory<'d>,
}

impl<'d> HostLayer<'d> {
    /// Loads the layer.
    pub fn load(device: &'d dyn Device, layer: &LayerWeights, options: &LayerOptions) -> Result<Self> {
        let mut plan = LayerPlan::new(layer, options, device.arch())?;
        let weights = Memory::new(device, plan.bytes())?;
        // SAFETY: memory of that size.
        unsafe { plan.load(layer, device, weights.ptr())? };
        Ok(Self { device, plan, form: None, _weights: weights })
    }

    /// The plan.
    pub fn plan(&self) -> &LayerPlan {
        &self.plan
    }

    /// One call. `capacity` tokens are planned for, at least those of the input.
    pub fn forward(&self, input: &LayerInput<'_>, part: Part, capacity: usize) -> Result<LayerOutput> {
        let shape = self.plan.shape();
        input.check(shape.hidden, shape.top_k)?;
        if part == Part::Shared && shape.shared == super::shape::SharedKind::None {
            return Err(Error::invalid("part", "the layer has no shared expert"));
        }
        let max_tokens = input.tokens.max(capacity);
        if max_tokens == 0 {
            return Ok(LayerOutput::default());
        }
        let call = CallMemory::new(self.device, input, shape.hidden, shape.top_k, max_tokens)?;
        let layout = self.plan.workspace(max_tokens)?;
        let workspace = workspace(self.device, layout.bytes())?;
        let io = LayerIo { part, form: self.form, ..call.io(max_tokens) };
        // SAFETY: everything was just made, of the sizes that the plan asks for, and outlives the downloads below.
        unsafe {
            self.plan.enqueue(self.device, &io, workspace.ptr(), workspace.bytes())?;
        }
        let mut output = call.output(input.tokens, shape.hidden)?;
        let word = |region: super::Region, bytes: usize| -> Result<Vec<u8>> {
            let mut out = vec![0; bytes];
            // SAFETY: inside the region.
            unsafe { self.device.download(region.at(workspace.ptr()), &mut out)? };
            Ok(out)
        };
        let counted = word(layout.stats, 4 * STATS)?;
        let mut counters = [0; STATS];
        counters.iter_mut().zip(words(&counted)).for_each(|(to, from)| *to = from);
        output.stats = stats(&counters);
        let slots = shape.slots(input.tokens);
        if part != Part::Shared {
            output.routing = match input.routing {
                RoutingSource::Given { topk_ids, topk_weights } => {
                    Routing { topk_ids: topk_ids.into(), topk_weights: topk_weights.into() }
                }
                RoutingSource::Model { .. } => Routing {
                    topk_ids: words(&word(layout.topk_ids, 4 * slots)?).map(|w| w as i32).collect(),
                    topk_weights: words(&word(layout.topk_weights, 4 * slots)?).map(f32::from_bits).collect(),
                },
            };
        }
        Ok(output)
    }

    /// The constants of the `Warmup` policies, measured on `input` and set.
    pub fn measure_warmup(&self, input: &LayerInput<'_>) -> Result<WarmupScales> {
        let shape = self.plan.shape();
        input.check(shape.hidden, shape.top_k)?;
        let call = CallMemory::new(self.device, input, shape.hidden, shape.top_k, input.tokens)?;
        let layout = self.plan.workspace(input.tokens)?;
        let workspace = workspace(self.device, layout.bytes())?;
        let io = call.io(input.tokens);
        // SAFETY: as in `forward`.
        unsafe { self.plan.measure_warmup(self.device, &io, workspace.ptr(), workspace.bytes()) }
    }
}

/// A workspace with its counters at zero. On a card everything else is poisoned; the emulator knows itself what nobody
/// has written.
fn workspace(device: &dyn Device, bytes: usize) -> Result<Memory<'_>> {
    let memory = Memory::new(device, bytes)?;
    // SAFETY: memory of that size, at least the counters.
    unsafe {
        if !device.tracks_writes() {
            device.fill_u8(memory.ptr(), POISON, bytes)?;
        }
        device.fill_u32(memory.ptr(), 0, STATE)?;
    }
    Ok(memory)
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
    bytes.chunks_exact(4).map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]]))
}

/// Device memory of a call's inputs and outputs.
struct CallMemory<'d> {
    x: Memory<'d>,
    tokens: Memory<'d>,
    routing: RoutingMemory<'d>,
    output: Memory<'d>,
    output_f32: Memory<'d>,
}

enum RoutingMemory<'d> {
    Model(Option<Memory<'d>>),
    Given(Memory<'d>, Memory<'d>),
}

impl<'d> CallMemory<'d> {
    fn new(
        device: &'d dyn Device,
        input: &LayerInput<'_>,
        hidden: usize,
        top_k: usize,
        max_tokens: usize,
    ) -> Result<Self> {
        // Rows past the tokens of the call are poisoned too.
        let padded = |bytes: &[u8], size: usize| -> Result<Memory<'d>> {
            let mut all = vec![POISON; size * max_tokens];
            all[..bytes.len()].copy_from_slice(bytes);
            Memory::of(device, &all)
        };
        let poisoned = |bytes: usize| -> Result<Memory<'d>> {
            let memory = Memory::new(device, bytes)?;
            // SAFETY: of that size.
            unsafe { device.fill_u8(memory.ptr(), POISON, bytes)? };
            Ok(memory)
        };
        let routing = match input.routing {
            RoutingSource::Model { input_ids } => {
                RoutingMemory::Model(input_ids.map(|ids| padded(bytemuck::cast_slice(ids), 8)).transpose()?)
            }
            RoutingSource::Given { topk_ids, topk_weights } => RoutingMemory::Given(
                padded(bytemuck::cast_slice(topk_ids), 4 * top_k)?,
                padded(bytemuck::cast_slice(topk_weights), 4 * top_k)?,
            ),
        };
        Ok(Self {
            x: padded(bytemuck::cast_slice(input.hidden_states), 2 * hidden)?,
            tokens: Memory::of(device, &(input.tokens as u32).to_le_bytes())?,
            routing,
            output: poisoned(max_tokens * hidden * 2)?,
            output_f32: poisoned(max_tokens * hidden * 4)?,
        })
    }

    fn io(&self, max_tokens: usize) -> LayerIo {
        LayerIo {
            hidden_states: self.x.ptr(),
            tokens: Tokens::Device(self.tokens.ptr()),
            max_tokens,
            routing: match &self.routing {
                RoutingMemory::Model(ids) => {
                    RoutingIo::Model { input_ids: ids.as_ref().map_or(DevicePtr::NULL, Memory::ptr) }
                }
                RoutingMemory::Given(ids, weights) => {
                    RoutingIo::Given { topk_ids: ids.ptr(), topk_weights: weights.ptr() }
                }
            },
            output: self.output.ptr(),
            output_f32: self.output_f32.ptr(),
            part: Part::All,
            form: None,
        }
    }

    /// The outputs; an error if a row past the tokens of the call was written.
    fn output(&self, tokens: usize, hidden: usize) -> Result<LayerOutput> {
        let (bf16s, f32s) = (self.output.to_vec()?, self.output_f32.to_vec()?);
        let (bf16s, past) = bf16s.split_at(2 * tokens * hidden);
        let (f32s, past_f32) = f32s.split_at(4 * tokens * hidden);
        if past.iter().chain(past_f32).any(|&byte| byte != POISON) {
            return Err(Error::invalid("output", "a row past the tokens of the call was written"));
        }
        Ok(LayerOutput {
            output_f32: words(f32s).map(f32::from_bits).collect(),
            output: bf16s.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]])).collect(),
            ..LayerOutput::default()
        })
    }
}

/// Loads `layer` on `device` and runs one call.
pub fn forward(
    device: &dyn Device,
    layer: &LayerWeights,
    input: &LayerInput<'_>,
    options: &ForwardOptions,
) -> Result<LayerOutput> {
    HostLayer::load(device, layer, &options.into())?.forward(input, options.part, 0)
}

/// Loads `layer` on `device` and measures the warm-up scales, whatever of them `options` use.
pub fn measure_warmup(
    device: &dyn Device,
    layer: &LayerWeights,
    input: &LayerInput<'_>,
    options: &ForwardOptions,
) -> Result<WarmupScales> {
    let mut options = LayerOptions::from(options);
    options.act_scale_l2 = crate::options::ActScaleL2::Warmup;
    options.warmup = None;
    HostLayer::load(device, layer, &options)?.measure_warmup(input)
}
