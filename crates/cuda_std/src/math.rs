//! Scalar operations that stable `core` does not name, the same on the device and on the host.

/// `a * b + c`, rounded once to nearest even (`fma.rn.f32`).
///
/// Never written by the compiler on its own: the device build does not contract `a * b + c`.
#[inline(always)]
pub fn fma(a: f32, b: f32, c: f32) -> f32 {
    #[cfg(target_arch = "nvptx64")]
    // SAFETY: pure arithmetic.
    return unsafe { crate::nvvm::fma_rn(a, b, c) };
    #[cfg(not(target_arch = "nvptx64"))]
    return a.mul_add(b, c);
}

/// Correctly rounded square root; negative numbers give NaN (`sqrt.rn.f32`).
#[inline(always)]
pub fn sqrt(x: f32) -> f32 {
    #[cfg(target_arch = "nvptx64")]
    // SAFETY: pure arithmetic.
    return unsafe { crate::nvvm::sqrt_rn(x) };
    #[cfg(not(target_arch = "nvptx64"))]
    return x.sqrt();
}

/// The smaller of two, NaN if either is NaN, -0 below +0 (`min.NaN.f32`).
#[inline(always)]
pub fn min_nan(a: f32, b: f32) -> f32 {
    #[cfg(target_arch = "nvptx64")]
    // SAFETY: pure arithmetic.
    return unsafe { crate::nvvm::minimum(a, b) };
    #[cfg(not(target_arch = "nvptx64"))]
    return if a.is_nan() || b.is_nan() {
        f32::NAN
    } else if a < b || (a == b && a.is_sign_negative()) {
        a
    } else {
        b
    };
}

/// The larger of two, NaN if either is NaN, +0 above -0 (`max.NaN.f32`).
#[inline(always)]
pub fn max_nan(a: f32, b: f32) -> f32 {
    #[cfg(target_arch = "nvptx64")]
    // SAFETY: pure arithmetic.
    return unsafe { crate::nvvm::maximum(a, b) };
    #[cfg(not(target_arch = "nvptx64"))]
    return if a.is_nan() || b.is_nan() {
        f32::NAN
    } else if a > b || (a == b && a.is_sign_positive()) {
        a
    } else {
        b
    };
}

/// Larger of the two 16-bit halves, each for itself, unsigned (`max.u16x2`, sm_90+).
#[inline(always)]
pub fn max_u16x2(a: u32, b: u32) -> u32 {
    #[cfg(target_arch = "nvptx64")]
    {
        let d: u32;
        // SAFETY: pure arithmetic.
        unsafe {
            core::arch::asm!("max.u16x2 {}, {}, {};",
                lateout(reg32) d, in(reg32) a, in(reg32) b, options(pure, nomem, nostack, preserves_flags));
        }
        d
    }
    #[cfg(not(target_arch = "nvptx64"))]
    {
        (a >> 16).max(b >> 16) << 16 | (a & 0xffff).max(b & 0xffff)
    }
}

/// Smaller of the two 16-bit halves, each for itself, unsigned (`min.u16x2`, sm_90+).
#[inline(always)]
pub fn min_u16x2(a: u32, b: u32) -> u32 {
    #[cfg(target_arch = "nvptx64")]
    {
        let d: u32;
        // SAFETY: pure arithmetic.
        unsafe {
            core::arch::asm!("min.u16x2 {}, {}, {};",
                lateout(reg32) d, in(reg32) a, in(reg32) b, options(pure, nomem, nostack, preserves_flags));
        }
        d
    }
    #[cfg(not(target_arch = "nvptx64"))]
    {
        (a >> 16).min(b >> 16) << 16 | (a & 0xffff).min(b & 0xffff)
    }
}

/// Four bytes of the eight of `b:a`, byte `i` of the result being the one numbered by nibble `i` of `selector`
/// (`prmt.b32`). Nibbles are below 8: sign replication is not offered.
#[inline(always)]
pub fn prmt(a: u32, b: u32, selector: u32) -> u32 {
    debug_assert!(selector & 0xffff_8888 == 0);
    #[cfg(target_arch = "nvptx64")]
    // SAFETY: pure arithmetic.
    return unsafe { crate::nvvm::prmt(a, b, selector) };
    #[cfg(not(target_arch = "nvptx64"))]
    {
        let bytes = (u64::from(b) << 32 | u64::from(a)).to_le_bytes();
        u32::from_le_bytes(core::array::from_fn(|i| bytes[(selector >> (4 * i) & 7) as usize]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_independent() {
        assert_eq!(max_u16x2(0x0001_ffff, 0x0002_0000), 0x0002_ffff);
        assert_eq!(max_u16x2(0x8000_0001, 0x7fff_0002), 0x8000_0002);
    }

    #[test]
    fn prmt_picks_bytes() {
        assert_eq!(prmt(0x4433_2211, 0x8877_6655, 0x3210), 0x4433_2211);
        assert_eq!(prmt(0x4433_2211, 0x8877_6655, 0x7531), 0x8866_4422);
    }

    #[test]
    fn minimum_and_maximum_keep_nan_and_order_zeros() {
        for (a, b) in [(1.0, 2.0), (-0.0, 0.0), (f32::NEG_INFINITY, 3.0)] {
            for (x, y) in [(a, b), (b, a)] {
                assert_eq!((min_nan(x, y).to_bits(), max_nan(x, y).to_bits()), (a.to_bits(), b.to_bits()));
            }
        }
        assert!(min_nan(f32::NAN, 1.0).is_nan() && max_nan(1.0, f32::NAN).is_nan());
    }

    #[test]
    fn fma_rounds_once() {
        let x = 1.0 + f32::EPSILON;
        assert_eq!(fma(x, x, -(1.0 + 2.0 * f32::EPSILON)), f32::EPSILON * f32::EPSILON);
    }
}
