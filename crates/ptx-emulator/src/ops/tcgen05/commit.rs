//! `tcgen05.commit` (PTX ISA 9.7.16.11): an mbarrier arrival once the thread's earlier operations are complete.

use super::alloc::{check_cta_group, cta_group};
use crate::check::Place;
use crate::counters::Counter;
use crate::decode::{Addr, Decoder, Execute, Op, Result, Src};
use crate::machine::{AddressSpace, AsyncCtx, AsyncOp, Ctx, Flow, QueueKey};
use crate::ops::hooks::{self, AsyncId, Proxy};
use crate::ops::{Entry, form, mbarrier};
use crate::types::Ty;

pub(super) const TABLE: &[Entry] = &[form("tcgen05", &["commit"], decode)];

struct Commit {
    group: u32,
    addr: Addr,
    space: AddressSpace,
    mask: Option<Src>,
}

impl Execute for Commit {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        check_cta_group(ctx, self.group);
        for lane in ctx.lanes() {
            let Some((owner, offset)) = mbarrier::locate(ctx, self.space, self.addr, lane) else {
                return Flow::Abort;
            };
            let rank = ctx.cluster.ctas[ctx.cta].rank;
            let owners: Vec<u32> = match self.mask {
                None => vec![owner],
                Some(mask) => {
                    let mask = ctx.get(mask, lane);
                    (0..16).filter(|r| mask >> r & 1 == 1).collect()
                }
            };
            // Those of this thread only.
            let thread = ctx.thread(lane);
            let covers = ctx
                .cluster
                .state
                .tcgen05
                .in_flight
                .iter()
                .filter(|f| f.issuer == rank && f.place.thread == thread)
                .map(|f| f.id)
                .collect();
            let place = ctx.place(lane);
            let race = hooks::async_issue(ctx, lane, Proxy::Async, "tcgen05.commit");
            let op = Pending { race, place, owners, offset, covers };
            ctx.cluster.engine.issue(QueueKey::Tcgen05(rank), Box::new(op));
            ctx.cluster.counters.add(Counter::TensorCommits, 1);
        }
        Flow::Next
    }
}

struct Pending {
    race: AsyncId,
    place: Place,
    owners: Vec<u32>,
    offset: u32,
    covers: Vec<u64>,
}

impl AsyncOp for Pending {
    fn complete(self: Box<Self>, ctx: &mut AsyncCtx<'_>) {
        ctx.cluster.state.tcgen05.in_flight.retain(|f| !self.covers.contains(&f.id));
        for &owner in &self.owners {
            mbarrier::arrive_async(ctx, &self.place, self.race, (owner, self.offset));
        }
    }

    fn describe(&self) -> String {
        format!("tcgen05.commit of line {}", self.place.line)
    }
}

/// `tcgen05.commit.cta_group.mbarrier::arrive::one{.shared::cluster}{.multicast::cluster}.b64 [mbar]{, mask}`.
fn decode(d: &mut Decoder<'_>) -> Result<Op> {
    d.take("commit");
    let group = cta_group(d)?;
    for needed in ["mbarrier::arrive::one", "b64"] {
        if !d.take(needed) {
            return d.error(format!("needs .{needed}"));
        }
    }
    let space =
        d.take_one(&[("shared::cluster", AddressSpace::SharedCluster)]).unwrap_or(AddressSpace::Generic);
    let multicast = d.take("multicast::cluster");
    let addr = d.addr(0)?;
    let mask = if multicast { Some(d.src(1, Ty::B16)?) } else { None };
    d.finish(if multicast { 2 } else { 1 })?;
    Ok(Box::new(Commit { group, addr, space, mask }))
}
