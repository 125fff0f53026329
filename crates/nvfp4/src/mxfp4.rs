//! The lossless MXFP4 -> NVFP4 cast (ModelOpt's `--cast_mxfp4_to_nvfp4`).
//!
//! MXFP4 has one power-of-two E8M0 scale per 32 elements. With `kmax` the largest exponent of the tensor,
//! `s2 = 2^(kmax - 8)` and each block's E4M3 scale is `2^(k - kmax + 8)`, written for both 16-blocks; the E2M1
//! codes are untouched. E4M3 holds 2^-9..2^8 exactly, so the cast is exact wherever `kmax - k <= 17`. A block
//! further below is representable only if all its codes are zero; otherwise the cast is refused, never lossy.

use crate::{e2m1, e4m3};

/// Elements that share one E8M0 scale.
pub const MX_BLOCK: usize = 32;
/// Largest distance `kmax - k` that E4M3 can hold: from 2^8 down to the subnormal 2^-9.
pub const MAX_SPREAD: u8 = 17;

/// Why a tensor has no lossless NVFP4 form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CastError {
    /// The E8M0 scale of this block is 0xFF (NaN).
    NanScale {
        /// Index of the block.
        block: usize,
    },
    /// This block's scale lies more than 2^17 below the largest and the block is not all zeros.
    Spread {
        /// Index of the block.
        block: usize,
        /// Its E8M0 code.
        code: u8,
        /// The largest E8M0 code of the tensor.
        max: u8,
    },
    /// `2^(kmax - 8)` is not a normal f32.
    GlobalScale {
        /// The largest E8M0 code of the tensor.
        max: u8,
    },
}

impl core::fmt::Display for CastError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            CastError::NanScale { block } => write!(f, "E8M0 scale of block {block} is NaN (0xFF)"),
            CastError::Spread { block, code, max } => write!(
                f,
                "block {block} has scale 2^{}, more than 2^{MAX_SPREAD} below the largest, 2^{}: not representable in E4M3",
                i32::from(code) - 127,
                i32::from(max) - 127
            ),
            CastError::GlobalScale { max } => {
                write!(
                    f,
                    "largest scale 2^{} gives a global scale that is not a normal f32",
                    i32::from(max) - 127
                )
            }
        }
    }
}

impl core::error::Error for CastError {}

/// Casts the scales of a tensor. `packed` holds 16 bytes per MX block (the codes, unchanged by the cast),
/// `e8m0` one byte per MX block; `scales` gets two E4M3 bytes per MX block. Returns the global scale `s2`.
///
/// A tensor whose blocks are all zero gets `s2 = 1`.
///
/// # Errors
/// [`CastError`]; `scales` is then unspecified.
///
/// # Panics
/// If the lengths do not belong together.
pub fn cast_scales(packed: &[u8], e8m0: &[u8], scales: &mut [u8]) -> Result<f32, CastError> {
    assert_eq!(packed.len(), e8m0.len() * MX_BLOCK / 2, "16 packed bytes per MX block");
    assert_eq!(scales.len(), e8m0.len() * 2, "two E4M3 scales per MX block");
    let is_zero = |block: usize| packed[block * 16..][..16].iter().all(|b| b & 0x77 == 0);
    let mut max = None;
    for (block, &code) in e8m0.iter().enumerate() {
        if code == 0xff {
            return Err(CastError::NanScale { block });
        }
        if !is_zero(block) && max.is_none_or(|m| code > m) {
            max = Some(code);
        }
    }
    let Some(max) = max else {
        scales.fill(0);
        return Ok(1.0);
    };
    // Biased exponent of s2 is max - 8.
    if max < 9 {
        return Err(CastError::GlobalScale { max });
    }
    for (block, (&code, pair)) in e8m0.iter().zip(scales.chunks_exact_mut(2)).enumerate() {
        let byte = if is_zero(block) {
            0
        } else if max - code <= MAX_SPREAD {
            e4m3::encode(exp2(i32::from(code) - i32::from(max) + 8))
        } else {
            return Err(CastError::Spread { block, code, max });
        };
        pair.fill(byte);
    }
    Ok(f32::from_bits((u32::from(max) - 8) << 23))
}

/// Exact 2^n for -126 <= n <= 127.
const fn exp2(n: i32) -> f32 {
    f32::from_bits(((n + 127) as u32) << 23)
}

/// Value of an MXFP4 element.
#[inline]
pub const fn dequantize(code: u8, e8m0: u8) -> f32 {
    e2m1::decode(code) * crate::e8m0::decode(e8m0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize;

    #[test]
    fn every_spread_is_exact() {
        for max in [9u8, 100, 127, 200, 254] {
            let lowest = max.saturating_sub(MAX_SPREAD);
            let e8m0: Vec<u8> = (lowest..=max).collect();
            let packed: Vec<u8> = (0..e8m0.len() * 16).map(|i| (i * 37 + 1) as u8 | 0x10).collect();
            let mut scales = vec![0; e8m0.len() * 2];
            let s2 = cast_scales(&packed, &e8m0, &mut scales).unwrap();
            for k in 0..packed.len() * 2 {
                let code = if k % 2 == 0 { packed[k / 2] & 15 } else { packed[k / 2] >> 4 };
                let want = f64::from(e2m1::decode(code)) * 2f64.powi(i32::from(e8m0[k / 32]) - 127);
                let got = f64::from(quantize::dequantize_unscaled(code, scales[k / 16])) * f64::from(s2);
                assert_eq!(got, want, "max {max} k {k}");
            }
        }
    }

    #[test]
    fn refuses_what_would_lose() {
        let packed = [0x11; 32];
        let mut scales = [0; 4];
        assert_eq!(
            cast_scales(&packed, &[120, 102], &mut scales),
            Err(CastError::Spread { block: 1, code: 102, max: 120 })
        );
        assert_eq!(cast_scales(&packed, &[120, 255], &mut scales), Err(CastError::NanScale { block: 1 }));
        assert_eq!(cast_scales(&packed, &[8, 8], &mut scales), Err(CastError::GlobalScale { max: 8 }));
    }

    #[test]
    fn zero_blocks_may_be_anywhere() {
        let mut packed = [0x11; 32];
        packed[16..].fill(0x80);
        let mut scales = [9; 4];
        assert!(cast_scales(&packed, &[120, 3], &mut scales).is_ok());
        assert_eq!(scales[2..], [0, 0]);
        assert_eq!(cast_scales(&[0; 32], &[5, 250], &mut scales), Ok(1.0));
    }
}
