//! What the tests of the layer on kernels share: the emulated device, a layer whose data can show the bugs, and the
//! proof that a changed list of launches is noticed.

use kernels::launch::Arch;
use megamoe::emulator::EmulatorDevice;
use megamoe::weights::{LayerWeights, Linear, Selection};
use megamoe_tests::layer::Spec;
use megamoe_tests::layer::record::Work;

use crate::harness::Check;

/// The emulator with all its checkers and the shipped PTX.
pub fn emulator() -> EmulatorDevice {
    EmulatorDevice::new(Arch::Sm90a).expect("the shipped PTX")
}

/// Errors as text.
pub fn text<T>(result: megamoe::Result<T>) -> Result<T, String> {
    result.map_err(|e| e.to_string())
}

/// 13 blocks of K, a limit of 1.
pub const SPEC: Spec = Spec { limit: Some(1.0), ..Spec::new(208, 80, 6, 2) };

/// The layer of `spec` with what small layers lack: every expert has global scales of its own, gate's and up's are apart
/// by a factor that differs from expert to expert, input scales fit the data, and the bias decides about experts.
pub fn uneven(spec: &Spec) -> LayerWeights {
    let mut layer = spec.weights();
    for (i, expert) in layer.experts.iter_mut().enumerate() {
        let step = 1.0 + i as f32;
        expert.gate.global_scale *= 0.2 * step;
        expert.up.global_scale *= 0.9 / step;
        expert.down.global_scale *= 0.5 + 0.5 * step;
        for (matrix, scale) in [(&mut expert.gate, 0.004), (&mut expert.up, 0.004), (&mut expert.down, 0.001)]
        {
            matrix.input_scale = Some(scale / step);
        }
    }
    if let Some(shared) = &mut layer.shared {
        for (matrix, scale) in [(&mut shared.gate, 0.003), (&mut shared.up, 0.003), (&mut shared.down, 0.002)]
        {
            if let Linear::Nvfp4(matrix) = matrix {
                matrix.input_scale = Some(scale);
                matrix.global_scale *= 0.3;
            }
        }
    }
    if let Some(router) = &mut layer.router
        && let Selection::TopK { bias: Some(bias) } = &mut router.selection
    {
        bias.iter_mut().enumerate().for_each(|(i, bias)| *bias = [0.0, 3.0, 0.5, 2.0, 1.0, 0.1][i % 6]);
    }
    layer
}

/// A change of a call's work.
pub type Edit<'a> = &'a dyn Fn(&mut Vec<Work>);

/// Requires that `check` accepts `work` and rejects it after every change. A change that changes nothing proves
/// nothing.
#[track_caller]
pub fn prove_edits(what: &str, work: &[Work], edits: &[(&str, Edit<'_>)], check: impl Fn(&[Work]) -> Check) {
    if let Err(e) = check(work) {
        panic!("{what}: the real plan fails its own test: {e}");
    }
    assert!(!edits.is_empty(), "{what}: no mutants, no proof");
    for (name, edit) in edits {
        let mut changed = work.to_vec();
        edit(&mut changed);
        assert!(changed != work, "{what}: the mutant {name:?} changes nothing");
        match check(&changed) {
            Ok(()) => panic!("{what}: the mutant {name:?} survives: the test is blind to it"),
            Err(e) => println!("{what}, {name:?}: {}", e.lines().next().unwrap_or_default()),
        }
    }
}
