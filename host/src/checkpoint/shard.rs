//! Files, read by position and never mapped: a file that is cut or changed underneath gives an error, not a
//! signal.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::error::{CheckpointError, Result};

/// An open safetensors file.
#[derive(Debug)]
pub struct Shard {
    /// Path, for messages.
    pub path: PathBuf,
    /// Size when it was opened.
    pub len: u64,
    modified: Option<SystemTime>,
    #[cfg(unix)]
    file: File,
    #[cfg(not(unix))]
    file: std::sync::Mutex<File>,
}

impl Shard {
    /// Opens a regular file.
    pub fn open(path: &Path) -> Result<Self> {
        let (file, meta) = open_regular(path)?;
        #[cfg(not(unix))]
        let file = std::sync::Mutex::new(file);
        Ok(Self { path: path.to_owned(), len: meta.len(), modified: meta.modified().ok(), file })
    }

    /// Fills `buf` from `offset`. `tensor` is for messages.
    pub fn read_exact_at(&self, tensor: &str, buf: &mut [u8], offset: u64) -> Result<()> {
        self.read_raw(buf, offset).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => CheckpointError::Changed {
                file: self.path.clone(),
                tensor: tensor.to_owned(),
                why: format!("it ends before byte {}", offset.saturating_add(buf.len() as u64)),
            },
            _ => CheckpointError::Io { file: self.path.clone(), source },
        })
    }

    #[cfg(unix)]
    fn read_raw(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, buf, offset)
    }

    #[cfg(not(unix))]
    fn read_raw(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        use std::io::{Seek, SeekFrom};
        let mut file = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(buf)
    }

    /// Whether size and modification time are still those at opening.
    pub fn check_unchanged(&self) -> Result<()> {
        let io = |source| CheckpointError::Io { file: self.path.clone(), source };
        #[cfg(unix)]
        let meta = self.file.metadata().map_err(io)?;
        #[cfg(not(unix))]
        let meta =
            self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner).metadata().map_err(io)?;
        if meta.len() == self.len && meta.modified().ok() == self.modified {
            return Ok(());
        }
        Err(CheckpointError::Changed {
            file: self.path.clone(),
            tensor: "*".to_owned(),
            why: format!("it was {} bytes at opening and is {}, or was written to", self.len, meta.len()),
        })
    }
}

/// A whole document of at most `limit` bytes.
pub fn read_document(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let (file, meta) = open_regular(path)?;
    let too_large =
        |found| CheckpointError::TooLarge { file: path.to_owned(), what: "size in bytes", limit, found };
    if meta.len() > limit {
        return Err(too_large(meta.len()));
    }
    // The file may grow between the two calls.
    let mut text = Vec::new();
    file.take(limit + 1)
        .read_to_end(&mut text)
        .map_err(|source| CheckpointError::Io { file: path.to_owned(), source })?;
    if text.len() as u64 > limit { Err(too_large(text.len() as u64)) } else { Ok(text) }
}

/// Opens a regular file, or a link to one: a pipe would block, a device would never end.
fn open_regular(path: &Path) -> Result<(File, fs::Metadata)> {
    let io = |source| CheckpointError::Io { file: path.to_owned(), source };
    if !fs::metadata(path).map_err(io)?.is_file() {
        return Err(CheckpointError::NotAFile { file: path.to_owned() });
    }
    let file = File::open(path).map_err(io)?;
    let meta = file.metadata().map_err(io)?;
    Ok((file, meta))
}
