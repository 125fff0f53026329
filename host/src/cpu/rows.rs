//! Activation rows as the GEMMs see them: bf16 values and one global scale per row.
//!
//! A bf16 row enters as it is, with scale 1. A quantised row enters as its products `e2m1 * e4m3`, which have six
//! significant bits and are therefore exact in bf16, with its global scale: both kinds run through one GEMM.

use std::borrow::Cow;

use half::bf16;
use nvfp4::quantize::{self, NON_FINITE_BITS};
use nvfp4::{BLOCK, GLOBAL_RANGE, bf16 as bits16, e2m1, e4m3};
use rayon::prelude::*;

use super::slots::SlotPlan;

/// Where the global scales of a set of rows come from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Scales {
    /// Not quantised: bf16.
    Bf16,
    /// `amax(row) / 2688`.
    PerRow,
    /// `amax(all rows) / 2688`, rows with NaN or infinity left out.
    Tensor,
    /// One constant.
    Constant(f32),
    /// One constant per (local) expert.
    PerExpert(Vec<f32>),
}

/// `[len, cols]` activations.
pub(super) struct Rows<'a> {
    cols: usize,
    bits: Cow<'a, [u16]>,
    /// One per row; empty for bf16 rows, whose scale is 1.
    scales: Vec<f32>,
}

impl<'a> Rows<'a> {
    /// bf16 rows as they are.
    pub(super) fn bf16(x: &'a [bf16], cols: usize) -> Self {
        Self { cols, bits: Cow::Borrowed(bytemuck::cast_slice(x)), scales: Vec::new() }
    }

    /// `len` rows that `read(row, buffer)` produces, rounded to bf16 or quantised under `scale(row, amax bits)`.
    /// Returns the rows, and the blocks whose scale saturated.
    pub(super) fn build(
        len: usize,
        cols: usize,
        read: impl Fn(usize, &mut [f32]) + Sync,
        scale: Option<&(dyn Fn(usize, u32) -> f32 + Sync)>,
    ) -> (Rows<'static>, u64) {
        let mut bits = vec![0u16; len * cols];
        let mut scales = vec![1.0f32; len];
        let saturated = bits
            .par_chunks_mut(cols.max(1))
            .zip(&mut scales)
            .enumerate()
            .map_init(
                || vec![0.0; cols],
                |buffer, (row, (out, s))| {
                    read(row, buffer);
                    match scale {
                        None => {
                            for (out, &x) in out.iter_mut().zip(buffer.iter()) {
                                *out = bits16::from_f32(x);
                            }
                            0
                        }
                        Some(scale) => {
                            let amax = quantize::amax_bits_of(buffer);
                            *s = quantize::row_scale(scale(row, amax), amax);
                            quantize_row(buffer, *s, out)
                        }
                    }
                },
            )
            .sum();
        (Rows { cols, bits: Cow::Owned(bits), scales }, saturated)
    }

    /// One row per token under token-wise `scales` (not [`Scales::PerExpert`]: those need [`Rows::per_slot`]).
    /// Returns the rows, and the blocks whose scale saturated under a constant global scale.
    pub(super) fn per_token(x: &'a [bf16], cols: usize, scales: &Scales) -> (Rows<'a>, u64) {
        let tokens = x.len().checked_div(cols).unwrap_or(0);
        let read = |row: usize, out: &mut [f32]| widen(&x[row * cols..][..cols], out);
        let build = |scale: &(dyn Fn(usize, u32) -> f32 + Sync)| Rows::build(tokens, cols, read, Some(scale));
        match scales {
            Scales::Bf16 => (Rows::bf16(x, cols), 0),
            Scales::PerRow | Scales::PerExpert(_) => {
                (build(&|_, amax| quantize::tensor_scale_from_amax_bits(amax)).0, 0)
            }
            Scales::Tensor => {
                let scale = tensor_scale_of(x, cols);
                (build(&|_, _| scale).0, 0)
            }
            Scales::Constant(scale) => build(&|_, _| *scale),
        }
    }

    /// One row per row of `plan`, each under the constant of its expert. As [`Rows::per_token`].
    pub(super) fn per_slot(
        x: &[bf16],
        cols: usize,
        plan: &SlotPlan,
        top_k: usize,
        scales: &[f32],
    ) -> (Rows<'static>, u64) {
        let read = |row: usize, out: &mut [f32]| {
            widen(&x[plan.slot_of_row[row] as usize / top_k * cols..][..cols], out);
        };
        let scale = |row, _| scales[nvfp4::offsets::expert_of_row(&plan.offsets, row).unwrap_or(0)];
        Rows::build(plan.slot_of_row.len(), cols, read, Some(&scale))
    }

    /// Number of rows.
    pub(super) fn len(&self) -> usize {
        self.bits.len().checked_div(self.cols).unwrap_or(0)
    }

    /// Elements of a row.
    pub(super) fn cols(&self) -> usize {
        self.cols
    }

    /// Global scale of a row.
    pub(super) fn scale(&self, row: usize) -> f32 {
        self.scales.get(row).copied().unwrap_or(1.0)
    }

    /// Elements `k..k + len` of a row, as bf16 bits.
    pub(super) fn piece(&self, row: usize, k: usize, len: usize) -> &[u16] {
        &self.bits[row * self.cols + k..][..len]
    }

    /// Per row, whether all elements (and the scale) are finite.
    pub(super) fn finite(&self) -> Vec<bool> {
        let is_finite = |bits: &u16| bits & 0x7f80 != 0x7f80;
        (0..self.len())
            .into_par_iter()
            .map(|row| {
                self.scale(row).is_finite() && self.bits[row * self.cols..][..self.cols].iter().all(is_finite)
            })
            .collect()
    }
}

fn widen(x: &[bf16], out: &mut [f32]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = bits16::to_f32(x.to_bits());
    }
}

/// Quantises `x` under `s` and writes the exact products `e2m1 * e4m3` as bf16. Returns the number of blocks whose
/// ratio of maximum to `6 s` is above 448: they lose their largest values.
fn quantize_row(x: &[f32], s: f32, out: &mut [u16]) -> u64 {
    let mut saturated = 0;
    for (x, out) in x.chunks_exact(BLOCK).zip(out.chunks_exact_mut(BLOCK)) {
        let mut values = [0.0; BLOCK];
        values.copy_from_slice(x);
        let amax = quantize::amax_bits_of(&values);
        saturated += u64::from(amax != 0 && f32::from_bits(amax) / (6.0 * s) > e4m3::MAX);
        let block = quantize::quantize_block(&values, s);
        let scale = e4m3::decode(block.scale);
        for (i, out) in out.iter_mut().enumerate() {
            *out = bits16::from_f32(e2m1::decode((block.codes >> (4 * i)) as u8) * scale);
        }
    }
    saturated
}

/// The `TensorDynamic` scale: the largest finite row maximum over 2688, 0 without one.
pub(super) fn tensor_scale(amax_bits: impl Iterator<Item = u32>) -> f32 {
    f32::from_bits(amax_bits.filter(|&bits| bits < NON_FINITE_BITS).max().unwrap_or(0)) / GLOBAL_RANGE
}

/// [`tensor_scale`] of bf16 rows.
pub(super) fn tensor_scale_of(x: &[bf16], cols: usize) -> f32 {
    // bf16 magnitudes order like their bits, and a row with NaN or infinity has the largest.
    let row_amax =
        |row: &[bf16]| row.iter().map(|v| u32::from(v.to_bits() & 0x7fff) << 16).max().unwrap_or(0);
    let rows: Vec<u32> = x.par_chunks(cols.max(1)).map(row_amax).collect();
    tensor_scale(rows.into_iter())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantised_products_are_exact_in_bf16() {
        for scale in 0..e4m3::NAN {
            for code in 0..16 {
                let v = nvfp4::quantize::dequantize_unscaled(code, scale);
                assert_eq!(bits16::round(v).to_bits(), v.to_bits());
            }
        }
    }

    #[test]
    fn saturation_is_counted_per_block() {
        let mut x = [1.0; 48];
        x[20] = 2688.0;
        let mut out = [0; 48];
        assert_eq!(quantize_row(&x, 1.0, &mut out), 0);
        assert_eq!(quantize_row(&x, 0.999, &mut out), 1);
        assert_eq!(quantize_row(&x, 1e-9, &mut out), 3);
        assert_eq!(quantize_row(&x, f32::NAN, &mut out), 0);
        assert_eq!(quantize_row(&[0.0; 48], 0.0, &mut out), 0);
        assert_eq!(quantize_row(&x, 0.0, &mut out), 3);
        assert_eq!(out, [0; 48]);
    }

    #[test]
    fn tensor_maximum_leaves_out_bad_rows() {
        let x: Vec<bf16> =
            [1.0, -26.88, f32::INFINITY, 0.0, 0.0, f32::NAN, 0.5, 0.5].map(bf16::from_f32).into();
        assert_eq!(tensor_scale_of(&x, 2), bf16::from_f32(26.88).to_f32() / 2688.0);
        assert_eq!(tensor_scale_of(&[], 2), 0.0);
    }
}
