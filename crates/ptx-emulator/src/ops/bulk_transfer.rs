//! What all bulk and tensor copies share: where a load goes and whom it signals, the shared-memory side of a
//! box, the two steps of a store.
//!
//! A load reads, writes and signals at one time that the schedule chooses; its destination is poisoned until
//! then. A store reads its source at one time and writes its destination at another, later one.

use super::bulk_reduce::{self, RedOp};
use super::groups::{self, GroupId};
use super::hooks::{self, AsyncId, Kind, Range, Scope, Strong};
use super::mbarrier::complete_tx;
use super::sync_state::{add, check_alive};
use super::tensor_map::Swizzle;
use crate::check::{Access, Class, Place};
use crate::counters::Counter;
use crate::machine::{AsyncCtx, AsyncOp, Cluster, Ctx, Environment, MemoryError, QueueKey};
use crate::types::Ty;

/// Every element of a reduction is relaxed at GPU scope.
const RELAXED: Strong = Strong { scope: Scope::Gpu, bytes: 0 };

/// Rows of bytes in shared memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// Rows.
    pub rows: usize,
    /// Bytes of a row.
    pub row: usize,
    /// From row to row.
    pub pitch: usize,
    /// Swizzle of the absolute address.
    pub swizzle: Swizzle,
}

impl Layout {
    /// One row, as it is.
    pub(super) fn flat(bytes: usize) -> Self {
        Self { rows: 1, row: bytes, pitch: bytes, swizzle: Swizzle::None }
    }

    /// From the first to the last byte.
    pub(super) fn footprint(&self) -> usize {
        // With a swizzle a row's bytes lie anywhere in its pitch.
        let last = if self.swizzle == Swizzle::None { self.row } else { self.pitch };
        self.rows.saturating_sub(1) * self.pitch + last
    }

    /// Calls `f` with image position, position relative to the box's shared address `base`, and length, for
    /// pieces that stay together.
    fn pieces(&self, base: u32, mut f: impl FnMut(usize, usize, usize)) {
        for row in 0..self.rows {
            if self.swizzle == Swizzle::None {
                f(row * self.row, row * self.pitch, self.row);
                continue;
            }
            let unit = self.swizzle.unit();
            for at in (0..self.row).step_by(unit) {
                let address = base.wrapping_add((row * self.pitch + at) as u32);
                let to = self.swizzle.apply(address).wrapping_sub(base) as usize;
                f(row * self.row + at, to, unit.min(self.row - at));
            }
        }
    }
}

/// Bytes with their initialisation.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    /// Bytes.
    pub bytes: Vec<u8>,
    /// Whether they are initialised.
    pub init: Vec<bool>,
}

impl Image {
    /// `n` uninitialised bytes.
    pub(super) fn new(n: usize) -> Self {
        Self { bytes: vec![0; n], init: vec![false; n] }
    }
}

/// Class of a global memory error.
pub(super) fn class_of(e: MemoryError) -> Class {
    match e {
        MemoryError::Freed(_) => Class::UseAfterFree,
        _ => Class::OutOfBounds,
    }
}

/// Where a load or a copy to shared memory goes.
#[derive(Clone, Debug)]
pub(super) struct Destination {
    /// Offset in shared memory.
    pub offset: u32,
    /// Offset of the mbarriers.
    pub barrier: u32,
    /// CTA ranks: of the data, and of the mbarrier to signal.
    pub targets: Vec<(u32, u32)>,
}

impl Destination {
    /// From the operands of a lane. `pair`: `.cta_group::2`. `None` after a finding.
    pub(super) fn new(
        ctx: &mut Ctx<'_>,
        lane: usize,
        data: (u32, u32),
        barrier: (u32, u32),
        multicast: Option<u32>,
        pair: bool,
    ) -> Option<Self> {
        let ctas = ctx.cluster.ctas.len() as u32;
        let targets = match multicast {
            None => {
                let right = if pair { data.0 >> 1 == barrier.0 >> 1 } else { data.0 == barrier.0 };
                if !right {
                    let message = format!(
                        "the data go to CTA rank {}, the mbarrier is in rank {}{}",
                        data.0,
                        barrier.0,
                        if pair { ", not of the same pair" } else { "" }
                    );
                    ctx.finding(Class::Mbarrier, lane, message, None);
                }
                vec![(data.0, barrier.0)]
            }
            Some(mask) => {
                if mask == 0 || mask >> ctas.min(31) != 0 {
                    let message = format!("multicast mask {mask:#x} for a cluster of {ctas} CTAs");
                    ctx.finding(Class::OutOfBounds, lane, message, None);
                }
                let of = |cta: u32| if pair { (cta, cta & !1 | barrier.0 & 1) } else { (cta, cta) };
                (0..ctas).filter(|c| mask >> c & 1 == 1).map(of).collect()
            }
        };
        Some(Self { offset: data.1, barrier: barrier.1, targets })
    }

    /// How many CTAs it goes to.
    pub(super) fn targets(&self) -> usize {
        self.targets.len()
    }

    /// Poisons the destination at issue; what overlaps an mbarrier is a finding.
    pub(super) fn poison(&self, ctx: &mut Ctx<'_>, lane: usize, layout: &Layout) -> bool {
        let bytes = layout.footprint();
        let mut good = true;
        for &(cta, _) in &self.targets {
            if let Err((class, why)) = check_alive(ctx.cluster, cta) {
                ctx.finding(class, lane, format!("destination: {why}"), None);
                return false;
            }
            check_barriers(ctx.cluster, &ctx.place(lane), cta, self.offset, bytes);
            let shared = &mut ctx.cluster.ctas[cta as usize].shared;
            let size = shared.len();
            match shared.range_mut(self.offset, bytes) {
                Some((_, init)) => layout.pieces(self.offset, |_, to, n| init[to..to + n].fill(false)),
                None => {
                    let message = format!(
                        "destination: {bytes} bytes at shared offset {:#x} of {size:#x} bytes in CTA rank {cta}",
                        self.offset
                    );
                    ctx.finding(Class::OutOfBounds, lane, message, None);
                    good = false;
                }
            }
        }
        good
    }

    /// Writes the image and signals.
    pub(super) fn deliver(
        &self,
        ctx: &mut AsyncCtx<'_>,
        place: &Place,
        id: AsyncId,
        (layout, kind): (&Layout, Kind),
        image: &Image,
        transaction: u32,
    ) {
        let bytes = layout.footprint();
        for &(cta, barrier) in &self.targets {
            match check_alive(ctx.cluster, cta) {
                Ok(()) => {
                    let range = Range::Shared { cta, offset: self.offset, bytes: bytes as u32 };
                    hooks::async_access(ctx.env, ctx.cluster, id, range, kind);
                    let shared = &mut ctx.cluster.ctas[cta as usize].shared;
                    if let Some((to, init)) = shared.range_mut(self.offset, bytes) {
                        layout.pieces(self.offset, |from, at, n| {
                            to[at..at + n].copy_from_slice(&image.bytes[from..from + n]);
                            init[at..at + n].copy_from_slice(&image.init[from..from + n]);
                        });
                    }
                }
                Err((class, why)) => add(ctx.cluster, class, place.clone(), format!("the copy writes {why}")),
            }
            complete_tx(ctx, place, id, (barrier, self.barrier), transaction);
        }
    }
}

/// Reports an asynchronous write over a live mbarrier.
fn check_barriers(cluster: &mut Cluster, place: &Place, cta: u32, offset: u32, bytes: usize) {
    let Some((at, init)) = cluster.state.sync.mbarriers.overlap(cta, offset, bytes as u32) else { return };
    let earlier = Access { place: init.clone(), what: "mbarrier.init".to_owned() };
    let message = format!(
        "the destination ({bytes} bytes at shared offset {offset:#x}) covers the live mbarrier at {at:#x} of CTA \
         rank {cta}"
    );
    let finding = crate::check::Finding {
        class: Class::Mbarrier,
        place: place.clone(),
        message,
        earlier: Some(earlier),
        count: 1,
    };
    cluster.report.add(finding);
}

/// Reads a source in shared memory.
pub(super) fn gather(
    env: &Environment<'_>,
    cluster: &mut Cluster,
    place: &Place,
    id: AsyncId,
    cta: u32,
    offset: u32,
    layout: &Layout,
) -> Option<Image> {
    if let Err((class, why)) = check_alive(cluster, cta) {
        add(cluster, class, place.clone(), format!("the copy reads {why}"));
    }
    let bytes = layout.footprint();
    let range = Range::Shared { cta, offset, bytes: bytes as u32 };
    hooks::async_access(env, cluster, id, range, Kind::Read);
    let shared = &cluster.ctas[cta as usize].shared;
    let Some((from, init)) = shared.range(offset, bytes) else {
        let message =
            format!("source: {bytes} bytes at shared offset {offset:#x} of {:#x} bytes", shared.len());
        add(cluster, Class::OutOfBounds, place.clone(), message);
        return None;
    };
    let mut image = Image::new(layout.rows * layout.row);
    layout.pieces(offset, |to, at, n| {
        image.bytes[to..to + n].copy_from_slice(&from[at..at + n]);
        image.init[to..to + n].copy_from_slice(&init[at..at + n]);
    });
    Some(image)
}

/// A piece of global memory that a store writes: address, position in the image, length.
pub(super) type Span = (u64, usize, usize);

/// What a store does with the bytes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Effect {
    /// Writes them.
    Store,
    /// Writes those whose bit in 16 is set.
    Masked(u32),
    /// Reduces them into memory.
    Reduce(RedOp, Ty),
}

/// First step of a store: reads the source.
pub(super) struct Store {
    /// Where it was issued.
    pub place: Place,
    /// For the checkers.
    pub id: AsyncId,
    /// Bulk group.
    pub group: GroupId,
    /// Source offset in the issuing CTA.
    pub offset: u32,
    /// Source layout.
    pub layout: Layout,
    /// Destination.
    pub spans: Vec<Span>,
    /// What is done.
    pub effect: Effect,
    /// Counts the bytes.
    pub path: Counter,
}

impl AsyncOp for Store {
    fn complete(self: Box<Self>, ctx: &mut AsyncCtx<'_>) {
        let this = *self;
        let image =
            gather(ctx.env, ctx.cluster, &this.place, this.id, this.group.cta, this.offset, &this.layout);
        hooks::async_complete(ctx.cluster, this.id, groups::object(this.group, true));
        groups::read_done(ctx.cluster, this.group);
        let Some(image) = image else {
            groups::done(ctx.cluster, this.group);
            return;
        };
        let key = QueueKey::Copy(ctx.cluster.engine.next_id());
        ctx.cluster.engine.issue(key, Box::new(Write { store: this, image }));
    }

    fn describe(&self) -> String {
        format!("store of line {} (reading)", self.place.line)
    }
}

/// Second step: writes the destination.
struct Write {
    store: Store,
    image: Image,
}

impl AsyncOp for Write {
    fn complete(self: Box<Self>, ctx: &mut AsyncCtx<'_>) {
        let Self { store, image } = *self;
        let mut poison = None;
        let mut total = 0;
        for &(address, at, n) in &store.spans {
            let (bytes, init) = (&image.bytes[at..at + n], &image.init[at..at + n]);
            let range = Range::Global { address, bytes: n as u32 };
            match store.effect {
                Effect::Reduce(..) => {
                    hooks::async_access(ctx.env, ctx.cluster, store.id, range, Kind::Atomic(RELAXED));
                }
                Effect::Masked(_) => hooks::async_store(ctx.env, ctx.cluster, store.id, range, None),
                Effect::Store => {
                    let whole = init.iter().all(|&i| i).then_some(bytes);
                    hooks::async_store(ctx.env, ctx.cluster, store.id, range, whole);
                }
            }
            let result = match store.effect {
                Effect::Store => {
                    poison = poison
                        .or(init.iter().position(|i| !i).map(|i| (address.wrapping_add(i as u64), "shared")));
                    ctx.env.global.write_flags(address, bytes, init)
                }
                Effect::Masked(mask) => write_masked(ctx, address, bytes, init, mask, &mut poison),
                Effect::Reduce(op, ty) => reduce(ctx, address, bytes, init, op, ty, &mut poison),
            };
            total += n as u64;
            if let Err(e) = result {
                add(ctx.cluster, class_of(e), store.place.clone(), format!("destination: {e}"));
                break;
            }
        }
        if let Some((address, space)) = poison
            && ctx.env.checks.uninitialised
        {
            let message = format!("uninitialised {space} memory reached global memory at {address:#x}");
            add(ctx.cluster, Class::Uninitialised, store.place.clone(), message);
        }
        ctx.cluster.counters.add(store.path, total);
        hooks::async_complete(ctx.cluster, store.id, groups::object(store.group, false));
        groups::done(ctx.cluster, store.group);
    }

    fn describe(&self) -> String {
        format!("store of line {} (writing)", self.store.place.line)
    }
}

/// The first poisoned byte: its address, and where the poison comes from.
type Poison = Option<(u64, &'static str)>;

fn write_masked(
    ctx: &AsyncCtx<'_>,
    address: u64,
    bytes: &[u8],
    init: &[bool],
    mask: u32,
    poison: &mut Poison,
) -> Result<(), MemoryError> {
    for i in (0..bytes.len()).filter(|i| mask >> (i % 16) & 1 == 1) {
        let at = address.wrapping_add(i as u64);
        if !init[i] {
            poison.get_or_insert((at, "shared"));
        }
        ctx.env.global.write_flags(at, &bytes[i..=i], &init[i..=i])?;
    }
    Ok(())
}

fn reduce(
    ctx: &AsyncCtx<'_>,
    address: u64,
    bytes: &[u8],
    init: &[bool],
    op: RedOp,
    ty: Ty,
    poison: &mut Poison,
) -> Result<(), MemoryError> {
    let global = ctx.env.global;
    let _whole = global.strong.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let (mut old, mut flags) = (vec![0; bytes.len()], vec![false; bytes.len()]);
    global.read_flags(address, &mut old, &mut flags)?;
    for (i, (flag, new)) in flags.iter_mut().zip(init).enumerate() {
        if !*flag || !new {
            poison.get_or_insert((address.wrapping_add(i as u64), if *new { "global" } else { "shared" }));
        }
        *flag &= new;
    }
    bulk_reduce::apply(op, ty, &mut old, bytes);
    global.write_flags(address, &old, &flags)
}

/// A copy or reduction from shared memory to shared memory of another CTA.
pub(super) struct Peer {
    /// Where it was issued.
    pub place: Place,
    /// For the checkers.
    pub id: AsyncId,
    /// Source: CTA rank and offset.
    pub source: (u32, u32),
    /// Destination.
    pub to: Destination,
    /// Length.
    pub bytes: u32,
    /// Reduction, if it is one.
    pub reduce: Option<(RedOp, Ty)>,
}

impl AsyncOp for Peer {
    fn complete(self: Box<Self>, ctx: &mut AsyncCtx<'_>) {
        let layout = Layout::flat(self.bytes as usize);
        let (cta, offset) = self.source;
        let Some(mut image) = gather(ctx.env, ctx.cluster, &self.place, self.id, cta, offset, &layout) else {
            return;
        };
        if let (Some((op, ty)), Some(&(target, _))) = (self.reduce, self.to.targets.first()) {
            let owner = ctx.cluster.ctas.get(target as usize);
            if let Some((old, init)) = owner.and_then(|o| o.shared.range(self.to.offset, self.bytes as usize))
            {
                let mut sum = old.to_vec();
                bulk_reduce::apply(op, ty, &mut sum, &image.bytes);
                image.bytes = sum;
                image.init.iter_mut().zip(init).for_each(|(a, b)| *a &= b);
            }
        }
        ctx.cluster.counters.add(Counter::ClusterCopyBytes, u64::from(self.bytes));
        let kind = if self.reduce.is_some() { Kind::Atomic(RELAXED) } else { Kind::Write };
        self.to.deliver(ctx, &self.place, self.id, (&layout, kind), &image, self.bytes);
    }

    fn describe(&self) -> String {
        format!("copy to a peer CTA of line {}", self.place.line)
    }
}
