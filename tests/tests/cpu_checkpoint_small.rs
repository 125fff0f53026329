//! The CPU backend on the small checkpoint against the reference outputs stored with it (a hash layer and a top-k
//! layer; computed elsewhere, in f64).

use std::path::PathBuf;

use half::bf16;
use megamoe::checkpoint::Checkpoint;
use megamoe::cpu;
use megamoe::io::{LayerInput, LayerOutput, RoutingSource};
use megamoe::metrics::{BAR, Metrics};
use megamoe::options::{ForwardOptions, Part};
use megamoe::weights::{LayerWeights, Selection};
use safetensors::{Dtype, SafeTensors};

const TOKENS: usize = 24;

fn dir() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/data/checkpoint-small"))
}

struct Reference(Vec<u8>);

impl Reference {
    fn of(layer: usize) -> Self {
        Self(std::fs::read(dir().join(format!("reference.layer{layer}.safetensors"))).unwrap())
    }

    fn tensor<const W: usize, T>(&self, name: &str, dtype: Dtype, from: fn([u8; W]) -> T) -> Vec<T> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let view = file.tensor(name).unwrap();
        assert_eq!(view.dtype(), dtype, "{name}");
        view.data().chunks_exact(W).map(|b| from(b.try_into().unwrap())).collect()
    }

    fn f32(&self, name: &str) -> Vec<f32> {
        self.tensor(name, Dtype::F32, f32::from_le_bytes)
    }
}

fn load(layer: usize) -> LayerWeights {
    Checkpoint::open(&dir()).unwrap().load_layer(layer, &Default::default()).unwrap()
}

#[track_caller]
fn close(what: &str, got: &[f32], want: &[f32]) {
    let m = Metrics::of(got, want);
    println!("{what}: {m:?}");
    assert!(m.passes(&BAR), "{what}: {m:?}");
}

fn check(layer: usize, hash: bool) {
    let (weights, reference) = (load(layer), Reference::of(layer));
    let selection = &weights.router.as_ref().unwrap().selection;
    assert_eq!(matches!(selection, Selection::Hash { .. }), hash);
    let x = reference.tensor("hidden_states", Dtype::BF16, |b| bf16::from_bits(u16::from_le_bytes(b)));
    let input_ids = reference.tensor("input_ids", Dtype::I64, i64::from_le_bytes);
    let input = LayerInput {
        hidden_states: &x,
        tokens: TOKENS,
        routing: RoutingSource::Model { input_ids: Some(&input_ids) },
    };
    let run = |part| -> LayerOutput {
        cpu::forward(&weights, &input, &ForwardOptions { part, ..ForwardOptions::default() }).unwrap()
    };
    let out = run(Part::All);
    // The reference lists a token's experts in no particular order, this crate best first.
    let slots = |ids: &[i32], weights: &[f32]| -> Vec<Vec<(i32, f32)>> {
        let top_k = weights.len() / TOKENS;
        let tokens = ids.chunks(top_k).zip(weights.chunks(top_k));
        let sorted = |(ids, weights): (&[i32], &[f32])| {
            let mut slots: Vec<_> = ids.iter().copied().zip(weights.iter().copied()).collect();
            slots.sort_by_key(|&(id, _)| id);
            slots
        };
        tokens.map(sorted).collect()
    };
    let ids = reference.tensor("topk_ids", Dtype::I32, i32::from_le_bytes);
    let got = slots(&out.routing.topk_ids, &out.routing.topk_weights);
    for (got, want) in got.iter().zip(slots(&ids, &reference.f32("topk_weights"))) {
        for (&(id, weight), (want_id, want)) in got.iter().zip(want) {
            assert_eq!(id, want_id);
            assert!((weight - want).abs() <= 1e-6, "expert {id}: {weight}, expected {want}");
        }
    }
    close("output", &out.output_f32, &reference.f32("output_f32"));
    close("routed", &run(Part::Routed).output_f32, &reference.f32("routed_f32"));
    close("shared", &run(Part::Shared).output_f32, &reference.f32("shared_f32"));
    assert_eq!(out.stats, Default::default());
}

#[test]
fn the_hash_layer() {
    check(0, true);
}

#[test]
fn the_top_k_layer() {
    check(3, false);
}
