//! Loads and stores (PTX ISA 9.7.9.8 - 9.7.9.12): ld, ld.global.nc, ldu, st, st.bulk.

use super::access::{self, Order};
use super::hooks::{Kind, Scope};
use super::{Entry, form, root};
use crate::check::{Origin, OriginKind};
use crate::decode::{Addr, Decoder, Execute, Op, Result, Src};
use crate::machine::{AddressSpace, Ctx, Flow, LANES, Location};
use crate::program::Reg;
use crate::syntax::ast::Operand;
use crate::types::Ty;

pub(super) const TABLE: &[Entry] = &[
    form("st", &["bulk"], decode_st_bulk),
    root("ld", decode_ld),
    root("ldu", decode_ld),
    root("st", decode_st),
];

/// The largest access: 256 bits.
const MAX_BYTES: usize = 32;

/// Kind of poison read at a location.
fn origin_kind(location: Location) -> OriginKind {
    match location {
        Location::Global(_) => OriginKind::Global,
        Location::Shared(..) => OriginKind::Shared,
        Location::Local(_) | Location::Param(_) => OriginKind::Local,
    }
}

/// What a load does with an element's bits.
#[derive(Clone, Copy)]
struct Target {
    reg: Option<Reg>,
    /// Width of the register; elements of signed types are extended to it.
    register: Ty,
}

struct Load {
    space: AddressSpace,
    addr: Addr,
    order: Order,
    scope: Scope,
    ty: Ty,
    /// Bytes of an element; a `.b128` counts as two.
    element: usize,
    targets: Vec<Target>,
}

impl Load {
    /// Reads one lane; the location, and whether all bytes were initialised.
    #[inline]
    fn read(
        &self,
        ctx: &mut Ctx<'_>,
        lane: usize,
        address: u64,
        buffer: &mut [u8; MAX_BYTES],
    ) -> Option<(Location, bool)> {
        let bytes = self.element * self.targets.len();
        let kind = if self.order.is_strong() { Kind::StrongRead } else { Kind::Read };
        let location = access::locate(ctx, self.space, self.addr.base, address, lane, bytes as u32, kind)?;
        let init = ctx.read(location, lane, &mut buffer[..bytes])?;
        access::acquire(ctx, lane, location, self.order, self.scope);
        Some((location, init))
    }

    /// Origins of the elements of a lane whose bytes are not all initialised.
    #[cold]
    fn element_origins(&self, ctx: &mut Ctx<'_>, lane: usize, location: Location) -> Vec<Origin> {
        let origin = Origin::new(origin_kind(location), ctx.pc);
        let mut scratch = [0; 8];
        (0..self.targets.len())
            .map(|i| {
                let at = location.offset_by((i * self.element) as u64);
                match ctx.read(at, lane, &mut scratch[..self.element]) {
                    Some(true) | None => Origin::CLEAN,
                    Some(false) => origin,
                }
            })
            .collect()
    }

    #[inline]
    fn element_value(&self, bytes: &[u8; MAX_BYTES], i: usize) -> u64 {
        let at = i * self.element;
        match self.element {
            1 => u64::from(bytes[at]),
            2 => u64::from(u16::from_le_bytes([bytes[at], bytes[at + 1]])),
            4 => u64::from(u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])),
            _ => {
                let mut word = [0; 8];
                word.copy_from_slice(&bytes[at..at + 8]);
                u64::from_le_bytes(word)
            }
        }
    }
}

impl Execute for Load {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let addresses = access::addresses(ctx, self.addr);
        let poisoned = ctx.dirty_lanes(&[self.addr.base]);
        let mut rows = [[0u64; LANES]; 8];
        let mut origins: Vec<(usize, Vec<Origin>)> = Vec::new();
        let mut buffer = [0; MAX_BYTES];
        for lane in ctx.lanes() {
            if poisoned >> lane & 1 == 1 {
                let origin = ctx.origin(self.addr.base, lane);
                ctx.report_poison(origin, lane, "an address");
                origins.push((lane, vec![origin; self.targets.len()]));
                continue;
            }
            let read = self.read(ctx, lane, addresses[lane], &mut buffer);
            let Some((location, init)) = read else { continue };
            for (i, row) in rows[..self.targets.len()].iter_mut().enumerate() {
                row[lane] = self.element_value(&buffer, i);
            }
            if !init {
                origins.push((lane, self.element_origins(ctx, lane, location)));
            }
        }
        for (i, target) in self.targets.iter().enumerate() {
            let Some(reg) = target.reg else { continue };
            let row = &mut rows[i];
            if self.ty.is_signed() && target.register.bits() > self.ty.bits() {
                row.iter_mut().for_each(|v| *v = target.register.truncate(self.ty.extend(*v)));
            }
            ctx.warp.set_row(reg, ctx.mask, row);
            for (lane, elements) in &origins {
                ctx.warp.set(reg, *lane, row[*lane], elements[i]);
            }
        }
        // A strong load may be a spin: lanes and warps that it waits for get their turn.
        if self.order.is_strong() { Flow::Yield } else { Flow::Next }
    }
}

/// Checks that the element type can be moved through a register of type `declared`.
fn check_register(d: &Decoder<'_>, operand: &Operand, declared: Ty, ty: Ty) -> Result<()> {
    let exact = matches!(ty, Ty::F32 | Ty::F64 | Ty::B128) || declared == Ty::B128 || declared == Ty::Pred;
    if declared.bits() < ty.bits() || exact && declared.bits() != ty.bits() {
        return d.error(format!("`{operand}` is declared {declared:?}, which does not hold {ty:?}"));
    }
    Ok(())
}

/// Checks type and vector of a load or store.
fn check_shape(d: &Decoder<'_>, ty: Ty, count: usize, operands: usize) -> Result<()> {
    if count != operands {
        return d.error(format!("expected {count} elements, got {operands}"));
    }
    if !matches!(ty.bits(), 8 | 16 | 32 | 64 | 128) || ty.bits() as usize * count > 8 * MAX_BYTES {
        return d.error(format!("{count} elements of {ty:?} are not an access"));
    }
    if count == 8 && ty.bits() != 32 || ty == Ty::B128 && count != 1 {
        return d.error(format!("has no vectors of {count} {ty:?}"));
    }
    Ok(())
}

/// `ld{.weak|.volatile|.order.scope}{.space}{.nc}{hints}{.vec}.type d, [a]{, policy}`, `ldu.global{.vec}.type`.
fn decode_ld(d: &mut Decoder<'_>) -> Result<Op> {
    let (order, scope) = access::take_order(d)?;
    if order.releases() {
        return d.error("a load cannot release");
    }
    d.take("nc");
    d.take("unified");
    let space = access::take_space(d);
    let policy = access::take_hints(d);
    let count = access::take_vector(d);
    let ty = d.ty()?;
    let items = d.vector(0)?;
    check_shape(d, ty, count, items.len())?;
    let mut targets = Vec::new();
    for item in items {
        if let Operand::Sink = item {
            targets.push(Target { reg: None, register: ty });
            continue;
        }
        let (reg, register) = d.typed_reg_of(item)?;
        check_register(d, item, register, ty)?;
        targets.push(Target { reg: Some(reg), register });
        if ty == Ty::B128 {
            targets.push(Target { reg: Some(reg + 1), register });
        }
    }
    let addr = d.addr(1)?;
    access::finish_with_policy(d, 2, policy)?;
    let element = ty.bytes().min(8) as usize;
    Ok(Box::new(Load { space, addr, order, scope, ty, element, targets }))
}

struct Store {
    space: AddressSpace,
    addr: Addr,
    order: Order,
    scope: Scope,
    /// Bytes of an element; a `.b128` counts as two.
    element: usize,
    sources: Vec<Src>,
}

impl Store {
    /// Writes the elements of a lane, some of which are poisoned.
    #[cold]
    fn write_poisoned(&self, ctx: &mut Ctx<'_>, lane: usize, location: Location, bytes: &[u8]) {
        let origin = ctx.origin_of(&self.sources, lane);
        if let Location::Global(_) = location {
            ctx.report_poison(origin, lane, "global memory");
        }
        for (i, source) in self.sources.iter().enumerate() {
            let at = i * self.element;
            let init = ctx.origin(*source, lane).is_clean();
            let part = &bytes[at..at + self.element];
            if ctx.write(location.offset_by(at as u64), lane, part, init).is_none() {
                return;
            }
        }
    }
}

impl Execute for Store {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let addresses = access::addresses(ctx, self.addr);
        let poisoned = ctx.dirty_lanes(&[self.addr.base]);
        let dirty = ctx.dirty_lanes(&self.sources);
        let mut rows = [[0u64; LANES]; 8];
        for (row, source) in rows.iter_mut().zip(&self.sources) {
            *row = ctx.row(*source);
        }
        let bytes = self.element * self.sources.len();
        let kind = if self.order.is_strong() { Kind::StrongWrite } else { Kind::Write };
        let mut buffer = [0u8; MAX_BYTES];
        for lane in ctx.lanes() {
            if poisoned >> lane & 1 == 1 {
                let origin = ctx.origin(self.addr.base, lane);
                ctx.report_poison(origin, lane, "an address");
                continue;
            }
            let base = self.addr.base;
            let location = access::locate(ctx, self.space, base, addresses[lane], lane, bytes as u32, kind);
            let Some(location) = location else { continue };
            access::release(ctx, lane, location, self.order, self.scope);
            for (chunk, row) in buffer.chunks_exact_mut(self.element).zip(&rows[..self.sources.len()]) {
                chunk.copy_from_slice(&row[lane].to_le_bytes()[..self.element]);
            }
            if dirty >> lane & 1 == 1 {
                self.write_poisoned(ctx, lane, location, &buffer[..bytes]);
            } else {
                // Out of range is a finding; the other lanes go on.
                let _ = ctx.write(location, lane, &buffer[..bytes], true);
            }
        }
        Flow::Next
    }
}

/// `st{.weak|.volatile|.order.scope}{.space}{hints}{.vec}.type [a], b{, policy}`.
fn decode_st(d: &mut Decoder<'_>) -> Result<Op> {
    let (order, scope) = access::take_order(d)?;
    if order.acquires() {
        return d.error("a store cannot acquire");
    }
    let space = access::take_space(d);
    let policy = access::take_hints(d);
    let count = access::take_vector(d);
    let ty = d.ty()?;
    let addr = d.addr(0)?;
    let items = d.vector(1)?;
    check_shape(d, ty, count, items.len())?;
    let mut sources = Vec::new();
    for item in items {
        if let Ok((_, declared)) = d.typed_reg_of(item) {
            check_register(d, item, declared, ty)?;
        }
        let source = d.src_of(item, ty)?;
        sources.push(source);
        if ty == Ty::B128 {
            sources.push(super::moves::upper_half(source));
        }
    }
    access::finish_with_policy(d, 2, policy)?;
    let element = ty.bytes().min(8) as usize;
    Ok(Box::new(Store { space, addr, order, scope, element, sources }))
}

struct StoreBulk {
    space: AddressSpace,
    addr: Addr,
    size: Src,
}

impl Execute for StoreBulk {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        for lane in ctx.lanes() {
            let origin = ctx.origin(self.size, lane);
            ctx.report_poison(origin, lane, "the size of a bulk store");
            let (size, Some(location)) = (ctx.get(self.size, lane), ctx.locate(self.space, self.addr, lane))
            else {
                continue;
            };
            let Location::Shared(_, offset) = location else {
                let message = "the address is not in shared memory".to_owned();
                ctx.finding(crate::check::Class::OutOfBounds, lane, message, None);
                continue;
            };
            if offset % 8 != 0 || size % 8 != 0 {
                let message = format!("offset {offset:#x} and size {size} must be multiples of 8 bytes");
                ctx.finding(crate::check::Class::Misaligned, lane, message, None);
                continue;
            }
            if size >= 1 << 24 {
                let message = format!("{size} bytes are more than shared memory has");
                ctx.finding(crate::check::Class::OutOfBounds, lane, message, None);
                continue;
            }
            super::hooks::thread_access(ctx, lane, location, size as u32, Kind::Write);
            let _ = ctx.write(location, lane, &vec![0; size as usize], true);
        }
        Flow::Next
    }
}

/// `st.bulk{.weak}{.shared::cta} [a], size, 0`.
fn decode_st_bulk(d: &mut Decoder<'_>) -> Result<Op> {
    d.take("bulk");
    d.take("weak");
    let space = access::take_space(d);
    if !matches!(space, AddressSpace::Generic | AddressSpace::SharedCta) {
        return d.error("writes to shared::cta only");
    }
    let (addr, size) = (d.addr(0)?, d.src(1, Ty::U64)?);
    if d.imm(2)? != 0 {
        return d.error("the initial value must be 0");
    }
    d.finish(3)?;
    Ok(Box::new(StoreBulk { space, addr, size }))
}
