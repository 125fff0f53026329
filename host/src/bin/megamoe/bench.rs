//! `megamoe bench`: a layer's time on a card.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use megamoe::bench::{self, BenchOptions, BenchShape, Spread};
use megamoe::options::{ActScale, ActScaleL2, Activations};
use megamoe::runtime::plan::Form;
use megamoe::runtime::shape::LayerOptions;

/// Arguments of `megamoe bench`.
#[derive(Args)]
pub struct BenchArgs {
    /// v4-pro, v4-flash, v4.1-flash, or HxIxExK: width, expert width, experts, experts per token.
    #[arg(long, default_value = "v4-pro")]
    shape: BenchShape,
    /// Experts of this rank; all picks are local.
    #[arg(long)]
    experts_local: Option<usize>,
    /// Token counts.
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8,16,32,64,128,256,512,1024,2048,4096,8192")]
    tokens: Vec<usize>,
    /// How tokens choose experts.
    #[arg(long, value_enum, default_value_t = SpreadArg::Uniform)]
    routing: SpreadArg,
    /// Format of the activations.
    #[arg(long, value_enum, default_value_t = ActivationsArg::Bf16)]
    activations: ActivationsArg,
    /// The form of the GEMMs; the planner chooses by default.
    #[arg(long, value_enum)]
    form: Option<FormArg>,
    /// Output rows of each call that are compared with the oracle.
    #[arg(long, default_value_t = 2)]
    sample: usize,
    /// Also time each launch apart.
    #[arg(long)]
    breakdown: bool,
    /// Writes the results as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum SpreadArg {
    Uniform,
    Zipf,
}

#[derive(Clone, Copy, ValueEnum)]
enum ActivationsArg {
    Bf16,
    Nvfp4,
}

#[derive(Clone, Copy, ValueEnum)]
enum FormArg {
    /// Up to eight tokens.
    Decode,
    Small,
    Medium,
    Narrow,
    Wide,
    Broad,
    /// NVFP4 activations on sm_100a.
    Single,
    /// The same.
    Pair,
    /// The same, in one launch.
    Mega,
    /// The same.
    MegaPair,
}

/// Runs the subcommand.
pub fn run(args: &BenchArgs) -> Result<ExitCode> {
    let mut shape = args.shape.clone();
    shape.experts = args.experts_local.unwrap_or(shape.experts);
    anyhow::ensure!(shape.top_k <= shape.experts, "{} experts per token of {}", shape.top_k, shape.experts);
    let options = BenchOptions {
        shape,
        tokens: args.tokens.clone(),
        spread: match args.routing {
            SpreadArg::Uniform => Spread::Uniform,
            SpreadArg::Zipf => Spread::Zipf,
        },
        form: args.form.map(|form| match form {
            FormArg::Decode => Form::Decode,
            FormArg::Small => Form::Small,
            FormArg::Medium => Form::Medium,
            FormArg::Narrow => Form::Narrow,
            FormArg::Wide => Form::Wide,
            FormArg::Broad => Form::Broad,
            FormArg::Single => Form::Single,
            FormArg::Pair => Form::Pair,
            FormArg::Mega => Form::Mega,
            FormArg::MegaPair => Form::MegaPair,
        }),
        options: LayerOptions {
            activations: match args.activations {
                ActivationsArg::Bf16 => Activations::Bf16,
                ActivationsArg::Nvfp4 => Activations::Nvfp4,
            },
            act_scale: ActScale::RowDynamic,
            act_scale_l2: ActScaleL2::Bound,
            ..LayerOptions::default()
        },
        sample: args.sample.max(1),
        breakdown: args.breakdown,
    };
    let report = bench::run(&options, &mut |what| tracing::info!("{what}"))?;
    print!("{}", bench::table(&report));
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&bench::json(&report))?;
        std::fs::write(path, text + "\n").with_context(|| path.display().to_string())?;
    }
    Ok(if report.points.iter().all(|(_, point)| point.is_ok()) {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}
