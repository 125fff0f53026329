//! What notices the mutants of the expert GEMMs on wgmma: few and small problems that reach every width of the tiles,
//! with their references computed once for all mutants.
//!
//! The code of these kernels is there once per width, so that every width has a tile here that is narrower than it by a
//! few tokens; the ring of stages goes round in each.

use std::sync::Arc;

use kernels::launch::Launch;

use super::expert_gemm::{Form, Inputs, Kind, NARROW, Problem, WIDE, Weights};
use super::{Case, Check, Device};

/// Forms with the widths of their tiles.
const FORMS: [(&Form, &[u32]); 2] = [(&WIDE, &[32, 64, 96, 128]), (&NARROW, &[16, 32])];

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
}

/// The problems of a kernel, the most telling first; `None` if it is no expert GEMM on wgmma.
pub fn prepare(kernel: &Launch) -> Option<Prepared> {
    FORMS.iter().find_map(|&(form, widths)| {
        let kind = Kind::ALL.into_iter().find(|&kind| (form.launch)(kind).name == kernel.name)?;
        let part = |(problem, grid): (Problem, u32)| {
            let (weights, inputs) = (problem.weights(), problem.inputs());
            let want = problem.reference(&weights, &inputs);
            Arc::new(Part { problem, grid, weights, inputs, want })
        };
        let parts = problems(kind, widths).into_iter().map(part).collect();
        Some(Prepared { kernel: (form.launch)(kind), form, parts })
    })
}

/// Problems with the blocks of the grid. Few tokens, and features that fill two row tiles of one warp but for one.
fn problems(kind: Kind, widths: &[u32]) -> Vec<(Problem, u32)> {
    let features = if kind.has_up() { 15 } else { 31 };
    // Tiles after each other in one block; five k units, so that a last stage of two is not whole.
    let three = |width: &u32| (Problem::new(kind, &[width - 3; 3], features, 272), 1);
    // Tiles of every width in turn, two blocks.
    let counts: Vec<u32> = widths.iter().map(|width| width - 3).collect();
    let all = Problem {
        fold: true,
        gather: false,
        gap: 3,
        limit: f32::INFINITY,
        ..Problem::new(kind, &counts, features, 144)
    };
    widths.iter().map(three).chain([(all, 2)]).collect()
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
