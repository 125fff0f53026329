//! `tcgen05.alloc`, `dealloc`, `relinquish_alloc_permit` (PTX ISA 9.7.16.7.1).

use super::state::check_in_flight;
use crate::check::{Class, Mode};
use crate::decode::{Addr, Decoder, Execute, Op, Result, Src};
use crate::machine::{AddressSpace, Ctx, Flow, Wait};
use crate::ops::hooks::{self, Kind, Proxy, ProxyFence, ProxySpace, Range};
use crate::ops::{Entry, form};
use crate::types::Ty;

pub(super) const TABLE: &[Entry] = &[
    form("tcgen05", &["alloc"], decode_alloc),
    form("tcgen05", &["dealloc"], decode_dealloc),
    form("tcgen05", &["relinquish_alloc_permit"], decode_relinquish),
];

/// `.cta_group::1` or `::2`.
pub(super) fn cta_group(d: &mut Decoder<'_>) -> Result<u32> {
    d.need_one("a .cta_group", &[("cta_group::1", 1), ("cta_group::2", 2)])
}

/// A kernel uses one `.cta_group` value throughout.
pub(super) fn check_cta_group(ctx: &mut Ctx<'_>, group: u32) {
    let line = ctx.inst().line;
    let (first, at) = *ctx.cluster.state.tcgen05.cta_group.get_or_insert((group, line));
    if first != group {
        let message =
            format!("cta_group::{group} after cta_group::{first} on line {at}: a kernel uses one value");
        ctx.finding(Class::Undefined, 0, message, None);
    }
}

struct Alloc {
    addr: Addr,
    space: AddressSpace,
    columns: Src,
    group: u32,
}

impl Execute for Alloc {
    fn is_aligned(&self) -> bool {
        true
    }

    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        check_cta_group(ctx, self.group);
        let lane = ctx.mask.trailing_zeros() as usize;
        let columns = ctx.get(self.columns, lane) as u32;
        if !columns.is_power_of_two() || !(32..=512).contains(&columns) {
            let message = format!("{columns} columns: must be a power of two in 32..=512");
            ctx.finding(Class::TensorAlloc, lane, message, None);
            return Flow::Abort;
        }
        let rank = ctx.cluster.ctas[ctx.cta].rank;
        let line = ctx.inst().line;
        let memory = ctx.cluster.state.tcgen05.memory(rank);
        if memory.relinquished {
            let message = "alloc after relinquish_alloc_permit".to_owned();
            ctx.finding(Class::TensorAlloc, lane, message, None);
            return Flow::Abort;
        }
        if columns > memory.last {
            let message = format!("{columns} columns after an allocation of {}: must not grow", memory.last);
            ctx.finding(Class::TensorAlloc, lane, message, None);
        }
        let memory = ctx.cluster.state.tcgen05.memory(rank);
        let Some(column) = memory.allocate(columns, line) else { return Flow::Retry(Wait::TensorMemory) };
        ctx.cluster.state.tcgen05.set_changed();
        let Some(location) = ctx.locate(self.space, self.addr, lane) else { return Flow::Abort };
        hooks::tensor_allocated(ctx, column, columns);
        hooks::thread_access(ctx, lane, location, 4, Kind::Write);
        if ctx.checks().mode == Mode::CutlassCompatible {
            // Compilers copy over the word without a fence.proxy.async.
            hooks::proxy_fence(ctx, lane, ProxyFence::Async(ProxySpace::SharedCta));
        }
        if ctx.write(location, lane, &column.to_le_bytes(), true).is_none() {
            return Flow::Abort;
        }
        Flow::Next
    }
}

struct Dealloc {
    address: Src,
    columns: Src,
    group: u32,
}

impl Execute for Dealloc {
    fn is_aligned(&self) -> bool {
        true
    }

    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        check_cta_group(ctx, self.group);
        let lane = ctx.mask.trailing_zeros() as usize;
        let (address, columns) = (ctx.get(self.address, lane) as u32, ctx.get(self.columns, lane) as u32);
        let rank = ctx.cluster.ctas[ctx.cta].rank;
        let column = address & 0xffff;
        check_in_flight(ctx, lane, rank, column, columns, "dealloc");
        // A dealloc conflicts with every access to the columns: it is a write of all of them.
        let id = hooks::async_issue(ctx, lane, Proxy::Generic, "tcgen05.dealloc");
        let range = Range::Tensor { cta: rank, lane: 0, lanes: 128, column, columns };
        hooks::async_access(ctx.env, ctx.cluster, id, range, Kind::Write);
        if address >> 16 != 0 || !ctx.cluster.state.tcgen05.memory(rank).free(column, columns) {
            let message = format!("no allocation of {columns} columns at {address:#010x}");
            ctx.finding(Class::TensorAlloc, lane, message, None);
        }
        ctx.cluster.state.tcgen05.set_changed();
        ctx.cluster.wake_all(|w| w == Wait::TensorMemory);
        Flow::Next
    }
}

struct Relinquish {
    group: u32,
}

impl Execute for Relinquish {
    fn is_aligned(&self) -> bool {
        true
    }

    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        check_cta_group(ctx, self.group);
        let rank = ctx.cluster.ctas[ctx.cta].rank;
        ctx.cluster.state.tcgen05.memory(rank).relinquished = true;
        Flow::Next
    }
}

fn sync_aligned(d: &mut Decoder<'_>, what: &str) -> Result<u32> {
    for needed in [what, "sync", "aligned"] {
        if !d.take(needed) {
            return d.error(format!("needs .{needed}"));
        }
    }
    cta_group(d)
}

fn decode_alloc(d: &mut Decoder<'_>) -> Result<Op> {
    let group = sync_aligned(d, "alloc")?;
    let space = d.take_one(&[("shared::cta", AddressSpace::SharedCta)]).unwrap_or(AddressSpace::Generic);
    d.take("b32");
    let (addr, columns) = (d.addr(0)?, d.src(1, Ty::U32)?);
    d.finish(2)?;
    Ok(Box::new(Alloc { addr, space, columns, group }))
}

fn decode_dealloc(d: &mut Decoder<'_>) -> Result<Op> {
    let group = sync_aligned(d, "dealloc")?;
    d.take("b32");
    let (address, columns) = (d.src(0, Ty::U32)?, d.src(1, Ty::U32)?);
    d.finish(2)?;
    Ok(Box::new(Dealloc { address, columns, group }))
}

fn decode_relinquish(d: &mut Decoder<'_>) -> Result<Op> {
    let group = sync_aligned(d, "relinquish_alloc_permit")?;
    d.finish(0)?;
    Ok(Box::new(Relinquish { group }))
}
