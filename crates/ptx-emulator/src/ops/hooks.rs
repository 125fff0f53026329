//! Where instructions tell the checkers what they do: accesses, synchronisation, proxies (PTX ISA chapter 8,
//! memory consistency model).
//!
//! Rules for instruction families:
//!
//! * Every access of a thread to global or shared memory calls [`thread_access`], after the address has been
//!   resolved and before the data moves. Local and parameter space need not.
//! * Whatever orders threads calls [`thread_release`] on the side that signals and [`thread_acquire`] on the
//!   side that has observed it, with the same [`Object`]. An instruction that does both (a barrier) releases on
//!   arrival and acquires when it goes on.
//! * A strong access also calls [`strong_access`], when its value is read or written: release and acquire patterns are
//!   made of those, and of [`fence`].
//! * An asynchronous operation calls [`async_issue`] when the thread issues it, [`async_access`] for what it
//!   touches, and [`async_complete`] for every object through which its completion can be observed. Its
//!   accesses are its own, not the thread's.
//! * Fences call [`fence`] and [`proxy_fence`].
//!
//! Families never ask the checkers anything: the calls return nothing that changes execution.

use super::repeated;
use super::sync_state::{self, add};
use crate::check::race::{Conflict, Missing, StrongAccess, WarpAccess, Who, key};
use crate::check::{Access, Class, Finding, Place};
use crate::machine::{Cluster, Ctx, Environment, Location};

/// Scope of a synchronising operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// The lanes of a warp.
    Warp,
    /// `.cta`.
    Cta,
    /// `.cluster`.
    Cluster,
    /// `.gpu`.
    Gpu,
    /// `.sys`.
    Sys,
}

/// What threads and operations synchronise through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Object {
    /// A generation of a warp-level barrier or `.sync` instruction of a warp: (cta rank, warp, epoch).
    Warp(u32, u32, u32),
    /// A generation of a named barrier: (cta rank, number, generation).
    NamedBarrier(u32, u32, u32),
    /// A phase of the cluster barrier.
    ClusterBarrier(u64),
    /// A phase of an mbarrier: owning cta rank, offset, phase counted from its initialisation. Releases go to
    /// the current phase, acquires come from a completed one (which follows on all earlier ones).
    Mbarrier {
        /// Owning CTA rank.
        cta: u32,
        /// Offset in its shared memory.
        offset: u32,
        /// Phase.
        phase: u64,
    },
    /// Operations of a thread that it waits for by number: (cta rank, thread, which, number of the group).
    Group(u32, u32, GroupKind, u64),
}

/// Kinds of asynchronous groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GroupKind {
    /// `cp.async.wait_group` / `wait_all`.
    CpAsync,
    /// `cp.async.bulk.wait_group.read`: the sources have been read.
    BulkRead,
    /// `cp.async.bulk.wait_group`: everything is done.
    Bulk,
    /// `wgmma.wait_group` (the group belongs to the warpgroup; the thread is its first one).
    Wgmma,
    /// `tcgen05.wait::ld`.
    TensorLoad,
    /// `tcgen05.wait::st`.
    TensorStore,
}

/// A strong access: two of them do not race if each has a scope that includes the other's thread and they overlap
/// completely (PTX ISA 8.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Strong {
    /// Scope.
    pub scope: Scope,
    /// Bytes of a scalar; 0 = not known.
    pub bytes: u8,
}

/// How memory is touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Weak read.
    Read,
    /// Weak write.
    Write,
    /// Strong read: `ld.relaxed`, `.acquire`, `.volatile`.
    StrongRead(Strong),
    /// Strong write.
    StrongWrite(Strong),
    /// Atomic read-modify-write.
    Atomic(Strong),
    /// `mbarrier.init` or `.inval`: a write to the object's bytes. (Other operations on it are no accesses.)
    MbarrierInit,
}

/// The proxy an operation goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Proxy {
    /// Loads, stores, atomics, non-bulk `cp.async`.
    Generic,
    /// Bulk and tensor copies, wgmma and tcgen05 reading shared memory.
    Async,
    /// Descriptor fetches of tensor copies.
    TensorMap,
}

/// What a `fence.proxy.async` covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProxySpace {
    /// Everything.
    All,
    /// `.global`.
    Global,
    /// `.shared::cta`.
    SharedCta,
    /// `.shared::cluster`.
    SharedCluster,
}

/// A proxy fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProxyFence {
    /// `fence.proxy.async{.space}`: generic and async proxies, both ways.
    Async(ProxySpace),
    /// `fence.proxy.async::generic.acquire.sync_restrict::shared::cluster.cluster`.
    AsyncGenericAcquire,
    /// `fence.proxy.async::generic.release.sync_restrict::shared::cta.cluster`.
    AsyncGenericRelease,
    /// `fence.proxy.alias`.
    Alias,
    /// `fence.proxy.tensormap::generic.acquire.scope [address], 128`.
    TensorMapAcquire(Scope, u64),
    /// `fence.proxy.tensormap::generic.release.scope`.
    TensorMapRelease(Scope),
}

/// Semantics of a thread fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Semantics {
    /// `.acquire`.
    Acquire,
    /// `.release`.
    Release,
    /// `.acq_rel`.
    AcqRel,
    /// `.sc`, `membar`.
    Sc,
    /// `fence.mbarrier_init.release.cluster`: publishes the thread's earlier `mbarrier.init`s.
    MbarrierInit,
    /// `fence.acquire.sync_restrict::shared::cluster.cluster`.
    AcquireRestricted,
    /// `fence.release.sync_restrict::shared::cta.cluster`.
    ReleaseRestricted,
}

/// Bytes (or cells) that an asynchronous operation touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Range {
    /// Global memory.
    Global {
        /// First address.
        address: u64,
        /// Length.
        bytes: u32,
    },
    /// Shared memory.
    Shared {
        /// Owning CTA rank.
        cta: u32,
        /// First offset.
        offset: u32,
        /// Length.
        bytes: u32,
    },
    /// Tensor memory cells.
    Tensor {
        /// Owning CTA rank.
        cta: u32,
        /// First lane.
        lane: u32,
        /// Lanes.
        lanes: u32,
        /// First column.
        column: u32,
        /// Columns.
        columns: u32,
    },
}

/// An asynchronous operation, as the checkers know it. `AsyncId::NONE` belongs to no operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AsyncId(pub u64);

impl AsyncId {
    /// No operation.
    pub const NONE: AsyncId = AsyncId(0);
}

/// A lane touches memory. (`Location::Local` and `Location::Param` are ignored.)
///
/// Reports ordinary accesses to live mbarriers, and accesses to shared memory of CTAs that have exited.
#[inline]
pub fn thread_access(ctx: &mut Ctx<'_>, lane: usize, at: Location, bytes: u32, kind: Kind) {
    let (owner, offset) = match at {
        Location::Shared(owner, offset) => (owner, offset),
        Location::Global(address) => return track(ctx, lane, Range::Global { address, bytes }, kind),
        _ => return,
    };
    if kind != Kind::MbarrierInit {
        super::mbarrier::check_access(ctx, lane, owner, offset, bytes);
    }
    if owner as usize != ctx.cta
        && let Err((class, why)) = sync_state::check_alive(ctx.cluster, owner)
    {
        let place = ctx.place(lane);
        add(ctx.cluster, class, place, why);
    }
    track(ctx, lane, Range::Shared { cta: owner, offset, bytes }, kind);
}

/// Whether lanes of this warp may not access shared memory of a CTA any more.
pub(super) fn is_gone(cluster: &Cluster, owner: u32) -> bool {
    sync_state::check_alive(cluster, owner).is_err()
}

/// Whether a range of shared memory holds live mbarriers that ordinary accesses must not touch.
pub(super) fn touches_mbarrier(ctx: &Ctx<'_>, owner: u32, offset: u32, bytes: u32) -> bool {
    ctx.checks().barriers && ctx.cluster.state.sync.mbarriers.overlap(owner, offset, bytes).is_some()
}

/// Tells the race detector of a warp's access that has passed the other checks, and reports conflicts.
#[inline]
pub(super) fn track_warp(ctx: &mut Ctx<'_>, access: &WarpAccess<'_>, kind: Kind) {
    for (lane, conflict) in ctx.cluster.state.races.warp_access(access, kind) {
        let bytes = access.bytes;
        let range = match access.shared.map(|cta| cta - ctx.cluster.state.first_cta) {
            Some(cta) => Range::Shared { cta, offset: access.addresses[lane] as u32, bytes },
            None => Range::Global { address: access.addresses[lane], bytes },
        };
        if let Some(conflict) = repeated::keep(ctx, lane, range, kind, conflict) {
            report_access(ctx, lane, range, conflict);
        }
    }
}

/// Whether an access is in bounds as far as the race detector asks: it keeps pages of what exists only. (That it is
/// not is another finding.)
fn exists(env: &Environment<'_>, range: Range) -> bool {
    match range {
        Range::Global { address, bytes } => env.global.contains(address, bytes as usize),
        _ => true,
    }
}

/// Tells the race detector of a thread's access, and reports a conflict.
fn track(ctx: &mut Ctx<'_>, lane: usize, range: Range, kind: Kind) {
    if !ctx.checks().races || !exists(ctx.env, range) {
        return;
    }
    let (thread, pc) = (number(ctx, lane), ctx.pc);
    let numbered = numbered(ctx.cluster, range);
    if let Some(conflict) = ctx.cluster.state.races.thread_access(thread, pc, numbered, kind)
        && let Some(conflict) = repeated::keep(ctx, lane, range, kind, conflict)
    {
        report_access(ctx, lane, range, conflict);
    }
}

/// Reports a conflict of a thread's access.
pub(super) fn report_access(ctx: &mut Ctx<'_>, lane: usize, range: Range, conflict: Conflict) {
    let place = ctx.place(lane);
    report(ctx.cluster, ctx.env, place, "", range, conflict);
}

/// A lane's thread: number of its CTA among those of the detector, number in the CTA.
pub(super) fn number(ctx: &Ctx<'_>, lane: usize) -> (u32, u32) {
    (ctx.cluster.state.first_cta + ctx.cluster.ctas[ctx.cta].rank, ctx.thread(lane))
}

/// A range, its CTA numbered as the detector does it.
fn numbered(cluster: &Cluster, range: Range) -> Range {
    let first = cluster.state.first_cta;
    match range {
        Range::Global { .. } => range,
        Range::Shared { cta, offset, bytes } => Range::Shared { cta: first + cta, offset, bytes },
        Range::Tensor { cta, lane, lanes, column, columns } => {
            Range::Tensor { cta: first + cta, lane, lanes, column, columns }
        }
    }
}

fn report(
    cluster: &mut Cluster,
    env: &Environment<'_>,
    place: Place,
    what: &str,
    range: Range,
    conflict: Conflict,
) {
    let class = match conflict.missing {
        Missing::ProxyFence => Class::ProxyRace,
        Missing::TensorFence => Class::Tcgen05Order,
        Missing::Order | Missing::MoralStrength | Missing::KernelEnd => Class::Race,
    };
    let at = match range {
        Range::Global { address, .. } => format!("global address {address:#x}"),
        Range::Shared { cta, offset, .. } => format!("shared offset {offset:#x} of CTA rank {cta}"),
        Range::Tensor { column, .. } => format!("tensor-memory column {column}"),
    };
    let why = match conflict.missing {
        Missing::ProxyFence => {
            "the earlier access went through another proxy, and no fence.proxy.async lies between the two in causality \
             order"
        }
        Missing::TensorFence => {
            "synchronised with the earlier access, but without tcgen05.fence::before_thread_sync and ::after_thread_sync"
        }
        Missing::Order => "nothing orders it behind the earlier access",
        Missing::KernelEnd => "the kernel before it may still run: no griddepcontrol.wait comes first",
        Missing::MoralStrength => {
            "nothing orders it behind the earlier access, and the two do not have scopes that include each other's \
             thread, one size and one proxy"
        }
    };
    let (earlier, by) = match conflict.earlier {
        Who::Thread((cta, thread), pc) => {
            (env.place(pc, cluster.state.races.linear(cta), thread), String::new())
        }
        Who::Operation(name, place) => (place, format!(" by {name}")),
        Who::Kernel(name, place) => (place, format!(" in kernel {name}")),
    };
    let by_whom = if what.is_empty() { String::new() } else { format!(" by {what}") };
    let message = format!("{}{by_whom} of {at}: {why}", conflict.kind);
    let earlier = Access { place: earlier, what: format!("{}{by}", conflict.earlier_kind) };
    cluster.report.add(Finding { class, place, message, earlier: Some(earlier), count: 1 });
}

/// Scope of a release that only acquires which it includes see: that of operations on mbarriers. Barriers reach
/// whoever takes part, whatever their name says.
fn limited(object: Object, scope: Scope) -> Option<Scope> {
    matches!(object, Object::Mbarrier { .. }).then_some(scope)
}

/// A lane publishes what happened before (release) on an object.
#[inline]
pub fn thread_release(ctx: &mut Ctx<'_>, lane: usize, object: Object, scope: Scope) {
    if ctx.checks().races {
        let thread = number(ctx, lane);
        ctx.cluster.state.races.release(thread, object, limited(object, scope));
    }
}

/// A lane has observed an object (acquire).
#[inline]
pub fn thread_acquire(ctx: &mut Ctx<'_>, lane: usize, object: Object, scope: Scope) {
    if ctx.checks().races {
        let thread = number(ctx, lane);
        ctx.cluster.state.races.acquire(thread, object, scope);
    }
}

/// A relaxed operation on an object: it publishes what the lane's release fences cover.
pub fn thread_publish(ctx: &mut Ctx<'_>, lane: usize, object: Object) {
    if ctx.checks().races {
        let thread = number(ctx, lane);
        ctx.cluster.state.races.publish(thread, object);
    }
}

/// A lane has observed an object by a relaxed operation: an acquire fence completes the pattern.
pub fn thread_observe(ctx: &mut Ctx<'_>, lane: usize, object: Object) {
    if ctx.checks().races {
        let thread = number(ctx, lane);
        ctx.cluster.state.races.observe(thread, object);
    }
}

/// A strong access of a lane to `n` scalars of `bytes` bytes each (PTX ISA 8.2.4: a vector is its elements).
pub fn strong_access(
    ctx: &mut Ctx<'_>,
    lane: usize,
    at: Location,
    (n, bytes): (u32, u32),
    access: StrongAccess,
) {
    if !ctx.checks().races {
        return;
    }
    let range = match at {
        Location::Global(address) => Range::Global { address, bytes },
        Location::Shared(cta, offset) => Range::Shared { cta, offset, bytes },
        Location::Local(_) | Location::Param(_) => return,
    };
    let Some((first, _)) = key(numbered(ctx.cluster, range)) else { return };
    let thread = number(ctx, lane);
    for i in 0..u64::from(n) {
        let location = (first.wrapping_add(i * u64::from(bytes)), bytes);
        ctx.cluster.state.races.strong(thread, location, access);
    }
}

/// A thread fence.
#[inline]
pub fn fence(ctx: &mut Ctx<'_>, lane: usize, semantics: Semantics, scope: Scope) {
    if ctx.checks().races {
        let thread = number(ctx, lane);
        ctx.cluster.state.races.fence(thread, semantics, scope);
    }
}

/// A proxy fence.
#[inline]
pub fn proxy_fence(ctx: &mut Ctx<'_>, lane: usize, fence: ProxyFence) {
    let (global, shared) = match fence {
        ProxyFence::Async(ProxySpace::All) => (true, true),
        ProxyFence::Async(ProxySpace::Global) => (true, false),
        ProxyFence::Async(_) | ProxyFence::AsyncGenericAcquire | ProxyFence::AsyncGenericRelease => {
            (false, true)
        }
        _ => return,
    };
    if ctx.checks().races {
        let thread = number(ctx, lane);
        ctx.cluster.state.races.proxy_fence(thread, global, shared);
    }
}

/// `griddepcontrol.wait`.
pub fn wait_for_kernels(ctx: &mut Ctx<'_>, lane: usize) {
    if ctx.checks().races {
        let thread = number(ctx, lane);
        ctx.cluster.state.races.wait_for_kernels(thread);
    }
}

/// `tcgen05.fence::after_thread_sync`, or `::before_thread_sync`.
pub fn tensor_fence(ctx: &mut Ctx<'_>, lane: usize, after: bool) {
    if ctx.checks().races {
        let thread = number(ctx, lane);
        ctx.cluster.state.races.tensor_fence(thread, after);
    }
}

/// Columns of tensor memory are allocated.
pub fn tensor_allocated(ctx: &mut Ctx<'_>, column: u32, columns: u32) {
    if ctx.checks().races {
        let cta = ctx.cluster.state.first_cta + ctx.cluster.ctas[ctx.cta].rank;
        ctx.cluster.state.races.forget_tensor(cta, column..column + columns);
    }
}

/// A lane issues an asynchronous operation; `what` names it in findings. What happens in the operation is
/// ordered behind what the lane has done up to now, as far as `proxy` sees it.
#[inline]
pub fn async_issue(ctx: &mut Ctx<'_>, lane: usize, proxy: Proxy, what: &'static str) -> AsyncId {
    if !ctx.checks().races {
        return AsyncId::NONE;
    }
    let (thread, place, pc) = (number(ctx, lane), ctx.place(lane), ctx.pc);
    AsyncId(ctx.cluster.state.races.issue(thread, proxy, what, place, pc))
}

/// An asynchronous operation touches memory. To be called when it does (on completion), in any order.
#[inline]
pub fn async_access(env: &Environment<'_>, cluster: &mut Cluster, id: AsyncId, range: Range, kind: Kind) {
    async_touch(env, cluster, id, (range, kind), None);
}

/// [`async_access`] of a store of `bytes`, if all of them are initialised. Stores of one CTA that leave memory as it is
/// are no conflict.
pub(super) fn async_store(
    env: &Environment<'_>,
    cluster: &mut Cluster,
    id: AsyncId,
    range: Range,
    bytes: Option<&[u8]>,
) {
    async_touch(env, cluster, id, (range, Kind::Write), bytes);
}

fn async_touch(
    env: &Environment<'_>,
    cluster: &mut Cluster,
    id: AsyncId,
    (range, kind): (Range, Kind),
    bytes: Option<&[u8]>,
) {
    if id == AsyncId::NONE || !exists(env, range) {
        return;
    }
    let numbered = numbered(cluster, range);
    if let Some(conflict) = cluster.state.races.operation_access(id.0, numbered, kind) {
        let (what, place) =
            cluster.state.races.operation(id.0).map_or(("", Place::default()), |(w, p)| (w, p.clone()));
        let repeated = |bytes| repeated::is_repeated(env, cluster, place.cta, (range, bytes), &conflict);
        if !bytes.is_some_and(repeated) {
            report(cluster, env, place, what, range, conflict);
        }
    }
}

/// The completion of an operation becomes observable through an object: whoever acquires the object is ordered
/// behind the operation's accesses, without a proxy fence.
#[inline]
pub fn async_complete(cluster: &mut Cluster, id: AsyncId, object: Object) {
    if id != AsyncId::NONE {
        cluster.state.races.complete(id.0, object);
    }
}
