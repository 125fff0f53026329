//! Rows of zeros, tiny, huge, NaN and infinite values stay in their row.

use half::bf16;
use megamoe::cpu;
use megamoe::options::*;

use crate::support::*;

fn modes() -> Vec<ForwardOptions> {
    let warmup = Some(WarmupScales { l1: 2e-3, l2_routed: 0.05, l2_shared: 0.05 });
    every_mode().into_iter().map(|o| ForwardOptions { warmup, ..o }).collect()
}

#[test]
fn a_bad_row_is_nan_and_alone() {
    for shared in [Shared::Nvfp4, Shared::Bf16, Shared::Fp8, Shared::No] {
        let layer = layer(51, Shape { shared, ..Shape::default() });
        let (tokens, hidden) = (7, layer.config.hidden);
        let clean = rows(52, tokens, hidden);
        for bad in [bf16::NAN, bf16::INFINITY, bf16::NEG_INFINITY] {
            let mut x = clean.clone();
            x[2 * hidden + 77] = bad;
            x[5 * hidden] = bad;
            // The good rows, alone, by construction of the scales the same as among bad ones.
            let good: Vec<bf16> =
                [0, 1, 3, 4, 6].iter().flat_map(|t| &clean[t * hidden..][..hidden]).copied().collect();
            for opts in modes() {
                for part in [Part::All, Part::Routed, Part::Shared] {
                    if part == Part::Shared && shared == Shared::No {
                        continue;
                    }
                    let opts = ForwardOptions { part, ..opts.clone() };
                    let what = format!("{bad} {shared:?} {opts:?}");
                    let out = cpu::forward(&layer, &routed(&x, tokens), &opts).unwrap();
                    let want = cpu::forward(&layer, &routed(&good, 5), &opts).unwrap();
                    let mut rest = Vec::new();
                    for (t, row) in out.output_f32.chunks(hidden).enumerate() {
                        if t == 2 || t == 5 {
                            assert!(row.iter().all(|v| v.is_nan()), "{what}: row {t}");
                            assert!(out.output[t * hidden..][..hidden].iter().all(|v| v.is_nan()));
                        } else {
                            rest.extend_from_slice(row);
                        }
                    }
                    assert_same(&rest, &want.output_f32, &what);
                    assert_eq!(out.stats.non_finite_rows, 2);
                }
            }
            let (some, all) = (routed(&x, tokens), routed(&good, 5));
            let opts = nvfp4(ActScale::Warmup, ActScaleL2::Warmup);
            let measured = |input| cpu::measure_warmup(&layer, input, &opts).unwrap();
            assert_eq!(measured(&some), measured(&all), "bad rows are left out of the maxima");
        }
    }
}

#[test]
fn a_bad_token_is_nan_even_without_local_experts() {
    let layer = layer(53, Shape::default());
    let mut x = rows(54, 2, 128);
    x[3] = bf16::NAN;
    let opts = ForwardOptions { part: Part::Routed, ..ForwardOptions::default() };
    let out = cpu::forward(&layer, &given(&x, 2, &[-1; 6], &[1.0; 6]), &opts).unwrap();
    assert!(out.output_f32[..128].iter().all(|v| v.is_nan()));
    assert!(out.output_f32[128..].iter().all(|&v| v == 0.0));
}

#[test]
fn zeros_tiny_and_huge_rows() {
    let layer = layer(55, Shape::default());
    let hidden = layer.config.hidden;
    let base = rows(56, 4, hidden);
    let scaled = |t: usize, factor: f32| {
        base[t * hidden..][..hidden]
            .iter()
            .map(move |v| bf16::from_f32(v.to_f32() * factor))
            .collect::<Vec<_>>()
    };
    let x = [scaled(0, 0.0), scaled(1, 1e-30), scaled(2, 1e30), scaled(3, 1.0)].concat();
    let ids: Vec<i32> = (0..12).map(|s| s % 8).collect();
    for opts in modes() {
        let out = cpu::forward(&layer, &given(&x, 4, &ids, &[0.5; 12]), &opts).unwrap();
        let what = format!("{opts:?}");
        assert!(out.output_f32[..hidden].iter().all(|&v| v == 0.0), "{what}: zeros give zeros");
        assert!(out.output_f32.iter().all(|v| v.is_finite()), "{what}: the clamp holds huge rows");
        assert_eq!(out.stats.non_finite_rows, 0);
        if opts.act_scale != ActScale::TensorDynamic && opts.act_scale_l2 != ActScaleL2::TensorDynamic {
            let alone =
                cpu::forward(&layer, &given(&x[3 * hidden..], 1, &ids[9..], &[0.5; 3]), &opts).unwrap();
            assert_same(&out.output_f32[3 * hidden..], &alone.output_f32, &what);
        }
    }
}

#[test]
fn an_overflowing_slot_makes_its_token_nan() {
    // Without a clamp, a huge row overflows the SwiGLU result.
    let layer = layer(57, Shape { limit: None, ..Shape::default() });
    let hidden = layer.config.hidden;
    let mut x = rows(58, 3, hidden);
    for v in &mut x[hidden..2 * hidden] {
        *v = bf16::from_f32(v.to_f32() * 1e30);
    }
    let ids = [0, 1, 2, 3, 4, 5, 6, 7, 0];
    for opts in modes() {
        let out = cpu::forward(&layer, &given(&x, 3, &ids, &[0.5; 9]), &opts).unwrap();
        let constant = matches!(opts.act_scale, ActScale::Static | ActScale::Warmup);
        if opts.activations == Activations::Nvfp4 && constant {
            continue; // A constant scale cuts the row off before it can overflow.
        }
        let what = format!("{opts:?}");
        assert!(out.output_f32[hidden..2 * hidden].iter().all(|v| v.is_nan()), "{what}");
        for t in [0, 2] {
            assert!(out.output_f32[t * hidden..][..hidden].iter().all(|v| v.is_finite()), "{what}");
        }
        assert_eq!(out.stats.non_finite_rows, 0, "the input was finite");
    }
}
