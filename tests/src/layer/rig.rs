//! A layer and the memory of its calls in the hands of a test: the same buffers for many calls, as an engine has them.

use std::cell::Cell;

use half::bf16;
use kernels::launch::{Arch, Dims};
use megamoe::io::{LayerOutput, Routing, Stats};
use megamoe::options::Part;
use megamoe::runtime::plan::{Form, LayerIo, LayerPlan, RoutingIo, Tokens};
use megamoe::runtime::shape::LayerOptions;
use megamoe::runtime::workspace::{STATE, STATS};
use megamoe::runtime::{Args, Device, DevicePtr, Memory, Queue};
use megamoe::weights::LayerWeights;
use megamoe::{Error, Result};

use super::Call;
use super::record::{Recorder, Work};

/// What nobody has written: NaN as bf16 and as f32.
const POISON: u8 = 0xff;
/// Bytes behind a workspace that no call may touch.
const GUARD: usize = 1024;

/// A layer on a device.
pub struct Rig<'d> {
    /// The device.
    pub device: &'d dyn Device,
    /// The layer's plan.
    pub plan: LayerPlan,
    /// Its weights.
    pub weights: Memory<'d>,
}

impl<'d> Rig<'d> {
    /// Loads the layer.
    pub fn load(device: &'d dyn Device, layer: &LayerWeights, options: &LayerOptions) -> Result<Self> {
        let mut plan = LayerPlan::new(layer, options, device.arch())?;
        let weights = Memory::new(device, plan.bytes())?;
        // SAFETY: memory of that size.
        unsafe { plan.load(layer, device, weights.ptr())? };
        Ok(Self { device, plan, weights })
    }

    /// The work of a call, as a graph captures it.
    pub fn record(&self, io: &LayerIo, workspace: &Workspace<'_>) -> Result<Vec<Work>> {
        let recorder = Recorder::like(self.device);
        // SAFETY: nothing runs.
        unsafe { self.plan.enqueue(&recorder, io, workspace.at(), workspace.bytes)? };
        Ok(recorder.finish())
    }

    /// The buffers' contents after `call`, and what the workspace says of it.
    pub fn output(
        &self,
        call: &Call,
        buffers: &Buffers<'_>,
        workspace: &Workspace<'_>,
    ) -> Result<LayerOutput> {
        let layout = self.plan.workspace(buffers.max_tokens)?;
        let (output, output_f32) = buffers.output(call.tokens, self.plan.shape().hidden)?;
        let slots = self.plan.shape().slots(call.tokens);
        let routing = match call.ids.is_empty() {
            false => Routing { topk_ids: call.ids.clone(), topk_weights: call.weights.clone() },
            true => Routing {
                topk_ids: words(self.device, layout.topk_ids.at(workspace.at()), slots)?
                    .map(|word| word as i32)
                    .collect(),
                topk_weights: words(self.device, layout.topk_weights.at(workspace.at()), slots)?
                    .map(f32::from_bits)
                    .collect(),
            },
        };
        Ok(LayerOutput { output, output_f32, routing, stats: workspace.stats(self.device)? })
    }
}

fn words(device: &dyn Device, at: DevicePtr, count: usize) -> Result<impl Iterator<Item = u32>> {
    let mut bytes = vec![0; 4 * count];
    // SAFETY: inside a region of a live workspace.
    unsafe { device.download(at, &mut bytes)? };
    Ok((0..count).map(move |i| u32::from_le_bytes([0, 1, 2, 3].map(|j| bytes[4 * i + j]))))
}

/// A workspace with a guard behind it.
pub struct Workspace<'d> {
    memory: Memory<'d>,
    /// Its size without the guard.
    pub bytes: usize,
}

impl<'d> Workspace<'d> {
    /// Counters at zero, a guard behind the end, the rest as the device gives it.
    pub fn new(device: &'d dyn Device, bytes: usize) -> Result<Self> {
        let memory = Memory::new(device, bytes + GUARD)?;
        // SAFETY: memory of that size.
        unsafe {
            device.fill_u32(memory.ptr(), 0, STATE)?;
            device.fill_u8(memory.ptr().byte_add(bytes as u64), POISON, GUARD)?;
        }
        Ok(Self { memory, bytes })
    }

    /// Its address.
    pub fn at(&self) -> DevicePtr {
        self.memory.ptr()
    }

    /// Everything but what calls find in it becomes NaN.
    pub fn poison(&self, device: &dyn Device) -> Result<()> {
        self.poison_from(device, 4 * STATE)
    }

    /// Everything from a byte on becomes NaN.
    pub fn poison_from(&self, device: &dyn Device, offset: usize) -> Result<()> {
        assert!(offset <= self.bytes);
        // SAFETY: inside the allocation.
        unsafe { device.fill_u8(self.at().byte_add(offset as u64), POISON, self.bytes - offset) }
    }

    /// The counters; an error if the guard was written.
    pub fn stats(&self, device: &dyn Device) -> Result<Stats> {
        let mut guard = vec![0; GUARD];
        // SAFETY: inside the allocation.
        unsafe { device.download(self.at().byte_add(self.bytes as u64), &mut guard)? };
        if guard.iter().any(|&byte| byte != POISON) {
            return Err(Error::invalid("workspace", "was written past its end"));
        }
        let stats: Vec<u64> = words(device, self.at(), STATS)?.map(u64::from).collect();
        Ok(Stats {
            invalid_slots: stats[0],
            foreign_slots: stats[1],
            non_finite_rows: stats[2],
            invalid_tokens: stats[3],
            saturated_blocks_l1: stats[4],
            saturated_blocks_l2: stats[5],
        })
    }
}

/// Inputs and outputs at fixed addresses.
pub struct Buffers<'d> {
    device: &'d dyn Device,
    /// bf16 rows.
    pub x: Memory<'d>,
    /// The number of tokens.
    pub tokens: Memory<'d>,
    /// Expert ids.
    pub ids: Memory<'d>,
    /// Routing weights.
    pub weights: Memory<'d>,
    output: Memory<'d>,
    output_f32: Memory<'d>,
    /// Tokens that there is room for.
    pub max_tokens: usize,
}

impl<'d> Buffers<'d> {
    /// For calls of `plan` of up to `max_tokens` tokens.
    pub fn new(device: &'d dyn Device, plan: &LayerPlan, max_tokens: usize) -> Result<Self> {
        let shape = plan.shape();
        let memory = |bytes: usize| Memory::new(device, bytes);
        Ok(Self {
            device,
            x: memory(2 * shape.hidden * max_tokens)?,
            tokens: memory(4)?,
            ids: memory(4 * shape.slots(max_tokens))?,
            weights: memory(4 * shape.slots(max_tokens))?,
            output: memory(2 * shape.hidden * max_tokens)?,
            output_f32: memory(4 * shape.hidden * max_tokens)?,
            max_tokens,
        })
    }

    /// Puts a call's inputs into them; everything else becomes NaN, outputs too.
    pub fn set(&self, call: &Call) -> Result<()> {
        let tokens = (call.tokens as u32).to_le_bytes();
        // SAFETY: each is as large as the call's data at most, which the copies check.
        unsafe {
            for memory in [&self.x, &self.ids, &self.weights, &self.output, &self.output_f32] {
                self.device.fill_u8(memory.ptr(), POISON, memory.bytes())?;
            }
            for (to, data) in [
                (&self.x, bytemuck::cast_slice(&call.x)),
                (&self.tokens, &tokens[..]),
                (&self.ids, bytemuck::cast_slice(&call.ids)),
                (&self.weights, bytemuck::cast_slice(&call.weights)),
            ] {
                assert!(data.len() <= to.bytes());
                if !data.is_empty() {
                    self.device.upload(to.ptr(), data)?;
                }
            }
        }
        Ok(())
    }

    /// Their addresses, the number of tokens on the device, the routing the caller's unless `model`.
    pub fn io(&self, model: bool, form: Form) -> LayerIo {
        LayerIo {
            hidden_states: self.x.ptr(),
            tokens: Tokens::Device(self.tokens.ptr()),
            max_tokens: self.max_tokens,
            routing: match model {
                true => RoutingIo::Model { input_ids: DevicePtr::NULL },
                false => RoutingIo::Given { topk_ids: self.ids.ptr(), topk_weights: self.weights.ptr() },
            },
            output: self.output.ptr(),
            output_f32: self.output_f32.ptr(),
            part: Part::All,
            form: Some(form),
        }
    }

    fn output(&self, tokens: usize, hidden: usize) -> Result<(Vec<bf16>, Vec<f32>)> {
        let (bf16s, f32s) = (self.output.to_vec()?, self.output_f32.to_vec()?);
        let past = bf16s[2 * tokens * hidden..].iter().chain(&f32s[4 * tokens * hidden..]);
        if past.into_iter().any(|&byte| byte != POISON) {
            return Err(Error::invalid("output", "a row past the tokens of the call was written"));
        }
        let elements = 0..tokens * hidden;
        Ok((
            elements.clone().map(|i| bf16::from_le_bytes([bf16s[2 * i], bf16s[2 * i + 1]])).collect(),
            elements.map(|i| f32::from_le_bytes([0, 1, 2, 3].map(|j| f32s[4 * i + j]))).collect(),
        ))
    }
}

/// A device that counts what a stream in capture refuses, and the bytes that are alive.
pub struct Strict<'d> {
    device: &'d dyn Device,
    /// Allocations and releases.
    pub allocations: Cell<usize>,
    /// Bytes allocated, ever.
    pub allocated: Cell<usize>,
    /// Copies to the device.
    pub uploads: Cell<usize>,
    /// Copies to the host, which wait.
    pub downloads: Cell<usize>,
    /// Other waits.
    pub waits: Cell<usize>,
}

impl<'d> Strict<'d> {
    /// Watches `device`.
    pub fn new(device: &'d dyn Device) -> Self {
        let zero = || Cell::new(0);
        Self {
            device,
            allocations: zero(),
            allocated: zero(),
            uploads: zero(),
            downloads: zero(),
            waits: zero(),
        }
    }

    /// Everything that was counted but bytes.
    pub fn refused(&self) -> usize {
        self.allocations.get() + self.uploads.get() + self.downloads.get() + self.waits.get()
    }
}

fn count(counter: &Cell<usize>, by: usize) {
    counter.set(counter.get() + by);
}

impl Queue for Strict<'_> {
    fn arch(&self) -> Arch {
        self.device.arch()
    }

    fn multiprocessors(&self) -> u32 {
        self.device.multiprocessors()
    }

    unsafe fn launch(&self, dims: Dims, args: Args, dependent: bool) -> Result<()> {
        // SAFETY: the caller's, here and below.
        unsafe { self.device.launch(dims, args, dependent) }
    }

    unsafe fn fill_u8(&self, to: DevicePtr, value: u8, bytes: usize) -> Result<()> {
        // SAFETY: the caller's.
        unsafe { self.device.fill_u8(to, value, bytes) }
    }

    unsafe fn fill_u32(&self, to: DevicePtr, value: u32, words: usize) -> Result<()> {
        // SAFETY: the caller's.
        unsafe { self.device.fill_u32(to, value, words) }
    }
}

impl Device for Strict<'_> {
    fn alloc(&self, bytes: usize) -> Result<DevicePtr> {
        count(&self.allocations, 1);
        count(&self.allocated, bytes);
        self.device.alloc(bytes)
    }

    unsafe fn free(&self, memory: DevicePtr) {
        count(&self.allocations, 1);
        // SAFETY: the caller's.
        unsafe { self.device.free(memory) }
    }

    unsafe fn upload(&self, to: DevicePtr, bytes: &[u8]) -> Result<()> {
        count(&self.uploads, 1);
        // SAFETY: the caller's.
        unsafe { self.device.upload(to, bytes) }
    }

    unsafe fn download(&self, from: DevicePtr, bytes: &mut [u8]) -> Result<()> {
        count(&self.downloads, 1);
        // SAFETY: the caller's.
        unsafe { self.device.download(from, bytes) }
    }

    fn synchronize(&self) -> Result<()> {
        count(&self.waits, 1);
        self.device.synchronize()
    }

    fn tracks_writes(&self) -> bool {
        self.device.tracks_writes()
    }
}
