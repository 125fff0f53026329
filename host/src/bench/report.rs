//! A run as a table and as JSON.

use std::fmt::Write;

use serde_json::{Value, json as object};

use super::{Ceilings, Point, Report};

/// A point's floor and its ratios.
struct Ratios {
    read_us: f64,
    flop_us: Option<f64>,
    /// Floor over time, sustained; the floor is the larger of the two.
    ratio: f64,
}

impl Ratios {
    fn of(point: &Point, ceilings: &Ceilings) -> Self {
        let read_us = point.bytes / ceilings.read_gbs / 1e3;
        let flop_us = ceilings.bf16_tflops.as_ref().ok().map(|rate| point.flop / rate / 1e6);
        let floor = read_us.max(flop_us.unwrap_or(0.0));
        Self { read_us, flop_us, ratio: floor / point.timing.sustained_us }
    }
}

/// The run for people: one aligned line per point.
pub fn table(report: &Report) -> String {
    let mut text = String::new();
    let options = &report.options;
    let shape = &options.shape;
    let dense = match &report.ceilings.bf16_tflops {
        Ok(rate) => format!("{rate:.0} TFLOP/s ({:.0} cool)", report.ceilings.bf16_tflops_cool),
        Err(why) => format!("not measured: {why}"),
    };
    let _ = writeln!(
        text,
        "{}\n{}: H {} I {} experts {} top {}, {:?} routing, {:?} activations\nread {:.0} GB/s, cuBLAS bf16 {dense}",
        report.device,
        shape.name,
        shape.hidden,
        shape.intermediate,
        shape.experts,
        shape.top_k,
        options.spread,
        options.options.activations,
        report.ceilings.read_gbs,
    );
    let _ = writeln!(
        text,
        "{:>6} {:>7} {:>8} {:>10} {:>10} {:>6} {:>8} {:>8} {:>7} {:>8} {:>8} {:>6} {:>9} {:>10}",
        "tokens",
        "experts",
        "max rows",
        "us",
        "cool us",
        "+-",
        "read us",
        "flop us",
        "GB/s",
        "of read",
        "TFLOP/s",
        "ratio",
        "rel-L2",
        "workspace",
    );
    for (tokens, point) in &report.points {
        match point {
            Ok(p) => {
                let r = Ratios::of(p, &report.ceilings);
                let gbs = p.bytes / p.timing.sustained_us / 1e3;
                let _ = writeln!(
                    text,
                    "{:>6} {:>7.1} {:>8} {:>10.1} {:>10.1} {:>5.1}% {:>8.1} {:>8} {:>7.0} {:>7.1}% {:>8.1} {:>6.3} {:>9.1e} {:>7.1} MB",
                    tokens,
                    p.experts,
                    p.max_rows,
                    p.timing.sustained_us,
                    p.timing.cool_us,
                    p.timing.spread * 100.0,
                    r.read_us,
                    r.flop_us.map_or("-".to_owned(), |us| format!("{us:.1}")),
                    gbs,
                    gbs / report.ceilings.read_gbs * 100.0,
                    p.flop / p.timing.sustained_us / 1e6,
                    r.ratio,
                    p.error.rel_l2,
                    p.workspace as f64 / 1e6,
                );
                for (name, us) in &p.breakdown {
                    let _ = writeln!(text, "{us:>34.2}  {name}");
                }
            }
            Err(why) => {
                let _ = writeln!(text, "{tokens:>6} no time: {why}");
            }
        }
    }
    text
}

/// The run for programs.
pub fn json(report: &Report) -> Value {
    let shape = &report.options.shape;
    let points: Vec<Value> = report
        .points
        .iter()
        .map(|(tokens, point)| match point {
            Err(why) => object!({ "tokens": tokens, "error": why }),
            Ok(p) => {
                let r = Ratios::of(p, &report.ceilings);
                object!({
                    "tokens": tokens,
                    "experts": p.experts,
                    "max_rows": p.max_rows,
                    "sustained_us": p.timing.sustained_us,
                    "cool_us": p.timing.cool_us,
                    "spread": p.timing.spread,
                    "replays": p.timing.replays,
                    "weight_bytes": p.bytes,
                    "flop": p.flop,
                    "read_floor_us": r.read_us,
                    "flop_floor_us": r.flop_us,
                    "ratio": r.ratio,
                    "rel_l2": p.error.rel_l2,
                    "calc_diff": p.error.calc_diff,
                    "norm_ratio": p.error.norm_ratio,
                    "workspace_bytes": p.workspace,
                    "breakdown_us": p.breakdown,
                })
            }
        })
        .collect();
    object!({
        "device": report.device,
        "shape": {
            "name": shape.name, "hidden": shape.hidden, "intermediate": shape.intermediate,
            "experts": shape.experts, "top_k": shape.top_k,
        },
        "routing": format!("{:?}", report.options.spread),
        "activations": format!("{:?}", report.options.options.activations),
        "read_gbs": report.ceilings.read_gbs,
        "bf16_tflops": report.ceilings.bf16_tflops.as_ref().ok(),
        "bf16_tflops_cool": report.ceilings.bf16_tflops_cool,
        "points": points,
    })
}
