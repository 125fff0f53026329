//! `verify` on a healthy backend and on broken ones: what it must not let pass.

use std::sync::LazyLock;

use half::bf16;
use megamoe::Result;
use megamoe::cpu;
use megamoe::io::{LayerInput, LayerOutput};
use megamoe::options::{ForwardOptions, WarmupScales};
use megamoe::oracle::QuantisedRow;
use megamoe::verify::{Backend, Batch, Candidate, Outcome, Report, candidates, modes, verify, verify_layer};
use megamoe::weights::LayerWeights;
use megamoe_tests::checkpoint_writer::{CheckpointSpec, SharedFormat};

/// The backends, made once: making one may load every kernel.
static CANDIDATES: LazyLock<Vec<Candidate>> = LazyLock::new(candidates);

/// The CPU backend with something done to its results.
struct Broken {
    output: fn(&mut LayerOutput, &LayerWeights),
    row: fn(&mut QuantisedRow),
}

impl Backend for Broken {
    fn forward(
        &self,
        layer: &LayerWeights,
        input: &LayerInput<'_>,
        opts: &ForwardOptions,
    ) -> Result<LayerOutput> {
        let mut out = cpu::forward(layer, input, opts)?;
        (self.output)(&mut out, layer);
        out.output = out.output_f32.iter().map(|&y| bf16::from_f32(y)).collect();
        Ok(out)
    }

    fn measure_warmup(
        &self,
        layer: &LayerWeights,
        input: &LayerInput<'_>,
        opts: &ForwardOptions,
    ) -> Result<WarmupScales> {
        cpu::measure_warmup(layer, input, opts)
    }

    fn quantise_row(&self, x: &[f32], scale: Option<f32>) -> Option<QuantisedRow> {
        let cpu = CANDIDATES.iter().find(|c| c.name == "cpu")?.backend.as_ref().ok()?;
        let mut row = cpu.quantise_row(x, scale)?;
        (self.row)(&mut row);
        Some(row)
    }
}

fn run(layer: &LayerWeights, backend: Broken) -> Vec<Outcome> {
    let batches = [Batch::activations(&layer.config, 9, 3), Batch::edges(&layer.config)];
    let candidate = [Candidate { name: "broken", backend: Ok(Box::new(backend)) }];
    let mut report = Report::default();
    verify(layer, &batches, &candidate, &mut report, &mut |_| {}).expect("the layer is fine");
    assert_eq!(report.outcomes.len(), 2 * modes(layer).0.len());
    report.outcomes
}

const SAME: fn(&mut QuantisedRow) = |_| {};

#[test]
fn healthy_backends_pass() {
    let names: Vec<_> = CANDIDATES.iter().map(|c| c.name).collect();
    assert_eq!(names, ["cpu", "emulator", "cuda"]);
    let unusable = CANDIDATES.iter().filter(|c| c.backend.is_err()).count();
    assert!(CANDIDATES[0].backend.is_ok() && CANDIDATES[1].backend.is_ok(), "{unusable} are unusable");
    // The modes that need static scales are impossible without them: one, in each of two layers.
    for (spec, impossible) in [
        (CheckpointSpec::default(), 0),
        (CheckpointSpec { input_scales: false, shared: SharedFormat::Fp8F32, ..Default::default() }, 2),
    ] {
        let mut report = Report::default();
        let mut outcomes = 0;
        for layer in [0, 1] {
            let layer = spec.layer(layer);
            verify_layer(&layer, 6, &mut report).expect("it runs");
            // Two batches.
            outcomes += (names.len() - unusable) * 2 * modes(&layer).0.len();
        }
        for outcome in &report.outcomes {
            assert!(outcome.passed(), "{outcome:#?}");
            assert!(outcome.rel_l2 < 1e-3 && outcome.ids_equal + outcome.ids_undecided == outcome.tokens);
        }
        assert!(report.passed());
        assert_eq!(report.outcomes.len(), outcomes);
        assert_eq!(report.skipped.len(), unusable + impossible, "{:?}", report.skipped);
    }
    assert!(!Report::default().passed(), "nothing was compared");
}

#[test]
fn broken_backends_do_not_pass() {
    type Output = fn(&mut LayerOutput, &LayerWeights);
    let breaks: [(&str, Output, &str); 9] = [
        ("amplitude", |o, _| o.output_f32.iter_mut().for_each(|y| *y *= 1.002), "norm ratio"),
        ("a lost token", |o, l| o.output_f32[..l.config.hidden].fill(0.0), "rel-L2"),
        (
            "a NaN that is not one",
            |o, _| o.output_f32.iter_mut().for_each(|y| *y = y.max(-1e30)),
            "one side only",
        ),
        ("a NaN too many", |o, _| o.output_f32[0] = f32::NAN, "one side only"),
        ("order of columns", |o, _| o.output_f32.chunks_mut(2).for_each(|p| p.swap(0, 1)), "rel-L2"),
        ("experts", |o, _| o.routing.topk_ids.iter_mut().for_each(|e| *e = (*e + 1) % 8), "wrong experts"),
        ("weights", |o, _| o.routing.topk_weights.iter_mut().for_each(|w| *w *= 1.00001), "routing weight"),
        ("counters", |o, _| o.stats.invalid_slots += 1, "counters"),
        ("size", |o, _| o.output_f32.truncate(1), "another size"),
    ];
    let layer = CheckpointSpec::default().layer(1);
    for (what, output, says) in breaks {
        let outcomes = run(&layer, Broken { output, row: SAME });
        let caught = outcomes.iter().any(|o| o.failures.iter().any(|f| f.contains(says)));
        assert!(caught, "{what}: {:?}", outcomes.iter().map(|o| &o.failures).collect::<Vec<_>>());
    }
    // A single quiet token that is lost: the loud ones hide it from the sum.
    let quiet: Output = |o, l| {
        let rows = || o.output_f32.chunks(l.config.hidden);
        let norm = |r: &[f32]| r.iter().map(|y| y * y).sum::<f32>();
        let finite = rows().enumerate().filter(|(_, r)| norm(r) > 0.0);
        let Some((quietest, _)) = finite.min_by(|a, b| norm(a.1).total_cmp(&norm(b.1))) else { return };
        o.output_f32[quietest * l.config.hidden..][..l.config.hidden].fill(0.0);
    };
    for outcome in run(&layer, Broken { output: quiet, row: SAME }) {
        assert!(outcome.worst_token >= 1.0 && !outcome.passed(), "{outcome:?}");
    }
}

#[test]
fn wrong_bytes_do_not_pass() {
    let layer = CheckpointSpec::default().layer(1);
    let rows: [fn(&mut QuantisedRow); 3] = [
        |r| r.packed.iter_mut().for_each(|b| *b = b.rotate_left(4)),
        |r| r.scales[3] ^= 1,
        |r| r.scale = f32::from_bits(r.scale.to_bits() + 1),
    ];
    for row in rows {
        for outcome in run(&layer, Broken { output: |_, _| {}, row }) {
            assert_eq!(outcome.passed(), outcome.mode == "bf16", "{outcome:?}");
        }
    }
}
