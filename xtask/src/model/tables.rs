//! The tables that `docs/blackwell.md` holds.

use std::fmt::Write;

use super::{PAIR, PORTS, SINGLE, Shape, shape};

/// Layers of the first tables.
pub const SHAPES: [Shape; 2] = [
    shape("DeepSeek-V4-Flash, H 4096, I 2048, 256 experts", 4096, 2048, [256, 256, 6, 1]),
    shape(
        "DeepSeek-V4-Pro, H 7168, I 3072, 48 local experts, all six picks local",
        7168,
        3072,
        [48, 48, 6, 1],
    ),
];
const TOKENS: [u32; 8] = [1, 8, 32, 64, 128, 512, 2048, 8192];

/// Published times: whose, of what, `(tokens, us)`; tokens of each card. Not measured here; sources in the document.
type Figures = (&'static str, Shape, &'static [(u32, f64)]);
const PUBLISHED: [Figures; 7] = [
    (
        "DeepGEMM",
        shape("Flash EP8, 32 of 256", 4096, 2048, [32, 256, 6, 8]),
        &[(1, 56.5), (512, 146.5), (8192, 1283.0)],
    ),
    (
        "DeepGEMM",
        shape("Pro EP8, 48 of 384", 7168, 3072, [48, 384, 6, 8]),
        &[(1, 108.1), (512, 369.6), (8192, 2818.0)],
    ),
    (
        "CuteDSL mega",
        shape("Flash EP4, 64 of 256", 4096, 2048, [64, 256, 6, 4]),
        &[(8, 142.0), (512, 231.0), (2048, 345.0), (8192, 1070.0)],
    ),
    (
        "CuteDSL mega",
        shape("Pro EP4, 96 of 384", 7168, 3072, [96, 384, 6, 4]),
        &[(8, 304.2), (64, 562.0), (512, 621.6), (2048, 760.8), (8192, 1897.0)],
    ),
    (
        "LightMoE",
        shape("Flash shard, 8 of 8", 4096, 2048, [8, 8, 6, 1]),
        &[(1, 20.5), (128, 48.9), (8192, 679.5)],
    ),
    (
        "CuteDSL W4A4",
        shape("V3 shard, 32 of 256", 7168, 2048, [32, 256, 8, 1]),
        &[(1, 31.0), (8, 72.0), (64, 144.0), (512, 158.0), (1024, 163.0)],
    ),
    (
        "trtllm-gen",
        shape("V3 shard, 32 of 256", 7168, 2048, [32, 256, 8, 1]),
        &[(1, 26.0), (8, 64.0), (64, 140.0), (512, 164.0), (1024, 294.0), (8192, 386.0)],
    ),
];

/// Microseconds.
fn us(seconds: f64) -> String {
    let us = seconds * 1e6;
    if us < 99.95 { format!("{us:.1}") } else { format!("{us:.0}") }
}

/// At both rates of the ports, or once if they give the same.
fn both(time: impl Fn(f64) -> f64) -> String {
    let [fast, slow] = PORTS.map(|port| us(time(port)));
    if fast == slow { fast } else { format!("{fast} to {slow}") }
}

/// The tables.
pub fn report() -> String {
    let mut text = String::new();
    let mut line = |s: String| writeln!(text, "{s}").expect("a string takes all");
    for shape in &SHAPES {
        let head = "experts with rows | form | memory | MMA | epilogue | L2 to SM | single, us | pair, us | mega, us";
        line(format!("{}:\n\n| tokens | {head} |\n|---|---|---|---|---|---|---|---|---|---|", shape.name));
        for tokens in TOKENS {
            let form = shape.form(tokens);
            let limit =
                |i: usize, port| (0..2).map(|p| shape.work(p, form, tokens).limits(form, port)[i]).sum();
            let mega =
                shape.mega(tokens, 1.0).map(|_| both(|port| shape.mega(tokens, port).unwrap_or_default()));
            let cells = [
                tokens.to_string(),
                format!("{:.1}", shape.touched(tokens)),
                if form.blocks == 2 { "pair" } else { "single" }.to_owned(),
                us(limit(0, 1.0)),
                us(limit(1, 1.0)),
                us(limit(2, 1.0)),
                both(|port| limit(3, port)),
                both(|port| shape.split(&SINGLE, tokens, port)),
                both(|port| shape.split(&PAIR, tokens, port)),
                mega.unwrap_or_default(),
            ];
            line(format!("| {} |", cells.join(" | ")));
        }
        line(String::new());
    }
    line("| published | shape | tokens: published us, model us |\n|---|---|---|".to_owned());
    for (by, shape, figures) in &PUBLISHED {
        let cells = figures.iter().map(|&(tokens, published)| {
            let time = both(|port| shape.split(shape.form(tokens), tokens, port));
            format!("{tokens}: {published}, {time}")
        });
        line(format!("| {by} | {} | {} |", shape.name, cells.collect::<Vec<_>>().join("; ")));
    }
    text
}
