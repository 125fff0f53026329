//! What a checkpoint says about its own quantisation.
//!
//! The tensors decide how a weight is read: dtype, shape and companion tensors leave one reading only, or an
//! error. What the configuration says is compared with that, and shown to people.

use std::path::Path;

use super::error::Result;
use super::exclude::Pattern;
use super::fields::Fields;
use super::json::Json;

/// The quantisation sections of `config.json` and `hf_quant_config.json`, merged.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct QuantConfig {
    /// Name and version of the tool that wrote the checkpoint, if it says.
    pub producer: Option<String>,
    /// `quant_method` (`fp8`, `modelopt`, `compressed-tensors`, ...).
    pub method: Option<String>,
    /// Quantisation algorithm of the experts (`NVFP4`, ...).
    pub algo: Option<String>,
    /// Elements per scale along K: 16, or 32 for MXFP4.
    pub group_size: Option<usize>,
    /// Modules that are not quantised: `ignore`, `exclude_modules` and `modules_to_not_convert`, without
    /// duplicates.
    pub excludes: Vec<Pattern>,
}

impl QuantConfig {
    /// From the two documents.
    pub(super) fn build(config: &Fields, quant: Option<(&Path, &Json)>) -> Result<Self> {
        let mut out = Self::default();
        for (name, path) in
            [("quantization_config", "quantization_config."), ("compression_config", "compression_config.")]
        {
            if let Some(section) = config.object(name, path)? {
                out.section(&section)?;
            }
        }
        if let Some((file, document)) = quant {
            let document = Fields::new(file, document, "")?;
            out.producer(&document)?;
            if let Some(section) = document.object("quantization", "quantization.")? {
                out.section(&section)?;
            }
        }
        Ok(out)
    }

    fn producer(&mut self, fields: &Fields) -> Result<()> {
        if let Some(producer) = fields.object("producer", "producer.")? {
            let name = producer.string(&["name"])?.unwrap_or("unknown");
            let version = producer.string(&["version"])?.unwrap_or("");
            self.producer = Some(format!("{name} {version}").trim().to_owned());
        }
        Ok(())
    }

    fn section(&mut self, fields: &Fields) -> Result<()> {
        self.producer(fields)?;
        if let Some(method) = fields.string(&["quant_method"])? {
            self.method = Some(method.to_owned());
        }
        // The experts' own algorithm, where experts and the rest differ.
        for name in ["quant_algo", "moe_quant_algo"] {
            if let Some(algo) = fields.string(&[name])? {
                if matches!(algo, "NVFP4_AWQ" | "W4A8_AWQ" | "NVFP4_SVD" | "NVFP4_SVDQUANT") {
                    return Err(fields.unsupported(name, algo, "activations would need a transform first"));
                }
                if algo != "MIXED_PRECISION" || self.algo.is_none() {
                    self.algo = Some(algo.to_owned());
                }
            }
        }
        self.group_sizes(fields)?;
        for name in ["ignore", "exclude_modules", "modules_to_not_convert", "ignored_layers"] {
            for text in fields.strings(name)? {
                let pattern = Pattern::new(text);
                if !self.excludes.contains(&pattern) {
                    self.excludes.push(pattern);
                }
            }
        }
        Ok(())
    }

    /// Checks the group sizes that speak of FP4 weights: other modules may have others.
    fn group_sizes(&mut self, fields: &Fields) -> Result<()> {
        let nvfp4 = |fields: &Fields| -> Result<bool> {
            let algo = fields.string(&["moe_quant_algo"])?.or(fields.string(&["quant_algo"])?);
            Ok(algo.is_some_and(|a| a.contains("NVFP4")))
        };
        if nvfp4(fields)? {
            self.group_size(fields)?;
        }
        for (_, layer) in fields.members("quantized_layers")? {
            let layer = Fields::new(fields.file, layer, "quantization_config.quantized_layers.*.")?;
            if nvfp4(&layer)? {
                self.group_size(&layer)?;
            }
        }
        for (_, group) in fields.members("config_groups")? {
            let group = Fields::new(fields.file, group, "quantization_config.config_groups.*.")?;
            let Some(weights) = group.object("weights", "quantization_config.config_groups.*.weights.")?
            else {
                continue;
            };
            if weights.get(&["num_bits"])?.is_some_and(|(_, bits)| *bits == Json::Unsigned(4)) {
                if let Some(kind) = weights.string(&["type"])?
                    && kind != "float"
                {
                    return Err(weights.unsupported("type", kind, "4-bit weights must be FP4"));
                }
                self.group_size(&weights)?;
            }
        }
        Ok(())
    }

    fn group_size(&mut self, fields: &Fields) -> Result<()> {
        if fields.get(&["group_size"])?.is_none() {
            return Ok(());
        }
        let size = fields.integer(&["group_size"], 1..=1 << 20, None)?;
        if !matches!(size, 16 | 32) {
            return Err(fields.unsupported("group_size", size, "NVFP4 has 16 elements per scale, MXFP4 32"));
        }
        self.group_size = Some(size);
        Ok(())
    }

    /// The first exclude pattern that covers a module.
    pub fn excluded(&self, module: &str) -> Option<&Pattern> {
        self.excludes.iter().find(|p| p.matches(module))
    }
}
