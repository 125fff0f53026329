//! Sixteen elements of a row in the registers of one thread, and their quantisation without divisions.
//!
//! [`quantize_group`] is [`nvfp4::quantize::quantize_block`], bit for bit, at a third of the instructions: the
//! definition divides each element by the block's step, and a correctly rounded division costs about ten
//! instructions. Here one reciprocal serves the block, as an unevaluated sum of two floats, and an element takes a
//! multiplication and a fused multiply-add. The quotient need not be correctly rounded everywhere, only fall on
//! the right side of the seven thresholds between E2M1 codes; a test proves that it does for every mantissa of the
//! step, at every threshold, which is every case there is (see `code_thresholds_for_every_step`). The same holds
//! for the block's own scale (see `scale_thresholds_for_every_divisor`).

use cuda_std::math::{fma, max_u16x2, prmt};
use nvfp4::quantize::{Block, NON_FINITE_BITS, amax_bits};
use nvfp4::{BLOCK, bf16, e4m3};

/// Sixteen elements of a row as a thread holds them.
pub trait Group: Copy {
    /// Sixteen zeros.
    const ZERO: Self;
    /// Maximum of [`nvfp4::quantize::amax_bits`] over the elements.
    fn amax_bits(&self) -> u32;
    /// The elements.
    fn values(&self) -> [f32; BLOCK];
    /// The sign of element `i` in bit `4i + 3`, where its code has it; the other bits are 0. Elements 0..8 in the
    /// first word.
    fn signs(&self) -> [u32; 2];
}

/// Sixteen bfloat16, element `2i` in the low half of word `i`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bf16Group(pub [u32; BLOCK / 2]);

impl Group for Bf16Group {
    const ZERO: Self = Self([0; BLOCK / 2]);

    #[inline(always)]
    fn amax_bits(&self) -> u32 {
        const ABS: u32 = 0x7fff_7fff;
        let mut max = self.0[0] & ABS;
        let mut i = 1;
        while i < BLOCK / 2 {
            max = max_u16x2(max, self.0[i] & ABS);
            i += 1;
        }
        // Widening to f32 is a shift by 16 bits.
        let (even, odd) = (max << 16, max & 0xffff_0000);
        if even > odd { even } else { odd }
    }

    #[inline(always)]
    fn values(&self) -> [f32; BLOCK] {
        let mut v = [0.0; BLOCK];
        let mut i = 0;
        while i < BLOCK / 2 {
            v[2 * i] = bf16::to_f32(self.0[i] as u16);
            v[2 * i + 1] = f32::from_bits(self.0[i] & 0xffff_0000);
            i += 1;
        }
        v
    }

    #[inline(always)]
    fn signs(&self) -> [u32; 2] {
        let half = |w: &[u32]| {
            // The top bytes of the even elements, then of the odd ones.
            let even = prmt(prmt(w[0], w[1], 0x0051), prmt(w[2], w[3], 0x0051), 0x5410);
            let odd = prmt(prmt(w[0], w[1], 0x0073), prmt(w[2], w[3], 0x0073), 0x5410);
            join_signs(even, odd)
        };
        [half(&self.0[..4]), half(&self.0[4..])]
    }
}

/// Sixteen f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct F32Group(pub [f32; BLOCK]);

impl Group for F32Group {
    const ZERO: Self = Self([0.0; BLOCK]);

    #[inline(always)]
    fn amax_bits(&self) -> u32 {
        let mut amax = 0;
        let mut i = 0;
        while i < BLOCK {
            let bits = amax_bits(self.0[i]);
            amax = if bits > amax { bits } else { amax };
            i += 1;
        }
        amax
    }

    #[inline(always)]
    fn values(&self) -> [f32; BLOCK] {
        self.0
    }

    #[inline(always)]
    fn signs(&self) -> [u32; 2] {
        let half = |v: &[f32]| {
            let pair = |a: usize, b: usize| prmt(v[a].to_bits(), v[b].to_bits(), 0x0073);
            let even = prmt(pair(0, 2), pair(4, 6), 0x5410);
            let odd = prmt(pair(1, 3), pair(5, 7), 0x5410);
            join_signs(even, odd)
        };
        [half(&self.0[..8]), half(&self.0[8..])]
    }
}

/// Byte `j` of `even` holds element `2j`, of `odd` element `2j + 1`, signs in bit 7.
#[inline(always)]
fn join_signs(even: u32, odd: u32) -> u32 {
    ((even >> 4) & 0x0808_0808) | (odd & 0x8080_8080)
}

/// The reciprocal of a divisor as `hi + lo`.
#[derive(Clone, Copy, Debug)]
struct Reciprocal {
    hi: f32,
    lo: f32,
}

impl Reciprocal {
    /// Of `divisor` in 2^-100 ..= 2^100.
    #[inline(always)]
    fn of(divisor: f32) -> Self {
        let hi = 1.0 / divisor;
        // 1 - divisor * hi, exact; then one Newton step's correction with the second-order term.
        let e = fma(-divisor, hi, 1.0);
        Self { hi, lo: fma(e, e, e) * hi }
    }

    /// `x / divisor`, close enough for [`magnitude_code`] and [`round_scale`]. Where `x / divisor` is above 2^100
    /// the result may be NaN or have the wrong sign; both take it for large.
    #[inline(always)]
    fn times(self, x: f32) -> f32 {
        fma(x, self.hi, x * self.lo)
    }
}

/// A power of two that brings `divisor` (and with it what is divided) to where a [`Reciprocal`] works. What
/// over- or underflows by it is far above or below every threshold.
#[inline(always)]
fn range_factor(divisor: f32) -> f32 {
    let exponent = divisor.to_bits() >> 23;
    if exponent < 127 - 60 {
        f32::from_bits((127 + 64) << 23)
    } else if exponent > 127 + 60 {
        f32::from_bits((127 - 64) << 23)
    } else {
        1.0
    }
}

/// `divisor * factor`, an overflowed divisor staying far above everything divided.
#[inline(always)]
fn in_range(divisor: f32, factor: f32) -> f32 {
    (divisor * factor).min(f32::from_bits((127 + 100) << 23))
}

/// The global scale of a row, prepared for its groups.
#[derive(Clone, Copy, Debug)]
pub struct RowScale {
    s2: f32,
    /// Of `6 * s2 * factor`.
    reciprocal: Reciprocal,
    factor: f32,
}

impl RowScale {
    /// Of any `s2`; NaN, zero and negative ones make every group [`Block::ZERO`].
    #[inline(always)]
    pub fn of(s2: f32) -> Self {
        let divisor = 6.0 * s2;
        let factor = range_factor(divisor);
        Self { s2, reciprocal: Reciprocal::of(in_range(divisor, factor)), factor }
    }
}

/// E4M3, round to nearest even, of `|raw|` clamped to 2^-9 ..= 448: the code (the bits above the low eight are
/// noise) and its value. NaN is taken for large.
///
/// The method is that of [`magnitude_code`], with units of `m / 8` and `m` at least 2^-6.
#[inline(always)]
fn round_scale(raw: f32) -> (u32, f32) {
    const MAGIC: f32 = 1_048_595.0; // 2^20 + 152/8
    // Not `clamp`, which keeps NaN.
    #[allow(clippy::manual_clamp)]
    let v = raw.abs().min(e4m3::MAX).max(e4m3::MIN_POSITIVE);
    let m = v.to_bits() & 0x7f80_0000;
    let m = f32::from_bits(if m > 0x3c80_0000 { m } else { 0x3c80_0000 });
    let s = fma(m, MAGIC, v);
    (s.to_bits().wrapping_add(s.to_bits() >> 20), fma(-m, MAGIC, s))
}

/// The E2M1 code of `|q|` in the low four bits (0..=7); the bits above are noise.
///
/// Adding `m * (2^22 + 3)` to a magnitude with leading power of two `m` (at least 1) leaves `m / 2` as the unit in
/// the last place, which is the distance of E2M1 values there; so the addition rounds to E2M1, ties to even. Its
/// low bits are `|q| / (m / 2) + 6`, its exponent is that of `m` plus 149, and their sum (the exponent counted
/// twice) is the code plus 304, a multiple of 16.
#[inline(always)]
fn magnitude_code(q: f32) -> u32 {
    let a = q.abs().min(6.0);
    let m = a.to_bits() & 0x7f80_0000;
    let m = if m > 0x3f80_0000 { m } else { 0x3f80_0000 };
    let s = fma(f32::from_bits(m), 4_194_307.0, a).to_bits();
    s.wrapping_add(s >> 22)
}

/// [`nvfp4::quantize::quantize_block`] of the group's values, whose [`Group::amax_bits`] is `amax`.
#[inline(always)]
pub fn quantize_group<G: Group>(group: &G, amax: u32, row: RowScale) -> Block {
    // The comparison is false for NaN.
    let positive = row.s2 > 0.0;
    if amax >= NON_FINITE_BITS || amax == 0 || !positive {
        return Block::ZERO;
    }
    let (scale, value) = round_scale(row.reciprocal.times(f32::from_bits(amax) * row.factor));
    let mut step = value * row.s2;
    if step == 0.0 {
        return Block::ZERO;
    }
    let mut x = group.values();
    let factor = range_factor(step);
    if factor != 1.0 {
        step = in_range(step, factor);
        let mut i = 0;
        while i < BLOCK {
            x[i] *= factor;
            i += 1;
        }
    }
    let reciprocal = Reciprocal::of(step);
    let mut words = [0u32; 2];
    let mut i = 0;
    while i < BLOCK {
        // A funnel shift: the code's four bits enter at the top, so the first element ends at the bottom.
        let code = magnitude_code(reciprocal.times(x[i]));
        words[i / 8] = (words[i / 8] >> 4) | (code << 28);
        i += 1;
    }
    let signs = group.signs();
    let (low, high) = (words[0] | signs[0], words[1] | signs[1]);
    Block { codes: u64::from(low) | (u64::from(high) << 32), scale: scale as u8 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nvfp4::e2m1;
    use nvfp4::quantize::quantize_block;

    /// Runs `check` for every mantissa, in 1 <= divisor < 2, on all cores.
    fn every_divisor(check: impl Fn(f32, Reciprocal) + Sync) {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get()) as u32;
        let check = &check;
        std::thread::scope(|scope| {
            for core in 0..cores {
                scope.spawn(move || {
                    for mantissa in (core..1 << 23).step_by(cores as usize) {
                        let divisor = f32::from_bits(0x3f80_0000 | mantissa);
                        check(divisor, Reciprocal::of(divisor));
                    }
                });
            }
        });
    }

    /// Both sides of a threshold near `quotient * divisor`: the smallest x for which `code(x / divisor)`, with the
    /// quotient correctly rounded, is not below `want`, and the float before it. Checks that they are two sides.
    fn around(divisor: f32, quotient: f32, want: u8, code: impl Fn(f32) -> u8) -> [f32; 2] {
        let mut bits = (quotient * divisor).to_bits() - 3;
        assert!(code(f32::from_bits(bits - 1) / divisor) < want);
        while code(f32::from_bits(bits) / divisor) < want {
            bits += 1;
        }
        [f32::from_bits(bits - 1), f32::from_bits(bits)]
    }

    /// Every mantissa of the step, every threshold between codes, both sides of it. The quotient grows with the
    /// element, so the two neighbours of a threshold decide for all elements; and a power of two on the step or
    /// the element only scales both formulas.
    #[test]
    fn code_thresholds_for_every_step() {
        const MIDPOINTS: [f32; 7] = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0];
        every_divisor(|step, reciprocal| {
            for (code, midpoint) in (1..8u8).zip(MIDPOINTS) {
                let x = around(step, midpoint, code, e2m1::encode);
                let codes = x.map(|x| (magnitude_code(reciprocal.times(x)) & 15) as u8);
                assert_eq!(codes, [code - 1, code], "step {:08x}, x {x:?}", step.to_bits());
            }
        });
    }

    /// The same for the scale of a block: the thresholds of the subnormal codes and of one binade of normal ones.
    #[test]
    fn scale_thresholds_for_every_divisor() {
        every_divisor(|divisor, reciprocal| {
            for code in 2..17u8 {
                let midpoint = (e4m3::decode(code - 1) + e4m3::decode(code)) / 2.0;
                let x = around(divisor, midpoint, code, e4m3::encode);
                let codes = x.map(|x| round_scale(reciprocal.times(x)).0 as u8);
                assert_eq!(codes, [code - 1, code], "divisor {:08x}, x {x:?}", divisor.to_bits());
            }
        });
    }

    #[test]
    fn scales_by_definition() {
        for bits in (0..0x7f80_0000u32).step_by(997).chain((0x3a00_0000..0x4400_0000).step_by(97)) {
            let raw = f32::from_bits(bits);
            let (code, value) = round_scale(raw);
            let want = e4m3::encode(raw.max(e4m3::MIN_POSITIVE));
            assert_eq!((code as u8, value), (want, e4m3::decode(want)), "{raw:e}");
        }
        assert_eq!(round_scale(f32::INFINITY).0 as u8, e4m3::MAX_CODE);
        assert_eq!(round_scale(f32::NAN).0 as u8, e4m3::MAX_CODE);
    }

    #[test]
    fn magnitude_codes_by_definition() {
        for bits in (0..0x7f80_0000u32).step_by(997).chain((0x3e00_0000..0x4120_0000).step_by(3)) {
            let q = f32::from_bits(bits);
            for q in [q, -q] {
                assert_eq!((magnitude_code(q) & 15) as u8, e2m1::encode(q) & 7, "{q:e}");
            }
        }
        assert_eq!(magnitude_code(f32::INFINITY) & 15, 7);
    }

    /// A small generator, so that failures repeat.
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u32 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 32) as u32
        }

        /// Uniform in -1..1, 24 bits.
        fn unit(&mut self) -> f32 {
            (self.next() >> 8) as f32 / 8_388_608.0 - 1.0
        }
    }

    fn check<G: Group>(group: G, s2: f32) {
        let want = quantize_block(&group.values(), s2);
        let got = quantize_group(&group, group.amax_bits(), RowScale::of(s2));
        assert_eq!(got, want, "s2 {s2:e}, values {:?}", group.values());
    }

    #[test]
    fn f32_groups_equal_the_definition_at_every_magnitude() {
        let mut r = Random(1);
        for exponent in -149..128 {
            for _ in 0..400 {
                let size = 2f64.powi(exponent) as f32;
                let group = F32Group(core::array::from_fn(|_| r.unit() * size));
                // Scales that fit the data, scales that saturate, scales that are far too large.
                for s2 in [size / 2688.0, size / 6.0, size * 1e-6, size * 1e3, 1.0, f32::MIN_POSITIVE] {
                    check(group, s2 * (1.5 + r.unit() / 2.0));
                }
            }
        }
    }

    #[test]
    fn bf16_groups_equal_the_definition() {
        let mut r = Random(2);
        for round in 0..200_000 {
            // Random patterns first (NaN and infinity among them), then data of one magnitude.
            let mask = if round % 2 == 0 { 0xffff_ffff } else { 0x83ff_83ff };
            let base = if round % 2 == 0 { 0 } else { 0x3c00_3c00 };
            let group = Bf16Group(core::array::from_fn(|_| (r.next() & mask) | base));
            let amax = f32::from_bits(group.amax_bits());
            for s2 in [amax / 2688.0, 1.0, 0.003, f32::NAN, 0.0] {
                check(group, s2);
            }
        }
    }

    #[test]
    fn a_group_of_each_element() {
        for i in 0..BLOCK {
            for bits in [0x3f80u32, 0xbf80, 0x8000, 0x7fc0, 0xff80, 0x0001] {
                let mut words = [0; BLOCK / 2];
                words[i / 2] = bits << (16 * (i % 2));
                let group = Bf16Group(words);
                assert_eq!(group.values()[i].to_bits(), bits << 16);
                assert_eq!(group.amax_bits(), (bits & 0x7fff) << 16);
                let wide = F32Group(group.values());
                assert_eq!(wide.amax_bits(), group.amax_bits());
                let sign = (u64::from(bits >> 15) << 3) << (4 * i);
                assert_eq!(group.signs(), [sign as u32, (sign >> 32) as u32]);
                assert_eq!(wide.signs(), group.signs());
                check(group, 1.0 / 2688.0);
                check(wide, 1.0 / 2688.0);
            }
        }
    }
}
