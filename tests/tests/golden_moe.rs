//! SwiGLU, routing and a complete layer against f64 references that were checked against transformers.

use megamoe_tests::golden::{Array, Golden};
use nvfp4::{BLOCK, bf16, e2m1, e4m3, quantize, routing, swiglu};

/// Distance in ulps of the f32 nearest to `want`.
fn ulps(got: f32, want: f64) -> f64 {
    let near = (want as f32).abs();
    assert!(near.is_finite());
    let ulp = f64::from(f32::from_bits(near.to_bits() + 1)) - f64::from(near);
    (f64::from(got) - want).abs() / ulp
}

#[test]
fn swiglu_within_2_5_ulp() {
    let golden = Golden::load();
    let gate = golden.get("moe/swiglu.gate").shaped(&[3019]).f32();
    let up = golden.get("moe/swiglu.up").shaped(&[3019]).f32();
    // e^88.73 overflows: silu is -0 below, where its true magnitude is at most 88.73 e^-88.73 = 2.6e-37.
    let lowest = -88.722_83f32;
    let flushed = 2.6e-37;
    for (name, limit) in [("plain", f32::INFINITY), ("limit10", 10.0), ("limit7", 7.0)] {
        let want = golden.get(&format!("moe/swiglu.{name}.f64")).shaped(&[3019]).f64();
        let rounded = golden.get(&format!("moe/swiglu.{name}.bf16_bits")).shaped(&[3019]).u16();
        let mut worst = 0.0f64;
        for i in 0..gate.len() {
            let got = swiglu::swiglu(gate[i], up[i], limit);
            let what = format!("{name}: gate {} up {}: {got:e} and {:e}", gate[i], up[i], want[i]);
            if gate[i] < lowest {
                assert_eq!(got, 0.0, "{what}");
                assert!(want[i].abs() <= flushed * f64::from(up[i].abs()), "{what}");
            } else {
                worst = worst.max(ulps(got, want[i]));
            }
            assert_eq!(bf16::from_f32(got), rounded[i], "{what}: bf16");
        }
        assert!((1.5..=2.5).contains(&worst), "{name}: {worst} ulp");
    }
}

/// The orders and one-sidedness of the clamp are told apart by the data, not only by construction.
#[test]
fn swiglu_data_tell_the_variants_apart() {
    let golden = Golden::load();
    let gate = golden.get("moe/swiglu.gate").f32();
    let up = golden.get("moe/swiglu.up").f32();
    let want = golden.get("moe/swiglu.limit7.f64").f64();
    let clamp = |v: f32, limit: f32| v.clamp(-limit, limit);
    type Variant<'a> = (&'a str, &'a dyn Fn(f32, f32) -> f32);
    let variants: [Variant; 4] = [
        ("clamp after SiLU", &|g, u| swiglu::silu(g).min(7.0) * clamp(u, 7.0)),
        ("gate clamped below too", &|g, u| swiglu::silu(clamp(g, 7.0)) * clamp(u, 7.0)),
        ("up clamped above only", &|g, u| swiglu::silu(g.min(7.0)) * u.min(7.0)),
        ("gate and up exchanged", &|g, u| swiglu::swiglu(u, g, 7.0)),
    ];
    for (name, variant) in variants {
        let wrong = (0..gate.len())
            .filter(|&i| {
                (f64::from(variant(gate[i], up[i])) - want[i]).abs() > 1e-4 * want[i].abs().max(1e-3)
            })
            .count();
        assert!(wrong >= 20, "{name}: only {wrong} elements notice");
    }
}

struct Route {
    tokens: usize,
    experts: usize,
    logits: Vec<f32>,
    bias: Vec<f32>,
    scores: Vec<f64>,
    k: usize,
    ids: Vec<i32>,
    weights: Vec<f64>,
    gap: Vec<f64>,
    scaling: f32,
}

fn route(golden: &Golden, case: &str) -> Route {
    let get = |what: &str| golden.get(&format!("moe/route.{case}.{what}"));
    let [tokens, experts] = get("logits").dims();
    let [_, k] = get("topk_ids").dims();
    let k_scale = get("k_scale").f64();
    assert_eq!(k_scale[0] as usize, k);
    Route {
        tokens,
        experts,
        logits: get("logits").f32(),
        bias: get("bias").shaped(&[experts]).f32(),
        scores: get("scores_f64").shaped(&[tokens, experts]).f64(),
        k,
        ids: get("topk_ids").shaped(&[tokens, k]).i32(),
        weights: get("weights_f64").shaped(&[tokens, k]).f64(),
        gap: get("gap_to_next").shaped(&[tokens]).f64(),
        scaling: k_scale[1] as f32,
    }
}

/// sqrt(softplus) scores within 2 ulp on every logit, from -200 to 200; the selected ids in order; the weights
/// to 3e-7. The goldens break ties to the lower id, as we do, so tied rows are held to the same order.
#[test]
fn routing() {
    let golden = Golden::load();
    let cases = golden.cases("moe/route.", ".logits");
    assert_eq!(cases.len(), 4 * 7);
    let (mut tied, mut worst_score, mut worst_weight) = (0, 0.0f64, 0.0f64);
    for case in cases {
        let r = route(golden, case);
        for t in 0..r.tokens {
            let mut scores = r.logits[t * r.experts..][..r.experts].to_vec();
            routing::scores(&mut scores, routing::Scoring::SqrtSoftplus);
            for (e, &score) in scores.iter().enumerate() {
                worst_score = worst_score.max(ulps(score, r.scores[t * r.experts + e]));
            }
            let keys: Vec<f32> = scores.iter().zip(&r.bias).map(|(s, b)| s + b).collect();
            let mut ids = vec![u32::MAX; r.k];
            routing::top_k(&keys, &mut ids);
            let want: Vec<u32> = r.ids[t * r.k..][..r.k].iter().map(|&id| id as u32).collect();
            tied += u32::from(r.gap[t] == 0.0);
            // The smallest margin that is not a tie is 2.4e-4, far above the error of a score.
            assert!(r.gap[t] == 0.0 || r.gap[t] > 1e-4, "{case} token {t}: margin {}", r.gap[t]);
            assert_eq!(ids, want, "{case} token {t}");

            let mut weights: Vec<f32> = ids.iter().map(|&id| scores[id as usize]).collect();
            routing::weights(&mut weights, true, r.scaling);
            for (slot, &weight) in weights.iter().enumerate() {
                let want = r.weights[t * r.k + slot];
                if want < f64::from(f32::MIN_POSITIVE) {
                    assert!(ulps(weight, want) <= 2.0, "{case} token {t}: {weight:e} and {want:e}");
                } else {
                    worst_weight = worst_weight.max((f64::from(weight) - want).abs() / want);
                }
            }
        }
    }
    assert_eq!(tied, 16, "rows whose k-th and next key tie");
    assert!((1.4..=1.5).contains(&worst_score), "scores: {worst_score} ulp");
    assert!((1e-7..=2.2e-7).contains(&worst_weight), "weights: {worst_weight:e} relative");
}

/// What the two textbook forms of softplus lose in f32, on the data above: why `math::sqrt_softplus` is neither.
#[test]
fn naive_softplus_fails_on_these_logits() {
    let golden = Golden::load();
    for (case, naive_bad, underflow_bad) in
        [("v4flash.very_negative", 4096, 169), ("v4flash.very_positive", 2549, 0), ("v4flash.normal", 0, 0)]
    {
        let r = route(golden, case);
        let bad = |f: &dyn Fn(f32) -> f32| {
            let far = |(&x, &want): (&f32, &f64)| (f64::from(f(x)) - want).abs() > 1e-3 * want;
            r.logits.iter().zip(&r.scores).filter(|&pair| far(pair)).count()
        };
        assert_eq!(bad(&|x| (1.0 + x.exp()).ln().sqrt()), naive_bad, "{case}: log(1 + e^x)");
        assert_eq!(
            bad(&|x| nvfp4::math::softplus(x).sqrt()),
            underflow_bad,
            "{case}: the root of an underflow"
        );
        assert_eq!(bad(&nvfp4::math::sqrt_softplus), 0, "{case}");
    }
}

/// One expert's arrays of the complete layer.
struct Expert<'a> {
    golden: &'a Golden,
    index: usize,
}

impl<'a> Expert<'a> {
    fn get(&self, what: &str) -> Array<'a> {
        self.golden.get(&format!("moe/e2e.expert{}.{what}", self.index))
    }
}

/// Exact `sum a * b` in units of 2^-20.
fn integer_dot(a: (&[u8], &[u8]), b: (&[u8], &[u8])) -> i64 {
    let decode = |(packed, scales): (&[u8], &[u8])| {
        let mut row = vec![0.0; packed.len() * 2];
        quantize::dequantize_row_unscaled(packed, scales, &mut row);
        row
    };
    decode(a).iter().zip(decode(b)).map(|(x, y)| (x * 1024.0) as i64 * (y * 1024.0) as i64).sum()
}

fn row<'a>(packed: &'a [u8], scales: &'a [u8], r: usize, k: usize) -> (&'a [u8], &'a [u8]) {
    (&packed[r * k / 2..][..k / 2], &scales[r * k / BLOCK..][..k / BLOCK])
}

/// The whole layer (T 8, H 64, I 32, 4 experts, top 2, static scales, limit 10) by the crate's functions and the
/// contract of `docs/numerics.md`: quantised bytes and integer sums exact at every stage, f32 results within a few
/// ulps of the f64 goldens, the bf16 output equal.
#[test]
fn a_layer_stage_by_stage() {
    let golden = Golden::load();
    let get = |what: &str| golden.get(&format!("moe/e2e.{what}"));
    const T: usize = 8;
    const H: usize = 64;
    const I: usize = 32;
    const K: usize = 2;

    // Routing.
    let logits = get("logits").shaped(&[T, 4]).f32();
    let bias = get("bias").shaped(&[4]).f32();
    let ids = get("topk_ids").shaped(&[T, K]).i32();
    let want_weights = get("topk_w_f64").shaped(&[T, K]).f64();
    let scaling = get("scaling").scalar_f32();
    let mut weights = [[0.0f32; K]; T];
    for t in 0..T {
        let mut scores = logits[t * 4..][..4].to_vec();
        routing::scores(&mut scores, routing::Scoring::SqrtSoftplus);
        let keys: Vec<f32> = scores.iter().zip(&bias).map(|(s, b)| s + b).collect();
        let mut got = [0; K];
        routing::top_k(&keys, &mut got);
        assert_eq!(got.map(|id| id as i32), ids[t * K..][..K], "token {t}");
        weights[t] = got.map(|id| scores[id as usize]);
        routing::weights(&mut weights[t], true, scaling);
        for slot in 0..K {
            assert!(ulps(weights[t][slot], want_weights[t * K + slot]) <= 3.0, "token {t} slot {slot}");
        }
    }

    // L1 activations.
    let x = get("x").shaped(&[T, H]).f32();
    let s2_x = get("s2_x").scalar_f32();
    let (x_packed, x_scale) =
        (get("x_packed").shaped(&[T, H / 2]).u8(), get("x_scale").shaped(&[T, H / BLOCK]).u8());
    for t in 0..T {
        let (mut packed, mut scales) = ([0; H / 2], [0; H / BLOCK]);
        quantize::quantize_row(&x[t * H..][..H], s2_x, &mut packed, &mut scales);
        assert_eq!((&packed[..], &scales[..]), row(x_packed, x_scale, t, H), "token {t}");
    }

    let limit = get("limit").scalar_f32();
    let s2_h = get("s2_h").scalar_f32();
    let (mut worst_act, mut worst_out) = (0.0f64, 0.0f64);
    let mut slots = vec![[[0.0f32; H]; K]; T];
    let mut margin = f64::INFINITY;
    let mut routed = 0;
    for index in 0..4 {
        let expert = Expert { golden, index };
        let (w13, w13_scale) = (expert.get("w13_packed").u8(), expert.get("w13_scale").u8());
        let (w2, w2_scale) = (expert.get("w2_packed").u8(), expert.get("w2_scale").u8());
        let alpha1 = s2_x * expert.get("s2_w13").scalar_f32();
        let alpha2 = s2_h * expert.get("s2_w2").scalar_f32();
        let tokens = expert.get("rows").i32();
        let n = tokens.len();
        routed += n;
        let acc1 = expert.get("acc1_int64").shaped(&[n, 2 * I]).i64();
        let act = expert.get("act_f64").shaped(&[n, I]).f64();
        let h_packed = expert.get("h_packed").shaped(&[n, I / 2]).u8();
        let h_scale = expert.get("h_scale").shaped(&[n, I / BLOCK]).u8();
        let acc2 = expert.get("acc2_int64").shaped(&[n, H]).i64();
        let out = expert.get("out_f64").shaped(&[n, H]).f64();
        margin = expert.get("h_margin").shaped(&[n, I]).f64().into_iter().fold(margin, f64::min);
        for (i, &token) in tokens.iter().enumerate() {
            let t = token as usize;
            // L1: exact sums, then alpha, then SwiGLU (rows 0..I of w13 are the gate).
            let acc: Vec<f32> = (0..2 * I)
                .map(|r| {
                    let sum = integer_dot(row(x_packed, x_scale, t, H), row(w13, w13_scale, r, H));
                    assert_eq!(sum, acc1[i * 2 * I + r], "expert {index} token {t} L1 row {r}");
                    sum as f32 * 2f32.powi(-20)
                })
                .collect();
            let h: Vec<f32> =
                (0..I).map(|r| swiglu::swiglu(acc[r] * alpha1, acc[I + r] * alpha1, limit)).collect();
            for (r, &h) in h.iter().enumerate() {
                worst_act = worst_act.max(ulps(h, act[i * I + r]));
            }
            // h is quantised from f32, and the f32 error never crosses a boundary.
            let (mut packed, mut scales) = ([0; I / 2], [0; I / BLOCK]);
            quantize::quantize_row(&h, s2_h, &mut packed, &mut scales);
            assert_eq!((&packed[..], &scales[..]), row(h_packed, h_scale, i, I), "expert {index} token {t}");
            // L2.
            let slot = ids[t * K..][..K].iter().position(|&id| id == index as i32).expect("a routed token");
            for r in 0..H {
                let sum = integer_dot((&packed, &scales), row(w2, w2_scale, r, I));
                assert_eq!(sum, acc2[i * H + r], "expert {index} token {t} L2 row {r}");
                let y = sum as f32 * 2f32.powi(-20) * alpha2;
                worst_out = worst_out.max(ulps(y, out[i * H + r]));
                slots[t][slot][r] = weights[t][slot] * y;
            }
        }
    }
    assert_eq!(routed, T * K);
    assert!((3.5e-4..3.6e-4).contains(&margin), "{margin}");
    assert!(worst_act <= 3.5, "h: {worst_act} ulp");
    assert!(worst_out <= 1.0, "L2: {worst_out} ulp");

    // Combine in slot order.
    let y_want = get("y_f64").shaped(&[T, H]).f64();
    let y_bits = get("y_bf16_bits").shaped(&[T, H]).u16();
    let (mut worst, mut largest) = (0.0f64, 0.0f64);
    for t in 0..T {
        for r in 0..H {
            let y = (0.0 + slots[t][0][r]) + slots[t][1][r];
            let want = y_want[t * H + r];
            worst = worst.max((f64::from(y) - want).abs());
            largest = largest.max(want.abs());
            assert_eq!(bf16::from_f32(y), y_bits[t * H + r], "token {t} column {r}");
        }
    }
    assert!(worst <= 1e-7 * largest, "{worst:e} of {largest:e}");
    // The goldens are not degenerate: some blocks use scales below the maximum, both signs occur.
    assert!(x_scale.iter().any(|&s| s < e4m3::MAX_CODE));
    assert!(x_packed.iter().any(|&b| e2m1::decode(b) < 0.0));
}
