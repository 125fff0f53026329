//! Tensor maps on the device: `tensormap.replace` (PTX ISA 9.7.9.28), `tensormap.cp_fenceproxy` (9.7.13.16),
//! `prefetch.tensormap` (9.7.9.15).

use super::bulk::clean;
use super::hooks::{self, Kind, ProxyFence, Scope};
use super::tensor_map::BYTES;
use super::tensor_map_codec::{Field, Raw};
use super::{Entry, form};
use crate::check::Class;
use crate::decode::{Addr, Decoder, Execute, Op, Result, Src};
use crate::machine::{AddressSpace, Ctx, Flow, Location};
use crate::types::Ty;

pub(super) const TABLE: &[Entry] = &[
    form("tensormap", &["replace"], decode_replace),
    form("tensormap", &["cp_fenceproxy"], decode_cp_fenceproxy),
    form("prefetch", &["tensormap"], decode_prefetch),
];

/// A place `n` bytes further on.
fn shifted(at: Location, n: u32) -> Location {
    match at {
        Location::Global(a) => Location::Global(a.wrapping_add(u64::from(n))),
        Location::Shared(cta, a) => Location::Shared(cta, a + n),
        other => other,
    }
}

/// Reads a map (or anything of its size) in pieces of 64 bytes. Returns whether it is initialised.
fn read(ctx: &mut Ctx<'_>, at: Location, lane: usize, bytes: &mut [u8; BYTES]) -> Option<bool> {
    let first = ctx.read(at, lane, &mut bytes[..64])?;
    Some(first & ctx.read(shifted(at, 64), lane, &mut bytes[64..])?)
}

struct Replace {
    space: AddressSpace,
    addr: Addr,
    field: Field,
    index: usize,
    value: Src,
}

impl Execute for Replace {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        for lane in ctx.lanes() {
            let Some(at) = ctx.locate(self.space, self.addr, lane) else { continue };
            let aligned = match at {
                Location::Global(a) => a % 64 == 0,
                Location::Shared(_, a) => a % 64 == 0,
                _ => false,
            };
            if !aligned {
                let message = format!("a tensor map at {at:x?}: not 64-byte aligned, or in the wrong space");
                ctx.finding(Class::Misaligned, lane, message, None);
            }
            hooks::thread_access(ctx, lane, at, BYTES as u32, Kind::Write);
            let mut bytes = [0; BYTES];
            let Some(init) = read(ctx, at, lane, &mut bytes) else { continue };
            // Compilers make a map from nothing: zeros, and then every field.
            if bytes == [0; BYTES] && init {
                let blank = Raw::new();
                for (i, half) in blank.0.chunks_exact(64).enumerate() {
                    ctx.write(shifted(at, 64 * i as u32), lane, half, true);
                }
                bytes = blank.0;
            }
            if !init || !Raw(bytes).is_map() {
                let message = "the 128 bytes are not a tensor map".to_owned();
                ctx.finding(Class::TensorMap, lane, message, None);
                continue;
            }
            let value = clean(ctx, self.value, lane, "a field of a tensor map");
            let (offset, n, _) = self.field.place();
            let to = shifted(at, (offset + self.index * n) as u32);
            ctx.write(to, lane, &value.to_le_bytes()[..n], true);
        }
        Flow::Next
    }
}

struct CopyFence {
    dst: Addr,
    src: Addr,
    scope: Scope,
}

impl Execute for CopyFence {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let Some(lane) = ctx.lanes().next() else { return Flow::Next };
        let Some(from) = ctx.locate(AddressSpace::SharedCta, self.src, lane) else { return Flow::Next };
        let Some(to) = ctx.locate(AddressSpace::Global, self.dst, lane) else { return Flow::Next };
        for other in ctx.lanes() {
            let same = [self.dst, self.src].iter().all(|a| ctx.get(a.base, other) == ctx.get(a.base, lane));
            if !same {
                let message = "the lanes give different addresses".to_owned();
                ctx.finding(Class::Undefined, other, message, None);
                break;
            }
        }
        if let Location::Global(a) = to
            && a % 128 != 0
        {
            let message = format!("destination {a:#x} is not 128-byte aligned");
            ctx.finding(Class::Misaligned, lane, message, None);
        }
        hooks::thread_access(ctx, lane, from, BYTES as u32, Kind::Read);
        hooks::thread_access(ctx, lane, to, BYTES as u32, Kind::Write);
        let mut bytes = [0; BYTES];
        let Some(init) = read(ctx, from, lane, &mut bytes) else { return Flow::Next };
        if !init && ctx.checks().uninitialised {
            ctx.finding(Class::Uninitialised, lane, "the tensor map is not initialised".to_owned(), None);
        }
        ctx.write(to, lane, &bytes[..64], init);
        ctx.write(shifted(to, 64), lane, &bytes[64..], init);
        for lane in ctx.lanes() {
            hooks::proxy_fence(ctx, lane, ProxyFence::TensorMapRelease(self.scope));
        }
        Flow::Next
    }

    fn is_aligned(&self) -> bool {
        true
    }
}

struct Prefetch;

impl Execute for Prefetch {
    fn execute(&self, _: &mut Ctx<'_>) -> Flow {
        Flow::Next
    }
}

/// `tensormap.replace.tile.field{.space}.b1024.type [addr]{, ord}, value`.
fn decode_replace(d: &mut Decoder<'_>) -> Result<Op> {
    d.take("replace");
    d.need_one(".tile", &[("tile", ())])?;
    d.need_one(".b1024", &[("b1024", ())])?;
    let field = d.need_one(
        "a field",
        &[
            ("global_address", Field::Address),
            ("rank", Field::Rank),
            ("box_dim", Field::Box),
            ("global_dim", Field::Dim),
            ("global_stride", Field::Stride),
            ("element_stride", Field::ElementStride),
            ("elemtype", Field::Element),
            ("interleave_layout", Field::Interleave),
            ("swizzle_mode", Field::SwizzleMode),
            ("swizzle_atomicity", Field::SwizzleAtomicity),
            ("fill_mode", Field::Fill),
        ],
    )?;
    let space = d
        .take_one(&[("global", AddressSpace::Global), ("shared::cta", AddressSpace::SharedCta)])
        .unwrap_or(AddressSpace::Generic);
    let wide = matches!(field, Field::Address | Field::Stride);
    let ty = d.ty()?;
    if ty != (if wide { Ty::B64 } else { Ty::B32 }) {
        return d.error("addresses and strides are .b64, everything else .b32");
    }
    let addr = d.addr(0)?;
    let count = field.place().2;
    let index = if count > 1 { d.imm(1)? } else { 0 };
    if !(0..count as i64).contains(&index) {
        return d.error(format!("ordinal {index} is not below {count}"));
    }
    let last = 1 + usize::from(count > 1);
    // Enumerations are constants.
    let largest = match field {
        Field::Element => Some(15),
        Field::Interleave => Some(2),
        Field::SwizzleMode | Field::SwizzleAtomicity => Some(3),
        Field::Fill => Some(1),
        _ => None,
    };
    if let Some(largest) = largest
        && !(0..=largest).contains(&d.imm(last)?)
    {
        return d.error(format!("the value must be in 0..={largest}"));
    }
    let value = d.src(last, ty)?;
    d.finish(last + 1)?;
    Ok(Box::new(Replace { space, addr, field, index: index as usize, value }))
}

/// `tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.scope.sync.aligned [dst], [src], 128`.
fn decode_cp_fenceproxy(d: &mut Decoder<'_>) -> Result<Op> {
    for name in ["cp_fenceproxy", "global", "shared::cta", "tensormap::generic", "release", "sync", "aligned"]
    {
        if !d.take(name) {
            return d.error(format!("needs .{name}"));
        }
    }
    let scopes = [("cta", Scope::Cta), ("cluster", Scope::Cluster), ("gpu", Scope::Gpu), ("sys", Scope::Sys)];
    let scope = d.need_one("a scope", &scopes)?;
    let (dst, src) = (d.addr(0)?, d.addr(1)?);
    if d.imm(2)? != BYTES as i64 {
        return d.error("the size must be 128");
    }
    d.finish(3)?;
    Ok(Box::new(CopyFence { dst, src, scope }))
}

/// `prefetch{.param,.const}.tensormap [addr]`: a hint.
fn decode_prefetch(d: &mut Decoder<'_>) -> Result<Op> {
    d.take("tensormap");
    d.take_one(&[("param", ()), ("const", ())]);
    d.addr(0)?;
    d.finish(1)?;
    Ok(Box::new(Prefetch))
}
