//! Warp-level instructions (PTX ISA 9.7.9.6, 9.7.13.2, 9.7.13.8 - 9.7.13.11, 9.7.13.16): shfl.sync, vote.sync,
//! match.sync, redux.sync, elect.sync, bar.warp.sync, activemask.
//!
//! A value shuffled from a lane that does not take part is poisoned.

use super::float::{MinMax, NAN32};
use super::hooks::{self, Object, Scope};
use super::meeting::{Where, each, meet};
use super::{Entry, form, root};
use crate::check::{Origin, OriginKind};
use crate::decode::{Decoder, Execute, Op, Result, Src};
use crate::machine::{Ctx, Flow, LANES};
use crate::program::Reg;
use crate::syntax::ast::Operand;
use crate::types::Ty;

pub(super) const TABLE: &[Entry] = &[
    form("shfl", &["sync"], decode_shfl),
    form("vote", &["sync"], decode_vote),
    form("match", &["sync"], decode_match),
    form("redux", &["sync"], decode_redux),
    form("elect", &["sync"], decode_elect),
    form("bar", &["warp", "sync"], decode_bar_warp),
    form("barrier", &["warp", "sync"], decode_bar_warp),
    root("activemask", decode_activemask),
];

/// A destination `d` or `d|p`, each possibly `_`.
fn destinations(d: &Decoder<'_>, ty: Ty, pred: bool) -> Result<(Option<Reg>, Option<Reg>)> {
    let one = |o: &Operand, ty: Ty| match o {
        Operand::Sink => Ok(None),
        other => d.dst_of(other, ty).map(Some),
    };
    match d.operand(0)? {
        Operand::Pair(value, p) if pred => Ok((one(value, ty)?, one(p, Ty::Pred)?)),
        other => Ok((one(other, ty)?, None)),
    }
}

/// Mode of a shuffle.
#[derive(Clone, Copy, PartialEq)]
enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

struct Shfl {
    mode: Shuffle,
    dst: Option<Reg>,
    pred: Option<Reg>,
    a: Src,
    b: Src,
    c: Src,
    member: Src,
}

impl Shfl {
    /// Source lane, and whether it is in range.
    fn source(&self, lane: usize, b: u64, c: u64) -> (usize, bool) {
        let (lane, b) = (lane as i32, (b & 0x1f) as i32);
        let (clamp, segment) = ((c & 0x1f) as i32, (c >> 8 & 0x1f) as i32);
        let last = (lane & segment) | (clamp & !segment);
        let (from, in_range) = match self.mode {
            Shuffle::Up => (lane - b, lane - b >= last),
            Shuffle::Down => (lane + b, lane + b <= last),
            Shuffle::Butterfly => (lane ^ b, lane ^ b <= last),
            Shuffle::Index => {
                let from = (lane & segment) | (b & !segment);
                (from, from <= last)
            }
        };
        (if in_range { from as usize % LANES } else { lane as usize }, in_range)
    }
}

impl Execute for Shfl {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let groups = meet(ctx, self.member, Where::Here);
        let [a, b, c] = [self.a, self.b, self.c].map(|s| ctx.row(s));
        let dirty = [self.a, self.b, self.c].map(|s| match s {
            Src::Reg(reg) => ctx.warp.is_dirty(reg),
            _ => false,
        });
        let (mut values, mut in_range) = ([0; LANES], [0; LANES]);
        let (mut origins, mut control) = ([Origin::CLEAN; LANES], [Origin::CLEAN; LANES]);
        let stranger = Origin::new(OriginKind::Register, ctx.pc);
        let mut clean = !dirty.contains(&true);
        for lanes in groups {
            for lane in each(lanes) {
                let (from, ok) = self.source(lane, b[lane], c[lane]);
                values[lane] = a[from];
                in_range[lane] = u64::from(ok);
                if dirty[1] || dirty[2] {
                    control[lane] = ctx.origin(self.b, lane).or(ctx.origin(self.c, lane));
                }
                origins[lane] = control[lane];
                if lanes >> from & 1 == 0 {
                    clean = false;
                    origins[lane] = origins[lane].or(stranger);
                } else if dirty[0] {
                    origins[lane] = origins[lane].or(ctx.origin(self.a, from));
                }
            }
        }
        for (dst, values, origins) in [(self.dst, &values, &origins), (self.pred, &in_range, &control)] {
            match dst {
                Some(dst) if clean => ctx.warp.set_row(dst, ctx.mask, values),
                Some(dst) => ctx.write_origins(dst, values, origins),
                None => {}
            }
        }
        Flow::Next
    }
}

/// `shfl.sync.mode.b32 d{|p}, a, b, c, membermask`.
fn decode_shfl(d: &mut Decoder<'_>) -> Result<Op> {
    const MODES: &[(&str, Shuffle)] = &[
        ("up", Shuffle::Up),
        ("down", Shuffle::Down),
        ("bfly", Shuffle::Butterfly),
        ("idx", Shuffle::Index),
    ];
    d.take("sync");
    let mode = d.need_one("a mode", MODES)?;
    if d.ty()? != Ty::B32 {
        return d.error("needs b32");
    }
    let (dst, pred) = destinations(d, Ty::B32, true)?;
    let [a, b, c, member] =
        [d.value(1, Ty::B32)?, d.value(2, Ty::B32)?, d.value(3, Ty::B32)?, d.value(4, Ty::B32)?];
    d.finish(5)?;
    Ok(Box::new(Shfl { mode, dst, pred, a, b, c, member }))
}

/// Results of a collective.
struct Outputs {
    values: [u64; LANES],
    preds: [u64; LANES],
}

/// A collective instruction. Poison of any lane of a group poisons all.
struct Group<C> {
    dst: Option<Reg>,
    pred: Option<Reg>,
    a: Src,
    member: Src,
    f: C,
}

impl<C: Fn(u32, &[u64; LANES], &mut Outputs) + Send + Sync> Execute for Group<C> {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let groups = meet(ctx, self.member, Where::Here);
        let a = ctx.row(self.a);
        let mut out = Outputs { values: [0; LANES], preds: [0; LANES] };
        let mut origins = [Origin::CLEAN; LANES];
        let dirty = ctx.any_dirty(&[self.a]);
        for lanes in groups {
            (self.f)(lanes, &a, &mut out);
            if dirty {
                let origin = each(lanes).fold(Origin::CLEAN, |o, l| o.or(ctx.origin(self.a, l)));
                each(lanes).for_each(|l| origins[l] = origin);
            }
        }
        for (dst, values) in [(self.dst, &out.values), (self.pred, &out.preds)] {
            if let Some(dst) = dst {
                ctx.write_origins(dst, values, &origins);
            }
        }
        Flow::Next
    }
}

fn collective(
    dst: Option<Reg>,
    pred: Option<Reg>,
    a: Src,
    member: Src,
    f: impl Fn(u32, &[u64; LANES], &mut Outputs) + Send + Sync + 'static,
) -> Result<Op> {
    Ok(Box::new(Group { dst, pred, a, member, f }))
}

/// `vote.sync.mode.pred d, {!}a, membermask`, `vote.sync.ballot.b32 d, {!}a, membermask`.
fn decode_vote(d: &mut Decoder<'_>) -> Result<Op> {
    /// Result from the lanes of the group and those whose predicate is true.
    type Vote = fn(u32, u32) -> u64;
    const MODES: &[(&str, Vote)] = &[
        // Lanes of the group, lanes whose predicate is true.
        ("all", |lanes, yes| u64::from(lanes == yes)),
        ("any", |_, yes| u64::from(yes != 0)),
        ("uni", |lanes, yes| u64::from(yes == 0 || yes == lanes)),
        ("ballot", |_, yes| u64::from(yes)),
    ];
    d.take("sync");
    let is_ballot = d.rest().contains(&"ballot");
    let f = d.need_one("a mode", MODES)?;
    let ty = d.ty()?;
    if ty != if is_ballot { Ty::B32 } else { Ty::Pred } {
        return d.error("`.ballot` needs b32, the others need pred");
    }
    let dst = d.dst(0, ty)?;
    let ((a, negated), member) = (d.pred(1)?, d.value(2, Ty::B32)?);
    d.finish(3)?;
    collective(Some(dst), None, a, member, move |lanes, a, out| {
        let yes = each(lanes).fold(0u32, |y, l| y | u32::from((a[l] & 1 == 1) != negated) << l);
        each(lanes).for_each(|l| out.values[l] = f(lanes, yes));
    })
}

/// `match.any.sync.type d, a, membermask`, `match.all.sync.type d{|p}, a, membermask`.
fn decode_match(d: &mut Decoder<'_>) -> Result<Op> {
    d.take("sync");
    let all = d.need_one("`.any` or `.all`", &[("any", false), ("all", true)])?;
    let ty = d.ty()?;
    if !matches!(ty, Ty::B32 | Ty::B64) {
        return d.error("needs b32 or b64");
    }
    let (dst, pred) = destinations(d, Ty::B32, all)?;
    let (a, member) = (d.value(1, ty)?, d.value(2, Ty::B32)?);
    d.finish(3)?;
    collective(dst, pred, a, member, move |lanes, a, out| {
        for l in each(lanes) {
            let equal = each(lanes).fold(0u32, |m, o| m | u32::from(a[o] == a[l]) << o);
            let value = if all && equal != lanes { 0 } else { equal };
            out.values[l] = u64::from(value);
            out.preds[l] = u64::from(equal == lanes);
        }
    })
}

/// `redux.sync.op.type d, a, membermask`: u32, s32, b32; `.min` and `.max` with `{.abs}{.NaN}` in f32.
fn decode_redux(d: &mut Decoder<'_>) -> Result<Op> {
    #[derive(Clone, Copy, PartialEq)]
    enum Reduction {
        Add,
        Min,
        Max,
        And,
        Or,
        Xor,
    }
    const OPS: &[(&str, Reduction)] = &[
        ("add", Reduction::Add),
        ("min", Reduction::Min),
        ("max", Reduction::Max),
        ("and", Reduction::And),
        ("or", Reduction::Or),
        ("xor", Reduction::Xor),
    ];
    use Reduction::{Add, And, Max, Min, Or, Xor};
    d.take("sync");
    let op = d.need_one("an operation", OPS)?;
    let (abs, nan) = (d.take("abs"), d.take("NaN"));
    let ty = d.ty()?;
    let how = MinMax { is_min: op == Min, nan, abs, xorsign: false };
    let fits = match ty {
        Ty::U32 | Ty::S32 => matches!(op, Add | Min | Max),
        Ty::B32 => matches!(op, And | Or | Xor),
        Ty::F32 => matches!(op, Min | Max),
        _ => false,
    };
    if !fits || (abs || nan) && ty != Ty::F32 {
        return d.error(format!("has no such form for {ty:?}"));
    }
    let (dst, a, member) = (d.dst(0, ty)?, d.value(1, ty)?, d.value(2, Ty::B32)?);
    d.finish(3)?;
    let f = move |x: u64, y: u64| match (op, ty) {
        (Min | Max, Ty::F32) => how.pick(32, 0x7f80_0000, NAN32, x, y),
        (Min, Ty::S32) => u64::from((x as i32).min(y as i32) as u32),
        (Max, Ty::S32) => u64::from((x as i32).max(y as i32) as u32),
        (Add, _) => (x + y) & 0xffff_ffff,
        (Min, _) => x.min(y),
        (Max, _) => x.max(y),
        (And, _) => x & y,
        (Or, _) => x | y,
        (Xor, _) => x ^ y,
    };
    collective(Some(dst), None, a, member, move |lanes, a, out| {
        // A lone lane's value goes through the operation too: `.abs`, NaN.
        let alone = |x: u64| if ty == Ty::F32 { f(x, x) } else { x };
        let total = each(lanes).map(|l| a[l]).reduce(f).map(alone).unwrap_or(0);
        each(lanes).for_each(|l| out.values[l] = total);
    })
}

/// `elect.sync d|p, membermask`: the lowest lane of the mask that has not exited.
fn decode_elect(d: &mut Decoder<'_>) -> Result<Op> {
    d.take("sync");
    if !matches!(d.operand(0)?, Operand::Pair(..)) {
        return d.error("needs the destinations `d|p`");
    }
    let (dst, pred) = destinations(d, Ty::B32, true)?;
    let member = d.value(1, Ty::B32)?;
    d.finish(2)?;
    collective(dst, pred, Src::Imm(0), member, |lanes, _, out| {
        let leader = lanes.trailing_zeros();
        for l in each(lanes) {
            out.values[l] = u64::from(leader);
            out.preds[l] = u64::from(l as u32 == leader);
        }
    })
}

struct BarWarp {
    member: Src,
}

impl Execute for BarWarp {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        for lanes in meet(ctx, self.member, Where::Anywhere) {
            ctx.warp.sync_epoch += 1;
            let (cta, warp) = (ctx.cluster.ctas[ctx.cta].rank, ctx.warp.index as u32);
            let object = Object::Warp(cta, warp, ctx.warp.sync_epoch);
            each(lanes).for_each(|lane| hooks::thread_release(ctx, lane, object, Scope::Warp));
            each(lanes).for_each(|lane| hooks::thread_acquire(ctx, lane, object, Scope::Warp));
        }
        Flow::Next
    }
}

/// `bar.warp.sync membermask`.
fn decode_bar_warp(d: &mut Decoder<'_>) -> Result<Op> {
    d.take("warp");
    d.take("sync");
    let member = d.value(0, Ty::B32)?;
    d.finish(1)?;
    Ok(Box::new(BarWarp { member }))
}

struct ActiveMask {
    dst: Reg,
}

impl Execute for ActiveMask {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let mask = u64::from(ctx.mask);
        ctx.map(self.dst, [], |[]| mask);
        Flow::Next
    }
}

/// `activemask.b32 d`.
fn decode_activemask(d: &mut Decoder<'_>) -> Result<Op> {
    if d.ty()? != Ty::B32 {
        return d.error("needs b32");
    }
    let dst = d.dst(0, Ty::B32)?;
    d.finish(1)?;
    Ok(Box::new(ActiveMask { dst }))
}
