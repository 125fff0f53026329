//! Element formats.

use megamoe::oracle;
use nvfp4::{e2m1, e4m3, e8m0, mxfp4};

use super::harness::{Check, equal, prove, require};

#[test]
fn e4m3_codes() {
    type Decode = dyn Fn(u8) -> f32;
    let check = |decode: &Decode| -> Check {
        for code in 0..=255u8 {
            let (got, want) = (decode(code), oracle::e4m3(code));
            let same = f64::from(got) == want || (got.is_nan() && want.is_nan());
            require(same, format!("code {code:#04x} is {got}, not {want}"))?;
        }
        Ok(())
    };
    prove::<Decode>(
        "E4M3",
        &e4m3::decode,
        &[
            ("0x7f is 448", &|c| if c & 0x7f == 0x7f { 448.0 } else { e4m3::decode(c) }),
            ("0x7f is 480, a number", &|c| if c & 0x7f == 0x7f { 480.0 } else { e4m3::decode(c) }),
            ("0x7e is NaN", &|c| if c == 0x7e { f32::NAN } else { e4m3::decode(c) }),
            ("the sign is dropped", &|c| e4m3::decode(c & 0x7f)),
            ("subnormals are flushed", &|c| if c & 0x78 == 0 { 0.0 } else { e4m3::decode(c) }),
            ("read as E8M0", &e8m0::decode),
        ],
        check,
    );
}

#[test]
fn e4m3_rounding() {
    type Encode = dyn Fn(f32) -> u8;
    let inputs: Vec<f32> = (0..0x7e_u8)
        .flat_map(|c| {
            let (low, high) = (e4m3::decode(c), e4m3::decode(c + 1));
            let middle = (low + high) / 2.0;
            [low, middle, f32::from_bits(middle.to_bits() + 1), f32::from_bits(middle.to_bits().max(1) - 1)]
        })
        .chain([448.0, 460.0, 464.0, 465.0, 1e6, f32::INFINITY, f32::NAN])
        .collect();
    let truncate = |x: f32| (0..=0x7eu8).rev().find(|&c| e4m3::decode(c) <= x).unwrap_or(0x7f);
    prove::<Encode>(
        "E4M3 rounding",
        &e4m3::encode,
        &[
            ("truncation", &truncate),
            ("overflow is NaN", &|x| if x > 464.0 { 0x7f } else { e4m3::encode(x) }),
            ("NaN is the maximum", &|x| if x.is_nan() { 0x7e } else { e4m3::encode(x) }),
            ("a floor of 2^-6", &|x| e4m3::encode(x.max(0.015625))),
            ("ties away from zero", &|x| e4m3::encode(f32::from_bits(x.to_bits() + 1))),
        ],
        |encode| {
            let got: Vec<u8> = inputs.iter().map(|&x| encode(x)).collect();
            let want: Vec<u8> = inputs.iter().map(|&x| oracle::encode_e4m3(x)).collect();
            equal("code", &got, &want)
        },
    );
}

#[test]
fn e2m1_codes_and_rounding() {
    type Codec = (fn(u8) -> f32, fn(f32) -> u8);
    let half_away = |x: f32| e2m1::encode(f32::from_bits(x.to_bits() + 1));
    let unsigned = |x: f32| e2m1::encode(x.abs());
    let int4 = |c: u8| if c & 8 == 0 { f32::from(c) } else { -f32::from(c & 7) };
    let wraps = |x: f32| if x.abs() > 6.0 { 0 } else { e2m1::encode(x) };
    let real: Codec = (e2m1::decode, e2m1::encode);
    prove::<Codec>(
        "E2M1",
        &real,
        &[
            ("ties away from zero", &(e2m1::decode, half_away)),
            ("the sign is lost", &(e2m1::decode, unsigned)),
            ("no saturation", &(e2m1::decode, wraps)),
            ("read as INT4", &(int4, e2m1::encode)),
        ],
        |(decode, encode)| {
            for code in 0..16u8 {
                require(f64::from(decode(code)) == oracle::e2m1(code), format!("code {code}"))?;
            }
            let xs: Vec<f32> = (-40..=40).map(|i| i as f32 / 4.0).chain([1e9, -0.0, -0.1]).collect();
            let got: Vec<u8> = xs.iter().map(|&x| encode(x)).collect();
            let want: Vec<u8> = xs.iter().map(|&x| oracle::encode_e2m1(x)).collect();
            equal("code", &got, &want)
        },
    );
}

#[test]
fn nibble_order() {
    type Unpack = dyn Fn(u8) -> (u8, u8);
    prove::<Unpack>("nibbles", &e2m1::unpack, &[("high first", &|b| (b >> 4, b & 15))], |unpack| {
        // The even element is in the low nibble: 1.5 and -6.
        equal("codes", &[unpack(0xf3)], &[(3, 15)])
    });
}

#[test]
fn e8m0_codes() {
    type Decode = dyn Fn(u8) -> f32;
    prove::<Decode>(
        "E8M0",
        &e8m0::decode,
        &[
            ("0xff is 2^128", &|c| if c == 0xff { f32::INFINITY } else { e8m0::decode(c) }),
            ("0 is zero", &|c| f32::from_bits(u32::from(c) << 23)),
            ("read as E4M3", &e4m3::decode),
        ],
        |decode| {
            require(decode(0xff).is_nan(), "0xff is NaN")?;
            for c in 0..=254u8 {
                require(f64::from(decode(c)) == 2f64.powi(i32::from(c) - 127), format!("code {c}"))?;
            }
            Ok(())
        },
    );
}

/// A packer that lets mantissa bits into an exponent-only scale doubles it, or makes it NaN.
#[test]
fn exponent_only_scales_take_powers_of_two_only() {
    type Encode = dyn Fn(f32) -> Option<u8>;
    prove::<Encode>(
        "E8M0 packing",
        &e8m0::encode,
        &[("the mantissa is not masked", &|x| {
            Some((x.to_bits() >> 23) as u8 | (x.to_bits() >> 22) as u8 & 1)
        })],
        |encode| {
            for c in 0..=254u8 {
                require(encode(e8m0::decode(c)) == Some(c), format!("code {c}"))?;
            }
            [1.5f32, 3.0, 0.0, -1.0, f32::NAN]
                .iter()
                .try_for_each(|&x| require(encode(x).is_none(), format!("{x}")))
        },
    );
}

#[test]
fn detection_of_power_of_two_scales() {
    type Is = dyn Fn(u8) -> bool;
    prove::<Is>(
        "powers of two",
        &e4m3::is_power_of_two_or_zero,
        &[
            ("zero is none", &|c| c != 0 && e4m3::is_power_of_two_or_zero(c)),
            ("subnormals are none", &|c| c & 7 == 0),
            ("every subnormal is one", &|c| c & 7 == 0 || c < 8),
        ],
        |is| {
            for c in 0..0x7fu8 {
                let v = oracle::e4m3(c);
                require(is(c) == (v == 0.0 || v.log2().fract() == 0.0), format!("code {c:#04x}"))?;
            }
            Ok(())
        },
    );
}

/// The cast from MXFP4 changes no value, and says so where it cannot.
#[test]
fn cast_from_mxfp4() {
    type Cast = dyn Fn(&[u8], &[u8], &mut [u8]) -> Option<f32>;
    let real: &Cast = &|packed, codes, scales| mxfp4::cast_scales(packed, codes, scales).ok();
    let no_repeat: &Cast = &|packed, codes, scales| {
        let global = mxfp4::cast_scales(packed, codes, scales).ok()?;
        scales.iter_mut().skip(1).step_by(2).for_each(|s| *s = 0);
        Some(global)
    };
    let no_rebase: &Cast = &|packed, codes, scales| {
        mxfp4::cast_scales(packed, codes, scales).ok()?;
        Some(1.0)
    };
    let lossy: &Cast = &|_, codes, scales| {
        let max = codes.iter().max()?;
        for (pair, code) in scales.chunks_mut(2).zip(codes) {
            pair.fill(e4m3::encode(2f32.powi(i32::from(*code) - i32::from(*max) + 8)));
        }
        Some(2f32.powi(i32::from(*max) - 127 - 8))
    };
    let packed: Vec<u8> = (0..64u32).map(|i| (i * 37 % 251) as u8).collect();
    let mutants = [("one 16-block per scale", no_repeat), ("no rebase", no_rebase), ("a lossy cast", lossy)];
    prove::<Cast>("the MXFP4 cast", real, &mutants, |cast| {
        let mut scales = [0xee; 8];
        for codes in [[120, 125, 130, 127], [110, 127, 111, 114]] {
            let global = cast(&packed, &codes, &mut scales).ok_or("refused")?;
            for (block, &code) in codes.iter().enumerate() {
                for half in 0..2 {
                    let got = f64::from(e4m3::decode(scales[block * 2 + half])) * f64::from(global);
                    require(got == f64::from(e8m0::decode(code)), format!("block {block}: {got}"))?;
                }
            }
        }
        // 2^18 apart, with data; and NaN.
        let refused = [[100, 118, 118, 118], [127, 0xff, 127, 127]];
        refused.iter().try_for_each(|codes| {
            require(cast(&packed, codes, &mut scales).is_none(), format!("{codes:?} has no lossless form"))
        })
    });
}
