//! The library's error type.

use std::path::PathBuf;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong. Nothing in this crate panics on user input, a missing GPU or a broken file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A checkpoint, or a file of one, is not usable; the error names file and tensor.
    #[error(transparent)]
    Checkpoint(#[from] crate::checkpoint::CheckpointError),

    /// Reading or writing a file failed.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },

    /// A tensor, slice or buffer has another size or dtype than the layer needs.
    #[error("{what}: expected {expected}, got {got}")]
    Mismatch {
        /// The tensor or argument.
        what: String,
        /// What it should be.
        expected: String,
        /// What it is.
        got: String,
    },

    /// An argument is out of range or missing for the chosen options.
    #[error("{what}: {why}")]
    Invalid {
        /// The argument or option.
        what: String,
        /// What is wrong with it, and what would be right.
        why: String,
    },

    /// The request is meaningful but not supported.
    #[error("unsupported: {what}: {why}")]
    Unsupported {
        /// The feature.
        what: String,
        /// Why, and what to do instead.
        why: String,
    },

    /// The emulator could not run a kernel, or reported what it did wrong.
    #[error("emulator: {what}: {why}")]
    Emulator {
        /// The kernel or operation.
        what: String,
        /// The findings or the reason.
        why: String,
    },

    /// An earlier call of this layer broke the device's context; nothing can run on it any more.
    #[error("the device failed earlier and must be reset ({first})")]
    Poisoned {
        /// The error of the call that found out first.
        first: String,
    },

    /// A CUDA driver call failed.
    #[error("{call} failed: {name} ({code})")]
    Driver {
        /// The driver function.
        call: &'static str,
        /// `CUresult` as a number.
        code: u32,
        /// `CUresult` as a name.
        name: String,
    },
}

impl Error {
    /// A [`Error::Mismatch`] from displayable parts.
    pub fn mismatch(
        what: impl Into<String>,
        expected: impl std::fmt::Display,
        got: impl std::fmt::Display,
    ) -> Self {
        Self::Mismatch { what: what.into(), expected: expected.to_string(), got: got.to_string() }
    }

    /// An [`Error::Invalid`].
    pub fn invalid(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Invalid { what: what.into(), why: why.into() }
    }

    /// An [`Error::Unsupported`].
    pub fn unsupported(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Unsupported { what: what.into(), why: why.into() }
    }
}
