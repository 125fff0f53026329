//! Loads and stores (PTX ISA 9.7.9.8 - 9.7.9.12): ld, ld.global.nc, ldu, st, st.bulk.

use super::access::{self, Order};
use super::hooks::{Kind, Scope, Strong};
use super::traffic::{self, Access};
use super::warp_memory::Alike;
use super::{Entry, form, partial, root};
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

/// A load of `N` elements of `E` bytes (a `.b128` is two of 8).
struct Load<const N: usize, const E: usize> {
    space: AddressSpace,
    addr: Addr,
    order: Order,
    scope: Scope,
    ty: Ty,
    targets: [Target; N],
}

/// The unsigned integer in up to 8 bytes.
#[inline(always)]
fn word(bytes: &[u8]) -> u64 {
    // (Assembling them in an eight-byte buffer would stall on its partial writes.)
    match *bytes {
        [a] => u64::from(a),
        [a, b] => u64::from(u16::from_le_bytes([a, b])),
        [a, b, c, d] => u64::from(u32::from_le_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => 0,
    }
}

impl<const N: usize, const E: usize> Load<N, E> {
    /// Reads one lane; the location, and whether all bytes were initialised.
    #[inline]
    fn read(
        &self,
        ctx: &mut Ctx<'_>,
        lane: usize,
        address: u64,
        buffer: &mut [u8; MAX_BYTES],
    ) -> Option<(Location, bool)> {
        let strong = Strong { scope: self.scope, bytes: E as u8 };
        let kind = if self.order.is_strong() { Kind::StrongRead(strong) } else { Kind::Read };
        let bytes = N * E;
        let location = access::locate(ctx, self.space, self.addr.base, address, lane, bytes as u32, kind)?;
        let init = ctx.read(location, lane, &mut buffer[..bytes])?;
        access::synchronise(ctx, lane, location, (N, E), (self.order, self.scope), (true, false, false));
        Some((location, init))
    }

    /// Reads all lanes at once; those whose bytes are not all initialised.
    #[inline(always)]
    fn read_alike(&self, ctx: &Ctx<'_>, alike: &Alike<'_>, rows: &mut [[u64; LANES]; N]) -> u32 {
        /// Moves the elements to the rows.
        #[inline(always)]
        fn split<const N: usize, const E: usize>(rows: &mut [[u64; LANES]; N], lane: usize, bytes: &[u8]) {
            for (row, bytes) in rows.iter_mut().zip(bytes.chunks_exact(E)) {
                row[lane] = word(bytes);
            }
        }
        let mask = ctx.mask;
        // (`N * E` is not possible as the argument.)
        match N * E {
            1 => alike.read::<1>(ctx, mask, |lane, b| split::<N, E>(rows, lane, b)),
            2 => alike.read::<2>(ctx, mask, |lane, b| split::<N, E>(rows, lane, b)),
            4 => alike.read::<4>(ctx, mask, |lane, b| split::<N, E>(rows, lane, b)),
            8 => alike.read::<8>(ctx, mask, |lane, b| split::<N, E>(rows, lane, b)),
            16 => alike.read::<16>(ctx, mask, |lane, b| split::<N, E>(rows, lane, b)),
            _ => alike.read::<32>(ctx, mask, |lane, b| split::<N, E>(rows, lane, b)),
        }
    }

    /// Origins of the elements of a lane whose bytes are not all initialised.
    #[cold]
    fn element_origins(&self, ctx: &mut Ctx<'_>, lane: usize, location: Location) -> [Origin; N] {
        let origin = Origin::new(origin_kind(location), ctx.pc);
        let mut scratch = [0; 8];
        std::array::from_fn(|i| {
            let at = location.offset_by((i * E) as u64);
            match ctx.read(at, lane, &mut scratch[..E]) {
                Some(true) | None => Origin::CLEAN,
                Some(false) => origin,
            }
        })
    }
}

impl<const N: usize, const E: usize> Execute for Load<N, E> {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let addresses = access::addresses(ctx, self.addr);
        let poisoned = ctx.dirty_lanes(&[self.addr.base]);
        let mut rows = [[0u64; LANES]; N];
        let mut origins: Vec<(usize, [Origin; N])> = Vec::new();
        let mut buffer = [0; MAX_BYTES];
        let alike = if poisoned == 0 && !self.order.is_strong() {
            Alike::new(ctx, self.space, self.addr.base, &addresses, (N * E) as u32, Kind::Read)
        } else {
            None
        };
        if let Some(alike) = &alike {
            let unwritten = self.read_alike(ctx, alike, &mut rows);
            for lane in (0..LANES).filter(|l| unwritten >> l & 1 == 1) {
                origins.push((lane, self.element_origins(ctx, lane, alike.location(lane))));
            }
        }
        let one_by_one = if alike.is_some() { 0 } else { ctx.mask };
        if alike.is_none() {
            let place = (self.space, self.addr.base);
            traffic::any(ctx, Access::Load, place, &addresses, (N * E) as u32);
        }
        for lane in (0..LANES).filter(|l| one_by_one >> l & 1 == 1) {
            if poisoned >> lane & 1 == 1 {
                let origin = ctx.origin(self.addr.base, lane);
                ctx.report_poison(origin, lane, "an address");
                origins.push((lane, [origin; N]));
                continue;
            }
            let read = self.read(ctx, lane, addresses[lane], &mut buffer);
            let Some((location, init)) = read else { continue };
            for (row, bytes) in rows.iter_mut().zip(buffer.chunks_exact(E)) {
                row[lane] = word(bytes);
            }
            if !init {
                origins.push((lane, self.element_origins(ctx, lane, location)));
            }
        }
        for (i, (target, row)) in self.targets.iter().zip(&mut rows).enumerate() {
            let Some(reg) = target.reg else { continue };
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

/// Checks type, vector and order of a load or store in a state space.
fn check_shape(
    d: &Decoder<'_>,
    (space, order): (AddressSpace, Order),
    ty: Ty,
    count: usize,
    operands: usize,
) -> Result<()> {
    let bytes = matches!(ty, Ty::B8 | Ty::U8 | Ty::S8 | Ty::B128 | Ty::F32 | Ty::F64);
    if !bytes && !super::compare::is_plain(ty) {
        return d.error(format!("has no type {ty:?}"));
    }
    use AddressSpace::{Generic, Global, SharedCluster, SharedCta};
    if order.is_strong() && !matches!(space, Generic | Global | SharedCta | SharedCluster) {
        return d.error("a memory order needs global or shared memory");
    }
    if ty.bits() as usize * count == 256 && !matches!(space, Generic | Global) {
        return d.error("256-bit accesses are for global memory");
    }
    if count != operands {
        return d.error(format!("expected {count} elements, got {operands}"));
    }
    if ty.bits() as usize * count > 8 * MAX_BYTES {
        return d.error(format!("{count} elements of {ty:?} are not an access"));
    }
    if ty == Ty::B128 && count != 1 {
        return d.error(format!("has no vectors of {count} {ty:?}"));
    }
    Ok(())
}

/// Calls `$f::<N, E>($parts, elements)` for the number and size of the elements.
macro_rules! by_shape {
    ($d:expr, $elements:expr, $ty:expr, $f:ident, $parts:expr) => {
        match ($elements.len(), $ty.bytes().min(8)) {
            (1, 1) => $f::<1, 1>($d, $parts, $elements),
            (2, 1) => $f::<2, 1>($d, $parts, $elements),
            (4, 1) => $f::<4, 1>($d, $parts, $elements),
            (8, 1) => $f::<8, 1>($d, $parts, $elements),
            (1, 2) => $f::<1, 2>($d, $parts, $elements),
            (2, 2) => $f::<2, 2>($d, $parts, $elements),
            (4, 2) => $f::<4, 2>($d, $parts, $elements),
            (8, 2) => $f::<8, 2>($d, $parts, $elements),
            (1, 4) => $f::<1, 4>($d, $parts, $elements),
            (2, 4) => $f::<2, 4>($d, $parts, $elements),
            (4, 4) => $f::<4, 4>($d, $parts, $elements),
            (8, 4) => $f::<8, 4>($d, $parts, $elements),
            (1, 8) => $f::<1, 8>($d, $parts, $elements),
            (2, 8) => $f::<2, 8>($d, $parts, $elements),
            (4, 8) => $f::<4, 8>($d, $parts, $elements),
            (n, _) => $d.error(format!("has no vectors of {n} elements")),
        }
    };
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
    check_shape(d, (space, order), ty, count, items.len())?;
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
    let parts = (space, addr, order, scope, ty);
    by_shape!(d, targets, ty, load, parts)
}

/// What loads and stores have besides their elements.
type Parts = (AddressSpace, Addr, Order, Scope, Ty);

/// The elements as an array.
fn elements<T, const N: usize>(d: &Decoder<'_>, items: Vec<T>) -> Result<[T; N]> {
    items.try_into().or_else(|_| d.error("has another number of elements"))
}

fn load<const N: usize, const E: usize>(d: &Decoder<'_>, parts: Parts, targets: Vec<Target>) -> Result<Op> {
    let (space, addr, order, scope, ty) = parts;
    Ok(Box::new(Load::<N, E> { space, addr, order, scope, ty, targets: elements(d, targets)? }))
}

fn store<const N: usize, const E: usize>(d: &Decoder<'_>, parts: Parts, sources: Vec<Src>) -> Result<Op> {
    let (space, addr, order, scope, _) = parts;
    Ok(Box::new(Store::<N, E> { space, addr, order, scope, sources: elements(d, sources)? }))
}

/// A store of `N` elements of `E` bytes (a `.b128` is two of 8).
struct Store<const N: usize, const E: usize> {
    space: AddressSpace,
    addr: Addr,
    order: Order,
    scope: Scope,
    sources: [Src; N],
}

impl<const N: usize, const E: usize> Store<N, E> {
    /// Writes the elements of a lane, some of which are poisoned.
    #[cold]
    fn write_poisoned(&self, ctx: &mut Ctx<'_>, lane: usize, location: Location, bytes: &[u8]) {
        // Of elements of up to four bytes some may be poisoned and not stored.
        let poisoned = |ctx: &Ctx<'_>, source: Src| match ctx.partial_origin(source, lane) {
            origin if E <= 4 => origin.of_nibbles(origin.poisoned() & partial::low(E as u32)),
            origin => origin,
        };
        let origin = self.sources.iter().fold(Origin::CLEAN, |o, &s| o.or(poisoned(ctx, s)));
        if let Location::Global(_) = location {
            ctx.report_poison(origin, lane, "global memory");
        } else if let Some((OriginKind::InFlight, _)) = origin.parts() {
            // Memory remembers that a byte is poisoned, not why.
            ctx.report_poison(origin, lane, "memory");
        }
        for (i, (source, part)) in self.sources.iter().zip(bytes.chunks_exact(E)).enumerate() {
            let (at, origin) = (location.offset_by((i * E) as u64), poisoned(ctx, *source));
            if E > 4
                || origin.is_clean()
                || origin.poisoned() & partial::low(E as u32) == partial::low(E as u32)
            {
                if ctx.write(at, lane, part, origin.is_clean()).is_none() {
                    return;
                }
                continue;
            }
            for (b, byte) in part.iter().enumerate() {
                let init = origin.poisoned() >> (2 * b) & 3 == 0;
                if ctx.write(at.offset_by(b as u64), lane, std::slice::from_ref(byte), init).is_none() {
                    return;
                }
            }
        }
    }
}

/// Writes the elements of all lanes at once.
#[inline(always)]
fn write_alike<const N: usize, const E: usize>(
    ctx: &mut Ctx<'_>,
    alike: &Alike<'_>,
    rows: &[[u64; LANES]; N],
) {
    /// A lane's elements.
    #[inline(always)]
    fn joined<const N: usize, const E: usize, const B: usize>(
        rows: &[[u64; LANES]; N],
        lane: usize,
    ) -> [u8; B] {
        let mut bytes = [0; B];
        for (chunk, row) in bytes.chunks_exact_mut(E).zip(rows) {
            chunk.copy_from_slice(&row[lane].to_le_bytes()[..E]);
        }
        bytes
    }
    let mask = ctx.mask;
    match N * E {
        1 => alike.write::<1>(ctx, mask, |lane| joined::<N, E, 1>(rows, lane)),
        2 => alike.write::<2>(ctx, mask, |lane| joined::<N, E, 2>(rows, lane)),
        4 => alike.write::<4>(ctx, mask, |lane| joined::<N, E, 4>(rows, lane)),
        8 => alike.write::<8>(ctx, mask, |lane| joined::<N, E, 8>(rows, lane)),
        16 => alike.write::<16>(ctx, mask, |lane| joined::<N, E, 16>(rows, lane)),
        _ => alike.write::<32>(ctx, mask, |lane| joined::<N, E, 32>(rows, lane)),
    }
}

impl<const N: usize, const E: usize> Execute for Store<N, E> {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let addresses = access::addresses(ctx, self.addr);
        let poisoned = ctx.dirty_lanes(&[self.addr.base]);
        let dirty = ctx.dirty_lanes(&self.sources);
        let rows = ctx.rows(&self.sources);
        let bytes = N * E;
        let strong = Strong { scope: self.scope, bytes: E as u8 };
        let kind = if self.order.is_strong() { Kind::StrongWrite(strong) } else { Kind::Write };
        let mut buffer = [0u8; MAX_BYTES];
        let base = self.addr.base;
        if poisoned | dirty == 0 && !self.order.is_strong() {
            let alike = Alike::new(ctx, self.space, base, &addresses, bytes as u32, kind);
            if let Some(alike) = alike {
                write_alike::<N, E>(ctx, &alike, &rows);
                return Flow::Next;
            }
        }
        traffic::any(ctx, Access::Store, (self.space, base), &addresses, bytes as u32);
        for lane in ctx.lanes() {
            if poisoned >> lane & 1 == 1 {
                let origin = ctx.origin(base, lane);
                ctx.report_poison(origin, lane, "an address");
                continue;
            }
            let location = access::locate(ctx, self.space, base, addresses[lane], lane, bytes as u32, kind);
            let Some(location) = location else { continue };
            access::synchronise(ctx, lane, location, (N, E), (self.order, self.scope), (false, true, false));
            for (chunk, row) in buffer.chunks_exact_mut(E).zip(&rows) {
                chunk.copy_from_slice(&row[lane].to_le_bytes()[..E]);
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
    // Only parameters of calls can be written, and they live in local memory.
    let of_call = space == AddressSpace::Param && matches!(d.addr(0)?.base, Src::Local(_));
    if matches!(space, AddressSpace::Const | AddressSpace::Param) && !of_call {
        return d.error("this memory is read-only");
    }
    let policy = access::take_hints(d);
    let count = access::take_vector(d);
    let ty = d.ty()?;
    let addr = d.addr(0)?;
    let items = d.vector(1)?;
    check_shape(d, (space, order), ty, count, items.len())?;
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
    let parts = (space, addr, order, scope, ty);
    by_shape!(d, sources, ty, store, parts)
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
