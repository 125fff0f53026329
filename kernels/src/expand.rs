//! A packed word of eight E2M1 codes and a pair of E4M3 scales to the f16 A fragment of one k16 step.
//!
//! Every E2M1 value is an f16 whose low byte is zero, so a `prmt` over an 8-byte table gives four high bytes at a
//! time; signs are or-ed in at byte level; four more `prmt` spread bytes to halves. Every product of an E2M1 and an
//! E4M3 value is exact in f16 (at most 6 significant bits, 2^-10 to 2688), so the multiplication by the scale is
//! exact too, and the fragment is the weight itself before the global scale.
//!
//! Per word: 1 `and`, 1 shift for the second selector, 2 table `prmt`, 1 shift and 2 `lop3` for the signs, 4 `prmt`
//! to spread: 11 operations of the logic pipe; 1 `cvt` for both scales; 4 `mul.f16x2`, whose choice of the scale's
//! half costs nothing.

use cuda_std::half::{f16x2_from_e4m3x2_high, f16x2_from_e4m3x2_low, mul_f16x2_high, mul_f16x2_low};
use cuda_std::math::prmt;

/// High bytes of the f16 values 0, 0.5, 1, 1.5.
const TABLE_LOW: u32 = 0x3e3c_3800;
/// High bytes of the f16 values 2, 3, 4, 6.
const TABLE_HIGH: u32 = 0x4644_4240;
/// Magnitudes of a word.
const MAGNITUDES: u32 = 0x7777_7777;
/// Signs of values 0..4; those of values 4..8 lie four bits lower.
const SIGNS: u32 = 0x8080_8080;
/// Bytes 0 and 1 to the high bytes of halves; 4 is a byte of zeros.
const SPREAD_LOW: u32 = 0x1404;
/// The same for bytes 2 and 3.
const SPREAD_HIGH: u32 = 0x3424;

/// The table's lower half in a register. As a constant `ptxas` keeps it in a uniform register, which `prmt` does not
/// take, and moves it out again for every use: two instructions more per word.
#[derive(Clone, Copy)]
pub struct Table(u32);

impl Table {
    /// The table plus `zero`: a zero that neither compiler can know and that is no uniform value to `ptxas`, such as
    /// the top bits of a small number from shared memory.
    #[inline(always)]
    pub fn hidden(zero: u32) -> Self {
        Self(TABLE_LOW.wrapping_add(zero))
    }

    /// The table as a constant.
    pub const CONSTANT: Self = Self(TABLE_LOW);

    /// High bytes of the four values that the low four nibbles of `magnitudes` select.
    #[inline(always)]
    fn lookup(self, magnitudes: u32) -> u32 {
        // The instruction takes no notice of the selector's upper half.
        #[cfg(not(target_arch = "nvptx64"))]
        let magnitudes = magnitudes & 0xffff;
        prmt(self.0, TABLE_HIGH, magnitudes)
    }

    /// The eight E2M1 values of a word as f16, without scale: registers a0..a3.
    #[inline(always)]
    pub fn values(self, word: u32) -> [u32; 4] {
        let magnitudes = word & MAGNITUDES;
        let first = (word & SIGNS) | self.lookup(magnitudes);
        let second = ((word << 4) & SIGNS) | self.lookup(magnitudes >> 16);
        [
            prmt(first, 0, SPREAD_LOW),
            prmt(first, 0, SPREAD_HIGH),
            prmt(second, 0, SPREAD_LOW),
            prmt(second, 0, SPREAD_HIGH),
        ]
    }

    /// The A fragment of one k16 step: the values of `word` times the scales, f16 of row g in the low half of `scale`
    /// and of row g + 8 in its high half.
    #[inline(always)]
    pub fn fragment(self, word: u32, scale: u32) -> [u32; 4] {
        let [a0, a1, a2, a3] = self.values(word);
        [
            mul_f16x2_low(a0, scale),
            mul_f16x2_high(a1, scale),
            mul_f16x2_low(a2, scale),
            mul_f16x2_high(a3, scale),
        ]
    }
}

/// Both scales of each of the four k16 steps of a unit: f16 pairs of (row g, row g + 8), from the 8 bytes of a lane's
/// row group (`fragment::scale_offset`).
#[inline(always)]
pub fn scales(words: [u32; 2]) -> [u32; 4] {
    [
        f16x2_from_e4m3x2_low(words[0]),
        f16x2_from_e4m3x2_high(words[0]),
        f16x2_from_e4m3x2_low(words[1]),
        f16x2_from_e4m3x2_high(words[1]),
    ]
}

/// [`Table::values`] with the table as a constant.
#[inline(always)]
pub fn values(word: u32) -> [u32; 4] {
    Table::CONSTANT.values(word)
}

/// [`Table::fragment`] with the table as a constant.
#[inline(always)]
pub fn fragment(word: u32, scale: u32) -> [u32; 4] {
    Table::CONSTANT.fragment(word, scale)
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
                            assert_eq!(value.to_bits(), want.to_bits(), "code {code} scale {scale} at {n}");
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
                let want = unpack_word(word).map(e2m1::decode);
                assert_eq!(got.map(f32::to_bits), want.map(f32::to_bits), "{word:#010x}");
            }
        }
    }
}
