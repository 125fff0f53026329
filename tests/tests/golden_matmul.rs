//! Block-scaled products: our decoding reproduces the exact integer sums, and their f32 and bf16 roundings.
//!
//! An element product `e2m1 * e4m3 * e2m1 * e4m3` is an integer multiple of 2^-20 (2^-1 2^-9 twice), so the sum is an
//! integer: no tolerance is needed anywhere here.

use megamoe_tests::golden::Golden;
use nvfp4::{BLOCK, bf16, e2m1, e4m3, quantize};

/// `e2m1 * e4m3` of a row in units of 2^-10, by the crate's row decoder.
fn integers(packed: &[u8], scales: &[u8]) -> Vec<i64> {
    let mut values = vec![0.0; packed.len() * 2];
    quantize::dequantize_row_unscaled(packed, scales, &mut values);
    values
        .iter()
        .map(|&v| {
            let unit = f64::from(v) * 1024.0;
            assert_eq!(unit.fract(), 0.0);
            unit as i64
        })
        .collect()
}

struct Product {
    m: usize,
    n: usize,
    a: Vec<Vec<i64>>,
    b: Vec<Vec<i64>>,
}

fn operand(golden: &Golden, name: &str) -> Vec<Vec<i64>> {
    let packed = golden.get(&format!("{name}_packed"));
    let [rows, bytes] = packed.dims();
    let groups = bytes * 2 / BLOCK;
    let scales = golden.get(&format!("{name}_scale")).shaped(&[rows, groups]).u8();
    (0..rows).map(|r| integers(&packed.u8()[r * bytes..][..bytes], &scales[r * groups..][..groups])).collect()
}

fn product(golden: &Golden, case: &str) -> Product {
    let a = operand(golden, &format!("matmul/{case}.a"));
    let b = operand(golden, &format!("matmul/{case}.b"));
    Product { m: a.len(), n: b.len(), a, b }
}

fn dot(a: &[i64], b: &[i64]) -> i64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// `n * 2^-20` rounded once to f32.
fn to_f32(n: i64) -> f32 {
    // The conversion rounds to nearest even, the power of two is exact.
    n as f32 * 2f32.powi(-20)
}

#[test]
fn exact_sums_and_their_roundings() {
    let golden = Golden::load();
    let cases = golden.cases("matmul/", ".acc_int64");
    assert_eq!(cases.len(), 12);
    let mut inexact = Vec::new();
    let mut double_rounded = 0;
    for case in cases {
        let p = product(golden, case);
        let get = |what: &str| golden.get(&format!("matmul/{case}.{what}"));
        let shape = [p.m, p.n];
        let acc = get("acc_int64").shaped(&shape).i64();
        let d = get("d_f32").shaped(&shape).f32();
        let alpha = get("alpha").scalar_f32();
        let scaled = get("alpha_d_f32").shaped(&shape).f32();
        let rounded = get("alpha_d_bf16_bits").shaped(&shape).u16();
        let jax = get("jax_f32").shaped(&shape).f32();
        let (mut representable, mut jax_equal) = (true, true);
        for m in 0..p.m {
            for n in 0..p.n {
                let i = m * p.n + n;
                let ours = dot(&p.a[m], &p.b[n]);
                assert_eq!(ours, acc[i], "{case} [{m},{n}]");
                let f = to_f32(ours);
                assert_eq!(f.to_bits(), d[i].to_bits(), "{case} [{m},{n}]: f32");
                // The golden value rounds `sum * alpha` once; the contract rounds the sum, then the product.
                let once = (ours as f64 * 2f64.powi(-20) * f64::from(alpha)) as f32;
                assert_eq!(once.to_bits(), scaled[i].to_bits(), "{case} [{m},{n}]: alpha");
                assert_eq!(bf16::from_f32(once), rounded[i], "{case} [{m},{n}]: bf16");
                let twice = f * alpha;
                let exact = f64::from(f) == ours as f64 * 2f64.powi(-20);
                let apart = twice.to_bits().abs_diff(once.to_bits());
                assert!(apart <= u32::from(!exact), "{case} [{m},{n}]: {twice:e} and {once:e}");
                double_rounded += apart;
                representable &= exact;
                jax_equal &= jax[i] == f;
            }
        }
        // Where the sum is an f32, an f32 engine has no excuse: JAX returns it bit for bit.
        assert!(jax_equal || !representable, "{case}");
        if !representable {
            inexact.push(case);
        }
    }
    assert_eq!(inexact, ["02_random_8x32x64", "05_wide_scales_128x64x256", "06_big_plus_small_16x16x1024"]);
    // Elements of those three that the second rounding moves by one ulp.
    assert_eq!(double_rounded, 2072);
}

/// f32 sums of the dequantised values, in any order of K, are the exact sums wherever every partial sum is an
/// f32: what makes bit equality between GEMM kernels a fair demand.
#[test]
fn realistic_sums_do_not_depend_on_the_order() {
    let golden = Golden::load();
    for case in golden.cases("matmul/", ".acc_int64") {
        if !case.contains("realistic") && !case.contains("one_hot") {
            continue;
        }
        let p = product(golden, case);
        let k = p.a[0].len();
        for m in 0..p.m {
            for n in 0..p.n {
                let want = to_f32(dot(&p.a[m], &p.b[n]));
                let term = |i: usize| (p.a[m][i] as f32 / 1024.0) * (p.b[n][i] as f32 / 1024.0);
                let forward = (0..k).fold(0.0f32, |s, i| s + term(i));
                let backward = (0..k).rev().fold(0.0f32, |s, i| s + term(i));
                let strided = (0..k).fold(0.0f32, |s, i| s + term((i * 7 + 3) % k));
                assert_eq!([forward, backward, strided], [want; 3], "{case} [{m},{n}]");
            }
        }
    }
}

/// Every E2M1 x E4M3 product is exact in f32, in bf16 and below overflow in f16, and at most 2688: what the Hopper
/// kernels' exact dequantisation rests on.
#[test]
fn products_are_exact_in_narrow_formats() {
    for scale in 0..=e4m3::MAX_CODE {
        for code in 0..16 {
            let exact = f64::from(e2m1::decode(code)) * f64::from(e4m3::decode(scale));
            let v = quantize::dequantize_unscaled(code, scale);
            assert_eq!(f64::from(v), exact);
            assert_eq!(half::bf16::from_f32(v).to_f64(), exact);
            assert_eq!(half::f16::from_f32(v).to_f64(), exact);
            assert!(exact.abs() <= 2688.0);
        }
    }
}

/// One-instruction results whose exact sum is an f32 (no accumulator input): our decoding predicts the unit's
/// bits, and the four measured words lie within one ulp of our correctly rounded sum.
#[test]
fn tcgen05_words() {
    let golden = Golden::load();
    let get = |what: &str| golden.get(&format!("b200_nvfp4_mma/{what}"));
    let (a, b) =
        (get("realistic_c0.a").shaped(&[600, 32]).u8(), get("realistic_c0.b").shaped(&[600, 32]).u8());
    let (sa, sb) =
        (get("realistic_c0.sa").shaped(&[600, 4]).u8(), get("realistic_c0.sb").shaped(&[600, 4]).u8());
    let d = get("realistic_c0.d_b200model").shaped(&[600]).u32();
    assert!(get("realistic_c0.c").u32().iter().all(|c| *c == 0));
    for i in 0..600 {
        let row = integers(&a[i * 32..][..32], &sa[i * 4..][..4]);
        let col = integers(&b[i * 32..][..32], &sb[i * 4..][..4]);
        assert_eq!(to_f32(dot(&row, &col)).to_bits(), d[i], "instruction {i}");
    }

    // frozen: measured on a B200, elements unpacked (one code per byte); a NaN scale gives the NaN 0x7FFFFFFF.
    let (a, b) = (get("frozen.a").shaped(&[4, 64]).u8(), get("frozen.b").shaped(&[4, 64]).u8());
    let (sa, sb) = (get("frozen.sa").shaped(&[4, 4]).u8(), get("frozen.sb").shaped(&[4, 4]).u8());
    let (c, d) = (get("frozen.c").u32(), get("frozen.d").u32());
    for i in 0..4 {
        let mut sum = f64::from(f32::from_bits(c[i]));
        for k in 0..64 {
            let (x, y) = (a[i * 64 + k], b[i * 64 + k]);
            assert!(x < 16 && y < 16);
            sum += f64::from(quantize::dequantize_unscaled(x, sa[i * 4 + k / 16]))
                * f64::from(quantize::dequantize_unscaled(y, sb[i * 4 + k / 16]));
        }
        let measured = f32::from_bits(d[i]);
        if sum.is_nan() {
            assert_eq!(d[i], 0x7fff_ffff, "word {i}");
        } else {
            let ours = sum as f32;
            assert!(ours.to_bits().abs_diff(measured.to_bits()) <= 1, "word {i}: {ours:e} and {measured:e}");
        }
    }
}
