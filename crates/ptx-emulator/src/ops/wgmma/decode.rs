//! Decoding of the wgmma family.

use super::op::{CommitGroup, Fence, MmaAsync, OperandA};
use super::wait::WaitGroup;
use crate::decode::{Decoder, Op, Result};
use crate::numerics::aligned_sum::{HOPPER_FP8, WIDE};
use crate::numerics::element::Format;
use crate::ops::{Entry, form};
use crate::syntax::ast::Operand;
use crate::types::Ty;

pub(in crate::ops) const TABLE: &[Entry] = &[
    form("wgmma", &["mma_async"], decode_mma),
    form("wgmma", &["fence"], decode_fence),
    form("wgmma", &["commit_group"], decode_commit),
    form("wgmma", &["wait_group"], decode_wait),
];

fn sync_aligned(d: &mut Decoder<'_>, what: &str) -> Result<()> {
    for needed in [what, "sync", "aligned"] {
        if !d.take(needed) {
            return d.error(format!("needs .{needed}"));
        }
    }
    Ok(())
}

fn decode_fence(d: &mut Decoder<'_>) -> Result<Op> {
    sync_aligned(d, "fence")?;
    d.finish(0)?;
    Ok(Box::new(Fence))
}

fn decode_commit(d: &mut Decoder<'_>) -> Result<Op> {
    sync_aligned(d, "commit_group")?;
    d.finish(0)?;
    Ok(Box::new(CommitGroup))
}

fn decode_wait(d: &mut Decoder<'_>) -> Result<Op> {
    sync_aligned(d, "wait_group")?;
    let pending = d.imm(0)?;
    let Ok(pending) = u32::try_from(pending) else { return d.error("the group count must not be negative") };
    d.finish(1)?;
    Ok(Box::new(WaitGroup { pending }))
}

/// `mMnNkK` into its numbers.
fn shape(text: &str) -> Option<(usize, usize, usize)> {
    let (m, rest) = text.strip_prefix('m')?.split_once('n')?;
    let (n, k) = rest.split_once('k')?;
    Some((m.parse().ok()?, n.parse().ok()?, k.parse().ok()?))
}

/// `wgmma.mma_async.sync.aligned.m64nNkK{.satfinite}.D.A.B d, a|a-desc, b-desc, scale-d{, imm-a, imm-b
/// {, trans-a, trans-b}}`.
fn decode_mma(d: &mut Decoder<'_>) -> Result<Op> {
    sync_aligned(d, "mma_async")?;
    let Some((m, n, k)) = d.take_map(shape) else { return d.error("needs a shape m64nNkK") };
    if m != 64 || !(8..=256).contains(&n) || n % 8 != 0 {
        return d.error(format!("shape m{m}n{n} is not valid"));
    }
    let saturate = d.take("satfinite");
    let &[dt, at, bt] = d.rest() else {
        return d.error("needs three types, and nothing else is modelled");
    };
    let format = |name: &str| match name {
        "f16" => Some(Format::F16),
        "bf16" => Some(Format::Bf16),
        "tf32" => Some(Format::Tf32),
        "e4m3" => Some(Format::E4m3),
        "e5m2" => Some(Format::E5m2),
        // Of integers only the width matters.
        "s8" | "u8" => Some(Format::E4m3),
        _ => None,
    };
    let (Some(a_format), Some(b_format)) = (format(at), format(bt)) else {
        return d.error("operand types are not modelled");
    };
    let is_integer = |t: &str| matches!(t, "s8" | "u8");
    let integers = is_integer(at).then_some((at == "s8", bt == "s8"));
    let bytes = match a_format {
        Format::F16 | Format::Bf16 => 2,
        Format::Tf32 => 4,
        _ => 1,
    };
    let narrow = |f| matches!(f, Format::E4m3 | Format::E5m2);
    if is_integer(at) != is_integer(bt)
        || narrow(a_format) != narrow(b_format)
        || (!narrow(a_format) && a_format != b_format)
        || k * bytes != 32
    {
        return d.error("operand types do not go with this shape");
    }
    let half = match (dt, a_format) {
        ("s32", _) if integers.is_some() => false,
        _ if integers.is_some() => return d.error("integers have s32 accumulators"),
        ("f32", _) => false,
        ("f16", Format::F16 | Format::E4m3 | Format::E5m2) => true,
        _ => return d.error("the accumulator type is not valid"),
    };
    if saturate && integers.is_none() {
        return d.error(".satfinite belongs to integers");
    }
    // Table of 9.7.15.2: integers have fewer shapes.
    if integers.is_some() && n > 32 && n % 16 != 0 {
        return d.error(format!("n{n} is not valid for integers"));
    }
    for ty in [dt, at, bt] {
        d.take(ty);
    }
    let dst = d.regs(0)?;
    let registers = if half { n / 4 } else { n / 2 };
    if dst.len() != registers {
        return d.error(format!("expected {registers} accumulator registers, got {}", dst.len()));
    }
    let a = match d.operand(1)? {
        Operand::Vector(_) => {
            let regs = d.srcs(1, Ty::B32)?;
            if regs.len() != 4 {
                return d.error("A takes four registers");
            }
            OperandA::Registers(regs)
        }
        _ => OperandA::Descriptor(d.src(1, Ty::B64)?),
    };
    let b = d.src(2, Ty::B64)?;
    let accumulate = d.pred(3)?;
    let negate = |i: usize| match d.imm(i)? {
        1 => Ok(false),
        -1 => Ok(true),
        _ => d.error("imm-scale must be 1 or -1"),
    };
    let (negate_a, negate_b) = if integers.is_some() { (false, false) } else { (negate(4)?, negate(5)?) };
    let transpose = |i: usize| match d.imm(i)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => d.error("trans must be 0 or 1"),
    };
    // Register A has only trans-b; types other than 16-bit have neither.
    let (trans_a, trans_b, operands) = match (&a, bytes) {
        _ if integers.is_some() => (false, false, 4),
        (_, 1 | 4) => (false, false, 6),
        (OperandA::Registers(_), _) => (false, transpose(6)?, 7),
        (OperandA::Descriptor(_), _) => (transpose(6)?, transpose(7)?, 8),
    };
    d.finish(operands)?;
    let unit = if narrow(a_format) { HOPPER_FP8 } else { WIDE };
    Ok(Box::new(MmaAsync {
        n,
        k,
        element_bytes: bytes as u32,
        a_format,
        b_format,
        integers,
        saturate,
        half,
        unit,
        dst,
        a,
        b,
        accumulate,
        negate: (negate_a, negate_b),
        transpose: (trans_a, trans_b),
    }))
}
