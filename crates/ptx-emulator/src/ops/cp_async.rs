//! Non-bulk asynchronous copies: `cp.async` and its groups (PTX ISA 9.7.9.25.3), `cp.async.mbarrier.arrive`
//! (9.7.13.15.15).
//!
//! The copies of one instruction by a warp are one operation in flight; those of a warp complete in issue
//! order. Destination bytes are poisoned until then.

use super::groups::{self, GroupId, Which};
use super::hooks::{self, AsyncId, Kind, Proxy, Range};
use super::mbarrier::{self, locate};
use super::sync_state::{add, check_alive};
use super::{Entry, form};
use crate::check::{Class, Place};
use crate::counters::Counter;
use crate::decode::{Addr, Decoder, Execute, Op, Result, Src};
use crate::machine::{AddressSpace, AsyncCtx, AsyncOp, Ctx, Flow, Location, QueueKey};
use crate::types::Ty;

pub(super) const TABLE: &[Entry] = &[
    form("cp", &["async", "commit_group"], decode_commit),
    form("cp", &["async", "wait_group"], decode_wait_group),
    form("cp", &["async", "wait_all"], decode_wait_all),
    form("cp", &["async", "mbarrier", "arrive"], decode_arrive),
    form("cp", &["async", "ca"], decode_copy),
    form("cp", &["async", "cg"], decode_copy),
];

/// What limits the bytes read.
#[derive(Clone, Copy)]
enum Limit {
    None,
    /// That many bytes; the rest is zero.
    Bytes(Src),
    /// Nothing is read if true.
    Ignore(Src, bool),
}

struct CpAsync {
    space: AddressSpace,
    dst: Addr,
    src: Addr,
    bytes: u32,
    limit: Limit,
}

impl Execute for CpAsync {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let mut copies = Vec::new();
        for lane in ctx.lanes() {
            let Some(Location::Shared(_, dst)) = ctx.locate(self.space, self.dst, lane) else { continue };
            let src = match ctx.locate(AddressSpace::Global, self.src, lane) {
                Some(Location::Global(address)) => address,
                _ => continue,
            };
            for (value, what) in [(u64::from(dst), "shared"), (src, "global")] {
                if value % u64::from(self.bytes) != 0 {
                    let message = format!("{what} address {value:#x} is not {}-byte aligned", self.bytes);
                    ctx.finding(Class::Misaligned, lane, message, None);
                }
            }
            let read = self.bytes_read(ctx, lane);
            mbarrier::check_access(ctx, lane, ctx.cta as u32, dst, self.bytes);
            if !ctx.cluster.ctas[ctx.cta].shared.poison(dst, self.bytes as usize) {
                let message = format!("{} bytes at shared offset {dst:#x} are out of range", self.bytes);
                ctx.finding(Class::OutOfBounds, lane, message, None);
                continue;
            }
            let id = hooks::async_issue(ctx, lane, Proxy::Generic, "cp.async");
            let thread = ctx.thread(lane);
            let groups = &mut ctx.cluster.state.sync.groups;
            let group = groups.add(ctx.cta as u32, thread, Which::CpAsync, None);
            groups.add_copy(group, id);
            copies.push(Copy { id, group, dst, src, read });
        }
        count(ctx, &copies);
        if let Some(lane) = ctx.lanes().next().filter(|_| !copies.is_empty()) {
            let op = Copies { place: ctx.place(lane), cta: ctx.cta as u32, bytes: self.bytes, copies };
            let key = QueueKey::CpAsync(ctx.cta as u32, ctx.warp.index as u32);
            ctx.cluster.engine.issue(key, Box::new(op));
        }
        Flow::Next
    }
}

/// Bytes and sectors that the lanes' copies read.
fn count(ctx: &mut Ctx<'_>, copies: &[Copy]) {
    let mut sectors: Vec<u64> = copies
        .iter()
        .filter(|c| c.read > 0)
        .flat_map(|c| c.src / 32..c.src.saturating_add(u64::from(c.read)).div_ceil(32))
        .collect();
    sectors.sort_unstable();
    sectors.dedup();
    let (bytes, sectors) = (copies.iter().map(|c| u64::from(c.read)).sum(), sectors.len() as u64);
    ctx.cluster.counters.add(Counter::CpAsyncBytes, bytes);
    ctx.cluster.counters.add(Counter::CpAsyncSectors, sectors);
    let site = ctx.cluster.counters.site(ctx.pc);
    site.bytes += bytes;
    site.sectors += sectors;
}

impl CpAsync {
    fn bytes_read(&self, ctx: &mut Ctx<'_>, lane: usize) -> u32 {
        let (src, what) = match self.limit {
            Limit::None => return self.bytes,
            Limit::Bytes(src) => (src, "a source size"),
            Limit::Ignore(src, _) => (src, "an ignore-src predicate"),
        };
        let origin = ctx.origin(src, lane);
        if !origin.is_clean() {
            ctx.report_poison(origin, lane, what);
        }
        let value = ctx.get(src, lane) as u32;
        if let Limit::Ignore(_, negated) = self.limit {
            return if (value & 1 == 1) != negated { 0 } else { self.bytes };
        }
        if value > self.bytes {
            let message = format!("source size {value} is above the copy size {}", self.bytes);
            ctx.finding(Class::Undefined, lane, message, None);
        }
        value.min(self.bytes)
    }
}

struct Copy {
    id: AsyncId,
    group: GroupId,
    dst: u32,
    src: u64,
    read: u32,
}

struct Copies {
    place: Place,
    cta: u32,
    bytes: u32,
    copies: Vec<Copy>,
}

impl AsyncOp for Copies {
    fn complete(self: Box<Self>, ctx: &mut AsyncCtx<'_>) {
        if let Err((class, why)) = check_alive(ctx.cluster, self.cta) {
            add(ctx.cluster, class, self.place.clone(), format!("cp.async writes {why}"));
        }
        for copy in &self.copies {
            let place = || Place { thread: copy.group.thread, ..self.place.clone() };
            let (mut data, mut init) = ([0; 16], [true; 16]);
            let read = copy.read as usize;
            if read > 0 {
                let range = Range::Global { address: copy.src, bytes: copy.read };
                hooks::async_access(ctx.env, ctx.cluster, copy.id, range, Kind::Read);
                if let Err(e) = ctx.env.global.read_flags(copy.src, &mut data[..read], &mut init[..read]) {
                    let class = super::bulk_transfer::class_of(e);
                    add(ctx.cluster, class, place(), format!("cp.async source: {e}"));
                    init[..read].fill(false);
                }
            }
            let range = Range::Shared { cta: self.cta, offset: copy.dst, bytes: self.bytes };
            hooks::async_access(ctx.env, ctx.cluster, copy.id, range, Kind::Write);
            let n = self.bytes as usize;
            if let Some((bytes, flags)) = ctx.cluster.ctas[self.cta as usize].shared.range_mut(copy.dst, n) {
                bytes.copy_from_slice(&data[..n]);
                flags.copy_from_slice(&init[..n]);
            }
            hooks::async_complete(ctx.cluster, copy.id, groups::object(copy.group, false));
            groups::done(ctx.cluster, copy.group);
        }
    }

    fn describe(&self) -> String {
        format!("cp.async of line {}", self.place.line)
    }
}

struct Arrive {
    space: AddressSpace,
    addr: Addr,
    increments: bool,
}

impl Execute for Arrive {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let mut arrivals = Vec::new();
        for lane in ctx.lanes() {
            let Some(at) = locate(ctx, self.space, self.addr, lane) else { continue };
            if self.increments {
                mbarrier::increment(ctx, lane, at);
            }
            let thread = ctx.thread(lane);
            let ids = ctx.cluster.state.sync.groups.copies(ctx.cta as u32, thread);
            arrivals.push((ctx.place(lane), ids, at));
        }
        if !arrivals.is_empty() {
            let key = QueueKey::CpAsync(ctx.cta as u32, ctx.warp.index as u32);
            ctx.cluster.engine.issue(key, Box::new(Arrivals(arrivals)));
        }
        Flow::Next
    }
}

/// In the queue behind the copies that the arrivals wait for.
struct Arrivals(Vec<(Place, Vec<AsyncId>, (u32, u32))>);

impl AsyncOp for Arrivals {
    fn complete(self: Box<Self>, ctx: &mut AsyncCtx<'_>) {
        for (place, ids, at) in &self.0 {
            mbarrier::arrive_after(ctx, place, ids, *at);
        }
    }

    fn describe(&self) -> String {
        let line = self.0.first().map_or(0, |a| a.0.line);
        format!("cp.async.mbarrier.arrive of line {line}")
    }
}

/// `cp.async.{ca,cg}.shared{::cta}.global{.L2::cache_hint}{.L2::size} [dst], [src], n{, src-size | ignore-src}
/// {, policy}`.
fn decode_copy(d: &mut Decoder<'_>) -> Result<Op> {
    d.take("async");
    let cg = d.need_one("ca or cg", &[("ca", false), ("cg", true)])?;
    let space = d.need_one(
        ".shared",
        &[("shared", AddressSpace::SharedCta), ("shared::cta", AddressSpace::SharedCta)],
    )?;
    d.need_one(".global", &[("global", ())])?;
    // Hints.
    let policy = d.take("L2::cache_hint");
    d.take_one(&[("L2::64B", ()), ("L2::128B", ()), ("L2::256B", ())]);
    let (dst, src) = (d.addr(0)?, d.addr(1)?);
    let bytes = match d.imm(2)? {
        16 => 16,
        n @ (4 | 8) if !cg => n as u32,
        n => return d.error(format!("{n} bytes cannot be copied")),
    };
    let optional = d.operand_count().saturating_sub(3 + usize::from(policy));
    let limit = match optional {
        0 => Limit::None,
        1 if matches!(d.operand(3)?, crate::syntax::ast::Operand::Not(_))
            || d.reg_ty(d.operand(3)?) == Some(Ty::Pred) =>
        {
            let (src, negated) = d.pred(3)?;
            Limit::Ignore(src, negated)
        }
        1 => Limit::Bytes(d.src(3, Ty::U32)?),
        _ => return d.error("too many operands"),
    };
    if policy {
        d.src(3 + optional, Ty::B64)?;
    }
    d.finish(3 + optional + usize::from(policy))?;
    Ok(Box::new(CpAsync { space, dst, src, bytes, limit }))
}

/// `cp.async{.bulk}.commit_group`.
fn decode_commit(d: &mut Decoder<'_>) -> Result<Op> {
    d.take("async");
    d.take("commit_group");
    let which = if d.take("bulk") { Which::Bulk } else { Which::CpAsync };
    d.finish(0)?;
    Ok(groups::commit(which))
}

/// `cp.async{.bulk}.wait_group{.read} n`.
fn decode_wait_group(d: &mut Decoder<'_>) -> Result<Op> {
    d.take("async");
    d.take("wait_group");
    let which = if d.take("bulk") { Which::Bulk } else { Which::CpAsync };
    let read = which == Which::Bulk && d.take("read");
    let Ok(pending) = u32::try_from(d.imm(0)?) else { return d.error("the number of groups is negative") };
    d.finish(1)?;
    Ok(groups::wait(which, read, pending, false))
}

/// `cp.async.wait_all`.
fn decode_wait_all(d: &mut Decoder<'_>) -> Result<Op> {
    d.take("async");
    d.take("wait_all");
    d.finish(0)?;
    Ok(groups::wait(Which::CpAsync, false, 0, true))
}

/// `cp.async.mbarrier.arrive{.noinc}{.shared{::cta}}.b64 [addr]`.
fn decode_arrive(d: &mut Decoder<'_>) -> Result<Op> {
    d.take("async");
    d.take("mbarrier");
    d.take("arrive");
    d.need_one(".b64", &[("b64", ())])?;
    let increments = !d.take("noinc");
    let space = mbarrier::space(d);
    if space == AddressSpace::SharedCluster {
        return d.error("the object must be in .shared::cta");
    }
    let addr = d.addr(0)?;
    d.finish(1)?;
    Ok(Box::new(Arrive { space, addr, increments }))
}
