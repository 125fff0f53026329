//! `[out, in]`, blocks along `in`.

use std::collections::BTreeMap;

use safetensors::Dtype;

use super::context::Context;
use super::raw::{self, Kind};
use super::{Finding, Verdict, percent, plural};
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

/// Share of groups of 16, along K and across rows, whose largest magnitude is 6. A quantiser scales each block so that
/// its largest element becomes 6, so along the axis of the blocks it is nearly all of them.
fn full_groups(m: &Nvfp4Matrix) -> (f64, f64) {
    let magnitude = |row: usize, k: usize| {
        let byte = m.packed[(row * m.cols + k) / 2];
        byte >> (4 * (k % 2)) & 7
    };
    let (rows, cols) = (m.rows.min(128), m.cols.min(512));
    let share = |groups: &mut dyn Iterator<Item = u8>| {
        let (mut full, mut all) = (0u32, 0u32);
        // Groups of zeros say nothing.
        for max in groups.filter(|&max| max > 0) {
            full += u32::from(max == 7);
            all += 1;
        }
        f64::from(full) / f64::from(all.max(1))
    };
    let max = |codes: &mut dyn Iterator<Item = u8>| codes.fold(0, u8::max);
    let along =
        share(&mut (0..rows).flat_map(|row| {
            (0..cols / 16).map(move |g| max(&mut (0..16).map(|j| magnitude(row, g * 16 + j))))
        }));
    let across = share(
        &mut (0..cols)
            .flat_map(|k| (0..rows / 16).map(move |g| max(&mut (0..16).map(|j| magnitude(g * 16 + j, k))))),
    );
    (along, across)
}

/// Share of pairs of neighbouring block scales that are equal, along K and across rows: an MXFP4 scale becomes two
/// equal ones along K.
fn equal_pairs(m: &Nvfp4Matrix) -> (f64, f64) {
    let groups = m.cols / 16;
    let (mut along, mut across, mut pairs) = (0u64, 0u64, 0u64);
    for row in (0..m.rows - m.rows % 2).step_by(2) {
        for g in (0..groups - groups % 2).step_by(2) {
            let at = |r: usize, g: usize| m.scales[(row + r) * groups + g];
            along += u64::from(at(0, g) == at(0, g + 1));
            across += u64::from(at(0, g) == at(1, g));
            pairs += 1;
        }
    }
    let share = |n: u64| n as f64 / pairs.max(1) as f64;
    (share(along), share(across))
}

/// Adds what the data say to the finding about shapes.
pub(super) fn data(context: &Context<'_>, finding: &mut Finding) {
    const NEARLY_ALL: f64 = 0.97;
    let matrices = context.matrices();
    let mean = |f: fn(&Nvfp4Matrix) -> (f64, f64)| {
        let few: Vec<(f64, f64)> = matrices.iter().take(12).map(|(_, m)| f(m)).collect();
        let n = few.len().max(1) as f64;
        (few.iter().map(|s| s.0).sum::<f64>() / n, few.iter().map(|s| s.1).sum::<f64>() / n)
    };
    let (full, pairs) = (mean(full_groups), mean(equal_pairs));
    let square = context.weights.config.hidden == context.weights.config.intermediate;
    let along = |(along, across): (f64, f64)| along >= NEARLY_ALL && along > across;
    let across = |(along, across): (f64, f64)| across >= NEARLY_ALL && across > along;
    let shares =
        |(along, across): (f64, f64)| format!("{} along in, {} along out", percent(along), percent(across));
    let said = if along(full) {
        format!("blocks run along in (largest element 6: {})", shares(full))
    } else if across(full) {
        finding.verdict = Verdict::Fail;
        format!("the data are transposed: blocks run along out (largest element 6: {})", shares(full))
    } else if along(pairs) {
        format!("MXFP4 blocks run along in (equal pairs of scales: {})", shares(pairs))
    } else if across(pairs) {
        finding.verdict = Verdict::Fail;
        format!("the scales are transposed: pairs are equal along out ({})", shares(pairs))
    } else {
        let verdict = if square { Verdict::Warn } else { Verdict::Ok };
        finding.verdict = finding.verdict.max(verdict);
        format!("the data do not tell the axis of the blocks (largest element 6: {})", shares(full))
    };
    finding.reason = format!("{}; {said}", finding.reason);
    finding.numbers.insert("full_blocks_along_in", full.0);
    finding.numbers.insert("full_blocks_along_out", full.1);
    finding.numbers.insert("equal_pairs_along_in", pairs.0);
    finding.numbers.insert("equal_pairs_along_out", pairs.1);
}
