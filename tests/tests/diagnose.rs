//! `diagnose` on checkpoints with one thing wrong each: the check that is made for it says so, and names it.

use std::path::Path;

use half::bf16;
use megamoe::checkpoint::Checkpoint;
use megamoe::diagnose::{Finding, LayerReport, Options, Verdict, diagnose_layer};
use megamoe_tests::checkpoint_writer::raw::write_file;
use megamoe_tests::checkpoint_writer::{
    CheckpointSpec, Fusion, Names, Quant, RawCheckpoint, RawTensor, SharedFormat, raw,
};
use serde_json::json;

const LAYER: usize = 1;

fn report_with(checkpoint: &RawCheckpoint, layer: usize, options: &Options) -> LayerReport {
    let dir = tempfile::tempdir().expect("a temporary folder");
    checkpoint.write(dir.path()).expect("writable");
    let opened = Checkpoint::open(dir.path()).expect("it opens");
    let mut steps = 0;
    let report = diagnose_layer(&opened, layer, options, &mut |done, all| {
        steps += 1;
        assert_eq!(done, steps);
        assert!(done < all);
    });
    report.expect("a report")
}

fn report(checkpoint: &RawCheckpoint) -> LayerReport {
    report_with(checkpoint, LAYER, &Options { tokens: 24, ..Options::default() })
}

fn check<'a>(report: &'a LayerReport, name: &str) -> &'a Finding {
    report.checks.iter().find(|f| f.check == name).unwrap_or_else(|| panic!("{name}: {report:#?}"))
}

/// Verdict and reason of one check after one change to a healthy checkpoint.
#[track_caller]
fn expect(name: &str, verdict: Verdict, says: &str, change: impl FnOnce(&mut RawCheckpoint)) -> Finding {
    let mut checkpoint = spec().build();
    change(&mut checkpoint);
    let report = report(&checkpoint);
    let finding = check(&report, name);
    assert_eq!(finding.verdict, verdict, "{name}: {}", finding.reason);
    assert!(finding.reason.contains(says), "{name}: {}", finding.reason);
    assert!(report.verdict >= verdict);
    finding.clone()
}

fn spec() -> CheckpointSpec {
    // I = 112: not a multiple of 32, and apart from H.
    CheckpointSpec { hidden: 128, intermediate: 112, gate_up_ratio: 1.0, gain: 1.0, ..Default::default() }
}

fn tensor(suffix: &str) -> String {
    format!("layers.{LAYER}.ffn.experts.2.{suffix}")
}

#[test]
fn a_healthy_checkpoint_in_every_form() {
    let keys = [
        "loads",
        "orientation",
        "block_scale_bytes",
        "global_scales",
        "block_scale_range",
        "zero_blocks",
        "power_of_two_scales",
        "folding",
        "gate_up_scales",
        "duplicate_weights",
        "modules",
        "sample",
        "input_scale",
        "swiglu_limit",
        "router_bias",
        "routing_balance",
        "expert_parallel",
    ];
    let base = CheckpointSpec { hidden: 128, intermediate: 96, ..spec() };
    for (what, spec) in [
        ("default", base.clone()),
        ("Hugging Face", CheckpointSpec { names: Names::HuggingFace, ..base.clone() }),
        ("compressed-tensors", CheckpointSpec { quant: Quant::CompressedTensors, ..base.clone() }),
        ("stacked", CheckpointSpec { fusion: Fusion::StackedTwoScales, ..base.clone() }),
        ("stacked, one scale", CheckpointSpec { fusion: Fusion::StackedOneScale, ..base.clone() }),
        ("fused", CheckpointSpec { fusion: Fusion::GateUpOneScale, ..base.clone() }),
        ("MXFP4", base.clone().into_mxfp4()),
        ("FP8 shared", CheckpointSpec { shared: SharedFormat::Fp8E8m0, ..base.clone() }),
        ("no clamp", CheckpointSpec { swiglu_limit: None, ..base.clone() }),
        ("square", CheckpointSpec { intermediate: 128, ..base.clone() }),
    ] {
        for layer in [0, 1] {
            let report = report_with(&spec.build(), layer, &Options { tokens: 16, ..Options::default() });
            let names: Vec<&str> = report.checks.iter().map(|f| f.check).collect();
            assert_eq!(names, keys, "{what}");
            for finding in &report.checks {
                // Warnings are opinions; nothing here is broken.
                assert_ne!(finding.verdict, Verdict::Fail, "{what} layer {layer}: {finding:?}");
            }
            let orientation = check(&report, "orientation");
            assert_eq!(orientation.verdict, Verdict::Ok, "{what} layer {layer}: {orientation:?}");
            let json = serde_json::to_value(&report).expect("JSON");
            assert_eq!(json["checks"][1]["check"], "orientation");
            assert!(matches!(json["verdict"].as_str(), Some("ok" | "warn")), "{json}");
        }
    }
}

#[test]
fn bad_block_scales_are_named() {
    for (byte, says) in [(0x7f, "1 NaN and 0 negative"), (0xff, "1 NaN"), (0xb8, "0 NaN and 1 negative")] {
        let name = tensor("w3.weight_scale");
        let finding =
            expect("block_scale_bytes", Verdict::Fail, says, |c| c.tensor_mut(&name).data[5] = byte);
        assert!(finding.reason.contains(&format!("{name}[5] = {byte:#04x}")), "{}", finding.reason);
        let finding =
            expect("loads", Verdict::Fail, "w3.weight_scale", |c| c.tensor_mut(&name).data[5] = byte);
        assert_eq!(finding.check, "loads");
    }
}

#[test]
fn bad_global_scales_are_named() {
    for value in [0.0f32, -1.0, f32::NAN, f32::INFINITY, 1e-40] {
        for suffix in ["w2.weight_scale_2", "w1.input_scale"] {
            let name = tensor(suffix);
            let says = format!("first: {name}[0] = {value:e}");
            expect("global_scales", Verdict::Fail, &says, |c| {
                c.tensor_mut(&name).data = value.to_le_bytes().to_vec();
            });
        }
    }
}

#[test]
fn shapes_that_do_not_fit() {
    let scale = tensor("w2.weight_scale");
    expect("orientation", Verdict::Fail, "the scale is transposed", |c| {
        c.tensor_mut(&scale).shape.reverse();
    });
    expect("orientation", Verdict::Fail, "expected one scale per 16", |c| {
        let t = c.tensor_mut(&scale);
        t.shape[1] /= 7;
        t.data.truncate(t.data.len() / 7);
    });
    expect("orientation", Verdict::Fail, "it is transposed", |c| {
        c.tensor_mut(&tensor("w1.weight")).shape = vec![128, 56];
    });
}

/// A square expert whose bytes were transposed: shapes fit, data do not.
#[test]
fn data_quantised_along_the_other_axis() {
    let spec = CheckpointSpec { hidden: 128, intermediate: 128, ..spec() };
    let mut checkpoint = spec.build();
    let nibble = |data: &[u8], row: usize, k: usize| data[(row * 128 + k) / 2] >> (4 * (k % 2)) & 15;
    for shard in &mut checkpoint.shards {
        for t in
            shard.tensors.iter_mut().filter(|t| t.name.contains("experts") && t.name.ends_with(".weight"))
        {
            let old = t.data.clone();
            for row in 0..128 {
                for k in (0..128).step_by(2) {
                    t.data[(row * 128 + k) / 2] = nibble(&old, k, row) | nibble(&old, k + 1, row) << 4;
                }
            }
        }
    }
    let report = report(&checkpoint);
    let finding = check(&report, "orientation");
    assert_eq!(finding.verdict, Verdict::Fail, "{}", finding.reason);
    assert!(finding.reason.contains("transposed"), "{}", finding.reason);
}

#[test]
fn zeros_and_ranges() {
    let scale = tensor("w1.weight_scale");
    expect("zero_blocks", Verdict::Fail, "1 matrix all zero (first: expert 2 gate)", |c| {
        c.tensor_mut(&scale).data.fill(0);
    });
    let finding = expect("zero_blocks", Verdict::Warn, "codes that the zero scale discards", |c| {
        c.tensor_mut(&scale).data[3] = 0;
    });
    assert_eq!(finding.numbers["with_codes"], 1.0);
    expect("block_scale_range", Verdict::Warn, "stay below 224 (first: expert 2 gate, maximum 2)", |c| {
        c.tensor_mut(&scale).data.iter_mut().for_each(|b| *b = (*b).min(0x40));
    });
    expect("block_scale_range", Verdict::Warn, "one scale everywhere (first: expert 2 gate)", |c| {
        c.tensor_mut(&scale).data.fill(0x7e);
    });
}

#[test]
fn origins_and_folding() {
    let spec = CheckpointSpec { hidden: 128, intermediate: 96, ..spec() };
    let mx = report(&spec.clone().into_mxfp4().build());
    assert!(check(&mx, "power_of_two_scales").reason.contains("lossless cast from MXFP4"));
    let nv = report(&spec.build());
    assert!(check(&nv, "power_of_two_scales").reason.starts_with("no"));
    let folding = &check(&nv, "folding").numbers;
    assert!(folding["mean_rel"] > 0.005 && folding["max_rel"] > 0.04, "{folding:?}");
    // A small global scale loses whole blocks; a large one clamps them.
    let name = tensor("w1.weight_scale_2");
    let lost = expect("folding", Verdict::Ok, "kept apart", |c| {
        c.tensor_mut(&name).data = 1e-9f32.to_le_bytes().to_vec();
    });
    assert!(lost.numbers["zeroed"] > 100.0 && lost.numbers["max_rel"] == 1.0, "{lost:?}");
    let clamped = expect("folding", Verdict::Ok, "kept apart", |c| {
        c.tensor_mut(&name).data = 64f32.to_le_bytes().to_vec();
    });
    assert!(clamped.numbers["clamped"] > 100.0, "{clamped:?}");
}

#[test]
fn gate_and_up() {
    let spec = CheckpointSpec { gate_up_ratio: 10.0, ..spec() };
    let report = report(&spec.build());
    let finding = check(&report, "gate_up_scales");
    assert_eq!(finding.verdict, Verdict::Warn);
    assert_eq!(finding.numbers["differ"], 9.0);
    assert!((5.0..20.0).contains(&finding.numbers["max_ratio"]), "{}", finding.reason);
    expect(
        "duplicate_weights",
        Verdict::Fail,
        "gate and up of 1 experts are the same (first: expert 2)",
        |c| {
            for part in ["weight", "weight_scale", "weight_scale_2", "input_scale"] {
                let data = c.tensor_mut(&tensor(&format!("w1.{part}"))).data.clone();
                c.tensor_mut(&tensor(&format!("w3.{part}"))).data = data;
            }
        },
    );
    expect("duplicate_weights", Verdict::Warn, "(first: 2 is 0)", |c| {
        for w in ["w1", "w2", "w3"] {
            for part in ["weight", "weight_scale", "weight_scale_2", "input_scale"] {
                let other = tensor(&format!("{w}.{part}")).replace("experts.2", "experts.0");
                let data = c.tensor_mut(&other).data.clone();
                c.tensor_mut(&tensor(&format!("{w}.{part}"))).data = data;
            }
        }
    });
}

#[test]
fn calibration_and_clamp() {
    let small = 1e-6f32.to_le_bytes().to_vec();
    let finding = expect("input_scale", Verdict::Warn, "saturate", |c| {
        for shard in &mut c.shards {
            for t in shard.tensors.iter_mut().filter(|t| t.name.ends_with("w1.input_scale")) {
                t.data = small.clone();
            }
            for t in shard.tensors.iter_mut().filter(|t| t.name.ends_with("w3.input_scale")) {
                t.data = small.clone();
            }
        }
    });
    assert!(finding.numbers["l1_saturated_share"] > 0.9, "{finding:?}");
    let large = 10f32.to_le_bytes().to_vec();
    expect("input_scale", Verdict::Ok, "holds generated rows", |c| {
        for shard in &mut c.shards {
            for t in shard.tensors.iter_mut().filter(|t| t.name.ends_with("input_scale")) {
                t.data = large.clone();
            }
        }
    });
    expect("swiglu_limit", Verdict::Warn, "DeepSeek-V4 has 10", |c| {
        c.config["swiglu_limit"] = json!(null);
    });
    let finding = expect("swiglu_limit", Verdict::Ok, "0.5: cuts", |c| c.config["swiglu_limit"] = json!(0.5));
    assert!(finding.numbers["gate_share"] > 0.1 && finding.numbers["rel_l2_without"] > 0.3, "{finding:?}");
}

#[test]
fn router() {
    let name = format!("layers.{LAYER}.ffn.gate.bias");
    let set = |values: Vec<f32>| {
        let name = name.clone();
        move |c: &mut RawCheckpoint| {
            c.tensor_mut(&name).data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        }
    };
    let finding = expect("router_bias", Verdict::Ok, "if the bias were in the weights", |_| {});
    assert!((7.0..9.0).contains(&finding.numbers["mean"]));
    assert!(finding.numbers["weight_spread"] > 1.2 * finding.numbers["weight_spread_biased"], "{finding:?}");
    expect("router_bias", Verdict::Warn, "all zero", set(vec![0.0; 8]));
    expect("router_bias", Verdict::Warn, "outweighs", set(vec![-1e4; 8]));
    let mut hot = vec![0.0; 8];
    hot[5] = 90.0;
    expect("routing_balance", Verdict::Warn, "every token goes to one expert", set(hot));
    let mut hash = spec().build();
    let table = hash.tensor_mut("layers.0.ffn.gate.tid2eid");
    let first = table.data[..8].to_vec();
    table.data[8..16].copy_from_slice(&first);
    let report = report_with(&hash, 0, &Options::default());
    let finding = check(&report, "routing_balance");
    assert!(finding.reason.contains("1 rows of the table name an expert twice"), "{}", finding.reason);
}

#[test]
fn modules() {
    let spec = CheckpointSpec { shared: SharedFormat::Bf16, ..spec() };
    assert_eq!(check(&report(&spec.build()), "modules").verdict, Verdict::Ok);
    let mut checkpoint = spec.build();
    checkpoint.config["quantization_config"]["ignore"] = json!(["*.attn.*"]);
    checkpoint.quant_config = None;
    let report = report(&checkpoint);
    let finding = check(&report, "modules");
    assert_eq!((finding.verdict, finding.numbers["unlisted"]), (Verdict::Warn, 3.0), "{}", finding.reason);
}

fn rows_file(path: &Path, rows: usize, hidden: usize, ids: Option<&[i64]>) {
    let values: Vec<bf16> = (0..rows * hidden).map(|i| bf16::from_f32((i as f32 * 0.7).sin())).collect();
    let mut tensors = vec![RawTensor::bf16("hidden_states", &[rows, hidden], &values)];
    if let Some(ids) = ids {
        let data = ids.iter().flat_map(|v| v.to_le_bytes()).collect();
        tensors.push(RawTensor::new("input_ids", "I64", &[ids.len()], data));
    }
    let data: Vec<&[u8]> = tensors.iter().map(|t| &t.data[..]).collect();
    write_file(path, raw::header(&tensors).as_bytes(), &data).expect("writable");
}

#[test]
fn given_rows() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    spec().write(dir.path()).expect("writable");
    let opened = Checkpoint::open(dir.path()).expect("it opens");
    let run = |layer, file: &Path| {
        let options = Options { input: Some(file.to_owned()), tokens: 4, seed: 1 };
        diagnose_layer(&opened, layer, &options, &mut |_, _| {})
    };
    let file = dir.path().join("rows");
    rows_file(&file, 6, 128, Some(&[1, 2, 64, 3, 4, 5]));
    let report = run(0, &file).expect("a report");
    let finding = check(&report, "sample");
    assert_eq!((finding.verdict, finding.numbers["rows"]), (Verdict::Warn, 4.0), "{}", finding.reason);
    assert!(finding.reason.contains("1 with an id outside"), "{}", finding.reason);
    assert!(check(&report, "input_scale").reason.contains("the given rows"));
    // Unusable files are errors, not verdicts.
    for (rows, hidden, ids) in [(6, 112, None), (6, 128, Some(&[1i64, 2][..]))] {
        rows_file(&file, rows, hidden, ids);
        assert!(run(0, &file).is_err());
    }
    assert!(run(0, &dir.path().join("absent")).is_err());
    assert!(run(7, &file).is_err());
    // A hash layer without ids: the sample fails, nothing dies.
    rows_file(&file, 6, 128, None);
    let report = run(0, &file).expect("a report");
    assert_eq!(check(&report, "sample").verdict, Verdict::Fail);
    assert_eq!(check(&run(1, &file).expect("a report"), "sample").verdict, Verdict::Ok);
}
