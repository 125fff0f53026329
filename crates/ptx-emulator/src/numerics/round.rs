//! From exact integers to f32 bits.

/// The NaN that tensor cores write.
pub const CANONICAL_NAN: u32 = 0x7fff_ffff;

/// `value * 2^exp` truncated toward zero to `bits` significant bits (24 = all of f32), as f32 bits.
/// Subnormals are kept, zero is +0, overflow is infinite.
pub fn toward_zero(value: i128, exp: i32, bits: u32) -> u32 {
    if value == 0 {
        return 0;
    }
    let sign = if value < 0 { 0x8000_0000 } else { 0 };
    let magnitude = value.unsigned_abs();
    // Exponent of the leading one.
    let lead = 127 - magnitude.leading_zeros() as i32 + exp;
    if lead > 127 {
        return sign | 0x7f80_0000;
    }
    let shift_left =
        |m: u128, s: i32| if s >= 0 { m << s } else { m.checked_shr(s.unsigned_abs()).unwrap_or(0) };
    if lead >= -126 {
        let mantissa = shift_left(magnitude, exp - lead + 23) as u32 & 0x007f_ffff;
        let mantissa = mantissa & !((1u32 << (24 - bits)) - 1);
        sign | ((lead + 127) as u32) << 23 | mantissa
    } else {
        let mantissa = shift_left(magnitude, exp + 149) as u32;
        if mantissa == 0 { 0 } else { sign | mantissa }
    }
}

/// `value * 2^exp` rounded to nearest even, as f32 bits. Zero is +0.
pub fn to_nearest(value: i128, exp: i32) -> u32 {
    if value == 0 {
        return 0;
    }
    let sign = if value < 0 { 0x8000_0000u32 } else { 0 };
    let magnitude = value.unsigned_abs();
    let lead = 127 - magnitude.leading_zeros() as i32 + exp;
    if lead > 127 {
        return sign | 0x7f80_0000;
    }
    // Unit in the last place of the result.
    let ulp = (lead - 23).max(-149);
    let shift = ulp - exp;
    let rounded = if shift <= 0 {
        magnitude << -shift
    } else if shift > 127 {
        0
    } else {
        let (q, half) = (magnitude >> shift, 1u128 << (shift - 1));
        let rest = magnitude & ((1u128 << shift) - 1);
        q + u128::from(rest > half || (rest == half && q & 1 == 1))
    };
    // A carry into the next binade is right by construction of the encoding.
    let base = if lead >= -126 { ((lead + 126) as u32) << 23 } else { 0 };
    sign | (base + rounded as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_f64_conversion() {
        let mut x = 1u64;
        for _ in 0..20_000 {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let value = (x >> 12) as i64 - (1 << 51);
            let exp = (x % 200) as i32 - 180;
            let exact = value as f64 * 2f64.powi(exp);
            assert_eq!(to_nearest(i128::from(value), exp), (exact as f32).to_bits(), "{value} {exp}");
            let rz = f32::from_bits(toward_zero(i128::from(value), exp, 24));
            assert!(f64::from(rz).abs() <= exact.abs());
            assert!(
                (f64::from(rz) - exact).abs()
                    <= (f64::from(exact as f32) - exact).abs() * 2.0 + exact.abs() * 1.2e-7 + 1.5e-45
            );
        }
    }
}
