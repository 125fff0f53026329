//! Routing: top-k against a sort, permutations, softmax's warp order, weights.

use nvfp4::routing::{self, Scoring};
use proptest::prelude::*;
use std::cmp::Ordering;

fn top_k(keys: &[f32], k: usize) -> Vec<u32> {
    let mut ids = vec![u32::MAX; k];
    routing::top_k(keys, &mut ids);
    ids
}

/// By definition: larger first, NaN last, lower id on ties, -0 equal to +0.
fn sorted(keys: &[f32]) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..keys.len() as u32).collect();
    ids.sort_by(|&a, &b| {
        let (x, y) = (keys[a as usize], keys[b as usize]);
        match (x.is_nan(), y.is_nan()) {
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (true, true) => a.cmp(&b),
            (false, false) => y.partial_cmp(&x).unwrap().then(a.cmp(&b)),
        }
    });
    ids
}

/// Keys with many ties and every special value.
fn key() -> impl Strategy<Value = f32> {
    prop_oneof![
        4 => -3.0f32..3.0,
        2 => (-2i8..=2).prop_map(f32::from),
        1 => prop::sample::select(vec![0.0, -0.0, f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MIN]),
        1 => any::<u32>().prop_map(f32::from_bits),
    ]
}

/// What 32 lanes do: lane-strided partial sums, then a butterfly (shfl.xor) of 16, 8, 4, 2, 1. Every lane's result.
fn warp_sum(values: &[f32]) -> [f32; 32] {
    let mut lanes: [f32; 32] =
        std::array::from_fn(|lane| values.iter().skip(lane).step_by(32).fold(0.0, |s, v| s + v));
    for distance in [16, 8, 4, 2, 1] {
        lanes = std::array::from_fn(|lane| lanes[lane] + lanes[lane ^ distance]);
    }
    lanes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn top_k_is_a_prefix_of_the_sort(keys in prop::collection::vec(key(), 1..400), k in 0usize..20) {
        let k = k.min(keys.len());
        prop_assert_eq!(top_k(&keys, k), &sorted(&keys)[..k]);
    }

    #[test]
    fn all_experts_give_a_permutation(keys in prop::collection::vec(key(), 1..60)) {
        let mut ids = top_k(&keys, keys.len());
        ids.sort_unstable();
        prop_assert!(ids.into_iter().eq(0..keys.len() as u32));
    }

    /// Renumbering the experts renumbers the choice, when no two keys tie.
    #[test]
    fn permutation_equivariance(keys in prop::collection::vec(key(), 1..100), rotate in 0usize..100, k in 1usize..9) {
        let mut distinct: Vec<f32> = keys.iter().copied().filter(|k| !k.is_nan()).collect();
        distinct.sort_by(f32::total_cmp);
        distinct.dedup_by(|a, b| *a == *b);
        prop_assume!(!distinct.is_empty());
        // A fixed shuffle (7919 is prime and n is below it), so that the order is not the sorted one.
        let n = distinct.len();
        let shuffled: Vec<f32> = (0..n).map(|i| distinct[(i * 7919 + 3) % n]).collect();
        let rotated: Vec<f32> = (0..n).map(|i| shuffled[(i + rotate) % n]).collect();
        let k = k.min(n);
        let direct = top_k(&shuffled, k);
        let back: Vec<u32> = top_k(&rotated, k).into_iter().map(|id| ((id as usize + rotate) % n) as u32).collect();
        prop_assert_eq!(back, direct);
    }

    /// `beats` is a strict total order: what a tournament in any order needs.
    #[test]
    fn beats_is_a_strict_total_order(a in key(), b in key(), c in key(), i in 0u32..3, j in 0u32..3, l in 0u32..3) {
        let beats = |(k1, i1): (f32, u32), (k2, i2): (f32, u32)| routing::beats(k1, i1, k2, i2);
        let (x, y, z) = ((a, i), (b, j + 3), (c, l + 6));
        prop_assert!(!beats(x, x));
        prop_assert!(beats(x, y) != beats(y, x));
        prop_assert!(!(beats(x, y) && beats(y, z)) || beats(x, z));
    }

    /// Softmax is what a warp computes, bit for bit, and every lane gets the same sum.
    #[test]
    fn softmax_in_warp_order(x in prop::collection::vec(-30f32..30.0, 1..500)) {
        let max = x.iter().fold(f32::NEG_INFINITY, |a, v| a.max(*v));
        let exps: Vec<f32> = x.iter().map(|v| nvfp4::math::exp(v - max)).collect();
        let sums = warp_sum(&exps);
        prop_assert!(sums.iter().all(|s| s.to_bits() == sums[0].to_bits()));
        let mut got = x.clone();
        routing::scores(&mut got, Scoring::Softmax);
        for (v, e) in got.iter().zip(&exps) {
            prop_assert_eq!(v.to_bits(), (e / sums[0]).to_bits());
        }
        // And close to the real thing.
        let exact: Vec<f64> = x.iter().map(|v| f64::from(v - max).exp()).collect();
        let sum: f64 = exact.iter().sum();
        for (v, e) in got.iter().zip(&exact) {
            prop_assert!((f64::from(*v) - e / sum).abs() <= 1e-6 * (e / sum));
        }
    }

    /// Element-wise scores do not see their neighbours.
    #[test]
    fn scores_are_element_wise(x in prop::collection::vec(key(), 1..50)) {
        for (scoring, one) in [
            (Scoring::SqrtSoftplus, nvfp4::math::sqrt_softplus as fn(f32) -> f32),
            (Scoring::Sigmoid, nvfp4::math::sigmoid),
        ] {
            let mut got = x.clone();
            routing::scores(&mut got, scoring);
            for (got, x) in got.iter().zip(&x) {
                prop_assert!(got.to_bits() == one(*x).to_bits() || (got.is_nan() && x.is_nan()));
                prop_assert!(got.is_nan() == x.is_nan() && (got.is_nan() || *got >= 0.0));
            }
        }
    }

    /// Weights: f64 agreement, slot order, and a sum of `scaling` when normalised.
    #[test]
    fn weights_by_definition(
        scores in prop::collection::vec(1e-3f32..20.0, 1..17),
        scaling in 0.1f32..4.0,
        normalise in any::<bool>(),
    ) {
        let mut got = scores.clone();
        routing::weights(&mut got, normalise, scaling);
        let sum: f64 = if normalise { scores.iter().map(|s| f64::from(*s)).sum::<f64>() + 1e-20 } else { 1.0 };
        for (got, s) in got.iter().zip(&scores) {
            let want = f64::from(*s) / sum * f64::from(scaling);
            prop_assert!((f64::from(*got) - want).abs() <= 1.5e-6 * want);
        }
        // The sum runs in slot order.
        if normalise {
            let sum = scores.iter().fold(0.0f32, |a, s| a + s) + routing::NORM_EPS;
            for (got, s) in got.iter().zip(&scores) {
                prop_assert_eq!(got.to_bits(), (s / sum * scaling).to_bits());
            }
        }
    }
}

#[test]
fn nan_logits_still_give_distinct_experts() {
    for scoring in [Scoring::SqrtSoftplus, Scoring::Sigmoid, Scoring::Softmax] {
        let mut row = vec![f32::NAN; 256];
        routing::scores(&mut row, scoring);
        assert_eq!(top_k(&row, 6), [0, 1, 2, 3, 4, 5]);
        let mut row: Vec<f32> = (0..256).map(|i| (i as f32 * 0.7).sin()).collect();
        row[17] = f32::NAN;
        routing::scores(&mut row, scoring);
        let mut ids = top_k(&row, 256);
        // Under softmax the whole row is NaN; otherwise expert 17 is the last choice.
        assert_eq!(ids[255], if scoring == Scoring::Softmax { 255 } else { 17 });
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 256);
    }
}

#[test]
fn very_low_logits_keep_their_weights() {
    // Every softplus here is subnormal or 0; the scores and their ratio are not.
    let mut row = [-105.0f32, -104.0, -180.0];
    routing::scores(&mut row, Scoring::SqrtSoftplus);
    assert!((row[1] / row[0] - 0.5f32.exp()).abs() < 1e-6);
    assert!(row[2] > 0.0);
    // Below the epsilon of the normalisation they fade out, they do not become NaN.
    let mut weights = [row[0], row[1]];
    routing::weights(&mut weights, true, 1.0);
    assert!(weights.iter().all(|w| *w > 0.0 && *w < 0.5));
}

#[test]
fn softmax_edges() {
    let mut one = [-1e30];
    routing::softmax(&mut one);
    assert_eq!(one, [1.0]);
    let mut far = [0.0, -200.0, 1.0];
    routing::softmax(&mut far);
    assert_eq!(far[1], 0.0);
    let mut all_low = [f32::NEG_INFINITY; 4];
    routing::softmax(&mut all_low);
    assert!(all_low.iter().all(|v| v.is_nan()), "-inf - -inf has no answer");
    routing::softmax(&mut []);
}

#[test]
fn too_many_experts_asked_for() {
    assert!(std::panic::catch_unwind(|| top_k(&[1.0], 2)).is_err());
    assert_eq!(top_k(&[1.0], 0), [0u32; 0]);
}
