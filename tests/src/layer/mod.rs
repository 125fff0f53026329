//! Tests of whole layers: one body per case over [`Device`], for the emulator and for a card.
//!
//! A case makes a layer and a call, runs it on the device between poisoned outputs, and compares every element with the
//! f64 oracle under the project's bar ([`BAR`]), NaN exactly where the oracle has NaN; or compares two runs bit for bit.

#[cfg(feature = "cuda")]
pub mod card;
#[cfg(feature = "cuda")]
pub mod card_cases;
mod cases;
mod linear;
mod problem;
pub mod record;
pub mod rig;

use kernels::launch::Arch;
use megamoe::io::LayerOutput;
use megamoe::metrics::{BAR, Metrics};
use megamoe::options::{ActScaleL2, Activations, ForwardOptions, Part};
use megamoe::oracle;
use megamoe::runtime::Device;
use megamoe::runtime::backend::HostLayer;
use megamoe::runtime::plan::{Form, LayerPlan};
use megamoe::runtime::shape::LayerOptions;

pub use cases::{Case, Sizes, cases};
pub use linear::{LinearSizes, Map, linear_cases};
pub use problem::{Call, Random, Routing, RowKind, Shared, Spec};

/// The result of a case; the error is for people.
pub type Check = Result<(), String>;

/// The GEMM forms of a device for activations.
pub fn forms(device: &dyn Device, activations: Activations) -> &'static [Form] {
    forms_of(device.arch(), activations)
}

/// The GEMM forms of an architecture for activations.
pub fn forms_of(arch: Arch, activations: Activations) -> &'static [Form] {
    match (arch, activations) {
        (Arch::Sm90a, _) => &[Form::Small, Form::Medium, Form::Narrow, Form::Wide, Form::Broad],
        (Arch::Sm100a, Activations::Bf16) => &[Form::Small, Form::Medium],
        (Arch::Sm100a, Activations::Nvfp4) => &[Form::Single, Form::Pair],
    }
}

/// Those of a call: of some there is a decode form, of some there are mega forms.
fn forms_of_call(
    device: &dyn Device,
    spec: &Spec,
    tokens: usize,
    options: &LayerOptions,
    part: Part,
) -> Result<Vec<Form>, String> {
    let mut forms = forms(device, options.activations).to_vec();
    let plan = LayerPlan::new(&spec.weights(), options, device.arch()).map_err(|e| e.to_string())?;
    if plan.has_decode(tokens, part) {
        forms.push(Form::Decode);
    }
    let constant = match options.act_scale_l2 {
        ActScaleL2::Bound => spec.limit.is_some(),
        ActScaleL2::Static | ActScaleL2::Warmup => true,
        ActScaleL2::RowDynamic | ActScaleL2::TensorDynamic => false,
    };
    let apart = matches!(spec.shared, Shared::Nvfp4Wide | Shared::Bf16) && part != Part::Routed;
    if forms.contains(&Form::Pair) && constant && !apart {
        forms.extend([Form::Mega, Form::MegaPair]);
    }
    Ok(forms)
}

/// Runs the call in `form`.
pub fn run(
    device: &dyn Device,
    spec: &Spec,
    call: &Call,
    options: &LayerOptions,
    part: Part,
    form: Form,
) -> Result<LayerOutput, String> {
    let weights = spec.weights();
    let mut layer = HostLayer::load(device, &weights, options).map_err(|e| e.to_string())?;
    layer.form = Some(form);
    layer.forward(&call.input(), part, 0).map_err(|e| format!("{form:?}: {e}"))
}

/// Runs the call in every form of the device; each against the oracle, and all with the same bits.
pub fn against_oracle(
    device: &dyn Device,
    spec: &Spec,
    call: &Call,
    options: &LayerOptions,
    part: Part,
) -> Check {
    let forms = forms_of_call(device, spec, call.tokens, options, part)?;
    against_oracle_in(device, spec, call, options, part, &forms)
}

/// The same in these forms.
pub fn against_oracle_in(
    device: &dyn Device,
    spec: &Spec,
    call: &Call,
    options: &LayerOptions,
    part: Part,
    forms: &[Form],
) -> Check {
    let weights = spec.weights();
    let mut options = options.clone();
    let forward = ForwardOptions { part, ..options.forward() };
    if options.warmup.is_none() && needs_warmup(&options) {
        options.warmup =
            Some(oracle::measure_warmup(&weights, &call.input(), &forward).map_err(|e| e.to_string())?);
    }
    let forward = ForwardOptions { part, ..options.forward() };
    let want = oracle::forward(&weights, &call.input(), &forward).map_err(|e| e.to_string())?;
    let mut first: Option<LayerOutput> = None;
    for &form in forms {
        let got = run(device, spec, call, &options, part, form)?;
        compare(&got, &want).map_err(|e| format!("{form:?}: {e}"))?;
        if let Some(first) = &first {
            same_bits(&got, first).map_err(|e| format!("{form:?} against {:?}: {e}", forms[0]))?;
        }
        first.get_or_insert(got);
    }
    Ok(())
}

fn needs_warmup(options: &LayerOptions) -> bool {
    use megamoe::options::ActScale;
    options.act_scale == ActScale::Warmup || options.act_scale_l2 == ActScaleL2::Warmup
}

/// Every element under the bar, row by row NaN where the oracle has NaN, the counters equal.
pub fn compare(got: &LayerOutput, want: &LayerOutput) -> Check {
    let f32s = |values: &[half::bf16]| values.iter().map(|v| v.to_f32()).collect::<Vec<_>>();
    for (what, got, want) in [
        ("output_f32", got.output_f32.clone(), want.output_f32.clone()),
        ("output", f32s(&got.output), f32s(&want.output)),
    ] {
        if got.len() != want.len() {
            return Err(format!("{what}: {} elements, expected {}", got.len(), want.len()));
        }
        let metrics = Metrics::of(&got, &want);
        if !metrics.passes(&BAR) {
            return Err(format!("{what}: {metrics:?}"));
        }
    }
    if got.stats != want.stats {
        return Err(format!("counters {:?}, expected {:?}", got.stats, want.stats));
    }
    if got.routing.topk_ids != want.routing.topk_ids {
        return Err("other experts were chosen".to_owned());
    }
    Ok(())
}

/// Equal in every bit.
pub fn same_bits(got: &LayerOutput, want: &LayerOutput) -> Check {
    let bits = |o: &LayerOutput| o.output_f32.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    let (a, b) = (bits(got), bits(want));
    match a.iter().zip(&b).position(|(a, b)| a != b) {
        _ if a.len() != b.len() => Err(format!("{} elements against {}", a.len(), b.len())),
        Some(at) => Err(format!("element {at} is {:#x} and {:#x}", a[at], b[at])),
        None if got.output.iter().zip(&want.output).any(|(a, b)| a.to_bits() != b.to_bits()) => {
            Err("the bf16 outputs differ".to_owned())
        }
        None => Ok(()),
    }
}
