//! Launches described by JSON files: PTX, geometry, buffers, arguments, outputs, expectations.
//!
//! ```json
//! { "ptx": "kernel.ptx", "entry": "mm", "grid": [2, 1, 1], "block": [128, 1, 1], "cluster": [1, 1, 1],
//!   "dynamic_shared": 98304,
//!   "buffers": { "a": { "file": "a.bin" }, "c": { "bytes": 65536, "fill": "poison" } },
//!   "args": [ { "pointer": "a" }, { "pointer": "c" }, { "i32": 256 } ],
//!   "outputs": { "c": { "file": "c.out.bin" } },
//!   "expected": { "c": { "file": "c.expected.bin", "dtype": "float32", "stored_as": "bf16", "rel_l2": 0.003 } } }
//! ```
//! Paths are relative to the file. `fill` is `poison` (every byte unwritten) or `zeros`.

mod compare;
mod mutate;
mod tensor_map;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

pub use compare::{Comparison, Expectation};

use crate::device::{Device, DeviceError, LaunchConfig};
use crate::machine::{Argument, Dim3, Outcome};

/// A parsed launch file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchFile {
    ptx: PathBuf,
    entry: String,
    grid: Dim3,
    block: Dim3,
    #[serde(default = "one")]
    cluster: Dim3,
    #[serde(default)]
    dynamic_shared: u32,
    #[serde(default)]
    buffers: BTreeMap<String, Buffer>,
    #[serde(default)]
    args: Vec<Arg>,
    #[serde(default)]
    outputs: BTreeMap<String, Output>,
    #[serde(default)]
    expected: BTreeMap<String, Expectation>,
    #[serde(skip)]
    dir: PathBuf,
}

fn one() -> Dim3 {
    [1, 1, 1]
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Buffer {
    file: Option<PathBuf>,
    bytes: Option<usize>,
    #[serde(default)]
    fill: Fill,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Fill {
    #[default]
    Poison,
    #[serde(alias = "zero")]
    Zeros,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Arg {
    Pointer(String),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    F32(f32),
    F64(f64),
    TensorMap(Box<tensor_map::Description>),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Output {
    file: PathBuf,
}

/// Why a launch file cannot be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchFileError {
    /// A file cannot be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The JSON is not a launch file.
    #[error("{path}: {source}", path = path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// Contradictory or missing values.
    #[error("{path}: {what}", path = path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The module or the launch.
    #[error("{path}: {source}", path = path.display())]
    Device {
        /// The PTX file.
        path: PathBuf,
        /// What is wrong.
        source: DeviceError,
    },
}

type Result<T> = std::result::Result<T, LaunchFileError>;

/// What a run gave.
pub struct Run {
    /// Findings and counters.
    pub outcome: Outcome,
    /// Output buffers by name.
    pub outputs: BTreeMap<String, Vec<u8>>,
    /// Comparisons with the expectations.
    pub comparisons: Vec<Comparison>,
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|source| LaunchFileError::Io { path: path.to_owned(), source })
}

impl LaunchFile {
    /// Reads a launch file.
    ///
    /// # Errors
    /// Unreadable, or not a launch file.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = read(path)?;
        let mut this: Self = serde_json::from_slice(&bytes)
            .map_err(|source| LaunchFileError::Json { path: path.to_owned(), source })?;
        this.dir = path.parent().unwrap_or(Path::new("")).to_owned();
        Ok(this)
    }

    /// Path of the PTX.
    pub fn ptx(&self) -> PathBuf {
        self.dir.join(&self.ptx)
    }

    fn invalid<T>(&self, what: impl Into<String>) -> Result<T> {
        Err(LaunchFileError::Invalid { path: self.dir.join("launch"), what: what.into() })
    }

    /// Runs the launch on a fresh device. Geometry comes from the file, the rest from `options`.
    ///
    /// # Errors
    /// Anything that keeps the launch from starting.
    pub fn run(&self, options: &LaunchConfig) -> Result<Run> {
        self.run_text(&self.source()?, options)
    }

    /// Text of the PTX.
    ///
    /// # Errors
    /// Unreadable.
    pub fn source(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&read(&self.ptx())?).into_owned())
    }

    /// The entry that is launched.
    pub fn entry(&self) -> &str {
        &self.entry
    }

    /// [`LaunchFile::run`] with another text in place of the PTX file.
    ///
    /// # Errors
    /// Anything that keeps the launch from starting.
    pub fn run_text(&self, ptx: &str, options: &LaunchConfig) -> Result<Run> {
        let device_error = |source| LaunchFileError::Device { path: self.ptx(), source };
        let mut device = Device::new();
        let module = device.load_module(ptx).map_err(device_error)?;
        let mut buffers = BTreeMap::new();
        for (name, buffer) in &self.buffers {
            let address = match (&buffer.file, buffer.bytes) {
                (Some(file), bytes) => {
                    let data = read(&self.dir.join(file))?;
                    if bytes.is_some_and(|b| b != data.len()) {
                        return self.invalid(format!("buffer {name}: {file:?} has {} bytes", data.len()));
                    }
                    device.upload_new(&data)
                }
                (None, Some(bytes)) if bytes <= 1 << 32 => {
                    if buffer.fill == Fill::Zeros {
                        device.upload_new(&vec![0; bytes])
                    } else {
                        device.allocate(bytes)
                    }
                }
                _ => return self.invalid(format!("buffer {name} needs `file` or `bytes` (at most 4 GiB)")),
            };
            buffers.insert(name.as_str(), address);
        }
        let find = |name: &String| match buffers.get(name.as_str()) {
            Some(&address) => Ok(address),
            None => self.invalid(format!("buffer {name} is not described")),
        };
        let mut arguments = Vec::new();
        for arg in &self.args {
            arguments.push(match arg {
                Arg::Pointer(name) => Argument::B64(find(name)?),
                Arg::I32(v) => Argument::B32(*v as u32),
                Arg::U32(v) => Argument::B32(*v),
                Arg::I64(v) => Argument::B64(*v as u64),
                Arg::U64(v) => Argument::B64(*v),
                Arg::F32(v) => Argument::B32(v.to_bits()),
                Arg::F64(v) => Argument::B64(v.to_bits()),
                Arg::TensorMap(map) => {
                    let encoded = map.encode(find(map.buffer())?);
                    Argument::Bytes(encoded.or_else(|why| self.invalid(format!("tensor_map: {why}")))?)
                }
            });
        }
        let config = LaunchConfig {
            grid: self.grid,
            block: self.block,
            cluster: self.cluster,
            dynamic_shared: self.dynamic_shared,
            ..options.clone()
        };
        let outcome = device.launch(&module, &self.entry, &config, &arguments).map_err(device_error)?;
        let download = |name: &String| device.download(find(name)?).map_err(device_error);
        let mut outputs = BTreeMap::new();
        for name in self.outputs.keys() {
            outputs.insert(name.clone(), download(name)?);
        }
        let mut comparisons = Vec::new();
        for (name, expectation) in &self.expected {
            let want = read(&self.dir.join(&expectation.file))?;
            let comparison = expectation.compare(name, &download(name)?, &want);
            comparisons.push(comparison.or_else(|why| self.invalid(format!("expected {name}: {why}")))?);
        }
        Ok(Run { outcome, outputs, comparisons })
    }

    /// Writes the outputs of a run beside the launch file, as it names them.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write_outputs(&self, run: &Run) -> Result<()> {
        for (name, output) in &self.outputs {
            let path = self.dir.join(&output.file);
            std::fs::write(&path, &run.outputs[name])
                .map_err(|source| LaunchFileError::Io { path, source })?;
        }
        Ok(())
    }
}
