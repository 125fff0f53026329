//! The activation modes.

use crate::options::{ActScale, ActScaleL2, Activations, ForwardOptions};
use crate::weights::{LayerWeights, Linear};

/// A named set of options.
#[derive(Clone, Debug)]
pub struct Mode {
    /// Name.
    pub name: &'static str,
    /// The options. Warm-up scales are measured by the caller.
    pub options: ForwardOptions,
}

/// The modes that `layer` allows, and those it does not, with the reason.
pub fn modes(layer: &LayerWeights) -> (Vec<Mode>, Vec<(&'static str, String)>) {
    let nvfp4 = |name, act_scale, act_scale_l2| {
        let activations = Activations::Nvfp4;
        Mode { name, options: ForwardOptions { activations, act_scale, act_scale_l2, ..Default::default() } }
    };
    let mut modes = vec![
        Mode { name: "bf16", options: ForwardOptions::default() },
        nvfp4("nvfp4 row/bound", ActScale::RowDynamic, ActScaleL2::Bound),
        nvfp4("nvfp4 row/row", ActScale::RowDynamic, ActScaleL2::RowDynamic),
        nvfp4("nvfp4 tensor", ActScale::TensorDynamic, ActScaleL2::TensorDynamic),
        nvfp4("nvfp4 warmup", ActScale::Warmup, ActScaleL2::Warmup),
    ];
    let mut impossible = Vec::new();
    match uncalibrated(layer) {
        None => modes.push(nvfp4("nvfp4 static", ActScale::Static, ActScaleL2::Static)),
        Some(what) => impossible.push(("nvfp4 static", format!("{what} has no input_scale"))),
    }
    (modes, impossible)
}

/// The first matrix that static scales would need and that has none.
fn uncalibrated(layer: &LayerWeights) -> Option<String> {
    for (e, expert) in layer.experts.iter().enumerate() {
        for (name, m) in [("gate", &expert.gate), ("up", &expert.up), ("down", &expert.down)] {
            if m.input_scale.is_none() {
                return Some(format!("expert {e} {name}"));
            }
        }
    }
    let shared = layer.shared.as_ref()?;
    let matrices = [&shared.gate, &shared.up, &shared.down];
    let quantised = matrices.iter().all(|m| matches!(m, Linear::Nvfp4(_)));
    let bare = |m: &&Linear| matches!(m, Linear::Nvfp4(m) if m.input_scale.is_none());
    (quantised && matrices.iter().any(bare)).then(|| "the shared expert".to_owned())
}
