//! One expert on one row.

use half::bf16;

use super::formats::{QuantisedRow, e4m3, fl32, flbf16, unpack};
use crate::weights::{
    Bf16Matrix, ExpertWeights, FP8_BLOCK, Fp8Matrix, Linear, Nvfp4Matrix, SharedExpertWeights,
};

/// A row in front of a GEMM.
#[derive(Clone, Debug, PartialEq)]
pub enum ActivationRow {
    /// W4A16.
    Bf16(Vec<bf16>),
    /// W4A4.
    Nvfp4(QuantisedRow),
}

impl ActivationRow {
    /// The elements, without the row's global scale.
    pub fn values(&self) -> Vec<f64> {
        match self {
            Self::Bf16(x) => x.iter().map(|v| v.to_f64()).collect(),
            Self::Nvfp4(row) => row.values(),
        }
    }

    /// The global scale, if the row is quantised.
    pub fn scale(&self) -> Option<f32> {
        match self {
            Self::Bf16(_) => None,
            Self::Nvfp4(row) => Some(row.scale),
        }
    }

    /// Whether no element is NaN or infinite.
    pub fn is_finite(&self) -> bool {
        match self {
            Self::Bf16(x) => x.iter().all(|v| v.is_finite()),
            Self::Nvfp4(row) => row.scale.is_finite(),
        }
    }

    pub(super) fn saturated_blocks(&self) -> u64 {
        match self {
            Self::Bf16(_) => 0,
            Self::Nvfp4(row) => row.saturated_blocks,
        }
    }
}

/// A weight in any format.
#[derive(Clone, Copy)]
pub(super) enum Weight<'a> {
    Nvfp4(&'a Nvfp4Matrix),
    Bf16(&'a Bf16Matrix),
    Fp8(&'a Fp8Matrix),
}

impl<'a> From<&'a Linear> for Weight<'a> {
    fn from(m: &'a Linear) -> Self {
        match m {
            Linear::Nvfp4(m) => Self::Nvfp4(m),
            Linear::Bf16(m) => Self::Bf16(m),
            Linear::Fp8(m) => Self::Fp8(m),
        }
    }
}

impl Weight<'_> {
    fn rows(&self) -> usize {
        match self {
            Self::Nvfp4(m) => m.rows,
            Self::Bf16(m) => m.rows,
            Self::Fp8(m) => m.rows,
        }
    }

    /// Row `n`, without the global scale.
    fn row(&self, n: usize) -> Vec<f64> {
        match self {
            Self::Nvfp4(m) => {
                unpack(&m.packed[n * m.cols / 2..][..m.cols / 2], &m.scales[n * m.cols / 16..][..m.cols / 16])
            }
            Self::Bf16(m) => m.data[n * m.cols..][..m.cols].iter().map(|w| w.to_f64()).collect(),
            Self::Fp8(m) => {
                let scales = &m.scales[n / FP8_BLOCK * m.cols.div_ceil(FP8_BLOCK)..];
                let element = |k: usize| {
                    let product = e4m3(m.data[n * m.cols + k]) * f64::from(scales[k / FP8_BLOCK]);
                    f64::from(fl32(product))
                };
                (0..m.cols).map(element).collect()
            }
        }
    }

    fn scale(&self) -> Option<f32> {
        match self {
            Self::Nvfp4(m) => Some(m.global_scale),
            _ => None,
        }
    }

    /// `W x`: the sum rounded to f32, times alpha, rounded to f32. The products are exact; so is the f64 sum of
    /// quantised operands (multiples of 2^-20 below 2^33), and otherwise it is off by less than f32 can see.
    pub(super) fn apply(&self, x: &ActivationRow) -> Vec<f32> {
        let values = x.values();
        let alpha = match (x.scale(), self.scale()) {
            (Some(s), Some(global)) => fl32(f64::from(s) * f64::from(global)),
            (one, other) => one.or(other).unwrap_or(1.0),
        };
        let element = |n: usize| {
            let sum: f64 = values.iter().zip(self.row(n)).map(|(x, w)| x * w).sum();
            fl32(f64::from(fl32(sum)) * f64::from(alpha))
        };
        (0..self.rows()).map(element).collect()
    }
}

/// An expert.
#[derive(Clone, Copy)]
pub(super) struct Expert<'a> {
    pub gate: Weight<'a>,
    pub up: Weight<'a>,
    pub down: Weight<'a>,
}

impl<'a> Expert<'a> {
    pub(super) fn routed(e: &'a ExpertWeights) -> Self {
        Self { gate: Weight::Nvfp4(&e.gate), up: Weight::Nvfp4(&e.up), down: Weight::Nvfp4(&e.down) }
    }

    pub(super) fn shared(e: &'a SharedExpertWeights) -> Self {
        Self { gate: (&e.gate).into(), up: (&e.up).into(), down: (&e.down).into() }
    }

    /// Whether the activations follow the NVFP4 modes: all three weights are NVFP4.
    pub(super) fn is_nvfp4(&self) -> bool {
        [self.gate, self.up, self.down].iter().all(|w| matches!(w, Weight::Nvfp4(_)))
    }

    /// Calibrated scales of gate, up and down.
    pub(super) fn input_scales(&self) -> [Option<f32>; 3] {
        [self.gate, self.up, self.down].map(|w| if let Weight::Nvfp4(m) = w { m.input_scale } else { None })
    }

    /// L1 and SwiGLU.
    pub(super) fn hidden(&self, x: &ActivationRow, limit: f32) -> Vec<f32> {
        let (gate, up) = (self.gate.apply(x), self.up.apply(x));
        gate.iter().zip(up).map(|(&gate, up)| swiglu(gate, up, limit)).collect()
    }
}

/// `silu(min(gate, limit)) * clamp(up, -limit, limit)`: the clamp first, the gate from above only; `silu` rounded
/// to f32, then the product. NaN stays NaN.
pub fn swiglu(gate: f32, up: f32, limit: f32) -> f32 {
    let gate = if gate > limit { limit } else { gate };
    let up = if up > limit { limit } else { up };
    let up = if up < -limit { -limit } else { up };
    let wide = f64::from(gate);
    let silu = fl32(wide / (1.0 + (-wide).exp()));
    fl32(f64::from(silu) * f64::from(up))
}

/// Where the global scale of a row comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum RowScale {
    /// Not quantised.
    Bf16,
    /// The row's own maximum.
    Own,
    /// Decided elsewhere.
    Given(f32),
}

/// `amax / 2688`.
pub(super) fn dynamic_scale(amax: f32) -> f32 {
    fl32(f64::from(amax) / 2688.0)
}

/// Brings f32 values into the form that a GEMM takes.
pub(super) fn activate(x: &[f32], scale: RowScale) -> ActivationRow {
    match scale {
        RowScale::Bf16 => ActivationRow::Bf16(x.iter().map(|&v| flbf16(v)).collect()),
        RowScale::Own => {
            ActivationRow::Nvfp4(QuantisedRow::quantise(x, dynamic_scale(super::formats::amax(x))))
        }
        RowScale::Given(scale) => ActivationRow::Nvfp4(QuantisedRow::quantise(x, scale)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swiglu_by_hand() {
        assert_eq!(swiglu(5.0, 1.0, 1.0), (1.0 / (1.0 + (-1f64).exp())) as f32);
        assert_eq!(swiglu(-5.0, 1.0, 1.0), (-5.0 / (1.0 + 5f64.exp())) as f32);
        assert_eq!(swiglu(0.0, 7.0, 1.0), 0.0);
        assert_eq!(swiglu(50.0, -30.0, 10.0), -(10.0 / (1.0 + (-10f64).exp())) as f32 * 10.0);
        assert_eq!(swiglu(50.0, -30.0, f32::INFINITY), -1500.0);
        assert_eq!(swiglu(-1000.0, 1.0, 10.0), 0.0);
        assert!(swiglu(f32::NAN, 1.0, 1.0).is_nan() && swiglu(1.0, f32::NAN, 1.0).is_nan());
    }

    #[test]
    fn a_product_by_hand() {
        // Row 0: 0.5 * 2 at k = 0, -6 * 448 at k = 16; row 1: zeros.
        let mut packed = [0u8; 32];
        (packed[0], packed[8]) = (0x01, 0x0f);
        let m = Nvfp4Matrix {
            rows: 2,
            cols: 32,
            packed: packed.into(),
            scales: [0x40, 0x7e, 0x38, 0x38].into(),
            global_scale: 0.25,
            input_scale: None,
        };
        let mut x = [0.0; 32];
        (x[0], x[16]) = (3.0, 0.75);
        let y = Weight::Nvfp4(&m).apply(&activate(&x, RowScale::Bf16));
        assert_eq!(y, [(3.0 - 2016.0) * 0.25, 0.0]);
        // The same numbers are exact in NVFP4 under this scale.
        let q = activate(&x, RowScale::Given(0.5));
        assert_eq!(Weight::Nvfp4(&m).apply(&q), [(3.0 - 2016.0) * 0.25, 0.0]);
    }
}
