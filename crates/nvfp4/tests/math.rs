//! How accurate the crate's own functions are, in ulps of the correctly rounded f32, against f64.
//!
//! The bounds are the worst errors over *every* f32 of the stated range, found by the ignored sweeps; the strided
//! sweeps that always run hold them. `docs/numerics.md` quotes the table.

use nvfp4::{math, swiglu};

/// Error of `got` in units of the last place of the f32 nearest to `want`.
fn ulps(got: f32, want: f64) -> f64 {
    let near = (want as f32).abs();
    if !near.is_finite() || near == f32::MAX {
        return if f64::from(got) == want || got == want as f32 { 0.0 } else { f64::INFINITY };
    }
    let ulp = f64::from(f32::from_bits(near.to_bits() + 1)) - f64::from(near);
    (f64::from(got) - want).abs() / ulp
}

struct Function {
    name: &'static str,
    ours: fn(f32) -> f32,
    exact: fn(f64) -> f64,
    /// Range of arguments, inclusive.
    range: (f32, f32),
    /// Worst error over every f32 of the range: at most this, and more than this less 0.01.
    worst: f64,
}

/// The f64 functions err by less than 1e-15, a hundred-millionth of an ulp here. Below its range each function is 0
/// (see `limits`).
const FUNCTIONS: [Function; 6] = [
    Function { name: "exp", ours: math::exp, exact: f64::exp, range: (-104.0, 88.722_84), worst: 0.99 },
    Function {
        name: "ln_1p_unit",
        ours: math::ln_1p_unit,
        exact: f64::ln_1p,
        range: (0.0, 1.0),
        worst: 1.97,
    },
    Function {
        name: "sigmoid",
        ours: math::sigmoid,
        exact: sigmoid,
        range: (-88.722_83, 200.0),
        worst: 2.49,
    },
    Function { name: "softplus", ours: math::softplus, exact: softplus, range: (-104.0, 200.0), worst: 2.80 },
    Function {
        name: "sqrt_softplus",
        ours: math::sqrt_softplus,
        exact: |x| softplus(x).sqrt(),
        range: (-208.0, 200.0),
        worst: 1.90,
    },
    Function {
        name: "silu",
        ours: swiglu::silu,
        exact: |x| x / (1.0 + (-x).exp()),
        range: (-88.722_83, 200.0),
        worst: 2.41,
    },
];

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// Worst error over every `stride`-th f32 of the range, and where.
fn sweep(f: &Function, stride: usize) -> (f64, f32) {
    let mut worst = (0.0, 0.0);
    let mut visit = |x: f32| {
        let error = ulps((f.ours)(x), (f.exact)(f64::from(x)));
        if error > worst.0 {
            worst = (error, x);
        }
    };
    let (low, high) = f.range;
    if low < 0.0 {
        for bits in (0..=(-low).to_bits()).step_by(stride) {
            visit(-f32::from_bits(bits));
        }
    }
    for bits in (0..=high.to_bits()).step_by(stride) {
        visit(f32::from_bits(bits));
    }
    visit(low);
    visit(high);
    worst
}

#[test]
fn accuracy_on_a_sweep() {
    for f in &FUNCTIONS {
        let (worst, at) = sweep(f, 2003);
        assert!(worst <= f.worst, "{}: {worst} ulp at {at:e}, known worst {}", f.name, f.worst);
        // Not far below either: the table would be stale.
        assert!(worst >= f.worst - 0.6, "{}: only {worst} ulp", f.name);
    }
}

#[test]
#[ignore = "every f32 of every range: ten minutes"]
fn accuracy_on_every_f32() {
    for f in &FUNCTIONS {
        let (worst, at) = sweep(f, 1);
        println!("{}: {worst:.4} ulp at {at:e}", f.name);
        assert!(worst <= f.worst && worst > f.worst - 0.01, "{}: {worst} ulp at {at:e}", f.name);
    }
}

#[test]
#[ignore = "all 2^31 non-negative inputs: two minutes"]
fn sqrt_on_every_f32() {
    for bits in 0..=0x7f80_0000 {
        let x = f32::from_bits(bits);
        if math::sqrt(x).to_bits() != x.sqrt().to_bits() {
            panic!("{x:e} ({bits:#010x})");
        }
    }
}

#[test]
fn sqrt_special_values() {
    for bits in [
        0x8000_0001,
        0x8080_0000,
        0xbf80_0000,
        0xff7f_ffff,
        0xff80_0000,
        0x7fc0_0000,
        0x7f80_0001,
        0xffff_ffff,
    ] {
        assert_eq!(math::sqrt(f32::from_bits(bits)).to_bits(), 0x7fc0_0000, "{bits:#x}");
    }
    for x in [0.0, -0.0, f32::INFINITY] {
        assert_eq!(math::sqrt(x).to_bits(), x.to_bits());
    }
}

/// Outside the ranges: the limits, exactly.
#[test]
fn limits() {
    let inf = f32::INFINITY;
    let beyond = 88.722_85f32;
    assert!(beyond > 88.722_84);
    for x in [beyond, 89.0, 1e30, f32::MAX, inf] {
        assert_eq!(math::exp(x), inf);
        assert_eq!(math::exp(-x * 1.2), 0.0);
        assert_eq!(math::sigmoid(x), 1.0);
        assert_eq!(math::sigmoid(-x), 0.0);
        assert_eq!(math::softplus(x), x);
        assert_eq!(math::softplus(-x * 1.2), 0.0);
        assert_eq!(math::sqrt_softplus(x), x.sqrt());
        assert_eq!(math::sqrt_softplus(-x * 2.4), 0.0);
        assert_eq!(swiglu::silu(x), x);
    }
    assert_eq!(swiglu::silu(-beyond).to_bits(), 0x8000_0000, "-0: the true value is -2.6e-37");
    assert_eq!(swiglu::silu(-1e30).to_bits(), 0x8000_0000);
    // -inf / inf: a gate of -infinity is no number, as in x / (1 + exp(-x)) everywhere.
    assert!(swiglu::silu(-inf).is_nan());
    for f in &FUNCTIONS {
        assert!((f.ours)(f32::NAN).is_nan(), "{}", f.name);
        assert!((f.ours)(-f32::NAN).is_nan(), "{}", f.name);
    }
    assert_eq!(math::sqrt_softplus(0.0), 2f32.ln().sqrt());
}

/// The two forms of sqrt(softplus) meet at -18 without a step back of more than one ulp, and the whole is monotone to
/// an ulp: what top-k by score needs.
#[test]
fn sqrt_softplus_is_monotone_to_an_ulp() {
    let mut previous = 0.0f32;
    let mut x = -210.0f32;
    while x < 200.0 {
        let score = math::sqrt_softplus(x);
        assert!(score.to_bits() + 2 >= previous.to_bits(), "{x}: {score:e} after {previous:e}");
        previous = score;
        x += 0.000_9;
    }
    let seam: Vec<f32> =
        (0..2000).map(|i| math::sqrt_softplus(f32::from_bits((-18.0f32).to_bits() + 1000 - i))).collect();
    assert!(seam.windows(2).all(|w| w[1].to_bits() + 2 >= w[0].to_bits()));
}

/// sqrt(softplus) keeps full precision where softplus itself is subnormal or 0.
#[test]
fn sqrt_softplus_outlives_softplus() {
    assert_eq!(math::softplus(-110.0), 0.0);
    for x in [-88.0f32, -95.0, -103.0, -110.0, -150.0, -174.0] {
        let want = (f64::from(x) / 2.0).exp();
        assert!(ulps(math::sqrt_softplus(x), want) <= 1.5, "{x}");
    }
}
