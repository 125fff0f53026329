//! A layer's calls on a card through the raw interface that an engine uses: device buffers, a workspace, a stream.

use half::bf16;
use megamoe::cuda::{
    Context, Device, DeviceBuffer, DevicePtr, Graph, KernelSet, MoeLayer, RawStream, Stream, Workspace,
};
use megamoe::io::Stats;
use megamoe::options::Part;
use megamoe::runtime::plan::{Form, LayerIo, RoutingIo, Tokens};
use megamoe::runtime::shape::LayerOptions;

use super::{Call, Spec};
use crate::gpu::Unavailable;

/// What every byte of the outputs holds before a call.
const POISON: u8 = 0xff;

/// A card with the kernels and a stream.
pub struct Card {
    /// The kernels.
    pub set: KernelSet,
    /// A stream of its own.
    pub stream: Stream,
}

/// An error as text, with what was tried.
pub fn text(what: &str) -> impl Fn(megamoe::Error) -> String + '_ {
    move |error| format!("{what}: {error}")
}

impl Card {
    /// The first card that there are kernels for.
    pub fn open() -> Result<Card, Unavailable> {
        let devices = Device::all().map_err(|e| Unavailable::Absent(format!("no CUDA driver: {e}")))?;
        let device = devices.into_iter().find(|device| device.arch().is_ok());
        let absent = || Unavailable::Absent("no CUDA device that there are kernels for".to_owned());
        Card::on(device.ok_or_else(absent)?).map_err(|e| Unavailable::Broken(e.to_string()))
    }

    /// That card.
    pub fn on(device: Device) -> megamoe::Result<Card> {
        let set = KernelSet::load(&Context::primary(device)?)?;
        Ok(Card { stream: Stream::new(set.context())?, set })
    }

    /// The context.
    pub fn context(&self) -> &Context {
        self.set.context()
    }

    /// The GEMM forms that it has.
    pub fn forms(&self) -> &'static [Form] {
        match self.set.arch() {
            kernels::launch::Arch::Sm90a => &Form::ALL,
            kernels::launch::Arch::Sm100a => &[Form::Small],
        }
    }

    /// Loads a layer.
    pub fn load(&self, spec: &Spec, options: &LayerOptions) -> Result<MoeLayer, String> {
        MoeLayer::load(&self.set, &spec.weights(), options).map_err(text("load"))
    }

    /// A workspace for the layer.
    pub fn workspace(&self, layer: &MoeLayer, max_tokens: usize) -> Result<Workspace, String> {
        let bytes = layer.workspace_bytes(max_tokens).map_err(text("workspace_bytes"))?;
        Workspace::new(self.context(), bytes).map_err(text("workspace"))
    }

    /// Free bytes of device memory.
    pub fn free(&self) -> Result<usize, String> {
        Ok(self.context().memory().map_err(text("memory"))?.0)
    }
}

/// The results of a call, every bit, and what it counted.
#[derive(Clone, Debug, PartialEq)]
pub struct Bits {
    /// bf16 `[max_tokens, hidden]`.
    pub output: Vec<u16>,
    /// f32 `[max_tokens, hidden]`.
    pub output_f32: Vec<u32>,
    /// The workspace's counters.
    pub stats: Stats,
}

impl Bits {
    /// An error that names the first element that differs.
    pub fn same(&self, want: &Bits, what: &str) -> Result<(), String> {
        if self == want {
            return Ok(());
        }
        let at = self.output_f32.iter().zip(&want.output_f32).position(|(a, b)| a != b);
        let bf16_at = self.output.iter().zip(&want.output).position(|(a, b)| a != b);
        Err(format!(
            "{what}: first f32 difference {at:?}, bf16 {bf16_at:?}, {:?} and {:?}",
            self.stats, want.stats
        ))
    }
}

/// Device memory of the calls of one layer: graphs keep its addresses, its contents change.
pub struct Buffers {
    x: DeviceBuffer<u16>,
    tokens: DeviceBuffer<u32>,
    ids: DeviceBuffer<i32>,
    weights: DeviceBuffer<f32>,
    output: DeviceBuffer<u16>,
    output_f32: DeviceBuffer<u32>,
    hidden: usize,
    top_k: usize,
    max_tokens: usize,
}

impl Buffers {
    /// For up to `max_tokens` tokens.
    pub fn new(card: &Card, spec: &Spec, max_tokens: usize) -> Result<Buffers, String> {
        let make = || -> megamoe::Result<Buffers> {
            let context = card.context();
            let (rows, slots) = (max_tokens * spec.hidden, max_tokens * spec.top_k);
            Ok(Buffers {
                x: DeviceBuffer::alloc(context, rows)?,
                tokens: DeviceBuffer::alloc(context, 1)?,
                ids: DeviceBuffer::alloc(context, slots)?,
                weights: DeviceBuffer::alloc(context, slots)?,
                output: DeviceBuffer::alloc(context, rows)?,
                output_f32: DeviceBuffer::alloc(context, rows)?,
                hidden: spec.hidden,
                top_k: spec.top_k,
                max_tokens,
            })
        };
        make().map_err(text("buffers"))
    }

    /// Brings a call in, with poison past its tokens and in the outputs, and waits.
    pub fn set(&mut self, stream: &Stream, call: &Call) -> Result<(), String> {
        let mut put = || -> megamoe::Result<()> {
            for bytes in [&mut self.x, &mut self.output] {
                bytes.fill_bytes(stream, POISON)?;
            }
            self.output_f32.fill_bytes(stream, POISON)?;
            self.ids.fill_bytes(stream, POISON)?;
            self.weights.fill_bytes(stream, POISON)?;
            let x: Vec<u16> = call.x.iter().copied().map(bf16::to_bits).collect();
            self.x.copy_from_host_at(stream, 0, &x)?;
            self.ids.copy_from_host_at(stream, 0, &call.ids)?;
            self.weights.copy_from_host_at(stream, 0, &call.weights)?;
            self.tokens.copy_from_host(stream, &[call.tokens as u32])
        };
        assert!(call.tokens <= self.max_tokens && call.x.len() == call.tokens * self.hidden);
        assert!(call.ids.is_empty() || call.ids.len() == call.tokens * self.top_k);
        put().map_err(text("inputs"))
    }

    /// The addresses, given routing, the token count on the device.
    pub fn io(&self, form: Option<Form>) -> LayerIo {
        LayerIo {
            hidden_states: self.x.ptr(),
            tokens: Tokens::Device(self.tokens.ptr()),
            max_tokens: self.max_tokens,
            routing: RoutingIo::Given { topk_ids: self.ids.ptr(), topk_weights: self.weights.ptr() },
            output: self.output.ptr(),
            output_f32: self.output_f32.ptr(),
            part: Part::All,
            form,
        }
    }

    /// As [`io`](Self::io), with the layer's own routing.
    pub fn io_routed(&self, form: Option<Form>) -> LayerIo {
        LayerIo { routing: RoutingIo::Model { input_ids: DevicePtr::NULL }, ..self.io(form) }
    }

    /// The outputs after all work of `stream`; an error if a row past `tokens` was written.
    pub fn read(&self, stream: &Stream, workspace: &Workspace, tokens: usize) -> Result<Bits, String> {
        let get = || -> megamoe::Result<Bits> {
            Ok(Bits {
                output: self.output.to_vec(stream)?,
                output_f32: self.output_f32.to_vec(stream)?,
                stats: workspace.counters(stream)?,
            })
        };
        let bits = get().map_err(text("results"))?;
        let first = tokens * self.hidden;
        if bits.output[first..].iter().any(|&v| v != u16::MAX)
            || bits.output_f32[first..].iter().any(|&v| v != u32::MAX)
        {
            return Err("a row past the tokens of the call was written".to_owned());
        }
        Ok(bits)
    }
}

/// One call, launched directly on the card's stream, with fresh counters.
pub fn eager(
    card: &Card,
    layer: &MoeLayer,
    workspace: &mut Workspace,
    buffers: &mut Buffers,
    call: &Call,
    io: &LayerIo,
) -> Result<Bits, String> {
    buffers.set(&card.stream, call)?;
    workspace.reset_counters(&card.stream).map_err(text("counters"))?;
    // SAFETY: addresses of `buffers` and `workspace`, which live until `read` has waited.
    unsafe { layer.forward(&card.stream, io, workspace).map_err(text("forward"))? };
    buffers.read(&card.stream, workspace, call.tokens)
}

/// Records one call. The caller keeps what `io` and `workspace` point at alive as long as the graph is replayed.
pub fn capture(card: &Card, layer: &MoeLayer, workspace: &Workspace, io: &LayerIo) -> Result<Graph, String> {
    // SAFETY: the stream is the one being captured; nothing runs before a replay.
    let work = |stream: RawStream| unsafe { layer.forward(stream, io, workspace) };
    Graph::capture(card.context(), work).map_err(text("capture"))
}

/// Replays `graph`, recorded with these buffers and this workspace, on `stream`, with fresh counters.
pub fn replay(
    graph: &Graph,
    stream: &Stream,
    workspace: &mut Workspace,
    buffers: &mut Buffers,
    call: &Call,
) -> Result<Bits, String> {
    buffers.set(stream, call)?;
    workspace.reset_counters(stream).map_err(text("counters"))?;
    // SAFETY: what was recorded is alive: the caller's buffers, workspace and layer.
    unsafe { graph.replay(stream).map_err(text("replay"))? };
    buffers.read(stream, workspace, call.tokens)
}
