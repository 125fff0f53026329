//! The cases.

use kernels::launch::Arch;
use megamoe::options::{ActScale, ActScaleL2, Activations, ForwardOptions, Part, WarmupScales};
use megamoe::runtime::Device;
use megamoe::runtime::backend::HostLayer;
use megamoe::runtime::plan::Form;
use megamoe::runtime::shape::LayerOptions;

use super::problem::{Call, Routing, RowKind, Shared, Spec};
use super::{Check, against_oracle, against_oracle_in, forms, forms_of_call, run, same_bits};

/// What a case does.
pub(super) type Body = Box<dyn FnOnce(&dyn Device) -> Check + Send>;

/// One test.
pub struct Case {
    /// Unique.
    pub name: String,
    /// The one architecture that an emulator runs it for, if it is about that; a card runs every case.
    pub emulated_on: Option<Arch>,
    /// What it does.
    pub body: Body,
}

/// Sizes of the layers and calls.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// The layer that most cases use.
    pub layer: Spec,
    /// Layers with other sizes: K tails, widths that are no multiple of a tile.
    pub layers: &'static [Spec],
    /// Token counts of the shape cases.
    pub tokens: &'static [usize],
    /// Tokens of the other cases.
    pub some: usize,
    /// Repetitions that must give the same bits.
    pub repeats: usize,
}

impl Sizes {
    /// For the emulator: minutes.
    pub const EMULATOR: Sizes = Sizes {
        layer: Spec::new(192, 80, 6, 2),
        layers: &[Spec::new(80, 48, 4, 3), Spec::new(256, 272, 3, 2), Spec::new(320, 144, 5, 1)],
        tokens: &[0, 1, 2, 7, 17],
        some: 9,
        repeats: 2,
    };

    /// For a card: real widths, a few experts.
    pub const CARD: Sizes = Sizes {
        layer: Spec::new(1024, 512, 16, 6),
        layers: &[
            Spec::new(4096, 2048, 8, 6),
            Spec::new(7168, 3072, 4, 3),
            Spec::new(5120, 2304, 4, 4),
            Spec::new(2880, 2880, 4, 4),
            Spec::new(2304, 384, 24, 6),
        ],
        tokens: &[0, 1, 2, 7, 127, 128, 129, 1000],
        some: 131,
        repeats: 400,
    };
}

const ROUTINGS: [Routing; 7] = [
    Routing::Uniform,
    Routing::Zipf,
    Routing::One,
    Routing::Last,
    Routing::Invalid,
    Routing::Nothing,
    Routing::Model,
];

/// NVFP4 activations under every pair of policies that differ in a kernel.
fn policies() -> Vec<(ActScale, ActScaleL2)> {
    vec![
        (ActScale::RowDynamic, ActScaleL2::Bound),
        (ActScale::RowDynamic, ActScaleL2::RowDynamic),
        (ActScale::TensorDynamic, ActScaleL2::TensorDynamic),
        (ActScale::Static, ActScaleL2::Static),
        (ActScale::Warmup, ActScaleL2::Warmup),
    ]
}

fn quantised(act_scale: ActScale, act_scale_l2: ActScaleL2) -> LayerOptions {
    LayerOptions { activations: Activations::Nvfp4, act_scale, act_scale_l2, ..LayerOptions::default() }
}

struct Cases(Vec<Case>);

impl Cases {
    fn add(
        &mut self,
        name: impl std::fmt::Display,
        body: impl FnOnce(&dyn Device) -> Check + Send + 'static,
    ) {
        // Hopper has one way for both kinds of rows, and the emulator has no time for it twice.
        let name = name.to_string();
        let is_blackwells = name.split('/').next().is_some_and(|group| group.ends_with("+nvfp4"));
        let emulated_on = is_blackwells.then_some(Arch::Sm100a);
        self.0.push(Case { name, emulated_on, body: Box::new(body) });
    }

    /// A call of the layer against the oracle, in every form.
    fn oracle(
        &mut self,
        name: String,
        spec: Spec,
        call: (usize, Routing, RowKind),
        options: LayerOptions,
        part: Part,
    ) {
        let (tokens, routing, rows) = call;
        self.add(name, move |device| {
            let call = Call::new(&spec, tokens, routing, rows, 0x5eed ^ tokens as u64);
            against_oracle(device, &spec, &call, &options, part)
        });
    }
}

/// Calls of few tokens, in the form for them and in the one that it must equal to the bit.
fn decode_cases(cases: &mut Cases, sizes: &Sizes) {
    let mut add = |name: String, spec: Spec, call: (usize, Routing, RowKind), options: LayerOptions, part| {
        let (tokens, routing, rows) = call;
        cases.add(format!("decode/{name}"), move |device| {
            let call = Call::new(&spec, tokens, routing, rows, 0xdec0 ^ tokens as u64);
            against_oracle_in(device, &spec, &call, &options, part, &[Form::Small, Form::Decode])
        });
    };
    let layer = sizes.layer;
    let default = LayerOptions::default;
    for tokens in [1, 3, 8] {
        for routing in ROUTINGS {
            let call = (tokens, routing, RowKind::Normal);
            add(format!("{routing:?}-{tokens}"), layer, call, default(), Part::All);
        }
    }
    for (&spec, tokens) in sizes.layers.iter().zip([1, 2, 4, 1, 2].into_iter().cycle()) {
        for (tokens, routing) in [(tokens, Routing::Uniform), (2 * tokens, Routing::One)] {
            let name =
                format!("{}x{}x{}x{}-{tokens}", spec.hidden, spec.intermediate, spec.experts, spec.top_k);
            add(name, spec, (tokens, routing, RowKind::Normal), default(), Part::All);
        }
    }
    add("edges".into(), layer, (8, Routing::Uniform, RowKind::Edges), default(), Part::All);
    for limit in [Some(1.0), None] {
        let spec = Spec { limit, ..layer };
        add(format!("limit-{limit:?}"), spec, (5, Routing::Uniform, RowKind::Normal), default(), Part::All);
    }
    let extreme = Spec { extreme: true, up_over_gate: 10.0, ..layer };
    add("extreme".into(), extreme, (4, Routing::Uniform, RowKind::Normal), default(), Part::All);
    for shared in [Shared::Nvfp4, Shared::Nvfp4Wide, Shared::Bf16] {
        let spec = Spec { shared, ..layer };
        for part in [Part::All, Part::Routed] {
            let call = (7, Routing::Invalid, RowKind::Edges);
            add(format!("{shared:?}-{part:?}"), spec, call, default(), part);
        }
    }
    for (first, last) in [(0, layer.experts / 2), (1, 2), (2, 2)] {
        let options = LayerOptions { local_experts: Some(first..last), ..default() };
        for shared in [Shared::None, Shared::Nvfp4] {
            let spec = Spec { shared, ..layer };
            if (first, shared) == (2, Shared::None) {
                continue;
            }
            let call = (8, Routing::Invalid, RowKind::Normal);
            add(format!("local-{first}..{last}-{shared:?}"), spec, call, options.clone(), Part::All);
        }
    }
}

/// Every case at `sizes`.
pub fn cases(sizes: &Sizes) -> Vec<Case> {
    let mut cases = Cases(Vec::new());
    let (layer, some) = (sizes.layer, sizes.some);
    let normal = |tokens| (tokens, Routing::Uniform, RowKind::Normal);
    for &tokens in sizes.tokens {
        cases.oracle(format!("tokens/{tokens}"), layer, normal(tokens), LayerOptions::default(), Part::All);
    }
    for routing in ROUTINGS {
        let call = (some, routing, RowKind::Normal);
        cases.oracle(format!("routing/{routing:?}"), layer, call, LayerOptions::default(), Part::All);
    }
    for &spec in sizes.layers {
        let name = format!("shape/{}x{}x{}x{}", spec.hidden, spec.intermediate, spec.experts, spec.top_k);
        cases.oracle(name, spec, normal(some), LayerOptions::default(), Part::All);
    }
    let edges = (some, Routing::Uniform, RowKind::Edges);
    cases.oracle("rows/edges".into(), layer, edges, LayerOptions::default(), Part::All);
    for (l1, l2) in policies() {
        let options = quantised(l1, l2);
        cases.oracle(format!("nvfp4/{l1:?}-{l2:?}"), layer, normal(some), options.clone(), Part::All);
        let shared = Spec { shared: Shared::Nvfp4, ..layer };
        cases.oracle(format!("nvfp4-shared/{l1:?}-{l2:?}"), shared, normal(some), options.clone(), Part::All);
        cases.oracle(format!("nvfp4-edges/{l1:?}-{l2:?}"), layer, edges, options, Part::All);
    }
    for limit in [Some(1.0), None] {
        let spec = Spec { limit, ..layer };
        cases.oracle(format!("limit/{limit:?}"), spec, normal(some), LayerOptions::default(), Part::All);
        let options = quantised(ActScale::RowDynamic, ActScaleL2::Bound);
        cases.oracle(format!("limit-nvfp4/{limit:?}"), spec, normal(some), options, Part::All);
    }
    for up_over_gate in [0.1, 10.0] {
        let spec = Spec { up_over_gate, ..layer };
        cases.oracle(
            format!("scales/{up_over_gate}"),
            spec,
            normal(some),
            LayerOptions::default(),
            Part::All,
        );
    }
    // The same with NVFP4 rows, which have kernels of their own on Blackwell; policies in turn.
    let bound = quantised(ActScale::RowDynamic, ActScaleL2::Bound);
    for &tokens in sizes.tokens {
        let options = bound.clone();
        cases.oracle(format!("tokens+nvfp4/{tokens}"), layer, normal(tokens), options, Part::All);
    }
    for routing in ROUTINGS {
        let call = (some, routing, RowKind::Normal);
        let shared = Spec { shared: Shared::Nvfp4, ..layer };
        cases.oracle(format!("routing+nvfp4/{routing:?}"), shared, call, bound.clone(), Part::All);
    }
    for (&spec, (l1, l2)) in sizes.layers.iter().zip(policies().into_iter().cycle()) {
        let name =
            format!("shape+nvfp4/{}x{}x{}x{}", spec.hidden, spec.intermediate, spec.experts, spec.top_k);
        cases.oracle(name, spec, normal(some), quantised(l1, l2), Part::All);
    }
    let extreme = Spec { extreme: true, ..layer };
    cases.oracle("scales+nvfp4/extreme".into(), extreme, normal(some), bound.clone(), Part::All);
    let apart = Spec { up_over_gate: 0.1, ..layer };
    cases.oracle("scales+nvfp4/0.1".into(), apart, normal(some), bound, Part::All);
    for shared in [Shared::Nvfp4, Shared::Nvfp4Wide, Shared::Bf16] {
        let spec = Spec { shared, ..layer };
        for (l1, l2) in policies() {
            for part in [Part::All, Part::Routed, Part::Shared] {
                // Every policy with every kind (folded ones above), every part with two of them.
                let wanted = match part {
                    Part::All => shared != Shared::Nvfp4,
                    _ => matches!(l1, ActScale::Static | ActScale::Warmup),
                };
                if !wanted {
                    continue;
                }
                let name = format!("shared+nvfp4/{shared:?}-{part:?}-{l1:?}-{l2:?}");
                let call = (some, Routing::Invalid, RowKind::Edges);
                cases.oracle(name, spec, call, quantised(l1, l2), part);
            }
        }
    }
    cases.oracle("scales/extreme".into(), extreme, normal(some), LayerOptions::default(), Part::All);
    for shared in [Shared::Nvfp4, Shared::Nvfp4Wide, Shared::Bf16] {
        let spec = Spec { shared, ..layer };
        for part in [Part::All, Part::Routed, Part::Shared] {
            let name = format!("shared/{shared:?}-{part:?}");
            cases.oracle(name, spec, (some, Routing::Invalid, RowKind::Edges), LayerOptions::default(), part);
        }
    }
    for shared in [Shared::Nvfp4, Shared::Nvfp4Wide] {
        let spec = Spec { shared, ..layer };
        cases.add(format!("saturated+nvfp4/{shared:?}"), move |device| saturated(device, &spec, some));
    }
    decode_cases(&mut cases, sizes);
    for (first, last) in [(0, layer.experts / 2), (layer.experts / 2, layer.experts), (1, 2), (2, 2)] {
        let options = LayerOptions { local_experts: Some(first..last), ..LayerOptions::default() };
        let spec = Spec { shared: Shared::Nvfp4, ..layer };
        let call = (some, Routing::Invalid, RowKind::Normal);
        cases.oracle(format!("local/{first}..{last}"), spec, call, options.clone(), Part::All);
        for (l1, l2) in [(ActScale::Static, ActScaleL2::Static), (ActScale::Warmup, ActScaleL2::Bound)] {
            let options = LayerOptions { local_experts: Some(first..last), ..quantised(l1, l2) };
            let name = format!("local+nvfp4/{first}..{last}-{l1:?}");
            cases.oracle(name, spec, call, options, Part::All);
        }
    }
    cases.add("bits/alone-and-in-a-batch", move |device| alone_and_in_a_batch(device, &layer, some));
    let repeats = sizes.repeats;
    let row = quantised(ActScale::RowDynamic, ActScaleL2::RowDynamic);
    for (group, options) in [("bits", LayerOptions::default()), ("bits+nvfp4", row)] {
        let with = options.clone();
        cases.add(format!("{group}/capacity"), move |device| capacity(device, &layer, &with, some));
        cases.add(format!("{group}/repeats"), move |device| {
            repeated(device, &layer, &options, some, repeats, forms(device, options.activations))
        });
    }
    cases.add("decode/repeats", move |device| {
        repeated(device, &layer, &LayerOptions::default(), 8, repeats, &[Form::Decode])
    });
    cases.add("warmup/measured", move |device| warmup(device, &layer, some));
    cases.0
}

/// A token gives the same bits alone, in either form, as in a batch.
fn alone_and_in_a_batch(device: &dyn Device, spec: &Spec, tokens: usize) -> Check {
    let call = Call::new(spec, tokens, Routing::Zipf, RowKind::Normal, 77);
    for options in [LayerOptions::default(), quantised(ActScale::RowDynamic, ActScaleL2::Bound)] {
        for &form in forms(device, options.activations) {
            let batch = run(device, spec, &call, &options, Part::All, form)?;
            for token in [0, tokens / 2, tokens - 1] {
                let alone_forms = forms_of_call(device, spec, 1, &options, Part::All)?;
                for &alone_form in &alone_forms {
                    let alone = run(device, spec, &call.pick(&[token]), &options, Part::All, alone_form)?;
                    let row = token * spec.hidden..(token + 1) * spec.hidden;
                    let same = alone
                        .output_f32
                        .iter()
                        .zip(&batch.output_f32[row])
                        .all(|(a, b)| a.to_bits() == b.to_bits());
                    if !same {
                        return Err(format!(
                            "token {token}: {alone_form:?} alone differs from {form:?} in a batch"
                        ));
                    }
                }
            }
        }
    }
    Ok(())
}

/// Buffers planned for more tokens than there are give the same bits.
fn capacity(device: &dyn Device, spec: &Spec, options: &LayerOptions, tokens: usize) -> Check {
    let weights = spec.weights();
    let call = Call::new(spec, tokens, Routing::Uniform, RowKind::Normal, 78);
    let mut layer = HostLayer::load(device, &weights, options).map_err(|e| e.to_string())?;
    for &form in forms(device, options.activations) {
        layer.form = Some(form);
        let run = |capacity| layer.forward(&call.input(), Part::All, capacity).map_err(|e| e.to_string());
        let exact = run(0)?;
        for capacity in [tokens + 1, 3 * tokens, 40 * tokens] {
            same_bits(&run(capacity)?, &exact).map_err(|e| format!("{form:?}, capacity {capacity}: {e}"))?;
        }
    }
    Ok(())
}

/// The same call again and again.
fn repeated(
    device: &dyn Device,
    spec: &Spec,
    options: &LayerOptions,
    tokens: usize,
    repeats: usize,
    forms: &[Form],
) -> Check {
    let weights = spec.weights();
    let call = Call::new(spec, tokens, Routing::Zipf, RowKind::Normal, 79);
    let mut layer = HostLayer::load(device, &weights, options).map_err(|e| e.to_string())?;
    for &form in forms {
        layer.form = Some(form);
        let run = || layer.forward(&call.input(), Part::All, 0).map_err(|e| e.to_string());
        let first = run()?;
        for n in 1..repeats {
            same_bits(&run()?, &first).map_err(|e| format!("{form:?}, repetition {n}: {e}"))?;
        }
    }
    Ok(())
}

/// Constants that the data exceed: saturated blocks are counted as the oracle counts them, of tokens in L1, of rows in L2.
fn saturated(device: &dyn Device, spec: &Spec, tokens: usize) -> Check {
    let call = Call::new(spec, tokens, Routing::Invalid, RowKind::Edges, 82);
    let warmup = WarmupScales { l1: 0.0003, l2_routed: 1e-5, l2_shared: 2e-5 };
    let options = LayerOptions { warmup: Some(warmup), ..quantised(ActScale::Warmup, ActScaleL2::Warmup) };
    for part in [Part::All, Part::Routed, Part::Shared] {
        let forward = ForwardOptions { part, ..options.forward() };
        let want = megamoe::oracle::forward(&spec.weights(), &call.input(), &forward);
        let stats = want.map_err(|e| e.to_string())?.stats;
        if stats.saturated_blocks_l1 == 0 || stats.saturated_blocks_l2 == 0 {
            return Err(format!("{part:?}: nothing is saturated: {stats:?}"));
        }
        against_oracle(device, spec, &call, &options, part)?;
    }
    Ok(())
}

/// Warm-up scales measured on the device are the oracle's, and are used from then on.
fn warmup(device: &dyn Device, spec: &Spec, tokens: usize) -> Check {
    let spec = Spec { shared: Shared::Nvfp4, ..*spec };
    let weights = spec.weights();
    let options = quantised(ActScale::Warmup, ActScaleL2::Warmup);
    let (batch, call) = (
        Call::new(&spec, tokens, Routing::Zipf, RowKind::Normal, 80),
        Call::new(&spec, tokens, Routing::Uniform, RowKind::Normal, 81),
    );
    let text = |e: megamoe::Error| e.to_string();
    let want = megamoe::oracle::measure_warmup(&weights, &batch.input(), &options.forward()).map_err(text)?;
    let layer = HostLayer::load(device, &weights, &options).map_err(text)?;
    let before = layer.forward(&call.input(), Part::All, 0).map_err(text)?;
    if !before.output_f32.iter().all(|v| v.is_nan()) {
        return Err("a call before the warm-up must show".to_owned());
    }
    let got = layer.measure_warmup(&batch.input()).map_err(text)?;
    for (what, got, want) in [
        ("l1", got.l1, want.l1),
        ("l2_routed", got.l2_routed, want.l2_routed),
        ("l2_shared", got.l2_shared, want.l2_shared),
    ] {
        if (got - want).abs() > 1e-6 * want {
            return Err(format!("{what}: {got}, expected {want}"));
        }
    }
    let after = layer.forward(&call.input(), Part::All, 0).map_err(text)?;
    let forward = LayerOptions { warmup: Some(got), ..options }.forward();
    let want = megamoe::oracle::forward(&weights, &call.input(), &forward).map_err(text)?;
    super::compare(&after, &want)
}
