//! Asynchronous stores and reductions of registers to a peer's shared memory: `st.async` (PTX ISA 9.7.9.12),
//! `red.async` (9.7.13.7).
//!
//! They write when the schedule lets them complete, and then complete their bytes on the mbarrier. The
//! `.mmio.release` forms to global memory are not modelled.

use super::bulk_reduce::{self, OPS, RedOp};
use super::bulk_transfer::{Destination, Image, Layout};
use super::hooks::{self, AsyncId, Kind, Proxy, Scope, Strong};
use super::mbarrier::locate;
use super::{Entry, form};
use crate::check::{Class, Origin, Place};
use crate::counters::Counter;
use crate::decode::{Addr, Decoder, Execute, Op, Result, Src};
use crate::machine::{AddressSpace, AsyncCtx, AsyncOp, Ctx, Flow};
use crate::types::Ty;

pub(super) const TABLE: &[Entry] =
    &[form("st", &["async"], decode_st_async), form("red", &["async"], decode_red_async)];

struct Send {
    space: AddressSpace,
    dst: Addr,
    barrier: Addr,
    ty: Ty,
    values: Vec<Src>,
    reduce: Option<RedOp>,
}

impl Execute for Send {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let element = self.ty.bytes() as usize;
        let bytes = element * self.values.len();
        for lane in ctx.lanes() {
            let Some(data) = locate(ctx, self.space, self.dst, lane) else { continue };
            let Some(barrier) = locate(ctx, self.space, self.barrier, lane) else { continue };
            if !(data.1 as usize).is_multiple_of(bytes) {
                let message = format!("shared offset {:#x} is not {bytes}-byte aligned", data.1);
                ctx.finding(Class::Misaligned, lane, message, None);
            }
            let mut image = Image::default();
            for &value in &self.values {
                let word = ctx.get(value, lane).to_le_bytes();
                image.bytes.extend_from_slice(&word[..element]);
                image.init.extend(std::iter::repeat_n(ctx.origin(value, lane) == Origin::CLEAN, element));
            }
            let Some(to) = Destination::new(ctx, lane, data, barrier, None, false) else { continue };
            // A reduction needs what is there.
            if self.reduce.is_none() && !to.poison(ctx, lane, &Layout::flat(bytes)) {
                continue;
            }
            let what = if self.reduce.is_some() { "red.async" } else { "st.async" };
            let id = hooks::async_issue(ctx, lane, Proxy::Generic, what);
            let reduce = self.reduce.map(|op| (op, self.ty));
            super::bulk::start(ctx, Box::new(Sent { place: ctx.place(lane), id, to, image, reduce }));
        }
        Flow::Next
    }
}

struct Sent {
    place: Place,
    id: AsyncId,
    to: Destination,
    image: Image,
    reduce: Option<(RedOp, Ty)>,
}

impl AsyncOp for Sent {
    fn complete(mut self: Box<Self>, ctx: &mut AsyncCtx<'_>) {
        let n = self.image.bytes.len();
        if let (Some((op, ty)), Some(&(cta, _))) = (self.reduce, self.to.targets.first()) {
            let shared = ctx.cluster.ctas.get(cta as usize).and_then(|c| c.shared.range(self.to.offset, n));
            if let Some((old, init)) = shared {
                let mut result = old.to_vec();
                bulk_reduce::apply(op, ty, &mut result, &self.image.bytes);
                self.image.bytes = result;
                self.image.init.iter_mut().zip(init).for_each(|(a, b)| *a &= b);
            }
        }
        // Relaxed at cluster scope (9.7.9.13, 9.7.13.7).
        let strong = Strong { scope: Scope::Cluster, bytes: 0 };
        let kind = if self.reduce.is_some() { Kind::Atomic(strong) } else { Kind::StrongWrite(strong) };
        let path =
            if self.reduce.is_some() { Counter::ClusterAtomicBytes } else { Counter::ClusterStoreBytes };
        ctx.cluster.counters.add(path, n as u64);
        self.to.deliver(ctx, &self.place, self.id, (&Layout::flat(n), kind), &self.image, n as u32);
    }

    fn describe(&self) -> String {
        format!("asynchronous store of line {}", self.place.line)
    }
}

/// The space and the completion mechanism; what is common to both.
fn decode_common(d: &mut Decoder<'_>) -> Result<AddressSpace> {
    d.need_one("a completion mechanism", &[("mbarrier::complete_tx::bytes", ())])?;
    Ok(d.take_one(&[("shared::cluster", AddressSpace::SharedCluster)]).unwrap_or(AddressSpace::Generic))
}

/// `st.async{.weak}{.shared::cluster}.mbarrier::complete_tx::bytes{.v2,.v4}.type [a], b, [mbar]`.
fn decode_st_async(d: &mut Decoder<'_>) -> Result<Op> {
    d.take("async");
    d.take("weak");
    let space = decode_common(d)?;
    let count = d.take_one(&[("v2", 2), ("v4", 4)]).unwrap_or(1);
    let ty = d.ty()?;
    if !matches!(ty, Ty::B32 | Ty::B64 | Ty::U32 | Ty::U64 | Ty::S32 | Ty::S64 | Ty::F32 | Ty::F64) {
        return d.error("the ISA has no such type here");
    }
    let (dst, values, barrier) = (d.addr(0)?, d.srcs(1, ty)?, d.addr(2)?);
    if values.len() != count {
        return d.error(format!("needs {count} values"));
    }
    d.finish(3)?;
    Ok(Box::new(Send { space, dst, barrier, ty, values, reduce: None }))
}

/// `red.async.relaxed.cluster{.shared::cluster}.mbarrier::complete_tx::bytes.op.type [a], b, [mbar]`.
fn decode_red_async(d: &mut Decoder<'_>) -> Result<Op> {
    d.take("async");
    d.need_one(".relaxed", &[("relaxed", ())])?;
    d.need_one(".cluster", &[("cluster", ())])?;
    let space = decode_common(d)?;
    let op = d.need_one("a reduction", OPS)?;
    let ty = d.ty()?;
    if !bulk_reduce::exists(op, ty, true) {
        return d.error("the ISA has no such reduction");
    }
    let (dst, value, barrier) = (d.addr(0)?, d.src(1, ty)?, d.addr(2)?);
    d.finish(3)?;
    Ok(Box::new(Send { space, dst, barrier, ty, values: vec![value], reduce: Some(op) }))
}
