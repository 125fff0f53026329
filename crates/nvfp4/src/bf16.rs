//! bfloat16 bit conversions. (`half` does the same on the host; the kernels need no dependency this way.)

/// Exact widening of bfloat16 bits to f32.
#[inline(always)]
pub const fn to_f32(bits: u16) -> f32 {
    f32::from_bits((bits as u32) << 16)
}

/// f32 to bfloat16 bits, round to nearest, ties to even; NaN becomes the quiet NaN `0x7FFF`
/// (`cvt.rn.bf16.f32`, PTX ISA 9.7.9.22: a NaN input gives the canonical NaN).
#[inline(always)]
pub const fn from_f32(x: f32) -> u16 {
    let bits = x.to_bits();
    if bits & 0x7fff_ffff > 0x7f80_0000 {
        return 0x7fff;
    }
    // Adding 0x7fff plus the lowest kept bit carries into the kept half exactly when RNE rounds up.
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

/// `x` rounded to bfloat16 and widened again.
#[inline(always)]
pub const fn round(x: f32) -> f32 {
    to_f32(from_f32(x))
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_pattern_round_trips() {
        for b in 0..=u16::MAX {
            let f = super::to_f32(b);
            let back = super::from_f32(f);
            if f.is_nan() {
                assert_eq!(back, 0x7fff);
            } else {
                assert_eq!(back, b);
            }
        }
    }

    #[test]
    fn rounding_agrees_with_half() {
        let mut bits = 0u32;
        loop {
            let f = f32::from_bits(bits);
            if !f.is_nan() {
                assert_eq!(super::from_f32(f), half::bf16::from_f32(f).to_bits(), "{f:e}");
            }
            let (next, wrapped) = bits.overflowing_add(4093);
            if wrapped {
                break;
            }
            bits = next;
        }
    }
}
