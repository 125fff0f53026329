//! What loads, stores and atomics share: state spaces, ordering, scopes, cache modifiers, alignment
//! (PTX ISA 9.7.9.1, 9.7.9.2 and chapter 8).

use super::hooks::{self, Kind, Scope};
use crate::check::Class;
use crate::check::race::StrongAccess;
use crate::decode::{Addr, Decoder, Result, Src};
use crate::machine::{AddressSpace, Ctx, LANES, Location};
use crate::types::Ty;

/// State spaces as written.
const SPACES: &[(&str, AddressSpace)] = &[
    ("global", AddressSpace::Global),
    ("shared", AddressSpace::SharedCta),
    ("shared::cta", AddressSpace::SharedCta),
    ("shared::cluster", AddressSpace::SharedCluster),
    ("local", AddressSpace::Local),
    ("param", AddressSpace::Param),
    ("param::entry", AddressSpace::Param),
    ("param::func", AddressSpace::Param),
    ("const", AddressSpace::Const),
];

/// Takes the state space; generic if there is none.
pub(super) fn take_space(d: &mut Decoder<'_>) -> AddressSpace {
    d.take_one(SPACES).unwrap_or(AddressSpace::Generic)
}

/// Memory ordering of an access.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Order {
    /// Weak.
    #[default]
    Weak,
    /// Relaxed or volatile.
    Relaxed,
    /// Acquire.
    Acquire,
    /// Release.
    Release,
    /// Both.
    AcqRel,
}

const ORDERS: &[(&str, Order)] = &[
    ("weak", Order::Weak),
    ("relaxed", Order::Relaxed),
    ("acquire", Order::Acquire),
    ("release", Order::Release),
    ("acq_rel", Order::AcqRel),
];

const SCOPES: &[(&str, Scope)] =
    &[("cta", Scope::Cta), ("cluster", Scope::Cluster), ("gpu", Scope::Gpu), ("sys", Scope::Sys)];

impl Order {
    /// Whether the access takes part in synchronisation.
    pub(super) fn is_strong(self) -> bool {
        self != Order::Weak
    }

    pub(super) fn acquires(self) -> bool {
        matches!(self, Order::Acquire | Order::AcqRel)
    }

    pub(super) fn releases(self) -> bool {
        matches!(self, Order::Release | Order::AcqRel)
    }
}

/// Takes `.weak`, `.volatile`, `.mmio`, or an order with its scope. `.volatile` is relaxed at system scope.
pub(super) fn take_order(d: &mut Decoder<'_>) -> Result<(Order, Scope)> {
    if d.take("volatile") {
        return Ok((Order::Relaxed, Scope::Sys));
    }
    let mmio = d.take("mmio");
    let order = d.take_one(ORDERS);
    let scope = d.take_one(SCOPES);
    match (order, scope) {
        (None | Some(Order::Weak), None) if !mmio => Ok((Order::Weak, Scope::Sys)),
        (Some(order), Some(scope)) if order.is_strong() => Ok((order, scope)),
        _ => d.error("needs a memory order with its scope, or neither"),
    }
}

/// Takes the order of an atomic: relaxed at GPU scope unless written.
pub(super) fn take_atomic_order(d: &mut Decoder<'_>) -> (Order, Scope) {
    let order = d.take_one(&ORDERS[1..]).unwrap_or(Order::Relaxed);
    (order, d.take_one(SCOPES).unwrap_or(Scope::Gpu))
}

/// Cache modifiers that change no result.
const HINTS: &[&str] = &[
    "ca",
    "cg",
    "cs",
    "lu",
    "cv",
    "wb",
    "wt",
    "L1::evict_normal",
    "L1::evict_unchanged",
    "L1::evict_first",
    "L1::evict_last",
    "L1::no_allocate",
    "L2::evict_normal",
    "L2::evict_first",
    "L2::evict_last",
    "L2::64B",
    "L2::128B",
    "L2::256B",
];

/// Takes the cache modifiers; `true` if a cache policy operand follows (`.L2::cache_hint`).
pub(super) fn take_hints(d: &mut Decoder<'_>) -> bool {
    for hint in HINTS {
        d.take(hint);
    }
    d.take("L2::cache_hint")
}

/// Checks the number of operands; a cache policy is one more, of 64 bits.
pub(super) fn finish_with_policy(d: &Decoder<'_>, operands: usize, policy: bool) -> Result<()> {
    if policy {
        d.value(operands, Ty::B64)?;
    }
    d.finish(operands + usize::from(policy))
}

/// Takes `.v2`, `.v4` or `.v8`; 1 if there is none.
pub(super) fn take_vector(d: &mut Decoder<'_>) -> usize {
    d.take_one(&[("v2", 2), ("v4", 4), ("v8", 8)]).unwrap_or(1)
}

/// The addresses of a memory operand in all lanes.
pub(super) fn addresses(ctx: &Ctx<'_>, addr: Addr) -> [u64; LANES] {
    let mut row = ctx.row(addr.base);
    for address in &mut row {
        *address = address.wrapping_add_signed(addr.offset);
    }
    row
}

/// An access in a lane, checked for alignment and told to the checkers. `None` if it cannot be made.
#[inline(always)]
pub(super) fn locate(
    ctx: &mut Ctx<'_>,
    space: AddressSpace,
    base: Src,
    address: u64,
    lane: usize,
    bytes: u32,
    kind: Kind,
) -> Option<Location> {
    let location = ctx.resolve(space, base, address, lane)?;
    if address & u64::from(bytes - 1) != 0 {
        misaligned(ctx, lane, address, bytes);
        return None;
    }
    hooks::thread_access(ctx, lane, location, bytes, kind);
    Some(location)
}

#[cold]
#[inline(never)]
fn misaligned(ctx: &mut Ctx<'_>, lane: usize, address: u64, bytes: u32) {
    let message = format!("address {address:#x} is not a multiple of {bytes} bytes");
    ctx.finding(Class::Misaligned, lane, message, None);
}

/// Tells the checkers of a strong access to `n` scalars of `bytes` bytes each, made in this order with others.
#[inline(always)]
pub(super) fn synchronise(
    ctx: &mut Ctx<'_>,
    lane: usize,
    location: Location,
    elements: (usize, usize),
    (order, scope): (Order, Scope),
    (reads, writes, updates): (bool, bool, bool),
) {
    if order.is_strong() {
        let (acquires, releases) = (order.acquires(), order.releases());
        let access = StrongAccess { reads, writes, updates, acquires, releases, scope };
        hooks::strong_access(ctx, lane, location, (elements.0 as u32, elements.1 as u32), access);
    }
}
