//! The list of mutants that make no difference.
//!
//! ```text
//! # One line each: the identity, a colon, the reason why nothing can notice.
//! delete-barrier mm#4 `bar.sync 0;`: the cluster barrier in front of it orders the same accesses
//! ```
//! An entry whose mutant is killed, or that no mutant has, is an error: the list says what is true now.

use std::collections::BTreeMap;

use super::Identity;

/// Mutants with the reason why they are equivalent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Equivalents(BTreeMap<Identity, String>);

/// A line that is not an entry.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("line {line}: {why}: {text}")]
pub struct ListError {
    /// From 1.
    pub line: usize,
    /// What is wrong.
    pub why: &'static str,
    /// The line.
    pub text: String,
}

impl Equivalents {
    /// Reads a list; empty lines and lines that start with `#` are comments.
    ///
    /// # Errors
    /// The first line that is neither a comment nor an entry, or repeats one.
    pub fn parse(text: &str) -> Result<Self, ListError> {
        let mut all = BTreeMap::new();
        for (line, text) in (1..).zip(text.lines()) {
            if text.trim().is_empty() || text.trim_start().starts_with('#') {
                continue;
            }
            let error = |why| ListError { line, why, text: text.trim().to_owned() };
            let Some((identity, rest)) = Identity::parse(text) else {
                return Err(error("expected kind entry#ordinal `instruction`: reason"));
            };
            match rest.trim_start().strip_prefix(':').map(str::trim) {
                Some(reason) if !reason.is_empty() => {
                    if all.insert(identity, reason.to_owned()).is_some() {
                        return Err(error("listed twice"));
                    }
                }
                _ => return Err(error("an equivalent mutant needs a reason, behind a colon")),
            }
        }
        Ok(Self(all))
    }

    /// The reason, if the mutant is listed.
    pub fn reason(&self, identity: &Identity) -> Option<&str> {
        self.0.get(identity).map(String::as_str)
    }

    /// What is listed.
    pub fn identities(&self) -> impl Iterator<Item = &Identity> {
        self.0.keys()
    }
}
