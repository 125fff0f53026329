//! `Nvfp4Matrix::from_bf16`: ModelOpt's bits on golden data, and what it refuses.

use half::bf16;
use megamoe::Error;
use megamoe::weights::Nvfp4Matrix;
use megamoe_tests::golden::Golden;

const ROWS: usize = 32;
const K: usize = 256;

#[test]
fn the_bits_of_modelopt() {
    let golden = Golden::load();
    for case in ["bf16_normal", "bf16_outliers_x100"] {
        let base = format!("nvfp4_dynamic/{case}");
        let x: Vec<bf16> = golden.get(&format!("{base}.x")).f32().into_iter().map(bf16::from_f32).collect();
        let ours = Nvfp4Matrix::from_bf16(ROWS, K, &x).unwrap();
        let theirs = |what: &str| golden.get(&format!("{base}.modelopt.{what}"));
        assert_eq!(&ours.packed[..], theirs("packed").u8(), "{case}");
        assert_eq!(&ours.scales[..], theirs("scale").u8(), "{case}");
        let s2 =
            golden.find(&format!("{base}.modelopt.s2")).unwrap_or_else(|| golden.get(&format!("{base}.s2")));
        assert_eq!(ours.global_scale.to_bits(), s2.scalar_f32().to_bits(), "{case}");
        assert_eq!((ours.rows, ours.cols, ours.input_scale), (ROWS, K, None));
    }
}

#[test]
fn rows_do_not_depend_on_threads() {
    let x: Vec<bf16> = (0..96 * 48).map(|i| bf16::from_f32(((i * 7919) % 1013) as f32 - 500.0)).collect();
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let many = rayon::ThreadPoolBuilder::new().num_threads(7).build().unwrap();
    let quantise = || Nvfp4Matrix::from_bf16(96, 48, &x).unwrap();
    assert_eq!(one.install(quantise), many.install(quantise));
}

#[test]
fn what_is_not_a_matrix_of_finite_numbers_is_refused() {
    let mut x = vec![bf16::ONE; 2 * 32];
    for (rows, cols) in [(2, 0), (4, 16 - 1), (2, 48), (3, 32), (usize::MAX, 32)] {
        let refused = Nvfp4Matrix::from_bf16(rows, cols, &x);
        assert!(matches!(refused, Err(Error::Mismatch { .. } | Error::Invalid { .. })), "{rows} x {cols}");
    }
    for bad in [bf16::NAN, bf16::INFINITY, bf16::NEG_INFINITY] {
        x[37] = bad;
        let message = Nvfp4Matrix::from_bf16(2, 32, &x).unwrap_err().to_string();
        assert!(message.contains("row 1, column 5"), "{message}");
    }
}

#[test]
fn the_global_scale_is_always_a_normal_number() {
    let zeros = Nvfp4Matrix::from_bf16(2, 16, &[bf16::ZERO; 32]).unwrap();
    assert_eq!(zeros.global_scale, 1.0);
    assert!(zeros.packed.iter().chain(&zeros.scales).all(|&b| b == 0));
    let tiny = Nvfp4Matrix::from_bf16(2, 16, &[bf16::MIN_POSITIVE; 32]).unwrap();
    assert_eq!(tiny.global_scale, f32::MIN_POSITIVE);
    let empty = Nvfp4Matrix::from_bf16(0, 16, &[]).unwrap();
    assert!(empty.packed.is_empty() && empty.global_scale == 1.0);
}
