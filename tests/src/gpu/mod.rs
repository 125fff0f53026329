//! Tests of the device kernels: every case is one body over a small [`Device`], so that what runs on a card can run
//! on an emulator too.
//!
//! A case makes its input, computes what every byte of the output must be with `nvfp4` on the host, launches once,
//! and compares *all* bytes: outputs, padding, and what must not be touched. Outputs are poisoned beforehand and
//! lie between guard zones.
//!
//! | module | what |
//! |---|---|
//! | [`data`] | input distributions |
//! | [`outputs`] | the outputs that both kernels share, their reference and their comparison |
//! | [`quantize`], [`swiglu`] | the cases of the two kernels |
//! | [`mirror`] | a `Device` on the host, with faults to plant: proof that the cases can fail |
//! | `cuda` | a `Device` on a card (feature `cuda`) |

use kernels::launch::{Dims, Launch};

#[cfg(feature = "cuda")]
pub mod cuda;
pub mod data;
pub mod mirror;
pub mod outputs;
pub mod quantize;
pub mod swiglu;

/// A kernel argument with the memory behind it.
pub enum Value<'a> {
    /// Memory that the kernel reads.
    In(&'a [u8]),
    /// Memory that the kernel writes: goes to the device as it is and comes back.
    Out(&'a mut [u8]),
    /// The null pointer, where the kernel's table allows it.
    Null,
    /// A `u32`.
    U32(u32),
    /// An `f32`.
    F32(f32),
}

/// Why there is no device.
#[derive(Clone, Debug)]
pub enum Unavailable {
    /// There is none here: tests are ignored, with this reason.
    Absent(String),
    /// There is one and it does not work: tests fail.
    Broken(String),
}

/// Something that runs kernels.
pub trait Device: Send + Sync {
    /// Name for people.
    fn describe(&self) -> String;

    /// Multiprocessors, for the choice of the grid.
    fn multiprocessors(&self) -> u32;

    /// Most elements of a case that are affordable.
    fn max_elements(&self) -> usize;

    /// Launches once, one value per argument of the table, and waits. The error says what failed, a write outside
    /// an output included.
    fn launch(&self, launch: &'static Launch, dims: Dims, values: &mut [Value<'_>]) -> Result<(), String>;
}

/// The result of a case; the error is for people.
pub type Check = Result<(), String>;

/// What a part of a case does.
pub type Body = Box<dyn FnOnce(&dyn Device) -> Check + Send>;

/// One test: parts that belong together.
pub struct Case {
    /// Unique, `kernel/what/parameters`.
    pub name: String,
    parts: Vec<Part>,
}

struct Part {
    label: String,
    elements: usize,
    body: Body,
}

/// How many parts of a case ran, and how many are too large for the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ran {
    /// Parts that passed.
    pub passed: usize,
    /// Parts left out.
    pub too_large: usize,
}

impl Case {
    /// A case without parts.
    fn new(kernel: &Launch, name: impl std::fmt::Display) -> Self {
        Self { name: format!("{}/{name}", kernel.name), parts: Vec::new() }
    }

    /// Adds a part that has `elements` input elements to work on.
    fn part(
        &mut self,
        label: impl std::fmt::Debug,
        elements: usize,
        body: impl FnOnce(&dyn Device) -> Check + Send + 'static,
    ) {
        self.parts.push(Part { label: format!("{label:?}"), elements, body: Box::new(body) });
    }

    /// Runs the parts that the device can afford, until one fails.
    pub fn run(self, device: &dyn Device) -> Result<Ran, String> {
        let mut ran = Ran::default();
        for part in self.parts {
            if part.elements > device.max_elements() {
                ran.too_large += 1;
                continue;
            }
            (part.body)(device).map_err(|e| format!("{}: {e}", part.label))?;
            ran.passed += 1;
        }
        Ok(ran)
    }
}

/// Every case of every kernel.
pub fn cases() -> Vec<Case> {
    let mut cases = quantize::cases();
    cases.extend(swiglu::cases());
    cases
}

/// Row counts that both kernels are tried with.
pub const ROWS: [usize; 7] = [1, 7, 127, 128, 129, 1000, 8192];

/// Row lengths that both kernels are tried with.
pub const K: [usize; 7] = [16, 512, 2304, 2880, 4096, 7168, 16384];

/// Launches per repeat test; each must give the same bytes.
pub const REPEATS: usize = 400;

/// Grids that a kernel must cope with, whatever the number of rows.
pub const GRIDS: [u32; 6] = [1, 2, 7, 299, 301, 5000];

/// Constant global scales that no sane caller passes.
pub const ODD_CONSTANTS: [f32; 8] = [1.0, 0.0, -1.0, f32::NAN, f32::INFINITY, 1e-42, 1e-30, 3e38];

/// `(max_rows, rows)` pairs for the row count on the device: fewer than the buffers hold, none, and more.
pub const DEVICE_ROWS: [(usize, usize); 9] =
    [(300, 0), (300, 1), (300, 127), (300, 128), (300, 129), (300, 299), (300, 300), (300, 5000), (1, 9)];
