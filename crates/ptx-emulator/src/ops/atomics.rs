//! Atomic operations and reductions on memory (PTX ISA 9.7.13.5, 9.7.13.6): atom, red, scalar and vector.
//!
//! Lanes take part in ascending order. f32 additions flush subnormals on global memory and keep them on shared
//! memory; the half-precision ones (`.noftz`) keep them. [`super::atomic_ops`] has the operations.

use super::access::{self, Order};
use super::atomic_ops::{Operation, take_operation};
use super::hooks::{Kind, Scope, Strong};
use super::traffic::{self, Access};
use super::{Entry, root};
use crate::check::{Class, Origin, OriginKind};
use crate::decode::{Addr, Decoder, Execute, Op, Result, Src};
use crate::machine::{AddressSpace, Ctx, Flow, LANES, Location};
use crate::program::Reg;
use crate::syntax::ast::Operand;
use crate::types::Ty;

pub(super) const TABLE: &[Entry] = &[root("atom", decode), root("red", decode)];

struct Atomic {
    space: AddressSpace,
    addr: Addr,
    order: Order,
    scope: Scope,
    operation: Operation,
    ty: Ty,
    /// Elements of the vector.
    count: usize,
    /// Where the old values go: one for each element (two for b128); empty for `red`.
    dst: Vec<Option<Reg>>,
    /// Values of b, one for each element (two for b128).
    b: Vec<Src>,
    /// The new value of `cas` (two for b128).
    c: Vec<Src>,
}

impl Atomic {
    fn bytes(&self) -> usize {
        self.ty.bytes() as usize * self.count
    }

    /// The operation on one element, whose bits are in `old` (b128: both halves).
    fn new_value(&self, ctx: &Ctx<'_>, lane: usize, i: usize, old: u128, is_global: bool) -> u128 {
        let value = |sources: &[Src]| -> u128 {
            let get = |i: usize| sources.get(i).map_or(0, |&s| u128::from(ctx.get(s, lane)));
            if self.ty == Ty::B128 { get(0) | get(1) << 64 } else { get(i) }
        };
        match self.operation {
            Operation::Exchange => value(&self.b),
            Operation::CompareAndSwap => {
                if old == value(&self.b) {
                    value(&self.c)
                } else {
                    old
                }
            }
            op => u128::from(op.apply(self.ty, is_global, old as u64, value(&self.b) as u64)),
        }
    }

    fn lane(
        &self,
        ctx: &mut Ctx<'_>,
        lane: usize,
        address: u64,
        rows: &mut [[u64; LANES]],
    ) -> Option<Origin> {
        let (bytes, unit) = (self.bytes(), self.ty.bytes() as usize);
        let base = self.addr.base;
        let kind = Kind::Atomic(Strong { scope: self.scope, bytes: unit as u8 });
        let location = access::locate(ctx, self.space, base, address, lane, bytes as u32, kind)?;
        if !matches!(location, Location::Global(_) | Location::Shared(..)) {
            let message = format!("atomic operation on {location:?}");
            ctx.finding(Class::Undefined, lane, message, None);
            return None;
        }
        let (mut data, mut new) = ([0u8; 32], [0u8; 32]);
        let is_global = matches!(location, Location::Global(_));
        let initialised = ctx.read(location, lane, &mut data[..bytes])?;
        for i in 0..self.count {
            let at = i * unit;
            let mut word = [0; 16];
            word[..unit].copy_from_slice(&data[at..at + unit]);
            let value = self.new_value(ctx, lane, i, u128::from_le_bytes(word), is_global);
            new[at..at + unit].copy_from_slice(&value.to_le_bytes()[..unit]);
        }
        let old_matters = self.operation != Operation::Exchange;
        let poison = ctx.origin_of(&self.b, lane).or(ctx.origin_of(&self.c, lane));
        let clean = poison.is_clean() && (initialised || !old_matters);
        let changes = ctx.cluster.changes;
        ctx.write(location, lane, &new[..bytes], clean)?;
        if new == data {
            // A lock that is still taken: nothing that another thread could see.
            ctx.cluster.changes = changes;
        }
        if !clean && is_global {
            let read = Origin::new(OriginKind::Global, ctx.pc);
            ctx.report_poison(poison.or(read), lane, "global memory");
        }
        // A comparison that fails writes nothing. What `red` reads nobody sees (8.8).
        let writes = self.operation != Operation::CompareAndSwap || new != data;
        let effect = (!self.dst.is_empty(), writes, true);
        access::synchronise(ctx, lane, location, (self.count, unit), (self.order, self.scope), effect);
        let per_row = unit.min(8);
        for (row, chunk) in rows.iter_mut().zip(data.chunks_exact(per_row)) {
            let mut word = [0; 8];
            word[..per_row].copy_from_slice(chunk);
            row[lane] = u64::from_le_bytes(word);
        }
        let kind = if is_global { OriginKind::Global } else { OriginKind::Shared };
        Some(if initialised { Origin::CLEAN } else { Origin::new(kind, ctx.pc) })
    }
}

impl Execute for Atomic {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let addresses = access::addresses(ctx, self.addr);
        let mut rows = [[0u64; LANES]; 8];
        let mut origins = [Origin::CLEAN; LANES];
        let place = (self.space, self.addr.base);
        traffic::any(ctx, Access::Atomic, place, &addresses, self.bytes() as u32);
        // Clusters on other host threads must not come between.
        let shared = matches!(self.space, AddressSpace::SharedCta | AddressSpace::SharedCluster);
        let global = ctx.global();
        let _guard = (!shared).then(|| global.lock());
        for lane in ctx.lanes() {
            let origin = ctx.origin(self.addr.base, lane);
            if !origin.is_clean() {
                ctx.report_poison(origin, lane, "an address");
                origins[lane] = origin;
                continue;
            }
            if let Some(origin) = self.lane(ctx, lane, addresses[lane], &mut rows) {
                origins[lane] = origin;
            }
        }
        for (dst, row) in self.dst.iter().zip(&rows) {
            if let Some(dst) = *dst {
                ctx.write_origins(dst, row, &origins);
            }
        }
        // Exchanges are what locks spin on: whoever holds one gets a turn.
        match self.operation {
            Operation::Exchange | Operation::CompareAndSwap if !self.dst.is_empty() => Flow::Yield,
            _ => Flow::Next,
        }
    }
}

/// Registers of an operand; a b128 register is two.
fn halves<T>(ty: Ty, items: Vec<T>, upper: impl Fn(&T) -> T) -> Vec<T> {
    if ty != Ty::B128 {
        return items;
    }
    items
        .into_iter()
        .flat_map(|x| {
            let high = upper(&x);
            [x, high]
        })
        .collect()
}

/// `atom{.sem}{.scope}{.space}.op{.noftz}{.L2::cache_hint}{.vec}.type d, [a], b{, c}{, policy}` and `red...
/// [a], b{, policy}`.
fn decode(d: &mut Decoder<'_>) -> Result<Op> {
    let is_red = d.mnemonic() == "red";
    let (order, scope) = access::take_atomic_order(d);
    let space = access::take_space(d);
    if !matches!(
        space,
        AddressSpace::Generic | AddressSpace::Global | AddressSpace::SharedCta | AddressSpace::SharedCluster
    ) {
        return d.error("works on global and shared memory");
    }
    let policy = access::take_hints(d);
    let count = access::take_vector(d);
    let noftz = d.take("noftz");
    let operation = take_operation(d)?;
    let ty = d.ty()?;
    operation.check(d, ty, count, noftz, is_red)?;
    if count > 1 && matches!(space, AddressSpace::SharedCta | AddressSpace::SharedCluster) {
        return d.error("vectors are for global memory");
    }
    let first = usize::from(!is_red);
    let mut dst = Vec::new();
    if !is_red {
        let items = d.vector(0)?;
        for item in &items {
            dst.push(match item {
                Operand::Sink => None,
                other => Some(d.dst_of(other, ty)?),
            });
        }
        // `_` alone discards a whole vector.
        if items.len() != count && dst != [None] {
            return d.error(format!("expected {count} elements"));
        }
        dst = halves(ty, dst, |r| r.map(|r| r + 1));
    }
    let values = |d: &Decoder<'_>, i: usize| -> Result<Vec<Src>> {
        let items = d.vector(i)?;
        if items.len() != count {
            return d.error(format!("expected {count} elements"));
        }
        let sources = items.into_iter().map(|o| d.value_of(o, ty)).collect::<Result<Vec<_>>>()?;
        Ok(halves(ty, sources, |s| super::moves::upper_half(*s)))
    };
    let addr = d.addr(first)?;
    let b = values(d, first + 1)?;
    let is_cas = operation == Operation::CompareAndSwap;
    let c = if is_cas { values(d, first + 2)? } else { Vec::new() };
    access::finish_with_policy(d, first + 2 + usize::from(is_cas), policy)?;
    Ok(Box::new(Atomic { space, addr, order, scope, operation, ty, count, dst, b, c }))
}
