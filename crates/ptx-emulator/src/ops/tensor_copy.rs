//! Tensor copies in tiled modes: `cp.async.bulk.tensor`, `cp.reduce.async.bulk.tensor`,
//! `cp.async.bulk.prefetch.tensor` (PTX ISA 9.7.9.25.5). The im2col modes are not modelled.
//!
//! Boxes are moved row by row. A load counts the full box on the mbarrier even if part of it is out of bounds;
//! for `16U4_ALIGN16B` it counts the packed bytes.

use super::bulk::{before, clean, start};
use super::bulk_reduce::{self, OPS, RedOp};
use super::bulk_transfer::{Destination, Effect, Image, Layout, Span, Store, class_of};
use super::groups::Which;
use super::hooks::{self, AsyncId, Kind, Proxy, Range};
use super::mbarrier::locate;
use super::sync_state::add;
use super::tensor_map::{self, Element, Fill, Swizzle, TensorMap};
use super::{Entry, form, traffic};
use crate::check::{Class, Place};
use crate::counters::Counter;
use crate::decode::{Addr, Decoder, Execute, Op, Result, Src};
use crate::machine::{AddressSpace, AsyncCtx, AsyncOp, Ctx, Flow, Location};
use crate::syntax::ast::Operand;
use crate::types::Ty;

pub(super) const TABLE: &[Entry] = &[
    form("cp", &["async", "bulk", "prefetch", "tensor"], decode_prefetch),
    form("cp", &["reduce", "async", "bulk", "tensor"], decode_reduce),
    form("cp", &["async", "bulk", "tensor"], decode_copy),
];

/// Map and coordinates of an instruction.
struct Box5 {
    map: Addr,
    coordinates: Vec<Src>,
    rank: usize,
    /// `.tile::gather4`, `.tile::scatter4`: a column and four rows.
    rows4: bool,
}

/// A box of a tensor at coordinates.
struct Tile {
    map: TensorMap,
    /// Coordinates of the box, or of each of four rows.
    starts: Vec<[i64; 5]>,
}

impl Box5 {
    /// Reads and validates the map. `None` after a finding.
    fn resolve(&self, ctx: &mut Ctx<'_>, lane: usize) -> Option<Tile> {
        let at = ctx.locate(AddressSpace::Generic, self.map, lane)?;
        let address = match at {
            Location::Global(address) => address,
            Location::Param(offset) => u64::from(offset),
            other => {
                let message =
                    format!("a tensor map in {other:x?}: it must be in parameter, constant or global memory");
                ctx.finding(Class::TensorMap, lane, message, None);
                return None;
            }
        };
        if address % 64 != 0 {
            let message = format!("tensor map at {address:#x} is not 64-byte aligned");
            ctx.finding(Class::Misaligned, lane, message, None);
        }
        if let Location::Global(address) = at {
            let id = hooks::async_issue(ctx, lane, Proxy::TensorMap, "tensor map fetch");
            let range = Range::Global { address, bytes: tensor_map::BYTES as u32 };
            hooks::async_access(ctx.env, ctx.cluster, id, range, Kind::Read);
        }
        // 64 bytes at a time, as `Ctx::read` wants them.
        let mut bytes = [0; tensor_map::BYTES];
        let half = match at {
            Location::Global(a) => Location::Global(a.wrapping_add(64)),
            Location::Param(a) => Location::Param(a.saturating_add(64)),
            other => other,
        };
        let init = ctx.read(at, lane, &mut bytes[..64])? & ctx.read(half, lane, &mut bytes[64..])?;
        if !init && ctx.checks().uninitialised {
            ctx.finding(Class::Uninitialised, lane, "the tensor map is not initialised".to_owned(), None);
        }
        let fault = |ctx: &mut Ctx<'_>, message: String| {
            ctx.finding(Class::TensorMap, lane, message, None);
            None
        };
        let map = match TensorMap::decode(&bytes) {
            Ok(map) => map,
            Err(e) => return fault(ctx, format!("tensor map: {e}")),
        };
        if map.rank() != self.rank {
            return fault(ctx, format!("{}d copy with a tensor map of rank {}", self.rank, map.rank()));
        }
        if self.rows4 && map.box_dims[1] != 1 {
            return fault(ctx, format!("four rows with a box of {} rows: it must be 1", map.box_dims[1]));
        }
        let values: Vec<i64> = self
            .coordinates
            .iter()
            .map(|&c| i64::from(clean(ctx, c, lane, "a tensor coordinate") as u32 as i32))
            .collect();
        let multiple = match map.element {
            Element::U4Align8 => 2,
            Element::U4Align16 => 128,
            _ => 1,
        };
        if values[0] % multiple != 0 {
            return fault(
                ctx,
                format!("coordinate 0 is {}: {:?} needs multiples of {multiple}", values[0], map.element),
            );
        }
        let starts = if self.rows4 {
            values[1..].iter().map(|&row| [values[0], row, 0, 0, 0]).collect()
        } else {
            let mut start = [0; 5];
            start[..values.len()].copy_from_slice(&values);
            vec![start]
        };
        Some(Tile { map, starts })
    }
}

/// A row of a tile: the global address of the first byte that is in bounds, its position in the row, length.
/// Positions are in global bytes.
type Row = Option<(u64, usize, usize)>;

impl Tile {
    /// The shared-memory side.
    fn layout(&self) -> Layout {
        let per_start: usize = (1..self.map.rank()).map(|d| self.map.extent(d) as usize).product();
        Layout {
            rows: per_start * self.starts.len(),
            row: self.map.shared_row_bytes(),
            pitch: self.map.pitch(),
            swizzle: self.map.swizzle,
        }
    }

    /// Bytes that a load counts.
    fn transaction_bytes(&self) -> u32 {
        (self.map.transaction_bytes() * self.starts.len() as u64) as u32
    }

    /// The rows, in the order in which they lie in shared memory.
    fn rows(&self) -> Vec<Row> {
        let (map, rank) = (&self.map, self.map.rank());
        let bits = i64::from(map.element.bits());
        let mut rows = Vec::with_capacity(self.layout().rows);
        for start in &self.starts {
            let first = (-start[0]).clamp(0, i64::from(map.box_dims[0]));
            let last = (map.dims[0] as i64 - start[0]).clamp(first, i64::from(map.box_dims[0]));
            let mut index = [0u32; 5];
            loop {
                let mut address = map.address as i64;
                let mut inside = first < last;
                for d in 1..rank {
                    let at = start[d] + i64::from(index[d]) * i64::from(map.element_strides[d]);
                    inside &= at >= 0 && at < map.dims[d] as i64;
                    address = address.wrapping_add(at.wrapping_mul(map.strides[d - 1] as i64));
                }
                let begin = address.wrapping_add((start[0] + first) * bits / 8) as u64;
                let row = (begin, (first * bits / 8) as usize, ((last - first) * bits / 8) as usize);
                rows.push(inside.then_some(row));
                // The next row.
                let mut d = 1;
                while d < rank {
                    index[d] += 1;
                    if index[d] < map.extent(d) {
                        break;
                    }
                    index[d] = 0;
                    d += 1;
                }
                if d >= rank {
                    break;
                }
            }
        }
        rows
    }

    /// What lies out of bounds, for a row in global bytes.
    fn fill(&self) -> Vec<u8> {
        let n = self.map.row_bytes();
        match self.map.fill {
            Fill::Zero => vec![0; n],
            Fill::Nan => {
                let size = self.map.element.bits() as usize / 8;
                (0..n).map(|i| if i % size == size - 1 { 0x7f } else { 0xff }).collect()
            }
        }
    }

    /// What stores and reductions write.
    fn spans(&self) -> Vec<Span> {
        let row = self.map.row_bytes();
        let spans = self.rows().into_iter().enumerate();
        spans.filter_map(|(i, r)| r.map(|(address, at, n)| (address, i * row + at, n))).collect()
    }
}

/// Common checks of the shared-memory operand.
fn check_shared(ctx: &mut Ctx<'_>, lane: usize, offset: u32, swizzle: Swizzle) {
    if !offset.is_multiple_of(128) {
        let message =
            format!("shared address {offset:#x} of a tensor copy ({swizzle:?}) is not 128-byte aligned");
        ctx.finding(Class::Misaligned, lane, message, None);
    }
}

struct Load {
    space: AddressSpace,
    dst: Addr,
    tile: Box5,
    barrier: Addr,
    multicast: Option<Src>,
    pair: bool,
}

impl Execute for Load {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        for lane in ctx.lanes() {
            // With `.shared::cta` and a pair the mbarrier may be the peer's.
            let barriers = if self.pair { AddressSpace::SharedCluster } else { self.space };
            let Some(data) = locate(ctx, self.space, self.dst, lane) else { continue };
            let Some(barrier) = locate(ctx, barriers, self.barrier, lane) else { continue };
            let Some(tile) = self.tile.resolve(ctx, lane) else { continue };
            check_shared(ctx, lane, data.1, tile.map.swizzle);
            let mask = self.multicast.map(|m| clean(ctx, m, lane, "a multicast mask") as u32 & 0xffff);
            let Some(to) = Destination::new(ctx, lane, data, barrier, mask, self.pair) else { continue };
            if !to.poison(ctx, lane, &tile.layout()) {
                continue;
            }
            let id = hooks::async_issue(ctx, lane, Proxy::Async, "cp.async.bulk.tensor");
            start(ctx, Box::new(Loading { place: ctx.place(lane), id, tile, to }));
        }
        Flow::Next
    }
}

struct Loading {
    place: Place,
    id: AsyncId,
    tile: Tile,
    to: Destination,
}

impl AsyncOp for Loading {
    fn complete(self: Box<Self>, ctx: &mut AsyncCtx<'_>) {
        let (tile, layout) = (&self.tile, self.tile.layout());
        let mut image = Image::new(layout.rows * layout.row);
        let fill = tile.fill();
        let (mut row, mut init) = (fill.clone(), vec![true; fill.len()]);
        let mut fault = None;
        let (mut read, mut sectors) = (0, 0);
        for (i, place) in tile.rows().into_iter().enumerate() {
            row.copy_from_slice(&fill);
            init.fill(true);
            if let Some((address, at, n)) = place {
                hooks::async_access(
                    ctx.env,
                    ctx.cluster,
                    self.id,
                    Range::Global { address, bytes: n as u32 },
                    Kind::Read,
                );
                read += n as u64;
                sectors += traffic::range_sectors(address, n as u64);
                let global = ctx.env.global;
                if let Err(e) = global.read_flags(address, &mut row[at..at + n], &mut init[at..at + n]) {
                    init[at..at + n].fill(false);
                    fault = fault.or(Some(e));
                }
            }
            let to = i * layout.row;
            if tile.map.element == Element::U4Align16 {
                // 8 bytes of data, 8 bytes that are not written.
                for (k, part) in row.chunks_exact(8).enumerate() {
                    image.bytes[to + k * 16..to + k * 16 + 8].copy_from_slice(part);
                    image.init[to + k * 16..to + k * 16 + 8].copy_from_slice(&init[k * 8..k * 8 + 8]);
                }
            } else {
                image.bytes[to..to + layout.row].copy_from_slice(&row);
                image.init[to..to + layout.row].copy_from_slice(&init);
            }
        }
        if let Some(e) = fault {
            let message = format!("source: {e} (the tensor map describes more than the allocation)");
            add(ctx.cluster, class_of(e), self.place.clone(), message);
        }
        let bytes = tile.transaction_bytes();
        let delivered = u64::from(bytes) * self.to.targets() as u64;
        ctx.cluster.counters.add(Counter::TensorLoadBytes, read);
        ctx.cluster.counters.add(Counter::TensorLoadSectors, sectors);
        ctx.cluster.counters.add(Counter::TensorLoadDelivered, delivered);
        self.to.deliver(ctx, &self.place, self.id, (&layout, Kind::Write), &image, bytes);
    }

    fn describe(&self) -> String {
        format!("tensor load of line {}", self.place.line)
    }
}

struct StoreTensor {
    tile: Box5,
    src: Addr,
    reduce: Option<RedOp>,
}

/// Type of a reduction on elements of a map.
fn reduction_type(element: Element, op: RedOp) -> Option<Ty> {
    let bits = matches!(op, RedOp::And | RedOp::Or | RedOp::Xor);
    let ty = match (element, bits) {
        (Element::U32 | Element::S32, true) => Ty::B32,
        (Element::U64 | Element::S64, true) => Ty::B64,
        (Element::U32, false) => Ty::U32,
        (Element::S32, false) => Ty::S32,
        (Element::U64, false) => Ty::U64,
        (Element::S64, false) => Ty::S64,
        (Element::F16, false) => Ty::F16,
        (Element::BF16, false) => Ty::BF16,
        (Element::F32, false) => Ty::F32,
        (Element::F64, false) => Ty::F64,
        _ => return None,
    };
    bulk_reduce::exists(op, ty, false).then_some(ty)
}

impl Execute for StoreTensor {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        for lane in ctx.lanes() {
            let Some((cta, offset)) = locate(ctx, AddressSpace::SharedCta, self.src, lane) else { continue };
            let Some(tile) = self.tile.resolve(ctx, lane) else { continue };
            check_shared(ctx, lane, offset, tile.map.swizzle);
            let effect = match self.reduce.map(|op| (op, reduction_type(tile.map.element, op))) {
                None => Effect::Store,
                Some((op, Some(ty))) => Effect::Reduce(op, ty),
                Some((op, None)) => {
                    let message = format!("reduction {op:?} does not exist for {:?}", tile.map.element);
                    ctx.finding(Class::TensorMap, lane, message, None);
                    continue;
                }
            };
            if tile.map.element == Element::U4Align16 {
                let message = "16U4_ALIGN16B is for loads only".to_owned();
                ctx.finding(Class::TensorMap, lane, message, None);
                continue;
            }
            let (layout, size) = (tile.layout(), ctx.cluster.ctas[ctx.cta].shared.len());
            if offset as usize + layout.footprint() > size {
                let message = format!(
                    "source: {} bytes at shared offset {offset:#x} of {size:#x} bytes",
                    layout.footprint()
                );
                ctx.finding(Class::OutOfBounds, lane, message, None);
                continue;
            }
            let spans = tile.spans();
            let (place, thread) = (ctx.place(lane), ctx.thread(lane));
            let group = ctx.cluster.state.sync.groups.add(cta, thread, Which::Bulk, Some(place.clone()));
            let path = Counter::TensorStoreBytes;
            let id = hooks::async_issue(ctx, lane, Proxy::Async, "tensor store");
            start(ctx, Box::new(Store { place, id, group, offset, layout, spans, effect, path }));
        }
        Flow::Next
    }
}

struct Prefetch(Box5);

impl Execute for Prefetch {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        for lane in ctx.lanes() {
            // For the checks of map and coordinates.
            self.0.resolve(ctx, lane);
        }
        Flow::Next
    }
}

/// Rank, mode, map and coordinates: `.Nd ... {.tile} ... [map, {c0, ...}]`.
fn decode_box(d: &mut Decoder<'_>, operand: usize, rows: &'static str) -> Result<Box5> {
    let ranks = [("1d", 1), ("2d", 2), ("3d", 3), ("4d", 4), ("5d", 5)];
    let rank: usize = d.need_one("a rank", &ranks)?;
    let rows4 = d.take(rows);
    if !rows4 {
        d.take("tile");
    }
    let (base, offset, extra) = match d.operand(operand)? {
        Operand::Address { base, offset, extra } => (base, *offset, extra),
        other => return d.error(format!("`{other}` is not a tensor map with coordinates")),
    };
    if let Operand::Name(name) = &**base
        && d.reg_ty(base).is_none()
    {
        return d.error(format!("the map's address must be in a register, not `{name}` itself"));
    }
    let map = Addr { base: d.src_of(base, Ty::B64)?, offset };
    let list = match extra.as_slice() {
        [Operand::Vector(list)] => list.as_slice(),
        [one @ Operand::Name(_)] if rank == 1 => std::slice::from_ref(one),
        _ => return d.error("the coordinates must be a vector"),
    };
    let wanted = if rows4 { 5 } else { rank };
    if list.len() != wanted || (rows4 && rank != 2) {
        return d.error(format!("needs {wanted} coordinates (four rows are 2d)"));
    }
    let coordinates = list.iter().map(|c| d.src_of(c, Ty::S32)).collect::<Result<Vec<Src>>>()?;
    Ok(Box5 { map, coordinates, rank, rows4 })
}

/// The cache policy operand; a hint.
fn decode_policy(d: &mut Decoder<'_>, operand: usize) -> Result<usize> {
    if !d.take("L2::cache_hint") {
        return Ok(operand);
    }
    d.src(operand, Ty::B64)?;
    Ok(operand + 1)
}

/// `cp.async.bulk.tensor` loads and stores.
fn decode_copy(d: &mut Decoder<'_>) -> Result<Op> {
    ["async", "bulk", "tensor"].iter().for_each(|m| {
        d.take(m);
    });
    let store = before(d, "global", "shared::cta") && before(d, "global", "shared::cluster");
    if store {
        d.take("global");
        d.need_one(".shared::cta", &[("shared::cta", ())])?;
        d.need_one(".bulk_group", &[("bulk_group", ())])?;
        let (tile, src) = (decode_box(d, 0, "tile::scatter4")?, d.addr(1)?);
        let operands = decode_policy(d, 2)?;
        d.finish(operands)?;
        return Ok(Box::new(StoreTensor { tile, src, reduce: None }));
    }
    let spaces = [("shared::cta", AddressSpace::SharedCta), ("shared::cluster", AddressSpace::SharedCluster)];
    let space = d.need_one("a destination space", &spaces)?;
    d.need_one(".global", &[("global", ())])?;
    d.need_one("a completion mechanism", &[("mbarrier::complete_tx::bytes", ())])?;
    let pair = d.take_one(&[("cta_group::1", false), ("cta_group::2", true)]).unwrap_or(false);
    let (dst, tile, barrier) = (d.addr(0)?, decode_box(d, 1, "tile::gather4")?, d.addr(2)?);
    let mut operands = 3;
    let mut multicast = None;
    if space == AddressSpace::SharedCluster && d.take("multicast::cluster") {
        multicast = Some(d.src(3, Ty::B16)?);
        operands = 4;
    }
    let operands = decode_policy(d, operands)?;
    d.finish(operands)?;
    Ok(Box::new(Load { space, dst, tile, barrier, multicast, pair }))
}

/// `cp.reduce.async.bulk.tensor.Nd.global.shared::cta.op{.tile}.bulk_group{.L2::cache_hint} [map, c], [src]`.
fn decode_reduce(d: &mut Decoder<'_>) -> Result<Op> {
    ["reduce", "async", "bulk", "tensor", "global"].iter().for_each(|m| {
        d.take(m);
    });
    d.need_one(".shared::cta", &[("shared::cta", ())])?;
    d.need_one(".bulk_group", &[("bulk_group", ())])?;
    let reduce = Some(d.need_one("a reduction", OPS)?);
    // Four rows are not reduced: a modifier that is never there.
    let (tile, src) = (decode_box(d, 0, "")?, d.addr(1)?);
    let operands = decode_policy(d, 2)?;
    d.finish(operands)?;
    Ok(Box::new(StoreTensor { tile, src, reduce }))
}

/// `cp.async.bulk.prefetch.tensor.Nd.L2.global{.tile}{.L2::cache_hint} [map, c]{, policy}`.
fn decode_prefetch(d: &mut Decoder<'_>) -> Result<Op> {
    ["async", "bulk", "prefetch", "tensor"].iter().for_each(|m| {
        d.take(m);
    });
    d.need_one(".L2", &[("L2", ())])?;
    d.need_one(".global", &[("global", ())])?;
    let tile = decode_box(d, 0, "tile::gather4")?;
    let operands = decode_policy(d, 1)?;
    d.finish(operands)?;
    Ok(Box::new(Prefetch(tile)))
}
