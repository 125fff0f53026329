//! `tcgen05.fence`, `tcgen05.wait` (PTX ISA 9.7.16.8.4, 9.7.16.9).
//!
//! The fences order tensor operations around thread synchronisation: a thread that has synchronised with others
//! (barrier, mbarrier wait) needs `fence::after_thread_sync` before its next tensor operation, and one that has
//! issued tensor operations needs `fence::before_thread_sync` before it signals, unless a `commit` does it. They
//! emit no machine instruction; compilers that leave them out are accepted in `cutlass-compatible` mode.

use crate::check::{Class, Mode};
use crate::decode::{Decoder, Execute, Op, Result};
use crate::machine::{Ctx, Flow};
use crate::ops::hooks::{self, GroupKind, Object, Scope};
use crate::ops::{Entry, form, root};

pub(super) const TABLE: &[Entry] = &[
    form("tcgen05", &["fence::before_thread_sync"], decode_before),
    form("tcgen05", &["fence::after_thread_sync"], decode_after),
    form("tcgen05", &["wait::ld"], decode_wait_ld),
    form("tcgen05", &["wait::st"], decode_wait_st),
    root("tcgen05", decode_unknown),
];

/// A lane has synchronised with other threads.
pub fn synchronised(ctx: &mut Ctx<'_>, lane: usize) {
    // Before the first tensor operation of the cluster there is nothing to order.
    if ctx.cluster.state.tcgen05.cta_group.is_none() {
        return;
    }
    let key = (ctx.cluster.ctas[ctx.cta].rank, ctx.thread(lane));
    ctx.cluster.state.tcgen05.synchronised.insert(key, true);
}

/// The executing lanes use tensor memory: they must have fenced since they last synchronised.
pub(super) fn use_tensor_memory(ctx: &mut Ctx<'_>) {
    if !ctx.checks().tcgen05 || ctx.checks().mode != Mode::StrictPtx {
        return;
    }
    let rank = ctx.cluster.ctas[ctx.cta].rank;
    for lane in ctx.lanes() {
        let key = (rank, ctx.thread(lane));
        if ctx.cluster.state.tcgen05.synchronised.get(&key) == Some(&true) {
            let message =
                "tensor operation after thread synchronisation without tcgen05.fence::after_thread_sync"
                    .to_owned();
            ctx.finding(Class::Tcgen05Order, lane, message, None);
            return;
        }
    }
}

struct After;

impl Execute for After {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let rank = ctx.cluster.ctas[ctx.cta].rank;
        for lane in ctx.lanes() {
            let key = (rank, ctx.thread(lane));
            ctx.cluster.state.tcgen05.synchronised.insert(key, false);
        }
        Flow::Next
    }
}

struct Before;

impl Execute for Before {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let rank = ctx.cluster.ctas[ctx.cta].rank;
        for lane in ctx.lanes() {
            let key = (rank, ctx.thread(lane));
            ctx.cluster.state.tcgen05.unfenced.remove(&key);
        }
        Flow::Next
    }
}

/// The object through which a thread's `ld`s or `st`s are known to be complete.
pub(super) fn own_group(ctx: &Ctx<'_>, lane: usize, kind: GroupKind) -> Object {
    Object::Group(ctx.cluster.ctas[ctx.cta].rank, ctx.thread(lane), kind, 0)
}

struct WaitFor(GroupKind);

impl Execute for WaitFor {
    fn is_aligned(&self) -> bool {
        true
    }

    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        for lane in ctx.lanes() {
            let object = own_group(ctx, lane, self.0);
            hooks::thread_acquire(ctx, lane, object, Scope::Cta);
        }
        Flow::Next
    }
}

fn decode_before(d: &mut Decoder<'_>) -> Result<Op> {
    d.take("fence::before_thread_sync");
    d.finish(0)?;
    Ok(Box::new(Before))
}

fn decode_after(d: &mut Decoder<'_>) -> Result<Op> {
    d.take("fence::after_thread_sync");
    d.finish(0)?;
    Ok(Box::new(After))
}

fn decode_wait_ld(d: &mut Decoder<'_>) -> Result<Op> {
    decode_wait(d, "wait::ld", GroupKind::TensorLoad)
}

fn decode_wait_st(d: &mut Decoder<'_>) -> Result<Op> {
    decode_wait(d, "wait::st", GroupKind::TensorStore)
}

fn decode_wait(d: &mut Decoder<'_>, what: &str, kind: GroupKind) -> Result<Op> {
    for needed in [what, "sync", "aligned"] {
        if !d.take(needed) {
            return d.error(format!("needs .{needed}"));
        }
    }
    d.finish(0)?;
    Ok(Box::new(WaitFor(kind)))
}

fn decode_unknown(d: &mut Decoder<'_>) -> Result<Op> {
    d.error("this tcgen05 instruction is not modelled")
}
