//! JSON with duplicate keys, depth and size refused: configuration files are untrusted.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;
use std::path::Path;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::error::{CheckpointError, Result};
use super::shard;

/// Largest configuration document.
pub const MAX_DOCUMENT: u64 = 32 << 20;
/// Most values in one document: bounds memory at about 32 bytes a value, whatever the text.
const MAX_VALUES: usize = 1 << 20;

/// A JSON value; objects keep their order and have unique keys.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// An integer, `0..2^64`
    Unsigned(u64),
    /// A negative integer
    Negative(i64),
    /// Any other number
    Float(f64),
    /// A string
    String(String),
    /// An array
    Array(Vec<Json>),
    /// An object
    Object(Vec<(String, Json)>),
}

impl Json {
    /// The member of an object.
    pub fn get(&self, key: &str) -> Option<&Json> {
        match self {
            Json::Object(members) => members.iter().find(|(k, _)| k == key).map(|(_, v)| v),
            _ => None,
        }
    }

    /// The text of a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Json::String(s) => Some(s),
            _ => None,
        }
    }

    /// The value for an error message: a number, or the name of the type.
    pub fn describe(&self) -> String {
        match self {
            Json::Null => "null".to_owned(),
            Json::Bool(b) => b.to_string(),
            Json::Unsigned(n) => n.to_string(),
            Json::Negative(n) => n.to_string(),
            Json::Float(x) => format!("{x:?}"),
            Json::String(s) => format!("{:?}", s.chars().take(64).collect::<String>()),
            Json::Array(_) => "an array".to_owned(),
            Json::Object(_) => "an object".to_owned(),
        }
    }
}

/// Reads a document.
pub fn read(file: &Path) -> Result<Json> {
    parse(file, &shard::read_document(file, MAX_DOCUMENT)?)
}

/// Parses a document; `file` is for messages.
pub fn parse(file: &Path, text: &[u8]) -> Result<Json> {
    let limits = Limits::default();
    let mut parser = serde_json::Deserializer::from_str(utf8(file, text)?);
    let value = JsonSeed(&limits).deserialize(&mut parser).and_then(|v| parser.end().map(|()| v));
    limits.finish(file, value)
}

/// The text of a document, all of it UTF-8: the parser does not look into strings that it skips.
pub fn utf8<'a>(file: &Path, text: &'a [u8]) -> Result<&'a str> {
    std::str::from_utf8(text).map_err(|e| CheckpointError::Json { file: file.to_owned(), why: e.to_string() })
}

/// What a parse keeps count of, and the duplicate key that ended it.
#[derive(Default)]
pub struct Limits {
    values: RefCell<usize>,
    duplicate: RefCell<Option<String>>,
}

impl Limits {
    /// Counts one value.
    fn count<E: serde::de::Error>(&self) -> std::result::Result<(), E> {
        let mut values = self.values.borrow_mut();
        *values += 1;
        if *values > MAX_VALUES { Err(E::custom(format!("more than {MAX_VALUES} values"))) } else { Ok(()) }
    }

    /// Notes a duplicate key and gives the error to return.
    pub fn duplicate<E: serde::de::Error>(&self, key: &str) -> E {
        *self.duplicate.borrow_mut() = Some(key.to_owned());
        E::custom("duplicate key")
    }

    /// Turns the parser's error into ours.
    pub fn finish<T>(self, file: &Path, value: serde_json::Result<T>) -> Result<T> {
        value.map_err(|error| match self.duplicate.into_inner() {
            Some(key) => CheckpointError::DuplicateKey { file: file.to_owned(), key },
            None => CheckpointError::Json { file: file.to_owned(), why: error.to_string() },
        })
    }
}

/// Deserialises a [`Json`] within limits.
#[derive(Clone, Copy)]
pub struct JsonSeed<'a>(pub &'a Limits);

impl<'de> DeserializeSeed<'de> for JsonSeed<'_> {
    type Value = Json;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<Json, D::Error> {
        self.0.count()?;
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for JsonSeed<'_> {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> std::result::Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, v: bool) -> std::result::Result<Json, E> {
        Ok(Json::Bool(v))
    }

    fn visit_u64<E>(self, v: u64) -> std::result::Result<Json, E> {
        Ok(Json::Unsigned(v))
    }

    fn visit_i64<E>(self, v: i64) -> std::result::Result<Json, E> {
        Ok(u64::try_from(v).map_or(Json::Negative(v), Json::Unsigned))
    }

    fn visit_f64<E>(self, v: f64) -> std::result::Result<Json, E> {
        Ok(Json::Float(v))
    }

    fn visit_str<E>(self, v: &str) -> std::result::Result<Json, E> {
        Ok(Json::String(v.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Json, A::Error> {
        let mut out = Vec::new();
        while let Some(v) = seq.next_element_seed(self)? {
            out.push(v);
        }
        Ok(Json::Array(out))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Json, A::Error> {
        let mut out: Vec<(String, Json)> = Vec::new();
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if !seen.insert(key.clone()) {
                return Err(self.0.duplicate(&key));
            }
            let value = map.next_value_seed(self)?;
            out.push((key, value));
        }
        Ok(Json::Object(out))
    }
}

/// A map of strings to strings, each key once, handed to a function in order.
pub struct StringMapSeed<'a, F> {
    /// Where a duplicate is noted.
    pub limits: &'a Limits,
    /// Gets key and value; `Err` ends the parse.
    pub each: F,
}

impl<'de, F: FnMut(String, String) -> std::result::Result<(), String>> DeserializeSeed<'de>
    for StringMapSeed<'_, F>
{
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<(), D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de, F: FnMut(String, String) -> std::result::Result<(), String>> Visitor<'de> for StringMapSeed<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> std::result::Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if !seen.insert(key.clone()) {
                return Err(self.limits.duplicate(&key));
            }
            let value = map.next_value::<String>()?;
            (self.each)(key, value).map_err(A::Error::custom)?;
        }
        Ok(())
    }
}
