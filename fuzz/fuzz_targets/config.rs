//! `config.json`.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use megamoe::checkpoint::parse;

fuzz_target!(|text: &[u8]| {
    if let Ok(config) = parse::config(Path::new("fuzz"), text) {
        let layer = &config.layer;
        for width in [layer.hidden, layer.intermediate, layer.shared_intermediate] {
            assert!(width <= 1 << 20 && width % 16 == 0);
        }
        assert!(layer.hidden > 0 && layer.intermediate > 0);
        assert!((1..=65_536).contains(&layer.experts));
        assert!((1..=layer.experts.min(64)).contains(&layer.top_k));
        assert!(layer.routed_scaling_factor.is_normal() && layer.routed_scaling_factor > 0.0);
        assert!(layer.swiglu_limit.is_none_or(|l| l.is_normal() && l > 0.0));
        assert!(config.hash_layers <= config.layers);
        // Matching never hangs, whatever the patterns.
        for module in ["layers.0.ffn.experts.0.w1", "model.layers.12.mlp.shared_experts.gate_proj"] {
            let _ = config.quant.excluded(module);
        }
    }
});
