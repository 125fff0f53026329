//! The backends that can be verified.

use crate::cpu;
use crate::error::Result;
use crate::io::{LayerInput, LayerOutput};
use crate::options::{ForwardOptions, WarmupScales};
use crate::oracle::QuantisedRow;
use crate::weights::LayerWeights;

/// A way to run a layer.
pub trait Backend: Send + Sync {
    /// Runs one layer.
    fn forward(
        &self,
        layer: &LayerWeights,
        input: &LayerInput<'_>,
        opts: &ForwardOptions,
    ) -> Result<LayerOutput>;

    /// Measures the warm-up scales.
    fn measure_warmup(
        &self,
        layer: &LayerWeights,
        input: &LayerInput<'_>,
        opts: &ForwardOptions,
    ) -> Result<WarmupScales>;

    /// A row as the backend quantises it: under `scale`, or under its own dynamic one. `None` if the backend does
    /// not show its bytes.
    fn quantise_row(&self, x: &[f32], scale: Option<f32>) -> Option<QuantisedRow>;
}

/// A backend, or why it cannot run here.
pub struct Candidate {
    /// Name.
    pub name: &'static str,
    /// The backend, or a reason for people.
    pub backend: std::result::Result<Box<dyn Backend>, String>,
}

/// Every backend, usable or not.
pub fn candidates() -> Vec<Candidate> {
    let absent = |name, why: &str| Candidate { name, backend: Err(why.to_owned()) };
    vec![
        Candidate { name: "cpu", backend: Ok(Box::new(Cpu)) },
        absent("emulator", "not part of this build: kernels do not run as layers on it yet"),
        absent("cuda", "not part of this build: the layer runtime does not exist yet"),
    ]
}

struct Cpu;

impl Backend for Cpu {
    fn forward(
        &self,
        layer: &LayerWeights,
        input: &LayerInput<'_>,
        opts: &ForwardOptions,
    ) -> Result<LayerOutput> {
        cpu::forward(layer, input, opts)
    }

    fn measure_warmup(
        &self,
        layer: &LayerWeights,
        input: &LayerInput<'_>,
        opts: &ForwardOptions,
    ) -> Result<WarmupScales> {
        cpu::measure_warmup(layer, input, opts)
    }

    /// By the functions that the backend calls.
    fn quantise_row(&self, x: &[f32], scale: Option<f32>) -> Option<QuantisedRow> {
        use nvfp4::quantize;
        if !x.len().is_multiple_of(nvfp4::BLOCK) {
            return None;
        }
        let amax = quantize::amax_bits_of(x);
        let scale = scale.unwrap_or_else(|| quantize::tensor_scale_from_amax_bits(amax));
        let mut row = QuantisedRow {
            packed: vec![0; x.len() / 2],
            scales: vec![0; x.len() / nvfp4::BLOCK],
            scale: quantize::row_scale(scale, amax),
            saturated_blocks: 0,
        };
        quantize::quantize_row(x, row.scale, &mut row.packed, &mut row.scales);
        Some(row)
    }
}
