//! Stores that leave memory as it is.
//!
//! Compilers let several threads of a CTA store one value to one place (a reduction's result, a flag, zeros) and do not order
//! them. The ISA calls that a race, but whichever store is last, memory holds the same bytes: it is not reported. A
//! conflict of two stores waits here until the instruction has moved its data.

use super::hooks::{self, Kind, Range};
use crate::check::race::{Conflict, Missing, Who};
use crate::machine::Ctx;

/// A store that conflicts with another thread's store.
pub struct Repeated {
    lane: usize,
    range: Range,
    conflict: Conflict,
    /// What the memory held.
    before: Vec<u8>,
}

/// What is in memory; `None` if not all of it is initialised.
fn contents(ctx: &Ctx<'_>, range: Range) -> Option<Vec<u8>> {
    let (Range::Global { bytes, .. } | Range::Shared { bytes, .. }) = range else { return None };
    let mut out = vec![0; bytes as usize];
    // Memory is read in pieces of at most 64 bytes.
    let whole = out.chunks_mut(64).zip(0..).all(|(piece, i)| match range {
        Range::Global { address, .. } => ctx.env.global.read(address + 64 * i, piece).unwrap_or(false),
        Range::Shared { cta, offset, .. } => {
            let shared = ctx.cluster.ctas.get(cta as usize).map(|c| &c.shared);
            shared.and_then(|s| s.read(offset + 64 * i as u32, piece)).unwrap_or(false)
        }
        Range::Tensor { .. } => false,
    });
    whole.then_some(out)
}

/// Keeps a conflict of two stores back, or gives it back.
pub(super) fn keep(
    ctx: &mut Ctx<'_>,
    lane: usize,
    range: Range,
    kind: Kind,
    conflict: Conflict,
) -> Option<Conflict> {
    let unordered = matches!(conflict.missing, Missing::Order | Missing::MoralStrength);
    let stores = kind == Kind::Write && conflict.earlier_kind == "write" && unordered;
    // Between CTAs it is more likely work done twice.
    let cta = hooks::number(ctx, lane).0;
    if !stores || !matches!(conflict.earlier, Who::Thread((other, _), _) if other == cta) {
        return Some(conflict);
    }
    let Some(before) = contents(ctx, range) else { return Some(conflict) };
    ctx.cluster.state.repeated.push(Repeated { lane, range, conflict, before });
    None
}

/// The instruction has moved its data: reports the conflicts that were kept back and did change memory.
#[cold]
pub(crate) fn settle(ctx: &mut Ctx<'_>) {
    for r in std::mem::take(&mut ctx.cluster.state.repeated) {
        if contents(ctx, r.range).as_ref() != Some(&r.before) {
            hooks::report_access(ctx, r.lane, r.range, r.conflict);
        }
    }
}
