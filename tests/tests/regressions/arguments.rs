//! The arguments of a call's launches: each of these faults is one argument of one launch, and the comparison with the
//! f64 oracle, the counters or the emulator's checkers notice it.

use megamoe::options::{ActScale, ActScaleL2, Activations};
use megamoe::oracle;
use megamoe::runtime::plan::Form;
use megamoe::runtime::shape::LayerOptions;
use megamoe_tests::layer::record::{Work, launches, play};
use megamoe_tests::layer::rig::{Buffers, Rig, Workspace};
use megamoe_tests::layer::{Call, Routing, RowKind, Shared, Spec, compare};

use crate::device::{Edit, SPEC, emulator, prove_edits, text, uneven};
use crate::harness::Check;

/// Tokens of the calls; the buffers hold three more.
const TOKENS: usize = 9;

/// A call in its buffers, judged by the oracle.
pub struct Judged<'d> {
    /// The layer.
    pub rig: Rig<'d>,
    /// Inputs and outputs.
    pub buffers: Buffers<'d>,
    call: Call,
    /// What the oracle says.
    pub want: megamoe::io::LayerOutput,
    model: bool,
    form: Form,
}

impl<'d> Judged<'d> {
    /// A layer with its call, loaded.
    pub fn new(
        device: &'d dyn megamoe::runtime::Device,
        spec: &Spec,
        options: &LayerOptions,
        routing: Routing,
        rows: RowKind,
        form: Form,
    ) -> Self {
        let weights = uneven(spec);
        let call = Call::new(spec, TOKENS, routing, rows, 4);
        let want = oracle::forward(&weights, &call.input(), &options.forward()).unwrap();
        let rig = Rig::load(device, &weights, options).unwrap();
        let buffers = Buffers::new(device, &rig.plan, TOKENS + 3).unwrap();
        Self { rig, buffers, call, want, model: routing == Routing::Model, form }
    }

    /// A workspace as an engine finds it, with work for it.
    pub fn workspace(&self) -> Workspace<'d> {
        let layout = self.rig.plan.workspace(self.buffers.max_tokens).unwrap();
        let workspace = Workspace::new(self.rig.device, layout.bytes()).unwrap();
        workspace.poison(self.rig.device).unwrap();
        workspace
    }

    /// Requires that each edit of the call's work is noticed.
    pub fn prove(&self, what: &str, edits: &[(&str, Edit<'_>)], workspace: &Workspace<'d>) {
        let device = self.rig.device;
        let work = self.rig.record(&self.buffers.io(self.model, self.form), workspace).unwrap();
        let check = |work: &[Work]| -> Check {
            // SAFETY: counters, inside the workspace.
            text(unsafe { device.fill_u32(workspace.at(), 0, megamoe::runtime::workspace::STATS) })?;
            text(workspace.poison(device))?;
            text(self.buffers.set(&self.call))?;
            // SAFETY: recorded for these buffers; the mutants stay within the emulator, which checks addresses.
            text(unsafe { play(device, work) })?;
            compare(&text(self.rig.output(&self.call, &self.buffers, workspace))?, &self.want)
        };
        prove_edits(what, &work, edits, check);
    }
}

/// The first launch whose kernel's name starts so.
pub fn first<'w>(work: &'w mut [Work], prefix: &str) -> &'w mut megamoe_tests::layer::record::Launched {
    launches(work, prefix).remove(0)
}

/// Alphas, clamp, segments, row scales, K: a rank's experts with static NVFP4 scales and a folded shared expert; bad
/// rows, ids of other ranks and ids that are none.
#[test]
fn a_ranks_call() {
    let device = emulator();
    let options = LayerOptions {
        activations: Activations::Nvfp4,
        act_scale: ActScale::Static,
        act_scale_l2: ActScaleL2::Static,
        local_experts: Some(1..5),
        ..LayerOptions::default()
    };
    let spec = Spec { shared: Shared::Nvfp4, ..SPEC };
    let judged = Judged::new(&device, &spec, &options, Routing::Invalid, RowKind::Edges, Form::Small);
    assert!(judged.want.stats.invalid_slots > 0 && judged.want.stats.foreign_slots > 0);
    assert!(judged.want.stats.non_finite_rows > 0);
    let workspace = judged.workspace();
    let at = workspace.at();
    let layout = judged.rig.plan.workspace(judged.buffers.max_tokens).unwrap();
    let (base, image) = (judged.rig.weights.ptr(), judged.rig.plan.image());
    let (x_scale, h_scale) = (layout.x_scale.at(at).0, layout.h_scale.at(at).0);
    let number = |n: u64| image.numbers.at(base).0 + 4 * n;
    let up = "expert_gemm_small_swiglu";
    let down = "expert_gemm_small_plain";
    let edits: &[(&str, Edit<'_>)] = &[
        ("gate's alpha for both halves of a launch", &|w| {
            let gate = first(w, up).get("alpha");
            first(w, up).set("alpha_up", gate);
        }),
        ("alphas of gate and up exchanged", &|w| {
            let swiglu = first(w, up);
            let (gate, up) = (swiglu.get("alpha"), swiglu.get("alpha_up"));
            swiglu.set("alpha", up);
            swiglu.set("alpha_up", gate);
        }),
        ("alphas of the expert before", &|w| first(w, down).change("alpha", |at| at - 4)),
        ("L1 without the clamp", &|w| first(w, up).set("limit", u64::from(f32::INFINITY.to_bits()))),
        ("the clamp of another model", &|w| first(w, up).set("limit", u64::from(10f32.to_bits()))),
        ("row scales of L1 in front of L2", &|w| first(w, down).set("b_scale", x_scale)),
        ("one static scale for all experts of L1", &|w| first(w, "prepare_rows_nvfp4_bf16").set("mode", 1)),
        ("a dynamic scale where a static one is asked for", &|w| {
            first(w, "prepare_rows_nvfp4_bf16").set("mode", 0);
        }),
        ("the static scale of the expert behind, L1", &|w| {
            first(w, "prepare_rows_nvfp4_bf16").change("scale", |at| at + 4);
        }),
        ("the static scale of the expert behind, L2", &|w| {
            first(w, "prepare_rows_nvfp4_f32").change("scale", |at| at + 4);
        }),
        ("static scales of L1 for L2", &|w| {
            let l1 = first(w, "prepare_rows_nvfp4_bf16").get("scale");
            first(w, "prepare_rows_nvfp4_f32").set("scale", l1);
        }),
        ("segments from offsets without the leading zero, L1", &|w| {
            first(w, up).change("offsets", |at| at + 4)
        }),
        ("segments from offsets without the leading zero, L2", &|w| {
            first(w, down).change("offsets", |at| at + 4);
        }),
        ("ends of segments for their counts", &|w| {
            let offsets = first(w, up).get("offsets");
            first(w, up).set("counts", offsets + 4);
        }),
        ("the last expert is not computed", &|w| first(w, down).change("experts", |n| n - 1)),
        ("global ids sorted as local ones", &|w| first(w, "sort_slots").set("first_local", 0)),
        ("ids of other ranks taken for invalid ones", &|w| {
            first(w, "sort_slots").change("experts", |n| n - 1)
        }),
        ("segments padded beyond the workspace", &|w| first(w, "sort_slots").set("tile", 128)),
        ("slots that do not fit are dropped", &|w| first(w, "sort_slots").change("max_tokens", |_| 8)),
        ("bad rows are sorted like others", &|w| first(w, "sort_slots").set("b_scale", 0)),
        ("a folded shared expert is forgotten", &|w| first(w, "combine").set("shared_row", 0)),
        ("the shared expert's rows begin one expert early", &|w| {
            first(w, "combine").change("shared_row", |at| at - 4);
        }),
        ("routing weights of the slot behind", &|w| first(w, "combine").change("topk_weights", |at| at + 4)),
        ("rows past the tokens of the call are combined", &|w| first(w, "combine").set("tokens", number(12))),
        ("the last token is not combined", &|w| first(w, "combine").set("tokens", number(8))),
        ("the last block of K is not read, L1", &|w| first(w, "prepare_rows_nvfp4_bf16").set("k", 192)),
        ("the last block of K is not read, L2", &|w| first(w, "prepare_rows_nvfp4_f32").set("k", 64)),
        ("the K tail has no unit", &|w| first(w, up).change("k_units", |n| n - 1)),
        ("the last tile of features is not computed", &|w| first(w, down).change("tile_count", |n| n - 1)),
        ("L2 begins at the second tile", &|w| first(w, down).set("first_tile", 1)),
        ("quantised rows of L1 gathered a second time", &|w| {
            let tokens = first(w, "prepare_rows_nvfp4_bf16").get("row_token");
            first(w, up).set("row_token", tokens);
        }),
        ("scales of L2 written over those of L1 only", &|w| {
            assert_ne!(x_scale, h_scale);
            first(w, "prepare_rows_nvfp4_f32").set("b_scale", x_scale);
        }),
    ];
    judged.prove("a rank's call", edits, &workspace);
}

/// Routing, gathering and a shared expert of its own width, with bf16 activations.
#[test]
fn a_call_that_routes() {
    let device = emulator();
    let spec = Spec { shared: Shared::Nvfp4Wide, ..SPEC };
    let options = LayerOptions::default();
    let judged = Judged::new(&device, &spec, &options, Routing::Model, RowKind::Normal, Form::Small);
    let workspace = judged.workspace();
    let up = "expert_gemm_small_swiglu";
    let edits: &[(&str, Edit<'_>)] = &[
        ("token indices of rows lost", &|w| first(w, up).set("row_token", 0)),
        ("the scaling factor forgotten in a launch", &|w| {
            first(w, "route_tokens").set("scaling", u64::from(1f32.to_bits()));
        }),
        ("the scaling factor twice in a launch", &|w| {
            first(w, "route_tokens").set("scaling", u64::from(2.25f32.to_bits()));
        }),
        ("weights that are not normalised", &|w| first(w, "route_tokens").set("normalise", 0)),
        ("another score function", &|w| first(w, "route_tokens").set("scoring", 1)),
        ("selection without the bias", &|w| first(w, "route_tokens").set("bias", 0)),
        ("the router sees an expert less", &|w| first(w, "route_tokens").change("experts", |n| n - 1)),
        ("logits of the tail of K missing", &|w| first(w, "router_logits").change("hidden", |n| n - 16)),
        ("one choice less per token", &|w| first(w, "combine").change("top_k", |n| n - 1)),
        ("the shared expert's own result is forgotten", &|w| first(w, "combine").set("shared", 0)),
        ("slots looked up one further", &|w| first(w, "combine").change("slot_row", |at| at + 4)),
        ("rows of all tokens that there is room for", &|w| {
            let tokens = judged.rig.plan.image().numbers.at(judged.rig.weights.ptr()).0 + 4 * 12;
            first(w, "sort_slots").set("tokens", tokens);
            first(w, "combine").set("tokens", tokens);
        }),
    ];
    judged.prove("a call that routes", edits, &workspace);
}

/// Bad rows without a shared expert, whose own NaN would hide what becomes of them.
#[test]
fn a_call_with_bad_rows() {
    let device = emulator();
    let options = LayerOptions::default();
    let judged = Judged::new(&device, &SPEC, &options, Routing::Uniform, RowKind::Edges, Form::Small);
    let workspace = judged.workspace();
    let edits: &[(&str, Edit<'_>)] =
        &[("bad rows come out as numbers", &|w| first(w, "combine").set("b_scale", 0))];
    judged.prove("a call with bad rows", edits, &workspace);
}
