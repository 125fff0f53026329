//! A whole checkpoint: config.json, a zero byte, `model.safetensors`.
#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use megamoe::checkpoint::{Checkpoint, LoadOptions};

fuzz_target!(|input: &[u8]| {
    let Some(split) = input.iter().position(|&b| b == 0) else { return };
    let dir = tempfile::tempdir().expect("a temporary folder");
    fs::write(dir.path().join("config.json"), &input[..split]).expect("a file");
    fs::write(dir.path().join("model.safetensors"), &input[split + 1..]).expect("a file");
    if let Ok(checkpoint) = Checkpoint::open(dir.path()) {
        for layer in checkpoint.moe_layers() {
            let _ = checkpoint.load_layer(layer, &LoadOptions::default());
        }
    }
});
