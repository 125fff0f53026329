//! Router scores, top-k selection and routing weights.
//!
//! Source: DeepSeek-V4's `Gate` (scores = sqrt(softplus(logits)), selection by score + bias, weights from the
//! unbiased scores, normalised, times `routed_scaling_factor`); sigmoid and softmax are the same with another
//! score function. All in f32, all sums in a fixed order that a warp reproduces.

use crate::math;

/// Added to the sum of the selected scores before the division.
pub const NORM_EPS: f32 = 1e-20;

/// Lanes of the fixed summation order of [`softmax`].
pub const LANES: usize = 32;

/// How logits become scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scoring {
    /// `sqrt(ln(1 + e^x))`, DeepSeek-V4.
    SqrtSoftplus,
    /// `1 / (1 + e^-x)`, DeepSeek-V3.
    Sigmoid,
    /// `e^x / sum e^x` over all experts.
    Softmax,
}

/// Turns a row of logits into scores in place. A NaN logit gives a NaN score (under softmax, a NaN row).
pub fn scores(logits: &mut [f32], scoring: Scoring) {
    match scoring {
        Scoring::SqrtSoftplus => logits.iter_mut().for_each(|x| *x = math::sqrt_softplus(*x)),
        Scoring::Sigmoid => logits.iter_mut().for_each(|x| *x = math::sigmoid(*x)),
        Scoring::Softmax => softmax(logits),
    }
}

/// Softmax with the maximum subtracted. The sum runs in [`LANES`] partial sums (element `i` goes to lane
/// `i % 32`, in order) that are then added pairwise at distances 16, 8, 4, 2, 1: what a warp does.
pub fn softmax(x: &mut [f32]) {
    let mut max = f32::NEG_INFINITY;
    for &v in x.iter() {
        // NaN must win: a plain maximum would drop it.
        if v > max || v.is_nan() {
            max = v;
        }
        if max.is_nan() {
            break;
        }
    }
    let mut lanes = [0.0f32; LANES];
    for (i, v) in x.iter_mut().enumerate() {
        *v = math::exp(*v - max);
        lanes[i % LANES] += *v;
    }
    let mut distance = LANES / 2;
    while distance > 0 {
        for lane in 0..distance {
            lanes[lane] += lanes[lane + distance];
        }
        distance /= 2;
    }
    for v in x.iter_mut() {
        *v /= lanes[0];
    }
}

/// Whether candidate `(key, id)` beats `(best_key, best_id)`: larger key first, lower id on a tie, NaN after
/// everything (so that a NaN row still selects distinct, defined ids: 0, 1, 2, ...).
#[inline(always)]
pub const fn beats(key: f32, id: u32, best_key: f32, best_id: u32) -> bool {
    match (key.is_nan(), best_key.is_nan()) {
        (true, false) => false,
        (false, true) => true,
        (true, true) => id < best_id,
        // -0 == +0: a tie, by id.
        (false, false) => key > best_key || (key == best_key && id < best_id),
    }
}

/// The ids of the `ids.len()` largest `keys`, best first. All ids are distinct.
///
/// # Panics
/// If there are fewer keys than ids.
pub fn top_k(keys: &[f32], ids: &mut [u32]) {
    assert!(ids.len() <= keys.len(), "top-k of {} among {} experts", ids.len(), keys.len());
    for slot in 0..ids.len() {
        let (taken, rest) = ids.split_at_mut(slot);
        let mut best = None;
        for (id, &key) in keys.iter().enumerate() {
            let id = id as u32;
            if taken.contains(&id) {
                continue;
            }
            if best.is_none_or(|b: u32| beats(key, id, keys[b as usize], b)) {
                best = Some(id);
            }
        }
        // Some: there are more keys than taken ids.
        rest[0] = best.unwrap_or(0);
    }
}

/// Routing weights of one token from its selected *unbiased* scores: `score / (sum + 1e-20) * scaling` if
/// `normalise`, else `score * scaling`. The sum runs in slot order.
pub fn weights(selected: &mut [f32], normalise: bool, scaling: f32) {
    if normalise {
        let mut sum = 0.0f32;
        for &s in selected.iter() {
            sum += s;
        }
        let sum = sum + NORM_EPS;
        selected.iter_mut().for_each(|s| *s = *s / sum * scaling);
    } else {
        selected.iter_mut().for_each(|s| *s *= scaling);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn top(keys: &[f32], k: usize) -> Vec<u32> {
        let mut ids = vec![99; k];
        top_k(keys, &mut ids);
        ids
    }

    #[test]
    fn lower_id_wins_ties() {
        assert_eq!(top(&[1.0, 2.0, 2.0, 0.0, -0.0], 4), [1, 2, 0, 3]);
    }

    #[test]
    fn all_negative_keys() {
        assert_eq!(top(&[-5.0, -1.0, -3.0], 2), [1, 2]);
        assert_eq!(top(&[f32::NEG_INFINITY; 3], 2), [0, 1]);
    }

    #[test]
    fn nan_is_last_and_ids_stay_distinct() {
        assert_eq!(top(&[f32::NAN, 1.0, f32::NAN, f32::NEG_INFINITY], 4), [1, 3, 0, 2]);
        assert_eq!(top(&[f32::NAN; 8], 6), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn weights_sum_to_the_scaling_factor() {
        let mut s = [0.5, 0.25, 1.25];
        weights(&mut s, true, 2.5);
        assert!((s.iter().sum::<f32>() - 2.5).abs() < 1e-6);
        assert_eq!(s[0] / s[1], 2.0);
        let mut s = [0.5, 0.25];
        weights(&mut s, false, 2.0);
        assert_eq!(s, [1.0, 0.5]);
    }

    #[test]
    fn softmax_sums_to_one() {
        let mut x: Vec<f32> = (0..77).map(|i| (i as f32 * 0.37).sin() * 30.0).collect();
        softmax(&mut x);
        assert!((x.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        let mut x = [1.0, f32::NAN, 2.0];
        softmax(&mut x);
        assert!(x.iter().all(|v| v.is_nan()));
    }

    #[test]
    fn zero_scores_give_zero_weights_not_nan() {
        let mut s = [0.0; 6];
        weights(&mut s, true, 1.5);
        assert_eq!(s, [0.0; 6]);
    }
}
