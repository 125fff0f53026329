//! The same bits everywhere: one digest of every function over a fixed corpus, and constant evaluation (the
//! compiler's own IEEE arithmetic) against the running code.
//!
//! The digests are constants of the crate. Debug and release builds, every `-C opt-level`, `-C target-cpu=native`
//! (with its FMA instructions) and every target must reproduce them; the tests are run that way in CI.

use nvfp4::{bf16, e2m1, e4m3, math, quantize, routing, swiglu};

/// FNV-1a over the bits of results; NaN payloads are not part of the contract.
struct Digest(u64);

impl Digest {
    fn new() -> Digest {
        Digest(0xcbf2_9ce4_8422_2325)
    }

    fn byte(&mut self, byte: u8) {
        self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }

    fn f32(&mut self, x: f32) {
        let bits = if x.is_nan() { 0x7fc0_0000 } else { x.to_bits() };
        bits.to_le_bytes().into_iter().for_each(|b| self.byte(b));
    }
}

/// Every 9973rd f32 pattern: all exponents, both signs, subnormals, infinities and NaNs.
fn corpus() -> impl Iterator<Item = f32> {
    (0..=u32::MAX).step_by(9973).map(f32::from_bits)
}

/// The arguments that matter: evenly spaced in -210..=210.
fn arguments() -> impl Iterator<Item = f32> {
    (-430_080..=430_080).map(|i| i as f32 / 2048.0)
}

/// xorshift; values of every magnitude around 1.
fn pseudo_random() -> impl FnMut() -> f32 {
    let mut state = 0x9e37_79b9u32;
    move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        let unit = (state >> 8) as f32 / 16_777_216.0 - 0.5;
        unit * f32::from_bits((120 + (state & 15)) << 23)
    }
}

#[test]
fn codecs() {
    let mut d = Digest::new();
    for x in corpus() {
        d.byte(e2m1::encode(x));
        d.byte(e4m3::encode(x));
        d.f32(bf16::round(x));
    }
    assert_eq!(d.0, 0xfaa5_9313_839b_1dd7, "{:#x}", d.0);
}

#[test]
fn functions() {
    for (name, f, want) in [
        ("exp", math::exp as fn(f32) -> f32, 0xa8fe_63cc_1f40_c101),
        (
            "ln_1p_unit",
            |x| math::ln_1p_unit(if x.abs() <= 1.0 { x.abs() } else { 1.0 / x.abs() }),
            0xce54_1a5b_c794_8fa8,
        ),
        ("sqrt", math::sqrt, 0x188f_38cf_d7e9_51f3),
        ("sigmoid", math::sigmoid, 0x342e_3e8b_aa0e_dad0),
        ("softplus", math::softplus, 0x5571_ef47_b0cb_0b62),
        ("sqrt_softplus", math::sqrt_softplus, 0x929c_ee6c_c20a_b155),
        ("silu", swiglu::silu, 0x4c8d_67de_b68c_786f),
    ] {
        let mut d = Digest::new();
        corpus().chain(arguments()).for_each(|x| d.f32(f(x)));
        assert_eq!(d.0, want, "{name}: {:#x}", d.0);
    }
}

#[test]
fn layers_of_it() {
    let mut d = Digest::new();
    let mut next = pseudo_random();
    for round in 0..2000 {
        let row: [f32; 128] = std::array::from_fn(|_| next());
        let amax = quantize::amax_bits_of(&row);
        let dynamic = quantize::tensor_scale_from_amax_bits(amax);
        let s2 = [dynamic, dynamic * 3.7, swiglu::bound_scale(10.0)][round % 3];
        let (mut packed, mut scales) = ([0; 64], [0; 8]);
        quantize::quantize_row(&row, s2, &mut packed, &mut scales);
        packed.into_iter().chain(scales).for_each(|b| d.byte(b));
        for i in 0..16 {
            d.f32(quantize::dequantize(packed[i] & 15, scales[i / 2], s2));
            d.f32(swiglu::swiglu(row[2 * i], row[2 * i + 1], 7.0));
        }
        let mut scores = row;
        let kinds = [routing::Scoring::SqrtSoftplus, routing::Scoring::Sigmoid, routing::Scoring::Softmax];
        routing::scores(&mut scores, kinds[round % 3]);
        let mut ids = [0; 6];
        routing::top_k(&scores, &mut ids);
        let mut weights = ids.map(|id| scores[id as usize]);
        routing::weights(&mut weights, round % 2 == 0, 2.5);
        ids.into_iter().for_each(|id| d.byte(id as u8));
        weights.into_iter().for_each(|w| d.f32(w));
    }
    assert_eq!(d.0, 0xa71d_cf09_264b_9906, "{:#x}", d.0);
}

const N: usize = 96;

/// Arguments for the constant evaluation: -104 .. 88 and the bits of a xorshift.
const ARGUMENTS: [f32; N] = {
    let mut x = [0.0; N];
    let mut state = 0x1234_5678u32;
    let mut i = 0;
    while i < N {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        x[i] = if i % 3 == 0 {
            f32::from_bits(state & 0xbfff_ffff)
        } else {
            i as f32 * 2.03 - 106.0 + (state & 1023) as f32 / 1024.0
        };
        i += 1;
    }
    x
};

/// `functions(x)` for each argument.
const fn evaluate(x: &[f32; N]) -> [[f32; 7]; N] {
    let mut out = [[0.0; 7]; N];
    let mut i = 0;
    while i < N {
        let v = x[i];
        out[i] = [
            math::exp(v),
            math::sqrt(v),
            math::softplus(v),
            math::sqrt_softplus(v),
            swiglu::swiglu(v, x[(i + 1) % N], 10.0),
            e4m3::decode(e4m3::encode(v)),
            quantize::tensor_scale_from_amax_bits(quantize::amax_bits(v)),
        ];
        i += 1;
    }
    out
}

const fn blocks(x: &[f32; N]) -> [quantize::Block; N / 16] {
    let mut out = [quantize::Block::ZERO; N / 16];
    let mut b = 0;
    while b < N / 16 {
        let mut block = [0.0; 16];
        let mut i = 0;
        while i < 16 {
            block[i] = x[b * 16 + i];
            i += 1;
        }
        out[b] = quantize::quantize_block(&block, 0.013);
        b += 1;
    }
    out
}

/// The compiler evaluates constants in software IEEE arithmetic: an independent executor of the same source.
#[test]
fn constant_evaluation_equals_run_time() {
    const VALUES: [[f32; 7]; N] = evaluate(&ARGUMENTS);
    const BLOCKS: [quantize::Block; N / 16] = blocks(&ARGUMENTS);
    let arguments = std::hint::black_box(ARGUMENTS);
    for (i, (run, constant)) in evaluate(&arguments).into_iter().zip(VALUES).enumerate() {
        for (f, (run, constant)) in run.into_iter().zip(constant).enumerate() {
            let same = run.to_bits() == constant.to_bits() || (run.is_nan() && constant.is_nan());
            assert!(same, "function {f} of {:e}: {run:e} and {constant:e}", ARGUMENTS[i]);
        }
    }
    assert_eq!(blocks(&arguments), BLOCKS);
}
