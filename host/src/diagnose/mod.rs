//! The known ways in which NVFP4 checkpoints, and the kernels that read them, go wrong, looked for in the real tensors of
//! a checkpoint. Each check is one function with one [`Finding`]: a verdict and a line of reason with numbers.
//!
//! | check | question |
//! |---|---|
//! | `loads` | does the layer load? |
//! | `orientation` | do shapes, and the data, say `[out, in]`, with blocks along K? |
//! | `block_scale_bytes` | NaN or negative block scales? |
//! | `global_scales` | zero, negative, subnormal, NaN or infinite global scales? |
//! | `block_scale_range` | does each tensor use its scales up to the maximum? |
//! | `zero_blocks` | how much is zero, and is anything zero that should not be? |
//! | `power_of_two_scales` | a lossless MXFP4 origin? |
//! | `folding` | what would folding the global into the block scales cost? |
//! | `gate_up_scales` | do gate and up have different global scales? |
//! | `duplicate_weights` | are two experts the same, or gate and up of one? |
//! | `modules` | do the exclude lists agree with what is there? |
//! | `sample` | do rows run through the layer? |
//! | `input_scale` | do the calibrated activation scales hold the data? |
//! | `swiglu_limit` | is there a clamp, and does it matter? |
//! | `router_bias` | is the bias usable, and what if it were in the weights? |
//! | `routing_balance` | where do tokens go? |
//! | `expert_parallel` | is the sum over ranks the whole? |
//!
//! The first four read raw bytes, so that a layer which does not load gets verdicts that name the tensor; the
//! others need a layer that loads.

mod activations;
mod alphas;
mod context;
mod modules;
mod orientation;
mod ranks;
mod raw;
mod routing;
mod scales;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::checkpoint::{Checkpoint, LoadOptions};
use crate::error::{Error, Result};
use crate::verify::Batch;
use context::Context;

/// The outcome of a check. Ordered: the worst is the largest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Usable, but worth knowing.
    Warn,
    /// Wrong.
    Fail,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        })
    }
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// Name of the check; stable.
    pub check: &'static str,
    /// Verdict.
    pub verdict: Verdict,
    /// One line.
    pub reason: String,
    /// The numbers behind it, by stable names.
    pub numbers: BTreeMap<&'static str, f64>,
}

impl Finding {
    fn new(check: &'static str, verdict: Verdict, reason: impl Into<String>) -> Self {
        Self { check, verdict, reason: reason.into(), numbers: BTreeMap::new() }
    }

    fn with(mut self, name: &'static str, value: impl Into<f64>) -> Self {
        self.numbers.insert(name, value.into());
        self
    }

    fn count(self, name: &'static str, value: u64) -> Self {
        self.with(name, value as f64)
    }
}

/// All findings of one layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerReport {
    /// Layer index.
    pub layer: usize,
    /// Worst verdict.
    pub verdict: Verdict,
    /// One per check that could run, in a fixed order.
    pub checks: Vec<Finding>,
    /// Checks that could not, for want of a layer that loads.
    pub not_run: Vec<&'static str>,
}

/// Options of [`diagnose_layer`].
#[derive(Clone, Debug)]
pub struct Options {
    /// Rows to run through the layer; generated ones without them.
    pub input: Option<std::path::PathBuf>,
    /// Number of rows, at most.
    pub tokens: usize,
    /// Seed of generated rows.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { input: None, tokens: 64, seed: 1 }
    }
}

type RawCheck = fn(&Checkpoint, usize) -> Result<Finding>;
type LayerCheck = fn(&Context<'_>) -> Result<Finding>;

const RAW: [(&str, RawCheck); 3] = [
    (orientation::NAME, orientation::shapes),
    (raw::BLOCK_BYTES, raw::block_scale_bytes),
    (raw::GLOBALS, raw::global_scales),
];

const LAYER: [(&str, LayerCheck); 13] = [
    (scales::RANGE, scales::range),
    (scales::ZEROS, scales::zero_blocks),
    (scales::POWERS, scales::power_of_two),
    (scales::FOLDING, scales::folding),
    (alphas::GATE_UP, alphas::gate_up),
    (alphas::DUPLICATES, alphas::duplicates),
    (modules::NAME, modules::modules),
    (activations::SAMPLE, activations::sample),
    (activations::INPUT_SCALE, activations::input_scale),
    (activations::LIMIT, activations::swiglu_limit),
    (routing::BIAS, routing::bias),
    (routing::BALANCE, routing::balance),
    (ranks::NAME, ranks::expert_parallel),
];

/// Runs every check on one layer. `progress` is called after each with the number done and of all.
///
/// # Errors
/// If there is no such layer, or the input file is not usable. What is wrong with the layer itself is a finding.
pub fn diagnose_layer(
    checkpoint: &Checkpoint,
    layer: usize,
    options: &Options,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<LayerReport> {
    let config = checkpoint.layer_config(layer)?;
    let all = RAW.len() + LAYER.len() + 1;
    let loaded = checkpoint.load_layer(layer, &LoadOptions::default());
    let mut checks = vec![loads(checkpoint, layer, loaded.as_ref().err())];
    let mut done = 1;
    let mut step = || {
        progress(done, all);
        done += 1;
    };
    for (name, check) in RAW {
        step();
        checks.push(check(checkpoint, layer).unwrap_or_else(|e| failed(name, &e)));
    }
    let mut not_run = Vec::new();
    match &loaded {
        Err(_) => not_run.extend(LAYER.iter().map(|(name, _)| *name)),
        Ok(weights) => {
            let batch = match &options.input {
                Some(path) => Batch::from_file(path, &config, options.tokens)?,
                None => Batch::activations(&config, options.tokens, options.seed),
            };
            let context = Context::new(checkpoint, weights, batch, options.input.is_some());
            // The data can tell what shapes cannot.
            if let Some(shapes) = checks.iter_mut().find(|f| f.check == orientation::NAME) {
                orientation::data(&context, shapes);
            }
            for (name, check) in LAYER {
                step();
                checks.push(check(&context).unwrap_or_else(|e| failed(name, &e)));
            }
        }
    }
    let verdict = checks.iter().map(|f| f.verdict).max().unwrap_or(Verdict::Ok);
    Ok(LayerReport { layer, verdict, checks, not_run })
}

fn failed(name: &'static str, error: &Error) -> Finding {
    Finding::new(name, Verdict::Fail, error.to_string())
}

fn loads(
    checkpoint: &Checkpoint,
    layer: usize,
    error: Option<&crate::checkpoint::CheckpointError>,
) -> Finding {
    if let Some(error) = error {
        return Finding::new("loads", Verdict::Fail, error.to_string());
    }
    let info = checkpoint.layer_info(layer);
    let mut warnings: Vec<&str> = checkpoint.warnings().iter().map(String::as_str).collect();
    let Ok(info) = &info else { return Finding::new("loads", Verdict::Ok, "") };
    warnings.extend(info.warnings.iter().map(String::as_str));
    let verdict = if warnings.is_empty() { Verdict::Ok } else { Verdict::Warn };
    let what = format!("{}, {}, {} bytes", info.experts, info.convention, info.bytes);
    let reason = if warnings.is_empty() { what } else { format!("{what}; {}", warnings.join("; ")) };
    Finding::new("loads", verdict, reason).count("bytes", info.bytes)
}

/// `1 matrix`, `2 matrices`.
fn plural(n: usize, one: &str, more: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { more })
}

/// Percent, with as many digits as it takes to see that it is not zero.
fn percent(share: f64) -> String {
    match share * 100.0 {
        p if p == 0.0 || p >= 0.095 => format!("{p:.1} %"),
        p => format!("{p:.1e} %"),
    }
}
