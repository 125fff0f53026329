//! Grid-level control: `griddepcontrol` (PTX ISA 9.7.13.13), `clusterlaunchcontrol` (9.7.13.17, .18), and
//! `nanosleep` (9.7.19.3).
//!
//! Kernels run one after the other here. What a dependent one must not touch before `griddepcontrol.wait` is the race
//! detector's: all that the kernels before it have touched counts as in flight until then. All clusters of a
//! grid are launched, so that no cluster is left to cancel: `try_cancel` always fails, as it may on hardware,
//! and every cluster does its own work.

use super::hooks::{self, AsyncId, Kind, Proxy, Range};
use super::mbarrier::{self, locate};
use super::sync_state::add;
use super::{Entry, form, root};
use crate::check::{Class, Place};
use crate::decode::{Addr, Decoder, Execute, Op, Result, Src};
use crate::machine::{AddressSpace, AsyncCtx, AsyncOp, Ctx, Flow, QueueKey};
use crate::program::Reg;
use crate::types::Ty;

pub(super) const TABLE: &[Entry] = &[
    root("griddepcontrol", decode_griddepcontrol),
    root("nanosleep", decode_nanosleep),
    form("clusterlaunchcontrol", &["try_cancel"], decode_try_cancel),
    form("clusterlaunchcontrol", &["query_cancel"], decode_query_cancel),
];

struct Dependency {
    wait: bool,
}

impl Execute for Dependency {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        if self.wait {
            ctx.lanes().for_each(|lane| hooks::wait_for_kernels(ctx, lane));
        }
        Flow::Next
    }
}

struct Sleep;

impl Execute for Sleep {
    fn execute(&self, _: &mut Ctx<'_>) -> Flow {
        Flow::Yield
    }
}

/// `griddepcontrol.{wait,launch_dependents}`.
fn decode_griddepcontrol(d: &mut Decoder<'_>) -> Result<Op> {
    let wait = d.need_one("wait or launch_dependents", &[("wait", true), ("launch_dependents", false)])?;
    d.finish(0)?;
    Ok(Box::new(Dependency { wait }))
}

/// `nanosleep.u32 t`.
fn decode_nanosleep(d: &mut Decoder<'_>) -> Result<Op> {
    d.need_one(".u32", &[("u32", ())])?;
    d.src(0, Ty::U32)?;
    d.finish(1)?;
    Ok(Box::new(Sleep))
}

/// Bytes of a response; all zero = not cancelled.
const RESPONSE: u32 = 16;

struct TryCancel {
    space: AddressSpace,
    response: Addr,
    barrier: Addr,
    multicast: bool,
}

impl Execute for TryCancel {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        for lane in ctx.lanes() {
            let Some((cta, offset)) = locate(ctx, self.space, self.response, lane) else { continue };
            let Some(barrier) = locate(ctx, self.space, self.barrier, lane) else { continue };
            if !offset.is_multiple_of(RESPONSE) {
                let message = format!("response at shared offset {offset:#x} is not 16-byte aligned");
                ctx.finding(Class::Misaligned, lane, message, None);
            }
            if ctx.cluster.state.sync.cancel_failed[ctx.cta] {
                let message = "try_cancel after an earlier one has been seen to fail".to_owned();
                ctx.finding(Class::Undefined, lane, message, None);
            }
            let ctas = if self.multicast { (0..ctx.cluster.ctas.len() as u32).collect() } else { vec![cta] };
            for &target in &ctas {
                // What is out of range is reported on completion.
                if let Some(owner) = ctx.cluster.ctas.get_mut(target as usize) {
                    let _ = owner.shared.poison(offset, RESPONSE as usize);
                }
            }
            let id = hooks::async_issue(ctx, lane, Proxy::Async, "clusterlaunchcontrol.try_cancel");
            let op = Cancel { place: ctx.place(lane), id, ctas, offset, barrier: barrier.1 };
            let key = QueueKey::Copy(ctx.cluster.engine.next_id());
            ctx.cluster.engine.issue(key, Box::new(op));
        }
        Flow::Next
    }
}

struct Cancel {
    place: Place,
    id: AsyncId,
    ctas: Vec<u32>,
    offset: u32,
    barrier: u32,
}

impl AsyncOp for Cancel {
    fn complete(self: Box<Self>, ctx: &mut AsyncCtx<'_>) {
        for &cta in &self.ctas {
            let range = Range::Shared { cta, offset: self.offset, bytes: RESPONSE };
            hooks::async_access(ctx.env, ctx.cluster, self.id, range, Kind::Write);
            let owner = ctx.cluster.ctas.get_mut(cta as usize);
            let written = owner.is_some_and(|o| o.shared.set(self.offset, &[0; RESPONSE as usize], true));
            if !written {
                let message = format!("response at shared offset {:#x} is out of range", self.offset);
                add(ctx.cluster, Class::OutOfBounds, self.place.clone(), message);
            }
            mbarrier::complete_tx(ctx, &self.place, self.id, (cta, self.barrier), RESPONSE);
        }
    }

    fn describe(&self) -> String {
        format!("try_cancel of line {}", self.place.line)
    }
}

struct IsCanceled {
    dst: Reg,
    response: Reg,
}

impl Execute for IsCanceled {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let sources = [Src::Reg(self.response), Src::Reg(self.response + 1)];
        ctx.map(self.dst, sources, |[low, _]| low & 1);
        ctx.cluster.state.sync.cancel_failed[ctx.cta] = true;
        Flow::Next
    }
}

struct FirstCtaid;

impl Execute for FirstCtaid {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let lane = ctx.mask.trailing_zeros() as usize;
        let message = "get_first_ctaid of a request that failed (here try_cancel always fails)".to_owned();
        ctx.finding(Class::Undefined, lane, message, None);
        Flow::Abort
    }
}

/// `clusterlaunchcontrol.try_cancel.async{.shared::cta}.mbarrier::complete_tx::bytes{.multicast::cluster::all}
/// .b128 [addr], [mbar]`.
fn decode_try_cancel(d: &mut Decoder<'_>) -> Result<Op> {
    d.take("try_cancel");
    d.need_one(".async", &[("async", ())])?;
    d.need_one("a completion mechanism", &[("mbarrier::complete_tx::bytes", ())])?;
    d.need_one(".b128", &[("b128", ())])?;
    let multicast = d.take("multicast::cluster::all");
    let space = d.take_one(&[("shared::cta", AddressSpace::SharedCta)]).unwrap_or(AddressSpace::Generic);
    let (response, barrier) = (d.addr(0)?, d.addr(1)?);
    d.finish(2)?;
    Ok(Box::new(TryCancel { space, response, barrier, multicast }))
}

/// `clusterlaunchcontrol.query_cancel.is_canceled.pred.b128 p, q` and `.get_first_ctaid{::x,::y,::z}...`.
fn decode_query_cancel(d: &mut Decoder<'_>) -> Result<Op> {
    d.take("query_cancel");
    d.need_one(".b128", &[("b128", ())])?;
    let response = d.reg(1)?;
    if d.reg_ty(d.operand(1)?) != Some(Ty::B128) {
        return d.error("the response must be a .b128 register");
    }
    if d.take("is_canceled") {
        d.need_one(".pred", &[("pred", ())])?;
        let dst = d.reg(0)?;
        d.finish(2)?;
        return Ok(Box::new(IsCanceled { dst, response }));
    }
    let all = d.need_one(
        "is_canceled or get_first_ctaid",
        &[
            ("get_first_ctaid", true),
            ("get_first_ctaid::x", false),
            ("get_first_ctaid::y", false),
            ("get_first_ctaid::z", false),
        ],
    )?;
    if all {
        d.need_one(".v4", &[("v4", ())])?;
    }
    d.need_one(".b32", &[("b32", ())])?;
    let expected = if all { 4 } else { 1 };
    if d.vector(0)?.len() != expected {
        return d.error("wrong number of destinations");
    }
    d.finish(2)?;
    Ok(Box::new(FirstCtaid))
}
