//! `tcgen05.mma` (PTX ISA 9.7.16.10.9): issue and operands.

use super::alloc::{check_cta_group, cta_group};
use super::descriptor::{InstructionDescriptor, MmaKind};
use super::state::{InFlight, check_allocated};
use crate::check::{Class, Place};
use crate::decode::{Addr, Decoder, Execute, Op, Result, Src};
use crate::machine::{Ctx, Flow, QueueKey};
use crate::ops::hooks::{self, AsyncId, Proxy};
use crate::ops::{Entry, form};
use crate::syntax::ast::Operand;
use crate::types::Ty;

mod compute;

pub(super) const TABLE: &[Entry] = &[form("tcgen05", &["mma"], decode)];

enum OperandA {
    Descriptor(Src),
    Tensor(Addr),
}

struct Mma {
    group: u32,
    kind: MmaKind,
    d: Addr,
    a: OperandA,
    b: Src,
    idesc: Src,
    scales: Option<(Addr, Addr)>,
    accumulate: (Src, bool),
}

/// Where operand A is.
#[derive(Clone, Copy, Debug)]
enum A {
    Descriptor(u64),
    /// Tensor-memory column.
    Tensor(u32),
}

/// An issued MMA.
struct Pending {
    race: AsyncId,
    place: Place,
    kind: MmaKind,
    group: u32,
    /// Ranks of the CTAs: the even one first.
    ctas: Vec<u32>,
    idesc: InstructionDescriptor,
    d: u32,
    a: A,
    b: u64,
    scales: Option<(u32, u32)>,
    accumulate: bool,
}

/// Columns that the scales of `rows` rows occupy (UE4M3 4X and the MX kinds alike: a cell per row and 4 bytes).
fn scale_columns(rows: usize) -> u32 {
    rows.div_ceil(32) as u32
}

impl Execute for Mma {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        check_cta_group(ctx, self.group);
        for lane in ctx.lanes() {
            if self.issue(ctx, lane).is_none() {
                return Flow::Abort;
            }
        }
        Flow::Next
    }
}

impl Mma {
    fn issue(&self, ctx: &mut Ctx<'_>, lane: usize) -> Option<()> {
        let address = |ctx: &Ctx<'_>, a: Addr| ctx.get(a.base, lane).wrapping_add_signed(a.offset) as u32;
        let bits = ctx.get(self.idesc, lane) as u32;
        let idesc = match InstructionDescriptor::decode(bits, self.kind, self.group) {
            Ok(d) if d.f16_accumulator => {
                ctx.finding(Class::Descriptor, lane, "f16 accumulators are not modelled".to_owned(), None);
                return None;
            }
            Ok(d) => d,
            Err(why) => {
                ctx.finding(Class::Descriptor, lane, why, None);
                return None;
            }
        };
        let mut sources = vec![self.d.base, self.b, self.idesc, self.accumulate.0];
        sources.extend(self.scales.iter().flat_map(|(a, b)| [a.base, b.base]));
        match self.a {
            OperandA::Descriptor(src) => sources.push(src),
            OperandA::Tensor(a) => sources.push(a.base),
        }
        let origin = ctx.origin_of(&sources, lane);
        if !origin.is_clean() {
            ctx.report_poison(origin, lane, "an operand of tcgen05.mma");
        }
        let rank = ctx.cluster.ctas[ctx.cta].rank;
        let ctas = if self.group == 2 { vec![rank & !1, rank | 1] } else { vec![rank] };
        let d = address(ctx, self.d);
        let split = self.group == 2 && idesc.m == 128;
        let d_columns = if split { idesc.n / 2 } else { idesc.n } as u32;
        let scales = self.scales.map(|(a, b)| (address(ctx, a) & 0xffff, address(ctx, b) & 0xffff));
        let a = match self.a {
            OperandA::Descriptor(src) => A::Descriptor(ctx.get(src, lane)),
            OperandA::Tensor(a) => A::Tensor(address(ctx, a) & 0xffff),
        };
        let mut reads = Vec::new();
        if let Some((sa, sb)) = scales {
            let rows = if self.group == 2 { idesc.m / 2 } else { idesc.m };
            reads.push((sa, scale_columns(rows)));
            reads.push((sb, scale_columns(if split { idesc.n / 2 } else { idesc.n })));
        }
        if let A::Tensor(column) = a {
            reads.push((column, 8));
        }
        if ctas.iter().any(|&c| c as usize >= ctx.cluster.ctas.len()) {
            ctx.finding(Class::Undefined, lane, "cta_group::2 needs both CTAs of the pair".to_owned(), None);
            return None;
        }
        for &cta in &ctas {
            for &(column, columns) in reads.iter().chain([&(d & 0xffff, d_columns)]) {
                if !check_allocated(ctx, lane, cta, column, columns) {
                    return None;
                }
            }
        }
        let place = ctx.place(lane);
        let state = &mut ctx.cluster.state.tcgen05;
        let id = state.next;
        state.next += 1;
        state.in_flight.push(InFlight {
            id,
            issuer: rank,
            ctas: ctas.clone(),
            writes: (d & 0xffff, d_columns),
            reads,
            place: place.clone(),
            what: "mma",
        });
        let accumulate = (ctx.get(self.accumulate.0, lane) & 1 == 1) != self.accumulate.1;
        let b = ctx.get(self.b, lane);
        let race = hooks::async_issue(ctx, lane, Proxy::Async, "tcgen05.mma");
        let (kind, group) = (self.kind, self.group);
        let name = format!("tcgen05.{}.{}.{}", kind.name(), idesc.a.name(), idesc.b.name());
        let shape = [idesc.m, idesc.n, kind.k()].map(|x| x as u32);
        let op = Pending { race, place, kind, group, ctas, idesc, d, a, b, scales, accumulate };
        ctx.cluster.engine.issue(QueueKey::Tcgen05(rank), Box::new(op));
        ctx.cluster.counters.add_mma(name, shape);
        Some(())
    }
}

/// `tcgen05.mma.cta_group.kind{.block_scale{.scale_vec}}{.collector} [d], a, b-desc, idesc{, [sa], [sb]}, p`.
fn decode(d: &mut Decoder<'_>) -> Result<Op> {
    d.take("mma");
    let group = cta_group(d)?;
    let scaled = d.take("block_scale");
    let four = d.take("scale_vec::4X") || d.take("block16");
    let two = d.take("scale_vec::2X");
    let block32 = d.take("block32");
    let one = d.take("scale_vec::1X");
    let kind = match (d.take_map(|m| m.strip_prefix("kind::").map(str::to_owned)).as_deref(), scaled) {
        (Some("f16"), false) => MmaKind::F16,
        (Some("tf32"), false) => MmaKind::Tf32,
        (Some("f8f6f4"), false) => MmaKind::F8f6f4,
        (Some("mxf8f6f4"), true) if !four && !two => MmaKind::Mxf8f6f4,
        (Some("mxf4"), true) if !four && !one => MmaKind::Mxf4,
        (Some("mxf4nvf4"), true) if four && !two && !block32 => MmaKind::Nvf4,
        (Some("mxf4nvf4"), true) if two || block32 => MmaKind::Mxf4,
        _ => return d.error("this kind and scale vector are not valid or not modelled"),
    };
    if !scaled && (four || two || one || block32) {
        return d.error("a scale vector needs .block_scale");
    }
    // Hints about the reuse of A: no effect on results.
    for hint in ["fill", "use", "lastuse", "discard"] {
        d.take(&format!("collector::a::{hint}"));
    }
    let a = match d.operand(1)? {
        Operand::Address { .. } => OperandA::Tensor(d.addr(1)?),
        _ => OperandA::Descriptor(d.src(1, Ty::B64)?),
    };
    let (daddr, b, idesc) = (d.addr(0)?, d.src(2, Ty::B64)?, d.src(3, Ty::B32)?);
    let (scales, at) = if scaled { (Some((d.addr(4)?, d.addr(5)?)), 6) } else { (None, 4) };
    if matches!(d.operand(at)?, Operand::Vector(_)) {
        return d.error("disable-output-lane is not modelled");
    }
    let accumulate = d.pred(at)?;
    d.finish(at + 1)?;
    Ok(Box::new(Mma { group, kind, d: daddr, a, b, idesc, scales, accumulate }))
}
