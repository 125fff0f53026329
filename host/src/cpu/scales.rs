//! From options to global scales.

pub(crate) use super::rows::Scales;
use crate::error::{Error, Result};
use crate::options::{ActScale, ActScaleL2, Activations, ForwardOptions, WarmupScales};

/// Name and calibrated scale of a projection.
pub(crate) type InputScale = (String, Option<f32>);

/// Which experts a set of scales is for: their warm-up scales differ.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    Routed,
    Shared,
}

/// Scales of L1. `calibrated` gives gate and up of each local expert.
pub(crate) fn l1(opts: &ForwardOptions, calibrated: impl Iterator<Item = [InputScale; 2]>) -> Result<Scales> {
    if opts.activations == Activations::Bf16 {
        return Ok(Scales::Bf16);
    }
    Ok(match opts.act_scale {
        ActScale::RowDynamic => Scales::PerRow,
        ActScale::TensorDynamic => Scales::Tensor,
        ActScale::Warmup => Scales::Constant(warmup(opts)?.l1),
        ActScale::Static => {
            let both = |[gate, up]: [InputScale; 2]| Ok(given(gate)?.max(given(up)?));
            Scales::PerExpert(calibrated.map(both).collect::<Result<_>>()?)
        }
    })
}

/// Scales of L2. `calibrated` gives the down projection of each local expert.
pub(crate) fn l2(
    opts: &ForwardOptions,
    who: Who,
    limit: f32,
    calibrated: impl Iterator<Item = InputScale>,
) -> Result<Scales> {
    if opts.activations == Activations::Bf16 {
        return Ok(Scales::Bf16);
    }
    Ok(match opts.act_scale_l2 {
        ActScaleL2::Bound if limit.is_finite() => Scales::Constant(nvfp4::swiglu::bound_scale(limit)),
        ActScaleL2::Bound | ActScaleL2::RowDynamic => Scales::PerRow,
        ActScaleL2::TensorDynamic => Scales::Tensor,
        ActScaleL2::Warmup if who == Who::Routed => Scales::Constant(warmup(opts)?.l2_routed),
        ActScaleL2::Warmup => Scales::Constant(warmup(opts)?.l2_shared),
        ActScaleL2::Static => Scales::PerExpert(calibrated.map(given).collect::<Result<_>>()?),
    })
}

fn given((name, scale): InputScale) -> Result<f32> {
    match scale {
        Some(s) if s > 0.0 && s.is_finite() => Ok(s),
        Some(s) => Err(Error::invalid(name, format!("input_scale is {s}, not a positive finite number"))),
        None => Err(Error::invalid(
            name,
            "static activation scales need an input_scale, and the checkpoint has none; use dynamic scales",
        )),
    }
}

fn warmup(opts: &ForwardOptions) -> Result<WarmupScales> {
    let scales = opts.warmup.ok_or_else(|| {
        Error::invalid("warmup", "warm-up activation scales need ForwardOptions::warmup; measure it first")
    })?;
    for (name, s) in [("l1", scales.l1), ("l2_routed", scales.l2_routed), ("l2_shared", scales.l2_shared)] {
        if !(s >= 0.0 && s.is_finite()) {
            return Err(Error::invalid(
                format!("warmup.{name}"),
                format!("{s} is not a finite scale; measure it again"),
            ));
        }
    }
    Ok(scales)
}
