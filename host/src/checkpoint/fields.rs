//! Typed access to the fields of an untrusted JSON object: every failure names document and field.

use std::path::Path;

use super::error::{CheckpointError, Result};
use super::json::Json;

/// The fields of one object. `null` counts as absent.
#[derive(Clone, Copy)]
pub struct Fields<'a> {
    /// The document, for messages.
    pub file: &'a Path,
    object: &'a Json,
    /// Path of the object in the document, with a dot at its end unless empty.
    prefix: &'a str,
}

impl<'a> Fields<'a> {
    /// The fields of `object`.
    pub fn new(file: &'a Path, object: &'a Json, prefix: &'a str) -> Result<Self> {
        match object {
            Json::Object(_) => Ok(Self { file, object, prefix }),
            other => Err(CheckpointError::ConfigType {
                file: file.to_owned(),
                field: if prefix.is_empty() {
                    "(document)".to_owned()
                } else {
                    prefix.trim_end_matches('.').to_owned()
                },
                expected: "an object",
                found: other.describe(),
            }),
        }
    }

    /// The fields of a member object, if there is one.
    pub fn object(&self, name: &str, path: &'a str) -> Result<Option<Fields<'a>>> {
        self.get(&[name])?.map(|(_, value)| Fields::new(self.file, value, path)).transpose()
    }

    /// The first of several names that is there. Two names with different values are refused.
    pub fn get<'n>(&self, names: &[&'n str]) -> Result<Option<(&'n str, &'a Json)>> {
        let mut found: Option<(&str, &Json)> = None;
        for &name in names {
            match (self.object.get(name), found) {
                (None | Some(Json::Null), _) => {}
                (Some(value), None) => found = Some((name, value)),
                (Some(value), Some((_, first))) if value == first => {}
                (Some(value), Some((other, first))) => {
                    let expected = format!("the value of {}, {}", self.path(other), first.describe());
                    return Err(self.range(name, expected, value));
                }
            }
        }
        Ok(found)
    }

    /// An integer within `range`; `default` if absent, or an error without one.
    pub fn integer(
        &self,
        names: &[&str],
        range: std::ops::RangeInclusive<u64>,
        default: Option<u64>,
    ) -> Result<usize> {
        let Some((name, value)) = self.get(names)? else {
            return default.map(|d| d as usize).ok_or_else(|| self.missing(names));
        };
        match value {
            Json::Unsigned(n) if range.contains(n) => {
                usize::try_from(*n).map_err(|_| self.range(name, "a smaller number", value))
            }
            Json::Unsigned(_) | Json::Negative(_) => {
                Err(self.range(name, format!("{} to {}", range.start(), range.end()), value))
            }
            other => Err(self.wrong_type(name, "an integer", other)),
        }
    }

    /// A finite number above zero, normal in f32.
    pub fn positive(&self, names: &[&str]) -> Result<Option<f32>> {
        let Some((name, value)) = self.get(names)? else { return Ok(None) };
        let number = match value {
            Json::Unsigned(n) => *n as f32,
            Json::Negative(n) => *n as f32,
            Json::Float(x) => *x as f32,
            other => return Err(self.wrong_type(name, "a number", other)),
        };
        if number.is_normal() && number > 0.0 {
            Ok(Some(number))
        } else {
            Err(self.range(name, "a finite number above 0", value))
        }
    }

    /// A boolean.
    pub fn boolean(&self, names: &[&str]) -> Result<Option<bool>> {
        match self.get(names)? {
            None => Ok(None),
            Some((_, Json::Bool(b))) => Ok(Some(*b)),
            Some((name, other)) => Err(self.wrong_type(name, "true or false", other)),
        }
    }

    /// A string.
    pub fn string(&self, names: &[&str]) -> Result<Option<&'a str>> {
        match self.get(names)? {
            None => Ok(None),
            Some((_, Json::String(s))) => Ok(Some(s)),
            Some((name, other)) => Err(self.wrong_type(name, "a string", other)),
        }
    }

    /// An array of strings; empty if absent.
    pub fn strings(&self, name: &str) -> Result<Vec<&'a str>> {
        match self.get(&[name])? {
            None => Ok(Vec::new()),
            Some((_, Json::Array(items))) => items
                .iter()
                .map(|item| item.as_str().ok_or_else(|| self.wrong_type(name, "an array of strings", item)))
                .collect(),
            Some((_, other)) => Err(self.wrong_type(name, "an array of strings", other)),
        }
    }

    /// The members of a member object, in order; empty if absent.
    pub fn members(&self, name: &str) -> Result<&'a [(String, Json)]> {
        match self.get(&[name])? {
            None => Ok(&[]),
            Some((_, Json::Object(members))) => Ok(members),
            Some((_, other)) => Err(self.wrong_type(name, "an object", other)),
        }
    }

    /// [`CheckpointError::Unsupported`] for a field.
    pub fn unsupported(&self, name: &str, found: impl ToString, why: &'static str) -> CheckpointError {
        CheckpointError::Unsupported {
            file: self.file.to_owned(),
            field: self.path(name),
            found: found.to_string(),
            why,
        }
    }

    /// [`CheckpointError::ConfigMissing`] for a field of several names.
    pub fn missing(&self, names: &[&str]) -> CheckpointError {
        CheckpointError::ConfigMissing { file: self.file.to_owned(), field: self.path(&names.join(" | ")) }
    }

    /// [`CheckpointError::ConfigRange`] for a field.
    pub fn range(&self, name: &str, expected: impl Into<String>, found: &Json) -> CheckpointError {
        CheckpointError::ConfigRange {
            file: self.file.to_owned(),
            field: self.path(name),
            expected: expected.into(),
            found: found.describe(),
        }
    }

    fn wrong_type(&self, name: &str, expected: &'static str, found: &Json) -> CheckpointError {
        CheckpointError::ConfigType {
            file: self.file.to_owned(),
            field: self.path(name),
            expected,
            found: found.describe(),
        }
    }

    fn path(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}
