//! `exp`, `ln_1p` and `sqrt` in plain binary32 arithmetic.
//!
//! Why not the platform's: glibc, LLVM's libm and `ex2.approx` all differ in the last bits, and a value that
//! differs in the last bit can quantise to another E2M1 code. These use only `+ - * /` (round to nearest),
//! each a separate operation, so host and device agree bit for bit. No fused multiply-add anywhere: PTX must
//! be emitted with explicit `.rn`, which `ptxas` never contracts (checked by the PTX lint).

/// log2(e).
const LOG2_E: f32 = core::f32::consts::LOG2_E;
/// ln 2 rounded to 16 significant bits, so that `n * LN2_HI` is exact for |n| <= 256.
const LN2_HI: f32 = 0.693_145_75;
/// ln 2 - LN2_HI.
const LN2_LO: f32 = 1.428_606_8e-6;
/// 1.5 * 2^23: adding and subtracting it rounds to the nearest integer.
const ROUND_MAGIC: f32 = 12_582_912.0;

/// 2^n for -126 <= n <= 127, from bits.
#[inline(always)]
const fn exp2i(n: i32) -> f32 {
    f32::from_bits(((n + 127) as u32) << 23)
}

/// e^x within 0.99 ulp of the true value (over every f32, like the other bounds here: see `tests/math.rs`).
/// Overflows to +inf above 88.72, underflows gradually to 0 below -103.97, NaN stays NaN.
///
/// Reduction `x = n ln2 + r`, |r| <= 0.35, with ln 2 in two parts; the degree-6 Taylor-like minimax
/// polynomial of Cephes `expf` for e^r; the scaling by 2^n in two exact steps so that results down to the
/// subnormals round once.
#[inline(always)]
pub const fn exp(x: f32) -> f32 {
    if x > 88.722_84 {
        return f32::INFINITY;
    }
    if x.is_nan() {
        return x;
    }
    if x < -104.0 {
        return 0.0;
    }
    let shifted = x * LOG2_E + ROUND_MAGIC;
    let n = shifted - ROUND_MAGIC;
    let r = (x - n * LN2_HI) - n * LN2_LO;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_6e-1;
    p = p * r + 0.5;
    let e = p * (r * r) + r + 1.0;
    let n = n as i32;
    // n is in -150..=128; halves are in range of exp2i, and only the second product can round.
    let half = n / 2;
    e * exp2i(half) * exp2i(n - half)
}

/// ln(1 + y) for 0 <= y <= 1, within 1.97 ulp, full relative accuracy for tiny y. NaN stays NaN.
///
/// `2 atanh(s)` with `s = y / (2 + y)` in 0..=1/3, by its series to s^17.
#[inline(always)]
pub const fn ln_1p_unit(y: f32) -> f32 {
    let s = y / (2.0 + y);
    let z = s * s;
    let mut p = 1.0 / 17.0;
    p = p * z + 1.0 / 15.0;
    p = p * z + 1.0 / 13.0;
    p = p * z + 1.0 / 11.0;
    p = p * z + 1.0 / 9.0;
    p = p * z + 1.0 / 7.0;
    p = p * z + 1.0 / 5.0;
    p = p * z + 1.0 / 3.0;
    let twice = s + s;
    twice * (p * z) + twice
}

/// Correctly rounded square root. Negative inputs give NaN, `sqrt(-0) = -0`.
///
/// An integer digit recurrence, so that `no_std` hosts, const evaluation and kernels agree by definition; it
/// runs once per expert score, never per weight.
#[inline]
pub const fn sqrt(x: f32) -> f32 {
    let bits = x.to_bits();
    if bits == 0 || bits == 0x8000_0000 || bits == 0x7f80_0000 {
        return x;
    }
    if bits > 0x7f80_0000 {
        return f32::from_bits(0x7fc0_0000);
    }
    let mut exp = (bits >> 23) as i32;
    let mut man = bits & 0x007f_ffff;
    if exp == 0 {
        let shift = man.leading_zeros() as i32 - 8;
        man <<= shift;
        exp = 1 - shift;
    } else {
        man |= 0x0080_0000;
    }
    // x = man * 2^(exp - 150), man in [2^23, 2^24). Make the exponent even and widen to 2*25 bits so that
    // the integer root has 25 bits: 24 and a round bit.
    let mut e = exp - 150;
    let mut m = man as u64;
    if e & 1 != 0 {
        m <<= 1;
        e -= 1;
    }
    m <<= 26;
    e -= 26;
    let mut root = 0u64;
    let mut rem = m;
    let mut bit = 1u64 << 50;
    while bit > rem {
        bit >>= 2;
    }
    while bit != 0 {
        if rem >= root + bit {
            rem -= root + bit;
            root = (root >> 1) + bit;
        } else {
            root >>= 1;
        }
        bit >>= 2;
    }
    // root has 25 or 26 bits; drop to 24 with round to nearest. A tie is impossible unless exact.
    let drop = (64 - root.leading_zeros() as i32) - 24;
    let half = 1u64 << (drop - 1);
    let low = root & ((1 << drop) - 1);
    let mut q = root >> drop;
    if low > half || (low == half && (rem != 0 || q & 1 == 1)) {
        q += 1;
    }
    let mut qe = e / 2 + drop;
    if q == 1 << 24 {
        q >>= 1;
        qe += 1;
    }
    f32::from_bits((((qe + 150) as u32) << 23) | (q as u32 & 0x007f_ffff))
}

/// `1 / (1 + e^-x)`, within 2.49 ulp; 0 from -88.73 down, where the true value is below 2.9e-39.
#[inline(always)]
pub const fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `ln(1 + e^x)` in the stable form `max(x, 0) + ln_1p(e^-|x|)`, within 2.8 ulp.
#[inline(always)]
pub const fn softplus(x: f32) -> f32 {
    let abs = f32::from_bits(x.to_bits() & 0x7fff_ffff);
    let tail = ln_1p_unit(exp(-abs));
    if x > 0.0 { x + tail } else { tail }
}

/// `sqrt(ln(1 + e^x))`, within 1.9 ulp, subnormal results (below -174) included.
///
/// Below -18, `ln(1 + e^x)` is `e^x` to 2^-27, so the root is `e^(x/2)`. It is taken that way there because `e^x`
/// is subnormal from -87.3 on and 0 from -104 on while its root is not: a token whose logits are all that low
/// would otherwise lose its routing weights.
#[inline(always)]
pub const fn sqrt_softplus(x: f32) -> f32 {
    if x < -18.0 { exp(0.5 * x) } else { sqrt(softplus(x)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ulps(got: f32, want: f64) -> f64 {
        let w = want as f32;
        if !w.is_finite() || w == 0.0 {
            return if got == w { 0.0 } else { f64::INFINITY };
        }
        let ulp = f64::from(f32::from_bits(w.abs().to_bits() + 1)) - f64::from(w.abs());
        (f64::from(got) - want).abs() / ulp
    }

    #[test]
    fn exp_is_accurate() {
        let mut worst = (0.0, 0.0);
        let mut x = -103.0f32;
        while x < 88.7 {
            let err = ulps(exp(x), f64::from(x).exp());
            if err > worst.0 {
                worst = (err, x);
            }
            x += 0.000_731;
        }
        assert!(worst.0 <= 0.99, "{worst:?}");
    }

    #[test]
    fn exp_edges() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-0.0), 1.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(89.0), f32::INFINITY);
        assert_eq!(exp(-1e30), 0.0);
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(88.722).is_finite());
        assert!(exp(-103.9) > 0.0);
    }

    #[test]
    fn ln_1p_is_accurate() {
        let mut worst = (0.0, 0.0);
        let mut y = 1.0f32;
        while y > 1e-40 {
            let err = ulps(ln_1p_unit(y), f64::from(y).ln_1p());
            if err > worst.0 {
                worst = (err, y);
            }
            y *= 0.999_87;
        }
        assert!(worst.0 <= 1.97, "{worst:?}");
        assert_eq!(ln_1p_unit(0.0), 0.0);
    }

    #[test]
    fn sqrt_is_correctly_rounded() {
        let mut bits = 0u32;
        while bits < 0x7f80_0000 {
            let x = f32::from_bits(bits);
            assert_eq!(sqrt(x).to_bits(), x.sqrt().to_bits(), "{x:e}");
            bits += 997;
        }
        for bits in (0..4096).chain(0x007f_f000..0x0080_1000).chain(0x7f7f_f000..=0x7f80_0000) {
            let x = f32::from_bits(bits);
            assert_eq!(sqrt(x).to_bits(), x.sqrt().to_bits(), "{x:e}");
        }
        assert!(sqrt(-1.0).is_nan());
        assert!(sqrt(f32::NAN).is_nan());
        assert_eq!(sqrt(-0.0).to_bits(), (-0.0f32).to_bits());
    }

    #[test]
    fn softplus_never_loses_the_tail() {
        let mut x = -80.0f32;
        while x < 80.0 {
            let want = f64::from(x).max(0.0) + (-f64::from(x).abs()).exp().ln_1p();
            assert!(ulps(softplus(x), want) <= 2.8, "{x}");
            x += 0.013;
        }
        assert!(softplus(f32::NAN).is_nan());
        assert_eq!(softplus(f32::INFINITY), f32::INFINITY);
        assert_eq!(softplus(f32::NEG_INFINITY), 0.0);
    }
}
