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
//! | [`kept`] | what cases make once and use again |
//! | [`repack`] | those of the weights' repacking |
//! | [`expert_gemm`], [`mma_model`] | those of the expert GEMMs, and the MMA's arithmetic for their reference |
//! | [`expert_decode`] | those of the decode form |
//! | [`expert_gemm_mutation`] | what notices the mutants of those on wgmma |
//! | [`tcgen05_gemm`] | those of the grouped GEMMs on Blackwell's tensor cores |
//! | [`tcgen05_mega`] | those of both products and the combination in one launch |
//! | [`routing`] | the cases of routing, preparation of rows and combination |
//! | [`mirror`] | a `Device` on the host, with faults to plant: proof that the cases can fail |
//! | [`emulator`] | a `Device` on the PTX emulator: the committed PTX, everywhere, with every checker on |
//! | [`text`] | the PTX by kernel, and which kernels are the same code on both architectures |
//! | [`mutation`] | faults planted one by one in the PTX of a kernel, with its cases to notice them |
//! | [`alike`] | where two kernels are the same code |
//! | [`coverage`] | which parts of the cases a mutant needs |
//! | `cuda` | a `Device` on a card (feature `cuda`) |

use kernels::launch::{Dims, Launch};

pub mod alike;
pub mod coverage;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod data;
pub mod emulator;
pub mod expert_decode;
pub mod expert_gemm;
pub mod expert_gemm_mutation;
pub mod kept;
pub mod lines;
pub mod mirror;
pub mod mma_model;
pub mod mutation;
pub mod outputs;
pub mod predecessor;
pub mod quantize;
pub mod read_stream;
pub mod repack;
pub mod routing;
pub mod swiglu;
pub mod tcgen05_gemm;
pub mod tcgen05_mega;
pub mod text;

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

    /// Whether there is a kernel of this row for the device's architecture.
    fn has(&self, launch: &Launch) -> bool;

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
    kernel: &'static Launch,
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
    fn new(kernel: &'static Launch, name: impl std::fmt::Display) -> Self {
        Self { name: format!("{}/{name}", kernel.name), kernel, parts: Vec::new() }
    }

    /// The kernel.
    pub fn kernel(&self) -> &'static Launch {
        self.kernel
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

    /// A case for each part.
    fn split(self) -> impl Iterator<Item = Case> {
        let Case { name, kernel, parts } = self;
        parts.into_iter().map(move |part| {
            let name = if part.label.is_empty() { name.clone() } else { format!("{name}: {}", part.label) };
            Case { name, kernel, parts: vec![Part { label: String::new(), ..part }] }
        })
    }

    /// Runs the parts that the device can afford, until one fails.
    pub fn run(self, device: &dyn Device) -> Result<Ran, String> {
        let mut ran = Ran::default();
        if !device.has(self.kernel) {
            return Ok(ran);
        }
        for part in self.parts {
            if part.elements > device.max_elements() {
                ran.too_large += 1;
                continue;
            }
            let label = |e| if part.label.is_empty() { e } else { format!("{}: {e}", part.label) };
            (part.body)(device).map_err(label)?;
            ran.passed += 1;
        }
        Ok(ran)
    }
}

/// Every case of every kernel, at the sizes for a card.
pub fn cases() -> Vec<Case> {
    let mut cases = mirrored_cases();
    cases.extend(unmirrored_cases(&quantize::CARD));
    cases
}

/// Every case of every kernel, at other sizes.
pub fn cases_at(sizes: &Sizes) -> Vec<Case> {
    let mut cases = quantize::cases(sizes);
    cases.extend(swiglu::cases(sizes));
    cases.extend(unmirrored_cases(sizes));
    cases
}

/// The cases of the kernels that [`mirror`] mirrors, at the sizes for a card.
pub fn mirrored_cases() -> Vec<Case> {
    let mut cases = quantize::cases(&quantize::CARD);
    cases.extend(swiglu::cases(&swiglu::CARD));
    cases
}

/// The other ones.
fn unmirrored_cases(sizes: &Sizes) -> Vec<Case> {
    let mut cases = repack::cases(sizes);
    cases.extend(read_stream::cases(sizes));
    cases.extend(lines::cases(sizes));
    for form in expert_gemm::FORMS {
        cases.extend(expert_gemm::cases(form, sizes));
    }
    cases.extend(expert_decode::cases(sizes));
    for form in [&tcgen05_gemm::SINGLE, &tcgen05_gemm::PAIR] {
        cases.extend(tcgen05_gemm::cases(form, sizes));
    }
    for form in [&tcgen05_mega::SINGLE, &tcgen05_mega::PAIR] {
        cases.extend(tcgen05_mega::cases(form, sizes));
    }
    cases
}

/// What a set of sizes is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// A card: real shapes.
    Card,
    /// The emulator, every case.
    Emulator,
    /// The emulator in other schedules.
    Few,
}

/// The sizes that cases are tried at; the cases are the same at all of them.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// What they are for; cases with sizes of their own go by it.
    pub size: Size,
    /// Rows of the cases of shape.
    pub rows: &'static [usize],
    /// Lengths of each.
    pub k: &'static [usize],
    /// Rows of one more case of shape, and its length.
    pub long: Option<(usize, usize)>,
    /// Rows of the cases of one distribution each.
    pub data_rows: usize,
    /// Lengths of each.
    pub data_k: &'static [usize],
    /// Length of the cases with [`DEVICE_ROWS`].
    pub device_rows_k: usize,
    /// Rows of the cases with gaps between rows.
    pub stride_rows: usize,
    /// Lengths with the stride of each.
    pub stride: &'static [(usize, usize)],
    /// Rows and length of the cases of grids and of repeated launches.
    pub grid: (usize, usize),
    /// Repeated launches; each must give the same bytes.
    pub repeats: usize,
    /// Rows and length of the case of [`ODD_CONSTANTS`].
    pub constants: (usize, usize),
}

impl Sizes {
    /// What the emulator does in a minute.
    pub const EMULATOR: Sizes = Sizes {
        size: Size::Emulator,
        rows: &[1, 7, 129],
        k: &[16, 512, 2880],
        long: Some((3, 16384)),
        // The fewest rows of this length that have every bf16 pattern.
        data_rows: 86,
        data_k: &[16, 1024],
        device_rows_k: 48,
        stride_rows: 9,
        stride: &[(16, 24), (2880, 2888)],
        grid: (130, 528),
        repeats: 4,
        constants: (20, 512),
    };

    /// What the emulator does in a few seconds, for more schedules.
    pub const FEW: Sizes = Sizes {
        size: Size::Few,
        rows: &[7],
        k: &[512, 2880],
        long: None,
        data_rows: 9,
        data_k: &[1024],
        device_rows_k: 16,
        stride_rows: 9,
        stride: &[(16, 24)],
        grid: (20, 528),
        repeats: 2,
        constants: (9, 48),
    };
}

/// Grids that a kernel must cope with, whatever the number of rows.
pub const GRIDS: [u32; 6] = [1, 2, 7, 299, 301, 5000];

/// Constant global scales that no sane caller passes.
pub const ODD_CONSTANTS: [f32; 8] = [1.0, 0.0, -1.0, f32::NAN, f32::INFINITY, 1e-42, 1e-30, 3e38];

/// `(max_rows, rows)` pairs for the row count on the device: fewer than the buffers hold, none, and more.
pub const DEVICE_ROWS: [(usize, usize); 9] =
    [(300, 0), (300, 1), (300, 127), (300, 128), (300, 129), (300, 299), (300, 300), (300, 5000), (1, 9)];
