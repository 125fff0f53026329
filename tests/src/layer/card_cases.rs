//! What only a card can show: graphs, streams, workspaces, memory that runs out, a context that breaks.

use half::bf16;
use megamoe::Error;
use megamoe::cpu::{LinearMode, RowScale};
use megamoe::cuda::{
    CudaDevice, Device, DeviceBuffer, Graph, MoeLayer, Nvfp4GroupedLinear, Stream, Workspace,
};
use megamoe::options::{ActScale, ActScaleL2, Activations, Part};
use megamoe::runtime::DevicePtr;
use megamoe::runtime::backend::HostLayer;
use megamoe::runtime::linear::LinearIo;
use megamoe::runtime::plan::{Form, LayerIo, Tokens};
use megamoe::runtime::shape::LayerOptions;
use megamoe::weights::Nvfp4Matrix;

use super::card::{Bits, Buffers, Card, capture, eager, replay, text};
use super::{Call, Check, Random, Routing, RowKind, Shared, Spec};

/// Tokens that buffers and graphs are made for.
const MAX_TOKENS: usize = 131;
/// Replays that must give the same bits.
const REPEATS: usize = 400;
/// `CUDA_ERROR_OUT_OF_MEMORY`.
const OUT_OF_MEMORY: u32 = 2;
/// Past everything that a driver maps for a process.
const NOWHERE: DevicePtr = DevicePtr(0x7f00_0000_0000_0000);

/// A case's result when it cannot be run here: the reason.
pub type Outcome = Result<Option<String>, String>;

/// A name and what is done.
pub type Case = (&'static str, fn(&Card) -> Outcome);

/// Every case that leaves the context whole; [`break_context`] is for a child process.
pub const CASES: [Case; 14] = [
    ("graph/replay-is-eager", |card| done(replay_is_eager(card))),
    ("graph/own-routing", |card| done(own_routing(card))),
    ("graph/other-streams", |card| done(other_streams(card))),
    ("graph/repeats", |card| done(repeats(card))),
    ("graph/decode", |card| done(decode(card))),
    ("graph/failed-capture", |card| done(failed_capture(card))),
    ("tokens/host-and-device", |card| done(host_and_device_counts(card))),
    ("workspace/shared-by-layers", |card| done(shared_workspace(card))),
    ("workspace/poison", |card| done(poisoned_workspace(card))),
    ("workspace/too-small", |card| done(small_workspace(card))),
    ("memory/out-of-memory", |card| done(out_of_memory(card))),
    ("memory/calls-allocate-nothing", |card| done(calls_allocate_nothing(card))),
    ("linear/replay-is-eager", |card| done(linear_replay_is_eager(card))),
    ("device/second", second_device),
];

fn done(result: Check) -> Outcome {
    result.map(|()| None)
}

const LAYER: Spec = Spec::new(1024, 512, 16, 6);

fn nvfp4(act_scale: ActScale, act_scale_l2: ActScaleL2) -> LayerOptions {
    LayerOptions { activations: Activations::Nvfp4, act_scale, act_scale_l2, ..LayerOptions::default() }
}

/// Layers that differ in their launches.
fn layers() -> Vec<(Spec, LayerOptions)> {
    vec![
        (LAYER, LayerOptions::default()),
        (Spec { shared: Shared::Bf16, ..LAYER }, LayerOptions::default()),
        (Spec { shared: Shared::Nvfp4, ..LAYER }, nvfp4(ActScale::RowDynamic, ActScaleL2::Bound)),
        (
            Spec { shared: Shared::Nvfp4Wide, ..LAYER },
            nvfp4(ActScale::TensorDynamic, ActScaleL2::TensorDynamic),
        ),
        (LAYER, nvfp4(ActScale::Static, ActScaleL2::Static)),
    ]
}

/// Calls of every size and routing up to [`MAX_TOKENS`].
fn calls(spec: &Spec) -> Vec<Call> {
    let call = |(tokens, routing, rows), seed| Call::new(spec, tokens, routing, rows, seed);
    let kinds = [
        (MAX_TOKENS, Routing::Uniform, RowKind::Normal),
        (1, Routing::Zipf, RowKind::Normal),
        (0, Routing::Uniform, RowKind::Normal),
        (33, Routing::One, RowKind::Normal),
        (64, Routing::Invalid, RowKind::Edges),
        (7, Routing::Nothing, RowKind::Normal),
        (MAX_TOKENS, Routing::Zipf, RowKind::Edges),
    ];
    kinds.into_iter().zip(900..).map(|(kind, seed)| call(kind, seed)).collect()
}

fn expect<T>(result: megamoe::Result<T>, what: &str, wanted: impl Fn(&Error) -> bool) -> Check {
    match result {
        Err(error) if wanted(&error) => Ok(()),
        Err(error) => Err(format!("{what}: another error: {error:?}")),
        Ok(_) => Err(format!("{what}: no error")),
    }
}

/// A graph that was captured once serves other rows, routings and token counts with the bits of direct launches,
/// which are those of the layer from host memory.
fn replay_is_eager(card: &Card) -> Check {
    let device = CudaDevice::new(&card.set).map_err(text("device"))?;
    for (n, (spec, options)) in layers().into_iter().enumerate() {
        let layer = card.load(&spec, &options)?;
        let mut host = HostLayer::load(&device, &spec.weights(), &options).map_err(text("load"))?;
        let mut workspace = card.workspace(&layer, MAX_TOKENS)?;
        let mut buffers = Buffers::new(card, &spec, MAX_TOKENS)?;
        for &form in card.forms(options.activations) {
            let io = buffers.io(Some(form));
            // Before any call: nothing is left to be done lazily.
            let graph = capture(card, &layer, &workspace, &io)?;
            host.form = Some(form);
            for (c, call) in calls(&spec).iter().enumerate() {
                let what = format!("layer {n}, {form:?}, call {c}");
                let replayed = replay(&graph, &card.stream, &mut workspace, &mut buffers, call)?;
                let direct = eager(card, &layer, &mut workspace, &mut buffers, call, &io)?;
                replayed.same(&direct, &what)?;
                let want = host.forward(&call.input(), Part::All, MAX_TOKENS).map_err(text("host layer"))?;
                let same = want.output_f32.iter().zip(&direct.output_f32).all(|(a, &b)| a.to_bits() == b);
                if !same {
                    return Err(format!("{what}: not the bits of the layer from host memory"));
                }
            }
        }
    }
    Ok(())
}

/// The same with the layer's own router.
fn own_routing(card: &Card) -> Check {
    let layer = card.load(&LAYER, &LayerOptions::default())?;
    let mut workspace = card.workspace(&layer, MAX_TOKENS)?;
    let mut buffers = Buffers::new(card, &LAYER, MAX_TOKENS)?;
    for &form in card.forms(Activations::Bf16) {
        let io = buffers.io_routed(Some(form));
        let graph = capture(card, &layer, &workspace, &io)?;
        for tokens in [MAX_TOKENS, 1, 0, 40] {
            let call = Call::new(&LAYER, tokens, Routing::Model, RowKind::Normal, tokens as u64);
            let replayed = replay(&graph, &card.stream, &mut workspace, &mut buffers, &call)?;
            let direct = eager(card, &layer, &mut workspace, &mut buffers, &call, &io)?;
            replayed.same(&direct, &format!("{form:?}, {tokens} tokens"))?;
        }
    }
    Ok(())
}

/// A graph may be replayed on any stream.
fn other_streams(card: &Card) -> Check {
    let layer = card.load(&LAYER, &LayerOptions::default())?;
    let mut workspace = card.workspace(&layer, MAX_TOKENS)?;
    let mut buffers = Buffers::new(card, &LAYER, MAX_TOKENS)?;
    let call = Call::new(&LAYER, 77, Routing::Uniform, RowKind::Normal, 5);
    for &form in card.forms(Activations::Bf16) {
        let io = buffers.io(Some(form));
        let graph = capture(card, &layer, &workspace, &io)?;
        let want = eager(card, &layer, &mut workspace, &mut buffers, &call, &io)?;
        for n in 0..3 {
            let other = Stream::new(card.context()).map_err(text("stream"))?;
            let got = replay(&graph, &other, &mut workspace, &mut buffers, &call)?;
            got.same(&want, &format!("{form:?}, stream {n}"))?;
        }
    }
    Ok(())
}

/// The same bits, hundreds of times.
fn repeats(card: &Card) -> Check {
    for (n, (spec, options)) in layers().into_iter().enumerate().take(3) {
        let layer = card.load(&spec, &options)?;
        let mut workspace = card.workspace(&layer, MAX_TOKENS)?;
        let mut buffers = Buffers::new(card, &spec, MAX_TOKENS)?;
        let call = Call::new(&spec, MAX_TOKENS, Routing::Zipf, RowKind::Normal, 6);
        for &form in card.forms(options.activations) {
            let graph = capture(card, &layer, &workspace, &buffers.io(Some(form)))?;
            let first = replay(&graph, &card.stream, &mut workspace, &mut buffers, &call)?;
            for again in 1..REPEATS {
                let got = replay(&graph, &card.stream, &mut workspace, &mut buffers, &call)?;
                got.same(&first, &format!("layer {n}, {form:?}, replay {again}"))?;
            }
        }
    }
    Ok(())
}

/// The decode form: one graph for every token count up to eight, every routing and every stream, on a workspace that other forms
/// and other layers use in between; the bits of the small form; hundreds of replays.
fn decode(card: &Card) -> Check {
    const TOKENS: usize = 8;
    let specs = [LAYER, Spec { shared: Shared::Bf16, ..LAYER }, Spec { shared: Shared::Nvfp4, ..LAYER }];
    let options = LayerOptions::default();
    let layers = specs
        .iter()
        .map(|spec| Ok((spec, card.load(spec, &options)?)))
        .collect::<Result<Vec<_>, String>>()?;
    let bytes = layers
        .iter()
        .map(|(_, layer)| layer.workspace_bytes(MAX_TOKENS).map_err(text("workspace_bytes")))
        .collect::<Result<Vec<_>, String>>()?;
    let largest = bytes.into_iter().max().unwrap_or_default();
    let mut workspace = Workspace::new(card.context(), largest).map_err(text("workspace"))?;
    let mut graphs = Vec::new();
    for (spec, layer) in &layers {
        let buffers = Buffers::new(card, spec, TOKENS)?;
        let given = capture(card, layer, &workspace, &buffers.io(Some(Form::Decode)))?;
        let routed = capture(card, layer, &workspace, &buffers.io_routed(Some(Form::Decode)))?;
        graphs.push((buffers, [given, routed]));
    }
    let other = Stream::new(card.context()).map_err(text("stream"))?;
    let kinds = [
        (8, Routing::Uniform, RowKind::Normal),
        (1, Routing::Zipf, RowKind::Normal),
        (0, Routing::Uniform, RowKind::Normal),
        (3, Routing::One, RowKind::Normal),
        (8, Routing::Invalid, RowKind::Edges),
        (2, Routing::Nothing, RowKind::Normal),
        (5, Routing::Model, RowKind::Normal),
    ];
    for (c, (tokens, routing, rows)) in kinds.into_iter().enumerate() {
        for (n, ((spec, layer), (buffers, graphs))) in layers.iter().zip(&mut graphs).enumerate() {
            let what = format!("layer {n}, call {c}");
            let call = Call::new(spec, tokens, routing, rows, 0xdec + c as u64);
            let is_model = routing == Routing::Model;
            let io = |form| if is_model { buffers.io_routed(form) } else { buffers.io(form) };
            let (split, whole, planned) = (io(Some(Form::Small)), io(Some(Form::Decode)), io(None));
            let want = eager(card, layer, &mut workspace, buffers, &call, &split)?;
            for io in [&whole, &planned] {
                eager(card, layer, &mut workspace, buffers, &call, io)?.same(&want, &what)?;
            }
            let graph = &graphs[usize::from(is_model)];
            for stream in [&card.stream, &other] {
                replay(graph, stream, &mut workspace, buffers, &call)?.same(&want, &what)?;
            }
        }
    }
    let (spec, (buffers, graphs)) = (layers[0].0, &mut graphs[0]);
    let call = Call::new(spec, TOKENS, Routing::Zipf, RowKind::Normal, 6);
    let first = replay(&graphs[0], &card.stream, &mut workspace, buffers, &call)?;
    for again in 1..REPEATS {
        let got = replay(&graphs[0], &card.stream, &mut workspace, buffers, &call)?;
        got.same(&first, &format!("replay {again}"))?;
    }
    Ok(())
}

/// Work that fails while it is recorded gives its own error and leaves the layer usable.
fn failed_capture(card: &Card) -> Check {
    let layer = card.load(&LAYER, &LayerOptions::default())?;
    let mut workspace = card.workspace(&layer, MAX_TOKENS)?;
    let mut buffers = Buffers::new(card, &LAYER, MAX_TOKENS)?;
    let io = buffers.io(None);
    let too_many = LayerIo { max_tokens: 50 * MAX_TOKENS, ..io };
    // SAFETY: refused before anything is enqueued; the good call in front of it is recorded and never runs.
    let broken = Graph::capture(card.context(), |stream| unsafe {
        layer.forward(stream, &io, &workspace)?;
        layer.forward(stream, &too_many, &workspace)
    });
    expect(broken, "capture", |error| matches!(error, Error::Mismatch { .. }))?;
    let call = Call::new(&LAYER, 9, Routing::Uniform, RowKind::Normal, 7);
    let graph = capture(card, &layer, &workspace, &io)?;
    let got = replay(&graph, &card.stream, &mut workspace, &mut buffers, &call)?;
    let want = eager(card, &layer, &mut workspace, &mut buffers, &call, &io)?;
    got.same(&want, "after a failed capture")
}

/// A token count that the host gives is the device's.
fn host_and_device_counts(card: &Card) -> Check {
    let layer = card.load(&LAYER, &LayerOptions::default())?;
    let mut workspace = card.workspace(&layer, MAX_TOKENS)?;
    let mut buffers = Buffers::new(card, &LAYER, MAX_TOKENS)?;
    for &form in card.forms(Activations::Bf16) {
        for tokens in [0, 1, 33, MAX_TOKENS] {
            let call = Call::new(&LAYER, tokens, Routing::Uniform, RowKind::Normal, 8);
            let io = buffers.io(Some(form));
            let host = LayerIo { tokens: Tokens::Host(tokens as u32), ..io };
            let a = eager(card, &layer, &mut workspace, &mut buffers, &call, &io)?;
            let b = eager(card, &layer, &mut workspace, &mut buffers, &call, &host)?;
            b.same(&a, &format!("{form:?}, {tokens} tokens"))?;
        }
    }
    let io = LayerIo { tokens: Tokens::Host(MAX_TOKENS as u32 + 1), ..buffers.io(None) };
    // SAFETY: refused before anything is enqueued.
    let refused = unsafe { layer.forward(&card.stream, &io, &workspace) };
    expect(refused, "too many tokens", |error| matches!(error, Error::Mismatch { .. }))
}

/// Layers of different shapes take turns in one workspace, directly and in one graph.
fn shared_workspace(card: &Card) -> Check {
    let specs = [LAYER, Spec { shared: Shared::Nvfp4, ..Spec::new(2304, 384, 24, 6) }];
    let options = [LayerOptions::default(), nvfp4(ActScale::TensorDynamic, ActScaleL2::TensorDynamic)];
    let mut loaded = Vec::new();
    for (spec, options) in specs.iter().zip(&options) {
        let layer = card.load(spec, options)?;
        let mut buffers = Buffers::new(card, spec, MAX_TOKENS)?;
        let call = Call::new(spec, 70, Routing::Uniform, RowKind::Normal, 9);
        let mut own = card.workspace(&layer, MAX_TOKENS)?;
        own.fill(&card.stream, 0xff).map_err(text("fill"))?;
        let io = buffers.io(None);
        let want = eager(card, &layer, &mut own, &mut buffers, &call, &io)?;
        loaded.push((layer, buffers, call, want));
    }
    let bytes = loaded.iter().map(|(layer, ..)| layer.workspace_bytes(MAX_TOKENS).map_err(text("bytes")));
    let bytes = bytes.collect::<Result<Vec<_>, _>>()?.into_iter().max().unwrap_or(0);
    let mut shared = Workspace::new(card.context(), bytes).map_err(text("workspace"))?;
    for round in 0..4 {
        for (n, (layer, buffers, call, want)) in loaded.iter_mut().enumerate() {
            let io = buffers.io(None);
            let got = eager(card, layer, &mut shared, buffers, call, &io)?;
            got.same(want, &format!("round {round}, layer {n}"))?;
        }
    }
    // SAFETY: recorded one after another on one stream; buffers, workspace and layers outlive the replay below.
    let graph = Graph::capture(card.context(), |stream| unsafe {
        loaded.iter().try_for_each(|(layer, buffers, ..)| layer.forward(stream, &buffers.io(None), &shared))
    });
    let graph = graph.map_err(text("capture of two layers"))?;
    for (_, buffers, call, _) in &mut loaded {
        buffers.set(&card.stream, call)?;
    }
    shared.fill(&card.stream, 0xff).map_err(text("fill"))?;
    // SAFETY: as above.
    unsafe { graph.replay(&card.stream).map_err(text("replay"))? };
    for (n, (_, buffers, call, want)) in loaded.iter().enumerate() {
        let got = buffers.read(&card.stream, &shared, call.tokens)?;
        // The counters are those of both layers together.
        Bits { stats: want.stats, ..got }.same(want, &format!("graph of both, layer {n}"))?;
    }
    Ok(())
}

/// What is in the workspace before a call does not matter.
fn poisoned_workspace(card: &Card) -> Check {
    for (n, (spec, options)) in layers().into_iter().enumerate() {
        let layer = card.load(&spec, &options)?;
        let mut workspace = card.workspace(&layer, MAX_TOKENS)?;
        let mut buffers = Buffers::new(card, &spec, MAX_TOKENS)?;
        let call = Call::new(&spec, 100, Routing::Invalid, RowKind::Edges, 10);
        for &form in card.forms(options.activations) {
            let io = buffers.io(Some(form));
            let mut first = None;
            for byte in [0xff, 0x00, 0x7f, 0x3c] {
                workspace.fill(&card.stream, byte).map_err(text("fill"))?;
                let got = eager(card, &layer, &mut workspace, &mut buffers, &call, &io)?;
                let first = first.get_or_insert_with(|| got.clone());
                got.same(first, &format!("layer {n}, {form:?}, workspace of {byte:#x}"))?;
            }
        }
    }
    Ok(())
}

/// A workspace that is too small is an error before anything is enqueued.
fn small_workspace(card: &Card) -> Check {
    let layer = card.load(&LAYER, &LayerOptions::default())?;
    let mut good = card.workspace(&layer, MAX_TOKENS)?;
    let small = Workspace::new(card.context(), good.bytes() - 1).map_err(text("workspace"))?;
    let mut buffers = Buffers::new(card, &LAYER, MAX_TOKENS)?;
    let call = Call::new(&LAYER, 12, Routing::Uniform, RowKind::Normal, 11);
    let io = buffers.io(None);
    let want = eager(card, &layer, &mut good, &mut buffers, &call, &io)?;
    buffers.set(&card.stream, &call)?;
    // SAFETY: refused before anything is enqueued.
    let refused = unsafe { layer.forward(&card.stream, &io, &small) };
    expect(refused, "small workspace", |error| matches!(error, Error::Mismatch { .. }))?;
    // Reads as a call of no tokens: nothing was written.
    buffers.read(&card.stream, &good, 0)?;
    let got = eager(card, &layer, &mut good, &mut buffers, &call, &io)?;
    got.same(&want, "after the error")
}

/// Takes device memory until at most `left` bytes are free.
fn fill_memory(card: &Card, left: usize) -> Result<Vec<DeviceBuffer<u8>>, String> {
    let mut taken = Vec::new();
    let mut piece = 8 << 30;
    while piece >= 1 << 20 {
        let fits = card.free()?.checked_sub(left).is_some_and(|over| over >= piece);
        match if fits {
            DeviceBuffer::alloc(card.context(), piece)
        } else {
            Err(Error::invalid("piece", "too large"))
        } {
            Ok(buffer) => taken.push(buffer),
            Err(_) => piece /= 2,
        }
    }
    Ok(taken)
}

/// A load that runs out of memory, in its first allocation or in a later one, leaves nothing allocated.
fn out_of_memory(card: &Card) -> Check {
    let spec = Spec::new(4096, 2048, 8, 6);
    let weights = spec.weights();
    let options = LayerOptions::default();
    let bytes = MoeLayer::bytes_of(&weights, &options, card.set.arch()).map_err(text("bytes"))?;
    // Once as it should be: the driver has what it wants for itself.
    drop(MoeLayer::load(&card.set, &weights, &options).map_err(text("load"))?);
    let start = card.free()?;
    // In front of the image; between the image and the last of the matrices on their way (one expert: 9 MiB).
    for (what, left) in [("the image", bytes / 2), ("the staging", bytes + (4 << 20))] {
        let taken = fill_memory(card, left)?;
        let mut free = Vec::new();
        for _ in 0..4 {
            let failed = MoeLayer::load(&card.set, &weights, &options);
            expect(failed, what, |e| matches!(e, Error::Driver { code: OUT_OF_MEMORY, .. }))?;
            free.push(card.free()?);
        }
        if free.windows(2).skip(1).any(|pair| pair[0] != pair[1]) {
            return Err(format!("{what}: free memory after each failure: {free:?}"));
        }
        drop(taken);
        let end = card.free()?;
        if end + (4 << 20) < start {
            return Err(format!("{what}: {start} bytes were free before, {end} after"));
        }
    }
    drop(MoeLayer::load(&card.set, &weights, &options).map_err(text("load after the failures"))?);
    Ok(())
}

/// A forward call, direct or recorded, takes no device memory.
fn calls_allocate_nothing(card: &Card) -> Check {
    let layer = card.load(&LAYER, &LayerOptions::default())?;
    let mut workspace = card.workspace(&layer, MAX_TOKENS)?;
    let mut buffers = Buffers::new(card, &LAYER, MAX_TOKENS)?;
    let call = Call::new(&LAYER, 50, Routing::Uniform, RowKind::Normal, 12);
    for &form in card.forms(Activations::Bf16) {
        let io = buffers.io(Some(form));
        let graph = capture(card, &layer, &workspace, &io)?;
        // The first calls let the driver set up what it keeps: code, a graph's own launch memory.
        eager(card, &layer, &mut workspace, &mut buffers, &call, &io)?;
        replay(&graph, &card.stream, &mut workspace, &mut buffers, &call)?;
        let before = card.free()?;
        for _ in 0..20 {
            eager(card, &layer, &mut workspace, &mut buffers, &call, &io)?;
            replay(&graph, &card.stream, &mut workspace, &mut buffers, &call)?;
        }
        let after = card.free()?;
        if after != before {
            return Err(format!("{form:?}: {before} bytes free before 40 calls, {after} after"));
        }
    }
    Ok(())
}

/// A grouped linear map: one graph for every token count up to its buffers'.
fn linear_replay_is_eager(card: &Card) -> Check {
    let (groups, cols, rows) = (4, 1024, 512);
    let weight = |seed| {
        let mut random = Random(seed);
        let data: Vec<_> = (0..rows * cols).map(|_| bf16::from_f32(0.05 * random.normal())).collect();
        Nvfp4Matrix::from_bf16(rows, cols, &data).map_err(text("quantise"))
    };
    let weights = (0..groups as u64).map(weight).collect::<Result<Vec<_>, _>>()?;
    let mut random = Random(15);
    let x: Vec<u16> =
        (0..MAX_TOKENS * groups * cols).map(|_| bf16::from_f32(random.normal()).to_bits()).collect();
    for mode in [LinearMode::W4A16, LinearMode::W4A4(RowScale::TensorDynamic)] {
        let run = || -> megamoe::Result<Check> {
            let stream = &card.stream;
            let map = Nvfp4GroupedLinear::load(&card.set, &weights, mode)?;
            let mut workspace = Workspace::new(card.context(), map.workspace_bytes(MAX_TOKENS)?)?;
            let input = DeviceBuffer::from_slice(stream, &x)?;
            let mut count = DeviceBuffer::<u32>::alloc(card.context(), 1)?;
            let mut output = DeviceBuffer::<u16>::alloc(card.context(), MAX_TOKENS * groups * rows)?;
            for &form in card.forms(mode.activations()) {
                let io = LinearIo {
                    rows: input.ptr(),
                    tokens: Tokens::Device(count.ptr()),
                    max_tokens: MAX_TOKENS,
                    output: output.ptr(),
                    output_f32: DevicePtr::NULL,
                    form: Some(form),
                };
                // SAFETY: the buffers live until the results are read, as they do below.
                let graph = Graph::capture(card.context(), |on| unsafe { map.forward(on, &io, &workspace) })?;
                for tokens in [MAX_TOKENS as u32, 1, 0, 40] {
                    count.copy_from_host(stream, &[tokens])?;
                    let mut results = Vec::new();
                    for replayed in [true, false] {
                        output.fill_bytes(stream, 0xff)?;
                        workspace.fill(stream, 0xff)?;
                        // SAFETY: as above.
                        unsafe {
                            if replayed {
                                graph.replay(stream)?;
                            } else {
                                map.forward(stream, &io, &workspace)?;
                            }
                        }
                        results.push(output.to_vec(stream)?);
                    }
                    let untouched = &results[0][tokens as usize * groups * rows..];
                    if results[0] != results[1] || untouched.iter().any(|&v| v != u16::MAX) {
                        return Ok(Err(format!("{mode:?}, {form:?}, {tokens} tokens: other bits")));
                    }
                }
            }
            Ok(Ok(()))
        };
        run().map_err(text("linear"))??;
    }
    Ok(())
}

/// Another card gives the same bits; its workspace and its streams are refused, and nothing is broken by that.
fn second_device(card: &Card) -> Outcome {
    let here = card.context().device();
    let devices = Device::all().map_err(text("devices"))?;
    let other =
        devices.into_iter().find(|d| *d != here && d.arch().is_ok_and(|arch| arch == card.set.arch()));
    let Some(other) = other else { return Ok(Some("there is one CUDA device".to_owned())) };
    let other = Card::on(other).map_err(text("second device"))?;
    let call = Call::new(&LAYER, 60, Routing::Zipf, RowKind::Normal, 13);
    let mut results = Vec::new();
    let mut parts = Vec::new();
    for card in [card, &other] {
        let layer = card.load(&LAYER, &LayerOptions::default())?;
        let mut workspace = card.workspace(&layer, MAX_TOKENS)?;
        let mut buffers = Buffers::new(card, &LAYER, MAX_TOKENS)?;
        let io = buffers.io(None);
        results.push(eager(card, &layer, &mut workspace, &mut buffers, &call, &io)?);
        parts.push((layer, workspace, buffers));
    }
    results[1].same(&results[0], "second device")?;
    let [(layer, workspace, buffers), (_, foreign, _)] = &mut parts[..] else {
        return Err("two devices".into());
    };
    let io = buffers.io(None);
    // SAFETY: the first is refused before anything is enqueued, the second by the driver, which knows its streams.
    let (wrong_workspace, wrong_stream) =
        unsafe { (layer.forward(&card.stream, &io, foreign), layer.forward(&other.stream, &io, workspace)) };
    expect(wrong_workspace, "workspace of another device", |e| matches!(e, Error::Invalid { .. }))?;
    expect(wrong_stream, "stream of another device", |e| matches!(e, Error::Driver { .. }))?;
    let after = eager(card, layer, workspace, buffers, &call, &io)?;
    after.same(&results[0], "after the errors")?;
    Ok(None)
}

/// What the child process does: an illegal address breaks the context; the call that finds out says which error, and
/// every later one that the device failed before. Nothing crashes, on the way out either.
pub fn break_context(card: &Card) -> Check {
    let layer = card.load(&LAYER, &LayerOptions::default())?;
    let other = card.load(&LAYER, &LayerOptions::default())?;
    let workspace = card.workspace(&layer, MAX_TOKENS)?;
    let mut buffers = Buffers::new(card, &LAYER, MAX_TOKENS)?;
    let call = Call::new(&LAYER, 20, Routing::Uniform, RowKind::Normal, 14);
    buffers.set(&card.stream, &call)?;
    let good = buffers.io(None);
    let bad = LayerIo { hidden_states: NOWHERE, ..good };
    let driver = |e: &Error| matches!(e, Error::Driver { code: 700..=719, .. });
    let poisoned = |e: &Error| matches!(e, Error::Poisoned { .. });
    let raw = card.stream.raw();
    // SAFETY: the wrong address is the point, in a process that is for nothing else.
    unsafe {
        // The launch itself may find out or not; who waits does.
        match layer.forward(raw, &bad, &workspace) {
            Ok(()) => expect(layer.synchronize(raw), "synchronize", driver)?,
            Err(error) => expect::<()>(Err(error), "forward", driver)?,
        }
        for _ in 0..3 {
            expect(layer.forward(raw, &good, &workspace), "a later call", poisoned)?;
            expect(layer.synchronize(raw), "a later wait", poisoned)?;
            expect(layer.measure_warmup(&good, &workspace), "a later measurement", poisoned)?;
        }
        // A layer that was not there finds out for itself, once.
        let first = match other.forward(raw, &good, &workspace) {
            Ok(()) => other.synchronize(raw),
            error => error,
        };
        expect(first, "another layer", driver)?;
        expect(other.forward(raw, &good, &workspace), "another layer, again", poisoned)?;
    }
    // Everything else says what the driver says.
    expect(Workspace::new(card.context(), 1 << 20), "a new workspace", |e| {
        matches!(e, Error::Driver { .. })
    })?;
    expect(MoeLayer::load(&card.set, &LAYER.weights(), &LayerOptions::default()), "a new layer", |e| {
        matches!(e, Error::Driver { .. })
    })
}
