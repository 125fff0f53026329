//! The arguments of a call's launches on sm_100a with NVFP4 activations: as `arguments`, on the kernels of tcgen05.

use kernels::launch::Arch;
use megamoe::emulator::EmulatorDevice;
use megamoe::options::{ActScale, ActScaleL2, Activations, WarmupScales};
use megamoe::runtime::plan::Form;
use megamoe::runtime::shape::LayerOptions;
use megamoe_tests::layer::{Routing, RowKind, Shared, Spec};

use crate::arguments::{Judged, first};
use crate::device::{Edit, SPEC};

fn emulator() -> EmulatorDevice {
    EmulatorDevice::new(Arch::Sm100a).expect("the shipped PTX")
}

fn quantised(act_scale: ActScale, act_scale_l2: ActScaleL2) -> LayerOptions {
    LayerOptions { activations: Activations::Nvfp4, act_scale, act_scale_l2, ..LayerOptions::default() }
}

const UP: &str = "tcgen05_gemm_swiglu";
const DOWN: &str = "tcgen05_gemm_plain";
const QUANTISE: &str = "quantise_blocks_bf16";

/// A rank's experts with static scales and a folded shared expert, L1 quantising its results; bad rows, ids of other ranks
/// and ids that are none.
#[test]
fn a_ranks_call_in_blocks() {
    let device = emulator();
    let static_scales = quantised(ActScale::Static, ActScaleL2::Static);
    let options = LayerOptions { local_experts: Some(1..5), ..static_scales };
    let spec = Spec { shared: Shared::Nvfp4, ..SPEC };
    let judged = Judged::new(&device, &spec, &options, Routing::Invalid, RowKind::Edges, Form::Single);
    assert!(judged.want.stats.invalid_slots > 0 && judged.want.stats.foreign_slots > 0);
    assert!(judged.want.stats.non_finite_rows > 0);
    let workspace = judged.workspace();
    let at = workspace.at();
    let layout = judged.rig.plan.workspace(judged.buffers.max_tokens).unwrap();
    let (x_scale, h_scale) = (layout.x_scale.at(at).0, layout.h_scale.at(at).0);
    let edits: &[(&str, Edit<'_>)] = &[
        ("blocks: gate's alpha for both", &|w| {
            let gate = first(w, UP).get("alpha");
            first(w, UP).set("alpha_up", gate);
        }),
        ("blocks: alphas of the expert before", &|w| first(w, DOWN).change("alpha", |at| at - 4)),
        ("blocks: L1 without the clamp", &|w| first(w, UP).set("limit", u64::from(f32::INFINITY.to_bits()))),
        ("blocks: row scales of L1 in front of L2", &|w| first(w, DOWN).set("b_scale", x_scale)),
        ("blocks: one static scale for all experts of L1", &|w| first(w, QUANTISE).set("mode", 1)),
        ("blocks: a dynamic scale where a static one is asked for", &|w| first(w, QUANTISE).set("mode", 0)),
        ("blocks: the static scale of the expert behind, L1", &|w| {
            first(w, QUANTISE).change("scale", |at| at + 4);
        }),
        ("blocks: codes of L2 under the scale of the expert behind", &|w| {
            first(w, UP).change("out_constant", |at| at + 4);
        }),
        ("blocks: rows of L2 with the scale of the expert behind", &|w| {
            first(w, QUANTISE).change("next_constant", |at| at + 4);
        }),
        ("blocks: static scales of L1 for L2", &|w| {
            let l1 = first(w, QUANTISE).get("scale");
            first(w, QUANTISE).set("next_constant", l1);
            first(w, UP).set("out_constant", l1);
        }),
        ("blocks: rows of L2 have no scales", &|w| first(w, QUANTISE).set("next_scale", 0)),
        ("blocks: scales of L2 written over those of L1", &|w| {
            assert_ne!(x_scale, h_scale);
            first(w, QUANTISE).set("next_scale", x_scale);
        }),
        ("blocks: segments from offsets without the leading zero", &|w| {
            first(w, UP).change("offsets", |at| at + 4);
        }),
        ("blocks: ends of segments for their counts", &|w| {
            let offsets = first(w, UP).get("offsets");
            first(w, UP).set("counts", offsets + 4);
        }),
        ("blocks: the last expert is not computed", &|w| first(w, DOWN).change("experts", |n| n - 1)),
        ("blocks: segments that do not start on a block", &|w| first(w, "sort_slots").set("tile", 16)),
        ("blocks: padding is not written", &|w| first(w, QUANTISE).set("experts", 0)),
        ("blocks: tokens at the rows of the slot behind", &|w| {
            first(w, QUANTISE).change("slot_row", |at| at + 4);
        }),
        ("blocks: the shared expert's rows are not written", &|w| first(w, QUANTISE).set("shared", 0)),
        ("blocks: the last block of K is not read, L1", &|w| first(w, QUANTISE).set("k", 192)),
        ("blocks: the K tail has no step, L1", &|w| first(w, UP).change("steps", |n| n - 1)),
        ("blocks: the K tail has no step, L2", &|w| first(w, DOWN).change("steps", |n| n - 1)),
        ("blocks: the last row block is not computed, L1", &|w| {
            first(w, UP).change("block_count", |n| n - 1)
        }),
        ("blocks: the last row block is not computed, L2", &|w| {
            first(w, DOWN).change("block_count", |n| n - 1);
        }),
        ("blocks: L2 begins at the second row block", &|w| first(w, DOWN).set("first_block", 1)),
        ("blocks: scales of the tokens' codes one row block on", &|w| {
            first(w, DOWN).change("b_scales", |at| at + 512);
        }),
    ];
    judged.prove("a rank's call in blocks", edits, &workspace);
}

/// L2's rows quantised by a kernel of their own, counters of saturated blocks in L1.
#[test]
fn a_call_in_two_passes() {
    let device = emulator();
    let warmup = Some(WarmupScales { l1: 0.0003, l2_routed: 1.0, l2_shared: 1.0 });
    let options = LayerOptions { warmup, ..quantised(ActScale::Warmup, ActScaleL2::TensorDynamic) };
    // Without a clamp the maxima of routed and shared rows differ.
    let spec = Spec { shared: Shared::Nvfp4, limit: None, ..SPEC };
    let judged = Judged::new(&device, &spec, &options, Routing::Invalid, RowKind::Normal, Form::Pair);
    assert!(judged.want.stats.saturated_blocks_l1 > 0);
    let workspace = judged.workspace();
    let quantise = "quantise_blocks_f32";
    let edits: &[(&str, Edit<'_>)] = &[
        ("blocks: a row's own scale for the call's", &|w| first(w, quantise).set("mode", 0)),
        ("blocks: one maximum for routed and shared rows", &|w| first(w, quantise).set("mode", 3)),
        ("blocks: the last block of K is not read, L2", &|w| first(w, quantise).set("k", 64)),
        ("blocks: rows of half the width", &|w| first(w, UP).change("out_stride", |n| n / 2)),
        ("blocks: saturated tokens are counted by slot", &|w| first(w, QUANTISE).set("mode", 2)),
        ("blocks: nothing is counted", &|w| first(w, QUANTISE).set("saturated", 0)),
    ];
    judged.prove("a call in two passes", edits, &workspace);
}

/// Both products and the combination in one launch.
#[test]
fn a_call_in_one_launch() {
    let device = emulator();
    let options = quantised(ActScale::RowDynamic, ActScaleL2::Bound);
    let spec = Spec { shared: Shared::Nvfp4, ..SPEC };
    let judged = Judged::new(&device, &spec, &options, Routing::Invalid, RowKind::Edges, Form::Mega);
    let workspace = judged.workspace();
    let mega = "tcgen05_mega";
    let edits: &[(&str, Edit<'_>)] = &[
        ("mega: counters that nobody has cleared", &|w| {
            w.retain(|work| !matches!(work, megamoe_tests::layer::record::Work::FillU32(..)));
        }),
        ("mega: the shared expert is forgotten", &|w| first(w, mega).set("shared_row", 0)),
        ("mega: gate's alpha for both", &|w| {
            let gate = first(w, mega).get("alpha");
            first(w, mega).set("alpha_up", gate);
        }),
        ("mega: alphas of L1 for L2", &|w| {
            let gate = first(w, mega).get("alpha");
            first(w, mega).set("alpha_down", gate);
        }),
        ("mega: without the clamp", &|w| first(w, mega).set("limit", u64::from(f32::INFINITY.to_bits()))),
        ("mega: routing weights of the slot behind", &|w| {
            first(w, mega).change("topk_weights", |at| at + 4);
        }),
        ("mega: one choice less per token", &|w| first(w, mega).change("top_k", |n| n - 1)),
    ];
    judged.prove("a call in one launch", edits, &workspace);
    // Without a shared expert, whose own NaN would hide what becomes of them.
    let judged = Judged::new(&device, &SPEC, &options, Routing::Uniform, RowKind::Edges, Form::Mega);
    let edits: &[(&str, Edit<'_>)] =
        &[("mega: bad rows come out as numbers", &|w| first(w, mega).set("token_scale", 0))];
    judged.prove("bad rows in one launch", edits, &judged.workspace());
}
