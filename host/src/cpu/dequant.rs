//! Weight rows as f32: what the tiles multiply with. Every decoding here is exact or rounds once as
//! [`crate::weights`] says, so it does not matter which instruction set does it.

use nvfp4::{BLOCK, bf16, e2m1, e4m3};

use super::simd::Isa;
use crate::weights::{Bf16Matrix, FP8_BLOCK, Fp8Matrix, Linear, Nvfp4Matrix};

/// A `[rows, cols]` weight that can be read as f32.
pub(super) trait WeightRows: Sync {
    /// `(out features, in features)`.
    fn shape(&self) -> (usize, usize);

    /// The factor that the accumulators still need (1 where the values are complete).
    fn global_scale(&self) -> f32 {
        1.0
    }

    /// Writes `out.len()` elements of `row` from column `k`, which is a multiple of 16.
    fn read(&self, isa: Isa, row: usize, k: usize, out: &mut [f32]);
}

impl WeightRows for Nvfp4Matrix {
    fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    fn global_scale(&self) -> f32 {
        self.global_scale
    }

    fn read(&self, isa: Isa, row: usize, k: usize, out: &mut [f32]) {
        let at = row * self.cols + k;
        let packed = &self.packed[at / 2..][..out.len() / 2];
        let scales = &self.scales[at / BLOCK..][..out.len() / BLOCK];
        isa.dequantize(packed, scales, out);
    }
}

impl WeightRows for Bf16Matrix {
    fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    fn read(&self, _: Isa, row: usize, k: usize, out: &mut [f32]) {
        let at = row * self.cols + k;
        for (out, value) in out.iter_mut().zip(&self.data[at..]) {
            *out = bf16::to_f32(value.to_bits());
        }
    }
}

impl WeightRows for Fp8Matrix {
    fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    fn read(&self, _: Isa, row: usize, k: usize, out: &mut [f32]) {
        let codes = &self.data[row * self.cols + k..];
        let scales = &self.scales[row / FP8_BLOCK * self.cols.div_ceil(FP8_BLOCK)..];
        for (i, (out, &code)) in out.iter_mut().zip(codes).enumerate() {
            *out = E4M3[usize::from(code)] * scales[(k + i) / FP8_BLOCK];
        }
    }
}

impl WeightRows for Linear {
    fn shape(&self) -> (usize, usize) {
        Linear::shape(self)
    }

    fn global_scale(&self) -> f32 {
        match self {
            Linear::Nvfp4(m) => m.global_scale,
            Linear::Bf16(_) | Linear::Fp8(_) => 1.0,
        }
    }

    fn read(&self, isa: Isa, row: usize, k: usize, out: &mut [f32]) {
        match self {
            Linear::Nvfp4(m) => m.read(isa, row, k, out),
            Linear::Bf16(m) => m.read(isa, row, k, out),
            Linear::Fp8(m) => m.read(isa, row, k, out),
        }
    }
}

/// An f32 matrix: the router's.
pub(super) struct F32Rows<'a> {
    pub(super) data: &'a [f32],
    pub(super) rows: usize,
    pub(super) cols: usize,
}

impl WeightRows for F32Rows<'_> {
    fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    fn read(&self, _: Isa, row: usize, k: usize, out: &mut [f32]) {
        out.copy_from_slice(&self.data[row * self.cols + k..][..out.len()]);
    }
}

/// Every E4M3 value.
static E4M3: [f32; 256] = {
    let mut table = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        table[code] = e4m3::decode(code as u8);
        code += 1;
    }
    table
};

/// Every pair of E2M1 values in a byte.
static PAIRS: [[f32; 2]; 256] = {
    let mut table = [[0.0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = [e2m1::decode(byte as u8 & 15), e2m1::decode(byte as u8 >> 4)];
        byte += 1;
    }
    table
};

/// [`Isa::dequantize`] by table.
pub(super) fn portable(packed: &[u8], scales: &[u8], out: &mut [f32]) {
    let blocks = packed.chunks_exact(BLOCK / 2).zip(scales).zip(out.chunks_exact_mut(BLOCK));
    for ((bytes, &scale), values) in blocks {
        let scale = E4M3[usize::from(scale)];
        for (pair, &byte) in values.chunks_exact_mut(2).zip(bytes) {
            let [even, odd] = PAIRS[usize::from(byte)];
            pair[0] = even * scale;
            pair[1] = odd * scale;
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{avx2, avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{BLOCK, E4M3};
    use nvfp4::e2m1;
    use std::arch::x86_64::*;

    /// [`super::Isa::dequantize`]: eight nibbles spread by a variable shift, magnitudes from an eight-entry register.
    ///
    /// # Safety
    /// The CPU has AVX2, and the lengths belong together: 8 bytes and one scale per 16 values.
    #[target_feature(enable = "avx2")]
    pub(in super::super) unsafe fn avx2(packed: &[u8], scales: &[u8], out: &mut [f32]) {
        // SAFETY: the table has eight floats.
        let magnitudes = unsafe { _mm256_loadu_ps(e2m1::MAGNITUDES.as_ptr()) };
        let shifts = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
        let sign = _mm256_set1_epi32(i32::MIN);
        let blocks = packed.chunks_exact(BLOCK / 2).zip(scales).zip(out.chunks_exact_mut(BLOCK));
        for ((bytes, &scale), values) in blocks {
            let scale = _mm256_set1_ps(E4M3[usize::from(scale)]);
            for (word, values) in bytes.chunks_exact(4).zip(values.chunks_exact_mut(8)) {
                let word = i32::from_le_bytes([word[0], word[1], word[2], word[3]]);
                let codes = _mm256_srlv_epi32(_mm256_set1_epi32(word), shifts);
                let magnitude = _mm256_permutevar8x32_ps(magnitudes, codes);
                let signs = _mm256_and_si256(_mm256_slli_epi32::<28>(codes), sign);
                let value = _mm256_or_ps(magnitude, _mm256_castsi256_ps(signs));
                // SAFETY: `values` has eight floats.
                unsafe { _mm256_storeu_ps(values.as_mut_ptr(), _mm256_mul_ps(value, scale)) };
            }
        }
    }

    /// [`super::Isa::dequantize`]: sixteen nibbles spread by a variable shift, values from a sixteen-entry register.
    ///
    /// # Safety
    /// The CPU has AVX-512F, and the lengths belong together: 8 bytes and one scale per 16 values.
    #[target_feature(enable = "avx512f")]
    pub(in super::super) unsafe fn avx512(packed: &[u8], scales: &[u8], out: &mut [f32]) {
        // SAFETY: the table has sixteen floats.
        let table = unsafe { _mm512_loadu_ps(VALUES.as_ptr()) };
        let shifts = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
        let blocks = packed.chunks_exact(BLOCK / 2).zip(scales).zip(out.chunks_exact_mut(BLOCK));
        for ((bytes, &scale), values) in blocks {
            let low = i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            let high = i32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
            let words = _mm512_mask_set1_epi32(_mm512_set1_epi32(low), 0xff00, high);
            // The permutation looks at the low four bits of each index only.
            let value = _mm512_permutexvar_ps(_mm512_srlv_epi32(words, shifts), table);
            let scale = _mm512_set1_ps(E4M3[usize::from(scale)]);
            // SAFETY: `values` has sixteen floats.
            unsafe { _mm512_storeu_ps(values.as_mut_ptr(), _mm512_mul_ps(value, scale)) };
        }
    }

    /// The value of each of the sixteen codes.
    static VALUES: [f32; 16] = {
        let mut table = [0.0; 16];
        let mut code = 0;
        while code < 16 {
            table[code] = e2m1::decode(code as u8);
            code += 1;
        }
        table
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_under_every_scale_on_every_path() {
        // All 256 bytes under all 127 valid scales, in blocks of 8 bytes.
        let (mut packed, mut scales) = (Vec::new(), Vec::new());
        for scale in 0..e4m3::NAN {
            for block in 0..32 {
                packed.extend((0..8).map(|i| block * 8 + i));
                scales.push(scale);
            }
        }
        let mut want = vec![0.0; packed.len() * 2];
        nvfp4::quantize::dequantize_row_unscaled(&packed, &scales, &mut want);
        assert!(want.contains(&2688.0), "448 x 6 is a value, not NaN");
        for &isa in Isa::available() {
            let mut got = vec![f32::NAN; want.len()];
            isa.dequantize(&packed, &scales, &mut got);
            let same = got.iter().zip(&want).all(|(g, w)| g.to_bits() == w.to_bits());
            assert!(same, "{isa:?}");
        }
    }

    #[test]
    fn fp8_scales_change_at_block_borders() {
        let (rows, cols) = (130, 144);
        let m = Fp8Matrix {
            rows,
            cols,
            data: vec![0x38; rows * cols].into(),
            scales: vec![1.0, 2.0, 3.0, 0.1].into(),
        };
        let mut out = [0.0; 32];
        m.read(Isa::Portable, 127, 112, &mut out);
        assert_eq!((out[15], out[16]), (1.0, 2.0));
        m.read(Isa::Portable, 128, 112, &mut out);
        assert_eq!((out[15], out[16]), (3.0, 0.1));
    }
}
