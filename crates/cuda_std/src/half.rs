//! f16 pairs and conversions, the same on the device and on the host (PTX ISA, Half Precision Floating-Point
//! Instructions; Data Movement and Conversion: cvt). A pair is a word with element 0 in the low half.

#[cfg(target_arch = "nvptx64")]
macro_rules! pure_asm {
    ($out:ty, $text:expr, $($operand:tt)*) => {{
        let d: $out;
        // SAFETY: pure arithmetic on registers.
        unsafe {
            core::arch::asm!($text, lateout(reg32) d, $($operand)*, options(pure, nomem, nostack, preserves_flags));
        }
        d
    }};
}

/// Both halves times both halves, each rounded to nearest even, subnormals kept (`mul.rn.f16x2`).
#[inline(always)]
pub fn mul_f16x2(a: u32, b: u32) -> u32 {
    #[cfg(target_arch = "nvptx64")]
    return pure_asm!(u32, "mul.rn.f16x2 {0}, {1}, {2};", in(reg32) a, in(reg32) b);
    #[cfg(not(target_arch = "nvptx64"))]
    {
        let half = |shift: u32| {
            let [x, y] = [a, b].map(|w| f32_from_f16((w >> shift) as u16));
            // Exact in f32: 22 significant bits, and far inside its exponent range.
            u32::from(f16_from_f32(x * y))
        };
        half(16) << 16 | half(0)
    }
}

/// Both halves of `a` times the low half of `b` (`mul.rn.f16x2`; the machine code selects the half for free).
#[inline(always)]
pub fn mul_f16x2_low(a: u32, b: u32) -> u32 {
    #[cfg(target_arch = "nvptx64")]
    return pure_asm!(u32, "{{ .reg .b16 l, h; .reg .b32 p; mov.b32 {{l, h}}, {2}; mov.b32 p, {{l, l}}; mul.rn.f16x2 {0}, {1}, p; }}",
        in(reg32) a, in(reg32) b);
    #[cfg(not(target_arch = "nvptx64"))]
    mul_f16x2(a, (b & 0xffff) | b << 16)
}

/// Both halves of `a` times the high half of `b` (`mul.rn.f16x2`).
#[inline(always)]
pub fn mul_f16x2_high(a: u32, b: u32) -> u32 {
    #[cfg(target_arch = "nvptx64")]
    return pure_asm!(u32, "{{ .reg .b16 l, h; .reg .b32 p; mov.b32 {{l, h}}, {2}; mov.b32 p, {{h, h}}; mul.rn.f16x2 {0}, {1}, p; }}",
        in(reg32) a, in(reg32) b);
    #[cfg(not(target_arch = "nvptx64"))]
    mul_f16x2(a, (b & 0xffff_0000) | b >> 16)
}

/// The two E4M3 bytes of the low half of `pair` as f16, exactly; NaN stays NaN (`cvt.rn.f16x2.e4m3x2`).
#[inline(always)]
pub fn f16x2_from_e4m3x2_low(pair: u32) -> u32 {
    #[cfg(target_arch = "nvptx64")]
    return pure_asm!(u32, "{{ .reg .b16 l, h; mov.b32 {{l, h}}, {1}; cvt.rn.f16x2.e4m3x2 {0}, l; }}", in(reg32) pair);
    #[cfg(not(target_arch = "nvptx64"))]
    {
        f16_from_e4m3(pair as u8) | f16_from_e4m3((pair >> 8) as u8) << 16
    }
}

/// The same for the high half.
#[inline(always)]
pub fn f16x2_from_e4m3x2_high(pair: u32) -> u32 {
    #[cfg(target_arch = "nvptx64")]
    return pure_asm!(u32, "{{ .reg .b16 l, h; mov.b32 {{l, h}}, {1}; cvt.rn.f16x2.e4m3x2 {0}, h; }}", in(reg32) pair);
    #[cfg(not(target_arch = "nvptx64"))]
    f16x2_from_e4m3x2_low(pair >> 16)
}

/// Two f32 rounded to f16, nearest even; NaN becomes `0x7FFF` (`cvt.rn.f16x2.f32`).
#[inline(always)]
pub fn f16x2_from_f32(low: f32, high: f32) -> u32 {
    #[cfg(target_arch = "nvptx64")]
    return pure_asm!(u32, "cvt.rn.f16x2.f32 {0}, {1}, {2};", in(reg32) high, in(reg32) low);
    #[cfg(not(target_arch = "nvptx64"))]
    {
        u32::from(f16_from_f32(high)) << 16 | u32::from(f16_from_f32(low))
    }
}

/// Two f32 rounded to bf16, nearest even; NaN becomes `0x7FFF` (`cvt.rn.bf16x2.f32`).
#[inline(always)]
pub fn bf16x2_from_f32(low: f32, high: f32) -> u32 {
    #[cfg(target_arch = "nvptx64")]
    return pure_asm!(u32, "cvt.rn.bf16x2.f32 {0}, {1}, {2};", in(reg32) high, in(reg32) low);
    #[cfg(not(target_arch = "nvptx64"))]
    {
        let round = |x: f32| {
            let bits = x.to_bits();
            if x.is_nan() { 0x7fff } else { (bits + 0x7fff + (bits >> 16 & 1)) >> 16 }
        };
        round(high) << 16 | round(low)
    }
}

/// f16 bits of one E4M3 byte.
#[cfg(not(target_arch = "nvptx64"))]
fn f16_from_e4m3(byte: u8) -> u32 {
    let (sign, exponent, mantissa) =
        (u32::from(byte) >> 7 << 15, i32::from(byte >> 3 & 15), f32::from(byte & 7));
    if byte & 0x7f == 0x7f {
        return sign | 0x7fff;
    }
    let magnitude = match exponent {
        0 => mantissa * (-9f32).exp2(),
        e => (1.0 + mantissa / 8.0) * ((e - 7) as f32).exp2(),
    };
    sign | u32::from(f16_from_f32(magnitude))
}

/// The exact f32 of f16 bits.
#[cfg(not(target_arch = "nvptx64"))]
pub fn f32_from_f16(bits: u16) -> f32 {
    let (sign, exponent, mantissa) = (u32::from(bits) >> 15 << 31, bits >> 10 & 31, u32::from(bits & 1023));
    let magnitude = match exponent {
        0 => mantissa as f32 * (1.0 / (1u32 << 24) as f32),
        31 => f32::from_bits(0x7f80_0000 | mantissa << 13),
        e => f32::from_bits((u32::from(e) + 112) << 23 | mantissa << 13),
    };
    f32::from_bits(sign | magnitude.to_bits())
}

/// f32 to f16 bits, nearest even; NaN becomes `0x7FFF`.
#[cfg(not(target_arch = "nvptx64"))]
pub fn f16_from_f32(x: f32) -> u16 {
    if x.is_nan() {
        return 0x7fff;
    }
    let sign = (x.to_bits() >> 31 << 15) as u16;
    let x = x.abs();
    if x >= 65520.0 {
        return sign | 0x7c00;
    }
    // A sum whose unit in the last place is that of the f16 rounds to it; 2^-14 is the smallest normal.
    let exponent = (x.to_bits() >> 23).max(113);
    let magic = f32::from_bits((exponent + 13) << 23);
    let steps = (x + magic).to_bits() - magic.to_bits();
    sign | (((exponent - 113) << 10) + steps) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_survives_the_way_through_f32() {
        for bits in 0..=u16::MAX {
            let x = f32_from_f16(bits);
            let back = f16_from_f32(x);
            assert!(back == bits || (x.is_nan() && back == 0x7fff), "{bits:#x} {x} {back:#x}");
        }
    }

    #[test]
    fn f16_rounds_to_the_nearest_even() {
        for bits in 0..0x7bffu16 {
            let (low, high) = (f32_from_f16(bits), f32_from_f16(bits + 1));
            let middle = (low + high) / 2.0;
            let even = if bits % 2 == 0 { bits } else { bits + 1 };
            assert_eq!(f16_from_f32(middle), even, "{middle:e}");
            assert_eq!(f16_from_f32(f32::from_bits(middle.to_bits() - 1)), bits);
            assert_eq!(f16_from_f32(f32::from_bits(middle.to_bits() + 1)), bits + 1);
        }
        assert_eq!([65519.9, 65520.0, -1e9, 1e-30].map(f16_from_f32), [0x7bff, 0x7c00, 0xfc00, 0]);
    }

    #[test]
    fn e4m3_pairs_are_exact() {
        assert_eq!(f16x2_from_e4m3x2_low(0x7e38), 0x5f00_3c00);
        assert_eq!(f16x2_from_e4m3x2_high(0x0138_aaaa), 0x1800_3c00);
        assert!(f32_from_f16(f16x2_from_e4m3x2_low(0x7f) as u16).is_nan());
    }

    #[test]
    fn halves_are_multiplied_apart() {
        // 2 * 3 and -1.5 * 0.5.
        assert_eq!(mul_f16x2(0xbe00_4000, 0x3800_4200), 0xba00_4600);
        assert_eq!(mul_f16x2_low(0x4000_3c00, 0x7bff_4200), 0x4600_4200);
        assert_eq!(mul_f16x2_high(0x4000_3c00, 0x4200_7bff), 0x4600_4200);
        assert_eq!(bf16x2_from_f32(1.0, f32::NAN), 0x7fff_3f80);
        assert_eq!(f16x2_from_f32(1.0, -2.0), 0xc000_3c00);
    }
}
