//! The backends that can be verified.

use kernels::launch::Arch;

use crate::cpu;
#[cfg(feature = "cuda")]
use crate::error::Error;
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
    vec![
        Candidate { name: "cpu", backend: Ok(Box::new(Cpu)) },
        emulator("emulator", Arch::Sm90a),
        emulator("emulator-sm_100a", Arch::Sm100a),
        cuda(),
    ]
}

fn absent(name: &'static str, why: impl std::fmt::Display) -> Candidate {
    Candidate { name, backend: Err(why.to_string()) }
}

#[cfg(feature = "emulator")]
fn emulator(name: &'static str, arch: Arch) -> Candidate {
    match crate::emulator::EmulatorDevice::new(arch) {
        Ok(device) => Candidate { name, backend: Ok(Box::new(Kernels(device))) },
        Err(error) => absent(name, error),
    }
}

#[cfg(not(feature = "emulator"))]
fn emulator(name: &'static str, _: Arch) -> Candidate {
    absent(name, "not part of this build: feature `emulator`")
}

#[cfg(feature = "cuda")]
fn cuda() -> Candidate {
    let open = || -> Result<crate::cuda::CudaDevice> {
        let device = crate::cuda::Device::all()?
            .into_iter()
            .find(|device| device.arch().is_ok())
            .ok_or_else(|| Error::unsupported("CUDA", "no device that there are kernels for"))?;
        let set = crate::cuda::KernelSet::load(&crate::cuda::Context::primary(device)?)?;
        crate::cuda::CudaDevice::new(&set)
    };
    match open() {
        Ok(device) => Candidate { name: "cuda", backend: Ok(Box::new(Kernels(device))) },
        Err(error) => absent("cuda", error),
    }
}

#[cfg(not(feature = "cuda"))]
fn cuda() -> Candidate {
    absent("cuda", "not part of this build: feature `cuda`")
}

/// The kernels, on a card or on the emulator.
#[cfg(any(feature = "emulator", feature = "cuda"))]
struct Kernels<D>(D);

#[cfg(any(feature = "emulator", feature = "cuda"))]
impl<D: crate::runtime::Device + Send + Sync> Backend for Kernels<D> {
    fn forward(
        &self,
        layer: &LayerWeights,
        input: &LayerInput<'_>,
        opts: &ForwardOptions,
    ) -> Result<LayerOutput> {
        crate::runtime::backend::forward(&self.0, layer, input, opts)
    }

    fn measure_warmup(
        &self,
        layer: &LayerWeights,
        input: &LayerInput<'_>,
        opts: &ForwardOptions,
    ) -> Result<WarmupScales> {
        crate::runtime::backend::measure_warmup(&self.0, layer, input, opts)
    }

    /// The bytes stay inside: the kernels that make them are tested on their own.
    fn quantise_row(&self, _x: &[f32], _scale: Option<f32>) -> Option<QuantisedRow> {
        None
    }
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
