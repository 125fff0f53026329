//! Block scales of a layer that loads.

use nvfp4::e4m3;

use super::context::{Context, ScaleCount};
use super::{Finding, Verdict, percent, plural};
use crate::error::Result;

pub(super) const RANGE: &str = "block_scale_range";
pub(super) const ZEROS: &str = "zero_blocks";
pub(super) const POWERS: &str = "power_of_two_scales";
pub(super) const FOLDING: &str = "folding";

/// A global scale of `amax / 2688` makes the largest block scale of a tensor 448, by construction (a shared scale of
/// gate and up only that of one of them; the MXFP4 cast 256).
pub(super) fn range(context: &Context<'_>) -> Result<Finding> {
    let scales = context.scales();
    let max = |s: &ScaleCount| e4m3::decode(s.max_code());
    let uniform = |s: &&ScaleCount| s.counts[1..].iter().filter(|&&n| n > 0).count() == 1;
    let low: Vec<&ScaleCount> = scales.iter().filter(|s| max(s) < 224.0).collect();
    let uniform: Vec<&ScaleCount> = scales.iter().filter(uniform).collect();
    let full = scales.iter().filter(|s| max(s) == e4m3::MAX).count();
    let (lowest, highest) =
        scales.iter().map(max).fold((f32::INFINITY, 0.0f32), |(low, high), m| (low.min(m), high.max(m)));
    let (verdict, reason) = if let Some(first) = uniform.first() {
        let n = plural(uniform.len(), "matrix", "matrices");
        (
            Verdict::Warn,
            format!("{n} with one scale everywhere (first: {}): it hides layout errors", first.name),
        )
    } else if let Some(first) = low.first() {
        let what = format!(
            "{} of {} matrices stay below 224 (first: {}, maximum {}): their global scales are too large",
            low.len(),
            scales.len(),
            first.name,
            max(first)
        );
        (Verdict::Warn, what)
    } else {
        let what = format!("maxima {lowest} to {highest}, {full} of {} matrices reach 448", scales.len());
        (Verdict::Ok, what)
    };
    let finding = Finding::new(RANGE, verdict, reason);
    Ok(finding
        .with("lowest_max", lowest)
        .with("highest_max", highest)
        .count("reach_448", full as u64)
        .count("below_224", low.len() as u64)
        .count("uniform", uniform.len() as u64))
}

/// Blocks with scale 0, those of them that have data nevertheless, and matrices without anything else.
pub(super) fn zero_blocks(context: &Context<'_>) -> Result<Finding> {
    let scales = context.scales();
    let (all, zero) = scales.iter().fold((0, 0), |(all, zero), s| (all + s.blocks(), zero + s.counts[0]));
    let dead: Vec<&ScaleCount> = scales.iter().filter(|s| s.counts[0] == s.blocks()).collect();
    let mut lost = 0u64;
    for (_, m) in context.matrices() {
        for (block, _) in m.scales.iter().enumerate().filter(|&(_, &code)| code == 0) {
            // Codes 0 and 8 are zeros.
            lost += u64::from(m.packed[block * 8..][..8].iter().any(|b| b & 0x77 != 0));
        }
    }
    let share = zero as f64 / all.max(1) as f64;
    let what = format!("{zero} of {all} blocks ({})", percent(share));
    let (verdict, reason) = if let Some(first) = dead.first() {
        (
            Verdict::Fail,
            format!("{} all zero (first: {}); {what}", plural(dead.len(), "matrix", "matrices"), first.name),
        )
    } else if lost > 0 {
        (Verdict::Warn, format!("{what}; {lost} of them have codes that the zero scale discards"))
    } else if share > 0.05 {
        (Verdict::Warn, what)
    } else {
        (Verdict::Ok, what)
    };
    let finding = Finding::new(ZEROS, verdict, reason);
    Ok(finding
        .with("share", share)
        .count("blocks", zero)
        .count("with_codes", lost)
        .count("dead_matrices", dead.len() as u64))
}

/// Whether all scales are powers of two: the weights then are an MXFP4 model's, exactly.
pub(super) fn power_of_two(context: &Context<'_>) -> Result<Finding> {
    let scales = context.scales();
    let is_power = |s: &&ScaleCount| {
        let blocks = (0..=255u8).all(|c| s.counts[usize::from(c)] == 0 || e4m3::is_power_of_two_or_zero(c));
        blocks && s.global.to_bits() & 0x007f_ffff == 0
    };
    let powers = scales.iter().filter(is_power).count();
    let all = scales.len();
    let (verdict, reason) = if powers == all && all > 0 {
        (Verdict::Ok, format!("all {all} matrices: a lossless cast from MXFP4"))
    } else if powers > 0 {
        (Verdict::Warn, format!("{powers} of {all} matrices: the experts have different origins"))
    } else {
        (Verdict::Ok, "no: quantised as NVFP4".to_owned())
    };
    Ok(Finding::new(POWERS, verdict, reason).count("matrices", powers as u64).count("of", all as u64))
}

/// Relative error of `e4m3(scale * global)` against `scale * global`, over all block scales that are not zero. What
/// it would cost: this engine keeps the two apart.
pub(super) fn folding(context: &Context<'_>) -> Result<Finding> {
    let (mut errors, mut clamped, mut zeroed) = (Vec::new(), 0, 0);
    for s in context.scales() {
        for (code, &count) in s.counts.iter().enumerate().skip(1).filter(|&(_, &n)| n > 0) {
            let exact = f64::from(e4m3::decode(code as u8)) * f64::from(s.global);
            let folded = f64::from(e4m3::decode(e4m3::encode(exact as f32)));
            errors.push(((folded - exact).abs() / exact, count));
            clamped += if exact > f64::from(e4m3::MAX) { count } else { 0 };
            zeroed += if folded == 0.0 { count } else { 0 };
        }
    }
    errors.sort_by(|a, b| a.0.total_cmp(&b.0));
    let all: u64 = errors.iter().map(|e| e.1).sum();
    let mean = errors.iter().map(|e| e.0 * e.1 as f64).sum::<f64>() / all.max(1) as f64;
    let max = errors.last().map_or(0.0, |e| e.0);
    let mut seen = 0;
    let p99 = errors.iter().find(|e| {
        seen += e.1;
        seen as f64 >= 0.99 * all as f64
    });
    let p99 = p99.map_or(0.0, |e| e.0);
    let reason = format!(
        "kept apart; folded they would be off by {} on average, {} at the 99th percentile, {} at most; {clamped} of \
         {all} clamped, {zeroed} lost",
        percent(mean),
        percent(p99),
        percent(max)
    );
    let finding = Finding::new(FOLDING, Verdict::Ok, reason);
    Ok(finding
        .with("mean_rel", mean)
        .with("p99_rel", p99)
        .with("max_rel", max)
        .count("clamped", clamped)
        .count("zeroed", zeroed)
        .count("scales", all))
}
