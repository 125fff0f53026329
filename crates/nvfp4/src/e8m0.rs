//! E8M0: an unsigned power-of-two scale `2^(code - 127)`; 0xFF is NaN. Used by MXFP4 and by 128x128 FP8 blocks.

/// Exact value of a code; code 0 is 2^-127 (an f32 subnormal), 0xFF is NaN.
#[inline(always)]
pub const fn decode(code: u8) -> f32 {
    match code {
        0xff => f32::NAN,
        0 => f32::from_bits(0x0040_0000),
        c => f32::from_bits((c as u32) << 23),
    }
}

/// The code of a positive power of two in range, else `None`.
#[inline]
pub const fn encode(x: f32) -> Option<u8> {
    let bits = x.to_bits();
    if bits == 0x0040_0000 {
        return Some(0);
    }
    if bits & 0x807f_ffff != 0 || bits == 0 || bits >= 0x7f80_0000 {
        return None;
    }
    Some((bits >> 23) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_codes() {
        for c in 0..=254u8 {
            assert_eq!(f64::from(decode(c)), 2f64.powi(i32::from(c) - 127));
            assert_eq!(encode(decode(c)), Some(c));
        }
        assert!(decode(255).is_nan());
        for x in [0.0, -1.0, 1.5, f32::INFINITY, f32::NAN] {
            assert_eq!(encode(x), None);
        }
    }
}
