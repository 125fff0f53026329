//! `tcgen05.shift` (PTX ISA 9.7.16.9.3): the rows of 32 lanes move by one.
//!
//! The ISA's text says "down ... except the last"; which way that is it shows nowhere. Here the last of the 32 lanes
//! keeps its row and every other lane takes the row of the lane above it: what CUTLASS's use of `cp.4x256b`
//! behind it, which refreshes the last lane of each partition, needs.

use super::alloc::{check_cta_group, cta_group};
use super::state::{InFlight, check_allocated};
use crate::check::{Class, Place};
use crate::decode::{Addr, Decoder, Execute, Op, Result};
use crate::machine::{AsyncCtx, AsyncOp, Ctx, Flow, QueueKey};
use crate::ops::hooks::{self, AsyncId, Kind, Proxy, Range};
use crate::ops::{Entry, form};

pub(super) const TABLE: &[Entry] = &[form("tcgen05", &["shift"], decode)];

/// 32 bytes of each lane.
const COLUMNS: u32 = 8;

struct Shift {
    group: u32,
    addr: Addr,
}

impl Execute for Shift {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        check_cta_group(ctx, self.group);
        for lane in ctx.lanes() {
            let address = ctx.get(self.addr.base, lane).wrapping_add_signed(self.addr.offset) as u32;
            let (first, column) = (address >> 16, address & 0xffff);
            if !first.is_multiple_of(32) || first >= super::TENSOR_LANES as u32 {
                let message = format!("shift at lane {first}: must be a multiple of 32 below 128");
                ctx.finding(Class::TensorLanes, lane, message, None);
                return Flow::Abort;
            }
            let rank = ctx.cluster.ctas[ctx.cta].rank;
            let ctas: Vec<u32> = if self.group == 2 { vec![rank & !1, rank | 1] } else { vec![rank] };
            if ctas.iter().any(|&c| c as usize >= ctx.cluster.ctas.len()) {
                let message = "cta_group::2 needs both CTAs of the pair".to_owned();
                ctx.finding(Class::Undefined, lane, message, None);
                return Flow::Abort;
            }
            for &cta in &ctas {
                if !check_allocated(ctx, lane, cta, column, COLUMNS) {
                    return Flow::Abort;
                }
            }
            let place = ctx.place(lane);
            let state = &mut ctx.cluster.state.tcgen05;
            let id = state.next;
            state.next += 1;
            state.in_flight.push(InFlight {
                id,
                issuer: rank,
                ctas: ctas.clone(),
                writes: (column, COLUMNS),
                reads: Vec::new(),
                place: place.clone(),
                what: "shift",
            });
            let race = hooks::async_issue(ctx, lane, Proxy::Async, "tcgen05.shift");
            let op = Pending { race, ctas, first, column, place };
            ctx.cluster.engine.issue(QueueKey::Tcgen05(rank), Box::new(op));
        }
        Flow::Next
    }
}

struct Pending {
    race: AsyncId,
    ctas: Vec<u32>,
    first: u32,
    column: u32,
    place: Place,
}

impl AsyncOp for Pending {
    fn complete(self: Box<Self>, ctx: &mut AsyncCtx<'_>) {
        for &cta in &self.ctas {
            let (column, columns) = (self.column, COLUMNS);
            for (lane, kind) in [(self.first + 1, Kind::Read), (self.first, Kind::Write)] {
                let range = Range::Tensor { cta, lane, lanes: 31, column, columns };
                hooks::async_access(ctx.env, ctx.cluster, self.race, range, kind);
            }
            let memory = ctx.cluster.state.tcgen05.memory(cta);
            for lane in self.first as usize..self.first as usize + 31 {
                for c in column as usize..(column + columns) as usize {
                    let (cell, init) = memory.get(lane + 1, c);
                    memory.set(lane, c, cell, init);
                }
            }
        }
    }

    fn describe(&self) -> String {
        format!("tcgen05.shift of line {}", self.place.line)
    }
}

/// `tcgen05.shift.cta_group.down [taddr]`.
fn decode(d: &mut Decoder<'_>) -> Result<Op> {
    d.take("shift");
    let group = cta_group(d)?;
    if !d.take("down") {
        return d.error("needs .down");
    }
    let addr = d.addr(0)?;
    d.finish(1)?;
    Ok(Box::new(Shift { group, addr }))
}
