//! `model.safetensors.index.json`, and which files make up a checkpoint.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::path::Path;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use super::error::{CheckpointError, Result};
use super::json::{self, Json, JsonSeed, Limits, StringMapSeed};
use super::shard;

/// File name of an index.
pub const INDEX_NAME: &str = "model.safetensors.index.json";
/// Largest index: 512 bytes for each of half a million tensors.
const MAX_INDEX: u64 = 256 << 20;
/// Most shards: each is an open file.
const MAX_SHARDS: usize = 4096;

/// A parsed index.
#[derive(Debug, Default)]
pub struct Index {
    /// Shard file names, in order of first mention.
    pub shards: Vec<String>,
    /// Tensor name to position in `shards`.
    pub tensors: HashMap<String, usize>,
    /// `metadata.total_size`, if it is a number.
    pub total_size: Option<u64>,
}

/// The shards of `dir`, and the index if there is one: the index's shards, else `model.safetensors`, else the
/// only `*.safetensors` file.
pub fn discover(dir: &Path) -> Result<(Vec<String>, Option<Index>)> {
    let io = |source| CheckpointError::Io { file: dir.to_owned(), source };
    let not = |why: String| CheckpointError::NotACheckpoint { dir: dir.to_owned(), why };
    if dir.join(INDEX_NAME).exists() {
        let index = read(&dir.join(INDEX_NAME))?;
        return Ok((index.shards.clone(), Some(index)));
    }
    if dir.join("model.safetensors").exists() {
        return Ok((vec!["model.safetensors".to_owned()], None));
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(io)? {
        let name = entry.map_err(io)?.file_name();
        if let Some(name) = name.to_str().filter(|n| n.ends_with(".safetensors")) {
            found.push(name.to_owned());
        }
    }
    match found.len() {
        0 => Err(not("no safetensors files".to_owned())),
        1 => Ok((found, None)),
        n => Err(not(format!("{n} safetensors files and no {INDEX_NAME}"))),
    }
}

fn read(file: &Path) -> Result<Index> {
    parse(file, &shard::read_document(file, MAX_INDEX)?)
}

/// Parses an index; `file` is for messages. Shard names are checked to be plain file names.
///
/// # Errors
/// [`CheckpointError::Json`], [`CheckpointError::DuplicateKey`], [`CheckpointError::ShardName`] and others.
pub fn parse(file: &Path, text: &[u8]) -> Result<Index> {
    let limits = Limits::default();
    let mut index = Index::default();
    let mut parser = serde_json::Deserializer::from_str(json::utf8(file, text)?);
    let seed = IndexSeed { limits: &limits, index: &mut index };
    let result = seed.deserialize(&mut parser).and_then(|()| parser.end());
    limits.finish(file, result)?;
    for shard in &index.shards {
        if let Some(why) = bad_shard_name(shard) {
            let shard = shard.chars().take(64).collect();
            return Err(CheckpointError::ShardName { file: file.to_owned(), shard, why });
        }
    }
    Ok(index)
}

/// A shard lies beside its index: no separators, no parents, no drive letters.
fn bad_shard_name(name: &str) -> Option<&'static str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-+=@ ".contains(&b);
    if name.is_empty() || name.len() > 255 {
        Some("must have 1 to 255 characters")
    } else if name.contains('/') || name.contains('\\') {
        Some("must not name another folder")
    } else if !name.bytes().all(plain) {
        Some("must be letters, digits and ._-+=@")
    } else if name.starts_with('.') || !name.ends_with(".safetensors") {
        Some("must be a visible *.safetensors file")
    } else {
        None
    }
}

struct IndexSeed<'a> {
    limits: &'a Limits,
    index: &'a mut Index,
}

impl<'de> DeserializeSeed<'de> for IndexSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<(), D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for IndexSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object with weight_map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        let (mut metadata, mut weight_map) = (false, false);
        while let Some(key) = map.next_key::<String>()? {
            let twice = match key.as_str() {
                "metadata" => {
                    let value = map.next_value_seed(JsonSeed(self.limits))?;
                    self.index.total_size = match value.get("total_size") {
                        Some(Json::Unsigned(n)) => Some(*n),
                        // Some writers have floats here; it is only a hint.
                        _ => None,
                    };
                    std::mem::replace(&mut metadata, true)
                }
                "weight_map" => {
                    let mut ids = HashMap::new();
                    let Index { shards, tensors, .. } = &mut *self.index;
                    let each = |tensor: String, shard: String| {
                        let id = match ids.get(&shard) {
                            Some(&id) => id,
                            None if shards.len() == MAX_SHARDS => {
                                return Err(format!("more than {MAX_SHARDS} shards"));
                            }
                            None => {
                                shards.push(shard.clone());
                                ids.insert(shard, shards.len() - 1);
                                shards.len() - 1
                            }
                        };
                        tensors.insert(tensor, id);
                        Ok(())
                    };
                    if weight_map {
                        return Err(self.limits.duplicate(&key));
                    }
                    map.next_value_seed(StringMapSeed { limits: self.limits, each })?;
                    std::mem::replace(&mut weight_map, true)
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    false
                }
            };
            if twice {
                return Err(self.limits.duplicate(&key));
            }
        }
        if weight_map { Ok(()) } else { Err(A::Error::missing_field("weight_map")) }
    }
}
