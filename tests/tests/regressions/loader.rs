//! Reading checkpoints: conventions, and what must be refused.

use std::path::Path;

use megamoe::checkpoint::{Checkpoint, LoadOptions};
use megamoe::weights::LayerWeights;
use megamoe_tests::checkpoint_writer::{
    Bias, CheckpointSpec, Fusion, Quant, RawCheckpoint, RawTensor, SharedFormat,
};

use super::harness::{Check, prove, require};

type Load = dyn Fn(&Path, usize) -> Result<LayerWeights, String>;

fn load(dir: &Path, layer: usize) -> Result<LayerWeights, String> {
    let checkpoint = Checkpoint::open(dir).map_err(|e| e.to_string())?;
    checkpoint.load_layer(layer, &LoadOptions::default()).map_err(|e| e.to_string())
}

/// The real loader with something done to what it returns.
fn then(change: impl Fn(&mut LayerWeights)) -> impl Fn(&Path, usize) -> Result<LayerWeights, String> {
    move |dir, layer| {
        let mut weights = load(dir, layer)?;
        change(&mut weights);
        Ok(weights)
    }
}

fn written(checkpoint: &RawCheckpoint) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    checkpoint.write(dir.path()).expect("writable");
    dir
}

fn spec() -> CheckpointSpec {
    CheckpointSpec {
        hidden: 64,
        intermediate: 32,
        experts: 4,
        top_k: 2,
        gate_up_ratio: 10.0,
        ..Default::default()
    }
}

#[test]
fn conventions_of_scales() {
    let specs = [
        spec(),
        CheckpointSpec { quant: Quant::CompressedTensors, ..spec() },
        CheckpointSpec { quant: Quant::CompressedTensors, fusion: Fusion::StackedTwoScales, ..spec() },
        CheckpointSpec { input_scales: false, ..spec() },
        CheckpointSpec { fusion: Fusion::GateUpTwoScales, scalars_rank_1: true, ..spec() },
    ];
    let dirs: Vec<_> = specs.iter().map(|s| (written(&s.build()), s.layer(1))).collect();
    let experts = |f: fn(&mut megamoe::weights::ExpertWeights)| {
        then(move |w: &mut LayerWeights| w.experts.iter_mut().for_each(f))
    };
    let mutants: &[(&str, &Load)] = &[
        ("global scales are divisors", &experts(|e| e.gate.global_scale = 1.0 / e.gate.global_scale)),
        ("one global scale for gate and up", &experts(|e| e.up.global_scale = e.gate.global_scale)),
        (
            "the larger one for gate and up",
            &experts(|e| {
                let max = e.gate.global_scale.max(e.up.global_scale);
                (e.gate.global_scale, e.up.global_scale) = (max, max);
            }),
        ),
        ("global scales that are not loaded", &experts(|e| e.down.global_scale = 0.0)),
        ("a missing input_scale is one", &experts(|e| e.gate.input_scale = e.gate.input_scale.or(Some(1.0)))),
        ("input_scale is a divisor", &experts(|e| e.down.input_scale = e.down.input_scale.map(|s| 1.0 / s))),
        ("up over gate", &experts(|e| std::mem::swap(&mut e.gate, &mut e.up))),
        ("experts in the order of their names' text", &then(|w| w.experts.swap(1, 2))),
        ("packed low nibble last", &experts(|e| e.up.packed.iter_mut().for_each(|b| *b = b.rotate_left(4)))),
    ];
    prove::<Load>("loading", &load, mutants, |load| -> Check {
        for ((dir, want), spec) in dirs.iter().zip(&specs) {
            require(load(dir.path(), 1)? == *want, format!("{:?} {:?}", spec.quant, spec.fusion))?;
        }
        Ok(())
    });
}

#[test]
fn routers_of_hash_and_other_layers() {
    let specs =
        [spec(), CheckpointSpec { bias: Bias::None, ..spec() }, CheckpointSpec { hash_layers: 2, ..spec() }];
    let dirs: Vec<_> = specs.iter().map(|s| (written(&s.build()), [s.layer(0), s.layer(1)])).collect();
    use megamoe::weights::Selection;
    let mutants: &[(&str, &Load)] = &[
        (
            "the bias defaults to zero",
            &then(|w| {
                if let Some(Selection::TopK { bias }) = w.router.as_mut().map(|r| &mut r.selection) {
                    *bias = Some(vec![0.0; 4].into());
                }
            }),
        ),
        ("every layer needs a bias", &|dir, layer| {
            let w = load(dir, layer)?;
            match w.router.as_ref().map(|r| &r.selection) {
                Some(Selection::TopK { bias: Some(_) }) => Ok(w),
                _ => Err("no bias".to_owned()),
            }
        }),
        (
            "every layer routes by score",
            &then(|w| {
                if let Some(r) = &mut w.router {
                    r.selection = Selection::TopK { bias: None };
                }
            }),
        ),
    ];
    prove::<Load>("routers", &load, mutants, |load| -> Check {
        for (dir, want) in &dirs {
            for (layer, want) in want.iter().enumerate() {
                require(load(dir.path(), layer)?.router == want.router, format!("layer {layer}"))?;
            }
        }
        Ok(())
    });
}

type Change = (&'static str, fn(&mut RawCheckpoint));

const BROKEN: [Change; 14] = [
    ("a NaN block scale", |c| c.tensor_mut("layers.1.ffn.experts.2.w1.weight_scale").data[3] = 0x7f),
    ("a negative block scale", |c| c.tensor_mut("layers.1.ffn.experts.2.w2.weight_scale").data[0] = 0xb8),
    ("a global scale of zero", |c| c.tensor_mut("layers.1.ffn.experts.0.w3.weight_scale_2").data.fill(0)),
    ("a global scale of infinity", |c| {
        c.tensor_mut("layers.1.ffn.experts.0.w3.weight_scale_2").data = f32::INFINITY.to_le_bytes().into();
    }),
    ("a subnormal global scale", |c| {
        c.tensor_mut("layers.1.ffn.experts.0.w1.weight_scale_2").data = 1e-40f32.to_le_bytes().into();
    }),
    ("a dropped global scale", |c| drop(c.remove("layers.1.ffn.experts.3.w2.weight_scale_2"))),
    ("half of the block scales", |c| {
        let t = c.tensor_mut("layers.1.ffn.experts.1.w1.weight_scale");
        t.shape[1] /= 2;
        t.data.truncate(t.data.len() / 2);
    }),
    ("transposed block scales", |c| c.tensor_mut("layers.1.ffn.experts.1.w1.weight_scale").shape.reverse()),
    ("E8M0 scales of NVFP4 size", |c| {
        c.tensor_mut("layers.1.ffn.experts.1.w3.weight_scale").dtype = "F8_E8M0".to_owned();
    }),
    ("a missing expert", |c| {
        for part in ["weight", "weight_scale", "weight_scale_2", "input_scale"] {
            drop(c.remove(&format!("layers.1.ffn.experts.3.w1.{part}")));
        }
    }),
    ("an expert too many", |c| {
        let mut extra: Vec<RawTensor> = Vec::new();
        for t in
            c.shards.iter().flat_map(|s| &s.tensors).filter(|t| t.name.contains("layers.1.ffn.experts.3."))
        {
            extra.push(RawTensor { name: t.name.replace("experts.3.", "experts.4."), ..t.clone() });
        }
        extra.into_iter().for_each(|t| c.push(t));
    }),
    ("a table entry that is no expert", |c| c.tensor_mut("layers.0.ffn.gate.tid2eid").data[0] = 4),
    ("a hash layer without its table", |c| drop(c.remove("layers.0.ffn.gate.tid2eid"))),
    ("a table on a layer that routes by score", |c| {
        let t = c.shards.iter().flat_map(|s| &s.tensors).find(|t| t.name == "layers.0.ffn.gate.tid2eid");
        let copy = RawTensor { name: "layers.1.ffn.gate.tid2eid".to_owned(), ..t.expect("a table").clone() };
        c.push(copy);
    }),
];

/// What must be refused is refused, each by itself; a loader that lets one of them pass is found.
#[test]
fn broken_checkpoints() {
    let healthy = written(&spec().build());
    let dirs: Vec<(&str, tempfile::TempDir)> = BROKEN
        .iter()
        .map(|(what, change)| {
            let mut checkpoint = spec().build();
            change(&mut checkpoint);
            (*what, written(&checkpoint))
        })
        .collect();
    let both = |load: &Load, dir: &Path| load(dir, 0).and_then(|_| load(dir, 1)).map(drop);
    let lenient: Vec<Box<Load>> = dirs
        .iter()
        .map(|(_, dir)| {
            let (excused, healthy) = (dir.path().to_owned(), healthy.path().to_owned());
            let load: Box<Load> =
                Box::new(move |dir, layer| load(if dir == excused { &healthy } else { dir }, layer));
            load
        })
        .collect();
    let mutants: Vec<(&str, &Load)> =
        dirs.iter().zip(&lenient).map(|((what, _), load)| (*what, load.as_ref())).collect();
    prove::<Load>("refusals", &load, &mutants, |load| {
        both(load, healthy.path()).map_err(|e| format!("the healthy one: {e}"))?;
        for (what, dir) in &dirs {
            require(both(load, dir.path()).is_err(), format!("{what} is accepted"))?;
        }
        Ok(())
    });
}

/// Exclude lists with wildcards, prefixes and exact names; a shared expert in each format.
#[test]
fn shared_experts_in_every_format() {
    for shared in [SharedFormat::Bf16, SharedFormat::Fp8E8m0, SharedFormat::Fp8F32, SharedFormat::Nvfp4] {
        let spec = CheckpointSpec { shared, ..spec() };
        let dir = written(&spec.build());
        let want = spec.layer(1);
        let mutants: &[(&str, &Load)] = &[("no shared expert", &then(|w| w.shared = None))];
        prove::<Load>("shared experts", &load, mutants, |load| {
            require(load(dir.path(), 1)? == want, format!("{shared:?}"))
        });
    }
}
