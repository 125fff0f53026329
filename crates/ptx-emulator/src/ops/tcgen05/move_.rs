//! `tcgen05.ld`, `tcgen05.st` (PTX ISA 9.7.16.8).

use super::fence::own_group;
use super::shapes::Shape;
use super::state::{check_allocated, check_in_flight};
use crate::check::{Class, Origin, OriginKind};
use crate::counters::Counter;
use crate::decode::{Addr, Decoder, Execute, Op, Result, Src};
use crate::machine::{Ctx, Flow, LANES};
use crate::ops::hooks::{self, GroupKind, Kind, Proxy, Range};
use crate::ops::{Entry, form};
use crate::program::Reg;
use crate::types::Ty;

pub(super) const TABLE: &[Entry] =
    &[form("tcgen05", &["ld"], decode_ld), form("tcgen05", &["st"], decode_st)];

struct Access {
    shape: Shape,
    n: usize,
    /// `.pack::16b` / `.unpack::16b`.
    packed: bool,
    addr: Addr,
    offset: usize,
}

impl Access {
    /// Columns per register: a packed register holds the low halves of two columns.
    fn factor(&self) -> usize {
        if self.packed { 2 } else { 1 }
    }

    /// Base (lane, column) after all checks; `None` if it cannot go on.
    fn begin(&self, ctx: &mut Ctx<'_>, kind: Kind) -> Option<(usize, usize)> {
        let first = ctx.mask.trailing_zeros() as usize;
        let address = ctx.get(self.addr.base, first).wrapping_add_signed(self.addr.offset) as u32;
        for lane in ctx.lanes() {
            let origin = ctx.origin(self.addr.base, lane);
            if !origin.is_clean() {
                ctx.report_poison(origin, lane, "a tensor-memory address");
            }
            if ctx.get(self.addr.base, lane).wrapping_add_signed(self.addr.offset) as u32 != address {
                let message = "the tensor-memory address differs between lanes".to_owned();
                ctx.finding(Class::TensorLanes, lane, message, None);
                return None;
            }
        }
        let (lane, column) = ((address >> 16) as usize, (address & 0xffff) as usize);
        let quarter = ctx.warp.index % 4 * 32;
        let aligned = if self.shape == Shape::S32x32b {
            lane == quarter
        } else {
            lane == quarter || lane == quarter + 16
        };
        if !aligned {
            let message = format!(
                "lanes {lane}..{} from warp {}: it may access lanes {quarter}..{}",
                lane + self.shape.lanes(),
                ctx.warp.index,
                quarter + 32
            );
            ctx.finding(Class::TensorLanes, first, message, None);
            if lane + self.shape.lanes() > super::TENSOR_LANES {
                return None;
            }
        }
        let rank = ctx.cluster.ctas[ctx.cta].rank;
        let columns = self.shape.columns(self.n) * self.factor();
        let mut spans = vec![(column, columns)];
        if self.shape == Shape::S16x32bx2 {
            spans.push((column + self.offset, columns));
        }
        for (at, columns) in spans {
            if !check_allocated(ctx, first, rank, at as u32, columns as u32) {
                return None;
            }
            let what = if kind == Kind::Read { "ld" } else { "st" };
            check_in_flight(ctx, first, rank, at as u32, columns as u32, what);
            let (proxy, name, group) = match kind {
                Kind::Read => (Proxy::Generic, "tcgen05.ld", GroupKind::TensorLoad),
                _ => (Proxy::Generic, "tcgen05.st", GroupKind::TensorStore),
            };
            let id = hooks::async_issue(ctx, first, proxy, name);
            let range = Range::Tensor {
                cta: rank,
                lane: lane as u32,
                lanes: self.shape.lanes() as u32,
                column: at as u32,
                columns: columns as u32,
            };
            hooks::async_access(ctx.env, ctx.cluster, id, range, kind);
            for l in ctx.lanes() {
                let object = own_group(ctx, l, group);
                hooks::async_complete(ctx.cluster, id, object);
            }
        }
        Some((lane, column))
    }
}

struct Load {
    access: Access,
    dst: Vec<Reg>,
}

impl Execute for Load {
    fn is_aligned(&self) -> bool {
        true
    }

    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let Some((lane0, column0)) = self.access.begin(ctx, Kind::Read) else { return Flow::Abort };
        let rank = ctx.cluster.ctas[ctx.cta].rank;
        let poison = Origin::new(OriginKind::Tensor, ctx.pc);
        let factor = self.access.factor();
        for (i, &dst) in self.dst.iter().enumerate() {
            for t in 0..LANES {
                let (lane, column) = self.access.shape.cell(t, i, self.access.offset, factor);
                let memory = ctx.cluster.state.tcgen05.memory(rank);
                let mut value = 0;
                let mut init = true;
                for half in 0..factor {
                    let (cell, ok) = memory.get(lane0 + lane, column0 + column + half);
                    value |= if factor == 2 { (cell & 0xffff) << (16 * half) } else { cell };
                    init &= ok;
                }
                ctx.set(dst, t, u64::from(value), if init { Origin::CLEAN } else { poison });
            }
        }
        ctx.cluster.counters.add(Counter::TensorLdBytes, 128 * self.dst.len() as u64);
        Flow::Next
    }
}

struct Store {
    access: Access,
    src: Vec<Src>,
}

impl Execute for Store {
    fn is_aligned(&self) -> bool {
        true
    }

    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let Some((lane0, column0)) = self.access.begin(ctx, Kind::Write) else { return Flow::Abort };
        let rank = ctx.cluster.ctas[ctx.cta].rank;
        let factor = self.access.factor();
        for (i, &src) in self.src.iter().enumerate() {
            let row = ctx.row(src);
            for (t, &value) in row.iter().enumerate() {
                let init = ctx.origin(src, t).is_clean();
                let (lane, column) = self.access.shape.cell(t, i, self.access.offset, factor);
                let memory = ctx.cluster.state.tcgen05.memory(rank);
                for half in 0..factor {
                    let cell =
                        if factor == 2 { (value as u32 >> (16 * half)) & 0xffff } else { value as u32 };
                    memory.set(lane0 + lane, column0 + column + half, cell, init);
                }
            }
        }
        ctx.cluster.counters.add(Counter::TensorStBytes, 128 * self.src.len() as u64);
        Flow::Next
    }
}

/// `.sync.aligned.SHAPE.xN{.pack::16b}.b32`.
fn modifiers(d: &mut Decoder<'_>, what: &str, pack: &str) -> Result<(Shape, usize, bool)> {
    for needed in [what, "sync", "aligned", "b32"] {
        if !d.take(needed) {
            return d.error(format!("needs .{needed}"));
        }
    }
    let shape = d.need_one("a shape", &Shape::NAMES)?;
    let packed = d.take(pack);
    let count = |m: &str| m.strip_prefix('x')?.parse::<usize>().ok();
    match d.take_map(count) {
        Some(n) if n.is_power_of_two() && n <= shape.max() => Ok((shape, n, packed)),
        _ => d.error("needs a count .x1 .. that the shape allows"),
    }
}

fn immediate(d: &Decoder<'_>, shape: Shape, i: usize) -> Result<usize> {
    if shape != Shape::S16x32bx2 {
        return Ok(0);
    }
    match usize::try_from(d.imm(i)?) {
        Ok(n) if n < super::COLUMNS => Ok(n),
        _ => d.error("the column offset must be in 0..512"),
    }
}

fn decode_ld(d: &mut Decoder<'_>) -> Result<Op> {
    let (shape, n, packed) = modifiers(d, "ld", "pack::16b")?;
    let (dst, addr) = (d.regs(0)?, d.addr(1)?);
    let offset = immediate(d, shape, 2)?;
    if dst.len() != shape.registers(n) {
        return d.error(format!("expected {} registers, got {}", shape.registers(n), dst.len()));
    }
    d.finish(if shape == Shape::S16x32bx2 { 3 } else { 2 })?;
    Ok(Box::new(Load { access: Access { shape, n, packed, addr, offset }, dst }))
}

fn decode_st(d: &mut Decoder<'_>) -> Result<Op> {
    let (shape, n, packed) = modifiers(d, "st", "unpack::16b")?;
    let addr = d.addr(0)?;
    let two = shape == Shape::S16x32bx2;
    let offset = immediate(d, shape, 1)?;
    let src = d.srcs(if two { 2 } else { 1 }, Ty::B32)?;
    if src.len() != shape.registers(n) {
        return d.error(format!("expected {} registers, got {}", shape.registers(n), src.len()));
    }
    d.finish(if two { 3 } else { 2 })?;
    Ok(Box::new(Store { access: Access { shape, n, packed, addr, offset }, src }))
}
