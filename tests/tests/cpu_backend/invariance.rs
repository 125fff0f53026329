//! What must not change a single bit: the other tokens of the call, the number of threads, the rank's other experts.

use megamoe::cpu;
use megamoe::io::Stats;
use megamoe::options::*;

use crate::support::*;

/// Modes whose scales do not depend on the batch.
fn batch_invariant() -> Vec<ForwardOptions> {
    let warmup = Some(WarmupScales { l1: 1e-3, l2_routed: 0.02, l2_shared: 0.03 });
    every_mode()
        .into_iter()
        .filter(|o| o.act_scale != ActScale::TensorDynamic && o.act_scale_l2 != ActScaleL2::TensorDynamic)
        .map(|o| ForwardOptions { warmup, ..o })
        .collect()
}

#[test]
fn a_token_alone_is_the_token_in_a_batch() {
    for shared in [Shared::Nvfp4, Shared::Fp8] {
        let layer = layer(21, Shape { shared, hidden: 144, ..Shape::default() });
        let (tokens, hidden) = (70, layer.config.hidden);
        let x = rows(22, tokens, hidden);
        for opts in batch_invariant() {
            let batch = cpu::forward(&layer, &routed(&x, tokens), &opts).unwrap();
            for t in [0, 1, 3, 63, 64, 69] {
                let alone = cpu::forward(&layer, &routed(&x[t * hidden..][..hidden], 1), &opts).unwrap();
                let what = format!("token {t}, {opts:?}");
                assert_same(&alone.output_f32, &batch.output_f32[t * hidden..][..hidden], &what);
                assert_eq!(alone.routing.topk_ids, batch.routing.topk_ids[t * 3..][..3], "{what}");
                assert_same(&alone.routing.topk_weights, &batch.routing.topk_weights[t * 3..][..3], &what);
            }
            // Decoding in two halves is the prefill.
            let halves = [0..33, 33..tokens].map(|part| {
                let x = &x[part.start * hidden..part.end * hidden];
                cpu::forward(&layer, &routed(x, part.len()), &opts).unwrap().output_f32
            });
            assert_same(&halves.concat(), &batch.output_f32, &format!("halves, {opts:?}"));
        }
    }
}

#[test]
fn the_number_of_threads_does_not_matter() {
    let layer = layer(23, Shape { hidden: 272, intermediate: 208, ..Shape::default() });
    let x = rows(24, 20, layer.config.hidden);
    for opts in every_mode() {
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let warmup = cpu::measure_warmup(&layer, &routed(&x, 20), &opts).unwrap();
                let opts = ForwardOptions { warmup: Some(warmup), ..opts.clone() };
                (warmup, cpu::forward(&layer, &routed(&x, 20), &opts).unwrap())
            })
        };
        let ((warm1, one), (warm4, four)) = (run(1), run(4));
        assert_eq!(warm1, warm4);
        assert_same_output(&four, &one, &format!("{opts:?}"));
        assert_eq!((four.routing, four.stats), (one.routing, one.stats));
    }
}

#[test]
fn repeated_calls_agree() {
    let layer = layer(25, Shape::default());
    let x = rows(26, 33, layer.config.hidden);
    let run = || cpu::forward(&layer, &routed(&x, 33), &ForwardOptions::default()).unwrap();
    let first = run();
    for _ in 0..5 {
        assert_same_output(&run(), &first, "again");
    }
}

#[test]
fn ranks_add_up_and_each_slot_is_exact() {
    let layer = layer(27, Shape { experts: 10, top_k: 4, ..Shape::default() });
    let (tokens, hidden) = (23, layer.config.hidden);
    let x = rows(28, tokens, hidden);
    for opts in batch_invariant() {
        let opts = ForwardOptions { part: Part::Routed, ..opts };
        let whole = cpu::forward(&layer, &routed(&x, tokens), &opts).unwrap();
        let mut sum = vec![0.0f64; tokens * hidden];
        let mut foreign = 0;
        for local in [0..3, 3..4, 4..4, 4..10] {
            let opts = ForwardOptions { local_experts: Some(local.clone()), ..opts.clone() };
            let part = cpu::forward(&layer, &routed(&x, tokens), &opts).unwrap();
            assert_eq!(part.routing, whole.routing, "every rank routes alike");
            sum.iter_mut().zip(&part.output_f32).for_each(|(s, &y)| *s += f64::from(y));
            foreign += part.stats.foreign_slots;
            // Masking the other ranks' slots by hand gives the very bits.
            let ids: Vec<i32> = (whole.routing.topk_ids.iter())
                .map(|&id| if local.contains(&(id as usize)) { id } else { -1 })
                .collect();
            let masked = given(&x, tokens, &ids, &whole.routing.topk_weights);
            let masked =
                cpu::forward(&layer, &masked, &ForwardOptions { local_experts: None, ..opts }).unwrap();
            assert_same(&part.output_f32, &masked.output_f32, &format!("rank {local:?}"));
            assert_eq!(masked.stats.invalid_slots, part.stats.foreign_slots);
        }
        assert_eq!(foreign, 3 * (tokens * 4) as u64, "a slot is foreign to all ranks but one");
        let size = whole.output_f32.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        for (s, &w) in sum.iter().zip(&whole.output_f32) {
            assert!((s - f64::from(w)).abs() <= 1e-6 * f64::from(size), "{s} {w}");
        }
    }
}

#[test]
fn no_tokens() {
    for shared in [Shared::No, Shared::Nvfp4, Shared::Bf16] {
        let layer = layer(29, Shape { shared, ..Shape::default() });
        for opts in every_mode() {
            let warmup = cpu::measure_warmup(&layer, &routed(&[], 0), &opts).unwrap();
            assert_eq!(warmup, WarmupScales { l1: 0.0, l2_routed: 0.0, l2_shared: 0.0 });
            let opts = ForwardOptions { warmup: Some(warmup), ..opts };
            let out = cpu::forward(&layer, &routed(&[], 0), &opts).unwrap();
            assert!(out.output_f32.is_empty() && out.output.is_empty() && out.routing.topk_ids.is_empty());
            assert_eq!(out.stats, Stats::default());
        }
    }
}
