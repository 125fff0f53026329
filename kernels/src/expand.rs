//! A packed word of eight E2M1 codes and a pair of E4M3 scales to the f16 A fragment of one k16 step.
//!
//! The bits of an E2M1 code are those of an f16: with the sign at bit 15, the exponent at 11..10 and the mantissa at 9
//! they say the value times 2^-14, 0.5 as a subnormal included. So a value needs its bits in place and no table. Every
//! register of the fragment is a mask away from the word, shifted for three of four: a multiplication, which is another
//! pipe's work than logic. In [`crate::fragment`]'s words two registers have sign and magnitude at the distance that f16
//! has; the other two bring theirs together by a factor of two bits, one for each.
//!
//! Fragments are the weights before the global scale times 2^-14: at most 0.17, multiples of 2^-24 of at most six significant
//! bits, hence exact in f16, which ends there. What is below 2^-14 of them is subnormal: products of magnitude and scale
//! below 1. The tensor cores take those as they are. [`UNSCALE`] takes the factor off the accumulator.
//!
//! Per word: 6 `and`, 3 multiplications, 1 `cvt` for both scales; 4 `mul.f16x2`, whose choice of the scale's half costs
//! nothing. 14 instructions, 7 of them of the logic pipe.

use cuda_std::half::{f16x2_from_e4m3x2_high, f16x2_from_e4m3x2_low, mul_f16x2_high, mul_f16x2_low};

/// What an accumulator of fragments must be multiplied by: 2^14, exact.
pub const UNSCALE: f32 = 16384.0;

/// Sign, exponent and mantissa of both halves of a register.
const VALUES: u32 = 0x8e00_8e00;
/// From the places of register 1.
const SHIFT_1: u32 = 1 << 3;
/// The places of register 2, and from them: magnitudes from 5..3 to 11..9, signs from 14 to 15.
const PLACES_2: u32 = 0x4038_4038;
const SHIFTS_2: u32 = 1 << 6 | 1 << 1;
/// The places of register 3, and from them: magnitudes from 2..0 to 11..9, signs from 13 to 15.
const PLACES_3: u32 = 0x2007_2007;
const SHIFTS_3: u32 = 1 << 9 | 1 << 2;

/// The eight E2M1 values of a word times 2^-14, as f16: registers a0..a3.
#[inline(always)]
pub fn values(word: u32) -> [u32; 4] {
    [
        word & VALUES,
        word.wrapping_mul(SHIFT_1) & VALUES,
        (word & PLACES_2).wrapping_mul(SHIFTS_2) & VALUES,
        (word & PLACES_3).wrapping_mul(SHIFTS_3) & VALUES,
    ]
}

/// The A fragment of one k16 step: the values of `word` times the scales of [`scales`], that of row g in the low half
/// of `scale` and of row g + 8 in its high half. The weights times 1 / [`UNSCALE`].
#[inline(always)]
pub fn fragment(word: u32, scale: u32) -> [u32; 4] {
    let [a0, a1, a2, a3] = values(word);
    [mul_f16x2_low(a0, scale), mul_f16x2_high(a1, scale), mul_f16x2_low(a2, scale), mul_f16x2_high(a3, scale)]
}

/// Both scales of each of the four k16 steps of a unit: f16 pairs of (row g, row g + 8), from the 8 bytes of a
/// lane's row group (`fragment::scale_offset`).
#[inline(always)]
pub fn scales(words: [u32; 2]) -> [u32; 4] {
    [
        f16x2_from_e4m3x2_low(words[0]),
        f16x2_from_e4m3x2_high(words[0]),
        f16x2_from_e4m3x2_low(words[1]),
        f16x2_from_e4m3x2_high(words[1]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fragment::{pack_word, unpack_word};
    use cuda_std::half::f32_from_f16;
    use nvfp4::{e2m1, e4m3};

    fn halves(fragment: [u32; 4]) -> [f32; 8] {
        core::array::from_fn(|i| f32_from_f16((fragment[i / 2] >> (16 * (i % 2))) as u16))
    }

    #[test]
    fn every_code_with_every_scale_at_every_place() {
        for scale in (0..=255u8).filter(|&s| !e4m3::decode(s).is_nan()) {
            // Another scale for the other row; both orders of the pair.
            let other = if scale == 0x38 { 0x40 } else { 0x38 };
            for (pair, want) in [([scale, other], [scale, other]), ([other, scale], [other, scale])] {
                let word = u32::from_le_bytes([pair[0], pair[1], 0xaa, 0x55]);
                let [low, _, high, _] = scales([word, word << 16 | 0x1234]);
                let third = scales([0, word << 16])[3];
                assert_eq!(low, third);
                assert_ne!(high, low);
                for i in 0..8 {
                    for code in 0..16u8 {
                        let mut codes = [0x9; 8];
                        codes[i] = code;
                        let got = halves(fragment(pack_word(codes), low));
                        for (n, (&value, &code)) in got.iter().zip(&codes).enumerate() {
                            let want = e2m1::decode(code) * e4m3::decode(want[n >> 1 & 1]);
                            assert_eq!(
                                (value * UNSCALE).to_bits(),
                                want.to_bits(),
                                "code {code} scale {scale} at {n}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn words_of_every_kind() {
        // Every half-word in either half: every combination of four neighbouring nibbles.
        for half in 0..=0xffffu32 {
            for word in [half, half << 16, half << 16 | !half & 0xffff] {
                let got = halves(values(word));
                let want = unpack_word(word).map(|code| e2m1::decode(code) / UNSCALE);
                assert_eq!(got.map(f32::to_bits), want.map(f32::to_bits), "{word:#010x}");
            }
        }
    }
}
