//! The plan as a list of launches, of few tokens and of NVFP4 activations on sm_100a: which kernels, which parts of the output, and
//! what is refused. Nothing runs here; `layer` compares results.

use megamoe::cpu::LinearMode;
use megamoe::emulator::EmulatorDevice;
use megamoe::options::{ActScale, ActScaleL2, Activations, Part};
use megamoe::runtime::linear::LinearPlan;
use megamoe::runtime::plan::{Form, LayerIo, LayerPlan, RoutingIo, Tokens};
use megamoe::runtime::shape::LayerOptions;
use megamoe::runtime::workspace::{STATE, STATS};
use megamoe::runtime::{DevicePtr, Queue};
use megamoe_tests::layer::record::{Launched, Recorder, Work};
use megamoe_tests::layer::{Shared, Spec};

use kernels::launch::Arch;

const OUTPUT: u64 = 1 << 40;
const OUTPUT_F32: u64 = 1 << 41;
const WORKSPACE: u64 = 1 << 42;

fn device(arch: Arch) -> EmulatorDevice {
    EmulatorDevice::new(arch).expect("the shipped PTX")
}

fn options(act_scale_l2: ActScaleL2) -> LayerOptions {
    let act_scale = ActScale::RowDynamic;
    LayerOptions { activations: Activations::Nvfp4, act_scale, act_scale_l2, ..LayerOptions::default() }
}

/// The launches of a call in buffers for `max_tokens` tokens.
fn record(
    queue: &dyn Queue,
    spec: &Spec,
    options: &LayerOptions,
    max_tokens: usize,
    (part, form): (Part, Option<Form>),
) -> megamoe::Result<Vec<Launched>> {
    let plan = LayerPlan::new(&spec.weights(), options, queue.arch())?;
    let recorder = Recorder::like(queue);
    let io = LayerIo {
        hidden_states: DevicePtr(4096),
        tokens: Tokens::Device(DevicePtr(8192)),
        max_tokens,
        routing: RoutingIo::Given { topk_ids: DevicePtr(4096), topk_weights: DevicePtr(4096) },
        output: DevicePtr(OUTPUT),
        output_f32: DevicePtr(OUTPUT_F32),
        part,
        form,
    };
    let bytes = plan.workspace(max_tokens)?.bytes();
    // SAFETY: nothing runs.
    unsafe { plan.enqueue(&recorder, &io, DevicePtr(WORKSPACE), bytes)? };
    let launches = recorder.finish().into_iter().filter_map(|work| match work {
        Work::Launch(launched) => Some(launched),
        _ => None,
    });
    Ok(launches.collect())
}

fn names(launches: &[Launched]) -> Vec<&'static str> {
    launches.iter().map(|launched| launched.kernel.name).collect()
}

const ALL: (Part, Option<Form>) = (Part::All, None);

#[test]
fn few_tokens_go_through_one_launch() {
    let bf16 = LayerOptions::default();
    for arch in Arch::ALL {
        let device = device(arch);
        let spec = Spec::new(192, 80, 6, 2);
        let kernels = |spec: &Spec, options: &LayerOptions, tokens, how| {
            record(&device, spec, options, tokens, how).map(|launches| names(&launches))
        };
        for tokens in [1, 8] {
            assert_eq!(kernels(&spec, &bf16, tokens, ALL).unwrap(), ["expert_decode"]);
        }
        // A shared expert among the routed ones, and one apart: of bf16 weights, and of others, which take prepared rows.
        let folded = Spec { shared: Shared::Nvfp4, ..spec };
        assert_eq!(kernels(&folded, &bf16, 8, ALL).unwrap(), ["expert_decode"]);
        let apart = Spec { shared: Shared::Bf16, ..spec };
        let expected = ["dense_bf16_swiglu", "dense_bf16_linear", "expert_decode"];
        assert_eq!(kernels(&apart, &bf16, 8, ALL).unwrap(), expected);
        let apart = Spec { shared: Shared::Nvfp4Wide, ..spec };
        let wide = kernels(&apart, &bf16, 8, ALL).unwrap();
        assert_eq!((wide.first(), wide.last()), (Some(&"prepare_rows_bf16"), Some(&"expert_decode")));
        // Too many tokens, too many slots, other activations, no routed part, another form: not, and an error for a wish.
        let many = Spec::new(192, 80, 16, 9);
        let nvfp4 = options(ActScaleL2::RowDynamic);
        let shared_only = (Part::Shared, None);
        for (spec, options, tokens, (part, form)) in [
            (&spec, &bf16, 9, ALL),
            (&many, &bf16, 8, ALL),
            (&spec, &nvfp4, 1, ALL),
            (&folded, &bf16, 1, shared_only),
            (&spec, &bf16, 1, (Part::All, Some(Form::Small))),
        ] {
            let split = kernels(spec, options, tokens, (part, form)).unwrap();
            assert!(!split.contains(&"expert_decode") && split.contains(&"combine"), "{split:?}");
            if form.is_none() {
                let wish = kernels(spec, options, tokens, (part, Some(Form::Decode)));
                assert!(matches!(wish, Err(megamoe::Error::Unsupported { .. })), "{wish:?}");
            }
        }
    }
}

#[test]
fn what_lies_in_a_workspace_between_calls_is_nobody_elses() {
    let weights = Spec::new(192, 80, 6, 2).weights();
    let plan = LayerPlan::new(&weights, &LayerOptions::default(), Arch::Sm90a).unwrap();
    let layout = plan.workspace(8).unwrap();
    assert_eq!((layout.stats.offset, layout.stats.bytes), (0, 4 * STATS));
    assert_eq!(
        (layout.decode_exchange.offset, layout.decode_exchange.bytes),
        (4 * STATS, 4 * (STATE - STATS))
    );
    // A workspace is shared with other layers and with linear maps: they leave the first words alone.
    let map = LinearPlan::new(&[weights.experts[0].down.clone()], LinearMode::W4A16, Arch::Sm90a).unwrap();
    let map = map.workspace(8).unwrap();
    for regions in [layout.regions(), map.regions()] {
        let others: Vec<_> = regions.iter().skip(1).map(|(_, region)| region.offset).collect();
        assert!(others.len() > 3 && others.iter().all(|&offset| offset >= 4 * STATE), "{others:?}");
    }
}

#[test]
fn the_kernels_of_a_call() {
    let device = device(Arch::Sm100a);
    let spec = Spec::new(192, 80, 6, 2);
    let decode = record(&device, &spec, &options(ActScaleL2::Bound), 9, ALL).unwrap();
    let expected = [
        "rows_amax_bf16",
        "sort_slots",
        "quantise_blocks_bf16",
        "tcgen05_gemm_swiglu_nvfp4",
        "tcgen05_gemm_plain_f32",
        "combine",
    ];
    assert_eq!(names(&decode), expected);
    // 400 tokens with two of six experts each: 134 rows of an expert.
    let prefill = record(&device, &spec, &options(ActScaleL2::RowDynamic), 400, ALL).unwrap();
    let expected = [
        "rows_amax_bf16",
        "sort_slots",
        "quantise_blocks_bf16",
        "tcgen05_gemm_swiglu_f32_pair",
        "quantise_blocks_f32",
        "tcgen05_gemm_plain_f32_pair",
        "combine",
    ];
    assert_eq!(names(&prefill), expected);
    for (form, kernel) in [(Form::Mega, "tcgen05_mega"), (Form::MegaPair, "tcgen05_mega_pair")] {
        let part = (Part::All, Some(form));
        let mega = record(&device, &spec, &options(ActScaleL2::Bound), 9, part).unwrap();
        assert_eq!(names(&mega), ["rows_amax_bf16", "sort_slots", "quantise_blocks_bf16", kernel]);
    }
    // bf16 activations have the portable form.
    let bf16 = record(&device, &spec, &LayerOptions::default(), 9, ALL).unwrap();
    assert!(names(&bf16).contains(&"expert_gemm_small_swiglu_bf16"), "{:?}", names(&bf16));
}

/// L2 and the combination in column chunks: every row block and every column once, results where they belong.
#[test]
fn column_chunks_cover_the_output() {
    let device = device(Arch::Sm100a);
    for hidden in [7168, 7056] {
        let spec = Spec::new(hidden, 16, 2, 2);
        let work = record(&device, &spec, &options(ActScaleL2::Bound), 8192, ALL).unwrap();
        let of = |prefix: &str| -> Vec<&Launched> {
            work.iter().filter(|launched| launched.kernel.name.starts_with(prefix)).collect()
        };
        let (products, sums) = (of("tcgen05_gemm_plain_f32"), of("combine"));
        assert!(products.len() > 1 && products.len() == sums.len(), "{} chunks", products.len());
        let (mut block, mut column) = (0, 0);
        for (product, sum) in products.into_iter().zip(sums) {
            assert_eq!(product.get("first_block"), block);
            assert_eq!(
                (product.get("features"), product.get("row_blocks")),
                (hidden as u64, (hidden as u64).div_ceil(128))
            );
            assert_eq!(sum.get("out"), OUTPUT + 2 * column);
            assert_eq!(sum.get("out_f32"), OUTPUT_F32 + 4 * column);
            assert_eq!((sum.get("y"), sum.get("y_stride")), (product.get("out"), product.get("out_stride")));
            // What a product writes is what a sum reads, and fits a row.
            let columns = (128 * (block + product.get("block_count"))).min(hidden as u64) - 128 * block;
            assert_eq!(sum.get("columns"), columns);
            assert!(columns <= product.get("out_stride"));
            block += product.get("block_count");
            column += columns;
        }
        assert_eq!((block, column), ((hidden as u64).div_ceil(128), hidden as u64));
    }
}

#[track_caller]
fn refused(result: megamoe::Result<Vec<Launched>>, why: &str) {
    match result {
        Err(error @ megamoe::Error::Unsupported { .. }) => {
            assert!(error.to_string().contains(why), "{error}");
        }
        Err(error) => panic!("another error: {error}"),
        Ok(work) => panic!("no error: {:?}", names(&work)),
    }
}

#[test]
fn forms_that_are_not_there_are_refused() {
    let (blackwell, hopper) = (device(Arch::Sm100a), device(Arch::Sm90a));
    let spec = Spec::new(192, 80, 6, 2);
    let bound = options(ActScaleL2::Bound);
    for form in [Form::Small, Form::Medium, Form::Narrow, Form::Wide, Form::Broad] {
        refused(record(&blackwell, &spec, &bound, 9, (Part::All, Some(form))), "choose `Single` or `Pair`");
    }
    for form in [Form::Single, Form::Pair] {
        refused(record(&hopper, &spec, &bound, 9, (Part::All, Some(form))), "choose the other form");
        refused(
            record(&blackwell, &spec, &LayerOptions::default(), 9, (Part::All, Some(form))),
            "choose the other form",
        );
    }
    let mega = |part| (part, Some(Form::Mega));
    for form in [Form::Mega, Form::MegaPair] {
        let all = (Part::All, Some(form));
        refused(record(&hopper, &spec, &bound, 9, all), "NVFP4 activations on sm_100a");
    }
    let row = options(ActScaleL2::RowDynamic);
    refused(record(&blackwell, &spec, &row, 9, mega(Part::All)), "a constant global scale in front of L2");
    let wide = Spec { shared: Shared::Nvfp4Wide, ..spec };
    refused(record(&blackwell, &wide, &bound, 9, mega(Part::All)), "a shared expert that is apart");
    assert!(record(&blackwell, &wide, &bound, 9, mega(Part::Routed)).is_ok());
    let long = Spec::new(7168, 16, 2, 2);
    refused(record(&blackwell, &long, &bound, 8192, mega(Part::All)), "go through H in chunks");
}
