//! Codecs against an independent definition: value tables in f64, boundaries as midpoints, ties to the even code.

use nvfp4::{bf16, e2m1, e4m3, e8m0};

/// Magnitudes of E2M1 and E4M3 by the formats' definition, in code order.
fn e2m1_values() -> Vec<f64> {
    minifloat(2, 1, 1).into_iter().collect()
}

fn e4m3_values() -> Vec<f64> {
    let mut values = minifloat(4, 3, 7);
    values.pop(); // S.1111.111 is NaN.
    values
}

/// Every magnitude of a format with `exponent` and `mantissa` bits.
fn minifloat(exponent: u32, mantissa: u32, bias: i32) -> Vec<f64> {
    let mut values = Vec::new();
    for e in 0..1i32 << exponent {
        for m in 0..1u32 << mantissa {
            let fraction = f64::from(m) / f64::from(1u32 << mantissa);
            values.push(if e == 0 {
                fraction * 2f64.powi(1 - bias)
            } else {
                (1.0 + fraction) * 2f64.powi(e - bias)
            });
        }
    }
    values
}

/// `(first, code)`: f32 magnitude bits from `first` up to the next entry encode to `code`.
fn segments(values: &[f64]) -> Vec<(u32, u8)> {
    let mut segments = vec![(0, 0)];
    for (code, pair) in values.windows(2).enumerate() {
        let midpoint = (pair[0] + pair[1]) / 2.0;
        let bits = (midpoint as f32).to_bits();
        assert_eq!(f64::from(f32::from_bits(bits)), midpoint, "boundaries are f32 values");
        // A tie goes to the even code: up if the code below is odd.
        segments.push((bits + u32::from(code % 2 == 0), code as u8 + 1));
    }
    segments
}

const INFINITY: u32 = 0x7f80_0000;

/// Checks every `stride`-th magnitude of every segment and both its ends, with both signs.
fn sweep(values: &[f64], stride: usize, encode: fn(f32) -> u8, sign: u8) -> u64 {
    let segments = segments(values);
    let mut checked = 0;
    for (i, &(first, code)) in segments.iter().enumerate() {
        let end = segments.get(i + 1).map_or(INFINITY + 1, |s| s.0);
        for bits in (first..end).step_by(stride).chain([end - 1]) {
            let x = f32::from_bits(bits);
            // The cheap comparison first: the exhaustive sweep runs this 2^32 times.
            if encode(x) != code || encode(-x) != code | sign {
                panic!("{x:e} ({bits:#010x}): {:#x} and {:#x}, want {code:#x}", encode(x), encode(-x));
            }
            checked += 2;
        }
    }
    checked
}

#[test]
fn value_tables() {
    assert_eq!(e2m1_values(), e2m1::MAGNITUDES.map(f64::from));
    for (code, value) in e4m3_values().into_iter().enumerate() {
        assert_eq!(f64::from(e4m3::decode(code as u8)), value);
    }
    assert_eq!(e4m3_values().len(), 127);
    assert_eq!(e4m3_values().last(), Some(&448.0));
}

#[test]
fn boundaries_exactly_and_a_sweep() {
    assert!(sweep(&e2m1_values(), 4099, e2m1::encode, 8) > 1_000_000);
    assert!(sweep(&e4m3_values(), 4099, e4m3::encode, 0x80) > 1_000_000);
}

#[test]
#[ignore = "all 2^32 inputs of both encoders: some 20 s"]
fn every_f32() {
    // Twice (infinity + 1) magnitudes; the last value of each segment is seen twice. NaNs below.
    for (values, encode, sign) in [
        (e2m1_values(), e2m1::encode as fn(f32) -> u8, 8),
        (e4m3_values(), e4m3::encode as fn(f32) -> u8, 0x80),
    ] {
        let checked = sweep(&values, 1, encode, sign);
        assert_eq!(checked, 2 * (u64::from(INFINITY) + 1 + values.len() as u64));
    }
    for bits in INFINITY + 1..=0x7fff_ffff {
        for x in [f32::from_bits(bits), f32::from_bits(bits | 0x8000_0000)] {
            assert_eq!((e2m1::encode(x), e4m3::encode(x), bf16::from_f32(x)), (7, 0x7f, 0x7fff));
        }
    }
}

#[test]
#[ignore = "all 2^32 inputs of the bf16 rounding: some 20 s"]
fn every_f32_to_bf16() {
    for bits in 0..=u32::MAX {
        let x = f32::from_bits(bits);
        if !x.is_nan() && bf16::from_f32(x) != half::bf16::from_f32(x).to_bits() {
            panic!("{x:e} ({bits:#010x})");
        }
    }
}

/// The even bf16 neighbour on ties, and nothing else moves: all 2^16 upper halves with the lower halves that matter.
#[test]
fn bf16_boundaries() {
    for high in 0..0x7f80u32 {
        for sign in [0, 0x8000_0000] {
            let at = |low: u32| bf16::from_f32(f32::from_bits(sign | high << 16 | low));
            let (down, up) = ((sign >> 16 | high) as u16, (sign >> 16 | (high + 1)) as u16);
            assert_eq!([at(0), at(1), at(0x7fff)], [down; 3]);
            assert_eq!(at(0x8000), if high % 2 == 0 { down } else { up });
            assert_eq!([at(0x8001), at(0xffff)], [up; 2]);
        }
    }
}

#[test]
fn pack_and_unpack() {
    for even in 0..16 {
        for odd in 0..16 {
            let byte = e2m1::pack(even, odd);
            assert_eq!(byte, odd << 4 | even);
            assert_eq!(e2m1::unpack(byte), (even, odd));
        }
    }
    // High garbage of the even code must not leak into the odd one.
    assert_eq!(e2m1::pack(0xf3, 0x0a), 0xa3);
}

#[test]
fn decoding_ignores_the_high_nibble() {
    for code in 0..=255u8 {
        assert_eq!(e2m1::decode(code).to_bits(), e2m1::decode(code & 15).to_bits());
    }
}

#[test]
fn scale_predicates() {
    for code in 0..=255u8 {
        let value = e4m3::decode(code);
        assert_eq!(e4m3::is_valid_scale(code), !value.is_nan() && !value.is_sign_negative());
        if !value.is_nan() {
            let power = value == 0.0 || e8m0::encode(value.abs()).is_some();
            assert_eq!(e4m3::is_power_of_two_or_zero(code), power, "{value}");
        }
    }
}
