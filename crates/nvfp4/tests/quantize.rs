//! Properties of two-level quantisation, over data of every magnitude and global scales of every kind.

use nvfp4::quantize::{self, Block};
use nvfp4::{BLOCK, GLOBAL_RANGE, e2m1, e4m3, mxfp4, swiglu};
use proptest::prelude::*;

fn values(block: Block, s2: f32) -> [f32; BLOCK] {
    std::array::from_fn(|i| quantize::dequantize(code(block, i), block.scale, s2))
}

fn code(block: Block, i: usize) -> u8 {
    (block.codes >> (4 * i)) as u8 & 15
}

fn amax(x: &[f32]) -> f32 {
    f32::from_bits(quantize::amax_bits_of(x))
}

/// Any finite f32: uniform in its bits, so of every magnitude.
fn finite() -> impl Strategy<Value = f32> {
    any::<u32>().prop_map(f32::from_bits).prop_filter("finite", |x| x.is_finite())
}

/// Sixteen values of about the same magnitude, with some zeros, ties and extremes among them.
fn block_of(magnitude: impl Strategy<Value = f32> + Clone) -> impl Strategy<Value = [f32; BLOCK]> {
    let element = prop_oneof![
        8 => -1.0f32..1.0,
        1 => Just(0.0),
        1 => Just(-0.0),
        1 => prop::sample::select(vec![0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0]).prop_map(|v: f32| v / 6.0),
    ];
    (magnitude, prop::array::uniform16(element)).prop_map(|(m, x)| x.map(|v| v * m))
}

fn moderate() -> impl Strategy<Value = f32> + Clone {
    (-20f32..20.0).prop_map(f32::exp2)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Finite data never give NaN, under any global scale that a row can have: zero, subnormal, normal, huge.
    #[test]
    fn no_nan_out_of_finite_inputs(x in prop::array::uniform16(finite()), s2 in finite()) {
        let block = quantize::quantize_block(&x, s2);
        prop_assert!(e4m3::is_valid_scale(block.scale));
        if s2 <= 0.0 {
            prop_assert_eq!(block, Block::ZERO);
        }
        prop_assert!(values(block, s2).iter().all(|v| !v.is_nan()));
        // Its own dynamic scale cannot overflow either.
        let own = quantize::tensor_scale_from_amax_bits(quantize::amax_bits_of(&x));
        prop_assert!(values(quantize::quantize_block(&x, own), own).iter().all(|v| v.is_finite()));
    }

    /// Multiplying data and global scale by the same power of two changes nothing, away from under- and overflow.
    #[test]
    fn power_of_two_invariance(x in block_of(moderate()), shift in -60i32..60) {
        let s2 = amax(&x) / GLOBAL_RANGE;
        let factor = 2f32.powi(shift);
        let moved = quantize::quantize_block(&x.map(|v| v * factor), s2 * factor);
        prop_assert_eq!(moved, quantize::quantize_block(&x, s2));
    }

    /// The error of an element is at most half the distance of its two neighbouring codes: 1/4 of a step below 2,
    /// 1/2 below 4, 1 above. (A block scale that rounds down stretches the block to 6.375 steps: still less.)
    #[test]
    fn error_bound(x in block_of(moderate()), headroom in 1f32..1000.0) {
        let s2 = amax(&x) / GLOBAL_RANGE * headroom;
        let block = quantize::quantize_block(&x, s2);
        if block != Block::ZERO {
            let step = f64::from(e4m3::decode(block.scale)) * f64::from(s2);
            for (&x, v) in x.iter().zip(values(block, s2)) {
                let steps = f64::from(x.abs()) / step;
                let bound = if steps < 2.0 { 0.25 } else if steps < 4.0 { 0.5 } else { 1.0 };
                let error = (f64::from(x) - f64::from(v)).abs() / step;
                prop_assert!(error <= bound * (1.0 + 1e-6), "{} of {} steps", error, steps);
            }
        }
    }

    /// A larger element never gets a smaller value, and signs are symmetric.
    #[test]
    fn monotone_and_odd(x in block_of(moderate()), s2 in moderate()) {
        let block = quantize::quantize_block(&x, s2);
        let v = values(block, s2);
        for i in 0..BLOCK {
            for j in 0..BLOCK {
                prop_assert!(x[i] > x[j] || v[i] <= v[j]);
            }
        }
        let negated = quantize::quantize_block(&x.map(|v| -v), s2);
        if block == Block::ZERO {
            prop_assert_eq!(negated, Block::ZERO);
        } else {
            prop_assert_eq!(negated, Block { codes: block.codes ^ 0x8888_8888_8888_8888, scale: block.scale });
        }
    }

    /// Quantising what was dequantised gives the same bytes, for every block whose scale is a normal E4M3 number. (A
    /// subnormal scale may have rounded away so much of amax / 6 that the block's largest code is no longer 6.)
    #[test]
    fn idempotent_on_its_own_values(x in block_of(moderate()), headroom in 1f32..3000.0) {
        let s2 = amax(&x) / GLOBAL_RANGE * headroom;
        let block = quantize::quantize_block(&x, s2);
        let again = quantize::quantize_block(&values(block, s2), s2);
        if block.scale >= 8 {
            prop_assert_eq!(again, block);
        }
    }

    /// A normal scale leaves the largest element at code 6, so no precision is wasted.
    #[test]
    fn the_largest_element_is_six(x in block_of(moderate()), headroom in 1f32..3000.0) {
        let s2 = amax(&x) / GLOBAL_RANGE * headroom;
        let block = quantize::quantize_block(&x, s2);
        if block.scale >= 8 {
            let top = x.iter().position(|v| v.abs() == amax(&x)).unwrap();
            prop_assert_eq!(code(block, top) & 7, 7);
        }
    }

    /// Every (code, scale) under any global scale comes back exactly if the block holds a 6.
    #[test]
    fn grid_blocks_come_back(codes in any::<u64>(), scale in 8u8..0x7f, s2 in moderate()) {
        let block = Block { codes: codes | 7, scale };
        prop_assert_eq!(quantize::quantize_block(&values(block, s2), s2), block);
    }

    /// A row is its blocks: little-endian codes, one scale each, whatever was in the outputs.
    #[test]
    fn a_row_is_its_blocks(
        x in prop::collection::vec(prop::array::uniform16(finite()), 1..5),
        s2 in moderate(),
        garbage in any::<u8>(),
    ) {
        let flat: Vec<f32> = x.concat();
        let (mut packed, mut scales) = (vec![garbage; flat.len() / 2], vec![garbage; x.len()]);
        quantize::quantize_row(&flat, s2, &mut packed, &mut scales);
        for (b, block) in x.iter().enumerate() {
            let want = quantize::quantize_block(block, s2);
            prop_assert_eq!(scales[b], want.scale);
            for i in 0..BLOCK {
                let byte = packed[(b * BLOCK + i) / 2];
                let (even, odd) = e2m1::unpack(byte);
                prop_assert_eq!(if i % 2 == 0 { even } else { odd }, code(want, i));
            }
        }
        let mut unscaled = vec![f32::NAN; flat.len()];
        quantize::dequantize_row_unscaled(&packed, &scales, &mut unscaled);
        for (i, v) in unscaled.iter().enumerate() {
            let want = quantize::quantize_block(&x[i / BLOCK], s2);
            let one = quantize::dequantize_unscaled(code(want, i % BLOCK), want.scale);
            prop_assert_eq!(v.to_bits(), one.to_bits());
        }
    }

    /// NaN or infinity anywhere: a block of zeros, and a NaN global scale for the row.
    #[test]
    fn non_finite_values(x in prop::array::uniform16(finite()), at in 0..BLOCK, bad in any::<u32>(), s2 in moderate()) {
        let mut x = x;
        x[at] = f32::from_bits(bad | 0x7f80_0000);
        prop_assert_eq!(quantize::quantize_block(&x, s2), Block::ZERO);
        let amax = quantize::amax_bits_of(&x);
        prop_assert!(quantize::tensor_scale_from_amax_bits(amax).is_nan());
        prop_assert!(quantize::row_scale(s2, amax).is_nan());
        prop_assert_eq!(quantize::row_scale(s2, quantize::amax_bits(1.0)), s2);
    }

    /// amax is the largest magnitude; order and sign do not matter.
    #[test]
    fn amax_is_the_largest_magnitude(x in prop::collection::vec(finite(), 0..40)) {
        let want = x.iter().fold(0.0f32, |a, v| a.max(v.abs()));
        prop_assert_eq!(amax(&x), want);
        let reversed: Vec<f32> = x.iter().rev().map(|v| -v).collect();
        prop_assert_eq!(quantize::amax_bits_of(&reversed), want.to_bits());
    }

    /// The block scale is the correctly rounded E4M3 of the f32 quotient, floored at code 1 and capped at 448.
    #[test]
    fn block_scale_formula(amax in finite(), s2 in finite()) {
        let (amax, s2) = (amax.abs(), s2.abs());
        let got = quantize::block_scale(amax, s2);
        if amax == 0.0 {
            prop_assert_eq!(got, 0);
        } else {
            let quotient = (amax / (6.0 * s2)).clamp(e4m3::MIN_POSITIVE, e4m3::MAX);
            prop_assert_eq!(got, e4m3::encode(quotient));
            prop_assert!((1..=e4m3::MAX_CODE).contains(&got));
        }
    }

    /// MXFP4 blocks survive the cast exactly or are refused for the right reason.
    #[test]
    fn mxfp4_cast(
        blocks in prop::collection::vec((any::<[u8; 16]>(), 90u8..=140, any::<bool>()), 1..20),
        lift in prop::sample::select(vec![-89i32, -85, -50, 0, 50, 114]),
    ) {
        let e8m0: Vec<u8> = blocks.iter().map(|b| (i32::from(b.1) + lift) as u8).collect();
        let packed: Vec<u8> = blocks.iter().flat_map(|b| if b.2 { b.0 } else { b.0.map(|v| v & 0x88) }).collect();
        let is_live = |b: &usize| packed[b * 16..][..16].iter().any(|v| v & 0x77 != 0);
        let live: Vec<usize> = (0..blocks.len()).filter(is_live).collect();
        let max = live.iter().map(|&b| e8m0[b]).max();
        let mut scales = vec![0xee; blocks.len() * 2];
        let cast = mxfp4::cast_scales(&packed, &e8m0, &mut scales);
        if e8m0.contains(&0xff) {
            let nan = matches!(cast, Err(mxfp4::CastError::NanScale { block }) if e8m0[block] == 0xff);
            prop_assert!(nan, "{:?}", cast);
            return Ok(());
        }
        let Some(max) = max else {
            prop_assert_eq!(cast, Ok(1.0));
            prop_assert!(scales.iter().all(|&s| s == 0));
            return Ok(());
        };
        if max < 9 {
            prop_assert_eq!(cast, Err(mxfp4::CastError::GlobalScale { max }));
            return Ok(());
        }
        if let Some(&block) = live.iter().find(|&&b| max - e8m0[b] > mxfp4::MAX_SPREAD) {
            prop_assert_eq!(cast, Err(mxfp4::CastError::Spread { block, code: e8m0[block], max }));
            return Ok(());
        }
        let s2 = cast.unwrap();
        prop_assert!(s2.is_normal());
        for i in 0..packed.len() * 2 {
            let code = if i % 2 == 0 { packed[i / 2] & 15 } else { packed[i / 2] >> 4 };
            let want = f64::from(e2m1::decode(code)) * 2f64.powi(i32::from(e8m0[i / 32]) - 127);
            let exact = f64::from(quantize::dequantize_unscaled(code, scales[i / 16])) * f64::from(s2);
            prop_assert_eq!(exact, want);
            prop_assert!(e4m3::is_power_of_two_or_zero(scales[i / 16]));
            // In f32 too, unless the value itself is subnormal or overflows there.
            if (want as f32).is_finite() {
                prop_assert_eq!(f64::from(quantize::dequantize(code, scales[i / 16], s2)), want);
            }
        }
    }

    /// Under the policy Bound nothing is clipped, whatever the accumulators: the largest |h| uses scale 448 and code 6
    /// without saturating by more than the roundings.
    #[test]
    fn bound_never_clips(
        gate in prop_oneof![any::<u32>().prop_map(f32::from_bits), -12f32..12.0],
        up in prop_oneof![any::<u32>().prop_map(f32::from_bits), -12f32..12.0],
        limit in prop_oneof![0.01f32..2.0, 0.01f32..200.0],
    ) {
        let h = swiglu::swiglu(gate, up, limit);
        if !h.is_nan() {
            let s2 = swiglu::bound_scale(limit);
            prop_assert!(f64::from(h.abs()) <= f64::from(s2) * 2688.0 * (1.0 + 2e-7), "{} at limit {}", h, limit);
        }
    }
}

/// The order of the operations is part of the contract: at every boundary of E4M3 and E2M1, within three ulps, for
/// many scales, against f64 arithmetic rounded to f32 after each step. (Rounding an f64 quotient of two f32 to f32 is
/// the f32 quotient: 53 bits are enough.)
#[test]
fn formula_at_every_boundary() {
    let fl = |x: f64| f64::from(x as f32);
    let boundary = |code: u8| (f64::from(e4m3::decode(code)) + f64::from(e4m3::decode(code + 1))) / 2.0;
    let near = |x: f64| ((x as f32).to_bits() - 3..=(x as f32).to_bits() + 3).map(f32::from_bits);
    let mut other_orders = [0; 4];
    for i in 0..600u32 {
        let s2 = f32::from_bits(0x3a00_0000 + i * 0x1_2345);
        let wide = f64::from(s2);
        for code in 1..e4m3::MAX_CODE {
            for amax in near(boundary(code) * 6.0 * wide) {
                let want = e4m3::encode(fl(f64::from(amax) / fl(6.0 * wide)) as f32);
                assert_eq!(quantize::block_scale(amax, s2), want, "{amax:e} under {s2:e}");
                other_orders[0] += u32::from(e4m3::encode(amax / 6.0 / s2) != want);
                other_orders[1] += u32::from(e4m3::encode(amax * (1.0 / 6.0) / s2) != want);
            }
        }
        // One element on a boundary, in a block whose scale the first element fixes.
        let scale = 8 + (i % 118) as u8;
        let step = fl(f64::from(e4m3::decode(scale)) * wide);
        for pair in e2m1::MAGNITUDES.windows(2) {
            for x in near(f64::from(pair[0] + pair[1]) / 2.0 * step) {
                let mut block = [x; BLOCK];
                block[0] = (6.0 * step) as f32;
                let got = quantize::quantize_block(&block, s2);
                assert_eq!(got.scale, scale);
                let want = e2m1::encode(fl(f64::from(x) / step) as f32);
                assert_eq!(code(got, 1), want, "{x:e} by {step:e}");
                other_orders[2] += u32::from(e2m1::encode(x * (1.0 / step as f32)) != want);
                other_orders[3] += u32::from(e2m1::encode(x / e4m3::decode(scale) / s2) != want);
            }
        }
    }
    // The data do tell the other orders apart.
    assert!(other_orders.iter().all(|&n| n > 100), "{other_orders:?}");
}

#[test]
fn extreme_global_scales() {
    assert_eq!(quantize::block_scale(0.0, 1.0), 0);
    // A row at the top of the f32 range survives its own scale.
    for below in 0..2000 {
        let top = f32::from_bits(f32::MAX.to_bits() - below);
        let s2 = quantize::tensor_scale_from_amax_bits(top.to_bits());
        let block = quantize::quantize_block(&[top; BLOCK], s2);
        assert_eq!((block.scale, block.codes), (e4m3::MAX_CODE, 0x7777_7777_7777_7777));
        assert!(values(block, s2)[0].is_finite(), "{top:e}");
    }
    // A row of subnormals has a subnormal or zero scale: defined, never NaN, exactly ModelOpt's bytes in the goldens.
    for bits in [1, 2, 3, 100, 1343, 1344, 1345, 2688, 10_000, 0x007f_ffff] {
        let x = [f32::from_bits(bits); BLOCK];
        let s2 = quantize::tensor_scale_from_amax_bits(bits);
        let block = quantize::quantize_block(&x, s2);
        // amax / 2688 rounds to 0 up to 1344 units (a tie, to even).
        assert_eq!(s2 == 0.0, bits <= 1344);
        assert_eq!(block == Block::ZERO, bits <= 1344, "{bits}");
        assert!(values(block, s2).iter().all(|v| v.is_finite()));
    }
    // e4m3 * s2 underflows: a block of zeros, not a division by zero.
    let mut x = [0.0; BLOCK];
    x[0] = f32::from_bits(1);
    assert_eq!(quantize::quantize_block(&x, f32::from_bits(100)), Block::ZERO);
    assert_ne!(quantize::quantize_block(&x, f32::from_bits(300)).scale, 0);
    // Static scales far too small and far too large saturate at either end.
    let block = quantize::quantize_block(&[1.0; BLOCK], 1e-44);
    assert_eq!((block.scale, block.codes), (e4m3::MAX_CODE, 0x7777_7777_7777_7777));
    let block = quantize::quantize_block(&[1.0; BLOCK], 1e38);
    assert_eq!((block.scale, block.codes), (1, 0));
}

#[test]
fn bound_scale_values() {
    assert_eq!(swiglu::bound_scale(10.0), 100.0 / 2688.0);
    assert_eq!(swiglu::bound_scale(7.0), 49.0 / 2688.0);
    // Below 0.2785 the unclamped negative side of SiLU is the larger one.
    assert_eq!(swiglu::bound_scale(0.1), 0.1 * swiglu::SILU_MIN_MAGNITUDE / 2688.0);
    // Without that correction the bound would be exceeded: |silu(-1.278)| * 0.1 > 0.1 * 0.1.
    let h = swiglu::swiglu(-1.278_464_5, 1.0, 0.1);
    assert!(h.abs() > 0.1 * 0.1 && h.abs() <= 0.1 * swiglu::SILU_MIN_MAGNITUDE);
    // Full E4M3 precision (normal scales) down to block maxima of L^2 / 28672: 448 / 2^-6 = 28672.
    let s2 = swiglu::bound_scale(10.0);
    assert_eq!(quantize::block_scale(100.0 / 28_672.0, s2), 8);
    assert!(quantize::block_scale(100.0 / 28_672.0 * 0.93, s2) < 8);
}

#[test]
fn misuse_panics() {
    let panics = |f: fn()| std::panic::catch_unwind(f).is_err();
    assert!(panics(|| quantize::quantize_row(&[0.0; 17], 1.0, &mut [0; 8], &mut [0; 1])));
    assert!(panics(|| quantize::quantize_row(&[0.0; 16], 1.0, &mut [0; 7], &mut [0; 1])));
    assert!(panics(|| quantize::quantize_row(&[0.0; 16], 1.0, &mut [0; 8], &mut [0; 2])));
    assert!(panics(|| quantize::dequantize_row_unscaled(&[0; 8], &[0; 2], &mut [0.0; 16])));
    assert!(panics(|| quantize::dequantize_row_unscaled(&[0; 9], &[0; 1], &mut [0.0; 16])));
}
