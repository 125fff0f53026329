//! Clamped SwiGLU.

use crate::math;

/// `silu(gate) = gate / (1 + e^-gate)`, within 2.41 ulp; -0 from -88.73 down, where the true value is above -2.6e-37.
/// NaN stays NaN, and -infinity gives NaN (`-inf / inf`).
#[inline(always)]
pub const fn silu(gate: f32) -> f32 {
    // exp(-gate) overflows to +inf for gate < -88.7, and gate / inf = -0: the right limit.
    gate / (1.0 + math::exp(-gate))
}

/// DeepSeek-V4's clamped SwiGLU: `silu(min(gate, limit)) * clamp(up, -limit, limit)`.
///
/// The clamp comes *before* SiLU, and the gate has no lower clamp (DeepSeek-V4 `inference/model.py`, `Expert`).
/// `gate` and `up` are the accumulators *after* their own alphas; `limit = f32::INFINITY` means no clamp.
/// NaN in either input gives NaN (comparisons, not `min`/`max`, which would drop it).
#[inline(always)]
pub const fn swiglu(gate: f32, up: f32, limit: f32) -> f32 {
    let gate = if gate > limit { limit } else { gate };
    let up = if up > limit {
        limit
    } else if up < -limit {
        -limit
    } else {
        up
    };
    silu(gate) * up
}

/// Largest magnitude of `silu` on the negative axis, `-silu(-1.278...)`, rounded up.
pub const SILU_MIN_MAGNITUDE: f32 = 0.278_464_6;

/// The constant global scale of L2's activations under the policy `Bound`: the clamp bounds `|silu|` by
/// `limit` above 0 and by 0.2785 below (where the gate is not clamped), and `|up|` by `limit`, so
/// `limit * max(limit, 0.2785) / 2688` can never overflow a block scale, whatever the data. For any
/// `limit >= 0.2785` that is `limit^2 / 2688`. Meaningless without a clamp.
#[inline(always)]
pub const fn bound_scale(limit: f32) -> f32 {
    let silu_bound = if limit > SILU_MIN_MAGNITUDE { limit } else { SILU_MIN_MAGNITUDE };
    limit * silu_bound / crate::GLOBAL_RANGE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clamp_is_before_silu_and_one_sided() {
        // At limit 1 the two orders differ: silu(1) = 0.731, while min(silu(5), 1) = 1.
        assert!((swiglu(5.0, 1.0, 1.0) - 0.731_058_6).abs() < 1e-6);
        // No lower clamp on the gate.
        assert!((swiglu(-5.0, 1.0, 1.0) - silu(-5.0)).abs() == 0.0);
        assert_eq!(swiglu(0.5, 9.0, 2.0), silu(0.5) * 2.0);
        assert_eq!(swiglu(0.5, -9.0, 2.0), silu(0.5) * -2.0);
    }

    #[test]
    fn nan_is_kept() {
        assert!(swiglu(f32::NAN, 1.0, 10.0).is_nan());
        assert!(swiglu(1.0, f32::NAN, 10.0).is_nan());
    }

    #[test]
    fn no_limit() {
        assert_eq!(swiglu(20.0, 30.0, f32::INFINITY), silu(20.0) * 30.0);
        assert_eq!(silu(-200.0), 0.0);
    }

    #[test]
    fn bound_really_bounds() {
        for limit in [0.1f32, 1.0, 7.0, 10.0] {
            let mut g = -40.0f32;
            while g < 40.0 {
                assert!(
                    swiglu(g, 1e9, limit).abs() <= bound_scale(limit) * crate::GLOBAL_RANGE * (1.0 + 1e-6)
                );
                g += 0.01;
            }
        }
    }
}
