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
mod products;

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
    /// `.ws`.
    ws: bool,
    /// Lanes of D that are not written: 32 per element, those of the even CTA first.
    disabled: Vec<Src>,
    /// The addend is divided by two to the power of this.
    scale_d: u32,
}

/// Where operand A is.
#[derive(Clone, Copy, Debug)]
enum A {
    Descriptor(u64),
    /// Tensor-memory address.
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
    ws: bool,
    /// As given; empty if none.
    disabled: Vec<u32>,
    scale_d: u32,
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
        let idesc = match InstructionDescriptor::decode(bits, self.kind, self.group, self.ws) {
            Ok(d) => d,
            Err(why) => {
                ctx.finding(Class::Descriptor, lane, why, None);
                return None;
            }
        };
        let mut sources = vec![self.d.base, self.b, self.idesc, self.accumulate.0];
        sources.extend(&self.disabled);
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
        let d_columns = match idesc.m {
            64 if self.ws => idesc.n / 2,
            32 => idesc.n / 4,
            _ if split => idesc.n / 2,
            _ => idesc.n,
        } as u32;
        // Layout F (M = 64) may start at lane 16 of every 32; all others start at lane 0 (table of 9.7.16.10.5).
        let half = self.group == 1 && idesc.m == 64 && !self.ws;
        if d >> 16 != 0 && !(half && d >> 16 == 16) {
            let message = format!("D at lane {}: not possible for this shape", d >> 16);
            ctx.finding(Class::TensorLanes, lane, message, None);
            return None;
        }
        let scales = self.scales.map(|(a, b)| (address(ctx, a) & 0xffff, address(ctx, b) & 0xffff));
        let a = match self.a {
            OperandA::Descriptor(src) => A::Descriptor(ctx.get(src, lane)),
            OperandA::Tensor(a) => A::Tensor(address(ctx, a)),
        };
        if let A::Tensor(at) = a
            && let Some(message) = self.check_tensor_a(&idesc, d, at)
        {
            ctx.finding(Class::Descriptor, lane, message, None);
            return None;
        }
        let mut reads = Vec::new();
        if let Some((sa, sb)) = scales {
            let rows = if self.group == 2 { idesc.m / 2 } else { idesc.m };
            reads.push((sa, scale_columns(rows)));
            reads.push((sb, scale_columns(if split { idesc.n / 2 } else { idesc.n })));
        }
        if let A::Tensor(at) = a {
            reads.push((at & 0xffff, 8));
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
        let types = idesc.type_names(kind);
        let name = format!("tcgen05.{}.{}.{}", kind.name(), types.0, types.1);
        let shape = [idesc.m, idesc.n, kind.k()].map(|x| x as u32);
        let (ws, scale_d) = (self.ws, self.scale_d);
        let disabled = self.disabled.iter().map(|&s| ctx.get(s, lane) as u32).collect();
        let op = Pending {
            race,
            place,
            kind,
            group,
            ctas,
            idesc,
            d,
            a,
            b,
            scales,
            accumulate,
            ws,
            disabled,
            scale_d,
        };
        ctx.cluster.engine.issue(QueueKey::Tcgen05(rank), Box::new(op));
        ctx.cluster.counters.add_mma(name, shape);
        Some(())
    }
}

impl Mma {
    /// What is wrong with operand A in tensor memory, if anything.
    fn check_tensor_a(&self, idesc: &InstructionDescriptor, d: u32, at: u32) -> Option<String> {
        if idesc.transpose.0 {
            return Some("operand A in tensor memory cannot be M-major".to_owned());
        }
        if self.ws && idesc.m != 128 {
            return Some("operand A in tensor memory with .ws and M below 128 is not modelled".to_owned());
        }
        (at >> 16 != d >> 16)
            .then(|| format!("A at lane {}, D at lane {}: must be the same", at >> 16, d >> 16))
    }
}

/// `tcgen05.mma{.ws}.cta_group.kind{.block_scale{.scale_vec}}{.collector} [d], a, b-desc, idesc{, [sa], [sb]}
/// {, disable-output-lane}, p{, scale-input-d}`. The zero-column mask of `.ws` is not modelled: the ISA's text and
/// its examples disagree about which span is which.
fn decode(d: &mut Decoder<'_>) -> Result<Op> {
    d.take("mma");
    let ws = d.take("ws");
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
        (Some("i8"), false) => MmaKind::I8,
        (Some("mxf8f6f4"), true) if !four && !two => MmaKind::Mxf8f6f4,
        (Some("mxf4"), true) if !four && !one => MmaKind::Mxf4,
        (Some("mxf4nvf4"), true) if four && !two && !block32 => MmaKind::Nvf4,
        (Some("mxf4nvf4"), true) if two || block32 => MmaKind::Mxf4,
        _ => return d.error("this kind and scale vector are not valid or not modelled"),
    };
    if !scaled && (four || two || one || block32) {
        return d.error("a scale vector needs .block_scale");
    }
    if ws && (scaled || group == 2) {
        return d.error(".ws is of cta_group::1 and kinds without scales");
    }
    // Hints about the reuse of A (of B with `.ws`): no effect on results.
    for buffer in if ws { &["b0", "b1", "b2", "b3"][..] } else { &["a"] } {
        for hint in ["fill", "use", "lastuse", "discard"] {
            d.take(&format!("collector::{buffer}::{hint}"));
        }
    }
    let a = match d.operand(1)? {
        Operand::Address { .. } => OperandA::Tensor(d.addr(1)?),
        _ => OperandA::Descriptor(d.src(1, Ty::B64)?),
    };
    let (daddr, b, idesc) = (d.addr(0)?, d.src(2, Ty::B64)?, d.src(3, Ty::B32)?);
    let (scales, at) = if scaled { (Some((d.addr(4)?, d.addr(5)?)), 6) } else { (None, 4) };
    let mut at = at;
    let mut disabled = Vec::new();
    if matches!(d.operand(at)?, Operand::Vector(_)) {
        disabled = d.srcs(at, Ty::B32)?;
        if scaled || ws || disabled.len() != 4 * group as usize {
            return d.error("disable-output-lane: 4 or 8 registers, not with scales or .ws");
        }
        at += 1;
    }
    let accumulate = d.pred(at)?;
    let mut scale_d = 0;
    if d.operand_count() > at + 1 {
        if ws {
            return d.error("the zero-column mask is not modelled");
        }
        at += 1;
        scale_d = match u32::try_from(d.imm(at)?) {
            Ok(by @ 0..=15) if matches!(kind, MmaKind::F16 | MmaKind::Tf32) => by,
            _ => return d.error("scale-input-d: 0 to 15, of kind::f16 and kind::tf32"),
        };
    }
    d.finish(at + 1)?;
    Ok(Box::new(Mma { group, kind, d: daddr, a, b, idesc, scales, accumulate, ws, disabled, scale_d }))
}
