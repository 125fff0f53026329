//! `[out, in]`, blocks along `in`.

use std::collections::BTreeMap;

use safetensors::Dtype;

use super::context::Context;
use super::raw::{self, Kind};
use super::{Finding, Verdict, plural};
use crate::checkpoint::{Checkpoint, TensorInfo};
use crate::error::Result;
use crate::weights::Nvfp4Matrix;

pub(super) const NAME: &str = "orientation";

/// Weight and scale of every FP4 module: `[rows, K/2]` and `[rows, K/16]` (or `K/32`), with the rows and K that the
/// configuration gives to gate, up and down.
pub(super) fn shapes(checkpoint: &Checkpoint, layer: usize) -> Result<Finding> {
    let config = checkpoint.layer_config(layer)?;
    let (h, i) = (config.hidden, config.intermediate);
    let mut modules: BTreeMap<&str, [Option<&TensorInfo>; 2]> = BTreeMap::new();
    for t in raw::expert_tensors(checkpoint, layer) {
        let fp4 = matches!(t.dtype(), Dtype::U8 | Dtype::I8 | Dtype::F4);
        match raw::parse(t.name()) {
            Some((module, Kind::Weight)) if fp4 => modules.entry(module).or_default()[0] = Some(t),
            Some((module, Kind::BlockScale)) => modules.entry(module).or_default()[1] = Some(t),
            _ => {}
        }
    }
    let (mut checked, mut wrong) = (0, Vec::new());
    for (module, pair) in modules {
        let [Some(weight), Some(scale)] = pair else { continue };
        checked += 1;
        let routed = !module.contains("shared_expert");
        let width = if routed { i } else { config.shared_intermediate };
        if let Some(why) = mismatch(module, weight, scale, h, width) {
            wrong.push(format!("{}: {why}", weight.name()));
        }
    }
    let mut finding = match wrong.first() {
        Some(first) => Finding::new(
            NAME,
            Verdict::Fail,
            format!("{} wrong: {first}", plural(wrong.len(), "module", "modules")),
        ),
        None if h == i => {
            let why = format!("H = I = {h}: shapes cannot tell gate and up from down, the names decide");
            Finding::new(NAME, Verdict::Ok, why)
        }
        None => Finding::new(
            NAME,
            Verdict::Ok,
            format!("{} are [out, in/2] with [out, in/16] scales", plural(checked, "module", "modules")),
        ),
    };
    finding = finding.count("modules", checked as u64).count("wrong", wrong.len() as u64);
    Ok(finding)
}

fn mismatch(module: &str, weight: &TensorInfo, scale: &TensorInfo, h: usize, width: usize) -> Option<String> {
    let ([.., rows, packed], [.., scale_rows, groups]) = (weight.shape(), scale.shape()) else {
        return Some(format!("shape {:?} with scale {:?}", weight.shape(), scale.shape()));
    };
    let k = if weight.dtype() == Dtype::F4 { *packed } else { packed.checked_mul(2)? };
    let group = if scale.dtype() == Dtype::F8_E4M3 { 16 } else { 32 };
    let got = format!("weight {:?}, scale {:?}", weight.shape(), scale.shape());
    let last = module.rsplit('.').next().unwrap_or(module);
    let (want_rows, want_k) = match last {
        "w2" | "down_proj" => (h, width),
        "w13" | "gate_up_proj" => (2 * width, h),
        "w1" | "w3" | "gate_proj" | "up_proj" => (width, h),
        // `experts.w1.0` and the like: the projection is not the last part.
        _ => (*rows, k),
    };
    if (*rows, k) != (want_rows, want_k) {
        let transposed = k == want_rows && *rows == want_k || 2 * rows == want_k && *packed == want_rows;
        let hint = if transposed { ": it is transposed" } else { "" };
        return Some(format!("{got} for [{want_rows}, {want_k}]{hint}"));
    }
    if (*scale_rows, groups * group) == (*rows, k) {
        return None;
    }
    if *groups == *rows && scale_rows * group == k {
        return Some(format!("{got}: the scale is transposed"));
    }
    Some(format!("{got}: expected one scale per {group} of {k} columns"))
}

/// Mean of the largest magnitude in groups of 16: along K, and across rows. A quantiser scales each block so that its
/// largest element becomes 6 (MXFP4: above 3), so blocks run along the axis with the larger mean.
fn means(m: &Nvfp4Matrix) -> (f64, f64) {
    let magnitude = |row: usize, k: usize| {
        let byte = m.packed[(row * m.cols + k) / 2];
        nvfp4::e2m1::decode(byte >> (4 * (k % 2)) & 7)
    };
    let (rows, cols) = (m.rows.min(128), m.cols.min(512));
    let mean = |groups: &mut dyn Iterator<Item = f32>| {
        let (mut sum, mut n) = (0.0, 0);
        for max in groups.filter(|&max| max > 0.0) {
            sum += f64::from(max);
            n += 1;
        }
        if n == 0 { 0.0 } else { sum / f64::from(n) }
    };
    let max = |values: &mut dyn Iterator<Item = f32>| values.fold(0.0, f32::max);
    let along =
        mean(&mut (0..rows).flat_map(|row| {
            (0..cols / 16).map(move |g| max(&mut (0..16).map(|j| magnitude(row, g * 16 + j))))
        }));
    let across = mean(
        &mut (0..cols)
            .flat_map(|k| (0..rows / 16).map(move |g| max(&mut (0..16).map(|j| magnitude(g * 16 + j, k))))),
    );
    (along, across)
}

/// Adds what the codes say to the finding about shapes.
pub(super) fn data(context: &Context<'_>, finding: &mut Finding) {
    let (mut along, mut across, mut n) = (0.0, 0.0, 0.0);
    for (_, m) in context.matrices().iter().take(12) {
        let (a, b) = means(m);
        (along, across, n) = (along + a, across + b, n + 1.0);
    }
    if n == 0.0 {
        return;
    }
    (along, across) = (along / n, across / n);
    let said = if along > across + 0.05 {
        format!("blocks run along in (mean of largest magnitudes {along:.2}, along out {across:.2})")
    } else if across > along + 0.05 {
        finding.verdict = Verdict::Fail;
        format!(
            "the data are quantised along out, not in ({along:.2} against {across:.2}): they are transposed"
        )
    } else {
        finding.verdict = finding.verdict.max(Verdict::Warn);
        format!("the data do not tell along which axis they were quantised ({along:.2} against {across:.2})")
    };
    finding.reason = format!("{}; {said}", finding.reason);
    finding.numbers.insert("mean_max_along_in", along);
    finding.numbers.insert("mean_max_along_out", across);
}
