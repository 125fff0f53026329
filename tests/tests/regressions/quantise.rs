//! The activation quantiser: the CPU's (and the kernels') function against the oracle, byte by byte.

use megamoe::oracle::QuantisedRow;
use megamoe_tests::checkpoint_writer::Rng;
use megamoe_tests::golden::Golden;
use nvfp4::{BLOCK, e2m1, e4m3, quantize};

use super::harness::{Check, equal, prove, require};

/// Packed codes, block scales and the row's scale of a row under a given or its own global scale.
type Quantise = dyn Fn(&[f32], Option<f32>) -> (Vec<u8>, Vec<u8>, f32);

fn real(x: &[f32], given: Option<f32>) -> (Vec<u8>, Vec<u8>, f32) {
    let amax = quantize::amax_bits_of(x);
    let scale =
        quantize::row_scale(given.unwrap_or_else(|| quantize::tensor_scale_from_amax_bits(amax)), amax);
    let (mut packed, mut scales) = (vec![0xee; x.len() / 2], vec![0xee; x.len() / BLOCK]);
    quantize::quantize_row(x, scale, &mut packed, &mut scales);
    (packed, scales, scale)
}

/// The same formula with everything that can be got wrong as a parameter.
struct Formula {
    amax: fn(&[f32]) -> f32,
    global: fn(f32) -> f32,
    block_scale: fn(f32, f32) -> u8,
    code: fn(f32, f32, f32) -> u8,
    pack: fn(u8, u8) -> u8,
}

const MODELOPT: Formula = Formula {
    amax: |x| f32::from_bits(quantize::amax_bits_of(x)),
    global: |amax| amax / 2688.0,
    block_scale: |amax, s| {
        if amax == 0.0 { 0 } else { e4m3::encode((amax / (6.0 * s)).max(e4m3::MIN_POSITIVE)) }
    },
    code: |x, sf, s| {
        let step = sf * s;
        if step > 0.0 { e2m1::encode(x / step) } else { 0 }
    },
    pack: e2m1::pack,
};

impl Formula {
    fn run(&self, x: &[f32], given: Option<f32>) -> (Vec<u8>, Vec<u8>, f32) {
        let amax = (self.amax)(x);
        let scale = if amax.is_finite() { given.unwrap_or_else(|| (self.global)(amax)) } else { f32::NAN };
        let (mut packed, mut scales) = (Vec::new(), Vec::new());
        for block in x.chunks(BLOCK) {
            let amax = f32::from_bits(quantize::amax_bits_of(block));
            let sf = if scale.is_nan() || scale <= 0.0 { 0 } else { (self.block_scale)(amax, scale) };
            scales.push(sf);
            for pair in block.chunks(2) {
                let code = |x: f32| if scale > 0.0 { (self.code)(x, e4m3::decode(sf), scale) } else { 0 };
                packed.push((self.pack)(code(pair[0]), code(pair[1])));
            }
        }
        (packed, scales, scale)
    }
}

/// Rows with a reason each.
fn cases() -> Vec<(&'static str, Vec<f32>, Option<f32>)> {
    let mut rng = Rng::new(11, "quantise");
    let bf16 = |v: f32| nvfp4::bf16::round(v);
    let normal: Vec<f32> = (0..256).map(|_| bf16(rng.normal())).collect();
    // Multiples of a quarter with a maximum of 6 per block: every code's ties.
    let ties: Vec<f32> =
        (0..256).map(|i| if i % 16 == 0 { 6.0 } else { (i * 7 % 49 - 24) as f32 / 4.0 }).collect();
    let mut spread = Vec::new();
    for b in 0..32 {
        spread.extend((0..16).map(|_| bf16(rng.normal() * 10f32.powi(b / 3 - 9))));
    }
    let mut gaps = normal.clone();
    gaps[16..48].fill(0.0);
    gaps[64] = -0.0;
    let with = |at: usize, v: f32| {
        let mut x = normal.clone();
        x[at] = v;
        x
    };
    let golden = Golden::load();
    let given = |case: &str| {
        let get = |what: &str| golden.get(&format!("nvfp4_dynamic/{case}.{what}"));
        (get("x").f32(), Some(get("modelopt.s2").scalar_f32()))
    };
    // Where the order of operations shows: elements, and scales, on their boundaries.
    let (exact_ties, exact_ties_scale) = given("exact_e2m1_ties");
    let (scale_ties, scale_ties_scale) = given("e4m3_scale_ties");
    vec![
        ("ties of elements", exact_ties, exact_ties_scale),
        ("ties of scales", scale_ties, scale_ties_scale),
        ("normal", normal.clone(), None),
        ("ties", ties, Some(1.0)),
        ("from 1e-9 to 1e1", spread.clone(), None),
        ("from 1e-9 to 1e1, static", spread, Some(1e-3)),
        ("blocks of zeros", gaps, None),
        ("all zeros", vec![0.0; 64], None),
        ("a scale that is too small", normal.iter().map(|v| v * 100.0).collect(), Some(1e-3)),
        ("NaN", with(5, f32::NAN), None),
        ("infinity under a constant", with(200, f32::NEG_INFINITY), Some(0.01)),
        ("NaN under a constant", with(17, f32::NAN), Some(0.01)),
        ("beyond f16", with(3, 1e5), None),
        ("a maximum between powers of two", normal.iter().map(|v| v * 1.37).collect(), None),
    ]
}

fn check(quantise: &Quantise) -> Check {
    for (what, x, given) in cases() {
        let amax =
            x.iter().fold(0.0f32, |m, v| if m.is_nan() || v.is_nan() { f32::NAN } else { m.max(v.abs()) });
        let want = QuantisedRow::quantise(&x, given.unwrap_or((f64::from(amax) / 2688.0) as f32));
        let (packed, scales, scale) = quantise(&x, given);
        let same = scale == want.scale || (scale.is_nan() && want.scale.is_nan());
        require(same, format!("{what}: scale {scale:e}, not {:e}", want.scale))?;
        equal(&format!("{what}: scales"), &scales, &want.scales)?;
        equal(&format!("{what}: codes"), &packed, &want.packed)?;
    }
    Ok(())
}

#[test]
fn quantiser() {
    let m = |f: Formula| move |x: &[f32], given: Option<f32>| f.run(x, given);
    check(&m(MODELOPT)).expect("the formula without a mutation is right");
    let mutants: &[(&str, &Quantise)] = &[
        (
            "reciprocal of six",
            &m(Formula {
                block_scale: |a, s| {
                    if a == 0.0 { 0 } else { e4m3::encode((a * (1.0 / 6.0) / s).max(e4m3::MIN_POSITIVE)) }
                },
                ..MODELOPT
            }),
        ),
        (
            "reciprocal of the step",
            &m(Formula {
                code: |x, sf, s| if sf * s > 0.0 { e2m1::encode(x * (1.0 / (sf * s))) } else { 0 },
                ..MODELOPT
            }),
        ),
        (
            "floor of 2^-6",
            &m(Formula {
                block_scale: |a, s| if a == 0.0 { 0 } else { e4m3::encode((a / (6.0 * s)).max(0.015625)) },
                ..MODELOPT
            }),
        ),
        ("no floor", &m(Formula { block_scale: |a, s| e4m3::encode(a / (6.0 * s)), ..MODELOPT })),
        (
            "scales rounded up",
            &m(Formula {
                block_scale: |a, s| {
                    if a == 0.0 {
                        0
                    } else {
                        (e4m3::encode((a / (6.0 * s)).max(e4m3::MIN_POSITIVE)) + 1).min(0x7e)
                    }
                },
                ..MODELOPT
            }),
        ),
        (
            "power-of-two scales",
            &m(Formula { global: |a| 2f32.powi((a / 2688.0).log2().ceil() as i32), ..MODELOPT }),
        ),
        ("amax over 448 only", &m(Formula { global: |a| a / 448.0, ..MODELOPT })),
        ("amax as a floor of 1e-4", &m(Formula { global: |a| a.max(1e-4) / 2688.0, ..MODELOPT })),
        (
            "scale of zero blocks is one",
            &m(Formula {
                block_scale: |a, s| if a == 0.0 { 0x38 } else { (MODELOPT.block_scale)(a, s) },
                ..MODELOPT
            }),
        ),
        ("division by a zero scale", &m(Formula { code: |x, sf, s| e2m1::encode(x / (sf * s)), ..MODELOPT })),
        (
            "overflow of a scale is NaN",
            &m(Formula {
                block_scale: |a, s| if a / (6.0 * s) > 464.0 { 0x7f } else { (MODELOPT.block_scale)(a, s) },
                ..MODELOPT
            }),
        ),
        (
            "a maximum that drops NaN",
            &m(Formula { amax: |x| x.iter().fold(0.0, |m: f32, v| m.max(v.abs())), ..MODELOPT }),
        ),
        (
            "the maximum instead of the absolute one",
            &m(Formula {
                amax: |x| x.iter().fold(0.0, |m: f32, v| if v.is_nan() { *v } else { m.max(*v) }),
                ..MODELOPT
            }),
        ),
        (
            "an f16 maximum",
            &m(Formula {
                amax: |x| half::f16::from_f32(f32::from_bits(quantize::amax_bits_of(x))).to_f32(),
                ..MODELOPT
            }),
        ),
        (
            "codes scaled by the block scale only",
            &m(Formula { code: |x, sf, _| if sf > 0.0 { e2m1::encode(x / sf) } else { 0 }, ..MODELOPT }),
        ),
        (
            "codes by the scale before its rounding",
            &m(Formula {
                code: |x, sf, s| if sf > 0.0 { e2m1::encode(x / (sf * 1.03 * s)) } else { 0 },
                ..MODELOPT
            }),
        ),
        ("high nibble first", &m(Formula { pack: |even, odd| e2m1::pack(odd, even), ..MODELOPT })),
    ];
    prove::<Quantise>("the quantiser", &real, mutants, check);
}

/// One bad row spoils itself only.
#[test]
fn a_bad_row_is_contained() {
    let rows: Vec<Vec<f32>> = [1.0, f32::NAN, 3.0]
        .iter()
        .map(|&v| (0..32).map(|k| if k == 4 { v } else { 0.5 }).collect())
        .collect();
    type Rows = dyn Fn(&[Vec<f32>]) -> Vec<f32>;
    let own: &Rows = &|rows| rows.iter().map(|r| real(r, None).2).collect();
    let together: &Rows = &|rows| {
        let amax = rows.iter().flatten().fold(0.0f32, |m, v| if v.is_nan() { *v } else { m.max(v.abs()) });
        vec![amax / 2688.0; rows.len()]
    };
    let dropped: &Rows =
        &|rows| rows.iter().map(|r| r.iter().fold(0.0f32, |m, v| m.max(v.abs())) / 2688.0).collect();
    let mutants = [("one NaN for all", together), ("NaN becomes a number", dropped)];
    prove("containment", own, &mutants, |scales| {
        let s = scales(&rows);
        require(s[0] == 1.0 / 2688.0 && s[1].is_nan() && s[2] == 3.0 / 2688.0, format!("{s:?}"))
    });
}
