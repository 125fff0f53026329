//! The inner loop: dot products of a few activation rows with four weight rows, in one fixed order of additions.
//!
//! Every dot product keeps [`LANES`] partial sums; element `k` goes to lane `k % 16`, in increasing `k`, by a
//! multiplication and an addition (never fused), and [`Isa::reduce`] adds the lanes pairwise at distances 8, 4, 2, 1.
//! Nothing else ever touches a sum, so the bits depend neither on the instruction set nor on which other rows
//! share the tile.

use super::dequant;
use super::lanes::{Lanes, Simd};
#[cfg(target_arch = "x86_64")]
use super::lanes::{Ymm2, Zmm};

/// Partial sums of a dot product.
pub(super) const LANES: usize = 16;
/// Weight rows of a tile.
pub(super) const TILE: usize = 4;

/// An instruction set to run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Isa {
    /// Plain Rust (SSE2 on x86-64, NEON on AArch64, as the compiler sees fit).
    Portable,
    /// AVX2.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 Foundation.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// The best one of this machine.
    pub(super) fn detect() -> Self {
        Self::available().last().copied().unwrap_or(Isa::Portable)
    }

    /// Every one of this machine, best last.
    pub(super) fn available() -> &'static [Isa] {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") {
                return if is_x86_feature_detected!("avx512f") {
                    &[Isa::Portable, Isa::Avx2, Isa::Avx512]
                } else {
                    &[Isa::Portable, Isa::Avx2]
                };
            }
        }
        &[Isa::Portable]
    }

    /// Adds the products of `x` (`[m, k]`) and `w` (`[TILE, k]`) to the partial sums `acc` (`[m, TILE, LANES]`).
    ///
    /// # Panics
    /// If the lengths do not belong together or `k` is not whole lanes.
    pub(super) fn tile(self, x: &[f32], w: &[f32], k: usize, acc: &mut [f32]) {
        assert!(k > 0 && k.is_multiple_of(LANES) && x.len().is_multiple_of(k), "whole rows of whole lanes");
        assert_eq!(w.len(), TILE * k, "four weight rows");
        assert_eq!(acc.len(), x.len() / k * TILE * LANES, "one set of lanes per pair of rows");
        match self {
            // SAFETY: the lengths were checked; plain Rust runs everywhere.
            Isa::Portable => unsafe { rows::<Lanes, 1, 1, 2>(x, w, k, acc) },
            // SAFETY: the lengths were checked; `available` offers this only where the CPU has AVX2.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { tile_avx2(x, w, k, acc) },
            // SAFETY: the lengths were checked; `available` offers this only where the CPU has AVX-512F.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { tile_avx512(x, w, k, acc) },
        }
    }

    /// Finishes `acc` (`[m, TILE, LANES]`): the sums of row `t` go to the start of the `t`-th of `out`'s rows of
    /// `stride` elements, of which the last may be short.
    ///
    /// # Panics
    /// If there is no room for a row's sums.
    pub(super) fn reduce(self, acc: &[f32], out: &mut [f32], stride: usize) {
        match self {
            Isa::Portable => reduce_rows(acc, out, stride),
            // SAFETY: `available` offers this only where the CPU has AVX2.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { reduce_avx2(acc, out, stride) },
            // SAFETY: `available` offers this only where the CPU has AVX-512F.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { reduce_avx512(acc, out, stride) },
        }
    }

    /// Widens bf16 bits.
    pub(super) fn widen(self, bits: &[u16], out: &mut [f32]) {
        match self {
            Isa::Portable => widen(bits, out),
            // SAFETY: `available` offers this only where the CPU has AVX2.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { widen_avx2(bits, out) },
            // SAFETY: `available` offers this only where the CPU has AVX-512F.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { widen_avx512(bits, out) },
        }
    }

    /// Decodes blocks of NVFP4 without the global scale: exact, so the same on every instruction set.
    ///
    /// # Panics
    /// If the lengths do not belong together.
    pub(super) fn dequantize(self, packed: &[u8], scales: &[u8], out: &mut [f32]) {
        assert_eq!(packed.len() * 2, out.len(), "two codes per byte");
        assert_eq!(scales.len() * nvfp4::BLOCK, out.len(), "one scale per block");
        match self {
            Isa::Portable => dequant::portable(packed, scales, out),
            // SAFETY: the lengths were checked; `available` offers this only where the CPU has AVX2.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { dequant::avx2(packed, scales, out) },
            // SAFETY: the lengths were checked; `available` offers this only where the CPU has AVX-512F.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { dequant::avx512(packed, scales, out) },
        }
    }
}

/// The sums of the lanes of each row's tile: pairwise at distances 8, 4, 2, 1.
#[inline(always)]
fn reduce_rows(acc: &[f32], out: &mut [f32], stride: usize) {
    for (acc, out) in acc.chunks_exact(TILE * LANES).zip(out.chunks_mut(stride)) {
        let mut quarters = [[0.0f32; 4]; TILE];
        for (lanes, quarter) in acc.chunks_exact(LANES).zip(&mut quarters) {
            for (i, q) in quarter.iter_mut().enumerate() {
                *q = (lanes[i] + lanes[i + 8]) + (lanes[i + 4] + lanes[i + 12]);
            }
        }
        let mut sums = [0.0f32; TILE];
        for (sum, [a, b, c, d]) in sums.iter_mut().zip(quarters) {
            *sum = (a + c) + (b + d);
        }
        out[..TILE].copy_from_slice(&sums);
    }
}

#[inline(always)]
fn widen(bits: &[u16], out: &mut [f32]) {
    for (out, &bits) in out.iter_mut().zip(bits) {
        *out = nvfp4::bf16::to_f32(bits);
    }
}

/// # Safety
/// The CPU has AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn reduce_avx2(acc: &[f32], out: &mut [f32], stride: usize) {
    reduce_rows(acc, out, stride);
}

/// # Safety
/// The CPU has AVX-512F.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn reduce_avx512(acc: &[f32], out: &mut [f32], stride: usize) {
    reduce_rows(acc, out, stride);
}

/// # Safety
/// The CPU has AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn widen_avx2(bits: &[u16], out: &mut [f32]) {
    widen(bits, out);
}

/// # Safety
/// The CPU has AVX-512F.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn widen_avx512(bits: &[u16], out: &mut [f32]) {
    widen(bits, out);
}

/// # Safety
/// As [`rows`], on a CPU with AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn tile_avx2(x: &[f32], w: &[f32], k: usize, acc: &mut [f32]) {
    // SAFETY: the caller's promise.
    unsafe { rows::<Ymm2, 2, 2, 2>(x, w, k, acc) }
}

/// # Safety
/// As [`rows`], on a CPU with AVX-512F.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn tile_avx512(x: &[f32], w: &[f32], k: usize, acc: &mut [f32]) {
    // SAFETY: the caller's promise.
    unsafe { rows::<Zmm, 4, 2, 4>(x, w, k, acc) }
}

/// All of a tile's activation rows: `M` at a time, then `M2`, then one.
///
/// # Safety
/// `k` is whole lanes, `x` is `[m, k]`, `w` is `[TILE, k]`, `acc` is `[m, TILE, LANES]`, `N` divides `TILE`, and the
/// CPU has the instruction set of `S`.
#[inline(always)]
unsafe fn rows<S: Simd, const M: usize, const M2: usize, const N: usize>(
    x: &[f32],
    w: &[f32],
    k: usize,
    acc: &mut [f32],
) {
    let m = x.len() / k;
    let mut t = 0;
    while t < m {
        // SAFETY: row t exists, so the pointers are in bounds, and each call below reads `step <= m - t` rows.
        unsafe {
            let (x, acc) = (x.as_ptr().add(t * k), acc.as_mut_ptr().add(t * TILE * LANES));
            if m - t >= M {
                columns::<S, M, N>(x, w.as_ptr(), k, acc);
                t += M;
            } else if m - t >= M2 {
                columns::<S, M2, N>(x, w.as_ptr(), k, acc);
                t += M2;
            } else {
                columns::<S, 1, N>(x, w.as_ptr(), k, acc);
                t += 1;
            }
        }
    }
}

/// `M` activation rows and all four weight rows, `N` of these at a time.
///
/// # Safety
/// `x` is readable for `M * k` floats, `w` for `TILE * k`, `acc` is read- and writable for `M * TILE * LANES`, `k` is
/// whole lanes, `N` divides `TILE`, and the CPU has the instruction set of `S`.
#[inline(always)]
unsafe fn columns<S: Simd, const M: usize, const N: usize>(
    x: *const f32,
    w: *const f32,
    k: usize,
    acc: *mut f32,
) {
    let mut n = 0;
    while n < TILE {
        // SAFETY: in bounds by the function's contract: m < M, n + j < TILE, i + LANES <= k.
        unsafe {
            let mut sums = [[S::load(acc); N]; M];
            for (m, row) in sums.iter_mut().enumerate() {
                for (j, sum) in row.iter_mut().enumerate() {
                    *sum = S::load(acc.add((m * TILE + n + j) * LANES));
                }
            }
            let mut i = 0;
            while i < k {
                let mut ws = [S::load(w.add(n * k + i)); N];
                for (j, v) in ws.iter_mut().enumerate().skip(1) {
                    *v = S::load(w.add((n + j) * k + i));
                }
                for (m, row) in sums.iter_mut().enumerate() {
                    let xs = S::load(x.add(m * k + i));
                    for (sum, v) in row.iter_mut().zip(ws) {
                        *sum = sum.mul_then_add(xs, v);
                    }
                }
                i += LANES;
            }
            for (m, row) in sums.iter().enumerate() {
                for (j, sum) in row.iter().enumerate() {
                    sum.store(acc.add((m * TILE + n + j) * LANES));
                }
            }
        }
        n += N;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: u32, n: usize) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    fn dot(x: &[f32], w: &[f32]) -> f32 {
        let mut lanes = [0.0; LANES];
        for (k, (x, w)) in x.iter().zip(w).enumerate() {
            lanes[k % LANES] += x * w;
        }
        for distance in [8, 4, 2, 1] {
            for lane in 0..distance {
                lanes[lane] += lanes[lane + distance];
            }
        }
        lanes[0]
    }

    fn reduced(isa: Isa, acc: &[f32]) -> Vec<f32> {
        // A row of TILE sums, then one element that must stay.
        let m = acc.len() / (TILE * LANES);
        let mut out = vec![7.0; m * (TILE + 1)];
        isa.reduce(acc, &mut out, TILE + 1);
        assert!(out.chunks(TILE + 1).all(|row| row[TILE] == 7.0));
        out.chunks(TILE + 1).flat_map(|row| row[..TILE].to_vec()).collect()
    }

    #[test]
    fn every_path_and_every_tile_height_gives_the_defined_sum() {
        for k in [16, 32, 80, 512] {
            for m in 0..=11 {
                let (x, w) = (noise(1, m * k), noise(2, TILE * k));
                for &isa in Isa::available() {
                    let mut acc = vec![0.0; m * TILE * LANES];
                    isa.tile(&x, &w, k, &mut acc);
                    let sums = reduced(isa, &acc);
                    for t in 0..m {
                        for n in 0..TILE {
                            let got = sums[t * TILE + n];
                            let want = dot(&x[t * k..][..k], &w[n * k..][..k]);
                            assert_eq!(got.to_bits(), want.to_bits(), "{isa:?} k={k} m={m} t={t} n={n}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn cutting_k_changes_nothing() {
        let (k, x, w) = (128, noise(3, 128), noise(4, TILE * 128));
        for &isa in Isa::available() {
            let mut acc = vec![0.0; TILE * LANES];
            for part in 0..2 {
                let half: Vec<f32> = (0..TILE).flat_map(|n| w[n * k + part * 64..][..64].to_vec()).collect();
                isa.tile(&x[part * 64..][..64], &half, 64, &mut acc);
            }
            for (n, got) in reduced(isa, &acc).iter().enumerate() {
                assert_eq!(got.to_bits(), dot(&x, &w[n * k..][..k]).to_bits());
            }
        }
    }
}
