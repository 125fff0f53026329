//! One-dimensional bulk copies: `cp.async.bulk`, `cp.reduce.async.bulk`, `cp.async.bulk.prefetch`
//! (PTX ISA 9.7.9.25.4). Groups are in `groups`, tensor copies in `tensor_copy`.

use super::bulk_reduce::{self, OPS, RedOp};
use super::bulk_transfer::{Destination, Effect, Image, Layout, Peer, Store, class_of};
use super::groups::Which;
use super::hooks::{self, AsyncId, Kind, Proxy, Range};
use super::mbarrier::locate;
use super::sync_state::add;
use super::{Entry, form};
use crate::check::{Class, Place};
use crate::counters::Counter;
use crate::decode::{Addr, Decoder, Execute, Op, Result, Src};
use crate::machine::{AddressSpace, AsyncCtx, AsyncOp, Ctx, Flow, Location, QueueKey};
use crate::types::Ty;

pub(super) const TABLE: &[Entry] = &[
    form("cp", &["reduce", "async", "bulk"], decode_reduce),
    form("cp", &["async", "bulk", "prefetch"], decode_prefetch),
    form("cp", &["async", "bulk"], decode_copy),
];

/// A value that must not be poisoned.
pub(super) fn clean(ctx: &mut Ctx<'_>, src: Src, lane: usize, what: &str) -> u64 {
    let origin = ctx.origin(src, lane);
    if !origin.is_clean() {
        ctx.report_poison(origin, lane, what);
    }
    ctx.get(src, lane)
}

/// A global operand.
fn global(ctx: &mut Ctx<'_>, addr: Addr, lane: usize) -> Option<u64> {
    match ctx.locate(AddressSpace::Global, addr, lane)? {
        Location::Global(address) => Some(address),
        _ => None,
    }
}

/// Alignment of addresses and size.
fn check_alignment(ctx: &mut Ctx<'_>, lane: usize, values: &[(u64, &str)]) {
    for (value, what) in values {
        if value % 16 != 0 {
            let message = format!("{what} {value:#x} is not a multiple of 16");
            ctx.finding(Class::Misaligned, lane, message, None);
        }
    }
}

/// Starts an operation in a queue of its own.
pub(super) fn start(ctx: &mut Ctx<'_>, op: Box<dyn AsyncOp>) {
    let key = QueueKey::Copy(ctx.cluster.engine.next_id());
    ctx.cluster.engine.issue(key, op);
}

struct Load {
    space: AddressSpace,
    dst: Addr,
    src: Addr,
    bytes: Src,
    barrier: Addr,
    multicast: Option<Src>,
}

impl Execute for Load {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        for lane in ctx.lanes() {
            let Some(data) = locate(ctx, self.space, self.dst, lane) else { continue };
            let Some(barrier) = locate(ctx, self.space, self.barrier, lane) else { continue };
            let Some(address) = global(ctx, self.src, lane) else { continue };
            let bytes = clean(ctx, self.bytes, lane, "a copy size") as u32;
            let values = [
                (u64::from(data.1), "shared address"),
                (address, "global address"),
                (u64::from(bytes), "size"),
            ];
            check_alignment(ctx, lane, &values);
            let mask = self.multicast.map(|m| clean(ctx, m, lane, "a multicast mask") as u32 & 0xffff);
            let Some(to) = Destination::new(ctx, lane, data, barrier, mask, false) else { continue };
            if !to.poison(ctx, lane, &Layout::flat(bytes as usize)) {
                continue;
            }
            let id = hooks::async_issue(ctx, lane, Proxy::Async, "cp.async.bulk");
            start(ctx, Box::new(Loading { place: ctx.place(lane), id, address, bytes, to }));
        }
        Flow::Next
    }
}

struct Loading {
    place: Place,
    id: AsyncId,
    address: u64,
    bytes: u32,
    to: Destination,
}

impl AsyncOp for Loading {
    fn complete(self: Box<Self>, ctx: &mut AsyncCtx<'_>) {
        let mut image = Image::new(self.bytes as usize);
        let range = Range::Global { address: self.address, bytes: self.bytes };
        hooks::async_access(ctx.env, ctx.cluster, self.id, range, Kind::Read);
        if let Err(e) = ctx.env.global.read_flags(self.address, &mut image.bytes, &mut image.init) {
            add(ctx.cluster, class_of(e), self.place.clone(), format!("source: {e}"));
        }
        let (bytes, targets) = (u64::from(self.bytes), self.to.targets() as u64);
        ctx.cluster.counters.add(Counter::BulkLoadBytes, bytes);
        ctx.cluster.counters.add(Counter::BulkLoadDelivered, bytes * targets);
        let layout = Layout::flat(self.bytes as usize);
        self.to.deliver(ctx, &self.place, self.id, (&layout, Kind::Write), &image, self.bytes);
    }

    fn describe(&self) -> String {
        format!("bulk load of line {}", self.place.line)
    }
}

struct ToPeer {
    dst: Addr,
    src: Addr,
    bytes: Src,
    barrier: Addr,
    reduce: Option<(RedOp, Ty)>,
}

impl Execute for ToPeer {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        for lane in ctx.lanes() {
            let Some(data) = locate(ctx, AddressSpace::SharedCluster, self.dst, lane) else { continue };
            let Some(barrier) = locate(ctx, AddressSpace::SharedCluster, self.barrier, lane) else {
                continue;
            };
            let Some(source) = locate(ctx, AddressSpace::SharedCta, self.src, lane) else { continue };
            let bytes = clean(ctx, self.bytes, lane, "a copy size") as u32;
            let values = [
                (u64::from(data.1), "destination address"),
                (u64::from(source.1), "source address"),
                (u64::from(bytes), "size"),
            ];
            check_alignment(ctx, lane, &values);
            if data.0 == source.0 {
                let message = "the destination is in the executing CTA; the ISA wants another one".to_owned();
                ctx.finding(Class::Undefined, lane, message, None);
            }
            let Some(to) = Destination::new(ctx, lane, data, barrier, None, false) else { continue };
            // A reduction needs what is there.
            if self.reduce.is_none() && !to.poison(ctx, lane, &Layout::flat(bytes as usize)) {
                continue;
            }
            let id = hooks::async_issue(ctx, lane, Proxy::Async, "cp.async.bulk to a peer CTA");
            let reduce = self.reduce;
            start(ctx, Box::new(Peer { place: ctx.place(lane), id, source, to, bytes, reduce }));
        }
        Flow::Next
    }
}

struct ToGlobal {
    dst: Addr,
    src: Addr,
    bytes: Src,
    mask: Option<Src>,
    reduce: Option<(RedOp, Ty)>,
}

impl Execute for ToGlobal {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        for lane in ctx.lanes() {
            let Some((cta, offset)) = locate(ctx, AddressSpace::SharedCta, self.src, lane) else { continue };
            let Some(address) = global(ctx, self.dst, lane) else { continue };
            let bytes = clean(ctx, self.bytes, lane, "a copy size") as u32;
            let values = [
                (u64::from(offset), "shared address"),
                (address, "global address"),
                (u64::from(bytes), "size"),
            ];
            check_alignment(ctx, lane, &values);
            let effect = match (self.reduce, self.mask) {
                (Some((op, ty)), _) => Effect::Reduce(op, ty),
                (None, Some(mask)) => Effect::Masked(clean(ctx, mask, lane, "a byte mask") as u32),
                (None, None) => Effect::Store,
            };
            let (place, thread) = (ctx.place(lane), ctx.thread(lane));
            let group = ctx.cluster.state.sync.groups.add(cta, thread, Which::Bulk, Some(place.clone()));
            let id = hooks::async_issue(ctx, lane, Proxy::Async, "cp.async.bulk to global memory");
            let (layout, path) = (Layout::flat(bytes as usize), Counter::BulkStoreBytes);
            let spans = vec![(address, 0, bytes as usize)];
            start(ctx, Box::new(Store { place, id, group, offset, layout, spans, effect, path }));
        }
        Flow::Next
    }
}

struct Prefetch {
    src: Addr,
    bytes: Src,
}

impl Execute for Prefetch {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        for lane in ctx.lanes() {
            let Some(address) = global(ctx, self.src, lane) else { continue };
            let bytes = clean(ctx, self.bytes, lane, "a prefetch size");
            check_alignment(ctx, lane, &[(address, "global address"), (bytes & 0xffff_ffff, "size")]);
        }
        Flow::Next
    }
}

/// Which of two modifiers comes first.
pub(super) fn before(d: &Decoder<'_>, a: &str, b: &str) -> bool {
    let at = |name: &str| d.rest().iter().position(|m| *m == name).unwrap_or(usize::MAX);
    at(a) < at(b)
}

const COMPLETE_TX: &[(&str, ())] = &[("mbarrier::complete_tx::bytes", ())];
const BULK_GROUP: &[(&str, ())] = &[("bulk_group", ())];

/// `cp.async.bulk.dst.src.mechanism...`.
fn decode_copy(d: &mut Decoder<'_>) -> Result<Op> {
    d.take("async");
    d.take("bulk");
    let to_global = before(d, "global", "shared::cta") && before(d, "global", "shared::cluster");
    // A hint.
    let policy = d.take("L2::cache_hint");
    if to_global {
        d.take("global");
        d.need_one(".shared::cta", &[("shared::cta", ())])?;
        d.need_one(".bulk_group", BULK_GROUP)?;
        let masked = d.take("cp_mask");
        let (dst, src, bytes) = (d.addr(0)?, d.addr(1)?, d.src(2, Ty::U32)?);
        if policy {
            d.src(3, Ty::B64)?;
        }
        let last = 3 + usize::from(policy);
        let mask = if masked { Some(d.src(last, Ty::B16)?) } else { None };
        d.finish(last + usize::from(masked))?;
        return Ok(Box::new(ToGlobal { dst, src, bytes, mask, reduce: None }));
    }
    d.need_one("a completion mechanism", COMPLETE_TX)?;
    let (dst, src, bytes, barrier) = (d.addr(0)?, d.addr(1)?, d.src(2, Ty::U32)?, d.addr(3)?);
    if d.take("shared::cluster") && d.take("shared::cta") {
        if policy {
            return d.error("a cache hint needs global memory");
        }
        d.finish(4)?;
        return Ok(Box::new(ToPeer { dst, src, bytes, barrier, reduce: None }));
    }
    let space = if d.take("shared::cta") { AddressSpace::SharedCta } else { AddressSpace::SharedCluster };
    d.need_one(".global", &[("global", ())])?;
    let multicast = if space == AddressSpace::SharedCluster && d.take("multicast::cluster") {
        Some(d.src(4, Ty::B16)?)
    } else {
        None
    };
    let operands = 4 + usize::from(multicast.is_some());
    if policy {
        d.src(operands, Ty::B64)?;
    }
    d.finish(operands + usize::from(policy))?;
    Ok(Box::new(Load { space, dst, src, bytes, barrier, multicast }))
}

/// `cp.reduce.async.bulk.dst.shared::cta.mechanism.op{.noftz}.type`.
fn decode_reduce(d: &mut Decoder<'_>) -> Result<Op> {
    ["reduce", "async", "bulk"].iter().for_each(|m| {
        d.take(m);
    });
    let ty = d.ty()?;
    let op = d.need_one("a reduction", OPS)?;
    let halves = matches!(ty, Ty::F16 | Ty::BF16);
    if (halves && op == RedOp::Add) != d.take("noftz") {
        return d.error(".noftz belongs to .add of .f16 and .bf16");
    }
    d.need_one(".shared::cta", &[("shared::cta", ())])?;
    let to_shared = d.take("shared::cluster");
    if !bulk_reduce::exists(op, ty, to_shared) {
        return d.error("the ISA has no such reduction");
    }
    let reduce = Some((op, ty));
    let (dst, src, bytes) = (d.addr(0)?, d.addr(1)?, d.src(2, Ty::U32)?);
    if to_shared {
        d.need_one("a completion mechanism", COMPLETE_TX)?;
        let barrier = d.addr(3)?;
        d.finish(4)?;
        return Ok(Box::new(ToPeer { dst, src, bytes, barrier, reduce }));
    }
    d.need_one(".global", &[("global", ())])?;
    d.need_one(".bulk_group", BULK_GROUP)?;
    let policy = d.take("L2::cache_hint");
    if policy {
        d.src(3, Ty::B64)?;
    }
    d.finish(3 + usize::from(policy))?;
    Ok(Box::new(ToGlobal { dst, src, bytes, mask: None, reduce }))
}

/// `cp.async.bulk.prefetch.L2.global{.L2::cache_hint} [src], size{, policy}`.
fn decode_prefetch(d: &mut Decoder<'_>) -> Result<Op> {
    ["async", "bulk", "prefetch"].iter().for_each(|m| {
        d.take(m);
    });
    d.need_one(".L2", &[("L2", ())])?;
    d.need_one(".global", &[("global", ())])?;
    let policy = d.take("L2::cache_hint");
    let (src, bytes) = (d.addr(0)?, d.src(1, Ty::U32)?);
    if policy {
        d.src(2, Ty::B64)?;
    }
    d.finish(2 + usize::from(policy))?;
    Ok(Box::new(Prefetch { src, bytes }))
}
