//! `megamoe run`: one layer, rows from a safetensors file, results to another.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use half::bf16;
use megamoe::checkpoint::{Checkpoint, LoadOptions};
use megamoe::io;
use megamoe::io::{LayerInput, LayerOutput, RoutingSource};
use megamoe::options::{ActScale, ActScaleL2, Activations, ForwardOptions, Part};
use megamoe::verify::{self, Backend};
use megamoe::weights::LayerWeights;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::progress;

/// Arguments of `megamoe run`.
#[derive(Args)]
pub struct RunArgs {
    /// Checkpoint directory: config.json and safetensors shards.
    dir: PathBuf,
    /// Layer index.
    #[arg(long)]
    layer: usize,
    /// Input: `hidden_states` BF16 [T, H]; `input_ids` I64 [T] for hash layers; `topk_ids` I32 and
    /// `topk_weights` F32 [T, K] with `--routing given`.
    #[arg(long)]
    input: PathBuf,
    /// Output: `output` BF16 and `output_f32` F32 [T, H], `topk_ids` I32 and `topk_weights` F32 [T, K].
    #[arg(long)]
    output: PathBuf,
    /// Where to run.
    #[arg(long, value_enum, default_value_t = BackendArg::Auto)]
    backend: BackendArg,
    /// Format of the activations in front of the expert GEMMs.
    #[arg(long, value_enum, default_value_t = ActivationsArg::Bf16)]
    activations: ActivationsArg,
    /// Global scale of L1 activations (with `--activations nvfp4`).
    #[arg(long, value_enum, default_value_t = ActScaleArg::Row)]
    act_scale: ActScaleArg,
    /// Global scale of L2 activations (with `--activations nvfp4`).
    #[arg(long, value_enum, default_value_t = ActScaleL2Arg::Bound)]
    act_scale_l2: ActScaleL2Arg,
    /// Part of the layer to compute.
    #[arg(long, value_enum, default_value_t = PartArg::All)]
    part: PartArg,
    /// Whether the layer's router runs, or ids and weights are taken from the input file.
    #[arg(long, value_enum, default_value_t = RoutingArg::Model)]
    routing: RoutingArg,
}

#[derive(Clone, Copy, ValueEnum)]
enum BackendArg {
    /// The best one found.
    Auto,
    Cpu,
    Emulator,
    Cuda,
}

#[derive(Clone, Copy, ValueEnum)]
enum ActivationsArg {
    Bf16,
    Nvfp4,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum ActScaleArg {
    /// Per row, from its own maximum.
    Row,
    /// One for all rows of the call.
    Tensor,
    /// The checkpoint's calibrated `input_scale`.
    Static,
    /// Measured once, here on the input itself.
    Warmup,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum ActScaleL2Arg {
    /// The constant bound that the clamp implies.
    Bound,
    /// Per row, from its own maximum.
    Row,
    /// One for all rows of the call.
    Tensor,
    /// The checkpoint's calibrated `input_scale`.
    Static,
    /// Measured once, here on the input itself.
    Warmup,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum PartArg {
    All,
    Routed,
    Shared,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum RoutingArg {
    Model,
    Given,
}

/// Runs the subcommand.
pub fn run(args: &RunArgs) -> Result<ExitCode> {
    // Said before anything long starts: a wrong choice is seen at once.
    let backend = choose(args.backend)?;
    let file = InputFile::read(&args.input)?;
    let checkpoint = Checkpoint::open(&args.dir)?;
    let layer = load(&checkpoint, args.layer)?;
    let input = file.layer_input(&layer, args.routing)?;
    let input = input.view();
    let mut options = ForwardOptions {
        activations: match args.activations {
            ActivationsArg::Bf16 => Activations::Bf16,
            ActivationsArg::Nvfp4 => Activations::Nvfp4,
        },
        act_scale: match args.act_scale {
            ActScaleArg::Row => ActScale::RowDynamic,
            ActScaleArg::Tensor => ActScale::TensorDynamic,
            ActScaleArg::Static => ActScale::Static,
            ActScaleArg::Warmup => ActScale::Warmup,
        },
        act_scale_l2: match args.act_scale_l2 {
            ActScaleL2Arg::Bound => ActScaleL2::Bound,
            ActScaleL2Arg::Row => ActScaleL2::RowDynamic,
            ActScaleL2Arg::Tensor => ActScaleL2::TensorDynamic,
            ActScaleL2Arg::Static => ActScaleL2::Static,
            ActScaleL2Arg::Warmup => ActScaleL2::Warmup,
        },
        part: match args.part {
            PartArg::All => Part::All,
            PartArg::Routed => Part::Routed,
            PartArg::Shared => Part::Shared,
        },
        ..ForwardOptions::default()
    };
    if args.act_scale == ActScaleArg::Warmup || args.act_scale_l2 == ActScaleL2Arg::Warmup {
        options.warmup = Some(backend.measure_warmup(&layer, &input, &options)?);
    }
    let output = backend.forward(&layer, &input, &options)?;
    report(&output.stats);
    write_output(&args.output, &layer, input.tokens, &output)?;
    Ok(ExitCode::SUCCESS)
}

/// The backend asked for; `auto` is a card where there is one, else the CPU.
fn choose(arg: BackendArg) -> Result<Box<dyn Backend>> {
    let mut candidates = verify::candidates();
    let mut take = |name: &str| {
        let at = candidates.iter().position(|c| c.name == name);
        at.map_or_else(|| Err("not part of this build".to_owned()), |at| candidates.swap_remove(at).backend)
    };
    let name = match arg {
        BackendArg::Auto => match take("cuda") {
            Ok(backend) => {
                tracing::info!("backend: cuda");
                return Ok(backend);
            }
            Err(why) => {
                tracing::info!("backend: cpu (cuda: {why})");
                "cpu"
            }
        },
        BackendArg::Cpu => "cpu",
        BackendArg::Emulator => "emulator",
        BackendArg::Cuda => "cuda",
    };
    take(name).map_err(|why| anyhow::anyhow!("backend {name}: {why}; --backend cpu runs everywhere"))
}

/// Loads a layer behind a progress bar.
pub fn load(checkpoint: &Checkpoint, layer: usize) -> Result<LayerWeights> {
    let bar = progress::bytes(&format!("layer {layer}"), checkpoint.layer_bytes(layer));
    let options = LoadOptions { progress: Some(&|bytes| bar.inc(bytes)) };
    let weights = checkpoint.load_layer(layer, &options)?;
    bar.finish_and_clear();
    Ok(weights)
}

/// Counters that a user must see: nothing is skipped silently.
fn report(stats: &io::Stats) {
    for (count, what) in [
        (stats.invalid_slots, "slots have an expert id outside the layer and were skipped"),
        (stats.invalid_tokens, "tokens have an id outside the vocabulary: their slots were skipped"),
        (stats.non_finite_rows, "rows hold NaN or Inf: their output is NaN"),
        (stats.saturated_blocks_l1, "L1 activation blocks saturated: the constant global scale is too small"),
        (stats.saturated_blocks_l2, "L2 activation blocks saturated: the constant global scale is too small"),
    ] {
        if count > 0 {
            tracing::warn!("{count} {what}");
        }
    }
}

/// A parsed input file.
struct InputFile {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl InputFile {
    fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("{}", path.display()))?;
        Ok(Self { path: path.to_owned(), bytes })
    }

    fn layer_input(&self, layer: &LayerWeights, routing: RoutingArg) -> Result<OwnedInput> {
        let tensors =
            SafeTensors::deserialize(&self.bytes).with_context(|| format!("{}", self.path.display()))?;
        let find = |name: &str, dtype: Dtype, columns: Option<usize>| {
            self.tensor(&tensors, name, dtype, columns).map(|view| (view.shape()[0], view))
        };
        let (tokens, hidden) = find("hidden_states", Dtype::BF16, Some(layer.config.hidden))?;
        let same_rows = |name: &str, rows: usize| {
            ensure!(
                rows == tokens,
                "{}: {name}: expected {tokens} rows as in hidden_states, got {rows}",
                self.path.display()
            );
            Ok(())
        };
        let routing = match routing {
            RoutingArg::Model => {
                let ids = match tensors.tensor("input_ids") {
                    Ok(_) => {
                        let (rows, view) = find("input_ids", Dtype::I64, None)?;
                        same_rows("input_ids", rows)?;
                        Some(words(view.data(), i64::from_le_bytes))
                    }
                    Err(_) => None,
                };
                OwnedRouting::Model(ids)
            }
            RoutingArg::Given => {
                let (ids_rows, ids) = find("topk_ids", Dtype::I32, Some(layer.config.top_k))?;
                let (weights_rows, weights) = find("topk_weights", Dtype::F32, Some(layer.config.top_k))?;
                same_rows("topk_ids", ids_rows)?;
                same_rows("topk_weights", weights_rows)?;
                OwnedRouting::Given(
                    words(ids.data(), i32::from_le_bytes),
                    words(weights.data(), f32::from_le_bytes),
                )
            }
        };
        let hidden_states = words(hidden.data(), |b| bf16::from_bits(u16::from_le_bytes(b)));
        Ok(OwnedInput { hidden_states, tokens, routing })
    }

    /// A tensor of the given dtype: `[T, columns]`, or `[T]` where `columns` is `None`.
    fn tensor<'a>(
        &self,
        tensors: &SafeTensors<'a>,
        name: &str,
        dtype: Dtype,
        columns: Option<usize>,
    ) -> Result<TensorView<'a>> {
        let path = self.path.display();
        let view = tensors.tensor(name).ok().with_context(|| format!("{path}: tensor {name} is missing"))?;
        ensure!(view.dtype() == dtype, "{path}: {name}: expected {dtype:?}, got {:?}", view.dtype());
        let fits = match (columns, view.shape()) {
            (Some(c), &[_, got]) => got == c,
            (None, &[_]) => true,
            _ => false,
        };
        let want = columns.map_or("[T]".to_owned(), |c| format!("[T, {c}]"));
        ensure!(fits, "{path}: {name}: expected shape {want}, got {:?}", view.shape());
        Ok(view)
    }
}

enum OwnedRouting {
    Model(Option<Vec<i64>>),
    Given(Vec<i32>, Vec<f32>),
}

struct OwnedInput {
    hidden_states: Vec<bf16>,
    tokens: usize,
    routing: OwnedRouting,
}

impl OwnedInput {
    fn view(&self) -> LayerInput<'_> {
        let routing = match &self.routing {
            OwnedRouting::Model(ids) => RoutingSource::Model { input_ids: ids.as_deref() },
            OwnedRouting::Given(ids, weights) => {
                RoutingSource::Given { topk_ids: ids, topk_weights: weights }
            }
        };
        LayerInput { hidden_states: &self.hidden_states, tokens: self.tokens, routing }
    }
}

/// Little-endian words of a tensor; its data need not be aligned in the file.
fn words<const N: usize, T>(bytes: &[u8], from_le: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|&word| from_le(word)).collect()
}

/// Writes the result beside its final name and renames it: a reader never sees half a file.
fn write_output(path: &Path, layer: &LayerWeights, tokens: usize, output: &LayerOutput) -> Result<()> {
    let hidden = layer.config.hidden;
    let rows = vec![tokens, hidden];
    let slots = vec![tokens, layer.config.top_k];
    let bytes =
        |words: &mut dyn Iterator<Item = u32>| -> Vec<u8> { words.flat_map(u32::to_le_bytes).collect() };
    let output_bf16: Vec<u8> = output.output.iter().flat_map(|v| v.to_bits().to_le_bytes()).collect();
    let output_f32 = bytes(&mut output.output_f32.iter().map(|v| v.to_bits()));
    let ids = bytes(&mut output.routing.topk_ids.iter().map(|&v| v as u32));
    let weights = bytes(&mut output.routing.topk_weights.iter().map(|v| v.to_bits()));
    let view = |dtype, shape: &[usize], data| TensorView::new(dtype, shape.to_vec(), data);
    let mut tensors = vec![
        ("output", view(Dtype::BF16, &rows, &output_bf16[..])?),
        ("output_f32", view(Dtype::F32, &rows, &output_f32[..])?),
    ];
    // The shared expert alone has no routing.
    if !output.routing.topk_ids.is_empty() || tokens == 0 {
        tensors.push(("topk_ids", view(Dtype::I32, &slots, &ids[..])?));
        tensors.push(("topk_weights", view(Dtype::F32, &slots, &weights[..])?));
    }
    let data = safetensors::serialize(tensors, None)?;
    let mut partial = Cow::Borrowed(path.as_os_str());
    partial.to_mut().push(".partial");
    let write = || std::fs::write(&partial, &data).and_then(|()| std::fs::rename(&partial, path));
    write().with_context(|| format!("{}", path.display()))
}
