//! Launches of the grouped GEMM on `tcgen05`: weights in blocks against rows of codes ([`Operands::Blocks`]).
//!
//! [`Operands::Blocks`]: super::shape::Operands::Blocks

use kernels::launch::{Dims, Launch};
use kernels::tcgen05_gemm::{self as blocks, layout};

use super::gemm::{Epilogue, Gemm};
use super::plan::Form;
use super::{Args, Queue};
use crate::{Error, Result};

/// Mean rows per group up to which a block works alone; above, a pair shares a tile of 256 rows of weights and brings half
/// of the tokens each. Modelled, not measured: from about here a step of the tensor core takes longer than the copies of
/// its weights, and a pair halves the tokens' copies to shared memory.
const SINGLE_ROWS: usize = 64;

/// # Safety
/// As [`Gemm::enqueue`].
pub(super) unsafe fn enqueue(gemm: &Gemm, queue: &dyn Queue, epilogue: Epilogue) -> Result<()> {
    let (launch, dims) = choose(gemm, queue, epilogue)?;
    let mut args = Args::new(launch).input("weights", gemm.weights).input("alpha", gemm.alpha);
    if epilogue != Epilogue::Plain {
        args = args.input("alpha_up", gemm.alpha_up);
    }
    args = args
        .input("b_codes", gemm.operand.rows)
        .input("b_scales", gemm.operand.block_scales)
        .input("b_scale", gemm.operand.scale)
        .input("offsets", gemm.offsets)
        .input("counts", gemm.counts);
    args = match epilogue {
        Epilogue::SwigluNvfp4(to) => args
            .output("out_codes", gemm.output.to)
            .output("out_scales", to.block_scales)
            .output("out_row_scale", to.scale)
            .input("out_constant", to.constant)
            .output("saturated", to.saturated),
        _ => args.output("out", gemm.output.to),
    };
    args = args
        .u32("experts", gemm.groups as u32)
        .u32("row_blocks", gemm.packed.row_tiles as u32)
        .u32("steps", gemm.packed.k_units as u32)
        .u32("first_block", gemm.output.first_tile as u32)
        .u32("block_count", gemm.output.tiles as u32);
    args = match epilogue {
        Epilogue::SwigluNvfp4(to) => args.u32("out_steps", to.steps as u32),
        _ => args.u32("features", gemm.output.features as u32).u32("out_stride", gemm.output.stride as u32),
    };
    if epilogue != Epilogue::Plain {
        args = args.f32("limit", gemm.limit);
    }
    // SAFETY: the caller's. The kernel waits for the one in front of it by itself.
    unsafe { queue.launch(dims, args, true) }
}

/// The kernel and its dimensions: the form asked for, or by the rows that a group can be expected to have.
fn choose(gemm: &Gemm, queue: &dyn Queue, epilogue: Epilogue) -> Result<(&'static Launch, Dims)> {
    let sms = queue.multiprocessors();
    let form = gemm.form.unwrap_or(match gemm.mean_rows {
        0..=SINGLE_ROWS => Form::Single,
        _ => Form::Pair,
    });
    let launch = match form {
        Form::Single => single(epilogue).map(|launch| (launch, blocks::dims::<layout::Single>(sms))),
        Form::Pair => pair(epilogue).map(|launch| (launch, blocks::dims::<layout::Pair>(sms))),
        Form::Small | Form::Medium | Form::Narrow | Form::Wide | Form::Broad => None,
        Form::Decode | Form::Mega | Form::MegaPair => None,
    };
    launch.ok_or_else(|| {
        let what = format!("{form:?} GEMM of NVFP4 activations on {}", queue.arch().name());
        Error::unsupported(what, "choose `Single` or `Pair`, or leave the choice to the planner")
    })
}

/// The kernels of one block for a tile.
fn single(epilogue: Epilogue) -> Option<&'static Launch> {
    match epilogue {
        Epilogue::SwigluNvfp4(_) => Some(&blocks::SWIGLU_NVFP4),
        Epilogue::SwigluF32 => Some(&blocks::SWIGLU_F32),
        Epilogue::Plain => Some(&blocks::PLAIN_F32),
        Epilogue::SwigluBf16 => None,
    }
}

/// Those of a pair.
fn pair(epilogue: Epilogue) -> Option<&'static Launch> {
    match epilogue {
        Epilogue::SwigluNvfp4(_) => Some(&blocks::SWIGLU_NVFP4_PAIR),
        Epilogue::SwigluF32 => Some(&blocks::SWIGLU_F32_PAIR),
        Epilogue::Plain => Some(&blocks::PLAIN_F32_PAIR),
        Epilogue::SwigluBf16 => None,
    }
}
