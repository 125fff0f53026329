//! The measure of agreement itself: what it must reject, and what other measures let pass.

use megamoe::metrics::{BAR, Metrics};
use megamoe_tests::checkpoint_writer::Rng;

use super::harness::{prove, require};

#[test]
fn the_bar() {
    type Accepts = dyn Fn(&[f32], &[f32]) -> bool;
    let mut rng = Rng::new(31, "measure");
    let want: Vec<f32> = (0..4096).map(|_| rng.normal()).collect();
    let noisy =
        |share: f32, rng: &mut Rng| -> Vec<f32> { want.iter().map(|v| v + share * rng.normal()).collect() };
    let fine = noisy(1e-3, &mut rng);
    let mut lost = want.clone();
    lost[..64].fill(0.0);
    let mut nan = want.clone();
    nan[7] = f32::NAN;
    let wrong: [(&str, Vec<f32>); 7] = [
        ("1.25 times the amplitude", want.iter().map(|v| v * 1.25).collect()),
        ("the scaling factor twice", want.iter().map(|v| v * 2.5).collect()),
        ("an amplitude 0.2 % off", want.iter().map(|v| v * 1.002).collect()),
        ("a lost row", lost),
        ("noise of 1 %", noisy(0.01, &mut rng)),
        ("a NaN", nan),
        ("zeros", vec![0.0; want.len()]),
    ];
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let cosine = move |a: &[f32], b: &[f32]| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    let close = |a: &[f32], b: &[f32], atol: f32, rtol: f32| {
        let near = a.iter().zip(b).filter(|(a, b)| (*a - *b).abs() <= atol + rtol * b.abs()).count();
        near as f64 / a.len() as f64
    };
    let mutants: &[(&str, &Accepts)] = &[
        ("a cosine of 0.98", &move |a, b| cosine(a, b) >= 0.98),
        ("a cosine of 0.999999", &move |a, b| cosine(a, b) >= 0.999_999),
        ("92 % of elements within 0.1 + 85 %", &move |a, b| close(a, b, 0.1, 0.85) >= 0.92),
        ("all elements within 0.1 + 10 %", &move |a, b| close(a, b, 0.1, 0.1) >= 1.0),
        ("norms only", &move |a, b| (dot(a, a) / dot(b, b)).sqrt() - 1.0 <= 1e-3),
        ("a difference that ignores NaN", &|a, b| {
            let sum = |f: &dyn Fn(f32, f32) -> f32| -> f64 {
                a.iter().zip(b).map(|(a, b)| f64::from(f(*a, *b))).filter(|v| !v.is_nan()).sum()
            };
            sum(&|a, b| (a - b) * (a - b)) <= BAR.rel_l2 * BAR.rel_l2 * sum(&|_, b| b * b)
        }),
    ];
    prove::<Accepts>("the bar", &|a, b| Metrics::of(a, b).passes(&BAR), mutants, |accepts| {
        require(accepts(&want, &want) && accepts(&fine, &want), "rounding noise is accepted")?;
        wrong.iter().try_for_each(|(what, got)| require(!accepts(got, &want), format!("{what} is accepted")))
    });
}
