//! Opening a checkpoint: files, headers, index, names. No tensor data are read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use safetensors::Dtype;

use super::config::{self, ModelConfig};
use super::error::{CheckpointError, Result};
use super::header::{self, HeaderEntry};
use super::index::{self, INDEX_NAME, Index};
use super::names::{self, Module, NameFamily, Role};
use super::shard::Shard;
use crate::weights::LayerConfig;

/// A tensor of a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    pub(super) entry: HeaderEntry,
    pub(super) shard: usize,
}

impl TensorInfo {
    /// Name.
    pub fn name(&self) -> &str {
        &self.entry.name
    }

    /// Element type.
    pub fn dtype(&self) -> Dtype {
        self.entry.dtype
    }

    /// Shape, in elements (for FP4 stored as U8: in bytes).
    pub fn shape(&self) -> &[usize] {
        &self.entry.shape
    }

    /// Size of the data.
    pub fn bytes(&self) -> u64 {
        self.entry.bytes
    }
}

/// The tensors of one layer's MoE block, by meaning.
#[derive(Debug, Default)]
pub(super) struct LayerTensors {
    /// `model.layers.3.mlp`.
    pub block: String,
    /// Naming of the projections.
    pub family: Option<NameFamily>,
    /// Sorted; values are positions in [`Checkpoint::tensors`].
    pub by_meaning: Vec<((Module, Role), usize)>,
}

impl LayerTensors {
    /// The tensor of a role.
    pub fn find(&self, module: Module, role: Role) -> Option<usize> {
        let at = self.by_meaning.partition_point(|(key, _)| *key < (module, role));
        self.by_meaning.get(at).filter(|(key, _)| *key == (module, role)).map(|&(_, tensor)| tensor)
    }

    fn has_experts(&self) -> bool {
        self.by_meaning.iter().any(|((m, _), _)| matches!(m, Module::Expert(..) | Module::Stacked(_)))
    }
}

/// An opened checkpoint: configuration and headers are read and checked, tensor data are not.
///
/// The shard files stay open and are read by position; none is mapped. A file that is replaced meanwhile does no
/// harm, one that is changed in place gives [`CheckpointError::Changed`].
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    config: ModelConfig,
    pub(super) shards: Vec<Shard>,
    pub(super) tensors: Vec<TensorInfo>,
    pub(super) layers: BTreeMap<usize, LayerTensors>,
    warnings: Vec<String>,
}

impl Checkpoint {
    /// Opens the checkpoint in `dir`: `config.json`, `hf_quant_config.json` if present, the shards of
    /// `model.safetensors.index.json`, else `model.safetensors`, else the only `*.safetensors` file.
    ///
    /// # Errors
    /// Anything that is wrong with the documents, the headers or the index; see [`CheckpointError`].
    pub fn open(dir: &Path) -> Result<Self> {
        let config = config::read(dir)?;
        let (files, index) = index::discover(dir)?;
        let missing = |error, file: &str| match error {
            CheckpointError::Io { source, .. }
                if index.is_some() && source.kind() == std::io::ErrorKind::NotFound =>
            {
                CheckpointError::MissingShard { file: dir.join(INDEX_NAME), shard: file.to_owned() }
            }
            other => other,
        };
        let opened: Vec<(Shard, Vec<HeaderEntry>)> = files
            .par_iter()
            .map(|file| {
                let shard = Shard::open(&dir.join(file)).map_err(|e| missing(e, file))?;
                let entries = header::read(&shard)?;
                Ok((shard, entries))
            })
            .collect::<Result<_>>()?;
        let mut warnings = Vec::new();
        if let Some(index) = &index {
            check_index(dir, &files, index, &opened, &mut warnings)?;
        }
        for pattern in config.quant.excludes.iter().filter(|p| !p.is_understood()) {
            warnings.push(format!("exclude pattern {pattern} is not understood and covers nothing"));
        }
        if config.model_type == "deepseek_v4" && config.layer.swiglu_limit.is_none() {
            warnings.push("config.json has no swiglu_limit: SwiGLU runs without a clamp".to_owned());
        }
        for warning in &warnings {
            tracing::warn!("{}: {warning}", dir.display());
        }
        let mut shards = Vec::with_capacity(opened.len());
        let mut tensors = Vec::new();
        for (shard, (file, entries)) in opened.into_iter().enumerate() {
            shards.push(file);
            tensors.extend(entries.into_iter().map(|entry| TensorInfo { entry, shard }));
        }
        tensors.sort_by(|a, b| a.name().cmp(b.name()));
        let layers = by_layer(&shards, &tensors)?;
        Ok(Self { dir: dir.to_owned(), config, shards, tensors, layers, warnings })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The model, and what the checkpoint says about its quantisation.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Every tensor, sorted by name.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.binary_search_by(|t| t.name().cmp(name)).ok().map(|i| &self.tensors[i])
    }

    /// The file that holds a tensor.
    ///
    /// # Panics
    /// If the tensor is of another checkpoint with more files.
    pub fn file_of(&self, tensor: &TensorInfo) -> &Path {
        &self.shards[tensor.shard].path
    }

    /// The files, in the order of the index.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.shards.iter().map(|s| s.path.as_path())
    }

    /// Size of all tensors.
    pub fn total_bytes(&self) -> u64 {
        self.tensors.iter().map(TensorInfo::bytes).sum()
    }

    /// Layers that have experts and are within the model (prediction layers included), ascending.
    pub fn moe_layers(&self) -> Vec<usize> {
        let end = self.config.layers + self.config.nextn_layers;
        self.layers.iter().filter(|(n, l)| **n < end && l.has_experts()).map(|(n, _)| *n).collect()
    }

    /// Naming of the projections, of the first layer with experts.
    pub fn name_family(&self) -> Option<NameFamily> {
        self.layers.values().find(|l| l.has_experts()).and_then(|l| l.family)
    }

    /// Oddities that do not keep the checkpoint from loading; they were logged as warnings too.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Sizes and constants of one layer.
    ///
    /// # Errors
    /// [`CheckpointError::NoSuchLayer`] if the layer has no experts.
    pub fn layer_config(&self, layer: usize) -> Result<LayerConfig> {
        self.layer_tensors(layer).map(|_| self.config.layer.clone())
    }

    /// The bytes of one tensor, as stored (little-endian).
    ///
    /// # Errors
    /// [`CheckpointError::TensorMissing`], or a read error.
    pub fn read_tensor(&self, name: &str) -> Result<Vec<u8>> {
        let tensor = self.tensor(name).ok_or_else(|| CheckpointError::TensorMissing {
            dir: self.dir.clone(),
            tensor: name.to_owned(),
            why: String::new(),
        })?;
        let mut bytes = self.allocate(tensor, tensor.bytes())?;
        self.shards[tensor.shard].read_exact_at(name, &mut bytes, tensor.entry.offset)?;
        Ok(bytes)
    }

    /// Zeroed memory for data of a tensor.
    pub(super) fn allocate<T: bytemuck::Zeroable + Clone>(
        &self,
        tensor: &TensorInfo,
        count: u64,
    ) -> Result<Vec<T>> {
        let error = || CheckpointError::OutOfMemory {
            file: self.file_of(tensor).to_owned(),
            tensor: tensor.name().to_owned(),
            bytes: count.saturating_mul(size_of::<T>() as u64),
        };
        let count = usize::try_from(count).map_err(|_| error())?;
        let mut out = Vec::new();
        out.try_reserve_exact(count).map_err(|_| error())?;
        out.resize(count, T::zeroed());
        Ok(out)
    }

    pub(super) fn layer_tensors(&self, layer: usize) -> Result<&LayerTensors> {
        let layers = self.moe_layers();
        match self.layers.get(&layer) {
            Some(tensors) if layers.contains(&layer) => Ok(tensors),
            _ => {
                Err(CheckpointError::NoSuchLayer { dir: self.dir.clone(), layer, available: ranges(&layers) })
            }
        }
    }
}

/// `0-2, 5`.
fn ranges(layers: &[usize]) -> String {
    let runs = layers.chunk_by(|a, b| a + 1 == *b).map(|run| match run {
        [one] => one.to_string(),
        _ => format!("{}-{}", run[0], run[run.len() - 1]),
    });
    let text = runs.collect::<Vec<_>>().join(", ");
    if text.is_empty() { "none".to_owned() } else { text }
}

/// Index and shards name the same tensors, each in one place.
fn check_index(
    dir: &Path,
    files: &[String],
    index: &Index,
    opened: &[(Shard, Vec<HeaderEntry>)],
    warnings: &mut Vec<String>,
) -> Result<()> {
    let mut found = 0;
    let mut total = 0u64;
    for (position, (shard, entries)) in opened.iter().enumerate() {
        for entry in entries {
            let listed = index.tensors.get(&entry.name).copied();
            if listed != Some(position) {
                return Err(CheckpointError::NotInIndex {
                    file: shard.path.clone(),
                    tensor: entry.name.clone(),
                    listed: listed.map(|i| files[i].clone()),
                });
            }
            found += 1;
            total = total.saturating_add(entry.bytes);
        }
    }
    if found != index.tensors.len() {
        // Every tensor that was found is listed once; so some listed tensor was not found.
        let names: std::collections::HashSet<&str> =
            opened.iter().flat_map(|(_, entries)| entries).map(|e| e.name.as_str()).collect();
        let lost = index.tensors.iter().filter(|(name, _)| !names.contains(name.as_str())).min();
        if let Some((tensor, &shard)) = lost {
            return Err(CheckpointError::NotInShard {
                file: dir.join(INDEX_NAME),
                tensor: tensor.clone(),
                shard: files[shard].clone(),
            });
        }
    }
    if let Some(stated) = index.total_size.filter(|&n| n != total) {
        warnings.push(format!("{INDEX_NAME} says total_size = {stated}, the tensors have {total} bytes"));
    }
    Ok(())
}

/// Sorts the tensors of MoE blocks by layer and meaning.
fn by_layer(shards: &[Shard], tensors: &[TensorInfo]) -> Result<BTreeMap<usize, LayerTensors>> {
    let mut layers: BTreeMap<usize, LayerTensors> = BTreeMap::new();
    for (i, tensor) in tensors.iter().enumerate() {
        let Some(parsed) = names::parse(tensor.name()).filter(|p| p.role != Role::Other) else { continue };
        let layer = layers.entry(parsed.layer).or_default();
        if layer.block.is_empty() {
            parsed.block.clone_into(&mut layer.block);
        }
        layer.family = layer.family.or(parsed.family);
        layer.by_meaning.push(((parsed.module, parsed.role), i));
    }
    for layer in layers.values_mut() {
        layer.by_meaning.sort_unstable();
        for pair in layer.by_meaning.windows(2) {
            let ((meaning, first), (other, second)) = (pair[0], pair[1]);
            if meaning == other && meaning.1 != Role::Foreign {
                return Err(CheckpointError::Ambiguous {
                    file: shards[tensors[first].shard].path.clone(),
                    tensor: tensors[first].name().to_owned(),
                    other: tensors[second].name().to_owned(),
                });
            }
        }
    }
    Ok(layers)
}
