//! What notices the mutants of the expert GEMMs on wgmma: few and small problems that reach every width of the tiles,
//! with their references computed once for all mutants.
//!
//! The loop over K, or its MMA, is there once per width: each has tiles that are a few tokens narrower, and the ring of
//! stages goes round in it.

use std::sync::Arc;

use kernels::launch::Launch;

use super::expert_gemm::{BROAD, Form, Inputs, Kind, NARROW, Problem, WIDE, Weights};
use super::{Case, Check, Device};

/// A form with the widths of its tiles.
struct Widths {
    form: &'static Form,
    widths: &'static [u32],
}

const FORMS: [Widths; 3] = [
    Widths { form: &NARROW, widths: &[16, 32] },
    Widths { form: &WIDE, widths: &[32, 64, 96, 128] },
    Widths { form: &BROAD, widths: &[64, 128, 192, 208, 224] },
];

/// A problem with its result.
struct Part {
    problem: Problem,
    /// Blocks of the grid.
    grid: u32,
    weights: Weights,
    inputs: Inputs,
    want: Vec<u8>,
}

/// The problems of a kernel.
pub struct Prepared {
    kernel: &'static Launch,
    form: &'static Form,
    parts: Vec<Arc<Part>>,
    /// How many of them are for every mutant; the others for code that those do not reach.
    pub core: usize,
}

/// The problems of a kernel, the most telling first; `None` if it is no expert GEMM on wgmma.
pub fn prepare(kernel: &Launch) -> Option<Prepared> {
    FORMS.iter().find_map(|widths| {
        let form = widths.form;
        let kind = Kind::ALL.into_iter().find(|&kind| (form.launch)(kind).name == kernel.name)?;
        let part = |(problem, grid): (Problem, u32)| {
            let (weights, inputs) = (problem.weights(), problem.inputs());
            let want = problem.reference(&weights, &inputs);
            Arc::new(Part { problem, grid, weights, inputs, want })
        };
        let [core, more] = problems(kind, widths);
        let count = core.len();
        let parts = core.into_iter().chain(more).map(part).collect();
        Some(Prepared { kernel: (form.launch)(kind), form, parts, core: count })
    })
}

/// Problems with the blocks of the grid: those for every mutant, and those for code that the first ones do not reach. Few
/// tokens, and features that fill two row tiles of one warp but for one.
fn problems(kind: Kind, widths: &Widths) -> [Vec<(Problem, u32)>; 2] {
    let features = if kind.has_up() { 15 } else { 31 };
    // Rows of tiles of every width, a few less than it has tokens.
    let counts: Vec<u32> = widths.widths.iter().map(|width| width - 3).collect();
    // Tiles after each other in one block; an odd number of k units, so that a last stage of two is not whole. The slots
    // of the first tile's last stage are used again.
    let tiles = |count: u32| (Problem::new(kind, &[count; 3], features, 272), 1);
    // In the loop of the narrowest width too, so that it takes nothing from the others' problems; two blocks.
    let other = Problem {
        fold: true,
        gather: false,
        gap: 3,
        limit: f32::INFINITY,
        ..Problem::new(kind, &[counts[0], 0, 5], features, 144)
    };
    // One unit for each tile, so that what is brought ahead is of several, and loops that are unrolled end in the first.
    let short = Problem::new(kind, &[counts[0], 0, 5, 9, 3, 4, 1, 2, 3], features, 48);
    // Seven units: another turn of the loop is the one in which the next tile is taken up.
    let seven = Problem::new(kind, &[counts[0]; 3], features, 432);
    let mut more: Vec<_> = counts[1..].iter().map(|&count| tiles(count)).collect();
    more.push((seven, 1));
    [vec![tiles(counts[0]), (other, 2), (short, 1)], more]
}

impl Part {
    fn check(&self, device: &dyn Device, form: &Form) -> Check {
        let mut dims = self.problem.dims(device, form)?;
        dims.grid[0] = self.grid;
        let got = self.problem.launch(device, form, dims, &self.weights, &self.inputs)?;
        self.problem.expect(&got, &self.want)
    }
}

impl Prepared {
    /// A case for each of them.
    pub fn cases(&self) -> Vec<Case> {
        let case = |(i, part): (usize, &Arc<Part>)| {
            let mut case = Case::new(self.kernel, format!("mutation/{i}"));
            let (part, form) = (Arc::clone(part), self.form);
            case.part("", part.problem.elements(), move |device| part.check(device, form));
            case
        };
        self.parts.iter().enumerate().map(case).collect()
    }
}
