//! NVFP4 linear maps alone.

use half::bf16;

use super::check;
use super::gemm;
use super::layer::finish;
use super::rows::{Rows, Scales, tensor_scale_of};
use super::simd::Isa;
use crate::error::{Error, Result};
use crate::options::Activations;
use crate::weights::Nvfp4Matrix;

/// Format of the activations of a linear map.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum LinearMode {
    /// bf16 rows as they come.
    #[default]
    W4A16,
    /// Rows quantised to NVFP4 under this global scale.
    W4A4(RowScale),
}

impl LinearMode {
    /// What it says of the activations alone.
    pub fn activations(self) -> Activations {
        match self {
            Self::W4A16 => Activations::Bf16,
            Self::W4A4(_) => Activations::Nvfp4,
        }
    }
}

/// Where the global scale of a quantised row comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum RowScale {
    /// `amax(row) / 2688`.
    #[default]
    RowDynamic,
    /// `amax(all rows of the call) / 2688`, rows with NaN or infinity left out.
    TensorDynamic,
    /// The weight's `input_scale`.
    Static,
    /// This one: finite and not negative.
    Constant(f32),
}

/// `y = x W^T` with an NVFP4 weight: bf16 rows in, f32 rows out.
#[derive(Clone, Copy, Debug)]
pub struct Nvfp4Linear<'a> {
    weight: &'a Nvfp4Matrix,
}

impl<'a> Nvfp4Linear<'a> {
    /// Checks the sizes.
    pub fn new(weight: &'a Nvfp4Matrix) -> Result<Self> {
        check::nvfp4("weight", weight)?;
        Ok(Self { weight })
    }

    /// `[tokens, in]` to `[tokens, out]`. A row with NaN or infinity gives a row of NaN.
    pub fn forward(&self, rows: &[bf16], tokens: usize, mode: LinearMode) -> Result<Vec<f32>> {
        check::rows("rows", tokens, self.weight.cols, rows.len())?;
        let scales = resolve("weight", self.weight, mode)?;
        Ok(self.run(rows, &scales))
    }

    fn run(&self, rows: &[bf16], scales: &Scales) -> Vec<f32> {
        let finite = Rows::bf16(rows, self.weight.cols).finite();
        let (x, _) = Rows::per_token(rows, self.weight.cols, scales);
        finish(self.weight.rows, &finite, &[&gemm::linear(Isa::detect(), &x, self.weight)])
    }
}

fn resolve(what: &str, weight: &Nvfp4Matrix, mode: LinearMode) -> Result<Scales> {
    let usable = |name: String, s: f32| {
        if s >= 0.0 && s.is_finite() {
            Ok(Scales::Constant(s))
        } else {
            Err(Error::invalid(name, format!("{s} is not a finite, non-negative scale")))
        }
    };
    match mode {
        LinearMode::W4A16 => Ok(Scales::Bf16),
        LinearMode::W4A4(RowScale::RowDynamic) => Ok(Scales::PerRow),
        LinearMode::W4A4(RowScale::TensorDynamic) => Ok(Scales::Tensor),
        LinearMode::W4A4(RowScale::Constant(s)) => usable("row scale".into(), s),
        LinearMode::W4A4(RowScale::Static) => match weight.input_scale {
            Some(s) => usable(format!("{what}: input_scale"), s),
            None => Err(Error::invalid(what, "a static row scale needs an input_scale, and there is none")),
        },
    }
}

/// One NVFP4 weight per group, as DeepSeek-V4's output projection: every token goes through every group, each group
/// reading its own part of the row. `[tokens, groups, in]` to `[tokens, groups, out]`.
#[derive(Clone, Debug)]
pub struct Nvfp4GroupedLinear<'a> {
    groups: &'a [Nvfp4Matrix],
    cols: usize,
    rows: usize,
}

impl<'a> Nvfp4GroupedLinear<'a> {
    /// Checks the sizes: all groups have one shape.
    pub fn new(groups: &'a [Nvfp4Matrix]) -> Result<Self> {
        let Some(first) = groups.first() else {
            return Err(Error::invalid("groups", "at least one is needed"));
        };
        let (rows, cols) = (first.rows, first.cols);
        for (g, m) in groups.iter().enumerate() {
            check::nvfp4(&format!("group {g}"), m)?;
            if (m.rows, m.cols) != (rows, cols) {
                let got = format!("[{}, {}]", m.rows, m.cols);
                return Err(Error::mismatch(format!("group {g}"), format!("[{rows}, {cols}]"), got));
            }
        }
        Ok(Self { groups, cols, rows })
    }

    /// `[tokens, groups, in]` to `[tokens, groups, out]`. The rows that are quantised (and that NaN or infinity spoil)
    /// are those of one token and group; `TensorDynamic` is one scale for the whole call, `Static` one per group.
    pub fn forward(&self, rows: &[bf16], tokens: usize, mode: LinearMode) -> Result<Vec<f32>> {
        let groups = self.groups.len();
        check::rows("rows", tokens, groups.saturating_mul(self.cols), rows.len())?;
        let mut out = vec![0.0; tokens * groups * self.rows];
        if self.rows == 0 {
            return Ok(out);
        }
        let mut own = Vec::with_capacity(tokens * self.cols);
        for (g, weight) in self.groups.iter().enumerate() {
            let scales = match resolve(&format!("group {g}"), weight, mode)? {
                // Rows are (token, group) pairs: the maximum is over all of them.
                Scales::Tensor => Scales::Constant(tensor_scale_of(rows, self.cols)),
                other => other,
            };
            own.clear();
            rows.chunks_exact(self.cols).skip(g).step_by(groups).for_each(|part| own.extend_from_slice(part));
            let y = Nvfp4Linear { weight }.run(&own, &scales);
            let places = out.chunks_exact_mut(self.rows).skip(g).step_by(groups);
            places.zip(y.chunks_exact(self.rows)).for_each(|(out, y)| out.copy_from_slice(y));
        }
        Ok(out)
    }
}
