//! Calls of the layer on kernels, one after another: in a graph, in one workspace, alone and in a batch.

use kernels::launch::Arch;
use megamoe::io::LayerOutput;
use megamoe::options::{ActScale, ActScaleL2, Activations};
use megamoe::runtime::plan::{Form, LayerIo, Tokens};
use megamoe::runtime::shape::LayerOptions;
use megamoe::runtime::workspace::STATS;
use megamoe::runtime::{Device, DevicePtr, Memory, Queue};
use megamoe_tests::layer::record::{Work, launches, play};
use megamoe_tests::layer::rig::{Buffers, Rig, Strict, Workspace};
use megamoe_tests::layer::{Call, Routing, RowKind, Spec, same_bits};

use crate::device::{emulator, text, uneven};
use crate::harness::{Check, prove, require};

/// Small: many calls are made.
const SPEC: Spec = Spec { limit: Some(1.0), ..Spec::new(80, 48, 4, 2) };
/// Tokens that the buffers hold.
const ROOM: usize = 6;

fn call(tokens: usize, routing: Routing, seed: u64) -> Call {
    Call::new(&SPEC, tokens, routing, RowKind::Normal, seed)
}

fn rig(device: &dyn Device) -> Rig<'_> {
    Rig::load(device, &uneven(&SPEC), &LayerOptions::default()).unwrap()
}

fn workspace<'d>(rig: &Rig<'d>) -> Workspace<'d> {
    Workspace::new(rig.device, rig.plan.workspace(ROOM).unwrap().bytes()).unwrap()
}

/// A call with memory that nothing else has used.
fn alone(rig: &Rig<'_>, call: &Call) -> Result<LayerOutput, String> {
    let buffers = text(Buffers::new(rig.device, &rig.plan, ROOM))?;
    let fresh = workspace(rig);
    text(buffers.set(call))?;
    let work = text(rig.record(&buffers.io(false, Form::Small), &fresh))?;
    // SAFETY: recorded for this memory.
    text(unsafe { play(rig.device, &work) })?;
    text(rig.output(call, &buffers, &fresh))
}

/// What a mutant may do to the work of the `n`-th replay.
type Replay<'a> = dyn Fn(&mut Vec<Work>, usize) + 'a;

/// The launches of `name` out of the work.
fn without(work: &mut Vec<Work>, name: &str) {
    launches(work, name);
    work.retain(|work| !matches!(work, Work::Launch(launched) if launched.kernel.name.starts_with(name)));
}

/// A captured call, replayed with other rows, another routing and another number of tokens in the same buffers, gives
/// what a call with fresh memory gives. The workspace is NaN before each replay: nothing is left over from the last.
#[test]
fn replays_follow_the_buffers() {
    let device = emulator();
    let rig = rig(&device);
    let (buffers, workspace) = (Buffers::new(&device, &rig.plan, ROOM).unwrap(), workspace(&rig));
    let calls = [
        call(ROOM, Routing::Uniform, 1),
        call(4, Routing::Invalid, 2),
        call(0, Routing::Uniform, 3),
        call(ROOM, Routing::Zipf, 5),
    ];
    let want: Vec<LayerOutput> = calls.iter().map(|call| alone(&rig, call).unwrap()).collect();
    let io = buffers.io(false, Form::Small);
    let work = rig.record(&io, &workspace).unwrap();
    let captured = LayerIo { tokens: Tokens::Host(ROOM as u32), ..io };
    let with_host_tokens = rig.record(&captured, &workspace).unwrap();
    let copy = |bytes: &[u8]| Memory::of(&device, bytes).unwrap();
    let first_ids = copy(bytemuck::cast_slice(&calls[0].ids));
    let first_x = copy(bytemuck::cast_slice(&calls[0].x));
    let layout = rig.plan.workspace(ROOM).unwrap();
    let (x_scale, h_scale) = (layout.x_scale.at(workspace.at()).0, layout.h_scale.at(workspace.at()).0);
    // Tokens, or a rank's tokens, may be none: everything behind must still be written by the next replay.
    let skip = |name: &'static str| {
        move |work: &mut Vec<Work>, n: usize| {
            if n > 0 {
                without(work, name)
            }
        }
    };
    let mutants: &[(&str, &Replay<'_>)] = &[
        ("the number of tokens is captured", &|work, _| *work = with_host_tokens.clone()),
        ("ids of the first call", &|work, _| {
            launches(work, "sort_slots").remove(0).set("topk_ids", first_ids.ptr().0);
        }),
        ("inputs moved after the capture", &|work, _| {
            launches(work, "prepare_rows_bf16").remove(0).set("x", first_x.ptr().0);
        }),
        ("sorted in the first call only", &skip("sort_slots")),
        ("rows prepared in the first call only", &skip("prepare_rows_bf16")),
        ("L1 in the first call only", &skip("expert_gemm_small_swiglu")),
        ("L2 in the first call only", &skip("expert_gemm_small_plain")),
        ("results of the call before", &skip("combine")),
        ("one scale buffer for both GEMMs", &|work, _| {
            launches(work, "prepare_rows_bf16").remove(1).set("b_scale", x_scale);
            launches(work, "expert_gemm_small_plain").remove(0).set("b_scale", x_scale);
            launches(work, "expert_gemm_small_swiglu").remove(0).set("b_scale", h_scale);
        }),
        ("counters cleared by the call", &|work, _| {
            work.insert(0, Work::FillU32(workspace.at(), 0, STATS));
        }),
    ];
    let real: &Replay<'_> = &|_, _| ();
    prove("replays", real, mutants, |edit| {
        // SAFETY: counters, inside the workspace.
        text(unsafe { device.fill_u32(workspace.at(), 0, STATS) })?;
        let mut invalid = 0;
        for (n, (call, want)) in calls.iter().zip(&want).enumerate() {
            // Operands and results. Counts and offsets keep what the last call left, which a kernel can walk in time.
            text(workspace.poison_from(&device, layout.x.offset))?;
            text(buffers.set(call))?;
            let mut work = work.clone();
            edit(&mut work, n);
            // SAFETY: recorded for this memory.
            text(unsafe { play(&device, &work) })?;
            let got = text(rig.output(call, &buffers, &workspace))?;
            same_bits(&got, want).map_err(|e| format!("replay {n}: {e}"))?;
            invalid += want.stats.invalid_slots;
            require(got.stats.invalid_slots == invalid, format!("replay {n}: {:?}", got.stats))?;
        }
        Ok(())
    });
}

/// How a call is enqueued; the mutants are what engines did between the launches.
type Enqueue<'a> = dyn Fn(&Strict<'_>, &LayerIo, &Workspace<'_>) -> Check + 'a;

/// A call neither allocates nor copies nor waits, and its launches are the same for every routing and number of tokens
/// on the device.
#[test]
fn a_call_only_enqueues() {
    let device = emulator();
    let rig = rig(&device);
    let (buffers, workspace) = (Buffers::new(&device, &rig.plan, ROOM).unwrap(), workspace(&rig));
    let layout = rig.plan.workspace(ROOM).unwrap();
    let real = |strict: &Strict<'_>, io: &LayerIo, workspace: &Workspace<'_>| {
        // SAFETY: the memory of the call.
        text(unsafe { rig.plan.enqueue(strict, io, workspace.at(), workspace.bytes) })
    };
    let copied = |strict: &Strict<'_>, from: DevicePtr, bytes: usize| {
        let mut to = vec![0; bytes];
        // SAFETY: inside a buffer.
        text(unsafe { strict.download(from, &mut to) })
    };
    let mutants: &[(&str, &Enqueue<'_>)] = &[
        ("a wait between launches", &|strict, io, workspace| {
            real(strict, io, workspace)?;
            text(strict.synchronize())
        }),
        ("offsets copied to the host", &|strict, io, workspace| {
            real(strict, io, workspace)?;
            copied(strict, layout.offsets.at(workspace.at()), layout.offsets.bytes)
        }),
        ("a count read by the host", &|strict, io, workspace| {
            copied(strict, buffers.tokens.ptr(), 4)?;
            real(strict, io, workspace)
        }),
        ("a scale buffer for each call", &|strict, io, workspace| {
            let _scales = text(Memory::new(strict, 4 * ROOM))?;
            real(strict, io, workspace)
        }),
        ("scales assembled on the host", &|strict, io, workspace| {
            // SAFETY: inside the workspace.
            text(unsafe { strict.upload(layout.h_scale.at(workspace.at()), &[0; 4]) })?;
            real(strict, io, workspace)
        }),
    ];
    let check = |enqueue: &Enqueue<'_>| {
        let strict = Strict::new(&device);
        text(buffers.set(&call(ROOM, Routing::Uniform, 1)))?;
        enqueue(&strict, &buffers.io(false, Form::Small), &workspace)?;
        require(strict.refused() == 0, "a stream in capture refuses that")
    };
    prove::<Enqueue<'_>>("enqueueing", &real, mutants, check);
}

/// A list of work for what the device holds; the mutants look at it.
type Planned<'a> = dyn Fn(&Call) -> Vec<Work> + 'a;

/// The launches, their grids and their arguments are the same whatever the device holds.
#[test]
fn launches_do_not_depend_on_the_call() {
    let device = emulator();
    let rig = rig(&device);
    let (buffers, workspace) = (Buffers::new(&device, &rig.plan, ROOM).unwrap(), workspace(&rig));
    let io = buffers.io(false, Form::Small);
    let real = |_: &Call| rig.record(&io, &workspace).unwrap();
    let mutants: &[(&str, &Planned<'_>)] = &[
        ("a launch for each expert with rows", &|call| {
            let mut work = real(call);
            let mut busy = call.ids.clone();
            busy.sort_unstable();
            busy.dedup();
            let gemm = launches(&mut work, "expert_gemm_small_swiglu").remove(0).clone();
            work.extend(busy.iter().map(|_| Work::Launch(gemm.clone())));
            work
        }),
        ("a grid for the rows that there are", &|call| {
            let mut work = real(call);
            launches(&mut work, "combine").remove(0).dims.grid[0] = call.tokens.max(1) as u32;
            work
        }),
        ("the tokens of the call as an argument", &|call| {
            let io = LayerIo { tokens: Tokens::Host(call.tokens as u32), ..io };
            rig.record(&io, &workspace).unwrap()
        }),
    ];
    let check = |plan: &Planned<'_>| {
        let calls = [call(ROOM, Routing::Uniform, 1), call(1, Routing::One, 2), call(ROOM, Routing::One, 3)];
        let work: Vec<_> = calls.iter().map(plan).collect();
        require(work.iter().all(|w| *w == work[0]), "other launches for another call")
    };
    prove::<Planned<'_>>("launches", &real, mutants, check);
}

/// Two layers, one workspace: the same bits as apart. A stream keeps calls in order; the mutant does not.
#[test]
fn layers_share_a_workspace() {
    let device = emulator();
    let strict = Strict::new(&device);
    let layers = [SPEC, Spec { seed: 2, ..SPEC }]
        .map(|spec| Rig::load(&strict, &uneven(&spec), &LayerOptions::default()).unwrap());
    let calls = [call(ROOM, Routing::Uniform, 7), call(ROOM, Routing::Zipf, 8)];
    let want = [0, 1].map(|i| alone(&layers[i], &calls[i]).unwrap());
    let buffers = [0, 1].map(|i| Buffers::new(&strict, &layers[i].plan, ROOM).unwrap());
    let shared = workspace(&layers[0]);
    let work = [0, 1].map(|i| layers[i].record(&buffers[i].io(false, Form::Small), &shared).unwrap());
    type Order<'a> = dyn Fn(&[Vec<Work>; 2]) -> Vec<Work> + 'a;
    let in_order = |work: &[Vec<Work>; 2]| work.concat();
    let mutants: &[(&str, &Order<'_>)] = &[
        ("layers in flight together", &|work| {
            let (early, late) = work[0].split_at(work[0].len() - 1);
            [early, &work[1], late].concat()
        }),
        ("launch by launch in turn", &|work| {
            work[0].iter().zip(&work[1]).flat_map(|(a, b)| [a.clone(), b.clone()]).collect()
        }),
    ];
    prove::<Order<'_>>("two layers", &in_order, mutants, |order| {
        text(shared.poison(&device))?;
        for i in [0, 1] {
            text(buffers[i].set(&calls[i]))?;
        }
        // SAFETY: recorded for this memory.
        text(unsafe { play(&device, &order(&work)) })?;
        for i in [0, 1] {
            let got = text(layers[i].output(&calls[i], &buffers[i], &shared))?;
            same_bits(&got, &want[i]).map_err(|e| format!("layer {i}: {e}"))?;
        }
        Ok(())
    });
}

/// Memory of a model: the weights of each layer and one workspace, whose size is known before anything is allocated.
#[test]
fn memory_of_a_model() {
    const LAYERS: usize = 5;
    let device = emulator();
    type Load<'a> = dyn Fn(&Strict<'_>) + 'a;
    let load = |strict: &Strict<'_>, layers: usize, workspaces: usize| {
        let rigs: Vec<_> = (0..layers).map(|_| rig(strict)).collect();
        let _workspaces: Vec<_> = (0..workspaces)
            .map(|_| Memory::new(strict, rigs[0].plan.workspace(ROOM).unwrap().bytes()).unwrap())
            .collect();
    };
    // Packing needs memory of its own for a while: what one layer needs is measured.
    let one = Strict::new(&device);
    load(&one, 1, 0);
    let layout = rig(&device).plan.workspace(ROOM).unwrap();
    let named: usize = layout.regions().iter().map(|(_, region)| region.bytes).sum();
    assert!(named <= layout.bytes() && layout.bytes() < named + 256 * layout.regions().iter().count());
    let mutants: &[(&str, &Load<'_>)] =
        &[("a workspace for every layer", &|strict| load(strict, LAYERS, LAYERS))];
    prove::<Load<'_>>("memory", &|strict| load(strict, LAYERS, 1), mutants, |load| {
        let strict = Strict::new(&device);
        load(&strict);
        let want = LAYERS * one.allocated.get() + layout.bytes();
        require(strict.allocated.get() == want, format!("{} bytes, not {want}", strict.allocated.get()))
    });
}

/// A workspace for fewer tokens than the buffers hold is refused before anything is launched, and the one of the right
/// size holds every routing.
#[test]
fn a_workspace_that_is_too_small_is_refused() {
    let device = emulator();
    let rig = rig(&device);
    let buffers = Buffers::new(&device, &rig.plan, ROOM).unwrap();
    let bytes = rig.plan.workspace(ROOM).unwrap().bytes();
    type Claim<'a> = dyn Fn(usize) -> usize + 'a;
    let mutants: &[(&str, &Claim<'_>)] = &[("the size is not looked at", &|_| usize::MAX)];
    prove::<Claim<'_>>("sizes", &|bytes| bytes, mutants, |claim| {
        for (given, fits) in
            [(bytes, true), (bytes - 1, false), (rig.plan.workspace(2).unwrap().bytes(), false)]
        {
            let mut claimed = text(Workspace::new(&device, given))?;
            claimed.bytes = claim(given);
            let recorded = rig.record(&buffers.io(false, Form::Small), &claimed);
            require(recorded.is_ok() == fits, format!("{given} bytes of {bytes}"))?;
        }
        Ok(())
    });
    for routing in [Routing::One, Routing::Last, Routing::Invalid] {
        // `output` looks at the guard behind the workspace and at the rows past the tokens.
        alone(&rig, &call(ROOM, routing, 9)).unwrap();
    }
}

/// A token's result is the same bits alone, in a batch, and again.
#[test]
fn a_token_does_not_see_its_batch() {
    let device = emulator();
    let options = |act_scale, act_scale_l2| LayerOptions {
        activations: Activations::Nvfp4,
        act_scale,
        act_scale_l2,
        ..LayerOptions::default()
    };
    let batch = call(ROOM, Routing::Zipf, 10);
    let check = |options: &LayerOptions| {
        let rig = text(Rig::load(&device, &uneven(&SPEC), options))?;
        let together = alone(&rig, &batch)?;
        same_bits(&alone(&rig, &batch)?, &together)?;
        for token in [0, ROOM - 1] {
            let one = alone(&rig, &batch.pick(&[token]))?;
            let row = &together.output_f32[token * SPEC.hidden..(token + 1) * SPEC.hidden];
            let same = one.output_f32.iter().zip(row).all(|(a, b)| a.to_bits() == b.to_bits());
            require(same, format!("token {token} sees its batch"))?;
        }
        Ok(())
    };
    let mutants = [
        ("one scale for the whole batch", &options(ActScale::TensorDynamic, ActScaleL2::RowDynamic)),
        ("one scale for all SwiGLU results", &options(ActScale::RowDynamic, ActScaleL2::TensorDynamic)),
    ];
    prove("batches", &LayerOptions::default(), &mutants, check);
    prove("batches, NVFP4", &options(ActScale::RowDynamic, ActScaleL2::RowDynamic), &mutants, check);
}

/// No kernel reads through a tensor map, so none can move: addresses are arguments.
#[test]
fn no_kernel_has_a_tensor_map() {
    let shipped = [Arch::Sm90a, Arch::Sm100a].map(Arch::ptx).concat();
    let planted = shipped.replacen("ret;", "prefetch.tensormap [%rd1];\n\tret;", 1);
    let mutants: &[(&str, &str)] = &[("a kernel that takes a tensor map", planted.as_str())];
    prove::<str>("tensor maps", &shipped, mutants, |ptx| {
        require(!ptx.contains("tensormap") && !ptx.contains("cp.async.bulk.tensor"), "a tensor map")
    });
}
