//! Two-level NVFP4 quantisation: `x ~ e2m1(code) * e4m3(scale) * s2`, one scale per [`BLOCK`] elements along K.
//!
//! The arithmetic is ModelOpt's (`NVFP4QTensor.quantize`): true divisions, in this order, all in f32:
//! ```text
//! s2    = amax / 2688                                        global scale (per row, per tensor, or given)
//! scale = e4m3(clamp(amax_block / (6 * s2), 2^-9, 448))      round to nearest even
//! code  = e2m1(x / (e4m3(scale) * s2))                       round to nearest even, saturating
//! ```
//! Where ModelOpt has no useful answer this crate defines one:
//! * a block of zeros has scale byte 0 and codes 0 (ModelOpt: 0x38);
//! * a block whose `e4m3 * s2` underflows to 0 in f32 is a block of zeros;
//! * a block with NaN or infinity is written as a block of zeros, and the *row's* global scale becomes NaN
//!   ([`row_scale`]), so that the row's outputs are NaN after the GEMM and no other row changes.

use crate::{BLOCK, GLOBAL_RANGE, e2m1, e4m3};

/// One quantised block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Sixteen E2M1 codes, element `i` in bits `4i..4i+4`: the little-endian bytes are the packed form.
    pub codes: u64,
    /// E4M3 scale byte.
    pub scale: u8,
}

impl Block {
    /// The block of zeros.
    pub const ZERO: Block = Block { codes: 0, scale: 0 };
}

/// Bits of the infinity pattern: [`amax_bits`] at or above it mean NaN or infinity.
pub const NON_FINITE_BITS: u32 = 0x7f80_0000;

/// `|x|` as bits. Compared as integers these order like the magnitudes, with infinity above every finite
/// value and NaN above infinity, so an integer maximum is an absolute maximum that cannot lose a NaN.
#[inline(always)]
pub const fn amax_bits(x: f32) -> u32 {
    x.to_bits() & 0x7fff_ffff
}

/// Maximum of [`amax_bits`] over a slice; 0 for an empty one.
#[inline]
pub fn amax_bits_of(x: &[f32]) -> u32 {
    x.iter().fold(0, |acc, &v| if amax_bits(v) > acc { amax_bits(v) } else { acc })
}

/// The dynamic global scale `amax / 2688` of an absolute maximum given as bits; NaN if it is not finite.
#[inline(always)]
pub const fn tensor_scale_from_amax_bits(bits: u32) -> f32 {
    if bits >= NON_FINITE_BITS { f32::NAN } else { f32::from_bits(bits) / GLOBAL_RANGE }
}

/// The global scale that a row is stored with when `given` is its constant (static, bound, warm-up or tensor)
/// scale: `given`, or NaN if the row holds NaN or infinity.
#[inline(always)]
pub const fn row_scale(given: f32, row_amax_bits: u32) -> f32 {
    if row_amax_bits >= NON_FINITE_BITS { f32::NAN } else { given }
}

/// The E4M3 scale of a block of absolute maximum `amax` (finite) under the global scale `s2`; 0 for `amax == 0`.
#[inline(always)]
pub const fn block_scale(amax: f32, s2: f32) -> u8 {
    if amax == 0.0 {
        return 0;
    }
    let raw = amax / (6.0 * s2);
    // encode() saturates above; the floor keeps quiet blocks alive (ModelOpt's 2^-9).
    e4m3::encode(if raw < e4m3::MIN_POSITIVE { e4m3::MIN_POSITIVE } else { raw })
}

/// Quantises sixteen values under the global scale `s2`. See the module for the formula and the special cases.
/// A NaN, zero or negative `s2` gives [`Block::ZERO`].
#[inline(always)]
pub const fn quantize_block(x: &[f32; BLOCK], s2: f32) -> Block {
    let mut amax = 0;
    let mut i = 0;
    while i < BLOCK {
        let bits = amax_bits(x[i]);
        amax = if bits > amax { bits } else { amax };
        i += 1;
    }
    if amax >= NON_FINITE_BITS || amax == 0 || s2.is_nan() || s2 <= 0.0 {
        return Block::ZERO;
    }
    let scale = block_scale(f32::from_bits(amax), s2);
    let step = e4m3::decode(scale) * s2;
    if step == 0.0 {
        return Block::ZERO;
    }
    let mut codes = 0u64;
    i = 0;
    while i < BLOCK {
        codes |= (e2m1::encode(x[i] / step) as u64) << (4 * i);
        i += 1;
    }
    Block { codes, scale }
}

/// Quantises a row under the global scale `s2`: `packed` gets `x.len() / 2` bytes (low nibble = even k),
/// `scales` one byte per block, row-major. A NaN `s2` writes zeros.
///
/// # Panics
/// If `x.len()` is not a multiple of 16 or the outputs have other lengths.
pub fn quantize_row(x: &[f32], s2: f32, packed: &mut [u8], scales: &mut [u8]) {
    assert_eq!(x.len() % BLOCK, 0, "a row must be whole blocks of 16");
    assert_eq!(packed.len(), x.len() / 2, "two codes per byte");
    assert_eq!(scales.len(), x.len() / BLOCK, "one scale per block");
    for ((block, out), scale) in x.chunks_exact(BLOCK).zip(packed.chunks_exact_mut(BLOCK / 2)).zip(scales) {
        let mut values = [0.0; BLOCK];
        values.copy_from_slice(block);
        let quantised = quantize_block(&values, s2);
        out.copy_from_slice(&quantised.codes.to_le_bytes());
        *scale = quantised.scale;
    }
}

/// `(e2m1 * e4m3) * s2`: the first product is exact in f32, the second rounds once.
#[inline(always)]
pub const fn dequantize(code: u8, scale: u8, s2: f32) -> f32 {
    e2m1::decode(code) * e4m3::decode(scale) * s2
}

/// `e2m1 * e4m3` without the global scale: exact in f32 (and in bf16 and, below overflow, in f16).
#[inline(always)]
pub const fn dequantize_unscaled(code: u8, scale: u8) -> f32 {
    e2m1::decode(code) * e4m3::decode(scale)
}

/// Dequantises a row without the global scale.
///
/// # Panics
/// If the lengths do not belong together.
pub fn dequantize_row_unscaled(packed: &[u8], scales: &[u8], out: &mut [f32]) {
    assert_eq!(packed.len() * 2, out.len(), "two codes per byte");
    assert_eq!(scales.len() * BLOCK, out.len(), "one scale per block");
    for ((bytes, &scale), values) in
        packed.chunks_exact(BLOCK / 2).zip(scales).zip(out.chunks_exact_mut(BLOCK))
    {
        let s = e4m3::decode(scale);
        for (pair, &byte) in values.chunks_exact_mut(2).zip(bytes) {
            pair[0] = e2m1::decode(byte & 15) * s;
            pair[1] = e2m1::decode(byte >> 4) * s;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_and_non_finite_blocks() {
        assert_eq!(quantize_block(&[-0.0; 16], 1.0), Block::ZERO);
        let mut x = [1.0; 16];
        assert_ne!(quantize_block(&x, 1.0), Block::ZERO);
        assert_eq!(quantize_block(&x, f32::NAN), Block::ZERO);
        assert_eq!(quantize_block(&x, 0.0), Block::ZERO);
        x[3] = f32::NAN;
        assert_eq!(quantize_block(&x, 1.0), Block::ZERO);
        x[3] = f32::INFINITY;
        assert_eq!(quantize_block(&x, 1.0), Block::ZERO);
    }

    #[test]
    fn amax_bits_never_lose_nan() {
        assert!(amax_bits_of(&[1.0, f32::NAN, 2.0]) > NON_FINITE_BITS);
        assert_eq!(amax_bits_of(&[1.0, f32::NEG_INFINITY]), NON_FINITE_BITS);
        assert_eq!(f32::from_bits(amax_bits_of(&[1.0, -3.0, 2.0])), 3.0);
        assert!(tensor_scale_from_amax_bits(amax_bits(f32::NAN)).is_nan());
        assert!(row_scale(1.0, amax_bits(f32::INFINITY)).is_nan());
        assert_eq!(row_scale(1.0, amax_bits(5.0)), 1.0);
    }

    #[test]
    fn grid_values_are_exact() {
        // Every E2M1 value times a power of two survives, with amax 6 in the block.
        let mut x = [0.0; 16];
        for (i, v) in x.iter_mut().enumerate() {
            *v = e2m1::decode(i as u8) * 4.0;
        }
        let s2 = 24.0 / GLOBAL_RANGE;
        let b = quantize_block(&x, s2);
        assert_eq!(b.scale, e4m3::MAX_CODE);
        for i in 0..16 {
            assert_eq!((b.codes >> (4 * i)) & 15, i);
        }
    }

    #[test]
    fn quiet_blocks_keep_the_floor_scale() {
        let mut x = [0.0; 16];
        x[0] = 1e-4;
        let b = quantize_block(&x, 1.0 / 6.0);
        // raw = 1e-4, far below 2^-9: floor, and 1e-4 / (2^-9 / 6) = 0.307 -> 0.5.
        assert_eq!((b.scale, b.codes), (1, 1));
    }

    #[test]
    fn saturation_under_a_small_static_scale() {
        let mut x = [1.0; 16];
        x[15] = -1e9;
        let b = quantize_block(&x, 1e-3);
        assert_eq!(b.scale, e4m3::MAX_CODE);
        assert_eq!(b.codes >> 60, 15);
    }
}
