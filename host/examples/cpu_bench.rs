//! Times one layer on the CPU backend: random weights in memory, uniform routing by the router or all tokens to the
//! same experts; wall clock of the fastest of a few calls and (on Linux) their mean CPU time, which says more on a
//! machine that others use. A sample of outputs is checked against plain f64 loops.
//!
//! ```text
//! cargo run --release -p megamoe --example cpu_bench [HxIxExK] [tokens,tokens,...]
//! ```

use std::time::{Duration, Instant};

use half::bf16;
use megamoe::cpu;
use megamoe::io::{LayerInput, LayerOutput, RoutingSource};
use megamoe::options::{Activations, ForwardOptions};
use megamoe::weights::*;
use nvfp4::routing::Scoring;

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// In -1..1.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn matrix(&mut self, rows: usize, cols: usize) -> Nvfp4Matrix {
        let n = rows * cols;
        let packed = (0..n / 16).flat_map(|_| self.next().to_le_bytes()).collect();
        let scales = (0..n / 16).map(|_| 0x60 + (self.next() % 0x1f) as u8).collect();
        Nvfp4Matrix { rows, cols, packed, scales, global_scale: 2e-5, input_scale: None }
    }
}

fn layer([hidden, intermediate, experts, top_k]: [usize; 4]) -> LayerWeights {
    let mut rng = Rng(0x9e37_79b9_7f4a_7c15);
    let weight = (0..experts * hidden).map(|_| rng.unit() * 0.05).collect();
    let shared = SharedExpertWeights {
        gate: Linear::Nvfp4(rng.matrix(intermediate, hidden)),
        up: Linear::Nvfp4(rng.matrix(intermediate, hidden)),
        down: Linear::Nvfp4(rng.matrix(hidden, intermediate)),
    };
    let expert = |_| ExpertWeights {
        gate: rng.matrix(intermediate, hidden),
        up: rng.matrix(intermediate, hidden),
        down: rng.matrix(hidden, intermediate),
    };
    LayerWeights {
        layer: 0,
        config: LayerConfig {
            hidden,
            intermediate,
            experts,
            top_k,
            shared_intermediate: intermediate,
            scoring: Scoring::SqrtSoftplus,
            norm_topk_prob: true,
            routed_scaling_factor: 1.5,
            swiglu_limit: Some(10.0),
            vocab_size: 1,
        },
        experts: (0..experts).map(expert).collect(),
        shared: Some(shared),
        router: Some(RouterWeights { weight, selection: Selection::TopK { bias: None } }),
    }
}

/// Sampled columns of one token's output, W4A16, in f64 (the SwiGLU result rounded to bf16 as the contract says).
fn sample(layer: &LayerWeights, x: &[bf16], out: &LayerOutput, token: usize, columns: &[usize]) -> Vec<f64> {
    let c = &layer.config;
    let dot = |m: &Nvfp4Matrix, row: usize, x: &[f64]| {
        let mut w = vec![0.0; m.cols];
        let at = row * m.cols;
        nvfp4::quantize::dequantize_row_unscaled(
            &m.packed[at / 2..][..m.cols / 2],
            &m.scales[at / 16..][..m.cols / 16],
            &mut w,
        );
        w.iter().zip(x).map(|(&w, x)| f64::from(w) * x).sum::<f64>() * f64::from(m.global_scale)
    };
    let x: Vec<f64> = x[token * c.hidden..][..c.hidden].iter().map(|v| v.to_f64()).collect();
    let mlp = |gate: &Nvfp4Matrix, up: &Nvfp4Matrix, down: &Nvfp4Matrix| {
        let limit = f64::from(c.limit());
        let h: Vec<f64> = (0..gate.rows)
            .map(|i| {
                let (g, u) = (dot(gate, i, &x).min(limit), dot(up, i, &x).clamp(-limit, limit));
                bf16::from_f64(g / (1.0 + (-g).exp()) * u).to_f64()
            })
            .collect();
        columns.iter().map(|&n| dot(down, n, &h)).collect::<Vec<f64>>()
    };
    let shared = layer.shared.as_ref().expect("the bench layer has one");
    let (Linear::Nvfp4(g), Linear::Nvfp4(u), Linear::Nvfp4(d)) = (&shared.gate, &shared.up, &shared.down)
    else {
        unreachable!("the bench layer is NVFP4")
    };
    let mut y = mlp(g, u, d);
    for k in token * c.top_k..(token + 1) * c.top_k {
        let e = &layer.experts[out.routing.topk_ids[k] as usize];
        let weight = f64::from(out.routing.topk_weights[k]);
        mlp(&e.gate, &e.up, &e.down).iter().zip(&mut y).for_each(|(v, y)| *y += weight * v);
    }
    y
}

/// CPU time of this process so far, in ms (in steps of 10); 0 where the system does not say.
fn cpu_ms() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // After the name in parentheses: user and system time are fields 12 and 13, in hundredths of a second.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|f| f.parse::<u64>().ok()).sum::<u64>() * 10
}

fn main() {
    let mut args = std::env::args().skip(1);
    let numbers = |text: &str, by: char| -> Vec<usize> {
        text.split(by).map(|n| n.parse().unwrap_or_else(|_| panic!("{n:?} is not a number"))).collect()
    };
    let shape = numbers(&args.next().unwrap_or_else(|| "4096x2048x256x6".into()), 'x');
    let shape: [usize; 4] = shape.try_into().expect("HxIxExK");
    let tokens = numbers(&args.next().unwrap_or_else(|| "1,8,64,512".into()), ',');
    let layer = layer(shape);
    let [hidden, _, experts, top_k] = shape;
    println!("H {hidden}  I {}  E {experts}  K {top_k}  threads {}", shape[1], rayon::current_num_threads());

    for tokens in tokens {
        let mut rng = Rng(tokens as u64 + 1);
        let x: Vec<bf16> = (0..tokens * hidden).map(|_| bf16::from_f32(rng.unit())).collect();
        let hot_ids: Vec<i32> = (0..tokens * top_k).map(|s| (s % top_k) as i32).collect();
        let hot_weights = vec![1.5 / top_k as f32; hot_ids.len()];
        let uniform = RoutingSource::Model { input_ids: None };
        let hot = RoutingSource::Given { topk_ids: &hot_ids, topk_weights: &hot_weights };
        for (routing_name, routing) in [("uniform", uniform), ("hot", hot)] {
            for activations in [Activations::Bf16, Activations::Nvfp4] {
                let input = LayerInput { hidden_states: &x, tokens, routing };
                let opts = ForwardOptions { activations, ..ForwardOptions::default() };
                let (mut best, mut out) = (Duration::MAX, LayerOutput::default());
                let (calls, cpu) = (if tokens >= 256 { 2 } else { 4 }, cpu_ms());
                for _ in 0..calls {
                    let start = Instant::now();
                    out = cpu::forward(&layer, &input, &opts).expect("the bench layer is valid");
                    best = best.min(start.elapsed());
                }
                let (cpu, mut check) = ((cpu_ms() - cpu) / calls, String::new());
                if activations == Activations::Bf16 {
                    let columns = [0, hidden / 3, hidden - 1];
                    let want = sample(&layer, &x, &out, tokens - 1, &columns);
                    let scale = want.iter().map(|v| v * v).sum::<f64>().sqrt();
                    let got = columns.map(|n| f64::from(out.output_f32[(tokens - 1) * hidden + n]));
                    let diff =
                        got.iter().zip(&want).map(|(g, w)| (g - w).powi(2)).sum::<f64>().sqrt() / scale;
                    assert!(diff <= 2e-3, "wrong result: {got:?}, expected {want:?}");
                    check = format!("  f64 sample {diff:.0e}");
                }
                let ms = best.as_secs_f64() * 1e3;
                println!(
                    "T {tokens:5}  {routing_name:7}  {activations:5?}  {ms:9.1} ms  cpu {cpu:6} ms{check}"
                );
            }
        }
    }
}
