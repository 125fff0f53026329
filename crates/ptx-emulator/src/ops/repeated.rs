//! Stores that leave memory as it is.
//!
//! Compilers let several threads of a CTA store one value to one place (a reduction's result, a flag, zeros; two warpgroups
//! the same tile) and do not order them. The ISA calls that a race, but whichever store is last, memory holds the same
//! bytes: it is not reported. A conflict of two stores of threads waits here until the instruction has moved its data;
//! bulk and tensor stores know theirs before.

use super::hooks::{self, Kind, Range};
use crate::check::race::{Conflict, Missing, Who};
use crate::machine::{Cluster, Ctx, Environment};

/// A store that conflicts with another thread's store.
pub struct Repeated {
    lane: usize,
    range: Range,
    conflict: Conflict,
    /// What the memory held.
    before: Vec<u8>,
}

/// What is in memory; `None` if not all of it is initialised.
fn contents(env: &Environment<'_>, cluster: &Cluster, range: Range) -> Option<Vec<u8>> {
    let (Range::Global { bytes, .. } | Range::Shared { bytes, .. }) = range else { return None };
    let mut out = vec![0; bytes as usize];
    // Memory is read in pieces of at most 64 bytes.
    let whole = out.chunks_mut(64).zip(0..).all(|(piece, i)| match range {
        Range::Global { address, .. } => env.global.read(address + 64 * i, piece).unwrap_or(false),
        Range::Shared { cta, offset, .. } => {
            let shared = cluster.ctas.get(cta as usize).map(|c| &c.shared);
            shared.and_then(|s| s.read(offset + 64 * i as u32, piece)).unwrap_or(false)
        }
        Range::Tensor { .. } => false,
    });
    whole.then_some(out)
}

/// Whether a store conflicts with a store, for want of order.
fn unordered_stores(conflict: &Conflict) -> bool {
    let unordered = matches!(conflict.missing, Missing::Order | Missing::MoralStrength);
    unordered && conflict.earlier_kind == "write"
}

/// Whether a conflict of an operation of a CTA (linear index) that is about to store `bytes` is one of two operations
/// of the CTA that store the same.
pub(super) fn is_repeated(
    env: &Environment<'_>,
    cluster: &Cluster,
    cta: u32,
    (range, bytes): (Range, &[u8]),
    conflict: &Conflict,
) -> bool {
    let same_cta = matches!(&conflict.earlier, Who::Operation(_, place) if place.cta == cta);
    same_cta && unordered_stores(conflict) && contents(env, cluster, range).as_deref() == Some(bytes)
}

/// Keeps a conflict of two stores back, or gives it back.
pub(super) fn keep(
    ctx: &mut Ctx<'_>,
    lane: usize,
    range: Range,
    kind: Kind,
    conflict: Conflict,
) -> Option<Conflict> {
    // Between CTAs it is more likely work done twice.
    let cta = hooks::number(ctx, lane).0;
    let same_cta = matches!(conflict.earlier, Who::Thread((other, _), _) if other == cta);
    if kind != Kind::Write || !unordered_stores(&conflict) || !same_cta {
        return Some(conflict);
    }
    let Some(before) = contents(ctx.env, ctx.cluster, range) else { return Some(conflict) };
    ctx.cluster.state.repeated.push(Repeated { lane, range, conflict, before });
    None
}

/// The instruction has moved its data: reports the conflicts that were kept back and did change memory.
#[cold]
pub(crate) fn settle(ctx: &mut Ctx<'_>) {
    for r in std::mem::take(&mut ctx.cluster.state.repeated) {
        if contents(ctx.env, ctx.cluster, r.range).as_ref() != Some(&r.before) {
            hooks::report_access(ctx, r.lane, r.range, r.conflict);
        }
    }
}
