//! `model.safetensors.index.json`.
#![no_main]

use std::path::{Component, Path};

use libfuzzer_sys::fuzz_target;
use megamoe::checkpoint::parse;

fuzz_target!(|text: &[u8]| {
    if let Ok(index) = parse::index(Path::new("fuzz"), text) {
        assert!(index.tensors.values().all(|&shard| shard < index.shards.len()));
        for shard in &index.shards {
            let parts: Vec<Component> = Path::new(shard).components().collect();
            assert!(matches!(parts[..], [Component::Normal(_)]), "{shard:?}");
        }
    }
});
