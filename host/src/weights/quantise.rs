//! bf16 weights to NVFP4, at load.

use half::bf16;
use nvfp4::quantize::{NON_FINITE_BITS, quantize_row, tensor_scale_from_amax_bits};
use rayon::prelude::*;

use super::Nvfp4Matrix;
use crate::{Error, Result};

impl Nvfp4Matrix {
    /// Quantises a row-major bf16 matrix `[rows, cols]` by the arithmetic of [`nvfp4::quantize`] (ModelOpt's) under one
    /// global scale, `amax / 2688`. Rows are shared among the threads of rayon; the result does not depend on them.
    ///
    /// A global scale is a normal, positive f32, so a matrix of zeros gets 1, and one whose `amax / 2688` would be
    /// subnormal the smallest normal number. There is no `input_scale`.
    ///
    /// # Errors
    /// If `cols` is not a positive multiple of 16, `data` is not `rows * cols` long, or a weight is NaN or infinite (the
    /// error says where).
    pub fn from_bf16(rows: usize, cols: usize, data: &[bf16]) -> Result<Nvfp4Matrix> {
        if cols == 0 || !cols.is_multiple_of(nvfp4::BLOCK) {
            return Err(Error::mismatch("columns", "a positive multiple of 16", cols));
        }
        let area = rows.checked_mul(cols);
        let area = area.ok_or_else(|| Error::invalid("matrix", format!("{rows} x {cols} overflows")))?;
        if data.len() != area {
            return Err(Error::mismatch("weights", format!("{area} elements"), data.len()));
        }
        let magnitude = |v: &bf16| u32::from(v.to_bits() & 0x7fff) << 16;
        let amax = data.par_chunks(cols).map(|row| row.iter().map(magnitude).max().unwrap_or(0)).max();
        let amax = amax.unwrap_or(0);
        if amax >= NON_FINITE_BITS {
            let at = data.iter().position(|v| !v.is_finite()).unwrap_or(0);
            let why = format!(
                "{} in row {}, column {}: only finite weights can be quantised",
                data[at],
                at / cols,
                at % cols
            );
            return Err(Error::invalid("weights", why));
        }
        let global_scale = match tensor_scale_from_amax_bits(amax) {
            0.0 if amax == 0 => 1.0,
            scale => scale.max(f32::MIN_POSITIVE),
        };
        let (mut packed, mut scales) = (vec![0; area / 2], vec![0; area / nvfp4::BLOCK]);
        packed
            .par_chunks_mut(cols / 2)
            .zip(scales.par_chunks_mut(cols / nvfp4::BLOCK))
            .zip(data.par_chunks(cols))
            .for_each_init(
                || vec![0.0; cols],
                |values, ((packed, scales), row)| {
                    values.iter_mut().zip(row).for_each(|(value, v)| *value = v.to_f32());
                    quantize_row(values, global_scale, packed, scales);
                },
            );
        Ok(Nvfp4Matrix {
            rows,
            cols,
            packed: packed.into(),
            scales: scales.into(),
            global_scale,
            input_scale: None,
        })
    }
}
