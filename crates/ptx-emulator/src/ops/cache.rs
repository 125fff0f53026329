//! Cache control (PTX ISA 9.7.9.13 - 9.7.9.19): prefetch, prefetchu, applypriority, discard, createpolicy.
//!
//! Caches are not modelled: all but `discard` change nothing. `createpolicy` gives opaque constants.

use super::access;
use super::hooks::Kind;
use super::lanewise::lanewise;
use super::{Entry, form, root};
use crate::decode::{Addr, Decoder, Execute, Op, Result};
use crate::machine::{AddressSpace, Ctx, Flow, Location};
use crate::types::Ty;

pub(super) const TABLE: &[Entry] = &[
    root("prefetch", decode_prefetch),
    root("prefetchu", decode_prefetch),
    root("applypriority", decode_applypriority),
    root("discard", decode_discard),
    form("createpolicy", &["fractional"], decode_createpolicy),
    form("createpolicy", &["range"], decode_createpolicy),
    form("createpolicy", &["cvt"], decode_createpolicy),
];

struct Nothing;

impl Execute for Nothing {
    fn execute(&self, _: &mut Ctx<'_>) -> Flow {
        Flow::Next
    }
}

/// `prefetch{.global|.local}.L1|.L2 [a]`, `prefetch.global.L2::evict_last [a]`, `prefetchu.L1 [a]`.
fn decode_prefetch(d: &mut Decoder<'_>) -> Result<Op> {
    access::take_space(d);
    let levels = ["L1", "L2", "L2::evict_last", "L2::evict_normal"].map(|l| (l, ()));
    d.need_one("a cache level", &levels)?;
    d.addr(0)?;
    d.finish(1)?;
    Ok(Box::new(Nothing))
}

/// `applypriority{.global}.L2::evict_normal [a], 128`.
fn decode_applypriority(d: &mut Decoder<'_>) -> Result<Op> {
    access::take_space(d);
    if !d.take("L2::evict_normal") || d.imm(1)? != 128 {
        return d.error("needs `.L2::evict_normal` and a size of 128");
    }
    d.addr(0)?;
    d.finish(2)?;
    Ok(Box::new(Nothing))
}

struct Discard {
    space: AddressSpace,
    addr: Addr,
}

impl Execute for Discard {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        for lane in ctx.lanes() {
            let address = ctx.get(self.addr.base, lane).wrapping_add_signed(self.addr.offset);
            let origin = ctx.origin(self.addr.base, lane);
            if !origin.is_clean() {
                ctx.report_poison(origin, lane, "an address");
                continue;
            }
            let at = access::locate(ctx, self.space, self.addr.base, address, lane, 128, Kind::Write);
            if let Some(location @ Location::Global(_)) = at {
                // The contents become indeterminate.
                let _ = ctx.write(location, lane, &[0xff; 128], false);
            }
        }
        Flow::Next
    }
}

/// `discard{.global}.L2 [a], 128`.
fn decode_discard(d: &mut Decoder<'_>) -> Result<Op> {
    let space = access::take_space(d);
    if !matches!(space, AddressSpace::Global | AddressSpace::Generic) || !d.take("L2") || d.imm(1)? != 128 {
        return d.error("needs global memory, `.L2` and a size of 128");
    }
    let addr = d.addr(0)?;
    d.finish(2)?;
    Ok(Box::new(Discard { space, addr }))
}

/// `createpolicy.fractional.L2::...{.L2::...}.b64 d{, fraction}`, `createpolicy.range{.global}.... d, [a], n, m`,
/// `createpolicy.cvt.L2.b64 d, a`.
fn decode_createpolicy(d: &mut Decoder<'_>) -> Result<Op> {
    const POLICIES: &[(&str, u64)] = &[
        ("L2::evict_last", 0x14f0_0000_0000_0000),
        ("L2::evict_normal", 0x1000_0000_0000_0000),
        ("L2::evict_first", 0x12f0_0000_0000_0000),
        ("L2::evict_unchanged", 0x1000_0000_0000_0000),
    ];
    if d.take("cvt") {
        d.take("L2");
        d.ty()?;
        let (dst, a) = (d.dst(0, Ty::B64)?, d.value(1, Ty::B64)?);
        d.finish(2)?;
        return lanewise(dst, [a], |[a]| a);
    }
    let range = d.take("range");
    d.take("fractional");
    d.take("global");
    let policy = d.need_one("an eviction priority", POLICIES)?;
    d.take_one(POLICIES);
    if d.ty()? != Ty::B64 {
        return d.error("needs b64");
    }
    let dst = d.dst(0, Ty::B64)?;
    let operands = d.operand_count();
    if range {
        d.addr(1)?;
        d.value(2, Ty::U32)?;
        d.value(3, Ty::U32)?;
        d.finish(4)?;
    } else {
        if operands == 2 {
            d.src(1, Ty::F32)?;
        }
        d.finish(operands.clamp(1, 2))?;
    }
    lanewise(dst, [], move |[]| policy)
}
