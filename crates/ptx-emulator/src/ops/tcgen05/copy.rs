//! `tcgen05.cp`: shared memory to tensor memory (PTX ISA 9.7.16.9.2).

use super::alloc::{check_cta_group, cta_group};
use super::state::{InFlight, check_allocated};
use crate::check::{Access, Class, Mode, Place};
use crate::counters::Counter;
use crate::decode::{Addr, Decoder, Execute, Op, Result, Src};
use crate::machine::{AsyncCtx, AsyncOp, Ctx, Flow, QueueKey};
use crate::ops::descriptor::{Extent, Generation, MatrixDescriptor};
use crate::ops::hooks::{self, AsyncId, Kind, Proxy, Range};
use crate::ops::{Entry, form};
use crate::types::Ty;

pub(super) const TABLE: &[Entry] = &[form("tcgen05", &["cp"], decode)];

/// Source rows and bytes per row, and where each row goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    rows: usize,
    bytes: usize,
    /// Consecutive rows that go to consecutive lanes.
    run: usize,
    /// First lanes of the copies of each run.
    lanes: &'static [&'static [usize]],
}

const SHAPES: [(&str, Shape); 5] = [
    ("128x256b", Shape { rows: 128, bytes: 32, run: 128, lanes: &[&[0]] }),
    ("128x128b", Shape { rows: 128, bytes: 16, run: 128, lanes: &[&[0]] }),
    ("64x128b", Shape { rows: 64, bytes: 16, run: 64, lanes: &[&[0, 64]] }),
    ("32x128b", Shape { rows: 32, bytes: 16, run: 32, lanes: &[&[0, 32, 64, 96]] }),
    // A row for each partition of 32 lanes, at the lane of the address.
    ("4x256b", Shape { rows: 4, bytes: 32, run: 1, lanes: &[&[0], &[32], &[64], &[96]] }),
];

/// `.b8x16.b4x16_p64`, `.b8x16.b6x16_p32`: 16 packed elements and padding become 16 bytes, an element in the low
/// bits of each. (That they are the low bits is inferred from `ldmatrix`, which has the same formats.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Plain,
    Packed { bits: usize },
}

impl Source {
    /// Bytes of each 16 that hold data.
    fn data(self) -> usize {
        match self {
            Source::Plain => 16,
            Source::Packed { bits } => 2 * bits,
        }
    }

    fn expand(self, chunk: &mut [u8; 16]) {
        if let Source::Packed { bits } = self {
            let word = u128::from_le_bytes(*chunk);
            *chunk = std::array::from_fn(|i| (word >> (bits * i)) as u8 & (0xff >> (8 - bits)));
        }
    }
}

struct Copy {
    group: u32,
    addr: Addr,
    source: Src,
    shape: Shape,
    format: Source,
}

impl Execute for Copy {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        check_cta_group(ctx, self.group);
        for lane in ctx.lanes() {
            let address = ctx.get(self.addr.base, lane).wrapping_add_signed(self.addr.offset) as u32;
            let source = ctx.get(self.source, lane);
            let column = address & 0xffff;
            let columns = self.shape.bytes as u32 / 4;
            let rank = ctx.cluster.ctas[ctx.cta].rank;
            let ctas: Vec<u32> = if self.group == 2 { vec![rank & !1, rank | 1] } else { vec![rank] };
            let first = (address >> 16) as usize;
            if first >= if self.shape.run == 1 { 32 } else { 1 } {
                ctx.finding(Class::TensorLanes, lane, format!("cp to lane {first}: not possible"), None);
                return Flow::Abort;
            }
            for &cta in &ctas {
                if !check_allocated(ctx, lane, cta, column, columns) {
                    return Flow::Abort;
                }
            }
            overwrites_scales(ctx, lane, &ctas, column, columns);
            let state = &mut ctx.cluster.state.tcgen05;
            let id = state.next;
            state.next += 1;
            let place = ctx.place(lane);
            ctx.cluster.state.tcgen05.in_flight.push(InFlight {
                id,
                issuer: rank,
                ctas: ctas.clone(),
                writes: (column, columns),
                reads: Vec::new(),
                place: place.clone(),
                what: "cp",
            });
            let race = hooks::async_issue(ctx, lane, Proxy::Async, "tcgen05.cp");
            let (shape, format) = (self.shape, self.format);
            let op = Pending { race, shape, format, ctas, first, column, source, place };
            ctx.cluster.engine.issue(QueueKey::Tcgen05(rank), Box::new(op));
        }
        Flow::Next
    }
}

/// A `cp` onto columns that an `mma` in flight reads: not in the ISA's list of pipelined pairs.
fn overwrites_scales(ctx: &mut Ctx<'_>, lane: usize, ctas: &[u32], column: u32, columns: u32) {
    if !ctx.checks().tcgen05 || ctx.checks().mode != Mode::StrictPtx {
        return;
    }
    let overlaps = |r: &(u32, u32)| r.0 < column + columns && column < r.0 + r.1;
    let hit = ctx
        .cluster
        .state
        .tcgen05
        .in_flight
        .iter()
        .find(|f| f.ctas.iter().any(|c| ctas.contains(c)) && f.reads.iter().any(overlaps))
        .cloned();
    if let Some(f) = hit {
        let message = format!(
            "cp overwrites columns {column}..{} that a tcgen05.mma in flight reads: mma -> cp is not a pipelined pair",
            column + columns
        );
        let earlier = Access { place: f.place, what: "tcgen05.mma".to_owned() };
        ctx.finding(Class::Tcgen05Order, lane, message, Some(earlier));
    }
}

struct Pending {
    race: AsyncId,
    shape: Shape,
    format: Source,
    ctas: Vec<u32>,
    /// Lane of the address.
    first: usize,
    column: u32,
    source: u64,
    place: Place,
}

impl AsyncOp for Pending {
    fn complete(self: Box<Self>, ctx: &mut AsyncCtx<'_>) {
        let Shape { rows, bytes, run, lanes } = self.shape;
        let columns = bytes / 4;
        for &cta in &self.ctas {
            let mut data = Vec::new();
            let mut touched = Vec::new();
            let fetched = match ctx.cluster.ctas.get(cta as usize) {
                Some(source) => MatrixDescriptor::decode(self.source, Generation::Sm100).and_then(|d| {
                    let extent = Extent { rows, k_bytes: bytes, mn_major: None, data: self.format.data() };
                    d.fetch(&source.shared, extent, &mut data, |offset, n| touched.push((offset, n)))
                }),
                None => Err(format!("CTA rank {cta} of the pair is not in the cluster")),
            };
            if let Err(why) = fetched {
                ctx.finding(Class::Descriptor, self.place.clone(), why);
                return;
            }
            // Of each word by itself: a copy takes whole tiles, of which an MMA may need some rows.
            let init = |ctx: &AsyncCtx<'_>, word: usize| {
                let (offset, n) = touched[word / 4];
                let shared = &ctx.cluster.ctas[cta as usize].shared;
                match n {
                    16 => shared.is_init(offset + 4 * (word as u32 % 4), 4),
                    // Expanded on the way.
                    n => shared.is_init(offset, n as usize),
                }
            };
            let init: Vec<bool> = (0..rows * bytes / 4).map(|word| init(ctx, word)).collect();
            let total = touched.iter().map(|t| u64::from(t.1)).sum();
            ctx.cluster.counters.add(Counter::TensorCpBytes, total);
            for (offset, bytes) in touched {
                hooks::async_access(
                    ctx.env,
                    ctx.cluster,
                    self.race,
                    Range::Shared { cta, offset, bytes },
                    Kind::Read,
                );
            }
            data.as_chunks_mut::<16>().0.iter_mut().for_each(|chunk| self.format.expand(chunk));
            for &first in lanes.iter().copied().flatten() {
                let (lane, lanes) = ((first + self.first) as u32, run as u32);
                let (column, columns) = (self.column, columns as u32);
                let written = Range::Tensor { cta, lane, lanes, column, columns };
                hooks::async_access(ctx.env, ctx.cluster, self.race, written, Kind::Write);
            }
            let memory = ctx.cluster.state.tcgen05.memory(cta);
            for row in 0..rows {
                let (part, within) = (row / run, row % run + self.first);
                for column in 0..columns {
                    let at = row * bytes + column * 4;
                    let word = u32::from_le_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]]);
                    for &first in lanes[part] {
                        memory.set(first + within, self.column as usize + column, word, init[at / 4]);
                    }
                }
            }
        }
    }

    fn describe(&self) -> String {
        format!("tcgen05.cp of line {}", self.place.line)
    }
}

/// `tcgen05.cp.cta_group.SHAPE{.multicast}{.b8x16.src_fmt} [taddr], s-desc`.
fn decode(d: &mut Decoder<'_>) -> Result<Op> {
    d.take("cp");
    let group = cta_group(d)?;
    let mut shape = d.need_one("a shape that is modelled", &SHAPES)?;
    match shape.rows {
        32 if !d.take("warpx4") => return d.error("32x128b needs .warpx4"),
        64 if d.take("warpx2::01_23") => shape = Shape { run: 32, lanes: &[&[0, 32], &[64, 96]], ..shape },
        64 if !d.take("warpx2::02_13") => return d.error("64x128b needs .warpx2"),
        _ => {}
    }
    let format = if d.take("b8x16") {
        let formats = [("b4x16_p64", Source::Packed { bits: 4 }), ("b6x16_p32", Source::Packed { bits: 6 })];
        d.need_one("a source format", &formats)?
    } else {
        Source::Plain
    };
    let (addr, source) = (d.addr(0)?, d.src(1, Ty::B64)?);
    d.finish(2)?;
    Ok(Box::new(Copy { group, addr, source, shape, format }))
}
