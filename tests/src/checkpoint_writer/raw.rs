//! Checkpoints as tensors and JSON documents, and files with any header.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use half::bf16;
use serde_json::{Map, Value, json};

/// A tensor as it is written: nothing here is checked.
#[derive(Clone, Debug, PartialEq)]
pub struct RawTensor {
    /// Name.
    pub name: String,
    /// Dtype string.
    pub dtype: String,
    /// Shape.
    pub shape: Vec<u64>,
    /// Little-endian elements.
    pub data: Vec<u8>,
}

impl RawTensor {
    /// From bytes.
    pub fn new(name: &str, dtype: &str, shape: &[usize], data: Vec<u8>) -> Self {
        let shape = shape.iter().map(|&d| d as u64).collect();
        Self { name: name.to_owned(), dtype: dtype.to_owned(), shape, data }
    }

    /// F32.
    pub fn f32(name: &str, shape: &[usize], values: &[f32]) -> Self {
        Self::new(name, "F32", shape, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// BF16.
    pub fn bf16(name: &str, shape: &[usize], values: &[bf16]) -> Self {
        Self::new(name, "BF16", shape, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }
}

/// A file of a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct RawShard {
    /// File name.
    pub file: String,
    /// Tensors in file order.
    pub tensors: Vec<RawTensor>,
}

/// A checkpoint that can be changed, into a broken one too, before it is written.
#[derive(Clone, Debug, PartialEq)]
pub struct RawCheckpoint {
    /// `config.json`.
    pub config: Value,
    /// `hf_quant_config.json`.
    pub quant_config: Option<Value>,
    /// Files.
    pub shards: Vec<RawShard>,
    /// `model.safetensors.index.json`; see [`RawCheckpoint::reindex`].
    pub index: Option<Value>,
}

impl RawCheckpoint {
    /// Spreads `tensors`, in order, over `shards` files of about equal size, with an index if there are several.
    pub fn new(config: Value, quant_config: Option<Value>, tensors: Vec<RawTensor>, shards: usize) -> Self {
        let total: usize = tensors.iter().map(|t| t.data.len()).sum();
        let file = |i: usize| match shards {
            1 => "model.safetensors".to_owned(),
            n => format!("model-{:05}-of-{n:05}.safetensors", i + 1),
        };
        let mut files: Vec<RawShard> =
            (0..shards).map(|i| RawShard { file: file(i), tensors: Vec::new() }).collect();
        let mut done = 0;
        for tensor in tensors {
            let shard = (done * shards / total.max(1)).min(shards - 1);
            done += tensor.data.len();
            files[shard].tensors.push(tensor);
        }
        let mut checkpoint = Self { config, quant_config, shards: files, index: None };
        if shards > 1 {
            checkpoint.reindex();
        }
        checkpoint
    }

    /// Makes the index agree with the shards.
    pub fn reindex(&mut self) {
        let mut map = Map::new();
        let mut total = 0;
        for shard in &self.shards {
            for tensor in &shard.tensors {
                map.insert(tensor.name.clone(), json!(shard.file));
                total += tensor.data.len();
            }
        }
        self.index = Some(json!({ "metadata": { "total_size": total }, "weight_map": map }));
    }

    /// The tensor called `name`.
    ///
    /// # Panics
    /// If there is none.
    pub fn tensor_mut(&mut self, name: &str) -> &mut RawTensor {
        let mut tensors = self.shards.iter_mut().flat_map(|s| &mut s.tensors);
        tensors.find(|t| t.name == name).unwrap_or_else(|| panic!("no tensor {name}"))
    }

    /// Name of the file that holds `name`.
    ///
    /// # Panics
    /// If there is none.
    pub fn file_of(&self, name: &str) -> String {
        let shard = self.shards.iter().find(|s| s.tensors.iter().any(|t| t.name == name));
        shard.unwrap_or_else(|| panic!("no tensor {name}")).file.clone()
    }

    /// Takes the tensor called `name` out; the index is brought up to date.
    ///
    /// # Panics
    /// If there is none.
    pub fn remove(&mut self, name: &str) -> RawTensor {
        for shard in &mut self.shards {
            if let Some(i) = shard.tensors.iter().position(|t| t.name == name) {
                let tensor = shard.tensors.remove(i);
                if self.index.is_some() {
                    self.reindex();
                }
                return tensor;
            }
        }
        panic!("no tensor {name}")
    }

    /// Adds a tensor to the last file; the index is brought up to date.
    pub fn push(&mut self, tensor: RawTensor) {
        self.shards.last_mut().expect("a shard").tensors.push(tensor);
        if self.index.is_some() {
            self.reindex();
        }
    }

    /// Writes everything into `dir`, which must exist.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        write_json(&dir.join("config.json"), &self.config)?;
        if let Some(quant) = &self.quant_config {
            write_json(&dir.join("hf_quant_config.json"), quant)?;
        }
        if let Some(index) = &self.index {
            write_json(&dir.join("model.safetensors.index.json"), index)?;
        }
        for shard in &self.shards {
            let data: Vec<&[u8]> = shard.tensors.iter().map(|t| &t.data[..]).collect();
            write_file(&dir.join(&shard.file), header(&shard.tensors).as_bytes(), &data)?;
        }
        Ok(())
    }
}

/// The header that belongs to these tensors, in this order, without gaps, padded to 8 bytes.
pub fn header(tensors: &[RawTensor]) -> String {
    let mut text = String::from("{\"__metadata__\":{\"format\":\"pt\"}");
    let mut offset = 0;
    for t in tensors {
        let end = offset + t.data.len();
        let entry = json!({ "dtype": t.dtype, "shape": t.shape, "data_offsets": [offset, end] });
        text.push_str(&format!(",{}:{entry}", json!(t.name)));
        offset = end;
    }
    text.push('}');
    while text.len() % 8 != 0 {
        text.push(' ');
    }
    text
}

/// A safetensors file with this header and these data, whatever they are.
pub fn write_file(path: &Path, header: &[u8], data: &[&[u8]]) -> io::Result<()> {
    let mut file = io::BufWriter::new(fs::File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header)?;
    for part in data {
        file.write_all(part)?;
    }
    file.flush()
}

fn write_json(path: &Path, value: &Value) -> io::Result<()> {
    fs::write(path, serde_json::to_string_pretty(value)?)
}
