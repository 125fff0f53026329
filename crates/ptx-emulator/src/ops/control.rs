//! Control flow: `bra`, `brx.idx`, `ret`, `exit`, `trap`, and what calls are made of (PTX ISA 9.7.12).

use super::{Entry, root};
use crate::check::Class;
use crate::decode::{Decoder, Execute, Op, Result, Src};
use crate::machine::{Ctx, Flow};
use crate::program::Reg;

pub(super) const TABLE: &[Entry] = &[
    root("bra", decode_bra),
    root("exit", decode_exit),
    root("ret", decode_exit),
    root("trap", decode_trap),
];

struct Bra {
    target: u32,
}

impl Execute for Bra {
    fn execute(&self, _: &mut Ctx<'_>) -> Flow {
        Flow::Jump(self.target)
    }
}

struct Exit;

impl Execute for Exit {
    fn execute(&self, _: &mut Ctx<'_>) -> Flow {
        Flow::Exit
    }
}

struct Trap;

impl Execute for Trap {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let lane = ctx.mask.trailing_zeros() as usize;
        ctx.finding(Class::Trap, lane, "trap executed".to_owned(), None);
        Flow::Abort
    }
}

/// A jump to a code index: `ret` of a function, and around a call whose guard does not hold.
pub(crate) fn jump(target: u32) -> Op {
    Box::new(Bra { target })
}

/// Sends every lane on its way; lanes that go where the first one goes do it together. A lane that has nowhere to go
/// has been reported.
fn go(ctx: &mut Ctx<'_>, target: impl Fn(&mut Ctx<'_>, usize) -> Option<u32>) -> Flow {
    let mut first = None;
    for lane in ctx.lanes() {
        let Some(to) = target(ctx, lane) else { return Flow::Abort };
        if *first.get_or_insert(to) != to {
            ctx.warp.pc[lane] = to;
            ctx.mask &= !(1 << lane);
        }
    }
    first.map_or(Flow::Next, Flow::Jump)
}

struct BranchIndexed {
    index: Src,
    targets: Vec<u32>,
}

impl Execute for BranchIndexed {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        go(ctx, |ctx, lane| {
            let origin = ctx.origin(self.index, lane);
            if !origin.is_clean() {
                ctx.report_poison(origin, lane, "the index of a branch");
            }
            let index = ctx.get(self.index, lane) as u32;
            let target = self.targets.get(index as usize).copied();
            if target.is_none() {
                let message = format!("index {index} into a list of {} labels", self.targets.len());
                ctx.finding(Class::Undefined, lane, message, None);
            }
            target
        })
    }
}

/// `brx.idx` (PTX ISA 9.7.12.4).
pub(crate) fn branch_indexed(index: Src, targets: Vec<u32>) -> Op {
    Box::new(BranchIndexed { index, targets })
}

struct CallIf {
    pointer: Src,
    address: u64,
    next: u32,
}

impl Execute for CallIf {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let body = ctx.pc + 1;
        go(ctx, |ctx, lane| {
            let origin = ctx.origin(self.pointer, lane);
            if !origin.is_clean() {
                ctx.report_poison(origin, lane, "the pointer of a call");
            }
            Some(if ctx.get(self.pointer, lane) == self.address { body } else { self.next })
        })
    }
}

/// In front of a callee of a call through a pointer: other pointers go on to the next callee.
pub(crate) fn call_if(pointer: Src, address: u64, next: u32) -> Op {
    Box::new(CallIf { pointer, address, next })
}

struct BadCall;

impl Execute for BadCall {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        let lane = ctx.mask.trailing_zeros() as usize;
        let message =
            "a call through a pointer to none of its targets (recursion is not modelled)".to_owned();
        ctx.finding(Class::Undefined, lane, message, None);
        Flow::Abort
    }
}

/// Behind the last callee of a call through a pointer.
pub(crate) fn bad_call() -> Op {
    Box::new(BadCall)
}

struct CopyRegister {
    dst: Reg,
    src: Src,
}

impl Execute for CopyRegister {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        ctx.map(self.dst, [self.src], |[a]| a);
        Flow::Next
    }
}

/// A parameter in a register.
pub(crate) fn copy_register(dst: Reg, src: Src) -> Op {
    Box::new(CopyRegister { dst, src })
}

/// `bra{.uni} label`.
fn decode_bra(d: &mut Decoder<'_>) -> Result<Op> {
    d.take("uni");
    let target = d.label(0)?;
    d.finish(1)?;
    Ok(Box::new(Bra { target }))
}

/// `ret{.uni}` of an entry, `exit`.
fn decode_exit(d: &mut Decoder<'_>) -> Result<Op> {
    d.take("uni");
    d.finish(0)?;
    Ok(Box::new(Exit))
}

/// `trap`.
fn decode_trap(d: &mut Decoder<'_>) -> Result<Op> {
    d.finish(0)?;
    Ok(Box::new(Trap))
}
