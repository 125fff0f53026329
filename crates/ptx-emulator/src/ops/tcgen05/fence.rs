//! `tcgen05.fence`, `tcgen05.wait` (PTX ISA 9.7.16.8.4, 9.7.16.9).
//!
//! The fences order tensor operations across thread synchronisation (barrier, mbarrier): the side that has issued
//! them needs `fence::before_thread_sync` before it signals (a `commit` includes it), the other side
//! `fence::after_thread_sync` behind its wait. They emit no machine instruction; code that leaves them out is accepted
//! in `cutlass-compatible` mode. The race detector keeps the books, so this check needs it.

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

/// `fence::after_thread_sync` or `fence::before_thread_sync`.
struct Fence {
    after: bool,
}

impl Execute for Fence {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        for lane in ctx.lanes() {
            hooks::tensor_fence(ctx, lane, self.after);
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
    Ok(Box::new(Fence { after: false }))
}

fn decode_after(d: &mut Decoder<'_>) -> Result<Op> {
    d.take("fence::after_thread_sync");
    d.finish(0)?;
    Ok(Box::new(Fence { after: true }))
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
