//! The header of a safetensors file.
//!
//! Stricter than the reference reader: names are unique and printable, ranks and dimensions bounded, entries
//! are objects with unique fields, and the data are exactly covered, without holes, overlaps or trailing bytes.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;

use safetensors::Dtype;
use serde::de::value::{Error as StrError, StrDeserializer};
use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error as _, IgnoredAny, IntoDeserializer, MapAccess,
    SeqAccess, Visitor,
};

use super::error::{CheckpointError, Result};
use super::shard::Shard;

/// Largest header, as in the reference implementation.
pub const MAX_HEADER: u64 = 100_000_000;
/// Largest rank.
pub const MAX_RANK: usize = 8;
/// Dimensions are below this.
pub const MAX_DIM: u64 = 1 << 40;
/// Longest tensor name.
pub const MAX_NAME: usize = 512;

/// A tensor of one file.
#[derive(Clone, Debug, PartialEq)]
pub struct HeaderEntry {
    /// Name.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Shape.
    pub shape: Box<[usize]>,
    /// Offset of the first byte in the file (not in the data section).
    pub offset: u64,
    /// Size in bytes.
    pub bytes: u64,
}

/// Reads and checks the header of an open file. Entries come in the order of their data.
pub fn read(shard: &Shard) -> Result<Vec<HeaderEntry>> {
    let truncated =
        |expected| CheckpointError::HeaderTruncated { file: shard.path.clone(), expected, found: shard.len };
    if shard.len < 8 {
        return Err(truncated(8));
    }
    let mut length = [0; 8];
    shard.read_exact_at("*", &mut length, 0)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER {
        return Err(CheckpointError::TooLarge {
            file: shard.path.clone(),
            what: "header length",
            limit: MAX_HEADER,
            found: length,
        });
    }
    if shard.len < 8 + length {
        return Err(truncated(8 + length));
    }
    let mut text = vec![0; length as usize];
    shard.read_exact_at("*", &mut text, 8)?;
    parse(&shard.path, &text, shard.len)
}

/// Parses the text of a header (without the length field) of a file of `file_len` bytes. `file` is for messages.
///
/// # Errors
/// Every way in which a header can be wrong is its own variant of [`CheckpointError`].
pub fn parse(file: &Path, text: &[u8], file_len: u64) -> Result<Vec<HeaderEntry>> {
    let mut state = State::default();
    let error = |tensor: &str, why: String| CheckpointError::Header {
        file: file.to_owned(),
        tensor: excerpt(tensor),
        why,
    };
    if text.first() != Some(&b'{') {
        return Err(error("", "must begin with '{'".to_owned()));
    }
    // All of it: the parser does not look into strings that it skips.
    let text = std::str::from_utf8(text).map_err(|e| error("", e.to_string()))?;
    let mut parser = serde_json::Deserializer::from_str(text);
    let result = HeaderSeed(&mut state).deserialize(&mut parser).and_then(|()| parser.end());
    if let Some(key) = state.duplicate {
        return Err(CheckpointError::DuplicateKey { file: file.to_owned(), key: excerpt(&key) });
    }
    result.map_err(|e| error(&state.current, e.to_string()))?;
    if state.unknown_fields > 0 {
        tracing::warn!("{}: {} unknown fields in the header", file.display(), state.unknown_fields);
    }
    let raw = state.entries;
    check_names(file, &raw)?;
    let base = 8 + text.len() as u64;
    let mut entries = raw.into_iter().map(|e| check_entry(file, e, base)).collect::<Result<Vec<_>>>()?;
    entries.sort_by_key(|e| (e.offset, e.bytes));
    check_layout(file, &entries, base, file_len)?;
    Ok(entries)
}

/// At most 64 characters of an untrusted string.
fn excerpt(text: &str) -> String {
    text.chars().take(64).collect()
}

fn check_names(file: &Path, entries: &[RawEntry]) -> Result<()> {
    let mut seen = HashSet::with_capacity(entries.len());
    for entry in entries {
        let name = entry.name.as_str();
        let bad = |why| CheckpointError::TensorName { file: file.to_owned(), tensor: excerpt(name), why };
        if name.is_empty() {
            return Err(bad("empty"));
        }
        if name.len() > MAX_NAME {
            return Err(bad("longer than 512 bytes"));
        }
        if !name.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(bad("has characters outside printable ASCII"));
        }
        if !seen.insert(name) {
            return Err(CheckpointError::DuplicateTensor { file: file.to_owned(), tensor: name.to_owned() });
        }
    }
    Ok(())
}

fn check_entry(file: &Path, raw: RawEntry, base: u64) -> Result<HeaderEntry> {
    let tensor = || raw.name.clone();
    let file = || file.to_owned();
    let dtype: StrDeserializer<StrError> = raw.dtype.as_str().into_deserializer();
    let dtype = Dtype::deserialize(dtype).map_err(|_| CheckpointError::UnknownDtype {
        file: file(),
        tensor: tensor(),
        found: excerpt(&raw.dtype),
    })?;
    if raw.shape.rank > MAX_RANK {
        return Err(CheckpointError::Rank { file: file(), tensor: tensor(), found: raw.shape.rank });
    }
    let dims = &raw.shape.dims[..raw.shape.rank];
    let overflow = || CheckpointError::ShapeOverflow { file: file(), tensor: tensor(), shape: dims.to_vec() };
    // All dimensions count, also those beside a zero.
    if dims.iter().any(|&d| d >= MAX_DIM) {
        return Err(overflow());
    }
    let elements = dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d)).ok_or_else(overflow)?;
    let bits = elements.checked_mul(dtype.bitsize() as u64).ok_or_else(overflow)?;
    let shape: Option<Box<[usize]>> = dims.iter().map(|&d| usize::try_from(d).ok()).collect();
    let shape = shape.ok_or_else(overflow)?;
    let [begin, end] = raw.offsets;
    if end < begin {
        return Err(CheckpointError::ReversedOffsets { file: file(), tensor: tensor(), begin, end });
    }
    let bytes = end - begin;
    if bits % 8 != 0 || bits / 8 != bytes {
        let expected = if bits % 8 == 0 {
            format!("{} bytes", bits / 8)
        } else {
            format!("{bits} bits (not whole bytes)")
        };
        return Err(CheckpointError::SizeMismatch { file: file(), tensor: tensor(), expected, found: bytes });
    }
    // Offsets near 2^64 must not wrap; the layout check refuses them as holes.
    let offset = begin.saturating_add(base);
    Ok(HeaderEntry { name: raw.name, dtype, shape, offset, bytes })
}

/// The tensors, in order, cover the data section exactly.
fn check_layout(file: &Path, entries: &[HeaderEntry], base: u64, file_len: u64) -> Result<()> {
    let mut at = base;
    let mut before = "";
    for entry in entries {
        let tensor = || entry.name.clone();
        if entry.offset < at {
            return Err(CheckpointError::Overlap {
                file: file.to_owned(),
                tensor: tensor(),
                other: before.to_owned(),
            });
        }
        if entry.offset > at {
            return Err(CheckpointError::Hole {
                file: file.to_owned(),
                tensor: tensor(),
                expected: at - base,
                found: entry.offset - base,
            });
        }
        at = at.saturating_add(entry.bytes);
        if at > file_len {
            return Err(CheckpointError::Truncated {
                file: file.to_owned(),
                tensor: tensor(),
                expected: at,
                found: file_len,
            });
        }
        before = &entry.name;
    }
    if at < file_len {
        return Err(CheckpointError::TrailingBytes { file: file.to_owned(), expected: at, found: file_len });
    }
    Ok(())
}

/// What the visitors collect.
#[derive(Default)]
struct State {
    entries: Vec<RawEntry>,
    current: String,
    duplicate: Option<String>,
    unknown_fields: usize,
}

struct RawEntry {
    name: String,
    dtype: String,
    shape: Shape,
    offsets: [u64; 2],
}

/// The first dimensions and the rank: memory does not grow with a hostile rank.
#[derive(Default)]
struct Shape {
    dims: [u64; MAX_RANK],
    rank: usize,
}

struct HeaderSeed<'a>(&'a mut State);

impl<'de> DeserializeSeed<'de> for HeaderSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<(), D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for HeaderSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        let state = self.0;
        let mut metadata = false;
        while let Some(name) = map.next_key::<String>()? {
            name.clone_into(&mut state.current);
            if name == "__metadata__" {
                if std::mem::replace(&mut metadata, true) {
                    state.duplicate = Some(name);
                    return Err(A::Error::custom("duplicate key"));
                }
                map.next_value_seed(MetadataSeed(state))?;
            } else {
                let entry = map.next_value_seed(EntrySeed(state, name))?;
                state.entries.push(entry);
            }
        }
        Ok(())
    }
}

/// `__metadata__`: strings to strings; read, checked and dropped.
struct MetadataSeed<'a>(&'a mut State);

impl<'de> DeserializeSeed<'de> for MetadataSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<(), D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for MetadataSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            map.next_value::<String>()?;
            if seen.contains(&key) {
                self.0.duplicate = Some(key);
                return Err(A::Error::custom("duplicate key"));
            }
            seen.insert(key);
        }
        Ok(())
    }
}

/// One tensor; an object, not the array that derived readers accept too.
struct EntrySeed<'a>(&'a mut State, String);

impl<'de> DeserializeSeed<'de> for EntrySeed<'_> {
    type Value = RawEntry;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<RawEntry, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for EntrySeed<'_> {
    type Value = RawEntry;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object with dtype, shape and data_offsets")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<RawEntry, A::Error> {
        let (mut dtype, mut shape, mut offsets) = (None, None, None);
        while let Some(key) = map.next_key::<String>()? {
            let twice = match key.as_str() {
                "dtype" => dtype.replace(map.next_value::<String>()?).is_some(),
                "shape" => shape.replace(map.next_value::<Shape>()?).is_some(),
                "data_offsets" => offsets.replace(map.next_value::<[u64; 2]>()?).is_some(),
                _ => {
                    self.0.unknown_fields += 1;
                    map.next_value::<IgnoredAny>()?;
                    false
                }
            };
            if twice {
                self.0.duplicate = Some(key);
                return Err(A::Error::custom("duplicate key"));
            }
        }
        let missing = A::Error::missing_field;
        Ok(RawEntry {
            name: self.1,
            dtype: dtype.ok_or_else(|| missing("dtype"))?,
            shape: shape.ok_or_else(|| missing("shape"))?,
            offsets: offsets.ok_or_else(|| missing("data_offsets"))?,
        })
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        struct ShapeVisitor;
        impl<'de> Visitor<'de> for ShapeVisitor {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an array of dimensions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Shape, A::Error> {
                let mut shape = Shape::default();
                while let Some(dim) = seq.next_element::<u64>()? {
                    if let Some(slot) = shape.dims.get_mut(shape.rank) {
                        *slot = dim;
                    }
                    shape.rank += 1;
                }
                Ok(shape)
            }
        }
        d.deserialize_seq(ShapeVisitor)
    }
}
