//! Sixteen f32 lanes on each instruction set: load, store, multiply, then add.

use super::simd::LANES;

/// Sixteen lanes in registers.
pub(super) trait Simd: Copy {
    /// # Safety
    /// `p` is readable for 16 floats and the CPU has the instruction set.
    unsafe fn load(p: *const f32) -> Self;
    /// # Safety
    /// `p` is writable for 16 floats and the CPU has the instruction set.
    unsafe fn store(self, p: *mut f32);
    /// `self + x * w`, two roundings.
    ///
    /// # Safety
    /// The CPU has the instruction set.
    unsafe fn mul_then_add(self, x: Self, w: Self) -> Self;
}

/// Plain Rust.
#[derive(Clone, Copy)]
pub(super) struct Lanes([f32; LANES]);

impl Simd for Lanes {
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: readable for 16 floats; an array of f32 has f32's alignment.
        Lanes(unsafe { *p.cast() })
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: writable for 16 floats; an array of f32 has f32's alignment.
        unsafe { *p.cast() = self.0 }
    }

    #[inline(always)]
    unsafe fn mul_then_add(mut self, x: Self, w: Self) -> Self {
        for lane in 0..LANES {
            self.0[lane] += x.0[lane] * w.0[lane];
        }
        self
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Ymm2, Zmm};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Simd;
    use std::arch::x86_64::*;

    /// Two AVX registers.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Ymm2(__m256, __m256);

    impl Simd for Ymm2 {
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self {
            // SAFETY: readable for 16 floats (the caller's promise); the loads need no alignment.
            unsafe { Ymm2(_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))) }
        }

        #[inline(always)]
        unsafe fn store(self, p: *mut f32) {
            // SAFETY: writable for 16 floats (the caller's promise); the stores need no alignment.
            unsafe {
                _mm256_storeu_ps(p, self.0);
                _mm256_storeu_ps(p.add(8), self.1);
            }
        }

        #[inline(always)]
        unsafe fn mul_then_add(self, x: Self, w: Self) -> Self {
            // SAFETY: the CPU has AVX2 (the caller's promise).
            unsafe {
                Ymm2(
                    _mm256_add_ps(self.0, _mm256_mul_ps(x.0, w.0)),
                    _mm256_add_ps(self.1, _mm256_mul_ps(x.1, w.1)),
                )
            }
        }
    }

    /// One AVX-512 register.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Zmm(__m512);

    impl Simd for Zmm {
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self {
            // SAFETY: readable for 16 floats (the caller's promise); the load needs no alignment.
            Zmm(unsafe { _mm512_loadu_ps(p) })
        }

        #[inline(always)]
        unsafe fn store(self, p: *mut f32) {
            // SAFETY: writable for 16 floats (the caller's promise); the store needs no alignment.
            unsafe { _mm512_storeu_ps(p, self.0) }
        }

        #[inline(always)]
        unsafe fn mul_then_add(self, x: Self, w: Self) -> Self {
            // SAFETY: the CPU has AVX-512F (the caller's promise).
            Zmm(unsafe { _mm512_add_ps(self.0, _mm512_mul_ps(x.0, w.0)) })
        }
    }
}
